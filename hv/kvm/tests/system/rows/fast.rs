//! SYSCALL, SYSRET, SYSENTER, SYSEXIT and SWAPGS.

use super::FLAT as FLATS;
use crate::kit::*;
use crate::known::{Deviation, Features};
use iced_x86::code_asm::*;

pub(super) fn rows(rows: &mut Vec<Case>) {
    let msrs = |case: &mut Case| {
        case.state.msrs = [
            u64::from(CODE64) << 32 | 0x23 << 48,
            MORE,
            MORE,
            0x300,
            0x1122_3344_5566,
            u64::from(CODE64),
            STACK0,
            MORE,
        ];
        case.bytes(MORE, &[0xf4]);
    };
    for mode in FLATS {
        for (name, star) in [("", 1u64), (" without SCE", 0)] {
            for user in [false, true] {
                let make = |name: String, f: fn(&mut CodeAssembler) -> Result<(), iced_x86::IcedError>| {
                    let case = Case::row(&name, mode, f).with(msrs);
                    let case = if user { case.user() } else { case };
                    case.with(|case| {
                        case.state.efer = case.state.efer & !1 | star & u64::from(mode.wide());
                        case.state.rflags |= 0x200;
                        case.state.gpr[1] = MORE + 0x100;
                        case.state.gpr[2] = MORE + 0x100;
                        case.state.gpr[11] = 0x3ed7;
                        case.code(mode.bits(), MORE + 0x100, |a| a.ud2());
                        if name.starts_with("SYSRET") {
                            case.deviates = Some(Deviation::Sysret);
                        } else if user && mode == Mode::Long {
                            case.deviates = Some(Deviation::NativeUser);
                        }
                        // AMD's have SYSCALL there, and no SYSENTER in IA-32e mode.
                        if mode == Mode::Compatibility && !name.starts_with("SYSRET") {
                            case.needs |= Features::INTEL;
                        }
                    })
                };
                rows.push(make(format!("SYSCALL{name}"), |a| a.syscall()));
                rows.push(make(format!("SYSENTER{name}"), |a| a.sysenter()));
                rows.push(make(format!("SYSEXIT{name}"), |a| a.sysexit()));
                rows.push(make(format!("SYSRET{name}"), |a| a.sysret()));
                if mode == Mode::Long {
                    rows.push(make(format!("SYSEXITQ{name}"), |a| a.sysexitq()));
                    rows.push(make(format!("SYSRETQ{name}"), |a| a.sysretq()));
                    rows.push(make(format!("SWAPGS{name}"), |a| a.swapgs()));
                }
            }
        }
    }
    rows.push(
        Case::row("SYSRETQ to where no code can be", Mode::Long, |a| a.sysretq())
            .with(msrs)
            .with(|case| {
                case.state.gpr[1] = 1 << 60;
            })
            .deviates(Deviation::Sysret),
    );
    rows.push(Case::row("SYSENTER without a segment", Mode::Long, |a| a.sysenter()).with(msrs).with(|case| {
        case.state.msrs[5] = 0;
    }));
}
