//! INIT, start-up IPIs and NMIs, wherever they meet the vCPU; and the task priority.

use super::script::{Bench, Flags};
use crate::l0::Ran;
use crate::l0::monitor::Wait;
use hv_defs::controls::{Interruptibility, PinBased, PrimaryControls};
use hv_defs::event::StopKind;
use hv_defs::exit::{EventType, Reason};
use hv_defs::policy::Policy;
use hv_defs::vmcs;

/// L1 with L2 under it, whose vmcs12 has these pin-based controls beside those that must be.
fn with_pin(pin: PinBased) -> Bench {
    let mut bench = Bench::with_l2(Policy::default());
    bench.vmwrite(vmcs::PIN_BASED_CONTROLS, PinBased::from_bits_retain(0x16) | pin);
    assert_eq!(bench.launch(), Flags::SUCCEED);
    // The entry happens, and then L2 is interrupted.
    bench.exits(Reason::EXTERNAL_INTERRUPT, &[]);
    bench.log.events.clear();
    bench
}

#[test]
fn an_nmi_is_injected_once_the_last_one_has_returned() {
    let mut bench = Bench::preset("mapped");
    bench.bus.signals.nmi = true;
    bench.exits(Reason::CPUID, &[(vmcs::GUEST_INTERRUPTIBILITY.field(), Interruptibility::NMI.bits().into())]);
    assert!(bench.story().contains(&"inject 1 2".to_owned()) && !bench.bus.signals.nmi);
    bench.bus.signals.nmi = true;
    bench.log.events.clear();
    bench.exits(Reason::CPUID, &[(vmcs::GUEST_INTERRUPTIBILITY.field(), Interruptibility::NMI.bits().into())]);
    assert!(bench.bus.signals.nmi && !bench.story().contains(&"inject 1 2".to_owned()), "NMIs are blocked");
    let window = PrimaryControls::NMI_WINDOW_EXITING;
    assert!(bench.now(vmcs::PRIMARY_CONTROLS).contains(window));
    bench.exits(Reason::NMI_WINDOW, &[(vmcs::GUEST_INTERRUPTIBILITY.field(), 0)]);
    bench.exits(Reason::CPUID, &[]);
    assert!(bench.story().contains(&"inject 1 2".to_owned()) && !bench.now(vmcs::PRIMARY_CONTROLS).contains(window));
}

#[test]
fn an_nmi_takes_l2_to_l1_that_asked() {
    let mut bench = with_pin(PinBased::NMI_EXITING);
    bench.bus.signals.nmi = true;
    bench.exits(Reason::CPUID, &[]);
    assert_eq!(bench.story(), ["exit 2 EXCEPTION_NMI L1", "entry 1", "exit 1 CPUID L0"]);
    let info = bench.vmread(vmcs::EXIT_INTERRUPTION_INFO);
    assert_eq!((info.valid(), info.vector(), info.kind()), (true, 2, EventType::Nmi));
    assert!(!bench.bus.signals.nmi);
}

#[test]
fn an_nmi_goes_to_l2_if_l1_does_not_ask() {
    let mut bench = with_pin(PinBased::empty());
    bench.bus.signals.nmi = true;
    bench.exits(Reason::EXTERNAL_INTERRUPT, &[]);
    assert_eq!(bench.story(), ["inject 2 2", "entry 2", "exit 2 EXTERNAL_INTERRUPT L0"]);
}

#[test]
fn an_nmi_waits_for_an_entry_that_is_pending() {
    let mut bench = Bench::with_l2(Policy::default());
    bench.vmwrite(vmcs::PIN_BASED_CONTROLS, PinBased::from_bits_retain(0x16) | PinBased::NMI_EXITING);
    bench.launch();
    bench.log.events.clear();
    bench.bus.signals.nmi = true;
    assert_eq!(bench.exits(Reason::EXTERNAL_INTERRUPT, &[]), Ran::Ready);
    bench.exits(Reason::CPUID, &[]);
    let story = bench.story();
    assert_eq!(story[..3], ["entry 2", "exit 2 EXTERNAL_INTERRUPT L0", "exit 2 EXCEPTION_NMI L1"]);
}

#[test]
fn an_init_takes_l2_to_l1_and_is_blocked_in_root_operation() {
    let mut bench = with_pin(PinBased::empty());
    bench.bus.signals.init = true;
    bench.exits(Reason::CPUID, &[]);
    assert_eq!(bench.story(), ["exit 2 INIT_SIGNAL L1", "entry 1", "exit 1 CPUID L0"]);
    assert!(!bench.bus.signals.init);
    bench.bus.signals.init = true;
    bench.exits(Reason::CPUID, &[]);
    assert!(bench.bus.signals.init, "L1 is in VMX root operation");
    bench.exits(Reason::VMXOFF, &[]);
    let ran = bench.exits(Reason::CPUID, &[]);
    assert!(matches!(ran, Ran::Stop(stop) if stop.kind == StopKind::Reset), "it is the first CPU");
}

#[test]
fn a_start_up_ipi_is_lost_on_a_cpu_that_is_awake() {
    let mut bench = Bench::preset("mapped");
    bench.bus.signals.start_up = Some(8);
    let rip = bench.now(vmcs::GUEST_RIP);
    bench.exits(Reason::CPUID, &[]);
    assert_eq!((bench.bus.signals.start_up, bench.now(vmcs::GUEST_RIP)), (None, rip + 3));
}

#[test]
fn a_cpu_waits_for_its_start_up_ipi_and_starts_in_real_mode() {
    let mut bench = Bench::preset("mapped");
    bench.l0.vcpus[0].waits_for_sipi = true;
    bench.l0.vcpus[0].waits = Some(Wait::Halt);
    bench.bus.interrupt = Some(0x30);
    bench.bus.signals.nmi = true;
    assert_eq!(bench.exits(Reason::CPUID, &[]), Ran::Halted, "neither interrupts nor NMIs count");
    bench.bus = Default::default();
    bench.bus.signals.start_up = Some(0x9a);
    *bench.gpr(2) = 7;
    bench.l0.silicon.registers[0].cr2 = 7;
    bench.exits(Reason::EXTERNAL_INTERRUPT, &[]);
    assert_eq!((bench.now(vmcs::GUEST_CS_SELECTOR), bench.now(vmcs::GUEST_CS_BASE)), (0x9a00, 0x9_a000));
    assert_eq!((bench.now(vmcs::GUEST_RIP), bench.now(vmcs::GUEST_RFLAGS)), (0, 2));
    assert_eq!((bench.now(vmcs::CR0_READ_SHADOW), bench.now(vmcs::GUEST_EFER)), (0x6000_0010, 0));
    assert_eq!((*bench.gpr(2) >> 8 & 0xf, bench.l0.silicon.registers[0].cr2), (6, 0));
    assert!(bench.l0.silicon.dropped.contains(&"0: invvpid Single 1".to_owned()));
}

#[test]
fn a_task_priority_that_holds_an_interrupt_back_is_watched() {
    let mut bench = Bench::preset("mapped");
    let watches = |bench: &mut Bench| bench.now(vmcs::PRIMARY_CONTROLS).contains(PrimaryControls::CR8_LOAD_EXITING);
    bench.l0.silicon.registers[0].cr8 = 5;
    bench.exits(Reason::CPUID, &[]);
    assert!(!watches(&mut bench), "there is nothing to hold back");
    bench.bus.held = true;
    bench.exits(Reason::CPUID, &[]);
    assert!(watches(&mut bench));
    // MOV to CR8 of RBX.
    *bench.gpr(3) = 0;
    bench.bus.held = false;
    bench.exits(Reason::CR_ACCESS, &[(vmcs::EXIT_QUALIFICATION.field(), 0x308)]);
    assert_eq!((bench.l0.silicon.registers[0].cr8, watches(&mut bench)), (0, false));
}
