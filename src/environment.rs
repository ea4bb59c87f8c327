//! The environment's variables that are this program's own, `INFER_…`. All are read here, once; one
//! that is known and has a value that it cannot have is an error, and others are somebody else's.

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::LazyLock;

use crate::{Error, Result};

/// What the variables say.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Environment {
    /// Other forms of the kernels than the device's best.
    pub(crate) forms: Forms,
    /// Where what tuning found is kept (`INFER_CACHE_DIR`).
    pub(crate) cache_folder: Option<PathBuf>,
}

/// Which forms of the kernels to use instead of the device's best: for tests, and where a driver
/// is at fault.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Forms {
    /// Without subgroup operations (`INFER_NO_SUBGROUPS=1`).
    pub no_subgroups: bool,
    /// Without F16 arithmetic (`INFER_NO_F16=1`).
    pub no_f16: bool,
    /// Without memory that workgroups of a dispatch share (`INFER_NO_COHERENT=1`).
    pub no_coherent: bool,
    /// With the device's barriers between all stages (`INFER_NO_OVERLAP=1`): see `overlap.rs`.
    pub no_overlap: bool,
    /// As where a compiler may write a vector whole of which one component is meant, which those of Metal
    /// and DirectX may (`INFER_WHOLE_VECTORS=1`).
    pub whole_vectors: bool,
    /// How often an overlapping stage looks for what the stage before makes until it gives up
    /// (`INFER_POLLS`): few, or none, to see what becomes of that.
    pub polls: Option<u32>,
    /// With bounds checks in shaders (`INFER_CHECKED=1`).
    pub checked: bool,
    /// The most bytes of weights that a binding may have, below the device's own limit
    /// (`INFER_MAX_BINDING`): larger matrices are split by rows.
    pub max_binding: Option<u64>,
}

impl Forms {
    /// As the environment says. What it may not say keeps every engine from being opened.
    pub fn from_env() -> Forms {
        get().map(|environment| environment.forms).unwrap_or_default()
    }
}

/// What the variables say, whenever it is asked what they said at first.
///
/// # Errors
/// [`Error::Usage`] with the first variable whose value it cannot have.
pub(crate) fn get() -> Result<&'static Environment> {
    static READ: LazyLock<Result<Environment, String>> =
        LazyLock::new(|| Environment::read(|name| std::env::var_os(name)));
    READ.as_ref().map_err(|why| Error::Usage(why.clone()))
}

impl Environment {
    /// A variable that is empty is as one that is not set.
    fn read(value: impl Fn(&str) -> Option<OsString>) -> Result<Environment, String> {
        let value = |name| value(name).filter(|value| !value.is_empty());
        let refuse = |name: &str, value: OsString, right: &str| {
            // Whatever it has, it is one line.
            Err(format!("environment: {name}={}: must be {right}", value.to_string_lossy().escape_debug()))
        };
        let flag = |name| match value(name) {
            None => Ok(false),
            Some(value) if value == "0" => Ok(false),
            Some(value) if value == "1" => Ok(true),
            Some(value) => refuse(name, value, "1 (on) or 0 (off)").map(|()| false),
        };
        let number = |name, least: u64, most: u64, right: &str| match value(name) {
            None => Ok(None),
            Some(value) => match value.to_str().and_then(|text| text.parse().ok()) {
                Some(number) if (least..=most).contains(&number) => Ok(Some(number)),
                _ => refuse(name, value, right).map(|()| None),
            },
        };
        let polls = number("INFER_POLLS", 0, u32::MAX.into(), "a number from 0 to 4294967295")?;
        Ok(Environment {
            forms: Forms {
                no_subgroups: flag("INFER_NO_SUBGROUPS")?,
                no_f16: flag("INFER_NO_F16")?,
                no_coherent: flag("INFER_NO_COHERENT")?,
                no_overlap: flag("INFER_NO_OVERLAP")?,
                whole_vectors: flag("INFER_WHOLE_VECTORS")?,
                polls: polls.map(|polls| polls as u32),
                checked: flag("INFER_CHECKED")?,
                max_binding: number("INFER_MAX_BINDING", 1, u64::MAX, "a number of bytes, from 1")?,
            },
            cache_folder: value("INFER_CACHE_DIR").map(PathBuf::from),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(set: &[(&str, &str)]) -> Result<Environment, String> {
        Environment::read(|name| set.iter().find(|(n, _)| *n == name).map(|(_, value)| value.into()))
    }

    type Flag = fn(&Forms) -> bool;

    #[test]
    fn values_are_what_they_may_be() {
        let none = Environment::default();
        assert_eq!(read(&[]).unwrap(), none);
        // Others are left alone, whatever they are.
        assert_eq!(read(&[("INFER_NO_SUCH", "x"), ("NO_F16", "x"), ("INFER_SHARED", "x")]).unwrap(), none);
        let flags: [(&str, Flag); 6] = [
            ("INFER_WHOLE_VECTORS", |forms| forms.whole_vectors),
            ("INFER_NO_SUBGROUPS", |forms| forms.no_subgroups),
            ("INFER_NO_F16", |forms| forms.no_f16),
            ("INFER_NO_COHERENT", |forms| forms.no_coherent),
            ("INFER_NO_OVERLAP", |forms| forms.no_overlap),
            ("INFER_CHECKED", |forms| forms.checked),
        ];
        for (name, of) in flags {
            let on = read(&[(name, "1")]).unwrap();
            assert!(of(&on.forms), "{name}");
            assert_ne!(on, none);
            for off in ["0", ""] {
                assert_eq!(read(&[(name, off)]).unwrap(), none, "{name}");
            }
            for bad in ["yes", "true", "2", " 1", "-1"] {
                let line = read(&[(name, bad)]).unwrap_err();
                assert!(line.contains(&format!("{name}={bad}: must be 1")), "{line}");
            }
        }
        let most = |value| read(&[("INFER_MAX_BINDING", value)]).map(|e| e.forms.max_binding);
        assert_eq!(most("20000").unwrap(), Some(20_000));
        assert_eq!(most("").unwrap(), None);
        for bad in ["0", "-5", "1e6", "64k", "18446744073709551616", "a\nb"] {
            let line = most(bad).unwrap_err();
            assert!(
                line.contains("INFER_MAX_BINDING=") && line.contains("bytes") && !line.contains('\n'),
                "{line}"
            );
        }
        let polls = |value| read(&[("INFER_POLLS", value)]).map(|e| e.forms.polls);
        assert_eq!((polls("0").unwrap(), polls("4294967295").unwrap()), (Some(0), Some(u32::MAX)));
        assert!(polls("4294967296").is_err() && polls("-1").is_err());
        let folder = read(&[("INFER_CACHE_DIR", "any where")]).unwrap().cache_folder;
        assert_eq!(folder, Some(PathBuf::from("any where")));
    }
}
