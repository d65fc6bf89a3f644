//! VPIDs: which of silicon's L1 and its L2s run under, and what must be flushed when L1 and L2 take turns.

use super::cx::Cx;
use crate::silicon::{Pcpu, Silicon};
use hv_defs::ept::InvvpidType;
use hv_defs::event::{Cause, Vpid, VpidOp, What};
use hv_defs::policy::{Policy, RootLoad, Tags, TransitionFlush};
use hv_defs::slip::{Slip, Slips};
use serde::{Deserialize, Serialize};

/// VPIDs for L2s that one vCPU may hold under [`Tags::Mapped`].
pub(super) const MAPPED: usize = 64;

/// One of silicon's VPIDs, and what an adversarial TLB may hold of it: sets of physical CPUs, by bit.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
struct OneVpid {
    in_use: bool,
    /// Where it ran since it was last handed out.
    ran: u64,
    /// Where it ran since it was last flushed there.
    held: u64,
    /// Where what is held may be out of date, since its guest has run, or flushed it, elsewhere since.
    stale: u64,
}

/// Silicon's VPIDs, and where each was used.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Vpids {
    /// By VPID less one.
    all: Vec<OneVpid>,
}

/// The bit of a physical CPU.
const fn bit(cpu: Pcpu) -> u64 {
    1 << (cpu % 64)
}

impl Vpids {
    /// The lowest free VPID; 0 when there is none.
    pub(super) fn take(&mut self) -> u16 {
        let index = self.all.iter().position(|one| !one.in_use).unwrap_or(self.all.len());
        if index == usize::from(u16::MAX) {
            return 0;
        }
        if index == self.all.len() {
            self.all.push(OneVpid::default());
        }
        self.all[index].in_use = true;
        index as u16 + 1
    }

    /// It is free.
    pub(super) fn release(&mut self, vpid: u16) {
        if let Some(one) = self.one(vpid) {
            one.in_use = false;
        }
    }

    fn one(&mut self, vpid: u16) -> Option<&mut OneVpid> {
        self.all.get_mut(usize::from(vpid).wrapping_sub(1))
    }

    /// It runs on a physical CPU.
    pub(super) fn used_on(&mut self, vpid: u16, cpu: Pcpu) {
        if let Some(one) = self.one(vpid) {
            one.ran |= bit(cpu);
            one.stale |= one.held & !bit(cpu);
            one.held |= bit(cpu);
        }
    }

    /// A physical CPU has dropped all that it held of it.
    pub(super) fn flushed(&mut self, vpid: u16, cpu: Pcpu) {
        if let Some(one) = self.one(vpid) {
            one.held &= !bit(cpu);
            one.stale &= !bit(cpu);
        }
    }

    /// Its guest wants something of it dropped on one physical CPU: what the others hold is out of date.
    pub(super) fn outdated(&mut self, vpid: u16, cpu: Pcpu) {
        if let Some(one) = self.one(vpid) {
            one.stale |= one.held & !bit(cpu);
        }
    }

    /// The physical CPUs that it ran on, which are held to hold nothing of it from now on.
    fn forget(&mut self, vpid: u16) -> u64 {
        self.one(vpid).map_or(0, |one| core::mem::take(&mut one.ran))
    }

    fn get(&self, vpid: u16) -> OneVpid {
        self.all.get(usize::from(vpid).wrapping_sub(1)).copied().unwrap_or_default()
    }

    /// Whether it ran on a physical CPU since it was handed out.
    pub(super) fn was_on(&self, vpid: u16, cpu: Pcpu) -> bool {
        self.get(vpid).ran & bit(cpu) != 0
    }

    /// Whether a physical CPU may hold translations of it.
    pub(super) fn is_held(&self, vpid: u16, cpu: Pcpu) -> bool {
        self.get(vpid).held & bit(cpu) != 0
    }

    /// Whether a physical CPU may hold translations of it that are out of date.
    pub(super) fn is_stale(&self, vpid: u16, cpu: Pcpu) -> bool {
        self.get(vpid).stale & bit(cpu) != 0
    }
}

/// One vpid12 and its vpid02.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Pair {
    vpid12: u16,
    vpid02: u16,
    used: u64,
}

/// The VPIDs that a vCPU holds, for a look from outside.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct VpidMap {
    /// L1's; 0 without VPIDs.
    pub vpid01: u16,
    /// The one for all L2s, under [`Tags::Single`]; 0 when there is none.
    pub single: u16,
    /// The vpid12 that L2 ran under last; 0 for none.
    pub last: u16,
    /// Each vpid12 with its vpid02, under [`Tags::Mapped`]: what is recycled first comes first.
    pub pairs: Vec<(u16, u16)>,
}

/// A vCPU's VPIDs.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Tagging {
    /// L1's; 0 without VPIDs.
    pub(super) vpid01: u16,
    /// The one for L2, under [`Tags::Single`], while L1 is in VMX operation; else 0.
    vpid02: u16,
    /// The vpid12 that L2 ran under last; 0 for none.
    last: u16,
    pairs: Vec<Pair>,
    /// By vpid12: its place in `pairs`, plus one.
    index: Vec<u8>,
    uses: u64,
    /// What the last VMXOFF freed, for [`Slip::VpidFreedTwice`].
    freed: Vec<(u16, u16)>,
}

impl Tagging {
    /// With the VPID of L1.
    pub(super) fn new(vpid01: u16) -> Self {
        Self { vpid01, vpid02: 0, last: 0, pairs: Vec::new(), index: vec![0; 1 << 16], uses: 0, freed: Vec::new() }
    }

    /// The vpid02s that stand for `vpid12`; for all, with `None`.
    pub(super) fn standing_for(&self, tags: Tags, vpid12: Option<u16>) -> Vec<u16> {
        match tags {
            Tags::Off => Vec::new(),
            Tags::Shared => vec![self.vpid01],
            Tags::Single if self.vpid02 == 0 => vec![self.vpid01],
            Tags::Single => vec![self.vpid02],
            Tags::Mapped => {
                let wanted = |pair: &&Pair| vpid12.is_none_or(|vpid12| vpid12 == pair.vpid12);
                self.pairs.iter().filter(wanted).map(|pair| pair.vpid02).collect()
            }
        }
    }

    /// The VPIDs, for a look from outside.
    pub(super) fn shown(&self) -> VpidMap {
        let mut pairs = self.pairs.clone();
        pairs.sort_by_key(|pair| pair.used);
        let pairs = pairs.into_iter().map(|pair| (pair.vpid12, pair.vpid02)).collect();
        VpidMap { vpid01: self.vpid01, single: self.vpid02, last: self.last, pairs }
    }

    /// Every VPID that the vCPU holds.
    pub(super) fn held(&self) -> Vec<u16> {
        let mut held = vec![self.vpid01, self.vpid02];
        held.extend(self.pairs.iter().map(|pair| pair.vpid02));
        held.retain(|vpid| *vpid != 0);
        held
    }
}

/// What L2 is about to run under.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(super) struct Tag {
    /// Silicon's VPID; 0 for none.
    pub(super) vpid: u16,
    /// It is not L1's own.
    pub(super) own: bool,
    /// It stood for another vpid12 when L2 ran last.
    pub(super) changed: bool,
}

/// Whether a nested transition flushes the VPID that is entered, and why. `own_root`: L2 has another EPT pointer than L1.
///
/// Whatever the policy says, L1 and L2 are never left to see each other's translations, and a vmcs12 without VPID gets
/// the flush that the architecture promises it; unless a slip says otherwise. That flush is made at the entry and, but for
/// [`TransitionFlush::Needed`], at the exit: what L1 had cached has gone at the entry, and nothing under its own EPT
/// pointer has come since, so that an adversarial TLB has nothing to show L1 that the second flush could take away.
/// See: SDM "Operations that Invalidate Cached Mappings".
pub(super) fn transition(
    (policy, slips): (&Policy, Slips),
    entry: bool,
    tag: Tag,
    vpid12: Option<u16>,
    own_root: bool,
) -> Option<Cause> {
    let cause = if entry { Cause::NestedEntry } else { Cause::NestedExit };
    if policy.tags == Tags::Off {
        return None; // The hardware does.
    }
    if !tag.own && slips.has(Slip::SharedTagUnflushed) {
        return None;
    }
    if policy.transition_flush == TransitionFlush::Always {
        return Some(cause);
    }
    if vpid12.is_none() {
        let spared = policy.transition_flush == TransitionFlush::Needed && !entry && own_root;
        return (!spared).then_some(cause);
    }
    // Where each vpid12 has a VPID of its own, only the rules that remember no more than the last one flush.
    let remembers_one = match policy.transition_flush {
        TransitionFlush::Vpid12Change | TransitionFlush::Untagged | TransitionFlush::UntaggedSync => true,
        _ => policy.tags != Tags::Mapped || !tag.own,
    };
    if entry && tag.changed && remembers_one {
        return (!slips.has(Slip::Vpid12Unflushed)).then_some(Cause::Vpid12Change);
    }
    (!tag.own && !own_root).then_some(cause)
}

/// Whether an EPT02 that is loaded again is brought in line with EPT12 first. Where it is not, L1's INVEPT is what does
/// it: before that L2 may go by what EPT12 was.
pub(super) fn syncs_when_loaded(policy: &Policy) -> bool {
    let waits = matches!(
        policy.transition_flush,
        TransitionFlush::Untagged | TransitionFlush::UntaggedSync | TransitionFlush::Needed
    );
    policy.root_load != RootLoad::Cached || !waits
}

/// Whether a nested entry counts as a flush of the guest's own, which brings all its EPT02s in line: with a vpid12 that is
/// not the last one, and with none.
pub(super) fn syncs_as_guest(policy: &Policy, slips: Slips, tag: Tag, vpid12: Option<u16>) -> bool {
    policy.transition_flush == TransitionFlush::UntaggedSync
        && (tag.changed || vpid12.is_none())
        && !slips.has(Slip::Vpid12Unsynced)
}

impl<S: Silicon> Cx<'_, S> {
    fn emit_vpid(&mut self, op: VpidOp, vpid12: u16, vpid02: u16) {
        self.emit(What::Vpid(Vpid { op, vpid12, vpid02 }));
    }

    /// Takes the VPIDs that VMX operation needs.
    pub(super) fn take_vpids(&mut self) {
        if self.shared.policy.tags == Tags::Single {
            self.vcpu.tagging.vpid02 = self.take_vpid();
        }
        if !self.shared.slips.has(Slip::LastVpidKept) {
            self.vcpu.tagging.last = 0;
        }
    }

    /// Gives back all VPIDs of L2s, each once.
    pub(super) fn free_vpids(&mut self) {
        let slips = self.shared.slips;
        let tagging = &mut self.vcpu.tagging;
        let last = if slips.has(Slip::LastVpidKept) { tagging.last } else { core::mem::take(&mut tagging.last) };
        let single = core::mem::take(&mut tagging.vpid02);
        let pairs = core::mem::take(&mut tagging.pairs);
        for pair in &pairs {
            tagging.index[usize::from(pair.vpid12)] = 0;
        }
        let mut held: Vec<(u16, u16)> = pairs.into_iter().map(|pair| (pair.vpid12, pair.vpid02)).collect();
        if single != 0 {
            held.insert(0, (last, single));
        }
        if slips.has(Slip::VpidLeaked) {
            return;
        }
        if slips.has(Slip::VpidFreedTwice) {
            let again = core::mem::replace(&mut self.vcpu.tagging.freed, held.clone());
            held.extend(again);
        }
        for (vpid12, vpid02) in held {
            self.free_vpid(vpid12, vpid02);
        }
    }

    /// Gives back L1's own VPID.
    pub(super) fn free_vpid01(&mut self) {
        let vpid01 = core::mem::take(&mut self.vcpu.tagging.vpid01);
        if vpid01 != 0 {
            self.give_back(vpid01);
        }
    }

    fn give_back(&mut self, vpid: u16) {
        if !self.shared.slips.has(Slip::LastVpidKept) && !self.flushes_as_needed() {
            self.flush_vpid_everywhere(vpid, Cause::VpidFree);
        }
        self.shared.vpids.release(vpid);
    }

    fn free_vpid(&mut self, vpid12: u16, vpid02: u16) {
        self.give_back(vpid02);
        self.emit_vpid(VpidOp::Free, vpid12, vpid02);
    }

    /// Whether L0 leaves out every flush that nothing could notice.
    pub(super) fn flushes_as_needed(&self) -> bool {
        self.shared.policy.transition_flush == TransitionFlush::Needed
    }

    /// A VPID for an L2; 0 for none. One that nothing has flushed since it was given up is flushed now.
    fn take_vpid(&mut self) -> u16 {
        let vpid = self.shared.vpids.take();
        if vpid != 0 && self.flushes_as_needed() && !self.shared.slips.has(Slip::LastVpidKept) {
            self.flush_vpid_everywhere(vpid, Cause::VpidFree);
        }
        vpid
    }

    /// INVVPID of one VPID on every CPU that it ran on; under [`TransitionFlush::Needed`], on those that may still hold
    /// something of it.
    fn flush_vpid_everywhere(&mut self, vpid: u16, cause: Cause) {
        let held = if self.flushes_as_needed() { self.shared.vpids.get(vpid).held } else { u64::MAX };
        let cpus = self.shared.vpids.forget(vpid) & held;
        let here = self.shared.slips.has(Slip::VpidStaleCpu).then_some(self.cpu);
        let meant = |cpu: &Pcpu| cpus >> (cpu % 64) & 1 != 0 && here.is_none_or(|here| here == *cpu);
        for cpu in (0..self.shared.pcpus).filter(meant) {
            self.invvpid_on(cpu, InvvpidType::Single, vpid, 0, cause);
        }
    }

    /// The VPID for an L2 of `vpid12` (`None` when vmcs12 does not use VPID).
    pub(super) fn tag_for(&mut self, vpid12: Option<u16>) -> Tag {
        let tags = self.shared.policy.tags;
        let vpid01 = self.vcpu.tagging.vpid01;
        let Some(vpid12) = vpid12 else {
            return Tag { vpid: vpid01, own: tags == Tags::Off, changed: false };
        };
        let tagging = &mut self.vcpu.tagging;
        let last = core::mem::replace(&mut tagging.last, vpid12);
        let changed = last != vpid12;
        match tags {
            Tags::Off => Tag { vpid: 0, own: true, changed },
            Tags::Shared => Tag { vpid: vpid01, own: false, changed },
            Tags::Single if tagging.vpid02 == 0 => Tag { vpid: vpid01, own: false, changed },
            Tags::Single => {
                let vpid = tagging.vpid02;
                let op = match last {
                    0 => VpidOp::Map,
                    same if same == vpid12 => VpidOp::Hit,
                    _ => VpidOp::Recycle,
                };
                self.emit_vpid(op, vpid12, vpid);
                Tag { vpid, own: true, changed }
            }
            Tags::Mapped => self.mapped(vpid12, changed),
        }
    }

    fn mapped(&mut self, vpid12: u16, changed: bool) -> Tag {
        let tagging = &mut self.vcpu.tagging;
        tagging.uses += 1;
        let used = tagging.uses;
        let place = usize::from(tagging.index[usize::from(vpid12)]);
        if place != 0 {
            tagging.pairs[place - 1].used = used;
            let vpid = tagging.pairs[place - 1].vpid02;
            self.emit_vpid(VpidOp::Hit, vpid12, vpid);
            return Tag { vpid, own: true, changed };
        }
        if tagging.pairs.len() < MAPPED {
            let vpid = self.take_vpid();
            let tagging = &mut self.vcpu.tagging;
            if vpid != 0 {
                tagging.pairs.push(Pair { vpid12, vpid02: vpid, used });
                tagging.index[usize::from(vpid12)] = tagging.pairs.len() as u8;
                self.emit_vpid(VpidOp::Map, vpid12, vpid);
                return Tag { vpid, own: true, changed };
            }
        }
        let tagging = &mut self.vcpu.tagging;
        let Some(place) = (0..tagging.pairs.len()).min_by_key(|place| tagging.pairs[*place].used) else {
            return Tag { vpid: tagging.vpid01, own: false, changed };
        };
        let pair = &mut tagging.pairs[place];
        tagging.index[usize::from(pair.vpid12)] = 0;
        tagging.index[usize::from(vpid12)] = place as u8 + 1;
        *pair = Pair { vpid12, used, ..*pair };
        let vpid = pair.vpid02;
        self.emit_vpid(VpidOp::Recycle, vpid12, vpid);
        if !self.shared.slips.has(Slip::Vpid12Unflushed) {
            self.flush_vpid_everywhere(vpid, Cause::VpidRecycle);
        }
        Tag { vpid, own: true, changed }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(preset: &str, entry: bool, (own, changed): (bool, bool), vpid12: u16, own_root: bool, expected: &str) {
        let policy = Policy::preset(preset).unwrap();
        let tag = Tag { vpid: 1, own, changed };
        let vpid12 = (vpid12 != 0).then_some(vpid12);
        let got = transition((&policy, Slips::default()), entry, tag, vpid12, own_root).map_or("-", Cause::name);
        assert_eq!(got, expected, "{preset} entry={entry} own={own} changed={changed} {vpid12:?} root={own_root}");
    }

    #[test]
    fn each_year_has_its_rule() {
        const ENTRY: bool = true;
        const EXIT: bool = false;
        const OWN: (bool, bool) = (true, false);
        const OWN_CHANGED: (bool, bool) = (true, true);
        const SHARED: (bool, bool) = (false, false);
        check("no-vpid", ENTRY, OWN_CHANGED, 5, true, "-");
        check("kvm-2011", ENTRY, SHARED, 5, true, "nested-entry");
        check("kvm-2011", EXIT, SHARED, 5, true, "nested-exit");
        check("kvm-2015", ENTRY, OWN_CHANGED, 5, true, "vpid12-change");
        check("kvm-2015", EXIT, OWN_CHANGED, 5, true, "-");
        check("kvm-2015", ENTRY, OWN, 5, false, "-");
        check("kvm-2015", ENTRY, SHARED, 0, true, "nested-entry");
        check("kvm-2015", EXIT, SHARED, 0, false, "nested-exit");
        check("kvm-2020", ENTRY, SHARED, 0, true, "nested-entry");
        check("kvm-2020", ENTRY, SHARED, 5, true, "-");
        check("kvm-2020", ENTRY, SHARED, 5, false, "nested-entry");
        check("mapped", ENTRY, OWN_CHANGED, 5, true, "-");
        check("mapped", ENTRY, SHARED, 0, true, "nested-entry");
        check("kvm-2020", ENTRY, OWN_CHANGED, 5, true, "vpid12-change");
        check("kvm-2021", ENTRY, OWN_CHANGED, 5, true, "vpid12-change");
        check("mapped", EXIT, SHARED, 0, true, "nested-exit");
        check("ideal", ENTRY, OWN_CHANGED, 5, true, "-");
        check("ideal", EXIT, OWN, 5, true, "-");
        check("ideal", ENTRY, SHARED, 0, true, "nested-entry");
        check("ideal", EXIT, SHARED, 0, true, "-");
        check("ideal", EXIT, SHARED, 0, false, "nested-exit");
    }

    #[test]
    fn vpids_are_given_out_from_the_lowest() {
        let mut vpids = Vpids::default();
        assert_eq!([vpids.take(), vpids.take(), vpids.take()], [1, 2, 3]);
        vpids.all[1].in_use = false;
        vpids.used_on(3, 2);
        assert_eq!(vpids.take(), 2);
        assert!(vpids.was_on(3, 2) && !vpids.was_on(3, 1));
        assert_eq!(vpids.forget(3), 4);
        assert!(!vpids.was_on(3, 2));
    }

    #[test]
    fn what_a_cpu_holds_is_stale_once_its_guest_ran_or_flushed_elsewhere() {
        let mut vpids = Vpids::default();
        let vpid = vpids.take();
        let check = |vpids: &Vpids, expected: [(bool, bool); 2]| {
            assert_eq!([0, 1].map(|cpu| (vpids.is_held(vpid, cpu), vpids.is_stale(vpid, cpu))), expected);
        };
        check(&vpids, [(false, false), (false, false)]);
        vpids.used_on(vpid, 0);
        check(&vpids, [(true, false), (false, false)]);
        vpids.outdated(vpid, 0);
        check(&vpids, [(true, false), (false, false)]);
        vpids.outdated(vpid, 1);
        check(&vpids, [(true, true), (false, false)]);
        vpids.flushed(vpid, 0);
        check(&vpids, [(false, false), (false, false)]);
        vpids.used_on(vpid, 0);
        vpids.used_on(vpid, 1);
        check(&vpids, [(true, true), (true, false)]);
        vpids.used_on(0, 1);
        assert!(!vpids.is_held(0, 1));
    }
}
