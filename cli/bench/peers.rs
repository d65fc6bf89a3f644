//! The same exits and entries in the files of `trace-cmd` and `perf`, and how fast each is read.

use super::clock::{children, passes, thread};
use super::format::{is_transition, size, write};
use hv_defs::event::{Event, Kind};
use recorder::foreign::{Detail, Layout, Tape, write_perf_data, write_trace_dat};
use std::fs::File;
use std::hint::black_box;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use traces::{Reader, Rows};

/// So many events at least are read, so that starting a tool counts little: fewer are repeated.
const LEAST: usize = 100_000;
/// Runs of a tool, of which the best counts.
const RUNS: usize = 3;
/// A file, and how it is read.
#[derive(Clone, PartialEq, Debug)]
pub struct Peer {
    /// Its key.
    pub name: &'static str,
    /// What wrote the file, and what reads it.
    pub what: String,
    /// Bytes an event, or why there are no figures.
    pub bytes: Result<f64, String>,
    /// Millions of events a second of CPU time, read to text.
    pub text: Option<f64>,
    /// The same to columns; the others have none.
    pub columns: Option<f64>,
}

/// What was measured.
#[derive(Clone, PartialEq, Debug)]
pub struct Peers {
    /// Exits and entries of the trace.
    pub events: usize,
    /// How often they are in the files that are read: those whose bytes count have them once.
    pub repeated: usize,
    /// Ours first.
    pub peers: Vec<Peer>,
}

/// Measures on the exits and entries among these events; `None` where there are none. `line` is how an event is shown.
///
/// # Errors
/// A file could not be written, or a trace not be read back.
pub fn measure(events: &[Event], line: fn(u64, &Event) -> String, folder: &Path) -> Result<Option<Peers>, Failed> {
    let Some(Transitions { once, many, repeated }) = transitions(events) else { return Ok(None) };
    let first = ours(&once, &many, line)?;
    let peers = [vec![first], others(&once, &many, folder)?].concat();
    Ok(Some(Peers { events: once.len(), repeated, peers }))
}

/// Exits and entries.
pub(super) struct Transitions {
    pub(super) once: Vec<Event>,
    /// As often that there are enough of them to be read.
    pub(super) many: Vec<Event>,
    pub(super) repeated: usize,
}

/// The exits and entries among these events; `None` where there are none.
pub(super) fn transitions(events: &[Event]) -> Option<Transitions> {
    let once: Vec<Event> = events.iter().filter(|event| is_transition(event)).cloned().collect();
    let last = once.last().map(|event| event.at.instruction + 1)?;
    let repeated = LEAST.div_ceil(once.len());
    let mut many = once.clone();
    for round in 1..repeated as u64 {
        let later = once.iter().cloned().map(|mut event| {
            event.at.instruction = event.at.instruction.saturating_add(last.saturating_mul(round));
            event
        });
        many.extend(later);
    }
    Some(Transitions { once, many, repeated })
}

/// Why it could not be measured.
pub type Failed = Box<dyn std::error::Error + Send + Sync>;

fn rate(events: usize, took: Duration) -> f64 {
    events as f64 / took.as_secs_f64() / 1e6
}

fn ours(once: &[Event], many: &[Event], line: fn(u64, &Event) -> String) -> Result<Peer, Failed> {
    let bytes = write(many)?;
    let since = Instant::now();
    let reader = Reader::from_bytes(bytes.clone())?;
    let start = thread(since);
    for (number, event) in (0..).zip(reader.events(0)) {
        black_box(line(number, &event?));
    }
    let text = thread(since).saturating_sub(start);
    let mut rows = Rows::default();
    let columns = passes(|| {
        let reader = Reader::from_bytes(bytes.clone())?;
        for block in 0..reader.blocks().len() {
            for kind in [Kind::Exit, Kind::Entry] {
                reader.block_columns_into(block, kind, None, &mut rows)?;
                black_box(&rows);
            }
        }
        Ok::<_, traces::Error>(())
    })?
    .best;
    Ok(Peer {
        name: "nvmx",
        what: "nvmx, `nvmx dump` and columns".into(),
        bytes: Ok(size(once)? as f64 / once.len() as f64),
        text: Some(rate(many.len(), text)),
        columns: Some(rate(many.len(), columns)),
    })
}

/// A tool's files: of one event, of all events, and of these as often as there are many.
type Files = [PathBuf; 3];

fn others(once: &[Event], many: &[Event], folder: &Path) -> io::Result<Vec<Peer>> {
    let counts = [1, once.len(), many.len()];
    let tapes = counts.map(|count| Tape::of(&many[..count], Layout::Host, Detail::Exits));
    let files = |name: &str| counts.map(|count| folder.join(format!("{count}-{name}")));
    let mut peers = Vec::new();

    let (tool, package) = TRACE_CMD_IS;
    let trace_cmd = version(tool, package);
    let (six, seven) = (files("6.dat"), files("7.dat"));
    for (file, tape) in six.iter().zip(&tapes) {
        write_trace_dat(tape, File::create(file)?)?;
    }
    let converted = trace_cmd.clone().and_then(|_| {
        six.iter().zip(&seven).try_for_each(|(from, to)| {
            let words = ["convert", "--file-version", "7", "--compression", "zstd", "-i"];
            run(Command::new("trace-cmd").args(words).arg(from).arg("-o").arg(to))
        })
    });
    let report = ["trace-cmd", "report", "-i"];
    let what = named(&trace_cmd, "trace-cmd", "version 6, `trace-cmd report`");
    peers.push(peer("trace-cmd-6", what, trace_cmd.clone().map(|_| six), &report, counts));
    let what = named(&trace_cmd, "trace-cmd", "version 7 with zstd, `trace-cmd report`");
    peers.push(peer("trace-cmd-7-zstd", what, converted.map(|()| seven), &report, counts));

    let (tool, package) = PERF_IS;
    let (perf, data) = (version(tool, package), files("perf.data"));
    for (file, tape) in data.iter().zip(&tapes) {
        write_perf_data(tape, File::create(file)?)?;
    }
    let what = named(&perf, "perf", "`perf script`");
    // perf reads only its user's files, unless it is forced to.
    let script = ["perf", "script", "-f", "-i"];
    peers.push(peer("perf", what, perf.map(|_| data), &script, counts));
    Ok(peers)
}

fn named(version: &Result<String, String>, tool: &str, what: &str) -> String {
    format!("{}, {what}", version.as_deref().unwrap_or(tool))
}

/// A tool's figures. What it needs for a file of one event is not the events', and is taken off.
fn peer(
    name: &'static str,
    what: String,
    files: Result<Files, String>,
    words: &[&str],
    [_, once, many]: [usize; 3],
) -> Peer {
    let figures = files.and_then(|[one, all, often]| {
        let bytes = |file: &Path| file.metadata().map(|of| of.len()).map_err(|error| error.to_string());
        let bytes = bytes(&all)?.saturating_sub(bytes(&one)?);
        let took = read(words, &often)?.saturating_sub(read(words, &one)?);
        Ok((bytes as f64 / once as f64, rate(many, took.max(Duration::from_millis(1)))))
    });
    let text = figures.as_ref().ok().map(|(_, text)| *text);
    Peer { name, what, bytes: figures.map(|(bytes, _)| bytes), text, columns: None }
}

/// The tools, and which of Debian's packages have them.
pub(super) const TRACE_CMD_IS: (&str, &str) = ("trace-cmd", "trace-cmd");
pub(super) const PERF_IS: (&str, &str) = ("perf", "linux-perf");

/// What a tool calls itself, in its first line with a number; else why it cannot be run.
pub(super) fn version(tool: &str, package: &str) -> Result<String, String> {
    let output = Command::new(tool).arg("--version").stdin(Stdio::null()).output();
    let output = output.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => format!("not installed: apt-get install {package}"),
        _ => format!("cannot be run: {error}"),
    })?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let number = said.split_whitespace().find(|word| word.starts_with(|of: char| of.is_ascii_digit()));
    Ok(format!("{tool} {}", number.unwrap_or_default()).trim_ascii_end().to_owned())
}

/// The CPU time of a tool that reads a file, the best of some runs.
fn read(words: &[&str], file: &Path) -> Result<Duration, String> {
    let mut best = Duration::MAX;
    for _ in 0..RUNS {
        let before = children();
        let since = Instant::now();
        run(Command::new(words[0]).args(&words[1..]).arg(file))?;
        best = best.min(match (before, children()) {
            (Some(before), Some(after)) => after.saturating_sub(before),
            _ => since.elapsed(),
        });
    }
    Ok(best)
}

fn run(command: &mut Command) -> Result<(), String> {
    let output = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).output();
    let output = output.map_err(|error| format!("cannot be run: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    Err(said.lines().rfind(|line| !line.trim_ascii().is_empty()).unwrap_or("it failed").trim_ascii().to_owned())
}
