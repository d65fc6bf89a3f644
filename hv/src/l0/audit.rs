//! The audit of EPT02s: where a policy has a nested entry bring them in line with EPT12, whether they are.
//!
//! It is for who judges a run again, and changes nothing in it. What it holds EPT02 to is what syncing would make of it,
//! whether or not L0 has synced.

use super::L0;
use super::cx::Cx;
use super::ept02::Root;
use super::vpid::{self, Tag};
use crate::silicon::Silicon;
use hv_defs::event::Cause;
use hv_defs::slip::Slips;

/// An EPT02 that L2 is entered with and that is not what EPT12 says, though the entry was to bring it in line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Unsynced {
    /// Instructions retired at the entry.
    pub instruction: u64,
    /// The vCPU.
    pub vcpu: u16,
    /// What was to bring it in line: [`Cause::RootLoad`], or [`Cause::Vpid12Change`] for a vpid12 that is another than the
    /// last or none.
    pub cause: Cause,
    /// L1's EPT pointer.
    pub eptp12: u64,
    /// Silicon's.
    pub eptp02: u64,
    /// The first L2-physical address that differs.
    pub gpa: u64,
    /// Bytes that its entry maps.
    pub size: u64,
    /// EPT02's entry.
    pub entry: u64,
    /// What EPT12 makes of it; 0 where it must go.
    pub due: u64,
    /// Entries that differ.
    pub entries: u32,
}

impl<S: Silicon> L0<S> {
    /// Audits every nested entry from now on.
    pub fn audit(&mut self) {
        self.shared.audit = Some(Vec::new());
    }

    /// What the audit found since the last call, in the order of entries.
    pub fn take_audit(&mut self) -> Vec<Unsynced> {
        self.shared.audit.as_mut().map(core::mem::take).unwrap_or_default()
    }
}

impl<S: Silicon> Cx<'_, S> {
    /// Audits what the policy has the entry bring in line: the root that was loaded, or all of the vCPU's.
    pub(super) fn audit_roots(&mut self, loaded: usize, tag: Tag, vpid12: Option<u16>) {
        if self.shared.audit.is_none() {
            return;
        }
        let policy = self.shared.policy;
        if vpid::syncs_as_guest(&policy, Slips::default(), tag, vpid12) {
            for root in self.ept02.roots_of(self.vcpu.id) {
                self.audit_root(root, Cause::Vpid12Change);
            }
        } else if vpid::syncs_when_loaded(&policy) {
            self.audit_root(loaded, Cause::RootLoad);
        }
    }

    fn audit_root(&mut self, number: usize, cause: Cause) {
        let Some(root) = &self.ept02.roots[number] else { return };
        let (eptp12, eptp02, shape) = (root.eptp12.into_bits(), root.eptp02.into_bits(), Root::shape(root));
        let mut found: Option<Unsynced> = None;
        // L1 can have changed no table but these.
        for number in self.ept02.unsync_of(number) {
            let table = self.ept02.table(number).clone();
            for (gpa, size, entry, due) in self.out_of_line(&table, shape) {
                let first = found.get_or_insert(Unsynced {
                    instruction: self.silicon.retired(),
                    vcpu: self.vcpu.id,
                    cause,
                    eptp12,
                    eptp02,
                    gpa,
                    size,
                    entry,
                    due,
                    entries: 0,
                });
                first.entries += 1;
            }
        }
        if let (Some(found), Some(audit)) = (found, &mut self.shared.audit) {
            audit.push(found);
        }
    }
}
