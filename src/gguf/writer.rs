//! Writes GGUF files: for tests, and for whatever makes models.

use crate::quant::Type;

/// Builds a file in memory. Version 3, alignment 32.
#[derive(Default)]
pub struct Writer {
    keys: u64,
    metadata: Vec<u8>,
    tensors: u64,
    infos: Vec<u8>,
    data: Vec<u8>,
}

const ALIGNMENT: usize = 32;

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
        self.tensors = self.tensors.saturating_add(1);
        string(&mut self.infos, name.as_bytes());
        self.infos.extend(u32::try_from(shape.len()).unwrap_or(u32::MAX).to_le_bytes());
        self.infos.extend(shape.iter().flat_map(|d| d.to_le_bytes()));
        self.infos.extend((ty as u32).to_le_bytes());
        pad(&mut self.data);
        self.infos.extend((self.data.len() as u64).to_le_bytes());
        self.data.extend(data);
        self
    }

    /// The file's bytes.
    pub fn finish(&self) -> Vec<u8> {
        let mut out = b"GGUF".to_vec();
        out.extend(3u32.to_le_bytes());
        out.extend(self.tensors.to_le_bytes());
        out.extend(self.keys.to_le_bytes());
        out.extend(&self.metadata);
        out.extend(&self.infos);
        pad(&mut out);
        out.extend(&self.data);
        out
    }
}

/// The types of the keys by which parts of a split model know each other.
impl Writer {
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
}
