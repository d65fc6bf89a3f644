//! Events, privilege and modes.

use crate::cpu::testing::{CODE, CODE64, FLAT, IDT, Machine, Mode, STACK, TSS, USER_CODE, USER_DATA};
use crate::cpu::{Table, Trap, inject};
use hv_defs::addr::Hpa;
use hv_defs::controls::{Interruptibility, SecondaryControls};
use hv_defs::exit::{EventType, InterruptionInfo, Reason};
use hv_defs::x86::{Rflags, Seg};
use iced_x86::IcedError;
use iced_x86::code_asm::*;

/// Where handlers are put: each is a HLT.
const HANDLER: u64 = CODE + 0x800;
/// RSP0 of the task.
const RSP0: u64 = 0x17_0000;

fn assemble(bits: u32, at: u64, f: impl Fn(&mut CodeAssembler) -> Result<(), IcedError>) -> Vec<u8> {
    let mut a = CodeAssembler::new(bits).expect("a mode");
    f(&mut a).expect("the snippet assembles");
    a.assemble(at).expect("the snippet assembles")
}

fn long(f: impl Fn(&mut CodeAssembler) -> Result<(), IcedError>) -> Machine {
    let mut machine = Machine::new(Mode::Long, &assemble(64, CODE, f));
    machine.memory.write(Hpa(HANDLER), 0xf4u8);
    machine.memory.write(Hpa(TSS + 4), RSP0);
    machine
}

#[track_caller]
fn exits_for(machine: &mut Machine, reason: Reason) -> crate::vmx::exit::ExitInfo {
    match machine.run(10_000) {
        Trap::Exit(info) if info.reason.reason() == reason => *info,
        other => panic!("{other:x?} at {:#x}", machine.cpu.rip),
    }
}

/// A fault at `code`'s end comes to the handler with this error code, or none.
#[track_caller]
fn faults(vector: u8, error: Option<u64>, f: impl Fn(&mut CodeAssembler) -> Result<(), IcedError>) -> Machine {
    let mut machine = long(f);
    machine.gate64(vector, 14, HANDLER, 0);
    exits_for(&mut machine, Reason::HLT);
    assert_eq!(machine.cpu.rip, HANDLER);
    let above = u64::from(error.is_some());
    if let Some(error) = error {
        assert_eq!(machine.slot(0), error);
    }
    assert_eq!(machine.slot(above + 1), u64::from(CODE64));
    assert_eq!(machine.slot(above + 4), u64::from(FLAT));
    machine
}

#[test]
fn faults_reach_their_handlers() {
    let machine = faults(6, None, |a| a.ud2());
    assert_eq!((machine.slot(0), machine.slot(3)), (CODE, STACK));
    assert_eq!(machine.slot(2) & Rflags::RF.bits(), Rflags::RF.bits());
    faults(0, None, |a| {
        a.xor(ecx, ecx)?;
        a.div(ecx)
    });
    faults(13, Some(0x100), |a| {
        a.mov(eax, 0x100)?;
        a.mov(ds, eax)
    });
    let machine = faults(14, Some(2), |a| a.mov(dword_ptr(0x4000_0000u64), eax));
    assert_eq!(machine.cpu.regs.cr2, 0x4000_0000);
    faults(13, Some(0), |a| {
        a.mov(rax, 1u64 << 60)?;
        a.mov(rax, qword_ptr(rax))
    });
    faults(12, Some(0), |a| {
        a.mov(rbp, 1u64 << 60)?;
        a.mov(rax, qword_ptr(rbp))
    });
    faults(3, None, |a| a.int3());
    faults(0x42, None, |a| a.int(0x42));
}

#[test]
fn a_missing_gate_is_a_double_fault_and_a_missing_double_fault_a_triple() {
    let mut machine = long(|a| a.ud2());
    machine.gate64(8, 14, HANDLER, 0);
    // #UD without a gate is #GP, and that without a gate again #GP: two contributory ones in a row.
    exits_for(&mut machine, Reason::HLT);
    assert_eq!((machine.cpu.rip, machine.slot(0)), (HANDLER, 0));
    let mut machine = long(|a| a.ud2());
    exits_for(&mut machine, Reason::TRIPLE_FAULT);
    assert_eq!(machine.cpu.rip, CODE);
}

/// Code that goes to privilege level 3 with IRETQ and goes on there.
fn to_user(a: &mut CodeAssembler) -> Result<(), IcedError> {
    let mut user = a.create_label();
    a.push(i32::from(USER_DATA))?;
    a.push(0x19_0000)?;
    a.push(0x202)?;
    a.push(i32::from(USER_CODE))?;
    a.lea(rax, ptr(user))?;
    a.push(rax)?;
    a.iretq()?;
    a.set_label(&mut user)?;
    a.nop()
}

#[test]
fn user_mode_faults_to_the_stack_of_the_task() {
    let mut machine = long(|a| {
        to_user(a)?;
        a.cli()
    });
    machine.gate64(13, 15, HANDLER, 0);
    exits_for(&mut machine, Reason::HLT);
    assert_eq!((machine.cpu.rip, machine.cpu.cpl(), machine.cpu.regs.gpr[4]), (HANDLER, 0, RSP0 - 48));
    assert_eq!((machine.slot(2), machine.slot(4), machine.slot(5)), (0x33, 0x19_0000, 0x3b));
    // A trap gate leaves IF.
    assert!(machine.cpu.rflags() & Rflags::IF.bits() != 0);
}

#[test]
fn a_return_to_user_mode_drops_privileged_segments_but_not_the_base_of_a_null_one() {
    let mut machine = long(|a| {
        to_user(a)?;
        a.cli()
    });
    machine.gate64(13, 15, HANDLER, 0);
    for (number, selector) in [(Seg::Fs, 0), (Seg::Gs, FLAT)] {
        let segment = &mut machine.cpu.seg[number as usize];
        segment.selector = selector;
        segment.base = 0x1234_5000;
        segment.rights = segment.rights.with_dpl(0).with_unusable(false);
    }
    exits_for(&mut machine, Reason::HLT);
    let [null, dropped] = [Seg::Fs, Seg::Gs].map(|number| machine.cpu.seg[number as usize]);
    assert_eq!((null.selector, null.base, null.rights.unusable()), (0, 0x1234_5000, true));
    assert_eq!((dropped.selector, dropped.base, dropped.rights.unusable()), (0, 0, true));
}

#[test]
fn an_ist_stack_is_taken_at_any_level() {
    let mut machine = long(|a| a.ud2());
    machine.memory.write(Hpa(TSS + 0x24), 0x16_0008u64);
    machine.gate64(6, 14, HANDLER, 1);
    exits_for(&mut machine, Reason::HLT);
    assert_eq!(machine.cpu.regs.gpr[4], 0x16_0000 - 40);
}

#[test]
fn syscall_and_sysret() {
    let mut machine = long(|a| {
        to_user(a)?;
        a.mov(eax, 7)?;
        a.syscall()?;
        a.add(eax, 1)?;
        a.int3()
    });
    let kernel = assemble(64, HANDLER + 0x100, |a| {
        a.shl(eax, 4)?;
        a.sysretq()
    });
    machine.memory.write_bytes(Hpa(HANDLER + 0x100), &kernel);
    machine.cpu.regs.star = 0x08 << 32 | 0x23 << 48;
    machine.cpu.regs.lstar = HANDLER + 0x100;
    machine.cpu.regs.fmask = Rflags::IF.bits();
    machine.gate64(3, 14, HANDLER, 0);
    // INT3 from level 3 needs a gate of that level.
    let at = Hpa(IDT + 16 * 3 + 5);
    let kind: u8 = machine.memory.read(at);
    machine.memory.write(at, kind | 0x60);
    exits_for(&mut machine, Reason::HLT);
    assert_eq!(machine.cpu.regs.gpr[0], 0x71);
    assert_eq!((machine.slot(1), machine.slot(4)), (0x33, 0x2b));
}

#[test]
fn single_steps_trap_after_each_instruction() {
    let mut machine = long(|a| {
        a.pushfq()?;
        a.or(dword_ptr(rsp), 0x100)?;
        a.popfq()?;
        a.nop()?;
        a.nop()
    });
    machine.gate64(1, 14, HANDLER, 0);
    exits_for(&mut machine, Reason::HLT);
    // After the instruction that follows POPF.
    assert_eq!(machine.slot(0), CODE + assembled_length());
    assert_eq!(machine.cpu.regs.dr6 & 0x4000, 0x4000);
}

fn assembled_length() -> u64 {
    let code = assemble(64, CODE, |a| {
        a.pushfq()?;
        a.or(dword_ptr(rsp), 0x100)?;
        a.popfq()?;
        a.nop()
    });
    code.len() as u64
}

#[test]
fn injected_interrupts_go_through_the_idt() {
    let mut machine = long(|a| a.nop());
    machine.gate64(0x20, 14, HANDLER, 0);
    let info = InterruptionInfo::new().with_vector(0x20).with_kind(EventType::ExternalInterrupt).with_valid(true);
    let Machine { cpu, memory, .. } = &mut machine;
    inject(cpu, memory, info, 0, 0).expect("the gate is there");
    assert_eq!((machine.cpu.rip, machine.slot(0)), (HANDLER, CODE));
    // Without the gate: #GP, #DF, triple fault.
    let Machine { cpu, memory, .. } = &mut machine;
    let trap = inject(cpu, memory, info.with_vector(0x21), 0, 0).expect_err("no gate");
    assert!(matches!(&trap, Trap::Exit(info) if info.reason.reason() == Reason::TRIPLE_FAULT), "{trap:?}");
}

#[test]
fn sti_and_mov_ss_shadow_one_instruction() {
    let mut machine = long(|a| {
        a.sti()?;
        a.nop()?;
        a.mov(ss, eax)?;
        a.nop()?;
        a.hlt()
    });
    machine.cpu.regs.gpr[0] = u64::from(FLAT);
    machine.run(1);
    assert_eq!(machine.cpu.interruptibility, Interruptibility::STI);
    machine.run(1);
    assert_eq!(machine.cpu.interruptibility, Interruptibility::empty());
    machine.run(1);
    assert_eq!(machine.cpu.interruptibility, Interruptibility::MOV_SS);
}

#[test]
fn real_mode_interrupts_and_returns() {
    // The segments' base is CODE; the vector table is at 0.
    let code = assemble(16, 0, |a| {
        a.mov(ax, 5)?;
        a.int(0x10)?;
        a.add(ax, 1)?;
        a.push(cs)?;
        a.pop(es)?;
        a.hlt()
    });
    let mut machine = Machine::new(Mode::Real, &code);
    machine.cpu.idtr = Table { base: 0, limit: 0x3ff };
    machine.cpu.seg[Seg::Cs as usize].base = CODE;
    // The handler is at 0x700:0, and returns to CODE by its selector.
    machine.cpu.seg[Seg::Cs as usize].selector = 0x600;
    machine.cpu.seg[Seg::Cs as usize].base = 0x6000;
    machine.memory.write_bytes(Hpa(0x6000), &code);
    let handler = assemble(16, 0, |a| {
        a.shl(ax, 2)?;
        a.iret()
    });
    machine.memory.write_bytes(Hpa(0x7000), &handler);
    machine.memory.write(Hpa(0x10 * 4), 0x0700_0000u32);
    exits_for(&mut machine, Reason::HLT);
    assert_eq!(machine.cpu.regs.gpr[0], 21);
    assert_eq!(machine.cpu.seg[Seg::Es as usize].base, 0x6000);
}

#[test]
fn from_real_mode_to_long_mode() {
    const BOOT: u64 = 0x7000;
    let mut machine = Machine::new(Mode::Real, &[]);
    machine.cpu.controls.secondary = SecondaryControls::UNRESTRICTED_GUEST;
    for seg in &mut machine.cpu.seg {
        seg.base = 0;
        seg.selector = 0;
    }
    machine.cpu.controls.msr_bitmap = Hpa(0x3f_0000);
    machine.cpu.controls.primary |= hv_defs::controls::PrimaryControls::MSR_BITMAPS;
    machine.cpu.rip = BOOT;
    machine.cpu.cr4 = hv_defs::x86::Cr4::VMXE.bits();
    machine.cpu.mode_changed();
    // LGDT from 0x6ff0, which the machine's table fits as it is.
    machine.memory.write(Hpa(0x6ff0), 0xffu16);
    machine.memory.write(Hpa(0x6ff2), crate::cpu::testing::GDT as u32);
    machine.cpu.gdtr = Table::default();
    let mut code = assemble(16, BOOT, |a| {
        a.lgdt(word_ptr(0x6ff0))?;
        a.mov(eax, cr0)?;
        a.or(al, 1)?;
        a.mov(cr0, eax)
    });
    // JMP 0x18:0x7100, of 16 bits.
    code.extend([0xea, 0x00, 0x71, 0x18, 0x00]);
    machine.memory.write_bytes(Hpa(BOOT), &code);
    let mut code = assemble(32, 0x7100, |a| {
        a.mov(eax, u32::from(FLAT))?;
        a.mov(ds, eax)?;
        a.mov(ss, eax)?;
        a.mov(esp, 0x18_0000)?;
        a.push(0x1234)?;
        a.mov(eax, cr4)?;
        a.or(eax, 0x20)?;
        a.mov(cr4, eax)?;
        a.mov(eax, 0x1000)?;
        a.mov(cr3, eax)?;
        a.mov(ecx, 0xc000_0080u32)?;
        a.rdmsr()?;
        a.or(eax, 0x100)?;
        a.wrmsr()?;
        a.mov(eax, cr0)?;
        a.or(eax, 0x8000_0000u32)?;
        a.mov(cr0, eax)
    });
    // JMP 0x08:0x7200, of 32 bits.
    code.extend([0xea, 0x00, 0x72, 0x00, 0x00, 0x08, 0x00]);
    machine.memory.write_bytes(Hpa(0x7100), &code);
    let code = assemble(64, 0x7200, |a| {
        a.mov(rax, 0x1122_3344_5566_7788u64)?;
        a.pop(rbx)?;
        a.hlt()
    });
    machine.memory.write_bytes(Hpa(0x7200), &code);
    exits_for(&mut machine, Reason::HLT);
    assert!(machine.cpu.code64());
    assert_eq!(machine.cpu.regs.gpr[0], 0x1122_3344_5566_7788);
    assert_eq!(machine.cpu.regs.gpr[3], 0x1234);
}

#[test]
fn protected_mode_gates_and_returns() {
    let code = assemble(32, CODE, |a| {
        a.mov(eax, 5)?;
        a.int(0x30)?;
        a.add(eax, 1)?;
        a.pushad()?;
        a.popad()?;
        a.hlt()
    });
    let mut machine = Machine::new(Mode::Protected32, &code);
    let handler = assemble(32, HANDLER, |a| {
        a.shl(eax, 2)?;
        a.iretd()
    });
    machine.memory.write_bytes(Hpa(HANDLER), &handler);
    let gate = HANDLER & 0xffff | 0x18 << 16 | (HANDLER & 0xffff_0000) << 32 | 0x8e00 << 32;
    machine.memory.write(Hpa(IDT + 8 * 0x30), gate);
    exits_for(&mut machine, Reason::HLT);
    assert_eq!((machine.cpu.regs.gpr[0], machine.cpu.regs.gpr[4]), (21, STACK));
}
