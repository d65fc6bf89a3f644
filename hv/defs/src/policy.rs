//! What a nested hypervisor decides, as data: each rule that KVM changed over the years is a field of [`Policy`], and
//! each year is a preset.

use core::fmt;
use serde::{Deserialize, Serialize};

macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $word:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, serde::Serialize, serde::Deserialize)]
        #[repr(u8)]
        pub enum $name {
            $($(#[$variant_doc])* $variant,)*
        }

        impl $name {
            /// Every value, in the order of its number.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// The word for it, on the command line, in traces' tables and in reports.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)*
                }
            }

            /// The value of that number, if there is one: what a trace holds.
            pub fn from_number(number: u8) -> Option<Self> {
                Self::ALL.get(usize::from(number)).copied()
            }

            /// The value of that name, if there is one.
            pub fn by_name(name: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|value| value.name() == name)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.name())
            }
        }
    };
}
pub(crate) use words;

words! {
    /// Which VPIDs L1 and its L2s run under.
    Tags {
        /// No VPID anywhere: the hardware flushes at every transition.
        Off = "off",
        /// One VPID, shared by L1 and all its L2s.
        Shared = "shared",
        /// One VPID for L1 and one, `vpid02`, for whichever L2 runs; the last vpid12 is remembered.
        Single = "single",
        /// A full map from vpid12 to vpid02, per vCPU.
        Mapped = "mapped",
    }
}

words! {
    /// When a nested entry or exit flushes linear and combined mappings.
    TransitionFlush {
        /// Never, save when a VPID is recycled.
        Never = "never",
        /// At every nested entry and exit, the VPID being entered.
        Always = "always",
        /// At a nested entry whose vpid12 is not the last one.
        Vpid12Change = "vpid12-change",
        /// vmcs12 without VPID: flush; a new vpid12: flush vpid02; no tag of its own: flush the current one.
        Untagged = "untagged",
        /// As `Untagged`, and a new vpid12 also syncs shadow pages, as a guest's own TLB flush does.
        UntaggedSync = "untagged-sync",
        /// Only what an adversarial TLB proves to be needed.
        Needed = "needed",
    }
}

words! {
    /// What loading an EPT root costs.
    RootLoad {
        /// INVEPT of the root loaded, at every load.
        Flush = "flush",
        /// Nothing on a mere switch; the root is rebuilt when it is not the one used last.
        Keep = "keep",
        /// Nothing on a mere switch, and several roots are kept.
        Cached = "cached",
    }
}

words! {
    /// Whose vmcs02 a pool without a free slot takes for another vmcs12.
    PoolRecycle {
        /// That of the vmcs12 that was entered least recently.
        Lru = "lru",
        /// That of the vmcs12 that came first.
        Fifo = "fifo",
    }
}

words! {
    /// Which fields of vmcs02 are written at a nested entry.
    Vmcs02Writes {
        /// All of them.
        All = "all",
        /// Those that differ from what this vmcs02 holds already.
        Dirty = "dirty",
    }
}

words! {
    /// How L2's VMREAD and VMWRITE are served when L1 enables VMCS shadowing.
    Shadowing {
        /// L1 does not see the feature; every access goes to L1.
        Off = "off",
        /// L0 intercepts and serves from the shadow vmcs12.
        Emulated = "emulated",
        /// vmcs02 runs with VMCS shadowing itself.
        Virtualized = "virtualized",
    }
}

/// Every rule under which the nested hypervisor runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Policy {
    /// Which VPIDs L1 and L2 run under.
    pub tags: Tags,
    /// When a nested transition flushes.
    pub transition_flush: TransitionFlush,
    /// What loading an EPT root costs.
    pub root_load: RootLoad,
    /// Whether a nested entry or exit flushes when L1 uses an APIC-access page without EPT.
    pub apic_access_flush: bool,
    /// Slots in the vmcs02 pool of each vCPU, at least 1.
    pub pool: u16,
    /// Whose slot is taken when all are in use.
    pub pool_recycle: PoolRecycle,
    /// Which fields of vmcs02 are written at a nested entry.
    pub vmcs02_writes: Vmcs02Writes,
    /// How VMCS shadowing is offered to L1.
    pub shadowing: Shadowing,
}

/// A year of KVM's history, or a proposal, by name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Preset {
    /// The word on the command line.
    pub name: &'static str,
    /// Its rules.
    pub policy: Policy,
    /// One line of where it comes from.
    pub about: &'static str,
}

const KVM_2011: Policy = Policy {
    tags: Tags::Shared,
    transition_flush: TransitionFlush::Always,
    root_load: RootLoad::Flush,
    apic_access_flush: false,
    pool: 1,
    pool_recycle: PoolRecycle::Lru,
    vmcs02_writes: Vmcs02Writes::All,
    shadowing: Shadowing::Off,
};
const KVM_2015: Policy =
    Policy { tags: Tags::Single, transition_flush: TransitionFlush::Vpid12Change, apic_access_flush: true, ..KVM_2011 };
const KVM_2018: Policy =
    Policy { root_load: RootLoad::Keep, apic_access_flush: false, vmcs02_writes: Vmcs02Writes::Dirty, ..KVM_2015 };
const KVM_2020: Policy =
    Policy { transition_flush: TransitionFlush::Untagged, root_load: RootLoad::Cached, ..KVM_2018 };
const MAPPED: Policy = Policy {
    tags: Tags::Mapped,
    transition_flush: TransitionFlush::Never,
    root_load: RootLoad::Cached,
    apic_access_flush: false,
    pool: 8,
    pool_recycle: PoolRecycle::Lru,
    vmcs02_writes: Vmcs02Writes::Dirty,
    shadowing: Shadowing::Off,
};

/// Every preset, oldest first. VMCS shadowing is off in all of them: KVM never offered it to its guests, and it is a rule to
/// be switched on by itself.
pub const PRESETS: &[Preset] = &[
    Preset {
        name: "no-vpid",
        policy: Policy { tags: Tags::Off, transition_flush: TransitionFlush::Never, ..KVM_2011 },
        about: "no tags: the hardware flushes at every transition",
    },
    Preset { name: "kvm-2011", policy: KVM_2011, about: "one VPID for L1 and its L2s, flushed at every switch" },
    Preset {
        name: "kvm-2013-pool",
        policy: Policy { pool: 8, ..KVM_2011 },
        about: "as kvm-2011, with an LRU pool of vmcs02s keyed by the vmcs12 address",
    },
    Preset { name: "kvm-2015", policy: KVM_2015, about: "a vpid02 beside L1's VPID, and one last vpid12 remembered" },
    Preset { name: "kvm-2018", policy: KVM_2018, about: "no flush on a mere EPTP switch, only dirty fields written" },
    Preset { name: "kvm-2020", policy: KVM_2020, about: "flushes by whether a tag of its own exists, cached roots" },
    Preset {
        name: "kvm-2021",
        policy: Policy { transition_flush: TransitionFlush::UntaggedSync, ..KVM_2020 },
        about: "as kvm-2020; a new vpid12 counts as a guest TLB flush, which syncs too",
    },
    Preset { name: "mapped", policy: MAPPED, about: "a full map of vpid12 to vpid02, freed once" },
    Preset {
        name: "ideal",
        policy: Policy { transition_flush: TransitionFlush::Needed, pool: 64, ..MAPPED },
        about: "as mapped, with only the flushes that an adversarial TLB proves to be needed",
    },
];

impl Policy {
    /// The preset of that name.
    pub fn preset(name: &str) -> Option<Self> {
        PRESETS.iter().find(|preset| preset.name == name).map(|preset| preset.policy)
    }

    /// The name of the preset that has exactly these rules.
    pub fn name(&self) -> Option<&'static str> {
        PRESETS.iter().find(|preset| preset.policy == *self).map(|preset| preset.name)
    }
}

impl Default for Policy {
    fn default() -> Self {
        MAPPED
    }
}
