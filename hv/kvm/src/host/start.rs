//! What the first vCPU is and begins with.

use super::{HostError, refused};
use crate::state::State;
use hv::cpu::{Segment, Table};
use hv::l0::{self, Start};
use hv_defs::x86::msr;
use kvm_bindings::{CpuId, KVM_MAX_CPUID_ENTRIES, Msrs, kvm_cpuid_entry2, kvm_msr_entry};
use kvm_ioctls::{Kvm, VcpuFd};

/// CPUID.1:ECX.VMX.
const VMX: u32 = 1 << 5;
/// IA32_FEATURE_CONTROL as firmware leaves it: locked, VMX on outside SMX.
const FEATURES: u64 = 1 | 1 << 2;
/// IA32_MISC_ENABLE as firmware leaves it: fast strings.
const FAST_STRINGS: u64 = 1;

/// What KVM can show of CPUID.
fn supported(kvm: &Kvm) -> Result<CpuId, HostError> {
    kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).map_err(refused("say what CPUID may show"))
}

/// Whether guests may be hypervisors.
pub(super) fn offers_vmx(kvm: &Kvm) -> Result<bool, HostError> {
    Ok(supported(kvm)?.as_slice().iter().any(|entry| entry.function == 1 && entry.ecx & VMX != 0))
}

/// Shows the vCPU of that number all that KVM can.
pub(super) fn show_cpuid(kvm: &Kvm, vcpu: &VcpuFd, number: u16) -> Result<(), HostError> {
    let id = u32::from(number);
    let mut cpuid = supported(kvm)?;
    for entry in cpuid.as_mut_slice() {
        let kvm_cpuid_entry2 { function, ebx, edx, .. } = entry;
        match function {
            1 => *ebx = *ebx & 0x00ff_ffff | id << 24,
            0xb | 0x1f => *edx = id,
            _ => {}
        }
    }
    vcpu.set_cpuid2(&cpuid).map_err(refused("set CPUID"))
}

/// Puts the vCPU where the guest's loader wants it.
pub(super) fn begin(vcpu: &VcpuFd, start: &Start) -> Result<(), HostError> {
    let segment =
        |of: &l0::Segment| Segment { selector: of.selector, base: of.base, limit: of.limit, rights: of.rights };
    let table = |(base, limit)| Table { base, limit };
    let state = State {
        gpr: start.gpr,
        rip: start.rip,
        rflags: start.rflags,
        seg: start.segments.each_ref().map(segment),
        ldtr: segment(&start.ldtr),
        tr: segment(&start.tr),
        gdtr: table(start.gdtr),
        idtr: table(start.idtr),
        cr0: start.cr0,
        cr3: start.cr3,
        cr4: start.cr4,
        efer: start.efer,
        ..State::default()
    };
    let sregs = vcpu.get_sregs().map_err(refused("give the system registers"))?;
    vcpu.set_sregs(&state.sregs(&sregs)).map_err(refused("set the system registers"))?;
    vcpu.set_regs(&state.regs()).map_err(refused("set the registers"))
}

/// Sets what firmware would have set on each CPU.
pub(super) fn firmware(vcpu: &VcpuFd) -> Result<(), HostError> {
    let entry = |(index, data)| kvm_msr_entry { index, data, reserved: 0 };
    let msrs = [(msr::FEATURE_CONTROL, FEATURES), (msr::MISC_ENABLE, FAST_STRINGS)].map(entry);
    let msrs = Msrs::from_entries(&msrs).map_err(|_| HostError::Vmx)?;
    match vcpu.set_msrs(&msrs).map_err(refused("set MSRs"))? {
        2 => Ok(()),
        _ => Err(HostError::Vmx),
    }
}
