//! The parts of `nvmx bench`.

/// A part.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Part {
    /// The software CPU.
    Cpu,
    /// Nested transitions.
    Nested,
    /// What recording costs.
    Record,
    /// The trace format.
    Trace,
    /// Both replays.
    Replay,
    /// Going to an event.
    Seek,
    /// Reports and queries.
    Analysis,
    /// The inspector.
    Inspector,
    /// From a clone to the demo's end.
    Clone,
}

impl Part {
    /// All, in the order in which they are measured.
    pub const ALL: [Self; 9] = [
        Self::Cpu,
        Self::Nested,
        Self::Record,
        Self::Trace,
        Self::Replay,
        Self::Seek,
        Self::Analysis,
        Self::Inspector,
        Self::Clone,
    ];

    /// Its word on the command line, and its key.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Nested => "nested",
            Self::Record => "record",
            Self::Trace => "trace",
            Self::Replay => "replay",
            Self::Seek => "seek",
            Self::Analysis => "analysis",
            Self::Inspector => "inspector",
            Self::Clone => "clone",
        }
    }

    /// Whether it measures on traces that are there, too.
    pub fn takes_traces(self) -> bool {
        matches!(self, Self::Trace | Self::Replay | Self::Seek | Self::Analysis | Self::Inspector)
    }
}
