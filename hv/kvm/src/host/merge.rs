//! What several vCPUs tell, in the order of its times.

use super::cpu::Told;
use hv_defs::event::Event;
use std::collections::VecDeque;

/// Events that wait for a vCPU which may have something older to tell. One that sleeps is not waited for beyond that.
const WAITING: usize = 1 << 16;

/// What waits, by vCPU.
pub(super) struct Merge {
    queues: Vec<VecDeque<Event>>,
    settled: Vec<u64>,
    waiting: usize,
    /// The time of the last event that was given.
    last: u64,
}

impl Merge {
    pub(super) fn new(vcpus: usize) -> Self {
        Self { queues: (0..vcpus).map(|_| VecDeque::new()).collect(), settled: vec![0; vcpus], waiting: 0, last: 0 }
    }

    /// Takes what a vCPU tells.
    pub(super) fn take(&mut self, told: &mut Told) {
        self.waiting += told.events.len();
        self.queues[told.vcpu].extend(told.events.drain(..));
        self.settled[told.vcpu] = told.settled;
    }

    /// Gives the events whose place is sure, and the oldest of them that are too many to wait.
    pub(super) fn give(&mut self, into: &mut Vec<Event>) {
        let sure = self.settled.iter().copied().min().unwrap_or(u64::MAX);
        self.give_while(into, |waiting, time| time < sure || waiting > WAITING);
    }

    /// Gives all of them.
    pub(super) fn give_all(&mut self, into: &mut Vec<Event>) {
        self.give_while(into, |_, _| true);
    }

    fn give_while(&mut self, into: &mut Vec<Event>, more: impl Fn(usize, u64) -> bool) {
        let first = |queue: &VecDeque<Event>| queue.front().map(|event| event.at.instruction);
        loop {
            let times = self.queues.iter().enumerate().filter_map(|(vcpu, queue)| Some((first(queue)?, vcpu)));
            let Some((time, vcpu)) = times.min().filter(|(time, _)| more(self.waiting, *time)) else { return };
            if let Some(mut event) = self.queues[vcpu].pop_front() {
                self.waiting -= 1;
                // One that comes too late for its place stands where it came.
                self.last = self.last.max(time);
                event.at.instruction = self.last;
                into.push(event);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hv_defs::event::{Stamp, What};

    #[test]
    fn times_rise_over_all_vcpus() {
        let mut merge = Merge::new(2);
        let mut check = |vcpu: usize, settled: u64, times: &[u64], given: &[(u64, u16)]| {
            let event = |&instruction: &u64| {
                let at = Stamp { instruction, vcpu: vcpu as u16, pcpu: 0 };
                Event { at, what: What::Mark(1) }
            };
            merge.take(&mut Told { vcpu, settled, events: times.iter().map(event).collect(), ..Told::default() });
            let mut into = Vec::new();
            merge.give(&mut into);
            let got: Vec<_> = into.iter().map(|event| (event.at.instruction, event.at.vcpu)).collect();
            assert_eq!(got, given);
        };
        check(0, 30, &[10, 20], &[]);
        check(1, 15, &[5, 12], &[(5, 1), (10, 0), (12, 1)]);
        check(1, 40, &[], &[(20, 0)]);
        // Before what it had called settled: it stands where it came.
        check(0, 50, &[7, 35], &[(20, 0), (35, 0)]);
    }

    #[test]
    fn a_vcpu_that_sleeps_is_not_waited_for_for_ever() {
        let mut merge = Merge::new(2);
        let event = |time| Event { at: Stamp { instruction: time, vcpu: 0, pcpu: 0 }, what: What::Mark(1) };
        let mut into = Vec::new();
        let events = (0..WAITING as u64 + 10).map(event).collect();
        merge.take(&mut Told { vcpu: 0, settled: 1 << 40, events, ..Told::default() });
        merge.give(&mut into);
        assert_eq!(into.len(), 10);
        merge.give_all(&mut into);
        assert_eq!(into.len(), WAITING + 10);
    }
}
