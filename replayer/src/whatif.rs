//! What if: a recorded guest again, under other rules of L0's or with another TLB.
//!
//! The guest's images and the world's answers come from the trace, answered by the number of the question. What the guest
//! did is compared with the recording where it does not depend on L0's rules: the exits that L1 makes or is shown, and at
//! intervals the registers of the guest that runs and L1's memory. L0's own memory, and the regions of L1's VMCSs, whose
//! contents are L0's, are left out.

use crate::recorded::{Recorded, inputs};
use crate::{Divergence, Error, machine_of};
use core::ops::ControlFlow;
use hv::machine::{Advance, Machine};
use hv::world::World;
use hv_defs::addr::PAGE_SIZE;
use hv_defs::config::Config;
use hv_defs::event::{Actor, Event, Exit, Input, InputKind, NO_ADDRESS, Stop, What};
use hv_defs::exit::Reason;
use std::collections::BTreeSet;
use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use traces::Reader;

/// Places at which registers and memory are compared, at most.
const STOPS: u64 = 256;

/// One thing that the guest did, whatever L0's rules are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Step {
    /// Instructions retired.
    pub instruction: u64,
    /// The vCPU.
    pub vcpu: u16,
    /// The guest that was running; 0 for what no guest did.
    pub level: u8,
    /// What it was.
    pub kind: StepKind,
    /// Where the guest was, or the number of a mark, an input or the run's end.
    pub value: u64,
}

/// What a [`Step`] was.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StepKind {
    /// An exit that L1 made, or one that it was shown.
    Exit(Reason),
    /// A mark.
    Mark,
    /// Input from the world.
    Input,
    /// The run's end.
    Stop,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { instruction, vcpu, level, kind, value } = self;
        match kind {
            StepKind::Exit(reason) => write!(f, "L{level} of vCPU {vcpu} exits for {reason} at {value:#x}")?,
            StepKind::Mark => write!(f, "mark {value}")?,
            StepKind::Input => write!(f, "input {value}")?,
            StepKind::Stop => write!(f, "the run ends")?,
        }
        write!(f, ", after {instruction} instructions")
    }
}

/// Whether an exit of L1's is the same under all rules of L0's: it is the instruction's doing.
const fn is_instruction(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::CPUID
            | Reason::HLT
            | Reason::INVD
            | Reason::VMCALL
            | Reason::VMCLEAR
            | Reason::VMLAUNCH
            | Reason::VMRESUME
            | Reason::VMPTRLD
            | Reason::VMPTRST
            | Reason::VMXON
            | Reason::VMXOFF
            | Reason::IO_INSTRUCTION
            | Reason::INVEPT
            | Reason::INVVPID
            | Reason::XSETBV
    )
}

impl Step {
    /// What an event tells of the guest; `None` of what may be otherwise under other rules.
    fn of(event: &Event) -> Option<Self> {
        let (level, kind, value) = match &event.what {
            What::Exit(exit @ Exit { level, rip, .. }) => {
                let reason = exit.basic();
                // Which VMREADs and VMWRITEs exit is a matter of VMCS shadowing.
                let shown = exit.handled_by != Actor::L0 && !matches!(reason, Reason::VMREAD | Reason::VMWRITE);
                if !(shown || *level == 1 && is_instruction(reason)) {
                    return None;
                }
                (*level, StepKind::Exit(reason), *rip)
            }
            What::Mark(mark) => (0, StepKind::Mark, u64::from(*mark)),
            What::Input(input) => (0, StepKind::Input, input.value),
            What::Stop(stop) => (0, StepKind::Stop, u64::from(stop.code)),
            _ => return None,
        };
        Some(Self { instruction: event.at.instruction, vcpu: event.at.vcpu, level, kind, value })
    }
}

/// What a recording tells of its guest.
#[derive(Debug)]
struct Told {
    steps: Vec<Step>,
    inputs: Vec<Input>,
    /// Pages of L1's memory that hold its VMCSs.
    regions: BTreeSet<u64>,
    /// Instructions at the last event.
    end: u64,
    truncated: bool,
}

impl Told {
    fn read(reader: &Reader) -> Result<Self, Error> {
        let mut told = Self {
            steps: Vec::new(),
            inputs: inputs(reader)?,
            regions: BTreeSet::new(),
            end: 0,
            truncated: reader.truncated(),
        };
        for (number, event) in (0..).zip(reader.events(0)) {
            let event = match event {
                Ok(event) => event,
                Err(traces::Error::NewerKind { .. }) => continue,
                Err(source) => return Err(Error::Trace { event: number, source }),
            };
            told.end = event.at.instruction;
            told.steps.extend(Step::of(&event));
            let region = match &event.what {
                What::Entry(entry) => entry.vmcs12,
                What::Vmcs(access) if access.which.is_l1s() => access.address,
                _ => NO_ADDRESS,
            };
            if region != NO_ADDRESS {
                told.regions.insert(region / PAGE_SIZE);
            }
        }
        Ok(told)
    }
}

/// Where a variant's guest went another way than the recorded one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Apart {
    /// It did something else.
    Step {
        /// What the recorded guest did; `None` when it had ended.
        recorded: Option<Step>,
        /// What this one did; `None` when it had ended.
        here: Option<Step>,
    },
    /// Registers or memory were other.
    State {
        /// Instructions at which they were last the same.
        same: u64,
        /// Instructions at which they were not.
        differs: u64,
        /// The registers of the guest that ran were other.
        registers: bool,
        /// L1's memory was other.
        memory: bool,
    },
}

impl Apart {
    /// The first instruction at which it may have been another guest.
    pub fn instruction(&self) -> u64 {
        match self {
            Self::Step { recorded, here } => {
                recorded.iter().chain(here).map(|step| step.instruction).min().unwrap_or_default()
            }
            Self::State { same, .. } => *same,
        }
    }
}

impl fmt::Display for Apart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let told = |step: &Option<Step>| step.map_or("its run is over".to_owned(), |step| step.to_string());
        match self {
            Self::Step { recorded, here } => {
                write!(f, "in the recording: {}; here: {}", told(recorded), told(here))
            }
            Self::State { same, differs, registers, memory } => {
                let what = match (registers, memory) {
                    (true, true) => "registers and L1's memory",
                    (true, false) => "registers",
                    _ => "L1's memory",
                };
                write!(f, "{what} are the same after {same} instructions and not after {differs}")
            }
        }
    }
}

/// How a variant went.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ran {
    /// Its configuration is the recording's own, and every event was compared with it.
    pub own: bool,
    /// The first event that differs from the recording's, where they were compared.
    pub divergence: Option<Divergence>,
    /// How it ended; `None` when it was ended since it ran on far behind the recording's end.
    pub stop: Option<Stop>,
    /// Events.
    pub events: u64,
    /// Instructions retired.
    pub instructions: u64,
    /// Steps of the guest's that were compared and were the same.
    pub steps: u64,
    /// Where its guest went another way; `None` if it did not.
    pub apart: Option<Apart>,
    /// Places at which registers and memory were looked at.
    pub stops: u64,
}

/// One place: instructions, registers, memory.
type Place = (u64, u64, u64);

/// The world of a variant: the recording's answers, and a look at every event.
struct Variant<'a> {
    told: &'a Told,
    next_input: usize,
    next_step: usize,
    limit: u64,
    events: u64,
    instructions: u64,
    stop: Option<Stop>,
    apart: Option<Apart>,
    /// Every event is compared with the recording's.
    recorded: Option<Recorded<'a>>,
    see: &'a mut dyn FnMut(u64, &Event),
    over: bool,
}

impl World for Variant<'_> {
    fn events(&mut self, events: &[Event]) -> ControlFlow<()> {
        if let Some(recorded) = &mut self.recorded {
            // It is lenient: what it found is asked for at the end.
            let _ = World::events(recorded, events);
        }
        for event in events {
            if event.at.instruction > self.limit {
                self.over = true;
                return ControlFlow::Break(());
            }
            (self.see)(self.events, event);
            self.events += 1;
            self.instructions = self.instructions.max(event.at.instruction);
            if let What::Stop(stop) = &event.what {
                self.stop = Some(stop.clone());
            }
            if self.apart.is_none()
                && let Some(here) = Step::of(event)
            {
                let recorded = self.told.steps.get(self.next_step).copied();
                match recorded {
                    Some(recorded) if recorded == here => self.next_step += 1,
                    // Nothing is known of the run behind the end of a trace that was cut short.
                    None if self.told.truncated => {}
                    _ => self.apart = Some(Apart::Step { recorded, here: Some(here) }),
                }
            }
        }
        ControlFlow::Continue(())
    }

    fn console(&mut self, _: &[u8]) {}

    fn input(&mut self, poll: u64, _: u64, _: Option<u64>) -> Option<(InputKind, u64)> {
        let left = &self.told.inputs[self.next_input..];
        self.next_input += left.iter().take_while(|input| input.poll < poll).count();
        let input = self.told.inputs.get(self.next_input).filter(|input| input.poll == poll)?;
        self.next_input += 1;
        Some((input.kind, input.value))
    }
}

/// The registers of the guest that runs, and L1's memory without its VMCSs, both as digests.
fn look(machine: &mut Machine, told: &Told) -> Option<Place> {
    if !machine.is_paused() {
        return None;
    }
    let mix = |digest: u64, word: u64| (digest ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
    let now = machine.now();
    let (_, cpu) = machine.turn();
    let cpu = machine.silicon().cpu(cpu);
    let words = cpu.regs.gpr.iter().copied().chain([cpu.rip, cpu.cr0, cpu.cr3, cpu.cr4, cpu.efer, cpu.regs.cr2]);
    let segments = cpu.seg.iter().flat_map(|segment| [u64::from(segment.selector), segment.base]);
    let registers = words.chain(segments).fold(0, mix);
    let first = (hv::l0::L0_MEMORY / PAGE_SIZE) as usize;
    let pages = machine.page_digests().iter().enumerate().skip(first);
    let left_out = |page: usize| told.regions.contains(&((page - first) as u64));
    let memory = pages.filter(|(page, _)| !left_out(*page)).fold(0_u64, |sum, (_, digest)| sum.wrapping_add(*digest));
    Some((now, registers, memory))
}

fn run(
    reader: &Reader,
    told: &Told,
    config: &Config,
    see: &mut dyn FnMut(u64, &Event),
) -> Result<(Ran, Vec<Place>), Error> {
    let own = *config == reader.header().config;
    let mut machine = machine_of(reader.header(), config)?;
    let recorded = match own {
        true => Some(Recorded::new(reader, None, Box::new(|_| {}))?.lenient()),
        false => None,
    };
    let limit = match told.truncated {
        true => told.end,
        false => told.end.saturating_mul(2).saturating_add(10_000_000),
    };
    let mut world = Variant {
        told,
        next_input: 0,
        next_step: 0,
        limit,
        events: 0,
        instructions: 0,
        stop: None,
        apart: None,
        recorded,
        see,
        over: false,
    };
    let apart = (told.end / STOPS).max(1);
    let mut places = Vec::new();
    let mut next = apart;
    let ended = loop {
        match machine.run_to(&mut world, next) {
            Advance::Ended(_) => break true,
            Advance::BrokenOff => break false,
            Advance::On | Advance::Paused => {
                places.extend(look(&mut machine, told));
                next = next.max(machine.now()).saturating_add(apart);
                next -= next % apart;
                if machine.now() > limit {
                    break false;
                }
            }
        }
    };
    if world.apart.is_none() && ended && world.next_step < told.steps.len() {
        world.apart = Some(Apart::Step { recorded: told.steps.get(world.next_step).copied(), here: None });
    }
    let mut divergence = None;
    if let Some(mut recorded) = world.recorded.take() {
        if let Some(source) = recorded.take_failure() {
            return Err(Error::Trace { event: recorded.events(), source });
        }
        recorded.check_end(ended)?;
        divergence = recorded.divergence().cloned();
    }
    let Variant { stop, events, instructions, next_step, apart, .. } = world;
    let stops = places.len() as u64;
    Ok((Ran { own, divergence, stop, events, instructions, steps: next_step as u64, apart, stops }, places))
}

/// Runs the guest of a trace under each of `configs`, on as many threads as the host has CPUs. `new` makes what sees a
/// variant's events, `see` shows it one, with its number; `progress` is told how many variants are done.
///
/// Registers and memory are compared with those of the first variant that runs as the recording did; without one, steps
/// alone are compared.
///
/// # Errors
/// A machine cannot be built, or the trace is damaged.
pub fn whatif<T: Send>(
    reader: &Reader,
    configs: &[Config],
    new: impl Fn() -> T + Sync,
    see: impl Fn(&mut T, u64, &Event) + Sync,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<Vec<(T, Ran)>, Error> {
    type Done<T> = (usize, Result<(T, Ran, Vec<Place>), Error>);
    let told = Told::read(reader)?;
    let (taken, done) = (AtomicUsize::new(0), AtomicU64::new(0));
    let work = || {
        let mut found: Vec<Done<T>> = Vec::new();
        loop {
            let number = taken.fetch_add(1, Ordering::Relaxed);
            let Some(config) = configs.get(number) else { return found };
            let mut seen = new();
            let ran = run(reader, &told, config, &mut |number, event| see(&mut seen, number, event));
            progress(done.fetch_add(1, Ordering::Relaxed) + 1);
            found.push((number, ran.map(|(ran, places)| (seen, ran, places))));
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(configs.len());
    let mut all = std::thread::scope(|scope| {
        // Where there can be no more threads, those that there are do it.
        let spawn = |_| std::thread::Builder::new().spawn_scoped(scope, work).ok();
        let workers: Vec<_> = (1..threads).map_while(spawn).collect();
        let mut all = work();
        for worker in workers {
            // A thread that panicked carries its panic on.
            all.extend(worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        }
        all
    });
    all.sort_by_key(|(number, _)| *number);
    let mut rows = all.into_iter().map(|(_, found)| found).collect::<Result<Vec<_>, _>>()?;
    let own = rows.iter().find(|(_, ran, _)| ran.own && ran.divergence.is_none());
    if let Some(places) = own.map(|(.., places)| places.clone()) {
        for (_, ran, here) in &mut rows {
            let state = differs(&places, here);
            // Whichever comes first.
            ran.apart = match (ran.apart.take(), state) {
                (Some(step), Some(state)) if step.instruction() <= state.instruction() => Some(step),
                (step, state) => state.or(step),
            };
        }
    }
    Ok(rows.into_iter().map(|(seen, ran, _)| (seen, ran)).collect())
}

/// The first place at which registers or memory differ; places that only one run stopped at are passed over.
fn differs(recorded: &[Place], here: &[Place]) -> Option<Apart> {
    let mut same = 0;
    let mut recorded = recorded.iter().peekable();
    for (at, registers, memory) in here {
        while recorded.next_if(|place| place.0 < *at).is_some() {}
        let Some(place) = recorded.next_if(|place| place.0 == *at) else { continue };
        let (registers, memory) = (place.1 != *registers, place.2 != *memory);
        if registers || memory {
            return Some(Apart::State { same, differs: *at, registers, memory });
        }
        same = *at;
    }
    None
}
