//! Loads and stores, constants, the stack.

use super::arith::{operand_kind, read};
use super::{plain, register};
use crate::cpu::decode::Form;
use crate::cpu::float::{self, F80, Format, Num, Raw, Rounding, flag};
use crate::cpu::op::{Flow, Op, Run, W8, W16, W32, W64};
use crate::cpu::rows::Row;
use crate::cpu::state::{Cpu, Halt};
use crate::memory::Memory;
use iced_x86::{Instruction, Mnemonic};

impl Cpu {
    /// Reads an operand of up to 8 bytes.
    pub(super) fn x87_load(&mut self, memory: &mut Memory, op: &Op, bytes: u64) -> Result<u64, Halt> {
        let offset = crate::cpu::op::offset(self, op);
        match bytes {
            2 => self.read_seg::<W16>(memory, op.seg(), offset),
            4 => self.read_seg::<W32>(memory, op.seg(), offset),
            _ => self.read_seg::<W64>(memory, op.seg(), offset),
        }
    }

    /// Writes an operand of up to 8 bytes.
    pub(super) fn x87_store(&mut self, memory: &mut Memory, op: &Op, bytes: u64, value: u64) -> Result<(), Halt> {
        let offset = crate::cpu::op::offset(self, op);
        match bytes {
            2 => self.write_seg::<W16>(memory, op.seg(), offset, value),
            4 => self.write_seg::<W32>(memory, op.seg(), offset, value),
            _ => self.write_seg::<W64>(memory, op.seg(), offset, value),
        }
    }

    fn load80(&mut self, memory: &mut Memory, op: &Op) -> Result<[u8; 10], Halt> {
        let offset = crate::cpu::op::offset(self, op);
        let mut bytes = [0; 10];
        let low = self.read_seg::<W64>(memory, op.seg(), offset)?;
        let high = self.read_seg::<W16>(memory, op.seg(), offset.wrapping_add(8))?;
        bytes[..8].copy_from_slice(&low.to_le_bytes());
        bytes[8..].copy_from_slice(&(high as u16).to_le_bytes());
        Ok(bytes)
    }

    fn store80(&mut self, memory: &mut Memory, op: &Op, bytes: [u8; 10]) -> Result<(), Halt> {
        let offset = crate::cpu::op::offset(self, op);
        // All ten bytes are written or none.
        let linear = self.linear(op.seg(), offset, 10, true)?;
        self.probe(memory, op.seg(), linear, 10)?;
        for (at, byte) in bytes.into_iter().enumerate() {
            self.write_seg::<W8>(memory, op.seg(), offset.wrapping_add(at as u64), byte.into())?;
        }
        Ok(())
    }
}

/// FLD of single and double precision, FILD.
fn load(cpu: &mut Cpu, memory: &mut Memory, op: &Op) -> Result<Flow, Halt> {
    cpu.x87_begin(op)?;
    let mut env = cpu.x87_env();
    let num = read(cpu, memory, op, &mut env)?;
    if cpu.x87_full() {
        cpu.x87_push(F80::INDEFINITE);
        return Ok(Flow::Next);
    }
    let raw = match num {
        Num::Nan(nan) => {
            if nan.is_signaling() {
                env.raise(flag::INVALID);
            }
            Raw::Special(Num::Nan(nan.quieted()))
        }
        num => Raw::from(num),
    };
    let value = register(raw, 64, &mut env);
    // A denormal number is loaded even when that is told.
    if cpu.x87_raise(&env) || env.flags & flag::INVALID == 0 {
        cpu.x87_push(value);
    }
    Ok(Flow::Next)
}

fn fld(form: &mut Form) -> Option<Run> {
    use iced_x86::MemorySize;
    if form.instruction.op_kind(0) == iced_x86::OpKind::Register {
        form.op.rm = form.register(0);
        return Some(Run::new(|cpu, _, op| {
            cpu.x87_begin(op)?;
            let value = cpu.st(usize::from(op.rm & 7));
            cpu.set_c1(false);
            match value {
                Some(value) => cpu.x87_push(value),
                None if cpu.x87_stack_fault(false) => {
                    let below = (cpu.x87_top() + 7) & 7;
                    cpu.set_x87_top(below);
                    cpu.set_st(0, F80::INDEFINITE);
                }
                None => {}
            }
            Ok(Flow::Next)
        }));
    }
    if form.instruction.memory_size() == MemorySize::Float80 {
        return Some(Run::new(|cpu, memory, op| {
            cpu.x87_begin(op)?;
            let bytes = cpu.load80(memory, op)?;
            cpu.set_c1(false);
            cpu.x87_push(F80::from_bytes(bytes));
            Ok(Flow::Next)
        }));
    }
    form.op.extra = operand_kind(form);
    Some(Run::new(load))
}

/// The value that a store to memory writes: what an empty register gives, and whether it is stored at all.
fn stored(cpu: &mut Cpu, format: Format) -> Option<u64> {
    let Some(value) = cpu.st(0) else {
        return cpu.x87_stack_fault(false).then(|| indefinite(format));
    };
    let mut env = cpu.x87_env();
    env.wrap_exponent = false;
    let num = value.unpack(&mut env);
    // A denormal register is no exception of a store.
    env.flags = 0;
    let raw = match num {
        Num::Unsupported => {
            env.raise(flag::INVALID);
            Raw::Special(Num::Nan(float::Nan::INDEFINITE))
        }
        Num::Nan(nan) => {
            if nan.is_signaling() {
                env.raise(flag::INVALID);
            }
            Raw::Special(Num::Nan(nan.quieted()))
        }
        num => Raw::from(num),
    };
    let bits = float::pack(raw.round(format.precision, format, &mut env), format);
    // An unmasked overflow or underflow stores nothing, and so nothing inexact either.
    let range = env.flags & (flag::OVERFLOW | flag::UNDERFLOW) & !env.masked != 0;
    if range {
        env.flags &= !flag::PRECISION;
        env.rounded_up = false;
    }
    let may = cpu.x87_raise(&env);
    (may && !range).then_some(bits)
}

fn indefinite(format: Format) -> u64 {
    match format.precision {
        24 => 0xffc0_0000,
        _ => 0xfff8_0000_0000_0000,
    }
}

/// FST and FSTP. A fault of the store leaves the FPU as it was.
fn fst<const POP: bool>(form: &mut Form) -> Option<Run> {
    use iced_x86::MemorySize as S;
    if form.instruction.op_kind(0) == iced_x86::OpKind::Register {
        form.op.reg = form.register(0);
        return Some(Run::new(|cpu, _, op| {
            cpu.x87_begin(op)?;
            let to = usize::from(op.reg & 7);
            match cpu.st(0) {
                Some(value) => {
                    cpu.set_c1(false);
                    cpu.set_st(to, value);
                }
                None => {
                    if !cpu.x87_stack_fault(false) {
                        return Ok(Flow::Next);
                    }
                    cpu.set_st(to, F80::INDEFINITE);
                }
            }
            if POP {
                cpu.x87_pop();
            }
            Ok(Flow::Next)
        }));
    }
    fn real<const POP: bool, const BYTES: u64>(cpu: &mut Cpu, memory: &mut Memory, op: &Op) -> Result<Flow, Halt> {
        cpu.x87_begin(op)?;
        let format = if BYTES == 4 { Format::F32 } else { Format::F64 };
        let before = cpu.x87_status();
        if let Some(bits) = stored(cpu, format) {
            if let Err(halt) = cpu.x87_store(memory, op, BYTES, bits) {
                cpu.set_x87_status(before);
                return Err(halt);
            }
            if POP {
                cpu.x87_pop();
            }
        }
        Ok(Flow::Next)
    }
    Some(match form.instruction.memory_size() {
        S::Float32 => Run::new(real::<POP, 4>),
        S::Float64 => Run::new(real::<POP, 8>),
        S::Float80 => Run::new(|cpu, memory, op| {
            cpu.x87_begin(op)?;
            let value = match cpu.st(0) {
                Some(value) => value,
                None => {
                    let before = cpu.x87_status();
                    if !cpu.x87_stack_fault(false) {
                        return Ok(Flow::Next);
                    }
                    if let Err(halt) = cpu.store80(memory, op, F80::INDEFINITE.to_bytes()) {
                        cpu.set_x87_status(before);
                        return Err(halt);
                    }
                    cpu.x87_pop();
                    return Ok(Flow::Next);
                }
            };
            cpu.store80(memory, op, value.to_bytes())?;
            cpu.set_c1(false);
            cpu.x87_pop();
            Ok(Flow::Next)
        }),
        _ => return None,
    })
}

/// FIST, FISTP and FISTTP.
fn fist<const POP: bool, const TRUNCATE: bool>(form: &mut Form) -> Option<Run> {
    form.op.extra = form.instruction.memory_size().size() as u32;
    if form.op.extra == 0 || form.op.extra > 8 {
        return None;
    }
    Some(Run::new(|cpu, memory, op| {
        cpu.x87_begin(op)?;
        let before = cpu.x87_status();
        let bits = 8 * op.extra;
        let indefinite = 1u64 << (bits - 1);
        let value = match cpu.st(0) {
            None => {
                if !cpu.x87_stack_fault(false) {
                    return Ok(Flow::Next);
                }
                indefinite
            }
            Some(value) => {
                let mut env = cpu.x87_env();
                let num = value.unpack(&mut env);
                env.flags = 0;
                let rounding = if TRUNCATE { Rounding::Zero } else { env.rounding };
                let value = float::to_int(num, bits, rounding, &mut env);
                if !cpu.x87_raise(&env) {
                    return Ok(Flow::Next);
                }
                value.map_or(indefinite, |value| value as u64 & (u64::MAX >> (64 - bits)))
            }
        };
        if let Err(halt) = cpu.x87_store(memory, op, op.extra.into(), value) {
            cpu.set_x87_status(before);
            return Err(halt);
        }
        if POP {
            cpu.x87_pop();
        }
        Ok(Flow::Next)
    }))
}

/// FBLD: eighteen decimal digits and a sign.
fn fbld(_: &mut Form) -> Option<Run> {
    Some(Run::new(|cpu, memory, op| {
        cpu.x87_begin(op)?;
        let bytes = cpu.load80(memory, op)?;
        let magnitude = bytes[..9].iter().rev().fold(0u64, |value, byte| {
            value.wrapping_mul(100).wrapping_add(u64::from(byte >> 4) * 10 + u64::from(byte & 15))
        });
        let num = match float::from_int(magnitude as i64) {
            Num::Zero(_) => Num::Zero(bytes[9] >> 7 != 0),
            num => num.with_sign(bytes[9] >> 7 != 0),
        };
        cpu.set_c1(false);
        let mut env = cpu.x87_env();
        let value = register(Raw::from(num), 64, &mut env);
        cpu.x87_push(value);
        Ok(Flow::Next)
    }))
}

/// FBSTP.
fn fbstp(_: &mut Form) -> Option<Run> {
    const LIMIT: i64 = 999_999_999_999_999_999;
    const INDEFINITE: [u8; 10] = [0, 0, 0, 0, 0, 0, 0, 0xc0, 0xff, 0xff];
    Some(Run::new(|cpu, memory, op| {
        cpu.x87_begin(op)?;
        let before = cpu.x87_status();
        let bytes = match cpu.st(0) {
            None => {
                if !cpu.x87_stack_fault(false) {
                    return Ok(Flow::Next);
                }
                INDEFINITE
            }
            Some(value) => {
                let mut env = cpu.x87_env();
                let num = value.unpack(&mut env);
                env.flags = 0;
                let rounding = env.rounding;
                let integer = float::to_int(num, 64, rounding, &mut env).filter(|integer| integer.abs() <= LIMIT);
                if integer.is_none() {
                    env.flags = flag::INVALID;
                }
                if !cpu.x87_raise(&env) {
                    return Ok(Flow::Next);
                }
                integer.map_or(INDEFINITE, |integer| {
                    let mut rest = integer.unsigned_abs();
                    let mut bytes = [0; 10];
                    for byte in &mut bytes[..9] {
                        *byte = ((rest % 10) | ((rest / 10 % 10) << 4)) as u8;
                        rest /= 100;
                    }
                    bytes[9] = u8::from(num.sign()) << 7;
                    bytes
                })
            }
        };
        if let Err(halt) = cpu.store80(memory, op, bytes) {
            cpu.set_x87_status(before);
            return Err(halt);
        }
        cpu.x87_pop();
        Ok(Flow::Next)
    }))
}

/// FSTPNCE, which is FSTP but for an empty register: that is popped and nothing else, and no fault of the stack's.
fn fstpnce(form: &mut Form) -> Option<Run> {
    form.op.reg = form.register(0);
    Some(Run::new(|cpu, _, op| {
        cpu.x87_begin(op)?;
        cpu.set_c1(false);
        if let Some(value) = cpu.st(0) {
            cpu.set_st(usize::from(op.reg & 7), value);
        }
        cpu.x87_pop();
        Ok(Flow::Next)
    }))
}

fn fxch(form: &mut Form) -> Option<Run> {
    form.op.rm = match form.instruction.op_count() {
        2 => form.register(1),
        _ => 1,
    };
    Some(Run::new(|cpu, _, op| {
        cpu.x87_begin(op)?;
        let other = usize::from(op.rm & 7);
        let (a, b) = (cpu.st(0), cpu.st(other));
        if (a.is_none() || b.is_none()) && !cpu.x87_stack_fault(false) {
            return Ok(Flow::Next);
        }
        if a.is_some() && b.is_some() {
            cpu.set_c1(false);
        }
        cpu.set_st(0, b.unwrap_or(F80::INDEFINITE));
        cpu.set_st(other, a.unwrap_or(F80::INDEFINITE));
        Ok(Flow::Next)
    }))
}

/// The FLDx constants to 67 bits: the significand, its exponent, and whether what lies below the significand rounds
/// up (`true`) or down to the nearest.
struct Constant {
    sign_exponent: u16,
    significand: u64,
    nearest_is_above: bool,
}

const fn constant_of(mnemonic: Mnemonic) -> Option<Constant> {
    use Mnemonic as M;
    let (sign_exponent, significand, nearest_is_above) = match mnemonic {
        // Significands cut off, not rounded.
        M::Fldl2t => (0x4000, 0xd49a_784b_cd1b_8afe, false),
        M::Fldl2e => (0x3fff, 0xb8aa_3b29_5c17_f0bb, true),
        M::Fldpi => (0x4000, 0xc90f_daa2_2168_c234, true),
        M::Fldlg2 => (0x3ffd, 0x9a20_9a84_fbcf_f798, true),
        M::Fldln2 => (0x3ffe, 0xb172_17f7_d1cf_79ab, true),
        _ => return None,
    };
    Some(Constant { sign_exponent, significand, nearest_is_above })
}

fn constant(form: &mut Form) -> Option<Run> {
    match constant_of(form.instruction.mnemonic()) {
        Some(constant) => {
            form.op.imm = constant.significand;
            form.op.extra = u32::from(constant.sign_exponent) | u32::from(constant.nearest_is_above) << 16;
            Some(Run::new(|cpu, _, op| {
                cpu.x87_begin(op)?;
                let up = match cpu.x87_env().rounding {
                    Rounding::NearestEven => op.extra >> 16 != 0,
                    Rounding::Up => true,
                    Rounding::Down | Rounding::Zero => false,
                };
                cpu.set_c1(false);
                cpu.x87_push(F80 { sign_exponent: op.extra as u16, significand: op.imm + u64::from(up) });
                Ok(Flow::Next)
            }))
        }
        None => {
            form.op.imm = u64::from(form.instruction.mnemonic() == Mnemonic::Fld1);
            Some(Run::new(|cpu, _, op| {
                cpu.x87_begin(op)?;
                cpu.set_c1(false);
                let one = F80 { sign_exponent: 0x3fff, significand: 1 << 63 };
                cpu.x87_push(if op.imm != 0 { one } else { F80::default() });
                Ok(Flow::Next)
            }))
        }
    }
}

/// FINCSTP (1) and FDECSTP (7).
fn rotate<const BY: usize>(_: &mut Form) -> Option<Run> {
    Some(Run::new(|cpu, _, op| {
        cpu.x87_begin(op)?;
        cpu.set_x87_top(cpu.x87_top() + BY);
        cpu.set_c1(false);
        Ok(Flow::Next)
    }))
}

/// FFREE, and FFREEP, which pops too.
fn ffree<const POP: bool>(form: &mut Form) -> Option<Run> {
    form.op.reg = form.register(0);
    Some(Run::new(|cpu, _, op| {
        cpu.x87_begin(op)?;
        cpu.free_st(usize::from(op.reg & 7));
        cpu.set_c1(false);
        if POP {
            cpu.x87_pop();
        }
        Ok(Flow::Next)
    }))
}

pub(super) fn row(i: &Instruction) -> Option<Row> {
    use Mnemonic as M;
    let build: fn(&mut Form) -> Option<Run> = match i.mnemonic() {
        M::Fld | M::Fild => fld,
        M::Fst => fst::<false>,
        M::Fstp => fst::<true>,
        M::Fstpnce => fstpnce,
        M::Fist => fist::<false, false>,
        M::Fistp => fist::<true, false>,
        M::Fisttp => fist::<true, true>,
        M::Fbld => fbld,
        M::Fbstp => fbstp,
        M::Fxch => fxch,
        M::Fld1 | M::Fldz | M::Fldl2t | M::Fldl2e | M::Fldpi | M::Fldlg2 | M::Fldln2 => constant,
        M::Fincstp => rotate::<1>,
        M::Fdecstp => rotate::<7>,
        M::Ffree => ffree::<false>,
        M::Ffreep => ffree::<true>,
        _ => return None,
    };
    plain(build)
}
