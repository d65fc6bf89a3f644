//! The VMCS field table. See: SDM Appendix B "Field Encoding in VMCS".
//!
//! One row a field. Width, class, index and the high half are functions of the encoding; names for display, dense
//! indices for storage and dataframe columns come from the same rows.

use crate::controls::{EntryControls, ExitControls, PinBased, PrimaryControls, SecondaryControls};
use crate::ept::Eptp;
use crate::exit::{ExitReason, InterruptionInfo};
use core::fmt;
use core::marker::PhantomData;
use serde::{Deserialize, Serialize};

/// How much of a field an access moves. Bits 14:13 of the encoding.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub enum Width {
    W16,
    W64,
    W32,
    Natural,
}

/// Which area of the VMCS a field lies in. Bits 11:10 of the encoding.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Class {
    /// VM-execution, VM-exit and VM-entry control fields.
    Control,
    /// VM-exit information, which is read-only.
    ExitInformation,
    /// Guest state.
    Guest,
    /// Host state.
    Host,
}

/// Whether KVM's fixed list lets L1 reach the field through VMCS shadowing without an exit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shadowed {
    /// Every access exits.
    No,
    /// VMREAD does not exit.
    Ro,
    /// Neither VMREAD nor VMWRITE exits.
    Rw,
}

/// A VMCS field by its encoding, known to the table or not.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[repr(transparent)]
pub struct VmcsField(pub u32);

impl VmcsField {
    /// The width of the field.
    pub const fn width(self) -> Width {
        match (self.0 >> 13) & 3 {
            0 => Width::W16,
            1 => Width::W64,
            2 => Width::W32,
            _ => Width::Natural,
        }
    }

    /// The area that the field lies in.
    pub const fn class(self) -> Class {
        match (self.0 >> 10) & 3 {
            0 => Class::Control,
            1 => Class::ExitInformation,
            2 => Class::Guest,
            _ => Class::Host,
        }
    }

    /// Whether the encoding names the high 32 bits of a 64-bit field.
    pub const fn is_high(self) -> bool {
        self.0 & 1 != 0
    }

    /// The encoding of the whole field, where this one names its high half.
    pub const fn full(self) -> Self {
        Self(self.0 & !1)
    }

    /// The bits that a field of this width can hold.
    pub const fn mask(self) -> u64 {
        match self.width() {
            Width::W16 => 0xffff,
            Width::W32 => 0xffff_ffff,
            Width::W64 | Width::Natural => u64::MAX,
        }
    }

    /// The field's row in [`TABLE`]: a dense index for storage. `None` when the SDM defines no such field, and for the
    /// high half of one.
    pub const fn index(self) -> Option<usize> {
        // Encodings use bits 14:0, of which bit 0 and bit 12 are zero in a full field.
        if self.0 & !0x6ffe != 0 {
            return None;
        }
        match INDEX[(self.0 >> 1 & 0x7ff | self.0 >> 2 & 0x1800) as usize] {
            NONE => None,
            index => Some(index as usize),
        }
    }

    /// The SDM's name in lower case, as `guest_rip`.
    pub const fn name(self) -> Option<&'static str> {
        match self.index() {
            Some(index) => Some(TABLE[index].name),
            None => None,
        }
    }

    /// The field of that name.
    pub fn by_name(name: &str) -> Option<Self> {
        TABLE.iter().find(|row| row.name == name).map(|row| row.field)
    }
}

impl fmt::Display for VmcsField {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.pad(name),
            None => f.pad(&format!("field_{:#x}", self.0)),
        }
    }
}

impl fmt::Debug for VmcsField {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A type that a field's bits can be read as.
pub trait FieldValue: Copy {
    /// From the bits as VMREAD gives them.
    fn from_raw(raw: u64) -> Self;
    /// To the bits as VMWRITE takes them.
    fn into_raw(self) -> u64;
}

macro_rules! field_value {
    ($($type:ty as $bits:ty: $from:expr, $into:expr;)*) => {
        $(impl FieldValue for $type {
            fn from_raw(raw: u64) -> Self {
                $from(raw as $bits)
            }

            fn into_raw(self) -> u64 {
                u64::from($into(self))
            }
        })*
    };
}

field_value! {
    u16 as u16: core::convert::identity, core::convert::identity;
    u32 as u32: core::convert::identity, core::convert::identity;
    u64 as u64: core::convert::identity, core::convert::identity;
    ExitReason as u32: ExitReason::from_bits, ExitReason::into_bits;
    InterruptionInfo as u32: InterruptionInfo::from_bits, InterruptionInfo::into_bits;
    Eptp as u64: Eptp::from_bits, Eptp::into_bits;
    PinBased as u32: PinBased::from_bits_retain, |set: PinBased| set.bits();
    PrimaryControls as u32: PrimaryControls::from_bits_retain, |set: PrimaryControls| set.bits();
    SecondaryControls as u32: SecondaryControls::from_bits_retain, |set: SecondaryControls| set.bits();
    ExitControls as u32: ExitControls::from_bits_retain, |set: ExitControls| set.bits();
    EntryControls as u32: EntryControls::from_bits_retain, |set: EntryControls| set.bits();
}

/// A field together with the type of its value.
pub struct Field<T> {
    encoding: u32,
    /// Its row, found when the constant is made, so that an access by a named field is one by a constant index.
    index: u8,
    value: PhantomData<fn() -> T>,
}

impl<T> Clone for Field<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Field<T> {}

impl<T> Field<T> {
    const fn new(encoding: u32) -> Self {
        let mut index = 0;
        while ENCODINGS[index] != encoding {
            index += 1;
        }
        Self { encoding, index: index as u8, value: PhantomData }
    }

    /// The field without its type.
    pub const fn field(self) -> VmcsField {
        VmcsField(self.encoding)
    }

    /// The field's row in [`TABLE`].
    #[inline(always)]
    pub const fn index(self) -> usize {
        self.index as usize
    }
}

impl<T> From<Field<T>> for VmcsField {
    fn from(field: Field<T>) -> Self {
        field.field()
    }
}

/// One row of the table.
#[derive(Debug)]
pub struct Row {
    /// The field.
    pub field: VmcsField,
    /// The SDM's name in lower case.
    pub name: &'static str,
    /// Its place in KVM's fixed list of shadowed fields.
    pub shadowed: Shadowed,
}

macro_rules! vmcs_fields {
    ($($name:ident $lower:literal: $value:ty = $encoding:literal, $shadowed:ident;)*) => {
        $(
            #[doc = concat!("`", $lower, "`, encoding `", stringify!($encoding), "`.")]
            pub const $name: Field<$value> = Field::new($encoding);
        )*

        /// Every field of the SDM's Appendix B, by rising encoding.
        pub static TABLE: &[Row] = &[
            $(Row { field: VmcsField($encoding), name: $lower, shadowed: Shadowed::$shadowed },)*
        ];

        const ENCODINGS: &[u32] = &[$($encoding),*];
    };
}

vmcs_fields! {
    // 16-bit control fields
    VPID                                "vpid":                                 u16 = 0x0000, No;
    POSTED_INTERRUPT_VECTOR             "posted_interrupt_vector":              u16 = 0x0002, No;
    EPTP_INDEX                          "eptp_index":                           u16 = 0x0004, No;
    HLAT_PREFIX_SIZE                    "hlat_prefix_size":                     u16 = 0x0006, No;
    LAST_PID_POINTER_INDEX              "last_pid_pointer_index":               u16 = 0x0008, No;
    // 16-bit guest state
    GUEST_ES_SELECTOR                   "guest_es_selector":                    u16 = 0x0800, No;
    GUEST_CS_SELECTOR                   "guest_cs_selector":                    u16 = 0x0802, No;
    GUEST_SS_SELECTOR                   "guest_ss_selector":                    u16 = 0x0804, No;
    GUEST_DS_SELECTOR                   "guest_ds_selector":                    u16 = 0x0806, No;
    GUEST_FS_SELECTOR                   "guest_fs_selector":                    u16 = 0x0808, No;
    GUEST_GS_SELECTOR                   "guest_gs_selector":                    u16 = 0x080a, No;
    GUEST_LDTR_SELECTOR                 "guest_ldtr_selector":                  u16 = 0x080c, No;
    GUEST_TR_SELECTOR                   "guest_tr_selector":                    u16 = 0x080e, No;
    GUEST_INTERRUPT_STATUS              "guest_interrupt_status":               u16 = 0x0810, Rw;
    PML_INDEX                           "pml_index":                            u16 = 0x0812, Rw;
    GUEST_UINV                          "guest_uinv":                           u16 = 0x0814, No;
    // 16-bit host state
    HOST_ES_SELECTOR                    "host_es_selector":                     u16 = 0x0c00, No;
    HOST_CS_SELECTOR                    "host_cs_selector":                     u16 = 0x0c02, No;
    HOST_SS_SELECTOR                    "host_ss_selector":                     u16 = 0x0c04, No;
    HOST_DS_SELECTOR                    "host_ds_selector":                     u16 = 0x0c06, No;
    HOST_FS_SELECTOR                    "host_fs_selector":                     u16 = 0x0c08, Rw;
    HOST_GS_SELECTOR                    "host_gs_selector":                     u16 = 0x0c0a, Rw;
    HOST_TR_SELECTOR                    "host_tr_selector":                     u16 = 0x0c0c, No;
    // 64-bit control fields
    IO_BITMAP_A                         "io_bitmap_a":                          u64 = 0x2000, No;
    IO_BITMAP_B                         "io_bitmap_b":                          u64 = 0x2002, No;
    MSR_BITMAP                          "msr_bitmap":                           u64 = 0x2004, No;
    VM_EXIT_MSR_STORE_ADDRESS           "vm_exit_msr_store_address":            u64 = 0x2006, No;
    VM_EXIT_MSR_LOAD_ADDRESS            "vm_exit_msr_load_address":             u64 = 0x2008, No;
    VM_ENTRY_MSR_LOAD_ADDRESS           "vm_entry_msr_load_address":            u64 = 0x200a, No;
    EXECUTIVE_VMCS_POINTER              "executive_vmcs_pointer":               u64 = 0x200c, No;
    PML_ADDRESS                         "pml_address":                          u64 = 0x200e, No;
    TSC_OFFSET                          "tsc_offset":                           u64 = 0x2010, No;
    VIRTUAL_APIC_ADDRESS                "virtual_apic_address":                 u64 = 0x2012, No;
    APIC_ACCESS_ADDRESS                 "apic_access_address":                  u64 = 0x2014, No;
    POSTED_INTERRUPT_DESCRIPTOR_ADDRESS "posted_interrupt_descriptor_address":  u64 = 0x2016, No;
    VM_FUNCTION_CONTROLS                "vm_function_controls":                 u64 = 0x2018, No;
    EPT_POINTER                         "ept_pointer":                         Eptp = 0x201a, No;
    EOI_EXIT_BITMAP_0                   "eoi_exit_bitmap_0":                    u64 = 0x201c, No;
    EOI_EXIT_BITMAP_1                   "eoi_exit_bitmap_1":                    u64 = 0x201e, No;
    EOI_EXIT_BITMAP_2                   "eoi_exit_bitmap_2":                    u64 = 0x2020, No;
    EOI_EXIT_BITMAP_3                   "eoi_exit_bitmap_3":                    u64 = 0x2022, No;
    EPTP_LIST_ADDRESS                   "eptp_list_address":                    u64 = 0x2024, No;
    VMREAD_BITMAP                       "vmread_bitmap":                        u64 = 0x2026, No;
    VMWRITE_BITMAP                      "vmwrite_bitmap":                       u64 = 0x2028, No;
    VIRTUALIZATION_EXCEPTION_ADDRESS    "virtualization_exception_address":     u64 = 0x202a, No;
    XSS_EXITING_BITMAP                  "xss_exiting_bitmap":                   u64 = 0x202c, No;
    ENCLS_EXITING_BITMAP                "encls_exiting_bitmap":                 u64 = 0x202e, No;
    SUB_PAGE_PERMISSION_TABLE_POINTER   "sub_page_permission_table_pointer":    u64 = 0x2030, No;
    TSC_MULTIPLIER                      "tsc_multiplier":                       u64 = 0x2032, No;
    TERTIARY_CONTROLS                   "tertiary_controls":                    u64 = 0x2034, No;
    ENCLV_EXITING_BITMAP                "enclv_exiting_bitmap":                 u64 = 0x2036, No;
    LOW_PASID_DIRECTORY_ADDRESS         "low_pasid_directory_address":          u64 = 0x2038, No;
    HIGH_PASID_DIRECTORY_ADDRESS        "high_pasid_directory_address":         u64 = 0x203a, No;
    SHARED_EPT_POINTER                  "shared_ept_pointer":                   u64 = 0x203c, No;
    PCONFIG_EXITING_BITMAP              "pconfig_exiting_bitmap":               u64 = 0x203e, No;
    HLAT_POINTER                        "hlat_pointer":                         u64 = 0x2040, No;
    PID_POINTER_TABLE_ADDRESS           "pid_pointer_table_address":            u64 = 0x2042, No;
    SECONDARY_EXIT_CONTROLS             "secondary_exit_controls":              u64 = 0x2044, No;
    SPEC_CTRL_MASK                      "spec_ctrl_mask":                       u64 = 0x204a, No;
    SPEC_CTRL_SHADOW                    "spec_ctrl_shadow":                     u64 = 0x204c, No;
    INJECTED_EVENT_DATA                 "injected_event_data":                  u64 = 0x2052, No;
    // 64-bit exit information
    GUEST_PHYSICAL_ADDRESS              "guest_physical_address":               u64 = 0x2400, Ro;
    ORIGINAL_EVENT_DATA                 "original_event_data":                  u64 = 0x2404, No;
    // 64-bit guest state
    VMCS_LINK_POINTER                   "vmcs_link_pointer":                    u64 = 0x2800, No;
    GUEST_DEBUGCTL                      "guest_debugctl":                       u64 = 0x2802, No;
    GUEST_PAT                           "guest_pat":                            u64 = 0x2804, No;
    GUEST_EFER                          "guest_efer":                           u64 = 0x2806, No;
    GUEST_PERF_GLOBAL_CTRL              "guest_perf_global_ctrl":               u64 = 0x2808, No;
    GUEST_PDPTE0                        "guest_pdpte0":                         u64 = 0x280a, No;
    GUEST_PDPTE1                        "guest_pdpte1":                         u64 = 0x280c, No;
    GUEST_PDPTE2                        "guest_pdpte2":                         u64 = 0x280e, No;
    GUEST_PDPTE3                        "guest_pdpte3":                         u64 = 0x2810, No;
    GUEST_BNDCFGS                       "guest_bndcfgs":                        u64 = 0x2812, No;
    GUEST_RTIT_CTL                      "guest_rtit_ctl":                       u64 = 0x2814, No;
    GUEST_LBR_CTL                       "guest_lbr_ctl":                        u64 = 0x2816, No;
    GUEST_PKRS                          "guest_pkrs":                           u64 = 0x2818, No;
    GUEST_FRED_CONFIG                   "guest_fred_config":                    u64 = 0x281a, No;
    GUEST_FRED_RSP1                     "guest_fred_rsp1":                      u64 = 0x281c, No;
    GUEST_FRED_RSP2                     "guest_fred_rsp2":                      u64 = 0x281e, No;
    GUEST_FRED_RSP3                     "guest_fred_rsp3":                      u64 = 0x2820, No;
    GUEST_FRED_STKLVLS                  "guest_fred_stklvls":                   u64 = 0x2822, No;
    GUEST_FRED_SSP1                     "guest_fred_ssp1":                      u64 = 0x2824, No;
    GUEST_FRED_SSP2                     "guest_fred_ssp2":                      u64 = 0x2826, No;
    GUEST_FRED_SSP3                     "guest_fred_ssp3":                      u64 = 0x2828, No;
    // 64-bit host state
    HOST_PAT                            "host_pat":                             u64 = 0x2c00, No;
    HOST_EFER                           "host_efer":                            u64 = 0x2c02, No;
    HOST_PERF_GLOBAL_CTRL               "host_perf_global_ctrl":                u64 = 0x2c04, No;
    HOST_PKRS                           "host_pkrs":                            u64 = 0x2c06, No;
    HOST_FRED_CONFIG                    "host_fred_config":                     u64 = 0x2c08, No;
    HOST_FRED_RSP1                      "host_fred_rsp1":                       u64 = 0x2c0a, No;
    HOST_FRED_RSP2                      "host_fred_rsp2":                       u64 = 0x2c0c, No;
    HOST_FRED_RSP3                      "host_fred_rsp3":                       u64 = 0x2c0e, No;
    HOST_FRED_STKLVLS                   "host_fred_stklvls":                    u64 = 0x2c10, No;
    HOST_FRED_SSP1                      "host_fred_ssp1":                       u64 = 0x2c12, No;
    HOST_FRED_SSP2                      "host_fred_ssp2":                       u64 = 0x2c14, No;
    HOST_FRED_SSP3                      "host_fred_ssp3":                       u64 = 0x2c16, No;
    // 32-bit control fields
    PIN_BASED_CONTROLS                  "pin_based_controls":              PinBased = 0x4000, Rw;
    PRIMARY_CONTROLS                    "primary_controls":         PrimaryControls = 0x4002, Rw;
    EXCEPTION_BITMAP                    "exception_bitmap":                     u32 = 0x4004, Rw;
    PAGE_FAULT_ERROR_CODE_MASK          "page_fault_error_code_mask":           u32 = 0x4006, No;
    PAGE_FAULT_ERROR_CODE_MATCH         "page_fault_error_code_match":          u32 = 0x4008, No;
    CR3_TARGET_COUNT                    "cr3_target_count":                     u32 = 0x400a, No;
    EXIT_CONTROLS                       "exit_controls":               ExitControls = 0x400c, No;
    VM_EXIT_MSR_STORE_COUNT             "vm_exit_msr_store_count":              u32 = 0x400e, No;
    VM_EXIT_MSR_LOAD_COUNT              "vm_exit_msr_load_count":               u32 = 0x4010, No;
    ENTRY_CONTROLS                      "entry_controls":             EntryControls = 0x4012, No;
    VM_ENTRY_MSR_LOAD_COUNT             "vm_entry_msr_load_count":              u32 = 0x4014, No;
    ENTRY_INTERRUPTION_INFO             "entry_interruption_info": InterruptionInfo = 0x4016, Rw;
    ENTRY_EXCEPTION_ERROR_CODE          "entry_exception_error_code":           u32 = 0x4018, Rw;
    ENTRY_INSTRUCTION_LENGTH            "entry_instruction_length":             u32 = 0x401a, Rw;
    TPR_THRESHOLD                       "tpr_threshold":                        u32 = 0x401c, Rw;
    SECONDARY_CONTROLS                  "secondary_controls":     SecondaryControls = 0x401e, No;
    PLE_GAP                             "ple_gap":                              u32 = 0x4020, No;
    PLE_WINDOW                          "ple_window":                           u32 = 0x4022, No;
    INSTRUCTION_TIMEOUT                 "instruction_timeout":                  u32 = 0x4024, No;
    // 32-bit exit information
    VM_INSTRUCTION_ERROR                "vm_instruction_error":                 u32 = 0x4400, No;
    EXIT_REASON                         "exit_reason":                   ExitReason = 0x4402, Ro;
    EXIT_INTERRUPTION_INFO              "exit_interruption_info":  InterruptionInfo = 0x4404, Ro;
    EXIT_INTERRUPTION_ERROR_CODE        "exit_interruption_error_code":         u32 = 0x4406, Ro;
    IDT_VECTORING_INFO                  "idt_vectoring_info":      InterruptionInfo = 0x4408, Ro;
    IDT_VECTORING_ERROR_CODE            "idt_vectoring_error_code":             u32 = 0x440a, Ro;
    EXIT_INSTRUCTION_LENGTH             "exit_instruction_length":              u32 = 0x440c, Ro;
    EXIT_INSTRUCTION_INFO               "exit_instruction_info":                u32 = 0x440e, No;
    // 32-bit guest state
    GUEST_ES_LIMIT                      "guest_es_limit":                       u32 = 0x4800, No;
    GUEST_CS_LIMIT                      "guest_cs_limit":                       u32 = 0x4802, No;
    GUEST_SS_LIMIT                      "guest_ss_limit":                       u32 = 0x4804, No;
    GUEST_DS_LIMIT                      "guest_ds_limit":                       u32 = 0x4806, No;
    GUEST_FS_LIMIT                      "guest_fs_limit":                       u32 = 0x4808, No;
    GUEST_GS_LIMIT                      "guest_gs_limit":                       u32 = 0x480a, No;
    GUEST_LDTR_LIMIT                    "guest_ldtr_limit":                     u32 = 0x480c, No;
    GUEST_TR_LIMIT                      "guest_tr_limit":                       u32 = 0x480e, No;
    GUEST_GDTR_LIMIT                    "guest_gdtr_limit":                     u32 = 0x4810, No;
    GUEST_IDTR_LIMIT                    "guest_idtr_limit":                     u32 = 0x4812, No;
    GUEST_ES_ACCESS_RIGHTS              "guest_es_access_rights":               u32 = 0x4814, No;
    GUEST_CS_ACCESS_RIGHTS              "guest_cs_access_rights":               u32 = 0x4816, Ro;
    GUEST_SS_ACCESS_RIGHTS              "guest_ss_access_rights":               u32 = 0x4818, Ro;
    GUEST_DS_ACCESS_RIGHTS              "guest_ds_access_rights":               u32 = 0x481a, No;
    GUEST_FS_ACCESS_RIGHTS              "guest_fs_access_rights":               u32 = 0x481c, No;
    GUEST_GS_ACCESS_RIGHTS              "guest_gs_access_rights":               u32 = 0x481e, No;
    GUEST_LDTR_ACCESS_RIGHTS            "guest_ldtr_access_rights":             u32 = 0x4820, No;
    GUEST_TR_ACCESS_RIGHTS              "guest_tr_access_rights":               u32 = 0x4822, No;
    GUEST_INTERRUPTIBILITY              "guest_interruptibility":               u32 = 0x4824, Rw;
    GUEST_ACTIVITY_STATE                "guest_activity_state":                 u32 = 0x4826, No;
    GUEST_SMBASE                        "guest_smbase":                         u32 = 0x4828, No;
    GUEST_SYSENTER_CS                   "guest_sysenter_cs":                    u32 = 0x482a, No;
    PREEMPTION_TIMER_VALUE              "preemption_timer_value":               u32 = 0x482e, Rw;
    // 32-bit host state
    HOST_SYSENTER_CS                    "host_sysenter_cs":                     u32 = 0x4c00, No;
    // natural-width control fields
    CR0_GUEST_HOST_MASK                 "cr0_guest_host_mask":                  u64 = 0x6000, Rw;
    CR4_GUEST_HOST_MASK                 "cr4_guest_host_mask":                  u64 = 0x6002, No;
    CR0_READ_SHADOW                     "cr0_read_shadow":                      u64 = 0x6004, Rw;
    CR4_READ_SHADOW                     "cr4_read_shadow":                      u64 = 0x6006, Rw;
    CR3_TARGET_0                        "cr3_target_0":                         u64 = 0x6008, No;
    CR3_TARGET_1                        "cr3_target_1":                         u64 = 0x600a, No;
    CR3_TARGET_2                        "cr3_target_2":                         u64 = 0x600c, No;
    CR3_TARGET_3                        "cr3_target_3":                         u64 = 0x600e, No;
    // natural-width exit information
    EXIT_QUALIFICATION                  "exit_qualification":                   u64 = 0x6400, Ro;
    IO_RCX                              "io_rcx":                               u64 = 0x6402, No;
    IO_RSI                              "io_rsi":                               u64 = 0x6404, No;
    IO_RDI                              "io_rdi":                               u64 = 0x6406, No;
    IO_RIP                              "io_rip":                               u64 = 0x6408, No;
    GUEST_LINEAR_ADDRESS                "guest_linear_address":                 u64 = 0x640a, Ro;
    // natural-width guest state
    GUEST_CR0                           "guest_cr0":                            u64 = 0x6800, Rw;
    GUEST_CR3                           "guest_cr3":                            u64 = 0x6802, Rw;
    GUEST_CR4                           "guest_cr4":                            u64 = 0x6804, Rw;
    GUEST_ES_BASE                       "guest_es_base":                        u64 = 0x6806, No;
    GUEST_CS_BASE                       "guest_cs_base":                        u64 = 0x6808, No;
    GUEST_SS_BASE                       "guest_ss_base":                        u64 = 0x680a, No;
    GUEST_DS_BASE                       "guest_ds_base":                        u64 = 0x680c, No;
    GUEST_FS_BASE                       "guest_fs_base":                        u64 = 0x680e, No;
    GUEST_GS_BASE                       "guest_gs_base":                        u64 = 0x6810, No;
    GUEST_LDTR_BASE                     "guest_ldtr_base":                      u64 = 0x6812, No;
    GUEST_TR_BASE                       "guest_tr_base":                        u64 = 0x6814, No;
    GUEST_GDTR_BASE                     "guest_gdtr_base":                      u64 = 0x6816, No;
    GUEST_IDTR_BASE                     "guest_idtr_base":                      u64 = 0x6818, No;
    GUEST_DR7                           "guest_dr7":                            u64 = 0x681a, No;
    GUEST_RSP                           "guest_rsp":                            u64 = 0x681c, Rw;
    GUEST_RIP                           "guest_rip":                            u64 = 0x681e, Rw;
    GUEST_RFLAGS                        "guest_rflags":                         u64 = 0x6820, Rw;
    GUEST_PENDING_DEBUG_EXCEPTIONS      "guest_pending_debug_exceptions":       u64 = 0x6822, No;
    GUEST_SYSENTER_ESP                  "guest_sysenter_esp":                   u64 = 0x6824, No;
    GUEST_SYSENTER_EIP                  "guest_sysenter_eip":                   u64 = 0x6826, No;
    GUEST_S_CET                         "guest_s_cet":                          u64 = 0x6828, No;
    GUEST_SSP                           "guest_ssp":                            u64 = 0x682a, No;
    GUEST_INTERRUPT_SSP_TABLE           "guest_interrupt_ssp_table":            u64 = 0x682c, No;
    // natural-width host state
    HOST_CR0                            "host_cr0":                             u64 = 0x6c00, No;
    HOST_CR3                            "host_cr3":                             u64 = 0x6c02, No;
    HOST_CR4                            "host_cr4":                             u64 = 0x6c04, No;
    HOST_FS_BASE                        "host_fs_base":                         u64 = 0x6c06, Rw;
    HOST_GS_BASE                        "host_gs_base":                         u64 = 0x6c08, Rw;
    HOST_TR_BASE                        "host_tr_base":                         u64 = 0x6c0a, No;
    HOST_GDTR_BASE                      "host_gdtr_base":                       u64 = 0x6c0c, No;
    HOST_IDTR_BASE                      "host_idtr_base":                       u64 = 0x6c0e, No;
    HOST_SYSENTER_ESP                   "host_sysenter_esp":                    u64 = 0x6c10, No;
    HOST_SYSENTER_EIP                   "host_sysenter_eip":                    u64 = 0x6c12, No;
    HOST_RSP                            "host_rsp":                             u64 = 0x6c14, No;
    HOST_RIP                            "host_rip":                             u64 = 0x6c16, No;
    HOST_S_CET                          "host_s_cet":                           u64 = 0x6c18, No;
    HOST_SSP                            "host_ssp":                             u64 = 0x6c1a, No;
    HOST_INTERRUPT_SSP_TABLE            "host_interrupt_ssp_table":             u64 = 0x6c1c, No;
}

/// How many fields there are.
pub const COUNT: usize = ENCODINGS.len();

/// By row of [`TABLE`]: [`VmcsField::mask`] of its field.
pub static MASKS: [u64; COUNT] = {
    let mut masks = [0; COUNT];
    let mut row = 0;
    while row < COUNT {
        masks[row] = VmcsField(ENCODINGS[row]).mask();
        row += 1;
    }
    masks
};

const NONE: u8 = u8::MAX;

/// From the encoding's significant bits to a row: bits 14:13 above bits 11:1.
static INDEX: [u8; 0x2000] = index();

const fn index() -> [u8; 0x2000] {
    assert!(COUNT < NONE as usize);
    let mut map = [NONE; 0x2000];
    let mut row = 0;
    while row < COUNT {
        let encoding = ENCODINGS[row];
        assert!(row == 0 || ENCODINGS[row - 1] < encoding, "the table is sorted by encoding");
        assert!(encoding & !0x6ffe == 0, "encodings are of full fields");
        map[(encoding >> 1 & 0x7ff | encoding >> 2 & 0x1800) as usize] = row as u8;
        row += 1;
    }
    map
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_finds_itself() {
        for (index, row) in TABLE.iter().enumerate() {
            assert_eq!(row.field.index(), Some(index), "{}", row.name);
            assert_eq!(VmcsField::by_name(row.name), Some(row.field));
        }
        assert_eq!(TABLE.len(), COUNT);
    }

    #[test]
    fn strangers_are_kept_and_shown() {
        for stranger in [0x1000, 0x2001, 0x4026, 0x6ffe, 0x8000_0000, u32::MAX] {
            assert_eq!(VmcsField(stranger).index(), None, "{stranger:#x}");
        }
        assert_eq!(VmcsField(0x4026).to_string(), "field_0x4026");
    }

    #[test]
    fn encodings_tell_width_and_class() {
        let check = |field: VmcsField, width, class| assert_eq!((field.width(), field.class()), (width, class));
        check(VPID.into(), Width::W16, Class::Control);
        check(GUEST_PHYSICAL_ADDRESS.into(), Width::W64, Class::ExitInformation);
        check(GUEST_CS_ACCESS_RIGHTS.into(), Width::W32, Class::Guest);
        check(HOST_RIP.into(), Width::Natural, Class::Host);
        assert!(VmcsField(0x201b).is_high());
        assert_eq!(VmcsField(0x201b).full(), EPT_POINTER.field());
    }
}
