//! The vmcs02 pool and its miss curves.

use super::super::document::{Cell, Curves, Part, Section, Table};
use super::{TOP, section};
use crate::curve::Misses;
use crate::findings::{Findings, PoolFinding};
use crate::number::{grouped, percent};
use hv_defs::cost::DEFAULT as COSTS;

/// vCPUs that have a curve each.
const CURVES: usize = 4;

pub(super) fn pools(of: &Findings) -> Option<Section> {
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
    let mut pools: Vec<&PoolFinding> = of.pools.iter().collect();
    if pools.len() > TOP {
        pools.sort_by_key(|pool| core::cmp::Reverse(pool.missed()));
    }
    let all = (pools.len() > 1).then(|| PoolFinding::sum(&of.pools, &COSTS));
    let mut rows: Vec<Vec<Cell>> =
        pools.iter().take(TOP).map(|pool| cells(pool, name(pool.vcpu), pool.vcpu.map(f64::from))).collect();
    if let Some(all) = &all {
        if pools.len() > TOP {
            let rest: Vec<PoolFinding> = pools.iter().skip(TOP).map(|pool| (*pool).clone()).collect();
            rows.push(cells(&PoolFinding::sum(&rest, &COSTS), format!("{} more", grouped(rest.len() as u64)), None));
        }
        rows.push(cells(all, "all".into(), None));
    }
    let note = "The knee is the smallest size from which on all further slots together save less than one request in a \
                hundred, when the least recently used vmcs02 is recycled. What several vCPUs have as one is with one size for \
                each of their pools."
        .into();
    let mut parts = vec![Part::Table(Table { columns, rows, note })];
    for pool in all.iter().chain(pools.into_iter().take(CURVES)).filter(|pool| pool.curve.distinct > 1) {
        curve(pool, &mut parts);
    }
    section("pool", "The vmcs02 pool", parts)
}

fn name(vcpu: Option<u16>) -> String {
    vcpu.map_or("all".into(), |vcpu| vcpu.to_string())
}

fn cells(pool: &PoolFinding, name: String, key: Option<f64>) -> Vec<Cell> {
    let knee = pool.curve.knee();
    let or_none = |number: Option<u64>| number.map_or(Cell::text("-"), Cell::count);
    let saved =
        pool.saved_by_a_hit.map_or(Cell::text("-"), |saved| Cell::number(format!("{saved:.1} VMWRITEs"), saved));
    vec![
        key.map_or(Cell::text(name.as_str()), |key| Cell::number(name.as_str(), key)),
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
        or_none(knee.map(|knee| knee.size)),
        or_none(knee.map(|knee| knee.misses)),
    ]
}

/// The rows of a curve that are worth showing: all up to 16 slots, then 4 to each doubling, and those that are spoken of.
fn shown(pool: &PoolFinding) -> Vec<Misses> {
    let sizes = &pool.curve.sizes;
    let last = sizes.last().map_or(0, |row| row.size);
    let knee = pool.curve.knee().map(|knee| knee.size);
    let wanted = |size: u64| {
        let step = 1 << size.max(1).ilog2().saturating_sub(2);
        size <= 16 || size.is_multiple_of(step) || size == last || Some(size) == knee || size == pool.slots
    };
    sizes.iter().filter(|row| wanted(row.size)).copied().collect()
}

fn curve(pool: &PoolFinding, parts: &mut Vec<Part>) {
    let columns =
        vec!["slots", "LRU misses", "of requests", "FIFO misses", "optimum", "VMWRITEs saved", "cycles saved"];
    let one = pool.curve.lru_at(1).unwrap_or(0);
    let requests = pool.curve.requests;
    let shown = shown(pool);
    let rows = shown.iter().map(|row| {
        let avoided = one.saturating_sub(row.lru);
        vec![
            Cell::count(row.size),
            Cell::count(row.lru),
            Cell::share(row.lru, requests),
            Cell::count(row.fifo),
            Cell::count(row.optimum),
            pool.writes_of(avoided).map_or(Cell::text("-"), Cell::count),
            Cell::count(pool.cycles_of(avoided)),
        ]
    });
    let whose = pool.vcpu.map_or("All vCPUs".into(), |vcpu| format!("vCPU {vcpu}"));
    let mut note = format!("{whose}. Saved is by LRU, against one slot.");
    if let Some(knee) = pool.curve.knee() {
        note += &format!(
            " The knee is {}: its last slot saves {} misses, and all that lie beyond it {} together ({} of requests).",
            knee.size,
            grouped(knee.last_saves),
            grouped(knee.beyond),
            percent(knee.beyond, requests),
        );
    }
    if (shown.len() as u64) < pool.curve.distinct {
        note += " Sizes between are left out; those that are shown are exact.";
    }
    parts.push(Part::Table(Table { columns, rows: rows.collect(), note }));
    let series = |pick: fn(&Misses) -> u64| shown.iter().map(|row| (row.size, pick(row))).collect();
    let knee = pool.curve.knee().map(|knee| knee.size);
    parts.push(Part::Curves(Curves {
        title: format!("{whose}: misses by size of the pool"),
        x: "slots",
        y: "misses",
        series: vec![
            ("least recently used", series(|row| row.lru)),
            ("first in, first out", series(|row| row.fifo)),
            ("clairvoyant optimum", series(|row| row.optimum)),
        ],
        mark: knee.map(|knee| (knee, format!("knee: {knee}"))),
    }));
}
