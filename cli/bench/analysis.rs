//! What the analysis of a trace costs, from its compressed file, beside the floors of the same run: its columns decoded, and
//! its blocks decompressed. Times are of all threads of the program on CPUs, the best of some passes.

use super::clock::{Timed, long_passes};
use super::part::Part;
use super::resident;
use super::row::{Budget, MILLIONS, Row};
use hv_defs::event::{Event, Kind};
use std::fs::File;
use std::hint::black_box;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::Arc;
use traces::{Reader, Rows};

/// Where a frame's head has the length of its message, and how long it is: see docs/format.md.
const MESSAGE: usize = 8;
const HEAD: usize = 32;

/// The query whose cost is measured.
pub const QUERY: &str = "SELECT reason, COUNT(*) AS n FROM exits GROUP BY reason";

/// Why it could not be measured.
pub type Failed = Box<dyn std::error::Error + Send + Sync>;

/// Measures on a trace's file.
///
/// # Errors
/// The trace is damaged, or cannot be read.
pub fn measure(path: &Path) -> Result<Vec<Row>, Failed> {
    let events = Reader::open(path)?.len();
    let before = resident::begin_peak();
    let unpack = long_passes(|| decompress(path))?;
    let decode = long_passes(|| columns(path, Kind::ALL))?;
    let report = long_passes(|| report(path))?;
    let most = resident::peak();
    let query = long_passes(|| query(path))?;
    let column = long_passes(|| columns(path, &[Kind::Exit]))?;
    let rate = |timed: Timed| events as f64 / timed.best.as_secs_f64().max(1e-9) / 1e6;
    let row = |name, what, took: Timed, floor: Timed, floor_is| {
        Row::new(name, what, MILLIONS, rate(took)).floor(rate(floor), floor_is).spread(took)
    };
    Ok(vec![
        row("report", "the default report", report, decode, "all its columns decoded")
            .budget(Budget::AtLeast(30.0))
            .stretch(Budget::AtLeast(100.0)),
        row("decode", "decode to columns", decode, unpack, "zstd's decompression of its blocks"),
        row("query", "exits counted by reason, in SQL", query, column, "the exits' columns decoded"),
        memory("memory", "memory at most, report and decoding", before, most),
    ])
}

/// What a report of a long trace has of memory at most, in a process of its own: nothing that was measured before is in it.
///
/// # Errors
/// As [`measure`].
pub fn long(path: &Path) -> Result<Row, Failed> {
    let events = Reader::open(path)?.len();
    let [before, most] = resident::of_child(Part::Analysis, path)?;
    let what = "memory at most, the default report of a long trace";
    Ok(memory("memory-long", what, Some(before), Some(most)).with("events", events as f64))
}

/// What [`long`]'s process does.
///
/// # Errors
/// As [`measure`].
pub fn only_memory(path: &Path) -> Result<[Option<f64>; 2], Failed> {
    let before = resident::begin_peak();
    report(path)?;
    Ok([before, resident::peak()])
}

fn memory(name: &'static str, what: &str, before: Option<f64>, most: Option<f64>) -> Row {
    let mut row = match most {
        Some(most) => Row::new(name, what, "MiB", most),
        None => Row::missing(name, what, "MiB", "this system does not tell it"),
    };
    row.floor = before;
    row.floor_is = "the program before it";
    row.budget(Budget::AtMost(2048.0))
}

/// Only what zstd does: each block's bytes read and decompressed.
fn decompress(path: &Path) -> Result<(), Failed> {
    let reader = Reader::open(path)?;
    let mut file = File::open(path)?;
    let mut decompressor = zstd::bulk::Decompressor::new()?;
    let (mut stored, mut message) = (Vec::new(), Vec::new());
    for block in reader.blocks() {
        stored.resize(block.bytes as usize, 0);
        file.seek(SeekFrom::Start(block.offset))?;
        file.read_exact(&mut stored)?;
        let length = stored.get(MESSAGE..MESSAGE + 4).and_then(|bytes| bytes.try_into().ok()).map(u32::from_le_bytes);
        let (length, packed) = (length.ok_or("a block without a head")? as usize, &stored[HEAD..]);
        if packed.len() != length {
            message.resize(length, 0);
            decompressor.decompress_to_buffer(packed, &mut message)?;
        }
        black_box(&message);
    }
    Ok(())
}

fn columns(path: &Path, kinds: &[Kind]) -> Result<(), Failed> {
    let (reader, mut rows) = (Reader::open(path)?, Rows::default());
    for block in 0..reader.blocks().len() {
        for &kind in kinds {
            reader.block_columns_into(block, kind, None, &mut rows)?;
            black_box(&rows);
        }
    }
    Ok(())
}

fn report(path: &Path) -> Result<(), Failed> {
    let reader = Reader::open(path)?;
    let found = analyzer::findings("bench", (&reader).into())?;
    black_box(analyzer::report::text(&[found], false));
    Ok(())
}

fn query(path: &Path) -> Result<(), Failed> {
    let tables = analyzer::Tables::read(Arc::new(Reader::open(path)?));
    black_box(analyzer::query(&tables, QUERY)?);
    Ok(())
}

/// Events in a file, as a recording has them.
pub fn write(events: &[Event], path: &Path) -> Result<(), Failed> {
    Ok(std::fs::write(path, super::format::write(events)?)?)
}

/// Writes a trace of `count` events: those of another one, again and again, each time later.
///
/// # Errors
/// The trace has none, is damaged, or the file cannot be written.
pub fn lengthen(from: &Path, to: &Path, count: u64) -> Result<(), Failed> {
    let reader = Reader::open(from)?;
    let mut writer = traces::Writer::create(io::BufWriter::new(File::create(to)?), &super::format::header())?;
    let (mut written, mut later, mut last) = (0, 0_u64, 0);
    while written < count {
        for event in reader.events(0).take((count - written) as usize) {
            let mut event = match event {
                // An event of a newer version is none of ours.
                Err(traces::Error::NewerKind { .. }) => continue,
                event => event?,
            };
            event.at.instruction = event.at.instruction.saturating_add(later);
            last = event.at.instruction;
            writer.push(&event)?;
            written += 1;
        }
        if written == 0 {
            return Err("it has no events".into());
        }
        later = last + 1;
    }
    writer.finish()?;
    Ok(())
}
