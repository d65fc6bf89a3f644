//! Advice on what exits of L2 and deeper cost: what in it costs most, what L1 need not do, and what takes far longer than
//! the rest.

use super::{Advice, Seen, Severity, many, saved};
use crate::findings::exits::ratio;
use crate::findings::{CausedExits, Findings, NestedExit, OneExit};
use crate::number::{grouped, percent};
use hv_defs::cost::DEFAULT as COSTS;
use hv_defs::exit::Reason;

/// Below this part of all cycles an exit that L1 takes meanwhile is not worth a sentence: one in two hundred.
const WORTH: u64 = 200;
/// So many times the median is a tail.
const TAIL: u64 = 4;
/// Of fewer exits than this a percentile says nothing.
const ENOUGH: u64 = 20;

/// What L1 must do to serve its guest, whatever its guest asks.
const VMX: [Reason; 10] = [
    Reason::VMREAD,
    Reason::VMWRITE,
    Reason::VMLAUNCH,
    Reason::VMRESUME,
    Reason::VMPTRLD,
    Reason::VMPTRST,
    Reason::VMCLEAR,
    Reason::VMXON,
    Reason::VMXOFF,
    Reason::EPT_VIOLATION,
];

pub(super) fn advise(of: &Findings, advice: &mut Vec<Advice>) {
    // Nothing says what a foreign machine's cycles would be.
    if of.overview.origin.is_some() {
        counted(of, advice);
        return;
    }
    dearest(of, advice);
    needless(of, advice);
    advice.extend(of.multiplication.reasons.iter().filter_map(|row| tail(of, row)));
}

/// The factor alone.
fn counted(of: &Findings, advice: &mut Vec<Advice>) {
    let all = &of.multiplication;
    let (Some(factor), Some(worst)) = (all.factor(), all.reasons.iter().max_by_key(|reason| reason.caused_total()))
    else {
        return;
    };
    let Some(most) = worst.caused.first() else { return };
    let text = format!(
        "Each L2 exit costs {factor:.1} exits of silicon; {} is the largest part, with {} exits for {}. Most of them are {} ({}).",
        worst.reason,
        grouped(worst.caused_total()),
        served(worst),
        most.reason,
        grouped(most.count),
    );
    advice.push(Advice::new(Severity::Note, "multiplication", text, 0).at(Seen::Exits(worst.level, worst.reason)));
}

/// `20 L2 exits`, of those that were served.
fn served(row: &NestedExit) -> String {
    many(row.resumed, &format!("L{} exit", row.level), &format!("L{} exits", row.level))
}

/// Exits of L1 alone, whatever came between: those of an L2 between have theirs counted by themselves.
fn of_l1(row: &NestedExit) -> impl Iterator<Item = &CausedExits> {
    row.caused.iter().filter(|caused| caused.level == 1)
}

/// The reason whose exits cost most, and what in it.
fn dearest(of: &Findings, advice: &mut Vec<Advice>) {
    let all = &of.multiplication;
    let (Some(factor), Some(worst)) = (all.factor(), all.reasons.iter().max_by_key(|reason| reason.cycles.sum()))
    else {
        return;
    };
    if worst.caused.is_empty() {
        return;
    }
    let cycles = worst.cycles.sum();
    let caused = |wanted: &[Reason]| {
        let rows = of_l1(worst).filter(|caused| wanted.contains(&caused.reason));
        rows.fold((0, 0), |sum, caused| (sum.0 + caused.count, sum.1 + caused.cycles))
    };
    let accesses = caused(&[Reason::VMREAD, Reason::VMWRITE]);
    let entries = caused(&[Reason::VMLAUNCH, Reason::VMRESUME]);
    let all_l1 = of_l1(worst).fold(0, |sum, caused| sum + caused.cycles);
    let ran = worst.l1_instructions.sum() * COSTS.instruction;
    let other = all_l1 - accesses.1 - entries.1;
    let own = cycles.saturating_sub(all_l1 + ran);
    let parts = [
        (accesses.1, format!("{} of L1's VMREADs and VMWRITEs", grouped(accesses.0))),
        (entries.1, "L1's VM entries".to_owned()),
        (other, "other exits of L1".to_owned()),
        (ran, "what its hypervisors ran".to_owned()),
        (own, "its exits themselves".to_owned()),
    ];
    let mut shares: Vec<_> = parts.iter().filter(|(part, _)| *part * 20 >= cycles).collect();
    shares.sort_by_key(|(part, _)| core::cmp::Reverse(*part));
    let shares: Vec<String> =
        shares.iter().map(|(part, name)| format!("{} is {name}", percent(*part, cycles))).collect();
    let mut text = format!(
        "Each L2 exit costs {factor:.1} exits of silicon. L{} {} costs most: {} modelled cycles ({} of all) for {}, {} each \
         with {:.1} exits; of that {}.",
        worst.level,
        worst.reason,
        grouped(cycles),
        percent(cycles, of.overview.cycles),
        served(worst),
        grouped(cycles / worst.resumed.max(1)),
        worst.factor(),
        shares.join(", "),
    );
    if accesses.1 * 4 > cycles {
        text += &format!(
            " Shadow the fields that L1 uses (VMCS shadowing): for this reason alone up to {}.",
            saved(accesses.1, of.overview.cycles)
        );
        advice.push(
            Advice::new(Severity::Waste, "multiplication", text, accesses.1).at(Seen::Exits(worst.level, worst.reason)),
        );
    } else {
        let change = match parts.iter().max_by_key(|(part, _)| *part) {
            Some((_, name)) if name.starts_with("what") => "It is L1's own code that takes longest: look there first.",
            Some((_, name)) if name.starts_with("its") => {
                "It is L0's switch between L2 and L1: write and read less of vmcs02."
            }
            Some((_, name)) if name.starts_with("L1's") => {
                "It is L1's way back into L2: see the pool, and the fields written at entries."
            }
            _ => "See below which exits L1 takes meanwhile.",
        };
        text += &format!(" {change}");
        advice.push(Advice::new(Severity::Note, "multiplication", text, 0).at(Seen::Exits(worst.level, worst.reason)));
    }
}

/// Exits that L1 takes while it serves L2's and that no VMX instruction needs.
fn needless(of: &Findings, advice: &mut Vec<Advice>) {
    let mut worst: Option<(&NestedExit, &CausedExits)> = None;
    for row in &of.multiplication.reasons {
        // While its guest waits L1 does what else it has to do.
        if matches!(row.reason, Reason::HLT | Reason::MWAIT | Reason::EXTERNAL_INTERRUPT) {
            continue;
        }
        for caused in of_l1(row).filter(|caused| caused.under.is_none() && !VMX.contains(&caused.reason)) {
            if worst.is_none_or(|(_, other)| caused.cycles > other.cycles) {
                worst = Some((row, caused));
            }
        }
    }
    let Some((row, caused)) = worst.filter(|(_, caused)| caused.cycles * WORTH >= of.overview.cycles) else { return };
    let text = format!(
        "L1 takes {} while it serves {} for {} ({} each), and no VMX instruction needs it: have L1 do without, or do it \
         once beforehand. Without, {}.",
        many(caused.count, &format!("{} exit", caused.reason), &format!("{} exits", caused.reason)),
        served(row),
        row.reason,
        format_args!("{:.2}", ratio(caused.count, row.resumed)),
        saved(caused.cycles, of.overview.cycles),
    );
    advice.push(Advice::new(Severity::Waste, "needless-exit", text, caused.cycles).at(Seen::Exits(1, caused.reason)));
}

/// Exits of a reason of which few take far longer than most.
fn tail(of: &Findings, row: &NestedExit) -> Option<Advice> {
    let (p50, p99) = (row.cycles.percentile(50), row.cycles.percentile(99));
    let idle = matches!(row.reason, Reason::HLT | Reason::MWAIT | Reason::PAUSE);
    if row.resumed < ENOUGH || p50 == 0 || p99 < TAIL * p50 || idle {
        return None;
    }
    let is_it = |one: &&OneExit| (one.level, one.reason) == (row.level, row.reason);
    let dearest = of.multiplication.dearest.iter().find(is_it);
    let seen = dearest.map_or(Seen::Exits(row.level, row.reason), |one| Seen::Event(one.event));
    let longest = match dearest {
        Some(one) => {
            let mostly: Vec<String> = one
                .caused
                .iter()
                .take(2)
                .map(|caused| format!("{} {}", grouped(caused.count), caused.reason))
                .collect();
            let of = if mostly.is_empty() { String::new() } else { format!(", {} among them", mostly.join(" and ")) };
            format!(
                "The longest, at event {}, took {} in {}{of}, and {} instructions of its hypervisors",
                grouped(one.event),
                grouped(one.cycles),
                many(one.exits, "exit", "exits"),
                grouped(one.ran),
            )
        }
        None => format!("The longest took {}", grouped(row.cycles.max())),
    };
    let text = format!(
        "L{} {} has a long tail: half of {} take up to {} modelled cycles, one in a hundred {} or more, {} times that. \
         {longest}: if it took no longer than half of them do, it would save {}.",
        row.level,
        row.reason,
        served(row),
        grouped(p50),
        grouped(p99),
        p99 / p50,
        grouped(row.cycles.max() - p50),
    );
    Some(Advice::new(Severity::Note, "tail-latency", text, 0).at(seen))
}
