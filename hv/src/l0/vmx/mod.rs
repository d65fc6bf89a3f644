//! The VMX instructions of L1. See: SDM "VMX Instruction Reference".

mod access;
mod check;
mod enter;
mod invalidate;
mod leave;
mod region;

use super::cx::Cx;
use super::exit::Exit;
use super::next::{Fault, Next};
use super::paging::Failure;
use crate::silicon::Silicon;
use hv_defs::exit::{InstructionInfo, Reason};
use hv_defs::instruction_error::InstructionError;
use hv_defs::vmcs;
use hv_defs::x86::Rflags;

pub(super) use leave::Report;

/// How a VMX instruction ended. See: SDM "Conventions".
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Ended {
    /// VMsucceed.
    Succeed,
    /// VMfail: with the number if there is a current VMCS, else VMfailInvalid.
    Fail(InstructionError),
    /// VMfailInvalid.
    FailInvalid,
    /// It raised a fault and did nothing.
    Fault(Fault),
    /// It was a VM entry, and L2 is what comes next.
    Entered,
    /// Something that L0 does not have.
    Other(Next),
}

impl From<Fault> for Ended {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

impl From<Failure> for Ended {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Fault(fault) => Self::Fault(fault),
            Failure::Ept12(at) => Self::Other(super::next::unsupported(format!(
                "an operand of L2's at {:#x} that EPT12 does not map",
                at.0
            ))),
        }
    }
}

type Done = Result<Ended, Ended>;

/// The status flags, which each VMX instruction defines.
pub(super) const STATUS: Rflags =
    Rflags::CF.union(Rflags::PF).union(Rflags::AF).union(Rflags::ZF).union(Rflags::SF).union(Rflags::OF);

impl<S: Silicon> Cx<'_, S> {
    /// Carries out a VMX instruction of L1's that exited.
    pub(super) fn vmx_instruction(&mut self, exit: &Exit) -> Next {
        let ended = match self.vmx_permitted(exit.basic()) {
            Ok(()) => self.vmx_carry_out(exit).unwrap_or_else(|early| early),
            Err(fault) => Ended::Fault(fault),
        };
        self.vmx_end(ended)
    }

    fn vmx_permitted(&mut self, reason: Reason) -> Result<(), Fault> {
        // Silicon raised #UD for modes that have no VMX instructions, but it sees its own CR4.VMXE.
        let operating = self.vcpu.vmx.vmxon.is_some();
        if !operating && (reason != Reason::VMXON || !self.l1_vmxe()) {
            return Err(Fault::UD);
        }
        if self.cpl() != 0 {
            return Err(Fault::GP);
        }
        Ok(())
    }

    fn vmx_carry_out(&mut self, exit: &Exit) -> Done {
        match exit.basic() {
            Reason::VMXON => self.vmxon(exit),
            Reason::VMXOFF => self.vmxoff(),
            Reason::VMCLEAR => self.vmclear(exit),
            Reason::VMPTRLD => self.vmptrld(exit),
            Reason::VMPTRST => self.vmptrst(exit),
            Reason::VMREAD => self.vmread(exit),
            Reason::VMWRITE => self.vmwrite(exit),
            Reason::VMLAUNCH => self.vm_entry(exit, true),
            Reason::VMRESUME => self.vm_entry(exit, false),
            Reason::INVEPT => self.invept_instruction(exit),
            Reason::INVVPID => self.invvpid_instruction(exit),
            // There is no dual-monitor treatment of SMIs.
            Reason::VMCALL => Ok(Ended::Fail(InstructionError::VMCALL_IN_ROOT)),
            _ => Err(Ended::Fault(Fault::UD)),
        }
    }

    fn vmx_end(&mut self, ended: Ended) -> Next {
        let flags = match ended {
            Ended::Succeed => Rflags::empty(),
            Ended::FailInvalid => Rflags::CF,
            Ended::Fail(_) if !self.vcpu.vmx.current => Rflags::CF,
            Ended::Fail(error) => {
                self.vcpu.vmcs12.report(vmcs::VM_INSTRUCTION_ERROR, error.0);
                Rflags::ZF
            }
            Ended::Fault(fault) => return Next::Raise(fault),
            Ended::Entered => return Next::Resume,
            Ended::Other(next) => return next,
        };
        let old = Rflags::from_bits_retain(self.get(vmcs::GUEST_RFLAGS));
        let new = old.difference(STATUS) | flags;
        self.update(vmcs::GUEST_RFLAGS, new.bits());
        Next::Skip
    }

    fn instruction_info(&mut self) -> InstructionInfo {
        InstructionInfo::from_bits(self.get(vmcs::EXIT_INSTRUCTION_INFO))
    }

    /// A 64-bit memory operand: an address.
    fn pointer_operand(&mut self, exit: &Exit) -> Result<u64, Ended> {
        let info = self.instruction_info();
        let mut bytes = [0; 8];
        self.read_operand(exit, info, &mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }
}
