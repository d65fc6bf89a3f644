//! What was injected, and the trace cut at its marks.

use super::super::document::{Cell, Part, Section, Table, Tone};
use super::{TOP, section};
use crate::findings::Findings;

pub(super) fn injections(of: &Findings) -> Option<Section> {
    if of.injections.is_empty() {
        return None;
    }
    let rows = of.injections.iter().take(TOP).map(|row| {
        vec![
            Cell::number(format!("L{}", row.level), row.level.into()),
            Cell::text(row.kind.name()),
            Cell::count(row.vector.into()),
            Cell::count(row.count),
        ]
    });
    let table = Table { columns: vec!["into", "type", "vector", "count"], rows: rows.collect(), note: String::new() };
    section("injections", "Injected events", vec![Part::Table(table)])
}

pub(super) fn phases(of: &Findings) -> Option<Section> {
    if of.phases.len() < 2 {
        return None;
    }
    let columns = vec![
        "mark",
        "first event",
        "events",
        "instructions",
        "L1 exits",
        "L2 exits",
        "VMCS accesses",
        "flushes",
        "redundant",
        "missing",
        "pool misses",
    ];
    let rows = of.phases.iter().take(2 * TOP).map(|phase| {
        let tone = |count, tone| if count > 0 { tone } else { Tone::Plain };
        vec![
            phase.mark.map_or(Cell::number("start", -1.0), |mark| Cell::number(mark.to_string(), mark as f64)),
            Cell::count(phase.first),
            Cell::count(phase.events),
            Cell::count(phase.instructions),
            Cell::count(phase.l1_exits),
            Cell::count(phase.l2_exits),
            Cell::count(phase.vmcs),
            Cell::count(phase.flushes),
            Cell::count(phase.redundant).toned(tone(phase.redundant, Tone::Warn)),
            Cell::count(phase.missing).toned(tone(phase.missing, Tone::Bad)),
            Cell::count(phase.pool_missed),
        ]
    });
    let left = of.phases.len().saturating_sub(2 * TOP);
    let note = if left > 0 { format!("{left} later phases are not shown.") } else { String::new() };
    section("phases", "Between marks", vec![Part::Table(Table { columns, rows: rows.collect(), note })])
}
