//! What the L1 of every built-in guest is made of: a 64-bit entry with identity-mapped memory, descriptor tables and a
//! stack, printing on the serial port, marks, and the ways to end.
//!
//! Registers: the helpers here may change RAX, RCX, RDX, RSI, RDI and R8 to R11; a guest keeps what it needs in RBX, RBP
//! and R12 to R15.

use crate::boot::Loaded;
use crate::device::{DEBUG_EXIT_PORT, MARK_PORT, SERIAL_PORT};
use crate::l0::Start;
use core::ops::{Deref, DerefMut};
use hv_defs::addr::Gpa;
use iced_x86::code_asm::*;
use iced_x86::{BlockEncoderOptions, IcedError};

/// What every assembling function gives.
pub(super) type Asm = Result<(), IcedError>;

// Where things lie in L1's memory.
pub(super) const PML4: u64 = 0x1000;
const PDPT: u64 = 0x2000;
pub(super) const PD: u64 = 0x3000;
pub(super) const GDT: u64 = 0x4000;
pub(super) const IDT: u64 = 0x5000;
pub(super) const TSS: u64 = 0x6000;
const STACK_TOP: u64 = 0x9000;
/// A page for variables: the first half is the guest's, the second [`super::vmx`]'s.
pub(super) const GLOBALS: u64 = 0xb000;
const CODE: u64 = 0x10_0000;

/// Where the operands of LGDT and LIDT lie, behind the GDT.
const GDTR: u64 = GDT + GDT_LIMIT as u64 + 1;
pub(super) const IDTR: u64 = GDTR + 16;

// Selectors and limits, of L1's tables and L2's alike.
pub(super) const CODE_SELECTOR: u16 = 0x10;
pub(super) const DATA_SELECTOR: u16 = 0x18;
pub(super) const TSS_SELECTOR: u16 = 0x20;
pub(super) const GDT_LIMIT: u16 = 0x2f;
pub(super) const IDT_LIMIT: u16 = 0xfff;
pub(super) const TSS_LIMIT: u32 = 0x67;

const CODE_DESCRIPTOR: u64 = 0x00af_9b00_0000_ffff;
const DATA_DESCRIPTOR: u64 = 0x00cf_9300_0000_ffff;

/// What a guest that found something wrong gives isa-debug-exit.
const FAILED: u8 = 0x3f;

/// Exceptions that push an error code.
const WITH_ERROR_CODE: [u8; 8] = [8, 10, 11, 12, 13, 14, 17, 21];

/// The assembler of an L1, the data behind its code and its routines.
pub(super) struct Kit {
    asm: CodeAssembler,
    data: Vec<(CodeLabel, Vec<u8>)>,
    memory: Vec<(Gpa, Vec<u8>)>,
    putc: CodeLabel,
    puts: CodeLabel,
    put_hex: CodeLabel,
    put_decimal: CodeLabel,
    stop: CodeLabel,
}

impl Deref for Kit {
    type Target = CodeAssembler;

    fn deref(&self) -> &CodeAssembler {
        &self.asm
    }
}

impl DerefMut for Kit {
    fn deref_mut(&mut self) -> &mut CodeAssembler {
        &mut self.asm
    }
}

impl Kit {
    /// An L1 that has set up its stack and tables and goes on with what is assembled next.
    pub(super) fn new() -> Result<Self, IcedError> {
        let mut asm = CodeAssembler::new(64)?;
        let [putc, puts, put_hex, put_decimal, stop] = core::array::from_fn(|_| asm.create_label());
        let (data, memory) = (Vec::new(), Vec::new());
        let mut kit = Self { asm, data, memory, putc, puts, put_hex, put_decimal, stop };
        kit.entry()?;
        Ok(kit)
    }

    fn entry(&mut self) -> Asm {
        self.mov(rsp, STACK_TOP)?;
        self.cld()?;
        self.lgdt(tbyte_ptr(GDTR))?;
        self.lidt(tbyte_ptr(IDTR))?;
        self.mov(eax, u32::from(DATA_SELECTOR))?;
        for segment in [ds, es, ss, fs, gs] {
            self.mov(segment, eax)?;
        }
        // CS, by a far return.
        let mut there = self.create_label();
        self.push(i32::from(CODE_SELECTOR))?;
        self.lea(rax, ptr(there))?;
        self.push(rax)?;
        self.retf()?;
        self.set_label(&mut there)?;
        self.mov(eax, u32::from(TSS_SELECTOR))?;
        self.ltr(ax)
    }

    /// Bytes that lie in L1's memory from the start.
    pub(super) fn place(&mut self, at: u64, bytes: Vec<u8>) {
        self.memory.push((Gpa(at), bytes));
    }

    /// Bytes that lie behind the code.
    pub(super) fn data(&mut self, bytes: Vec<u8>) -> CodeLabel {
        let label = self.create_label();
        self.data.push((label, bytes));
        label
    }

    /// Prints a text.
    pub(super) fn print(&mut self, text: &str) -> Asm {
        let (text, puts) = (self.data(text.bytes().chain([0]).collect()), self.puts);
        self.lea(rsi, ptr(text))?;
        self.call(puts)
    }

    /// Prints AL.
    pub(super) fn print_al(&mut self) -> Asm {
        let putc = self.putc;
        self.call(putc)
    }

    /// Prints RAX in decimal.
    pub(super) fn print_decimal(&mut self) -> Asm {
        let routine = self.put_decimal;
        self.call(routine)
    }

    /// Prints RAX in hexadecimal.
    pub(super) fn print_hex(&mut self) -> Asm {
        let routine = self.put_hex;
        self.call(routine)
    }

    /// Sets a phase marker.
    pub(super) fn mark(&mut self, number: u32) -> Asm {
        self.mov(eax, number)?;
        self.mov(edx, u32::from(MARK_PORT))?;
        self.out(dx, eax)
    }

    /// Ends the run with a value for isa-debug-exit.
    pub(super) fn exit(&mut self, value: u8) -> Asm {
        let stop = self.stop;
        self.mov(eax, u32::from(value))?;
        self.jmp(stop)
    }

    /// Prints a text and ends the run as failed.
    pub(super) fn fail(&mut self, text: &str) -> Asm {
        self.print(text)?;
        self.exit(FAILED)
    }

    /// Waits until the transmitter takes a byte, and gives it AL.
    fn putc_routine(&mut self) -> Asm {
        let (mut label, mut wait) = (self.putc, self.create_label());
        self.set_label(&mut label)?;
        self.mov(r8d, eax)?;
        self.mov(edx, u32::from(SERIAL_PORT) + 5)?;
        self.set_label(&mut wait)?;
        self.in_(al, dx)?;
        self.test(al, 0x20)?;
        self.jz(wait)?;
        self.mov(eax, r8d)?;
        self.mov(edx, u32::from(SERIAL_PORT))?;
        self.out(dx, al)?;
        self.ret()
    }

    /// Prints the text at RSI, which a zero ends.
    fn puts_routine(&mut self) -> Asm {
        let (mut label, putc) = (self.puts, self.putc);
        let mut done = self.create_label();
        self.set_label(&mut label)?;
        self.lodsb()?;
        self.test(al, al)?;
        self.jz(done)?;
        self.call(putc)?;
        self.jmp(label)?;
        self.set_label(&mut done)?;
        self.ret()
    }

    /// Prints RAX in base `base`, its digits by way of the stack.
    fn number_routine(&mut self, mut label: CodeLabel, base: u32) -> Asm {
        let putc = self.putc;
        let [mut divide, mut show, mut decimal] = core::array::from_fn(|_| self.create_label());
        self.set_label(&mut label)?;
        self.xor(ecx, ecx)?;
        self.mov(edi, base)?;
        self.set_label(&mut divide)?;
        self.xor(edx, edx)?;
        self.div(rdi)?;
        self.push(rdx)?;
        self.inc(ecx)?;
        self.test(rax, rax)?;
        self.jnz(divide)?;
        self.set_label(&mut show)?;
        self.pop(rax)?;
        self.cmp(eax, 10)?;
        self.jb(decimal)?;
        self.add(eax, i32::from(b'a' - b'0' - 10))?;
        self.set_label(&mut decimal)?;
        self.add(eax, i32::from(b'0'))?;
        self.call(putc)?;
        self.dec(ecx)?;
        self.jnz(show)?;
        self.ret()
    }

    /// Leaves through isa-debug-exit with AL; where there is none, waits for ever.
    fn stop_routine(&mut self) -> Asm {
        let (mut label, mut halt) = (self.stop, self.create_label());
        self.set_label(&mut label)?;
        self.mov(edx, u32::from(DEBUG_EXIT_PORT))?;
        self.out(dx, al)?;
        self.set_label(&mut halt)?;
        self.cli()?;
        self.hlt()?;
        self.jmp(halt)
    }

    /// A handler for each exception, which tells what happened and ends the run.
    fn exceptions(&mut self) -> Result<Vec<CodeLabel>, IcedError> {
        let (mut common, mut stubs) = (self.create_label(), Vec::new());
        for vector in 0..32u8 {
            let mut stub = self.create_label();
            self.set_label(&mut stub)?;
            stubs.push(stub);
            if !WITH_ERROR_CODE.contains(&vector) {
                self.push(0)?;
            }
            self.push(i32::from(vector))?;
            self.jmp(common)?;
        }
        self.set_label(&mut common)?;
        self.print("unexpected exception ")?;
        self.pop(rax)?;
        self.print_decimal()?;
        self.print(", error code 0x")?;
        self.pop(rax)?;
        self.print_hex()?;
        self.print(", at 0x")?;
        self.pop(rax)?;
        self.print_hex()?;
        self.fail("\n")?;
        Ok(stubs)
    }

    /// Assembles all of it.
    pub(super) fn finish(mut self) -> Result<Loaded, IcedError> {
        self.putc_routine()?;
        self.puts_routine()?;
        self.number_routine(self.put_hex, 16)?;
        self.number_routine(self.put_decimal, 10)?;
        self.stop_routine()?;
        let stubs = self.exceptions()?;
        for (mut label, bytes) in core::mem::take(&mut self.data) {
            self.set_label(&mut label)?;
            self.db(&bytes)?;
        }
        let code = self.asm.assemble_options(CODE, BlockEncoderOptions::RETURN_NEW_INSTRUCTION_OFFSETS)?;
        let mut handlers = Vec::new();
        for (vector, stub) in stubs.iter().enumerate() {
            handlers.push((vector, code.label_ip(stub)?));
        }
        let mut memory = self.memory;
        memory.push((Gpa(PML4), words(&[PDPT | 3])));
        memory.push((Gpa(PDPT), words(&[PD | 3])));
        memory.push((Gpa(PD), words(&core::array::from_fn::<u64, 512, _>(|index| (index as u64) << 21 | 0x83))));
        memory.push((Gpa(GDT), gdt(TSS)));
        memory.push((Gpa(GDTR), table_operand(GDT, GDT_LIMIT)));
        memory.push((Gpa(IDT), idt(&handlers)));
        memory.push((Gpa(IDTR), table_operand(IDT, IDT_LIMIT)));
        memory.push((Gpa(CODE), code.inner.code_buffer));
        Ok(Loaded { memory, start: Start::long_mode(CODE, STACK_TOP, PML4, (GDT, GDT_LIMIT)), items: Vec::new() })
    }
}

/// Quadwords as they lie in memory.
pub(super) fn words(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// LGDT's and LIDT's operand.
fn table_operand(base: u64, limit: u16) -> Vec<u8> {
    limit.to_le_bytes().into_iter().chain(base.to_le_bytes()).collect()
}

/// A GDT with code, data and a task-state segment.
pub(super) fn gdt(tss: u64) -> Vec<u8> {
    let tss_low = u64::from(TSS_LIMIT) | (tss & 0xff_ffff) << 16 | 0x89 << 40 | (tss >> 24 & 0xff) << 56;
    words(&[0, 0, CODE_DESCRIPTOR, DATA_DESCRIPTOR, tss_low, tss >> 32])
}

/// An IDT of 256 interrupt gates to the code segment, of which those named are present.
pub(super) fn idt(handlers: &[(usize, u64)]) -> Vec<u8> {
    let mut gates = vec![0u64; 512];
    for (vector, handler) in handlers {
        let low = handler & 0xffff | u64::from(CODE_SELECTOR) << 16 | 0x8e << 40 | (handler >> 16 & 0xffff) << 48;
        (gates[vector * 2], gates[vector * 2 + 1]) = (low, handler >> 32);
    }
    words(&gates)
}
