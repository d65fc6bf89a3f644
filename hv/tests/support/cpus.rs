//! Kernels for several CPUs: how one starts the others, gates of an IDT, and marks.

#![allow(dead_code)] // Each test takes what it needs.

use hv_defs::event::{Event, What};
use iced_x86::code_asm::*;
use iced_x86::{Code, IcedError, Instruction, MemoryOperand};

/// What emits instructions gives.
pub(crate) type Asm = Result<(), IcedError>;

/// Where a started CPU begins, in real mode: page 1.
pub(crate) const TRAMPOLINE: u64 = 0x1000;
/// What the loader left: page tables that map 4 GiB one to one, and a GDT with flat code at 0x10 and data at 0x18.
pub(crate) const PML4: u32 = 0x9000;
pub(crate) const GDT: u32 = 0x500;

/// Bytes of the trampoline, and where in it the address is that it goes on at.
const LENGTH: u32 = 0x80;
const TARGET: u64 = 0x78;

/// Copies a trampoline from `bytes`, as [`trampoline`] gives it, to its page, and has it lead to `to` in 64-bit mode.
/// Changes RAX, RCX, RSI and RDI.
pub(crate) fn put_trampoline(a: &mut CodeAssembler, bytes: CodeLabel, to: CodeLabel) -> Asm {
    a.lea(rsi, ptr(bytes))?;
    a.mov(edi, TRAMPOLINE as u32)?;
    a.mov(ecx, LENGTH)?;
    a.rep().movsb()?;
    // The far jump's target is the only thing in it that is not known beforehand.
    a.lea(rax, ptr(to))?;
    a.mov(dword_ptr(TRAMPOLINE + TARGET), eax)
}

/// From real mode to 64-bit mode at once, by way of a far pointer at the end of it.
pub(crate) fn trampoline() -> Result<Vec<u8>, IcedError> {
    let mut a = CodeAssembler::new(16)?;
    a.cli()?;
    // LGDT with a 32-bit base.
    a.db(&[0x66, 0x0f, 0x01, 0x16, 0x70, 0x10])?;
    a.mov(eax, 0xa0u32)?;
    a.mov(cr4, eax)?;
    a.mov(eax, PML4)?;
    a.mov(cr3, eax)?;
    a.mov(ecx, 0xc000_0080u32)?;
    a.rdmsr()?;
    a.or(eax, 0x100)?;
    a.wrmsr()?;
    a.mov(eax, 0x8000_0011u32)?;
    a.mov(cr0, eax)?;
    let pointer = MemoryOperand::with_displ(TRAMPOLINE + TARGET, 2);
    a.add_instruction(Instruction::with1(Code::Jmp_m1632, pointer)?)?;
    let mut bytes = a.assemble(TRAMPOLINE)?;
    bytes.resize(0x70, 0);
    bytes.extend(31u16.to_le_bytes());
    bytes.extend(GDT.to_le_bytes());
    bytes.resize(TARGET as usize + 4, 0);
    bytes.extend(0x10u16.to_le_bytes());
    bytes.resize(LENGTH as usize, 0);
    Ok(bytes)
}

/// Makes `handler` an interrupt gate of the IDT at `idt`. Changes RAX.
pub(crate) fn gate(a: &mut CodeAssembler, idt: u64, vector: u32, handler: CodeLabel) -> Asm {
    let gate = idt + u64::from(vector) * 16;
    a.lea(rax, ptr(handler))?;
    a.mov(word_ptr(gate), ax)?;
    a.mov(dword_ptr(gate + 2), 0x8e00_0010u32 as i32)?;
    a.mov(word_ptr(gate + 4), 0x8e00u32)?;
    a.shr(rax, 16)?;
    a.mov(word_ptr(gate + 6), ax)?;
    a.mov(word_ptr(gate + 2), 0x10u32)
}

/// Marks what EAX holds. Changes RDX.
pub(crate) fn mark(a: &mut CodeAssembler) -> Asm {
    a.mov(edx, 0xe9au32)?;
    a.out(dx, eax)
}

/// The marks of a run.
pub(crate) fn marks(events: &[Event]) -> Vec<u32> {
    let marks = events.iter().filter_map(|event| if let What::Mark(mark) = event.what { Some(mark) } else { None });
    marks.collect()
}
