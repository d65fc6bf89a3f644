//! IN, OUT, INS and OUTS. There is no bus here: what is not intercepted reads all ones and writes nothing.

use crate::cpu::decode::Form;
use crate::cpu::op::{Flow, Op, Run, W8, W16, W32, W64, Width};
use crate::cpu::state::{Cpu, Halt};
use crate::memory::Memory;
use crate::vmx::exit::ExitInfo;
use hv_defs::exit::{IoAccess, Reason};
use hv_defs::x86::{Rflags, Seg};

impl Cpu {
    /// #GP unless the I/O privilege level or the task's permission bitmap allow the ports.
    fn io_allowed(&mut self, memory: &mut Memory, port: u16, size: u64) -> Result<(), Halt> {
        if !self.protected() || self.cpl() <= self.iopl() && !self.v86() {
            return Ok(());
        }
        // Only a 32- or 64-bit TSS has a bitmap; the two bytes at 102 say where, and two bytes of it are always read.
        let limit = u64::from(self.tr.limit);
        if self.tr.rights.unusable() || self.tr.rights.kind() & 8 == 0 || limit < 103 {
            return self.gp();
        }
        let base = self.tr.base;
        let bitmap = self.load_system(memory, base.wrapping_add(102), 2)?;
        let at = bitmap + u64::from(port / 8);
        if at + 1 > limit {
            return self.gp();
        }
        let bits = self.load_system(memory, base.wrapping_add(at), 2)? >> (port % 8);
        if bits & ((1 << size) - 1) != 0 { self.gp() } else { Ok(()) }
    }
}

/// IN (`INPUT`) and OUT: the port is DX (`extra` 1) or the immediate.
fn port_op<const INPUT: bool, W: Width>(cpu: &mut Cpu, memory: &mut Memory, op: &Op) -> Result<Flow, Halt> {
    let by_register = op.extra != 0;
    let port = if by_register { cpu.regs.gpr[2] as u16 } else { (op.imm & 0xff) as u16 };
    cpu.io_allowed(memory, port, W::BYTES)?;
    if cpu.controls.exits_on_io(memory, port, W::BYTES as u8) {
        let access = IoAccess::new()
            .with_size_less_one(W::BYTES as u8 - 1)
            .with_input(INPUT)
            .with_immediate(!by_register)
            .with_port(port);
        return cpu.exit_with(op, Reason::IO_INSTRUCTION, access.into(), 0);
    }
    cpu.note_port(port, W::BYTES);
    if INPUT {
        W::set(cpu, 0, W::MASK);
    }
    cpu.checked(op)
}

fn pick_width<const INPUT: bool>(width: u32) -> Run {
    match width {
        1 => Run::new(port_op::<INPUT, W8>),
        2 => Run::new(port_op::<INPUT, W16>),
        _ => Run::new(port_op::<INPUT, W32>),
    }
}

pub(in crate::cpu) fn input(form: &mut Form) -> Option<Run> {
    form.op.extra = u32::from(form.kind(1) == iced_x86::OpKind::Register);
    Some(pick_width::<true>(form.size(0)))
}

pub(in crate::cpu) fn output(form: &mut Form) -> Option<Run> {
    form.op.extra = u32::from(form.kind(0) == iced_x86::OpKind::Register);
    Some(pick_width::<false>(form.size(1)))
}

/// INS and OUTS. `extra` is the repeat prefix. The segment and the linear address are checked before the exit.
fn string_op<const INPUT: bool, W: Width, A: Width>(cpu: &mut Cpu, memory: &mut Memory, op: &Op) -> Result<Flow, Halt> {
    let port = cpu.regs.gpr[2] as u16;
    cpu.io_allowed(memory, port, W::BYTES)?;
    let (register, seg) = if INPUT { (7, Seg::Es) } else { (6, op.seg()) };
    let repeated = op.extra != 0;
    if cpu.controls.exits_on_io(memory, port, W::BYTES as u8) {
        if repeated && A::get(cpu, 1) == 0 {
            return cpu.checked(op);
        }
        let offset = A::get(cpu, register);
        let gla = cpu.linear(seg, offset, W::BYTES, INPUT)?;
        let access = IoAccess::new()
            .with_size_less_one(W::BYTES as u8 - 1)
            .with_input(INPUT)
            .with_string(true)
            .with_rep(repeated)
            .with_port(port);
        let size = match A::BITS {
            16 => 0,
            32 => 1,
            _ => 2u32,
        };
        return cpu.exit(ExitInfo {
            qualification: access.into(),
            instruction_info: size << 7 | (seg as u32) << 15,
            gla,
            ..ExitInfo::instruction(Reason::IO_INSTRUCTION, u32::from(op.len))
        });
    }
    cpu.note_port(port, W::BYTES);
    let step = if cpu.flags.has(Rflags::DF) { W::BYTES.wrapping_neg() } else { W::BYTES };
    loop {
        if repeated && A::get(cpu, 1) == 0 {
            return cpu.checked(op);
        }
        let offset = A::get(cpu, register);
        if INPUT {
            cpu.write_seg::<W>(memory, seg, offset, W::MASK)?;
        } else {
            cpu.read_seg::<W>(memory, seg, offset)?;
        }
        A::set(cpu, register, offset.wrapping_add(step) & A::MASK);
        if !repeated {
            return cpu.checked(op);
        }
        let count = A::get(cpu, 1).wrapping_sub(1) & A::MASK;
        A::set(cpu, 1, count);
    }
}

fn string_io<const INPUT: bool>(form: &mut Form) -> Option<Run> {
    let i = form.instruction;
    form.op.extra = u32::from(i.has_rep_prefix() || i.has_repne_prefix());
    form.op.seg = crate::cpu::decode::number(i.memory_segment());
    let width = match i.mnemonic() {
        iced_x86::Mnemonic::Insb | iced_x86::Mnemonic::Outsb => 1,
        iced_x86::Mnemonic::Insw | iced_x86::Mnemonic::Outsw => 2,
        _ => 4,
    };
    Some(match (form.address_size(), width) {
        (2, 1) => Run::new(string_op::<INPUT, W8, W16>),
        (2, 2) => Run::new(string_op::<INPUT, W16, W16>),
        (2, _) => Run::new(string_op::<INPUT, W32, W16>),
        (4, 1) => Run::new(string_op::<INPUT, W8, W32>),
        (4, 2) => Run::new(string_op::<INPUT, W16, W32>),
        (4, _) => Run::new(string_op::<INPUT, W32, W32>),
        (_, 1) => Run::new(string_op::<INPUT, W8, W64>),
        (_, 2) => Run::new(string_op::<INPUT, W16, W64>),
        _ => Run::new(string_op::<INPUT, W32, W64>),
    })
}

pub(in crate::cpu) fn ins(form: &mut Form) -> Option<Run> {
    string_io::<true>(form)
}

pub(in crate::cpu) fn outs(form: &mut Form) -> Option<Run> {
    string_io::<false>(form)
}
