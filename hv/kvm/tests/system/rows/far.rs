//! Far jumps, calls and returns; call gates; IRET.
//!
//! Not here: tasks. A task switch exits from VMX non-root operation, where the software CPU always is, so that it is the
//! hypervisor's to carry out.

use super::FLAT as FLATS;
use crate::kit::*;
use crate::known::Deviation;
use iced_x86::IcedError;
use iced_x86::code_asm::*;

/// Pushes a far pointer or a frame, the first word last.
fn push(a: &mut CodeAssembler, words: &[u32]) -> Result<(), IcedError> {
    for &word in words.iter().rev() {
        // A word of 64 bits in 64-bit code; none has its top bit set.
        a.push(word as i32)?;
    }
    Ok(())
}

/// Code that runs at privilege level 3 from [`MORE`] on, after an IRET there.
fn in_user(name: &str, mode: Mode, flags: u32, f: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>) -> Case {
    let code = if mode == Mode::Long { USER64 } else { USER32 };
    Case::row(name, mode, |a| {
        push(a, &[MORE as u32, code.into(), flags, STACK as u32 - 0x100, USER_FLAT.into()])?;
        if mode == Mode::Long { a.iretq() } else { a.iretd() }
    })
    .with(|case| {
        case.code(mode.bits(), MORE, f);
        // Data segments that user code may keep.
        for number in [0, 3, 4, 5] {
            case.state.seg[number] = segment(USER_FLAT, 0xc0f3, 0, u32::MAX);
        }
        if mode == Mode::Compatibility {
            case.deviates = Some(Deviation::Iret);
        }
    })
}

pub(super) fn rows(rows: &mut Vec<Case>) {
    for mode in FLATS {
        let code = if mode == Mode::Long { CODE64 } else { CODE32 };
        for (name, selector, offset) in [
            ("the same code", code, MORE),
            ("null", 0, MORE),
            ("data", FLAT, MORE),
            ("user code", USER32, MORE),
            ("conforming code", CONFORMING32, MORE),
            ("conforming code, RPL 3", CONFORMING32 | 3, MORE),
            ("other code", CODE32, MORE),
            ("16-bit code", CODE16, 0x800),
            ("16-bit code beyond its limit", CODE16, MORE),
            ("beyond the limit", 0x800, MORE),
            ("an LDT", LOCAL, MORE),
            ("absent code", FREE, MORE),
        ] {
            let set = |case: &mut Case| {
                case.put32(DATA + 0x100, offset as u32);
                case.put16(DATA + 0x104, selector);
                case.descriptor(FREE, 0x00cf_1b00_0000_ffff);
                case.bytes(MORE, &[0xf4]);
                case.bytes(CODE + 0x800, &[0xf4]);
            };
            rows.push(Case::row(&format!("JMP to {name}"), mode, |a| a.jmp(fword_ptr(DATA + 0x100))).with(set));
            rows.push(Case::row(&format!("CALL to {name}"), mode, |a| a.call(fword_ptr(DATA + 0x100))).with(set));
            rows.push(
                Case::row(&format!("RETF to {name}"), mode, |a| {
                    push(a, &[offset as u32, selector.into()])?;
                    if mode == Mode::Long { a.db(&[0x48, 0xcb]) } else { a.retf() }
                })
                .with(set),
            );
            rows.push(
                Case::row(&format!("IRET to {name}"), mode, |a| {
                    push(a, &[offset as u32, selector.into(), 0x47, STACK as u32 - 0x100, FLAT.into()])?;
                    if mode == Mode::Long { a.iretq() } else { a.iretd() }
                })
                .with(set)
                .deviates(Deviation::Iret),
            );
        }
        rows.push(
            Case::row("CALL and RETF", mode, |a| {
                a.call(fword_ptr(DATA + 0x100))?;
                a.add(eax, 1)
            })
            .with(|case| {
                case.put32(DATA + 0x100, MORE as u32);
                case.put16(DATA + 0x104, code);
                case.code(mode.bits(), MORE, |a| {
                    a.mov(eax, 0x40)?;
                    // What CALL pushed is of 32 bits in any mode.
                    a.retf()
                });
            }),
        );
        // Privilege level 3 and back.
        rows.push(
            in_user("IRET to user code", mode, 0x202, |a| {
                a.mov(eax, cs)?;
                a.mov(ebx, ss)?;
                a.ud2()
            })
            .native(),
        );
        rows.push(in_user("user code's HLT", mode, 0x202, |_| Ok(())));
        rows.push(in_user("user code's CLI", mode, 0x202, |a| a.cli()));
        rows.push(
            in_user("user code's CLI with IOPL 3", mode, 0x3202, |a| {
                a.cli()?;
                a.ud2()
            })
            .native(),
        );
        rows.push(
            in_user("user code's IN with IOPL 3", mode, 0x3202, |a| {
                a.in_(al, 0x80)?;
                a.ud2()
            })
            .native(),
        );
        rows.push(in_user("user code's INT to a gate for it", mode, 0x202, |a| a.int(0x85)).native());
        rows.push(in_user("user code's INT to a gate not for it", mode, 0x202, |a| a.int(0x45)).native());
        rows.push(in_user("user code's INT3", mode, 0x202, |a| a.int3()).native());
        rows.push(in_user("user code's MOV from CR0", mode, 0x202, |a| {
            if mode == Mode::Long { a.mov(rax, cr0) } else { a.mov(eax, cr0) }
        }));
        rows.push(
            in_user("user code's PUSHF and POPF", mode, 0x1202, |a| {
                if mode == Mode::Long {
                    a.pushfq()?;
                    a.pop(rax)?;
                    a.xor(eax, 0x27_7ad5)?;
                    a.push(rax)?;
                    a.popfq()?;
                } else {
                    a.pushfd()?;
                    a.pop(eax)?;
                    a.xor(eax, 0x27_7ad5)?;
                    a.push(eax)?;
                    a.popfd()?;
                }
                a.ud2()
            })
            .native(),
        );
        rows.push(
            in_user("a call gate from user code", mode, 0x202, |a| a.call(fword_ptr(DATA + 0x100)))
                .with(|case| {
                    case.put16(DATA + 0x104, FREE | 3);
                    case.descriptor(FREE, gate(code, MORE + 0x800, 0xec, 2 * u64::from(mode == Mode::Protected32)));
                    case.descriptor(FREE + 8, 0);
                    case.code(mode.bits(), MORE + 0x800, |a| a.mov(eax, cs));
                })
                .native(),
        );
        rows.push(Case::row("a call gate of the same level", mode, |a| a.call(fword_ptr(DATA + 0x100))).with(|case| {
            case.put16(DATA + 0x104, FREE);
            case.descriptor(FREE, gate(code, MORE, 0x8c, 0));
            case.descriptor(FREE + 8, 0);
            case.code(mode.bits(), MORE, |a| a.mov(eax, cs));
        }));
        rows.push(Case::row("JMP through a call gate", mode, |a| a.jmp(fword_ptr(DATA + 0x100))).with(|case| {
            case.put16(DATA + 0x104, FREE);
            case.descriptor(FREE, gate(code, MORE, 0x8c, 0));
            case.descriptor(FREE + 8, 0);
            case.code(mode.bits(), MORE, |a| a.mov(eax, cs));
        }));
        rows.push(
            Case::row("RETF to user code", mode, |a| {
                let code = if mode == Mode::Long { USER64 } else { USER32 };
                push(a, &[MORE as u32, code.into(), STACK as u32 - 0x100, USER_FLAT.into()])?;
                if mode == Mode::Long { a.db(&[0x48, 0xcb]) } else { a.retf() }
            })
            .with(|case| case.code(mode.bits(), MORE, |a| a.ud2())),
        );
        rows.push(
            Case::row("RETF to user code that drops bytes and segments", mode, |a| {
                let code = if mode == Mode::Long { USER64 } else { USER32 };
                push(a, &[MORE as u32, code.into(), 0, 0, STACK as u32 - 0x100, USER_FLAT.into()])?;
                if mode == Mode::Long { a.db(&[0x48, 0xca, 16, 0]) } else { a.retf_1(8) }
            })
            .with(|case| case.code(mode.bits(), MORE, |a| a.ud2())),
        );
        if mode.wide() {
            rows.push(
                Case::row("IRET with NT", mode, |a| {
                    push(a, &[MORE as u32, code.into(), 2])?;
                    if mode == Mode::Long { a.iretq() } else { a.iretd() }
                })
                .with(|case| case.state.rflags |= 0x4000),
            );
        }
    }
    for (name, flags) in [("", 0x2_0202u32), (" with IOPL 3", 0x2_3202)] {
        rows.push(
            Case::row(&format!("IRET to virtual-8086 mode{name}"), Mode::Protected32, |a| {
                push(a, &[0x100, 0x1000, flags, 0x8000, 0x2000, 0x2001, 0x2002, 0x2003, 0x2004])?;
                a.iretd()
            })
            .with(|case| case.code(16, CODE + 0x100, |a| a.mov(ax, ds))),
        );
    }
    for (name, f) in [
        ("PUSHF", (|a| a.pushf()) as fn(&mut CodeAssembler) -> _),
        ("CLI", |a| a.cli()),
        ("a far jump", |a| a.jmp(dword_ptr(0x10))),
        ("a load of a segment", |a| a.mov(es, ax)),
    ] {
        rows.push(
            Case::row(name, Mode::Virtual, |a| {
                f(a)?;
                a.nop()
            })
            .with(|case| {
                case.state.rflags |= 0x3000;
                case.put32(DATA + 0x10, 0x1100_0000);
                case.bytes(CODE + 0x1000, &[0xf4]);
            }),
        );
    }
}
