//! The local APIC's timer: one-shot and periodic counts of the core crystal clock, and the TSC deadline. As the PIT, it
//! does nothing between questions: what it holds are moments.
//! See: SDM "APIC Timer" and "TSC-Deadline Mode".

use serde::{Deserialize, Serialize};

/// Instructions (nanoseconds of the board) in a period of the core crystal clock: 25 MHz, as CPUID leaf 0x15 says.
const CRYSTAL_TICK: u64 = 40;

/// Moments from here on never come: the machine's clock, which goes on to the next one when every CPU waits, stays far from
/// its end.
const NEVER: u64 = 1 << 62;

/// What the LVT's timer-mode field selects.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(super) enum Mode {
    #[default]
    OneShot,
    Periodic,
    TscDeadline,
    /// The field's last value, which is reserved: nothing is timed.
    Reserved,
}

impl Mode {
    /// By the LVT entry.
    pub(super) const fn of(lvt: u32) -> Self {
        match lvt >> 17 & 3 {
            0 => Self::OneShot,
            1 => Self::Periodic,
            2 => Self::TscDeadline,
            _ => Self::Reserved,
        }
    }
}

/// The timer.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Timer {
    mode: Mode,
    /// The divide configuration register.
    divide: u32,
    initial: u32,
    /// When the count reaches zero; `None` while nothing counts.
    expiry: Option<u64>,
    /// IA32_TSC_DEADLINE; 0 while it is not armed.
    deadline: u64,
    /// What the TSC is ahead of the board's clock.
    tsc_offset: u64,
}

impl Timer {
    /// As after a reset. The TSC goes on.
    pub(super) fn reset(&mut self) {
        *self = Self { tsc_offset: self.tsc_offset, ..Self::default() };
    }

    /// Instructions that a count lasts.
    fn tick(&self) -> u64 {
        let field = self.divide & 3 | self.divide >> 1 & 4;
        // 0 divides by 2, 6 by 128, and 7 by 1.
        CRYSTAL_TICK << ((field + 1) & 7)
    }

    fn period(&self) -> u64 {
        u64::from(self.initial) * self.tick()
    }

    /// The LVT entry was written. Going to or from the TSC deadline disarms.
    pub(super) fn set_mode(&mut self, mode: Mode) {
        if (mode == Mode::TscDeadline) != (self.mode == Mode::TscDeadline) || mode == Mode::Reserved {
            self.expiry = None;
            self.deadline = 0;
        }
        self.mode = mode;
    }

    pub(super) const fn initial(&self) -> u32 {
        self.initial
    }

    /// The initial count was written: counting begins, or with 0 ends.
    pub(super) fn set_initial(&mut self, count: u32, now: u64) {
        if matches!(self.mode, Mode::TscDeadline | Mode::Reserved) {
            return;
        }
        self.initial = count;
        self.expiry = (count != 0).then(|| now.saturating_add(self.period()));
    }

    /// The current count.
    pub(super) fn current(&self, now: u64) -> u32 {
        match (self.mode, self.expiry) {
            (Mode::OneShot | Mode::Periodic, Some(expiry)) => {
                expiry.saturating_sub(now).div_ceil(self.tick()).min(u64::from(self.initial)) as u32
            }
            _ => 0,
        }
    }

    pub(super) const fn divide(&self) -> u32 {
        self.divide
    }

    /// The divide configuration was written: what is left to count is counted at the new pace.
    pub(super) fn set_divide(&mut self, value: u32, now: u64) {
        let left = self.current(now);
        self.divide = value & 0xb;
        if self.mode != Mode::TscDeadline && self.expiry.is_some() {
            self.expiry = Some(now.saturating_add(u64::from(left) * self.tick()));
        }
    }

    pub(super) const fn deadline(&self) -> u64 {
        self.deadline
    }

    /// IA32_TSC_DEADLINE was written, which counts in its mode alone.
    pub(super) fn set_deadline(&mut self, tsc: u64, now: u64) {
        if self.mode == Mode::TscDeadline {
            self.deadline = tsc;
            self.arm(now);
        }
    }

    /// The TSC was moved against the board's clock.
    pub(super) fn set_tsc_offset(&mut self, offset: u64, now: u64) {
        self.tsc_offset = offset;
        if self.mode == Mode::TscDeadline {
            self.arm(now);
        }
    }

    fn arm(&mut self, now: u64) {
        let left = self.deadline.saturating_sub(now.wrapping_add(self.tsc_offset));
        self.expiry = (self.deadline != 0).then(|| now.saturating_add(left));
    }

    /// When it fires next.
    pub(super) fn expiry(&self) -> Option<u64> {
        self.expiry.filter(|expiry| *expiry < NEVER)
    }

    /// Carries the clock on to `now`. Returns whether it fired.
    pub(super) fn advance(&mut self, now: u64) -> bool {
        let Some(expiry) = self.expiry.filter(|expiry| *expiry <= now) else { return false };
        let period = self.period();
        self.expiry = match self.mode {
            // Periods that went by unseen have fired as one: a pending interrupt is pending once.
            Mode::Periodic if period != 0 => Some(expiry + ((now - expiry) / period + 1) * period),
            _ => None,
        };
        if self.mode == Mode::TscDeadline {
            self.deadline = 0;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counting(mode: Mode, divide: u32, count: u32, now: u64) -> Timer {
        let mut timer = Timer::default();
        timer.set_mode(mode);
        timer.set_divide(divide, now);
        timer.set_initial(count, now);
        timer
    }

    #[test]
    fn dividers() {
        let check = |divide, expected| {
            assert_eq!(
                counting(Mode::OneShot, divide, 10, 0).expiry(),
                Some(10 * CRYSTAL_TICK * expected),
                "{divide:#x}"
            );
        };
        for (divide, expected) in [(0xb, 1), (0, 2), (1, 4), (2, 8), (3, 16), (8, 32), (9, 64), (0xa, 128)] {
            check(divide, expected);
        }
    }

    #[test]
    fn a_one_shot_fires_once() {
        let mut timer = counting(Mode::OneShot, 0xb, 100, 1000);
        assert_eq!((timer.current(1000), timer.current(1039), timer.current(1041)), (100, 100, 99));
        assert!(!timer.advance(4999));
        assert_eq!(timer.current(4999), 1);
        assert!(timer.advance(5000));
        assert_eq!((timer.current(5000), timer.expiry()), (0, None));
        assert!(!timer.advance(1 << 40));
        timer.set_initial(5, 6000);
        timer.set_initial(0, 6001);
        assert_eq!(timer.expiry(), None);
    }

    #[test]
    fn a_period_goes_on_from_where_it_ended() {
        let mut timer = counting(Mode::Periodic, 0xb, 100, 0);
        assert!(timer.advance(4007));
        assert_eq!(timer.expiry(), Some(8000));
        assert!(timer.advance(40_001));
        assert_eq!((timer.expiry(), timer.current(40_001)), (Some(44_000), 100));
    }

    #[test]
    fn a_new_divider_counts_what_is_left() {
        let mut timer = counting(Mode::OneShot, 0xb, 100, 0);
        timer.set_divide(0, 2000);
        assert_eq!(timer.expiry(), Some(2000 + 50 * 2 * CRYSTAL_TICK));
    }

    #[test]
    fn deadlines_are_in_tsc_ticks_and_disarm() {
        let mut timer = Timer::default();
        timer.set_tsc_offset(1_000_000, 0);
        timer.set_deadline(1_000_500, 0);
        assert_eq!((timer.deadline(), timer.expiry()), (0, None), "not in this mode");
        timer.set_mode(Mode::TscDeadline);
        timer.set_deadline(1_000_500, 0);
        timer.set_initial(7, 0);
        assert_eq!((timer.expiry(), timer.initial()), (Some(500), 0));
        timer.set_tsc_offset(1_000_400, 0);
        assert_eq!(timer.expiry(), Some(100));
        assert!(!timer.advance(99) && timer.advance(100));
        assert_eq!((timer.deadline(), timer.expiry()), (0, None));
        timer.set_deadline(u64::MAX, 200);
        assert_eq!((timer.deadline(), timer.expiry()), (u64::MAX, None), "that is never");
        // One that has passed fires at once; leaving the mode disarms.
        timer.set_deadline(5, 200);
        assert_eq!(timer.expiry(), Some(200));
        timer.set_mode(Mode::OneShot);
        assert_eq!((timer.deadline(), timer.expiry()), (0, None));
    }
}
