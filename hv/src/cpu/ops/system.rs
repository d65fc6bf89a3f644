//! Control and debug registers, the interrupt flag, HLT and its kin, invalidation, FS and GS bases.

use crate::cpu::decode::Form;
use crate::cpu::event::Event;
use crate::cpu::op::{Flow, Op, Run, W16, W32, W64, Width};
use crate::cpu::ops::vmx::{displacement, operand_info};
use crate::cpu::state::{Cpu, Halt, Stop};
use crate::memory::Memory;
use crate::mmu::{Access, InvpcidType};
use crate::vmx::exit::ExitInfo;
use hv_defs::addr::PAGE_SIZE;
use hv_defs::controls::{ActivityState, Interruptibility, PrimaryControls, SecondaryControls};
use hv_defs::exit::{CrAccess, CrAccessKind, DrAccess, Reason};
use hv_defs::x86::{Cr0, Cr4, Efer, Rflags, Seg};

/// CR4's bits that there are.
const CR4_DEFINED: Cr4 = Cr4::all().difference(Cr4::SMXE.union(Cr4::CET).union(Cr4::PKS));

/// For instructions that the guard always makes exit.
pub(in crate::cpu) fn gone(_: &mut Form) -> Option<Run> {
    fn run(cpu: &mut Cpu, _: &mut Memory, _: &Op) -> Result<Flow, Halt> {
        cpu.ud()
    }
    Some(Run::new(run))
}

impl Cpu {
    fn cr_exit<T>(&mut self, op: &Op, cr: u8, kind: CrAccessKind, gpr: u8) -> Result<T, Halt> {
        let access = CrAccess::new().with_cr(cr).with_kind(kind).with_gpr(gpr);
        self.exit_with(op, Reason::CR_ACCESS, access.into(), 0)
    }

    /// Whether the controls let the guest leave protection or paging.
    fn unrestricted(&self) -> bool {
        self.controls.secondary(SecondaryControls::UNRESTRICTED_GUEST)
    }

    /// Gives CR0 the bits of `value` that the host does not own.
    pub(in crate::cpu) fn write_cr0(&mut self, memory: &mut Memory, value: u64) -> Result<(), Halt> {
        let mask = self.controls.cr0_mask;
        let new = self.cr0 & mask | value & !mask | Cr0::ET.bits();
        let has = |bit: Cr0| new & bit.bits() != 0;
        let mut fixed = Cr0::NE;
        if !self.unrestricted() {
            fixed |= Cr0::PE | Cr0::PG;
        }
        if value >> 32 != 0
            || new & fixed.bits() != fixed.bits()
            || has(Cr0::PG) && !has(Cr0::PE)
            || has(Cr0::NW) && !has(Cr0::CD)
        {
            return self.gp();
        }
        let new = new & Cr0::all().bits();
        let changed = new ^ self.cr0;
        let mut efer = self.efer;
        if changed & Cr0::PG.bits() != 0 {
            if has(Cr0::PG) {
                if efer & Efer::LME.bits() != 0 {
                    if !self.has_cr4(Cr4::PAE) || self.seg[Seg::Cs as usize].rights.long() {
                        return self.gp();
                    }
                    efer |= Efer::LMA.bits();
                }
            } else {
                if self.has_cr4(Cr4::PCIDE) || self.code64() {
                    return self.gp();
                }
                efer &= !Efer::LMA.bits();
            }
        }
        let paging_changed = changed & (Cr0::PG | Cr0::WP | Cr0::PE | Cr0::CD | Cr0::NW).bits() != 0;
        if has(Cr0::PG)
            && self.has_cr4(Cr4::PAE)
            && efer & Efer::LMA.bits() == 0
            && changed & (Cr0::PG | Cr0::CD | Cr0::NW).bits() != 0
        {
            self.load_pdptes(memory, self.cr3)?;
        }
        self.mmu.cr0_written(self.cr0, new);
        self.cr0 = new;
        self.efer = efer;
        if paging_changed {
            self.mode_changed();
        }
        Ok(())
    }

    fn write_cr3(&mut self, memory: &mut Memory, value: u64) -> Result<(), Halt> {
        let operand = value;
        let value = if self.has_cr4(Cr4::PCIDE) { value & !(1 << 63) } else { value };
        if self.long_mode() && value >> crate::mmu::PHYSICAL_BITS != 0 {
            return self.gp();
        }
        let value = if self.long_mode() { value } else { value & 0xffff_ffff };
        if self.pae_paging() {
            self.load_pdptes(memory, value)?;
        }
        self.mmu.cr3_written(operand);
        self.cr3 = value;
        self.mode_changed();
        Ok(())
    }

    /// Loads the page-directory pointers from where `cr3` says; #GP for a reserved bit in one that is present.
    fn load_pdptes(&mut self, memory: &mut Memory, cr3: u64) -> Result<(), Halt> {
        let pdptes = match self.mmu.read_pdptes(memory, cr3) {
            Ok(pdptes) => pdptes,
            Err(fault) => return self.translation_fault(fault, Access::Read),
        };
        let reserved = u64::MAX << crate::mmu::PHYSICAL_BITS | 0x1e6;
        if pdptes.iter().any(|pdpte| pdpte & 1 != 0 && pdpte & reserved != 0) {
            return self.gp();
        }
        self.pdptes = pdptes;
        Ok(())
    }

    fn pae_paging(&self) -> bool {
        self.cr0 & Cr0::PG.bits() != 0 && self.has_cr4(Cr4::PAE) && !self.long_mode()
    }

    fn write_cr4(&mut self, memory: &mut Memory, value: u64) -> Result<(), Halt> {
        let mask = self.controls.cr4_mask;
        let new = self.cr4 & mask | value & !mask;
        let changed = new ^ self.cr4;
        let has = |bit: Cr4| new & bit.bits() != 0;
        let sets_pcide = changed & Cr4::PCIDE.bits() != 0 && has(Cr4::PCIDE);
        if new & !CR4_DEFINED.bits() != 0
            || has(Cr4::LA57) && !self.la57
            || self.long_mode() && changed & Cr4::LA57.bits() != 0
            || !has(Cr4::VMXE)
            || self.long_mode() && !has(Cr4::PAE)
            || sets_pcide && (!self.long_mode() || self.cr3 & 0xfff != 0)
        {
            return self.gp();
        }
        let paging = Cr4::PSE | Cr4::PAE | Cr4::PGE | Cr4::PCIDE | Cr4::SMEP | Cr4::SMAP | Cr4::PKE;
        if self.cr0 & Cr0::PG.bits() != 0
            && has(Cr4::PAE)
            && !self.long_mode()
            && changed & (Cr4::PSE | Cr4::PAE | Cr4::PGE | Cr4::SMEP).bits() != 0
        {
            self.load_pdptes(memory, self.cr3)?;
        }
        self.mmu.cr4_written(self.cr4, new);
        self.cr4 = new;
        if changed & paging.bits() != 0 {
            self.mode_changed();
        }
        Ok(())
    }

    /// CR8 as the guest reads it.
    fn read_cr8(&self, memory: &Memory) -> u64 {
        if self.controls.primary(PrimaryControls::TPR_SHADOW) { self.virtual_cr8(memory) } else { self.regs.cr8 }
    }

    fn write_cr8(&mut self, memory: &mut Memory, value: u64) -> Result<(), Halt> {
        if value > 15 {
            return self.gp();
        }
        if self.controls.primary(PrimaryControls::TPR_SHADOW) {
            self.set_virtual_cr8(memory, value);
        } else {
            self.regs.cr8 = value;
        }
        Ok(())
    }
}

fn mov_to_cr_run(cpu: &mut Cpu, memory: &mut Memory, op: &Op) -> Result<Flow, Halt> {
    let value = if cpu.code64() { W64::get(cpu, op.rm) } else { W32::get(cpu, op.rm) };
    let exits = match op.reg {
        0 => cpu.controls.exits_on_cr0_load(value),
        // With PCIDs, bit 63 does not count in the comparison with the targets.
        3 => cpu.controls.exits_on_cr3_load(value),
        4 => cpu.controls.exits_on_cr4_load(value),
        8 => cpu.controls.primary(PrimaryControls::CR8_LOAD_EXITING),
        2 => false,
        _ => return cpu.ud(),
    };
    if exits {
        return cpu.cr_exit(op, op.reg, CrAccessKind::MovTo, op.rm);
    }
    match op.reg {
        0 => cpu.write_cr0(memory, value)?,
        2 => cpu.regs.cr2 = value,
        3 => cpu.write_cr3(memory, value)?,
        4 => cpu.write_cr4(memory, value)?,
        _ => cpu.write_cr8(memory, value)?,
    }
    cpu.checked(op)
}

fn mov_from_cr_run(cpu: &mut Cpu, memory: &mut Memory, op: &Op) -> Result<Flow, Halt> {
    let exits = match op.rm {
        0 | 2 | 4 => false,
        3 => cpu.controls.primary(PrimaryControls::CR3_STORE_EXITING),
        8 => cpu.controls.primary(PrimaryControls::CR8_STORE_EXITING),
        _ => return cpu.ud(),
    };
    if exits {
        return cpu.cr_exit(op, op.rm, CrAccessKind::MovFrom, op.reg);
    }
    let value = match op.rm {
        0 => cpu.controls.read_cr0(cpu.cr0),
        2 => cpu.regs.cr2,
        3 => cpu.cr3,
        4 => cpu.controls.read_cr4(cpu.cr4),
        _ => cpu.read_cr8(memory),
    };
    if cpu.code64() {
        W64::set(cpu, op.reg, value)
    } else {
        W32::set(cpu, op.reg, value)
    }
    cpu.checked(op)
}

pub(in crate::cpu) fn mov_to_cr(_: &mut Form) -> Option<Run> {
    Some(Run::new(mov_to_cr_run))
}

pub(in crate::cpu) fn mov_from_cr(_: &mut Form) -> Option<Run> {
    Some(Run::new(mov_from_cr_run))
}

/// MOV to (`TO`) or from a debug register, with its own order of checks.
fn mov_dr_run<const TO: bool>(cpu: &mut Cpu, _: &mut Memory, op: &Op) -> Result<Flow, Halt> {
    let (dr, gpr) = if TO { (op.reg, op.rm) } else { (op.rm, op.reg) };
    if dr > 7 || matches!(dr, 4 | 5) && cpu.has_cr4(Cr4::DE) {
        return cpu.ud();
    }
    if cpu.cpl() != 0 {
        return cpu.gp();
    }
    if cpu.controls.primary(PrimaryControls::MOV_DR_EXITING) {
        let access = DrAccess::new().with_dr(dr).with_from_dr(!TO).with_gpr(gpr);
        return cpu.exit_with(op, Reason::DR_ACCESS, access.into(), 0);
    }
    if cpu.dr7 >> 13 & 1 != 0 {
        cpu.exec.stop = Stop::Software(Event::debug(1 << 13));
        return Err(Halt);
    }
    let dr = if dr & 6 == 4 { dr + 2 } else { dr };
    if TO {
        let value = if cpu.code64() { W64::get(cpu, gpr) } else { W32::get(cpu, gpr) };
        if dr >= 6 && value >> 32 != 0 {
            return cpu.gp();
        }
        match dr {
            6 => cpu.regs.dr6 = value & 0xe00f | 0xffff_0ff0,
            7 => cpu.dr7 = value & 0xffff_2fff | 0x400,
            _ => cpu.regs.dr[usize::from(dr & 3)] = value,
        }
    } else {
        let value = match dr {
            6 => cpu.regs.dr6,
            7 => cpu.dr7,
            _ => cpu.regs.dr[usize::from(dr & 3)],
        };
        if cpu.code64() { W64::set(cpu, gpr, value) } else { W32::set(cpu, gpr, value) }
    }
    cpu.checked(op)
}

pub(in crate::cpu) fn mov_dr(form: &mut Form) -> Option<Run> {
    let to = form.instruction.op_register(0).is_dr();
    Some(if to { Run::new(mov_dr_run::<true>) } else { Run::new(mov_dr_run::<false>) })
}

fn clts_run(cpu: &mut Cpu, _: &mut Memory, op: &Op) -> Result<Flow, Halt> {
    let ts = Cr0::TS.bits();
    if cpu.controls.cr0_mask & ts != 0 {
        if cpu.controls.cr0_shadow & ts != 0 {
            return cpu.cr_exit(op, 0, CrAccessKind::Clts, 0);
        }
    } else {
        cpu.cr0 &= !ts;
    }
    cpu.checked(op)
}

pub(in crate::cpu) fn clts(_: &mut Form) -> Option<Run> {
    Some(Run::new(clts_run))
}

/// LMSW. PE can be set with it and not cleared.
fn lmsw_run(cpu: &mut Cpu, memory: &mut Memory, op: &Op) -> Result<Flow, Halt> {
    let in_memory = op.extra != 0;
    let (source, gla) = if in_memory {
        let at = cpu.operand(op, 2, false)?;
        (cpu.load::<W16>(memory, op.seg(), at)?, at)
    } else {
        (W16::get(cpu, op.reg), 0)
    };
    let (mask, shadow) = (cpu.controls.cr0_mask, cpu.controls.cr0_shadow);
    let differs = mask & (source ^ shadow);
    if differs & 0xe != 0 || differs & source & 1 != 0 {
        let access =
            CrAccess::new().with_kind(CrAccessKind::Lmsw).with_lmsw_memory(in_memory).with_lmsw_source(source as u16);
        return cpu.exit(ExitInfo {
            qualification: access.into(),
            gla,
            ..ExitInfo::instruction(Reason::CR_ACCESS, u32::from(op.len))
        });
    }
    let value = cpu.cr0 & !0xe | source & 0xf;
    cpu.write_cr0(memory, value)?;
    cpu.checked(op)
}

pub(in crate::cpu) fn lmsw(form: &mut Form) -> Option<Run> {
    form.op.extra = u32::from(form.kind(0) != iced_x86::OpKind::Register);
    Some(Run::new(lmsw_run))
}

fn smsw_run<W: Width>(cpu: &mut Cpu, memory: &mut Memory, op: &Op) -> Result<Flow, Halt> {
    let value = cpu.controls.read_cr0(cpu.cr0);
    if op.extra != 0 {
        let at = cpu.operand(op, 2, true)?;
        cpu.store::<W16>(memory, op.seg(), at, value & 0xffff)?;
    } else {
        W::set(cpu, op.reg, value & W::MASK);
    }
    cpu.checked(op)
}

pub(in crate::cpu) fn smsw(form: &mut Form) -> Option<Run> {
    form.op.extra = u32::from(form.kind(0) != iced_x86::OpKind::Register);
    Some(crate::cpu::ops::by_width!(form.width, smsw_run))
}

impl Cpu {
    /// The flag that CLI and STI change: IF, or VIF where IF is virtual. Else #GP.
    fn interrupt_flag(&mut self) -> Result<Rflags, Halt> {
        if !self.protected() || self.cpl() <= self.iopl() {
            return Ok(Rflags::IF);
        }
        let virtual_if = if self.v86() { Cr4::VME } else { Cr4::PVI };
        if self.cpl() == 3 && self.has_cr4(virtual_if) { Ok(Rflags::VIF) } else { self.gp() }
    }
}

fn cli_run(cpu: &mut Cpu, _: &mut Memory, _: &Op) -> Result<Flow, Halt> {
    let flag = cpu.interrupt_flag()?;
    cpu.flags.put(flag, false);
    Ok(Flow::Next)
}

fn sti_run(cpu: &mut Cpu, _: &mut Memory, op: &Op) -> Result<Flow, Halt> {
    if cpu.interrupt_flag()? == Rflags::VIF {
        if cpu.flags.has(Rflags::VIP) {
            return cpu.gp();
        }
        cpu.flags.put(Rflags::VIF, true);
        return cpu.checked(op);
    }
    if cpu.flags.has(Rflags::IF) {
        return Ok(Flow::Next);
    }
    cpu.flags.put(Rflags::IF, true);
    cpu.shadow(Interruptibility::STI);
    cpu.checked(op)
}

pub(in crate::cpu) fn cli(_: &mut Form) -> Option<Run> {
    Some(Run::new(cli_run))
}

pub(in crate::cpu) fn sti(_: &mut Form) -> Option<Run> {
    Some(Run::new(sti_run))
}

fn hlt_run(cpu: &mut Cpu, _: &mut Memory, op: &Op) -> Result<Flow, Halt> {
    cpu.activity = ActivityState::Hlt;
    cpu.checked(op)
}

pub(in crate::cpu) fn hlt(_: &mut Form) -> Option<Run> {
    Some(Run::new(hlt_run))
}

/// PAUSE. See: SDM "Changes to Instruction Behavior in VMX Non-Root Operation" for PAUSE-loop exiting.
fn pause_run(cpu: &mut Cpu, _: &mut Memory, op: &Op) -> Result<Flow, Halt> {
    if cpu.controls.primary(PrimaryControls::PAUSE_EXITING) {
        return cpu.plain_exit(op, Reason::PAUSE);
    }
    if cpu.controls.secondary(SecondaryControls::PAUSE_LOOP_EXITING) && cpu.cpl() == 0 {
        let now = op.now(cpu);
        if now.wrapping_sub(cpu.exec.last_pause) > u64::from(cpu.controls.ple_gap) {
            cpu.exec.first_pause = now;
        } else if now.wrapping_sub(cpu.exec.first_pause) > u64::from(cpu.controls.ple_window) {
            cpu.exec.first_pause = now;
            return cpu.plain_exit(op, Reason::PAUSE);
        }
        cpu.exec.last_pause = now;
    }
    Ok(Flow::Next)
}

pub(in crate::cpu) fn pause(_: &mut Form) -> Option<Run> {
    Some(Run::new(pause_run))
}

/// INVLPG. Of an address that is not canonical nothing is cached.
fn invlpg_run(cpu: &mut Cpu, _: &mut Memory, op: &Op) -> Result<Flow, Halt> {
    let offset = crate::cpu::op::offset(cpu, op);
    let base = match op.seg() {
        Seg::Fs | Seg::Gs => cpu.seg[usize::from(op.seg)].base,
        _ if cpu.code64() => 0,
        seg => cpu.seg[seg as usize].base,
    };
    let at = base.wrapping_add(offset);
    let at = if cpu.code64() { at } else { at & 0xffff_ffff };
    if cpu.controls.primary(PrimaryControls::INVLPG_EXITING) {
        return cpu.exit_with(op, Reason::INVLPG, at, 0);
    }
    if cpu.holds_canonical(at) {
        cpu.mmu.invlpg(at & !(PAGE_SIZE - 1));
    }
    cpu.checked(op)
}

pub(in crate::cpu) fn invlpg(_: &mut Form) -> Option<Run> {
    Some(Run::new(invlpg_run))
}

fn invpcid_run(cpu: &mut Cpu, memory: &mut Memory, op: &Op) -> Result<Flow, Halt> {
    if !cpu.controls.secondary(SecondaryControls::INVPCID) {
        return cpu.ud();
    }
    if cpu.cpl() != 0 || cpu.v86() {
        return cpu.gp();
    }
    if cpu.controls.primary(PrimaryControls::INVLPG_EXITING) {
        let at = displacement(cpu, op);
        return cpu.exit_with(op, Reason::INVPCID, at, op.extra);
    }
    let kind = if cpu.code64() { W64::get(cpu, op.reg) } else { W32::get(cpu, op.reg) };
    let at = cpu.operand(op, 16, false)?;
    let descriptor = cpu.load128(memory, op.seg(), at)?;
    let (word, address) = (descriptor as u64, (descriptor >> 64) as u64);
    let pcid = (word & 0xfff) as u16;
    let pcids = cpu.has_cr4(Cr4::PCIDE);
    let Some(which) = InvpcidType::new(kind) else { return cpu.gp() };
    if kind < 2 && (word >> 12 != 0 || pcid != 0 && !pcids) || kind == 0 && !cpu.holds_canonical(address) {
        return cpu.gp();
    }
    cpu.mmu.invpcid(which, pcid, address & !(PAGE_SIZE - 1));
    cpu.checked(op)
}

pub(in crate::cpu) fn invpcid(form: &mut Form) -> Option<Run> {
    form.op.extra = operand_info(form).with_reg2(form.op.reg).into();
    Some(Run::new(invpcid_run))
}

fn swapgs_run(cpu: &mut Cpu, _: &mut Memory, _: &Op) -> Result<Flow, Halt> {
    core::mem::swap(&mut cpu.regs.kernel_gs_base, &mut cpu.seg[Seg::Gs as usize].base);
    Ok(Flow::Next)
}

pub(in crate::cpu) fn swapgs(_: &mut Form) -> Option<Run> {
    Some(Run::new(swapgs_run))
}

fn read_base_run<const SEG: usize, W: Width>(cpu: &mut Cpu, _: &mut Memory, op: &Op) -> Result<Flow, Halt> {
    let base = cpu.seg[SEG].base;
    W::set(cpu, op.reg, base & W::MASK);
    Ok(Flow::Next)
}

fn write_base_run<const SEG: usize, W: Width>(cpu: &mut Cpu, _: &mut Memory, op: &Op) -> Result<Flow, Halt> {
    let base = W::get(cpu, op.reg);
    if !cpu.holds_canonical(base) {
        return cpu.gp();
    }
    cpu.seg[SEG].base = base;
    Ok(Flow::Next)
}

pub(in crate::cpu) fn read_base<const SEG: usize>(form: &mut Form) -> Option<Run> {
    Some(if form.width == 8 { Run::new(read_base_run::<SEG, W64>) } else { Run::new(read_base_run::<SEG, W32>) })
}

pub(in crate::cpu) fn write_base<const SEG: usize>(form: &mut Form) -> Option<Run> {
    Some(if form.width == 8 { Run::new(write_base_run::<SEG, W64>) } else { Run::new(write_base_run::<SEG, W32>) })
}

/// XGETBV: XCR0, or which of its components are in use.
fn xgetbv_run(cpu: &mut Cpu, _: &mut Memory, op: &Op) -> Result<Flow, Halt> {
    if cpu.regs.gpr[1] as u32 > 1 {
        return cpu.gp();
    }
    let value = if cpu.regs.gpr[1] as u32 == 0 { cpu.regs.xcr0 } else { cpu.regs.xcr0 & cpu.components_in_use() };
    cpu.set_edx_eax(value);
    cpu.checked(op)
}

pub(in crate::cpu) fn xgetbv(_: &mut Form) -> Option<Run> {
    Some(Run::new(xgetbv_run))
}

fn rdpkru_run(cpu: &mut Cpu, _: &mut Memory, op: &Op) -> Result<Flow, Halt> {
    if cpu.regs.gpr[1] as u32 != 0 {
        return cpu.gp();
    }
    let value = u64::from(cpu.regs.pkru);
    cpu.set_edx_eax(value);
    cpu.checked(op)
}

fn wrpkru_run(cpu: &mut Cpu, _: &mut Memory, op: &Op) -> Result<Flow, Halt> {
    if cpu.regs.gpr[1] as u32 != 0 || cpu.regs.gpr[2] as u32 != 0 {
        return cpu.gp();
    }
    cpu.regs.pkru = cpu.regs.gpr[0] as u32;
    cpu.mode_changed();
    cpu.checked(op)
}

pub(in crate::cpu) fn rdpkru(_: &mut Form) -> Option<Run> {
    Some(Run::new(rdpkru_run))
}

pub(in crate::cpu) fn wrpkru(_: &mut Form) -> Option<Run> {
    Some(Run::new(wrpkru_run))
}

fn set_ac<const ON: bool>(cpu: &mut Cpu, _: &mut Memory, op: &Op) -> Result<Flow, Halt> {
    if cpu.cpl() != 0 {
        return cpu.ud();
    }
    cpu.flags.put(Rflags::AC, ON);
    cpu.refresh();
    cpu.checked(op)
}

pub(in crate::cpu) fn clac(_: &mut Form) -> Option<Run> {
    Some(Run::new(set_ac::<false>))
}

pub(in crate::cpu) fn stac(_: &mut Form) -> Option<Run> {
    Some(Run::new(set_ac::<true>))
}

/// What MONITOR and MWAIT take their extensions from: RCX in 64-bit mode, else ECX.
fn monitor_extensions(cpu: &Cpu) -> u64 {
    if cpu.code64() { cpu.regs.gpr[1] } else { cpu.regs.gpr[1] & 0xffff_ffff }
}

/// MONITOR that does not exit: the line must be readable.
fn monitor_run(cpu: &mut Cpu, memory: &mut Memory, op: &Op) -> Result<Flow, Halt> {
    if monitor_extensions(cpu) != 0 {
        return cpu.gp();
    }
    let offset = if cpu.code64() { W64::get(cpu, 0) } else { W32::get(cpu, 0) };
    let at = cpu.linear(op.seg(), offset, 1, false)?;
    cpu.probe_read(memory, op.seg(), at)?;
    cpu.checked(op)
}

pub(in crate::cpu) fn monitor(_: &mut Form) -> Option<Run> {
    Some(Run::new(monitor_run))
}

/// MWAIT that does not exit: it may end at once, and does.
fn mwait_run(cpu: &mut Cpu, _: &mut Memory, op: &Op) -> Result<Flow, Halt> {
    if monitor_extensions(cpu) > 1 { cpu.gp() } else { cpu.checked(op) }
}

pub(in crate::cpu) fn mwait(_: &mut Form) -> Option<Run> {
    Some(Run::new(mwait_run))
}
