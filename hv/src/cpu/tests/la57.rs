//! 5-level paging: which addresses are canonical, and when CR4.LA57 may change.

use crate::cpu::Trap;
use crate::cpu::testing::{CODE, Machine, Mode, TABLES};
use hv_defs::addr::Hpa;
use hv_defs::exit::Reason;
use hv_defs::x86::Cr4;
use iced_x86::IcedError;
use iced_x86::code_asm::*;

/// Where the handler of a vector is: a HLT.
const HANDLER: u64 = CODE + 0x800;
/// The table of the fifth level.
const TOP: u64 = 0x1f_0000;
/// Canonical for 57 bits and not for 48; nothing maps it.
const WIDE: u64 = 1 << 55;
/// Canonical for neither.
const BEYOND: u64 = 1 << 56;

/// What a snippet of 64-bit code runs on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum On {
    /// A CPU without 5-level paging.
    Without,
    /// A CPU with it, under 4-level paging.
    Four,
    /// A CPU with it, under 5-level paging.
    Five,
}
use On::{Five, Four, Without};

/// Runs a snippet, with an address in RBX: which of #SS, #GP and #PF came, and its error code; `None` for none.
#[track_caller]
fn check(
    on: On,
    address: u64,
    code: impl Fn(&mut CodeAssembler) -> Result<(), IcedError>,
    expected: Option<(u8, u64)>,
) {
    let mut a = CodeAssembler::new(64).expect("64-bit mode");
    code(&mut a).expect("the snippet assembles");
    a.hlt().expect("HLT assembles");
    let mut machine = Machine::new(Mode::Long, &a.assemble(CODE).expect("the snippet assembles"));
    for vector in [12, 13, 14] {
        let handler = HANDLER + 16 * u64::from(vector);
        machine.gate64(vector, 14, handler, 0);
        machine.memory.write(Hpa(handler), 0xf4u8);
    }
    machine.memory.write(Hpa(TOP), TABLES | 7);
    machine.cpu.la57 = on != Without;
    if on == Five {
        machine.cpu.cr4 |= Cr4::LA57.bits();
        machine.cpu.cr3 = TOP;
    }
    machine.cpu.regs.gpr[3] = address;
    machine.cpu.mode_changed();
    match machine.run(1000) {
        Trap::Exit(info) if info.reason.reason() == Reason::HLT => {}
        other => panic!("{other:x?}"),
    }
    let came = (machine.cpu.rip >= HANDLER).then(|| (((machine.cpu.rip - HANDLER) / 16) as u8, machine.slot(0)));
    assert_eq!(came, expected, "{on:?}, {address:#x}");
}

const SS: Option<(u8, u64)> = Some((12, 0));
const GP: Option<(u8, u64)> = Some((13, 0));
/// #PF of a page that is not present: a read, a write.
const PF: Option<(u8, u64)> = Some((14, 0));
const PF_WRITE: Option<(u8, u64)> = Some((14, 2));

#[test]
fn what_is_accessed_is_canonical_for_the_paging_that_is_on() {
    let read = |a: &mut CodeAssembler| a.mov(rax, qword_ptr(rbx));
    let stack = |a: &mut CodeAssembler| {
        a.mov(rbp, rbx)?;
        a.mov(qword_ptr(rbp), rax)
    };
    let jump = |a: &mut CodeAssembler| a.jmp(rbx);
    for on in [Without, Four] {
        check(on, WIDE, read, GP);
        check(on, WIDE, stack, SS);
        check(on, WIDE, jump, GP);
        check(on, 1 << 46, read, PF);
    }
    check(Five, WIDE, read, PF);
    check(Five, WIDE, stack, PF_WRITE);
    check(Five, WIDE, jump, PF);
    check(Five, !WIDE, read, PF);
    check(Five, BEYOND, read, GP);
    check(Five, BEYOND, stack, SS);
    check(Five, BEYOND, jump, GP);
    check(Five, !BEYOND, read, GP);
    // The last byte counts too.
    check(Five, BEYOND - 4, read, GP);
    check(Five, CODE, read, None);
}

#[test]
fn what_only_holds_an_address_holds_the_widest() {
    let invalidate = |a: &mut CodeAssembler| a.invlpg(byte_ptr(rbx));
    let table = |a: &mut CodeAssembler| {
        a.sub(rsp, 16)?;
        a.mov(word_ptr(rsp), 0xff)?;
        a.mov(qword_ptr(rsp + 2), rbx)?;
        a.lgdt(fword_ptr(rsp))?;
        a.add(rsp, 16)
    };
    check(Without, WIDE, table, GP);
    check(Four, WIDE, table, None);
    check(Five, WIDE, table, None);
    check(Five, BEYOND, table, GP);
    for on in [Without, Four, Five] {
        check(on, BEYOND, invalidate, None);
        check(on, WIDE, invalidate, None);
    }
}

#[test]
fn la57_stays_as_it_is_in_long_mode() {
    let toggle = |a: &mut CodeAssembler| {
        a.mov(rax, cr4)?;
        a.xor(rax, 1 << 12)?;
        a.mov(cr4, rax)
    };
    let keep = |a: &mut CodeAssembler| {
        a.mov(rax, cr4)?;
        a.xor(rax, 1 << 7)?;
        a.mov(cr4, rax)
    };
    for on in [Without, Four, Five] {
        check(on, 0, toggle, GP);
        check(on, 0, keep, None);
    }
    // Outside it, it can be set where it exists.
    let outside = |la57: bool| {
        let mut a = CodeAssembler::new(32).expect("32-bit mode");
        toggle32(&mut a).expect("the snippet assembles");
        let mut machine = Machine::new(Mode::Protected32, &a.assemble(CODE).expect("the snippet assembles"));
        machine.cpu.la57 = la57;
        let before = machine.cpu.cr4;
        // Without an IDT a fault ends in a triple fault.
        machine.cpu.idtr.limit = 0;
        let Trap::Exit(info) = machine.run(1000) else { panic!("an exit") };
        (info.reason.reason(), machine.cpu.cr4 ^ before)
    };
    assert_eq!(outside(true), (Reason::HLT, Cr4::LA57.bits()));
    assert_eq!(outside(false), (Reason::TRIPLE_FAULT, 0));
}

fn toggle32(a: &mut CodeAssembler) -> Result<(), IcedError> {
    a.mov(eax, cr4)?;
    a.xor(eax, 1 << 12)?;
    a.mov(cr4, eax)?;
    a.hlt()
}
