//! The configuration of a machine: all that, with the guest's images and the world's inputs, decides a run.

use crate::policy::{Policy, words};
use crate::slip::Slips;
use core::fmt;

words! {
    /// What runs the instructions.
    Backend {
        /// The software CPU.
        Soft = "soft",
        /// /dev/kvm.
        Kvm = "kvm",
    }
}

words! {
    /// How much of the run is logged. Each level holds all of the one before it.
    Log {
        /// Entries, exits, flushes and all that is as rare.
        Exits = "exits",
        /// Every VMCS access too.
        Vmcs = "vmcs",
        /// All of silicon's answers too, so that L0 alone can be replayed.
        L0 = "l0",
    }
}

words! {
    /// What a file that the guest boots from is.
    ImageKind {
        /// A kernel.
        Kernel = "kernel",
        /// An initrd.
        Initrd = "initrd",
    }
}

words! {
    /// What a trace's stamps count in the place of instructions.
    Clock {
        /// Instructions retired, as our own machine counts.
        Instructions = "instructions",
        /// Nanoseconds since the first event.
        Nanoseconds = "nanoseconds",
        /// Ticks of a counter that the source did not scale, since the first event.
        Ticks = "ticks",
        /// VM exits so far: the source tells of no time.
        Exits = "exits",
    }
}

words! {
    /// What wrote a foreign trace.
    Source {
        /// The VM seeds of the IRIS project.
        Iris = "iris",
        /// trace-cmd's trace.dat, or its report's text.
        TraceCmd = "trace-cmd",
        /// perf's perf.data, or its script's text.
        Perf = "perf",
    }
}

/// Where a trace comes from that our machine did not make. Its configuration then says nothing of the machine that ran.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Origin {
    /// What wrote the file that was imported, as on the command line: `iris`, `trace-cmd` or `perf`; or [`Origin::PERF_EVENTS`],
    /// [`Origin::KVM`].
    pub source: String,
    /// The name of that file; of a recording, the host's or the virtual machine's.
    pub name: String,
    /// What the stamps count.
    pub clock: Clock,
    /// What there is to know further, in a line; may be empty.
    pub note: String,
}

impl Origin {
    /// The source of a trace that `nvmx attach` recorded.
    pub const PERF_EVENTS: &str = "perf-events";
    /// The source of a trace of a machine that the host's KVM ran as L0.
    pub const KVM: &str = "kvm";

    /// How the trace came to be, as `imported from perf`.
    pub fn whence(&self) -> String {
        let (way, from) = self.ways();
        format!("{way} {from}")
    }

    /// The same in two: whether it was `imported` or `recorded`, and the rest.
    pub fn ways(&self) -> (&'static str, String) {
        match self.source.as_str() {
            Self::PERF_EVENTS => ("recorded", "through perf events".into()),
            Self::KVM => ("recorded", "on the host's KVM".into()),
            other => ("imported", format!("from {other}")),
        }
    }

    /// The page that says what its events are made of.
    pub fn page(&self) -> &'static str {
        match self.source.as_str() {
            Self::PERF_EVENTS => "docs/attach.md",
            Self::KVM => "docs/host.md",
            _ => "docs/import.md",
        }
    }
}

/// What the machine boots. The bytes of its images travel beside the configuration.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Guest {
    /// One of the built-in guests, by name. It is assembled at start, and has no image.
    BuiltIn(String),
    /// A kernel, with an optional initrd, by content.
    Kernel {
        /// The kernel's file name, which a multiboot kernel's command line begins with.
        name: String,
        /// The kernel's command line.
        append: String,
    },
}

/// A machine. Two runs of equal configurations, images and inputs give the same events, bit for bit.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Config {
    /// What it boots.
    pub guest: Guest,
    /// L1's memory, in bytes: a multiple of the page size.
    pub memory: u64,
    /// L1's vCPUs, at least 1.
    pub vcpus: u16,
    /// Physical CPUs, at least 1.
    pub pcpus: u16,
    /// What runs the instructions.
    pub backend: Backend,
    /// The rules L0 runs under.
    pub policy: Policy,
    /// The mistakes that L0 is to make.
    pub slips: Slips,
    /// Entries in each physical CPU's TLB, at least 16.
    pub tlb_entries: u32,
    /// Whether the CPUs have 5-level paging.
    pub la57: bool,
    /// Seeds everything that a guest may take as random.
    pub seed: u64,
    /// How much is logged.
    pub log: Log,
    /// Instructions after which the machine stops.
    pub max_instructions: Option<u64>,
    /// The machine stops when the console has shown this text.
    pub stop_on: Option<String>,
    /// Instructions that a vCPU may run before another is scheduled or the world is asked for input.
    pub slice: u64,
    /// Instructions between two digests of state; 0 for none but the last.
    pub digest_interval: u64,
}

impl Config {
    /// The defaults of the command line, for `guest`.
    pub fn new(guest: Guest) -> Self {
        Self {
            guest,
            memory: 256 << 20,
            vcpus: 1,
            pcpus: 1,
            backend: Backend::Soft,
            policy: Policy::default(),
            slips: Slips::default(),
            tlb_entries: 1536,
            la57: false,
            seed: 0,
            log: Log::Vmcs,
            max_instructions: None,
            stop_on: None,
            slice: 1_000_000,
            digest_interval: 16_000_000,
        }
    }
}
