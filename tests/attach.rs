//! `nvmx attach` on this host's KVM, beside `perf stat` on the same run.

#![cfg(feature = "live")]

mod common;

use common::{Ran, command, folder, nvmx, send, word};
use hv::cpu::Segment;
use hv_defs::x86::AccessRights;
use hv_kvm::{Exit, State, Vm};
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// One at a time: they look at all guests of this process.
static ALONE: Mutex<()> = Mutex::new(());

/// Whether this host can be attached to; says so where it cannot.
fn host() -> Option<MutexGuard<'static, ()>> {
    let why = match Vm::new(4096, |_| {}) {
        Err(error) => error.to_string(),
        Ok(_) if !Path::new("/sys/kernel/tracing/events/kvm/kvm_exit").exists() => "no tracepoints of KVM here".into(),
        Ok(_) => return Some(ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner())),
    };
    // Not by a macro, whose output is kept from the terminal while the test passes.
    let _ = writeln!(std::io::stderr(), "SKIPPED: {why}");
    None
}

/// Runs a guest that writes so many times to a port and asks so often for CPUID, on a thread of its own.
fn run_guest(outs: u32, cpuids: u32) {
    let guest = std::thread::Builder::new().name("vcpu0".into()).spawn(move || {
        let mut vm = Vm::new(1 << 16, |_| {}).expect("a virtual machine");
        // mov ecx, OUTS; 1: out 0x80, al; dec ecx; jnz 1b; mov esi, CPUIDS; 2: xor ax, ax; cpuid; dec esi; jnz 2b; hlt
        let mut code = vec![0x66, 0xb9];
        code.extend(outs.to_le_bytes());
        code.extend([0xe6, 0x80, 0x66, 0x49, 0x75, 0xfa, 0x66, 0xbe]);
        code.extend(cpuids.to_le_bytes());
        code.extend([0x31, 0xc0, 0x0f, 0xa2, 0x66, 0x4e, 0x75, 0xf8, 0xf4]);
        vm.memory()[0x1000..0x1000 + code.len()].copy_from_slice(&code);
        let segment = |rights| Segment { limit: 0xffff, rights: AccessRights::from(rights), ..Segment::default() };
        let mut state = State { rip: 0x1000, rflags: 2, cr0: 0x10, seg: [segment(0x93); 6], ..State::default() };
        state.seg[1] = segment(0x9b);
        (state.ldtr, state.tr) = (segment(0x82), segment(0x8b));
        (state.dr6, state.dr7) = (0xffff_0ff0, 0x400);
        vm.set(&state).expect("a state");
        loop {
            match vm.run() {
                Exit::Out(..) => {}
                Exit::Halted => break,
                other => panic!("the guest ended by {other:?}"),
            }
        }
    });
    guest.expect("a thread").join().expect("the guest ran");
}

/// A program that runs beside, until it is interrupted.
struct Beside {
    child: Child,
    err: BufReader<std::process::ChildStderr>,
    said: String,
}

impl Beside {
    fn start(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
        let err = BufReader::new(child.stderr.take().expect("piped"));
        Self { child, err, said: String::new() }
    }

    /// `nvmx attach` with these words, which records when this returns.
    fn attach(words: &[&str]) -> Self {
        let mut beside = Self::start(command().arg("attach").args(words));
        while !beside.said.contains("nvmx: recording ") {
            let read = beside.err.read_line(&mut beside.said).expect("its words");
            assert!(read > 0, "it ended: {}", beside.said);
        }
        beside
    }

    fn interrupt(&self) {
        send("INT", self.child.id());
    }

    fn end(mut self) -> Ran {
        let mut out = String::new();
        self.child.stdout.take().expect("piped").read_to_string(&mut out).expect("its output");
        self.err.read_to_string(&mut self.said).expect("its words");
        let status = self.child.wait().expect("it ends").code().unwrap_or(-1);
        Ran { status, out, err: self.said }
    }
}

/// What a recording saw of each tracepoint.
fn recorded(json: &Value) -> BTreeMap<String, u64> {
    let all = json["recorded"].as_object().expect("an object");
    all.iter().map(|(name, count)| (name.clone(), count.as_u64().expect("a count"))).collect()
}

fn own() -> String {
    std::process::id().to_string()
}

/// Counts by `perf stat` of this process, which is given so long to begin, while something is done; `None` where there is no
/// perf.
fn perf_stat(names: &[String], begins: Duration, what: impl FnOnce()) -> Option<BTreeMap<String, u64>> {
    if Command::new("perf").arg("--version").output().is_err() {
        what();
        let _ = writeln!(std::io::stderr(), "SKIPPED: perf is not installed");
        return None;
    }
    let events: Vec<_> = names.iter().map(|name| format!("kvm:{name}")).collect();
    let stat = Beside::start(Command::new("perf").args(["stat", "-x,", "-e", &events.join(","), "-p", &own()]));
    // It does not say when it has begun.
    std::thread::sleep(begins);
    what();
    stat.interrupt();
    let said = stat.end();
    let line = |line: &str| {
        let mut parts = line.split(',');
        let (count, _, name) = (parts.next()?, parts.next()?, parts.next()?);
        Some((name.strip_prefix("kvm:")?.to_owned(), count.parse().ok()?))
    };
    let counts: BTreeMap<_, _> = said.err.lines().filter_map(line).collect();
    assert_eq!(counts.len(), names.len(), "{}", said.err);
    Some(counts)
}

#[test]
fn counts_are_those_of_perf_stat() {
    let Some(_alone) = host() else { return };
    let folder = folder("attach_counts");
    let trace = folder.join("host.nvmx");
    let names = ["kvm_entry", "kvm_exit", "kvm_pio", "kvm_cpuid", "kvm_msr", "kvm_userspace_exit", "kvm_page_fault"];
    let names = names.map(str::to_owned);
    // On a busy host perf may begin late, and then it lacks some.
    for begins in [700, 3000, 15_000].map(Duration::from_millis) {
        let attach = Beside::attach(&["--pid", &own(), "--json", "-o", word(&trace)]);
        // The thread of the vCPU is made long after.
        let counted = perf_stat(&names, begins, || run_guest(5000, 700));
        attach.interrupt();
        let ran = attach.end().expect(0);
        let json: Value = ran.json();
        let recorded = recorded(&json);
        assert_eq!(json["lost"], 0);
        assert_eq!(json["wrong"], 0, "{}", ran.err);
        assert_eq!(recorded["kvm_pio"], 5000);
        assert!(recorded["kvm_cpuid"] >= 700);
        let Some(counted) = counted else { break };
        if counted["kvm_pio"] < 5000 && begins < Duration::from_secs(10) {
            continue;
        }
        for (name, count) in counted {
            assert_eq!(recorded[&name], count, "{name}");
        }
        break;
    }
    // The trace has an exit for each, and every command reads it.
    let info = nvmx(&["info", "--json", word(&trace)]).expect(0).json();
    assert_eq!(info["origin"]["source"], "perf-events");
    assert_eq!(info["clock"], "nanoseconds");
    let sql = "SELECT reason, COUNT(*) AS n FROM exits WHERE reason IN ('IO_INSTRUCTION', 'CPUID') GROUP BY reason ORDER BY n";
    let rows = nvmx(&["query", word(&trace), sql, "--format", "csv"]).expect(0).out;
    assert_eq!(rows, "reason,n\nCPUID,700\nIO_INSTRUCTION,5000\n");
    let report = nvmx(&["report", word(&trace)]).expect(0).out;
    assert!(report.contains("recorded  ") && report.contains("through perf events"), "{report}");
    nvmx(&["dump", word(&trace), "--count", "3"]).expect(0);
    nvmx(&["verify", word(&trace)]).expect(0);
    nvmx(&["check", word(&trace), "--max-exits-per-l2-exit", "5"]).expect(0);
    nvmx(&["replay", word(&trace)]).expect(2).one_line(&["recorded through perf events", "nothing says what machine"]);
}

#[test]
fn what_does_not_fit_is_counted() {
    let Some(_alone) = host() else { return };
    let folder = folder("attach_overrun");
    let trace = folder.join("host.nvmx");
    let attach = Beside::attach(&["--pid", &own(), "--json", "--buffer", "4K", "-e", "kvm_pio", "-o", word(&trace)]);
    run_guest(50_000, 1);
    attach.interrupt();
    let ran = attach.end().expect(0);
    let json = ran.json();
    let (recorded, lost) = (recorded(&json)["kvm_pio"], json["lost"].as_u64().expect("a count"));
    assert!(lost > 0, "50,000 records fitted in 4 KiB: {}", ran.err);
    assert_eq!(recorded + lost, 50_000);
    assert!(ran.err.contains("name a larger --buffer"), "{}", ran.err);
    let sql = "SELECT CAST(SUM(value) AS BIGINT) AS n FROM lost";
    let rows = nvmx(&["query", word(&trace), sql, "--format", "csv"]).expect(0).out;
    assert_eq!(rows, format!("n\n{lost}\n"));
}

#[test]
fn a_recording_ends_with_its_process_and_at_ctrl_c() {
    let Some(_alone) = host() else { return };
    let folder = folder("attach_ends");
    let trace = folder.join("ends.nvmx");
    let mut process = Command::new("sleep").arg("1").spawn().expect("sleep");
    let start = Instant::now();
    let ran = nvmx(&["attach", "-p", &process.id().to_string(), "-o", word(&trace)]).expect(0);
    // It is a zombie until it is waited for, and has ended all the same.
    assert!(ran.err.contains("has ended") && ran.err.contains("no tracepoint was hit"), "{}", ran.err);
    assert!(start.elapsed() >= Duration::from_millis(500));
    process.wait().expect("it ended");
    nvmx(&["verify", word(&trace)]).expect(0);
    // A second Ctrl-C while it ends changes nothing.
    let attach = Beside::attach(&["-o", word(&trace)]);
    attach.interrupt();
    attach.interrupt();
    let ran = attach.end().expect(0);
    assert!(ran.err.contains("nvmx: recorded "), "{}", ran.err);
    nvmx(&["verify", word(&trace)]).expect(0);
    let table = nvmx(&["attach", "--live", "--duration", "0.5", "--interval", "0.2", "-p", &own()]).expect(0).out;
    assert!(table.contains("exits by reason") && table.contains("no vCPU has run yet"), "{table}");
}

#[test]
fn what_cannot_be_attached_to() {
    let Some(_alone) = host() else { return };
    let folder = folder("attach_refused");
    let trace = folder.join("none.nvmx");
    let refused = |words: &[&str], says: &[&str]| {
        let mut line = vec!["attach", "-o", word(&trace)];
        line.extend(words);
        let ran = nvmx(&line).expect(2);
        ran.one_line(says);
        assert!(!trace.exists(), "{words:?} left a trace");
    };
    refused(&["--pid", "4194305"], &["cannot attach to process 4194305", "there is no process or thread"]);
    refused(&["-e", "kvm_nothing"], &["no tracepoint 'kvm_nothing'", "ls /sys/kernel/tracing/events/kvm"]);
    refused(&["--duration", "x"], &["a number of seconds"]);
    refused(&["--buffer", "2G"], &["from 4K to 1G"]);
    let ran = nvmx(&["attach", "-d", "0.1", "-o", "/nowhere/x.nvmx"]).expect(2);
    assert!(ran.err.contains("cannot create /nowhere/x.nvmx"), "{}", ran.err);
    // As somebody else, where that user may run the binary at all.
    let mut other = Command::new("setpriv");
    other.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(command().get_program());
    let may = other.arg("--version").output().is_ok_and(|ran| ran.status.success());
    if may {
        let mut other = Command::new("setpriv");
        other.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(command().get_program());
        let ran = Beside::start(other.args(["attach", "-d", "0.1", "-o", "/tmp/nvmx-attach-refused"])).end().expect(2);
        ran.one_line(&["cannot attach to this host", "as root"]);
    } else {
        let _ = writeln!(std::io::stderr(), "SKIPPED: another user may not run the binary");
    }
}
