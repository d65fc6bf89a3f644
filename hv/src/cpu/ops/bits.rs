//! Bits: BT, BTS, BTR, BTC, BSF, BSR, POPCNT, LZCNT, TZCNT, BMI1 and BMI2's PDEP, PEXT, BZHI, MULX, and CRC32.

use crate::cpu::decode::{Form, Shape};
use crate::cpu::flags::Flags;
use crate::cpu::op::{Ea, Flow, Op, Run, W8, W16, W32, W64, Width};
use crate::cpu::ops::{alu::logic, by_ea, by_ea_only, by_width};
use crate::cpu::state::{Cpu, Halt};
use crate::memory::Memory;

/// BT is 0, BTS 1, BTR 2, BTC 3.
#[inline(always)]
fn change<const KIND: u8>(a: u64, bit: u64) -> u64 {
    match KIND {
        1 => a | bit,
        2 => a & !bit,
        3 => a ^ bit,
        _ => a,
    }
}

#[inline(always)]
fn test_r<const KIND: u8, W: Width>(cpu: &mut Cpu, op: &Op, number: u64) -> Result<Flow, Halt> {
    let bit = 1 << (number & u64::from(W::BITS - 1));
    let a = W::get(cpu, op.reg);
    cpu.flags.set_cf(a & bit != 0);
    if KIND != 0 {
        W::set(cpu, op.reg, change::<KIND>(a, bit));
    }
    Ok(Flow::Next)
}

fn bt_ri<const KIND: u8, W: Width>(cpu: &mut Cpu, _: &mut Memory, op: &Op) -> Result<Flow, Halt> {
    test_r::<KIND, W>(cpu, op, op.imm)
}

fn bt_rr<const KIND: u8, W: Width>(cpu: &mut Cpu, _: &mut Memory, op: &Op) -> Result<Flow, Halt> {
    let number = W::get(cpu, op.rm);
    test_r::<KIND, W>(cpu, op, number)
}

#[inline(always)]
fn test_m<const KIND: u8, W: Width, E: Ea>(
    cpu: &mut Cpu,
    memory: &mut Memory,
    op: &Op,
    number: u64,
) -> Result<Flow, Halt> {
    let bit = 1 << (number & u64::from(W::BITS - 1));
    if KIND == 0 {
        let a = cpu.read::<W, E>(memory, op)?;
        cpu.flags.set_cf(a & bit != 0);
    } else {
        cpu.modify::<W, E>(memory, op, |cpu, a| {
            cpu.flags.set_cf(a & bit != 0);
            change::<KIND>(a, bit)
        })?;
    }
    Ok(Flow::Next)
}

fn bt_mi<const KIND: u8, W: Width, E: Ea>(cpu: &mut Cpu, memory: &mut Memory, op: &Op) -> Result<Flow, Halt> {
    test_m::<KIND, W, E>(cpu, memory, op, op.imm)
}

/// The bit's number may reach beyond the operand, either way.
fn bt_mr<const KIND: u8, W: Width, E: Ea>(cpu: &mut Cpu, memory: &mut Memory, op: &Op) -> Result<Flow, Halt> {
    let number = W::sext(W::get(cpu, op.reg)) as i64;
    let bytes = (number >> W::BITS.trailing_zeros()).wrapping_mul(W::BYTES as i64);
    let mut there = *op;
    there.disp = op.disp.wrapping_add(bytes as u64);
    test_m::<KIND, W, E>(cpu, memory, &there, number as u64)
}

pub(in crate::cpu) fn bt<const KIND: u8>(form: &mut Form) -> Option<Run> {
    Some(match form.shape() {
        Shape::RegReg => by_width!(form.width, bt_rr::<KIND>),
        Shape::RegImm => by_width!(form.width, bt_ri::<KIND>),
        Shape::MemReg => by_ea!(form.ea, form.width, bt_mr::<KIND>),
        Shape::MemImm => by_ea!(form.ea, form.width, bt_mi::<KIND>),
        _ => return None,
    })
}

/// An operation with one source and one destination. `None` leaves the destination as it is.
pub(in crate::cpu) trait Scan: 'static {
    fn eval<W: Width>(flags: &mut Flags, a: u64) -> Option<u64>;
}

macro_rules! scans {
    ($($name:ident = |$flags:ident, $a:ident, $w:ident| $body:expr;)*) => {$(
        pub(in crate::cpu) enum $name {}
        impl Scan for $name {
            #[inline(always)]
            fn eval<$w: Width>($flags: &mut Flags, $a: u64) -> Option<u64> {
                $body
            }
        }
    )*};
}

/// ZF and CF alone are defined; the others follow the result.
#[inline(always)]
fn counted<W: Width>(flags: &mut Flags, result: u64, none: bool) -> Option<u64> {
    logic::<W>(flags, result);
    flags.set_cf(none);
    Some(result)
}

scans! {
    Bsf = |flags, a, W| {
        // ZF tells of the source; a source of zero leaves the destination, as all processors do.
        logic::<W>(flags, a);
        (a != 0).then(|| u64::from(a.trailing_zeros()))
    };
    Bsr = |flags, a, W| {
        logic::<W>(flags, a);
        (a != 0).then(|| u64::from(63 - a.leading_zeros()))
    };
    Tzcnt = |flags, a, W| counted::<W>(flags, u64::from(a.trailing_zeros().min(W::BITS)), a == 0);
    Lzcnt = |flags, a, W| counted::<W>(flags, u64::from(a.leading_zeros() + W::BITS - 64), a == 0);
    Popcnt = |flags, a, W| {
        flags.set_arithmetic(if a == 0 { 1 << 6 } else { 0 });
        Some(u64::from(a.count_ones()))
    };
    Blsr = |flags, a, W| {
        let result = logic::<W>(flags, a & a.wrapping_sub(1));
        flags.set_cf(a == 0);
        Some(result)
    };
    Blsmsk = |flags, a, W| {
        let result = logic::<W>(flags, (a ^ a.wrapping_sub(1)) & W::MASK);
        flags.set_cf(a == 0);
        Some(result)
    };
    Blsi = |flags, a, W| {
        let result = logic::<W>(flags, a & a.wrapping_neg());
        flags.set_cf(a != 0);
        Some(result)
    };
}

fn scan_r<O: Scan, W: Width>(cpu: &mut Cpu, _: &mut Memory, op: &Op) -> Result<Flow, Halt> {
    let a = W::get(cpu, op.rm);
    if let Some(result) = O::eval::<W>(&mut cpu.flags, a) {
        W::set(cpu, op.reg, result);
    }
    Ok(Flow::Next)
}

fn scan_m<O: Scan, W: Width, E: Ea>(cpu: &mut Cpu, memory: &mut Memory, op: &Op) -> Result<Flow, Halt> {
    let a = cpu.read::<W, E>(memory, op)?;
    if let Some(result) = O::eval::<W>(&mut cpu.flags, a) {
        W::set(cpu, op.reg, result);
    }
    Ok(Flow::Next)
}

pub(in crate::cpu) fn scan<O: Scan>(form: &mut Form) -> Option<Run> {
    Some(match form.shape() {
        Shape::RegReg => by_width!(form.width, scan_r::<O>),
        Shape::RegMem => by_ea!(form.ea, form.width, scan_m::<O>),
        _ => return None,
    })
}

/// An operation with two sources: the register `extra` and the register or memory operand.
pub(in crate::cpu) trait Pick: 'static {
    fn eval<W: Width>(flags: &mut Flags, register: u64, operand: u64) -> u64;
}

macro_rules! picks {
    ($($name:ident = |$flags:ident, $register:ident, $operand:ident, $w:ident| $body:expr;)*) => {$(
        pub(in crate::cpu) enum $name {}
        impl Pick for $name {
            #[inline(always)]
            fn eval<$w: Width>($flags: &mut Flags, $register: u64, $operand: u64) -> u64 {
                $body
            }
        }
    )*};
}

fn deposit(source: u64, mut mask: u64) -> u64 {
    let (mut result, mut bit) = (0, 0);
    while mask != 0 {
        let lowest = mask & mask.wrapping_neg();
        if source >> bit & 1 != 0 {
            result |= lowest;
        }
        bit += 1;
        mask ^= lowest;
    }
    result
}

fn extract(source: u64, mut mask: u64) -> u64 {
    let (mut result, mut bit) = (0, 0);
    while mask != 0 {
        let lowest = mask & mask.wrapping_neg();
        if source & lowest != 0 {
            result |= 1 << bit;
        }
        bit += 1;
        mask ^= lowest;
    }
    result
}

picks! {
    // ANDN's and PEXT's first source is the register, BEXTR's and BZHI's is the operand.
    Andn = |flags, register, operand, W| logic::<W>(flags, !register & operand & W::MASK);
    Pdep = |_flags, register, operand, W| deposit(register, operand) & W::MASK;
    Pext = |_flags, register, operand, W| extract(register, operand) & W::MASK;
    Bextr = |flags, register, operand, W| {
        let (start, length) = (register as u8, (register >> 8) as u8);
        let shifted = operand.checked_shr(u32::from(start)).unwrap_or(0);
        let result = if length >= 64 { shifted } else { shifted & ((1 << length) - 1) };
        flags.set_arithmetic(if result & W::MASK == 0 { 1 << 6 } else { 0 });
        result & W::MASK
    };
    Bzhi = |flags, register, operand, W| {
        let from = register & 0xff;
        let beyond = from >= u64::from(W::BITS);
        let result = logic::<W>(flags, if beyond { operand } else { operand & ((1 << from) - 1) });
        flags.set_cf(from > u64::from(W::BITS - 1));
        result
    };
}

fn pick_r<O: Pick, W: Width>(cpu: &mut Cpu, _: &mut Memory, op: &Op) -> Result<Flow, Halt> {
    let (register, operand) = (W::get(cpu, op.extra as u8), W::get(cpu, op.rm));
    let result = O::eval::<W>(&mut cpu.flags, register, operand);
    W::set(cpu, op.reg, result);
    Ok(Flow::Next)
}

fn pick_m<O: Pick, W: Width, E: Ea>(cpu: &mut Cpu, memory: &mut Memory, op: &Op) -> Result<Flow, Halt> {
    let operand = cpu.read::<W, E>(memory, op)?;
    let register = W::get(cpu, op.extra as u8);
    let result = O::eval::<W>(&mut cpu.flags, register, operand);
    W::set(cpu, op.reg, result);
    Ok(Flow::Next)
}

/// `REGISTER` says which of the last two operands is always a register.
pub(in crate::cpu) fn pick<O: Pick, const REGISTER: u32>(form: &mut Form) -> Option<Run> {
    let other = 3 - REGISTER;
    form.op.extra = u32::from(form.register(REGISTER));
    Some(if form.kind(other) == iced_x86::OpKind::Register {
        form.op.rm = form.register(other);
        by_width!(form.width, pick_r::<O>)
    } else {
        by_ea!(form.ea, form.width, pick_m::<O>)
    })
}

/// MULX: the high half to the first operand, the low half to the second, and the first wins when they are the same.
#[inline(always)]
fn mulx<W: Width>(cpu: &mut Cpu, op: &Op, b: u64) -> Result<Flow, Halt> {
    let product = u128::from(W::get(cpu, 2)) * u128::from(b);
    W::set(cpu, op.extra as u8, product as u64 & W::MASK);
    W::set(cpu, op.reg, (product >> W::BITS) as u64);
    Ok(Flow::Next)
}

fn mulx_r<W: Width>(cpu: &mut Cpu, _: &mut Memory, op: &Op) -> Result<Flow, Halt> {
    let b = W::get(cpu, op.rm);
    mulx::<W>(cpu, op, b)
}

fn mulx_m<W: Width, E: Ea>(cpu: &mut Cpu, memory: &mut Memory, op: &Op) -> Result<Flow, Halt> {
    let b = cpu.read::<W, E>(memory, op)?;
    mulx::<W>(cpu, op, b)
}

pub(in crate::cpu) fn multiply_x(form: &mut Form) -> Option<Run> {
    form.op.extra = u32::from(form.register(1));
    Some(if form.kind(2) == iced_x86::OpKind::Register {
        form.op.rm = form.register(2);
        by_width!(form.width, mulx_r)
    } else {
        by_ea!(form.ea, form.width, mulx_m)
    })
}

/// CRC-32C, bit by bit from the reflected polynomial.
const CRC: [u32; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = crc >> 1 ^ if crc & 1 != 0 { 0x82f6_3b78 } else { 0 };
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
};

#[inline(always)]
fn crc<S: Width>(cpu: &mut Cpu, op: &Op, value: u64) -> Result<Flow, Halt> {
    let mut crc = cpu.regs.gpr[usize::from(op.reg & 15)] as u32;
    for byte in &value.to_le_bytes()[..S::BYTES as usize] {
        crc = crc >> 8 ^ CRC[usize::from(crc as u8 ^ byte)];
    }
    W32::set(cpu, op.reg, u64::from(crc));
    Ok(Flow::Next)
}

fn crc_r<S: Width>(cpu: &mut Cpu, _: &mut Memory, op: &Op) -> Result<Flow, Halt> {
    let value = S::get(cpu, op.rm);
    crc::<S>(cpu, op, value)
}

fn crc_m<S: Width, E: Ea>(cpu: &mut Cpu, memory: &mut Memory, op: &Op) -> Result<Flow, Halt> {
    let value = cpu.read::<S, E>(memory, op)?;
    crc::<S>(cpu, op, value)
}

pub(in crate::cpu) fn crc32(form: &mut Form) -> Option<Run> {
    let source = form.size(1);
    Some(match (form.shape(), source) {
        (Shape::RegReg, 1) => Run::new(crc_r::<W8>),
        (Shape::RegReg, 2) => Run::new(crc_r::<W16>),
        (Shape::RegReg, 4) => Run::new(crc_r::<W32>),
        (Shape::RegReg, _) => Run::new(crc_r::<W64>),
        (Shape::RegMem, 1) => by_ea_only!(form.ea, crc_m::<W8>),
        (Shape::RegMem, 2) => by_ea_only!(form.ea, crc_m::<W16>),
        (Shape::RegMem, 4) => by_ea_only!(form.ea, crc_m::<W32>),
        (Shape::RegMem, _) => by_ea_only!(form.ea, crc_m::<W64>),
        _ => return None,
    })
}

/// BLSR, BLSMSK and BLSI name their destination first and their source second, as scans do.
pub(in crate::cpu) fn blsr(form: &mut Form) -> Option<Run> {
    scan::<Blsr>(form)
}

pub(in crate::cpu) fn blsmsk(form: &mut Form) -> Option<Run> {
    scan::<Blsmsk>(form)
}

pub(in crate::cpu) fn blsi(form: &mut Form) -> Option<Run> {
    scan::<Blsi>(form)
}
