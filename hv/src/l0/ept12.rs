//! EPT12, the paging structures that L1 made for L2: L2-physical to L1-physical. L0 walks them as silicon would.
//! See: SDM "The Extended Page Table Mechanism (EPT)".

use super::cx::Cx;
use crate::silicon::Silicon;
use hv_defs::addr::{Gpa, L2Gpa, PAGE_SIZE};
use hv_defs::ept::{EptEntry, Eptp};

// Accesses that EPT permits or not: read, write and execute, as the low three bits of an entry and of a qualification.
pub(super) const READ: u8 = 1;
pub(super) const WRITE: u8 = 2;
pub(super) const EXECUTE: u8 = 4;
/// Fetches from user-mode addresses, with mode-based execute control; [`EXECUTE`] is from supervisor-mode ones then.
pub(super) const USER_EXECUTE: u8 = 8;

/// What an entry permits.
fn permitted(entry: EptEntry) -> u8 {
    let user = if entry.user_execute() { USER_EXECUTE } else { 0 };
    entry.into_bits() as u8 & 7 | user
}

/// A translation that EPT12 has.
#[derive(Clone, Copy, Debug)]
pub(super) struct Path {
    /// The entry used at each level; index 0 is unused.
    pub(super) entries: [EptEntry; 5],
    /// The page of the paging structure at each level.
    pub(super) tables: [Gpa; 5],
    /// The level of the leaf: 1, 2 or 3.
    pub(super) level: u8,
    /// What all entries permit.
    pub(super) permitted: u8,
}

impl Path {
    /// Where `at` maps to.
    pub(super) fn target(&self, at: L2Gpa) -> Gpa {
        Gpa(leaf_base(self.entries[usize::from(self.level)], self.level) | at.0 & (span(self.level) - 1))
    }
}

/// What a walk of EPT12 finds.
#[derive(Clone, Copy, Debug)]
pub(super) enum Walked {
    /// A leaf.
    Leaf(Path),
    /// An entry that is not present; nothing is permitted.
    NotPresent,
    /// An entry that the SDM calls misconfigured.
    Misconfigured,
}

/// Bytes that an entry at `level` maps.
pub(super) const fn span(level: u8) -> u64 {
    PAGE_SIZE << (9 * (level as u32 - 1))
}

/// The index of `at` in a table of `level`.
pub(super) const fn index(at: u64, level: u8) -> u64 {
    at >> (12 + 9 * (level as u32 - 1)) & 511
}

/// Whether an entry of `level` maps a page.
pub(super) const fn is_leaf(entry: EptEntry, level: u8) -> bool {
    level == 1 || entry.large() && level < 4
}

/// The address of the page that a leaf maps.
pub(super) const fn leaf_base(entry: EptEntry, level: u8) -> u64 {
    entry.address() & !(span(level) - 1)
}

/// Whether a present entry is misconfigured. `execute_only` says whether L1 was offered execute-only translations.
/// See: SDM "EPT Misconfigurations".
pub(super) fn is_misconfigured(entry: EptEntry, level: u8, execute_only: bool, address_bits: u32) -> bool {
    let bits = entry.into_bits();
    if !entry.read() && (entry.write() || !execute_only) {
        return true;
    }
    let beyond = ((1u64 << 52) - 1) & !((1u64 << address_bits) - 1);
    if bits & beyond != 0 {
        return true;
    }
    if !is_leaf(entry, level) {
        return bits & if level == 4 { 0xf8 } else { 0x78 } != 0;
    }
    matches!(entry.memory_type(), 2 | 3 | 7) || entry.address() & (span(level) - 1) != 0
}

impl<S: Silicon> Cx<'_, S> {
    /// Walks EPT12, reading L1's memory.
    pub(super) fn walk_ept12(&mut self, eptp12: Eptp, mode_based: bool, at: L2Gpa) -> Walked {
        let mut path = Path {
            entries: [EptEntry::new(); 5],
            tables: [Gpa(0); 5],
            level: 4,
            permitted: READ | WRITE | EXECUTE | USER_EXECUTE,
        };
        let mut table = Gpa(eptp12.ep4ta());
        loop {
            let level = path.level;
            let entry = EptEntry::from_bits(self.read_gpa_u64(table.offset(index(at.0, level) * 8)));
            if !entry.present_in(mode_based) {
                return Walked::NotPresent;
            }
            if is_misconfigured(entry, level, self.shared.execute_only, self.shared.address_bits) {
                return Walked::Misconfigured;
            }
            path.entries[usize::from(level)] = entry;
            path.tables[usize::from(level)] = table;
            path.permitted &= permitted(entry);
            if is_leaf(entry, level) {
                return Walked::Leaf(path);
            }
            table = Gpa(entry.address());
            path.level -= 1;
        }
    }

    /// Sets accessed flags along a path, and the dirty flag of its leaf, where EPT12 has them enabled.
    pub(super) fn mark_ept12(&mut self, path: &mut Path, at: L2Gpa, write: bool) {
        for level in (path.level..=4).rev() {
            let entry = path.entries[usize::from(level)];
            let marked = entry.with_accessed(true).with_dirty(entry.dirty() || write && level == path.level);
            if marked != entry {
                path.entries[usize::from(level)] = marked;
                let to = path.tables[usize::from(level)].offset(index(at.0, level) * 8);
                if let Some(hpa) = self.ram(to, 8) {
                    self.silicon.write(hpa, &marked.into_bits().to_le_bytes());
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn misconfigurations_are_the_sdm_s() {
        let check = |bits: u64, level, wrong| {
            assert_eq!(is_misconfigured(EptEntry::from_bits(bits), level, true, 40), wrong, "{bits:#x} at {level}");
        };
        check(0x1037, 1, false);
        check(0x1032, 1, true); // write without read
        check(0x1034, 1, false); // execute alone, offered
        check(0x1007, 2, false);
        check(0x100f, 2, true); // memory type in a non-leaf
        check(0x1087, 4, true); // no leaves at level 4
        check(0x20_00b7, 2, false);
        check(0x1_00b7, 2, true); // address not aligned to 2 MiB
        check(0x1017, 1, true); // memory type 2
        check(0x100_0000_1037, 1, true); // beyond the physical address width
        assert!(is_misconfigured(EptEntry::from_bits(0x1034), 1, false, 40));
        assert_eq!((span(1), span(2), span(3)), (4096, 2 << 20, 1 << 30));
        assert_eq!((index(0x40_3000, 1), index(0x40_3000, 2), index(0x40_3000, 3)), (3, 2, 0));
    }
}
