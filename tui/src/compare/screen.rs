//! The loop between the terminal and the model of two traces.

use super::update::update;
use super::work::perform;
use super::{Effect, Model, Msg};
use crate::model::About;
use crate::session::{IDLE, Signals, StopOnPanic, Wake, listen, take_in};
use crate::terminal::Taken;
use crate::theme::Theme;
use crate::view;
use crossterm::event::Event;
use std::io::{self, IsTerminal};
use std::mem::ManuallyDrop;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use traces::Reader;

/// Shows two traces until the user quits or `stop` is set.
pub(crate) fn run(readers: [Reader; 2], abouts: [About; 2], theme: Theme, signals: &Signals) -> io::Result<()> {
    let readers = Arc::new(readers);
    let (wake, woken) = mpsc::channel();
    let start = |lane| worker(lane, &readers, &wake, &signals.stop);
    let lanes = [start(0)?, start(1)?];
    let mut model = Model::new(abouts, theme, crossterm::terminal::size()?);
    let taken = Taken::take()?;
    listen(wake, message)?;
    let ended = event_loop(&mut model, &lanes, &woken, signals, &taken);
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
    wake: &mpsc::Sender<Wake<Msg>>,
    stop: &Arc<AtomicBool>,
) -> io::Result<mpsc::Sender<Effect>> {
    let (ask, asked) = mpsc::channel::<Effect>();
    let (readers, wake, stop) = (readers.clone(), wake.clone(), stop.clone());
    thread::Builder::new().name(format!("tui compare {lane}")).spawn(move || {
        let _guard = StopOnPanic(stop);
        while let Ok(effect) = asked.recv() {
            let reply = perform([&readers[0], &readers[1]], effect);
            if wake.send(Wake::Msg(Msg::Done(lane, reply))).is_err() {
                return;
            }
        }
    })?;
    Ok(ask)
}

/// What an event of the terminal is to two traces.
fn message(event: Event) -> Option<Msg> {
    match event {
        Event::Key(key) => Some(Msg::Key(key)),
        Event::Mouse(mouse) => Some(Msg::Mouse(mouse)),
        Event::Resize(width, height) => Some(Msg::Resize(width, height)),
        _ => None,
    }
}

fn event_loop(
    model: &mut Model,
    lanes: &[mpsc::Sender<Effect>; 2],
    woken: &Receiver<Wake<Msg>>,
    signals: &Signals,
    taken: &Taken,
) -> io::Result<()> {
    // It is not dropped: that would show the cursor, as giving the terminal back does, and panic where that is gone.
    let mut terminal = ManuallyDrop::new(crate::ansi::screen(model.theme)?);
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
        // A change of size before there was anyone to be told of it.
        let size = terminal.size()?;
        if (size.width, size.height) != model.size {
            send(model, Msg::Resize(size.width, size.height));
        }
        terminal.draw(|frame| view::compare(model, frame))?;
        if model.quit || signals.stop.load(Ordering::SeqCst) || !io::stdin().is_terminal() {
            return Ok(());
        }
        if take_in(woken, IDLE, |msg| send(model, msg)).is_none() {
            return Ok(());
        }
    }
}
