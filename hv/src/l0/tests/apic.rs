//! The virtual APIC that L1 gives L2: what vmcs02 has of it, which MSRs pass, who is told of its exits, posted interrupts.

use super::script::{Bench, Flags};
use crate::l0::monitor::Wait;
use crate::l0::{L0_MEMORY, Ran};
use crate::silicon::Silicon;
use hv_defs::addr::Hpa;
use hv_defs::controls::{ExitControls, PinBased, PrimaryControls, SecondaryControls};
use hv_defs::exit::Reason;
use hv_defs::instruction_error::InstructionError;
use hv_defs::policy::Policy;
use hv_defs::vmcs;

const VIRTUAL_APIC: u64 = 0x5_0000;
const APIC_ACCESS: u64 = 0x5_1000;
const DESCRIPTOR: u64 = 0x5_2040;
const BITMAP: u64 = 0x5_3000;
const NOTIFICATION: u16 = 0xf2;
/// An address of L1's where there is no RAM.
const NO_RAM: u64 = 0xfee0_0000;

const DELIVERY: SecondaryControls = SecondaryControls::VIRTUALIZE_APIC_ACCESSES
    .union(SecondaryControls::APIC_REGISTER_VIRTUALIZATION)
    .union(SecondaryControls::VIRTUAL_INTERRUPT_DELIVERY);
const X2APIC: SecondaryControls = SecondaryControls::VIRTUALIZE_X2APIC
    .union(SecondaryControls::APIC_REGISTER_VIRTUALIZATION)
    .union(SecondaryControls::VIRTUAL_INTERRUPT_DELIVERY);

/// L1 that gives L2 a virtual APIC with these controls, and takes its own interrupts from it.
fn with_apic(controls: SecondaryControls) -> Bench {
    let mut bench = Bench::with_l2(Policy::default());
    let primary = PrimaryControls::from_bits_retain(0x0401_e172)
        | PrimaryControls::ACTIVATE_SECONDARY
        | PrimaryControls::TPR_SHADOW
        | PrimaryControls::MSR_BITMAPS;
    bench.vmwrite(vmcs::PRIMARY_CONTROLS, primary);
    let own = SecondaryControls::EPT | SecondaryControls::UNRESTRICTED_GUEST | SecondaryControls::VPID;
    bench.vmwrite(vmcs::SECONDARY_CONTROLS, own | controls);
    let pin = PinBased::from_bits_retain(0x16) | PinBased::EXTERNAL_INTERRUPT_EXITING;
    bench.vmwrite(vmcs::PIN_BASED_CONTROLS, pin);
    bench.vmwrite(vmcs::VIRTUAL_APIC_ADDRESS, VIRTUAL_APIC);
    bench.vmwrite(vmcs::APIC_ACCESS_ADDRESS, APIC_ACCESS);
    bench.vmwrite(vmcs::MSR_BITMAP, BITMAP);
    bench
}

/// The same with posted interrupts.
fn with_posting() -> Bench {
    let mut bench = with_apic(DELIVERY);
    let pin = bench.vmread(vmcs::PIN_BASED_CONTROLS) | PinBased::POSTED_INTERRUPTS;
    bench.vmwrite(vmcs::PIN_BASED_CONTROLS, pin);
    let exit = bench.vmread(vmcs::EXIT_CONTROLS) | ExitControls::ACKNOWLEDGE_INTERRUPT;
    bench.vmwrite(vmcs::EXIT_CONTROLS, exit);
    bench.vmwrite(vmcs::POSTED_INTERRUPT_VECTOR, NOTIFICATION);
    bench.vmwrite(vmcs::POSTED_INTERRUPT_DESCRIPTOR_ADDRESS, DESCRIPTOR);
    bench
}

/// L2 runs.
fn enter(bench: &mut Bench) {
    assert_eq!(bench.launch(), Flags::SUCCEED);
    bench.exits(Reason::EXTERNAL_INTERRUPT, &[]);
    bench.log.events.clear();
}

#[test]
fn vmcs02_runs_on_l1_s_pages() {
    let mut bench = with_posting();
    bench.vmwrite(vmcs::EOI_EXIT_BITMAP_0, 0x11);
    bench.vmwrite(vmcs::EOI_EXIT_BITMAP_3, 0x22);
    bench.vmwrite(vmcs::GUEST_INTERRUPT_STATUS, 0x5141);
    enter(&mut bench);
    let secondary = bench.now(vmcs::SECONDARY_CONTROLS);
    assert!(secondary.contains(DELIVERY) && bench.now(vmcs::PRIMARY_CONTROLS).contains(PrimaryControls::TPR_SHADOW));
    assert_eq!(bench.now(vmcs::VIRTUAL_APIC_ADDRESS), L0_MEMORY + VIRTUAL_APIC);
    assert_eq!(bench.now(vmcs::APIC_ACCESS_ADDRESS), L0_MEMORY + APIC_ACCESS);
    assert_eq!((bench.now(vmcs::EOI_EXIT_BITMAP_0), bench.now(vmcs::EOI_EXIT_BITMAP_3)), (0x11, 0x22));
    assert_eq!(bench.now(vmcs::GUEST_INTERRUPT_STATUS), 0x5141);
    assert!(!bench.now(vmcs::PIN_BASED_CONTROLS).contains(PinBased::POSTED_INTERRUPTS));
}

#[test]
fn the_guest_interrupt_status_comes_back() {
    let mut bench = with_apic(DELIVERY);
    bench.vmwrite(vmcs::GUEST_INTERRUPT_STATUS, 0x41);
    enter(&mut bench);
    bench.exits(Reason::VMCALL, &[(vmcs::GUEST_INTERRUPT_STATUS.field(), 0x5100)]);
    assert_eq!(bench.vmread(vmcs::GUEST_INTERRUPT_STATUS), 0x5100);
    // L1 leaves it, and L2 goes on with it.
    assert_eq!(bench.resume(), Flags::SUCCEED);
    assert_eq!(bench.now(vmcs::GUEST_INTERRUPT_STATUS), 0x5100);
    bench.exits(Reason::VMCALL, &[]);
    bench.vmwrite(vmcs::GUEST_INTERRUPT_STATUS, 0x41);
    assert_eq!(bench.resume(), Flags::SUCCEED);
    assert_eq!(bench.now(vmcs::GUEST_INTERRUPT_STATUS), 0x41);
}

#[test]
fn pages_that_are_no_ram_take_their_controls_away() {
    let mut bench = with_apic(X2APIC);
    bench.vmwrite(vmcs::VIRTUAL_APIC_ADDRESS, NO_RAM);
    enter(&mut bench);
    assert!(!bench.now(vmcs::SECONDARY_CONTROLS).intersects(X2APIC));
    let primary = bench.now(vmcs::PRIMARY_CONTROLS);
    assert!(!primary.contains(PrimaryControls::TPR_SHADOW));
    assert!(primary.contains(PrimaryControls::CR8_LOAD_EXITING | PrimaryControls::CR8_STORE_EXITING));
    assert_eq!(x2apic_passes(&mut bench), (0, 0));
    let mut bench = with_apic(DELIVERY);
    bench.vmwrite(vmcs::APIC_ACCESS_ADDRESS, NO_RAM);
    enter(&mut bench);
    assert!(!bench.now(vmcs::SECONDARY_CONTROLS).contains(SecondaryControls::VIRTUALIZE_APIC_ACCESSES));
}

/// How many MSRs of x2APIC mode L2 may read and write without an exit.
fn x2apic_passes(bench: &mut Bench) -> (u32, u32) {
    let bitmap = bench.now(vmcs::MSR_BITMAP);
    let mut passes = |at: u64| {
        let mut bits = [0; 32];
        bench.l0.silicon.read(Hpa(bitmap + at), &mut bits);
        bits.iter().map(|byte| byte.count_zeros()).sum()
    };
    (passes(0x100), passes(0x900))
}

#[test]
fn msrs_of_x2apic_mode_pass_where_l1_lets_them_and_silicon_has_them() {
    let check = |controls, theirs: u64, expected| {
        let mut bench = with_apic(controls);
        for word in 0..512 {
            bench.store(BITMAP + 8 * word, theirs);
        }
        enter(&mut bench);
        assert_eq!(x2apic_passes(&mut bench), expected, "{controls:?}");
    };
    check(X2APIC, 0, (256, 3));
    check(X2APIC, u64::MAX, (0, 0));
    check(SecondaryControls::VIRTUALIZE_X2APIC, 0, (1, 1));
    check(DELIVERY, 0, (0, 0));
    check(SecondaryControls::empty(), 0, (0, 0));
}

#[test]
fn the_bitmap_of_x2apic_msrs_follows_l1_s() {
    let mut bench = with_apic(X2APIC);
    enter(&mut bench);
    assert_eq!(x2apic_passes(&mut bench), (256, 3));
    bench.vmcall();
    // WRMSR of EOI and RDMSR of the ID.
    bench.store(BITMAP + 0x900, 1 << 0xb);
    bench.store(BITMAP + 0x100, 1 << 2);
    assert_eq!(bench.resume(), Flags::SUCCEED);
    assert_eq!(x2apic_passes(&mut bench), (255, 2));
    bench.exits(Reason::VMCALL, &[]);
    // The same vmcs12 without x2APIC.
    let secondary = bench.vmread(vmcs::SECONDARY_CONTROLS) - X2APIC;
    bench.vmwrite(vmcs::SECONDARY_CONTROLS, secondary);
    assert_eq!(bench.resume(), Flags::SUCCEED);
    assert_eq!(x2apic_passes(&mut bench), (0, 0));
}

#[test]
fn exits_of_the_virtual_apic_are_l1_s() {
    for (reason, qualification) in [
        (Reason::VIRTUALIZED_EOI, 0x51),
        (Reason::APIC_WRITE, 0x300),
        (Reason::APIC_ACCESS, 0x1390),
        (Reason::TPR_BELOW_THRESHOLD, 0),
    ] {
        let mut bench = with_apic(DELIVERY);
        enter(&mut bench);
        bench.exits(reason, &[(vmcs::EXIT_QUALIFICATION.field(), qualification)]);
        assert_eq!(bench.level(), 1, "{reason}");
        assert_eq!(bench.vmread(vmcs::EXIT_REASON).reason(), reason);
        assert_eq!(bench.vmread(vmcs::EXIT_QUALIFICATION), qualification);
    }
}

#[test]
fn an_apic_access_page_that_is_no_ram_exits_likewise() {
    let check = |qualification: u64, more: &[(vmcs::VmcsField, u64)], expected: u64| {
        let mut bench = with_apic(DELIVERY);
        bench.vmwrite(vmcs::APIC_ACCESS_ADDRESS, NO_RAM);
        bench.store(super::script::EPT12 + 0x3008, NO_RAM | 0x37);
        enter(&mut bench);
        let mut told =
            vec![(vmcs::GUEST_PHYSICAL_ADDRESS.field(), 0x1380), (vmcs::EXIT_QUALIFICATION.field(), qualification)];
        told.extend_from_slice(more);
        bench.exits(Reason::EPT_VIOLATION, &told);
        assert_eq!(bench.level(), 1);
        assert_eq!(bench.vmread(vmcs::EXIT_REASON).reason(), Reason::APIC_ACCESS);
        assert_eq!(bench.vmread(vmcs::EXIT_QUALIFICATION), expected);
        assert_eq!(bench.vmread(vmcs::GUEST_PHYSICAL_ADDRESS), 0);
    };
    let delivering = (vmcs::IDT_VECTORING_INFO.field(), 0x8000_0030);
    check(0x181, &[], 0x380);
    check(0x182, &[], 0x1380);
    check(0x184, &[], 0x2380);
    check(0x182, &[delivering], 0x3380);
    check(0x82, &[delivering], 0xa380);
    check(0x81, &[], 0xf380);
}

#[test]
fn a_notification_takes_posted_interrupts_in_and_l2_goes_on() {
    let mut bench = with_posting();
    bench.vmwrite(vmcs::GUEST_INTERRUPT_STATUS, 0x2031);
    enter(&mut bench);
    bench.store(VIRTUAL_APIC + 0x210, 1 << 17);
    // Vectors 0x51 and 0x20, the outstanding notification, and a bit beside it.
    bench.store(DESCRIPTOR, 1 << 0x20);
    bench.store(DESCRIPTOR + 8, 1 << 0x11);
    bench.store(DESCRIPTOR + 32, 0xab_0000_0003);
    bench.bus.interrupt = Some(NOTIFICATION as u8);
    bench.exits(Reason::EXTERNAL_INTERRUPT, &[]);
    assert_eq!(bench.story(), ["entry 2", "exit 2 EXTERNAL_INTERRUPT L0"]);
    assert_eq!(bench.bus.interrupt, None);
    assert_eq!(bench.now(vmcs::GUEST_INTERRUPT_STATUS), 0x2051);
    let words = [0, 8, 16, 24, 32].map(|at| bench.load(DESCRIPTOR + at));
    assert_eq!(words, [0, 0, 0, 0, 0xab_0000_0002]);
    assert_eq!((bench.load(VIRTUAL_APIC + 0x210), bench.load(VIRTUAL_APIC + 0x220)), (1 << 17 | 1, 1 << 17));
}

#[test]
fn other_interrupts_and_those_of_an_l1_that_runs_are_l1_s() {
    let mut bench = with_posting();
    enter(&mut bench);
    bench.store(DESCRIPTOR + 32, 1);
    bench.bus.interrupt = Some(0xf1);
    bench.exits(Reason::CPUID, &[]);
    assert_eq!(bench.story(), ["exit 2 EXTERNAL_INTERRUPT L1", "entry 1", "exit 1 CPUID L0"]);
    assert_eq!(bench.vmread(vmcs::EXIT_INTERRUPTION_INFO).vector(), 0xf1);
    // L1 itself gets a notification as the interrupt that it is.
    bench.bus.interrupt = Some(NOTIFICATION as u8);
    let flags = (vmcs::GUEST_RFLAGS.field(), 0x202);
    bench.exits(Reason::CPUID, &[flags]);
    bench.log.events.clear();
    bench.exits(Reason::CPUID, &[]);
    assert!(bench.story().contains(&format!("inject 1 {NOTIFICATION}")));
    assert_eq!(bench.load(DESCRIPTOR + 32), 1);
}

#[test]
fn a_notification_waits_for_an_entry_that_is_pending() {
    let mut bench = with_posting();
    bench.launch();
    bench.store(DESCRIPTOR + 32, 1);
    bench.bus.interrupt = Some(NOTIFICATION as u8);
    bench.exits(Reason::EXTERNAL_INTERRUPT, &[]);
    assert_eq!(bench.load(DESCRIPTOR + 32), 1);
    bench.exits(Reason::EXTERNAL_INTERRUPT, &[]);
    assert_eq!((bench.load(DESCRIPTOR + 32), bench.level()), (0, 2));
}

#[test]
fn a_virtual_interrupt_ends_l2_s_hlt() {
    let halted = |status: u16, flags: u64| {
        let mut bench = with_posting();
        bench.vmwrite(vmcs::GUEST_INTERRUPT_STATUS, status);
        bench.store(VIRTUAL_APIC + 0x80, 0x40);
        enter(&mut bench);
        bench.exits(Reason::HLT, &[(vmcs::GUEST_RFLAGS.field(), flags)]);
        bench
    };
    let goes_on = |bench: &mut Bench| bench.exits(Reason::CPUID, &[]) != Ran::Halted;
    assert!(goes_on(&mut halted(0x51, 0x202)));
    assert!(!goes_on(&mut halted(0x41, 0x202)), "the task priority is as high");
    assert!(!goes_on(&mut halted(0x5f51, 0x202)), "one of its class is in service");
    assert!(!goes_on(&mut halted(0x51, 2)), "interrupts are off");
    // What is posted ends it too, if it counts.
    for (word, wakes) in [(1, false), (1 << 0x11, true)] {
        let mut bench = halted(0, 0x202);
        bench.store(DESCRIPTOR + 8, word);
        bench.bus.interrupt = Some(NOTIFICATION as u8);
        assert_eq!(goes_on(&mut bench), wakes);
        assert_eq!(bench.l0.vcpus[0].waits, (!wakes).then_some(Wait::Halt));
    }
}

#[test]
fn the_threshold_is_compared_with_memory_at_each_entry() {
    let mut bench = with_apic(SecondaryControls::empty());
    bench.vmwrite(vmcs::TPR_THRESHOLD, 3);
    bench.store(VIRTUAL_APIC + 0x80, 0x30);
    enter(&mut bench);
    bench.vmcall();
    assert_eq!(bench.resume(), Flags::SUCCEED);
    bench.exits(Reason::VMCALL, &[]);
    bench.store(VIRTUAL_APIC + 0x80, 0x20);
    assert_eq!(bench.resume(), Flags(InstructionError::ENTRY_INVALID_CONTROL_FIELD.0));
}
