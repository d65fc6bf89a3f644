//! The tracks of a trace: a group for each vCPU, and in it what there is to see.

use super::packets::Packets;
use super::proto::{CounterDescriptor, EXPLICIT, ProcessDescriptor, TrackDescriptor};
use std::collections::BTreeSet;
use std::io::{self, Write};

/// A track of a vCPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Track {
    /// When this level ran; for L0, the exits.
    Level(u8),
    Flushes,
    Pool,
    Vpids,
    Ept,
    Injections,
    Marks,
    /// What befell the machine: entries that failed, migrations, input, losses, the end.
    Machine,
    /// One of [`COUNTERS`].
    Counter(usize),
}

pub(super) const COUNTERS: [&str; 8] = [
    "exits of L1",
    "exits of L2",
    "exits of L3",
    "VMREADs",
    "VMWRITEs",
    "TLB entries dropped",
    "pool hits",
    "pool misses",
];

/// The track of the trace as a whole.
pub(super) const TRACE: u64 = 1;

impl Track {
    /// Its place among the tracks of its vCPU.
    fn rank(self) -> u16 {
        match self {
            Self::Level(level) => 1 + u16::from(level),
            Self::Flushes => 0x200,
            Self::Pool => 0x201,
            Self::Vpids => 0x202,
            Self::Ept => 0x203,
            Self::Injections => 0x204,
            Self::Marks => 0x205,
            Self::Machine => 0x206,
            Self::Counter(counter) => 0x300 + counter as u16,
        }
    }

    fn name(self) -> String {
        match self {
            Self::Level(level) => format!("L{level}"),
            Self::Flushes => "flushes".into(),
            Self::Pool => "vmcs02 pool".into(),
            Self::Vpids => "VPID map".into(),
            Self::Ept => "EPT02".into(),
            Self::Injections => "injections".into(),
            Self::Marks => "marks".into(),
            Self::Machine => "machine".into(),
            Self::Counter(counter) => COUNTERS[counter].into(),
        }
    }

    fn about(self) -> Option<&'static str> {
        match self {
            Self::Level(0) => Some("Exits, from the exit until its guest is entered again"),
            Self::Level(_) => Some("When this level ran, and around it the exits that it was given to handle"),
            _ => None,
        }
    }
}

/// The tracks that were told of.
pub(super) struct Tracks {
    known: BTreeSet<u64>,
    unit: String,
}

fn process(vcpu: u16) -> u64 {
    (u64::from(vcpu) + 1) << 16
}

impl Tracks {
    /// No tracks yet. `unit` is what counters count in.
    pub(super) fn new(unit: String) -> Self {
        Self { known: BTreeSet::new(), unit }
    }

    /// The number of a vCPU's track. A track is told of when it is first asked for, so that none is empty.
    pub(super) fn of<W: Write>(&mut self, packets: &mut Packets<W>, vcpu: u16, track: Track) -> io::Result<u64> {
        let group = process(vcpu);
        let uuid = group | u64::from(track.rank());
        if self.known.contains(&uuid) {
            return Ok(uuid);
        }
        if self.known.insert(group) {
            packets.track(TrackDescriptor {
                uuid: Some(group),
                // Perfetto keeps 0 for the idle task.
                process: Some(ProcessDescriptor {
                    pid: Some(i32::from(vcpu) + 1),
                    process_name: Some(format!("vCPU {vcpu}")),
                }),
                child_ordering: Some(EXPLICIT),
                ..TrackDescriptor::default()
            })?;
        }
        self.known.insert(uuid);
        let counter = matches!(track, Track::Counter(_));
        packets.track(TrackDescriptor {
            uuid: Some(uuid),
            parent_uuid: Some(group),
            name: Some(track.name()),
            description: track.about().map(Into::into),
            sibling_order_rank: Some(track.rank().into()),
            counter: counter.then(|| CounterDescriptor { unit_name: Some(self.unit.clone()) }),
            ..TrackDescriptor::default()
        })?;
        Ok(uuid)
    }
}
