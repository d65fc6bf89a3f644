//! The terminal: taken over, given back whatever happens, and the loop between.

use crate::model::{Effect, Lane, Model, Msg};
use crate::theme::Theme;
use crate::update::update;
use crate::view::view;
use crate::work::perform;
use crate::{Error, about};
use crossterm::event::{self, DisableMouseCapture, EnableMouseCapture, Event};
use crossterm::terminal::{EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode};
use crossterm::{cursor, execute};
use ratatui::Terminal;
use ratatui::backend::CrosstermBackend;
use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Once, mpsc};
use std::thread;
use std::time::Duration;
use traces::Reader;

/// Whether the terminal is ours now.
static TAKEN: AtomicBool = AtomicBool::new(false);

/// Gives the terminal back when dropped.
pub(crate) struct Taken;

impl Taken {
    pub(crate) fn take() -> io::Result<Self> {
        static HOOK: Once = Once::new();
        // A panic's message belongs on a terminal that shows it.
        HOOK.call_once(|| {
            let before = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |info| {
                give_back();
                before(info);
            }));
        });
        enable_raw_mode()?;
        TAKEN.store(true, Ordering::SeqCst);
        let taken = Self;
        execute!(io::stdout(), EnterAlternateScreen, EnableMouseCapture, cursor::Hide)?;
        Ok(taken)
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        give_back();
    }
}

/// Nothing that fails here could be told to anyone.
fn give_back() {
    if TAKEN.swap(false, Ordering::SeqCst) {
        let _ = execute!(io::stdout(), DisableMouseCapture, LeaveAlternateScreen, cursor::Show);
        let _ = disable_raw_mode();
    }
}

/// Hands a text to the terminal's clipboard, by OSC 52.
pub(crate) fn copy(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    write!(out, "\x1b]52;c;{}\x07", base64(text.as_bytes()))?;
    out.flush()
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for three in bytes.chunks(3) {
        let bits = three.iter().fold(0, |sum, byte| sum << 8 | u32::from(*byte)) << (8 * (3 - three.len()));
        for digit in 0..4 {
            let value = bits >> (18 - 6 * digit) & 63;
            text.push(if digit <= three.len() { DIGITS[value as usize] as char } else { '=' });
        }
    }
    text
}

/// Ends the loop when its thread panics: the terminal is given back by then, and nothing may draw on it.
pub(crate) struct StopOnPanic(pub(crate) Arc<AtomicBool>);

impl Drop for StopOnPanic {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.store(true, Ordering::SeqCst);
        }
    }
}

/// A thread that does the effects of a lane, one after another.
fn worker(
    lane: Lane,
    reader: Arc<Reader>,
    done: mpsc::Sender<Msg>,
    stop: Arc<AtomicBool>,
) -> io::Result<mpsc::Sender<Effect>> {
    let (ask, asked) = mpsc::channel::<Effect>();
    thread::Builder::new().name(format!("tui {lane:?}")).spawn(move || {
        let _guard = StopOnPanic(stop);
        while let Ok(effect) = asked.recv() {
            // Who no longer listens needs no telling.
            let reply = perform(&reader, effect, &mut |msg| drop(done.send(msg)));
            if done.send(Msg::Done(lane, reply)).is_err() {
                return;
            }
        }
    })?;
    Ok(ask)
}

/// How long the loop sleeps when nothing is under way: as late as it notices SIGTERM.
pub(crate) const IDLE: Duration = Duration::from_millis(200);
/// And when something is.
pub(crate) const BUSY: Duration = Duration::from_millis(10);

/// Ends the process when the loop does not heed `stop` within a second. A terminal that has gone away keeps the loop in
/// crossterm's poll for ever.
fn watch(stop: Arc<AtomicBool>) -> io::Result<()> {
    const HANGUP: i32 = 129;
    thread::Builder::new().name("tui watch".into()).spawn(move || {
        while !stop.load(Ordering::SeqCst) {
            thread::sleep(IDLE);
        }
        thread::sleep(Duration::from_secs(1));
        if TAKEN.load(Ordering::SeqCst) {
            give_back();
            std::process::exit(HANGUP);
        }
    })?;
    Ok(())
}

/// What has to be there before the terminal is taken over: what SIGTERM and SIGHUP set.
pub(crate) fn prepare() -> Result<Arc<AtomicBool>, Error> {
    if !io::stdin().is_terminal() || !io::stdout().is_terminal() {
        return Err(Error::NoTerminal);
    }
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGTERM, signal_hook::consts::SIGHUP, signal_hook::consts::SIGINT] {
        signal_hook::flag::register(signal, stop.clone()).map_err(Error::Terminal)?;
    }
    watch(stop.clone()).map_err(Error::Terminal)?;
    Ok(stop)
}

/// Shows a trace until the user quits, or SIGTERM or SIGHUP ask for it.
pub(crate) fn run(reader: Reader, name: String) -> Result<(), Error> {
    let stop = prepare()?;
    let theme = Theme::from_environment(|name| std::env::var(name).ok());
    let reader = Arc::new(reader);
    let (done, replies) = mpsc::channel();
    let start = |lane| worker(lane, reader.clone(), done.clone(), stop.clone()).map_err(Error::Terminal);
    let lanes = [start(Lane::Screen)?, start(Lane::Long)?, start(Lane::Whole)?];
    let size = crossterm::terminal::size().map_err(Error::Terminal)?;
    let mut model = Model::new(about(&reader, name), theme, size);
    let taken = Taken::take().map_err(Error::Terminal)?;
    let ended = event_loop(&mut model, &lanes, &replies, &stop).map_err(Error::Terminal);
    drop(taken);
    ended
}

fn event_loop(
    model: &mut Model,
    lanes: &[mpsc::Sender<Effect>; 3],
    replies: &mpsc::Receiver<Msg>,
    stop: &AtomicBool,
) -> io::Result<()> {
    let mut terminal = Terminal::new(CrosstermBackend::new(io::stdout()))?;
    let send = |model: &mut Model, msg: Msg| {
        let mut next = update(model, msg);
        while let Some(effect) = next {
            // A lane whose thread is gone answers nothing; the rest goes on.
            let _ = lanes[effect.lane() as usize].send(effect);
            next = update(model, Msg::Idle);
        }
    };
    send(model, Msg::Idle);
    loop {
        if std::mem::take(&mut model.redraw) {
            terminal.clear()?;
        }
        terminal.draw(|frame| view(model, frame))?;
        if model.quit || stop.load(Ordering::SeqCst) {
            return Ok(());
        }
        let busy = model.busy.contains(&true);
        if event::poll(if busy { BUSY } else { IDLE })? {
            // All that is typed ahead is taken in before the screen is drawn again.
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

#[cfg(test)]
mod tests {
    use super::base64;

    #[test]
    fn base64_pads() {
        for (text, wanted) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")] {
            assert_eq!(base64(text.as_bytes()), wanted);
        }
    }
}
