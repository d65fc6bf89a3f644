//! The terminal: taken over, lent back while the program is suspended, and given back whatever happens.

use crossterm::event::{DisableMouseCapture, EnableMouseCapture};
use crossterm::terminal::{EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode};
use crossterm::{cursor, execute};
use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, Once, OnceLock, PoisonError};
use std::thread::{self, ThreadId};

/// Whether the terminal is ours now.
static TAKEN: AtomicBool = AtomicBool::new(false);

/// The thread that draws.
static DRAWS: OnceLock<ThreadId> = OnceLock::new();

/// What a thread that does not draw said when it panicked.
static PANIC: Mutex<Option<String>> = Mutex::new(None);

/// Gives the terminal back when dropped.
pub(crate) struct Taken;

impl Taken {
    /// Takes the terminal over. From now on, a panic of this thread gives it back before its message is written; that of
    /// another thread is kept for [`last_panic`] and leaves the screen alone.
    pub(crate) fn take() -> io::Result<Self> {
        static HOOK: Once = Once::new();
        DRAWS.get_or_init(|| thread::current().id());
        HOOK.call_once(|| {
            let before = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |info| {
                if TAKEN.load(Ordering::SeqCst) && DRAWS.get() != Some(&thread::current().id()) {
                    let mut told = PANIC.lock().unwrap_or_else(PoisonError::into_inner);
                    *told = Some(info.to_string().split_whitespace().collect::<Vec<_>>().join(" "));
                    return;
                }
                give_back();
                before(info);
            }));
        });
        let taken = Self;
        take_over()?;
        Ok(taken)
    }

    /// Gives the terminal back, stops the process as its shell expects, and takes it over again when it goes on.
    pub(crate) fn suspend(&self) -> io::Result<()> {
        give_back();
        signal_hook::low_level::emulate_default_handler(signal_hook::consts::SIGTSTP)?;
        take_over()
    }

    /// Takes the terminal over again: after a stop that could not be seen coming, the shell has had it.
    pub(crate) fn again(&self) -> io::Result<()> {
        give_back();
        take_over()
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        give_back();
    }
}

fn take_over() -> io::Result<()> {
    enable_raw_mode()?;
    TAKEN.store(true, Ordering::SeqCst);
    execute!(io::stdout(), EnterAlternateScreen, EnableMouseCapture, cursor::Hide)
}

/// Whether the terminal is taken.
pub(crate) fn is_taken() -> bool {
    TAKEN.load(Ordering::SeqCst)
}

/// Nothing that fails here could be told to anyone.
pub(crate) fn give_back() {
    if TAKEN.swap(false, Ordering::SeqCst) {
        let _ = execute!(io::stdout(), DisableMouseCapture, LeaveAlternateScreen, cursor::Show);
        let _ = disable_raw_mode();
    }
}

/// What was said by the last thread that panicked, on one line.
pub(crate) fn last_panic() -> Option<String> {
    PANIC.lock().unwrap_or_else(PoisonError::into_inner).take()
}

/// Hands a text to the terminal's clipboard, by OSC 52.
pub(crate) fn copy(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(clipboard(text, |name| std::env::var_os(name).is_some()).as_bytes())?;
    out.flush()
}

/// What has the clipboard of the terminal, or of that around a terminal multiplexer, take a text. `set` says whether a
/// variable of the environment is set.
///
/// tmux takes the sequence itself where `set-clipboard` is on, and hands it on in its own envelope where
/// `allow-passthrough` is; it ignores the other form, so both are sent. screen takes only its envelope, which it limits to
/// some 700 bytes.
fn clipboard(text: &str, set: impl Fn(&str) -> bool) -> String {
    const ENVELOPE: usize = 600;
    let plain = format!("\x1b]52;c;{}\x07", base64(text.as_bytes()));
    if set("TMUX") {
        let inner = plain.replace('\x1b', "\x1b\x1b");
        return format!("{plain}\x1bPtmux;{inner}\x1b\\");
    }
    if set("STY") {
        // All of it is ASCII.
        let parts = plain.as_bytes().chunks(ENVELOPE);
        return parts.map(|part| format!("\x1bP{}\x1b\\", String::from_utf8_lossy(part))).collect();
    }
    plain
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

#[cfg(test)]
mod tests {
    use super::{base64, clipboard};

    #[test]
    fn multiplexers_are_seen_through() {
        let check = |variable: &str, wanted: &str| assert_eq!(clipboard("foo", |name| name == variable), wanted);
        check("", "\x1b]52;c;Zm9v\x07");
        check("TMUX", "\x1b]52;c;Zm9v\x07\x1bPtmux;\x1b\x1b]52;c;Zm9v\x07\x1b\\");
        check("STY", "\x1bP\x1b]52;c;Zm9v\x07\x1b\\");
        let long = clipboard(&"x".repeat(1500), |name| name == "STY");
        assert_eq!(long.matches("\x1bP").count(), 4);
    }

    #[test]
    fn base64_pads() {
        for (text, wanted) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")] {
            assert_eq!(base64(text.as_bytes()), wanted);
        }
    }
}
