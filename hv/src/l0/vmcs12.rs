//! vmcs12: the VMCS that L1 made for L2. While it is current for L1 it is cached here; at other times it lies in L1's
//! memory, in the layout of [`Vmcs`].

use super::cx::Cx;
use super::fields::{FieldSet, field_set};
use crate::silicon::Silicon;
use crate::vmcs::{SIZE, Vmcs};
use hv_defs::addr::Gpa;
use hv_defs::event::NO_ADDRESS;
use hv_defs::vmcs::{Field, FieldValue, VmcsField};
use serde::{Deserialize, Serialize};

/// The VMCS revision identifier that L1 is shown.
pub(super) use crate::vmcs::REVISION;

/// Fields of the table that L1's VMCSs do not have: they belong to features that L1 is not offered.
const ABSENT: FieldSet = field_set!(
    HLAT_PREFIX_SIZE,
    LAST_PID_POINTER_INDEX,
    GUEST_UINV,
    SUB_PAGE_PERMISSION_TABLE_POINTER,
    TERTIARY_CONTROLS,
    ENCLV_EXITING_BITMAP,
    LOW_PASID_DIRECTORY_ADDRESS,
    HIGH_PASID_DIRECTORY_ADDRESS,
    SHARED_EPT_POINTER,
    PCONFIG_EXITING_BITMAP,
    HLAT_POINTER,
    PID_POINTER_TABLE_ADDRESS,
    SECONDARY_EXIT_CONTROLS,
    SPEC_CTRL_MASK,
    SPEC_CTRL_SHADOW,
    INJECTED_EVENT_DATA,
    ORIGINAL_EVENT_DATA,
    GUEST_PERF_GLOBAL_CTRL,
    GUEST_BNDCFGS,
    GUEST_RTIT_CTL,
    GUEST_LBR_CTL,
    GUEST_PKRS,
    GUEST_FRED_CONFIG,
    GUEST_FRED_RSP1,
    GUEST_FRED_RSP2,
    GUEST_FRED_RSP3,
    GUEST_FRED_STKLVLS,
    GUEST_FRED_SSP1,
    GUEST_FRED_SSP2,
    GUEST_FRED_SSP3,
    HOST_PERF_GLOBAL_CTRL,
    HOST_PKRS,
    HOST_FRED_CONFIG,
    HOST_FRED_RSP1,
    HOST_FRED_RSP2,
    HOST_FRED_RSP3,
    HOST_FRED_STKLVLS,
    HOST_FRED_SSP1,
    HOST_FRED_SSP2,
    HOST_FRED_SSP3,
    INSTRUCTION_TIMEOUT,
    GUEST_S_CET,
    GUEST_SSP,
    GUEST_INTERRUPT_SSP_TABLE,
    HOST_S_CET,
    HOST_SSP,
    HOST_INTERRUPT_SSP_TABLE,
);

/// Fields of L1's VMCSs.
pub(super) const PRESENT: FieldSet = FieldSet::ALL.without(ABSENT);

/// The row of a field of L1's VMCSs, by any encoding of it.
pub(super) fn row(field: VmcsField) -> Option<usize> {
    if field.is_high() && field.width() != hv_defs::vmcs::Width::W64 {
        return None;
    }
    field.full().index().filter(|row| PRESENT.has_row(*row))
}

/// A vmcs12.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Vmcs12 {
    /// Its L1-physical address.
    pub(super) gpa: Gpa,
    pub(super) launched: bool,
    /// It was launched before the VMXOFF and VMXON that the vCPU has done since.
    pub(super) outlived: bool,
    /// Fields that changed since a vmcs02 was last made of it.
    pub(super) dirty: FieldSet,
    /// Fields whose newer value is still in the vmcs02.
    pub(super) lazy: FieldSet,
    /// Its fields.
    pub(super) fields: Box<Vmcs>,
}

impl Vmcs12 {
    /// An empty cache.
    pub(super) fn new() -> Self {
        Self {
            gpa: Gpa(NO_ADDRESS),
            launched: false,
            outlived: false,
            dirty: FieldSet::ALL,
            lazy: FieldSet::EMPTY,
            fields: Box::default(),
        }
    }

    pub(super) fn get<T: FieldValue>(&self, field: Field<T>) -> T {
        self.fields.get(field)
    }

    pub(super) fn row(&self, row: usize) -> u64 {
        self.fields.row(row)
    }

    /// L1 wrote a field. Returns what it held.
    pub(super) fn write(&mut self, row: usize, value: u64) -> u64 {
        let old = self.fields.row(row);
        self.fields.set_row(row, value);
        if old != self.fields.row(row) || self.lazy.has_row(row) {
            self.dirty.add_row(row);
            self.lazy.remove_row(row);
        }
        old
    }

    /// L0 brings a field in line with what the vmcs02 holds.
    pub(super) fn sync(&mut self, row: usize, value: u64) {
        self.fields.set_row(row, value);
        self.lazy.remove_row(row);
    }

    /// L0 gives a field a new value that the vmcs02 holds already, or does not take as it is.
    pub(super) fn report<T: FieldValue>(&mut self, field: Field<T>, value: T) {
        self.fields.set(field, value);
    }
}

impl<S: Silicon> Cx<'_, S> {
    /// Reads the vmcs12 at `gpa` from L1's memory into the cache.
    pub(super) fn read_vmcs12(&mut self, gpa: Gpa) {
        let mut region = [0; SIZE];
        self.read_gpa(gpa, &mut region);
        let vmcs12 = &mut self.vcpu.vmcs12;
        *vmcs12.fields = Vmcs::from_bytes(&region);
        vmcs12.gpa = gpa;
        // The launch state in the region is the number of the VMX operation in which it was launched.
        vmcs12.launched = vmcs12.fields.launched != 0;
        vmcs12.outlived = vmcs12.launched && vmcs12.fields.launched != self.vcpu.vmx.operation;
        vmcs12.lazy = FieldSet::EMPTY;
        vmcs12.dirty = FieldSet::ALL;
    }

    /// Writes the cached vmcs12 back to L1's memory.
    pub(super) fn write_vmcs12(&mut self) {
        let operation = self.vcpu.vmx.operation;
        let vmcs12 = &mut self.vcpu.vmcs12;
        if !vmcs12.outlived {
            vmcs12.fields.launched = u32::from(vmcs12.launched) * operation;
        }
        let (gpa, bytes) = (vmcs12.gpa, vmcs12.fields.to_bytes());
        // Revision identifier and abort indicator are L1's.
        self.write_gpa(gpa.offset(8), &bytes[8..]);
    }

    /// Marks the vmcs12 at `gpa`, which is not cached, as not launched.
    pub(super) fn clear_vmcs12(&mut self, gpa: Gpa) {
        self.write_gpa(gpa.offset(8), &0u32.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hv_defs::vmcs;

    #[test]
    fn fields_are_found_by_any_encoding_of_theirs() {
        assert_eq!(row(vmcs::GUEST_RIP.into()), Some(vmcs::GUEST_RIP.index()));
        assert_eq!(row(VmcsField(0x201b)), Some(vmcs::EPT_POINTER.index()));
        assert_eq!(row(VmcsField(0x0801)), None); // a 16-bit field has no high half
        assert_eq!(row(vmcs::TERTIARY_CONTROLS.into()), None);
        assert_eq!(row(VmcsField(0xffff_ffff)), None);
    }

    #[test]
    fn a_write_is_dirty_only_when_it_changes_something() {
        let mut vmcs12 = Vmcs12::new();
        vmcs12.dirty = FieldSet::EMPTY;
        assert_eq!(vmcs12.write(vmcs::GUEST_RIP.index(), 5), 0);
        assert_eq!(vmcs12.write(vmcs::GUEST_RSP.index(), 0), 0);
        assert_eq!(vmcs12.write(vmcs::VPID.index(), 0x1_0002), 0);
        assert_eq!(vmcs12.dirty, field_set!(GUEST_RIP, VPID));
        assert_eq!(vmcs12.get(vmcs::VPID), 2);
        vmcs12.lazy = field_set!(GUEST_ES_SELECTOR);
        vmcs12.write(vmcs::GUEST_ES_SELECTOR.index(), 0);
        assert!(vmcs12.dirty.has(vmcs::GUEST_ES_SELECTOR) && vmcs12.lazy.is_empty());
    }
}
