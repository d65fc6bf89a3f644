//! A virtual machine on the host's KVM whose guest may be a hypervisor: the kernel's KVM is L0, and this is its user.
//!
//! The guest, its memory and its board are those of the software machine ([`hv::machine`]). Its interrupt controllers and
//! its timer are the kernel's, for the kernel delivers interrupts to L2 or to L1; the other devices are ours. What L0 does
//! is the kernel's to know: here is seen which exits reach its user, and at each of them what KVM_GET_NESTED_STATE says.
//! Who records the kernel's tracepoints of the thread that calls [`Host::run`] sees the rest.
//!
//! Nothing here can be replayed: instructions are not counted, and stamps are nanoseconds since the run began.

mod exits;
mod nested;
mod ram;
mod start;
mod vmcs12;

use crate::vm::watch;
use core::time::Duration;
use exits::{Exit, Io};
use hv::device::Board;
use hv::l0::{Bus, BusEvent};
use hv::machine::{Image, MachineError, load, world_stop};
use hv::world::World;
use hv_defs::config::{Config, Log};
use hv_defs::event::{self, Actor, Event, Input, InputKind, NO_ADDRESS, Stamp, Stop, StopKind, What};
use hv_defs::exit::{ExitReason, InterruptionInfo, IoAccess, Reason};
use kvm_bindings::{KVM_MP_STATE_HALTED, KVM_PIT_SPEAKER_DUMMY, kvm_pit_config};
use kvm_ioctls::{Cap, Kvm, VcpuFd, VmFd};
use nested::Nested;
use ram::Pages;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A guest that has run for as long without an exit is interrupted, for the world may want something.
const BEAT: Duration = Duration::from_millis(20);

/// RFLAGS.IF.
const INTERRUPTS_ON: u64 = 1 << 9;

/// Why a machine could not be made.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// KVM is not there, or refused.
    #[error(transparent)]
    Kvm(#[from] crate::Error),
    /// The guest cannot be loaded.
    #[error(transparent)]
    Machine(#[from] MachineError),
    /// This host has not the memory.
    #[error("this host cannot give the machine {needed} bytes of memory: {source}")]
    Memory {
        /// Bytes that it needs.
        needed: u64,
        /// Why not.
        source: io::Error,
    },
    /// The host's KVM shows its guests no VMX after all.
    #[error("this host's KVM gives guests no VMX: load kvm_intel with nested=1")]
    Vmx,
    /// What was asked for is L0's to do, and L0 is not ours.
    #[error("{0} cannot be had where the host's kernel is L0")]
    NotOurs(&'static str),
}

fn refused(what: &'static str) -> impl Fn(kvm_ioctls::Error) -> HostError {
    move |errno| crate::Error::Refused { what, source: io::Error::from_raw_os_error(errno.errno()) }.into()
}

/// Whether this host's KVM lets guests be hypervisors, and says what it knows of theirs.
///
/// # Errors
/// There is no /dev/kvm, or it may not be opened.
pub fn available() -> Result<bool, HostError> {
    let kvm = open()?;
    Ok(kvm.check_extension_int(Cap::NestedState) > 0 && start::offers_vmx(&kvm)?)
}

fn open() -> Result<Kvm, HostError> {
    Ok(Kvm::new().map_err(|errno| crate::Error::Open(io::Error::from_raw_os_error(errno.errno())))?)
}

/// A machine, on the thread that made it.
pub struct Host {
    config: Config,
    vcpu: VcpuFd,
    vm: VmFd,
    ram: Pages,
    board: Board,
    nested: Nested,
    /// Whether exits are told from what is seen here; else somebody hears the kernel tell of them.
    tells_exits: bool,
    /// When the run began, by [`clock`].
    began: u64,
    /// Odd while the guest runs.
    runs: Arc<AtomicU64>,
    asked: u64,
    polls: u64,
    /// The last bytes of the console, where the text to stop on may have begun.
    shown: Vec<u8>,
    told: Vec<Event>,
}

impl Host {
    /// Makes the machine of a configuration, and loads its guest.
    ///
    /// # Errors
    /// KVM is not there or refuses, the configuration asks for what the kernel as L0 does not do, or an image cannot be
    /// booted.
    pub fn new(config: &Config, images: &[Image]) -> Result<Self, HostError> {
        check(config)?;
        let kvm = open()?;
        let mut loaded = load(config, images)?;
        if loaded.extent() > config.memory {
            return Err(MachineError::Memory { needed: loaded.extent(), got: config.memory }.into());
        }
        let vm = kvm.create_vm().map_err(refused("make a VM"))?;
        let mut ram = Pages::new(config.memory)?;
        // What KVM needs pages of the guest's for where a CPU has no unrestricted guests.
        vm.set_identity_map_address(0xfffb_c000).map_err(refused("place the identity map"))?;
        vm.set_tss_address(0xfffb_d000).map_err(refused("place the task state segment"))?;
        vm.create_irq_chip().map_err(refused("make interrupt controllers"))?;
        let pit = kvm_pit_config { flags: KVM_PIT_SPEAKER_DUMMY, ..kvm_pit_config::default() };
        vm.create_pit2(pit).map_err(refused("make a timer"))?;
        ram.give(&vm)?;
        for (at, bytes) in &loaded.memory {
            hv::l0::Ram::write(&mut ram, *at, bytes);
        }
        let vcpu = vm.create_vcpu(0).map_err(refused("make a vCPU"))?;
        start::show_cpuid(&kvm, &vcpu)?;
        start::begin(&vcpu, &loaded.start)?;
        let runs = Arc::new(AtomicU64::new(0));
        watch(&runs, BEAT);
        Ok(Self {
            board: Board::with_kernel(config.memory, config.vcpus, core::mem::take(&mut loaded.items)),
            config: config.clone(),
            vcpu,
            vm,
            ram,
            nested: Nested::new(),
            tells_exits: true,
            began: exits::clock(),
            runs,
            asked: 0,
            polls: 0,
            shown: Vec::new(),
            told: Vec::new(),
        })
    }

    /// The exits are told by who hears the kernel's tracepoints, and are not told from here. Stamps count from `began`, in
    /// nanoseconds of CLOCK_MONOTONIC, as theirs do.
    pub fn leave_exits_to_tracepoints(&mut self, began: u64) {
        self.tells_exits = false;
        self.began = began;
    }

    /// Runs to the end, on the thread that made it. The world is told, if only of nothing, after each return of the guest's
    /// to us: who has tracepoints to read reads them then, and has all that happened before.
    pub fn run(&mut self, world: &mut dyn World) -> Stop {
        loop {
            let left = self.advance(world);
            let stop = match left {
                Ok(None) => continue,
                Ok(Some(stop)) => stop,
                Err(error) => Stop { kind: StopKind::Unsupported, code: 0, text: error.to_string() },
            };
            self.tell(What::Stop(stop.clone()));
            let _ = world.events(&self.told);
            return stop;
        }
    }

    /// Runs to the next exit to us, and answers it. Returns why the run is over, if it is.
    fn advance(&mut self, world: &mut dyn World) -> Result<Option<Stop>, HostError> {
        self.runs.fetch_add(1, Ordering::SeqCst);
        let exit = exits::run(&mut self.vcpu);
        self.runs.fetch_add(1, Ordering::SeqCst);
        let now = self.now();
        let stop = match exit? {
            Exit::Beat => self.beat(now)?,
            Exit::Io(io) => {
                self.look(Some(io_exit(&io)))?;
                self.serve(&io, now)
            }
            Exit::Read(at, size) => {
                self.look(Some((Reason::EPT_MISCONFIG, 0, at.0)))?;
                let value = self.board.mmio_read(0, at, size, now).unwrap_or(u64::MAX);
                exits::answer_read(&mut self.vcpu, value);
                None
            }
            Exit::Write(at, size, value) => {
                self.look(Some((Reason::EPT_MISCONFIG, 0, at.0)))?;
                self.board.mmio_write(0, at, size, value, now);
                None
            }
            Exit::Shutdown => {
                self.look(Some((Reason::TRIPLE_FAULT, 0, 0)))?;
                Some(self.stopped(StopKind::TripleFault, "L1 took a triple fault"))
            }
            Exit::Halted => Some(self.stopped(StopKind::Halted, "every CPU is halted with its interrupts off")),
            Exit::Failed(why) => Some(self.stopped(StopKind::Unsupported, &why)),
        };
        for line in self.board.take_risen() {
            self.vm.set_irq_line(line.into(), true).map_err(refused("raise an interrupt line"))?;
            self.vm.set_irq_line(line.into(), false).map_err(refused("lower an interrupt line"))?;
        }
        let stop = stop.or_else(|| self.show(world));
        let ends = world.events(&self.told).is_break();
        self.told.clear();
        if ends {
            return Ok(Some(world_stop()));
        }
        match stop {
            None if now.saturating_sub(self.asked) >= BEAT.as_nanos() as u64 => Ok(self.ask(world, now)),
            stop => Ok(stop),
        }
    }

    /// Nothing has come from the guest for a while.
    fn beat(&mut self, now: u64) -> Result<Option<Stop>, HostError> {
        // What is due by now is delivered with the lines that have risen.
        self.board.arrivals(now);
        let state = self.vcpu.get_mp_state().map_err(refused("say whether the vCPU waits"))?;
        let flags = self.vcpu.get_regs().map_err(refused("give the registers"))?.rflags;
        self.nested.look(&self.vcpu, &mut Vec::new())?;
        let deaf = state.mp_state == KVM_MP_STATE_HALTED && flags & INTERRUPTS_ON == 0 && !self.nested.is_l2;
        Ok(deaf.then(|| self.stopped(StopKind::Halted, "every CPU is halted with its interrupts off")))
    }

    /// Looks at what is nested, and tells of an exit by reason, qualification and guest-physical address.
    fn look(&mut self, exit: Option<(Reason, u64, u64)>) -> Result<(), HostError> {
        let mut found = Vec::new();
        self.nested.look(&self.vcpu, &mut found)?;
        // What was written was written before the guest came to us.
        if self.config.log != Log::Exits {
            found.into_iter().for_each(|what| self.tell(what));
        }
        if let Some((reason, qualification, gpa)) = exit.filter(|_| self.tells_exits) {
            let rip = self.vcpu.get_regs().map_err(refused("give the registers"))?.rip;
            self.tell(What::Exit(event::Exit {
                level: 1 + u8::from(self.nested.is_l2),
                reason: ExitReason::of(reason),
                qualification,
                rip,
                length: 0,
                gpa,
                gla: 0,
                intr_info: InterruptionInfo::default(),
                vmcs12: if self.nested.is_l2 { self.nested.vmcs12 } else { NO_ADDRESS },
                handled_by: Actor::L0,
            }));
        }
        Ok(())
    }

    /// Has the board answer an access to a port. Returns why the run is over, if it is.
    fn serve(&mut self, io: &Io, now: u64) -> Option<Stop> {
        for place in 0..io.count {
            if io.input {
                let value = self.board.io_in(io.port, io.size, now);
                exits::answer_in(&mut self.vcpu, io, place, value);
                continue;
            }
            let value = exits::value_of(&mut self.vcpu, io, place);
            match self.board.io_out(io.port, io.size, value, now) {
                Some(BusEvent::Mark(mark)) => self.tell(What::Mark(mark)),
                Some(BusEvent::Dma(at)) => self.board.dma(at, &mut self.ram),
                Some(BusEvent::Stop(stop)) => return Some(stop),
                None => {}
            }
        }
        None
    }

    /// Shows the world what the console shows, and looks for the text to stop on.
    fn show(&mut self, world: &mut dyn World) -> Option<Stop> {
        if !self.board.has_output() {
            return None;
        }
        let output = self.board.output();
        world.console(&output);
        let text = self.config.stop_on.as_deref().filter(|text| !text.is_empty())?;
        self.shown.extend_from_slice(&output);
        if self.shown.windows(text.len()).any(|shown| shown == text.as_bytes()) {
            let text = format!("the console showed '{text}'");
            return Some(Stop { kind: StopKind::StopOn, code: 0, text });
        }
        let kept = self.shown.len().saturating_sub(text.len() - 1);
        self.shown.drain(..kept);
        None
    }

    /// Asks the world for input.
    fn ask(&mut self, world: &mut dyn World, now: u64) -> Option<Stop> {
        self.asked = now;
        while let Some((kind, value)) = world.input(self.polls, now, None) {
            self.tell(What::Input(Input { poll: self.polls, kind, value }));
            self.polls += 1;
            match kind {
                InputKind::Console => self.board.key(value as u8),
                InputKind::Stop => return Some(world_stop()),
            }
        }
        None
    }

    /// An end, and where the guest was.
    fn stopped(&self, kind: StopKind, why: &str) -> Stop {
        let at = self.vcpu.get_regs().map(|regs| format!(" at {:#x}", regs.rip)).unwrap_or_default();
        let level = if self.nested.is_l2 { " in L2" } else { "" };
        Stop { kind, code: 0, text: format!("{why}{at}{level}") }
    }

    fn now(&self) -> u64 {
        exits::clock().saturating_sub(self.began)
    }

    fn tell(&mut self, what: What) {
        let at = Stamp { instruction: self.now(), vcpu: 0, pcpu: exits::cpu() };
        self.told.push(Event { at, what });
    }
}

/// An I/O exit as hardware would have told it.
fn io_exit(io: &Io) -> (Reason, u64, u64) {
    let access = IoAccess::new()
        .with_size_less_one(io.size.saturating_sub(1))
        .with_input(io.input)
        .with_rep(io.count > 1)
        .with_string(io.count > 1)
        .with_port(io.port);
    (Reason::IO_INSTRUCTION, access.into_bits(), 0)
}

/// Refuses what only an L0 of ours can do.
fn check(config: &Config) -> Result<(), HostError> {
    let asked = [
        (config.vcpus > 1, "more than one vCPU"),
        (config.pcpus > 1, "a number of physical CPUs"),
        (config.max_instructions.is_some(), "a limit of instructions"),
        (config.log == Log::L0, "--log l0"),
        (config.la57, "5-level paging"),
        (config.slips.iter().next().is_some(), "--fault"),
    ];
    match asked.into_iter().find(|(is, _)| *is) {
        Some((_, what)) => Err(HostError::NotOurs(what)),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hv_defs::config::Guest;

    #[test]
    fn what_only_our_l0_does_is_refused() {
        let check = |change: fn(&mut Config), what: Option<&str>| {
            let mut config = Config::new(Guest::BuiltIn("demo".into()));
            change(&mut config);
            match (super::check(&config), what) {
                (Ok(()), None) => {}
                (Err(HostError::NotOurs(found)), Some(what)) => assert_eq!(found, what),
                (found, what) => panic!("{found:?}, not {what:?}"),
            }
        };
        check(|_| {}, None);
        check(|config| config.log = Log::Exits, None);
        check(|config| config.log = Log::L0, Some("--log l0"));
        check(|config| config.vcpus = 2, Some("more than one vCPU"));
        check(|config| config.max_instructions = Some(1), Some("a limit of instructions"));
        check(|config| config.slips = hv_defs::slip::Slip::ALL.iter().copied().collect(), Some("--fault"));
    }
}
