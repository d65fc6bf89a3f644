//! The I/O APIC: 24 input pins, each with a redirection entry that says which interrupt it makes, and for whom.
//! See: Intel "82093AA I/O Advanced Programmable Interrupt Controller".

use super::message::{Destination, Kind, Message, Shorthand};
use serde::{Deserialize, Serialize};

/// Input pins.
pub(super) const PINS: usize = 24;

const SELECT: u16 = 0x00;
const WINDOW: u16 = 0x10;
/// The end of a level-triggered interrupt, by vector: what versions from 0x20 on have.
const END: u16 = 0x40;

const VERSION: u32 = (PINS as u32 - 1) << 16 | 0x20;

const REMOTE_IRR: u64 = 1 << 14;
const LEVEL: u64 = 1 << 15;
const MASKED: u64 = 1 << 16;
/// All but the delivery status and the remote IRR.
const WRITABLE: u64 = 0xff00_0000_0001_afff;

/// The I/O APIC.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Ioapic {
    id: u32,
    select: u8,
    /// Pins that are high.
    lines: u32,
    entries: [u64; PINS],
}

impl Ioapic {
    /// With the ID that firmware gives it.
    pub(super) fn new(id: u8) -> Self {
        Self { id: u32::from(id & 0xf) << 24, select: 0, lines: 0, entries: [MASKED; PINS] }
    }

    /// Whether nothing can come of a pin until the guest writes to its entry.
    pub(super) fn is_masked(&self, pin: u8) -> bool {
        self.entries.get(usize::from(pin)).is_none_or(|entry| entry & MASKED != 0)
    }

    /// Whether a pin can make an NMI or an INIT.
    pub(super) fn sends_nmis(&self) -> bool {
        self.entries.iter().any(|entry| entry & MASKED == 0 && matches!(entry >> 8 & 7, 4 | 5))
    }

    /// Sets a pin. Returns the interrupt that it makes.
    pub(super) fn set(&mut self, pin: u8, high: bool) -> Option<Message> {
        if usize::from(pin) >= PINS {
            return None;
        }
        let bit = 1 << pin;
        let was = self.lines & bit != 0;
        self.lines = if high { self.lines | bit } else { self.lines & !bit };
        let rises = high && !was;
        (rises || high && self.is_level(pin)).then(|| self.send(pin)).flatten()
    }

    fn is_level(&self, pin: u8) -> bool {
        self.entries[usize::from(pin)] & LEVEL != 0
    }

    /// The interrupt of a pin that is high, unless it is masked or not yet ended.
    fn send(&mut self, pin: u8) -> Option<Message> {
        let entry = &mut self.entries[usize::from(pin)];
        if *entry & MASKED != 0 || *entry & (LEVEL | REMOTE_IRR) == LEVEL | REMOTE_IRR {
            return None;
        }
        let level = *entry & LEVEL != 0;
        if level {
            *entry |= REMOTE_IRR;
        }
        let kind = match *entry >> 8 & 7 {
            0 => Kind::Fixed,
            1 => Kind::LowestPriority,
            4 => Kind::Nmi,
            5 => Kind::Init,
            _ => Kind::Other,
        };
        let to = Destination { id: (*entry >> 56) as u32, logical: *entry >> 11 & 1 != 0, wide: false };
        Some(Message { kind, vector: *entry as u8, level, to, shorthand: Shorthand::None })
    }

    /// A level-triggered interrupt has ended: pins that are still high interrupt again.
    pub(super) fn end(&mut self, vector: u8) -> Vec<Message> {
        let mut again = Vec::new();
        for pin in 0..PINS as u8 {
            let entry = &mut self.entries[usize::from(pin)];
            if *entry & (LEVEL | REMOTE_IRR) != LEVEL | REMOTE_IRR || *entry as u8 != vector {
                continue;
            }
            *entry &= !REMOTE_IRR;
            if self.lines >> pin & 1 != 0 {
                again.extend(self.send(pin));
            }
        }
        again
    }

    fn read_register(&self) -> u32 {
        match self.select {
            0 | 2 => self.id,
            1 => VERSION,
            index @ 0x10..=0x3f => {
                let entry = self.entries[usize::from((index - 0x10) >> 1)];
                (entry >> (u32::from(index & 1) * 32)) as u32
            }
            _ => 0,
        }
    }

    fn write_register(&mut self, value: u32) -> Option<Message> {
        match self.select {
            0 => self.id = value & 0x0f00_0000,
            index @ 0x10..=0x3f => {
                let pin = (index - 0x10) >> 1;
                let entry = &mut self.entries[usize::from(pin)];
                let shift = u32::from(index & 1) * 32;
                let permitted = WRITABLE & 0xffff_ffff << shift;
                *entry = *entry & !permitted | u64::from(value) << shift & permitted;
                if *entry & LEVEL == 0 {
                    *entry &= !REMOTE_IRR;
                } else if self.lines >> pin & 1 != 0 {
                    return self.send(pin);
                }
            }
            _ => {}
        }
        None
    }

    /// Reads the register at an offset of its page.
    pub(super) fn read(&self, offset: u16) -> u32 {
        match offset {
            SELECT => self.select.into(),
            WINDOW => self.read_register(),
            _ => 0,
        }
    }

    /// Writes the register at an offset of its page. Returns the interrupts that come of it.
    pub(super) fn write(&mut self, offset: u16, value: u32) -> Vec<Message> {
        match offset {
            SELECT => self.select = value as u8,
            WINDOW => return self.write_register(value).into_iter().collect(),
            END => return self.end(value as u8),
            _ => {}
        }
        Vec::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ioapic(pin: u8, entry: u64) -> Ioapic {
        let mut io = Ioapic::new(2);
        write(&mut io, 0x11 + pin * 2, (entry >> 32) as u32);
        write(&mut io, 0x10 + pin * 2, entry as u32);
        io
    }

    fn write(io: &mut Ioapic, register: u8, value: u32) -> Vec<Message> {
        io.write(SELECT, register.into());
        io.write(WINDOW, value)
    }

    fn read(io: &mut Ioapic, register: u8) -> u32 {
        io.write(SELECT, register.into());
        io.read(WINDOW)
    }

    #[test]
    fn registers() {
        let mut io = ioapic(3, 0xa100_0000_0000_5931);
        assert_eq!((read(&mut io, 0), read(&mut io, 1), read(&mut io, 2)), (2 << 24, 0x17_0020, 2 << 24));
        // The status bits are not written.
        assert_eq!((read(&mut io, 0x16), read(&mut io, 0x17)), (0x0931, 0xa100_0000));
        assert_eq!((read(&mut io, 0x10), read(&mut io, 0x3f), read(&mut io, 0x40)), (0x1_0000, 0, 0));
        write(&mut io, 0, 0xffff_ffff);
        assert_eq!(read(&mut io, 0), 0x0f00_0000);
    }

    #[test]
    fn an_edge_interrupts_once_and_is_lost_while_masked() {
        let mut io = ioapic(4, 0x0300_0000_0000_0824);
        let to = Destination { id: 3, logical: true, wide: false };
        assert_eq!(io.set(4, true), Some(Message::fixed(0x24, to)));
        assert_eq!((io.set(4, true), io.set(4, false)), (None, None));
        write(&mut io, 0x18, 0x1_0824);
        assert!(io.is_masked(4));
        assert_eq!(io.set(4, true), None);
        assert_eq!(write(&mut io, 0x18, 0x0824), []);
        assert_eq!(io.set(4, false), None);
        assert!(io.set(4, true).is_some());
        assert_eq!(io.set(24, true), None, "there is no such pin");
    }

    #[test]
    fn a_level_interrupts_until_it_is_low_and_waits_for_its_end() {
        let mut io = ioapic(9, 0x8039);
        let message =
            Message { level: true, ..Message::fixed(0x39, Destination { id: 0, logical: false, wide: false }) };
        assert_eq!(io.set(9, true), Some(message));
        assert_eq!(read(&mut io, 0x22), 0xc039);
        assert_eq!((io.set(9, true), io.end(0x38)), (None, vec![]));
        assert_eq!(io.end(0x39), [message]);
        assert_eq!((io.set(9, false), io.end(0x39)), (None, vec![]));
        assert_eq!(read(&mut io, 0x22), 0x8039);
        // One that is high while masked comes when it is unmasked; the end register does as the broadcast.
        write(&mut io, 0x22, 0x1_8039);
        assert_eq!(io.set(9, true), None);
        assert_eq!(write(&mut io, 0x22, 0x8039), [message]);
        assert_eq!(io.write(END, 0x39), [message]);
        write(&mut io, 0x22, 0x1_0039);
        assert_eq!(read(&mut io, 0x22), 0x1_0039, "an edge has no remote IRR");
    }

    #[test]
    fn delivery_modes() {
        let check = |mode: u64, kind| {
            let sent = ioapic(1, mode << 8 | 0x31).set(1, true).map(|message| message.kind);
            assert_eq!(sent, Some(kind), "{mode}");
        };
        for (mode, kind) in [
            (0, Kind::Fixed),
            (1, Kind::LowestPriority),
            (2, Kind::Other),
            (4, Kind::Nmi),
            (5, Kind::Init),
            (7, Kind::Other),
        ] {
            check(mode, kind);
        }
    }
}
