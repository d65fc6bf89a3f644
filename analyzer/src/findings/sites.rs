//! Flush sites: which flush, in the handling of which exit, and what it wasted there.

use super::levels::{Holdings, Levels};
use super::tally::{Tally, Top};
use crate::judge::{Judged, Verdict};
use hv_defs::cost::Costs;
use hv_defs::event::{Actor, Cause, Event, Flush, FlushKind, What};
use hv_defs::exit::Reason;
use std::collections::{BTreeMap, HashMap};

/// Where a flush comes from.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Site {
    /// Who asked for it; for a missing one, who owed it.
    pub actor: Actor,
    /// Why.
    pub cause: Cause,
    /// How much it drops.
    pub kind: FlushKind,
    /// The exit that L0 was handling, by level and reason; `None` before the vCPU's first.
    pub exit: Option<(u8, Reason)>,
    /// For a guest's own instruction, where that is.
    pub rip: Option<u64>,
}

/// Flushes of one site.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SiteRow {
    /// The site.
    pub site: Site,
    /// The levels whose translations they drop.
    pub levels: Levels,
    /// Their sum.
    pub tally: Tally,
    /// Of those that are too broad, the kind that would do.
    pub narrower: Option<&'static str>,
    /// The first one's event; for a missing one, that of the entry before which it should have been.
    pub first: u64,
}

/// What a flush names.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Tag {
    /// A VPID.
    Vpid(u16),
    /// An EPT pointer.
    Eptp(u64),
    /// All VPIDs but 0.
    AllVpids,
    /// All EPT pointers.
    AllEptps,
}

impl Tag {
    /// What a flush names.
    pub const fn of(flush: &Flush) -> Self {
        match flush.kind {
            FlushKind::InveptSingle => Self::Eptp(flush.eptp),
            FlushKind::InveptAll => Self::AllEptps,
            FlushKind::InvvpidAll => Self::AllVpids,
            _ => Self::Vpid(flush.vpid),
        }
    }

    /// As `VPID 3`, `EPTP 0x5e`, `all VPIDs`.
    pub fn name(self) -> String {
        match self {
            Self::Vpid(vpid) => format!("VPID {vpid}"),
            Self::Eptp(eptp) => format!("EPTP {eptp:#x}"),
            Self::AllVpids => "all VPIDs".into(),
            Self::AllEptps => "all EPTPs".into(),
        }
    }
}

/// Flushes that name one thing, of one who asked for them: a guest's names are its own, L0's are silicon's.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TagRow {
    /// Who names it.
    pub actor: Actor,
    /// What.
    pub tag: Tag,
    /// The levels whose translations they drop.
    pub levels: Levels,
    /// Their sum.
    pub tally: Tally,
}

/// Flushes that drop translations of the same levels.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LevelRow {
    /// The levels.
    pub levels: Levels,
    /// Who asked for them.
    pub actor: Actor,
    /// Their sum.
    pub tally: Tally,
}

/// Sites and tags that a finding lists; the rest are summed.
pub(crate) const KEPT: usize = 100;

/// The exit that a vCPU's L0 handles, and where the guest was.
type Handled = (u8, Reason, u64);

/// A flush that is not judged yet.
#[derive(Clone, Copy, Debug)]
struct Made {
    handled: Option<Handled>,
    levels: Levels,
}

#[derive(Debug, Default)]
pub(super) struct Fold {
    holdings: Holdings,
    /// By vCPU: the exit that came last.
    handled: Vec<Option<Handled>>,
    /// By event.
    made: HashMap<u64, Made>,
    /// Entries before which a second execution says that a flush is missing, last first.
    missing: Vec<u64>,
    sites: BTreeMap<Site, SiteRow>,
    tags: BTreeMap<(Actor, Tag), TagRow>,
    levels: BTreeMap<(Levels, Actor), Tally>,
}

impl Fold {
    /// With the verdicts that a second execution gave.
    pub(super) fn with(given: Option<&[Judged]>) -> Self {
        let missing = given.into_iter().flatten().filter(|judged| judged.verdict == Verdict::Missing);
        let mut missing: Vec<u64> = missing.map(|judged| judged.event).collect();
        missing.sort_unstable_by(|a, b| b.cmp(a));
        missing.dedup();
        Self { missing, ..Self::default() }
    }

    fn handled_by(&self, vcpu: u16) -> Option<Handled> {
        self.handled.get(usize::from(vcpu)).copied().flatten()
    }

    /// An event, before any verdict on it.
    pub(super) fn before(&mut self, number: u64, event: &Event) {
        if let What::Flush(flush) = &event.what {
            let levels = self.holdings.flushed(event.at.pcpu, flush);
            self.made.insert(number, Made { handled: self.handled_by(event.at.vcpu), levels });
        }
    }

    /// An event, when the verdicts that it brought are in.
    pub(super) fn after(&mut self, number: u64, event: &Event) {
        match &event.what {
            What::Exit(exit) => {
                let vcpu = usize::from(event.at.vcpu);
                if vcpu >= self.handled.len() {
                    self.handled.resize(vcpu + 1, None);
                }
                self.handled[vcpu] = Some((exit.level, exit.basic(), exit.rip));
            }
            What::Entry(entry) => {
                self.holdings.entered(event.at.pcpu, entry);
                while self.missing.pop_if(|missing| *missing <= number).is_some_and(|missing| missing == number) {
                    let (handled, levels) = (self.handled_by(event.at.vcpu), Levels::of(entry.level));
                    self.made.insert(number, Made { handled, levels });
                }
            }
            _ => {}
        }
    }

    pub(super) fn judged(&mut self, judged: &Judged, costs: &Costs) {
        let flush = &judged.flush;
        // A missing one is told at the entry, before the vCPU's next exit.
        let made = self.made.remove(&judged.event).unwrap_or_else(|| Made {
            handled: self.handled_by(judged.at.vcpu),
            levels: if judged.verdict == Verdict::Missing { Levels::of(2) } else { Levels::default() },
        });
        let own = flush.actor != Actor::L0 && judged.verdict != Verdict::Missing;
        let site = Site {
            actor: flush.actor,
            cause: flush.cause,
            kind: flush.kind,
            exit: made.handled.map(|(level, reason, _)| (level, reason)),
            rip: made.handled.filter(|_| own).map(|(.., rip)| rip),
        };
        let (tally, narrower, first) = (Tally::default(), None, judged.event);
        let row = self.sites.entry(site).or_insert(SiteRow { site, levels: made.levels, tally, narrower, first });
        row.levels = row.levels.and(made.levels);
        row.tally.add(judged, costs);
        row.narrower = row.narrower.or(judged.narrower);
        row.first = row.first.min(judged.event);
        let (actor, tag) = (flush.actor, Tag::of(flush));
        let row = self.tags.entry((actor, tag)).or_insert(TagRow { actor, tag, levels: made.levels, tally });
        row.levels = row.levels.and(made.levels);
        row.tally.add(judged, costs);
        self.levels.entry((made.levels, actor)).or_default().add(judged, costs);
    }

    pub(super) fn finish(self) -> (Top<SiteRow>, Top<TagRow>, Vec<LevelRow>) {
        let order = |tally: &Tally| {
            let reverse = core::cmp::Reverse;
            (
                reverse(tally.count(Verdict::Missing)),
                reverse(tally.wasted),
                reverse(tally.dropped),
                reverse(tally.made()),
            )
        };
        let mut sites: Vec<SiteRow> = self.sites.into_values().collect();
        sites.sort_by_key(|row| order(&row.tally));
        let mut tags: Vec<TagRow> = self.tags.into_values().collect();
        tags.sort_by_key(|row| order(&row.tally));
        let levels = self.levels.into_iter().map(|((levels, actor), tally)| LevelRow { levels, actor, tally });
        let mut levels: Vec<LevelRow> = levels.collect();
        levels.sort_by_key(|row| order(&row.tally));
        (Top::of(sites, KEPT, |row| &row.tally), Top::of(tags, KEPT, |row| &row.tally), levels)
    }
}
