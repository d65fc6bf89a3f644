//! Instructions a second of the software CPU on a loop of arithmetic, memory and branches, beside the host's own.

#![allow(unsafe_code)] // Runs the assembled loop on the host.

use hv::cpu::{Blocks, Cpu, Segment, Table, run};
use hv::memory::Memory;
use hv_defs::addr::Hpa;
use hv_defs::controls::{PinBased, PrimaryControls};
use hv_defs::x86::{AccessRights, Cr0, Cr4, Efer};
use iced_x86::IcedError;
use iced_x86::code_asm::*;
use std::time::Instant;

const CODE: u64 = 0x10_0000;
const DATA: u64 = 0x20_0000;
const ROUNDS: u64 = 8_000_000;
/// Instructions of one round of the loop, the calls' included.
const IN_ROUND: u64 = 27;

/// A checksum over 64 KiB, with calls, spills and branches that go both ways. RDI is the data, RSI the rounds.
fn mixed(a: &mut CodeAssembler) -> Result<(), IcedError> {
    let (mut top, mut skip, mut step) = (a.create_label(), a.create_label(), a.create_label());
    a.xor(eax, eax)?;
    a.xor(ecx, ecx)?;
    a.mov(r8, 0x9e37_79b9_7f4a_7c15u64)?;
    a.set_label(&mut top)?;
    a.mov(rdx, qword_ptr(rdi + rcx * 8))?;
    a.xor(rdx, rax)?;
    a.imul_2(rdx, r8)?;
    a.mov(r9, rdx)?;
    a.shr(r9, 29)?;
    a.add(rdx, r9)?;
    a.mov(qword_ptr(rdi + rcx * 8), rdx)?;
    a.call(step)?;
    a.test(al, 1)?;
    a.nop()?;
    a.je(skip)?;
    a.lea(rax, qword_ptr(rax + rdx * 2 + 1))?;
    a.set_label(&mut skip)?;
    a.inc(ecx)?;
    a.and(ecx, 0x1fff)?;
    a.mov(r10d, eax)?;
    a.cmp(r10d, 77)?;
    a.setb(r10b)?;
    a.movzx(r10d, r10b)?;
    a.add(rax, r10)?;
    a.dec(rsi)?;
    a.jne(top)?;
    a.hlt()?;
    a.set_label(&mut step)?;
    a.push(rdx)?;
    a.add(rax, qword_ptr(rsp))?;
    a.rol(rax, 7)?;
    a.pop(r11)?;
    a.sub(r11d, eax)?;
    a.ret()
}

fn native(code: &[u8]) -> f64 {
    // The loop ends in HLT, which a process may not: RET in its place. The step's calls keep the stack balanced.
    let mut code = code.to_vec();
    let hlt = code.iter().position(|&byte| byte == 0xf4).expect("the loop has a HLT");
    code[hlt] = 0xc3;
    let mut data = vec![0u64; 8192];
    // SAFETY: a fresh mapping, written and then executed; the code touches `data`, its stack and scratch registers.
    unsafe {
        let at = libc::mmap(core::ptr::null_mut(), 4096, 7, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0);
        assert_ne!(at, libc::MAP_FAILED, "a page to execute");
        core::ptr::copy_nonoverlapping(code.as_ptr(), at.cast(), code.len());
        let run: extern "sysv64" fn(*mut u64, u64) = core::mem::transmute(at);
        let start = Instant::now();
        run(data.as_mut_ptr(), ROUNDS * 4);
        start.elapsed().as_secs_f64() / 4.0
    }
}

fn main() {
    let mut a = CodeAssembler::new(64).expect("64 bits");
    mixed(&mut a).expect("the loop assembles");
    let code = a.assemble(CODE).expect("the loop assembles");
    let mut memory = Memory::new(4 << 20);
    for (at, value) in [(0x1000u64, 0x2007u64), (0x2000, 0x3007), (0x3000, 0x87), (0x3008, 0x20_0087)] {
        memory.write(Hpa(at), value);
    }
    memory.write_bytes(Hpa(CODE), &code);
    let mut cpu = Cpu::new(1536, 0);
    let segment = |selector, rights| Segment { selector, base: 0, limit: u32::MAX, rights: AccessRights::from(rights) };
    cpu.seg = [segment(0x10, 0xc093); 6];
    cpu.seg[1] = segment(0x08, 0xa09b);
    cpu.gdtr = Table::default();
    cpu.cr0 = (Cr0::PE | Cr0::ET | Cr0::NE | Cr0::PG).bits();
    cpu.cr3 = 0x1000;
    cpu.cr4 = (Cr4::VMXE | Cr4::PAE).bits();
    cpu.efer = (Efer::LME | Efer::LMA).bits();
    cpu.controls.pin = PinBased::EXTERNAL_INTERRUPT_EXITING;
    cpu.controls.primary = PrimaryControls::HLT_EXITING;
    cpu.mode_changed();
    cpu.rip = CODE;
    cpu.regs.gpr[4] = 0x18_0000;
    cpu.regs.gpr[7] = DATA;
    cpu.regs.gpr[6] = ROUNDS;
    let mut blocks = Blocks::new();
    let mut clock = 0;
    let start = Instant::now();
    let trap = run(&mut cpu, &mut memory, &mut blocks, &mut clock, u64::MAX);
    let seconds = start.elapsed().as_secs_f64();
    let host = native(&code);
    println!("{trap:?}");
    println!("{clock} instructions, {:.1} a round (about {IN_ROUND})", clock as f64 / ROUNDS as f64);
    println!("software: {:.0} million a second", clock as f64 / seconds / 1e6);
    println!("host:     {:.0} million a second, {:.1} times as many", clock as f64 / host / 1e6, seconds / host);
}
