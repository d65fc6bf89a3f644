//! A report as JSON. The keys are a contract: docs/json.md lists them, and a test holds the two together.

mod time;

use super::compare::MEASURES;
use super::waste;
use crate::Findings;
use crate::findings::NestedExit;
use crate::histogram::Histogram;
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
pub(super) fn number(value: Option<f64>) -> Value {
    match value {
        None => Value::Null,
        Some(value) if value.fract() == 0.0 && value.abs() < 9e15 => Value::from(value as i64),
        Some(value) => Value::from(value),
    }
}

pub(super) fn spread(of: &Histogram) -> Value {
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
    let ours = overview.origin.is_none();
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
            "by_reason": of.exits.iter().map(|row| time::exits(row, ours)).collect::<Vec<_>>(),
        },
        "multiplication": {
            "l2_exits": of.multiplication.l2_exits(),
            "resumed": of.multiplication.resumed(),
            "l1_exits_caused": of.multiplication.caused(),
            "exits_per_l2_exit": of.multiplication.factor(),
            "by_reason": of.multiplication.reasons.iter().map(nested).collect::<Vec<_>>(),
            "tree": time::tree(of),
            "dearest": of.multiplication.dearest.iter().map(|one| time::dearest(one, ours)).collect::<Vec<_>>(),
        },
        "flushes": waste::flushes(of),
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
        "pool": waste::pools(of),
        "vmcs": waste::vmcs(of),
        "vpids": of.vpids.iter().map(|row| json!({
            "vcpu": row.vcpu, "op": row.op.name(), "count": row.count,
        })).collect::<Vec<_>>(),
        "vpid_uses": waste::vpid_uses(of),
        "returns": waste::returns(of),
        "ept": waste::ept(of),
        "injections": of.injections.iter().map(|row| json!({
            "level": row.level, "type": row.kind.name(), "vector": row.vector, "count": row.count,
        })).collect::<Vec<_>>(),
        "phases": of.phases.iter().map(|one| time::phase(of, one)).collect::<Vec<_>>(),
        "advice": of.advice.iter().map(|advice| json!({
            "severity": advice.severity.name(),
            "topic": advice.topic,
            "text": advice.text,
            "saves_cycles": advice.saves,
        })).collect::<Vec<_>>(),
    });
    object["time"] = time::time(of);
    object["clock"] = overview.clock().name().into();
    object["origin"] = Value::Null;
    object["untold"] = overview.untold.iter().map(|kind| kind.name()).collect();
    // What is not told of is not 0.
    if let Some(origin) = &overview.origin {
        object["origin"] = json!({ "source": origin.source, "name": origin.name, "note": origin.note });
        for key in ["guest", "policy", "instructions", "cycles"] {
            object[key] = Value::Null;
        }
    }
    for (kind, key) in [
        (Kind::Flush, "flushes"),
        (Kind::Pool, "pool"),
        (Kind::Vmcs, "vmcs"),
        (Kind::Vpid, "vpids"),
        (Kind::Vpid, "vpid_uses"),
        (Kind::Entry, "returns"),
    ] {
        if !overview.tells_of(kind) {
            object[key] = Value::Null;
        }
    }
    object
}

fn nested(row: &NestedExit) -> Value {
    json!({
        "level": row.level,
        "reason": row.reason.to_string(),
        "count": row.count,
        "reflected": row.reflected,
        "resumed": row.resumed,
        "exits_per_exit": row.factor(),
        "caused": row.caused.iter().map(time::caused).collect::<Vec<_>>(),
        "l1_instructions": spread(&row.l1_instructions),
        "cycles": spread(&row.cycles),
        "l0_accesses": row.accesses,
    })
}
