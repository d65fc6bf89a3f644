//! L0 over answers that no silicon gave: what is recorded, with bits of it altered. Whatever silicon says, L0 must not
//! panic, and must not let a guest reach what is not its own.

use super::caught::caught;
use super::tape::{Alteration, Change, Tape};
use super::{FOUND, L0Machine, check, over, tells_of_failure, whole};
use crate::recorded::Recorded;
use crate::{Error, images};
use core::ops::ControlFlow;
use hv::machine::Advance;
use hv::silicon::Silicon;
use hv::world::World;
use hv_defs::event::{Actor, Event, Exit, InputKind, NO_ADDRESS, Stamp, Stop, StopKind, VmcsOp, What};
use hv_defs::exit::{ExitReason, InterruptionInfo};
use hv_defs::vmcs::EXIT_REASON;
use std::io::Write;
use traces::{Reader, Writer};

/// Entries that a run goes on for after the last alteration.
const ONWARD: u64 = 4096;
/// Steps of the machine's loop without an entry after which it is taken to wait for ever.
const PATIENCE: u32 = 10_000;

/// What altered answers have come to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mutated {
    /// Runs that were made.
    pub runs: u64,
    /// Entries that were answered in them.
    pub entries: u64,
    /// What the last of them found.
    pub found: Option<Found>,
}

/// Altered answers on which L0 fails.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Found {
    /// The run's number, from 0.
    pub run: u64,
    /// What L0's assertion or panic says, and where.
    pub message: String,
    /// What was altered: as little as makes it fail.
    pub altered: Vec<String>,
    /// What happened, up to the failure and a stop that tells of it.
    events: Vec<Event>,
}

impl Found {
    /// Writes a trace that replays to the failure, L0 alone.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write(&self, reader: &Reader, out: impl Write + Send) -> Result<(), traces::Error> {
        let mut writer = Writer::create(out, reader.header())?;
        for event in &self.events {
            writer.push(event)?;
        }
        writer.finish().map(|_| ())
    }
}

/// A generator of numbers (splitmix64): equal seeds give equal numbers.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    fn below(&mut self, end: u64) -> u64 {
        self.roll() % end.max(1)
    }

    /// A handful of alterations close together, in a run of so many entries.
    fn alterations(&mut self, entries: u64) -> Vec<Alteration> {
        let first = 1 + self.below(entries);
        let count = 1 + self.below(4);
        let one = |dice: &mut Self| Alteration {
            entry: first + dice.below(8),
            pick: dice.roll(),
            change: match dice.below(4) {
                0 | 1 => Change::Flip(dice.below(64) as u8),
                2 => Change::Set(dice.below(80)),
                _ => Change::Set([0, u64::MAX, 1 << dice.below(64), dice.roll()][dice.below(4) as usize]),
            },
        };
        (0..count).map(|_| one(self)).collect()
    }
}

/// What an altered run does outside.
struct Outside<'a> {
    recorded: Recorded<'a>,
    /// What happened, if anyone wants to know.
    events: Option<Vec<Event>>,
}

impl World for Outside<'_> {
    fn events(&mut self, events: &[Event]) -> ControlFlow<()> {
        if let Some(all) = &mut self.events {
            all.extend_from_slice(events);
        }
        ControlFlow::Continue(())
    }

    fn console(&mut self, _: &[u8]) {}

    fn input(&mut self, poll: u64, now: u64, idle_until: Option<u64>) -> Option<(InputKind, u64)> {
        self.recorded.input(poll, now, idle_until)
    }
}

/// One run under alterations.
struct Ran {
    failure: Option<String>,
    entries: u64,
    altered: Vec<String>,
    events: Vec<Event>,
}

struct Mutator<'a> {
    reader: &'a Reader,
    images: Vec<hv::machine::Image>,
    end: u64,
}

impl Mutator<'_> {
    fn run(&self, alterations: &[Alteration], keep: bool) -> Result<Ran, Error> {
        let config = &self.reader.header().config;
        let last = alterations.iter().map(|one| one.entry.saturating_add(ONWARD)).max().unwrap_or(u64::MAX);
        let mut machine: L0Machine<'_> = over(config, &self.images, true, |config| {
            Tape::new(self.reader, config, self.end).altered_by(alterations, last)
        })?;
        let recorded = Recorded::new(self.reader, None, Box::new(|_| {}))?;
        let mut world = Outside { recorded, events: keep.then(Vec::new) };
        let outcome = caught(|| {
            let (mut steps, mut entries) = (0, 0);
            while steps < PATIENCE {
                match machine.advance_on(&mut world) {
                    Advance::On | Advance::Paused => {}
                    Advance::Ended(_) | Advance::BrokenOff => break,
                }
                let now = machine.silicon().inner().silicon.entries;
                steps = if now == entries { steps + 1 } else { 0 };
                entries = now;
            }
        });
        let failure = outcome.err();
        let tape = &mut machine.silicon().inner().silicon;
        if let Some(source) = tape.failed.take() {
            return Err(Error::Trace { event: 0, source });
        }
        let (entries, altered) = (tape.entries, core::mem::take(&mut tape.altered));
        if let (Some(message), Some(_)) = (&failure, &world.events) {
            machine.tell_on(&mut world);
            let mut events = world.events.take().unwrap_or_default();
            let at = events.last().map_or(Stamp::default(), |event| event.at);
            machine.silicon().tell_answers(&mut events, at);
            finish(&mut events, at, message);
            world.events = Some(events);
        }
        Ok(Ran { failure, entries, altered, events: world.events.unwrap_or_default() })
    }

    /// As few of the alterations as still make L0 fail.
    fn fewest(&self, mut alterations: Vec<Alteration>) -> Result<Vec<Alteration>, Error> {
        let mut at = 0;
        while at < alterations.len() && alterations.len() > 1 {
            let mut fewer = alterations.clone();
            fewer.remove(at);
            if self.run(&fewer, false)?.failure.is_some() {
                alterations = fewer;
            } else {
                at += 1;
            }
        }
        Ok(alterations)
    }
}

/// Tells of the failure at the end of what happened.
fn finish(events: &mut Vec<Event>, at: Stamp, message: &str) {
    // The exit that L0 was at work on has no event yet but its place.
    if let Some(place) = events.iter().rposition(|event| event.what == What::Lost(0)) {
        let read = |event: &Event| match &event.what {
            What::Vmcs(access) if access.actor == Actor::L0 && access.op == VmcsOp::Read => {
                (access.field == EXIT_REASON.field()).then_some(access.value)
            }
            _ => None,
        };
        let reason = events[place..].iter().find_map(read).unwrap_or_default();
        events[place].what = What::Exit(Exit {
            level: 1,
            reason: ExitReason::from(reason as u32),
            qualification: 0,
            rip: 0,
            length: 0,
            gpa: 0,
            gla: 0,
            intr_info: InterruptionInfo::default(),
            vmcs12: NO_ADDRESS,
            handled_by: Actor::L0,
        });
    }
    let text = format!("{FOUND}{message}");
    events.push(Event { at, what: What::Stop(Stop { kind: StopKind::Unsupported, code: 0, text }) });
}

/// Runs L0 alone over a recording with some of silicon's answers altered, `runs` times, each time others, until it fails.
/// Equal seeds alter equally. `progress` is told how many runs are done.
///
/// # Errors
/// As [`crate::replay_l0`].
pub fn mutate(reader: &Reader, seed: u64, runs: u64, progress: &mut dyn FnMut(u64)) -> Result<Mutated, Error> {
    check(reader)?;
    let mutator = Mutator { reader, images: images(reader.header())?, end: whole(reader)? };
    let unaltered = mutator.run(&[], tells_of_failure(reader))?;
    let total = unaltered.entries;
    if let Some(message) = unaltered.failure {
        let found = Found { run: 0, message, altered: Vec::new(), events: unaltered.events };
        return Ok(Mutated { runs: 0, entries: total, found: Some(found) });
    }
    let mut entries = total;
    for run in 0..runs {
        let mut dice = Dice(seed ^ run.wrapping_mul(0xd134_2543_de82_ef95));
        let alterations = dice.alterations(total);
        let ran = mutator.run(&alterations, false)?;
        entries += ran.entries;
        progress(run + 1);
        if ran.failure.is_some() {
            let ran = mutator.run(&mutator.fewest(alterations)?, true)?;
            let Ran { failure, altered, events, .. } = ran;
            let found = Found { run, message: failure.unwrap_or_default(), altered, events };
            return Ok(Mutated { runs: run + 1, entries, found: Some(found) });
        }
    }
    Ok(Mutated { runs, entries, found: None })
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::{replay_l0, tests::recorded};
    use super::*;
    use hv_defs::vmcs::GUEST_RIP;
    use std::cell::Cell;

    thread_local! {
        /// Whether L0 has a mistake here.
        static MISTAKEN: Cell<bool> = const { Cell::new(false) };
    }

    /// What L0 writes to a VMCS. A mistaken one believes that every RIP is canonical, as it is while silicon is right.
    pub(in crate::l0only) fn written(row: usize, value: u64) {
        let canonical = value >> 47 == 0 || value >> 47 == 0x1_ffff;
        assert!(row != GUEST_RIP.index() || canonical || !MISTAKEN.get(), "RIP is canonical");
    }

    #[track_caller]
    fn check(guest: &str, seed: u64) {
        let reader = recorded(guest);
        MISTAKEN.set(false);
        assert_eq!(mutate(&reader, seed, 100, &mut |_| {}).expect("mutated").found, None, "{guest}: it has no mistake");
        MISTAKEN.set(true);
        assert!(
            replay_l0(&reader, None, None).expect("replayed").identical(),
            "{guest}: the recording does not show it"
        );
        let mutated = mutate(&reader, seed, 100, &mut |_| {}).expect("mutated");
        let found = mutated.found.expect("the mistake shows");
        assert!(found.message.starts_with("RIP is canonical"), "{guest}: {}", found.message);
        assert!(found.altered.len() == 1 && found.altered[0].contains("guest_rip"), "{guest}: {:?}", found.altered);
        let mut bytes = Vec::new();
        found.write(&reader, &mut bytes).expect("a vector takes all");
        let shows = Reader::from_bytes(bytes).expect("a sound trace");
        assert!(shows.len() < reader.len() && shows.header() == reader.header(), "{guest}: {} events", shows.len());
        // It ends with what was found, and L0 fails there again, by itself.
        let last = shows.event(shows.len() - 1).expect("sound").what;
        assert!(
            matches!(last, What::Stop(Stop { text, .. }) if text == format!("{FOUND}{}", found.message)),
            "{guest}"
        );
        let again = replay_l0(&shows, None, None).expect("replayed");
        assert_eq!((again.verdict.divergence, again.failure), (None, Some(found.message.clone())), "{guest}");
        // Altered no further, it fails at once.
        let at_once = mutate(&shows, seed, 100, &mut |_| {}).expect("mutated");
        assert_eq!((at_once.runs, at_once.found.map(|found| found.message)), (0, Some(found.message)), "{guest}");
        MISTAKEN.set(false);
        assert_eq!(replay_l0(&shows, None, None).expect("replayed").failure, None, "{guest}: L0 without it holds");
    }

    #[test]
    fn a_mistake_that_altered_answers_show_is_found_and_shown_again() {
        for (guest, seed) in [("demo", 1), ("nest", 2), ("flush-storm", 3)] {
            check(guest, seed);
        }
    }
}
