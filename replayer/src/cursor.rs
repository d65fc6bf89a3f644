//! A place in a recorded run, with the machine as it was there: it goes to any event or instruction, forwards and back.
//!
//! Forwards it replays and compares; back it goes to a checkpoint before the place and forwards again. Checkpoints are taken
//! on the way, so that a place that was passed once is near ever after.

mod walk;

pub use walk::{Came, Place, Runner, Walk};

use crate::checkpoint::Checkpoints;
use crate::recorded::Recorded;
use crate::{Divergence, Error, machine};
use hv::machine::{Advance, Machine};
use hv_defs::event::{Kind, Stop};
use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use traces::Reader;
use traces::seek::{Content, SeekError, SeekFile};

/// Instructions between two checkpoints: what the software CPU does in some hundredths of a second.
const APART: u64 = 1 << 23;
/// Instructions before a place that was gone to, where one more is taken, so that a step back is short.
const CLOSE: [u64; 2] = [1 << 19, 1 << 15];
/// The most digests of contents beside the trace that are kept.
const HELD: usize = 1 << 20;
/// The most bytes that checkpoints may take.
const MOST: usize = 1 << 30;

/// Why a cursor stopped.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Arrived {
    /// It is where it was told to go.
    There,
    /// The recorded run ends before that, for this reason; `None` where a trace was cut short.
    End(Option<Stop>),
    /// The replay differs from the recording before that. The machine stands behind the first event that differs.
    Diverged(Box<Divergence>),
}

/// A place in a recorded run.
pub struct Cursor<'a> {
    reader: &'a Reader,
    machine: Machine,
    world: Recorded<'a>,
    checkpoints: Checkpoints,
    /// Checkpoints beside the trace.
    beside: Option<SeekFile>,
    /// What a page's digest is when it holds a content of theirs.
    held: BTreeMap<(u32, Content), u64>,
    /// Pages of memory as the guest's images left them, made when one is asked for.
    initial: OnceCell<BTreeMap<u32, Arc<[u8]>>>,
    ended: Option<Stop>,
}

impl std::fmt::Debug for Cursor<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cursor").field("event", &self.event()).field("instruction", &self.instruction()).finish()
    }
}

impl<'a> Cursor<'a> {
    /// Before the first instruction of a trace's run.
    ///
    /// # Errors
    /// The machine cannot be built, or the trace's inputs cannot be read.
    pub fn open(reader: &'a Reader) -> Result<Self, Error> {
        let mut machine = machine(reader.header())?;
        let mut checkpoints = Checkpoints::new(&mut machine, MOST);
        let mut world = Recorded::new(reader, None, Box::new(|_| {}))?.lenient();
        machine.tell(&mut world);
        checkpoints.take(&mut machine, world.progress());
        Ok(Self {
            reader,
            machine,
            world,
            checkpoints,
            beside: None,
            held: BTreeMap::new(),
            initial: OnceCell::new(),
            ended: None,
        })
    }

    /// Has the cursor use the checkpoints in the file at `path` too: see [`crate::beside`]. A checkpoint that turns out to be
    /// damaged is left aside with all that follow it. Returns how many there are.
    ///
    /// # Errors
    /// They are of another trace or build, or the file cannot be read. The cursor goes without.
    pub fn use_beside(&mut self, path: &Path) -> Result<usize, SeekError> {
        let file = crate::beside::open(path, self.reader)?;
        let points = file.points().len();
        self.beside = Some(file);
        Ok(points)
    }

    /// The trace.
    pub fn reader(&self) -> &'a Reader {
        self.reader
    }

    /// How many events have happened: the number of the next one.
    pub fn event(&self) -> u64 {
        self.world.events()
    }

    /// Instructions retired.
    pub fn instruction(&self) -> u64 {
        self.machine.now()
    }

    /// A digest of all events up to here, as [`crate::Verdict::digest`]; `None` where some were passed over on the way.
    pub fn digest(&self) -> Option<u64> {
        self.world.digest()
    }

    /// The same up to the event that [`Cursor::to_event`] was told.
    pub fn digest_of_event(&self) -> Option<u64> {
        self.world.noted()
    }

    /// The machine at this place. It is to be looked at, not to be run.
    pub fn machine(&mut self) -> &mut Machine {
        &mut self.machine
    }

    /// The first difference that was met on the way here.
    pub fn divergence(&self) -> Option<&Divergence> {
        self.world.divergence()
    }

    /// Goes to where `event` has just happened. L0 makes the events of one exit together, so the machine stands behind the
    /// last of them.
    ///
    /// # Errors
    /// A block of the trace cannot be read.
    pub fn to_event(&mut self, event: u64) -> Result<Arrived, Error> {
        self.surely(|cursor| cursor.go_to_event(event))
    }

    fn go_to_event(&mut self, event: u64) -> Result<Arrived, Error> {
        let Some(last) = self.reader.len().checked_sub(1) else { return Ok(Arrived::End(None)) };
        let broken = |source| Error::Trace { event, source };
        let at = self.reader.event(event.min(last)).map_err(broken)?.at.instruction;
        // A machine that stands behind the event may stand behind others too.
        self.world.note(event);
        let back = self.event() > event || self.at_end();
        self.near(back, |_, events| events <= event);
        let mut arrived = self.run_to(at)?;
        self.machine.set_fine(true);
        while arrived.is_none() && self.event() <= event {
            // A block that cannot be read leaves nothing to go on for.
            arrived = match self.advance() {
                Ok(arrived) => arrived,
                Err(error) => {
                    self.machine.set_fine(false);
                    return Err(error);
                }
            };
        }
        self.machine.set_fine(false);
        // The run may end, or differ, right behind the event.
        Ok(arrived.filter(|_| self.event() <= event).unwrap_or(Arrived::There))
    }

    /// Goes to where `instruction` instructions are retired, and the next is about to be executed by whichever guest runs;
    /// where a halted machine's clock passes that, to the first instruction behind it.
    ///
    /// # Errors
    /// As [`Cursor::to_event`].
    pub fn to_instruction(&mut self, instruction: u64) -> Result<Arrived, Error> {
        self.surely(|cursor| {
            let back = cursor.instruction() > instruction || cursor.at_end();
            cursor.near(back, |at, _| at <= instruction);
            Ok(cursor.run_to(instruction)?.unwrap_or(Arrived::There))
        })
    }

    /// Goes somewhere; if the replay differs on the way from a checkpoint beside the trace, once more and without: a
    /// difference is the trace's only if it is met from the start.
    fn surely(&mut self, go: impl Fn(&mut Self) -> Result<Arrived, Error>) -> Result<Arrived, Error> {
        match go(self)? {
            Arrived::Diverged(_) if self.doubt() => go(self),
            arrived => Ok(arrived),
        }
    }

    /// Where the replay differs on the way from a checkpoint beside the trace: goes back to the start, and does without them.
    /// `false` where it came from the start, and the difference is the trace's.
    fn doubt(&mut self) -> bool {
        let doubted = self.world.digest().is_none();
        if doubted {
            self.beside = None;
            self.checkpoints.retain(|checkpoint| checkpoint.progress.is_of_all());
            self.jump(0);
        }
        doubted
    }

    /// Goes to where the mark with this value was set for the `count`th time, counted from 1.
    ///
    /// # Errors
    /// As [`Cursor::to_event`]. `None` when there is no such mark.
    pub fn to_mark(&mut self, value: u32, count: u64) -> Result<Option<Arrived>, Error> {
        let mut left = count;
        for block in 0..self.reader.blocks().len() {
            let event = self.reader.blocks()[block].first;
            let broken = |source| Error::Trace { event, source };
            let rows = self.reader.block_columns(block, Kind::Mark).map_err(broken)?;
            let Some(values) = rows.column("value") else { continue };
            for (number, _) in rows.event.iter().zip(values).filter(|(_, mark)| *mark == u64::from(value)) {
                left = left.saturating_sub(1);
                if left == 0 {
                    return self.to_event(number).map(Some);
                }
            }
        }
        Ok(None)
    }

    fn at_end(&self) -> bool {
        self.ended.is_some() || self.world.is_over()
    }

    /// Goes to the last checkpoint of whose instruction and number of events `early` says that they are early enough: where it
    /// is to go `back`, wherever that is, else if it is ahead.
    fn near(&mut self, back: bool, early: impl Fn(u64, u64) -> bool) {
        // The first one is at the start, where everything is still to come.
        let found = self.checkpoints.find(|kept| early(kept.instruction, kept.progress.events));
        let number = found.unwrap_or(0);
        let at = self.checkpoints.get(number).map_or(0, |found| found.instruction);
        let from = if back { at } else { at.max(self.instruction()) };
        let mut lost = false;
        while let Some(beside) = &mut self.beside
            && let Some(number) = beside.find(|point| early(point.instruction, point.events))
            && beside.point(number).is_some_and(|point| point.instruction > from)
        {
            if self.jump_beside(number) {
                return;
            }
            lost = true;
        }
        if back || lost || at > self.instruction() {
            self.jump(number);
        }
    }

    /// Goes to a checkpoint beside the trace. `false` where it is damaged: then it is given up, and so are those behind it.
    /// The machine may have been changed.
    fn jump_beside(&mut self, number: usize) -> bool {
        let Self { reader, machine, world, beside, initial, ended, held, .. } = self;
        let Some(file) = beside else { return false };
        let first = |page: u32| initial.get_or_init(|| initial_pages(reader)).get(&page).cloned();
        let progress = file.point(number).and_then(|point| world.progress_at(point));
        // A state that is none leaves the machine as it is.
        let restored = file.state(number).is_ok_and(|state| progress.is_some() && machine.restore(&state).is_ok());
        let (Some(progress), true) = (progress, restored) else {
            file.truncate(number);
            return false;
        };
        let before = machine.page_digests().to_vec();
        let same = |page: u32, content| held.get(&(page, content)) == before.get(page as usize);
        let mut set = Vec::new();
        let pages = file.pages(number, before.len() as u32, first, same, |page, content, bytes| {
            differs(machine, page, bytes);
            set.push((page, content));
        });
        if pages.is_err() {
            file.truncate(number);
            return false;
        }
        let now = machine.page_digests();
        if held.len() > HELD {
            held.clear();
        }
        held.extend(set.into_iter().map(|place| (place, now[place.0 as usize])));
        world.resume(progress);
        *ended = None;
        true
    }

    fn jump(&mut self, number: usize) {
        let Self { reader, machine, checkpoints, initial, .. } = self;
        let first = |page: u32| {
            let pages = initial.get_or_init(|| initial_pages(reader));
            pages.get(&page).cloned()
        };
        if let Some(progress) = checkpoints.restore(number, machine, first) {
            self.world.resume(progress);
            self.ended = None;
        }
    }

    /// Runs on to an instruction, taking checkpoints on the way. `None` when it is there.
    fn run_to(&mut self, instruction: u64) -> Result<Option<Arrived>, Error> {
        while self.instruction() < instruction {
            let here = self.checkpoints.before(self.instruction());
            let close = CLOSE.iter().filter_map(|before| instruction.checked_sub(*before));
            let next = close.filter(|&stop| stop > here && stop > self.instruction()).min().unwrap_or(instruction);
            let next = next.min((here + APART).max(self.instruction() + 1)).min(instruction);
            if let Some(arrived) = self.run_on(next)? {
                return Ok(Some(arrived));
            }
            if next < instruction && self.instruction() > self.checkpoints.before(self.instruction()) {
                self.checkpoints.take(&mut self.machine, self.world.progress());
            }
        }
        Ok(None)
    }

    fn run_on(&mut self, instruction: u64) -> Result<Option<Arrived>, Error> {
        if let Some(arrived) = self.arrived()? {
            return Ok(Some(arrived));
        }
        let advance = self.machine.run_to(&mut self.world, instruction);
        self.after(advance)
    }

    fn advance(&mut self) -> Result<Option<Arrived>, Error> {
        if let Some(arrived) = self.arrived()? {
            return Ok(Some(arrived));
        }
        let advance = self.machine.advance(&mut self.world);
        self.after(advance)
    }

    fn after(&mut self, advance: Advance) -> Result<Option<Arrived>, Error> {
        if let Advance::Ended(stop) = advance {
            self.ended = Some(stop);
        }
        self.world.check_end(self.ended.is_some())?;
        self.arrived()
    }

    /// What there is to say of this place, if the run does not go on from here.
    fn arrived(&mut self) -> Result<Option<Arrived>, Error> {
        if let Some(source) = self.world.take_failure() {
            return Err(Error::Trace { event: self.event(), source });
        }
        if let Some(divergence) = self.world.divergence() {
            return Ok(Some(Arrived::Diverged(Box::new(divergence.clone()))));
        }
        Ok(match (&self.ended, self.world.is_over()) {
            (Some(stop), _) => Some(Arrived::End(Some(stop.clone()))),
            (None, true) => Some(Arrived::End(None)),
            (None, false) => None,
        })
    }
}

/// Sets a page that differs.
fn differs(machine: &mut Machine, page: u32, bytes: &[u8]) {
    if machine.page(page as usize).is_some_and(|now| now != bytes) {
        machine.set_page(page as usize, bytes);
    }
}

/// The pages of memory that are not zeros before the first instruction.
fn initial_pages(reader: &Reader) -> BTreeMap<u32, Arc<[u8]>> {
    // The same was built when the cursor was opened.
    let Ok(mut machine) = machine(reader.header()) else { return BTreeMap::new() };
    let numbers: Vec<u32> =
        (0..).zip(machine.page_digests()).filter(|(_, digest)| **digest != 0).map(|(page, _)| page).collect();
    numbers.into_iter().filter_map(|page| Some((page, machine.page(page as usize)?.into()))).collect()
}
