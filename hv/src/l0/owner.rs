//! Whose exit is it? A question, not an action: what L0 needs comes first and is hidden from L1; else it is L1's if
//! vmcs12 asks for it. See: SDM "VM-Execution Control Fields" and "Instructions That Cause VM Exits Conditionally".

use super::cx::Cx;
use super::exit::Exit;
use super::msr::bitmap_place;
use crate::silicon::Silicon;
use hv_defs::addr::Gpa;
use hv_defs::controls::{PinBased, PrimaryControls, SecondaryControls};
use hv_defs::event::Actor;
use hv_defs::exit::{CrAccess, CrAccessKind, EventType, InterruptionInfo, IoAccess, Reason};
use hv_defs::vmcs;
use hv_defs::x86::{Cr0, Vector};

impl<S: Silicon> Cx<'_, S> {
    /// Who handles an exit of L2's. EPT violations are not asked about here: EPT12 decides, once L0 has looked.
    pub(super) fn owner(&mut self, exit: &Exit) -> Actor {
        if self.l1_wants(exit) { Actor::L1 } else { Actor::L0 }
    }

    fn l1_wants(&mut self, exit: &Exit) -> bool {
        let vmcs12 = &self.vcpu.vmcs12;
        let pin = vmcs12.get(vmcs::PIN_BASED_CONTROLS);
        let primary = vmcs12.get(vmcs::PRIMARY_CONTROLS);
        let secondary = self.secondary12();
        let second = |control: SecondaryControls| secondary.contains(control);
        match exit.basic() {
            Reason::EXCEPTION_NMI => self.l1_wants_exception(exit.intr, exit.intr_error),
            Reason::EXTERNAL_INTERRUPT | Reason::EPT_VIOLATION | Reason::EPT_MISCONFIG | Reason::PML_FULL => false,
            Reason::INTERRUPT_WINDOW => primary.contains(PrimaryControls::INTERRUPT_WINDOW_EXITING),
            Reason::NMI_WINDOW => primary.contains(PrimaryControls::NMI_WINDOW_EXITING),
            Reason::HLT => primary.contains(PrimaryControls::HLT_EXITING),
            Reason::INVLPG => primary.contains(PrimaryControls::INVLPG_EXITING),
            Reason::INVPCID => primary.contains(PrimaryControls::INVLPG_EXITING) && second(SecondaryControls::INVPCID),
            Reason::RDPMC => primary.contains(PrimaryControls::RDPMC_EXITING),
            Reason::RDTSC | Reason::RDTSCP => primary.contains(PrimaryControls::RDTSC_EXITING),
            Reason::CR_ACCESS => self.l1_wants_cr(exit),
            Reason::DR_ACCESS => primary.contains(PrimaryControls::MOV_DR_EXITING),
            Reason::IO_INSTRUCTION => self.l1_wants_io(exit),
            Reason::RDMSR => self.l1_wants_msr(false),
            Reason::WRMSR => self.l1_wants_msr(true),
            Reason::MWAIT => primary.contains(PrimaryControls::MWAIT_EXITING),
            Reason::MONITOR => primary.contains(PrimaryControls::MONITOR_EXITING),
            Reason::PAUSE => {
                primary.contains(PrimaryControls::PAUSE_EXITING) || second(SecondaryControls::PAUSE_LOOP_EXITING)
            }
            Reason::MONITOR_TRAP_FLAG => primary.contains(PrimaryControls::MONITOR_TRAP_FLAG),
            Reason::TPR_BELOW_THRESHOLD => primary.contains(PrimaryControls::TPR_SHADOW),
            Reason::APIC_ACCESS => second(SecondaryControls::VIRTUALIZE_APIC_ACCESSES),
            Reason::GDTR_IDTR_ACCESS | Reason::LDTR_TR_ACCESS => second(SecondaryControls::DESCRIPTOR_TABLE_EXITING),
            Reason::WBINVD => second(SecondaryControls::WBINVD_EXITING),
            Reason::RDRAND => second(SecondaryControls::RDRAND_EXITING),
            Reason::RDSEED => second(SecondaryControls::RDSEED_EXITING),
            Reason::PREEMPTION_TIMER => pin.contains(PinBased::PREEMPTION_TIMER),
            // CPUID, the VMX instructions, task switches, triple faults, INVD, XSETBV and their like always exit; writes
            // and ends of interrupts on L2's virtual APIC exit by vmcs12's controls alone; and what L0 does not know is
            // not L0's.
            _ => true,
        }
    }

    /// Whether L1 wants an exception or NMI of L2's.
    pub(super) fn l1_wants_exception(&self, intr: InterruptionInfo, error_code: u32) -> bool {
        let vmcs12 = &self.vcpu.vmcs12;
        if intr.kind() == EventType::Nmi {
            return vmcs12.get(vmcs::PIN_BASED_CONTROLS).contains(PinBased::NMI_EXITING);
        }
        let vector = intr.vector();
        let bit = vmcs12.get(vmcs::EXCEPTION_BITMAP) >> (vector & 31) & 1 != 0;
        if vector != Vector::PF.0 {
            return bit;
        }
        let matches =
            error_code & vmcs12.get(vmcs::PAGE_FAULT_ERROR_CODE_MASK) == vmcs12.get(vmcs::PAGE_FAULT_ERROR_CODE_MATCH);
        matches == bit
    }

    fn l1_wants_cr(&mut self, exit: &Exit) -> bool {
        let access = CrAccess::from_bits(exit.qualification);
        let value = if access.kind() == CrAccessKind::MovTo { self.cr_operand(access) } else { 0 };
        let vmcs12 = &self.vcpu.vmcs12;
        let primary = vmcs12.get(vmcs::PRIMARY_CONTROLS);
        let (mask0, shadow0) = (vmcs12.get(vmcs::CR0_GUEST_HOST_MASK), vmcs12.get(vmcs::CR0_READ_SHADOW));
        let (mask4, shadow4) = (vmcs12.get(vmcs::CR4_GUEST_HOST_MASK), vmcs12.get(vmcs::CR4_READ_SHADOW));
        match (access.kind(), access.cr()) {
            (CrAccessKind::MovTo, 0) => mask0 & (value ^ shadow0) != 0,
            (CrAccessKind::MovTo, 4) => mask4 & (value ^ shadow4) != 0,
            (CrAccessKind::MovTo, 3) => primary.contains(PrimaryControls::CR3_LOAD_EXITING),
            (CrAccessKind::MovTo, 8) => primary.contains(PrimaryControls::CR8_LOAD_EXITING),
            (CrAccessKind::MovFrom, 3) => primary.contains(PrimaryControls::CR3_STORE_EXITING),
            (CrAccessKind::MovFrom, 8) => primary.contains(PrimaryControls::CR8_STORE_EXITING),
            (CrAccessKind::Clts, _) => mask0 & shadow0 & Cr0::TS.bits() != 0,
            (CrAccessKind::Lmsw, _) => {
                let source = u64::from(access.lmsw_source());
                // PE cannot be cleared: it counts only where it would be set.
                mask0 & 0xe & (source ^ shadow0) != 0 || mask0 & source & !shadow0 & 1 != 0
            }
            _ => true,
        }
    }

    fn l1_wants_io(&mut self, exit: &Exit) -> bool {
        let vmcs12 = &self.vcpu.vmcs12;
        let primary = vmcs12.get(vmcs::PRIMARY_CONTROLS);
        if !primary.contains(PrimaryControls::IO_BITMAPS) {
            return primary.contains(PrimaryControls::UNCONDITIONAL_IO_EXITING);
        }
        let (low, high) = (vmcs12.get(vmcs::IO_BITMAP_A), vmcs12.get(vmcs::IO_BITMAP_B));
        let access = IoAccess::from_bits(exit.qualification);
        let first = u32::from(access.port());
        // An access that wraps around the end of the port space exits.
        (first..=first + u32::from(access.size_less_one())).any(|port| {
            let Ok(port) = u16::try_from(port) else { return true };
            let (bitmap, bit) = if port < 0x8000 { (low, port) } else { (high, port & 0x7fff) };
            let mut byte = [0xff];
            self.read_gpa(Gpa(bitmap.wrapping_add(u64::from(bit / 8))), &mut byte);
            byte[0] >> (bit % 8) & 1 != 0
        })
    }

    fn l1_wants_msr(&mut self, write: bool) -> bool {
        let vmcs12 = &self.vcpu.vmcs12;
        if !vmcs12.get(vmcs::PRIMARY_CONTROLS).contains(PrimaryControls::MSR_BITMAPS) {
            return true;
        }
        let bitmap = vmcs12.get(vmcs::MSR_BITMAP);
        let Some((byte_at, bit)) = bitmap_place(self.gpr(1) as u32, write) else { return true };
        let mut byte = [0xff];
        self.read_gpa(Gpa(bitmap.wrapping_add(byte_at)), &mut byte);
        byte[0] >> bit & 1 != 0
    }
}
