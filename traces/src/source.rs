//! Bytes at an offset: of a file or of memory.

use crate::error::Error;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

#[derive(Debug)]
pub(crate) struct Source {
    from: From,
    len: u64,
}

#[derive(Debug)]
enum From {
    File(Mutex<File>),
    Bytes(Vec<u8>),
}

impl Source {
    pub(crate) fn open(path: &Path) -> Result<Self, Error> {
        let failed = |source| Error::Open { path: path.to_owned(), source };
        let file = File::open(path).map_err(failed)?;
        let about = file.metadata().map_err(failed)?;
        if about.is_dir() {
            return Err(failed(std::io::ErrorKind::IsADirectory.into()));
        }
        Ok(Self { len: about.len(), from: From::File(Mutex::new(file)) })
    }

    pub(crate) fn from_bytes(bytes: Vec<u8>) -> Self {
        Self { len: bytes.len() as u64, from: From::Bytes(bytes) }
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
                let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
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
