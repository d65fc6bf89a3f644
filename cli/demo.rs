//! `nvmx demo`, the first thing a newcomer runs.

use super::fail::{Fails, Failure, Result, Status};
use super::print::{Print, bytes, of};
use super::words::DemoArgs;
use super::{record, replay, study};
use hv_defs::config::{Config, Guest};
use hv_defs::event::StopKind;
use recorder::{NoKeys, Outside};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use traces::Reader;

const GUEST: &str = "demo";
/// Replays that the demo makes.
const RUNS: u64 = 10;
/// Steps that the progress bar counts, beside the replays.
const STEPS: u64 = 3;

/// `nvmx demo`.
pub fn demo(args: &DemoArgs, print: &Print) -> Result<Status> {
    let folder = folder(args.output.as_deref())?;
    let (trace, page) = (folder.join("demo.nvmx"), folder.join("report.html"));
    let bar = print.progress("recording", RUNS + STEPS);

    let config = Config::new(Guest::BuiltIn(GUEST.into()));
    let (mut console, stop) = (Vec::new(), AtomicBool::new(false));
    let outside = Outside { console: &mut console, keys: &mut NoKeys, stop: &stop, watch: &mut |_| {} };
    let recorded = recorder::record(&config, &[], &trace, outside);
    let recorded = recorded.map_err(|error| record::failure(error, GUEST, Some(&trace)))?;
    if !matches!(recorded.stop.kind, StopKind::DebugExit) {
        let why = format!("it ended by {}: {}", recorded.stop.kind, recorded.stop.text);
        return Err(Failure::new(Status::Failed, "the built-in guest failed", why, "please report this"));
    }

    bar.set_message("replaying");
    bar.inc(1);
    let reader = Reader::open(&trace).map_err(|error| super::trace::unreadable(&trace, error))?;
    let runs = replayer::replay_many(&reader, &replayer::Options::default(), RUNS, &|done| bar.set_position(1 + done));
    let runs = runs.map_err(|error| replay::failure(&trace, error))?;
    if let Some(divergence) = &runs.verdict.divergence {
        bar.finish_and_clear();
        let what = format!("the replay of {} differs", trace.display());
        return Err(Failure::new(Status::No, what, replay::sentence(divergence), "please report this with the trace"));
    }

    bar.set_message("analysing");
    let findings = study::findings(&trace, &reader)?;
    bar.inc(1);
    let html = analyzer::report::html(std::slice::from_ref(&findings));
    let what = format!("cannot write {}", page.display());
    let written = traces::write_whole(&page, html.as_bytes());
    written.or_hint(Status::Failed, what, "make room, or name another folder by -o")?;
    bar.finish_and_clear();

    let summary = &recorded.summary;
    let mut out = print.out();
    for line in String::from_utf8_lossy(&console).lines() {
        print.detail(line);
    }
    let about = hv::guests::by_name(GUEST).map_or("", |guest| guest.about);
    writeln!(out, "Ran:      {about}")?;
    writeln!(
        out,
        "Recorded: {} over {}, in {}",
        of(summary.events, "event"),
        of(runs.verdict.instructions, "instruction"),
        bytes(summary.bytes)
    )?;
    writeln!(out, "Replayed: {} identical runs, one digest {:016x}", runs.identical, runs.verdict.digest)?;
    for (place, line) in study::summary(&findings).iter().enumerate() {
        writeln!(out, "{:<9} {line}", if place == 0 { "Found:" } else { "" })?;
    }
    writeln!(out, "Report:   {}", page.display())?;
    writeln!(out, "Try next: nvmx tui {}", trace.display())?;
    writeln!(
        out,
        "          nvmx query {} 'SELECT reason, COUNT(*) AS n FROM exits GROUP BY reason ORDER BY n DESC'",
        trace.display()
    )?;
    out.flush()?;
    Ok(Status::Done)
}

/// The folder to write to, made if need be: the one asked for, or the first of the default's names that is not taken.
fn folder(asked: Option<&Path>) -> Result<PathBuf> {
    let make = |path: &Path, made: std::io::Result<()>| {
        made.or_hint(Status::Usage, format!("cannot make the folder {}", path.display()), "name another by -o")
    };
    if let Some(path) = asked {
        make(path, std::fs::create_dir_all(path))?;
        return Ok(path.to_owned());
    }
    for number in 1.. {
        let path = PathBuf::from(if number == 1 { "nvmx-demo".into() } else { format!("nvmx-demo-{number}") });
        match std::fs::create_dir(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            made => {
                make(&path, made)?;
                return Ok(path);
            }
        }
    }
    unreachable!("some number is free")
}
