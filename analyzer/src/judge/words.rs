//! The names of verdicts, of what they rest on, and of the rules that give them.

macro_rules! named {
    ($(#[$doc:meta])* $type:ident { $($(#[$variant_doc:meta])* $variant:ident = $name:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        pub enum $type {
            $($(#[$variant_doc])* $variant,)*
        }

        impl $type {
            /// Every value.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// Its name in tables and reports.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }
        }
    };
}
pub(crate) use named;

named! {
    /// What is said of a flush.
    Verdict {
        /// A flush that should have been made was not.
        Missing = "missing",
        /// Without it a guest could use a translation that it must not.
        Required = "required",
        /// A narrower flush would do.
        TooBroad = "too-broad",
        /// Nothing would change without it.
        Redundant = "redundant",
        /// The events do not tell.
        Unknown = "unknown",
    }
}

named! {
    /// What a verdict rests on.
    JudgedBy {
        /// The events alone.
        Rule = "rule",
        /// A second execution.
        Replay = "replay",
    }
}

macro_rules! rules {
    ($($(#[$doc:meta])* $variant:ident $name:literal $verdict:ident $why:literal;)*) => {
        named! {
            /// The rule that gave a verdict.
            Rule {
                $($(#[$doc])* $variant = $name,)*
            }
        }

        impl Rule {
            /// The verdict that it gives.
            pub const fn verdict(self) -> Verdict {
                match self {
                    $(Self::$variant => Verdict::$verdict,)*
                }
            }

            /// What it says, in one sentence.
            pub const fn why(self) -> &'static str {
                match self {
                    $(Self::$variant => $why,)*
                }
            }
        }
    };
}

rules! {
    /// See [`Rule::why`], as for all of them.
    NotFlushed "not-flushed" Missing
        "A present EPT02 entry that L2 may have used lost a permission or its page, and L2 was entered under that root again with no INVEPT between.";
    /// A tag in two hands, without a flush.
    TagNotFlushed "tag-not-flushed" Missing
        "A guest was entered under a tag that holds what another guest, which it must not see, has put there since the last flush.";
    /// A transition that L1 does not tag, without a flush.
    UntaggedNotFlushed "untagged-not-flushed" Missing
        "vmcs12 does not enable VPID, so L1 is owed a flush at the entry, and L2 was entered with what it had cached before L1 ran.";
    /// An APIC-access page in the mappings of a root that another is run under.
    ApicPageNotFlushed "apic-page-not-flushed" Missing
        "A guest was entered under a root of L0's that holds mappings made for a guest with another APIC-access page, or with none.";
    /// An EPT change that needs INVEPT.
    MappingChanged "mapping-changed" Required
        "A present EPT02 entry that a guest may have used under this root lost a permission or its page since the last flush.";
    /// The cause itself says that a permission was lost.
    PermissionLost "permission-lost" Required
        "L0 took a page or a permission from a root whose entries are not traced, and a guest had run under it.";
    /// An instruction of the guest that L0 must carry out.
    GuestAsked "guest-asked" Required
        "The guest's own INVVPID must drop what it names, and something had run under that tag since the last flush.";
    /// L0 emulates the guest's paging.
    GuestPaging "guest-paging" Required
        "L0 emulates a change that the guest made to its paging, and something had run under that tag.";
    /// A tag in two hands.
    OtherOwner "other-owner" Required
        "The tag held what another guest put there, and a guest that must not see it was entered under the tag next.";
    /// A transition that L1 does not tag.
    Untagged "untagged" Required
        "vmcs12 does not enable VPID, so L1 is owed a flush at each entry and exit of L2, and the tag was used again.";
    /// Mappings of one guest's APIC-access page, for another.
    OtherApicPage "other-apic-page" Required
        "Guests with different APIC-access pages, or with one and without, run under this root, so that the mappings that one leaves would serve the other.";
    /// A VPID that changed hands.
    Recycled "recycled" Required
        "A VPID was taken from its guest, to be another's, and something had run under it.";
    /// A vCPU that came back.
    Migrated "migrated" Required
        "The vCPU had run on this CPU before, and what its guest flushed elsewhere was not flushed here.";
    /// More than the guest asked for.
    WiderThanAsked "wider-than-asked" TooBroad
        "L0 carried out the guest's INVVPID or INVEPT with a wider type than the guest used.";
    /// One root of several.
    OneRoot "one-root" TooBroad
        "Entries changed under one root only, and other roots lost their mappings too.";
    /// Nothing to drop.
    NothingCached "nothing-cached" Redundant
        "Nothing ran under what it covers since the last flush that covered it.";
    /// The same guest.
    SameOwner "same-owner" Redundant
        "Only one guest runs under the tag, so a transition owes it no flush.";
    /// A tag that is not used again.
    NotUsedAgain "not-used-again" Redundant
        "Nothing was entered again under what it dropped.";
    /// No change.
    NothingChanged "nothing-changed" Redundant
        "No entry changed under the root since its last flush.";
    /// Only such changes as need none.
    HarmlessChange "harmless-change" Redundant
        "Since the root's last flush entries only gained permissions or had not been present.";
    /// A mere switch of roots.
    RootSwitch "root-switch" Redundant
        "Loading a root changes no entry, and mappings are tagged with their root.";
    /// L1's APIC-access page.
    OwnRoot "own-root" Redundant
        "L2 runs under an EPT root or a VPID of its own, so the APIC-access page of L1 is not in its mappings.";
    /// By replay: no flush, and a stale translation.
    StaleAccess "stale-access" Missing
        "A TLB that keeps what it may would have served an access by what the tables no longer say, and L0 or L1 owed the flush.";
    /// By replay.
    AccessDiffers "access-differs" Required
        "Without it an access in the rest of the run would have been served otherwise.";
    /// By replay.
    NarrowerServes "narrower-serves" TooBroad
        "All accesses that would have been served otherwise lie in the scope of a narrower type, and others of what it dropped were walked again for nothing.";
    /// By replay.
    NoAccessDiffers "no-access-differs" Redundant
        "Without it every access in the rest of the run would have been served the same.";
    /// By replay, and in the wrong place.
    WrongTarget "wrong-target" Redundant
        "It names an EPT pointer or a VPID other than what it was to be for, and every access would have been served the same without it.";
    /// The events do not tell.
    NoEvidence "no-evidence" Unknown
        "The events do not tell what changed or whose tag it is.";
}

impl Rule {
    /// What it rests on.
    pub const fn ground(self) -> JudgedBy {
        match self {
            Self::StaleAccess
            | Self::AccessDiffers
            | Self::NarrowerServes
            | Self::NoAccessDiffers
            | Self::WrongTarget => JudgedBy::Replay,
            _ => JudgedBy::Rule,
        }
    }

    /// Whether what it rests on had happened when the flush was made, so that L0 could have gone by it.
    pub const fn is_known_then(self) -> bool {
        !matches!(self.ground(), JudgedBy::Replay) && !matches!(self, Self::NotUsedAgain | Self::NoEvidence)
    }
}
