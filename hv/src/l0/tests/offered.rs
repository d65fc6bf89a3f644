//! A capability is offered only if it works: for each control that L1 may set, the test that shows what it does.

use super::super::capabilities::{Capabilities, offered};
use crate::soft::SoftSilicon;
use hv_defs::controls::{Allowed, EptVpidCap};
use hv_defs::controls::{EntryControls, ExitControls, PinBased, PrimaryControls, SecondaryControls};

/// A control, and the file and the name of a test.
type Shown = (u32, &'static str, &'static str);

macro_rules! shown {
    ($set:ident: $($control:ident $file:ident $test:literal;)*) => {
        &[$(($set::$control.bits(), $file, $test)),*]
    };
}

const EXITS: &str = include_str!("../../cpu/tests/exits.rs");
const DETAILS: &str = include_str!("../../cpu/tests/exit_details.rs");
const CPU_APIC: &str = include_str!("../../cpu/tests/apic.rs");
const SILICON: &str = include_str!("../../../tests/silicon.rs");
const MMU: &str = include_str!("../../mmu/tests/walks.rs");
const APIC: &str = include_str!("apic.rs");
const CONTROLS: &str = include_str!("controls.rs");
const ENTRY_CHECKS: &str = include_str!("entry_checks.rs");
const INSTRUCTIONS: &str = include_str!("instructions.rs");
const ROUND_TRIP: &str = include_str!("round_trip.rs");
const SHADOW: &str = include_str!("shadow.rs");
const SIGNALS: &str = include_str!("signals.rs");
const WITHOUT_EPT: &str = include_str!("without_ept.rs");

const PIN: &[Shown] = shown! {
    PinBased:
    EXTERNAL_INTERRUPT_EXITING ROUND_TRIP "an_interrupt_takes_l2_to_l1_that_asked";
    NMI_EXITING SIGNALS "an_nmi_takes_l2_to_l1_that_asked";
    VIRTUAL_NMIS SILICON "windows_open_when_nothing_blocks";
    PREEMPTION_TIMER SILICON "the_preemption_timer_counts_down_and_is_saved";
    POSTED_INTERRUPTS APIC "a_notification_takes_posted_interrupts_in_and_l2_goes_on";
};

const PRIMARY: &[Shown] = shown! {
    PrimaryControls:
    INTERRUPT_WINDOW_EXITING SILICON "windows_open_when_nothing_blocks";
    TSC_OFFSETTING ROUND_TRIP "l2_s_time_is_l1_s_scaled_and_offset";
    HLT_EXITING EXITS "instructions_that_always_exit";
    INVLPG_EXITING DETAILS "without_more_to_say_than_their_length";
    MWAIT_EXITING DETAILS "without_more_to_say_than_their_length";
    RDPMC_EXITING DETAILS "without_more_to_say_than_their_length";
    RDTSC_EXITING DETAILS "without_more_to_say_than_their_length";
    CR3_LOAD_EXITING EXITS "control_registers";
    CR3_STORE_EXITING DETAILS "control_and_debug_registers";
    CR8_LOAD_EXITING DETAILS "control_and_debug_registers";
    CR8_STORE_EXITING DETAILS "control_and_debug_registers";
    TPR_SHADOW CPU_APIC "the_task_priority_threshold";
    NMI_WINDOW_EXITING SILICON "windows_open_when_nothing_blocks";
    MOV_DR_EXITING DETAILS "control_and_debug_registers";
    UNCONDITIONAL_IO_EXITING EXITS "ports";
    IO_BITMAPS CONTROLS "ports_are_l1_s_by_its_bitmaps";
    MONITOR_TRAP_FLAG SILICON "the_monitor_trap_flag_exits_after_each_instruction";
    MSR_BITMAPS CONTROLS "msrs_are_l1_s_by_its_bitmap";
    MONITOR_EXITING DETAILS "without_more_to_say_than_their_length";
    PAUSE_EXITING DETAILS "without_more_to_say_than_their_length";
    ACTIVATE_SECONDARY CONTROLS "secondary_controls_count_where_they_are_activated";
};

const SECONDARY: &[Shown] = shown! {
    SecondaryControls:
    VIRTUALIZE_APIC_ACCESSES CPU_APIC "reads_that_are_virtualized";
    EPT SILICON "ept_violations_reach_the_vmcs";
    DESCRIPTOR_TABLE_EXITING DETAILS "descriptor_tables";
    RDTSCP EXITS "features_that_are_off_are_undefined";
    VIRTUALIZE_X2APIC CPU_APIC "x2apic_reads";
    VPID SILICON "a_guest_without_vpid_loses_its_translations_at_each_transition";
    WBINVD_EXITING DETAILS "without_more_to_say_than_their_length";
    UNRESTRICTED_GUEST ENTRY_CHECKS "what_passes_every_row_is_entered";
    APIC_REGISTER_VIRTUALIZATION CPU_APIC "reads_that_are_virtualized";
    VIRTUAL_INTERRUPT_DELIVERY CPU_APIC "a_virtual_interrupt_is_delivered_as_one_is";
    PAUSE_LOOP_EXITING DETAILS "a_loop_of_pauses_exits_when_its_window_is_over";
    RDRAND_EXITING DETAILS "registers_and_their_sizes";
    INVPCID DETAILS "registers_and_their_sizes";
    VM_FUNCTIONS INSTRUCTIONS "vm_functions_of_l2";
    VMCS_SHADOWING WITHOUT_EPT "l2_reaches_its_shadow_vmcs_where_the_bitmaps_say_so";
    RDSEED_EXITING DETAILS "registers_and_their_sizes";
    PML SHADOW "pages_that_l2_makes_dirty_are_logged_until_the_log_is_full";
    XSAVES DETAILS "without_more_to_say_than_their_length";
    MODE_BASED_EXECUTE CONTROLS "mode_based_execute_reaches_ept02_and_comes_back";
    TSC_SCALING ROUND_TRIP "l2_s_time_is_l1_s_scaled_and_offset";
};

const EXIT: &[Shown] = shown! {
    ExitControls:
    SAVE_DEBUG_CONTROLS CONTROLS "what_an_exit_saves_and_loads";
    HOST_ADDRESS_SPACE_SIZE ENTRY_CHECKS "wrong_host_state_is_error_8_and_nothing_else";
    ACKNOWLEDGE_INTERRUPT ROUND_TRIP "an_interrupt_takes_l2_to_l1_that_asked";
    SAVE_PAT CONTROLS "what_an_exit_saves_and_loads";
    LOAD_PAT CONTROLS "what_an_exit_saves_and_loads";
    SAVE_EFER CONTROLS "what_an_exit_saves_and_loads";
    LOAD_EFER CONTROLS "what_an_exit_saves_and_loads";
    SAVE_PREEMPTION_TIMER SILICON "the_preemption_timer_counts_down_and_is_saved";
};

const ENTRY: &[Shown] = shown! {
    EntryControls:
    LOAD_DEBUG_CONTROLS CONTROLS "what_an_entry_loads";
    IA32E_MODE_GUEST ENTRY_CHECKS "what_passes_every_row_is_entered";
    LOAD_PAT CONTROLS "what_an_entry_loads";
    LOAD_EFER CONTROLS "what_an_entry_loads";
};

/// IA32_VMX_EPT_VPID_CAP, by the bit's number.
const EPT_VPID: &[Shown] = &[
    (EptVpidCap::EXECUTE_ONLY.bits().trailing_zeros(), CONTROLS, "mode_based_execute_reaches_ept02_and_comes_back"),
    (EptVpidCap::WALK_LENGTH_4.bits().trailing_zeros(), SHADOW, "a_violation_is_answered_from_ept12"),
    (EptVpidCap::UNCACHEABLE.bits().trailing_zeros(), ENTRY_CHECKS, "a_wrong_control_is_error_7_and_nothing_else"),
    (EptVpidCap::WRITE_BACK.bits().trailing_zeros(), ENTRY_CHECKS, "a_wrong_control_is_error_7_and_nothing_else"),
    (EptVpidCap::PAGE_2M.bits().trailing_zeros(), SHADOW, "large_pages_stay_large_where_both_are"),
    (EptVpidCap::PAGE_1G.bits().trailing_zeros(), SHADOW, "large_pages_stay_large_where_both_are"),
    (EptVpidCap::INVEPT.bits().trailing_zeros(), INSTRUCTIONS, "invalidations"),
    (
        EptVpidCap::ACCESSED_DIRTY.bits().trailing_zeros(),
        SHADOW,
        "accessed_and_dirty_flags_are_kept_where_l1_has_them_on",
    ),
    (EptVpidCap::ADVANCED_EXIT_INFORMATION.bits().trailing_zeros(), MMU, "a_violation_tells_of_the_guest_s_own_page"),
    (EptVpidCap::INVEPT_SINGLE.bits().trailing_zeros(), INSTRUCTIONS, "invalidations"),
    (EptVpidCap::INVEPT_ALL.bits().trailing_zeros(), INSTRUCTIONS, "invalidations"),
    (EptVpidCap::INVVPID.bits().trailing_zeros(), INSTRUCTIONS, "invalidations"),
    (EptVpidCap::INVVPID_ADDRESS.bits().trailing_zeros(), ROUND_TRIP, "invvpid_hits_the_vpid02_that_is_meant"),
    (EptVpidCap::INVVPID_SINGLE.bits().trailing_zeros(), ROUND_TRIP, "invvpid_hits_the_vpid02_that_is_meant"),
    (EptVpidCap::INVVPID_ALL.bits().trailing_zeros(), ROUND_TRIP, "invvpid_hits_the_vpid02_that_is_meant"),
    (EptVpidCap::INVVPID_RETAIN_GLOBALS.bits().trailing_zeros(), ROUND_TRIP, "invvpid_hits_the_vpid02_that_is_meant"),
];

fn capabilities() -> Capabilities {
    offered(&SoftSilicon::new(1 << 20, 1, 16, 0), 0x2020, true)
}

#[test]
fn each_control_that_is_offered_is_shown_to_work() {
    let capabilities = capabilities();
    let check = |name: &str, allowed: Allowed, default1: u32, shown: &[Shown]| {
        let rows = shown.iter().fold(0, |rows, row| rows | row.0);
        // Of the default1 class, only what may be cleared is a choice.
        let choices = allowed.one & !(default1 & allowed.zero);
        assert_eq!(choices & !rows, 0, "{name}: offered, and no test shows it");
        assert_eq!(rows & !choices, 0, "{name}: a test shows it, and it is not offered");
        for (bit, file, test) in shown {
            assert!(file.contains(&format!("fn {test}()")), "{name} {bit:#x}: there is no {test}");
        }
    };
    check("pin-based", capabilities.pin, 0x16, PIN);
    check("primary", capabilities.primary, 0x0401_e172, PRIMARY);
    check("secondary", capabilities.secondary, 0, SECONDARY);
    check("exit", capabilities.exit, 0x0003_6dff, EXIT);
    check("entry", capabilities.entry, 0x11ff, ENTRY);
}

#[test]
fn each_feature_of_ept_and_vpid_is_shown_to_work() {
    let offered = capabilities().ept_vpid.bits();
    let rows = EPT_VPID.iter().fold(0u64, |rows, row| rows | 1 << row.0);
    assert_eq!(offered, rows);
    for (bit, file, test) in EPT_VPID {
        assert!(file.contains(&format!("fn {test}()")), "bit {bit}: there is no {test}");
    }
}

#[test]
fn what_has_nothing_behind_it_is_not_offered() {
    let capabilities = capabilities();
    // No SGX, WAITPKG, Intel PT, CET, MPX or performance counters are in CPUID.
    let absent = SecondaryControls::ENCLS_EXITING
        | SecondaryControls::EPT_VIOLATION_VE
        | SecondaryControls::CONCEAL_FROM_PT
        | SecondaryControls::PT_GUEST_PHYSICAL
        | SecondaryControls::USER_WAIT_PAUSE
        | SecondaryControls::PCONFIG
        | SecondaryControls::ENCLV_EXITING
        | SecondaryControls::BUS_LOCK_DETECTION
        | SecondaryControls::INSTRUCTION_TIMEOUT;
    assert_eq!(capabilities.secondary.one & absent.bits(), 0);
    let absent = ExitControls::LOAD_PERF_GLOBAL_CTRL | ExitControls::CLEAR_BNDCFGS | ExitControls::CLEAR_RTIT_CTL;
    assert_eq!(capabilities.exit.one & (absent | ExitControls::LOAD_CET | ExitControls::LOAD_PKRS).bits(), 0);
    let absent = EntryControls::LOAD_PERF_GLOBAL_CTRL | EntryControls::LOAD_BNDCFGS | EntryControls::LOAD_RTIT_CTL;
    assert_eq!(capabilities.entry.one & (absent | EntryControls::LOAD_CET | EntryControls::ENTRY_TO_SMM).bits(), 0);
    assert_eq!(capabilities.primary.one & PrimaryControls::ACTIVATE_TERTIARY.bits(), 0);
}
