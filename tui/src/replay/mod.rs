//! What there is at the event, from a replay: what the model knows of it, and what it asks for.
//!
//! A thread of its own has the machine ([`work::Replay`]). It is asked for one piece of the way at a time, once the cursor
//! has rested on an event and a pane shows what only a machine can tell; a cursor that moves on is followed by not asking
//! for the old place again. States that were seen are kept, so that going back to them takes nothing.

pub(crate) mod rows;
pub(crate) mod told;
pub(crate) mod work;

use crate::layout::{Pane, areas};
use crate::model::{Effect, Model, Side};
use crate::theme::Role;
use hv_defs::event::What;
use replayer::Runner;
use replayer::look::{Ended, Registers, Space, Stage, State};
use std::sync::Arc;
use work::running;

/// States and looks at memory that are kept.
const KEPT: usize = 24;

/// What was seen at an event.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Seen {
    /// The event.
    pub(crate) event: u64,
    /// The first event that has not happened: the exit may have brought more events than this one.
    pub(crate) behind: u64,
    /// What there is, with VMCSs as they were right behind the event.
    pub(crate) state: Option<State>,
    /// Of an exit, the guest's instruction.
    pub(crate) instruction: Option<String>,
}

/// A look at memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Peek {
    /// Whose guests.
    pub(crate) vcpu: usize,
    pub(crate) space: Space,
    /// The first address.
    pub(crate) at: u64,
    pub(crate) bytes: usize,
    /// The address whose walks are wanted.
    pub(crate) walked: u64,
}

/// What a look found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Lookup {
    /// `None` for bytes that are not there.
    pub(crate) bytes: Vec<Option<u8>>,
    /// `None` when there is no such guest.
    pub(crate) stages: Option<Vec<Stage>>,
}

/// What came of a piece.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) event: u64,
    pub(crate) told: Told,
}

/// See [`Reply`].
#[derive(Debug)]
pub(crate) enum Told {
    /// The machine is built.
    Opened,
    /// It is on its way: so many per cent.
    Nearer(u8),
    /// It is there.
    Seen(Box<Seen>),
    /// It has looked at memory.
    Looked(Peek, Box<Lookup>),
    /// The trace cannot be replayed, for this reason.
    Never(String),
    /// The replay differs from the recording at this event, which is before; and what is said of that.
    Diverged((u64, String)),
    /// This event cannot be gone to.
    Failed(String),
}

/// Where an address comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Base {
    /// It is the number itself.
    Zero,
    /// It counts from what this register holds.
    Register(&'static str),
}

/// What the memory pane shows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct MemoryView {
    /// `None` for the linear addresses of the guest that runs.
    pub(crate) space: Option<Space>,
    pub(crate) base: Base,
    /// From there.
    pub(crate) offset: u64,
    /// By how many rows it was scrolled.
    pub(crate) scrolled: u64,
    /// What was typed: linear views begin there.
    pub(crate) typed: (Base, u64),
}

impl MemoryView {
    /// At an address that was typed.
    pub(crate) fn at(space: Option<Space>, base: Base, offset: u64) -> Self {
        Self { space, base, offset, scrolled: 0, typed: (base, offset) }
    }
}

/// What the model knows of the replay.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct ReplayView {
    /// Why there is none.
    pub(crate) never: Option<String>,
    /// Whether the machine is built.
    pub(crate) opened: bool,
    /// The event that the cursor has rested on.
    pub(crate) rested: Option<u64>,
    /// An event that is not asked for again before the cursor moves, and why.
    pub(crate) left: Option<(u64, String)>,
    /// The event that the replay is on its way to, and how many per cent of it are done.
    pub(crate) under_way: Option<(u64, u8)>,
    /// The event where the replay first differs, and what is said of that.
    pub(crate) diverged: Option<(u64, String)>,
    /// What was seen, the latest last.
    pub(crate) seen: Vec<Arc<Seen>>,
    /// Looks at memory, each at its event, the latest last.
    pub(crate) looks: Vec<(u64, Peek, Arc<Lookup>)>,
    /// What is shown, and what was shown before it at another event.
    pub(crate) shown: Option<Arc<Seen>>,
    pub(crate) before: Option<Arc<Seen>>,
    /// The guest whose registers are shown, if not the one that runs.
    pub(crate) guest: Option<Runner>,
    /// The physical CPU whose TLB is shown, if not the event's.
    pub(crate) pcpu: Option<usize>,
    /// The vCPU whose pool is shown, if not the event's.
    pub(crate) vcpu: Option<usize>,
    pub(crate) memory: MemoryView,
    /// The selected line of the panes with registers, the TLB and the pool.
    pub(crate) rows: [usize; 3],
    /// What their lines are searched for.
    pub(crate) query: String,
}

impl Default for ReplayView {
    fn default() -> Self {
        Self {
            never: None,
            opened: false,
            rested: None,
            left: None,
            under_way: None,
            diverged: None,
            seen: Vec::new(),
            looks: Vec::new(),
            shown: None,
            before: None,
            guest: None,
            pcpu: None,
            vcpu: None,
            memory: MemoryView::at(None, Base::Register("rip"), 0),
            rows: [0; 3],
            query: String::new(),
        }
    }
}

impl ReplayView {
    fn find(&self, event: u64) -> Option<&Arc<Seen>> {
        self.seen.iter().find(|seen| seen.event == event)
    }

    /// The selected line of a pane.
    pub(crate) fn selected(&self, side: Side) -> usize {
        self.rows[Self::place(side)]
    }

    /// Where it is kept.
    pub(crate) fn row(&mut self, side: Side) -> &mut usize {
        &mut self.rows[Self::place(side)]
    }

    const fn place(side: Side) -> usize {
        match side {
            Side::Tlb => 1,
            Side::Pool => 2,
            _ => 0,
        }
    }
}

/// What was seen at the selected event.
pub(crate) fn here(model: &Model) -> Option<&Seen> {
    model.replay.find(model.cursor).map(|seen| &**seen)
}

/// The state there.
pub(crate) fn state(model: &Model) -> Option<&State> {
    here(model)?.state.as_ref()
}

/// The vCPU of the selected event.
pub(crate) fn vcpu(model: &Model) -> usize {
    model.selected().map_or(0, |event| event.at.vcpu.into())
}

/// The guest whose registers are shown: at an exit that L1 gets the one that left, else the one that runs.
pub(crate) fn guest(model: &Model) -> Option<&Registers> {
    let state = state(model)?;
    let chosen = model.replay.guest.and_then(|runner| state.guest(runner));
    // At an exit that L1 gets, the guest that left is looked for.
    let left = || model.selected().and_then(work::reflected).and_then(|runner| state.guest(runner));
    chosen.or_else(left).or_else(|| state.guest(running(state, vcpu(model))))
}

/// Whether a pane is shown that only a machine can fill; or the VMCSs, which are whole by one, have the keys; or what the
/// event's pane gains is near.
pub(crate) fn needed(model: &Model) -> bool {
    let Some(areas) = areas(model) else { return false };
    let shown = |side| areas.of(Pane::Side(side)).is_some();
    let vmcs = shown(Side::State) && model.in_side && model.side == Side::State;
    let soon = near(model) && (shown(Side::State) || shown(Side::Detail));
    vmcs || soon || [Side::Regs, Side::Tlb, Side::Pool, Side::Memory].into_iter().any(shown)
}

/// Instructions that are replayed for panes that can do without.
const NEAR: u64 = 1 << 25;

/// Whether the machine is there and the way to the selected event is short.
fn near(model: &Model) -> bool {
    let stood = model.replay.shown.as_ref().and_then(|seen| seen.state.as_ref());
    let at = stood.map(|state| state.instruction).zip(model.selected().map(|event| event.at.instruction));
    at.is_some_and(|(from, to)| from.abs_diff(to) < NEAR)
}

/// Whether what the events alone tell is asked for in the place of what a machine would.
pub(crate) fn events_needed(model: &Model) -> bool {
    let Some(areas) = areas(model) else { return false };
    let shown = |side| areas.of(Pane::Side(side)).is_some();
    here(model).is_none() && [Side::Regs, Side::Tlb, Side::Pool].into_iter().any(shown)
}

/// Whether the replay waits for the cursor to rest.
pub(crate) fn waits(model: &Model) -> bool {
    model.replay.rested != Some(model.cursor) && goes(model) && lacking(model).is_some()
}

/// What is not known yet of what the panes show: memory that is looked at, or else all.
fn lacking(model: &Model) -> Option<Option<Peek>> {
    if here(model).is_none() {
        return Some(None);
    }
    let look = wanted_look(model)?;
    let known = model.replay.looks.iter().any(|(of, known, _)| (*of, *known) == (model.cursor, look));
    (!known).then_some(Some(look))
}

/// Whether the selected event is one to go to.
fn goes(model: &Model) -> bool {
    let replay = &model.replay;
    let left = replay.left.as_ref().is_some_and(|(event, _)| *event == model.cursor);
    let past = replay.diverged.as_ref().is_some_and(|(event, _)| model.cursor >= *event);
    needed(model) && replay.never.is_none() && !left && !past && model.cursor < model.about.len
}

/// What is to be asked of the replay's thread.
pub(crate) fn want(model: &Model) -> Option<Effect> {
    let ready = goes(model) && model.replay.rested == Some(model.cursor);
    let look = lacking(model).filter(|_| ready)?;
    Some(Effect::Replay { event: model.cursor, look })
}

/// The part of memory that the memory pane shows.
pub(crate) fn wanted_look(model: &Model) -> Option<Peek> {
    let area = areas(model)?.of(Pane::Side(Side::Memory))?;
    let guest = looked_from(model)?;
    let view = &model.replay.memory;
    let space = view.space.unwrap_or(Space::Linear(guest.runner.level));
    let walked = address(model)?;
    let row = rows::bytes_a_row(area.width) as u64;
    let at = (walked & !(row - 1)).wrapping_add(view.scrolled.wrapping_mul(row));
    let lines = usize::from(area.height.saturating_sub(2)).clamp(1, 256);
    Some(Peek { vcpu: guest.runner.vcpu, space, at, bytes: lines * row as usize, walked })
}

/// The guest through whose view the memory pane looks.
fn looked_from(model: &Model) -> Option<&Registers> {
    let chosen = guest(model)?;
    let level = match model.replay.memory.space {
        Some(Space::Linear(level) | Space::Physical(level)) => level,
        Some(Space::Host) | None => return Some(chosen),
    };
    state(model)?.guest(Runner { level, ..chosen.runner }).or(Some(chosen))
}

/// The address that the memory pane is at; `None` where nobody keeps the register that it counts from.
pub(crate) fn address(model: &Model) -> Option<u64> {
    let view = &model.replay.memory;
    let base = match view.base {
        Base::Zero => 0,
        Base::Register(name) => looked_from(model)?.get(name)?,
    };
    Some(base.wrapping_add(view.offset))
}

/// What the look at the memory pane's part found.
pub(crate) fn look_here(model: &Model) -> Option<(Peek, &Lookup)> {
    let wanted = wanted_look(model)?;
    let found = model.replay.looks.iter().find(|(event, look, _)| (*event, *look) == (model.cursor, wanted))?;
    Some((wanted, &*found.2))
}

/// Takes in what the replay's thread has done.
pub(crate) fn done(model: &mut Model, reply: Reply) {
    let Reply { event, told } = reply;
    let replay = &mut model.replay;
    replay.under_way = None;
    match told {
        Told::Opened => replay.opened = true,
        Told::Nearer(percent) => replay.under_way = Some((event, percent)),
        Told::Seen(seen) => keep(&mut replay.seen, Arc::new(*seen)),
        Told::Looked(look, found) => keep(&mut replay.looks, (event, look, Arc::new(*found))),
        Told::Never(why) => replay.never = Some(why),
        Told::Diverged(at) => replay.diverged = Some(at),
        Told::Failed(why) => replay.left = Some((event, why)),
    }
}

fn keep<T>(list: &mut Vec<T>, item: T) {
    if list.len() >= KEPT {
        list.remove(0);
    }
    list.push(item);
}

/// The cursor has not moved for a while.
pub(crate) fn rest(model: &mut Model) {
    model.replay.rested = Some(model.cursor);
}

/// Keeps what is shown in step with the cursor.
pub(crate) fn settle(model: &mut Model) {
    let cursor = model.cursor;
    let replay = &mut model.replay;
    if replay.left.as_ref().is_some_and(|(event, _)| *event != cursor) {
        replay.left = None;
    }
    if replay.under_way.is_some_and(|(event, _)| event != cursor) {
        replay.under_way = None;
    }
    let Some(at) = replay.seen.iter().position(|seen| seen.event == cursor) else { return };
    if replay.shown.as_ref().is_none_or(|shown| shown.event != cursor) {
        // What is looked at stays among those that are kept.
        let seen = replay.seen.remove(at);
        replay.seen.push(seen.clone());
        replay.before = replay.shown.replace(seen);
    }
}

/// Stops what is under way. Whether there was anything.
pub(crate) fn stop(model: &mut Model) -> bool {
    let going = goes(model) && here(model).is_none() && model.replay.rested == Some(model.cursor);
    if going {
        model.replay.left = Some((model.cursor, "it was stopped; a move asks again".into()));
        model.replay.under_way = None;
    }
    going
}

/// Shows the next guest's registers, the next TLB, the next pool, the next view of memory. Says what it is.
pub(crate) fn next(model: &mut Model) -> Option<String> {
    let state = state(model)?;
    let after = |len: usize, now: usize| (now + 1) % len.max(1);
    match model.side {
        Side::Regs => {
            let now = guest(model)?.runner;
            let at = state.guests.iter().position(|guest| guest.runner == now)?;
            let next = state.guests.get(after(state.guests.len(), at))?.runner;
            model.replay.guest = Some(next);
            Some(format!("L{} of vCPU {}.", next.level, next.vcpu))
        }
        Side::Tlb => {
            let next = after(state.tlbs.len(), rows::pcpu(model));
            model.replay.pcpu = Some(next);
            Some(format!("The TLB of CPU {next}."))
        }
        Side::Pool => {
            let next = after(state.vcpus.len(), rows::pool_vcpu(model));
            model.replay.vcpu = Some(next);
            Some(format!("The pool of vCPU {next}."))
        }
        Side::Memory => {
            let guest = guest(model)?.runner;
            // First the way that an address of the guest goes down, then the other guests.
            let own = guest.level;
            let mut spaces = vec![Space::Linear(own), Space::Physical(own), Space::Physical(1), Space::Host];
            let others = state.guests.iter().map(|other| other.runner).filter(|other| other.vcpu == guest.vcpu);
            for other in others.filter(|other| other.level != own) {
                spaces.extend([Space::Linear(other.level), Space::Physical(other.level)]);
            }
            let mut met = Vec::new();
            spaces.retain(|space| {
                let fresh = !met.contains(space);
                met.push(*space);
                fresh
            });
            let now = model.replay.memory.space.unwrap_or(Space::Linear(guest.level));
            let at = spaces.iter().position(|space| *space == now).unwrap_or(spaces.len() - 1);
            let next = spaces[after(spaces.len(), at)];
            // The same byte, where the walks lead to it; linear views begin where they were told to.
            let stages = look_here(model).and_then(|(_, found)| found.stages.clone()).unwrap_or_default();
            let leads = stages.iter().find(|stage| stage.to == next).and_then(|stage| match stage.trail.ended {
                Ended::At { address, .. } => Some((Base::Zero, address)),
                _ => None,
            });
            let view = &mut model.replay.memory;
            let (base, offset) = match next {
                Space::Linear(_) => view.typed,
                Space::Physical(_) | Space::Host => leads.unwrap_or((view.base, view.offset)),
            };
            *view = MemoryView { space: Some(next), base, offset, scrolled: 0, typed: view.typed };
            Some(format!("{next} memory."))
        }
        _ => None,
    }
}

/// What a pane says of where its contents come from: the replay, or why there is none.
pub(crate) fn head(model: &Model) -> Vec<(Role, String)> {
    use crate::describe::thousands;
    let replay = &model.replay;
    let dim = |text: String| (Role::Dim, text);
    let notice = |text: String| vec![(Role::Notice, text)];
    if let Some(seen) = here(model)
        && let Some(state) = &seen.state
    {
        let runs = running(state, vcpu(model));
        let chosen = if model.side == Side::Regs { guest(model).map_or(runs, |guest| guest.runner) } else { runs };
        let left = model.selected().and_then(work::reflected) == Some(chosen);
        let does = match chosen == runs {
            true => " runs",
            false if left => " as it left",
            false => " does not run",
        };
        let enters = matches!(model.selected().map(|event| &event.what), Some(What::Entry(_)));
        let (event, last) = (thousands(seen.event), thousands(seen.behind - 1));
        let when = match seen.behind - seen.event {
            _ if enters => format!(", at event {event}"),
            1 => format!(", after event {event}"),
            // L0 makes what one exit brings together.
            _ => format!(", after events {event} to {last} of one exit"),
        };
        let from = replay.before.as_ref().map(|before| format!("  * since {}", thousands(before.event)));
        return vec![
            (Role::Level(chosen.level), format!(" L{}", chosen.level)),
            dim(format!(" of vCPU {}{does}{when}", chosen.vcpu)),
            dim(from.unwrap_or_default()),
        ];
    }
    if let Some(why) = &replay.never {
        return notice(format!(" Not replayed: {why}"));
    }
    if let Some((event, why)) = replay.diverged.as_ref().filter(|(event, _)| model.cursor >= *event) {
        let event = thousands(*event);
        return notice(format!(" The replay differs from the recording{why}, at event {event}"));
    }
    if let Some((_, why)) = &replay.left {
        return notice(format!(" Not replayed to here: {why}"));
    }
    match replay.under_way {
        Some((event, percent)) => notice(format!(" Replaying to event {}: {percent}%; Esc stops", thousands(event))),
        None if !replay.opened && replay.rested == Some(model.cursor) => {
            notice(" Building the machine, which takes as much memory as the guest had ...".into())
        }
        None => notice(format!(" Replaying to event {} ...", thousands(model.cursor))),
    }
}

/// Whether the selected event is an exit: then the guest's instruction may be known.
pub(crate) fn instruction(model: &Model) -> Option<&str> {
    let exit = matches!(model.selected()?.what, What::Exit(_));
    here(model)?.instruction.as_deref().filter(|_| exit)
}
