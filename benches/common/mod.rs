//! What the benches share that run one guest on several machines: the guest's marks cut its console into phases, and a
//! phase's time is the time on the CPU that the process has used, so that a host with other work gives figures too, if
//! somewhat low ones.

#![allow(dead_code, unreachable_pub)] // Benches each use a part of this.

#[path = "../../tests/common/guest.rs"]
pub mod guest;
pub mod peers;

use core::ops::ControlFlow;
use hv::machine::{Image, Machine};
use hv::world::World;
use hv_defs::config::{Config, ImageKind};
use hv_defs::event::{Actor, Event, InputKind, What};
use std::fs;
use std::path::Path;
use std::time::Duration;

/// What the guest's `mark` prints, before the phase's name and the time-stamp counter.
const MARK: &str = "nvmx-mark ";

/// One phase on one machine.
#[derive(Clone, Copy, Default, Debug)]
pub struct Phase {
    /// Time on the CPU.
    pub time: Duration,
    /// Ticks of the guest's time-stamp counter, from the mark before; none for the first.
    pub ticks: u64,
    /// Instructions, where they can be counted.
    pub instructions: u64,
    /// L2's exits that L1 handled, where they can be counted.
    pub exits: u64,
}

/// Collects phases while a console is read.
#[derive(Clone, Debug)]
pub struct Stopwatch {
    begin: Option<&'static str>,
    wanted: usize,
    line: Vec<u8>,
    last: Option<(Duration, u64)>,
    phases: Vec<Phase>,
}

impl Stopwatch {
    /// One for a guest with that many marks. The first phase begins at a line with the text `begin`, and has no length
    /// without one.
    pub fn new(begin: Option<&'static str>, wanted: usize) -> Self {
        Self { begin, wanted, line: Vec::new(), last: None, phases: Vec::new() }
    }

    /// Takes bytes of the console, read when the process had used `cpu()` of time. Returns whether all phases are over.
    fn read(&mut self, bytes: &[u8], cpu: impl Fn() -> Duration) -> bool {
        for byte in bytes {
            if *byte == b'\n' {
                let line = String::from_utf8_lossy(&self.line).into_owned();
                self.line.clear();
                self.whole_line(&line, &cpu);
            } else {
                self.line.push(*byte);
            }
        }
        self.phases.len() >= self.wanted
    }

    /// The first phase begins now.
    fn begin(&mut self, now: Duration) {
        self.last = Some((now, 0));
    }

    fn whole_line(&mut self, line: &str, cpu: impl Fn() -> Duration) {
        if self.last.is_none() && self.begin.is_some_and(|begin| line.contains(begin)) {
            self.begin(cpu());
        }
        let Some((_, words)) = line.split_once(MARK) else { return };
        let ticks = words.split_whitespace().nth(1).and_then(|word| word.parse().ok()).unwrap_or(0);
        let now = cpu();
        let (then, before) = self.last.unwrap_or((now, 0));
        let ticks_passed = if before == 0 { 0 } else { u64::saturating_sub(ticks, before) };
        self.phases.push(Phase { time: now.saturating_sub(then), ticks: ticks_passed, ..Phase::default() });
        self.last = Some((now, ticks));
    }
}

/// The time on the CPU that a process has used with all its threads, as the kernel's scheduler counts it.
fn cpu_time(pid: u32) -> Duration {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let nanoseconds = tasks.filter_map(|task| {
        let text = fs::read_to_string(task.path().join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse::<u64>().ok()
    });
    Duration::from_nanos(nanoseconds.sum())
}

/// This machine's world: the console's marks for the time, the events' for the counts.
struct Ours {
    watch: Stopwatch,
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
        self.watch.read(bytes, || cpu_time(std::process::id()));
    }

    fn input(&mut self, _poll: u64, now: u64, idle_until: Option<u64>) -> Option<(InputKind, u64)> {
        self.idle += idle_until.filter(|until| *until != u64::MAX).map_or(0, |until| until.saturating_sub(now));
        None
    }
}

/// Runs a guest on this machine to its end. The first phase begins with it.
pub fn ours(config: &Config, images: &[Image], watch: &Stopwatch) -> Result<Vec<Phase>, String> {
    let mut machine = Machine::new(config, images).map_err(|error| error.to_string())?;
    let mut world = Ours { watch: watch.clone(), idle: 0, exits: 0, counts: Vec::new(), failed: None };
    world.watch.begin(cpu_time(std::process::id()));
    machine.run(&mut world);
    if world.watch.phases.len() != watch.wanted || world.counts.len() != watch.wanted {
        return Err(format!("not all phases were reached: {}", world.failed.unwrap_or_default()));
    }
    let (mut instructions_before, mut exits_before) = (0, 0);
    for (phase, (instructions, exits)) in world.watch.phases.iter_mut().zip(world.counts) {
        (phase.instructions, phase.exits) = (instructions - instructions_before, exits - exits_before);
        (instructions_before, exits_before) = (instructions, exits);
    }
    Ok(world.watch.phases)
}

/// An image out of a file.
pub fn image(kind: ImageKind, file: &Path) -> Result<Image, String> {
    let bytes = fs::read(file).map_err(|error| format!("{} cannot be read: {error}", file.display()))?;
    let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Ok(Image { kind, name, bytes: bytes.into() })
}

/// Of each phase, the faster of two.
pub fn keep_faster(best: &mut [Phase], other: &[Phase]) {
    for (best, other) in best.iter_mut().zip(other) {
        if other.time < best.time {
            *best = *other;
        }
    }
}

/// A number by which a user changes a bench.
pub fn number(variable: &str, default: usize) -> usize {
    std::env::var(variable).ok().and_then(|word| word.parse().ok()).unwrap_or(default).max(1)
}

/// The load of this host over the last minute.
pub fn load() -> String {
    fs::read_to_string("/proc/loadavg")
        .ok()
        .and_then(|text| Some(text.split(' ').next()?.to_owned()))
        .unwrap_or_default()
}
