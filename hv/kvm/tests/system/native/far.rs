//! Far jumps, calls and returns of user code, on the host's own CPU: random code and stack selectors, where they lead, or
//! the exception and its error code.
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

/// Jumps to the instruction with its stack, and comes back by the signal.
fn run() {
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
            "jmp {code}",
            "2:",
            "pop rbp", "pop rbx",
            recovery = in(reg) RECOVERY.as_ptr(),
            frame = in(reg) FRAME,
            code = in(reg) CODE,
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
        run();
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

/// A case of user code in 64-bit mode, under descriptor tables like Linux's.
fn as_linux() -> Case {
    let mut case = Case::new(Mode::Long).user();
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
    case.state.seg[Seg::Cs as usize].selector = HOST_CODE;
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
    let mut case = as_linux();
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

#[test]
fn far_branches_of_user_code_lead_where_the_host_s_do() {
    let _alone = super::ALONE.lock();
    let Some(mut host) = Host::new() else {
        println!("SKIPPED: the pages below 256 KiB are not to be had");
        return;
    };
    let mut ours = Ours::new();
    let mut dice = Dice(7);
    let (mut all, mut arrived, mut wrong) = (0, 0, Vec::new());
    for _ in 0..crate::number("NVMX_KVM_RANDOM", 500) {
        let Some(case) = case(&mut dice) else { continue };
        let host = host.run(&case);
        let our = told(&case, &mut ours);
        all += 1;
        arrived += usize::from(host.0.vector == 6);
        if host != our {
            wrong.push(format!("{}: {:x?}, ours {:x?}, stacks alike: {}", case.name, host.0, our.0, host.1 == our.1));
        }
    }
    println!("{all} far branches on the host, {arrived} of which arrive, {} differences", wrong.len());
    for line in wrong.iter().take(crate::number("NVMX_KVM_SHOW", 40) as usize) {
        println!("DIFFERS {line}");
    }
    assert!(wrong.is_empty(), "{} far branches differ", wrong.len());
    assert!(all == 0 || arrived * 5 > all, "enough of them arrive");
}
