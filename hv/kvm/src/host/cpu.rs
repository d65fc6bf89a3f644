//! A vCPU on its thread: runs, has the devices answer what reaches us, and tells what it saw.

use super::exits::{self, Exit, Io};
use super::nested::Nested;
use super::ram::Pages;
use super::{BEAT, Ear, HostError, refused};
use crate::vm::watch;
use hv::device::Board;
use hv::l0::{Bus, BusEvent};
use hv_defs::event::{self, Actor, Event, NO_ADDRESS, Stamp, Stop, StopKind, What};
use hv_defs::exit::{ExitReason, InterruptionInfo, IoAccess, Reason};
use kvm_bindings::{KVM_MP_STATE_HALTED, KVM_MP_STATE_UNINITIALIZED};
use kvm_ioctls::{VcpuFd, VmFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// RFLAGS.IF.
const INTERRUPTS_ON: u64 = 1 << 9;

/// Events that a vCPU tells of at once.
const MANY: usize = 1 << 10;

/// What the vCPUs share.
pub(super) struct Shared {
    pub(super) vm: VmFd,
    devices: Mutex<Devices>,
    /// The vCPUs that wait for an interrupt and take none.
    deaf: Vec<AtomicBool>,
    /// The run is over.
    pub(super) over: AtomicBool,
    /// When it began, by [`exits::clock`].
    pub(super) began: u64,
    /// The text that ends it.
    stop_on: String,
    /// Whether what is nested is told.
    tells_vmcs: bool,
}

/// The board, and what it reaches.
pub(super) struct Devices {
    pub(super) board: Board,
    pub(super) ram: Pages,
    /// The last bytes of the console, where the text to stop on may have begun.
    shown: Vec<u8>,
}

/// What a vCPU has to tell.
#[derive(Default)]
pub(super) struct Told {
    pub(super) vcpu: usize,
    /// By rising time.
    pub(super) events: Vec<Event>,
    /// The time before which nothing more will come of it.
    pub(super) settled: u64,
    /// What the console shows.
    pub(super) console: Vec<u8>,
    /// Why the run is over, if it is.
    pub(super) stop: Option<Stop>,
}

impl Shared {
    pub(super) fn new(vm: VmFd, board: Board, ram: Pages, config: &hv_defs::config::Config) -> Self {
        Self {
            vm,
            devices: Mutex::new(Devices { board, ram, shown: Vec::new() }),
            deaf: (0..config.vcpus).map(|_| AtomicBool::new(false)).collect(),
            over: AtomicBool::new(false),
            began: exits::clock(),
            stop_on: config.stop_on.clone().unwrap_or_default(),
            tells_vmcs: config.log != hv_defs::config::Log::Exits,
        }
    }

    /// The devices. What a thread that panicked left of them is of no harm: the run ends.
    pub(super) fn devices(&self) -> MutexGuard<'_, Devices> {
        self.devices.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nanoseconds since the run began.
    pub(super) fn now(&self) -> u64 {
        exits::clock().saturating_sub(self.began)
    }

    /// Raises the interrupt lines that the board has raised.
    pub(super) fn raise(&self, devices: &mut Devices) -> Result<(), HostError> {
        for line in devices.board.take_risen() {
            self.vm.set_irq_line(line.into(), true).map_err(refused("raise an interrupt line"))?;
            self.vm.set_irq_line(line.into(), false).map_err(refused("lower an interrupt line"))?;
        }
        Ok(())
    }
}

/// A vCPU.
pub(super) struct Cpu {
    number: usize,
    vcpu: VcpuFd,
    nested: Nested,
    shared: Arc<Shared>,
    /// Hears the kernel; without it, exits are told from what is seen here.
    ear: Option<Box<dyn Ear>>,
    /// What it saw and did not tell the ear of yet.
    own: Vec<Event>,
    told: Told,
    /// When it told last.
    told_at: u64,
}

impl Cpu {
    pub(super) fn new(number: usize, vcpu: VcpuFd, shared: Arc<Shared>) -> Self {
        let told = Told { vcpu: number, ..Told::default() };
        Self { number, vcpu, nested: Nested::new(), shared, ear: None, own: Vec::new(), told, told_at: 0 }
    }

    /// Runs until the run is over, on a thread of its own.
    pub(super) fn run(mut self, ear: Option<Box<dyn Ear>>, out: &SyncSender<Told>) {
        self.ear = ear;
        let runs = Arc::new(AtomicU64::new(0));
        if let Err(error) = watch(&runs, BEAT) {
            self.told.stop = Some(Stop { kind: StopKind::Unsupported, code: 0, text: error.to_string() });
            self.shared.over.store(true, Ordering::SeqCst);
        }
        while !self.shared.over.load(Ordering::SeqCst) {
            let stop = self
                .advance(&runs)
                .unwrap_or_else(|error| Some(Stop { kind: StopKind::Unsupported, code: 0, text: error.to_string() }));
            self.hear();
            let over = stop.is_some();
            self.told.stop = stop;
            if over {
                self.shared.over.store(true, Ordering::SeqCst);
            }
            let due = self.shared.now().saturating_sub(self.told_at) >= BEAT.as_nanos() as u64;
            let line = self.told.console.ends_with(b"\n");
            // Who does not listen any more has ended the run.
            if (over || due || line || self.told.events.len() >= MANY) && !self.tell(out) {
                break;
            }
        }
        if let Some(ear) = self.ear.take() {
            self.told.events.extend(ear.end());
        }
        self.tell(out);
    }

    /// Has what it saw take its place among what the kernel says.
    fn hear(&mut self) {
        match &mut self.ear {
            Some(ear) => {
                self.told.events.append(&mut ear.hear(&self.own));
                self.own.clear();
            }
            None => self.told.events.append(&mut self.own),
        }
    }

    fn tell(&mut self, out: &SyncSender<Told>) -> bool {
        let now = self.shared.now();
        self.told_at = now;
        let settled = self.ear.as_ref().map_or(now, |ear| ear.settled(now));
        let next = Told { vcpu: self.number, ..Told::default() };
        out.send(Told { settled, ..core::mem::replace(&mut self.told, next) }).is_ok()
    }

    /// Runs to the next exit to us, and answers it. Returns why the run is over, if it is.
    fn advance(&mut self, runs: &AtomicU64) -> Result<Option<Stop>, HostError> {
        runs.fetch_add(1, Ordering::SeqCst);
        let exit = exits::run(&mut self.vcpu);
        runs.fetch_add(1, Ordering::SeqCst);
        let shared = self.shared.clone();
        match exit? {
            Exit::Beat => return self.beat(),
            Exit::Io(io) => {
                self.look(io_exit(&io))?;
                let devices = &mut shared.devices();
                let stop = self.serve(&io, devices, shared.now());
                shared.raise(devices)?;
                return Ok(stop.or_else(|| self.show(devices)));
            }
            Exit::Read(at, size) => {
                self.look((Reason::EPT_MISCONFIG, 0, at.0))?;
                let devices = &mut shared.devices();
                let value = devices.board.mmio_read(0, at, size, shared.now()).unwrap_or(u64::MAX);
                exits::answer_read(&mut self.vcpu, value);
                shared.raise(devices)?;
            }
            Exit::Write(at, size, value) => {
                self.look((Reason::EPT_MISCONFIG, 0, at.0))?;
                let devices = &mut shared.devices();
                devices.board.mmio_write(0, at, size, value, shared.now());
                shared.raise(devices)?;
            }
            Exit::Shutdown => {
                self.look((Reason::TRIPLE_FAULT, 0, 0))?;
                return Ok(Some(self.stopped(StopKind::TripleFault, "L1 took a triple fault")));
            }
            Exit::Halted => return Ok(Some(self.deafened())),
            Exit::Failed(why) => return Ok(Some(self.stopped(StopKind::Unsupported, &why))),
        }
        Ok(None)
    }

    /// Nothing has come from the guest for a while.
    fn beat(&mut self) -> Result<Option<Stop>, HostError> {
        let shared = self.shared.clone();
        {
            let devices = &mut shared.devices();
            // What is due by now comes with the lines that have risen.
            devices.board.arrivals(shared.now());
            shared.raise(devices)?;
        }
        let state = self.vcpu.get_mp_state().map_err(refused("say whether the vCPU waits"))?.mp_state;
        let flags = self.vcpu.get_regs().map_err(refused("give the registers"))?.rflags;
        self.nested.look(&self.vcpu, &mut Vec::new())?;
        let halted = state == KVM_MP_STATE_HALTED && flags & INTERRUPTS_ON == 0 && !self.nested.is_l2;
        let deaf = halted || state == KVM_MP_STATE_UNINITIALIZED;
        shared.deaf[self.number].store(deaf, Ordering::SeqCst);
        let all = shared.deaf.iter().all(|deaf| deaf.load(Ordering::SeqCst));
        Ok(all.then(|| self.deafened()))
    }

    fn deafened(&self) -> Stop {
        self.stopped(StopKind::Halted, "every CPU is halted with its interrupts off")
    }

    /// Looks at what is nested, and tells of an exit by reason, qualification and guest-physical address.
    fn look(&mut self, (reason, qualification, gpa): (Reason, u64, u64)) -> Result<(), HostError> {
        self.shared.deaf[self.number].store(false, Ordering::SeqCst);
        if !self.shared.tells_vmcs && self.ear.is_some() {
            return Ok(());
        }
        let mut found = Vec::new();
        self.nested.look(&self.vcpu, &mut found)?;
        // What was written was written before the guest came to us.
        if self.shared.tells_vmcs {
            found.into_iter().for_each(|what| self.saw(what));
        }
        if self.ear.is_none() {
            let rip = self.vcpu.get_regs().map_err(refused("give the registers"))?.rip;
            self.saw(What::Exit(event::Exit {
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
    fn serve(&mut self, io: &Io, devices: &mut Devices, now: u64) -> Option<Stop> {
        for place in 0..io.count {
            if io.input {
                let value = devices.board.io_in(io.port, io.size, now);
                exits::answer_in(&mut self.vcpu, io, place, value);
                continue;
            }
            let value = exits::value_of(&mut self.vcpu, io, place);
            match devices.board.io_out(io.port, io.size, value, now) {
                Some(BusEvent::Mark(mark)) => self.saw(What::Mark(mark)),
                Some(BusEvent::Dma(at)) => devices.board.dma(at, &mut devices.ram),
                Some(BusEvent::Stop(stop)) => return Some(stop),
                None => {}
            }
        }
        None
    }

    /// Takes what the console shows, and looks for the text to stop on.
    fn show(&mut self, devices: &mut Devices) -> Option<Stop> {
        if !devices.board.has_output() {
            return None;
        }
        let output = devices.board.output();
        self.told.console.extend_from_slice(&output);
        let text = Some(&self.shared.stop_on).filter(|text| !text.is_empty())?;
        devices.shown.extend_from_slice(&output);
        if devices.shown.windows(text.len()).any(|shown| shown == text.as_bytes()) {
            let text = format!("the console showed '{text}'");
            return Some(Stop { kind: StopKind::StopOn, code: 0, text });
        }
        let kept = devices.shown.len().saturating_sub(text.len() - 1);
        devices.shown.drain(..kept);
        None
    }

    /// An end, and where the guest was.
    fn stopped(&self, kind: StopKind, why: &str) -> Stop {
        let at = self.vcpu.get_regs().map(|regs| format!(" at {:#x}", regs.rip)).unwrap_or_default();
        let level = if self.nested.is_l2 { " in L2" } else { "" };
        Stop { kind, code: 0, text: format!("{why}{at}{level}") }
    }

    fn saw(&mut self, what: What) {
        let at = Stamp { instruction: self.shared.now(), vcpu: self.number as u16, pcpu: exits::cpu() };
        self.own.push(Event { at, what });
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
