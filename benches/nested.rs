//! Nested transitions on this machine and on Bochs: the same guests, in one go.
//!
//! Run by `cargo bench --bench nested`. Three kinds of L2 exits are timed:
//!
//! - an empty round trip: VMCALL in L2, VMRESUME in an L1 that is nothing but that (tests/guests/trips.S);
//! - CPUID in L2, which L1 Linux's KVM answers itself;
//! - OUT in L2, which KVM hands to its userspace (tests/guests/vmm.c).
//!
//! Marks that the guests write stand around the loops, so that boot and the loading of modules count for nothing. Instructions
//! are counted by this machine; time is the time on the CPU that the process has used. The machines take turns, each guest
//! makes each kind several times, and of all the fastest counts. The table has rates, ratios and the budgets, and asserts
//! nothing.
//!
//! Debian's Bochs is looked for in the path, and `NVMX_BOCHS` names one more: Debian's has its debugger built in, and is
//! several times slower than one without. `NVMX_LINUX_GUEST` names a folder of a Linux guest that is there already, with its
//! `host` folder; `NVMX_NESTED_ROUNDS` how many turns each machine has.

mod common;

use common::guest::{self, Linux};
use common::peers::{self, Guest};
use common::{Phase, Stopwatch, image, keep_faster, load, number, ours};
use hv::machine::Image;
use hv_defs::config::{self, Config, ImageKind, Log};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

/// What all have, in MiB.
const MEMORY: u64 = 256;
/// A model of Bochs's that has VMX with EPT, VPID and unrestricted guests.
const MODEL: &str = "corei7_haswell_4770";
/// How often a guest makes each kind of exits, with marks around.
const REPEATS: usize = 3;
/// Exits between two marks.
const TRIPS: u64 = 200_000;
const CPUIDS: u64 = 100_000;
const OUTS: u64 = 40_000;

/// What the budget of a kind is.
#[derive(Clone, Copy, Debug)]
enum Budget {
    /// So many a second.
    Rate(f64),
    /// So many times what Bochs makes.
    TimesBochs(f64),
}

/// A kind of exits.
#[derive(Debug)]
struct Kind {
    name: &'static str,
    exits: u64,
    budget: Budget,
}

/// In the order of their marks: the first is the bare L1's, the others are L1 Linux's.
const KINDS: [Kind; 3] = [
    Kind { name: "empty round trip, bare L1", exits: TRIPS, budget: Budget::Rate(1e6) },
    Kind { name: "CPUID, by L1's KVM", exits: CPUIDS, budget: Budget::TimesBochs(3.0) },
    Kind { name: "OUT, to L1's userspace", exits: OUTS, budget: Budget::TimesBochs(3.0) },
];

/// The marks of each guest. The bare L1's stand before the first and after each of the loops.
const BARE_MARKS: usize = 1 + REPEATS;
/// L1 Linux's stand before and after each loop, of CPUID and OUT by turns.
const LINUX_MARKS: usize = 2 * 2 * REPEATS;

/// Of the phases that end with those marks, the fastest of each kind.
fn by_kind(bare: &[Phase], linux: &[Phase]) -> [Phase; 3] {
    let fastest = |phases: &[Phase], first: usize, step: usize| {
        let of_a_kind = phases.iter().copied().skip(first).step_by(step);
        of_a_kind.min_by_key(|phase| phase.time).unwrap_or_default()
    };
    [fastest(bare, 1, 1), fastest(linux, 1, 4), fastest(linux, 3, 4)]
}

/// A guest in both its forms.
#[derive(Debug)]
struct Subject {
    images: Vec<Image>,
    append: String,
    disk: Result<Guest, String>,
    watch: Stopwatch,
}

impl Subject {
    /// The L1 that does nothing but round trips.
    fn bare() -> Result<Self, String> {
        let watch = Stopwatch::new(None, BARE_MARKS);
        let folder = peers::folder("trips")?;
        let words = [folder.to_string_lossy().into_owned(), TRIPS.to_string(), REPEATS.to_string()];
        guest::run(&guest::scripts().join("trips.sh"), &words.each_ref().map(String::as_str))?;
        let images = vec![image(ImageKind::Kernel, &folder.join("trips.bin"))?];
        let disk = Ok(Guest { folder, memory: MEMORY, watch: watch.clone() });
        Ok(Self { images, append: String::new(), disk, watch })
    }

    /// L1 Linux with KVM.
    fn linux(linux: &Linux) -> Result<Self, String> {
        let watch = Stopwatch::new(None, LINUX_MARKS);
        let initrd = payload(linux)?;
        // A fast line, for a mark waits until the line has taken it, and waiting costs Bochs time.
        let words = guest::APPEND.replace(" quiet ", " loglevel=4 ").replace("ttyS0 ", "ttyS0,115200 ");
        let append = format!("{words} nvmx.run=kvm-bench nvmx.cpuid={CPUIDS} nvmx.out={OUTS} nvmx.rounds={REPEATS}");
        let images = vec![image(ImageKind::Kernel, &linux.kernel())?, image(ImageKind::Initrd, &initrd)?];
        let disk = peers::linux_disk("kvm", &linux.kernel(), &initrd, &append).map(|folder| Guest {
            folder,
            memory: MEMORY,
            watch: watch.clone(),
        });
        Ok(Self { images, append, disk, watch })
    }

    fn here(&self, log: Log) -> Result<Vec<Phase>, String> {
        let guest = config::Guest::Kernel { name: "l1".into(), append: self.append.clone() };
        ours(&Config { log, memory: MEMORY << 20, ..Config::new(guest) }, &self.images, &self.watch)
    }
}

/// The initramfs with KVM's modules and what runs on them, made anew beside links to the guest's files.
fn payload(linux: &Linux) -> Result<PathBuf, String> {
    let folder = peers::folder("payload")?;
    let linked = |name: &str, to: &Path| {
        let to = to.canonicalize().map_err(|error| format!("{}: {error}", to.display()))?;
        symlink(to, folder.join(name)).map_err(|error| format!("{name} cannot be linked: {error}"))
    };
    linked("vmlinuz", &linux.kernel())?;
    linked("initrd.img", &linux.initrd())?;
    linked("host", &linux.folder.join("host"))?;
    guest::run(&guest::scripts().join("kvm.sh"), &[&folder.to_string_lossy()])?;
    Ok(folder.join("payload.img"))
}

/// What a machine has done so far: the fastest of each kind.
#[derive(Debug)]
struct Column {
    name: String,
    best: Option<[Phase; 3]>,
}

impl Column {
    fn add(&mut self, phases: [Phase; 3]) {
        match &mut self.best {
            Some(best) => keep_faster(best, &phases),
            None => self.best = Some(phases),
        }
    }

    /// Exits of a kind a second, where it ran.
    fn rate(&self, kind: usize) -> Option<f64> {
        let time = self.best?[kind].time;
        (!time.is_zero()).then(|| KINDS[kind].exits as f64 / time.as_secs_f64())
    }
}

/// Runs both guests here. L2 must have made the exits that the rates are of.
fn here(log: Log, bare: &Subject, linux: &Subject) -> Result<[Phase; 3], String> {
    let phases = by_kind(&bare.here(log)?, &linux.here(log)?);
    for (phase, kind) in phases.iter().zip(&KINDS) {
        // Beyond them: pages touched first, timers, HLT.
        if !(kind.exits..kind.exits + kind.exits / 100).contains(&phase.exits) {
            return Err(format!("{}: L2 made {} exits instead of {}", kind.name, phase.exits, kind.exits));
        }
    }
    Ok(phases)
}

/// Runs both guests on a Bochs, and gives its name too.
fn bochs(program: &str, bare: &Subject, linux: &Subject) -> Result<([Phase; 3], String), String> {
    let on = |subject: &Subject| peers::bochs(program, MODEL, subject.disk.as_ref().map_err(String::clone)?);
    let (bare, linux) = (on(bare)?, on(linux)?);
    let debugger = if linux.debugger { " with its debugger" } else { "" };
    Ok((by_kind(&bare.phases, &linux.phases), format!("Bochs {}{debugger}", linux.version)))
}

/// A number in groups of three digits.
fn grouped(value: f64) -> String {
    let digits = format!("{value:.0}");
    let groups: Vec<_> = digits.as_bytes().rchunks(3).rev().map(String::from_utf8_lossy).collect();
    groups.join(",")
}

fn cell(value: Option<f64>, show: impl Fn(f64) -> String) -> String {
    value.map_or_else(|| "-".to_owned(), show)
}

fn row(cells: &[String]) {
    println!("| {} |", cells.join(" | "));
}

/// The table: `nvmx` at both levels of logging, then each Bochs.
fn table(exits: &Column, vmcs: &Column, peers: &[Column]) {
    let mut head = vec!["an L2 exit".into(), "instructions".into(), exits.name.clone(), vmcs.name.clone()];
    for peer in peers {
        head.extend([peer.name.clone(), "its ticks".into(), "nvmx over it".into()]);
    }
    head.extend(["budget".into(), "of it".into()]);
    let rule: Vec<String> = (0..head.len()).map(|at| if at == 0 { "---" } else { "---:" }.to_owned()).collect();
    row(&head);
    row(&rule);
    for (at, kind) in KINDS.iter().enumerate() {
        let each = |count: fn(&Phase) -> u64, column: &Column| {
            column.best.map(|best| count(&best[at]) as f64 / kind.exits as f64)
        };
        let rate = exits.rate(at);
        let mut cells = vec![
            kind.name.to_owned(),
            cell(each(|phase| phase.instructions, exits), grouped),
            cell(rate, grouped),
            cell(vmcs.rate(at), grouped),
        ];
        let over = |other: Option<f64>| rate.zip(other).map(|(a, b)| a / b);
        for peer in peers {
            cells.push(cell(peer.rate(at), grouped));
            cells.push(cell(each(|phase| phase.ticks, peer), grouped));
            cells.push(cell(over(peer.rate(at)), |ratio| format!("{ratio:.2}")));
        }
        // The fastest Bochs is the one to be measured by.
        let fastest = peers.iter().filter_map(|peer| peer.rate(at)).max_by(f64::total_cmp);
        let (words, aim) = match kind.budget {
            Budget::Rate(rate) => (grouped(rate), Some(rate)),
            Budget::TimesBochs(times) => (format!("{times} x Bochs"), fastest.map(|rate| rate * times)),
        };
        cells.extend([words, cell(over(aim), |part| format!("{:.0} %", part * 100.0))]);
        row(&cells);
    }
}

fn main() {
    let subjects = guest::linux().and_then(|linux| Ok((Subject::bare()?, Subject::linux(&linux)?, linux.versions)));
    let (bare, linux, versions) = subjects.unwrap_or_else(|error| {
        eprintln!("the bench needs its guests: {error}");
        std::process::exit(3);
    });
    let rounds = number("NVMX_NESTED_ROUNDS", 2);
    print!("{versions}");
    println!("1 CPU, {MEMORY} MiB, {}", linux.append);
    println!("L2 exits a second of time on the CPU, the fastest of {rounds} x {REPEATS}; load at the start {}", load());

    let mut logs =
        [Log::Exits, Log::Vmcs].map(|log| (log, Column { name: format!("nvmx, log {}", log.name()), best: None }));
    let programs = peers::named_bochs().into_iter().chain([peers::BOCHS.to_owned()]);
    let mut others: Vec<_> =
        programs.map(|program| (Some(program.clone()), Column { name: program, best: None })).collect();
    for round in 1..=rounds {
        for (log, column) in &mut logs {
            eprintln!("round {round}: {}", column.name);
            match here(*log, &bare, &linux) {
                Ok(phases) => column.add(phases),
                Err(error) => {
                    eprintln!("the guests did not run: {error}");
                    std::process::exit(3);
                }
            }
        }
        for (program, column) in &mut others {
            let Some(name) = program else { continue };
            eprintln!("round {round}: {name}");
            match bochs(name, &bare, &linux) {
                Ok((phases, version)) => {
                    column.add(phases);
                    column.name = version;
                }
                Err(error) => {
                    println!("{name} IS MISSING FROM THE TABLE: {error}");
                    *program = None;
                }
            }
        }
    }
    println!();
    let others: Vec<Column> =
        others.into_iter().map(|(_, column)| column).filter(|column| column.best.is_some()).collect();
    if others.is_empty() {
        println!("NO BOCHS: rates without what to compare them with.\n");
    }
    let [(_, exits), (_, vmcs)] = &logs;
    table(exits, vmcs, &others);
    println!(
        "\nInstructions: for each exit, L1's and L2's, by this machine's count, which leaves out those that L0 carries out."
    );
    println!("Its ticks: how far its time-stamp counter went for each exit; `of it` is by the fastest Bochs.");
    if others.iter().all(|column| column.name.ends_with("debugger")) && !others.is_empty() {
        println!("This Bochs has its debugger built in, which costs most of its speed: NVMX_BOCHS names another.");
    }
    println!("load at the end {}", load());
}
