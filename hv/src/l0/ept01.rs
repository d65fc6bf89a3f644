//! EPT01: L1-physical to host-physical, in real tables. RAM is mapped by 2 MiB pages, and by 4 KiB pages where a page
//! that holds one of L1's own paging structures must be read-only.

use super::frames::Frames;
use super::{HIGH_RAM, L0_MEMORY, LOW_RAM_LIMIT};
use crate::silicon::{Pcpu, Silicon};
use hv_defs::addr::{Gpa, Hpa, PAGE_SIZE};
use hv_defs::ept::{EptEntry, Eptp};
use serde::{Deserialize, Serialize};

/// Bytes of a page that a PDE maps.
pub(super) const LARGE: u64 = 2 << 20;
/// Bytes that a page directory maps.
const DIRECTORY: u64 = 1 << 30;

/// Write-back, in a leaf.
pub(super) const WRITE_BACK: u8 = 6;

/// How far into L1's RAM an address of it lies: the hole below 4 GiB is not counted.
pub(super) const fn offset(at: Gpa) -> u64 {
    if at.0 >= HIGH_RAM { at.0 - HIGH_RAM + LOW_RAM_LIMIT } else { at.0 }
}

/// The first L1-physical address behind `memory` bytes of RAM.
pub(super) const fn end(memory: u64) -> u64 {
    if memory > LOW_RAM_LIMIT { HIGH_RAM + (memory - LOW_RAM_LIMIT) } else { memory }
}

/// A pointer to EPT paging structures at `root`: write-back, 4 levels, accessed and dirty flags off.
pub(super) const fn pointer(root: Hpa) -> Eptp {
    Eptp::new().with_memory_type(WRITE_BACK).with_walk_length_less_one(3).with_pfn(root.0 / PAGE_SIZE)
}

/// A non-leaf entry, all permitted.
pub(super) const fn table(at: Hpa) -> EptEntry {
    EptEntry::new().with_read(true).with_write(true).with_execute(true).with_pfn(at.0 / PAGE_SIZE)
}

const fn leaf(at: u64, large: bool) -> EptEntry {
    table(Hpa(at)).with_memory_type(WRITE_BACK).with_large(large)
}

/// Another root of EPT01's tables, so that what is cached under it is tagged otherwise than what L1 caches.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Second {
    pub(super) pointer: Eptp,
    /// Physical CPUs, by bit, that an L2 ran on under it.
    pub(super) ran_on: u64,
}

/// EPT01, one for all vCPUs.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Ept01 {
    pub(super) pointer: Eptp,
    /// More roots of the same tables, for L2s without EPT of their own: those without an APIC-access page and those with
    /// one. `None` where they run under L1's.
    pub(super) for_l2: Option<[Second; 2]>,
    /// By physical CPU: the APIC-access page that was last in use under the second of them; 0 for none.
    #[serde(with = "crate::stored::words")]
    apic_access: [u64; 64],
    /// The page directory of each GiB of RAM.
    directories: Vec<Hpa>,
    /// The page table of each 2 MiB of RAM, where they are mapped by 4 KiB pages.
    tables: Vec<Option<Hpa>>,
}

/// What became of a wish to change a page's write permission.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Change {
    /// It was so already, or is no RAM.
    Nothing,
    /// The entry was changed.
    Done,
    /// There is no frame for a page table.
    NoFrame,
}

impl Ept01 {
    /// Maps `memory` bytes of RAM, from L1-physical 0 and from [`HIGH_RAM`]; `None` when L0's memory does not hold the tables.
    pub(super) fn new<S: Silicon>(
        silicon: &mut S,
        frames: &mut Frames,
        memory: u64,
        root_for_l2: bool,
    ) -> Option<Self> {
        let root = zeroed(silicon, frames)?;
        let pdpt = zeroed(silicon, frames)?;
        put(silicon, root, 0, table(pdpt));
        let mut second = || {
            let root = zeroed(silicon, frames)?;
            put(silicon, root, 0, table(pdpt));
            Some(Second { pointer: pointer(root), ran_on: 0 })
        };
        let for_l2 = if root_for_l2 { Some([second()?, second()?]) } else { None };
        let (directories, tables, apic_access) = (Vec::new(), Vec::new(), [0; 64]);
        let mut this = Self { pointer: pointer(root), for_l2, apic_access, directories, tables };
        for gib in 0..memory.div_ceil(DIRECTORY) {
            let directory = zeroed(silicon, frames)?;
            let at = if gib < LOW_RAM_LIMIT / DIRECTORY { gib } else { gib + (HIGH_RAM - LOW_RAM_LIMIT) / DIRECTORY };
            put(silicon, pdpt, at, table(directory));
            this.directories.push(directory);
        }
        for large in 0..memory.div_ceil(LARGE) {
            let from = large * LARGE;
            let directory = this.directories[(from / DIRECTORY) as usize];
            if memory - from >= LARGE {
                put(silicon, directory, large % 512, leaf(L0_MEMORY + from, true));
                this.tables.push(None);
            } else {
                let pages = zeroed(silicon, frames)?;
                for page in 0..(memory - from) / PAGE_SIZE {
                    put(silicon, pages, page, leaf(L0_MEMORY + from + page * PAGE_SIZE, false));
                }
                put(silicon, directory, large % 512, table(pages));
                this.tables.push(Some(pages));
            }
        }
        Some(this)
    }

    /// What an L2 without EPT of its own runs under on a physical CPU, with this APIC-access page (0 for none); and
    /// whether an INVEPT of it is due, since it has run there with another page. `None` where it runs under L1's.
    /// See: SDM "Guidelines for Use of the INVEPT Instruction".
    pub(super) fn load_for_l2(&mut self, cpu: Pcpu, apic_access: u64) -> Option<(Eptp, bool)> {
        let second = &mut self.for_l2.as_mut()?[usize::from(apic_access != 0)];
        second.ran_on |= 1 << (cpu % 64);
        let moved = apic_access != 0 && {
            let before = core::mem::replace(&mut self.apic_access[cpu % 64], apic_access);
            before != 0 && before != apic_access
        };
        Some((second.pointer, moved))
    }

    /// Whether the 2 MiB around `at` are mapped by one entry.
    pub(super) fn is_large(&self, at: Gpa) -> bool {
        matches!(self.tables.get((offset(at) / LARGE) as usize), Some(None))
    }

    /// Whether L1 may write the page at `at` without an exit.
    pub(super) fn is_writable<S: Silicon>(&self, silicon: &mut S, at: Gpa) -> bool {
        match self.tables.get((offset(at) / LARGE) as usize) {
            Some(Some(pages)) => get(silicon, *pages, at.0 / PAGE_SIZE % 512).write(),
            Some(None) => true,
            None => false,
        }
    }

    /// Grants or takes away write permission of one page, splitting a large page to do so. Who takes it away owes an
    /// INVEPT.
    pub(super) fn set_writable<S: Silicon>(
        &mut self,
        silicon: &mut S,
        frames: &mut Frames,
        at: Gpa,
        writable: bool,
    ) -> Change {
        let large = (offset(at) / LARGE) as usize;
        let pages = match self.tables.get(large) {
            None => return Change::Nothing,
            Some(None) if writable => return Change::Nothing,
            Some(Some(pages)) => *pages,
            Some(None) => {
                let Some(pages) = frames.take() else { return Change::NoFrame };
                let from = L0_MEMORY + large as u64 * LARGE;
                for page in 0..512 {
                    put(silicon, pages, page, leaf(from + page * PAGE_SIZE, false));
                }
                let directory = self.directories[large / 512];
                put(silicon, directory, large as u64 % 512, table(pages));
                self.tables[large] = Some(pages);
                pages
            }
        };
        let index = at.0 / PAGE_SIZE % 512;
        let entry = get(silicon, pages, index);
        if !entry.present() || entry.write() == writable {
            return Change::Nothing;
        }
        put(silicon, pages, index, entry.with_write(writable));
        Change::Done
    }
}

/// A frame of zeroes.
pub(super) fn zeroed<S: Silicon>(silicon: &mut S, frames: &mut Frames) -> Option<Hpa> {
    let frame = frames.take()?;
    silicon.write(frame, &[0; PAGE_SIZE as usize]);
    Some(frame)
}

/// Reads an entry of a table.
pub(super) fn get<S: Silicon>(silicon: &mut S, table: Hpa, index: u64) -> EptEntry {
    let mut bytes = [0; 8];
    silicon.read(table.offset(index * 8), &mut bytes);
    EptEntry::from_bits(u64::from_le_bytes(bytes))
}

/// Writes an entry of a table.
pub(super) fn put<S: Silicon>(silicon: &mut S, table: Hpa, index: u64, entry: EptEntry) {
    silicon.write(table.offset(index * 8), &entry.into_bits().to_le_bytes());
}
