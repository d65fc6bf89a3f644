//! Bytes at an offset: of a file or of memory.

use crate::error::Error;
use std::cmp::Ordering;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

#[derive(Debug)]
pub(crate) struct Source {
    from: From,
    len: u64,
}

#[derive(Debug)]
enum From {
    /// Shared with the sources of what the file was before.
    File(Arc<OpenFile>),
    Bytes(Vec<u8>),
}

#[derive(Debug)]
struct OpenFile {
    file: Mutex<File>,
    path: PathBuf,
}

impl OpenFile {
    fn file(&self) -> MutexGuard<'_, File> {
        self.file.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether its path still names the file that was opened. What cannot be told counts as so.
    fn is_there(&self) -> bool {
        #[cfg(unix)]
        {
            use std::os::unix::fs::MetadataExt;
            let of = |about: std::fs::Metadata| (about.dev(), about.ino());
            let opened = self.file().metadata().map(of);
            match (opened, std::fs::metadata(&self.path).map(of)) {
                (Ok(opened), Ok(there)) => opened == there,
                _ => true,
            }
        }
        #[cfg(not(unix))]
        true
    }
}

/// What became of a source.
pub(crate) enum Now {
    /// It has the length it had.
    Same,
    Longer(Source),
    Shorter,
    /// Its path names another file.
    Other,
}

impl Source {
    pub(crate) fn open(path: &Path) -> Result<Self, Error> {
        let failed = |source| Error::Open { path: path.to_owned(), source };
        let file = File::open(path).map_err(failed)?;
        let about = file.metadata().map_err(failed)?;
        if about.is_dir() {
            return Err(failed(std::io::ErrorKind::IsADirectory.into()));
        }
        let file = OpenFile { file: Mutex::new(file), path: path.to_owned() };
        Ok(Self { len: about.len(), from: From::File(Arc::new(file)) })
    }

    pub(crate) fn from_bytes(bytes: Vec<u8>) -> Self {
        Self { len: bytes.len() as u64, from: From::Bytes(bytes) }
    }

    /// What became of it since it was opened.
    pub(crate) fn now(&self) -> Result<Now, Error> {
        let From::File(file) = &self.from else { return Ok(Now::Same) };
        if !file.is_there() {
            return Ok(Now::Other);
        }
        let len = file.file().metadata().map_err(Error::Read)?.len();
        Ok(match len.cmp(&self.len) {
            Ordering::Less => Now::Shorter,
            Ordering::Equal => Now::Same,
            Ordering::Greater => Now::Longer(Self { from: From::File(file.clone()), len }),
        })
    }

    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// Whether `count` bytes lie at `offset`.
    pub(crate) fn has(&self, offset: u64, count: u64) -> bool {
        offset.checked_add(count).is_some_and(|end| end <= self.len)
    }

    /// Fills `bytes` from `offset`. An end of file where there should be bytes is an error.
    pub(crate) fn read(&self, offset: u64, bytes: &mut [u8]) -> Result<(), Error> {
        match &self.from {
            From::File(file) => {
                let mut file = file.file();
                file.seek(SeekFrom::Start(offset)).and_then(|_| file.read_exact(bytes)).map_err(Error::Read)
            }
            From::Bytes(all) => {
                let range = usize::try_from(offset).ok().and_then(|start| all.get(start..start + bytes.len()));
                bytes.copy_from_slice(range.ok_or_else(|| Error::Read(std::io::ErrorKind::UnexpectedEof.into()))?);
                Ok(())
            }
        }
    }

    /// `count` bytes at `offset`, which [`Source::has`].
    pub(crate) fn take(&self, offset: u64, count: usize) -> Result<Vec<u8>, Error> {
        let mut bytes = vec![0; count];
        self.read(offset, &mut bytes)?;
        Ok(bytes)
    }
}
