//! `nvmx replay`: the run again, and what it says.

use super::dump::line_of;
use super::fail::{Failure, Result, Status};
use super::print::{Print, count, of};
use super::trace::{open, unreadable};
use super::words::ReplayArgs;
use hv_defs::fields::Value;
use replayer::gdb::{self, Address};
use replayer::{Cursor, Divergence, Error, Options, Runs};
use serde_json::json;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};
use traces::Reader;

/// `nvmx replay`.
pub fn replay(args: &ReplayArgs, print: &Print) -> Result<Status> {
    let path = &args.trace.trace;
    let mut reader = open(path, print)?;
    if let Some(origin) = &reader.header().origin {
        let why = format!("it was imported from {}, and nothing says what machine to run again", origin.source);
        let what = format!("cannot replay {}", path.display());
        return Err(Failure::new(Status::Usage, what, why, "`nvmx dump`, `query`, `report` and `tui` read it"));
    }
    if args.to.is_some_and(|to| to >= reader.len()) {
        let what = format!("cannot replay {} to event {}", path.display(), args.to.unwrap_or_default());
        let why = format!("it has {}", of(reader.len(), "event"));
        return Err(Failure::new(Status::Usage, what, why, "events are numbered from 0; `nvmx info` counts them"));
    }
    super::store::find(&mut reader, &format!("cannot replay {}", path.display()), &args.store)?;
    if args.l0 {
        return super::l0::replay(args, &reader, print);
    }
    if let Some(address) = &args.gdb {
        return debug(path, &reader, args.to, address, print);
    }
    let options = Options { to: args.to };
    let start = Instant::now();
    let runs = if args.runs == 1 {
        let length = args.to.map_or(reader.len(), |to| to + 1);
        let bar = print.progress("replaying", length);
        let verdict = replayer::replay_watched(&reader, &options, &mut |events| bar.set_position(events));
        bar.finish_and_clear();
        verdict.map(|verdict| Runs { runs: 1, identical: verdict.identical().into(), verdict })
    } else {
        let bar = print.progress("replaying", args.runs);
        let runs = replayer::replay_many(&reader, &options, args.runs, &|done| bar.set_position(done));
        bar.finish_and_clear();
        runs
    };
    let runs = runs.map_err(|error| failure(path, error))?;
    let took = start.elapsed();
    let identical = runs.verdict.identical() && runs.identical == runs.runs;
    if runs.verdict.truncated && !reader.truncated() && args.to.is_none() {
        print.note(format!("{} lacks the end of its run: the replay goes up to its last event", path.display()));
    }
    let mut out = print.out();
    if args.json {
        writeln!(out, "{:#}", object(&runs, identical, took))?;
    } else {
        told(&mut out, &runs, identical)?;
    }
    out.flush()?;
    let instructions = runs.verdict.instructions as f64 * runs.runs as f64 / took.as_secs_f64() / 1e6;
    print.detail(format!("{:.3} s, {instructions:.0} million instructions a second", took.as_secs_f64()));
    Ok(if identical { Status::Done } else { Status::No })
}

/// Serves debuggers at a place of the run.
fn debug(path: &Path, reader: &Reader, to: Option<u64>, address: &Address, print: &Print) -> Result<Status> {
    let told = |error| failure(path, error);
    let mut cursor = Cursor::open(reader).map_err(told)?;
    if let Some(event) = to {
        cursor.to_event(event).map_err(told)?;
    }
    let served = gdb::serve(&mut cursor, address, &mut |line| print.note(format!("gdb: {line}")));
    served.map_err(|error| {
        let what = format!("cannot serve {} to a debugger", path.display());
        Failure::new(Status::Usage, what, error, "give --gdb an address that is free")
    })?;
    Ok(Status::Done)
}

/// A replay that could not be made, and what to do about it.
pub fn failure(path: &Path, error: Error) -> Failure {
    let what = format!("cannot replay {}", path.display());
    match error {
        Error::ImageMissing { .. } => {
            Failure::new(Status::Usage, what, error, "name the store that has them by --store")
        }
        Error::Machine(error) => Failure::new(Status::Usage, what, error, "replay it with the nvmx that recorded it"),
        Error::NoAnswers(_) => Failure::new(Status::Usage, what, error, "record it again with `nvmx record --log l0`"),
        Error::Trace { event, source } => {
            let failure = unreadable(path, source);
            failure.after(format!("the replay was the same up to event {event} and ended there"))
        }
    }
}

fn told(out: &mut impl Write, runs: &Runs, identical: bool) -> std::io::Result<()> {
    let verdict = &runs.verdict;
    if let Some(divergence) = &verdict.divergence {
        return write_divergence(out, divergence);
    }
    if !identical {
        return writeln!(
            out,
            "{} of {} were identical; this is a bug in nvmx",
            count(runs.identical),
            of(runs.runs, "run")
        );
    }
    let what = format!("{} over {}", of(verdict.events, "event"), of(verdict.instructions, "instruction"));
    match runs.runs {
        1 => writeln!(out, "identical: {what}; digest {:016x}", verdict.digest),
        runs => writeln!(out, "{} identical runs of {what}; one digest, {:016x}", count(runs), verdict.digest),
    }
}

/// A difference: in one sentence, and both events.
pub fn write_divergence(out: &mut impl Write, divergence: &Divergence) -> std::io::Result<()> {
    writeln!(out, "{}", sentence(divergence))?;
    for (name, event) in [("recorded", &divergence.recorded), ("replayed", &divergence.replayed)] {
        if let Some(event) = event {
            writeln!(out, "{name}  {}", line_of(divergence.event, event))?;
        }
    }
    Ok(())
}

/// A difference in one sentence.
pub fn sentence(divergence: &Divergence) -> String {
    let Divergence { event, field, expected, got, .. } = divergence;
    match (expected, got) {
        (Value::None, got) if divergence.recorded.is_none() => {
            format!("event {event}: the recording ended, and the replay goes on with {got}")
        }
        (expected, Value::None) if divergence.replayed.is_none() => {
            format!("event {event}: the replay ended, and the recording goes on with {expected}")
        }
        _ => {
            let kind = divergence.recorded.as_ref().map_or("event", |event| event.what.kind().name());
            format!("event {event} ({kind}): {field}: expected {expected}, got {got}")
        }
    }
}

/// A difference as an object.
pub fn divergence_object(divergence: &Divergence) -> serde_json::Value {
    json!({
        "event": divergence.event,
        "field": divergence.field,
        "expected": divergence.expected.to_string(),
        "got": divergence.got.to_string(),
        "recorded": divergence.recorded.as_ref().map(|event| line_of(divergence.event, event)),
        "replayed": divergence.replayed.as_ref().map(|event| line_of(divergence.event, event)),
    })
}

fn object(runs: &Runs, identical: bool, took: Duration) -> serde_json::Value {
    let verdict = &runs.verdict;
    let divergence = verdict.divergence.as_ref().map(divergence_object);
    json!({
        "identical": identical,
        "runs": runs.runs,
        "identical_runs": runs.identical,
        "events": verdict.events,
        "instructions": verdict.instructions,
        "digest": format!("{:016x}", verdict.digest),
        "truncated": verdict.truncated,
        "stop": verdict.stop.as_ref().map(|stop| json!({
            "kind": stop.kind.name(),
            "code": stop.code,
            "text": stop.text,
        })),
        "divergence": divergence,
        "seconds": took.as_secs_f64(),
    })
}
