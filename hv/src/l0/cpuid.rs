//! What CPUID says to L1: a server part of recent years, less what the machine does not have.

use super::cx::Cx;
use super::next::Next;
use crate::silicon::Silicon;
use hv_defs::vmcs;
use hv_defs::x86::{Cr4, msr};

/// Time-stamp counter ticks in a second: one an instruction, at this nominal speed.
pub(super) const TSC_HZ: u64 = 1_000_000_000;

const BRAND: &[u8; 48] = b"nvmx nested virtual CPU @ 1.00GHz\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0";

/// IA32_APIC_BASE's enable bit.
const APIC_ENABLED: u64 = 1 << 11;

/// Family 6, model 106, stepping 6.
pub(super) const SIGNATURE: u32 = 0x0006_06a6;

/// Leaf 1 ECX: SSE3, SSSE3, CX16, PCID, SSE4.1, SSE4.2, x2APIC, POPCNT, TSC deadline, hypervisor present.
const LEAF1_ECX: u32 = 1 | 1 << 9 | 1 << 13 | 1 << 17 | 1 << 19 | 1 << 20 | 1 << 21 | 1 << 23 | 1 << 24 | 1 << 31;
const VMX: u32 = 1 << 5;
const PCID: u32 = 1 << 17;
/// Leaf 7 EBX.
const TSC_ADJUST: u32 = 1 << 1;
/// Leaf 1 EDX: a local APIC, while IA32_APIC_BASE enables it; several logical CPUs in the package.
const APIC: u32 = 1 << 9;
const HTT: u32 = 1 << 28;
/// Leaf 1 EDX: FPU, DE, PSE, TSC, MSR, PAE, CX8, SEP, MTRR, PGE, CMOV, PAT, PSE36, CLFSH, MMX, FXSR, SSE, SSE2.
const LEAF1_EDX: u32 = 1
    | 1 << 2
    | 1 << 3
    | 1 << 4
    | 1 << 5
    | 1 << 6
    | 1 << 8
    | 1 << 11
    | 1 << 12
    | 1 << 13
    | 1 << 15
    | 1 << 16
    | 1 << 17
    | 1 << 19
    | 1 << 23
    | 1 << 24
    | 1 << 25
    | 1 << 26;

fn text(from: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(core::array::from_fn(|byte| from[at + byte]))
}

/// CPUID's answer: EAX, EBX, ECX, EDX, by the `vcpu`th of `vcpus`. `cr4` holds the bits of CR4 that silicon has.
pub(super) fn cpuid(leaf: u32, subleaf: u32, (vcpu, vcpus): (u16, u16), cr4: Cr4, address_bits: u32) -> [u32; 4] {
    let feature = |bit: u32, control: Cr4| if cr4.contains(control) { 1 << bit } else { 0 };
    match leaf {
        0 => [0x16, text(b"Genu", 0), text(b"ntel", 0), text(b"ineI", 0)],
        1 => {
            let ecx = LEAF1_ECX & !PCID | VMX | feature(17, Cr4::PCIDE);
            let packaged = u32::from(vcpus).next_power_of_two().min(128);
            let edx = LEAF1_EDX | APIC | if vcpus > 1 { HTT } else { 0 };
            [SIGNATURE, u32::from(vcpu) << 24 | packaged << 16 | 8 << 8, ecx, edx]
        }
        2 => [0x00ff_ff01, 0, 0, 0],
        // A data and an instruction cache of 32 KiB, and 2 MiB of second level.
        4 => {
            let cores = (u32::from(vcpus).next_power_of_two().min(64) - 1) << 26;
            match subleaf {
                0 => [cores | 0x121, 7 << 22 | 63, 63, 0],
                1 => [cores | 0x122, 7 << 22 | 63, 63, 0],
                2 => [cores | 0x143, 15 << 22 | 63, 2047, 0],
                _ => [0; 4],
            }
        }
        // The APIC's timer runs always.
        6 => [1 << 2, 0, 0, 0],
        7 if subleaf == 0 => {
            let ebx = feature(0, Cr4::FSGSBASE)
                | TSC_ADJUST
                | feature(7, Cr4::SMEP)
                | 1 << 9
                | 1 << 10
                | feature(20, Cr4::SMAP);
            [0, ebx, 0, 0]
        }
        // One thread a core, all cores in one package.
        0xb => match subleaf {
            0 => [0, 1, 1 << 8, vcpu.into()],
            1 => [vcpus.next_power_of_two().trailing_zeros(), vcpus.into(), 2 << 8 | 1, vcpu.into()],
            other => [0, 0, other & 0xff, vcpu.into()],
        },
        0x15 => [1, 40, (TSC_HZ / 40) as u32, 0],
        0x16 => [(TSC_HZ / 1_000_000) as u32, (TSC_HZ / 1_000_000) as u32, 100, 0],
        0x4000_0000 => [0x4000_0000, text(b"nvmx", 0), text(b"nvmx", 0), text(b"nvmx", 0)],
        0x8000_0000 => [0x8000_0008, 0, 0, 0],
        // LAHF in 64-bit mode; SYSCALL, NX, 1 GiB pages, RDTSCP, long mode.
        0x8000_0001 => [0, 0, 1, 1 << 11 | 1 << 20 | 1 << 26 | 1 << 27 | 1 << 29],
        0x8000_0002..=0x8000_0004 => {
            let at = (leaf - 0x8000_0002) as usize * 16;
            core::array::from_fn(|word| text(BRAND, at + word * 4))
        }
        0x8000_0006 => [0, 0, 2048 << 16 | 8 << 12 | 64, 0],
        // Invariant TSC.
        0x8000_0007 => [0, 0, 0, 1 << 8],
        0x8000_0008 => [48 << 8 | address_bits, 0, 0, 0],
        _ => [0; 4],
    }
}

impl<S: Silicon> Cx<'_, S> {
    /// CPUID by L1.
    pub(super) fn handle_cpuid(&mut self) -> Next {
        let (leaf, subleaf) = (self.gpr(0) as u32, self.gpr(1) as u32);
        let cr4 = Cr4::from_bits_retain(self.shared.capabilities.cr4_fixed1);
        let place = (self.vcpu.id, self.shared.roots_in_use.len() as u16);
        let mut answer = cpuid(leaf, subleaf, place, cr4, self.shared.address_bits);
        if leaf == 1 && self.get(vmcs::GUEST_CR4) & Cr4::OSXSAVE.bits() != 0 {
            answer[2] |= 1 << 27;
        }
        if leaf == 1 {
            let base = self.bus.read_apic_msr(self.vcpu.id, msr::APIC_BASE, self.at.instruction);
            if base.is_none_or(|base| base & APIC_ENABLED == 0) {
                answer[3] &= !APIC;
            }
        }
        for (register, value) in [0, 3, 1, 2].into_iter().zip(answer) {
            self.set_gpr(register, u64::from(value));
        }
        Next::Skip
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_an_intel_with_vmx() {
        let ask = |leaf| cpuid(leaf, 0, (3, 6), Cr4::SMEP, 40);
        let [_, b, c, d] = ask(0);
        let name: Vec<u8> = [b, d, c].into_iter().flat_map(u32::to_le_bytes).collect();
        assert_eq!(name, b"GenuineIntel");
        assert_eq!(ask(1)[2] & VMX, VMX);
        assert_eq!(ask(1)[1] >> 24, 3);
        assert_eq!(ask(7)[1] & (1 << 7 | 1 << 20), 1 << 7);
        assert_eq!(ask(0x8000_0008)[0], 0x3028);
        assert_eq!(ask(0x1234), [0; 4]);
        assert_eq!(cpuid(0xb, 1, (3, 6), Cr4::SMEP, 40), [3, 6, 0x201, 3]);
    }
}
