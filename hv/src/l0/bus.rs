//! The border between L0 and the board: ports, memory-mapped registers, interrupts.

use hv_defs::addr::Gpa;
use hv_defs::event::Stop;

/// What a write to the board asks of the machine, beside what the device did with it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum BusEvent {
    /// The guest set a phase marker.
    Mark(u32),
    /// The guest ended the run: a reset, isa-debug-exit.
    Stop(Stop),
    /// The device wants to reach L1's memory: [`Bus::dma`] is to be called with this address.
    Dma(Gpa),
}

/// L1-physical memory, as a device reaches it.
pub trait Ram {
    /// Reads bytes; all ones where there is no RAM.
    fn read(&mut self, at: Gpa, into: &mut [u8]);

    /// Writes bytes; what is no RAM is dropped.
    fn write(&mut self, at: Gpa, bytes: &[u8]);
}

/// What waits for a vCPU beside interrupts.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Signals {
    /// An NMI.
    pub nmi: bool,
    /// An INIT.
    pub init: bool,
    /// A start-up IPI: the page number where it is to start.
    pub start_up: Option<u8>,
}

impl Signals {
    /// Whether there is one.
    pub const fn any(&self) -> bool {
        self.nmi || self.init || self.start_up.is_some()
    }
}

/// The devices, as L0 asks them. `now` is the machine's clock, in instructions retired.
/// A board need not have APICs: then the methods that are about them do nothing.
pub trait Bus {
    /// Reads `size` (1, 2 or 4) bytes from a port; all ones where nothing answers.
    fn io_in(&mut self, port: u16, size: u8, now: u64) -> u32;

    /// Writes `size` (1, 2 or 4) bytes to a port.
    fn io_out(&mut self, port: u16, size: u8, value: u32, now: u64) -> Option<BusEvent>;

    /// Reads `size` (1, 2, 4 or 8) bytes of L1-physical memory that is no RAM; `None` where nothing answers.
    fn mmio_read(&mut self, vcpu: u16, at: Gpa, size: u8, now: u64) -> Option<u64>;

    /// Writes `size` (1, 2, 4 or 8) bytes of L1-physical memory that is no RAM; `false` where nothing answers.
    fn mmio_write(&mut self, vcpu: u16, at: Gpa, size: u8, value: u64, now: u64) -> bool;

    /// Carries out what [`BusEvent::Dma`] asked for.
    fn dma(&mut self, at: Gpa, ram: &mut dyn Ram);

    /// The vector of the interrupt that the controllers would deliver to this vCPU now.
    fn interrupt(&mut self, vcpu: u16, now: u64) -> Option<u8>;

    /// The vCPU took the interrupt that [`Bus::interrupt`] told of last.
    fn acknowledge(&mut self, vcpu: u16, now: u64);

    /// As [`Bus::acknowledge`], and the interrupt is at its end at once: nobody is to handle it.
    fn dismiss(&mut self, vcpu: u16, now: u64) {
        self.acknowledge(vcpu, now);
    }

    /// What waits for this vCPU beside interrupts.
    fn signals(&mut self, _vcpu: u16) -> Signals {
        Signals::default()
    }

    /// The vCPU takes its NMI.
    fn take_nmi(&mut self, _vcpu: u16) {}

    /// The vCPU takes its INIT: it waits for a start-up IPI from now on, and its local APIC is reset, if `reset`; else it
    /// was its L1 that was told.
    fn take_init(&mut self, _vcpu: u16, _reset: bool) {}

    /// The vCPU takes its start-up IPI.
    fn take_start_up(&mut self, _vcpu: u16) {}

    /// Reads one of the MSRs that are the local APIC's: IA32_APIC_BASE, IA32_TSC_DEADLINE, x2APIC's. `None` is #GP(0).
    fn read_apic_msr(&mut self, _vcpu: u16, _index: u32, _now: u64) -> Option<u64> {
        None
    }

    /// Writes one of the MSRs that are the local APIC's. `false` is #GP(0).
    fn write_apic_msr(&mut self, _vcpu: u16, _index: u32, _value: u64, _now: u64) -> bool {
        false
    }

    /// The vCPU's TSC is `now + offset` from now on.
    fn tsc_moved(&mut self, _vcpu: u16, _offset: u64, _now: u64) {}

    /// The task priority, as CR8 has it.
    fn cr8(&mut self, _vcpu: u16) -> u8 {
        0
    }

    /// The vCPU set its task priority through CR8.
    fn set_cr8(&mut self, _vcpu: u16, _cr8: u8) {}

    /// Whether the task priority alone keeps an interrupt from the vCPU.
    fn held_by_tpr(&mut self, _vcpu: u16) -> bool {
        false
    }
}
