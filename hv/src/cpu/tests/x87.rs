//! The x87's pointers to the last instruction and operand. Its arithmetic is compared with the host's own elsewhere.

use crate::cpu::testing::{CODE, DATA, Machine, Mode};
use hv_defs::addr::Hpa;
use iced_x86::IcedError;
use iced_x86::code_asm::*;

/// Where environments and images go.
const INTO: u64 = DATA + 0x1000;

/// Runs a snippet, with RAX at `DATA` and RBX at `INTO`.
fn run(f: impl Fn(&mut CodeAssembler) -> Result<(), IcedError>) -> Machine {
    let mut a = CodeAssembler::new(64).expect("a mode");
    f(&mut a).expect("the snippet assembles");
    a.hlt().expect("it assembles");
    let mut machine = Machine::new(Mode::Long, &a.assemble(CODE).expect("the snippet assembles"));
    machine.cpu.regs.gpr[0] = DATA;
    machine.cpu.regs.gpr[3] = INTO;
    machine.run(100);
    machine
}

fn word(machine: &Machine, at: u64) -> u32 {
    machine.memory.read(Hpa(INTO + at))
}

#[test]
fn the_environment_has_the_last_instruction() {
    let machine = run(|a| {
        a.nop()?;
        a.fldz()?;
        a.fnstenv(ptr(rbx))
    });
    assert_eq!(u64::from(word(&machine, 12)), CODE + 1);
    // Control instructions do not count.
    let machine = run(|a| {
        a.fldz()?;
        a.fnstcw(word_ptr(rax))?;
        a.fldcw(word_ptr(rax))?;
        a.fnstenv(ptr(rbx))
    });
    assert_eq!(u64::from(word(&machine, 12)), CODE);
    let machine = run(|a| {
        a.fldz()?;
        a.fninit()?;
        a.fnstenv(ptr(rbx))
    });
    assert_eq!(word(&machine, 12), 0);
}

#[test]
fn images_have_it_and_give_it_back() {
    let machine = run(|a| {
        a.fld1()?;
        a.fxsave64(ptr(rbx))?;
        a.fninit()?;
        a.fxrstor64(ptr(rbx))?;
        a.fxsave(ptr(rbx + 0x200))
    });
    assert_eq!(machine.memory.read::<u64>(Hpa(INTO + 8)), CODE);
    assert_eq!(machine.memory.read::<u64>(Hpa(INTO + 0x208)), CODE & 0xffff_ffff);
    let machine = run(|a| {
        a.fld1()?;
        a.fnstenv(ptr(rbx))?;
        a.fninit()?;
        a.fldenv(ptr(rbx))?;
        a.fnstenv(ptr(rbx + 0x40))
    });
    assert_eq!(u64::from(word(&machine, 0x4c)), CODE);
}

#[test]
fn the_operand_is_kept_when_an_exception_is_unmasked() {
    let divide = |control: u32| {
        run(move |a| {
            a.mov(dword_ptr(rbx), control)?;
            a.mov(dword_ptr(rax + 8), 0)?;
            a.fldcw(word_ptr(rbx))?;
            a.fld1()?;
            a.fdiv(dword_ptr(rax + 8))?;
            a.fnstenv(ptr(rbx))
        })
    };
    assert_eq!(u64::from(word(&divide(0x037b), 20)), DATA + 8);
    assert_eq!(word(&divide(0x037f), 20), 0);
}
