//! Bochs and QEMU's translator: which options they are run with, and how their console is read.

use super::clock;
use super::marks::{Phase, Stopwatch};
use std::fs;
use std::io::{self, Read, Write};
use std::path::PathBuf;
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

/// A guest on a disk, for one CPU.
#[derive(Clone, Debug)]
pub struct Disk {
    /// The folder of its disk.img, where other files go too.
    pub folder: PathBuf,
    /// What the machine has, in MiB.
    pub memory: u64,
    /// Its marks.
    pub watch: Stopwatch,
}

/// Reads the console on a process's stdout up to the last mark. The bytes that came are given too.
fn watch(mut child: Child, disk: &Disk) -> Result<(Vec<Phase>, Vec<u8>), String> {
    let (pid, mut watch) = (child.id(), disk.watch.clone());
    let mut out = child.stdout.take().ok_or("it has no stdout")?;
    let mut killed = Killed(child);
    let (sender, receiver) = mpsc::channel();
    let start = Instant::now();
    let reader = std::thread::spawn(move || {
        let (mut seen, mut buffer) = (Vec::new(), [0; 4096]);
        while let Ok(len @ 1..) = out.read(&mut buffer) {
            seen.extend_from_slice(&buffer[..len]);
            if watch.read(&buffer[..len], || clock::threads(pid).unwrap_or_else(|| start.elapsed())) {
                break;
            }
        }
        let _ = sender.send(());
        (watch, seen)
    });
    let in_time = receiver.recv_timeout(PATIENCE).is_ok();
    let _ = killed.0.kill();
    let (watch, seen) = reader.join().map_err(|_| "its console could not be read")?;
    if watch.is_over() {
        return Ok((watch.phases, seen));
    }
    let text = String::from_utf8_lossy(&seen);
    let last = text.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("nothing").trim();
    let how = if in_time { "ended" } else { "was given up" };
    Err(format!("it {how} after {} s; the last that it showed was: {last}", start.elapsed().as_secs()))
}

/// Why a program could not be started, and which of Debian's packages have it.
fn not_started(program: &str, error: &io::Error, packages: &str) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => format!("not installed: apt-get install {packages}"),
        _ => format!("{program} cannot be started: {error}"),
    }
}

/// The last words of the line of a program's `--version` or the like that has `before`.
fn version(program: &str, words: &[&str], before: &str) -> String {
    let output = Command::new(program).args(words).stdin(Stdio::null()).output();
    let said = output.map(|output| [output.stdout, output.stderr].concat()).unwrap_or_default();
    let said = String::from_utf8_lossy(&said);
    let version = said.lines().find_map(|line| line.split_once(before));
    version.and_then(|(_, words)| words.split_whitespace().next()).unwrap_or_default().to_owned()
}

/// The user's QEMU, or the one in the path.
fn qemu_program() -> String {
    std::env::var("NVMX_QEMU").ok().filter(|program| !program.is_empty()).unwrap_or("qemu-system-x86_64".into())
}

/// What QEMU calls itself.
pub fn qemu_name() -> String {
    format!("QEMU {}", version(&qemu_program(), &["--version"], "version ")).trim_ascii_end().to_owned()
}

/// Runs QEMU's translator.
///
/// # Errors
/// Why there are no figures.
pub fn qemu(disk: &Disk) -> Result<Vec<Phase>, String> {
    let program = qemu_program();
    let child = Command::new(&program)
        // Westmere is the last model before AVX.
        .args(["-accel", "tcg,thread=single", "-cpu", "Westmere", "-smp", "1", "-m", &disk.memory.to_string()])
        .args(["-nodefaults", "-display", "none", "-serial", "stdio", "-no-reboot", "-drive"])
        .arg(format!("file={},format=raw,if=ide", disk.folder.join("disk.img").display()))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| not_started(&program, &error, "qemu-system-x86"))?;
    Ok(watch(child, disk)?.0)
}

/// The Bochs programs to measure: the one that the user named, then that in the path.
pub fn bochs_programs() -> Vec<String> {
    let named = std::env::var("NVMX_BOCHS").ok().filter(|program| !program.is_empty());
    named.into_iter().chain(["bochs".into()]).collect()
}

/// A run of Bochs.
#[derive(Clone, Debug)]
pub struct Bochs {
    /// The phases.
    pub phases: Vec<Phase>,
    /// What it calls itself.
    pub what: String,
    /// Whether it has its debugger built in, which costs most of its speed.
    pub debugger: bool,
}

/// Runs a Bochs with a CPU of one of its models.
///
/// # Errors
/// Why there are no figures.
pub fn bochs(program: &str, model: &str, disk: &Disk) -> Result<Bochs, String> {
    // Which display there is depends on how it was built; none of these shows anything.
    let mut last = Err("no display".to_owned());
    for display in ["nogui", "rfb, options=\"timeout=0\"", "term"] {
        fs::write(disk.folder.join("bochsrc"), bochsrc(disk, model, display))
            .map_err(|error| format!("its configuration cannot be written: {error}"))?;
        last = start_bochs(program, disk).and_then(|child| watch(child, disk));
        let said = fs::read_to_string(disk.folder.join("stderr")).unwrap_or_default();
        if last.is_ok() || !said.contains("display library") {
            break;
        }
    }
    let (phases, seen) = last?;
    let debugger = String::from_utf8_lossy(&seen).contains("Next at t=0");
    let number = version(program, &["--help", "cpu"], "Bochs x86 Emulator ");
    let how = if debugger { ", its debugger built in" } else { "" };
    Ok(Bochs { phases, what: format!("Bochs {number}{how}"), debugger })
}

fn start_bochs(program: &str, disk: &Disk) -> Result<Child, String> {
    // It locks its disk, and is killed before it could unlock it.
    let _ = fs::remove_file(disk.folder.join("disk.img.lock"));
    let stderr = fs::File::create(disk.folder.join("stderr")).map_err(|error| error.to_string())?;
    let mut child = Command::new(program)
        .args(["-q", "-f"])
        .arg(disk.folder.join("bochsrc"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(stderr)
        .spawn()
        .map_err(|error| not_started(program, &error, "bochs bochsbios vgabios"))?;
    // Where the debugger is built in, it waits for a word.
    if let Some(stdin) = &mut child.stdin {
        let _ = stdin.write_all(b"c\n");
    }
    Ok(child)
}

/// One CPU, a clock that counts instructions, as ours does, and at the same rate. No speaker, which
/// would look for the host's sound.
fn bochsrc(disk: &Disk, model: &str, display: &str) -> String {
    let (folder, memory) = (disk.folder.display(), disk.memory);
    format!(
        "\
config_interface: textconfig
display_library: {display}
plugin_ctrl: speaker=0
romimage: file=/usr/share/bochs/BIOS-bochs-latest
vgaromimage: file=/usr/share/bochs/VGABIOS-lgpl-latest
cpu: model={model}, count=1, ips=1000000000, reset_on_triple_fault=0
memory: guest={memory}, host={memory}
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
