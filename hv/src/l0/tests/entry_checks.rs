//! Each check of a VM entry, end to end: an L1 whose vmcs12 fails one row is told so as the SDM says, and nothing else
//! happens. The rows' own cases are those of [`crate::vmx::checks::tests`].

use super::script::{Bench, Flags, PML4, VMCS_A};
use crate::l0::L0_MEMORY;
use crate::silicon::Silicon;
use crate::vmcs::{SIZE, Vmcs};
use crate::vmx::checks::tests::{self, Broken, MEMORY, SELF, capabilities};
use hv_defs::addr::Hpa;
use hv_defs::event::{NO_ADDRESS, What};
use hv_defs::exit::{ExitReason, Reason};
use hv_defs::policy::Policy;
use hv_defs::vmcs::{self, TABLE};

/// An L1 that is offered everything, with what the cases' VMCSs lead to in its memory.
fn bench() -> Bench {
    let mut bench = Bench::with_l2(Policy::default());
    bench.l0.shared.capabilities = capabilities();
    for (at, word) in MEMORY {
        bench.l0.silicon.write(Hpa(L0_MEMORY + at), &word.to_le_bytes());
    }
    bench
}

/// Makes `vmcs` the current vmcs12.
fn take(bench: &mut Bench, vmcs: &Vmcs) {
    assert_eq!(bench.vmclear(VMCS_A), Flags::SUCCEED);
    bench.l0.silicon.write(Hpa(L0_MEMORY + VMCS_A + 8), &vmcs.to_bytes()[8..]);
    assert_eq!(bench.vmptrld(VMCS_A), Flags::SUCCEED);
    bench.log.events.clear();
}

/// The current vmcs12, as it lies in L1's memory once VMCLEAR has put it there.
fn put_back(bench: &mut Bench) -> Vmcs {
    assert_eq!(bench.vmclear(VMCS_A), Flags::SUCCEED);
    let mut bytes = [0; SIZE];
    bench.l0.silicon.read(Hpa(L0_MEMORY + VMCS_A), &mut bytes);
    Vmcs::from_bytes(&bytes)
}

/// The fields in which two VMCSs differ.
fn differing(a: &Vmcs, b: &Vmcs) -> Vec<String> {
    let rows = TABLE.iter().enumerate().filter(|(row, _)| a.row(*row) != b.row(*row));
    rows.map(|(row, entry)| format!("{}: {:#x}, {:#x}", entry.name, a.row(row), b.row(row))).collect()
}

/// The name of the one check that failed, from the entry that the log tells of.
fn named(bench: &mut Bench) -> Option<&'static str> {
    let failed = bench.log.events.drain(..).find_map(|event| match event.what {
        What::Entry(entry) if entry.level == 2 => Some((entry.failed?, entry.vmcs02)),
        _ => None,
    });
    failed.map(|(check, vmcs02)| {
        assert_eq!(vmcs02, NO_ADDRESS, "silicon was asked");
        check.name()
    })
}

/// Launches; L1's EFER decides whether it is in IA-32e mode.
fn launch(bench: &mut Bench, broken: &Broken) {
    bench.l0.shared.capabilities = broken.capabilities;
    bench.set_l1(vmcs::GUEST_EFER, if broken.long_mode_host { 0x500 } else { 0 });
    bench.exits(Reason::VMLAUNCH, &[]);
    bench.l0.shared.capabilities = capabilities();
}

/// VMfailValid: L1 goes on behind VMLAUNCH with ZF set, the number in its field, and all else as it was.
fn fails_with(broken: &Broken, error: u32) {
    let mut bench = bench();
    take(&mut bench, &broken.vmcs);
    let rip = bench.now(vmcs::GUEST_RIP);
    let entered = bench.l0.silicon.entered.len();
    launch(&mut bench, broken);
    let name = broken.name;
    assert_eq!(named(&mut bench), Some(name));
    assert_eq!((bench.level(), bench.now(vmcs::GUEST_RIP)), (1, rip + 3), "{name}");
    assert_eq!(bench.now(vmcs::GUEST_RFLAGS) & 0x8d5, 0x40, "{name}: ZF alone");
    assert_eq!(bench.l0.silicon.entered.len(), entered + 1, "{name}: L1 alone was entered");
    bench.set_l1(vmcs::GUEST_EFER, 0x500);
    assert_eq!(bench.resume(), Flags(5), "{name}: it is still clear");
    let mut expected = broken.vmcs.clone();
    // The failed VMRESUME's number took the place of the first one's.
    expected.set(vmcs::VM_INSTRUCTION_ERROR, 5);
    assert_eq!(differing(&put_back(&mut bench), &expected), Vec::<String>::new(), "{name}");
    take(&mut bench, &broken.vmcs);
    launch(&mut bench, broken);
    bench.set_l1(vmcs::GUEST_EFER, 0x500);
    assert_eq!(bench.vmread(vmcs::VM_INSTRUCTION_ERROR), error, "{name}");
}

#[test]
fn a_wrong_control_is_error_7_and_nothing_else() {
    for broken in &tests::broken()[0] {
        fails_with(broken, 7);
    }
}

#[test]
fn wrong_host_state_is_error_8_and_nothing_else() {
    for broken in &tests::broken()[1] {
        fails_with(broken, 8);
    }
}

#[test]
fn wrong_guest_state_is_an_exit_that_loads_host_state_alone() {
    for broken in &tests::broken()[2] {
        let mut bench = bench();
        take(&mut bench, &broken.vmcs);
        let entered = bench.l0.silicon.entered.len();
        let (gprs, cr2) = (bench.l0.silicon.registers(0).gpr, bench.cr2());
        launch(&mut bench, broken);
        let name = broken.name;
        assert_eq!(named(&mut bench), Some(name));
        assert_eq!(bench.l0.silicon.entered.len(), entered + 1, "{name}: L1 alone was entered");
        // L1 is at its host state.
        assert_eq!((bench.level(), bench.now(vmcs::GUEST_RIP), bench.now(vmcs::GUEST_RSP)), (1, 0xa000, 0xb000));
        assert_eq!((bench.now(vmcs::GUEST_CR3), bench.now(vmcs::GUEST_RFLAGS)), (PML4, 2), "{name}");
        assert_eq!((bench.now(vmcs::GUEST_FS_BASE), bench.now(vmcs::GUEST_GDTR_BASE)), (0x1234, 0x5678), "{name}");
        assert_eq!((bench.now(vmcs::GUEST_CS_SELECTOR), bench.now(vmcs::GUEST_TR_SELECTOR)), (8, 16), "{name}");
        assert_eq!(bench.now(vmcs::GUEST_EFER), 0x500, "{name}");
        assert_eq!((bench.l0.silicon.registers(0).gpr, bench.cr2()), (gprs, cr2), "{name}");
        assert!(!bench.now(vmcs::ENTRY_INTERRUPTION_INFO).valid(), "{name}: nothing is injected");
        // vmcs12 says why, in two fields, and is otherwise as L1 left it.
        assert_eq!(bench.resume(), Flags(5), "{name}: it is still clear");
        let mut expected = broken.vmcs.clone();
        expected.set(vmcs::EXIT_REASON, ExitReason::of(Reason::INVALID_GUEST_STATE).with_entry_failure(true));
        expected.set(vmcs::EXIT_QUALIFICATION, tests::qualification(name));
        expected.set(vmcs::VM_INSTRUCTION_ERROR, 5);
        assert_eq!(differing(&put_back(&mut bench), &expected), Vec::<String>::new(), "{name}");
    }
}

#[test]
fn what_passes_every_row_is_entered() {
    for vmcs in tests::valid() {
        let mut bench = bench();
        take(&mut bench, &vmcs);
        assert_eq!(bench.launch(), Flags::SUCCEED, "{vmcs:?}");
    }
}

#[test]
fn an_activity_state_that_is_not_offered_is_not_entered() {
    for (state, offered) in [(0, true), (1, true), (2, false), (3, false)] {
        let mut bench = Bench::with_l2(Policy::default());
        bench.vmwrite(vmcs::GUEST_ACTIVITY_STATE, state);
        assert_eq!(bench.l0.shared.capabilities.misc >> 6 & 7, 1, "HLT is");
        bench.launch();
        assert_eq!(bench.level() == 2, offered, "{state}");
    }
}

/// An L2 in virtual-8086 mode when it exits, whose segment registers stay in the vmcs02.
fn left_in_v86() -> Bench {
    let mut bench = Bench::with_l2(Policy::default());
    bench.vmwrite(vmcs::ENTRY_CONTROLS, hv_defs::controls::EntryControls::from_bits_retain(0x11ff));
    bench.vmwrite(vmcs::GUEST_CS_ACCESS_RIGHTS, 0xc09b);
    assert_eq!(bench.launch(), Flags::SUCCEED);
    let mut moved = vec![(vmcs::GUEST_RFLAGS.field(), 0x2_0002), (vmcs::GUEST_EFER.field(), 0)];
    macro_rules! segment {
        ($($selector:ident $base:ident $limit:ident $rights:ident $value:literal;)*) => {
            $(moved.extend([
                (vmcs::$selector.field(), $value),
                (vmcs::$base.field(), $value << 4),
                (vmcs::$limit.field(), 0xffff),
                (vmcs::$rights.field(), 0xf3),
            ]);)*
        };
    }
    segment! {
        GUEST_ES_SELECTOR GUEST_ES_BASE GUEST_ES_LIMIT GUEST_ES_ACCESS_RIGHTS 0x100;
        GUEST_CS_SELECTOR GUEST_CS_BASE GUEST_CS_LIMIT GUEST_CS_ACCESS_RIGHTS 0x200;
        GUEST_SS_SELECTOR GUEST_SS_BASE GUEST_SS_LIMIT GUEST_SS_ACCESS_RIGHTS 0x300;
        GUEST_DS_SELECTOR GUEST_DS_BASE GUEST_DS_LIMIT GUEST_DS_ACCESS_RIGHTS 0x400;
        GUEST_FS_SELECTOR GUEST_FS_BASE GUEST_FS_LIMIT GUEST_FS_ACCESS_RIGHTS 0x500;
        GUEST_GS_SELECTOR GUEST_GS_BASE GUEST_GS_LIMIT GUEST_GS_ACCESS_RIGHTS 0x600;
    }
    bench.exits(Reason::CPUID, &moved);
    assert_eq!(bench.level(), 1);
    bench
}

#[test]
fn segments_that_stayed_in_vmcs02_are_checked_as_they_are_there() {
    let check = |change: &[(hv_defs::vmcs::VmcsField, u64)], fails: Option<&str>| {
        let mut bench = left_in_v86();
        for (field, value) in change {
            assert_eq!(bench.vmwrite_raw(field.0, *value), Flags::SUCCEED);
        }
        bench.log.events.clear();
        bench.resume();
        assert_eq!(named(&mut bench), fails);
        if fails.is_none() {
            assert_eq!(
                (bench.level(), bench.now(vmcs::GUEST_DS_SELECTOR), bench.now(vmcs::GUEST_DS_BASE)),
                (2, 0x400, 0x4000)
            );
        }
    };
    check(&[], None);
    check(&[(vmcs::GUEST_RIP.field(), 2)], None);
    check(&[(vmcs::EXCEPTION_BITMAP.field(), 1 << 6)], None);
    check(&[(vmcs::GUEST_RFLAGS.field(), 0x2_0202)], None);
    check(&[(vmcs::GUEST_DS_SELECTOR.field(), 0x401)], Some("guest-ds-base-v86"));
    check(&[(vmcs::GUEST_RFLAGS.field(), 2)], Some("guest-cs-dpl"));
}

#[test]
fn an_entry_that_fails_does_not_lose_what_stayed_in_vmcs02() {
    let mut bench = Bench::with_l2(Policy::default());
    bench.launch();
    bench.exits(Reason::CPUID, &[(vmcs::GUEST_FS_BASE.field(), 0x7777)]);
    bench.vmwrite(vmcs::GUEST_RFLAGS, 0);
    bench.resume();
    assert_eq!(bench.vmread(vmcs::EXIT_REASON).into_bits(), 0x8000_0021);
    bench.vmwrite(vmcs::GUEST_RFLAGS, 2);
    assert_eq!(bench.resume(), Flags::SUCCEED);
    assert_eq!(bench.now(vmcs::GUEST_FS_BASE), 0x7777);
}

#[test]
fn nmis_are_blocked_in_l1_as_the_sdm_says() {
    const NMI: u64 = 8;
    // L2 exits with this in its field; L1's pin-based controls; whether L1 starts with NMIs blocked.
    let check = |pin: u32, l2: u64, expected: u32| {
        let mut bench = Bench::with_l2(Policy::default());
        bench.vmwrite(vmcs::PIN_BASED_CONTROLS, hv_defs::controls::PinBased::from_bits_retain(0x16 | pin));
        bench.launch();
        bench.exits(Reason::CPUID, &[(vmcs::GUEST_INTERRUPTIBILITY.field(), l2)]);
        assert_eq!((bench.level(), bench.now(vmcs::GUEST_INTERRUPTIBILITY)), (1, expected), "{pin:#x} {l2:#x}");
    };
    check(0, 0, 0);
    check(0, NMI, NMI as u32);
    check(0x08, NMI, NMI as u32);
    check(0x28, NMI, 0);
    check(0x28, 1, 0);
    // An entry that fails leaves them as they were.
    for blocking in [0, NMI] {
        let mut bench = Bench::with_l2(Policy::default());
        bench.vmwrite(vmcs::GUEST_RFLAGS, 0);
        bench.exits(Reason::VMLAUNCH, &[(vmcs::GUEST_INTERRUPTIBILITY.field(), blocking)]);
        assert_eq!((bench.level(), u64::from(bench.now(vmcs::GUEST_INTERRUPTIBILITY))), (1, blocking));
    }
}

#[test]
fn the_vmcs_is_where_the_cases_think() {
    assert_eq!(SELF, VMCS_A);
}
