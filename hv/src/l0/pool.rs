//! The vmcs02 pool: the vmcs02s that a vCPU used last, each for one vmcs12, found by its address. What was used least
//! recently is recycled, or what came first.

use super::apicv::X2apicBits;
use super::fields::FieldSet;
use super::msr::PASS;
use super::shadow02::Shadow02;
use crate::vmcs::Vmcs;
use hv_defs::addr::{Gpa, Hpa};
use hv_defs::event::PoolOp;
use hv_defs::policy::PoolRecycle;
use hv_defs::vmcs::COUNT;
use serde::{Deserialize, Serialize};

/// A vmcs02 and whom it is for.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Slot {
    /// The vmcs12; `None` when free.
    pub(super) vmcs12: Option<Gpa>,
    /// Its VMCS, by number among the vCPU's.
    pub(super) saved: usize,
    /// The page of its MSR bitmap, and what the bytes in it that may differ from all ones are.
    pub(super) bitmap: Hpa,
    pub(super) merged: [u8; PASS.len()],
    /// The bits of the MSRs of x2APIC mode in it, once they have not all been ones.
    #[serde(with = "crate::stored::maybe_bytes")]
    pub(super) x2apic: Option<Box<X2apicBits>>,
    /// What it takes for VMCS shadowing, once L1 has asked for that.
    pub(super) shadow: Option<Box<Shadow02>>,
    /// When it was taken, or under [`PoolRecycle::Lru`] used, last.
    used: u64,
    /// What vmcs12 held when it was last current.
    source: Box<Vmcs>,
    /// Fields of it that had not reached the vmcs02 then.
    pending: FieldSet,
}

/// A vCPU's vmcs02s.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Pool {
    pub(super) slots: Vec<Slot>,
    uses: u64,
}

impl Pool {
    /// The slot of a vmcs12.
    pub(super) fn find(&self, vmcs12: Gpa) -> Option<usize> {
        self.slots.iter().position(|slot| slot.vmcs12 == Some(vmcs12))
    }

    /// Whether [`Pool::take`] could use a new slot, in a pool of `size`.
    pub(super) fn wants_new(&self, vmcs12: Gpa, size: usize) -> bool {
        self.slots.len() < size && self.slots.iter().all(|slot| slot.vmcs12.is_some_and(|other| other != vmcs12))
    }

    /// Chooses a slot for a vmcs12: its own, a free one, the `new` one (its VMCS and its page for an MSR bitmap of all
    /// ones), or that of another, by the rule.
    pub(super) fn take(
        &mut self,
        vmcs12: Gpa,
        new: Option<(usize, Hpa)>,
        rule: PoolRecycle,
    ) -> Option<(PoolOp, usize)> {
        self.uses += 1;
        let (op, number) = if let Some(number) = self.find(vmcs12) {
            (PoolOp::Hit, number)
        } else if let Some(number) = self.slots.iter().position(|slot| slot.vmcs12.is_none()) {
            (PoolOp::Miss, number)
        } else if let Some((saved, bitmap)) = new {
            let slot = Slot {
                vmcs12: None,
                saved,
                bitmap,
                merged: [0xff; PASS.len()],
                x2apic: None,
                shadow: None,
                used: 0,
                source: Box::default(),
                pending: FieldSet::ALL,
            };
            self.slots.push(slot);
            (PoolOp::Miss, self.slots.len() - 1)
        } else {
            let oldest = self.slots.iter().enumerate().min_by_key(|(_, slot)| slot.used)?.0;
            (PoolOp::Recycle, oldest)
        };
        let slot = &mut self.slots[number];
        if op != PoolOp::Hit || rule == PoolRecycle::Lru {
            slot.used = self.uses;
        }
        slot.vmcs12 = Some(vmcs12);
        if op != PoolOp::Hit {
            slot.pending = FieldSet::ALL;
        }
        Some((op, number))
    }

    /// vmcs12 ceases to be current: its slot remembers what it held.
    pub(super) fn remember(&mut self, vmcs12: Gpa, fields: &Vmcs, dirty: FieldSet) {
        if let Some(number) = self.find(vmcs12) {
            *self.slots[number].source = fields.clone();
            self.slots[number].pending = dirty;
        }
    }

    /// Fields of a vmcs12 that became current again which its vmcs02 does not have yet.
    pub(super) fn differing(&self, vmcs12: Gpa, fields: &Vmcs) -> FieldSet {
        let Some(number) = self.find(vmcs12) else { return FieldSet::ALL };
        let slot = &self.slots[number];
        let mut set = slot.pending;
        for row in 0..COUNT {
            if fields.row(row) != slot.source.row(row) {
                set.add_row(row);
            }
        }
        set
    }

    /// The slots by number in the order in which [`Pool::take`] gives them to a vmcs12 that has none.
    pub(super) fn order(&self) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.slots.len()).collect();
        order.sort_by_key(|slot| (self.slots[*slot].vmcs12.is_some(), self.slots[*slot].used));
        // Of free ones the first is taken, whenever it was used.
        let free = self.slots.iter().filter(|slot| slot.vmcs12.is_none()).count();
        order[..free].sort_unstable();
        order
    }

    /// Gives up the slot of a vmcs12. Returns its number.
    pub(super) fn free(&mut self, vmcs12: Gpa) -> Option<usize> {
        let number = self.find(vmcs12)?;
        self.slots[number].vmcs12 = None;
        Some(number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a sequence of vmcs12s through a pool of a size and compares what each found: h, m or r, and the slot.
    fn check(size: usize, sequence: &str, expected: &str) {
        check_by(PoolRecycle::Lru, size, sequence, expected);
    }

    fn check_by(rule: PoolRecycle, size: usize, sequence: &str, expected: &str) {
        let (mut pool, mut saved) = (Pool::default(), 0);
        let got: Vec<String> = sequence
            .bytes()
            .map(|name| {
                let vmcs12 = Gpa(u64::from(name) << 12);
                let new = pool.wants_new(vmcs12, size).then(|| {
                    saved += 1;
                    (saved, Hpa(0))
                });
                let (op, slot) = pool.take(vmcs12, new, rule).unwrap();
                format!("{}{slot}", &op.name()[..1])
            })
            .collect();
        assert_eq!(got.join(" "), expected, "{sequence} in {size}");
    }

    #[test]
    fn least_recently_used_goes_first() {
        check(1, "aab", "m0 h0 r0");
        check(2, "abab", "m0 m1 h0 h1");
        check(2, "abcab", "m0 m1 r0 r1 r0");
        check(2, "abacab", "m0 m1 h0 r1 h0 r1");
        check(3, "abcdabcd", "m0 m1 m2 r0 r1 r2 r0 r1");
        check(4, "abcdabcd", "m0 m1 m2 m3 h0 h1 h2 h3");
    }

    #[test]
    fn what_came_first_goes_first() {
        let check = |size, sequence, expected| check_by(PoolRecycle::Fifo, size, sequence, expected);
        check(2, "abacab", "m0 m1 h0 r0 r1 r0");
        check(3, "abcadab", "m0 m1 m2 h0 r0 r1 r2");
    }

    /// After some vmcs12s, the order says which slot each of as many new ones gets.
    #[test]
    fn the_order_is_that_of_recycling() {
        for rule in [PoolRecycle::Lru, PoolRecycle::Fifo] {
            let mut pool = Pool::default();
            for (at, name) in b"abcadbca".iter().enumerate() {
                let vmcs12 = Gpa(u64::from(*name) << 12);
                let new = pool.wants_new(vmcs12, 3).then_some((at + 1, Hpa(0)));
                pool.take(vmcs12, new, rule).unwrap();
            }
            let (last, order) = (pool.slots[2].vmcs12.unwrap(), pool.order());
            for (new, slot) in (1..).zip(&order) {
                assert_eq!(pool.take(Gpa(new << 24), None, rule).unwrap(), (PoolOp::Recycle, *slot));
            }
            assert_eq!(pool.find(last), None);
            pool.free(Gpa(1 << 24));
            pool.free(Gpa(2 << 24));
            let mut free = order[..2].to_vec();
            free.sort_unstable();
            assert_eq!(pool.order()[..2], free);
            assert_eq!(pool.take(Gpa(9 << 24), None, rule).unwrap(), (PoolOp::Miss, free[0]));
        }
    }

    #[test]
    fn a_slot_remembers_what_has_not_reached_it() {
        let mut pool = Pool::default();
        let mut values = Vmcs::default();
        assert_eq!(pool.differing(Gpa(0x1000), &values), FieldSet::ALL);
        pool.take(Gpa(0x1000), Some((1, Hpa(0))), PoolRecycle::Lru);
        pool.remember(Gpa(0x1000), &values, FieldSet::EMPTY.with_row(3));
        values.set_row(7, 1);
        assert_eq!(pool.differing(Gpa(0x1000), &values), FieldSet::EMPTY.with_row(3).with_row(7));
        assert_eq!(pool.free(Gpa(0x1000)), Some(0));
        assert_eq!(pool.free(Gpa(0x1000)), None);
        assert_eq!(pool.differing(Gpa(0x1000), &values), FieldSet::ALL);
    }
}
