//! What goes between the APICs: an interrupt on its way to whom it concerns.

/// What a message makes of the vCPU that it reaches.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    /// An interrupt for each target.
    Fixed,
    /// An interrupt for the target of the lowest priority.
    LowestPriority,
    /// An NMI.
    Nmi,
    /// An INIT.
    Init,
    /// A start-up IPI, whose vector says where.
    StartUp,
    /// What nobody takes: an SMI, for there is no system-management mode, and what is reserved.
    Other,
}

/// Whom a message is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Destination {
    /// An APIC's ID, or a set of logical ones.
    pub(super) id: u32,
    /// It is a logical one.
    pub(super) logical: bool,
    /// All 32 bits of it count: it comes from an APIC in x2APIC mode.
    pub(super) wide: bool,
}

impl Destination {
    /// The APIC with an ID.
    pub(super) const fn physical(id: u32) -> Self {
        Self { id, logical: false, wide: true }
    }
}

/// Whom a message is for, by place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Shorthand {
    /// Whom the destination names.
    None,
    /// The sender.
    Own,
    /// All.
    All,
    /// All but the sender.
    Others,
}

/// An interrupt, or what is sent like one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Message {
    pub(super) kind: Kind,
    pub(super) vector: u8,
    /// Level-triggered: the IOAPIC waits for its end.
    pub(super) level: bool,
    pub(super) to: Destination,
    pub(super) shorthand: Shorthand,
}

impl Message {
    /// An edge-triggered interrupt for each target.
    pub(super) const fn fixed(vector: u8, to: Destination) -> Self {
        Self { kind: Kind::Fixed, vector, level: false, to, shorthand: Shorthand::None }
    }
}
