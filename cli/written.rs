//! Files that are there whole or not at all.

use analyzer::query::Out;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

/// A file, which is there whole or not at all. What is no plain file, as a pipe, is written to and not replaced.
pub struct Written {
    out: BufWriter<File>,
    /// What it is called until it is whole, and then.
    renamed: Option<(PathBuf, PathBuf)>,
    begun: bool,
}

impl Written {
    /// Begins one at that path.
    pub fn create(path: &Path) -> io::Result<Self> {
        let plain = path.symlink_metadata().map_or(true, |found| found.is_file());
        let mut unfinished = path.as_os_str().to_owned();
        unfinished.push(".unfinished");
        let renamed = plain.then(|| (PathBuf::from(unfinished), path.to_owned()));
        let file = File::create(renamed.as_ref().map_or(path, |(unfinished, _)| unfinished))?;
        Ok(Self { out: BufWriter::with_capacity(1 << 16, file), renamed, begun: false })
    }

    /// Gives the file its name.
    pub fn finish(&mut self) -> io::Result<()> {
        self.out.flush()?;
        if let Some((unfinished, path)) = &self.renamed {
            std::fs::rename(unfinished, path)?;
            self.renamed = None;
        }
        Ok(())
    }
}

impl Drop for Written {
    fn drop(&mut self) {
        if let Some((unfinished, _)) = &self.renamed {
            let _ = std::fs::remove_file(unfinished);
        }
    }
}

impl Write for Written {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.begun |= !bytes.is_empty();
        self.out.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

impl Out for Written {
    fn rewind(&mut self) -> io::Result<bool> {
        if self.begun && self.renamed.is_none() {
            return Ok(false);
        }
        self.out.flush()?;
        if self.renamed.is_some() {
            self.out.get_mut().set_len(0)?;
            io::Seek::rewind(self.out.get_mut())?;
        }
        Ok(true)
    }
}
