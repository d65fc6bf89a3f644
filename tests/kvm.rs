//! Stock KVM as L1: the distribution's kernel with its own kvm_intel, whose guests are a payload of known exits, and the
//! same Linux again, which may be a hypervisor too.
//!
//! The judge is KVM itself: what it counted, exit by exit, is what the trace must hold, exactly.

mod common;
#[path = "common/guest.rs"]
mod guest;

use common::{Ran, folder, nvmx, word};
use hv_defs::exit::Reason;
use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Instant;

/// How a guest leaves whose test ended with 0, of which isa-debug-exit makes 1.
const WELL: &str = "nvmx: the guest left through isa-debug-exit with status 1";

/// Exits by the number of their reason.
type Exits = BTreeMap<u16, u64>;

/// The kernel and the initramfs of an L1.
struct L1 {
    kernel: PathBuf,
    initrd: PathBuf,
}

/// The guest, or nothing, loudly.
fn l1() -> Option<&'static L1> {
    static L1: OnceLock<Result<L1, String>> = OnceLock::new();
    guest::or_skip(L1.get_or_init(|| {
        let linux = guest::linux()?;
        Ok(L1 { kernel: linux.kernel(), initrd: guest::kvm(&linux)? })
    }))
}

/// Records L1 with this command line, and `options` for `nvmx`. The guest has to leave well.
fn record(l1: &L1, trace: &Path, append: &str, options: &str) -> Ran {
    let mut words = vec!["record", "--kernel", word(&l1.kernel), "--initrd", word(&l1.initrd), "--append", &append];
    words.extend(["-o", word(trace)]);
    words.extend(options.split_whitespace());
    let start = Instant::now();
    let ran = nvmx(&words).expect(0);
    assert_eq!(ran.out.lines().last(), Some(WELL), "{}", ran.out);
    let info = nvmx(&["info", "--json", word(trace)]).expect(0).json();
    // Not by a macro, whose output is kept from the terminal while the test passes.
    let _ = writeln!(
        std::io::stderr(),
        "{}: {} instructions, {} events, recorded in {:.1} s",
        trace.file_stem().unwrap_or_default().display(),
        info["instructions"],
        info["events"],
        start.elapsed().as_secs_f64()
    );
    ran
}

/// Asserts that a replay meets every event again.
#[track_caller]
fn replays(trace: &Path) {
    let replayed = nvmx(&["replay", "--json", word(trace)]).expect(0).json();
    let info = nvmx(&["info", "--json", word(trace)]).expect(0).json();
    assert_eq!((&replayed["identical"], &replayed["events"]), (&true.into(), &info["events"]));
}

/// The rows of numbers that answer a question.
fn rows(trace: &Path, sql: &str) -> Vec<Vec<u64>> {
    let answer = nvmx(&["query", word(trace), sql, "--format", "csv"]).expect(0).out;
    let number = |cell: &str| cell.parse().unwrap_or_else(|_| panic!("{cell} in the answer to {sql}"));
    answer.lines().skip(1).map(|line| line.split(',').map(number).collect()).collect()
}

/// How often each reason comes in the column of that name, among the rows of `from` between two events.
fn exits(trace: &Path, reason: &str, from: &str, events: (u64, u64)) -> Exits {
    let sql = format!(
        "SELECT {reason}, COUNT(*) AS n FROM {from} AND event > {} AND event < {} GROUP BY {reason}",
        events.0, events.1
    );
    rows(trace, &sql).iter().map(|row| (row[0] as u16, row[1])).collect()
}

/// What the guest's KVM says that it counted, and the monitor.
#[derive(Debug)]
struct Counted {
    /// The histogram of the tracepoint kvm_exit.
    exits: Exits,
    /// Counters by name, of all vCPUs together; the monitor's as `user hlt` and so on.
    counters: BTreeMap<String, u64>,
}

impl Counted {
    fn new(console: &str) -> Self {
        let mut counted = Self { exits: Exits::new(), counters: BTreeMap::new() };
        for line in console.lines() {
            let words: Vec<_> = line.split_whitespace().collect();
            let words = if words.first().is_some_and(|word| word.starts_with("vm")) { &words[1..] } else { &words[..] };
            match words {
                ["exits", reason, count] => {
                    counted.exits.insert(reason.parse().unwrap(), count.parse().unwrap());
                }
                [vcpu, "user", pairs @ ..] if vcpu.starts_with("vcpu") => {
                    for pair in pairs.chunks(2) {
                        *counted.counters.entry(format!("user {}", pair[0])).or_default() +=
                            pair[1].parse::<u64>().unwrap();
                    }
                }
                [vcpu, name, count] if vcpu.starts_with("vcpu") => {
                    *counted.counters.entry((*name).to_owned()).or_default() += count.parse::<u64>().unwrap();
                }
                _ => {}
            }
        }
        counted
    }

    fn counter(&self, name: &str) -> u64 {
        self.counters.get(name).copied().unwrap_or(0)
    }

    fn exits(&self, reason: Reason) -> u64 {
        self.exits.get(&reason.0).copied().unwrap_or(0)
    }
}

/// Asserts that KVM counted what the trace holds between two events: each exit that L0 handed to L1, by its reason.
#[track_caller]
fn agree(what: &str, trace: &Path, events: (u64, u64), counted: &Counted) {
    assert!(!counted.exits.is_empty(), "{what}: {counted:?}");
    assert_eq!(counted.counter("exits"), counted.exits.values().sum::<u64>(), "{what}: KVM with itself");
    // What L1 was told: KVM reads the exit reason once for each exit.
    let told = "vmcs WHERE actor = 'L1' AND which = 'vmcs12' AND op = 'read' AND field = 'exit_reason'";
    assert_eq!(
        exits(trace, "value", told, events),
        counted.exits,
        "{what}: the reasons that L1 read, and those that KVM counted"
    );
    // What silicon said. It has nothing yet where L1's tables are misconfigured, as KVM leaves them for devices.
    let said = "exits WHERE level >= 2 AND handled_by = 'L1'";
    let mut want = counted.exits.clone();
    if let Some(misconfigured) = want.remove(&Reason::EPT_MISCONFIG.0) {
        *want.entry(Reason::EPT_VIOLATION.0).or_default() += misconfigured;
    }
    assert_eq!(
        exits(trace, "reason_code", said, events),
        want,
        "{what}: the exits of L2 that are L1's, and those that KVM counted"
    );
}

/// Asserts that KVM's counters by reason are those of its histogram, where L2 is no hypervisor: an L3's exits are counted
/// in the histogram alone.
#[track_caller]
fn counters_agree(what: &str, counted: &Counted) {
    for (name, reason) in [
        ("io_exits", Reason::IO_INSTRUCTION),
        ("halt_exits", Reason::HLT),
        ("irq_exits", Reason::EXTERNAL_INTERRUPT),
        ("irq_window_exits", Reason::INTERRUPT_WINDOW),
        ("nmi_window_exits", Reason::NMI_WINDOW),
    ] {
        assert_eq!(counted.counter(name), counted.exits(reason), "{what}: {name}");
    }
}

/// KVM's parameters, each of which takes something away that it would use.
const SETS: &str = "-/ept=0/unrestricted_guest=0/vpid=0/enable_shadow_vmcs=0/flexpriority=0/pml=0/eptad=0/\
    preemption_timer=0/enable_apicv=0/ept=0,vpid=0/nested=1";

#[test]
fn kvm_counts_the_exits_that_the_trace_holds() {
    let Some(l1) = l1() else { return };
    let folder = folder("kvm-payload");
    let trace = folder.join("payload.nvmx");
    let append =
        format!("{} nvmx.run=kvm nvmx.kvm={SETS} nvmx.payload=cpuid=100,out=50,pages=40,mmio=20", guest::APPEND);
    let console = record(l1, &trace, &append, "").out;
    let mut from = 0;
    let marks = rows(&trace, "SELECT event, value FROM marks ORDER BY event");
    for (set, mark) in SETS.split('/').zip(&marks) {
        let start = console.find(&format!("set {} {set}", mark[1])).unwrap_or_else(|| panic!("{set}: {console}"));
        let end = console[start..].find("nvmx-mark").expect("a mark ends the set");
        let counted = Counted::new(&console[start..start + end]);
        agree(set, &trace, (from, mark[0]), &counted);
        counters_agree(set, &counted);
        // The payload is the same, however KVM has it run.
        assert_eq!(counted.exits(Reason::CPUID), 100, "{set}");
        for (name, count) in [("user hlt", 1), ("user io", 50), ("user mmio", 20), ("mmio_exits", 20)] {
            assert_eq!(counted.counter(name), count, "{set}: {name}");
        }
        let (faults, ept) = (counted.exits(Reason::EXCEPTION_NMI), counted.exits(Reason::EPT_VIOLATION));
        assert!(if set.contains("ept=0") { faults >= 40 && ept == 0 } else { faults == 0 && ept >= 40 }, "{set}");
        from = mark[0];
    }
    assert_eq!(marks.len(), SETS.split('/').count(), "{console}");
    replays(&trace);
}

/// L0 alone, over what silicon answered it under a Linux whose KVM runs a guest.
#[test]
fn l0_alone_decides_the_same_over_what_silicon_answered() {
    let Some(l1) = l1() else { return };
    let trace = folder("kvm-l0").join("l0.nvmx");
    let append = format!("{} nvmx.run=kvm nvmx.payload=cpuid=200,out=100,pages=40,mmio=20", guest::APPEND);
    record(l1, &trace, &append, "--log l0");
    let alone = |options: &str| {
        let mut words = vec!["replay", "--l0", "--json", word(&trace)];
        words.extend(options.split_whitespace());
        nvmx(&words)
    };
    let info = nvmx(&["info", "--json", word(&trace)]).expect(0).json();
    let same = alone("").expect(0).json();
    assert_eq!((&same["identical"], &same["events"]), (&true.into(), &info["events"]));
    assert!(same["entries"].as_u64().is_some_and(|entries| entries > 5_000), "{same}");
    let middle = info["events"].as_u64().unwrap_or_default() / 2;
    assert_eq!(alone(&format!("--to {middle}")).expect(0).json()["events"], middle + 1);
    // Each mistake is named where L0 first does something else, which is an event of the recording.
    for (slip, expected, got) in
        [("ept02-unsynced", "flush", "vmcs"), ("invvpid-wrong-vpid", "vmcs", "flush"), ("vpid-leaked", "flush", "vmcs")]
    {
        let found = alone(&format!("--fault {slip}")).expect(1).json();
        let divergence = &found["divergence"];
        assert_eq!((&divergence["event"], &divergence["field"]), (&found["events"], &"kind".into()), "{slip}: {found}");
        assert_eq!((&divergence["expected"], &divergence["got"]), (&expected.into(), &got.into()), "{slip}: {found}");
        let event = divergence["event"].to_string();
        let dumped = nvmx(&["dump", word(&trace), "--from", &event, "--count", "1"]).expect(0).out;
        assert_eq!(divergence["recorded"], dumped.trim_end(), "{slip}");
    }
    let held = nvmx(&["replay", "--l0", "--mutate", "1", "--runs", "10", word(&trace)]).expect(0).out;
    assert!(held.starts_with("L0 held in 10 runs"), "{held}");
}

/// Two virtual machines of two vCPUs each, each machine on its own of the two vCPUs of L1.
#[test]
fn two_vcpus_run_two_machines_of_two() {
    let Some(l1) = l1() else { return };
    let folder = folder("kvm-smp");
    for pcpus in [1, 2] {
        let trace = folder.join(format!("smp-on-{pcpus}.nvmx"));
        let append = format!(
            "{} nvmx.run=kvm nvmx.payload=cpuid=100,out=50,pages=40,mmio=20,vms=2,vcpus=2,threads=1",
            guest::SMP
        );
        let console = record(l1, &trace, &append, &format!("--cpus 2 --pcpus {pcpus}")).out;
        let counted = Counted::new(&console);
        let what = format!("on {pcpus}");
        agree(&what, &trace, (0, u64::MAX >> 1), &counted);
        counters_agree(&what, &counted);
        assert_eq!(counted.exits(Reason::CPUID), 400, "{what}");
        for (name, count) in [("user hlt", 4), ("user io", 200), ("user mmio", 80), ("mmio_exits", 80)] {
            assert_eq!(counted.counter(name), count, "{what}: {name}");
        }
        replays(&trace);
    }
}

/// L2 is the same Linux, with these parameters of L1's KVM.
#[track_caller]
fn linux_boots(name: &str, parameters: &str) -> Option<Counted> {
    let l1 = l1()?;
    let trace = folder(name).join(format!("{name}.nvmx"));
    let append = format!("{} nvmx.run=kvm-linux nvmx.kvm={parameters} nvmx.l2=hello", guest::APPEND);
    let console = record(l1, &trace, &append, "").out;
    assert!(console.contains("hello from Linux x86_64: "), "{console}");
    assert!(console.contains("vmm: the guest ended with 0"), "{console}");
    let counted = Counted::new(&console);
    agree(name, &trace, (0, u64::MAX >> 1), &counted);
    counters_agree(name, &counted);
    replays(&trace);
    Some(counted)
}

#[test]
fn linux_boots_under_kvm_and_replays() {
    let Some(counted) = linux_boots("kvm-linux", "") else { return };
    assert!(counted.exits(Reason::EPT_VIOLATION) > 10_000, "{counted:?}");
}

/// L1 shadows L2's page tables itself: page faults, INVLPG and loads of CR3 are its to see, and it injects page faults
/// whose handlers it has not mapped yet.
#[test]
fn linux_boots_under_kvm_without_ept_and_replays() {
    let Some(counted) = linux_boots("kvm-linux-without-ept", "ept=0") else { return };
    for reason in [Reason::EXCEPTION_NMI, Reason::INVLPG, Reason::CR_ACCESS] {
        assert!(counted.exits(reason) > 100, "{reason}: {counted:?}");
    }
    assert_eq!(counted.exits(Reason::EPT_VIOLATION), 0, "{counted:?}");
}

/// The exits of L2 for its VMREADs and VMWRITEs that reach L1: L2 is a Linux whose KVM runs the payload as L3.
#[test]
fn shadowing_keeps_an_l2_hypervisors_accesses_from_l1() {
    let Some(l1) = l1() else { return };
    let folder = folder("kvm-shadowing");
    let mut table = Vec::new();
    for shadowing in ["off", "emulated", "virtualized"] {
        let trace = folder.join(format!("{shadowing}.nvmx"));
        let append = format!(
            "{} nvmx.run=kvm-linux nvmx.kvm=nested=1 nvmx.l2=kvm \
             nvmx.append=nvmx.payload=cpuid=100,out=50,pages=20,mmio=10",
            guest::APPEND
        );
        let options = format!("--mem 384M --log exits --shadowing {shadowing}");
        let console = record(l1, &trace, &append, &options).out;
        assert!(console.contains("user hlt 1 io 50 mmio 10"), "{console}");
        // The L3 is the payload: its instructions that exit are as many as its words say, and L2 has all of them from L1.
        let third = exits(&trace, "reason_code", "exits WHERE level = 3 AND handled_by = 'L1'", (0, u64::MAX >> 1));
        let of = |reason: Reason| third.get(&reason.0).copied().unwrap_or_default();
        assert_eq!((of(Reason::CPUID), of(Reason::IO_INSTRUCTION), of(Reason::HLT)), (100, 50, 1), "{third:?}");
        // KVM has one VMCS for it, and another for L2: nothing else was taken for an L3, or an L3 for an L2.
        let vmcs12s = |level: u8| {
            let sql = format!("SELECT vmcs12, COUNT(*) AS n FROM exits WHERE level = {level} GROUP BY vmcs12");
            rows(&trace, &sql).into_iter().map(|row| row[0]).collect::<Vec<_>>()
        };
        let (second, deeper) = (vmcs12s(2), vmcs12s(3));
        assert!(second.len() == 1 && deeper.len() == 1 && second != deeper, "{second:x?} {deeper:x?}");
        let count = |handler: &str| {
            let sql = format!(
                "SELECT COUNT(*) AS n FROM exits WHERE level = 2 AND handled_by = '{handler}'
                 AND (reason = 'VMREAD' OR reason = 'VMWRITE')"
            );
            rows(&trace, &sql)[0][0]
        };
        table.push((shadowing, count("L1"), count("L0")));
    }
    let [(_, off, none), (_, emulated, served), (_, virtualized, left)] = table[..] else { panic!("three") };
    let _ = writeln!(std::io::stderr(), "VMREADs and VMWRITEs of L2 that reach L1, and that L0 serves: {table:?}");
    assert_eq!(none, 0, "{table:?}");
    // Most of what L2 does for an exit of L3 is on L1's list of fields to shadow.
    assert!(emulated < off / 4 && served > off / 2, "{table:?}");
    // When interrupts come differs from one to the other, and with it L3's exits by a few.
    assert!(virtualized < off / 4 && left < served / 10, "{table:?}");
}
