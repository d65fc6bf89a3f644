//! What firmware leaves in memory: words of the BIOS data area, the MP table and the ACPI tables.

use super::{Kernel, acpi, mptable};
use hv_defs::addr::Gpa;

/// Where the pointer to the ACPI tables lies: in the area that is searched for it.
pub(super) const RSDP: u64 = 0xf_5a00;

// The BIOS data area: the first serial port, the segment of the extended data area, KiB of memory below it.
const SERIAL_PORTS: u64 = 0x400;
const EXTENDED_SEGMENT: u64 = 0x40e;
const BASE_MEMORY: u64 = 0x413;
/// The extended data area, which begins with its size in KiB.
const EXTENDED: u64 = 0x9_fc00;

/// Pieces of memory.
pub(super) fn tables(kernel: &Kernel<'_>) -> Vec<(Gpa, Vec<u8>)> {
    let half = |value: u16| value.to_le_bytes().to_vec();
    let mut memory = vec![
        (Gpa(SERIAL_PORTS), half(crate::device::SERIAL_PORT)),
        (Gpa(EXTENDED_SEGMENT), half((EXTENDED >> 4) as u16)),
        (Gpa(BASE_MEMORY), half((EXTENDED >> 10) as u16)),
        (Gpa(EXTENDED), vec![1]),
    ];
    memory.push(mptable::tables(kernel.cpus, crate::device::ioapic_id(kernel.cpus)));
    memory.extend(acpi::tables(RSDP, kernel.map().tables(), kernel.cpus));
    memory
}
