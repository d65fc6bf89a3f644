//! The least L1 that runs an L2: its vmcs12 is prepared in memory, so that all it does is VMXON, VMPTRLD, VMLAUNCH, and
//! VMRESUME again and again. L2 does nothing but VMCALL.

#![allow(dead_code)] // Each user takes what it needs.

use hv::l0::{Bus, BusEvent, L0, L0_MEMORY, Ran, Start};
use hv::silicon::Silicon;
use hv::soft::SoftSilicon;
use hv::vmcs::{REVISION, Vmcs};
use hv::world::Log;
use hv_defs::addr::{Gpa, Hpa};
use hv_defs::config::{Config, Guest};
use hv_defs::event::Event;
use hv_defs::policy::Policy;
use hv_defs::vmcs::*;
use iced_x86::IcedError;
use iced_x86::code_asm::*;

/// The mark that L1 sets when it is done.
pub(crate) const ROUNDS_DONE: u32 = 0x600d;

const RAM: u64 = 16 << 20;
const PML4: u64 = 0x1000;
const CODE: u64 = 0x8000;
const STACK: u64 = 0xc000;
const VMXON: u64 = 0x1_0000;
const VMCS12: u64 = 0x1_1000;
const EPT12: u64 = 0x2_0000;
/// L2's memory, and in it what L2 sees from address 0: page tables at 0x1000, code at 0x8000.
const L2: u64 = 0x40_0000;

/// A board with nothing on it but the marks.
#[derive(Default)]
pub(crate) struct Bare;

impl Bus for Bare {
    fn io_in(&mut self, _port: u16, _size: u8, _now: u64) -> u32 {
        u32::MAX
    }

    fn io_out(&mut self, port: u16, _size: u8, value: u32, _now: u64) -> Option<BusEvent> {
        (port == 0xe9a).then_some(BusEvent::Mark(value))
    }

    fn mmio_read(&mut self, _vcpu: u16, _at: Gpa, _size: u8, _now: u64) -> Option<u64> {
        None
    }

    fn mmio_write(&mut self, _vcpu: u16, _at: Gpa, _size: u8, _value: u64, _now: u64) -> bool {
        false
    }

    fn dma(&mut self, _at: Gpa, _ram: &mut dyn hv::l0::Ram) {}

    fn interrupt(&mut self, _vcpu: u16, _now: u64) -> Option<u8> {
        None
    }

    fn acknowledge(&mut self, _vcpu: u16, _now: u64) {}
}

/// A machine with that L1.
pub(crate) struct Nested {
    pub(crate) l0: L0<SoftSilicon>,
    pub(crate) log: Log,
    bus: Bare,
}

/// What L1 does until it is in L2.
fn enters(rounds: u32) -> Result<Vec<u8>, IcedError> {
    let mut a = CodeAssembler::new(64)?;
    let mut fail = a.create_label();
    a.vmxon(qword_ptr(STACK - 0x100))?;
    a.jbe(fail)?;
    a.vmptrld(qword_ptr(STACK - 0xf8))?;
    a.jbe(fail)?;
    a.mov(ebx, rounds)?;
    a.vmlaunch()?;
    a.set_label(&mut fail)?;
    ends(&mut a, 0xbad)?;
    a.assemble(CODE)
}

/// What it does when L2 has exited: it reads its vmcs12 `reads` times.
fn resumes(reads: u32) -> Result<Vec<u8>, IcedError> {
    let mut a = CodeAssembler::new(64)?;
    let mut done = a.create_label();
    if reads > 0 {
        a.mov(ecx, EXIT_REASON.field().0)?;
    }
    for _ in 0..reads {
        a.vmread(rax, rcx)?;
    }
    a.dec(ebx)?;
    a.jz(done)?;
    a.vmresume()?;
    ends(&mut a, 0xbad)?;
    a.set_label(&mut done)?;
    a.vmxoff()?;
    ends(&mut a, ROUNDS_DONE)?;
    a.assemble(HOST_RIP_OF_L1)
}

fn ends(a: &mut CodeAssembler, mark: u32) -> Result<(), IcedError> {
    a.mov(eax, mark)?;
    a.mov(edx, 0xe9au32)?;
    a.out(dx, eax)?;
    a.hlt()
}

/// Where L1 is after an exit of L2's.
const HOST_RIP_OF_L1: u64 = CODE + 0x100;

/// A vmcs12 for that L2.
fn vmcs12(policy_vpid: u16) -> Vmcs {
    let mut v = Vmcs::default();
    let mut put = |field: VmcsField, value: u64| {
        v.write(field, value);
    };
    for (field, value) in [
        (PIN_BASED_CONTROLS.field(), 0x16),
        (PRIMARY_CONTROLS.field(), 0x8400_6172),
        (SECONDARY_CONTROLS.field(), 0xa2), // EPT, VPID, unrestricted guest
        (EXIT_CONTROLS.field(), 0x0003_6fff),
        (ENTRY_CONTROLS.field(), 0x13ff),
        (VPID.field(), policy_vpid.into()),
        (EPT_POINTER.field(), EPT12 | 0x1e),
        (VMCS_LINK_POINTER.field(), u64::MAX),
        (HOST_CR0.field(), 0x8000_0033),
        (HOST_CR3.field(), PML4),
        (HOST_CR4.field(), 0x2020),
        (HOST_RIP.field(), HOST_RIP_OF_L1),
        (HOST_RSP.field(), STACK),
        (HOST_CS_SELECTOR.field(), 0x10),
        (HOST_SS_SELECTOR.field(), 0x18),
        (HOST_DS_SELECTOR.field(), 0x18),
        (HOST_ES_SELECTOR.field(), 0x18),
        (HOST_TR_SELECTOR.field(), 0x20),
        (GUEST_CR0.field(), 0x8000_0033),
        (GUEST_CR3.field(), 0x1000),
        (GUEST_CR4.field(), 0x2020),
        (GUEST_RIP.field(), 0x8000),
        (GUEST_RFLAGS.field(), 2),
        (GUEST_DR7.field(), 0x400),
        (GUEST_CS_SELECTOR.field(), 0x10),
        (GUEST_CS_ACCESS_RIGHTS.field(), 0xa09b),
        (GUEST_TR_ACCESS_RIGHTS.field(), 0x8b),
        (GUEST_TR_LIMIT.field(), 0x67),
        (GUEST_LDTR_ACCESS_RIGHTS.field(), 0x1_0000),
        (GUEST_CS_LIMIT.field(), 0xffff_ffff),
        (GUEST_SS_LIMIT.field(), 0xffff_ffff),
        (GUEST_DS_LIMIT.field(), 0xffff_ffff),
        (GUEST_ES_LIMIT.field(), 0xffff_ffff),
        (GUEST_FS_LIMIT.field(), 0xffff_ffff),
        (GUEST_GS_LIMIT.field(), 0xffff_ffff),
        (GUEST_SS_ACCESS_RIGHTS.field(), 0xc093),
        (GUEST_DS_ACCESS_RIGHTS.field(), 0xc093),
        (GUEST_ES_ACCESS_RIGHTS.field(), 0xc093),
        (GUEST_FS_ACCESS_RIGHTS.field(), 0xc093),
        (GUEST_GS_ACCESS_RIGHTS.field(), 0xc093),
    ] {
        put(field, value);
    }
    v
}

impl Nested {
    /// A machine under `policy` whose L1 enters L2 `rounds` times.
    pub(crate) fn new(policy: Policy, rounds: u32) -> Self {
        let mut config = Config::new(Guest::BuiltIn("round trips".to_owned()));
        config.memory = RAM;
        config.policy = policy;
        Self::with(&config, rounds)
    }

    /// As [`Nested::new`], with all of the configuration.
    pub(crate) fn with(config: &Config, rounds: u32) -> Self {
        Self::with_reads(config, rounds, 0)
    }

    /// As [`Nested::with`], with so many VMREADs by L1 in each round.
    pub(crate) fn with_reads(config: &Config, rounds: u32, reads: u32) -> Self {
        let silicon = SoftSilicon::new(L0_MEMORY + config.memory, config.pcpus, config.tlb_entries, config.seed)
            .with_la57(config.la57);
        let mut nested = Self { l0: L0::new(config, silicon).unwrap(), log: Log::default(), bus: Bare };
        let words = [
            (PML4, 0x2003),
            (0x2000, 0x83),
            (STACK - 0x100, VMXON),
            (STACK - 0xf8, VMCS12),
            (VMXON, REVISION.into()),
            (EPT12, (EPT12 + 0x1000) | 7),
            (EPT12 + 0x1000, (EPT12 + 0x2000) | 7),
            (EPT12 + 0x2000, L2 | 0xb7),
            (L2 + 0x1000, 0x2003),
            (L2 + 0x2000, 0x83),
        ];
        for (at, word) in words {
            nested.write(at, &word.to_le_bytes());
        }
        nested.write(CODE, &enters(rounds).unwrap());
        nested.write(HOST_RIP_OF_L1, &resumes(reads).unwrap());
        nested.write(VMCS12, &vmcs12(1).to_bytes());
        nested.write(L2 + 0x8000, &[0x0f, 0x01, 0xc1]); // VMCALL
        let mut start = Start::long_mode(CODE, STACK, PML4, (0, 0));
        start.cr4 |= 0x2000;
        start.tr.selector = 0x20;
        nested.l0.start(0, 0, &start, &mut nested.bus, &mut nested.log);
        nested
    }

    fn write(&mut self, gpa: u64, bytes: &[u8]) {
        self.l0.silicon.write(Hpa(L0_MEMORY + gpa), bytes);
    }

    /// A digest of the state.
    pub(crate) fn digest(&mut self) -> u64 {
        self.l0.silicon.digest()
    }

    /// Runs until the end, and says how it ended, with all events.
    pub(crate) fn run(&mut self) -> (Ran, Vec<Event>) {
        let mut events = Vec::new();
        loop {
            let ran = self.step();
            events.append(&mut self.log.events);
            if !matches!(ran, Ran::Ready | Ran::Slice) {
                return (ran, events);
            }
        }
    }

    /// One entry and the exit after it.
    pub(crate) fn step(&mut self) -> Ran {
        self.step_on(0)
    }

    /// As the machine does: one entry and the exit after it, and more while L0 alone is concerned.
    pub(crate) fn turn(&mut self) -> Ran {
        self.l0.run_turn(0, 0, &mut self.bus, &mut self.log, u64::MAX)
    }

    /// As [`Nested::step`], on any physical CPU.
    pub(crate) fn step_on(&mut self, cpu: usize) -> Ran {
        self.l0.run_vcpu(0, cpu, &mut self.bus, &mut self.log, u64::MAX)
    }
}
