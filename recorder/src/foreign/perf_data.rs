//! `perf.data`: a head, an attribute for each tracepoint, records, and the tracing data as the one feature.
//!
//! See: the kernel's tools/perf/Documentation/perf.data-file-format.txt, and perf_event_open(2) for the records.

use super::metadata::metadata;
use super::{Tape, Thread, What};
use std::io::{self, Write};

/// Bytes of the file's head, and of an attribute in the version that has all that is used here.
const HEAD: u64 = 104;
const ATTRIBUTE: u32 = 112;

/// `PERF_TYPE_TRACEPOINT`.
const TRACEPOINT: u32 = 2;
/// What `perf record -a` asks for when it records several tracepoints: IP, TID, TIME, CPU, PERIOD, RAW, IDENTIFIER.
const SAMPLE: u64 = 1 | 1 << 1 | 1 << 2 | 1 << 7 | 1 << 8 | 1 << 10 | 1 << 16;
/// `inherit`, `comm`, `task`, `sample_id_all`.
const FLAGS: u64 = 1 << 1 | 1 << 9 | 1 << 13 | 1 << 18;

const RECORD_LOST: u32 = 2;
const RECORD_COMM: u32 = 3;
const RECORD_SAMPLE: u32 = 9;

/// The feature `HEADER_TRACING_DATA`.
const TRACING_DATA: u64 = 1 << 1;

/// Writes a recording as a `perf.data`, and gives its bytes. `perf` has no word for events lost whose number nobody knows:
/// they are written as 1.
///
/// # Errors
/// `out` cannot be written on.
pub fn write(tape: &Tape, mut out: impl Write) -> io::Result<u64> {
    let count = tape.tracepoints.len() as u64;
    let attributes = HEAD + count * 8;
    let attribute = u64::from(ATTRIBUTE) + 16;
    let data = attributes + count * attribute;
    let records = records(tape);
    let section = data + records.len() as u64;
    let tracing = metadata("0.6", tape);

    let mut head = b"PERFILE2".to_vec();
    // Head and attribute; attributes, data, event types; features.
    let numbers =
        [HEAD, attribute, attributes, count * attribute, data, records.len() as u64, 0, 0, TRACING_DATA, 0, 0, 0];
    head.extend(numbers.map(u64::to_le_bytes).concat());
    // A number for each tracepoint, by which its samples are known.
    (0..count).for_each(|number| head.extend_from_slice(&(number + 1).to_le_bytes()));
    for (tracepoint, number) in tape.tracepoints.iter().zip(0..) {
        let start = head.len();
        head.extend_from_slice(&[TRACEPOINT, ATTRIBUTE].map(u32::to_le_bytes).concat());
        // Its number, a sample each time, what is sampled, no read format.
        head.extend_from_slice(&[tracepoint.id.into(), 1, SAMPLE, 0, FLAGS].map(u64::to_le_bytes).concat());
        head.resize(start + ATTRIBUTE as usize, 0);
        head.extend_from_slice(&[HEAD + number * 8, 8].map(u64::to_le_bytes).concat());
    }
    out.write_all(&head)?;
    out.write_all(&records)?;
    out.write_all(&[section + 16, tracing.len() as u64].map(u64::to_le_bytes).concat())?;
    out.write_all(&tracing)?;
    out.flush()?;
    Ok(section + 16 + tracing.len() as u64)
}

fn records(tape: &Tape) -> Vec<u8> {
    let mut out = Vec::new();
    let start = tape.records.first().map_or(0, |record| record.time);
    for thread in &tape.threads {
        let mut name = thread.name.clone().into_bytes();
        name.resize((name.len() + 1).next_multiple_of(8), 0);
        let mut body = ids(thread).to_vec();
        body.append(&mut name);
        body.extend(identity(thread, start, 0));
        push(&mut out, RECORD_COMM, &body);
    }
    let nobody = Thread { process: 0, id: 0, name: String::new() };
    for record in &tape.records {
        let cpu = record.cpu.into();
        match &record.what {
            What::Lost(count) => {
                let mut body = [1, (*count).max(1)].map(u64::to_le_bytes).concat();
                body.extend(identity(&nobody, record.time, cpu));
                push(&mut out, RECORD_LOST, &body);
            }
            What::Hit { tracepoint, thread, bytes } => {
                let thread = tape.threads.get(*thread).unwrap_or(&nobody);
                let mut body = Vec::with_capacity(64 + bytes.len());
                // Whose sample, and no instruction pointer.
                body.extend_from_slice(&[*tracepoint as u64 + 1, 0].map(u64::to_le_bytes).concat());
                body.extend_from_slice(&ids(thread));
                body.extend_from_slice(&[record.time, cpu, 1].map(u64::to_le_bytes).concat());
                // The kernel pads so that the length and the data end at 8 bytes.
                let padded = (4 + bytes.len()).next_multiple_of(8) - 4;
                body.extend_from_slice(&(padded as u32).to_le_bytes());
                body.extend_from_slice(bytes);
                body.resize(body.len() + padded - bytes.len(), 0);
                push(&mut out, RECORD_SAMPLE, &body);
            }
        }
    }
    out
}

fn ids(thread: &Thread) -> [u8; 8] {
    (u64::from(thread.id) << 32 | u64::from(thread.process)).to_le_bytes()
}

/// What ends a record that is no sample: thread, time, CPU, whose.
fn identity(thread: &Thread, time: u64, cpu: u64) -> Vec<u8> {
    [u64::from_le_bytes(ids(thread)), time, cpu, 1].map(u64::to_le_bytes).concat()
}

fn push(out: &mut Vec<u8>, kind: u32, body: &[u8]) {
    out.extend_from_slice(&kind.to_le_bytes());
    // No flags of the CPU's mode.
    out.extend_from_slice(&[0, (body.len() + 8) as u16].map(u16::to_le_bytes).concat());
    out.extend_from_slice(body);
}
