//! The live world: answers from the outside, and hands events on.

use crate::Outside;
use crate::sink::Sink;
use core::ops::ControlFlow;
use hv::world::World;
use hv_defs::event::{Event, InputKind};
use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

/// What was typed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Key {
    /// This byte.
    Byte(u8),
    /// Nothing yet.
    None,
    /// Nothing, now and ever.
    End,
}

/// Where keys come from.
pub trait Keys {
    /// The next byte typed. When there is none, waits up to `wait` for one.
    fn key(&mut self, wait: Duration) -> Key;
}

/// A thread that reads a terminal sends its bytes here; when it hangs up, there are no more.
impl Keys for Receiver<u8> {
    fn key(&mut self, wait: Duration) -> Key {
        match self.recv_timeout(wait) {
            Ok(byte) => Key::Byte(byte),
            Err(RecvTimeoutError::Timeout) => Key::None,
            Err(RecvTimeoutError::Disconnected) => Key::End,
        }
    }
}

/// Nobody types.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoKeys;

impl Keys for NoKeys {
    fn key(&mut self, _: Duration) -> Key {
        Key::End
    }
}

/// Keys that are known beforehand, typed as fast as the guest is asked.
#[derive(Clone, Debug, Default)]
pub struct Script(pub VecDeque<u8>);

impl Keys for Script {
    fn key(&mut self, _: Duration) -> Key {
        self.0.pop_front().map_or(Key::End, Key::Byte)
    }
}

/// The longest that a wait lasts before the stop flag is looked at.
const PATIENCE: Duration = Duration::from_millis(20);

/// The world of a live run. Events go to `sink`.
pub(crate) struct Live<'a, S> {
    outside: Outside<'a>,
    sink: S,
    console_failed: bool,
}

impl<'a, S: Sink> Live<'a, S> {
    pub(crate) fn new(outside: Outside<'a>, sink: S) -> Self {
        Self { outside, sink, console_failed: false }
    }

    fn stopped(&self) -> bool {
        self.outside.stop.load(Ordering::Relaxed)
    }
}

impl<S: Sink> World for Live<'_, S> {
    fn events(&mut self, events: &[Event]) -> ControlFlow<()> {
        (self.outside.watch)(events);
        self.sink.events(events)
    }

    fn console(&mut self, bytes: &[u8]) {
        if !self.console_failed {
            let shown = self.outside.console.write_all(bytes).and_then(|()| self.outside.console.flush());
            self.console_failed = shown.is_err();
        }
    }

    fn input(&mut self, _poll: u64, now: u64, idle_until: Option<u64>) -> Option<(InputKind, u64)> {
        self.sink.asked(now, idle_until == Some(u64::MAX));
        loop {
            if self.stopped() {
                return Some((InputKind::Stop, 0));
            }
            // An idle guest waits about as long as its clock, at a thousand million a second, says; a guest that nothing
            // but a key will wake waits for that key.
            let idle = Duration::from_nanos(idle_until.map_or(0, |until| until.saturating_sub(now)));
            match self.outside.keys.key(idle.min(PATIENCE)) {
                Key::Byte(byte) => return Some((InputKind::Console, byte.into())),
                Key::None if idle_until == Some(u64::MAX) => {}
                Key::None | Key::End => return None,
            }
        }
    }
}
