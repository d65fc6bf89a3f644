//! The real-time clock and its CMOS memory. Every machine is switched on at the same second: midnight of 1 January 2026,
//! UTC; from there on time is instructions.

use super::CLOCK_HZ;

const DAYS_BEFORE: u64 = 20_454; // From 1 January 1970 to 1 January 2026.

const STATUS_A: u8 = 0x0a;
const STATUS_B: u8 = 0x0b;
const STATUS_C: u8 = 0x0c;
const STATUS_D: u8 = 0x0d;
const CENTURY: u8 = 0x32;

/// Status B: 24-hour mode.
const HOURS_24: u8 = 2;
/// Status B: binary, not BCD.
const BINARY: u8 = 4;

/// The clock and its memory.
#[derive(Debug)]
pub(super) struct Rtc {
    index: u8,
    cells: [u8; 128],
}

/// A moment in the calendar.
#[derive(PartialEq, Eq, Debug)]
struct Moment {
    year: u64,
    month: u8,
    day: u8,
    weekday: u8,
    hour: u8,
    minute: u8,
    second: u8,
}

impl Moment {
    /// `seconds` after 1 January 1970. The calendar is counted in eras of 400 years that begin in March.
    fn after_1970(seconds: u64) -> Self {
        let (days, rest) = (seconds / 86_400, seconds % 86_400);
        let shifted = days + 719_468;
        let (era, of_era) = (shifted / 146_097, shifted % 146_097);
        let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
        let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let march_month = (5 * of_year + 2) / 153;
        let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
        Self {
            year: year_of_era + era * 400 + u64::from(month <= 2),
            month: month as u8,
            day: (of_year - (153 * march_month + 2) / 5 + 1) as u8,
            weekday: ((days + 4) % 7) as u8 + 1,
            hour: (rest / 3_600) as u8,
            minute: (rest / 60 % 60) as u8,
            second: (rest % 60) as u8,
        }
    }
}

impl Rtc {
    /// With what firmware leaves in the memory: how much RAM there is.
    pub(super) fn new(memory: u64) -> Self {
        let mut cells = [0; 128];
        cells[usize::from(STATUS_A)] = 0x26;
        cells[usize::from(STATUS_B)] = HOURS_24;
        cells[usize::from(STATUS_D)] = 0x80;
        let mut word = |at: usize, value: u64| {
            let [low, high] = (value.min(0xffff) as u16).to_le_bytes();
            (cells[at], cells[at + 1]) = (low, high);
        };
        word(0x15, 640);
        word(0x17, memory.saturating_sub(1 << 20) >> 10);
        word(0x30, memory.saturating_sub(1 << 20) >> 10);
        word(0x34, memory.saturating_sub(16 << 20) >> 16);
        Self { index: 0, cells }
    }

    pub(super) fn write(&mut self, register: u16, value: u8) {
        match (register, self.index) {
            (0, _) => self.index = value & 0x7f,
            (_, STATUS_C | STATUS_D) => {}
            (_, index) => self.cells[usize::from(index)] = value,
        }
    }

    pub(super) fn read(&self, register: u16, now: u64) -> u8 {
        if register == 0 {
            return 0xff;
        }
        let moment = Moment::after_1970(DAYS_BEFORE * 86_400 + now / CLOCK_HZ);
        let value = match self.index {
            0 => moment.second,
            2 => moment.minute,
            4 => moment.hour,
            6 => moment.weekday,
            7 => moment.day,
            8 => moment.month,
            9 => (moment.year % 100) as u8,
            CENTURY => (moment.year / 100) as u8,
            STATUS_A => return self.cells[usize::from(STATUS_A)] & 0x7f,
            index => return self.cells[usize::from(index)],
        };
        let status = self.cells[usize::from(STATUS_B)];
        let (value, afternoon) = match (self.index, status & HOURS_24) {
            (4, 0) => ((value + 11) % 12 + 1, value >= 12),
            _ => (value, false),
        };
        let shown = if status & BINARY != 0 { value } else { ((value / 10) << 4) | (value % 10) };
        shown | u8::from(afternoon) << 7
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(seconds: u64, expected: (u64, u8, u8, u8, u8, u8, u8)) {
        let Moment { year, month, day, weekday, hour, minute, second } = Moment::after_1970(seconds);
        assert_eq!((year, month, day, weekday, hour, minute, second), expected);
    }

    #[test]
    fn the_calendar() {
        check(0, (1970, 1, 1, 5, 0, 0, 0));
        check(951_782_399, (2000, 2, 28, 2, 23, 59, 59));
        check(951_782_400, (2000, 2, 29, 3, 0, 0, 0));
        check(DAYS_BEFORE * 86_400, (2026, 1, 1, 5, 0, 0, 0));
        check(4_107_542_399, (2100, 2, 28, 1, 23, 59, 59));
        check(4_107_542_400, (2100, 3, 1, 2, 0, 0, 0));
    }

    fn read(rtc: &mut Rtc, index: u8, now: u64) -> u8 {
        rtc.write(0, index);
        rtc.read(1, now)
    }

    #[test]
    fn registers_are_bcd_or_binary_and_12_or_24_hours() {
        let mut rtc = Rtc::new(256 << 20);
        let afternoon = (13 * 3_600 + 45 * 60 + 59) * CLOCK_HZ;
        assert_eq!(read(&mut rtc, 9, 0), 0x26);
        assert_eq!(read(&mut rtc, CENTURY, 0), 0x20);
        assert_eq!([0, 2, 4].map(|index| read(&mut rtc, index, afternoon)), [0x59, 0x45, 0x13]);
        read(&mut rtc, STATUS_B, 0);
        rtc.write(1, BINARY);
        assert_eq!([0, 2, 4].map(|index| read(&mut rtc, index, afternoon)), [59, 45, 0x81]);
        assert_eq!(read(&mut rtc, 4, 0), 12);
        // 256 MiB less 16, in units of 64 KiB.
        assert_eq!(u16::from_le_bytes([0x34, 0x35].map(|index| read(&mut rtc, index, 0))), 3840);
    }
}
