//! The checks of a nested VM entry: the rows that silicon checks too, on vmcs12 against what L1 was offered.
//!
//! What the vmcs02 holds already was checked when it got there; only what depends on fields that changed since is looked
//! at again. See: SDM "VM Entries".

use super::super::cx::Cx;
use super::super::fields::{FieldSet, field_set};
use super::super::vmcs02::RARE;
use crate::silicon::Silicon;
use crate::vmx::checks::{self, Physical, Subject};
use core::cell::RefCell;
use hv_defs::addr::Gpa;
use hv_defs::controls::{EntryControls, PrimaryControls};
use hv_defs::event::Check;
use hv_defs::instruction_error::InstructionError;
use hv_defs::vmcs;
use hv_defs::x86::{Efer, Rflags};

/// Fields that no check of a row that is not hot depends on.
const HOT: FieldSet = field_set!(
    GUEST_RIP,
    GUEST_RSP,
    GUEST_RFLAGS,
    GUEST_CR3,
    GUEST_INTERRUPTIBILITY,
    GUEST_ACTIVITY_STATE,
    GUEST_PENDING_DEBUG_EXCEPTIONS,
    GUEST_INTERRUPT_STATUS,
    ENTRY_INTERRUPTION_INFO,
    ENTRY_EXCEPTION_ERROR_CODE,
    ENTRY_INSTRUCTION_LENGTH,
    PREEMPTION_TIMER_VALUE,
    PML_INDEX,
);

/// What the rows on segment registers look at.
const SEGMENTS: FieldSet = RARE.union(field_set!(
    SECONDARY_CONTROLS,
    ENTRY_CONTROLS,
    GUEST_CR0,
    GUEST_RFLAGS,
    GUEST_CS_ACCESS_RIGHTS,
    GUEST_SS_ACCESS_RIGHTS,
));

/// What failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Failed {
    /// A check on controls or host state: VMfail.
    Instruction(InstructionError, Check),
    /// A check on guest state, with the exit qualification: an exit.
    Guest(Check, u64),
}

/// L1's physical memory, as the checks read it.
struct L1Memory<'a, S>(RefCell<&'a mut S>, u64);

impl<S: Silicon> Physical for L1Memory<'_, S> {
    fn read_u32(&self, at: u64) -> u32 {
        let mut bytes = [0xff; 4];
        if let Some(hpa) = crate::l0::ram(self.1, Gpa(at), 4) {
            self.0.borrow_mut().read(hpa, &mut bytes);
        }
        u32::from_le_bytes(bytes)
    }
}

impl<S: Silicon> Cx<'_, S> {
    /// The first check of an entry to the current vmcs12 that does not hold. vmcs01 is current.
    pub(super) fn check_entry(&mut self) -> Result<(), Failed> {
        let dirty = self.vcpu.vmcs12.dirty;
        // The task priority, which the threshold is compared with, lies in memory.
        if dirty.is_empty() && self.vcpu.vmcs12.get(vmcs::TPR_THRESHOLD) == 0 {
            return Ok(());
        }
        let all = !dirty.without(HOT).is_empty();
        // Segment registers that an exit left in the vmcs02 are as silicon had them: they need no look unless L1 has
        // changed something that they must agree with.
        if !self.vcpu.vmcs12.lazy.is_empty() && self.segments_changed(dirty, all) {
            self.sync_lazy();
        }
        let elsewhere = !self.vcpu.vmcs12.lazy.is_empty();
        let long_mode_host = self.get(vmcs::GUEST_EFER) & Efer::LMA.bits() != 0;
        let memory = L1Memory(RefCell::new(&mut *self.silicon), self.shared.ram);
        let subject = Subject {
            vmcs: &self.vcpu.vmcs12.fields,
            address: self.vcpu.vmcs12.gpa.0,
            capabilities: &self.shared.capabilities,
            long_mode_host,
            memory: &memory,
        };
        if !all && checks::is_plain(&subject) {
            return Ok(());
        }
        let controls = if all { checks::controls(&subject) } else { checks::hot_controls(&subject) };
        if let Some(check) = controls {
            return Err(Failed::Instruction(InstructionError::ENTRY_INVALID_CONTROL_FIELD, check));
        }
        if all && let Some(check) = checks::host(&subject) {
            return Err(Failed::Instruction(InstructionError::ENTRY_INVALID_HOST_STATE, check));
        }
        let guest = match (all, elsewhere) {
            (true, false) => checks::guest(&subject),
            (false, false) => checks::hot_guest(&subject),
            (_, true) => checks::guest_but_segments(&subject, all),
        };
        guest.map_or(Ok(()), |(check, qualification)| Err(Failed::Guest(check, qualification)))
    }

    /// Whether L1 changed what the rows on segment registers look at, and they will be.
    fn segments_changed(&self, dirty: FieldSet, all: bool) -> bool {
        let vmcs12 = &self.vcpu.vmcs12;
        let long = vmcs12.get(vmcs::ENTRY_CONTROLS).contains(EntryControls::IA32E_MODE_GUEST)
            && vmcs12.get(vmcs::GUEST_RFLAGS) & Rflags::VM.bits() == 0;
        // Of RFLAGS they look at VM, which 64-bit guests do not have.
        let mut fields = if long { SEGMENTS.without(field_set!(GUEST_RFLAGS)) } else { SEGMENTS };
        if !vmcs12.get(vmcs::PRIMARY_CONTROLS).contains(PrimaryControls::ACTIVATE_SECONDARY) {
            fields = fields.with(vmcs::PRIMARY_CONTROLS);
        }
        (all || !long) && !dirty.common(fields).is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hv_defs::vmcs::TABLE;

    #[test]
    fn hot_is_what_the_rows_say() {
        for (row, entry) in TABLE.iter().enumerate() {
            assert_eq!(HOT.has_row(row), checks::is_hot(entry.field), "{}", entry.name);
        }
    }
}
