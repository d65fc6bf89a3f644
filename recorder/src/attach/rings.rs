//! The counters of all tracepoints, and the rings that they write their records into: one ring for each CPU, or for each thread
//! where threads were named.

use super::calls;
use super::sample::{self, Taken};
use super::tracefs::{FIELDS, Layout};
use super::{Error, Options, Who};
use perf_event::events::{KProbe, Tracepoint};
use perf_event::{Builder, Clock, Counter, ReadFormat, SampleFlag, Sampler};
use std::collections::BTreeMap;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::time::Duration;

/// A record of a tracepoint or a function.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Record {
    /// Nanoseconds.
    pub(super) time: u64,
    pub(super) process: u32,
    pub(super) thread: u32,
    pub(super) cpu: u16,
    /// What.
    pub(super) what: Of,
}

/// What a record says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Of {
    /// A hit.
    Hit {
        /// The place of its layout.
        layout: u16,
        /// Its fields.
        values: [u64; FIELDS],
    },
    /// Records were lost.
    Lost(u64),
}

/// A ring, with the counter that it was made for.
struct Ring {
    sampler: Sampler,
    /// The others that write into it.
    others: Vec<Counter>,
}

/// All of them.
pub(super) struct Rings {
    /// What is counted: tracepoints, then functions.
    pub(super) layouts: Vec<Layout>,
    rings: Vec<Ring>,
    files: Vec<RawFd>,
    /// The layout of each counter, by its identifier.
    by_id: BTreeMap<u64, u16>,
    /// Whether the kernel counts for each counter what was lost.
    counts_lost: bool,
}

/// What a ring is of.
#[derive(Clone, Copy)]
enum Place {
    Cpu(usize),
    Thread(u32),
}

/// What is counted.
enum What<'a> {
    Tracepoint(u16),
    Function(&'a str),
}

impl Rings {
    /// Opens the counters, which do not count yet. Functions that the kernel does not let be probed are left out, and named
    /// with the reason.
    pub(super) fn open(
        options: &Options,
        mut layouts: Vec<Layout>,
        functions: &[String],
    ) -> Result<(Self, Vec<(String, io::Error)>), Error> {
        let places: Vec<_> = match &options.who {
            Who::Host | Who::Process(_) => online()?.into_iter().map(Place::Cpu).collect(),
            Who::Threads(threads) => threads.iter().copied().map(Place::Thread).collect(),
        };
        let tracepoints = layouts.len();
        let counters = places.len().saturating_mul(tracepoints + functions.len());
        calls::many_files(counters as u64 + 256);
        layouts.extend(functions.iter().map(|name| Layout::of_function(name)));
        let mut rings =
            Self { layouts, rings: Vec::new(), files: Vec::new(), by_id: BTreeMap::new(), counts_lost: true };
        let mut refused = Vec::new();
        for place in places {
            rings.open_at(place, options, tracepoints, functions, &mut refused)?;
        }
        rings.files = rings.rings.iter().map(|ring| ring.sampler.as_raw_fd()).collect();
        Ok((rings, refused))
    }

    fn open_at(
        &mut self,
        place: Place,
        options: &Options,
        tracepoints: usize,
        functions: &[String],
        refused: &mut Vec<(String, io::Error)>,
    ) -> Result<(), Error> {
        let mut ring = None::<Ring>;
        for layout in 0..tracepoints {
            let id = self.layouts[layout].id;
            let layout = layout as u16;
            let counter = self.counter(place, options.buffer, &What::Tracepoint(id)).map_err(|error| {
                // The thread ended meanwhile.
                Error::of_open(error, &self.layouts[usize::from(layout)].name, matches!(place, Place::Thread(_)))
            })?;
            self.by_id.insert(counter.id(), layout);
            match &mut ring {
                None => {
                    let sampler = counter
                        .sampled(options.buffer)
                        .map_err(|source| Error::Ring { bytes: options.buffer as u64, source })?;
                    ring = Some(Ring { sampler, others: Vec::new() });
                }
                Some(ring) => {
                    calls::share_ring(&counter, &ring.sampler).map_err(Error::Kernel)?;
                    ring.others.push(counter);
                }
            }
        }
        let Some(mut ring) = ring else { return Ok(()) };
        for (at, name) in functions.iter().enumerate() {
            let counter = match self.counter(place, options.buffer, &What::Function(name)) {
                Ok(counter) => counter,
                Err(error) => {
                    if !refused.iter().any(|(known, _)| known == name) {
                        refused.push((name.clone(), error));
                    }
                    continue;
                }
            };
            let layout = (tracepoints + at) as u16;
            self.by_id.insert(counter.id(), layout);
            calls::share_ring(&counter, &ring.sampler).map_err(Error::Kernel)?;
            ring.others.push(counter);
        }
        self.rings.push(ring);
        Ok(())
    }

    fn counter(&mut self, place: Place, buffer: usize, what: &What<'_>) -> io::Result<Counter> {
        loop {
            let mut builder = match what {
                What::Tracepoint(id) => Builder::new(Tracepoint::with_id((*id).into())),
                What::Function(name) => {
                    let name = CString::new(*name).map_err(io::Error::other)?;
                    Builder::new(KProbe::for_function(false, name, 0)?)
                }
            };
            match place {
                Place::Cpu(cpu) => builder.any_pid().one_cpu(cpu),
                Place::Thread(thread) => builder.observe_pid(thread as libc::pid_t).any_cpu(),
            };
            let sampled = [SampleFlag::IDENTIFIER, SampleFlag::TID, SampleFlag::TIME, SampleFlag::CPU, SampleFlag::RAW];
            sampled.into_iter().for_each(|flag| {
                builder.sample(flag);
            });
            let format = if self.counts_lost { ReadFormat::LOST } else { ReadFormat::empty() };
            builder
                .include_kernel()
                .include_hv()
                .sample_period(1)
                .sample_id_all(true)
                .clockid(Clock::MONOTONIC)
                .wakeup_watermark(buffer / 4)
                .read_format(format);
            match builder.build() {
                // Linux 6.0 was the first to count it.
                Err(error) if self.counts_lost && error.raw_os_error() == Some(libc::EINVAL) => {
                    self.counts_lost = false;
                }
                built => return built,
            }
        }
    }

    /// Has all of them count.
    pub(super) fn enable(&mut self) -> Result<(), Error> {
        self.counters().try_for_each(Counter::enable).map_err(Error::Kernel)
    }

    /// Has none of them count any more.
    pub(super) fn disable(&mut self) -> Result<(), Error> {
        self.counters().try_for_each(Counter::disable).map_err(Error::Kernel)
    }

    fn counters(&mut self) -> impl Iterator<Item = &mut Counter> {
        self.rings.iter_mut().flat_map(|ring| std::iter::once(ring.sampler.as_counter_mut()).chain(&mut ring.others))
    }

    /// Waits until a ring is a quarter full, a signal comes, or that long.
    pub(super) fn wait(&self, most: Duration) -> Result<(), Error> {
        calls::wait(&self.files, most).map_err(Error::Kernel)
    }

    /// Takes all records that there are, ring by ring; each ring's are by rising time but for a few.
    pub(super) fn drain(&mut self, mut take: impl FnMut(Record)) {
        for ring in &mut self.rings {
            while let Some(record) = ring.sampler.next_record() {
                let bytes = record.to_contiguous();
                match sample::take(record.ty(), &bytes) {
                    Taken::Sample { id, process, thread, time, cpu, raw } => {
                        let Some(layout) = self.by_id.get(&id).copied() else { continue };
                        let Some(values) = self.layouts.get(usize::from(layout)).map(|of| of.values(raw)) else {
                            continue;
                        };
                        take(Record { time, process, thread, cpu: cpu as u16, what: Of::Hit { layout, values } });
                    }
                    Taken::Lost { count, time, cpu } => {
                        take(Record { time, process: 0, thread: 0, cpu: cpu as u16, what: Of::Lost(count) });
                    }
                    Taken::Other => {}
                }
            }
        }
    }

    /// Records that rings had no room for so far; `None` of kernels that do not count them.
    pub(super) fn lost(&mut self) -> Result<Option<u64>, Error> {
        if !self.counts_lost {
            return Ok(None);
        }
        let lost = |counter: &mut Counter| Ok(counter.read_full()?.lost().unwrap_or(0));
        let all: io::Result<Vec<u64>> = self.counters().map(lost).collect();
        Ok(Some(all.map_err(Error::Kernel)?.iter().sum()))
    }
}

/// The CPUs that are on.
fn online() -> Result<Vec<usize>, Error> {
    let text = std::fs::read_to_string("/sys/devices/system/cpu/online").map_err(Error::Kernel)?;
    listed(&text).ok_or_else(|| Error::Kernel(io::Error::other(format!("the CPUs '{}'", text.trim()))))
}

/// `0-3,8` as numbers; `None` for what is no such list, or is beyond what Linux runs on.
fn listed(text: &str) -> Option<Vec<usize>> {
    let mut cpus = Vec::new();
    for part in text.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        if last > 1 << 15 {
            return None;
        }
        cpus.extend(first..=last);
    }
    Some(cpus)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_cpus() {
        let check = |text, want: Option<&[usize]>| assert_eq!(listed(text).as_deref(), want, "{text}");
        check("0-1\n", Some(&[0, 1]));
        check("0", Some(&[0]));
        check("0-2,5,7-8\n", Some(&[0, 1, 2, 5, 7, 8]));
        check("", None);
        check("0-", None);
        check("0-99999999", None);
    }
}
