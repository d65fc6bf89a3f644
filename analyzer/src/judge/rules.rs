//! The rules. See: SDM "Guidelines for Use of the INVVPID Instruction", "Guidelines for Use of the INVEPT Instruction".
//!
//! A flush of mappings that nobody could misuse is judged when the tag is entered next: were its contents kept, would
//! the guest that is entered find what it must not? A tag that is never entered again needed no flush.

use super::Judged;
use super::guests::{Guests, Owner, View, Vpid12};
use super::tlb::{Cpu, Held, Pending, Root, Tag, covers, ep4ta, is_invept, needs_invept, width};
use super::untold::Untold;
use super::words::{JudgedBy, Rule, Verdict};
use hv_defs::event::{Actor, Cause, Entry, EptChange, EptOp, Event, Flush, FlushKind, Stamp, VmcsAccess, What};
use std::collections::{BTreeMap, BTreeSet};

/// A flush whose tags were dropped and not yet entered again.
#[derive(Debug)]
struct Waiting {
    judged: Judged,
    pcpu: u16,
    tags: Vec<(Tag, Held)>,
    unknown: bool,
    same: bool,
}

/// L1's own INVEPT or INVVPID, judged when L0 has handled it.
#[derive(Debug)]
struct Asked {
    judged: Judged,
    cached: Option<bool>,
    needed: u32,
    harmless: u32,
}

/// A flush of a root that is loaded, until the root is entered next.
#[derive(Debug)]
struct Loaded {
    judged: Judged,
    pcpu: u16,
    root: u64,
    views: BTreeSet<View>,
}

/// An entry that was judged when nothing has changed since: another one like it changes nothing but when it was.
#[derive(Debug)]
struct Recent {
    vcpu: u16,
    pcpu: u16,
    entry: (u8, u64, u16, u64),
    last: u64,
}

impl Recent {
    /// What tells entries apart that are judged by themselves.
    fn key(entry: &Entry) -> (u8, u64, u16, u64) {
        (entry.level, entry.vmcs12, entry.vpid, entry.eptp)
    }
}

/// How many entries are remembered: a guest hypervisor and a few guests that it goes to and fro between.
const RECENT: usize = 8;

#[derive(Debug, Default)]
pub(super) struct Judge {
    pub(super) given: Vec<Judged>,
    /// What there is to know where tags are not told.
    pub(super) untold: Untold,
    cpus: BTreeMap<u16, Cpu>,
    guests: Guests,
    /// The last entry, while it is not known what it dropped by itself.
    entry: Option<(u64, Stamp, Entry)>,
    /// For each EPT02 root with events, the EP4TA of its EPT12.
    roots: BTreeMap<u64, u64>,
    /// When each EPT02 entry was mapped: by root, address and size.
    mapped: BTreeMap<(u64, u64, u64), u64>,
    waiting: Vec<Waiting>,
    loaded: Vec<Loaded>,
    asked: BTreeMap<u16, Vec<Asked>>,
    /// When each vCPU's L1 last entered a guest that it does not tag.
    untagged: BTreeMap<u16, u64>,
    /// When each vCPU's L1 was last entered.
    l1_ran: BTreeMap<u16, u64>,
    /// vCPUs whose L2 ran.
    nested: BTreeSet<u16>,
    /// Entries whose like need not be judged again, and when each of them was last.
    recent: Vec<Recent>,
}

fn judged(event: u64, at: Stamp, flush: &Flush, rule: Rule) -> Judged {
    Judged {
        event,
        at,
        flush: *flush,
        verdict: rule.verdict(),
        judged_by: JudgedBy::Rule,
        rule,
        narrower: None,
        known_by: None,
    }
}

impl Judge {
    pub(super) fn see(&mut self, number: u64, event: &Event) {
        let at = event.at;
        let rule = self.untold.see(at, &event.what);
        if self.untold.is() {
            if let (Some(rule), What::Flush(flush)) = (rule, &event.what) {
                self.given.push(judged(number, at, flush, rule));
            }
            return;
        }
        // What an entry drops by itself is told behind the entry, and was dropped before the guest ran.
        if let What::Flush(Flush { cause: Cause::HardwareEntry, .. }) = event.what {
            let entry = self.entry.take_if(|(_, entered, _)| entered.pcpu == at.pcpu);
            self.enter();
            self.entry = entry;
        } else {
            self.enter();
        }
        match &event.what {
            What::Entry(entry) if entry.failed.is_none() => self.entry = Some((number, at, *entry)),
            What::Vmcs(access) => self.access(access),
            What::Vpid(vpid) => self.guests.mapped(at.vcpu, vpid.vpid12, vpid.vpid02),
            What::Ept(change) => {
                self.forget();
                self.changed(number, at, change);
            }
            What::Flush(flush) => {
                self.forget();
                match flush.actor {
                    Actor::L0 => self.flushed(number, at, flush),
                    _ => self.guest_flushed(number, at, flush),
                }
            }
            _ => {}
        }
    }

    /// An access, behind what came before.
    pub(super) fn access(&mut self, access: &VmcsAccess) {
        if self.guests.access(access) {
            self.forget();
        }
    }

    /// Writes down when the recent entries were.
    fn write_back(&mut self) {
        for Recent { vcpu, pcpu, entry: (level, _, vpid, eptp), last } in &self.recent {
            let tag = Tag { vpid: *vpid, ep4ta: ep4ta(*eptp) };
            if *level == 1 {
                let ran = self.l1_ran.entry(*vcpu).or_default();
                *ran = (*ran).max(*last);
            }
            self.cpus.entry(*pcpu).or_default().ran_again(tag, *vcpu, *last);
        }
    }

    /// What comes may have an entry like a recent one judged in another way.
    fn forget(&mut self) {
        self.write_back();
        self.recent.clear();
    }

    /// Some event came. Returns whether an entry was pending.
    pub(super) fn went_on(&mut self) -> bool {
        let pending = self.entry.is_some();
        self.enter();
        pending
    }

    pub(super) fn close(&mut self) {
        self.enter();
        for vcpu in self.asked.keys().copied().collect::<Vec<_>>() {
            self.answer(vcpu);
        }
        for waiting in core::mem::take(&mut self.waiting) {
            let rule = match (waiting.unknown, waiting.same) {
                (true, _) => Rule::NoEvidence,
                (false, true) => Rule::SameOwner,
                (false, false) => Rule::NotUsedAgain,
            };
            self.given.push(Judged { rule, verdict: rule.verdict(), ..waiting.judged });
        }
        self.given.extend(core::mem::take(&mut self.loaded).into_iter().map(|loaded| loaded.judged));
    }

    fn enter(&mut self) {
        let Some((number, at, entry)) = self.entry.take() else { return };
        let key = Recent::key(&entry);
        let known = |recent: &&mut Recent| (recent.vcpu, recent.pcpu, recent.entry) == (at.vcpu, at.pcpu, key);
        let mapped = self.guests.take_mapped(at.vcpu);
        if mapped.is_none()
            && let Some(recent) = self.recent.iter_mut().find(known)
        {
            recent.last = number;
            return;
        }
        self.enter_anew(number, at, &entry, mapped);
    }

    /// As [`Judge::enter`], of one that is not as a recent one.
    fn enter_anew(&mut self, number: u64, at: Stamp, entry: &Entry, mapped: Option<(u16, u16)>) {
        self.write_back();
        self.answer(at.vcpu);
        let owner = self.guests.entered(at.vcpu, entry, mapped);
        let tag = Tag { vpid: entry.vpid, ep4ta: ep4ta(entry.eptp) };
        let view = self.guests.view(entry);
        self.settle(at.pcpu, tag, owner);
        self.settle_root(at.pcpu, tag.ep4ta, view);
        if owner.level >= 2 {
            self.nested.insert(at.vcpu);
            if owner.vpid12 == Vpid12::Off {
                self.untagged.insert(at.vcpu, number);
            }
            self.missing(number, at, tag.ep4ta);
        }
        self.unflushed(number, at, tag, owner, view);
        if owner.level == 1 {
            self.l1_ran.insert(at.vcpu, number);
        }
        self.cpus.entry(at.pcpu).or_default().ran(tag, owner, view, number);
        // A guest that its hypervisor does not tag has each of its entries looked at, and what the map of VPIDs answered
        // holds for one.
        if owner.vpid12 != Vpid12::Off && mapped.is_none() {
            if self.recent.len() == RECENT {
                self.recent.remove(0);
            }
            self.recent.push(Recent { vcpu: at.vcpu, pcpu: at.pcpu, entry: Recent::key(entry), last: number });
        }
    }

    /// A root is entered: what does that say of the flushes for its being loaded?
    fn settle_root(&mut self, pcpu: u16, root: u64, view: View) {
        let given = &mut self.given;
        self.loaded.retain(|loaded| {
            if (loaded.pcpu, loaded.root) != (pcpu, root) {
                return true;
            }
            let unknown = |view: &View| matches!(view, View::Unknown(_));
            let rule = if loaded.views.iter().all(|other| *other == view) {
                Rule::RootSwitch
            } else if loaded.views.iter().any(unknown) || unknown(&view) {
                Rule::NoEvidence
            } else {
                Rule::OtherApicPage
            };
            given.push(Judged { rule, verdict: rule.verdict(), ..loaded.judged });
            false
        });
    }

    /// A tag is entered: what does that say of the flushes that dropped its contents?
    fn settle(&mut self, pcpu: u16, tag: Tag, owner: Owner) {
        let untagged = self.untagged.get(&owner.vcpu).copied();
        let given = &mut self.given;
        self.waiting.retain_mut(|waiting| {
            if waiting.pcpu != pcpu {
                return true;
            }
            let Some(at) = waiting.tags.iter().position(|(dropped, _)| *dropped == tag) else { return true };
            let (_, held) = waiting.tags.swap_remove(at);
            let unknown = |owner: &Owner| matches!(owner.vpid12, Vpid12::Unknown(_));
            let required = if owner.vpid12 == Vpid12::Off
                || owner.vpid12 == Vpid12::NotNested && untagged.is_some_and(|entry| entry > held.last_run)
            {
                Some(Rule::Untagged)
            } else if unknown(&owner) || held.owners.iter().any(|other| unknown(other) && other.level == owner.level) {
                waiting.unknown = true;
                None
            } else if held.owners.iter().any(|other| *other != owner) {
                Some(Rule::OtherOwner)
            } else {
                waiting.same = true;
                None
            };
            let rule = match required {
                Some(rule) => rule,
                None if !waiting.tags.is_empty() => return true,
                None if waiting.unknown => Rule::NoEvidence,
                None => Rule::SameOwner,
            };
            given.push(Judged { rule, verdict: rule.verdict(), ..waiting.judged });
            false
        });
    }

    /// L2 is entered under a root: is a flush of it missing?
    fn missing(&mut self, number: u64, at: Stamp, root: u64) {
        let Some(cpu) = self.cpus.get_mut(&at.pcpu) else { return };
        let Some(pending) = cpu.roots.get_mut(&root).map(|root| &mut root.pending) else { return };
        let Some(first) = pending.first.filter(|_| pending.needed > 0 && !pending.reported) else { return };
        pending.reported = true;
        // L1 owes the flush of what it changed in EPT12, unless it asked for it and L0 did not act.
        let actor = if pending.asked { Actor::L0 } else { Actor::L1 };
        let cause = if first.op == EptOp::Zap { Cause::EptZap } else { Cause::EptSync };
        let eptp = if pending.asked { first.eptp02 } else { first.eptp12 };
        let kind = FlushKind::InveptSingle;
        let flush = Flush { kind, cause, actor, vpid: 0, eptp, address: first.gpa, dropped: 0 };
        self.given.push(judged(number, at, &flush, Rule::NotFlushed));
    }

    /// A guest is entered: does the tag or the root hold what it must not find? Told once for each guest between flushes.
    fn unflushed(&mut self, number: u64, at: Stamp, tag: Tag, owner: Owner, view: View) {
        let Some(cpu) = self.cpus.get(&at.pcpu) else { return };
        let unknown = |owner: &Owner| matches!(owner.vpid12, Vpid12::Unknown(_));
        let mut add = |kind, cause, eptp, rule| {
            let vpid = if is_invept(kind) { 0 } else { tag.vpid };
            let flush = Flush { kind, cause, actor: Actor::L0, vpid, eptp, address: 0, dropped: 0 };
            self.given.push(judged(number, at, &flush, rule));
        };
        // What has no VPID silicon drops by itself.
        if tag.vpid != 0
            && let Some(held) = cpu.tags.get(&tag).filter(|held| !unknown(&owner) && !held.owners.iter().any(unknown))
        {
            let single = FlushKind::InvvpidSingle;
            let l1_between = self.l1_ran.get(&at.vcpu).is_some_and(|ran| *ran > held.last_run);
            if let Some(other) = held.owners.last().filter(|_| !held.owners.contains(&owner)) {
                let cause = match (other.level, owner.level) {
                    _ if other.vcpu != owner.vcpu => Cause::VpidFree,
                    (1, _) => Cause::NestedEntry,
                    (_, 1) => Cause::NestedExit,
                    _ => Cause::Vpid12Change,
                };
                add(single, cause, 0, Rule::TagNotFlushed);
            } else if owner.vpid12 == Vpid12::Off && l1_between {
                add(single, Cause::NestedEntry, 0, Rule::UntaggedNotFlushed);
            }
        }
        // Of the root of an EPT12, the APIC-access page is L1's to flush.
        if let Some(root) = cpu.roots.get(&tag.ep4ta).filter(|_| !self.roots.contains_key(&tag.ep4ta)) {
            let unknown = |view: &View| matches!(view, View::Unknown(_));
            let known = !unknown(&view) && !root.views.iter().any(unknown);
            if known && !root.views.is_empty() && !root.views.contains(&view) {
                add(FlushKind::InveptSingle, Cause::ApicAccessPage, tag.ep4ta, Rule::ApicPageNotFlushed);
            }
        }
    }

    fn changed(&mut self, number: u64, at: Stamp, change: &EptChange) {
        let root = ep4ta(change.eptp02);
        self.roots.insert(root, ep4ta(change.eptp12));
        let key = (root, change.gpa, change.size);
        match change.op {
            EptOp::Switch => return,
            EptOp::Map => {
                self.mapped.insert(key, number);
                return;
            }
            EptOp::Zap | EptOp::Sync => {}
        }
        let mut asked_now = false;
        for asked in self.asked.get_mut(&at.vcpu).into_iter().flatten() {
            if asked_covers(&asked.judged.flush, ep4ta(change.eptp12)) {
                asked_now = true;
                let count = if needs_invept(change) { &mut asked.needed } else { &mut asked.harmless };
                *count += 1;
            }
        }
        let mapped = self.mapped.get(&key).copied();
        for (&pcpu, cpu) in &mut self.cpus {
            // L1's INVEPT concerns its own CPU, wherever L0 has had that run.
            let ran = |held: &Root| held.vcpu == at.vcpu;
            let own = pcpu == at.pcpu || cpu.roots.get(&root).is_some_and(ran);
            cpu.changed(root, change, mapped, asked_now && own);
        }
        match change.op {
            EptOp::Zap => self.mapped.remove(&key),
            _ => self.mapped.insert(key, number).filter(|_| false),
        };
    }

    fn flushed(&mut self, number: u64, at: Stamp, flush: &Flush) {
        if is_invept(flush.kind) {
            let rule = self.judge_invept(at, flush);
            if rule == Rule::RootSwitch && flush.kind == FlushKind::InveptSingle {
                let root = ep4ta(flush.eptp);
                let cpu = self.cpus.entry(at.pcpu).or_default();
                let views = cpu.roots.get(&root).map(|held| held.views.clone()).unwrap_or_default();
                cpu.invept(Some(root));
                let judged = judged(number, at, flush, Rule::RootSwitch);
                self.loaded.push(Loaded { judged, pcpu: at.pcpu, root, views });
                return;
            }
            let root = (flush.kind == FlushKind::InveptSingle).then(|| ep4ta(flush.eptp));
            self.cpus.entry(at.pcpu).or_default().invept(root);
            let narrower = (rule.verdict() == Verdict::TooBroad).then_some(FlushKind::InveptSingle.name());
            self.given.push(Judged { narrower, ..judged(number, at, flush, rule) });
        } else {
            self.judge_invvpid(number, at, flush);
        }
    }

    fn judge_invept(&self, at: Stamp, flush: &Flush) -> Rule {
        let Some(cpu) = self.cpus.get(&at.pcpu) else { return Rule::NothingCached };
        let own_cause = matches!(flush.cause, Cause::EptZap | Cause::WriteProtect);
        if flush.kind == FlushKind::InveptSingle {
            let root = ep4ta(flush.eptp);
            let Some(held) = cpu.roots.get(&root) else { return Rule::NothingCached };
            return match held.pending {
                Pending { needed: 1.., .. } => Rule::MappingChanged,
                _ if own_cause && !self.roots.contains_key(&root) => Rule::PermissionLost,
                Pending { harmless: 1.., .. } => Rule::HarmlessChange,
                _ if flush.cause == Cause::RootLoad => Rule::RootSwitch,
                _ if self.roots.contains_key(&root) => Rule::NothingChanged,
                _ => Rule::NoEvidence,
            };
        }
        let changed = cpu.roots.values().filter(|root| root.pending.needed > 0).count();
        let harmless = cpu.roots.values().any(|root| root.pending.harmless > 0);
        let traced = |cpu: &Cpu| cpu.roots.keys().all(|root| self.roots.contains_key(root));
        let asked_single = self.asked.get(&at.vcpu).into_iter().flatten();
        let asked_single =
            asked_single.map(|asked| asked.judged.flush.kind).any(|kind| kind == FlushKind::InveptSingle);
        match (cpu.roots.len(), changed) {
            (0, _) => Rule::NothingCached,
            (2.., 1) => Rule::OneRoot,
            (roots, 1..) if flush.cause == Cause::InveptEmulation && asked_single && roots > 1 => Rule::WiderThanAsked,
            (_, 1..) => Rule::MappingChanged,
            (1, 0) if own_cause && !traced(cpu) => Rule::PermissionLost,
            // L1's INVEPT is about EPT12s, all of whose effects on EPT02s are traced.
            (_, 0) if flush.cause == Cause::InveptEmulation && harmless => Rule::HarmlessChange,
            (_, 0) if flush.cause == Cause::InveptEmulation => Rule::NothingChanged,
            (_, 0) if flush.cause == Cause::RootLoad => Rule::RootSwitch,
            (_, 0) if traced(cpu) => {
                if harmless {
                    Rule::HarmlessChange
                } else {
                    Rule::NothingChanged
                }
            }
            _ => Rule::NoEvidence,
        }
    }

    fn judge_invvpid(&mut self, number: u64, at: Stamp, flush: &Flush) {
        let held = self.cpus.entry(at.pcpu).or_default().invvpid(flush);
        let asked = self.asked.get(&at.vcpu).into_iter().flatten().map(|asked| asked.judged.flush);
        let asked =
            asked.filter(|asked| !is_invept(asked.kind)).map(|asked| asked.kind).max_by_key(|kind| width(*kind));
        let mut narrower = None;
        let rule = match flush.cause {
            _ if held.is_empty() => Rule::NothingCached,
            Cause::InvvpidEmulation if asked.is_some_and(|asked| width(flush.kind) > width(asked)) => {
                narrower = asked
                    .map(|kind| if kind == FlushKind::InvvpidAll { FlushKind::InvvpidSingle } else { kind }.name());
                Rule::WiderThanAsked
            }
            Cause::InvvpidEmulation => Rule::GuestAsked,
            Cause::GuestPaging => Rule::GuestPaging,
            Cause::VpidRecycle | Cause::VpidFree => Rule::Recycled,
            Cause::Migration => Rule::Migrated,
            Cause::ApicAccessPage if held.iter().all(|(tag, held)| tag.ep4ta != 0 && held.owners.len() == 1) => {
                Rule::OwnRoot
            }
            _ => {
                let judged = judged(number, at, flush, Rule::NotUsedAgain);
                self.waiting.push(Waiting { judged, pcpu: at.pcpu, tags: held, unknown: false, same: false });
                return;
            }
        };
        self.given.push(Judged { narrower, ..judged(number, at, flush, rule) });
    }

    /// A guest's own flush: silicon drops nothing for it until L0 acts.
    fn guest_flushed(&mut self, number: u64, at: Stamp, flush: &Flush) {
        let row = judged(number, at, flush, Rule::NoEvidence);
        if flush.actor != Actor::L1 || flush.cause != Cause::Guest {
            self.given.push(row);
            return;
        }
        let mut asked = Asked { judged: row, cached: Some(false), needed: 0, harmless: 0 };
        let roots = &self.roots;
        if is_invept(flush.kind) {
            // What the vCPU left on other CPUs is L0's to flush when it comes back there.
            for (_, cpu) in self.cpus.iter_mut().filter(|(pcpu, _)| **pcpu != at.pcpu) {
                let own = |(root, held): &(&u64, &mut Root)| {
                    held.vcpu == at.vcpu && roots.get(root).is_some_and(|root12| asked_covers(flush, *root12))
                };
                cpu.roots.iter_mut().filter(own).for_each(|(_, held)| held.pending.asked = true);
            }
        }
        if let Some(cpu) = self.cpus.get_mut(&at.pcpu) {
            if is_invept(flush.kind) {
                for (root, held) in &mut cpu.roots {
                    let Some(&root12) = roots.get(root) else { continue };
                    if asked_covers(flush, root12) {
                        asked.cached = Some(true);
                        asked.needed += held.pending.needed;
                        asked.harmless += held.pending.harmless;
                        held.pending.asked = true;
                    }
                }
                if asked.cached == Some(false) && roots.is_empty() && self.nested.contains(&at.vcpu) {
                    asked.cached = None;
                }
            } else {
                let owners = cpu.tags.values().flat_map(|held| &held.owners);
                for owner in owners.filter(|owner| owner.vcpu == at.vcpu && owner.level >= 2) {
                    match owner.vpid12 {
                        Vpid12::Unknown(_) => asked.cached = None,
                        Vpid12::On(vpid) if covers(flush, vpid) => asked.cached = Some(true),
                        _ => {}
                    }
                    if asked.cached != Some(false) {
                        break;
                    }
                }
            }
        }
        self.asked.entry(at.vcpu).or_default().push(asked);
    }

    /// L0 has handled what the guest asked for: the vCPU goes on.
    fn answer(&mut self, vcpu: u16) {
        for asked in self.asked.remove(&vcpu).into_iter().flatten() {
            let invept = is_invept(asked.judged.flush.kind);
            let rule = match asked.cached {
                Some(false) => Rule::NothingCached,
                None => Rule::NoEvidence,
                Some(true) if !invept => Rule::NoEvidence,
                Some(true) if asked.needed > 0 => Rule::MappingChanged,
                Some(true) if asked.harmless > 0 => Rule::HarmlessChange,
                Some(true) => Rule::NothingChanged,
            };
            self.given.push(Judged { rule, verdict: rule.verdict(), ..asked.judged });
        }
    }
}

/// Whether L1's own INVEPT concerns this EPT12.
fn asked_covers(flush: &Flush, root12: u64) -> bool {
    match flush.kind {
        FlushKind::InveptAll => true,
        FlushKind::InveptSingle => ep4ta(flush.eptp) == root12,
        _ => false,
    }
}
