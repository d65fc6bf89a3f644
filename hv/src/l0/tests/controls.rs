//! Controls of L1's that L0 carries into what L2 runs under, and back.

use super::script::{Bench, EPT12, Flags, L2_PAGES};
use crate::l0::{L0_MEMORY, Ran};
use crate::silicon::Silicon;
use hv_defs::addr::Hpa;
use hv_defs::controls::{ActivityState, EntryControls, ExitControls, PinBased, PrimaryControls, SecondaryControls};
use hv_defs::ept::EptEntry;
use hv_defs::event::What;
use hv_defs::exit::{EptViolation, Reason};
use hv_defs::policy::Policy;
use hv_defs::vmcs;
use hv_defs::x86::msr;

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
    fn window(bench: &mut Bench) {
        let primary = bench.vmread(vmcs::PRIMARY_CONTROLS);
        bench.vmwrite(vmcs::PRIMARY_CONTROLS, primary | PrimaryControls::INTERRUPT_WINDOW_EXITING);
    }
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
            window(bench);
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

/// L2 writes an MSR that L1 lets pass, and L0 carries out.
fn l2_writes(bench: &mut Bench, msr: u32, value: u64) {
    (*bench.gpr(1), *bench.gpr(0), *bench.gpr(2)) = (msr.into(), value & 0xffff_ffff, value >> 32);
    bench.exits(Reason::WRMSR, &[]);
    assert_eq!(bench.level(), 2);
}

const BITMAP: u64 = 0x2_2000;
const OTHER_PAT: u64 = 0x0007_0406_0007_0401;

/// An L2 whose MSRs L1 leaves to L0.
fn with_bitmap() -> Bench {
    let mut bench = Bench::with_l2(Policy::default());
    let primary = bench.vmread(vmcs::PRIMARY_CONTROLS);
    bench.vmwrite(vmcs::PRIMARY_CONTROLS, primary | PrimaryControls::MSR_BITMAPS);
    bench.vmwrite(vmcs::MSR_BITMAP, BITMAP);
    bench
}

#[test]
fn what_an_exit_saves_and_loads() {
    use ExitControls as E;
    let check = |control: E| {
        let mut bench = with_bitmap();
        let none = bench.vmread(vmcs::EXIT_CONTROLS) - E::SAVE_DEBUG_CONTROLS;
        bench.vmwrite(vmcs::EXIT_CONTROLS, none | control);
        bench.vmwrite(vmcs::HOST_PAT, 0x0606_0606_0606_0606);
        bench.vmwrite(vmcs::HOST_EFER, 0xd00);
        bench.launch();
        l2_writes(&mut bench, msr::PAT, OTHER_PAT);
        l2_writes(&mut bench, msr::EFER, 0x501);
        bench.exits(Reason::VMCALL, &[(vmcs::GUEST_DR7.field(), 0x401), (vmcs::GUEST_DEBUGCTL.field(), 2)]);
        let saved = |on: bool, now: u64, before: u64| if on { now } else { before };
        let got = (bench.now(vmcs::GUEST_PAT), bench.now(vmcs::GUEST_EFER));
        // What is not loaded L1 has from L2, but for LMA and LME.
        let pat = saved(control == E::LOAD_PAT, 0x0606_0606_0606_0606, OTHER_PAT);
        assert_eq!(got, (pat, saved(control == E::LOAD_EFER, 0xd00, 0x501)), "{control:?}");
        assert_eq!((bench.now(vmcs::GUEST_DR7), bench.now(vmcs::GUEST_DEBUGCTL)), (0x400, 0), "{control:?}");
        let debug = control == E::SAVE_DEBUG_CONTROLS;
        assert_eq!(bench.vmread(vmcs::GUEST_DR7), saved(debug, 0x401, 0x400), "{control:?}");
        assert_eq!(bench.vmread(vmcs::GUEST_DEBUGCTL), saved(debug, 2, 0), "{control:?}");
        assert_eq!(bench.vmread(vmcs::GUEST_PAT), saved(control == E::SAVE_PAT, OTHER_PAT, 0), "{control:?}");
        assert_eq!(bench.vmread(vmcs::GUEST_EFER), saved(control == E::SAVE_EFER, 0x501, 0), "{control:?}");
    };
    for control in [E::empty(), E::SAVE_DEBUG_CONTROLS, E::SAVE_PAT, E::LOAD_PAT, E::SAVE_EFER, E::LOAD_EFER] {
        check(control);
    }
}

#[test]
fn what_an_entry_loads() {
    use EntryControls as E;
    let check = |control: E| {
        let mut bench = Bench::with_l2(Policy::default());
        let none = bench.vmread(vmcs::ENTRY_CONTROLS) - E::LOAD_DEBUG_CONTROLS;
        bench.vmwrite(vmcs::ENTRY_CONTROLS, none | control);
        for (field, value) in [
            (vmcs::GUEST_DR7, 0x401),
            (vmcs::GUEST_DEBUGCTL, 2),
            (vmcs::GUEST_PAT, OTHER_PAT),
            (vmcs::GUEST_EFER, 0x501),
        ] {
            bench.vmwrite(field, value);
        }
        for (field, value) in [
            (vmcs::GUEST_DR7, 0x402),
            (vmcs::GUEST_DEBUGCTL, 1),
            (vmcs::GUEST_PAT, 0x0606_0606_0606_0606),
            (vmcs::GUEST_EFER, 0xd00),
        ] {
            bench.set_l1(field, value);
        }
        assert_eq!(bench.launch(), Flags::SUCCEED);
        let from = |on: bool, vmcs12: u64, l1: u64| if on { vmcs12 } else { l1 };
        let debug = control == E::LOAD_DEBUG_CONTROLS;
        assert_eq!(bench.now(vmcs::GUEST_DR7), from(debug, 0x401, 0x402), "{control:?}");
        assert_eq!(bench.now(vmcs::GUEST_DEBUGCTL), from(debug, 2, 1), "{control:?}");
        let pat = from(control == E::LOAD_PAT, OTHER_PAT, 0x0606_0606_0606_0606);
        assert_eq!(bench.now(vmcs::GUEST_PAT), pat, "{control:?}");
        assert_eq!(bench.now(vmcs::GUEST_EFER), from(control == E::LOAD_EFER, 0x501, 0xd00), "{control:?}");
    };
    for control in [E::empty(), E::LOAD_DEBUG_CONTROLS, E::LOAD_PAT, E::LOAD_EFER] {
        check(control);
    }
}

#[test]
fn ports_are_l1_s_by_its_bitmaps() {
    const PORTS: u64 = 0x2_3000;
    let check = |port: u64, size: u64, own: bool| {
        let mut bench = Bench::with_l2(Policy::default());
        let primary = bench.vmread(vmcs::PRIMARY_CONTROLS);
        // With the bitmaps, the control for all ports does not count.
        let io = PrimaryControls::IO_BITMAPS | PrimaryControls::UNCONDITIONAL_IO_EXITING;
        bench.vmwrite(vmcs::PRIMARY_CONTROLS, primary | io);
        bench.vmwrite(vmcs::IO_BITMAP_A, PORTS);
        bench.vmwrite(vmcs::IO_BITMAP_B, PORTS + 0x1000);
        bench.store(PORTS + 0x70 / 8, 1 << 1);
        bench.store(PORTS + 0x1000, 1 << 1);
        bench.launch();
        bench.exits(Reason::IO_INSTRUCTION, &[(vmcs::EXIT_QUALIFICATION.field(), port << 16 | 8 | (size - 1))]);
        assert_eq!(bench.level() == 1, own, "{port:#x} {size}");
    };
    check(0x71, 1, true);
    check(0x70, 1, false);
    check(0x70, 2, true);
    check(0x72, 4, false);
    check(0x6e, 4, true);
    check(0x8001, 1, true);
    check(0x8000, 1, false);
    check(0x7ffe, 4, true);
    // It wraps around the last port.
    check(0xffff, 2, true);
    check(0xfffe, 2, false);
}

#[test]
fn msrs_are_l1_s_by_its_bitmap() {
    let check = |msr: u64, write: bool, own: bool| {
        let mut bench = with_bitmap();
        // Reads of 0x3a, writes of EFER.
        bench.store(BITMAP, 0);
        bench.l0.silicon.write(Hpa(L0_MEMORY + BITMAP + 0x3a / 8), &[1 << 2]);
        bench.l0.silicon.write(Hpa(L0_MEMORY + BITMAP + 3072 + 0x80 / 8), &[1]);
        bench.launch();
        (*bench.gpr(1), *bench.gpr(0), *bench.gpr(2)) = (msr, 0x500, 0);
        bench.exits(if write { Reason::WRMSR } else { Reason::RDMSR }, &[]);
        assert_eq!(bench.level() == 1, own, "{msr:#x} {write}");
    };
    check(0x3a, false, true);
    check(0x3a, true, false);
    check(0xc000_0080, true, true);
    check(0xc000_0080, false, false);
    // What no bitmap covers.
    check(0x4000_0000, false, true);
}

#[test]
fn secondary_controls_count_where_they_are_activated() {
    for on in [true, false] {
        let mut bench = Bench::with_l2(Policy::default());
        let mut primary = bench.vmread(vmcs::PRIMARY_CONTROLS);
        primary.set(PrimaryControls::ACTIVATE_SECONDARY, on);
        bench.vmwrite(vmcs::PRIMARY_CONTROLS, primary);
        let secondary = bench.vmread(vmcs::SECONDARY_CONTROLS);
        bench.vmwrite(vmcs::SECONDARY_CONTROLS, secondary | SecondaryControls::WBINVD_EXITING);
        assert_eq!(bench.launch(), Flags::SUCCEED);
        // Without them L2 has no EPT of L1's either.
        let entered = bench.now(vmcs::EPT_POINTER);
        assert_eq!(bench.l0.ept02.roots.iter().flatten().any(|root| root.eptp02 == entered), on);
        bench.exits(Reason::WBINVD, &[]);
        assert_eq!(bench.level() == 1, on);
    }
}

#[test]
fn what_l1_asks_of_exceptions_and_cr3_is_what_silicon_is_asked() {
    let mut bench = Bench::with_l2(Policy::default());
    bench.vmwrite(vmcs::EXCEPTION_BITMAP, 1 << 14 | 1 << 6);
    bench.vmwrite(vmcs::PAGE_FAULT_ERROR_CODE_MASK, 5);
    bench.vmwrite(vmcs::PAGE_FAULT_ERROR_CODE_MATCH, 4);
    bench.vmwrite(vmcs::CR3_TARGET_COUNT, 2);
    bench.vmwrite(vmcs::CR3_TARGET_1, 0x7000);
    bench.launch();
    assert_eq!(bench.now(vmcs::EXCEPTION_BITMAP), 1 << 14 | 1 << 6);
    assert_eq!((bench.now(vmcs::PAGE_FAULT_ERROR_CODE_MASK), bench.now(vmcs::PAGE_FAULT_ERROR_CODE_MATCH)), (5, 4));
    assert_eq!((bench.now(vmcs::CR3_TARGET_COUNT), bench.now(vmcs::CR3_TARGET_1)), (2, 0x7000));
}

#[test]
fn an_exit_in_delivery_tells_l1_of_the_event() {
    // An exit in the delivery of a page fault, and fields that go with it.
    let check = |reason: Reason, more: &[(hv_defs::vmcs::VmcsField, u64)]| {
        let mut bench = Bench::with_l2(Policy::default());
        bench.vmwrite(vmcs::EXCEPTION_BITMAP, u32::MAX);
        bench.launch();
        let mut answer = vec![
            (vmcs::IDT_VECTORING_INFO.field(), 0x8000_0b0e),
            (vmcs::IDT_VECTORING_ERROR_CODE.field(), 6),
            (vmcs::GUEST_PHYSICAL_ADDRESS.field(), 0x7000),
            (vmcs::GUEST_LINEAR_ADDRESS.field(), 0x1_7000),
        ];
        answer.extend_from_slice(more);
        bench.exits(reason, &answer);
        assert_eq!((bench.level(), bench.vmread(vmcs::EXIT_REASON).reason()), (1, reason));
        assert_eq!(bench.vmread(vmcs::IDT_VECTORING_INFO).into_bits(), 0x8000_0b0e, "{reason}");
        assert_eq!(bench.vmread(vmcs::IDT_VECTORING_ERROR_CODE), 6, "{reason}");
    };
    check(Reason::EPT_VIOLATION, &[(vmcs::EXIT_QUALIFICATION.field(), 0x182)]);
    check(Reason::TASK_SWITCH, &[(vmcs::EXIT_QUALIFICATION.field(), 0xc000_0018)]);
    check(Reason::EXCEPTION_NMI, &[(vmcs::EXIT_INTERRUPTION_INFO.field(), 0x8000_0b0d)]);
    check(Reason::EXCEPTION_NMI, &[(vmcs::EXIT_INTERRUPTION_INFO.field(), 0x8000_0b08)]);
}

#[test]
fn the_linear_address_of_lmsw_s_operand_reaches_l1() {
    for (qualification, expected) in [(0x0001_0070, 0x1234), (0x0001_0030, 0x1234), (0x700, 0)] {
        let mut bench = Bench::with_l2(Policy::default());
        bench.vmwrite(vmcs::CR0_GUEST_HOST_MASK, 0xf);
        bench.vmwrite(vmcs::CR0_READ_SHADOW, 8);
        bench.launch();
        let more = [(vmcs::EXIT_QUALIFICATION.field(), qualification), (vmcs::GUEST_LINEAR_ADDRESS.field(), 0x1234)];
        bench.exits(Reason::CR_ACCESS, &more);
        assert_eq!((bench.level(), bench.vmread(vmcs::GUEST_LINEAR_ADDRESS)), (1, expected), "{qualification:#x}");
    }
}

#[test]
fn areas_of_msrs_that_cannot_be_are_a_failed_entry_or_a_vmx_abort() {
    const AREA: u64 = 0x2_1000;
    // The MSR, the field of the area, and what comes: an entry that fails, a VMX abort with its indicator, or neither.
    let check = |msr: u64, store: bool, abort: u64| {
        let mut bench = Bench::with_l2(Policy::default());
        let (address, count) = match store {
            true => (vmcs::VM_EXIT_MSR_STORE_ADDRESS, vmcs::VM_EXIT_MSR_STORE_COUNT),
            false => (vmcs::VM_EXIT_MSR_LOAD_ADDRESS, vmcs::VM_EXIT_MSR_LOAD_COUNT),
        };
        bench.vmwrite(address, AREA);
        bench.vmwrite(count, 1);
        bench.store(AREA, msr);
        bench.store(AREA + 8, 0);
        assert_eq!(bench.launch(), Flags::SUCCEED);
        let ran = bench.exits(Reason::VMCALL, &[]);
        assert_eq!(matches!(ran, Ran::Stop(_)), abort != 0, "{msr:#x} {store}: {ran:?}");
        assert_eq!(bench.load(super::script::VMCS_A) >> 32, abort, "{msr:#x} {store}");
    };
    let lstar = u64::from(msr::LSTAR);
    check(lstar, true, 0);
    check(lstar, false, 0);
    // FS_BASE can be stored and not loaded.
    check(msr::FS_BASE.into(), true, 0);
    check(msr::FS_BASE.into(), false, 4);
    for wrong in [0x802, 0x79, 0x8b, 1 << 32 | lstar, 0x1234] {
        check(wrong, true, 1);
        check(wrong, false, 4);
    }
}
