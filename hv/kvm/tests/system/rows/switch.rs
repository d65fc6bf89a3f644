//! Mode switches: up from real mode to 64-bit code and down again.

use crate::kit::*;
use crate::known::Deviation;
use iced_x86::IcedError;
use iced_x86::code_asm::*;

const EFER: u32 = 0xc000_0080;

/// Loads the data segments with one selector.
fn data(a: &mut CodeAssembler, selector: u16) -> Result<(), IcedError> {
    a.mov(eax, u32::from(selector))?;
    a.mov(ds, eax)?;
    a.mov(es, eax)?;
    a.mov(ss, eax)
}

/// The paging structures of another mode, put into this case, which has none.
fn structures(case: &mut Case, mode: Mode) {
    let other = Case::new(mode);
    let range = ROOT as usize..GDT as usize;
    case.memory[range.clone()].copy_from_slice(&other.memory[range]);
}

/// Gates for 64-bit handlers.
fn wide_gates(case: &mut Case) {
    let other = Case::new(Mode::Long);
    let range = IDT as usize..TSS as usize;
    case.memory[range.clone()].copy_from_slice(&other.memory[range]);
}

/// A far jump of 16 bits to code that is not of 16 bits.
fn far16(selector: u16, offset: u16) -> [u8; 5] {
    let [a, b] = offset.to_le_bytes();
    let [c, d] = selector.to_le_bytes();
    [0xea, a, b, c, d]
}

fn far32(selector: u16, offset: u64) -> [u8; 7] {
    let [a, b, c, d] = (offset as u32).to_le_bytes();
    let [e, f] = selector.to_le_bytes();
    [0xea, a, b, c, d, e, f]
}

/// Real mode to protected mode, whose 32-bit code is `more`.
fn to_protected(name: &str, more: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>) -> Case {
    let mut case = Case::new(Mode::Real);
    case.name = format!("{name} (from real mode)");
    case.put16(DATA, 0x7ff);
    case.put32(DATA + 2, GDT as u32);
    let mut code = assemble(16, 0, |a| {
        a.cli()?;
        a.lgdt(word_ptr(0))?;
        a.mov(eax, cr0)?;
        a.or(al, 1)?;
        a.mov(cr0, eax)
    });
    // Code from the flat segment: offset 0x10000 does not fit 16 bits, so that the jump has a prefix.
    code.push(0x66);
    code.extend(far32(CODE32, MORE));
    case.bytes(CODE, &code);
    case.code(32, MORE, |a| {
        data(a, FLAT)?;
        a.mov(esp, STACK as u32)?;
        more(a)
    });
    case
}

/// Turns on paging for IA-32e mode.
fn enable_long(a: &mut CodeAssembler) -> Result<(), IcedError> {
    a.mov(eax, cr4)?;
    a.or(eax, 0x20)?;
    a.mov(cr4, eax)?;
    a.mov(eax, ROOT as u32)?;
    a.mov(cr3, eax)?;
    a.mov(ecx, EFER)?;
    a.rdmsr()?;
    a.or(eax, 0x900)?;
    a.wrmsr()?;
    a.mov(eax, cr0)?;
    a.or(eax, 0x8000_0000u32)?;
    a.mov(cr0, eax)
}

pub(super) fn rows(rows: &mut Vec<Case>) {
    rows.push(to_protected("to protected mode", |a| a.push(0x1234)));
    rows.push(to_protected("to protected mode, a fault there", |a| a.ud2()).with(|case| {
        let other = Case::new(Mode::Protected32);
        let range = IDT as usize..TSS as usize;
        case.memory[range.clone()].copy_from_slice(&other.memory[range]);
        case.state.idtr.base = IDT;
        case.state.idtr.limit = 0x7ff;
    }));
    for (name, mode, bits) in [("32-bit", Mode::Paged, 0u32), ("PAE", Mode::Pae, 0x20)] {
        rows.push(
            to_protected(&format!("to {name} paging"), |a| {
                a.mov(eax, bits)?;
                a.mov(cr4, eax)?;
                a.mov(eax, ROOT as u32)?;
                a.mov(cr3, eax)?;
                a.mov(eax, cr0)?;
                a.or(eax, 0x8001_0000u32)?;
                a.mov(cr0, eax)?;
                a.mov(dword_ptr(DATA), eax)?;
                a.push(0x77)
            })
            .with(|case| structures(case, mode))
            .deviates(Deviation::LegacyPaging),
        );
    }
    let long = |name: &str, tail: &dyn Fn(&mut Case)| {
        let mut code = Vec::new();
        let mut case = to_protected(name, enable_long);
        structures(&mut case, Mode::Long);
        wide_gates(&mut case);
        let end = (MORE as usize..).find(|&at| case.memory[at..at + 3] == [0x0f, 0x22, 0xc0]).expect("MOV to CR0") + 3;
        // The last MOV to CR0 is the one that turns on paging.
        code.extend(far32(CODE64, MORE + 0x800));
        case.bytes(end as u64, &code);
        tail(&mut case);
        case
    };
    rows.push(long("to 64-bit mode", &|case| {
        case.code(64, MORE + 0x800, |a| {
            a.mov(rax, 0x1122_3344_5566_7788u64)?;
            a.push(rax)?;
            a.mov(r15, rsp)
        });
    }));
    rows.push(long("to 64-bit mode and to compatibility mode", &|case| {
        case.put32(DATA + 0x100, (MORE + 0xa00) as u32);
        case.put16(DATA + 0x104, CODE32);
        case.code(64, MORE + 0x800, |a| {
            a.mov(rbx, 0x1122_3344_5566_7788u64)?;
            a.jmp(fword_ptr(DATA + 0x100))
        });
        case.code(32, MORE + 0xa00, |a| {
            a.mov(ebx, 5)?;
            a.push(ebx)
        });
    }));
    rows.push(long("to 64-bit mode and back to protected mode", &|case| {
        case.put32(DATA + 0x100, (MORE + 0xa00) as u32);
        case.put16(DATA + 0x104, CODE32);
        case.code(64, MORE + 0x800, |a| a.jmp(fword_ptr(DATA + 0x100)));
        case.code(32, MORE + 0xa00, |a| {
            a.mov(eax, cr0)?;
            a.and(eax, 0x7fff_ffff)?;
            a.mov(cr0, eax)?;
            a.mov(ecx, EFER)?;
            a.rdmsr()?;
            a.and(eax, !0x100)?;
            a.wrmsr()?;
            a.mov(ebx, cr4)?;
            a.push(eax)
        });
    }));
    rows.push(to_protected("to protected mode and back", |a| a.nop()).with(|case| {
        let mut code = far32(CODE16, 0x200).to_vec();
        code.push(0xf4);
        case.code(32, MORE, |a| data(a, DATA16));
        let end = (MORE as usize..).find(|&at| case.memory[at] == 0xf4).expect("the HLT") as u64;
        case.bytes(end, &code);
        case.code(16, CODE + 0x200, |a| {
            a.mov(eax, cr0)?;
            a.and(al, 0xfeu32 as i32)?;
            a.mov(cr0, eax)
        });
        let end = (CODE as usize + 0x200..).find(|&at| case.memory[at] == 0xf4).expect("the HLT") as u64;
        case.bytes(end, &far16((CODE >> 4) as u16, 0x300));
        case.code(16, CODE + 0x300, |a| {
            a.mov(ax, 0x2000)?;
            a.mov(ds, ax)?;
            a.mov(ss, ax)?;
            a.mov(sp, 0x100)?;
            a.push(ax)
        });
    }));
    // Without the jump the hidden part of CS stays as it was.
    rows.push(Case::row("PE set, no jump", Mode::Real, |a| {
        a.mov(eax, cr0)?;
        a.or(al, 1)?;
        a.mov(cr0, eax)?;
        a.nop()
    }));
    rows.push(Case::row("unreal mode", Mode::Protected16, |a| {
        a.mov(ax, u32::from(FLAT))?;
        a.mov(ds, ax)?;
        a.mov(eax, cr0)?;
        a.and(al, 0xfeu32 as i32)?;
        a.mov(cr0, eax)?;
        a.mov(ebx, 0x2_0004)?;
        a.mov(dword_ptr(ebx), eax)?;
        a.mov(cx, 0x1234)?;
        a.mov(ds, cx)?;
        a.mov(dword_ptr(ebx + 0x100), eax)
    }));
    rows.push(Case::row("LMSW enters protected mode and does not leave it", Mode::Real, |a| {
        a.mov(ax, 0x11)?;
        a.lmsw(ax)?;
        a.xor(ax, ax)?;
        a.lmsw(ax)?;
        a.smsw(ebx)
    }));
}
