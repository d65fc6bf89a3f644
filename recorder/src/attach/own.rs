//! For who runs a vCPU itself and has that thread recorded: the kernel's records, and what the thread saw, in one order.
//!
//! What a thread does, it does one after the other. So all that the kernel has written of it by the time that it looks has
//! happened before what it saw since, and nothing has to wait for its place.

use super::{Attach, Error, Options, Who, calls};
use hv_defs::event::Event;

impl Attach {
    /// Bytes of a ring that holds what one thread does between two looks.
    const OWN: usize = 16 << 20;

    /// Begins a recording of the thread that calls this, with stamps that count from `start`, in nanoseconds of
    /// CLOCK_MONOTONIC.
    ///
    /// # Errors
    /// As [`Attach::open`].
    pub(crate) fn of_this_thread(start: u64) -> Result<Self, Error> {
        let who = Who::Threads(vec![calls::thread()]);
        let mut attach = Self::open(Options { buffer: Self::OWN, counters: false, ..Options::of(who) })?;
        attach.start = start;
        attach.state.begin(start);
        Ok(attach)
    }

    /// What has happened on the thread that calls this, by the kernel's records and then by its own events: as much of it as
    /// does not change any more.
    pub(crate) fn take_own(&mut self, own: &[Event]) -> Vec<Event> {
        self.look(true);
        self.state.own(calls::thread(), own);
        self.state.ready().collect()
    }

    /// The time before which [`Attach::take_own`] will give nothing more; at the latest `now`.
    pub(crate) fn settled(&self, now: u64) -> u64 {
        self.state.first_waiting().unwrap_or(now).min(now)
    }
}
