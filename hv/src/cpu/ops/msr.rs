//! RDMSR, WRMSR, the time-stamp counter, RDPMC, RDRAND and RDSEED.

use crate::cpu::decode::Form;
use crate::cpu::op::{Flow, Op, Run, W16, W32, W64, Width};
use crate::cpu::state::{Cpu, Halt};
use crate::memory::Memory;
use hv_defs::controls::SecondaryControls;
use hv_defs::exit::Reason;
use hv_defs::x86::{Cr0, Efer, Seg, msr};

/// EFER's bits that software may write; LMA is the CPU's own.
const EFER_WRITABLE: u64 = Efer::SCE.bits() | Efer::LME.bits() | Efer::NXE.bits();
/// DEBUGCTL's bits that may be set: last-branch records and single-step on branches, which are kept and do nothing.
const DEBUGCTL_WRITABLE: u64 = 0x3;

/// Whether each byte is a memory type that the PAT may hold.
fn valid_pat(value: u64) -> bool {
    value.to_le_bytes().iter().all(|kind| matches!(kind, 0 | 1 | 4..=7))
}

impl Cpu {
    /// An MSR's value, for an RDMSR that does not exit; `None` if the CPU holds none of that number.
    fn msr(&self, op: &Op, number: u32) -> Option<u64> {
        Some(match number {
            msr::TSC => self.controls.guest_tsc(op.now(self)),
            msr::SYSENTER_CS => u64::from(self.sysenter_cs),
            msr::SYSENTER_ESP => self.sysenter_esp,
            msr::SYSENTER_EIP => self.sysenter_eip,
            msr::DEBUGCTL => self.debugctl,
            msr::PAT => self.pat,
            msr::XSS => self.regs.xss,
            msr::EFER => self.efer,
            msr::STAR => self.regs.star,
            msr::LSTAR => self.regs.lstar,
            msr::CSTAR => self.regs.cstar,
            msr::FMASK => self.regs.fmask,
            msr::FS_BASE => self.seg[Seg::Fs as usize].base,
            msr::GS_BASE => self.seg[Seg::Gs as usize].base,
            msr::KERNEL_GS_BASE => self.regs.kernel_gs_base,
            msr::TSC_AUX => self.regs.tsc_aux,
            _ => return None,
        })
    }

    /// Writes an MSR, for a WRMSR that does not exit; `None` if the CPU holds none of that number or the value is none
    /// that it may have.
    fn set_msr(&mut self, number: u32, value: u64) -> Option<()> {
        let holds = self.holds_canonical(value);
        let address = |value: u64| holds.then_some(value);
        match number {
            msr::SYSENTER_CS => self.sysenter_cs = value as u32,
            msr::SYSENTER_ESP => self.sysenter_esp = address(value)?,
            msr::SYSENTER_EIP => self.sysenter_eip = address(value)?,
            msr::DEBUGCTL if value & !DEBUGCTL_WRITABLE == 0 => self.debugctl = value,
            msr::PAT if valid_pat(value) => {
                self.pat = value;
                self.mode_changed();
            }
            msr::XSS if value == 0 => self.regs.xss = value,
            msr::EFER => {
                let paging = self.cr0 & Cr0::PG.bits() != 0;
                if value & !(EFER_WRITABLE | Efer::LMA.bits()) != 0
                    || paging && (value ^ self.efer) & Efer::LME.bits() != 0
                {
                    return None;
                }
                self.efer = self.efer & Efer::LMA.bits() | value & EFER_WRITABLE;
                self.mode_changed();
            }
            msr::STAR => self.regs.star = value,
            msr::LSTAR => self.regs.lstar = address(value)?,
            msr::CSTAR => self.regs.cstar = address(value)?,
            msr::FMASK => self.regs.fmask = value & 0xffff_ffff,
            msr::FS_BASE => self.seg[Seg::Fs as usize].base = address(value)?,
            msr::GS_BASE => self.seg[Seg::Gs as usize].base = address(value)?,
            msr::KERNEL_GS_BASE => self.regs.kernel_gs_base = address(value)?,
            msr::TSC_AUX if value >> 32 == 0 => self.regs.tsc_aux = value,
            _ => return None,
        }
        Some(())
    }

    /// Whether an MSR is the local APIC's, and that is virtualized.
    fn virtualizes_msr(&self, number: u32) -> bool {
        (msr::X2APIC_FIRST..=msr::X2APIC_LAST).contains(&number)
            && self.controls.secondary(SecondaryControls::VIRTUALIZE_X2APIC)
    }

    /// EDX:EAX.
    pub(in crate::cpu) fn set_edx_eax(&mut self, value: u64) {
        W32::set(self, 0, value & 0xffff_ffff);
        W32::set(self, 2, value >> 32);
    }

    /// EDX:EAX.
    pub(in crate::cpu) fn edx_eax(&self) -> u64 {
        W32::get(self, 2) << 32 | W32::get(self, 0)
    }

    /// The number that RDRAND and RDSEED give now: a hash of the seed and of the clock.
    fn random(&self, op: &Op, kind: u64) -> u64 {
        let mut x = self.seed ^ op.now(self).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ kind << 63;
        x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ x >> 31
    }
}

fn rdmsr_run(cpu: &mut Cpu, memory: &mut Memory, op: &Op) -> Result<Flow, Halt> {
    let number = cpu.regs.gpr[1] as u32;
    if cpu.controls.exits_on_rdmsr(memory, number) {
        return cpu.plain_exit(op, Reason::RDMSR);
    }
    let value = if cpu.virtualizes_msr(number) { cpu.virtual_msr(memory, number) } else { cpu.msr(op, number) };
    match value {
        Some(value) => cpu.set_edx_eax(value),
        None => return cpu.gp(),
    }
    cpu.checked(op)
}

fn wrmsr_run(cpu: &mut Cpu, memory: &mut Memory, op: &Op) -> Result<Flow, Halt> {
    let number = cpu.regs.gpr[1] as u32;
    if cpu.controls.exits_on_wrmsr(memory, number) {
        return cpu.plain_exit(op, Reason::WRMSR);
    }
    let value = cpu.edx_eax();
    let written = match cpu.virtualizes_msr(number) {
        true => cpu.set_virtual_msr(memory, number, value),
        false => cpu.set_msr(number, value),
    };
    match written {
        Some(()) => cpu.checked(op),
        None => cpu.gp(),
    }
}

pub(in crate::cpu) fn rdmsr(_: &mut Form) -> Option<Run> {
    Some(Run::new(rdmsr_run))
}

pub(in crate::cpu) fn wrmsr(_: &mut Form) -> Option<Run> {
    Some(Run::new(wrmsr_run))
}

fn rdtsc_run(cpu: &mut Cpu, _: &mut Memory, op: &Op) -> Result<Flow, Halt> {
    let value = cpu.controls.guest_tsc(op.now(cpu));
    cpu.set_edx_eax(value);
    cpu.checked(op)
}

fn rdtscp_run(cpu: &mut Cpu, _: &mut Memory, op: &Op) -> Result<Flow, Halt> {
    let value = cpu.controls.guest_tsc(op.now(cpu));
    cpu.set_edx_eax(value);
    let aux = cpu.regs.tsc_aux;
    W32::set(cpu, 1, aux);
    cpu.checked(op)
}

fn rdpid_run(cpu: &mut Cpu, _: &mut Memory, op: &Op) -> Result<Flow, Halt> {
    if !cpu.controls.secondary(SecondaryControls::RDTSCP) {
        return cpu.ud();
    }
    let aux = cpu.regs.tsc_aux;
    W64::set(cpu, op.reg, aux);
    Ok(Flow::Next)
}

pub(in crate::cpu) fn rdtsc(_: &mut Form) -> Option<Run> {
    Some(Run::new(rdtsc_run))
}

pub(in crate::cpu) fn rdtscp(_: &mut Form) -> Option<Run> {
    Some(Run::new(rdtscp_run))
}

pub(in crate::cpu) fn rdpid(_: &mut Form) -> Option<Run> {
    Some(Run::new(rdpid_run))
}

/// RDPMC that does not exit: there is no performance counter of any number.
pub(in crate::cpu) fn rdpmc(_: &mut Form) -> Option<Run> {
    fn run(cpu: &mut Cpu, _: &mut Memory, _: &Op) -> Result<Flow, Halt> {
        cpu.gp()
    }
    Some(Run::new(run))
}

/// RDRAND and RDSEED. See: SDM "Instruction-Information Field as Used for RDRAND, RDSEED" for the exit.
fn random_run<const SEED: bool, W: Width>(cpu: &mut Cpu, _: &mut Memory, op: &Op) -> Result<Flow, Halt> {
    let (control, reason) = if SEED {
        (SecondaryControls::RDSEED_EXITING, Reason::RDSEED)
    } else {
        (SecondaryControls::RDRAND_EXITING, Reason::RDRAND)
    };
    if cpu.controls.secondary(control) {
        let size = match W::BITS {
            16 => 0,
            32 => 1,
            _ => 2u32,
        };
        return cpu.exit_with(op, reason, 0, u32::from(op.reg) << 3 | size << 11);
    }
    let value = cpu.random(op, u64::from(SEED));
    W::set(cpu, op.reg, value & W::MASK);
    cpu.flags.set_arithmetic(1);
    cpu.checked(op)
}

pub(in crate::cpu) fn random<const SEED: bool>(form: &mut Form) -> Option<Run> {
    Some(match form.width {
        2 => Run::new(random_run::<SEED, W16>),
        4 => Run::new(random_run::<SEED, W32>),
        _ => Run::new(random_run::<SEED, W64>),
    })
}
