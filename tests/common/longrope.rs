//! Files of LongRoPE models in which one set of RoPE's factors stands in the place of another.
#![allow(dead_code, reason = "every test binary takes what it needs")]

use std::path::Path;

use infer::gguf::File;

/// The factors of texts up to the original context.
pub(crate) const SHORT: &str = "rope_factors_short.weight";
/// Those of longer ones.
pub(crate) const LONG: &str = "rope_factors_long.weight";

/// The file with these sets in the places of the short and of the long one.
pub(crate) fn with_factors(path: &Path, [short, long]: [&str; 2]) -> File {
    let file = File::open(path).unwrap();
    let mut bytes = std::fs::read(path).unwrap();
    for (place, set) in [(SHORT, short), (LONG, long)] {
        let factors = file.data(file.tensor(set).unwrap());
        let at = usize::try_from(file.tensor(place).unwrap().offset).unwrap();
        bytes[at..at + factors.len()].copy_from_slice(factors);
    }
    File::parse(bytes).unwrap()
}
