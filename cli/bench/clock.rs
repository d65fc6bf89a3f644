//! Times on CPUs, as Linux tells them, so that other work of the machine counts little; else the wall's.

use std::io;
use std::time::{Duration, Instant};

/// Passes, of which the best counts.
pub const PASSES: usize = 5;
/// How long a pass should take at least, so that reading the clock costs nothing.
const PASS: Duration = Duration::from_millis(20);
/// What passes over whole files may take together: as many are made as fit into it.
const LONGEST: Duration = Duration::from_secs(5);

/// The fastest and the slowest of some passes.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Timed {
    /// What counts.
    pub best: Duration,
    /// What shows how far the passes are apart.
    pub worst: Duration,
    /// How many there were.
    pub passes: u32,
}

impl Timed {
    /// Nothing yet.
    pub const NONE: Self = Self { best: Duration::MAX, worst: Duration::ZERO, passes: 0 };

    /// One pass more.
    pub fn add(&mut self, took: Duration) {
        (self.best, self.worst) = (self.best.min(took), self.worst.max(took));
        self.passes += 1;
    }

    /// How much longer the slowest took than the fastest, as a part of the fastest; of one pass nothing is known.
    pub fn spread(&self) -> Option<f64> {
        (self.passes > 1).then(|| self.worst.as_secs_f64() / self.best.as_secs_f64().max(1e-9) - 1.0)
    }
}

/// The time that this thread has had a CPU.
pub fn thread(since: Instant) -> Duration {
    // Linux adds it up when it schedules, else only at its ticks, of which some last 10 ms.
    std::thread::yield_now();
    let said = std::fs::read_to_string("/proc/thread-self/schedstat").ok();
    let nanoseconds = said.as_deref().and_then(|said| said.split(' ').next()?.parse().ok());
    nanoseconds.map_or_else(|| since.elapsed(), Duration::from_nanos)
}

/// The time that all threads of a process have had CPUs. What a thread had that has ended is not in it.
pub fn threads(process: u32) -> Option<Duration> {
    std::thread::yield_now();
    let all = || -> io::Result<u64> {
        let mut sum = 0;
        for thread in std::fs::read_dir(format!("/proc/{process}/task"))? {
            let Ok(said) = std::fs::read_to_string(thread?.path().join("schedstat")) else { continue };
            sum += said.split(' ').next().and_then(|on| on.parse::<u64>().ok()).ok_or(io::ErrorKind::InvalidData)?;
        }
        Ok(sum)
    };
    all().ok().map(Duration::from_nanos)
}

/// The CPU time of this process, threads that have ended included, which Linux counts in hundredths of a second.
pub fn process(since: Instant) -> Duration {
    ticks(11).unwrap_or_else(|| since.elapsed())
}

/// The same of all its children that ended.
pub fn children() -> Option<Duration> {
    ticks(13)
}

/// Two fields of this process's line behind its name, which may hold anything: counted from the third, which is 0.
fn ticks(first: usize) -> Option<Duration> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(first);
    let ticks: u64 = fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?;
    Some(Duration::from_millis(ticks * 10))
}

/// A few passes of this thread, each as often as it takes to last some milliseconds.
pub fn passes<E>(mut pass: impl FnMut() -> Result<(), E>) -> Result<Timed, E> {
    let (since, mut timed) = (Instant::now(), Timed::NONE);
    pass()?;
    for _ in 0..PASSES {
        let (start, mut runs, mut took) = (thread(since), 0, Duration::ZERO);
        while took < PASS {
            pass()?;
            (runs, took) = (runs + 1, thread(since).saturating_sub(start));
        }
        timed.add(took / runs);
    }
    Ok(timed)
}

/// A few passes that this process's threads make together and that may be long: one at least.
pub fn long_passes<E>(mut pass: impl FnMut() -> Result<(), E>) -> Result<Timed, E> {
    let (since, mut timed) = (Instant::now(), Timed::NONE);
    let spent = || threads(std::process::id()).unwrap_or_else(|| since.elapsed());
    for _ in 0..PASSES {
        let start = spent();
        pass()?;
        timed.add(spent().saturating_sub(start));
        if since.elapsed() > LONGEST {
            break;
        }
    }
    Ok(timed)
}

/// What something costs: the time of the thread that does it, and that of all threads of this process together.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Cost {
    /// Of the thread.
    pub thread: Timed,
    /// Of all.
    pub all: Timed,
}

/// Measures something in rounds, so that rounds of several things can alternate.
#[derive(Debug)]
pub struct Meter {
    times: Option<u32>,
    cost: Cost,
}

impl Default for Meter {
    fn default() -> Self {
        Self { times: None, cost: Cost { thread: Timed::NONE, all: Timed::NONE } }
    }
}

impl Meter {
    /// A round lasts at least so long: the time of all threads is counted in hundredths of a second.
    const ROUND: Duration = Duration::from_millis(400);
    /// And does it at most so often.
    const MOST: u32 = 10_000;

    /// One round more, in which it is done as often as the first round found that it takes.
    pub fn round<E>(&mut self, mut what: impl FnMut() -> Result<(), E>) -> Result<(), E> {
        let since = Instant::now();
        let times = match self.times {
            Some(times) => times,
            None => {
                let (start, all) = (thread(since), process(since));
                what()?;
                let (took, all) = (thread(since).saturating_sub(start), process(since).saturating_sub(all));
                if took >= Self::ROUND {
                    self.cost.thread.add(took);
                    self.cost.all.add(all);
                    self.times = Some(1);
                    return Ok(());
                }
                let times = Self::ROUND.as_secs_f64() / took.as_secs_f64().max(1e-6);
                *self.times.insert((times.ceil() as u32).clamp(1, Self::MOST))
            }
        };
        let (start, all) = (thread(since), process(since));
        for _ in 0..times {
            what()?;
        }
        self.cost.thread.add(thread(since).saturating_sub(start) / times);
        self.cost.all.add(process(since).saturating_sub(all) / times);
        Ok(())
    }

    /// What it came to.
    pub fn cost(&self) -> Cost {
        self.cost
    }
}
