//! The guest's view of memory: what QEMU's firmware tells of a PC with so many bytes of RAM.

use crate::l0;
use hv_defs::addr::Gpa;

/// Where the memory below 1 MiB that a kernel may use ends: the extended BIOS data area follows.
pub(super) const LOW_END: u64 = 0x9_fc00;
/// Where the memory above 1 MiB begins.
pub(super) const HIGH: u64 = 0x10_0000;
/// Where the firmware's own memory below 1 MiB begins.
pub(super) const BIOS: u64 = 0xf_0000;
/// Bytes at the end of the RAM below 4 GiB that hold the firmware's tables.
const TABLES: u64 = 0x2_0000;
/// Bytes that QEMU keeps free there when it places an initrd.
const KEPT_FROM_INITRD: u64 = 0x2_8000;
/// Where the flash that firmware is in begins: the last 256 KiB below 4 GiB.
const FLASH: u64 = 0xfffc_0000;

/// Usable RAM, in the memory map.
pub(super) const RAM: u32 = 1;
/// What nobody may use, in the memory map.
pub(super) const RESERVED: u32 = 2;

/// Where the RAM of a machine with `memory` bytes of it lies.
#[derive(Clone, Copy, Debug)]
pub(super) struct Map {
    /// The end of the RAM below 4 GiB.
    low_end: u64,
    /// The end of the RAM from 4 GiB; 4 GiB itself when there is none.
    high_end: u64,
}

/// A row of the memory map: from, to, and whether it may be used.
pub(super) type Row = (u64, u64, u32);

impl Map {
    pub(super) fn new(memory: u64) -> Self {
        let low_end = memory.min(l0::LOW_RAM_LIMIT);
        Self { low_end, high_end: l0::HIGH_RAM + (memory - low_end) }
    }

    /// Where the firmware's tables begin, and the RAM above 1 MiB that a kernel may use ends.
    pub(super) fn tables(self) -> Gpa {
        Gpa(self.low_end.saturating_sub(TABLES).max(HIGH))
    }

    /// The last byte that an initrd may have.
    pub(super) fn initrd_max(self) -> u64 {
        self.low_end.saturating_sub(KEPT_FROM_INITRD + 1)
    }

    /// The memory map, in order of address.
    pub(super) fn rows(self) -> Vec<Row> {
        let tables = self.tables().0;
        let rows = [
            (0, LOW_END, RAM),
            (LOW_END, 0xa_0000, RESERVED),
            (BIOS, HIGH, RESERVED),
            (HIGH, tables, RAM),
            (tables, self.low_end, RESERVED),
            (FLASH, l0::HIGH_RAM, RESERVED),
            (l0::HIGH_RAM, self.high_end, RAM),
        ];
        rows.into_iter().filter(|(from, to, _)| from < to).collect()
    }

    /// All RAM, whoever uses it.
    pub(super) fn ram(self) -> Vec<Row> {
        let rows = [(0, self.low_end, RAM), (l0::HIGH_RAM, self.high_end, RAM)];
        rows.into_iter().filter(|(from, to, _)| from < to).collect()
    }

    /// KiB of RAM from 1 MiB to the first hole.
    pub(super) fn upper_kib(self) -> u32 {
        ((self.tables().0 - HIGH) >> 10) as u32
    }
}

/// Rows as the BIOS gives them: address, length, kind, in 20 bytes.
pub(super) fn bytes(rows: &[Row]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (from, to, kind) in rows {
        bytes.extend(from.to_le_bytes());
        bytes.extend((to - from).to_le_bytes());
        bytes.extend(kind.to_le_bytes());
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(memory: u64, expected: &[Row]) {
        let rows: Vec<Row> = Map::new(memory).rows().into_iter().skip(3).collect();
        assert_eq!(rows, expected, "{memory:#x}");
    }

    #[test]
    fn the_map_is_qemus() {
        let flash = (0xfffc_0000, 1 << 32, RESERVED);
        assert_eq!(
            Map::new(256 << 20).rows()[..3],
            [(0, 0x9_fc00, RAM), (0x9_fc00, 0xa_0000, RESERVED), (0xf_0000, 0x10_0000, RESERVED)]
        );
        check(256 << 20, &[(HIGH, 0xffe_0000, RAM), (0xffe_0000, 0x1000_0000, RESERVED), flash]);
        check(3 << 30, &[(HIGH, 0xbffe_0000, RAM), (0xbffe_0000, 0xc000_0000, RESERVED), flash]);
        let high = (1 << 32, 0x1_4000_0000, RAM);
        check(4 << 30, &[(HIGH, 0xbffe_0000, RAM), (0xbffe_0000, 0xc000_0000, RESERVED), flash, high]);
        check(1 << 20, &[flash]);
        check(4096, &[flash]);
        assert_eq!(Map::new(256 << 20).upper_kib(), 255 * 1024 - 128);
        assert_eq!(Map::new(0).upper_kib(), 0);
    }
}
