//! Where the events of a run go: into a trace or nowhere.

use crate::keeping::Seen;
use core::ops::ControlFlow;
use hv_defs::event::Event;
use traces::Feed;

/// Takes the events of a run.
pub(crate) trait Sink {
    /// What happened. [`ControlFlow::Break`] ends the run.
    fn events(&mut self, events: &[Event]) -> ControlFlow<()>;

    /// The machine asks for input at `now` by its own clock, in instructions and what it idled away; `asleep` when nothing
    /// but input will wake it. The machine asks at the same places whenever it runs the same.
    fn asked(&mut self, now: u64, asleep: bool);
}

/// A run that is not recorded.
pub(crate) struct Unrecorded;

impl Sink for Unrecorded {
    fn events(&mut self, _: &[Event]) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }

    fn asked(&mut self, _: u64, _: bool) {}
}

/// How long events are held back by the machine's clock: a second, for a machine that idles at the pace of its clock.
const HELD: u64 = 1 << 30;

/// A run that is recorded. Where the disk is slower, the machine waits.
pub(crate) struct Recording<'a> {
    pub(crate) feed: &'a mut Feed,
    /// What there was so far.
    pub(crate) seen: &'a Seen,
    /// When the machine last asked with nothing held, or a block was cut.
    pub(crate) since: u64,
}

impl Sink for &mut Recording<'_> {
    fn events(&mut self, events: &[Event]) -> ControlFlow<()> {
        for event in events {
            self.seen.event(event);
            self.feed.push(event)?;
        }
        ControlFlow::Continue(())
    }

    /// Blocks end by events and instructions, and here, where a machine may sleep for long: it must not be the wall's
    /// clock that ends them, or equal runs would give files that differ.
    fn asked(&mut self, now: u64, asleep: bool) {
        let due = asleep || now.saturating_sub(self.since) >= HELD;
        if due && self.feed.held() > 0 {
            // If nobody listens any more, the next event tells.
            let _ = self.feed.cut();
        }
        if self.feed.held() == 0 {
            self.since = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hv_defs::config::{Config, Guest};
    use hv_defs::event::{Stamp, What};
    use traces::{Header, Reader, Writer};

    /// The machine does: so many events, or a question at a time, asleep or not.
    enum Does {
        Events(usize),
        Asks(u64, bool),
    }
    use Does::{Asks, Events};

    #[track_caller]
    fn check(does: &[Does], blocks: &[u32]) {
        let header = Header::new(Config::new(Guest::BuiltIn("demo".into())), Vec::new());
        let mut bytes = Vec::new();
        let mut writer = Writer::create(&mut bytes, &header).expect("a vector takes all");
        let event = Event { at: Stamp::default(), what: What::Mark(1) };
        let (total, written) = traces::beside(&mut writer, |feed| {
            let seen = Seen::default();
            let mut recording = Recording { feed, seen: &seen, since: 0 };
            for step in does {
                match *step {
                    Events(count) => assert!((&mut recording).events(&vec![event.clone(); count]).is_continue()),
                    Asks(now, asleep) => (&mut recording).asked(now, asleep),
                }
            }
            seen.events.get()
        });
        assert_eq!(written.expect("a vector takes all").events, total);
        let reader = Reader::from_bytes(bytes).expect("a trace");
        assert_eq!(reader.blocks().iter().map(|block| block.events).collect::<Vec<_>>(), blocks);
    }

    #[test]
    fn blocks_end_where_the_machine_may_rest() {
        check(&[Events(5), Asks(10, false), Events(3)], &[8]);
        check(&[Events(5), Asks(10, true), Asks(20, true), Events(3)], &[5, 3]);
        check(&[Events(5), Asks(HELD - 1, false), Events(3), Asks(HELD, false), Events(1)], &[8, 1]);
        check(&[Asks(HELD, false), Events(5), Asks(HELD + 9, false), Events(3)], &[8]);
        check(&[Events(5), Asks(HELD, false), Events(3), Asks(HELD + 9, false), Asks(2 * HELD, false)], &[5, 3]);
    }
}
