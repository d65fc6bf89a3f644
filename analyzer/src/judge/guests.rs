//! Whose translations a tag holds: which guest runs under it, and whether its hypervisor tags it.

use hv_defs::controls::{PrimaryControls, SecondaryControls};
use hv_defs::event::{Entry, NO_ADDRESS, VmcsAccess, VmcsOp, Which};
use hv_defs::vmcs::{APIC_ACCESS_ADDRESS, PRIMARY_CONTROLS, SECONDARY_CONTROLS, VPID, VmcsField};
use std::collections::BTreeMap;

/// The VPID that L1 gave its guest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Vpid12 {
    /// The guest is L1 itself.
    NotNested,
    /// vmcs12 does not enable VPID: L1 is owed what silicon without VPID does, a flush at each entry and exit.
    Off,
    /// vmcs12 enables it, with this value.
    On(u16),
    /// The events do not tell. The address of the vmcs12 stands for the guest.
    Unknown(u64),
}

/// A guest, as far as cached translations go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Owner {
    pub(super) vcpu: u16,
    pub(super) level: u8,
    pub(super) vpid12: Vpid12,
}

/// How a guest sees its APIC-access page, which mappings of a root are made for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum View {
    /// The guest has none: it is L1, or vmcs12 does not virtualize APIC accesses.
    Plain,
    /// The page, as L1 names it.
    Page(u64),
    /// The events do not tell. The address of the vmcs12 stands for the guest.
    Unknown(u64),
}

#[derive(Clone, Copy, Debug, Default)]
struct Controls {
    primary: Option<u64>,
    secondary: Option<u64>,
    vpid: Option<u64>,
    apic: Option<u64>,
}

/// The fields of a vmcs12 that tell which guest it is.
pub(super) const ASKED: [VmcsField; 4] =
    [PRIMARY_CONTROLS.field(), SECONDARY_CONTROLS.field(), VPID.field(), APIC_ACCESS_ADDRESS.field()];

/// What is known of vmcs12s, from accesses to them and from the VPID map's events.
#[derive(Debug, Default)]
pub(super) struct Guests {
    vmcs12: BTreeMap<u64, Controls>,
    /// The VPID map's last answer, by vCPU, since its last entry: vpid12 and vpid02.
    mapped: BTreeMap<u16, (u16, u16)>,
}

impl Guests {
    /// An access. Returns whether it tells something new.
    pub(super) fn access(&mut self, access: &VmcsAccess) -> bool {
        if access.which != Which::Vmcs12 || !matches!(access.op, VmcsOp::Read | VmcsOp::Write) {
            return false;
        }
        let field = access.field;
        let slot: fn(&mut Controls) -> &mut Option<u64> = if field == PRIMARY_CONTROLS.field() {
            |controls| &mut controls.primary
        } else if field == SECONDARY_CONTROLS.field() {
            |controls| &mut controls.secondary
        } else if field == VPID.field() {
            |controls| &mut controls.vpid
        } else if field == APIC_ACCESS_ADDRESS.field() {
            |controls| &mut controls.apic
        } else {
            return false;
        };
        slot(self.vmcs12.entry(access.address).or_default()).replace(access.value) != Some(access.value)
    }

    pub(super) fn mapped(&mut self, vcpu: u16, vpid12: u16, vpid02: u16) {
        self.mapped.insert(vcpu, (vpid12, vpid02));
    }

    /// The map's last answer since the vCPU's last entry.
    pub(super) fn take_mapped(&mut self, vcpu: u16) -> Option<(u16, u16)> {
        self.mapped.remove(&vcpu)
    }

    /// The guest that is entered, and what the map answered before.
    pub(super) fn entered(&self, vcpu: u16, entry: &Entry, mapped: Option<(u16, u16)>) -> Owner {
        let mapped = mapped.filter(|(_, vpid02)| *vpid02 == entry.vpid);
        let vpid12 = if entry.vmcs12 == NO_ADDRESS { Vpid12::NotNested } else { self.vpid12(entry.vmcs12, mapped) };
        // For L0 all of L1's VMCSs are alike, and so are their guests: what tells them apart is the VPID.
        Owner { vcpu, level: entry.level.min(2), vpid12 }
    }

    /// How the guest that is entered sees its APIC-access page.
    pub(super) fn view(&self, entry: &Entry) -> View {
        if entry.vmcs12 == NO_ADDRESS {
            return View::Plain;
        }
        let controls = self.vmcs12.get(&entry.vmcs12).copied().unwrap_or_default();
        let activates = |primary| primary & u64::from(PrimaryControls::ACTIVATE_SECONDARY.bits()) != 0;
        let virtualizes = |secondary| secondary & u64::from(SecondaryControls::VIRTUALIZE_APIC_ACCESSES.bits()) != 0;
        match (controls.primary.map(activates), controls.secondary.map(virtualizes), controls.apic) {
            (Some(false), ..) | (_, Some(false), _) => View::Plain,
            (Some(true), Some(true), Some(page)) => View::Page(page),
            _ => View::Unknown(entry.vmcs12),
        }
    }

    fn vpid12(&self, vmcs12: u64, mapped: Option<(u16, u16)>) -> Vpid12 {
        let controls = self.vmcs12.get(&vmcs12).copied().unwrap_or_default();
        let has = |value: u64, bit: u32| value & u64::from(bit) != 0;
        let activates = |primary| has(primary, PrimaryControls::ACTIVATE_SECONDARY.bits());
        let enables = |secondary| has(secondary, SecondaryControls::VPID.bits());
        match (controls.primary.map(activates), controls.secondary.map(enables), controls.vpid, mapped) {
            (Some(false), ..) | (_, Some(false), ..) => Vpid12::Off,
            (_, Some(true), Some(vpid), _) => Vpid12::On(vpid as u16),
            (.., Some((vpid, _))) if vpid != 0 => Vpid12::On(vpid),
            _ => Vpid12::Unknown(vmcs12),
        }
    }
}
