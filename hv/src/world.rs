//! The one door between a machine and everything outside it.
//!
//! A live world answers from the terminal and tees into a trace; a recorded world answers from the trace and compares.

use core::ops::ControlFlow;
use hv_defs::event::{Event, InputKind};

/// What is outside the machine.
pub trait World {
    /// What has happened since the last call, in order. [`ControlFlow::Break`] ends the run before anything else happens.
    fn events(&mut self, events: &[Event]) -> ControlFlow<()>;

    /// Bytes that the guest's console shows.
    fn console(&mut self, bytes: &[u8]);

    /// Asks for input. `poll` counts the questions from 0; they are asked at instructions that the configuration alone
    /// decides, so a recorded world answers a question by its number. When the machine is idle, `idle_until` says up to
    /// which instruction nothing will happen by itself (`u64::MAX` for ever), and a live world may wait.
    fn input(&mut self, poll: u64, now: u64, idle_until: Option<u64>) -> Option<(InputKind, u64)>;
}

/// Events of the current batch, before they go to the world.
#[derive(Debug, Default)]
pub struct Log {
    /// The batch.
    pub events: Vec<Event>,
}
