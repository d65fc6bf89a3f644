//! The Linux guest that `tests/guests/linux.sh` and `tests/guests/kvm.sh` make, and the scripts that make disks of it for
//! other emulators, which are in the program.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The cheapest command line known, without what the guest is to run.
pub const APPEND: &str = "console=ttyS0 nokaslr mitigations=off quiet acpi=off nosmp lpj=1000000 tsc=reliable \
                          no_timer_check random.trust_cpu=1 raid=noautodetect cryptomgr.notests=1 panic=-1";

/// How a guest is named by those who do not say `--guest`.
pub const VARIABLE: &str = "NVMX_LINUX_GUEST";

/// What a guest's folder must have.
const FILES: [&str; 2] = ["vmlinuz", "initrd.img"];

/// A folder with a Linux guest.
#[derive(Clone, Debug)]
pub struct Guest {
    folder: PathBuf,
}

impl Guest {
    /// The guest in a folder.
    ///
    /// # Errors
    /// Which file it lacks.
    pub fn in_folder(folder: &Path) -> Result<Self, String> {
        match FILES.iter().find(|file| !folder.join(file).is_file()) {
            Some(file) => Err(format!("there is no {file}")),
            None => Ok(Self { folder: folder.into() }),
        }
    }

    /// The kernel, a bzImage.
    pub fn kernel(&self) -> PathBuf {
        self.folder.join("vmlinuz")
    }

    /// The initramfs.
    pub fn initrd(&self) -> PathBuf {
        self.folder.join("initrd.img")
    }

    /// An initramfs with KVM's modules and what runs on them; why there is none.
    pub fn payload(&self) -> Result<PathBuf, String> {
        let found =
            ["payload.img", "kvm.img"].map(|name| self.folder.join(name)).into_iter().find(|path| path.is_file());
        found.ok_or_else(|| "the guest's folder has no payload.img: tests/guests/kvm.sh DIR makes it".into())
    }

    /// The guest's own programs and tests, for the host.
    pub fn host(&self) -> PathBuf {
        self.folder.join("host")
    }
}

/// Makes a disk that boots Linux, in a new folder.
///
/// # Errors
/// What the script said.
pub fn linux_disk(folder: &Path, kernel: &Path, initrd: &Path, append: &str) -> Result<(), String> {
    make(folder)?;
    for (file, to) in [(kernel, "vmlinuz"), (initrd, "initrd.img")] {
        std::fs::copy(file, folder.join(to))
            .map_err(|error| format!("{} cannot be copied: {error}", file.display()))?;
    }
    let script = include_str!("../../tests/guests/disk.sh");
    run(folder, "disk.sh", script, &[&folder.to_string_lossy(), append])
}

/// Makes the hypervisor that does nothing but round trips, in a new folder: `trips.bin`, and the same as a disk.
///
/// # Errors
/// What the script said.
pub fn trips(folder: &Path, trips: u64, rounds: usize) -> Result<(), String> {
    make(folder)?;
    put(folder, "trips.S", include_str!("../../tests/guests/trips.S"))?;
    let words = [folder.to_string_lossy().into_owned(), trips.to_string(), rounds.to_string()];
    let script = include_str!("../../tests/guests/trips.sh");
    run(folder, "trips.sh", script, &words.each_ref().map(String::as_str))
}

fn make(folder: &Path) -> Result<(), String> {
    std::fs::create_dir_all(folder).map_err(|error| format!("{} cannot be made: {error}", folder.display()))
}

fn put(folder: &Path, name: &str, text: &str) -> Result<(), String> {
    std::fs::write(folder.join(name), text).map_err(|error| format!("{name} cannot be written: {error}"))
}

/// Runs a script of the program's. Says in words what it said if it fails.
fn run(folder: &Path, name: &str, text: &str, words: &[&str]) -> Result<(), String> {
    put(folder, name, text)?;
    let output = Command::new("sh").arg(folder.join(name)).args(words).stdin(Stdio::null()).output();
    let output = output.map_err(|error| format!("sh cannot be started: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said =
        String::from_utf8_lossy(&output.stderr).trim_ascii().replace(&*folder.join(name).to_string_lossy(), name);
    Err(format!("{name} failed: {}", said.lines().last().unwrap_or("it says nothing")))
}
