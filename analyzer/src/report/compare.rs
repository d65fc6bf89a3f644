//! Several traces in one table, each against the first.

use super::document::{Cell, Document, Part, Section, Table, Tone};
use crate::Findings;
use crate::findings::PoolFinding;
use crate::judge::Verdict;
use crate::number::grouped;
use hv_defs::event::Kind;

/// A measure of a trace: less is better, unless it only sizes the trace.
pub(super) struct Measure {
    pub(super) name: &'static str,
    /// For programs.
    pub(super) key: &'static str,
    pub(super) of: fn(&Findings) -> Option<f64>,
    pub(super) judged: bool,
    /// Whether it is a count, so that those of several traces can be added up.
    pub(super) sums: bool,
}

impl Measure {
    pub(super) fn shown(&self, value: f64) -> String {
        if self.sums { grouped(value as u64) } else { format!("{value:.2}") }
    }
}

const fn size(name: &'static str, key: &'static str, of: fn(&Findings) -> Option<f64>) -> Measure {
    Measure { name, key, of, judged: false, sums: true }
}

const fn cost(name: &'static str, key: &'static str, of: fn(&Findings) -> Option<f64>) -> Measure {
    Measure { name, key, of, judged: true, sums: true }
}

fn level_exits(of: &Findings, nested: bool) -> f64 {
    of.exits.iter().filter(|row| (row.level >= 2) == nested).map(|row| row.count).sum::<u64>() as f64
}

fn pool(of: &Findings, pick: fn(&PoolFinding) -> u64) -> Option<f64> {
    (!of.pools.is_empty()).then(|| of.pools.iter().map(pick).sum::<u64>() as f64)
}

/// A number of our own recordings alone.
fn ours(of: &Findings, number: u64) -> Option<f64> {
    of.overview.origin.is_none().then_some(number as f64)
}

fn flushes(of: &Findings, number: u64) -> Option<f64> {
    of.overview.tells_of(Kind::Flush).then_some(number as f64)
}

fn accesses(of: &Findings, number: u64) -> Option<f64> {
    of.overview.tells_of(Kind::Vmcs).then_some(number as f64)
}

/// What is compared, in order.
pub(super) const MEASURES: &[Measure] = &[
    cost("missing flushes", "missing_flushes", |of| {
        flushes(of, of.flushes.count(Verdict::Missing)).filter(|_| !of.overview.lacks_tags)
    }),
    cost("mistakes of L0's", "mistakes", |of| ours(of, of.mistakes.iter().map(|mistake| mistake.count).sum())),
    size("events", "events", |of| Some(of.overview.events as f64)),
    size("instructions", "instructions", |of| ours(of, of.overview.instructions)),
    cost("modelled cycles", "cycles", |of| ours(of, of.overview.cycles)),
    cost("L1 exits", "l1_exits", |of| Some(level_exits(of, false))),
    size("L2 exits", "l2_exits", |of| Some(level_exits(of, true))),
    Measure {
        name: "exits per L2 exit",
        key: "exits_per_l2_exit",
        of: |of| of.multiplication.factor(),
        judged: true,
        sums: false,
    },
    cost("flushes", "flushes", |of| flushes(of, of.flushes.made())),
    cost("redundant flushes", "redundant_flushes", |of| flushes(of, of.flushes.count(Verdict::Redundant))),
    cost("too broad flushes", "too_broad_flushes", |of| flushes(of, of.flushes.count(Verdict::TooBroad))),
    cost("TLB entries dropped", "dropped", |of| flushes(of, of.flushes.dropped())),
    cost("pool misses", "pool_misses", |of| pool(of, PoolFinding::missed)),
    cost("VMWRITEs", "vmwrites", |of| accesses(of, of.vmcs.writes())),
    cost("VMWRITEs of the same value", "same_value_vmwrites", |of| accesses(of, of.vmcs.same_writes())),
    cost("VMREADs", "vmreads", |of| accesses(of, of.vmcs.reads())),
];

/// A rise by less than this part of the first is no regression.
const NOISE: f64 = 0.01;

pub(super) fn document(of: &[Findings]) -> Document {
    let first = &of[0];
    let names = |of: &Findings| {
        let rest = [&of.overview.guest, &of.overview.policy].into_iter().filter(|text| !text.is_empty());
        let mut rest: Vec<String> = rest.cloned().collect();
        if let Some(origin) = &of.overview.origin {
            rest.push(format!("{}, times are {}", origin.whence(), origin.clock));
        }
        if rest.is_empty() { of.name.clone() } else { format!("{} ({})", of.name, rest.join(", ")) }
    };
    // A trace a row reads well however many there are; measures a row reads well when there are few.
    let few = of.len() <= 6;
    let cell = |measure: &Measure, one: &Findings| {
        let Some(value) = (measure.of)(one) else { return Cell::text("-") };
        let shown = measure.shown(value);
        let base = (measure.of)(first).unwrap_or(0.0);
        if core::ptr::eq(one, first) || value == base {
            return Cell::number(shown, value);
        }
        let change = if base == 0.0 { String::new() } else { format!(" ({:+.1} %)", (value - base) * 100.0 / base) };
        let tone = match measure.judged {
            true if value > base * (1.0 + NOISE) => Tone::Bad,
            true if value < base * (1.0 - NOISE) => Tone::Good,
            _ => Tone::Plain,
        };
        let mark = if tone == Tone::Bad { " ▲" } else { "" };
        Cell::number(format!("{shown}{change}{mark}"), value).toned(tone)
    };
    let table = if few {
        let letters = ["A", "B", "C", "D", "E", "F"];
        let rows = MEASURES.iter().map(|measure| {
            [Cell::text(measure.name)].into_iter().chain(of.iter().map(|one| cell(measure, one))).collect()
        });
        let columns = ["measure"].into_iter().chain(letters.into_iter().take(of.len())).collect();
        Table { columns, rows: rows.collect(), note: "Changes are against A; ▲ marks what became worse.".into() }
    } else {
        let rows = of.iter().map(|one| {
            [Cell::text(names(one))].into_iter().chain(MEASURES.iter().map(|measure| cell(measure, one))).collect()
        });
        let columns = ["trace"].into_iter().chain(MEASURES.iter().map(|measure| measure.name)).collect();
        let note = format!("Changes are against {}; ▲ marks what became worse.", first.name);
        Table { columns, rows: rows.collect(), note }
    };
    let mut parts = Vec::new();
    if few {
        let letters = ["A", "B", "C", "D", "E", "F"];
        parts.push(Part::Facts(letters.into_iter().zip(of.iter().map(|one| Cell::text(names(one)))).collect()));
    }
    parts.push(Part::Table(table));
    let missing: Vec<String> = of
        .iter()
        .filter(|one| one.flushes.count(Verdict::Missing) > 0)
        .map(|one| format!("{} ({})", one.name, grouped(one.flushes.count(Verdict::Missing))))
        .collect();
    let mut sections = Vec::new();
    if !missing.is_empty() {
        let note = Part::Note(format!("Flushes are missing in {}.", missing.join(", ")));
        sections.push(Section { id: "missing", title: "Missing flushes".into(), tone: Tone::Bad, parts: vec![note] });
    }
    sections.push(Section { id: "comparison", title: "Comparison".into(), tone: Tone::Plain, parts });
    Document { title: format!("{} traces", of.len()), sections }
}
