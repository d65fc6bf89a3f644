//! The integer ISA in 64-bit code.

use crate::cpu::Trap;
use crate::cpu::testing::{CODE, DATA, Machine, Mode};
use hv_defs::exit::Reason;
use iced_x86::code_asm::*;

/// Assembles, runs to a HLT from all-zero and from all-one arithmetic flags, and gives both machines.
fn both(f: impl Fn(&mut CodeAssembler) -> Result<(), IcedError>) -> [Machine; 2] {
    let mut a = CodeAssembler::new(64).expect("64 bits");
    f(&mut a).expect("the snippet assembles");
    a.hlt().expect("HLT assembles");
    let code = a.assemble(CODE).expect("the snippet assembles");
    [0, 0x8d5].map(|flags| {
        let mut machine = Machine::new(Mode::Long, &code);
        machine.cpu.set_rflags(flags | 2);
        let trap = machine.run(1_000_000);
        match &trap {
            Trap::Exit(info) if info.reason.reason() == Reason::HLT => {}
            other => panic!("{other:x?} at {:#x}", machine.cpu.rip),
        }
        machine
    })
}

use iced_x86::IcedError;

#[track_caller]
fn check(f: impl Fn(&mut CodeAssembler) -> Result<(), IcedError>, want: u64) {
    for machine in both(f) {
        assert_eq!(machine.cpu.regs.gpr[0], want, "{:#x} is not {want:#x}", machine.cpu.regs.gpr[0]);
    }
}

#[track_caller]
fn check_flags(f: impl Fn(&mut CodeAssembler) -> Result<(), IcedError>, want: u64, flags: u64) {
    for machine in both(f) {
        assert_eq!(
            (machine.cpu.regs.gpr[0], machine.cpu.rflags() & 0x8d5),
            (want, flags),
            "{:x?}",
            machine.cpu.regs.gpr
        );
    }
}

#[test]
fn arithmetic_and_its_flags() {
    check_flags(
        |a| {
            a.mov(eax, 0x7fff_ffff)?;
            a.add(eax, 1)
        },
        0x8000_0000,
        0x894,
    );
    check_flags(
        |a| {
            a.mov(rax, -1i64)?;
            a.add(rax, 1)
        },
        0,
        0x55,
    );
    check_flags(
        |a| {
            a.mov(eax, 5)?;
            a.sub(eax, 6)
        },
        0xffff_ffff,
        0x95,
    );
    check_flags(
        |a| {
            a.mov(rax, 0x1122u64)?;
            a.mov(al, 0x80u32)?;
            a.add(al, al)
        },
        0x1100,
        0x845,
    );
    check_flags(
        |a| {
            a.mov(eax, 0xff00)?;
            a.xor(ax, ax)
        },
        0,
        0x44,
    );
    check_flags(
        |a| {
            a.stc()?;
            a.mov(eax, 0x7f)?;
            a.inc(al)
        },
        0x80,
        0x891,
    );
    check_flags(
        |a| {
            a.clc()?;
            a.mov(eax, 0x80)?;
            a.dec(al)
        },
        0x7f,
        0x810,
    );
    check_flags(
        |a| {
            a.stc()?;
            a.mov(eax, 1)?;
            a.sbb(eax, 1)
        },
        0xffff_ffff,
        0x95,
    );
    check_flags(
        |a| {
            a.mov(eax, 0)?;
            a.neg(eax)
        },
        0,
        0x44,
    );
    check_flags(
        |a| {
            a.stc()?;
            a.mov(rax, -1i64)?;
            a.adc(rax, 0)
        },
        0,
        0x55,
    );
}

#[test]
fn memory_operands_of_all_shapes() {
    check(
        |a| {
            a.mov(rbx, DATA)?;
            a.mov(qword_ptr(rbx), 5)?;
            a.add(qword_ptr(rbx), 7)?;
            a.mov(rax, qword_ptr(rbx))
        },
        12,
    );
    check(
        |a| {
            a.mov(rbx, DATA)?;
            a.mov(ecx, 4)?;
            a.mov(dword_ptr(rbx + rcx * 8 + 3), 9)?;
            a.mov(eax, dword_ptr(rbx + 35))
        },
        9,
    );
    check(
        |a| {
            a.mov(rbx, DATA + 0xffd)?;
            a.mov(rax, 0x1122_3344_5566_7788u64)?;
            a.mov(qword_ptr(rbx), rax)?;
            a.xor(eax, eax)?;
            a.mov(eax, dword_ptr(rbx + 4))
        },
        0x1122_3344,
    );
    check(
        |a| {
            a.mov(rax, 3u64)?;
            a.push(rax)?;
            a.add(qword_ptr(rsp), 4)?;
            a.pop(rax)
        },
        7,
    );
    check(
        |a| {
            a.mov(rbx, DATA)?;
            a.mov(eax, 0xff)?;
            a.mov(dword_ptr(rbx), eax)?;
            a.movsx(eax, byte_ptr(rbx))
        },
        0xffff_ffff,
    );
    check(
        |a| {
            a.mov(rbx, DATA)?;
            a.mov(eax, 7)?;
            a.xadd(dword_ptr(rbx), eax)?;
            a.mov(eax, dword_ptr(rbx))
        },
        7,
    );
    check(
        |a| {
            a.mov(rbx, DATA)?;
            a.mov(eax, 0)?;
            a.mov(ecx, 9)?;
            a.lock().cmpxchg(dword_ptr(rbx), ecx)?;
            a.mov(eax, dword_ptr(rbx))
        },
        9,
    );
    check(
        |a| {
            a.mov(ah, 0x12)?;
            a.mov(al, 0x34)?;
            a.xchg(ah, al)?;
            a.movzx(eax, ax)
        },
        0x3412,
    );
    check(
        |a| {
            a.mov(rbx, DATA)?;
            a.mov(ecx, 70)?;
            a.bts(qword_ptr(rbx), rcx)?;
            a.mov(rax, qword_ptr(rbx + 8))
        },
        1 << 6,
    );
}

#[test]
fn shifts_and_multiplications() {
    check_flags(
        |a| {
            a.mov(eax, 0xc000_0001u32)?;
            a.shl(eax, 1)
        },
        0x8000_0002,
        0x81,
    );
    check_flags(
        |a| {
            a.xor(eax, eax)?;
            a.mov(eax, 0x81)?;
            a.shr(al, 1)
        },
        0x40,
        0x801,
    );
    check_flags(
        |a| {
            a.xor(eax, eax)?;
            a.stc()?;
            a.mov(eax, 0x80)?;
            a.rcl(al, 1)
        },
        1,
        0x845,
    );
    check(
        |a| {
            a.mov(rax, 0x1234_5678_9abc_def0u64)?;
            a.rol(rax, 16)
        },
        0x5678_9abc_def0_1234,
    );
    check(
        |a| {
            a.mov(rax, -8i64)?;
            a.mov(ecx, 2)?;
            a.sar(rax, cl)
        },
        -2i64 as u64,
    );
    check(
        |a| {
            a.mov(eax, 0x1234)?;
            a.mov(edx, 0xabcd_0000u32)?;
            a.shld(eax, edx, 16)
        },
        0x1234_abcd,
    );
    check(
        |a| {
            a.mov(eax, 0x1234_0000)?;
            a.mov(edx, 0xabcd)?;
            a.shrd(eax, edx, 16)
        },
        0xabcd_1234,
    );
    check(
        |a| {
            a.mov(rax, -1i64)?;
            a.mov(rcx, -1i64)?;
            a.mul(rcx)?;
            a.mov(rax, rdx)
        },
        0xffff_ffff_ffff_fffe,
    );
    check(
        |a| {
            a.mov(rax, -6i64)?;
            a.imul_3(rax, rax, 7)
        },
        -42i64 as u64,
    );
    check(
        |a| {
            a.mov(eax, 100)?;
            a.xor(edx, edx)?;
            a.mov(ecx, 7)?;
            a.div(ecx)?;
            a.shl(rdx, 32)?;
            a.or(rax, rdx)
        },
        2 << 32 | 14,
    );
    check(
        |a| {
            a.mov(rax, -100i64)?;
            a.cqo()?;
            a.mov(ecx, 7)?;
            a.idiv(rcx)?;
            a.mov(rax, rdx)
        },
        -2i64 as u64,
    );
}

#[test]
fn branches_calls_and_strings() {
    check(
        |a| {
            let mut top = a.create_label();
            a.xor(eax, eax)?;
            a.mov(ecx, 1000)?;
            a.set_label(&mut top)?;
            a.add(eax, ecx)?;
            a.dec(ecx)?;
            a.jnz(top)
        },
        500_500,
    );
    check(
        |a| {
            let (mut f, mut end) = (a.create_label(), a.create_label());
            a.mov(eax, 1)?;
            a.call(f)?;
            a.add(eax, 1)?;
            a.jmp(end)?;
            a.set_label(&mut f)?;
            a.shl(eax, 4)?;
            a.ret()?;
            a.set_label(&mut end)?;
            a.nop()
        },
        17,
    );
    check(
        |a| {
            a.cld()?;
            a.mov(rdi, DATA)?;
            a.mov(eax, 0x5a)?;
            a.mov(ecx, 5000)?;
            a.rep().stosb()?;
            a.mov(rsi, DATA)?;
            a.mov(rdi, DATA + 0x2003)?;
            a.mov(ecx, 5000)?;
            a.rep().movsb()?;
            a.mov(rax, qword_ptr(DATA + 0x2003 + 4992))
        },
        0x5a5a_5a5a_5a5a_5a5a,
    );
    check(
        |a| {
            a.cld()?;
            a.mov(rdi, DATA)?;
            a.mov(byte_ptr(rdi + 77), 1)?;
            a.mov(al, 1)?;
            a.mov(ecx, 1000)?;
            a.repne().scasb()?;
            a.mov(eax, 1000)?;
            a.sub(eax, ecx)
        },
        78,
    );
}

#[test]
fn the_clock_stops_exactly() {
    let mut a = CodeAssembler::new(64).expect("64 bits");
    let mut top = a.create_label();
    a.set_label(&mut top).expect("a label");
    for _ in 0..5 {
        a.inc(rax).expect("INC assembles");
    }
    a.jmp(top).expect("JMP assembles");
    let code = a.assemble(CODE).expect("the snippet assembles");
    let mut machine = Machine::new(Mode::Long, &code);
    for most in [0, 1, 2, 3, 7, 100, 12345] {
        let before = machine.clock;
        let trap = machine.run(most);
        assert!(matches!(&trap, Trap::Exit(info) if info.reason.reason() == Reason::EXTERNAL_INTERRUPT), "{trap:?}");
        assert_eq!(machine.clock - before, most);
        let (rounds, rest) = (machine.clock / 6, machine.clock % 6);
        assert_eq!(machine.cpu.regs.gpr[0], rounds * 5 + rest.min(5));
    }
}

#[test]
fn code_that_writes_itself_is_decoded_anew() {
    check(
        |a| {
            let mut again = a.create_label();
            a.xor(edx, edx)?;
            a.xor(ecx, ecx)?;
            a.set_label(&mut again)?;
            a.add(edx, 1)?;
            // ADD EDX, imm8 is 83 C2 01: its immediate becomes 5.
            a.lea(rbx, ptr(again))?;
            a.mov(byte_ptr(rbx + 2), 5)?;
            a.inc(ecx)?;
            a.cmp(ecx, 3)?;
            a.jne(again)?;
            a.mov(eax, edx)
        },
        11,
    );
}

#[test]
fn branches_on_comparisons_go_as_flags_say() {
    // All conditions of CMP and TEST with a branch behind, whole blocks against one instruction at a time.
    let values = [0u64, 1, 0x7f, 0x80, 0xff, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff, 1 << 63, u64::MAX, u64::MAX >> 1];
    for compare in [0x39u8, 0x85] {
        for condition in 0..16u8 {
            for rex in [0x48u8, 0x40] {
                // CMP or TEST RAX, RBX; Jcc +1; HLT; NOP; HLT.
                let code = [rex, compare, 0xd8, 0x70 | condition, 1, 0xf4, 0x90, 0xf4];
                let mut machine = Machine::new(Mode::Long, &code);
                for a in values {
                    for b in values {
                        let mut end = |step: u64| {
                            machine.cpu.regs.gpr[0] = a;
                            machine.cpu.regs.gpr[3] = b;
                            machine.cpu.rip = CODE;
                            let before = machine.clock;
                            for _ in 0..3 {
                                machine.run(step);
                            }
                            (machine.cpu.rip, machine.cpu.rflags(), machine.clock - before)
                        };
                        assert_eq!(end(100), end(1), "{compare:#x} {condition} {a:#x} {b:#x}");
                    }
                }
            }
        }
    }
}

#[test]
fn code_that_is_written_is_run_as_written() {
    // A routine in a page that plain stores go to before it is code, and after: MOV EAX, imm32; RET.
    for round in [1, 2, 3] {
        check(
            |a| {
                a.mov(rbx, DATA)?;
                a.mov(dword_ptr(rbx), 0x0000_11b8)?;
                a.mov(dword_ptr(rbx + 4), 0x0000_c300)?;
                a.call(rbx)?;
                for value in 0..round {
                    a.mov(byte_ptr(rbx + 1), 0x20 + value)?;
                    a.call(rbx)?;
                }
                Ok(())
            },
            0x20 + round as u64 - 1,
        );
    }
}
