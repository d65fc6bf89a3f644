//! What CPUID says to L1: a server part of recent years, less what the machine does not have.

use super::cx::Cx;
use super::monitor::LINE;
use super::next::Next;
use crate::features::{self, Answer, Needs};
use crate::silicon::{Register, Silicon};
use crate::xsave::{self, XCR0};
use hv_defs::controls::SecondaryControls;
use hv_defs::vmcs;
use hv_defs::x86::{Cr4, msr};

/// Time-stamp counter ticks in a second: one an instruction, at this nominal speed.
pub(super) const TSC_HZ: u64 = 1_000_000_000;

const BRAND: &[u8; 48] = b"nvmx nested virtual CPU @ 1.00GHz\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0";

/// IA32_APIC_BASE's enable bit.
const APIC_ENABLED: u64 = 1 << 11;

/// Family 6, model 106, stepping 6.
pub(super) const SIGNATURE: u32 = 0x0006_06a6;

/// Leaf 1 ECX: a hypervisor is present, and what CR4.OSXSAVE shows as.
const HYPERVISOR: u32 = 1 << 31;
const OSXSAVE: u32 = 1 << 27;
/// Leaf 1 EDX: several logical CPUs in the package.
const HTT: u32 = 1 << 28;
/// Leaf 7 ECX: what CR4.PKE shows as.
const OSPKE: u32 = 1 << 4;

/// What CPUID depends on beside the leaf.
pub(super) struct Asked {
    /// The vCPU, and how many there are.
    pub(super) place: (u16, u16),
    /// The bits of CR4 that silicon has.
    pub(super) cr4: Cr4,
    /// The secondary processor-based controls that guests run with.
    pub(super) controls: SecondaryControls,
    /// Bits of a physical address.
    pub(super) address_bits: u32,
    /// The guest's own CR4.
    pub(super) guest_cr4: Cr4,
    /// XCR0.
    pub(super) xcr0: u64,
    /// Whether IA32_APIC_BASE enables the local APIC.
    pub(super) apic: bool,
    /// Whether IA32_MISC_ENABLE enables MONITOR and MWAIT.
    pub(super) monitor: bool,
}

fn text(from: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(core::array::from_fn(|byte| from[at + byte]))
}

/// CPUID's answer: EAX, EBX, ECX, EDX.
pub(super) fn cpuid(leaf: u32, subleaf: u32, asked: &Asked) -> Answer {
    let (vcpu, vcpus) = asked.place;
    // Other leaves have no subleaves, and ECX may be anything.
    let part = if matches!(leaf, 7 | 0xd) { subleaf } else { 0 };
    let [a, b, c, d] = features::bits(leaf, part, |needs| match needs {
        Needs::Nothing => true,
        Needs::Cr4(bits) => asked.cr4.contains(bits),
        Needs::Control(control) => asked.controls.contains(control),
        Needs::Apic => asked.apic,
        Needs::Monitor => asked.monitor,
    });
    let flag = |set: bool, bits: u32| if set { bits } else { 0 };
    match leaf {
        0 => [0x16, text(b"Genu", 0), text(b"ntel", 0), text(b"ineI", 0)],
        1 => {
            let many = flag(vcpus > 1, HTT);
            let count = u32::from(vcpus.next_power_of_two().min(128));
            let c = c | HYPERVISOR | flag(asked.guest_cr4.contains(Cr4::OSXSAVE), OSXSAVE);
            [SIGNATURE, u32::from(vcpu) << 24 | count << 16 | 8 << 8, c, d | many]
        }
        2 => [0x00ff_ff01, 0, 0, 0],
        // A data and an instruction cache of 32 KiB, and 2 MiB of second level, to each core.
        4 => {
            let cores = (u32::from(vcpus.next_power_of_two()) - 1).min(63) << 26;
            match subleaf {
                0 => [cores | 0x121, 7 << 22 | 63, 63, 0],
                1 => [cores | 0x122, 7 << 22 | 63, 63, 0],
                2 => [cores | 0x143, 15 << 22 | 63, 2047, 0],
                _ => [0; 4],
            }
        }
        // Lines of one size; hints beside, and interrupts that end MWAIT even if masked; one kind of C1.
        5 if asked.monitor => [LINE as u32, LINE as u32, 3, 1 << 4],
        // The APIC timer never stops.
        6 => [1 << 2, 0, 0, 0],
        7 => {
            let keys = asked.guest_cr4.contains(Cr4::PKE) && subleaf == 0;
            [a, b, c | flag(keys, OSPKE), d]
        }
        // One thread a core, all cores in one package.
        0xb => match subleaf {
            0 => [0, 1, 1 << 8, vcpu.into()],
            1 => [vcpus.next_power_of_two().trailing_zeros(), vcpus.into(), 2 << 8 | 1, vcpu.into()],
            other => [0, 0, other & 0xff, vcpu.into()],
        },
        0xd if asked.cr4.contains(Cr4::OSXSAVE) => extended_state(subleaf, [a, b, c, d], asked.xcr0),
        0x15 => [1, 40, (TSC_HZ / 40) as u32, 0],
        0x16 => [(TSC_HZ / 1_000_000) as u32, (TSC_HZ / 1_000_000) as u32, 100, 0],
        0x4000_0000 => [0x4000_0000, text(b"nvmx", 0), text(b"nvmx", 0), text(b"nvmx", 0)],
        0x8000_0000 => [0x8000_0008, 0, 0, 0],
        0x8000_0001 => [a, b, c, d],
        0x8000_0002..=0x8000_0004 => {
            let at = (leaf - 0x8000_0002) as usize * 16;
            core::array::from_fn(|word| text(BRAND, at + word * 4))
        }
        0x8000_0006 => [0, 0, 2048 << 16 | 8 << 12 | 64, 0],
        // Invariant TSC.
        0x8000_0007 => [0, 0, 0, 1 << 8],
        0x8000_0008 => {
            let linear = if asked.cr4.contains(Cr4::LA57) { 57 } else { 48 };
            [linear << 8 | asked.address_bits, b, 0, 0]
        }
        _ => [0; 4],
    }
}

/// Leaf 0xd: what XSAVE saves, and where. The components lie in their order, without gaps.
fn extended_state(subleaf: u32, features: Answer, xcr0: u64) -> Answer {
    match subleaf {
        0 => [XCR0 as u32, xsave::standard_size(xcr0), xsave::standard_size(XCR0), (XCR0 >> 32) as u32],
        1 => [features[0], xsave::compacted_size(xcr0), 0, 0],
        other => match xsave::component(other) {
            Some(component) => [component.bytes, component.at, 0, 0],
            None => [0; 4],
        },
    }
}

impl<S: Silicon> Cx<'_, S> {
    /// CPUID by L1.
    pub(super) fn handle_cpuid(&mut self) -> Next {
        let (leaf, subleaf) = (self.gpr(0) as u32, self.gpr(1) as u32);
        let apic_base = self.bus.read_apic_msr(self.vcpu.id, msr::APIC_BASE, self.at.instruction);
        let asked = Asked {
            place: (self.vcpu.id, self.shared.roots_in_use.len() as u16),
            cr4: Cr4::from_bits_retain(self.shared.capabilities.cr4_fixed1),
            controls: SecondaryControls::from_bits_retain(self.shared.capabilities.secondary.one),
            address_bits: self.shared.address_bits,
            guest_cr4: Cr4::from_bits_retain(self.get(vmcs::GUEST_CR4)),
            xcr0: self.silicon.register(self.cpu, Register::Xcr0),
            monitor: self.vcpu.msrs.has_monitor(),
            apic: apic_base.is_some_and(|base| base & APIC_ENABLED != 0),
        };
        let answer = cpuid(leaf, subleaf, &asked);
        for (register, value) in [0, 3, 1, 2].into_iter().zip(answer) {
            self.set_gpr(register, u64::from(value));
        }
        Next::Skip
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(leaf: u32, subleaf: u32, xcr0: u64) -> Answer {
        let cr4 = Cr4::SMEP | Cr4::VMXE | Cr4::OSXSAVE;
        let (guest_cr4, controls) = (Cr4::OSXSAVE, SecondaryControls::empty());
        cpuid(
            leaf,
            subleaf,
            &Asked { place: (3, 6), cr4, controls, address_bits: 40, guest_cr4, xcr0, apic: true, monitor: true },
        )
    }

    #[test]
    fn it_is_an_intel_with_vmx() {
        let [_, b, c, d] = ask(0, 0, 1);
        let name: Vec<u8> = [b, d, c].into_iter().flat_map(u32::to_le_bytes).collect();
        assert_eq!(name, b"GenuineIntel");
        assert_eq!(ask(1, 0, 1)[2] & (1 << 5 | OSXSAVE), 1 << 5 | OSXSAVE);
        assert_eq!(ask(1, 0, 1)[1] >> 16, 0x0308);
        // SMEP is there, SMAP and INVPCID are not.
        assert_eq!(ask(7, 0, 1)[1] & (1 << 7 | 1 << 10 | 1 << 20), 1 << 7);
        assert_eq!(ask(0x8000_0008, 0, 1)[0], 0x3028);
        assert_eq!((ask(1, 0, 1)[2] >> 3 & 1, ask(5, 0, 1)), (1, [64, 64, 3, 0x10]));
        assert_eq!(ask(0x1234, 0, 1), [0; 4]);
        assert_eq!(ask(0x8000_0001, 0, 1), ask(0x8000_0001, 77, 1));
        assert_eq!(ask(0xb, 1, 1), [3, 6, 0x201, 3]);
    }

    #[test]
    fn five_level_paging_is_shown_where_silicon_has_it() {
        let ask = |leaf, cr4| {
            let (guest_cr4, controls) = (Cr4::empty(), SecondaryControls::empty());
            let place = (0, 1);
            let asked =
                Asked { place, cr4, controls, address_bits: 46, guest_cr4, xcr0: 1, apic: true, monitor: false };
            cpuid(leaf, 0, &asked)
        };
        assert_eq!(ask(7, Cr4::SMEP)[2] >> 16 & 1, 0);
        assert_eq!(ask(7, Cr4::LA57)[2] >> 16 & 1, 1);
        assert_eq!(ask(0x8000_0008, Cr4::SMEP)[0], 48 << 8 | 46);
        assert_eq!(ask(0x8000_0008, Cr4::LA57)[0], 57 << 8 | 46);
    }

    #[test]
    fn the_extended_state_has_sizes() {
        assert_eq!(ask(0xd, 0, 1)[1], 576);
        assert_eq!(ask(0xd, 0, 7)[1], 832);
        assert_eq!(ask(0xd, 2, 7)[..2], [256, 576]);
        assert_eq!(ask(0xd, 1, 1)[1], 576);
        assert_eq!(ask(0xd, 63, 7), [0; 4]);
        let [mask, _, most, _] = ask(0xd, 0, 1);
        let end = (2..63).map(|number| ask(0xd, number, 1)).filter(|answer| answer[0] != 0);
        assert_eq!(end.map(|answer| answer[0] + answer[1]).max(), Some(most));
        assert_eq!(u64::from(mask), XCR0);
    }
}
