//! EPT02s and VPIDs.

use super::super::document::{Cell, Part, Section, Table, Tone};
use super::{TOP, percentiles, section};
use crate::findings::{Burst, EptRow, Findings, STORM, VpidRow};
use crate::number::{grouped, percent};
use hv_defs::event::{Kind, VpidOp};
use std::collections::BTreeMap;

pub(super) fn ept(of: &Findings) -> Option<Section> {
    let mut parts = Vec::new();
    if !of.ept.is_empty() {
        parts.push(roots(&of.ept));
    }
    if !of.ept_levels.is_empty() {
        parts.extend([Part::Heading("EPT violations"), violations(of), pages(of)]);
    }
    if of.storms.sizes.count() > 0 {
        storms(of, &mut parts);
    }
    if parts.is_empty() { None } else { section("ept", "EPT", parts) }
}

fn roots(all: &[EptRow]) -> Part {
    let counts = |row: &EptRow| [row.maps, row.zaps, row.syncs, row.switches];
    let rows = all.iter().take(TOP).map(|row| {
        [Cell::address(row.eptp12), Cell::address(row.eptp02)].into_iter().chain(counts(row).map(Cell::count)).collect()
    });
    let mut rows: Vec<Vec<Cell>> = rows.collect();
    if all.len() > TOP {
        let left = Cell::text(format!("{} more", grouped((all.len() - TOP) as u64)));
        let sums = (0..4).map(|at| Cell::count(all.iter().skip(TOP).map(|row| counts(row)[at]).sum()));
        rows.push([left, Cell::text("")].into_iter().chain(sums).collect());
    }
    let columns = vec!["EPTP12", "EPTP02", "maps", "zaps", "syncs", "switches"];
    Part::Table(Table { columns, rows, note: String::new() })
}

fn violations(of: &Findings) -> Part {
    let all: u64 = of.ept_levels.iter().map(|row| row.count).sum();
    let rows = of.ept_levels.iter().map(|row| {
        vec![
            Cell::number(format!("L{}", row.level), row.level.into()),
            Cell::count(row.count),
            Cell::share(row.count, all),
            Cell::count(row.pages),
            Cell::count(row.again).toned(if row.again > 0 { Tone::Warn } else { Tone::Plain }),
        ]
    });
    let columns = vec!["level", "EPT violations", "share", "pages", "after a zap"];
    let note = "`after a zap`: at an EPT02 entry that L0 had removed.";
    told(of, Table { columns, rows: rows.collect(), note: note.into() })
}

fn pages(of: &Findings) -> Part {
    let rows = of.ept_pages.iter().map(|page| {
        vec![
            Cell::number(format!("L{}", page.level), page.level.into()),
            Cell::address(page.page),
            Cell::count(page.count),
            Cell::count(page.again),
        ]
    });
    let mut rows: Vec<Vec<Cell>> = rows.collect();
    let left = of.ept_page_count.saturating_sub(of.ept_pages.len() as u64);
    if left > 0 {
        let shown = |pick: fn(&crate::findings::EptPage) -> u64| of.ept_pages.iter().map(pick).sum::<u64>();
        let all = |pick: fn(&crate::findings::EptLevel) -> u64| of.ept_levels.iter().map(pick).sum::<u64>();
        rows.push(vec![
            Cell::text(""),
            Cell::text(format!("{} more", grouped(left))),
            Cell::count(all(|row| row.count) - shown(|page| page.count)),
            Cell::count(all(|row| row.again) - shown(|page| page.again)),
        ]);
    }
    let columns = vec!["level", "guest-physical page", "EPT violations", "after a zap"];
    told(of, Table { columns, rows, note: String::new() })
}

/// A table whose last column is of zaps, without it where the trace does not tell of them.
fn told(of: &Findings, mut table: Table) -> Part {
    if !of.overview.tells_of(Kind::Ept) {
        table.columns.pop();
        table.rows.iter_mut().for_each(|row| drop(row.pop()));
        table.note = String::new();
    }
    Part::Table(table)
}

/// The exit that L0 was handling, in words.
fn handling(burst: &Burst) -> String {
    burst.exit.map_or("before any exit".into(), |(level, reason)| format!("L{level} {reason}"))
}

fn storms(of: &Findings, parts: &mut Vec<Part>) {
    let storms = &of.storms;
    let [p50, p90, p99, max] = percentiles(&storms.sizes);
    let tone = if storms.storms > 0 { Tone::Warn } else { Tone::Good };
    parts.push(Part::Heading("Bursts of zaps and syncs"));
    parts.push(Part::Facts(vec![
        ("bursts of zaps and syncs", Cell::count(storms.sizes.count())),
        ("changes in one, p50", p50),
        ("p90", p90),
        ("p99", p99),
        ("max", max),
        ("storms", Cell::count(storms.storms).toned(tone)),
        ("changes in storms", Cell::number(share(storms.changes, storms.sizes.sum()), storms.changes as f64)),
    ]));
    let rows = storms.largest.iter().take(TOP / 2).map(|burst| {
        vec![
            Cell::count(burst.event),
            Cell::count(burst.at.instruction),
            Cell::count(burst.at.vcpu.into()),
            Cell::count(burst.changes()),
            Cell::count(burst.zaps),
            Cell::count(burst.syncs),
            Cell::address(burst.root.0),
            Cell::count(burst.of_root),
            Cell::text(handling(burst)),
            Cell::count(burst.of_exit),
            Cell::count(burst.l1_exits),
        ]
    });
    let columns = vec![
        "first event",
        of.overview.clock().name(),
        "vCPU",
        "changes",
        "zaps",
        "syncs",
        "mostly of EPTP12",
        "of it",
        "mostly handling",
        "then",
        "L1 exits",
    ];
    let mut note = format!(
        "A burst is what changed in EPT02s on a vCPU with no nested guest run between; a storm is one of {STORM} changes or more."
    );
    let left = storms.sizes.count().saturating_sub((TOP / 2) as u64);
    if left > 0 {
        let shown: u64 = storms.largest.iter().take(TOP / 2).map(Burst::changes).sum();
        note += &format!(
            " {} smaller bursts of {} changes are not shown.",
            grouped(left),
            grouped(storms.sizes.sum().saturating_sub(shown))
        );
    }
    parts.push(Part::Table(Table { columns, rows: rows.collect(), note }));
}

fn share(part: u64, whole: u64) -> String {
    format!("{} ({})", grouped(part), percent(part, whole))
}

pub(super) fn vpids(of: &Findings) -> Option<Section> {
    let mut parts = Vec::new();
    if !of.vpids.is_empty() {
        parts.push(map(&of.vpids));
        uses(of, &mut parts);
    }
    if of.returns.moves > 0 {
        returns(of, &mut parts);
    }
    if parts.is_empty() { None } else { section("vpids", "VPIDs", parts) }
}

/// What the map of each vCPU did, those that did most first.
fn map(all: &[VpidRow]) -> Part {
    let mut vcpus: BTreeMap<u16, [u64; VpidOp::ALL.len()]> = BTreeMap::new();
    for row in all {
        vcpus.entry(row.vcpu).or_default()[row.op as usize] += row.count;
    }
    let mut vcpus: Vec<_> = vcpus.into_iter().collect();
    if vcpus.len() > TOP {
        vcpus.sort_by_key(|(_, counts)| core::cmp::Reverse(counts.iter().sum::<u64>()));
    }
    let rows = vcpus
        .iter()
        .take(TOP)
        .map(|(vcpu, counts)| [Cell::count((*vcpu).into())].into_iter().chain(counts.map(Cell::count)).collect());
    let mut rows: Vec<Vec<Cell>> = rows.collect();
    if vcpus.len() > TOP {
        let left = Cell::text(format!("{} more", grouped((vcpus.len() - TOP) as u64)));
        let sums =
            (0..VpidOp::ALL.len()).map(|op| Cell::count(vcpus.iter().skip(TOP).map(|(_, counts)| counts[op]).sum()));
        rows.push([left].into_iter().chain(sums).collect());
    }
    let columns = ["vCPU"].into_iter().chain(VpidOp::ALL.iter().map(|op| op.name())).collect();
    Part::Table(Table { columns, rows, note: "What the VPID map did.".into() })
}

fn uses(of: &Findings, parts: &mut Vec<Part>) {
    let uses = &of.vpid_uses;
    let [p50, p90, p99, max] = percentiles(&uses.lifetimes);
    parts.push(Part::Facts(vec![
        ("VPIDs for nested guests", Cell::count(uses.vpids)),
        ("given", Cell::count(uses.all.given)),
        ("to another than before", Cell::count(uses.all.changed_hands)),
        ("taken from another", Cell::count(uses.all.recycled)),
        ("kept for, p50", p50),
        ("p90", p90),
        ("p99", p99),
        ("max", max),
        ("kept to the end", Cell::count(uses.kept)),
    ]));
    let cells = |of: [u64; 4]| of.map(Cell::count);
    let rows = uses.rows.iter().filter(|row| row.changed_hands > 0).take(TOP).map(|row| {
        let counts = cells([row.given, row.changed_hands, row.recycled, row.hits]);
        [Cell::count(row.vpid02.into())].into_iter().chain(counts).collect()
    });
    let mut rows: Vec<Vec<Cell>> = rows.collect();
    if rows.is_empty() {
        return;
    }
    let shown = &uses.rows[..rows.len()];
    let left = uses.vpids - shown.len() as u64;
    if left > 0 {
        let rest = |pick: fn(&crate::findings::VpidUse) -> u64| pick(&uses.all) - shown.iter().map(pick).sum::<u64>();
        let sums = cells([
            rest(|row| row.given),
            rest(|row| row.changed_hands),
            rest(|row| row.recycled),
            rest(|row| row.hits),
        ]);
        rows.push([Cell::text(format!("{} more", grouped(left)))].into_iter().chain(sums).collect());
    }
    let columns = vec!["VPID", "given", "to another", "taken for it", "asked for again"];
    let note = format!(
        "Silicon's VPIDs. How long one is kept, until it is taken or given up, is in {}.",
        of.overview.clock().name()
    );
    parts.push(Part::Table(Table { columns, rows, note }));
}

fn returns(of: &Findings, parts: &mut Vec<Part>) {
    let returns = &of.returns;
    let [p50, p90, p99, max] = percentiles(&returns.away);
    parts.push(Part::Heading("What guests leave on CPUs"));
    parts.push(Part::Facts(vec![
        ("entries on another CPU", Cell::count(returns.moves)),
        ("back where it had run", Cell::count(returns.returns)),
        ("nothing flushed there", Cell::number(share(returns.unflushed, returns.returns), returns.unflushed as f64)),
        ("away for, p50", p50),
        ("p90", p90),
        ("p99", p99),
        ("max", max),
    ]));
    let rows = returns.rows.iter().take(TOP).map(|row| {
        vec![Cell::text(row.tag.name()), Cell::count(row.moves), Cell::count(row.returns), Cell::count(row.unflushed)]
    });
    let mut rows: Vec<Vec<Cell>> = rows.collect();
    let left = returns.tags.saturating_sub(rows.len() as u64);
    if left > 0 {
        let sum = |pick: fn(&crate::findings::ReturnRow) -> u64| returns.rows.iter().take(TOP).map(pick).sum::<u64>();
        rows.push(vec![
            Cell::text(format!("{} more", grouped(left))),
            Cell::count(returns.moves - sum(|row| row.moves)),
            Cell::count(returns.returns - sum(|row| row.returns)),
            Cell::count(returns.unflushed - sum(|row| row.unflushed)),
        ]);
    }
    let columns = vec!["VPID or root", "moves", "back", "unflushed"];
    let note = format!(
        "A VPID or a root that comes back to a CPU finds there what it left, unless that was flushed as a whole. Whether it was \
         wrong to keep it the verdicts on flushes and the mistakes say. Times are {}.",
        of.overview.clock().name()
    );
    parts.push(Part::Table(Table { columns, rows, note }));
}
