//! Keys, the mouse and sizes at random, with effects really done on traces of all sorts: nothing panics, nothing is asked
//! for without end, and the selected event is one of the trace.
//!
//! `NVMX_TUI_KEYS=1000000 cargo test -p nvmx -p tui --lib random` does so for longer; `NVMX_TUI_TRACES`, names of files with
//! colons between, adds traces.

use super::{Session, nonsense, sample};
use crate::model::{Effect, Mode, Msg};
use crate::update::update;
use crossterm::event::{KeyCode, KeyEvent, KeyModifiers, MouseButton, MouseEvent, MouseEventKind};
use std::collections::VecDeque;

/// Traces that are whole, cut, damaged, empty, imported, of many blocks, of an older version, of many vCPUs, and nonsense.
fn traces() -> Vec<(String, Vec<u8>)> {
    let (mut cut, mut damaged) = (sample::trace(), sample::trace());
    cut.truncate(cut.len() - 100);
    let middle = damaged.len() / 2;
    damaged[middle] ^= 0xff;
    let mut traces = vec![
        ("sample".to_owned(), sample::trace()),
        ("empty".to_owned(), sample::empty()),
        ("cut".to_owned(), cut),
        ("damaged".to_owned(), damaged),
        ("imported".to_owned(), sample::imported()),
        ("long".to_owned(), sample::long(150)),
        ("many vCPUs".to_owned(), sample::of_vcpus(300)),
        ("golden".to_owned(), include_bytes!("../../../traces/golden/v1.nvmx").to_vec()),
    ];
    traces.extend((0..12).map(|seed| {
        let events = [300, 3, 1500][seed as usize % 3];
        (format!("nonsense {seed}"), nonsense::trace(seed, events))
    }));
    let named = std::env::var("NVMX_TUI_TRACES").unwrap_or_default();
    for path in named.split(':').filter(|path| !path.is_empty()) {
        traces.push((path.to_owned(), std::fs::read(path).expect("NVMX_TUI_TRACES names traces")));
    }
    traces
}

/// How many messages are sent, to all traces together.
fn keys() -> u64 {
    std::env::var("NVMX_TUI_KEYS").ok().and_then(|keys| keys.parse().ok()).unwrap_or(30_000)
}

/// What holds after every message.
#[track_caller]
fn check(session: &mut Session, name: &str, step: u64) {
    let model = &mut session.model;
    (model.quit, model.suspend, model.redraw) = (false, false, false);
    assert!(model.cursor < model.about.len.max(1), "{name}, step {step}: event {}", model.cursor);
    let (from, to) = model.strip.window;
    assert!(from <= to && to <= model.about.len, "{name}, step {step}: {from}..{to}");
    if step.is_multiple_of(5) {
        session.screen();
    }
}

#[test]
fn random_keys_do_no_harm() {
    let traces = traces();
    let each = keys() / 2 / traces.len() as u64 + 1;
    for (seed, (name, bytes)) in (0x5eed..).zip(traces) {
        let (mut random, mut session) = (Random::new(seed), Session::open(bytes, (80, 24)));
        for step in 0..each {
            session.send(random.message());
            check(&mut session, &name, step);
        }
        assert!(!matches!(session.model.mode, Mode::Prompt(ref prompt) if prompt.line.text().len() > 1010));
    }
}

/// As above, while effects take their time: what comes of them comes late, one lane before another, when the model is
/// about something else by then.
#[test]
fn random_keys_do_no_harm_while_effects_are_under_way() {
    let traces = traces();
    let each = keys() / 2 / traces.len() as u64 + 1;
    for (seed, (name, bytes)) in (0xdead..).zip(traces) {
        let (mut random, mut session) = (Random::new(seed), Session::open(bytes, (80, 24)));
        let mut under_way: VecDeque<Effect> = VecDeque::new();
        for step in 0..each {
            let mut msgs = VecDeque::from([random.message()]);
            while let Some(msg) = msgs.pop_front() {
                let mut next = update(&mut session.model, msg);
                while let Some(effect) = next {
                    under_way.push_back(effect);
                    next = update(&mut session.model, Msg::Idle);
                }
                assert!(under_way.len() <= session.model.busy.len(), "{name}, step {step}: {under_way:?}");
                if !under_way.is_empty() && random.below(3) == 0 {
                    let at = random.below(under_way.len() as u64) as usize;
                    let effect = under_way.remove(at).expect("it is there");
                    let lane = effect.lane();
                    let reply = session.perform(effect, &mut |msg| msgs.push_back(msg));
                    msgs.push_back(Msg::Done(lane, reply));
                }
            }
            check(&mut session, &name, step);
        }
    }
}

/// A linear congruential generator: the same everywhere.
pub(super) struct Random {
    state: u64,
    /// What is left to type of a word.
    word: VecDeque<char>,
}

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self { state: seed, word: VecDeque::new() }
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.state = self.state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.state >> 33) % bound
    }

    /// What a user does next.
    pub(super) fn message(&mut self) -> Msg {
        const CODES: [KeyCode; 16] = [
            KeyCode::Enter,
            KeyCode::Esc,
            KeyCode::Tab,
            KeyCode::BackTab,
            KeyCode::Backspace,
            KeyCode::Delete,
            KeyCode::Up,
            KeyCode::Down,
            KeyCode::Left,
            KeyCode::Right,
            KeyCode::Home,
            KeyCode::End,
            KeyCode::PageUp,
            KeyCode::PageDown,
            KeyCode::Esc,
            KeyCode::F(1),
        ];
        const WORDS: [&str; 20] = [
            "exit and level == 2",
            "reason == ",
            "rip in 0..",
            "field ~ rip",
            "not (",
            "é\u{301}",
            "guest",
            "50%",
            "@300",
            "0x4",
            "99999999999999999999",
            " or ",
            "fexit",
            "fevent > 5",
            "/guest_r",
            ":'a",
            "ma",
            "freason == CPUID and instruction > 100",
            "fkind == lost",
            "5678",
        ];
        if let Some(letter) = self.word.pop_front() {
            return Msg::Key(KeyEvent::new(KeyCode::Char(letter), KeyModifiers::NONE));
        }
        match self.below(100) {
            0 => {
                const SIZES: [(u16, u16); 8] =
                    [(80, 24), (200, 60), (60, 16), (20, 5), (0, 0), (150, 16), (300, 100), (1, 1)];
                match self.below(12) {
                    at @ 0..8 => Msg::Resize(SIZES[at as usize].0, SIZES[at as usize].1),
                    _ => Msg::Resize(60 + self.below(240) as u16, 16 + self.below(84) as u16),
                }
            }
            1..=8 => {
                const KINDS: [MouseEventKind; 5] = [
                    MouseEventKind::Down(MouseButton::Left),
                    MouseEventKind::Drag(MouseButton::Left),
                    MouseEventKind::ScrollUp,
                    MouseEventKind::ScrollDown,
                    MouseEventKind::Moved,
                ];
                let kind = KINDS[self.below(5) as usize];
                let (column, row) = (self.below(210) as u16, self.below(70) as u16);
                Msg::Mouse(MouseEvent { kind, column, row, modifiers: KeyModifiers::NONE })
            }
            9..=30 => Msg::Key(KeyEvent::new(CODES[self.below(16) as usize], KeyModifiers::NONE)),
            31..=38 => {
                let letter = char::from(b'a' + self.below(26) as u8);
                Msg::Key(KeyEvent::new(KeyCode::Char(letter), KeyModifiers::CONTROL))
            }
            39..=42 if self.word.is_empty() => {
                self.word = WORDS[self.below(WORDS.len() as u64) as usize].chars().collect();
                self.message()
            }
            _ => {
                let letter = char::from(b' ' + self.below(95) as u8);
                Msg::Key(KeyEvent::new(KeyCode::Char(letter), KeyModifiers::NONE))
            }
        }
    }
}
