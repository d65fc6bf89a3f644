//! The machine: a guest, L0 on its silicon, the board, and the loop that gives each vCPU its turn.
//!
//! A turn is a number of instructions. Turns go round the vCPUs that can run, and round the physical CPUs, so that with
//! more vCPUs than CPUs, or fewer, vCPUs migrate. A turn ends early when the vCPU waits or spins, and when an interrupt or
//! its like comes to another vCPU: who sends one mostly waits for the answer, and would spin its turn away. When all
//! wait, the clock goes on to the board's next deadline. All of it depends on the configuration and on the world's
//! answers alone.

mod saved;

pub use saved::{RestoreError, state_form};

use crate::boot::{self, Loaded};
use crate::cpu::{Met, Stops};
use crate::device::Board;
use crate::guests;
use crate::l0::{self, Bus, L0, L0_MEMORY, Ran};
use crate::memory::Memory;
use crate::silicon::{Pcpu, Silicon};
use crate::soft::SoftSilicon;
use crate::taped::Taped;
use crate::world::{Log, World};
use core::ops::ControlFlow;
use hv_defs::addr::Gpa;
use hv_defs::config::{Config, Guest, ImageKind};
use hv_defs::event::{Event, Input, InputKind, Stamp, Stop, StopKind, What};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// A file that the guest boots from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Image {
    /// What it is.
    pub kind: ImageKind,
    /// Its file name, which a multiboot kernel is told of its module.
    pub name: String,
    /// Its bytes, shared with the board, which gives them to guests that ask.
    pub bytes: Arc<[u8]>,
}

/// Why a machine could not be built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MachineError {
    /// There is no such built-in guest.
    #[error("there is no built-in guest '{name}'; there are {}", known.join(", "))]
    UnknownGuest {
        /// What was asked for.
        name: String,
        /// What there is.
        known: Vec<&'static str>,
    },
    /// A built-in guest could not be assembled.
    #[error("cannot assemble the built-in guest '{name}': {source}")]
    Assemble {
        /// The guest.
        name: String,
        /// Why.
        source: iced_x86::IcedError,
    },
    /// No kernel came with the configuration.
    #[error("the configuration boots the kernel '{0}', but there is no image of it")]
    NoKernel(String),
    /// The kernel could not be loaded.
    #[error("cannot boot '{name}': {source}")]
    Kernel {
        /// The kernel's file name.
        name: String,
        /// Why.
        source: boot::Error,
    },
    /// The guest does not fit.
    #[error("the guest needs {needed} bytes of memory and the machine has {got}; give it more")]
    Memory {
        /// Bytes that it needs.
        needed: u64,
        /// Bytes that there are.
        got: u64,
    },
    /// The host has no memory of that size.
    #[error("this host cannot give the machine {needed} bytes of memory")]
    Host {
        /// Bytes that it needs.
        needed: u64,
    },
    /// A number is out of range.
    #[error("{what} is {got}, and must be {range}")]
    Range {
        /// Which number.
        what: &'static str,
        /// What it is.
        got: u64,
        /// What it must be, in words.
        range: &'static str,
    },
    /// L0 cannot run so.
    #[error(transparent)]
    L0(#[from] l0::Error),
}

/// How far a machine has come.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Advance {
    /// It can go on.
    On,
    /// It has come to where it was to pause.
    Paused,
    /// The run is over. The world has seen why.
    Ended(Stop),
    /// The world broke it off in [`World::events`]: it cannot go on.
    BrokenOff,
}

/// What a vCPU is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
enum Doing {
    /// It executes.
    Runs,
    /// It waits for an interrupt, or in MWAIT for a store.
    Waits,
    /// It waits, and does not take the interrupt that the board has for it.
    Refuses,
}

/// A machine.
#[derive(Debug)]
pub struct Machine<S: Silicon = SoftSilicon> {
    config: Config,
    l0: L0<S>,
    board: Board,
    log: Log,
    doing: Vec<Doing>,
    /// Whose turn it is, where, and up to which instruction.
    vcpu: usize,
    pcpu: Pcpu,
    turn_end: u64,
    /// The turn is over before its end.
    yields: bool,
    /// When the world is asked next, at the latest at the end of the turn then.
    poll_at: u64,
    polls: u64,
    next_digest: u64,
    /// The last bytes of the console, where the text to stop on may have begun.
    shown: Vec<u8>,
}

impl Machine {
    /// Builds the machine of a configuration on the software CPU, and loads its guest.
    ///
    /// # Errors
    /// When the configuration asks for what cannot be, or an image cannot be booted.
    pub fn new(config: &Config, images: &[Image]) -> Result<Self, MachineError> {
        Self::on(config, images, SoftSilicon::of)
    }

    /// As [`Machine::run`], and stops when `instruction` instructions are retired, between two instructions of whichever
    /// guest runs. It goes on from there as if it had not stopped: the events are the same. What happens at one
    /// instruction has all happened or, but for an entry whose guest has not run yet, none of it.
    pub fn run_to(&mut self, world: &mut dyn World, instruction: u64) -> Advance {
        self.l0.silicon.pause_at(Some(instruction));
        let ended = loop {
            if self.now() >= instruction {
                break Advance::Paused;
            }
            match self.advance(world) {
                Advance::On => {}
                ended => break ended,
            }
        };
        self.l0.silicon.pause_at(None);
        ended
    }

    /// Has [`Machine::run_to`] and [`Machine::advance`] pause at these too; if `passes`, not at the instruction before which
    /// it is paused now. A machine that is restored has none.
    pub fn set_stops(&mut self, stops: &Stops, passes: bool) {
        self.l0.silicon.set_stops(stops, passes);
    }

    /// Which of them it has paused at, if that is why it did; it forgets it.
    pub fn take_met(&mut self) -> Option<Met> {
        self.l0.silicon.take_met(self.pcpu)
    }

    /// Goes on to the next instruction boundary of whichever guest runs, where nothing has been executed yet, and pauses
    /// there. A machine that is paused stays where it is.
    pub fn settle(&mut self, world: &mut dyn World) -> Advance {
        self.l0.silicon.pause_at(Some(0));
        let ended = loop {
            if self.is_paused() {
                break Advance::Paused;
            }
            match self.advance(world) {
                Advance::On => {}
                ended => break ended,
            }
        };
        self.l0.silicon.pause_at(None);
        ended
    }

    /// Executes one instruction of the guest that runs, or the exit that it makes instead, and settles.
    pub fn step_one(&mut self, world: &mut dyn World) -> Advance {
        match self.settle(world) {
            Advance::Paused => {}
            ended => return ended,
        }
        self.l0.silicon.pause_at(Some(self.now() + 1));
        let fine = self.l0.is_fine();
        self.l0.set_fine(true);
        let ran = self.advance(world);
        self.l0.set_fine(fine);
        match ran {
            Advance::On => self.settle(world),
            ran => {
                self.l0.silicon.pause_at(None);
                ran
            }
        }
    }
}

impl Machine<Taped<SoftSilicon>> {
    /// As [`Machine::new`], and what silicon answers L0 is told with the events.
    ///
    /// # Errors
    /// As [`Machine::new`].
    pub fn taped(config: &Config, images: &[Image]) -> Result<Self, MachineError> {
        Self::on(config, images, |config| Taped::new(SoftSilicon::of(config), config.pcpus.into()))
    }
}

/// [`Machine::run_on`] and its like, compiled once for the silicon that is built in, and not again by whoever calls them.
macro_rules! compiled_for {
    ($($silicon:ty),*) => {$(
        impl Machine<$silicon> {
            /// Runs to the end. The last event that the world sees says why it ended, unless the world ended it in
            /// [`World::events`].
            #[inline(never)]
            pub fn run(&mut self, world: &mut dyn World) -> Stop {
                self.run_on(world)
            }

            /// Runs one vCPU to its next exit or a little further: the smallest step after which a machine can be saved without
            /// being paused.
            #[inline(never)]
            pub fn advance(&mut self, world: &mut dyn World) -> Advance {
                self.advance_on(world)
            }

            /// Tells the world what happened while the machine was built, which it would hear of with the first exit.
            #[inline(never)]
            pub fn tell(&mut self, world: &mut dyn World) {
                self.tell_on(world);
            }
        }
    )*};
}
compiled_for!(SoftSilicon, Taped<SoftSilicon>);

impl<S: Silicon> Machine<S> {
    /// Builds the machine of a configuration on other silicon, and loads its guest. `silicon` makes it when the
    /// configuration has been found good; it is to have [`memory_size`] bytes of memory, all zeros.
    ///
    /// # Errors
    /// As [`Machine::new`].
    pub fn on(config: &Config, images: &[Image], silicon: impl FnOnce(&Config) -> S) -> Result<Self, MachineError> {
        let mut loaded = load(config, images)?;
        l0::check(config)?;
        let size = memory_size(config);
        if !Memory::is_available(size) {
            return Err(MachineError::Host { needed: size });
        }
        let mut machine = Self {
            l0: L0::new(config, silicon(config))?,
            board: Board::with_kernel(config.memory, config.vcpus, core::mem::take(&mut loaded.items)),
            log: Log::default(),
            doing: vec![Doing::Waits; config.vcpus.into()],
            vcpu: 0,
            pcpu: 0,
            turn_end: config.slice,
            yields: false,
            poll_at: config.slice,
            polls: 0,
            next_digest: config.digest_interval,
            shown: Vec::new(),
            config: config.clone(),
        };
        for (at, bytes) in &loaded.memory {
            if let Some(hpa) = l0::ram(config.memory, *at, bytes.len() as u64) {
                machine.l0.silicon.write(hpa, bytes);
            }
        }
        machine.l0.start(0, 0, &loaded.start, &mut machine.board, &mut machine.log);
        machine.doing[0] = Doing::Runs;
        Ok(machine)
    }

    /// [`Machine::run`], on any silicon.
    pub fn run_on(&mut self, world: &mut dyn World) -> Stop {
        loop {
            match self.advance_on(world) {
                Advance::On | Advance::Paused => {}
                Advance::Ended(stop) => return stop,
                Advance::BrokenOff => return world_stop(),
            }
        }
    }

    /// [`Machine::advance`], on any silicon.
    pub fn advance_on(&mut self, world: &mut dyn World) -> Advance {
        match self.step(world) {
            ControlFlow::Continue(()) if self.is_paused() => Advance::Paused,
            ControlFlow::Continue(()) => Advance::On,
            ControlFlow::Break(Some(stop)) => Advance::Ended(self.end(world, stop)),
            ControlFlow::Break(None) => Advance::BrokenOff,
        }
    }

    /// [`Machine::tell`], on any silicon.
    pub fn tell_on(&mut self, world: &mut dyn World) {
        // A world that wants no more says so again.
        let _ = self.drain(world);
    }

    /// Has [`Machine::advance`] return after each exit, instead of after some dozens that concern L0 alone. The run is the
    /// same, and slower.
    pub fn set_fine(&mut self, fine: bool) {
        self.l0.set_fine(fine);
    }

    /// Whether the guest whose turn it is was stopped between two of its instructions.
    pub fn is_paused(&self) -> bool {
        self.l0.is_paused(self.vcpu)
    }

    /// Tells of the end.
    fn end(&mut self, world: &mut dyn World, stop: Stop) -> Stop {
        let stop = self.explain(stop);
        let at = Stamp { instruction: self.now(), vcpu: self.vcpu as u16, pcpu: self.pcpu as u16 };
        self.l0.silicon.tell_answers(&mut self.log.events, at);
        let digest = self.l0.silicon.digest();
        self.emit(What::Digest(digest));
        self.emit(What::Stop(stop.clone()));
        // Nothing comes after this: whether the world wants more does not matter.
        let _ = self.drain(world);
        stop
    }

    /// The same stop, with where the guest was if it should not have ended there.
    fn explain(&mut self, mut stop: Stop) -> Stop {
        if matches!(stop.kind, StopKind::TripleFault | StopKind::Unsupported | StopKind::Halted) {
            let at = self.l0.whereabouts(self.vcpu, self.pcpu, &mut self.board, &mut self.log);
            stop.text = format!("{}: {at}", stop.text);
        }
        stop
    }

    /// Runs one vCPU to its next exit. Breaks with the reason for which the run is over, `None` when the world broke it
    /// off.
    fn step(&mut self, world: &mut dyn World) -> ControlFlow<Option<Stop>> {
        let now = self.now();
        if self.config.max_instructions.is_some_and(|max| now >= max) {
            return ControlFlow::Break(Some(Stop {
                kind: StopKind::MaxInstructions,
                code: 0,
                text: format!("{now} instructions were run"),
            }));
        }
        let over = now >= self.turn_end || core::mem::take(&mut self.yields);
        if self.doing[self.vcpu] != Doing::Runs || over {
            if now >= self.poll_at {
                self.turn_over(world)?;
            }
            if !self.next_turn() {
                return self.idle(world);
            }
        }
        let mut until = self.turn_end;
        if let Some(deadline) = self.board.deadline() {
            until = until.min(deadline);
        }
        if let Some(max) = self.config.max_instructions {
            until = until.min(max);
        }
        let ran = self.l0.run_turn(self.vcpu, self.pcpu, &mut self.board, &mut self.log, until);
        if ran == Ran::Paused {
            self.drain(world)?;
            return ControlFlow::Continue(());
        }
        self.show(world, &ran)?;
        self.drain(world)?;
        self.arrivals();
        match ran {
            Ran::Ready | Ran::Slice | Ran::Paused => ControlFlow::Continue(()),
            Ran::Spins => {
                self.yields = true;
                ControlFlow::Continue(())
            }
            Ran::Halted => {
                let refuses = self.now() == now && self.board.wakes(self.vcpu as u16, now);
                self.doing[self.vcpu] = if refuses { Doing::Refuses } else { Doing::Waits };
                ControlFlow::Continue(())
            }
            Ran::Stop(stop) => ControlFlow::Break(Some(stop)),
        }
    }

    /// Looks at what has come to which vCPU.
    fn arrivals(&mut self) {
        for vcpu in self.board.arrivals(self.l0.silicon.retired()) {
            if self.doing[vcpu] == Doing::Refuses {
                self.doing[vcpu] = Doing::Waits;
            }
            self.yields |= vcpu != self.vcpu;
        }
    }

    /// What happens at the end of a turn when the slice is used up: a digest when one is due, and a question to the world.
    fn turn_over(&mut self, world: &mut dyn World) -> ControlFlow<Option<Stop>> {
        let now = self.now();
        if self.config.digest_interval != 0 && now >= self.next_digest {
            self.next_digest = (now / self.config.digest_interval + 1) * self.config.digest_interval;
            let digest = self.l0.silicon.digest();
            self.emit(What::Digest(digest));
        }
        self.poll(world, None)?;
        ControlFlow::Continue(())
    }

    /// Gives the turn to the next vCPU that can run, on the next physical CPU. Returns whether there is one.
    fn next_turn(&mut self) -> bool {
        let now = self.now();
        self.yields = false;
        let count = self.doing.len();
        for step in 1..=count {
            let vcpu = (self.vcpu + step) % count;
            if self.doing[vcpu] == Doing::Waits && self.board.wakes(vcpu as u16, now) {
                self.doing[vcpu] = Doing::Runs;
            }
            if self.doing[vcpu] != Doing::Runs && self.l0.is_stored_to(vcpu) {
                self.doing[vcpu] = Doing::Runs;
            }
            if self.doing[vcpu] == Doing::Runs {
                // A vCPU that waited and goes on alone has its turn still, and stays where it is.
                if step < count || now >= self.turn_end {
                    self.pcpu = (self.pcpu + 1) % usize::from(self.config.pcpus);
                    self.turn_end = now.saturating_add(self.config.slice);
                    if now >= self.poll_at {
                        self.poll_at = self.turn_end;
                    }
                }
                self.vcpu = vcpu;
                return true;
            }
        }
        false
    }

    /// Every vCPU waits.
    fn idle(&mut self, world: &mut dyn World) -> ControlFlow<Option<Stop>> {
        let count = self.doing.len();
        let deaf = (0..count).all(|vcpu| self.l0.is_deaf(vcpu) && !self.board.signals(vcpu as u16).any());
        if deaf && !self.board.sends_nmis() {
            let text = "every CPU is halted with its interrupts off".to_owned();
            return ControlFlow::Break(Some(Stop { kind: StopKind::Halted, code: 0, text }));
        }
        let deadline = self.board.deadline();
        let asked = self.poll(world, Some(deadline.unwrap_or(u64::MAX)))?;
        let wakes = match (asked, deadline) {
            (true, _) => true,
            (false, Some(deadline)) => {
                let max = self.config.max_instructions.unwrap_or(u64::MAX);
                self.l0.silicon.skip(deadline.min(max).max(self.now()));
                true
            }
            (false, None) => false,
        };
        if !wakes {
            let text = "every CPU waits, and nothing will wake one".to_owned();
            return ControlFlow::Break(Some(Stop { kind: StopKind::Idle, code: 0, text }));
        }
        for doing in &mut self.doing {
            if *doing == Doing::Refuses {
                *doing = Doing::Waits;
            }
        }
        ControlFlow::Continue(())
    }

    /// Asks the world for input. Returns whether there was some.
    fn poll(&mut self, world: &mut dyn World, idle_until: Option<u64>) -> ControlFlow<Option<Stop>, bool> {
        let poll = self.polls;
        self.polls += 1;
        let Some((kind, value)) = world.input(poll, self.now(), idle_until) else {
            return ControlFlow::Continue(false);
        };
        self.emit(What::Input(Input { poll, kind, value }));
        self.drain(world)?;
        match kind {
            InputKind::Console => self.board.key(value as u8),
            InputKind::Stop => return ControlFlow::Break(Some(world_stop())),
        }
        ControlFlow::Continue(true)
    }

    /// Shows the world what the console shows, and looks for the text to stop on.
    fn show(&mut self, world: &mut dyn World, ran: &Ran) -> ControlFlow<Option<Stop>> {
        if !self.board.has_output() {
            return ControlFlow::Continue(());
        }
        let output = self.board.output();
        world.console(&output);
        let Some(text) = self.config.stop_on.as_deref().filter(|text| !text.is_empty()) else {
            return ControlFlow::Continue(());
        };
        self.shown.extend_from_slice(&output);
        if !matches!(ran, Ran::Stop(_)) && self.shown.windows(text.len()).any(|shown| shown == text.as_bytes()) {
            let text = format!("the console showed '{text}'");
            self.drain(world)?;
            return ControlFlow::Break(Some(Stop { kind: StopKind::StopOn, code: 0, text }));
        }
        let kept = self.shown.len().saturating_sub(text.len() - 1);
        self.shown.drain(..kept);
        ControlFlow::Continue(())
    }

    /// Hands the events to the world.
    fn drain(&mut self, world: &mut dyn World) -> ControlFlow<Option<Stop>> {
        if self.log.events.is_empty() {
            return ControlFlow::Continue(());
        }
        let wants_more = world.events(&self.log.events);
        self.log.events.clear();
        wants_more.map_break(|()| None)
    }

    fn emit(&mut self, what: What) {
        let at = Stamp { instruction: self.now(), vcpu: self.vcpu as u16, pcpu: self.pcpu as u16 };
        if !self.l0.silicon.hears(at, &what) {
            self.log.events.push(Event { at, what });
        }
    }
}

/// For those who look into a machine: between two runs nothing of it moves.
impl<S: Silicon> Machine<S> {
    /// Instructions retired so far, on all CPUs together.
    pub fn now(&self) -> u64 {
        self.l0.silicon.retired()
    }

    /// The configuration that it was built from.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The vCPU whose turn it is, and the physical CPU that it has.
    pub fn turn(&self) -> (usize, Pcpu) {
        (self.vcpu, self.pcpu)
    }

    /// The nested hypervisor.
    pub fn l0(&self) -> &L0<S> {
        &self.l0
    }

    /// Has L0 audit its EPT02s: see [`L0::audit`]. The run is the same.
    pub fn audit(&mut self) {
        self.l0.audit();
    }

    /// What the audit found since the last call.
    pub fn take_audit(&mut self) -> Vec<l0::Unsynced> {
        self.l0.take_audit()
    }

    /// The silicon: registers, TLBs, VMCSs, host-physical memory.
    pub fn silicon(&mut self) -> &mut S {
        &mut self.l0.silicon
    }

    /// Reads L1-physical memory. Returns whether it is RAM.
    pub fn read(&mut self, at: Gpa, into: &mut [u8]) -> bool {
        let Some(hpa) = l0::ram(self.config.memory, at, into.len() as u64) else { return false };
        self.l0.silicon.read(hpa, into);
        true
    }
}

/// Bytes of physical memory that a machine of this configuration has.
pub fn memory_size(config: &Config) -> u64 {
    L0_MEMORY.saturating_add(config.memory)
}

/// How a run ends that the world ends.
pub fn world_stop() -> Stop {
    Stop { kind: StopKind::World, code: 0, text: "the run was ended from outside".to_owned() }
}

fn check(config: &Config) -> Result<(), MachineError> {
    let range = |what, got: u64, good: bool, range| {
        if good { Ok(()) } else { Err(MachineError::Range { what, got, range }) }
    };
    let (slice, tlb) = (config.slice, config.tlb_entries);
    range("the slice", slice, slice > 0, "at least 1 instruction")?;
    range("the number of vCPUs", config.vcpus.into(), (1..=256).contains(&config.vcpus), "from 1 to 256")?;
    range("the number of physical CPUs", config.pcpus.into(), (1..=64).contains(&config.pcpus), "from 1 to 64")?;
    range("the number of TLB entries", tlb.into(), (16..=1 << 20).contains(&tlb), "from 16 to 1048576")
}

/// What the guest of a configuration has in memory, and how it begins, for whatever machine is to run it.
///
/// # Errors
/// A number of the configuration is out of range. There is no such guest, or it cannot be loaded, or does not fit.
pub fn load(config: &Config, images: &[Image]) -> Result<Loaded, MachineError> {
    check(config)?;
    let loaded = load_guest(config, images)?;
    match loaded.extent() {
        needed if needed > config.memory => Err(MachineError::Memory { needed, got: config.memory }),
        _ => Ok(loaded),
    }
}

fn load_guest(config: &Config, images: &[Image]) -> Result<Loaded, MachineError> {
    match &config.guest {
        Guest::BuiltIn(name) => {
            let Some(guest) = guests::load(name) else {
                let known = guests::list().iter().map(|guest| guest.name).collect();
                return Err(MachineError::UnknownGuest { name: name.clone(), known });
            };
            if config.memory < guests::MEMORY {
                return Err(MachineError::Memory { needed: guests::MEMORY, got: config.memory });
            }
            guest.map_err(|source| MachineError::Assemble { name: name.clone(), source })
        }
        Guest::Kernel { name, append } => {
            let image = |kind| images.iter().find(|image| image.kind == kind);
            let Some(kernel) = image(ImageKind::Kernel) else { return Err(MachineError::NoKernel(name.clone())) };
            let initrd = image(ImageKind::Initrd);
            let kernel = boot::Kernel {
                name,
                image: &kernel.bytes,
                initrd: initrd.map(|initrd| &*initrd.bytes),
                initrd_name: initrd.map_or("", |initrd| &initrd.name),
                append,
                memory: config.memory,
                cpus: config.vcpus,
            };
            let loaded = boot::load(&kernel).map_err(|source| MachineError::Kernel { name: name.clone(), source })?;
            Ok(loaded.with_initrd(initrd.map(|initrd| initrd.bytes.clone())))
        }
    }
}
