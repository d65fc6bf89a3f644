//! What reaches a vCPU beside interrupts: INIT, start-up IPIs, NMIs; and the task priority, which its local APIC shares with
//! CR8. See: SDM "Multiple-Processor (MP) Initialization" and "Other Causes of VM Exits".

use super::bus::Signals;
use super::cpuid::SIGNATURE;
use super::cx::Cx;
use super::deliver::Ready;
use super::next::Next;
use super::start::Start;
use super::vmx::Report;
use crate::silicon::{Register, Registers, Silicon};
use hv_defs::controls::{Interruptibility, PinBased, PrimaryControls};
use hv_defs::event::{Stop, StopKind};
use hv_defs::exit::{EventType, ExitReason, InterruptionInfo, Reason};
use hv_defs::vmcs;
use hv_defs::x86::Vector;

/// An NMI, as it is injected and as an exit tells of it.
const NMI: InterruptionInfo =
    InterruptionInfo::new().with_vector(Vector::NMI.0).with_kind(EventType::Nmi).with_valid(true);

impl<S: Silicon> Cx<'_, S> {
    /// Acts on what waits beside interrupts, the most urgent first. Returns whether the vCPU can be entered, if that is
    /// decided by it.
    pub(super) fn signalled(&mut self, signals: Signals) -> Option<Ready> {
        if signals.init
            && let Some(ready) = self.take_init()
        {
            return Some(ready);
        }
        if self.vcpu.waits_for_sipi {
            return match signals.start_up {
                Some(page) => self.start_up(page),
                None => Some(Ready::Waits),
            };
        }
        if signals.start_up.is_some() {
            // It is awake: the message is lost.
            self.bus.take_start_up(self.vcpu.id);
        }
        if signals.nmi { self.take_nmi() } else { None }
    }

    /// An INIT. In VMX root operation it is blocked, and stays; in L2 it is an exit to L1.
    fn take_init(&mut self) -> Option<Ready> {
        if self.vcpu.waits_for_sipi {
            self.bus.take_init(self.vcpu.id, true);
            return None;
        }
        if self.vcpu.level == 2 {
            if self.is_injecting() {
                return Some(Ready::Briefly);
            }
            self.bus.take_init(self.vcpu.id, false);
            return Some(self.exit_to_l1(Report { reason: ExitReason::of(Reason::INIT_SIGNAL), ..Report::default() }));
        }
        if self.vcpu.vmx.vmxon.is_some() {
            return None;
        }
        if self.vcpu.id == 0 {
            // The first CPU starts anew at the reset vector: without firmware that is the machine's end.
            let text = "the guest reset the machine by an INIT of its first CPU".to_owned();
            return Some(Ready::Ends(Stop { kind: StopKind::Reset, code: 0, text }));
        }
        self.bus.take_init(self.vcpu.id, true);
        self.vcpu.waits_for_sipi = true;
        self.vcpu.waits = None;
        self.vcpu.requeued = None;
        None
    }

    /// The start-up IPI. What INIT does to registers is done now: nobody has seen them since.
    fn start_up(&mut self, page: u8) -> Option<Ready> {
        self.bus.take_start_up(self.vcpu.id);
        let kept = self.vcpu.started.then(|| {
            let fields = [vmcs::GUEST_PAT, vmcs::GUEST_SYSENTER_ESP, vmcs::GUEST_SYSENTER_EIP];
            (fields.map(|field| (field, self.get(field))), self.get(vmcs::GUEST_SYSENTER_CS))
        });
        let fresh = Registers::default();
        let debug = (0..4).map(Register::Dr);
        for register in [Register::Cr2, Register::Cr8, Register::Dr6].into_iter().chain(debug) {
            self.silicon.set_register(self.cpu, register, fresh.get(register));
        }
        self.vcpu.cr8 = 0;
        if self.begin(&Start::start_up(page, SIGNATURE)).is_none() {
            return match self.out_of_memory() {
                Next::Stop(stop) => Some(Ready::Ends(stop)),
                _ => None,
            };
        }
        if let Some((fields, sysenter_cs)) = kept {
            for (field, value) in fields {
                self.set(field, value);
            }
            self.set(vmcs::GUEST_SYSENTER_CS, sysenter_cs);
            self.flush_guest_linear();
        }
        None
    }

    fn is_injecting(&mut self) -> bool {
        self.vcpu.entry_pending || self.get(vmcs::ENTRY_INTERRUPTION_INFO).valid()
    }

    /// An exit of L2's that silicon did not make.
    fn exit_to_l1(&mut self, report: Report) -> Ready {
        self.emit_synthetic_exit(&report);
        match self.leave(report) {
            Next::Resume => self.deliver(),
            Next::Stop(stop) => Ready::Ends(stop),
            _ => Ready::Go,
        }
    }

    /// An NMI: to the guest that runs, or by an exit to L1 that asked to be told.
    fn take_nmi(&mut self) -> Option<Ready> {
        let pin12 = self.vcpu.vmcs12.get(vmcs::PIN_BASED_CONTROLS);
        let blocking = Interruptibility::from_bits_retain(self.get(vmcs::GUEST_INTERRUPTIBILITY));
        if self.vcpu.level == 2 && pin12.contains(PinBased::NMI_EXITING) {
            // Blocking is L2's own with virtual NMIs, the CPU's without.
            if !pin12.contains(PinBased::VIRTUAL_NMIS) && blocking.contains(Interruptibility::NMI) {
                return None;
            }
            if self.is_injecting() {
                return Some(Ready::Briefly);
            }
            self.bus.take_nmi(self.vcpu.id);
            let report = Report { reason: ExitReason::of(Reason::EXCEPTION_NMI), intr: NMI, ..Report::default() };
            return Some(self.exit_to_l1(report));
        }
        let blocks = Interruptibility::NMI | Interruptibility::STI | Interruptibility::MOV_SS;
        if self.is_injecting() || blocking.intersects(blocks) {
            self.ask_for(PrimaryControls::NMI_WINDOW_EXITING);
            return None;
        }
        self.bus.take_nmi(self.vcpu.id);
        self.vcpu.waits = None;
        self.inject(NMI, 0, 0);
        None
    }

    /// Tells the board the task priority, if the guest has changed it.
    pub(super) fn tell_cr8(&mut self) {
        let cr8 = self.silicon.register(self.cpu, Register::Cr8) as u8;
        if cr8 != self.vcpu.cr8 {
            self.vcpu.cr8 = cr8;
            self.bus.set_cr8(self.vcpu.id, cr8);
        }
    }

    /// Asks the board for the task priority, which an access to the local APIC may have changed.
    pub(super) fn ask_cr8(&mut self) {
        let cr8 = self.bus.cr8(self.vcpu.id);
        if cr8 != self.vcpu.cr8 {
            self.vcpu.cr8 = cr8;
            self.silicon.set_register(self.cpu, Register::Cr8, cr8.into());
        }
    }

    /// Has the guest exit when it lowers its task priority, if that keeps an interrupt from it.
    pub(super) fn watch_held(&mut self) {
        if self.vcpu.cr8 != 0 && self.owns_cr8() && self.bus.held_by_tpr(self.vcpu.id) {
            self.ask_for(PrimaryControls::CR8_LOAD_EXITING);
        }
    }

    /// The guest set its task priority: what waits is looked at anew.
    pub(super) fn forget_held(&mut self) {
        if self.vcpu.level == 1 {
            let primary = self.get(vmcs::PRIMARY_CONTROLS) - PrimaryControls::CR8_LOAD_EXITING;
            self.update(vmcs::PRIMARY_CONTROLS, primary);
        }
    }

    /// Whether CR8 is the task priority of the vCPU's local APIC, and not of one that L1 keeps for L2.
    fn owns_cr8(&self) -> bool {
        self.vcpu.level == 1 || !self.vcpu.vmcs12.get(vmcs::PRIMARY_CONTROLS).contains(PrimaryControls::TPR_SHADOW)
    }
}
