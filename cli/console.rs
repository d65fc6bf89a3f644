//! The guest's serial console on stdin and stdout, a file or a pipe in place of the keyboard, and the signals that end a
//! run.

use super::fail::{Fails, Result, Status, THREADS, ending_signals};
use recorder::{Key, Keys, Outside, Script};
use std::collections::VecDeque;
use std::io::{self, IsTerminal, Read, Write};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Duration;

/// Ctrl-A, which leads in what is meant for us and not for the guest.
const LEAD: u8 = 1;
/// Ctrl-C.
const INTERRUPT: u8 = 3;

/// The outside of a run.
pub struct Console {
    keys: Input,
    shown: Shown,
    /// Set by SIGINT, SIGTERM and SIGHUP, by Ctrl-A x, and when stdout is gone.
    stop: Arc<AtomicBool>,
}

enum Input {
    File(Script),
    Pipe(Receiver<u8>),
    Terminal(Terminal),
}

/// The terminal in raw mode, until this is dropped.
struct Terminal {
    bytes: Receiver<u8>,
    lead: Lead,
    stop: Arc<AtomicBool>,
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = crossterm::terminal::disable_raw_mode();
    }
}

/// Tells what is meant for the guest from what is meant for us.
struct Lead {
    led: bool,
    /// Whether Ctrl-C is the guest's; else it stops the run.
    guest_interrupts: bool,
}

impl Lead {
    /// What the guest gets of a key, or that the user wants to stop.
    fn key(&mut self, byte: u8) -> ControlFlow<(), Option<u8>> {
        let led = std::mem::take(&mut self.led);
        match byte {
            b'x' | b'X' if led => ControlFlow::Break(()),
            INTERRUPT if !self.guest_interrupts => ControlFlow::Break(()),
            LEAD if led => ControlFlow::Continue(Some(LEAD)),
            LEAD => {
                self.led = true;
                ControlFlow::Continue(None)
            }
            _ if led => ControlFlow::Continue(None),
            _ => ControlFlow::Continue(Some(byte)),
        }
    }
}

impl Keys for Input {
    fn key(&mut self, wait: Duration) -> Key {
        match self {
            Self::File(script) => script.key(wait),
            Self::Pipe(bytes) => bytes.key(wait),
            Self::Terminal(terminal) => match terminal.bytes.key(wait) {
                Key::Byte(byte) => match terminal.lead.key(byte) {
                    ControlFlow::Continue(Some(byte)) => Key::Byte(byte),
                    ControlFlow::Continue(None) => Key::None,
                    ControlFlow::Break(()) => {
                        terminal.stop.store(true, Ordering::Relaxed);
                        Key::None
                    }
                },
                key => key,
            },
        }
    }
}

/// Stdout. A run whose console nobody can see any more is ended.
struct Shown {
    stop: Arc<AtomicBool>,
    broken: Option<io::Error>,
    /// Whether the last line shown is not ended.
    open: bool,
}

impl Write for Shown {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let length = io::stdout().write(bytes).inspect_err(|error| self.note(error))?;
        self.open = bytes[..length].last().map_or(self.open, |&byte| byte != b'\n');
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stdout().flush().inspect_err(|error| self.note(error))
    }
}

impl Shown {
    fn note(&mut self, error: &io::Error) {
        if error.kind() != io::ErrorKind::Interrupted {
            self.stop.store(true, Ordering::Relaxed);
            self.broken = Some(error.kind().into());
        }
    }
}

impl Console {
    /// Input from `file`, or from stdin as it comes. `guest_interrupts` says whether a Ctrl-C that is typed goes to the
    /// guest.
    pub fn open(file: Option<&Path>, guest_interrupts: bool) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        for signal in ending_signals() {
            // The second one ends the process at once, should the machine be too busy to see the first.
            signal_hook::flag::register_conditional_shutdown(signal, 128 + signal, stop.clone())
                .and_then(|_| signal_hook::flag::register(signal, stop.clone()))
                .or_fail(Status::Failed, "cannot listen for Ctrl-C")?;
        }
        let keys = match file {
            Some(path) => {
                let what = format!("cannot read console input from {}", path.display());
                let bytes = std::fs::read(path).or_hint(Status::Usage, what, "name a readable file")?;
                Input::File(Script(VecDeque::from(bytes)))
            }
            None if io::stdin().is_terminal() && io::stdout().is_terminal() => {
                let what = "cannot set up the terminal for the guest's console";
                crossterm::terminal::enable_raw_mode().or_hint(Status::Failed, what, "give input by --input FILE")?;
                let lead = Lead { led: false, guest_interrupts };
                // Dropped, it gives the terminal back.
                let mut terminal = Terminal { bytes: sync_channel(0).1, lead, stop: stop.clone() };
                terminal.bytes = stdin()?;
                Input::Terminal(terminal)
            }
            None => Input::Pipe(stdin()?),
        };
        let shown = Shown { stop: stop.clone(), broken: None, open: false };
        Ok(Self { keys, shown, stop })
    }

    /// Runs something in this outside.
    pub fn with<T>(&mut self, run: impl FnOnce(Outside<'_>) -> T) -> T {
        run(Outside { console: &mut self.shown, keys: &mut self.keys, stop: &self.stop, watch: &mut |_| {} })
    }

    /// Gives the terminal back, on a line of its own.
    ///
    /// # Errors
    /// Stdout was gone before the run ended.
    pub fn close(self) -> io::Result<()> {
        drop(self.keys);
        match self.shown.broken {
            Some(error) => Err(error),
            None if self.shown.open => writeln!(io::stdout()),
            None => Ok(()),
        }
    }
}

/// A thread that reads stdin. It lives as long as the process: a read cannot be called off.
fn stdin() -> Result<Receiver<u8>> {
    let (send, receive) = sync_channel(4096);
    let reading = move || {
        let mut bytes = [0; 4096];
        while let Ok(length @ 1..) = io::stdin().lock().read(&mut bytes) {
            for &byte in &bytes[..length] {
                if send.send(byte).is_err() {
                    return;
                }
            }
        }
    };
    let what = "cannot listen to the console's input beside the guest";
    std::thread::Builder::new().name("stdin".into()).spawn(reading).or_hint(Status::Failed, what, THREADS)?;
    Ok(receive)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_led_in_by_ctrl_a() {
        // What the guest gets of the keys, and whether they ask to stop.
        let check = |guest_interrupts, keys: &[u8], guest: &[u8], stops: bool| {
            let mut lead = Lead { led: false, guest_interrupts };
            let mut got = Vec::new();
            let stopped = keys.iter().any(|&byte| match lead.key(byte) {
                ControlFlow::Break(()) => true,
                ControlFlow::Continue(byte) => {
                    got.extend(byte);
                    false
                }
            });
            assert_eq!((got.as_slice(), stopped), (guest, stops), "{keys:?}");
        };
        check(true, b"ls\r", b"ls\r", false);
        check(true, b"a\x01xb", b"a", true);
        check(true, b"\x01X", b"", true);
        check(true, b"\x01\x01x", b"\x01x", false);
        check(true, b"\x01qx", b"x", false);
        check(true, b"\x03", b"\x03", false);
        check(false, b"a\x03b", b"a", true);
    }
}
