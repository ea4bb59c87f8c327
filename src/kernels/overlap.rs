//! The trial of stages that overlap: each workgroup waits for words of the stage before, and leaves one
//! of its own.

use super::source::Source;
use super::{Form, POLLS, Shader};

/// Workgroups of a stage, of 256 lanes: some times what the largest devices run at once.
pub const WORKGROUPS: u32 = 4096;

/// The shader: a stage.
pub fn shader(form: Form) -> Shader {
    let mut source = Source::new(Form { overlapped: true, polls: POLLS, ..form });
    source.set("WORKGROUPS", WORKGROUPS);
    let bindings = vec![(0, true), (1, true)];
    Shader { name: "overlap_probe", source: source.build("overlap_probe.wgsl"), bindings, immediates: 0 }
}

/// The twin: what each workgroup of a stage leaves, counted from 1; before all there are ones.
pub fn twin(stage: u32) -> u32 {
    1 + stage
}
