//! The serial port: vm-superio's 16550A, its output gathered in memory, its interrupt a pulse.

use core::cell::Cell;
use core::convert::Infallible;
use core::fmt;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use vm_superio::serial::{NoEvents, SerialState};
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

/// What is stored of a port: its registers and what waits to be read, and what it has put out and not handed over.
#[derive(Serialize, Deserialize)]
struct Stored {
    registers: [u8; 9],
    waiting: Vec<u8>,
    pulsed: bool,
    output: Vec<u8>,
}

impl Serialize for Serial {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let state = self.0.state();
        let line = &self.0.interrupt_evt().0;
        let registers = [
            state.baud_divisor_low,
            state.baud_divisor_high,
            state.interrupt_enable,
            state.interrupt_identification,
            state.line_control,
            state.line_status,
            state.modem_control,
            state.modem_status,
            state.scratch,
        ];
        let (waiting, output) = (state.in_buffer, self.0.writer().clone());
        Stored { registers, waiting, pulsed: line.get(), output }.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Serial {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Stored { registers, waiting, pulsed, output } = Stored::deserialize(deserializer)?;
        let state = SerialState {
            baud_divisor_low: registers[0],
            baud_divisor_high: registers[1],
            interrupt_enable: registers[2],
            interrupt_identification: registers[3],
            line_control: registers[4],
            line_status: registers[5],
            modem_control: registers[6],
            modem_status: registers[7],
            scratch: registers[8],
            in_buffer: waiting,
        };
        let port = Uart::from_state(&state, Line::default(), NoEvents, output)
            .map_err(|_| de::Error::custom("a serial port's queue is too long"))?;
        // It pulses its line when it is made with an interrupt pending.
        port.interrupt_evt().0.set(pulsed);
        Ok(Self(port))
    }
}

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
