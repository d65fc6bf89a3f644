//! A VMCS of L0's, with what must be remembered of it while another is in use: the physical CPU where it is active,
//! whether it was launched, and the values that L0 knows it to hold.

use super::fields::{FieldSet, field_set};
use crate::silicon::Pcpu;
use hv_defs::addr::Hpa;
use hv_defs::event::Which;
use hv_defs::vmcs::{self, COUNT, Class};
use serde::{Deserialize, Serialize};

/// Fields that a VM entry or a VM exit may write: what L0 knew of them is void after one. Guests change IA32_EFER and
/// IA32_PAT only through L0, which enters none that is not active.
const VOLATILE: FieldSet = FieldSet::class(Class::Guest)
    .union(FieldSet::class(Class::ExitInformation))
    .without(field_set!(VMCS_LINK_POINTER, GUEST_EFER, GUEST_PAT, GUEST_ACTIVITY_STATE, GUEST_SMBASE));

/// A VMCS of L0's.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct SavedVmcs {
    pub(super) hpa: Hpa,
    pub(super) which: Which,
    /// The physical CPU that it is active on.
    pub(super) cpu: Option<Pcpu>,
    pub(super) launched: bool,
    /// Fields that L0 wrote since it last ran.
    pub(super) written: u16,
    known: FieldSet,
    #[serde(with = "crate::stored::boxed_words")]
    values: Box<[u64; COUNT]>,
}

impl SavedVmcs {
    /// A VMCS in the region at `hpa`, never used.
    pub(super) fn new(hpa: Hpa, which: Which) -> Self {
        Self {
            hpa,
            which,
            cpu: None,
            launched: false,
            written: 0,
            known: FieldSet::EMPTY,
            values: Box::new([0; COUNT]),
        }
    }

    /// What a field holds, if L0 knows.
    #[inline(always)]
    pub(super) fn known(&self, row: usize) -> Option<u64> {
        self.known.has_row(row).then(|| self.values[row])
    }

    /// L0 learned or set what a field holds.
    #[inline(always)]
    pub(super) fn learn(&mut self, row: usize, value: u64) {
        self.known.add_row(row);
        self.values[row] = value;
    }

    /// [`SavedVmcs::learn`] of those rows whose value is news, which come first in `news` then. Returns how many they are.
    pub(super) fn learn_news<const N: usize>(
        &mut self,
        writes: &[(usize, u64)],
        news: &mut [(usize, u64); N],
    ) -> usize {
        let mut count = 0;
        for &(row, value) in &writes[..writes.len().min(N)] {
            let new = !self.known.has_row(row) || self.values[row] != value;
            self.learn(row, value);
            news[count] = (row, value);
            count += usize::from(new);
        }
        count
    }

    /// Silicon ran it and exited.
    pub(super) fn ran(&mut self) {
        self.launched = true;
        self.written = 0;
        self.known = self.known.without(VOLATILE);
        // The exit cleared the valid bit of what had been injected.
        self.values[vmcs::ENTRY_INTERRUPTION_INFO.index()] &= !(1 << 31);
    }

    /// Silicon tried to enter and gave up: it has written exit information alone.
    pub(super) fn failed(&mut self) {
        self.written = 0;
        self.known = self.known.without(FieldSet::class(Class::ExitInformation));
    }

    /// VMCLEAR was done on it: not launched, not active; its data is kept, as L0's own regions' is.
    pub(super) fn cleared(&mut self) {
        self.launched = false;
        self.cpu = None;
    }

    /// A guest may have written these fields by itself.
    pub(super) fn unlearn(&mut self, fields: FieldSet) {
        self.known = self.known.without(fields);
    }

    /// It goes to another guest: nothing that it holds is known.
    pub(super) fn forget(&mut self) {
        self.known = FieldSet::EMPTY;
    }
}
