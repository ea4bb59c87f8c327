//! OLMo 2 and 3: branches read the stream as it is and are normed behind; queries and keys are
//! normed whole. OLMo 3 has windows in three layers of four, whose RoPE is not scaled.

use super::common::{self, local_rope, windows};
use crate::Result;
use crate::model::keys::Keys;
use crate::model::spec::{Block, HeadNorms, Pairing, Spec};

pub(super) fn spec(keys: &Keys<'_>) -> Result<Spec> {
    let mut spec = common::decoder("olmo2", keys, Pairing::Halves)?;
    windows(keys, &mut spec, 0, 4)?;
    let base = spec.ropes[0].base;
    local_rope(keys, &mut spec, base)?;
    let block = Block { before: None, after: true, ..spec.block };
    Ok(Spec { block, head_norms: HeadNorms::Whole, optional: &[], ..spec })
}
