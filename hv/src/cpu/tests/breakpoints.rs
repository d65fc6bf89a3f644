//! Breakpoints of the debug registers.

use crate::cpu::testing::{CODE, DATA, FLAT, Machine, Mode};
use hv_defs::exit::Reason;
use hv_defs::x86::{Cr4, Rflags};
use iced_x86::code_asm::*;

/// Where the handler of #DB is: a HLT.
const HANDLER: u64 = CODE + 0x800;

/// DR7 with breakpoint 1 set on what `field` says: R/W and LEN.
fn on(field: u64) -> u64 {
    0x408 | field << 20
}

/// Runs code with `control` in DR7 and DR1 at `address`; where #DB came, with DR6's low bits; `None` if the code came to its end.
#[track_caller]
fn check(control: u64, address: u64, flags: Rflags, code: &[u8], expected: Option<(u64, u64)>) {
    let mut code = code.to_vec();
    code.push(0xf4);
    let mut machine = Machine::new(Mode::Long, &code);
    machine.memory.write(hv_defs::addr::Hpa(HANDLER), 0xf4u8);
    machine.gate64(1, 14, HANDLER, 0);
    let cpu = &mut machine.cpu;
    cpu.cr4 |= Cr4::DE.bits();
    cpu.dr7 = control;
    cpu.regs.dr[1] = address;
    cpu.regs.gpr[0] = u64::from(FLAT);
    cpu.regs.gpr[3] = DATA;
    cpu.regs.gpr[2] = 0x70;
    cpu.set_rflags(2 | flags.bits());
    cpu.mode_changed();
    match machine.run(1000) {
        crate::cpu::Trap::Exit(info) if info.reason.reason() == Reason::HLT => {}
        other => panic!("{other:x?}"),
    }
    let came = (machine.cpu.rip == HANDLER).then(|| (machine.slot(0) - CODE, machine.cpu.regs.dr6 & 0xf));
    assert_eq!(came, expected);
    if came.is_some() {
        assert_eq!(machine.slot(2) & Rflags::RF.bits(), 0, "neither a trap nor this fault sets RF");
    }
}

fn assemble(f: impl Fn(&mut CodeAssembler) -> Result<(), iced_x86::IcedError>) -> Vec<u8> {
    let mut a = CodeAssembler::new(64).expect("64-bit mode");
    f(&mut a).expect("the snippet assembles");
    a.assemble(CODE).expect("the snippet assembles")
}

#[test]
fn an_instruction_breakpoint_is_a_fault_before_it() {
    let none = Rflags::empty();
    let code = [0x90, 0x90, 0x90];
    check(on(0), CODE + 1, none, &code, Some((1, 2)));
    check(on(0), CODE, none, &code, Some((0, 2)));
    check(on(0), CODE, Rflags::RF, &code, None);
    check(on(0), CODE + 1, Rflags::RF, &code, Some((1, 2)));
    check(0x400, CODE, none, &code, None);
    // MOV SS, EAX holds back one that is on the next instruction.
    check(on(0), CODE + 2, none, &[0x8e, 0xd0, 0x90, 0x90], None);
    check(on(0), CODE + 3, none, &[0x8e, 0xd0, 0x90, 0x90], Some((3, 2)));
}

#[test]
fn a_data_breakpoint_is_a_trap_behind_the_access() {
    let none = Rflags::empty();
    let read = assemble(|a| {
        a.mov(ecx, dword_ptr(rbx))?;
        a.nop()
    });
    let write = assemble(|a| {
        a.mov(dword_ptr(rbx), ecx)?;
        a.nop()
    });
    // MOV of two bytes, then the NOP. R/W 1 is writes, 3 accesses; LEN 3 four bytes, 2 eight.
    check(on(3), DATA, none, &read, Some((2, 2)));
    check(on(1), DATA, none, &read, None);
    check(on(1), DATA, none, &write, Some((2, 2)));
    check(on(1), DATA + 3, none, &write, Some((2, 2)));
    check(on(1), DATA + 4, none, &write, None);
    check(on(1), DATA - 1, none, &write, None);
    check(on(1 | 3 << 2), DATA - 1, none, &write, None);
    check(on(1 | 2 << 2), DATA + 7, none, &write, Some((2, 2)));
    // The second access comes by what the first has cached.
    let twice = assemble(|a| {
        a.mov(dword_ptr(rbx + 8), ecx)?;
        a.mov(dword_ptr(rbx), ecx)
    });
    check(on(1), DATA, none, &twice, Some((twice.len() as u64, 2)));
    // What an instruction does beside its operands counts too.
    let push = assemble(|a| a.push(rcx));
    check(on(1 | 2 << 2), crate::cpu::testing::STACK - 8, none, &push, Some((1, 2)));
}

#[test]
fn a_port_breakpoint_needs_debugging_extensions() {
    // IN AX, DX touches ports 0x70 and 0x71.
    let code = [0x66, 0xed, 0x90];
    check(on(2), 0x71, Rflags::empty(), &code, Some((2, 2)));
    check(on(2), 0x72, Rflags::empty(), &code, None);
    check(on(2 | 1 << 2), 0x71, Rflags::empty(), &code, Some((2, 2)));
}
