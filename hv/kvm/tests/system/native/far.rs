//! Far jumps, calls and returns of user code, and segments in compatibility mode, on the host's own CPU: random
//! selectors and descriptors, what comes of them, or the exception and its error code.
//!
//! Three pages are at the same addresses as in a [`Case`]: the instruction, its stack, and where it may lead, which is
//! full of UD2. Whatever comes of it is an exception, which the kernel makes a signal.

use super::{SELECTOR, UserDescriptor, made, set};
use crate::judge::{End, Ours};
use crate::kit::*;
use crate::random::Dice;
use core::arch::asm;
use core::ptr;
use core::sync::atomic::{AtomicU64, Ordering::SeqCst};
use hv::cpu::Table;
use hv_defs::x86::Seg;

/// The stack's page.
const STACK_PAGE: u64 = STACK - 0x1000;
/// Where the frame is.
const FRAME: u64 = STACK - 0x100;
/// A far pointer in memory.
const POINTER: u64 = STACK - 0x80;

/// Linux's selectors: 64-bit code, data, 32-bit code of user mode; 64-bit code of the kernel.
const HOST_CODE: u16 = 0x33;
const HOST_DATA: u16 = 0x2b;
const HOST_CODE32: u16 = 0x23;
const KERNEL_CODE: u16 = 0x10;

/// What an exception tells.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Told {
    vector: u64,
    error: u64,
    rip: u64,
    cs: u16,
    rflags: u64,
    rsp: u64,
    ss: u16,
}

/// RFLAGS that user code can change, less TF and RF.
const FLAGS: u64 = 0x24_4cd5;

/// Where the signal handler puts what it is told, and where it goes on.
static TOLD: [AtomicU64; 7] = [const { AtomicU64::new(0) }; 7];
static RECOVERY: [AtomicU64; 2] = [const { AtomicU64::new(0) }; 2];

/// Notes the exception and goes on behind [`run`]'s jump.
extern "C" fn note(_: i32, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel passes the context of the code that was interrupted.
    let gregs = unsafe { &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs };
    let get = |register: i32| gregs[register as usize] as u64;
    let selectors = get(libc::REG_CSGSFS);
    let told = [
        get(libc::REG_TRAPNO),
        get(libc::REG_ERR),
        get(libc::REG_RIP),
        selectors & 0xffff,
        get(libc::REG_EFL) & FLAGS,
        get(libc::REG_RSP),
        selectors >> 48,
    ];
    for (into, value) in TOLD.iter().zip(told) {
        into.store(value, SeqCst);
    }
    gregs[libc::REG_RIP as usize] = RECOVERY[0].load(SeqCst) as i64;
    gregs[libc::REG_RSP as usize] = RECOVERY[1].load(SeqCst) as i64;
    gregs[libc::REG_EFL as usize] = 0x202;
    let kept = selectors & 0x0000_ffff_ffff_0000;
    gregs[libc::REG_CSGSFS as usize] = (kept | u64::from(HOST_CODE) | u64::from(HOST_DATA) << 48) as i64;
}

/// Jumps to the instruction with its stack, by a far pointer, and comes back by the signal.
fn run(code: u16) {
    let pointer = CODE | u64::from(code) << 32;
    // SAFETY: the code at CODE ends in an exception, whose handler goes on at the label with the stack pointer of here;
    // every register but that one may be lost on the way.
    unsafe {
        asm!(
            "push rbx", "push rbp",
            "lea rax, [rip + 2f]",
            "mov [{recovery}], rax",
            "mov [{recovery} + 8], rsp",
            "push 2", "popfq",
            "mov rsp, {frame}",
            // JMP FAR [RAX].
            "mov rax, {pointer}",
            ".byte 0xff, 0x28",
            "2:",
            "pop rbp", "pop rbx",
            recovery = in(reg) RECOVERY.as_ptr(),
            frame = in(reg) FRAME,
            pointer = in(reg) &raw const pointer,
            out("rax") _,
            clobber_abi("C"),
        );
    }
}

const SIGNALS: [i32; 3] = [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL];

/// The pages and the handlers, for as long as it lives.
struct Host {
    before: Vec<libc::sigaction>,
    stack: Vec<u8>,
    old_stack: libc::stack_t,
}

impl Host {
    /// `None` if a page is not to be had.
    fn new() -> Option<Self> {
        for page in [CODE, STACK_PAGE, MORE] {
            let (all, how) = (
                libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE,
            );
            // SAFETY: it maps what is not mapped, or fails.
            let at = unsafe { libc::mmap(page as *mut _, 0x1000, all, how, -1, 0) };
            if at as u64 != page {
                return None;
            }
        }
        let mut stack = vec![0u8; 0x1_0000];
        // SAFETY: plain structures of numbers and pointers; the new stack lives as long as it is in use.
        unsafe {
            let mut old_stack: libc::stack_t = core::mem::zeroed();
            let new = libc::stack_t { ss_sp: stack.as_mut_ptr().cast(), ss_flags: 0, ss_size: stack.len() };
            libc::sigaltstack(&new, &mut old_stack);
            let mut action: libc::sigaction = core::mem::zeroed();
            action.sa_sigaction = note as extern "C" fn(_, _, _) as libc::sighandler_t;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
            let before = SIGNALS.map(|signal| {
                let mut before = core::mem::zeroed();
                libc::sigaction(signal, &action, &mut before);
                before
            });
            Some(Self { before: before.to_vec(), stack, old_stack })
        }
    }

    /// Runs the case's instruction.
    fn run(&mut self, case: &Case) -> (Told, Vec<u8>) {
        for page in [CODE, STACK_PAGE, MORE] {
            // SAFETY: both are as long, and the page is this test's.
            unsafe { ptr::copy_nonoverlapping(case.memory[page as usize..].as_ptr(), page as *mut u8, 0x1000) };
        }
        run(case.state.seg[Seg::Cs as usize].selector);
        let [vector, error, rip, cs, rflags, rsp, ss] = TOLD.each_ref().map(|word| word.load(SeqCst));
        // SAFETY: the page is there, and nothing writes to it now.
        let stack = unsafe { core::slice::from_raw_parts(STACK_PAGE as *const u8, 0x1000) }.to_vec();
        (Told { vector, error, rip, cs: cs as u16, rflags, rsp, ss: ss as u16 }, stack)
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        for (signal, before) in SIGNALS.into_iter().zip(&self.before) {
            // SAFETY: as it was before.
            unsafe { libc::sigaction(signal, before, ptr::null_mut()) };
        }
        // SAFETY: as it was before; the pages are no-one else's.
        unsafe {
            libc::sigaltstack(&self.old_stack, ptr::null_mut());
            for page in [CODE, STACK_PAGE, MORE] {
                libc::munmap(page as *mut _, 0x1000);
            }
        }
        self.stack.clear();
    }
}

/// A case of user code, under descriptor tables like Linux's, with null data segments.
fn as_linux(mode: Mode) -> Case {
    let mut case = Case::new(mode).user();
    for (index, value) in [
        0x00cf_9b00_0000_ffff,
        0x00af_9b00_0000_ffff,
        0x00cf_9300_0000_ffff,
        0x00cf_fb00_0000_ffff,
        0x00cf_f300_0000_ffff,
        0x00af_fb00_0000_ffff,
        0,
        descriptor(TSS, 0x206f, 0x8b),
        0,
        0,
    ]
    .into_iter()
    .enumerate()
    {
        case.descriptor(8 * (index as u16 + 1), value);
    }
    for vector in 0..32u8 {
        case.gate(vector, KERNEL_CODE, HANDLERS + 16 * u64::from(vector), 0x8e, 0);
    }
    case.state.gdtr = Table { base: GDT, limit: 0x7f };
    case.state.ldtr.limit = 0xf;
    let null = segment(0, 0x1_0000, 0, 0);
    for data in [Seg::Es, Seg::Ds, Seg::Fs, Seg::Gs] {
        case.state.seg[data as usize] = null;
    }
    case.state.seg[Seg::Cs as usize].selector = if mode == Mode::Long { HOST_CODE } else { HOST_CODE32 };
    case.state.seg[Seg::Ss as usize].selector = HOST_DATA;
    case.state.gpr[4] = FRAME;
    (0..0x800).for_each(|word| case.put16(MORE + 2 * word, 0x0b0f));
    case
}

/// The exception that a run ended with, from what it pushed.
fn told(case: &Case, ours: &mut Ours) -> (Told, Vec<u8>) {
    let outcome = ours.run(case);
    assert_eq!(outcome.end, End::Halted, "{}", case.name);
    let vector = (outcome.state.rip - 1 - HANDLERS) / 16;
    let has_error = matches!(vector, 8 | 10..=14 | 17);
    let top = outcome.state.gpr[4];
    let slot = |slot: u64| {
        let at = (top + 8 * slot) as usize;
        u64::from_le_bytes(outcome.memory[at..at + 8].try_into().expect("eight bytes"))
    };
    let first = u64::from(has_error);
    let told = Told {
        vector,
        error: if has_error { slot(0) } else { 0 },
        rip: slot(first),
        cs: slot(first + 1) as u16,
        rflags: slot(first + 2) & FLAGS,
        rsp: slot(first + 3),
        ss: slot(first + 4) as u16,
    };
    (told, outcome.memory[STACK_PAGE as usize..STACK as usize].to_vec())
}

fn selector(dice: &mut Dice, usual: &[u16]) -> u16 {
    match dice.below(8) {
        0 => dice.pick(&[0u16, 0x08, 0x10, 0x18, 0x20, 0x28, 0x30, 0x40, 0x80, 0xfff8]) | dice.below(4) as u16,
        1 => SELECTOR & !3 | dice.below(4) as u16,
        2 => dice.pick(&[0x07, 0x17, 3, 1]),
        _ => dice.pick(usual),
    }
}

/// A random far branch through a random descriptor of the local table.
fn case(dice: &mut Dice) -> Option<Case> {
    let flat = dice.once_in(2);
    let user = UserDescriptor {
        number: 1,
        base: if flat { 0 } else { MORE as u32 },
        limit: dice.pick(&[0xf_ffff, 0xf_ffff, 0xfff, 0x3f, 0x3_0020]),
        flags: dice.next() as u32 & 0x5f | u32::from(dice.once_in(6)) << 5,
    };
    if !set(&user) {
        return None;
    }
    let mut case = as_linux(Mode::Long);
    let value = made(&user);
    case.put(LDT + 8, value);
    let cs = selector(dice, &[SELECTOR, SELECTOR, HOST_CODE, HOST_CODE32]);
    let ss = selector(dice, &[SELECTOR, HOST_DATA, HOST_DATA]);
    // From the segment's base on, or from zero; even, so that it is the beginning of an UD2; or nowhere.
    let based = cs | 3 == SELECTOR && !flat;
    let rip = match dice.below(12) {
        0 => 1 << 47 | MORE,
        1 => 0x1_0000_0000 | MORE,
        _ => 2 * dice.below(0x40) + if based { 0 } else { MORE },
    };
    let rsp = STACK - 0x200 + 8 * dice.below(8) + dice.pick(&[0, 0, 1 << 40]);
    let flags = dice.next() & (FLAGS | 0x3200) | 2;
    let how = dice.below(4);
    let words: &[u64] = match how {
        0 => &[rip, cs.into(), flags, rsp, ss.into()],
        1 => &[rip, cs.into(), 0x5555, 0x6666],
        _ => &[0x7777, 0x8888],
    };
    for (slot, &word) in words.iter().enumerate() {
        case.put(FRAME + 8 * slot as u64, word);
    }
    let wide = dice.once_in(3);
    case.put(POINTER, rip);
    case.put16(POINTER + if wide { 8 } else { 4 }, cs);
    let [a, b, c, _] = (POINTER as u32).to_le_bytes();
    let code: &[u8] = match how {
        0 => &[0x48, 0xcf],
        1 => &[0x48, 0xcb],
        2 => &[0x48, 0xff, 0x2c, 0x25, a, b, c, 0],
        _ => &[0x48, 0xff, 0x1c, 0x25, a, b, c, 0],
    };
    case.bytes(CODE, if how >= 2 && !wide { &code[1..] } else { code });
    let name = ["IRETQ", "RETFQ", "JMP", "CALL"][how as usize];
    case.name = format!("{name} (wide: {wide}) to {cs:#x}:{rip:#x}, stack {ss:#x}:{rsp:#x}, descriptor {value:#018x}");
    Some(case)
}

/// A random descriptor for the local table; `None` if Linux refuses it.
fn random_descriptor(dice: &mut Dice, base: u64, limits: &[u32]) -> Option<u64> {
    let user = UserDescriptor {
        number: 1,
        base: base as u32,
        limit: dice.pick(limits),
        flags: dice.next() as u32 & 0x5f | u32::from(dice.once_in(6)) << 5,
    };
    set(&user).then(|| made(&user))
}

/// A random far branch of compatibility code.
fn compatibility_case(dice: &mut Dice) -> Option<Case> {
    let base = dice.pick(&[0, MORE]);
    let value = random_descriptor(dice, base, &[0xf_ffff, 0xf_ffff, 0xfff, 0x3f, 0x3_0020])?;
    let mut case = as_linux(Mode::Compatibility);
    case.put(LDT + 8, value);
    let cs = selector(dice, &[SELECTOR, SELECTOR, HOST_CODE, HOST_CODE32]);
    let based = cs | 3 == SELECTOR && base != 0;
    let rip = 2 * dice.below(0x40) + if based { 0 } else { MORE };
    let flags = dice.next() & (FLAGS | 0x3200) | 2;
    let [a, b, c, d] = (rip as u32).to_le_bytes();
    let [e, f] = cs.to_le_bytes();
    // IRETD, RETF, and 16-bit ones; RETF that drops bytes; JMP and CALL of a pointer in the instruction.
    let how = dice.below(7);
    let words: &[u64] = match how {
        0 | 2 => &[rip, cs.into(), flags],
        _ => &[rip, cs.into(), 0x5555],
    };
    let short = matches!(how, 2 | 3);
    for (slot, &word) in words.iter().enumerate() {
        match short {
            true => case.put16(FRAME + 2 * slot as u64, word as u16),
            false => case.put32(FRAME + 4 * slot as u64, word as u32),
        }
    }
    let (jump, call) = ([0xea, a, b, c, d, e, f], [0x9a, a, b, c, d, e, f]);
    let code: [&[u8]; 7] = [&[0xcf], &[0xcb], &[0x66, 0xcf], &[0x66, 0xcb], &[0xca, 8, 0], &jump, &call];
    case.bytes(CODE, code[how as usize]);
    // What a 16-bit offset leads to lies where neither side has a page, unless the base is there.
    if short && !based && rip & 0xffff != rip {
        return None;
    }
    let name = ["IRETD", "RETF", "IRETW", "RETFW", "RETF 8", "JMP", "CALL"][how as usize];
    case.name = format!("{name} to {cs:#x}:{rip:#x}, flags {flags:#x}, descriptor {value:#018x}");
    Some(case)
}

/// A random segment for compatibility code, and an access through it.
fn segment_case(dice: &mut Dice) -> Option<Case> {
    let value = random_descriptor(dice, STACK_PAGE, &[0xf_ffff, 0xfff, 0x7ff, 0x3f, 0])?;
    let mut case = as_linux(Mode::Compatibility);
    case.put(LDT + 8, value);
    let selector = selector(dice, &[SELECTOR, SELECTOR, SELECTOR, HOST_DATA]);
    // ES, SS, DS, GS; the prefix that names it.
    let (number, prefix) = dice.pick(&[(0u8, 0x26u8), (2, 0x36), (3, 0x3e), (5, 0x65)]);
    let edge = dice.pick(&[0u64, 0x3f, 0x7ff, 0xfff]).wrapping_add(dice.below(8)).wrapping_sub(4);
    let offset = if selector | 3 == SELECTOR { edge & 0xfff } else { STACK_PAGE + (edge & 0x7ff) };
    let [a, b, c, d] = u32::from(selector).to_le_bytes();
    let [e, f, g, h] = (offset as u32).to_le_bytes();
    let (width, opcode) =
        dice.pick(&[(&[][..], 0x8a), (&[], 0x8b), (&[0x66], 0x8b), (&[], 0x88), (&[], 0x89), (&[0x66], 0x89)]);
    // MOV EAX, selector; MOV EBX, offset; MOV Sreg, EAX; the access; PUSH ECX, if the stack is still the old one.
    let mut code = vec![0xb8, a, b, c, d, 0xbb, e, f, g, h, 0xb9, 1, 2, 3, 4, 0x8e, 0xc0 | number << 3, prefix];
    code.extend(width);
    code.extend([opcode, 0x0b]);
    if number != 2 {
        code.extend([0x51]);
    }
    code.extend([0x0f, 0x0b]);
    case.bytes(CODE, &code);
    // An access across the page's end finds nothing.
    case.put(PAGE_TABLE + 8 * (STACK >> 12), 0);
    for at in (STACK_PAGE..FRAME - 0x100).step_by(8) {
        case.put(at, at.wrapping_mul(0x0101_0101_0101_0101));
    }
    case.name =
        format!("segment {number} {selector:#x}, {opcode:#x} {width:x?} at {offset:#x}, descriptor {value:#018x}");
    Some(case)
}

#[test]
fn far_branches_of_user_code_lead_where_the_host_s_do() {
    let _alone = super::ALONE.lock();
    judge("far branches", case);
}

#[test]
fn compatibility_code_branches_as_on_the_host() {
    let _alone = super::ALONE.lock();
    judge("far branches of compatibility code", compatibility_case);
}

#[test]
fn compatibility_code_has_segments_as_on_the_host() {
    let _alone = super::ALONE.lock();
    judge("segments of compatibility code", segment_case);
}

/// Runs random cases on the host and on the software CPU.
fn judge(what: &str, make: fn(&mut Dice) -> Option<Case>) {
    if !crate::maker::is_intel() {
        println!("SKIPPED: what a far branch faults with, and where, is the maker's, and this CPU is not Intel's");
        return;
    }
    let Some(mut host) = Host::new() else {
        println!("SKIPPED: the pages below 256 KiB are not to be had");
        return;
    };
    let mut ours = Ours::new();
    let mut dice = Dice(7);
    let (mut all, mut arrived, mut wrong) = (0, 0, Vec::new());
    for _ in 0..crate::number("NVMX_KVM_RANDOM", 500) {
        let Some(case) = make(&mut dice) else { continue };
        let host = host.run(&case);
        let our = told(&case, &mut ours);
        all += 1;
        arrived += usize::from(host.0.vector == 6);
        if host != our {
            wrong.push(format!("{}: {:x?}, ours {:x?}, stacks alike: {}", case.name, host.0, our.0, host.1 == our.1));
        }
    }
    println!("{all} {what} on the host, {arrived} of which arrive, {} differences", wrong.len());
    for line in wrong.iter().take(crate::number("NVMX_KVM_SHOW", 40) as usize) {
        println!("DIFFERS {line}");
    }
    assert!(wrong.is_empty(), "{} {what} differ", wrong.len());
    assert!(all == 0 || arrived * 5 > all, "enough of them arrive");
}
