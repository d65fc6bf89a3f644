//! The checks of a nested VM entry: the rows that silicon checks too, on vmcs12 against what L1 was offered.
//!
//! What the vmcs02 holds already was checked when it got there; only what depends on fields that changed since is looked
//! at again. See: SDM "VM Entries".

use super::super::cx::Cx;
use super::super::fields::{FieldSet, field_set};
use crate::silicon::Silicon;
use crate::vmx::checks::{self, Physical, Subject};
use core::cell::RefCell;
use hv_defs::addr::Gpa;
use hv_defs::event::Check;
use hv_defs::instruction_error::InstructionError;
use hv_defs::vmcs;
use hv_defs::x86::Efer;

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
        if dirty.is_empty() {
            return Ok(());
        }
        let long_mode_host = self.get(vmcs::GUEST_EFER) & Efer::LMA.bits() != 0;
        let memory = L1Memory(RefCell::new(&mut *self.silicon), self.shared.ram);
        let subject = Subject {
            vmcs: &self.vcpu.vmcs12.fields,
            address: self.vcpu.vmcs12.gpa.0,
            capabilities: &self.shared.capabilities,
            long_mode_host,
            memory: &memory,
        };
        let all = !dirty.without(HOT).is_empty();
        let controls = if all { checks::controls(&subject) } else { checks::hot_controls(&subject) };
        if let Some(check) = controls {
            return Err(Failed::Instruction(InstructionError::ENTRY_INVALID_CONTROL_FIELD, check));
        }
        if all && let Some(check) = checks::host(&subject) {
            return Err(Failed::Instruction(InstructionError::ENTRY_INVALID_HOST_STATE, check));
        }
        let guest = if all { checks::guest(&subject) } else { checks::hot_guest(&subject) };
        guest.map_or(Ok(()), |(check, qualification)| Err(Failed::Guest(check, qualification)))
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
