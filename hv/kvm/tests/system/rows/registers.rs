//! Control registers, debug registers, MSRs, and the tables' registers.

use super::{ALL, FLAT as FLATS};
use crate::kit::*;
use crate::known::{Deviation, Features, for_entries};
use iced_x86::code_asm::*;

/// The features that a value of CR4 asks for.
fn for_cr4(value: u64) -> Features {
    let bits = [(11, Features::UMIP), (17, Features::PCID), (20, Features::SMEP), (21, Features::SMAP)];
    bits.into_iter().filter(|(bit, _)| value >> bit & 1 != 0).fold(Features::empty(), |all, (_, one)| all | one)
}

pub(super) fn rows(rows: &mut Vec<Case>) {
    for mode in [Mode::Real, Mode::Protected16, Mode::Protected32, Mode::Compatibility] {
        for value in [0x31u32, 0x33, 0x30, 0x8000_0030, 0x2000_0031, 0x6000_0031, 0x4000_0031, 0x1_0031, 0x25, 0x1_fff1]
        {
            rows.push(Case::row(&format!("MOV CR0, {value:#x}"), mode, |a| {
                a.mov(eax, value)?;
                a.mov(cr0, eax)?;
                a.nop()
            }));
        }
        for value in [
            0u32,
            0x10,
            0x20,
            0x80,
            0xb0,
            0x2_0000,
            0x2_0020,
            0x10_0000,
            0x20_0000,
            0x800,
            0x1000,
            0x600,
            0x8000_0000,
            1,
            0x8000,
        ] {
            rows.push(
                Case::row(&format!("MOV CR4, {value:#x}"), mode, |a| {
                    a.mov(eax, value)?;
                    a.mov(cr4, eax)
                })
                .needs(for_cr4(value.into())),
            );
        }
    }
    for value in [
        0x31u64,
        0x33,
        0x8000_0031,
        0x8000_0030,
        0xa000_0031,
        0xe000_0031,
        0xc000_0031,
        0x8001_0031,
        1 << 32 | 0x8000_0031,
    ] {
        rows.push(
            Case::row(&format!("MOV CR0, {value:#x}"), Mode::Long, |a| {
                a.mov(rax, value)?;
                a.mov(cr0, rax)
            })
            .with(|case| case.deviates = (value >> 32 != 0).then_some(Deviation::HighBits)),
        );
    }
    for value in [
        0u64,
        0x20,
        0x30,
        0xa0,
        0x2_0020,
        0x10_0020,
        0x30_0020,
        0x820,
        0x1020,
        1 << 32 | 0x20,
        0x21,
        0x62f,
        0x1_0020,
        0x40_0020,
    ] {
        rows.push(
            Case::row(&format!("MOV CR4, {value:#x}"), Mode::Long, |a| {
                a.mov(rax, value)?;
                a.mov(cr4, rax)
            })
            .with(|case| case.deviates = (value >> 32 != 0).then_some(Deviation::HighBits))
            .needs(for_cr4(value)),
        );
    }
    for value in [ROOT, ROOT | 0x18, ROOT | 0xfff, 1 << 63 | ROOT, 1 << 52 | ROOT, 1 << 46 | ROOT] {
        for pcid in [0u64, 0x2_0000] {
            rows.push(
                Case::row(&format!("MOV CR3, {value:#x}, PCIDE {pcid:#x}"), Mode::Long, |a| {
                    a.mov(rax, value)?;
                    a.mov(cr3, rax)
                })
                .with(|case| case.state.cr4 |= pcid)
                .needs(for_cr4(pcid) | for_entries(0, &[value])),
            );
        }
    }
    rows.push(
        Case::row("CR4.PCIDE with a PCID in CR3", Mode::Long, |a| {
            a.mov(rax, ROOT | 1)?;
            a.mov(cr3, rax)?;
            a.mov(rax, 0x2_0020u64)?;
            a.mov(cr4, rax)
        })
        .needs(Features::PCID),
    );
    rows.push(
        Case::row("CLTS", Mode::Long, |a| {
            a.clts()?;
            a.mov(rax, cr0)
        })
        .with(|case| case.state.cr0 |= 8),
    );
    for (number, register) in [(1, 0xc8u8), (5, 0xe8), (7, 0xf8)] {
        rows.push(Case::raw(&format!("MOV from CR{number}"), Mode::Long, &[0x0f, 0x20, register]));
    }
    for value in [0u64, 15, 16, 1 << 32] {
        rows.push(Case::row(&format!("MOV CR8, {value:#x}"), Mode::Long, |a| {
            a.mov(rax, value)?;
            a.mov(cr8, rax)?;
            a.mov(rbx, cr8)?;
            a.xor(eax, eax)?;
            a.mov(cr8, rax)
        }));
    }
    for mode in FLATS {
        for value in [0u32, 0x400, 0xffff_ffff, 0x2400, 0x455, 0xf_0400] {
            rows.push(Case::row(&format!("MOV DR7, {value:#x}"), mode, |a| {
                a.mov(eax, value)?;
                if mode == Mode::Long { a.mov(dr7, rax) } else { a.mov(dr7, eax) }?;
                a.xor(eax, eax)?;
                if mode == Mode::Long { a.mov(rbx, dr7) } else { a.mov(ebx, dr7) }
            }));
            rows.push(Case::row(&format!("MOV DR6, {value:#x}"), mode, |a| {
                a.mov(eax, value)?;
                if mode == Mode::Long { a.mov(dr6, rax) } else { a.mov(dr6, eax) }?;
                if mode == Mode::Long { a.mov(rbx, dr6) } else { a.mov(ebx, dr6) }
            }));
        }
        for de in [0u64, 8] {
            rows.push(
                Case::raw(&format!("MOV DR4 with DE {de}"), mode, &[0x0f, 0x21, 0xe0])
                    .with(|case| case.state.cr4 |= de),
            );
        }
        rows.push(Case::raw("MOV DR0", mode, &[0x0f, 0x23, 0xc0, 0x0f, 0x21, 0xc1]));
        rows.push(Case::raw("MOV from DR7", mode, &[0x0f, 0x21, 0xf9]).user());
    }
    rows.push(Case::row("MOV DR7 with high bits", Mode::Long, |a| {
        a.mov(rax, 1u64 << 40)?;
        a.mov(dr7, rax)
    }));
    rows.push(Case::row("MOV DR6 with high bits", Mode::Long, |a| {
        a.mov(rax, 1u64 << 40)?;
        a.mov(dr6, rax)
    }));
    rows.push(
        Case::row("MOV from DR6 with DR7.GD", Mode::Long, |a| a.mov(rax, dr6)).with(|case| case.state.dr7 = 0x2400),
    );
    for (msr, name) in [
        (0xc000_0080u32, "EFER"),
        (0xc000_0081, "STAR"),
        (0xc000_0082, "LSTAR"),
        (0xc000_0083, "CSTAR"),
        (0xc000_0084, "FMASK"),
        (0xc000_0100, "FS_BASE"),
        (0xc000_0101, "GS_BASE"),
        (0xc000_0102, "KERNEL_GS_BASE"),
        (0x174, "SYSENTER_CS"),
        (0x175, "SYSENTER_ESP"),
        (0x176, "SYSENTER_EIP"),
        (0x277, "PAT"),
    ] {
        for value in [
            0u64,
            0xd01,
            0x501,
            0x901,
            0xffff_8000_0000_0000,
            1 << 47,
            1 << 63,
            1 << 32,
            0x0007_0406_0007_0406,
            0x0207_0406_0007_0406,
            u64::MAX,
        ] {
            rows.push(
                Case::row(&format!("WRMSR {name}, {value:#x}"), Mode::Long, |a| {
                    a.mov(ecx, msr)?;
                    a.mov(eax, value as u32)?;
                    a.mov(edx, (value >> 32) as u32)?;
                    a.wrmsr()?;
                    a.rdmsr()
                })
                .with(|case| {
                    case.deviates = matches!(msr, 0xc000_0084 | 0x174..=0x176 | 0x277).then_some(Deviation::Msr)
                }),
            );
        }
    }
    for value in [0u32, 0x100, 0x500, 0x900, 0x1000, 0x800] {
        rows.push(Case::row(&format!("WRMSR EFER, {value:#x}"), Mode::Protected32, |a| {
            a.mov(ecx, 0xc000_0080u32)?;
            a.mov(eax, value)?;
            a.xor(edx, edx)?;
            a.wrmsr()?;
            a.rdmsr()
        }));
    }
    for mode in FLATS {
        rows.push(Case::row("RDMSR", mode, |a| a.rdmsr()).user());
        rows.push(Case::row("RDTSC with TSD", mode, |a| a.rdtsc()).user().native().with(|case| case.state.cr4 |= 4));
    }
    for mode in ALL {
        rows.push(
            Case::row("LGDT and SGDT, LIDT and SIDT", mode, |a| {
                a.lgdt(fword_ptr(0x2_0100 & if mode.bits() == 16 { 0xffff } else { !0 }))?;
                a.nop()
            })
            .with(|case| {
                case.put16(DATA + 0x100, 0x7ff);
                case.put(DATA + 0x102, GDT | 0x1200_0000);
            }),
        );
        rows.push(Case::row("SMSW", mode, |a| a.smsw(eax)));
    }
    for mode in [Mode::Real, Mode::Protected16, Mode::Protected32, Mode::Compatibility, Mode::Long] {
        let at = if mode.bits() == 16 { 0x100u64 } else { DATA + 0x100 };
        rows.push(Case::row("SGDT and SIDT", mode, |a| match mode.bits() {
            16 => {
                a.sgdt(word_ptr(at))?;
                a.sidt(word_ptr(at + 0x10))
            }
            _ => {
                a.sgdt(fword_ptr(at))?;
                a.sidt(fword_ptr(at + 0x10))
            }
        }));
    }
    rows.push(Case::row("LGDT of an address that is not canonical", Mode::Long, |a| a.lgdt(fword_ptr(DATA))).with(
        |case| {
            case.put16(DATA, 0x7ff);
            case.put(DATA + 2, 1 << 60);
        },
    ));
    for bitmap in [0u16, 0x68, 0x200] {
        for port in [0u32, 7, 0x80, 0x3f8, 0xffff] {
            for mode in FLATS {
                rows.push(
                    Case::row(&format!("IN from {port:#x}, bitmap at {bitmap:#x}"), mode, |a| {
                        a.mov(dx, port)?;
                        a.in_(ax, dx)?;
                        a.ud2()
                    })
                    .user()
                    .with(|case| {
                        case.put16(TSS + 102, bitmap);
                        case.bytes(TSS + 0x68 + 0x10, &[0xff; 8]);
                        case.bytes(TSS + 0x68, &[0x80]);
                    }),
                );
            }
        }
    }
    for (name, code) in
        [("OUTSB", &[0x6eu8][..]), ("REP OUTSD", &[0xf3, 0x6f]), ("INSB", &[0x6c]), ("REP INSW", &[0x66, 0xf3, 0x6d])]
    {
        for mode in FLATS {
            rows.push(Case::raw(name, mode, code).with(|case| {
                case.state.gpr[1] = 5;
                case.state.gpr[2] = 0x70;
                case.state.gpr[6] = DATA;
                case.state.gpr[7] = DATA + 0x100;
            }));
        }
    }
}
