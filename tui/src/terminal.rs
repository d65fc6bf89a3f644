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
