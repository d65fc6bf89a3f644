//! Our nested hypervisor: it runs L1 on any [`Silicon`], and gives L1 the VMX of real hardware.
//!
//! [`L0::run_vcpu`] enters silicon once and handles the exit that follows; [`L0::run_turn`] goes on while that concerns
//! nobody else. A handler gets a `Cx`, through which alone it reaches VMCSs and flushes, so that each is told to the log; it
//! returns who handled the exit and what comes next.
//!
//! Not here: what a device does, and when which vCPU runs. L0 opens no file, reads no clock, and decides by nothing but
//! its configuration, what silicon answers and what the board answers.

mod apicv;
mod audit;
mod bus;
mod capabilities;
mod cpuid;
mod cr;
mod cx;
mod deliver;
mod depth;
mod ept01;
mod ept02;
mod ept12;
mod exit;
mod fields;
mod frames;
mod handle;
mod io;
mod kept;
mod look;
mod mmio;
mod monitor;
mod msr;
mod next;
mod operand;
mod owner;
mod paging;
mod place;
mod pool;
mod run;
mod saved;
mod setup;
mod shadow;
mod shadow02;
mod shadowing;
mod signal;
mod start;
mod task;
mod trail;
mod vcpu;
mod vmcs02;
mod vmcs12;
mod vmx;
mod vpid;
mod whereabouts;

pub use audit::Unsynced;
pub use bus::{Bus, BusEvent, Ram, Signals};
pub use depth::DEEPEST;
pub use kept::{EptRoot, PoolSlot};
pub use look::Guest;
pub use start::{Segment, Start};
pub use trail::{Ended, Step, Trail};
pub use vpid::VpidMap;

use crate::silicon::{Pcpu, Registers, Silicon};
use crate::world::Log;
use capabilities::Capabilities;
use cx::Cx;
use depth::Depths;
use ept01::Ept01;
use ept02::Ept02;
use frames::Frames;
use hv_defs::addr::{Gpa, Hpa};
use hv_defs::config::{self, Config};
use hv_defs::event::{Stamp, Stop, Which};
use hv_defs::policy::{Policy, Shadowing, Tags};
use hv_defs::slip::Slips;
use hv_defs::x86::{Cr4, msr as number};
use saved::SavedVmcs;
use serde::{Deserialize, Serialize};
use setup::Limits;
use shadow02::Servable;
use vcpu::{Operation, VMCS01, Vcpu};
use vpid::{Tag, Tagging, Vpids};

/// Bytes of host-physical memory, from 0, that are L0's own: VMCS regions and EPT paging structures. L1's RAM follows,
/// without the hole that L1 sees in it: see [`ram`].
pub const L0_MEMORY: u64 = 32 << 20;

/// Bytes of L1's RAM below 4 GiB at most: above it lie the board's devices.
pub const LOW_RAM_LIMIT: u64 = 3 << 30;

/// Where L1's RAM goes on when there is more.
pub const HIGH_RAM: u64 = 4 << 30;

/// Bytes of L1's RAM at most.
pub const RAM_LIMIT: u64 = 64 << 30;

/// The host-physical address of `bytes` of L1's RAM, of which there are `memory` bytes; `None` when they are not all RAM,
/// or lie on both sides of the hole.
pub fn ram(memory: u64, at: Gpa, bytes: u64) -> Option<Hpa> {
    let low_end = memory.min(LOW_RAM_LIMIT);
    let inside = |from: u64, end: u64| at.0 >= from && at.0 < end && end - at.0 >= bytes;
    if inside(0, low_end) {
        Some(Hpa(L0_MEMORY + at.0))
    } else if inside(HIGH_RAM, HIGH_RAM + (memory - low_end)) {
        Some(Hpa(L0_MEMORY + low_end + (at.0 - HIGH_RAM)))
    } else {
        None
    }
}

/// Physical CPUs at most.
const PCPUS: u16 = 64;

/// The width of physical addresses, as L1 is shown it.
const ADDRESS_BITS: u32 = 46;

/// CR4 bits that L1 may set where silicon has them.
const CR4_OFFERED: Cr4 = Cr4::VME
    .union(Cr4::PVI)
    .union(Cr4::TSD)
    .union(Cr4::DE)
    .union(Cr4::PSE)
    .union(Cr4::PAE)
    .union(Cr4::MCE)
    .union(Cr4::PGE)
    .union(Cr4::PCE)
    .union(Cr4::OSFXSR)
    .union(Cr4::OSXMMEXCPT)
    .union(Cr4::UMIP)
    .union(Cr4::FSGSBASE)
    .union(Cr4::PCIDE)
    .union(Cr4::LA57)
    .union(Cr4::OSXSAVE)
    .union(Cr4::SMEP)
    .union(Cr4::SMAP)
    .union(Cr4::PKE);

/// What became of a vCPU that was run until its next exit.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Ran {
    /// The exit was handled; the vCPU can go on.
    Ready,
    /// `until` was reached; the vCPU can go on.
    Slice,
    /// The exit was handled; the vCPU can go on, but does nothing but wait for another: it spins.
    Spins,
    /// The vCPU (or its L2) waits for an interrupt. It need not be run before the board has one for it.
    Halted,
    /// Silicon was stopped by who watches it. The vCPU goes on where it is.
    Paused,
    /// The run is over.
    Stop(Stop),
}

/// Why L0 cannot run under a configuration.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Error {
    /// A number out of range.
    #[error("{what} is {value}, and must be {range}")]
    Range {
        /// Which number.
        what: &'static str,
        /// What it is.
        value: u64,
        /// What it must be, in words.
        range: &'static str,
    },
    /// Silicon lacks something.
    #[error("the silicon does not have {0}, without which L0 cannot run")]
    Silicon(&'static str),
    /// Physical memory is not what the layout needs.
    #[error("the silicon has {got:#x} bytes of memory, and L0 with this guest needs {needed:#x}")]
    Memory {
        /// Bytes that there are.
        got: u64,
        /// Bytes that it takes.
        needed: u64,
    },
}

/// What all vCPUs share.
#[derive(Debug, Serialize, Deserialize)]
struct Shared {
    policy: Policy,
    slips: Slips,
    log_vmcs: bool,
    /// Bytes of L1's RAM.
    ram: u64,
    pcpus: Pcpu,
    address_bits: u32,
    /// Bits of a paging-structure entry that are beyond the address width.
    reserved_address_bits: u64,
    /// L1 may make execute-only translations.
    execute_only: bool,
    frames: Frames,
    ept01: Ept01,
    vpids: Vpids,
    capabilities: Capabilities,
    limits: Limits,
    /// What silicon can serve of VMCS shadowing, once that is asked for.
    servable: Option<Servable>,
    /// Guests that spin exit, and let another vCPU run.
    spins: bool,
    /// By vCPU: the EPT02 that its L2 runs on now.
    roots_in_use: Vec<Option<usize>>,
    /// How deep the guests of L1's VMCSs are.
    depths: Depths,
    /// Exits since an instruction was executed.
    still: u32,
    /// What the audit of EPT02s has found, while there is one.
    #[serde(skip)]
    audit: Option<Vec<Unsynced>>,
}

/// The nested hypervisor, with the silicon that it runs on.
#[derive(Debug, Serialize, Deserialize)]
pub struct L0<S: Silicon> {
    /// What runs the instructions.
    pub silicon: S,
    shared: Shared,
    ept02: Ept02,
    vcpus: Vec<Vcpu>,
    /// By physical CPU: the vCPU whose registers it holds.
    residents: Vec<Option<usize>>,
    /// Every exit ends [`L0::run_turn`].
    #[serde(skip)]
    fine: bool,
}

/// Whether L0 can run under a configuration, whatever the silicon.
pub(crate) fn check(config: &Config) -> Result<(), Error> {
    let range = |what, value: u64, good: bool, range| {
        if good { Ok(()) } else { Err(Error::Range { what, value, range }) }
    };
    let (memory, policy) = (config.memory, &config.policy);
    let whole = memory > 0 && memory.is_multiple_of(4096) && memory <= RAM_LIMIT;
    range("the guest's memory", memory, whole, "a multiple of 4096 from 4096 to 64 GiB")?;
    range("the number of vCPUs", config.vcpus.into(), (1..=256).contains(&config.vcpus), "from 1 to 256")?;
    range("the number of physical CPUs", config.pcpus.into(), (1..=PCPUS).contains(&config.pcpus), "from 1 to 64")?;
    range("the pool's size", policy.pool.into(), (1..=256).contains(&policy.pool), "from 1 to 256")
}

impl L0<crate::soft::SoftSilicon> {
    /// Whether it can take the place of `other`: it runs as many vCPUs under the same rules, on silicon as large.
    pub(crate) fn fits(&self, other: &Self) -> bool {
        let (ours, theirs) = (&self.shared, &other.shared);
        self.vcpus.len() == other.vcpus.len()
            && (ours.ram, ours.policy, ours.slips) == (theirs.ram, theirs.policy, theirs.slips)
            && self.silicon.fits(&other.silicon)
    }
}

impl<S: Silicon> L0<S> {
    /// Takes silicon over: L0's memory is laid out, EPT01 built, and each vCPU gets its vmcs01. The vCPUs wait for
    /// [`L0::start`].
    ///
    /// # Errors
    /// When the configuration asks for what L0 does not have, or for more than silicon has.
    pub fn new(config: &Config, mut silicon: S) -> Result<Self, Error> {
        check(config)?;
        let vpid = config.policy.tags != Tags::Off;
        let shadowing = config.policy.shadowing == Shadowing::Virtualized;
        if let Some(what) = setup::missing(&silicon, vpid, shadowing) {
            return Err(Error::Silicon(what));
        }
        let needed = L0_MEMORY + config.memory;
        let memory = Error::Memory { got: silicon.memory_size(), needed };
        if silicon.memory_size() < needed {
            return Err(memory);
        }
        let mut frames = Frames::new();
        let root_for_l2 = setup::gives_l2_a_root(&config.policy, config.slips);
        let ept01 = Ept01::new(&mut silicon, &mut frames, config.memory, root_for_l2).ok_or(memory.clone())?;
        let cr4 = CR4_OFFERED.bits() & silicon.capability(number::VMX_CR4_FIXED1);
        let capabilities = capabilities::offered(&silicon, cr4, config.policy.shadowing != Shadowing::Off);
        let mut shared = Shared {
            policy: config.policy,
            slips: config.slips,
            log_vmcs: config.log >= config::Log::Vmcs,
            ram: config.memory,
            pcpus: config.pcpus.into(),
            address_bits: ADDRESS_BITS,
            reserved_address_bits: ((1 << 52) - 1) & !((1 << ADDRESS_BITS) - 1),
            execute_only: capabilities.ept_vpid.contains(hv_defs::controls::EptVpidCap::EXECUTE_ONLY),
            frames,
            ept01,
            vpids: Vpids::default(),
            limits: Limits::new(&silicon),
            servable: None,
            spins: setup::spins(&silicon, config.vcpus),
            capabilities,
            roots_in_use: vec![None; config.vcpus.into()],
            depths: Depths::default(),
            still: 0,
            audit: None,
        };
        let mut vcpus = Vec::with_capacity(config.vcpus.into());
        for id in 0..config.vcpus {
            let vmcs01 = shared.frames.take().ok_or(memory.clone())?;
            let vpid01 = if vpid { shared.vpids.take() } else { 0 };
            vcpus.push(Vcpu {
                id,
                pcpu: None,
                resident: false,
                bitmap: None,
                ran_on: 0,
                registers: Registers::default(),
                saved: vec![SavedVmcs::new(vmcs01, Which::Vmcs01)],
                current: VMCS01,
                level: 1,
                depth: 0,
                used: depth::Used::default(),
                waits: Some(monitor::Wait::Halt),
                line: None,
                last_exit: None,
                started: false,
                waits_for_sipi: id != 0,
                cr8: 0,
                entry_pending: false,
                paused: None,
                requeued: None,
                msrs: msr::Msrs::new(),
                vmx: Operation::default(),
                vmcs12: vmcs12::Vmcs12::new(),
                pool: pool::Pool::default(),
                tagging: Tagging::new(vpid01),
                tag: Tag::default(),
                root: None,
            });
        }
        let residents = vec![None; config.pcpus.into()];
        Ok(Self { silicon, shared, ept02: Ept02::new(config.memory), vcpus, residents, fine: false })
    }

    /// What a handler works on.
    fn cx<'a>(&'a mut self, vcpu: usize, cpu: Pcpu, bus: &'a mut dyn Bus, log: &'a mut Log) -> Cx<'a, S> {
        let at = Stamp { instruction: self.silicon.retired(), vcpu: vcpu as u16, pcpu: cpu as u16 };
        Cx {
            silicon: &mut self.silicon,
            vcpu: &mut self.vcpus[vcpu],
            shared: &mut self.shared,
            ept02: &mut self.ept02,
            bus: cx::Asked::new(bus),
            calm: false,
            log: &mut log.events,
            cpu,
            at,
        }
    }
}

#[cfg(test)]
mod tests;
