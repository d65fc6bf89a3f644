//! Single steps.

use super::FLAT as FLATS;
use crate::kit::*;
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
    }
}
