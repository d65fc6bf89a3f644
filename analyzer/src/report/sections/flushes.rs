//! Flushes and their verdicts: by cause, by the levels they concern, by what they name, and by site.

use super::super::document::{Cell, Part, Section, Table, Tone};
use super::{TOP, section, verdict_tone};
use crate::findings::{Findings, FlushRow, Site, SiteRow, TagRow, Tally, Top};
use crate::judge::{JudgedBy, Verdict};
use crate::number::{grouped, percent};
use hv_defs::cost::DEFAULT as COSTS;

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
        Cell::text(row.rule.ground().name()),
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
    let mut parts = vec![Part::Facts(facts(of)), Part::Note(grounds(&flushes.rows))];
    if of.overview.drops_unknown {
        let note = "How many translations a flush dropped is not known: it was no TLB of ours. Where a count or its cycles are \
                    wanted, they are 0.";
        parts.push(Part::Note(note.into()));
    }
    parts.push(by_cause(&flushes.rows, of));
    parts.extend([Part::Heading("By site"), by_site(&flushes.sites)]);
    let levels = flushes.levels.iter().map(|row| {
        let names = vec![Cell::text(row.levels.name()), Cell::text(row.actor.name())];
        with_tally(names, &row.tally)
    });
    let note = "`translations of`: the guests that ran under what the flush covers since it was last flushed on that CPU, or \
                before that where none had. A guest's own instruction is about its guests'.";
    let columns = [&["translations of", "by"], &TALLY[..]].concat();
    parts.push(Part::Heading("By level"));
    parts.push(Part::Table(Table { columns, rows: levels.collect(), note: note.into() }));
    parts.extend([Part::Heading("By tag"), by_tag(&flushes.tags), Part::Heading("The rules")]);
    let mut rules: Vec<_> = flushes.rows.iter().map(|row| row.rule).collect();
    rules.sort_unstable();
    rules.dedup();
    parts.extend(rules.iter().map(|rule| Part::Note(format!("{}: {}", rule.name(), rule.why()))));
    section("flushes", "Flushes", parts)
}

fn facts(of: &Findings) -> Vec<(&'static str, Cell)> {
    let flushes = &of.flushes;
    let (dropped, refills) = (flushes.dropped(), flushes.rows.iter().map(|row| row.refill_cycles).sum::<u64>());
    let known = |cell| if of.overview.drops_unknown { Cell::text("not known") } else { cell };
    let wasted: u64 = flushes.levels.iter().map(|row| row.tally.wasted).sum();
    let mut facts = vec![
        ("flushes made", Cell::count(flushes.made())),
        ("TLB entries dropped", known(Cell::count(dropped))),
        ("cycles to refill them", known(Cell::count(refills))),
        ("cycles wasted", Cell::count(wasted).toned(if wasted > 0 { Tone::Warn } else { Tone::Good })),
    ];
    if of.overview.cycles > 0 {
        facts.push(("of all cycles", Cell::text(percent(wasted, of.overview.cycles))));
    }
    facts
}

/// What the verdicts rest on, in words that are true of these.
fn grounds(rows: &[FlushRow]) -> String {
    let count =
        |ground: JudgedBy| rows.iter().filter(|row| row.rule.ground() == ground).map(|row| row.count).sum::<u64>();
    let costs = format!(
        "Cycles are modelled: of a flush, and of the TLB misses that may follow, one for each entry that it dropped, {} each.",
        COSTS.nested_walk
    );
    let ground = match (count(JudgedBy::Rule), count(JudgedBy::Replay)) {
        (_, 0) => "Judged by rule, from the events alone.".to_owned(),
        (0, _) => "Judged by replay: a second execution, in which a TLB kept all that it may.".to_owned(),
        (rule, replay) => format!(
            "{} judged by replay, a second execution in which a TLB kept all that it may; {} by rule, from the events alone, \
             as those of guests always are. `judged by` says which.",
            grouped(replay),
            grouped(rule),
        ),
    };
    format!("{ground} {costs}")
}

fn by_cause(all: &[FlushRow], of: &Findings) -> Part {
    let columns = vec![
        "verdict",
        "cause",
        "kind",
        "by",
        "rule",
        "judged by",
        "flushes",
        "share",
        "dropped",
        "dropped nothing",
        "cycles",
        "first event",
    ];
    let made = of.flushes.made();
    let rows = all.iter().take(2 * TOP).map(|row| flush_cells(row, made)).collect();
    let rest: u64 = all.iter().skip(2 * TOP).map(|row| row.count).sum();
    let note =
        if rest > 0 { format!("{} flushes of other kinds are not shown.", grouped(rest)) } else { String::new() };
    Part::Table(Table { columns, rows, note })
}

/// What is shown of a sum of flushes.
const TALLY: [&str; 9] =
    ["wasted cycles", "flushes", "dropped", "missing", "redundant", "too broad", "required", "unknown", "judged by"];

fn with_tally(mut cells: Vec<Cell>, of: &Tally) -> Vec<Cell> {
    let count = |verdict| {
        let count = of.count(verdict);
        Cell::count(count).toned(if count > 0 { verdict_tone(verdict) } else { Tone::Plain })
    };
    cells.push(Cell::count(of.wasted));
    cells.push(Cell::count(of.made()));
    cells.push(Cell::count(of.dropped));
    cells.push(count(Verdict::Missing));
    cells.push(count(Verdict::Redundant));
    cells.push(count(Verdict::TooBroad));
    cells.push(count(Verdict::Required));
    cells.push(count(Verdict::Unknown));
    cells.push(Cell::text(of.judged_by()));
    cells
}

/// The rows of a list up to `TOP`, and the sum of those that are left out of it or of what is kept.
fn with_rest<T>(
    of: &Top<T>,
    names: usize,
    cells: impl Fn(&T) -> Vec<Cell>,
    tally: impl Fn(&T) -> &Tally,
    tail: usize,
) -> Vec<Vec<Cell>> {
    let mut rows: Vec<Vec<Cell>> = of.rows.iter().take(TOP).map(cells).collect();
    let (left, rest) = of.beyond(TOP, tally);
    if left > 0 {
        let mut sum = vec![Cell::text(format!("{} more", grouped(left)))];
        sum.resize_with(names, || Cell::text(""));
        let mut sum = with_tally(sum, &rest);
        sum.resize_with(names + TALLY.len() + tail, || Cell::text(""));
        rows.push(sum);
    }
    rows
}

/// The exit that L0 was handling, in words.
fn handling(site: &Site) -> String {
    site.exit.map_or("before any exit".into(), |(level, reason)| format!("L{level} {reason}"))
}

fn by_site(of: &Top<SiteRow>) -> Part {
    let names = ["by", "cause", "kind", "while handling", "at RIP"];
    let columns = [&names[..], &TALLY[..], &["narrower", "first event"]].concat();
    let cells = |row: &SiteRow| {
        let site = &row.site;
        let names = vec![
            Cell::text(site.actor.name()),
            Cell::text(site.cause.name()),
            Cell::text(site.kind.name()),
            Cell::text(handling(site)),
            Cell::text(site.rip.map_or("-".into(), |rip| format!("{rip:#x}"))),
        ];
        let mut cells = with_tally(names, &row.tally);
        cells.push(Cell::text(row.narrower.unwrap_or("-")));
        cells.push(Cell::count(row.first));
        cells
    };
    let note = "Sites by what they waste, those of missing flushes first. Wasted is a redundant flush with its refills, with the \
                exit to L0 where a guest asked for it, and of a flush that is too broad at most its refills.";
    Part::Table(Table { columns, rows: with_rest(of, names.len(), cells, |row| &row.tally, 2), note: note.into() })
}

fn by_tag(of: &Top<TagRow>) -> Part {
    let names = ["by", "names", "translations of"];
    let columns = [&names[..], &TALLY[..]].concat();
    let cells = |row: &TagRow| {
        let names = vec![Cell::text(row.actor.name()), Cell::text(row.tag.name()), Cell::text(row.levels.name())];
        with_tally(names, &row.tally)
    };
    let note = "A guest names its own VPIDs and EPT pointers, L0 silicon's.";
    Part::Table(Table { columns, rows: with_rest(of, names.len(), cells, |row| &row.tally, 0), note: note.into() })
}
