//! The features of the CPU: for each, where CPUID shows it, which of the decoder's features it is, and what else must be
//! there for it.
//!
//! One table, two uses: what CPUID shows works, and the instructions of what CPUID does not show are #UD. What is no row
//! here is not there.

use hv_defs::controls::SecondaryControls;
use hv_defs::x86::Cr4;
use iced_x86::{CpuidFeature as Decoder, Instruction, Mnemonic};

/// What CPUID answers: EAX, EBX, ECX, EDX.
pub type Answer = [u32; 4];

const EAX: usize = 0;
const EBX: usize = 1;
const ECX: usize = 2;
const EDX: usize = 3;

/// What must be there besides, for a feature to be shown.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Needs {
    /// Nothing.
    Nothing,
    /// A bit of CR4 that may be set.
    Cr4(Cr4),
    /// The local APIC, enabled.
    Apic,
    /// IA32_MISC_ENABLE's bit for it.
    Monitor,
    /// A secondary processor-based control, without which the instruction is #UD in a guest.
    Control(SecondaryControls),
}

/// A feature.
#[derive(Clone, Copy, Debug)]
pub struct Feature {
    /// The SDM's name.
    pub name: &'static str,
    /// CPUID's leaf and subleaf.
    pub leaf: (u32, u32),
    /// The register, by its place in [`Answer`].
    pub register: usize,
    /// The bit.
    pub bit: u32,
    /// What must be there besides.
    pub needs: Needs,
    /// The decoder's words for it.
    decoder: &'static [Decoder],
}

macro_rules! features {
    ($($name:literal $leaf:literal, $subleaf:literal: $register:ident $bit:literal, $needs:expr, [$($decoder:ident)*];)*) => {
        /// All that there are.
        pub const FEATURES: &[Feature] = &[$(Feature {
            name: $name,
            leaf: ($leaf, $subleaf),
            register: $register,
            bit: $bit,
            needs: $needs,
            decoder: &[$(Decoder::$decoder),*],
        }),*];
    };
}

use Needs::{Apic, Control, Cr4 as InCr4, Monitor, Nothing};
use SecondaryControls as S;

features! {
    // name          leaf        register bit  needs                   the decoder's words
    "SSE3"           0x1, 0:            ECX 0,  Nothing,                [SSE3];
    "PCLMULQDQ"      0x1, 0:            ECX 1,  Nothing,                [PCLMULQDQ];
    "VMX"            0x1, 0:            ECX 5,  InCr4(Cr4::VMXE),       [VMX INVEPT INVVPID];
    "MONITOR"        0x1, 0:            ECX 3,  Monitor,                [MONITOR];
    "SSSE3"          0x1, 0:            ECX 9,  Nothing,                [SSSE3];
    "FMA"            0x1, 0:            ECX 12, InCr4(Cr4::OSXSAVE),    [FMA];
    "CMPXCHG16B"     0x1, 0:            ECX 13, Nothing,                [CMPXCHG16B];
    "PCID"           0x1, 0:            ECX 17, InCr4(Cr4::PCIDE),      [];
    "SSE4.1"         0x1, 0:            ECX 19, Nothing,                [SSE4_1];
    "SSE4.2"         0x1, 0:            ECX 20, Nothing,                [SSE4_2];
    "X2APIC"         0x1, 0:            ECX 21, Nothing,                [];
    "MOVBE"          0x1, 0:            ECX 22, Nothing,                [MOVBE];
    "POPCNT"         0x1, 0:            ECX 23, Nothing,                [POPCNT];
    "TSC_DEADLINE"   0x1, 0:            ECX 24, Nothing,                [];
    "AES"            0x1, 0:            ECX 25, Nothing,                [AES];
    "XSAVE"          0x1, 0:            ECX 26, InCr4(Cr4::OSXSAVE),    [XSAVE];
    "AVX"            0x1, 0:            ECX 28, InCr4(Cr4::OSXSAVE),    [AVX];
    "F16C"           0x1, 0:            ECX 29, InCr4(Cr4::OSXSAVE),    [F16C];
    "RDRAND"         0x1, 0:            ECX 30, Nothing,                [RDRAND];
    "FPU"            0x1, 0:            EDX 0,  Nothing,                [FPU FPU287 FPU387];
    "VME"            0x1, 0:            EDX 1,  InCr4(Cr4::VME),        [];
    "DE"             0x1, 0:            EDX 2,  InCr4(Cr4::DE),         [];
    "PSE"            0x1, 0:            EDX 3,  InCr4(Cr4::PSE),        [];
    "TSC"            0x1, 0:            EDX 4,  Nothing,                [TSC];
    "MSR"            0x1, 0:            EDX 5,  Nothing,                [MSR];
    "PAE"            0x1, 0:            EDX 6,  InCr4(Cr4::PAE),        [];
    "MCE"            0x1, 0:            EDX 7,  InCr4(Cr4::MCE),        [];
    "CX8"            0x1, 0:            EDX 8,  Nothing,                [CX8];
    "APIC"           0x1, 0:            EDX 9,  Apic,                   [];
    "SEP"            0x1, 0:            EDX 11, Nothing,                [SEP];
    "MTRR"           0x1, 0:            EDX 12, Nothing,                [];
    "PGE"            0x1, 0:            EDX 13, InCr4(Cr4::PGE),        [];
    "MCA"            0x1, 0:            EDX 14, Nothing,                [];
    "CMOV"           0x1, 0:            EDX 15, Nothing,                [CMOV];
    "PAT"            0x1, 0:            EDX 16, Nothing,                [];
    "PSE-36"         0x1, 0:            EDX 17, InCr4(Cr4::PSE),        [];
    "CLFSH"          0x1, 0:            EDX 19, Nothing,                [CLFSH];
    "MMX"            0x1, 0:            EDX 23, Nothing,                [MMX];
    "FXSR"           0x1, 0:            EDX 24, InCr4(Cr4::OSFXSR),     [FXSR];
    "SSE"            0x1, 0:            EDX 25, InCr4(Cr4::OSXMMEXCPT), [SSE];
    "SSE2"           0x1, 0:            EDX 26, Nothing,                [SSE2];
    "SS"             0x1, 0:            EDX 27, Nothing,                [];
    "FSGSBASE"       0x7, 0:            EBX 0,  InCr4(Cr4::FSGSBASE),   [FSGSBASE];
    "TSC_ADJUST"     0x7, 0:            EBX 1,  Nothing,                [];
    "BMI1"           0x7, 0:            EBX 3,  Nothing,                [BMI1];
    "AVX2"           0x7, 0:            EBX 5,  InCr4(Cr4::OSXSAVE),    [AVX2];
    "FDP_EXCPTN"     0x7, 0:            EBX 6,  Nothing,                [];
    "SMEP"           0x7, 0:            EBX 7,  InCr4(Cr4::SMEP),       [];
    "BMI2"           0x7, 0:            EBX 8,  Nothing,                [BMI2];
    "ERMS"           0x7, 0:            EBX 9,  Nothing,                [];
    "INVPCID"        0x7, 0:            EBX 10, Control(S::INVPCID),    [INVPCID];
    "FCS_FDS_GONE"   0x7, 0:            EBX 13, Nothing,                [];
    "RDSEED"         0x7, 0:            EBX 18, Nothing,                [RDSEED];
    "ADX"            0x7, 0:            EBX 19, Nothing,                [ADX];
    "SMAP"           0x7, 0:            EBX 20, InCr4(Cr4::SMAP),       [SMAP];
    "CLFLUSHOPT"     0x7, 0:            EBX 23, Nothing,                [CLFLUSHOPT];
    "CLWB"           0x7, 0:            EBX 24, Nothing,                [CLWB];
    "SHA"            0x7, 0:            EBX 29, Nothing,                [SHA];
    "UMIP"           0x7, 0:            ECX 2,  InCr4(Cr4::UMIP),       [];
    "PKU"            0x7, 0:            ECX 3,  InCr4(Cr4::PKE),        [PKU];
    "LA57"           0x7, 0:            ECX 16, InCr4(Cr4::LA57),       [];
    "RDPID"          0x7, 0:            ECX 22, Control(S::RDTSCP),     [RDPID];
    "FSRM"           0x7, 0:            EDX 4,  Nothing,                [];
    "IBRS_IBPB"      0x7, 0:            EDX 26, Nothing,                [];
    "STIBP"          0x7, 0:            EDX 27, Nothing,                [];
    "ARCH_CAP"       0x7, 0:            EDX 29, Nothing,                [];
    "SSBD"           0x7, 0:            EDX 31, Nothing,                [];
    "XSAVEOPT"       0xd, 1:            EAX 0,  InCr4(Cr4::OSXSAVE),    [XSAVEOPT];
    "XSAVEC"         0xd, 1:            EAX 1,  InCr4(Cr4::OSXSAVE),    [XSAVEC];
    "XGETBV_ECX1"    0xd, 1:            EAX 2,  InCr4(Cr4::OSXSAVE),    [];
    "XSAVES"         0xd, 1:            EAX 3,  Control(S::XSAVES),     [XSAVES];
    "LAHF64"         0x8000_0001, 0:    ECX 0,  Nothing,                [];
    "LZCNT"          0x8000_0001, 0:    ECX 5,  Nothing,                [LZCNT];
    "PREFETCHW"      0x8000_0001, 0:    ECX 8,  Nothing,                [PREFETCHW];
    "SYSCALL"        0x8000_0001, 0:    EDX 11, Nothing,                [SYSCALL];
    "NX"             0x8000_0001, 0:    EDX 20, Nothing,                [];
    "PAGE1GB"        0x8000_0001, 0:    EDX 26, Nothing,                [];
    "RDTSCP"         0x8000_0001, 0:    EDX 27, Control(S::RDTSCP),     [RDTSCP];
    "LM"             0x8000_0001, 0:    EDX 29, Nothing,                [X64];
    "WBNOINVD"       0x8000_0008, 0:    EBX 9,  Nothing,                [WBNOINVD];
}

/// The decoder's words for what every CPU of this kind has, and CPUID shows no bit for.
const BASE: &[Decoder] = &[
    Decoder::INTEL8086,
    Decoder::INTEL8086_ONLY,
    Decoder::INTEL186,
    Decoder::INTEL286,
    Decoder::INTEL386,
    Decoder::INTEL386_ONLY,
    Decoder::INTEL486,
    Decoder::CPUID,
    Decoder::MULTIBYTENOP,
    Decoder::PAUSE,
    Decoder::RDPMC,
    // SMXE cannot be set, so that GETSEC is #UD by itself; and RSM is outside SMM.
    Decoder::SMX,
    Decoder::SMM,
];

/// By the decoder's number: whether it is there.
const PRESENT: [bool; 256] = {
    let mut present = [false; 256];
    let mut at = 0;
    while at < BASE.len() {
        present[BASE[at] as usize] = true;
        at += 1;
    }
    let mut row = 0;
    while row < FEATURES.len() {
        let mut at = 0;
        while at < FEATURES[row].decoder.len() {
            present[FEATURES[row].decoder[at] as usize] = true;
            at += 1;
        }
        row += 1;
    }
    present
};

/// Whether an instruction belongs to a feature that there is not, and so is #UD. Hints whose encodings do nothing, or
/// something else, on a CPU without them are not.
pub fn is_absent(i: &Instruction) -> bool {
    use Mnemonic as M;
    !matches!(
        i.mnemonic(),
        // Encodings of NOP.
        M::Cldemote
            | M::Endbr32
            | M::Endbr64
            | M::Prefetchit0
            | M::Prefetchit1
            | M::Prefetchwt1
            | M::Prefetch
            | M::Rdsspd
            | M::Rdsspq
            | M::Reservednop
    ) && i.cpuid_features().iter().any(|feature| !PRESENT[*feature as usize])
}

/// The feature bits of a leaf of CPUID, as far as `holds` says of what they need.
pub fn bits(leaf: u32, subleaf: u32, holds: impl Fn(Needs) -> bool) -> Answer {
    let mut answer = [0; 4];
    for row in FEATURES.iter().filter(|row| row.leaf == (leaf, subleaf) && holds(row.needs)) {
        answer[row.register] |= 1 << row.bit;
    }
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_bit_is_shown_twice() {
        for (at, row) in FEATURES.iter().enumerate() {
            let same = |other: &Feature| (other.leaf, other.register, other.bit) == (row.leaf, row.register, row.bit);
            assert!(!FEATURES[at + 1..].iter().any(same), "{}", row.name);
            assert!(row.bit < 32 && row.register < 4, "{}", row.name);
        }
    }

    #[test]
    fn what_is_shown_depends_on_what_it_needs() {
        let all = bits(7, 0, |_| true);
        let without = bits(7, 0, |needs| needs != InCr4(Cr4::SMEP) && needs != Control(S::INVPCID));
        assert_eq!(all[EBX] & !without[EBX], 1 << 7 | 1 << 10);
        assert_eq!(bits(7, 1, |_| true), [0; 4]);
    }
}
