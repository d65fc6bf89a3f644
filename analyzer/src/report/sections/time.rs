//! Where the time went: by level, by how long things took, and over the trace.

use super::super::document::{Cell, Part, Section, Spark, Sparks, Table};
use super::{percentiles, section};
use crate::findings::{Findings, Slice};
use crate::histogram::Histogram;
use crate::number::{grouped, percent};
use hv_defs::config::Clock;
use hv_defs::cost::DEFAULT as COSTS;
use hv_defs::event::Kind;

/// Reasons that have a histogram.
const DRAWN: usize = 6;
/// Marks that are drawn over the trace.
const MARKS: usize = 40;

/// What the trace's clock counts, in a word.
fn unit(of: &Findings) -> &'static str {
    match of.overview.clock() {
        Clock::Instructions => "instructions",
        clock => clock.name(),
    }
}

/// Whether the trace tells how long anything took.
pub(super) fn timed(of: &Findings) -> bool {
    of.overview.clock() != Clock::Exits && of.overview.tells_of(Kind::Entry)
}

pub(super) fn time(of: &Findings) -> Option<Section> {
    let ours = of.overview.origin.is_none();
    let mut parts = Vec::new();
    if timed(of) && !of.time.levels.is_empty() {
        parts.push(Part::Table(levels(of)));
    }
    if ours {
        parts.extend(work(of).into_iter().flat_map(|table| [Part::Heading("L0's work"), Part::Table(table)]));
    }
    if timed(of) {
        parts.extend(histograms(of));
    }
    parts.extend(over_time(of).map(Part::Sparks));
    if parts.is_empty() { None } else { section("time", "Where the time went", parts) }
}

fn levels(of: &Findings) -> Table {
    let ours = of.overview.origin.is_none();
    let ran: u64 = of.time.levels.iter().map(|level| level.ran).sum();
    let whole = if ours { ran * COSTS.instruction + of.time.l0_cycles } else { ran };
    let row = |name: String, ran: u64, exits: Option<u64>, stretch: [Cell; 4], handling: [Cell; 4]| {
        let exits = exits.map_or(Cell::text("-"), Cell::count);
        [Cell::text(name), Cell::count(ran), Cell::share(ran, whole), exits]
            .into_iter()
            .chain(stretch)
            .chain(handling)
            .collect()
    };
    let none = || core::array::from_fn(|_| Cell::text("-"));
    let mut rows: Vec<Vec<Cell>> = Vec::new();
    for level in &of.time.levels {
        let handling = if ours { &level.handling } else { &level.elapsed };
        rows.push(match level.level {
            0 if level.ran == 0 => continue,
            0 => row(if ours { "idle" } else { "host" }.into(), level.ran, None, none(), none()),
            number => row(
                format!("L{number}"),
                level.ran,
                Some(level.exits),
                percentiles(&level.stretches),
                percentiles(handling),
            ),
        });
    }
    if ours {
        rows.push(row("L0".into(), of.time.l0_cycles, None, none(), none()));
    }
    let columns = vec![
        "level",
        if ours { "cycles" } else { unit(of) },
        "share",
        "exits",
        "stretch p50",
        "p90",
        "p99",
        "max",
        "handling p50",
        "p90",
        "p99",
        "max",
    ];
    let note = if ours {
        "A guest's instruction is a cycle; L0's cycles are modelled. A stretch is what a guest runs from an entry to the exit, in \
         instructions; handling is the exit, L0's work for it and the entry that follows, in modelled cycles."
            .into()
    } else {
        format!(
            "All in {} of the vCPUs together. A stretch is from an entry to the exit, handling from an exit to the next entry \
             of that vCPU.",
            unit(of)
        )
    };
    Table { columns, rows, note }
}

/// What L0's work is made of.
fn work(of: &Findings) -> Option<Table> {
    if of.time.l0_cycles == 0 {
        return None;
    }
    let mut kinds: Vec<_> = of.time.work.each().collect();
    kinds.sort_by_key(|(work, count)| core::cmp::Reverse(work.cycles(&COSTS) * count));
    let rows = kinds.into_iter().map(|(work, count)| {
        let cycles = work.cycles(&COSTS) * count;
        vec![Cell::text(work.name()), Cell::count(count), Cell::count(cycles), Cell::share(cycles, of.time.l0_cycles)]
    });
    let columns = vec!["L0's work", "count", "cycles", "of L0"];
    Some(Table { columns, rows: rows.collect(), note: String::new() })
}

/// Distributions as small charts by powers of two, all over the same axis.
fn sparks(of: Vec<(String, Histogram)>, unit: &str) -> Vec<Spark> {
    let all: Vec<Vec<(u64, u64)>> = of.iter().map(|(_, of)| of.doublings()).collect();
    let bounds = || all.iter().flatten().map(|&(below, _)| below);
    let (Some(least), Some(most)) = (bounds().min(), bounds().max()) else { return Vec::new() };
    let doubled = |below: &u64| (*below < most).then(|| below.checked_mul(2).unwrap_or(u64::MAX));
    let axis: Vec<u64> = core::iter::successors(Some(least), doubled).collect();
    let spark = |((name, of), doublings): ((String, Histogram), &Vec<(u64, u64)>)| {
        let bars = axis.iter().map(|&below| {
            let count = doublings.iter().find(|(bound, _)| *bound == below).map_or(0, |(_, count)| *count);
            (count, if below == 1 { "0".into() } else { format!("{} to {}", grouped(below / 2), grouped(below - 1)) })
        });
        Spark {
            name,
            bars: bars.collect(),
            from: grouped(least / 2),
            to: grouped(most - 1),
            about: format!(
                "{} times; p50 {}, p99 {}, max {} {unit}",
                grouped(of.count()),
                grouped(of.percentile(50)),
                grouped(of.percentile(99)),
                grouped(of.max())
            ),
        }
    };
    of.into_iter().zip(&all).map(spark).collect()
}

fn histograms(of: &Findings) -> Vec<Part> {
    let ours = of.overview.origin.is_none();
    let clock = unit(of);
    let mut charts = Vec::new();
    let mut chart = |title: String, mut rows: Vec<(String, Histogram)>, unit: &str| {
        rows.retain(|(_, of)| of.count() > 0);
        rows.sort_by_key(|(_, of)| core::cmp::Reverse(of.sum()));
        rows.truncate(DRAWN);
        if !rows.is_empty() {
            let rows = sparks(rows, unit);
            charts.push(Part::Sparks(Sparks { title, rows, marks: Vec::new(), side_by_side: true }));
        }
    };
    let (cost, long) = if ours { ("cycles", "modelled cycles") } else { (clock, clock) };
    let handling = of.exits.iter().map(|row| {
        let of = if ours { &row.handling } else { &row.elapsed };
        (format!("L{} {} by {}", row.level, row.reason, row.handled_by), of.clone())
    });
    chart(format!("Handling an exit, in {long}, by powers of two"), handling.collect(), cost);
    if ours {
        let trees = of.multiplication.reasons.iter();
        let trees = trees.map(|row| (format!("L{} {}", row.level, row.reason), row.cycles.clone()));
        let title = "From an exit of L2 or L3 to its next entry, with all that it caused, in modelled cycles";
        chart(title.into(), trees.collect(), cost);
    }
    let levels = of.time.levels.iter().map(|level| (format!("L{}", level.level), level.stretches.clone()));
    chart(format!("What a guest runs from an entry to the exit, in {clock}"), levels.collect(), clock);
    charts
}

fn over_time(of: &Findings) -> Option<Sparks> {
    let slices = &of.time.slices;
    let last = of.overview.instructions;
    if slices.rows.len() < 2 {
        return None;
    }
    let count = slices.index(last).max(slices.rows.len() - 1) + 1;
    let ours = of.overview.origin.is_none();
    let known = |kind| of.overview.tells_of(kind);
    type Pick = fn(&Slice) -> u64;
    let rows: [(&str, bool, Pick); 6] = [
        ("L1 exits", true, |slice| slice.l1_exits),
        ("L2 exits", true, |slice| slice.l2_exits),
        ("L3 exits", true, |slice| slice.deeper_exits),
        ("L0's cycles", ours, |slice| slice.l0_cycles),
        ("flushes", known(Kind::Flush), |slice| slice.flushes),
        ("pool misses", known(Kind::Pool), |slice| slice.pool_misses),
    ];
    let rows = rows.into_iter().filter_map(|(name, known, pick)| {
        let value = |at: usize| slices.rows.get(at).map_or(0, pick);
        let sum: u64 = (0..count).map(value).sum();
        if !known || sum == 0 {
            return None;
        }
        let most = (0..count).map(value).max()?;
        let bars =
            (0..count).map(|at| (value(at), format!("{name} from {} {} on", unit(of), grouped(slices.start(at)))));
        let about = format!("{} in all, at most {} a slice ({})", grouped(sum), grouped(most), percent(most, sum));
        Some(Spark {
            name: name.into(),
            bars: bars.collect(),
            from: "0".into(),
            to: grouped(slices.start(count)),
            about,
        })
    });
    let rows: Vec<Spark> = rows.collect();
    let whole = slices.start(count) as f64;
    let marks = of.phases.iter().filter_map(|phase| Some((phase.mark?, phase.start)));
    let marks =
        marks.take(MARKS).map(|(mark, start)| (start as f64 / whole, format!("mark {mark} at {}", grouped(start))));
    let title = format!("Over the trace, in slices of {} {}", grouped(slices.width()), unit(of));
    if rows.is_empty() { None } else { Some(Sparks { title, rows, marks: marks.collect(), side_by_side: false }) }
}
