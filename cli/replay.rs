//! `nvmx replay`: the run again, and what it says.

use super::dump::line_of;
use super::fail::{Failure, MEMORY, Result, Status, of_writing};
use super::part;
use super::print::{Print, bytes, count, of};
use super::seek::{self, Goal};
use super::trace::{open, unreadable};
use super::words::ReplayArgs;
use hv::machine::MachineError;
use hv_defs::event::What;
use hv_defs::fields::Value;
use replayer::beside::{KeepError, beside, replay_keeping};
use replayer::gdb::{self, Address};
use replayer::{Build, Divergence, Error, Options, Runs, Verdict};
use serde_json::json;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};
use traces::seek::SeekSummary;
use traces::{Header, Reader};

/// `nvmx replay`.
pub fn replay(args: &ReplayArgs, print: &Print) -> Result<Status> {
    let path = &args.trace.trace;
    let mut reader = open(path, print)?;
    if let Some(origin) = &reader.header().origin {
        let why = format!("it was {}, and nothing says what machine to run again", origin.whence());
        let what = format!("cannot replay {}", path.display());
        return Err(Failure::new(Status::Usage, what, why, "`nvmx dump`, `query`, `report` and `tui` read it"));
    }
    if args.to.is_some_and(|to| to >= reader.len()) {
        let what = format!("cannot replay {} to event {}", path.display(), args.to.unwrap_or_default());
        let why = format!("it has {}", of(reader.len(), "event"));
        return Err(Failure::new(Status::Usage, what, why, "events are numbered from 0; `nvmx info` counts them"));
    }
    super::store::find(&mut reader, &format!("cannot replay {}", path.display()), &args.store)?;
    if let Some(line) = other_build(reader.header()) {
        print.note(format!("{} {line}", path.display()));
    }
    if args.l0 {
        return super::l0::replay(args, &reader, print);
    }
    if let Some(address) = &args.gdb {
        return debug(path, &reader, Goal::of(args), address, print);
    }
    if let Some(other) = part::other(args, &reader.header().config) {
        return part::replay(args, &other, &reader, print);
    }
    if let Some(goal) = Goal::of(args).filter(|_| args.runs == 1 && args.keep.checkpoints.is_none()) {
        return seek::go(args, goal, &reader, print);
    }
    let options = Options { to: args.to };
    let start = Instant::now();
    let runs = if let Some(per_mille) = args.keep.checkpoints {
        Ok(Runs::one(keeping(path, &reader, per_mille, print)?))
    } else if args.runs == 1 {
        let length = args.to.map_or(reader.len(), |to| to + 1);
        let bar = print.progress("replaying", length);
        let verdict = replayer::replay_watched(&reader, &options, &mut |events| bar.set_position(events));
        bar.finish_and_clear();
        verdict.map(Runs::one)
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
        writeln!(out, "{:#}", object(&reader, &runs, identical, took))?;
    } else {
        told(&mut out, &reader, &runs, identical)?;
    }
    out.flush()?;
    let instructions = runs.verdict.instructions as f64 * runs.runs as f64 / took.as_secs_f64() / 1e6;
    print.detail(format!("{:.3} s, {instructions:.0} million instructions a second", took.as_secs_f64()));
    Ok(if identical { Status::Done } else { Status::No })
}

/// Serves debuggers at a place of the run.
fn debug(path: &Path, reader: &Reader, goal: Option<Goal>, address: &Address, print: &Print) -> Result<Status> {
    let mut cursor = seek::cursor(path, reader, print)?;
    if let Some(goal) = goal {
        seek::to(&mut cursor, path, goal, reader)?;
    }
    let served = gdb::serve(&mut cursor, address, &mut |line| print.note(format!("gdb: {line}")));
    served.map_err(|error| {
        let what = format!("cannot serve {} to a debugger", path.display());
        Failure::new(Status::Usage, what, error, "give --gdb an address that is free")
    })?;
    Ok(Status::Done)
}

/// Replays, and keeps checkpoints beside the trace.
fn keeping(path: &Path, reader: &Reader, per_mille: u32, print: &Print) -> Result<Verdict> {
    let file = beside(path);
    let bar = print.progress("replaying", reader.len());
    let replayed = replay_keeping(reader, &file, per_mille, &mut |events| bar.set_position(events));
    bar.finish_and_clear();
    let (verdict, summary) = replayed.map_err(|error| match error {
        KeepError::Replay(error) => failure(path, error),
        KeepError::Write { ref source, .. } => {
            let what = format!("cannot keep checkpoints of {}", path.display());
            let (status, _) = of_writing(source);
            let hint = "they are kept beside the trace: make room there, or leave to write";
            Failure::new(status, what, error, hint)
        }
    })?;
    if let Some(summary) = &summary {
        print.note(kept(&file, summary));
    }
    Ok(verdict)
}

/// What was kept of checkpoints, for a reader.
pub fn kept(file: &Path, summary: &SeekSummary) -> String {
    let SeekSummary { points, bytes: all, image, apart, left_out } = *summary;
    let room = match left_out {
        0 => String::new(),
        _ => "; there was no room for more: --checkpoints=PERCENT gives it".to_owned(),
    };
    format!(
        "{} in {}, {}: {} of memory once, {} beside it; at most {} instructions apart{room}",
        of(points, "checkpoint"),
        file.display(),
        bytes(all),
        bytes(image),
        bytes(all - image),
        count(apart),
    )
}

/// A replay that could not be made, and what to do about it.
pub fn failure(path: &Path, error: Error) -> Failure {
    let what = format!("cannot replay {}", path.display());
    match error {
        Error::ImageMissing { .. } => {
            Failure::new(Status::Usage, what, error, "name the store that has them by --store")
        }
        Error::Image(source) => unreadable(path, source),
        Error::Machine(error @ MachineError::Host { .. }) => {
            Failure::new(Status::Usage, what, error, format!("it needs as much as was recorded: {MEMORY}"))
        }
        Error::Machine(error) => Failure::new(Status::Usage, what, error, "replay it with the nvmx that recorded it"),
        Error::NoAnswers(_) => Failure::new(Status::Usage, what, error, "record it again with `nvmx record --log l0`"),
        Error::Trace { event, source } => {
            let failure = unreadable(path, source);
            failure.after(format!("the replay was the same up to event {event} and ended there"))
        }
    }
}

fn told(out: &mut impl Write, reader: &Reader, runs: &Runs, identical: bool) -> std::io::Result<()> {
    let verdict = &runs.verdict;
    if let Some(divergence) = &verdict.divergence {
        write_divergence(out, divergence)?;
        return told_why(out, reader, verdict);
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

/// What can be told of a trace that its own machine does not reproduce: which part of it is another, and between which places.
pub fn told_why(out: &mut impl Write, reader: &Reader, verdict: &Verdict) -> std::io::Result<()> {
    let Some(divergence) = &verdict.divergence else { return Ok(()) };
    match (other_build(reader.header()), Build::of(reader.header())) {
        (Some(line), _) => writeln!(out, "the trace {line}")?,
        (None, Build::Same) => {
            writeln!(out, "this build recorded it: the trace was altered, or this is a bug in nvmx")?
        }
        (None, _) => {
            writeln!(out, "a build of this version recorded it, perhaps another one; or the trace was altered")?
        }
    }
    let (same, differs) = replayer::digests_around(reader, divergence.event);
    let same = same.map_or("the start".to_owned(), |event| format!("the digest of event {event}"));
    let differs = differs.map_or("the end".to_owned(), |event| format!("that of event {event}"));
    writeln!(out, "all registers and memory were the same at {same}; {differs} is the first behind the difference")?;
    if let Some(What::Vmcs(access)) = divergence.recorded.as_ref().map(|event| &event.what)
        && let Ok(Some((number, event))) =
            replayer::last_writer(reader, divergence.event, access.which, Some(access.address), access.field)
    {
        writeln!(out, "last written by  {}", line_of(number, &event))?;
    }
    Ok(())
}

/// What is to be known of the build that recorded a trace, if it was not this one.
fn other_build(header: &Header) -> Option<String> {
    let (recorded, ours) = (&header.build, env!("CARGO_PKG_VERSION"));
    let builds =
        if recorded == ours { format!("both nvmx {ours}") } else { format!("nvmx {recorded}, this is {ours}") };
    let same = "configuration, policy and inputs are the trace's";
    match Build::of(header) {
        Build::Same => None,
        Build::Other(parts) => {
            let (last, before) = parts.split_last()?;
            let parts =
                if before.is_empty() { (*last).to_owned() } else { format!("{} and {last}", before.join(", ")) };
            let are = if before.is_empty() { "is" } else { "are" };
            Some(format!("was recorded by another build ({builds}), whose {parts} {are} not this one's; {same}"))
        }
        Build::Unsaid if recorded == ours => None,
        Build::Unsaid => {
            Some(format!("was recorded by another build ({builds}), and does not say of what parts; {same}"))
        }
    }
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

fn object(reader: &Reader, runs: &Runs, identical: bool, took: Duration) -> serde_json::Value {
    let (verdict, build) = (&runs.verdict, Build::of(reader.header()));
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
        "divergence": verdict.divergence.as_ref().map(divergence_object),
        "other_parts": (build != Build::Unsaid).then(|| build.others()),
        "parting": null,
        "place": null,
        "seconds": took.as_secs_f64(),
    })
}
