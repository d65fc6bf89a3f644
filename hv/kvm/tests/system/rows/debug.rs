//! Single steps and breakpoints.

use super::FLAT as FLATS;
use crate::kit::*;
use crate::known::Deviation;
use iced_x86::code_asm::*;

pub(super) fn rows(rows: &mut Vec<Case>) {
    for mode in FLATS {
        rows.push(
            Case::row("a single step", mode, |a| {
                a.add(eax, 1)?;
                a.add(eax, 1)
            })
            .with(|case| case.state.rflags |= 0x100),
        );
        rows.push(Case::row("POPF sets TF", mode, |a| {
            a.push(0x102)?;
            match mode {
                Mode::Long => a.popfq(),
                _ => a.popfd(),
            }?;
            a.add(eax, 1)?;
            a.add(eax, 1)
        }));
        rows.push(
            Case::row("TF and MOV SS", mode, |a| {
                a.mov(ecx, ss)?;
                a.mov(ss, ecx)?;
                a.add(eax, 1)?;
                a.add(eax, 1)
            })
            .with(|case| case.state.rflags |= 0x100),
        );
        rows.push(
            Case::row("an instruction breakpoint", mode, |a| {
                a.nop()?;
                a.add(eax, 1)?;
                a.add(eax, 1)
            })
            .with(|case| {
                case.state.dr[0] = CODE + 1;
                case.state.dr7 = 0x402;
            }),
        );
        rows.push(
            Case::row("an instruction breakpoint under RF", mode, |a| {
                a.add(eax, 1)?;
                a.add(eax, 1)
            })
            .with(|case| {
                case.state.dr[0] = CODE;
                case.state.dr7 = 0x402;
                case.state.rflags |= 0x1_0000;
            }),
        );
        for (name, kind, at) in [
            ("a write", 0x1u64, 0u64),
            ("an access", 3, 0),
            ("a write beside", 1, 4),
            ("an access to the middle", 3, 2),
        ] {
            let row = Case::row(&format!("a data breakpoint, {name}"), mode, |a| {
                a.mov(ebx, DATA as u32)?;
                a.mov(ecx, dword_ptr(ebx))?;
                a.add(eax, 1)?;
                a.mov(dword_ptr(ebx), ecx)?;
                a.add(eax, 1)
            })
            .with(|case| {
                case.state.dr[1] = DATA + at;
                case.state.dr7 = 0x408 | kind << 20;
            });
            if mode == Mode::Long {
                rows.push(row.clone().user().deviates(Deviation::DataBreakpoints));
            }
            rows.push(row.deviates(Deviation::DataBreakpoints));
        }
    }
}
