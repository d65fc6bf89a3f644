//! What a debugger has the run do, forwards and back, and why it stopped.

use super::fields;
use super::target::{Debugged, Stop};
use crate::{Arrived, Came, Error, Place, Runner, Walk};
use gdbstub::common::{Signal, Tid};
use gdbstub::stub::MultiThreadStopReason as Reason;
use gdbstub::target::ext::base::reverse_exec::ReplayLogPosition;
use gdbstub::target::ext::breakpoints::WatchKind;
use hv::cpu::{Met, Stops};
use hv::l0::DEEPEST;

/// What is to be done next.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) enum Action {
    /// On to the next stop.
    #[default]
    Continue,
    /// A guest's next instruction.
    Step(Runner),
    /// Back to the last stop.
    ContinueBack,
    /// A guest's last instruction.
    StepBack(Runner),
}

/// The first place of all.
const START: Place = Place { instruction: 0, event: 0 };

/// No place.
const NEVER: Place = Place { instruction: u64::MAX, event: u64::MAX };

impl Debugged<'_, '_, '_> {
    /// Does what was asked for, until it is done or `interrupted`; `None` when it was.
    ///
    /// # Errors
    /// A block of the trace cannot be read.
    pub(super) fn carry_out(&mut self, interrupted: &mut dyn FnMut() -> bool) -> Result<Option<Reason<u64>>, Error> {
        let stops = self.stops();
        let (level, levels) = (self.level, core::mem::take(&mut self.levels));
        let alone = core::mem::take(&mut self.alone);
        let wanted = |runner: Runner, met: &Met| {
            let at = match met {
                Met::Code(at) => *at,
                Met::Data(watch) => watch.address,
            };
            let level = levels.iter().find(|(address, _)| *address == at).map(|(_, level)| *level).or(level);
            level.is_none_or(|level| level == runner.level)
                && alone.as_ref().is_none_or(|resumed| resumed.contains(&runner))
        };
        let came = self.go(&stops, &wanted, interrupted);
        (self.levels, self.alone) = (levels, alone);
        came
    }

    fn go(
        &mut self,
        stops: &Stops,
        wanted: &dyn Fn(Runner, &Met) -> bool,
        interrupted: &mut dyn FnMut() -> bool,
    ) -> Result<Option<Reason<u64>>, Error> {
        let mut walk = Walk { stops, wanted, interrupted };
        self.why = None;
        let came = match self.action {
            Action::Continue => {
                let reader = self.cursor.reader();
                let access = fields::next(reader, &self.fields, self.cursor.event())?;
                let limit = access.map_or(NEVER, |access| access.place);
                let came = self.cursor.walk(&mut walk, limit)?;
                self.why = access.filter(|_| came == Came::There).map(|access| access.event);
                came
            }
            Action::Step(runner) => self.cursor.step(&mut walk, runner)?,
            Action::StepBack(runner) => match self.cursor.step_back(runner)? {
                Arrived::There => Came::There,
                _ => return Ok(Some(self.at_end(ReplayLogPosition::Begin))),
            },
            Action::ContinueBack => {
                let here = self.cursor.place();
                let (least, event) = self.access_before()?;
                let came = match stops.is_empty() {
                    true if event.is_some() => Came::There,
                    true => self.cursor.to_place(START).map(|_| Came::There)?,
                    false => {
                        self.cursor.to_place(here)?;
                        self.cursor.walk_back(&mut walk, least)?
                    }
                };
                if came == Came::There && event.is_none() {
                    return Ok(Some(self.at_end(ReplayLogPosition::Begin)));
                }
                self.why = event.filter(|_| came == Came::There);
                came
            }
        };
        Ok(match came {
            Came::There => Some(Reason::SignalWithThread { tid: self.running_thread(), signal: Signal::SIGTRAP }),
            Came::Met(met) => Some(self.met(met)),
            Came::Interrupted => None,
            Came::Over(over) => {
                if let Arrived::Diverged(divergence) = over {
                    let text = format!("the replay differs from the recording at event {}", divergence.event);
                    self.tell(&text);
                }
                Some(self.at_end(ReplayLogPosition::End))
            }
        })
    }

    /// Goes to where the last access of a watched field before this place was made. Returns that place and the access; the
    /// start, and stays somewhere, where there is none.
    fn access_before(&mut self) -> Result<(Place, Option<u64>), Error> {
        let here = self.cursor.place();
        let mut event = here.event;
        while let Some(access) = fields::last(self.cursor.reader(), &self.fields, event)? {
            // L0 makes many accesses for one exit, and where it stands behind one of them it stands behind all.
            self.cursor.to_place(access.place)?;
            let place = self.cursor.place();
            if place < here {
                return Ok((place, Some(access.event)));
            }
            event = access.event;
        }
        Ok((START, None))
    }

    fn met(&mut self, met: Met) -> Reason<u64> {
        let tid = self.running_thread();
        match met {
            Met::Code(at) if self.breakpoints.contains(&(Stop::Software, at)) => Reason::SwBreak(tid),
            Met::Code(_) => Reason::HwBreak(tid),
            Met::Data(watch) => {
                let kind = match (watch.reads, watch.writes) {
                    (true, true) => WatchKind::ReadWrite,
                    (true, false) => WatchKind::Read,
                    _ => WatchKind::Write,
                };
                Reason::Watch { tid, kind, addr: watch.address }
            }
        }
    }

    fn at_end(&mut self, pos: ReplayLogPosition) -> Reason<u64> {
        Reason::ReplayLog { tid: Some(self.running_thread()), pos }
    }

    fn stops(&self) -> Stops {
        let mut code: Vec<u64> = self.breakpoints.iter().map(|(_, at)| *at).collect();
        code.sort_unstable();
        code.dedup();
        Stops { code, data: self.watches.clone() }
    }

    /// The thread of the guest that runs.
    pub(super) fn running_thread(&self) -> Tid {
        thread(self.cursor.runner())
    }
}

/// A guest's thread: as many numbers a vCPU as there are levels.
pub(super) fn thread(runner: Runner) -> Tid {
    Tid::MIN.saturating_add(runner.vcpu * usize::from(DEEPEST) + usize::from(runner.level) - 1)
}

/// The guest that a thread is.
pub(super) fn runner(tid: Tid) -> Runner {
    let (number, levels) = (tid.get() - 1, usize::from(DEEPEST));
    Runner { vcpu: number / levels, level: (number % levels) as u8 + 1 }
}
