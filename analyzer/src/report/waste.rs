//! What was wasted, for the JSON report: flushes, the vmcs02 pool, VMCS accesses, VPIDs and EPT.

use super::json::spread;
use crate::Findings;
use crate::findings::{List, PoolFinding, Shadowing, Tally, Top};
use crate::judge::Verdict;
use hv_defs::cost::DEFAULT as COSTS;
use hv_defs::event::Kind;
use hv_defs::vmcs::Shadowed;
use serde_json::{Value, json};

/// An object with the keys of another behind its own.
fn with(mut object: Value, more: Value) -> Value {
    if let (Value::Object(object), Value::Object(more)) = (&mut object, more) {
        object.extend(more);
    }
    object
}

fn tally(of: &Tally) -> Value {
    json!({
        "count": of.made(),
        "missing": of.count(Verdict::Missing),
        "required": of.count(Verdict::Required),
        "redundant": of.count(Verdict::Redundant),
        "too_broad": of.count(Verdict::TooBroad),
        "unknown": of.count(Verdict::Unknown),
        "judged_by": of.judged_by(),
        "dropped": of.dropped,
        "dropped_nothing": of.dropped_nothing,
        "cycles": of.cycles,
        "refill_cycles": of.refill_cycles,
        "wasted_cycles": of.wasted,
    })
}

fn rest<T>(of: &Top<T>) -> Value {
    with(json!({ "left": of.left }), tally(&of.rest))
}

pub(super) fn flushes(of: &Findings) -> Value {
    let flushes = &of.flushes;
    json!({
        "total": flushes.made(),
        "missing": flushes.count(Verdict::Missing),
        "required": flushes.count(Verdict::Required),
        "redundant": flushes.count(Verdict::Redundant),
        "too_broad": flushes.count(Verdict::TooBroad),
        "unknown": flushes.count(Verdict::Unknown),
        "dropped": flushes.dropped(),
        "redundant_cycles": flushes.cycles(Verdict::Redundant),
        "wasted_cycles": flushes.levels.iter().map(|row| row.tally.wasted).sum::<u64>(),
        "by_cause": flushes.rows.iter().map(|row| json!({
            "verdict": row.verdict.name(),
            "rule": row.rule.name(),
            "why": row.rule.why(),
            "judged_by": row.rule.ground().name(),
            "cause": row.cause.name(),
            "kind": row.kind.name(),
            "actor": row.actor.name(),
            "narrower": row.narrower,
            "known_by": row.known_by.map(|rule| rule.name()),
            "count": row.count,
            "dropped": row.dropped,
            "dropped_nothing": row.dropped_nothing,
            "cycles": row.cycles,
            "refill_cycles": row.refill_cycles,
            "first_event": row.first,
        })).collect::<Vec<_>>(),
        "sites": flushes.sites.rows.iter().map(|row| with(json!({
            "actor": row.site.actor.name(),
            "cause": row.site.cause.name(),
            "kind": row.site.kind.name(),
            "exit_level": row.site.exit.map(|(level, _)| level),
            "exit_reason": row.site.exit.map(|(_, reason)| reason.to_string()),
            "rip": row.site.rip,
            "levels": row.levels.name(),
            "narrower": row.narrower,
            "first_event": row.first,
        }), tally(&row.tally))).collect::<Vec<_>>(),
        "sites_rest": rest(&flushes.sites),
        "by_level": flushes.levels.iter().map(|row| with(json!({
            "levels": row.levels.name(),
            "actor": row.actor.name(),
        }), tally(&row.tally))).collect::<Vec<_>>(),
        "by_tag": flushes.tags.rows.iter().map(|row| with(json!({
            "actor": row.actor.name(),
            "tag": row.tag.name(),
            "levels": row.levels.name(),
        }), tally(&row.tally))).collect::<Vec<_>>(),
        "by_tag_rest": rest(&flushes.tags),
        "missing_list": flushes.missing.iter().map(|row| json!({
            "event": row.event,
            "instruction": row.at.instruction,
            "vcpu": row.at.vcpu,
            "pcpu": row.at.pcpu,
            "owner": row.flush.actor.name(),
            "kind": row.flush.kind.name(),
            "cause": row.flush.cause.name(),
            "judged_by": row.judged_by.name(),
            "eptp": row.flush.eptp,
            "gpa": row.flush.address,
        })).collect::<Vec<_>>(),
    })
}

fn sum(of: &Findings, pick: impl Fn(&PoolFinding) -> u64) -> u64 {
    of.pools.iter().map(pick).sum()
}

pub(super) fn pools(of: &Findings) -> Value {
    json!({
        "requests": sum(of, |pool| pool.curve.requests),
        "hits": sum(of, |pool| pool.hits),
        "misses": sum(of, PoolFinding::missed),
        "recycles": sum(of, |pool| pool.recycles),
        "all_vcpus": (!of.pools.is_empty()).then(|| pool(&PoolFinding::sum(&of.pools, &COSTS))),
        "by_vcpu": of.pools.iter().map(pool).collect::<Vec<_>>(),
    })
}

fn pool(of: &PoolFinding) -> Value {
    let knee = of.curve.knee();
    json!({
        "vcpu": of.vcpu,
        "requests": of.curve.requests,
        "vmcs12s": of.curve.distinct,
        "slots": of.slots,
        "hits": of.hits,
        "misses": of.missed(),
        "recycles": of.recycles,
        "frees": of.frees,
        "written_at_hits": of.written_at_hits,
        "written_at_misses": of.written_at_misses,
        "skipped": of.skipped,
        "vmwrites_saved_by_a_hit": of.saved_by_a_hit,
        "miss_cycles": of.miss_cycles,
        "knee": knee.map(|knee| knee.size),
        "knee_misses": knee.map(|knee| knee.misses),
        "knee_last_slot_saves": knee.map(|knee| knee.last_saves),
        "knee_beyond_saves": knee.map(|knee| knee.beyond),
        "compulsory": of.curve.compulsory,
        "curve": of.curve.sizes.iter().map(|row| {
            let avoided = of.curve.lru_at(1).unwrap_or(0).saturating_sub(row.lru);
            json!({
                "slots": row.size,
                "lru": row.lru,
                "fifo": row.fifo,
                "optimum": row.optimum,
                "vmwrites_saved": of.writes_of(avoided),
                "cycles_saved": of.cycles_of(avoided),
            })
        }).collect::<Vec<_>>(),
    })
}

pub(super) fn vmcs(of: &Findings) -> Value {
    json!({
        "reads": of.vmcs.reads(),
        "unchanged_reads": of.vmcs.same_reads(),
        "writes": of.vmcs.writes(),
        "same_value_writes": of.vmcs.same_writes(),
        "by_field": of.vmcs.rows.iter().map(|row| json!({
            "actor": row.actor.name(),
            "which": row.which.name(),
            "field": row.field.to_string(),
            "reads": row.reads,
            "unchanged_reads": row.same_reads,
            "writes": row.writes,
            "same_value_writes": row.same_writes,
            "shadowed": !matches!(row.shadowed(), Shadowed::No),
        })).collect::<Vec<_>>(),
        "controls": of.vmcs.controls().iter().map(|row| json!({
            "actor": row.actor.name(),
            "which": row.which.name(),
            "field": row.field.to_string(),
            "writes": row.writes,
            "same_value_writes": row.same_writes,
        })).collect::<Vec<_>>(),
        "shadowing": of.shadowing.iter().map(shadowing).collect::<Vec<_>>(),
    })
}

fn shadowing(of: &Shadowing) -> Value {
    let list = |list: &List| {
        json!({
            "fields": list.fields,
            "exits_saved": list.exits,
            "exit_cycles": list.exit_cycles,
            "copy_cycles": list.copy_cycles,
            "gain_cycles": list.gain(),
        })
    };
    let how = |shadowed| match shadowed {
        Shadowed::No => "no",
        Shadowed::Ro => "reads",
        Shadowed::Rw => "yes",
    };
    json!({
        "actor": of.actor.name(),
        "entries": of.entries,
        "exits": of.exits,
        "access_cycles": of.access_cycles,
        "copies": of.copies,
        "kvm": list(&of.kvm),
        "best": list(&of.best),
        "unused": of.unused,
        "unused_cycles": of.unused_cycles,
        "fields": of.rows.iter().map(|row| json!({
            "field": row.field.to_string(),
            "reads": row.reads,
            "writes": row.writes,
            "kvm": how(row.kvm),
            "best": how(row.best),
            "exits_saved": row.exits,
            "exit_cycles": row.exit_cycles,
            "copy_cycles": row.copy_cycles,
            "gain_cycles": row.gain(),
            "over_kvm_cycles": row.over_kvm,
        })).collect::<Vec<_>>(),
    })
}

pub(super) fn ept(of: &Findings) -> Value {
    let told = of.overview.tells_of(Kind::Ept);
    json!({
        "roots": of.ept.iter().map(|row| json!({
            "eptp12": row.eptp12,
            "eptp02": row.eptp02,
            "maps": row.maps,
            "zaps": row.zaps,
            "syncs": row.syncs,
            "switches": row.switches,
        })).collect::<Vec<_>>(),
        "violations": of.ept_levels.iter().map(|row| json!({
            "level": row.level, "count": row.count, "after_zap": told.then_some(row.again), "pages": row.pages,
        })).collect::<Vec<_>>(),
        "violation_pages": of.ept_page_count,
        "top_pages": of.ept_pages.iter().map(|row| json!({
            "level": row.level, "page": row.page, "count": row.count, "after_zap": told.then_some(row.again),
        })).collect::<Vec<_>>(),
        "bursts": told.then(|| spread(&of.storms.sizes)),
        "storms": told.then_some(of.storms.storms),
        "storm_changes": told.then_some(of.storms.changes),
        "largest_bursts": of.storms.largest.iter().map(|burst| json!({
            "event": burst.event,
            "instruction": burst.at.instruction,
            "vcpu": burst.at.vcpu,
            "zaps": burst.zaps,
            "syncs": burst.syncs,
            "eptp12": burst.root.0,
            "eptp02": burst.root.1,
            "of_root": burst.of_root,
            "exit_level": burst.exit.map(|(level, _)| level),
            "exit_reason": burst.exit.map(|(_, reason)| reason.to_string()),
            "of_exit": burst.of_exit,
            "l1_exits": burst.l1_exits,
        })).collect::<Vec<_>>(),
    })
}

pub(super) fn vpid_uses(of: &Findings) -> Value {
    let uses = &of.vpid_uses;
    json!({
        "vpids": uses.vpids,
        "given": uses.all.given,
        "changed_hands": uses.all.changed_hands,
        "recycled": uses.all.recycled,
        "hits": uses.all.hits,
        "kept": uses.kept,
        "lifetimes": spread(&uses.lifetimes),
        "by_vpid": uses.rows.iter().map(|row| json!({
            "vpid02": row.vpid02,
            "given": row.given,
            "changed_hands": row.changed_hands,
            "recycled": row.recycled,
            "hits": row.hits,
        })).collect::<Vec<_>>(),
    })
}

pub(super) fn returns(of: &Findings) -> Value {
    let returns = &of.returns;
    json!({
        "tags": returns.tags,
        "moves": returns.moves,
        "returns": returns.returns,
        "unflushed": returns.unflushed,
        "away": spread(&returns.away),
        "by_tag": returns.rows.iter().map(|row| json!({
            "tag": row.tag.name(),
            "moves": row.moves,
            "returns": row.returns,
            "unflushed": row.unflushed,
        })).collect::<Vec<_>>(),
    })
}
