//! What the analysis of a trace costs, from its compressed file, beside the floors of the same run: its columns decoded, and
//! its blocks decompressed. Times are of all threads of the program on CPUs, the best of some passes.

use super::measure::{Budget, Row};
use hv_defs::event::{Event, Kind};
use std::fs::File;
use std::hint::black_box;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use traces::{Reader, Rows};

/// Passes, of which the best counts: as many as fit into this time, and no more than that.
const PASSES: usize = 5;
const LONGEST: Duration = Duration::from_secs(5);

/// Where a frame's head has the length of its message, and how long it is: see docs/format.md.
const MESSAGE: usize = 8;
const HEAD: usize = 32;

/// How many steps [`measure`] takes.
pub const STEPS: u64 = 4;

/// Millions of events a second and CPU.
const RATE: &str = "M/s";

/// The query whose cost is measured.
pub const QUERY: &str = "SELECT reason, COUNT(*) AS n FROM exits GROUP BY reason";

/// Why it could not be measured.
pub type Failed = Box<dyn std::error::Error + Send + Sync>;

/// Measures on a trace's file. `step` is called after each step.
///
/// # Errors
/// The trace is damaged, or cannot be read.
pub fn measure(path: &Path, step: &mut dyn FnMut()) -> Result<Vec<Row>, Failed> {
    let events = Reader::open(path)?.len();
    let before = resident("VmRSS:").unwrap_or(0.0);
    let unpack = best(|| decompress(path))?;
    step();
    let decode = best(|| columns(path, Kind::ALL))?;
    step();
    let report = best(|| report(path))?;
    let most = resident("VmHWM:");
    step();
    let query = best(|| query(path))?;
    let column = best(|| columns(path, &[Kind::Exit]))?;
    step();
    let rate = |took: Duration| events as f64 / took.as_secs_f64().max(1e-9) / 1e6;
    let row = |name, what, took: Duration, floor: Duration, floor_is, budget: Option<f64>| Row {
        name,
        what,
        unit: RATE,
        value: Some(rate(took)),
        floor: rate(floor),
        floor_is,
        budget: budget.map(Budget::AtLeast),
    };
    Ok(vec![
        row("report", "the default report", report, decode, "all its columns decoded", Some(30.0)),
        row("decode", "decode to columns", decode, unpack, "zstd's decompression of its blocks", None),
        row("query", "exits counted by reason, in SQL", query, column, "the exits' columns decoded", None),
        Row {
            name: "memory",
            what: "memory at most, report and decoding",
            unit: "MiB",
            value: most,
            floor: before,
            floor_is: "the program before it",
            budget: Some(Budget::AtMost(2048.0)),
        },
    ])
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
    Ok(std::fs::write(path, super::measure::write(events)?)?)
}

/// Writes a trace of `count` events: those of another one, again and again, each time later.
///
/// # Errors
/// The trace has none, is damaged, or the file cannot be written.
pub fn lengthen(from: &Path, to: &Path, count: u64) -> Result<(), Failed> {
    let reader = Reader::open(from)?;
    let mut writer = traces::Writer::create(io::BufWriter::new(File::create(to)?), &super::measure::header())?;
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

/// The best time of a few passes.
pub fn best(mut pass: impl FnMut() -> Result<(), Failed>) -> Result<Duration, Failed> {
    let (since, mut best) = (Instant::now(), Duration::MAX);
    for _ in 0..PASSES {
        let start = spent(since);
        pass()?;
        best = best.min(spent(since).saturating_sub(start));
        if since.elapsed() > LONGEST {
            break;
        }
    }
    Ok(best)
}

/// The time that the program's threads have had CPUs, so that other loads of the machine count little; else the wall's.
/// What a thread had that has ended is not in it: those that a report or a query makes stay.
fn spent(since: Instant) -> Duration {
    std::thread::yield_now();
    let all = || -> io::Result<u64> {
        let mut sum = 0;
        for thread in std::fs::read_dir("/proc/self/task")? {
            let Ok(said) = std::fs::read_to_string(thread?.path().join("schedstat")) else { continue };
            sum += said.split(' ').next().and_then(|on| on.parse::<u64>().ok()).ok_or(io::ErrorKind::InvalidData)?;
        }
        Ok(sum)
    };
    all().map_or_else(|_| since.elapsed(), Duration::from_nanos)
}

/// Resident memory in MiB, as Linux tells it.
fn resident(key: &str) -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(key))?;
    Some(line.trim_ascii().split(' ').next()?.parse::<f64>().ok()? / 1024.0)
}
