//! Guests three deep: `nest`, whose L2 runs an L3. Each is stopped in, stepped and looked at by itself.

use crate::script::{gdb, line, registers};
use crate::{Client, bytes, listening_to, recorded};
use hv_defs::event::{What, Which};
use hv_defs::vmcs;
use replayer::Cursor;
use std::sync::OnceLock;
use traces::Reader;

fn nest() -> Reader {
    static BYTES: OnceLock<Vec<u8>> = OnceLock::new();
    recorded("nest", &BYTES)
}

/// A place in L3, one instruction behind its fourth entry, and its RIP there.
fn in_l3() -> (u64, u64) {
    let reader = nest();
    let entries = reader.events(0).map(|event| event.expect("an event"));
    let mut entries = entries.filter(|event| matches!(&event.what, What::Entry(entry) if entry.level == 3));
    let instruction = entries.nth(3).expect("L3 is entered eight times").at.instruction + 1;
    let mut cursor = Cursor::open(&reader).expect("opened");
    cursor.to_instruction(instruction).expect("gone to");
    assert_eq!(cursor.runner().level, 3);
    let guest = cursor.machine().l0().guest(0, 3).expect("L3");
    (instruction, guest.vmcs.get(vmcs::GUEST_RIP))
}

#[test]
fn l3_is_a_thread_with_registers_and_memory_of_its_own() {
    let (instruction, rip) = in_l3();
    let reader = nest();
    let mut cursor = Cursor::open(&reader).expect("opened");
    cursor.to_instruction(instruction).expect("gone to");
    let mut gdb = Client::new(&listening_to(nest, 0));
    gdb.monitor(&format!("seek-instruction {instruction}"));
    assert!(gdb.ask("?").contains("thread:03"), "L3 runs");
    let threads = gdb.ask("qfThreadInfo");
    for thread in ["01", "02", "03"] {
        assert!(threads.contains(thread), "{threads}");
    }
    let mut vmcs12s = Vec::new();
    for level in 1..=3 {
        let guest = cursor.machine().l0().guest(0, level).expect("a guest");
        assert_eq!(guest.runs, level == 3);
        let at = guest.vmcs.get(vmcs::GUEST_RIP);
        let mut wanted = [0; 8];
        assert_eq!(cursor.machine().l0().look_at(&guest, at, &mut wanted), 8, "L{level} at {at:#x}");
        gdb.ask(&format!("Hg{level}"));
        assert_eq!(gdb.rip(), at, "L{level}");
        assert_eq!(bytes(&gdb.ask(&format!("m{at:x},8"))), wanted, "L{level}");
        match level {
            3 => assert_eq!(at, rip),
            // Who has asked for L3 is where it asked: at a VMLAUNCH or VMRESUME.
            _ => assert!(wanted[..2] == [0x0f, 0x01] && matches!(wanted[2], 0xc2 | 0xc3), "L{level}: {wanted:x?}"),
        }
        vmcs12s.extend(guest.vmcs12);
    }
    assert!(vmcs12s.len() == 2 && vmcs12s[0] != vmcs12s[1], "{vmcs12s:?}");
    let text = gdb.monitor("guests");
    for (level, at) in (2..).zip(vmcs12s) {
        let line = text.lines().find(|line| line.starts_with(&format!("L{level} of vCPU 0"))).expect("a line");
        assert!(line.contains(&format!("vmcs12 at L1-physical {:#x}", at.0)), "{line}");
    }
    assert!(gdb.monitor(&format!("translate {rip:#x}")).contains("L3-physical"));
}

#[test]
fn stops_are_of_the_guest_that_they_are_meant_for() {
    let (_, rip) = in_l3();
    let mut gdb = Client::new(&listening_to(nest, 0));
    let start = |gdb: &mut Client| assert!(gdb.monitor("seek 0").contains("event"));
    // L2 runs in the same memory, and never there.
    for (level, stops) in [("3", true), ("2", false), ("1", false), ("all", true)] {
        start(&mut gdb);
        assert_eq!(gdb.ask(&format!("Z0,{rip:x},1")), "OK");
        gdb.monitor(&format!("level {level}"));
        let stopped = gdb.ask("vCont;c");
        assert_eq!(stopped.contains("thread:03"), stops, "level {level}: {stopped}");
        // The same for this address alone, whatever the others are of.
        start(&mut gdb);
        gdb.monitor("level all");
        let shown = gdb.monitor(&format!("level {level} {rip:#x}"));
        assert_eq!(shown.contains(&format!("{rip:#x} stop in L{level}")), level != "all", "{shown}");
        let stopped = gdb.ask("vCont;c");
        assert_eq!(stopped.contains("thread:03"), stops, "level {level} at the address: {stopped}");
        assert_eq!(gdb.ask(&format!("z0,{rip:x},1")), "OK");
        gdb.monitor(&format!("level all {rip:#x}"));
    }
    // What alone is resumed is alone stopped in.
    assert_eq!(gdb.ask(&format!("Z0,{rip:x},1")), "OK");
    for (thread, stops) in [(1, false), (2, false), (3, true)] {
        start(&mut gdb);
        let stopped = gdb.ask(&format!("vCont;c:{thread}"));
        assert_eq!(stopped.contains("thread:03"), stops, "thread {thread} alone: {stopped}");
    }
    start(&mut gdb);
    assert!(gdb.ask("vCont;c").contains("thread:03"), "all again");
    for wrong in ["level 0", "level 9", "level two", "level 2 somewhere"] {
        assert!(gdb.monitor(wrong).starts_with("error:"), "{wrong}");
    }
}

#[test]
fn fields_are_watched_in_one_vmcs_or_in_those_of_a_kind() {
    let reader = nest();
    let writes: Vec<(u64, Which, u64)> = reader
        .events(0)
        .map(|event| event.expect("an event"))
        .enumerate()
        .filter_map(|(number, event)| match &event.what {
            What::Vmcs(it) if it.field.name() == Some("guest_rip") && it.op.name() == "write" => {
                Some((number as u64, it.which, it.address))
            }
            _ => None,
        })
        .collect();
    let check = |words: &str, wanted: &dyn Fn(Which, u64) -> bool| {
        let wanted: Vec<u64> =
            writes.iter().filter(|(_, which, at)| wanted(*which, *at)).map(|(number, ..)| *number).collect();
        assert!(wanted.len() > 2 && wanted.len() < writes.len(), "{words}: {} of {}", wanted.len(), writes.len());
        let mut gdb = Client::new(&listening_to(nest, reader.len() - 1));
        let text = gdb.monitor(&format!("watch-vmcs guest_rip {words}"));
        assert!(text.contains(&format!("last: event {} ", wanted[wanted.len() - 1])), "{words}: {text}");
        let mut met = Vec::new();
        while !gdb.ask("bc").contains("replaylog:begin") {
            let text = gdb.monitor("event");
            let behind =
                text.lines().find_map(|line| line.strip_prefix("stopped behind event ")).expect("why it stopped");
            met.push(behind.split(' ').next().and_then(|number| number.parse().ok()).expect("a number"));
        }
        assert!(met.iter().all(|event| wanted.contains(event)), "{words}: {met:?} in {wanted:?}");
        assert!(met.len() > 2 && met.is_sorted_by(|a, b| a > b), "{words}: {met:?}");
    };
    let second = writes.iter().find(|(_, which, _)| *which == Which::Vmcs12).expect("L1 sets L2's RIP").2;
    check("write vmcs12", &|which, _| which == Which::Vmcs12);
    check("vmcs01", &|which, _| which == Which::Vmcs01);
    check(&format!("write {second:#x}"), &|_, at| at == second);
    check(&format!("{second:#x} vmcs12"), &|which, at| which == Which::Vmcs12 && at == second);
    let mut gdb = Client::new(&listening_to(nest, 0));
    assert!(gdb.monitor("watch-vmcs guest_rip vmcs77").starts_with("error: 'vmcs77'"));
    assert!(gdb.monitor("watch-vmcs guest_rip write vmcs02 0x1").contains("next: none in the trace"));
}

#[test]
fn gdb_breaks_in_l3_steps_both_ways_and_reads_three_memories() {
    let (_, rip) = in_l3();
    let commands = [
        "monitor level 3".to_owned(),
        format!("break *{rip:#x}"),
        "continue".to_owned(),
        registers("here"),
        "info threads".to_owned(),
        "stepi".to_owned(),
        "stepi".to_owned(),
        "stepi".to_owned(),
        registers("there"),
        "reverse-stepi".to_owned(),
        "reverse-stepi".to_owned(),
        "reverse-stepi".to_owned(),
        registers("again"),
        "thread apply all printf \"bytes %lx %02x%02x%02x\\n\", $rip, *(unsigned char*)$rip, *(unsigned char*)($rip+1), \
         *(unsigned char*)($rip+2)"
            .to_owned(),
        "monitor guests".to_owned(),
        "delete".to_owned(),
        "monitor watch-vmcs GUEST_RIP write vmcs12".to_owned(),
        "reverse-continue".to_owned(),
        "monitor event".to_owned(),
    ];
    let Some(text) = gdb(&listening_to(nest, 0), &commands) else { return };
    assert!(text.contains("L3 of vCPU 0, runs") && text.contains("L2 of vCPU 0"), "{text}");
    assert!(line(&text, "here").starts_with(&format!(" {rip:x} ")), "{text}");
    assert_eq!(line(&text, "here"), line(&text, "again"), "{text}");
    assert_ne!(line(&text, "here"), line(&text, "there"), "{text}");
    let entries = text.lines().filter(|line| {
        let code = line.strip_prefix("bytes ").and_then(|rest| rest.split(' ').nth(1));
        matches!(code, Some("0f01c2" | "0f01c3"))
    });
    assert_eq!(entries.count(), 2, "L1 and L2 stand at their VM entries\n{text}");
    assert!(line(&text, "stopped behind event").contains("which=vmcs12"), "{text}");
}
