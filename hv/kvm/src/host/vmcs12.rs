//! How Linux's KVM lays out a vmcs12: fields as they lie in `struct vmcs12` of its revision, which migration keeps stable.
//!
//! KVM_GET_NESTED_STATE gives these bytes, whatever of it KVM has in a cache, in a shadow VMCS, or in L1's memory.

use hv_defs::event::{Actor, VmcsAccess, VmcsOp, Which};
use hv_defs::vmcs::{self as f, Class, VmcsField, Width};

/// Bytes of a vmcs12.
pub(super) const SIZE: usize = 4096;

/// What its first 4 bytes hold: KVM's name for this layout.
const REVISION: u32 = 0x11e5_7ed0;

/// Where KVM keeps whether the VMCS has been launched, which is no field.
const LAUNCH_STATE: usize = 8;
/// Where VMCS_LINK_POINTER is.
const LINK: usize = 176;

/// Fields that follow one another, from an offset on: as many bytes each as its width has.
struct Run {
    at: usize,
    fields: &'static [VmcsField],
}

const fn run(at: usize, fields: &'static [VmcsField]) -> Run {
    Run { at, fields }
}

macro_rules! runs {
    ($($at:literal: $($name:ident)+;)*) => {
        &[$(run($at, &[$(f::$name.field()),+])),*]
    };
}

/// The layout, in its own order.
const LAYOUT: &[Run] = runs! {
    40: IO_BITMAP_A IO_BITMAP_B MSR_BITMAP VM_EXIT_MSR_STORE_ADDRESS VM_EXIT_MSR_LOAD_ADDRESS VM_ENTRY_MSR_LOAD_ADDRESS
        TSC_OFFSET VIRTUAL_APIC_ADDRESS APIC_ACCESS_ADDRESS POSTED_INTERRUPT_DESCRIPTOR_ADDRESS EPT_POINTER EOI_EXIT_BITMAP_0
        EOI_EXIT_BITMAP_1 EOI_EXIT_BITMAP_2 EOI_EXIT_BITMAP_3 XSS_EXITING_BITMAP GUEST_PHYSICAL_ADDRESS VMCS_LINK_POINTER
        GUEST_DEBUGCTL GUEST_PAT GUEST_EFER GUEST_PERF_GLOBAL_CTRL GUEST_PDPTE0 GUEST_PDPTE1 GUEST_PDPTE2 GUEST_PDPTE3
        GUEST_BNDCFGS HOST_PAT HOST_EFER HOST_PERF_GLOBAL_CTRL VMREAD_BITMAP VMWRITE_BITMAP VM_FUNCTION_CONTROLS
        EPTP_LIST_ADDRESS PML_ADDRESS ENCLS_EXITING_BITMAP TSC_MULTIPLIER;
    344: CR0_GUEST_HOST_MASK CR4_GUEST_HOST_MASK CR0_READ_SHADOW CR4_READ_SHADOW;
    408: EXIT_QUALIFICATION GUEST_LINEAR_ADDRESS GUEST_CR0 GUEST_CR3 GUEST_CR4 GUEST_ES_BASE GUEST_CS_BASE GUEST_SS_BASE
        GUEST_DS_BASE GUEST_FS_BASE GUEST_GS_BASE GUEST_LDTR_BASE GUEST_TR_BASE GUEST_GDTR_BASE GUEST_IDTR_BASE GUEST_DR7
        GUEST_RSP GUEST_RIP GUEST_RFLAGS GUEST_PENDING_DEBUG_EXCEPTIONS GUEST_SYSENTER_ESP GUEST_SYSENTER_EIP HOST_CR0
        HOST_CR3 HOST_CR4 HOST_FS_BASE HOST_GS_BASE HOST_TR_BASE HOST_GDTR_BASE HOST_IDTR_BASE HOST_SYSENTER_ESP
        HOST_SYSENTER_EIP HOST_RSP HOST_RIP;
    744: PIN_BASED_CONTROLS PRIMARY_CONTROLS EXCEPTION_BITMAP PAGE_FAULT_ERROR_CODE_MASK PAGE_FAULT_ERROR_CODE_MATCH
        CR3_TARGET_COUNT EXIT_CONTROLS VM_EXIT_MSR_STORE_COUNT VM_EXIT_MSR_LOAD_COUNT ENTRY_CONTROLS VM_ENTRY_MSR_LOAD_COUNT
        ENTRY_INTERRUPTION_INFO ENTRY_EXCEPTION_ERROR_CODE ENTRY_INSTRUCTION_LENGTH TPR_THRESHOLD SECONDARY_CONTROLS
        VM_INSTRUCTION_ERROR EXIT_REASON EXIT_INTERRUPTION_INFO EXIT_INTERRUPTION_ERROR_CODE IDT_VECTORING_INFO
        IDT_VECTORING_ERROR_CODE EXIT_INSTRUCTION_LENGTH EXIT_INSTRUCTION_INFO GUEST_ES_LIMIT GUEST_CS_LIMIT GUEST_SS_LIMIT
        GUEST_DS_LIMIT GUEST_FS_LIMIT GUEST_GS_LIMIT GUEST_LDTR_LIMIT GUEST_TR_LIMIT GUEST_GDTR_LIMIT GUEST_IDTR_LIMIT
        GUEST_ES_ACCESS_RIGHTS GUEST_CS_ACCESS_RIGHTS GUEST_SS_ACCESS_RIGHTS GUEST_DS_ACCESS_RIGHTS GUEST_FS_ACCESS_RIGHTS
        GUEST_GS_ACCESS_RIGHTS GUEST_LDTR_ACCESS_RIGHTS GUEST_TR_ACCESS_RIGHTS GUEST_INTERRUPTIBILITY GUEST_ACTIVITY_STATE
        GUEST_SYSENTER_CS HOST_SYSENTER_CS PREEMPTION_TIMER_VALUE;
    960: VPID POSTED_INTERRUPT_VECTOR GUEST_ES_SELECTOR GUEST_CS_SELECTOR GUEST_SS_SELECTOR GUEST_DS_SELECTOR
        GUEST_FS_SELECTOR GUEST_GS_SELECTOR GUEST_LDTR_SELECTOR GUEST_TR_SELECTOR GUEST_INTERRUPT_STATUS HOST_ES_SELECTOR
        HOST_CS_SELECTOR HOST_SS_SELECTOR HOST_DS_SELECTOR HOST_FS_SELECTOR HOST_GS_SELECTOR HOST_TR_SELECTOR PML_INDEX;
};

/// Bytes that a field has there.
const fn bytes(field: VmcsField) -> usize {
    match field.width() {
        Width::W16 => 2,
        Width::W32 => 4,
        Width::W64 | Width::Natural => 8,
    }
}

fn value(page: &[u8; SIZE], at: usize, count: usize) -> u64 {
    let mut whole = [0; 8];
    whole[..count].copy_from_slice(&page[at..at + count]);
    u64::from_le_bytes(whole)
}

/// Every field that the layout has, with its value.
fn fields(page: &[u8; SIZE]) -> impl Iterator<Item = (VmcsField, u64)> {
    LAYOUT.iter().flat_map(move |run| {
        run.fields.iter().scan(run.at, move |at, &field| {
            let here = *at;
            *at += bytes(field);
            Some((field, value(page, here, bytes(field))))
        })
    })
}

/// Whether the bytes are in the layout that is known here.
pub(super) fn is_known(page: &[u8; SIZE]) -> bool {
    value(page, 0, 4) == REVISION.into()
}

/// What has changed from one look at a VMCS to the next, as writes. Who wrote is told by what the field is for: exit
/// information is KVM's to write, and so is guest state once the VMCS has been launched, for it is what L2 left; controls,
/// host state, and guest state before that are L1's.
pub(super) fn changes(
    old: &[u8; SIZE],
    new: &[u8; SIZE],
    which: Which,
    address: u64,
) -> impl Iterator<Item = VmcsAccess> {
    let launched = value(new, LAUNCH_STATE, 4) != 0;
    let by = move |field: VmcsField| match field.class() {
        Class::ExitInformation => Actor::L0,
        Class::Guest if launched => Actor::L0,
        Class::Guest | Class::Control | Class::Host => Actor::L1,
    };
    fields(old).zip(fields(new)).filter(|((_, old), (_, new))| old != new).map(move |((field, old), (_, value))| {
        VmcsAccess { actor: by(field), which, address, op: VmcsOp::Write, field, old, value }
    })
}

/// The VMCS link pointer of one.
pub(super) fn link(page: &[u8; SIZE]) -> u64 {
    value(page, LINK, 8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_runs_overlap_and_all_lies_inside() {
        let mut end = 0;
        for run in LAYOUT {
            assert!(run.at >= end, "{:?} begins inside the run before it", run.fields[0]);
            end = run.at + run.fields.iter().map(|&field| bytes(field)).sum::<usize>();
        }
        assert!(end <= SIZE);
    }

    #[test]
    fn a_field_is_at_its_place() {
        let check = |field: VmcsField, at: usize| {
            let mut page = [0; SIZE];
            page[at] = 0x5a;
            let found: Vec<_> = fields(&page).filter(|(_, value)| *value != 0).collect();
            assert_eq!(found, [(field, 0x5a)], "{field} at {at}");
        };
        // The first and the last of each run, and some between, by KVM's own list of offsets.
        check(f::IO_BITMAP_A.field(), 40);
        check(f::GUEST_PHYSICAL_ADDRESS.field(), 168);
        check(f::VMCS_LINK_POINTER.field(), LINK);
        check(f::HOST_PAT.field(), 256);
        check(f::VM_FUNCTION_CONTROLS.field(), 296);
        check(f::TSC_MULTIPLIER.field(), 328);
        check(f::CR4_READ_SHADOW.field(), 368);
        check(f::GUEST_DR7.field(), 528);
        check(f::HOST_CR0.field(), 584);
        check(f::HOST_RIP.field(), 672);
        check(f::EXIT_REASON.field(), 812);
        check(f::GUEST_ES_LIMIT.field(), 840);
        check(f::GUEST_ES_ACCESS_RIGHTS.field(), 880);
        check(f::PREEMPTION_TIMER_VALUE.field(), 928);
        check(f::VPID.field(), 960);
        check(f::HOST_ES_SELECTOR.field(), 982);
        check(f::PML_INDEX.field(), 996);
    }

    #[test]
    fn changes_are_writes_by_who_owns_the_field() {
        let (old, mut new) = ([0; SIZE], [0; SIZE]);
        new[812] = 10;
        new[544] = 1;
        new[744] = 2;
        let told = |new: &[u8; SIZE]| {
            changes(&old, new, Which::Vmcs12, 0x1000)
                .map(|access| (access.field, access.actor, access.value))
                .collect::<Vec<_>>()
        };
        let (rip, pin, reason) = (f::GUEST_RIP.field(), f::PIN_BASED_CONTROLS.field(), f::EXIT_REASON.field());
        assert_eq!(told(&new), [(rip, Actor::L1, 1), (pin, Actor::L1, 2), (reason, Actor::L0, 10)]);
        new[LAUNCH_STATE] = 1;
        assert_eq!(told(&new), [(rip, Actor::L0, 1), (pin, Actor::L1, 2), (reason, Actor::L0, 10)]);
    }
}
