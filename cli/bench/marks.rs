//! A guest's marks, which cut its run into phases on any machine: a phase's time is the time on the CPU that the machine's
//! process has used, so that a host with other work gives figures too, if somewhat low ones.

use super::clock;
use core::ops::ControlFlow;
use hv::machine::{Image, Machine};
use hv::world::World;
use hv_defs::config::Config;
use hv_defs::event::{Actor, Event, InputKind, What};
use std::time::{Duration, Instant};

/// What the guest's `mark` prints, before the phase's name and the time-stamp counter.
const MARK: &str = "nvmx-mark ";

/// One phase on one machine.
#[derive(Clone, Copy, Default, PartialEq, Debug)]
pub struct Phase {
    /// Time on the CPU.
    pub time: Duration,
    /// Instructions, where they can be counted.
    pub instructions: u64,
    /// L2's exits that L1 handled, where they can be counted.
    pub exits: u64,
}

impl Phase {
    /// Several phases as one.
    pub fn together<'a>(phases: impl IntoIterator<Item = &'a Self>) -> Self {
        phases.into_iter().fold(Self::default(), |sum, phase| Self {
            time: sum.time + phase.time,
            instructions: sum.instructions + phase.instructions,
            exits: sum.exits + phase.exits,
        })
    }
}

/// Collects phases while a console is read.
#[derive(Clone, Debug)]
pub struct Stopwatch {
    begin: Option<&'static str>,
    wanted: usize,
    line: Vec<u8>,
    last: Option<Duration>,
    /// Those that have ended.
    pub phases: Vec<Phase>,
}

impl Stopwatch {
    /// One for a guest with that many marks. The first phase begins at a line with the text `begin`, and has no length
    /// without one.
    pub fn new(begin: Option<&'static str>, wanted: usize) -> Self {
        Self { begin, wanted, line: Vec::new(), last: None, phases: Vec::new() }
    }

    /// Takes bytes of the console, read when the machine had used `cpu()` of time. Returns whether all phases are over.
    pub fn read(&mut self, bytes: &[u8], cpu: impl Fn() -> Duration) -> bool {
        for byte in bytes {
            if *byte == b'\n' {
                let line = String::from_utf8_lossy(&self.line).into_owned();
                self.line.clear();
                self.whole_line(&line, &cpu);
            } else {
                self.line.push(*byte);
            }
        }
        self.is_over()
    }

    /// Whether all phases are over.
    pub fn is_over(&self) -> bool {
        self.phases.len() >= self.wanted
    }

    /// The first phase begins now.
    pub fn begin(&mut self, now: Duration) {
        self.last = Some(now);
    }

    fn whole_line(&mut self, line: &str, cpu: impl Fn() -> Duration) {
        if self.last.is_none() && self.begin.is_some_and(|begin| line.contains(begin)) {
            self.begin(cpu());
        }
        if !line.contains(MARK) {
            return;
        }
        let now = cpu();
        let time = now.saturating_sub(self.last.unwrap_or(now));
        self.phases.push(Phase { time, ..Phase::default() });
        self.last = Some(now);
    }
}

/// This machine's world: the console's marks for the time, the events' for the counts.
struct Ours {
    watch: Stopwatch,
    since: Instant,
    /// Instructions that were skipped because every CPU waited.
    idle: u64,
    /// L2's exits that L1 handled.
    exits: u64,
    /// At each mark: instructions retired, without idle ones, and exits.
    counts: Vec<(u64, u64)>,
    failed: Option<String>,
}

impl World for Ours {
    fn events(&mut self, events: &[Event]) -> ControlFlow<()> {
        for event in events {
            match &event.what {
                What::Exit(exit) => self.exits += u64::from(exit.level == 2 && exit.handled_by == Actor::L1),
                What::Mark(_) => self.counts.push((event.at.instruction - self.idle, self.exits)),
                What::Stop(stop) => self.failed = Some(stop.text.clone()),
                _ => {}
            }
        }
        ControlFlow::Continue(())
    }

    fn console(&mut self, bytes: &[u8]) {
        let since = self.since;
        self.watch.read(bytes, || clock::thread(since));
    }

    fn input(&mut self, _poll: u64, now: u64, idle_until: Option<u64>) -> Option<(InputKind, u64)> {
        self.idle += idle_until.filter(|until| *until != u64::MAX).map_or(0, |until| until.saturating_sub(now));
        None
    }
}

/// Runs a guest on this machine to its end. The first phase begins with it.
///
/// # Errors
/// The machine cannot be built, or the guest ends before its last mark.
pub fn ours(config: &Config, images: &[Image], watch: &Stopwatch) -> Result<Vec<Phase>, String> {
    let mut machine = Machine::new(config, images).map_err(|error| error.to_string())?;
    let since = Instant::now();
    let mut world = Ours { watch: watch.clone(), since, idle: 0, exits: 0, counts: Vec::new(), failed: None };
    world.watch.begin(clock::thread(since));
    machine.run(&mut world);
    if world.watch.phases.len() != watch.wanted || world.counts.len() != watch.wanted {
        return Err(format!("the guest did not reach all its marks: {}", world.failed.unwrap_or_default()));
    }
    let (mut instructions_before, mut exits_before) = (0, 0);
    for (phase, (instructions, exits)) in world.watch.phases.iter_mut().zip(world.counts) {
        (phase.instructions, phase.exits) = (instructions - instructions_before, exits - exits_before);
        (instructions_before, exits_before) = (instructions, exits);
    }
    Ok(world.watch.phases)
}

/// Of each phase, the faster of two runs.
pub fn keep_faster(best: &mut [Phase], other: &[Phase]) {
    for (best, other) in best.iter_mut().zip(other) {
        if other.time < best.time {
            *best = *other;
        }
    }
}

/// The fastest of several runs, phase by phase.
///
/// # Errors
/// One of them failed.
pub fn fastest(rounds: usize, mut run: impl FnMut() -> Result<Vec<Phase>, String>) -> Result<Vec<Phase>, String> {
    let mut best = run()?;
    for _ in 1..rounds {
        keep_faster(&mut best, &run()?);
    }
    Ok(best)
}
