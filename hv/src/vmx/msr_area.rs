//! The areas of MSRs that entries load and exits store and load.
//!
//! See: SDM "VM-Exit Controls for MSRs", "VM-Entry Controls for MSRs" and "Loading MSRs".

use crate::cpu::Cpu;
use crate::memory::Memory;
use hv_defs::addr::Hpa;
use hv_defs::x86::{Cr0, Efer, msr};

/// Loads `count` MSRs.
///
/// # Errors
/// The number, from 1, of the first entry that cannot be loaded.
pub(crate) fn load(cpu: &mut Cpu, memory: &Memory, at: u64, count: u32) -> Result<(), u32> {
    for entry in 0..count {
        let (number, value) = read(memory, at, entry);
        if number >> 32 != 0 || !write_msr(cpu, number as u32, value) {
            return Err(entry + 1);
        }
    }
    Ok(())
}

/// Stores `count` MSRs. `false` when one of them cannot be read: a VMX abort.
pub(crate) fn store(cpu: &Cpu, memory: &mut Memory, at: u64, count: u32, now: u64) -> bool {
    for entry in 0..count {
        let (number, _) = read(memory, at, entry);
        let value = match number >> 32 {
            0 => read_msr(cpu, number as u32, now),
            _ => None,
        };
        let Some(value) = value else { return false };
        memory.write(Hpa(at + u64::from(entry) * 16 + 8), value);
    }
    true
}

fn read(memory: &Memory, at: u64, entry: u32) -> (u64, u64) {
    let at = Hpa(at + u64::from(entry) * 16);
    (memory.read(at), memory.read(at.offset(8)))
}

fn read_msr(cpu: &Cpu, number: u32, now: u64) -> Option<u64> {
    let regs = &cpu.regs;
    Some(match number {
        msr::TSC => now,
        msr::SYSENTER_CS => u64::from(cpu.sysenter_cs),
        msr::SYSENTER_ESP => cpu.sysenter_esp,
        msr::SYSENTER_EIP => cpu.sysenter_eip,
        msr::DEBUGCTL => cpu.debugctl,
        msr::PAT => cpu.pat,
        msr::XSS => regs.xss,
        msr::EFER => cpu.efer,
        msr::STAR => regs.star,
        msr::LSTAR => regs.lstar,
        msr::CSTAR => regs.cstar,
        msr::FMASK => regs.fmask,
        msr::KERNEL_GS_BASE => regs.kernel_gs_base,
        msr::TSC_AUX => regs.tsc_aux,
        _ => return None,
    })
}

/// As WRMSR at privilege level 0 writes it; `false` where that would fault, and for what these areas must not hold.
fn write_msr(cpu: &mut Cpu, number: u32, value: u64) -> bool {
    let canonical = hv_defs::addr::is_canonical(value, cpu.la57);
    let regs = &mut cpu.regs;
    match number {
        msr::TSC_AUX if value >> 32 == 0 => regs.tsc_aux = value,
        msr::STAR => regs.star = value,
        msr::LSTAR if canonical => regs.lstar = value,
        msr::CSTAR if canonical => regs.cstar = value,
        msr::FMASK if value >> 32 == 0 => regs.fmask = value,
        msr::KERNEL_GS_BASE if canonical => regs.kernel_gs_base = value,
        msr::XSS if value == 0 => regs.xss = value,
        msr::SYSENTER_CS => cpu.sysenter_cs = value as u32,
        msr::SYSENTER_ESP if canonical => cpu.sysenter_esp = value,
        msr::SYSENTER_EIP if canonical => cpu.sysenter_eip = value,
        msr::PAT if value.to_le_bytes().iter().all(|kind| matches!(kind, 0 | 1 | 4..=7)) => cpu.pat = value,
        msr::EFER if value & !Efer::all().bits() == 0 => {
            // With paging on, LME stays as it is; LMA follows from both.
            let fixed = Efer::LMA.bits() | if cpu.cr0 & Cr0::PG.bits() != 0 { Efer::LME.bits() } else { 0 };
            if (value ^ cpu.efer) & fixed & Efer::LME.bits() != 0 {
                return false;
            }
            cpu.efer = value & !fixed | cpu.efer & fixed;
        }
        _ => return false,
    }
    true
}
