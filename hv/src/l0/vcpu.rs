//! A virtual CPU of L1.

use super::depth::Used;
use super::monitor::{Line, Wait};
use super::msr::Msrs;
use super::pool::Pool;
use super::saved::SavedVmcs;
use super::vmcs12::Vmcs12;
use super::vpid::{Tag, Tagging};
use crate::silicon::{Pcpu, Registers};
use hv_defs::addr::{Gpa, Hpa};
use hv_defs::event::Stamp;
use hv_defs::exit::ExitReason;
use serde::{Deserialize, Serialize};

/// vmcs01's number among a vCPU's VMCSs.
pub(super) const VMCS01: usize = 0;

/// What L1's VMX operation is in.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(super) struct Operation {
    /// The VMXON region; `None` outside VMX operation.
    pub(super) vmxon: Option<Gpa>,
    /// How many there have been: the number of this one, or of the last.
    pub(super) operation: u32,
    /// Whether `vmcs12` is current.
    pub(super) current: bool,
    /// The slot of the vmcs02 that L2 runs on, while it does.
    pub(super) slot: usize,
}

/// A virtual CPU of L1.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Vcpu {
    pub(super) id: u16,
    /// The physical CPU that it was on last, where its VMCSs are active.
    pub(super) pcpu: Option<Pcpu>,
    /// Whether its registers are there now.
    pub(super) resident: bool,
    /// The page of its MSR bitmap.
    pub(super) bitmap: Option<Hpa>,
    /// The physical CPUs that it ever ran on.
    pub(super) ran_on: u64,
    /// Its registers, while no physical CPU holds them.
    pub(super) registers: Registers,
    /// vmcs01, then the vmcs02s.
    pub(super) saved: Vec<SavedVmcs>,
    /// Which of them is current.
    pub(super) current: usize,
    /// Which guest runs: 1 for L1, 2 for the guest of its current vmcs12, whatever that is for the rest of the world.
    pub(super) level: u8,
    /// How deep the guest of the vmcs12 entered last is: 2 for L1's own, 3 for the guest of that one.
    pub(super) depth: u8,
    /// The vmcs12s that it used last.
    pub(super) used: Used,
    /// It waits for an interrupt, and perhaps for more.
    pub(super) waits: Option<Wait>,
    /// What MONITOR has armed: the hardware's, and so lost at each entry to L2 and each exit to L1.
    pub(super) line: Option<Line>,
    /// Why it exited last.
    pub(super) last_exit: Option<ExitReason>,
    /// It has been given a state to start from.
    pub(super) started: bool,
    /// It waits for a start-up IPI, and nothing else counts.
    pub(super) waits_for_sipi: bool,
    /// The task priority that the board was told last.
    pub(super) cr8: u8,
    /// L1 has entered L2, and silicon has not done so yet.
    pub(super) entry_pending: bool,
    /// Silicon was stopped by who watches it, and is to go on: when the entry was, when it ends at the latest, and when the
    /// turn does.
    pub(super) paused: Option<(Stamp, u64, u64)>,
    /// An interrupt whose delivery was cut short, to be delivered once it can be.
    pub(super) requeued: Option<u8>,
    pub(super) msrs: Msrs,
    pub(super) vmx: Operation,
    pub(super) vmcs12: Vmcs12,
    pub(super) pool: Pool,
    pub(super) tagging: Tagging,
    /// What L2 runs under, while it does.
    pub(super) tag: Tag,
    /// The EPT02 loaded last.
    pub(super) root: Option<usize>,
}

impl Vcpu {
    /// The level of the guest that runs: 1 for L1, and else how deep it is.
    pub(super) fn shown_level(&self) -> u8 {
        if self.level == 1 { 1 } else { self.depth }
    }
}
