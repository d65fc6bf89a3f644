//! What one KVM is known to do otherwise than the architecture: the paravirtual one (kvm_pvm), which runs guests without
//! VMX or SVM. Ordinary guests run in KVM's instruction emulator there, 64-bit user code natively, and events are
//! delivered by code of its own. On other hosts nothing of this is excused.

use crate::judge::{End, Outcome};
use crate::kit::{Case, HANDLERS, Mode};
use bitflags::bitflags;

bitflags! {
    /// Features of a CPU that KVM may be without.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct Features: u32 {
        const PCID = 1 << 0;
        const GIGABYTE_PAGES = 1 << 1;
        const SMEP = 1 << 2;
        const SMAP = 1 << 3;
        const UMIP = 1 << 4;
        /// No feature, but a maker: what AMD's CPUs do otherwise, by AMD's manual, is judged on Intel's alone.
        const INTEL = 1 << 5;
    }
}

impl Features {
    /// What a leaf of CPUID says.
    pub fn of(leaf: u32, subleaf: u32, [_, ebx, ecx, edx]: [u32; 4]) -> Self {
        if leaf == 0 {
            return if ebx.to_le_bytes() == *b"Genu" { Self::INTEL } else { Self::empty() };
        }
        let bits: &[(u32, u32, Self)] = match (leaf, subleaf) {
            (1, _) => &[(ecx, 17, Self::PCID)],
            (7, 0) => &[(ebx, 7, Self::SMEP), (ebx, 20, Self::SMAP), (ecx, 2, Self::UMIP)],
            (0x8000_0001, _) => &[(edx, 26, Self::GIGABYTE_PAGES)],
            _ => &[],
        };
        bits.iter().filter(|(word, bit, _)| word >> bit & 1 != 0).fold(Self::empty(), |all, (.., one)| all | *one)
    }
}

macro_rules! deviations {
    ($($name:ident: $why:literal,)*) => {
        /// What the paravirtual KVM does otherwise.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
        pub enum Deviation {
            $($name,)*
        }

        impl Deviation {
            /// In words, with who is right.
            pub fn why(self) -> &'static str {
                match self {
                    $(Self::$name => $why,)*
                }
            }
        }
    };
}

deviations! {
    NotEmulated: "the emulator has not got the instruction or this form of it, and the run ends with an internal error",
    LegacyPaging: "paging outside IA-32e mode is a triple fault at once",
    VirtualMode: "delivery out of virtual-8086 mode pushes no data segments and keeps them; INT is #UD; STR is executed",
    Delivery: "delivery checks neither types, privilege nor presence of gates, code and stacks, and sets no accessed bit; what fails in it is a double fault at once",
    SoftwareEvents: "INT n, INT3 and INT1 in user code are #UD, and INT n in real mode does not end",
    NativeUser: "64-bit user code runs natively at the host's own privilege: IOPL, TSD, UMIP, SMSW, null selectors, SYSCALL and SYSENTER are the host's",
    Iret: "IRET in compatibility mode is #GP; in 64-bit mode it does not check what it returns to, and keeps data segments that user code may not have",
    Sysret: "SYSRET is executed in any mode, whether EFER.SCE is set or not and wherever RCX points (Intel: #UD, #GP)",
    HighBits: "bits 63:32 of a value for CR0 or CR4 are ignored (Intel: #GP)",
    LocalSelector: "LTR and LLDT of a selector with TI set: no error code, or the LDT is looked into first (SDM: #GP of the selector)",
    Msr: "as on AMD: no check that PAT's types exist, no #GP for an address that is not canonical, no cut to 32 bits",
    Window: "the interrupt window is seen at a HLT only",
    RealStack: "in real mode delivery does not look at the stack's limit (SDM: #SS, and with no room for that either, shutdown)",
    SystemDescriptors: "LTR takes a 16-bit task in IA-32e mode, LTR and LLDT do not look at the upper half's type, nor in compatibility mode at the upper half at all (SDM: #GP; sixteen bytes)",
    FarLimit: "a far branch does not look whether the offset lies in the segment (SDM: #GP)",
    Wrap: "an access across the end of a segment of 4 GiB is done: the SDM leaves that to the model",
    PortLimit: "of the two bytes of the port bitmap that are read, only the first has to lie in the task (SDM: both)",
    DataBreakpoints: "breakpoints are on instructions alone",
    SmapFetch: "with SMAP alone user pages cannot be executed above level 3 (SDM: SMAP is about data)",
}

/// What a walk through these entries of page tables needs: on AMD's CPUs bits 46 and 47 are of the address, not reserved, and
/// bit 8 is reserved in PML4Es.
pub fn for_entries(root: u64, others: &[u64]) -> Features {
    let wide = others.iter().chain([&root]).any(|entry| entry & (3 << 46) != 0);
    if wide || root & 1 << 8 != 0 { Features::INTEL } else { Features::empty() }
}

/// Whether this is the KVM whose deviations are known.
pub fn paravirtual() -> bool {
    std::path::Path::new("/sys/module/kvm_pvm").exists()
}

/// The deviation that explains what differs in a case.
pub fn explain(case: &Case, kvm: &Outcome, ours: &Outcome) -> Option<Deviation> {
    if case.deviates.is_some() {
        return case.deviates;
    }
    if matches!(kvm.end, End::Cannot(_)) && !matches!(ours.end, End::Cannot(_)) {
        return Some(Deviation::NotEmulated);
    }
    if matches!(case.mode, Mode::Paged | Mode::Pae) && kvm.end == End::Shutdown {
        return Some(Deviation::LegacyPaging);
    }
    if case.mode == Mode::Virtual && ours.delivered {
        return Some(Deviation::VirtualMode);
    }
    if case.is_user()
        && kvm.state.rip == HANDLERS + 0x61
        && matches!(case.mode, Mode::Protected32 | Mode::Compatibility)
    {
        // What the emulator has not got is #UD in user code.
        return Some(Deviation::NotEmulated);
    }
    if case.mode == Mode::Real && ours.end == End::Shutdown && case.state.gpr[4] & 1 != 0 {
        return Some(Deviation::RealStack);
    }
    None
}
