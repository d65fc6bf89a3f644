//! CMP or TEST of registers and immediates, together with the Jcc that ends the block behind it: one op for two
//! instructions, where a block runs whole. Op by op, each runs by itself.

use crate::cpu::flags::Flags;
use crate::cpu::op::{Flow, Op, Run, Width};
use crate::cpu::ops::alu::{Alu, Cmp, Test};
use crate::cpu::ops::branch::is_narrow;
use crate::cpu::ops::{by_condition, data::holds};
use crate::cpu::state::{Cpu, Halt};
use crate::memory::Memory;

/// What an op is to a fusion.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::cpu) enum Part {
    /// Nothing.
    None,
    /// A comparison of two registers, or with `immediate`, of so many bytes.
    Compare { test: bool, immediate: bool, width: u8 },
    /// A conditional branch of 64-bit code, with its condition's number.
    Branch(u8),
}

/// A comparison whose conditions can be told from its operands.
trait Compare: Alu {
    /// Whether the condition holds after the comparison of `a` and `b`, whose flags are in `flags`.
    fn holds<const C: u8, W: Width>(flags: &Flags, a: u64, b: u64) -> bool;
}

impl Compare for Cmp {
    #[inline(always)]
    fn holds<const C: u8, W: Width>(flags: &Flags, a: u64, b: u64) -> bool {
        let (signed_a, signed_b) = (W::sext(a) as i64, W::sext(b) as i64);
        match C {
            2 => a < b,
            3 => a >= b,
            4 => a == b,
            5 => a != b,
            6 => a <= b,
            7 => a > b,
            12 => signed_a < signed_b,
            13 => signed_a >= signed_b,
            14 => signed_a <= signed_b,
            15 => signed_a > signed_b,
            _ => holds::<C>(flags),
        }
    }
}

impl Compare for Test {
    #[inline(always)]
    fn holds<const C: u8, W: Width>(flags: &Flags, a: u64, b: u64) -> bool {
        let result = W::sext(a & b) as i64;
        match C {
            4 | 6 => result == 0,
            5 | 7 => result != 0,
            8 | 12 => result < 0,
            9 | 13 => result >= 0,
            14 => result <= 0,
            15 => result > 0,
            _ => holds::<C>(flags),
        }
    }
}

#[inline(always)]
fn finish(cpu: &mut Cpu, op: &Op, taken: bool) -> Result<Flow, Halt> {
    if taken {
        let target = cpu.rip.wrapping_add((op.imm as i64 >> 32) as u64);
        if !is_narrow(target) {
            // The branch's own op says whether it may be.
            return Ok(Flow::Next);
        }
        cpu.rip = target;
        cpu.exec.now += 1;
        return Ok(Flow::Taken);
    }
    cpu.rip = cpu.rip.wrapping_add(u64::from(op.extra));
    cpu.exec.now += 1;
    Ok(Flow::Fall)
}

fn rr<const C: u8, O: Compare, W: Width>(cpu: &mut Cpu, _: &mut Memory, op: &Op) -> Result<Flow, Halt> {
    let (a, b) = (W::get(cpu, op.reg), W::get(cpu, op.rm));
    O::eval::<W>(&mut cpu.flags, a, b);
    let taken = O::holds::<C, W>(&cpu.flags, a, b);
    finish(cpu, op, taken)
}

fn ri<const C: u8, O: Compare, W: Width>(cpu: &mut Cpu, _: &mut Memory, op: &Op) -> Result<Flow, Halt> {
    let (a, b) = (W::get(cpu, op.reg), op.imm as i32 as u64 & W::MASK);
    O::eval::<W>(&mut cpu.flags, a, b);
    let taken = O::holds::<C, W>(&cpu.flags, a, b);
    finish(cpu, op, taken)
}

/// The function for both, from what the two ops are.
fn pick(test: bool, immediate: bool, width: u8, condition: u8) -> Run {
    match (test, immediate) {
        (false, false) => by_condition!(condition, by_width!(width,), rr::<Cmp>),
        (false, true) => by_condition!(condition, by_width!(width,), ri::<Cmp>),
        (true, false) => by_condition!(condition, by_width!(width,), rr::<Test>),
        (true, true) => by_condition!(condition, by_width!(width,), ri::<Test>),
    }
}

/// The op for a comparison and the branch behind it, if they go together.
pub(in crate::cpu) fn fuse(compare: &Op, branch: &Op, parts: [Part; 2]) -> Option<Op> {
    let [Part::Compare { test, immediate, width }, Part::Branch(condition)] = parts else { return None };
    // Both in half a word each.
    let (value, target) = (compare.imm as i32, i32::try_from(branch.imm as i64).ok()?);
    if width == 8 && value as u64 != compare.imm {
        return None;
    }
    Some(Op {
        run: pick(test, immediate, width, condition),
        imm: u64::from(value as u32) | (target as u64) << 32,
        extra: u32::from(branch.offset) + u32::from(branch.len),
        parts: Op::DIRECT,
        ..*compare
    })
}
