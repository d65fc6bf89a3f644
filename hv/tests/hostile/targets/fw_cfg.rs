//! The firmware configuration device, by its ports and by DMA from requests of any content. A model of the device stands beside
//! it: a table of items, a selector and an offset. What DMA touches is what the request names, and it does no more work for a
//! request than there is RAM.

use super::super::dice::Dice;
use hv::device::Board;
use hv::l0::{Bus, BusEvent, Ram};
use hv_defs::addr::Gpa;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Bytes of RAM: from 0.
const MEMORY: u64 = 64 << 10;
/// Calls of one request's at most: its own two, and its bytes page by page.
const CALLS: u64 = 2 + 2 * (MEMORY / 4096) + 8;

/// The guest's memory, with what was done to it.
struct Guest {
    bytes: Vec<u8>,
    calls: u64,
    /// Where the last request may write.
    allowed: Vec<(u64, u64)>,
}

impl Ram for Guest {
    fn read(&mut self, at: Gpa, into: &mut [u8]) {
        self.calls += 1;
        for (offset, byte) in (0..).zip(into) {
            *byte = self.bytes.get(at.0.wrapping_add(offset) as usize).copied().unwrap_or(0xff);
        }
    }

    fn write(&mut self, at: Gpa, bytes: &[u8]) {
        self.calls += 1;
        assert!(self.calls <= CALLS, "a request works without end");
        let inside = |from: u64, length: u64| {
            let offset = at.0.wrapping_sub(from);
            offset <= length && bytes.len() as u64 <= length - offset
        };
        assert!(
            self.allowed.iter().any(|&(from, length)| inside(from, length)),
            "{} bytes at {:#x}",
            bytes.len(),
            at.0
        );
        for (offset, byte) in (0..).zip(bytes) {
            if let Some(to) = self.bytes.get_mut(at.0.wrapping_add(offset) as usize) {
                *to = *byte;
            }
        }
    }
}

/// What the device is said to be.
struct Model {
    items: BTreeMap<u16, Vec<u8>>,
    selected: u16,
    offset: u64,
}

impl Model {
    fn next(&mut self) -> u8 {
        let item = self.items.get(&self.selected);
        let byte = item.and_then(|bytes| bytes.get(usize::try_from(self.offset).ok()?)).copied();
        self.offset = self.offset.saturating_add(1);
        byte.unwrap_or(0)
    }

    fn select(&mut self, number: u16) {
        (self.selected, self.offset) = (number, 0);
    }
}

/// The items that a kernel's loader gives, some of them long.
fn items() -> Vec<(u16, Arc<[u8]>)> {
    let long: Vec<u8> = (0..0x3005u32).map(|number| ((number * 7) >> 3) as u8).collect();
    vec![(0x11, long.into()), (0x15, b"quiet\0".as_slice().into()), (0x12, vec![0x5a; 4096].into()), (0x18, [].into())]
}

/// The items by the port alone, which is how the model learns what the device itself adds.
fn learned() -> BTreeMap<u16, Vec<u8>> {
    let mut items: BTreeMap<u16, Vec<u8>> =
        items().into_iter().map(|(number, bytes)| (number, bytes.to_vec())).collect();
    let mut board = Board::with_kernel(MEMORY, 2, self::items());
    for (number, length) in [(0, 4), (1, 4), (2, 16), (3, 8), (4, 2), (5, 2), (0xc, 2), (0xe, 2), (0xf, 2), (0x8002, 4)]
    {
        board.io_out(0x510, 2, number, 0);
        items.insert(number as u16, (0..length).map(|_| board.io_in(0x511, 1, 0) as u8).collect());
    }
    // The directory, and the one file that is in it: the memory map.
    board.io_out(0x510, 2, 0x19, 0);
    let directory: Vec<u8> = (0..68).map(|_| board.io_in(0x511, 1, 0) as u8).collect();
    let length = u32::from_be_bytes([4, 5, 6, 7].map(|at: usize| directory[at]));
    board.io_out(0x510, 2, 0x20, 0);
    items.insert(0x20, (0..length).map(|_| board.io_in(0x511, 1, 0) as u8).collect());
    items.insert(0x19, directory);
    items
}

fn run(data: &[u8]) -> u64 {
    let mut dice = Dice::of(data);
    let mut board = Board::with_kernel(MEMORY, 2, items());
    let mut model = Model { items: learned(), selected: 0, offset: 0 };
    let mut ram = Guest { bytes: vec![0xaa; MEMORY as usize], calls: 0, allowed: Vec::new() };
    let mut high = 0u32;
    for _ in 0..200 {
        if dice.is_spent() {
            break;
        }
        match dice.below(8) {
            0 => {
                let number = if dice.once_in(4) { dice.below(0x1_0000) } else { dice.below(0x22) } as u16;
                board.io_out(0x510, 2, number.into(), 0);
                model.select(number);
            }
            1 => {
                for _ in 0..dice.below(40) {
                    let port = dice.pick(&[0x511, 0x510]);
                    assert_eq!(board.io_in(port, 1, 0), u32::from(model.next()), "item {:#x}", model.selected);
                }
            }
            2 => {
                // Reads of another width, or elsewhere: zeros, or the signature, and nothing moves.
                let (port, size) = (0x510 + dice.below(12) as u16, dice.pick(&[1u8, 2, 4]));
                if port > 0x511 || size != 1 {
                    let value = board.io_in(port, size, 0);
                    assert!(size == 4 || value >> (8 * size) == 0, "{value:#x} in {size} bytes");
                }
            }
            3 => {
                // Writes that are none of the device's.
                let (port, size) = (0x510 + dice.below(12) as u16, dice.pick(&[1u8, 2, 4]));
                if !matches!((port, size), (0x510, 2) | (0x514 | 0x518, 4)) {
                    assert_eq!(board.io_out(port, size, dice.below(1 << 32) as u32, 0), None);
                }
            }
            4 => {
                high = if dice.once_in(3) { dice.below(4) as u32 } else { 0 };
                assert_eq!(board.io_out(0x514, 4, high.swap_bytes(), 0), None);
            }
            _ => {
                let at = request(&mut dice, &mut ram);
                let told = board.io_out(0x518, 4, (at as u32).swap_bytes(), 0);
                let at = u64::from(core::mem::take(&mut high)) << 32 | at;
                assert_eq!(told, Some(BusEvent::Dma(Gpa(at))));
                carry_out(&mut board, &mut model, &mut ram, at);
            }
        }
    }
    ram.bytes.chunks_exact(8).fold(model.offset, |sum, word| {
        let word = u64::from_le_bytes(word.try_into().expect("8 bytes"));
        (sum.rotate_left(5) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    })
}

/// Puts a request somewhere, unless it is to be whatever lies there. Returns its address below 4 GiB.
fn request(dice: &mut Dice, ram: &mut Guest) -> u64 {
    let at = match dice.below(4) {
        0 => dice.below(1 << 32),
        1 => MEMORY - dice.below(20),
        _ => dice.below(0x100) * 16,
    };
    let length = match dice.below(4) {
        0 => dice.below(1 << 32),
        1 => dice.below(0x1_0000),
        _ => dice.below(0x100),
    } as u32;
    let to = match dice.below(6) {
        0 => dice.roll(),
        1 => at.wrapping_add(dice.below(16)),
        2 => MEMORY - dice.below(0x2000),
        3 => u64::MAX - dice.below(0x100),
        _ => dice.below(MEMORY),
    };
    let control = if dice.once_in(4) { dice.below(1 << 32) } else { dice.below(0x22) << 16 | dice.below(32) } as u32;
    let words = [control, length, (to >> 32) as u32, to as u32];
    for (offset, byte) in (0..).zip(words.into_iter().flat_map(u32::to_be_bytes)) {
        if let Some(place) = ram.bytes.get_mut(at as usize + offset) {
            *place = byte;
        }
    }
    at
}

/// Has the board carry the request at `at` out, and compares.
fn carry_out(board: &mut Board, model: &mut Model, ram: &mut Guest, at: u64) {
    let mut request = [0; 16];
    ram.read(Gpa(at), &mut request);
    let word = |from: usize| u32::from_be_bytes([0, 1, 2, 3].map(|byte| request[from + byte]));
    let (control, length, to) = (word(0), u64::from(word(4)), u64::from(word(8)) << 32 | u64::from(word(12)));
    (ram.calls, ram.allowed) = (0, vec![(at, 4)]);
    if control & 8 != 0 {
        model.select((control >> 16) as u16);
    }
    let reads = control & 2 != 0;
    if reads {
        ram.allowed.push((to, length));
    }
    let first = model.offset;
    board.dma(Gpa(at), ram);
    assert!(ram.calls <= CALLS, "{} calls", ram.calls);
    // What was copied is the item, as far as it is in RAM and the status was not written over it.
    if reads {
        let item = model.items.get(&model.selected).cloned().unwrap_or_default();
        for offset in 0..length.min(0x4000) {
            let place = to.wrapping_add(offset);
            let status = (0..4).any(|byte| at.wrapping_add(byte) == place);
            let (Some(got), false) = (ram.bytes.get(place as usize), status) else { continue };
            let wanted = usize::try_from(first + offset).ok().and_then(|from| item.get(from)).copied().unwrap_or(0);
            assert_eq!(*got, wanted, "byte {offset} of item {:#x} from {first:#x} on", model.selected);
        }
        model.offset = model.offset.saturating_add(length);
    } else if control & 0x10 == 0 && control & 4 != 0 {
        model.offset = model.offset.saturating_add(length);
    }
    let status = if !reads && control & 0x10 != 0 { 1u8 } else { 0 };
    if let Some(got) = ram.bytes.get(at as usize + 3) {
        assert_eq!(*got, status, "the status of {control:#x}");
    }
}

pub(super) fn target(data: &[u8]) {
    super::same_again(data, || run(data));
}
