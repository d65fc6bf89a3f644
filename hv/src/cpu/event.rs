//! Events: which are intercepted, which become double and triple faults, and how they reach the guest's handlers.

use super::deliver;
use super::state::{CodeWrites, Cpu, Stop, Trap};
use crate::memory::Memory;
use crate::silicon::Unsupported;
use crate::vmx::exit::ExitInfo;
use hv_defs::controls::{ActivityState, Interruptibility};
use hv_defs::exit::{EventType, ExitReason, InterruptionInfo, Reason};
use hv_defs::x86::{Rflags, Vector};

/// Something that is delivered through the IDT.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Event {
    pub(super) vector: Vector,
    pub(super) kind: EventType,
    /// The error code, if one is pushed.
    pub(super) error: Option<u32>,
    /// For software events, the instruction's length: RIP is at the instruction until it is delivered.
    pub(super) length: u32,
    /// What CR2 becomes with a page fault, and DR6's bits with a debug exception.
    pub(super) detail: u64,
}

impl Event {
    /// An exception that an instruction raises.
    pub(super) fn fault(vector: Vector, error: Option<u32>) -> Self {
        Self { vector, kind: EventType::HardwareException, error, length: 0, detail: 0 }
    }

    /// A page fault.
    pub(super) fn page_fault(code: u32, address: u64) -> Self {
        Self { detail: address, ..Self::fault(Vector::PF, Some(code)) }
    }

    /// A debug exception; `detail` is what DR6 gets.
    pub(super) fn debug(detail: u64) -> Self {
        Self { detail, ..Self::fault(Vector::DB, None) }
    }

    /// Whether it is one of the software kinds, which return to after the instruction and respect a gate's DPL.
    pub(super) fn is_software(&self) -> bool {
        matches!(
            self.kind,
            EventType::SoftwareInterrupt | EventType::SoftwareException | EventType::PrivilegedSoftwareException
        )
    }

    /// Whether a gate's DPL counts.
    pub(super) fn checks_gate(&self) -> bool {
        matches!(self.kind, EventType::SoftwareInterrupt | EventType::SoftwareException)
    }

    /// Whether the exception bitmap counts.
    fn is_exception(&self) -> bool {
        matches!(
            self.kind,
            EventType::HardwareException | EventType::SoftwareException | EventType::PrivilegedSoftwareException
        )
    }

    /// As the interruption-information fields have it; in real mode (not `protected`) no event has an error code.
    fn info(&self, protected: bool) -> InterruptionInfo {
        InterruptionInfo::new()
            .with_vector(self.vector.0)
            .with_kind(self.kind)
            .with_has_error_code(protected && self.error.is_some())
            .with_valid(true)
    }
}

/// How two exceptions in a row combine. See: SDM "Conditions for Generating a Double Fault".
#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Benign,
    Contributory,
    PageFault,
}

fn class(event: &Event) -> Class {
    match (event.kind, event.vector.0) {
        (EventType::HardwareException, 0 | 10..=13 | 21) => Class::Contributory,
        (EventType::HardwareException, 14) => Class::PageFault,
        _ => Class::Benign,
    }
}

/// What comes of an exception in the delivery of an event.
enum Second {
    Deliver(Event),
    DoubleFault,
    TripleFault,
}

fn combine(first: &Event, second: Event) -> Second {
    if first.kind == EventType::HardwareException && first.vector == Vector::DF {
        return if class(&second) == Class::Benign { Second::Deliver(second) } else { Second::TripleFault };
    }
    match (class(first), class(&second)) {
        (Class::Contributory, Class::Contributory) | (Class::PageFault, Class::Contributory | Class::PageFault) => {
            Second::DoubleFault
        }
        _ => Second::Deliver(second),
    }
}

impl Cpu {
    /// Whether the exception bitmap makes an exception exit. See: SDM "Exception Bitmap" and, for page faults, the two
    /// fields beside it.
    fn intercepted(&self, event: &Event) -> bool {
        if !event.is_exception() {
            return false;
        }
        let bit = self.controls.exception_bitmap >> event.vector.0 & 1 != 0;
        if event.vector != Vector::PF {
            return bit;
        }
        let matches = event.error.unwrap_or(0) & self.controls.page_fault_mask == self.controls.page_fault_match;
        bit == matches
    }

    /// The exit for an exception. `original` is the event whose delivery raised it.
    fn exception_exit(&mut self, event: &Event, original: Option<&Event>) -> Trap {
        let unblocks = core::mem::take(&mut self.exec.iret_unblocked_nmi);
        let mut info = ExitInfo {
            reason: ExitReason::of(Reason::EXCEPTION_NMI),
            intr_info: event
                .info(self.protected())
                .with_nmi_unblocking(unblocks && event.vector != Vector::DF && original.is_none()),
            intr_error: event.error.unwrap_or(0),
            length: event.length,
            ..ExitInfo::default()
        };
        if matches!(event.vector, Vector::PF | Vector::DB) && event.kind == EventType::HardwareException {
            info.qualification = event.detail;
        }
        if let Some(original) = original {
            note_delivery(&mut info, original, self.protected());
        }
        Trap::Exit(Box::new(info))
    }

    /// Delivers an event, or exits for it.
    pub(super) fn raise(&mut self, memory: &mut Memory, event: Event) -> Result<(), Trap> {
        if self.intercepted(&event) {
            return Err(self.exception_exit(&event, None));
        }
        self.exec.iret_unblocked_nmi = false;
        self.deliver(memory, event)
    }

    /// Delivers an event through the IDT, whatever the exception bitmap says of it.
    pub(super) fn deliver(&mut self, memory: &mut Memory, mut event: Event) -> Result<(), Trap> {
        loop {
            self.exec.now += 1;
            let before = (self.rip, self.regs.gpr[4]);
            self.before_delivery(&event);
            self.exec.code_writes = CodeWrites::Tell;
            let delivered = deliver::deliver(self, memory, &event);
            self.exec.code_writes = CodeWrites::Refuse;
            if delivered.is_ok() {
                self.interruptibility.remove(Interruptibility::STI | Interruptibility::MOV_SS);
                self.activity = ActivityState::Active;
                self.after_step();
                return Ok(());
            }
            (self.rip, self.regs.gpr[4]) = before;
            let second = match core::mem::take(&mut self.exec.stop) {
                Stop::Fault(vector, code) => Event::fault(vector, code),
                Stop::PageFault(code, address) => Event::page_fault(code, address),
                Stop::Exit(mut info) => {
                    note_delivery(&mut info, &event, self.protected());
                    return Err(Trap::Exit(info));
                }
                Stop::Unsupported(what) => {
                    return Err(Trap::Unsupported(Unsupported { rip: self.rip, bytes: Vec::new(), what }));
                }
                _ => return Err(self.undeliverable(&event)),
            };
            // The bitmap has its say on the exception itself, before it can become a double fault.
            if self.intercepted(&second) {
                return Err(self.exception_exit(&second, Some(&event)));
            }
            match combine(&event, second) {
                Second::Deliver(second) => event = second,
                Second::DoubleFault => {
                    let double = Event::fault(Vector::DF, Some(0));
                    if self.intercepted(&double) {
                        return Err(self.exception_exit(&double, None));
                    }
                    event = double;
                }
                Second::TripleFault => {
                    let info = ExitInfo { reason: ExitReason::of(Reason::TRIPLE_FAULT), ..ExitInfo::default() };
                    return Err(Trap::Exit(Box::new(info)));
                }
            }
        }
    }

    fn undeliverable(&self, event: &Event) -> Trap {
        let what = format!("delivery of vector {}", event.vector.0);
        Trap::Unsupported(Unsupported { rip: self.rip, bytes: Vec::new(), what })
    }

    /// What an exception changes before its handler is looked for.
    fn before_delivery(&mut self, event: &Event) {
        if event.kind != EventType::HardwareException {
            return;
        }
        match event.vector {
            Vector::PF => self.regs.cr2 = event.detail,
            Vector::DB => {
                // The low four bits tell of this exception alone; the others gather until software clears them.
                self.regs.dr6 = self.regs.dr6 & !0xf | event.detail & 0xe00f;
                self.dr7 &= !(1 << 13);
            }
            _ => {}
        }
    }

    /// Takes the debug exceptions that are pending at this boundary.
    pub(super) fn take_pending_debug(&mut self, memory: &mut Memory) -> Result<(), Trap> {
        let pending = core::mem::take(&mut self.pending_debug);
        // Breakpoints that matched count only with the bit that says one was enabled.
        if pending & (1 << 12 | 1 << 14) == 0 {
            return Ok(());
        }
        self.raise(memory, Event::debug(pending & 0x400f))
    }
}

/// Whether an event is one whose handler's image of RFLAGS has RF set.
fn sets_rf(info: InterruptionInfo) -> bool {
    let traps = matches!(Vector(info.vector()), Vector::DB | Vector::DF);
    info.valid() && info.kind() == EventType::HardwareException && !traps
}

impl Cpu {
    /// Gives RF the value that an exit saves. See: SDM "Saving RIP, RSP, RFLAGS, and SSP".
    pub(super) fn settle_rf(&mut self, info: &ExitInfo) {
        let rf = match info.reason.reason() {
            Reason::EXCEPTION_NMI if sets_rf(info.intr_info) => true,
            Reason::EXCEPTION_NMI => return,
            _ if info.idt_info.valid() => self.flags.has(Rflags::RF) || sets_rf(info.idt_info),
            Reason::EPT_VIOLATION | Reason::EPT_MISCONFIG | Reason::PML_FULL | Reason::APIC_ACCESS => true,
            // What is left and has a length is an instruction.
            _ if info.length != 0 => false,
            _ => return,
        };
        if rf != self.flags.has(Rflags::RF) {
            self.flags.put(Rflags::RF, rf);
        }
    }
}

/// Tells in an exit that it came in the delivery of an event.
fn note_delivery(info: &mut ExitInfo, event: &Event, protected: bool) {
    info.idt_info = event.info(protected);
    info.idt_error = event.error.unwrap_or(0);
    if event.is_software() {
        info.length = event.length;
    }
}

/// Delivers an event that VM entry injects, through the guest's IDT. `info` is a VM-entry interruption-information
/// field that passed the entry checks. The exception bitmap does not count, save for what delivery raises.
///
/// # Errors
/// The exit that delivery led to, with IDT-vectoring information.
pub fn inject(
    cpu: &mut Cpu,
    memory: &mut Memory,
    info: InterruptionInfo,
    error_code: u32,
    instruction_length: u32,
) -> Result<(), Trap> {
    if info.kind() == EventType::Other {
        // A pending monitor-trap exit, the only event of this type.
        cpu.exec.monitor_trap = true;
        return Ok(());
    }
    let mut event = Event {
        vector: Vector(info.vector()),
        kind: info.kind(),
        error: info.has_error_code().then_some(error_code),
        length: 0,
        detail: 0,
    };
    if event.is_software() {
        event.length = instruction_length;
    }
    match event.vector {
        // CR2 and DR6 are the hypervisor's to set for what it injects.
        Vector::PF => event.detail = cpu.regs.cr2,
        Vector::DB => event.detail = cpu.regs.dr6 & 0xf,
        _ => {}
    }
    if event.kind == EventType::Nmi {
        cpu.interruptibility.insert(Interruptibility::NMI);
    }
    let delivered = cpu.deliver(memory, event);
    if let Err(trap) = &delivered {
        // What an exit cuts short needs no follow-up.
        cpu.leave_virtual_apic();
        if let Trap::Exit(info) = trap {
            cpu.settle_rf(info);
        }
    }
    delivered
}
