//! Page frames of L0's own memory.

use super::L0_MEMORY;
use hv_defs::addr::{Hpa, PAGE_SIZE};
use serde::{Deserialize, Serialize};

/// Frames in L0's memory.
pub(super) const FRAMES: usize = (L0_MEMORY / PAGE_SIZE) as usize;

/// Which frames are in use. Frame 0 never is, so that address 0 can mean none.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Frames {
    next: usize,
    free: Vec<Hpa>,
    /// Frames that held paging structures which a CPU may still have cached: not to be used before an INVEPT.
    retired: Vec<Hpa>,
}

impl Frames {
    pub(super) fn new() -> Self {
        Self { next: 1, free: Vec::new(), retired: Vec::new() }
    }

    /// A frame, whatever it holds; `None` when all are in use or retired.
    pub(super) fn take(&mut self) -> Option<Hpa> {
        if let Some(frame) = self.free.pop() {
            return Some(frame);
        }
        if self.next == FRAMES {
            return None;
        }
        self.next += 1;
        Some(Hpa((self.next - 1) as u64 * PAGE_SIZE))
    }

    /// Gives up a frame that held a paging structure.
    pub(super) fn retire(&mut self, frame: Hpa) {
        self.retired.push(frame);
    }

    /// Whether any frame waits for an INVEPT.
    pub(super) fn any_retired(&self) -> bool {
        !self.retired.is_empty()
    }

    /// Every CPU has dropped what it cached of the retired frames.
    pub(super) fn release_retired(&mut self) {
        self.free.append(&mut self.retired);
    }

    /// How many can be taken now.
    pub(super) fn left(&self) -> usize {
        self.free.len() + FRAMES - self.next
    }
}

/// The frame's number.
pub(super) const fn number(frame: Hpa) -> usize {
    (frame.0 / PAGE_SIZE) as usize
}
