//! The virtual APIC: which accesses are virtualized, what comes of writes, and when virtual interrupts are delivered.

use crate::cpu::testing::{CODE, Machine, Mode, STACK, assembled};
use crate::cpu::{Trap, Vectors};
use hv_defs::addr::Hpa;
use hv_defs::controls::{ActivityState, ExitControls, PinBased, PrimaryControls as P, SecondaryControls as S};
use hv_defs::exit::{ApicAccess, Reason};
use iced_x86::IcedError;
use iced_x86::code_asm::*;

/// The APIC-access page and the virtual-APIC page.
const ACCESS: u64 = 0x20_0000;
const VIRTUAL: u64 = 0x21_0000;
/// The posted-interrupt descriptor.
const DESCRIPTOR: u64 = 0x22_0000;
/// Where interrupts are taken: HLT.
const HANDLER: u64 = 0x23_0000;

const READ: u8 = 0;
const WRITE: u8 = 1;

type Code = Result<(), IcedError>;

/// A machine under TPR shadow and these controls; interrupts are taken at [`HANDLER`].
fn machine(controls: S, f: impl Fn(&mut CodeAssembler) -> Code) -> Machine {
    let mut machine = Machine::new(Mode::Long, &assembled(f));
    let m = &mut machine;
    m.cpu.controls.primary |= P::TPR_SHADOW | P::MSR_BITMAPS;
    m.cpu.controls.msr_bitmap = Hpa(0x3f_0000);
    m.cpu.controls.secondary = controls;
    m.cpu.controls.virtual_apic = Hpa(VIRTUAL);
    m.cpu.controls.apic_access = controls.contains(S::VIRTUALIZE_APIC_ACCESSES).then_some(Hpa(ACCESS));
    m.cpu.mmu.set_controls(&m.cpu.controls, 0);
    m.cpu.mode_changed();
    m.memory.write(Hpa(HANDLER), 0xf4u8);
    for vector in 0x20..=255 {
        m.gate64(vector, 14, HANDLER, 0);
    }
    machine
}

/// What came of it: the reason, the qualification and RIP's distance from the code.
fn outcome(machine: &mut Machine) -> (Reason, u64, u64) {
    let info = machine.exit();
    (info.reason.reason(), info.qualification, machine.cpu.rip.wrapping_sub(CODE))
}

fn register(machine: &Machine, offset: u64) -> u32 {
    machine.memory.read(Hpa(VIRTUAL + offset))
}

fn set(machine: &mut Machine, offset: u64, value: u32) {
    machine.memory.write(Hpa(VIRTUAL + offset), value);
}

fn access(offset: u16, kind: u8) -> u64 {
    ApicAccess::new().with_offset(offset).with_kind(kind).into()
}

const PLAIN: S = S::VIRTUALIZE_APIC_ACCESSES;
const REGISTERS: S = PLAIN.union(S::APIC_REGISTER_VIRTUALIZATION);
const DELIVERY: S = PLAIN.union(S::VIRTUAL_INTERRUPT_DELIVERY);
const BOTH: S = REGISTERS.union(DELIVERY);
const X2APIC: S = S::VIRTUALIZE_X2APIC;
const X2APIC_ALL: S = X2APIC.union(S::APIC_REGISTER_VIRTUALIZATION).union(S::VIRTUAL_INTERRUPT_DELIVERY);

/// A read of four bytes, virtualized or not.
fn check_read(controls: S, offset: u16, virtualized: bool) {
    let mut m = machine(controls, |a| {
        a.mov(edx, dword_ptr(ACCESS + u64::from(offset)))?;
        a.hlt()
    });
    set(&mut m, offset.into(), 0x1234_5678);
    let info = m.exit();
    if virtualized {
        assert_eq!((info.reason.reason(), m.cpu.regs.gpr[2]), (Reason::HLT, 0x1234_5678), "{controls:?} {offset:#x}");
    } else {
        let got = (info.reason.reason(), info.qualification, info.length, m.cpu.rip);
        assert_eq!(got, (Reason::APIC_ACCESS, access(offset, READ), 7, CODE), "{controls:?} {offset:#x}");
    }
}

#[test]
fn reads_that_are_virtualized() {
    for offset in (0..0x1000).step_by(4) {
        check_read(PLAIN, offset, offset == 0x80);
        check_read(DELIVERY, offset, matches!(offset, 0x80 | 0xb0 | 0x300));
        let all = offset % 16 == 0 && matches!(offset >> 4, 2 | 3 | 8 | 0xb | 0xd..=0x28 | 0x30..=0x38 | 0x3e);
        check_read(REGISTERS, offset, all);
    }
    // Without TPR shadow none is.
    let mut m = machine(BOTH, |a| a.mov(eax, dword_ptr(ACCESS + 0x80)));
    m.cpu.controls.primary -= P::TPR_SHADOW;
    assert_eq!(outcome(&mut m), (Reason::APIC_ACCESS, access(0x80, READ), 0));
}

#[test]
fn what_is_no_plain_access_exits() {
    let check = |f: fn(&mut CodeAssembler) -> Code, offset, kind| {
        assert_eq!(outcome(&mut machine(BOTH, f)), (Reason::APIC_ACCESS, access(offset, kind), 0));
    };
    check(|a| a.mov(rax, qword_ptr(ACCESS + 0x80)), 0x80, READ);
    check(|a| a.mov(qword_ptr(ACCESS + 0x80), rax), 0x80, WRITE);
    check(|a| a.mov(ax, word_ptr(ACCESS + 0x83)), 0x83, READ);
    check(|a| a.mov(al, byte_ptr(ACCESS + 0x84)), 0x84, READ);
    check(|a| a.movups(xmm0, xmmword_ptr(ACCESS + 0x80)), 0x80, READ);
    check(|a| a.mov(dword_ptr(ACCESS + 0x30), eax), 0x30, WRITE);
    check(|a| a.mov(dword_ptr(ACCESS + 0x390), eax), 0x390, WRITE);
    check(|a| a.or(dword_ptr(ACCESS + 0x100), 1), 0x100, WRITE);
    let mut m = machine(BOTH, |a| a.jmp(rax));
    m.cpu.regs.gpr[0] = ACCESS;
    assert_eq!(outcome(&mut m), (Reason::APIC_ACCESS, access(0, 2), ACCESS - CODE));
}

#[test]
fn an_event_s_own_access_is_told_of_as_such() {
    let mut m = machine(BOTH, |a| a.int3());
    m.gate64(3, 14, HANDLER, 0);
    m.cpu.regs.gpr[4] = ACCESS + 0x90;
    let info = m.exit();
    assert_eq!((info.reason.reason(), info.qualification), (Reason::APIC_ACCESS, access(0x88, 3)));
    assert_eq!((info.idt_info.valid(), info.idt_info.vector(), info.length), (true, 3, 1));
}

/// A write of four bytes that is virtualized, what it leaves in the register, and what follows.
#[track_caller]
fn check_write(controls: S, offset: u16, value: u32, left: u32, follows: Reason, qualification: u64) {
    let mut m = machine(controls, |a| {
        a.mov(dword_ptr(ACCESS + u64::from(offset)), value)?;
        a.hlt()
    });
    let info = m.exit();
    assert_eq!((info.reason.reason(), info.qualification), (follows, qualification), "{offset:#x} {value:#x}");
    assert_eq!(register(&m, offset.into()), left, "{offset:#x} {value:#x}");
    assert_eq!(m.cpu.rip, CODE + 11, "what follows a write comes behind it");
    assert_eq!(m.clock, 1);
}

#[test]
fn writes_and_what_follows_them() {
    for controls in [PLAIN, REGISTERS, DELIVERY, BOTH] {
        check_write(controls, 0x80, 0xaabb_cc50, 0x50, Reason::HLT, 0);
    }
    check_write(REGISTERS, 0xb0, 0, 0, Reason::APIC_WRITE, 0xb0);
    check_write(DELIVERY, 0xb0, 7, 0, Reason::HLT, 0);
    check_write(REGISTERS, 0x300, 0x4_0055, 0x4_0055, Reason::APIC_WRITE, 0x300);
    check_write(REGISTERS, 0x310, 0x1122_3344, 0x1100_0000, Reason::HLT, 0);
    for offset in [0x20, 0xd0, 0xe0, 0xf0, 0x280, 0x320, 0x370, 0x380, 0x3e0] {
        check_write(BOTH, offset, 0x1f, 0x1f, Reason::APIC_WRITE, offset.into());
    }
    // An IPI to others, to all, of another kind, with reserved bits, or of a vector that none may have.
    for command in [0x51, 0x8_0051, 0xc_0051, 0x4_0451, 0x4_8051, 0x4_1051, 0x14_0051, 0x4_000f] {
        check_write(DELIVERY, 0x300, command, command, Reason::APIC_WRITE, 0x300);
    }
    // One to itself, whatever destination mode and level say, waits while interrupts are off.
    for command in [0x4_0051, 0x4_4851] {
        check_write(DELIVERY, 0x300, command, command, Reason::HLT, 0);
    }
}

#[test]
fn a_byte_of_a_register_can_be_written_and_an_operand_be_changed() {
    let mut m = machine(REGISTERS, |a| {
        a.mov(byte_ptr(ACCESS + 0xd3), 0x12)?;
        a.hlt()
    });
    assert_eq!(outcome(&mut m), (Reason::APIC_WRITE, 0xd3, 8));
    assert_eq!(register(&m, 0xd0), 0x1200_0000);
    let mut m = machine(PLAIN, |a| {
        a.add(dword_ptr(ACCESS + 0x80), 0x10)?;
        a.hlt()
    });
    set(&mut m, 0x80, 0x20);
    assert_eq!(outcome(&mut m).0, Reason::HLT);
    assert_eq!(register(&m, 0x80), 0x30);
}

#[test]
fn each_iteration_of_a_string_instruction_is_followed_up() {
    let mut m = machine(BOTH, |a| {
        a.rep().stosd()?;
        a.hlt()
    });
    (m.cpu.regs.gpr[7], m.cpu.regs.gpr[1], m.cpu.regs.gpr[0]) = (ACCESS + 0xd0, 3, 5);
    assert_eq!(outcome(&mut m), (Reason::APIC_WRITE, 0xd0, 0));
    assert_eq!((m.cpu.regs.gpr[7], m.cpu.regs.gpr[1]), (ACCESS + 0xd4, 2));
    assert_eq!(outcome(&mut m), (Reason::APIC_ACCESS, access(0xd4, WRITE), 0));
}

#[test]
fn the_task_priority_threshold() {
    let by_memory = |a: &mut CodeAssembler| {
        a.mov(dword_ptr(ACCESS + 0x80), ebx)?;
        a.hlt()
    };
    let by_cr8 = |a: &mut CodeAssembler| {
        a.mov(cr8, rbx)?;
        a.hlt()
    };
    let check = |controls: S, priority: u64, expected| {
        let mut m = machine(controls, by_memory);
        m.cpu.controls.tpr_threshold = 5;
        m.cpu.regs.gpr[3] = priority << 4;
        assert_eq!(outcome(&mut m), (expected, 0, 7));
        let mut m = machine(controls, by_cr8);
        m.cpu.controls.tpr_threshold = 5;
        m.cpu.regs.gpr[3] = priority;
        assert_eq!(outcome(&mut m), (expected, 0, 4));
        assert_eq!(register(&m, 0x80), (priority << 4) as u32);
    };
    check(PLAIN, 5, Reason::HLT);
    check(PLAIN, 4, Reason::TPR_BELOW_THRESHOLD);
    // With virtual-interrupt delivery there is no threshold.
    check(DELIVERY, 4, Reason::HLT);
}

/// A machine with a virtual interrupt requested, under a task priority.
fn requesting(vector: u8, priority: u32, f: impl Fn(&mut CodeAssembler) -> Code) -> Machine {
    let mut m = machine(BOTH, f);
    m.cpu.rvi = vector;
    request(&mut m, vector);
    set(&mut m, 0x80, priority);
    m.cpu.set_rflags(0x202);
    m.cpu.enter_virtual_apic(&mut m.memory);
    m
}

fn request(m: &mut Machine, vector: u8) {
    let at = 0x200 + 16 * u64::from(vector / 32);
    let bits = register(m, at) | 1 << (vector % 32);
    set(m, at, bits);
}

/// Whether the interrupt was taken before the code's HLT.
#[track_caller]
fn check_taken(mut m: Machine, taken: bool) -> Machine {
    let info = m.exit();
    assert_eq!(info.reason.reason(), Reason::HLT);
    assert_eq!(m.cpu.rip == HANDLER, taken, "at {:#x}", m.cpu.rip);
    m
}

#[test]
fn a_virtual_interrupt_is_delivered_as_one_is() {
    let mut m = requesting(0x51, 0x20, |a| a.nop());
    request(&mut m, 0x31);
    let m = check_taken(m, true);
    assert_eq!((m.cpu.svi, m.cpu.rvi), (0x51, 0x31));
    assert_eq!((register(&m, 0x120), register(&m, 0x220), register(&m, 0x210)), (1 << 17, 0, 1 << 17));
    assert_eq!(register(&m, 0xa0), 0x50);
    assert_eq!((m.slot(0), m.cpu.rflags() & 0x200), (CODE, 0));
    assert_eq!(m.cpu.interrupt_status(), 0x5131);
}

#[test]
fn what_holds_a_virtual_interrupt_back() {
    let hlt = |a: &mut CodeAssembler| a.hlt();
    check_taken(requesting(0x51, 0x4f, hlt), true);
    check_taken(requesting(0x51, 0x50, hlt), false);
    let mut m = requesting(0x51, 0, hlt);
    m.cpu.svi = 0x58;
    m.cpu.enter_virtual_apic(&mut m.memory);
    assert_eq!(register(&m, 0xa0), 0x50);
    check_taken(m, false);
    let mut m = requesting(0x51, 0, hlt);
    m.cpu.set_rflags(2);
    check_taken(m, false);
    // The interrupt window comes instead.
    let mut m = machine(BOTH, hlt);
    m.cpu.controls.primary |= P::INTERRUPT_WINDOW_EXITING;
    m.cpu.rvi = 0x51;
    m.cpu.set_rflags(0x202);
    m.cpu.enter_virtual_apic(&mut m.memory);
    assert_eq!(outcome(&mut m), (Reason::INTERRUPT_WINDOW, 0, 0));
}

#[test]
fn sti_holds_it_back_for_one_instruction() {
    let mut m = requesting(0x51, 0, |a| {
        a.sti()?;
        a.nop()?;
        a.hlt()
    });
    m.cpu.set_rflags(2);
    let m = check_taken(m, true);
    assert_eq!(m.slot(0), CODE + 2);
}

#[test]
fn it_wakes_a_guest_that_halted() {
    let mut m = requesting(0x51, 0, |a| a.hlt());
    m.cpu.activity = ActivityState::Hlt;
    let m = check_taken(m, true);
    assert_eq!((m.cpu.activity, m.clock), (ActivityState::Active, 1));
}

#[test]
fn it_comes_before_the_host_s_timer_and_behind_what_is_first() {
    let mut m = requesting(0x51, 0, |a| a.nop());
    let until = m.clock;
    let trap = crate::cpu::run(&mut m.cpu, &mut m.memory, &mut m.blocks, &mut m.clock, until);
    let Trap::Exit(info) = trap else { panic!("{trap:?}") };
    assert_eq!((info.reason.reason(), m.cpu.rip), (Reason::EXTERNAL_INTERRUPT, HANDLER));
    let mut m = requesting(0x51, 0, |a| a.nop());
    m.cpu.preemption_deadline = 0;
    assert_eq!(outcome(&mut m), (Reason::PREEMPTION_TIMER, 0, 0));
}

#[test]
fn a_lowered_priority_an_ipi_and_an_end_let_it_through() {
    check_taken(
        requesting(0x51, 0x60, |a| {
            a.mov(dword_ptr(ACCESS + 0x80), 0x10)?;
            a.hlt()
        }),
        true,
    );
    let m = check_taken(
        requesting(0x31, 0x40, |a| {
            a.mov(dword_ptr(ACCESS + 0x300), 0x4_0077)?;
            a.hlt()
        }),
        true,
    );
    assert_eq!((m.cpu.svi, m.cpu.rvi), (0x77, 0x31));
    let mut m = requesting(0x51, 0, |a| {
        a.mov(dword_ptr(ACCESS + 0xb0), 0)?;
        a.hlt()
    });
    // One of its own class and one below are in service.
    m.cpu.svi = 0x5f;
    set(&mut m, 0x120, 1 << 31);
    set(&mut m, 0x110, 1 << 3);
    m.cpu.enter_virtual_apic(&mut m.memory);
    let m = check_taken(m, true);
    assert_eq!((m.cpu.svi, register(&m, 0x120), register(&m, 0x110)), (0x51, 1 << 17, 1 << 3));
}

#[test]
fn an_end_exits_where_the_bitmap_says_so() {
    let mut m = requesting(0x51, 0, |a| {
        a.mov(dword_ptr(ACCESS + 0xb0), 0)?;
        a.hlt()
    });
    m.cpu.controls.eoi_exit_bitmap[1] = 1 << (0x5f - 0x40);
    m.cpu.svi = 0x5f;
    set(&mut m, 0x120, 1 << 31);
    m.cpu.enter_virtual_apic(&mut m.memory);
    assert_eq!(outcome(&mut m), (Reason::VIRTUALIZED_EOI, 0x5f, 11));
    // What waits is looked at at the next entry.
    assert_eq!((m.cpu.svi, m.cpu.rvi, register(&m, 0xa0)), (0, 0x51, 0));
    m.cpu.enter_virtual_apic(&mut m.memory);
    check_taken(m, true);
}

/// RDMSR of the x2APIC's register `number` under these controls: its value, or #GP.
#[track_caller]
fn check_rdmsr(controls: S, number: u64, expected: Option<u64>) {
    let mut m = machine(controls, |a| {
        a.rdmsr()?;
        a.hlt()
    });
    m.cpu.controls.exception_bitmap = 1 << 13;
    m.memory.write(Hpa(VIRTUAL + (number << 4)), 0x1111_2222_3333_4444u64);
    m.cpu.regs.gpr[1] = 0x800 + number;
    let info = m.exit();
    let got = match info.reason.reason() {
        Reason::HLT => Some(m.cpu.regs.gpr[2] << 32 | m.cpu.regs.gpr[0]),
        Reason::EXCEPTION_NMI => None,
        other => panic!("{other}"),
    };
    assert_eq!(got, expected, "{controls:?} {number:#x}");
}

#[test]
fn x2apic_reads() {
    let all = 0x1111_2222_3333_4444;
    check_rdmsr(X2APIC, 8, Some(all));
    for number in [2, 3, 0xa, 0x39, 0xff] {
        check_rdmsr(X2APIC, number, None);
        check_rdmsr(X2APIC_ALL, number, Some(all));
    }
    check_rdmsr(PLAIN, 8, None);
}

/// WRMSR of a register of the x2APIC's: what follows.
fn wrmsr(controls: S, number: u64, value: u64) -> Machine {
    let mut m = machine(controls, |a| {
        a.wrmsr()?;
        a.hlt()
    });
    m.cpu.controls.exception_bitmap = 1 << 13;
    (m.cpu.regs.gpr[1], m.cpu.regs.gpr[0], m.cpu.regs.gpr[2]) = (0x800 + number, value & 0xffff_ffff, value >> 32);
    m
}

#[test]
fn x2apic_writes() {
    #[track_caller]
    fn check(controls: S, number: u64, value: u64, expected: (Reason, u64, u64)) {
        assert_eq!(outcome(&mut wrmsr(controls, number, value)), expected, "{controls:?} {number:#x} {value:#x}");
    }
    let (done, fault) = ((Reason::HLT, 0, 2), (Reason::EXCEPTION_NMI, 0, 0));
    check(X2APIC, 8, 0xff, done);
    check(X2APIC, 8, 0x100, fault);
    check(X2APIC, 8, 1 << 32, fault);
    check(X2APIC, 0xb, 0, fault);
    check(X2APIC, 0x3f, 0x51, fault);
    check(X2APIC_ALL, 0xb, 0, done);
    check(X2APIC_ALL, 0xb, 1, fault);
    check(X2APIC_ALL, 0x3f, 0x51, done);
    check(X2APIC_ALL, 0x3f, 0x151, fault);
    check(X2APIC_ALL, 0x3f, 0xf, (Reason::APIC_WRITE, 0x3f0, 2));
    check(X2APIC_ALL, 0x30, 0x4_0051, fault);
    let mut m = wrmsr(X2APIC, 8, 0x40);
    m.cpu.controls.tpr_threshold = 5;
    assert_eq!(outcome(&mut m), (Reason::TPR_BELOW_THRESHOLD, 0, 2));
    let mut m = wrmsr(X2APIC_ALL, 0x3f, 0x51);
    m.cpu.set_rflags(0x202);
    let m = check_taken(m, true);
    assert_eq!((m.cpu.svi, register(&m, 0x3f0)), (0x51, 0x51));
}

/// A machine that takes posted interrupts by vector 0xf2.
fn posting(requests: &[u8]) -> Machine {
    let mut m = requesting(0x31, 0x40, |a| a.hlt());
    m.cpu.controls.pin |= PinBased::POSTED_INTERRUPTS;
    m.cpu.controls.exit |= ExitControls::ACKNOWLEDGE_INTERRUPT;
    m.cpu.controls.posted_interrupt_vector = 0xf2;
    m.cpu.controls.posted_interrupt_descriptor = Hpa(DESCRIPTOR);
    for vector in requests {
        let at = Hpa(DESCRIPTOR + u64::from(vector / 8));
        let bits = m.memory.read::<u8>(at) | 1 << (vector % 8);
        m.memory.write(at, bits);
    }
    m.memory.write(Hpa(DESCRIPTOR + 32), 3u8);
    m
}

#[test]
fn a_notification_takes_posted_interrupts_in() {
    let mut m = posting(&[0x51, 0xc3, 0x20]);
    m.cpu.interrupts.add(0xf2);
    let m = check_taken(m, true);
    assert_eq!((m.cpu.svi, m.cpu.rvi), (0xc3, 0x51));
    assert_eq!((register(&m, 0x210), register(&m, 0x220), register(&m, 0x260)), (1 << 17 | 1, 1 << 17, 0));
    assert_eq!(m.memory.bytes(Hpa(DESCRIPTOR), 40).map(|d| d.iter().map(|b| u32::from(*b)).sum()), Some(2u32));
    assert!(m.cpu.interrupts.is_empty());
    // What is posted may be less urgent than what is in the way.
    let mut m = posting(&[0x45]);
    m.cpu.interrupts.add(0xf2);
    let m = check_taken(m, false);
    assert_eq!(m.cpu.rvi, 0x45);
    // One that wakes nobody leaves the guest halted.
    let mut m = posting(&[]);
    m.cpu.interrupts.add(0xf2);
    m.cpu.activity = ActivityState::Hlt;
    assert_eq!(outcome(&mut m), (Reason::EXTERNAL_INTERRUPT, 0, 0));
    assert_eq!((m.cpu.activity, m.clock), (ActivityState::Hlt, 100));
}

#[test]
fn other_interrupts_exit_and_are_acknowledged() {
    let mut m = posting(&[0x51]);
    m.cpu.interrupts.add(0xf1);
    let info = m.exit();
    let vector = (info.intr_info.valid(), info.intr_info.vector());
    assert_eq!((info.reason.reason(), vector), (Reason::EXTERNAL_INTERRUPT, (true, 0xf1)));
    assert_eq!((m.cpu.interrupts, m.memory.read::<u8>(Hpa(DESCRIPTOR + 32))), (Vectors::default(), 3));
    // Without "process posted interrupts" a notification is an interrupt like any other.
    let mut m = posting(&[0x51]);
    m.cpu.controls.pin -= PinBased::POSTED_INTERRUPTS;
    m.cpu.interrupts.add(0xf2);
    assert_eq!(m.exit().intr_info.vector(), 0xf2);
    // It waits where it is not acknowledged.
    let mut m = posting(&[0x51]);
    m.cpu.controls.exit -= ExitControls::ACKNOWLEDGE_INTERRUPT;
    m.cpu.interrupts.add(0xf1);
    assert!(!m.exit().intr_info.valid() && !m.cpu.interrupts.is_empty());
}

#[test]
fn a_delivery_that_exits_tells_of_the_interrupt() {
    let mut m = requesting(0x51, 0, |a| a.hlt());
    m.cpu.controls.exception_bitmap = 1 << 13;
    m.gate64(0x51, 0, HANDLER, 0);
    let info = m.exit();
    assert_eq!((info.reason.reason(), info.intr_info.vector()), (Reason::EXCEPTION_NMI, 13));
    assert_eq!((info.idt_info.valid(), info.idt_info.vector()), (true, 0x51));
    assert_eq!((m.cpu.svi, m.cpu.rvi, m.cpu.regs.gpr[4]), (0x51, 0, STACK));
}
