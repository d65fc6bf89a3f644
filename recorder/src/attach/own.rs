//! For who runs a vCPU itself and has that thread recorded: the kernel's records, and what the thread saw, in one order.
//!
//! What a thread does, it does one after the other. So all that the kernel has written of it by the time that it looks has
//! happened before what it saw since, and nothing has to wait for its place.

use super::{Attach, Error, Options, Who, calls};
use hv_defs::event::Event;

impl Attach {
    /// Bytes of a ring that holds what one thread does between two looks.
    const OWN: usize = 16 << 20;

    /// Begins a recording of the thread that calls this.
    ///
    /// # Errors
    /// As [`Attach::open`].
    pub(crate) fn of_this_thread() -> Result<Self, Error> {
        let who = Who::Threads(vec![calls::thread()]);
        Self::open(Options { buffer: Self::OWN, ..Options::of(who) })
    }

    /// What has happened on the thread that calls this, by the kernel's records and then by its own events: as much of it as
    /// does not change any more.
    pub(crate) fn take_own(&mut self, own: &[Event]) -> impl Iterator<Item = Event> + '_ {
        self.look(true);
        self.state.own(calls::thread(), own);
        self.state.ready()
    }
}
