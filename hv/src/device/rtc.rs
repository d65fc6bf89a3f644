//! The real-time clock and its CMOS memory. Every machine is switched on at the same second: midnight of 1 January 2026,
//! UTC; from there on time is instructions, unless the guest sets the clock. Interrupts come at a rate, at the alarm and
//! after each second.

use super::CLOCK_HZ;
use serde::{Deserialize, Serialize};

const DAYS_BEFORE: u64 = 20_454; // From 1 January 1970 to 1 January 2026.
const DAY: u64 = 86_400;

const SECONDS: u8 = 0;
const SECONDS_ALARM: u8 = 1;
const MINUTES: u8 = 2;
const MINUTES_ALARM: u8 = 3;
const HOURS: u8 = 4;
const HOURS_ALARM: u8 = 5;
const WEEKDAY: u8 = 6;
const DAY_OF_MONTH: u8 = 7;
const MONTH: u8 = 8;
const YEAR: u8 = 9;
const STATUS_A: u8 = 0x0a;
const STATUS_B: u8 = 0x0b;
const STATUS_C: u8 = 0x0c;
const STATUS_D: u8 = 0x0d;
const CENTURY: u8 = 0x32;

/// Status A: the time is about to change, for so long before it does.
const UPDATE_IN_PROGRESS: u8 = 0x80;
const UPDATE_TAKES: u64 = CLOCK_HZ / 1_000_000 * 244;
/// Status A: the rate of the periodic interrupt.
const RATE: u8 = 0x0f;
/// Status A as firmware leaves it: the divider for its crystal, 1024 Hz.
const STATUS_A_AT_START: u8 = 0x26;
const CRYSTAL_HZ: u64 = 32_768;

// Status B: 24-hour mode; binary, not BCD; interrupts enabled; the time stands still to be set.
const HOURS_24: u8 = 2;
const BINARY: u8 = 4;
const INTERRUPTS: u8 = UPDATED | ALARM | PERIODIC;
const SET: u8 = 0x80;

// Status C, and enables in status B: an update, the alarm, the rate.
const UPDATED: u8 = 0x10;
const ALARM: u8 = 0x20;
const PERIODIC: u8 = 0x40;
/// Status C: the interrupt line is high.
const INTERRUPT: u8 = 0x80;

/// Status D: the battery is good.
const VALID: u8 = 0x80;
/// An alarm cell from here on means "any".
const ANY: u8 = 0xc0;

/// The clock and its memory.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Rtc {
    index: u8,
    #[serde(with = "crate::stored::bytes")]
    cells: [u8; 128],
    /// Seconds that the guest has set the clock forward.
    offset: i64,
    /// What status C has to tell.
    flags: u8,
    /// The moment up to which `flags` is right.
    seen: u64,
    /// When the line goes high by itself next.
    next: Option<u64>,
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

    /// The second after 1 January 1970 that it is.
    fn seconds(&self) -> i64 {
        let (month, day) = (i64::from(self.month), i64::from(self.day));
        let year = self.year as i64 - i64::from(month <= 2);
        let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
        let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
        let days = era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468;
        days * DAY as i64 + i64::from(self.hour) * 3_600 + i64::from(self.minute) * 60 + i64::from(self.second)
    }
}

impl Rtc {
    /// With what firmware leaves in the memory: how much RAM there is, and how many CPUs.
    pub(super) fn new(memory: u64, cpus: u16) -> Self {
        let mut cells = [0; 128];
        cells[usize::from(STATUS_A)] = STATUS_A_AT_START;
        cells[usize::from(STATUS_B)] = HOURS_24;
        cells[usize::from(STATUS_D)] = VALID;
        let low = memory.min(crate::l0::LOW_RAM_LIMIT);
        let mut word = |at: usize, value: u64| {
            let [first, second] = (value.min(0xffff) as u16).to_le_bytes();
            (cells[at], cells[at + 1]) = (first, second);
        };
        word(0x15, 640);
        word(0x17, low.saturating_sub(1 << 20) >> 10);
        word(0x30, low.saturating_sub(1 << 20) >> 10);
        word(0x34, low.saturating_sub(16 << 20) >> 16);
        let [first, second, third, ..] = ((memory - low) >> 16).to_le_bytes();
        cells[0x5b..0x5e].copy_from_slice(&[first, second, third]);
        // Equipment: a coprocessor.
        cells[0x14] = 2;
        cells[0x5f] = (cpus - 1).min(0xff) as u8;
        Self { index: 0, cells, offset: 0, flags: 0, seen: 0, next: None }
    }

    fn cell(&self, index: u8) -> u8 {
        self.cells[usize::from(index)]
    }

    fn status_b(&self) -> u8 {
        self.cell(STATUS_B)
    }

    /// Seconds after 1 January 1970 at `now`.
    fn time(&self, now: u64) -> u64 {
        (DAYS_BEFORE * DAY + now / CLOCK_HZ).saturating_add_signed(self.offset)
    }

    /// Whether the interrupt line is high.
    pub(super) fn line(&self) -> bool {
        self.flags & self.status_b() & INTERRUPTS != 0
    }

    /// When the line goes high by itself next; `None` when it will not.
    pub(super) fn deadline(&self) -> Option<u64> {
        self.next
    }

    /// Carries the clock on to `now`.
    pub(super) fn advance(&mut self, now: u64) {
        if self.next.is_some_and(|next| next <= now) {
            self.gather(now);
            self.plan();
        }
    }

    /// Ticks of the periodic interrupt up to `now`; `None` when it is off.
    fn ticks(&self, now: u64) -> Option<u64> {
        let crystal = (u128::from(now) * u128::from(CRYSTAL_HZ) / u128::from(CLOCK_HZ)) as u64;
        Some(crystal >> self.shift()?)
    }

    /// Each tick takes two to this many of the crystal's.
    fn shift(&self) -> Option<u32> {
        match self.cell(STATUS_A) & RATE {
            0 => None,
            // The two highest rates that can be written are not the ones that they would be.
            rate @ 1..=2 => Some(u32::from(rate) + 6),
            rate => Some(u32::from(rate) - 1),
        }
    }

    /// Finds what happened since it was last asked.
    fn gather(&mut self, now: u64) {
        if self.ticks(now) > self.ticks(self.seen) {
            self.flags |= PERIODIC;
        }
        if self.status_b() & SET == 0 && now / CLOCK_HZ > self.seen / CLOCK_HZ {
            self.flags |= UPDATED;
            if self.next_alarm().is_some_and(|alarm| alarm <= now) {
                self.flags |= ALARM;
            }
        }
        self.seen = now;
    }

    /// The first moment after `seen` that the alarm's cells describe.
    fn next_alarm(&self) -> Option<u64> {
        let cells = [HOURS_ALARM, MINUTES_ALARM, SECONDS_ALARM].map(|index| self.cell(index));
        let wanted = |value: u64, cell: u8, hour: bool| cell >= ANY || value == u64::from(self.meant(cell, hour));
        let from = self.time(self.seen);
        // By seconds within minutes that match, by minutes within hours that do.
        let (mut ahead, mut passed) = (1, 0);
        while ahead <= DAY + 3_600 {
            let second = (from + ahead) % DAY;
            let step = if !wanted(second / 3_600, cells[0], true) {
                3_600 - second % 3_600
            } else if !wanted(second / 60 % 60, cells[1], false) {
                60 - second % 60
            } else if !wanted(second % 60, cells[2], false) {
                1
            } else {
                return Some((self.seen / CLOCK_HZ + ahead) * CLOCK_HZ);
            };
            ahead += step;
            passed += 1;
            debug_assert!(passed < 300);
        }
        None
    }

    /// Finds when the line goes high by itself next.
    fn plan(&mut self) {
        let waits = self.status_b() & INTERRUPTS & !self.flags;
        let runs = self.status_b() & SET == 0;
        let update = (waits & UPDATED != 0 && runs).then(|| (self.seen / CLOCK_HZ + 1) * CLOCK_HZ);
        let alarm = if waits & ALARM != 0 && runs { self.next_alarm() } else { None };
        let tick = match (waits & PERIODIC, self.ticks(self.seen), self.shift()) {
            (PERIODIC, Some(ticks), Some(shift)) => {
                let crystal = u128::from((ticks + 1) << shift);
                Some((crystal * u128::from(CLOCK_HZ)).div_ceil(u128::from(CRYSTAL_HZ)) as u64)
            }
            _ => None,
        };
        let soonest = [update, alarm, tick].into_iter().flatten().min();
        self.next = soonest.filter(|_| !self.line());
    }

    /// How a number is shown in a cell.
    fn shown(&self, value: u8, hour: bool) -> u8 {
        let status = self.status_b();
        let (value, afternoon) = match hour && status & HOURS_24 == 0 {
            true => ((value + 11) % 12 + 1, value >= 12),
            false => (value, false),
        };
        let shown = if status & BINARY != 0 { value } else { ((value / 10) << 4) | (value % 10) };
        shown | u8::from(afternoon) << 7
    }

    /// The number that a cell means.
    fn meant(&self, cell: u8, hour: bool) -> u8 {
        let status = self.status_b();
        let half_days = hour && status & HOURS_24 == 0;
        let digits = if half_days { cell & 0x7f } else { cell };
        let value = if status & BINARY != 0 { digits } else { (digits >> 4) * 10 + (digits & 15) };
        if half_days { value % 12 + if cell & 0x80 != 0 { 12 } else { 0 } } else { value }
    }

    /// Puts the time into the cells.
    fn show(&mut self, now: u64) {
        let moment = Moment::after_1970(self.time(now));
        for (index, value) in [
            (SECONDS, moment.second),
            (MINUTES, moment.minute),
            (HOURS, moment.hour),
            (WEEKDAY, moment.weekday),
            (DAY_OF_MONTH, moment.day),
            (MONTH, moment.month),
            (YEAR, (moment.year % 100) as u8),
            (CENTURY, (moment.year / 100 % 100) as u8),
        ] {
            self.cells[usize::from(index)] = self.shown(value, index == HOURS);
        }
    }

    /// Takes the time from the cells.
    fn take(&mut self, now: u64) {
        let meant = |index: u8| self.meant(self.cell(index), index == HOURS);
        let moment = Moment {
            year: u64::from(meant(CENTURY)) * 100 + u64::from(meant(YEAR)),
            month: meant(MONTH).clamp(1, 12),
            day: meant(DAY_OF_MONTH),
            weekday: meant(WEEKDAY),
            hour: meant(HOURS),
            minute: meant(MINUTES),
            second: meant(SECONDS),
        };
        self.offset = moment.seconds() - (DAYS_BEFORE * DAY + now / CLOCK_HZ) as i64;
    }

    pub(super) fn write(&mut self, register: u16, value: u8, now: u64) {
        if register == 0 {
            self.index = value & 0x7f;
            return;
        }
        self.gather(now);
        let index = usize::from(self.index);
        let stands = self.status_b() & SET != 0;
        match self.index {
            STATUS_A => self.cells[index] = value & !UPDATE_IN_PROGRESS,
            STATUS_B => {
                if !stands && value & SET != 0 {
                    self.show(now);
                }
                // The time is read as it was written, and counts on from there.
                if stands && value & SET == 0 {
                    self.take(now);
                }
                self.cells[index] = if value & SET != 0 { value & !UPDATED } else { value };
            }
            STATUS_C | STATUS_D => {}
            SECONDS | MINUTES | HOURS | WEEKDAY..=YEAR | CENTURY if !stands => {
                self.show(now);
                self.cells[index] = value;
                self.take(now);
            }
            _ => self.cells[index] = value,
        }
        self.plan();
    }

    pub(super) fn read(&mut self, register: u16, now: u64) -> u8 {
        if register == 0 {
            return 0xff;
        }
        let stands = self.status_b() & SET != 0;
        match self.index {
            SECONDS | MINUTES | HOURS | WEEKDAY..=YEAR | CENTURY if !stands => self.show(now),
            STATUS_A if !stands && now % CLOCK_HZ >= CLOCK_HZ - UPDATE_TAKES => {
                return self.cell(STATUS_A) | UPDATE_IN_PROGRESS;
            }
            STATUS_C => {
                self.gather(now);
                let interrupt = if self.line() { INTERRUPT } else { 0 };
                let flags = core::mem::take(&mut self.flags) | interrupt;
                self.plan();
                return flags;
            }
            _ => {}
        }
        self.cell(self.index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(seconds: u64, expected: (u64, u8, u8, u8, u8, u8, u8)) {
        let Moment { year, month, day, weekday, hour, minute, second } = Moment::after_1970(seconds);
        assert_eq!((year, month, day, weekday, hour, minute, second), expected);
        assert_eq!(Moment::after_1970(seconds).seconds(), seconds as i64);
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
        rtc.write(0, index, now);
        rtc.read(1, now)
    }

    #[test]
    fn registers_are_bcd_or_binary_and_12_or_24_hours() {
        let mut rtc = Rtc::new(256 << 20, 3);
        let afternoon = (13 * 3_600 + 45 * 60 + 59) * CLOCK_HZ;
        assert_eq!(read(&mut rtc, 9, 0), 0x26);
        assert_eq!(read(&mut rtc, CENTURY, 0), 0x20);
        assert_eq!([0, 2, 4].map(|index| read(&mut rtc, index, afternoon)), [0x59, 0x45, 0x13]);
        read(&mut rtc, STATUS_B, 0);
        rtc.write(1, BINARY, 0);
        assert_eq!([0, 2, 4].map(|index| read(&mut rtc, index, afternoon)), [59, 45, 0x81]);
        assert_eq!(read(&mut rtc, 4, 0), 12);
        // 256 MiB less 16, in units of 64 KiB.
        assert_eq!(u16::from_le_bytes([0x34, 0x35].map(|index| read(&mut rtc, index, 0))), 3840);
    }

    fn write(rtc: &mut Rtc, index: u8, value: u8, now: u64) {
        rtc.write(0, index, now);
        rtc.write(1, value, now);
    }

    #[test]
    fn firmware_tells_of_memory_and_cpus() {
        let mut rtc = Rtc::new(5 << 30, 3);
        assert_eq!([0x34, 0x35].map(|index| read(&mut rtc, index, 0)), [0, 0xbf], "3 GiB less 16 MiB");
        assert_eq!([0x5b, 0x5c, 0x5d].map(|index| read(&mut rtc, index, 0)), [0, 0x80, 0], "2 GiB above 4");
        assert_eq!(read(&mut rtc, 0x5f, 0), 2);
    }

    #[test]
    fn the_clock_can_be_set_and_goes_on() {
        let mut rtc = Rtc::new(256 << 20, 1);
        let now = 10 * CLOCK_HZ;
        write(&mut rtc, STATUS_B, SET | HOURS_24, now);
        for (index, value) in [(YEAR, 0x24), (MONTH, 2), (DAY_OF_MONTH, 0x29), (HOURS, 0x23), (MINUTES, 0x59)] {
            write(&mut rtc, index, value, now);
        }
        write(&mut rtc, SECONDS, 0x58, now);
        assert_eq!(read(&mut rtc, SECONDS, now + 5 * CLOCK_HZ), 0x58, "it stands still");
        write(&mut rtc, STATUS_B, HOURS_24, now + 5 * CLOCK_HZ);
        let then = now + 7 * CLOCK_HZ;
        let cells = [YEAR, MONTH, DAY_OF_MONTH, HOURS, MINUTES, SECONDS].map(|index| read(&mut rtc, index, then));
        assert_eq!(cells, [0x24, 3, 1, 0, 0, 0]);
        write(&mut rtc, HOURS, 0x12, then);
        assert_eq!([HOURS, MINUTES].map(|index| read(&mut rtc, index, then + 60 * CLOCK_HZ)), [0x12, 1]);
    }

    #[test]
    fn an_update_is_announced() {
        let mut rtc = Rtc::new(256 << 20, 1);
        let check = |rtc: &mut Rtc, now: u64, expected: u8| assert_eq!(read(rtc, STATUS_A, now), expected, "{now}");
        check(&mut rtc, 0, 0x26);
        check(&mut rtc, CLOCK_HZ - UPDATE_TAKES - 1, 0x26);
        check(&mut rtc, CLOCK_HZ - UPDATE_TAKES, 0xa6);
        check(&mut rtc, CLOCK_HZ, 0x26);
    }

    /// With this status A and B, and alarm cells, the moments at which the line goes high, and what status C says then.
    fn check_interrupts(a: u8, b: u8, alarm: [u8; 3], expected: &[(u64, u8)]) {
        let mut rtc = Rtc::new(256 << 20, 1);
        for (index, value) in [HOURS_ALARM, MINUTES_ALARM, SECONDS_ALARM].into_iter().zip(alarm) {
            write(&mut rtc, index, value, 0);
        }
        write(&mut rtc, STATUS_A, a, 0);
        write(&mut rtc, STATUS_B, b, 0);
        for (at, flags) in expected {
            assert_eq!(rtc.deadline(), Some(*at));
            rtc.advance(at - 1);
            assert!(!rtc.line());
            rtc.advance(*at);
            assert!(rtc.line());
            assert_eq!(rtc.deadline(), None, "it is high until status C is read");
            assert_eq!(read(&mut rtc, STATUS_C, *at), *flags);
            assert!(!rtc.line());
        }
        if expected.is_empty() {
            assert_eq!(rtc.deadline(), None);
        }
    }

    #[test]
    fn interrupts() {
        const MS: u64 = CLOCK_HZ / 1000;
        check_interrupts(0x26, HOURS_24, [0; 3], &[]);
        check_interrupts(0x20, HOURS_24 | PERIODIC, [0; 3], &[]);
        // 64 Hz, then 128 Hz by its odd number.
        check_interrupts(0x2a, HOURS_24 | PERIODIC, [0; 3], &[(15_625_000, 0xc0), (31_250_000, 0xc0)]);
        check_interrupts(0x22, HOURS_24 | PERIODIC, [0; 3], &[(7_812_500, 0xc0)]);
        check_interrupts(0x20, HOURS_24 | UPDATED, [0xff; 3], &[(1000 * MS, 0xb0), (2000 * MS, 0xb0)]);
        check_interrupts(0x20, HOURS_24 | UPDATED, [0; 3], &[(1000 * MS, 0x90)]);
        check_interrupts(0x20, HOURS_24 | ALARM, [0, 1, 0x30], &[(90 * CLOCK_HZ, 0xb0), ((DAY + 90) * CLOCK_HZ, 0xb0)]);
        check_interrupts(0x20, HOURS_24 | ALARM, [0xff, 0xff, 5], &[(5 * CLOCK_HZ, 0xb0), (65 * CLOCK_HZ, 0xb0)]);
        check_interrupts(0x20, HOURS_24 | ALARM, [0x25, 0, 0], &[]);
        check_interrupts(0x20, ALARM, [0x81, 0xff, 0], &[(13 * 3_600 * CLOCK_HZ, 0xb0)]);
    }
}
