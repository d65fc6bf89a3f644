//! A file that one recording has to itself.

use std::fs::{File, TryLockError};
use std::io;
use std::path::Path;

/// Why a file cannot be recorded into.
pub(crate) enum Refused {
    /// Another recording has it.
    Busy,
    /// It cannot be opened.
    Open(io::Error),
}

/// Opens the file at `path` empty, and for as long as it is open no other recording can have it: what that has written is
/// left as it is. What is no plain file, as a pipe or a device, anyone may have.
pub(crate) fn create(path: &Path) -> Result<File, Refused> {
    // Not emptied yet: it may be another's.
    let mut options = File::options();
    let file = options.write(true).create(true).truncate(false).open(path).map_err(Refused::Open)?;
    if !file.metadata().map_err(Refused::Open)?.is_file() {
        return Ok(file);
    }
    if !lock(&file) {
        return Err(Refused::Busy);
    }
    file.set_len(0).map_err(Refused::Open)?;
    Ok(file)
}

/// Locks the file until the last of its handles is closed. Says whether it may be used: no other has locked it, or the file
/// system has no locks, which keeps nobody out.
fn lock(file: &File) -> bool {
    !matches!(file.try_lock(), Err(TryLockError::WouldBlock))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn one_at_a_time() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a");
        fs::write(&path, "before").expect("it fits");
        let first = create(&path).map_err(|_| "refused").expect("nobody has it");
        fs::write(&path, "what the first has").expect("it fits");
        assert!(matches!(create(&path), Err(Refused::Busy)));
        assert_eq!(fs::read_to_string(&path).expect("there"), "what the first has");
        drop(first);
        create(&path).map_err(|_| "refused").expect("nobody has it any more");
        assert_eq!(fs::read_to_string(&path).expect("there"), "");
        assert!(matches!(create(folder.path()), Err(Refused::Open(_))));
        let both = [create(Path::new("/dev/null")), create(Path::new("/dev/null"))];
        assert!(both.iter().all(Result::is_ok), "a device is anyone's");
    }
}
