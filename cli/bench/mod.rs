//! `nvmx bench`: the budgets, on this machine, beside its own floor and beside other programs.

mod analysis;
mod bed;
mod budgets;
mod clock;
mod cost;
mod counted;
mod cpu;
mod emulators;
mod format;
mod fresh;
mod guest;
mod inspector;
mod machine;
mod marks;
mod nested;
mod part;
mod peers;
mod resident;
mod row;
mod seek;
mod shadowing;
mod show;
mod source;

use super::fail::{Fails, Failure, Result, Status};
use super::print::{Print, count, of};
use super::trace;
use super::words::BenchArgs;
use analysis::Failed;
use bed::{Bed, failure};
use budgets::Line;
use counted::Counter;
use part::Part;
use peers::Peers;
use row::{Peer, Row};
use serde_json::{Value, json};
use source::Recording;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Events of a trace that the trace format is measured on, at most about so many.
const EVENTS: u64 = 1_000_000;
/// The same when it has to be quick.
const FEW: u64 = 100_000;
/// Events of a trace whose exits others count too.
const COUNTED: usize = 4_000_000;
/// Rounds of what is measured by turns.
const ROUNDS: usize = 3;

/// What a part measured on one thing.
#[derive(Debug)]
pub struct Measured {
    part: Part,
    name: String,
    built_in: bool,
    events: Option<usize>,
    rows: Vec<Row>,
    peers: Option<Peers>,
    counters: Option<Vec<Counter>>,
}

impl Measured {
    fn new(part: Part, name: impl Into<String>, rows: Vec<Row>) -> Self {
        Self { part, name: name.into(), built_in: false, events: None, rows, peers: None, counters: None }
    }

    /// The same, of a recording.
    fn of(part: Part, recording: &Recording, rows: Vec<Row>) -> Self {
        Self { built_in: recording.built_in, ..Self::new(part, &recording.name, rows) }
    }
}

/// `nvmx bench`.
pub fn bench(args: &BenchArgs, print: &Print) -> Result<Status> {
    let (parts, traces) = words(&args.words)?;
    let whole = parts.is_empty();
    let parts = if whole { Part::ALL.to_vec() } else { parts };
    if let Some(part) = parts.iter().find(|part| !whole && !traces.is_empty() && !part.takes_traces()) {
        let what = format!("cannot measure {} on {}", part.name(), traces[0].display());
        return Err(Failure::new(Status::Usage, what, "it runs guests of its own", "name parts that read traces"));
    }
    if args.only_memory {
        return only_memory(&parts, &traces, print);
    }
    let (mut bed, before) = (Bed::new(args, &traces)?, machine::load());
    let bar = print.progress("measuring", parts.len() as u64);
    let (mut measured, mut failed) = (Vec::new(), Vec::new());
    for &part in &parts {
        bar.set_message(part.name());
        match measure(part, whole, &mut bed, args, print) {
            Ok(of_part) => measured.extend(of_part),
            // The other parts have figures all the same.
            Err(failure) if whole => failed.push((part, failure.cause())),
            Err(failure) => return Err(failure),
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    let why = |part| {
        let of_part = failed.iter().find(|(of, _)| *of == part).map(|(_, why)| why.clone());
        of_part.unwrap_or_else(|| "the part has no such figure".into())
    };
    let lines = budgets::lines(&parts, &measured, &why);
    let held = measured.iter().flat_map(|of| &of.rows).all(|row| row.held() != Some(false));
    let object = object(&measured, &lines, held, bed.quick, before);
    if let Some(path) = &args.output {
        let what = format!("cannot write {}", path.display());
        std::fs::write(path, format!("{object:#}\n")).or_hint(
            Status::Failed,
            what,
            "name a file that can be written",
        )?;
    }
    let mut out = print.out();
    if args.json {
        writeln!(out, "{object:#}")?;
    } else {
        writeln!(out, "this machine: {}", machine::line())?;
        if whole {
            write!(out, "\n{}", show::budgets(&lines))?;
            writeln!(out, "\nthe parts:")?;
        }
        for of in &measured {
            text(&mut out, of)?;
        }
    }
    out.flush()?;
    // A part that failed is no budget that held.
    Ok(if args.gate && !(held && failed.is_empty()) { Status::No } else { Status::Done })
}

/// What a process does that shows how much memory a part takes.
fn only_memory(parts: &[Part], traces: &[PathBuf], print: &Print) -> Result<Status> {
    for path in traces {
        let numbers = match parts {
            [Part::Inspector] => inspector::only_memory(path),
            _ => analysis::only_memory(path),
        };
        let numbers = numbers.map_err(|error| cannot(&path.display().to_string(), error))?;
        let numbers: Vec<_> = numbers.into_iter().flatten().map(|number| number.to_string()).collect();
        print.line(numbers.join(" "))?;
    }
    Ok(Status::Done)
}

/// Words that name parts, and those that name traces.
fn words(words: &[PathBuf]) -> Result<(Vec<Part>, Vec<PathBuf>)> {
    let (mut parts, mut traces) = (Vec::new(), Vec::new());
    for word in words {
        match Part::ALL.into_iter().find(|part| word.as_os_str() == part.name()) {
            Some(part) if parts.contains(&part) => {}
            Some(part) => parts.push(part),
            None if word.exists() => traces.push(word.clone()),
            None => {
                let what = format!("cannot measure {}", word.display());
                let hint = format!("the parts are {}", Part::ALL.map(Part::name).join(", "));
                return Err(Failure::new(Status::Usage, what, "there is no such part and no such file", hint));
            }
        }
    }
    // Always in one order: what one part records the next ones read.
    Ok((Part::ALL.into_iter().filter(|part| parts.contains(part)).collect(), traces))
}

/// Measures a part. `whole` is whether all are.
fn measure(part: Part, whole: bool, bed: &mut Bed, args: &BenchArgs, print: &Print) -> Result<Vec<Measured>> {
    let say = |what: &str| print.detail(format!("{}: {what}", part.name()));
    let rounds = if bed.quick { 1 } else { ROUNDS };
    match part {
        Part::Cpu => match &bed.guest {
            Ok(guest) => {
                let rows = cpu::linux(guest, bed.folder(), bed.quick, &say).map_err(|why| cannot("Linux", why))?;
                Ok(vec![Measured::new(part, "Linux", rows)])
            }
            Err(_) => bed
                .recordings(print)?
                .iter()
                .map(|recording| {
                    let rows = cpu::built_in(recording, rounds).map_err(|error| cannot(&recording.name, error))?;
                    Ok(Measured::of(part, recording, rows))
                })
                .collect(),
        },
        Part::Nested => {
            let linux = bed.guest.as_ref().map_err(String::clone);
            let mut rows = nested::measure(linux, bed.folder(), bed.quick, &say);
            rows.extend(shadowing::measure().map_err(|error| cannot("nest", error))?);
            Ok(vec![Measured::new(part, "guests of its own", rows)])
        }
        Part::Record => {
            let mut recordings = Vec::new();
            let subjects = bed.subjects(print)?;
            let measured = subjects.iter().map(|subject| {
                say(&subject.name);
                let (rows, recording) =
                    cost::record(subject, bed.folder(), rounds).map_err(|error| cannot(&subject.name, error))?;
                recordings.push(recording.clone());
                Ok(Measured::of(part, &recording, rows))
            });
            let measured = measured.collect::<Result<Vec<_>>>()?;
            bed.keep(recordings);
            Ok(measured)
        }
        Part::Trace => {
            let most = args.events.unwrap_or(if bed.quick { FEW } else { EVENTS }) as usize;
            let recordings = bed.recordings(print)?;
            recordings.iter().map(|recording| format(recording, most, whole || args.peers, bed, print)).collect()
        }
        Part::Replay => bed
            .recordings(print)?
            .iter()
            .map(|recording| {
                say(&recording.name);
                let rows = cost::replays(recording, bed.folder(), rounds.min(2));
                Ok(Measured::of(part, recording, rows.map_err(|error| cannot(&recording.name, error))?))
            })
            .collect(),
        Part::Seek => bed
            .recordings(print)?
            .iter()
            .map(|recording| {
                say(&recording.name);
                let rows = seek::measure(recording, bed.quick).map_err(|error| cannot(&recording.name, error))?;
                Ok(Measured::of(part, recording, rows))
            })
            .collect(),
        Part::Analysis => {
            let recordings = bed.recordings(print)?;
            let peers = whole || args.peers;
            let measured = recordings.iter().map(|recording| analyse(recording, !whole, peers, bed, print));
            let mut measured = measured.collect::<Result<Vec<_>>>()?;
            if whole {
                // What other parts have used is in the process, too: a process of its own says what a report takes.
                measured.iter_mut().for_each(|of| of.rows.retain(|row| row.name != "memory"));
                say("a long trace");
                let (recording, path) = bed.long(print, false)?;
                let row = analysis::long(&path).map_err(|error| cannot(&recording.name, error))?;
                measured[0].rows.push(row);
            }
            Ok(measured)
        }
        Part::Inspector => {
            say("a long trace");
            let (recording, path) = bed.long(print, !whole)?;
            let rows = inspector::measure(&path, bed.quick).map_err(|error| cannot(&recording.name, error))?;
            Ok(vec![Measured::of(part, &recording, rows)])
        }
        Part::Clone => {
            let row =
                fresh::measure(args.source.as_deref(), bed.folder()).map_err(|why| cannot("a fresh clone", why))?;
            Ok(vec![Measured::new(part, "a fresh clone", vec![row])])
        }
    }
}

fn cannot(name: &str, why: impl std::fmt::Display) -> Failure {
    Failure::new(Status::Failed, format!("cannot measure on {name}"), why, "`nvmx verify` and `nvmx run` say more")
}

/// Measures the trace format.
fn format(recording: &Recording, most: usize, with_peers: bool, bed: &Bed, print: &Print) -> Result<Measured> {
    let name = &recording.name;
    let events = source::some_events(&recording.path, most).map_err(|error| failure(Path::new(name), error))?;
    let mut rows = format::measure(&events).map_err(|error| cannot(name, error))?;
    let peers = match with_peers {
        true => peers::measure(&events, super::dump::line_of, bed.folder()).map_err(|error| cannot(name, error))?,
        false => None,
    };
    if with_peers && peers.is_none() {
        print.note(format!("{name} has neither exits nor entries, which is all that other tools have a word for"));
    }
    if let (Some(row), Some(peers)) = (rows.iter_mut().find(|row| row.name == "bytes-exit"), &peers) {
        let ours = peers.peers.first().and_then(|ours| ours.bytes.clone().ok());
        row.peers.extend(peers.peers.iter().skip(1).map(|peer| Peer {
            name: peer.name,
            what: format!("{}: an exit or an entry alone", peer.what),
            value: peer.bytes.clone(),
            beside: ours,
            slowed: false,
        }));
    }
    Ok(Measured { events: Some(events.len()), peers, ..Measured::of(Part::Trace, recording, rows) })
}

/// Measures the analysis of a whole file; of one that is as long as was asked for, unless `lengthen` is false.
fn analyse(recording: &Recording, lengthen: bool, with_peers: bool, bed: &Bed, print: &Print) -> Result<Measured> {
    let name = &recording.name;
    let all = || {
        let mut path = recording.path.clone();
        if let Some(count) = bed.asked_length().filter(|_| lengthen) {
            path = bed.folder().join("lengthened.nvmx");
            analysis::lengthen(&recording.path, &path, count)?;
        }
        let events = ::traces::Reader::open(&path)?.len() as usize;
        let rows = analysis::measure(&path)?;
        if !with_peers {
            return Ok((events, rows, None));
        }
        let some = source::some_events(&path, COUNTED)?;
        let Some(of) = peers::transitions(&some) else { return Ok((events, rows, None)) };
        Ok((events, rows, Some(counted::measure(&of.many, bed.folder())?)))
    };
    let (events, mut rows, counters) = all().map_err(|error: Failed| match error.downcast::<::traces::Error>() {
        Ok(error) => trace::unreadable(&recording.path, *error),
        Err(error) => cannot(name, error),
    })?;
    if with_peers && counters.is_none() {
        print.note(format!("{name} has neither exits nor entries, which is all that other tools have a word for"));
    }
    if let (Some(row), Some(counters)) = (rows.iter_mut().find(|row| row.name == "report"), &counters) {
        let ours = counters.first().and_then(|ours| ours.rate.clone().ok());
        row.peers.extend(counters.iter().skip(1).map(|of| Peer {
            name: of.name,
            what: format!("{}: exits counted by reason", of.what),
            value: of.rate.clone(),
            beside: ours,
            slowed: false,
        }));
    }
    Ok(Measured { events: Some(events), counters, ..Measured::of(Part::Analysis, recording, rows) })
}

fn text(out: &mut impl Write, measured: &Measured) -> Result<()> {
    let how = if measured.built_in { ", built in" } else { "" };
    let events = measured.events.map(|events| format!(": {}", of(events as u64, "event"))).unwrap_or_default();
    writeln!(out, "\n{}, {}{how}{events}", measured.part.name(), measured.name)?;
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

/// All as JSON: docs/json.md.
fn object(measured: &[Measured], lines: &[Line], held: bool, quick: bool, load_before: Option<f64>) -> Value {
    let mut object = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "machine": machine::object(),
        "cpus": machine::cpus(),
        "load": machine::load(),
        "load_before": load_before,
        "quick": quick,
        "held": held,
        "budgets": lines.iter().map(budgets::object).collect::<Vec<_>>(),
    });
    let parts = object.as_object_mut().expect("it was made as one");
    for part in Part::ALL {
        let of_part = measured.iter().filter(|of| of.part == part).map(object_of).collect();
        parts.insert(part.name().into(), Value::Array(of_part));
    }
    object
}

fn object_of(measured: &Measured) -> Value {
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
        "rows": measured.rows.iter().map(Row::object).collect::<Vec<_>>(),
        "peers": peers,
        "counters": counters,
    })
}
