//! A session: the threads around the model, and the loop that draws it.
//!
//! One thread reads the terminal and one for each lane does effects; all send to the loop, which takes in what there is
//! and draws once. It sleeps while nothing comes.

use crate::export;
use crate::keep::{self, Kept, Place};
use crate::model::{Effect, Lane, Model, Msg, Reply};
use crate::replay::{self, work::Replay};
use crate::terminal::{self, Taken};
use crate::theme::{Role, Theme};
use crate::trace::Trace;
use crate::update::update;
use crate::view::view;
use crate::{Error, about, name_of};
use crossterm::event::{self, Event};
use signal_hook::consts::{SIGCONT, SIGHUP, SIGINT, SIGTERM, SIGTSTP};
use std::io::{self, IsTerminal};
use std::mem::ManuallyDrop;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};
use traces::Reader;

/// What comes to the loop.
pub(crate) enum Wake<M> {
    Msg(M),
    /// The terminal cannot be read any more.
    Hangup,
}

/// What signals ask for.
#[derive(Clone, Default)]
pub(crate) struct Signals {
    /// To end.
    pub(crate) stop: Arc<AtomicBool>,
    suspend: Arc<AtomicBool>,
    resumed: Arc<AtomicBool>,
}

impl Signals {
    fn register() -> io::Result<Self> {
        let signals = Self::default();
        for (signal, flag) in [
            (SIGTERM, &signals.stop),
            (SIGHUP, &signals.stop),
            (SIGINT, &signals.stop),
            (SIGTSTP, &signals.suspend),
            (SIGCONT, &signals.resumed),
        ] {
            signal_hook::flag::register(signal, flag.clone())?;
        }
        Ok(signals)
    }
}

impl Signals {
    /// Gives the terminal back for as long as the process is to be stopped, which `asked` asks for too. Whether all is to
    /// be drawn anew.
    pub(crate) fn heed(&self, taken: &Taken, asked: bool) -> io::Result<bool> {
        if self.suspend.swap(false, Ordering::SeqCst) || asked {
            taken.suspend()?;
            self.resumed.store(false, Ordering::SeqCst);
            return Ok(true);
        }
        let resumed = self.resumed.swap(false, Ordering::SeqCst);
        if resumed {
            taken.again()?;
        }
        Ok(resumed)
    }
}

/// A thread that does the effects of a lane, one after another. One that panics ends its lane and says so.
fn worker(lane: Lane, trace: Arc<Trace>, path: PathBuf, wake: Sender<Wake<Msg>>) -> io::Result<Sender<Effect>> {
    let (ask, asked) = mpsc::channel::<Effect>();
    thread::Builder::new().name(format!("tui {lane:?}")).spawn(move || {
        let mut next = asked.recv().ok();
        while next.is_some() {
            let reader = trace.reader();
            // A machine is built by the lane that is asked for one, of the trace as it is then.
            let mut replay = Replay::new(&reader, Some(path.clone()));
            while let Some(effect) = next.take() {
                if trace.is_news(&reader, &effect) {
                    next = Some(effect);
                    break;
                }
                // Who no longer listens needs no telling.
                let mut tell = |msg| drop(wake.send(Wake::Msg(msg)));
                let done = catch_unwind(AssertUnwindSafe(|| trace.perform(&mut replay, effect, &mut tell)));
                let ended = done.is_err();
                let reply = done.unwrap_or_else(|_| Reply::Panicked(terminal::last_panic().unwrap_or_default()));
                if wake.send(Wake::Msg(Msg::Done(lane, reply))).is_err() || ended {
                    return;
                }
                next = asked.recv().ok();
            }
        }
    })?;
    Ok(ask)
}

/// A thread that reads the terminal. `of` has a message of what came, where it is for anyone.
pub(crate) fn listen<M: Send + 'static>(wake: Sender<Wake<M>>, of: fn(Event) -> Option<M>) -> io::Result<()> {
    thread::Builder::new().name("tui input".into()).spawn(move || {
        loop {
            let msg = match event::read() {
                Ok(event) => match of(event) {
                    Some(msg) => Wake::Msg(msg),
                    None => continue,
                },
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => Wake::Hangup,
            };
            let ended = matches!(msg, Wake::Hangup);
            if wake.send(msg).is_err() || ended {
                return;
            }
        }
    })?;
    Ok(())
}

/// What an event of the terminal is to a session.
fn message(event: Event) -> Option<Msg> {
    match event {
        Event::Key(key) => Some(Msg::Key(key)),
        Event::Mouse(mouse) => Some(Msg::Mouse(mouse)),
        Event::Resize(width, height) => Some(Msg::Resize(width, height)),
        _ => None,
    }
}

/// As late as the loop notices a signal.
pub(crate) const IDLE: Duration = Duration::from_millis(200);

/// How long no key has to come before a replay follows the cursor.
const REST: Duration = Duration::from_millis(120);

/// How often the file is looked at for more.
const POLL: Duration = Duration::from_secs(1);

/// Messages that are taken in before the screen is drawn again, at most: all that is typed ahead.
const AHEAD: usize = 1000;

/// Ends the process when the loop does not heed `stop` within a second: a terminal that takes nothing more keeps it for
/// ever.
fn watch(stop: Arc<AtomicBool>) -> io::Result<()> {
    const HANGUP: i32 = 129;
    thread::Builder::new().name("tui watch".into()).spawn(move || {
        while !stop.load(Ordering::SeqCst) {
            thread::sleep(IDLE);
        }
        thread::sleep(Duration::from_secs(1));
        if terminal::is_taken() {
            terminal::give_back();
            std::process::exit(HANGUP);
        }
    })?;
    Ok(())
}

/// Ends a loop when a thread of its panics.
pub(crate) struct StopOnPanic(pub(crate) Arc<AtomicBool>);

impl Drop for StopOnPanic {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.store(true, Ordering::SeqCst);
        }
    }
}

/// What has to be there before the terminal is taken over: a terminal, and what signals set.
pub(crate) fn prepare() -> Result<Signals, Error> {
    if !io::stdin().is_terminal() || !io::stdout().is_terminal() {
        return Err(Error::NoTerminal);
    }
    let signals = Signals::register().map_err(Error::Terminal)?;
    watch(signals.stop.clone()).map_err(Error::Terminal)?;
    Ok(signals)
}

/// Shows a trace, which may have been written to just now, until the user quits, or SIGTERM or SIGHUP ask for it.
/// Says what could not be kept.
pub(crate) fn run(
    reader: Reader,
    path: &Path,
    place: Option<Place>,
    theme: Theme,
    lately_written: bool,
) -> Result<Option<String>, Error> {
    let signals = prepare()?;
    let size = crossterm::terminal::size().map_err(Error::Terminal)?;
    let mut model = Model::new(about(&reader, name_of(path)), theme, size);
    let before = Kept::of(&model);
    model.place = place.map(Arc::new);
    match model.place.as_deref().map(keep::load) {
        Some(Ok(Some(kept))) => kept.put(&mut model),
        Some(Err(why)) => model.note = Some((Role::Notice, why)),
        _ => {}
    }
    if model.about.truncated && lately_written {
        model.live = true;
        model.note = Some((Role::Notice, "This trace is still written; G follows its end.".into()));
    }
    let trace = Arc::new(Trace::new(reader, name_of(path)));
    let notice = Theme::notice(|name| std::env::var(name).ok()).map(|text| (Role::Notice, text));
    model.note = model.note.or(notice);
    let (wake, woken) = mpsc::channel();
    let start = |lane| worker(lane, trace.clone(), path.to_owned(), wake.clone()).map_err(Error::Terminal);
    let lanes = [start(Lane::Screen)?, start(Lane::Long)?, start(Lane::Whole)?, start(Lane::Replay)?];
    let taken = Taken::take().map_err(Error::Terminal)?;
    listen(wake, message).map_err(Error::Terminal)?;
    let ended = event_loop(&mut model, &lanes, &woken, &signals, &taken).map_err(Error::Terminal);
    drop(taken);
    ended.map(|()| leave(&model, &before))
}

/// Keeps what is to be kept. A trace that nothing was done with gets no file.
fn leave(model: &Model, before: &Kept) -> Option<String> {
    // What is saved in part is not saved.
    for path in model.export.iter().map(|export| &export.path).chain(&model.unsaved) {
        export::cancel(path);
    }
    let place = model.place.as_deref()?;
    let kept = Kept::of(model);
    if kept.is_like(before) && keep::load(place) == Ok(None) {
        return None;
    }
    keep::save(place, &kept).err()
}

/// Waits for what comes, and has `see` take in all that there is, up to a number. Whether there was anything; `None` when
/// nothing comes any more: the terminal is gone, with a signal or without.
pub(crate) fn take_in<M>(woken: &Receiver<Wake<M>>, sleep: Duration, mut see: impl FnMut(M)) -> Option<bool> {
    let mut next = match woken.recv_timeout(sleep) {
        Ok(wake) => wake,
        Err(RecvTimeoutError::Timeout) => return io::stdin().is_terminal().then_some(false),
        Err(RecvTimeoutError::Disconnected) => return None,
    };
    for _ in 0..AHEAD {
        match next {
            Wake::Msg(msg) => see(msg),
            Wake::Hangup => return None,
        }
        match woken.try_recv() {
            Ok(wake) => next = wake,
            Err(_) => return Some(true),
        }
    }
    match next {
        Wake::Msg(msg) => see(msg),
        Wake::Hangup => return None,
    }
    Some(true)
}

/// Takes in a message and hands out what is to be done for it.
fn send(model: &mut Model, lanes: &[Sender<Effect>; 4], msg: Msg) {
    let mut next = update(model, msg);
    while let Some(effect) = next {
        next = match effect {
            // Between two screens: what is written in the midst of one would end up on it.
            Effect::Copy(text) => {
                let copied = terminal::copy(&text).map_err(|error| error.to_string());
                update(model, Msg::Done(Lane::Screen, Reply::Copied(copied)))
            }
            effect => {
                // A lane whose thread is gone has said so.
                let _ = lanes[effect.lane() as usize].send(effect);
                update(model, Msg::Idle)
            }
        };
    }
}

fn event_loop(
    model: &mut Model,
    lanes: &[Sender<Effect>; 4],
    woken: &Receiver<Wake<Msg>>,
    signals: &Signals,
    taken: &Taken,
) -> io::Result<()> {
    // It is not dropped: that would show the cursor, as giving the terminal back does, and panic where that is gone.
    let mut terminal = ManuallyDrop::new(crate::ansi::screen(model.theme)?);
    send(model, lanes, Msg::Idle);
    let (mut draw, mut typed, mut looked) = (true, Instant::now(), Instant::now());
    loop {
        if looked.elapsed() >= POLL {
            looked = Instant::now();
            send(model, lanes, Msg::Tick);
        }
        model.redraw |= signals.heed(taken, std::mem::take(&mut model.suspend))?;
        if std::mem::take(&mut model.redraw) {
            // The terminal may have another size by now. (`clear` would ask it for the cursor's place, and the answer
            // would come as keys.)
            let size = terminal.size()?;
            send(model, lanes, Msg::Resize(size.width, size.height));
            terminal.resize(size.into())?;
            draw = true;
        }
        // A change of size before there was anyone to be told of it.
        let size = terminal.size()?;
        if (size.width, size.height) != model.size {
            send(model, lanes, Msg::Resize(size.width, size.height));
            draw = true;
        }
        if std::mem::take(&mut draw) {
            terminal.draw(|frame| view(model, frame))?;
        }
        if model.quit || signals.stop.load(Ordering::SeqCst) {
            return Ok(());
        }
        let rest = REST.saturating_sub(typed.elapsed());
        if replay::waits(model) && rest.is_zero() {
            send(model, lanes, Msg::Rest);
            draw = true;
            continue;
        }
        let sleep = if replay::waits(model) { rest } else { IDLE };
        let came = take_in(woken, sleep, |msg| {
            if matches!(msg, Msg::Key(_) | Msg::Mouse(_)) {
                typed = Instant::now();
            }
            send(model, lanes, msg);
        });
        match came {
            Some(came) => draw |= came,
            None => return Ok(()),
        }
    }
}
