//! VMCS accesses.

use super::super::document::{Cell, Part, Section, Table, Tone};
use super::{TOP, section};
use crate::findings::{FieldRow, Findings, List, ShadowRow, Shadowing};
use crate::number::{grouped, percent};
use hv_defs::cost::DEFAULT as COSTS;
use hv_defs::event::Which;
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
        let shadows = how(row.shadowed());
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
    parts.extend(controls(of).into_iter().flat_map(|table| [Part::Heading("Controls rewritten in vain"), table]));
    of.shadowing.iter().for_each(|shadowing| shadow(shadowing, &mut parts));
    if !vmcs.others.is_empty() {
        let rows = vmcs.others.iter().map(|&(actor, which, op, count)| {
            let text = |text: &str| Cell::text(text);
            vec![text(op.name()), text(which.name()), text(actor.name()), Cell::count(count)]
        });
        parts.push(Part::Heading("Other operations"));
        parts.push(Part::Table(Table {
            columns: vec!["operation", "VMCS", "by", "count"],
            rows: rows.collect(),
            note: String::new(),
        }));
    }
    section("vmcs", "VMCS accesses", parts)
}

/// Controls that were written, where any was in vain.
fn controls(of: &Findings) -> Option<Part> {
    // Nothing is entered by a shadow VMCS.
    let entered = |row: &FieldRow| !matches!(row.which, Which::Shadow02 | Which::Shadow12);
    let all: Vec<FieldRow> = of.vmcs.controls().into_iter().filter(entered).collect();
    let rewritten = all.iter().filter(|row| row.same_writes > 0).count();
    if rewritten == 0 {
        return None;
    }
    let rows = all.iter().take(TOP.min(rewritten)).map(|row| {
        let silicon = matches!(row.which, Which::Vmcs01 | Which::Vmcs02);
        let each = if silicon { COSTS.vmwrite + COSTS.control_check } else { COSTS.round_trip() };
        vec![
            Cell::text(row.field.to_string()),
            Cell::text(row.which.name()),
            Cell::text(row.actor.name()),
            Cell::count(row.writes),
            Cell::count(row.same_writes).toned(Tone::Warn),
            Cell::share(row.same_writes, row.writes),
            Cell::count(row.same_writes * each),
        ]
    });
    let mut note = format!(
        "Controls that were rewritten without change. On silicon's VMCSs each such VMWRITE costs {}, and the checks of the \
         next entry up to {} more, which are counted once for each field; those of L1 to vmcs12 an exit to L0 and back.",
        COSTS.vmwrite, COSTS.control_check
    );
    let rest: u64 = all.iter().skip(TOP).map(|row| row.same_writes).sum();
    if rest > 0 {
        note += &format!(" {} of others are not shown.", grouped(rest));
    }
    let columns = vec!["control", "VMCS", "by", "writes", "same value", "of writes", "cycles, at most"];
    Some(Part::Table(Table { columns, rows: rows.collect(), note }))
}

const fn how(shadowed: Shadowed) -> &'static str {
    match shadowed {
        Shadowed::No => "no",
        Shadowed::Ro => "reads",
        Shadowed::Rw => "yes",
    }
}

fn signed(cycles: i64) -> Cell {
    let sign = if cycles < 0 { "-" } else { "" };
    Cell::number(format!("{sign}{}", grouped(cycles.unsigned_abs())), cycles as f64)
}

/// What shadowing is worth to one hypervisor.
fn shadow(of: &Shadowing, parts: &mut Vec<Part>) {
    let who = of.actor.name();
    if !of.rows.is_empty() {
        let rows = of.rows.iter().take(TOP).map(|row| {
            let tone = if row.differs() { Tone::Warn } else { Tone::Plain };
            vec![
                Cell::text(row.field.to_string()),
                Cell::count(row.reads),
                Cell::count(row.writes),
                Cell::text(how(row.kvm)),
                Cell::text(how(row.best)).toned(tone),
                Cell::count(row.exits),
                Cell::count(row.exit_cycles),
                Cell::count(row.copy_cycles),
                Cell::count(row.gain()),
                Cell::count(row.over_kvm),
            ]
        });
        let mut rows: Vec<Vec<Cell>> = rows.collect();
        if of.rows.len() > TOP {
            let sum = |pick: fn(&ShadowRow) -> u64| Cell::count(of.rows.iter().skip(TOP).map(pick).sum());
            rows.push(vec![
                Cell::text(format!("{} more", of.rows.len() - TOP)),
                sum(|row| row.reads),
                sum(|row| row.writes),
                Cell::text(""),
                Cell::text(""),
                sum(|row| row.exits),
                sum(|row| row.exit_cycles),
                sum(|row| row.copy_cycles),
                sum(ShadowRow::gain),
                sum(|row| row.over_kvm),
            ]);
        }
        let note = format!(
            "Fields that {who} reaches in its VMCSs, by what a shadow VMCS is worth here: an access without one costs {} \
             cycles more; a field in one is copied each time that {who} and its guest take turns, which they did {} and {} \
             times.",
            grouped(of.access_cycles),
            grouped(of.entries),
            grouped(of.exits),
        );
        let columns = vec![
            "field",
            "reads",
            "writes",
            "KVM shadows",
            "best",
            "exits saved",
            "their cycles",
            "copying",
            "gain",
            "over KVM's list",
        ];
        parts.push(Part::Heading("Fields worth shadowing"));
        parts.push(Part::Table(Table { columns, rows, note }));
        let list = |name: &str, list: &List| {
            vec![
                Cell::text(name),
                Cell::count(list.fields),
                Cell::count(list.exits),
                Cell::count(list.exit_cycles),
                Cell::count(list.copy_cycles),
                signed(list.gain()),
            ]
        };
        let names = |pick: &dyn Fn(&&ShadowRow) -> bool| {
            let names: Vec<String> = of.rows.iter().filter(pick).map(|row| row.field.to_string()).collect();
            let more = names.len().saturating_sub(TOP);
            let shown = names[..names.len() - more].join(", ");
            match (names.len(), more) {
                (0, _) => "none".into(),
                (_, 0) => shown,
                _ => format!("{shown} and {more} more"),
            }
        };
        let added = names(&|row| row.kvm == Shadowed::No && row.best != Shadowed::No);
        let dropped = names(&|row| row.kvm != Shadowed::No && row.best == Shadowed::No);
        let note = format!(
            "To KVM's list add {added}. Drop of it {dropped}; and {} fields that {who} never reached, which cost {} cycles of \
             copying.",
            of.unused,
            grouped(of.unused_cycles)
        );
        let columns = vec!["list", "fields", "exits saved", "their cycles", "copying", "gain"];
        let rows = vec![list("KVM's", &of.kvm), list("the best here", &of.best)];
        parts.push(Part::Table(Table { columns, rows, note }));
    }
    if of.copies > 0 {
        parts.push(Part::Note(format!(
            "Silicon served accesses of {who} from a shadow VMCS, which the trace does not have; L0 read and wrote that VMCS {} \
             times to keep it in line.",
            grouped(of.copies)
        )));
    }
}

fn share_text(part: u64, whole: u64) -> String {
    if whole == 0 { grouped(part) } else { format!("{} ({})", grouped(part), percent(part, whole)) }
}
