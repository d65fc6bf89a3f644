//! The translation lookaside buffer: set-associative, first in first out, dropped from only by what must drop.
//!
//! Each entry belongs to a [`Tag`]. A flush of a whole tag takes a new epoch for it, which leaves its entries dead in
//! place and costs nothing each; a tag counts its live entries, so a flush can say how many it dropped.
//!
//! See: SDM "Caching Translation Information" and "Information That May Be Cached".

use serde::{Deserialize, Serialize};

/// The size of a cached page: 4 KiB, 2 MiB or 1 GiB.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum PageSize {
    /// 4 KiB.
    Small = 0,
    /// 2 MiB.
    Large = 1,
    /// 1 GiB.
    Huge = 2,
}

impl PageSize {
    /// From the smallest.
    pub const ALL: [Self; 3] = [Self::Small, Self::Large, Self::Huge];

    /// log2 of its bytes.
    pub const fn shift(self) -> u32 {
        12 + 9 * self as u32
    }

    /// Its bytes.
    pub const fn bytes(self) -> u64 {
        1 << self.shift()
    }

    /// The first byte of the page that holds `address`.
    pub const fn base(self, address: u64) -> u64 {
        address & !(self.bytes() - 1)
    }
}

/// What a cached translation is tagged with.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Tag {
    /// The VPID; 0 for guest-physical mappings, which have none.
    pub vpid: u16,
    /// The PCID; `None` for pages that are global to all PCIDs, and for guest-physical mappings.
    pub pcid: Option<u16>,
    /// EP4TA, bits 51:12 of the EPT pointer; `None` for linear mappings.
    pub ep4ta: Option<u64>,
}

/// What an entry permits, beside where it leads.
pub(super) mod flag {
    /// The guest's paging structures permit writes.
    pub(in super::super) const WRITE: u32 = 1 << 0;
    /// They make it a user-mode address.
    pub(in super::super) const USER: u32 = 1 << 1;
    /// They forbid fetches.
    pub(in super::super) const NX: u32 = 1 << 2;
    /// The dirty flag of the guest's entry is set.
    pub(in super::super) const DIRTY: u32 = 1 << 3;
    /// Global to all PCIDs.
    pub(in super::super) const GLOBAL: u32 = 1 << 4;
    /// EPT permits reads.
    pub(in super::super) const EPT_READ: u32 = 1 << 5;
    /// EPT permits writes.
    pub(in super::super) const EPT_WRITE: u32 = 1 << 6;
    /// EPT permits fetches; with mode-based execute control, those from supervisor-mode addresses.
    pub(in super::super) const EPT_EXECUTE: u32 = 1 << 7;
    /// EPT permits fetches from user-mode addresses, with mode-based execute control.
    pub(in super::super) const EPT_USER_EXECUTE: u32 = 1 << 8;
    /// The dirty flag of EPT's entry is set, or not in use.
    pub(in super::super) const EPT_DIRTY: u32 = 1 << 9;
    /// It leads to the APIC-access page.
    pub(in super::super) const APIC: u32 = 1 << 10;
    /// All that EPT may grant.
    pub(in super::super) const EPT_ALL: u32 = EPT_READ | EPT_WRITE | EPT_EXECUTE | EPT_USER_EXECUTE | EPT_DIRTY;
    /// Where the protection key begins: four bits.
    pub(in super::super) const KEY_SHIFT: u32 = 16;
    /// Where, for a part of a larger page of the guest's, log2 of that page's bytes begins: six bits, 0 for a whole page.
    pub(in super::super) const WHOLE_SHIFT: u32 = 24;
}

/// An entry.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(super) struct Entry {
    /// The page's number (its first address, less 12 bits), and its size above bit 60.
    key: u64,
    /// Where its first byte lies.
    pub(super) target: u64,
    pub(super) flags: u32,
    /// Live while its tag is of this epoch; 0 never is one.
    epoch: u32,
    tag: u16,
}

impl Entry {
    pub(super) fn size(&self) -> PageSize {
        PageSize::ALL[(self.key >> 60) as usize % 3]
    }

    /// Its first address.
    pub(super) fn address(&self) -> u64 {
        // The key holds bits 63:12.
        (self.key & ((1 << 52) - 1)) << 12
    }
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct TagRow {
    tag: Tag,
    epoch: u32,
    live: u32,
    /// Sizes cached since the last flush, a bit each.
    sizes: u8,
    /// Whether parts of larger pages were cached since the last flush.
    parts: bool,
}

/// A tag by its number in the TLB's own table.
pub(super) type TagId = u16;

/// Tags that the table may hold before those without entries are given up.
const MAX_TAGS: usize = 4096;

/// Entries in a set.
const WAYS: usize = 4;

/// Which entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Slot(u32);

/// What an insertion did beside inserting.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Inserted {
    /// A live entry had to go: its address and size.
    pub(super) evicted: Option<(u64, PageSize)>,
    /// The same translation was cached before, and flushed.
    pub(super) refill: bool,
}

/// A TLB.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Tlb {
    entries: Vec<Entry>,
    /// Which way of each set goes next.
    next: Vec<u8>,
    sets: u64,
    tags: Vec<TagRow>,
    epochs: u32,
}

impl Tlb {
    /// Of `entries` entries, rounded down to whole sets.
    pub(super) fn new(entries: u32) -> Self {
        let sets = (entries as usize / WAYS).max(1);
        Self {
            entries: vec![Entry::default(); sets * WAYS],
            next: vec![0; sets],
            sets: sets as u64,
            tags: Vec::new(),
            epochs: 0,
        }
    }

    /// The number of a tag. The second value says that numbers given before may have changed their meaning.
    pub(super) fn intern(&mut self, tag: Tag) -> (TagId, bool) {
        if let Some(id) = self.tags.iter().position(|row| row.tag == tag) {
            return (id as TagId, false);
        }
        let epoch = self.fresh_epoch();
        let row = TagRow { tag, epoch, live: 0, sizes: 0, parts: false };
        if self.tags.len() < MAX_TAGS {
            self.tags.push(row);
            return ((self.tags.len() - 1) as TagId, false);
        }
        // A tag with no entries can be forgotten. Were there none, the first goes with its entries, as a CPU may always
        // let them go.
        let id = self.tags.iter().position(|row| row.live == 0).unwrap_or(0);
        self.tags[id] = row;
        (id as TagId, true)
    }

    /// Changes with every flush of the whole tag.
    #[inline]
    pub(super) fn epoch(&self, id: TagId) -> u32 {
        self.tags[usize::from(id)].epoch
    }

    fn fresh_epoch(&mut self) -> u32 {
        if self.epochs == u32::MAX {
            // Once in four thousand million flushes all that is cached goes.
            self.entries.fill(Entry::default());
            self.epochs = 0;
            for row in &mut self.tags {
                self.epochs += 1;
                *row = TagRow { epoch: self.epochs, live: 0, sizes: 0, parts: false, ..*row };
            }
        }
        self.epochs += 1;
        self.epochs
    }

    /// Tags of the same VPID and EP4TA share a set, so that one look finds a page of a PCID and a global one.
    #[inline]
    fn set(&self, address: u64, size: PageSize, tag: &Tag) -> usize {
        let space = u64::from(tag.vpid) << 40 ^ tag.ep4ta.map_or(0, |ep4ta| ep4ta | 1);
        let hash =
            (address >> size.shift() ^ space.wrapping_mul(0xd6e8_feb8_6659_fd93)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        ((hash >> 32).wrapping_mul(self.sets) >> 32) as usize * WAYS
    }

    /// The live entry for `address` under either tag (of one VPID and EP4TA).
    #[inline]
    pub(super) fn find(&self, address: u64, local: TagId, global: TagId) -> Option<Slot> {
        let (one, other) = (&self.tags[usize::from(local)], &self.tags[usize::from(global)]);
        let sizes = one.sizes | other.sizes;
        for size in PageSize::ALL {
            if sizes >> size as u8 & 1 == 0 {
                continue;
            }
            let key = key(address, size);
            let set = self.set(address, size, &one.tag);
            for (way, entry) in self.entries[set..set + WAYS].iter().enumerate() {
                if entry.key == key && (entry.epoch == one.epoch || entry.epoch == other.epoch) {
                    return Some(Slot((set + way) as u32));
                }
            }
        }
        None
    }

    #[inline]
    pub(super) fn entry(&self, slot: Slot) -> &Entry {
        &self.entries[slot.0 as usize]
    }

    /// Drops a live entry, not for a flush but for another to take its place.
    pub(super) fn kill(&mut self, slot: Slot) {
        let entry = &mut self.entries[slot.0 as usize];
        entry.epoch = 0;
        entry.target = 0;
        self.tags[usize::from(entry.tag)].live -= 1;
    }

    /// Caches a translation. No live entry for the same address and tag may exist.
    pub(super) fn insert(&mut self, id: TagId, address: u64, size: PageSize, target: u64, flags: u32) -> Inserted {
        let row = self.tags[usize::from(id)];
        let key = key(address, size);
        let set = self.set(address, size, &row.tag);
        let mut done = Inserted::default();
        let ways = &self.entries[set..set + WAYS];
        let dead = |entry: &Entry| entry.epoch == 0 || self.tags[usize::from(entry.tag)].epoch != entry.epoch;
        let way = if let Some(way) = ways.iter().position(|entry| entry.key == key && entry.tag == id && dead(entry)) {
            // An entry that never held anything has no target but 0, which no guest's translation leads to by chance.
            done.refill = ways[way].target != 0;
            way
        } else if let Some(way) = ways.iter().position(dead) {
            way
        } else {
            let next = &mut self.next[set / WAYS];
            let way = usize::from(*next);
            *next = (*next + 1) % WAYS as u8;
            let victim = &self.entries[set + way];
            done.evicted = Some((victim.address(), victim.size()));
            self.tags[usize::from(victim.tag)].live -= 1;
            way
        };
        self.entries[set + way] = Entry { key, target: size.base(target), flags, epoch: row.epoch, tag: id };
        let row = &mut self.tags[usize::from(id)];
        row.live += 1;
        row.sizes |= 1 << size as u8;
        row.parts |= flags >> flag::WHOLE_SHIFT != 0;
        done
    }

    /// Drops all entries of the tags that `which` picks. Returns how many.
    pub(super) fn flush(&mut self, which: impl Fn(&Tag) -> bool) -> u32 {
        let mut dropped = 0;
        for id in 0..self.tags.len() {
            if which(&self.tags[id].tag) && self.tags[id].live != 0 {
                let epoch = self.fresh_epoch();
                let row = &mut self.tags[id];
                dropped += row.live;
                *row = TagRow { tag: row.tag, epoch, live: 0, sizes: 0, parts: false };
            }
        }
        dropped
    }

    /// Drops the entries that translate `address` under the tags that `which` picks, and tells `gone` of each: its first
    /// address and size. A guest's page that is cached in parts goes with all its parts, when `parts`. Returns how many.
    pub(super) fn flush_address(
        &mut self,
        address: u64,
        parts: bool,
        which: impl Fn(&Tag) -> bool,
        mut gone: impl FnMut(u64, PageSize),
    ) -> u32 {
        let mut dropped = 0;
        let mut any_parts = false;
        for id in 0..self.tags.len() {
            let row = self.tags[id];
            if row.live == 0 || !which(&row.tag) {
                continue;
            }
            any_parts |= row.parts;
            for size in PageSize::ALL {
                if row.sizes >> size as u8 & 1 == 0 {
                    continue;
                }
                let key = key(address, size);
                let set = self.set(address, size, &row.tag);
                for entry in &mut self.entries[set..set + WAYS] {
                    if entry.key == key && entry.epoch == row.epoch {
                        entry.epoch = 0;
                        self.tags[id].live -= 1;
                        dropped += 1;
                        gone(entry.address(), size);
                    }
                }
            }
        }
        if parts && any_parts {
            for entry in &mut self.entries {
                let shift = entry.flags >> flag::WHOLE_SHIFT & 63;
                if shift == 0 || entry.epoch == 0 {
                    continue;
                }
                let row = &mut self.tags[usize::from(entry.tag)];
                if entry.epoch == row.epoch && entry.address() >> shift == address >> shift && which(&row.tag) {
                    entry.epoch = 0;
                    row.live -= 1;
                    dropped += 1;
                    gone(entry.address(), entry.size());
                }
            }
        }
        dropped
    }

    /// Every live entry with its tag, in the order in which the sets hold them.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&Tag, &Entry)> {
        self.entries.iter().filter_map(|entry| {
            let row = self.tags.get(usize::from(entry.tag))?;
            (entry.epoch != 0 && entry.epoch == row.epoch).then_some((&row.tag, entry))
        })
    }

    /// Live entries.
    pub(super) fn live(&self) -> u32 {
        self.tags.iter().map(|row| row.live).sum()
    }
}

#[inline]
fn key(address: u64, size: PageSize) -> u64 {
    size.base(address) >> 12 | (size as u64) << 60
}
