//! EPT02s and VPIDs.

use super::super::document::{Cell, Part, Section, Table};
use super::{TOP, section};
use crate::findings::Findings;
use crate::number::grouped;

pub(super) fn ept(of: &Findings) -> Option<Section> {
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

pub(super) fn vpids(of: &Findings) -> Option<Section> {
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
