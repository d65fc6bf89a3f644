//! The gathers of AVX2. See: SDM "VPGATHERDD/VPGATHERQD" and its kin.
//!
//! Elements are loaded from the lowest up, and each that is done has its mask cleared: a fault leaves what came before
//! it in place, and the instruction goes on from there. What is above the elements is cleared when all are done.

use super::plain;
use crate::cpu::decode::{Form, number};
use crate::cpu::op::{Flow, Op, Run, W32, W64, Width};
use crate::cpu::rows::Row;
use crate::cpu::state::{Cpu, Halt};
use crate::memory::Memory;
use iced_x86::{Instruction, Mnemonic};

/// A register's elements, or as many as it may have, of eight bytes or of four.
fn elements<W: Width>((low, high): (u128, u128)) -> [u64; 8] {
    let per_half = 128 / W::BITS;
    core::array::from_fn(|at| {
        let (half, at) = (at as u32 / per_half, at as u32 % per_half);
        let half = [low, high].get(half as usize).copied().unwrap_or(0);
        (half >> (at * W::BITS)) as u64 & W::MASK
    })
}

fn register<W: Width>(elements: &[u64; 8]) -> (u128, u128) {
    let per_half = (128 / W::BITS) as usize;
    let half = |from: usize| {
        let elements = elements[from..from + per_half].iter().rev();
        elements.fold(0, |half, &element| half << W::BITS | u128::from(element))
    };
    (half(0), half(per_half))
}

/// Elements of `W`, whose indices are of `I`. `extra` is their number, `index` the register of the indices, `reg` the
/// destination and `rm` the mask.
fn gather_run<W: Width, I: Width>(cpu: &mut Cpu, memory: &mut Memory, op: &Op) -> Result<Flow, Halt> {
    cpu.avx()?;
    if op.reg == op.rm || op.reg == op.index || op.rm == op.index {
        return cpu.ud();
    }
    let count = op.extra as usize;
    let indices = elements::<I>(cpu.ymm(op.index));
    let mut mask = elements::<W>(cpu.ymm(op.rm));
    let mut values = elements::<W>(cpu.ymm(op.reg));
    // Each mask becomes as wide as its element, in all of the vector's width, whether or not the first element faults.
    let width = count * W::BITS.max(I::BITS) as usize / W::BITS as usize;
    for (at, mask) in mask.iter_mut().enumerate() {
        *mask = if at < width && W::sign(*mask) { W::MASK } else { 0 };
    }
    for at in 0..count {
        if mask[at] == 0 {
            continue;
        }
        let distance = I::sext(indices[at]) << (op.scale & 3);
        let element = Op { parts: op.parts & !Op::INDEX, disp: op.disp.wrapping_add(distance), ..*op };
        let loaded = cpu.unaligned(|cpu| cpu.read_small(memory, &element, W::BYTES));
        if let Ok(value) = loaded {
            values[at] = value;
            mask[at] = 0;
            continue;
        }
        put::<W>(cpu, op, &values, &mask);
        return Err(Halt);
    }
    values[count..].fill(0);
    put::<W>(cpu, op, &values, &[0; 8]);
    Ok(Flow::Next)
}

fn put<W: Width>(cpu: &mut Cpu, op: &Op, values: &[u64; 8], mask: &[u64; 8]) {
    let (values, mask) = (register::<W>(values), register::<W>(mask));
    for (number, (low, high)) in [(op.reg, values), (op.rm, mask)] {
        cpu.set_xmm(number, low);
        cpu.set_ymm_high(number, high);
    }
}

fn gather<W: Width, I: Width>(form: &mut Form) -> Option<Run> {
    let i = form.instruction;
    let index = i.memory_index();
    let wide = index.is_ymm() || i.op_register(0).is_ymm();
    form.op.reg = form.register(0);
    form.op.rm = form.register(2);
    form.op.index = number(index);
    form.op.extra = if wide { 32 } else { 16 } / W::BYTES.max(I::BYTES) as u32;
    Some(Run::new(gather_run::<W, I>))
}

pub(super) fn row(i: &Instruction) -> Option<Row> {
    use Mnemonic as M;
    let build: fn(&mut Form) -> Option<Run> = match i.mnemonic() {
        M::Vpgatherdd | M::Vgatherdps => gather::<W32, W32>,
        M::Vpgatherdq | M::Vgatherdpd => gather::<W64, W32>,
        M::Vpgatherqd | M::Vgatherqps => gather::<W32, W64>,
        M::Vpgatherqq | M::Vgatherqpd => gather::<W64, W64>,
        _ => return None,
    };
    plain(build)
}
