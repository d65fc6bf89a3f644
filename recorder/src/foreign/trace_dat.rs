//! `trace.dat` in version 6, which every `trace-cmd` reads and converts to version 7. See: trace-cmd.dat.v6(5).

use super::metadata::{PAGE, metadata};
use super::ring::Pages;
use super::{Tape, What};
use std::io::{self, Write};

/// Writes a recording as a `trace.dat`, and gives its bytes.
///
/// # Errors
/// `out` cannot be written on.
pub fn write(tape: &Tape, mut out: impl Write) -> io::Result<u64> {
    let mut pages: Vec<Pages> = (0..tape.cpus()).map(|_| Pages::default()).collect();
    for record in &tape.records {
        let pages = &mut pages[usize::from(record.cpu)];
        match &record.what {
            What::Hit { bytes, .. } => pages.record(record.time, bytes),
            What::Lost(count) => pages.lost(*count),
        }
    }
    let buffers: Vec<Vec<u8>> = pages.into_iter().map(Pages::finish).collect();
    let mut head = metadata("6", tape);
    head.extend_from_slice(&(buffers.len() as u32).to_le_bytes());
    // No options.
    head.extend_from_slice(b"options  \0\0\0flyrecord\0");
    let mut at = (head.len() + buffers.len() * 16).next_multiple_of(PAGE);
    for buffer in &buffers {
        head.extend_from_slice(&[at as u64, buffer.len() as u64].map(u64::to_le_bytes).concat());
        at += buffer.len();
    }
    head.resize(head.len().next_multiple_of(PAGE), 0);
    out.write_all(&head)?;
    buffers.iter().try_for_each(|buffer| out.write_all(buffer))?;
    out.flush()?;
    Ok(at as u64)
}
