//! Reads memory and does nothing else: what a device can do at most.

use super::source::Source;
use super::{Form, Shader};

/// The shader. Its immediate is the number of 16-byte words to read; 0 makes a dispatch that only
/// waits for the one before.
pub fn shader(form: Form) -> Shader {
    let source = Source::new(form).build("probe.wgsl");
    Shader { name: "probe", source, bindings: vec![(0, false), (1, true)], immediates: 4 }
}
