//! Hardware counters of the threads that run vCPUs, where this host has them: what the thread did, in the guest and out of it.

use perf_event::events::{Cache, CacheId, CacheOp, CacheResult, Event, Hardware, Raw};
use perf_event::{Builder, Counter, ReadFormat};
use std::collections::BTreeMap;
use std::io;

/// The most threads that have counters: each is a few open files.
const MOST: usize = 1 << 12;

/// What was counted of a thread, since it was first seen to run a vCPU.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Counts {
    /// The thread.
    pub thread: u32,
    /// Its process.
    pub process: u32,
    /// Each counter's name and value. One that had to share hardware with others is scaled to the whole time.
    pub counts: Vec<(&'static str, u64)>,
}

/// The counters of all threads.
pub(super) struct Counters {
    /// Whether walks of page tables can be counted, by a number that is Intel's.
    walks: bool,
    /// By thread.
    threads: BTreeMap<u32, Counted>,
}

/// A thread's counters.
struct Counted {
    process: u32,
    /// By name.
    counters: Vec<(&'static str, Counter)>,
}

impl Counters {
    /// None yet; or why there can be none here.
    pub(super) fn open() -> Result<Self, String> {
        let mut builder = Builder::new(Hardware::CPU_CYCLES);
        builder.observe_self().any_cpu().include_kernel();
        builder.build().map_err(|error| match error.raw_os_error() {
            Some(libc::ENOENT | libc::ENODEV | libc::EOPNOTSUPP) => {
                "this host has no performance monitoring unit".into()
            }
            _ => error.to_string(),
        })?;
        let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        Ok(Self { walks: cpu.contains("GenuineIntel"), threads: BTreeMap::new() })
    }

    /// A thread runs a vCPU. What cannot be counted of it is left out.
    pub(super) fn add(&mut self, process: u32, thread: u32) {
        if self.threads.contains_key(&thread) || self.threads.len() == MOST {
            return;
        }
        let misses = Cache { which: CacheId::DTLB, operation: CacheOp::READ, result: CacheResult::MISS };
        let mut opened = Vec::new();
        let mut add = |name, counter: io::Result<Counter>| opened.extend(counter.ok().map(|counter| (name, counter)));
        add("cycles", count(Hardware::CPU_CYCLES, thread));
        add("instructions", count(Hardware::INSTRUCTIONS, thread));
        add("dtlb_misses", count(misses, thread));
        if self.walks {
            // DTLB_LOAD_MISSES.WALK_COMPLETED: event 0x08, umask 0x0e. See: SDM volume 3, "Performance Monitoring Events".
            add("page_walks", count(Raw::new(0x0e08), thread));
        }
        self.threads.insert(thread, Counted { process, counters: opened });
    }

    /// What was counted, by rising thread.
    pub(super) fn read(&mut self) -> Vec<Counts> {
        let all = self.threads.iter_mut().map(|(thread, Counted { process, counters })| {
            let counts = counters.iter_mut().filter_map(|(name, counter)| Some((*name, value(counter)?))).collect();
            Counts { thread: *thread, process: *process, counts }
        });
        all.collect()
    }
}

fn count<E: Event>(event: E, thread: u32) -> io::Result<Counter> {
    let mut builder = Builder::new(event);
    let format = ReadFormat::TOTAL_TIME_ENABLED | ReadFormat::TOTAL_TIME_RUNNING;
    builder
        .observe_pid(thread as libc::pid_t)
        .any_cpu()
        .include_kernel()
        .include_hv()
        .enabled(true)
        .read_format(format);
    builder.build()
}

fn value(counter: &mut Counter) -> Option<u64> {
    let read = counter.read_full().ok()?;
    let (enabled, running) = (read.time_enabled()?.as_nanos(), read.time_running()?.as_nanos());
    scaled(read.count(), enabled, running)
}

/// A count as if the counter had run all the time; `None` if it never ran.
fn scaled(count: u64, enabled: u128, running: u128) -> Option<u64> {
    if running >= enabled {
        return Some(count);
    }
    u64::try_from(u128::from(count).checked_mul(enabled)?.checked_div(running)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shared_counters_are_scaled() {
        let check = |count, enabled, running, want| assert_eq!(scaled(count, enabled, running), want);
        check(100, 10, 10, Some(100));
        check(100, 10, 5, Some(200));
        check(100, 10, 0, None);
        check(0, 0, 0, Some(0));
        check(u64::MAX, 10, 5, None);
    }
}
