//! The architectural state of one physical CPU, and why it stopped running a guest.

use super::apic::Vectors;
use super::flags::Flags;
use super::stops::Stopping;
use crate::mmu::Mmu;
use crate::silicon::{Registers, Unsupported};
use crate::vmx::controls::Controls;
use crate::vmx::exit::ExitInfo;
use hv_defs::controls::{ActivityState, Interruptibility};
use hv_defs::exit::Reason;
use hv_defs::x86::{AccessRights, Cr0, Cr4, Efer, Rflags, Seg, Vector};
use serde::{Deserialize, Serialize};

/// A segment register with its hidden part.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Segment {
    /// The visible part.
    pub selector: u16,
    /// Where the segment begins, linear.
    pub base: u64,
    /// The last byte's offset: in bytes, whatever the granularity.
    pub limit: u32,
    /// As the VMCS holds them.
    pub rights: AccessRights,
}

/// GDTR or IDTR.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Table {
    /// Where the table begins, linear.
    pub base: u64,
    /// The last byte's offset.
    pub limit: u16,
}

/// One physical CPU: the architectural state of the guest that now runs on it.
///
/// The current privilege level is SS's DPL, as VM entry and VM exit have it. Whoever changes CR0, CR3, CR4, EFER, PAT,
/// the VPID, the EPT pointer or SS from outside tells the [`Mmu`] before the guest runs on; [`Cpu::refresh`] does so.
#[derive(Debug, Serialize, Deserialize)]
pub struct Cpu {
    /// The registers that transitions leave alone. `gpr[4]` is RSP while a guest runs.
    pub regs: Registers,
    /// RIP of the next instruction.
    pub rip: u64,
    /// RFLAGS, its arithmetic flags lazily.
    pub(crate) flags: Flags,
    /// ES, CS, SS, DS, FS, GS.
    pub seg: [Segment; 6],
    /// The local descriptor table.
    pub ldtr: Segment,
    /// The task register.
    pub tr: Segment,
    /// The global descriptor table.
    pub gdtr: Table,
    /// The interrupt descriptor table.
    pub idtr: Table,
    /// CR0, as the hardware has it.
    pub cr0: u64,
    /// CR3.
    pub cr3: u64,
    /// CR4, as the hardware has it.
    pub cr4: u64,
    /// IA32_EFER.
    pub efer: u64,
    /// The four page-directory pointers of PAE paging.
    pub pdptes: [u64; 4],
    /// DR7.
    pub dr7: u64,
    /// IA32_DEBUGCTL.
    pub debugctl: u64,
    /// IA32_PAT.
    pub pat: u64,
    /// IA32_SYSENTER_CS.
    pub sysenter_cs: u32,
    /// IA32_SYSENTER_ESP.
    pub sysenter_esp: u64,
    /// IA32_SYSENTER_EIP.
    pub sysenter_eip: u64,
    /// What blocks events at the next instruction boundary.
    pub interruptibility: Interruptibility,
    /// Whether it executes instructions.
    pub activity: ActivityState,
    /// The pending debug exceptions, as the VMCS holds them.
    pub pending_debug: u64,
    /// Seeds RDRAND and RDSEED, whose numbers are a function of this and of the clock.
    pub seed: u64,
    /// RVI, the vector of the virtual interrupt that is requested; of use under "virtual-interrupt delivery" alone.
    pub rvi: u8,
    /// SVI, the vector of the virtual interrupt that is in service, likewise.
    pub svi: u8,
    /// External interrupts that wait in the CPU's own local APIC.
    pub interrupts: Vectors,
    /// The clock at which the VMX-preemption timer runs out; all ones when it is off.
    pub preemption_deadline: u64,
    /// Whether it has 5-level paging.
    pub la57: bool,
    /// The VM-execution controls it runs under.
    pub controls: Controls,
    /// Address translation.
    pub mmu: Mmu,
    /// What the executor needs between instructions.
    pub(super) exec: Exec,
}

/// State of the executor itself, none of it architectural.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Exec {
    /// The clock at the running block's first instruction.
    pub(super) now: u64,
    /// No block begins that would reach beyond this clock without a look at what there is to do.
    pub(super) limit: u64,
    /// The clock at which whoever watches the CPU wants it stopped.
    #[serde(skip)]
    pub(super) pause: Pause,
    /// The instructions and accesses at which it does.
    #[serde(skip)]
    pub(super) stopping: Option<Box<Stopping>>,
    /// The address of the op that ended the last block.
    #[serde(skip)]
    pub(super) left: usize,
    /// Why an op answered [`Halt`].
    #[serde(skip)]
    pub(super) stop: Stop,
    /// What becomes of a store to a page that holds decoded instructions.
    #[serde(skip)]
    pub(super) code_writes: CodeWrites,
    /// A monitor-trap exit is pending.
    pub(super) monitor_trap: bool,
    /// An exit that is pending on the completion of an instruction, with its qualification.
    pub(super) after: Option<(Reason, u64)>,
    /// A virtual interrupt is pending.
    pub(super) virtual_interrupt: bool,
    /// The offset and the size of a write to the APIC-access page that was virtualized, and is to be followed up.
    pub(super) apic_write: Option<(u16, u8)>,
    /// The instruction runs by itself, and so may reach the APIC-access page.
    pub(super) apart: bool,
    /// A breakpoint is set on data, so that accesses are looked at.
    pub(super) watched: bool,
    /// The breakpoints on data and ports that the running instruction has hit, as DR6 has them.
    pub(super) hits: u64,
    /// The instruction that faults is an IRET, and unblocked NMIs.
    pub(super) iret_unblocked_nmi: bool,
    /// The operand's offset of the x87 instruction that runs, where an exception is unmasked.
    pub(super) x87_operand: u64,
    /// Where the next exit's information can be put.
    #[serde(skip)]
    pub(super) spare: Option<Box<ExitInfo>>,
    /// The clock at the last PAUSE, and at the first of its loop.
    pub(super) last_pause: u64,
    pub(super) first_pause: u64,
}

/// A clock to pause at; all ones for never.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pause(pub(super) u64);

impl Default for Pause {
    fn default() -> Self {
        Self(u64::MAX)
    }
}

/// What becomes of a store to a page that holds decoded instructions.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) enum CodeWrites {
    /// The op does not complete, and the loop tries it again: [`Stop::CodeWrite`].
    #[default]
    Refuse,
    /// It is done. From this host-physical address to its page's end the loop sees to what was decoded; memory tells of
    /// what is written elsewhere.
    Allow(u64),
    /// It is done, and memory tells of the page.
    Tell,
}

/// Why an op did not complete. It has changed nothing but what the variant says.
#[derive(Debug, Default)]
pub(super) enum Stop {
    /// Nothing.
    #[default]
    None,
    /// An exception of the instruction's own.
    Fault(Vector, Option<u32>),
    /// A page fault, whose address is not in CR2 yet.
    PageFault(u32, u64),
    /// A VM exit.
    Exit(Box<ExitInfo>),
    /// A store to this host-physical address, in a page with decoded instructions. It is to be tried again.
    CodeWrite(u64),
    /// An access to the APIC-access page. The instruction is to be tried again, by itself.
    Apart,
    /// An instruction or an access in a page that holds a stop of who watches. The instruction is to be looked at, and tried
    /// again by itself.
    Guarded,
    /// A software interrupt, or a trap that the instruction itself is.
    Software(super::event::Event),
    /// What this CPU does not have.
    Unsupported(String),
}

/// An op did not complete: [`Exec::stop`] says why.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Halt;

/// Why [`super::run`] returned.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Trap {
    /// A VM exit. The state is as it is to be saved, RIP included.
    Exit(Box<ExitInfo>),
    /// The guest did what this CPU does not have.
    Unsupported(Unsupported),
    /// The clock is where [`Cpu::pause_at`] said, or the CPU met one of [`Stops`](super::Stops). Nothing has happened to the guest, and [`super::run`] goes on with it.
    Paused,
}

impl Cpu {
    /// A CPU as after a reset, but for its mode: VM entry loads all that a guest can see. Its TLB has `tlb_entries`.
    pub fn new(tlb_entries: u32, seed: u64) -> Self {
        Self {
            regs: Registers::default(),
            rip: 0,
            flags: Flags::default(),
            seg: [Segment::default(); 6],
            ldtr: Segment::default(),
            tr: Segment::default(),
            gdtr: Table::default(),
            idtr: Table::default(),
            cr0: (Cr0::ET | Cr0::NE).bits(),
            cr3: 0,
            cr4: Cr4::VMXE.bits(),
            efer: 0,
            pdptes: [0; 4],
            dr7: 0x400,
            debugctl: 0,
            pat: 0x0007_0406_0007_0406,
            sysenter_cs: 0,
            sysenter_esp: 0,
            sysenter_eip: 0,
            interruptibility: Interruptibility::empty(),
            activity: ActivityState::Active,
            pending_debug: 0,
            seed,
            rvi: 0,
            svi: 0,
            interrupts: Vectors::default(),
            preemption_deadline: u64::MAX,
            la57: false,
            controls: Controls::default(),
            mmu: Mmu::new(tlb_entries),
            exec: Exec::default(),
        }
    }

    /// Has [`super::run`] return [`Trap::Paused`] at the first instruction boundary at which the clock is not below
    /// `clock`; `None` for never. The guest notices nothing.
    pub fn pause_at(&mut self, clock: Option<u64>) {
        self.exec.pause = clock.map_or_else(Pause::default, Pause);
    }

    /// RFLAGS.
    pub fn rflags(&self) -> u64 {
        self.flags.get()
    }

    /// Sets RFLAGS, as VM entry does: all bits but the reserved ones.
    pub fn set_rflags(&mut self, value: u64) {
        self.flags.set(value);
    }

    /// The current privilege level.
    #[inline]
    pub fn cpl(&self) -> u8 {
        self.seg[Seg::Ss as usize].rights.dpl()
    }

    /// Whether IA-32e mode is active.
    #[inline]
    pub fn long_mode(&self) -> bool {
        self.efer & Efer::LMA.bits() != 0
    }

    /// Whether it executes 64-bit code.
    #[inline]
    pub fn code64(&self) -> bool {
        self.long_mode() && self.seg[Seg::Cs as usize].rights.long()
    }

    /// Whether CR0.PE is set.
    #[inline]
    pub fn protected(&self) -> bool {
        self.cr0 & Cr0::PE.bits() != 0
    }

    /// Whether it is in virtual-8086 mode.
    #[inline]
    pub fn v86(&self) -> bool {
        self.flags.system & Rflags::VM.bits() != 0
    }

    /// An op's way to raise an exception.
    #[cold]
    pub(super) fn fault<T>(&mut self, vector: Vector, error_code: Option<u32>) -> Result<T, Halt> {
        self.exec.stop = Stop::Fault(vector, error_code);
        Err(Halt)
    }

    /// #GP with an error code of 0.
    #[cold]
    pub(super) fn gp<T>(&mut self) -> Result<T, Halt> {
        self.fault(Vector::GP, Some(0))
    }

    /// #UD.
    #[cold]
    pub(super) fn ud<T>(&mut self) -> Result<T, Halt> {
        self.fault(Vector::UD, None)
    }

    /// An op's way to leave for the hypervisor.
    #[cold]
    pub(super) fn exit<T>(&mut self, info: ExitInfo) -> Result<T, Halt> {
        let mut place = self.exec.spare.take().unwrap_or_default();
        *place = info;
        self.exec.stop = Stop::Exit(place);
        Err(Halt)
    }

    /// An exit has been dealt with: what told of it can tell of the next.
    pub(crate) fn reuse(&mut self, info: Box<ExitInfo>) {
        self.exec.spare = Some(info);
    }

    /// An op's way to say that it is not there.
    #[cold]
    pub(super) fn unsupported<T>(&mut self, what: impl Into<String>) -> Result<T, Halt> {
        self.exec.stop = Stop::Unsupported(what.into());
        Err(Halt)
    }
}
