//! A report as CSV: a number a line, so that any number of traces can be put under one another.

use super::compare::MEASURES;
use super::flame;
use crate::Findings;
use crate::findings::PoolFinding;
use crate::histogram::Histogram;
use crate::query::quoted;
use hv_defs::cost::DEFAULT as COSTS;
use hv_defs::event::Kind;
use hv_defs::exit::Reason;
use std::fmt::Write as _;

/// The first line.
pub(super) const HEAD: &str = "trace,section,item,measure,value\n";

/// Draws findings.
pub(super) fn draw(of: &[Findings]) -> String {
    let mut text = String::from(HEAD);
    for one in of {
        rows(one, &mut |section: &str, item: &str, measure: &str, value: f64| {
            let _ = writeln!(text, "{},{section},{},{measure},{value}", quoted(&one.name), quoted(item));
        });
    }
    text
}

fn rows(of: &Findings, add: &mut dyn FnMut(&str, &str, &str, f64)) {
    for measure in MEASURES {
        if let Some(value) = (measure.of)(of) {
            add("overview", "", measure.key, value);
        }
    }
    let spread = |add: &mut dyn FnMut(&str, &str, &str, f64), section: &str, item: &str, name: &str, of: &Histogram| {
        for (percent, value) in [50, 90, 99].map(|percent| (percent, of.percentile(percent))) {
            add(section, item, &format!("{name}_p{percent}"), value as f64);
        }
        add(section, item, &format!("{name}_max"), of.max() as f64);
        add(section, item, &format!("{name}_sum"), of.sum() as f64);
    };
    for row in &of.exits {
        let item = format!("L{} {} {}", row.level, row.reason, row.handled_by);
        add("exits", &item, "count", row.count as f64);
        spread(add, "exits", &item, "guest_instructions", &row.guest);
        spread(add, "exits", &item, "handling_cycles", &row.handling);
        if row.elapsed.count() > 0 {
            spread(add, "exits", &item, &format!("handling_{}", of.overview.clock()), &row.elapsed);
        }
    }
    for row in &of.multiplication.reasons {
        let named = |level: u8, reason: Reason| match level {
            1 | 2 => reason.to_string(),
            _ => format!("L{level} {reason}"),
        };
        let item = named(row.level, row.reason);
        add("multiplication", &item, "count", row.count as f64);
        add("multiplication", &item, "reflected", row.reflected as f64);
        add("multiplication", &item, "factor", row.factor());
        for caused in &row.caused {
            let under = caused.under.map(|under| format!(";L2 {under}")).unwrap_or_default();
            let level = if caused.level > 1 { format!("L{} ", caused.level) } else { String::new() };
            add("caused", &format!("{item}{under};{level}{}", caused.reason), "count", caused.count as f64);
        }
    }
    for (stack, cycles) in flame::stacks(of, flame::Unit::of(of)) {
        add("tree", &stack.join(";"), flame::Unit::of(of).name(), cycles as f64);
    }
    for (stack, exits) in flame::stacks(of, flame::Unit::Exits) {
        add("tree", &stack.join(";"), "exits", exits as f64);
    }
    for level in &of.time.levels {
        // What passed while no guest ran is not L0's: that takes no time of ours.
        let item = if level.level == 0 { "none".into() } else { format!("L{}", level.level) };
        add("time", &item, "ran", level.ran as f64);
        add("time", &item, "exits", level.exits as f64);
        spread(add, "time", &item, "stretch", &level.stretches);
    }
    if of.overview.origin.is_none() {
        add("time", "L0", "cycles", of.time.l0_cycles as f64);
    }
    let slices = &of.time.slices;
    for (at, slice) in slices.rows.iter().enumerate() {
        let item = slices.start(at).to_string();
        for (name, known, value) in [
            ("l1_exits", true, slice.l1_exits),
            ("l2_exits", true, slice.l2_exits),
            ("deeper_exits", true, slice.deeper_exits),
            ("l0_cycles", of.overview.origin.is_none(), slice.l0_cycles),
            ("flushes", of.overview.tells_of(Kind::Flush), slice.flushes),
            ("pool_misses", of.overview.tells_of(Kind::Pool), slice.pool_misses),
        ] {
            if known {
                add("slices", &item, name, value as f64);
            }
        }
    }
    for row in &of.flushes.rows {
        let item = [row.verdict.name(), row.cause.name(), row.kind.name(), row.actor.name(), row.rule.name()].join(" ");
        add("flushes", &item, "count", row.count as f64);
        add("flushes", &item, "dropped", row.dropped as f64);
        add("flushes", &item, "dropped_nothing", row.dropped_nothing as f64);
        add("flushes", &item, "cycles", (row.cycles + row.refill_cycles) as f64);
    }
    for row in &of.flushes.sites.rows {
        let exit = row.site.exit.map_or("start".into(), |(level, reason)| format!("L{level} {reason}"));
        let rip = row.site.rip.map(|rip| format!(" at {rip:#x}")).unwrap_or_default();
        let item =
            format!("{} {} {} in {exit}{rip}", row.site.actor.name(), row.site.cause.name(), row.site.kind.name());
        add("flush_sites", &item, "count", row.tally.made() as f64);
        add("flush_sites", &item, "dropped", row.tally.dropped as f64);
        add("flush_sites", &item, "wasted_cycles", row.tally.wasted as f64);
    }
    for row in &of.flushes.levels {
        let item = format!("{} by {}", row.levels.name(), row.actor.name());
        add("flush_levels", &item, "count", row.tally.made() as f64);
        add("flush_levels", &item, "dropped", row.tally.dropped as f64);
        add("flush_levels", &item, "wasted_cycles", row.tally.wasted as f64);
    }
    for row in &of.flushes.tags.rows {
        let item = format!("{} by {}", row.tag.name(), row.actor.name());
        add("flush_tags", &item, "count", row.tally.made() as f64);
        add("flush_tags", &item, "dropped", row.tally.dropped as f64);
        add("flush_tags", &item, "wasted_cycles", row.tally.wasted as f64);
    }
    let all = (of.pools.len() > 1).then(|| PoolFinding::sum(&of.pools, &COSTS));
    for pool in of.pools.iter().chain(&all) {
        let whose = pool.vcpu.map_or("all vcpus".into(), |vcpu| format!("vcpu {vcpu}"));
        let item = whose.clone();
        for (name, value) in [
            ("hits", pool.hits),
            ("misses", pool.misses),
            ("recycles", pool.recycles),
            ("frees", pool.frees),
            ("slots", pool.slots),
        ] {
            add("pool", &item, name, value as f64);
        }
        for row in &pool.curve.sizes {
            let item = format!("{whose} slots {}", row.size);
            add("pool_curve", &item, "lru", row.lru as f64);
            add("pool_curve", &item, "fifo", row.fifo as f64);
            add("pool_curve", &item, "optimum", row.optimum as f64);
        }
    }
    for row in &of.vmcs.rows {
        let item = format!("{} {} {}", row.actor, row.which, row.field);
        add("vmcs", &item, "reads", row.reads as f64);
        add("vmcs", &item, "unchanged_reads", row.same_reads as f64);
        add("vmcs", &item, "writes", row.writes as f64);
        add("vmcs", &item, "same_value_writes", row.same_writes as f64);
    }
    for shadowing in &of.shadowing {
        for row in &shadowing.rows {
            let item = format!("{} {}", row.actor, row.field);
            add("shadowing", &item, "exits_saved", row.exits as f64);
            add("shadowing", &item, "gain_cycles", row.gain() as f64);
            add("shadowing", &item, "over_kvm_cycles", row.over_kvm as f64);
        }
    }
    for row in &of.ept_levels {
        let item = format!("L{}", row.level);
        add("ept_violations", &item, "count", row.count as f64);
        if of.overview.tells_of(Kind::Ept) {
            add("ept_violations", &item, "after_zap", row.again as f64);
        }
        add("ept_violations", &item, "pages", row.pages as f64);
    }
    for (kind, name, value) in [
        (Kind::Ept, "bursts", of.storms.sizes.count()),
        (Kind::Ept, "largest_burst", of.storms.sizes.max()),
        (Kind::Ept, "storms", of.storms.storms),
        (Kind::Ept, "storm_changes", of.storms.changes),
        (Kind::Vpid, "vpids_given", of.vpid_uses.all.given),
        (Kind::Vpid, "vpids_changed_hands", of.vpid_uses.all.changed_hands),
        (Kind::Vpid, "vpids_recycled", of.vpid_uses.all.recycled),
        (Kind::Entry, "moves", of.returns.moves),
        (Kind::Entry, "returns", of.returns.returns),
        (Kind::Entry, "returns_unflushed", of.returns.unflushed),
    ] {
        // What a foreign source does not tell of is not 0.
        if of.overview.tells_of(kind) {
            add("tags", "", name, value as f64);
        }
    }
    for (number, phase) in of.phases.iter().enumerate() {
        let item = phase.mark.map_or("start".into(), |mark| format!("{number} mark {mark}"));
        let known = |kind| of.overview.tells_of(kind);
        let ours = of.overview.origin.is_none();
        for (name, known, value) in [
            ("events", true, phase.events),
            ("instructions", true, phase.instructions),
            ("l0_cycles", ours, phase.l0_cycles),
            ("l1_exits", true, phase.l1_exits),
            ("l2_exits", true, phase.l2_exits),
            ("flushes", known(Kind::Flush), phase.flushes),
            ("redundant_flushes", known(Kind::Flush), phase.redundant),
            ("missing_flushes", known(Kind::Flush), phase.missing),
            ("pool_misses", known(Kind::Pool), phase.pool_missed),
        ] {
            if known {
                add("phases", &item, name, value as f64);
            }
        }
        if let Some(factor) = phase.factor() {
            add("phases", &item, "exits_per_l2_exit", factor);
        }
    }
}
