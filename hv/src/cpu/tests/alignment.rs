//! Alignment checks of user mode: CR0.AM and RFLAGS.AC.

use crate::cpu::Trap;
use crate::cpu::testing::{CODE, DATA, Machine, Mode};
use hv_defs::exit::Reason;
use hv_defs::x86::{Cr0, Rflags, Vector};
use iced_x86::IcedError;
use iced_x86::code_asm::*;

/// Runs a snippet at a privilege level and tells the vector that it raised. RAX is `DATA`.
#[track_caller]
fn raised(cpl: u8, am: bool, ac: bool, f: impl Fn(&mut CodeAssembler) -> Result<(), IcedError>) -> Option<Vector> {
    let mut a = CodeAssembler::new(64).expect("a mode");
    f(&mut a).expect("the snippet assembles");
    let mut machine = Machine::new(Mode::Long, &a.assemble(CODE).expect("the snippet assembles"));
    for segment in &mut machine.cpu.seg {
        segment.rights = segment.rights.with_dpl(cpl);
    }
    if am {
        machine.cpu.cr0 |= Cr0::AM.bits();
    }
    machine.cpu.set_rflags(2 | if ac { Rflags::AC.bits() } else { 0 });
    machine.cpu.regs.gpr[0] = DATA;
    machine.cpu.controls.exception_bitmap = u32::MAX;
    machine.cpu.mode_changed();
    let count = iced_x86::Decoder::new(64, &a.assemble(CODE).expect("it assembles"), 0).into_iter().count();
    match machine.run(count as u64) {
        Trap::Exit(info) if info.reason.reason() == Reason::EXCEPTION_NMI => Some(Vector(info.intr_info.vector())),
        Trap::Exit(_) => None,
        other => panic!("{other:?}"),
    }
}

#[test]
fn user_mode_with_both_flags_is_checked() {
    let load = |a: &mut CodeAssembler| a.mov(ecx, dword_ptr(rax + 2));
    assert_eq!(raised(3, true, true, load), Some(Vector::AC));
    assert_eq!(raised(3, true, false, load), None);
    assert_eq!(raised(3, false, true, load), None);
    assert_eq!(raised(0, true, true, load), None);
}

#[test]
fn every_way_to_memory_is_checked() {
    let check = |f: fn(&mut CodeAssembler) -> Result<(), IcedError>, wanted: Option<Vector>| {
        assert_eq!(raised(3, true, true, f), wanted);
    };
    check(|a| a.mov(dword_ptr(rax + 1), ecx), Some(Vector::AC));
    check(|a| a.add(qword_ptr(rax + 4), rcx), Some(Vector::AC));
    check(|a| a.mov(cx, word_ptr(rax + 1)), Some(Vector::AC));
    check(|a| a.mov(cl, byte_ptr(rax + 1)), None);
    check(|a| a.mov(rcx, qword_ptr(rax + 8)), None);
    // An access that is aligned makes no way for one in the same page that is not.
    let twice = |a: &mut CodeAssembler| {
        a.mov(rcx, qword_ptr(rax + 8))?;
        a.mov(qword_ptr(rax + 16), rcx)?;
        a.mov(qword_ptr(rax + 17), rcx)
    };
    check(twice, Some(Vector::AC));
    check(|a| a.fld(tbyte_ptr(rax + 4)), Some(Vector::AC));
    check(|a| a.fld(tbyte_ptr(rax + 8)), None);
    check(|a| a.lock().add(dword_ptr(rax + 2), ecx), Some(Vector::AC));
}

#[test]
fn popf_turns_it_on() {
    let snippet = |a: &mut CodeAssembler| {
        a.mov(ecx, dword_ptr(rax + 2))?;
        a.lea(rsp, ptr(rax + 0x100))?;
        a.pushfq()?;
        a.or(dword_ptr(rsp), 1 << 18)?;
        a.popfq()?;
        a.mov(ecx, dword_ptr(rax + 2))
    };
    assert_eq!(raised(3, true, false, snippet), Some(Vector::AC));
}
