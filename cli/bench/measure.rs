//! What the trace format costs on some events, beside this machine's floor for the same work. Nothing here knows the command
//! line: `nvmx bench trace` and `cargo bench --bench trace` both show it.
//!
//! Times are of this thread on the CPU, the best of several passes, in a state that has settled: what a recording costs
//! once it runs. A floor is what anyone would have to do: copy the bytes, append the rows to a ring in memory, compress the
//! columns as they are.

use hv_defs::config::{Config, Guest};
use hv_defs::event::{Event, Kind, What};
use hv_defs::fields::{MAX_COLUMNS, Texts};
use std::hint::black_box;
use std::io;
use std::time::{Duration, Instant};
use traces::{Header, Reader, Rows, Writer};

/// Passes, of which the best counts.
const PASSES: usize = 5;
/// Events after which the queue's memory has all been used once.
const SETTLED: usize = 1 << 18;
/// How long a pass should take at least, so that reading the clock costs nothing.
const PASS: Duration = Duration::from_millis(20);
/// Events that a floor takes together, as a block of a trace does.
const BLOCK: usize = 1 << 15;
/// Blocks that are decoded without decompression, and how often each is at a time.
const BLOCKS: usize = 8;
const AGAIN: u32 = 8;
/// Events that are handed over again and again.
const HOT: usize = 1 << 12;
/// Words of the ring of the floor: 8 MiB, more than a second-level cache.
const RING: usize = 1 << 20;

/// A figure with its floor and its budget.
#[derive(Clone, PartialEq, Debug)]
pub struct Row {
    /// Its key.
    pub name: &'static str,
    /// What it is.
    pub what: &'static str,
    /// Its unit.
    pub unit: &'static str,
    /// The figure; `None` where the events have nothing of the kind.
    pub value: Option<f64>,
    /// The same of the floor.
    pub floor: f64,
    /// What the floor is.
    pub floor_is: &'static str,
    /// The budget, if it has one.
    pub budget: Option<Budget>,
}

/// A limit.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Budget {
    /// Not more.
    AtMost(f64),
    /// Not less.
    AtLeast(f64),
}

impl Row {
    /// Whether the budget held; `None` where there is none, or no figure.
    pub fn held(&self) -> Option<bool> {
        Some(match (self.value?, self.budget?) {
            (value, Budget::AtMost(limit)) => value <= limit,
            (value, Budget::AtLeast(limit)) => value >= limit,
        })
    }

    /// How often the floor would have fitted into it: above 1 where it is slower or larger than the floor.
    pub fn ratio(&self) -> Option<f64> {
        let value = self.value?;
        Some(if self.unit == RATE { self.floor / value } else { value / self.floor })
    }
}

/// Millions of events a second.
const RATE: &str = "M/s";

/// How many steps [`measure`] takes.
pub const STEPS: u64 = 5;

/// Measures on these events, of which there is at least one. `step` is called after each step.
///
/// # Errors
/// The events cannot be written as a trace or read back.
pub fn measure(events: &[Event], step: &mut dyn FnMut()) -> Result<Vec<Row>, traces::Error> {
    let columns: Vec<Vec<u8>> = events.chunks(BLOCK).map(columns).collect();
    let copied = copy(&columns);
    let (packed, packing, unpacking) = squeeze(&columns)?;
    step();
    // Events in a row from the middle, that stay in the cache: a machine's are made just before.
    let hot = &events[(events.len() - events.len().min(HOT)) / 2..][..events.len().min(HOT)];
    let (push, append) = (hand_over(hot)?, ring(hot));
    step();
    let encode = encode(events)?;
    step();
    let bytes = write(events)?;
    let [compressed, plainly] = decode(&bytes)?;
    step();
    let rate = |took: Duration| events.len() as f64 / took.as_secs_f64() / 1e6;
    let each = |took: Duration| took.as_secs_f64() * 1e9 / hot.len() as f64;
    let mut rows = vec![
        Row {
            name: "hand-over",
            what: "hand over an event to the writing thread",
            unit: "ns",
            value: Some(each(push)),
            floor: each(append),
            floor_is: "append its row to a ring in memory",
            budget: Some(Budget::AtMost(15.0)),
        },
        Row {
            name: "encode",
            what: "encode and compress, one core",
            unit: RATE,
            value: Some(rate(encode)),
            floor: rate(packing),
            floor_is: "zstd -1 over the columns",
            budget: Some(Budget::AtLeast(20.0)),
        },
        Row {
            name: "decode",
            what: "decode to columns",
            unit: RATE,
            value: Some(rate(compressed)),
            floor: rate(unpacking),
            floor_is: "zstd's decompression of the same",
            budget: Some(Budget::AtLeast(30.0)),
        },
        Row {
            name: "decode-decompressed",
            what: "decode to columns, without decompression",
            unit: RATE,
            value: Some(rate(plainly)),
            floor: rate(copied),
            floor_is: "memcpy of the columns",
            budget: Some(Budget::AtLeast(100.0)),
        },
    ];
    let with_registers = events.iter().any(|event| event.what.kind() == Kind::Registers);
    let exit = if with_registers { "an exit with its registers" } else { "an exit (there are no registers)" };
    let sizes: [(_, _, &[Kind], _); 3] = [
        ("bytes-vmcs", "a VMCS access", &[Kind::Vmcs], Some(1.5)),
        ("bytes-exit", exit, &[Kind::Exit, Kind::Registers], Some(12.0)),
        ("bytes-event", "an event", Kind::ALL, None),
    ];
    for (name, what, kinds, budget) in sizes {
        let only: Vec<Event> = events.iter().filter(|event| kinds.contains(&event.what.kind())).cloned().collect();
        // Registers belong to their exit.
        let count = only.iter().filter(|event| kinds.len() != 2 || event.what.kind() == Kind::Exit).count();
        let value = if count == 0 { None } else { Some(size(&only)? as f64 / count as f64) };
        let floor = if only.len() == events.len() {
            packed
        } else {
            squeeze_once(&only.chunks(BLOCK).map(self::columns).collect::<Vec<_>>())?
        };
        let budget = budget.map(Budget::AtMost);
        let floor = floor as f64 / count.max(1) as f64;
        rows.push(Row { name, what, unit: "bytes", value, floor, floor_is: "zstd -1 over the columns", budget });
    }
    step();
    Ok(rows)
}

/// The time that this thread has had a CPU, so that other loads of the machine count little; else the wall's.
pub fn spent(since: Instant) -> Duration {
    // Linux adds it up when it schedules, else only at its ticks, of which some last 10 ms.
    std::thread::yield_now();
    let said = std::fs::read_to_string("/proc/thread-self/schedstat").ok();
    let nanoseconds = said.as_deref().and_then(|said| said.split(' ').next()?.parse().ok());
    nanoseconds.map_or_else(|| since.elapsed(), Duration::from_nanos)
}

/// The best time of a few passes.
pub fn best<E>(mut pass: impl FnMut() -> Result<(), E>) -> Result<Duration, E> {
    let (since, mut best) = (Instant::now(), Duration::MAX);
    pass()?;
    for _ in 0..PASSES {
        let (start, mut runs, mut took) = (spent(since), 0, Duration::ZERO);
        while took < PASS {
            pass()?;
            (runs, took) = (runs + 1, spent(since).saturating_sub(start));
        }
        best = best.min(took / runs);
    }
    Ok(best)
}

/// A trace of these events, with a header that says little.
pub fn write(events: &[Event]) -> Result<Vec<u8>, traces::Error> {
    let mut bytes = Vec::new();
    let mut writer = Writer::create(&mut bytes, &header())?;
    events.iter().try_for_each(|event| writer.push(event))?;
    writer.finish()?;
    Ok(bytes)
}

/// Bytes that these events take, without what every trace has.
pub fn size(events: &[Event]) -> Result<usize, traces::Error> {
    Ok(write(events)?.len().saturating_sub(write(&[])?.len()))
}

/// A header that says little.
pub fn header() -> Header {
    Header::new(Config::new(Guest::BuiltIn("bench".into())), Vec::new())
}

/// What handing over costs the thread that does it, in a queue that another empties.
fn hand_over(events: &[Event]) -> Result<Duration, traces::Error> {
    let mut writer = Writer::create(io::sink(), &header())?;
    let (best, finished) = traces::beside(&mut writer, |feed| {
        let (since, mut best) = (Instant::now(), Duration::MAX);
        let pass = |feed: &mut traces::Feed| events.iter().try_for_each(|event| feed.push(event)).is_continue();
        for _ in 0..SETTLED.div_ceil(events.len()) {
            pass(feed);
        }
        for _ in 0..PASSES {
            let (start, mut runs, mut took) = (spent(since), 0, Duration::ZERO);
            while took < PASS && pass(feed) {
                (runs, took) = (runs + 1, spent(since).saturating_sub(start));
            }
            best = best.min(took / runs.max(1));
        }
        best
    });
    finished?;
    Ok(best)
}

/// The floor of handing over: the rows, which lie ready, copied to a ring one by one.
fn ring(events: &[Event]) -> Duration {
    let (mut rows, mut lengths, mut texts) = (Vec::new(), Vec::new(), Texts::default());
    for event in events {
        let before = rows.len();
        rows.extend([event.at.instruction, u64::from(event.at.vcpu) << 16 | u64::from(event.at.pcpu)]);
        push_row(&event.what, &mut rows, &mut texts);
        lengths.push(rows.len() - before);
    }
    let mut ring = vec![0; RING];
    let mut at = 0;
    let took = best(|| {
        let mut rest = &rows[..];
        for &length in &lengths {
            let (row, behind) = rest.split_at(length);
            if at + length > RING {
                at = 0;
            }
            ring[at..at + length].copy_from_slice(row);
            (at, rest) = (at + length, behind);
        }
        black_box(&ring);
        Ok::<_, ()>(())
    });
    took.unwrap_or_default()
}

fn encode(events: &[Event]) -> Result<Duration, traces::Error> {
    let mut writer = Writer::create(io::sink(), &header())?;
    best(|| {
        events.iter().try_for_each(|event| writer.push(event))?;
        writer.end_block()
    })
}

/// Decoding every table to columns, from the file's bytes and from blocks that were decompressed before.
fn decode(bytes: &[u8]) -> Result<[Duration; 2], traces::Error> {
    let mut rows = Rows::default();
    let mut read = |reader: &Reader, block: usize| {
        Kind::ALL.iter().try_for_each(|&kind| {
            reader.block_columns_into(block, kind, None, &mut rows)?;
            black_box(&rows);
            Ok(())
        })
    };
    // A reader of its own for each pass: one keeps what it decompressed last.
    let compressed = best(|| {
        let reader = Reader::from_bytes(bytes.to_vec())?;
        (0..reader.blocks().len()).try_for_each(|block| read(&reader, block))
    })?;
    let reader = Reader::from_bytes(bytes.to_vec())?;
    let blocks = reader.blocks();
    let (since, mut sum, mut events) = (Instant::now(), Duration::ZERO, 0);
    for block in (0..blocks.len()).step_by(blocks.len().div_ceil(BLOCKS).max(1)) {
        read(&reader, block)?;
        let mut best = Duration::MAX;
        for _ in 0..PASSES {
            let start = spent(since);
            (0..AGAIN).try_for_each(|_| read(&reader, block))?;
            best = best.min(spent(since).saturating_sub(start) / AGAIN);
        }
        (sum, events) = (sum + best, events + blocks[block].events);
    }
    // As if all blocks had been read.
    Ok([compressed, sum.mul_f64(reader.len() as f64 / f64::from(events.max(1)))])
}

/// The columns of some events as they are, each in the narrowest width that holds its numbers: what event it is, when and
/// where, and the columns of each kind.
fn columns(events: &[Event]) -> Vec<u8> {
    let mut tables = [const { Vec::new() }; Kind::ALL.len()];
    let mut texts = Texts::default();
    let mut out = Vec::new();
    for event in events {
        push_row(&event.what, &mut tables[event.what.kind() as usize], &mut texts);
    }
    let each = |of: fn(&Event) -> u64| events.iter().map(of).collect::<Vec<_>>();
    put(&mut out, &each(|event| event.what.kind() as u64));
    put(&mut out, &each(|event| event.at.instruction));
    put(&mut out, &each(|event| event.at.vcpu.into()));
    put(&mut out, &each(|event| event.at.pcpu.into()));
    for (kind, rows) in Kind::ALL.iter().zip(&tables) {
        let width = kind.columns().len();
        for column in 0..width {
            put(&mut out, &rows.iter().skip(column).step_by(width).copied().collect::<Vec<_>>());
        }
    }
    out
}

/// Adds an event's columns.
fn push_row(what: &What, rows: &mut Vec<u64>, texts: &mut Texts) {
    let mut row = [0; MAX_COLUMNS];
    what.row(&mut row, texts);
    rows.extend_from_slice(&row[..what.kind().columns().len()]);
}

fn put(out: &mut Vec<u8>, column: &[u64]) {
    let width = match column.iter().copied().max().unwrap_or(0) {
        0..=0xff => 1,
        0x100..=0xffff => 2,
        0x1_0000..=0xffff_ffff => 4,
        _ => 8,
    };
    column.iter().for_each(|value| out.extend_from_slice(&value.to_le_bytes()[..width]));
}

fn copy(columns: &[Vec<u8>]) -> Duration {
    let mut to: Vec<Vec<u8>> = columns.to_vec();
    let took = best(|| {
        for (from, to) in columns.iter().zip(&mut to) {
            to.copy_from_slice(black_box(from));
        }
        black_box(&to);
        Ok::<_, ()>(())
    });
    took.unwrap_or_default()
}

/// Bytes under zstd -1, and the times to compress and to decompress.
fn squeeze(columns: &[Vec<u8>]) -> Result<(usize, Duration, Duration), traces::Error> {
    let mut compressor = zstd::bulk::Compressor::new(1).map_err(traces::Error::Write)?;
    let mut decompressor = zstd::bulk::Decompressor::new().map_err(traces::Error::Read)?;
    let pack = |compressor: &mut zstd::bulk::Compressor<'_>| {
        columns
            .iter()
            .map(|block| compressor.compress(block).map_err(traces::Error::Write))
            .collect::<Result<Vec<_>, _>>()
    };
    let packed = pack(&mut compressor)?;
    let packing = best(|| pack(&mut compressor).map(|packed| drop(black_box(packed))))?;
    let unpacking = best(|| {
        packed.iter().zip(columns).try_for_each(|(packed, block)| {
            black_box(decompressor.decompress(packed, block.len()).map_err(traces::Error::Read)?);
            Ok(())
        })
    })?;
    Ok((packed.iter().map(Vec::len).sum(), packing, unpacking))
}

fn squeeze_once(columns: &[Vec<u8>]) -> Result<usize, traces::Error> {
    let sizes = columns.iter().map(|block| Ok(zstd::bulk::compress(block, 1).map_err(traces::Error::Write)?.len()));
    sizes.sum()
}

/// Whether an event is an exit or an entry: what the tools beside us have a word for.
pub fn is_transition(event: &Event) -> bool {
    matches!(event.what, What::Exit(_) | What::Entry(_))
}
