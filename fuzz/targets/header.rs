//! Bytes → the walk over a header, and everything that a sound file offers.
#![no_main]

use std::io;
use std::sync::Arc;

use infer::gguf::{Bytes, File, Json, Value};
use infer_fuzz::{plain, within};
use libfuzzer_sys::{Corpus, fuzz_target};

fuzz_target!(|data: &[u8]| -> Corpus {
    // The least that a table's row takes is 37 bytes; what is made of it is larger.
    within(16 * data.len() + 4096, || walk(data));
    Corpus::Keep
});

fn walk(data: &[u8]) {
    match File::parse(Bytes::Owned(Arc::from(data))) {
        Ok(file) => read(&file),
        Err(e) => plain(&e),
    }
}

fn read(file: &File) {
    for (key, value) in file.metadata() {
        assert!(!key.is_empty());
        assert_eq!(file.get(key).map(|v| v.ty()), Some(value.ty()));
        if let Value::Array(array) = value {
            if let Some(strings) = array.strings() {
                assert_eq!(strings.count(), array.len());
            }
            if let Some(scalars) = array.scalars() {
                assert_eq!(scalars.count(), array.len());
            }
        }
        let _ = (value.as_u64(), value.as_f32(), value.as_bool(), value.as_str());
    }
    serde_json::to_writer(io::sink(), &Json(file)).expect("JSON");
    let mut end = file.data_start();
    let mut ranges: Vec<_> = file.tensors().iter().map(|t| (t.offset, t.bytes)).collect();
    ranges.sort_unstable();
    for (offset, bytes) in ranges {
        assert!(offset >= end && bytes > 0);
        end = offset + bytes;
        assert!(end <= file.size());
    }
    for tensor in file.tensors() {
        assert_eq!(file.tensor(&tensor.name), Some(tensor));
        assert_eq!(file.data(tensor).len() as u64, tensor.bytes);
        assert!(tensor.offset.is_multiple_of(file.alignment().into()));
        let blocks = tensor.elements() / tensor.ty.block_elements() as u64;
        assert_eq!(tensor.bytes, blocks * tensor.ty.block_bytes() as u64);
    }
}
