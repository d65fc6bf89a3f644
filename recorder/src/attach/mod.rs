//! KVM on this host, recorded through perf events.
//!
//! The kernel writes a record for each hit of a tracepoint into a ring for each CPU. [`Attach`] reads the rings, brings their
//! records in the order of their times and makes events of them, as the importer does of other tools' text:
//! `crate::tracepoints`. [`run`] does that until it is told to stop, and writes a trace if it is to.
//!
//! Memory is bounded by the rings: what they have no room for is lost, counted, and stands in the trace as `lost`.

mod calls;
mod counters;
mod error;
mod names;
mod order;
mod own;
mod probes;
mod rings;
mod sample;
#[cfg(test)]
mod tests;
mod tracefs;
mod write;

pub use counters::Counts;
pub use error::Error;
pub use names::Machine;
pub use write::{Attached, run};

use crate::tracepoints::{At, Field, Hit, State};
use counters::Counters;
use hv_defs::event::Event;
use hv_kvm::host::clock;
use order::Order;
use rings::{Of, Record, Rings};
use std::collections::BTreeMap;
use std::time::Duration;
use tracefs::{FIELDS, Layout};

/// Whose tracepoints are recorded.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Who {
    /// Everybody's on this host.
    Host,
    /// A process's: all its threads, and those that it makes later.
    Process(u32),
    /// These threads', and nobody else's. Each has a ring of its own, and costs others nothing.
    Threads(Vec<u32>),
}

impl Who {
    /// A virtual machine by its process, or a single vCPU by its thread: which of them the number is of.
    ///
    /// # Errors
    /// There is no process or thread with that number.
    pub fn of(pid: u32) -> Result<Self, Error> {
        match names::process_of(pid) {
            Some(process) if process == pid => Ok(Self::Process(pid)),
            Some(_) => Ok(Self::Threads(vec![pid])),
            None => Err(Error::NoProcess(pid)),
        }
    }

    /// Whether there is anybody left. A host never ends.
    fn lives(&self) -> bool {
        match self {
            Self::Host => true,
            Self::Process(process) => names::lives(*process),
            Self::Threads(threads) => threads.iter().any(|thread| names::lives(*thread)),
        }
    }
}

/// What is recorded, and how.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Options {
    /// Whose tracepoints.
    pub who: Who,
    /// Which: names with or without `kvm:`, where `*` stands for any characters; none for the usual ones.
    pub events: Vec<String>,
    /// Bytes of each ring; raised to a power of two.
    pub buffer: usize,
    /// Whether to probe the kernel's functions that flush, where the kernel has probes.
    pub probes: bool,
    /// Whether to count cycles and the like of the threads that run vCPUs, where the host can.
    pub counters: bool,
}

impl Options {
    /// The bytes of a ring unless others are asked for.
    pub const BUFFER: usize = 4 << 20;

    /// The usual tracepoints of somebody.
    pub fn of(who: Who) -> Self {
        Self { who, events: Vec::new(), buffer: Self::BUFFER, probes: true, counters: true }
    }
}

/// What a recording saw.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Totals {
    /// Records that were taken, by tracepoint or function. Those of other processes are not among them.
    pub recorded: BTreeMap<String, u64>,
    /// Records that were lost.
    pub lost: u64,
    /// Records that none of our events was made of, by name.
    pub unmapped: BTreeMap<String, u64>,
    /// Records that could not be understood, and the first reason.
    pub wrong: Option<(u64, String)>,
    /// Records that came too late for their place in the order of times.
    pub late: u64,
    /// What hardware counted of the threads that run vCPUs, where it does.
    pub counters: Vec<Counts>,
}

/// A recording that runs.
pub struct Attach {
    options: Options,
    rings: Rings,
    order: Order,
    state: State,
    start: u64,
    /// Records taken, by the place of the layout.
    recorded: Vec<u64>,
    totals: Totals,
    machines: Vec<Machine>,
    threads: Threads,
    counters: Option<Counters>,
    notes: Vec<String>,
}

/// A record as what the events are made of.
struct Binary<'a> {
    record: &'a Record,
    layout: &'a Layout,
    values: &'a [u64; FIELDS],
    /// KVM's number of the vCPU, as the thread's name has it.
    named: Option<u16>,
}

/// The vCPUs' numbers in the names of threads, which some tracepoints do not tell.
#[derive(Default)]
struct Threads {
    known: BTreeMap<u32, Option<u16>>,
}

impl Threads {
    /// More are not remembered.
    const MOST: usize = 1 << 15;

    fn number(&mut self, process: u32, thread: u32) -> Option<u16> {
        if let Some(known) = self.known.get(&thread) {
            return *known;
        }
        let number = names::vcpu_of(process, thread);
        if self.known.len() < Self::MOST {
            self.known.insert(thread, number);
        }
        number
    }
}

impl Hit for Binary<'_> {
    fn at(&self) -> At {
        let Record { time, process, thread, cpu, .. } = *self.record;
        At { thread, process: Some(process), cpu, time }
    }

    fn event(&self) -> &str {
        &self.layout.name
    }

    fn get(&self, field: Field) -> Option<u64> {
        match self.layout.field(field, self.values) {
            None if field == Field::Vcpu => self.named.map(u64::from),
            found => found,
        }
    }
}

impl Attach {
    /// Begins: from here on, records are written into the rings, until this is dropped or [`Attach::end`] is called.
    ///
    /// # Errors
    /// There is no KVM, no tracefs, no such process or tracepoint, or the kernel does not let us: [`Error`] says which, and
    /// what to do.
    pub fn open(options: Options) -> Result<Self, Error> {
        let layouts = tracefs::layouts(&options.events)?;
        let mut notes = Vec::new();
        let functions = match options.probes.then(probes::functions) {
            Some(Ok(functions)) => functions,
            Some(Err(why)) => {
                notes.push(format!("flushes of the kernel's own are not recorded: {why}"));
                Vec::new()
            }
            None => Vec::new(),
        };
        let counters = match options.counters.then(Counters::open) {
            Some(Ok(counters)) => Some(counters),
            Some(Err(why)) => {
                notes.push(format!("cycles and the like are not counted: {why}"));
                None
            }
            None => None,
        };
        let process = match &options.who {
            Who::Host => None,
            Who::Process(process) => Some(*process),
            Who::Threads(threads) => {
                let first = *threads.first().ok_or(Error::NoProcess(0))?;
                Some(names::process_of(first).ok_or(Error::NoProcess(first))?)
            }
        };
        if let Some(process) = process.filter(|process| !names::lives(*process)) {
            return Err(Error::NoProcess(process));
        }
        let mut machines = names::machines(process);
        let start = clock();
        let mut state = State::new(start);
        for machine in &mut machines {
            machine.first = state.machine(machine.process).unwrap_or(u16::MAX);
        }
        let (mut rings, refused) = Rings::open(&options, layouts, &functions)?;
        if let Some((first, why)) = refused.first() {
            let others = if refused.len() > 1 { format!(" and {} others", refused.len() - 1) } else { String::new() };
            notes.push(format!("not probed: {first}{others}: {why}"));
        }
        rings.enable()?;
        let recorded = vec![0; rings.layouts.len()];
        let (order, totals, threads) = (Order::default(), Totals::default(), Threads::default());
        Ok(Self { options, rings, order, state, start, recorded, totals, machines, threads, counters, notes })
    }

    /// The time that stamps count from, in nanoseconds of CLOCK_MONOTONIC: what an [`std::time::Instant`] is of.
    pub fn start(&self) -> u64 {
        self.start
    }

    /// What there is to know of this recording, a line each.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// The virtual machines that there were when it began, and behind them those that ran since.
    pub fn machines(&self) -> &[Machine] {
        &self.machines
    }

    /// Whether whom it records has ended.
    pub fn is_over(&self) -> bool {
        !self.options.who.lives()
    }

    /// Waits until there is much to take, a signal comes, or that long; then gives the events whose place is sure, by rising
    /// time: all but those of the last 10 milliseconds, and those that an exit waits for.
    ///
    /// # Errors
    /// The kernel failed.
    pub fn take(&mut self, most: Duration) -> Result<impl Iterator<Item = Event> + '_, Error> {
        self.rings.wait(most)?;
        self.look(false);
        Ok(self.state.ready())
    }

    /// Ends the recording, and gives the events that are left and what was seen.
    ///
    /// # Errors
    /// The kernel failed.
    pub fn end(mut self) -> Result<(Vec<Event>, Totals), Error> {
        self.rings.disable()?;
        self.look(true);
        // What was lost last is told by no record, for none came after it.
        if let Some(lost) = self.rings.lost()?.filter(|lost| *lost > self.totals.lost) {
            self.state.lost(lost - self.totals.lost, None);
            self.totals.lost = lost;
        }
        self.state.end();
        let events = self.state.ready().collect();
        let named = self.rings.layouts.iter().zip(&self.recorded);
        self.totals.recorded = named.map(|(layout, count)| (layout.name.clone(), *count)).collect();
        self.totals.unmapped.clone_from(self.state.unmapped());
        self.totals.late = self.order.late();
        self.totals.counters = self.counters.as_mut().map(Counters::read).unwrap_or_default();
        Ok((events, self.totals))
    }

    /// Takes what is in the rings: `all` of it, or what has its place for sure.
    fn look(&mut self, all: bool) {
        let Self { rings, order, state, recorded, totals, options, threads, machines, counters, .. } = self;
        let now = clock();
        let only = match options.who {
            Who::Process(process) => Some(process),
            Who::Host | Who::Threads(_) => None,
        };
        rings.drain(|record| {
            if matches!(record.what, Of::Lost(_)) || only.is_none_or(|only| record.process == only) {
                order.push(record);
            }
        });
        let layouts = &rings.layouts;
        let take = |record: Record| match &record.what {
            Of::Lost(count) => {
                totals.lost = totals.lost.saturating_add(*count);
                state.lost_then(*count, record.cpu, record.time);
            }
            Of::Hit { layout, values } => {
                let at = usize::from(*layout);
                let Some(layout) = layouts.get(at) else { return };
                recorded[at] += 1;
                let mut named = None;
                if layout.field(Field::Vcpu, values).is_none() {
                    named = threads.number(record.process, record.thread);
                }
                if layout.of_vcpu && machines.iter().all(|of| of.process != record.process) {
                    let mut machine = names::machine(record.process);
                    machine.first = state.machine(record.process).unwrap_or(u16::MAX);
                    machines.push(machine);
                }
                if let Some(counters) = counters.as_mut().filter(|_| layout.of_vcpu) {
                    counters.add(record.process, record.thread);
                }
                if let Err(why) = state.take(&Binary { record: &record, layout, values, named }) {
                    totals.wrong.get_or_insert((0, why)).0 += 1;
                }
            }
        };
        if all { order.give_all(take) } else { order.give(now, take) }
    }
}
