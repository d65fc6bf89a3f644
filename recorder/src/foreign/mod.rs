//! The files of other tracing tools, written: KVM's tracepoints as `trace-cmd` and `perf` keep them on disk.
//!
//! This is for measuring beside those tools on the same events, and for testing the importers with files that the tools
//! themselves read. It is no exporter: what KVM's tracepoints have no word for is left out.

mod kvm;
mod metadata;
mod perf_data;
mod ring;
mod trace_dat;
mod tracepoint;

pub use kvm::Detail;
pub use perf_data::write as write_perf_data;
pub use trace_dat::write as write_trace_dat;
#[cfg(feature = "live")]
pub(crate) use tracepoint::TRACEFS;
pub use tracepoint::{Field, Layout, Tracepoint};

/// A thread that events are of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Thread {
    /// The id of its process, which for a vCPU is its virtual machine's.
    pub process: u32,
    /// Its own id.
    pub id: u32,
    /// Its name, at most 15 bytes of it.
    pub name: String,
}

/// What happened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum What {
    /// A tracepoint was hit.
    Hit {
        /// Its place in [`Tape::tracepoints`].
        tracepoint: usize,
        /// The place of the thread in [`Tape::threads`].
        thread: usize,
        /// The record's bytes, laid out as the tracepoint says.
        bytes: Vec<u8>,
    },
    /// Events were lost on that CPU: so many, or 0 where nobody counted.
    Lost(u64),
}

/// Something that happened, with its time and CPU.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Record {
    /// Nanoseconds.
    pub time: u64,
    /// The physical CPU.
    pub cpu: u16,
    /// What.
    pub what: What,
}

/// A recording in memory, for either file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Tape {
    /// The tracepoints that it may hold.
    pub tracepoints: Vec<Tracepoint>,
    /// The threads.
    pub threads: Vec<Thread>,
    /// What happened, by rising time.
    pub records: Vec<Record>,
}

impl Tape {
    /// An empty one, for KVM's tracepoints in that layout.
    pub fn new(layout: Layout) -> Self {
        Self { tracepoints: Tracepoint::all(layout), threads: Vec::new(), records: Vec::new() }
    }

    /// The place of a thread, which is added when it is new.
    pub fn thread(&mut self, process: u32, id: u32, name: &str) -> usize {
        self.threads.iter().position(|thread| thread.id == id).unwrap_or_else(|| {
            self.threads.push(Thread { process, id, name: name.chars().take(15).collect() });
            self.threads.len() - 1
        })
    }

    /// Adds an event: the fields that it names have those values, the others 0. One that the layout lacks is left out, and
    /// so is an event that it lacks.
    pub fn hit(&mut self, (time, cpu, thread): (u64, u16, usize), name: &str, values: &[(&str, u64)]) {
        let Some(tracepoint) = self.tracepoints.iter().position(|known| known.name == name) else { return };
        let id = self.threads.get(thread).map_or(0, |thread| thread.id);
        let bytes = self.tracepoints[tracepoint].record(id, values);
        self.records.push(Record { time, cpu, what: What::Hit { tracepoint, thread, bytes } });
    }

    /// How many events it has.
    pub fn hits(&self) -> usize {
        self.records.iter().filter(|record| matches!(record.what, What::Hit { .. })).count()
    }

    /// The physical CPUs: one more than the highest.
    fn cpus(&self) -> usize {
        self.records.iter().map(|record| usize::from(record.cpu) + 1).max().unwrap_or(1)
    }
}
