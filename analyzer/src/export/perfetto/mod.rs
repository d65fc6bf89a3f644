//! A trace for Perfetto's user interface and its trace processor: levels as tracks, exits as slices, the rest as instants
//! and counters. docs/export.md says what becomes of each event.
//!
//! It is written while the trace is read, in one pass. A flush is told of when its verdict is certain, which may be later
//! in the file than its time: Perfetto sorts. All else is in order.

mod packets;
mod proto;
#[cfg(test)]
mod tests;
mod tracks;
mod vcpu;

use crate::judge::{Bench, Judged, Verdict};
use crate::{Error, Source};
use hv_defs::config::{Clock, Guest};
use hv_defs::event::{Event, Exit, Kind, PoolOp, VpidOp, What};
use hv_defs::vmcs::VmcsField;
use packets::{Mark, Packets};
use proto::{DebugAnnotation, TrackDescriptor};
use std::collections::BTreeMap;
use std::io::{self, Write};
use tracks::{TRACE, Track, Tracks};
use vcpu::{Open, Vcpu};

/// Counters have a value for each of some thousand stretches of the trace.
const STRETCHES: u64 = 1024;

/// What was written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Written {
    /// Events that were read.
    pub events: u64,
    /// Packets of the file.
    pub packets: u64,
    /// Its bytes.
    pub bytes: u64,
}

/// Why a trace could not be written for Perfetto.
#[derive(Debug, thiserror::Error)]
pub enum PerfettoError {
    /// The trace could not be read.
    #[error(transparent)]
    Read(#[from] Error),
    /// The file could not be written.
    #[error("it cannot be written")]
    Write(#[from] io::Error),
}

/// Writes the trace called `name` in Perfetto's format. Equal traces give equal bytes. What is held does not grow with the
/// trace, but for flushes whose verdict is not certain yet. `to` is best buffered, and is not flushed at the end.
///
/// # Errors
/// A block of the trace is damaged, or `to` refuses a write.
pub fn write(name: &str, source: Source<'_>, to: impl Write) -> Result<Written, PerfettoError> {
    let (clock, last) = match source {
        Source::Trace(reader) => {
            let last = reader.len().checked_sub(1).map(|last| reader.stored(last)).transpose();
            (reader.header().clock(), last.map_err(Error::from)?.map_or(0, |stored| stored.at.instruction))
        }
        Source::Events(events) => (Clock::Instructions, events.last().map_or(0, |event| event.at.instruction)),
    };
    let stretch = (last / STRETCHES).max(1).next_power_of_two();
    let unit = format!("per {stretch} {}", clock.name());
    let mut drawing = Drawing {
        packets: Packets::new(to),
        tracks: Tracks::new(unit),
        vcpus: BTreeMap::new(),
        bench: Bench::default(),
        stretch,
        told: Vec::new(),
    };
    drawing.begin(name, source, clock)?;
    let (mut events, mut newer) = (0, 0);
    match source {
        Source::Events(list) => {
            for (number, event) in (0..).zip(list) {
                drawing.see(number, event)?;
                events += 1;
            }
        }
        Source::Trace(reader) => {
            for (number, event) in (0..).zip(reader.events(0)) {
                match event {
                    Ok(event) => drawing.see(number, &event)?,
                    Err(traces::Error::NewerKind { .. }) => newer += 1,
                    Err(error) => return Err(Error::from(error).into()),
                }
                events += 1;
            }
        }
    }
    drawing.finish(last, events, newer)?;
    Ok(Written { events, packets: drawing.packets.count, bytes: drawing.packets.bytes })
}

/// What a nanosecond of the file stands for.
fn time(clock: Clock) -> &'static str {
    match clock {
        Clock::Instructions => "instructions retired: 1 ns is 1 instruction",
        Clock::Nanoseconds => "nanoseconds since the first event",
        Clock::Ticks => "ticks since the first event: 1 ns is 1 tick",
        Clock::Exits => "VM exits: 1 ns is 1 exit",
    }
}

struct Drawing<W> {
    packets: Packets<W>,
    tracks: Tracks,
    vcpus: BTreeMap<u16, Vcpu>,
    bench: Bench,
    /// The length of a counter's stretch.
    stretch: u64,
    /// Kept for its memory alone.
    told: Vec<vcpu::Told>,
}

impl<W: Write> Drawing<W> {
    /// The slice of the whole trace, which says what it is of.
    fn begin(&mut self, name: &str, source: Source<'_>, clock: Clock) -> io::Result<()> {
        let out = &mut self.packets;
        out.track(TrackDescriptor {
            uuid: Some(TRACE),
            name: Some("trace".into()),
            description: Some(format!("Times are {}", time(clock))),
            ..TrackDescriptor::default()
        })?;
        let mut args = vec![out.text("file", name), out.text("clock", clock.name()), out.text("time", time(clock))];
        if let Source::Trace(reader) = source {
            let header = reader.header();
            args.push(out.text("nvmx", &header.build[..]));
            match &header.origin {
                Some(origin) => {
                    args.push(out.text("imported_from", &origin.source[..]));
                    args.push(out.text("imported_file", &origin.name[..]));
                    if !origin.note.is_empty() {
                        args.push(out.text("note", &origin.note[..]));
                    }
                }
                None => {
                    let config = &header.config;
                    let guest = match &config.guest {
                        Guest::BuiltIn(name) => name,
                        Guest::Kernel { name, .. } => name,
                    };
                    args.push(out.text("guest", &guest[..]));
                    args.push(out.text("policy", config.policy.name().unwrap_or("custom")));
                    args.push(out.number("pool_slots", config.policy.pool.into()));
                    args.push(out.number("tlb_entries", config.tlb_entries.into()));
                    args.push(out.number("pcpus", config.pcpus.into()));
                }
            }
            args.push(out.number("truncated", reader.truncated().into()));
        }
        self.packets.begin(0, Mark { track: TRACE, name, category: "trace", args, ..Mark::default() })
    }

    fn see(&mut self, number: u64, event: &Event) -> io::Result<()> {
        let vcpu = event.at.vcpu;
        let followed = self.vcpus.entry(vcpu).or_default();
        let (now, before) = followed.step(event.at);
        if let Some((counter, by)) = vcpu::counted(&event.what) {
            followed.counts.add(now, self.stretch, counter, by, &mut self.told);
        }
        match &event.what {
            What::Exit(exit) => self.exit(number, event, exit, (now, before))?,
            What::Entry(entry) if entry.failed.is_none() => self.entry(number, event, entry.level, now)?,
            What::Vmcs(access) => {
                if let Some(open) = followed.open.last_mut() {
                    open.accesses.see(access);
                }
            }
            // What L0 was told is no moment of its own.
            What::Answer(_) => {}
            What::Registers(_) => {
                if let Some(open) = followed.open.last_mut() {
                    open.registers = Some(Box::new(event.clone()));
                }
            }
            _ => self.instant(number, event, now)?,
        }
        self.tell(vcpu)?;
        if !matches!(event.what.kind(), Kind::Pool | Kind::Injection) {
            self.bench.see(number, event);
            let judged: Vec<Judged> = self.bench.verdicts().collect();
            self.judged(judged)?;
        }
        Ok(())
    }

    /// The values of counters that became certain.
    fn tell(&mut self, vcpu: u16) -> io::Result<()> {
        for (at, counter, value) in self.told.drain(..) {
            let track = self.tracks.of(&mut self.packets, vcpu, Track::Counter(counter))?;
            self.packets.counter(at, track, value)?;
        }
        Ok(())
    }

    /// A guest was left, and it ran until now. Where a source tells of no entry, an exit of it that is open ended with the
    /// last event before, at the latest.
    fn exit(&mut self, number: u64, event: &Event, exit: &Exit, (now, before): (u64, u64)) -> io::Result<()> {
        let vcpu = event.at.vcpu;
        let ended = if self.vcpu(vcpu).runs.is_some() { now } else { before };
        self.stop_running(vcpu, now)?;
        while let Some(open) = self.vcpu(vcpu).close(exit.level) {
            self.close(vcpu, ended, open, None)?;
        }
        let followed = self.vcpu(vcpu);
        followed.open.iter_mut().for_each(|open| open.caused += 1);
        let handler = exit.handled_by as u8;
        followed.open.push(Open { level: exit.level, handler, event: number, ..Open::default() });
        let reason = exit.basic();
        let (shown, level) = (reason.to_string(), format!("L{}", exit.level));
        let mut args = vec![self.packets.number("event", number)];
        args.extend(self.packets.fields(event));
        let flow = [flow(number)];
        let flows = if handler > 0 { &flow[..] } else { &[] };
        let track = self.track(vcpu, Track::Level(0))?;
        self.packets.begin(now, Mark { track, name: &shown, category: &level, args, flows, ..Mark::default() })?;
        if handler > 0 {
            let track = self.track(vcpu, Track::Level(handler))?;
            let (args, name) = (vec![self.packets.number("event", number)], format!("handles {shown} of {level}"));
            self.packets
                .begin(now, Mark { track, name: &name, category: "handling", args, flows, ..Mark::default() })?;
        }
        Ok(())
    }

    /// A guest was entered: what it had left for is done.
    fn entry(&mut self, number: u64, event: &Event, level: u8, now: u64) -> io::Result<()> {
        let vcpu = event.at.vcpu;
        self.stop_running(vcpu, now)?;
        let mut ends_flows = Vec::new();
        while let Some(open) = self.vcpu(vcpu).close(level) {
            if open.handler > 0 {
                ends_flows.push(flow(open.event));
            }
            self.close(vcpu, now, open, Some(number))?;
        }
        self.vcpu(vcpu).runs = Some(level);
        let mut args = vec![self.packets.number("event", number)];
        args.extend(self.packets.fields(event));
        let track = self.track(vcpu, Track::Level(level))?;
        let (name, ends_flows) = (format!("L{level}"), &ends_flows[..]);
        self.packets.begin(now, Mark { track, name: &name, category: "run", args, ends_flows, ..Mark::default() })
    }

    fn stop_running(&mut self, vcpu: u16, now: u64) -> io::Result<()> {
        let Some(level) = self.vcpu(vcpu).runs.take() else { return Ok(()) };
        let track = self.track(vcpu, Track::Level(level))?;
        self.packets.end(now, track, Vec::new())
    }

    /// The end of an exit's slice, with all that was learnt of it meanwhile.
    fn close(&mut self, vcpu: u16, now: u64, open: Open, entry: Option<u64>) -> io::Result<()> {
        if open.handler > 0 {
            let track = self.track(vcpu, Track::Level(open.handler))?;
            self.packets.end(now, track, Vec::new())?;
        }
        let out = &mut self.packets;
        let mut args = Vec::new();
        args.extend(entry.map(|entry| out.number("entered_again", entry)));
        if open.handler > 0 {
            args.push(out.number("caused_exits", open.caused));
        }
        let accesses = &open.accesses;
        if accesses.reads + accesses.writes > 0 {
            args.push(out.number("vmreads", accesses.reads));
            args.push(out.number("vmwrites", accesses.writes));
            for (name, of) in [("read", 0), ("written", 1)] {
                let entries = accesses.fields.iter().map(|(&field, &(reads, writes))| (field, [reads, writes][of]));
                let counted: Vec<_> = entries.filter(|(_, count)| *count > 0).collect();
                let mut group: Vec<DebugAnnotation> = Vec::with_capacity(counted.len());
                for (field, count) in counted {
                    let field = VmcsField(field);
                    group.push(match field.name() {
                        Some(name) => out.number(name, count),
                        None => out.number(&field.to_string(), count),
                    });
                }
                if !group.is_empty() {
                    args.push(out.group(name, group));
                }
            }
        }
        if let Some(registers) = &open.registers {
            let fields = out.fields(registers);
            args.push(out.group("registers", fields));
        }
        let track = self.track(vcpu, Track::Level(0))?;
        self.packets.end(now, track, args)
    }

    /// What has no length.
    fn instant(&mut self, number: u64, event: &Event, now: u64) -> io::Result<()> {
        let (track, name) = match &event.what {
            What::Pool(pool) if pool.op != PoolOp::Hit => (Track::Pool, pool.op.name().to_owned()),
            What::Vpid(vpid) if vpid.op != VpidOp::Hit => (Track::Vpids, vpid.op.name().to_owned()),
            What::Ept(change) => (Track::Ept, change.op.name().to_owned()),
            What::Injection(injection) => {
                let (kind, vector) = (injection.info.kind(), injection.info.vector());
                (Track::Injections, format!("{} {vector}", kind.name()))
            }
            What::Mark(value) => (Track::Marks, format!("mark {value}")),
            What::Entry(_) => (Track::Machine, "entry failed".into()),
            What::Input(input) => (Track::Machine, format!("input {}", input.kind)),
            What::Migration(_) => (Track::Machine, "migration".into()),
            What::Lost(_) => (Track::Machine, "lost".into()),
            What::Stop(stop) => (Track::Machine, format!("stop {}", stop.kind)),
            // Flushes wait for their verdict; hits are counted.
            _ => return Ok(()),
        };
        let mut args = vec![self.packets.number("event", number)];
        args.extend(self.packets.fields(event));
        let track = self.track(event.at.vcpu, track)?;
        let category = event.what.kind().name();
        self.packets.instant(now, Mark { track, name: &name, category, args, ..Mark::default() })
    }

    /// Flushes, now that it is known what they were good for.
    fn judged(&mut self, mut judged: Vec<Judged>) -> io::Result<()> {
        judged.sort_by_key(|row| (row.event, row.verdict == Verdict::Missing));
        for row in judged {
            let missing = row.verdict == Verdict::Missing;
            let kind = row.flush.kind.name();
            let name = if missing { format!("missing {kind}") } else { kind.to_owned() };
            let event = Event { at: row.at, what: What::Flush(row.flush) };
            let mut args = vec![self.packets.number("event", row.event)];
            args.extend(self.packets.fields(&event));
            args.push(self.packets.word("verdict", row.verdict.name()));
            args.push(self.packets.word("judged_by", row.judged_by.name()));
            args.push(self.packets.word("rule", row.rule.name()));
            args.extend(row.narrower.map(|narrower| self.packets.word("narrower", narrower)));
            let track = self.track(row.at.vcpu, Track::Flushes)?;
            let category = row.verdict.name();
            let mark = Mark { track, name: &name, category, args, ..Mark::default() };
            self.packets.instant(row.at.instruction, mark)?;
        }
        Ok(())
    }

    /// Ends what is open. `last` is the time of the last event.
    fn finish(&mut self, last: u64, events: u64, newer: u64) -> io::Result<()> {
        let judged: Vec<Judged> = self.bench.close().collect();
        self.judged(judged)?;
        let mut end = last;
        for vcpu in self.vcpus.keys().copied().collect::<Vec<_>>() {
            let now = self.vcpu(vcpu).now;
            end = end.max(now);
            self.stop_running(vcpu, now)?;
            while let Some(open) = self.vcpu(vcpu).close(u8::MAX) {
                self.close(vcpu, now, open, None)?;
            }
            let stretch = self.stretch;
            let mut told = core::mem::take(&mut self.told);
            self.vcpu(vcpu).counts.close(stretch, &mut told);
            self.told = told;
            self.tell(vcpu)?;
        }
        let mut args = vec![self.packets.number("events", events)];
        if newer > 0 {
            args.push(self.packets.number("events_of_newer_kinds", newer));
        }
        self.packets.end(end, TRACE, args)
    }

    fn vcpu(&mut self, vcpu: u16) -> &mut Vcpu {
        self.vcpus.entry(vcpu).or_default()
    }

    fn track(&mut self, vcpu: u16, track: Track) -> io::Result<u64> {
        self.tracks.of(&mut self.packets, vcpu, track)
    }
}

/// The number of the arrow that leads from an exit to who handles it, and on to where its guest goes on. 0 is none.
fn flow(exit: u64) -> u64 {
    exit + 1
}
