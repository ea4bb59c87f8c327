//! Typed access to an architecture's metadata keys, with errors that name them, and an account of
//! those that nobody has asked for.

use std::cell::RefCell;
use std::collections::HashSet;

use crate::gguf::{File, Value};
use crate::{Error, Result};

/// Sizes beyond this are damage, not models.
const MAX_SIZE: u64 = 1 << 24;
/// Positions beyond this are damage, and no number that kernels count with. No memory is taken by a model's
/// own context, only by the one that is asked for.
const MAX_CONTEXT: u64 = i32::MAX as u64;

/// The keys of one architecture: `NAME.key`.
pub(super) struct Keys<'a> {
    file: &'a File,
    architecture: &'a str,
    /// Keys without the architecture's name whose values have been looked for.
    asked: RefCell<HashSet<String>>,
}

impl<'a> Keys<'a> {
    /// The keys of a file's architecture.
    pub(super) fn new(file: &'a File, architecture: &'a str) -> Keys<'a> {
        Keys { file, architecture, asked: RefCell::default() }
    }

    /// A key's whole name.
    pub(super) fn name(&self, key: &str) -> String {
        format!("{}.{key}", self.architecture)
    }

    /// A value, if the key is there.
    pub(super) fn get(&self, key: &str) -> Option<Value<'a>> {
        self.asked.borrow_mut().insert(key.to_owned());
        self.file.get(&self.name(key))
    }

    /// Keys that say nothing here, whatever their values: as good as read.
    pub(super) fn say_nothing(&self, keys: &[&str]) {
        self.asked.borrow_mut().extend(keys.iter().map(|key| (*key).to_owned()));
    }

    /// What the file says of the architecture and nobody has asked for, without its name.
    pub(super) fn unread(&self) -> Vec<(&'a str, Value<'a>)> {
        let asked = self.asked.borrow();
        let of_it = |(key, value): (&'a str, Value<'a>)| {
            let key = key.strip_prefix(self.architecture)?.strip_prefix('.')?;
            (!asked.contains(key)).then_some((key, value))
        };
        let heeded = self.file.metadata().filter(|(key, _)| !self.file.ignores(key));
        heeded.filter_map(of_it).collect()
    }

    /// An error about a key's value.
    pub(super) fn bad(&self, key: &str, why: impl std::fmt::Display) -> Error {
        Error::Unsupported(format!("metadata key {}: {why}", self.name(key)))
    }

    /// An error about something of the architecture that is not known here.
    pub(super) fn unsupported(&self, what: impl std::fmt::Display) -> Error {
        Error::Unsupported(format!("architecture {}: {what} is not supported", self.architecture))
    }

    fn missing(&self, key: &str) -> Error {
        Error::Unsupported(format!("metadata key {} is missing", self.name(key)))
    }

    /// A count of at least 1. Per-layer arrays are accepted where all layers agree.
    pub(super) fn size(&self, key: &str) -> Result<usize> {
        self.at_most(key, MAX_SIZE)
    }

    /// A number of positions, at least 1.
    pub(super) fn positions(&self, key: &str) -> Result<usize> {
        self.at_most(key, MAX_CONTEXT)
    }

    fn at_most(&self, key: &str, most: u64) -> Result<usize> {
        let value = self.get(key).ok_or_else(|| self.missing(key))?;
        let number = match value {
            Value::Array(array) => {
                let all = array.integers().unwrap_or_default();
                let layers = self.get("block_count").and_then(|v| v.as_u64());
                if layers.is_some_and(|layers| layers != all.len() as u64) {
                    return Err(
                        self.bad(key, format!("{} values for {} layers", all.len(), layers.unwrap_or(0)))
                    );
                }
                match all.split_first() {
                    Some((first, rest)) if rest.iter().all(|v| v == first) => u64::try_from(*first).ok(),
                    _ => return Err(self.unsupported(format!("{key} that differs between layers"))),
                }
            }
            other => other.as_u64(),
        };
        match number {
            Some(0) => Err(self.bad(key, "must not be 0")),
            Some(n) if n <= most => Ok(n as usize),
            Some(n) => Err(self.bad(key, format!("{n} is too large (up to {most} is possible)"))),
            None => Err(self.bad(key, format!("must be a positive integer, not {}", value.ty()))),
        }
    }

    /// As [`Keys::size`], with a default where the key is missing.
    pub(super) fn size_or(&self, key: &str, default: usize) -> Result<usize> {
        if self.get(key).is_none() { Ok(default) } else { self.size(key) }
    }

    /// A floating-point number.
    pub(super) fn f32(&self, key: &str) -> Result<f32> {
        let value = self.get(key).ok_or_else(|| self.missing(key))?;
        value.as_f32().ok_or_else(|| self.bad(key, format!("must be a float, not {}", value.ty())))
    }

    /// As [`Keys::f32`], with a default where the key is missing.
    pub(super) fn f32_or(&self, key: &str, default: f32) -> Result<f32> {
        if self.get(key).is_none() { Ok(default) } else { self.f32(key) }
    }

    /// As [`Keys::size_or`], where 0 has a meaning.
    pub(super) fn count_or(&self, key: &str, default: usize) -> Result<usize> {
        match self.get(key).and_then(|v| v.as_u64()) {
            Some(0) => Ok(0),
            _ => self.size_or(key, default),
        }
    }

    /// One flag for each of `len` layers, where the key has an array.
    pub(super) fn flags(&self, key: &str, len: usize) -> Result<Option<Vec<bool>>> {
        let Some(Value::Array(array)) = self.get(key) else { return Ok(None) };
        let flag = |v: Value<'_>| v.as_bool().or_else(|| v.as_u64().filter(|n| *n < 2).map(|n| n == 1));
        let flags = array.scalars().and_then(|all| all.map(flag).collect::<Option<Vec<bool>>>());
        match flags {
            Some(flags) if flags.len() == len => Ok(Some(flags)),
            Some(flags) => Err(self.bad(key, format!("{} flags for {len} layers", flags.len()))),
            None => Err(self.bad(key, "must be an integer or an array of bools")),
        }
    }

    /// A bool, with a default where the key is missing.
    pub(super) fn bool_or(&self, key: &str, default: bool) -> Result<bool> {
        match self.get(key) {
            None => Ok(default),
            Some(Value::Bool(b)) => Ok(b),
            Some(v) => Err(self.bad(key, format!("must be a bool, not {}", v.ty()))),
        }
    }

    /// A finite number of either sign, with a default where the key is missing.
    pub(super) fn scale(&self, key: &str, default: f32) -> Result<f32> {
        match self.f32_or(key, default)? {
            value if value.is_finite() => Ok(value),
            value => Err(self.bad(key, format!("{value} is no sensible number"))),
        }
    }

    /// A finite number above 0, with a default where the key is missing.
    pub(super) fn positive_or(&self, key: &str, default: f32) -> Result<f32> {
        match self.scale(key, default)? {
            value if value > 0.0 => Ok(value),
            value => Err(self.bad(key, format!("{value} is no sensible number"))),
        }
    }

    /// A string, with a default where the key is missing.
    pub(super) fn str_or(&self, key: &str, default: &'a str) -> Result<&'a str> {
        match self.get(key) {
            None => Ok(default),
            Some(v) => v.as_str().ok_or_else(|| self.bad(key, format!("must be text, not {}", v.ty()))),
        }
    }
}
