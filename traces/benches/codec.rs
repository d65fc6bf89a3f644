//! Bytes an event and events a second, of a synthetic nested workload and, where the variable `NVMX_IRIS` names a file of
//! VM seeds as the IRIS project publishes them, of that. Figures are of CPU time
//! and printed beside the floor: copying the same events.

#[path = "../tests/common/mod.rs"]
mod common;

use hv_defs::event::*;
use hv_defs::exit::{ExitReason, InterruptionInfo};
use hv_defs::vmcs::VmcsField;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use traces::{Reader, Writer};

/// The exits and VMCS accesses of a file of seeds: lines of hexadecimal, three a record.
fn iris(text: &str) -> Vec<Event> {
    let mut lines = text.lines().map(|line| u64::from_str_radix(line.trim(), 16).unwrap_or(0));
    let (mut events, mut values, mut at) = (Vec::new(), BTreeMap::new(), Stamp::default());
    let mut seed: Vec<(u64, u64, u64)> = Vec::new();
    let mut end = |seed: &mut Vec<(u64, u64, u64)>| {
        at.instruction += 1000;
        let read = |field| seed.iter().find(|&&(f, _, kind)| f == field && kind == 1).map_or(0, |&(_, value, _)| value);
        let exit = Exit {
            level: 1,
            reason: ExitReason::from(read(0x4402) as u32),
            qualification: read(0x6400),
            rip: read(0x681e),
            length: read(0x440c) as u8,
            gpa: read(0x2400),
            gla: read(0x640a),
            intr_info: InterruptionInfo::from(read(0x4404) as u32),
            vmcs12: NO_ADDRESS,
            handled_by: Actor::L0,
        };
        events.push(Event { at, what: What::Exit(exit) });
        for (field, value, kind) in seed.drain(..).filter(|&(_, _, kind)| kind < 2) {
            let (op, old) = match kind {
                1 => (VmcsOp::Read, value),
                _ => (VmcsOp::Write, values.get(&field).copied().unwrap_or(0)),
            };
            values.insert(field, value);
            let (actor, which, field) = (Actor::L0, Which::Vmcs01, VmcsField(field as u32));
            let access = VmcsAccess { actor, which, address: 0x1000, op, field, old, value };
            events.push(Event { at, what: What::Vmcs(access) });
        }
    };
    while let (Some(encoding), Some(value), Some(kind)) = (lines.next(), lines.next(), lines.next()) {
        if encoding == 0xffff_ffff && !seed.is_empty() {
            end(&mut seed);
        }
        if encoding & 0x0fff_ffff != 0x0fff_ffff {
            seed.push((encoding, value, kind));
        }
    }
    events
}

fn write(events: &[Event]) -> Vec<u8> {
    common::write(events, &[])
}

/// The time that this thread has had a CPU, so that other loads of the machine count little; else the wall's.
fn spent(since: Instant) -> Duration {
    let said = std::fs::read_to_string("/proc/thread-self/schedstat").ok();
    let nanoseconds = said.as_deref().and_then(|said| said.split(' ').next()?.parse().ok());
    nanoseconds.map_or_else(|| since.elapsed(), Duration::from_nanos)
}

/// The best of some runs, in millions of `count` a second of CPU time.
fn rate(count: usize, mut run: impl FnMut()) -> f64 {
    let since = Instant::now();
    let best = (0..5).map(|_| {
        let (start, mut runs, mut took) = (spent(since), 0, Duration::ZERO);
        while took < Duration::from_millis(100) {
            run();
            (runs, took) = (runs + 1, spent(since) - start);
        }
        took / runs
    });
    count as f64 / best.min().unwrap_or_default().as_secs_f64() / 1e6
}

fn measure(name: &str, events: &[Event]) {
    let bytes = write(events);
    let empty = write(&[]).len();
    println!("{name}: {} events, {:.2} bytes an event", events.len(), bytes.len() as f64 / events.len() as f64);
    for &kind in Kind::ALL {
        let only: Vec<Event> = events.iter().filter(|event| event.what.kind() == kind).cloned().collect();
        if only.len() > 100 {
            let size = (write(&only).len() - empty) as f64 / only.len() as f64;
            println!("  {kind:10} {size:6.2} bytes each alone");
        }
    }
    let copied = rate(events.len(), || assert_eq!(events.to_vec().len(), events.len()));
    let header = common::header();
    let encoded = rate(events.len(), || {
        let mut writer = Writer::create(std::io::sink(), &header).expect("a sink takes all");
        events.iter().for_each(|event| writer.push(event).expect("a sink takes all"));
        writer.finish().expect("a sink takes all");
    });
    let reader = Reader::from_bytes(bytes).expect("sound");
    let decoded = rate(events.len(), || assert_eq!(reader.events(0).filter(Result::is_ok).count(), events.len()));
    let columns = rate(events.len(), || {
        for block in 0..reader.blocks().len() {
            for kind in [Kind::Exit, Kind::Entry, Kind::Vmcs] {
                reader.block_columns(block, kind).expect("sound");
            }
        }
    });
    println!(
        "  millions a second: copy {copied:.1}, write {encoded:.1}, read events {decoded:.1}, read columns {columns:.1}"
    );
}

fn main() {
    measure("nested", &common::nested(60_000));
    if let Ok(text) = std::env::var("NVMX_IRIS")
        .and_then(|path| std::fs::read_to_string(path).map_err(|_| std::env::VarError::NotPresent))
    {
        let seeds = iris(&text);
        measure("iris", &seeds);
        let more: Vec<Event> = (0..10).flat_map(|_| seeds.clone()).collect();
        measure("iris, 10 times", &more);
    }
}
