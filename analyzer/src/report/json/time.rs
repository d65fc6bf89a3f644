//! Where the time went: exits, what they caused, levels, slices and phases.

use super::spread;
use crate::Findings;
use crate::findings::{CausedExits, ExitRow, OneExit, Phase, Works};
use crate::histogram::Histogram;
use hv_defs::cost::DEFAULT as COSTS;
use hv_defs::event::Kind;
use serde_json::{Value, json};

pub(super) fn phase(of: &Findings, phase: &Phase) -> Value {
    let ours = of.overview.origin.is_none();
    let known = |kind: Kind, number: u64| of.overview.tells_of(kind).then_some(number);
    json!({
            "mark": phase.mark,
            "first_event": phase.first,
            "events": phase.events,
            "instructions": phase.instructions,
            "cycles": ours.then_some(phase.instructions * COSTS.instruction + phase.l0_cycles),
            "l0_cycles": ours.then_some(phase.l0_cycles),
            "l1_exits": phase.l1_exits,
            "l2_exits": phase.l2_exits,
            "exits_per_l2_exit": phase.factor(),
            "vmcs": known(Kind::Vmcs, phase.vmcs),
            "flushes": known(Kind::Flush, phase.flushes),
            "redundant_flushes": known(Kind::Flush, phase.redundant),
            "missing_flushes": known(Kind::Flush, phase.missing),
            "pool_misses": known(Kind::Pool, phase.pool_missed),
    })
}

pub(super) fn exits(row: &ExitRow, ours: bool) -> Value {
    json!({
        "level": row.level,
        "reason": row.reason.to_string(),
        "handled_by": row.handled_by.name(),
        "count": row.count,
        "guest_instructions": spread(&row.guest),
        "handling_cycles": spread(&row.handling),
        "handling_elapsed": spread(&row.elapsed),
        "guest_histogram": doublings(&row.guest),
        "handling_histogram": doublings(if ours { &row.handling } else { &row.elapsed }),
    })
}

/// A distribution by powers of two.
fn doublings(of: &Histogram) -> Value {
    of.doublings().iter().map(|(below, count)| json!({ "below": below, "count": count })).collect()
}

/// The tree of exits, the dearest places first.
pub(super) fn tree(of: &Findings) -> Value {
    let tree = &of.multiplication.tree;
    let sums = tree.sums(|node| node.cycles(&COSTS));
    let mut order: Vec<usize> = (0..tree.nodes.len()).collect();
    order.sort_by_key(|&at| (core::cmp::Reverse(sums[at]), at));
    let ours = of.overview.origin.is_none();
    let node = |at: usize| {
        let node = &tree.nodes[at];
        let path: Vec<String> = tree.path(at).iter().map(|(level, reason)| format!("L{level} {reason}")).collect();
        json!({
            "path": path,
            "exits": node.exits,
            "cycles": ours.then(|| node.cycles(&COSTS)),
            "cycles_with_below": ours.then_some(sums[at]),
            "work": works(&node.work),
            "ran": node.ran.iter().map(|(level, ran)| json!({ "level": level, "ran": ran })).collect::<Vec<_>>(),
        })
    };
    order.into_iter().map(node).collect()
}

fn works(of: &Works) -> Value {
    of.each()
        .map(|(work, count)| json!({ "work": work.name(), "count": count, "cycles": count * work.cycles(&COSTS) }))
        .collect()
}

pub(super) fn dearest(one: &OneExit, ours: bool) -> Value {
    json!({
        "event": one.event,
        "vcpu": one.vcpu,
        "level": one.level,
        "reason": one.reason.to_string(),
        "exits": one.exits,
        "ran": one.ran,
        "cycles": ours.then_some(one.cycles),
        "work": works(&one.work),
        "caused": one.caused.iter().map(caused).collect::<Vec<_>>(),
    })
}

pub(super) fn time(of: &Findings) -> Value {
    let (time, ours) = (&of.time, of.overview.origin.is_none());
    let slices = &time.slices;
    json!({
        "levels": time.levels.iter().map(|level| json!({
            "level": level.level,
            "ran": level.ran,
            "exits": level.exits,
            "stretches": spread(&level.stretches),
            "handling_cycles": spread(&level.handling),
            "handling_elapsed": spread(&level.elapsed),
        })).collect::<Vec<_>>(),
        "l0_cycles": ours.then_some(time.l0_cycles),
        "l0_work": works(&time.work),
        "slice_width": slices.width(),
        "slices": slices.rows.iter().enumerate().map(|(at, slice)| json!({
            "start": slices.start(at),
            "l1_exits": slice.l1_exits,
            "l2_exits": slice.l2_exits,
            "deeper_exits": slice.deeper_exits,
            "l0_cycles": ours.then_some(slice.l0_cycles),
            "flushes": of.overview.tells_of(Kind::Flush).then_some(slice.flushes),
            "pool_misses": of.overview.tells_of(Kind::Pool).then_some(slice.pool_misses),
        })).collect::<Vec<_>>(),
    })
}

pub(super) fn caused(caused: &CausedExits) -> Value {
    json!({
        "level": caused.level,
        "reason": caused.reason.to_string(),
        "under": caused.under.map(|under| under.to_string()),
        "count": caused.count,
        "cycles": caused.cycles,
    })
}
