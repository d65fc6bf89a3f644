//! The tables that firmware leaves, for machines of any size: each is whole, sums up to zero, lies in RAM and over nothing else.
//! Then guest writes to the registers that they tell of, and the reset that they name.

use super::super::dice::Dice;
use hv::boot::{Kernel, Loaded, load};
use hv::device::Board;
use hv::l0::{Bus, BusEvent};
use hv_defs::addr::Gpa;
use hv_defs::event::StopKind;

/// A multiboot kernel of nothing but its header, loaded at 1 MiB.
fn kernel() -> Vec<u8> {
    let (magic, flags, base) = (0x1bad_b002u32, 1u32 << 16, 0x10_0000u32);
    let sum = 0u32.wrapping_sub(magic).wrapping_sub(flags);
    let words = [magic, flags, sum, base, base, base + 0x40, base + 0x80, base + 0x20];
    let mut bytes: Vec<u8> = words.into_iter().flat_map(u32::to_le_bytes).collect();
    bytes.resize(0x40, 0xf4);
    bytes
}

/// The bytes of memory from `at` on, all in one piece.
fn bytes(loaded: &Loaded, at: u64, count: usize) -> &[u8] {
    let piece = loaded.memory.iter().rev().find_map(|(from, bytes)| {
        let offset = usize::try_from(at.checked_sub(from.0)?).ok()?;
        bytes.get(offset..offset.checked_add(count)?)
    });
    piece.unwrap_or_else(|| panic!("{count} bytes at {at:#x} are in no piece"))
}

fn number(bytes: &[u8], at: usize, count: usize) -> u64 {
    bytes[at..at + count].iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte))
}

fn sums_up(bytes: &[u8], what: &str) {
    assert_eq!(bytes.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)), 0, "the checksum of {what}");
}

/// A table with its header.
fn table<'a>(loaded: &'a Loaded, at: u64, signature: &str) -> &'a [u8] {
    let header = bytes(loaded, at, 36);
    assert_eq!(&header[..4], signature.as_bytes(), "at {at:#x}");
    let length = number(header, 4, 4) as usize;
    let table = bytes(loaded, at, length);
    assert!(length >= 36);
    sums_up(table, signature);
    table
}

/// Ports and values that the tables name.
struct Named {
    status: u16,
    control: u16,
    timer: u16,
    reset: (u16, u8),
}

/// Looks at all tables.
fn look(loaded: &Loaded, memory: u64, cpus: u16) -> Named {
    let mut places: Vec<(u64, u64)> = loaded.memory.iter().map(|(at, bytes)| (at.0, bytes.len() as u64)).collect();
    for (at, length) in &places {
        assert!(hv::l0::ram(memory, Gpa(*at), *length).is_some(), "{length} bytes at {at:#x} are not in RAM");
    }
    places.sort_unstable();
    for pair in places.windows(2) {
        // Nobody has laid anything over the tables.
        assert!(pair[0].0 + pair[0].1 <= pair[1].0, "{:x?} and {:x?}", pair[0], pair[1]);
    }
    let low = |at: u64| (0xe_0000..0x10_0000).contains(&at) && at.is_multiple_of(16);
    let root = loaded.memory.iter().find(|(at, bytes)| low(at.0) && bytes.starts_with(b"RSD PTR "));
    let (_, root) = root.expect("a root pointer where it is searched for");
    sums_up(&root[..20], "the old root pointer");
    sums_up(&root[..36], "the root pointer");
    let (rsdt, xsdt) = (number(root, 16, 4), number(root, 24, 8));
    let (rsdt, xsdt) = (table(loaded, rsdt, "RSDT"), table(loaded, xsdt, "XSDT"));
    let old: Vec<u64> = rsdt[36..].chunks(4).map(|at| number(at, 0, 4)).collect();
    let new: Vec<u64> = xsdt[36..].chunks(8).map(|at| number(at, 0, 8)).collect();
    assert_eq!(old, new, "both lists");
    let mut named = None;
    for at in new {
        match bytes(loaded, at, 4) {
            b"FACP" => {
                let fadt = table(loaded, at, "FACP");
                let (old_dsdt, dsdt) = (number(fadt, 40, 4), number(fadt, 140, 8));
                assert_eq!(old_dsdt, dsdt);
                table(loaded, dsdt, "DSDT");
                let facs = number(fadt, 36, 4);
                assert!(facs.is_multiple_of(64) && bytes(loaded, facs, 64).starts_with(b"FACS"));
                assert_eq!(fadt[116], 1, "the reset register is a port");
                named = Some(Named {
                    status: number(fadt, 56, 4) as u16,
                    control: number(fadt, 64, 4) as u16,
                    timer: number(fadt, 76, 4) as u16,
                    reset: (number(fadt, 120, 8) as u16, fadt[128]),
                });
            }
            b"APIC" => look_at_madt(table(loaded, at, "APIC"), cpus),
            other => panic!("a table {other:?}"),
        }
    }
    look_at_mp_table(loaded, cpus);
    named.expect("a FADT")
}

fn look_at_madt(madt: &[u8], cpus: u16) {
    let (mut at, mut ids) = (44, Vec::new());
    while at < madt.len() {
        let length = usize::from(madt[at + 1]);
        assert!(length >= 2 && at + length <= madt.len(), "an entry of {length} bytes");
        match madt[at] {
            0 => ids.push(u32::from(madt[at + 3])),
            9 => ids.push(number(madt, at + 4, 4) as u32),
            _ => {}
        }
        at += length;
    }
    assert_eq!(at, madt.len());
    assert!(ids.iter().copied().eq(0..u32::from(cpus)), "processors {ids:?} of {cpus}");
}

fn look_at_mp_table(loaded: &Loaded, cpus: u16) {
    let Some((_, mp)) = loaded.memory.iter().find(|(_, bytes)| bytes.starts_with(b"_MP_")) else { return };
    sums_up(&mp[..16], "the MP pointer");
    let at = number(mp, 4, 4);
    let length = number(bytes(loaded, at, 44), 4, 2) as usize;
    let table = bytes(loaded, at, length);
    assert!(table.starts_with(b"PCMP"));
    sums_up(table, "the MP table");
    let (mut place, mut processors) = (44, 0);
    for _ in 0..number(table, 34, 2) {
        let kind = table[place];
        processors += u16::from(kind == 0);
        place += if kind == 0 { 20 } else { 8 };
    }
    assert_eq!(place, length, "the MP table's entries");
    assert!(processors <= cpus && processors > 0, "{processors} processors of {cpus}");
}

fn run(data: &[u8]) -> u64 {
    let mut dice = Dice::of(data);
    let cpus = 1 + dice.below(256) as u16;
    let pages = match dice.below(3) {
        0 => dice.below(0x400),
        1 => dice.below(0x10_0000),
        _ => 0xbff00 + dice.below(0x200),
    };
    let memory = pages << 12;
    let image = kernel();
    let kernel = Kernel { name: "kernel", image: &image, initrd: None, initrd_name: "", append: "", memory, cpus };
    let loaded = match load(&kernel) {
        Ok(loaded) => loaded,
        Err(error) => {
            let text = error.to_string();
            assert!(memory < 4 << 20 && !text.is_empty() && !text.contains('\n'), "{memory:#x}: {text}");
            return memory;
        }
    };
    let named = look(&loaded, memory, cpus);
    let mut board = Board::with_kernel(memory, cpus, loaded.items);
    let (mut now, mut digest, mut before) = (0u64, 0u64, 0);
    while !dice.is_spent() {
        now += dice.below(1 << 24) << dice.below(12);
        let place = match dice.below(3) {
            0 => named.status + dice.below(4) as u16,
            1 => named.control + dice.below(2) as u16,
            _ => named.timer + dice.below(4) as u16,
        };
        if dice.once_in(2) {
            let value = dice.below(0x100) as u32;
            let off = match board.io_out(place, 1, value, now) {
                None => false,
                Some(BusEvent::Stop(stop)) => {
                    assert_eq!(stop.kind, StopKind::PowerOff, "{stop:?}");
                    true
                }
                Some(other) => panic!("{other:?}"),
            };
            // SLP_EN with the sleep type of \_S5 switches off, and nothing else does.
            assert_eq!(off, place == named.control + 1 && value & 0x3c == 0x20, "{value:#x} to {place:#x}");
        } else {
            digest = digest.rotate_left(9) ^ u64::from(board.io_in(place, 1, now));
        }
        // The timer goes on by itself, in 24 bits, at 3.579545 MHz.
        let ticks = (u128::from(now) * 3_579_545 / 1_000_000_000) as u64;
        let told = board.io_in(named.timer, 4, now);
        assert_eq!(u64::from(told), ticks & 0xff_ffff, "the timer at {now}");
        assert!(ticks >= before);
        before = ticks;
        board.arrivals(now);
        assert!(board.deadline().is_none_or(|deadline| deadline > now), "at {now}");
    }
    match board.io_out(named.reset.0, 1, named.reset.1.into(), now) {
        Some(BusEvent::Stop(stop)) => assert_eq!(stop.kind, StopKind::Reset, "{stop:?}"),
        other => panic!("the reset register: {other:?}"),
    }
    digest ^ now
}

pub(super) fn target(data: &[u8]) {
    super::same_again(data, || run(data));
}
