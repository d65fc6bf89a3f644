//! The software CPU on plain Linux work, beside Bochs, QEMU's translator and this host's own CPU: the same kernel, initramfs
//! and command line on the three machines, the same programs on the host.
//!
//! Marks that the guest writes cut the run into phases. A phase's instructions are counted here, for all.

use super::analysis::Failed;
use super::clock::Meter;
use super::emulators::{self, Disk};
use super::guest::{self, Guest};
use super::marks::{Phase, Stopwatch, fastest, ours};
use super::row::{Budget, MILLIONS, Peer, Row};
use super::source::Recording;
use hv::machine::Image;
use hv_defs::config::{self, Config, ImageKind, Log};
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use traces::Reader;

/// What all machines have, in MiB.
const MEMORY: u64 = 256;
/// What the boot loader says last: from there on, all machines do the same. This machine begins there.
const BEGIN: &str = "initrd.img...ok";
/// The last of Bochs's models without AVX.
const MODEL: &str = "corei5_arrandale_m520";
/// The phases, in order, each of which ends with a mark; and whether they are of the plain work that the budget is of.
const PHASES: [(&str, &str, bool); 5] = [
    ("boot", "boot to init", false),
    ("shell-loop", "shell loop", true),
    ("fork-and-pipe", "fork and pipe", false),
    ("sort-floats", "sort and floats", true),
    ("sha256", "sha256", true),
];
/// Runs here and on QEMU, of which the fastest counts phase by phase. Bochs has one: it takes minutes.
const ROUNDS: usize = 2;
/// Runs on the host's own CPU.
const HOST: usize = 5;

/// The kernel's command line. With `quiet` in it the boot loader would say nothing either.
fn append() -> String {
    format!("{} nvmx.run=bench", guest::APPEND.replace(" quiet ", " loglevel=4 "))
}

/// Measures on a Linux guest. `say` is told what is under way.
///
/// # Errors
/// The guest does not run here.
pub fn linux(guest: &Guest, folder: &Path, quick: bool, say: &dyn Fn(&str)) -> Result<Vec<Row>, String> {
    let watch = Stopwatch::new(Some(BEGIN), PHASES.len());
    let rounds = if quick { 1 } else { ROUNDS };
    say("Linux here");
    let here = fastest(rounds, || run(guest, &watch))?;
    say("its programs on the host's CPU");
    let host = fastest(HOST, || host(guest, folder, &watch)).ok();
    let disk = folder.join("linux-disk");
    let disk = guest::linux_disk(&disk, &guest.kernel(), &guest.initrd(), &append()).map(|()| Disk {
        folder: disk,
        memory: MEMORY,
        watch: watch.clone(),
    });
    // What it calls itself, its phases, and whether it was slowed.
    type Theirs = (&'static str, String, Result<Vec<Phase>, String>, bool);
    let mut others: Vec<Theirs> = Vec::new();
    for program in emulators::bochs_programs() {
        say("Linux on Bochs");
        let ran = disk.as_ref().map_err(String::clone).and_then(|disk| emulators::bochs(&program, MODEL, disk));
        others.push(match ran {
            Ok(ran) => ("bochs", ran.what, Ok(ran.phases), ran.debugger),
            Err(why) => ("bochs", "Bochs".into(), Err(why), false),
        });
    }
    say("Linux on QEMU");
    let qemu = disk.as_ref().map_err(String::clone);
    let qemu = qemu.and_then(|disk| fastest(rounds, || emulators::qemu(disk)));
    others.push(("qemu", emulators::qemu_name(), qemu, false));

    let row = |name, what: &str, of: &dyn Fn(usize) -> bool| {
        let some = |phases: &[Phase]| {
            let chosen = phases.iter().enumerate().filter(|(at, _)| of(*at)).map(|(_, phase)| phase);
            Phase::together(chosen)
        };
        let count = some(&here).instructions;
        let rate = |phase: Phase| count as f64 / 1e6 / phase.time.as_secs_f64().max(1e-9);
        let mut row = Row::new(name, what, MILLIONS, rate(some(&here))).with("millions", count as f64 / 1e6);
        if let Some(host) = host.as_ref().filter(|_| !of(0)) {
            row = row.floor(rate(some(host)), "the same programs on the host's own CPU");
        }
        row.peers = others
            .iter()
            .map(|(name, what, phases, slowed)| Peer {
                name,
                what: what.clone(),
                value: phases.as_ref().map(|phases| rate(some(phases))).map_err(String::clone),
                beside: None,
                slowed: *slowed,
            })
            .collect();
        row
    };
    let mut rows = vec![
        row("plain", "plain Linux work: shell loop, sort and floats, sha256", &|at| PHASES[at].2)
            .budget(Budget::TimesBochs(1.0))
            .stretch(Budget::TimesBochs(5.0)),
    ];
    rows.extend(PHASES.iter().enumerate().map(|(this, (name, what, _))| row(name, what, &|at| at == this)));
    rows.push(row("all", "all of it", &|_| true));
    Ok(rows)
}

/// Runs it here.
fn run(guest: &Guest, watch: &Stopwatch) -> Result<Vec<Phase>, String> {
    let images = [image(ImageKind::Kernel, &guest.kernel())?, image(ImageKind::Initrd, &guest.initrd())?];
    let config = Config {
        log: Log::Exits,
        memory: MEMORY << 20,
        ..Config::new(config::Guest::Kernel { name: "vmlinuz".into(), append: append() })
    };
    ours(&config, &images, watch)
}

/// Runs the guest's programs on the host's CPU, timed by the clock: they are processes of their own.
fn host(guest: &Guest, folder: &Path, watch: &Stopwatch) -> Result<Vec<Phase>, String> {
    let (host, mark) = (guest.host(), folder.join("host-mark"));
    let error = |error: std::io::Error| error.to_string();
    std::fs::create_dir_all(&mark).map_err(error)?;
    // In place of the guest's program, which writes to a port.
    std::fs::write(mark.join("mark"), "#!/bin/sh\necho \"nvmx-mark $2 0\"\n").map_err(error)?;
    executable(&mark.join("mark")).map_err(error)?;
    let mut path = mark.into_os_string();
    path.push(":");
    path.push(host.join("bin"));
    let mut child = Command::new(host.join("bin/busybox"))
        .arg("sh")
        .arg(host.join("tests/bench"))
        .env_clear()
        .env("PATH", path)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(error)?;
    let (mut watch, since) = (watch.clone(), Instant::now());
    watch.begin(Duration::ZERO);
    let mut out = child.stdout.take().ok_or("it has no stdout")?;
    let mut buffer = [0; 4096];
    while let Ok(len @ 1..) = out.read(&mut buffer) {
        watch.read(&buffer[..len], || since.elapsed());
    }
    let done = child.wait().map_err(error)?;
    if done.success() && watch.is_over() { Ok(watch.phases) } else { Err("the host's run failed".into()) }
}

fn executable(file: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o755))
}

/// An image out of a file.
pub fn image(kind: ImageKind, file: &Path) -> Result<Image, String> {
    let bytes = std::fs::read(file).map_err(|error| format!("{} cannot be read: {error}", file.display()))?;
    let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Ok(Image { kind, name, bytes: bytes.into() })
}

/// Without a Linux guest: a built-in one, from power-on to its end again and again, in instructions a second. It is short, so
/// that much of the time is the machine's making; the budget is of Linux.
///
/// # Errors
/// The guest fails.
pub fn built_in(recording: &Recording, rounds: usize) -> Result<Vec<Row>, Failed> {
    let mut plain = Row::missing("plain", "plain Linux work", MILLIONS, "it needs a Linux guest: --guest DIR")
        .budget(Budget::TimesBochs(1.0))
        .stretch(Budget::TimesBochs(5.0));
    let Some((subject, _)) = &recording.made else {
        plain.value = Err("it runs guests, and a trace was named".into());
        return Ok(vec![plain]);
    };
    let reader = Reader::open(&recording.path)?;
    let instructions = reader.event(reader.len() - 1)?.at.instruction;
    let mut meter = Meter::default();
    for _ in 0..rounds {
        meter.round(|| subject.run())?;
    }
    let took = meter.cost().thread;
    let what = "a built-in guest, from power-on to its end";
    let rate = instructions as f64 / 1e6 / took.best.as_secs_f64().max(1e-9);
    let row = Row::new("built-in", what, MILLIONS, rate).with("millions", instructions as f64 / 1e6);
    Ok(vec![plain, row.spread(took)])
}
