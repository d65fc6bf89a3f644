//! The loop between the terminal and the model of two traces.

use super::update::update;
use super::work::perform;
use super::{Effect, Model, Msg};
use crate::model::About;
use crate::session::{BUSY, IDLE, StopOnPanic};
use crate::terminal::Taken;
use crate::theme::Theme;
use crate::view;
use crossterm::event::{self, Event};
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;
use traces::Reader;

/// Shows two traces until the user quits or `stop` is set.
pub(crate) fn run(readers: [Reader; 2], abouts: [About; 2], theme: Theme, stop: &Arc<AtomicBool>) -> io::Result<()> {
    let readers = Arc::new(readers);
    let (done, replies) = mpsc::channel();
    let lanes = [worker(0, &readers, &done, stop)?, worker(1, &readers, &done, stop)?];
    let mut model = Model::new(abouts, theme, crossterm::terminal::size()?);
    let taken = Taken::take()?;
    let ended = event_loop(&mut model, &lanes, &replies, stop);
    drop(taken);
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

fn event_loop(
    model: &mut Model,
    lanes: &[mpsc::Sender<Effect>; 2],
    replies: &mpsc::Receiver<Msg>,
    stop: &AtomicBool,
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
        if std::mem::take(&mut model.redraw) {
            terminal.clear()?;
        }
        terminal.draw(|frame| view::compare(model, frame))?;
        if model.quit || stop.load(Ordering::SeqCst) {
            return Ok(());
        }
        if event::poll(if model.busy.contains(&true) { BUSY } else { IDLE })? {
            while event::poll(Duration::ZERO)? {
                match event::read()? {
                    Event::Key(key) => send(model, Msg::Key(key)),
                    Event::Mouse(mouse) => send(model, Msg::Mouse(mouse)),
                    Event::Resize(width, height) => send(model, Msg::Resize(width, height)),
                    _ => {}
                }
            }
        }
        while let Ok(msg) = replies.try_recv() {
            send(model, msg);
        }
    }
}
