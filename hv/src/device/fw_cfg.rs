//! QEMU's firmware configuration device: a table of items, read byte by byte at a port or copied to memory by DMA.
//! See: QEMU "QEMU Firmware Configuration (fw_cfg) Device".

use crate::boot::{memory_map, ram_ranges};
use crate::l0::Ram;
use hv_defs::addr::{Gpa, PAGE_SIZE};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The selector; the data is at the port behind it, the DMA address four behind.
pub(crate) const PORT: u16 = 0x510;
/// Ports that the device has.
pub(crate) const PORTS: u8 = 12;
pub(super) const LAST_PORT: u16 = PORT + PORTS as u16 - 1;
const DATA_PORT: u16 = PORT + 1;
const DMA_HIGH: u16 = PORT + 4;
const DMA_LOW: u16 = PORT + 8;

/// The numbers of items.
pub(crate) mod item {
    pub(crate) const SIGNATURE: u16 = 0x00;
    pub(crate) const ID: u16 = 0x01;
    pub(crate) const UUID: u16 = 0x02;
    pub(crate) const RAM_SIZE: u16 = 0x03;
    pub(crate) const NO_GRAPHIC: u16 = 0x04;
    pub(crate) const CPUS: u16 = 0x05;
    pub(crate) const KERNEL_ADDRESS: u16 = 0x07;
    pub(crate) const KERNEL_SIZE: u16 = 0x08;
    pub(crate) const INITRD_ADDRESS: u16 = 0x0a;
    pub(crate) const INITRD_SIZE: u16 = 0x0b;
    pub(crate) const BOOT_DEVICE: u16 = 0x0c;
    pub(crate) const BOOT_MENU: u16 = 0x0e;
    pub(crate) const MAX_CPUS: u16 = 0x0f;
    pub(crate) const KERNEL_ENTRY: u16 = 0x10;
    pub(crate) const KERNEL_DATA: u16 = 0x11;
    pub(crate) const INITRD_DATA: u16 = 0x12;
    pub(crate) const COMMAND_LINE_ADDRESS: u16 = 0x13;
    pub(crate) const COMMAND_LINE_SIZE: u16 = 0x14;
    pub(crate) const COMMAND_LINE_DATA: u16 = 0x15;
    pub(crate) const SETUP_SIZE: u16 = 0x17;
    pub(crate) const SETUP_DATA: u16 = 0x18;
    pub(crate) const FILE_DIRECTORY: u16 = 0x19;
    pub(crate) const FIRST_FILE: u16 = 0x20;
    pub(crate) const IRQ0_OVERRIDE: u16 = 0x8002;
}

/// Features in the item `ID`: the port interface, and DMA.
const FEATURES: u32 = 3;
/// What the DMA address reads as.
const DMA_SIGNATURE: &[u8; 8] = b"QEMU CFG";
/// Bytes of a file's name in the directory, its zeroes counted.
const NAME: usize = 56;

// The control word of a DMA request.
const ERROR: u32 = 1;
const READ: u32 = 1 << 1;
const SKIP: u32 = 1 << 2;
const SELECT: u32 = 1 << 3;
const WRITE: u32 = 1 << 4;

/// Items that come with a kernel, by number.
pub(crate) type Items = Vec<(u16, Arc<[u8]>)>;

/// The device.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct FwCfg {
    /// What the machine was built with, which does not change: the items, and where RAM is, from and to.
    #[serde(skip)]
    items: BTreeMap<u16, Arc<[u8]>>,
    #[serde(skip)]
    ram: Vec<(u64, u64)>,
    selected: u16,
    offset: usize,
    dma_high: u32,
}

impl FwCfg {
    /// Takes the items of another, which does without them.
    pub(super) fn take_items(&mut self, from: Self) {
        (self.items, self.ram) = (from.items, from.ram);
    }

    /// For a machine of `memory` bytes and `cpus` CPUs, with a kernel's items.
    pub(super) fn new(memory: u64, cpus: u16, kernel: Items) -> Self {
        let mut items: BTreeMap<u16, Arc<[u8]>> = kernel.into_iter().collect();
        let mut put = |number, bytes: &[u8]| items.insert(number, bytes.into());
        put(item::SIGNATURE, b"QEMU");
        put(item::ID, &FEATURES.to_le_bytes());
        put(item::UUID, &[0; 16]);
        put(item::RAM_SIZE, &memory.to_le_bytes());
        put(item::NO_GRAPHIC, &1u16.to_le_bytes());
        put(item::CPUS, &cpus.to_le_bytes());
        put(item::MAX_CPUS, &cpus.to_le_bytes());
        put(item::BOOT_DEVICE, &0u16.to_le_bytes());
        put(item::BOOT_MENU, &0u16.to_le_bytes());
        put(item::IRQ0_OVERRIDE, &1u32.to_le_bytes());
        let files = [("etc/e820", memory_map(memory))];
        let mut directory = (files.len() as u32).to_be_bytes().to_vec();
        for (number, (name, bytes)) in (item::FIRST_FILE..).zip(files) {
            directory.extend((bytes.len() as u32).to_be_bytes());
            directory.extend(number.to_be_bytes());
            directory.extend([0; 2]);
            let end = directory.len() + NAME;
            directory.extend(name.bytes());
            directory.resize(end, 0);
            items.insert(number, bytes.into());
        }
        items.insert(item::FILE_DIRECTORY, directory.into());
        Self { items, ram: ram_ranges(memory), selected: 0, offset: 0, dma_high: 0 }
    }

    fn select(&mut self, number: u16) {
        (self.selected, self.offset) = (number, 0);
    }

    /// What is left of the selected item.
    fn rest(&self) -> &[u8] {
        self.items.get(&self.selected).and_then(|bytes| bytes.get(self.offset..)).unwrap_or(&[])
    }

    /// Reads `size` bytes from a port.
    pub(super) fn read(&mut self, port: u16, size: u8) -> u32 {
        match port {
            DATA_PORT | PORT if size == 1 => {
                let value = self.rest().first().copied().unwrap_or(0);
                self.offset = self.offset.saturating_add(1);
                value.into()
            }
            DMA_HIGH..=LAST_PORT => {
                let from = usize::from(port - DMA_HIGH);
                let bytes = core::array::from_fn(|byte| match DMA_SIGNATURE.get(from + byte) {
                    Some(value) if byte < usize::from(size) => *value,
                    _ => 0,
                });
                u32::from_le_bytes(bytes)
            }
            _ => 0,
        }
    }

    /// Writes `size` bytes to a port. Returns where the request lies that DMA is to carry out. Items cannot be written.
    pub(super) fn write(&mut self, port: u16, size: u8, value: u32) -> Option<Gpa> {
        match (port, size) {
            (PORT, 2) => self.select(value as u16),
            (DMA_HIGH, 4) => self.dma_high = value.swap_bytes(),
            (DMA_LOW, 4) => {
                let at = u64::from(self.dma_high) << 32 | u64::from(value.swap_bytes());
                self.dma_high = 0;
                return Some(Gpa(at));
            }
            _ => {}
        }
        None
    }

    /// Carries out the request at `at`: a control word, a length, an address, all big-endian. What became of it is written
    /// over the control word.
    pub(super) fn dma(&mut self, at: Gpa, ram: &mut dyn Ram) {
        let mut request = [0; 16];
        ram.read(at, &mut request);
        let word = |from: usize| u32::from_be_bytes([0, 1, 2, 3].map(|byte| request[from + byte]));
        let (control, length) = (word(0), word(4) as usize);
        let address = Gpa(u64::from(word(8)) << 32 | u64::from(word(12)));
        if control & SELECT != 0 {
            self.select((control >> 16) as u16);
        }
        let status = if control & READ != 0 {
            self.copy(address, length, ram);
            0
        } else if control & WRITE != 0 {
            ERROR
        } else {
            if control & SKIP != 0 {
                self.offset = self.offset.saturating_add(length);
            }
            0
        };
        ram.write(at, &status.to_be_bytes());
    }

    /// Copies an item to memory; behind its end come zeroes.
    fn copy(&mut self, to: Gpa, length: usize, ram: &mut dyn Ram) {
        let rest = self.rest();
        let count = length.min(rest.len());
        if count > 0 {
            ram.write(to, &rest[..count]);
        }
        self.zero(Gpa(to.0.wrapping_add(count as u64)), (length - count) as u64, ram);
        self.offset = self.offset.saturating_add(length);
    }

    /// Writes zeroes, page by page, where there is RAM: a guest may ask for 4 GiB of them where there is none.
    fn zero(&self, at: Gpa, length: u64, ram: &mut dyn Ram) {
        const ZEROES: [u8; PAGE_SIZE as usize] = [0; PAGE_SIZE as usize];
        // What does not fit below the last address goes on at the first.
        let (end, over) = match at.0.overflowing_add(length) {
            (end, false) => (end, 0),
            (over, true) => (u64::MAX, over),
        };
        for (from, to) in [(at.0, end), (0, over)] {
            for (first, last) in &self.ram {
                let (mut next, to) = (from.max(*first), to.min(*last));
                while next < to {
                    let count = (to - next).min(PAGE_SIZE - next % PAGE_SIZE);
                    ram.write(Gpa(next), &ZEROES[..count as usize]);
                    next += count;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RAM from address 0.
    struct Flat(Vec<u8>);

    impl Ram for Flat {
        fn read(&mut self, at: Gpa, into: &mut [u8]) {
            into.copy_from_slice(&self.0[at.0 as usize..][..into.len()]);
        }

        fn write(&mut self, at: Gpa, bytes: &[u8]) {
            self.0[at.0 as usize..][..bytes.len()].copy_from_slice(bytes);
        }
    }

    fn device() -> FwCfg {
        FwCfg::new(256 << 20, 3, vec![(item::COMMAND_LINE_DATA, b"quiet\0".as_slice().into())])
    }

    fn check(number: u16, expected: &[u8]) {
        // By the port, with a zero behind the end.
        let mut device = device();
        assert_eq!(device.write(PORT, 2, number.into()), None);
        let got: Vec<u8> = (0..=expected.len()).map(|_| device.read(DATA_PORT, 1) as u8).collect();
        assert_eq!(got, [expected, &[0]].concat(), "item {number:#x} by the port");
        // By DMA, with two zeroes behind the end.
        let mut ram = Flat(vec![0xaa; 0x2000]);
        let length = expected.len() as u32 + 2;
        for (at, word) in (0x40..).step_by(4).zip([u32::from(number) << 16 | SELECT | READ, length, 0, 0x100]) {
            ram.write(Gpa(at), &word.to_be_bytes());
        }
        assert_eq!(device.write(DMA_HIGH, 4, 0), None);
        let request = device.write(DMA_LOW, 4, 0x40u32.swap_bytes());
        assert_eq!(request, Some(Gpa(0x40)));
        device.dma(Gpa(0x40), &mut ram);
        assert_eq!(ram.0[0x40..0x44], [0; 4]);
        assert_eq!(ram.0[0x100..][..expected.len() + 3], [expected, &[0, 0, 0xaa]].concat(), "item {number:#x} by DMA");
    }

    #[test]
    fn items_by_both_interfaces() {
        check(item::SIGNATURE, b"QEMU");
        check(item::ID, &[3, 0, 0, 0]);
        check(item::RAM_SIZE, &(256u64 << 20).to_le_bytes());
        check(item::CPUS, &[3, 0]);
        check(item::MAX_CPUS, &[3, 0]);
        check(item::COMMAND_LINE_DATA, b"quiet\0");
        check(0x7777, b"");
        let row =
            |from: u64, length: u64| [&from.to_le_bytes()[..], &length.to_le_bytes(), &1u32.to_le_bytes()].concat();
        check(item::FIRST_FILE, &row(0, 256 << 20));
        let mut directory = vec![0, 0, 0, 1, 0, 0, 0, 20, 0, 0x20, 0, 0];
        directory.extend(b"etc/e820");
        directory.resize(4 + 64, 0);
        check(item::FILE_DIRECTORY, &directory);
    }

    /// RAM that only counts.
    #[derive(Default)]
    struct Counted {
        calls: u64,
        bytes: u64,
        request: Vec<u8>,
    }

    impl Ram for Counted {
        fn read(&mut self, _: Gpa, into: &mut [u8]) {
            into.copy_from_slice(&self.request);
        }

        fn write(&mut self, _: Gpa, bytes: &[u8]) {
            self.calls += 1;
            self.bytes += bytes.len() as u64;
        }
    }

    #[test]
    fn zeroes_are_written_where_there_is_ram_alone() {
        // 4 GiB less a byte of an item that is not there, of which 16 bytes are the request's; RAM is 256 MiB.
        let check = |to: u64, expected: u64| {
            let words = [0x7777_0000 | SELECT | READ, u32::MAX, (to >> 32) as u32, to as u32];
            let request = words.into_iter().flat_map(u32::to_be_bytes).collect();
            let mut ram = Counted { request, ..Counted::default() };
            device().dma(Gpa(0x40), &mut ram);
            assert_eq!(ram.bytes, expected + 4, "to {to:#x}");
            assert!(ram.calls <= 2 + expected.div_ceil(PAGE_SIZE) + 1, "{} calls to {to:#x}", ram.calls);
        };
        check(0, 256 << 20);
        check((256 << 20) - 5, 5);
        check(256 << 20, 0);
        check(1 << 40, 0);
        check(u64::MAX - 0xff, 256 << 20);
        check(u64::MAX - 0xffff_ffff + 0x1800, 0x17ff);
    }

    #[test]
    fn dma_skips_refuses_to_write_and_says_that_it_is_there() {
        let mut device = device();
        let mut request = |control: u32, length: u32| {
            let mut ram = Flat(vec![0xaa; 0x40]);
            for (at, word) in (0..).step_by(4).zip([control, length, 0, 0x20]) {
                ram.write(Gpa(at), &word.to_be_bytes());
            }
            device.dma(Gpa(0), &mut ram);
            (ram.0[3], ram.0[0x20])
        };
        assert_eq!(request(SELECT | SKIP, 2), (0, 0xaa));
        assert_eq!(request(READ, 1), (0, b'M'));
        assert_eq!(request(WRITE, 1), (1, 0xaa));
        assert_eq!([device.read(DMA_HIGH, 4), device.read(DMA_LOW, 4)].map(u32::to_le_bytes).concat(), b"QEMU CFG");
    }
}
