//! Linux on this machine, on Bochs and on QEMU's translator: the same kernel, initramfs and command line, in one go.
//!
//! Run by `cargo bench --bench linux`. Marks that the guest writes cut the run into phases. A phase's instructions are
//! counted by this machine, for all three; its time is the time on the CPU that the process has used, so that a host with
//! other work gives figures too, if somewhat low ones. The table has rates and their ratios, and asserts nothing.
//!
//! `NVMX_LINUX_GUEST` names a folder of a guest that is there already, `NVMX_BOCHS` and `NVMX_QEMU` other programs than
//! those in the path, `NVMX_LINUX_ROUNDS` how often each runs: of several runs the fastest counts, phase by phase.

#[path = "../tests/common/guest.rs"]
mod guest;
#[path = "linux/peers.rs"]
mod peers;

use core::ops::ControlFlow;
use guest::Linux;
use hv::machine::{Image, Machine};
use hv::world::World;
use hv_defs::config::{Config, Guest, ImageKind, Log};
use hv_defs::event::{Event, InputKind, What};
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

/// What all have, in MiB.
const MEMORY: u64 = 256;
/// Which of the guest's tests runs.
const APPEND: &str = "nvmx.run=bench";
/// What the boot loader says last: from there on, all machines do the same. This machine begins there.
const BEGIN: &str = "initrd.img...ok";
/// What the guest's `mark` prints, before the phase's name and the time-stamp counter.
const MARK: &str = "nvmx-mark ";
/// The phases, in order: each ends with the mark of its name.
const PHASES: [&str; 5] = ["boot", "shell-loop", "fork-and-pipe", "sort-floats", "sha256"];

/// One phase on one machine.
#[derive(Clone, Copy, Default, Debug)]
struct Phase {
    /// Time on the CPU.
    time: Duration,
    /// Ticks of the guest's time-stamp counter, from the mark before; none for the first.
    ticks: u64,
    /// Instructions, where they can be counted.
    instructions: u64,
}

/// Collects phases while a console is read.
#[derive(Default, Debug)]
struct Stopwatch {
    line: Vec<u8>,
    last: Option<(Duration, u64)>,
    phases: Vec<Phase>,
}

impl Stopwatch {
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
        self.phases.len() == PHASES.len()
    }

    /// The kernel begins now.
    fn begin(&mut self, now: Duration) {
        self.last = Some((now, 0));
    }

    fn whole_line(&mut self, line: &str, cpu: impl Fn() -> Duration) {
        if line.contains(BEGIN) && self.last.is_none() {
            self.begin(cpu());
        }
        let Some((_, words)) = line.split_once(MARK) else { return };
        let ticks = words.split_whitespace().nth(1).and_then(|word| word.parse().ok()).unwrap_or(0);
        let now = cpu();
        let (then, before) = self.last.unwrap_or((now, 0));
        let ticks_passed = if before == 0 { 0 } else { u64::saturating_sub(ticks, before) };
        self.phases.push(Phase { time: now.saturating_sub(then), ticks: ticks_passed, instructions: 0 });
        self.last = Some((now, ticks));
    }
}

/// The kernel's command line. With `quiet` in it the boot loader would say nothing either.
fn append() -> String {
    format!("{} {APPEND}", guest::APPEND.replace(" quiet ", " loglevel=4 "))
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

/// This machine's world: the console's marks for the time, the events' for the instructions.
#[derive(Default)]
struct Ours {
    watch: Stopwatch,
    /// Instructions that were skipped because every CPU waited.
    idle: u64,
    /// Retired at the begin and at each mark, without idle ones.
    counts: Vec<u64>,
    failed: Option<String>,
}

impl World for Ours {
    fn events(&mut self, events: &[Event]) -> ControlFlow<()> {
        for event in events {
            match &event.what {
                What::Mark(_) => self.counts.push(event.at.instruction - self.idle),
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

fn ours(linux: &Linux) -> Result<Vec<Phase>, String> {
    let read = |path: PathBuf| fs::read(&path).map_err(|error| format!("{} cannot be read: {error}", path.display()));
    let images = [
        Image { kind: ImageKind::Kernel, name: "vmlinuz".into(), bytes: read(linux.kernel())? },
        Image { kind: ImageKind::Initrd, name: "initrd.img".into(), bytes: read(linux.initrd())? },
    ];
    let config = Config {
        log: Log::Exits,
        memory: MEMORY << 20,
        ..Config::new(Guest::Kernel { name: "vmlinuz".into(), append: append() })
    };
    let mut machine = Machine::new(&config, &images).map_err(|error| error.to_string())?;
    let mut world = Ours::default();
    world.watch.begin(cpu_time(std::process::id()));
    machine.run(&mut world);
    if world.watch.phases.len() != PHASES.len() || world.counts.len() != PHASES.len() {
        return Err(format!("not all phases were reached: {}", world.failed.unwrap_or_default()));
    }
    let mut before = 0;
    for (phase, count) in world.watch.phases.iter_mut().zip(&world.counts) {
        phase.instructions = count - before;
        before = *count;
    }
    Ok(world.watch.phases)
}

/// The fastest of several runs, phase by phase.
fn best(rounds: usize, mut run: impl FnMut() -> Result<Vec<Phase>, String>) -> Result<Vec<Phase>, String> {
    let mut best = run()?;
    for _ in 1..rounds {
        for (best, phase) in best.iter_mut().zip(run()?) {
            if phase.time < best.time {
                *best = phase;
            }
        }
    }
    Ok(best)
}

/// Millions a second, and their ratio; a dash for what is not there.
fn rate(instructions: u64, time: Option<Duration>) -> Option<f64> {
    time.filter(|time| !time.is_zero()).map(|time| instructions as f64 / 1e6 / time.as_secs_f64())
}

fn cell(value: Option<f64>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.1}"))
}

fn ratio(a: Option<f64>, b: Option<f64>) -> String {
    a.zip(b).map_or_else(|| "-".to_owned(), |(a, b)| format!("{:.2}", a / b))
}

fn load() -> String {
    fs::read_to_string("/proc/loadavg")
        .ok()
        .and_then(|text| Some(text.split(' ').next()?.to_owned()))
        .unwrap_or_default()
}

fn main() {
    let linux = guest::linux().unwrap_or_else(|error| {
        eprintln!("the bench needs a Linux guest: {error}");
        std::process::exit(3);
    });
    let rounds = std::env::var("NVMX_LINUX_ROUNDS").ok().and_then(|word| word.parse().ok()).unwrap_or(1);
    print!("{}", linux.versions);
    println!("1 CPU, {MEMORY} MiB, {}", append());
    println!("millions of instructions a second of time on the CPU; load at the start {}\n", load());
    let ours = best(rounds, || ours(&linux)).unwrap_or_else(|error| {
        eprintln!("the guest did not run: {error}");
        std::process::exit(3);
    });
    let peer = |name: &str, phases: Result<Vec<Phase>, String>| {
        phases.map_err(|error| println!("{name} is missing from the table: {error}")).unwrap_or_default()
    };
    let (bochs, qemu, notes) = match peers::disk(&linux) {
        Ok(disk) => {
            let (bochs, notes) = peers::bochs(&disk, rounds);
            (peer("Bochs", bochs), peer("QEMU", peers::qemu(&disk, rounds)), notes)
        }
        Err(error) => {
            println!("Bochs and QEMU are missing from the table: {error}");
            Default::default()
        }
    };

    println!(
        "{:<14} {:>9} {:>9} {:>9} {:>9} {:>11} {:>10} {:>12}",
        "phase", "million", "nvmx", "Bochs", "QEMU", "nvmx/Bochs", "nvmx/QEMU", "Bochs ticks"
    );
    let line = |name: &str, ours: Phase, bochs: Option<Phase>, qemu: Option<Phase>| {
        let of = |phase: Option<Phase>| rate(ours.instructions, phase.map(|phase| phase.time));
        let (a, b, c) = (of(Some(ours)), of(bochs), of(qemu));
        // The time-stamp counters of both count instructions and idle time.
        let ticks = bochs.filter(|bochs| bochs.ticks != 0).map(|bochs| bochs.ticks as f64);
        println!(
            "{name:<14} {:>9.1} {:>9} {:>9} {:>9} {:>11} {:>10} {:>12}",
            ours.instructions as f64 / 1e6,
            cell(a),
            cell(b),
            cell(c),
            ratio(a, b),
            ratio(a, c),
            ratio(ticks, Some(ours.ticks as f64)),
        );
    };
    for (at, name) in PHASES.iter().enumerate() {
        line(name, ours[at], bochs.get(at).copied(), qemu.get(at).copied());
    }
    let sum = |phases: &[Phase]| {
        phases.iter().copied().reduce(|a, b| Phase {
            time: a.time + b.time,
            ticks: a.ticks + b.ticks,
            instructions: a.instructions + b.instructions,
        })
    };
    line("together", sum(&ours).unwrap_or_default(), sum(&bochs), sum(&qemu));
    println!("Bochs ticks: how far its time-stamp counter went, over ours; what its timers and waiting cost is in it.");
    for note in notes {
        println!("{note}");
    }
    println!("load at the end {}", load());
}
