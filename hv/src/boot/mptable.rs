//! The tables by which an SMP kernel without ACPI finds CPUs, APICs and how the ISA interrupts are wired.
//! See: Intel "MultiProcessor Specification", version 1.4.

use hv_defs::addr::Gpa;

/// Where the tables lie: in the BIOS's region, which kernels search.
const ADDRESS: u64 = 0xf_6000;
const LOCAL_APIC: u32 = 0xfee0_0000;
const IO_APIC: u32 = 0xfec0_0000;

// Entries, and the bytes of those that are not 8.
const PROCESSOR: u8 = 0;
const BUS: u8 = 1;
const APIC: u8 = 2;
const IO_INTERRUPT: u8 = 3;
const LOCAL_INTERRUPT: u8 = 4;

// Types of interrupt.
const INT: u8 = 0;
const NMI: u8 = 1;
const EXT_INT: u8 = 3;

/// Every local APIC.
const ALL: u8 = 0xff;
const ISA: u8 = 0;
/// The local APIC's version, and the signature and features of the CPU before it.
const LAPIC_VERSION: u8 = 0x14;
const SIGNATURE: u32 = 0x06a6;
const FEATURES: u32 = 0x0201;

/// The floating pointer and the table behind it, for `vcpus` CPUs and an I/O APIC of that ID. An ID has a byte: CPUs
/// beyond the 255th are not told of.
pub(super) fn tables(vcpus: u16, ioapic: u8) -> (Gpa, Vec<u8>) {
    let mut entries = Vec::new();
    let mut count = 0u16;
    let mut entry = |bytes: &[u8]| {
        entries.extend_from_slice(bytes);
        count += 1;
    };
    for id in 0..vcpus.min(255) as u8 {
        // Usable, and the first one the bootstrap CPU.
        let flags = if id == 0 { 3 } else { 1 };
        let mut processor = vec![PROCESSOR, id, LAPIC_VERSION, flags];
        processor.extend(SIGNATURE.to_le_bytes());
        processor.extend(FEATURES.to_le_bytes());
        processor.extend([0; 8]);
        entry(&processor);
    }
    entry(&[BUS, ISA, b'I', b'S', b'A', b' ', b' ', b' ']);
    let [a, b, c, d] = IO_APIC.to_le_bytes();
    entry(&[APIC, ioapic, 0x20, 1, a, b, c, d]);
    for line in (0..16).filter(|line| *line != 2) {
        // The timer is on pin 2, the others on the pin of their number; all as the bus has them, by edge.
        let pin = if line == 0 { 2 } else { line };
        entry(&[IO_INTERRUPT, INT, 0, 0, ISA, line, ioapic, pin]);
    }
    entry(&[LOCAL_INTERRUPT, EXT_INT, 0, 0, ISA, 0, 0, 0]);
    entry(&[LOCAL_INTERRUPT, NMI, 0, 0, ISA, 0, ALL, 1]);

    const HEADER: usize = 44;
    let mut table = b"PCMP".to_vec();
    table.extend(((HEADER + entries.len()) as u16).to_le_bytes());
    table.extend([4, 0]);
    table.extend(b"NVMX    ");
    table.extend(b"BOARD       ");
    table.extend([0; 6]);
    table.extend(count.to_le_bytes());
    table.extend(LOCAL_APIC.to_le_bytes());
    table.extend([0; 4]);
    table.extend(entries);
    table[7] = complement(&table);

    let mut pointer = b"_MP_".to_vec();
    pointer.extend((ADDRESS as u32 + 16).to_le_bytes());
    // 16 bytes, version 1.4, a table and no default configuration, virtual wire mode.
    pointer.extend([1, 4, 0, 0, 0, 0, 0, 0]);
    pointer[10] = complement(&pointer);
    pointer.extend(table);
    (Gpa(ADDRESS), pointer)
}

/// What makes the sum of all bytes zero.
fn complement(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0u8, |sum, byte| sum.wrapping_sub(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(vcpus: u16, processors: usize) {
        let (at, bytes) = tables(vcpus, 7);
        assert_eq!(at.0 % 16, 0);
        let (pointer, table) = bytes.split_at(16);
        assert_eq!((&pointer[..4], complement(pointer)), (&b"_MP_"[..], 0));
        assert_eq!(u32::from_le_bytes(pointer[4..8].try_into().unwrap()), at.0 as u32 + 16);
        assert_eq!((&table[..4], complement(table)), (&b"PCMP"[..], 0));
        assert_eq!(usize::from(u16::from_le_bytes([table[4], table[5]])), table.len());
        let count = usize::from(u16::from_le_bytes([table[34], table[35]]));
        let mut entries = &table[44..];
        let mut kinds = [0; 5];
        for _ in 0..count {
            kinds[usize::from(entries[0])] += 1;
            entries = &entries[if entries[0] == PROCESSOR { 20 } else { 8 }..];
        }
        assert_eq!((entries.len(), kinds), (0, [processors, 1, 1, 15, 2]));
        assert!(at.0 + bytes.len() as u64 <= 0x10_0000);
    }

    #[test]
    fn the_tables_hold_together() {
        check(1, 1);
        check(4, 4);
        check(256, 255);
    }
}
