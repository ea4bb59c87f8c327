//! Qwen3, dense: query and key heads are normed; RoPE turns halves.

use crate::Result;
use crate::model::keys::Keys;
use crate::model::spec::{Pairing, Spec};

pub(super) fn spec(keys: &Keys<'_>) -> Result<Spec> {
    let spec = Spec::common("qwen3", keys, Pairing::Halves)?;
    Ok(Spec { head_norms: true, ..spec })
}
