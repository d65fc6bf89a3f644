//! Memory slots: which guest-physical pages a virtual machine has, and where they lie.

use hv_defs::addr::Hpa;
use std::collections::BTreeMap;

/// A run of guest-physical addresses that lie behind one another.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Slot {
    /// KVM's number for it.
    pub(super) number: u32,
    /// Bytes.
    pub(super) bytes: u64,
    /// Where the first byte lies.
    pub(super) at: Hpa,
}

/// The slots of a virtual machine, by their first guest-physical address.
#[derive(Debug)]
pub(super) struct Slots {
    by_gpa: BTreeMap<u64, Slot>,
    free: Vec<u32>,
    used: u32,
    most: u32,
}

impl Slots {
    /// None yet, of at most `most`.
    pub(super) fn new(most: u32) -> Self {
        Self { by_gpa: BTreeMap::new(), free: Vec::new(), used: 0, most }
    }

    /// The slot that an address lies in, and where it begins.
    pub(super) fn find(&self, gpa: u64) -> Option<(u64, Slot)> {
        let (&first, &slot) = self.by_gpa.range(..=gpa).next_back()?;
        (gpa - first < slot.bytes).then_some((first, slot))
    }

    /// How far from `gpa`, which lies in none, it is to the next slot behind.
    pub(super) fn room_behind(&self, gpa: u64) -> u64 {
        self.by_gpa.range(gpa..).next().map_or(u64::MAX, |(&first, _)| first) - gpa
    }

    /// Where the last slot before `gpa`, which lies in none, ends.
    pub(super) fn end_before(&self, gpa: u64) -> u64 {
        self.by_gpa.range(..gpa).next_back().map_or(0, |(&first, slot)| first + slot.bytes)
    }

    /// A number for a new slot; `None` when there are as many as there may be.
    pub(super) fn number(&mut self) -> Option<u32> {
        self.free.pop().or_else(|| {
            let number = self.used;
            (number < self.most).then(|| {
                self.used += 1;
                number
            })
        })
    }

    pub(super) fn insert(&mut self, gpa: u64, slot: Slot) {
        self.by_gpa.insert(gpa, slot);
    }

    pub(super) fn remove(&mut self, gpa: u64) -> Option<Slot> {
        let slot = self.by_gpa.remove(&gpa)?;
        self.free.push(slot.number);
        Some(slot)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, Slot)> + '_ {
        self.by_gpa.iter().map(|(&gpa, &slot)| (gpa, slot))
    }
}
