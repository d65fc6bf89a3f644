//! What each message does to the model, and what is to be done next. Pure: equal models and messages give equal models.

use crate::act;
use crate::export;
use crate::filter::Plan;
use crate::keep::Kept;
use crate::keys::{self, Action};
use crate::layout::{areas, list_rows};
use crate::live;
use crate::model::{Ask, Effect, Filtered, Find, Lane, Mode, Model, Msg, Reply, Side};
use crate::mouse;
use crate::prompt;
use crate::replay;
use crate::round::Round;
use crate::state::Fold;
use crate::strip;
use crate::theme::Role;
use crossterm::event::{KeyCode, KeyEvent, KeyEventKind};
use std::sync::Arc;

/// Keys that wait, at most.
const AHEAD: usize = 64;

/// Events that are kept, at most.
const KEPT: usize = 20_000;

/// Blocks that are asked for at once, at most: more than a piece of work gets through.
const SCANNED_AT_ONCE: usize = 512;

/// Takes in a message and says what is to be done. [`Msg::Idle`] asks again, until there is nothing.
pub(crate) fn update(model: &mut Model, msg: Msg) -> Option<Effect> {
    match msg {
        Msg::Key(key) if key.kind == KeyEventKind::Release => {}
        // Whatever the keys go to.
        Msg::Key(key) if keys::action(&key) == Some(Action::Suspend) => model.suspend = true,
        Msg::Key(key) => {
            model.follow = false;
            if matches!(keys::action(&key), Some(Action::Escape | Action::Quit)) {
                model.ahead.clear();
            }
            if model.ahead.is_empty() && !waits(model, &key) {
                press(model, &key);
            } else if model.ahead.len() < AHEAD {
                model.ahead.push_back(key);
            }
        }
        Msg::Mouse(mouse) => {
            model.follow = false;
            mouse::mouse(model, &mouse);
        }
        Msg::Resize(width, height) => model.size = (width, height),
        // Its lane stays busy: nothing answers there any more.
        Msg::Done(_, Reply::Panicked(why)) => {
            fail(model, format!("Internal error, a part of the inspector ended: {why}"))
        }
        Msg::Done(lane, reply) => {
            model.busy[lane as usize] = false;
            if let (Lane::Replay, Reply::Panicked(why)) = (lane, &reply) {
                // Its thread is gone.
                model.replay.never = Some(why.clone());
            }
            done(model, reply);
            while let Some(key) = model.ahead.front().copied().filter(|key| !waits(model, key)) {
                model.ahead.pop_front();
                press(model, &key);
            }
        }
        Msg::Analysed(events) => model.analysed = events,
        Msg::Rest => replay::rest(model),
        Msg::Tick => model.poll = !model.lost,
        Msg::Idle => {}
    }
    settle(model);
    replay::settle(model);
    want(model)
}

fn press(model: &mut Model, key: &KeyEvent) {
    model.note = None;
    match &model.mode {
        Mode::Prompt(_) => prompt::key(model, key),
        _ => act::key(model, key),
    }
}

/// Whether a key has to wait for what it goes by: the selected event, the exit that it belongs to, the event that is being
/// looked for, or the pane's rows. So what is typed ahead does what it would do if it were typed slowly.
fn waits(model: &Model, key: &KeyEvent) -> bool {
    let unread = model.cursor < model.about.len && !model.events.contains_key(&model.cursor);
    if let Mode::Prompt(prompt) = &model.mode {
        return prompt.ask == Ask::Address && key.code == KeyCode::Enter && unread;
    }
    let Some(action) = keys::action(key).filter(|_| model.mode == Mode::Browse) else { return false };
    let rows_come = model.in_side
        && match model.side {
            Side::Findings => model.findings.is_none(),
            Side::State => {
                let of = model.state.whole.as_ref().map(|whole| whole.0);
                unread || model.find.is_some() || model.about.len > 0 && of != Some(model.cursor)
            }
            _ => false,
        };
    if rows_come && action.goes_by_row() {
        return true;
    }
    if !action.goes_by_event() {
        return false;
    }
    let tree = matches!(action, Action::Cause | Action::Effect);
    let shown = shows(model, Side::Round) || shows(model, Side::Detail);
    unread || model.find.is_some() || (tree && shown && model.selected().is_some() && model.round_here().is_none())
}

fn fail(model: &mut Model, error: String) {
    model.note = Some((Role::Bad, error));
}

fn done(model: &mut Model, reply: Reply) {
    match reply {
        Reply::Events(events) => {
            if model.events.len() > KEPT {
                model.events.clear();
            }
            model.events.extend(events);
        }
        Reply::Scanned { id, blocks, error } => {
            if let Some(filter) = model.filter.as_mut().filter(|filter| filter.id == id) {
                blocks.into_iter().for_each(|(block, bits)| filter.hits.put(block, bits));
            }
            error.into_iter().for_each(|error| fail(model, error));
            live::keep_up(model);
        }
        Reply::Found { id, found, next, error } => {
            let Some(find) = model.find.as_mut().filter(|find| find.id == id) else { return };
            if let Some(event) = found {
                let jump = find.jump;
                model.find = None;
                go_to(model, event, jump);
            } else if let (Some(next), None) = (next, &error) {
                find.from = next;
            } else {
                let way = if find.forward { "after" } else { "before" };
                let text = error.unwrap_or_else(|| format!("No {} {way} this.", find.what));
                model.find = None;
                model.note = Some((Role::Notice, text));
            }
        }
        Reply::Strip { id, whole, parts } => {
            model.strip.put(&model.about, id, whole, parts);
            // A trace whose configuration does not say how many vCPUs there are shows it by and by.
            let seen = model.strip.vcpus().min(strip::MAX_VCPUS) as u16;
            model.about.vcpus = model.about.vcpus.max(seen);
        }
        Reply::Near { event, fold } => match fold {
            Ok(fold) => {
                model.state.near = Some((event, Arc::new(fold)));
                put_state_together(model);
            }
            Err(error) => {
                // Not asked for again until the cursor moves.
                model.state.near = Some((event, Arc::new(Fold::default())));
                put_state_together(model);
                fail(model, error);
            }
        },
        Reply::Far { block, fold, from } => match fold {
            Ok(fold) => {
                model.state.far = Some((block, Arc::new(fold), from));
                put_state_together(model);
            }
            Err(error) => {
                // What lies before the damage stays unknown.
                let known = model.state.far.take().filter(|far| far.0 == block).map(|far| far.1);
                model.state.far = Some((block, known.unwrap_or_default(), 0));
                fail(model, error);
            }
        },
        Reply::Round { round: Ok(round), .. } => {
            model.round = Some(Arc::new(*round));
            model.round_row = 0;
        }
        Reply::Located { event: Ok(found) } => {
            let last = model.about.len.saturating_sub(1);
            go_to(model, found.unwrap_or(last), true);
        }
        Reply::Round { event, round: Err(error) } => {
            // Not asked for again until the cursor moves.
            model.round = Some(Arc::new(Round::none(event)));
            fail(model, error);
        }
        Reply::Located { event: Err(error) } => fail(model, error),
        Reply::Findings(findings) => {
            model.findings = Some(findings.map(Arc::new));
            if let Some(forward) = model.to_finding.take() {
                act::to_finding(model, forward);
            }
        }
        Reply::Followed(growth) => live::grown(model, growth),
        Reply::Panicked(why) => fail(model, why),
        Reply::Exported { id, step } => export::stepped(model, id, step),
        Reply::Unsaved | Reply::Kept(Ok(())) => {}
        Reply::Kept(Err(error)) => {
            // Said once: what cannot be kept now cannot be kept later.
            model.place = None;
            model.note = Some((Role::Notice, error));
        }
        Reply::Replay(reply) => replay::done(model, reply),
        Reply::Copied(Ok(())) => model.note = Some((Role::Plain, "Copied.".into())),
        Reply::Copied(Err(error)) => fail(model, format!("Cannot copy: {error}")),
    }
}

fn put_state_together(model: &mut Model) {
    let state = &mut model.state;
    let Some((event, near)) = &state.near else { return };
    let mut whole = Fold::clone(near);
    let block = model.about.firsts.partition_point(|first| first <= event).saturating_sub(1);
    if let Some((of, far, _)) = &state.far
        && *of == block
    {
        whole.put_under(far);
    }
    state.whole = Some((*event, Arc::new(whole)));
}

/// Moves the cursor to an event, wherever it is.
pub(crate) fn go_to(model: &mut Model, event: u64, jump: bool) {
    let Some(last) = model.about.len.checked_sub(1) else { return };
    let event = event.min(last);
    if jump && event != model.cursor {
        model.jumps.push(model.cursor);
        model.undone.clear();
        // A list of jumps that nobody can go back through by hand is not kept.
        if model.jumps.len() > 1000 {
            model.jumps.remove(0);
        }
    }
    let hidden = model.filter.as_ref().is_some_and(|filter| {
        let block = model.about.firsts.partition_point(|&first| first <= event).saturating_sub(1);
        filter.hits.scanned(block) && !filter.hits.has(event)
    });
    if hidden {
        model.dropped = model.filter.take().map(|filter| filter.text);
        model.note = Some((Role::Notice, "The filter hides that event and was dropped; F brings it back.".into()));
    }
    let rows = list_rows(model);
    let seen = model.window(rows).iter().position(|&shown| shown == event);
    model.anchor = seen.map_or(rows / 3, |row| row as u16);
    model.cursor = event;
    moved(model);
}

/// What goes with every move of the cursor.
pub(crate) fn moved(model: &mut Model) {
    model.detail_top = 0;
    let (from, to) = model.strip.window;
    // The timeline follows.
    if !(from..to).contains(&model.cursor) {
        let length = to - from;
        let start = model.cursor.saturating_sub(length / 2).min(model.about.len - length);
        model.strip.window = (start, start + length);
    }
}

/// Looks for the next event that a plan holds for.
pub(crate) fn find(model: &mut Model, plan: Arc<Plan>, forward: bool, what: String, jump: bool) {
    let from = if forward { model.cursor.checked_add(1) } else { model.cursor.checked_sub(1) };
    let Some(from) = from.filter(|&from| from < model.about.len) else {
        model.note = Some((Role::Notice, format!("No {what} {} this.", if forward { "after" } else { "before" })));
        return;
    };
    find_from(model, plan, from, forward, what, jump);
}

/// As [`find()`], beginning at an event, itself included.
pub(crate) fn find_from(model: &mut Model, plan: Arc<Plan>, from: u64, forward: bool, what: String, jump: bool) {
    let id = model.fresh_id();
    model.find = Some(Find { id, plan, from, forward, what, jump });
}

/// Puts a filter in force.
pub(crate) fn set_filter(model: &mut Model, text: &str, plan: Plan) {
    let id = model.fresh_id();
    let hits = crate::hits::Hits::new(model.about.firsts.clone());
    model.filter = Some(Filtered { text: text.to_owned(), plan: Arc::new(plan), hits, id });
}

/// Keeps what depends on one another in step.
fn settle(model: &mut Model) {
    let rows = list_rows(model);
    model.anchor = model.anchor.min(rows - 1);
    // The cursor is on a line that the filter lets through, as soon as one is known.
    if let Some(filter) = &model.filter
        && !filter.hits.has(model.cursor)
        && filter.hits.scanned(model.block_of(model.cursor))
        && let Some(near) = filter.hits.at_or_after(model.cursor).or_else(|| filter.hits.at_or_before(model.cursor))
    {
        model.cursor = near;
        model.detail_top = 0;
    }
    // The row is kept in step with what is drawn, so that the next step scrolls no more than it must.
    if let Some(row) = model.window(rows).iter().position(|&event| event == model.cursor) {
        model.anchor = row as u16;
    }
    let columns = areas(model).map_or(0, |areas| areas.columns());
    let asked = (model.strip.window, columns);
    if model.strip.asked != asked {
        let (id, near) = (model.fresh_id(), model.block_of(model.cursor));
        model.strip.ask(&model.about, asked, id, near);
    }
}

/// Whether a side pane is on the screen.
pub(crate) fn shows(model: &Model, side: Side) -> bool {
    areas(model).is_some_and(|areas| areas.of(crate::layout::Pane::Side(side)).is_some())
}

/// The most urgent effect whose lane is free.
fn want(model: &mut Model) -> Option<Effect> {
    let effect = screen(model)
        .or_else(|| whole(model))
        .or_else(|| again(model))
        .or_else(|| if model.busy[1] { None } else { long(model) })?;
    model.busy[effect.lane() as usize] = true;
    Some(effect)
}

fn screen(model: &mut Model) -> Option<Effect> {
    if model.busy[0] {
        return None;
    }
    if let Some(text) = model.copy.take() {
        return Some(Effect::Copy(text));
    }
    if std::mem::take(&mut model.poll) {
        return Some(Effect::Follow);
    }
    if let Some(path) = model.unsaved.take() {
        return Some(Effect::Unsave(path));
    }
    if std::mem::take(&mut model.keep_now)
        && let Some(place) = &model.place
    {
        return Some(Effect::Keep(place.clone(), Box::new(Kept::of(model))));
    }
    let rows = list_rows(model);
    let window = model.window(rows);
    let missing = |model: &Model, events: &[u64]| -> Vec<u64> {
        events.iter().copied().filter(|event| !model.events.contains_key(event)).collect()
    };
    let mut wanted = window.clone();
    if model.cursor < model.about.len && !wanted.contains(&model.cursor) {
        wanted.push(model.cursor);
    }
    // The event above, which some columns count from.
    wanted.extend(window.first().and_then(|&first| model.before(first)));
    if matches!(model.mode, Mode::Marks(_)) {
        wanted.extend(model.marks.values());
    }
    let now = missing(model, &wanted);
    if !now.is_empty() {
        return Some(Effect::Fetch(now));
    }
    // A page around what is seen, so that the next key finds its events there.
    let (mut first, mut last) = (*window.first()?, *window.last()?);
    let mut around = Vec::new();
    for _ in 0..rows {
        if let Some(before) = model.before(first) {
            first = before;
            around.push(before);
        }
        if let Some(after) = model.after(last) {
            last = after;
            around.push(after);
        }
    }
    let soon = missing(model, &around);
    // Not for the sake of an event or two at each step.
    (soon.len() > usize::from(rows) / 2).then_some(Effect::Fetch(soon))
}

fn again(model: &Model) -> Option<Effect> {
    if model.busy[3] { None } else { replay::want(model) }
}

fn whole(model: &Model) -> Option<Effect> {
    let asked = shows(model, Side::Findings) || model.to_finding.is_some();
    let wanted = asked && model.findings.is_none() && !model.busy[2];
    wanted.then_some(Effect::Findings)
}

fn long(model: &mut Model) -> Option<Effect> {
    let export = model.export.as_ref().map(|export| Effect::Export(export.clone()));
    if model.about.len == 0 {
        return export;
    }
    if let Some(instruction) = model.locate.take() {
        return Some(Effect::Locate { instruction });
    }
    if let Some(find) = &model.find {
        return Some(Effect::Find { id: find.id, plan: find.plan.clone(), from: find.from, forward: find.forward });
    }
    let block = model.block_of(model.cursor);
    let state_shown = shows(model, Side::State) || replay::events_needed(model);
    if state_shown && model.state.near.as_ref().map(|near| near.0) != Some(model.cursor) {
        return Some(Effect::Near { event: model.cursor });
    }
    let far = model.state.far.as_ref().filter(|far| far.0 == block);
    let far_effect = match far {
        _ if !state_shown || block == 0 => None,
        Some((_, _, 0)) => None,
        Some((_, fold, from)) => Some(Effect::Far { block, fold: fold.clone(), from: *from }),
        None => return Some(Effect::Far { block, fold: Arc::default(), from: block }),
    };
    if (shows(model, Side::Round) || shows(model, Side::Detail))
        && let Some(vcpu) = model.selected().map(|event| event.at.vcpu)
        && !model.round.as_ref().is_some_and(|round| round.is_of(model.cursor, vcpu))
    {
        return Some(Effect::Round { event: model.cursor, vcpu });
    }
    let scan = |filter: &Filtered| {
        let from = filter.hits.unscanned(block)?;
        let (scanned, blocks) = filter.hits.progress();
        let wanted = (from..blocks).chain(0..from).filter(|&at| !filter.hits.scanned(at));
        let blocks = wanted.take(SCANNED_AT_ONCE).collect();
        Some(Effect::Scan { id: filter.id, plan: filter.plan.clone(), blocks, first: scanned == 0 })
    };
    let scan = model.filter.as_ref().and_then(scan);
    let begins = scan.as_ref().is_some_and(|scan| matches!(scan, Effect::Scan { first: true, .. }));
    // The first events of a filter, the timeline's first picture, and then the rest of each.
    if begins {
        return scan;
    }
    let strip = |urgent| model.strip.look(urgent).map(Effect::Strip);
    strip(true).or(export).or(scan).or(far_effect).or_else(|| strip(false))
}
