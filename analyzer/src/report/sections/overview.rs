//! What a trace is of, what to change, and what the numbers are.

use super::super::document::{Cell, Part, Section, Tone};
use super::{section, verdict_tone};
use crate::findings::{Findings, PoolFinding};
use crate::judge::Verdict;
use crate::number::grouped;
use hv_defs::config::Clock;
use hv_defs::event::{Actor, Kind};

pub(super) fn overview(of: &Findings) -> Option<Section> {
    let overview = &of.overview;
    let mut facts = Vec::new();
    let mut text = |name, text: &str| {
        if !text.is_empty() {
            facts.push((name, Cell::text(text)));
        }
    };
    if let Some(origin) = &overview.origin {
        let (way, rest) = origin.ways();
        text(way, &format!("{}, {rest}", origin.name));
        text("", &origin.note);
        text("clock", origin.clock.name());
    }
    text("guest", &overview.guest);
    text("policy", &overview.policy);
    if let Some(stop) = &overview.stop {
        let code = if stop.code != 0 { format!(" ({})", stop.code) } else { String::new() };
        text("ended by", &format!("{}{code}", stop.kind.name()));
        text("", &stop.text);
    }
    facts.push(("events", Cell::count(overview.events)));
    match overview.clock() {
        _ if overview.origin.is_none() => {
            facts.push(("instructions", Cell::count(overview.instructions)));
            facts.push(("modelled cycles", Cell::count(overview.cycles)));
        }
        // The exits are counted below.
        Clock::Exits => {}
        clock => facts.push((clock.name(), Cell::count(overview.instructions))),
    }
    facts.push(("vCPUs on CPUs", Cell::text(format!("{} on {}", overview.vcpus, overview.pcpus))));
    let exits: u64 = of.exits.iter().map(|row| row.count).sum();
    facts.push(("exits", Cell::count(exits)));
    let nested = of.multiplication.l2_exits();
    facts.push(("L2 exits", Cell::count(nested)));
    if let Some(factor) = of.multiplication.factor() {
        facts.push(("exits per L2 exit", Cell::number(format!("{factor:.2}"), factor)));
    }
    let verdicts: &[Verdict] = if overview.tells_of(Kind::Flush) {
        facts.push(("flushes", Cell::count(of.flushes.made())));
        let all = &[Verdict::Missing, Verdict::Redundant, Verdict::TooBroad];
        if overview.lacks_tags { &all[1..2] } else { all }
    } else {
        &[]
    };
    for &verdict in verdicts {
        let count = of.flushes.count(verdict);
        let tone = if count == 0 { Tone::Good } else { verdict_tone(verdict) };
        let name = match verdict {
            Verdict::Missing => "missing flushes",
            Verdict::Redundant => "redundant flushes",
            _ => "too broad flushes",
        };
        facts.push((name, Cell::count(count).toned(tone)));
    }
    if let Some(ground) = of.flushes.judged_by().filter(|_| !verdicts.is_empty()) {
        facts.push(("flushes judged by", Cell::text(ground)));
    }
    let missed: u64 = of.pools.iter().map(PoolFinding::missed).sum();
    let requests: u64 = of.pools.iter().map(|pool| pool.curve.requests).sum();
    if requests > 0 {
        facts.push((
            "pool misses",
            Cell::number(format!("{} of {}", grouped(missed), grouped(requests)), missed as f64),
        ));
    }
    section("overview", "Overview", vec![Part::Facts(facts)])
}

/// What the trace does not tell of, and what is therefore not found.
pub(super) fn untold(of: &Findings) -> Option<Section> {
    let overview = &of.overview;
    let missed = overview.untold.iter().filter_map(|kind| {
        Some(match kind {
            Kind::Entry => "VM entries: how long handling took, and failed entries, are not known.",
            Kind::Flush => "Flushes: whether any are redundant, too broad or missing cannot be judged.",
            Kind::Vmcs => "VMCS accesses: redundant VMWRITEs, and which fields to shadow, cannot be found.",
            Kind::Pool => "The vmcs02 pool: its misses, and the size it should have, cannot be found.",
            Kind::Vpid => "The VPID map: how VPIDs are reused is not known.",
            Kind::Ept => "Changes of EPT02s: only EPT violations are seen.",
            _ => return None,
        })
    });
    let mut parts = vec![Part::Note(match &overview.origin {
        Some(origin) => format!(
            "The trace was {}. It has no events of these, and its source may not tell of them:",
            origin.whence()
        ),
        None => "The trace was recorded with `--log exits`, which leaves out:".into(),
    })];
    parts.extend(missed.map(|text| Part::Note(text.into())));
    if overview.lacks_tags && overview.tells_of(Kind::Flush) {
        let text = "VPIDs and EPT pointers: of flushes only such are judged as follow one of everything with no guest entered \
                    since; whether any are missing is not known.";
        parts.push(Part::Note(text.into()));
    }
    if parts.len() == 1 {
        return None;
    }
    section("untold", "What cannot be judged", parts)
}

pub(super) fn advice(of: &Findings) -> Option<Section> {
    let parts = if of.advice.is_empty() {
        vec![Part::Note("Nothing stands out.".into())]
    } else {
        vec![Part::Advice(of.advice.clone())]
    };
    section("advice", "What to change", parts)
}

pub(super) fn about(of: &Findings) -> Option<Section> {
    let costs = hv_defs::cost::DEFAULT;
    let modelled = Part::Note(format!(
        "Modelled cycles: an instruction {}, an entry {}, an exit {}, VMREAD {}, VMWRITE {}, INVVPID {}, INVEPT {}, refilling a \
         TLB entry {}. They are of the order that is published, and make counts comparable; they are no measurement.",
        costs.instruction,
        costs.entry,
        costs.exit,
        costs.vmread,
        costs.vmwrite,
        costs.invvpid,
        costs.invept,
        costs.nested_walk,
    ));
    let mut parts = vec![modelled];
    if let Some(origin) = &of.overview.origin {
        parts.push(Part::Note(format!(
            "Times are {}, and so is what is called instructions here. {} says what the events of a trace that was {} are \
             made of.",
            origin.clock,
            origin.page(),
            origin.whence()
        )));
    }
    if of.overview.events == 0 {
        parts.insert(0, Part::Note("The trace has no events.".into()));
    }
    let l1 = of.flushes.rows.iter().any(|row| row.actor == Actor::L1 && row.verdict != Verdict::Missing);
    if l1 {
        parts.push(Part::Note("Flushes by L1 are its own instructions; L0's flushes carry them out.".into()));
    }
    section("about", "About these numbers", parts)
}
