//! MSRs of the running guest, as L0 emulates them, and which of them it lets pass.

use super::cpuid::TSC_HZ;
use super::cx::Cx;
use crate::silicon::{Register, Silicon};
use hv_defs::addr::{Gpa, Hpa};
use hv_defs::controls::PrimaryControls;
use hv_defs::vmcs::{self, Field};
use hv_defs::x86::{Cr0, Efer, msr};
use serde::{Deserialize, Serialize};

/// IA32_FEATURE_CONTROL as firmware leaves it: locked, VMXON outside SMX enabled.
const FEATURE_CONTROL: u64 = 5;

/// IA32_ARCH_CAPABILITIES: of the known side channels, none is there, and IBRS once set stays so.
const ARCH_CAPABILITIES: u64 = RDCL_NO
    | IBRS_ALL
    | SKIP_L1DFL_VMENTRY
    | SSB_NO
    | MDS_NO
    | IF_PSCHANGE_MC_NO
    | TAA_NO
    | SBDR_SSDP_NO
    | FBSDP_NO
    | PSDP_NO
    | BHI_NO
    | PBRSB_NO
    | GDS_NO
    | RFDS_NO
    | ITS_NO;
const RDCL_NO: u64 = 1 << 0;
const IBRS_ALL: u64 = 1 << 1;
const SKIP_L1DFL_VMENTRY: u64 = 1 << 3;
const SSB_NO: u64 = 1 << 4;
const MDS_NO: u64 = 1 << 5;
const IF_PSCHANGE_MC_NO: u64 = 1 << 6;
const TAA_NO: u64 = 1 << 8;
const SBDR_SSDP_NO: u64 = 1 << 13;
const FBSDP_NO: u64 = 1 << 14;
const PSDP_NO: u64 = 1 << 15;
const BHI_NO: u64 = 1 << 20;
const PBRSB_NO: u64 = 1 << 24;
const GDS_NO: u64 = 1 << 26;
const RFDS_NO: u64 = 1 << 27;
const ITS_NO: u64 = 1 << 62;

/// IA32_SPEC_CTRL's bits that may be set: IBRS, STIBP, SSBD.
const SPEC_CTRL: u64 = 7;

/// IA32_MISC_ENABLE: fast strings, MONITOR and MWAIT; branch traces and precise samples are not had, which cannot be written.
const MISC_ENABLE: u64 = MISC_FAST_STRINGS | MISC_MONITOR | MISC_READ_ONLY;
const MISC_FAST_STRINGS: u64 = 1;
const MISC_MONITOR: u64 = 1 << 18;
const MISC_READ_ONLY: u64 = 1 << 11 | 1 << 12;
/// Beside these: the limit of CPUID's leaves and the disabling of NX, which are kept and do nothing.
const MISC_WRITABLE: u64 = MISC_FAST_STRINGS | MISC_READ_ONLY | MISC_MONITOR | 1 << 22 | 1 << 34;

/// MSR_PLATFORM_INFO: the ratio of the nominal speed to 100 MHz.
const PLATFORM_INFO: u64 = (TSC_HZ / 100_000_000) << 8;

/// MTRRs: 8 variable pairs, 11 fixed.
const VARIABLE: u32 = 0x200;
const VARIABLE_LAST: u32 = 0x20f;
const FIXED: [u32; 11] = [0x250, 0x258, 0x259, 0x268, 0x269, 0x26a, 0x26b, 0x26c, 0x26d, 0x26e, 0x26f];

/// MSRs that are L0's to remember for a vCPU.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Msrs {
    pub(super) feature_control: u64,
    pub(super) tsc_offset: u64,
    tsc_adjust: u64,
    misc_enable: u64,
    spec_ctrl: u64,
    mtrr_variable: [u64; 16],
    mtrr_fixed: [u64; 11],
    mtrr_default: u64,
    mcg_status: u64,
}

impl Msrs {
    /// Whether IA32_MISC_ENABLE lets software have MONITOR and MWAIT.
    pub(super) fn has_monitor(&self) -> bool {
        self.misc_enable & MISC_MONITOR != 0
    }

    /// As after a reset.
    pub(super) fn new() -> Self {
        Self {
            feature_control: FEATURE_CONTROL,
            tsc_offset: 0,
            tsc_adjust: 0,
            misc_enable: MISC_ENABLE,
            spec_ctrl: 0,
            mtrr_variable: [0; 16],
            mtrr_fixed: [0x0606_0606_0606_0606; 11],
            mtrr_default: 0xc06,
            mcg_status: 0,
        }
    }
}

/// Bytes of the MSR bitmap that hold MSRs which guests reach without an exit, and the bits of these: the TSC for
/// reading, and DEBUGCTL, which KVM reads at each exit; SYSENTER_CS, _ESP, _EIP; STAR, LSTAR, CSTAR, FMASK; FS_BASE,
/// GS_BASE, KERNEL_GS_BASE.
pub(super) const PASS: [(usize, u8); 8] = [
    (0x002, 0x01),
    (0x02e, 0x70),
    (0x03b, 0x02),
    (0x410, 0x1e),
    (0x420, 0x07),
    (0x82e, 0x70),
    (0xc10, 0x1e),
    (0xc20, 0x07),
];

/// The MSR bitmap that L0 would use by itself.
pub(super) fn bitmap() -> [u8; 4096] {
    let mut bitmap = [0xff; 4096];
    for (byte, bits) in PASS {
        bitmap[byte] = !bits;
    }
    bitmap
}

/// Where an MSR's bit is in the bitmap: byte and bit; `None` for MSRs outside both ranges, which always exit.
pub(super) fn bitmap_place(index: u32, write: bool) -> Option<(u64, u32)> {
    let (low, base) = match index {
        0..=0x1fff => (index, 0),
        0xc000_0000..=0xc000_1fff => (index & 0x1fff, 0x400),
        _ => return None,
    };
    Some((u64::from(low / 8) + base + if write { 0x800 } else { 0 }, low % 8))
}

/// An MSR that is the local APIC's.
fn is_apic(index: u32) -> bool {
    matches!(index, msr::APIC_BASE | msr::TSC_DEADLINE | msr::X2APIC_FIRST..=msr::X2APIC_LAST)
}

/// A passed MSR that lies in a VMCS field.
fn in_vmcs(index: u32) -> Option<Field<u64>> {
    Some(match index {
        msr::FS_BASE => vmcs::GUEST_FS_BASE,
        msr::GS_BASE => vmcs::GUEST_GS_BASE,
        msr::SYSENTER_ESP => vmcs::GUEST_SYSENTER_ESP,
        msr::SYSENTER_EIP => vmcs::GUEST_SYSENTER_EIP,
        _ => return None,
    })
}

fn is_pat(value: u64) -> bool {
    value.to_le_bytes().iter().all(|kind| matches!(kind, 0 | 1 | 4..=7))
}

fn is_mtrr_type(kind: u8) -> bool {
    matches!(kind, 0 | 1 | 4..=6)
}

/// Whether a variable MTRR takes a value: of a pair the first is a base with a type, the second a mask with a valid bit.
fn is_variable_mtrr(index: u32, value: u64, address_bits: u32) -> bool {
    let low = match index % 2 {
        0 => is_mtrr_type(value as u8) && value & 0xf00 == 0,
        _ => value & 0x7ff == 0,
    };
    low && value >> address_bits == 0
}

impl<S: Silicon> Cx<'_, S> {
    /// RDMSR; `None` is #GP(0).
    pub(super) fn read_msr(&mut self, index: u32) -> Option<u64> {
        if let Some(value) = self.shared.capabilities.msr(index) {
            return Some(value);
        }
        if let Some(field) = in_vmcs(index) {
            return Some(self.get(field));
        }
        if is_apic(index) {
            self.tell_cr8();
            return self.bus.read_apic_msr(self.vcpu.id, index, self.at.instruction);
        }
        let msrs = &self.vcpu.msrs;
        Some(match index {
            msr::TSC => {
                let tsc = self.silicon.retired().wrapping_add(msrs.tsc_offset);
                if self.vcpu.level == 2 { self.l2_tsc(tsc) } else { tsc }
            }
            msr::TSC_ADJUST => msrs.tsc_adjust,
            msr::FEATURE_CONTROL => msrs.feature_control,
            msr::MISC_ENABLE => msrs.misc_enable,
            msr::MTRRCAP => 0x508,
            msr::MTRR_DEF_TYPE => msrs.mtrr_default,
            VARIABLE..=VARIABLE_LAST => msrs.mtrr_variable[(index - VARIABLE) as usize],
            msr::MCG_STATUS => msrs.mcg_status,
            msr::SPEC_CTRL => msrs.spec_ctrl,
            msr::ARCH_CAPABILITIES => ARCH_CAPABILITIES,
            msr::PLATFORM_INFO => PLATFORM_INFO,
            // There are no machine-check banks.
            msr::PLATFORM_ID | msr::MISC_FEATURES_ENABLES | msr::MCG_CAP => 0,
            msr::BIOS_SIGN_ID => 0x1 << 32,
            msr::DEBUGCTL => self.get(vmcs::GUEST_DEBUGCTL),
            msr::PAT => self.get(vmcs::GUEST_PAT),
            msr::EFER => self.get(vmcs::GUEST_EFER),
            msr::SYSENTER_CS => u64::from(self.get(vmcs::GUEST_SYSENTER_CS)),
            msr::STAR => self.silicon.register(self.cpu, Register::Star),
            msr::LSTAR => self.silicon.register(self.cpu, Register::Lstar),
            msr::CSTAR => self.silicon.register(self.cpu, Register::Cstar),
            msr::FMASK => self.silicon.register(self.cpu, Register::Fmask),
            msr::KERNEL_GS_BASE => self.silicon.register(self.cpu, Register::KernelGsBase),
            msr::TSC_AUX => self.silicon.register(self.cpu, Register::TscAux),
            msr::XSS => self.silicon.register(self.cpu, Register::Xss),
            _ => msrs.mtrr_fixed[FIXED.iter().position(|fixed| *fixed == index)?],
        })
    }

    /// WRMSR; `false` is #GP(0).
    pub(super) fn write_msr(&mut self, index: u32, value: u64) -> bool {
        if let Some(field) = in_vmcs(index) {
            let good = self.holds_canonical(value);
            if good {
                self.set(field, value);
            }
            return good;
        }
        if is_apic(index) {
            self.tell_cr8();
            let good = index != msr::APIC_BASE || value >> self.shared.address_bits == 0;
            let written = good && self.bus.write_apic_msr(self.vcpu.id, index, value, self.at.instruction);
            self.ask_cr8();
            return written;
        }
        let canonical = self.holds_canonical(value);
        let msrs = &mut self.vcpu.msrs;
        match index {
            msr::TSC => {
                let offset = value.wrapping_sub(self.silicon.retired());
                let change = offset.wrapping_sub(msrs.tsc_offset);
                msrs.tsc_offset = offset;
                msrs.tsc_adjust = msrs.tsc_adjust.wrapping_add(change);
                self.shift_tsc(change);
            }
            msr::TSC_ADJUST => {
                let change = value.wrapping_sub(msrs.tsc_adjust);
                msrs.tsc_adjust = value;
                msrs.tsc_offset = msrs.tsc_offset.wrapping_add(change);
                self.shift_tsc(change);
            }
            msr::MISC_ENABLE if value & !MISC_WRITABLE == 0 => {
                msrs.misc_enable = value & !MISC_READ_ONLY | MISC_ENABLE & MISC_READ_ONLY;
            }
            msr::MISC_FEATURES_ENABLES if value == 0 => {}
            msr::MTRR_DEF_TYPE if value & !0xcff == 0 && is_mtrr_type(value as u8) => msrs.mtrr_default = value,
            VARIABLE..=VARIABLE_LAST if is_variable_mtrr(index, value, self.shared.address_bits) => {
                msrs.mtrr_variable[(index - VARIABLE) as usize] = value;
            }
            msr::MCG_STATUS if value & !7 == 0 => msrs.mcg_status = value,
            msr::SPEC_CTRL if value & !SPEC_CTRL == 0 => msrs.spec_ctrl = value,
            msr::PRED_CMD if value & !1 == 0 => {}
            msr::BIOS_SIGN_ID => {}
            // Branch traces and the like are not had: only what reads back as written may be written.
            msr::DEBUGCTL if value & !3 == 0 => self.set(vmcs::GUEST_DEBUGCTL, value),
            msr::PAT if is_pat(value) => self.set(vmcs::GUEST_PAT, value),
            msr::EFER => return self.write_efer(value),
            msr::SYSENTER_CS => self.set(vmcs::GUEST_SYSENTER_CS, value as u32),
            msr::STAR => self.silicon.set_register(self.cpu, Register::Star, value),
            msr::LSTAR if canonical => self.silicon.set_register(self.cpu, Register::Lstar, value),
            msr::CSTAR if canonical => self.silicon.set_register(self.cpu, Register::Cstar, value),
            msr::FMASK if value >> 32 == 0 => self.silicon.set_register(self.cpu, Register::Fmask, value),
            msr::KERNEL_GS_BASE if canonical => self.silicon.set_register(self.cpu, Register::KernelGsBase, value),
            msr::TSC_AUX if value >> 32 == 0 => self.silicon.set_register(self.cpu, Register::TscAux, value),
            msr::XSS if value == 0 => self.silicon.set_register(self.cpu, Register::Xss, value),
            _ => match FIXED.iter().position(|fixed| *fixed == index) {
                Some(fixed) if value.to_le_bytes().into_iter().all(is_mtrr_type) => msrs.mtrr_fixed[fixed] = value,
                _ => return false,
            },
        }
        true
    }

    fn shift_tsc(&mut self, change: u64) {
        let offset = self.get(vmcs::TSC_OFFSET).wrapping_add(change);
        self.set(vmcs::TSC_OFFSET, offset);
        self.bus.tsc_moved(self.vcpu.id, self.vcpu.msrs.tsc_offset, self.at.instruction);
    }

    fn write_efer(&mut self, value: u64) -> bool {
        let wanted = Efer::from_bits_retain(value);
        if !(Efer::SCE | Efer::LME | Efer::LMA | Efer::NXE).contains(wanted) {
            return false;
        }
        let old = Efer::from_bits_retain(self.get(vmcs::GUEST_EFER));
        let paging = self.get(vmcs::CR0_READ_SHADOW) & Cr0::PG.bits() != 0;
        if paging && (wanted ^ old).contains(Efer::LME) {
            return false;
        }
        let new = (wanted - Efer::LMA) | (old & Efer::LMA);
        self.update(vmcs::GUEST_EFER, new.bits());
        true
    }

    /// The MSR bitmap for a vmcs02: exits that L0 or vmcs12 wants. Only the MSRs that L0 lets pass can differ from all
    /// ones, so only their bytes are looked at.
    pub(super) fn merge_msr_bitmap(&mut self, slot: usize) -> u64 {
        let used = self.vcpu.vmcs12.get(vmcs::PRIMARY_CONTROLS).contains(PrimaryControls::MSR_BITMAPS);
        let bitmap12 = Gpa(self.vcpu.vmcs12.get(vmcs::MSR_BITMAP));
        let hpa12 = if used { self.ram(bitmap12, 4096) } else { None };
        let page = self.vcpu.pool.slots[slot].bitmap;
        for (number, (byte, pass)) in PASS.into_iter().enumerate() {
            let mut theirs = [0xff];
            if let Some(hpa12) = hpa12 {
                self.silicon.read(hpa12.offset(byte as u64), &mut theirs);
            }
            let merged = !pass | theirs[0];
            if self.vcpu.pool.slots[slot].merged[number] != merged {
                self.vcpu.pool.slots[slot].merged[number] = merged;
                self.silicon.write(page.offset(byte as u64), &[merged]);
            }
        }
        self.merge_x2apic(slot, hpa12);
        page.0
    }

    /// Writes L0's own bitmap into a page.
    pub(super) fn put_own_bitmap(&mut self, page: Hpa) {
        self.silicon.write(page, &bitmap());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bitmap_lets_pass_what_it_says() {
        let bitmap = bitmap();
        let check = |index, write, exits: bool| {
            let (byte, bit) = bitmap_place(index, write).unwrap();
            assert_eq!(bitmap[byte as usize] >> bit & 1 != 0, exits, "{index:#x} write={write}");
        };
        for index in [msr::SYSENTER_CS, msr::SYSENTER_EIP, msr::STAR, msr::FMASK, msr::FS_BASE, msr::KERNEL_GS_BASE] {
            check(index, false, false);
            check(index, true, false);
        }
        check(msr::TSC, false, false);
        check(msr::TSC, true, true);
        check(msr::EFER, false, true);
        check(msr::TSC_AUX, true, true);
        check(msr::PAT, true, true);
        assert_eq!(bitmap_place(0x4000_0000, false), None);
    }
}
