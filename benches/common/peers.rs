//! Bochs and QEMU as the benches run them: which options, and how their console is read.

use super::guest;
use super::{Phase, Stopwatch, cpu_time};
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

/// A guest on a disk, for one CPU.
#[derive(Clone, Debug)]
pub struct Guest {
    /// The folder of its disk.img, where other files go too.
    pub folder: PathBuf,
    /// What the machine has, in MiB.
    pub memory: u64,
    /// Its marks.
    pub watch: Stopwatch,
}

/// Reads the console on a process's stdout up to the last mark. The bytes that came are given too.
fn watch(mut child: Child, guest: &Guest) -> Result<(Vec<Phase>, Vec<u8>), String> {
    let (pid, mut watch) = (child.id(), guest.watch.clone());
    let mut out = child.stdout.take().ok_or("it has no stdout")?;
    let mut killed = Killed(child);
    let (sender, receiver) = mpsc::channel();
    let reader = std::thread::spawn(move || {
        let (mut seen, mut buffer) = (Vec::new(), [0; 4096]);
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
    if phases.len() >= guest.watch.wanted {
        return Ok((phases, seen));
    }
    let text = String::from_utf8_lossy(&seen);
    let last = text.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("nothing").trim();
    let how = if in_time { "ended" } else { "was given up" };
    Err(format!("it {how} after {} s; the last that it showed was: {last}", start.elapsed().as_secs()))
}

/// A new folder for a guest.
pub fn folder(name: &str) -> Result<PathBuf, String> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("peers").join(name);
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).map_err(|error| format!("{} cannot be made: {error}", folder.display()))?;
    Ok(folder)
}

/// A disk that boots Linux, made anew, in a folder of that name.
pub fn linux_disk(name: &str, kernel: &Path, initrd: &Path, append: &str) -> Result<PathBuf, String> {
    let folder = folder(name)?;
    for (file, to) in [(kernel, "vmlinuz"), (initrd, "initrd.img")] {
        fs::copy(file, folder.join(to)).map_err(|error| format!("{} cannot be copied: {error}", file.display()))?;
    }
    guest::run(&guest::scripts().join("disk.sh"), &[&folder.to_string_lossy(), append])?;
    Ok(folder)
}

/// Runs QEMU's translator.
pub fn qemu(guest: &Guest) -> Result<Vec<Phase>, String> {
    let program = std::env::var("NVMX_QEMU").unwrap_or_else(|_| "qemu-system-x86_64".into());
    let child = Command::new(&program)
        // Westmere is the last model before AVX.
        .args(["-accel", "tcg,thread=single", "-cpu", "Westmere", "-smp", "1", "-m", &guest.memory.to_string()])
        .args(["-nodefaults", "-display", "none", "-serial", "stdio", "-no-reboot", "-drive"])
        .arg(format!("file={},format=raw,if=ide", guest.folder.join("disk.img").display()))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| format!("{program} cannot be started ({error}): apt-get install qemu-system-x86"))?;
    Ok(watch(child, guest)?.0)
}

/// Debian's Bochs.
pub const BOCHS: &str = "bochs";

/// The Bochs that the user named.
pub fn named_bochs() -> Option<String> {
    std::env::var("NVMX_BOCHS").ok().filter(|program| !program.is_empty())
}

/// A run of Bochs.
#[derive(Clone, Debug)]
pub struct Bochs {
    /// The phases.
    pub phases: Vec<Phase>,
    /// Its version, as it names it.
    pub version: String,
    /// Whether it has its debugger built in.
    pub debugger: bool,
}

/// Runs a Bochs with a CPU of one of its models.
pub fn bochs(program: &str, model: &str, guest: &Guest) -> Result<Bochs, String> {
    // Which display there is depends on how it was built; none of these shows anything.
    let mut last = Err("no display".to_owned());
    for display in ["nogui", "rfb, options=\"timeout=0\"", "term"] {
        fs::write(guest.folder.join("bochsrc"), bochsrc(guest, model, display))
            .map_err(|error| format!("its configuration cannot be written: {error}"))?;
        last = start_bochs(program, &guest.folder).and_then(|child| watch(child, guest));
        let said = fs::read_to_string(guest.folder.join("stderr")).unwrap_or_default();
        if last.is_ok() || !said.contains("display library") {
            break;
        }
    }
    let (phases, seen) = last?;
    let debugger = String::from_utf8_lossy(&seen).contains("Next at t=0");
    Ok(Bochs { phases, version: bochs_version(program), debugger })
}

/// What a Bochs says that it is, in front of its help.
fn bochs_version(program: &str) -> String {
    let output = Command::new(program).args(["--help", "cpu"]).stdin(Stdio::null()).output();
    let said = output.map(|output| [output.stdout, output.stderr].concat()).unwrap_or_default();
    let said = String::from_utf8_lossy(&said);
    let version = said.lines().find_map(|line| line.split_once("Bochs x86 Emulator "));
    version.map_or_else(String::new, |(_, words)| words.trim().to_owned())
}

fn start_bochs(program: &str, folder: &Path) -> Result<Child, String> {
    // It locks its disk, and is killed before it could unlock it.
    let _ = fs::remove_file(folder.join("disk.img.lock"));
    let stderr = fs::File::create(folder.join("stderr")).map_err(|error| error.to_string())?;
    let mut child = Command::new(program)
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

/// One CPU, a clock that counts instructions, as ours does, and at the same rate. No speaker, which
/// would look for the host's sound.
fn bochsrc(guest: &Guest, model: &str, display: &str) -> String {
    let (folder, memory) = (guest.folder.display(), guest.memory);
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
