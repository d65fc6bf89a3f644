//! Loads of segment registers, LDTR and TR, and what asks about descriptors.

use super::{FLAT as FLATS, PROTECTED};
use crate::kit::*;
use crate::known::{Deviation, Features};
use iced_x86::code_asm::*;

pub(super) fn rows(rows: &mut Vec<Case>) {
    for mode in PROTECTED {
        for (name, selector) in [
            ("null", 0u32),
            ("null with RPL 3", 3),
            ("data", FLAT.into()),
            ("data, RPL 3", u32::from(FLAT) | 3),
            ("user data", USER_FLAT.into()),
            ("code", CODE32.into()),
            ("conforming code, RPL 3", u32::from(CONFORMING32) | 3),
            ("a task", TASK.into()),
            ("beyond the limit", 0x800),
            ("half beyond the limit", 0x7fc),
            ("of an empty LDT", 4),
        ] {
            rows.push(Case::row(&format!("MOV DS, {name}"), mode, |a| {
                a.mov(eax, selector)?;
                a.mov(ds, eax)
            }));
            rows.push(Case::row(&format!("MOV SS, {name}"), mode, |a| {
                a.mov(eax, selector)?;
                a.mov(ss, eax)
            }));
            rows.push(Case::row(&format!("MOV FS, {name}"), mode, |a| {
                a.mov(eax, selector)?;
                a.mov(fs, eax)
            }));
            let local = |mut case: Case| {
                case.deviates = (selector & 4 != 0).then_some(Deviation::LocalSelector);
                case
            };
            rows.push(local(Case::row(&format!("LLDT {name}"), mode, |a| {
                a.mov(eax, selector)?;
                a.lldt(ax)
            })));
            rows.push(local(Case::row(&format!("LTR {name}"), mode, |a| {
                a.mov(eax, selector)?;
                a.ltr(ax)
            })));
            for (what, number) in [("LAR", 0), ("LSL", 1), ("VERR", 2), ("VERW", 3)] {
                rows.push(Case::row(&format!("{what} {name}"), mode, |a| {
                    a.mov(eax, selector)?;
                    match number {
                        0 => a.lar(ecx, eax),
                        1 => a.lsl(ecx, eax),
                        2 => a.verr(ax),
                        _ => a.verw(ax),
                    }
                }));
            }
        }
        rows.push(Case::row("LTR of an available task", mode, |a| {
            a.mov(eax, u32::from(TASK2))?;
            a.ltr(ax)?;
            a.str(ecx)
        }));
        rows.push(
            Case::row("LLDT and a segment of it", mode, |a| {
                a.mov(eax, u32::from(LOCAL))?;
                a.lldt(ax)?;
                a.mov(eax, 0x0c)?;
                a.mov(es, eax)?;
                a.sldt(ecx)
            })
            .with(|case| case.put(LDT + 8, descriptor(0x1_2345, 0x5678, 0x4092))),
        );
        rows.push(Case::row("a null LDT and a segment of it", mode, |a| {
            a.xor(eax, eax)?;
            a.lldt(ax)?;
            a.mov(eax, 0x0c)?;
            a.mov(es, eax)
        }));
        rows.push(Case::row("PUSH and POP of segments", mode, |a| {
            a.push(fs)?;
            a.push(gs)?;
            a.pop(fs)?;
            a.pop(gs)
        }));
        rows.push(
            Case::row("an absent segment", mode, |a| {
                a.mov(eax, u32::from(FREE))?;
                a.mov(es, eax)
            })
            .with(|case| case.descriptor(FREE, descriptor(0, 0xffff, 0x4013))),
        );
        rows.push(
            Case::row("an absent stack", mode, |a| {
                a.mov(eax, u32::from(FREE))?;
                a.mov(ss, eax)
            })
            .with(|case| case.descriptor(FREE, descriptor(0, 0xffff, 0x4013))),
        );
        if mode != Mode::Long {
            rows.push(
                Case::row("LDS and LES", mode, |a| {
                    a.les(eax, dword_ptr(0x100).es())?;
                    a.lds(ecx, dword_ptr(0x100))
                })
                .with(|case| {
                    case.put(DATA + 0x100, u64::from(FLAT) << 32 | 0x1234_5678);
                    case.put(0x100, u64::from(FLAT) << 32 | 0x1234_5678);
                }),
            );
        }
    }
    for mode in FLATS {
        for (name, selector) in [("null", 0u32), ("system data", FLAT.into()), ("user data", USER_FLAT.into())] {
            rows.push(
                Case::row(&format!("MOV DS, {name}"), mode, |a| {
                    a.mov(eax, selector)?;
                    a.mov(ds, eax)?;
                    a.mov(ecx, dword_ptr(DATA))
                })
                .user()
                .native(),
            );
            rows.push(
                Case::row(&format!("MOV SS, {name}"), mode, |a| {
                    a.mov(eax, selector)?;
                    a.mov(ss, eax)
                })
                .user(),
            );
        }
        rows.push(Case::row("LLDT", mode, |a| a.lldt(ax)).user());
        rows.push(Case::row("LTR", mode, |a| a.ltr(ax)).user());
        rows.push(Case::row("SGDT", mode, |a| a.sgdt(fword_ptr(DATA))).user());
        rows.push(
            Case::row("SLDT and STR", mode, |a| {
                a.sldt(ecx)?;
                a.str(edx)
            })
            .user(),
        );
        for umip in [0u64, 0x800] {
            rows.push(
                Case::row(&format!("SMSW, UMIP {umip:#x}"), mode, |a| a.smsw(ecx))
                    .user()
                    .native()
                    .needs(if umip != 0 { Features::UMIP } else { Features::empty() })
                    .with(|case| case.state.cr4 |= umip),
            );
        }
    }
    // Limits of the segments themselves.
    for mode in [Mode::Protected16, Mode::Protected32, Mode::Compatibility] {
        for (kind, name) in [(0x93u64, "up"), (0x97, "down")] {
            for (at, what) in
                [(0xfffu32, "at the limit"), (0xffd, "across it"), (0xffc, "below it"), (0x1000, "above it")]
            {
                rows.push(
                    Case::row(&format!("a dword {what}, expanding {name}"), mode, |a| {
                        a.mov(ecx, u32::from(FREE))?;
                        a.mov(es, ecx)?;
                        a.mov(ebx, at)?;
                        a.mov(eax, dword_ptr(ebx).es())?;
                        a.mov(dword_ptr(ebx).es(), eax)
                    })
                    .with(|case| case.descriptor(FREE, descriptor(DATA, 0xfff, 0x4000 | kind))),
                );
            }
        }
        rows.push(
            Case::row("a write to a read-only segment", mode, |a| {
                a.mov(ecx, u32::from(FREE))?;
                a.mov(es, ecx)?;
                a.xor(ebx, ebx)?;
                a.mov(eax, dword_ptr(ebx).es())?;
                a.mov(dword_ptr(ebx).es(), eax)
            })
            .with(|case| case.descriptor(FREE, descriptor(DATA, 0xfff, 0x4091))),
        );
        rows.push(Case::row("a write to code", mode, |a| {
            a.xor(ebx, ebx)?;
            a.mov(dword_ptr(ebx).cs(), eax)
        }));
        rows.push(Case::row("a read through a null segment", mode, |a| {
            a.xor(eax, eax)?;
            a.mov(es, eax)?;
            a.mov(eax, dword_ptr(ebx).es())
        }));
        rows.push(
            Case::row("a push beyond the stack's limit", mode, |a| {
                a.mov(ecx, u32::from(FREE))?;
                a.mov(ss, ecx)?;
                a.mov(esp, 2)?;
                a.push(eax)
            })
            .with(|case| case.descriptor(FREE, descriptor(DATA, 0xfff, 0x4093))),
        );
    }
}
