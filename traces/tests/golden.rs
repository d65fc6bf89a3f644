//! The golden traces: files of every format version that was ever released, which this version must read, and what they
//! say. `BLESS=1` rewrites the text, and writes the trace where it is missing.

mod common;

use hv_defs::event::*;
use hv_defs::exit::{ExitReason, InterruptionInfo, Reason};
use hv_defs::vmcs::VmcsField;
use std::fmt::Write as _;
use std::path::Path;
use traces::{Reader, Writer};

/// One event of every kind, and every word of every list.
fn every_kind() -> Vec<Event> {
    let info = InterruptionInfo::from(0x8000_0b0e);
    let exit = Exit {
        level: 2,
        reason: ExitReason::of(Reason::EPT_VIOLATION),
        qualification: 0x181,
        rip: 0xffff_8000_0000_1234,
        length: 3,
        gpa: 0x5000,
        gla: 0x7fff_0000,
        intr_info: info,
        vmcs12: 0x10_0000,
        handled_by: Actor::L1,
    };
    let entry = Entry {
        level: 2,
        launch: true,
        vmcs12: 0x10_0000,
        vmcs02: 0x4000,
        vpid: 3,
        eptp: 0x8001e,
        injected: info,
        failed: Some(Check::new("guest-rip")),
        fields_written: 77,
    };
    let mut all = vec![
        What::Exit(exit),
        What::Exit(Exit { reason: ExitReason::from(0x8000_0021), vmcs12: NO_ADDRESS, handled_by: Actor::L0, ..exit }),
        What::Exit(Exit { reason: ExitReason::from(999), level: 1, intr_info: InterruptionInfo::default(), ..exit }),
        What::Entry(entry),
        What::Entry(Entry { failed: None, launch: false, injected: InterruptionInfo::default(), ..entry }),
    ];
    let access = VmcsAccess {
        actor: Actor::L0,
        which: Which::Vmcs02,
        address: 0x4000,
        op: VmcsOp::Write,
        field: VmcsField(0x681e),
        old: 0x1000,
        value: 0x1002,
    };
    all.extend(Actor::ALL.iter().map(|&actor| What::Vmcs(VmcsAccess { actor, ..access })));
    // Here and below: up to the last word that there was when the trace was written.
    let which = Which::ALL.iter().take_while(|which| **which != Which::Shadow02);
    all.extend(which.map(|&which| What::Vmcs(VmcsAccess { which, old: 0x1002, ..access })));
    all.extend(VmcsOp::ALL.iter().map(|&op| What::Vmcs(VmcsAccess { op, field: VmcsField(0x7ffe), ..access })));
    let flush = Flush {
        kind: FlushKind::InvvpidSingle,
        cause: Cause::Guest,
        actor: Actor::L1,
        vpid: 3,
        eptp: 0x8001e,
        address: 0x7000,
        dropped: 9,
    };
    all.extend(FlushKind::ALL.iter().map(|&kind| What::Flush(Flush { kind, ..flush })));
    all.extend(Cause::ALL.iter().map(|&cause| What::Flush(Flush { cause, ..flush })));
    let pool = |&op| What::Pool(Pool { op, vmcs12: 0x10_0000, slot: 1, written: 20, skipped: 100 });
    all.extend(PoolOp::ALL.iter().map(pool));
    all.extend(VpidOp::ALL.iter().map(|&op| What::Vpid(Vpid { op, vpid12: 1, vpid02: 3 })));
    let ept = |&op| {
        What::Ept(EptChange { op, eptp12: 0x20_001e, eptp02: 0x8001e, gpa: 0x5000, size: 4096, old: 7, new: 0x9037 })
    };
    all.extend(EptOp::ALL.iter().map(ept));
    all.push(What::Injection(Injection { level: 2, info, error_code: 2 }));
    all.extend(InputKind::ALL.iter().map(|&kind| What::Input(Input { poll: 12, kind, value: 65 })));
    all.extend([What::Migration(Migration { from: 1 }), What::Mark(7), What::Digest(u64::MAX), What::Lost(100)]);
    let kinds = StopKind::ALL.iter().take_while(|kind| **kind != StopKind::PowerOff);
    all.extend(kinds.map(|&kind| {
        let text = if kind == StopKind::Idle { String::new() } else { format!("at {:#x}: é", exit.rip) };
        What::Stop(Stop { kind, code: 33, text })
    }));
    let stamp = |at: u64| Stamp { instruction: at / 3 * 1000, vcpu: (at / 4 % 2) as u16, pcpu: (at / 9 % 2) as u16 };
    all.into_iter().enumerate().map(|(at, what)| Event { at: stamp(at as u64), what }).collect()
}

/// All that a trace says, as text.
fn text(reader: &Reader) -> String {
    let mut out = String::new();
    let header = reader.header();
    writeln!(out, "version {:?}, build {}", header.version, header.build).expect("a string takes all");
    writeln!(out, "{:#?}", header.config).expect("a string takes all");
    for image in &header.images {
        let (hash, bytes) =
            (image.hash.map(|byte| format!("{byte:02x}")).concat(), image.bytes.as_ref().map(|bytes| bytes.len()));
        writeln!(out, "{} {} {hash} {bytes:?}", image.kind, image.name).expect("a string takes all");
    }
    for (number, event) in reader.events(0).enumerate() {
        let event = event.expect("a golden trace is whole");
        let Stamp { instruction, vcpu, pcpu } = event.at;
        write!(out, "{number} @{instruction} {vcpu}/{pcpu} {}", event.what.kind()).expect("a string takes all");
        for (field, value) in event.values() {
            write!(out, " {}={value}", field.name).expect("a string takes all");
        }
        out.push('\n');
    }
    out
}

#[test]
fn version_1_is_read_as_ever() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden");
    let (trace, said) = (golden.join("v1.nvmx"), golden.join("v1.txt"));
    let bless = std::env::var_os("BLESS").is_some();
    if bless && !trace.exists() {
        let file = std::fs::File::create(&trace).expect("created");
        let mut writer = Writer::create(file, &common::header()).expect("written");
        for (at, event) in every_kind().iter().enumerate() {
            writer.push(event).expect("written");
            if at == 20 {
                writer.end_block().expect("written");
            }
        }
        writer.finish().expect("written");
    }
    let reader = Reader::open(&trace).expect("a golden trace is read");
    assert!(!reader.truncated());
    assert!(traces::check(&reader).expect("checked").damage.is_empty());
    let events: Result<Vec<Event>, _> = reader.events(0).collect();
    assert_eq!(events.expect("sound"), every_kind());
    let text = text(&reader);
    if bless {
        std::fs::write(&said, &text).expect("written");
    }
    let said = std::fs::read_to_string(said).expect("the golden text");
    assert!(said == text, "traces/golden/v1.txt differs from what v1.nvmx says; BLESS=1 rewrites it:\n{text}");
}
