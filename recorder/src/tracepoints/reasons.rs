//! The names of exit reasons and exceptions as KVM's tracepoints print them, for Intel's VMX and AMD's SVM.

use hv_defs::exit::{ExitReason, Reason};

/// An exit's reason.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Found {
    /// VMX's, or the one that says the same as SVM's exit code. A code without one is kept as 0xc000 and its low 12 bits.
    pub(crate) reason: ExitReason,
    /// SVM's exit code, if it was SVM's.
    pub(crate) svm: Option<u32>,
}

/// VMX's reasons that KVM calls by another name than the SDM: those of today and of years past.
pub(crate) const VMX: &[(&str, Reason)] = &[
    ("SIPI_SIGNAL", Reason::SIPI),
    ("PENDING_INTERRUPT", Reason::INTERRUPT_WINDOW),
    ("VMOFF", Reason::VMXOFF),
    ("VMON", Reason::VMXON),
    ("MSR_READ", Reason::RDMSR),
    ("MSR_WRITE", Reason::WRMSR),
    ("MSR_READ_IMM", Reason(84)),
    ("MSR_WRITE_IMM", Reason(85)),
    ("INVALID_STATE", Reason::INVALID_GUEST_STATE),
    ("MWAIT_INSTRUCTION", Reason::MWAIT),
    ("MONITOR_INSTRUCTION", Reason::MONITOR),
    ("PAUSE_INSTRUCTION", Reason::PAUSE),
    ("MCE_DURING_VMENTRY", Reason::MCE_DURING_ENTRY),
    ("EOI_INDUCED", Reason::VIRTUALIZED_EOI),
    ("GDTR_IDTR", Reason::GDTR_IDTR_ACCESS),
    ("LDTR_TR", Reason::LDTR_TR_ACCESS),
];

/// SVM's exit codes: code, KVM's name, VMX's reason for the same if there is one. See: AMD64 manual volume 2, "SVM Intercept
/// Codes".
pub(crate) const SVM: &[(u32, &str, Option<Reason>)] = &[
    (0x060, "interrupt", Some(Reason::EXTERNAL_INTERRUPT)),
    (0x061, "nmi", Some(Reason::EXCEPTION_NMI)),
    (0x062, "smi", Some(Reason::OTHER_SMI)),
    (0x063, "init", Some(Reason::INIT_SIGNAL)),
    (0x064, "vintr", Some(Reason::INTERRUPT_WINDOW)),
    (0x065, "cr0_sel_write", Some(Reason::CR_ACCESS)),
    (0x066, "read_idtr", Some(Reason::GDTR_IDTR_ACCESS)),
    (0x067, "read_gdtr", Some(Reason::GDTR_IDTR_ACCESS)),
    (0x068, "read_ldtr", Some(Reason::LDTR_TR_ACCESS)),
    (0x069, "read_rt", Some(Reason::LDTR_TR_ACCESS)),
    (0x06a, "write_idtr", Some(Reason::GDTR_IDTR_ACCESS)),
    (0x06b, "write_gdtr", Some(Reason::GDTR_IDTR_ACCESS)),
    (0x06c, "write_ldtr", Some(Reason::LDTR_TR_ACCESS)),
    (0x06d, "write_rt", Some(Reason::LDTR_TR_ACCESS)),
    (0x06e, "rdtsc", Some(Reason::RDTSC)),
    (0x06f, "rdpmc", Some(Reason::RDPMC)),
    (0x070, "pushf", None),
    (0x071, "popf", None),
    (0x072, "cpuid", Some(Reason::CPUID)),
    (0x073, "rsm", Some(Reason::RSM)),
    (0x074, "iret", None),
    (0x075, "swint", None),
    (0x076, "invd", Some(Reason::INVD)),
    (0x077, "pause", Some(Reason::PAUSE)),
    (0x078, "hlt", Some(Reason::HLT)),
    (0x079, "invlpg", Some(Reason::INVLPG)),
    (0x07a, "invlpga", Some(Reason::INVVPID)),
    (0x07b, "io", Some(Reason::IO_INSTRUCTION)),
    (0x07d, "task_switch", Some(Reason::TASK_SWITCH)),
    (0x07e, "ferr_freeze", None),
    (0x07f, "shutdown", Some(Reason::TRIPLE_FAULT)),
    (0x080, "vmrun", Some(Reason::VMRESUME)),
    (0x081, "hypercall", Some(Reason::VMCALL)),
    (0x082, "vmload", Some(Reason::VMPTRLD)),
    (0x083, "vmsave", Some(Reason::VMPTRST)),
    (0x084, "stgi", None),
    (0x085, "clgi", None),
    (0x086, "skinit", None),
    (0x087, "rdtscp", Some(Reason::RDTSCP)),
    (0x088, "icebp", None),
    (0x089, "wbinvd", Some(Reason::WBINVD)),
    (0x08a, "monitor", Some(Reason::MONITOR)),
    (0x08b, "mwait", Some(Reason::MWAIT)),
    (0x08d, "xsetbv", Some(Reason::XSETBV)),
    (0x08f, "write_efer_trap", None),
    (0x0a2, "invpcid", Some(Reason::INVPCID)),
    (0x0a5, "buslock", Some(Reason::BUS_LOCK)),
    (0x0a6, "idle-halt", None),
    (0x400, "npf", Some(Reason::EPT_VIOLATION)),
    (0x401, "avic_incomplete_ipi", Some(Reason::APIC_WRITE)),
    (0x402, "avic_unaccelerated_access", Some(Reason::APIC_ACCESS)),
    (0x403, "vmgexit", None),
    (0xffff_ffff, "invalid_guest_state", Some(Reason::INVALID_GUEST_STATE)),
];

/// Where SVM's codes without a counterpart are kept.
const OTHERS: u16 = 0xc000;

/// The exceptions by their mnemonics.
const EXCEPTIONS: &[(&str, u64)] = &[
    ("DE", 0),
    ("DB", 1),
    ("BP", 3),
    ("OF", 4),
    ("BR", 5),
    ("UD", 6),
    ("NM", 7),
    ("DF", 8),
    ("TS", 10),
    ("NP", 11),
    ("SS", 12),
    ("GP", 13),
    ("PF", 14),
    ("MF", 16),
    ("AC", 17),
    ("MC", 18),
    ("XM", 19),
    ("XF", 19),
    ("VE", 20),
    ("CP", 21),
    ("HV", 28),
    ("VC", 29),
    ("SX", 30),
];

/// The vector in words as `#PF (0x2)`.
pub(crate) fn exception(words: &str) -> Option<u64> {
    let name = words.split('#').nth(1)?.split(|of: char| !of.is_ascii_alphabetic()).next()?;
    EXCEPTIONS.iter().find(|(known, _)| *known == name).map(|(_, vector)| *vector)
}

/// The exit that KVM calls by that name, of today's kernels and of those of years past.
pub(crate) fn named(name: &str, svm: bool, info1: u64) -> Option<Found> {
    let vmx = |reason| Some(Found { reason: ExitReason::of(reason), svm: None });
    let known = Reason::ALL.iter().copied().find(|reason| reason.name() == Some(name));
    if let Some(reason) = known.or_else(|| VMX.iter().find(|(known, _)| *known == name).map(|(_, reason)| *reason)) {
        return vmx(reason);
    }
    // trace-cmd's own names for SVM are as KVM's were once: EXIT_NPF.
    let lower = name.strip_prefix("EXIT_").unwrap_or(name).to_ascii_lowercase();
    let code = SVM.iter().find(|(_, known, _)| *known == lower).map(|(code, ..)| *code);
    let code = code.or_else(|| match lower.as_str() {
        "intr" => Some(0x060),
        "ioio" => Some(0x07b),
        "msr" => Some(0x07c),
        "vmmcall" => Some(0x081),
        "write_cr0_trap" => Some(0x090),
        "write_cr4_trap" => Some(0x094),
        "write_cr8_trap" => Some(0x098),
        other => match (other.split_once("_cr"), other.split_once("_dr"), other.strip_suffix(" excp")) {
            (Some((way, number)), ..) => register(way, number, [0x000, 0x010]),
            (_, Some((way, number)), _) => register(way, number, [0x020, 0x030]),
            (.., Some(exception)) => {
                let upper = exception.to_ascii_uppercase();
                EXCEPTIONS.iter().find(|(known, _)| *known == upper).map(|(_, vector)| 0x040 + *vector as u32)
            }
            _ => None,
        },
    });
    if let Some(code) = code {
        return Some(numbered(code, true, info1));
    }
    // What neither names is printed as a number: `0x53`, or `UNKNOWN (83)`.
    let digits = name.strip_prefix("UNKNOWN (").and_then(|rest| rest.strip_suffix(')')).unwrap_or(name);
    let number = match digits.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => digits.parse().ok(),
    };
    number.map(|number| numbered(number as u32, svm, info1))
}

/// The exit with that number, whose `info1` is its first word of information.
pub(crate) fn numbered(number: u32, svm: bool, info1: u64) -> Found {
    if !svm {
        return Found { reason: ExitReason::from(number), svm: None };
    }
    let reason = match number {
        0x000..=0x01f | 0x090..=0x09f => Some(Reason::CR_ACCESS),
        0x020..=0x03f => Some(Reason::DR_ACCESS),
        0x040..=0x05f => Some(Reason::EXCEPTION_NMI),
        // EXITINFO1 says whether it is a write.
        0x07c => Some(if info1 & 1 == 1 { Reason::WRMSR } else { Reason::RDMSR }),
        _ => SVM.iter().find(|(known, ..)| *known == number).and_then(|(.., reason)| *reason),
    };
    let reason = reason.unwrap_or(Reason(OTHERS | (number & 0xfff) as u16));
    Found { reason: ExitReason::of(reason), svm: Some(number) }
}

fn register(way: &str, number: &str, [read, write]: [u32; 2]) -> Option<u32> {
    let number: u32 = number.parse().ok().filter(|number| *number < 16)?;
    match way {
        "read" => Some(read + number),
        "write" => Some(write + number),
        _ => None,
    }
}
