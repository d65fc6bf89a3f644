//! The rules. See: SDM "Guidelines for Use of the INVVPID Instruction", "Guidelines for Use of the INVEPT Instruction".
//!
//! A flush of mappings that nobody could misuse is judged when the tag is entered next: were its contents kept, would
//! the guest that is entered find what it must not? A tag that is never entered again needed no flush.

use super::Judged;
use super::guests::{Guests, Owner, View, Vpid12};
use super::tlb::{Cpu, Held, Pending, Tag, covers, ep4ta, is_invept, needs_invept, width};
use hv_defs::event::{Actor, Cause, Entry, EptChange, EptOp, Event, Flush, FlushKind, Stamp, What};
use std::collections::{BTreeMap, BTreeSet};

macro_rules! named {
    ($(#[$doc:meta])* $type:ident { $($(#[$variant_doc:meta])* $variant:ident = $name:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        pub enum $type {
            $($(#[$variant_doc])* $variant,)*
        }

        impl $type {
            /// Every value.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// Its name in tables and reports.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }
        }
    };
}
pub(crate) use named;

named! {
    /// What is said of a flush.
    Verdict {
        /// A flush that should have been made was not.
        Missing = "missing",
        /// Without it a guest could use a translation that it must not.
        Required = "required",
        /// A narrower flush would do.
        TooBroad = "too-broad",
        /// Nothing would change without it.
        Redundant = "redundant",
        /// The events do not tell.
        Unknown = "unknown",
    }
}

named! {
    /// What a verdict rests on.
    JudgedBy {
        /// The events alone.
        Rule = "rule",
        /// A second execution.
        Replay = "replay",
    }
}

macro_rules! rules {
    ($($(#[$doc:meta])* $variant:ident $name:literal $verdict:ident $why:literal;)*) => {
        named! {
            /// The rule that gave a verdict.
            Rule {
                $($(#[$doc])* $variant = $name,)*
            }
        }

        impl Rule {
            /// The verdict that it gives.
            pub const fn verdict(self) -> Verdict {
                match self {
                    $(Self::$variant => Verdict::$verdict,)*
                }
            }

            /// What it says, in one sentence.
            pub const fn why(self) -> &'static str {
                match self {
                    $(Self::$variant => $why,)*
                }
            }
        }
    };
}

rules! {
    /// See [`Rule::why`], as for all of them.
    NotFlushed "not-flushed" Missing
        "A present EPT02 entry that L2 may have used lost a permission or its page, and L2 was entered under that root again with no INVEPT between.";
    /// A tag in two hands, without a flush.
    TagNotFlushed "tag-not-flushed" Missing
        "A guest was entered under a tag that holds what another guest, which it must not see, has put there since the last flush.";
    /// A transition that L1 does not tag, without a flush.
    UntaggedNotFlushed "untagged-not-flushed" Missing
        "vmcs12 does not enable VPID, so L1 is owed a flush at the entry, and L2 was entered with what it had cached before L1 ran.";
    /// An APIC-access page in the mappings of a root that another is run under.
    ApicPageNotFlushed "apic-page-not-flushed" Missing
        "A guest was entered under a root of L0's that holds mappings made for a guest with another APIC-access page, or with none.";
    /// An EPT change that needs INVEPT.
    MappingChanged "mapping-changed" Required
        "A present EPT02 entry that a guest may have used under this root lost a permission or its page since the last flush.";
    /// The cause itself says that a permission was lost.
    PermissionLost "permission-lost" Required
        "L0 took a page or a permission from a root whose entries are not traced, and a guest had run under it.";
    /// An instruction of the guest that L0 must carry out.
    GuestAsked "guest-asked" Required
        "The guest's own INVVPID must drop what it names, and something had run under that tag since the last flush.";
    /// L0 emulates the guest's paging.
    GuestPaging "guest-paging" Required
        "L0 emulates a change that the guest made to its paging, and something had run under that tag.";
    /// A tag in two hands.
    OtherOwner "other-owner" Required
        "The tag held what another guest put there, and a guest that must not see it was entered under the tag next.";
    /// A transition that L1 does not tag.
    Untagged "untagged" Required
        "vmcs12 does not enable VPID, so L1 is owed a flush at each entry and exit of L2, and the tag was used again.";
    /// Mappings of one guest's APIC-access page, for another.
    OtherApicPage "other-apic-page" Required
        "Guests with different APIC-access pages, or with one and without, run under this root, so that the mappings that one leaves would serve the other.";
    /// A VPID that changed hands.
    Recycled "recycled" Required
        "A VPID was taken from its guest, to be another's, and something had run under it.";
    /// A vCPU that came back.
    Migrated "migrated" Required
        "The vCPU had run on this CPU before, and what its guest flushed elsewhere was not flushed here.";
    /// More than the guest asked for.
    WiderThanAsked "wider-than-asked" TooBroad
        "L0 carried out the guest's INVVPID or INVEPT with a wider type than the guest used.";
    /// One root of several.
    OneRoot "one-root" TooBroad
        "Entries changed under one root only, and other roots lost their mappings too.";
    /// Nothing to drop.
    NothingCached "nothing-cached" Redundant
        "Nothing ran under what it covers since the last flush that covered it.";
    /// The same guest.
    SameOwner "same-owner" Redundant
        "Only one guest runs under the tag, so a transition owes it no flush.";
    /// A tag that is not used again.
    NotUsedAgain "not-used-again" Redundant
        "Nothing was entered again under what it dropped.";
    /// No change.
    NothingChanged "nothing-changed" Redundant
        "No entry changed under the root since its last flush.";
    /// Only such changes as need none.
    HarmlessChange "harmless-change" Redundant
        "Since the root's last flush entries only gained permissions or had not been present.";
    /// A mere switch of roots.
    RootSwitch "root-switch" Redundant
        "Loading a root changes no entry, and mappings are tagged with their root.";
    /// L1's APIC-access page.
    OwnRoot "own-root" Redundant
        "L2 runs under an EPT root or a VPID of its own, so the APIC-access page of L1 is not in its mappings.";
    /// By replay: no flush, and a stale translation.
    StaleAccess "stale-access" Missing
        "A TLB that keeps what it may would have served an access by what the tables no longer say, and L0 or L1 owed the flush.";
    /// By replay.
    AccessDiffers "access-differs" Required
        "Without it an access in the rest of the run would have been served otherwise.";
    /// By replay.
    NarrowerServes "narrower-serves" TooBroad
        "All accesses that would have been served otherwise lie in the scope of a narrower type, and others of what it dropped were walked again for nothing.";
    /// By replay.
    NoAccessDiffers "no-access-differs" Redundant
        "Without it every access in the rest of the run would have been served the same.";
    /// By replay, and in the wrong place.
    WrongTarget "wrong-target" Redundant
        "It names an EPT pointer or a VPID other than what it was to be for, and every access would have been served the same without it.";
    /// The events do not tell.
    NoEvidence "no-evidence" Unknown
        "The events do not tell what changed or whose tag it is.";
}

impl Rule {
    /// What it rests on.
    pub const fn ground(self) -> JudgedBy {
        match self {
            Self::StaleAccess
            | Self::AccessDiffers
            | Self::NarrowerServes
            | Self::NoAccessDiffers
            | Self::WrongTarget => JudgedBy::Replay,
            _ => JudgedBy::Rule,
        }
    }

    /// Whether what it rests on had happened when the flush was made, so that L0 could have gone by it.
    pub const fn is_known_then(self) -> bool {
        !matches!(self.ground(), JudgedBy::Replay) && !matches!(self, Self::NotUsedAgain | Self::NoEvidence)
    }
}

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

#[derive(Debug, Default)]
pub(super) struct Judge {
    pub(super) given: Vec<Judged>,
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
            What::Vmcs(access) => self.guests.access(access),
            What::Vpid(vpid) => self.guests.mapped(at.vcpu, vpid.vpid12, vpid.vpid02),
            What::Ept(change) => self.changed(number, at, change),
            What::Flush(flush) if flush.actor == Actor::L0 => self.flushed(number, at, flush),
            What::Flush(flush) => self.guest_flushed(number, at, flush),
            _ => {}
        }
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
        self.answer(at.vcpu);
        let owner = self.guests.entered(at.vcpu, &entry);
        let tag = Tag { vpid: entry.vpid, ep4ta: ep4ta(entry.eptp) };
        let view = self.guests.view(&entry);
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
            let ran = |held: &super::tlb::Root| held.vcpu == at.vcpu;
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
                let own = |(root, held): &(&u64, &mut super::tlb::Root)| {
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
