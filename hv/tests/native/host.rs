//! Runs single instructions on the host's own CPU, in a child process.
//!
//! A signal handler is the whole machine: it returns to the instruction under test with every register loaded from the
//! case and the trap flag set, and is called again when the CPU has executed it or faulted. Code and data lie in pages
//! of their own with nothing mapped around them. 32-bit code runs in the segments that the kernel has for it, 16-bit
//! code in one of a local descriptor table, which has data segments with limits and rights of their own too.

use super::segments::{self, LDT};
use core::arch::{asm, global_asm};
use std::sync::atomic::{AtomicPtr, Ordering};

/// The page that instructions under test lie in.
pub const CODE: u64 = 0x7010_0000;
/// The page of memory that instructions may touch.
pub const DATA: u64 = 0x7000_0000;
/// Bytes of a page.
pub const PAGE: u64 = 4096;
/// Bytes of the data page that a case sets and compares. All else in it is zero before.
pub const WINDOW: usize = 1024;

/// Registers and memory, before or after.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(C, align(64))]
pub struct State {
    /// FXSAVE image, XSAVE header and upper YMM halves, in XSAVE's standard format.
    pub extended: [u8; 832],
    pub gpr: [u64; 16],
    pub rip: u64,
    pub rflags: u64,
    /// FS's base, then GS's.
    pub bases: [u64; 2],
    /// ES, CS, SS, DS, FS, GS.
    pub selectors: [u16; 6],
    pub memory: [u8; WINDOW],
}

/// One case: in, and after [`run`] out.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub struct Case {
    pub state: State,
    pub bytes: [u8; 16],
    pub length: u8,
    /// Where the instruction is, linear.
    pub code: u64,
    /// Where the window is, linear.
    pub window: u64,
    /// Whether each trap with RIP at the instruction is one of its iterations.
    pub repeats: bool,
    /// Filled in: the exception that the instruction raised; [`NONE`] when it completed.
    pub vector: u8,
    /// Filled in: the exception's error code, and a page fault's address; else 0.
    pub error_code: u64,
    pub address: u64,
}

/// No exception.
pub const NONE: u8 = 0xff;
/// The case did not run.
pub const NOT_RUN: u8 = 0xfe;

const TF: u64 = 1 << 8;
/// Order of the general registers in a signal's context, by their numbers in instruction encodings.
const ORDER: [libc::c_int; 16] = [
    libc::REG_RAX,
    libc::REG_RCX,
    libc::REG_RDX,
    libc::REG_RBX,
    libc::REG_RSP,
    libc::REG_RBP,
    libc::REG_RSI,
    libc::REG_RDI,
    libc::REG_R8,
    libc::REG_R9,
    libc::REG_R10,
    libc::REG_R11,
    libc::REG_R12,
    libc::REG_R13,
    libc::REG_R14,
    libc::REG_R15,
];

/// The batch that the handler works through: a pointer to its first case and to the one after its last.
static NEXT: AtomicPtr<Case> = AtomicPtr::new(core::ptr::null_mut());
static END: AtomicPtr<Case> = AtomicPtr::new(core::ptr::null_mut());
static CURRENT: AtomicPtr<Case> = AtomicPtr::new(core::ptr::null_mut());

/// Whether user mode may read and write FS's and GS's bases: the kernel says so in the auxiliary vector.
pub fn has_bases() -> bool {
    // SAFETY: a look at the process's own auxiliary vector.
    unsafe { libc::getauxval(libc::AT_HWCAP2) & 2 != 0 }
}

/// Runs every case on this CPU and fills in what became of it.
///
/// # Panics
/// When the host refuses a mapping or a process, or the child dies of a case; the message has the case's bytes.
pub fn run(cases: &mut [Case]) {
    let bytes = size_of_val(cases);
    for case in &mut *cases {
        case.vector = NOT_RUN;
    }
    // SAFETY: an anonymous shared mapping of the size asked for; checked below. The child touches only it, its own
    // stacks and the two test pages, then leaves without running destructors.
    let status = unsafe {
        let shared = map(0, bytes, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED);
        core::ptr::copy_nonoverlapping(cases.as_ptr(), shared.cast::<Case>(), cases.len());
        let child = libc::fork();
        assert!(child >= 0, "cannot fork");
        if child == 0 {
            work(shared.cast(), cases.len());
        }
        let mut status = 0;
        libc::waitpid(child, &mut status, 0);
        core::ptr::copy_nonoverlapping(shared.cast::<Case>(), cases.as_mut_ptr(), cases.len());
        libc::munmap(shared, bytes);
        status
    };
    let died = cases.iter().find(|case| case.vector == NOT_RUN);
    let died = died.map(|case| &case.bytes[..case.length.into()]);
    assert!(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0, "status {status:#x} of the child at {died:x?}");
}

/// # Safety
/// With an address, nothing else may be mapped there.
unsafe fn map(at: u64, bytes: usize, protection: libc::c_int, flags: libc::c_int) -> *mut libc::c_void {
    let fixed = if at == 0 { 0 } else { libc::MAP_FIXED };
    // SAFETY: the caller vouches for the address.
    let mapped = unsafe { libc::mmap(at as *mut _, bytes, protection, flags | fixed | libc::MAP_ANONYMOUS, -1, 0) };
    assert_ne!(mapped, libc::MAP_FAILED, "cannot map {bytes} bytes");
    mapped
}

/// Sets the local descriptor table up; whether the kernel does that.
fn load_ldt() -> bool {
    LDT.iter().enumerate().all(|(number, entry)| {
        let description = [number as u32, entry.base, entry.limit, entry.description()];
        // SAFETY: `user_desc` of the kernel's ABI is these four words; it changes this process's LDT alone.
        unsafe { libc::syscall(libc::SYS_modify_ldt, 0x11, description.as_ptr(), 16) == 0 }
    })
}

/// Whether the host runs 16-bit segments: a child tries.
pub fn has_ldt() -> bool {
    // SAFETY: the child leaves at once.
    unsafe {
        let child = libc::fork();
        if child == 0 {
            libc::_exit(if load_ldt() { 0 } else { 1 });
        }
        let mut status = 0;
        libc::waitpid(child, &mut status, 0);
        status == 0
    }
}

/// The child: never returns.
///
/// # Safety
/// `cases` points to `count` cases that nobody else touches meanwhile; the process is a fresh fork.
unsafe fn work(cases: *mut Case, count: usize) -> ! {
    // SAFETY: the test pages' addresses are far from where a process's own mappings lie; the handler's context is as
    // the kernel made it.
    unsafe {
        let all = libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC;
        map(CODE, PAGE as usize, all, libc::MAP_PRIVATE);
        map(DATA, PAGE as usize, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE);
        load_ldt();
        let stack_bytes = 1 << 16;
        let stack = map(0, stack_bytes, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE);
        let alternate = libc::stack_t { ss_sp: stack, ss_flags: 0, ss_size: stack_bytes };
        libc::sigaltstack(&alternate, core::ptr::null_mut());
        let mut action: libc::sigaction = core::mem::zeroed();
        action.sa_sigaction = native_handler_entry as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_NODEFER;
        for signal in [libc::SIGTRAP, libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE] {
            libc::sigaction(signal, &action, core::ptr::null_mut());
        }
        NEXT.store(cases, Ordering::Relaxed);
        END.store(cases.add(count), Ordering::Relaxed);
        // A case that does not end is one that this ends.
        libc::alarm(60);
        libc::raise(libc::SIGTRAP);
        libc::_exit(3)
    }
}

// Alignment checks go off before anything else is done, NT and ID too, and the direction is forward.
global_asm!(
    ".globl native_handler_entry",
    "native_handler_entry:",
    "pushfq",
    "and qword ptr [rsp], -0x244401",
    "popfq",
    "jmp {handle}",
    handle = sym handle,
);

// SAFETY: the symbol is the one that the assembly above defines. It is never called, only its address is taken.
unsafe extern "C" {
    fn native_handler_entry();
}

/// Reads ES, DS, FS and GS, and the latter two's bases.
fn read_segments(state: &mut State) {
    let (es, ds, fs, gs): (u16, u16, u16, u16);
    // SAFETY: it reads registers.
    unsafe {
        asm!("mov {:x}, es", out(reg) es);
        asm!("mov {:x}, ds", out(reg) ds);
        asm!("mov {:x}, fs", out(reg) fs);
        asm!("mov {:x}, gs", out(reg) gs);
        if has_bases() {
            asm!("rdfsbase {}", out(reg) state.bases[0]);
            asm!("rdgsbase {}", out(reg) state.bases[1]);
        }
    }
    let [e, _, _, d, f, g] = &mut state.selectors;
    (*e, *d, *f, *g) = (es, ds, fs, gs);
}

/// Loads what [`read_segments`] reads.
///
/// # Safety
/// The selectors can be loaded, and nothing in this process uses FS or GS any more.
unsafe fn load_segments(state: &State) {
    let [es, _, _, ds, fs, gs] = state.selectors;
    // SAFETY: 64-bit code uses neither ES nor DS; the caller vouches for FS and GS.
    unsafe {
        asm!("mov es, {:x}", in(reg) es);
        asm!("mov ds, {:x}", in(reg) ds);
        if has_bases() {
            asm!("mov fs, {:x}", in(reg) fs);
            asm!("mov gs, {:x}", in(reg) gs);
            if segments::has_any_base(fs) {
                asm!("wrfsbase {}", in(reg) state.bases[0]);
            }
            if segments::has_any_base(gs) {
                asm!("wrgsbase {}", in(reg) state.bases[1]);
            }
        }
    }
}

/// Takes the result of the case that ran and goes on with the next.
extern "C" fn handle(_signal: libc::c_int, _info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel's context is valid for the handler's time; cases are the child's alone.
    unsafe {
        let context = &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext;
        let extended = context.fpregs.cast::<u8>();
        if let Some(case) = CURRENT.load(Ordering::Relaxed).as_mut() {
            let registers = &context.gregs;
            let trap = registers[libc::REG_TRAPNO as usize] as u8;
            let rip = registers[libc::REG_RIP as usize] as u64;
            if trap == 1 && case.repeats && rip == case.state.rip {
                return; // An iteration of a repeated string instruction: go on.
            }
            for (register, place) in case.state.gpr.iter_mut().zip(ORDER) {
                *register = registers[place as usize] as u64;
            }
            case.state.rip = rip;
            case.state.rflags = registers[libc::REG_EFL as usize] as u64;
            let words = registers[libc::REG_CSGSFS as usize] as u64;
            case.vector = if trap == 1 { NONE } else { trap };
            if matches!(trap, 10..=14 | 17) {
                case.error_code = registers[libc::REG_ERR as usize] as u64;
            }
            if trap == 14 {
                case.address = registers[libc::REG_CR2 as usize] as u64;
            }
            read_segments(&mut case.state);
            case.state.selectors[1] = words as u16;
            case.state.selectors[2] = (words >> 48) as u16;
            core::ptr::copy_nonoverlapping(extended, case.state.extended.as_mut_ptr(), 832);
            core::ptr::copy_nonoverlapping(case.window as *const u8, case.state.memory.as_mut_ptr(), WINDOW);
            core::ptr::write_bytes(case.code as *mut u8, 0, (CODE + PAGE - case.code).min(16) as usize);
        }
        let next = NEXT.load(Ordering::Relaxed);
        if next == END.load(Ordering::Relaxed) {
            libc::_exit(0);
        }
        NEXT.store(next.add(1), Ordering::Relaxed);
        CURRENT.store(next, Ordering::Relaxed);
        let case = &*next;
        for (register, place) in case.state.gpr.iter().zip(ORDER) {
            context.gregs[place as usize] = *register as i64;
        }
        context.gregs[libc::REG_RIP as usize] = case.state.rip as i64;
        context.gregs[libc::REG_EFL as usize] = (case.state.rflags | TF) as i64;
        let (cs, ss) = (u64::from(case.state.selectors[1]), u64::from(case.state.selectors[2]));
        context.gregs[libc::REG_CSGSFS as usize] = (cs | ss << 48) as i64;
        load_segments(&case.state);
        // Bytes 464 to 511 of the image are the kernel's own words about it, and the first 8 of the header say which
        // parts are there: all three.
        core::ptr::copy_nonoverlapping(case.state.extended.as_ptr(), extended, 464);
        extended.add(512).cast::<u64>().write_unaligned(7);
        core::ptr::copy_nonoverlapping(case.state.extended.as_ptr().add(576), extended.add(576), 256);
        core::ptr::write_bytes(DATA as *mut u8, 0, PAGE as usize);
        core::ptr::copy_nonoverlapping(case.state.memory.as_ptr(), case.window as *mut u8, WINDOW);
        let room = (CODE + PAGE - case.code).min(16) as usize;
        core::ptr::copy_nonoverlapping(case.bytes.as_ptr(), case.code as *mut u8, room);
    }
}
