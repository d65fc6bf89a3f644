//! What is written to a file that is there whole or not at all, some at a time.

use analyzer::query::Out;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use traces::WholeFile;

/// A file, which is there whole or not at all. What is no plain file, as a pipe, is written to and not replaced.
pub struct Written {
    out: BufWriter<WholeFile>,
    begun: bool,
}

impl Written {
    /// Begins one at that path.
    pub fn create(path: &Path) -> io::Result<Self> {
        Ok(Self { out: BufWriter::with_capacity(1 << 16, WholeFile::create(path)?), begun: false })
    }

    /// Gives the file its name.
    pub fn finish(self) -> io::Result<()> {
        self.out.into_inner().map_err(io::IntoInnerError::into_error)?.finish()
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
        if self.begun && !self.out.get_ref().can_rewind() {
            return Ok(false);
        }
        self.out.flush()?;
        if self.out.get_ref().can_rewind() {
            self.out.get_mut().rewind()?;
        }
        Ok(true)
    }
}
