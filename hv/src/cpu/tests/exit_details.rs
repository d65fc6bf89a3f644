//! What exits say of instructions with operands, and what they leave of the guest's state.

use crate::cpu::testing::{CODE, Machine, Mode, exit, exit_in};
use crate::cpu::{Trap, inject};
use hv_defs::addr::Hpa;
use hv_defs::controls::{PrimaryControls as P, SecondaryControls as S};
use hv_defs::exit::{CrAccess, CrAccessKind, DrAccess, EventType, InstructionInfo, InterruptionInfo, IoAccess, Reason};
use hv_defs::x86::{Rflags, Seg};
use iced_x86::IcedError;
use iced_x86::code_asm::*;

/// Every control that makes an instruction exit.
fn all(machine: &mut Machine) {
    let controls = &mut machine.cpu.controls;
    controls.primary |= P::INVLPG_EXITING
        | P::MWAIT_EXITING
        | P::RDPMC_EXITING
        | P::RDTSC_EXITING
        | P::CR3_LOAD_EXITING
        | P::CR3_STORE_EXITING
        | P::CR8_LOAD_EXITING
        | P::CR8_STORE_EXITING
        | P::MOV_DR_EXITING
        | P::UNCONDITIONAL_IO_EXITING
        | P::MONITOR_EXITING
        | P::PAUSE_EXITING;
    controls.secondary |= S::DESCRIPTOR_TABLE_EXITING
        | S::RDTSCP
        | S::WBINVD_EXITING
        | S::RDRAND_EXITING
        | S::RDSEED_EXITING
        | S::INVPCID
        | S::XSAVES;
    controls.cr0_mask = 0xf;
    controls.cr0_shadow = 0x9;
    controls.xss_bitmap = u64::MAX;
}

/// The reason, the qualification, the length and the instruction information of an exit with every control on.
#[track_caller]
fn check(
    f: impl Fn(&mut CodeAssembler) -> Result<(), IcedError>,
    reason: Reason,
    qualification: u64,
    length: u32,
    info: u32,
) {
    let (exit, machine) = exit(all, f);
    let got = (exit.reason.reason(), exit.qualification, exit.length, exit.instruction_info);
    assert_eq!(got, (reason, qualification, length, info), "{got:x?}");
    assert_eq!((machine.cpu.rip, exit.idt_info.valid(), exit.intr_info.valid()), (CODE, false, false));
}

/// A memory operand at \[RBX + displacement\].
const AT_RBX: InstructionInfo =
    InstructionInfo::new().with_address_size(2).with_segment(3).with_no_index(true).with_base(3);

#[test]
fn descriptor_tables() {
    let (gdtr, ldtr) = (Reason::GDTR_IDTR_ACCESS, Reason::LDTR_TR_ACCESS);
    // Bit 11 is the operand size, bits 29:28 the instruction.
    let table = |kind: u32| u32::from(AT_RBX) | 1 << 11 | kind << 28;
    check(|a| a.sgdt(ptr(rbx + 16)), gdtr, 16, 4, table(0));
    check(|a| a.sidt(ptr(rbx - 8)), gdtr, -8i64 as u64, 4, table(1));
    check(|a| a.lgdt(ptr(rbx)), gdtr, 0, 3, table(2));
    check(|a| a.lidt(ptr(rbx)), gdtr, 0, 3, table(3));
    let register =
        |kind: u32, number: u8| u32::from(InstructionInfo::new().with_is_register(true).with_reg1(number)) | kind << 28;
    check(|a| a.sldt(edx), ldtr, 0, 3, register(0, 2));
    check(|a| a.str(esi), ldtr, 0, 3, register(1, 6));
    check(|a| a.lldt(cx), ldtr, 0, 4, register(2, 1));
    check(|a| a.ltr(r9w), ldtr, 0, 5, register(3, 9));
    check(|a| a.sldt(word_ptr(rbx + 4)), ldtr, 4, 4, u32::from(AT_RBX));
    check(|a| a.ltr(word_ptr(rbx + 4)), ldtr, 4, 4, u32::from(AT_RBX) | 3 << 28);
}

#[test]
fn registers_and_their_sizes() {
    // Bits 6:3 are the register, bits 12:11 the size.
    check(|a| a.rdrand(cx), Reason::RDRAND, 0, 4, 1 << 3);
    check(|a| a.rdrand(edx), Reason::RDRAND, 0, 3, 2 << 3 | 1 << 11);
    check(|a| a.rdrand(r8), Reason::RDRAND, 0, 4, 8 << 3 | 2 << 11);
    check(|a| a.rdseed(edi), Reason::RDSEED, 0, 3, 7 << 3 | 1 << 11);
    check(|a| a.invpcid(r10, xmmword_ptr(rbx + 32)), Reason::INVPCID, 32, 7, AT_RBX.with_reg2(10).into());
}

#[test]
fn without_more_to_say_than_their_length() {
    check(|a| a.rdtsc(), Reason::RDTSC, 0, 2, 0);
    check(|a| a.rdtscp(), Reason::RDTSCP, 0, 3, 0);
    check(|a| a.rdpmc(), Reason::RDPMC, 0, 2, 0);
    check(|a| a.pause(), Reason::PAUSE, 0, 2, 0);
    check(|a| a.wbinvd(), Reason::WBINVD, 0, 2, 0);
    check(|a| a.monitor(), Reason::MONITOR, 0, 3, 0);
    check(|a| a.mwait(), Reason::MWAIT, 0, 3, 0);
    check(|a| a.xsetbv(), Reason::XSETBV, 0, 3, 0);
    check(|a| a.invlpg(ptr(0x1234_5000u64)), Reason::INVLPG, 0x1234_5000, 8, 0);
    // XSAVES exits for components that IA32_XSS has enabled, and there are none.
    assert_eq!(
        exit(all, |a| {
            a.mov(rax, -1i64)?;
            a.mov(rdx, rax)?;
            a.mov(rbx, 0x20_0000u64)?;
            a.xsaves(ptr(rbx))?;
            a.hlt()
        })
        .0
        .reason
        .reason(),
        Reason::HLT
    );
}

#[test]
fn control_and_debug_registers() {
    let cr = |cr: u8, kind: CrAccessKind, gpr: u8| u64::from(CrAccess::new().with_cr(cr).with_kind(kind).with_gpr(gpr));
    check(|a| a.mov(r9, cr3), Reason::CR_ACCESS, cr(3, CrAccessKind::MovFrom, 9), 4, 0);
    check(|a| a.mov(cr8, rcx), Reason::CR_ACCESS, cr(8, CrAccessKind::MovTo, 1), 4, 0);
    check(|a| a.mov(rcx, cr8), Reason::CR_ACCESS, cr(8, CrAccessKind::MovFrom, 1), 4, 0);
    check(|a| a.mov(cr0, rsi), Reason::CR_ACCESS, cr(0, CrAccessKind::MovTo, 6), 3, 0);
    check(|a| a.clts(), Reason::CR_ACCESS, cr(0, CrAccessKind::Clts, 0), 2, 0);
    let lmsw = CrAccess::new().with_kind(CrAccessKind::Lmsw);
    check(|a| a.lmsw(cx), Reason::CR_ACCESS, lmsw.into(), 4, 0);
    let (info, _) = exit(
        |m| {
            all(m);
            m.cpu.regs.gpr[3] = 0x20_0000;
            m.memory.write(Hpa(0x20_0010), 0x1236u16);
        },
        |a| a.lmsw(word_ptr(rbx + 16)),
    );
    assert_eq!(info.qualification, u64::from(lmsw.with_lmsw_memory(true).with_lmsw_source(0x1236)));
    assert_eq!(info.gla, 0x20_0010);
    let dr = |dr: u8, from: bool, gpr: u8| u64::from(DrAccess::new().with_dr(dr).with_from_dr(from).with_gpr(gpr));
    check(|a| a.mov(dr7, rdi), Reason::DR_ACCESS, dr(7, false, 7), 3, 0);
    check(|a| a.mov(r8, dr2), Reason::DR_ACCESS, dr(2, true, 8), 4, 0);
}

#[test]
fn strings_of_ports() {
    let io = |size: u8| IoAccess::new().with_size_less_one(size - 1).with_string(true);
    check(|a| a.outsw(), Reason::IO_INSTRUCTION, io(2).into(), 2, 2 << 7 | 3 << 15);
    // INS has no segment but ES.
    check(|a| a.insb(), Reason::IO_INSTRUCTION, io(1).with_input(true).into(), 1, 2 << 7);
    // An address-size prefix, and FS.
    let (info, _) = exit_in(Mode::Long, all, &[0x64, 0x67, 0x6f]);
    assert_eq!((info.qualification, info.instruction_info, info.length), (io(4).into(), 1 << 7 | 4 << 15, 3));
}

#[test]
fn software_events_tell_their_length_and_their_kind() {
    let bits = 1 << 1 | 1 << 3 | 1 << 4;
    let check = |mode: Mode, code: &[u8], vector: u8, kind: EventType, length: u32| {
        let (info, machine) = exit_in(mode, |m| m.cpu.controls.exception_bitmap = bits, code);
        let told = info.intr_info;
        assert_eq!((told.vector(), told.kind(), told.has_error_code(), info.length), (vector, kind, false, length));
        assert_eq!(machine.cpu.rip, CODE);
    };
    check(Mode::Long, &[0xcc], 3, EventType::SoftwareException, 1);
    check(Mode::Long, &[0xf1], 1, EventType::PrivilegedSoftwareException, 1);
    check(Mode::Long, &[0x66, 0xcc], 3, EventType::SoftwareException, 2);
    // INTO, with OF.
    let (info, _) = exit_in(
        Mode::Protected32,
        |m| {
            m.cpu.controls.exception_bitmap = bits;
            m.cpu.set_rflags(2 | Rflags::OF.bits());
        },
        &[0xce],
    );
    assert_eq!((info.intr_info.vector(), info.intr_info.kind()), (4, EventType::SoftwareException));
}

#[test]
fn in_real_mode_no_exception_has_an_error_code() {
    // MOV from an address beyond the segment's limit: #GP.
    let code = [0x66, 0x67, 0xa1, 0, 0, 1, 0];
    let (info, _) = exit_in(Mode::Real, |m| m.cpu.controls.exception_bitmap = 1 << 13, &code);
    assert_eq!((info.intr_info.vector(), info.intr_info.has_error_code()), (13, false));
    let (info, _) = exit_in(Mode::Protected16, |m| m.cpu.controls.exception_bitmap = 1 << 13, &code);
    assert_eq!((info.intr_info.vector(), info.intr_info.has_error_code()), (13, true));
}

#[test]
fn instructions_of_what_cpuid_does_not_show_are_undefined() {
    let undefined = |name: &str, f: fn(&mut CodeAssembler) -> Result<(), IcedError>| {
        let (info, _) = exit(
            |m| {
                all(m);
                m.cpu.controls.secondary |= S::ENCLS_EXITING | S::USER_WAIT_PAUSE | S::PCONFIG | S::ENCLV_EXITING;
                m.cpu.controls.encls_bitmap = u64::MAX;
                m.cpu.controls.exception_bitmap = 1 << 6;
            },
            f,
        );
        assert_eq!((info.reason.reason(), info.intr_info.vector()), (Reason::EXCEPTION_NMI, 6), "{name}");
    };
    undefined("ENCLS", |a| a.encls());
    undefined("ENCLU", |a| a.enclu());
    undefined("ENCLV", |a| a.enclv());
    undefined("TPAUSE", |a| a.tpause(ecx));
    undefined("UMWAIT", |a| a.umwait(ecx));
    undefined("UMONITOR", |a| a.umonitor(rcx));
    undefined("PCONFIG", |a| a.pconfig());
    undefined("LOADIWKEY", |a| a.loadiwkey(xmm0, xmm1));
    undefined("SEAMCALL", |a| a.seamcall());
    undefined("GETSEC", |a| a.getsec());
}

#[test]
fn vmx_instructions_are_undefined_outside_protected_and_64_bit_mode() {
    // vmxoff, vmlaunch, vmptrld [..], vmread, invept, in 16- and 32-bit code alike.
    let codes: [&[u8]; 5] = [
        &[0x0f, 0x01, 0xc4],
        &[0x0f, 0x01, 0xc2],
        &[0x0f, 0xc7, 0x30],
        &[0x0f, 0x78, 0xc8],
        &[0x66, 0x0f, 0x38, 0x80, 0],
    ];
    for code in codes {
        for (mode, undefined) in
            [(Mode::Real, true), (Mode::Compatibility, true), (Mode::Protected32, false), (Mode::Long, false)]
        {
            let (info, _) = exit_in(mode, |m| m.cpu.controls.exception_bitmap = 1 << 6, code);
            assert_eq!(info.reason.reason() == Reason::EXCEPTION_NMI, undefined, "{code:x?} in {mode:?}");
        }
    }
}

#[test]
fn a_loop_of_pauses_exits_when_its_window_is_over() {
    let spins = |gap: u32, window: u32, ring: u8| {
        let mut machine = Machine::new(Mode::Long, &[0xf3, 0x90, 0xeb, 0xfc]);
        machine.cpu.controls.secondary |= S::PAUSE_LOOP_EXITING;
        (machine.cpu.controls.ple_gap, machine.cpu.controls.ple_window) = (gap, window);
        let stack = &mut machine.cpu.seg[Seg::Ss as usize].rights;
        *stack = stack.with_dpl(ring);
        machine.cpu.mode_changed();
        let Trap::Exit(info) = machine.run(1000) else { panic!() };
        (info.reason.reason(), info.length, machine.clock)
    };
    let (reason, length, clock) = spins(10, 100, 0);
    assert_eq!((reason, length), (Reason::PAUSE, 2));
    assert!((100..=104).contains(&clock), "{clock}");
    // PAUSEs that are far between are no loop; nor does one of user mode count.
    assert_eq!(spins(1, 100, 0).0, Reason::EXTERNAL_INTERRUPT);
    assert_eq!(spins(10, 100, 3).0, Reason::EXTERNAL_INTERRUPT);
}

#[test]
fn rf_as_an_exit_leaves_it() {
    let rf = Rflags::RF.bits();
    let check =
        |name: &str, before: u64, bits: u32, f: fn(&mut CodeAssembler) -> Result<(), IcedError>, after: bool| {
            let (_, machine) = exit(
                |m| {
                    m.cpu.controls.exception_bitmap = bits;
                    m.cpu.set_rflags(2 | before);
                },
                f,
            );
            assert_eq!(machine.cpu.rflags() & rf != 0, after, "{name}");
        };
    check("an instruction", rf, 0, |a| a.cpuid(), false);
    check("a fault", 0, 1 << 6, |a| a.ud2(), true);
    check("a page fault", 0, 1 << 14, |a| a.mov(rax, qword_ptr(0x4000_0000u64)), true);
    check("a trap", 0, 1 << 3, |a| a.int3(), false);
    check("a fault in the delivery of a trap", 0, 1 << 13, |a| a.int3(), true);
}

#[test]
fn a_monitor_trap_follows_delivery() {
    let mut machine = Machine::new(Mode::Long, &[0x90; 8]);
    machine.gate64(6, 14, CODE + 4, 0);
    machine.cpu.controls.primary |= P::MONITOR_TRAP_FLAG;
    inject(&mut machine.cpu, &mut machine.memory, InterruptionInfo::from(0x8000_0306), 0, 0).unwrap();
    let info = machine.exit();
    assert_eq!((info.reason.reason(), machine.cpu.rip), (Reason::MONITOR_TRAP_FLAG, CODE + 4));
}
