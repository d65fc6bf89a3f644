//! The control and status words, the environment, FNSAVE and FRSTOR, FWAIT.

use super::{FDP, FIP, plain, status};
use crate::cpu::decode::Form;
use crate::cpu::float::{F80, Num};
use crate::cpu::op::{Flow, Op, Run, W8, W16, W32};
use crate::cpu::rows::Row;
use crate::cpu::state::{Cpu, Halt};
use crate::memory::Memory;
use hv_defs::x86::{Cr0, Vector};
use iced_x86::{Instruction, MemorySize, Mnemonic};

/// The control word's bits that can be set; bit 6 reads as one.
const CONTROL_MASK: u16 = 0x1f7f;

impl Cpu {
    fn set_x87_control(&mut self, value: u16) {
        self.set_x87_word(0, value & CONTROL_MASK | 1 << 6);
        self.x87_refresh();
    }

    fn x87_init(&mut self) {
        self.regs.extended.0[..24].fill(0);
        self.set_x87_word(0, 0x037f);
    }

    /// The tag word in its full form: two bits a physical register.
    fn x87_tags(&self) -> u16 {
        (0..8).fold(0, |tags, physical| {
            let index = (physical + 8 - self.x87_top()) & 7;
            let tag = match self.st(index) {
                None => 3,
                Some(value) => match value.unpack(&mut self.x87_env()) {
                    Num::Zero(_) => 1,
                    Num::Finite { .. } if value.sign_exponent & 0x7fff != 0 => 0,
                    _ => 2,
                },
            };
            tags | tag << (2 * physical)
        })
    }

    fn set_x87_tags(&mut self, tags: u16) {
        self.regs.extended.0[4] =
            (0..8).fold(0, |kept, physical| kept | u8::from(tags >> (2 * physical) & 3 != 3) << physical);
    }
}

fn word(cpu: &mut Cpu, memory: &mut Memory, op: &Op, at: u64) -> Result<u16, Halt> {
    let offset = crate::cpu::op::offset(cpu, op).wrapping_add(at);
    cpu.read_seg::<W16>(memory, op.seg(), offset).map(|value| value as u16)
}

/// A word of the environment, in whatever it takes there.
fn word_of(cpu: &mut Cpu, memory: &mut Memory, op: &Op, at: u64) -> Result<u16, Halt> {
    let offset = crate::cpu::op::offset(cpu, op).wrapping_add(at);
    let value = match op.extra {
        4 => cpu.read_seg::<W32>(memory, op.seg(), offset)?,
        _ => cpu.read_seg::<W16>(memory, op.seg(), offset)?,
    };
    Ok(value as u16)
}

/// The environment: seven words of 2 or 4 bytes.
fn store_environment(cpu: &mut Cpu, memory: &mut Memory, op: &Op) -> Result<u64, Halt> {
    let wide = op.extra == 4;
    let bytes = if wide { 28 } else { 14 };
    let offset = crate::cpu::op::offset(cpu, op);
    let linear = cpu.linear(op.seg(), offset, bytes, true)?;
    cpu.probe(memory, op.seg(), linear, bytes)?;
    let pointer = |at: usize| {
        let image = &cpu.regs.extended.0;
        u32::from_le_bytes([image[at], image[at + 1], image[at + 2], image[at + 3]])
    };
    let (fip, fdp) = (pointer(FIP), pointer(FDP));
    let state = [cpu.x87_control(), cpu.x87_status(), cpu.x87_tags()].map(u32::from);
    let words = [state[0], state[1], state[2], fip, 0, fdp, 0];
    for (index, value) in words.into_iter().enumerate() {
        if wide {
            // The upper halves of the first three and of the selector words read as ones.
            let upper = if index < 3 || index == 6 { 0xffff_0000 } else { 0 };
            let at = offset.wrapping_add(4 * index as u64);
            cpu.write_seg::<W32>(memory, op.seg(), at, u64::from(value) | upper)?;
        } else {
            let value = u64::from(value & 0xffff);
            cpu.write_seg::<W16>(memory, op.seg(), offset.wrapping_add(2 * index as u64), value)?;
        }
    }
    Ok(bytes)
}

/// Reads control, status and tag words; nothing is set yet, so that a fault leaves the FPU as it was.
fn load_environment(cpu: &mut Cpu, memory: &mut Memory, op: &Op) -> Result<([u16; 3], u64), Halt> {
    let step = u64::from(op.extra);
    let mut words = [0; 7];
    for (word, at) in words.iter_mut().zip((0..).step_by(step as usize)) {
        *word = word_of(cpu, memory, op, at)?;
    }
    let words = [words[0], words[1], words[2]];
    Ok((words, 7 * step))
}

/// The pointers of an environment in memory.
fn load_pointers(cpu: &mut Cpu, memory: &mut Memory, op: &Op) -> Result<[u64; 2], Halt> {
    let step = u64::from(op.extra);
    let mut pointers = [0; 2];
    for (pointer, slot) in pointers.iter_mut().zip([3, 5]) {
        let low = u64::from(word(cpu, memory, op, slot * step)?);
        let high = if step == 4 { u64::from(word(cpu, memory, op, slot * step + 2)?) } else { 0 };
        *pointer = high << 16 | low;
    }
    Ok(pointers)
}

fn set_pointers(cpu: &mut Cpu, [fip, fdp]: [u64; 2]) {
    cpu.regs.extended.0[FIP..FIP + 8].copy_from_slice(&fip.to_le_bytes());
    cpu.regs.extended.0[FDP..FDP + 8].copy_from_slice(&fdp.to_le_bytes());
}

fn set_environment(cpu: &mut Cpu, [control, state, tags]: [u16; 3]) {
    cpu.set_x87_word(2, state);
    cpu.set_x87_tags(tags);
    cpu.set_x87_control(control);
}

fn environment_size(form: &mut Form) {
    let small = matches!(form.instruction.memory_size(), MemorySize::FpuEnv14 | MemorySize::FpuState94);
    form.op.extra = if small { 2 } else { 4 };
}

fn fldenv(form: &mut Form) -> Option<Run> {
    environment_size(form);
    Some(Run::new(|cpu, memory, op| {
        cpu.x87_ready()?;
        let (words, _) = load_environment(cpu, memory, op)?;
        let pointers = load_pointers(cpu, memory, op)?;
        set_environment(cpu, words);
        set_pointers(cpu, pointers);
        Ok(Flow::Next)
    }))
}

fn fnstenv(form: &mut Form) -> Option<Run> {
    environment_size(form);
    Some(Run::new(|cpu, memory, op| {
        cpu.x87_available()?;
        store_environment(cpu, memory, op)?;
        // Every exception is masked afterwards.
        cpu.set_x87_control(cpu.x87_control() | 0x3f);
        Ok(Flow::Next)
    }))
}

fn fnsave(form: &mut Form) -> Option<Run> {
    environment_size(form);
    Some(Run::new(|cpu, memory, op| {
        cpu.x87_available()?;
        let offset = crate::cpu::op::offset(cpu, op);
        let total = 7 * u64::from(op.extra) + 80;
        let linear = cpu.linear(op.seg(), offset, total, true)?;
        cpu.probe(memory, op.seg(), linear, total)?;
        let at = store_environment(cpu, memory, op)?;
        for index in 0..8 {
            for (byte, value) in cpu.st_bits(index).to_bytes().into_iter().enumerate() {
                let to = offset.wrapping_add(at + 10 * index as u64 + byte as u64);
                cpu.write_seg::<W8>(memory, op.seg(), to, value.into())?;
            }
        }
        cpu.x87_init();
        Ok(Flow::Next)
    }))
}

fn frstor(form: &mut Form) -> Option<Run> {
    environment_size(form);
    Some(Run::new(|cpu, memory, op| {
        cpu.x87_ready()?;
        let offset = crate::cpu::op::offset(cpu, op);
        let (words, at) = load_environment(cpu, memory, op)?;
        let mut registers = [[0; 10]; 8];
        for (index, register) in registers.iter_mut().enumerate() {
            for (byte, value) in register.iter_mut().enumerate() {
                let from = offset.wrapping_add(at + 10 * index as u64 + byte as u64);
                *value = cpu.read_seg::<W8>(memory, op.seg(), from)? as u8;
            }
        }
        let pointers = load_pointers(cpu, memory, op)?;
        set_environment(cpu, words);
        set_pointers(cpu, pointers);
        let kept = cpu.regs.extended.0[4];
        for (index, register) in registers.into_iter().enumerate() {
            cpu.set_st(index, F80::from_bytes(register));
        }
        cpu.regs.extended.0[4] = kept;
        Ok(Flow::Next)
    }))
}

fn fldcw(_: &mut Form) -> Option<Run> {
    Some(Run::new(|cpu, memory, op| {
        cpu.x87_ready()?;
        let value = word(cpu, memory, op, 0)?;
        cpu.set_x87_control(value);
        Ok(Flow::Next)
    }))
}

fn fnstcw(_: &mut Form) -> Option<Run> {
    Some(Run::new(|cpu, memory, op| {
        cpu.x87_available()?;
        let value = cpu.x87_control();
        cpu.x87_store(memory, op, 2, value.into())?;
        Ok(Flow::Next)
    }))
}

fn fnstsw(form: &mut Form) -> Option<Run> {
    Some(if form.instruction.op_kind(0) == iced_x86::OpKind::Register {
        Run::new(|cpu, _, _| {
            cpu.x87_available()?;
            let value = cpu.x87_status();
            cpu.regs.gpr[0] = cpu.regs.gpr[0] & !0xffff | u64::from(value);
            Ok(Flow::Next)
        })
    } else {
        Run::new(|cpu, memory, op| {
            cpu.x87_available()?;
            let value = cpu.x87_status();
            cpu.x87_store(memory, op, 2, value.into())?;
            Ok(Flow::Next)
        })
    })
}

fn fnclex(_: &mut Form) -> Option<Run> {
    Some(Run::new(|cpu, _, _| {
        cpu.x87_available()?;
        let cleared = 0x3f | status::STACK_FAULT | status::SUMMARY | status::BUSY;
        cpu.set_x87_status(cpu.x87_status() & !cleared);
        Ok(Flow::Next)
    }))
}

fn fninit(_: &mut Form) -> Option<Run> {
    Some(Run::new(|cpu, _, _| {
        cpu.x87_available()?;
        cpu.x87_init();
        Ok(Flow::Next)
    }))
}

/// FNENI, FNDISI and FNSETPM of older models do nothing.
fn nothing(_: &mut Form) -> Option<Run> {
    Some(Run::new(|cpu, _, _| {
        cpu.x87_available()?;
        Ok(Flow::Next)
    }))
}

fn fnop(_: &mut Form) -> Option<Run> {
    Some(Run::new(|cpu, _, _| {
        cpu.x87_ready()?;
        Ok(Flow::Next)
    }))
}

fn wait(_: &mut Form) -> Option<Run> {
    Some(Run::new(|cpu, _, _| {
        let watched = (Cr0::MP | Cr0::TS).bits();
        if cpu.cr0 & watched == watched {
            return cpu.fault(Vector::NM, None);
        }
        cpu.x87_pending()?;
        Ok(Flow::Next)
    }))
}

pub(super) fn row(i: &Instruction) -> Option<Row> {
    use Mnemonic as M;
    let build: fn(&mut Form) -> Option<Run> = match i.mnemonic() {
        M::Fldenv => fldenv,
        M::Fnstenv => fnstenv,
        M::Fnsave => fnsave,
        M::Frstor => frstor,
        M::Fldcw => fldcw,
        M::Fnstcw => fnstcw,
        M::Fnstsw => fnstsw,
        M::Fnclex => fnclex,
        M::Fninit => fninit,
        M::Fneni | M::Fndisi | M::Fnsetpm => nothing,
        M::Fnop => fnop,
        M::Wait => wait,
        _ => return None,
    };
    plain(build)
}
