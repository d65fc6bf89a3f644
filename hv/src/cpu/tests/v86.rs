//! Virtual-8086 mode and its extensions, and protected mode's virtual interrupts.

use crate::cpu::Trap;
use crate::cpu::testing::{CODE, CODE32, FLAT, IDT, Machine, Mode, TSS};
use hv_defs::addr::Hpa;
use hv_defs::exit::Reason;
use hv_defs::x86::{AccessRights, Cr4, Rflags, Seg};
use iced_x86::IcedError;
use iced_x86::code_asm::*;

/// The 8086 program, its stack and its interrupt handler, by paragraph.
const PROGRAM: u16 = 0x5000;
const PROGRAM_STACK: u16 = 0x6000;
const OWN_HANDLER: u16 = 0x7000;
/// The monitor's handler of every vector: a HLT.
const MONITOR: u64 = CODE + 0x800;
const MONITOR_STACK: u64 = 0x17_0000;
/// Where the task's I/O permission bitmap begins.
const PORTS: u64 = 104 + 32;

const NO_VME: Cr4 = Cr4::empty();
const VIF: u64 = Rflags::VIF.bits();
const VIP: u64 = Rflags::VIP.bits();
const IF: u64 = Rflags::IF.bits();
const IOPL: u64 = Rflags::IOPL.bits();

/// A machine that runs a program in virtual-8086 mode with these flags besides.
fn machine(features: Cr4, flags: u64, f: impl Fn(&mut CodeAssembler) -> Result<(), IcedError>) -> Machine {
    let mut a = CodeAssembler::new(16).expect("a mode");
    f(&mut a).expect("the snippet assembles");
    let mut machine = Machine::new(Mode::Protected32, &[]);
    let code = a.assemble(0).expect("the snippet assembles");
    machine.memory.write_bytes(Hpa(u64::from(PROGRAM) << 4), &code);
    // The program's own handler is a HLT too, which its privilege level turns into #GP at its first instruction.
    machine.memory.write(Hpa(u64::from(OWN_HANDLER) << 4), 0xf4u8);
    machine.memory.write(Hpa(4 * 0x21), u32::from(OWN_HANDLER) << 16);
    machine.memory.write(Hpa(MONITOR), 0xf4u8);
    for vector in 0..64 {
        let gate = MONITOR & 0xffff | u64::from(CODE32) << 16 | 0xee00 << 32 | (MONITOR & 0xffff_0000) << 32;
        machine.memory.write(Hpa(IDT + 8 * vector), gate);
    }
    machine.memory.write(Hpa(TSS + 4), MONITOR_STACK as u32);
    machine.memory.write(Hpa(TSS + 8), u32::from(FLAT));
    machine.memory.write(Hpa(TSS + 102), PORTS as u16);
    let cpu = &mut machine.cpu;
    cpu.tr.limit = 0xff;
    for segment in &mut cpu.seg {
        segment.selector = PROGRAM;
        segment.base = u64::from(PROGRAM) << 4;
        segment.limit = 0xffff;
        segment.rights = AccessRights::from(0xf3);
    }
    let stack = &mut cpu.seg[Seg::Ss as usize];
    stack.selector = PROGRAM_STACK;
    stack.base = u64::from(PROGRAM_STACK) << 4;
    cpu.cr4 |= features.bits();
    cpu.set_rflags(Rflags::VM.bits() | 2 | flags);
    cpu.rip = 0;
    cpu.regs.gpr[4] = 0x1000;
    cpu.mode_changed();
    machine
}

/// Runs to the monitor, and tells by which vector it came (that of an error code, or of a software interrupt) and with
/// what pushed: EIP, CS and EFLAGS.
#[track_caller]
fn monitored(machine: &mut Machine, error: bool) -> [u32; 3] {
    match machine.run(100) {
        Trap::Exit(info) if info.reason.reason() == Reason::HLT => {}
        other => panic!("{other:x?} at {:#x}", machine.cpu.rip),
    }
    assert_eq!((machine.cpu.rip, machine.cpu.v86()), (MONITOR, false));
    let at = machine.cpu.regs.gpr[4] + if error { 4 } else { 0 };
    core::array::from_fn(|slot| machine.memory.read(Hpa(at + 4 * slot as u64)))
}

/// The program's instruction faults with #GP(0) at `rip`.
#[track_caller]
fn faults(features: Cr4, flags: u64, rip: u32, f: impl Fn(&mut CodeAssembler) -> Result<(), IcedError>) {
    let mut machine = machine(features, flags, f);
    let [at, code, _] = monitored(&mut machine, true);
    assert_eq!((at, code), (rip, u32::from(PROGRAM)));
}

/// The program runs to its HLT, and has these flags then, of those that count here.
#[track_caller]
fn flags_after(features: Cr4, flags: u64, f: impl Fn(&mut CodeAssembler) -> Result<(), IcedError>) -> u64 {
    let mut machine = machine(features, flags, |a| {
        f(a)?;
        a.hlt()
    });
    let [_, _, pushed] = monitored(&mut machine, true);
    u64::from(pushed) & (VIF | VIP | IF | IOPL)
}

#[test]
fn without_the_extensions_the_iopl_decides() {
    faults(NO_VME, 0, 0, |a| a.cli());
    faults(NO_VME, 0, 0, |a| a.sti());
    faults(NO_VME, 0, 0, |a| a.pushf());
    faults(NO_VME, 0, 0, |a| a.popf());
    faults(NO_VME, 0, 0, |a| a.iret());
    faults(NO_VME, 0, 0, |a| a.int(0x21));
    assert_eq!(flags_after(NO_VME, IOPL | IF, |a| a.cli()), IOPL);
    assert_eq!(flags_after(NO_VME, IOPL, |a| a.sti()), IOPL | IF);
    // IOPL 1 and 2 are below 3 too.
    faults(NO_VME, 1 << 12, 0, |a| a.pushf());
    faults(NO_VME, 2 << 12, 0, |a| a.popf());
}

#[test]
fn with_them_if_is_virtual() {
    assert_eq!(flags_after(Cr4::VME, IF, |a| a.sti()), IF | VIF);
    assert_eq!(flags_after(Cr4::VME, IF | VIF, |a| a.cli()), IF);
    faults(Cr4::VME, VIP, 0, |a| a.sti());
    assert_eq!(flags_after(Cr4::VME, VIP | VIF, |a| a.cli()), VIP);
    // At IOPL 3 it is IF itself.
    assert_eq!(flags_after(Cr4::VME, IOPL | IF | VIF, |a| a.cli()), IOPL | VIF);
}

#[test]
fn pushf_and_popf_show_the_virtual_flag() {
    let mut pushes = machine(Cr4::VME, VIF, |a| {
        a.pushf()?;
        a.hlt()
    });
    monitored(&mut pushes, true);
    let pushed: u16 = pushes.memory.read(Hpa((u64::from(PROGRAM_STACK) << 4) + 0xffe));
    assert_eq!(u64::from(pushed) & (IF | IOPL), IF | IOPL);
    let popf = |value: i32| {
        move |a: &mut CodeAssembler| {
            a.push(value)?;
            a.popf()
        }
    };
    assert_eq!(flags_after(Cr4::VME, IF, popf(0x0200)), IF | VIF);
    assert_eq!(flags_after(Cr4::VME, IF | VIF, popf(0)), IF);
    faults(Cr4::VME, VIP, 3, popf(0x0200));
    faults(Cr4::VME, 0, 3, popf(0x0100));
    faults(Cr4::VME, 0, 0, |a| a.pushfd());
    faults(Cr4::VME, 0, 0, |a| a.popfd());
    faults(Cr4::VME, 0, 0, |a| a.iretd());
}

#[test]
fn the_tasks_bitmap_redirects_software_interrupts() {
    let int = |a: &mut CodeAssembler| a.int(0x21);
    // A bit of 0 goes to the program's own handler, whose HLT faults.
    let mut own = machine(Cr4::VME, VIF, int);
    let [at, code, flags] = monitored(&mut own, true);
    assert_eq!((at, code), (0, u32::from(OWN_HANDLER)));
    assert_eq!(u64::from(flags) & (VIF | IF), 0);
    let stack = |at| own.memory.read::<u16>(Hpa((u64::from(PROGRAM_STACK) << 4) + at));
    assert_eq!((stack(0xffa), stack(0xffc)), (2, PROGRAM));
    assert_eq!(u64::from(stack(0xffe)) & (IF | IOPL), IF | IOPL);
    // At IOPL 3 the program's IF is cleared.
    let mut own = machine(Cr4::VME, IOPL | IF, int);
    let [_, _, flags] = monitored(&mut own, true);
    assert_eq!(u64::from(flags) & IF, 0);
    // A bit of 1 goes to the monitor: with IOPL 3 through the gate, else as #GP.
    for (flags, error, rip) in [(IOPL, false, 2), (0, true, 0)] {
        let mut monitor = machine(Cr4::VME, flags, int);
        monitor.memory.write(Hpa(TSS + PORTS - 32 + 0x21 / 8), 1u8 << (0x21 % 8));
        assert_eq!(monitored(&mut monitor, error)[0], rip);
    }
    // Without a bitmap within the task's limit it is #GP.
    let mut none = machine(Cr4::VME, IOPL, int);
    none.cpu.tr.limit = 103;
    assert_eq!(monitored(&mut none, true)[0], 0);
}

#[test]
fn an_iret_in_it_returns_within_it() {
    let iret = |flags: i32| {
        move |a: &mut CodeAssembler| {
            a.push(flags)?;
            a.push(i32::from(OWN_HANDLER))?;
            a.push(0)?;
            a.iret()
        }
    };
    let mut returns = machine(Cr4::VME, 0, iret(0x0200));
    let [at, code, flags] = monitored(&mut returns, true);
    assert_eq!((at, code), (0, u32::from(OWN_HANDLER)));
    assert_eq!(u64::from(flags) & (VIF | IF | IOPL), VIF);
    let mut pending = machine(Cr4::VME, VIP, iret(0x0200));
    assert_eq!(monitored(&mut pending, true)[1], u32::from(PROGRAM));
}

#[test]
fn protected_mode_has_a_virtual_flag_too() {
    let run = |features: Cr4, flags: u64, code: u8| {
        let mut machine = Machine::new(Mode::Protected32, &[code]);
        for segment in &mut machine.cpu.seg {
            segment.rights = segment.rights.with_dpl(3);
        }
        machine.cpu.cr4 |= features.bits();
        machine.cpu.set_rflags(2 | flags);
        machine.cpu.controls.exception_bitmap = u32::MAX;
        machine.cpu.mode_changed();
        match machine.run(1) {
            Trap::Exit(info) if info.reason.reason() == Reason::EXCEPTION_NMI => None,
            _ => Some(machine.cpu.rflags() & (VIF | VIP | IF)),
        }
    };
    let (cli, sti) = (0xfa, 0xfb);
    assert_eq!(run(Cr4::PVI, 0, sti), Some(VIF));
    assert_eq!(run(Cr4::PVI, VIF | IF, cli), Some(IF));
    assert_eq!(run(Cr4::PVI, VIP, sti), None);
    assert_eq!(run(NO_VME, 0, sti), None);
    assert_eq!(run(Cr4::PVI, IOPL, sti), Some(IF));
}

#[test]
fn interrupts_from_it_push_its_segments_and_clear_them() {
    let mut machine = machine(NO_VME, IOPL, |a| a.int(0x22));
    machine.cpu.set_v86_segment(Seg::Gs as usize, 0x1234);
    monitored(&mut machine, false);
    let slot = |slot: u64| machine.memory.read::<u32>(Hpa(machine.cpu.regs.gpr[4] + 4 * slot));
    assert_eq!(machine.cpu.regs.gpr[4], MONITOR_STACK - 36);
    assert_eq!([slot(3), slot(4)], [0x1000, u32::from(PROGRAM_STACK)]);
    assert_eq!(slot(8), 0x1234);
    assert!(machine.cpu.seg[Seg::Gs as usize].rights.unusable());
}
