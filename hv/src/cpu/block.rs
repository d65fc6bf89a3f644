//! Decoded blocks: runs of instructions within one physical page.
//!
//! A block is found by the physical address of its first byte and the mode it was decoded in, so it serves every
//! mapping of its page, and is dropped when its bytes are written. Blocks of one page link to each other; pages are
//! dropped whole, so a link never outlives what it leads to.

use super::decode::{Decoded, Mode, decode};
use super::op::{self, Op};
use super::ops::fused::fuse;
use crate::memory::Memory;
use hv_defs::addr::{Hpa, PAGE_SIZE};
use std::collections::BTreeMap;

/// No block.
pub(super) const NONE: u32 = u32::MAX;
/// Instructions in a block, at most.
const LONGEST: u16 = 64;
/// Blocks kept; when there are more, all are dropped.
const MOST: usize = 1 << 17;
/// Entries of the table in front of the map.
const FRONT: usize = 1 << 14;

/// A run of instructions.
pub(super) struct Block {
    /// Its instructions, and an op that ends it.
    pub(super) ops: Box<[Op]>,
    /// How many instructions it has.
    pub(super) count: u64,
    /// Where it goes on, when the branch at its end is taken and when it is not, if that is in the same page and known.
    pub(super) links: [u32; 2],
    /// Its bytes.
    pub(super) bytes: u64,
    key: u64,
}

/// What is decoded of a page.
#[derive(Default)]
struct Page {
    blocks: Vec<u32>,
    /// The 64-byte chunks whose bytes were decoded, a bit each.
    chunks: u64,
}

/// All decoded blocks of a machine.
pub struct Blocks {
    pub(super) list: Vec<Block>,
    free: Vec<u32>,
    by_key: BTreeMap<u64, u32>,
    front: Box<[(u64, u32)]>,
    pages: BTreeMap<u64, Page>,
    /// Instructions that cross a page's end, by their bytes.
    crossing: BTreeMap<(u8, [u8; 15]), Op>,
}

impl Default for Blocks {
    fn default() -> Self {
        Self::new()
    }
}

impl core::fmt::Debug for Blocks {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Blocks").field("blocks", &self.by_key.len()).field("pages", &self.pages.len()).finish()
    }
}

fn key(at: Hpa, mode: Mode) -> u64 {
    at.0 << 2 | mode as u64
}

#[inline(always)]
fn slot(key: u64) -> usize {
    (key ^ key >> 14) as usize & (FRONT - 1)
}

impl Blocks {
    /// No blocks.
    pub fn new() -> Self {
        Self {
            list: Vec::new(),
            free: Vec::new(),
            by_key: BTreeMap::new(),
            front: vec![(u64::MAX, NONE); FRONT].into_boxed_slice(),
            pages: BTreeMap::new(),
            crossing: BTreeMap::new(),
        }
    }

    /// The block at `at`, decoded if need be; [`NONE`] when its first instruction does not lie in one page.
    #[inline(always)]
    pub(super) fn get(&mut self, memory: &mut Memory, at: Hpa, mode: Mode) -> u32 {
        let key = key(at, mode);
        let (found, id) = self.front[slot(key)];
        if found == key { id } else { self.get_slow(memory, at, mode, key) }
    }

    #[cold]
    fn get_slow(&mut self, memory: &mut Memory, at: Hpa, mode: Mode, key: u64) -> u32 {
        let id = match self.by_key.get(&key) {
            Some(&id) => id,
            None => match self.build(memory, at, mode, key) {
                Some(id) => id,
                None => return NONE,
            },
        };
        self.front[slot(key)] = (key, id);
        id
    }

    fn build(&mut self, memory: &mut Memory, at: Hpa, mode: Mode, key: u64) -> Option<u32> {
        let mut page = [0; PAGE_SIZE as usize];
        let bytes = &mut page[at.page_offset() as usize..];
        super::access::read_bytes(memory, at, bytes);
        let mut ops = Vec::new();
        let (mut offset, mut count, mut ended) = (0u16, 0u16, false);
        while !ended && count < LONGEST {
            let rest = &bytes[usize::from(offset)..];
            match decode(&rest[..rest.len().min(15)], mode, offset, count) {
                Decoded::Short => break,
                Decoded::Op(op, ends) => {
                    ops.push(op);
                    offset += u16::from(op.len);
                    count += 1;
                    ended = ends;
                }
            }
        }
        if count == 0 {
            return None;
        }
        fuse(&mut ops);
        ops.push(op::end(offset, count));
        if self.by_key.len() >= MOST {
            self.clear(memory);
        }
        let block = Block {
            ops: ops.into_boxed_slice(),
            count: u64::from(count),
            links: [NONE; 2],
            bytes: u64::from(offset),
            key,
        };
        let id = match self.free.pop() {
            Some(id) => {
                self.list[id as usize] = block;
                id
            }
            None => {
                self.list.push(block);
                (self.list.len() - 1) as u32
            }
        };
        self.by_key.insert(key, id);
        let first = at.page_offset() / 64;
        let last = (at.page_offset() + u64::from(offset).max(1) - 1) / 64;
        let decoded = self.pages.entry(at.page().0).or_default();
        decoded.blocks.push(id);
        decoded.chunks |= u64::MAX >> (63 - last) & u64::MAX << first;
        memory.set_code(at);
        Some(id)
    }

    /// Drops the blocks of every page.
    fn clear(&mut self, memory: &mut Memory) {
        let pages: Vec<u64> = self.pages.keys().copied().collect();
        for page in pages {
            self.drop_page(memory, Hpa(page));
        }
    }

    /// Whether `to` may be linked to from `from`: they lie in one page, and so do the linear addresses, since `rip`, at
    /// `to`, has the offset in its page that `to` has.
    pub(super) fn linkable(&self, from: u32, to: u32) -> bool {
        self.list[from as usize].key >> 14 == self.list[to as usize].key >> 14
    }

    /// Drops what was decoded of pages that were written to behind the CPU's back.
    pub fn follow(&mut self, memory: &mut Memory) {
        if memory.code_was_written() {
            for page in memory.take_code_written() {
                self.drop_page(memory, Hpa(u64::from(page) * PAGE_SIZE));
            }
        }
    }

    /// Drops the blocks of the page of `at`.
    pub fn drop_page(&mut self, memory: &mut Memory, at: Hpa) {
        memory.clear_code(at);
        for id in self.pages.remove(&at.page().0).unwrap_or_default().blocks {
            let block = &mut self.list[id as usize];
            let key = block.key;
            block.ops = Box::new([]);
            block.links = [NONE; 2];
            self.by_key.remove(&key);
            let front = &mut self.front[slot(key)];
            if front.0 == key {
                *front = (u64::MAX, NONE);
            }
            self.free.push(id);
        }
    }

    /// Bytes in the page of `at` are about to be written: drops the page's blocks if any is made of them. Some 16 bytes
    /// from `at` on count as written.
    pub fn written(&mut self, memory: &mut Memory, at: Hpa, bytes: u64) {
        let Some(page) = self.pages.get(&at.page().0) else { return };
        let first = at.page_offset() / 64;
        let last = ((at.page_offset() + bytes.max(1) - 1) / 64).min(63);
        if page.chunks & (u64::MAX >> (63 - last) & u64::MAX << first) != 0 {
            self.drop_page(memory, at);
        }
    }

    /// The instruction that these bytes are, which lie in two pages.
    pub(super) fn crossing(&mut self, bytes: &[u8; 15], available: usize, mode: Mode) -> Option<Op> {
        let key = (mode as u8, *bytes);
        if available == 15
            && let Some(op) = self.crossing.get(&key)
        {
            return Some(*op);
        }
        match decode(&bytes[..available], mode, 0, 0) {
            Decoded::Op(op, _) => {
                if self.crossing.len() > 4096 {
                    self.crossing.clear();
                }
                if available == 15 {
                    self.crossing.insert(key, op);
                }
                Some(op)
            }
            Decoded::Short => None,
        }
    }
}
