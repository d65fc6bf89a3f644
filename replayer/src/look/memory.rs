//! Memory through any level's view, and the walks that lead an address to where it lies.

use hv::l0::{Ended, Guest, L0, Trail};
use hv::soft::SoftSilicon;
use hv_defs::addr::{Hpa, PAGE_SIZE};
use hv_defs::controls::{PrimaryControls, SecondaryControls};
use hv_defs::ept::Eptp;
use hv_defs::vmcs;

/// What an address is an address of.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Space {
    /// The linear addresses of a guest, by its level from 1.
    Linear(u8),
    /// Its physical addresses.
    Physical(u8),
    /// Silicon's.
    Host,
}

impl std::fmt::Display for Space {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Linear(level) => write!(f, "L{level}-linear"),
            Self::Physical(level) => write!(f, "L{level}-physical"),
            Self::Host => f.write_str("host-physical"),
        }
    }
}

/// Paging structures.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Structure {
    /// A guest's own, by its level.
    Paging(u8),
    /// The EPT that L1 made for its guest.
    Ept12,
    /// The EPT that silicon walks for L1.
    Ept01,
    /// The EPT that silicon walks for L1's guest.
    Ept02,
}

impl std::fmt::Display for Structure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Paging(level) => write!(f, "paging of L{level}"),
            Self::Ept12 => f.write_str("EPT12"),
            Self::Ept01 => f.write_str("EPT01"),
            Self::Ept02 => f.write_str("EPT02"),
        }
    }
}

/// One walk on the way of an address to where it lies.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Stage {
    /// What was walked.
    pub structure: Structure,
    /// From what sort of address to which.
    pub from: Space,
    /// See [`Stage::from`].
    pub to: Space,
    /// The address that was walked for.
    pub address: u64,
    /// The entries, and how it ended.
    pub trail: Trail,
}

/// `count` bytes of memory as a vCPU's guests or silicon see it; `None` for those that are not there.
pub fn memory(l0: &L0<SoftSilicon>, vcpu: usize, space: Space, at: u64, count: usize) -> Vec<Option<u8>> {
    let guest = match space {
        Space::Linear(level) | Space::Physical(level) => l0.guest(vcpu, level),
        Space::Host => None,
    };
    let mut found = Vec::with_capacity(count);
    while found.len() < count {
        let from = at.wrapping_add(found.len() as u64);
        let here = (count - found.len()).min((PAGE_SIZE - from % PAGE_SIZE) as usize);
        let mut bytes = vec![0; here];
        let read = match (space, &guest) {
            (Space::Linear(_), Some(guest)) => l0.look_at(guest, from, &mut bytes),
            (Space::Physical(_), Some(guest)) => l0.look_at_physical(guest, from, &mut bytes),
            (Space::Host, _) => l0.silicon.bytes(Hpa(from), here).map_or(0, |host| {
                bytes.copy_from_slice(host);
                here
            }),
            (_, None) => 0,
        };
        found.extend(bytes.into_iter().enumerate().map(|(place, byte)| (place < read).then_some(byte)));
    }
    found
}

/// The walks that lead an address of a vCPU's guest to host-physical memory, as far as they lead. `None` when there is no
/// such guest. Of an L1 guest that runs, the last is of the EPT02 that silicon walks for it, where that has an entry yet or
/// not; of one that does not, of EPT01.
pub fn walk(l0: &L0<SoftSilicon>, vcpu: usize, space: Space, address: u64) -> Option<Vec<Stage>> {
    let mut stages = Vec::new();
    let (level, linear) = match space {
        Space::Linear(level) => (level, true),
        Space::Physical(level) => (level, false),
        Space::Host => return Some(stages),
    };
    let guest = l0.guest(vcpu, level)?;
    let mut at = Some(address);
    if linear {
        let trail = l0.trail_linear(&guest, address);
        at = reached(&trail);
        let (from, to) = (Space::Linear(level), Space::Physical(level));
        stages.push(Stage { structure: Structure::Paging(level), from, to, address, trail });
    }
    let Some(physical) = at else { return Some(stages) };
    let from = Space::Physical(level);
    let mut of_l1 = Some(physical);
    if level > 1 && guest.eptp12.is_some() {
        let trail = l0.trail_physical(&guest, physical);
        of_l1 = reached(&trail);
        let to = Space::Physical(1);
        stages.push(Stage { structure: Structure::Ept12, from, to, address: physical, trail });
    }
    let to = Space::Host;
    if level > 1 && guest.runs {
        let (eptp, mode_based) = ept_of(&guest);
        let trail = l0.trail_silicon(eptp, mode_based, physical);
        stages.push(Stage { structure: Structure::Ept02, from, to, address: physical, trail });
    } else if let Some(address) = of_l1 {
        let trail = l0.trail_silicon(Eptp::from_bits(l0.eptp01()), false, address);
        stages.push(Stage { structure: Structure::Ept01, from: Space::Physical(1), to, address, trail });
    }
    Some(stages)
}

fn reached(trail: &Trail) -> Option<u64> {
    match trail.ended {
        Ended::At { address, .. } => Some(address),
        _ => None,
    }
}

/// The EPT that the VMCS of a running guest has.
fn ept_of(guest: &Guest) -> (Eptp, bool) {
    let on = guest.vmcs.get(vmcs::PRIMARY_CONTROLS).contains(PrimaryControls::ACTIVATE_SECONDARY);
    let mode_based = guest.vmcs.get(vmcs::SECONDARY_CONTROLS).contains(SecondaryControls::MODE_BASED_EXECUTE);
    (guest.vmcs.get(vmcs::EPT_POINTER), on && mode_based)
}
