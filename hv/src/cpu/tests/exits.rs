//! Who exits, and what the exit says.

use crate::cpu::testing::{CODE, Machine, exit};
use hv_defs::addr::Hpa;
use hv_defs::controls::{PrimaryControls as P, SecondaryControls as S};
use hv_defs::exit::{EventType, InstructionInfo, IoAccess, Reason};
use iced_x86::IcedError;
use iced_x86::code_asm::*;

/// The reason, the qualification, the instruction's length and information.
#[track_caller]
fn check(
    prepare: impl Fn(&mut Machine),
    f: impl Fn(&mut CodeAssembler) -> Result<(), IcedError>,
    reason: Reason,
    qualification: u64,
    length: u32,
    info: u32,
) {
    let (exit, _) = exit(prepare, f);
    let got = (exit.reason.reason(), exit.qualification, exit.length, exit.instruction_info);
    assert_eq!(got, (reason, qualification, length, info), "{got:x?}");
}

fn plain(_: &mut Machine) {}

#[test]
fn instructions_that_always_exit() {
    check(plain, |a| a.cpuid(), Reason::CPUID, 0, 2, 0);
    check(plain, |a| a.vmcall(), Reason::VMCALL, 0, 3, 0);
    check(plain, |a| a.vmlaunch(), Reason::VMLAUNCH, 0, 3, 0);
    check(plain, |a| a.invd(), Reason::INVD, 0, 2, 0);
    // Without bitmaps every MSR access exits.
    check(plain, |a| a.rdmsr(), Reason::RDMSR, 0, 2, 0);
    check(plain, |a| a.wrmsr(), Reason::WRMSR, 0, 2, 0);
    check(plain, |a| a.hlt(), Reason::HLT, 0, 1, 0);
}

#[test]
fn vmx_operands() {
    let memory = InstructionInfo::new().with_address_size(2).with_segment(3).with_no_index(true).with_base(3);
    check(plain, |a| a.vmptrld(qword_ptr(rbx + 16)), Reason::VMPTRLD, 16, 4, memory.into());
    let indexed = InstructionInfo::new().with_scale(3).with_address_size(2).with_segment(3).with_index(9).with_base(3);
    check(plain, |a| a.vmclear(qword_ptr(rbx + r9 * 8 - 8)), Reason::VMCLEAR, -8i64 as u64, 7, indexed.into());
    let registers = InstructionInfo::new().with_is_register(true).with_reg1(2).with_reg2(1);
    check(plain, |a| a.vmread(rdx, rcx), Reason::VMREAD, 0, 3, registers.into());
    check(plain, |a| a.vmwrite(rcx, rdx), Reason::VMWRITE, 0, 3, registers.into());
    check(plain, |a| a.invept(rax, xmmword_ptr(rbx)), Reason::INVEPT, 0, 5, memory.with_reg2(0).into());
    check(plain, |a| a.invvpid(rdi, xmmword_ptr(rbx)), Reason::INVVPID, 0, 5, memory.with_reg2(7).into());
}

#[test]
fn control_registers() {
    let loads = |m: &mut Machine| m.cpu.controls.primary |= P::CR3_LOAD_EXITING;
    check(loads, |a| a.mov(cr3, rdi), Reason::CR_ACCESS, 0x703, 3, 0);
    let target = |m: &mut Machine| {
        m.cpu.controls.primary |= P::CR3_LOAD_EXITING;
        m.cpu.controls.cr3_target_count = 1;
        m.cpu.controls.cr3_targets[0] = m.cpu.cr3;
        m.cpu.regs.gpr[7] = m.cpu.cr3;
    };
    let both = |a: &mut CodeAssembler| {
        a.mov(cr3, rdi)?;
        a.hlt()
    };
    check(target, both, Reason::HLT, 0, 1, 0);
    let owned = |m: &mut Machine| {
        m.cpu.controls.cr4_mask = 1 << 13;
        m.cpu.controls.cr4_shadow = 0;
    };
    let (_, machine) = exit(owned, |a| {
        a.mov(rax, cr4)?;
        a.hlt()
    });
    assert_eq!(machine.cpu.regs.gpr[0] & 1 << 13, 0);
    check(
        owned,
        |a| {
            a.mov(rax, cr4)?;
            a.or(rax, 1 << 13)?;
            a.mov(cr4, rax)
        },
        Reason::CR_ACCESS,
        4,
        3,
        0,
    );
}

#[test]
fn ports() {
    let all = |m: &mut Machine| m.cpu.controls.primary |= P::UNCONDITIONAL_IO_EXITING;
    let out = IoAccess::new().with_immediate(true).with_port(0xe9);
    check(all, |a| a.out(0xe9, al), Reason::IO_INSTRUCTION, out.into(), 2, 0);
    let input = IoAccess::new().with_size_less_one(3).with_input(true).with_port(0x1234);
    check(
        |m| {
            all(m);
            m.cpu.regs.gpr[2] = 0x1234;
        },
        |a| a.in_(eax, dx),
        Reason::IO_INSTRUCTION,
        input.into(),
        1,
        0,
    );
    let (outs, _) = exit(
        |m| {
            all(m);
            m.cpu.regs.gpr[2] = 0x3f8;
            m.cpu.regs.gpr[6] = 0x20_0000;
            m.cpu.regs.gpr[1] = 3;
        },
        |a| a.rep().outsb(),
    );
    let access = IoAccess::new().with_string(true).with_rep(true).with_port(0x3f8);
    assert_eq!((outs.qualification, outs.gla, outs.length), (access.into(), 0x20_0000, 2));
    assert_eq!(outs.instruction_info, 2 << 7 | 3 << 15);
}

#[test]
fn bitmaps_of_msrs() {
    let open = |m: &mut Machine| {
        m.cpu.controls.primary |= P::MSR_BITMAPS;
        m.cpu.controls.msr_bitmap = Hpa(0x3f_0000);
        m.cpu.regs.gpr[1] = 0xc000_0082;
        m.cpu.regs.lstar = 0x1234_5678_9abc;
    };
    let (info, machine) = exit(open, |a| {
        a.rdmsr()?;
        a.hlt()
    });
    assert_eq!(info.reason.reason(), Reason::HLT);
    assert_eq!((machine.cpu.regs.gpr[0], machine.cpu.regs.gpr[2]), (0x5678_9abc, 0x1234));
    let closed = |m: &mut Machine| {
        open(m);
        m.memory.write(Hpa(0x3f_0000 + 1024 + 0x82 / 8), 1u8 << 2);
    };
    check(closed, |a| a.rdmsr(), Reason::RDMSR, 0, 2, 0);
}

#[test]
fn exceptions_by_bitmap() {
    let (info, machine) = exit(|m| m.cpu.controls.exception_bitmap = 1 << 6, |a| a.ud2());
    assert_eq!((info.reason.reason(), machine.cpu.rip), (Reason::EXCEPTION_NMI, CODE));
    assert_eq!((info.intr_info.vector(), info.intr_info.kind()), (6, EventType::HardwareException));
    let fault = |a: &mut CodeAssembler| a.mov(rax, qword_ptr(0x4000_0000u64));
    let (info, _) = exit(|m| m.cpu.controls.exception_bitmap = 1 << 14, fault);
    assert_eq!((info.qualification, info.intr_error), (0x4000_0000, 0));
    // With a mask that the error code does not match, the bit means the contrary.
    let (info, _) = exit(
        |m| {
            m.cpu.controls.exception_bitmap = 1 << 14;
            m.cpu.controls.page_fault_mask = 1;
            m.cpu.controls.page_fault_match = 1;
        },
        fault,
    );
    assert_eq!(info.reason.reason(), Reason::TRIPLE_FAULT);
}

#[test]
fn an_exit_in_delivery_tells_of_the_event() {
    // #UD's gate is none: #GP, which exits; its delivery was of #UD.
    let (info, _) = exit(|m| m.cpu.controls.exception_bitmap = 1 << 13, |a| a.ud2());
    assert_eq!((info.intr_info.vector(), info.intr_error), (13, 6 << 3 | 2 | 1));
    assert_eq!((info.idt_info.valid(), info.idt_info.vector()), (true, 6));
    // A software interrupt is told of with its length, and RIP stays at it.
    let (info, machine) = exit(|m| m.cpu.controls.exception_bitmap = 1 << 13, |a| a.int(0x80));
    assert_eq!((info.idt_info.kind(), info.length, machine.cpu.rip), (EventType::SoftwareInterrupt, 2, CODE));
    // A page fault, here a write's, whose gate cannot be read: the second fault, a read's, exits before the two make a
    // double fault. So a hypervisor without EPT gets to see that its shadow of the guest's IDT is missing.
    let reads = |m: &mut Machine| {
        m.cpu.controls.exception_bitmap = 1 << 14;
        m.cpu.controls.page_fault_mask = 2;
        m.cpu.idtr.base = 0x5000_0000;
    };
    let (info, _) = exit(reads, |a| a.mov(qword_ptr(0x4000_0000u64), rax));
    assert_eq!((info.intr_info.vector(), info.intr_error, info.qualification), (14, 0, 0x5000_0000 + 14 * 16));
    assert_eq!((info.idt_info.vector(), info.idt_info.kind(), info.idt_error), (14, EventType::HardwareException, 2));
}

#[test]
fn windows_and_monitor_traps() {
    let window = |m: &mut Machine| m.cpu.controls.primary |= P::INTERRUPT_WINDOW_EXITING;
    let code = |a: &mut CodeAssembler| {
        a.sti()?;
        a.nop()?;
        a.hlt()
    };
    let (info, machine) = exit(window, code);
    assert_eq!((info.reason.reason(), machine.cpu.rip), (Reason::INTERRUPT_WINDOW, CODE + 2));
    let (info, machine) = exit(|m| m.cpu.controls.primary |= P::MONITOR_TRAP_FLAG, code);
    assert_eq!((info.reason.reason(), machine.clock), (Reason::MONITOR_TRAP_FLAG, 1));
    let (info, machine) = exit(
        |m| m.cpu.preemption_deadline = 2,
        |a| {
            a.nop()?;
            a.nop()?;
            a.nop()
        },
    );
    assert_eq!((info.reason.reason(), machine.clock), (Reason::PREEMPTION_TIMER, 2));
}

#[test]
fn features_that_are_off_are_undefined() {
    let ud = |m: &mut Machine| m.cpu.controls.exception_bitmap = 1 << 6;
    let undefined = |f: fn(&mut CodeAssembler) -> Result<(), IcedError>| {
        let (info, _) = exit(ud, f);
        assert_eq!((info.reason.reason(), info.intr_info.vector()), (Reason::EXCEPTION_NMI, 6));
    };
    undefined(|a| a.rdtscp());
    undefined(|a| a.invpcid(rax, xmmword_ptr(rbx)));
    undefined(|a| a.vmfunc());
    undefined(|a| a.rdfsbase(rax));
    let on = |m: &mut Machine| {
        m.cpu.controls.secondary |= S::RDTSCP;
        m.cpu.controls.primary |= P::RDTSC_EXITING;
    };
    check(on, |a| a.rdtscp(), Reason::RDTSCP, 0, 3, 0);
}
