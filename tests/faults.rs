//! Faults of the host while nvmx works: signals, limits, clocks that jump, terminals and readers that go away, disks that are
//! slow, and two recordings of one file. What a user sees of each is held here; docs/faults.md is the table of it.
//! Full and read-only disks are in `outputs.rs` and `disks.rs`, kills at random moments in `killed.rs`.

mod common;
#[path = "common/tmux.rs"]
mod tmux;

use common::{Ran, command, finish, folder, kernel, nvmx, record, send, word};
use std::fs::{self, Permissions};
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How long anything may take here: machines are slow now and then.
const PATIENCE: Duration = Duration::from_secs(60);
const SEEDS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/recorder/tests/data/iris-20-exits.txt");

/// Not by a macro, whose output is kept from the terminal while the test passes.
fn skipped(why: &str) {
    let _ = writeln!(std::io::stderr(), "SKIPPED: {why}");
}

/// Waits until it is so.
#[track_caller]
fn until(what: &str, mut such: impl FnMut() -> bool) {
    let began = Instant::now();
    while !such() {
        assert!(began.elapsed() < PATIENCE, "{what} does not come");
        sleep(Duration::from_millis(5));
    }
}

/// A guest that never ends by itself: it jumps to itself, or writes to a port for ever, which makes an exit each time.
fn endless(folder: &Path, busy: bool) -> PathBuf {
    let image = folder.join("image");
    let code: &[u8] = if busy { &[0xe6, 0x80, 0xeb, 0xfc] } else { &[0xeb, 0xfe] };
    fs::write(&image, kernel(code)).unwrap();
    image
}

fn record_words<'a>(image: &'a Path, trace: &'a Path) -> Vec<&'a str> {
    vec!["record", "--kernel", word(image), "--mem", "16M", "-o", word(trace)]
}

/// What runs, and is killed if the test does not come to its end.
struct Running(Option<Child>);

impl Running {
    /// Starts a command, whose output is kept.
    fn start(command: &mut Command) -> Self {
        Self(Some(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()))
    }

    fn child(&mut self) -> &mut Child {
        self.0.as_mut().unwrap()
    }

    fn id(&self) -> u32 {
        self.0.as_ref().unwrap().id()
    }

    fn signal(&self, name: &str) {
        send(name, self.id());
    }

    /// Waits for its end.
    fn end(mut self) -> Ran {
        let output = self.0.take().unwrap().wait_with_output().unwrap();
        Ran {
            status: output.status.code().unwrap_or(-1),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            let _ = child.kill().and_then(|()| child.wait());
        }
    }
}

/// Starts a recording, and waits until its file has something in it.
fn start(image: &Path, trace: &Path) -> Running {
    let running = Running::start(command().args(record_words(image, trace)));
    until("the header", || fs::metadata(trace).is_ok_and(|about| about.len() > 0));
    running
}

/// A trace is whole and replays to its end.
#[track_caller]
fn whole(trace: &Path) {
    assert!(nvmx(&["verify", word(trace)]).expect(0).out.starts_with("whole"));
    assert!(nvmx(&["replay", word(trace)]).expect(0).out.starts_with("identical: "));
}

fn names(folder: &Path) -> Vec<String> {
    let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned());
    let mut names: Vec<_> = names.collect();
    names.sort();
    names
}

#[test]
fn signals_end_a_recording_in_order() {
    let folder = folder("signals");
    let (image, trace) = (endless(&folder, false), folder.join("t.nvmx"));
    for name in ["INT", "TERM", "HUP"] {
        let _ = fs::remove_file(&trace);
        let child = start(&image, &trace);
        child.signal(name);
        child.end().expect(0).one_line(&["recorded", "t.nvmx"]);
        whole(&trace);
        let mut run = command();
        let child = Running::start(run.args(["run", "--kernel", word(&image), "--mem", "16M"]));
        until("its handlers", || {
            let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
            let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap().trim();
            // SIGHUP, SIGINT and SIGTERM.
            u64::from_str_radix(caught, 16).unwrap() & 0x4003 == 0x4003
        });
        child.signal(name);
        assert_eq!(child.end().expect(0).out, "nvmx: the run was ended from outside\n", "{name}");
    }
}

#[test]
fn two_recordings_of_one_file() {
    let folder = folder("two-recordings");
    let (image, trace) = (endless(&folder, false), folder.join("t.nvmx"));
    let demo = record(&folder, "demo.nvmx", "demo", "");
    let first = start(&image, &trace);
    let says = "recording is being written to it";
    nvmx(&["record", "demo", "-o", word(&trace)]).expect(2).one_line(&["t.nvmx", says, "name another file by -o"]);
    nvmx(&["import", SEEDS, "--from", "iris", "-o", word(&trace)]).expect(2).one_line(&["t.nvmx", says]);
    nvmx(&["verify", word(&demo), "--salvage", word(&trace)]).expect(2).one_line(&["t.nvmx", says]);
    nvmx(&["report", word(&demo), "-o", word(&trace)]).expect(3).one_line(&["t.nvmx", says]);
    nvmx(&["export", word(&demo), "--to", "perfetto", "-o", word(&trace)]).expect(2).one_line(&["t.nvmx", says]);
    // To read it is no harm.
    nvmx(&["info", word(&trace)]).expect(0);
    first.signal("INT");
    first.end().expect(0);
    whole(&trace);
    nvmx(&["record", "demo", "-q", "-o", word(&trace)]).expect(0);
    assert_eq!(fs::read(&trace).unwrap(), fs::read(&demo).unwrap());
}

#[test]
fn two_at_once_make_checkpoints_of_one_trace() {
    let folder = folder("two-checkpoints");
    let trace = record(&folder, "t.nvmx", "demo", "");
    let replay = || Running::start(command().args(["replay", "--checkpoints", word(&trace)]));
    let both = [replay(), replay()];
    for one in both {
        one.end().expect(0).one_line(&["checkpoints in"]);
    }
    assert_eq!(names(&folder), ["t.nvmx", "t.nvmx.seek"]);
    nvmx(&["replay", "--to", "100", word(&trace)]).expect(0);
}

#[test]
fn what_is_killed_leaves_nothing_half_written() {
    let folder = folder("half-written");
    let (pipe, out) = (folder.join("pipe"), folder.join("out.nvmx"));
    assert!(Command::new("mkfifo").arg(&pipe).status().is_ok_and(|made| made.success()));
    let text = fs::read_to_string(SEEDS).unwrap();
    for (name, before) in [("KILL", None), ("TERM", Some("what was there")), ("KILL", Some("what was there"))] {
        if let Some(before) = before {
            fs::write(&out, before).unwrap();
        }
        let child = Running::start(command().args(["import", word(&pipe), "--from", "iris", "-o", word(&out)]));
        // It waits for the other half.
        let mut from = fs::File::options().write(true).open(&pipe).unwrap();
        from.write_all(&text.as_bytes()[..text.len() / 2]).unwrap();
        let has_begun = || {
            let files = fs::read_dir(format!("/proc/{}/fd", child.id())).unwrap();
            let files = files.filter_map(|file| fs::read_link(file.unwrap().path()).ok());
            files.filter(|file| file.starts_with(&folder)).count() > 1
        };
        until("the output", has_begun);
        child.signal(name);
        let ran = child.end();
        assert_eq!((ran.status, ran.err.as_str()), (-1, ""), "{name} is its end");
        assert_eq!(fs::read_to_string(&out).ok().as_deref(), before);
        let left = names(&folder).into_iter().filter(|name| name.contains("unfinished")).count();
        assert!(left == 0 || name == "KILL" && !has_nameless_files(&folder), "{:?}", names(&folder));
    }
}

/// Whether files without a name can be had there: a file system of another kind leaves what is killed under another name.
fn has_nameless_files(folder: &Path) -> bool {
    use rustix::fs::{Mode, OFlags, open};
    open(folder, OFlags::TMPFILE | OFlags::RDWR, Mode::RUSR).is_ok()
}

/// A limit of so many KiB on the address space.
fn with_memory(kib: u64, words: &[&str]) -> Ran {
    let binary = command().get_program().to_owned();
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("ulimit -v {kib}; exec \"$0\" \"$@\"")]).arg(binary).args(words).stdin(Stdio::null());
    finish(&mut shell)
}

#[test]
fn memory_that_cannot_be_had() {
    let folder = folder("memory");
    let (trace, l0) = (record(&folder, "t.nvmx", "demo", ""), record(&folder, "l0.nvmx", "demo", "--log l0"));
    let (out, page) = (folder.join("out.nvmx"), folder.join("page.html"));
    let commands: &[&[&str]] = &[
        &["run", "demo"],
        &["record", "demo", "-q", "--checkpoints", "-o", word(&out)],
        &["replay", "-q", word(&trace)],
        &["replay", "-q", "--runs", "3", word(&trace)],
        &["replay", "-q", "--l0", word(&l0)],
        &["info", word(&trace)],
        &["verify", word(&trace)],
        &["whatif", "-q", word(&trace), "--policy", "kvm-2018"],
        &["report", "-q", word(&trace), "--format", "html", "-o", word(&page)],
        &["query", "-q", word(&trace), "SELECT COUNT(*) AS n FROM exits"],
        &["export", "-q", word(&trace), "--to", "perfetto", "-o", word(&out)],
    ];
    // What the loader of programs takes is none of ours.
    let least = (1..).map(|many| many * 8192).find(|kib| with_memory(*kib, &["--version"]).status == 0).unwrap();
    let (mut ended, mut without) = ([0; 4], 0);
    for words in commands {
        let enough = with_memory(64 << 20, words);
        assert_eq!(enough.status, 0, "{words:?}: {}", enough.err);
        let mut done = 0;
        // By steps that are no power of two, up to where it has been enough for a while.
        for kib in (0..).map(|step| least + step * 9_876) {
            let _ = fs::remove_file(&page);
            let ran = with_memory(kib, words);
            let Ok(status) = usize::try_from(ran.status) else {
                // C's library ends a program itself, in one line, where a thread's own little cannot be had.
                let says = ran.err.trim_end();
                let of_glibc = says.starts_with("Fatal glibc error: ") && says.ends_with("out of memory");
                assert!(of_glibc && !says.contains('\n'), "{words:?} with {kib} KiB: a signal: {says}");
                done = 0;
                continue;
            };
            ended[status] += 1;
            if status == 0 {
                done += 1;
                if done == 3 {
                    break;
                }
                continue;
            }
            done = 0;
            without += 1;
            assert!(status == 2 || status == 3, "{words:?} with {kib} KiB: {}", ran.err);
            ran.one_line(&["nvmx: cannot "]);
            assert!(["memory", "threads"].iter().any(|why| ran.err.contains(why)), "{words:?}: {}", ran.err);
            assert!(!page.exists(), "no part of a report is left");
            assert!(kib < 8 << 20, "{words:?} is never content");
        }
    }
    assert!(without > commands.len(), "there was too little for each of them: {ended:?}");
    let says = ["demo", "cannot give the machine", "bytes of memory", "use less with --mem"];
    with_memory(least + 100_000, &["run", "demo", "--mem", "4G"]).expect(2).one_line(&says);
    let says = ["t.nvmx", "cannot give the machine", "ulimit -v"];
    with_memory(least + 100_000, &["replay", word(&trace)]).expect(2).one_line(&says);
}

/// A folder among the system's temporary ones, gone with this.
struct Elsewhere(PathBuf);

impl Elsewhere {
    fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("{name}-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        fs::set_permissions(&folder, Permissions::from_mode(0o755)).unwrap();
        Self(folder)
    }
}

impl Drop for Elsewhere {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn threads_that_cannot_be_had() {
    // Root has no such limit: nobody has, who may not read every target folder.
    let folder = Elsewhere::new("nvmx-threads");
    let trace = record(&folder.0, "t.nvmx", "demo", "");
    let binary = folder.0.join("nvmx");
    fs::copy(command().get_program(), &binary).unwrap();
    let limited = |limit: &str, words: &[&str]| {
        let mut other = Command::new("setpriv");
        other.args(["--reuid=65534", "--clear-groups", "prlimit", limit]);
        other.arg(&binary).args(words).stdin(Stdio::null()).output()
    };
    let there = limited("--nproc=1000", &["info", word(&trace)]).is_ok_and(|ran| ran.status.success());
    if !there {
        return skipped(
            "what nobody can do cannot be tried here: it needs root, setpriv, prlimit and a temporary folder that all may read",
        );
    }
    let check = |words: &[&str], says: &[&str]| {
        let output = limited("--nproc=1", words).unwrap();
        let err = String::from_utf8_lossy(&output.stderr).into_owned();
        let ran = Ran { status: output.status.code().unwrap_or(-1), out: String::new(), err };
        if says.is_empty() {
            ran.expect(0);
        } else {
            ran.expect(3).one_line(says);
        }
    };
    let threads = ["no more threads", "ulimit -u"];
    check(&["record", "demo", "-o", "/dev/null"], &["cannot listen", "ulimit -u"]);
    check(&["run", "demo"], &["cannot listen", "ulimit -u"]);
    check(&["record", "demo", "--input", "/dev/null", "-o", "/dev/null"], &threads);
    // What is only faster by threads does without.
    check(&["replay", word(&trace)], &[]);
    check(&["replay", "--runs", "3", word(&trace)], &[]);
    check(&["report", word(&trace)], &[]);
    check(&["query", word(&trace), "SELECT COUNT(*) AS n FROM exits"], &threads);
}

/// KiB that a process has in memory.
fn resident(process: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Ticks of CPU time that it has had.
fn ticks(process: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    let fields: Vec<_> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

#[test]
fn a_disk_that_is_slow_makes_the_machine_wait_and_loses_nothing() {
    let folder = folder("slow-disk");
    let (image, direct, pipe) = (endless(&folder, true), folder.join("direct.nvmx"), folder.join("pipe"));
    let limit = ["-q", "--max-instructions", "800000"];
    nvmx(&[&record_words(&image, &direct)[..], &limit].concat()).expect(0);
    assert!(Command::new("mkfifo").arg(&pipe).status().is_ok_and(|made| made.success()));
    let child = Running::start(command().args(record_words(&image, &pipe)).args(limit));
    let mut disk = fs::File::open(&pipe).unwrap();
    let (mut got, mut first) = (Vec::new(), [0; 4096]);
    let read = disk.read(&mut first).unwrap();
    got.extend_from_slice(&first[..read]);
    // The disk takes nothing more: before long the machine stands still, with what waits in a few batches.
    let (mut before, mut still) = (0, 0);
    until("a standstill", || {
        sleep(Duration::from_millis(50));
        let now = ticks(child.id());
        (before, still) = if now == before { (now, still + 1) } else { (now, 0) };
        still == 10
    });
    let waits = resident(child.id());
    assert!(waits < 160 << 10, "{waits} KiB are in memory while the disk does nothing");
    sleep(Duration::from_millis(500));
    assert_eq!(resident(child.id()), waits);
    // It takes a little at a time.
    loop {
        let read = disk.read(&mut first).unwrap();
        if read == 0 {
            break;
        }
        got.extend_from_slice(&first[..read]);
        if got.len().is_multiple_of(64 << 10) {
            sleep(Duration::from_millis(1));
        }
    }
    child.end().expect(0);
    let whole = fs::read(&direct).unwrap();
    assert!(whole.len() > 100_000, "{} bytes are little to wait for", whole.len());
    assert!(got == whole, "the same bytes as on a disk that is fast");
}

/// The library by which programs see other clocks, if it is there: Debian's package `faketime`, or `NVMX_FAKETIME`.
fn faketime() -> Option<PathBuf> {
    let named = std::env::var_os("NVMX_FAKETIME").map(PathBuf::from);
    let library = named.unwrap_or_else(|| "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1".into());
    library.exists().then_some(library)
}

#[test]
fn clocks_that_jump() {
    let Some(library) = faketime() else {
        return skipped("there is no libfaketime (Debian's package faketime, or NVMX_FAKETIME=FILE)");
    };
    let folder = folder("clocks");
    let image = endless(&folder, true);
    let limit = ["--max-instructions", "600000"];
    let plain = folder.join("plain.nvmx");
    nvmx(&[&record_words(&image, &plain)[..], &limit].concat()).expect(0);
    let want = fs::read(&plain).unwrap();
    let times = folder.join("times");
    for monotonic in ["1", "0"] {
        let jumped = folder.join(format!("jumped-{monotonic}.nvmx"));
        let under = |words: &[&str]| {
            let mut under = command();
            under.args(words).env("LD_PRELOAD", &library).env("FAKETIME_TIMESTAMP_FILE", &times);
            under.env("FAKETIME_NO_CACHE", "1").env("FAKETIME_DONT_FAKE_MONOTONIC", monotonic);
            Running::start(&mut under)
        };
        // Forwards and backwards by years while it runs, of the date alone and of all clocks.
        let jump = |mut child: Running| {
            let mut turn = 0;
            while child.child().try_wait().unwrap().is_none() {
                let to = ["+0", "+40y", "-20y", "+1h", "-1h"][turn % 5];
                let next = folder.join("next");
                fs::write(&next, format!("{to}\n")).unwrap();
                fs::rename(&next, &times).unwrap();
                turn += 1;
                sleep(Duration::from_millis(20));
            }
            child.end()
        };
        fs::write(&times, "+0\n").unwrap();
        jump(under(&[&record_words(&image, &jumped)[..], &limit].concat())).expect(0).one_line(&["recorded"]);
        assert!(fs::read(&jumped).unwrap() == want, "nothing of a clock is in a trace");
        let replay = jump(under(&["replay", "-v", word(&jumped)])).expect(0);
        assert!(replay.out.starts_with("identical: ") && !replay.err.contains('-'), "{}", replay.err);
        let page = folder.join("page.html");
        jump(under(&["report", word(&jumped), "--format", "html", "-o", word(&page)])).expect(0);
        jump(under(&["query", word(&jumped), "SELECT COUNT(*) AS n FROM exits"])).expect(0);
    }
}

#[test]
fn a_terminal_that_goes_away() {
    if !tmux::is_there() {
        return;
    }
    let folder = folder("hangup");
    let (image, trace, demo) =
        (endless(&folder, false), folder.join("t.nvmx"), record(&folder, "demo.nvmx", "demo", ""));
    let check = |words: &str, shows: &str| {
        let terminal = tmux::Terminal::new((100, 30), &folder);
        terminal.start("", words);
        if shows.is_empty() {
            until("the header", || fs::metadata(&trace).is_ok_and(|about| about.len() > 0));
            sleep(Duration::from_millis(200));
        } else {
            terminal.wait(shows);
        }
        let process = terminal.child();
        drop(terminal);
        until("its end", || !Path::new(&format!("/proc/{process}")).exists());
    };
    let recording = record_words(&image, &trace).join(" ");
    check(&recording, "");
    whole(&trace);
    fs::remove_file(&trace).unwrap();
    // Who does not hear the signal has no terminal all the same.
    let terminal = tmux::Terminal::new((100, 30), &folder);
    terminal.text("trap '' HUP");
    terminal.key("Enter");
    terminal.start("nohup", &recording);
    until("the header", || fs::metadata(&trace).is_ok_and(|about| about.len() > 0));
    let process = terminal.child();
    drop(terminal);
    sleep(Duration::from_millis(500));
    let before = Path::new(&format!("/proc/{process}")).exists();
    // It goes on, as nohup is for, until it is told to end.
    if before {
        send("TERM", process);
    }
    until("its end", || !Path::new(&format!("/proc/{process}")).exists());
    whole(&trace);
    check(&format!("tui {}", word(&demo)), "demo.nvmx");
}

#[test]
fn readers_that_go_away() {
    let folder = folder("readers");
    let trace = record(&folder, "t.nvmx", "demo", "");
    let commands: &[&[&str]] = &[
        &["dump", word(&trace)],
        &["dump", "--json", word(&trace)],
        &["query", word(&trace), "SELECT * FROM vmcs", "--format", "csv"],
        &["query", word(&trace), "SELECT * FROM vmcs", "--format", "json"],
        &["report", word(&trace), "--format", "html"],
        &["info", word(&trace)],
        &["diff", word(&trace), word(&trace)],
        &["replay", word(&trace)],
        &["man"],
        &["completions", "bash"],
        &["--help"],
    ];
    for words in commands {
        let mut child = Running::start(command().args(*words));
        drop(child.child().stdout.take());
        let ran = child.end();
        assert_eq!((ran.status, ran.err.as_str()), (0, ""), "{words:?}");
        // Neither can be told of: there is no panic.
        let mut child = Running::start(command().args(*words));
        drop((child.child().stdout.take(), child.child().stderr.take()));
        assert_eq!(child.end().status, 0, "{words:?}");
    }
    for words in commands.iter().filter(|words| words[0] != "diff") {
        let full = fs::File::options().write(true).open("/dev/full").unwrap();
        let ran = finish(command().args(*words).stdout(full).stderr(Stdio::piped()));
        ran.expect(3).one_line(&["cannot write the output", "No space left on device"]);
    }
}
