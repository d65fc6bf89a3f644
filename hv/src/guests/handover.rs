//! `handover`: an L1 on two CPUs, which enter and leave VMX operation in turn, so that a VPID of L0's that one has given up
//! is the other's next. It takes two CPUs (`--cpus 2`); with one it says so.
//!
//! Each CPU has an L2 of its own, under VPID 1, without EPT, whose page tables map [`DATA`] to a page that holds 1111 for
//! the first CPU's and 2222 for the second's. A CPU that is on has its L2 read that quadword and give it to L1 by VMCALL.
//! Eight steps, [`ROUNDS`] times, one CPU at a time:
//!
//! | step | CPU | does |
//! | --- | --- | --- |
//! | 0, 1 | first, second | enters VMX operation and runs its L2 |
//! | 2, 3 | first, second | runs its L2 once more and leaves VMX operation |
//! | 4, 5 | second, first | enters VMX operation and runs its L2 |
//! | 6, 7 | second, first | runs its L2 once more and leaves VMX operation |
//!
//! What its L2 reads is each one's own, for a logical CPU's VPIDs are its own too: nobody has to flush.
//! See: SDM "Virtual Processor Identifiers (VPIDs)".

use super::kit::{Asm, CODE_SELECTOR, DATA_SELECTOR, GDT, GLOBALS, IDTR, PML4 as L1_PML4, TSS_SELECTOR};
use super::l2::{self, DATA, L2};
use super::vmx::{Hypervisor, POINTER, REVISION, launched, memory, registers, vmcs as region};
use crate::boot::Loaded;
use hv_defs::controls::{EptVpidCap, SecondaryControls};
use hv_defs::exit::Reason;
use hv_defs::vmcs;
use hv_defs::x86::{Cr4, msr};
use iced_x86::code_asm::*;
use iced_x86::{Code, IcedError, Instruction, MemoryOperand};

const ROUNDS: u32 = 32;

// The CPUs' turn, whether the second is there, and how much was not true.
const TURN: u64 = GLOBALS;
const ONLINE: u64 = GLOBALS + 8;
const WRONG: u64 = GLOBALS + 16;

/// Where the second CPU begins, and what it has of its own.
const TRAMPOLINE: u64 = 0xd000;
const STACK_TOP: u64 = 0xf000;
const VMXON: [u64; 2] = [0xa000, 0xc000];

// Pages of an L2's memory.
const PML4: u64 = 0x1_1000;
const PDPT: u64 = 0x1_2000;
const PD: u64 = 0x1_3000;
const PT: u64 = 0x1_4000;

const X2APIC_ICR: u32 = 0x830;

pub(super) fn build() -> Result<Loaded, IcedError> {
    let mut l1 = Hypervisor::new("handover", EptVpidCap::empty())?;
    for (number, value) in [(0, 1111), (1, 2222)] {
        l1.place(memory(number), l2_image(memory(number), value)?);
        l1.vmcs(number, 0, 1)?;
        l1.set_field(vmcs::SECONDARY_CONTROLS, SecondaryControls::VPID)?;
        l1.set_field(vmcs::GUEST_CR3, memory(number) + PML4)?;
    }
    l1.turn_off(2)?;
    l1.mov(eax, dword_ptr(REVISION))?;
    l1.mov(dword_ptr(VMXON[1]), eax)?;
    l1.place(TRAMPOLINE, trampoline()?);
    let [mut second, mut there, mut waits] = core::array::from_fn(|_| l1.create_label());
    l1.lea(rax, ptr(second))?;
    l1.mov(dword_ptr(TRAMPOLINE + 0x78), eax)?;
    start_others(&mut l1)?;
    l1.mov(ebx, 100_000u32)?;
    l1.set_label(&mut waits)?;
    l1.cmp(dword_ptr(ONLINE), 0)?;
    l1.jne(there)?;
    l1.pause()?;
    l1.dec(ebx)?;
    l1.jnz(waits)?;
    l1.print("handover: there is no second CPU\n")?;
    l1.exit(0)?;

    l1.set_label(&mut there)?;
    rounds(&mut l1, 0, [0, 2, 5, 7])?;
    let mut good = l1.create_label();
    l1.mov(rax, qword_ptr(WRONG))?;
    l1.test(rax, rax)?;
    l1.jz(good)?;
    l1.print("handover: not true: ")?;
    l1.mov(rax, qword_ptr(WRONG))?;
    l1.print_decimal()?;
    l1.print("\n")?;
    l1.exit(1)?;
    l1.set_label(&mut good)?;
    l1.print("handover: all true\n")?;
    l1.exit(0)?;

    l1.set_label(&mut second)?;
    set_up_second(&mut l1)?;
    l1.mov(dword_ptr(ONLINE), 1)?;
    rounds(&mut l1, 1, [1, 3, 4, 6])?;
    let mut idle = l1.create_label();
    l1.set_label(&mut idle)?;
    l1.cli()?;
    l1.hlt()?;
    l1.jmp(idle)?;
    l1.finish()
}

/// INIT and start-up IPIs to all others, by the x2APIC. See: SDM "Typical BSP Initialization Sequence".
fn start_others(l1: &mut Hypervisor) -> Asm {
    l1.mov(eax, 1u32)?;
    l1.cpuid()?;
    l1.test(ecx, 1u32 << 21)?;
    l1.need("x2APIC")?;
    l1.mov(ecx, msr::APIC_BASE)?;
    l1.rdmsr()?;
    l1.or(eax, 0x400)?;
    l1.wrmsr()?;
    for command in [0xc_4500, 0xc_4600 | TRAMPOLINE as u32 >> 12, 0xc_4600 | TRAMPOLINE as u32 >> 12] {
        l1.mov(eax, command)?;
        l1.xor(edx, edx)?;
        l1.mov(ecx, X2APIC_ICR)?;
        l1.wrmsr()?;
    }
    Ok(())
}

/// What the first CPU has done for itself: segments, descriptor tables, and the registers that VMX operation fixes.
fn set_up_second(l1: &mut Hypervisor) -> Asm {
    let mut locked = l1.create_label();
    l1.mov(eax, u32::from(DATA_SELECTOR))?;
    for segment in [ds, es, ss, fs, gs] {
        l1.mov(segment, eax)?;
    }
    l1.mov(rsp, STACK_TOP)?;
    l1.lidt(tbyte_ptr(IDTR))?;
    // The first has made the task-state segment busy.
    l1.mov(byte_ptr(GDT + u64::from(TSS_SELECTOR) + 5), 0x89)?;
    l1.mov(eax, u32::from(TSS_SELECTOR))?;
    l1.ltr(ax)?;
    l1.mov(ecx, msr::FEATURE_CONTROL)?;
    l1.rdmsr()?;
    l1.test(al, 1)?;
    l1.jnz(locked)?;
    l1.or(eax, 5)?;
    l1.wrmsr()?;
    l1.set_label(&mut locked)?;
    l1.mov(rax, cr4)?;
    l1.or(eax, Cr4::VMXE.bits() as i32)?;
    l1.mov(cr4, rax)
}

/// A CPU's part: it enters VMX operation in the first and the third of these steps, and leaves it in the others.
fn rounds(l1: &mut Hypervisor, number: u64, steps: [u32; 4]) -> Asm {
    let mut again = l1.create_label();
    l1.mov(r13d, ROUNDS)?;
    l1.set_label(&mut again)?;
    l1.nop()?;
    for (step, enters) in steps.into_iter().zip([true, false, true, false]) {
        let mut waits = l1.create_label();
        let mut mine = l1.create_label();
        l1.set_label(&mut waits)?;
        l1.cmp(dword_ptr(TURN), step as i32)?;
        l1.je(mine)?;
        l1.pause()?;
        l1.jmp(waits)?;
        l1.set_label(&mut mine)?;
        if enters {
            enter(l1, number)?
        } else {
            leave(l1, number)?
        }
        l1.mov(dword_ptr(TURN), (step as i32 + 1) % 8)?;
    }
    l1.dec(r13d)?;
    l1.jnz(again)
}

fn enter(l1: &mut Hypervisor, number: u64) -> Asm {
    let failed = l1.failed();
    l1.mov(qword_ptr(POINTER), VMXON[number as usize] as i32)?;
    l1.vmxon(qword_ptr(POINTER))?;
    l1.jbe(failed)?;
    l1.mov(rax, region(number))?;
    l1.load_rax()?;
    l1.mov(byte_ptr(launched(number)), 0)?;
    reads(l1, number)
}

/// Runs a CPU's L2, which must read its own.
fn reads(l1: &mut Hypervisor, number: u64) -> Asm {
    let mut good = l1.create_label();
    let expected = [1111, 2222][number as usize];
    l1.run_until(number, Reason::VMCALL)?;
    l1.advance()?;
    l1.mov(rax, qword_ptr(registers(number)))?;
    l1.cmp(rax, expected)?;
    l1.je(good)?;
    l1.inc(qword_ptr(WRONG))?;
    l1.print(&format!("handover: L2 of CPU {number} reads "))?;
    l1.mov(rax, qword_ptr(registers(number)))?;
    l1.print_decimal()?;
    l1.print(&format!(", not {expected}\n"))?;
    l1.set_label(&mut good)?;
    l1.nop()
}

fn leave(l1: &mut Hypervisor, number: u64) -> Asm {
    let failed = l1.failed();
    reads(l1, number)?;
    l1.mov(qword_ptr(POINTER), region(number) as i32)?;
    l1.vmclear(qword_ptr(POINTER))?;
    l1.jbe(failed)?;
    l1.vmxoff()?;
    l1.jbe(failed)
}

/// From real mode to 64-bit mode at once, by way of a far pointer at 0x78 of the page.
fn trampoline() -> Result<Vec<u8>, IcedError> {
    let mut a = CodeAssembler::new(16)?;
    let operand = (TRAMPOLINE + 0x70) as u16;
    a.cli()?;
    // LGDT with a 32-bit base.
    let [low, high] = operand.to_le_bytes();
    a.db(&[0x66, 0x0f, 0x01, 0x16, low, high])?;
    a.mov(eax, Cr4::PAE.bits() as u32)?;
    a.mov(cr4, eax)?;
    a.mov(eax, L1_PML4 as u32)?;
    a.mov(cr3, eax)?;
    a.mov(ecx, msr::EFER)?;
    a.rdmsr()?;
    a.or(eax, 0x100)?;
    a.wrmsr()?;
    // PE, MP, ET, NE, PG.
    a.mov(eax, 0x8000_0033u32)?;
    a.mov(cr0, eax)?;
    let pointer = MemoryOperand::with_displ(TRAMPOLINE + 0x78, 2);
    a.add_instruction(Instruction::with1(Code::Jmp_m1632, pointer)?)?;
    let mut bytes = a.assemble(TRAMPOLINE)?;
    assert!(bytes.len() <= 0x70, "the operands come behind the code");
    bytes.resize(0x70, 0);
    bytes.extend(0xffu16.to_le_bytes());
    bytes.extend((GDT as u32).to_le_bytes());
    bytes.resize(0x7c, 0);
    bytes.extend(CODE_SELECTOR.to_le_bytes());
    Ok(bytes)
}

/// An L2 in L1's memory at `base`, with page tables that name L1's addresses: its code, and the page with its value.
fn l2_image(base: u64, value: u64) -> Result<Vec<u8>, IcedError> {
    let mut l2 = L2::new()?;
    for (at, entry) in [(PML4, PDPT), (PDPT, PD), (PD, PT)] {
        l2.place(at, (base + entry) | 3);
    }
    for page in [l2::ENTRY, DATA] {
        l2.place(PT + (page >> 12) * 8, (base + page) | 3);
    }
    l2.place(PT + 0xff8, 0);
    l2.place(DATA, value);
    let mut again = l2.create_label();
    l2.set_label(&mut again)?;
    l2.mov(rax, qword_ptr(DATA))?;
    l2.vmcall()?;
    l2.jmp(again)?;
    l2.finish()
}
