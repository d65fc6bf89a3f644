//! What a VM exit says of itself.

use crate::mmu::Fault;
use hv_defs::exit::{ExitReason, InterruptionInfo, Reason};
use serde::{Deserialize, Serialize};

/// What an exit leaves in the exit-information fields of the VMCS. The default is all zero: no interruption information
/// is valid, and the reason is that of an exception.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ExitInfo {
    /// The whole exit-reason field.
    pub reason: ExitReason,
    /// The exit qualification.
    pub qualification: u64,
    /// Length of the instruction, in bytes.
    pub length: u32,
    /// VM-exit instruction information.
    pub instruction_info: u32,
    /// The guest-physical address.
    pub gpa: u64,
    /// The guest-linear address.
    pub gla: u64,
    /// VM-exit interruption information.
    pub intr_info: InterruptionInfo,
    /// VM-exit interruption error code.
    pub intr_error: u32,
    /// IDT-vectoring information.
    pub idt_info: InterruptionInfo,
    /// IDT-vectoring error code.
    pub idt_error: u32,
    /// RCX before an I/O instruction that an SMI followed.
    pub io_rcx: u64,
    /// RSI, likewise.
    pub io_rsi: u64,
    /// RDI, likewise.
    pub io_rdi: u64,
    /// RIP, likewise.
    pub io_rip: u64,
}

impl ExitInfo {
    /// An exit for `reason`, nothing else known.
    pub fn of(reason: Reason) -> Self {
        Self { reason: ExitReason::of(reason), ..Self::default() }
    }

    /// An exit for `reason` of an instruction of `length` bytes.
    pub fn instruction(reason: Reason, length: u32) -> Self {
        Self { length, ..Self::of(reason) }
    }

    /// The exit that a failed translation is. `None` for those that are none by themselves: a page fault is the guest's,
    /// and an access to the APIC-access page may be virtualized.
    pub fn from_fault(fault: Fault) -> Option<Self> {
        match fault {
            Fault::EptViolation { qualification, gpa, gla } => {
                Some(Self { qualification: qualification.into_bits(), gpa, gla, ..Self::of(Reason::EPT_VIOLATION) })
            }
            Fault::EptMisconfig { gpa } => Some(Self { gpa, ..Self::of(Reason::EPT_MISCONFIG) }),
            Fault::PmlFull => Some(Self::of(Reason::PML_FULL)),
            Fault::Page { .. } | Fault::ApicAccess { .. } => None,
        }
    }
}
