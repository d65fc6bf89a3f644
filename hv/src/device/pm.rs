//! Power management: the PM1 event and control blocks and the PM timer of ACPI's fixed hardware, at the ports and with the
//! sleep type that QEMU's PIIX4 has. See: "Advanced Configuration and Power Interface Specification", "Fixed Hardware
//! Registers".

use super::CLOCK_HZ;
use serde::{Deserialize, Serialize};

/// The PM1 event block: two bytes of status, two of enables.
pub(crate) const EVENT_PORT: u16 = 0x600;
/// The PM1 control block: two bytes.
pub(crate) const CONTROL_PORT: u16 = 0x604;
/// The PM timer: four bytes.
pub(crate) const TIMER_PORT: u16 = 0x608;
/// The last of the ports.
pub(super) const LAST_PORT: u16 = TIMER_PORT + 3;
/// The interrupt line of all of it, level-triggered.
pub(crate) const SCI_LINE: u8 = 9;
/// The sleep type that switches the machine off.
pub(crate) const SLEEP_TYPE_OFF: u8 = 0;

const TICK_HZ: u64 = 3_579_545;
/// Bits of the timer; its highest is what changes with an event.
const TIMER_BITS: u32 = 24;

/// Status and enable: the timer's highest bit changed.
const TIMER: u16 = 1;
/// Enables that may be set: the timer's, the global lock's, the buttons' and the clock's, of which all but the first come
/// to nothing.
const ENABLES: u16 = 0x0721;
/// Control: interrupts are SCIs, as they are from the start.
const SCI_ENABLE: u16 = 1;
/// Control: bus masters may wake, and the global lock's release. They are kept.
const KEPT: u16 = 0x1c02;
const SLEEP_ENABLE: u16 = 1 << 13;

/// The registers.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Pm {
    enables: u16,
    control: u16,
    /// Changes of the timer's highest bit up to which the guest has cleared the status.
    seen: u64,
}

fn ticks(now: u64) -> u64 {
    (u128::from(now) * u128::from(TICK_HZ) / u128::from(CLOCK_HZ)) as u64
}

/// How often the timer's highest bit has changed.
fn changes(now: u64) -> u64 {
    ticks(now) >> (TIMER_BITS - 1)
}

impl Pm {
    fn status(&self, now: u64) -> u16 {
        if changes(now) > self.seen { TIMER } else { 0 }
    }

    /// Whether the interrupt line is high.
    pub(super) fn line(&self, now: u64) -> bool {
        self.enables & TIMER != 0 && self.status(now) != 0
    }

    /// When the line goes high by itself next; `None` when it will not.
    pub(super) fn deadline(&self) -> Option<u64> {
        let ticks = (self.seen + 1) << (TIMER_BITS - 1);
        let at = (u128::from(ticks) * u128::from(CLOCK_HZ)).div_ceil(u128::from(TICK_HZ)) as u64;
        (self.enables & TIMER != 0).then_some(at)
    }

    pub(super) fn read(&self, port: u16, now: u64) -> u8 {
        let timer = ticks(now) as u32 & ((1 << TIMER_BITS) - 1);
        let [status, enables, control] =
            [self.status(now), self.enables, self.control | SCI_ENABLE].map(u16::to_le_bytes);
        match port {
            EVENT_PORT | 0x601 => status[usize::from(port - EVENT_PORT)],
            0x602 | 0x603 => enables[usize::from(port - 0x602)],
            CONTROL_PORT | 0x605 => control[usize::from(port - CONTROL_PORT)],
            TIMER_PORT..=LAST_PORT => timer.to_le_bytes()[usize::from(port - TIMER_PORT)],
            _ => 0,
        }
    }

    /// Returns whether the machine is switched off.
    pub(super) fn write(&mut self, port: u16, value: u8, now: u64) -> bool {
        let half = |old: u16, at: u16| {
            let mut bytes = old.to_le_bytes();
            bytes[usize::from(at)] = value;
            u16::from_le_bytes(bytes)
        };
        match port {
            EVENT_PORT if u16::from(value) & TIMER != 0 => self.seen = changes(now),
            0x602 | 0x603 => self.enables = half(self.enables, port - 0x602) & ENABLES,
            CONTROL_PORT | 0x605 => {
                let control = half(self.control, port - CONTROL_PORT);
                self.control = control & KEPT;
                let sleep_type = (control >> 10 & 7) as u8;
                return control & SLEEP_ENABLE != 0 && sleep_type == SLEEP_TYPE_OFF;
            }
            _ => {}
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The moment of the timer's first tick of that number.
    fn at(ticks: u64) -> u64 {
        (ticks * CLOCK_HZ).div_ceil(TICK_HZ)
    }

    fn read(pm: &Pm, port: u16, bytes: u16, now: u64) -> u32 {
        (0..bytes).map(|byte| u32::from(pm.read(port + byte, now)) << (8 * byte)).sum()
    }

    #[test]
    fn the_timer_counts_24_bits() {
        let pm = Pm::default();
        let check = |ticks: u64, expected: u32| assert_eq!(read(&pm, TIMER_PORT, 4, at(ticks)), expected);
        check(0, 0);
        check(3_579_545, 3_579_545);
        check(0xff_ffff, 0xff_ffff);
        check(0x100_0005, 5);
    }

    #[test]
    fn the_highest_bit_interrupts_when_enabled() {
        let mut pm = Pm::default();
        let half = at(0x80_0000);
        assert_eq!((read(&pm, EVENT_PORT, 2, half - 1), read(&pm, EVENT_PORT, 2, half)), (0, 1));
        assert_eq!((pm.line(half), pm.deadline()), (false, None));
        pm.write(0x602, 1, 0);
        assert_eq!(pm.deadline(), Some(half));
        assert_eq!((pm.line(half - 1), pm.line(half)), (false, true));
        pm.write(EVENT_PORT, 1, half);
        assert_eq!((pm.line(half), pm.deadline()), (false, Some(at(0x100_0000))));
    }

    #[test]
    fn only_sleep_type_0_with_its_enable_switches_off() {
        let mut pm = Pm::default();
        let mut check = |control: u16, expected: bool| {
            let [low, high] = control.to_le_bytes();
            assert!(!pm.write(CONTROL_PORT, low, 0));
            assert_eq!(pm.write(0x605, high, 0), expected, "{control:#x}");
        };
        check(0, false);
        check(0x0001, false);
        check(0x2400, false);
        check(0x2000, true);
        check(0x2001, true);
        assert_eq!(read(&pm, CONTROL_PORT, 2, 0), 1, "always in ACPI mode");
    }
}
