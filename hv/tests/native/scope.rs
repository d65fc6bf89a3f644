//! Which forms are compared, and why the others are not.

use iced_x86::{Code, CpuidFeature as F, Instruction, Mnemonic as M};
use std::arch::is_x86_feature_detected as host_has;

/// Why a form that the software CPU has is not compared; `None` for those that are.
pub fn reason(instruction: &Instruction) -> Option<&'static str> {
    if let Some(why) = of_mnemonic(instruction) {
        return Some(why);
    }
    lacking(instruction.code()).then_some("the host lacks the feature")
}

fn of_mnemonic(instruction: &Instruction) -> Option<&'static str> {
    Some(match instruction.mnemonic() {
        M::Syscall | M::Sysenter => "calls the host's kernel",
        M::Int if matches!(instruction.immediate(0), 3 | 4 | 0x80) => "calls the host's kernel",
        M::Cpuid | M::Xgetbv | M::Rdpkru | M::Wrpkru | M::Rdpid => "tells of the machine it runs on",
        M::Rdtsc | M::Rdtscp => "tells the time",
        M::Rdrand | M::Rdseed => "tells a random number",
        M::Sgdt | M::Sidt | M::Sldt | M::Str | M::Smsw => "the host's kernel emulates it under UMIP",
        M::Vmcall
        | M::Vmfunc
        | M::Vmxon
        | M::Vmxoff
        | M::Vmclear
        | M::Vmptrld
        | M::Vmptrst
        | M::Vmread
        | M::Vmwrite
        | M::Vmlaunch
        | M::Vmresume
        | M::Invept
        | M::Invvpid
        | M::Getsec => "the software CPU runs in VMX operation, the host's user does not",
        // MONITOR and MWAIT can be emulated, and RSM is, by the host's own hypervisor.
        M::Rsm | M::Monitor | M::Mwait | M::Pconfig => "the host's hypervisor sees to it",
        _ => return None,
    })
}

/// Whether the host's CPU does without a feature that the form needs.
fn lacking(code: Code) -> bool {
    code.cpuid_features().iter().any(|feature| match feature {
        F::ADX => !host_has!("adx"),
        F::AES => !host_has!("aes"),
        F::AVX => !host_has!("avx"),
        F::AVX2 => !host_has!("avx2"),
        F::BMI1 => !host_has!("bmi1"),
        F::BMI2 => !host_has!("bmi2"),
        F::CMPXCHG16B => !host_has!("cmpxchg16b"),
        F::F16C => !host_has!("f16c"),
        F::FMA => !host_has!("fma"),
        F::FSGSBASE => !super::host::has_bases(),
        F::FXSR => !host_has!("fxsr"),
        F::LZCNT => !host_has!("lzcnt"),
        F::MOVBE => !host_has!("movbe"),
        F::PCLMULQDQ => !host_has!("pclmulqdq"),
        F::POPCNT => !host_has!("popcnt"),
        F::SHA => !host_has!("sha"),
        F::SSE3 => !host_has!("sse3"),
        F::SSSE3 => !host_has!("ssse3"),
        F::SSE4_1 => !host_has!("sse4.1"),
        F::SSE4_2 => !host_has!("sse4.2"),
        F::XSAVE => !host_has!("xsave"),
        F::XSAVEC => !host_has!("xsavec"),
        F::XSAVEOPT => !host_has!("xsaveopt"),
        F::XSAVES => !host_has!("xsaves"),
        F::CLFLUSHOPT => leaf7().0 >> 23 & 1 == 0,
        F::CLWB => leaf7().0 >> 24 & 1 == 0,
        F::SERIALIZE => leaf7().1 >> 14 & 1 == 0,
        F::VAES => !host_has!("vaes"),
        F::VPCLMULQDQ => !host_has!("vpclmulqdq"),
        F::GFNI => !host_has!("gfni"),
        _ => false,
    })
}

/// EBX and EDX of CPUID's leaf 7.
fn leaf7() -> (u32, u32) {
    let leaf = core::arch::x86_64::__cpuid_count(7, 0);
    (leaf.ebx, leaf.edx)
}
