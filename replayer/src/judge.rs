//! The judge by replay: for each flush, whether it was needed, from a second execution beside the adversarial TLB.
//!
//! A flush was **required** if an access in the rest of the run would have been served otherwise without it; **too broad**
//! if all such accesses lie in the scope of a narrower type, and others of what it dropped were walked again for nothing;
//! else **redundant**. One is **missing** where a TLB that keeps what it may would have served an access by what the
//! tables no longer say, and it was L0 that owed the flush: it changed an EPT, it gave a tag to another guest, it moved a
//! vCPU, or it did not carry out what a guest had asked for. What a guest owes itself, as INVLPG, is not counted.
//!
//! Beside flushes: where the policy has a nested entry bring an EPT02 in line with EPT12, whether it is. That is no matter
//! of what a TLB holds, so it is told by itself.
//!
//! See: [`hv::mmu::Adversary`].

use crate::recorded::Recorded;
use crate::{Divergence, Error, machine_of};
use core::ops::ControlFlow;
use hv::l0::Unsynced;
use hv::machine::Machine;
use hv::mmu::{Adversary, Finding, Part, Stale};
use hv::world::World;
use hv_defs::config::{Config, Log};
use hv_defs::controls::{PrimaryControls, SecondaryControls};
use hv_defs::ept::Eptp;
use hv_defs::event::{
    Actor, Cause, Entry, EptOp, Event, Flush, FlushKind, InputKind, NO_ADDRESS, Stamp, VmcsAccess, VmcsOp, What, Which,
};
use hv_defs::vmcs::{PRIMARY_CONTROLS, SECONDARY_CONTROLS, VPID};
use std::collections::{BTreeMap, BTreeSet};
use traces::Reader;

/// What is said of a flush.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Need {
    /// A flush that should have been made was not.
    Missing,
    /// Without it an access would have been served otherwise.
    Required,
    /// A narrower flush would do.
    TooBroad,
    /// No access would have been served otherwise.
    Redundant,
}

/// An access that proves a verdict.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Proof {
    /// The translation that is out of date.
    pub entry: Stale,
    /// The event of the VM entry whose guest would have used it.
    pub event: u64,
    /// That event's stamp.
    pub at: Stamp,
    /// The guest's level.
    pub level: u8,
}

/// A flush with its verdict, or a flush that is missing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Judged {
    /// The flush's event; for a missing one, the VM entry before which it should have been.
    pub event: u64,
    /// That event's stamp.
    pub at: Stamp,
    /// The flush; for a missing one, the flush that was owed, with who owed it as the actor: L1 where EPT02 changed with an
    /// EPT12 that L1 changed without INVEPT.
    pub flush: Flush,
    /// What is said of it.
    pub need: Need,
    /// Of a flush that is too broad, the kind that would do.
    pub narrower: Option<FlushKind>,
    /// The flush names an EPT pointer or a VPID other than that of what is entered next, for whose sake it was made.
    pub wrong_target: bool,
    /// The first accesses that prove it, up to [`PROOFS`]; none of a redundant one.
    pub proofs: Vec<Proof>,
    /// How many there are.
    pub proven: u64,
}

/// A nested entry under an EPT02 that is not what EPT12 says, though the policy has the entry bring it in line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OutOfLine {
    /// The event of the VM entry.
    pub event: u64,
    /// That event's stamp.
    pub at: Stamp,
    /// What differs.
    pub what: Unsynced,
}

/// What a judge by replay found.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Judgement {
    /// Every flush of L0's and every missing one, in the order of events.
    pub flushes: Vec<Judged>,
    /// EPT02s that were not brought in line, in the order of events.
    pub out_of_line: Vec<OutOfLine>,
    /// Translations that were out of date by the guests' own doing: they owe themselves the flush.
    pub guests_own: u64,
    /// The first difference between the recording and this run; what comes behind it is not judged by the recording.
    pub divergence: Option<Divergence>,
}

/// Proofs that are kept of each verdict.
pub const PROOFS: usize = 8;

/// Whose translations a tag holds, as L1 sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Vpid12 {
    NotNested,
    Off,
    On(u16),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Owner {
    vcpu: u16,
    level: u8,
    vpid12: Vpid12,
}

/// A VM entry.
#[derive(Clone, Copy, Debug)]
struct Entered {
    event: u64,
    at: Stamp,
    owner: Owner,
    /// The level, as the entry says it.
    level: u8,
    vpid: u16,
    eptp: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Controls {
    primary: u64,
    secondary: u64,
    vpid: u64,
}

/// What a guest asked for: its own flush, which L0 must carry out.
#[derive(Clone, Copy, Debug)]
struct Asked {
    /// Entries before it.
    entries: u64,
    vcpu: u16,
    flush: Flush,
}

/// A change of an EPT02 entry.
#[derive(Clone, Copy, Debug)]
struct Change {
    /// Bytes that the entry maps.
    size: u64,
    /// Entries before it.
    entries: u64,
    /// It only follows EPT12.
    follows: bool,
}

/// The world of a judged run: the recording's answers, and notes of what happens.
struct Court<'a> {
    pcpus: u16,
    recorded: Recorded<'a>,
    /// The recording has no VMCS accesses; this run has.
    without_vmcs: bool,
    /// The number of the event that is seen.
    number: u64,
    entries: Vec<Entered>,
    flushes: Vec<(u64, Stamp, Flush, u64)>,
    /// In the order of the entries before them.
    asked: Vec<Asked>,
    /// By vCPU, the numbers of entries of L1 and of L2s that L1 does not tag.
    plain: BTreeMap<u16, [Vec<u64>; 2]>,
    /// Changes of EPT02 entries, by EP4TA and address.
    changes: BTreeMap<(u64, u64), Vec<Change>>,
    /// VPIDs that L2s which L1 tags ran under.
    vpids02: BTreeSet<u16>,
    vmcs12: BTreeMap<u64, Controls>,
}

impl Court<'_> {
    fn access(&mut self, access: &VmcsAccess) {
        if access.which != Which::Vmcs12 || !matches!(access.op, VmcsOp::Read | VmcsOp::Write) {
            return;
        }
        let controls = self.vmcs12.entry(access.address).or_default();
        if access.field == PRIMARY_CONTROLS.field() {
            controls.primary = access.value;
        } else if access.field == SECONDARY_CONTROLS.field() {
            controls.secondary = access.value;
        } else if access.field == VPID.field() {
            controls.vpid = access.value;
        }
    }

    fn owner(&self, vcpu: u16, entry: &Entry) -> Owner {
        let vpid12 = if entry.vmcs12 == NO_ADDRESS {
            Vpid12::NotNested
        } else {
            let Controls { primary, secondary, vpid } = self.vmcs12.get(&entry.vmcs12).copied().unwrap_or_default();
            let tagged = primary & u64::from(PrimaryControls::ACTIVATE_SECONDARY.bits()) != 0
                && secondary & u64::from(SecondaryControls::VPID.bits()) != 0;
            if tagged { Vpid12::On(vpid as u16) } else { Vpid12::Off }
        };
        // For L0 all of L1's VMCSs are alike, and so are their guests: what tells them apart is the VPID.
        Owner { vcpu, level: entry.level.min(2), vpid12 }
    }

    fn see(&mut self, event: &Event) {
        let (number, at) = (self.number, event.at);
        match &event.what {
            What::Vmcs(access) => {
                self.access(access);
            }
            What::Entry(entry) if entry.failed.is_none() => {
                let owner = self.owner(at.vcpu, entry);
                let Entry { level, vpid, eptp, .. } = *entry;
                let place = self.entries.len() as u64;
                match owner.vpid12 {
                    Vpid12::NotNested => self.plain.entry(at.vcpu).or_default()[0].push(place),
                    Vpid12::Off => self.plain.entry(at.vcpu).or_default()[1].push(place),
                    Vpid12::On(_) => _ = self.vpids02.insert(vpid),
                }
                self.entries.push(Entered { event: number, at, owner, level, vpid, eptp });
            }
            What::Ept(change) if matches!(change.op, EptOp::Sync | EptOp::Zap) => {
                let key = (Eptp::from_bits(change.eptp02).ep4ta(), change.gpa);
                let (entries, follows) = (self.entries.len() as u64, change.op == EptOp::Sync);
                let row = Change { size: change.size, entries, follows };
                self.changes.entry(key).or_default().push(row);
            }
            What::Flush(flush) if flush.actor == Actor::L0 => {
                self.flushes.push((number, at, *flush, self.entries.len() as u64));
            }
            What::Flush(flush) if flush.cause == Cause::Guest => {
                let entries = self.entries.len() as u64;
                self.asked.push(Asked { entries, vcpu: at.vcpu, flush: *flush });
            }
            _ => {}
        }
    }
}

impl World for Court<'_> {
    fn events(&mut self, events: &[Event]) -> ControlFlow<()> {
        for event in events {
            // It is lenient: what it found is asked for at the end.
            if !(self.without_vmcs && matches!(event.what, What::Vmcs(_))) {
                let _ = World::events(&mut self.recorded, core::slice::from_ref(event));
            }
            // The recording may have answers of silicon's between, which this machine does not tell of.
            self.number = self.recorded.events().saturating_sub(1);
            self.see(event);
        }
        // Behind a difference nothing is the recording's.
        if self.recorded.is_over() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    fn console(&mut self, _: &[u8]) {}

    fn input(&mut self, poll: u64, now: u64, idle_until: Option<u64>) -> Option<(InputKind, u64)> {
        self.recorded.input(poll, now, idle_until)
    }
}

/// What was found of one flush.
#[derive(Debug, Default)]
struct Case {
    proofs: Vec<Stale>,
    proven: u64,
    vpids: BTreeSet<u16>,
    roots: BTreeSet<Option<u64>>,
    /// Pages of proofs, two at most.
    pages: BTreeSet<u64>,
    /// Something that it dropped was walked again for nothing.
    same: bool,
}

/// Runs the guest of a trace again beside the adversarial TLB, and says of each flush whether it was needed.
///
/// # Errors
/// The machine cannot be built, or the trace is damaged.
pub fn judge(reader: &Reader) -> Result<Judgement, Error> {
    judge_watched(reader, &mut |_| {})
}

/// As [`judge`]; `progress` is told, now and then, how many events have been seen.
///
/// # Errors
/// As [`judge`].
pub fn judge_watched(reader: &Reader, progress: &mut dyn FnMut(u64)) -> Result<Judgement, Error> {
    let own = &reader.header().config;
    let without_vmcs = own.log == Log::Exits;
    let config = Config { log: if without_vmcs { Log::Vmcs } else { own.log }, ..own.clone() };
    let mut machine = machine_of(reader.header(), &config)?;
    machine.silicon().set_adversary(Adversary::default);
    machine.audit();
    let mut court = Court {
        pcpus: config.pcpus,
        recorded: Recorded::new(reader, None, Box::new(progress))?.lenient(),
        without_vmcs,
        number: 0,
        entries: Vec::new(),
        flushes: Vec::new(),
        asked: Vec::new(),
        plain: BTreeMap::new(),
        changes: BTreeMap::new(),
        vpids02: BTreeSet::new(),
        vmcs12: BTreeMap::new(),
    };
    machine.run(&mut court);
    if let Some(source) = court.recorded.take_failure() {
        return Err(Error::Trace { event: court.recorded.events(), source });
    }
    Ok(judgement(&mut machine, &court))
}

fn judgement(machine: &mut Machine, court: &Court<'_>) -> Judgement {
    let mut cases: BTreeMap<u64, Case> = BTreeMap::new();
    let mut missing: BTreeMap<(u64, u16, FlushKind, u64), Judged> = BTreeMap::new();
    let mut guests_own = 0;
    for cpu in 0..usize::from(court.pcpus) {
        let found = machine.silicon().mmu(cpu).adversary().map(|adversary| adversary.take()).unwrap_or_default();
        for finding in found {
            match finding {
                Finding::Needed { flush, entry } => {
                    let case = cases.entry(flush).or_default();
                    case.proven += 1;
                    case.vpids.insert(entry.tag.vpid);
                    case.roots.insert(entry.tag.ep4ta);
                    if case.pages.len() < 2 {
                        case.pages.insert(entry.address);
                    }
                    if case.proofs.len() < PROOFS {
                        case.proofs.push(entry);
                    }
                }
                Finding::Same { flush } => cases.entry(flush).or_default().same = true,
                Finding::Missing { entry, part } => match owed(court, &entry, part) {
                    None => guests_own += 1,
                    Some((cause, flush)) => {
                        let Some(used) = court.entries.get(entry.used as usize) else { continue };
                        let key = (used.event, flush.vpid, flush.kind, flush.eptp);
                        let judged = missing.entry(key).or_insert_with(|| Judged {
                            event: used.event,
                            at: used.at,
                            flush: Flush { cause, ..flush },
                            need: Need::Missing,
                            narrower: None,
                            wrong_target: false,
                            proofs: Vec::new(),
                            proven: 0,
                        });
                        judged.proven += 1;
                        if judged.proofs.len() < PROOFS {
                            judged.proofs.extend(proof(court, entry));
                        }
                    }
                },
            }
        }
    }
    let mut flushes: Vec<Judged> = Vec::with_capacity(court.flushes.len());
    for (number, (event, at, flush, entries)) in (0..).zip(&court.flushes) {
        let case = cases.remove(&number).unwrap_or_default();
        let asked = asked_for(court, *at, flush, *entries);
        let narrower = narrower(flush, &case, asked);
        let need = match (case.proven, narrower) {
            (0, _) => Need::Redundant,
            (_, Some(_)) => Need::TooBroad,
            (_, None) => Need::Required,
        };
        flushes.push(Judged {
            event: *event,
            at: *at,
            flush: *flush,
            need,
            narrower: narrower.filter(|_| need == Need::TooBroad),
            wrong_target: is_wrong_target(court, *at, flush, *entries),
            proofs: case.proofs.into_iter().filter_map(|entry| proof(court, entry)).collect(),
            proven: case.proven,
        });
    }
    flushes.extend(missing.into_values());
    flushes.sort_by_key(|judged| (judged.event, judged.need == Need::Missing));
    let out_of_line = out_of_line(court, machine.take_audit());
    Judgement { flushes, out_of_line, guests_own, divergence: court.recorded.divergence().cloned() }
}

/// What the audit found, by the VM entries that followed: L0 takes no instructions.
fn out_of_line(court: &Court<'_>, found: Vec<Unsynced>) -> Vec<OutOfLine> {
    let mut from = 0;
    let placed = found.into_iter().filter_map(|what| {
        from += court.entries[from..].partition_point(|entry| entry.at.instruction < what.instruction);
        let mut same = court.entries[from..].iter().take_while(|entry| entry.at.instruction == what.instruction);
        let entry = same.find(|entry| entry.at.vcpu == what.vcpu && entry.owner.level > 1)?;
        Some(OutOfLine { event: entry.event, at: entry.at, what })
    });
    placed.collect()
}

fn proof(court: &Court<'_>, entry: Stale) -> Option<Proof> {
    // The last entry of a run that was broken off is told of by no event.
    let used = court.entries.get(entry.used as usize)?;
    Some(Proof { entry, event: used.event, at: used.at, level: used.level })
}

/// Whether a guest asked for a flush as wide as this one, which carries it out.
fn asked_for(court: &Court<'_>, at: Stamp, flush: &Flush, entries: u64) -> bool {
    match flush.cause {
        // Silicon does it by itself.
        Cause::HardwareEntry | Cause::HardwareExit => true,
        Cause::InveptEmulation | Cause::InvvpidEmulation => {
            let before = court.asked.partition_point(|asked| asked.entries <= entries);
            let last = court.asked[..before].iter().rev().take(64).find(|asked| asked.vcpu == at.vcpu);
            last.is_none_or(|asked| {
                let width = |kind| match kind {
                    FlushKind::InvvpidAddress => 0,
                    FlushKind::InvvpidRetainGlobals => 1,
                    // All of L1's VPIDs may be one of silicon's.
                    _ => 2,
                };
                width(flush.kind) <= width(asked.flush.kind)
            })
        }
        _ => false,
    }
}

/// A type of flush that would have done, and would have spared something.
fn narrower(flush: &Flush, case: &Case, asked: bool) -> Option<FlushKind> {
    if case.proven == 0 || !case.same || asked {
        return None;
    }
    match flush.kind {
        FlushKind::InvvpidAll | FlushKind::InvvpidSingle | FlushKind::InvvpidRetainGlobals
            if case.vpids.len() == 1 && case.pages.len() == 1 =>
        {
            Some(FlushKind::InvvpidAddress)
        }
        FlushKind::InvvpidAll if case.vpids.len() == 1 => Some(FlushKind::InvvpidSingle),
        FlushKind::InveptAll if case.roots.len() == 1 => Some(FlushKind::InveptSingle),
        _ => None,
    }
}

/// Whether a flush that is made for what is entered next names something else.
fn is_wrong_target(court: &Court<'_>, at: Stamp, flush: &Flush, entries: u64) -> bool {
    let next = court.entries[entries as usize..].iter().find(|entry| entry.at.vcpu == at.vcpu);
    let Some(next) = next else { return false };
    match flush.cause {
        Cause::RootLoad => {
            flush.kind == FlushKind::InveptSingle
                && Eptp::from_bits(flush.eptp).ep4ta() != Eptp::from_bits(next.eptp).ep4ta()
        }
        // What L1 asks for concerns its L2s, and never L1's own translations where these have a VPID of their own.
        Cause::InvvpidEmulation => match flush.kind {
            FlushKind::InveptSingle | FlushKind::InveptAll => true,
            _ => {
                next.owner.level == 1 && flush.vpid == next.vpid && court.vpids02.iter().any(|vpid| *vpid != next.vpid)
            }
        },
        Cause::InveptEmulation => !matches!(flush.kind, FlushKind::InveptSingle | FlushKind::InveptAll),
        _ => false,
    }
}

impl Court<'_> {
    /// Whether the EPT02 entry of a translation changed only since L1 had changed EPT12, and L1 asked for no INVEPT since:
    /// it may then meet what it had, as on hardware.
    fn follows_ept12(&self, entry: &Stale) -> bool {
        let root = entry.tag.ep4ta.unwrap_or_default();
        let Some(((_, gpa), changes)) = self.changes.range((root, 0)..=(root, entry.gpa)).next_back() else {
            return false;
        };
        if changes.iter().all(|change| entry.gpa - gpa >= change.size) {
            return false;
        }
        let here = |change: &&Change| change.entries > entry.walked && change.entries <= entry.used;
        let mut changes = changes.iter().filter(here).peekable();
        let Some(first) = changes.peek().map(|change| change.entries) else { return false };
        let asked = self.asked.partition_point(|asked| asked.entries < first);
        let until = self.asked.partition_point(|asked| asked.entries <= entry.used);
        let invept = |asked: &Asked| matches!(asked.flush.kind, FlushKind::InveptSingle | FlushKind::InveptAll);
        changes.all(|change| change.follows) && !self.asked[asked..until].iter().any(invept)
    }
}

/// The flush that was owed, by its actor, and why; `None` where the guest owed it to itself.
fn owed(court: &Court<'_>, entry: &Stale, part: Part) -> Option<(Cause, Flush)> {
    let (walked, used) = (court.entries.get(entry.walked as usize)?, court.entries.get(entry.used as usize)?);
    let none = Flush {
        kind: FlushKind::InvvpidSingle,
        cause: Cause::NestedEntry,
        actor: Actor::L0,
        vpid: used.vpid,
        eptp: 0,
        address: 0,
        dropped: 0,
    };
    // A tag that goes from one L2 to another must be flushed, whichever tables the two differ in.
    let handed_over = !entry.guest_physical
        && walked.owner.vcpu == used.owner.vcpu
        && matches!((walked.owner.vpid12, used.owner.vpid12), (Vpid12::On(before), Vpid12::On(now)) if before != now);
    if part == Part::Ept && !handed_over {
        let flush = Flush { kind: FlushKind::InveptSingle, vpid: 0, eptp: used.eptp, address: entry.gpa, ..none };
        let cause = if walked.owner == used.owner { Cause::EptZap } else { Cause::ApicAccessPage };
        return Some(match court.follows_ept12(entry) {
            true => (Cause::EptSync, Flush { actor: Actor::L1, ..flush }),
            false => (cause, flush),
        });
    }
    if walked.owner.vcpu != used.owner.vcpu {
        return Some((Cause::VpidFree, none));
    }
    if walked.owner != used.owner {
        let cause = match (walked.owner.level, used.owner.level) {
            (1, 1) => Cause::GuestPaging,
            (1, _) => Cause::NestedEntry,
            (_, 1) => Cause::NestedExit,
            _ => Cause::Vpid12Change,
        };
        return Some((cause, none));
    }
    let owner = used.owner;
    let since = |number: u64| court.asked.partition_point(|asked| asked.entries <= number);
    let mut asked = court.asked[since(entry.walked)..since(entry.used)].iter().filter(|asked| asked.vcpu == owner.vcpu);
    let covers = |asked: &Asked| match (asked.flush.kind, owner.vpid12) {
        (FlushKind::InveptAll, Vpid12::On(_) | Vpid12::Off) => true,
        (FlushKind::InvvpidAll, Vpid12::On(_)) => true,
        (FlushKind::InvvpidSingle, Vpid12::On(vpid)) => asked.flush.vpid == vpid,
        (FlushKind::InvvpidRetainGlobals, Vpid12::On(vpid)) => asked.flush.vpid == vpid && entry.tag.pcid.is_some(),
        (FlushKind::InvvpidAddress, Vpid12::On(vpid)) => {
            asked.flush.vpid == vpid && entry.size.base(asked.flush.address) == entry.address
        }
        _ => false,
    };
    if asked.any(covers) {
        return Some((Cause::InvvpidEmulation, none));
    }
    // A transition that L1 does not tag drops what it and its guest have, as silicon without VPID does.
    let ran_since = |which: usize| {
        let Some(plain) = court.plain.get(&owner.vcpu) else { return false };
        plain[which]
            .get(plain[which].partition_point(|place| *place <= entry.walked))
            .is_some_and(|at| *at < entry.used)
    };
    let untagged = match owner.vpid12 {
        Vpid12::Off => ran_since(0),
        Vpid12::NotNested => ran_since(1),
        Vpid12::On(_) => false,
    };
    if untagged {
        return Some((Cause::NestedEntry, none));
    }
    let elsewhere = |other: &Entered| other.at.pcpu != used.at.pcpu && other.owner == owner;
    if court.pcpus > 1 && court.entries[entry.walked as usize..entry.used as usize].iter().any(elsewhere) {
        return Some((Cause::Migration, none));
    }
    None
}
