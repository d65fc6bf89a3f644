//! EPT02s and what they cost: their changes, EPT violations by page and by level, and pages that fault again when L0 has
//! dropped them.

use hv_defs::ept::Eptp;
use hv_defs::event::{EptChange, EptOp, Event, Exit, What};
use hv_defs::exit::Reason;
use std::collections::{BTreeMap, HashMap, HashSet};

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

impl EptRow {
    /// Entries added, removed and changed.
    pub fn changes(&self) -> u64 {
        self.maps + self.zaps + self.syncs
    }
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
    /// How many of them at an EPT02 entry that had been removed.
    pub again: u64,
}

/// EPT violations of one level.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EptLevel {
    /// The guest that was running.
    pub level: u8,
    /// How many.
    pub count: u64,
    /// How many of them at an EPT02 entry that had been removed.
    pub again: u64,
    /// How many different pages.
    pub pages: u64,
}

/// How many pages the list of EPT violations has.
pub(crate) const PAGES_KEPT: usize = 20;

#[derive(Debug, Default)]
pub(super) struct Fold {
    roots: BTreeMap<(u64, u64), EptRow>,
    /// By level and page: violations, and those at what had been removed.
    pages: HashMap<(u8, u64), (u64, u64)>,
    /// By root, address and size: EPT02 entries that were removed.
    zapped: HashSet<(u64, u64, u64)>,
    /// The sizes of those.
    sizes: Vec<u64>,
    /// By vCPU: the root that it was entered under last.
    running: Vec<u64>,
}

/// What is found of EPT.
pub(super) struct Ept {
    pub(super) roots: Vec<EptRow>,
    /// The pages with most violations, and how many pages had any.
    pub(super) pages: Vec<EptPage>,
    pub(super) page_count: u64,
    pub(super) levels: Vec<EptLevel>,
}

impl Fold {
    pub(super) fn see(&mut self, event: &Event) {
        match &event.what {
            What::Ept(change) => self.changed(change),
            What::Exit(exit) if exit.basic() == Reason::EPT_VIOLATION => self.violated(event.at.vcpu, exit),
            What::Entry(entry) => {
                let vcpu = usize::from(event.at.vcpu);
                if vcpu >= self.running.len() {
                    self.running.resize(vcpu + 1, 0);
                }
                self.running[vcpu] = Eptp::from_bits(entry.eptp).ep4ta();
            }
            _ => {}
        }
    }

    fn changed(&mut self, change: &EptChange) {
        let row = self.roots.entry((change.eptp12, change.eptp02)).or_default();
        (row.eptp12, row.eptp02) = (change.eptp12, change.eptp02);
        *match change.op {
            EptOp::Map => &mut row.maps,
            EptOp::Zap => {
                self.zapped.insert((Eptp::from_bits(change.eptp02).ep4ta(), change.gpa, change.size));
                if !self.sizes.contains(&change.size) {
                    self.sizes.push(change.size);
                }
                &mut row.zaps
            }
            EptOp::Sync => &mut row.syncs,
            EptOp::Switch => &mut row.switches,
        } += 1;
    }

    fn violated(&mut self, vcpu: u16, exit: &Exit) {
        let root = self.running.get(usize::from(vcpu)).copied().unwrap_or(0);
        let zapped = &mut self.zapped;
        let again = exit.level >= 2
            && self.sizes.iter().any(|size| zapped.remove(&(root, exit.gpa & !(size.max(&1) - 1), *size)));
        let (count, refaults) = self.pages.entry((exit.level, exit.gpa & !0xfff)).or_default();
        *count += 1;
        *refaults += u64::from(again);
    }

    pub(super) fn finish(self) -> Ept {
        let page_count = self.pages.len() as u64;
        let mut levels: BTreeMap<u8, EptLevel> = BTreeMap::new();
        for (&(level, _), &(count, again)) in &self.pages {
            let row = levels.entry(level).or_insert(EptLevel { level, count: 0, again: 0, pages: 0 });
            (row.count, row.again, row.pages) = (row.count + count, row.again + again, row.pages + 1);
        }
        let pages = self.pages.into_iter().map(|((level, page), (count, again))| EptPage { level, page, count, again });
        let mut pages: Vec<EptPage> = pages.collect();
        pages.sort_by_key(|page| (core::cmp::Reverse(page.count), page.level, page.page));
        pages.truncate(PAGES_KEPT);
        let mut roots: Vec<EptRow> = self.roots.into_values().collect();
        roots.sort_by_key(|row| core::cmp::Reverse(row.changes()));
        Ept { roots, pages, page_count, levels: levels.into_values().collect() }
    }
}
