//! The analyzer's findings as the inspector lists them: the advice first, then the flushes that were not required, what
//! exits of L2 cost by reason, and the phases. Each row knows where it can be seen.

use crate::describe::{short, thousands};
use analyzer::Source;
use analyzer::findings::{Advice, Findings, Severity, findings};
use analyzer::judge::Verdict;
use hv_defs::event::{Actor, Which};
use hv_defs::vmcs::Shadowed;
use traces::Reader;

/// Where a finding can be seen.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Target {
    /// At this event.
    Event(u64),
    /// At the first event that this filter lets through.
    Filter(String),
}

/// A finding.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Finding {
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

/// The findings of a trace, the most urgent first. Reads the whole trace.
pub(crate) fn find(reader: &Reader) -> Result<Vec<Finding>, String> {
    let found = findings("", Source::Trace(reader)).map_err(|error| error.to_string())?;
    let mut list: Vec<Finding> = found.advice.iter().map(|advice| of_advice(&found, advice)).collect();
    list.extend(flushes(&found));
    list.extend(costs(&found));
    list.extend(phases(&found));
    Ok(list)
}

fn of_advice(found: &Findings, advice: &Advice) -> Finding {
    let weight = if advice.saves > 0 { format!("saves {} cycles", short(advice.saves)) } else { String::new() };
    Finding {
        severity: Some(advice.severity),
        title: advice.text.clone(),
        weight,
        text: advice.text.clone(),
        target: target(found, advice),
    }
}

fn target(found: &Findings, advice: &Advice) -> Option<Target> {
    let flush = |verdict| {
        // Rows with this very text in the advice come before others of the verdict.
        let rows = found.flushes.rows.iter().filter(|row| row.verdict == verdict);
        let named =
            |row: &&analyzer::findings::FlushRow| advice.text.contains(&format!("{} by {}", row.cause, row.actor));
        rows.clone().find(named).or(rows.clone().next()).map(|row| Target::Event(row.first))
    };
    match advice.topic {
        "missing-flush" => flush(Verdict::Missing),
        "redundant-flush" | "hindsight-flush" => flush(Verdict::Redundant),
        "l0-mistake" => {
            let named = |mistake: &&analyzer::findings::Mistake| advice.text.contains(&mistake.proof);
            found.mistakes.iter().find(named).map(|mistake| Target::Event(mistake.first))
        }
        "broad-flush" => flush(Verdict::TooBroad),
        "failed-entry" => Some(Target::Filter("failed".into())),
        "lost-events" => Some(Target::Filter("lost".into())),
        "pool-size" => Some(Target::Filter("pool and op in {miss, recycle}".into())),
        "multiplication" => {
            let worst = found.multiplication.reasons.iter().max_by_key(|reason| reason.caused_total())?;
            Some(Target::Filter(format!("reason == {} and level == {}", worst.reason.0, worst.level)))
        }
        "same-value-vmwrite" => {
            let row = found.vmcs.rows.iter().max_by_key(|row| row.same_writes)?;
            let filter = format!(
                "op == write and actor == {} and which == {} and field == {}",
                row.actor, row.which, row.field.0
            );
            Some(Target::Filter(filter))
        }
        "shadow-field" => {
            let unshadowed =
                found.vmcs.rows.iter().filter(|row| {
                    row.actor == Actor::L1 && row.which == Which::Vmcs12 && row.shadowed() == Shadowed::No
                });
            let row = unshadowed.max_by_key(|row| row.reads + row.writes)?;
            Some(Target::Filter(format!("actor == L1 and which == vmcs12 and field == {}", row.field.0)))
        }
        _ => None,
    }
}

fn flushes(found: &Findings) -> impl Iterator<Item = Finding> {
    let rows = found.flushes.rows.iter().filter(|row| row.verdict != Verdict::Required);
    rows.map(|row| Finding {
        severity: None,
        title: format!("{}: {} for {} by {}", row.verdict.name(), row.kind, row.cause, row.actor),
        weight: format!("{} times, {} dropped", thousands(row.count), thousands(row.dropped)),
        text: format!("Rule {}: {}", row.rule.name(), row.rule.why()),
        target: Some(Target::Event(row.first)),
    })
}

fn costs(found: &Findings) -> impl Iterator<Item = Finding> {
    found.multiplication.reasons.iter().map(|reason| Finding {
        severity: None,
        title: format!("{} of L{} costs {:.1} exits", reason.reason, reason.level, reason.factor()),
        weight: format!("{} times", thousands(reason.count)),
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

fn phases(found: &Findings) -> impl Iterator<Item = Finding> {
    let marked = found.phases.iter().filter(|phase| phase.mark.is_some());
    marked.map(|phase| Finding {
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
