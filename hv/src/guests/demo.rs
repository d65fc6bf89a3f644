//! `demo`: an L1 that runs two L2s, A and B, in turn, each under a VMCS, an EPT and a VPID of its own.
//!
//! Each L2 goes three rounds. In a round it asks CPUID for the hypervisor's name, writes and sums four pages that it has
//! not touched before, prints a line, and halts with interrupts on. L1 gives it an external interrupt, but runs the
//! other L2 first; the L2's handler prints a tick. After the third tick it says goodbye with VMCALL. L1 carries out the
//! L2s' port output by its own, maps their pages as they touch them, and counts their exits.
//!
//! On paper, with the pages of an L2 numbered q = 1 to 12, four a round: L2 writes q·i + c to the i-th quadword of page
//! q, i = 0 to 511, c its letter's code. A page sums to q·(511·512/2) + 512·c = 130816·q + 512·c, so a round to
//! 130816·(sum of its q) + 2048·c. The sums of q are 10, 26 and 42; A is 65, B 66:
//!
//! | round | A | B |
//! | --- | --- | --- |
//! | 1 | 1441280 | 1443328 |
//! | 2 | 3534336 | 3536384 |
//! | 3 | 5627392 | 5629440 |
//!
//! A round's line has 36 characters and a tick's 10, so an L2 prints 3·36 + 3·10 = 138, one exit each. Exits of both
//! L2s that L1 sees: 276 for I/O, 2·3 CPUID, 2·3 HLT, 2 VMCALL, 2·12 EPT violations: 314.
//!
//! L1 changes an L2's EPT only where no translation was, which needs no INVEPT.

use super::kit::{Asm, GLOBALS};
use super::l2::{self, L2};
use super::vmx::{EPT_LEAF, Hypervisor, ept, memory, registers, vmcs as region};
use crate::boot::Loaded;
use crate::device::SERIAL_PORT;
use hv_defs::controls::EptVpidCap;
use hv_defs::exit::{InterruptionInfo, Reason};
use hv_defs::vmcs;
use hv_defs::x86::Rflags;
use iced_x86::IcedError;
use iced_x86::code_asm::*;

/// The interrupt that L1 gives its L2s.
const VECTOR: u8 = 0x41;
const ROUNDS: u32 = 3;
/// Pages that an L2 touches in a round, from this one on, which L1 maps on demand.
const FRESH: u64 = l2::PAGES;
const FRESH_PER_ROUND: u32 = 4;
/// Where an L2's memory ends.
const LAST_PAGE: u64 = 0x40;

/// The leaf of a hypervisor's name.
const NAME_LEAF: u32 = 0x4000_0000;

/// Where an L2 finds its letter.
const LETTER: u64 = l2::DATA;

/// L1's count of exits, a quadword each.
const COUNTED: [(Reason, &str); 5] = [
    (Reason::CPUID, " CPUID, "),
    (Reason::HLT, " HLT, "),
    (Reason::VMCALL, " VMCALL, "),
    (Reason::IO_INSTRUCTION, " I/O, "),
    (Reason::EPT_VIOLATION, " EPT violations\n"),
];
const TOTAL: u64 = GLOBALS + 8 * COUNTED.len() as u64;

fn counter(reason: Reason) -> u64 {
    GLOBALS + 8 * COUNTED.iter().position(|(counted, _)| *counted == reason).unwrap_or(COUNTED.len()) as u64
}

pub(super) fn build() -> Result<Loaded, IcedError> {
    let mut l1 = Hypervisor::new("demo", EptVpidCap::empty())?;
    for (number, letter) in [(0, b'A'), (1, b'B')] {
        l1.place(memory(number), l2_image(letter)?);
    }
    l1.print("demo: VMX is on\n")?;
    l1.mark(1)?;
    for number in 0..2 {
        l1.ept(number, memory(number))?;
        l1.vmcs(number, number, number as u16 + 1)?;
    }
    l1.mark(2)?;
    run_both(&mut l1)?;
    l1.mark(3)?;
    l1.turn_off(2)?;
    l1.print("demo: ")?;
    l1.mov(rax, qword_ptr(TOTAL))?;
    l1.print_decimal()?;
    l1.print(" exits: ")?;
    for (reason, text) in COUNTED {
        l1.mov(rax, qword_ptr(counter(reason)))?;
        l1.print_decimal()?;
        l1.print(text)?;
    }
    l1.print("demo: done\n")?;
    l1.exit(0)?;
    l1.finish()
}

/// EBX is the L2 that runs, R12D the set of those that have said goodbye.
fn run_both(l1: &mut Hypervisor) -> Asm {
    let [mut turn, mut again, mut switch, mut done] = core::array::from_fn(|_| l1.create_label());
    let handlers: [CodeLabel; COUNTED.len()] = core::array::from_fn(|_| l1.create_label());
    l1.xor(ebx, ebx)?;
    l1.xor(r12d, r12d)?;
    l1.set_label(&mut turn)?;
    l1.mov(eax, ebx)?;
    l1.shl(eax, 12u32)?;
    l1.add(eax, region(0) as i32)?;
    l1.load_rax()?;
    l1.set_label(&mut again)?;
    registers_of_current(l1)?;
    l1.run_rdi()?;
    l1.inc(qword_ptr(TOTAL))?;
    l1.get_field(rax, vmcs::EXIT_REASON)?;
    registers_of_current(l1)?;
    for ((reason, _), handler) in COUNTED.iter().zip(handlers) {
        l1.cmp(eax, i32::from(reason.0))?;
        l1.je(handler)?;
    }
    let unexpected = l1.unexpected();
    l1.jmp(unexpected)?;

    for ((reason, _), mut handler) in COUNTED.iter().zip(handlers) {
        l1.set_label(&mut handler)?;
        l1.inc(qword_ptr(counter(*reason)))?;
        match *reason {
            Reason::CPUID => cpuid(l1)?,
            Reason::HLT => {
                hlt(l1)?;
                l1.jmp(switch)?;
            }
            Reason::VMCALL => {
                l1.bts(r12d, ebx)?;
                l1.cmp(r12d, 3)?;
                l1.je(done)?;
                l1.jmp(switch)?;
            }
            Reason::IO_INSTRUCTION => output(l1)?,
            _ => map_page(l1)?,
        }
        l1.jmp(again)?;
    }

    // The other one's turn, unless it has gone.
    l1.set_label(&mut switch)?;
    l1.mov(eax, ebx)?;
    l1.xor(eax, 1)?;
    l1.bt(r12d, eax)?;
    l1.jc(again)?;
    l1.mov(ebx, eax)?;
    l1.jmp(turn)?;
    l1.set_label(&mut done)
}

/// RDI: the registers of the L2 that runs.
fn registers_of_current(l1: &mut Hypervisor) -> Asm {
    l1.mov(edi, ebx)?;
    l1.shl(edi, 8u32)?;
    l1.add(edi, registers(0) as i32)
}

/// CPUID: the machine's own, but for the hypervisor's name.
fn cpuid(l1: &mut Hypervisor) -> Asm {
    let [mut machine, mut store] = core::array::from_fn(|_| l1.create_label());
    l1.push(rbx)?;
    l1.mov(eax, dword_ptr(rdi))?;
    l1.mov(ecx, dword_ptr(rdi + 8))?;
    l1.cmp(eax, NAME_LEAF as i32)?;
    l1.jne(machine)?;
    l1.mov(ebx, u32::from_le_bytes(*b"nvmx"))?;
    l1.mov(ecx, u32::from_le_bytes(*b"demo"))?;
    l1.xor(edx, edx)?;
    l1.jmp(store)?;
    l1.set_label(&mut machine)?;
    l1.cpuid()?;
    l1.set_label(&mut store)?;
    l1.mov(qword_ptr(rdi), rax)?;
    l1.mov(qword_ptr(rdi + 8), rcx)?;
    l1.mov(qword_ptr(rdi + 16), rdx)?;
    l1.mov(qword_ptr(rdi + 24), rbx)?;
    l1.pop(rbx)?;
    l1.advance()
}

/// HLT with interrupts on: the L2 goes on with the interrupt that it waits for.
fn hlt(l1: &mut Hypervisor) -> Asm {
    let unexpected = l1.unexpected();
    l1.get_field(rax, vmcs::GUEST_RFLAGS)?;
    l1.test(eax, Rflags::IF.bits() as i32)?;
    l1.jz(unexpected)?;
    l1.advance()?;
    l1.set_field(vmcs::ENTRY_INTERRUPTION_INFO, InterruptionInfo::new().with_vector(VECTOR).with_valid(true))
}

/// Port output of a byte: to the serial port it is L1's, elsewhere it goes nowhere. There is no input.
fn output(l1: &mut Hypervisor) -> Asm {
    let mut skip = l1.create_label();
    let unexpected = l1.unexpected();
    // The low six bits: the size less one, input, string, repeated.
    l1.get_field(rax, vmcs::EXIT_QUALIFICATION)?;
    l1.test(al, 0x3f)?;
    l1.jnz(unexpected)?;
    l1.shr(eax, 16u32)?;
    l1.cmp(eax, i32::from(SERIAL_PORT))?;
    l1.jne(skip)?;
    l1.mov(eax, dword_ptr(rdi))?;
    l1.print_al()?;
    l1.set_label(&mut skip)?;
    l1.advance()
}

/// An EPT violation: the L2 touches a page of its memory for the first time.
fn map_page(l1: &mut Hypervisor) -> Asm {
    let unexpected = l1.unexpected();
    l1.get_field(rcx, vmcs::GUEST_PHYSICAL_ADDRESS)?;
    l1.shr(rcx, 12u32)?;
    l1.cmp(rcx, LAST_PAGE as i32)?;
    l1.jae(unexpected)?;
    l1.mov(eax, ebx)?;
    l1.shl(eax, (memory(1) - memory(0)).ilog2())?;
    l1.mov(esi, ecx)?;
    l1.shl(esi, 12u32)?;
    l1.lea(rsi, qword_ptr(rax + rsi + (memory(0) + EPT_LEAF) as i32))?;
    l1.mov(eax, ebx)?;
    l1.shl(eax, (ept(1) - ept(0)).ilog2())?;
    l1.mov(qword_ptr(rax + rcx * 8 + (ept(0) + 0x3000) as i32), rsi)
}

/// The L2 of a letter. R12D counts rounds, R13 is the next fresh page, R14 its number, R15 the sum, RBX the letter.
fn l2_image(letter: u8) -> Result<Vec<u8>, IcedError> {
    let mut l2 = L2::new()?;
    l2.place(LETTER, u64::from(letter));
    let [mut putc, mut puts, mut put_decimal, mut tick] = core::array::from_fn(|_| l2.create_label());
    let [mut round, mut page, mut word] = core::array::from_fn(|_| l2.create_label());
    let mut texts = Vec::new();
    let mut text = |l2: &mut L2, text: &str| {
        let label = l2.create_label();
        texts.push((label, format!("{text}\0")));
        label
    };
    let (round_text, on_text, sum_text, end_text, tick_text) = (
        text(&mut l2, ": round "),
        text(&mut l2, " on "),
        text(&mut l2, ", sum "),
        text(&mut l2, "\n"),
        text(&mut l2, ": tick "),
    );

    l2.mov(ebx, dword_ptr(LETTER))?;
    l2.mov(r12d, 1u32)?;
    l2.mov(r13d, (FRESH << 12) as u32)?;
    l2.mov(r14d, 1u32)?;
    l2.set_label(&mut round)?;
    l2.mov(eax, ebx)?;
    l2.call(putc)?;
    l2.lea(rsi, ptr(round_text))?;
    l2.call(puts)?;
    l2.mov(eax, r12d)?;
    l2.call(put_decimal)?;
    l2.lea(rsi, ptr(on_text))?;
    l2.call(puts)?;
    // The name, by way of the stack.
    l2.mov(eax, NAME_LEAF)?;
    l2.xor(ecx, ecx)?;
    l2.push(rbx)?;
    l2.cpuid()?;
    l2.mov(edi, ebx)?;
    l2.pop(rbx)?;
    l2.sub(rsp, 16)?;
    l2.mov(dword_ptr(rsp), edi)?;
    l2.mov(dword_ptr(rsp + 4), ecx)?;
    l2.mov(dword_ptr(rsp + 8), edx)?;
    l2.mov(dword_ptr(rsp + 12), 0)?;
    l2.mov(rsi, rsp)?;
    l2.call(puts)?;
    l2.add(rsp, 16)?;
    // The pages.
    l2.xor(r15d, r15d)?;
    l2.mov(r8d, FRESH_PER_ROUND)?;
    l2.set_label(&mut page)?;
    l2.mov(rax, rbx)?;
    l2.xor(ecx, ecx)?;
    l2.set_label(&mut word)?;
    l2.mov(qword_ptr(r13 + rcx * 8), rax)?;
    l2.add(r15, qword_ptr(r13 + rcx * 8))?;
    l2.add(rax, r14)?;
    l2.inc(ecx)?;
    l2.cmp(ecx, 512)?;
    l2.jb(word)?;
    l2.add(r13, 0x1000)?;
    l2.inc(r14)?;
    l2.dec(r8d)?;
    l2.jnz(page)?;
    l2.lea(rsi, ptr(sum_text))?;
    l2.call(puts)?;
    l2.mov(rax, r15)?;
    l2.call(put_decimal)?;
    l2.lea(rsi, ptr(end_text))?;
    l2.call(puts)?;
    // The interrupt that STI lets in comes only once HLT waits for it.
    l2.sti()?;
    l2.hlt()?;
    l2.cli()?;
    l2.inc(r12d)?;
    l2.cmp(r12d, ROUNDS as i32)?;
    l2.jbe(round)?;
    l2.vmcall()?;
    l2.hlt()?;

    l2.handler(usize::from(VECTOR))?;
    for register in [rax, rcx, rdx, rsi, rdi] {
        l2.push(register)?;
    }
    l2.call(tick)?;
    for register in [rdi, rsi, rdx, rcx, rax] {
        l2.pop(register)?;
    }
    l2.iretq()?;

    l2.set_label(&mut tick)?;
    l2.mov(eax, ebx)?;
    l2.call(putc)?;
    l2.lea(rsi, ptr(tick_text))?;
    l2.call(puts)?;
    l2.mov(eax, r12d)?;
    l2.call(put_decimal)?;
    l2.lea(rsi, ptr(end_text))?;
    l2.jmp(puts)?;

    l2.set_label(&mut putc)?;
    l2.mov(edx, u32::from(SERIAL_PORT))?;
    l2.out(dx, al)?;
    l2.ret()?;

    let mut end = l2.create_label();
    l2.set_label(&mut puts)?;
    l2.lodsb()?;
    l2.test(al, al)?;
    l2.jz(end)?;
    l2.call(putc)?;
    l2.jmp(puts)?;
    l2.set_label(&mut end)?;
    l2.ret()?;

    let [mut divide, mut show] = core::array::from_fn(|_| l2.create_label());
    l2.set_label(&mut put_decimal)?;
    l2.xor(ecx, ecx)?;
    l2.mov(edi, 10u32)?;
    l2.set_label(&mut divide)?;
    l2.xor(edx, edx)?;
    l2.div(rdi)?;
    l2.push(rdx)?;
    l2.inc(ecx)?;
    l2.test(rax, rax)?;
    l2.jnz(divide)?;
    l2.set_label(&mut show)?;
    l2.pop(rax)?;
    l2.add(eax, i32::from(b'0'))?;
    l2.call(putc)?;
    l2.dec(ecx)?;
    l2.jnz(show)?;
    l2.ret()?;

    for (mut label, text) in texts {
        l2.set_label(&mut label)?;
        l2.db(text.as_bytes())?;
    }
    l2.finish()
}
