//! A host's recording written as a trace.

use super::{Attach, Error, Machine, Totals, Who};
use crate::durable::Durable;
use crate::import::header;
use crate::own_file::{self, Refused};
use core::ops::ControlFlow;
use hv_defs::config::{Clock, Origin};
use hv_defs::event::Event;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};
use traces::{Feed, Header, Summary, Writer};

/// How long events may wait for their block to fill: what was written can be read, whatever happens to this process.
const EVERY: Duration = Duration::from_secs(2);

/// How long the rings are left alone while they do not fill.
const PAUSE: Duration = Duration::from_millis(100);

/// A recording that has ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Attached {
    /// What was written, if a trace was.
    pub summary: Option<Summary>,
    /// What was seen.
    pub totals: Totals,
    /// The virtual machines: those that there were when it began, and behind them those that ran since.
    pub machines: Vec<Machine>,
    /// Whether it ended because whom it recorded did.
    pub over: bool,
    /// How long it took.
    pub took: Duration,
}

/// Records until `more` says to stop, or whom it records has ended; into a trace at `path`, if there is one. `more` sees the
/// events as they come, some ten times a second, and may be called with none.
///
/// # Errors
/// As [`Attach::open`]: then no file is made. The file cannot be created or written on: it is cut to its last whole block.
pub fn run(
    attach: Attach,
    path: Option<&Path>,
    mut more: impl FnMut(&Attach, &[Event]) -> ControlFlow<()>,
) -> Result<Attached, Error> {
    let Some(path) = path else {
        return follow(attach, None, &mut more);
    };
    let header = attach.header();
    let file = own_file::create(path).map_err(|refused| match refused {
        Refused::Busy => Error::Busy,
        Refused::Open(source) => Error::Create { path: path.to_owned(), source },
    })?;
    let trace = |source| Error::Trace { events: 0, source };
    let mut writer = Writer::create(Durable::new(&file), &header).map_err(trace)?;
    let mut events = 0;
    let (followed, finished) = traces::beside(&mut writer, |feed| {
        follow(attach, Some(feed), &mut |attach, seen| {
            events += seen.len() as u64;
            more(attach, seen)
        })
    });
    let summary = finished.map_err(|source| {
        // What is left of a block that did not fit is of no use to readers. That it stays is no harm either.
        let _ = file.set_len(writer.whole());
        Error::Trace { events, source }
    })?;
    let attached = followed?;
    if crate::is_gone(&file, path) {
        return Err(Error::Gone);
    }
    Ok(Attached { summary: Some(summary), ..attached })
}

fn follow(
    mut attach: Attach,
    mut feed: Option<&mut Feed>,
    more: &mut dyn FnMut(&Attach, &[Event]) -> ControlFlow<()>,
) -> Result<Attached, Error> {
    let start = Instant::now();
    let mut cut = start;
    let mut tell = |events: &[Event]| {
        let Some(feed) = &mut feed else { return ControlFlow::Continue(()) };
        events.iter().try_for_each(|event| feed.push(event))?;
        if cut.elapsed() < EVERY {
            return ControlFlow::Continue(());
        }
        cut = Instant::now();
        feed.cut()
    };
    let mut seen = Vec::new();
    let over = loop {
        // Asked before the rings are looked at, so that the last of it is seen.
        let over = attach.is_over();
        seen.clear();
        seen.extend(attach.take(PAUSE)?);
        if tell(&seen).is_break() || more(&attach, &seen).is_break() {
            break over;
        }
        if over {
            break true;
        }
    };
    let (took, machines) = (start.elapsed(), attach.machines.clone());
    let (rest, totals) = attach.end()?;
    // Why it may not take more, who wrote it says.
    let _ = tell(&rest);
    Ok(Attached { summary: None, totals, machines, over, took })
}

impl Attach {
    /// The header of a trace of it: where it comes from, and which virtual machine has which vCPUs.
    pub fn header(&self) -> Header {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
        let machines: Vec<_> = self
            .machines
            .iter()
            .map(|of| format!("{} ({}, process {}, vCPUs from {})", of.name, of.vmm, of.process, of.first))
            .collect();
        let machines = if machines.is_empty() { "no virtual machine yet".into() } else { machines.join(", ") };
        let name = match (&self.options.who, self.machines.first()) {
            (Who::Process(_) | Who::Threads(_), Some(machine)) => machine.name.clone(),
            _ => read("/proc/sys/kernel/hostname"),
        };
        let note = format!("KVM on Linux {}: {machines}", read("/proc/sys/kernel/osrelease"));
        header(Origin::PERF_EVENTS, &name, Clock::Nanoseconds, &note)
    }
}
