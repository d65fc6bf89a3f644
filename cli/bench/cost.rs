//! What recording costs over running without, and how fast what was recorded replays.

use super::analysis::Failed;
use super::clock::{Cost, Meter};
use super::row::{Budget, MILLIONS, Row};
use super::source::{Recording, Subject};
use hv_defs::config::Log;
use hv_defs::event::Kind;
use replayer::{Options, replay, replay_l0};
use std::path::Path;
use std::time::Duration;
use traces::{Reader, Rows};

/// Runs and records a guest by turns, so that a machine that is slow for a while is slow for all. The recording stays in the
/// folder.
///
/// # Errors
/// The guest fails or cannot be recorded.
pub fn record(subject: &Subject, folder: &Path, rounds: usize) -> Result<(Vec<Row>, Recording), Failed> {
    let (mut run, mut vmcs, mut exits) = (Meter::default(), Meter::default(), Meter::default());
    let (path, other) = (Recording::path(subject, folder), folder.join("exits.nvmx"));
    for _ in 0..rounds {
        run.round(|| subject.run())?;
        vmcs.round(|| subject.record(Log::Vmcs, &path))?;
        exits.round(|| subject.record(Log::Exits, &other))?;
    }
    // What is left of it is in the folder, which is removed.
    let _ = std::fs::remove_file(other);
    let (run, vmcs, exits) = (run.cost(), vmcs.cost(), exits.cost());
    let percent =
        |with: Duration, without: Duration| (with.as_secs_f64() / without.as_secs_f64().max(1e-9) - 1.0) * 100.0;
    let row = |name, what, with: Duration, without: Duration| {
        Row::new(name, what, "%", percent(with, without))
            .floor(0.0, "running without, logged as exits")
            .with("run_s", without.as_secs_f64())
            .with("record_s", with.as_secs_f64())
    };
    let rows = vec![
        row("cost", "recording, by the time of the machine's thread", vmcs.thread.best, run.thread.best)
            .budget(Budget::AtMost(5.0))
            .stretch(Budget::AtMost(1.0))
            .spread(if vmcs.thread.spread() > run.thread.spread() { vmcs.thread } else { run.thread }),
        row("cost-exits", "recording with --log exits", exits.thread.best, run.thread.best),
        row("cost-all", "recording, by the time of all threads", vmcs.all.best, run.all.best),
    ];
    Ok((rows, Recording::made(subject, path, vmcs)))
}

/// Replays a recording in full, and L0 alone from a recording of what silicon answered it.
///
/// # Errors
/// A trace cannot be replayed, or its replay differs.
pub fn replays(recording: &Recording, folder: &Path, rounds: usize) -> Result<Vec<Row>, Failed> {
    let reader = Reader::open(&recording.path)?;
    let mut meter = Meter::default();
    let mut instructions = 0;
    for _ in 0..rounds {
        meter.round(|| {
            let verdict = replay(&reader, &Options::default())?;
            instructions = verdict.instructions;
            if verdict.identical() { Ok::<_, Failed>(()) } else { Err("its replay differs".into()) }
        })?;
    }
    let replayed = meter.cost();
    let rate = |time: Duration| instructions as f64 / 1e6 / time.as_secs_f64().max(1e-9);
    let full = |name, what, time: fn(&Cost) -> Duration| {
        let row = Row::new(name, what, MILLIONS, rate(time(&replayed)));
        match &recording.made {
            Some((_, made)) => row.floor(rate(time(made)), "recording the same"),
            None => row,
        }
    };
    let mut rows = vec![
        full("full", "replay, full, verifying: instructions", |cost| cost.thread.best)
            .budget(Budget::Floor)
            .spread(replayed.thread),
        full("full-all", "the same, by the time of all threads", |cost| cost.all.best),
    ];
    if recording.made.is_none() {
        rows[0].budget = None;
    }
    rows.push(l0(recording, &reader, folder, rounds)?);
    Ok(rows)
}

/// L0 alone.
fn l0(recording: &Recording, reader: &Reader, folder: &Path, rounds: usize) -> Result<Row, Failed> {
    let (name, what) = ("l0", "replay, L0 only: exits a second of CPU time");
    let recorded;
    let reader = match &recording.made {
        Some((subject, _)) => {
            let path = folder.join("l0.nvmx");
            subject.record(Log::L0, &path)?;
            recorded = Reader::open(&path)?;
            &recorded
        }
        None if reader.header().config.log == Log::L0 => reader,
        None => return Ok(Row::missing(name, what, MILLIONS, "the trace was not recorded with --log l0")),
    };
    let counts = reader.counts()?;
    let exits = counts.iter().find(|(name, _)| name == Kind::Exit.name()).map_or(0, |(_, count)| *count);
    let (mut meter, mut decoded) = (Meter::default(), Meter::default());
    for _ in 0..rounds {
        meter.round(|| {
            let verdict = replay_l0(reader, None, None)?;
            if verdict.identical() { Ok::<_, Failed>(()) } else { Err("L0's replay differs".into()) }
        })?;
        decoded.round(|| decode(reader))?;
    }
    let took = meter.cost();
    let rate = |time: Duration| exits as f64 / 1e6 / time.as_secs_f64().max(1e-9);
    Ok(Row::new(name, what, MILLIONS, rate(took.all.best))
        .floor(rate(decoded.cost().all.best), "decoding the same trace to columns")
        .budget(Budget::AtLeast(1.0))
        .stretch(Budget::AtLeast(5.0))
        .with("exits", exits as f64)
        .with("events", reader.len() as f64)
        .spread(took.all))
}

fn decode(reader: &Reader) -> Result<(), traces::Error> {
    let mut rows = Rows::default();
    for block in 0..reader.blocks().len() {
        for &kind in Kind::ALL {
            reader.block_columns_into(block, kind, None, &mut rows)?;
            std::hint::black_box(&rows);
        }
    }
    Ok(())
}
