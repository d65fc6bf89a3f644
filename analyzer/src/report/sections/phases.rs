//! What was injected, and the trace cut at its marks.

use super::super::document::{Cell, Part, Section, Table, Tone};
use super::{TOP, section};
use crate::findings::{Findings, Phase};
use hv_defs::cost::DEFAULT as COSTS;
use hv_defs::event::Kind;

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
    let known = |kind| of.overview.tells_of(kind);
    let ours = of.overview.origin.is_none();
    let shown: Vec<_> = of.phases.iter().take(2 * TOP).collect();
    type Pick = fn(&Phase) -> Cell;
    let toned = |count: u64, tone: Tone| if count > 0 { tone } else { Tone::Plain };
    let columns: [(&str, bool, Pick); 13] = [
        ("mark", true, |phase| {
            phase.mark.map_or(Cell::number("start", -1.0), |mark| Cell::number(mark.to_string(), mark as f64))
        }),
        ("first event", true, |phase| Cell::count(phase.first)),
        ("events", true, |phase| Cell::count(phase.events)),
        (if ours { "instructions" } else { of.overview.clock().name() }, true, |phase| Cell::count(phase.instructions)),
        ("cycles", ours, |phase| Cell::count(phase.instructions * COSTS.instruction + phase.l0_cycles)),
        ("of L0", ours, |phase| Cell::share(phase.l0_cycles, phase.instructions * COSTS.instruction + phase.l0_cycles)),
        ("L1 exits", true, |phase| Cell::count(phase.l1_exits)),
        ("L2 exits", true, |phase| Cell::count(phase.l2_exits)),
        ("exits each", known(Kind::Entry), |phase| {
            phase.factor().map_or(Cell::text("-"), |factor| Cell::number(format!("{factor:.2}"), factor))
        }),
        ("VMCS accesses", known(Kind::Vmcs), |phase| Cell::count(phase.vmcs)),
        ("flushes", known(Kind::Flush), |phase| Cell::count(phase.flushes)),
        ("redundant", known(Kind::Flush), |phase| Cell::count(phase.redundant)),
        ("missing", known(Kind::Flush), |phase| Cell::count(phase.missing)),
    ];
    let mut table = Table::default();
    for (name, known, pick) in columns.into_iter().chain([(
        "pool misses",
        known(Kind::Pool),
        (|phase| Cell::count(phase.pool_missed)) as Pick,
    )]) {
        if known {
            table.columns.push(name);
            table.rows.resize_with(shown.len(), Vec::new);
            for (row, phase) in table.rows.iter_mut().zip(&shown) {
                let tone = match name {
                    "redundant" => toned(phase.redundant, Tone::Warn),
                    "missing" => toned(phase.missing, Tone::Bad),
                    _ => Tone::Plain,
                };
                row.push(pick(phase).toned(tone));
            }
        }
    }
    let left = of.phases.len() - shown.len();
    table.note = "`exits each` is what silicon takes for one exit of L2 or deeper, itself included.".into();
    if left > 0 {
        table.note += &format!(" {left} later phases are not shown.");
    }
    section("phases", "Between marks", vec![Part::Table(table)])
}
