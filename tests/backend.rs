//! `--backend kvm` as its user sees it: the same events, a table of what differs by design, a replay that verifies it, and one
//! clear line where there is no KVM.
//!
//! Where there is no /dev/kvm nothing is compared, and the tests say so. What happens where the kernel is L0: `host.rs`.

#![cfg(feature = "live")]

mod common;

use common::{folder, line, nvmx, record, word};
use std::io::Write;

/// Whether our L0 can run on this host's KVM; says so where it cannot.
fn kvm() -> bool {
    let host = line("info --json").expect(0).json();
    let why = match host["kvm"]["l0"].as_str() {
        Some("nvmx") => return true,
        Some(_) => "the kernel is L0 on this host".to_owned(),
        None => host["kvm_error"].to_string(),
    };
    // Not by a macro, whose output is kept from the terminal while the test passes.
    let _ = writeln!(std::io::stderr(), "SKIPPED: {why}");
    false
}

#[test]
fn events_are_those_of_the_software_cpu_but_for_what_differs_by_design() {
    if !kvm() {
        return;
    }
    let folder = folder("backend");
    for guest in ["demo", "nest"] {
        let soft = record(&folder, "soft.nvmx", guest, "");
        let kvm = record(&folder, "kvm.nvmx", guest, "--backend kvm");
        let diff = nvmx(&["diff", word(&soft), word(&kvm)]).expect(0).out;
        assert!(diff.contains("configuration: backend: \"soft\" and \"kvm\""), "{diff}");
        assert!(
            diff.contains("are equal, but for what differs by design\nby design, on KVM: dropped of flush"),
            "{diff}"
        );
        // The other way round it is the same; and against itself there is nothing to excuse.
        nvmx(&["diff", word(&kvm), word(&soft)]).expect(0);
        let itself = nvmx(&["diff", "--json", word(&kvm), word(&kvm)]).expect(0).json();
        assert_eq!(itself["by_design"], serde_json::json!([]));
        // The software CPU verifies what KVM did.
        nvmx(&["replay", "-q", word(&kvm)]).expect(0);
        let report = nvmx(&["report", word(&kvm)]).expect(0).out;
        assert!(report.contains("TLB entries dropped    not known"), "{report}");
        let info = nvmx(&["info", word(&kvm)]).expect(0).out;
        assert!(
            info.contains("backend kvm") && info.contains("not offered   accessed and dirty flags in EPT"),
            "{info}"
        );
    }
    // Another policy is no design: the first difference is told.
    let soft = record(&folder, "other.nvmx", "demo", "--policy kvm-2015");
    let kvm = folder.join("kvm.nvmx");
    record(&folder, "kvm.nvmx", "demo", "--backend kvm");
    nvmx(&["diff", word(&soft), word(&kvm)]).expect(1);
}

#[test]
fn what_silicon_answers_is_recorded_on_kvm_too() {
    if !kvm() {
        return;
    }
    let folder = folder("backend-l0");
    let trace = record(&folder, "l0.nvmx", "nest", "--backend kvm --log l0");
    let replayed = nvmx(&["replay", "--l0", word(&trace)]).expect(0).out;
    assert!(replayed.starts_with("identical: "), "{replayed}");
}

#[test]
fn two_recordings_on_kvm_are_the_same_bytes() {
    if !kvm() {
        return;
    }
    let folder = folder("backend-bytes");
    let [a, b] = ["a.nvmx", "b.nvmx"].map(|name| record(&folder, name, "pool-thrash", "--backend kvm"));
    assert_eq!(std::fs::read(a).expect("a trace"), std::fs::read(b).expect("a trace"));
}

#[test]
fn without_a_trace_info_is_about_the_host() {
    let host = line("info --json").expect(0).json();
    assert_ne!(host["kvm"].is_null(), host["kvm_error"].is_null(), "either there is KVM or a reason: {host}");
    assert_ne!(host["attach_notes"].is_null(), host["attach_error"].is_null(), "{host}");
    let words = line("info").expect(0).out;
    assert!(words.starts_with("kvm           ") && words.contains("\nattach        "), "{words}");
    if host["kvm"].is_null() {
        line("run demo --backend kvm").expect(2).one_line(&["cannot run demo", "/dev/kvm", "--backend soft"]);
    }
}
