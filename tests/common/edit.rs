//! Fixtures with more in them than they had: keys in front of theirs, tensors behind theirs.
#![allow(dead_code, reason = "every test binary takes what it needs")]

use infer::gguf::writer::Writer;
use infer::gguf::{File, Value};

/// A file, and what is added to it.
pub(crate) struct Edit {
    bytes: Vec<u8>,
    pub(crate) file: File,
    keys: Vec<Vec<u8>>,
    tensors: Vec<(Vec<u8>, Vec<u8>)>,
}

/// A value of a key, as the format has it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Set {
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    Text(&'static str),
    U64(u64),
    U32s(&'static [u32]),
}

impl Set {
    fn stored(self) -> Vec<u8> {
        let of = |ty: u32, value: &[u8]| [&ty.to_le_bytes()[..], value].concat();
        match self {
            Set::U32(v) => of(4, &v.to_le_bytes()),
            Set::I32(v) => of(5, &v.to_le_bytes()),
            Set::F32(v) => of(6, &v.to_le_bytes()),
            Set::Bool(v) => of(7, &[v.into()]),
            Set::Text(v) => of(8, &text(v)),
            Set::U64(v) => of(10, &v.to_le_bytes()),
            Set::U32s(values) => {
                let head = [&4u32.to_le_bytes()[..], &(values.len() as u64).to_le_bytes()].concat();
                let values: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
                of(9, &[head, values].concat())
            }
        }
    }
}

fn text(value: &str) -> Vec<u8> {
    [&(value.len() as u64).to_le_bytes()[..], value.as_bytes()].concat()
}

impl Edit {
    pub(crate) fn of(bytes: Vec<u8>) -> Edit {
        let file = File::parse(bytes.clone()).unwrap();
        Edit { bytes, file, keys: vec![], tensors: vec![] }
    }

    pub(crate) fn key(mut self, key: &str, value: Set) -> Edit {
        self.keys.push([text(key), value.stored()].concat());
        self
    }

    /// A tensor of F32: dimensions as in a file, fastest first.
    pub(crate) fn tensor(mut self, name: &str, dims: &[u64], value: f32) -> Edit {
        let sizes = dims.iter().flat_map(|d| d.to_le_bytes());
        let info: Vec<u8> = text(name)
            .into_iter()
            .chain((dims.len() as u32).to_le_bytes())
            .chain(sizes)
            .chain(0u32.to_le_bytes())
            .collect();
        let elements = dims.iter().product::<u64>() as usize;
        self.tensors.push((info, value.to_le_bytes().repeat(elements)));
        self
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let align = self.file.alignment() as usize;
        let pad = |bytes: &mut Vec<u8>| bytes.resize(bytes.len().next_multiple_of(align), 0);
        let last = self.file.tensors().last().unwrap();
        let name = last.name.as_bytes();
        let at = self.bytes.windows(name.len()).position(|w| w == name).unwrap();
        let end = at + name.len() + 4 + 8 * last.n_dims + 12;
        let mut data = self.bytes[self.file.data_start() as usize..].to_vec();
        let count = |at: usize, more: usize| {
            let old = u64::from_le_bytes(self.bytes[at..at + 8].try_into().unwrap());
            (old + more as u64).to_le_bytes()
        };
        let mut out = self.bytes[..8].to_vec();
        out.extend(count(8, self.tensors.len()));
        out.extend(count(16, self.keys.len()));
        out.extend(self.keys.concat());
        out.extend(&self.bytes[24..end]);
        for (info, values) in &self.tensors {
            pad(&mut data);
            out.extend(info);
            out.extend((data.len() as u64).to_le_bytes());
            data.extend(values);
        }
        pad(&mut out);
        out.extend(data);
        out
    }

    /// What has come of it.
    pub(crate) fn made(&self) -> File {
        File::parse(self.bytes()).unwrap()
    }
}

/// Copies all metadata but some keys.
pub(crate) fn copy_metadata(from: &File, to: &mut Writer, but: &[&str]) {
    for (key, value) in from.metadata().filter(|(key, _)| !but.contains(key)) {
        match value {
            Value::String(_) => to.str(key, value.as_str().unwrap()),
            Value::U32(v) => to.u32(key, v),
            Value::F32(v) => to.f32(key, v),
            Value::Bool(v) => to.bool(key, v),
            Value::Array(a) => match (a.strings(), a.floats(), a.integers()) {
                (Some(strings), _, _) => to.strings(key, &strings.collect::<Vec<_>>()),
                (_, Some(floats), _) => to.f32s(key, &floats),
                (_, _, Some(integers)) => {
                    to.i32s(key, &integers.iter().map(|i| i32::try_from(*i).unwrap()).collect::<Vec<_>>())
                }
                _ => panic!("{key}"),
            },
            other => panic!("{key}: {other:?}"),
        };
    }
}
