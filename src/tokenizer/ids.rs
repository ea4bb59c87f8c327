//! Text → id, for vocabularies of hundreds of thousands of tokens.

use std::hash::{BuildHasher, Hasher, RandomState};

use super::vocab::damaged;
use crate::Result;

/// No id.
const NONE: u32 = u32::MAX;

/// A table of ids by the hash of their text. The texts stay where they are; a slot has half of
/// the hash, so that few but the one that is looked for are ever compared.
pub(super) struct Ids {
    hasher: RandomState,
    /// Half of a hash, and an id. A power of two of them, at most half of them taken.
    slots: Vec<(u32, u32)>,
    /// No two ids have the same text.
    pub(super) unique: bool,
}

impl Ids {
    /// Of several ids with the same text, the last is found.
    pub(super) fn new(texts: &[&[u8]]) -> Ids {
        let slots = vec![(0, NONE); texts.len().saturating_mul(2).next_power_of_two().max(2)];
        let mut ids = Ids { hasher: RandomState::new(), slots, unique: true };
        for (id, text) in (0u32..).zip(texts) {
            let (slot, half) = ids.slot(text, |id| texts[id as usize]);
            ids.unique &= ids.slots[slot].1 == NONE;
            ids.slots[slot] = (half, id);
        }
        ids
    }

    /// The id of a text, where `text_of` gives that of an id.
    pub(super) fn find<'a>(&self, text: &[u8], text_of: impl Fn(u32) -> &'a [u8]) -> Option<u32> {
        let (slot, _) = self.slot(text, text_of);
        Some(self.slots[slot].1).filter(|id| *id != NONE)
    }

    /// The slot that has a text, or that it would get, and half of its hash.
    #[allow(clippy::cast_possible_truncation, reason = "two halves")]
    fn slot<'a>(&self, text: &[u8], text_of: impl Fn(u32) -> &'a [u8]) -> (usize, u32) {
        let mut hasher = self.hasher.build_hasher();
        hasher.write(text);
        let hash = hasher.finish();
        let (half, mask) = (hash as u32, self.slots.len() - 1);
        let mut slot = (hash >> 32) as usize & mask;
        loop {
            let (other, id) = self.slots[slot];
            if id == NONE || (other == half && text_of(id) == text) {
                return (slot, half);
            }
            slot = (slot + 1) & mask;
        }
    }
}

/// A table with texts of its own, in one piece.
pub(super) struct Words {
    bytes: Vec<u8>,
    ends: Vec<u32>,
    ids: Ids,
}

impl Words {
    /// The texts of ids from 0 on; `append` puts each behind the others.
    ///
    /// # Errors
    /// For more bytes than are counted.
    pub(super) fn new(texts: &[&[u8]], append: impl Fn(&[u8], &mut Vec<u8>)) -> Result<Words> {
        let mut bytes = Vec::new();
        let mut ends = Vec::with_capacity(texts.len());
        for text in texts {
            append(text, &mut bytes);
            ends.push(u32::try_from(bytes.len()).map_err(|_| damaged("the tokens exceed 4 GiB"))?);
        }
        let list: Vec<&[u8]> = (0u32..).zip(&ends).map(|(id, _)| text_of(&bytes, &ends, id)).collect();
        let ids = Ids::new(&list);
        Ok(Words { bytes, ends, ids })
    }

    /// The id of a text.
    pub(super) fn find(&self, text: &[u8]) -> Option<u32> {
        self.ids.find(text, |id| text_of(&self.bytes, &self.ends, id))
    }
}

/// The bytes of an id in a list of texts without gaps; nothing for an id that is not there.
pub(super) fn text_of<'a>(bytes: &'a [u8], ends: &[u32], id: u32) -> &'a [u8] {
    let id = id as usize;
    let start = id.checked_sub(1).and_then(|i| ends.get(i)).copied().unwrap_or(0);
    let Some(end) = ends.get(id) else { return &[] };
    bytes.get(start as usize..*end as usize).unwrap_or(&[])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_text_is_found_and_no_other() {
        let texts: Vec<String> = (0..3000).map(|i| format!("t{}", i % 2000)).collect();
        let list: Vec<&[u8]> = texts.iter().map(String::as_bytes).collect();
        let ids = Ids::new(&list);
        let find = |text: &str| ids.find(text.as_bytes(), |id| list[id as usize]);
        assert!(!ids.unique && Ids::new(&list[..2000]).unique);
        for i in 0..2000 {
            let last = if i < 1000 { i + 2000 } else { i };
            assert_eq!(find(&format!("t{i}")), Some(last));
        }
        assert_eq!((find("t2000"), find("")), (None, None));
        assert_eq!(Ids::new(&[]).find(b"", |_| &[]), None);
    }
}
