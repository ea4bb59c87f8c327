//! What the targets share: they count memory, and hold it against the size of their input.

#[path = "../../tests/common/counting.rs"]
mod counting;

/// Does something that may hold at most so many bytes at a time, those of all threads counted.
pub fn within<T>(most: usize, f: impl FnOnce() -> T) -> T {
    let (result, held) = counting::held(f);
    assert!(held <= most, "{held} bytes were held at a time; {most} should be enough");
    result
}

/// An error's text is for one line of a terminal.
pub fn plain(error: &dyn std::fmt::Display) {
    let text = error.to_string();
    assert!(!text.is_empty() && !text.contains(char::is_control), "{text:?}");
    assert!(text.len() < 2000, "{} bytes of error", text.len());
}
