//! Decoded blocks: runs of instructions within one physical page.
//!
//! A block is found by the physical address of its first byte and the mode it was decoded in, so it serves every
//! mapping of its page, and is dropped when its bytes are written. Blocks of one page link to each other; pages are
//! dropped whole, so a link never outlives what it leads to.

use super::chain::Rows;
use super::decode::{Decoded, Mode, Whole, decode};
use super::op::{Flow, Op};
use super::ops::fused::{Part, fuse};
use super::state::{Cpu, Halt};
use crate::memory::Memory;
use hv_defs::addr::{Hpa, PAGE_SIZE};
use std::collections::BTreeMap;

/// No block: where there never is one.
pub(super) const NONE: u32 = 0;
/// Instructions in a block, at most.
const LONGEST: u8 = 64;
/// Ops kept; when there are more, all blocks are dropped.
const MOST: usize = 1 << 21;
/// Entries of the table of recent blocks.
const RECENT: usize = 1 << 15;
/// The key of no block.
const NOTHING: u64 = u64::MAX;

/// A block as it is kept: an op that heads its row. Its number is that op's index, and its instructions' ops follow,
/// then an end. Behind that is the comparison by itself, where it is fused with the branch, and an end of its own.
#[derive(Clone, Copy)]
pub(super) struct Head<'a>(&'a Op);

impl Head<'_> {
    fn op(key: u64, count: u8, bytes: u16, ops: usize, fused: bool) -> Op {
        Op { disp: key, extra: ops as u32, reg: fused.into(), parts: 0, ..Op::end(bytes, count) }
    }

    /// How many instructions it has.
    #[inline(always)]
    pub(super) fn count(self) -> u64 {
        self.0.before.into()
    }

    /// Its bytes.
    #[inline(always)]
    pub(super) fn bytes(self) -> u64 {
        self.0.offset.into()
    }

    #[inline(always)]
    fn key(self) -> u64 {
        self.0.disp
    }

    /// Ops in all, the head included.
    fn ops(self) -> usize {
        self.0.extra as usize
    }

    fn fused(self) -> bool {
        self.0.reg != 0
    }
}

/// Where a block was left.
pub(super) struct Left {
    op: u32,
    page: u64,
    dropped: u64,
}

/// What is decoded of a page.
#[derive(Default)]
struct Page {
    blocks: Vec<u32>,
    /// The 64-byte chunks whose bytes were decoded, a bit each.
    chunks: u64,
    /// The keys of instructions that go on in another page.
    short: Vec<u64>,
}

/// All decoded blocks of a machine.
pub struct Blocks {
    rows: Rows,
    /// Where rows of as many ops as the index were dropped.
    free: Vec<Vec<u32>>,
    /// How often blocks were dropped.
    dropped: u64,
    /// Blocks by their keys; [`NONE`] for an instruction that goes on in another page.
    by_key: BTreeMap<u64, u32>,
    /// Blocks by the linear addresses that they were lately run at. What is found here may be another's.
    recent: Box<[u32; RECENT]>,
    pages: BTreeMap<u64, Page>,
    /// Instructions that cross a page's end, by their bytes: each a row.
    crossing: BTreeMap<(u8, [u8; 15]), Vec<Op>>,
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
fn slot(linear: u64) -> usize {
    (linear ^ linear >> 15) as usize % RECENT
}

impl Blocks {
    /// No blocks.
    pub fn new() -> Self {
        Self {
            rows: Self::no_rows(),
            free: Vec::new(),
            dropped: 0,
            by_key: BTreeMap::new(),
            recent: Box::new([NONE; RECENT]),
            pages: BTreeMap::new(),
            crossing: BTreeMap::new(),
        }
    }

    fn no_rows() -> Rows {
        let mut rows = Rows::new();
        rows.put(NONE, &[Head::op(NOTHING, 0, 0, 1, false)]);
        rows
    }

    /// A block.
    #[inline(always)]
    pub(super) fn head(&self, id: u32) -> Head<'_> {
        Head(self.rows.op(id))
    }

    /// Runs a block.
    #[inline(always)]
    pub(super) fn run(&self, cpu: &mut Cpu, memory: &mut Memory, id: u32) -> Result<Flow, Halt> {
        self.rows.run(cpu, memory, id + 1)
    }

    /// The ops of a block's first `count` instructions, one by one even where two are fused, and an end.
    pub(super) fn first(&self, id: u32, count: u64) -> Vec<Op> {
        let ops = self.rows.from(id + 1);
        let mut row: Vec<Op> = ops.iter().take_while(|op| u64::from(op.before) < count).copied().collect();
        let head = self.head(id);
        if let Some(last) = row.last_mut() {
            if head.fused() && count + 1 == head.count() {
                // Behind the head, the row and its end.
                *last = *self.rows.op(id + head.ops() as u32 - 2);
            }
            if last.has(Op::DIRECT) {
                last.disp = 0;
            }
            let (end, before) = (last.offset + u16::from(last.len), last.before + 1);
            row.push(Op::end(end, before));
        }
        row
    }

    /// The block at `at`, decoded if need be; [`NONE`] when its first instruction does not lie in one page. `linear` is
    /// where it is run.
    #[inline(always)]
    pub(super) fn get(&mut self, memory: &mut Memory, at: Hpa, mode: Mode, linear: u64) -> u32 {
        let key = key(at, mode);
        let id = self.recent[slot(linear)];
        if self.head(id).key() == key { id } else { self.get_slow(memory, at, mode, linear) }
    }

    #[cold]
    #[inline(never)]
    fn get_slow(&mut self, memory: &mut Memory, at: Hpa, mode: Mode, linear: u64) -> u32 {
        let key = key(at, mode);
        let id = match self.by_key.get(&key) {
            Some(&id) => id,
            None => match self.build(memory, at, mode, key) {
                Some(id) => id,
                None => return NONE,
            },
        };
        if id != NONE {
            self.recent[slot(linear)] = id;
        }
        id
    }

    fn build(&mut self, memory: &mut Memory, at: Hpa, mode: Mode, key: u64) -> Option<u32> {
        let mut page = [0; PAGE_SIZE as usize];
        let bytes = &mut page[at.page_offset() as usize..];
        super::access::read_bytes(memory, at, bytes);
        let mut ops = vec![Op::BLANK];
        let mut parts = [Part::None; 2];
        let (mut offset, mut count, mut ended) = (0u16, 0u8, false);
        while !ended && count < LONGEST {
            let rest = &bytes[usize::from(offset)..];
            match decode(&rest[..rest.len().min(15)], mode, offset, count) {
                Decoded::Short => break,
                Decoded::Op(Whole { guard, op, part, ends }) => {
                    ops.extend(guard);
                    ops.push(op);
                    offset += u16::from(op.len);
                    count += 1;
                    parts = [parts[1], part];
                    ended = ends;
                }
            }
        }
        if count == 0 {
            self.by_key.insert(key, NONE);
            let page = self.pages.entry(at.page().0).or_default();
            page.short.push(key);
            page.chunks |= 1 << 63;
            memory.set_code(at);
            return None;
        }
        let mut alone = None;
        if let [.., compare, branch] = &mut ops[..]
            && let Some(fused) = fuse(compare, branch, parts)
        {
            alone = Some(*compare);
            *compare = fused;
        }
        ops.push(Op::end(offset, count));
        if let Some(compare) = alone {
            ops.extend([compare, Op::BLANK]);
        }
        ops[0] = Head::op(key, count, offset, ops.len(), alone.is_some());
        if self.rows.len() + ops.len() > MOST {
            self.clear(memory);
        }
        let free = self.free.get_mut(ops.len()).and_then(Vec::pop);
        let id = free.unwrap_or(self.rows.len() as u32);
        self.rows.put(id, &ops);
        self.by_key.insert(key, id);
        let first = at.page_offset() / 64;
        let last = (at.page_offset() + u64::from(offset).max(1) - 1) / 64;
        let decoded = self.pages.entry(at.page().0).or_default();
        decoded.blocks.push(id);
        decoded.chunks |= u64::MAX >> (63 - last) & u64::MAX << first;
        memory.set_code(at);
        Some(id)
    }

    /// The block that is known to follow where `cpu` left the last one.
    #[inline(always)]
    pub(super) fn follower(&self, cpu: &Cpu, flow: Flow) -> u32 {
        self.rows.follower(self.rows.left(cpu), flow).unwrap_or(NONE)
    }

    /// Where `cpu` left the last block, which lies in the page of `from`, a block.
    pub(super) fn left(&self, cpu: &Cpu, from: u32) -> Left {
        Left { op: self.rows.left(cpu), page: self.head(from).key() >> 14, dropped: self.dropped }
    }

    /// From now on `to` is known to follow, if it is a block of the same page, and if nothing was dropped since. The
    /// linear addresses, too, are to be of one page.
    pub(super) fn link(&mut self, left: &Left, flow: Flow, to: u32) {
        if to != NONE && self.dropped == left.dropped && self.head(to).key() >> 14 == left.page {
            self.rows.link(left.op, flow, to);
        }
    }

    /// Drops the blocks of every page.
    fn clear(&mut self, memory: &mut Memory) {
        let pages: Vec<u64> = self.pages.keys().copied().collect();
        for page in pages {
            self.drop_page(memory, Hpa(page));
        }
        self.rows = Self::no_rows();
        self.free.clear();
        self.recent.fill(NONE);
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
        self.dropped += 1;
        let page = self.pages.remove(&at.page().0).unwrap_or_default();
        for key in page.short {
            self.by_key.remove(&key);
        }
        for id in page.blocks {
            let (key, ops) = (self.head(id).key(), self.head(id).ops());
            self.rows.set_key(id, NOTHING);
            self.by_key.remove(&key);
            if self.free.len() <= ops {
                self.free.resize(ops + 1, Vec::new());
            }
            self.free[ops].push(id);
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

    /// The row of the instruction that these bytes are, which lie in two pages; `None` when it wants more bytes.
    pub(super) fn crossing(&mut self, bytes: &[u8; 15], available: usize, mode: Mode) -> Option<Vec<Op>> {
        let key = (mode as u8, *bytes);
        if available == 15
            && let Some(row) = self.crossing.get(&key)
        {
            return Some(row.clone());
        }
        match decode(&bytes[..available], mode, 0, 0) {
            Decoded::Op(Whole { guard, op, .. }) => {
                let row: Vec<Op> = guard.into_iter().chain([op, Op::end(op.len.into(), 1)]).collect();
                if self.crossing.len() > 4096 {
                    self.crossing.clear();
                }
                if available == 15 {
                    self.crossing.insert(key, row.clone());
                }
                Some(row)
            }
            Decoded::Short => None,
        }
    }
}
