//! The inspector without a terminal, for benches: how long it takes until a screen is there, and how long a key keeps it.

use crate::model::{Effect, Lane, Model, Msg};
use crate::replay::work::Replay;
use crate::theme::{Depth, Theme};
use crate::trace::Trace;
use crate::update::update;
use crate::view::view;
use crate::{Error, about, name_of};
use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use std::collections::VecDeque;
use std::path::Path;
use std::time::{Duration, Instant};
use traces::Reader;

/// An inspector that draws into memory.
pub struct Inspector {
    model: Model,
    trace: Trace,
    terminal: Terminal<TestBackend>,
    under_way: VecDeque<Effect>,
}

impl Inspector {
    /// Opens a trace on a screen of so many columns and rows.
    ///
    /// # Errors
    /// The trace cannot be opened.
    pub fn open(path: &Path, size: (u16, u16)) -> Result<Self, Error> {
        let (reader, name) = (Reader::open(path)?, name_of(path));
        let theme = Theme { depth: Depth::Indexed, unicode: true };
        let model = Model::new(about(&reader, name.clone()), theme, size);
        let terminal = match Terminal::new(TestBackend::new(size.0, size.1)) {
            Ok(terminal) => terminal,
            Err(never) => match never {},
        };
        let mut inspector = Self { model, trace: Trace::new(reader, name), terminal, under_way: VecDeque::new() };
        inspector.take(Msg::Idle);
        inspector.draw();
        Ok(inspector)
    }

    fn take(&mut self, msg: Msg) {
        let mut next = update(&mut self.model, msg);
        while let Some(effect) = next {
            self.under_way.push_back(effect);
            next = update(&mut self.model, Msg::Idle);
        }
    }

    fn draw(&mut self) {
        match self.terminal.draw(|frame| view(&self.model, frame)) {
            Ok(_) => {}
            Err(never) => match never {},
        }
    }

    /// Does one effect that is under way, of the screen's first, and draws what came of it. Returns whether there was one.
    fn go_on(&mut self) -> bool {
        let urgent = self.under_way.iter().position(|effect| effect.lane() == Lane::Screen).unwrap_or(0);
        let Some(effect) = self.under_way.remove(urgent) else { return false };
        let lane = effect.lane();
        let reader = self.trace.reader();
        let mut told = Vec::new();
        let reply = self.trace.perform(&mut Replay::new(&reader, None), effect, &mut |msg| told.push(msg));
        told.into_iter().for_each(|msg| self.take(msg));
        self.take(Msg::Done(lane, reply));
        self.draw();
        true
    }

    /// Goes on until every line of the list is drawn with its event.
    pub fn until_screen(&mut self) {
        let drawn = |model: &Model| {
            let window = model.window(crate::layout::list_rows(model));
            window.iter().all(|event| model.events.contains_key(event))
        };
        while !drawn(&self.model) && self.go_on() {}
    }

    /// Goes on until there is nothing more to do.
    pub fn until_rest(&mut self) {
        while self.go_on() {}
    }

    /// Presses a key and draws. Returns how long both take together, without what the key asks for in the background.
    pub fn key(&mut self, key: char) -> Duration {
        let code = match key {
            '\n' => KeyCode::Enter,
            '\u{1b}' => KeyCode::Esc,
            ' ' if !matches!(self.model.mode, crate::model::Mode::Prompt(_)) => KeyCode::PageDown,
            other => KeyCode::Char(other),
        };
        let (began, ran) = (Instant::now(), on_cpu());
        self.take(Msg::Key(KeyEvent::new(code, KeyModifiers::NONE)));
        self.draw();
        // What other programs take meanwhile is none of the key's, where the system tells it apart.
        on_cpu().zip(ran).map_or(began.elapsed(), |(now, then)| now.saturating_sub(then))
    }

    /// Filters, and goes on until all was looked at. Returns how long it takes until the first events that match are
    /// drawn, if any are, and until the end.
    pub fn filter(&mut self, text: &str) -> (Option<Duration>, Duration) {
        if self.model.filter.is_some() {
            // Else the line begins with its text.
            self.key('F');
        }
        self.until_rest();
        self.key('f');
        for letter in text.chars() {
            self.key(letter);
        }
        let began = Instant::now();
        self.key('\n');
        let (mut first, id) = (None, self.model.filter.as_ref().map(|filter| filter.id));
        while let Some(filter) = self.model.filter.as_ref().filter(|filter| Some(filter.id) == id) {
            let (done, all) = filter.hits.progress();
            if first.is_none() && filter.hits.count() > 0 && self.model.selected().is_some() {
                first = Some(began.elapsed());
            }
            if done == all || !self.go_on() {
                break;
            }
        }
        (first, began.elapsed())
    }

    /// How many events the filter lets through.
    pub fn hits(&self) -> u64 {
        self.model.filter.as_ref().map_or(0, |filter| filter.hits.count())
    }
}

/// How long this thread has run on a CPU, where the system says it.
fn on_cpu() -> Option<Duration> {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    stat.split(' ').next()?.parse().ok().map(Duration::from_nanos)
}
