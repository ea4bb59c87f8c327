//! What a file is that is no GGUF file: people give what they have, and should hear what that is.

/// What bytes are, in words, and what to do; `None` where nobody can tell.
pub(super) fn recognise(bytes: &[u8]) -> Option<(&'static str, &'static str)> {
    const CONVERT: &str = "convert the model to GGUF, or fetch it in that format";
    const UNPACK: &str = "unpack it, and give the GGUF file in it";
    const AGAIN: &str = "fetch the file itself again";
    const OLD: &str = "convert the model again with a current converter";
    let begins = |with: &[u8]| bytes.starts_with(with);
    let has = |what: &[u8]| head(bytes).windows(what.len()).any(|w| w == what);
    Some(match bytes {
        _ if begins(b"version https://git-lfs") => {
            ("a pointer of Git LFS", "`git lfs pull` fetches the file itself")
        }
        _ if is_page(bytes) => ("a web page", AGAIN),
        _ if is_safetensors(bytes) => ("a safetensors file", CONVERT),
        _ if begins(b"PK\x03\x04") && has(b"data.pkl") => ("a PyTorch checkpoint", CONVERT),
        _ if begins(b"PK\x03\x04") => ("a ZIP archive", UNPACK),
        _ if is_pickle(bytes) => ("a Python pickle, as old PyTorch checkpoints are", CONVERT),
        _ if begins(b"\x1f\x8b") => ("compressed with gzip", UNPACK),
        _ if begins(b"\x28\xb5\x2f\xfd") => ("compressed with zstd", UNPACK),
        _ if begins(b"\xfd7zXZ\0") => ("compressed with xz", UNPACK),
        _ if begins(b"BZh") => ("compressed with bzip2", UNPACK),
        _ if begins(b"7z\xbc\xaf\x27\x1c") => ("a 7-Zip archive", UNPACK),
        _ if begins(b"Rar!\x1a\x07") => ("a RAR archive", UNPACK),
        _ if bytes.get(257..262) == Some(b"ustar") => ("a tar archive", UNPACK),
        _ if begins(b"\x89HDF\r\n") => ("an HDF5 file, as Keras writes", CONVERT),
        _ if begins(b"\x93NUMPY") => ("a NumPy array", CONVERT),
        _ if bytes.get(4..8) == Some(b"TFL3") => ("a TensorFlow Lite model", CONVERT),
        // Magic numbers of 32 bits, written as little-endian.
        _ if begins(b"lmgg") => ("a GGML file from before GGUF", OLD),
        _ if begins(b"fmgg") => ("a GGMF file from before GGUF", OLD),
        _ if begins(b"tjgg") => ("a GGJT file from before GGUF", OLD),
        _ if begins(b"algg") => ("an adapter from before GGUF", OLD),
        _ if is_json(bytes) && has(b"schemaVersion") => {
            ("a manifest, which names the files of a model", "give the blob of the model that it names")
        }
        _ if is_json(bytes) => ("a JSON text", "give the model's weights, in GGUF"),
        _ if bytes.len() >= ZEROS && head(bytes).iter().all(|b| *b == 0) => {
            ("full of zeros, as a download is that has not come far", AGAIN)
        }
        _ => return None,
    })
}

/// Zeros that are more than chance.
const ZEROS: usize = 64;

/// As much as is looked at.
fn head(bytes: &[u8]) -> &[u8] {
    &bytes[..bytes.len().min(4096)]
}

/// Text without what may stand in front of it.
fn text(bytes: &[u8]) -> &[u8] {
    let bytes = head(bytes);
    bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes).trim_ascii_start()
}

fn is_page(bytes: &[u8]) -> bool {
    let begins = |with: &[u8]| text(bytes).get(..with.len()).is_some_and(|b| b.eq_ignore_ascii_case(with));
    begins(b"<!doctype") || begins(b"<html") || begins(b"<?xml")
}

fn is_json(bytes: &[u8]) -> bool {
    let Some(rest) = text(bytes).strip_prefix(b"{") else { return false };
    matches!(rest.trim_ascii_start().first(), Some(b'"' | b'}'))
}

/// A header's length, then the header: JSON.
fn is_safetensors(bytes: &[u8]) -> bool {
    let Some((length, rest)) = bytes.split_first_chunk::<8>() else { return false };
    (2..100 << 20).contains(&u64::from_le_bytes(*length)) && rest.starts_with(b"{\"")
}

/// The protocol's number, then an opcode: a frame, or what a checkpoint begins with.
fn is_pickle(bytes: &[u8]) -> bool {
    matches!(bytes, [0x80, 2..=5, 0x95 | 0x8a | b'}' | b'c' | b'(' | b']', ..])
}

#[cfg(test)]
mod tests {
    use super::recognise;

    #[test]
    fn what_people_give_is_named() {
        let zip = |inner: &str| [b"PK\x03\x04", &[0; 26][..], inner.as_bytes()].concat();
        let safetensors = [&16u64.to_le_bytes()[..], br#"{"__metadata__":{}"#].concat();
        let tar = [&[b'a'; 257][..], b"ustar\0"].concat();
        let cases: &[(&[u8], &str)] = &[
            (b"version https://git-lfs.github.com/spec/v1\noid sha256:12", "Git LFS"),
            (b"\xef\xbb\xbf \n<!DOCTYPE HTML><title>404</title>", "web page"),
            (b"<?xml version=\"1.0\"?><Error><Code>AccessDenied</Code></Error>", "web page"),
            (&safetensors, "safetensors"),
            (&zip("archive/data.pkl"), "PyTorch"),
            (&zip("model.gguf"), "ZIP"),
            (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", "pickle"),
            (b"\x1f\x8b\x08\0", "gzip"),
            (b"\x28\xb5\x2f\xfd\x24", "zstd"),
            (b"\xfd7zXZ\0\0\x04", "xz"),
            (b"BZh91AY&SY", "bzip2"),
            (&tar, "tar"),
            (b"tjgg\x03\0\0\0", "GGJT"),
            (b"lmgg\x01\0\0\0", "GGML"),
            (br#"{ "schemaVersion": 2, "mediaType": "x" }"#, "manifest"),
            (br#"{"architectures":["LlamaForCausalLM"]}"#, "JSON"),
            (&[0; 100], "zeros"),
        ];
        for (bytes, what) in cases {
            let found = recognise(bytes).unwrap_or_else(|| panic!("{what} is not recognised"));
            assert!(found.0.contains(what), "{what}: {found:?}");
        }
        for unknown in [&b"GGUF"[..], b"", b"{", b"\0\0", b"hello", b"\x80\x02", b"PK"] {
            assert_eq!(recognise(unknown), None, "{unknown:?}");
        }
    }
}
