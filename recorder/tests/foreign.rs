//! Files of trace-cmd and perf, read back by those tools and imported through them.

use hv_defs::config::Source;
use hv_defs::event::{Actor, Entry, Event, Exit, Injection, Kind, NO_ADDRESS, Stamp, What};
use hv_defs::exit::{ExitReason, InterruptionInfo, Reason};
use recorder::foreign::{Detail, Layout, Tape, write_perf_data, write_trace_dat};
use recorder::import::{Imported, import};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use traces::Reader;

/// Whether a tool is here. Where it is not, the test says that it is skipped.
fn here(tool: &str) -> bool {
    let found = Command::new(tool).arg("--version").output().is_ok();
    if !found {
        eprintln!("SKIPPED: {tool} is not installed, so its files were not tried");
    }
    found
}

/// The files of a recording, by the tools that are here: `trace.dat` as it is and as trace-cmd converts it, `perf.data`.
fn files(tape: &Tape, folder: &Path) -> Vec<(Source, PathBuf)> {
    let mut files = Vec::new();
    if here("trace-cmd") {
        let six = folder.join("trace.dat");
        write_trace_dat(tape, File::create(&six).expect("created")).expect("written");
        for compression in ["none", "zstd"] {
            let seven = folder.join(format!("trace7-{compression}.dat"));
            let words = ["convert", "--file-version", "7", "--compression", compression, "-i"];
            let converted = Command::new("trace-cmd").args(words).arg(&six).arg("-o").arg(&seven).output();
            // One that is older or built without zstd does not; then there is nothing to read.
            if converted.is_ok_and(|converted| converted.status.success()) {
                files.push((Source::TraceCmd, seven));
            } else {
                eprintln!("SKIPPED: this trace-cmd does not write version 7 with {compression}");
            }
        }
        files.push((Source::TraceCmd, six));
    }
    if here("perf") {
        let path = folder.join("perf.data");
        write_perf_data(tape, File::create(&path).expect("created")).expect("written");
        files.push((Source::Perf, path));
    }
    files
}

fn read(source: Source, file: &Path) -> (Imported, Vec<Event>) {
    let to = file.with_extension("nvmx");
    let imported = import(file, source, &to).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let events = Reader::open(&to).expect("a trace").events(0).collect::<Result<_, _>>().expect("sound");
    (imported, events)
}

/// Writes a recording in each form, and checks what its import gives.
#[track_caller]
fn check(tape: &Tape, expected: impl Fn(Source) -> Vec<Event>) {
    let folder = tempfile::tempdir().expect("a temporary directory");
    for (source, file) in files(tape, folder.path()) {
        let (_, events) = read(source, &file);
        for (number, (got, want)) in events.iter().zip(&expected(source)).enumerate() {
            assert_eq!(got, want, "event {number} of {}", file.display());
        }
        assert_eq!(events.len(), expected(source).len(), "{}", file.display());
    }
}

fn exit(level: u8, reason: Reason, rip: u64) -> Exit {
    Exit {
        level,
        reason: ExitReason::of(reason),
        qualification: 0,
        rip,
        length: 0,
        gpa: 0,
        gla: 0,
        intr_info: InterruptionInfo::default(),
        vmcs12: NO_ADDRESS,
        handled_by: Actor::L0,
    }
}

fn entry(level: u8, vmcs12: u64) -> Entry {
    Entry {
        level,
        launch: false,
        vmcs12,
        vmcs02: NO_ADDRESS,
        vpid: 0,
        eptp: 0,
        injected: InterruptionInfo::default(),
        failed: None,
        fields_written: 0,
    }
}

fn at(instruction: u64, vcpu: u16, pcpu: u16) -> Stamp {
    Stamp { instruction, vcpu, pcpu }
}

/// Two vCPUs whose L2s exit to L1 and to L0, as KVM's tracepoints can tell it.
fn nested(rounds: u64) -> Vec<Event> {
    let mut events = Vec::new();
    for round in 0..rounds {
        // Further apart than 27 bits of nanoseconds now and then, which the ring buffer has to say in another way.
        let time = round * 10_000 + (round / 16) * 200_000_000;
        let vcpu = (round % 2) as u16;
        let vmcs12 = 0x7000 + u64::from(vcpu) * 0x1000;
        let mut push = |after: u64, what| events.push(Event { at: at(time + after, vcpu, vcpu), what });
        push(0, What::Entry(entry(2, vmcs12)));
        let l2 = |reason| Exit { vmcs12, ..exit(2, reason, 0xffff_ffff_8100_0000 + round) };
        let info = InterruptionInfo::from(0x8000_0b0e);
        match round % 4 {
            0 => push(1000, What::Exit(Exit { handled_by: Actor::L1, ..l2(Reason::CPUID) })),
            1 => push(
                1000,
                What::Exit(Exit { qualification: 0x181, gpa: 0x10_0000 + round, ..l2(Reason::EPT_VIOLATION) }),
            ),
            2 => push(1000, What::Exit(Exit { intr_info: info, handled_by: Actor::L1, ..l2(Reason::EXCEPTION_NMI) })),
            _ => push(
                1000,
                What::Exit(Exit { qualification: 0x3f8_0000, handled_by: Actor::L1, ..l2(Reason::IO_INSTRUCTION) }),
            ),
        }
        // What L0 handles goes back to L2.
        if round % 4 == 1 {
            push(2000, What::Entry(entry(2, vmcs12)));
            push(3000, What::Exit(Exit { handled_by: Actor::L1, ..l2(Reason::HLT) }));
        }
        let info = InterruptionInfo::from(0x8000_0041);
        push(4000, What::Injection(Injection { level: 1, info, error_code: 0 }));
        let (fault, undefined) = (InterruptionInfo::from(0x8000_0b0e), InterruptionInfo::from(0x8000_0306));
        let (exception, error_code) = if round % 2 == 0 { (fault, 0x12) } else { (undefined, 0) };
        push(4000, What::Injection(Injection { level: 1, info: exception, error_code }));
        push(4001, What::Entry(Entry { injected: info, ..entry(1, NO_ADDRESS) }));
        push(5000, What::Exit(exit(1, Reason::VMRESUME, 0x40_0000 + round)));
    }
    events
}

#[test]
fn nested_exits_come_back_as_they_were() {
    let events = nested(300);
    for layout in [Layout::Linux6, Layout::Host] {
        check(&Tape::of(&events, layout, Detail::Nested), |_| events.clone());
    }
    // Linux 4's entries do not say what they inject.
    let mut old = events.clone();
    for event in &mut old {
        if let What::Entry(entry) = &mut event.what {
            entry.injected = InterruptionInfo::default();
        }
    }
    check(&Tape::of(&events, Layout::Linux4, Detail::Nested), |_| old.clone());
}

#[test]
fn exits_and_entries_alone_are_of_level_1() {
    let events: Vec<Event> = nested(100);
    let tape = Tape::of(&events, Layout::Linux6, Detail::Exits);
    check(&tape, |_| {
        let mut plain = events.clone();
        plain.retain(|event| event.what.kind() != Kind::Injection);
        for event in &mut plain {
            match &mut event.what {
                What::Exit(exit) => {
                    (exit.level, exit.vmcs12, exit.handled_by, exit.gpa) = (1, NO_ADDRESS, Actor::L0, 0);
                }
                What::Entry(entry) => (entry.level, entry.vmcs12) = (1, NO_ADDRESS),
                _ => {}
            }
        }
        plain
    });
}

/// AMD's codes, with the words of information that its manual gives them.
#[test]
fn exits_of_amd_are_in_words_of_vmx() {
    let rows = [
        // code, EXITINFO1 and 2, at RIP 0x1000; reason, qualification, length, address
        (0x400_u64, [0x1_0000_0006_u64, 0x5000_u64], Reason::EPT_VIOLATION, 2_u64, 0_u8, 0x5000_u64),
        (0x07b, [0x3f8_0011, 0x1002], Reason::IO_INSTRUCTION, 0x3f8_0008, 2, 0),
        (0x07c, [1, 0], Reason::WRMSR, 0, 0, 0),
        (0x07c, [0, 0], Reason::RDMSR, 0, 0, 0),
        (0x013, [1 << 63 | 3, 0], Reason::CR_ACCESS, 0x303, 0, 0),
        (0x084, [0, 0], Reason(0xc084), 0, 0, 0),
        (0x080, [0, 0], Reason::VMRESUME, 0, 0, 0),
    ];
    for layout in [Layout::Linux6, Layout::Linux4, Layout::Host] {
        let mut tape = Tape::new(layout);
        let thread = tape.thread(50, 51, "CPU 0/KVM");
        let mut expected = Vec::new();
        for (row, (code, [info1, info2], reason, qualification, length, gpa)) in (0..).zip(rows) {
            let time = row * 1000;
            let values = [
                ("exit_reason", code),
                ("guest_rip", 0x1000),
                ("isa", 2),
                ("info1", info1),
                ("info2", info2),
                ("vcpu_id", 0),
            ];
            tape.hit((time, 0, thread), "kvm_exit", &values);
            tape.hit((time + 500, 0, thread), "kvm_entry", &[("vcpu_id", 0)]);
            let what = What::Exit(Exit { qualification, length, gpa, ..exit(1, reason, 0x1000) });
            expected.push(Event { at: at(time, 0, 0), what });
            expected.push(Event { at: at(time + 500, 0, 0), what: What::Entry(entry(1, NO_ADDRESS)) });
        }
        check(&tape, |_| expected.clone());
    }
}

/// L2 on AMD: a hypercall for L1, a page fault for L0, an interrupt that L1 is given.
#[test]
fn nested_exits_of_amd_come_back() {
    for layout in [Layout::Linux6, Layout::Linux4, Layout::Host] {
        let mut tape = Tape::new(layout);
        let thread = tape.thread(50, 51, "CPU 0/KVM");
        let mut expected = Vec::new();
        let rows = [
            (0x081_u64, 0_u64, Reason::VMCALL, 0, Actor::L1),
            (0x400, 0x5000, Reason::EPT_VIOLATION, 1, Actor::L0),
            (0x060, 0, Reason::EXTERNAL_INTERRUPT, 0, Actor::L1),
        ];
        let mut level = 1;
        for (row, (code, info2, reason, qualification, handled_by)) in (0_u64..).zip(rows) {
            let time = row * 100;
            let at_time = |after: u64| (time + after, 0, thread);
            let event = |after: u64, what| Event { at: at(time + after, 0, 0), what };
            if level == 1 {
                for name in ["kvm_nested_vmenter", "kvm_nested_vmrun"] {
                    tape.hit(at_time(0), name, &[("vmcb", 0x7000), ("isa", 2)]);
                }
            }
            tape.hit(at_time(0), "kvm_entry", &[("vcpu_id", 0)]);
            expected.push(event(0, What::Entry(entry(2, 0x7000))));
            let values = [
                ("exit_reason", code),
                ("exit_code", code),
                ("guest_rip", 0x1000),
                ("isa", 2),
                ("info2", info2),
                ("exit_info2", info2),
            ];
            tape.hit(at_time(10), "kvm_exit", &values);
            tape.hit(at_time(11), "kvm_nested_vmexit", &values);
            if code == 0x060 {
                tape.hit(at_time(12), "kvm_nested_intr_vmexit", &[("rip", 0x1000)]);
            }
            level = 2;
            if handled_by == Actor::L1 {
                tape.hit(at_time(13), "kvm_nested_vmexit_inject", &values);
                tape.hit(at_time(14), "kvm_entry", &[("vcpu_id", 0)]);
                level = 1;
            }
            let vmcs12 = 0x7000;
            let exit = Exit { qualification, gpa: info2, vmcs12, handled_by, ..exit(2, reason, 0x1000) };
            expected.push(event(10, What::Exit(exit)));
            if level == 1 {
                expected.push(event(14, What::Entry(entry(1, NO_ADDRESS))));
            }
        }
        check(&tape, |_| expected.clone());
    }
}

/// What is lost is told, and who runs then is known again from the next event that tells it.
#[test]
fn lost_events_are_told() {
    let mut tape = Tape::new(Layout::Linux6);
    let thread = tape.thread(50, 51, "CPU 0/KVM");
    let exit_of = |tape: &mut Tape, time, name: &str| {
        tape.hit((time, 0, thread), name, &[("exit_reason", 12), ("guest_rip", 1), ("isa", 1), ("vcpu_id", 0)]);
    };
    tape.hit((0, 0, thread), "kvm_nested_vmenter", &[("vmcb", 0x7000), ("isa", 1)]);
    tape.hit((0, 0, thread), "kvm_entry", &[("vcpu_id", 0)]);
    exit_of(&mut tape, 10, "kvm_exit");
    exit_of(&mut tape, 10, "kvm_nested_vmexit");
    tape.records.push(recorder::foreign::Record { time: 20, cpu: 0, what: recorder::foreign::What::Lost(12) });
    exit_of(&mut tape, 30, "kvm_exit");
    tape.hit((40, 0, thread), "kvm_entry", &[("vcpu_id", 0)]);
    exit_of(&mut tape, 50, "kvm_exit");
    exit_of(&mut tape, 50, "kvm_nested_vmexit");
    let event = |time, what| Event { at: at(time, 0, 0), what };
    let hlt = |level, vmcs12| What::Exit(Exit { vmcs12, ..exit(level, Reason::HLT, 1) });
    check(&tape, |_| {
        vec![
            event(0, What::Entry(entry(2, 0x7000))),
            event(10, hlt(2, 0x7000)),
            // Neither tool prints a time with it.
            event(10, What::Lost(12)),
            event(30, hlt(1, NO_ADDRESS)),
            event(40, What::Entry(entry(1, NO_ADDRESS))),
            event(50, hlt(2, 0x7000)),
        ]
    });
}

/// Two virtual machines of two vCPUs. perf tells them apart; of trace-cmd's threads the first ones have the lower numbers.
#[test]
fn virtual_machines_have_vcpus_of_their_own() {
    for layout in [Layout::Linux6, Layout::Linux4] {
        let mut tape = Tape::new(layout);
        let mut time = 0;
        // By order of appearance: thread, process, KVM's number.
        let threads = [(201, 200, 1), (101, 100, 1), (100, 100, 0), (202, 200, 0)];
        for round in 0..3 {
            for (id, process, vcpu) in threads {
                let thread = tape.thread(process, id, "CPU/KVM");
                let values = [("exit_reason", 12), ("guest_rip", round), ("isa", 1), ("vcpu_id", vcpu)];
                tape.hit((time, 0, thread), "kvm_exit", &values);
                time += 10;
            }
            for (id, process, vcpu) in threads {
                let thread = tape.thread(process, id, "CPU/KVM");
                tape.hit((time, 0, thread), "kvm_entry", &[("vcpu_id", vcpu)]);
                time += 10;
            }
        }
        let folder = tempfile::tempdir().expect("a temporary directory");
        for (source, file) in files(&tape, folder.path()) {
            let (_, events) = read(source, &file);
            let numbers: Vec<_> = events.iter().map(|event| event.at.vcpu).collect();
            let expected = match source {
                Source::Perf => [1, 65, 64, 0],
                _ => [1, 65, 0, 64],
            };
            assert_eq!(numbers, expected.repeat(6), "{layout:?} {}", file.display());
        }
    }
}
