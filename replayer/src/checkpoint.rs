//! Checkpoints in memory: states of the machine that a cursor can go back to, each with the pages that are not as at the
//! start.
//!
//! The contents of a page are kept once, however many checkpoints have it. When they take more memory than they may, every
//! other one is given up, so that they stay spread over the run.

use crate::recorded::Progress;
use hv::machine::Machine;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A page's contents, by what they are: its number and the digest of its bytes.
type Contents = BTreeMap<(u32, u64), Arc<[u8]>>;

/// A state to go back to.
#[derive(Clone, Debug)]
pub(crate) struct Checkpoint {
    /// Where the comparison stood.
    pub(crate) progress: Progress,
    /// Instructions retired. More than one checkpoint may be at one instruction, in the order of their events.
    pub(crate) instruction: u64,
    /// All but memory.
    state: Vec<u8>,
    /// Pages that differ from the start, by number, with their digests.
    pages: Vec<(u32, u64)>,
}

impl Checkpoint {
    fn bytes(&self) -> usize {
        self.state.len() + self.pages.len() * size_of::<(u32, u64)>()
    }
}

/// The checkpoints of a run, in its order.
#[derive(Debug)]
pub(crate) struct Checkpoints {
    list: Vec<Checkpoint>,
    contents: Contents,
    /// The digests of the pages at the start.
    first: Vec<u64>,
    /// The most bytes that may be kept.
    most: usize,
    bytes: usize,
}

const PAGE: usize = 4096;

impl Checkpoints {
    /// None yet, of a machine that has run nothing. At most `most` bytes are kept, but for the first and the last checkpoint.
    pub(crate) fn new(machine: &mut Machine, most: usize) -> Self {
        let first = machine.page_digests().to_vec();
        Self { list: Vec::new(), contents: Contents::new(), first, most, bytes: 0 }
    }

    /// The instruction of the last one at or before `instruction`; 0 where there is none.
    pub(crate) fn before(&self, instruction: u64) -> u64 {
        let found = self.find(|checkpoint| checkpoint.instruction <= instruction);
        found.map_or(0, |number| self.list[number].instruction)
    }

    /// Takes one of a machine.
    pub(crate) fn take(&mut self, machine: &mut Machine, progress: Progress) {
        let now = machine.page_digests().to_vec();
        let differs = self.first.iter().zip(&now).enumerate().filter(|(_, (first, now))| first != now);
        let pages: Vec<(u32, u64)> = differs.map(|(page, (_, now))| (page as u32, *now)).collect();
        for &(page, digest) in &pages {
            if digest != 0
                && !self.contents.contains_key(&(page, digest))
                && let Some(bytes) = machine.page(page as usize)
            {
                self.contents.insert((page, digest), bytes.into());
                self.bytes += PAGE;
            }
        }
        let taken = Checkpoint { instruction: machine.now(), state: machine.save(), progress, pages };
        self.bytes += taken.bytes();
        let place = (taken.instruction, taken.progress.events);
        let at = self.list.partition_point(|other| (other.instruction, other.progress.events) <= place);
        self.list.insert(at, taken);
        while self.bytes > self.most && self.list.len() > 2 {
            self.thin();
        }
    }

    /// Gives up every other checkpoint but the first and the last, and the pages that only they had.
    fn thin(&mut self) {
        let count = self.list.len();
        let mut at = 0;
        self.list.retain(|_| {
            at += 1;
            at % 2 == 1 || at == count
        });
        let used: BTreeSet<(u32, u64)> = self.list.iter().flat_map(|kept| kept.pages.iter().copied()).collect();
        self.contents.retain(|place, _| used.contains(place));
        self.bytes = self.contents.len() * PAGE + self.list.iter().map(Checkpoint::bytes).sum::<usize>();
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
        &self,
        number: usize,
        machine: &mut Machine,
        initial: impl Fn(u32) -> Option<Arc<[u8]>>,
    ) -> Option<Progress> {
        let checkpoint = self.list.get(number)?;
        let mut wanted = self.first.clone();
        for &(page, digest) in &checkpoint.pages {
            wanted[page as usize] = digest;
        }
        let now = machine.page_digests().to_vec();
        for ((page, now), digest) in (0_u32..).zip(now).zip(wanted) {
            if digest == now {
                continue;
            }
            let bytes = match digest {
                0 => Some(Arc::from([0; PAGE].as_slice())),
                _ => self.contents.get(&(page, digest)).cloned().or_else(|| initial(page)),
            };
            if !machine.set_page(page as usize, &bytes?) {
                return None;
            }
        }
        machine.restore(&checkpoint.state).ok()?;
        Some(checkpoint.progress.clone())
    }
}
