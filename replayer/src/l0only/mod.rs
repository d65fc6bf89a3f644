//! L0 alone, over recorded silicon.
//!
//! Nothing is executed: silicon's answers come from a trace that was recorded with `--log l0`, and what runs is L0, the
//! board and the machine's loop. All that L0 does is compared with the recording: every VMWRITE, flush and entry.

mod caught;
mod lockstep;
mod mutate;
mod stretch;
mod tape;

pub use mutate::{Found, Mutated, mutate};

use crate::recorded::Recorded;
use crate::{Error, Verdict, images};
use caught::caught;
use hv::machine::Machine;
use hv::taped::Taped;
use hv::watch::Watched;
use hv_defs::config::{Config, Log};
use hv_defs::event::{Event, Kind, What};
use hv_defs::slip::Slips;
use lockstep::Lockstep;
use std::sync::mpsc;
use std::thread;
use stretch::{Ahead, decode};
use tape::Tape;
use traces::Reader;

/// What a replay of L0 alone found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct L0Verdict {
    /// What the comparison found. Its digest is 0: each event was held against the recorded one.
    pub verdict: Verdict,
    /// Entries whose answer was in the recording.
    pub entries: u64,
    /// Digests among the events: they are of all the machine, and no L0 alone could make them.
    pub digests: u64,
    /// What a panic of L0's said, behind the last event that was the same.
    pub failure: Option<String>,
}

impl L0Verdict {
    /// Whether all that was compared was the same, and L0 did not fail.
    pub fn identical(&self) -> bool {
        self.verdict.identical() && self.failure.is_none()
    }
}

/// Runs the L0 of a trace alone and compares what it does with what is recorded, with these slips instead of the recorded
/// ones, if any are given.
///
/// # Errors
/// The trace holds no answers of silicon's, or a block of it is damaged. A difference is no error.
pub fn replay_l0(reader: &Reader, to: Option<u64>, slips: Option<Slips>) -> Result<L0Verdict, Error> {
    replay_l0_watched(reader, to, slips, &mut |_| {})
}

/// As [`replay_l0`]; `progress` is told, now and then, how many events have been compared.
///
/// # Errors
/// As [`replay_l0`].
pub fn replay_l0_watched(
    reader: &Reader,
    to: Option<u64>,
    slips: Option<Slips>,
    progress: &mut dyn FnMut(u64),
) -> Result<L0Verdict, Error> {
    check(reader)?;
    let header = reader.header();
    let mut config = header.config.clone();
    config.slips = slips.unwrap_or(config.slips);
    let end = whole(reader)?;
    let to = if end < reader.len() { Some(to.unwrap_or(u64::MAX).min(end.saturating_sub(1))) } else { to };
    if end == 0 {
        // Cut before the first entry was whole: not even what silicon offers need be known.
        let verdict = Recorded::new(reader, to, Box::new(progress))?.taped().verdict(None)?;
        return Ok(L0Verdict { verdict, entries: 0, digests: 0, failure: None });
    }
    let images = images(header)?;
    let fails = tells_of_failure(reader);
    if !fails && let Some(found) = in_step(reader, &config, &images, to, end, progress)? {
        return Ok(found);
    }
    let mut world = Recorded::new(reader, to, Box::new(progress))?.taped();
    let mut machine = over(&config, &images, fails, |config| Tape::new(reader, config, end))?;
    let ran = caught(|| Some(machine.run_on(&mut world)));
    let tape = &mut machine.silicon().inner().silicon;
    if let (Some(source), None) = (tape.failed.take(), world.divergence()) {
        return Err(Error::Trace { event: world.events(), source });
    }
    let (entries, digests) = (tape.entries, tape.digests_taken);
    let (stop, failure) = match ran {
        Ok(stop) => (stop, None),
        Err(message) => (None, Some(message)),
    };
    let verdict = Verdict { digest: 0, ..world.verdict(stop)? };
    Ok(L0Verdict { verdict, entries, digests, failure })
}

/// Runs L0 in step with a recording up to event `to`, all of whose answers are there before `end`. `None` if it does anything
/// else, or fails, or the recording cannot be read.
fn in_step(
    reader: &Reader,
    config: &Config,
    images: &[hv::machine::Image],
    to: Option<u64>,
    end: u64,
    progress: &mut dyn FnMut(u64),
) -> Result<Option<L0Verdict>, Error> {
    let limit = to.map_or(end, |to| end.min(to.saturating_add(1)));
    let mut world = Recorded::new(reader, to, Box::new(|_| {}))?.taped();
    let (filled, stretches) = mpsc::sync_channel(DECODED);
    let (used, spent) = mpsc::channel();
    let ran = thread::scope(|scope| {
        let decode = move || decode(reader, &filled, &spent);
        // Without a thread, L0 is replayed as it is where it does not keep in step.
        thread::Builder::new().name("decoder".into()).spawn_scoped(scope, decode).ok()?;
        let ahead = Ahead { filled: stretches, spent: used };
        Some(caught(|| -> Result<_, Error> {
            let mut machine = Machine::on(config, images, |config| Lockstep::new(ahead, config, limit, progress))?;
            machine.run_on(&mut world);
            let silicon = machine.silicon();
            Ok(silicon.same().map(|same| (same, silicon.entries, silicon.digests_taken)))
        }))
    });
    let Some(Ok(ran)) = ran else { return Ok(None) };
    let Some((_, entries, digests)) = ran?.filter(|(same, ..)| *same >= limit) else { return Ok(None) };
    let last = reader.event(limit.saturating_sub(1)).map_err(|source| Error::Trace { event: limit, source })?;
    world.has_come_to(limit, last);
    Ok(Some(L0Verdict { verdict: world.verdict(None)?, entries, digests, failure: None }))
}

/// Stretches that are decoded ahead, at most.
const DECODED: usize = 2;

/// Whether L0 alone can be replayed from a trace.
fn check(reader: &Reader) -> Result<(), Error> {
    let header = reader.header();
    if header.config.log == Log::L0 && header.origin.is_none() {
        return Ok(());
    }
    Err(Error::NoAnswers(header.config.log))
}

/// A machine whose silicon is recorded.
type L0Machine<'a> = Machine<Taped<Watched<Tape<'a>>>>;

/// The machine of a configuration over recorded silicon, with an eye on L0 if it is `watched`.
fn over<'a>(
    config: &Config,
    images: &[hv::machine::Image],
    watched: bool,
    tape: impl FnOnce(&Config) -> Tape<'a>,
) -> Result<L0Machine<'a>, Error> {
    let watch = |config: &Config| Watched::new(tape(config), config.memory).if_watched(watched);
    Ok(Machine::on(config, images, |config| Taped::new(watch(config), config.pcpus.into()))?)
}

/// How the text of a stop begins that tells of a failure of L0's.
const FOUND: &str = "L0 fails: ";

/// Whether a trace was written to show how L0 fails.
fn tells_of_failure(reader: &Reader) -> bool {
    let last = reader.len().checked_sub(1).map(|last| reader.event(last));
    matches!(last, Some(Ok(Event { what: What::Stop(stop), .. })) if stop.text.starts_with(FOUND))
}

/// The number behind the last event up to which the recording has all answers: of a trace without an end, that of the last
/// entry.
fn whole(reader: &Reader) -> Result<u64, Error> {
    let Some(last) = reader.len().checked_sub(1) else { return Ok(0) };
    for number in (0..reader.blocks().len()).rev() {
        let event = reader.blocks()[number].first;
        let block = reader.block(number).map_err(|source| Error::Trace { event, source })?;
        for place in (0..block.len()).rev() {
            match block.kind(place) {
                Some(Kind::Stop) if event + place as u64 == last => return Ok(reader.len()),
                Some(Kind::Entry) => return Ok(event + place as u64),
                _ => {}
            }
        }
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use hv_defs::config::Guest;
    use hv_defs::policy::Policy;
    use std::sync::atomic::AtomicBool;

    pub(super) fn recorded(guest: &str) -> Reader {
        let policy = Policy::preset("kvm-2018").expect("a preset");
        let config = Config { policy, log: Log::L0, ..Config::new(Guest::BuiltIn(guest.into())) };
        let (stop, mut bytes) = (AtomicBool::new(false), Vec::new());
        let outside = recorder::Outside {
            console: &mut Vec::new(),
            keys: &mut recorder::NoKeys,
            stop: &stop,
            watch: &mut |_| {},
        };
        recorder::record_to(&config, &[], &mut bytes, outside).expect("recorded");
        Reader::from_bytes(bytes).expect("a sound trace")
    }

    #[track_caller]
    fn check(reader: &Reader, config: &Config, to: Option<u64>, same: Option<u64>) {
        let found = in_step(reader, config, &[], to, reader.len(), &mut |_| {}).expect("no error");
        assert_eq!(found.map(|found| found.verdict.events), same, "{:?} to {to:?}", config.policy);
    }

    #[test]
    fn what_is_the_same_is_found_in_step() {
        for guest in ["demo", "nest", "flush-storm"] {
            let reader = recorded(guest);
            let (config, len) = (&reader.header().config, reader.len());
            check(&reader, config, None, Some(len));
            for to in [0, 1, 30, len / 3, len / 2, len - 2, len - 1] {
                check(&reader, config, Some(to), Some(to + 1));
            }
            let other = Config { policy: Policy::preset("kvm-2011").expect("a preset"), ..config.clone() };
            check(&reader, &other, None, None);
        }
    }
}
