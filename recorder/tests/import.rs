//! Foreign traces, imported and read back.

use hv_defs::config::{Clock, Source};
use hv_defs::event::{Event, Kind, What};
use recorder::import::{Imported, import};
use std::path::{Path, PathBuf};
use traces::Reader;

#[path = "common/hostile.rs"]
mod hostile;

/// The seeds of a guest's first 20 exits, as the IRIS project published them.
const SEEDS: &str = include_str!("data/iris-20-exits.txt");

/// Imports a text, and gives what was counted, the events, and the clock.
fn read(text: &str, source: Source) -> Result<(Imported, Vec<Event>, Clock), String> {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (from, to) = (dir.path().join("foreign"), dir.path().join("ours.nvmx"));
    std::fs::write(&from, text).expect("written");
    let imported = import(&from, source, &to).map_err(|error| {
        assert!(!to.exists(), "a trace is left after: {error}");
        error.to_string()
    })?;
    let reader = Reader::open(&to).expect("a trace");
    assert!(traces::check(&reader).expect("checked").damage.is_empty());
    let events = reader.events(0).collect::<Result<_, _>>().expect("sound");
    let origin = reader.header().origin.clone().expect("an origin");
    assert_eq!((origin.source.as_str(), origin.name.as_str()), (source.name(), "foreign"));
    Ok((imported, events, origin.clock))
}

/// An event in a line: its stamp and its fields that are something.
fn line(event: &Event) -> String {
    let at = &event.at;
    let mut line = format!("{} {}/{} {}", at.instruction, at.vcpu, at.pcpu, event.what.kind());
    for (field, value) in event.values() {
        let value = value.to_string();
        if !["-", "0x0", "0", "false"].contains(&value.as_str()) {
            line.push_str(&format!(" {}={value}", field.name));
        }
    }
    line
}

#[track_caller]
fn check(source: Source, text: &str, lines: &[&str]) {
    let (_, events, _) = read(text, source).expect("imported");
    assert_eq!(events.iter().map(line).collect::<Vec<_>>(), lines);
}

#[track_caller]
fn refuses(source: Source, text: &str, why: &str) {
    assert_eq!(read(text, source).expect_err("refused"), why);
}

#[test]
fn seeds_become_exits_registers_and_accesses() {
    let (imported, events, clock) = read(SEEDS, Source::Iris).expect("imported");
    assert_eq!(clock, Clock::Exits);
    let count = |kind| events.iter().filter(|event| event.what.kind() == kind).count();
    // Each exit has one opening record and 15 of registers; all others are accesses.
    let records = SEEDS.lines().count() / 3;
    assert_eq!([Kind::Exit, Kind::Registers, Kind::Vmcs].map(count), [20, 20, records - 20 * 16]);
    assert_eq!(imported.summary.events, events.len() as u64);
    let first: Vec<_> = events.iter().take(4).chain(events.iter().skip(11).take(4)).map(line).collect();
    let expected = [
        "1 0/0 exit level=1 reason=INTERRUPT_WINDOW reason_code=7 rip=0x7cd7 handled_by=L0",
        "1 0/0 registers rax=0x1 rcx=0x1 rdx=0x80 rsi=0x7c05",
        "1 0/0 vmcs actor=L0 which=vmcs01 op=read field=guest_rip old=0x7cd7 value=0x7cd7",
        "1 0/0 vmcs actor=L0 which=vmcs01 op=read field=guest_rsp old=0x1ffe value=0x1ffe",
        "1 0/0 vmcs actor=L0 which=vmcs01 op=read field=entry_interruption_info",
        "1 0/0 vmcs actor=L0 which=vmcs01 op=write field=entry_interruption_info value=0x80000008",
        "1 0/0 vmcs actor=L0 which=vmcs01 op=write field=tpr_threshold",
        "1 0/0 vmcs actor=L0 which=vmcs01 op=write field=guest_rip old=0x7cd7 value=0x7cd7",
    ];
    assert_eq!(first, expected);
}

#[test]
fn a_seed_says_what_the_exit_left_before_it_was_written() {
    let open = "ffffffff\nffffffff\n0\n";
    let rows = |rows: &[&str]| open.to_owned() + &rows.join("\n").replace(' ', "\n") + "\n";
    // RIP is written first, so that what is read later is not the exit's.
    let text = rows(&["681e 99 0", "681e 99 1", "4402 30 1", "2400 fee00000 1", "4402 1 1"]);
    check(
        Source::Iris,
        &text,
        &[
            "1 0/0 exit level=1 reason=EPT_VIOLATION reason_code=48 gpa=0xfee00000 handled_by=L0",
            "1 0/0 registers",
            "1 0/0 vmcs actor=L0 which=vmcs01 op=write field=guest_rip value=0x99",
            "1 0/0 vmcs actor=L0 which=vmcs01 op=read field=guest_rip old=0x99 value=0x99",
            "1 0/0 vmcs actor=L0 which=vmcs01 op=read field=exit_reason old=0x30 value=0x30",
            "1 0/0 vmcs actor=L0 which=vmcs01 op=read field=guest_physical_address old=0xfee00000 value=0xfee00000",
            "1 0/0 vmcs actor=L0 which=vmcs01 op=read field=exit_reason old=0x1 value=0x1",
        ],
    );
    // The exit takes the valid bit of what was injected.
    let text = rows(&["4016 80000008 0"]) + &rows(&["4016 80000008 0"]);
    let (_, events, _) = read(&text, Source::Iris).expect("imported");
    let old = |event: &Event| if let What::Vmcs(access) = &event.what { Some(access.old) } else { None };
    assert_eq!(events.iter().filter_map(old).collect::<Vec<_>>(), [0, 8]);
}

#[test]
fn wrong_seeds_are_refused_in_one_line() {
    refuses(Source::Iris, "", "there is no exit in it");
    refuses(Source::Iris, "hello\n", "line 1: 'hello' is no number in hexadecimal");
    refuses(
        Source::Iris,
        "681e\n1\n1\n",
        "line 3: the first record does not open an exit, as ffffffff, ffffffff, 0 does",
    );
    let cut = &SEEDS[..SEEDS.len() - 3];
    let lines = cut.lines().count();
    refuses(Source::Iris, cut, &format!("line {lines}: the file ends within a record of three lines"));
    let open = "ffffffff\nffffffff\n0\n";
    refuses(Source::Iris, &format!("{open}1\n2\n3\n"), "line 6: there is no kind of record 3");
    refuses(Source::Iris, &format!("{open}1\n2\n2\n"), "line 6: there is no register 1");
    refuses(Source::Iris, &format!("{open}100000000\n2\n1\n"), "line 6: there is no VMCS field 100000000");
    refuses(Source::Iris, &"f".repeat(100_000), "line 1: it is longer than 65536 bytes");
}

/// An L2 on KVM: its CPUID exit goes to L1, its interrupt is L0's; then an exit of L1.
const NESTED: &str = "\
cpus=2
 CPU 0/KVM-70 [001] 5.000001000: kvm_nested_vmenter: rip: 0x10 vmcs: 0x7000 nested_rip: 0x20 int_ctl: 0x0 event_inj: 0x0 nested_ept=y nested_eptp: 0x801e
 CPU 0/KVM-70 [001] 5.000002000: kvm_entry: vcpu 0, rip 0x20 intr_info 0x00000000 error_code 0x00000000
 CPU 0/KVM-70 [001] 5.000003000: kvm_exit: vcpu 0 reason CPUID rip 0x20 info1 0x0000000000000000 info2 0x0 intr_info 0x0 error_code 0x0
 qemu-9 [000] 5.000003500: kvm_fpu: load
 CPU 0/KVM-70 [001] 5.000004000: kvm_nested_vmexit: vcpu 0 reason CPUID rip 0x20 info1 0x0 info2 0x0 intr_info 0x0 error_code 0x0
 CPU 0/KVM-70 [001] 5.000005000: kvm_nested_vmexit_inject: reason: CPUID ext_inf1: 0x0 ext_inf2: 0x0 ext_int: 0x0 ext_int_err: 0x0
 CPU 0/KVM-70 [001] 5.000006000: kvm_entry: vcpu 0, rip 0x12
 CPU 0/KVM-70 [000] 5.000007000: kvm_exit: vcpu 0 reason EPT_VIOLATION rip 0x14 info1 0x181 info2 0x0 intr_info 0x0 error_code 0x0
 CPU 0/KVM-70 [000] 5.000008000: kvm_page_fault: vcpu 0 rip 0x14 address 0x00000000fee00000 error_code 0x181
 CPU 0/KVM-70 [000] 5.000009000: kvm_inj_virq: IRQ 0x20
 CPU 0/KVM-70 [000] 5.000010000: kvm_inj_exception: #PF (0x2)
CPU:1 [12 EVENTS DROPPED]
";

const NESTED_EVENTS: &[&str] = &[
    "1000 0/1 entry level=2 vmcs12=0x7000",
    "2000 0/1 exit level=2 reason=CPUID reason_code=10 rip=0x20 vmcs12=0x7000 handled_by=L1",
    "5000 0/1 entry level=1",
    "6000 0/0 exit level=1 reason=EPT_VIOLATION reason_code=48 qualification=0x181 rip=0x14 gpa=0xfee00000 handled_by=L0",
    "8000 0/0 injection level=1 info=0x80000020 vector=32 type=external-interrupt",
    "9000 0/0 injection level=1 info=0x80000b0e vector=14 type=hardware-exception error_code=0x2",
    "9000 0/1 lost value=12",
];

#[test]
fn tracepoints_become_events_of_their_level() {
    check(Source::TraceCmd, NESTED, NESTED_EVENTS);
    let perf = NESTED.replace("KVM-70", "KVM    70").replace("qemu-9", "qemu 9").replace(": kvm_", ":  kvm:kvm_");
    check(Source::Perf, &perf, NESTED_EVENTS);
    let (imported, _, clock) = read(NESTED, Source::TraceCmd).expect("imported");
    assert_eq!(clock, Clock::Nanoseconds);
    assert_eq!(imported.unmapped.into_iter().collect::<Vec<_>>(), [("kvm_fpu".to_owned(), 1)]);
}

#[test]
fn raw_tracepoints_of_amd() {
    let text = " a-1 [0] 1.0: kvm_exit: exit_reason=0x400 guest_rip=0x10 isa=2 info1=0x4 info2=0x5000 intr_info=0 error_code=0 vcpu_id=3
 a-1 [0] 1.1: kvm_exit: exit_reason=0x7c guest_rip=0x12 isa=2 info1=0x1 info2=0x0 intr_info=0 error_code=0 vcpu_id=3
 b-2 [0] 1.2: kvm_entry: vcpu_id=3 rip=0x12
";
    check(
        Source::TraceCmd,
        text,
        &[
            "0 3/0 exit level=1 reason=EPT_VIOLATION reason_code=48 qualification=0x1 rip=0x10 gpa=0x5000 handled_by=L0",
            "100000000 3/0 exit level=1 reason=WRMSR reason_code=32 rip=0x12 handled_by=L0",
            "200000000 67/0 entry level=1",
        ],
    );
}

/// Old kernels print hexadecimal without a prefix, and exits without their vCPU.
#[test]
fn text_of_an_old_kernel() {
    let text = " a-1 [0] 1.0: kvm_exit: reason EPT_VIOLATION rip 0x10 info 181 80000b0e
 a-1 [0] 1.0: kvm_page_fault: address 2000 error_code 181
 b-2 [0] 1.1: kvm_exit: reason EPT_MISCONFIG rip 0x12 info 0 0
 b-2 [0] 1.1: kvm_mmio: mmio write len 4 gpa 0xfee000b0 val 0x0
 a-1 [0] 1.2: kvm_entry: vcpu 1
 b-2 [0] 1.3: kvm_entry: vcpu 0
CPU:0 [EVENTS DROPPED]
";
    check(
        Source::TraceCmd,
        text,
        &[
            "0 1/0 exit level=1 reason=EPT_VIOLATION reason_code=48 qualification=0x181 rip=0x10 gpa=0x2000 \
             intr_info=0x80000b0e handled_by=L0",
            "100000000 0/0 exit level=1 reason=EPT_MISCONFIG reason_code=49 rip=0x12 gpa=0xfee000b0 handled_by=L0",
            "200000000 1/0 entry level=1",
            "300000000 0/0 entry level=1",
            "300000000 0/0 lost value=1",
        ],
    );
}

/// L1 is given another exit than the one that happened: that was L0's.
#[test]
fn an_exit_that_l0_makes_up_for_l1() {
    let text = " a-1 [0] 1.0: kvm_nested_vmenter: rip: 0x1 vmcs: 0x7000 nested_rip: 0x2
 a-1 [0] 1.1: kvm_exit: vcpu 0 reason PREEMPTION_TIMER rip 0x2 info1 0x0 info2 0x0 intr_info 0x0
 a-1 [0] 1.1: kvm_nested_vmexit: vcpu 0 reason PREEMPTION_TIMER rip 0x2 info1 0x0 info2 0x0 intr_info 0x0
 a-1 [0] 1.2: kvm_nested_vmexit_inject: reason: EXTERNAL_INTERRUPT ext_inf1: 0x0 ext_inf2: 0x0 ext_int: 0x0
 a-1 [0] 1.3: kvm_entry: vcpu 0, rip 0x3
";
    let (imported, events, _) = read(text, Source::Perf).expect("imported");
    let lines: Vec<_> = events.iter().map(line).collect();
    let expected = [
        "100000000 0/0 exit level=2 reason=PREEMPTION_TIMER reason_code=52 rip=0x2 vmcs12=0x7000 handled_by=L0",
        "300000000 0/0 entry level=1",
    ];
    assert_eq!(lines, expected);
    assert_eq!(imported.unmapped.get("kvm_nested_vmexit_inject"), Some(&1));
}

#[test]
fn wrong_tracepoints_are_refused_in_one_line() {
    refuses(Source::Perf, "hello\nworld\n", "there is no line of a tracepoint in its 2 lines");
    let other = " a-1 [0] 1.0: sched_switch: prev_comm=a\n";
    refuses(Source::Perf, other, "none of its tracepoints is one of KVM's that has a counterpart here");
    refuses(Source::Perf, " a-1 [0] 1.0: kvm_exit: reason HLT\n", "line 1: kvm_exit without rip");
    refuses(Source::Perf, " a-1 [0] 1.0: kvm_exit: reason ? rip 0x1\n", "line 1: kvm_exit without a reason");
    refuses(Source::TraceCmd, "PERFILE2", "it is a file of perf");
}

/// A thread that never comes back does not make others' events wait for ever, nor memory grow.
#[test]
fn an_exit_whose_thread_is_gone_is_told_in_time() {
    let mut text = " a-1 [0] 1.0: kvm_exit: reason HLT rip 0x1\n".to_owned();
    let rest = " b-2 [0] 1.1: kvm_exit: reason HLT rip 0x2\n b-2 [0] 1.1: kvm_entry: vcpu 1\n";
    text.push_str(&rest.repeat(20_000));
    let (imported, events, _) = read(&text, Source::Perf).expect("imported");
    assert_eq!(imported.summary.events, 40_001);
    assert!(matches!(&events[0].what, What::Exit(exit) if exit.rip == 1));
}

/// Threads by the ten thousand are told apart in a time that grows as their number does.
#[test]
fn every_line_a_thread_of_its_own() {
    let text: String = (0..20_000).map(|at| format!(" a-{at} [0] 1.0: kvm_exit: reason HLT rip 0x1\n")).collect();
    let (imported, events, _) = read(&text, Source::TraceCmd).expect("imported");
    assert_eq!(imported.summary.events, 20_000);
    let vcpus: Vec<u16> = events.iter().map(|event| event.at.vcpu).collect();
    assert_eq!(vcpus, (0..20_000).collect::<Vec<u16>>());
}

/// The seeds of the fuzz targets, and what these found, with a little damage each. `NVMX_MUTATIONS=N` makes it more.
#[test]
fn texts_that_are_damaged_are_refused_or_imported_whole() {
    let rounds = std::env::var("NVMX_MUTATIONS").map_or(200, |words| words.parse().expect("a number"));
    let mut random = 0x1234_5678_9abc_def1_u64;
    let mut below = |end: usize| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        (random % end.max(1) as u64) as usize
    };
    for (name, target) in hostile::TARGETS {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(name);
        let mut paths: Vec<PathBuf> =
            std::fs::read_dir(folder).expect("seeds").map(|entry| entry.expect("listed").path()).collect();
        paths.sort();
        assert!(!paths.is_empty());
        for seed in paths.iter().map(|path| std::fs::read(path).expect("read")) {
            target(&seed);
            for _ in 0..rounds {
                let mut text = seed.clone();
                for _ in 0..=below(3) {
                    let (at, other) = (below(text.len()), below(text.len()));
                    match below(5) {
                        0 => text[at] ^= 1 << below(8),
                        1 => text[at] = b"0f \n\t[]:=.-x\xff"[below(13)],
                        2 => drop(text.drain(at.min(other)..at.max(other).min(at.min(other) + 20))),
                        3 => text.splice(at..at, seed[other.min(seed.len())..].iter().take(40).copied()).for_each(drop),
                        _ => text.truncate(at.max(1)),
                    }
                    if text.is_empty() {
                        text.push(b'\n');
                    }
                }
                target(&text);
            }
        }
    }
}

#[test]
fn what_cannot_be_opened_leaves_nothing() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (from, to): (PathBuf, PathBuf) = (dir.path().join("none"), dir.path().join("ours.nvmx"));
    assert!(import(&from, Source::Iris, &to).is_err() && !to.exists());
    std::fs::write(&from, SEEDS).expect("written");
    assert!(import(&from, Source::Iris, &from).is_err());
    assert_eq!(std::fs::read_to_string(&from).expect("still there"), SEEDS);
    assert!(import(&from, Source::Iris, Path::new("/nowhere/ours.nvmx")).is_err());
}
