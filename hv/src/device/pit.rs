//! The 8254 timer: channel 0 on interrupt line 0, channel 2 behind the speaker's gate. Its 1.193182 MHz are counted
//! from the machine's clock; nothing happens between questions, each is answered from the time since the count was
//! loaded.

use super::CLOCK_HZ;
use serde::{Deserialize, Serialize};

const TICK_HZ: u64 = 1_193_182;

/// Ticks after `time` of the machine's clock.
fn ticks(time: u64) -> u64 {
    (u128::from(time) * u128::from(TICK_HZ) / u128::from(CLOCK_HZ)) as u64
}

/// The first moment by which `ticks` have passed.
fn moment(ticks: u64) -> u64 {
    (u128::from(ticks) * u128::from(CLOCK_HZ)).div_ceil(u128::from(TICK_HZ)) as u64
}

/// Which bytes of the count a channel's port carries.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
enum Bytes {
    Low,
    High,
    #[default]
    Both,
}

#[derive(Debug, Serialize, Deserialize)]
struct Channel {
    /// 0 interrupt on terminal count, 1 one-shot, 2 rate, 3 square wave, 4 and 5 strobes.
    mode: u8,
    bytes: Bytes,
    /// The count; 0 stands for 65536.
    reload: u16,
    /// When counting began; `None` before a count was loaded, or while the gate holds it.
    since: Option<u64>,
    gate: bool,
    /// The low byte of a count whose high byte is to come.
    low: Option<u8>,
    /// A count that is held for reading, and how many of its bytes have been read.
    latched: Option<u16>,
    status: Option<u8>,
    high_next: bool,
}

impl Channel {
    fn new(gate: bool) -> Self {
        Self {
            mode: 0,
            bytes: Bytes::Both,
            reload: 0,
            since: None,
            gate,
            low: None,
            latched: None,
            status: None,
            high_next: false,
        }
    }

    fn period(&self) -> u64 {
        if self.reload == 0 { 0x1_0000 } else { u64::from(self.reload) }
    }

    fn elapsed(&self, now: u64) -> Option<u64> {
        self.since.map(|since| ticks(now) - ticks(since))
    }

    fn count(&self, now: u64) -> u16 {
        let Some(elapsed) = self.elapsed(now) else { return self.reload };
        let period = self.period();
        match self.mode {
            2 => (period - elapsed % period) as u16,
            3 => (period - elapsed * 2 % period) as u16 & !1,
            _ => period.wrapping_sub(elapsed) as u16,
        }
    }

    fn output(&self, now: u64) -> bool {
        let elapsed = self.elapsed(now);
        let period = self.period();
        match (self.mode, elapsed) {
            (0, elapsed) => elapsed.is_some_and(|elapsed| elapsed >= period),
            (1, Some(elapsed)) => elapsed >= period,
            (2, Some(elapsed)) => elapsed % period != period - 1,
            (3, Some(elapsed)) => elapsed % period < period.div_ceil(2),
            (4 | 5, Some(elapsed)) => elapsed != period,
            _ => true,
        }
    }

    /// Ticks since counting began at which the output rises, the first after `elapsed`.
    fn rise_after(&self, elapsed: u64) -> Option<u64> {
        let period = self.period();
        match self.mode {
            2 | 3 => Some((elapsed / period + 1) * period),
            0 | 1 => (elapsed < period).then_some(period),
            _ => (elapsed < period + 1).then_some(period + 1),
        }
    }

    /// When the output rises next after `now`.
    fn next_rise(&self, now: u64) -> Option<u64> {
        let since = self.since?;
        let rise = self.rise_after(self.elapsed(now)?)?;
        Some(moment(ticks(since) + rise))
    }

    fn load(&mut self, count: u16, now: u64) {
        self.reload = count;
        // Modes 1 and 5 wait for the gate to rise.
        self.since = (self.gate && !matches!(self.mode, 1 | 5)).then_some(now);
    }

    fn control(&mut self, value: u8, now: u64) {
        self.bytes = match value >> 4 & 3 {
            0 => {
                self.latched = self.latched.or(Some(self.count(now)));
                return;
            }
            1 => Bytes::Low,
            2 => Bytes::High,
            _ => Bytes::Both,
        };
        let mode = value >> 1 & 7;
        self.mode = if mode > 5 { mode - 4 } else { mode };
        self.since = None;
        (self.low, self.latched, self.status, self.high_next) = (None, None, None, false);
    }

    fn read(&mut self, now: u64) -> u8 {
        if let Some(status) = self.status.take() {
            return status;
        }
        let count = self.latched.unwrap_or_else(|| self.count(now));
        let [low, high] = count.to_le_bytes();
        let last = match self.bytes {
            Bytes::Low | Bytes::High => true,
            Bytes::Both => self.high_next,
        };
        let value = match self.bytes {
            Bytes::Low => low,
            Bytes::High => high,
            Bytes::Both => {
                self.high_next = !self.high_next;
                if last { high } else { low }
            }
        };
        if last {
            self.latched = None;
        }
        value
    }

    fn write(&mut self, value: u8, now: u64) {
        match (self.bytes, self.low.take()) {
            (Bytes::Low, _) => self.load(u16::from(value), now),
            (Bytes::High, _) => self.load(u16::from(value) << 8, now),
            (Bytes::Both, None) => self.low = Some(value),
            (Bytes::Both, Some(low)) => self.load(u16::from_le_bytes([low, value]), now),
        }
    }

    fn set_gate(&mut self, high: bool, now: u64) {
        if high && !self.gate && self.mode != 0 && self.mode != 4 || high && self.since.is_none() {
            self.since = Some(now);
        } else if !high && !matches!(self.mode, 1 | 5) {
            self.since = None;
        }
        self.gate = high;
    }
}

/// The timer.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Pit {
    channels: [Channel; 3],
    speaker: bool,
}

impl Pit {
    pub(super) fn new() -> Self {
        Self { channels: [Channel::new(true), Channel::new(true), Channel::new(false)], speaker: false }
    }

    /// When channel 0's output rises next after `now`.
    pub(super) fn next_edge(&self, now: u64) -> Option<u64> {
        self.channels[0].next_rise(now)
    }

    pub(super) fn read(&mut self, register: u8, now: u64) -> u8 {
        match self.channels.get_mut(usize::from(register)) {
            Some(channel) => channel.read(now),
            None => 0xff,
        }
    }

    pub(super) fn write(&mut self, register: u8, value: u8, now: u64) {
        match register {
            3 if value >> 6 == 3 => self.read_back(value, now),
            3 => self.channels[usize::from(value >> 6)].control(value, now),
            other => self.channels[usize::from(other)].write(value, now),
        }
    }

    fn read_back(&mut self, value: u8, now: u64) {
        for (number, channel) in self.channels.iter_mut().enumerate() {
            if value >> (number + 1) & 1 == 0 {
                continue;
            }
            if value & 0x20 == 0 {
                channel.latched = channel.latched.or(Some(channel.count(now)));
            }
            if value & 0x10 == 0 {
                let bytes = match channel.bytes {
                    Bytes::Low => 1,
                    Bytes::High => 2,
                    Bytes::Both => 3,
                };
                let null = u8::from(channel.since.is_none());
                channel.status = Some(u8::from(channel.output(now)) << 7 | null << 6 | bytes << 4 | channel.mode << 1);
            }
        }
    }

    /// The system control port: the gate and output of channel 2, and the refresh toggle.
    pub(super) fn read_gate(&self, now: u64) -> u8 {
        let channel = &self.channels[2];
        let refresh = (now / (CLOCK_HZ / 66_000)) & 1;
        u8::from(channel.gate) | u8::from(self.speaker) << 1 | (refresh as u8) << 4 | u8::from(channel.output(now)) << 5
    }

    pub(super) fn write_gate(&mut self, value: u8, now: u64) {
        self.speaker = value & 2 != 0;
        self.channels[2].set_gate(value & 1 != 0, now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Loads a channel-0 count and tells the first rises of its output.
    fn check(control: u8, count: u16, expected: &[u64]) {
        let mut pit = Pit::new();
        pit.write(3, control, 0);
        let [low, high] = count.to_le_bytes();
        pit.write(0, low, 0);
        pit.write(0, high, 0);
        let mut now = 0;
        for edge in expected {
            assert_eq!(pit.next_edge(now), Some(*edge));
            assert_eq!(pit.next_edge(edge - 1), Some(*edge));
            now = *edge;
        }
        if control == 0x30 {
            assert_eq!(pit.next_edge(now), None);
        }
    }

    #[test]
    fn outputs_rise_when_they_should() {
        // 1193182 ticks are a second: 59659.1 a twentieth.
        check(0x30, 59_659, &[49_999_917]);
        check(0x34, 59_659, &[49_999_917, 99_999_833, 149_999_749]);
        check(0x36, 0, &[54_925_402, 109_850_803]);
    }

    #[test]
    fn counts_are_read_latched_and_whole() {
        let mut pit = Pit::new();
        for (register, value) in [(3, 0x34), (0, 0x00), (0, 0x10)] {
            pit.write(register, value, 0);
        }
        let later = moment(0x123);
        pit.write(3, 0, later);
        let count = u16::from_le_bytes([pit.read(0, later + 99_999), pit.read(0, later + 99_999)]);
        assert_eq!(count, 0x1000 - 0x123);
    }

    #[test]
    fn channel_2_counts_behind_its_gate() {
        let mut pit = Pit::new();
        for (register, value) in [(3, 0xb0), (2, 100), (2, 0)] {
            pit.write(register, value, 0);
        }
        assert_eq!(pit.read_gate(1_000_000) & 0x21, 0);
        pit.write_gate(1, 1_000_000);
        let done = 1_000_000 + moment(101);
        assert_eq!(pit.read_gate(1_000_500) & 0x21, 1);
        assert_eq!(pit.read_gate(done) & 0x21, 0x21);
    }
}
