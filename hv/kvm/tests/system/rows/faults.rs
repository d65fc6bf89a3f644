//! Exceptions and how they are delivered: gates, stacks, error codes, double and triple faults; interrupts.

use super::{ALL, FLAT as FLATS, PROTECTED};
use crate::kit::*;
use crate::known::Deviation;
use iced_x86::IcedError;
use iced_x86::code_asm::*;

type Code = fn(&mut CodeAssembler) -> Result<(), IcedError>;

const CAUSES: [(&str, Code); 7] = [
    ("UD2", |a| a.ud2()),
    ("INT3", |a| a.int3()),
    ("INT 85h", |a| a.int(0x85)),
    ("a division by zero", |a| {
        a.xor(cx, cx)?;
        a.div(cx)
    }),
    ("a quotient too large", |a| {
        a.mov(dx, 1)?;
        a.mov(cx, 1)?;
        a.div(cx)
    }),
    ("INT1", |a| a.int1()),
    ("HLT", |_| Ok(())),
];

/// INT and its kin are not what the paravirtual KVM does best.
fn software(case: Case) -> Case {
    if case.name.starts_with("INT") { case.deviates(Deviation::SoftwareEvents) } else { case }
}

pub(super) fn rows(rows: &mut Vec<Case>) {
    for mode in ALL {
        rows.extend(CAUSES.map(|(name, f)| software(Case::row(name, mode, f))));
        if mode != Mode::Long {
            rows.push(Case::row("BOUND", mode, |a| a.bound(ax, dword_ptr(0x100))));
            rows.push(Case::row("INTO", mode, |a| {
                a.mov(al, 0x7f)?;
                a.add(al, 1)?;
                a.into()
            }));
        }
        rows.push(Case::row("MOV to CS", mode, |a| a.nop()).with(|case| case.bytes(CODE, &[0x8e, 0xc8])));
        rows.push(Case::row("LOCK NOP", mode, |a| a.nop()).with(|case| case.bytes(CODE, &[0xf0, 0x90])));
        rows.push(Case::row("an instruction of 16 bytes", mode, |a| a.nop()).with(|case| {
            case.bytes(CODE, &[0x66; 15]);
            case.bytes(CODE + 15, &[0x90, 0xf4]);
        }));
    }
    for mode in FLATS {
        rows.extend(CAUSES.map(|(name, f)| software(Case::row(name, mode, f).user())));
        let faulty = |name: &str, sound: bool, change: &dyn Fn(&mut Case)| {
            let mut case = Case::row(&format!("#UD, {name}"), mode, |a| a.ud2());
            change(&mut case);
            let mut user = case.clone().user();
            change(&mut user);
            [case, user].map(|case| if sound { case } else { case.deviates(Deviation::Delivery) })
        };
        let code = if mode.wide() { CODE64 } else { CODE32 };
        let handler = HANDLERS + 0x60;
        let rows = &mut *rows;
        let mut add = |name: &str, change: &dyn Fn(&mut Case)| {
            // What the paravirtual KVM does as it should.
            let sound = matches!(name, "a trap gate" | "a stack that is odd" | "IST 1" | "IST 2" | "no gate at all");
            rows.extend(faulty(name, sound, change));
        };
        add("a trap gate", &|case| case.gate(6, code, handler, 0x8f, 0));
        add("no gate", &|case| case.gate(6, 0, 0, 0, 0));
        add("an absent gate", &|case| case.gate(6, code, handler, 0x0e, 0));
        add("a gate to nothing", &|case| case.gate(6, 0, handler, 0x8e, 0));
        add("a gate to data", &|case| case.gate(6, FLAT, handler, 0x8e, 0));
        add("a gate to user code", &|case| case.gate(6, USER32, handler, 0x8e, 0));
        add("a gate to conforming code", &|case| case.gate(6, CONFORMING32, handler, 0x8e, 0));
        add("a gate to absent code", &|case| {
            case.descriptor(FREE, 0x00cf_1b00_0000_ffff);
            case.gate(6, FREE, handler, 0x8e, 0);
        });
        add("a gate beyond the GDT", &|case| case.gate(6, 0x800, handler, 0x8e, 0));
        add("a 16-bit gate", &|case| case.gate(6, code, handler, 0x86, 0));
        add("a call gate", &|case| case.gate(6, code, handler, 0x8c, 0));
        add("an IDT of six gates", &|case| case.state.idtr.limit = if mode.wide() { 95 } else { 47 });
        add("a stack that is odd", &|case| {
            if case.mode.wide() {
                case.put(TSS + 4, STACK0 - 3);
            } else {
                case.put32(TSS + 4, STACK0 as u32 - 3);
            }
            case.state.gpr[4] -= 5;
        });
        add("a task too short for stacks", &|case| case.state.tr.limit = 5);
        add("a gate to code that was not accessed", &|case| {
            case.descriptor(FREE, if mode.wide() { 0x00af_9a00_0000_ffff } else { 0x00cf_9a00_0000_ffff });
            case.gate(6, FREE, handler, 0x8e, 0);
        });
        if mode.wide() {
            add("IST 1", &|case| case.gate(6, code, handler, 0x8e, 1));
            add("IST 2", &|case| case.gate(6, code, handler, 0x8f, 2));
            add("an IST that is not canonical", &|case| {
                case.put(TSS + 0x34, 1 << 60);
                case.gate(6, code, handler, 0x8e, 3);
            });
            add("a handler that is not canonical", &|case| case.gate(6, code, 1 << 60, 0x8e, 0));
            add("a stack that is not canonical", &|case| case.put(TSS + 4, 1 << 60));
        } else {
            add("a null stack", &|case| case.put16(TSS + 8, 0));
            add("a user stack", &|case| case.put16(TSS + 8, USER_FLAT));
            add("a stack in code", &|case| case.put16(TSS + 8, CODE32));
            add("an absent stack", &|case| {
                case.descriptor(FREE, descriptor(0, 0xffff, 0x4013));
                case.put16(TSS + 8, FREE);
            });
            add("a small stack", &|case| {
                case.descriptor(FREE, descriptor(DATA, 0xfff, 0x4093));
                case.put16(TSS + 8, FREE);
                case.put32(TSS + 4, 8);
            });
            add("a handler beyond its limit", &|case| {
                case.descriptor(FREE, descriptor(0, 0xff, 0x409b));
                case.gate(6, FREE, handler, 0x8e, 0);
            });
        }
        add("no gate for it nor for #GP", &|case| {
            case.gate(6, 0, 0, 0, 0);
            case.gate(13, 0, 0, 0, 0);
            case.gate(11, 0, 0, 0, 0);
        });
        add("no gate at all", &|case| case.state.idtr.limit = 0);
        rows.push(
            Case::row("INT to an absent gate", mode, |a| a.int(0x85))
                .with(|case| case.gate(0x85, code, handler, 0x0e, 0)),
        );
        rows.push(Case::row("two page faults in a row", mode, |a| a.mov(eax, dword_ptr(0x3f_0000))).with(|case| {
            case.state.idtr.base = 0x3e_0000;
        }));
    }
    // Interrupts.
    for mode in [Mode::Real, Mode::Protected32, Mode::Compatibility, Mode::Long] {
        let wait = |name: &str, f: Code| {
            Case::row(&format!("an interrupt, {name}"), mode, f).with(|case| case.interrupt = Some(0x31))
        };
        rows.push(wait("IF clear", |a| {
            a.nop()?;
            a.nop()
        }));
        rows.push(
            wait("after STI", |a| {
                a.nop()?;
                a.sti()?;
                a.add(eax, 1)?;
                a.add(eax, 1)
            })
            .deviates(Deviation::Window),
        );
        rows.push(
            wait("after STI and MOV SS", |a| {
                a.mov(ecx, ss)?;
                a.sti()?;
                a.mov(ss, ecx)?;
                a.add(eax, 1)?;
                a.add(eax, 1)
            })
            .deviates(Deviation::Window),
        );
        rows.push(wait("STI, CLI", |a| {
            a.sti()?;
            a.cli()?;
            a.add(eax, 1)
        }));
        rows.push(wait("STI, HLT", |a| a.sti()));
        rows.push(
            wait("IF set, MOV SS", |a| {
                a.mov(ecx, ss)?;
                a.mov(ss, ecx)?;
                a.add(eax, 1)?;
                a.add(eax, 1)
            })
            .with(|case| case.state.rflags |= 0x200),
        );
        rows.push(wait("IF set from the first", |a| a.add(eax, 1)).with(|case| case.state.rflags |= 0x200));
        if mode == Mode::Long {
            rows.push(wait("IF set, in user code", |a| a.add(eax, 1)).user().with(|case| case.state.rflags |= 0x200));
        }
    }
    for mode in PROTECTED {
        rows.push(Case::row("POPF of all bits but TF", mode, |a| {
            a.push(-0x101)?;
            match mode.bits() {
                64 => a.popfq(),
                32 => a.popfd(),
                _ => a.popf(),
            }
        }));
    }
}
