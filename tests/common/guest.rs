//! The Linux guest that `tests/guests/linux.sh` makes out of distribution packages, and the hypervisor that
//! `tests/guests/kvm.sh` makes of it, kept between runs.

#![allow(dead_code, unreachable_pub)] // Tests and benches each use a part of this.

use std::fs;
use std::hash::{DefaultHasher, Hasher};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The cheapest command line known, without what the guest is to run.
pub const APPEND: &str = "console=ttyS0 nokaslr mitigations=off quiet acpi=off nosmp lpj=1000000 tsc=reliable \
    no_timer_check random.trust_cpu=1 raid=noautodetect cryptomgr.notests=1 panic=-1";

/// The command line for a guest with two CPUs, which it finds in the tables of ACPI.
pub const SMP: &str = "console=ttyS0 nokaslr mitigations=off lpj=1000000 random.trust_cpu=1 raid=noautodetect \
    cryptomgr.notests=1 panic=-1";

/// What the scripts made.
#[derive(Clone, Debug)]
pub struct Linux {
    /// Where its files are.
    pub folder: PathBuf,
    /// The packages and their versions, a line each; nothing for a folder that was given.
    pub versions: String,
}

impl Linux {
    /// The kernel, a bzImage.
    pub fn kernel(&self) -> PathBuf {
        self.folder.join("vmlinuz")
    }

    /// The initramfs.
    pub fn initrd(&self) -> PathBuf {
        self.folder.join("initrd.img")
    }

    /// What one of the guest's tests says when the host's CPU runs it: the same programs, which are statically linked,
    /// in `temporary`.
    pub fn on_the_host(&self, test: &str, temporary: &Path) -> String {
        let host = self.folder.join("host");
        let output = Command::new(host.join("bin/busybox"))
            .arg("sh")
            .arg(host.join("tests").join(test))
            .env_clear()
            .env("PATH", host.join("bin"))
            .env("TMPDIR", temporary)
            .stdin(Stdio::null())
            .output()
            .expect("the guest's busybox starts on the host");
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{test} on the host: {out}{err}");
        out.into_owned()
    }
}

/// The folder of the scripts.
pub fn scripts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/guests")
}

/// Runs a script. Says in words what it said if it fails.
pub fn run(script: &Path, words: &[&str]) -> Result<String, String> {
    let output = Command::new(script)
        .args(words)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("{} cannot be started: {error}", script.display()))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(format!("{} failed: {}", script.display(), String::from_utf8_lossy(&output.stderr).trim()))
}

/// The guest: the folder that `NVMX_LINUX_GUEST` names, or one in the target folder, made now unless these scripts have
/// made it of these packages already.
pub fn linux() -> Result<Linux, String> {
    if let Some(folder) = std::env::var_os("NVMX_LINUX_GUEST") {
        return Ok(Linux { folder: folder.into(), versions: String::new() });
    }
    let script = scripts().join("linux.sh");
    let versions = run(&script, &["--versions"])?;
    let mut hash = DefaultHasher::new();
    hash.write(versions.as_bytes());
    for name in ["linux.sh", "port.c", "mark.c", "zstdtest.c"] {
        hash.write(&read(&scripts().join(name))?);
    }
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("linux-{:016x}", hash.finish()));
    if !folder.exists() {
        // Under another name until it is whole.
        let begun = folder.with_extension(std::process::id().to_string());
        run(&script, &[&begun.to_string_lossy()])?;
        if fs::rename(&begun, &folder).is_err() {
            // Another run was faster.
            let _ = fs::remove_dir_all(&begun);
        }
    }
    Ok(Linux { folder, versions })
}

/// The initramfs that makes a hypervisor of a guest, in the target folder, made now unless this script has made it of this
/// guest already.
pub fn kvm(linux: &Linux) -> Result<PathBuf, String> {
    let script = scripts().join("kvm.sh");
    let mut hash = DefaultHasher::new();
    for file in [script.clone(), scripts().join("vmm.c"), scripts().join("clock.c"), linux.kernel(), linux.initrd()] {
        hash.write(&read(&file)?);
    }
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("kvm-{:016x}", hash.finish()));
    if !folder.exists() {
        let begun = folder.with_extension(std::process::id().to_string());
        run(&script, &[&linux.folder.to_string_lossy(), &begun.to_string_lossy()])?;
        if fs::rename(&begun, &folder).is_err() {
            let _ = fs::remove_dir_all(&begun);
        }
    }
    Ok(folder.join("kvm.img"))
}

/// A static `nvmx` without the analyzer, built now unless its sources are what they were. It is not optimised: what it does in
/// a guest is little, and building it is most of the time.
pub fn static_nvmx() -> Result<PathBuf, String> {
    const TARGET: &str = "x86_64-unknown-linux-gnu";
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("static");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args([
            "build",
            "--locked",
            "--no-default-features",
            "--features",
            "live",
            "--package",
            "nvmx",
            "--bin",
            "nvmx",
            "--target",
            TARGET,
        ])
        .arg("--target-dir")
        .arg(&folder)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env("RUSTFLAGS", "-C target-feature=+crt-static -C strip=symbols")
        .envs([("CARGO_PROFILE_DEV_DEBUG", "0"), ("CARGO_INCREMENTAL", "0")])
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("cargo cannot be started: {error}"))?;
    if !output.status.success() {
        return Err(format!("no static nvmx: {}", String::from_utf8_lossy(&output.stderr).trim()));
    }
    Ok(folder.join(TARGET).join("debug/nvmx"))
}

/// The initramfs that makes a host with that nvmx of a guest, in the target folder, made now unless this script has made it
/// of these already.
pub fn host(linux: &Linux, nvmx: &Path) -> Result<PathBuf, String> {
    let script = scripts().join("host.sh");
    let mut hash = DefaultHasher::new();
    for file in [&script, nvmx, &linux.initrd()] {
        hash.write(&read(file)?);
    }
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("host-{:016x}", hash.finish()));
    if !folder.exists() {
        let begun = folder.with_extension(std::process::id().to_string());
        run(&script, &[&linux.folder.to_string_lossy(), &nvmx.to_string_lossy(), &begun.to_string_lossy()])?;
        if fs::rename(&begun, &folder).is_err() {
            let _ = fs::remove_dir_all(&begun);
        }
    }
    Ok(folder.join("host.img"))
}

fn read(file: &Path) -> Result<Vec<u8>, String> {
    fs::read(file).map_err(|error| format!("{} cannot be read: {error}", file.display()))
}

/// What was made, or nothing, loudly: where `NVMX_REQUIRE_LINUX` is set a failure.
pub fn or_skip<T>(made: &Result<T, String>) -> Option<&T> {
    match made {
        Ok(made) => Some(made),
        Err(error) if std::env::var_os("NVMX_REQUIRE_LINUX").is_some() => panic!("no Linux guest: {error}"),
        Err(error) => {
            // Not by a macro, whose output is kept from the terminal while the test passes.
            let _ = writeln!(std::io::stderr(), "SKIPPED, there is no Linux guest: {error}");
            None
        }
    }
}
