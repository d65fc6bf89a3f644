//! What the trace format costs on some events, beside this machine's floor for the same work.
//!
//! Times are of this thread on the CPU, the best of several passes, in a state that has settled: what a recording costs
//! once it runs. A floor is what anyone would have to do: copy the bytes, append the rows to a ring in memory, compress the
//! columns as they are.

use super::clock::{PASSES, Timed, passes, thread};
use super::row::{Budget, MILLIONS, Row};
use hv_defs::config::{Config, Guest};
use hv_defs::event::{Event, Kind, What};
use hv_defs::fields::{MAX_COLUMNS, Texts};
use std::hint::black_box;
use std::io;
use std::time::{Duration, Instant};
use traces::{Header, Reader, Rows, Writer};

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

/// Measures on these events, of which there is at least one.
///
/// # Errors
/// The events cannot be written as a trace or read back.
pub fn measure(events: &[Event]) -> Result<Vec<Row>, traces::Error> {
    let columns: Vec<Vec<u8>> = events.chunks(BLOCK).map(columns).collect();
    let copied = copy(&columns);
    let (packed, packing, unpacking) = squeeze(&columns)?;
    // Events in a row from the middle, that stay in the cache: a machine's are made just before.
    let hot = &events[(events.len() - events.len().min(HOT)) / 2..][..events.len().min(HOT)];
    let (push, append) = (hand_over(hot)?, ring(hot));
    let encode = encode(events)?;
    let bytes = write(events)?;
    let [compressed, plainly] = decode(&bytes)?;
    let rate = |took: Duration| events.len() as f64 / took.as_secs_f64() / 1e6;
    let each = |took: Duration| took.as_secs_f64() * 1e9 / hot.len() as f64;
    let speed = |name, what, timed: Timed, floor: Timed, floor_is, least| {
        Row::new(name, what, MILLIONS, rate(timed.best))
            .floor(rate(floor.best), floor_is)
            .budget(Budget::AtLeast(least))
            .spread(timed)
    };
    let mut rows = vec![
        Row::new("hand-over", "hand over an event to the writing thread", "ns", each(push.best))
            .floor(each(append.best), "append its row to a ring in memory")
            .budget(Budget::AtMost(15.0))
            .stretch(Budget::AtMost(5.0))
            .spread(push),
        speed("encode", "encode and compress, one core", encode, packing, "zstd -1 over the columns", 20.0),
        speed("decode", "decode to columns", compressed, unpacking, "zstd's decompression of the same", 30.0),
        speed(
            "decode-decompressed",
            "decode to columns, without decompression",
            plainly,
            copied,
            "memcpy of the columns",
            100.0,
        ),
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
        let floor = if only.len() == events.len() {
            packed
        } else {
            squeeze_once(&only.chunks(BLOCK).map(self::columns).collect::<Vec<_>>())?
        };
        let mut row = match count {
            0 => Row::missing(name, what, "bytes", "the events have none of it"),
            _ => Row::new(name, what, "bytes", size(&only)? as f64 / count as f64),
        };
        row = row.floor(floor as f64 / count.max(1) as f64, "zstd -1 over the columns");
        row.budget = budget.map(Budget::AtMost);
        rows.push(row);
    }
    Ok(rows)
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
fn hand_over(events: &[Event]) -> Result<Timed, traces::Error> {
    let mut writer = Writer::create(io::sink(), &header())?;
    let (timed, finished) = traces::beside(&mut writer, |feed| {
        let (since, mut timed) = (Instant::now(), Timed::NONE);
        let pass = |feed: &mut traces::Feed| events.iter().try_for_each(|event| feed.push(event)).is_continue();
        for _ in 0..SETTLED.div_ceil(events.len()) {
            pass(feed);
        }
        for _ in 0..PASSES {
            let (start, mut runs, mut took) = (thread(since), 0, Duration::ZERO);
            while took < PASS && pass(feed) {
                (runs, took) = (runs + 1, thread(since).saturating_sub(start));
            }
            timed.add(took / runs.max(1));
        }
        timed
    });
    finished?;
    Ok(timed)
}

/// The floor of handing over: the rows, which lie ready, copied to a ring one by one.
fn ring(events: &[Event]) -> Timed {
    let (mut rows, mut lengths, mut texts) = (Vec::new(), Vec::new(), Texts::default());
    for event in events {
        let before = rows.len();
        rows.extend([event.at.instruction, u64::from(event.at.vcpu) << 16 | u64::from(event.at.pcpu)]);
        push_row(&event.what, &mut rows, &mut texts);
        lengths.push(rows.len() - before);
    }
    let mut ring = vec![0; RING];
    let mut at = 0;
    let took = passes(|| {
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
    took.unwrap_or(Timed::NONE)
}

fn encode(events: &[Event]) -> Result<Timed, traces::Error> {
    let mut writer = Writer::create(io::sink(), &header())?;
    passes(|| {
        events.iter().try_for_each(|event| writer.push(event))?;
        writer.end_block()
    })
}

/// Decoding every table to columns, from the file's bytes and from blocks that were decompressed before.
fn decode(bytes: &[u8]) -> Result<[Timed; 2], traces::Error> {
    let mut rows = Rows::default();
    let mut read = |reader: &Reader, block: usize| {
        Kind::ALL.iter().try_for_each(|&kind| {
            reader.block_columns_into(block, kind, None, &mut rows)?;
            black_box(&rows);
            Ok(())
        })
    };
    // A reader of its own for each pass: one keeps what it decompressed last.
    let compressed = passes(|| {
        let reader = Reader::from_bytes(bytes.to_vec())?;
        (0..reader.blocks().len()).try_for_each(|block| read(&reader, block))
    })?;
    let reader = Reader::from_bytes(bytes.to_vec())?;
    let blocks = reader.blocks();
    let (since, mut events) = (Instant::now(), 0);
    let mut sum = Timed { best: Duration::ZERO, ..Timed::NONE };
    for block in (0..blocks.len()).step_by(blocks.len().div_ceil(BLOCKS).max(1)) {
        read(&reader, block)?;
        let mut timed = Timed::NONE;
        for _ in 0..PASSES {
            let start = thread(since);
            (0..AGAIN).try_for_each(|_| read(&reader, block))?;
            timed.add(thread(since).saturating_sub(start) / AGAIN);
        }
        sum = Timed { best: sum.best + timed.best, worst: sum.worst + timed.worst, ..timed };
        events += blocks[block].events;
    }
    // As if all blocks had been read.
    let all = reader.len() as f64 / f64::from(events.max(1));
    Ok([compressed, Timed { best: sum.best.mul_f64(all), worst: sum.worst.mul_f64(all), ..sum }])
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

fn copy(columns: &[Vec<u8>]) -> Timed {
    let mut to: Vec<Vec<u8>> = columns.to_vec();
    let took = passes(|| {
        for (from, to) in columns.iter().zip(&mut to) {
            to.copy_from_slice(black_box(from));
        }
        black_box(&to);
        Ok::<_, ()>(())
    });
    took.unwrap_or(Timed::NONE)
}

/// Bytes under zstd -1, and the times to compress and to decompress.
fn squeeze(columns: &[Vec<u8>]) -> Result<(usize, Timed, Timed), traces::Error> {
    let mut compressor = zstd::bulk::Compressor::new(1).map_err(traces::Error::Write)?;
    let mut decompressor = zstd::bulk::Decompressor::new().map_err(traces::Error::Read)?;
    let pack = |compressor: &mut zstd::bulk::Compressor<'_>| {
        columns
            .iter()
            .map(|block| compressor.compress(block).map_err(traces::Error::Write))
            .collect::<Result<Vec<_>, _>>()
    };
    let packed = pack(&mut compressor)?;
    let packing = passes(|| pack(&mut compressor).map(|packed| drop(black_box(packed))))?;
    let unpacking = passes(|| {
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
