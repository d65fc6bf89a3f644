//! The keyboard controller, an 8042, with nothing plugged in: its commands are answered, what is sent to a device times
//! out. What it is for are its side lines: reset, and the A20 gate, which is always open.

use serde::{Deserialize, Serialize};

// The status register: a byte waits to be read; the controller's self-test went well; the last write was a command; the
// keyboard is not locked; the device did not answer.
const FULL: u8 = 1;
const TESTED: u8 = 4;
const COMMAND: u8 = 8;
const UNLOCKED: u8 = 0x10;
const TIMED_OUT: u8 = 0x40;

// The command byte: interrupts on, the keyboard off.
const INTERRUPT: u8 = 1;
const KEYBOARD_OFF: u8 = 0x10;
const DEVICE_2_OFF: u8 = 0x20;

/// The output port: the reset line, which is high while nothing is reset, and the A20 gate.
const RESET_LINE: u8 = 1;
const A20: u8 = 2;

const SELF_TEST_PASSED: u8 = 0x55;
/// The second device's clock line is stuck: there is none.
const STUCK: u8 = 2;
/// "Resend", which stands for a device that does not answer.
const NO_ANSWER: u8 = 0xfe;

/// The controller.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Keyboard {
    /// Its RAM; the first byte is the command byte.
    ram: [u8; 32],
    /// A byte that waits to be read.
    output: Option<u8>,
    /// That byte stands for a device that did not answer.
    timed_out: bool,
    /// The command whose byte comes next.
    awaits: Option<u8>,
    last_was_command: bool,
}

impl Default for Keyboard {
    fn default() -> Self {
        let mut ram = [0; 32];
        ram[0] = TESTED | KEYBOARD_OFF | DEVICE_2_OFF;
        Self { ram, output: None, timed_out: false, awaits: None, last_was_command: false }
    }
}

impl Keyboard {
    pub(super) fn status(&self) -> u8 {
        let flag = |set: bool, bit: u8| if set { bit } else { 0 };
        UNLOCKED
            | self.ram[0] & TESTED
            | flag(self.output.is_some(), FULL)
            | flag(self.last_was_command, COMMAND)
            | flag(self.output.is_some() && self.timed_out, TIMED_OUT)
    }

    /// Whether the keyboard's interrupt line is high.
    pub(super) fn line(&self) -> bool {
        self.output.is_some() && self.ram[0] & INTERRUPT != 0
    }

    /// Reads the byte that waits.
    pub(super) fn read(&mut self) -> u8 {
        self.output.take().unwrap_or(0)
    }

    fn answer(&mut self, value: u8) {
        (self.output, self.timed_out) = (Some(value), false);
    }

    /// Writes a command or a byte of data. Returns whether the reset line is pulled.
    pub(super) fn write(&mut self, command: bool, value: u8) -> bool {
        self.last_was_command = command;
        if command {
            self.command(value)
        } else {
            let awaits = self.awaits.take();
            self.data(awaits, value)
        }
    }

    fn command(&mut self, value: u8) -> bool {
        self.awaits = None;
        match value {
            0x20..=0x3f => self.answer(self.ram[usize::from(value & 0x1f)]),
            0x60..=0x7f | 0xd1..=0xd4 => self.awaits = Some(value),
            0xa7 => self.ram[0] |= DEVICE_2_OFF,
            0xa8 => self.ram[0] &= !DEVICE_2_OFF,
            0xa9 => self.answer(STUCK),
            0xaa => {
                self.ram[0] |= TESTED;
                self.answer(SELF_TEST_PASSED);
            }
            0xab => self.answer(0),
            0xad => self.ram[0] |= KEYBOARD_OFF,
            0xae => self.ram[0] &= !KEYBOARD_OFF,
            0xc0 => self.answer(0x80),
            0xd0 => self.answer(RESET_LINE | A20),
            // Output lines are pulsed, each low bit that is clear one of them.
            0xf0..=0xff => return value & RESET_LINE == 0,
            _ => {}
        }
        false
    }

    fn data(&mut self, command: Option<u8>, value: u8) -> bool {
        match command {
            Some(command @ 0x60..=0x7f) => self.ram[usize::from(command & 0x1f)] = value,
            Some(0xd1) => return value & RESET_LINE == 0,
            // As if the keyboard had sent it. So would the second device, if there were one.
            Some(0xd2 | 0xd3) => self.answer(value),
            _ => (self.output, self.timed_out) = (Some(NO_ANSWER), true),
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes commands (`true`) and data, and reads the answer.
    fn check(writes: &[(bool, u8)], status: u8, answer: u8) {
        let mut keyboard = Keyboard::default();
        for (command, value) in writes {
            assert!(!keyboard.write(*command, *value));
        }
        assert_eq!((keyboard.status(), keyboard.read()), (status, answer), "{writes:x?}");
        assert_eq!(keyboard.status() & FULL, 0);
    }

    #[test]
    fn commands_are_answered_and_devices_are_silent() {
        check(&[], 0x14, 0);
        check(&[(true, 0xaa)], 0x1d, 0x55);
        check(&[(true, 0xab)], 0x1d, 0);
        check(&[(true, 0xa9)], 0x1d, 2);
        check(&[(true, 0x20)], 0x1d, 0x34);
        check(&[(true, 0x60), (false, 0x45), (true, 0x20)], 0x1d, 0x45);
        check(&[(true, 0x60), (false, 0x41), (true, 0x20)], 0x19, 0x41);
        check(&[(true, 0xd0)], 0x1d, 3);
        check(&[(true, 0xd2), (false, 0x1c)], 0x15, 0x1c);
        check(&[(false, 0xf2)], 0x55, 0xfe);
        check(&[(true, 0xd4), (false, 0xf2)], 0x55, 0xfe);
    }

    #[test]
    fn bytes_interrupt_when_the_command_byte_says_so() {
        let mut keyboard = Keyboard::default();
        keyboard.write(false, 0xff);
        assert!(!keyboard.line());
        keyboard.write(true, 0x60);
        keyboard.write(false, INTERRUPT);
        assert!(keyboard.line());
        keyboard.read();
        assert!(!keyboard.line());
    }
}
