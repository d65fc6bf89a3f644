//! Running the binary, and places for its files.

#![allow(dead_code, unreachable_pub)] // Every test program uses a part of this.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What a run of the binary left.
#[derive(Debug)]
pub struct Ran {
    /// The exit status; -1 when a signal ended it.
    pub status: i32,
    /// Stdout.
    pub out: String,
    /// Stderr.
    pub err: String,
}

impl Ran {
    /// Itself, if the exit status is that.
    #[track_caller]
    pub fn expect(self, status: i32) -> Self {
        assert_eq!(self.status, status, "stdout: {}\nstderr: {}", self.out, self.err);
        self
    }

    /// Stdout as JSON.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("not JSON: {error}: {}", self.out))
    }

    /// Asserts that stderr is one line which holds all of `words`.
    #[track_caller]
    pub fn one_line(&self, words: &[&str]) {
        assert_eq!(self.err.lines().count(), 1, "one line on stderr, not: {}", self.err);
        assert!(self.err.starts_with("nvmx: "), "{}", self.err);
        for word in words {
            assert!(self.err.contains(word), "'{word}' is not in: {}", self.err);
        }
    }
}

/// The binary, or the one that `NVMX_BINARY` names in its place, with no standard input.
pub fn command() -> Command {
    let binary = std::env::var_os("NVMX_BINARY").unwrap_or_else(|| env!("CARGO_BIN_EXE_nvmx").into());
    let mut command = Command::new(binary);
    command.stdin(Stdio::null()).env_remove("NO_COLOR");
    command
}

/// Runs `nvmx` with these words.
pub fn nvmx<S: AsRef<std::ffi::OsStr>>(words: &[S]) -> Ran {
    finish(command().args(words))
}

/// Runs `nvmx` with the words of a line; no word has a blank.
pub fn line(words: &str) -> Ran {
    nvmx(&words.split_whitespace().collect::<Vec<_>>())
}

/// Runs a command to its end.
pub fn finish(command: &mut Command) -> Ran {
    let output = command.output().expect("the binary starts");
    Ran {
        status: output.status.code().unwrap_or(-1),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// An empty folder of that name, for one test alone.
pub fn folder(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).expect("the target folder can be written to");
    folder
}

/// Sends a process a signal, as `TERM`. By the shell, which has that built in: not every system has a program `kill`.
#[track_caller]
pub fn send(signal: &str, process: u32) {
    let sent = Command::new("sh").args(["-c", "kill -s \"$0\" \"$1\"", signal, &process.to_string()]).status();
    assert!(sent.is_ok_and(|sent| sent.success()), "there is no process {process}");
}

/// Records `guest` with further `options` to a file of that name in `folder`.
pub fn record(folder: &Path, name: &str, guest: &str, options: &str) -> PathBuf {
    let file = folder.join(name);
    let mut words = vec!["record", guest, "-o", file.to_str().expect("a plain path")];
    words.extend(options.split_whitespace());
    nvmx(&words).expect(0);
    file
}

/// The path as a word.
pub fn word(path: &Path) -> &str {
    path.to_str().expect("a plain path")
}

/// A multiboot kernel that lies at 1 MiB, address fields and all, and runs `code` in 32-bit protected mode.
pub fn kernel(code: &[u8]) -> Vec<u8> {
    const AT: u32 = 0x10_0000;
    const HEADER: u32 = 32;
    let (magic, flags) = (0x1bad_b002_u32, 1_u32 << 16);
    let end = AT + HEADER + code.len() as u32;
    let checksum = 0_u32.wrapping_sub(magic).wrapping_sub(flags);
    let words = [magic, flags, checksum, AT, AT, end, end, AT + HEADER];
    words.into_iter().flat_map(u32::to_le_bytes).chain(code.iter().copied()).collect()
}
