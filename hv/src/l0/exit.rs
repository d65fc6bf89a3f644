//! A VM exit as a value: read from the VMCS once, at the border.

use super::cx::Cx;
use crate::silicon::Silicon;
use hv_defs::exit::{CrAccess, CrAccessKind, EventType, ExitReason, InterruptionInfo, Reason};
use hv_defs::vmcs;

/// A VM exit. Fields that the reason does not define are 0 and have not been read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Exit {
    pub(super) reason: ExitReason,
    pub(super) qualification: u64,
    pub(super) rip: u64,
    pub(super) length: u32,
    pub(super) gpa: u64,
    pub(super) gla: u64,
    pub(super) intr: InterruptionInfo,
    pub(super) intr_error: u32,
    pub(super) idt: InterruptionInfo,
    pub(super) idt_error: u32,
}

/// What the exit-information fields hold for a reason.
struct Has {
    qualification: bool,
    length: bool,
    gpa: bool,
    gla: bool,
    intr: bool,
    info: bool,
}

const fn has(reason: Reason) -> Has {
    let number = reason.0;
    let instruction = matches!(number, 9..=32 | 36 | 39 | 40 | 46 | 47 | 50 | 51 | 53..=55 | 57..=61 | 63 | 64);
    Has {
        qualification: matches!(number, 0 | 3 | 4 | 9 | 14 | 19 | 21..=25 | 27..=30 | 33 | 34 | 39 | 44..=50 | 53 | 56 | 58 | 62..=64),
        length: instruction || matches!(number, 0 | 44),
        gpa: matches!(number, 48 | 49),
        gla: matches!(number, 30 | 44 | 48 | 62),
        intr: matches!(number, 0 | 1),
        info: matches!(number, 19 | 21..=25 | 27 | 30 | 46 | 47 | 50 | 53 | 57 | 58 | 61 | 63 | 64),
    }
}

/// Whether the VM-exit instruction-information field is defined for a reason.
pub(super) const fn has_instruction_info(reason: Reason) -> bool {
    has(reason).info
}

impl Exit {
    /// The basic reason.
    pub(super) fn basic(&self) -> Reason {
        self.reason.reason()
    }

    /// What the log's event shows as interruption information.
    pub(super) fn shown_info(&self) -> InterruptionInfo {
        if self.intr.valid() { self.intr } else { self.idt }
    }
}

/// Whether an event of this type comes from an instruction, whose length its delivery needs.
pub(super) const fn is_software(kind: EventType) -> bool {
    matches!(kind, EventType::SoftwareInterrupt | EventType::SoftwareException | EventType::PrivilegedSoftwareException)
}

impl<S: Silicon> Cx<'_, S> {
    /// Reads the exit that just happened.
    pub(super) fn read_exit(&mut self) -> Exit {
        let reason = self.get(vmcs::EXIT_REASON);
        let has = has(reason.reason());
        let mut exit = Exit { reason, rip: self.get(vmcs::GUEST_RIP), ..Exit::default() };
        if has.qualification {
            exit.qualification = self.get(vmcs::EXIT_QUALIFICATION);
        }
        if reason.entry_failure() {
            return exit;
        }
        if has.length {
            exit.length = self.get(vmcs::EXIT_INSTRUCTION_LENGTH);
        }
        if has.gpa {
            exit.gpa = self.get(vmcs::GUEST_PHYSICAL_ADDRESS);
        }
        // Of accesses to control registers LMSW alone has a linear address.
        let lmsw = reason.reason() == Reason::CR_ACCESS
            && CrAccess::from_bits(exit.qualification).kind() == CrAccessKind::Lmsw;
        if has.gla || lmsw {
            exit.gla = self.get(vmcs::GUEST_LINEAR_ADDRESS);
        }
        if has.intr {
            exit.intr = self.get(vmcs::EXIT_INTERRUPTION_INFO);
            if exit.intr.valid() && exit.intr.has_error_code() {
                exit.intr_error = self.get(vmcs::EXIT_INTERRUPTION_ERROR_CODE);
            }
        }
        exit.idt = self.get(vmcs::IDT_VECTORING_INFO);
        if exit.idt.valid() && exit.idt.has_error_code() {
            exit.idt_error = self.get(vmcs::IDT_VECTORING_ERROR_CODE);
        }
        if exit.idt.valid() && !has.length && is_software(exit.idt.kind()) {
            exit.length = self.get(vmcs::EXIT_INSTRUCTION_LENGTH);
        }
        exit
    }
}
