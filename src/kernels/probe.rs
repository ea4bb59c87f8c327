//! Reads memory and does nothing else: what a device can do at most.

use super::Shader;

/// The kernel of `probe.wgsl`. Its immediate is the number of 16-byte words to read; 0 makes a
/// dispatch that only waits for the one before.
pub struct Probe;

impl Probe {
    /// Its shader.
    pub fn shader() -> Shader {
        let source = super::source::plain("probe.wgsl");
        Shader { name: "probe", source, bindings: vec![(0, false), (1, true)], immediates: 4 }
    }
}
