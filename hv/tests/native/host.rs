//! Runs single instructions on the host's own CPU, in a child process.
//!
//! A signal handler is the whole machine: it returns to the instruction under test with every register loaded from the
//! case and the trap flag set, and is called again when the CPU has executed it or faulted. Code and data lie in pages
//! of their own with nothing mapped around them.

use std::sync::atomic::{AtomicI64, AtomicPtr, Ordering};

/// Where the instruction under test begins: the middle of a page, so that it may branch either way.
pub const CODE: u64 = 0x7010_0800;
/// The page of memory that instructions may touch.
pub const DATA: u64 = 0x7000_0000;
/// Bytes of that page that a case sets and compares, around its middle.
pub const WINDOW: usize = 256;
/// Where the window begins.
pub const WINDOW_AT: u64 = DATA + 2048;

/// Registers and memory, before or after.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(C, align(64))]
pub struct State {
    /// FXSAVE image, XSAVE header and upper YMM halves, in XSAVE's standard format.
    pub extended: [u8; 832],
    pub gpr: [u64; 16],
    pub rip: u64,
    pub rflags: u64,
    pub memory: [u8; WINDOW],
}

/// One case: in, and after [`run`] out.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub struct Case {
    pub state: State,
    pub bytes: [u8; 16],
    pub length: u8,
    /// Filled in: the exception that the instruction raised; [`NONE`] when it completed.
    pub vector: u8,
    /// Filled in: the page fault's error code and address, else 0.
    pub error_code: u64,
    pub address: u64,
}

/// No exception.
pub const NONE: u8 = 0xff;

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
/// The child's own code and data segments, which a far transfer may have changed.
static SEGMENTS: AtomicI64 = AtomicI64::new(0);

/// Runs every case on this CPU and fills in what became of it.
///
/// # Panics
/// When the host refuses a mapping or a process, or the child dies of a case; the message names the case.
pub fn run(cases: &mut [Case]) {
    let bytes = size_of_val(cases);
    // SAFETY: an anonymous shared mapping of the size asked for; checked below. The child touches only it, its own
    // stacks and the two test pages, then leaves without running destructors.
    unsafe {
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
        assert!(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0, "the child ended with status {status:#x}");
    }
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

/// The child: never returns.
///
/// # Safety
/// `cases` points to `count` cases that nobody else touches meanwhile; the process is a fresh fork.
unsafe fn work(cases: *mut Case, count: usize) -> ! {
    // SAFETY: the test pages' addresses are far from where a process's own mappings lie; the handler's context is as
    // the kernel made it.
    unsafe {
        let all = libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC;
        map(CODE & !0xfff, 4096, all, libc::MAP_PRIVATE);
        map(DATA, 4096, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE);
        let stack_bytes = 1 << 16;
        let stack = map(0, stack_bytes, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE);
        let alternate = libc::stack_t { ss_sp: stack, ss_flags: 0, ss_size: stack_bytes };
        libc::sigaltstack(&alternate, core::ptr::null_mut());
        let mut action: libc::sigaction = core::mem::zeroed();
        action.sa_sigaction = handle as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_NODEFER;
        for signal in [libc::SIGTRAP, libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE] {
            libc::sigaction(signal, &action, core::ptr::null_mut());
        }
        NEXT.store(cases, Ordering::Relaxed);
        END.store(cases.add(count), Ordering::Relaxed);
        libc::raise(libc::SIGTRAP);
        libc::_exit(3)
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
            if trap == 1 && rip == CODE && matches!(case.bytes[..2], [0xf2 | 0xf3, _] | [_, 0xf2 | 0xf3]) {
                return; // An iteration of a repeated string instruction: go on.
            }
            for (register, place) in case.state.gpr.iter_mut().zip(ORDER) {
                *register = registers[place as usize] as u64;
            }
            case.state.rip = rip;
            case.state.rflags = registers[libc::REG_EFL as usize] as u64;
            case.vector = if trap == 1 { NONE } else { trap };
            if trap == 14 {
                case.error_code = registers[libc::REG_ERR as usize] as u64;
                case.address = registers[libc::REG_CR2 as usize] as u64;
            }
            core::ptr::copy_nonoverlapping(extended, case.state.extended.as_mut_ptr(), 832);
            core::ptr::copy_nonoverlapping(WINDOW_AT as *const u8, case.state.memory.as_mut_ptr(), WINDOW);
            context.gregs[libc::REG_CSGSFS as usize] = SEGMENTS.load(Ordering::Relaxed);
        } else {
            SEGMENTS.store(context.gregs[libc::REG_CSGSFS as usize], Ordering::Relaxed);
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
        context.gregs[libc::REG_RIP as usize] = CODE as i64;
        context.gregs[libc::REG_EFL as usize] = (case.state.rflags | TF) as i64;
        // Bytes 464 to 511 of the image are the kernel's own words about it, and the first 8 of the header say which
        // parts are there: all three.
        core::ptr::copy_nonoverlapping(case.state.extended.as_ptr(), extended, 464);
        extended.add(512).cast::<u64>().write_unaligned(7);
        core::ptr::copy_nonoverlapping(case.state.extended.as_ptr().add(576), extended.add(576), 256);
        core::ptr::write_bytes(DATA as *mut u8, 0, 4096);
        core::ptr::copy_nonoverlapping(case.state.memory.as_ptr(), WINDOW_AT as *mut u8, WINDOW);
        core::ptr::copy_nonoverlapping(case.bytes.as_ptr(), CODE as *mut u8, 16);
    }
}
