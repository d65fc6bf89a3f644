//! Packed shifts, by an immediate or by the low quadword of a register or of memory.

use super::{Encoding, encoding, memory_source, plain};
use crate::cpu::decode::Form;
use crate::cpu::lanes;
use crate::cpu::op::{Flow, Op, Run};
use crate::cpu::rows::Row;
use crate::cpu::state::{Cpu, Halt};
use crate::memory::Memory;
use iced_x86::{Instruction, Mnemonic, OpKind};

trait Shift: 'static {
    fn eval(a: u128, count: u64) -> u128;
}

macro_rules! shifts {
    ($($name:ident = $f:expr;)*) => {
        $(
            enum $name {}
            impl Shift for $name {
                #[inline(always)]
                fn eval(a: u128, count: u64) -> u128 {
                    $f(a, count)
                }
            }
        )*
    };
}

shifts! {
    Psllw = lanes::psllw;
    Pslld = lanes::pslld;
    Psllq = lanes::psllq;
    Psrlw = lanes::psrlw;
    Psrld = lanes::psrld;
    Psrlq = lanes::psrlq;
    Psraw = lanes::psraw;
    Psrad = lanes::psrad;
    Pslldq = |a, count: u64| lanes::pslldq(a, count.min(16) as u8);
    Psrldq = |a, count: u64| lanes::psrldq(a, count.min(16) as u8);
}

/// Where the count comes from.
const IMMEDIATE: u8 = 0;
const REGISTER: u8 = 1;
const MEMORY: u8 = 2;

fn mmx<S: Shift, const COUNT: u8>(cpu: &mut Cpu, memory: &mut Memory, op: &Op) -> Result<Flow, Halt> {
    cpu.mmx()?;
    let count = match COUNT {
        IMMEDIATE => op.imm & 0xff,
        REGISTER => cpu.mm(op.index),
        _ => cpu.read_small(memory, op, 8)?,
    };
    let value = S::eval(cpu.mm(op.rm).into(), count) as u64;
    cpu.enter_mmx();
    cpu.set_mm(op.reg, value);
    Ok(Flow::Next)
}

fn sse<S: Shift, const COUNT: u8, const VEX: bool, const WIDE: bool>(
    cpu: &mut Cpu,
    memory: &mut Memory,
    op: &Op,
) -> Result<Flow, Halt> {
    if VEX {
        cpu.avx()?
    } else {
        cpu.sse()?
    }
    let count = match COUNT {
        IMMEDIATE => op.imm & 0xff,
        REGISTER => cpu.xmm(op.index) as u64,
        _ => cpu.read128(memory, op, !VEX)? as u64,
    };
    let low = S::eval(cpu.xmm(op.rm), count);
    if VEX {
        let high = if WIDE { S::eval(cpu.ymm_high(op.rm), count) } else { 0 };
        cpu.set_vex(op.reg, low, high);
    } else {
        cpu.set_xmm(op.reg, low);
    }
    Ok(Flow::Next)
}

fn shift<S: Shift>(form: &mut Form) -> Option<Run> {
    let encoding = encoding(form);
    let i = form.instruction;
    let last = i.op_count() - 1;
    let vex = matches!(encoding, Encoding::Vex128 | Encoding::Vex256);
    form.op.reg = form.register(0);
    form.op.rm = form.register(if vex { 1 } else { 0 });
    let count = if memory_source(form) {
        MEMORY
    } else if i.op_kind(last) == OpKind::Register {
        form.op.index = form.register(last);
        REGISTER
    } else {
        IMMEDIATE
    };
    Some(match (encoding, count) {
        (Encoding::Mmx, IMMEDIATE) => Run::new(mmx::<S, IMMEDIATE>),
        (Encoding::Mmx, REGISTER) => Run::new(mmx::<S, REGISTER>),
        (Encoding::Mmx, _) => Run::new(mmx::<S, MEMORY>),
        (Encoding::Legacy, IMMEDIATE) => Run::new(sse::<S, IMMEDIATE, false, false>),
        (Encoding::Legacy, REGISTER) => Run::new(sse::<S, REGISTER, false, false>),
        (Encoding::Legacy, _) => Run::new(sse::<S, MEMORY, false, false>),
        (Encoding::Vex128, IMMEDIATE) => Run::new(sse::<S, IMMEDIATE, true, false>),
        (Encoding::Vex128, REGISTER) => Run::new(sse::<S, REGISTER, true, false>),
        (Encoding::Vex128, _) => Run::new(sse::<S, MEMORY, true, false>),
        (Encoding::Vex256, IMMEDIATE) => Run::new(sse::<S, IMMEDIATE, true, true>),
        (Encoding::Vex256, REGISTER) => Run::new(sse::<S, REGISTER, true, true>),
        (Encoding::Vex256, _) => Run::new(sse::<S, MEMORY, true, true>),
    })
}

pub(super) fn row(i: &Instruction) -> Option<Row> {
    use Mnemonic as M;
    let build = match i.mnemonic() {
        M::Psllw | M::Vpsllw => shift::<Psllw>,
        M::Pslld | M::Vpslld => shift::<Pslld>,
        M::Psllq | M::Vpsllq => shift::<Psllq>,
        M::Psrlw | M::Vpsrlw => shift::<Psrlw>,
        M::Psrld | M::Vpsrld => shift::<Psrld>,
        M::Psrlq | M::Vpsrlq => shift::<Psrlq>,
        M::Psraw | M::Vpsraw => shift::<Psraw>,
        M::Psrad | M::Vpsrad => shift::<Psrad>,
        M::Pslldq | M::Vpslldq => shift::<Pslldq>,
        M::Psrldq | M::Vpsrldq => shift::<Psrldq>,
        _ => return None,
    };
    plain(build)
}
