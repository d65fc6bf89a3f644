//! `nvmx bench`: the budgets, on this machine, beside its own floor.

mod analysis;
mod counted;
mod measure;
mod peers;
mod show;
mod source;

use super::fail::{Failure, Result, Status};
use super::print::{Print, count, of};
use super::words::{BenchAnalysisArgs, BenchArgs, BenchCommand, BenchTraceArgs};
use super::{record, trace};
use counted::Counter;
use hv_defs::event::Event;
use measure::{Budget, Row};
use peers::Peers;
use serde_json::{Value, json};
use source::NoEvents;
use std::io::Write;
use std::path::Path;

/// What was measured on one trace.
struct Measured {
    name: String,
    built_in: bool,
    events: usize,
    rows: Vec<Row>,
    peers: Option<Peers>,
    counters: Option<Vec<Counter>>,
}

/// `nvmx bench`.
pub fn bench(args: &BenchArgs, print: &Print) -> Result<Status> {
    let all = BenchTraceArgs::default();
    let (measured, analysed) = match &args.which {
        Some(BenchCommand::Trace(args)) => (traces(args, print)?, Vec::new()),
        Some(BenchCommand::Analysis(args)) => (Vec::new(), analyses(args, print)?),
        None => (traces(&all, print)?, analyses(&BenchAnalysisArgs::default(), print)?),
    };
    let held = measured.iter().chain(&analysed).flat_map(|of| &of.rows).all(|row| row.held() != Some(false));
    let mut out = print.out();
    if args.json {
        let objects = |of: &[Measured]| of.iter().map(object).collect::<Vec<_>>();
        let (trace, analysis) = (objects(&measured), objects(&analysed));
        let object = json!({ "cpus": cpus(), "load": load(), "held": held, "trace": trace, "analysis": analysis });
        writeln!(out, "{object:#}")?;
    } else {
        let load = load().map(|load| format!(", load {load:.2}")).unwrap_or_default();
        writeln!(out, "this machine: {}{load}", of(cpus(), "CPU"))?;
        for of in measured.iter().chain(&analysed) {
            text(&mut out, of)?;
        }
    }
    out.flush()?;
    Ok(if args.gate && !held { Status::No } else { Status::Done })
}

/// Measures the trace format.
fn traces(args: &BenchTraceArgs, print: &Print) -> Result<Vec<Measured>> {
    let most = args.events as usize;
    if args.traces.is_empty() {
        print.note(format!("no trace is named: recording the guests {}", source::GUESTS.join(" and ")));
        let measured = source::GUESTS.iter().map(|guest| {
            let events = source::of_guest(guest, most).map_err(|error| failure(Path::new(guest), error))?;
            one(guest, true, &events, args, print)
        });
        return measured.collect();
    }
    let measured = args.traces.iter().map(|path| {
        let events = source::of_trace(path, most).map_err(|error| failure(path, error))?;
        one(&path.display().to_string(), false, &events, args, print)
    });
    measured.collect()
}

fn one(name: &str, built_in: bool, events: &[Event], args: &BenchTraceArgs, print: &Print) -> Result<Measured> {
    let bar = print.progress("measuring", measure::STEPS + if args.peers { peers::STEPS } else { 0 });
    let what = format!("cannot measure on {name}");
    let rows = measure::measure(events, &mut || bar.inc(1))
        .map_err(|error| Failure::new(Status::Failed, &what, error, "check the trace by `nvmx verify`"))?;
    let peers = match args.peers {
        true => peers::measure(events, super::dump::line_of, &mut || bar.inc(1)).map_err(|error| {
            Failure::new(Status::Failed, &what, error, "make room in the folder for temporary files")
        })?,
        false => None,
    };
    bar.finish_and_clear();
    if args.peers && peers.is_none() {
        print.note(format!("{name} has neither exits nor entries, which is all that other tools have a word for"));
    }
    Ok(Measured { name: name.into(), built_in, events: events.len(), rows, peers, counters: None })
}

/// Measures analyses, of whole files.
fn analyses(args: &BenchAnalysisArgs, print: &Print) -> Result<Vec<Measured>> {
    if !args.traces.is_empty() {
        let measured = args.traces.iter().map(|path| analysis(&path.display().to_string(), None, path, args, print));
        return measured.collect();
    }
    print.note(format!("no trace is named: recording the guests {}", source::GUESTS.join(" and ")));
    let measured = source::GUESTS.iter().map(|guest| {
        let events = source::of_guest(guest, usize::MAX).map_err(|error| failure(Path::new(guest), error))?;
        analysis(guest, Some(&events), Path::new(guest), args, print)
    });
    measured.collect()
}

/// Measures on a file, or on events that are put into one.
fn analysis(
    name: &str,
    built_in: Option<&[Event]>,
    path: &Path,
    args: &BenchAnalysisArgs,
    print: &Print,
) -> Result<Measured> {
    let bar = print.progress("measuring", analysis::STEPS + if args.peers { counted::STEPS } else { 0 });
    let mut events = 0;
    let mut all = |path: &Path, folder: &Path| {
        let long = folder.join("long.nvmx");
        let path = match args.long {
            None => path,
            Some(count) => {
                analysis::lengthen(path, &long, count)?;
                &long
            }
        };
        events = ::traces::Reader::open(path)?.len() as usize;
        let rows = analysis::measure(path, &mut || bar.inc(1))?;
        if !args.peers {
            return Ok((rows, None));
        }
        let some = source::of_trace(path, COUNTED).map_err(|error| error.to_string())?;
        let Some(of) = peers::transitions(&some) else { return Ok((rows, None)) };
        Ok((rows, Some(counted::measure(&of.many, folder, &mut || bar.inc(1))?)))
    };
    let measured = peers::in_a_folder(|folder| match built_in {
        None => all(path, folder),
        Some(events) => {
            let path = folder.join("guest.nvmx");
            analysis::write(events, &path)?;
            all(&path, folder)
        }
    });
    bar.finish_and_clear();
    let (rows, counters) = measured.map_err(|error| match error.downcast::<::traces::Error>() {
        Ok(error) => trace::unreadable(path, *error),
        Err(error) => {
            let what = format!("cannot measure on {name}");
            Failure::new(Status::Failed, what, error, "check the trace by `nvmx verify`")
        }
    })?;
    if args.peers && counters.is_none() {
        print.note(format!("{name} has neither exits nor entries, which is all that other tools have a word for"));
    }
    Ok(Measured { name: name.into(), built_in: built_in.is_some(), events, rows, peers: None, counters })
}

/// Events of a trace whose exits others count too, at most about so many.
const COUNTED: usize = 4_000_000;

fn failure(path: &Path, error: NoEvents) -> Failure {
    match error {
        NoEvents::Trace(error) => trace::unreadable(path, error),
        NoEvents::Guest(error) => record::failure(error, &path.to_string_lossy(), None),
        NoEvents::Empty => {
            let what = format!("cannot measure on {}", path.display());
            Failure::new(Status::Usage, what, error, "name another trace")
        }
    }
}

fn text(out: &mut impl Write, measured: &Measured) -> Result<()> {
    let how = if measured.built_in { ", built in" } else { "" };
    writeln!(out, "\n{}{how}: {}", measured.name, of(measured.events as u64, "event"))?;
    write!(out, "{}", show::rows(&measured.rows))?;
    if let Some(peers) = &measured.peers {
        let repeated = match peers.repeated {
            1 => String::new(),
            times => format!(", repeated {times} times to be read"),
        };
        writeln!(out, "its {} exits and entries beside other tools{repeated}", count(peers.events as u64))?;
        write!(out, "{}", show::peers(peers))?;
    }
    if let Some(counters) = &measured.counters {
        writeln!(out, "its exits counted by reason")?;
        write!(out, "{}", counted::table(counters))?;
    }
    Ok(())
}

fn object(measured: &Measured) -> Value {
    let rows = measured.rows.iter().map(|row| {
        let (at_most, at_least) = match row.budget {
            None => (None, None),
            Some(Budget::AtMost(limit)) => (Some(limit), None),
            Some(Budget::AtLeast(limit)) => (None, Some(limit)),
        };
        json!({
            "name": row.name,
            "what": row.what,
            "unit": row.unit,
            "value": row.value,
            "floor": row.floor,
            "floor_is": row.floor_is,
            "ratio": row.ratio(),
            "at_most": at_most,
            "at_least": at_least,
            "held": row.held(),
        })
    });
    let rows: Vec<Value> = rows.collect();
    let peers = measured.peers.as_ref().map(|peers| {
        let files = peers.peers.iter().map(|peer| {
            json!({
                "name": peer.name,
                "what": peer.what,
                "bytes": peer.bytes.as_ref().ok(),
                "missing": peer.bytes.as_ref().err(),
                "text": peer.text,
                "columns": peer.columns,
            })
        });
        json!({ "events": peers.events, "repeated": peers.repeated, "files": files.collect::<Vec<_>>() })
    });
    let counters = measured.counters.as_ref().map(|counters| {
        let counters = counters.iter().map(|of| {
            json!({
                "name": of.name,
                "what": of.what,
                "rate": of.rate.as_ref().ok(),
                "missing": of.rate.as_ref().err(),
                "ratio": of.ratio,
                "agrees": of.agrees,
            })
        });
        counters.collect::<Vec<_>>()
    });
    json!({
        "name": measured.name,
        "built_in": measured.built_in,
        "events": measured.events,
        "rows": rows,
        "peers": peers,
        "counters": counters,
    })
}

fn cpus() -> u64 {
    std::thread::available_parallelism().map_or(1, |cpus| cpus.get() as u64)
}

/// How many threads wanted a CPU in the last minute: figures of a machine that is busy are worse.
fn load() -> Option<f64> {
    std::fs::read_to_string("/proc/loadavg").ok()?.split(' ').next()?.parse().ok()
}
