//! The board: what a small PC has beside its CPUs and memory. Devices know the machine's clock, in instructions retired,
//! as nanoseconds: a nominal 1 GHz. They hold no other time, and do no I/O: output is collected, input is handed in.

mod apics;
pub(crate) mod fw_cfg;
mod ioapic;
mod keyboard;
mod lapic;
mod message;
mod pic;
mod pit;
pub(crate) mod pm;
mod rtc;
mod serial;

use crate::l0::{Bus, BusEvent, Ram, Signals};
use apics::Apics;
pub use apics::ioapic_id;
use fw_cfg::FwCfg;
use hv_defs::addr::Gpa;
use hv_defs::event::{Stop, StopKind};
use keyboard::Keyboard;
use pic::Pics;
use pit::Pit;
use pm::Pm;
use rtc::Rtc;
use serde::{Deserialize, Serialize};
use serial::Serial;
use std::collections::VecDeque;

/// Instructions that pass for a second on the board.
pub const CLOCK_HZ: u64 = 1_000_000_000;

/// A write of a 32-bit number here sets a phase marker.
pub const MARK_PORT: u16 = 0x0e9a;
/// isa-debug-exit: a write ends the run.
pub const DEBUG_EXIT_PORT: u16 = 0xf4;
/// The first serial port.
pub const SERIAL_PORT: u16 = 0x3f8;

const SERIAL_LAST: u16 = SERIAL_PORT + 7;
const DEBUG_EXIT_LAST: u16 = DEBUG_EXIT_PORT + 3;
const PIC_MASTER: u16 = 0x20;
const PIC_SLAVE: u16 = 0xa0;
const PIC_EDGE_LEVEL: u16 = 0x4d0;
const PIT_PORT: u16 = 0x40;
const PIT_GATE: u16 = 0x61;
/// The real-time clock.
pub(crate) const RTC_PORT: u16 = 0x70;
const KEYBOARD_DATA: u16 = 0x60;
const KEYBOARD_COMMAND: u16 = 0x64;
/// Fast reset in bit 0, the A20 gate in bit 1.
const SYSTEM_CONTROL: u16 = 0x92;
/// The reset control register, and what resets when it is written there.
pub(crate) const RESET_CONTROL: u16 = 0xcf9;
pub(crate) const RESET_NOW: u8 = 6;

const TIMER_LINE: u8 = 0;
const KEYBOARD_LINE: u8 = 1;
pub(crate) const SERIAL_LINE: u8 = 4;
pub(crate) const RTC_LINE: u8 = 8;

/// The devices of one machine.
#[derive(Debug, Serialize, Deserialize)]
pub struct Board {
    serial: Serial,
    rtc: Rtc,
    pm: Pm,
    fw_cfg: FwCfg,
    keyboard: Keyboard,
    /// The interrupt lines that are high.
    lines: u16,
    /// Those that have risen since they were asked for. Only who has interrupt controllers of its own asks.
    #[serde(skip)]
    risen: u16,
    pics: Pics,
    /// The PIC's output, as it was last looked at.
    intr: bool,
    apics: Apics,
    /// The vector that [`Bus::interrupt`] told of last, and whether it is the PIC's.
    told: (u8, bool),
    pit: Pit,
    /// When the timer's output rises next.
    edge: Option<u64>,
    /// Keys that the serial port has not taken yet.
    typed: VecDeque<u8>,
}

impl Board {
    /// The board of a machine with `memory` bytes of RAM and `vcpus` vCPUs, as firmware leaves it.
    pub fn new(memory: u64, vcpus: u16) -> Self {
        Self::with_kernel(memory, vcpus, Vec::new())
    }

    /// The board of a machine with `memory` bytes of RAM and `vcpus` vCPUs, as firmware leaves it. `items` is what the
    /// firmware configuration device tells of the kernel.
    pub fn with_kernel(memory: u64, vcpus: u16, items: fw_cfg::Items) -> Self {
        Self {
            pm: Pm::default(),
            fw_cfg: FwCfg::new(memory, vcpus, items),
            keyboard: Keyboard::default(),
            lines: 0,
            risen: 0,
            serial: Serial::new(),
            rtc: Rtc::new(memory, vcpus),
            pics: Pics::default(),
            intr: false,
            apics: Apics::new(vcpus),
            told: (0, false),
            pit: Pit::new(),
            edge: None,
            typed: VecDeque::new(),
        }
    }

    /// Takes the firmware's items, which are no state, from the board of the same machine.
    pub fn take_firmware(&mut self, from: Self) {
        self.fw_cfg.take_items(from.fw_cfg);
    }

    /// The instruction at which something happens on the board by itself; `None` when nothing ever will.
    pub fn deadline(&self) -> Option<u64> {
        let heard = |line| !(self.pics.is_masked(line) && self.apics.is_masked(pin(line)));
        let timer = self.edge.filter(|_| heard(TIMER_LINE));
        let rtc = self.rtc.deadline().filter(|_| heard(RTC_LINE));
        // A line that is high already does not rise: a machine that idles would wait for what has passed.
        let low = self.lines >> pm::SCI_LINE & 1 == 0;
        let pm = self.pm.deadline().filter(|_| low && heard(pm::SCI_LINE));
        [timer, rtc, pm, self.apics.deadline()].into_iter().flatten().min()
    }

    /// The ISA interrupt lines that have risen since the last call, for a machine whose interrupt controllers are not this
    /// board's.
    pub fn take_risen(&mut self) -> impl Iterator<Item = u8> + use<> {
        let risen = core::mem::take(&mut self.risen);
        (0..16).filter(move |line| risen >> line & 1 != 0)
    }

    /// Whether an interrupt line can make an NMI or an INIT.
    pub fn sends_nmis(&self) -> bool {
        self.apics.sends_nmis()
    }

    /// The vCPUs to which an interrupt or its like has come since the last call, as of `now`, in order.
    pub fn arrivals(&mut self, now: u64) -> Vec<usize> {
        self.advance(now);
        self.apics.take_news()
    }

    /// Whether something waits for a vCPU.
    pub fn wakes(&mut self, vcpu: u16, now: u64) -> bool {
        self.interrupt(vcpu, now).is_some() || self.signals(vcpu).any()
    }

    /// Sets a line to where its device has it.
    fn follow(&mut self, line: u8, high: bool) {
        let bit = 1 << line;
        if high != (self.lines & bit != 0) {
            self.lines ^= bit;
            self.set_line(line, high);
        }
    }

    /// Sets an ISA interrupt line, which is wired to the PIC and to the I/O APIC.
    fn set_line(&mut self, line: u8, high: bool) {
        if high {
            self.risen |= 1 << line;
            self.pics.raise(line);
        } else {
            self.pics.lower(line);
        }
        self.pic_output();
        self.apics.set_pin(pin(line), high);
    }

    /// A line goes high and low again: what an edge-triggered one is for.
    fn pulse(&mut self, line: u8) {
        self.set_line(line, true);
        self.set_line(line, false);
    }

    /// The first local APIC sees the PIC's output rise.
    fn pic_output(&mut self) {
        let intr = self.pics.pending().is_some();
        if intr && !core::mem::replace(&mut self.intr, intr) {
            self.apics.ext_int();
        }
        self.intr = intr;
    }

    /// Console bytes that the guest has sent since the last call.
    pub fn output(&mut self) -> Vec<u8> {
        self.serial.output()
    }

    /// Whether the guest has sent console bytes since the last [`Board::output`].
    pub fn has_output(&self) -> bool {
        self.serial.has_output()
    }

    /// A byte typed at the console. It waits until the serial port has room.
    pub fn key(&mut self, byte: u8) {
        self.typed.push_back(byte);
        self.type_ahead();
    }

    fn type_ahead(&mut self) {
        while self.serial.has_room()
            && let Some(byte) = self.typed.pop_front()
        {
            self.serial.key(byte);
        }
        self.serial_line();
    }

    fn serial_line(&mut self) {
        if self.serial.take_interrupt() {
            self.pulse(SERIAL_LINE);
        }
    }

    /// Carries the board's clock on to `now`.
    fn advance(&mut self, now: u64) {
        if self.edge.is_some_and(|edge| edge <= now) {
            self.pulse(TIMER_LINE);
            self.edge = self.pit.next_edge(now);
        }
        self.rtc.advance(now);
        self.follow(RTC_LINE, self.rtc.line());
        self.follow(pm::SCI_LINE, self.pm.line(now));
        self.apics.advance(now);
    }

    fn read_byte(&mut self, port: u16, now: u64) -> u8 {
        match port {
            SERIAL_PORT..=SERIAL_LAST => {
                let value = self.serial.read((port - SERIAL_PORT) as u8);
                self.type_ahead();
                value
            }
            PIC_MASTER | 0x21 | PIC_SLAVE | 0xa1 | PIC_EDGE_LEVEL | 0x4d1 => self.pics.read(port),
            PIT_PORT..=0x43 => self.pit.read((port - PIT_PORT) as u8, now),
            PIT_GATE => self.pit.read_gate(now),
            RTC_PORT | 0x71 => {
                let value = self.rtc.read(port - RTC_PORT, now);
                self.follow(RTC_LINE, self.rtc.line());
                value
            }
            KEYBOARD_DATA => {
                let value = self.keyboard.read();
                self.follow(KEYBOARD_LINE, self.keyboard.line());
                value
            }
            KEYBOARD_COMMAND => self.keyboard.status(),
            // The A20 gate is always open.
            SYSTEM_CONTROL => 2,
            pm::EVENT_PORT..=pm::LAST_PORT => self.pm.read(port, now),
            _ => 0xff,
        }
    }

    fn write_byte(&mut self, port: u16, value: u8, now: u64) -> Option<BusEvent> {
        match port {
            SERIAL_PORT..=SERIAL_LAST => {
                self.serial.write((port - SERIAL_PORT) as u8, value);
                self.serial_line();
            }
            PIC_MASTER | 0x21 | PIC_SLAVE | 0xa1 | PIC_EDGE_LEVEL | 0x4d1 => {
                self.pics.write(port, value);
                self.pic_output();
            }
            PIT_PORT..=0x43 => {
                self.pit.write((port - PIT_PORT) as u8, value, now);
                self.edge = self.pit.next_edge(now);
            }
            PIT_GATE => self.pit.write_gate(value, now),
            RTC_PORT | 0x71 => {
                self.rtc.write(port - RTC_PORT, value, now);
                self.follow(RTC_LINE, self.rtc.line());
            }
            pm::EVENT_PORT..=pm::LAST_PORT => {
                if self.pm.write(port, value, now) {
                    return Some(power_off());
                }
                self.follow(pm::SCI_LINE, self.pm.line(now));
            }
            KEYBOARD_DATA | KEYBOARD_COMMAND => {
                if self.keyboard.write(port == KEYBOARD_COMMAND, value) {
                    return Some(reset("by the keyboard controller"));
                }
                self.follow(KEYBOARD_LINE, self.keyboard.line());
            }
            SYSTEM_CONTROL if value & 1 != 0 => return Some(reset("by port 0x92")),
            _ => {}
        }
        None
    }
}

/// The I/O APIC's pin of an ISA line: the timer's is 2, as on every PC; line 2 itself is the cascade.
const fn pin(line: u8) -> u8 {
    if line == TIMER_LINE { 2 } else { line }
}

fn power_off() -> BusEvent {
    let text = "the guest switched the machine off".to_owned();
    BusEvent::Stop(Stop { kind: StopKind::PowerOff, code: 0, text })
}

fn reset(how: &str) -> BusEvent {
    BusEvent::Stop(Stop { kind: StopKind::Reset, code: 0, text: format!("the guest reset the machine {how}") })
}

impl Bus for Board {
    fn io_in(&mut self, port: u16, size: u8, now: u64) -> u32 {
        self.advance(now);
        if let fw_cfg::PORT..=fw_cfg::LAST_PORT = port {
            return self.fw_cfg.read(port, size);
        }
        let bytes = core::array::from_fn(|byte| {
            if byte < usize::from(size) { self.read_byte(port.wrapping_add(byte as u16), now) } else { 0 }
        });
        u32::from_le_bytes(bytes)
    }

    fn io_out(&mut self, port: u16, size: u8, value: u32, now: u64) -> Option<BusEvent> {
        self.advance(now);
        match port {
            MARK_PORT if size == 4 => return Some(BusEvent::Mark(value)),
            // A wider write there is for the PCI configuration address beside it, which this board does not have.
            RESET_CONTROL if size == 1 && value & 4 != 0 => return Some(reset("by port 0xcf9")),
            fw_cfg::PORT..=fw_cfg::LAST_PORT => return self.fw_cfg.write(port, size, value).map(BusEvent::Dma),
            DEBUG_EXIT_PORT..=DEBUG_EXIT_LAST => {
                let code = value << 1 | 1;
                let text = format!("the guest left through isa-debug-exit with status {code}");
                return Some(BusEvent::Stop(Stop { kind: StopKind::DebugExit, code, text }));
            }
            _ => {}
        }
        let bytes = value.to_le_bytes();
        let mut event = None;
        for (at, byte) in bytes.iter().enumerate().take(usize::from(size)) {
            event = event.or(self.write_byte(port.wrapping_add(at as u16), *byte, now));
        }
        event
    }

    fn dma(&mut self, at: Gpa, ram: &mut dyn Ram) {
        self.fw_cfg.dma(at, ram);
    }

    fn mmio_read(&mut self, vcpu: u16, at: Gpa, size: u8, now: u64) -> Option<u64> {
        self.advance(now);
        self.apics.read(vcpu, at, size, now)
    }

    fn mmio_write(&mut self, vcpu: u16, at: Gpa, size: u8, value: u64, now: u64) -> bool {
        self.advance(now);
        self.apics.write(vcpu, at, size, value, now)
    }

    fn interrupt(&mut self, vcpu: u16, now: u64) -> Option<u8> {
        self.advance(now);
        let by_pic = match vcpu {
            0 if self.apics.takes_ext_int() => self.pics.pending(),
            _ => None,
        };
        let vector = by_pic.or_else(|| self.apics.pending(vcpu))?;
        self.told = (vector, by_pic.is_some());
        Some(vector)
    }

    fn acknowledge(&mut self, vcpu: u16, _now: u64) {
        match self.told {
            (_, true) => {
                self.pics.acknowledge();
                self.pic_output();
            }
            (vector, false) => self.apics.acknowledge(vcpu, vector),
        }
    }

    fn dismiss(&mut self, vcpu: u16, now: u64) {
        self.acknowledge(vcpu, now);
        if !self.told.1 {
            self.apics.end(vcpu);
        }
    }

    fn signals(&mut self, vcpu: u16) -> Signals {
        self.apics.signals(vcpu)
    }

    fn take_nmi(&mut self, vcpu: u16) {
        self.apics.take_nmi(vcpu);
    }

    fn take_init(&mut self, vcpu: u16, reset: bool) {
        self.apics.take_init(vcpu, reset);
    }

    fn take_start_up(&mut self, vcpu: u16) {
        self.apics.take_start_up(vcpu);
    }

    fn read_apic_msr(&mut self, vcpu: u16, index: u32, now: u64) -> Option<u64> {
        self.apics.read_msr(vcpu, index, now)
    }

    fn write_apic_msr(&mut self, vcpu: u16, index: u32, value: u64, now: u64) -> bool {
        self.apics.write_msr(vcpu, index, value, now)
    }

    fn tsc_moved(&mut self, vcpu: u16, offset: u64, now: u64) {
        self.apics.set_tsc_offset(vcpu, offset, now);
    }

    fn cr8(&mut self, vcpu: u16) -> u8 {
        self.apics.cr8(vcpu)
    }

    fn set_cr8(&mut self, vcpu: u16, cr8: u8) {
        self.apics.set_cr8(vcpu, cr8);
    }

    fn held_by_tpr(&mut self, vcpu: u16) -> bool {
        self.apics.held_by_tpr(vcpu)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(writes: &[(u16, u8, u32)], expected: Option<BusEvent>) {
        let mut board = Board::new(16 << 20, 2);
        let mut last = None;
        for (port, size, value) in writes {
            last = board.io_out(*port, *size, *value, 0);
        }
        let stopped = |event: &Option<BusEvent>| match event {
            Some(BusEvent::Stop(stop)) => Some((stop.kind, stop.code)),
            _ => None,
        };
        match (&last, &expected) {
            (Some(BusEvent::Stop(_)), _) => assert_eq!(stopped(&last), stopped(&expected), "{writes:x?}"),
            _ => assert_eq!(last, expected, "{writes:x?}"),
        }
    }

    fn stop(kind: StopKind, code: u32) -> Option<BusEvent> {
        Some(BusEvent::Stop(Stop { kind, code, text: String::new() }))
    }

    #[test]
    fn ports_that_end_or_mark_the_run() {
        check(&[(MARK_PORT, 4, 0x1234_5678)], Some(BusEvent::Mark(0x1234_5678)));
        check(&[(MARK_PORT, 1, 1)], None);
        check(&[(DEBUG_EXIT_PORT, 1, 0x10)], stop(StopKind::DebugExit, 0x21));
        check(&[(DEBUG_EXIT_PORT, 4, 0)], stop(StopKind::DebugExit, 1));
        check(&[(KEYBOARD_COMMAND, 1, 0xfe)], stop(StopKind::Reset, 0));
        check(&[(KEYBOARD_COMMAND, 1, 0xd1)], None);
        check(&[(KEYBOARD_COMMAND, 1, 0xd1), (KEYBOARD_DATA, 1, 3)], None);
        check(&[(KEYBOARD_COMMAND, 1, 0xd1), (KEYBOARD_DATA, 1, 2)], stop(StopKind::Reset, 0));
        check(&[(SYSTEM_CONTROL, 1, 2)], None);
        check(&[(SYSTEM_CONTROL, 1, 3)], stop(StopKind::Reset, 0));
        check(&[(pm::CONTROL_PORT, 2, 0x2000)], stop(StopKind::PowerOff, 0));
        check(&[(pm::CONTROL_PORT, 2, 0x3400)], None);
        check(&[(RESET_CONTROL, 1, 2)], None);
        check(&[(RESET_CONTROL, 1, 6)], stop(StopKind::Reset, 0));
        check(&[(RESET_CONTROL - 1, 4, 0xffff_ffff)], None);
        check(&[(0x80, 1, 0x55)], None);
    }

    #[test]
    fn stray_ports_read_all_ones() {
        let mut board = Board::new(16 << 20, 2);
        assert_eq!(board.io_in(0x1234, 1, 0), 0xff);
        assert_eq!(board.io_in(0x1234, 2, 0), 0xffff);
        assert_eq!(board.io_in(0xffff, 4, 0), 0xffff_ffff);
        assert_eq!(board.mmio_read(0, Gpa(0xfed0_0000), 4, 0), None);
    }

    #[test]
    fn the_console_gathers_what_is_sent_and_interrupts_for_what_is_typed() {
        let mut board = Board::new(16 << 20, 2);
        for byte in *b"hello" {
            assert_eq!(board.io_out(SERIAL_PORT, 1, u32::from(byte), 0), None);
        }
        assert!(board.has_output());
        assert_eq!(board.output(), b"hello");
        assert!(!board.has_output());
        // The PIC at vectors 0x20 to 0x27, all unmasked, and the port's received-data interrupt.
        for (port, value) in [(0x20, 0x11), (0x21, 0x20), (0x21, 4), (0x21, 1), (0x21, 0), (SERIAL_PORT + 1, 1)] {
            board.io_out(port, 1, value, 0);
        }
        assert_eq!(board.interrupt(0, 0), None);
        board.key(b'x');
        assert_eq!(board.interrupt(0, 0), Some(0x24));
        board.acknowledge(0, 0);
        assert_eq!(board.interrupt(0, 0), None);
        assert_eq!(board.io_in(SERIAL_PORT, 1, 0), u32::from(b'x'));
        assert_eq!(board.interrupt(1, 0), None, "the PIC is wired to the first vCPU alone");
    }

    /// Writes a register of the I/O APIC.
    fn route(board: &mut Board, register: u64, value: u64) {
        for (offset, value) in [(0, register), (0x10, value)] {
            assert!(board.mmio_write(0, Gpa(0xfec0_0000 + offset), 4, value, 0));
        }
    }

    #[test]
    fn isa_lines_are_wired_to_the_ioapic_too() {
        let mut board = Board::new(16 << 20, 2);
        assert!(board.mmio_write(1, Gpa(0xfee0_00f0), 4, 0x1ff, 0));
        // The timer on pin 2 and the serial port on pin 4, both for the second vCPU; the PIC is masked.
        for (pin, vector) in [(2, 0x30), (4, 0x44)] {
            route(&mut board, 0x11 + pin * 2, 1 << 24);
            route(&mut board, 0x10 + pin * 2, vector);
        }
        board.io_out(0x21, 1, 0xff, 0);
        for (port, value) in [(0x43, 0x34), (0x40, 11932 & 0xff), (0x40, 11932 >> 8), (SERIAL_PORT + 1, 1)] {
            board.io_out(port, 1, value, 0);
        }
        let deadline = board.deadline().unwrap();
        assert_eq!((board.interrupt(1, deadline - 1), board.arrivals(deadline - 1)), (None, vec![]));
        assert_eq!(board.arrivals(deadline), [1]);
        assert_eq!((board.interrupt(0, deadline), board.interrupt(1, deadline)), (None, Some(0x30)));
        board.acknowledge(1, deadline);
        board.key(b'x');
        assert_eq!(board.interrupt(1, deadline), Some(0x44), "a higher class");
        route(&mut board, 0x14, 1 << 16);
        assert_eq!(board.deadline(), None, "nobody hears the timer");
    }

    #[test]
    fn the_pic_s_interrupts_come_before_the_local_apic_s() {
        let mut board = Board::new(16 << 20, 1);
        for (port, value) in [(0x20, 0x11), (0x21, 0x20), (0x21, 4), (0x21, 1), (0x21, 0), (SERIAL_PORT + 1, 1)] {
            board.io_out(port, 1, value, 0);
        }
        board.key(b'x');
        // A self-IPI.
        assert!(board.mmio_write(0, Gpa(0xfee0_0300), 4, 0x4_40f0, 0));
        for vector in [0x24, 0xf0] {
            assert_eq!(board.interrupt(0, 0), Some(vector));
            board.acknowledge(0, 0);
        }
        assert_eq!(board.interrupt(0, 0), None);
        // LINT0 masked: the PIC is not heard.
        board.io_in(SERIAL_PORT, 1, 0);
        board.io_out(0x20, 1, 0x20, 0);
        assert!(board.mmio_write(0, Gpa(0xfee0_0350), 4, 0x1_0700, 0));
        board.key(b'y');
        assert!(!board.wakes(0, 0));
    }

    #[test]
    fn the_timer_interrupts_at_its_deadline() {
        let mut board = Board::new(16 << 20, 2);
        for (port, value) in [(0x20, 0x11), (0x21, 0x20), (0x21, 4), (0x21, 1), (0x21, 0xfe)] {
            board.io_out(port, 1, value, 0);
        }
        // Channel 0 as a rate generator, 11932 ticks of 1193182 Hz: 10.00015 ms.
        for (port, value) in [(0x43, 0x34), (0x40, 11932 & 0xff), (0x40, 11932 >> 8)] {
            board.io_out(port, 1, value, 0);
        }
        let deadline = board.deadline().unwrap();
        assert_eq!(deadline, 10_000_151);
        assert_eq!(board.interrupt(0, deadline - 1), None);
        assert_eq!(board.interrupt(0, deadline), Some(0x20));
        board.acknowledge(0, deadline);
        board.io_out(0x20, 1, 0x20, deadline);
        assert_eq!(board.interrupt(0, deadline), None);
        assert_eq!(board.deadline(), Some(20_000_302));
        board.io_out(0x21, 1, 0xff, deadline);
        assert_eq!(board.deadline(), None, "nothing comes of a masked line");
    }
}
