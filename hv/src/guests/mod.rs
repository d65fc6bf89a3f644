//! The built-in guests: small L1 hypervisors, assembled when they are asked for.
//!
//! They are honest guests. They read the VMX capability MSRs and adjust their controls to them, set up their own tables,
//! poll the serial port before they write to it, and would run on any PC with VMX, EPT, VPID and this board's debug
//! ports. What a run of theirs must show is derived on paper in each one's file, and tests hold them to it.

mod demo;
mod flush_storm;
mod handover;
mod kit;
mod l2;
mod multiplication;
mod nest;
mod pool_thrash;
mod resync;
mod stale;
mod vmx;
mod witness;

use crate::boot::Loaded;
use iced_x86::IcedError;

/// A built-in guest.
#[derive(Clone, Copy, Debug)]
pub struct BuiltIn {
    /// Its name on the command line.
    pub name: &'static str,
    /// One line of what it does.
    pub about: &'static str,
    build: fn() -> Result<Loaded, IcedError>,
}

impl BuiltIn {
    /// Assembles it.
    ///
    /// # Errors
    /// When the assembler refuses an instruction: a mistake in the guest's source, which its tests would show.
    pub fn load(&self) -> Result<Loaded, IcedError> {
        (self.build)()
    }
}

/// Bytes of memory that every built-in guest runs in.
pub const MEMORY: u64 = 16 << 20;

/// Every built-in guest.
pub const fn list() -> &'static [BuiltIn] {
    &[
        BuiltIn {
            name: "demo",
            about: "an L1 that runs two L2s in turn: port I/O, CPUID, memory on demand, HLT, interrupts",
            build: demo::build,
        },
        BuiltIn {
            name: "flush-storm",
            about: "round trips that make each policy flush differently, by VPID, by EPT pointer and by instruction",
            build: flush_storm::build,
        },
        BuiltIn {
            name: "handover",
            about: "an L1 on two CPUs (--cpus 2) that hand one another the VPIDs of L0: goes wrong where L0 does (--fault)",
            build: handover::build,
        },
        BuiltIn {
            name: "multiplication",
            about: "an L1 that answers each kind of L2's exits with a number of its own that is known (--shadowing)",
            build: multiplication::build,
        },
        BuiltIn {
            name: "nest",
            about: "an L1 whose L2 is a hypervisor with an L3: what of its VMREADs and VMWRITEs L1 sees (--shadowing)",
            build: nest::build,
        },
        BuiltIn {
            name: "pool-thrash",
            about: "six vmcs12s entered in an order whose pool misses are known; pool-thrash:ABCABa is in your own",
            build: pool_thrash::build,
        },
        BuiltIn {
            name: "resync",
            about: "an L1 that gives its L2 a permission more and another VPID: what brings EPT02 in line (--fault)",
            build: resync::build,
        },
        BuiltIn {
            name: "stale",
            about: "an L1 that changes an EPT entry and forgets the INVEPT that it owes",
            build: stale::build,
        },
        BuiltIn {
            name: "witness",
            about: "an L1 that does all it owes and says what its L2s see: goes wrong where L0 does (--fault)",
            build: witness::build,
        },
    ]
}

/// What stands before the order in the name of a `pool-thrash` with an order of one's own.
const ORDERED: &str = "pool-thrash:";

/// The guest of that name, assembled: one of [`list`], or `pool-thrash:ORDER`, which enters up to 16 vmcs12s, `A` to `P`, in
/// that order and gives up those of small letters. `None` when there is none.
///
/// # Errors
/// As [`BuiltIn::load`].
pub fn load(name: &str) -> Option<Result<Loaded, IcedError>> {
    match name.strip_prefix(ORDERED) {
        Some(order) => pool_thrash::build_in(order),
        None => by_name(name).map(BuiltIn::load),
    }
}

/// The guest of that name.
pub fn by_name(name: &str) -> Option<&'static BuiltIn> {
    list().iter().find(|guest| guest.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_assemble_and_fit() {
        for guest in list() {
            let loaded = guest.load().unwrap();
            assert!(loaded.extent() <= MEMORY, "{}", guest.name);
            let mut pieces: Vec<_> =
                loaded.memory.iter().map(|(at, bytes)| (at.0, at.0 + bytes.len() as u64)).collect();
            pieces.sort_unstable();
            assert!(pieces.is_sorted_by(|a, b| a.1 <= b.0), "{}: {pieces:x?}", guest.name);
            assert!(pieces.iter().any(|(from, to)| (*from..*to).contains(&loaded.start.rip)), "{}", guest.name);
        }
    }
}
