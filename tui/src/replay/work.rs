//! What the replay's thread does: it owns the machine, and goes to events in pieces that take some 50 ms.

use super::{Lookup, Peek, Reply, Seen, Told};
use crate::work::PIECE;
use hv_defs::config::{Guest, ImageKind};
use hv_defs::event::{Actor, Event, What};
use replayer::look::{self, State};
use replayer::{Arrived, Build, Cursor, Divergence, Place, Runner, beside};
use std::path::PathBuf;
use std::time::Instant;
use traces::Reader;

/// Events of one exit that are taken back at most.
const TAKEN_BACK: u64 = 20_000;

/// A replay of a trace that waits to be told where to go.
pub(crate) struct Replay<'a> {
    reader: &'a Reader,
    /// The trace's file, beside which there may be checkpoints.
    path: Option<PathBuf>,
    cursor: Option<Cursor<'a>>,
    /// Where it goes, and at which instruction it was when it began to.
    goal: Option<(u64, u64)>,
    /// The events that have just happened where the cursor stands: from the one that it was sent to.
    stands: Option<(u64, u64)>,
}

impl<'a> Replay<'a> {
    /// Of a trace; nothing is built before it is needed.
    pub(crate) fn new(reader: &'a Reader, path: Option<PathBuf>) -> Self {
        Self { reader, path, cursor: None, goal: None, stands: None }
    }

    /// Goes a piece nearer to where an event has happened, and says what is there once it is.
    pub(crate) fn piece(&mut self, event: u64, look: Option<Peek>) -> Reply {
        Reply { event, told: self.told(event, look) }
    }

    fn told(&mut self, event: u64, look: Option<Peek>) -> Told {
        let Some(cursor) = &mut self.cursor else { return self.open() };
        if !self.stands.is_some_and(|(first, behind)| (first..behind).contains(&event)) {
            self.stands = None;
            if self.goal.is_none_or(|(goal, _)| goal != event) {
                self.goal = Some((event, cursor.instruction()));
            }
            let began = Instant::now();
            // A guest that is entered runs at once, until its next exit: what there is at an entry is what there was behind
            // the event before it.
            let enters = matches!(self.reader.event(event).map(|event| event.what), Ok(What::Entry(_)));
            let arrived = match event.checked_sub(enters.into()) {
                Some(goal) => cursor.toward(goal, &mut || began.elapsed() > PIECE),
                None => cursor.to_place(Place { instruction: 0, event: 0 }).map(|_| Some(Arrived::There)),
            };
            match arrived {
                Err(error) => return Told::Failed(error.to_string()),
                Ok(arrived) => match arrived {
                    None => return Told::Nearer(self.percent(event)),
                    Some(Arrived::There) => self.stands = Some((event, cursor.event().max(event + 1))),
                    Some(Arrived::Diverged(divergence)) => return Told::Diverged(diverged(self.reader, &divergence)),
                    Some(Arrived::End(_)) => return Told::Failed("the run ends before this event".into()),
                },
            }
            self.goal = None;
        }
        match look {
            None => Told::Seen(Box::new(self.seen(event))),
            Some(look) => match &mut self.cursor {
                Some(cursor) => Told::Looked(look, Box::new(looked(cursor, look))),
                None => Told::Opened,
            },
        }
    }

    fn open(&mut self) -> Told {
        if let Some(why) = refused(self.reader) {
            return Told::Never(why);
        }
        let mut cursor = match Cursor::open(self.reader) {
            Ok(cursor) => cursor,
            Err(error) => return Told::Never(error.to_string()),
        };
        if let Some(path) = self.path.as_deref().map(beside::beside).filter(|path| path.exists()) {
            // Those of another build or trace are left aside: the way is longer without.
            _ = cursor.use_beside(&path);
        }
        self.cursor = Some(cursor);
        Told::Opened
    }

    /// How much of the way is done.
    fn percent(&mut self, event: u64) -> u8 {
        let (Some(cursor), Some((_, from))) = (&self.cursor, self.goal) else { return 0 };
        let to = self.reader.event(event).map_or(0, |event| event.at.instruction);
        let at = cursor.instruction();
        // It went back to a checkpoint, and goes on from there.
        let from = from.min(at);
        if from == at {
            self.goal = Some((event, at));
        }
        ((u128::from(at - from) * 100) / u128::from(to.saturating_sub(from).max(1))).min(99) as u8
    }

    fn seen(&mut self, event: u64) -> Seen {
        let Some(cursor) = &mut self.cursor else { return Seen::default() };
        let mut state = State::of(cursor);
        let behind = cursor.event().max(event + 1);
        // The machine stands behind all events that the exit brought: the VMCSs are shown as they were at this one.
        let later = self.reader.events(event + 1).take((behind - event - 1).min(TAKEN_BACK) as usize);
        let later: Vec<Event> = later.map_while(Result::ok).collect();
        for event in later.iter().rev() {
            if let What::Vmcs(access) = &event.what {
                state.take_back(access);
            }
        }
        let here = self.reader.event(event).ok();
        if let Some(runner) = here.as_ref().and_then(reflected) {
            state.just_left(runner);
        }
        let instruction = here.and_then(|event| match &event.what {
            What::Exit(exit) => {
                let l0 = cursor.machine().l0();
                let guest = l0.guest(event.at.vcpu.into(), exit.level)?;
                look::text_at(l0, &guest, exit.rip)
            }
            _ => None,
        });
        Seen { event, behind, state: Some(state), instruction }
    }
}

/// The guest whose exit L0 hands to L1, of an event that is one.
pub(crate) fn reflected(event: &Event) -> Option<Runner> {
    match &event.what {
        What::Exit(exit) if exit.level >= 2 && exit.handled_by != Actor::L0 => {
            Some(Runner { vcpu: event.at.vcpu.into(), level: exit.level })
        }
        _ => None,
    }
}

fn looked(cursor: &mut Cursor<'_>, look: Peek) -> Lookup {
    let l0 = cursor.machine().l0();
    let vcpu = look.vcpu.min(l0.vcpus().saturating_sub(1));
    Lookup {
        bytes: look::memory(l0, vcpu, look.space, look.at, look.bytes),
        stages: look::walk(l0, vcpu, look.space, look.walked),
    }
}

/// Why a trace cannot be replayed, as far as its header says.
fn refused(reader: &Reader) -> Option<String> {
    let header = reader.header();
    if let Some(origin) = &header.origin {
        return Some(format!("it was {}: there is no machine to run again", origin.whence()));
    }
    if let Some(missing) = header.images.iter().find(|image| image.bytes.is_none()) {
        return Some(format!("its {} '{}' is elsewhere; --store says where", missing.kind, missing.name));
    }
    match &header.config.guest {
        Guest::Kernel { name, .. } if !header.images.iter().any(|image| image.kind == ImageKind::Kernel) => {
            Some(format!("the kernel '{name}' is not in the trace"))
        }
        _ => None,
    }
}

fn diverged(reader: &Reader, divergence: &Divergence) -> (u64, String) {
    let build = Build::of(reader.header());
    let why = if build.others().is_empty() { "" } else { ", of another build" };
    (divergence.event, why.to_owned())
}

/// The guest that runs on a vCPU: what the panes show unless told otherwise.
pub(crate) fn running(state: &State, vcpu: usize) -> Runner {
    let runs = state.guests.iter().find(|guest| guest.runner.vcpu == vcpu && guest.runs);
    runs.map_or(Runner { vcpu, level: 1 }, |guest| guest.runner)
}
