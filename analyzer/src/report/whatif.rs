//! What a recorded guest costs under other rules, a variant a row.

use super::document::{Cell, Document, Part, Section, Table, Tone};
use super::{markdown as md, text as terminal};
use crate::Findings;
use crate::findings::PoolFinding;
use crate::judge::Verdict;
use hv_defs::event::Kind;
use serde_json::{Value, json};

/// One variant.
#[derive(Clone, PartialEq, Debug)]
pub struct Variant {
    /// What was found in its events. Its name says what is varied.
    pub findings: Findings,
    /// The policy: a preset's name, or `custom`.
    pub policy: String,
    /// Slots in the vmcs02 pool of each vCPU.
    pub pool: u16,
    /// Entries in each physical CPU's TLB.
    pub tlb: u32,
    /// It is the recording's own configuration; then whether every event was the same.
    pub same_as_recorded: Option<bool>,
    /// Whether its guest was the recorded one to the end.
    pub guest_same: bool,
    /// Where not, the instruction from which on it may be another.
    pub from_instruction: Option<u64>,
    /// Where not, what differs and why.
    pub why: String,
}

/// A measure of a variant.
struct Measure {
    name: &'static str,
    key: &'static str,
    of: fn(&Findings) -> Option<u64>,
    /// Less is better.
    judged: bool,
}

const fn cost(name: &'static str, key: &'static str, of: fn(&Findings) -> Option<u64>) -> Measure {
    Measure { name, key, of, judged: true }
}

const fn size(name: &'static str, key: &'static str, of: fn(&Findings) -> Option<u64>) -> Measure {
    Measure { name, key, of, judged: false }
}

fn exits(of: &Findings, nested: bool) -> Option<u64> {
    Some(of.exits.iter().filter(|row| (row.level >= 2) == nested).map(|row| row.count).sum())
}

fn count(of: &Findings, kind: Kind) -> u64 {
    of.overview.counts.iter().find(|(known, _)| *known == kind).map_or(0, |(_, count)| *count)
}

const MEASURES: &[Measure] = &[
    cost("modelled cycles", "cycles", |of| Some(of.overview.cycles)),
    size("instructions", "instructions", |of| Some(of.overview.instructions)),
    cost("L1 exits", "l1_exits", |of| exits(of, false)),
    size("L2 exits", "l2_exits", |of| exits(of, true)),
    size("entries", "entries", |of| Some(count(of, Kind::Entry))),
    cost("flushes", "flushes", |of| Some(of.flushes.made())),
    size("required", "required_flushes", |of| Some(of.flushes.count(Verdict::Required))),
    cost("redundant", "redundant_flushes", |of| Some(of.flushes.count(Verdict::Redundant))),
    cost("too broad", "too_broad_flushes", |of| Some(of.flushes.count(Verdict::TooBroad))),
    cost("missing", "missing_flushes", |of| Some(of.flushes.count(Verdict::Missing))),
    size("unknown", "unknown_flushes", |of| Some(of.flushes.count(Verdict::Unknown))),
    cost("dropped", "dropped", |of| Some(of.flushes.dropped())),
    size("pool hits", "pool_hits", |of| Some(of.pools.iter().map(|pool| pool.hits).sum())),
    cost("pool misses", "pool_misses", |of| Some(of.pools.iter().map(PoolFinding::missed).sum())),
    // A trace of exits alone tells of no access to a VMCS.
    cost("VMWRITEs", "vmwrites", |of| (count(of, Kind::Vmcs) > 0).then(|| of.vmcs.writes())),
    size("VMREADs", "vmreads", |of| (count(of, Kind::Vmcs) > 0).then(|| of.vmcs.reads())),
];

fn document(of: &[Variant]) -> Document {
    let base = of.iter().find(|variant| variant.same_as_recorded == Some(true)).or(of.first());
    let cell = |measure: &Measure, one: &Variant| {
        let Some(value) = (measure.of)(&one.findings) else { return Cell::text("-") };
        let first = base.and_then(|base| (measure.of)(&base.findings)).unwrap_or(0);
        let tone = match measure.judged {
            true if value > first + first / 100 => Tone::Bad,
            true if value + first / 100 < first => Tone::Good,
            _ => Tone::Plain,
        };
        Cell::count(value).toned(tone)
    };
    let seen = |one: &Variant| match (one.same_as_recorded, one.guest_same) {
        (Some(true), true) => Cell::text("as recorded"),
        (Some(false), _) => Cell::text("not as recorded").toned(Tone::Bad),
        (_, true) => Cell::text("same"),
        (_, false) => Cell::text("another").toned(Tone::Warn),
    };
    let rows = of.iter().map(|one| {
        let first = [Cell::text(&one.findings.name)].into_iter();
        first.chain(MEASURES.iter().map(|measure| cell(measure, one))).chain([seen(one)]).collect()
    });
    let columns = ["variant"].into_iter().chain(MEASURES.iter().map(|measure| measure.name)).chain(["guest"]).collect();
    let note = "Verdicts are by rule. `same`: the guest did and saw what the recorded one did.".to_owned();
    let table = Part::Table(Table { columns, rows: rows.collect(), note });
    let mut sections = vec![Section { id: "whatif", title: "Variants".into(), tone: Tone::Plain, parts: vec![table] }];
    let others: Vec<Part> = of
        .iter()
        .filter(|one| !one.why.is_empty())
        .map(|one| Part::Note(format!("{}: {}", one.findings.name, one.why)))
        .collect();
    if !others.is_empty() {
        let title = "Where the guest is another".into();
        sections.push(Section { id: "guests", title, tone: Tone::Warn, parts: others });
    }
    let guest = of.first().map_or("", |one| one.findings.overview.guest.as_str());
    Document { title: format!("What if: {guest}"), sections }
}

/// For a terminal; with `color`, in ANSI colours.
pub fn text(of: &[Variant], color: bool) -> String {
    terminal::draw(&document(of), color)
}

/// In Markdown.
pub fn markdown(of: &[Variant]) -> String {
    md::draw(&document(of))
}

/// As one JSON object with the list `variants`; docs/json.md lists the keys.
pub fn json(of: &[Variant]) -> String {
    let variants: Vec<Value> = of
        .iter()
        .map(|one| {
            let mut object = json!({
                "variant": one.findings.name,
                "policy": one.policy,
                "pool": one.pool,
                "tlb": one.tlb,
                "same_as_recorded": one.same_as_recorded,
                "guest_same": one.guest_same,
                "differs_from_instruction": one.from_instruction,
                "why": (!one.why.is_empty()).then_some(&one.why),
            });
            for measure in MEASURES {
                object[measure.key] = (measure.of)(&one.findings).into();
            }
            object
        })
        .collect();
    format!("{:#}\n", json!({ "variants": variants }))
}

/// As CSV, a variant a line.
pub fn csv(of: &[Variant]) -> String {
    let mut text = String::from("variant,policy,pool,tlb,guest_same,differs_from_instruction");
    for measure in MEASURES {
        text.push(',');
        text.push_str(measure.key);
    }
    text.push('\n');
    for one in of {
        let from = one.from_instruction.map_or(String::new(), |from| from.to_string());
        let Variant { policy, pool, tlb, guest_same, .. } = one;
        text.push_str(&format!("\"{}\",{policy},{pool},{tlb},{guest_same},{from}", one.findings.name));
        for measure in MEASURES {
            text.push(',');
            text.push_str(&(measure.of)(&one.findings).map_or(String::new(), |value| value.to_string()));
        }
        text.push('\n');
    }
    text
}
