//! What L0 does with an exit: first who handles it, then how.

use super::cx::Cx;
use super::ept12::{EXECUTE, READ, USER_EXECUTE, WRITE};
use super::exit::Exit;
use super::monitor::Wait;
use super::next::{Fault, Next, unsupported};
use super::shadow::Filled;
use crate::silicon::{Register, Silicon};
use crate::xsave::is_xcr0;
use hv_defs::addr::{Gpa, L2Gpa, PAGE_SIZE};
use hv_defs::controls::{PrimaryControls, SecondaryControls};
use hv_defs::ept::Eptp;
use hv_defs::event::{Actor, Cause, Stop, StopKind};
use hv_defs::exit::{EptViolation, ExitReason, Reason};
use hv_defs::policy::RootLoad;
use hv_defs::vmcs;

/// What happened to an exit: who handled it, and what comes next.
pub(super) type Handled = (Actor, Next);

impl<S: Silicon> Cx<'_, S> {
    /// Handles an exit of the guest that ran. For [`Next::Reflect`] the caller takes `exit` to L1, as it is then.
    pub(super) fn handle(&mut self, exit: &mut Exit) -> Handled {
        if self.vcpu.level == 1 {
            let next = match exit.basic() {
                Reason::TASK_SWITCH => self.handle_task_switch(exit),
                Reason::MONITOR => self.handle_monitor(exit).1,
                _ => self.handle_l1(exit),
            };
            return (Actor::L0, next);
        }
        match exit.basic() {
            Reason::EPT_VIOLATION => self.handle_l2_violation(exit),
            Reason::VMFUNC => self.handle_vmfunc(exit),
            Reason::VMREAD | Reason::VMWRITE => self.handle_l2_access(exit),
            _ => match self.owner(exit) {
                Actor::L0 if exit.basic() == Reason::MONITOR => self.handle_monitor(exit),
                Actor::L0 => (Actor::L0, self.handle_any(exit)),
                other => {
                    if exit.basic() == Reason::MWAIT {
                        // Silicon's own MONITOR never arms: it exits.
                        exit.qualification = self.vcpu.line.is_some().into();
                    }
                    (other, Next::Reflect)
                }
            },
        }
    }

    fn handle_l1(&mut self, exit: &Exit) -> Next {
        match exit.basic() {
            Reason::CPUID => self.handle_cpuid(),
            Reason(18..=27) | Reason::INVEPT | Reason::INVVPID => self.vmx_instruction(exit),
            Reason::EPT_VIOLATION => self.handle_l1_violation(exit),
            Reason::TRIPLE_FAULT => {
                Next::Stop(Stop { kind: StopKind::TripleFault, code: 0, text: "L1 took a triple fault".to_owned() })
            }
            // There is no SMX, and VM functions are not for L1 itself.
            Reason::GETSEC | Reason::VMFUNC => Next::Raise(Fault::UD),
            Reason::INVALID_GUEST_STATE | Reason::MSR_LOAD_FAIL => {
                unsupported(format!("L1's own state at {:#x} that silicon does not enter", exit.rip))
            }
            _ => self.handle_any(exit),
        }
    }

    /// Exits that are handled alike for every guest of L0's.
    fn handle_any(&mut self, exit: &Exit) -> Next {
        match exit.basic() {
            // The host's own: the clock says that the slice is over.
            Reason::EXTERNAL_INTERRUPT => Next::Resume,
            Reason::INTERRUPT_WINDOW => {
                let mut primary = self.get(vmcs::PRIMARY_CONTROLS);
                primary.remove(PrimaryControls::INTERRUPT_WINDOW_EXITING);
                self.set(vmcs::PRIMARY_CONTROLS, primary);
                Next::Resume
            }
            Reason::NMI_WINDOW => {
                let mut primary = self.get(vmcs::PRIMARY_CONTROLS);
                primary.remove(PrimaryControls::NMI_WINDOW_EXITING);
                self.set(vmcs::PRIMARY_CONTROLS, primary);
                Next::Resume
            }
            Reason::HLT => Next::Wait(Wait::Halt),
            Reason::MWAIT => self.handle_mwait(),
            Reason::PAUSE => Next::Spin,
            Reason::IO_INSTRUCTION => self.handle_io(exit),
            Reason::RDMSR => self.handle_msr(false),
            Reason::WRMSR => self.handle_msr(true),
            Reason::CR_ACCESS => self.handle_cr(exit),
            // Caches are not modelled.
            Reason::INVD | Reason::WBINVD => Next::Skip,
            Reason::XSETBV => self.handle_xsetbv(),
            // There are no performance counters.
            Reason::RDPMC => Next::Raise(Fault::GP),
            other => unsupported(format!("an exit {other} of L{} at {:#x}", self.level(), exit.rip)),
        }
    }

    fn handle_xsetbv(&mut self) -> Next {
        let value = self.gpr(2) << 32 | self.gpr(0) & 0xffff_ffff;
        if self.cpl() != 0 || self.gpr(1) as u32 != 0 || !is_xcr0(value) {
            return Next::Raise(Fault::GP);
        }
        self.silicon.set_register(self.cpu, Register::Xcr0, value);
        Next::Skip
    }

    /// An EPT violation of L1's: a write to a page that L0 keeps read-only, or a device.
    fn handle_l1_violation(&mut self, exit: &Exit) -> Next {
        let at = Gpa(exit.gpa);
        if self.ram(at.page(), PAGE_SIZE).is_some() {
            // Silicon dropped the translation that it faulted on, and will find the page writable.
            self.unprotect(at);
            return Next::Resume;
        }
        self.handle_mmio(exit, at)
    }

    fn handle_l2_violation(&mut self, exit: &mut Exit) -> Handled {
        let violation = EptViolation::from_bits(exit.qualification);
        let secondary = self.secondary12();
        if !secondary.contains(SecondaryControls::EPT) {
            // L2-physical is L1-physical then.
            if self.became_apic_access(exit, Gpa(exit.gpa)) {
                return (Actor::L1, Next::Reflect);
            }
            return (Actor::L0, self.handle_l1_violation(exit));
        }
        let Some(root) = self.vcpu.root else { return (Actor::L0, self.out_of_memory()) };
        let walks_as_write = self.vcpu.vmcs12.get(vmcs::EPT_POINTER).accessed_dirty()
            && violation.gla_valid()
            && !violation.gla_translated();
        let mode_based = secondary.contains(SecondaryControls::MODE_BASED_EXECUTE);
        let fetch = if mode_based && violation.user_page() { USER_EXECUTE } else { EXECUTE };
        let mut access = 0;
        for (wanted, bit) in
            [(violation.read(), READ), (violation.write() || walks_as_write, WRITE), (violation.fetch(), fetch)]
        {
            access |= if wanted { bit } else { 0 };
        }
        match self.fill(root, L2Gpa(exit.gpa), access) {
            Filled::Done => (Actor::L0, Next::Resume),
            Filled::Violation(permitted) => {
                let told = violation
                    .with_write(access & WRITE != 0)
                    .with_readable(permitted & READ != 0)
                    .with_writable(permitted & WRITE != 0)
                    .with_executable(permitted & EXECUTE != 0)
                    .with_user_executable(mode_based && permitted & USER_EXECUTE != 0);
                exit.qualification = told.into_bits();
                (Actor::L1, Next::Reflect)
            }
            Filled::Misconfigured => {
                exit.reason = ExitReason::of(Reason::EPT_MISCONFIG);
                exit.qualification = 0;
                exit.gla = 0;
                (Actor::L1, Next::Reflect)
            }
            Filled::LogFull => {
                exit.reason = ExitReason::of(Reason::PML_FULL);
                exit.qualification = 0;
                exit.gla = 0;
                exit.gpa = 0;
                (Actor::L1, Next::Reflect)
            }
            Filled::NoRam(at) if self.became_apic_access(exit, at) => (Actor::L1, Next::Reflect),
            Filled::NoRam(at) => (Actor::L0, self.handle_mmio(exit, at)),
            Filled::NoFrame => (Actor::L0, self.out_of_memory()),
        }
    }

    /// VMFUNC by L2: EPTP switching is L0's to carry out where vmcs12 enables it. See: SDM "EPTP Switching".
    fn handle_vmfunc(&mut self, _: &Exit) -> Handled {
        let (function, index) = (self.gpr(0) as u32, self.gpr(1) as u32);
        let secondary = self.secondary12();
        if !secondary.contains(SecondaryControls::VM_FUNCTIONS) || function > 63 {
            return (Actor::L0, Next::Raise(Fault::UD));
        }
        let enabled = self.vcpu.vmcs12.get(vmcs::VM_FUNCTION_CONTROLS);
        if function != 0 || enabled & 1 == 0 || index >= 512 || !secondary.contains(SecondaryControls::EPT) {
            return (Actor::L1, Next::Reflect);
        }
        let list = self.vcpu.vmcs12.get(vmcs::EPTP_LIST_ADDRESS);
        let eptp12 = Eptp::from_bits(self.read_gpa_u64(Gpa(list.wrapping_add(u64::from(index) * 8))));
        if !self.is_eptp(eptp12) {
            return (Actor::L1, Next::Reflect);
        }
        self.vcpu.vmcs12.report(vmcs::EPT_POINTER, eptp12);
        let Some(eptp02) =
            self.load_root(eptp12).and_then(|root| self.ept02.roots[root].as_ref()).map(|root| root.eptp02)
        else {
            return (Actor::L0, self.out_of_memory());
        };
        self.shared.roots_in_use[usize::from(self.vcpu.id)] = self.vcpu.root;
        self.update(vmcs::EPT_POINTER, eptp02);
        if self.shared.policy.root_load == RootLoad::Flush {
            self.invept(eptp02, Cause::RootLoad);
        }
        (Actor::L0, Next::Skip)
    }
}
