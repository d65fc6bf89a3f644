//! `nvmx replay --l0`: L0 alone over silicon's recorded answers, and over altered ones.

use super::fail::{Failure, Result, Status};
use super::print::{Print, count, of};
use super::replay::{divergence_object, failure, write_divergence};
use super::words::ReplayArgs;
use hv_defs::slip::Slips;
use replayer::L0Verdict;
use serde_json::json;
use std::io::{BufWriter, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};
use traces::{Reader, WholeFile};

/// `nvmx replay --l0`, and with `--mutate`.
pub fn replay(args: &ReplayArgs, reader: &Reader, print: &Print) -> Result<Status> {
    match args.mutate {
        Some(seed) => mutate(args, reader, seed, print),
        None => alone(args, reader, print),
    }
}

fn alone(args: &ReplayArgs, reader: &Reader, print: &Print) -> Result<Status> {
    let slips = (!args.fault.is_empty()).then(|| args.fault.iter().copied().collect::<Slips>());
    let start = Instant::now();
    let bar = print.progress("replaying L0", args.to.map_or(reader.len(), |to| to + 1));
    let mut runs = 0;
    let found = loop {
        let found = replayer::replay_l0_watched(reader, args.to, slips, &mut |events| bar.set_position(events));
        runs += 1;
        if runs == args.runs || !found.as_ref().is_ok_and(L0Verdict::identical) {
            break found;
        }
    };
    bar.finish_and_clear();
    let found = found.map_err(|error| failure(&args.trace.trace, error))?;
    let took = start.elapsed();
    let mut out = print.out();
    if args.json {
        writeln!(out, "{:#}", object(&found, runs, took))?;
    } else {
        told(&mut out, &found, runs)?;
    }
    out.flush()?;
    let rate = found.entries as f64 * runs as f64 / took.as_secs_f64();
    print.detail(format!("{:.3} s, {} exits a second", took.as_secs_f64(), count(rate as u64)));
    Ok(if found.identical() { Status::Done } else { Status::No })
}

fn told(out: &mut impl Write, found: &L0Verdict, runs: u64) -> std::io::Result<()> {
    let verdict = &found.verdict;
    if let Some(divergence) = &verdict.divergence {
        return write_divergence(out, divergence);
    }
    if let Some(message) = &found.failure {
        return writeln!(out, "L0 fails behind event {}: {message}", verdict.events);
    }
    let runs = if runs == 1 { "identical".to_owned() } else { format!("{} identical runs of L0", count(runs)) };
    writeln!(
        out,
        "{runs}: {} of L0 alone over {}; {} taken from the recording",
        of(verdict.events, "event"),
        of(found.entries, "exit"),
        of(found.digests, "digest")
    )
}

fn object(found: &L0Verdict, runs: u64, took: Duration) -> serde_json::Value {
    let verdict = &found.verdict;
    json!({
        "identical": found.identical(),
        "l0": true,
        "runs": runs,
        "events": verdict.events,
        "entries": found.entries,
        "digests_taken": found.digests,
        "truncated": verdict.truncated,
        "failure": found.failure,
        "divergence": verdict.divergence.as_ref().map(divergence_object),
        "seconds": took.as_secs_f64(),
    })
}

fn mutate(args: &ReplayArgs, reader: &Reader, seed: u64, print: &Print) -> Result<Status> {
    let path = &args.trace.trace;
    let start = Instant::now();
    let bar = print.progress("altering silicon's answers", args.runs);
    let mutated = replayer::mutate(reader, seed, args.runs, &mut |done| bar.set_position(done));
    bar.finish_and_clear();
    let mutated = mutated.map_err(|error| failure(path, error))?;
    let took = start.elapsed();
    let written = match &mutated.found {
        Some(found) => {
            let output = args.output.clone().unwrap_or_else(|| PathBuf::from("l0-failure.nvmx"));
            let unwritten = |why: &dyn std::fmt::Display| {
                let what = format!("cannot write {}", output.display());
                Failure::new(Status::Usage, what, why, "name a file that can be written with --output")
            };
            let mut file = WholeFile::create(&output).map_err(|error| unwritten(&error))?;
            found.write(reader, BufWriter::new(&mut file)).map_err(|error| unwritten(&error))?;
            file.finish().map_err(|error| unwritten(&error))?;
            Some(output)
        }
        None => None,
    };
    let mut out = print.out();
    if args.json {
        let found = mutated.found.as_ref().zip(written.as_ref()).map(|(found, output)| {
            json!({
                "run": found.run,
                "message": found.message,
                "altered": found.altered,
                "trace": output.display().to_string(),
            })
        });
        let object = json!({
            "l0": true,
            "seed": seed,
            "runs": mutated.runs,
            "entries": mutated.entries,
            "found": found,
            "seconds": took.as_secs_f64(),
        });
        writeln!(out, "{object:#}")?;
    } else if let (Some(found), Some(output)) = (&mutated.found, &written) {
        writeln!(out, "run {} of seed {seed}: L0 fails: {}", found.run, found.message)?;
        for altered in &found.altered {
            writeln!(out, "  {altered}")?;
        }
        writeln!(out, "`nvmx replay --l0 {}` shows it again", output.display())?;
    } else {
        writeln!(out, "L0 held in {} with altered answers, of seed {seed}", of(mutated.runs, "run"))?;
    }
    out.flush()?;
    let rate = mutated.entries as f64 / took.as_secs_f64();
    print.detail(format!("{:.3} s, {} exits a second", took.as_secs_f64(), count(rate as u64)));
    Ok(if mutated.found.is_some() { Status::No } else { Status::Done })
}
