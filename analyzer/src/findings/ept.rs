//! EPT02s and what they cost: their changes, and EPT violations by page.

use hv_defs::event::{EptChange, EptOp, Exit};
use hv_defs::exit::Reason;
use std::collections::{BTreeMap, HashMap};

/// Changes of one EPT02.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct EptRow {
    /// L1's EPT pointer.
    pub eptp12: u64,
    /// Silicon's.
    pub eptp02: u64,
    /// Entries added.
    pub maps: u64,
    /// Entries removed.
    pub zaps: u64,
    /// Entries changed.
    pub syncs: u64,
    /// Times that it came into use.
    pub switches: u64,
}

/// EPT violations in one page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EptPage {
    /// The guest that was running.
    pub level: u8,
    /// The page, in that guest's physical memory.
    pub page: u64,
    /// How many.
    pub count: u64,
}

/// How many pages the list of EPT violations has.
pub(crate) const PAGES_KEPT: usize = 20;

#[derive(Debug, Default)]
pub(super) struct Fold {
    roots: BTreeMap<(u64, u64), EptRow>,
    pages: HashMap<(u8, u64), u64>,
}

/// What is found of EPT.
pub(super) struct Ept {
    pub(super) roots: Vec<EptRow>,
    /// The pages with most violations, and how many pages had any.
    pub(super) pages: Vec<EptPage>,
    pub(super) page_count: u64,
}

impl Fold {
    pub(super) fn changed(&mut self, change: &EptChange) {
        let row = self.roots.entry((change.eptp12, change.eptp02)).or_default();
        (row.eptp12, row.eptp02) = (change.eptp12, change.eptp02);
        *match change.op {
            EptOp::Map => &mut row.maps,
            EptOp::Zap => &mut row.zaps,
            EptOp::Sync => &mut row.syncs,
            EptOp::Switch => &mut row.switches,
        } += 1;
    }

    pub(super) fn exited(&mut self, exit: &Exit) {
        if exit.basic() == Reason::EPT_VIOLATION {
            *self.pages.entry((exit.level, exit.gpa & !0xfff)).or_default() += 1;
        }
    }

    pub(super) fn finish(self) -> Ept {
        let page_count = self.pages.len() as u64;
        let pages = self.pages.into_iter().map(|((level, page), count)| EptPage { level, page, count });
        let mut pages: Vec<EptPage> = pages.collect();
        pages.sort_by_key(|page| (core::cmp::Reverse(page.count), page.level, page.page));
        pages.truncate(PAGES_KEPT);
        Ept { roots: self.roots.into_values().collect(), pages, page_count }
    }
}
