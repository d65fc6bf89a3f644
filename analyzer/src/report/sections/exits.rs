//! Exits, and what each exit of L2 costs.

use super::super::document::{Cell, Icicle, Part, Section, Table};
use super::{TOP, percentiles, section};
use crate::findings::{CausedExits, Findings};
use crate::number::grouped;
use hv_defs::event::Kind;

pub(super) fn exits(of: &Findings) -> Option<Section> {
    if of.exits.is_empty() {
        return None;
    }
    let all: u64 = of.exits.iter().map(|row| row.count).sum();
    let cycles: u64 = of.exits.iter().map(|row| row.handling.sum()).sum();
    let columns = vec![
        "level",
        "reason",
        "by",
        "exits",
        "share",
        "run before p50",
        "p99",
        "cycles p50",
        "p90",
        "p99",
        "max",
        "cycles",
        "of handling",
    ];
    let shown = of.exits.iter().take(TOP).map(|row| {
        let [p50, p90, p99, max] = percentiles(&row.handling);
        let [run50, _, run99, _] = percentiles(&row.guest);
        let name = format!("L{}", row.level);
        vec![
            Cell::number(name, row.level.into()),
            Cell::text(row.reason.to_string()),
            Cell::text(row.handled_by.name()),
            Cell::count(row.count),
            Cell::share(row.count, all),
            run50,
            run99,
            p50,
            p90,
            p99,
            max,
            Cell::count(row.handling.sum()),
            Cell::share(row.handling.sum(), cycles),
        ]
    });
    let mut rows: Vec<_> = shown.collect();
    let rest: u64 = of.exits.iter().skip(TOP).map(|row| row.count).sum();
    let mut note =
        "`run before` is what the guest ran from its entry to the exit, in instructions. Cycles are modelled: \
                    the exit, what L0 did, and the entry that followed."
            .to_owned();
    let mut columns = columns;
    if of.overview.origin.is_some() {
        // Nothing says what a foreign machine's cycles would be, nor, without entries, since when a guest ran.
        let timed = of.overview.tells_of(Kind::Entry);
        let kept = if timed { 7 } else { 5 };
        columns.truncate(kept);
        rows.iter_mut().for_each(|row| row.truncate(kept));
        let clock = of.overview.clock();
        note = if timed {
            format!("`run before` is from the guest's entry to the exit, in {clock}.")
        } else {
            String::new()
        };
    }
    if rest > 0 {
        note += &format!(" {} exits of {} other kinds are not shown.", grouped(rest), of.exits.len() - TOP);
    }
    section("exits", "Exits", vec![Part::Table(Table { columns, rows, note })])
}

/// An exit that another caused, and where that one is of an L3, whether it did so by an exit of L2.
fn path(caused: &CausedExits) -> String {
    match (caused.level, caused.under) {
        (1, None) => caused.reason.to_string(),
        (level, None) => format!("L{level} {}", caused.reason),
        (_, Some(under)) => format!("{} for {under}", caused.reason),
    }
}

pub(super) fn multiplication(of: &Findings) -> Option<Section> {
    let all = &of.multiplication;
    if all.reasons.is_empty() {
        return None;
    }
    let columns = vec![
        "exit",
        "exits",
        "reflected",
        "exits each",
        "caused",
        "mostly",
        "L1 instr. p50",
        "cycles p50",
        "p90",
        "p99",
        "max",
        "L0 VMCS accesses",
    ];
    let shown = all.reasons.iter().take(TOP).map(|reason| {
        let [p50, p90, p99, max] = percentiles(&reason.cycles);
        let mostly: Vec<String> =
            reason.caused.iter().take(3).map(|caused| format!("{} {}", path(caused), grouped(caused.count))).collect();
        vec![
            Cell::text(format!("L{} {}", reason.level, reason.reason)),
            Cell::count(reason.count),
            Cell::count(reason.reflected),
            Cell::number(format!("{:.2}", reason.factor()), reason.factor()),
            Cell::count(reason.caused_total()),
            Cell::text(if mostly.is_empty() { "-".into() } else { mostly.join(", ") }),
            percentiles(&reason.l1_instructions)[0].clone(),
            p50,
            p90,
            p99,
            max,
            Cell::count(reason.accesses),
        ]
    });
    let mut table = Table {
        columns,
        rows: shown.collect(),
        note:
            "`exits each` is what silicon takes for one such exit, itself included, where the guest ran again. Cycles \
               are modelled, from the exit to the guest's next entry."
                .into(),
    };
    if of.overview.origin.is_some() {
        // The columns from what L1 ran on count instructions and cycles.
        table.columns.truncate(6);
        table.rows.iter_mut().for_each(|row| row.truncate(6));
        table.note =
            "`exits each` is what silicon takes for one such exit, itself included, where the guest ran again.".into();
    }
    let parts = all.reasons.iter().filter(|reason| reason.resumed > 0).map(|reason| {
        let caused = reason.caused.iter().map(|caused| (path(caused), caused.count)).collect();
        (format!("L{} {}", reason.level, reason.reason), reason.resumed + reason.caused_total(), caused)
    });
    let parts: Vec<_> = parts.collect();
    let mut shown = vec![Part::Table(table)];
    if !parts.is_empty() {
        shown.push(Part::Icicle(Icicle {
            title: "Exits of silicon, by the exit that caused them".into(),
            unit: "exits",
            parts,
        }));
    }
    section("multiplication", "What each L2 exit costs", shown)
}
