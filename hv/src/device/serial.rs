//! The serial port: vm-superio's 16550A, its output gathered in memory, its interrupt a pulse.

use core::cell::Cell;
use core::convert::Infallible;
use core::fmt;
use vm_superio::serial::NoEvents;
use vm_superio::{Serial as Uart, Trigger};

/// The interrupt line: whether it was pulsed since it was last looked at.
#[derive(Debug, Default)]
struct Line(Cell<bool>);

impl Trigger for Line {
    type E = Infallible;

    fn trigger(&self) -> Result<(), Infallible> {
        self.0.set(true);
        Ok(())
    }
}

/// A 16550A.
pub(super) struct Serial(Uart<Line, NoEvents, Vec<u8>>);

impl fmt::Debug for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Serial").field(&self.0.state()).finish()
    }
}

impl Serial {
    pub(super) fn new() -> Self {
        Self(Uart::new(Line::default(), Vec::new()))
    }

    pub(super) fn read(&mut self, register: u8) -> u8 {
        self.0.read(register)
    }

    pub(super) fn write(&mut self, register: u8, value: u8) {
        // Neither the line nor a Vec can fail; a full receive queue in loopback mode loses the byte, as in hardware.
        let _lost = self.0.write(register, value);
    }

    /// Whether the receive queue takes a byte more.
    pub(super) fn has_room(&self) -> bool {
        self.0.fifo_capacity() > 0
    }

    /// A byte arrives. It is lost when the queue is full.
    pub(super) fn key(&mut self, byte: u8) {
        let _lost = self.0.enqueue_raw_bytes(&[byte]);
    }

    pub(super) fn take_interrupt(&mut self) -> bool {
        self.0.interrupt_evt().0.take()
    }

    pub(super) fn has_output(&self) -> bool {
        !self.0.writer().is_empty()
    }

    pub(super) fn output(&mut self) -> Vec<u8> {
        core::mem::take(self.0.writer_mut())
    }
}
