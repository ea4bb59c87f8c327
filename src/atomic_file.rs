//! Files that appear under their names only when they are whole.
//!
//! A file is written beside its name, under a random one that nobody can have put a link at, and
//! renamed when it is finished. One that is not finished is removed: when it is dropped, and by
//! [`abandon_all`] when a signal ends the process. Nothing is synced: this is about programs that
//! end, not about machines that do.
//!
//! A name that leads to an open file, as `/dev/stdout` does, is no file's: others may write to it before and
//! behind us, and it may have no name at all. It is written to as it is, as a device or a pipe.

use std::fs::{File, Metadata};
use std::io::{self, BufWriter, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tempfile::TempPath;

use crate::{Error, Result};

/// Links that are followed from a name, as many as systems follow.
const MOST_LINKS: usize = 40;

/// The temporary files of this process. Whoever holds the lock makes, renames or removes one.
static UNFINISHED: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

fn unfinished() -> MutexGuard<'static, Vec<PathBuf>> {
    UNFINISHED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Removes all files that are not finished. From now on none can be begun or finished: the process
/// is about to end, and the lock is kept.
pub(crate) fn abandon_all() {
    let mut paths = unfinished();
    for path in paths.drain(..) {
        // That it cannot be removed changes nothing about the end.
        let _ = std::fs::remove_file(path);
    }
    std::mem::forget(paths);
}

/// A file under way.
pub(crate) struct AtomicFile {
    /// What errors call it.
    place: String,
    /// Until it is closed.
    file: Option<BufWriter<File>>,
    /// Where it is written, and what becomes of it; no second step for a device, a pipe or what is open.
    rename: Option<(TempPath, PathBuf)>,
}

impl AtomicFile {
    /// Begins a file. `place` is what errors call it: a flag, say, and the path. Links stay: what
    /// they lead to is written, whether it is there or not. Who may use a file that is replaced stays,
    /// too; who may not write to it does not replace it.
    ///
    /// # Errors
    /// [`Error::Usage`] for a path that can be no file's, otherwise the operating system's.
    pub(crate) fn create(place: String, path: &Path) -> Result<AtomicFile> {
        match begin(path) {
            Ok((file, rename)) => Ok(AtomicFile { place, file: Some(BufWriter::new(file)), rename }),
            Err(e) if matches!(e.kind(), ErrorKind::IsADirectory | ErrorKind::InvalidInput) => {
                Err(Error::Usage(format!("{place}: {e}")))
            }
            Err(e) => Err(failed(&place, &e)),
        }
    }

    /// Writes more of it.
    ///
    /// # Errors
    /// The operating system's: a full disk, say.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let Some(file) = &mut self.file else {
            return Err(Error::Other(format!("{}: is closed", self.place)));
        };
        file.write_all(bytes).map_err(|e| failed(&self.place, &e))
    }

    /// Ends writing, so that no handle is held until it gets its name.
    ///
    /// # Errors
    /// As [`AtomicFile::write`]'s.
    pub(crate) fn close(&mut self) -> Result<()> {
        self.file.take().map_or(Ok(()), |mut file| file.flush()).map_err(|e| failed(&self.place, &e))
    }

    /// Gives it its name.
    ///
    /// # Errors
    /// As [`AtomicFile::write`]'s.
    pub(crate) fn commit(self) -> Result<()> {
        AtomicFile::commit_all(vec![self])
    }

    /// Gives several files their names, of which a signal that ends the process lets all appear or
    /// none.
    ///
    /// # Errors
    /// As [`AtomicFile::write`]'s.
    pub(crate) fn commit_all(mut files: Vec<AtomicFile>) -> Result<()> {
        files.iter_mut().try_for_each(AtomicFile::close)?;
        let mut paths = unfinished();
        let renamed = files.iter_mut().try_for_each(|file| {
            let Some((temporary, target)) = file.rename.take() else { return Ok(()) };
            paths.retain(|path| *path != *temporary);
            // Where it fails the temporary file is removed with the error.
            temporary.persist(target).map_err(|e| failed(&file.place, &e.error))
        });
        // What is left of the files is dropped behind it, and needs the lock.
        drop(paths);
        renamed
    }
}

impl Drop for AtomicFile {
    fn drop(&mut self) {
        if let Some((temporary, _)) = self.rename.take() {
            let mut paths = unfinished();
            paths.retain(|path| *path != *temporary);
            drop(temporary);
        }
    }
}

/// Opens what is written, and says what becomes of it.
fn begin(path: &Path) -> io::Result<(File, Option<(TempPath, PathBuf)>)> {
    if let Some(file) = open_file(path)? {
        return Ok((file, None));
    }
    let old = match std::fs::metadata(path) {
        Ok(meta) => Some(meta),
        Err(e) if e.kind() == ErrorKind::NotFound => None,
        Err(e) => return Err(e),
    };
    match &old {
        Some(meta) if meta.is_dir() => return Err(io::Error::new(ErrorKind::IsADirectory, "is a directory")),
        Some(meta) if !meta.is_file() => return Ok((File::create(path)?, None)),
        _ => {}
    }
    let target = followed(path)?;
    let no_name = || io::Error::new(ErrorKind::InvalidInput, "is no file's name");
    target.file_name().ok_or_else(no_name)?;
    let folder = folder_of(&target);
    let mut builder = tempfile::Builder::new();
    // However long the target's name is, this one fits.
    builder.prefix(".infer-").suffix(".tmp").rand_bytes(12);
    if old.is_some() {
        File::options().write(true).open(&target)?;
    }
    let mut paths = unfinished();
    // Made here, as the errors of those that the builder makes name a file that nobody has asked for.
    let made = builder.make_in(folder, |path| make(path, old.is_some()));
    let (file, temporary) = made.map_err(|e| no_room(folder, &e))?.into_parts();
    paths.push(temporary.to_path_buf());
    drop(paths);
    let begun = old.map_or(Ok(()), |old| keep_access(&file, &old));
    match begun {
        Ok(()) => Ok((file, Some((temporary, target)))),
        Err(e) => {
            unfinished().retain(|path| *path != *temporary);
            Err(e)
        }
    }
}

/// The path that links lead to in the end. There need be nothing.
pub(crate) fn followed(path: &Path) -> io::Result<PathBuf> {
    let mut way = way(path);
    let end = way.pop().filter(|_| way.len() < MOST_LINKS);
    end.ok_or_else(|| io::Error::other("too many links lead on"))
}

/// A path and those that links lead to from it, one more than may be followed at most.
fn way(path: &Path) -> Vec<PathBuf> {
    let next = |path: &PathBuf| Some(path.with_file_name(std::fs::read_link(path).ok()?));
    std::iter::successors(Some(path.to_owned()), next).take(MOST_LINKS + 1).collect()
}

/// The folder that a path's last name is in.
fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."))
}

/// What a name leads to if that is an open file; `None` for any other name.
#[cfg(unix)]
fn open_file(path: &Path) -> io::Result<Option<File>> {
    match way(path).iter().find_map(|path| descriptor(path)) {
        Some((number, true)) => inherited(number).map(Some),
        // Where another process is in its file nobody tells us, but behind the end nothing is lost.
        Some((_, false)) => File::options().append(true).open(path).map(Some),
        None => Ok(None),
    }
}

/// The descriptor whose name this is, and whether it is one of this process.
#[cfg(unix)]
fn descriptor(path: &Path) -> Option<(libc::c_int, bool)> {
    let name = path.file_name()?.to_str()?;
    let number = name.parse().ok().filter(|number: &libc::c_int| number.to_string() == name)?;
    let folder = folder_of(path).canonicalize().ok()?;
    // By the same names as the folder's: the number of a process is not the same in every `/proc`.
    let is_self = |of: &str| {
        let own = Path::new("/proc/self").canonicalize();
        own.is_ok_and(|own| own.file_name().is_some_and(|own| own == of))
    };
    match folder.to_str()?.split('/').collect::<Vec<_>>()[..] {
        // Where this is no link it is a folder of descriptors itself.
        ["", "dev", "fd"] => Some((number, true)),
        ["", "proc", of, "fd"] | ["", "proc", of, "task", _, "fd"] => Some((number, is_self(of))),
        _ => None,
    }
}

/// The open file that was handed over to this process under a number. To open its path would be to
/// open it anew: from its beginning, and not from where it stands.
#[cfg(unix)]
fn inherited(number: libc::c_int) -> io::Result<File> {
    use std::os::fd::BorrowedFd;
    // SAFETY: these ask about a descriptor, which need not be one.
    let (flags, mode) = unsafe { (libc::fcntl(number, libc::F_GETFD), libc::fcntl(number, libc::F_GETFL)) };
    if flags < 0 || mode < 0 {
        return Err(io::Error::last_os_error());
    }
    if flags & libc::FD_CLOEXEC != 0 {
        // One that this process has opened for itself is nobody else's to name.
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    }
    if mode & libc::O_ACCMODE == libc::O_RDONLY {
        return Err(io::Error::new(ErrorKind::InvalidInput, "is open for reading only"));
    }
    // SAFETY: it was open just now, and nothing in this process closes what it was handed.
    let file = unsafe { BorrowedFd::borrow_raw(number) };
    file.try_clone_to_owned().map(File::from)
}

/// Open files have no names here.
#[cfg(not(unix))]
fn open_file(_path: &Path) -> io::Result<Option<File>> {
    Ok(None)
}

/// Says of a folder why no file can be made in it.
fn no_room(folder: &Path, e: &io::Error) -> io::Error {
    let place = folder.display();
    let is_missing = e.kind() == ErrorKind::NotFound && !folder.is_dir();
    let line = if is_missing {
        format!("the folder {place} is not there")
    } else {
        format!("the folder {place}: {e}")
    };
    // The kind is not handed on: it would be taken for the name's.
    io::Error::other(line)
}

/// A new file is for whom the process's mask lets it be; one that will replace another is the owner's
/// alone until it is for whom that was.
#[cfg(unix)]
fn make(path: &Path, is_replacing: bool) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    let mode = if is_replacing { 0o600 } else { 0o666 };
    File::options().write(true).create_new(true).mode(mode).open(path)
}

/// Gives a file the owner, where that is possible, and the mode of the one that it will replace.
#[cfg(unix)]
fn keep_access(file: &File, old: &Metadata) -> io::Result<()> {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};
    let new = file.metadata()?;
    let mut mode = old.mode() & 0o7777;
    let same = (new.uid(), new.gid()) == (old.uid(), old.gid());
    if !same && fchown(file, Some(old.uid()), Some(old.gid())).is_err() {
        // What another owner and group were allowed is not for these.
        mode &= 0o707;
    }
    file.set_permissions(std::fs::Permissions::from_mode(mode))
}

#[cfg(not(unix))]
fn make(path: &Path, _is_replacing: bool) -> io::Result<File> {
    File::options().write(true).create_new(true).open(path)
}

/// Access to a file is that to its folder here.
#[cfg(not(unix))]
fn keep_access(_file: &File, _old: &Metadata) -> io::Result<()> {
    Ok(())
}

fn failed(place: &str, e: &io::Error) -> Error {
    Error::Other(format!("{place}: {e}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(path: &Path, bytes: &[u8]) -> Result<()> {
        let mut file = AtomicFile::create(path.display().to_string(), path)?;
        file.write(bytes)?;
        file.commit()
    }

    fn names(folder: &Path) -> Vec<String> {
        let names = std::fs::read_dir(folder).unwrap();
        let mut names: Vec<String> = names.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_is_whole_or_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        write(&path, b"old").unwrap();
        let mut half = AtomicFile::create("a".to_owned(), &path).unwrap();
        half.write(b"new").unwrap();
        half.close().unwrap();
        assert_eq!(names(folder.path()).len(), 2);
        assert_eq!(half.write(b"more").unwrap_err().to_string(), "a: is closed");
        drop(half);
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
        assert_eq!(names(folder.path()), ["a"]);
        write(&path, b"new").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"new");
        assert_eq!(names(folder.path()), ["a"]);
        assert!(unfinished().iter().all(|path| !path.starts_with(folder.path())));
    }

    #[test]
    fn names_may_be_as_long_as_the_system_lets_them() {
        let folder = tempfile::tempdir().unwrap();
        let longest = "n".repeat(255);
        write(&folder.path().join(&longest), b"x").unwrap();
        assert_eq!(names(folder.path()), [longest]);
        assert_eq!(write(&folder.path().join("n".repeat(256)), b"x").unwrap_err().exit_code(), 1);
        assert_eq!(write(folder.path(), b"x").unwrap_err().exit_code(), 2);
        assert_eq!(write(&folder.path().join(".."), b"x").unwrap_err().exit_code(), 2);
        assert_eq!(write(Path::new(""), b"x").unwrap_err().exit_code(), 2);
        assert_eq!(names(folder.path()).len(), 1);
    }

    #[cfg(unix)]
    #[test]
    fn links_stay_and_lead_to_the_file() {
        use std::os::unix::fs::symlink;
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::create_dir(at("below")).unwrap();
        std::fs::write(at("there"), "old").unwrap();
        symlink("there", at("link")).unwrap();
        symlink("below/nowhere", at("dangling")).unwrap();
        symlink("dangling", at("twice")).unwrap();
        symlink(at("absolute-nowhere"), at("absolute")).unwrap();
        symlink("loop", at("loop")).unwrap();
        let links = ["link", "dangling", "twice", "absolute"];
        let files = ["there", "below/nowhere", "below/nowhere", "absolute-nowhere"];
        for (link, file) in links.into_iter().zip(files) {
            write(&at(link), link.as_bytes()).unwrap();
            assert!(at(link).is_symlink(), "{link}");
            assert_eq!(std::fs::read_to_string(at(file)).unwrap(), link);
            assert!(!at(file).is_symlink(), "{file}");
        }
        assert_eq!(write(&at("loop"), b"x").unwrap_err().exit_code(), 1);
        assert!(names(folder.path()).iter().chain(&names(&at("below"))).all(|name| !name.ends_with(".tmp")));
    }

    #[cfg(unix)]
    #[test]
    fn who_may_use_a_file_stays() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        let mode = || std::fs::metadata(&path).unwrap().permissions().mode() & 0o7777;
        // A new file is what any other new file is.
        std::fs::write(folder.path().join("b"), "").unwrap();
        let usual = std::fs::metadata(folder.path().join("b")).unwrap().permissions().mode() & 0o7777;
        write(&path, b"x").unwrap();
        assert_eq!(mode(), usual);
        for kept in [0o600, 0o640, 0o666, 0o755] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(kept)).unwrap();
            write(&path, b"x").unwrap();
            assert_eq!(mode(), kept, "{kept:o}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn what_is_no_file_is_written_to() {
        write(Path::new("/dev/null"), b"x").unwrap();
        assert!(!std::fs::metadata("/dev/null").unwrap().is_file());
    }

    #[test]
    fn all_of_several_files_appear_or_none() {
        let folder = tempfile::tempdir().unwrap();
        let begin = |name: &str| {
            let path = folder.path().join(name);
            let mut file = AtomicFile::create(name.to_owned(), &path).unwrap();
            file.write(name.as_bytes()).unwrap();
            file
        };
        AtomicFile::commit_all(vec![begin("a"), begin("b")]).unwrap();
        assert_eq!(names(folder.path()), ["a", "b"]);
        // One whose place is taken by a folder meanwhile: the one behind it is not left over.
        let files = vec![begin("c"), begin("d")];
        std::fs::create_dir(folder.path().join("c")).unwrap();
        assert!(AtomicFile::commit_all(files).unwrap_err().to_string().starts_with("c: "));
        assert_eq!(names(folder.path()), ["a", "b", "c"]);
    }
}
