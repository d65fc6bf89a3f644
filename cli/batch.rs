//! Many traces at once: `nvmx report` of a folder.
//!
//! Each trace is read by one of several threads, and a line of it is kept. With `-o` or `--each` the lines are written to a
//! journal as they come, so that a batch that was interrupted goes on where it was; the journal goes when all is done.

use super::fail::{Fails, Failure, Result, Status, say};
use super::folder::Named;
use super::print::{Print, of};
use super::study::{self, give};
use super::words::{ReportArgs, ReportFormat, name_of};
use analyzer::report::{Batch, Line};
use indicatif::ProgressBar;
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::UNIX_EPOCH;

/// How many broken traces are told of one by one on stderr; the report lists more.
const TOLD: usize = 10;

/// Does `work` for each of `all`, on so many threads, and returns what it gave in the order of `all`. Once it gives `None`,
/// no more is begun.
pub fn each<T: Sync, R: Send>(
    all: &[T],
    jobs: Option<NonZero<usize>>,
    bar: &ProgressBar,
    work: impl Fn(&T) -> Option<R> + Sync,
) -> Vec<Option<R>> {
    let jobs = jobs.or_else(|| thread::available_parallelism().ok()).map_or(1, NonZero::get);
    let results: Mutex<Vec<Option<R>>> = Mutex::new(all.iter().map(|_| None).collect());
    let next = AtomicUsize::new(0);
    let run = || {
        while let Some((at, one)) = {
            let at = next.fetch_add(1, Ordering::Relaxed);
            all.get(at).map(|one| (at, one))
        } {
            let Some(result) = work(one) else {
                next.store(all.len(), Ordering::Relaxed);
                break;
            };
            results.lock().unwrap_or_else(|poisoned| poisoned.into_inner())[at] = Some(result);
            bar.inc(1);
        }
    };
    thread::scope(|scope| {
        // Where there can be no more threads, those that there are do it.
        let spawn = |_| thread::Builder::new().name("trace".into()).spawn_scoped(scope, run).ok();
        let _: Vec<_> = (1..jobs.min(all.len())).map_while(spawn).collect();
        run();
    });
    results.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// What a trace came to.
type Outcome = std::result::Result<Line, String>;

/// `nvmx report` of many traces.
pub fn report(args: &ReportArgs, traces: &[Named], print: &Print) -> Result<Status> {
    if matches!(args.format, ReportFormat::Flame | ReportFormat::Folded) && args.each.is_none() {
        let what = format!("cannot draw {} in one graph", of(traces.len() as u64, "trace"));
        let why = "it would not be readable";
        return Err(Failure::new(
            Status::Usage,
            what,
            why,
            "name few traces, or a folder for a graph of each with --each",
        ));
    }
    let kept = args.output.as_deref().or(args.each.as_deref());
    let journal = kept.map(|path| Journal::open(path, args)).transpose()?;
    if let Some(folder) = &args.each {
        let what = format!("cannot write reports to {}", folder.display());
        fs::create_dir_all(folder).or_hint(Status::Usage, what, "name a folder that can be written to")?;
    }
    let bar = print.progress("analysing", traces.len() as u64);
    let failed = Mutex::new(None);
    let outcomes = each(traces, args.jobs, &bar, |trace| {
        one(args, trace, journal.as_ref())
            .map_err(|failure| {
                failed.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).get_or_insert(failure);
            })
            .ok()
    });
    bar.finish_and_clear();
    if let Some(failure) = failed.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner()) {
        return Err(failure);
    }
    let mut batch = Batch::default();
    for (trace, outcome) in traces.iter().zip(outcomes) {
        match outcome {
            Some(Ok(line)) => batch.lines.push(line),
            Some(Err(why)) => batch.broken.push((trace.name.clone(), why)),
            // All have an outcome unless one failed.
            None => {}
        }
    }
    if args.format == ReportFormat::Html
        && let Some(folder) = &args.each
    {
        batch.pages = pages(&batch, folder, args.output.as_deref());
    }
    let text = match args.format {
        ReportFormat::Text => batch.text(print.color && args.output.is_none()),
        ReportFormat::Md => batch.markdown(),
        ReportFormat::Html => batch.html(),
        ReportFormat::Json => batch.json(),
        ReportFormat::Csv => batch.csv(),
        // Each has a graph; of all of them there is a line each.
        ReportFormat::Flame | ReportFormat::Folded => batch.text(print.color && args.output.is_none()),
    };
    give(args.output.as_deref(), text.as_bytes())?;
    if let Some(journal) = journal {
        journal.close();
    }
    for (trace, why) in batch.broken.iter().take(TOLD) {
        say(&format!("{trace}: passed over: {why}"));
    }
    if let Some(left) = batch.broken.len().checked_sub(TOLD + 1) {
        say(&format!("{} passed over too", of(left as u64 + 1, "other trace")));
    }
    Ok(match (batch.lines.is_empty(), batch.broken.is_empty()) {
        (_, true) => Status::Done,
        (false, false) => Status::No,
        (true, false) => Status::Usage,
    })
}

/// Analyses a trace, or takes what an earlier run found of it. What fails is the batch: the trace's own failure is an outcome.
fn one(args: &ReportArgs, trace: &Named, journal: Option<&Journal>) -> Result<Outcome> {
    let page = args.each.as_ref().map(|folder| folder.join(page_of(&trace.name, args.format)));
    let stamp = stamp(&trace.path);
    let written = || page.as_ref().is_none_or(|page| page.exists());
    if let Some(line) = journal.and_then(|journal| journal.known(&trace.name, &stamp)).filter(|_| written()) {
        return Ok(Ok(line.clone()));
    }
    let silent = Print::silent();
    let found = match study::judged(&args.judge, &trace.path, &silent) {
        Ok(mut found) => {
            found.name = trace.name.clone();
            found
        }
        Err(failure) => return Ok(Err(failure.cause())),
    };
    if let Some(page) = page {
        let what = format!("cannot write {}", page.display());
        let hint = "make room, or name a folder that can be written to";
        if let Some(folder) = page.parent() {
            fs::create_dir_all(folder).or_hint(Status::Failed, &what, hint)?;
        }
        let text = study::draw(args.format, std::slice::from_ref(&found), false);
        traces::write_whole(&page, text.as_bytes()).or_hint(Status::Failed, &what, hint)?;
    }
    let line = Line::of(&trace.name, &found);
    if let Some(journal) = journal {
        journal.add(&stamp, &line)?;
    }
    Ok(Ok(line))
}

/// The report of a trace among those of a batch, below the folder of `--each`.
fn page_of(trace: &str, format: ReportFormat) -> PathBuf {
    let ending = match format {
        ReportFormat::Text => "txt",
        ReportFormat::Md => "md",
        ReportFormat::Html => "html",
        ReportFormat::Json => "json",
        ReportFormat::Csv => "csv",
        ReportFormat::Flame => "svg",
        ReportFormat::Folded => "folded",
    };
    // A trace that was named by a path from elsewhere stays inside.
    let inside = |part: &&str| !matches!(*part, "" | "." | "..");
    let path: PathBuf = trace.split('/').filter(inside).collect();
    let stem = path.file_name().unwrap_or_default().to_string_lossy();
    let stem = stem.strip_suffix(&format!(".{}", super::folder::ENDING)).unwrap_or(&stem);
    path.with_file_name(format!("{stem}.{ending}"))
}

/// Where the page of each trace is, as the batch's own page must link to it.
fn pages(batch: &Batch, folder: &Path, output: Option<&Path>) -> BTreeMap<String, String> {
    let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let base = output.and_then(Path::parent).map_or_else(|| absolute(Path::new(".")), absolute);
    let folder = absolute(folder);
    let mut way: Vec<String> = Vec::new();
    let mut common = base.as_path();
    while !folder.starts_with(common) {
        way.push("..".into());
        let Some(parent) = common.parent() else { break };
        common = parent;
    }
    let below = folder.strip_prefix(common).unwrap_or(&folder);
    way.extend(below.components().map(|part| escaped(&part.as_os_str().to_string_lossy())));
    let of = |line: &Line| {
        let page = page_of(&line.trace, ReportFormat::Html);
        let parts = page.components().map(|part| escaped(&part.as_os_str().to_string_lossy()));
        let way = way.iter().cloned().chain(parts).collect::<Vec<_>>().join("/");
        (line.trace.clone(), way)
    };
    batch.lines.iter().map(of).collect()
}

/// A name as a part of a link.
fn escaped(name: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte);
    name.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

/// What tells a trace from another that comes to stand in its place.
fn stamp(path: &Path) -> Value {
    let Ok(found) = fs::metadata(path) else { return Value::Null };
    let modified = found.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    json!([found.len(), modified.map(|time| time.as_nanos().to_string())])
}

/// Lines of the traces that are done, a JSON object each, beside what is being made.
struct Journal {
    path: PathBuf,
    known: HashMap<String, (Value, Line)>,
    file: Mutex<File>,
}

impl Journal {
    fn open(beside: &Path, args: &ReportArgs) -> Result<Self> {
        let mut path = beside.as_os_str().to_owned();
        path.push(".journal");
        let path = PathBuf::from(path);
        let what = format!("cannot keep a journal in {}", path.display());
        let hint = "make room, or name a place that can be written to";
        // Another build, or another question, has other answers.
        let head = json!({
            "nvmx": env!("CARGO_PKG_VERSION"),
            "journal": 1,
            "judge": name_of(args.judge.judge),
            "format": name_of(args.format),
        });
        let mut known = HashMap::new();
        let mut goes_on = false;
        if let Ok(file) = File::open(&path) {
            let mut lines = BufReader::new(file).lines().map_while(std::result::Result::ok);
            goes_on = lines.next().is_some_and(|line| serde_json::from_str::<Value>(&line).is_ok_and(|it| it == head));
            // A line that was cut off is one that was not written.
            for line in lines.filter(|_| goes_on) {
                let Ok(mut entry) = serde_json::from_str::<Value>(&line) else { continue };
                if let Some(line) = Line::read(&entry["line"]) {
                    known.insert(line.trace.clone(), (entry["stamp"].take(), line));
                }
            }
        }
        let mut open = OpenOptions::new();
        if goes_on {
            open.append(true);
        } else {
            open.write(true).create(true).truncate(true);
        }
        let mut file = open.open(&path).or_hint(Status::Usage, &what, hint)?;
        // The newline ends what a cut line began.
        let begin = if goes_on { "\n".into() } else { format!("{head}\n") };
        file.write_all(begin.as_bytes()).or_hint(Status::Failed, &what, hint)?;
        Ok(Self { path, known, file: Mutex::new(file) })
    }

    fn known(&self, trace: &str, stamp: &Value) -> Option<&Line> {
        self.known.get(trace).filter(|(known, _)| known == stamp).map(|(_, line)| line)
    }

    fn add(&self, stamp: &Value, line: &Line) -> Result<()> {
        let text = json!({ "stamp": stamp, "line": line.json() }).to_string() + "\n";
        let mut file = self.file.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let what = format!("cannot write to {}", self.path.display());
        file.write_all(text.as_bytes()).or_hint(Status::Failed, what, "make room and go on with the same command")
    }

    /// All is done: nothing is left to go on with.
    fn close(self) {
        let _ = fs::remove_file(&self.path);
    }
}
