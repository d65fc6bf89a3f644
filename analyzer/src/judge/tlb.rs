//! What an adversarial TLB could hold: for each physical CPU, the tags that were run under since they were last flushed.

use super::guests::{Owner, View};
use hv_defs::ept::{EptEntry, Eptp};
use hv_defs::event::{EptChange, EptOp, Flush, FlushKind};
use std::collections::{BTreeMap, BTreeSet};

/// The tag of linear mappings (no EP4TA: 0) or of combined ones.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Tag {
    pub(super) vpid: u16,
    pub(super) ep4ta: u64,
}

/// Who ran under a tag since it was last flushed.
#[derive(Clone, Debug)]
pub(super) struct Held {
    pub(super) owners: Vec<Owner>,
    pub(super) last_run: u64,
}

/// Changes of EPT02 entries that a CPU may still hold as they were.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pending {
    /// Changes that INVEPT is needed after.
    pub(super) needed: u32,
    /// Changes that it is not needed after.
    pub(super) harmless: u32,
    /// The first of those that need it.
    pub(super) first: Option<EptChange>,
    /// L1 asked for the flush; L0 has yet to act.
    pub(super) asked: bool,
    /// The flush was called missing already.
    pub(super) reported: bool,
}

/// A root that was run under since it was last flushed: guest-physical mappings may exist.
#[derive(Clone, Debug, Default)]
pub(super) struct Root {
    pub(super) last_run: u64,
    pub(super) pending: Pending,
    /// How the guests that ran under it see their APIC-access pages.
    pub(super) views: BTreeSet<View>,
    /// The vCPU that ran under it last.
    pub(super) vcpu: u16,
}

/// One physical CPU.
#[derive(Debug, Default)]
pub(super) struct Cpu {
    pub(super) tags: BTreeMap<Tag, Held>,
    pub(super) roots: BTreeMap<u64, Root>,
}

/// The tag of an EPT pointer; 0 for none.
pub(super) fn ep4ta(eptp: u64) -> u64 {
    Eptp::from_bits(eptp).ep4ta()
}

/// Whether a kind of flush is one of INVEPT's.
pub(crate) const fn is_invept(kind: FlushKind) -> bool {
    matches!(kind, FlushKind::InveptSingle | FlushKind::InveptAll)
}

/// How much an INVVPID drops, as a rank.
pub(super) const fn width(kind: FlushKind) -> u8 {
    match kind {
        FlushKind::InvvpidAddress => 0,
        FlushKind::InvvpidRetainGlobals => 1,
        FlushKind::InvvpidSingle | FlushKind::InveptSingle => 2,
        FlushKind::InvvpidAll | FlushKind::InveptAll | FlushKind::Transition => 3,
    }
}

/// Whether a flush of linear and combined mappings concerns a VPID.
pub(super) const fn covers(flush: &Flush, vpid: u16) -> bool {
    match flush.kind {
        FlushKind::InvvpidAddress | FlushKind::InvvpidSingle | FlushKind::InvvpidRetainGlobals => flush.vpid == vpid,
        FlushKind::InvvpidAll => vpid != 0,
        FlushKind::Transition => vpid == 0,
        FlushKind::InveptSingle | FlushKind::InveptAll => false,
    }
}

/// Whether silicon may go on using what it cached of `old` when the entry has become `new`, so that INVEPT is needed.
/// See: SDM "Guidelines for Use of the INVEPT Instruction".
pub(super) fn needs_invept(change: &EptChange) -> bool {
    const PERMISSIONS: u64 = 7 | 1 << 10;
    const TRANSLATION: u64 = 0x000f_ffff_ffff_f000 | 1 << 7;
    const LEAF: u64 = 0x78;
    const ACCESSED_DIRTY: u64 = 3 << 8;
    let (old, new) = (change.old, change.new);
    let misconfigured = old & 3 == 2;
    if !EptEntry::from_bits(old).present() || misconfigured {
        return false;
    }
    let leaf = change.size <= 4096 || old & 1 << 7 != 0;
    let shown = TRANSLATION | if leaf { LEAF } else { 0 };
    let recorded = if Eptp::from_bits(change.eptp02).accessed_dirty() { ACCESSED_DIRTY } else { 0 };
    (old & !new) & (PERMISSIONS | recorded) != 0 || (old ^ new) & shown != 0
}

impl Cpu {
    /// A guest ran under these tags. `ep4ta` is 0 without EPT.
    pub(super) fn ran(&mut self, tag: Tag, owner: Owner, view: View, event: u64) {
        let held = self.tags.entry(tag).or_insert_with(|| Held { owners: Vec::new(), last_run: event });
        held.last_run = event;
        if !held.owners.contains(&owner) {
            held.owners.push(owner);
        }
        if tag.ep4ta != 0 {
            let root = self.roots.entry(tag.ep4ta).or_default();
            root.last_run = event;
            root.views.insert(view);
            root.vcpu = owner.vcpu;
        }
    }

    /// A guest ran under these tags once more.
    pub(super) fn ran_again(&mut self, tag: Tag, vcpu: u16, event: u64) {
        if let Some(held) = self.tags.get_mut(&tag) {
            held.last_run = held.last_run.max(event);
        }
        if let Some(root) = self.roots.get_mut(&tag.ep4ta).filter(|root| root.last_run < event) {
            (root.last_run, root.vcpu) = (event, vcpu);
        }
    }

    /// An EPT02 entry under `root` changed; `mapped` is the event that it was mapped at, where that is known.
    pub(super) fn changed(&mut self, root: u64, change: &EptChange, mapped: Option<u64>, asked: bool) {
        let Some(root) = self.roots.get_mut(&root) else { return };
        // What was mapped after the last run was never used.
        if mapped.is_some_and(|mapped| mapped > root.last_run) {
            return;
        }
        let pending = &mut root.pending;
        if needs_invept(change) {
            pending.needed += 1;
            pending.first.get_or_insert(*change);
            pending.asked = asked;
            pending.reported = false;
        } else if matches!(change.op, EptOp::Sync | EptOp::Zap) {
            pending.harmless += 1;
        }
    }

    /// Drops what INVEPT of `root`, or of all roots, must drop.
    pub(super) fn invept(&mut self, root: Option<u64>) {
        match root {
            Some(root) => {
                self.roots.remove(&root);
                self.tags.retain(|tag, _| tag.ep4ta != root || root == 0);
            }
            None => {
                self.roots.clear();
                self.tags.retain(|tag, _| tag.ep4ta == 0);
            }
        }
    }

    /// What a flush of linear and combined mappings covers, dropped where it drops all of a tag.
    pub(super) fn invvpid(&mut self, flush: &Flush) -> Vec<(Tag, Held)> {
        let covered: Vec<(Tag, Held)> = self
            .tags
            .iter()
            .filter(|(tag, _)| covers(flush, tag.vpid))
            .map(|(tag, held)| (*tag, held.clone()))
            .collect();
        if !matches!(flush.kind, FlushKind::InvvpidAddress | FlushKind::InvvpidRetainGlobals) {
            self.tags.retain(|tag, _| !covers(flush, tag.vpid));
        }
        covered
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(old: u64, new: u64, needed: bool) {
        let change = EptChange { op: EptOp::Sync, eptp12: 0, eptp02: 0x101e, gpa: 0, size: 4096, old, new };
        assert_eq!(needs_invept(&change), needed, "{old:#x} -> {new:#x}");
    }

    #[test]
    fn invept_is_needed_after_what_the_guidelines_list() {
        check(0x5037, 0x5037, false);
        check(0x5037, 0x5035, true); // write taken away
        check(0x5035, 0x5037, false); // write added
        check(0x5037, 0x6037, true); // another page
        check(0x5037, 0x5007, true); // another memory type
        check(0x5037, 0x5077, true); // IPAT
        check(0x5037, 0, true); // removed
        check(0, 0x5037, false); // was not present
        check(0x5032, 0x5037, false); // was misconfigured: write without read
        check(0x5137, 0x5037, false); // accessed cleared, without A/D under this root
        let mut with_ad =
            EptChange { op: EptOp::Sync, eptp12: 0, eptp02: 0x105e, gpa: 0, size: 4096, old: 0x5137, new: 0x5037 };
        assert!(needs_invept(&with_ad));
        with_ad.old = 0x5037;
        assert!(!needs_invept(&with_ad));
    }
}
