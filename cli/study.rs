//! What asks a trace questions: reports, the gate and the inspector.

use super::fail::{Fails, Failure, Result, Status, of_writing};
use super::print::{Print, count, of};
use super::trace::{open, unreadable};
use super::words::{JudgeArgs, JudgeBy, ReportArgs, ReportFormat, TuiArgs};
use super::{batch, folder};
use analyzer::findings::{Mistake, MistakeKind, PoolFinding};
use analyzer::judge::{Judged, Rule, Verdict};
use analyzer::{Error, Findings, report};
use replayer::judge::Need;
use std::io::Write;
use std::path::Path;
use traces::Reader;

/// Prints a text, or writes it to a file, which is there whole or not at all.
pub fn give(output: Option<&Path>, text: &[u8]) -> Result<Status> {
    match output {
        None => {
            let mut out = std::io::stdout().lock();
            out.write_all(text)?;
            out.flush()?;
        }
        Some(path) => {
            let what = format!("cannot write {}", path.display());
            traces::write_whole(path, text).or_hint(
                Status::Failed,
                what,
                "make room, or name a file that can be written",
            )?;
        }
    }
    Ok(Status::Done)
}

/// An analysis that could not be made, and what to do about it.
pub fn failure(path: &Path, error: Error) -> Failure {
    let what = format!("cannot analyse {}", path.display());
    match error {
        Error::Trace(error) => unreadable(path, error),
        Error::Output(error) => Failure::from(error),
        Error::NoTable { .. } | Error::NoColumn { .. } | Error::Query { .. } => {
            let what = format!("cannot answer the query of {}", path.display());
            Failure::new(
                Status::Usage,
                what,
                error,
                format!("`nvmx query {}` lists tables and columns", path.display()),
            )
        }
        Error::Write { path, source } => {
            let (status, hint) = of_writing(&source);
            Failure::new(status, format!("cannot write {}", path.display()), source, hint)
        }
        Error::NotOurs { path, why } => Failure::new(
            Status::Usage,
            format!("cannot export to {}", path.display()),
            why,
            "name a folder that is new, empty or an export of this kind",
        ),
        Error::Table { .. } => Failure::new(Status::Usage, what, error, "`nvmx verify` says what is whole"),
    }
}

/// The findings of an open trace.
pub fn findings(path: &Path, reader: &Reader) -> Result<Findings> {
    let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy();
    analyzer::findings(&name, reader.into()).map_err(|error| failure(path, error))
}

fn findings_with(path: &Path, reader: &Reader, tried: Option<Tried>) -> Result<Findings> {
    let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy();
    let verdicts = tried.as_ref().map(|tried| tried.verdicts.as_slice());
    let mut found = analyzer::findings_with(&name, reader.into(), verdicts).map_err(|error| failure(path, error))?;
    if let Some(tried) = tried {
        found.add_mistakes(tried.mistakes);
    }
    Ok(found)
}

/// What a second execution found.
pub struct Tried {
    pub verdicts: Vec<Judged>,
    mistakes: Vec<Mistake>,
}

/// The verdicts of a second execution, if they are wanted.
pub fn verdicts(args: &JudgeArgs, path: &Path, reader: &mut Reader, print: &Print) -> Result<Option<Tried>> {
    if args.judge == JudgeBy::Rule {
        return Ok(None);
    }
    if let Some(origin) = &reader.header().origin {
        let what = format!("cannot judge {} by replay", path.display());
        let why = format!("it was {}, and nothing says what machine to run again", origin.whence());
        return Err(Failure::new(Status::Usage, what, why, "use --judge rule"));
    }
    super::store::find(reader, &format!("cannot judge {} by replay", path.display()), &args.store)?;
    let bar = print.progress("judging", reader.len());
    let judgement = replayer::judge::judge_watched(reader, &mut |events| bar.set_position(events));
    bar.finish_and_clear();
    let judgement = judgement.map_err(|error| super::replay::failure(path, error))?;
    if let Some(divergence) = &judgement.divergence {
        print.note(format_args!(
            "the replay differs from the recording at event {}: flushes behind it are judged by rule",
            divergence.event
        ));
    }
    let judged = judgement.flushes.iter().map(|one| {
        let rule = match one.need {
            Need::Missing => Rule::StaleAccess,
            Need::Required => Rule::AccessDiffers,
            Need::TooBroad => Rule::NarrowerServes,
            Need::Redundant if one.wrong_target => Rule::WrongTarget,
            Need::Redundant => Rule::NoAccessDiffers,
        };
        Judged::by_replay(one.event, one.at, one.flush, rule, one.narrower.map(|kind| kind.name()))
    });
    let mistakes = judgement.out_of_line.iter().map(|one| {
        let what = &one.what;
        let proof = format!(
            "by {}, L2-physical {:#x} under EPT pointer {:#x} ({:#x} for silicon): the entry is {:#x} and must be {:#x}",
            what.cause.name(),
            what.gpa,
            what.eptp12,
            what.eptp02,
            what.entry,
            what.due,
        );
        Mistake { kind: MistakeKind::Ept02Unsynced, count: 1, first: one.event, at: one.at, proof }
    });
    Ok(Some(Tried { verdicts: judged.collect(), mistakes: mistakes.collect() }))
}

/// What was found, in a few lines.
pub fn summary(found: &Findings) -> Vec<String> {
    let flushes = &found.flushes;
    let missed: u64 = found.pools.iter().map(PoolFinding::missed).sum();
    let hits: u64 = found.pools.iter().map(|pool| pool.hits).sum();
    let mut lines = vec![
        format!(
            "{}, which took {} of L1 to handle",
            of(found.multiplication.l2_exits(), "L2 exit"),
            of(found.multiplication.caused(), "exit")
        ),
        format!(
            "{}: {} redundant, {} too broad, {} missing",
            of(flushes.made(), "flush"),
            count(flushes.count(Verdict::Redundant)),
            count(flushes.count(Verdict::TooBroad)),
            count(flushes.count(Verdict::Missing))
        ),
        format!("vmcs02 pool: {}, {}", of(hits, "hit"), of(missed, "miss")),
    ];
    // The report has the whole of each piece of advice; its first clause says what it is about.
    let clause = |text: &str| text.split([':', ';']).next().unwrap_or_default().trim_end_matches('.').to_owned();
    lines.extend(
        found.advice.iter().take(3).map(|advice| format!("{}: {}", advice.severity.name(), clause(&advice.text))),
    );
    lines
}

/// The findings of a trace, with verdicts from where they are wanted.
pub fn judged(args: &JudgeArgs, path: &Path, print: &Print) -> Result<Findings> {
    let mut reader = open(path, print)?;
    let verdicts = verdicts(args, path, &mut reader, print)?;
    findings_with(path, &reader, verdicts)
}

/// More traces than these are a batch: a line of each is kept rather than all that was found.
const FEW: usize = 16;

/// `nvmx report`.
pub fn report(args: &ReportArgs, print: &Print) -> Result<Status> {
    let traces = folder::traces(&args.traces)?;
    if args.each.is_some() || traces.len() > FEW || args.traces.iter().any(|path| path.is_dir()) {
        return batch::report(args, &traces, print);
    }
    let bar = print.progress("analysing", traces.len() as u64);
    let mut found = Vec::with_capacity(traces.len());
    for trace in &traces {
        found.push(judged(&args.judge, &trace.path, print)?);
        bar.inc(1);
    }
    bar.finish_and_clear();
    let text = draw(args.format, &found, print.color && args.output.is_none());
    give(args.output.as_deref(), text.as_bytes())
}

/// A report in a form; with `color`, in ANSI colours where that can be.
pub fn draw(format: ReportFormat, found: &[Findings], color: bool) -> String {
    match format {
        ReportFormat::Text => report::text(found, color),
        ReportFormat::Md => report::markdown(found),
        ReportFormat::Html => report::html(found),
        ReportFormat::Json => report::json(found),
        ReportFormat::Csv => report::csv(found),
        ReportFormat::Flame => report::flame(found),
        ReportFormat::Folded => report::folded(found),
    }
}

/// `nvmx tui`.
pub fn tui(args: &TuiArgs, print: &Print) -> Result<Status> {
    let path = &args.trace;
    let options =
        tui::Options { color: print.color_asked, fresh: args.fresh, store: super::store::folder(&args.store) };
    let shown = match &args.other {
        None => tui::run(path, &options),
        Some(other) => tui::compare(path, other, &options).map(|()| None),
    };
    // What the screen could not show any more.
    if let Ok(Some(unkept)) = &shown {
        super::fail::say(&unkept.to_string());
    }
    shown.map(|_| Status::Done).map_err(|error| match error {
        tui::Error::Trace(error) => unreadable(path, error),
        tui::Error::Other(error) => unreadable(args.other.as_deref().unwrap_or(path), error),
        tui::Error::NoTerminal => {
            let what = format!("cannot show {}", path.display());
            Failure::new(Status::Usage, what, error, "run it on a terminal, or use `nvmx dump` and `nvmx report`")
        }
        // No other use of a terminal ends so.
        tui::Error::Terminal(source) if source.kind() == std::io::ErrorKind::WouldBlock => {
            let why = format!("there can be no more threads: {source}");
            Failure::new(Status::Failed, format!("cannot show {}", path.display()), why, super::fail::THREADS)
        }
        tui::Error::Terminal(_) | tui::Error::Internal(_) => {
            Failure::new(Status::Failed, format!("cannot show {}", path.display()), error, "try another terminal")
        }
    })
}
