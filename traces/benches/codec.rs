//! Bytes an event, and what each stage of writing and reading costs, of a synthetic nested workload and of the traces whose
//! paths are in the variable `NVMX_TRACE`, with `:` between them. Figures are of CPU time, so that other loads of the
//! machine count little, and stand beside floors: what the same bytes cost to append, to copy and to compress.
//!
//! With the arguments `once STAGE RUNS [TRACE]` one stage runs so many times and nothing is measured, for tools that count
//! instructions: what `valgrind --tool=callgrind` says of 3 runs less what it says of 1 is what 2 runs cost, whatever the
//! machine's load. The stages are `push`, `write`, `columns` and `events`, the last two of a file that is not compressed.

#[path = "../tests/common/mod.rs"]
mod common;
#[path = "../tests/common/frames.rs"]
mod frames;

use frames::{frames, stored_file};
use hv_defs::event::*;
use std::hint::black_box;
use std::time::{Duration, Instant};
use traces::{Batch, Reader, Rows, Writer};

fn write(events: &[Event]) -> Vec<u8> {
    common::write(events, &[])
}

/// The time that this thread has had a CPU, so that other loads of the machine count little; else the wall's.
fn spent(since: Instant) -> Duration {
    let said = std::fs::read_to_string("/proc/thread-self/schedstat").ok();
    let nanoseconds = said.as_deref().and_then(|said| said.split(' ').next()?.parse().ok());
    nanoseconds.map_or_else(|| since.elapsed(), Duration::from_nanos)
}

/// What one run takes, in nanoseconds of CPU time: the best of some tries.
fn nanoseconds(mut run: impl FnMut()) -> f64 {
    let since = Instant::now();
    let best = (0..5).map(|_| {
        let (start, mut runs, mut took) = (spent(since), 0, Duration::ZERO);
        while took < Duration::from_millis(60) {
            run();
            (runs, took) = (runs + 1, spent(since) - start);
        }
        took / runs
    });
    best.min().unwrap_or_default().as_secs_f64() * 1e9
}

/// So few events that they stay in the cache, as those of a machine are when it tells them.
const CACHED: usize = 1024;

/// Events that are read of a trace.
const MOST: usize = 2_000_000;

/// Bytes of a ring to append records to.
const RING: usize = 1 << 20;

fn measure(name: &str, events: &[Event]) {
    let bytes = write(events);
    let (count, empty) = (events.len() as f64, write(&[]).len());
    println!("{name}: {} events, {:.2} bytes an event", events.len(), (bytes.len() - empty) as f64 / count);
    for &kind in Kind::ALL {
        let only: Vec<Event> = events.iter().filter(|event| event.what.kind() == kind).cloned().collect();
        if only.len() > 100 {
            let size = (write(&only).len() - empty) as f64 / only.len() as f64;
            println!("  {kind:10} {:9} events, {size:6.2} bytes each alone", only.len());
        }
    }
    let row = |what: &str, took: f64| {
        let each = took / count;
        println!("  {what:44} {each:7.2} ns an event {:8.1} million/s", 1e3 / each);
    };

    // Writing, stage by stage.
    let few = &events[..events.len().min(CACHED)];
    let scale = count / few.len() as f64;
    let mut ring = vec![[0_u64; 8]; RING / 64];
    let appended = nanoseconds(|| {
        for (at, event) in few.iter().enumerate() {
            ring[at % (RING / 64)] = [event.at.instruction, at as u64, 2, 3, 4, 5, 6, 7];
        }
        black_box(&mut ring);
    });
    row("floor: append a record of 64 bytes to a ring", appended * scale);
    let mut batch = Batch::default();
    let mut moved = few.to_vec();
    let pushed = nanoseconds(|| {
        for event in &mut moved {
            event.at.instruction += 1;
            if batch.push(event) {
                batch.clear();
            }
        }
    });
    row("push to a batch, from the cache", pushed * scale);
    let mut batches = vec![Batch::default()];
    for event in events {
        let last = batches.len() - 1;
        if batches[last].push(event) {
            batches.push(Batch::default());
        }
    }
    let header = common::header();
    let written = nanoseconds(|| {
        let mut writer = Writer::create(std::io::sink(), &header).expect("a sink takes all");
        batches.iter().for_each(|batch| writer.write(batch).expect("a sink takes all"));
        writer.finish().expect("a sink takes all");
    });
    row("write batches to a sink", written);
    row("push and write", pushed * scale + written);
    let messages: Vec<Vec<u8>> = frames(&bytes).into_iter().map(|frame| frame.message).collect();
    let length: usize = messages.iter().map(Vec::len).sum();
    println!("  messages: {:.2} bytes an event before compression", length as f64 / count);
    let mut room = vec![0; 33 << 20];
    let mut compressor = zstd::bulk::Compressor::new(1).expect("a compressor");
    let compressed = nanoseconds(|| {
        for message in &messages {
            compressor.compress_to_buffer(message, &mut room[..]).expect("room for all");
        }
    });
    row("  of which zstd", compressed);
    let copied = nanoseconds(|| {
        for message in &messages {
            room[..message.len()].copy_from_slice(black_box(message));
        }
    });
    row("floor: copy the messages", copied);
    drop(batches);

    // Reading.
    let small: Vec<Vec<u8>> =
        messages.iter().map(|message| zstd::bulk::compress(message, 1).expect("a compressor")).collect();
    let mut decompressor = zstd::bulk::Decompressor::new().expect("a decompressor");
    let expanded = nanoseconds(|| {
        for small in &small {
            decompressor.decompress_to_buffer(small, &mut room[..]).expect("room for all");
        }
    });
    row("floor: zstd, decompressing", expanded);
    let stored = stored_file(&frames(&bytes));
    let mut rows = Rows::default();
    for (how, bytes) in [("compressed", bytes), ("not compressed", stored)] {
        let reader = Reader::from_bytes(bytes).expect("sound");
        let columns = nanoseconds(|| all_columns(&reader, &mut rows));
        row(&format!("read columns, {how}"), columns);
        let some = nanoseconds(|| {
            for block in 0..reader.blocks().len() {
                reader.block_columns_into(block, Kind::Vmcs, Some(&["field", "op"]), &mut rows).expect("sound");
                black_box(&rows);
            }
        });
        row(&format!("read two columns of vmcs, {how}"), some);
        let decoded = nanoseconds(|| assert_eq!(reader.events(0).filter(Result::is_ok).count(), events.len()));
        row(&format!("read events, {how}"), decoded);
    }
}

/// Events that one stage is run over.
const FEW: usize = 200_000;

/// Runs one stage of the codec so many times.
fn once(stage: &str, runs: usize, events: &[Event]) {
    println!("{stage}: {runs} times over {} events", events.len());
    let mut batches = vec![Batch::default()];
    for event in events {
        let last = batches.len() - 1;
        if batches[last].push(event) {
            batches.push(Batch::default());
        }
    }
    let reader = Reader::from_bytes(stored_file(&frames(&write(events)))).expect("sound");
    let mut writer = Writer::create(std::io::sink(), &common::header()).expect("a sink takes all");
    let (mut batch, mut rows) = (Batch::default(), Rows::default());
    for _ in 0..runs {
        match stage {
            "push" => events.iter().for_each(|event| {
                if batch.push(event) {
                    batch.clear();
                }
            }),
            "write" => batches.iter().for_each(|batch| writer.write(batch).expect("a sink takes all")),
            "columns" => all_columns(&reader, &mut rows),
            _ => assert_eq!(reader.events(0).filter(Result::is_ok).count(), events.len()),
        }
    }
}

fn all_columns(reader: &Reader, rows: &mut Rows) {
    let counts = reader.counts().expect("indexed");
    for block in 0..reader.blocks().len() {
        for kind in counts.iter().filter_map(|(name, _)| Kind::by_name(name)) {
            reader.block_columns_into(block, kind, None, rows).expect("sound");
            black_box(&rows);
        }
    }
}

fn of_trace(path: &str, most: usize) -> Vec<Event> {
    let reader = Reader::open(path).expect("a trace");
    reader.events(0).filter_map(Result::ok).take(most).collect()
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [once_, stage, runs, path @ ..] = &arguments[..]
        && once_ == "once"
    {
        let events = path.first().map_or_else(|| common::nested(FEW as u64 / 18), |path| of_trace(path, FEW));
        return once(stage, runs.parse().expect("a number of runs"), &events);
    }
    let loads = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    println!("load before: {}", loads.trim());
    measure("nested", &common::nested(60_000));
    for path in std::env::var("NVMX_TRACE").iter().flat_map(|paths| paths.split(':')) {
        measure(path, &of_trace(path, MOST));
    }
}
