//! Moving data: MOV, MOVZX, MOVSX, LEA, XCHG, BSWAP, CMOVcc, SETcc, XLAT, MOVBE, and sign extension of the accumulator.

use crate::cpu::decode::{EaKind, Form, Shape};
use crate::cpu::flags::Flags;
use crate::cpu::op::{Base, Ea, Fast, Flow, Offset, Op, Rip, Run, Sib, W8, W16, W32, W64, Width};
use crate::cpu::ops::{by_condition, by_ea_fast, by_ea_only, by_width};
use crate::cpu::state::{Cpu, Halt};
use crate::memory::Memory;
use hv_defs::x86::Vector;

fn mov_rr<W: Width>(cpu: &mut Cpu, _: &mut Memory, op: &Op) -> Result<Flow, Halt> {
    let value = W::get(cpu, op.rm);
    W::set(cpu, op.reg, value);
    Ok(Flow::Next)
}

fn mov_ri<W: Width>(cpu: &mut Cpu, _: &mut Memory, op: &Op) -> Result<Flow, Halt> {
    W::set(cpu, op.reg, op.imm);
    Ok(Flow::Next)
}

fn mov_rm<W: Width, E: Ea>(cpu: &mut Cpu, memory: &mut Memory, op: &Op) -> Result<Flow, Halt> {
    let value = cpu.read::<W, E>(memory, op)?;
    W::set(cpu, op.reg, value);
    Ok(Flow::Next)
}

fn mov_mr<W: Width, E: Ea>(cpu: &mut Cpu, memory: &mut Memory, op: &Op) -> Result<Flow, Halt> {
    let value = W::get(cpu, op.reg);
    cpu.write::<W, E>(memory, op, value)?;
    Ok(Flow::Next)
}

fn mov_mi<W: Width, E: Ea>(cpu: &mut Cpu, memory: &mut Memory, op: &Op) -> Result<Flow, Halt> {
    cpu.write::<W, E>(memory, op, op.imm & W::MASK)?;
    Ok(Flow::Next)
}

/// MOV between general registers, memory and immediates.
pub(in crate::cpu) fn mov(form: &mut Form) -> Option<Run> {
    Some(match form.shape() {
        Shape::RegReg => by_width!(form.width, mov_rr),
        Shape::RegImm => by_width!(form.width, mov_ri),
        Shape::RegMem => by_ea_fast!(form.ea, form.width, mov_rm),
        Shape::MemReg => by_ea_fast!(form.ea, form.width, mov_mr),
        Shape::MemImm => by_ea_fast!(form.ea, form.width, mov_mi),
        _ => return None,
    })
}

fn extend_r<const SIGNED: bool, S: Width, W: Width>(cpu: &mut Cpu, _: &mut Memory, op: &Op) -> Result<Flow, Halt> {
    let value = S::get(cpu, op.rm);
    W::set(cpu, op.reg, if SIGNED { S::sext(value) } else { value });
    Ok(Flow::Next)
}

fn extend_m<const SIGNED: bool, S: Width, W: Width, E: Ea>(
    cpu: &mut Cpu,
    memory: &mut Memory,
    op: &Op,
) -> Result<Flow, Halt> {
    let value = if W::FAST { cpu.read::<Fast<S>, E>(memory, op)? } else { cpu.read::<S, E>(memory, op)? };
    W::set(cpu, op.reg, if SIGNED { S::sext(value) } else { value });
    Ok(Flow::Next)
}

/// MOVZX, MOVSX and MOVSXD.
pub(in crate::cpu) fn extend<const SIGNED: bool>(form: &mut Form) -> Option<Run> {
    let source = form.size(1);
    Some(match (form.shape(), source) {
        (Shape::RegReg, 1) => by_width!(form.width, extend_r::<SIGNED, W8>),
        (Shape::RegReg, 2) => by_width!(form.width, extend_r::<SIGNED, W16>),
        (Shape::RegReg, _) => by_width!(form.width, extend_r::<SIGNED, W32>),
        (Shape::RegMem, 1) => by_ea_fast!(form.ea, form.width, extend_m::<SIGNED, W8>),
        (Shape::RegMem, 2) => by_ea_fast!(form.ea, form.width, extend_m::<SIGNED, W16>),
        (Shape::RegMem, _) => by_ea_fast!(form.ea, form.width, extend_m::<SIGNED, W32>),
        _ => return None,
    })
}

fn lea_base<W: Width>(cpu: &mut Cpu, _: &mut Memory, op: &Op) -> Result<Flow, Halt> {
    let value = Base::address(cpu, op);
    W::set(cpu, op.reg, value);
    Ok(Flow::Next)
}

fn lea_sib<W: Width>(cpu: &mut Cpu, _: &mut Memory, op: &Op) -> Result<Flow, Halt> {
    let value = Sib::address(cpu, op);
    W::set(cpu, op.reg, value);
    Ok(Flow::Next)
}

fn lea_rip<W: Width>(cpu: &mut Cpu, _: &mut Memory, op: &Op) -> Result<Flow, Halt> {
    let value = Rip::address(cpu, op);
    W::set(cpu, op.reg, value);
    Ok(Flow::Next)
}

fn lea_any<W: Width>(cpu: &mut Cpu, _: &mut Memory, op: &Op) -> Result<Flow, Halt> {
    let value = Offset::address(cpu, op);
    W::set(cpu, op.reg, value);
    Ok(Flow::Next)
}

pub(in crate::cpu) fn lea(form: &mut Form) -> Option<Run> {
    Some(match form.ea {
        EaKind::Base => by_width!(form.width, lea_base),
        EaKind::Sib => by_width!(form.width, lea_sib),
        EaKind::Rip => by_width!(form.width, lea_rip),
        _ => by_width!(form.width, lea_any),
    })
}

fn xchg_rr<W: Width>(cpu: &mut Cpu, _: &mut Memory, op: &Op) -> Result<Flow, Halt> {
    let (a, b) = (W::get(cpu, op.reg), W::get(cpu, op.rm));
    W::set(cpu, op.reg, b);
    W::set(cpu, op.rm, a);
    Ok(Flow::Next)
}

fn xchg_m<W: Width, E: Ea>(cpu: &mut Cpu, memory: &mut Memory, op: &Op) -> Result<Flow, Halt> {
    let new = W::get(cpu, op.reg);
    cpu.modify::<W, E>(memory, op, |cpu, old| {
        W::set(cpu, op.reg, old);
        new
    })?;
    Ok(Flow::Next)
}

pub(in crate::cpu) fn xchg(form: &mut Form) -> Option<Run> {
    Some(match form.shape() {
        Shape::RegReg => by_width!(form.width, xchg_rr),
        Shape::MemReg | Shape::RegMem => by_ea_fast!(form.ea, form.width, xchg_m),
        _ => return None,
    })
}

fn bswap<W: Width>(cpu: &mut Cpu, _: &mut Memory, op: &Op) -> Result<Flow, Halt> {
    let value = W::get(cpu, op.reg);
    // Of 16 bits the result is undefined; processors give zero.
    W::set(cpu, op.reg, if W::BITS == 16 { 0 } else { value.swap_bytes() >> (64 - W::BITS) });
    Ok(Flow::Next)
}

pub(in crate::cpu) fn byte_swap(form: &mut Form) -> Option<Run> {
    Some(by_width!(form.width, bswap))
}

fn movbe_load<W: Width, E: Ea>(cpu: &mut Cpu, memory: &mut Memory, op: &Op) -> Result<Flow, Halt> {
    let value = cpu.read::<W, E>(memory, op)?;
    W::set(cpu, op.reg, value.swap_bytes() >> (64 - W::BITS));
    Ok(Flow::Next)
}

fn movbe_store<W: Width, E: Ea>(cpu: &mut Cpu, memory: &mut Memory, op: &Op) -> Result<Flow, Halt> {
    let value = W::get(cpu, op.reg).swap_bytes() >> (64 - W::BITS);
    cpu.write::<W, E>(memory, op, value)?;
    Ok(Flow::Next)
}

pub(in crate::cpu) fn movbe(form: &mut Form) -> Option<Run> {
    Some(match form.shape() {
        Shape::RegMem => by_ea_fast!(form.ea, form.width, movbe_load),
        Shape::MemReg => by_ea_fast!(form.ea, form.width, movbe_store),
        _ => return None,
    })
}

/// Whether the condition of that number holds, as the low four bits of Jcc's opcode encode it.
#[inline(always)]
pub(in crate::cpu) fn holds<const C: u8>(flags: &Flags) -> bool {
    let value = match C >> 1 {
        0 => flags.of(),
        1 => flags.cf(),
        2 => flags.zf(),
        3 => flags.cf() || flags.zf(),
        4 => flags.sf(),
        5 => flags.pf(),
        6 => flags.less(),
        _ => flags.less() || flags.zf(),
    };
    value != (C & 1 != 0)
}

fn setcc_r<const C: u8>(cpu: &mut Cpu, _: &mut Memory, op: &Op) -> Result<Flow, Halt> {
    let value = holds::<C>(&cpu.flags);
    W8::set(cpu, op.reg, u64::from(value));
    Ok(Flow::Next)
}

fn setcc_m<const C: u8, E: Ea>(cpu: &mut Cpu, memory: &mut Memory, op: &Op) -> Result<Flow, Halt> {
    let value = holds::<C>(&cpu.flags);
    cpu.write::<W8, E>(memory, op, u64::from(value))?;
    Ok(Flow::Next)
}

pub(in crate::cpu) fn setcc(form: &mut Form) -> Option<Run> {
    let c = form.condition();
    Some(match form.shape() {
        Shape::Reg => by_condition!(c, just!(), setcc_r),
        _ => by_condition!(c, by_ea_only!(form.ea,), setcc_m),
    })
}

fn cmov_r<const C: u8, W: Width>(cpu: &mut Cpu, _: &mut Memory, op: &Op) -> Result<Flow, Halt> {
    // 32 bits clear the upper half even when nothing moves.
    let from = if holds::<C>(&cpu.flags) { op.rm } else { op.reg };
    let value = W::get(cpu, from);
    W::set(cpu, op.reg, value);
    Ok(Flow::Next)
}

fn cmov_m<const C: u8, W: Width, E: Ea>(cpu: &mut Cpu, memory: &mut Memory, op: &Op) -> Result<Flow, Halt> {
    let loaded = cpu.read::<W, E>(memory, op)?;
    let value = if holds::<C>(&cpu.flags) { loaded } else { W::get(cpu, op.reg) };
    W::set(cpu, op.reg, value);
    Ok(Flow::Next)
}

pub(in crate::cpu) fn cmov(form: &mut Form) -> Option<Run> {
    let c = form.condition();
    Some(match form.shape() {
        Shape::RegReg => by_condition!(c, by_width!(form.width,), cmov_r),
        _ => by_condition!(c, by_ea!(form.ea, form.width,), cmov_m),
    })
}

/// CBW, CWDE and CDQE: the accumulator's lower half, extended.
fn extend_accumulator<H: Width, W: Width>(cpu: &mut Cpu, _: &mut Memory, _: &Op) -> Result<Flow, Halt> {
    let value = H::sext(H::get(cpu, 0));
    W::set(cpu, 0, value);
    Ok(Flow::Next)
}

/// CWD, CDQ and CQO: the accumulator's sign, all through rDX.
fn sign_to_d<W: Width>(cpu: &mut Cpu, _: &mut Memory, _: &Op) -> Result<Flow, Halt> {
    let value = W::sext(W::get(cpu, 0)) >> 63;
    W::set(cpu, 2, value.wrapping_neg());
    Ok(Flow::Next)
}

pub(in crate::cpu) fn cbw(_: &mut Form) -> Option<Run> {
    Some(Run::new(extend_accumulator::<W8, W16>))
}

pub(in crate::cpu) fn cwde(_: &mut Form) -> Option<Run> {
    Some(Run::new(extend_accumulator::<W16, W32>))
}

pub(in crate::cpu) fn cdqe(_: &mut Form) -> Option<Run> {
    Some(Run::new(extend_accumulator::<W32, W64>))
}

pub(in crate::cpu) fn cwd(_: &mut Form) -> Option<Run> {
    Some(Run::new(sign_to_d::<W16>))
}

pub(in crate::cpu) fn cdq(_: &mut Form) -> Option<Run> {
    Some(Run::new(sign_to_d::<W32>))
}

pub(in crate::cpu) fn cqo(_: &mut Form) -> Option<Run> {
    Some(Run::new(sign_to_d::<W64>))
}

/// XLAT's index is AL, not a whole register.
fn xlat_at(cpu: &mut Cpu, op: &Op) -> u64 {
    let unused = 64 - u32::from(op.address_bits);
    cpu.regs.gpr[3].wrapping_add(W8::get(cpu, 0)) << (unused & 63) >> (unused & 63)
}

fn xlat(cpu: &mut Cpu, memory: &mut Memory, op: &Op) -> Result<Flow, Halt> {
    let at = xlat_at(cpu, op);
    let value = cpu.read_seg::<W8>(memory, op.seg(), at)?;
    W8::set(cpu, 0, value);
    Ok(Flow::Next)
}

pub(in crate::cpu) fn xlatb(_: &mut Form) -> Option<Run> {
    Some(Run::new(xlat))
}

/// NOP, PREFETCH and their kind: nothing, whatever the operand.
pub(in crate::cpu) fn nothing(_: &mut Cpu, _: &mut Memory, _: &Op) -> Result<Flow, Halt> {
    Ok(Flow::Next)
}

pub(in crate::cpu) fn nop(_: &mut Form) -> Option<Run> {
    Some(Run::new(nothing))
}

/// CLFLUSH and its kind: there is no cache, but the byte must be readable.
fn flush_line<E: Ea>(cpu: &mut Cpu, memory: &mut Memory, op: &Op) -> Result<Flow, Halt> {
    cpu.read::<W8, E>(memory, op)?;
    Ok(Flow::Next)
}

pub(in crate::cpu) fn clflush(form: &mut Form) -> Option<Run> {
    Some(by_ea_only!(form.ea, flush_line))
}

/// SERIALIZE: nothing is kept in flight here, but the block ends.
pub(in crate::cpu) fn serialize(_: &mut Form) -> Option<Run> {
    fn run(cpu: &mut Cpu, _: &mut Memory, op: &Op) -> Result<Flow, Halt> {
        cpu.checked(op)
    }
    Some(Run::new(run))
}

/// CMPXCHG8B: EDX:EAX against eight bytes, ECX:EBX to them.
fn cmpxchg8b(cpu: &mut Cpu, memory: &mut Memory, op: &Op) -> Result<Flow, Halt> {
    let at = cpu.operand(op, 8, true)?;
    let pair = |cpu: &Cpu, high, low| W32::get(cpu, high) << 32 | W32::get(cpu, low);
    let (expected, new) = (pair(cpu, 2, 0), pair(cpu, 1, 3));
    cpu.probe(memory, op.seg(), at, 8)?;
    let old = cpu.load::<W64>(memory, op.seg(), at)?;
    cpu.store::<W64>(memory, op.seg(), at, if old == expected { new } else { old })?;
    if old != expected {
        W32::set(cpu, 0, old & 0xffff_ffff);
        W32::set(cpu, 2, old >> 32);
    }
    set_zf(cpu, old == expected);
    Ok(Flow::Next)
}

/// CMPXCHG16B, whose operand must be aligned.
fn cmpxchg16b(cpu: &mut Cpu, memory: &mut Memory, op: &Op) -> Result<Flow, Halt> {
    let at = cpu.operand(op, 16, true)?;
    if at % 16 != 0 {
        return cpu.gp();
    }
    let pair =
        |cpu: &Cpu, high: usize, low: usize| u128::from(cpu.regs.gpr[high]) << 64 | u128::from(cpu.regs.gpr[low]);
    let (expected, new) = (pair(cpu, 2, 0), pair(cpu, 1, 3));
    cpu.probe(memory, op.seg(), at, 16)?;
    let old = cpu.load128(memory, op.seg(), at)?;
    cpu.store128(memory, op.seg(), at, if old == expected { new } else { old })?;
    if old != expected {
        cpu.regs.gpr[0] = old as u64;
        cpu.regs.gpr[2] = (old >> 64) as u64;
    }
    set_zf(cpu, old == expected);
    Ok(Flow::Next)
}

/// Sets ZF and leaves the other flags.
pub(in crate::cpu) fn set_zf(cpu: &mut Cpu, zf: bool) {
    let others = cpu.flags.arithmetic() & !(1 << 6);
    cpu.flags.set_arithmetic(others | u64::from(zf) << 6);
}

pub(in crate::cpu) fn cmpxchg_pair(form: &mut Form) -> Option<Run> {
    Some(if form.width == 16 { Run::new(cmpxchg16b) } else { Run::new(cmpxchg8b) })
}

/// BOUND: #BR for an index outside the two that memory holds.
fn bound_run<W: Width>(cpu: &mut Cpu, memory: &mut Memory, op: &Op) -> Result<Flow, Halt> {
    let at = cpu.operand(op, 2 * W::BYTES, false)?;
    let signed = |value| W::sext(value) as i64;
    let low = signed(cpu.load::<W>(memory, op.seg(), at)?);
    let high = signed(cpu.load::<W>(memory, op.seg(), at.wrapping_add(W::BYTES))?);
    let index = signed(W::get(cpu, op.reg));
    if index < low || index > high { cpu.fault(Vector::BR, None) } else { Ok(Flow::Next) }
}

pub(in crate::cpu) fn bound(form: &mut Form) -> Option<Run> {
    Some(if form.width == 2 { Run::new(bound_run::<W16>) } else { Run::new(bound_run::<W32>) })
}

fn mov_seg_r(cpu: &mut Cpu, memory: &mut Memory, op: &Op) -> Result<Flow, Halt> {
    let selector = W16::get(cpu, op.rm) as u16;
    cpu.load_segment(memory, op.reg, selector)?;
    cpu.after_segment_load(op)
}

fn mov_seg_m(cpu: &mut Cpu, memory: &mut Memory, op: &Op) -> Result<Flow, Halt> {
    let at = cpu.operand(op, 2, false)?;
    let selector = cpu.load::<W16>(memory, op.seg(), at)? as u16;
    cpu.load_segment(memory, op.reg, selector)?;
    cpu.after_segment_load(op)
}

pub(in crate::cpu) fn mov_to_seg(form: &mut Form) -> Option<Run> {
    if form.op.reg == 1 {
        // CS is loaded by branches alone.
        return crate::cpu::ops::far::ud(form);
    }
    Some(if form.second_is_register() { Run::new(mov_seg_r) } else { Run::new(mov_seg_m) })
}

fn mov_r_seg<W: Width>(cpu: &mut Cpu, _: &mut Memory, op: &Op) -> Result<Flow, Halt> {
    let selector = u64::from(cpu.seg[usize::from(op.rm).min(5)].selector);
    W::set(cpu, op.reg, selector);
    Ok(Flow::Next)
}

fn mov_m_seg(cpu: &mut Cpu, memory: &mut Memory, op: &Op) -> Result<Flow, Halt> {
    let at = cpu.operand(op, 2, true)?;
    let selector = u64::from(cpu.seg[usize::from(op.reg).min(5)].selector);
    cpu.store::<W16>(memory, op.seg(), at, selector)?;
    Ok(Flow::Next)
}

pub(in crate::cpu) fn mov_from_seg(form: &mut Form) -> Option<Run> {
    Some(if form.kind(0) == iced_x86::OpKind::Register {
        by_width!(form.width, mov_r_seg)
    } else {
        Run::new(mov_m_seg)
    })
}
