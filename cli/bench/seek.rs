//! How long it takes to go to an event of a trace.

use super::analysis::Failed;
use super::clock::thread;
use super::row::{Budget, Row};
use super::source::Recording;
use replayer::beside::{beside, replay_keeping};
use replayer::{Cursor, Options, replay};
use std::time::{Duration, Instant};
use traces::Reader;

/// What checkpoints of a recording that is made here may take, in thousandths of the trace: room for all of them.
const PER_MILLE: u32 = 1000;

/// Seeks in a recording: with the checkpoints beside it, which are made here for what is recorded here.
///
/// # Errors
/// The trace cannot be replayed.
pub fn measure(recording: &Recording, quick: bool) -> Result<Vec<Row>, Failed> {
    let (reader, file) = (Reader::open(&recording.path)?, beside(&recording.path));
    let since = Instant::now();
    let began = thread(since);
    let verdict = match recording.made {
        Some(_) => replay_keeping(&reader, &file, PER_MILLE, &mut |_| {})?.0,
        None => replay(&reader, &Options::default())?,
    };
    let whole = thread(since).saturating_sub(began);
    if !verdict.identical() || reader.is_empty() {
        return Err("its replay differs, or it has no events".into());
    }
    // A cursor of its own for each place, as a command has one.
    let fresh = |with: bool| -> Result<(Cursor<'_>, usize), Failed> {
        let mut cursor = Cursor::open(&reader)?;
        // Without a file of checkpoints, or with one of another build, seeking is slower and right.
        let points = if with { cursor.use_beside(&file).unwrap_or(0) } else { 0 };
        Ok((cursor, points))
    };
    let points = fresh(true)?.1;
    // Over the run's instructions: most events may be in a few of its stretches.
    let places = |count: u64| -> Result<Vec<u64>, Failed> {
        (1..=count).map(|at| event_at(&reader, at * 7 % count * (verdict.instructions / count))).collect()
    };
    let timed = |cursor: &mut Cursor<'_>, event: u64| -> Result<Duration, Failed> {
        let start = thread(since);
        cursor.to_event(event)?;
        Ok(thread(since).saturating_sub(start))
    };
    let opening = |count: u64, with: bool| -> Result<Times, Failed> {
        let times = places(count)?.into_iter().map(|event| {
            let start = thread(since);
            fresh(with)?.0.to_event(event)?;
            Ok(thread(since).saturating_sub(start))
        });
        Times::of(times)
    };
    let (far, near) = if quick { (4, 10) } else { (20, 50) };
    let with = opening(far, true)?;
    let without = opening(if quick { 2 } else { 3 }, false)?;
    let read = Times::of(places(far)?.into_iter().map(|event| {
        let start = thread(since);
        std::hint::black_box(Reader::open(&recording.path)?.event(event)?);
        Ok(thread(since).saturating_sub(start))
    }))?;
    let mut cursor = fresh(true)?.0;
    let by_one = Times::of(places(near)?.into_iter().map(|event| timed(&mut cursor, event)))?;
    let mut cursor = fresh(false)?.0;
    cursor.to_event(reader.len() - 1)?;
    let passed = Times::of(places(near)?.into_iter().map(|event| timed(&mut cursor, event)))?;
    let again = Times::of(places(near)?.into_iter().map(|event| timed(&mut cursor, event)))?;
    let floor = "opening the trace and reading the event";
    let row = |name, what: &str, time: Duration| Row::new(name, what, "ms", milliseconds(time));
    let mut rows = vec![
        row("longest", "seek to any event, the longest of some all over it", with.longest)
            .floor(milliseconds(read.longest), floor)
            .budget(Budget::AtMost(1000.0))
            .stretch(Budget::AtMost(50.0))
            .with("replay_s", whole.as_secs_f64())
            .with("checkpoints", points as f64)
            .with("instructions", verdict.instructions as f64),
        row("median", "the median of them", with.median).floor(milliseconds(read.median), floor),
        row("without", "the longest without checkpoints beside the trace", without.longest),
        row("one-cursor", "places all over it by one cursor, the median", by_one.median),
        row("passed", "places that a cursor has passed, the median", passed.median),
        row("again", "the same places again, the median", again.median),
    ];
    let middle = reader.len() / 2;
    cursor.to_event(middle)?;
    for (name, distance) in [("back-1", 1), ("back-100", 100), ("back-10000", 10_000)] {
        if distance < middle {
            let times = (0..6).map(|at| timed(&mut cursor, if at % 2 == 0 { middle - distance } else { middle }));
            let what = format!("{distance} events back and on again, the longest");
            rows.push(row(name, &what, Times::of(times)?.longest));
        }
    }
    Ok(rows)
}

/// The first event at that instruction or behind it.
fn event_at(reader: &Reader, instruction: u64) -> Result<u64, Failed> {
    let (mut low, mut high) = (0, reader.len() - 1);
    while low < high {
        let middle = low + (high - low) / 2;
        let at = reader.event(middle)?.at.instruction;
        (low, high) = if at < instruction { (middle + 1, high) } else { (low, middle) };
    }
    Ok(low)
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// What some times came to.
struct Times {
    median: Duration,
    longest: Duration,
}

impl Times {
    fn of(times: impl Iterator<Item = Result<Duration, Failed>>) -> Result<Self, Failed> {
        let mut times = times.collect::<Result<Vec<_>, _>>()?;
        times.sort_unstable();
        let longest = times.last().copied().ok_or("there was no place to go to")?;
        Ok(Self { median: times[times.len() / 2], longest })
    }
}
