//! The event vocabulary: what the machine says of a run, and what a trace holds.
//!
//! An event is numbered by its place in the trace, from 0. The stamp says when and where it happened; the rest says what.
//! Numbers that a newer machine may widen ([`Reason`], [`VmcsField`]) are kept as they came.

use crate::exit::{ExitReason, InterruptionInfo, Reason};
use crate::policy::words;
use crate::vmcs::VmcsField;
use core::fmt;

/// When and where an event happened.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, serde::Serialize, serde::Deserialize)]
pub struct Stamp {
    /// Instructions retired by the machine so far, on all CPUs together.
    pub instruction: u64,
    /// The virtual CPU of L1 on whose behalf it happened.
    pub vcpu: u16,
    /// The physical CPU that it happened on.
    pub pcpu: u16,
}

/// One event.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Event {
    /// When and where.
    pub at: Stamp,
    /// What.
    pub what: What,
}

/// What happened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum What {
    /// Silicon left a guest.
    Exit(Exit),
    /// Silicon entered a guest, or refused to.
    Entry(Entry),
    /// A VMCS was read, written, loaded, stored or cleared.
    Vmcs(VmcsAccess),
    /// Cached translations were dropped, or asked to be.
    Flush(Flush),
    /// The vmcs02 pool was asked for a vmcs02, or gave one up.
    Pool(Pool),
    /// The VPID map was asked for a vpid02, or gave one up.
    Vpid(Vpid),
    /// An EPT02 changed.
    Ept(EptChange),
    /// An event was injected into a guest.
    Injection(Injection),
    /// The world gave input.
    Input(Input),
    /// A vCPU went to another physical CPU.
    Migration(Migration),
    /// The guest set a phase marker.
    Mark(u32),
    /// A digest of the machine's state.
    Digest(u64),
    /// Events that a source which cannot wait had to drop, by count.
    Lost(u64),
    /// The run ended.
    Stop(Stop),
    /// A guest's general registers at the exit before.
    Registers(Registers),
    /// What silicon answered L0.
    Answer(Answer),
}

words! {
    /// The kind of an event: one table of a trace each.
    Kind {
        /// [`What::Exit`].
        Exit = "exit",
        /// [`What::Entry`].
        Entry = "entry",
        /// [`What::Vmcs`].
        Vmcs = "vmcs",
        /// [`What::Flush`].
        Flush = "flush",
        /// [`What::Pool`].
        Pool = "pool",
        /// [`What::Vpid`].
        Vpid = "vpid",
        /// [`What::Ept`].
        Ept = "ept",
        /// [`What::Injection`].
        Injection = "injection",
        /// [`What::Input`].
        Input = "input",
        /// [`What::Migration`].
        Migration = "migration",
        /// [`What::Mark`].
        Mark = "mark",
        /// [`What::Digest`].
        Digest = "digest",
        /// [`What::Lost`].
        Lost = "lost",
        /// [`What::Stop`].
        Stop = "stop",
        /// [`What::Registers`].
        Registers = "registers",
        /// [`What::Answer`].
        Answer = "answer",
    }
}

impl What {
    /// Its kind.
    #[inline]
    pub const fn kind(&self) -> Kind {
        match self {
            Self::Exit(_) => Kind::Exit,
            Self::Entry(_) => Kind::Entry,
            Self::Vmcs(_) => Kind::Vmcs,
            Self::Flush(_) => Kind::Flush,
            Self::Pool(_) => Kind::Pool,
            Self::Vpid(_) => Kind::Vpid,
            Self::Ept(_) => Kind::Ept,
            Self::Injection(_) => Kind::Injection,
            Self::Input(_) => Kind::Input,
            Self::Migration(_) => Kind::Migration,
            Self::Mark(_) => Kind::Mark,
            Self::Digest(_) => Kind::Digest,
            Self::Lost(_) => Kind::Lost,
            Self::Stop(_) => Kind::Stop,
            Self::Registers(_) => Kind::Registers,
            Self::Answer(_) => Kind::Answer,
        }
    }
}

words! {
    /// Who did it, or whom an exit belongs to.
    Actor {
        /// Our hypervisor.
        L0 = "L0",
        /// The guest hypervisor.
        L1 = "L1",
        /// Its guest.
        L2 = "L2",
        /// Its guest's guest.
        L3 = "L3",
    }
}

/// A VM exit, as silicon reported it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Exit {
    /// The guest that was running: 1 for L1, 2 for its guest, 3 for that one's guest. What is below L1 is inferred: see
    /// `docs/format.md`.
    pub level: u8,
    /// The whole exit-reason field.
    pub reason: ExitReason,
    /// The exit qualification.
    pub qualification: u64,
    /// Where the guest was.
    pub rip: u64,
    /// Length of the instruction that exited, in bytes; 0 where there is none.
    pub length: u8,
    /// Guest-physical address, for the reasons that have one; else 0. It is that guest's own physical address.
    pub gpa: u64,
    /// Guest-linear address, for the reasons that have one; else 0.
    pub gla: u64,
    /// VM-exit interruption information, or IDT-vectoring information where only that is valid.
    pub intr_info: InterruptionInfo,
    /// L1-physical address of the vmcs12 under which the guest ran; [`NO_ADDRESS`] for L1 itself.
    pub vmcs12: u64,
    /// Who handles it: [`Actor::L0`], or [`Actor::L1`] when it is reflected.
    pub handled_by: Actor,
}

impl Exit {
    /// The basic reason.
    pub const fn basic(&self) -> Reason {
        self.reason.reason()
    }
}

/// The address that stands for "none": what hardware keeps in an invalid VMCS pointer.
pub const NO_ADDRESS: u64 = u64::MAX;

/// A VM entry that silicon was asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry {
    /// The guest that is entered, as in [`Exit::level`].
    pub level: u8,
    /// VMLAUNCH rather than VMRESUME.
    pub launch: bool,
    /// L1-physical address of the vmcs12; [`NO_ADDRESS`] when L1 itself is entered.
    pub vmcs12: u64,
    /// Host-physical address of the VMCS that silicon runs: vmcs01 for L1, a vmcs02 for L2.
    pub vmcs02: u64,
    /// The VPID that silicon runs under; 0 without VPID.
    pub vpid: u16,
    /// The EPT pointer that silicon runs under; 0 without EPT.
    pub eptp: u64,
    /// What is injected; not valid when nothing is.
    pub injected: InterruptionInfo,
    /// The first check that failed; `None` when all hold.
    pub failed: Option<Check>,
    /// Fields of that VMCS that L0 wrote since it last ran.
    pub fields_written: u16,
}

/// The name of a VM-entry check that failed.
#[derive(Clone, PartialEq, Eq, Copy)]
pub struct Check(&'static str);

impl Check {
    /// The check of that name.
    pub const fn new(name: &'static str) -> Self {
        Self(name)
    }

    /// The name, as `guest-rflags-reserved`.
    pub const fn name(self) -> &'static str {
        self.0
    }
}

impl fmt::Debug for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

words! {
    /// Which VMCS was touched.
    Which {
        /// The one that runs L1.
        Vmcs01 = "vmcs01",
        /// L1's for L2, in L1's memory.
        Vmcs12 = "vmcs12",
        /// The one that runs L2.
        Vmcs02 = "vmcs02",
        /// The shadow VMCS that L1 gives to L2.
        Shadow12 = "shadow12",
        /// The one of L0's that serves L2 in its stead.
        Shadow02 = "shadow02",
    }
}

words! {
    /// What was done to a VMCS.
    VmcsOp {
        /// VMREAD.
        Read = "read",
        /// VMWRITE.
        Write = "write",
        /// VMCLEAR.
        Clear = "clear",
        /// VMPTRLD.
        Load = "load",
        /// VMPTRST.
        Store = "store",
    }
}

impl Which {
    /// Whether it lies in L1's memory.
    pub const fn is_l1s(self) -> bool {
        matches!(self, Self::Vmcs12 | Self::Shadow12)
    }
}

/// A VMCS access.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct VmcsAccess {
    /// Who.
    pub actor: Actor,
    /// Which VMCS.
    pub which: Which,
    /// Its address: host-physical for vmcs01, vmcs02 and shadow02, L1-physical for vmcs12 and shadow12.
    pub address: u64,
    /// What was done.
    pub op: VmcsOp,
    /// The field, for reads and writes; else 0, which is that of the VPID.
    pub field: VmcsField,
    /// The value before a write; for a read, the value read; else 0.
    pub old: u64,
    /// The value after a write; for a read, the value read once more; else 0.
    pub value: u64,
}

words! {
    /// How much a flush drops.
    FlushKind {
        /// INVVPID of one address of one VPID.
        InvvpidAddress = "invvpid-address",
        /// INVVPID of one VPID.
        InvvpidSingle = "invvpid-single",
        /// INVVPID of all VPIDs but 0.
        InvvpidAll = "invvpid-all",
        /// INVVPID of one VPID, globals kept.
        InvvpidRetainGlobals = "invvpid-retain-globals",
        /// INVEPT of one EP4TA.
        InveptSingle = "invept-single",
        /// INVEPT of all.
        InveptAll = "invept-all",
        /// What a VM entry or exit drops by itself, without VPID.
        Transition = "transition",
    }
}

words! {
    /// Why a flush was made.
    Cause {
        /// The guest's own instruction; the actor says which guest. Silicon drops nothing for it until L0 acts.
        Guest = "guest",
        /// L0 carries out L1's INVVPID.
        InvvpidEmulation = "invvpid-emulation",
        /// L0 carries out L1's INVEPT.
        InveptEmulation = "invept-emulation",
        /// L0's policy for entries from L1 to L2.
        NestedEntry = "nested-entry",
        /// L0's policy for exits from L2 to L1.
        NestedExit = "nested-exit",
        /// vmcs12 names another VPID than last time.
        Vpid12Change = "vpid12-change",
        /// A vpid02 was taken from one vpid12 and given to another.
        VpidRecycle = "vpid-recycle",
        /// A VPID was freed.
        VpidFree = "vpid-free",
        /// An EPT root was loaded.
        RootLoad = "root-load",
        /// L1 uses an APIC-access page without EPT.
        ApicAccessPage = "apic-access-page",
        /// An entry of EPT01 or EPT02 lost a permission or its page.
        EptZap = "ept-zap",
        /// An entry of EPT02 was brought in line with EPT12.
        EptSync = "ept-sync",
        /// A page that holds a paging structure of L1 was made read-only for L1.
        WriteProtect = "write-protect",
        /// The guest changed its own paging by CR0, CR3, CR4 or INVLPG, and L0 emulates it.
        GuestPaging = "guest-paging",
        /// The vCPU came to this physical CPU.
        Migration = "migration",
        /// A VM entry drops what has no VPID.
        HardwareEntry = "hardware-entry",
        /// A VM exit drops what has no VPID.
        HardwareExit = "hardware-exit",
    }
}

/// A flush.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Flush {
    /// How much it drops.
    pub kind: FlushKind,
    /// Why.
    pub cause: Cause,
    /// Who asked for it: a guest, whose VPIDs and EPT pointers are its own, or L0, whose are silicon's.
    pub actor: Actor,
    /// The VPID, for INVVPID of one; else 0.
    pub vpid: u16,
    /// The EPT pointer, for INVEPT of one; else 0.
    pub eptp: u64,
    /// The linear address, for INVVPID of one; else 0.
    pub address: u64,
    /// Entries that silicon's TLB dropped. 0 for a guest's own instruction, which L0 has yet to carry out.
    pub dropped: u32,
}

words! {
    /// What the vmcs02 pool did.
    PoolOp {
        /// It holds a vmcs02 for this vmcs12.
        Hit = "hit",
        /// It does not; a free slot is taken.
        Miss = "miss",
        /// It does not; the slot of another vmcs12 is taken.
        Recycle = "recycle",
        /// The slot is given up.
        Free = "free",
    }
}

/// An event of the vmcs02 pool.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pool {
    /// What it did.
    pub op: PoolOp,
    /// The vmcs12, by L1-physical address.
    pub vmcs12: u64,
    /// The slot, from 0.
    pub slot: u16,
    /// Fields written to the vmcs02 at this entry.
    pub written: u16,
    /// Fields that held their value already and were not written.
    pub skipped: u16,
}

words! {
    /// What the VPID map did.
    VpidOp {
        /// A fresh vpid02 for this vpid12.
        Map = "map",
        /// The vpid02 that it had.
        Hit = "hit",
        /// A vpid02 that was another vpid12's.
        Recycle = "recycle",
        /// The vpid02 is given up.
        Free = "free",
    }
}

/// An event of the VPID map.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Vpid {
    /// What it did.
    pub op: VpidOp,
    /// L1's VPID for L2.
    pub vpid12: u16,
    /// Silicon's VPID for L2.
    pub vpid02: u16,
}

words! {
    /// What happened to an EPT02.
    EptOp {
        /// An entry was added.
        Map = "map",
        /// An entry was removed.
        Zap = "zap",
        /// An entry was changed to what EPT12 says now.
        Sync = "sync",
        /// It became the one in use.
        Switch = "switch",
    }
}

/// A change of an EPT02.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EptChange {
    /// What happened.
    pub op: EptOp,
    /// L1's EPT pointer for L2.
    pub eptp12: u64,
    /// Silicon's.
    pub eptp02: u64,
    /// The L2 guest-physical address; 0 for a switch.
    pub gpa: u64,
    /// Bytes that the entry maps; 0 for a switch.
    pub size: u64,
    /// The EPT02 entry before; 0 for none.
    pub old: u64,
    /// The EPT02 entry after; 0 for none.
    pub new: u64,
}

/// An event injected into a guest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Injection {
    /// The guest, as in [`Exit::level`].
    pub level: u8,
    /// The interruption information injected.
    pub info: InterruptionInfo,
    /// The error code; 0 without one.
    pub error_code: u32,
}

words! {
    /// What kind of input the world gave.
    InputKind {
        /// A byte typed at the console.
        Console = "console",
        /// The world asks the machine to stop; the value is its reason's number.
        Stop = "stop",
    }
}

/// Input from the world.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Input {
    /// Which of the machine's questions this answers: how often it had asked the world before.
    pub poll: u64,
    /// What kind.
    pub kind: InputKind,
    /// Its value: the byte.
    pub value: u64,
}

/// A vCPU's move.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Migration {
    /// The physical CPU that it left. The one it came to is in the stamp.
    pub from: u16,
}

words! {
    /// Why a run ended.
    StopKind {
        /// The guest used isa-debug-exit; the status is in the code.
        DebugExit = "debug-exit",
        /// The guest reset the machine.
        Reset = "reset",
        /// L1 took a triple fault.
        TripleFault = "triple-fault",
        /// Every CPU waits and nothing will wake one.
        Idle = "idle",
        /// The configured number of instructions was run.
        MaxInstructions = "max-instructions",
        /// The console showed the configured text.
        StopOn = "stop-on",
        /// The world asked for it: Ctrl-C, or the end of what was recorded.
        World = "world",
        /// The guest did what the machine cannot do.
        Unsupported = "unsupported",
        /// The guest switched the machine off.
        PowerOff = "power-off",
        /// Every CPU is halted with its interrupts off.
        Halted = "halted",
    }
}

/// The end of a run.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Stop {
    /// Why.
    pub kind: StopKind,
    /// The exit status, for [`StopKind::DebugExit`]: what QEMU's isa-debug-exit would leave with, `value << 1 | 1`.
    pub code: u32,
    /// A line for a reader: where the guest was and, for what is unsupported, its bytes and disassembly.
    pub text: String,
}

/// A guest's general registers as it left them, without RSP and RIP, which the VMCS has: what software must save itself. It
/// follows the exit of the same vCPU that it belongs to. Our own recordings do without: replay finds them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[allow(missing_docs)] // The names are the SDM's.
pub struct Registers {
    pub rax: u64,
    pub rbx: u64,
    pub rcx: u64,
    pub rdx: u64,
    pub rsi: u64,
    pub rdi: u64,
    pub rbp: u64,
    pub r8: u64,
    pub r9: u64,
    pub r10: u64,
    pub r11: u64,
    pub r12: u64,
    pub r13: u64,
    pub r14: u64,
    pub r15: u64,
}

words! {
    /// What L0 asked silicon of.
    AnswerOf {
        /// A VMX capability MSR; the place is its index.
        Capability = "capability",
        /// Physical memory; the place is the address of 8 bytes, which is a multiple of 8.
        Memory = "memory",
        /// A VM entry that silicon refused with VMfail; the value is the error's number.
        Refused = "refused",
        /// A general register; the place is its number.
        Gpr = "gpr",
        /// CR2.
        Cr2 = "cr2",
        /// CR8.
        Cr8 = "cr8",
        /// A debug register; the place is its number, from 0 to 3.
        Dr = "dr",
        /// DR6.
        Dr6 = "dr6",
        /// XCR0.
        Xcr0 = "xcr0",
        /// IA32_XSS.
        Xss = "xss",
        /// IA32_STAR.
        Star = "star",
        /// IA32_LSTAR.
        Lstar = "lstar",
        /// IA32_CSTAR.
        Cstar = "cstar",
        /// IA32_FMASK.
        Fmask = "fmask",
        /// IA32_KERNEL_GS_BASE.
        KernelGsBase = "kernel_gs_base",
        /// IA32_TSC_AUX.
        TscAux = "tsc_aux",
        /// Protection-key rights of user pages.
        Pkru = "pkru",
    }
}

/// What silicon answered L0 after the entry before, where that could not be told from earlier answers and from what L0 has
/// written itself. Of registers, the stamp names the physical CPU. What VMREAD gives is in the VMCS accesses, and how many
/// translations a flush dropped in the flushes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Answer {
    /// What was asked for.
    pub of: AnswerOf,
    /// Where, if there is more than one; else 0.
    pub place: u64,
    /// What it holds.
    pub value: u64,
}
