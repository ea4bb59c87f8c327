//! What stands beside a fixture: prompts, and what an exact engine makes of them.
#![allow(dead_code, reason = "every test binary takes what it needs")]

use std::ops::ControlFlow;
use std::path::Path;

use infer::engine::Engine;
use safetensors::SafeTensors;

/// See the module's documentation.
pub(crate) struct Golden(Vec<u8>);

impl Golden {
    pub(crate) fn of(path: &Path) -> Golden {
        Golden(std::fs::read(path.with_extension("golden.safetensors")).unwrap())
    }

    pub(crate) fn ids(&self, name: &str) -> Vec<u32> {
        let file = SafeTensors::deserialize(&self.0).unwrap();
        let tensor = file.tensor(name).unwrap();
        tensor.data().as_chunks::<4>().0.iter().map(|b| u32::from_le_bytes(*b)).collect()
    }

    pub(crate) fn floats(&self, name: &str) -> Vec<f32> {
        self.ids(name).into_iter().map(f32::from_bits).collect()
    }
}

/// The root mean square of the difference over that of what is wanted.
pub(crate) fn relative(got: &[f32], want: &[f32]) -> f64 {
    let sum = |f: &dyn Fn(usize) -> f64| (0..want.len()).map(f).sum::<f64>();
    let error = sum(&|i| (f64::from(got[i]) - f64::from(want[i])).powi(2));
    (error / sum(&|i| f64::from(want[i]).powi(2))).sqrt()
}

/// The logits after each of `ids`, row after row.
pub(crate) fn all_logits(engine: &mut dyn Engine, ids: &[u32]) -> Vec<f32> {
    let mut all = Vec::new();
    let mut keep = |row: &[f32]| {
        all.extend_from_slice(row);
        Ok(())
    };
    engine.logits(ids, true, &mut |_, _| ControlFlow::Continue(()), &mut keep).unwrap();
    all
}
