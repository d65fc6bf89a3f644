//! What is wrong: flushes that are missing, and other mistakes of L0's.

use super::super::document::{Cell, Part, Section, Table, Tone};
use crate::findings::{Direction, Findings};
use crate::judge::{JudgedBy, Verdict};
use crate::number::grouped;

pub(super) fn missing(of: &Findings) -> Option<Section> {
    let count = of.flushes.count(Verdict::Missing);
    if count == 0 {
        return None;
    }
    let columns = vec![
        "event",
        "instruction",
        "vCPU",
        "CPU",
        "owed by",
        "flush",
        "EPT pointer",
        "first L2 address",
        "after",
        "judged by",
    ];
    let rows = of.flushes.missing.iter().map(|row| {
        vec![
            Cell::count(row.event),
            Cell::count(row.at.instruction),
            Cell::count(row.at.vcpu.into()),
            Cell::count(row.at.pcpu.into()),
            Cell::text(row.flush.actor.name()).toned(Tone::Bad),
            Cell::text(row.flush.kind.name()),
            Cell::address(row.flush.eptp),
            Cell::address(row.flush.address),
            Cell::text(row.flush.cause.name()),
            Cell::text(row.judged_by.name()),
        ]
    });
    let shown = of.flushes.missing.len() as u64;
    let note = if count > shown { format!("The first {shown} of {}.", grouped(count)) } else { String::new() };
    let table = Table { columns, rows: rows.collect(), note };
    let by_replay = of.flushes.missing.iter().any(|row| row.judged_by == JudgedBy::Replay);
    let why = if by_replay {
        "The guest that was entered made an access that a translation could have served which the tables no longer gave, and \
         nothing had flushed it from the CPU."
    } else {
        "Before each of these entries of L2 a present EPT entry had lost a permission or its page, and nothing had \
         flushed it from the CPU: L2 may go on using it as it had been."
    };
    let parts = vec![Part::Note(why.into()), Part::Table(table)];
    Some(Section { id: "missing", title: format!("Missing flushes: {}", grouped(count)), tone: Tone::Bad, parts })
}

pub(super) fn mistakes(of: &Findings) -> Option<Section> {
    if of.mistakes.is_empty() {
        return None;
    }
    let columns = vec!["mistake", "direction", "times", "first event", "vCPU", "CPU", "by", "proof"];
    let rows = of.mistakes.iter().map(|mistake| {
        let tone = if mistake.kind.direction() == Direction::Wasted { Tone::Warn } else { Tone::Bad };
        vec![
            Cell::text(mistake.kind.name()).toned(tone),
            Cell::text(mistake.kind.direction().name()),
            Cell::count(mistake.count),
            Cell::count(mistake.first),
            Cell::count(mistake.at.vcpu.into()),
            Cell::count(mistake.at.pcpu.into()),
            Cell::text(mistake.kind.ground().name()),
            Cell::text(mistake.proof.as_str()),
        ]
    });
    let note = of.mistakes.iter().map(|mistake| format!("`{}`: {}", mistake.kind.name(), mistake.kind.why()));
    let mut parts: Vec<Part> = note.map(Part::Note).collect();
    parts.push(Part::Table(Table { columns, rows: rows.collect(), note: String::new() }));
    let title = format!("Mistakes of L0's: {}", grouped(of.mistakes.iter().map(|mistake| mistake.count).sum()));
    Some(Section { id: "mistakes", title, tone: Tone::Bad, parts })
}
