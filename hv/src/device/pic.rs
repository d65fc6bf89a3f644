//! The pair of 8259A interrupt controllers: lines 0 to 7 at the master, 8 to 15 at the slave, which sits on line 2.
//! Rotation of priorities and the polled mode are not here.

use serde::{Deserialize, Serialize};

/// The master's line that the slave is wired to.
const CASCADE: u8 = 2;
/// What a controller answers when the request has gone before it was acknowledged.
const SPURIOUS: u8 = 7;

/// Which initialisation word comes next.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
enum Awaits {
    #[default]
    Nothing,
    Word2,
    Word3,
    Word4,
}

/// One controller.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Pic {
    /// Input lines that are high.
    lines: u8,
    /// Requests, in service, masked.
    irr: u8,
    isr: u8,
    imr: u8,
    /// Lines that are level-triggered.
    level: u8,
    /// The first vector.
    base: u8,
    awaits: Awaits,
    wants_word4: bool,
    auto_eoi: bool,
    /// A read gives the in-service register rather than the requests.
    read_isr: bool,
    /// A line in service does not hold back the lower ones while it is masked.
    special_mask: bool,
}

impl Pic {
    fn set(&mut self, line: u8, high: bool) {
        let bit = 1 << line;
        if !high {
            self.lines &= !bit;
            if self.level & bit != 0 {
                self.irr &= !bit;
            }
        } else {
            if self.level & bit != 0 || self.lines & bit == 0 {
                self.irr |= bit;
            }
            self.lines |= bit;
        }
    }

    /// The line to serve next, if one outranks what is in service.
    fn next(&self) -> Option<u8> {
        let wanted = self.irr & !self.imr;
        let held = if self.special_mask { self.isr & !self.imr } else { self.isr };
        let line = wanted.trailing_zeros() as u8;
        (wanted != 0 && u32::from(line) < held.trailing_zeros()).then_some(line)
    }

    fn acknowledge(&mut self) -> u8 {
        let Some(line) = self.next() else { return SPURIOUS };
        let bit = 1 << line;
        if self.level & bit == 0 {
            self.irr &= !bit;
        }
        if !self.auto_eoi {
            self.isr |= bit;
        }
        line
    }

    fn command(&mut self, value: u8) {
        if value & 0x10 != 0 {
            *self = Self {
                lines: self.lines,
                level: self.level,
                awaits: Awaits::Word2,
                wants_word4: value & 1 != 0,
                ..Self::default()
            };
        } else if value & 8 != 0 {
            match value & 3 {
                2 => self.read_isr = false,
                3 => self.read_isr = true,
                _ => {}
            }
            match value & 0x60 {
                0x40 => self.special_mask = false,
                0x60 => self.special_mask = true,
                _ => {}
            }
        } else {
            match value >> 5 {
                // Of the highest in service, and of a given line; rotation is left out.
                1 | 5 => self.isr &= self.isr.wrapping_sub(1),
                3 | 7 => self.isr &= !(1 << (value & 7)),
                _ => {}
            }
        }
    }

    fn data(&mut self, value: u8) {
        self.awaits = match self.awaits {
            Awaits::Nothing => {
                self.imr = value;
                Awaits::Nothing
            }
            Awaits::Word2 => {
                self.base = value & 0xf8;
                Awaits::Word3
            }
            Awaits::Word3 if self.wants_word4 => Awaits::Word4,
            Awaits::Word3 => Awaits::Nothing,
            Awaits::Word4 => {
                self.auto_eoi = value & 2 != 0;
                Awaits::Nothing
            }
        };
    }
}

/// Both controllers.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Pics {
    master: Pic,
    slave: Pic,
}

impl Pics {
    fn set(&mut self, line: u8, high: bool) {
        if line < 8 {
            self.master.set(line, high);
        } else {
            self.slave.set(line & 7, high);
        }
        self.cascade();
    }

    /// The slave's output is the master's line.
    fn cascade(&mut self) {
        let wants = self.slave.next().is_some();
        self.master.set(CASCADE, wants);
        if !wants {
            self.master.irr &= !(1 << CASCADE);
        }
    }

    /// A line goes high.
    pub(super) fn raise(&mut self, line: u8) {
        self.set(line, true);
    }

    /// A line goes low.
    pub(super) fn lower(&mut self, line: u8) {
        self.set(line, false);
    }

    /// Whether nothing can come of a line until the guest writes to the controllers.
    pub(super) fn is_masked(&self, line: u8) -> bool {
        let master = if line < 8 { line } else { CASCADE };
        self.master.imr >> master & 1 != 0 || line >= 8 && self.slave.imr >> (line & 7) & 1 != 0
    }

    /// The vector that an acknowledge would give.
    pub(super) fn pending(&self) -> Option<u8> {
        let line = self.master.next()?;
        Some(if line == CASCADE {
            self.slave.base | self.slave.next().unwrap_or(SPURIOUS)
        } else {
            self.master.base | line
        })
    }

    /// The CPU takes the interrupt.
    pub(super) fn acknowledge(&mut self) {
        if self.master.acknowledge() == CASCADE {
            self.slave.acknowledge();
            self.cascade();
        }
    }

    pub(super) fn read(&self, port: u16) -> u8 {
        match port {
            0x4d0 => self.master.level,
            0x4d1 => self.slave.level,
            _ => {
                let pic = if port < 0xa0 { &self.master } else { &self.slave };
                match (port & 1, pic.read_isr) {
                    (1, _) => pic.imr,
                    (_, true) => pic.isr,
                    (_, false) => pic.irr,
                }
            }
        }
    }

    pub(super) fn write(&mut self, port: u16, value: u8) {
        match port {
            // The timer, the keyboard and the cascade are always edges; so are the clock and the FPU.
            0x4d0 => self.master.level = value & 0xf8,
            0x4d1 => self.slave.level = value & 0xde,
            0x20 => self.master.command(value),
            0x21 => self.master.data(value),
            0xa0 => self.slave.command(value),
            _ => self.slave.data(value),
        }
        self.cascade();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn linux() -> Pics {
        let mut pics = Pics::default();
        for (port, value) in [
            (0x20, 0x11),
            (0x21, 0x30),
            (0x21, 4),
            (0x21, 1),
            (0xa0, 0x11),
            (0xa1, 0x38),
            (0xa1, 2),
            (0xa1, 1),
            (0x21, 0),
            (0xa1, 0),
        ] {
            pics.write(port, value);
        }
        pics
    }

    /// Pulses `lines` and tells the vectors that are taken, each ended at once.
    fn check(mut pics: Pics, lines: &[u8], expected: &[u8]) {
        for line in lines {
            pics.raise(*line);
            pics.lower(*line);
        }
        let mut taken = Vec::new();
        while let Some(vector) = pics.pending() {
            taken.push(vector);
            pics.acknowledge();
            if vector >= 0x38 {
                pics.write(0xa0, 0x20);
            }
            pics.write(0x20, 0x20);
        }
        assert_eq!(taken, expected, "{lines:?}");
    }

    #[test]
    fn lower_lines_go_first_and_the_slave_by_line_2() {
        check(linux(), &[], &[]);
        check(linux(), &[4, 0], &[0x30, 0x34]);
        check(linux(), &[8], &[0x38]);
        check(linux(), &[4, 14, 8, 1], &[0x31, 0x38, 0x3e, 0x34]);
        check(linux(), &[4, 4], &[0x34]);
    }

    #[test]
    fn masks_and_service_hold_back() {
        let mut pics = linux();
        pics.write(0x21, 1);
        assert!(pics.is_masked(0) && !pics.is_masked(4));
        check(pics, &[0, 4], &[0x34]);
        let mut pics = linux();
        pics.raise(0);
        pics.lower(0);
        pics.acknowledge();
        pics.raise(4);
        assert_eq!(pics.pending(), None);
        pics.write(0x20, 0x0b);
        assert_eq!(pics.read(0x20), 1);
        pics.write(0x20, 0x60);
        assert_eq!(pics.pending(), Some(0x34));
    }

    #[test]
    fn a_level_asks_until_it_falls() {
        let mut pics = linux();
        pics.write(0x4d0, 0x20);
        pics.raise(5);
        pics.acknowledge();
        pics.write(0x20, 0x20);
        assert_eq!(pics.pending(), Some(0x35));
        pics.lower(5);
        assert_eq!(pics.pending(), None);
    }
}
