//! Accesses through paging structures: what faults how, and which accessed and dirty bits are set.

use crate::kit::*;
use crate::known::{Deviation, Features, for_entries};
use iced_x86::code_asm::*;

/// A page that a row may map as it likes: not memory's own address.
pub const PAGE: u64 = 0x10_0000;
const ENTRY: u64 = PAGE_TABLE + 8 * (PAGE >> 12);

pub(super) fn rows(rows: &mut Vec<Case>) {
    let entries = [
        ("absent", 0u64),
        ("read-only, system", 1),
        ("writable, system", 3),
        ("read-only, user", 5),
        ("writable, user", 7),
        ("no execution, user", 1 << 63 | 7),
        ("no execution, system", 1 << 63 | 3),
        ("a reserved bit", 1 << 50 | 7),
        ("bit 46", 1 << 46 | 7),
        ("absent, a reserved bit", 1 << 50),
        ("accessed and dirty", 0x67),
        ("global", 0x107),
        ("ignored bits", 0x7ff0_0000_0000_0e07),
    ];
    for (name, entry) in entries {
        for (wp, smep) in [(0u64, 0u64), (0x1_0000, 0), (0x1_0000, 0x10_0000), (0, 0x20_0000), (0x1_0000, 0x30_0000)] {
            for user in [false, true] {
                for (what, number) in [("read", 0), ("write", 1), ("jump", 2)] {
                    if user && smep != 0 && number != 2 {
                        continue;
                    }
                    let case =
                        Case::row(&format!("{what} of a page, {name}, WP {wp:#x}, CR4 {smep:#x}"), Mode::Long, |a| {
                            a.mov(rbx, PAGE)?;
                            match number {
                                0 => a.mov(eax, dword_ptr(rbx)),
                                1 => a.mov(dword_ptr(rbx), eax),
                                _ => a.jmp(rbx),
                            }?;
                            a.ud2()
                        });
                    let mut case = if user { case.user() } else { case };
                    // Memory's own pages are the system's where SMEP would forbid the handlers.
                    if smep != 0 && !user {
                        for page in 0..(MEMORY >> 12) as u64 {
                            case.put(PAGE_TABLE + 8 * page, page << 12 | 3);
                        }
                    }
                    case.state.cr0 |= wp;
                    case.state.cr4 |= smep;
                    case = case.needs(for_entries(0, &[entry]));
                    case.deviates = (smep == 0x20_0000 && number == 2).then_some(Deviation::SmapFetch);
                    case.put(ENTRY, if entry & 1 != 0 { entry | DATA } else { entry });
                    case.bytes(DATA, &[0x0f, 0x0b]);
                    rows.push(case);
                }
            }
        }
    }
    // Large pages: the third gigabyte by a page of the second and third level.
    for (name, level, entry) in [
        ("2 MiB", 0x3000u64, 0x87u64),
        ("2 MiB, a reserved bit", 0x3000, 0x2087),
        ("2 MiB, PAT", 0x3000, 0x1087),
        ("1 GiB", 0x2000, 0x87),
        ("1 GiB, a reserved bit", 0x2000, 0x20_0087),
        ("PML4E with the size bit", 0x1000, 0x2087),
        ("read-only 2 MiB", 0x3000, 0x85),
        ("system 2 MiB", 0x3000, 0x83),
    ] {
        for user in [false, true] {
            let (shift, index) = match level {
                0x3000 => (21, 5u64),
                0x2000 => (30, 5),
                _ => (39, 5),
            };
            let case = Case::row(&format!("a page of {name}"), Mode::Long, |a| {
                a.mov(rbx, index << shift | DATA)?;
                a.mov(eax, dword_ptr(rbx))?;
                a.mov(dword_ptr(rbx + 4), eax)?;
                a.ud2()
            })
            .with(|case| {
                case.state.cr0 |= 0x1_0000;
                case.put(level + 8 * index, entry);
            })
            .needs(if level == 0x2000 { Features::GIGABYTE_PAGES } else { Features::empty() });
            rows.push(if user { case.user() } else { case });
        }
    }
    for level in [0x1000u64, 0x2000, 0x3000] {
        for (name, bits) in [
            ("read-only", 5u64),
            ("system", 3),
            ("absent", 0),
            ("no execution", 1 << 63 | 7),
            ("a reserved bit", 1 << 48 | 7),
        ] {
            for write in [false, true] {
                let case =
                    Case::row(&format!("a table at {level:#x} that is {name}, write {write}"), Mode::Long, |a| {
                        a.mov(
                            rbx,
                            if level == 0x1000 {
                                1u64 << 39
                            } else if level == 0x2000 {
                                1 << 30
                            } else {
                                1 << 21
                            } | DATA,
                        )?;
                        if write { a.mov(dword_ptr(rbx), eax) } else { a.mov(eax, dword_ptr(rbx)) }?;
                        a.ud2()
                    })
                    .with(|case| {
                        case.state.cr0 |= 0x1_0000;
                        let next = if level == 0x3000 { PAGE_TABLE } else { level + 0x1000 };
                        case.put(level + 8, next | bits);
                    });
                rows.push(case.clone());
                rows.push(case.user());
            }
        }
    }
    rows.push(Case::row("an access across two pages, the second absent", Mode::Long, |a| {
        a.mov(rbx, MEMORY as u64 - 2)?;
        a.mov(dword_ptr(rbx), eax)
    }));
    rows.push(Case::row("a read that is not canonical", Mode::Long, |a| {
        a.mov(rbx, 1u64 << 47)?;
        a.mov(eax, dword_ptr(rbx))
    }));
    rows.push(
        Case::row("a push that is not canonical", Mode::Long, |a| {
            a.mov(rsp, 1u64 << 47)?;
            a.push(rax)
        })
        .with(|case| {
            case.gate(12, CODE64, HANDLERS + 0xc0, 0x8e, 1);
        }),
    );
    rows.push(Case::row("a jump to where no code can be", Mode::Long, |a| {
        a.mov(rbx, 1u64 << 47)?;
        a.jmp(rbx)
    }));
    rows.push(Case::row("INVLPG of anything", Mode::Long, |a| a.invlpg(byte_ptr(rbx))));
    rows.push(Case::row("INVLPG", Mode::Long, |a| a.invlpg(byte_ptr(rbx))).user());
    rows.push(
        Case::row("a mapping that changes, with INVLPG", Mode::Long, |a| {
            a.mov(eax, dword_ptr(PAGE))?;
            a.mov(rcx, DATA + 0x1007)?;
            a.mov(qword_ptr(ENTRY), rcx)?;
            a.mov(rbx, PAGE)?;
            a.invlpg(byte_ptr(rbx))?;
            a.mov(edx, dword_ptr(PAGE))
        })
        .with(|case| {
            case.put(ENTRY, DATA | 7);
            case.put(DATA, 0x1111);
            case.put(DATA + 0x1000, 0x2222);
        }),
    );
    rows.push(
        Case::row("STAC and CLAC", Mode::Long, |a| {
            a.stac()?;
            a.mov(eax, dword_ptr(PAGE))?;
            a.clac()?;
            a.mov(ecx, dword_ptr(PAGE))
        })
        .with(|case| {
            for page in 0..(MEMORY >> 12) as u64 {
                case.put(PAGE_TABLE + 8 * page, page << 12 | 3);
            }
            case.put(ENTRY, DATA | 7);
            case.state.cr4 |= 0x20_0000;
        }),
    );
}
