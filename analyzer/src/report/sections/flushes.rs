//! Flushes and their verdicts.

use super::super::document::{Cell, Part, Section, Table};
use super::{TOP, section, verdict_tone};
use crate::findings::{Findings, FlushRow};
use crate::judge::Verdict;
use crate::number::grouped;

fn flush_cells(row: &FlushRow, made: u64) -> Vec<Cell> {
    let nothing = if row.verdict == Verdict::Missing { Cell::text("-") } else { Cell::count(row.dropped_nothing) };
    let verdict = match row.narrower {
        Some(narrower) => format!("{}: {narrower} would do", row.verdict.name()),
        None => row.verdict.name().into(),
    };
    vec![
        Cell::text(verdict).toned(verdict_tone(row.verdict)),
        Cell::text(row.cause.name()),
        Cell::text(row.kind.name()),
        Cell::text(row.actor.name()),
        Cell::text(row.rule.name()),
        Cell::count(row.count),
        if row.verdict == Verdict::Missing { Cell::text("-") } else { Cell::share(row.count, made) },
        Cell::count(row.dropped),
        nothing,
        Cell::count(row.cycles + row.refill_cycles),
        Cell::count(row.first),
    ]
}

pub(super) fn flushes(of: &Findings) -> Option<Section> {
    let flushes = &of.flushes;
    if flushes.rows.is_empty() {
        return None;
    }
    let made = flushes.made();
    let columns = vec![
        "verdict",
        "cause",
        "kind",
        "by",
        "rule",
        "flushes",
        "share",
        "dropped",
        "dropped nothing",
        "cycles",
        "first event",
    ];
    let rows = flushes.rows.iter().take(2 * TOP).map(|row| flush_cells(row, made)).collect();
    let mut rules: Vec<_> = flushes.rows.iter().map(|row| row.rule).collect();
    rules.sort_unstable();
    rules.dedup();
    let rules: Vec<String> = rules.iter().map(|rule| format!("{}: {}", rule.name(), rule.why())).collect();
    let rest: u64 = flushes.rows.iter().skip(2 * TOP).map(|row| row.count).sum();
    let mut note =
        "Judged by rule, from the events alone. Cycles are modelled, of the flush and of filling again what it \
                    dropped."
            .to_owned();
    if rest > 0 {
        note += &format!(" {} flushes of other kinds are not shown.", grouped(rest));
    }
    let mut parts = vec![Part::Table(Table { columns, rows, note })];
    parts.extend(rules.into_iter().map(Part::Note));
    section("flushes", "Flushes", parts)
}
