//! Our nested hypervisor: it runs L1 on any [`Silicon`](crate::silicon::Silicon), and gives L1 the VMX of real hardware.

mod bus;
mod start;

pub use bus::{Bus, BusEvent};
pub use start::{Segment, Start};

use hv_defs::event::Stop;

/// Bytes of host-physical memory, from 0, that are L0's own: VMCS regions and EPT paging structures. L1's RAM follows:
/// L1-physical address `a` lies at host-physical `L0_MEMORY + a`.
pub const L0_MEMORY: u64 = 32 << 20;

/// What became of a vCPU that was run until its next exit.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Ran {
    /// The exit was handled; the vCPU can go on.
    Ready,
    /// `until` was reached; the vCPU can go on.
    Slice,
    /// The vCPU (or its L2) waits for an interrupt. It need not be run before the board has one for it.
    Halted,
    /// The run is over.
    Stop(Stop),
}
