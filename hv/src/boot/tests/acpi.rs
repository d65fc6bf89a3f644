//! The ACPI tables, found and read as an operating system does it.

use super::*;

fn tables(memory: u64, cpus: u16) -> Loaded {
    let image = linux::Image::default().bytes();
    load(&Kernel { memory, cpus, ..kernel(&image) }).expect("a kernel")
}

fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
}

/// The root pointer, searched for where systems search.
fn root(loaded: &Loaded) -> Vec<u8> {
    let area = read(loaded, 0xe_0000, 0x2_0000);
    let at = (0..area.len()).step_by(16).find(|at| area[*at..].starts_with(b"RSD PTR ")).expect("a root pointer");
    area[at..at + 36].to_vec()
}

/// A table of that signature, its checksum verified.
fn table(loaded: &Loaded, at: u64, signature: &[u8; 4]) -> Vec<u8> {
    let bytes = read(loaded, at, u32_in(loaded, at + 4) as usize);
    assert_eq!((&bytes[..4], sum(&bytes)), (&signature[..], 0));
    bytes
}

fn word(bytes: &[u8], at: usize) -> u64 {
    crate::boot::u32_at(bytes, at).expect("within the table").into()
}

/// The table of that signature that the root lists.
fn listed(loaded: &Loaded, signature: &[u8; 4]) -> Vec<u8> {
    let rsdt = table(loaded, word(&root(loaded), 16), b"RSDT");
    let at = (36..rsdt.len()).step_by(4).map(|at| word(&rsdt, at));
    let at = at.into_iter().find(|at| read(loaded, *at, 4) == signature).expect("a listed table");
    table(loaded, at, signature)
}

#[test]
fn the_root_leads_to_the_same_tables_by_both_lists() {
    for memory in [2 * MIB + MIB, 64 * MIB, 3 << 30, 5 << 30] {
        let loaded = tables(memory, 2);
        let root = root(&loaded);
        assert_eq!((sum(&root[..20]), sum(&root), root[15], word(&root, 20)), (0, 0, 2, 36));
        let rsdt = table(&loaded, word(&root, 16), b"RSDT");
        let xsdt = table(&loaded, word(&root, 24), b"XSDT");
        let narrow: Vec<u64> = (36..rsdt.len()).step_by(4).map(|at| word(&rsdt, at)).collect();
        let wide: Vec<u64> = (36..xsdt.len()).step_by(8).map(|at| word(&xsdt, at)).collect();
        assert_eq!((narrow.len(), &narrow), (2, &wide));
        // All of them lie where the memory map has nobody else.
        let end = memory.min(3 << 30);
        assert!(narrow.iter().all(|at| (end - 0x2_0000..end).contains(at)), "{narrow:x?}");
    }
}

#[test]
fn the_fadt_describes_the_fixed_hardware() {
    let loaded = tables(64 * MIB, 1);
    let fadt = listed(&loaded, b"FACP");
    let check = |at: usize, expected: u64| assert_eq!(word(&fadt, at), expected, "offset {at}");
    check(56, 0x600);
    check(64, 0x604);
    check(76, 0x608);
    assert_eq!(fadt[88..92], [4, 2, 0, 4]);
    assert_eq!(fadt[46..48], [9, 0], "the SCI");
    check(48, 0);
    // No keyboard, no VGA; a reset register, and no reduced hardware.
    assert_eq!(fadt[109..111], [5, 0]);
    assert_eq!(word(&fadt, 112) & (1 << 20 | 1 << 10), 1 << 10);
    assert_eq!((fadt[116], word(&fadt, 120), fadt[128]), (1, 0xcf9, 6));
    let facs = read(&loaded, word(&fadt, 36), 8);
    assert_eq!((&facs[..4], word(&fadt, 36) % 64), (&b"FACS"[..], 0));
    assert_eq!(word(&fadt, 40), word(&fadt, 140), "the DSDT by both pointers");
    let dsdt = table(&loaded, word(&fadt, 40), b"DSDT");
    let off = [8, b'_', b'S', b'5', b'_', 0x12];
    assert!(dsdt.windows(6).any(|window| window == off), "a name _S5_ of a package");
    for name in [b"COM1", b"RTC_", b"FWCF"] {
        assert!(dsdt.windows(4).any(|window| window == name));
    }
}

#[test]
fn the_madt_lists_what_interrupts() {
    for cpus in [1u16, 4, 255, 256] {
        let loaded = tables(64 * MIB, cpus);
        let madt = listed(&loaded, b"APIC");
        assert_eq!((word(&madt, 36), word(&madt, 40)), (0xfee0_0000, 1));
        let (mut at, mut ids, mut rest) = (44, Vec::new(), Vec::new());
        while at < madt.len() {
            let entry = &madt[at..at + usize::from(madt[at + 1])];
            match entry[0] {
                0 => ids.push((u32::from(entry[3]), word(entry, 4))),
                9 => ids.push((word(entry, 4) as u32, word(entry, 8))),
                _ => rest.push(entry.to_vec()),
            }
            at += entry.len();
        }
        assert_eq!(ids, (0..u32::from(cpus)).map(|id| (id, 1)).collect::<Vec<_>>());
        let io_apic = crate::device::ioapic_id(cpus);
        assert_eq!(rest[0], [1, 12, io_apic, 0, 0, 0, 0xc0, 0xfe, 0, 0, 0, 0]);
        assert_eq!(rest[1], [2, 10, 0, 0, 2, 0, 0, 0, 0, 0]);
        assert_eq!(rest[2], [2, 10, 0, 9, 9, 0, 0, 0, 0xd, 0]);
        assert_eq!(rest[3], [4, 6, 0xff, 0, 0, 1]);
        assert_eq!(rest.len(), if cpus > 255 { 5 } else { 4 });
    }
}

#[test]
fn the_bios_data_area_is_filled_in() {
    let loaded = tables(64 * MIB, 1);
    assert_eq!(read(&loaded, 0x400, 2), [0xf8, 3]);
    assert_eq!(read(&loaded, 0x40e, 2), [0xc0, 0x9f]);
    assert_eq!(read(&loaded, 0x413, 2), [0x7f, 2], "639 KiB");
    assert!(read(&loaded, 0xf_0000, 0x1_0000).windows(4).any(|window| window == b"_MP_"));
}
