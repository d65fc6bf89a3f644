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
}

/// The devices, as L0 asks them. `now` is the machine's clock, in instructions retired.
pub trait Bus {
    /// Reads `size` (1, 2 or 4) bytes from a port; all ones where nothing answers.
    fn io_in(&mut self, port: u16, size: u8, now: u64) -> u32;

    /// Writes `size` (1, 2 or 4) bytes to a port.
    fn io_out(&mut self, port: u16, size: u8, value: u32, now: u64) -> Option<BusEvent>;

    /// Reads `size` (1, 2, 4 or 8) bytes of L1-physical memory that is no RAM; `None` where nothing answers.
    fn mmio_read(&mut self, vcpu: u16, at: Gpa, size: u8, now: u64) -> Option<u64>;

    /// Writes `size` (1, 2, 4 or 8) bytes of L1-physical memory that is no RAM; `false` where nothing answers.
    fn mmio_write(&mut self, vcpu: u16, at: Gpa, size: u8, value: u64, now: u64) -> bool;

    /// The vector of the interrupt that the controllers would deliver to this vCPU now.
    fn interrupt(&mut self, vcpu: u16, now: u64) -> Option<u8>;

    /// The vCPU took the interrupt that [`Bus::interrupt`] told of last.
    fn acknowledge(&mut self, vcpu: u16, now: u64);
}
