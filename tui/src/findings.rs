//! The analyzer's findings as the inspector lists them: what to change first, then the flushes that were not required, the
//! exits that cost most, the pages that fault most, bursts of EPT02 changes, and the phases. Each row knows where it can be
//! seen.

use crate::describe::{short, thousands};
use analyzer::Source;
use analyzer::findings::{Advice, Findings, Seen, Severity, findings_watched};
use analyzer::judge::{Flaw, Verdict};
use traces::Reader;

/// The heading of flushes by verdict.
const FLUSHES: &str = "Flushes that were not required";

/// Where a finding can be seen.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Target {
    /// At this event.
    Event(u64),
    /// At the events that this filter lets through.
    Filter(String),
}

/// A finding.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Finding {
    /// The heading that it stands under.
    pub(crate) group: &'static str,
    /// How urgent it is, where it is advice.
    pub(crate) severity: Option<Severity>,
    /// What it is, in a line.
    pub(crate) title: String,
    /// What it costs, in a few words.
    pub(crate) weight: String,
    /// Why it is so and what to do.
    pub(crate) text: String,
    /// Where it can be seen.
    pub(crate) target: Option<Target>,
}

/// What the analyzer has to say of a trace.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Analysis {
    /// The findings, a group after another, the most urgent first.
    pub(crate) findings: Vec<Finding>,
    /// Flushes that were not required, in the order of events.
    flaws: Vec<Flaw>,
    /// The events that something is found about, rising.
    stops: Vec<u64>,
}

impl Analysis {
    /// The next event behind, or the last before, another that something is found about.
    pub(crate) fn stop(&self, from: u64, forward: bool) -> Option<u64> {
        let place = if forward {
            self.stops.partition_point(|stop| *stop <= from)
        } else {
            self.stops.partition_point(|stop| *stop < from).checked_sub(1)?
        };
        self.stops.get(place).copied()
    }

    /// What is found about an event, a line each.
    pub(crate) fn told(&self, event: u64) -> impl Iterator<Item = String> {
        let from = self.flaws.partition_point(|flaw| flaw.event < event);
        let flaws = self.flaws[from..].iter().take_while(move |flaw| flaw.event == event).map(of_flaw);
        // Of its flush the flaw says more than the row that it is counted in.
        let at = move |finding: &&Finding| finding.target == Some(Target::Event(event)) && finding.group != FLUSHES;
        flaws.chain(self.findings.iter().filter(at).map(|finding| finding.title.clone()))
    }
}

/// A flush that was not required, in words.
fn of_flaw(flaw: &Flaw) -> String {
    let what = match flaw.verdict {
        Verdict::Missing => "a flush is missing before this entry",
        Verdict::TooBroad => "the flush is too broad",
        _ => "the flush is redundant",
    };
    format!("{what}, rule {}: {}", flaw.rule.name(), flaw.rule.why())
}

/// The findings of a trace. Reads the whole trace; `progress` is told now and then how many events are done.
pub(crate) fn find(reader: &Reader, progress: &mut dyn FnMut(u64)) -> Result<Analysis, String> {
    let (found, flaws) = findings_watched("", Source::Trace(reader), progress).map_err(|error| error.to_string())?;
    let mut list: Vec<Finding> = found.advice.iter().map(of_advice).collect();
    list.extend(flushes(&found));
    list.extend(dearest(&found));
    list.extend(costs(&found));
    list.extend(pages(&found));
    list.extend(storms(&found));
    let events = list.iter().filter_map(|finding| match finding.target {
        Some(Target::Event(event)) => Some(event),
        _ => None,
    });
    let mut stops: Vec<u64> = events.chain(flaws.iter().map(|flaw| flaw.event)).collect();
    stops.sort_unstable();
    stops.dedup();
    // The guest's own marks are nothing found: p goes to them.
    list.extend(phases(&found));
    Ok(Analysis { findings: list, flaws, stops })
}

fn times(count: u64) -> String {
    if count == 1 { "once".into() } else { format!("{} times", thousands(count)) }
}

fn of_advice(advice: &Advice) -> Finding {
    let weight = if advice.saves > 0 { format!("saves {} cycles", short(advice.saves)) } else { String::new() };
    Finding {
        group: "To change",
        severity: Some(advice.severity),
        title: advice.text.clone(),
        weight,
        text: advice.text.clone(),
        target: advice.seen.as_ref().map(target),
    }
}

fn target(seen: &Seen) -> Target {
    Target::Filter(match seen {
        Seen::Event(event) => return Target::Event(*event),
        Seen::Exits(level, reason) => format!("reason == {} and level == {level}", reason.0),
        Seen::Accesses(actor, which, field, op) => {
            format!("op == {op} and actor == {actor} and which == {which} and field == {}", field.0)
        }
        Seen::PoolMisses => "pool and op in {miss, recycle}".into(),
        Seen::FailedEntries => "failed".into(),
        Seen::Lost => "lost".into(),
        Seen::VpidsRecycled => "kind == vpid and op == recycle".into(),
    })
}

fn flushes(found: &Findings) -> impl Iterator<Item = Finding> {
    let flawed = |verdict| matches!(verdict, Verdict::Missing | Verdict::TooBroad | Verdict::Redundant);
    let rows = found.flushes.rows.iter().filter(move |row| flawed(row.verdict));
    rows.map(|row| Finding {
        group: FLUSHES,
        severity: None,
        title: format!("{}: {} for {} by {}", row.verdict.name(), row.kind, row.cause, row.actor),
        weight: format!("{}, {} dropped", times(row.count), thousands(row.dropped)),
        text: format!("Rule {}: {}", row.rule.name(), row.rule.why()),
        target: Some(Target::Event(row.first)),
    })
}

fn dearest(found: &Findings) -> impl Iterator<Item = Finding> {
    found.multiplication.dearest.iter().map(|one| {
        let caused: Vec<String> =
            one.caused.iter().take(6).map(|caused| format!("{} {}", caused.reason, thousands(caused.count))).collect();
        Finding {
            group: "The single exits that cost most",
            severity: None,
            title: format!(
                "{} of L{} at {} cost {} exits",
                one.reason,
                one.level,
                thousands(one.event),
                thousands(one.exits)
            ),
            weight: format!("{} cycles", short(one.cycles)),
            text: if caused.is_empty() {
                "It caused no exits of L1.".into()
            } else {
                format!("It caused {}; its hypervisors ran {} meanwhile.", caused.join(", "), thousands(one.ran))
            },
            target: Some(Target::Event(one.event)),
        }
    })
}

fn costs(found: &Findings) -> impl Iterator<Item = Finding> {
    found.multiplication.reasons.iter().map(|reason| Finding {
        group: "Exits of L2 and deeper, by what they cost",
        severity: None,
        title: format!("{} of L{} costs {:.1} exits", reason.reason, reason.level, reason.factor()),
        weight: times(reason.count),
        text: format!(
            "{} of {} were reflected to L1, which then took {} exits; L0 made {} VMCS accesses meanwhile.",
            thousands(reason.reflected),
            thousands(reason.count),
            thousands(reason.caused_total()),
            thousands(reason.accesses)
        ),
        target: Some(Target::Filter(format!("reason == {} and level == {}", reason.reason.0, reason.level))),
    })
}

fn pages(found: &Findings) -> impl Iterator<Item = Finding> {
    found.ept_pages.iter().filter(|page| page.count > 1).take(10).map(|page| Finding {
        group: "Pages with most EPT violations",
        severity: None,
        title: format!("page {:#x} of L{}", page.page, page.level),
        weight: times(page.count),
        text: format!(
            "{} of {} EPT violations there met an EPT02 entry that had been removed.",
            thousands(page.again),
            thousands(page.count)
        ),
        target: Some(Target::Filter(format!(
            "reason == EPT_VIOLATION and level == {} and gpa in {:#x}..={:#x}",
            page.level,
            page.page,
            page.page.saturating_add(0xfff)
        ))),
    })
}

fn storms(found: &Findings) -> impl Iterator<Item = Finding> {
    found.storms.largest.iter().take(5).filter(|_| found.storms.storms > 0).map(|burst| Finding {
        group: "Bursts of EPT02 changes",
        severity: None,
        title: format!("{} changes from event {} on", thousands(burst.changes()), thousands(burst.event)),
        weight: format!("{} exits of L1", thousands(burst.l1_exits)),
        text: format!(
            "{} entries removed and {} changed with no nested guest run between, {} of them of EPTP12 {:#x}.",
            thousands(burst.zaps),
            thousands(burst.syncs),
            thousands(burst.of_root),
            burst.root.0
        ),
        target: Some(Target::Event(burst.event)),
    })
}

fn phases(found: &Findings) -> impl Iterator<Item = Finding> {
    let marked = found.phases.iter().filter(|phase| phase.mark.is_some());
    marked.map(|phase| Finding {
        group: "Phases of the guest",
        severity: None,
        title: format!("phase {}", phase.mark.unwrap_or(0)),
        weight: format!("{} events", thousands(phase.events)),
        text: format!(
            "{} instructions, {} exits of L1, {} of L2, {} VMCS accesses, {} flushes of which {} redundant and {} missing.",
            thousands(phase.instructions),
            thousands(phase.l1_exits),
            thousands(phase.l2_exits),
            thousands(phase.vmcs),
            thousands(phase.flushes),
            thousands(phase.redundant),
            thousands(phase.missing)
        ),
        target: Some(Target::Event(phase.first)),
    })
}
