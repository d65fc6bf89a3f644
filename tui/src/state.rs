//! The VMCSs at an event, as far as the events before it tell.
//!
//! Each access says what a field held; entries and exits say what silicon read and wrote. What no event before names is
//! unknown, which is not zero.

use crate::replay::told::Kept;
use hv_defs::event::{Actor, Entry, Event, Exit, NO_ADDRESS, VmcsOp, What, Which};
use hv_defs::vmcs::{self, VmcsField};
use std::collections::BTreeMap;

/// What a field held, and the event that says so.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Held {
    /// The value.
    pub(crate) value: u64,
    /// The event that last told of it.
    pub(crate) event: u64,
    /// The last event that changed it, if any is known to have.
    pub(crate) changed: Option<u64>,
    /// The first event that told of it, and what: whether that was a change, only events before this stretch say.
    first: (u64, u64),
}

impl Held {
    /// The same with another value: what silicon wrote since, no event tells.
    pub(crate) fn with(self, value: u64) -> Self {
        Self { value, ..self }
    }
}

/// The VMCSs that a vCPU last used.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Current {
    /// By host-physical address.
    pub(crate) vmcs01: Option<u64>,
    /// By L1-physical address.
    pub(crate) vmcs12: Option<u64>,
    /// By host-physical address.
    pub(crate) vmcs02: Option<u64>,
    /// The one that silicon runs or ran last: which, and its address.
    running: Option<(Which, u64)>,
    /// Its last exit.
    pub(crate) exit: Option<u64>,
    /// The exit of this stretch before which no entry of it says what ran.
    orphan: Option<(u64, Exit)>,
}

/// What a stretch of events says of VMCSs. Stretches that follow one another can be put together.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Fold {
    fields: BTreeMap<(Which, u64, VmcsField), Held>,
    vcpus: BTreeMap<u16, Current>,
    /// What they say of all else that a machine keeps.
    pub(crate) kept: Kept,
}

impl Current {
    /// The VMCS that silicon runs or ran last, and its address.
    pub(crate) fn running(&self) -> Option<(Which, u64)> {
        self.running
    }
}

impl Fold {
    /// Adds the next event.
    pub(crate) fn add(&mut self, number: u64, event: &Event) {
        self.kept.add(number, event);
        match &event.what {
            What::Vmcs(access) => {
                let current = self.vcpus.entry(event.at.vcpu).or_default();
                match access.which {
                    Which::Vmcs01 => current.vmcs01 = Some(access.address),
                    Which::Vmcs02 => current.vmcs02 = Some(access.address),
                    Which::Vmcs12 if access.op == VmcsOp::Load || access.actor != Actor::L0 => {
                        current.vmcs12 = Some(access.address);
                    }
                    Which::Vmcs12 | Which::Shadow12 | Which::Shadow02 => {}
                }
                let key = (access.which, access.address, access.field);
                match access.op {
                    VmcsOp::Read => self.tell(key, access.value, number),
                    VmcsOp::Write => {
                        // What the write replaced is told too, where nothing was known.
                        self.tell(key, access.old, number);
                        self.tell(key, access.value, number);
                    }
                    VmcsOp::Clear | VmcsOp::Load | VmcsOp::Store => {}
                }
            }
            What::Entry(entry) => self.entry(number, event.at.vcpu, entry),
            What::Exit(exit) => self.exit(number, event.at.vcpu, exit),
            _ => {}
        }
    }

    fn entry(&mut self, number: u64, vcpu: u16, entry: &Entry) {
        let current = self.vcpus.entry(vcpu).or_default();
        let which = if entry.vmcs12 == NO_ADDRESS { Which::Vmcs01 } else { Which::Vmcs02 };
        if entry.vmcs02 != NO_ADDRESS {
            match which {
                Which::Vmcs01 => current.vmcs01 = Some(entry.vmcs02),
                _ => current.vmcs02 = Some(entry.vmcs02),
            }
        }
        if entry.vmcs12 != NO_ADDRESS {
            current.vmcs12 = Some(entry.vmcs12);
        }
        current.running = Some((which, entry.vmcs02));
        let mut told = |field: VmcsField, value: u64| self.tell((which, entry.vmcs02, field), value, number);
        told(vmcs::VPID.field(), entry.vpid.into());
        told(vmcs::EPT_POINTER.field(), entry.eptp);
        if entry.injected.valid() {
            told(vmcs::ENTRY_INTERRUPTION_INFO.field(), u32::from(entry.injected).into());
        }
    }

    fn exit(&mut self, number: u64, vcpu: u16, exit: &Exit) {
        let current = self.vcpus.entry(vcpu).or_default();
        current.exit = Some(number);
        if exit.vmcs12 != NO_ADDRESS {
            current.vmcs12 = Some(exit.vmcs12);
        }
        let Some((which, address)) = current.running else {
            current.orphan = Some((number, *exit));
            return;
        };
        for (field, value) in left_by(exit) {
            self.tell((which, address, field), value, number);
        }
    }

    /// A value that an event tells of; it changed if it is not what was known.
    fn tell(&mut self, key: (Which, u64, VmcsField), value: u64, number: u64) {
        let fresh = Held { value, event: number, changed: None, first: (number, value) };
        let held = self.fields.entry(key).or_insert(fresh);
        if held.value != value {
            held.changed = Some(number);
        }
        (held.value, held.event) = (value, number);
    }

    /// Puts what the events before this stretch say underneath it.
    pub(crate) fn put_under(&mut self, older: &Self) {
        self.adopt_orphans(older);
        self.kept.put_under(&older.kept);
        for (key, held) in &older.fields {
            let newer = self.fields.entry(*key).or_insert(*held);
            if newer.changed.is_none() {
                newer.changed = if newer.first.1 == held.value { held.changed } else { Some(newer.first.0) };
            }
            newer.first = held.first;
        }
        for (vcpu, held) in &older.vcpus {
            let newer = self.vcpus.entry(*vcpu).or_default();
            newer.vmcs01 = newer.vmcs01.or(held.vmcs01);
            newer.vmcs12 = newer.vmcs12.or(held.vmcs12);
            newer.vmcs02 = newer.vmcs02.or(held.vmcs02);
            newer.running = newer.running.or(held.running);
            newer.exit = newer.exit.or(held.exit);
            newer.orphan = held.orphan;
        }
    }

    /// Gives the exits that came before any entry to the VMCS that older events say was running.
    fn adopt_orphans(&mut self, older: &Self) {
        for (vcpu, current) in &self.vcpus {
            let running = older.vcpus.get(vcpu).and_then(|older| older.running);
            let (Some((number, exit)), Some((which, address))) = (current.orphan, running) else { continue };
            for (field, value) in left_by(&exit) {
                let told = (number, value);
                let held = self.fields.entry((which, address, field)).or_insert(Held {
                    value,
                    event: number,
                    changed: None,
                    first: told,
                });
                // What this stretch tells later of the field is a change if it differs from what the exit left.
                if held.first.0 > number {
                    if held.changed.is_none() && held.first.1 != value {
                        held.changed = Some(held.first.0);
                    }
                    held.first = told;
                }
            }
        }
    }

    /// The VMCSs that a vCPU last used.
    pub(crate) fn current(&self, vcpu: u16) -> Current {
        self.vcpus.get(&vcpu).copied().unwrap_or_default()
    }

    /// A value that no event but a replay tells.
    pub(crate) fn seen(value: u64, event: u64) -> Held {
        Held { value, event, changed: None, first: (event, value) }
    }

    /// What a field of a VMCS held.
    pub(crate) fn held(&self, which: Which, address: u64, field: VmcsField) -> Option<Held> {
        self.fields.get(&(which, address, field)).copied()
    }

    /// The addresses of the VMCSs of some sort of which something is known.
    pub(crate) fn addresses(&self, which: Which) -> Vec<u64> {
        let mut addresses: Vec<u64> = self.fields.keys().filter(|key| key.0 == which).map(|key| key.1).collect();
        addresses.dedup();
        addresses
    }

    /// The fields that no table names but events do.
    pub(crate) fn strangers(&self) -> Vec<VmcsField> {
        let mut strangers: Vec<_> =
            self.fields.keys().map(|key| key.2).filter(|field| field.index().is_none()).collect();
        strangers.sort_unstable();
        strangers.dedup();
        strangers
    }
}

/// The fields that silicon writes at an exit, as far as the event has them.
fn left_by(exit: &Exit) -> impl Iterator<Item = (VmcsField, u64)> {
    let always = [
        (vmcs::EXIT_REASON.field(), u64::from(u32::from(exit.reason))),
        (vmcs::EXIT_QUALIFICATION.field(), exit.qualification),
        (vmcs::GUEST_RIP.field(), exit.rip),
    ];
    let some = [
        (vmcs::EXIT_INSTRUCTION_LENGTH.field(), exit.length.into()),
        (vmcs::GUEST_PHYSICAL_ADDRESS.field(), exit.gpa),
        (vmcs::GUEST_LINEAR_ADDRESS.field(), exit.gla),
    ];
    always.into_iter().chain(some.into_iter().filter(|(_, value)| *value != 0))
}

/// The areas of the VMCS in the SDM's order.
pub(crate) const GROUPS: [&str; 6] = [
    "Guest state",
    "Host state",
    "VM-execution controls",
    "VM-exit controls",
    "VM-entry controls",
    "VM-exit information",
];

/// The area that a field lies in, as an index into [`GROUPS`]. The encoding tells three of them apart; which of the
/// three sorts of control a field is, its name does.
pub(crate) fn group(field: VmcsField) -> usize {
    match field.class() {
        vmcs::Class::Guest => 0,
        vmcs::Class::Host => 1,
        vmcs::Class::ExitInformation => 5,
        vmcs::Class::Control => {
            let name = field.name().unwrap_or_default();
            let begins = |any: &[&str]| any.iter().any(|start| name.starts_with(start));
            if begins(&["exit_controls", "secondary_exit_controls", "vm_exit_"]) {
                3
            } else if begins(&["entry_", "vm_entry_", "injected_event_data"]) {
                4
            } else {
                2
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::sample;

    /// However a trace is cut into stretches, putting them together gives what one pass gives.
    #[test]
    fn stretches_add_up() {
        let events: Vec<Event> = sample::events();
        let fold = |range: std::ops::Range<usize>| {
            let mut fold = Fold::default();
            for number in range {
                fold.add(number as u64, &events[number]);
            }
            fold
        };
        let whole = fold(0..events.len());
        assert!(whole.fields.len() > 10);
        for cut in (1..events.len()).step_by(5) {
            let (older, mut newer) = (fold(0..cut), fold(cut..events.len()));
            newer.put_under(&older);
            assert_eq!(newer.vcpus, whole.vcpus, "cut at {cut}");
            assert_eq!(newer.fields, whole.fields, "cut at {cut}");
        }
    }

    #[test]
    fn fields_are_grouped_as_in_the_sdm() {
        let check = |field: VmcsField, name: &str| assert_eq!(GROUPS[group(field)], name, "{field}");
        check(vmcs::GUEST_RIP.field(), "Guest state");
        check(vmcs::HOST_RIP.field(), "Host state");
        check(vmcs::PRIMARY_CONTROLS.field(), "VM-execution controls");
        check(vmcs::VM_EXIT_MSR_LOAD_COUNT.field(), "VM-exit controls");
        check(vmcs::EXIT_CONTROLS.field(), "VM-exit controls");
        check(vmcs::ENTRY_INTERRUPTION_INFO.field(), "VM-entry controls");
        check(vmcs::EXIT_REASON.field(), "VM-exit information");
    }
}
