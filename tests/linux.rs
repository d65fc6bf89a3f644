//! A stock Linux as a guest: the distribution's kernel and the programs of its own initramfs.
//!
//! The guest is made once by `tests/guests/linux.sh` and kept in the target folder. Where that cannot be, for want of
//! apt-get or of a network, these tests say so and do nothing, unless `NVMX_REQUIRE_LINUX` is set, as it is in CI.

mod common;
#[path = "common/guest.rs"]
mod guest;

use common::{Ran, command, finish, folder, nvmx, word};
use guest::Linux;
use std::io::Write;
use std::process::Stdio;
use std::sync::OnceLock;
use std::time::Instant;

/// How a guest leaves whose test ended with 0, of which isa-debug-exit makes 1.
const WELL: &str = "the guest left through isa-debug-exit with status 1";

/// The guest, or nothing, loudly.
fn linux() -> Option<&'static Linux> {
    static LINUX: OnceLock<Result<Linux, String>> = OnceLock::new();
    guest::or_skip(LINUX.get_or_init(guest::linux))
}

/// The words that boot it, with a command line.
fn boot(linux: &Linux, append: &str) -> Vec<String> {
    let file = |path: std::path::PathBuf| word(&path).to_owned();
    let words = ["--kernel".to_owned(), file(linux.kernel()), "--initrd".to_owned(), file(linux.initrd())];
    words.into_iter().chain(["--append".to_owned(), append.to_owned()]).collect()
}

/// Runs `nvmx` with these words, the guest's after the first.
fn with_guest(first: &str, guest: &[String], more: &[&str]) -> Ran {
    let words: Vec<&str> =
        [first].into_iter().chain(guest.iter().map(String::as_str)).chain(more.iter().copied()).collect();
    nvmx(&words)
}

/// Asserts that the console shows `lines`, in this order and nothing between them.
#[track_caller]
fn shows(console: &str, lines: &str) {
    let console: Vec<_> = console.lines().map(str::trim_end).collect();
    let lines: Vec<_> = lines.lines().map(str::trim_end).collect();
    assert!(
        !lines.is_empty() && console.windows(lines.len()).any(|shown| shown == lines),
        "{lines:#?} in {console:#?}"
    );
}

/// Asserts that the last line, which is ours, ends so.
#[track_caller]
fn ends(out: &str, how: &str) {
    assert_eq!(out.lines().last(), Some(&*format!("nvmx: {how}")), "{out}");
}

#[test]
fn linux_computes_what_the_host_computes_and_replays_twice() {
    let Some(linux) = linux() else { return };
    let folder = folder("linux-work");
    let expected = linux.on_the_host("work", &folder);
    for name in ["sha256 ", "md5 ", "gzip same", "bzip2 ", "awk ", "sort ", "storm ", "bc ", "zstd level 19"] {
        assert!(expected.contains(name), "'{name}' is not in: {expected}");
    }
    let trace = folder.join("linux.nvmx");
    let start = Instant::now();
    let append = format!("{} nvmx.run=work", guest::APPEND);
    let recorded = with_guest("record", &boot(linux, &append), &["--log", "exits", "-o", word(&trace)]).expect(0);
    let record = start.elapsed();
    shows(&recorded.out, &expected);
    ends(&recorded.out, WELL);

    let start = Instant::now();
    let replayed = nvmx(&["replay", "--json", "--runs", "2", word(&trace)]).expect(0).json();
    let replay = start.elapsed() / 2;
    assert_eq!((&replayed["identical"], &replayed["runs"]), (&true.into(), &2.into()));
    let info = nvmx(&["info", "--json", word(&trace)]).expect(0).json();
    for key in ["events", "instructions"] {
        assert_eq!(replayed[key], info[key], "{key}");
    }
    let _ = writeln!(
        std::io::stderr(),
        "Linux and its work, {} instructions: recorded in {:.1} s, replayed in {:.1} s, {:.2} of that",
        info["instructions"],
        record.as_secs_f64(),
        replay.as_secs_f64(),
        replay.as_secs_f64() / record.as_secs_f64()
    );
}

#[test]
fn a_shell_takes_what_is_typed() {
    let Some(linux) = linux() else { return };
    let words = boot(linux, guest::APPEND);
    // What is typed is echoed, so the text to stop on must not be in it.
    // The kernel empties the serial line when it finds it: what is typed before that is lost, here some of the blank lines.
    let typed = "\n\n\n\n\n\n\n\necho twice $((21 * 2)) is $(echo 42 | rev); uname -m\ncat /proc/$$/comm; echo the $((6 - 5))st end\n";
    let mut child = command()
        .arg("run")
        .args(&words)
        .args(["--stop-on", "the 1st end"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    child.stdin.take().expect("a pipe").write_all(typed.as_bytes()).expect("the pipe takes it");
    let output = child.wait_with_output().expect("it ends");
    let console = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{console}{}", String::from_utf8_lossy(&output.stderr));
    shows(&console, "twice 42 is 24\nx86_64");
    shows(&console, "sh\nthe 1st end");
}

#[test]
fn two_cpus_are_brought_up_and_both_work() {
    let Some(linux) = linux() else { return };
    let append = format!("{} nvmx.run=smp", guest::SMP);
    let ran = with_guest("run", &boot(linux, &append), &["--cpus", "2"]).expect(0);
    for says in ["smp: Brought up 1 node, 2 CPUs", "cpus 2 online 0-1"] {
        assert!(ran.out.contains(says), "'{says}' is not in: {}", ran.out);
    }
    // The sum of what `seq 1 20000` prints, as the other test's work has it from the host.
    let host = linux.on_the_host("work", &folder("linux-smp"));
    let sum = host.lines().find_map(|line| line.strip_prefix("sha256 ")).expect("the work sums it");
    shows(&ran.out, &format!("on cpu 0: {sum}\non cpu 1: {sum}"));
    ends(&ran.out, WELL);
}

#[test]
fn a_kernel_without_its_initramfs_ends_in_one_line() {
    let Some(linux) = linux() else { return };
    let words = ["run", "--kernel", word(&linux.kernel()), "--append", guest::APPEND].map(str::to_owned);
    // It panics, and `panic=-1` resets the machine at once.
    let ran = finish(command().args(&words)).expect(0);
    assert!(ran.out.contains("Kernel panic - not syncing: VFS: Unable to mount root fs"), "{}", ran.out);
    ends(&ran.out, "the guest reset the machine by the keyboard controller");
    // A memory that is smaller than the initramfs.
    let ran = with_guest("run", &boot(linux, guest::APPEND), &["--mem", "2M"]).expect(2);
    ran.one_line(&["memory"]);
}
