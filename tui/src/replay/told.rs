//! What the events alone tell of what a machine keeps: the vmcs02 pool, the VPID map, flushes, registers.
//!
//! As for VMCSs, stretches of events that follow one another can be put together.

use hv_defs::event::{Event, Flush, FlushKind, Pool, PoolOp, Registers, Vpid, VpidOp, What};
use hv_defs::policy::PoolRecycle;
use std::collections::BTreeMap;

/// A place of a pool.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Slot {
    /// The vmcs12 that it is for; `None` when it was freed.
    pub(crate) vmcs12: Option<u64>,
    /// The event that used it last.
    pub(crate) used: u64,
    /// The event that gave it to that vmcs12, if one is known.
    pub(crate) taken: Option<u64>,
}

/// What a vpid02 stands for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Mapped {
    /// The vpid12; `None` when it was given back.
    pub(crate) vpid12: Option<u16>,
    /// The event that used it last.
    pub(crate) used: u64,
}

/// Flushes alike: of one CPU, one kind, one VPID or EPT pointer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Flushes {
    /// How many there were.
    pub(crate) count: u64,
    /// Entries that they dropped.
    pub(crate) dropped: u64,
    /// The last.
    pub(crate) last: u64,
}

/// What flushes have in common: the CPU, the kind, the VPID, the EPT pointer.
pub(crate) type FlushKey = (u16, FlushKind, u16, u64);

/// What a stretch of events says.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Kept {
    /// By vCPU and slot.
    pool: BTreeMap<(u16, u16), Slot>,
    /// By vCPU and vpid02.
    vpids: BTreeMap<(u16, u16), Mapped>,
    pub(crate) flushes: BTreeMap<FlushKey, Flushes>,
    /// By vCPU: the general registers that a guest left at an exit, and the event that says so.
    registers: BTreeMap<u16, (u64, Registers)>,
}

impl Kept {
    /// Adds the next event.
    pub(crate) fn add(&mut self, number: u64, event: &Event) {
        let vcpu = event.at.vcpu;
        match &event.what {
            What::Pool(Pool { op, vmcs12, slot, .. }) => {
                let place = self.pool.entry((vcpu, *slot)).or_insert(Slot { vmcs12: None, used: number, taken: None });
                place.used = number;
                match op {
                    PoolOp::Hit => place.vmcs12 = Some(*vmcs12),
                    PoolOp::Miss | PoolOp::Recycle => {
                        (place.vmcs12, place.taken) = (Some(*vmcs12), Some(number));
                    }
                    PoolOp::Free => (place.vmcs12, place.taken) = (None, None),
                }
            }
            What::Vpid(Vpid { op, vpid12, vpid02 }) => {
                let vpid12 = (*op != VpidOp::Free).then_some(*vpid12);
                self.vpids.insert((vcpu, *vpid02), Mapped { vpid12, used: number });
            }
            What::Flush(flush) => {
                let row = self.flushes.entry(key(event.at.pcpu, flush)).or_insert(Flushes {
                    count: 0,
                    dropped: 0,
                    last: number,
                });
                row.count += 1;
                row.dropped = row.dropped.saturating_add(flush.dropped.into());
                row.last = number;
            }
            What::Registers(registers) => _ = self.registers.insert(vcpu, (number, *registers)),
            _ => {}
        }
    }

    /// Puts what the events before this stretch say underneath it.
    pub(crate) fn put_under(&mut self, older: &Self) {
        for (key, held) in &older.pool {
            let newer = self.pool.entry(*key).or_insert(*held);
            // A hit alone does not say when its vmcs12 came.
            if newer.vmcs12.is_some() && newer.taken.is_none() {
                newer.taken = held.taken;
            }
        }
        for (key, held) in &older.vpids {
            self.vpids.entry(*key).or_insert(*held);
        }
        for (key, held) in &older.flushes {
            match self.flushes.get_mut(key) {
                Some(newer) => {
                    newer.count += held.count;
                    newer.dropped = newer.dropped.saturating_add(held.dropped);
                }
                None => _ = self.flushes.insert(*key, *held),
            }
        }
        for (vcpu, held) in &older.registers {
            self.registers.entry(*vcpu).or_insert(*held);
        }
    }

    /// A vCPU's pool in the order in which its places go to another vmcs12, as the replay's.
    pub(crate) fn pool(&self, vcpu: u16, rule: PoolRecycle) -> Vec<(u16, Slot)> {
        let mut slots: Vec<(u16, Slot)> =
            self.pool.range((vcpu, 0)..=(vcpu, u16::MAX)).map(|(key, slot)| (key.1, *slot)).collect();
        slots.sort_by_key(|(number, slot)| match (slot.vmcs12, rule) {
            (None, _) => (0, u64::from(*number)),
            (Some(_), PoolRecycle::Lru) => (1, slot.used),
            (Some(_), PoolRecycle::Fifo) => (1, slot.taken.unwrap_or(0)),
        });
        slots
    }

    /// A vCPU's vpid02s that stand for a vpid12, the one used longest ago first.
    pub(crate) fn vpids(&self, vcpu: u16) -> Vec<(u16, u16, u64)> {
        let known = self.vpids.range((vcpu, 0)..=(vcpu, u16::MAX));
        let mut pairs: Vec<_> = known.filter_map(|(key, held)| Some((held.vpid12?, key.1, held.used))).collect();
        pairs.sort_by_key(|(_, _, used)| *used);
        pairs
    }

    /// The general registers that a vCPU's guest left last, and the event that says so.
    pub(crate) fn registers(&self, vcpu: u16) -> Option<(u64, Registers)> {
        self.registers.get(&vcpu).copied()
    }
}

fn key(pcpu: u16, flush: &Flush) -> FlushKey {
    let (vpid, eptp) = match flush.kind {
        FlushKind::InvvpidAddress | FlushKind::InvvpidSingle | FlushKind::InvvpidRetainGlobals => (flush.vpid, 0),
        FlushKind::InveptSingle => (0, flush.eptp),
        FlushKind::InvvpidAll | FlushKind::InveptAll | FlushKind::Transition => (0, 0),
    };
    (pcpu, flush.kind, vpid, eptp)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::sample;

    /// However a trace is cut into stretches, putting them together gives what one pass gives.
    #[test]
    fn stretches_add_up() {
        let events = sample::events();
        let fold = |range: std::ops::Range<usize>| {
            let mut kept = Kept::default();
            for number in range {
                kept.add(number as u64, &events[number]);
            }
            kept
        };
        let whole = fold(0..events.len());
        assert!(!whole.pool.is_empty() && !whole.vpids.is_empty() && !whole.flushes.is_empty());
        for cut in 1..events.len() {
            let (older, mut newer) = (fold(0..cut), fold(cut..events.len()));
            newer.put_under(&older);
            assert_eq!(newer, whole, "cut at {cut}");
        }
    }
}
