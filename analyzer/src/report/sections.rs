//! Findings as sections of a document.

use super::document::{Cell, Curves, Document, Icicle, Part, Section, Table, Tone};
use crate::findings::{CausedExits, Direction, Findings, FlushRow, PoolFinding};
use crate::histogram::Histogram;
use crate::judge::{JudgedBy, Verdict};
use crate::number::{grouped, percent};
use hv_defs::config::Clock;
use hv_defs::event::{Actor, Kind};
use hv_defs::vmcs::Shadowed;

/// Rows that a table shows before it sums up the rest.
const TOP: usize = 20;

/// The document of one trace.
pub(super) fn document(of: &Findings) -> Document {
    let all = [
        overview(of),
        untold(of),
        missing(of),
        mistakes(of),
        advice(of),
        exits(of),
        multiplication(of),
        flushes(of),
        pools(of),
        vmcs(of),
        ept(of),
        vpids(of),
        injections(of),
        phases(of),
        about(of),
    ];
    Document { title: of.name.clone(), sections: all.into_iter().flatten().collect() }
}

fn section(id: &'static str, title: impl Into<String>, parts: Vec<Part>) -> Option<Section> {
    Some(Section { id, title: title.into(), tone: Tone::Plain, parts })
}

pub(super) fn verdict_tone(verdict: Verdict) -> Tone {
    match verdict {
        Verdict::Missing => Tone::Bad,
        Verdict::Redundant | Verdict::TooBroad => Tone::Warn,
        Verdict::Required => Tone::Good,
        Verdict::Unknown => Tone::Plain,
    }
}

fn overview(of: &Findings) -> Option<Section> {
    let overview = &of.overview;
    let mut facts = Vec::new();
    let mut text = |name, text: &str| {
        if !text.is_empty() {
            facts.push((name, Cell::text(text)));
        }
    };
    if let Some(origin) = &overview.origin {
        text("imported from", &format!("{}, by {}", origin.name, origin.source));
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
        &[Verdict::Missing, Verdict::Redundant, Verdict::TooBroad]
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

/// What a foreign source does not tell of, and what is therefore not found.
fn untold(of: &Findings) -> Option<Section> {
    let overview = &of.overview;
    let origin = overview.origin.as_ref()?;
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
    let mut parts = vec![Part::Note(format!(
        "The trace was imported from {}. It has no events of these, and its source may not tell of them:",
        origin.source
    ))];
    parts.extend(missed.map(|text| Part::Note(text.into())));
    if parts.len() == 1 {
        return None;
    }
    section("untold", "What cannot be judged", parts)
}

fn missing(of: &Findings) -> Option<Section> {
    let count = of.flushes.count(Verdict::Missing);
    if count == 0 {
        return None;
    }
    let columns =
        vec!["event", "instruction", "vCPU", "CPU", "owed by", "flush", "EPT pointer", "first L2 address", "after"];
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

fn mistakes(of: &Findings) -> Option<Section> {
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

fn advice(of: &Findings) -> Option<Section> {
    let parts = if of.advice.is_empty() {
        vec![Part::Note("Nothing stands out.".into())]
    } else {
        vec![Part::Advice(of.advice.clone())]
    };
    section("advice", "What to change", parts)
}

fn percentiles(of: &Histogram) -> [Cell; 4] {
    let cell = |number| if of.count() == 0 { Cell::text("-") } else { Cell::count(number) };
    [cell(of.percentile(50)), cell(of.percentile(90)), cell(of.percentile(99)), cell(of.max())]
}

fn exits(of: &Findings) -> Option<Section> {
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

fn multiplication(of: &Findings) -> Option<Section> {
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

fn flushes(of: &Findings) -> Option<Section> {
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

fn pools(of: &Findings) -> Option<Section> {
    if of.pools.is_empty() {
        return None;
    }
    let columns = vec![
        "vCPU",
        "requests",
        "vmcs12s",
        "slots",
        "hits",
        "misses",
        "recycles",
        "frees",
        "written",
        "skipped",
        "a hit saves",
        "knee",
        "misses there",
    ];
    let rows = of.pools.iter().take(TOP).map(|pool| {
        let knee = pool.curve.knee();
        let there = knee.and_then(|knee| pool.curve.at(knee));
        let or_none = |number: Option<u64>| number.map_or(Cell::text("-"), Cell::count);
        let saved =
            pool.saved_by_a_hit.map_or(Cell::text("-"), |saved| Cell::number(format!("{saved:.1} VMWRITEs"), saved));
        vec![
            Cell::count(pool.vcpu.into()),
            Cell::count(pool.curve.requests),
            Cell::count(pool.curve.distinct),
            Cell::count(pool.slots),
            Cell::count(pool.hits),
            Cell::count(pool.misses),
            Cell::count(pool.recycles),
            Cell::count(pool.frees),
            Cell::count(pool.written_at_hits + pool.written_at_misses),
            Cell::count(pool.skipped),
            saved,
            or_none(knee),
            or_none(there.map(|there| there.lru)),
        ]
    });
    let note = "The knee is the smallest size from which on more slots save less than one request in a hundred.".into();
    let mut parts = vec![Part::Table(Table { columns, rows: rows.collect(), note })];
    for pool in of.pools.iter().take(4).filter(|pool| pool.curve.distinct > 1) {
        parts.push(Part::Table(curve_table(pool)));
        let series = |pick: fn(&crate::curve::Misses) -> u64| -> Vec<(u64, u64)> {
            pool.curve.sizes.iter().map(|row| (row.size, pick(row))).collect()
        };
        parts.push(Part::Curves(Curves {
            title: format!("vCPU {}: misses by size of the pool", pool.vcpu),
            x: "slots",
            y: "misses",
            series: vec![
                ("least recently used", series(|row| row.lru)),
                ("first in, first out", series(|row| row.fifo)),
                ("clairvoyant optimum", series(|row| row.optimum)),
            ],
            mark: pool.curve.knee().map(|knee| (knee, format!("knee: {knee}"))),
        }));
    }
    section("pool", "The vmcs02 pool", parts)
}

fn curve_table(pool: &PoolFinding) -> Table {
    let columns =
        vec!["slots", "LRU misses", "of requests", "FIFO misses", "optimum", "VMWRITEs saved", "cycles saved"];
    let none = pool.curve.at(1).map_or(0, |row| row.lru);
    let requests = pool.curve.requests;
    let sizes = pool.curve.sizes.iter();
    // Past 16 slots only every fourth size is worth a row.
    let sizes = sizes.filter(|row| row.size <= 16 || row.size % 4 == 0 || row.size == pool.curve.sizes.len() as u64);
    let rows = sizes.map(|row| {
        let avoided = none.saturating_sub(row.lru) as f64;
        let writes = pool.saved_by_a_hit.map_or(Cell::text("-"), |saved| Cell::count((avoided * saved) as u64));
        vec![
            Cell::count(row.size),
            Cell::count(row.lru),
            Cell::share(row.lru, requests),
            Cell::count(row.fifo),
            Cell::count(row.optimum),
            writes,
            Cell::count((avoided * pool.miss_cycles) as u64),
        ]
    });
    let note = format!("vCPU {}. Saved is against one slot.", pool.vcpu);
    Table { columns, rows: rows.collect(), note }
}

fn vmcs(of: &Findings) -> Option<Section> {
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

fn ept(of: &Findings) -> Option<Section> {
    let mut parts = Vec::new();
    if !of.ept.is_empty() {
        let rows = of.ept.iter().take(TOP).map(|row| {
            let counts = [row.maps, row.zaps, row.syncs, row.switches].map(Cell::count);
            [Cell::address(row.eptp12), Cell::address(row.eptp02)].into_iter().chain(counts).collect()
        });
        let left = of.ept.len().saturating_sub(TOP);
        let note = if left > 0 { format!("{left} other roots are not shown.") } else { String::new() };
        let columns = vec!["EPTP12", "EPTP02", "maps", "zaps", "syncs", "switches"];
        parts.push(Part::Table(Table { columns, rows: rows.collect(), note }));
    }
    if !of.ept_pages.is_empty() {
        let rows = of.ept_pages.iter().map(|page| {
            vec![
                Cell::number(format!("L{}", page.level), page.level.into()),
                Cell::address(page.page),
                Cell::count(page.count),
            ]
        });
        let left = of.ept_page_count.saturating_sub(of.ept_pages.len() as u64);
        let note = if left > 0 { format!("{} other pages are not shown.", grouped(left)) } else { String::new() };
        let columns = vec!["level", "guest-physical page", "EPT violations"];
        parts.push(Part::Table(Table { columns, rows: rows.collect(), note }));
    }
    if parts.is_empty() { None } else { section("ept", "EPT", parts) }
}

fn vpids(of: &Findings) -> Option<Section> {
    if of.vpids.is_empty() {
        return None;
    }
    let rows = of
        .vpids
        .iter()
        .map(|row| vec![Cell::count(row.vcpu.into()), Cell::text(row.op.name()), Cell::count(row.count)]);
    let table =
        Table { columns: vec!["vCPU", "VPID map", "count"], rows: rows.take(2 * TOP).collect(), note: String::new() };
    section("vpids", "VPIDs", vec![Part::Table(table)])
}

fn injections(of: &Findings) -> Option<Section> {
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

fn phases(of: &Findings) -> Option<Section> {
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

fn about(of: &Findings) -> Option<Section> {
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
            "Times are {}, and so is what is called instructions here. docs/import.md says what the events of a trace from \
             {} are made of.",
            origin.clock, origin.source
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
