//! Phi-3 and 3.5: query, key and value rows are one tensor, gate and up are another; RoPE's
//! factors for short and long contexts are tensors too, and a magnitude is a key.

use super::common::{self, by_context, windows};
use crate::Result;
use crate::model::keys::Keys;
use crate::model::spec::{Pairing, Spec};

pub(super) fn spec(keys: &Keys<'_>) -> Result<Spec> {
    let mut spec = common::decoder("phi3", keys, Pairing::Halves)?;
    windows(keys, &mut spec, 0, 0)?;
    Ok(Spec { divisors: by_context(keys), ..spec })
}
