//! Files that are there whole or not at all, whatever ends the program that writes them.

use std::fs::{File, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// A file that gets its name when it is whole: what was there under that name is there until then. It has none before, so
/// that nothing is left of it even where the program is killed; where the file system cannot have that, it has another name,
/// which ends in `.unfinished` and goes when this is dropped.
///
/// What is no plain file, as a pipe or a device, is written to as it is.
#[derive(Debug)]
pub struct WholeFile {
    file: File,
    place: Place,
}

/// Where a file is to be, and where it is meanwhile.
#[derive(Debug)]
enum Place {
    /// There already.
    There,
    /// Nowhere.
    Nameless(PathBuf),
    /// Under another name, the second.
    Named(PathBuf, PathBuf),
}

impl WholeFile {
    /// Begins a file.
    ///
    /// # Errors
    /// There can be no file of that name.
    pub fn create(path: &Path) -> io::Result<Self> {
        // A link stays, and what it leads to is replaced.
        let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        let found = path.symlink_metadata();
        if found.as_ref().is_ok_and(|found| !found.is_file()) {
            return Ok(Self { file: File::create(&path)?, place: Place::There });
        }
        if found.is_ok() {
            // Who may not write to it may not replace it either, and nobody may what is being recorded.
            if is_locked(&File::options().write(true).open(&path)?) {
                return Err(io::Error::new(io::ErrorKind::ResourceBusy, "a recording is being written to it"));
            }
        }
        if let Some(file) = nameless(&path) {
            return Ok(Self { file, place: Place::Nameless(path) });
        }
        let (file, name) =
            new_beside(&path, |name| File::options().read(true).write(true).create_new(true).open(name))?;
        Ok(Self { file, place: Place::Named(path, name) })
    }

    /// Whether it can be begun anew: what is written to a pipe is gone.
    pub fn can_rewind(&self) -> bool {
        !matches!(self.place, Place::There)
    }

    /// Begins it anew.
    pub fn rewind(&mut self) -> io::Result<()> {
        self.file.set_len(0)?;
        self.file.rewind()
    }

    /// The file itself, to be written to elsewhere.
    pub fn handle(&self) -> io::Result<File> {
        self.file.try_clone()
    }

    /// Gives the file its name.
    ///
    /// # Errors
    /// It cannot have it. It is gone then.
    pub fn finish(mut self) -> io::Result<()> {
        match std::mem::replace(&mut self.place, Place::There) {
            Place::There => Ok(()),
            Place::Nameless(path) => {
                let ((), name) = new_beside(&path, |name| link(&self.file, name))?;
                rename(&name, &path)
            }
            Place::Named(path, name) => rename(&name, &path),
        }
    }
}

impl Drop for WholeFile {
    fn drop(&mut self) {
        if let Place::Named(_, name) = &self.place {
            let _ = std::fs::remove_file(name);
        }
    }
}

impl Write for WholeFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Read for WholeFile {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        self.file.read(bytes)
    }
}

impl Seek for WholeFile {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.file.seek(to)
    }
}

/// Writes a file, which is there whole or not at all.
///
/// # Errors
/// It cannot be written.
pub fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = WholeFile::create(path)?;
    file.write_all(bytes)?;
    file.finish()
}

fn rename(from: &Path, to: &Path) -> io::Result<()> {
    std::fs::rename(from, to).inspect_err(|_| _ = std::fs::remove_file(from))
}

/// Makes something under a name beside `path` that nothing has.
fn new_beside<T>(path: &Path, make: impl Fn(&Path) -> io::Result<T>) -> io::Result<(T, PathBuf)> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    loop {
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".{}-{}.unfinished", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)));
        let name = PathBuf::from(name);
        match make(&name) {
            Ok(made) => return Ok((made, name)),
            // Of a program that was killed, here or on another host.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
}

/// A file without a name on the file system that `path` is on, if that can be.
#[cfg(target_os = "linux")]
fn nameless(path: &Path) -> Option<File> {
    use rustix::fs::{Mode, OFlags};
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // Without it there is no way to name the file.
    if !Path::new("/proc/self/fd").exists() {
        return None;
    }
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    rustix::fs::open(folder, flags, Mode::from_raw_mode(0o666)).ok().map(File::from)
}

/// Whether somebody has locked a file, as a recording does.
fn is_locked(file: &File) -> bool {
    matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock))
}

#[cfg(target_os = "linux")]
fn link(file: &File, name: &Path) -> io::Result<()> {
    use rustix::fs::{AtFlags, CWD, linkat};
    use std::os::fd::AsRawFd;
    let file = format!("/proc/self/fd/{}", file.as_raw_fd());
    Ok(linkat(CWD, file, CWD, name, AtFlags::SYMLINK_FOLLOW)?)
}

#[cfg(not(target_os = "linux"))]
fn nameless(_: &Path) -> Option<File> {
    None
}

#[cfg(not(target_os = "linux"))]
fn link(_: &File, _: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn names(folder: &Path) -> Vec<String> {
        let names = fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").file_name());
        let mut names: Vec<_> = names.map(|name| name.to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    #[test]
    fn it_has_its_name_when_it_is_whole() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a");
        fs::write(&path, "before").expect("it fits");
        let read = || fs::read_to_string(&path).expect("it is there");
        let mut file = WholeFile::create(&path).expect("it can be");
        file.write_all(b"after").expect("it fits");
        assert_eq!(read(), "before");
        file.finish().expect("it can be named");
        assert_eq!((read().as_str(), names(folder.path())), ("after", vec!["a".to_owned()]));

        let mut file = WholeFile::create(&path).expect("it can be");
        file.write_all(b"half").expect("it fits");
        drop(file);
        assert_eq!((read().as_str(), names(folder.path())), ("after", vec!["a".to_owned()]));

        let mut file = WholeFile::create(&path).expect("it can be");
        file.write_all(b"much too long").expect("it fits");
        file.rewind().expect("a file");
        file.write_all(b"short").expect("it fits");
        file.finish().expect("it can be named");
        assert_eq!(read(), "short");
    }

    #[test]
    fn two_at_once_are_both_whole() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a");
        let mut both = [WholeFile::create(&path).expect("it can be"), WholeFile::create(&path).expect("it can be")];
        for (file, text) in both.iter_mut().zip(["one", "two"]) {
            file.write_all(text.as_bytes()).expect("it fits");
        }
        for (file, text) in both.into_iter().zip(["one", "two"]) {
            file.finish().expect("it can be named");
            assert_eq!(fs::read_to_string(&path).expect("it is there"), text);
        }
        assert_eq!(names(folder.path()), ["a"]);
    }

    #[test]
    fn a_file_system_without_nameless_files() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a");
        let make = || {
            let make = |name: &Path| File::create_new(name);
            let (file, name) = new_beside(&path, make).expect("it can be");
            WholeFile { file, place: Place::Named(path.clone(), name) }
        };
        let mut file = make();
        file.write_all(b"text").expect("it fits");
        assert_eq!(names(folder.path()).len(), 1);
        file.finish().expect("it can be named");
        drop(make());
        assert_eq!(
            (fs::read_to_string(&path).expect("there"), names(folder.path())),
            ("text".into(), vec!["a".into()])
        );
    }

    #[test]
    #[cfg(unix)]
    fn links_and_devices_stay_what_they_are() {
        let folder = tempfile::tempdir().expect("a folder");
        let (path, link) = (folder.path().join("a"), folder.path().join("link"));
        fs::write(&path, "before").expect("it fits");
        std::os::unix::fs::symlink(&path, &link).expect("a link");
        write_whole(&link, b"after").expect("it can be");
        assert_eq!(fs::read_to_string(&path).expect("there"), "after");
        assert!(link.symlink_metadata().expect("there").is_symlink());
        let file = WholeFile::create(Path::new("/dev/null")).expect("a device");
        assert!(!file.can_rewind());
        file.finish().expect("nothing to be done");
        assert!(WholeFile::create(folder.path()).is_err(), "a folder is no file");
        assert!(WholeFile::create(&folder.path().join("none/a")).is_err(), "there is no such folder");
    }
}
