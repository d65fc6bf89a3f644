//! Bochs and QEMU as the bench runs them: which options, and how their console is read.

use super::guest::{self, Linux};
use super::{MEMORY, PHASES, Phase, Stopwatch, append, best, cpu_time};
use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// A machine that has not reached the end by then is given up.
const PATIENCE: Duration = Duration::from_secs(900);

/// Ends a process however its owner leaves.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Reads the console on a process's stdout up to the last mark. The bytes that came are given too.
fn watch(mut child: Child) -> Result<(Vec<Phase>, Vec<u8>), String> {
    let pid = child.id();
    let mut out = child.stdout.take().ok_or("it has no stdout")?;
    let mut killed = Killed(child);
    let (sender, receiver) = mpsc::channel();
    let reader = std::thread::spawn(move || {
        let (mut watch, mut seen, mut buffer) = (Stopwatch::default(), Vec::new(), [0; 4096]);
        while let Ok(len @ 1..) = out.read(&mut buffer) {
            seen.extend_from_slice(&buffer[..len]);
            if watch.read(&buffer[..len], || cpu_time(pid)) {
                break;
            }
        }
        let _ = sender.send(());
        (watch.phases, seen)
    });
    let start = Instant::now();
    let in_time = receiver.recv_timeout(PATIENCE).is_ok();
    let _ = killed.0.kill();
    let (phases, seen) = reader.join().map_err(|_| "its console could not be read")?;
    if phases.len() == PHASES.len() {
        return Ok((phases, seen));
    }
    let text = String::from_utf8_lossy(&seen);
    let last = text.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("nothing").trim();
    let how = if in_time { "ended" } else { "was given up" };
    Err(format!("it {how} after {} s; the last that it showed was: {last}", start.elapsed().as_secs()))
}

/// The disk that both boot from, made anew.
pub(crate) fn disk(linux: &Linux) -> Result<PathBuf, String> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("peers");
    let _ = fs::remove_dir_all(&folder);
    let failed = |error| format!("the files for the disk cannot be copied: {error}");
    fs::create_dir_all(&folder).map_err(failed)?;
    for file in [linux.kernel(), linux.initrd()] {
        fs::copy(&file, folder.join(file.file_name().unwrap_or_default())).map_err(failed)?;
    }
    guest::run(&guest::scripts().join("disk.sh"), &[&folder.to_string_lossy(), &append()])?;
    Ok(folder)
}

/// Runs QEMU's translator on one CPU, from the disk in `folder`.
pub(crate) fn qemu(folder: &Path, rounds: usize) -> Result<Vec<Phase>, String> {
    let program = std::env::var("NVMX_QEMU").unwrap_or_else(|_| "qemu-system-x86_64".into());
    best(rounds, || {
        let child = Command::new(&program)
            // Westmere is the last model before AVX.
            .args(["-accel", "tcg,thread=single", "-cpu", "Westmere", "-smp", "1", "-m", &MEMORY.to_string()])
            .args(["-nodefaults", "-display", "none", "-serial", "stdio", "-no-reboot", "-drive"])
            .arg(format!("file={},format=raw,if=ide", folder.join("disk.img").display()))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| format!("{program} cannot be started ({error}): apt-get install qemu-system-x86"))?;
        Ok(watch(child)?.0)
    })
}

/// Runs Bochs from the disk in `folder`. The notes say what to know of the program that was found.
pub(crate) fn bochs(folder: &Path, rounds: usize) -> (Result<Vec<Phase>, String>, Vec<String>) {
    let mut notes = Vec::new();
    let phases = best(rounds, || {
        let (phases, debugger) = one_bochs(folder)?;
        notes.clear();
        if debugger {
            notes.push(
                "This Bochs has its debugger built in, which costs most of its speed: NVMX_BOCHS names another.".into(),
            );
        }
        Ok(phases)
    });
    (phases, notes)
}

/// One run, and whether this Bochs has the debugger built in.
fn one_bochs(folder: &Path) -> Result<(Vec<Phase>, bool), String> {
    // Which display there is depends on how it was built; none of these shows anything.
    let mut last = Err("no display".to_owned());
    for display in ["nogui", "rfb, options=\"timeout=0\"", "term"] {
        fs::write(folder.join("bochsrc"), bochsrc(folder, display))
            .map_err(|error| format!("its configuration cannot be written: {error}"))?;
        last = start_bochs(folder).and_then(watch);
        if last.is_ok() || !fs::read_to_string(folder.join("stderr")).unwrap_or_default().contains("display library") {
            break;
        }
    }
    last.map(|(phases, seen)| (phases, String::from_utf8_lossy(&seen).contains("Next at t=0")))
}

fn start_bochs(folder: &Path) -> Result<Child, String> {
    let program = std::env::var("NVMX_BOCHS").unwrap_or_else(|_| "bochs".into());
    // It locks its disk, and is killed before it could unlock it.
    let _ = fs::remove_file(folder.join("disk.img.lock"));
    let stderr = fs::File::create(folder.join("stderr")).map_err(|error| error.to_string())?;
    let mut child = Command::new(&program)
        .args(["-q", "-f"])
        .arg(folder.join("bochsrc"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(stderr)
        .spawn()
        .map_err(|error| format!("{program} cannot be started ({error}): apt-get install bochs bochsbios vgabios"))?;
    // Where the debugger is built in, it waits for a word.
    if let Some(stdin) = &mut child.stdin {
        let _ = stdin.write_all(b"c\n");
    }
    Ok(child)
}

/// One CPU of a model without AVX, a clock that counts instructions, as ours does, and at the same rate. No speaker, which
/// would look for the host's sound.
fn bochsrc(folder: &Path, display: &str) -> String {
    let folder = folder.display();
    format!(
        "\
config_interface: textconfig
display_library: {display}
plugin_ctrl: speaker=0
romimage: file=/usr/share/bochs/BIOS-bochs-latest
vgaromimage: file=/usr/share/bochs/VGABIOS-lgpl-latest
cpu: model=corei5_arrandale_m520, count=1, ips=1000000000, reset_on_triple_fault=0
memory: guest={MEMORY}, host={MEMORY}
clock: sync=none, time0=1700000000
ata0-master: type=disk, path={folder}/disk.img, mode=flat, cylinders=65, heads=16, spt=63
boot: disk
com1: enabled=1, mode=file, dev=/dev/stdout
log: {folder}/log
panic: action=fatal
error: action=ignore
info: action=ignore
"
    )
}
