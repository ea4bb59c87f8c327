//! Writing files that appear under their names only when they are whole.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// A file under way: it is written beside its name, and gone if it is not finished.
pub(super) struct WholeFile {
    /// What errors call it.
    place: String,
    /// Where it is written, and what becomes of it; no second step for a device or a pipe.
    rename: Option<(PathBuf, PathBuf)>,
    /// Until it is closed.
    file: Option<BufWriter<File>>,
}

impl WholeFile {
    /// Begins a file. `place` is what errors call it: a flag, say, and the path.
    ///
    /// # Errors
    /// [`Error::Usage`] for a path that can be no file's, otherwise the operating system's.
    pub(super) fn create(place: String, path: &Path) -> Result<WholeFile> {
        // A link stays one: the file that it leads to is replaced.
        let target = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let meta = std::fs::metadata(&target).ok();
        if meta.as_ref().is_some_and(std::fs::Metadata::is_dir) {
            return Err(Error::Usage(format!("{place}: is a directory")));
        }
        let Some(name) = target.file_name() else {
            return Err(Error::Usage(format!("{place}: is no file's name")));
        };
        let special = meta.is_some_and(|m| !m.is_file());
        let rename = (!special).then(|| {
            let mut name = name.to_owned();
            name.push(format!(".{}.tmp", std::process::id()));
            (target.with_file_name(name), target.clone())
        });
        let file = File::create(rename.as_ref().map_or(&target, |(beside, _)| beside));
        let file = file.map_err(|e| failed(&place, &e))?;
        Ok(WholeFile { place, rename, file: Some(BufWriter::new(file)) })
    }

    /// Writes more of it.
    ///
    /// # Errors
    /// The operating system's: a full disk, say.
    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let Some(file) = &mut self.file else {
            return Err(Error::Other(format!("{}: is closed", self.place)));
        };
        file.write_all(bytes).map_err(|e| failed(&self.place, &e))
    }

    /// Ends writing, so that no handle is held until [`WholeFile::finish`].
    ///
    /// # Errors
    /// As [`WholeFile::write`]'s.
    pub(super) fn close(&mut self) -> Result<()> {
        self.file.take().map_or(Ok(()), |mut file| file.flush()).map_err(|e| failed(&self.place, &e))
    }

    /// Gives it its name.
    ///
    /// # Errors
    /// As [`WholeFile::write`]'s.
    pub(super) fn finish(mut self) -> Result<()> {
        self.close()?;
        match self.rename.take() {
            Some((beside, target)) => std::fs::rename(&beside, target)
                .inspect_err(|_| remove(&beside))
                .map_err(|e| failed(&self.place, &e)),
            None => Ok(()),
        }
    }
}

impl Drop for WholeFile {
    fn drop(&mut self) {
        if let Some((beside, _)) = &self.rename {
            remove(beside);
        }
    }
}

/// Removes what is half a file. That it cannot be removed is not worth another error.
fn remove(path: &Path) {
    let _ = std::fs::remove_file(path);
}

fn failed(place: &str, e: &io::Error) -> Error {
    Error::Other(format!("{place}: {e}"))
}
