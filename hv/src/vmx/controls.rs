//! The VM-execution controls of the VMCS that runs, flattened so that "does this exit?" is a test or two.
//!
//! Values whose control is off are neutral here (a VPID of 0, no secondary control set), so that nobody asks twice.

use crate::memory::Memory;
use crate::vmcs::Vmcs;
use hv_defs::addr::Hpa;
use hv_defs::controls::{EntryControls, ExitControls, PinBased, PrimaryControls, SecondaryControls};
use hv_defs::ept::Eptp;
use hv_defs::vmcs::*;
use hv_defs::x86::Vector;
use serde::{Deserialize, Serialize};

/// The controls that the CPU runs under.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Controls {
    /// Pin-based controls.
    pub pin: PinBased,
    /// Primary processor-based controls.
    pub primary: PrimaryControls,
    /// Secondary processor-based controls; none where they are not activated.
    pub secondary: SecondaryControls,
    /// VM-exit controls.
    pub exit: ExitControls,
    /// VM-entry controls.
    pub entry: EntryControls,
    /// Vectors whose exceptions exit, #PF apart.
    pub exception_bitmap: u32,
    /// Which bits of a #PF's error code count.
    pub page_fault_mask: u32,
    /// What they are compared with.
    pub page_fault_match: u32,
    /// Ports 0 to 0x7fff.
    pub io_bitmap_a: Hpa,
    /// Ports 0x8000 to 0xffff.
    pub io_bitmap_b: Hpa,
    /// The MSR bitmaps.
    pub msr_bitmap: Hpa,
    /// Bits of CR0 that the host owns.
    pub cr0_mask: u64,
    /// What the guest reads of them.
    pub cr0_shadow: u64,
    /// Bits of CR4 that the host owns.
    pub cr4_mask: u64,
    /// What the guest reads of them.
    pub cr4_shadow: u64,
    /// Values of CR3 that may be loaded without an exit.
    pub cr3_targets: [u64; 4],
    /// How many of them count.
    pub cr3_target_count: u32,
    /// What is added to the time-stamp counter; 0 without TSC offsetting.
    pub tsc_offset: u64,
    /// What it is multiplied with before, in units of 2^-48; 2^48 without TSC scaling.
    pub tsc_multiplier: u64,
    /// The VPID; 0 without.
    pub vpid: u16,
    /// The EPT pointer; `None` without EPT.
    pub eptp: Option<Eptp>,
    /// The virtual-APIC page.
    pub virtual_apic: Hpa,
    /// The APIC-access page; `None` where APIC accesses are not virtualized.
    pub apic_access: Option<Hpa>,
    /// The task-priority threshold.
    pub tpr_threshold: u32,
    /// PAUSE-loop exiting's gap.
    pub ple_gap: u32,
    /// PAUSE-loop exiting's window.
    pub ple_window: u32,
    /// The VMREAD bitmap.
    pub vmread_bitmap: Hpa,
    /// The VMWRITE bitmap.
    pub vmwrite_bitmap: Hpa,
    /// The VMCS that VMREAD and VMWRITE reach with VMCS shadowing; all ones for none.
    pub vmcs_link_pointer: u64,
    /// Bits of IA32_XSS whose components make XSAVES and XRSTORS exit.
    pub xss_bitmap: u64,
    /// Leaves of ENCLS that exit.
    pub encls_bitmap: u64,
    /// VM functions that are on.
    pub vm_functions: u64,
    /// The list of EPT pointers for VM function 0.
    pub eptp_list: Hpa,
    /// The page-modification log; `None` where it is off.
    pub pml: Option<Hpa>,
    /// Vectors whose virtual EOI exits.
    pub eoi_exit_bitmap: [u64; 4],
    /// The notification vector of posted interrupts.
    pub posted_interrupt_vector: u8,
    /// The posted-interrupt descriptor.
    pub posted_interrupt_descriptor: Hpa,
}

impl Default for Controls {
    /// Nothing exits that does not have to.
    fn default() -> Self {
        Self::of(&Vmcs::default())
    }
}

impl Controls {
    /// The controls of a VMCS.
    pub fn of(vmcs: &Vmcs) -> Self {
        let primary = vmcs.get(PRIMARY_CONTROLS);
        let secondary = match primary.contains(PrimaryControls::ACTIVATE_SECONDARY) {
            true => vmcs.get(SECONDARY_CONTROLS),
            false => SecondaryControls::empty(),
        };
        let on = |control| secondary.contains(control);
        let page = |field| Hpa(vmcs.get(field));
        Self {
            pin: vmcs.get(PIN_BASED_CONTROLS),
            primary,
            secondary,
            exit: vmcs.get(EXIT_CONTROLS),
            entry: vmcs.get(ENTRY_CONTROLS),
            exception_bitmap: vmcs.get(EXCEPTION_BITMAP),
            page_fault_mask: vmcs.get(PAGE_FAULT_ERROR_CODE_MASK),
            page_fault_match: vmcs.get(PAGE_FAULT_ERROR_CODE_MATCH),
            io_bitmap_a: page(IO_BITMAP_A),
            io_bitmap_b: page(IO_BITMAP_B),
            msr_bitmap: page(MSR_BITMAP),
            cr0_mask: vmcs.get(CR0_GUEST_HOST_MASK),
            cr0_shadow: vmcs.get(CR0_READ_SHADOW),
            cr4_mask: vmcs.get(CR4_GUEST_HOST_MASK),
            cr4_shadow: vmcs.get(CR4_READ_SHADOW),
            cr3_targets: [CR3_TARGET_0, CR3_TARGET_1, CR3_TARGET_2, CR3_TARGET_3].map(|field| vmcs.get(field)),
            cr3_target_count: vmcs.get(CR3_TARGET_COUNT).min(4),
            tsc_offset: match primary.contains(PrimaryControls::TSC_OFFSETTING) {
                true => vmcs.get(TSC_OFFSET),
                false => 0,
            },
            tsc_multiplier: match on(SecondaryControls::TSC_SCALING) {
                true => vmcs.get(TSC_MULTIPLIER),
                false => 1 << 48,
            },
            vpid: if on(SecondaryControls::VPID) { vmcs.get(VPID) } else { 0 },
            eptp: on(SecondaryControls::EPT).then(|| vmcs.get(EPT_POINTER)),
            virtual_apic: page(VIRTUAL_APIC_ADDRESS),
            apic_access: on(SecondaryControls::VIRTUALIZE_APIC_ACCESSES).then(|| page(APIC_ACCESS_ADDRESS)),
            tpr_threshold: vmcs.get(TPR_THRESHOLD),
            ple_gap: vmcs.get(PLE_GAP),
            ple_window: vmcs.get(PLE_WINDOW),
            vmread_bitmap: page(VMREAD_BITMAP),
            vmwrite_bitmap: page(VMWRITE_BITMAP),
            vmcs_link_pointer: vmcs.get(VMCS_LINK_POINTER),
            xss_bitmap: vmcs.get(XSS_EXITING_BITMAP),
            encls_bitmap: vmcs.get(ENCLS_EXITING_BITMAP),
            vm_functions: match on(SecondaryControls::VM_FUNCTIONS) {
                true => vmcs.get(VM_FUNCTION_CONTROLS),
                false => 0,
            },
            eptp_list: page(EPTP_LIST_ADDRESS),
            pml: on(SecondaryControls::PML).then(|| page(PML_ADDRESS)),
            eoi_exit_bitmap: [EOI_EXIT_BITMAP_0, EOI_EXIT_BITMAP_1, EOI_EXIT_BITMAP_2, EOI_EXIT_BITMAP_3]
                .map(|field| vmcs.get(field)),
            posted_interrupt_vector: vmcs.get(POSTED_INTERRUPT_VECTOR) as u8,
            posted_interrupt_descriptor: page(POSTED_INTERRUPT_DESCRIPTOR_ADDRESS),
        }
    }

    /// Whether a primary control is set.
    #[inline(always)]
    pub const fn primary(&self, control: PrimaryControls) -> bool {
        self.primary.contains(control)
    }

    /// Whether a secondary control is set, and they are activated.
    #[inline(always)]
    pub const fn secondary(&self, control: SecondaryControls) -> bool {
        self.secondary.contains(control)
    }

    /// Whether an exception exits. `error_code` counts for #PF only.
    pub const fn exits_on_exception(&self, vector: Vector, error_code: u32) -> bool {
        let bit = self.exception_bitmap >> (vector.0 & 31) & 1 != 0;
        match vector {
            Vector::PF => bit == (error_code & self.page_fault_mask == self.page_fault_match),
            _ => bit,
        }
    }

    /// Whether an access to `size` ports from `port` on exits.
    pub fn exits_on_io(&self, memory: &Memory, port: u16, size: u8) -> bool {
        if !self.primary(PrimaryControls::IO_BITMAPS) {
            return self.primary(PrimaryControls::UNCONDITIONAL_IO_EXITING);
        }
        let first = u32::from(port);
        (first..first + u32::from(size)).any(|port| {
            // An access that wraps around the last port exits.
            let bitmap = if port < 0x8000 { self.io_bitmap_a } else { self.io_bitmap_b };
            port > 0xffff || bit(memory, bitmap, port & 0x7fff)
        })
    }

    /// Whether RDMSR of `msr` exits.
    pub fn exits_on_rdmsr(&self, memory: &Memory, msr: u32) -> bool {
        self.exits_on_msr(memory, msr, 0)
    }

    /// Whether WRMSR of `msr` exits.
    pub fn exits_on_wrmsr(&self, memory: &Memory, msr: u32) -> bool {
        self.exits_on_msr(memory, msr, 2048)
    }

    fn exits_on_msr(&self, memory: &Memory, msr: u32, part: u64) -> bool {
        if !self.primary(PrimaryControls::MSR_BITMAPS) {
            return true;
        }
        match msr {
            0..=0x1fff => bit(memory, self.msr_bitmap.offset(part), msr),
            0xc000_0000..=0xc000_1fff => bit(memory, self.msr_bitmap.offset(part + 1024), msr & 0x1fff),
            _ => true,
        }
    }

    /// Whether MOV to CR3 of `value` exits.
    pub fn exits_on_cr3_load(&self, value: u64) -> bool {
        self.primary(PrimaryControls::CR3_LOAD_EXITING)
            && !self.cr3_targets[..self.cr3_target_count as usize].contains(&value)
    }

    /// Whether MOV to CR0 of `value` exits: it would change a bit that the host owns from what the guest reads.
    pub const fn exits_on_cr0_load(&self, value: u64) -> bool {
        (value ^ self.cr0_shadow) & self.cr0_mask != 0
    }

    /// Whether MOV to CR4 of `value` exits.
    pub const fn exits_on_cr4_load(&self, value: u64) -> bool {
        (value ^ self.cr4_shadow) & self.cr4_mask != 0
    }

    /// What the guest reads of CR0, where the hardware has `value`.
    pub const fn read_cr0(&self, value: u64) -> u64 {
        value & !self.cr0_mask | self.cr0_shadow & self.cr0_mask
    }

    /// What the guest reads of CR4, where the hardware has `value`.
    pub const fn read_cr4(&self, value: u64) -> u64 {
        value & !self.cr4_mask | self.cr4_shadow & self.cr4_mask
    }

    /// Whether VMREAD of the field of that encoding exits.
    pub fn exits_on_vmread(&self, memory: &Memory, encoding: u64) -> bool {
        self.exits_on_vmcs_access(memory, self.vmread_bitmap, encoding)
    }

    /// Whether VMWRITE of the field of that encoding exits.
    pub fn exits_on_vmwrite(&self, memory: &Memory, encoding: u64) -> bool {
        self.exits_on_vmcs_access(memory, self.vmwrite_bitmap, encoding)
    }

    fn exits_on_vmcs_access(&self, memory: &Memory, bitmap: Hpa, encoding: u64) -> bool {
        !self.secondary(SecondaryControls::VMCS_SHADOWING)
            || encoding >> 15 != 0
            || bit(memory, bitmap, encoding as u32)
    }

    /// The time-stamp counter that the guest sees, where the host's is `host`.
    pub const fn guest_tsc(&self, host: u64) -> u64 {
        let scaled = (host as u128 * self.tsc_multiplier as u128) >> 48;
        (scaled as u64).wrapping_add(self.tsc_offset)
    }
}

fn bit(memory: &Memory, bitmap: Hpa, number: u32) -> bool {
    memory.read::<u8>(bitmap.offset(u64::from(number / 8))) >> (number % 8) & 1 != 0
}
