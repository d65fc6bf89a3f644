//! Linux on this machine, on Bochs and on QEMU's translator: the same kernel, initramfs and command line, in one go.
//!
//! Run by `cargo bench --bench linux`. Marks that the guest writes cut the run into phases. A phase's instructions are
//! counted by this machine, for all three; its time is the time on the CPU that the process has used, so that a host with
//! other work gives figures too, if somewhat low ones. The table has rates and their ratios, and asserts nothing.
//!
//! `NVMX_LINUX_GUEST` names a folder of a guest that is there already, `NVMX_BOCHS` and `NVMX_QEMU` other programs than
//! those in the path, `NVMX_LINUX_ROUNDS` how often each runs: of several runs the fastest counts, phase by phase.

mod common;

use common::guest::{self, Linux};
use common::peers::{self, Guest};
use common::{Phase, Stopwatch, image, keep_faster, load, ours};
use hv_defs::config::{self, Config, ImageKind, Log};
use std::time::Duration;

/// What all have, in MiB.
const MEMORY: u64 = 256;
/// Which of the guest's tests runs.
const APPEND: &str = "nvmx.run=bench";
/// What the boot loader says last: from there on, all machines do the same. This machine begins there.
const BEGIN: &str = "initrd.img...ok";
/// The last of Bochs's models without AVX.
const MODEL: &str = "corei5_arrandale_m520";
/// The phases, in order: each ends with the mark of its name.
const PHASES: [&str; 5] = ["boot", "shell-loop", "fork-and-pipe", "sort-floats", "sha256"];

/// The kernel's command line. With `quiet` in it the boot loader would say nothing either.
fn append() -> String {
    format!("{} {APPEND}", guest::APPEND.replace(" quiet ", " loglevel=4 "))
}

/// Runs it here.
fn run(linux: &Linux, watch: &Stopwatch) -> Result<Vec<Phase>, String> {
    let images = [image(ImageKind::Kernel, &linux.kernel())?, image(ImageKind::Initrd, &linux.initrd())?];
    let config = Config {
        log: Log::Exits,
        memory: MEMORY << 20,
        ..Config::new(config::Guest::Kernel { name: "vmlinuz".into(), append: append() })
    };
    ours(&config, &images, watch)
}

/// The fastest of several runs, phase by phase.
fn best(rounds: usize, mut run: impl FnMut() -> Result<Vec<Phase>, String>) -> Result<Vec<Phase>, String> {
    let mut best = run()?;
    for _ in 1..rounds {
        keep_faster(&mut best, &run()?);
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

fn main() {
    let linux = guest::linux().unwrap_or_else(|error| {
        eprintln!("the bench needs a Linux guest: {error}");
        std::process::exit(3);
    });
    let rounds = common::number("NVMX_LINUX_ROUNDS", 1);
    let watch = Stopwatch::new(Some(BEGIN), PHASES.len());
    print!("{}", linux.versions);
    println!("1 CPU, {MEMORY} MiB, {}", append());
    println!("millions of instructions a second of time on the CPU; load at the start {}\n", load());
    let ours = best(rounds, || run(&linux, &watch)).unwrap_or_else(|error| {
        eprintln!("the guest did not run: {error}");
        std::process::exit(3);
    });
    let peer = |name: &str, phases: Result<Vec<Phase>, String>| {
        phases.map_err(|error| println!("{name} is missing from the table: {error}")).unwrap_or_default()
    };
    let mut notes = Vec::new();
    let (bochs, qemu) = match peers::linux_disk("linux", &linux.kernel(), &linux.initrd(), &append()) {
        Ok(folder) => {
            let guest = Guest { folder, memory: MEMORY, watch };
            let program = peers::named_bochs().unwrap_or_else(|| peers::BOCHS.to_owned());
            let bochs = best(rounds, || {
                let run = peers::bochs(&program, MODEL, &guest)?;
                let text =
                    "This Bochs has its debugger built in, which costs most of its speed: NVMX_BOCHS names another.";
                notes = if run.debugger { vec![text] } else { Vec::new() };
                Ok(run.phases)
            });
            (peer("Bochs", bochs), peer("QEMU", best(rounds, || peers::qemu(&guest))))
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
            exits: a.exits + b.exits,
        })
    };
    line("together", sum(&ours).unwrap_or_default(), sum(&bochs), sum(&qemu));
    println!("Bochs ticks: how far its time-stamp counter went, over ours; what its timers and waiting cost is in it.");
    for note in notes {
        println!("{note}");
    }
    println!("load at the end {}", load());
}
