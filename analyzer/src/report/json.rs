//! A report as JSON. The keys are a contract: docs/json.md lists them, and a test holds the two together.

use super::compare::MEASURES;
use crate::Findings;
use crate::findings::{NestedExit, PoolFinding};
use crate::histogram::Histogram;
use crate::judge::Verdict;
use hv_defs::event::Kind;
use serde_json::{Value, json};

/// The object of a report: the findings of a trace, or of several a list of them under `traces`.
pub fn value(of: &[Findings]) -> Value {
    match of {
        [one] => trace(one),
        several => json!({
            "traces": several.iter().map(trace).collect::<Vec<_>>(),
            "comparison": several.iter().map(measures).collect::<Vec<_>>(),
        }),
    }
}

fn measures(of: &Findings) -> Value {
    let mut row = serde_json::Map::new();
    row.insert("trace".into(), of.name.clone().into());
    for measure in MEASURES {
        row.insert(measure.key.into(), number((measure.of)(of)));
    }
    row.into()
}

/// Whole numbers without a point.
fn number(value: Option<f64>) -> Value {
    match value {
        None => Value::Null,
        Some(value) if value.fract() == 0.0 && value.abs() < 9e15 => Value::from(value as i64),
        Some(value) => Value::from(value),
    }
}

fn spread(of: &Histogram) -> Value {
    json!({
        "count": of.count(),
        "sum": of.sum(),
        "p50": of.percentile(50),
        "p90": of.percentile(90),
        "p99": of.percentile(99),
        "max": of.max(),
    })
}

fn trace(of: &Findings) -> Value {
    let overview = &of.overview;
    let flushes = &of.flushes;
    let counts: serde_json::Map<String, Value> =
        overview.counts.iter().map(|(kind, count)| (kind.name().to_owned(), (*count).into())).collect();
    let failed: serde_json::Map<String, Value> =
        overview.failed_entries.iter().map(|(check, count)| (check.clone(), (*count).into())).collect();
    let mut object = json!({
        "trace": of.name,
        "guest": overview.guest,
        "policy": overview.policy,
        "events": overview.events,
        "counts": counts,
        "lost": overview.lost,
        "truncated": overview.truncated,
        "instructions": overview.instructions,
        "cycles": overview.cycles,
        "vcpus": overview.vcpus,
        "pcpus": overview.pcpus,
        "failed_entries": failed,
        "stop": overview.stop.as_ref().map(|stop| json!({
            "kind": stop.kind.name(), "code": stop.code, "text": stop.text,
        })),
        "exits": {
            "total": of.exits.iter().map(|row| row.count).sum::<u64>(),
            "by_reason": of.exits.iter().map(|row| json!({
                "level": row.level,
                "reason": row.reason.to_string(),
                "handled_by": row.handled_by.name(),
                "count": row.count,
                "guest_instructions": spread(&row.guest),
                "handling_cycles": spread(&row.handling),
            })).collect::<Vec<_>>(),
        },
        "multiplication": {
            "l2_exits": of.multiplication.l2_exits(),
            "resumed": of.multiplication.resumed(),
            "l1_exits_caused": of.multiplication.caused(),
            "exits_per_l2_exit": of.multiplication.factor(),
            "by_reason": of.multiplication.reasons.iter().map(nested).collect::<Vec<_>>(),
        },
        "flushes": {
            "total": flushes.made(),
            "missing": flushes.count(Verdict::Missing),
            "required": flushes.count(Verdict::Required),
            "redundant": flushes.count(Verdict::Redundant),
            "too_broad": flushes.count(Verdict::TooBroad),
            "unknown": flushes.count(Verdict::Unknown),
            "dropped": flushes.dropped(),
            "redundant_cycles": flushes.cycles(Verdict::Redundant),
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
            "missing_list": flushes.missing.iter().map(|row| json!({
                "event": row.event,
                "instruction": row.at.instruction,
                "vcpu": row.at.vcpu,
                "pcpu": row.at.pcpu,
                "owner": row.flush.actor.name(),
                "kind": row.flush.kind.name(),
                "cause": row.flush.cause.name(),
                "eptp": row.flush.eptp,
                "gpa": row.flush.address,
            })).collect::<Vec<_>>(),
        },
        "mistakes": of.mistakes.iter().map(|mistake| json!({
            "kind": mistake.kind.name(),
            "direction": mistake.kind.direction().name(),
            "why": mistake.kind.why(),
            "judged_by": mistake.kind.ground().name(),
            "count": mistake.count,
            "first_event": mistake.first,
            "instruction": mistake.at.instruction,
            "vcpu": mistake.at.vcpu,
            "pcpu": mistake.at.pcpu,
            "proof": mistake.proof,
        })).collect::<Vec<_>>(),
        "pool": {
            "requests": sum(of, |pool| pool.curve.requests),
            "hits": sum(of, |pool| pool.hits),
            "misses": sum(of, PoolFinding::missed),
            "recycles": sum(of, |pool| pool.recycles),
            "by_vcpu": of.pools.iter().map(pool).collect::<Vec<_>>(),
        },
        "vmcs": {
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
                "shadowed": !matches!(row.shadowed(), hv_defs::vmcs::Shadowed::No),
            })).collect::<Vec<_>>(),
        },
        "vpids": of.vpids.iter().map(|row| json!({
            "vcpu": row.vcpu, "op": row.op.name(), "count": row.count,
        })).collect::<Vec<_>>(),
        "ept": {
            "roots": of.ept.iter().map(|row| json!({
                "eptp12": row.eptp12,
                "eptp02": row.eptp02,
                "maps": row.maps,
                "zaps": row.zaps,
                "syncs": row.syncs,
                "switches": row.switches,
            })).collect::<Vec<_>>(),
            "violation_pages": of.ept_page_count,
            "top_pages": of.ept_pages.iter().map(|row| json!({
                "level": row.level, "page": row.page, "count": row.count,
            })).collect::<Vec<_>>(),
        },
        "injections": of.injections.iter().map(|row| json!({
            "level": row.level, "type": row.kind.name(), "vector": row.vector, "count": row.count,
        })).collect::<Vec<_>>(),
        "phases": of.phases.iter().map(|phase| json!({
            "mark": phase.mark,
            "first_event": phase.first,
            "events": phase.events,
            "instructions": phase.instructions,
            "l1_exits": phase.l1_exits,
            "l2_exits": phase.l2_exits,
            "vmcs": phase.vmcs,
            "flushes": phase.flushes,
            "redundant_flushes": phase.redundant,
            "missing_flushes": phase.missing,
            "pool_misses": phase.pool_missed,
        })).collect::<Vec<_>>(),
        "advice": of.advice.iter().map(|advice| json!({
            "severity": advice.severity.name(),
            "topic": advice.topic,
            "text": advice.text,
            "saves_cycles": advice.saves,
        })).collect::<Vec<_>>(),
    });
    object["clock"] = overview.clock().name().into();
    object["origin"] = Value::Null;
    object["untold"] = overview.untold.iter().map(|kind| kind.name()).collect();
    // What a foreign source does not tell of is not 0.
    if let Some(origin) = &overview.origin {
        object["origin"] = json!({ "source": origin.source, "name": origin.name, "note": origin.note });
        for key in ["guest", "policy", "instructions", "cycles"] {
            object[key] = Value::Null;
        }
        for (kind, key) in [(Kind::Flush, "flushes"), (Kind::Pool, "pool"), (Kind::Vmcs, "vmcs"), (Kind::Vpid, "vpids")]
        {
            if !overview.tells_of(kind) {
                object[key] = Value::Null;
            }
        }
    }
    object
}

fn sum(of: &Findings, pick: impl Fn(&PoolFinding) -> u64) -> u64 {
    of.pools.iter().map(pick).sum()
}

fn nested(row: &NestedExit) -> Value {
    json!({
        "level": row.level,
        "reason": row.reason.to_string(),
        "count": row.count,
        "reflected": row.reflected,
        "resumed": row.resumed,
        "exits_per_exit": row.factor(),
        "caused": row.caused.iter().map(|caused| json!({
            "level": caused.level,
            "reason": caused.reason.to_string(),
            "under": caused.under.map(|under| under.to_string()),
            "count": caused.count,
            "cycles": caused.cycles,
        })).collect::<Vec<_>>(),
        "l1_instructions": spread(&row.l1_instructions),
        "cycles": spread(&row.cycles),
        "l0_accesses": row.accesses,
    })
}

fn pool(of: &PoolFinding) -> Value {
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
        "knee": of.curve.knee(),
        "compulsory": of.curve.compulsory,
        "curve": of.curve.sizes.iter().map(|row| json!({
            "slots": row.size, "lru": row.lru, "fifo": row.fifo, "optimum": row.optimum,
        })).collect::<Vec<_>>(),
    })
}
