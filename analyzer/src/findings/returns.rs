//! What guests leave on physical CPUs: a VPID or an EPT root that comes back to a CPU after it ran elsewhere finds there what
//! it left, unless that was flushed.

use super::sites::Tag;
use crate::histogram::Histogram;
use hv_defs::ept::Eptp;
use hv_defs::event::{Actor, Entry, Event, Flush, FlushKind, What};
use std::collections::{BTreeMap, HashMap};

/// One VPID or root that moved.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReturnRow {
    /// It.
    pub tag: Tag,
    /// Entries on another CPU than the one before.
    pub moves: u64,
    /// How many of them were to a CPU that it had run on before.
    pub returns: u64,
    /// At how many of these nothing had flushed what it left there.
    pub unflushed: u64,
}

/// All that moved.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Returns {
    /// Those that came back most to what was not flushed, up to a hundred.
    pub rows: Vec<ReturnRow>,
    /// How many moved.
    pub tags: u64,
    /// Entries on another CPU than the one before, of VPIDs and roots.
    pub moves: u64,
    /// How many of them were to a CPU that it had run on before.
    pub returns: u64,
    /// At how many of these nothing had flushed what it left there.
    pub unflushed: u64,
    /// How long each had been away, on the trace's clock.
    pub away: Histogram,
}

/// Rows that a finding lists.
const KEPT: usize = 100;

/// When something ran on a CPU last.
#[derive(Clone, Copy, Debug)]
struct Ran {
    pcpu: u16,
    event: u64,
    instruction: u64,
    /// The last flush of it there, by event.
    flushed: u64,
}

#[derive(Debug, Default)]
struct One {
    last: usize,
    ran: Vec<Ran>,
    moves: u64,
    returns: u64,
    unflushed: u64,
}

#[derive(Debug, Default)]
pub(super) struct Fold {
    /// By VPID, and by EPT pointer's tag, the place among `ones`.
    tags: HashMap<Tag, usize>,
    ones: Vec<One>,
    /// The places of some that were entered last.
    recent: Vec<(Tag, usize)>,
    /// By CPU: the last flush of all VPIDs but 0, and of all roots.
    all: BTreeMap<u16, (u64, u64)>,
    away: Histogram,
}

/// How many are remembered: those of a guest hypervisor and of a few guests that it goes to and fro between.
const RECENT: usize = 8;

impl Fold {
    fn of(&mut self, tag: Tag) -> &mut One {
        let known = self.recent.iter().find(|(recent, _)| *recent == tag).map(|(_, place)| *place);
        let place = known.unwrap_or_else(|| {
            let ones = &mut self.ones;
            let place = *self.tags.entry(tag).or_insert_with(|| {
                ones.push(One::default());
                ones.len() - 1
            });
            if self.recent.len() == RECENT {
                self.recent.remove(0);
            }
            self.recent.push((tag, place));
            place
        });
        &mut self.ones[place]
    }

    pub(super) fn see(&mut self, number: u64, event: &Event) {
        match &event.what {
            What::Entry(entry) if entry.failed.is_none() => self.entered(number, event, entry),
            What::Flush(flush) if flush.actor == Actor::L0 => self.flushed(number, event.at.pcpu, flush),
            _ => {}
        }
    }

    fn entered(&mut self, number: u64, event: &Event, entry: &Entry) {
        let root = Eptp::from_bits(entry.eptp).ep4ta();
        let vpid = (entry.vpid != 0).then_some(Tag::Vpid(entry.vpid));
        for tag in [vpid, (root != 0).then_some(Tag::Eptp(root))].into_iter().flatten() {
            let (pcpu, instruction) = (event.at.pcpu, event.at.instruction);
            let all = self.all.get(&pcpu).copied().unwrap_or_default();
            let one = self.of(tag);
            let now = Ran { pcpu, event: number, instruction, flushed: 0 };
            match one.ran.get_mut(one.last) {
                None => one.ran.push(now),
                Some(last) if last.pcpu == pcpu => (last.event, last.instruction) = (number, instruction),
                Some(_) => {
                    one.moves += 1;
                    let Some(place) = one.ran.iter().position(|ran| ran.pcpu == pcpu) else {
                        one.last = one.ran.len();
                        one.ran.push(now);
                        continue;
                    };
                    let left = one.ran[place];
                    let flushed = left.flushed.max(if matches!(tag, Tag::Vpid(_)) { all.0 } else { all.1 });
                    one.returns += 1;
                    one.unflushed += u64::from(flushed <= left.event);
                    (one.last, one.ran[place]) = (place, now);
                    self.away.add(instruction.saturating_sub(left.instruction));
                }
            }
        }
    }

    fn flushed(&mut self, number: u64, pcpu: u16, flush: &Flush) {
        let tag = match flush.kind {
            FlushKind::InvvpidSingle => Tag::Vpid(flush.vpid),
            FlushKind::InveptSingle => Tag::Eptp(Eptp::from_bits(flush.eptp).ep4ta()),
            FlushKind::InvvpidAll => {
                self.all.entry(pcpu).or_default().0 = number;
                return;
            }
            FlushKind::InveptAll => {
                self.all.entry(pcpu).or_default().1 = number;
                return;
            }
            // What has no VPID stays nowhere, and the rest drops a part.
            FlushKind::InvvpidAddress | FlushKind::InvvpidRetainGlobals | FlushKind::Transition => return,
        };
        let one = self.tags.get(&tag).map(|place| &mut self.ones[*place]);
        let ran = one.and_then(|one| one.ran.iter_mut().find(|ran| ran.pcpu == pcpu));
        if let Some(ran) = ran {
            ran.flushed = number;
        }
    }

    pub(super) fn finish(self) -> Returns {
        let ones = self.tags.into_iter().map(|(tag, place)| (tag, &self.ones[place]));
        let moved = ones.filter(|(_, one)| one.moves > 0).map(|(tag, one)| ReturnRow {
            tag,
            moves: one.moves,
            returns: one.returns,
            unflushed: one.unflushed,
        });
        let mut rows: Vec<ReturnRow> = moved.collect();
        rows.sort_by_key(|row| (core::cmp::Reverse((row.unflushed, row.returns, row.moves)), row.tag));
        let sum = |pick: fn(&ReturnRow) -> u64| rows.iter().map(pick).sum();
        let (moves, returns, unflushed) = (sum(|row| row.moves), sum(|row| row.returns), sum(|row| row.unflushed));
        let tags = rows.len() as u64;
        rows.truncate(KEPT);
        Returns { rows, tags, moves, returns, unflushed, away: self.away }
    }
}
