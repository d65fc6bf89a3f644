//! The software silicon, from outside: entries, exits, and what they leave in the VMCS.

mod support;

use hv::silicon::{Outcome, Silicon, SiliconExt};
use hv::soft::SoftSilicon;
use hv_defs::addr::Hpa;
use hv_defs::controls::{ExitControls, PinBased, PrimaryControls, SecondaryControls};
use hv_defs::ept::{InveptDescriptor, InveptType, InvvpidDescriptor, InvvpidType};
use hv_defs::exit::{InterruptionInfo, Reason};
use hv_defs::instruction_error::InstructionError;
use hv_defs::vmcs::*;
use support::*;

const VMCS: u64 = 0x2000;
const OTHER: u64 = 0x3000;

fn with(code: &[u8]) -> SoftSilicon {
    let mut silicon = silicon(code);
    vmcs(&mut silicon, VMCS, 1);
    silicon
}

fn add(silicon: &mut SoftSilicon, controls: PrimaryControls) {
    let primary = silicon.get(0, PRIMARY_CONTROLS) | controls;
    silicon.set(0, PRIMARY_CONTROLS, primary);
}

fn add_secondary(silicon: &mut SoftSilicon, controls: SecondaryControls) {
    let secondary = silicon.get(0, SECONDARY_CONTROLS) | controls;
    silicon.set(0, SECONDARY_CONTROLS, secondary);
}

#[test]
fn an_instruction_exits_and_can_be_skipped() {
    // mov eax, 5; cpuid; hlt
    let mut silicon = with(&[0xb8, 5, 0, 0, 0, 0x0f, 0xa2, 0xf4]);
    assert!(is(enter(&mut silicon, true), Reason::CPUID));
    assert_eq!(silicon.registers(0).gpr[0], 5);
    assert_eq!((silicon.get(0, GUEST_RIP), silicon.get(0, EXIT_INSTRUCTION_LENGTH)), (CODE + 5, 2));
    assert_eq!(silicon.retired(), 1);
    skip(&mut silicon);
    assert!(is(enter(&mut silicon, false), Reason::HLT));
    assert_eq!(silicon.get(0, GUEST_RIP), CODE + 7);
}

#[test]
fn launch_and_resume_go_by_the_launch_state() {
    let mut silicon = with(&[0xf4; 4]);
    let refused = |silicon: &mut SoftSilicon, launch, error| {
        let told = silicon.enter(0, launch, u64::MAX).unwrap_err();
        assert_eq!((told.error, told.check), (Some(error), None));
        assert_eq!(silicon.get(0, VM_INSTRUCTION_ERROR), error.0);
    };
    refused(&mut silicon, false, InstructionError::VMRESUME_NONLAUNCHED_VMCS);
    enter(&mut silicon, true);
    refused(&mut silicon, true, InstructionError::VMLAUNCH_NONCLEAR_VMCS);
    silicon.vmclear(0, Hpa(VMCS));
    assert_eq!(silicon.enter(0, true, u64::MAX).unwrap_err().error, None, "no VMCS is current");
    silicon.vmptrld(0, Hpa(VMCS));
    refused(&mut silicon, false, InstructionError::VMRESUME_NONLAUNCHED_VMCS);
    assert!(is(enter(&mut silicon, true), Reason::HLT), "the fields have outlived VMCLEAR");
}

#[test]
fn a_vmcs_goes_to_another_cpu_by_way_of_vmclear() {
    // mov ax, gs; mov gs, bx; hlt
    let mut silicon = with(&[0x8c, 0xe8, 0x8e, 0xeb, 0xf4, 0x8c, 0xe8, 0xf4]);
    silicon.registers(0).gpr[3] = 0;
    enter(&mut silicon, true);
    silicon.vmclear(0, Hpa(VMCS));
    silicon.vmptrld(1, Hpa(VMCS));
    assert_eq!(silicon.get(1, GUEST_GS_SELECTOR), 0, "what the CPU held of the guest went with it");
    assert_eq!(silicon.get(1, GUEST_GS_ACCESS_RIGHTS) >> 16 & 1, 1);
    silicon.set(1, GUEST_RIP, CODE + 5);
    silicon.registers(1).gpr[0] = 7;
    assert!(matches!(silicon.enter(1, true, u64::MAX), Ok(Outcome::Exited(_))));
    assert_eq!(silicon.registers(1).gpr[0] as u16, 0);
    assert_eq!(silicon.registers(0).gpr[0] as u16, 16);
}

#[test]
fn two_guests_in_turn_keep_their_own_state() {
    // mov gs, bx; inc rcx; hlt; jmp to inc
    let mut silicon = with(&[0x8e, 0xeb, 0x48, 0xff, 0xc1, 0xf4, 0xeb, 0xfa]);
    vmcs(&mut silicon, OTHER, 2);
    for (at, selector) in [(VMCS, 16u64), (OTHER, 0)] {
        silicon.vmptrld(0, Hpa(at));
        silicon.set(0, GUEST_SYSENTER_ESP, at);
        silicon.registers(0).gpr[3] = selector;
        // GS is loaded from the GDT, which is made of zeros but for null selectors.
        silicon.registers(0).gpr[3] = 0;
        enter(&mut silicon, true);
        silicon.set(0, GUEST_FS_BASE, at + 1);
        skip(&mut silicon);
    }
    for round in 0..5 {
        for at in [VMCS, OTHER] {
            silicon.vmptrld(0, Hpa(at));
            assert_eq!(silicon.get(0, GUEST_FS_BASE), at + 1);
            assert_eq!(silicon.get(0, GUEST_SYSENTER_ESP), at);
            enter(&mut silicon, false);
            assert_eq!(silicon.get(0, GUEST_FS_BASE), at + 1, "round {round}");
            skip(&mut silicon);
        }
    }
}

#[test]
fn checks_that_fail_refuse_the_entry_or_make_it_an_exit() {
    let check = |change: fn(&mut SoftSilicon), error: Option<InstructionError>, name: &str| {
        let mut silicon = with(&[0xf4; 8]);
        enter(&mut silicon, true);
        change(&mut silicon);
        let rip = silicon.get(0, GUEST_RIP);
        let told = silicon.enter(0, false, u64::MAX);
        match (told, error) {
            (Err(refused), Some(error)) => {
                assert_eq!(refused.error, Some(error));
                assert_eq!(refused.check.map(|check| check.name()), Some(name));
                assert_eq!(silicon.get(0, VM_INSTRUCTION_ERROR), error.0);
            }
            (Ok(Outcome::EntryFailed(check)), None) => {
                assert_eq!(check.name(), name);
                let reason = silicon.get(0, EXIT_REASON);
                assert!(reason.entry_failure() && reason.reason() == Reason::INVALID_GUEST_STATE);
            }
            other => panic!("{name}: {other:?}"),
        }
        assert_eq!((silicon.get(0, GUEST_RIP), silicon.retired()), (rip, 0));
    };
    let (controls, host) = (InstructionError::ENTRY_INVALID_CONTROL_FIELD, InstructionError::ENTRY_INVALID_HOST_STATE);
    check(|s| s.set(0, VPID, 0), Some(controls), "vpid-zero");
    check(|s| s.set(0, HOST_RIP, 1 << 63), Some(host), "host-64-bit-rip");
    check(|s| s.set(0, GUEST_RIP, 1 << 48), None, "guest-rip-identical");
    check(|s| s.set(0, GUEST_RFLAGS, 0), None, "guest-rflags-one");
    check(|s| s.set(0, GUEST_RFLAGS, 2 | 1 << 17), None, "guest-cs-base-v86");
    check(|s| s.set(0, GUEST_TR_ACCESS_RIGHTS, 0), None, "guest-tr-type");
    let inject = |s: &mut SoftSilicon| s.set(0, ENTRY_INTERRUPTION_INFO, InterruptionInfo::from(0x8000_0030));
    check(inject, None, "guest-rflags-if");
}

#[test]
fn behind_the_last_canonical_address_there_is_nothing_to_fetch() {
    // An entry may be there, since an instruction may end there; the fetch is a #GP.
    let mut silicon = with(&[0xf4; 8]);
    silicon.set(0, EXCEPTION_BITMAP, 1 << 13);
    silicon.set(0, GUEST_RIP, 1 << 47);
    assert!(is(enter(&mut silicon, true), Reason::EXCEPTION_NMI));
    let info = silicon.get(0, EXIT_INTERRUPTION_INFO);
    assert_eq!((info.vector(), silicon.get(0, GUEST_RIP)), (13, 1 << 47));
}

#[test]
fn time_is_up_at_exactly_that_instruction() {
    // inc rax; jmp back
    let mut silicon = with(&[0x48, 0xff, 0xc0, 0xeb, 0xfb]);
    let exits = silicon.get(0, EXIT_CONTROLS) | ExitControls::ACKNOWLEDGE_INTERRUPT;
    for until in [1, 2, 7, 1000, 1001] {
        assert!(is(enter_until(&mut silicon, until == 1, until), Reason::EXTERNAL_INTERRUPT));
        assert_eq!((silicon.retired(), silicon.registers(0).gpr[0]), (until, until.div_ceil(2)));
        assert!(!silicon.get(0, EXIT_INTERRUPTION_INFO).valid());
    }
    assert!(is(enter_until(&mut silicon, false, 500), Reason::EXTERNAL_INTERRUPT));
    assert_eq!(silicon.retired(), 1001, "it had passed already");
    silicon.set(0, EXIT_CONTROLS, exits);
    enter_until(&mut silicon, false, 1002);
    assert!(silicon.get(0, EXIT_INTERRUPTION_INFO).valid());
}

#[test]
fn the_preemption_timer_counts_down_and_is_saved() {
    let mut silicon = with(&[0x48, 0xff, 0xc0, 0xeb, 0xfb]);
    let pin = silicon.get(0, PIN_BASED_CONTROLS) | PinBased::PREEMPTION_TIMER;
    silicon.set(0, PIN_BASED_CONTROLS, pin);
    let exits = silicon.get(0, EXIT_CONTROLS) | ExitControls::SAVE_PREEMPTION_TIMER;
    silicon.set(0, EXIT_CONTROLS, exits);
    silicon.set(0, PREEMPTION_TIMER_VALUE, 10);
    assert!(is(enter_until(&mut silicon, true, 100), Reason::EXTERNAL_INTERRUPT));
    assert_eq!(silicon.get(0, PREEMPTION_TIMER_VALUE), 10 - 100 / 32);
    assert!(is(enter(&mut silicon, false), Reason::PREEMPTION_TIMER));
    assert_eq!((silicon.retired(), silicon.get(0, PREEMPTION_TIMER_VALUE)), (320, 0));
    assert!(is(enter(&mut silicon, false), Reason::PREEMPTION_TIMER));
    assert_eq!(silicon.retired(), 320);
}

#[test]
fn the_monitor_trap_flag_exits_after_each_instruction() {
    let mut silicon = with(&[0x48, 0xff, 0xc0, 0xeb, 0xfb]);
    add(&mut silicon, PrimaryControls::MONITOR_TRAP_FLAG);
    for step in 1..6 {
        assert!(is(enter(&mut silicon, step == 1), Reason::MONITOR_TRAP_FLAG));
        assert_eq!(silicon.retired(), step);
    }
    // An injected one comes before the first instruction.
    let mut silicon = with(&[0x48, 0xff, 0xc0, 0xeb, 0xfb]);
    silicon.set(0, ENTRY_INTERRUPTION_INFO, InterruptionInfo::from(0x8000_0700));
    assert!(is(enter(&mut silicon, true), Reason::MONITOR_TRAP_FLAG));
    assert_eq!(silicon.retired(), 0);
    assert!(!silicon.get(0, ENTRY_INTERRUPTION_INFO).valid());
}

#[test]
fn windows_open_when_nothing_blocks() {
    // sti; nop; hlt
    let mut silicon = with(&[0xfb, 0x90, 0xf4]);
    add(&mut silicon, PrimaryControls::INTERRUPT_WINDOW_EXITING);
    assert!(is(enter(&mut silicon, true), Reason::INTERRUPT_WINDOW));
    assert_eq!((silicon.retired(), silicon.get(0, GUEST_RIP)), (2, CODE + 2), "STI blocks for one instruction");

    let mut silicon = with(&[0x90, 0xf4]);
    let pin = silicon.get(0, PIN_BASED_CONTROLS) | PinBased::NMI_EXITING | PinBased::VIRTUAL_NMIS;
    silicon.set(0, PIN_BASED_CONTROLS, pin);
    add(&mut silicon, PrimaryControls::NMI_WINDOW_EXITING);
    silicon.set(0, GUEST_INTERRUPTIBILITY, 8);
    assert!(is(enter(&mut silicon, true), Reason::HLT), "virtual NMIs are blocked");
    silicon.set(0, GUEST_INTERRUPTIBILITY, 0);
    assert!(is(enter(&mut silicon, false), Reason::NMI_WINDOW));
}

#[test]
fn a_guest_without_vpid_loses_its_translations_at_each_transition() {
    // mov rax, [0x5000]; hlt
    let code = [0x48, 0x8b, 0x04, 0x25, 0, 0x50, 0, 0, 0xf4];
    let run = |vpid: u16| {
        let mut silicon = silicon(&code);
        vmcs(&mut silicon, VMCS, vpid);
        let Ok(Outcome::Exited(first)) = silicon.enter(0, true, u64::MAX) else { panic!() };
        silicon.set(0, GUEST_RIP, CODE);
        let Ok(Outcome::Exited(second)) = silicon.enter(0, false, u64::MAX) else { panic!() };
        [first, second].map(|exited| (exited.dropped_by_entry, exited.dropped_by_exit))
    };
    assert_eq!(run(0), [(0, 2), (0, 2)], "the page of code, and the page read");
    assert_eq!(run(1), [(0, 0), (0, 0)]);
}

#[test]
fn a_stale_translation_is_used_until_it_is_flushed() {
    let code = [0x48, 0x8b, 0x04, 0x25, 0, 0x50, 0, 0, 0xf4];
    let mut silicon = with(&code);
    poke(&mut silicon, RAM + 0x5000, &[0x55]);
    poke(&mut silicon, RAM + 0x6000, &[0x66]);
    let read = |silicon: &mut SoftSilicon, launch| {
        silicon.set(0, GUEST_RIP, CODE);
        assert!(is(enter(silicon, launch), Reason::HLT));
        silicon.registers(0).gpr[0]
    };
    assert_eq!(read(&mut silicon, true), 0x55);
    poke(&mut silicon, EPT_PT + 5 * 8, &[(RAM + 0x6000) | 0x37]);
    assert_eq!(read(&mut silicon, false), 0x55);
    assert_eq!(silicon.invvpid(0, InvvpidType::Single, InvvpidDescriptor { vpid: 2, ..Default::default() }), 0);
    assert_eq!(silicon.invept(1, InveptType::All, InveptDescriptor::default()), 0, "another CPU's");
    assert_eq!(read(&mut silicon, false), 0x55);
    assert!(silicon.invept(0, InveptType::Single, InveptDescriptor { eptp: eptp(), reserved: 0 }) > 2);
    assert_eq!(read(&mut silicon, false), 0x66);
}

#[test]
fn ept_violations_reach_the_vmcs() {
    let code = [0x48, 0x8b, 0x04, 0x25, 0x10, 0x50, 0, 0, 0xf4];
    let mut silicon = with(&code);
    poke(&mut silicon, EPT_PT + 5 * 8, &[0]);
    assert!(is(enter(&mut silicon, true), Reason::EPT_VIOLATION));
    assert_eq!(silicon.get(0, EXIT_QUALIFICATION) & 0x1ff, 0x181);
    assert_eq!(silicon.get(0, GUEST_PHYSICAL_ADDRESS), 0x5010);
    assert_eq!(silicon.get(0, GUEST_LINEAR_ADDRESS), 0x5010);
    assert_eq!(silicon.get(0, GUEST_RIP), CODE);
    poke(&mut silicon, EPT_PT + 5 * 8, &[(RAM + 0x5000) | 0x36]);
    assert!(is(enter(&mut silicon, false), Reason::EPT_MISCONFIG));
    assert_eq!(silicon.get(0, GUEST_PHYSICAL_ADDRESS), 0x5010);
}

#[test]
fn an_iret_that_leaves_ept_tells_that_it_unblocked_nmis() {
    let check = |page: u64, controls: SecondaryControls, index: u16, reason: Reason| {
        for blocked in [0, 8] {
            let mut silicon = with(&[0x48, 0xcf]);
            add_secondary(&mut silicon, controls);
            let pin = silicon.get(0, PIN_BASED_CONTROLS) | PinBased::NMI_EXITING | PinBased::VIRTUAL_NMIS;
            silicon.set(0, PIN_BASED_CONTROLS, pin);
            silicon.set(0, PML_ADDRESS, 0x4000);
            silicon.set(0, PML_INDEX, index);
            silicon.set(0, EPT_POINTER, eptp().with_accessed_dirty(!controls.is_empty()));
            silicon.set(0, GUEST_RSP, 0x5000);
            poke(&mut silicon, EPT_PT + 5 * 8, &[page]);
            silicon.set(0, GUEST_INTERRUPTIBILITY, blocked);
            assert!(is(enter(&mut silicon, true), reason));
            // Of a log that is full before IRET is fetched, IRET is not the cause.
            let by_iret = reason == Reason::EPT_VIOLATION;
            let told = silicon.get(0, EXIT_QUALIFICATION) >> 12 & 1 != 0;
            assert_eq!(told, by_iret && blocked != 0, "{reason}");
            assert_eq!(silicon.get(0, GUEST_INTERRUPTIBILITY), if by_iret { 0 } else { blocked }, "{reason}");
            assert_eq!(silicon.get(0, GUEST_RFLAGS), 0x1_0002, "{reason}: RF");
        }
    };
    check(0, SecondaryControls::empty(), 0, Reason::EPT_VIOLATION);
    check((RAM + 0x5000) | 0x37, SecondaryControls::PML, 0xffff, Reason::PML_FULL);
}

#[test]
fn dirty_pages_are_logged_until_the_log_is_full() {
    // mov [0x5000], rax; mov [0x6000], rax; hlt
    let store = |page: u8| [0x48, 0x89, 0x04, 0x25, 0, page, 0, 0];
    let code = [&store(0x50)[..], &store(0x60), &[0xf4]].concat();
    let mut silicon = with(&code);
    add_secondary(&mut silicon, SecondaryControls::PML);
    silicon.set(0, EPT_POINTER, eptp().with_accessed_dirty(true));
    silicon.set(0, PML_ADDRESS, 0x4000);
    silicon.set(0, PML_INDEX, 4);
    // Four tables of the guest's and its first store.
    assert!(is(enter(&mut silicon, true), Reason::PML_FULL));
    assert_eq!(silicon.get(0, PML_INDEX), 0xffff);
    assert_eq!(peek(&mut silicon, 0x4000), 0x5000);
    assert_eq!(silicon.get(0, GUEST_RIP), CODE + 8);
    silicon.set(0, PML_INDEX, 511);
    assert!(is(enter(&mut silicon, false), Reason::HLT));
    assert_eq!((silicon.get(0, PML_INDEX), peek(&mut silicon, 0x4000 + 511 * 8)), (510, 0x6000));
}

#[test]
fn msr_areas_are_loaded_and_stored() {
    let mut silicon = with(&[0xf4]);
    poke(&mut silicon, 0x4000, &[0xc000_0082, 0x1234, 0xc000_0102, 0x5678]);
    poke(&mut silicon, 0x5000, &[0xc000_0102, 0]);
    poke(&mut silicon, 0x6000, &[0xc000_0102, 0x9abc]);
    silicon.set(0, VM_ENTRY_MSR_LOAD_ADDRESS, 0x4000);
    silicon.set(0, VM_ENTRY_MSR_LOAD_COUNT, 2);
    silicon.set(0, VM_EXIT_MSR_STORE_ADDRESS, 0x5000);
    silicon.set(0, VM_EXIT_MSR_STORE_COUNT, 1);
    silicon.set(0, VM_EXIT_MSR_LOAD_ADDRESS, 0x6000);
    silicon.set(0, VM_EXIT_MSR_LOAD_COUNT, 1);
    enter(&mut silicon, true);
    assert_eq!((silicon.registers(0).lstar, silicon.registers(0).kernel_gs_base), (0x1234, 0x9abc));
    assert_eq!(peek(&mut silicon, 0x5008), 0x5678);
    // The second entry's value is not canonical.
    poke(&mut silicon, 0x4018, &[1 << 63]);
    assert!(matches!(silicon.enter(0, false, u64::MAX), Ok(Outcome::EntryFailed(_))));
    let reason = silicon.get(0, EXIT_REASON);
    assert_eq!((reason.reason(), reason.entry_failure()), (Reason::MSR_LOAD_FAIL, true));
    assert_eq!(silicon.get(0, EXIT_QUALIFICATION), 2);
}

#[test]
fn the_digest_sees_registers_memory_and_guest_state() {
    let run = |rbx: u64, word: u64, fs: u64| {
        let mut silicon = with(&[0xf4]);
        silicon.registers(0).gpr[3] = rbx;
        poke(&mut silicon, RAM + 0x7000, &[word]);
        silicon.set(0, GUEST_FS_BASE, fs);
        enter(&mut silicon, true);
        silicon.digest()
    };
    let first = run(1, 2, 3);
    assert_eq!(run(1, 2, 3), first);
    for other in [run(0, 2, 3), run(1, 0, 3), run(1, 2, 0)] {
        assert_ne!(other, first);
    }
}

#[test]
fn a_shadow_vmcs_serves_the_guests_vmread_and_vmwrite() {
    // mov ecx, 0x681e; vmread rax, rcx; vmwrite rcx, rbx; mov ecx, 0x6820; vmread rdx, rcx
    let code =
        [0xb9, 0x1e, 0x68, 0, 0, 0x0f, 0x78, 0xc8, 0x0f, 0x79, 0xcb, 0xb9, 0x20, 0x68, 0, 0, 0x0f, 0x78, 0xca, 0xf4];
    let mut silicon = with(&code);
    add_secondary(&mut silicon, SecondaryControls::VMCS_SHADOWING);
    let mut shadow = hv::vmcs::Vmcs::default();
    shadow.revision |= hv::vmcs::SHADOW;
    silicon.write(Hpa(0x6000), &shadow.to_bytes());
    let rip = hv::vmcs::Vmcs::offset(GUEST_RIP.index()) as u64;
    poke(&mut silicon, 0x6000 + rip, &[0x1111]);
    silicon.set(0, VMCS_LINK_POINTER, 0x6000);
    silicon.set(0, VMREAD_BITMAP, 0x4000);
    silicon.set(0, VMWRITE_BITMAP, 0x5000);
    // VMREAD of GUEST_RFLAGS exits.
    silicon.write(Hpa(0x4000 + 0x6820 / 8), &[1]);
    silicon.registers(0).gpr[3] = 0x2222;
    assert!(is(enter(&mut silicon, true), Reason::VMREAD));
    assert_eq!(silicon.registers(0).gpr[0], 0x1111);
    assert_eq!(peek(&mut silicon, 0x6000 + rip), 0x2222);
    assert_eq!(silicon.get(0, GUEST_RIP), CODE + 16);
}

/// A guest whose APIC-access page is at guest-physical 0x5000 and whose virtual-APIC page at host-physical 0x4000, under
/// these controls.
fn with_apic(code: &[u8], controls: SecondaryControls) -> SoftSilicon {
    let mut silicon = with(code);
    add(&mut silicon, PrimaryControls::TPR_SHADOW);
    add_secondary(&mut silicon, controls);
    silicon.set(0, VIRTUAL_APIC_ADDRESS, 0x4000);
    silicon.set(0, APIC_ACCESS_ADDRESS, RAM + 0x5000);
    silicon
}

#[test]
fn an_entry_is_followed_by_an_exit_for_the_task_priority_threshold() {
    let mut silicon = with_apic(&[0xf4], SecondaryControls::VIRTUALIZE_APIC_ACCESSES);
    silicon.set(0, TPR_THRESHOLD, 3);
    poke(&mut silicon, 0x4080, &[0x20]);
    assert!(is(enter(&mut silicon, true), Reason::TPR_BELOW_THRESHOLD));
    assert_eq!((silicon.get(0, GUEST_RIP), silicon.retired()), (CODE, 0));
    poke(&mut silicon, 0x4080, &[0x30]);
    assert!(is(enter(&mut silicon, false), Reason::HLT));
    // Without the page such an entry is refused.
    let mut silicon = with_apic(&[0xf4], SecondaryControls::empty());
    silicon.set(0, TPR_THRESHOLD, 3);
    let refused = silicon.enter(0, true, u64::MAX).unwrap_err();
    assert_eq!(refused.check.map(|check| check.name()), Some("tpr-threshold-above-vtpr"));
}

#[test]
fn the_guest_interrupt_status_is_loaded_and_saved() {
    // mov dword [0x50b0], 0; hlt
    let end = [0xc7, 0x04, 0x25, 0xb0, 0x50, 0, 0, 0, 0, 0, 0, 0xf4];
    let controls = SecondaryControls::VIRTUALIZE_APIC_ACCESSES | SecondaryControls::VIRTUAL_INTERRUPT_DELIVERY;
    let mut silicon = with_apic(&end, controls);
    silicon.set(0, GUEST_INTERRUPT_STATUS, 0x5141);
    poke(&mut silicon, 0x4000 + 0x120, &[1 << 17]);
    poke(&mut silicon, 0x4000 + 0x110, &[1 << 3]);
    assert!(is(enter(&mut silicon, true), Reason::HLT));
    assert_eq!(silicon.get(0, GUEST_INTERRUPT_STATUS), 0x2341);
    assert_eq!((peek(&mut silicon, 0x40a0), peek(&mut silicon, 0x4120)), (0x20, 0));
    silicon.set(0, EOI_EXIT_BITMAP_0, 1 << 0x23);
    silicon.set(0, GUEST_RIP, CODE);
    assert!(is(enter(&mut silicon, false), Reason::VIRTUALIZED_EOI));
    assert_eq!((silicon.get(0, EXIT_QUALIFICATION), silicon.get(0, GUEST_RIP)), (0x23, CODE + 11));
    assert_eq!(silicon.get(0, GUEST_INTERRUPT_STATUS), 0x41);
}

#[test]
fn paging_structures_in_the_apic_access_page_are_not_read() {
    // mov rax, [0x20_0000]: its page table is the APIC-access page.
    let code = [0x48, 0x8b, 0x04, 0x25, 0, 0, 0x20, 0, 0xf4];
    let mut silicon = with_apic(&code, SecondaryControls::VIRTUALIZE_APIC_ACCESSES);
    poke(&mut silicon, RAM + PML4 + 0x2008, &[0x5000 | 7]);
    poke(&mut silicon, RAM + 0x5000, &[0x6000 | 7]);
    assert!(is(enter(&mut silicon, true), Reason::APIC_ACCESS));
    assert_eq!(silicon.get(0, EXIT_QUALIFICATION) >> 12, 15);
    let secondary = silicon.get(0, SECONDARY_CONTROLS) - SecondaryControls::VIRTUALIZE_APIC_ACCESSES;
    silicon.set(0, SECONDARY_CONTROLS, secondary);
    assert!(is(enter(&mut silicon, false), Reason::HLT));
}

#[test]
fn the_apic_access_page_is_found_by_who_flushes_and_forgotten_with_its_control() {
    // mov eax, [0x5020]; hlt
    let code = [0x8b, 0x04, 0x25, 0x20, 0x50, 0, 0, 0xf4];
    let controls = SecondaryControls::VIRTUALIZE_APIC_ACCESSES;
    let mut silicon = with_apic(&code, SecondaryControls::empty());
    assert!(is(enter(&mut silicon, true), Reason::HLT));
    let mut turn = |on: bool, flush: bool| {
        let secondary = silicon.get(0, SECONDARY_CONTROLS);
        silicon.set(0, SECONDARY_CONTROLS, if on { secondary | controls } else { secondary - controls });
        if flush {
            silicon.invept(0, InveptType::All, InveptDescriptor::default());
        }
        silicon.set(0, GUEST_RIP, CODE);
        enter(&mut silicon, false).reason()
    };
    assert_eq!(turn(true, false), Reason::HLT, "what was cached before knows nothing of the page");
    assert_eq!(turn(true, true), Reason::APIC_ACCESS);
    assert_eq!(turn(false, false), Reason::HLT, "turning it off needs no flush");
}

#[test]
fn an_interrupt_of_the_host_s_reaches_the_guest_that_is_entered() {
    let mut silicon = with(&[0x90, 0xf4]);
    let exits = silicon.get(0, EXIT_CONTROLS) | ExitControls::ACKNOWLEDGE_INTERRUPT;
    silicon.set(0, EXIT_CONTROLS, exits);
    silicon.interrupt(0, 0x77);
    assert!(is(enter(&mut silicon, true), Reason::EXTERNAL_INTERRUPT));
    assert_eq!(silicon.get(0, EXIT_INTERRUPTION_INFO).vector(), 0x77);
    assert!(is(enter(&mut silicon, false), Reason::HLT));
}
