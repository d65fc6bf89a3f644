//! What one exit of an L2 or an L3 cost: the tree of all that happened on its vCPU until that guest ran again.

use hv_defs::event::{Actor, Event, What};

/// An exit of L2 and what it caused.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Round {
    /// The event that was asked about.
    pub(crate) of: u64,
    /// The exit of L2 by which it began; `None` where none was near, or L2 was running at the event.
    pub(crate) began: Option<(u64, Event)>,
    /// The entry by which L2 ran again; `None` where none was near.
    pub(crate) ended: Option<(u64, Event)>,
    /// Its rows.
    pub(crate) rows: Vec<Row>,
    /// Silicon's exits in it, the first one included.
    pub(crate) exits: u64,
    /// Of those, the exits that L1 took.
    pub(crate) from_l1: u64,
    /// VMCS accesses, flushes, changes of EPT02.
    pub(crate) work: Work,
    /// Instructions that L1 ran in it.
    pub(crate) instructions: u64,
}

/// What was done between an exit and the entry after it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Work {
    /// VMREADs by L0.
    pub(crate) reads: u64,
    /// VMWRITEs by L0.
    pub(crate) writes: u64,
    /// Of those, the ones that wrote what was there.
    pub(crate) same: u64,
    /// Flushes.
    pub(crate) flushes: u64,
    /// Changes of EPT02.
    pub(crate) ept: u64,
    /// Injections.
    pub(crate) injections: u64,
}

impl Work {
    fn add(&mut self, event: &Event) {
        match &event.what {
            What::Vmcs(access) if access.actor == Actor::L0 => match access.op {
                hv_defs::event::VmcsOp::Read => self.reads += 1,
                hv_defs::event::VmcsOp::Write => {
                    self.writes += 1;
                    self.same += u64::from(access.old == access.value);
                }
                _ => {}
            },
            What::Flush(_) => self.flushes += 1,
            What::Ept(_) => self.ept += 1,
            What::Injection(_) => self.injections += 1,
            _ => {}
        }
    }
}

/// A row of the tree: an exit, with what was done before the next entry.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Row {
    /// The exit's number.
    pub(crate) number: u64,
    /// The exit.
    pub(crate) event: Event,
    /// What was done for it.
    pub(crate) work: Work,
    /// Instructions that the guest had run since the entry before.
    pub(crate) ran: u64,
}

/// How far a round is looked for.
pub(crate) const REACH: u64 = 200_000;

/// The first event that has to be read to find the round of event `of`: the exit of L2 that it belongs to. `before`
/// are the events before and including it, the latest first.
pub(crate) fn find_start<E>(
    of: u64,
    vcpu: u16,
    before: impl Iterator<Item = Result<(u64, Event), E>>,
) -> Result<Option<u64>, E> {
    for next in before {
        let (number, event) = next?;
        if event.at.vcpu != vcpu {
            continue;
        }
        match &event.what {
            What::Exit(exit) if exit.level >= 2 => return Ok(Some(number)),
            // Its own entry ends the round that the event belongs to; another one says that L2 runs.
            What::Entry(entry) if entry.level >= 2 && number != of => return Ok(None),
            _ => {}
        }
    }
    Ok(None)
}

/// The round that begins with the first of these events, an exit of L2.
pub(crate) fn follow<E>(of: u64, mut events: impl Iterator<Item = Result<(u64, Event), E>>) -> Result<Round, E> {
    let mut round = Round {
        of,
        began: None,
        ended: None,
        rows: Vec::new(),
        exits: 0,
        from_l1: 0,
        work: Work::default(),
        instructions: 0,
    };
    let Some(first) = events.next().transpose()? else { return Ok(round) };
    let level = round_level(&first.1);
    let vcpu = first.1.at.vcpu;
    let mut entered = first.1.at.instruction;
    round.began = Some(first.clone());
    let mut next = Some(Ok(first));
    while let Some(item) = next.take().or_else(|| events.next()) {
        let (number, event) = item?;
        if event.at.vcpu == vcpu {
            match &event.what {
                What::Exit(exit) => {
                    let ran = event.at.instruction.saturating_sub(entered);
                    round.exits += 1;
                    if exit.level == 1 {
                        round.from_l1 += 1;
                        round.instructions += ran;
                    }
                    round.rows.push(Row { number, event, work: Work::default(), ran });
                }
                What::Entry(entry) => {
                    entered = event.at.instruction;
                    if entry.level >= level && entry.failed.is_none() {
                        round.ended = Some((number, event));
                        return Ok(round);
                    }
                }
                _ => {
                    round.work.add(&event);
                    if let Some(row) = round.rows.last_mut() {
                        row.work.add(&event);
                    }
                }
            }
        }
    }
    Ok(round)
}

/// The level of the guest whose exit begins a round.
fn round_level(began: &Event) -> u8 {
    if let What::Exit(exit) = &began.what { exit.level.max(2) } else { 2 }
}

impl Round {
    /// How often each reason occurs among the exits that it caused, the commonest first.
    pub(crate) fn reasons(&self) -> Vec<(String, u64)> {
        let mut reasons: Vec<(String, u64)> = Vec::new();
        for row in &self.rows {
            let What::Exit(exit) = &row.event.what else { continue };
            if self.began.as_ref().is_some_and(|(_, began)| exit.level >= round_level(began)) {
                continue;
            }
            let name = exit.basic().to_string();
            match reasons.iter_mut().find(|(known, _)| *known == name) {
                Some((_, count)) => *count += 1,
                None => reasons.push((name, 1)),
            }
        }
        reasons.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        reasons
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::sample;
    use core::convert::Infallible;

    fn round(of: usize) -> Round {
        let events: Vec<(u64, Event)> = (0..).zip(sample::events()).collect();
        let ok = Ok::<_, Infallible>;
        let vcpu = events[of].1.at.vcpu;
        let before = events[..=of].iter().rev().cloned().map(ok);
        let Ok(start) = find_start(of as u64, vcpu, before);
        let Ok(round) =
            follow(of as u64, events[start.map_or(events.len(), |start| start as usize)..].iter().cloned().map(ok));
        round
    }

    #[test]
    fn an_exit_of_l2_has_its_tree() {
        let events = sample::events();
        let of = sample::position(
            |event| matches!(&event.what, What::Exit(exit) if exit.level == 2 && exit.handled_by == Actor::L1),
        );
        let found = round(of);
        assert_eq!(found.began.as_ref().map(|(number, _)| *number), Some(of as u64));
        let ended = found.ended.as_ref().expect("the sample enters L2 again").0 as usize;
        let exits = events[of..ended].iter().filter(|event| matches!(event.what, What::Exit(_)) && event.at.vcpu == 0);
        assert_eq!(found.exits, exits.count() as u64);
        assert_eq!(found.from_l1, found.exits - 1);
        assert_eq!(found.reasons().iter().map(|(_, count)| count).sum::<u64>(), found.from_l1);
        assert_eq!(found.rows.iter().map(|row| row.work.reads).sum::<u64>(), found.work.reads);
        assert!(found.work.reads > 0 && found.work.writes >= found.work.same);
        // Every event of the round has the same one, up to the entry that ends it.
        for inside in (of..=ended).filter(|&inside| events[inside].at.vcpu == 0) {
            assert_eq!(Round { of: 0, ..round(inside) }, Round { of: 0, ..found.clone() }, "event {inside}");
        }
        // Before the exit, L2 ran and there is none.
        assert_eq!(round(of - 1).began, None);
    }
}
