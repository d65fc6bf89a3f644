//! Checkpoints: states of the machine that a cursor can go back to, each with the pages that changed since the one before.
//!
//! The contents of a page are kept once, however many checkpoints have it. When they take more memory than they may, every
//! other one is given up, so that they stay spread over the run.

use crate::recorded::Progress;
use hv::machine::Machine;
use std::collections::BTreeMap;
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
    pub(crate) state: Vec<u8>,
    /// Pages that differ from the checkpoint before, by number, with their digests.
    changed: Vec<(u32, u64)>,
}

/// The checkpoints of a run, in its order.
#[derive(Debug)]
pub(crate) struct Checkpoints {
    list: Vec<Checkpoint>,
    contents: Contents,
    /// The digests of the pages before the first checkpoint, and at the last.
    first: Vec<u64>,
    last: Vec<u64>,
    /// The most bytes that may be kept.
    most: usize,
    bytes: usize,
}

const PAGE: usize = 4096;

impl Checkpoints {
    /// None yet, of a machine that has run nothing. At most `most` bytes are kept, but for the first checkpoint.
    pub(crate) fn new(machine: &mut Machine, most: usize) -> Self {
        let first = machine.page_digests().to_vec();
        Self { list: Vec::new(), contents: Contents::new(), last: first.clone(), first, most, bytes: 0 }
    }

    /// The instruction of the last one.
    pub(crate) fn end(&self) -> Option<u64> {
        self.list.last().map(|last| last.instruction)
    }

    /// Takes one of a machine that has come further than the last.
    pub(crate) fn take(&mut self, machine: &mut Machine, progress: Progress) {
        let now = machine.page_digests().to_vec();
        let differs = self.last.iter().zip(&now).enumerate().filter(|(_, (before, now))| before != now);
        let changed: Vec<(u32, u64)> = differs.map(|(page, (_, now))| (page as u32, *now)).collect();
        // What a page held at the start is to be had again, though no checkpoint has it.
        for &(page, digest) in &changed {
            if digest != 0
                && !self.contents.contains_key(&(page, digest))
                && let Some(bytes) = machine.page(page as usize)
            {
                self.contents.insert((page, digest), bytes.into());
                self.bytes += PAGE;
            }
        }
        let state = machine.save();
        self.bytes += state.len() + changed.len() * size_of::<(u32, u64)>();
        self.list.push(Checkpoint { progress, instruction: machine.now(), state, changed });
        self.last = now;
        while self.bytes > self.most && self.list.len() > 2 {
            self.thin();
        }
    }

    /// Gives up every other checkpoint but the first and the last, and the pages that only they had.
    fn thin(&mut self) {
        let (mut kept, mut passed): (Vec<Checkpoint>, BTreeMap<u32, u64>) = (Vec::new(), BTreeMap::new());
        let count = self.list.len();
        for (at, mut checkpoint) in std::mem::take(&mut self.list).into_iter().enumerate() {
            if at % 2 == 1 && at + 1 < count {
                passed.extend(checkpoint.changed);
                continue;
            }
            if !passed.is_empty() {
                passed.extend(checkpoint.changed);
                checkpoint.changed = std::mem::take(&mut passed).into_iter().collect();
            }
            kept.push(checkpoint);
        }
        self.list = kept;
        let used: std::collections::BTreeSet<(u32, u64)> =
            self.list.iter().flat_map(|checkpoint| checkpoint.changed.iter().copied()).collect();
        self.contents.retain(|place, _| used.contains(place));
        let states: usize = self.list.iter().map(|kept| kept.state.len() + kept.changed.len() * 16).sum();
        self.bytes = self.contents.len() * PAGE + states;
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
        let mut wanted: BTreeMap<u32, u64> = BTreeMap::new();
        for earlier in &self.list[..=number] {
            wanted.extend(earlier.changed.iter().copied());
        }
        let now = machine.page_digests().to_vec();
        for (page, now) in (0_u32..).zip(now) {
            let digest = wanted.get(&page).copied().unwrap_or(self.first[page as usize]);
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
