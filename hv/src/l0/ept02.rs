//! EPT02: what silicon walks while L2 runs. Each root shadows one EPT12; each of its tables shadows one table of L1's,
//! or is L0's own where L1 maps a large page that EPT01 maps by small ones.
//!
//! Here are the structures and who points to whom; [`super::shadow`] fills and syncs them.

use super::ept01;
use super::frames::{self, FRAMES};
use hv_defs::addr::{Gpa, Hpa, PAGE_SIZE};
use hv_defs::ept::{EptEntry, Eptp};
use serde::{Deserialize, Serialize};

/// No table.
pub(super) const NONE: u32 = u32::MAX;

/// One table of an EPT02.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Table {
    pub(super) frame: Hpa,
    /// 4 is a root's.
    pub(super) level: u8,
    /// The first L2-physical address that it maps.
    pub(super) base: u64,
    /// The page of EPT12 that it shadows; `None` where L1 has a leaf above it, which is `source` then.
    pub(super) shadows: Option<Gpa>,
    /// L1's leaf, without its accessed and dirty flags.
    pub(super) source: EptEntry,
    pub(super) root: usize,
    /// L1 may have written the page that it shadows.
    pub(super) unsync: bool,
    /// The next table that shadows the same page.
    next: u32,
}

/// One EPT02.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Root {
    pub(super) vcpu: u16,
    /// L1's EPT pointer.
    pub(super) eptp12: Eptp,
    /// With mode-based execute control.
    pub(super) mode_based: bool,
    /// Silicon's.
    pub(super) eptp02: Eptp,
    pub(super) table: u32,
    /// When it was loaded last, counted by [`Ept02::loads`].
    pub(super) used: u64,
    /// Physical CPUs, by bit, that it ran on since L0 flushed it there.
    pub(super) held: u64,
    /// Those of them where L1's INVEPT has not been carried out, since L1 was elsewhere then.
    pub(super) stale: u64,
}

impl Root {
    pub(super) fn shape(&self) -> Shape {
        Shape { accessed_dirty: self.eptp12.accessed_dirty(), mode_based: self.mode_based }
    }
}

/// What L1's controls say of how an EPT12 is read.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Shape {
    /// Accessed and dirty flags are in use.
    pub(super) accessed_dirty: bool,
    /// Mode-based execute control is.
    pub(super) mode_based: bool,
}

impl Shape {
    /// The bits of an entry that permit something.
    pub(super) const fn permissions(self) -> u64 {
        if self.mode_based { USER_EXECUTE | 7 } else { 7 }
    }
}

/// An entry's bit for fetches from user-mode addresses.
const USER_EXECUTE: u64 = 1 << 10;

/// All EPT02s.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Ept02 {
    tables: Vec<Table>,
    free: Vec<u32>,
    by_frame: Vec<u32>,
    /// By L1-physical page: the first table that shadows it.
    by_page: Vec<u32>,
    unsync: Vec<u32>,
    /// By number; `None` for a free one.
    pub(super) roots: Vec<Option<Root>>,
    /// Root loads so far.
    pub(super) loads: u64,
}

impl Ept02 {
    /// None yet, for `memory` bytes of L1's RAM.
    pub(super) fn new(memory: u64) -> Self {
        Self {
            tables: Vec::new(),
            free: Vec::new(),
            by_frame: vec![NONE; FRAMES],
            by_page: vec![NONE; (ept01::end(memory) / PAGE_SIZE) as usize],
            unsync: Vec::new(),
            roots: Vec::new(),
            loads: 0,
        }
    }

    pub(super) fn table(&self, number: u32) -> &Table {
        &self.tables[number as usize]
    }

    /// The table in a frame.
    pub(super) fn at(&self, frame: Hpa) -> u32 {
        self.by_frame[frames::number(frame)]
    }

    /// A new table in `frame`.
    pub(super) fn add(
        &mut self,
        frame: Hpa,
        level: u8,
        base: u64,
        shadows: Option<Gpa>,
        source: EptEntry,
        root: usize,
    ) -> u32 {
        let page = shadows.map(|gpa| (gpa.0 / PAGE_SIZE) as usize).filter(|page| *page < self.by_page.len());
        let table = Table {
            frame,
            level,
            base,
            shadows,
            source,
            root,
            unsync: false,
            next: page.map_or(NONE, |page| self.by_page[page]),
        };
        let number = match self.free.pop() {
            Some(number) => {
                self.tables[number as usize] = table;
                number
            }
            None => {
                self.tables.push(table);
                self.tables.len() as u32 - 1
            }
        };
        if let Some(page) = page {
            self.by_page[page] = number;
        }
        self.by_frame[frames::number(frame)] = number;
        number
    }

    /// Forgets a table, whose frame is the caller's to retire.
    pub(super) fn remove(&mut self, number: u32) {
        let Table { frame, shadows, next, .. } = self.tables[number as usize];
        self.by_frame[frames::number(frame)] = NONE;
        self.tables[number as usize].unsync = false;
        if let Some(page) = shadows.map(|gpa| (gpa.0 / PAGE_SIZE) as usize)
            && page < self.by_page.len()
        {
            if self.by_page[page] == number {
                self.by_page[page] = next;
            } else {
                let mut link = self.by_page[page];
                while self.tables[link as usize].next != number {
                    link = self.tables[link as usize].next;
                }
                self.tables[link as usize].next = next;
            }
        }
        self.free.push(number);
    }

    /// Whether a table of L1's in this page is shadowed.
    pub(super) fn is_shadowed(&self, at: Gpa) -> bool {
        self.by_page.get((at.0 / PAGE_SIZE) as usize).is_some_and(|first| *first != NONE)
    }

    /// L1's page at `at` was or can now be written.
    pub(super) fn written(&mut self, at: Gpa) {
        let Some(first) = self.by_page.get((at.0 / PAGE_SIZE) as usize) else { return };
        let mut number = *first;
        while number != NONE {
            let table = &mut self.tables[number as usize];
            if !table.unsync {
                table.unsync = true;
                self.unsync.push(number);
            }
            number = table.next;
        }
    }

    /// Takes the tables of `root` that are unsync off the list, deepest last. They stay marked.
    pub(super) fn take_unsync(&mut self, root: usize) -> Vec<u32> {
        if self.unsync.is_empty() {
            return Vec::new();
        }
        let (mut taken, mut rest) = (Vec::new(), Vec::new());
        for number in self.unsync.drain(..) {
            let table = &self.tables[number as usize];
            if !table.unsync {
                continue;
            }
            if table.root == root { &mut taken } else { &mut rest }.push(number);
        }
        self.unsync = rest;
        taken.sort_by_key(|number| (4 - self.tables[*number as usize].level, self.tables[*number as usize].base));
        taken.dedup();
        taken
    }

    /// The tables of `root` that are unsync.
    pub(super) fn unsync_of(&self, root: usize) -> Vec<u32> {
        let mut all = self.unsync.clone();
        all.retain(|number| self.tables[*number as usize].unsync && self.tables[*number as usize].root == root);
        all.sort_by_key(|number| (4 - self.tables[*number as usize].level, self.tables[*number as usize].base));
        all.dedup();
        all
    }

    /// A table has been brought in line.
    pub(super) fn synced(&mut self, number: u32) {
        self.tables[number as usize].unsync = false;
    }

    /// The root of a vCPU for an EPT12.
    pub(super) fn find(&self, vcpu: u16, eptp12: Eptp, mode_based: bool) -> Option<usize> {
        let is = |root: &Root| root.vcpu == vcpu && root.eptp12 == eptp12 && root.mode_based == mode_based;
        self.roots.iter().position(|root| root.as_ref().is_some_and(is))
    }

    /// A vCPU's roots, least recently loaded first.
    pub(super) fn roots_of(&self, vcpu: u16) -> Vec<usize> {
        let mut roots: Vec<(u64, usize)> = self
            .roots
            .iter()
            .enumerate()
            .filter_map(|(number, root)| Some((root.as_ref().filter(|root| root.vcpu == vcpu)?.used, number)))
            .collect();
        roots.sort_unstable();
        roots.into_iter().map(|(_, number)| number).collect()
    }
}
