//! Events on their way into a guest: exceptions that L0 raises, deliveries that an exit cut short, interrupts of the board.

use super::cx::Cx;
use super::exit::{Exit, is_software};
use super::monitor::Wait;
use super::next::Fault;
use super::vmx::Report;
use crate::silicon::{Register, Silicon};
use hv_defs::controls::{ActivityState, ExitControls, Interruptibility, PinBased, PrimaryControls};
use hv_defs::event::{Injection, Stop, What};
use hv_defs::exit::{EptViolation, EventType, ExitReason, InterruptionInfo, Reason};
use hv_defs::vmcs;
use hv_defs::x86::{Cr0, Rflags, Vector};

/// Whether the vCPU can be entered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Ready {
    /// Yes.
    Go,
    /// Yes, for no longer than it takes to deliver what is injected: something waits behind it.
    Briefly,
    /// It waits for an interrupt.
    Waits,
    /// The run is over.
    Ends(Stop),
}

/// The pending-debug-exceptions field's BS.
const PENDING_SINGLE_STEP: u64 = 1 << 14;

/// Whether a fault while delivering another makes a double fault. See: SDM "Interrupt 8—Double Fault Exception (#DF)".
fn doubles(first: u8, second: Vector) -> bool {
    let contributory = |vector: u8| matches!(vector, 0 | 10..=13);
    contributory(first) && contributory(second.0)
        || first == Vector::PF.0 && (contributory(second.0) || second == Vector::PF)
}

impl<S: Silicon> Cx<'_, S> {
    /// Has the next entry inject an event.
    pub(super) fn inject(&mut self, info: InterruptionInfo, error_code: u32, length: u32) {
        // In real mode no exception pushes an error code, and silicon does not take one.
        let pushes = info.has_error_code() && self.get(vmcs::GUEST_CR0) & Cr0::PE.bits() != 0;
        let info = info.with_has_error_code(pushes);
        if info.has_error_code() {
            self.update(vmcs::ENTRY_EXCEPTION_ERROR_CODE, error_code);
        }
        if is_software(info.kind()) {
            self.update(vmcs::ENTRY_INSTRUCTION_LENGTH, length);
        }
        self.set(vmcs::ENTRY_INTERRUPTION_INFO, info);
        self.emit_injection(info, error_code);
    }

    /// Tells the log that the next entry injects an event.
    pub(super) fn emit_injection(&mut self, info: InterruptionInfo, error_code: u32) {
        let error_code = if info.has_error_code() { error_code } else { 0 };
        let level = self.level();
        self.emit(What::Injection(Injection { level, info, error_code }));
    }

    /// Raises an exception in the guest whose exit is being handled. Returns what L1 is to be told instead, if the guest is
    /// an L2 and L1 wants its exceptions of that kind.
    pub(super) fn raise(&mut self, fault: Fault, exit: &Exit) -> Option<Report> {
        let mut fault = fault;
        let interrupted = exit.idt.valid().then(|| exit.idt.kind());
        if interrupted == Some(EventType::HardwareException) && doubles(exit.idt.vector(), fault.vector) {
            fault = Fault { vector: Vector::DF, error_code: Some(0), address: None };
        }
        let protected = self.get(vmcs::GUEST_CR0) & Cr0::PE.bits() != 0;
        let intr = fault.info().with_has_error_code(protected && fault.error_code.is_some());
        let intr_error = fault.error_code.unwrap_or(0);
        if self.vcpu.level == 2 && self.l1_wants_exception(intr, intr_error) {
            if fault.vector != Vector::DF {
                // As silicon saves it for a fault.
                let flags = self.get(vmcs::GUEST_RFLAGS) | Rflags::RF.bits();
                self.update(vmcs::GUEST_RFLAGS, flags);
            }
            return Some(Report {
                reason: ExitReason::of(Reason::EXCEPTION_NMI),
                qualification: fault.address.unwrap_or(0),
                length: exit.length,
                intr,
                intr_error,
                idt: exit.idt,
                idt_error: exit.idt_error,
                ..Report::default()
            });
        }
        if interrupted == Some(EventType::ExternalInterrupt) {
            self.vcpu.requeued = Some(exit.idt.vector());
        }
        if let Some(address) = fault.address {
            self.silicon.set_register(self.cpu, Register::Cr2, address);
        }
        self.inject(intr, intr_error, 0);
        None
    }

    /// What the exit interrupted the delivery of is injected again.
    pub(super) fn reinject(&mut self, exit: &Exit) {
        if exit.idt.valid() {
            let info = InterruptionInfo::new()
                .with_vector(exit.idt.vector())
                .with_kind(exit.idt.kind())
                .with_has_error_code(exit.idt.has_error_code())
                .with_valid(true);
            self.inject(info, exit.idt_error, exit.length);
        }
    }

    /// An IRET that an EPT violation of L0's concern cut short has unblocked NMIs, and will be executed again.
    pub(super) fn block_nmis_again(&mut self, exit: &Exit) {
        if EptViolation::from_bits(exit.qualification).nmi_unblocking() {
            let blocking = self.get(vmcs::GUEST_INTERRUPTIBILITY) | Interruptibility::NMI.bits();
            self.set(vmcs::GUEST_INTERRUPTIBILITY, blocking);
        }
    }

    /// Moves the guest behind the instruction that exited.
    pub(super) fn skip(&mut self, exit: &Exit) {
        self.set(vmcs::GUEST_RIP, exit.rip.wrapping_add(u64::from(exit.length)));
        self.retire();
    }

    /// An instruction has been carried out: STI and MOV SS block no longer, RF is clear, and a single step is due.
    pub(super) fn retire(&mut self) {
        let flags = self.get(vmcs::GUEST_RFLAGS);
        if flags & Rflags::RF.bits() != 0 {
            self.set(vmcs::GUEST_RFLAGS, flags & !Rflags::RF.bits());
        }
        if flags & Rflags::TF.bits() != 0 {
            let pending = self.get(vmcs::GUEST_PENDING_DEBUG_EXCEPTIONS);
            self.set(vmcs::GUEST_PENDING_DEBUG_EXCEPTIONS, pending | PENDING_SINGLE_STEP);
        }
        let old = Interruptibility::from_bits_retain(self.get(vmcs::GUEST_INTERRUPTIBILITY));
        let new = old - (Interruptibility::STI | Interruptibility::MOV_SS);
        if new != old {
            self.set(vmcs::GUEST_INTERRUPTIBILITY, new.bits());
        }
    }

    /// Whether the running guest takes interrupts now.
    pub(super) fn takes_interrupts(&mut self) -> bool {
        let flags = Rflags::from_bits_retain(self.get(vmcs::GUEST_RFLAGS));
        let blocking = Interruptibility::from_bits_retain(self.get(vmcs::GUEST_INTERRUPTIBILITY));
        flags.contains(Rflags::IF) && !blocking.intersects(Interruptibility::STI | Interruptibility::MOV_SS)
    }

    fn acknowledge(&mut self) {
        if self.vcpu.requeued.take().is_none() {
            self.bus.acknowledge(self.vcpu.id, self.at.instruction);
        }
    }

    /// Gives the vCPU the board's interrupt, if there is one: to the guest that runs, or by an exit to L1 that asked to
    /// be told.
    pub(super) fn deliver(&mut self) -> Ready {
        let signals = self.bus.signals(self.vcpu.id);
        if (signals.any() || self.vcpu.waits_for_sipi)
            && let Some(ready) = self.signalled(signals)
        {
            return ready;
        }
        self.tell_cr8();
        let waiting = self.vcpu.requeued.or_else(|| self.bus.interrupt(self.vcpu.id, self.at.instruction));
        let Some(vector) = waiting else {
            self.watch_held();
            self.calm = !signals.any() && self.vcpu.cr8 == 0;
            self.bus.forget();
            let waits = self.vcpu.waits.is_some() && !self.wake_by_virtual_interrupt();
            return if waits { self.wait() } else { Ready::Go };
        };
        let injecting = self.get(vmcs::ENTRY_INTERRUPTION_INFO).valid();
        if self.vcpu.level == 2
            && self.vcpu.vmcs12.get(vmcs::PIN_BASED_CONTROLS).contains(PinBased::EXTERNAL_INTERRUPT_EXITING)
        {
            if injecting || self.vcpu.entry_pending {
                // L1's entry must have happened before an exit can.
                return Ready::Briefly;
            }
            if self.is_notification(vector) {
                self.take_notification();
                return self.deliver();
            }
            let mut report = Report { reason: ExitReason::of(Reason::EXTERNAL_INTERRUPT), ..Report::default() };
            if self.vcpu.vmcs12.get(vmcs::EXIT_CONTROLS).contains(ExitControls::ACKNOWLEDGE_INTERRUPT) {
                self.acknowledge();
                report.intr = external(vector);
            }
            self.emit_synthetic_exit(&report);
            return match self.leave(report) {
                // L1's interrupts are off after an exit; if it was not acknowledged, a window is asked for.
                super::next::Next::Resume => self.deliver(),
                _ => Ready::Go,
            };
        }
        if !injecting && self.takes_interrupts() {
            self.acknowledge();
            self.vcpu.waits = None;
            self.inject(external(vector), 0, 0);
            if self.bus.interrupt(self.vcpu.id, self.at.instruction).is_some() {
                self.ask_for(PrimaryControls::INTERRUPT_WINDOW_EXITING);
            }
            return Ready::Go;
        }
        match self.vcpu.waits {
            None => {}
            Some(Wait::Store { unmasked: true, .. }) => self.vcpu.waits = None,
            Some(_) => return self.wait(),
        }
        self.ask_for(PrimaryControls::INTERRUPT_WINDOW_EXITING);
        Ready::Go
    }

    /// The guest waits. In L2's HLT the VMX-preemption timer goes on, which is silicon's.
    fn wait(&mut self) -> Ready {
        let timed = self.vcpu.level == 2
            && self.vcpu.waits == Some(Wait::Halt)
            && self.vcpu.vmcs12.get(vmcs::PIN_BASED_CONTROLS).contains(PinBased::PREEMPTION_TIMER);
        if !timed {
            return Ready::Waits;
        }
        self.set(vmcs::GUEST_ACTIVITY_STATE, ActivityState::Hlt as u32);
        Ready::Go
    }

    /// Has the guest exit as soon as something can be delivered.
    pub(super) fn ask_for(&mut self, window: PrimaryControls) {
        let primary = self.get(vmcs::PRIMARY_CONTROLS) | window;
        self.update(vmcs::PRIMARY_CONTROLS, primary);
    }
}

/// An external interrupt, as it is injected and as an exit tells of it.
const fn external(vector: u8) -> InterruptionInfo {
    InterruptionInfo::new().with_vector(vector).with_kind(EventType::ExternalInterrupt).with_valid(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn double_faults_are_the_sdm_s() {
        let check = |first: Vector, second: Vector, expected| {
            assert_eq!(doubles(first.0, second), expected, "{first:?} then {second:?}");
        };
        check(Vector::GP, Vector::GP, true);
        check(Vector::GP, Vector::PF, false);
        check(Vector::PF, Vector::PF, true);
        check(Vector::PF, Vector::GP, true);
        check(Vector::UD, Vector::GP, false);
        check(Vector::DE, Vector::SS, true);
    }
}
