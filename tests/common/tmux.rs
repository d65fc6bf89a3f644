//! A terminal to run the binary in, by tmux.

#![allow(dead_code, unreachable_pub)] // Every test program uses a part of this.

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// How long a screen may take to show what it is waited for: machines are slow now and then.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long Escape may take to show. It need not show at all.
const ESCAPE: Duration = Duration::from_secs(2);

/// A terminal with a shell in it.
#[derive(Debug)]
pub struct Terminal {
    socket: String,
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.tmux(&["kill-server"]);
    }
}

/// Whether there is a tmux. Says so where there is none; fails there if `NVMX_REQUIRE_LINUX` is set, as CI has it.
pub fn is_there() -> bool {
    let found =
        Command::new("tmux").arg("-V").stdin(Stdio::null()).output().is_ok_and(|output| output.status.success());
    if !found {
        assert!(std::env::var_os("NVMX_REQUIRE_LINUX").is_none(), "there is no tmux");
        eprintln!("SKIPPED: there is no tmux");
    }
    found
}

impl Terminal {
    /// A terminal of that size in which a plain shell runs, in the folder.
    pub fn new(size: (u16, u16), folder: &Path) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let socket = format!("nvmx-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let terminal = Self { socket };
        let (width, height) = (size.0.to_string(), size.1.to_string());
        let folder = folder.to_str().expect("a plain path");
        let shell = "exec env -u NO_COLOR PS1='shell> ' LC_ALL=C.UTF-8 sh";
        let words = ["-f", "/dev/null", "new-session", "-d", "-x", &width, "-y", &height, "-c", folder, shell];
        let made = terminal.tmux(&words);
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        terminal.wait("shell>");
        terminal
    }

    fn tmux(&self, words: &[&str]) -> Output {
        let mut command = Command::new("tmux");
        command.env_remove("TMUX").stdin(Stdio::null()).args(["-L", &self.socket]).args(words);
        command.output().expect("tmux runs")
    }

    /// The binary with these words, as a line for the shell; `before` are variables that are set for it.
    pub fn start(&self, before: &str, words: &str) {
        let binary = std::env::var("NVMX_BINARY").unwrap_or_else(|_| env!("CARGO_BIN_EXE_nvmx").into());
        self.text(&format!("{before} {binary} {words}; echo status $?"));
        self.key("Enter");
    }

    /// Presses a key, by the name that tmux has for it. Escape and a key right behind it are Alt and that key to any program: so
    /// Escape is waited for, until it shows.
    pub fn key(&self, key: &str) {
        let before = (key == "Escape").then(|| self.screen());
        assert!(self.tmux(&["send-keys", key]).status.success(), "{key}");
        if let Some(before) = before {
            let until = Instant::now() + ESCAPE;
            while self.screen() == before && Instant::now() < until {
                thread::sleep(Duration::from_millis(20));
            }
        }
    }

    /// Types a text.
    pub fn text(&self, text: &str) {
        assert!(self.tmux(&["send-keys", "-l", text]).status.success(), "{text}");
    }

    /// Gives it another size.
    pub fn resize(&self, width: u16, height: u16) {
        let (width, height) = (width.to_string(), height.to_string());
        assert!(self.tmux(&["resize-window", "-x", &width, "-y", &height]).status.success());
    }

    /// What is on the screen.
    pub fn screen(&self) -> String {
        String::from_utf8_lossy(&self.tmux(&["capture-pane", "-p"]).stdout).into_owned()
    }

    /// The same with the escape sequences that give it its colours.
    pub fn coloured(&self) -> String {
        String::from_utf8_lossy(&self.tmux(&["capture-pane", "-p", "-e"]).stdout).into_owned()
    }

    /// The screen as soon as `such` holds for it.
    #[track_caller]
    pub fn wait_until(&self, what: &str, such: impl Fn(&str) -> bool) -> String {
        let began = Instant::now();
        loop {
            let screen = self.screen();
            if such(&screen) {
                return screen;
            }
            assert!(began.elapsed() < PATIENCE, "no {what} in:\n{screen}");
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// The screen as soon as it shows a text.
    #[track_caller]
    pub fn wait(&self, text: &str) -> String {
        self.wait_until(text, |screen| screen.contains(text))
    }

    /// The process that the shell has started.
    pub fn child(&self) -> u32 {
        let shell = self.tmux(&["display-message", "-p", "#{pane_pid}"]).stdout;
        let shell = String::from_utf8_lossy(&shell).trim().to_owned();
        let children =
            std::fs::read_to_string(format!("/proc/{shell}/task/{shell}/children")).expect("a shell of ours");
        children.split_whitespace().next().expect("it has a child").parse().expect("a number")
    }
}
