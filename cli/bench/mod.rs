//! `nvmx bench`: the budgets, on this machine, beside its own floor.

mod measure;
mod peers;
mod show;
mod source;

use super::fail::{Failure, Result, Status};
use super::print::{Print, count, of};
use super::words::{BenchArgs, BenchCommand, BenchTraceArgs};
use super::{record, trace};
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
}

/// `nvmx bench`.
pub fn bench(args: &BenchArgs, print: &Print) -> Result<Status> {
    let all = BenchTraceArgs::default();
    let measured = match &args.which {
        Some(BenchCommand::Trace(args)) => traces(args, print)?,
        None => traces(&all, print)?,
    };
    let held = measured.iter().flat_map(|of| &of.rows).all(|row| row.held() != Some(false));
    let mut out = print.out();
    if args.json {
        let objects: Vec<_> = measured.iter().map(object).collect();
        let object = json!({ "cpus": cpus(), "load": load(), "held": held, "trace": objects });
        writeln!(out, "{object:#}")?;
    } else {
        let load = load().map(|load| format!(", load {load:.2}")).unwrap_or_default();
        writeln!(out, "this machine: {}{load}", of(cpus(), "CPU"))?;
        for of in &measured {
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
    Ok(Measured { name: name.into(), built_in, events: events.len(), rows, peers })
}

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
    json!({
        "name": measured.name,
        "built_in": measured.built_in,
        "events": measured.events,
        "rows": rows,
        "peers": peers,
    })
}

fn cpus() -> u64 {
    std::thread::available_parallelism().map_or(1, |cpus| cpus.get() as u64)
}

/// How many threads wanted a CPU in the last minute: figures of a machine that is busy are worse.
fn load() -> Option<f64> {
    std::fs::read_to_string("/proc/loadavg").ok()?.split(' ').next()?.parse().ok()
}
