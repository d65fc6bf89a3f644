//! The names of exit reasons and exceptions as KVM's tracepoints print them, for Intel's VMX and AMD's SVM.

use super::line::Line;
use hv_defs::exit::{ExitReason, Reason};

/// An exit's reason.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Found {
    /// VMX's, or the one that says the same as SVM's exit code. A code without one is kept as 0xc000 and its low 12 bits.
    pub(super) reason: ExitReason,
    /// SVM's exit code, if it was SVM's.
    pub(super) svm: Option<u32>,
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
pub(super) fn exception(words: &str) -> Option<u64> {
    let name = words.split('#').nth(1)?.split(|of: char| !of.is_ascii_alphabetic()).next()?;
    EXCEPTIONS.iter().find(|(known, _)| *known == name).map(|(_, vector)| *vector)
}

/// The reason that an exit gives: by number where it is raw, else by name. `svm` says whether the host is known to be AMD's,
/// for numbers that nobody named; `info1` is its first word of information.
pub(super) fn of(line: &Line<'_>, svm: bool, info1: u64) -> Option<Found> {
    if let Some(number) = line.number("exit_reason").or(line.number("exit_code")) {
        return Some(numbered(number as u32, line.number("isa").map_or(svm, |isa| isa == 2), info1));
    }
    // The name may be of two words, as `PF excp` is. What follows it differs from kernel to kernel.
    let rest = line.words.split_once("reason").map(|(_, rest)| rest.trim_start_matches([':', ' ']))?;
    let end = [" rip", " ext_inf1", " info"].iter().filter_map(|word| rest.find(word)).min()?;
    let name = rest[..end].trim_ascii();
    let (name, failed) = match name.strip_suffix("FAILED_VMENTRY") {
        Some(name) => (name.trim_ascii_end(), true),
        None => (name, false),
    };
    named(name, svm, info1).map(|found| Found { reason: found.reason.with_entry_failure(failed), ..found })
}

fn named(name: &str, svm: bool, info1: u64) -> Option<Found> {
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
    super::line::number(digits).map(|number| numbered(number as u32, svm, info1))
}

fn numbered(number: u32, svm: bool, info1: u64) -> Found {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(words: &str, reason: Option<(Reason, bool)>) {
        let text = format!(" a-1 [0] 5.5: kvm_exit: {words}");
        let line = Line::parse(&text).expect("a line");
        assert_eq!(
            of(&line, false, line.hex("info1").unwrap_or(0)).map(|found| (found.reason.reason(), found.svm.is_some())),
            reason,
            "{words}"
        );
    }

    #[test]
    fn reasons_of_intel_and_amd() {
        check("vcpu 0 reason EPT_VIOLATION rip 0x10 info1 0x181", Some((Reason::EPT_VIOLATION, false)));
        check("reason MSR_WRITE rip 0x10", Some((Reason::WRMSR, false)));
        check("reason PENDING_INTERRUPT rip 0x10 info 0 0", Some((Reason::INTERRUPT_WINDOW, false)));
        check("reason INVALID_STATE FAILED_VMENTRY rip 0x10", Some((Reason::INVALID_GUEST_STATE, false)));
        check("reason UNKNOWN (83) rip 0x10", Some((Reason(83), false)));
        check("exit_reason=0x30 guest_rip=0x10 isa=1", Some((Reason::EPT_VIOLATION, false)));
        check("exit_reason=0x400 guest_rip=0x10 isa=2", Some((Reason::EPT_VIOLATION, true)));
        check("vcpu 0 reason npf rip 0x10 info1 0x4", Some((Reason::EPT_VIOLATION, true)));
        check("vcpu 0 reason msr rip 0x10 info1 0x1", Some((Reason::WRMSR, true)));
        check("vcpu 0 reason EXIT_MSR rip 0x10 info1 0x0", Some((Reason::RDMSR, true)));
        check("vcpu 0 reason PF excp rip 0x10", Some((Reason::EXCEPTION_NMI, true)));
        check("vcpu 0 reason write_cr4 rip 0x10", Some((Reason::CR_ACCESS, true)));
        check("vcpu 0 reason EXIT_READ_DR7 rip 0x10", Some((Reason::DR_ACCESS, true)));
        check("exit_reason=0x84 guest_rip=0x10 isa=2", Some((Reason(0xc084), true)));
        check("vcpu 0 reason stgi rip 0x10", Some((Reason(0xc084), true)));
        check("reason: npf ext_inf1: 0x4", Some((Reason::EPT_VIOLATION, true)));
        check("rip: 0x10 reason: CPUID ext_inf1: 0x0", Some((Reason::CPUID, false)));
        check("vcpu 0 reason what rip 0x10", None);
        check("vcpu 0 rip 0x10", None);
    }
}
