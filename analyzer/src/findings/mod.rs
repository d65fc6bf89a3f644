//! Findings: what a trace says, in numbers, from one pass over its events.

pub mod advice;
mod cpus;
mod ept;
mod exits;
mod flushes;
mod injections;
mod levels;
mod mistakes;
mod pass;
mod phases;
mod pool;
mod returns;
mod shadow;
mod sites;
mod storms;
mod tally;
#[cfg(test)]
mod tests;
mod time;
mod tree;
mod vmcs;
mod vpids;
#[cfg(test)]
mod waste_tests;

pub use advice::{Advice, Seen, Severity};
pub use ept::{EptLevel, EptPage, EptRow};
pub use exits::{CausedExits, ExitRow, Multiplication, NestedExit, OneExit};
pub use flushes::{FlushRow, Flushes};
pub use injections::InjectionRow;
pub use levels::Levels;
pub use mistakes::{Direction, Mistake, MistakeKind};
pub use phases::Phase;
pub use pool::PoolFinding;
pub use returns::{ReturnRow, Returns};
pub use shadow::{List, ShadowRow, Shadowing};
pub use sites::{LevelRow, Site, SiteRow, Tag, TagRow};
pub use storms::{Burst, STORM, Storms};
pub use tally::{Tally, Top};
pub use time::{LevelTime, Slice, Slices, Time};
pub use tree::{Node, Totals, Tree, Work, Works};
pub use vmcs::{FieldRow, Vmcs};
pub use vpids::{VpidRow, VpidUse, VpidUses};

use crate::chunk::Chunk;
use crate::judge::{Flaw, Judged};
use crate::{Error, Source};
use hv_defs::config::{Backend, Clock, Guest, Log, Origin};
use hv_defs::event::{Event, Kind, Stop};
use pass::Pass;

/// All that is found in a trace.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Findings {
    /// What to call the trace: its file's name.
    pub name: String,
    /// What it is of.
    pub overview: Overview,
    /// Exits by level, reason and who handled them, most first, with their times.
    pub exits: Vec<ExitRow>,
    /// What each L2 exit caused.
    pub multiplication: Multiplication,
    /// Where the time went.
    pub time: Time,
    /// Flushes and their verdicts.
    pub flushes: Flushes,
    /// Mistakes of L0's that are no matter of one flush.
    pub mistakes: Vec<Mistake>,
    /// The vmcs02 pool, by vCPU.
    pub pools: Vec<PoolFinding>,
    /// VMCS accesses.
    pub vmcs: Vmcs,
    /// What shadowing its fields is worth to each hypervisor.
    pub shadowing: Vec<Shadowing>,
    /// The VPID map's events.
    pub vpids: Vec<VpidRow>,
    /// How silicon's VPIDs for nested guests changed hands.
    pub vpid_uses: VpidUses,
    /// VPIDs and roots that came back to CPUs.
    pub returns: Returns,
    /// Bursts of EPT02 changes.
    pub storms: Storms,
    /// EPT violations by level.
    pub ept_levels: Vec<EptLevel>,
    /// EPT02 changes, roots with most first.
    pub ept: Vec<EptRow>,
    /// The pages with most EPT violations.
    pub ept_pages: Vec<EptPage>,
    /// How many pages had EPT violations.
    pub ept_page_count: u64,
    /// Events injected.
    pub injections: Vec<InjectionRow>,
    /// The trace cut at its marks; one phase when there are none.
    pub phases: Vec<Phase>,
    /// What to change, most urgent first.
    pub advice: Vec<Advice>,
}

impl Findings {
    /// Adds what a second execution found.
    pub fn add_mistakes(&mut self, found: Vec<Mistake>) {
        self.mistakes = mistakes::gather(core::mem::take(&mut self.mistakes).into_iter().chain(found));
        self.advice = advice::advise(self);
    }
}

/// What a trace is of.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Overview {
    /// Events.
    pub events: u64,
    /// Instructions retired at the last event.
    pub instructions: u64,
    /// Modelled cycles of the guests' instructions and of L0's work.
    pub cycles: u64,
    /// Events by kind, those without any left out.
    pub counts: Vec<(Kind, u64)>,
    /// Events that the source had to drop.
    pub lost: u64,
    /// vCPUs that were seen.
    pub vcpus: u64,
    /// Physical CPUs that were seen.
    pub pcpus: u64,
    /// VM entries that a check refused, by the check's name.
    pub failed_entries: Vec<(String, u64)>,
    /// Where it was imported from; `None` for our own recordings.
    pub origin: Option<Origin>,
    /// Of an imported trace, the kinds of event that it has none of and that its source may not tell of; of a recording,
    /// those that it was to leave out. Nothing can be found about them, be it that there were none.
    pub untold: Vec<Kind>,
    /// Whether nobody tells under which VPIDs and EPT pointers guests run: most flushes are then of unknown use, and none is
    /// called missing.
    pub lacks_tags: bool,
    /// The guest, as its configuration names it; empty when unknown.
    pub guest: String,
    /// The policy: a preset's name, or `custom`; empty when unknown.
    pub policy: String,
    /// Nobody could count how many cached translations a flush dropped, so that the counts are 0.
    pub drops_unknown: bool,
    /// Whether the recording was cut short.
    pub truncated: bool,
    /// How the run ended.
    pub stop: Option<Stop>,
}

/// What findings are about that a foreign source may not tell of.
const TOLD_BY_US: [Kind; 6] = [Kind::Entry, Kind::Flush, Kind::Vmcs, Kind::Pool, Kind::Vpid, Kind::Ept];

impl Overview {
    /// What the stamps count.
    pub fn clock(&self) -> Clock {
        self.origin.as_ref().map_or(Clock::Instructions, |origin| origin.clock)
    }

    /// Whether anything can be found about events of that kind.
    pub fn tells_of(&self, kind: Kind) -> bool {
        !self.untold.contains(&kind)
    }
}

/// The findings of a trace. `name` is what reports call it.
///
/// # Errors
/// A block of the trace is damaged.
pub fn findings(name: &str, source: Source<'_>) -> Result<Findings, Error> {
    findings_with(name, source, None)
}

/// As [`findings`], with verdicts on flushes from outside: see [`crate::judge::Bench::with`].
///
/// # Errors
/// As [`findings`].
pub fn findings_with(name: &str, source: Source<'_>, verdicts: Option<&[Judged]>) -> Result<Findings, Error> {
    Ok(run(name, source, Pass::new(verdicts), &mut |_| {})?.0)
}

/// As [`findings`], with the flushes that were not required one by one, in the order of events. `progress` is told now and
/// then how many events are done.
///
/// # Errors
/// As [`findings`].
pub fn findings_watched(
    name: &str,
    source: Source<'_>,
    progress: &mut dyn FnMut(u64),
) -> Result<(Findings, Vec<Flaw>), Error> {
    let mut pass = Pass::new(None);
    pass.keep_flaws();
    run(name, source, pass, progress)
}

fn run(
    name: &str,
    source: Source<'_>,
    mut pass: Pass,
    progress: &mut dyn FnMut(u64),
) -> Result<(Findings, Vec<Flaw>), Error> {
    if let Source::Trace(reader) = source
        && let Some(origin) = &reader.header().origin
    {
        pass.stamped_in(origin.clock);
    }
    source.chunks(|chunk| {
        pass.chunk(chunk);
        progress(chunk.first + u64::from(chunk.len()));
    })?;
    let (mut found, flaws) = pass.finish();
    found.name = name.to_owned();
    if let Source::Trace(reader) = source {
        let header = reader.header();
        found.overview.drops_unknown = header.origin.is_some() || header.config.backend == Backend::Kvm;
        match &header.origin {
            Some(origin) => {
                found.overview.origin = Some(origin.clone());
                let had = |kind: Kind| found.overview.counts.iter().any(|(known, _)| *known == kind);
                found.overview.untold = TOLD_BY_US.into_iter().filter(|&kind| !had(kind)).collect();
            }
            None => {
                found.overview.guest = name_of(&header.config.guest);
                found.overview.policy = header.config.policy.name().unwrap_or("custom").to_owned();
                if header.config.log == Log::Exits {
                    found.overview.untold = vec![Kind::Vmcs];
                }
            }
        }
        found.overview.truncated = reader.truncated();
        found.overview.events = reader.len();
    }
    found.advice = advice::advise(&found);
    Ok((found, flaws))
}

/// Findings of events as they come, of which a few are kept at a time: for a run that nobody records.
#[derive(Debug)]
pub struct Study {
    pass: Pass,
    chunk: Chunk,
}

impl Default for Study {
    fn default() -> Self {
        let mut chunk = Chunk::default();
        chunk.clear(0);
        Self { pass: Pass::new(None), chunk }
    }
}

impl Study {
    /// The next event.
    pub fn see(&mut self, number: u64, event: &Event) {
        if self.chunk.first + u64::from(self.chunk.len()) != number {
            self.pass.chunk(&self.chunk);
            self.chunk.clear(number);
        }
        if self.chunk.push(event) {
            self.pass.chunk(&self.chunk);
            self.chunk.clear(number + 1);
        }
    }

    /// What was found. `name` is what reports call it.
    pub fn finish(mut self, name: &str, guest: &Guest, policy: &str) -> Findings {
        self.pass.chunk(&self.chunk);
        let (mut found, _) = self.pass.finish();
        found.name = name.to_owned();
        found.overview.guest = name_of(guest);
        found.overview.policy = policy.to_owned();
        found.advice = advice::advise(&found);
        found
    }
}

fn name_of(guest: &Guest) -> String {
    match guest {
        Guest::BuiltIn(name) | Guest::Kernel { name, .. } => name.clone(),
    }
}
