//! vmcs01 as a vCPU starts with it, and what never changes in any VMCS of L0's.

use super::capabilities::{self, MISC_VMWRITE_ANY};
use super::cx::Cx;
use super::start::{Segment, Start};
use super::vmcs02::{self, CR0_MASK, CR4_MASK};
use crate::silicon::{Register, Silicon};
use hv_defs::controls::{ActivityState, Allowed, EntryControls, ExitControls, PinBased, PrimaryControls};
use hv_defs::controls::{EptVpidCap, SecondaryControls};
use hv_defs::policy::{Policy, RootLoad};
use hv_defs::slip::{Slip, Slips};
use hv_defs::vmcs::{self, Field, VmcsField};
use hv_defs::x86::{Cr0, Cr4, Efer, msr};
use serde::{Deserialize, Serialize};

/// A control field's bits as silicon permits them.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Limit(Allowed);

impl Limit {
    /// The bits that must be one added, those that may not be taken away.
    pub(super) fn adjust(self, wanted: u32) -> u32 {
        (wanted | self.0.zero) & self.0.one
    }
}

/// What silicon permits of each control field.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Limits {
    pub(super) pin: Limit,
    pub(super) primary: Limit,
    pub(super) exit: Limit,
    pub(super) entry: Limit,
}

impl Limits {
    /// Asks silicon.
    pub(super) fn new<S: Silicon>(silicon: &S) -> Self {
        let limit = |plain, true_| Limit(capabilities::silicon(silicon, plain, true_));
        Self {
            pin: limit(msr::VMX_PINBASED_CTLS, msr::VMX_TRUE_PINBASED_CTLS),
            primary: limit(msr::VMX_PROCBASED_CTLS, msr::VMX_TRUE_PROCBASED_CTLS),
            exit: limit(msr::VMX_EXIT_CTLS, msr::VMX_TRUE_EXIT_CTLS),
            entry: limit(msr::VMX_ENTRY_CTLS, msr::VMX_TRUE_ENTRY_CTLS),
        }
    }
}

/// Whether L2s without EPT of their own run under another EPT pointer than L1. Where they do, nothing that L1 caches is
/// theirs, and an APIC-access page of theirs needs no flush; where they do not, [`Policy::apic_access_flush`] or a flush
/// at each root load makes up for it.
pub(super) fn gives_l2_a_root(policy: &Policy, slips: Slips) -> bool {
    policy.root_load != RootLoad::Flush && !policy.apic_access_flush && !slips.has(Slip::ApicAccessUnflushed)
}

/// What L0 cannot do without and this silicon does not have, in words.
pub(super) fn missing<S: Silicon>(silicon: &S, vpid: bool, shadowing: bool) -> Option<&'static str> {
    let secondary = (silicon.capability(msr::VMX_PROCBASED_CTLS2) >> 32) as u32;
    let has = |control: SecondaryControls| secondary & control.bits() != 0;
    let ept_vpid = EptVpidCap::from_bits_retain(silicon.capability(msr::VMX_EPT_VPID_CAP));
    if !has(SecondaryControls::EPT) || !ept_vpid.contains(EptVpidCap::WALK_LENGTH_4 | EptVpidCap::PAGE_2M) {
        return Some("EPT with four levels and 2 MiB pages");
    }
    if !has(SecondaryControls::UNRESTRICTED_GUEST) {
        return Some("unrestricted guest");
    }
    if vpid && !(has(SecondaryControls::VPID) && ept_vpid.contains(EptVpidCap::INVVPID_SINGLE)) {
        return Some("VPID");
    }
    // L2 may write every field of a shadow VMCS, so L0 must be able to.
    let writes_any = silicon.capability(msr::VMX_MISC) & MISC_VMWRITE_ANY != 0;
    if shadowing && !(has(SecondaryControls::VMCS_SHADOWING) && writes_any) {
        return Some("VMCS shadowing");
    }
    None
}

/// Whether guests that spin are to exit: whoever spins on a lock lets the others run, for on one CPU they could not let it
/// go meanwhile.
pub(super) fn spins<S: Silicon>(silicon: &S, vcpus: u16) -> bool {
    let secondary = (silicon.capability(msr::VMX_PROCBASED_CTLS2) >> 32) as u32;
    vcpus > 1 && secondary & SecondaryControls::PAUSE_LOOP_EXITING.bits() != 0
}

/// IA32_PAT after a reset.
const PAT: u64 = 0x0007_0406_0007_0406;

/// L0's host state, and areas that it does not use: the same in every VMCS of its own.
pub(super) const HOST: [(VmcsField, u64); 27] = [
    (vmcs::HOST_CR0.field(), 0x8005_0033),
    (vmcs::HOST_CR3.field(), 0),
    (vmcs::HOST_CR4.field(), 0x2020),
    (vmcs::HOST_CS_SELECTOR.field(), 0x08),
    (vmcs::HOST_SS_SELECTOR.field(), 0x10),
    (vmcs::HOST_DS_SELECTOR.field(), 0x10),
    (vmcs::HOST_ES_SELECTOR.field(), 0x10),
    (vmcs::HOST_FS_SELECTOR.field(), 0),
    (vmcs::HOST_GS_SELECTOR.field(), 0),
    (vmcs::HOST_TR_SELECTOR.field(), 0x18),
    (vmcs::HOST_FS_BASE.field(), 0),
    (vmcs::HOST_GS_BASE.field(), 0),
    (vmcs::HOST_TR_BASE.field(), 0),
    (vmcs::HOST_GDTR_BASE.field(), 0),
    (vmcs::HOST_IDTR_BASE.field(), 0),
    (vmcs::HOST_SYSENTER_CS.field(), 0),
    (vmcs::HOST_SYSENTER_ESP.field(), 0),
    (vmcs::HOST_SYSENTER_EIP.field(), 0),
    (vmcs::HOST_RSP.field(), 0),
    (vmcs::HOST_RIP.field(), 0),
    (vmcs::HOST_PAT.field(), PAT),
    (vmcs::HOST_EFER.field(), 0x500),
    (vmcs::VM_EXIT_MSR_STORE_COUNT.field(), 0),
    (vmcs::VM_EXIT_MSR_LOAD_COUNT.field(), 0),
    (vmcs::VM_ENTRY_MSR_LOAD_COUNT.field(), 0),
    (vmcs::EXECUTIVE_VMCS_POINTER.field(), 0),
    (vmcs::GUEST_SMBASE.field(), 0),
];

impl<S: Silicon> Cx<'_, S> {
    /// Writes all of vmcs01, which is current, for a vCPU that starts so. `bitmap` is the page of its MSR bitmap.
    pub(super) fn write_vmcs01(&mut self, start: &Start, bitmap: u64) {
        let limits = self.shared.limits;
        for (field, value) in HOST {
            if let Some(row) = field.index() {
                self.set_row(row, value);
            }
        }
        for (number, value) in (0..).zip(start.gpr) {
            self.silicon.set_register(self.cpu, Register::Gpr(number), value);
        }

        let vpid = self.vcpu.tagging.vpid01;
        let mut secondary = SecondaryControls::from_bits_retain(self.shared.capabilities.secondary.one)
            & (SecondaryControls::RDTSCP | SecondaryControls::INVPCID | SecondaryControls::XSAVES)
            | SecondaryControls::EPT
            | SecondaryControls::UNRESTRICTED_GUEST;
        secondary.set(SecondaryControls::VPID, vpid != 0);
        if self.shared.spins {
            secondary |= SecondaryControls::PAUSE_LOOP_EXITING;
            self.set(vmcs::PLE_GAP, vmcs02::PLE_GAP);
            self.set(vmcs::PLE_WINDOW, vmcs02::PLE_WINDOW);
        }
        let mut entry = vmcs02::ENTRY;
        entry.set(EntryControls::IA32E_MODE_GUEST, start.efer & Efer::LMA.bits() != 0);
        let pin = PinBased::from_bits_retain(limits.pin.adjust(vmcs02::PIN_WITH_NMIS.bits()));
        self.set(vmcs::PIN_BASED_CONTROLS, pin);
        let primary = PrimaryControls::from_bits_retain(limits.primary.adjust(vmcs02::PRIMARY.bits()));
        self.set(vmcs::PRIMARY_CONTROLS, primary);
        self.set(vmcs::SECONDARY_CONTROLS, secondary);
        self.set(vmcs::EXIT_CONTROLS, ExitControls::from_bits_retain(limits.exit.adjust(vmcs02::EXIT.bits())));
        self.set(vmcs::ENTRY_CONTROLS, EntryControls::from_bits_retain(limits.entry.adjust(entry.bits())));
        self.set(vmcs::EXCEPTION_BITMAP, 0);
        self.set(vmcs::PAGE_FAULT_ERROR_CODE_MASK, 0);
        self.set(vmcs::PAGE_FAULT_ERROR_CODE_MATCH, 0);
        self.set(vmcs::CR3_TARGET_COUNT, 0);
        self.set(vmcs::ENTRY_INTERRUPTION_INFO, Default::default());
        self.set(vmcs::MSR_BITMAP, bitmap);
        self.set(vmcs::TSC_OFFSET, self.vcpu.msrs.tsc_offset);
        self.set(vmcs::XSS_EXITING_BITMAP, 0);
        self.set(vmcs::VPID, vpid);
        let eptp01 = self.shared.ept01.pointer;
        self.set(vmcs::EPT_POINTER, eptp01);
        self.set(vmcs::VMCS_LINK_POINTER, u64::MAX);

        self.set(vmcs::CR0_GUEST_HOST_MASK, CR0_MASK);
        self.set(vmcs::CR4_GUEST_HOST_MASK, CR4_MASK);
        self.set(vmcs::CR0_READ_SHADOW, start.cr0);
        self.set(vmcs::CR4_READ_SHADOW, start.cr4);
        self.set(vmcs::GUEST_CR0, start.cr0 & !(Cr0::CD | Cr0::NW).bits() | Cr0::NE.bits());
        self.set(vmcs::GUEST_CR3, start.cr3);
        self.set(vmcs::GUEST_CR4, start.cr4 | Cr4::VMXE.bits());
        self.set(vmcs::GUEST_EFER, start.efer);
        self.set(vmcs::GUEST_PAT, PAT);
        self.set(vmcs::GUEST_DR7, 0x400);
        self.set(vmcs::GUEST_DEBUGCTL, 0);
        self.set(vmcs::GUEST_RIP, start.rip);
        self.set(vmcs::GUEST_RSP, start.gpr[4]);
        self.set(vmcs::GUEST_RFLAGS, start.rflags | 2);
        self.set(vmcs::GUEST_SYSENTER_CS, 0);
        self.set(vmcs::GUEST_SYSENTER_ESP, 0);
        self.set(vmcs::GUEST_SYSENTER_EIP, 0);
        self.set(vmcs::GUEST_INTERRUPTIBILITY, 0);
        self.set(vmcs::GUEST_PENDING_DEBUG_EXCEPTIONS, 0);
        self.set(vmcs::GUEST_ACTIVITY_STATE, ActivityState::Active as u32);
        for field in [vmcs::GUEST_PDPTE0, vmcs::GUEST_PDPTE1, vmcs::GUEST_PDPTE2, vmcs::GUEST_PDPTE3] {
            self.set(field, 0);
        }
        let [es, cs, ss, ds, fs, gs] = &start.segments;
        macro_rules! segment {
            ($from:expr, $selector:ident, $base:ident, $limit:ident, $rights:ident) => {
                self.set_segment($from, vmcs::$selector, vmcs::$base, vmcs::$limit, vmcs::$rights)
            };
        }
        segment!(es, GUEST_ES_SELECTOR, GUEST_ES_BASE, GUEST_ES_LIMIT, GUEST_ES_ACCESS_RIGHTS);
        segment!(cs, GUEST_CS_SELECTOR, GUEST_CS_BASE, GUEST_CS_LIMIT, GUEST_CS_ACCESS_RIGHTS);
        segment!(ss, GUEST_SS_SELECTOR, GUEST_SS_BASE, GUEST_SS_LIMIT, GUEST_SS_ACCESS_RIGHTS);
        segment!(ds, GUEST_DS_SELECTOR, GUEST_DS_BASE, GUEST_DS_LIMIT, GUEST_DS_ACCESS_RIGHTS);
        segment!(fs, GUEST_FS_SELECTOR, GUEST_FS_BASE, GUEST_FS_LIMIT, GUEST_FS_ACCESS_RIGHTS);
        segment!(gs, GUEST_GS_SELECTOR, GUEST_GS_BASE, GUEST_GS_LIMIT, GUEST_GS_ACCESS_RIGHTS);
        segment!(&start.ldtr, GUEST_LDTR_SELECTOR, GUEST_LDTR_BASE, GUEST_LDTR_LIMIT, GUEST_LDTR_ACCESS_RIGHTS);
        segment!(&start.tr, GUEST_TR_SELECTOR, GUEST_TR_BASE, GUEST_TR_LIMIT, GUEST_TR_ACCESS_RIGHTS);
        self.set(vmcs::GUEST_GDTR_BASE, start.gdtr.0);
        self.set(vmcs::GUEST_GDTR_LIMIT, u32::from(start.gdtr.1));
        self.set(vmcs::GUEST_IDTR_BASE, start.idtr.0);
        self.set(vmcs::GUEST_IDTR_LIMIT, u32::from(start.idtr.1));
    }

    fn set_segment(
        &mut self,
        from: &Segment,
        selector: Field<u16>,
        base: Field<u64>,
        limit: Field<u32>,
        rights: Field<u32>,
    ) {
        self.set(selector, from.selector);
        self.set(base, from.base);
        self.set(limit, from.limit);
        self.set(rights, from.rights.into_bits());
    }
}
