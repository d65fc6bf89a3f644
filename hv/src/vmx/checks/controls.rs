//! Checks on VM-execution, VM-exit and VM-entry control fields.

use super::{Subject, fits, msr_area, page, rows};
use crate::mmu::PHYSICAL_BITS;
use hv_defs::controls::{EptVpidCap, ExitControls, PinBased, PrimaryControls, SecondaryControls};
use hv_defs::exit::EventType;
use hv_defs::vmcs::*;
use hv_defs::x86::{Cr0, Cr4, Vector};

rows! {
    /// The rows, in the SDM's order.
    CONTROLS:
    // VM-execution control fields
    "pin-based-controls-reserved" => |s| s.capabilities.pin.permits(s.get(PIN_BASED_CONTROLS).bits());
    "primary-controls-reserved" => |s| s.capabilities.primary.permits(s.get(PRIMARY_CONTROLS).bits());
    "secondary-controls-reserved" => |s| {
        !s.primary(PrimaryControls::ACTIVATE_SECONDARY)
            || s.capabilities.secondary.permits(s.get(SECONDARY_CONTROLS).bits())
    };
    "cr3-target-count" => |s| s.get(CR3_TARGET_COUNT) <= s.capabilities.cr3_targets();
    "io-bitmap-a-address" => |s| !s.primary(PrimaryControls::IO_BITMAPS) || page(s.get(IO_BITMAP_A));
    "io-bitmap-b-address" => |s| !s.primary(PrimaryControls::IO_BITMAPS) || page(s.get(IO_BITMAP_B));
    "msr-bitmap-address" => |s| !s.primary(PrimaryControls::MSR_BITMAPS) || page(s.get(MSR_BITMAP));
    "virtual-apic-address" => |s| !tpr_shadow(s) || page(s.get(VIRTUAL_APIC_ADDRESS));
    "tpr-threshold-reserved" => |s| !tpr_shadow(s) || interrupt_delivery(s) || s.get(TPR_THRESHOLD) < 16;
    "tpr-threshold-above-vtpr" hot => |s| {
        !tpr_shadow(s)
            || interrupt_delivery(s)
            || s.secondary(SecondaryControls::VIRTUALIZE_APIC_ACCESSES)
            || s.get(TPR_THRESHOLD) <= vtpr(s) >> 4 & 15
    };
    "nmi-exiting-without-virtual-nmis" => |s| s.pin(PinBased::NMI_EXITING) || !s.pin(PinBased::VIRTUAL_NMIS);
    "virtual-nmis-without-nmi-window" => |s| {
        s.pin(PinBased::VIRTUAL_NMIS) || !s.primary(PrimaryControls::NMI_WINDOW_EXITING)
    };
    "apic-access-address" => |s| {
        !s.secondary(SecondaryControls::VIRTUALIZE_APIC_ACCESSES) || page(s.get(APIC_ACCESS_ADDRESS))
    };
    "tpr-shadow-for-virtual-apic" => |s| {
        tpr_shadow(s)
            || !(s.secondary(SecondaryControls::VIRTUALIZE_X2APIC)
                || s.secondary(SecondaryControls::APIC_REGISTER_VIRTUALIZATION)
                || interrupt_delivery(s))
    };
    "x2apic-and-apic-accesses" => |s| {
        !(s.secondary(SecondaryControls::VIRTUALIZE_X2APIC)
            && s.secondary(SecondaryControls::VIRTUALIZE_APIC_ACCESSES))
    };
    "virtual-interrupts-without-exiting" => |s| {
        !interrupt_delivery(s) || s.pin(PinBased::EXTERNAL_INTERRUPT_EXITING)
    };
    "posted-interrupts-without-virtual" => |s| !posted(s) || interrupt_delivery(s);
    "posted-interrupts-without-acknowledge" => |s| !posted(s) || s.exit(ExitControls::ACKNOWLEDGE_INTERRUPT);
    "posted-interrupt-vector" => |s| !posted(s) || s.get(POSTED_INTERRUPT_VECTOR) < 256;
    "posted-interrupt-descriptor-address" => |s| {
        let address = s.get(POSTED_INTERRUPT_DESCRIPTOR_ADDRESS);
        !posted(s) || address % 64 == 0 && fits(address)
    };
    "vpid-zero" => |s| !s.secondary(SecondaryControls::VPID) || s.get(VPID) != 0;
    "eptp-memory-type" => |s| !ept(s) || match s.get(EPT_POINTER).memory_type() {
        0 => s.capabilities.ept_vpid.contains(EptVpidCap::UNCACHEABLE),
        6 => s.capabilities.ept_vpid.contains(EptVpidCap::WRITE_BACK),
        _ => false,
    };
    "eptp-walk-length" => |s| !ept(s) || match s.get(EPT_POINTER).walk_length_less_one() {
        3 => s.capabilities.ept_vpid.contains(EptVpidCap::WALK_LENGTH_4),
        4 => s.capabilities.ept_vpid.contains(EptVpidCap::WALK_LENGTH_5),
        _ => false,
    };
    "eptp-accessed-dirty" => |s| {
        !ept(s)
            || !s.get(EPT_POINTER).accessed_dirty()
            || s.capabilities.ept_vpid.contains(EptVpidCap::ACCESSED_DIRTY)
    };
    "eptp-reserved" => |s| !ept(s) || s.get(EPT_POINTER).into_bits() & EPTP_RESERVED == 0;
    "pml-without-ept" => |s| !s.secondary(SecondaryControls::PML) || ept(s);
    "pml-address" => |s| !s.secondary(SecondaryControls::PML) || page(s.get(PML_ADDRESS));
    "unrestricted-guest-without-ept" => |s| !s.unrestricted() || ept(s);
    "mode-based-execute-without-ept" => |s| !s.secondary(SecondaryControls::MODE_BASED_EXECUTE) || ept(s);
    "vm-function-controls-reserved" => |s| {
        !s.secondary(SecondaryControls::VM_FUNCTIONS) || s.get(VM_FUNCTION_CONTROLS) & !s.capabilities.vm_functions == 0
    };
    "eptp-switching-without-ept" => |s| !eptp_switching(s) || ept(s);
    "eptp-list-address" => |s| !eptp_switching(s) || page(s.get(EPTP_LIST_ADDRESS));
    "vmread-bitmap-address" => |s| !s.secondary(SecondaryControls::VMCS_SHADOWING) || page(s.get(VMREAD_BITMAP));
    "vmwrite-bitmap-address" => |s| !s.secondary(SecondaryControls::VMCS_SHADOWING) || page(s.get(VMWRITE_BITMAP));
    "virtualization-exception-address" => |s| {
        !s.secondary(SecondaryControls::EPT_VIOLATION_VE) || page(s.get(VIRTUALIZATION_EXCEPTION_ADDRESS))
    };
    // VM-exit control fields
    "exit-controls-reserved" => |s| s.capabilities.exit.permits(s.get(EXIT_CONTROLS).bits());
    "save-preemption-timer-without-timer" => |s| {
        s.pin(PinBased::PREEMPTION_TIMER) || !s.exit(ExitControls::SAVE_PREEMPTION_TIMER)
    };
    "exit-msr-store-address" => |s| msr_area(s.get(VM_EXIT_MSR_STORE_COUNT), s.get(VM_EXIT_MSR_STORE_ADDRESS));
    "exit-msr-load-address" => |s| msr_area(s.get(VM_EXIT_MSR_LOAD_COUNT), s.get(VM_EXIT_MSR_LOAD_ADDRESS));
    // VM-entry control fields
    "entry-controls-reserved" => |s| s.capabilities.entry.permits(s.get(ENTRY_CONTROLS).bits());
    "entry-interruption-type" hot => |s| s.injected().is_none_or(|info| match info.kind() {
        EventType::Reserved => false,
        EventType::Other => s.capabilities.primary.one & PrimaryControls::MONITOR_TRAP_FLAG.bits() != 0,
        _ => true,
    });
    "entry-interruption-vector" hot => |s| s.injected().is_none_or(|info| match info.kind() {
        EventType::Nmi => info.vector() == Vector::NMI.0,
        EventType::HardwareException => info.vector() < 32,
        EventType::Other => info.vector() == 0,
        _ => true,
    });
    "entry-interruption-error-code" hot => |s| s.injected().is_none_or(|info| {
        let pushes = (!s.unrestricted() || s.get(GUEST_CR0) & Cr0::PE.bits() != 0)
            && info.kind() == EventType::HardwareException
            && Vector(info.vector()).has_error_code()
            && (info.vector() != CONTROL_PROTECTION || s.capabilities.cr4_fixed1 & Cr4::CET.bits() != 0);
        info.has_error_code() == pushes
    });
    "entry-interruption-reserved" hot => |s| s.injected().is_none_or(|info| info.into_bits() & 0x7fff_f000 == 0);
    "entry-exception-error-code-reserved" hot => |s| s.injected().is_none_or(|info| {
        !info.has_error_code() || s.get(ENTRY_EXCEPTION_ERROR_CODE) >> 16 == 0
    });
    "entry-instruction-length" hot => |s| s.injected().is_none_or(|info| match info.kind() {
        EventType::SoftwareInterrupt | EventType::PrivilegedSoftwareException | EventType::SoftwareException => {
            let least = u32::from(s.capabilities.misc & super::super::capability::MISC_ZERO_LENGTH == 0);
            (least..=15).contains(&s.get(ENTRY_INSTRUCTION_LENGTH))
        }
        _ => true,
    });
    "entry-msr-load-address" => |s| msr_area(s.get(VM_ENTRY_MSR_LOAD_COUNT), s.get(VM_ENTRY_MSR_LOAD_ADDRESS));
}

/// #CP, which only a CPU with CET has.
const CONTROL_PROTECTION: u8 = 21;

/// Bits 11:7 of the EPT pointer, and those beyond the physical-address width.
const EPTP_RESERVED: u64 = 0xf80 | !0 << PHYSICAL_BITS;

fn tpr_shadow(s: &Subject<'_>) -> bool {
    s.primary(PrimaryControls::TPR_SHADOW)
}

fn interrupt_delivery(s: &Subject<'_>) -> bool {
    s.secondary(SecondaryControls::VIRTUAL_INTERRUPT_DELIVERY)
}

fn posted(s: &Subject<'_>) -> bool {
    s.pin(PinBased::POSTED_INTERRUPTS)
}

fn ept(s: &Subject<'_>) -> bool {
    s.secondary(SecondaryControls::EPT)
}

fn eptp_switching(s: &Subject<'_>) -> bool {
    s.secondary(SecondaryControls::VM_FUNCTIONS) && s.get(VM_FUNCTION_CONTROLS) & 1 != 0
}

/// The virtual task-priority register.
fn vtpr(s: &Subject<'_>) -> u32 {
    s.memory.read_u32(s.get(VIRTUAL_APIC_ADDRESS) + 0x80)
}
