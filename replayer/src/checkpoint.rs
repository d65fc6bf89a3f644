//! Checkpoints in memory: states of the machine that a cursor can go back to, each with the pages that are not as at the
//! start.
//!
//! The contents of a page are kept once, however many checkpoints have it, and so is the table of a stretch of pages. When
//! they take more memory than they may, those are given up that are close to others and far from where the last one was
//! taken: near it they stay dense, and far from it they stay spread over the run.

use crate::recorded::Progress;
use hv::machine::Machine;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A page's contents, by what they are: its number and the digest of its bytes.
type Contents = BTreeMap<(u32, u64), Arc<[u8]>>;

/// Digests of a stretch of pages.
type Stretch = Arc<[u64]>;

/// Pages of a stretch.
const STRETCH: usize = 512;

/// A state to go back to.
#[derive(Clone, Debug)]
pub(crate) struct Checkpoint {
    /// Where the comparison stood.
    pub(crate) progress: Progress,
    /// Instructions retired. More than one checkpoint may be at one instruction, in the order of their events.
    pub(crate) instruction: u64,
    /// All but memory.
    state: Vec<u8>,
    /// What the pages hold.
    pages: Vec<Stretch>,
}

/// The checkpoints of a run, in its order.
#[derive(Debug)]
pub(crate) struct Checkpoints {
    list: Vec<Checkpoint>,
    contents: Contents,
    /// The digests of the pages at the start.
    first: Vec<Stretch>,
    /// Those at the checkpoint that was taken or gone to last.
    last: Vec<Stretch>,
    /// The most bytes that may be kept.
    most: usize,
    bytes: usize,
}

const PAGE: usize = 4096;
/// How near is near, in instructions.
const NEAR: u64 = 1 << 23;

impl Checkpoints {
    /// None yet, of a machine that has run nothing. At most `most` bytes are kept, but for the first and the last checkpoint.
    pub(crate) fn new(machine: &mut Machine, most: usize) -> Self {
        let first: Vec<Stretch> = machine.page_digests().chunks(STRETCH).map(Arc::from).collect();
        Self { list: Vec::new(), contents: Contents::new(), last: first.clone(), first, most, bytes: 0 }
    }

    /// The instruction of the last one at or before `instruction`; 0 where there is none.
    pub(crate) fn before(&self, instruction: u64) -> u64 {
        let found = self.find(|checkpoint| checkpoint.instruction <= instruction);
        found.map_or(0, |number| self.list[number].instruction)
    }

    /// Takes one of a machine.
    pub(crate) fn take(&mut self, machine: &mut Machine, progress: Progress) {
        let now = machine.page_digests().to_vec();
        let mut pages = Vec::with_capacity(self.first.len());
        for (at, now) in now.chunks(STRETCH).enumerate() {
            if *self.last[at] == *now {
                pages.push(self.last[at].clone());
                continue;
            }
            for (page, (&digest, &first)) in (at * STRETCH..).zip(now.iter().zip(&*self.first[at])) {
                let place = (page as u32, digest);
                if digest != 0
                    && digest != first
                    && !self.contents.contains_key(&place)
                    && let Some(bytes) = machine.page(page)
                {
                    self.contents.insert(place, bytes.into());
                    self.bytes += PAGE;
                }
            }
            self.bytes += size_of_val(now);
            pages.push(now.into());
        }
        self.last.clone_from(&pages);
        let taken = Checkpoint { instruction: machine.now(), state: machine.save(), progress, pages };
        self.bytes += taken.state.len();
        let place = (taken.instruction, taken.progress.events);
        let at = self.list.partition_point(|other| (other.instruction, other.progress.events) <= place);
        self.list.insert(at, taken);
        while self.bytes > self.most && self.list.len() > 2 {
            self.thin(place.0);
        }
    }

    /// Gives up some checkpoints, but not the first and the last, and the pages that only they had.
    fn thin(&mut self, here: u64) {
        for _ in 0..self.list.len().div_ceil(8) {
            // The less a checkpoint shortens the ways around it, beside how far they are from here, the sooner it goes.
            let worth = |&at: &usize| {
                let place = |at: usize| self.list[at].instruction;
                let way = u128::from(place(at + 1) - place(at - 1));
                (way << 32) / u128::from(place(at).abs_diff(here) + NEAR)
            };
            let Some(least) = (1..self.list.len() - 1).min_by_key(worth) else { break };
            self.list.remove(least);
        }
        self.count();
    }

    /// Gives up the checkpoints that `keep` does not name, but the first, and the pages that only they had.
    pub(crate) fn retain(&mut self, keep: impl Fn(&Checkpoint) -> bool) {
        let mut at = 0;
        self.list.retain(|checkpoint| {
            at += 1;
            at == 1 || keep(checkpoint)
        });
        self.count();
    }

    /// Drops what no checkpoint has any more, and counts what is left.
    fn count(&mut self) {
        let mut seen = BTreeSet::new();
        let mut used = BTreeSet::new();
        for (at, pages) in self.list.iter().flat_map(|kept| kept.pages.iter().enumerate()) {
            if seen.insert(Arc::as_ptr(pages).cast::<u64>()) {
                used.extend((at * STRETCH..).zip(&**pages).map(|(page, digest)| (page as u32, *digest)));
            }
        }
        self.contents.retain(|place, _| used.contains(place));
        let states: usize = self.list.iter().map(|kept| kept.state.len()).sum();
        self.bytes = self.contents.len() * PAGE + seen.len() * STRETCH * size_of::<u64>() + states;
    }

    /// The last checkpoint of which `early` says that it is early enough; checkpoints are asked for in order.
    pub(crate) fn find(&self, early: impl Fn(&Checkpoint) -> bool) -> Option<usize> {
        self.list.partition_point(early).checked_sub(1)
    }

    /// The checkpoint of that number.
    pub(crate) fn get(&self, number: usize) -> Option<&Checkpoint> {
        self.list.get(number)
    }

    /// Brings a machine of the same configuration to a checkpoint, and says where the comparison stood; `None` where there
    /// is no such checkpoint, or it is not this machine's. `initial` gives the pages that a machine has at the start.
    pub(crate) fn restore(
        &mut self,
        number: usize,
        machine: &mut Machine,
        initial: impl Fn(u32) -> Option<Arc<[u8]>>,
    ) -> Option<Progress> {
        let checkpoint = self.list.get(number)?;
        let now = machine.page_digests().to_vec();
        for (at, (now, wanted)) in now.chunks(STRETCH).zip(&checkpoint.pages).enumerate() {
            if *now == **wanted {
                continue;
            }
            for (page, (now, &digest)) in (at * STRETCH..).zip(now.iter().zip(&**wanted)) {
                if digest == *now {
                    continue;
                }
                let place = (page as u32, digest);
                let bytes = match digest {
                    0 => Some(Arc::from([0; PAGE].as_slice())),
                    _ => self.contents.get(&place).cloned().or_else(|| initial(page as u32)),
                };
                if !machine.set_page(page, &bytes?) {
                    return None;
                }
            }
        }
        machine.restore(&checkpoint.state).ok()?;
        self.last.clone_from(&checkpoint.pages);
        Some(checkpoint.progress.clone())
    }
}
