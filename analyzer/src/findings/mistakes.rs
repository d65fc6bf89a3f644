//! Mistakes of L0's that are no matter of one flush: VPIDs given back twice, never, or used by two; values that L0 was to
//! mask or to hand on; EPT02s that it was to bring in line. All but the last are proved by the trace alone.

use crate::judge::{JudgedBy, is_invept, named};
use core::fmt::Write;
use hv_defs::ept::Eptp;
use hv_defs::event::{
    Actor, Cause, Entry, Event, Exit, Flush, FlushKind, NO_ADDRESS, Stamp, VmcsAccess, VmcsOp, Vpid, VpidOp, What,
    Which,
};
use hv_defs::exit::Reason;
use hv_defs::vmcs::{self, VmcsField};
use std::collections::{BTreeMap, BTreeSet};

named! {
    /// In which way L0 is wrong.
    Direction {
        /// It left something out.
        Missing = "missing",
        /// It did something to what was not meant.
        WrongTarget = "wrong-target",
        /// It holds a value that it must not.
        WrongValue = "wrong-value",
        /// It does no harm, and costs.
        Wasted = "wasted",
    }
}

macro_rules! mistakes {
    ($($(#[$doc:meta])* $variant:ident $name:literal $direction:ident $ground:ident $why:literal;)*) => {
        named! {
            /// What L0 did wrong.
            MistakeKind {
                $($(#[$doc])* $variant = $name,)*
            }
        }

        impl MistakeKind {
            /// In which way.
            pub const fn direction(self) -> Direction {
                match self {
                    $(Self::$variant => Direction::$direction,)*
                }
            }

            /// What finds it.
            pub const fn ground(self) -> JudgedBy {
                match self {
                    $(Self::$variant => JudgedBy::$ground,)*
                }
            }

            /// What is wrong with it, in one sentence.
            pub const fn why(self) -> &'static str {
                match self {
                    $(Self::$variant => $why,)*
                }
            }
        }
    };
}

mistakes! {
    /// See [`MistakeKind::why`], as for all of them.
    VpidFreedTwice "vpid-freed-twice" WrongTarget Rule
        "A VPID was given back that its vCPU did not hold: whoever holds it, or is given it next, shares it with another, and a tag with two owners owes a flush at each change.";
    /// Two owners.
    VpidShared "vpid-shared" WrongTarget Rule
        "A VPID was handed out while another held it: each may be served what the other had cached.";
    /// A VPID that was given back.
    VpidAfterFree "vpid-after-free" WrongTarget Rule
        "A VPID went on being used for a vpid12 after it had been given back, or before it was handed out, with what it held before.";
    /// Never given back.
    VpidLeaked "vpid-leaked" Wasted Rule
        "L1 left VMX operation, and a VPID of its L2s was not given back: it is lost, and when none are left L2s run under L1's tag, with a flush at each transition.";
    /// A flush of something else.
    FlushWrongTarget "flush-wrong-target" WrongTarget Rule
        "A flush names another EPT pointer, another VPID or another kind of mapping than what it was made for: what was meant is still cached.";
    /// A value of L2's.
    RightsUnmasked "rights-unmasked" WrongValue Rule
        "L0 carried out a VMWRITE of access rights to a shadow VMCS and kept bits that are not defined, which silicon would have masked.";
    /// A value of L1's.
    Vmcs02Stale "vmcs02-stale" Missing Rule
        "L2 was entered with a field of vmcs02 that is neither what L1 wrote to vmcs12 since, nor was written by L0: the VMWRITE is missing.";
    /// By replay.
    Ept02Unsynced "ept02-unsynced" Missing Replay
        "The policy has the nested entry bring EPT02 in line with EPT12, and L2 was entered with entries that are not: the sync is missing, and a flush made there drops nothing that is walked otherwise.";
}

/// A mistake of L0's: all of a kind.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mistake {
    /// What it did.
    pub kind: MistakeKind,
    /// How often.
    pub count: u64,
    /// The event that first proves it.
    pub first: u64,
    /// That event's stamp.
    pub at: Stamp,
    /// What proves the first, in words.
    pub proof: String,
}

/// Folds mistakes of a kind together, in the order of kinds.
pub(super) fn gather(of: impl IntoIterator<Item = Mistake>) -> Vec<Mistake> {
    let mut all: BTreeMap<MistakeKind, Mistake> = BTreeMap::new();
    for one in of {
        match all.get_mut(&one.kind) {
            None => _ = all.insert(one.kind, one),
            Some(known) => {
                let count = known.count + one.count;
                if one.first < known.first {
                    *known = one;
                }
                known.count = count;
            }
        }
    }
    all.into_values().collect()
}

/// Who holds a VPID for L2s.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Holder {
    vcpu: u16,
    vpid12: u16,
}

/// What L1 wrote to a vmcs12 since L2 was last entered with it, and when.
type Written = BTreeMap<VmcsField, (u64, u64)>;

/// What the fields of each vmcs02 hold that L0 hands on.
#[derive(Debug, Default)]
struct Known {
    places: BTreeMap<u64, usize>,
    held: Vec<Handed>,
    /// The address that was looked for last, and its place.
    last: Option<(u64, usize)>,
}

/// Fields that L0 hands on: those that are known, and their values.
#[derive(Clone, Copy, Debug, Default)]
struct Handed {
    known: u16,
    values: [u64; HANDED_ON.len()],
}

impl Known {
    fn of(&mut self, vmcs02: u64) -> &mut Handed {
        let place = match self.last {
            Some((last, place)) if last == vmcs02 => place,
            _ => {
                let held = &mut self.held;
                let place = *self.places.entry(vmcs02).or_insert_with(|| {
                    held.push(Handed::default());
                    held.len() - 1
                });
                self.last = Some((vmcs02, place));
                place
            }
        };
        &mut self.held[place]
    }
}

impl Handed {
    fn set(&mut self, field: VmcsField, value: u64) {
        if let Some(at) = handed_on(field) {
            self.known |= 1 << at;
            self.values[at] = value;
        }
    }

    fn get(&self, field: VmcsField) -> Option<u64> {
        handed_on(field).filter(|at| self.known >> at & 1 != 0).map(|at| self.values[at])
    }
}

#[derive(Debug, Default)]
pub(super) struct Fold {
    found: BTreeMap<MistakeKind, Mistake>,
    /// By vpid02.
    held: BTreeMap<u16, Holder>,
    /// By VPID of L1's: the vCPU.
    own: BTreeMap<u16, u16>,
    /// By vCPU: the last INVEPT for a root that is loaded, until the entry.
    loads: BTreeMap<u16, (u64, Stamp, u64)>,
    /// By vCPU: what it gave back since its last entry.
    freed: BTreeMap<u16, BTreeSet<u16>>,
    /// By vCPU: the event of a VMXOFF that L0 handles.
    leaves: BTreeMap<u16, u64>,
    /// By vmcs12.
    written: BTreeMap<u64, Written>,
    /// By vmcs02: what the fields hold that were written or read since it ran.
    known: Known,
}

impl Fold {
    fn add(&mut self, kind: MistakeKind, first: u64, at: Stamp, proof: impl FnOnce() -> String) {
        match self.found.get_mut(&kind) {
            Some(known) => known.count += 1,
            None => _ = self.found.insert(kind, Mistake { kind, count: 1, first, at, proof: proof() }),
        }
    }

    /// What is no VMCS access.
    pub(super) fn see(&mut self, number: u64, event: &Event) {
        let at = event.at;
        match &event.what {
            What::Vpid(vpid) => self.vpid(number, at, vpid),
            What::Entry(entry) => self.entry(number, at, entry),
            What::Flush(flush) if flush.actor == Actor::L0 => self.flush(number, at, flush),
            What::Exit(Exit { level: 1, handled_by: Actor::L0, reason, .. }) if reason.reason() == Reason::VMXOFF => {
                self.leaves.insert(at.vcpu, number);
            }
            // The instruction faults: L1 stays in VMX operation.
            What::Injection(_) => _ = self.leaves.remove(&at.vcpu),
            _ => {}
        }
    }

    fn vpid(&mut self, number: u64, at: Stamp, vpid: &Vpid) {
        let &Vpid { op, vpid12, vpid02 } = vpid;
        let vcpu = at.vcpu;
        let holder = self.held.get(&vpid02).copied();
        let own = holder.filter(|holder| holder.vcpu == vcpu);
        match op {
            VpidOp::Map => {
                let other = holder
                    .filter(|holder| holder.vcpu != vcpu)
                    .map(|holder| format!("vCPU {} holds it for vpid12 {}", holder.vcpu, holder.vpid12));
                let l1s = self.own.get(&vpid02).map(|owner| format!("L1 of vCPU {owner} runs under it"));
                if let Some(other) = other.or(l1s) {
                    self.add(MistakeKind::VpidShared, number, at, || {
                        format!("VPID {vpid02} is given to vCPU {vcpu} for vpid12 {vpid12}, and {other}")
                    });
                }
            }
            VpidOp::Hit | VpidOp::Recycle if own.is_none() => {
                self.add(MistakeKind::VpidAfterFree, number, at, || {
                    format!("vCPU {vcpu} uses VPID {vpid02} for vpid12 {vpid12} and does not hold it")
                });
            }
            VpidOp::Hit | VpidOp::Recycle => {}
            VpidOp::Free => {
                let again = !self.freed.entry(vcpu).or_default().insert(vpid02);
                // One that was taken and that no vpid12 had is given back for vpid12 0.
                if own.is_none() && (vpid12 != 0 || again || holder.is_some()) {
                    self.add(MistakeKind::VpidFreedTwice, number, at, || {
                        let mut text = format!("vCPU {vcpu} gives back VPID {vpid02} and does not hold it");
                        if let Some(holder) = holder {
                            let _ = write!(text, "; vCPU {} does, for vpid12 {}", holder.vcpu, holder.vpid12);
                        }
                        text
                    });
                }
                if own.is_some() {
                    self.held.remove(&vpid02);
                }
                return;
            }
        }
        self.held.insert(vpid02, Holder { vcpu, vpid12 });
    }

    fn flush(&mut self, number: u64, at: Stamp, flush: &Flush) {
        let &Flush { kind, cause, vpid, eptp, .. } = flush;
        let invept = is_invept(kind);
        let holds = |fold: &Self| fold.held.values().any(|holder| holder.vcpu == at.vcpu);
        let why = match cause {
            Cause::RootLoad if kind == FlushKind::InveptSingle => {
                self.loads.insert(at.vcpu, (number, at, eptp));
                return;
            }
            Cause::InvvpidEmulation if invept => {
                "it drops guest-physical mappings, and L1 meant linear ones".to_owned()
            }
            Cause::InveptEmulation if !invept => {
                "it drops linear mappings, and L1 meant guest-physical ones".to_owned()
            }
            Cause::InvvpidEmulation if self.own.get(&vpid) == Some(&at.vcpu) && holds(self) => {
                format!("VPID {vpid} is L1's own, and L1 meant its L2s'")
            }
            _ => return,
        };
        self.add(MistakeKind::FlushWrongTarget, number, at, || format!("{kind} for {cause}: {why}"));
    }

    /// An access that may concern it; `when` tells its number and stamp.
    pub(super) fn access(&mut self, when: impl FnOnce() -> (u64, Stamp), access: &VmcsAccess) {
        let &VmcsAccess { actor, which, address, op, field, old, value } = access;
        match (which, op) {
            (Which::Shadow12, VmcsOp::Write) if actor >= Actor::L2 && is_rights(field) && value & !RIGHTS != 0 => {
                let (number, at) = when();
                self.add(MistakeKind::RightsUnmasked, number, at, || {
                    format!("{field} of the shadow VMCS at {address:#x} holds {value:#x}, where {RIGHTS:#x} is defined")
                });
            }
            (Which::Vmcs12, VmcsOp::Write) if actor == Actor::L1 && old != value && is_handed_on(field) => {
                self.written.entry(address).or_default().insert(field, (value, when().0));
            }
            (Which::Vmcs12, VmcsOp::Clear) => _ = self.written.remove(&address),
            (Which::Vmcs02, VmcsOp::Clear) => self.known.of(address).known = 0,
            (Which::Vmcs02, VmcsOp::Read | VmcsOp::Write) => self.known.of(address).set(field, value),
            _ => {}
        }
    }

    fn entry(&mut self, number: u64, at: Stamp, entry: &Entry) {
        self.freed.remove(&at.vcpu);
        let ep4ta = |eptp: u64| Eptp::from_bits(eptp).ep4ta();
        if let Some((number, at, flushed)) =
            self.loads.remove(&at.vcpu).filter(|load| ep4ta(load.2) != ep4ta(entry.eptp))
        {
            self.add(MistakeKind::FlushWrongTarget, number, at, || {
                format!("INVEPT of {flushed:#x} for root-load, and {:#x} is what is entered", entry.eptp)
            });
        }
        if let Some(left) = self.leaves.remove(&at.vcpu) {
            self.left(left, at);
        }
        if entry.vmcs12 == NO_ADDRESS {
            if entry.vpid != 0 {
                self.own.entry(entry.vpid).or_insert(at.vcpu);
            }
            return;
        }
        // What silicon leaves there when it exits is not known before L0 reads it.
        let known = core::mem::take(self.known.of(entry.vmcs02));
        for (field, (wanted, event)) in self.written.remove(&entry.vmcs12).unwrap_or_default() {
            if let Some(holds) = known.get(field).filter(|holds| *holds != wanted) {
                let vmcs12 = entry.vmcs12;
                self.add(MistakeKind::Vmcs02Stale, number, at, || {
                    format!(
                        "L1 wrote {wanted:#x} to {field} of the vmcs12 at {vmcs12:#x} at event {event}, and vmcs02 holds {holds:#x}"
                    )
                });
            }
        }
    }

    /// A vCPU's L1 has left VMX operation.
    fn left(&mut self, number: u64, at: Stamp) {
        let lost: Vec<(u16, Holder)> = self
            .held
            .iter()
            .filter(|(_, holder)| holder.vcpu == at.vcpu)
            .map(|(vpid, holder)| (*vpid, *holder))
            .collect();
        for (vpid02, holder) in lost {
            self.held.remove(&vpid02);
            self.add(MistakeKind::VpidLeaked, number, at, || {
                format!("vCPU {} keeps VPID {vpid02}, of vpid12 {}, after VMXOFF", holder.vcpu, holder.vpid12)
            });
        }
    }

    pub(super) fn finish(self) -> Vec<Mistake> {
        self.found.into_values().collect()
    }
}

/// The bits of access rights that are defined. See: SDM "Guest Register State".
const RIGHTS: u64 = 0x1_f0ff;

pub(super) fn is_rights(field: VmcsField) -> bool {
    (vmcs::GUEST_ES_ACCESS_RIGHTS.field()..=vmcs::GUEST_TR_ACCESS_RIGHTS.field()).contains(&field)
}

/// What L0 hands on from vmcs12 to vmcs02 as it is, whatever the policy: guest state that is L2's alone.
const HANDED_ON: [VmcsField; 15] = [
    vmcs::GUEST_RSP.field(),
    vmcs::GUEST_RIP.field(),
    vmcs::GUEST_CR3.field(),
    vmcs::GUEST_ES_BASE.field(),
    vmcs::GUEST_CS_BASE.field(),
    vmcs::GUEST_SS_BASE.field(),
    vmcs::GUEST_DS_BASE.field(),
    vmcs::GUEST_FS_BASE.field(),
    vmcs::GUEST_GS_BASE.field(),
    vmcs::GUEST_LDTR_BASE.field(),
    vmcs::GUEST_TR_BASE.field(),
    vmcs::GUEST_GDTR_BASE.field(),
    vmcs::GUEST_IDTR_BASE.field(),
    vmcs::GUEST_SYSENTER_ESP.field(),
    vmcs::GUEST_SYSENTER_EIP.field(),
];

/// By the field's row in the table of fields, its place among those that are handed on.
const PLACES: [u8; vmcs::COUNT] = {
    let (mut places, mut at) = ([u8::MAX; vmcs::COUNT], 0);
    while at < HANDED_ON.len() {
        if let Some(row) = HANDED_ON[at].index() {
            places[row] = at as u8;
        }
        at += 1;
    }
    places
};

fn handed_on(field: VmcsField) -> Option<usize> {
    let place = usize::from(PLACES[field.index()?]);
    (place < HANDED_ON.len()).then_some(place)
}

/// Whether L0 hands a field on.
pub(super) fn is_handed_on(field: VmcsField) -> bool {
    handed_on(field).is_some()
}
