//! Writes GGUF files: for tests, and for whatever makes models.
//!
//! A small file is built in memory, with [`Writer::tensor`] and [`Writer::finish`]. A large one is
//! streamed: its tensors are announced, [`Writer::header`] is written, and their data follow.

use crate::quant::Type;

/// Builds a file, or its header. Version 3, alignment 32.
#[derive(Default)]
pub struct Writer {
    keys: u64,
    metadata: Vec<u8>,
    tensors: u64,
    infos: Vec<u8>,
    /// Bytes of all tensors so far, those that are only announced included.
    size: u64,
    data: Vec<u8>,
}

/// Every tensor's data begin at a multiple of it.
const ALIGNMENT: usize = 32;

/// Zero bytes that belong behind so many bytes of data, so that the next tensor is aligned.
pub fn padding(bytes: u64) -> &'static [u8] {
    let behind = bytes.next_multiple_of(ALIGNMENT as u64).saturating_sub(bytes);
    // Less than an alignment.
    &[0; ALIGNMENT][..behind as usize]
}

fn string(out: &mut Vec<u8>, s: &[u8]) {
    out.extend((s.len() as u64).to_le_bytes());
    out.extend(s);
}

fn pad(out: &mut Vec<u8>) {
    out.resize(out.len().next_multiple_of(ALIGNMENT), 0);
}

impl Writer {
    /// An empty file.
    pub fn new() -> Writer {
        Writer::default()
    }

    fn key(&mut self, key: &str, ty: u32) {
        self.keys = self.keys.saturating_add(1);
        string(&mut self.metadata, key.as_bytes());
        self.metadata.extend(ty.to_le_bytes());
    }

    /// Adds a string.
    pub fn str(&mut self, key: &str, value: &str) -> &mut Self {
        self.key(key, 8);
        string(&mut self.metadata, value.as_bytes());
        self
    }

    /// Adds a u32.
    pub fn u32(&mut self, key: &str, value: u32) -> &mut Self {
        self.key(key, 4);
        self.metadata.extend(value.to_le_bytes());
        self
    }

    /// Adds a u16.
    pub fn u16(&mut self, key: &str, value: u16) -> &mut Self {
        self.key(key, 2);
        self.metadata.extend(value.to_le_bytes());
        self
    }

    /// Adds an i32.
    pub fn i32(&mut self, key: &str, value: i32) -> &mut Self {
        self.key(key, 5);
        self.metadata.extend(value.to_le_bytes());
        self
    }

    /// Adds an f32.
    pub fn f32(&mut self, key: &str, value: f32) -> &mut Self {
        self.key(key, 6);
        self.metadata.extend(value.to_le_bytes());
        self
    }

    /// Adds a bool.
    pub fn bool(&mut self, key: &str, value: bool) -> &mut Self {
        self.key(key, 7);
        self.metadata.push(value.into());
        self
    }

    /// Adds an array of strings.
    pub fn strings<S: AsRef<[u8]>>(&mut self, key: &str, values: &[S]) -> &mut Self {
        self.key(key, 9);
        self.metadata.extend(8u32.to_le_bytes());
        self.metadata.extend((values.len() as u64).to_le_bytes());
        for v in values {
            string(&mut self.metadata, v.as_ref());
        }
        self
    }

    /// Adds an array of i32.
    pub fn i32s(&mut self, key: &str, values: &[i32]) -> &mut Self {
        self.key(key, 9);
        self.metadata.extend(5u32.to_le_bytes());
        self.metadata.extend((values.len() as u64).to_le_bytes());
        self.metadata.extend(values.iter().flat_map(|v| v.to_le_bytes()));
        self
    }

    /// Adds an array of f32.
    pub fn f32s(&mut self, key: &str, values: &[f32]) -> &mut Self {
        self.key(key, 9);
        self.metadata.extend(6u32.to_le_bytes());
        self.metadata.extend((values.len() as u64).to_le_bytes());
        self.metadata.extend(values.iter().flat_map(|v| v.to_le_bytes()));
        self
    }

    /// Adds a tensor. `shape` is fastest first; `data` is its blocks.
    pub fn tensor(&mut self, name: &str, ty: Type, shape: &[u64], data: &[u8]) -> &mut Self {
        self.info(name, ty, shape, data.len() as u64);
        pad(&mut self.data);
        self.data.extend(data);
        self
    }

    /// Adds a tensor without its data: they are to be written behind [`Writer::header`], in the
    /// order of these calls, each followed by its [`padding`]. `shape` is fastest first, and its
    /// rows are whole blocks.
    pub fn announce(&mut self, name: &str, ty: Type, shape: &[u64]) -> &mut Self {
        let elements = shape.iter().fold(1, |n: u64, d| n.saturating_mul(*d));
        let blocks = elements.checked_div(ty.block_elements() as u64).unwrap_or(0);
        self.info(name, ty, shape, blocks.saturating_mul(ty.block_bytes() as u64))
    }

    fn info(&mut self, name: &str, ty: Type, shape: &[u64], bytes: u64) -> &mut Self {
        self.tensors = self.tensors.saturating_add(1);
        string(&mut self.infos, name.as_bytes());
        self.infos.extend(u32::try_from(shape.len()).unwrap_or(u32::MAX).to_le_bytes());
        self.infos.extend(shape.iter().flat_map(|d| d.to_le_bytes()));
        self.infos.extend((ty as u32).to_le_bytes());
        let offset = self.size.next_multiple_of(ALIGNMENT as u64);
        self.infos.extend(offset.to_le_bytes());
        self.size = offset.saturating_add(bytes);
        self
    }

    /// Everything in front of the data, padding included.
    pub fn header(&self) -> Vec<u8> {
        let mut out = b"GGUF".to_vec();
        out.extend(3u32.to_le_bytes());
        out.extend(self.tensors.to_le_bytes());
        out.extend(self.keys.to_le_bytes());
        out.extend(&self.metadata);
        out.extend(&self.infos);
        pad(&mut out);
        out
    }

    /// The bytes of a file whose tensors came with their data.
    pub fn finish(&self) -> Vec<u8> {
        let mut out = self.header();
        out.extend(&self.data);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_streamed_file_is_the_one_built_in_memory() {
        let tensors: [(&str, Type, &[u64], usize); 3] =
            [("a", Type::F32, &[3], 12), ("b", Type::Q4_K, &[256, 3], 432), ("c", Type::F16, &[32, 2], 128)];
        let (mut whole, mut head) = (Writer::new(), Writer::new());
        for writer in [&mut whole, &mut head] {
            writer.u16("split.no", 7).i32("n", -1).str("s", "x");
        }
        let mut data = Vec::new();
        for (i, (name, ty, shape, bytes)) in (1u8..).zip(tensors) {
            whole.tensor(name, ty, shape, &vec![i; bytes]);
            head.announce(name, ty, shape);
            data.extend(vec![i; bytes]);
            data.extend(padding(bytes as u64));
        }
        let streamed = [head.header(), data].concat();
        assert_eq!(streamed, whole.finish());
        assert_eq!((padding(0).len(), padding(1).len(), padding(64).len()), (0, 31, 0));
    }
}
