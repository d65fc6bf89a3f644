//! VMCS accesses.

use super::super::document::{Cell, Part, Section, Table, Tone};
use super::{TOP, section};
use crate::findings::Findings;
use crate::number::{grouped, percent};
use hv_defs::vmcs::Shadowed;

pub(super) fn vmcs(of: &Findings) -> Option<Section> {
    let vmcs = &of.vmcs;
    if vmcs.rows.is_empty() && vmcs.others.is_empty() {
        return None;
    }
    let facts = vec![
        ("VMREADs", Cell::count(vmcs.reads())),
        (
            "of what had not changed",
            Cell::number(share_text(vmcs.same_reads(), vmcs.reads()), vmcs.same_reads() as f64),
        ),
        ("VMWRITEs", Cell::count(vmcs.writes())),
        (
            "of the value that was there",
            Cell::number(share_text(vmcs.same_writes(), vmcs.writes()), vmcs.same_writes() as f64),
        ),
    ];
    let columns = vec!["field", "VMCS", "by", "reads", "unchanged", "writes", "same value", "of writes", "KVM shadows"];
    let rows = vmcs.rows.iter().take(TOP + TOP / 2).map(|row| {
        let shadows = match row.shadowed() {
            Shadowed::No => "no",
            Shadowed::Ro => "reads",
            Shadowed::Rw => "yes",
        };
        let tone = if row.same_writes * 2 > row.writes { Tone::Warn } else { Tone::Plain };
        vec![
            Cell::text(row.field.to_string()),
            Cell::text(row.which.name()),
            Cell::text(row.actor.name()),
            Cell::count(row.reads),
            Cell::count(row.same_reads),
            Cell::count(row.writes),
            Cell::count(row.same_writes).toned(tone),
            Cell::share(row.same_writes, row.writes),
            Cell::text(shadows),
        ]
    });
    let rows: Vec<_> = rows.collect();
    let rest: u64 = vmcs.rows.iter().skip(rows.len()).map(|row| row.accesses()).sum();
    let mut note = "`KVM shadows` is its fixed list of fields that L1 reaches without an exit.".to_owned();
    if rest > 0 {
        let left = vmcs.rows.len() - rows.len();
        note += &format!(" {} accesses to {left} other fields are not shown.", grouped(rest));
    }
    let mut parts = vec![Part::Facts(facts), Part::Table(Table { columns, rows, note })];
    if !vmcs.others.is_empty() {
        let rows = vmcs.others.iter().map(|&(actor, which, op, count)| {
            let text = |text: &str| Cell::text(text);
            vec![text(op.name()), text(which.name()), text(actor.name()), Cell::count(count)]
        });
        parts.push(Part::Table(Table {
            columns: vec!["operation", "VMCS", "by", "count"],
            rows: rows.collect(),
            note: String::new(),
        }));
    }
    section("vmcs", "VMCS accesses", parts)
}

fn share_text(part: u64, whole: u64) -> String {
    if whole == 0 { grouped(part) } else { format!("{} ({})", grouped(part), percent(part, whole)) }
}
