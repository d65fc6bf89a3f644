//! VPIDs: which of silicon's L1 and its L2s run under, and what must be flushed when L1 and L2 take turns.

use super::cx::Cx;
use crate::silicon::{Pcpu, Silicon};
use hv_defs::ept::InvvpidType;
use hv_defs::event::{Cause, Vpid, VpidOp, What};
use hv_defs::policy::{Policy, Tags, TransitionFlush};
use hv_defs::slip::{Slip, Slips};

/// VPIDs for L2s that one vCPU may hold under [`Tags::Mapped`].
pub(super) const MAPPED: usize = 64;

/// Silicon's VPIDs, and where each was used.
#[derive(Debug, Default)]
pub(super) struct Vpids {
    /// By VPID less one: in use, and the physical CPUs whose TLB may hold it.
    all: Vec<(bool, u64)>,
}

impl Vpids {
    /// The lowest free VPID; 0 when there is none.
    pub(super) fn take(&mut self) -> u16 {
        let index = self.all.iter().position(|(used, _)| !used).unwrap_or(self.all.len());
        if index == usize::from(u16::MAX) {
            return 0;
        }
        if index == self.all.len() {
            self.all.push((false, 0));
        }
        self.all[index].0 = true;
        index as u16 + 1
    }

    /// It runs on a physical CPU.
    pub(super) fn used_on(&mut self, vpid: u16, cpu: Pcpu) {
        if vpid != 0 {
            self.all[usize::from(vpid) - 1].1 |= 1 << (cpu % 64);
        }
    }

    /// The physical CPUs that may hold translations of it, which are held to hold none from now on.
    fn forget(&mut self, vpid: u16) -> u64 {
        core::mem::take(&mut self.all[usize::from(vpid) - 1].1)
    }

    /// Whether a physical CPU may hold translations of it.
    pub(super) fn was_on(&self, vpid: u16, cpu: Pcpu) -> bool {
        vpid != 0 && self.all[usize::from(vpid) - 1].1 >> (cpu % 64) & 1 != 0
    }
}

/// One vpid12 and its vpid02.
#[derive(Clone, Copy, Debug)]
struct Pair {
    vpid12: u16,
    vpid02: u16,
    used: u64,
}

/// A vCPU's VPIDs.
#[derive(Debug)]
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

    /// Every VPID that the vCPU holds.
    pub(super) fn held(&self) -> Vec<u16> {
        let mut held = vec![self.vpid01, self.vpid02];
        held.extend(self.pairs.iter().map(|pair| pair.vpid02));
        held.retain(|vpid| *vpid != 0);
        held
    }
}

/// What L2 is about to run under.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Tag {
    /// Silicon's VPID; 0 for none.
    pub(super) vpid: u16,
    /// It is not L1's own.
    pub(super) own: bool,
    /// It stood for another vpid12 when L2 ran last.
    pub(super) changed: bool,
}

/// Whether a nested transition flushes the VPID that is entered, and why.
///
/// Whatever the policy says, L1 and L2 are never left to see each other's translations, and a vmcs12 without VPID gets
/// the flush that the architecture promises it; unless a slip says otherwise.
/// See: SDM "Operations that Invalidate Cached Mappings".
pub(super) fn transition(
    (policy, slips): (&Policy, Slips),
    entry: bool,
    tag: Tag,
    vpid12: Option<u16>,
    own_ept: bool,
) -> Option<Cause> {
    let cause = if entry { Cause::NestedEntry } else { Cause::NestedExit };
    if policy.tags == Tags::Off {
        return None; // The hardware does.
    }
    if !tag.own && slips.has(Slip::SharedTagUnflushed) {
        return None;
    }
    if policy.transition_flush == TransitionFlush::Always || vpid12.is_none() {
        return Some(cause);
    }
    if entry && tag.changed && policy.tags != Tags::Mapped {
        return (!slips.has(Slip::Vpid12Unflushed)).then_some(Cause::Vpid12Change);
    }
    (!tag.own && !own_ept).then_some(cause)
}

impl<S: Silicon> Cx<'_, S> {
    fn emit_vpid(&mut self, op: VpidOp, vpid12: u16, vpid02: u16) {
        self.emit(What::Vpid(Vpid { op, vpid12, vpid02 }));
    }

    /// Takes the VPIDs that VMX operation needs.
    pub(super) fn take_vpids(&mut self) {
        if self.shared.policy.tags == Tags::Single {
            self.vcpu.tagging.vpid02 = self.shared.vpids.take();
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

    fn free_vpid(&mut self, vpid12: u16, vpid02: u16) {
        if !self.shared.slips.has(Slip::LastVpidKept) {
            self.flush_vpid_everywhere(vpid02, Cause::VpidFree);
        }
        self.shared.vpids.all[usize::from(vpid02) - 1].0 = false;
        self.emit_vpid(VpidOp::Free, vpid12, vpid02);
    }

    /// INVVPID of one VPID on every CPU that may hold it.
    fn flush_vpid_everywhere(&mut self, vpid: u16, cause: Cause) {
        let cpus = self.shared.vpids.forget(vpid);
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
            let vpid = self.shared.vpids.take();
            if vpid != 0 {
                tagging.pairs.push(Pair { vpid12, vpid02: vpid, used });
                tagging.index[usize::from(vpid12)] = tagging.pairs.len() as u8;
                self.emit_vpid(VpidOp::Map, vpid12, vpid);
                return Tag { vpid, own: true, changed };
            }
        }
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

    fn check(preset: &str, entry: bool, (own, changed): (bool, bool), vpid12: u16, own_ept: bool, expected: &str) {
        let policy = Policy::preset(preset).unwrap();
        let tag = Tag { vpid: 1, own, changed };
        let vpid12 = (vpid12 != 0).then_some(vpid12);
        let got = transition((&policy, Slips::default()), entry, tag, vpid12, own_ept).map_or("-", Cause::name);
        assert_eq!(got, expected, "{preset} entry={entry} own={own} changed={changed} {vpid12:?} ept={own_ept}");
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
        check("ideal", EXIT, OWN, 5, true, "-");
    }

    #[test]
    fn vpids_are_given_out_from_the_lowest() {
        let mut vpids = Vpids::default();
        assert_eq!([vpids.take(), vpids.take(), vpids.take()], [1, 2, 3]);
        vpids.all[1].0 = false;
        vpids.used_on(3, 2);
        assert_eq!(vpids.take(), 2);
        assert!(vpids.was_on(3, 2) && !vpids.was_on(3, 1));
        assert_eq!(vpids.forget(3), 4);
        assert!(!vpids.was_on(3, 2));
    }
}
