//! Exits of guests that KVM runs in its own emulator alone, as it does those of a host without VMX or SVM: no `kvm_exit` tells
//! of them, but what their instructions ask of KVM does.
//!
//! Where the guest was is not told, and is 0.

use super::{Field, Hit};
use hv_defs::exit::Reason;

/// What an instruction asks of KVM, as the exit that hardware would have made of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Emulated {
    pub(super) reason: Reason,
    pub(super) qualification: u64,
    pub(super) gpa: u64,
}

/// The exit that a hit of that name stands for.
pub(super) fn exit(name: &str, hit: &impl Hit) -> Option<Emulated> {
    let writes = hit.get(Field::Writes) == Some(1);
    let of = |reason, qualification| Some(Emulated { reason, qualification, gpa: 0 });
    match name {
        // See: SDM "Exit Qualification for I/O Instructions".
        "kvm_pio" => {
            let size = hit.get(Field::Size).unwrap_or(1).saturating_sub(1) & 7;
            let string = if hit.get(Field::Count).unwrap_or(1) > 1 { 3 << 4 } else { 0 };
            of(Reason::IO_INSTRUCTION, size | u64::from(!writes) << 3 | string | (hit.get(Field::Port)? & 0xffff) << 16)
        }
        // See: SDM "Exit Qualification for Control-Register Accesses".
        "kvm_cr" => of(Reason::CR_ACCESS, hit.get(Field::Register)? & 0xf | u64::from(!writes) << 4),
        "kvm_cpuid" => of(Reason::CPUID, 0),
        "kvm_msr" => of(if writes { Reason::WRMSR } else { Reason::RDMSR }, 0),
        "kvm_hypercall" => of(Reason::VMCALL, 0),
        // A read has two: that it could not be served in the kernel, and then what userspace gave.
        "kvm_mmio" if hit.get(Field::Kind) != Some(0) => {
            let qualification = if hit.get(Field::Kind) == Some(2) { 2 } else { 1 };
            Some(Emulated { reason: Reason::EPT_VIOLATION, qualification, gpa: hit.get(Field::Gpa)? })
        }
        _ => None,
    }
}
