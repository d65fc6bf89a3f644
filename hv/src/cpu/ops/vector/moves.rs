//! Moves between vector registers, general registers and memory.

use super::{Encoding, encoding, plain, vex};
use crate::cpu::decode::Form;
use crate::cpu::op::{Flow, Op, Run};
use crate::cpu::rows::Row;
use crate::cpu::state::Cpu;
use crate::memory::Memory;
use iced_x86::{Instruction, Mnemonic, OpKind};

/// A run that sets the destination: under VEX all of it, else 128 bits.
macro_rules! by_vex {
    ($form:expr, |$cpu:ident, $memory:ident, $op:ident| $body:block) => {
        if vex($form) {
            Run::new(|$cpu: &mut Cpu, $memory: &mut Memory, $op: &Op| {
                $cpu.avx()?;
                let (low, high): (u128, u128) = $body;
                $cpu.set_vex($op.reg, low, high);
                Ok(Flow::Next)
            })
        } else {
            Run::new(|$cpu: &mut Cpu, $memory: &mut Memory, $op: &Op| {
                $cpu.sse()?;
                let (low, _): (u128, u128) = $body;
                $cpu.set_xmm($op.reg, low);
                Ok(Flow::Next)
            })
        }
    };
}

/// A run whose destination is no vector register.
macro_rules! store {
    ($form:expr, |$cpu:ident, $memory:ident, $op:ident| $body:block) => {
        if vex($form) {
            Run::new(|$cpu: &mut Cpu, $memory: &mut Memory, $op: &Op| {
                $cpu.avx()?;
                $body
                Ok(Flow::Next)
            })
        } else {
            Run::new(|$cpu: &mut Cpu, $memory: &mut Memory, $op: &Op| {
                $cpu.sse()?;
                $body
                Ok(Flow::Next)
            })
        }
    };
}
pub(super) use {by_vex, store};

/// `Some(true)` for a store to memory, `Some(false)` for a load, `None` for register to register.
fn direction(form: &Form) -> Option<bool> {
    match form.kind(0) {
        OpKind::Memory => Some(true),
        _ => super::memory_source(form).then_some(false),
    }
}

/// Moves of whole registers. What VEX does not write is zero.
fn whole<const ALIGNED: bool>(form: &mut Form) -> Option<Run> {
    Some(match (encoding(form), direction(form)) {
        (Encoding::Legacy, None) => Run::new(|cpu, _, op| {
            cpu.sse()?;
            cpu.set_xmm(op.reg, cpu.xmm(op.rm));
            Ok(Flow::Next)
        }),
        (Encoding::Legacy, Some(false)) => Run::new(|cpu, memory, op| {
            cpu.sse()?;
            let value = cpu.read128(memory, op, ALIGNED)?;
            cpu.set_xmm(op.reg, value);
            Ok(Flow::Next)
        }),
        (Encoding::Legacy, Some(true)) => Run::new(|cpu, memory, op| {
            cpu.sse()?;
            let value = cpu.xmm(op.reg);
            cpu.write128(memory, op, ALIGNED, value)?;
            Ok(Flow::Next)
        }),
        (Encoding::Vex128, None) => Run::new(|cpu, _, op| {
            cpu.avx()?;
            cpu.set_vex(op.reg, cpu.xmm(op.rm), 0);
            Ok(Flow::Next)
        }),
        (Encoding::Vex128, Some(false)) => Run::new(|cpu, memory, op| {
            cpu.avx()?;
            let value = cpu.read128(memory, op, ALIGNED)?;
            cpu.set_vex(op.reg, value, 0);
            Ok(Flow::Next)
        }),
        (Encoding::Vex128, Some(true)) => Run::new(|cpu, memory, op| {
            cpu.avx()?;
            let value = cpu.xmm(op.reg);
            cpu.write128(memory, op, ALIGNED, value)?;
            Ok(Flow::Next)
        }),
        (Encoding::Vex256, None) => Run::new(|cpu, _, op| {
            cpu.avx()?;
            cpu.set_vex(op.reg, cpu.xmm(op.rm), cpu.ymm_high(op.rm));
            Ok(Flow::Next)
        }),
        (Encoding::Vex256, Some(false)) => Run::new(|cpu, memory, op| {
            cpu.avx()?;
            if ALIGNED && cpu.operand(op, 32, false)? & 31 != 0 {
                return cpu.gp();
            }
            let (low, high) = cpu.read256(memory, op)?;
            cpu.set_vex(op.reg, low, high);
            Ok(Flow::Next)
        }),
        (Encoding::Vex256, Some(true)) => Run::new(|cpu, memory, op| {
            cpu.avx()?;
            let at = cpu.operand(op, 32, true)?;
            if ALIGNED && at & 31 != 0 {
                return cpu.gp();
            }
            // Both halves are written or none.
            cpu.probe(memory, op.seg(), at, 32)?;
            let (low, high) = (cpu.xmm(op.reg), cpu.ymm_high(op.reg));
            cpu.store128(memory, op.seg(), at, low)?;
            cpu.store128(memory, op.seg(), at.wrapping_add(16), high)?;
            Ok(Flow::Next)
        }),
        (Encoding::Mmx, _) => return None,
    })
}

/// MOVSS and MOVSD, of `BYTES`.
fn scalar<const BYTES: u64>(form: &mut Form) -> Option<Run> {
    fn merge<const BYTES: u64>(into: u128, from: u128) -> u128 {
        let mask = u128::MAX >> (128 - 8 * BYTES as u32);
        into & !mask | from & mask
    }
    Some(match (vex(form), direction(form)) {
        (false, None) => Run::new(|cpu, _, op| {
            cpu.sse()?;
            cpu.set_xmm(op.reg, merge::<BYTES>(cpu.xmm(op.reg), cpu.xmm(op.rm)));
            Ok(Flow::Next)
        }),
        (false, Some(false)) => Run::new(|cpu, memory, op| {
            cpu.sse()?;
            let value = cpu.read_small(memory, op, BYTES)?;
            cpu.set_xmm(op.reg, value.into());
            Ok(Flow::Next)
        }),
        (wide, Some(true)) => {
            if wide {
                Run::new(|cpu, memory, op| {
                    cpu.avx()?;
                    let value = cpu.xmm(op.reg) as u64;
                    cpu.write_small(memory, op, BYTES, value)?;
                    Ok(Flow::Next)
                })
            } else {
                Run::new(|cpu, memory, op| {
                    cpu.sse()?;
                    let value = cpu.xmm(op.reg) as u64;
                    cpu.write_small(memory, op, BYTES, value)?;
                    Ok(Flow::Next)
                })
            }
        }
        (true, None) => {
            form.op.index = form.register(2);
            Run::new(|cpu, _, op| {
                cpu.avx()?;
                cpu.set_vex(op.reg, merge::<BYTES>(cpu.xmm(op.rm), cpu.xmm(op.index)), 0);
                Ok(Flow::Next)
            })
        }
        (true, Some(false)) => Run::new(|cpu, memory, op| {
            cpu.avx()?;
            let value = cpu.read_small(memory, op, BYTES)?;
            cpu.set_vex(op.reg, value.into(), 0);
            Ok(Flow::Next)
        }),
    })
}

/// The low bytes of a vector register that a 32- or 64-bit transfer moves, with the MMX ones.
fn small(form: &mut Form, bytes: u32) -> Option<Run> {
    fn mask(value: u64, bytes: u32) -> u64 {
        if bytes == 4 { value & 0xffff_ffff } else { value }
    }
    let i = form.instruction;
    let is = |operand: u32, test: fn(iced_x86::Register) -> bool| {
        i.op_kind(operand) == OpKind::Register && test(i.op_register(operand))
    };
    let (mm, xmm) = (iced_x86::Register::is_mm, iced_x86::Register::is_xmm);
    form.op.extra = bytes;
    Some(match (is(0, mm), is(1, mm), is(0, xmm), is(1, xmm), direction(form)) {
        (true, true, ..) => Run::new(|cpu, _, op| {
            cpu.mmx()?;
            cpu.enter_mmx();
            cpu.set_mm(op.reg, cpu.mm(op.rm));
            Ok(Flow::Next)
        }),
        (true, _, _, _, Some(_)) => Run::new(|cpu, memory, op| {
            cpu.mmx()?;
            let value = cpu.read_small(memory, op, op.extra.into())?;
            cpu.enter_mmx();
            cpu.set_mm(op.reg, value);
            Ok(Flow::Next)
        }),
        (true, ..) => Run::new(|cpu, _, op| {
            cpu.mmx()?;
            cpu.enter_mmx();
            cpu.set_mm(op.reg, mask(cpu.regs.gpr[usize::from(op.rm & 15)], op.extra));
            Ok(Flow::Next)
        }),
        (_, true, _, _, Some(_)) => Run::new(|cpu, memory, op| {
            cpu.mmx()?;
            let value = cpu.mm(op.reg);
            cpu.write_small(memory, op, op.extra.into(), value)?;
            cpu.enter_mmx();
            Ok(Flow::Next)
        }),
        (_, true, ..) => Run::new(|cpu, _, op| {
            cpu.mmx()?;
            cpu.enter_mmx();
            cpu.regs.gpr[usize::from(op.reg & 15)] = mask(cpu.mm(op.rm), op.extra);
            Ok(Flow::Next)
        }),
        (_, _, true, true, _) => by_vex!(form, |cpu, _memory, op| {
            let value = cpu.xmm(op.rm) & u128::from(u64::MAX);
            (value, 0)
        }),
        (_, _, true, _, Some(_)) => by_vex!(form, |cpu, memory, op| {
            let value = cpu.read_small(memory, op, op.extra.into())?;
            (u128::from(value), 0)
        }),
        (_, _, true, _, None) => by_vex!(form, |cpu, _memory, op| {
            let value = mask(cpu.regs.gpr[usize::from(op.rm & 15)], op.extra);
            (u128::from(value), 0)
        }),
        (_, _, _, true, Some(_)) => store!(form, |cpu, memory, op| {
            let value = cpu.xmm(op.reg) as u64;
            cpu.write_small(memory, op, op.extra.into(), value)?;
        }),
        (_, _, _, true, None) => store!(form, |cpu, _memory, op| {
            cpu.regs.gpr[usize::from(op.reg & 15)] = mask(cpu.xmm(op.rm) as u64, op.extra);
        }),
        _ => return None,
    })
}

fn movd(form: &mut Form) -> Option<Run> {
    small(form, 4)
}

fn movq(form: &mut Form) -> Option<Run> {
    small(form, 8)
}

/// The half of `value` at `HIGH`, set to `half`.
fn with_half(value: u128, high: bool, half: u64) -> u128 {
    let shift = if high { 64 } else { 0 };
    value & !(u128::from(u64::MAX) << shift) | u128::from(half) << shift
}

/// MOVLPS, MOVHPS and their like: one half of a register and memory.
fn half<const HIGH: bool>(form: &mut Form) -> Option<Run> {
    Some(match direction(form)? {
        true => store!(form, |cpu, memory, op| {
            let value = cpu.xmm(op.reg);
            let value = if HIGH { value >> 64 } else { value } as u64;
            cpu.write_small(memory, op, 8, value)?;
        }),
        false => {
            if !vex(form) {
                form.op.rm = form.op.reg;
            }
            by_vex!(form, |cpu, memory, op| {
                let value = cpu.read_small(memory, op, 8)?;
                (with_half(cpu.xmm(op.rm), HIGH, value), 0)
            })
        }
    })
}

/// MOVLHPS (`HIGH`: the source's lower half to the destination's upper one) and MOVHLPS.
fn cross<const HIGH: bool>(form: &mut Form) -> Option<Run> {
    if vex(form) {
        form.op.index = form.register(2);
    } else {
        form.op.index = form.op.rm;
        form.op.rm = form.op.reg;
    }
    Some(by_vex!(form, |cpu, _memory, op| {
        let source = cpu.xmm(op.index);
        let value = if HIGH { source } else { source >> 64 } as u64;
        (with_half(cpu.xmm(op.rm), HIGH, value), 0)
    }))
}

/// MOVDDUP: the lower quadword of each lane twice.
fn movddup(form: &mut Form) -> Option<Run> {
    Some(match (encoding(form), direction(form)) {
        (Encoding::Vex256, None) => Run::new(|cpu, _, op| {
            cpu.avx()?;
            let twice = |value: u128| value & u128::from(u64::MAX) | value << 64;
            cpu.set_vex(op.reg, twice(cpu.xmm(op.rm)), twice(cpu.ymm_high(op.rm)));
            Ok(Flow::Next)
        }),
        (Encoding::Vex256, Some(_)) => Run::new(|cpu, memory, op| {
            cpu.avx()?;
            let twice = |value: u128| value & u128::from(u64::MAX) | value << 64;
            let (low, high) = cpu.read256(memory, op)?;
            cpu.set_vex(op.reg, twice(low), twice(high));
            Ok(Flow::Next)
        }),
        (_, None) => by_vex!(form, |cpu, _memory, op| {
            let value = cpu.xmm(op.rm) & u128::from(u64::MAX);
            (value | value << 64, 0)
        }),
        (_, Some(_)) => by_vex!(form, |cpu, memory, op| {
            let value = u128::from(cpu.read_small(memory, op, 8)?);
            (value | value << 64, 0)
        }),
    })
}

/// MOVQ2DQ and MOVDQ2Q.
fn between<const TO_XMM: bool>(_: &mut Form) -> Option<Run> {
    Some(Run::new(|cpu, _, op| {
        cpu.mmx()?;
        cpu.sse()?;
        if TO_XMM {
            cpu.set_xmm(op.reg, cpu.mm(op.rm).into());
        } else {
            cpu.set_mm(op.reg, cpu.xmm(op.rm) as u64);
        }
        cpu.enter_mmx();
        Ok(Flow::Next)
    }))
}

/// MOVNTQ.
fn movntq(form: &mut Form) -> Option<Run> {
    small(form, 8)
}

pub(super) fn row(i: &Instruction) -> Option<Row> {
    use Mnemonic as M;
    let build: fn(&mut Form) -> Option<Run> = match i.mnemonic() {
        M::Movaps
        | M::Movapd
        | M::Movdqa
        | M::Vmovaps
        | M::Vmovapd
        | M::Vmovdqa
        | M::Movntps
        | M::Movntpd
        | M::Movntdq
        | M::Vmovntps
        | M::Vmovntpd
        | M::Vmovntdq
        | M::Movntdqa
        | M::Vmovntdqa => whole::<true>,
        M::Movups | M::Movupd | M::Movdqu | M::Vmovups | M::Vmovupd | M::Vmovdqu | M::Lddqu | M::Vlddqu => {
            whole::<false>
        }
        M::Movss | M::Vmovss => scalar::<4>,
        M::Movsd if !i.is_string_instruction() => scalar::<8>,
        M::Vmovsd => scalar::<8>,
        M::Movd | M::Vmovd => movd,
        M::Movq | M::Vmovq => movq,
        M::Movntq => movntq,
        M::Movlps | M::Movlpd | M::Vmovlps | M::Vmovlpd => half::<false>,
        M::Movhps | M::Movhpd | M::Vmovhps | M::Vmovhpd => half::<true>,
        M::Movhlps | M::Vmovhlps => cross::<false>,
        M::Movlhps | M::Vmovlhps => cross::<true>,
        M::Movddup | M::Vmovddup => movddup,
        M::Movq2dq => between::<true>,
        M::Movdq2q => between::<false>,
        _ => return None,
    };
    plain(build)
}
