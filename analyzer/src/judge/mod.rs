//! The judge: for each flush, whether it was needed, from the events alone.
//!
//! It follows what an adversarial TLB could hold, one that keeps all that the architecture lets it keep: per physical CPU
//! the tags that guests ran under since they were last flushed, and the EPT02 entries that changed meanwhile. What the
//! events do not tell it calls `unknown`. It does not know which translations were really cached, nor what a guest did to
//! its own page tables: that takes a second execution.

mod guests;
mod rules;
#[cfg(test)]
mod tests;
mod tlb;
mod untold;
mod words;

pub(crate) use tlb::is_invept;
pub(crate) use words::named;
pub use words::{JudgedBy, Rule, Verdict};

use crate::{Error, Source};
use hv_defs::event::{Actor, Event, Flush, Stamp, VmcsAccess};
use hv_defs::vmcs::VmcsField;
use rules::Judge;

/// A flush with its verdict, or a flush that is missing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Judged {
    /// The flush's event; for a missing one, the VM entry before which it should have been.
    pub event: u64,
    /// That event's stamp.
    pub at: Stamp,
    /// The flush; for a missing one, the flush that was owed, with its owner as the actor.
    pub flush: Flush,
    /// What the judge says.
    pub verdict: Verdict,
    /// On what ground.
    pub judged_by: JudgedBy,
    /// By which rule.
    pub rule: Rule,
    /// For [`Verdict::TooBroad`], the kind of flush that would do.
    pub narrower: Option<&'static str>,
    /// Of a verdict by replay that the flush was wasted: the rule by which L0 could have known it when it flushed. `None`:
    /// it is known only from what came after.
    pub known_by: Option<Rule>,
}

impl Judged {
    /// A verdict that a second execution gave.
    pub fn by_replay(event: u64, at: Stamp, flush: Flush, rule: Rule, narrower: Option<&'static str>) -> Self {
        Self { event, at, flush, verdict: rule.verdict(), judged_by: rule.ground(), rule, narrower, known_by: None }
    }
}

/// A flush that was not required, or that is missing: the least of it, for those who keep all of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Flaw {
    /// The event, as [`Judged::event`].
    pub event: u64,
    /// The verdict: never [`Verdict::Required`] or [`Verdict::Unknown`].
    pub verdict: Verdict,
    /// The rule that gave it.
    pub rule: Rule,
}

impl Flaw {
    /// That of a verdict, if it is one.
    pub(crate) fn of(judged: &Judged) -> Option<Self> {
        let flawed = matches!(judged.verdict, Verdict::Redundant | Verdict::TooBroad | Verdict::Missing);
        flawed.then_some(Self { event: judged.event, verdict: judged.verdict, rule: judged.rule })
    }
}

/// Judges events one by one, and gives each verdict as soon as it is certain.
#[derive(Debug, Default)]
pub struct Bench {
    judge: Judge,
    /// Verdicts from outside, in the order of events, which stand in the place of those on L0's flushes.
    given: Option<Vec<Judged>>,
}

impl Bench {
    /// One that gives these verdicts on L0's flushes, and on those that are missing, in the place of its own. They are in
    /// the order of events.
    pub fn with(given: Option<&[Judged]>) -> Self {
        Self { judge: Judge::default(), given: given.map(<[Judged]>::to_vec) }
    }

    /// The next event.
    pub fn see(&mut self, number: u64, event: &Event) {
        self.judge.see(number, event);
    }

    /// An access to a VMCS, behind all that came before.
    pub(crate) fn guest_access(&mut self, access: &VmcsAccess) {
        self.judge.access(access);
    }

    /// Whether accesses to that field of a vmcs12 tell it anything.
    pub(crate) fn asks_for(field: VmcsField) -> bool {
        guests::ASKED.contains(&field)
    }

    /// Events came that tell no more than that the run went on. Returns whether that was news.
    pub(crate) fn settle(&mut self) -> bool {
        self.judge.went_on()
    }

    /// Whether nobody tells under which VPIDs and EPT pointers guests run, so that no flush can be called missing.
    pub(crate) fn lacks_tags(&self) -> bool {
        self.judge.untold.is()
    }

    /// The verdicts given since the last call, in no particular order.
    pub fn verdicts(&mut self) -> impl Iterator<Item = Judged> + '_ {
        let given = self.given.as_deref();
        self.judge.given.drain(..).filter_map(move |own| match given {
            None => Some(own),
            Some(_) if own.verdict == Verdict::Missing => None,
            Some(given) if own.flush.actor == Actor::L0 => {
                let place = given.partition_point(|one| one.event < own.event);
                let same = given[place..].iter().take_while(|one| one.event == own.event);
                // A run that went another way has no more to say of the recording's.
                let one = same.copied().find(|one| one.verdict != Verdict::Missing);
                Some(one.map_or(own, |one| Judged { known_by: known_by(&own, &one), ..one }))
            }
            Some(_) => Some(own),
        })
    }

    /// What is left when the trace ends.
    pub fn close(&mut self) -> impl Iterator<Item = Judged> + '_ {
        self.judge.close();
        let missing: Vec<Judged> =
            self.given.iter().flatten().filter(|one| one.verdict == Verdict::Missing).copied().collect();
        self.verdicts().chain(missing)
    }
}

/// The rule by which L0 could have known what the replay says, when it flushed.
fn known_by(own: &Judged, given: &Judged) -> Option<Rule> {
    let wasted = |verdict| matches!(verdict, Verdict::Redundant | Verdict::TooBroad);
    (wasted(given.verdict) && own.verdict == given.verdict && own.rule.is_known_then()).then_some(own.rule)
}

/// Every flush of a source with its verdict, in the order of events; a missing flush stands behind a flush of the same
/// event.
///
/// # Errors
/// The trace is damaged.
pub fn judge(source: Source<'_>) -> Result<Vec<Judged>, Error> {
    judge_with(source, None)
}

/// As [`judge`], with verdicts from outside in the place of the judge's own: see [`Bench::with`].
///
/// # Errors
/// As [`judge`].
pub fn judge_with(source: Source<'_>, given: Option<&[Judged]>) -> Result<Vec<Judged>, Error> {
    let (mut bench, mut judged) = (Bench::with(given), Vec::new());
    source.each(|number, event| {
        bench.see(number, event);
        judged.extend(bench.verdicts());
    })?;
    judged.extend(bench.close());
    judged.sort_by_key(|row| (row.event, row.verdict == Verdict::Missing));
    Ok(judged)
}
