//! Controls of L1's that L0 carries into what L2 runs under, and back.

use super::script::{Bench, EPT12, Flags, L2_PAGES};
use crate::l0::{L0_MEMORY, Ran};
use hv_defs::controls::{ActivityState, PinBased, PrimaryControls, SecondaryControls};
use hv_defs::ept::EptEntry;
use hv_defs::event::What;
use hv_defs::exit::{EptViolation, Reason};
use hv_defs::policy::Policy;
use hv_defs::vmcs;

/// An L2 under mode-based execute control, whose third page has these permissions in EPT12.
fn mode_based(permissions: u64) -> Bench {
    let mut bench = Bench::with_l2(Policy::default());
    let secondary = bench.vmread(vmcs::SECONDARY_CONTROLS);
    bench.vmwrite(vmcs::SECONDARY_CONTROLS, secondary | SecondaryControls::MODE_BASED_EXECUTE);
    for level in 0..3 {
        bench.store(EPT12 + level * 0x1000, (EPT12 + (level + 1) * 0x1000) | 0x407);
    }
    bench.store(EPT12 + 0x3010, (L2_PAGES + 0x2000) | 0x30 | permissions);
    assert_eq!(bench.launch(), Flags::SUCCEED);
    assert!(bench.now(vmcs::SECONDARY_CONTROLS).contains(SecondaryControls::MODE_BASED_EXECUTE));
    bench
}

#[test]
fn mode_based_execute_reaches_ept02_and_comes_back() {
    const USER: u64 = 1 << 10;
    // A fetch by an address of that kind, and what L1 is told of the permissions: bits 6:3; `None` if it is not asked.
    let check = |permissions: u64, user: bool, told: Option<u64>| {
        let mut bench = mode_based(permissions);
        bench.log.events.clear();
        let fetch = EptViolation::new().with_fetch(true).with_user_page(user);
        bench.l2_touches(0x2000, fetch.into_bits());
        let reflected = (bench.level() == 1).then(|| bench.vmread(vmcs::EXIT_QUALIFICATION) >> 3 & 15);
        assert_eq!(reflected, told, "{permissions:#x} {user}");
        if told.is_none() {
            let leaf = bench.log.events.iter().find_map(|event| match event.what {
                What::Ept(change) if change.size == 0x1000 => Some(EptEntry::from_bits(change.new)),
                _ => None,
            });
            let leaf = leaf.expect("EPT02 was filled");
            assert_eq!(leaf.into_bits() & (7 | USER), permissions, "{permissions:#x}");
            assert_eq!(leaf.address(), L0_MEMORY + L2_PAGES + 0x2000);
        }
    };
    check(1 | 4, false, None);
    check(1 | 4, true, Some(0b0101));
    check(1 | USER, true, None);
    check(1 | USER, false, Some(0b1001));
    // For execution alone, by user-mode addresses alone.
    check(USER, true, None);
    check(USER, false, Some(0b1000));
    check(0, true, Some(0));
}

#[test]
fn without_it_bit_10_means_nothing() {
    let mut bench = Bench::with_l2(Policy::default());
    bench.store(EPT12 + 0x3010, (L2_PAGES + 0x2000) | 0x430);
    bench.launch();
    bench.l2_touches(0x2000, EptViolation::new().with_fetch(true).with_user_page(true).into_bits());
    assert_eq!((bench.level(), bench.vmread(vmcs::EXIT_QUALIFICATION) >> 3 & 15), (1, 0));
}

#[test]
fn each_mode_has_an_ept02_of_its_own() {
    let mut bench = mode_based(7);
    let with = bench.now(vmcs::EPT_POINTER);
    bench.vmcall();
    let secondary = bench.vmread(vmcs::SECONDARY_CONTROLS);
    bench.vmwrite(vmcs::SECONDARY_CONTROLS, secondary - SecondaryControls::MODE_BASED_EXECUTE);
    bench.resume();
    assert_ne!(bench.now(vmcs::EPT_POINTER), with);
    bench.vmcall();
    bench.vmwrite(vmcs::SECONDARY_CONTROLS, secondary);
    bench.resume();
    assert_eq!(bench.now(vmcs::EPT_POINTER), with);
}

#[test]
fn nmis_that_an_iret_unblocked_are_blocked_again_where_l0_lets_it_run_again() {
    let unblocked = EptViolation::new().with_read(true).with_nmi_unblocking(true).into_bits();
    let mut bench = Bench::with_l2(Policy::default());
    bench.launch();
    bench.l2_touches(0x1000, unblocked);
    assert_eq!((bench.level(), bench.now(vmcs::GUEST_INTERRUPTIBILITY)), (2, 8));
    // What EPT12 does not map is L1's to see to.
    bench.l2_touches(0x5000, unblocked);
    assert_eq!(bench.level(), 1);
    let told = EptViolation::from_bits(bench.vmread(vmcs::EXIT_QUALIFICATION));
    assert!(told.nmi_unblocking() && told.read() && !told.readable());
}

#[test]
fn an_exception_that_l0_raises_in_real_mode_has_no_error_code() {
    for (cr0, has) in [(0x8000_0031, true), (0x30, false)] {
        let mut bench = Bench::preset("mapped");
        bench.set_l1(vmcs::GUEST_CR0, cr0);
        *bench.gpr(1) = 0x1234_5678;
        bench.exits(Reason::RDMSR, &[]);
        let info = bench.now(vmcs::ENTRY_INTERRUPTION_INFO);
        assert_eq!((info.valid(), info.vector(), info.has_error_code()), (true, 13, has));
    }
}

#[test]
fn the_preemption_timer_ends_a_halt_of_l2_s() {
    let mut bench = Bench::with_l2(Policy::default());
    let pin = PinBased::from_bits_retain(0x16) | PinBased::PREEMPTION_TIMER;
    bench.vmwrite(vmcs::PIN_BASED_CONTROLS, pin);
    bench.vmwrite(vmcs::GUEST_ACTIVITY_STATE, ActivityState::Hlt as u32);
    bench.vmwrite(vmcs::PREEMPTION_TIMER_VALUE, 100);
    assert_eq!(bench.launch(), Flags::SUCCEED);
    assert_eq!(bench.exits(Reason::EXTERNAL_INTERRUPT, &[]), Ran::Ready);
    assert_eq!(bench.now(vmcs::GUEST_ACTIVITY_STATE), ActivityState::Hlt as u32);
    bench.exits(Reason::PREEMPTION_TIMER, &[]);
    assert_eq!((bench.level(), bench.vmread(vmcs::EXIT_REASON).reason()), (1, Reason::PREEMPTION_TIMER));
    assert_eq!(bench.vmread(vmcs::GUEST_ACTIVITY_STATE), ActivityState::Hlt as u32);
    // Without a timer there is nothing to enter for.
    let mut bench = Bench::with_l2(Policy::default());
    bench.vmwrite(vmcs::GUEST_ACTIVITY_STATE, ActivityState::Hlt as u32);
    bench.launch();
    assert_eq!(bench.exits(Reason::EXTERNAL_INTERRUPT, &[]), Ran::Halted);
}

#[test]
fn what_comes_with_the_entry_ends_a_halt() {
    let check = |name: &str, prepare: fn(&mut Bench), waits: bool| {
        let mut bench = Bench::with_l2(Policy::default());
        bench.vmwrite(vmcs::GUEST_ACTIVITY_STATE, ActivityState::Hlt as u32);
        prepare(&mut bench);
        assert_eq!(bench.launch(), Flags::SUCCEED, "{name}");
        assert_eq!(bench.exits(Reason::EXTERNAL_INTERRUPT, &[]) == Ran::Halted, waits, "{name}");
    };
    let window = |bench: &mut Bench| {
        let primary = bench.vmread(vmcs::PRIMARY_CONTROLS);
        bench.vmwrite(vmcs::PRIMARY_CONTROLS, primary | PrimaryControls::INTERRUPT_WINDOW_EXITING);
    };
    check("nothing", |_| (), true);
    check(
        "an interrupt",
        |bench| {
            bench.vmwrite(vmcs::GUEST_RFLAGS, 0x202);
            bench.vmwrite_raw(0x4016, 0x8000_0030);
        },
        false,
    );
    check("a breakpoint", |bench| bench.vmwrite(vmcs::GUEST_PENDING_DEBUG_EXCEPTIONS, 0x1001), false);
    check("a window that is shut", window, true);
    check(
        "a window that is open",
        |bench| {
            let primary = bench.vmread(vmcs::PRIMARY_CONTROLS);
            bench.vmwrite(vmcs::PRIMARY_CONTROLS, primary | PrimaryControls::INTERRUPT_WINDOW_EXITING);
            bench.vmwrite(vmcs::GUEST_RFLAGS, 0x202);
        },
        false,
    );
}

#[test]
fn l2_changes_no_bit_of_cr0_or_cr4_that_l1_keeps() {
    // L1 keeps WP and TS of CR0, and OSFXSR of CR4; L2 sees them as it likes them.
    let mut bench = Bench::with_l2(Policy::default());
    bench.vmwrite(vmcs::CR0_GUEST_HOST_MASK, 0x1_0008);
    bench.vmwrite(vmcs::CR0_READ_SHADOW, 0);
    bench.vmwrite(vmcs::GUEST_CR0, 0x8001_0033);
    bench.vmwrite(vmcs::CR4_GUEST_HOST_MASK, 0x200);
    bench.vmwrite(vmcs::CR4_READ_SHADOW, 0x200);
    bench.launch();
    // CD is L0's to keep, and so it sees a write that leaves L1's bits as L2 sees them.
    *bench.gpr(0) = 0xffff_ffff_c000_0033;
    bench.exits(Reason::CR_ACCESS, &[(vmcs::EXIT_QUALIFICATION.field(), 0)]);
    let rip = bench.now(vmcs::GUEST_RIP);
    assert_eq!(bench.level(), 2);
    assert!(bench.now(vmcs::ENTRY_INTERRUPTION_INFO).valid(), "bits 63:32 are reserved in 64-bit mode");
    *bench.gpr(0) = 0xc000_0033;
    bench.exits(Reason::CR_ACCESS, &[(vmcs::EXIT_QUALIFICATION.field(), 0)]);
    assert_eq!((bench.level(), bench.now(vmcs::GUEST_RIP)), (2, rip + 3));
    assert_eq!((bench.now(vmcs::GUEST_CR0), bench.now(vmcs::CR0_READ_SHADOW)), (0x8001_0033, 0xc000_0033));
    // PCIDE cannot be set with a PCID in CR3; PGE is L2's own. VMXE stays.
    *bench.gpr(0) = 0x22a0;
    bench.exits(Reason::CR_ACCESS, &[(vmcs::EXIT_QUALIFICATION.field(), 4)]);
    assert_eq!((bench.now(vmcs::GUEST_CR4), bench.now(vmcs::CR4_READ_SHADOW) & 0x2aa0), (0x20a0, 0x22a0));
    *bench.gpr(0) = 0x2a0;
    bench.exits(Reason::CR_ACCESS, &[(vmcs::EXIT_QUALIFICATION.field(), 4)]);
    assert!(bench.now(vmcs::ENTRY_INTERRUPTION_INFO).valid(), "VMXE cannot be cleared in VMX operation");
    // What differs from what L2 sees of L1's bits is L1's.
    *bench.gpr(0) = 0x8001_0033;
    bench.exits(Reason::CR_ACCESS, &[(vmcs::EXIT_QUALIFICATION.field(), 0)]);
    assert_eq!(bench.level(), 1);
}
