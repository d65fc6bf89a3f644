//! Which fields of its VMCSs a hypervisor would have been better off with in a shadow VMCS, and which KVM's fixed list has
//! in vain.
//!
//! A field that is shadowed costs no exit where it is read or written, but is copied each time that the hypervisor and its
//! guest take turns: before the guest runs, what the hypervisor may have written is read from the shadow VMCS; when it has
//! run, what the hypervisor may read is written into it. A field that is shadowed for reads alone has only the latter.
//! See: docs/cost-model.md, and SDM "VMCS Shadowing".

use super::exits::ExitRow;
use super::vmcs::Vmcs;
use hv_defs::cost::Costs;
use hv_defs::event::{Actor, Which};
use hv_defs::exit::Reason;
use hv_defs::vmcs::{Shadowed, TABLE, VmcsField};
use std::collections::BTreeMap;

/// A field that a hypervisor reaches in its VMCS.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ShadowRow {
    /// The hypervisor: L1, or L2 where it has guests of its own.
    pub actor: Actor,
    /// The field.
    pub field: VmcsField,
    /// Its VMREADs.
    pub reads: u64,
    /// Its VMWRITEs.
    pub writes: u64,
    /// Its place in KVM's list.
    pub kvm: Shadowed,
    /// What is best for this workload.
    pub best: Shadowed,
    /// Exits that the best saves.
    pub exits: u64,
    /// Modelled cycles that they take.
    pub exit_cycles: u64,
    /// Modelled cycles of copying it, at the best.
    pub copy_cycles: u64,
    /// Modelled cycles that the best saves more than KVM's list does: what it gains by being added, or dropped.
    pub over_kvm: u64,
}

impl ShadowRow {
    /// Modelled cycles that the best saves over no shadowing.
    pub fn gain(&self) -> u64 {
        self.exit_cycles.saturating_sub(self.copy_cycles)
    }

    /// Whether the best is something else than what KVM's list has.
    pub fn differs(&self) -> bool {
        self.best != self.kvm
    }
}

/// A list of shadowed fields in this workload.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct List {
    /// Fields on it.
    pub fields: u64,
    /// Exits that it saves.
    pub exits: u64,
    /// Modelled cycles that these exits take.
    pub exit_cycles: u64,
    /// Modelled cycles of copying its fields.
    pub copy_cycles: u64,
}

impl List {
    /// Modelled cycles that it saves; less than none where copying costs more.
    pub fn gain(&self) -> i64 {
        self.exit_cycles as i64 - self.copy_cycles as i64
    }

    fn add(&mut self, option: &Choice) {
        self.fields += 1;
        self.exits += option.exits;
        self.exit_cycles += option.exit_cycles;
        self.copy_cycles += option.copy_cycles;
    }
}

/// What one hypervisor's fields are worth in a shadow VMCS.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Shadowing {
    /// The hypervisor.
    pub actor: Actor,
    /// Times that it had its guest run.
    pub entries: u64,
    /// Times that an exit of its guest came to it.
    pub exits: u64,
    /// Modelled cycles that an exit for one of its accesses takes more than the access alone.
    pub access_cycles: u64,
    /// The fields that it reached, those that gain most first.
    pub rows: Vec<ShadowRow>,
    /// Fields of KVM's list that it never reached.
    pub unused: u64,
    /// Modelled cycles of copying these.
    pub unused_cycles: u64,
    /// KVM's list.
    pub kvm: List,
    /// The best one.
    pub best: List,
    /// L0's VMREADs and VMWRITEs of the VMCS that serves this hypervisor's accesses without an exit; accesses that were served
    /// so are not in the trace.
    pub copies: u64,
}

#[derive(Clone, Copy)]
struct Choice {
    exits: u64,
    exit_cycles: u64,
    copy_cycles: u64,
}

impl Choice {
    fn gain(&self) -> i64 {
        self.exit_cycles as i64 - self.copy_cycles as i64
    }
}

/// What one of a hypervisor's fields saves and costs, shadowed so.
fn choice(how: Shadowed, reads: u64, writes: u64, of: &Shadowing, costs: &Costs) -> Choice {
    let (exits, copy_cycles) = match how {
        Shadowed::No => (0, 0),
        Shadowed::Ro => (reads, of.exits * costs.vmwrite),
        Shadowed::Rw => (reads + writes, of.exits * costs.vmwrite + of.entries * costs.vmread),
    };
    Choice { exits, exit_cycles: exits * of.access_cycles, copy_cycles }
}

/// What shadowing is worth to each hypervisor that reached fields of its VMCSs.
pub(super) fn shadowing(vmcs: &Vmcs, exits: &[ExitRow], costs: &Costs) -> Vec<Shadowing> {
    [Actor::L1, Actor::L2].into_iter().filter_map(|actor| of(actor, vmcs, exits, costs)).collect()
}

fn of(actor: Actor, vmcs: &Vmcs, all: &[ExitRow], costs: &Costs) -> Option<Shadowing> {
    let level = actor as u8;
    let which = if actor == Actor::L1 { Which::Vmcs12 } else { Which::Shadow12 };
    let mut fields: BTreeMap<VmcsField, (u64, u64)> = BTreeMap::new();
    for row in vmcs.rows.iter().filter(|row| (row.actor, row.which) == (actor, which)) {
        // A high half is reached through the whole.
        let at = fields.entry(row.field.full()).or_default();
        *at = (at.0 + row.reads, at.1 + row.writes);
    }
    let served = vmcs.rows.iter().filter(|row| actor == Actor::L2 && row.which == Which::Shadow02);
    let copies: u64 = served.map(|row| row.accesses()).sum();
    if fields.is_empty() && copies == 0 {
        return None;
    }
    let count = |pick: &dyn Fn(&&ExitRow) -> bool| all.iter().filter(pick).map(|row| row.count).sum::<u64>();
    let enters = |row: &&ExitRow| row.level == level && matches!(row.reason, Reason::VMLAUNCH | Reason::VMRESUME);
    let accesses = |row: &&ExitRow| {
        (row.level, row.handled_by) == (level, Actor::L0) && matches!(row.reason, Reason::VMREAD | Reason::VMWRITE)
    };
    let (handled, cycles) = all
        .iter()
        .filter(accesses)
        .fold((0, 0), |(count, sum), row| (count + row.handling.count(), sum + row.handling.sum()));
    let mean = cycles.checked_div(handled).unwrap_or(costs.round_trip());
    let mut found = Shadowing {
        actor,
        entries: count(&enters),
        exits: count(&|row| row.level == level + 1 && row.handled_by != Actor::L0),
        access_cycles: mean.saturating_sub(costs.vmread),
        rows: Vec::new(),
        unused: 0,
        unused_cycles: 0,
        kvm: List::default(),
        best: List::default(),
        copies,
    };
    for (&field, &(reads, writes)) in &fields {
        let kvm = field.index().map_or(Shadowed::No, |index| TABLE[index].shadowed);
        let priced = |how| (how, choice(how, reads, writes, &found, costs));
        let options = [Shadowed::No, Shadowed::Ro, Shadowed::Rw].map(priced);
        // Of two that gain the same, the one that shadows less.
        let (best, chosen) = options.into_iter().rev().max_by_key(|(_, choice)| choice.gain())?;
        let (_, listed) = priced(kvm);
        if best != Shadowed::No {
            found.best.add(&chosen);
        }
        if kvm != Shadowed::No {
            found.kvm.add(&listed);
        }
        found.rows.push(ShadowRow {
            actor,
            field,
            reads,
            writes,
            kvm,
            best,
            exits: chosen.exits,
            exit_cycles: chosen.exit_cycles,
            copy_cycles: chosen.copy_cycles,
            over_kvm: (chosen.gain() - listed.gain()).max(0) as u64,
        });
    }
    for row in TABLE.iter().filter(|row| row.shadowed != Shadowed::No && !fields.contains_key(&row.field)) {
        let listed = choice(row.shadowed, 0, 0, &found, costs);
        found.kvm.add(&listed);
        found.unused += 1;
        found.unused_cycles += listed.copy_cycles;
    }
    found.rows.sort_by_key(|row| (core::cmp::Reverse((row.gain(), row.over_kvm)), row.field));
    Some(found)
}
