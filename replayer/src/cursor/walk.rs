//! Walking a recorded run under stops, instruction by instruction and exit by exit, forwards and back: what a debugger does.
//!
//! A place is more than an instruction count: an instruction that exits retires nothing, and so the guest that it leaves and
//! the one that runs behind it stand at one count. The events that have happened tell them apart.

use super::{APART, Arrived, Cursor};
use crate::Error;
use hv::cpu::{Met, Stops};

/// A place in a run, in the run's order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Place {
    /// Instructions retired.
    pub instruction: u64,
    /// Events that have happened.
    pub event: u64,
}

/// A guest: its vCPU, and its level from 1.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Runner {
    /// The vCPU of L1's.
    pub vcpu: usize,
    /// 1 for L1, 2 for its guest, and so on.
    pub level: u8,
}

/// Why a walk ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Came {
    /// It is where it was to go.
    There,
    /// It met a stop.
    Met(Met),
    /// It was interrupted on the way.
    Interrupted,
    /// The run goes no further.
    Over(Arrived),
}

/// What a walk goes by.
pub struct Walk<'a> {
    /// Where to stop.
    pub stops: &'a Stops,
    /// Whether a guest that met one is meant.
    pub wanted: &'a dyn Fn(Runner, &Met) -> bool,
    /// Asked now and then whether to end at once.
    pub interrupted: &'a mut dyn FnMut() -> bool,
}

impl std::fmt::Debug for Walk<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Walk").field("stops", self.stops).finish_non_exhaustive()
    }
}

/// Instructions between two questions whether to end.
const SPAN: u64 = 1 << 22;

impl Cursor<'_> {
    /// This place.
    pub fn place(&self) -> Place {
        Place { instruction: self.instruction(), event: self.event() }
    }

    /// The guest that runs, or that would.
    pub fn runner(&self) -> Runner {
        let vcpu = self.machine.turn().0;
        Runner { vcpu, level: self.machine.l0().level(vcpu) }
    }

    /// Goes to a place that [`Cursor::place`] gave, or to the first one behind it.
    ///
    /// # Errors
    /// As [`Cursor::to_event`].
    pub fn to_place(&mut self, to: Place) -> Result<Arrived, Error> {
        let early = |instruction: u64, events: u64| (instruction, events) <= (to.instruction, to.event);
        let back = self.place() > to || self.at_end();
        self.near(back, early);
        if let Some(arrived) = self.run_to(to.instruction)? {
            return Ok(arrived);
        }
        while self.place() < to {
            if let Some(arrived) = self.step_one()? {
                return Ok(arrived);
            }
        }
        Ok(Arrived::There)
    }

    /// Goes to some place before `instruction` instructions are retired, near them; `beat` is told now and then that it is
    /// still on its way.
    ///
    /// # Errors
    /// As [`Cursor::to_event`].
    pub fn approach(&mut self, instruction: u64, beat: &mut dyn FnMut()) -> Result<(), Error> {
        let back = self.instruction() > instruction || self.at_end();
        self.near(back, |at, _| at <= instruction);
        let mut interrupted = || {
            beat();
            false
        };
        let mut walk = Walk { stops: &Stops::default(), wanted: &|_, _| true, interrupted: &mut interrupted };
        self.walk_on(&mut walk, Place { instruction: instruction.saturating_sub(SPAN), event: 0 })?;
        Ok(())
    }

    /// Goes nearer to where `event` has just happened, as [`Cursor::to_event`] goes there, until `enough` says so: it is asked
    /// every few million instructions. `None` while it is on its way. Called again and again it arrives.
    ///
    /// # Errors
    /// As [`Cursor::to_event`].
    pub fn toward(&mut self, event: u64, enough: &mut dyn FnMut() -> bool) -> Result<Option<Arrived>, Error> {
        let Some(last) = self.reader.len().checked_sub(1) else { return Ok(Some(Arrived::End(None))) };
        let broken = |source| Error::Trace { event, source };
        let at = self.reader.event(event.min(last)).map_err(broken)?.at.instruction;
        let back = self.event() > event || self.at_end();
        self.near(back, |_, events| events <= event);
        let before = Place { instruction: at.saturating_sub(SPAN), event: 0 };
        let mut walk = Walk { stops: &Stops::default(), wanted: &|_, _| true, interrupted: enough };
        match self.walk_on(&mut walk, before)? {
            Came::Interrupted => Ok(None),
            Came::Over(Arrived::Diverged(_)) if self.doubt() => Ok(None),
            Came::There | Came::Met(_) | Came::Over(_) => match self.go_to_event(event)? {
                Arrived::Diverged(_) if self.doubt() => Ok(None),
                arrived => Ok(Some(arrived)),
            },
        }
    }

    /// Goes forwards to `limit`, or to the first stop that is met before it. None is met at this place itself.
    ///
    /// # Errors
    /// As [`Cursor::to_event`].
    pub fn walk(&mut self, walk: &mut Walk, limit: Place) -> Result<Came, Error> {
        self.under(walk, |cursor, walk| cursor.walk_on(walk, limit))
    }

    /// Has a guest execute one instruction, or make one exit that leaves RIP elsewhere; whatever other guests run meanwhile
    /// runs under the stops.
    ///
    /// # Errors
    /// As [`Cursor::to_event`].
    pub fn step(&mut self, walk: &mut Walk, runner: Runner) -> Result<Came, Error> {
        self.under(walk, |cursor, walk| {
            if let Some(over) = cursor.settle()? {
                return Ok(Came::Over(over));
            }
            let start = (cursor.runner() == runner).then(|| (cursor.instruction(), cursor.rip()));
            loop {
                let over = if cursor.runner() == runner { cursor.step_one()? } else { cursor.next_exit()? };
                if let Some(over) = over {
                    return Ok(Came::Over(over));
                }
                if let Some(met) = cursor.met(walk) {
                    return Ok(Came::Met(met));
                }
                if cursor.runner() == runner && Some((cursor.instruction(), cursor.rip())) != start {
                    return Ok(Came::There);
                }
                if (walk.interrupted)() {
                    return Ok(Came::Interrupted);
                }
            }
        })
    }

    /// Goes back by what [`Cursor::step`] goes on. [`Arrived::End`] at the beginning.
    ///
    /// # Errors
    /// As [`Cursor::to_event`].
    pub fn step_back(&mut self, runner: Runner) -> Result<Arrived, Error> {
        let here = self.place();
        let rip = (self.runner() == runner).then(|| self.rip());
        let moved = |place: Place, at: u64| place.instruction != here.instruction || Some(at) != rip;
        match self.previous(here, Some(runner), moved)? {
            Some(place) => self.to_place(place),
            None => self.to_place(Place { instruction: 0, event: 0 }).map(|_| Arrived::End(None)),
        }
    }

    /// Goes back to the last stop before this place: before the instruction of one that is on an instruction, and before that
    /// which makes the access of one that is on data. Goes no further back than to `least`, and there if none is met.
    ///
    /// # Errors
    /// As [`Cursor::to_event`].
    pub fn walk_back(&mut self, walk: &mut Walk, least: Place) -> Result<Came, Error> {
        let start = self.place();
        let mut limit = start;
        while limit > least && !walk.stops.is_empty() {
            // Stops are met forwards alone: from the last checkpoint before on.
            let before = |instruction: u64, event: u64| Place { instruction, event } < limit;
            self.near(true, before);
            let from = self.place();
            let (mut last, mut passes) = (None, false);
            let interrupted = loop {
                self.machine.set_stops(walk.stops, passes);
                let came = self.walk_on(walk, limit);
                self.machine.set_stops(&Stops::default(), false);
                match came? {
                    Came::Met(met) => {
                        let here = self.place();
                        let counts = match met {
                            Met::Code(_) => here >= least && here < limit,
                            Met::Data(_) => here > least && here <= limit,
                        };
                        last = if counts { Some((here, met)) } else { last };
                        passes = true;
                        if here >= limit {
                            break false;
                        }
                    }
                    Came::Interrupted => break true,
                    Came::There | Came::Over(_) => break false,
                }
            };
            if interrupted || (walk.interrupted)() {
                self.to_place(start)?;
                return Ok(Came::Interrupted);
            }
            if let Some((place, met)) = last {
                let place = match met {
                    Met::Code(_) => place,
                    Met::Data(_) => self.previous(place, None, |_, _| true)?.unwrap_or(place),
                };
                self.to_place(place)?;
                return Ok(Came::Met(met));
            }
            if from >= limit {
                break;
            }
            limit = from;
        }
        self.to_place(least)?;
        Ok(Came::There)
    }

    /// The last place before `before` that `wanted` says yes of, by the place and its RIP; of those of a guest alone, if
    /// one is given. The cursor is somewhere then.
    fn previous(
        &mut self,
        before: Place,
        runner: Option<Runner>,
        wanted: impl Fn(Place, u64) -> bool,
    ) -> Result<Option<Place>, Error> {
        let mut span = 1;
        loop {
            let from = before.instruction.saturating_sub(span);
            // A checkpoint at that very instruction may be behind some of its exits.
            self.near(true, |instruction, _| instruction < from);
            let mut found = None;
            if self.run_to(from)?.is_none() && self.settle()?.is_none() {
                while self.place() < before {
                    let here = runner.is_none_or(|runner| runner == self.runner());
                    if here && wanted(self.place(), self.rip()) {
                        found = Some(self.place());
                    }
                    let over = if here { self.step_one()? } else { self.next_exit()? };
                    if over.is_some() {
                        break;
                    }
                }
            }
            if found.is_some() || from == 0 {
                return Ok(found);
            }
            span *= 64;
        }
    }

    /// RIP of the guest that runs, which is paused.
    fn rip(&mut self) -> u64 {
        let pcpu = self.machine.turn().1;
        self.machine.silicon().cpu(pcpu).rip
    }

    fn walk_on(&mut self, walk: &mut Walk, limit: Place) -> Result<Came, Error> {
        loop {
            if let Some(met) = self.met(walk) {
                return Ok(Came::Met(met));
            }
            if self.place() >= limit {
                return Ok(Came::There);
            }
            if let Some(over) = self.arrived()? {
                return Ok(Came::Over(over));
            }
            if (walk.interrupted)() {
                return Ok(Came::Interrupted);
            }
            let here = self.instruction();
            let over = if here < limit.instruction {
                if here >= self.checkpoints.before(here) + APART && self.machine.is_paused() {
                    self.checkpoints.take(&mut self.machine, self.world.progress());
                }
                let next = limit.instruction.min(here + SPAN);
                let advance = self.machine.run_to(&mut self.world, next);
                self.after(advance)?
            } else {
                self.step_one()?
            };
            if let Some(over) = over {
                return Ok(Came::Over(over));
            }
        }
    }

    /// The stop that was just met, if it is one that is meant.
    fn met(&mut self, walk: &Walk) -> Option<Met> {
        let met = self.machine.take_met()?;
        (walk.wanted)(self.runner(), &met).then_some(met)
    }

    fn under(
        &mut self,
        walk: &mut Walk,
        act: impl FnOnce(&mut Self, &mut Walk) -> Result<Came, Error>,
    ) -> Result<Came, Error> {
        self.machine.set_stops(walk.stops, true);
        let came = act(self, walk);
        self.machine.set_stops(&Stops::default(), false);
        came
    }

    /// Goes on to the next instruction boundary, if this is none.
    fn settle(&mut self) -> Result<Option<Arrived>, Error> {
        if let Some(arrived) = self.arrived()? {
            return Ok(Some(arrived));
        }
        let advance = self.machine.settle(&mut self.world);
        self.after(advance)
    }

    /// One instruction, or one exit.
    fn step_one(&mut self) -> Result<Option<Arrived>, Error> {
        if let Some(arrived) = self.arrived()? {
            return Ok(Some(arrived));
        }
        let advance = self.machine.step_one(&mut self.world);
        self.after(advance)
    }

    /// To behind the next exit, or to a stop.
    fn next_exit(&mut self) -> Result<Option<Arrived>, Error> {
        self.machine.set_fine(true);
        let over = self.advance();
        self.machine.set_fine(false);
        match over? {
            None => self.settle(),
            over => Ok(over),
        }
    }
}
