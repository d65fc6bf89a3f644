//! A file whose bytes are on the disk a second after they were written, whatever happens to the host.

use std::fs::File;
use std::io::{self, Write};
use std::time::{Duration, Instant};

/// The least time between two waits for the disk.
const EVERY: Duration = Duration::from_secs(1);

/// A file that is synchronised with the disk when it is flushed, at most once a second. The clock decides when bytes are
/// made safe, and never which bytes they are.
pub(crate) struct Durable<'a> {
    file: &'a File,
    last: Instant,
}

impl<'a> Durable<'a> {
    pub(crate) fn new(file: &'a File) -> Self {
        Self { file, last: Instant::now() }
    }
}

impl Write for Durable<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.last.elapsed() < EVERY {
            return Ok(());
        }
        let synced = self.file.sync_data();
        self.last = Instant::now();
        match synced {
            // A pipe or a device, which has no disk to wait for.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(()),
            other => other,
        }
    }
}
