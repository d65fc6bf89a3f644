//! Exits counted by reason, by us and by the tools that people have for it, from files of the same exits and entries.

use super::analysis::{Failed, write};
use super::clock::{children, long_passes};
use super::peers::{PERF_IS, TRACE_CMD_IS, version};
use super::show::{align, figure};
use hv_defs::event::Event;
use recorder::foreign::{Detail, Layout, Tape, write_perf_data, write_trace_dat};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use traces::Reader;

/// Runs of a tool, of which the best counts.
const RUNS: usize = 3;
/// How often each reason is, without their names, which differ from tool to tool: most first.
type Counts = Vec<u64>;

/// A tool that counts.
#[derive(Clone, PartialEq, Debug)]
pub struct Counter {
    /// Its key.
    pub name: &'static str,
    /// What is run.
    pub what: String,
    /// Millions of events a second of CPU time, or why there are none.
    pub rate: Result<f64, String>,
    /// How many times ours that is: of CPU time for the same.
    pub ratio: Option<f64>,
    /// Whether it counts as we do.
    pub agrees: Option<bool>,
}

/// Counts exits by reason with our default report, with a script behind `trace-cmd report`, and with `perf kvm stat`.
/// `events` are exits and entries alone.
///
/// # Errors
/// A file could not be written, or a trace not be read back.
pub fn measure(events: &[Event], folder: &Path) -> Result<Vec<Counter>, Failed> {
    let trace = folder.join("exits.nvmx");
    write(events, &trace)?;
    let rate = |took: Duration| events.len() as f64 / took.as_secs_f64().max(1e-9) / 1e6;
    let mut counts = Counts::new();
    let ours = long_passes(|| {
        let reader = Reader::open(&trace)?;
        let found = analyzer::findings("bench", (&reader).into())?;
        let mut by_reason = BTreeMap::new();
        found.exits.iter().for_each(|row| *by_reason.entry(row.reason).or_default() += row.count);
        counts = sorted(by_reason.into_values());
        Ok::<_, Failed>(())
    })?
    .best;
    let first = Counter {
        name: "nvmx",
        what: "nvmx, its whole default report".into(),
        rate: Ok(rate(ours)),
        ratio: None,
        agrees: None,
    };
    let tape = Tape::of(events, Layout::Host, Detail::Exits);
    let (dat, data) = (folder.join("exits.dat"), folder.join("exits.perf.data"));
    write_trace_dat(&tape, File::create(&dat)?)?;
    write_perf_data(&tape, File::create(&data)?)?;
    let vcpus: BTreeSet<u16> = events.iter().map(|event| event.at.vcpu).collect();
    let counter = |name, what: &str, (tool, package): (&str, &str), (script, spare): (&str, usize), file: &Path| {
        let known = version(tool, package);
        let what = format!("{}, {what}", known.as_deref().unwrap_or(tool));
        let counted = known.and_then(|_| counted(script, file));
        let (rate, ratio, agrees) = match counted {
            Ok((took, theirs)) => {
                let ratio = took.as_secs_f64() / ours.as_secs_f64().max(1e-9);
                (Ok(rate(took)), Some(ratio), Some(differ(&theirs, &counts) <= spare as u64))
            }
            Err(why) => (Err(why), None, None),
        };
        Counter { name, what, rate, ratio, agrees }
    };
    let trace_cmd = counter("trace-cmd", "`trace-cmd report` and awk", TRACE_CMD_IS, (TRACE_CMD, 0), &dat);
    // It counts pairs of an exit and the entry behind it: a vCPU's last exit may have none.
    let perf = counter("perf", "`perf kvm stat report`", PERF_IS, (PERF, vcpus.len()), &data);
    Ok(vec![first, trace_cmd, perf])
}

/// What follows the word `reason` is counted.
const TRACE_CMD: &str = "trace-cmd report -i \"$1\" 2>/dev/null | awk '/kvm_exit:/ { for (at = 1; at < NF; at++) if ($at == \"reason\") { of[$(at + 1)]++; break } } END { for (reason in of) print of[reason] }'";
/// The table's second column, below its heading. perf reads only its user's files, unless it is forced to.
const PERF: &str = "perf kvm --guest -i \"$1\" stat report -f 2>&1 | awk '/^Total Samples/ { exit } $2 ~ /^[0-9]+$/ { print $2; found = 1 } !found && NF { said = $0 } END { if (!found) { print said > \"/dev/stderr\"; exit 1 } }'";

/// The CPU time of a script, the best of some runs, and what it counts.
fn counted(script: &str, file: &Path) -> Result<(Duration, Counts), String> {
    let (mut best, mut counts) = (Duration::MAX, Counts::new());
    for _ in 0..RUNS {
        let (before, since) = (children(), Instant::now());
        let output = Command::new("sh").args(["-c", script, "sh"]).arg(file).stdin(Stdio::null()).output();
        let output = output.map_err(|error| format!("cannot be run: {error}"))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr).trim_ascii().to_owned();
            return Err(format!("cannot read the file: {}", said.lines().last().unwrap_or("it says nothing")));
        }
        best = best.min(match (before, children()) {
            (Some(before), Some(after)) => after.saturating_sub(before),
            _ => since.elapsed(),
        });
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        counts = sorted(said.lines().filter_map(|line| line.trim_ascii().parse().ok()));
    }
    if counts.is_empty() { Err("cannot read the file: it finds no exits".into()) } else { Ok((best, counts)) }
}

/// By how much two lists of counts differ, in all.
fn differ(one: &Counts, other: &Counts) -> u64 {
    let at = |of: &Counts, at: usize| of.get(at).copied().unwrap_or(0);
    (0..one.len().max(other.len())).map(|place| at(one, place).abs_diff(at(other, place))).sum()
}

fn sorted(counts: impl Iterator<Item = u64>) -> Counts {
    let mut counts: Counts = counts.filter(|count| *count > 0).collect();
    counts.sort_unstable_by(|one, other| other.cmp(one));
    counts
}

/// The table of those who count exits.
pub fn table(counters: &[Counter]) -> String {
    let mut lines = vec![["", "M/s", "CPU time", "the counts"].map(str::to_owned)];
    for of in counters {
        let rate = of.rate.clone().map_or_else(|why| why, figure);
        let ratio = of.ratio.map_or_else(|| "-".into(), |ratio| format!("{} times ours", figure(ratio)));
        let agrees = match of.agrees {
            None => "-",
            Some(true) => "ours",
            Some(false) => "OTHERS",
        };
        lines.push([of.what.clone(), rate, ratio, agrees.into()]);
    }
    align(&lines, &[1, 2])
}
