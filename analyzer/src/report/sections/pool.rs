//! The vmcs02 pool and its miss curves.

use super::super::document::{Cell, Curves, Part, Section, Table};
use super::{TOP, section};
use crate::findings::{Findings, PoolFinding};

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
