//! The loop between the terminal and the model of two traces.

use super::update::update;
use super::work::perform;
use super::{Effect, Model, Msg};
use crate::model::About;
use crate::session::{BUSY, IDLE, Signals, StopOnPanic};
use crate::terminal::Taken;
use crate::theme::Theme;
use crate::view;
use crossterm::event::{self, Event};
use std::io::{self, IsTerminal};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;
use traces::Reader;

/// Shows two traces until the user quits or `stop` is set.
pub(crate) fn run(readers: [Reader; 2], abouts: [About; 2], theme: Theme, signals: &Signals) -> io::Result<()> {
    let readers = Arc::new(readers);
    let (done, replies) = mpsc::channel();
    let start = |lane| worker(lane, &readers, &done, &signals.stop);
    let lanes = [start(0)?, start(1)?];
    let mut model = Model::new(abouts, theme, crossterm::terminal::size()?);
    let taken = Taken::take()?;
    let ended = event_loop(&mut model, &lanes, &replies, signals, &taken);
    drop(taken);
    // What is saved in part is not saved.
    for path in model.save.iter().map(|save| &save.path).chain(&model.unsaved) {
        crate::export::cancel(path);
    }
    ended
}

fn worker(
    lane: usize,
    readers: &Arc<[Reader; 2]>,
    done: &mpsc::Sender<Msg>,
    stop: &Arc<AtomicBool>,
) -> io::Result<mpsc::Sender<Effect>> {
    let (ask, asked) = mpsc::channel::<Effect>();
    let (readers, done, stop) = (readers.clone(), done.clone(), stop.clone());
    thread::Builder::new().name(format!("tui compare {lane}")).spawn(move || {
        let _guard = StopOnPanic(stop);
        while let Ok(effect) = asked.recv() {
            if done.send(Msg::Done(lane, perform([&readers[0], &readers[1]], effect))).is_err() {
                return;
            }
        }
    })?;
    Ok(ask)
}

/// What comes from the terminal within a time.
fn next_event(wait: Duration) -> io::Result<Option<Event>> {
    let read = event::poll(wait).and_then(|there| if there { event::read().map(Some) } else { Ok(None) });
    match read {
        // A signal came in between; the loop looks after it.
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(None),
        read => read,
    }
}

fn event_loop(
    model: &mut Model,
    lanes: &[mpsc::Sender<Effect>; 2],
    replies: &mpsc::Receiver<Msg>,
    signals: &Signals,
    taken: &Taken,
) -> io::Result<()> {
    let mut terminal = crate::ansi::screen(model.theme)?;
    let send = |model: &mut Model, msg: Msg| {
        let mut next = update(model, msg);
        while let Some(effect) = next {
            // A lane whose thread is gone answers nothing; the rest goes on.
            let _ = lanes[effect.lane()].send(effect);
            next = update(model, Msg::Idle);
        }
    };
    send(model, Msg::Idle);
    loop {
        model.redraw |= signals.heed(taken, std::mem::take(&mut model.suspend))?;
        if std::mem::take(&mut model.redraw) {
            // The terminal may have another size by now.
            let size = terminal.size()?;
            send(model, Msg::Resize(size.width, size.height));
            terminal.resize(size.into())?;
        }
        terminal.draw(|frame| view::compare(model, frame))?;
        if model.quit || signals.stop.load(Ordering::SeqCst) || !io::stdin().is_terminal() {
            return Ok(());
        }
        let mut wait = if model.busy.contains(&true) { BUSY } else { IDLE };
        while let Some(event) = next_event(wait)? {
            match event {
                Event::Key(key) => send(model, Msg::Key(key)),
                Event::Mouse(mouse) => send(model, Msg::Mouse(mouse)),
                Event::Resize(width, height) => send(model, Msg::Resize(width, height)),
                _ => {}
            }
            // What is typed ahead is taken in before the screen is drawn again.
            wait = Duration::ZERO;
        }
        while let Ok(msg) = replies.try_recv() {
            send(model, msg);
        }
    }
}
