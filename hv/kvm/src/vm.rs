//! A virtual machine of one CPU, to run snippets in.

#![allow(unsafe_code)] // Guest memory is shared with the kernel, and a stuck guest is stopped by a signal.

use crate::state::{MSRS, State};
use core::ptr::NonNull;
use core::time::Duration;
use kvm_bindings::{
    CpuId, KVM_MAX_CPUID_ENTRIES, Msrs, kvm_cpuid_entry2, kvm_debugregs, kvm_msr_entry, kvm_sregs,
    kvm_userspace_memory_region, kvm_vcpu_events,
};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd, VmFd};
use std::alloc::Layout;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

const PAGE: usize = 4096;
/// A guest that has run for as long without an exit is asked whether it is alive.
const PATIENCE: Duration = Duration::from_millis(100);
/// One that was asked as often runs for ever. It is more than once for the sake of busy hosts.
const QUESTIONS: u32 = 4;
/// What stops it: no-one else uses this one.
const SIGNAL: i32 = libc::SIGUSR2;

/// Why KVM could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no /dev/kvm, or it may not be opened.
    #[error("/dev/kvm cannot be opened: {0}")]
    Open(std::io::Error),
    /// A request failed.
    #[error("KVM refuses to {what}: {source}")]
    Refused {
        /// What was asked for.
        what: &'static str,
        /// The kernel's answer.
        source: std::io::Error,
    },
    /// There can be no thread that watches over its runs.
    #[error("there can be no more threads: {0}")]
    Thread(std::io::Error),
    /// A guest went past where it was to stop: what it has done since, nobody knows.
    #[error("KVM let its guest run on to {0:#x}, past where it was to stop")]
    Strayed(u64),
    /// It has not got what is needed.
    #[error("this kernel's KVM has no {0}")]
    Lacks(&'static str),
}

pub(crate) fn refused(what: &'static str) -> impl Fn(kvm_ioctls::Error) -> Error {
    move |errno| Error::Refused { what, source: std::io::Error::from_raw_os_error(errno.errno()) }
}

/// Why [`Vm::run`] returned.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Exit {
    /// HLT; RIP is behind it.
    Halted,
    /// OUT: the port and what was written. RIP is at the next instruction when the guest runs again, not before.
    Out(u16, Vec<u8>),
    /// IN: the port and the bytes; it read all ones.
    In(u16, usize),
    /// An access to where no memory is: it read all ones.
    Mmio(u64),
    /// An interrupt window that was asked for is open.
    Window,
    /// A triple fault.
    Shutdown,
    /// KVM gave up: the internal error's number.
    Failed(u32),
    /// It ran for too long.
    Stuck,
    /// Anything else, as KVM calls it.
    Other(String),
}

/// Events that wait for delivery, or are in the midst of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Pending {
    /// An exception: vector and error code.
    pub exception: Option<(u8, Option<u32>)>,
    /// An interrupt's vector.
    pub interrupt: Option<u8>,
    /// The shadows of STI (2) and MOV SS (1).
    pub shadow: u8,
}

/// Guest memory: pages of this process.
struct Pages {
    at: NonNull<u8>,
    layout: Layout,
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: `Vm::new` allocated it with this layout, and the VM that used it is gone, for it is declared before.
        unsafe { std::alloc::dealloc(self.at.as_ptr(), self.layout) }
    }
}

/// A virtual machine of one CPU, with memory from address 0.
pub struct Vm {
    vcpu: VcpuFd,
    vm: VmFd,
    memory: Pages,
    sregs: kvm_sregs,
    /// Counts starts and ends of runs: odd while the guest runs.
    runs: Arc<AtomicU64>,
}

impl Vm {
    /// A VM with `bytes` of zeroed memory, of whole pages. `cpuid` may change what CPUID shows from all that KVM has.
    ///
    /// # Errors
    /// No /dev/kvm, or a refusal.
    pub fn new(bytes: usize, mut cpuid: impl FnMut(&mut kvm_cpuid_entry2)) -> Result<Self, Error> {
        let kvm = Kvm::new().map_err(|errno| Error::Open(std::io::Error::from_raw_os_error(errno.errno())))?;
        let vm = kvm.create_vm().map_err(refused("make a VM"))?;
        let layout = Layout::from_size_align(bytes.max(PAGE).next_multiple_of(PAGE), PAGE).expect("memory's size");
        // SAFETY: the layout is not empty.
        let at = NonNull::new(unsafe { std::alloc::alloc_zeroed(layout) }).expect("memory for the guest");
        let memory = Pages { at, layout };
        // A task state segment and an identity map for CPUs that cannot run real mode by themselves; where there is no
        // need of them there may be no such request either.
        let _ = vm.set_tss_address(0xfffb_d000);
        let _ = vm.set_identity_map_address(0xfffb_c000);
        let mut supported =
            kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).map_err(refused("say what CPUID may show"))?;
        supported.as_mut_slice().iter_mut().for_each(&mut cpuid);
        let vcpu = vm.create_vcpu(0).map_err(refused("make a CPU"))?;
        let entries = CpuId::from_entries(supported.as_slice()).expect("no more than there were");
        vcpu.set_cpuid2(&entries).map_err(refused("set CPUID"))?;
        let sregs = vcpu.get_sregs().map_err(refused("give the system registers"))?;
        let runs = Arc::new(AtomicU64::new(0));
        watch(&runs, PATIENCE)?;
        let this = Self { vcpu, vm, memory, sregs, runs };
        this.map(true)?;
        Ok(this)
    }

    fn map(&self, there: bool) -> Result<(), Error> {
        let region = kvm_userspace_memory_region {
            slot: 0,
            flags: 0,
            guest_phys_addr: 0,
            memory_size: if there { self.memory.layout.size() as u64 } else { 0 },
            userspace_addr: self.memory.at.as_ptr() as u64,
        };
        // SAFETY: the pages are this VM's alone, and live as long as it does.
        unsafe { self.vm.set_user_memory_region(region) }.map_err(refused("map memory"))
    }

    /// Guest-physical memory.
    pub fn memory(&mut self) -> &mut [u8] {
        // SAFETY: the allocation has that many bytes, all initialised; the guest, the only other user, runs in
        // `Vm::run` alone, which borrows `self` too.
        unsafe { core::slice::from_raw_parts_mut(self.memory.at.as_ptr(), self.memory.layout.size()) }
    }

    /// Makes KVM forget all that it has cached of guest memory: needed after paging structures were changed from here,
    /// which KVM does not see.
    ///
    /// # Errors
    /// A refusal.
    pub fn forget(&self) -> Result<(), Error> {
        self.map(false)?;
        self.map(true)
    }

    /// Sets the state to begin with. Nothing is pending then.
    ///
    /// # Errors
    /// A refusal: not every state is one that a CPU can be in.
    pub fn set(&mut self, state: &State) -> Result<(), Error> {
        self.vcpu.set_vcpu_events(&kvm_vcpu_events::default()).map_err(refused("forget its events"))?;
        self.vcpu.set_sregs(&state.sregs(&self.sregs)).map_err(refused("set the system registers"))?;
        self.vcpu.set_regs(&state.regs()).map_err(refused("set the registers"))?;
        self.vcpu.set_debug_regs(&state.debug_regs()).map_err(refused("set the debug registers"))?;
        let msrs = Msrs::from_entries(&state.msr_entries()).expect("few MSRs");
        self.vcpu.set_msrs(&msrs).map_err(refused("set MSRs"))?;
        Ok(())
    }

    /// The state now.
    ///
    /// # Errors
    /// A refusal.
    pub fn get(&self) -> Result<State, Error> {
        let mut regs = self.vcpu.get_regs().map_err(refused("give the registers"))?;
        let sregs = self.vcpu.get_sregs().map_err(refused("give the system registers"))?;
        let debug: kvm_debugregs = self.vcpu.get_debug_regs().map_err(refused("give the debug registers"))?;
        let asked = MSRS.map(|index| kvm_msr_entry { index, ..kvm_msr_entry::default() });
        let mut msrs = Msrs::from_entries(&asked).expect("few MSRs");
        self.vcpu.get_msrs(&mut msrs).map_err(refused("give MSRs"))?;
        Ok(State::read(&mut regs, &sregs, &debug, msrs.as_slice()))
    }

    /// What waits for delivery.
    ///
    /// # Errors
    /// A refusal.
    pub fn pending(&self) -> Result<Pending, Error> {
        let events = self.vcpu.get_vcpu_events().map_err(refused("give its events"))?;
        let exception = &events.exception;
        let waits = exception.injected != 0 || exception.pending != 0;
        Ok(Pending {
            exception: waits.then(|| (exception.nr, (exception.has_error_code != 0).then_some(exception.error_code))),
            interrupt: (events.interrupt.injected != 0).then_some(events.interrupt.nr),
            shadow: events.interrupt.shadow,
        })
    }

    /// Delivers an external interrupt when the guest runs next, whatever RFLAGS.IF and the shadows say: ask for a
    /// window first.
    ///
    /// # Errors
    /// A refusal.
    pub fn interrupt(&mut self, vector: u8) -> Result<(), Error> {
        let mut events = self.vcpu.get_vcpu_events().map_err(refused("give its events"))?;
        events.interrupt.injected = 1;
        events.interrupt.nr = vector;
        events.interrupt.soft = 0;
        self.vcpu.set_vcpu_events(&events).map_err(refused("take an interrupt"))
    }

    /// Whether to exit as soon as an external interrupt could be delivered.
    pub fn want_window(&mut self, want: bool) {
        self.vcpu.get_kvm_run().request_interrupt_window = want.into();
    }

    /// Runs until the next exit.
    pub fn run(&mut self) -> Exit {
        for _ in 0..QUESTIONS {
            self.runs.fetch_add(1, Ordering::SeqCst);
            let exit = self.enter();
            self.runs.fetch_add(1, Ordering::SeqCst);
            match exit {
                Exit::Stuck => {}
                Exit::Failed(_) => {
                    // SAFETY: the exit reason says that it is the internal error's part that KVM filled in.
                    return Exit::Failed(unsafe { self.vcpu.get_kvm_run().__bindgen_anon_1.internal.suberror });
                }
                exit => return exit,
            }
        }
        Exit::Stuck
    }

    /// Runs until the next exit or signal. The number of an internal error is not told.
    fn enter(&mut self) -> Exit {
        match self.vcpu.run() {
            Ok(VcpuExit::Hlt) => Exit::Halted,
            Ok(VcpuExit::IoOut(port, data)) => Exit::Out(port, data.to_vec()),
            Ok(VcpuExit::IoIn(port, data)) => {
                data.fill(0xff);
                Exit::In(port, data.len())
            }
            Ok(VcpuExit::MmioRead(address, data)) => {
                data.fill(0xff);
                Exit::Mmio(address)
            }
            Ok(VcpuExit::MmioWrite(address, _)) => Exit::Mmio(address),
            Ok(VcpuExit::IrqWindowOpen) => Exit::Window,
            Ok(VcpuExit::Shutdown) => Exit::Shutdown,
            Ok(VcpuExit::InternalError) => Exit::Failed(0),
            Ok(other) => Exit::Other(format!("{other:?}")),
            Err(errno) if errno.errno() == libc::EINTR => Exit::Stuck,
            Err(errno) => Exit::Other(errno.to_string()),
        }
    }
}

extern "C" fn nothing(_: i32) {}

/// Watches from another thread over the runs that this thread makes: one that lasts for `patience` is interrupted.
///
/// # Errors
/// There can be no other thread.
pub(crate) fn watch(runs: &Arc<AtomicU64>, patience: Duration) -> Result<(), Error> {
    let handler = nothing as extern "C" fn(i32);
    // SAFETY: the handler does nothing, which any thread may do at any time. It is there to interrupt the request.
    unsafe { libc::signal(SIGNAL, handler as libc::sighandler_t) };
    // SAFETY: it has no preconditions.
    let runner = unsafe { libc::pthread_self() };
    let runs = Arc::downgrade(runs);
    let watching = move || {
        let mut seen = 0;
        while let Some(runs) = runs.upgrade() {
            let now = runs.load(Ordering::SeqCst);
            if now % 2 == 1 && now == seen {
                // SAFETY: the thread is in the midst of a run, so that it is there.
                unsafe { libc::pthread_kill(runner, SIGNAL) };
            }
            seen = now;
            drop(runs);
            std::thread::sleep(patience);
        }
    };
    std::thread::Builder::new().name("watch".into()).spawn(watching).map(|_| ()).map_err(Error::Thread)
}
