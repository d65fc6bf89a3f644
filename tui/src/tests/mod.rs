//! What the inspector's tests share, and the tests of the whole: a model that is driven by keys with its effects done at
//! once, its screens as text, and random keys.

mod live;
#[path = "../../../traces/tests/common/nonsense.rs"]
pub(crate) mod nonsense;
mod random;
mod replayed;
pub(crate) mod sample;
mod screens;
mod sessions;

use crate::about;
use crate::export::Step;
use crate::model::{Effect, Model, Msg, Reply};
use crate::replay::{self, work::Replay};
use crate::theme::{Depth, Theme};
use crate::trace::Trace;
use crate::update::update;
use crate::view::view;
use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use std::collections::VecDeque;
use std::sync::Arc;
use traces::Reader;

/// A model with its trace.
pub(crate) struct Session {
    pub(crate) model: Model,
    trace: Trace,
    replay: Replay<'static>,
    /// The last text that was copied.
    pub(crate) copied: Option<String>,
    /// Whether what is saved is.
    pub(crate) writes: bool,
}

impl Session {
    fn open(bytes: Vec<u8>, size: (u16, u16)) -> Self {
        Self::of(Reader::from_bytes(bytes).expect("a trace"), size)
    }

    fn of(reader: Reader, size: (u16, u16)) -> Self {
        let theme = Theme { depth: Depth::None, unicode: true };
        let name = "sample.nvmx".to_owned();
        let trace = Trace::new(reader, name.clone());
        // A replay borrows it; a test's few traces are never given back.
        let reader: &'static Arc<Reader> = Box::leak(Box::new(trace.reader()));
        let replay = Replay::new(reader, None);
        let mut session =
            Self { model: Model::new(about(reader, name), theme, size), replay, trace, copied: None, writes: false };
        session.send(Msg::Idle);
        session
    }

    pub(crate) fn of_sample(size: (u16, u16)) -> Self {
        Self::open(sample::trace(), size)
    }

    /// Takes in a message and does all that follows from it.
    fn send(&mut self, msg: Msg) {
        self.send_all([msg].into());
    }

    /// Takes in messages as if they came before any effect is done.
    fn send_all(&mut self, mut msgs: VecDeque<Msg>) {
        let mut effects = VecDeque::new();
        // Far more than any key needs; an effect that is asked for again and again would run into it.
        for _ in 0..20_000 {
            if let Some(msg) = msgs.pop_front() {
                effects.extend(update(&mut self.model, msg));
            } else if let Some(effect) = effects.pop_front() {
                let lane = effect.lane();
                let reply = self.perform(effect, &mut |msg| msgs.push_back(msg));
                msgs.push_back(Msg::Done(lane, reply));
            } else if replay::waits(&self.model) {
                msgs.push_back(Msg::Rest);
            } else {
                return;
            }
        }
        panic!("effects without end: {effects:?}");
    }

    /// Does an effect.
    fn perform(&mut self, effect: Effect, tell: &mut dyn FnMut(Msg)) -> Reply {
        match effect {
            // Tests write neither to the terminal that they run on nor, unless they mean to, to files.
            Effect::Copy(text) => {
                self.copied = Some(text);
                Reply::Copied(Ok(()))
            }
            Effect::Export(export) if !self.writes => Reply::Exported { id: export.id, step: Step::Done(0) },
            effect => self.trace.perform(&mut self.replay, effect, tell),
        }
    }

    fn code(&mut self, code: KeyCode, modifiers: KeyModifiers) {
        self.send(Msg::Key(KeyEvent::new(code, modifiers)));
    }

    /// Types a text; `\n` is Enter, `\t` Tab, `\u{1b}` Escape.
    pub(crate) fn keys(&mut self, text: &str) -> &mut Self {
        for character in text.chars() {
            let code = match character {
                '\n' => KeyCode::Enter,
                '\t' => KeyCode::Tab,
                '\u{1b}' => KeyCode::Esc,
                other => KeyCode::Char(other),
            };
            self.code(code, KeyModifiers::NONE);
        }
        self
    }

    /// The screen as text.
    fn screen(&self) -> String {
        let (width, height) = self.model.size;
        let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("memory takes all");
        terminal.draw(|frame| view(&self.model, frame)).expect("memory takes all");
        let buffer = terminal.backend().buffer();
        let rows = buffer.content().chunks(usize::from(width.max(1)));
        let lines: Vec<String> = rows.map(|row| row.iter().map(|cell| cell.symbol()).collect()).collect();
        lines.iter().map(|line| line.trim_end()).collect::<Vec<_>>().join("\n")
    }

    fn note(&self) -> &str {
        self.model.note.as_ref().map_or("", |(_, text)| text)
    }
}
