//! What KVM's emulator has not got, but user code may do on the host's own CPU, since Linux lets a process have a local
//! descriptor table of its own: here what asks about descriptors without faulting (LAR, LSL, VERR, VERW), and far branches.

#![allow(unsafe_code)] // The instructions themselves, and the system call that sets a descriptor.

mod far;

use crate::judge::{End, Ours};
use crate::kit::*;
use crate::random::Dice;
use core::arch::asm;
use std::sync::Mutex;

/// Whoever uses the descriptor holds it.
static ALONE: Mutex<()> = Mutex::new(());

/// Where the process has its descriptor: the second of its table.
const SELECTOR: u16 = 0x0f;

/// As the system call takes it: `flags` from bit 0 are 32-bit, two bits of contents, no write or read, limit in pages,
/// not present, available.
#[repr(C)]
struct UserDescriptor {
    number: u32,
    base: u32,
    limit: u32,
    flags: u32,
}

/// The descriptor that Linux makes of it: always of level 3, always accessed.
fn made(user: &UserDescriptor) -> u64 {
    let flag = |bit: u32| u64::from(user.flags >> bit & 1);
    let kind = 1 | (flag(3) ^ 1) << 1 | u64::from(user.flags >> 1 & 3) << 2;
    let rights = 0x70 | kind | (flag(5) ^ 1) << 7 | flag(6) << 12 | flag(0) << 14 | flag(4) << 15;
    descriptor(user.base.into(), user.limit.into(), rights)
}

fn set(user: &UserDescriptor) -> bool {
    // SAFETY: it writes an entry of this process's own table, which nothing else uses.
    unsafe { libc::syscall(libc::SYS_modify_ldt, 0x11, user as *const UserDescriptor, 16) == 0 }
}

/// The values that LAR and LSL leave in a register of ones, and ZF of LAR, LSL, VERR, VERW from bit 0 on.
fn ask(selector: u16) -> (u32, u32, u32) {
    let (mut rights, mut limit) = (u32::MAX, u32::MAX);
    let (a, b, c, d): (u8, u8, u8, u8);
    // SAFETY: none of these faults, whatever the selector, and they change the named registers and ZF alone.
    unsafe {
        asm!(
            "lar {rights:e}, {selector:e}", "setz {a}",
            "lsl {limit:e}, {selector:e}", "setz {b}",
            "verr {selector:x}", "setz {c}",
            "verw {selector:x}", "setz {d}",
            rights = inout(reg) rights, limit = inout(reg) limit, selector = in(reg) u32::from(selector),
            a = out(reg_byte) a, b = out(reg_byte) b, c = out(reg_byte) c, d = out(reg_byte) d,
            options(nomem, nostack),
        );
    }
    (rights, limit, u32::from(a) | u32::from(b) << 1 | u32::from(c) << 2 | u32::from(d) << 3)
}

/// The same of the software CPU, at privilege level 3 of 64-bit mode, with `value` in the same place.
fn ask_ours(ours: &mut Ours, selector: u16, value: u64) -> (u32, u32, u32) {
    let mut case = Case::new(Mode::Long).user();
    // LAR EDX, EAX; SETZ R8B; LSL EBX, EAX; SETZ R9B; VERR AX; SETZ R10B; VERW AX; SETZ R11B; UD2
    let code = [
        0x0f, 0x02, 0xd0, 0x41, 0x0f, 0x94, 0xc0, 0x0f, 0x03, 0xd8, 0x41, 0x0f, 0x94, 0xc1, 0x0f, 0x00, 0xe0, 0x41,
        0x0f, 0x94, 0xc2, 0x0f, 0x00, 0xe8, 0x41, 0x0f, 0x94, 0xc3, 0x0f, 0x0b,
    ];
    case.bytes(CODE, &code);
    case.put(LDT + 8, value);
    case.state.ldtr.limit = 0xf;
    case.state.gpr[0] = selector.into();
    (case.state.gpr[2], case.state.gpr[3]) = (u64::from(u32::MAX), u64::from(u32::MAX));
    let outcome = ours.run(&case);
    assert_eq!(outcome.end, End::Halted);
    assert_eq!(outcome.state.rip, HANDLERS + 0x61, "none of them faults");
    let gpr = outcome.state.gpr;
    let zero = |register: usize| gpr[register] as u32 & 1;
    (gpr[2] as u32, gpr[3] as u32, zero(8) | zero(9) << 1 | zero(10) << 2 | zero(11) << 3)
}

#[test]
fn user_code_is_told_of_descriptors_as_by_the_host() {
    let _alone = ALONE.lock();
    let mut dice = Dice(3);
    let mut ours = Ours::new();
    let (mut asked, mut visible) = (0, 0);
    for _ in 0..crate::number("NVMX_KVM_RANDOM", 500) {
        let user = UserDescriptor {
            number: 1,
            base: dice.next() as u32,
            limit: dice.next() as u32 & 0xf_ffff,
            flags: dice.next() as u32 & 0x7f,
        };
        if !set(&user) {
            // Code that is conforming must not be present: Linux has it so.
            assert!(user.flags >> 1 & 3 == 3 || asked == 0, "the system call refuses {:#x}", user.flags);
            continue;
        }
        // The descriptor, one that is empty, one beyond the limit, null.
        let selector = dice.pick(&[SELECTOR, SELECTOR, SELECTOR & !1, SELECTOR & !3, 7, 0xffff, 0, 3]);
        let (host, our) = (ask(selector), ask_ours(&mut ours, selector, made(&user)));
        assert_eq!(our, host, "selector {selector:#x}, descriptor {:#018x}", made(&user));
        asked += 1;
        visible += usize::from(host.2 != 0);
    }
    println!("{asked} selectors asked about on the host, {visible} of them visible, 0 differences");
    if asked == 0 {
        println!("SKIPPED: this host lets no process have a descriptor table");
        return;
    }
    assert!(visible * 3 > asked, "most of them are the descriptor's");
}
