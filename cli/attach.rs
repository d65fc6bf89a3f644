//! `nvmx attach`: KVM on this host, recorded as it runs.

mod live;

use super::fail::{Fails, Failure, Result, Status, say};
use super::print::{Print, bytes, count, of};
use super::words::AttachArgs;
use core::ops::ControlFlow;
use live::Live;
use recorder::attach::{Attach, Attached, Counts, Error, Options, Who};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// `nvmx attach`.
pub fn attach(args: &AttachArgs, print: &Print) -> Result<Status> {
    let whom = args.pid.map_or("this host".to_owned(), |pid| format!("process {pid}"));
    let fail = |error| failure(&whom, error);
    let who = args.pid.map_or(Ok(Who::Host), Who::of).map_err(fail)?;
    let options = Options {
        events: args.events.clone(),
        buffer: args.buffer as usize,
        probes: !args.no_probes,
        counters: !args.no_counters,
        ..Options::of(who)
    };
    // A second Ctrl-C changes nothing: the trace is whole a moment later.
    let stop = Arc::new(AtomicBool::new(false));
    for signal in super::fail::ending_signals() {
        signal_hook::flag::register(signal, stop.clone()).or_fail(Status::Failed, "cannot listen for Ctrl-C")?;
    }
    let path = match (&args.output, args.live) {
        (Some(path), _) => Some(path.clone()),
        (None, true) => None,
        (None, false) => Some(PathBuf::from("attach.nvmx")),
    };
    let attach = Attach::open(options).map_err(fail)?;
    attach.notes().iter().for_each(|note| print.note(note));
    if !args.live {
        let until = args.duration.map_or("Ctrl-C ends it".into(), |seconds| format!("for {seconds} s"));
        print.note(format!("recording {}, {until}", following(&attach, args.pid)));
    }
    let mut live = args.live.then(|| Live::open(args.interval)).transpose()?;
    let end = args.duration.map(|seconds| Instant::now() + Duration::from_secs_f64(seconds));
    let mut broken = None;
    let attached = recorder::attach::run(attach, path.as_deref(), |attach, events| {
        if let Some(live) = &mut live {
            match live.show(attach, events) {
                Ok(ControlFlow::Continue(())) => {}
                Ok(ControlFlow::Break(())) => return ControlFlow::Break(()),
                Err(error) => {
                    broken = Some(error);
                    return ControlFlow::Break(());
                }
            }
        }
        let over = stop.load(Ordering::Relaxed) || end.is_some_and(|end| Instant::now() >= end);
        if over { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    // The terminal first: what follows is to be read on it.
    let closed = live.map_or(Ok(()), Live::close);
    let attached = attached.map_err(fail)?;
    closed?;
    told(&attached, path.as_deref(), &whom, print);
    if args.json {
        writeln!(io::stdout(), "{:#}", json(&attached, path.as_deref()))?;
    }
    match broken {
        Some(error) => Err(error.into()),
        None => Ok(Status::Done),
    }
}

/// Whom a recording follows, in words.
fn following(attach: &Attach, pid: Option<u32>) -> String {
    let names: Vec<_> = attach.machines().iter().map(|of| format!("{} ({})", of.name, of.process)).collect();
    match (pid, names.as_slice()) {
        (Some(pid), [name]) if name.ends_with(&format!("({pid})")) => name.clone(),
        (Some(pid), [name]) => format!("thread {pid} of {name}"),
        (_, []) => "this host, where no virtual machine runs yet".into(),
        (_, names) => format!("this host: {}", names.join(", ")),
    }
}

/// Says what a recording saw.
fn told(attached: &Attached, path: Option<&Path>, whom: &str, print: &Print) {
    let totals = &attached.totals;
    if attached.over {
        print.note(format!("{whom} has ended"));
    }
    let seconds = attached.took.as_secs_f64();
    match (&attached.summary, path) {
        (Some(summary), Some(path)) => print.note(format!(
            "recorded {} in {}, {}, {seconds:.1} s",
            of(summary.events, "event"),
            path.display(),
            bytes(summary.bytes)
        )),
        _ => print.note(format!("saw {} in {seconds:.1} s", of(totals.recorded.values().sum(), "record"))),
    }
    let line = |counts: &BTreeMap<String, u64>| {
        let of = |(name, count_of): (&String, &u64)| format!("{name} {}", count(*count_of));
        counts.iter().filter(|(_, count)| **count > 0).map(of).collect::<Vec<_>>().join(", ")
    };
    let recorded = line(&totals.recorded);
    print.note(if recorded.is_empty() { "no tracepoint was hit".into() } else { format!("tracepoints: {recorded}") });
    let unmapped = line(&totals.unmapped);
    if !unmapped.is_empty() && path.is_some() {
        print.detail(format!("counted, and without a counterpart among our events: {unmapped}"));
    }
    for thread in totals.counters.iter().filter(|thread| thread.counts.iter().any(|(_, count)| *count > 0)) {
        let counts = thread.counts.iter().map(|(name, number)| format!("{name} {}", count(*number)));
        print.note(format!(
            "thread {} of {}: {}",
            thread.thread,
            thread.process,
            counts.collect::<Vec<_>>().join(", ")
        ));
    }
    if totals.lost > 0 {
        say(&format!(
            "{} lost, for the buffer was full: name a larger --buffer, or fewer --events",
            of(totals.lost, "record")
        ));
    }
    if let Some((many, why)) = &totals.wrong {
        say(&format!("{} not understood: {why}", of(*many, "record")));
    }
    if totals.late > 0 {
        print.detail(format!("{} came too late for their place", of(totals.late, "record")));
    }
}

/// What a recording saw, as docs/json.md says.
fn json(attached: &Attached, path: Option<&Path>) -> Value {
    let totals = &attached.totals;
    let machines = attached
        .machines
        .iter()
        .map(|of| json!({ "name": of.name, "vmm": of.vmm, "process": of.process, "first_vcpu": of.first }));
    json!({
        "trace": path.map(|path| path.display().to_string()),
        "events": attached.summary.as_ref().map(|summary| summary.events),
        "bytes": attached.summary.as_ref().map(|summary| summary.bytes),
        "seconds": attached.took.as_secs_f64(),
        "over": attached.over,
        "recorded": totals.recorded,
        "lost": totals.lost,
        "unmapped": totals.unmapped,
        "wrong": totals.wrong.as_ref().map_or(0, |(count, _)| *count),
        "late": totals.late,
        "counters": totals.counters.iter().map(counters).collect::<Vec<_>>(),
        "machines": machines.collect::<Vec<_>>(),
    })
}

fn counters(of: &Counts) -> Value {
    let counts: BTreeMap<_, _> = of.counts.iter().copied().collect();
    json!({ "process": of.process, "thread": of.thread, "counts": counts })
}

fn failure(whom: &str, error: Error) -> Failure {
    let status = if error.is_usage() { Status::Usage } else { Status::Failed };
    let hint = error.hint();
    Failure::new(status, format!("cannot attach to {whom}"), error, hint)
}
