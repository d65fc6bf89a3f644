//! Decimal adjustment: AAA, AAS, AAM, AAD, DAA, DAS.

use crate::cpu::decode::Form;
use crate::cpu::op::{Flow, Op, Run, W8, W16, Width};
use crate::cpu::ops::alu::logic;
use crate::cpu::state::{Cpu, Halt};
use crate::memory::Memory;
use hv_defs::x86::Vector;

const AF: u64 = 1 << 4;
const CF: u64 = 1;

/// AAA and AAS.
fn ascii<const ADD: bool>(cpu: &mut Cpu, _: &mut Memory, _: &Op) -> Result<Flow, Halt> {
    let ax = W16::get(cpu, 0);
    let adjust = ax & 0xf > 9 || cpu.flags.af();
    let ax = match (adjust, ADD) {
        (false, _) => ax,
        (true, true) => ax.wrapping_add(0x106),
        (true, false) => ax.wrapping_sub(0x106),
    };
    W16::set(cpu, 0, ax & 0xff0f);
    logic::<W8>(&mut cpu.flags, ax & 0xf);
    let flags = cpu.flags.arithmetic() & !(AF | CF);
    cpu.flags.set_arithmetic(flags | if adjust { AF | CF } else { 0 });
    Ok(Flow::Next)
}

/// DAA and DAS.
fn packed<const ADD: bool>(cpu: &mut Cpu, _: &mut Memory, _: &Op) -> Result<Flow, Halt> {
    let before = W8::get(cpu, 0);
    let (cf, af) = (cpu.flags.cf(), cpu.flags.af());
    let step = |al: u64, by: u64| if ADD { al.wrapping_add(by) } else { al.wrapping_sub(by) };
    let low = before & 0xf > 9 || af;
    let high = before > 0x99 || cf;
    let mut al = before;
    let mut carry = high;
    if low {
        let adjusted = step(al, 6);
        // DAS carries out of the lower step as well.
        carry |= !ADD && adjusted > 0xff;
        al = adjusted;
    }
    if high {
        al = step(al, 0x60);
    }
    W8::set(cpu, 0, al);
    logic::<W8>(&mut cpu.flags, al & 0xff);
    let flags = cpu.flags.arithmetic() & !(AF | CF);
    cpu.flags.set_arithmetic(flags | if low { AF } else { 0 } | u64::from(carry));
    Ok(Flow::Next)
}

fn aam_run(cpu: &mut Cpu, _: &mut Memory, op: &Op) -> Result<Flow, Halt> {
    let base = op.imm & 0xff;
    if base == 0 {
        return cpu.fault(Vector::DE, None);
    }
    let al = W8::get(cpu, 0);
    W16::set(cpu, 0, ((al / base) << 8) | (al % base));
    logic::<W8>(&mut cpu.flags, al % base);
    Ok(Flow::Next)
}

fn aad_run(cpu: &mut Cpu, _: &mut Memory, op: &Op) -> Result<Flow, Halt> {
    let ax = W16::get(cpu, 0);
    let al = ax.wrapping_add((ax >> 8).wrapping_mul(op.imm & 0xff)) & 0xff;
    W16::set(cpu, 0, al);
    logic::<W8>(&mut cpu.flags, al);
    Ok(Flow::Next)
}

pub(in crate::cpu) fn aaa(_: &mut Form) -> Option<Run> {
    Some(Run::new(ascii::<true>))
}

pub(in crate::cpu) fn aas(_: &mut Form) -> Option<Run> {
    Some(Run::new(ascii::<false>))
}

pub(in crate::cpu) fn daa(_: &mut Form) -> Option<Run> {
    Some(Run::new(packed::<true>))
}

pub(in crate::cpu) fn das(_: &mut Form) -> Option<Run> {
    Some(Run::new(packed::<false>))
}

pub(in crate::cpu) fn aam(_: &mut Form) -> Option<Run> {
    Some(Run::new(aam_run))
}

pub(in crate::cpu) fn aad(_: &mut Form) -> Option<Run> {
    Some(Run::new(aad_run))
}
