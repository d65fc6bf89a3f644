//! Basic exit reasons and exit qualifications. See: SDM Appendix C "VMX Basic Exit Reasons" and "Exit Qualification".

use bitfield_struct::bitfield;
use core::fmt;
use serde::{Deserialize, Serialize};

/// A basic VM-exit reason: the low 16 bits of the exit-reason field. Open: an unknown number is kept and shown.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[repr(transparent)]
pub struct Reason(pub u16);

macro_rules! reasons {
    ($($name:ident = $code:literal),* $(,)?) => {
        #[allow(missing_docs)] // The names are the SDM's.
        impl Reason {
            $(pub const $name: Reason = Reason($code);)*

            /// Every reason that has a name, by rising number.
            pub const ALL: &[Reason] = &[$(Reason::$name),*];

            /// The SDM's name, as `EPT_VIOLATION`; `None` for a number that the SDM does not define.
            pub const fn name(self) -> Option<&'static str> {
                match self.0 {
                    $($code => Some(stringify!($name)),)*
                    _ => None,
                }
            }
        }
    };
}

reasons! {
    EXCEPTION_NMI = 0, EXTERNAL_INTERRUPT = 1, TRIPLE_FAULT = 2, INIT_SIGNAL = 3, SIPI = 4, IO_SMI = 5, OTHER_SMI = 6,
    INTERRUPT_WINDOW = 7, NMI_WINDOW = 8, TASK_SWITCH = 9, CPUID = 10, GETSEC = 11, HLT = 12, INVD = 13, INVLPG = 14,
    RDPMC = 15, RDTSC = 16, RSM = 17, VMCALL = 18, VMCLEAR = 19, VMLAUNCH = 20, VMPTRLD = 21, VMPTRST = 22,
    VMREAD = 23, VMRESUME = 24, VMWRITE = 25, VMXOFF = 26, VMXON = 27, CR_ACCESS = 28, DR_ACCESS = 29,
    IO_INSTRUCTION = 30, RDMSR = 31, WRMSR = 32, INVALID_GUEST_STATE = 33, MSR_LOAD_FAIL = 34, MWAIT = 36,
    MONITOR_TRAP_FLAG = 37, MONITOR = 39, PAUSE = 40, MCE_DURING_ENTRY = 41, TPR_BELOW_THRESHOLD = 43,
    APIC_ACCESS = 44, VIRTUALIZED_EOI = 45, GDTR_IDTR_ACCESS = 46, LDTR_TR_ACCESS = 47, EPT_VIOLATION = 48,
    EPT_MISCONFIG = 49, INVEPT = 50, RDTSCP = 51, PREEMPTION_TIMER = 52, INVVPID = 53, WBINVD = 54, XSETBV = 55,
    APIC_WRITE = 56, RDRAND = 57, INVPCID = 58, VMFUNC = 59, ENCLS = 60, RDSEED = 61, PML_FULL = 62, XSAVES = 63,
    XRSTORS = 64, PCONFIG = 65, SPP_EVENT = 66, UMWAIT = 67, TPAUSE = 68, LOADIWKEY = 69, ENCLV = 70,
    ENQCMD_PASID = 72, ENQCMDS_PASID = 73, BUS_LOCK = 74, NOTIFY = 75, SEAMCALL = 76, TDCALL = 77, RDMSRLIST = 78,
    WRMSRLIST = 79,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.pad(name),
            None => f.pad(&format!("REASON_{}", self.0)),
        }
    }
}

impl fmt::Debug for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The whole exit-reason field.
#[bitfield(u32)]
#[derive(PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitReason {
    #[bits(16)]
    pub basic: u16,
    #[bits(9)]
    __: u16,
    pub shadow_stack_busy: bool,
    pub bus_lock: bool,
    pub enclave_mode: bool,
    pub pending_mtf: bool,
    pub from_vmx_root: bool,
    __: bool,
    /// Set when a VM entry failed during or after the loading of guest state.
    pub entry_failure: bool,
}

impl ExitReason {
    /// An ordinary exit for `reason`.
    pub const fn of(reason: Reason) -> Self {
        Self::new().with_basic(reason.0)
    }

    /// The basic reason.
    pub const fn reason(self) -> Reason {
        Reason(self.basic())
    }
}

/// Which way a MOV CR or MOV DR, a CLTS or an LMSW went.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
#[allow(missing_docs)]
pub enum CrAccessKind {
    MovTo = 0,
    MovFrom = 1,
    Clts = 2,
    Lmsw = 3,
}

impl CrAccessKind {
    const fn from_bits(bits: u8) -> Self {
        match bits {
            0 => Self::MovTo,
            1 => Self::MovFrom,
            2 => Self::Clts,
            _ => Self::Lmsw,
        }
    }

    const fn into_bits(self) -> u8 {
        self as u8
    }
}

/// Exit qualification for control-register accesses.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct CrAccess {
    #[bits(4)]
    pub cr: u8,
    #[bits(2, default = CrAccessKind::MovTo)]
    pub kind: CrAccessKind,
    pub lmsw_memory: bool,
    __: bool,
    #[bits(4)]
    pub gpr: u8,
    #[bits(4)]
    __: u8,
    pub lmsw_source: u16,
    __: u32,
}

/// Exit qualification for MOV DR.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct DrAccess {
    #[bits(3)]
    pub dr: u8,
    __: bool,
    pub from_dr: bool,
    #[bits(3)]
    __: u8,
    #[bits(4)]
    pub gpr: u8,
    #[bits(52)]
    __: u64,
}

/// Exit qualification for I/O instructions.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct IoAccess {
    /// Size of the access in bytes, less one: 0, 1 or 3.
    #[bits(3)]
    pub size_less_one: u8,
    pub input: bool,
    pub string: bool,
    pub rep: bool,
    pub immediate: bool,
    #[bits(9)]
    __: u16,
    pub port: u16,
    __: u32,
}

/// Exit qualification for EPT violations.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct EptViolation {
    pub read: bool,
    pub write: bool,
    pub fetch: bool,
    /// Whether the entries used permitted reads; likewise the three after it.
    pub readable: bool,
    pub writable: bool,
    pub executable: bool,
    pub user_executable: bool,
    /// Whether the guest-linear-address field is valid.
    pub gla_valid: bool,
    /// Whether the access was to the final address of a linear one (rather than to a paging-structure entry).
    pub gla_translated: bool,
    pub user_page: bool,
    pub writable_page: bool,
    pub nx_page: bool,
    pub nmi_unblocking: bool,
    pub shadow_stack: bool,
    pub supervisor_shadow_stack: bool,
    pub guest_paging_verification: bool,
    pub asynchronous: bool,
    #[bits(47)]
    __: u64,
}

/// Exit qualification for task switches.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct TaskSwitch {
    pub selector: u16,
    #[bits(14)]
    __: u16,
    /// 0 CALL, 1 IRET, 2 JMP, 3 a task gate in the IDT.
    #[bits(2)]
    pub source: u8,
    __: u32,
}

/// Exit qualification for APIC accesses.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct ApicAccess {
    #[bits(12)]
    pub offset: u16,
    /// 0 linear read, 1 linear write, 2 fetch, 3 event delivery, 10 physical during event delivery, 15 physical.
    #[bits(4)]
    pub kind: u8,
    pub asynchronous: bool,
    #[bits(47)]
    __: u64,
}

/// VM-exit instruction information, as laid out for the instructions with a memory or register operand: VMX
/// instructions, INVEPT, INVVPID, INVPCID and the descriptor-table instructions.
/// See: SDM "Information for VM Exits Due to Instruction Execution".
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct InstructionInfo {
    /// Scale of the index register: 0 is 1, 3 is 8.
    #[bits(2)]
    pub scale: u8,
    __: bool,
    /// The register operand of VMREAD and VMWRITE where `is_register`.
    #[bits(4)]
    pub reg1: u8,
    /// 0 is 16 bits, 1 is 32, 2 is 64.
    #[bits(3)]
    pub address_size: u8,
    /// Whether the main operand is `reg1` rather than memory.
    pub is_register: bool,
    #[bits(4)]
    __: u8,
    /// 0 ES, 1 CS, 2 SS, 3 DS, 4 FS, 5 GS.
    #[bits(3)]
    pub segment: u8,
    #[bits(4)]
    pub index: u8,
    pub no_index: bool,
    #[bits(4)]
    pub base: u8,
    pub no_base: bool,
    /// The second operand: VMREAD's and VMWRITE's field, INVEPT's and INVVPID's type.
    #[bits(4)]
    pub reg2: u8,
}

/// What kind of event is injected or was being delivered. See: SDM "VM-Entry Interruption-Information Field".
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
#[allow(missing_docs)]
pub enum EventType {
    ExternalInterrupt = 0,
    Reserved = 1,
    Nmi = 2,
    HardwareException = 3,
    SoftwareInterrupt = 4,
    PrivilegedSoftwareException = 5,
    SoftwareException = 6,
    Other = 7,
}

impl EventType {
    const ALL: [Self; 8] = [
        Self::ExternalInterrupt,
        Self::Reserved,
        Self::Nmi,
        Self::HardwareException,
        Self::SoftwareInterrupt,
        Self::PrivilegedSoftwareException,
        Self::SoftwareException,
        Self::Other,
    ];

    /// The type of that number; only the low three bits count.
    pub const fn from_bits(bits: u8) -> Self {
        Self::ALL[(bits & 7) as usize]
    }

    /// Its number.
    pub const fn into_bits(self) -> u8 {
        self as u8
    }

    /// A short name in lower case, as `external-interrupt`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ExternalInterrupt => "external-interrupt",
            Self::Reserved => "reserved",
            Self::Nmi => "nmi",
            Self::HardwareException => "hardware-exception",
            Self::SoftwareInterrupt => "software-interrupt",
            Self::PrivilegedSoftwareException => "privileged-software-exception",
            Self::SoftwareException => "software-exception",
            Self::Other => "other",
        }
    }
}

/// The VM-entry interruption-information, VM-exit interruption-information and IDT-vectoring information fields.
#[bitfield(u32)]
#[derive(PartialEq, Eq, Serialize, Deserialize)]
pub struct InterruptionInfo {
    pub vector: u8,
    #[bits(3, default = EventType::ExternalInterrupt)]
    pub kind: EventType,
    pub has_error_code: bool,
    pub nmi_unblocking: bool,
    #[bits(18)]
    __: u32,
    pub valid: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_sorted_named_and_open() {
        assert!(Reason::ALL.is_sorted());
        assert_eq!(Reason::EPT_VIOLATION.to_string(), "EPT_VIOLATION");
        assert_eq!(Reason(35).to_string(), "REASON_35");
        assert_eq!(ExitReason::from(0x8000_0021).reason(), Reason::INVALID_GUEST_STATE);
        assert!(ExitReason::from(0x8000_0021).entry_failure());
    }

    #[test]
    fn qualifications_lay_their_bits_where_the_sdm_does() {
        let out_to_e9 = IoAccess::from(0x00e9_0040);
        assert_eq!((out_to_e9.port(), out_to_e9.size_less_one(), out_to_e9.input()), (0xe9, 0, false));
        assert!(out_to_e9.immediate());
        let mov_cr3_from_rdi = CrAccess::from(0x703);
        assert_eq!((mov_cr3_from_rdi.cr(), mov_cr3_from_rdi.gpr()), (3, 7));
        assert_eq!(mov_cr3_from_rdi.kind(), CrAccessKind::MovTo);
        let page_fault = InterruptionInfo::from(0x8000_0b0e);
        assert!(page_fault.valid() && page_fault.has_error_code());
        assert_eq!((page_fault.vector(), page_fault.kind()), (14, EventType::HardwareException));
        let info = InstructionInfo::new().with_reg2(15).with_no_base(true).with_segment(3);
        assert_eq!(u32::from(info), 0xf800_0000 | 3 << 15);
    }
}
