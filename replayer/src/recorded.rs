//! The recorded world: answers from a trace, and compares what happens with it.

use crate::{Error, Verdict};
use core::ops::ControlFlow;
use hv::world::World;
use hv_defs::config::Log;
use hv_defs::event::{Event, Input, InputKind, Kind, Stop, What};
use hv_defs::fields::{FieldDiff, MAX_COLUMNS, Texts, Value, compare};
use traces::seek::{Point, mix_input};
use traces::{Events, Reader};

/// Which of the two runs has an event that the other lacks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    /// Both have one, and they differ.
    Both,
    /// The recorded run has an event here and the replay ended.
    Recorded,
    /// The recorded run ended and the replay has an event here.
    Replayed,
}

/// The first difference between a recorded run and its replay.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Divergence {
    /// The event's number.
    pub event: u64,
    /// The field that differs: one of its kind's, of the stamp's, or `kind`; of an event that one side lacks, `kind` too.
    pub field: &'static str,
    /// The recorded value; [`Value::None`] where the recorded run has no such event.
    pub expected: Value,
    /// The replay's; [`Value::None`] where the replay has no such event.
    pub got: Value,
    /// Which side has the event.
    pub side: Side,
    /// The recorded event, if there is one.
    pub recorded: Option<Event>,
    /// The replay's, if there is one.
    pub replayed: Option<Event>,
}

impl Divergence {
    fn new(event: u64, recorded: Option<Event>, replayed: Option<Event>) -> Option<Self> {
        let kind = |event: &Event| Value::Word(event.what.kind().name().into());
        let (side, diff) = match (&recorded, &replayed) {
            (Some(expected), Some(got)) => (Side::Both, compare(expected, got)?),
            (Some(expected), None) => {
                (Side::Recorded, FieldDiff { field: "kind", expected: kind(expected), got: Value::None })
            }
            (None, Some(got)) => (Side::Replayed, FieldDiff { field: "kind", expected: Value::None, got: kind(got) }),
            (None, None) => return None,
        };
        let FieldDiff { field, expected, got } = diff;
        Some(Self { event, field, expected, got, side, recorded, replayed })
    }
}

/// Events between two calls of `progress`.
const PROGRESS: u64 = 1 << 16;

/// The world of a replay.
pub(crate) struct Recorded<'a> {
    reader: &'a Reader,
    expected: Events<'a>,
    inputs: Vec<Input>,
    next_input: usize,
    /// Events that were the same; the number of the next one.
    events: u64,
    /// Whether the trace does not tell how the run ended.
    endless: bool,
    /// The number behind the last event to compare.
    end: u64,
    instructions: u64,
    /// Of all events that were the same; `None` where some were passed over.
    digest: Option<u64>,
    /// The event behind which what was compared is noted, and the digest up to there.
    noted: (u64, Option<u64>),
    last: Option<Stop>,
    divergence: Option<Divergence>,
    failed: Option<traces::Error>,
    /// The machine is not broken off, whatever happens: who runs it asks [`Recorded::is_over`] between two steps.
    lenient: bool,
    /// The machine does not tell what silicon answers L0, and what is recorded of it is passed over.
    deaf: bool,
    watcher: Box<dyn FnMut(u64) + 'a>,
}

/// How far a comparison has come.
#[derive(Clone, Debug)]
pub(crate) struct Progress {
    /// Events that were the same.
    pub(crate) events: u64,
    next_input: usize,
    instructions: u64,
    digest: Option<u64>,
    last: Option<Stop>,
}

impl Progress {
    /// Of a world that counts events and inputs and compares nothing.
    pub(crate) fn of_inputs(events: u64, next_input: usize) -> Self {
        Self { events, next_input, instructions: 0, digest: None, last: None }
    }

    /// Whether all events up to here were compared.
    pub(crate) fn is_of_all(&self) -> bool {
        self.digest.is_some()
    }

    /// Inputs that were given.
    pub(crate) fn inputs_given(&self) -> usize {
        self.next_input
    }
}

impl<'a> Recorded<'a> {
    /// `watcher` is told, now and then, how many events have been compared.
    pub(crate) fn new(reader: &'a Reader, to: Option<u64>, watcher: Box<dyn FnMut(u64) + 'a>) -> Result<Self, Error> {
        Ok(Self {
            reader,
            expected: reader.events(0),
            inputs: inputs(reader)?,
            endless: reader.truncated() || !tells_the_end(reader),
            next_input: 0,
            events: 0,
            end: to.map_or(u64::MAX, |to| to.saturating_add(1)),
            instructions: 0,
            digest: Some(0),
            noted: (u64::MAX, None),
            last: None,
            divergence: None,
            failed: None,
            lenient: false,
            deaf: reader.header().config.log == Log::L0,
            watcher,
        })
    }

    /// The same, but it never breaks the machine off.
    pub(crate) fn lenient(self) -> Self {
        Self { lenient: true, ..self }
    }

    /// The same, for a machine that tells what silicon answers L0.
    pub(crate) fn taped(self) -> Self {
        Self { deaf: false, ..self }
    }

    /// How far it has come.
    pub(crate) fn progress(&self) -> Progress {
        let Self { events, next_input, instructions, digest, last, .. } = self;
        Progress {
            events: *events,
            next_input: *next_input,
            instructions: *instructions,
            digest: *digest,
            last: last.clone(),
        }
    }

    /// Where it stands, as a file of checkpoints has it.
    pub(crate) fn point(&self, instruction: u64) -> Point {
        let given = given(&self.inputs[..self.next_input]);
        Point { events: self.events, instruction, inputs: self.next_input as u64, given }
    }

    /// How far a comparison has come at a point of a file of checkpoints; `None` where the trace does not come there with the
    /// inputs that its machine was given. It has no digest of the events: nobody has seen them.
    pub(crate) fn progress_at(&self, point: &Point) -> Option<Progress> {
        let next_input = usize::try_from(point.inputs).ok()?;
        let same = self.inputs.get(..next_input).is_some_and(|inputs| given(inputs) == point.given);
        let inside = point.events <= self.reader.len();
        (same && inside).then_some(Progress {
            events: point.events,
            next_input,
            instructions: point.instruction,
            digest: None,
            last: None,
        })
    }

    /// All events before that of a number were found to be the same by somebody else; `last` is the last of them.
    pub(crate) fn has_come_to(&mut self, events: u64, last: Event) {
        let instructions = last.at.instruction;
        let last = if let What::Stop(stop) = last.what { Some(stop) } else { None };
        let next_input = self.next_input;
        self.resume(Progress { events, next_input, instructions, digest: None, last });
    }

    /// Goes on from where it was before.
    pub(crate) fn resume(&mut self, progress: Progress) {
        let Progress { events, next_input, instructions, digest, last } = progress;
        self.expected = self.reader.events(events);
        (self.events, self.next_input, self.instructions) = (events, next_input, instructions);
        (self.digest, self.last) = (digest, last);
        (self.divergence, self.failed) = (None, None);
    }

    /// Events that were the same.
    pub(crate) fn events(&self) -> u64 {
        self.events
    }

    /// Bytes of the trace up to the last whole block that was compared.
    pub(crate) fn bytes(&self) -> u64 {
        let blocks = self.reader.blocks();
        let past = blocks.partition_point(|block| block.first + u64::from(block.events) <= self.events);
        let first = blocks.first().map_or(0, |block| block.offset);
        past.checked_sub(1).map_or(first, |last| blocks[last].offset + blocks[last].bytes)
    }

    /// The digest of all events, where none was passed over.
    pub(crate) fn digest(&self) -> Option<u64> {
        self.digest
    }

    /// Has the digest noted behind an event.
    pub(crate) fn note(&mut self, event: u64) {
        self.noted = (event, None);
    }

    /// The digest behind the event that was to be noted; `None` where that was passed over, or an event before it.
    pub(crate) fn noted(&self) -> Option<u64> {
        self.noted.1
    }

    /// The first difference.
    pub(crate) fn divergence(&self) -> Option<&Divergence> {
        self.divergence.as_ref()
    }

    /// Why the trace could not be read on.
    pub(crate) fn take_failure(&mut self) -> Option<traces::Error> {
        self.failed.take()
    }

    /// Whether nothing more can be compared.
    pub(crate) fn is_over(&self) -> bool {
        self.divergence.is_some() || self.failed.is_some() || self.done()
    }

    /// If the machine's run is over, nothing more may be recorded.
    pub(crate) fn check_end(&mut self, ended: bool) -> Result<(), Error> {
        if ended && self.divergence.is_none() && !self.done() {
            let left = self.expected.next().transpose();
            let left = left.map_err(|source| Error::Trace { event: self.events, source })?;
            self.divergence = Divergence::new(self.events, left, None);
        }
        Ok(())
    }

    /// Whether there is nothing left to compare, so that the machine may stop.
    fn done(&self) -> bool {
        self.events >= self.end || self.endless && self.events >= self.reader.len()
    }

    fn compare(&mut self, got: &Event) -> ControlFlow<()> {
        if self.is_over() {
            return ControlFlow::Break(());
        }
        while self.deaf && self.expected.pass(Kind::Answer) {
            self.events += 1;
        }
        if !self.expected.accept(got) {
            let expected = match self.expected.next().transpose() {
                Ok(expected) => expected,
                Err(error) => {
                    self.failed = Some(error);
                    return ControlFlow::Break(());
                }
            };
            if expected.as_ref() != Some(got) {
                self.divergence = Divergence::new(self.events, expected, Some(got.clone()));
                return ControlFlow::Break(());
            }
        }
        self.digest = self.digest.map(|before| digest(before, got));
        if self.events >= self.noted.0 && self.noted.1.is_none() {
            self.noted.1 = self.digest;
        }
        self.instructions = got.at.instruction;
        self.events += 1;
        if let What::Stop(stop) = &got.what {
            self.last = Some(stop.clone());
        }
        if self.events.is_multiple_of(PROGRESS) {
            (self.watcher)(self.events);
        }
        ControlFlow::Continue(())
    }

    /// What was found. `ended` is how the machine said that its run ended, if it ran.
    pub(crate) fn verdict(mut self, ended: Option<Stop>) -> Result<Verdict, Error> {
        if let Some(source) = self.failed {
            return Err(Error::Trace { event: self.events, source });
        }
        self.check_end(ended.is_some())?;
        Ok(Verdict {
            events: self.events,
            instructions: self.instructions,
            divergence: self.divergence,
            digest: self.digest.unwrap_or_default(),
            stop: self.last,
            truncated: self.endless,
        })
    }
}

impl World for Recorded<'_> {
    fn events(&mut self, events: &[Event]) -> ControlFlow<()> {
        for event in events {
            if self.compare(event).is_break() {
                return if self.lenient { ControlFlow::Continue(()) } else { ControlFlow::Break(()) };
            }
        }
        if self.lenient {
            ControlFlow::Continue(())
        } else if self.done() {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    }

    fn console(&mut self, _: &[u8]) {}

    fn input(&mut self, poll: u64, _now: u64, _idle_until: Option<u64>) -> Option<(InputKind, u64)> {
        // Polls only go up, so an answer that was passed over will not be asked for.
        let left = &self.inputs[self.next_input..];
        self.next_input += left.iter().take_while(|input| input.poll < poll).count();
        let input = self.inputs.get(self.next_input).filter(|input| input.poll == poll)?;
        self.next_input += 1;
        Some((input.kind, input.value))
    }
}

/// Whether the last event says how the run ended, as it does in every trace that was not cut.
fn tells_the_end(reader: &Reader) -> bool {
    let last = reader.len().checked_sub(1).map(|last| reader.event(last));
    // What cannot be read is an error when the replay comes to it.
    last.is_some_and(|last| last.map_or(true, |event| matches!(event.what, What::Stop(_))))
}

/// A digest of inputs.
fn given(inputs: &[Input]) -> u64 {
    inputs.iter().fold(0, |digest, input| mix_input(digest, input.poll, input.kind as u64, input.value))
}

/// All inputs that the trace holds, in order.
pub(crate) fn inputs(reader: &Reader) -> Result<Vec<Input>, Error> {
    let mut inputs = Vec::new();
    for block in (0..reader.blocks().len()).filter(|block| reader.rows_in(*block, Kind::Input) != Some(0)) {
        let event = reader.blocks()[block].first;
        let rows = match reader.block_columns(block, Kind::Input) {
            Ok(rows) => rows,
            // The replay goes as far as the blocks before it.
            Err(traces::Error::Block { .. }) => break,
            Err(source) => return Err(Error::Trace { event, source }),
        };
        for row in 0..rows.len() {
            let cells: Vec<u64> = rows.columns.iter().map(|column| column.values.at(row)).collect();
            if let Some(What::Input(input)) = What::from_row(Kind::Input, &cells, &rows.texts) {
                inputs.push(input);
            }
        }
    }
    Ok(inputs)
}

/// Mixes an event into a digest.
fn digest(digest: u64, event: &Event) -> u64 {
    /// Odd and without a pattern.
    const FACTORS: [u64; MAX_COLUMNS] = {
        let mut factors = [0x9e37_79b9_7f4a_7c15_u64; MAX_COLUMNS];
        let mut at = 1;
        while at < MAX_COLUMNS {
            factors[at] = factors[at - 1].wrapping_mul(0xd134_2543_de82_ef95).wrapping_add(2);
            at += 1;
        }
        factors
    };
    let (mut row, mut texts) = ([0; MAX_COLUMNS], Texts::default());
    event.what.row(&mut row, &mut texts);
    let mut sum = 0_u64;
    for (number, factor) in row.into_iter().zip(FACTORS) {
        sum = sum.wrapping_add((number ^ number >> 32).wrapping_mul(factor));
    }
    let place = (event.what.kind() as u64) << 32 | u64::from(event.at.vcpu) << 16 | u64::from(event.at.pcpu);
    let mixed = mix(mix(mix(digest, place), event.at.instruction), sum);
    texts.list.iter().flat_map(|text| text.bytes()).fold(mixed, |mixed, byte| mix(mixed, byte.into()))
}

const fn mix(digest: u64, number: u64) -> u64 {
    let product = (digest.rotate_left(23) ^ number) as u128 * 0x9e37_79b9_7f4a_7c15;
    (product as u64) ^ (product >> 64) as u64
}
