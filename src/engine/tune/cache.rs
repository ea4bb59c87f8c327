//! What tuning found, kept between runs: a small JSON file for each adapter, driver, arithmetic and
//! version of this program.
//!
//! It only saves time. A file that is missing, damaged or of something else says nothing, and what
//! is said is checked against the device before it is used.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::atomic_file::AtomicFile;
use crate::engine::Options;
use crate::engine::device::Gpu;
use crate::kernels::gemv::Knobs;
use crate::{Error, Result, environment};

/// Everything that decides what is fastest, but for the product.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Identity {
    /// Version and commit.
    pub(super) program: String,
    pub(super) adapter: String,
    pub(super) vendor: u32,
    pub(super) device: u32,
    pub(super) backend: String,
    pub(super) driver: String,
    pub(super) math: String,
    /// What the kernels use of the device.
    pub(super) forms: Vec<String>,
}

impl Identity {
    pub(super) fn of(gpu: &Gpu, adapter: &wgpu::AdapterInfo, options: &Options) -> Identity {
        let forms = [
            ("subgroups", gpu.form.subgroups),
            ("f16", gpu.form.native_f16),
            ("coherent", gpu.form.inline_merge),
            ("checked", options.forms.checked),
        ];
        Identity {
            program: crate::VERSION.to_owned(),
            adapter: gpu.name.clone(),
            vendor: adapter.vendor,
            device: adapter.device,
            backend: adapter.backend.to_string(),
            driver: gpu.driver.clone(),
            math: gpu.form.math.to_string(),
            forms: forms.into_iter().filter(|f| f.1).map(|f| f.0.to_owned()).collect(),
        }
    }

    /// A file's name that people recognise and that no other identity has.
    fn file_name(&self) -> String {
        let words = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
        let name: String = self.adapter.chars().take(40).map(words).collect();
        let hash = Sha256::digest(serde_json::to_vec(self).unwrap_or_default());
        let hash: String = hash.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        format!("{name}-{}-{hash}.json", self.math)
    }
}

/// What was found of a product.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Entry {
    threads: usize,
    tiles: usize,
    unroll: usize,
    teams: usize,
    /// A dispatch, in µs. For people.
    us: f64,
    /// By the built-in rules.
    built_in_us: f64,
}

impl Entry {
    pub(super) fn new(knobs: Knobs, us: f64, built_in_us: f64) -> Entry {
        let Knobs { threads, tiles, unroll, teams } = knobs;
        Entry { threads, tiles, unroll, teams, us, built_in_us }
    }

    /// The knobs, as they stand in the file.
    pub(super) fn knobs(&self) -> Knobs {
        Knobs { threads: self.threads, tiles: self.tiles, unroll: self.unroll, teams: self.teams }
    }
}

/// What was found, by product.
pub(super) type Entries = BTreeMap<String, Entry>;

/// A file's contents.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Contents {
    of: Identity,
    products: Entries,
}

/// Bytes of the largest file that is read: one has some hundred for a product.
const MOST: u64 = 1 << 20;

/// The file of an identity. It need not exist.
pub(super) struct Cache {
    path: PathBuf,
    of: Identity,
}

impl Cache {
    pub(super) fn new(folder: &Path, of: Identity) -> Cache {
        Cache { path: folder.join(of.file_name()), of }
    }

    #[cfg(test)]
    fn path(&self) -> &Path {
        &self.path
    }

    /// What it says: nothing, where it is not what was once written for this identity.
    pub(super) fn read(&self) -> Entries {
        let contents = || -> Option<Contents> {
            let file = std::fs::metadata(&self.path).ok()?;
            let small = file.is_file() && file.len() <= MOST;
            let bytes = if small { std::fs::read(&self.path).ok()? } else { return None };
            serde_json::from_slice(&bytes).ok()
        };
        contents().filter(|c| c.of == self.of).map(|c| c.products).unwrap_or_default()
    }

    /// Puts it into the place of what was there, so that nobody ever reads half of it: two programs
    /// may be at it.
    pub(super) fn write(&self, entries: &Entries) -> Result<()> {
        let place = self.path.display();
        let failed = |e: std::io::Error| Error::Other(format!("{place}: {e}"));
        if let Some(folder) = self.path.parent() {
            std::fs::create_dir_all(folder).map_err(failed)?;
        }
        let contents = Contents { of: self.of.clone(), products: entries.clone() };
        let text = serde_json::to_string_pretty(&contents).map_err(|e| failed(e.into()))?;
        let mut file = AtomicFile::create(place.to_string(), &self.path)?;
        file.write(text.as_bytes())?;
        file.write(b"\n")?;
        file.commit()
    }
}

/// The folder where this program keeps what it found: `INFER_CACHE_DIR`, else `infer` in the
/// platform's folder for such; `None` where there is none.
pub fn folder() -> Option<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let home = |below: &str| set("HOME").map(|home| home.join(below));
    if let Some(own) = environment::get().ok().and_then(|environment| environment.cache_folder.clone()) {
        return Some(own);
    }
    let caches = if cfg!(windows) {
        set("LOCALAPPDATA")
    } else if cfg!(target_os = "macos") {
        home("Library/Caches")
    } else {
        // A relative path is to be ignored, says its specification.
        set("XDG_CACHE_HOME").filter(|path| path.is_absolute()).or_else(|| home(".cache"))
    };
    caches.map(|caches| caches.join("infer"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> Identity {
        Identity {
            program: "1".to_owned(),
            adapter: "A GPU/π".to_owned(),
            vendor: 2,
            device: 3,
            backend: "vulkan".to_owned(),
            driver: "driver 4".to_owned(),
            math: "int16".to_owned(),
            forms: vec!["subgroups".to_owned()],
        }
    }

    fn entries() -> Entries {
        let entry = |threads| Entry::new(Knobs { threads, tiles: 1, unroll: 2, teams: 1 }, 1.25, 1.5);
        [("rows".to_owned(), entry(64)), ("gated".to_owned(), entry(128))].into()
    }

    #[test]
    fn what_is_written_is_read_by_the_same_alone() {
        let folder = tempfile::tempdir().unwrap();
        let below = folder.path().join("not/there/yet");
        let cache = Cache::new(&below, identity());
        assert!(cache.read().is_empty());
        cache.write(&entries()).unwrap();
        assert_eq!(cache.read(), entries());
        // Once more, over what is there; nothing else is left in the folder.
        let fewer: Entries = entries().into_iter().take(1).collect();
        cache.write(&fewer).unwrap();
        assert_eq!(cache.read(), fewer);
        assert_eq!(std::fs::read_dir(&below).unwrap().count(), 1);
        let name = cache.path().file_name().unwrap().to_str().unwrap();
        assert!(name.starts_with("a-gpu---int16-") && name.ends_with(".json"), "{name}");

        let others = [
            Identity { program: "2".to_owned(), ..identity() },
            Identity { adapter: "A GPU π".to_owned(), ..identity() },
            Identity { vendor: 9, ..identity() },
            Identity { device: 9, ..identity() },
            Identity { backend: "metal".to_owned(), ..identity() },
            Identity { driver: "driver 5".to_owned(), ..identity() },
            Identity { math: "int8".to_owned(), ..identity() },
            Identity { forms: vec![], ..identity() },
        ];
        for other in others {
            let other = Cache::new(&below, other);
            assert!(other.read().is_empty(), "{:?}", other.of);
            // Nor under that one's name.
            std::fs::copy(cache.path(), other.path()).unwrap();
            assert!(other.read().is_empty(), "{:?}", other.of);
        }
    }

    #[test]
    fn damage_says_nothing_and_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::new(folder.path(), identity());
        cache.write(&entries()).unwrap();
        let whole = std::fs::read(cache.path()).unwrap();
        let text = String::from_utf8(whole.clone()).unwrap();
        let damaged = [
            Vec::new(),
            whole[..whole.len() / 2].to_vec(),
            vec![0xff; 100],
            b"{}".to_vec(),
            b"[1]".to_vec(),
            vec![b'['; 100_000],
            text.replace("64", "-64").into_bytes(),
            text.replace("64", "6.4").into_bytes(),
            text.replace("64", "18446744073709551616").into_bytes(),
            text.replace("\"threads\"", "\"lanes\"").into_bytes(),
            // Sound, but nobody wrote that much.
            [whole.clone(), vec![b' '; MOST as usize]].concat(),
        ];
        for bytes in damaged {
            std::fs::write(cache.path(), &bytes).unwrap();
            assert!(cache.read().is_empty(), "{:?}", &bytes[..bytes.len().min(300)]);
            cache.write(&entries()).unwrap();
            assert_eq!(cache.read(), entries());
        }
        // What is no file is not waited for.
        std::fs::remove_file(cache.path()).unwrap();
        std::fs::create_dir(cache.path()).unwrap();
        assert!(cache.read().is_empty());
        assert!(cache.write(&entries()).is_err());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "a temporary file is left");
    }

    #[test]
    fn where_nothing_can_be_written_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        // A file in the folder's place stops root, too.
        let taken = folder.path().join("taken");
        std::fs::write(&taken, "").unwrap();
        let cache = Cache::new(&taken.join("below"), identity());
        assert!(cache.write(&entries()).is_err());
        assert!(cache.read().is_empty());
    }
}
