//! What one exit cost: the tree of all that happened on its vCPU until that guest ran again. Of an L2's or an L3's that is
//! the exits of the hypervisors above it; of an L1's that serves no L2, what L0 did.

use crate::describe::{Piece, thousands};
use crate::theme::Role;
use hv_defs::event::{Actor, Event, VmcsAccess, What};

/// An exit and what it caused.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Round {
    /// The event that was asked about.
    pub(crate) of: u64,
    /// The exit by which it began; `None` where none was near, or the guest was running at the event.
    pub(crate) began: Option<(u64, Event)>,
    /// The entry by which its guest ran again; `None` where none was near.
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

impl Work {
    /// What was done, in words and in letters, where something was.
    fn parts(&self) -> impl Iterator<Item = (u64, &'static str, &'static str, &'static str)> {
        let all = [
            (self.reads, "VMREAD", "VMREADs", "r"),
            (self.writes, "VMWRITE", "VMWRITEs", "w"),
            (self.same, "of no effect", "of no effect", "="),
            (self.flushes, "flush", "flushes", "F"),
            (self.ept, "change of EPT02", "changes of EPT02", "E"),
            (self.injections, "injection", "injections", "I"),
        ];
        all.into_iter().filter(|part| part.0 > 0)
    }

    /// As `3 VMREADs, 1 flush`; empty where nothing was done.
    pub(crate) fn words(&self) -> String {
        let words = self
            .parts()
            .map(|(count, one, many, _)| format!("{} {}", thousands(count), if count == 1 { one } else { many }));
        words.collect::<Vec<_>>().join(", ")
    }

    /// As ` r3 F1`.
    pub(crate) fn letters(&self) -> String {
        self.parts().map(|(count, _, _, letter)| format!(" {letter}{count}")).collect()
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
    /// The entry that followed it.
    pub(crate) entered: Option<u64>,
    /// Of a hypervisor's VMREAD or VMWRITE, its access.
    pub(crate) access: Option<VmcsAccess>,
}

/// How far a round is looked for.
pub(crate) const REACH: u64 = 200_000;

/// An exit or an entry, as the search for a round's beginning sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Turn {
    /// Its number.
    pub(crate) number: u64,
    /// Its guest's level.
    pub(crate) level: u8,
    /// Whether it is an exit.
    pub(crate) exit: bool,
}

/// The exit by which the round of event `of` begins: an exit of L2 or deeper that is being handled at it, else the exit of
/// L1 that is. `before` are the exits and entries of its vCPU up to it, the latest first.
pub(crate) fn find_start<E>(of: u64, before: impl Iterator<Item = Result<Turn, E>>) -> Result<Option<u64>, E> {
    let (mut handled, mut left) = (None, false);
    for turn in before {
        let Turn { number, level, exit } = turn?;
        match exit {
            true if level >= 2 => return Ok(Some(number)),
            true if !left && handled.is_none() => handled = Some(number),
            true => {}
            // Its own entry ends the round that the event belongs to; another one says that the guest runs.
            false if number == of => {}
            false if level >= 2 => break,
            false => left = true,
        }
    }
    Ok(handled)
}

/// The round that begins with the first of these events, an exit.
pub(crate) fn follow<E>(of: u64, mut events: impl Iterator<Item = Result<(u64, Event), E>>) -> Result<Round, E> {
    let mut round = Round::none(of);
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
                // Its guest ran, though no entry tells of it: a source need not have them.
                What::Exit(exit) if exit.level >= level && !round.rows.is_empty() => return Ok(round),
                What::Exit(exit) => {
                    let ran = event.at.instruction.saturating_sub(entered);
                    round.exits += 1;
                    if exit.level == 1 {
                        round.from_l1 += 1;
                        round.instructions += ran;
                    }
                    round.rows.push(Row { number, event, work: Work::default(), ran, entered: None, access: None });
                }
                What::Entry(entry) => {
                    entered = event.at.instruction;
                    if let Some(row) = round.rows.last_mut() {
                        row.entered = row.entered.or(Some(number));
                    }
                    if entry.level >= level && entry.failed.is_none() {
                        round.ended = Some((number, event));
                        return Ok(round);
                    }
                }
                _ => {
                    round.work.add(&event);
                    if let Some(row) = round.rows.last_mut() {
                        row.work.add(&event);
                        if let What::Vmcs(access) = event.what
                            && access.actor != Actor::L0
                        {
                            row.access.get_or_insert(access);
                        }
                    }
                }
            }
        }
    }
    Ok(round)
}

/// The level of the guest whose exit begins a round.
fn round_level(began: &Event) -> u8 {
    if let What::Exit(exit) = &began.what { exit.level.max(1) } else { 2 }
}

impl Round {
    /// That of an event that belongs to none.
    pub(crate) fn none(of: u64) -> Self {
        Self {
            of,
            began: None,
            ended: None,
            rows: Vec::new(),
            exits: 0,
            from_l1: 0,
            work: Work::default(),
            instructions: 0,
        }
    }

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

    /// Whether it is the round of this event of this vCPU.
    pub(crate) fn is_of(&self, event: u64, vcpu: u16) -> bool {
        let inside = match (&self.began, &self.ended) {
            (Some((from, began)), Some((to, _))) => began.at.vcpu == vcpu && (*from..=*to).contains(&event),
            _ => false,
        };
        self.of == event || inside
    }

    /// The exit that L0 was handling at an event, and its place among the round's.
    fn handled_at(&self, event: u64) -> Option<(usize, &Row)> {
        let place = self.rows.partition_point(|row| row.number <= event).checked_sub(1)?;
        let row = &self.rows[place];
        row.entered.is_none_or(|entry| event <= entry).then_some((place, row))
    }

    /// The event that caused this one: the exit that L0 handled, and of an exit of L1 the exit of L2 that it serves.
    pub(crate) fn cause_of(&self, event: u64) -> Option<u64> {
        let (_, row) = self.handled_at(event)?;
        let began = self.began.as_ref().map(|(number, _)| *number);
        if row.number < event { Some(row.number) } else { began.filter(|began| *began < event) }
    }

    /// Where what this event caused ends: the entry of its guest.
    pub(crate) fn end_of(&self, event: u64) -> Option<u64> {
        let (place, row) = self.handled_at(event)?;
        let whole = self.ended.as_ref().map(|(number, _)| *number).filter(|_| place == 0);
        whole.or(row.entered).filter(|end| *end > event)
    }

    /// What caused an event and what it caused, in lines behind their labels.
    pub(crate) fn told(&self, event: u64) -> Vec<(&'static str, Vec<Piece>)> {
        let Some((place, row)) = self.handled_at(event) else { return Vec::new() };
        let mut lines: Vec<(&'static str, Vec<Piece>)> = Vec::new();
        let strong = |number: u64| (Role::Strong, thousands(number));
        let plain = |text: String| (Role::Plain, text);
        if row.number < event {
            let mut line = vec![strong(row.number), (Role::Dim, "  ".into())];
            line.extend(named(&row.event));
            line.push((Role::Dim, ", which L0 handles".into()));
            lines.push(("caused by", line));
        }
        if let Some((began, first)) = self.began.as_ref().filter(|_| place > 0) {
            let mut line = vec![strong(*began), (Role::Dim, "  ".into())];
            line.extend(named(first));
            line.push((
                Role::Dim,
                format!(", exit {} of the {} that it cost", thousands(place as u64 + 1), thousands(self.exits)),
            ));
            lines.push((if lines.is_empty() { "caused by" } else { "" }, line));
        }
        if row.number != event {
            return lines;
        }
        let work = if place == 0 { &self.work } else { &row.work };
        let mut line = Vec::new();
        if place == 0 && self.from_l1 > 0 && self.rows.len() > 1 {
            let exits = self.exits - 1;
            line.push(strong(exits));
            line.push(plain(if exits == 1 { " exit more:".into() } else { " exits more:".into() }));
            for (reason, count) in self.reasons().into_iter().take(4) {
                line.push(plain(format!(" {reason} {}", thousands(count))));
            }
            lines.push(("led to", std::mem::take(&mut line)));
        }
        let done = work.words();
        line.push(if done.is_empty() { (Role::Dim, "L0 did nothing that is logged".into()) } else { plain(done) });
        lines.push((if lines.iter().any(|(label, _)| *label == "led to") { "" } else { "led to" }, line));
        let end = if place == 0 { self.ended.as_ref().map(|(number, _)| *number) } else { row.entered };
        if let (Some(end), What::Exit(exit)) = (end, &row.event.what) {
            let mut line = vec![plain(format!("L{} runs again at ", exit.level)), strong(end)];
            if place == 0 && self.instructions > 0 {
                line.push((Role::Dim, format!(", {} instructions of L1 later", thousands(self.instructions))));
            }
            lines.push(("", line));
        }
        lines
    }
}

/// An exit's level and reason.
fn named(event: &Event) -> Vec<Piece> {
    match &event.what {
        What::Exit(exit) => vec![
            (Role::Level(exit.level), format!("L{}", exit.level)),
            (Role::Kind(hv_defs::event::Kind::Exit), format!(" {}", exit.basic())),
        ],
        what => vec![(Role::Plain, what.kind().to_string())],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::sample;
    use core::convert::Infallible;
    use hv_defs::exit::Reason;

    fn round(of: usize) -> Round {
        let events: Vec<(u64, Event)> = (0..).zip(sample::events()).collect();
        let ok = Ok::<_, Infallible>;
        let vcpu = events[of].1.at.vcpu;
        let before = events[..=of].iter().rev().filter(|(_, event)| event.at.vcpu == vcpu);
        let turns = before.filter_map(|(number, event)| match &event.what {
            What::Exit(exit) => Some(Turn { number: *number, level: exit.level, exit: true }),
            What::Entry(entry) => Some(Turn { number: *number, level: entry.level, exit: false }),
            _ => None,
        });
        let Ok(start) = find_start(of as u64, turns.map(Ok::<_, Infallible>));
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
        // The entry before the exit ends another.
        assert_eq!(round(of - 1).ended.map(|(number, _)| number), Some(of as u64 - 1));
        // What L0 did for an exit of L1 was caused by that, and that by the first.
        let row =
            found.rows.iter().find(|row| row.number > of as u64 && row.work.writes > 0).expect("L1's exits write");
        assert_eq!(found.cause_of(row.number + 1), Some(row.number));
        assert_eq!(found.cause_of(row.number), Some(of as u64));
        assert_eq!(found.cause_of(of as u64), None);
        assert_eq!((found.end_of(of as u64), found.end_of(row.number)), (Some(ended as u64), row.entered));
    }

    #[test]
    fn an_exit_of_l1_alone_is_a_round_too() {
        let events = sample::events();
        let of = sample::position(|event| matches!(&event.what, What::Exit(exit) if exit.basic() == Reason::CPUID));
        let found = round(of);
        assert_eq!(found.began.as_ref().map(|(number, _)| *number), Some(of as u64));
        // Without entries, the next exit is what ends it.
        let exits = (0..).zip(&events).filter(|(_, event)| matches!(event.what, What::Exit(_)));
        let Ok(without) = follow(
            of as u64,
            exits
                .skip_while(|(number, _)| *number < of as u64)
                .map(|(number, event)| Ok::<_, Infallible>((number, event.clone()))),
        );
        assert_eq!((without.exits, without.ended), (1, None));
        let (end, entry) = found.ended.as_ref().expect("it is entered again");
        assert!(matches!(&entry.what, What::Entry(entry) if entry.level == 1));
        assert_eq!((found.exits, found.rows.len()), (1, 1));
        assert!(events[of..*end as usize].iter().all(|event| !matches!(event.what, What::Entry(_))));
    }
}
