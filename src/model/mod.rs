//! What a file's tensors are for: metadata → [`Spec`] → [`Plan`].

pub mod arch;
mod ftype;
mod keys;
mod plan;
mod random;
pub mod rope;
mod spec;
mod synthetic;
mod weights;

pub use ftype::Ftype;
pub use plan::{Branch, Feed, Op, Plan};
pub(crate) use random::Random;
pub use rope::Factors;
pub use spec::{
    Activation, Block, Divisors, Experts, HeadNorms, Layer, Norm, Pairing, Rope, Scaling, Spec, Temperature,
};
pub(crate) use synthetic::random_rows;
pub use synthetic::{Key, Synthetic};
pub use weights::{Matrix, Vector, Weights};

use crate::Result;
use crate::gguf::File;

/// A model that can be run: its plan and where its weights are.
pub struct Model {
    /// The operations.
    pub plan: Plan,
    /// The tensors.
    pub weights: Weights,
}

impl Model {
    /// Reads and checks a file's model, without loading weights.
    ///
    /// # Errors
    /// [`crate::Error::Unsupported`], naming the key or tensor.
    pub fn from_file(file: File) -> Result<Model> {
        let spec = arch::spec(&file)?;
        let weights = Weights::File(file);
        let plan = Plan::new(spec, &weights)?;
        if let Weights::File(file) = &weights {
            plan.uses_all(file.tensors().iter().map(|t| t.name.as_str()))?;
        }
        Ok(Model { plan, weights })
    }

    /// A model of random weights.
    ///
    /// # Errors
    /// None for shapes that hang together.
    pub fn synthetic(synthetic: Synthetic) -> Result<Model> {
        let spec = synthetic.spec.clone();
        let weights = Weights::Synthetic(Box::new(synthetic));
        let plan = Plan::new(spec, &weights)?;
        Ok(Model { plan, weights })
    }
}
