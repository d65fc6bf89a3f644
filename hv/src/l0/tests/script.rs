//! A silicon that executes nothing: it answers each entry with the exit that the test prepared, and a bench on it that
//! plays L1 and L2.

use super::super::{Bus, BusEvent, L0, L0_MEMORY, Ram, Ran, Signals, Start};
use crate::silicon::{Exited, Outcome, Pcpu, Refused, Registers, Silicon};
use crate::vmcs::Vmcs;
use crate::vmx::capability::MISC_VMWRITE_ANY;
use crate::world::Log;
use hv_defs::addr::{Gpa, Hpa};
use hv_defs::config::{Config, Guest};
use hv_defs::controls::{EptVpidCap, ExitControls, PinBased, PrimaryControls, SecondaryControls};
use hv_defs::ept::{Eptp, InveptDescriptor, InveptType, InvvpidDescriptor, InvvpidType};
use hv_defs::event::{Actor, Check, Event, What};
use hv_defs::exit::{ExitReason, InstructionInfo, Reason};
use hv_defs::instruction_error::InstructionError;
use hv_defs::policy::Policy;
use hv_defs::vmcs::{self, Field, FieldValue, VmcsField};
use hv_defs::x86::{Rflags, msr};
use std::collections::BTreeMap;

/// Bytes of L1's RAM.
pub(super) const RAM: u64 = 16 << 20;

/// What an entry is answered with: fields of the VMCS that ran.
pub(super) type Answer = Vec<(VmcsField, u64)>;

/// The silicon.
pub(crate) struct Scripted {
    memory: Vec<u8>,
    vmcss: BTreeMap<u64, Vmcs>,
    current: Vec<Hpa>,
    pub(super) registers: Vec<Registers>,
    next: Option<Answer>,
    clock: u64,
    /// The next entry fails on guest state.
    pub(super) fails: bool,
    /// The next entry is refused.
    pub(super) refuses: bool,
    /// The VMCSs that were entered, in order, with whether by VMLAUNCH.
    pub(super) entered: Vec<(Hpa, bool)>,
    /// What each CPU was told to drop.
    pub(super) dropped: Vec<String>,
    /// Where memory was written.
    pub(super) written: Vec<Hpa>,
}

impl Scripted {
    fn new(pcpus: usize) -> Self {
        Self {
            memory: vec![0; (L0_MEMORY + RAM) as usize],
            vmcss: BTreeMap::new(),
            current: vec![Hpa(0); pcpus],
            registers: vec![Registers::default(); pcpus],
            next: None,
            clock: 0,
            fails: false,
            refuses: false,
            entered: Vec::new(),
            dropped: Vec::new(),
            written: Vec::new(),
        }
    }

    /// The VMCS in a region.
    pub(super) fn vmcs(&mut self, at: u64) -> &mut Vmcs {
        self.vmcss.get_mut(&at).unwrap()
    }
}

impl Silicon for Scripted {
    fn capability(&self, number: u32) -> u64 {
        match number {
            msr::VMX_BASIC => 1 << 55,
            msr::VMX_TRUE_PINBASED_CTLS => 0xffff_ffff_0000_0016,
            msr::VMX_TRUE_PROCBASED_CTLS => 0xffff_ffff_0400_6172,
            msr::VMX_TRUE_EXIT_CTLS => 0xffff_ffff_0003_6dfb,
            msr::VMX_TRUE_ENTRY_CTLS => 0xffff_ffff_0000_11fb,
            msr::VMX_PROCBASED_CTLS2 => 0xffff_ffff_0000_0000,
            msr::VMX_EPT_VPID_CAP => EptVpidCap::all().bits(),
            msr::VMX_CR4_FIXED1 => 0x003f_ffff,
            msr::VMX_MISC => MISC_VMWRITE_ANY,
            _ => 0,
        }
    }

    fn memory_size(&self) -> u64 {
        self.memory.len() as u64
    }

    fn read(&mut self, at: Hpa, into: &mut [u8]) {
        into.copy_from_slice(&self.memory[at.0 as usize..][..into.len()]);
    }

    fn write(&mut self, at: Hpa, bytes: &[u8]) {
        self.written.push(at);
        self.memory[at.0 as usize..][..bytes.len()].copy_from_slice(bytes);
    }

    fn vmclear(&mut self, cpu: Pcpu, vmcs: Hpa) {
        self.vmcss.entry(vmcs.0).or_default().launched = 0;
        if self.current[cpu] == vmcs {
            self.current[cpu] = Hpa(0);
        }
    }

    fn vmptrld(&mut self, cpu: Pcpu, vmcs: Hpa) {
        assert!(self.vmcss.contains_key(&vmcs.0), "never cleared: {vmcs:?}");
        self.current[cpu] = vmcs;
    }

    fn vmread(&mut self, cpu: Pcpu, field: VmcsField) -> u64 {
        self.vmcss[&self.current[cpu].0].read(field).unwrap()
    }

    fn vmwrite(&mut self, cpu: Pcpu, field: VmcsField, value: u64) {
        self.vmcss.get_mut(&self.current[cpu].0).unwrap().write(field, value).unwrap();
    }

    fn registers(&mut self, cpu: Pcpu) -> &mut Registers {
        &mut self.registers[cpu]
    }

    fn enter(&mut self, cpu: Pcpu, launch: bool, _until: u64) -> Result<Outcome, Refused> {
        let vmcs = self.vmcss.get_mut(&self.current[cpu].0).unwrap();
        assert_eq!(vmcs.launched == 0, launch, "launch state of {:?}", self.current[cpu]);
        if core::mem::take(&mut self.refuses) {
            let error = Some(InstructionError::ENTRY_INVALID_CONTROL_FIELD);
            return Err(Refused { error, check: Some(Check::new("scripted")) });
        }
        if core::mem::take(&mut self.fails) {
            vmcs.set(vmcs::EXIT_REASON, ExitReason::of(Reason::INVALID_GUEST_STATE).with_entry_failure(true));
            vmcs.set(vmcs::EXIT_QUALIFICATION, 0);
            return Ok(Outcome::EntryFailed(Check::new("guest-scripted")));
        }
        vmcs.launched = 1;
        self.entered.push((self.current[cpu], launch));
        self.clock += 1;
        let info = vmcs.get(vmcs::ENTRY_INTERRUPTION_INFO).with_valid(false);
        vmcs.set(vmcs::ENTRY_INTERRUPTION_INFO, info);
        vmcs.set(vmcs::IDT_VECTORING_INFO, Default::default());
        for (field, value) in self.next.take().expect("an answer is prepared") {
            vmcs.write(field, value).unwrap();
        }
        Ok(Outcome::Exited(Exited::default()))
    }

    fn invvpid(&mut self, cpu: Pcpu, kind: InvvpidType, descriptor: InvvpidDescriptor) -> u32 {
        self.dropped.push(format!("{cpu}: invvpid {kind:?} {}", descriptor.vpid));
        0
    }

    fn invept(&mut self, cpu: Pcpu, kind: InveptType, descriptor: InveptDescriptor) -> u32 {
        self.dropped.push(format!("{cpu}: invept {kind:?} {:#x}", descriptor.eptp.ep4ta()));
        0
    }

    fn retired(&self) -> u64 {
        self.clock
    }

    fn skip(&mut self, to: u64) {
        self.clock = to;
    }

    fn digest(&mut self) -> u64 {
        0
    }
}

/// A board with one port, and an interrupt that the test sets.
#[derive(Default)]
pub(super) struct Wires {
    pub(super) written: Vec<(u16, u32)>,
    pub(super) interrupt: Option<u8>,
    pub(super) signals: Signals,
    /// The task priority keeps an interrupt back.
    pub(super) held: bool,
}

impl Bus for Wires {
    fn io_in(&mut self, port: u16, _size: u8, _now: u64) -> u32 {
        u32::from(port) + 1
    }

    fn io_out(&mut self, port: u16, _size: u8, value: u32, _now: u64) -> Option<BusEvent> {
        self.written.push((port, value));
        (port == 0xe9a).then_some(BusEvent::Mark(value))
    }

    fn mmio_read(&mut self, _vcpu: u16, at: Gpa, _size: u8, _now: u64) -> Option<u64> {
        Some(at.0 & 0xff)
    }

    fn mmio_write(&mut self, _vcpu: u16, _at: Gpa, _size: u8, _value: u64, _now: u64) -> bool {
        true
    }

    fn dma(&mut self, _at: Gpa, _ram: &mut dyn Ram) {}

    fn interrupt(&mut self, _vcpu: u16, _now: u64) -> Option<u8> {
        self.interrupt
    }

    fn acknowledge(&mut self, _vcpu: u16, _now: u64) {
        self.interrupt = None;
    }

    fn signals(&mut self, _vcpu: u16) -> Signals {
        self.signals
    }

    fn take_nmi(&mut self, _vcpu: u16) {
        self.signals.nmi = false;
    }

    fn take_init(&mut self, _vcpu: u16, _reset: bool) {
        self.signals.init = false;
    }

    fn take_start_up(&mut self, _vcpu: u16) {
        self.signals.start_up = None;
    }

    fn held_by_tpr(&mut self, _vcpu: u16) -> bool {
        self.held
    }
}

/// Where L1's structures lie.
pub(super) const PML4: u64 = 0x1000;
pub(super) const VMXON: u64 = 0x1_0000;
pub(super) const VMCS_A: u64 = 0x1_1000;
/// A memory operand.
pub(super) const OPERAND: u64 = 0x2_0000;
/// EPT12: PML4, PDPT, PD, PT.
pub(super) const EPT12: u64 = 0x3_0000;
/// Where L2's first pages lie.
pub(super) const L2_PAGES: u64 = 0x40_0000;

/// L0 with one vCPU of L1 that does what the test says.
pub(super) struct Bench {
    pub(super) l0: L0<Scripted>,
    pub(super) bus: Wires,
    pub(super) log: Log,
    pub(super) cpu: Pcpu,
}

impl Bench {
    /// L1 in 64-bit mode with CR4.VMXE set, 1 GiB identity-mapped.
    pub(super) fn new(policy: Policy) -> Self {
        let mut config = Config::new(Guest::BuiltIn("test".to_owned()));
        config.memory = RAM;
        config.pcpus = 2;
        config.policy = policy;
        let mut bench = Self {
            l0: L0::new(&config, Scripted::new(2)).unwrap(),
            bus: Wires::default(),
            log: Log::default(),
            cpu: 0,
        };
        bench.store(PML4, (PML4 + 0x1000) | 3);
        bench.store(PML4 + 0x1000, 0x83);
        let mut start = Start::long_mode(0x8000, 0x9000, PML4, (0, 0));
        start.cr4 |= 0x2000;
        bench.l0.start(0, 0, &start, &mut bench.bus, &mut bench.log);
        bench
    }

    /// A preset.
    pub(super) fn preset(name: &str) -> Self {
        Self::new(Policy::preset(name).unwrap())
    }

    /// In VMX operation, with vmcs12 A current and fit to be entered: EPT and VPID 5.
    pub(super) fn with_l2(policy: Policy) -> Self {
        let mut bench = Self::new(policy);
        assert_eq!(bench.vmxon(VMXON), Flags::SUCCEED);
        bench.make_ept12();
        bench.make_vmcs12(VMCS_A, 5);
        bench.log.events.clear();
        bench.l0.silicon.dropped.clear();
        bench
    }

    pub(super) fn store(&mut self, gpa: u64, value: u64) {
        self.l0.silicon.write(Hpa(L0_MEMORY + gpa), &value.to_le_bytes());
    }

    pub(super) fn load(&mut self, gpa: u64) -> u64 {
        let mut bytes = [0; 8];
        self.l0.silicon.read(Hpa(L0_MEMORY + gpa), &mut bytes);
        u64::from_le_bytes(bytes)
    }

    /// The guest that runs exits so.
    pub(super) fn exits(&mut self, reason: Reason, more: &[(VmcsField, u64)]) -> Ran {
        let mut answer = vec![
            (vmcs::EXIT_REASON.field(), u64::from(ExitReason::of(reason).into_bits())),
            (vmcs::EXIT_INSTRUCTION_LENGTH.field(), 3),
            (vmcs::EXIT_QUALIFICATION.field(), 0),
        ];
        answer.extend_from_slice(more);
        self.l0.silicon.next = Some(answer);
        self.l0.run_vcpu(0, self.cpu, &mut self.bus, &mut self.log, u64::MAX)
    }

    /// A field of the VMCS that is current on the silicon.
    pub(super) fn now<T: FieldValue>(&mut self, field: Field<T>) -> T {
        T::from_raw(self.l0.silicon.vmread(self.cpu, field.field()))
    }

    /// Gives L1 a state that it would have come to by itself.
    pub(super) fn set_l1<T: FieldValue>(&mut self, field: Field<T>, value: T) {
        let saved = &mut self.l0.vcpus[0].saved[0];
        saved.forget();
        let vmcs01 = saved.hpa.0;
        self.l0.silicon.vmcs(vmcs01).set(field, value);
    }

    /// What L1's time-stamp counter is ahead of silicon's.
    pub(super) fn set_tsc_offset(&mut self, offset: u64) {
        self.l0.vcpus[0].msrs.tsc_offset = offset;
    }

    /// Which guest runs next.
    pub(super) fn level(&self) -> u8 {
        self.l0.vcpus[0].level
    }

    pub(super) fn gpr(&mut self, number: usize) -> &mut u64 {
        &mut self.l0.silicon.registers[self.cpu].gpr[number]
    }

    pub(super) fn cr2(&self) -> u64 {
        self.l0.silicon.registers[self.cpu].cr2
    }

    fn flags(&mut self) -> Flags {
        let flags = Rflags::from_bits_retain(self.now(vmcs::GUEST_RFLAGS));
        if flags.contains(Rflags::CF) {
            Flags::INVALID
        } else if flags.contains(Rflags::ZF) {
            Flags(self.l0.vcpus[0].vmcs12.get(vmcs::VM_INSTRUCTION_ERROR))
        } else {
            Flags::SUCCEED
        }
    }

    /// A VMX instruction with a memory operand at [`OPERAND`], holding `words`, and a second operand in RDX.
    pub(super) fn vmx(&mut self, reason: Reason, words: [u64; 2], second: u64) -> Flags {
        self.store(OPERAND, words[0]);
        self.store(OPERAND + 8, words[1]);
        *self.gpr(0) = OPERAND;
        *self.gpr(2) = second;
        let info =
            InstructionInfo::new().with_address_size(2).with_segment(3).with_base(0).with_no_index(true).with_reg2(2);
        let before = self.now(vmcs::GUEST_RIP);
        assert_eq!(self.exits(reason, &[(vmcs::EXIT_INSTRUCTION_INFO.field(), info.into_bits().into())]), Ran::Ready);
        if self.l0.vcpus[0].level == 1 && self.now(vmcs::GUEST_RIP) == before {
            return Flags::fault(self.now(vmcs::ENTRY_INTERRUPTION_INFO).vector());
        }
        self.flags()
    }

    pub(super) fn vmxon(&mut self, region: u64) -> Flags {
        let revision = u64::from(crate::vmcs::REVISION);
        self.store(region, revision);
        self.vmx(Reason::VMXON, [region, 0], 0)
    }

    pub(super) fn vmptrld(&mut self, region: u64) -> Flags {
        self.vmx(Reason::VMPTRLD, [region, 0], 0)
    }

    pub(super) fn vmclear(&mut self, region: u64) -> Flags {
        self.vmx(Reason::VMCLEAR, [region, 0], 0)
    }

    pub(super) fn vmwrite_raw(&mut self, field: u32, value: u64) -> Flags {
        *self.gpr(1) = value;
        *self.gpr(2) = field.into();
        let info = InstructionInfo::new().with_is_register(true).with_reg1(1).with_reg2(2);
        self.exits(Reason::VMWRITE, &[(vmcs::EXIT_INSTRUCTION_INFO.field(), info.into_bits().into())]);
        self.flags()
    }

    pub(super) fn vmwrite<T: FieldValue>(&mut self, field: Field<T>, value: T) {
        assert_eq!(self.vmwrite_raw(field.field().0, value.into_raw()), Flags::SUCCEED, "{}", field.field());
    }

    pub(super) fn vmread_raw(&mut self, field: u32) -> (Flags, u64) {
        *self.gpr(1) = 0;
        *self.gpr(2) = field.into();
        let info = InstructionInfo::new().with_is_register(true).with_reg1(1).with_reg2(2);
        self.exits(Reason::VMREAD, &[(vmcs::EXIT_INSTRUCTION_INFO.field(), info.into_bits().into())]);
        (self.flags(), *self.gpr(1))
    }

    pub(super) fn vmread<T: FieldValue>(&mut self, field: Field<T>) -> T {
        let (flags, value) = self.vmread_raw(field.field().0);
        assert_eq!(flags, Flags::SUCCEED, "{}", field.field());
        T::from_raw(value)
    }

    /// VMLAUNCH; how it ended, if L1 goes on.
    pub(super) fn launch(&mut self) -> Flags {
        self.exits(Reason::VMLAUNCH, &[]);
        if self.level() == 2 { Flags::SUCCEED } else { self.flags() }
    }

    /// VMRESUME; how it ended, if L1 goes on.
    pub(super) fn resume(&mut self) -> Flags {
        self.exits(Reason::VMRESUME, &[]);
        if self.level() == 2 { Flags::SUCCEED } else { self.flags() }
    }

    /// L2 calls L1.
    pub(super) fn vmcall(&mut self) {
        assert_eq!(self.level(), 2);
        self.exits(Reason::VMCALL, &[]);
        assert_eq!(self.level(), 1);
    }

    /// L2 touches memory that EPT02 does not map, or not so.
    pub(super) fn l2_touches(&mut self, gpa: u64, qualification: u64) {
        let gpa = (vmcs::GUEST_PHYSICAL_ADDRESS.field(), gpa);
        self.exits(Reason::EPT_VIOLATION, &[gpa, (vmcs::EXIT_QUALIFICATION.field(), qualification | 0x180)]);
    }

    /// EPT12 maps the first two pages of L2 to [`L2_PAGES`].
    pub(super) fn make_ept12(&mut self) {
        self.store(EPT12, (EPT12 + 0x1000) | 7);
        self.store(EPT12 + 0x1000, (EPT12 + 0x2000) | 7);
        self.store(EPT12 + 0x2000, (EPT12 + 0x3000) | 7);
        self.store(EPT12 + 0x3000, L2_PAGES | 0x37);
        self.store(EPT12 + 0x3008, (L2_PAGES + 0x1000) | 0x37);
    }

    /// Makes a vmcs12 at `region`, current and fit to be entered.
    pub(super) fn make_vmcs12(&mut self, region: u64, vpid12: u16) {
        self.store(region, crate::vmcs::REVISION.into());
        assert_eq!(self.vmclear(region), Flags::SUCCEED);
        assert_eq!(self.vmptrld(region), Flags::SUCCEED);
        self.vmwrite(vmcs::PIN_BASED_CONTROLS, PinBased::from_bits_retain(0x16));
        let primary = PrimaryControls::from_bits_retain(0x0401_e172) | PrimaryControls::ACTIVATE_SECONDARY;
        self.vmwrite(vmcs::PRIMARY_CONTROLS, primary | PrimaryControls::HLT_EXITING);
        let mut secondary = SecondaryControls::EPT | SecondaryControls::UNRESTRICTED_GUEST;
        secondary.set(SecondaryControls::VPID, vpid12 != 0);
        self.vmwrite(vmcs::SECONDARY_CONTROLS, secondary);
        self.vmwrite(vmcs::VPID, vpid12);
        self.vmwrite(vmcs::EPT_POINTER, Eptp::from_bits(EPT12 | 0x1e));
        self.vmwrite(vmcs::EXIT_CONTROLS, ExitControls::from_bits_retain(0x36fff));
        self.vmwrite_raw(vmcs::ENTRY_CONTROLS.field().0, 0x13ff);
        for (field, value) in [
            (vmcs::HOST_CR0, 0x8000_0033),
            (vmcs::HOST_CR3, PML4),
            (vmcs::HOST_CR4, 0x2020),
            (vmcs::HOST_RIP, 0xa000),
            (vmcs::HOST_RSP, 0xb000),
            (vmcs::GUEST_CR0, 0x8000_0033),
            (vmcs::GUEST_CR4, 0x2020),
            (vmcs::GUEST_RIP, 0x100),
            (vmcs::GUEST_RFLAGS, 2),
            (vmcs::GUEST_DR7, 0x400),
            (vmcs::VMCS_LINK_POINTER, u64::MAX),
        ] {
            self.vmwrite(field, value);
        }
        for (field, value) in
            [(vmcs::HOST_CS_SELECTOR, 8), (vmcs::HOST_TR_SELECTOR, 0x18), (vmcs::HOST_SS_SELECTOR, 0x10)]
        {
            self.vmwrite(field, value);
        }
        for (field, value) in [
            (vmcs::GUEST_CS_ACCESS_RIGHTS, 0xa09b),
            (vmcs::GUEST_SS_ACCESS_RIGHTS, 0xc093),
            (vmcs::GUEST_DS_ACCESS_RIGHTS, 0xc093),
            (vmcs::GUEST_ES_ACCESS_RIGHTS, 0xc093),
            (vmcs::GUEST_FS_ACCESS_RIGHTS, 0xc093),
            (vmcs::GUEST_GS_ACCESS_RIGHTS, 0xc093),
            (vmcs::GUEST_TR_ACCESS_RIGHTS, 0x8b),
            (vmcs::GUEST_LDTR_ACCESS_RIGHTS, 0x1_0000),
        ] {
            self.vmwrite(field, value);
        }
        for limit in [
            vmcs::GUEST_CS_LIMIT,
            vmcs::GUEST_SS_LIMIT,
            vmcs::GUEST_DS_LIMIT,
            vmcs::GUEST_ES_LIMIT,
            vmcs::GUEST_FS_LIMIT,
            vmcs::GUEST_GS_LIMIT,
        ] {
            self.vmwrite(limit, u32::MAX);
        }
        self.vmwrite(vmcs::GUEST_TR_LIMIT, 0x67);
    }

    /// The events since the last call, one line each, of the kinds that a test of L0's decisions looks at.
    pub(super) fn story(&mut self) -> Vec<String> {
        self.log.events.drain(..).filter_map(|event| line(&event)).collect()
    }

    /// As [`Bench::story`], flushes alone.
    pub(super) fn flushes(&mut self) -> Vec<String> {
        self.story().into_iter().filter(|line| line.starts_with("flush")).collect()
    }
}

fn line(event: &Event) -> Option<String> {
    Some(match &event.what {
        What::Flush(flush) => {
            let actor = if flush.actor == Actor::L0 { "" } else { " by L1" };
            format!("flush {} {}{actor} vpid {}", flush.kind, flush.cause, flush.vpid)
        }
        What::Pool(pool) => format!("pool {} {:#x} slot {}", pool.op, pool.vmcs12, pool.slot),
        What::Vpid(vpid) => format!("vpid {} {} {}", vpid.op, vpid.vpid12, vpid.vpid02),
        What::Ept(ept) => format!("ept {} {:#x} {:#x}", ept.op, ept.gpa, ept.size),
        What::Exit(exit) => format!("exit {} {} {}", exit.level, exit.basic(), exit.handled_by),
        What::Entry(entry) => match entry.failed {
            Some(check) => format!("entry {} fails {}", entry.level, check.name()),
            None => format!("entry {}", entry.level),
        },
        What::Injection(injection) => format!("inject {} {}", injection.level, injection.info.vector()),
        What::Mark(mark) => format!("mark {mark}"),
        What::Migration(migration) => format!("migration from {}", migration.from),
        _ => return None,
    })
}

/// How a VMX instruction ended: 0 for VMsucceed, an error number, [`Flags::INVALID`], or a fault.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Flags(pub(super) u32);

impl Flags {
    pub(super) const SUCCEED: Self = Self(0);
    pub(super) const INVALID: Self = Self(u32::MAX);

    /// A fault's vector.
    pub(super) const fn fault(vector: u8) -> Self {
        Self(0x100 + vector as u32)
    }
}
