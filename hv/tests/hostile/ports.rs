//! The board, whatever is read from it and written to it: it answers within the width, its clock goes on, and it never waits
//! for what has passed.

use super::dice::Dice;
use hv::device::Board;
use hv::l0::{Bus, BusEvent, Ram};
use hv_defs::addr::Gpa;

/// Memory behind the devices' own accesses, of which there is none but a page.
struct Page([u8; 4096]);

impl Ram for Page {
    fn read(&mut self, at: Gpa, into: &mut [u8]) {
        into.fill(0xff);
        let from = self.0.get(at.0.min(4096) as usize..).unwrap_or_default();
        let count = from.len().min(into.len());
        into[..count].copy_from_slice(&from[..count]);
    }

    fn write(&mut self, at: Gpa, bytes: &[u8]) {
        let to = self.0.get_mut(at.0.min(4096) as usize..).unwrap_or_default();
        let count = to.len().min(bytes.len());
        to[..count].copy_from_slice(&bytes[..count]);
    }
}

/// Ports of devices, their neighbours, and any.
fn port(dice: &mut Dice) -> u16 {
    const FIRST: &[u16] = &[0x20, 0x40, 0x60, 0x70, 0x92, 0xa0, 0x3f8, 0x4d0, 0x510, 0x600, 0xcf8, 0xe9a, 0xf4, 0xfffc];
    if dice.once_in(8) {
        return dice.below(0x1_0000) as u16;
    }
    let span = if dice.once_in(4) { 32 } else { 4 };
    dice.pick(FIRST).wrapping_add(dice.below(span) as u16)
}

fn register(dice: &mut Dice) -> Gpa {
    let base = dice.pick(&[0xfee0_0000u64, 0xfee0_0000, 0xfec0_0000, 0xfed0_0000, 0xfee0_0ff0, 0xfec0_0ff0]);
    Gpa(base + if dice.once_in(3) { dice.below(0x1100) } else { dice.below(0x40) * 0x10 })
}

/// Asks a board for up to so many things, or until there are no bytes of a fuzzer's left. Returns a digest of its answers.
pub(crate) fn run(mut dice: Dice, steps: u64) -> u64 {
    let mut digest = 0u64;
    let vcpus = dice.pick(&[1, 2, 5]);
    let mut board = Board::new(dice.pick(&[1 << 20, 64 << 20, 5 << 30]), vcpus);
    let mut ram = Page([0; 4096]);
    ram.0.iter_mut().for_each(|byte| *byte = dice.below(0x100) as u8);
    let mut now = 0u64;
    let fuzzed = !dice.is_spent();
    for _ in 0..steps {
        if fuzzed && dice.is_spent() {
            break;
        }
        let vcpu = dice.below(vcpus.into()) as u16;
        let size = dice.pick(&[1u8, 2, 4, 8]);
        match dice.below(14) {
            0..=2 => {
                let (at, size) = (port(&mut dice), size.min(4));
                let value = board.io_in(at, size, now);
                digest = digest.rotate_left(7) ^ u64::from(value);
                assert!(size == 4 || value >> (8 * size) == 0, "port {at:#x}: {value:#x} in {size} bytes");
            }
            3..=6 => {
                let (at, value) = (port(&mut dice), dice.number() as u32);
                match board.io_out(at, size.min(4), value, now) {
                    Some(BusEvent::Dma(at)) => board.dma(at, &mut ram),
                    Some(BusEvent::Stop(stop)) => {
                        assert!(!stop.text.is_empty() && !stop.text.contains('\n'), "{stop:?}")
                    }
                    Some(BusEvent::Mark(_)) | None => {}
                }
            }
            7 => {
                let at = register(&mut dice);
                if let Some(value) = board.mmio_read(vcpu, at, size, now) {
                    assert!(size == 8 || value >> (8 * size) == 0, "{at:?}: {value:#x} in {size} bytes");
                    digest = digest.rotate_left(7) ^ value;
                }
            }
            8..=9 => {
                board.mmio_write(vcpu, register(&mut dice), size, dice.number(), now);
            }
            10 => {
                let x2apic = 0x800 + dice.below(0x40) as u32;
                let msr = dice.pick(&[0x1b, 0x6e0, x2apic, x2apic]);
                if dice.once_in(2) {
                    // L0 keeps back addresses beyond its width.
                    board.write_apic_msr(vcpu, msr, dice.number() & ((1 << 46) - 1), now);
                } else {
                    board.read_apic_msr(vcpu, msr, now);
                }
            }
            11 => {
                if board.interrupt(vcpu, now).is_some() && dice.once_in(2) {
                    board.acknowledge(vcpu, now);
                }
                let signals = board.signals(vcpu);
                if signals.nmi {
                    board.take_nmi(vcpu);
                }
                if signals.init {
                    board.take_init(vcpu, dice.once_in(2));
                }
                if signals.start_up.is_some() {
                    board.take_start_up(vcpu);
                }
            }
            12 => match dice.below(4) {
                0 => board.key(dice.below(0x100) as u8),
                1 => board.set_cr8(vcpu, dice.below(16) as u8),
                2 => board.tsc_moved(vcpu, dice.number(), now),
                _ => drop(board.output()),
            },
            _ => {
                now += match dice.below(4) {
                    0 => dice.below(10),
                    1 => dice.below(100_000),
                    2 => dice.below(1 << 34),
                    // To when something happens, as a machine that idles goes.
                    _ => board.deadline().map_or(0, |deadline| deadline.saturating_sub(now).min(1 << 40)),
                };
                let news = board.arrivals(now);
                assert!(news.iter().all(|vcpu| *vcpu < usize::from(vcpus)), "{news:?}");
                // A deadline that has passed would have a machine wait for ever.
                if let Some(deadline) = board.deadline() {
                    assert!(deadline > now, "at {now} the board waits for {deadline}");
                }
            }
        }
    }
    digest ^ now
}

#[test]
fn any_access_to_the_board_has_an_answer() {
    for seed in 0..200 {
        run(Dice::new(seed), 2000);
    }
}

#[test]
fn a_line_that_is_high_is_not_waited_for() {
    let mut board = Board::new(64 << 20, 1);
    for (port, value) in [(0x21, 0), (0xa1, 0), (0x602, 1)] {
        board.io_out(port, 1, value, 0);
    }
    let rises = board.deadline().expect("the timer's highest bit changes some time");
    board.arrivals(rises);
    assert!(board.deadline().is_none_or(|deadline| deadline > rises));
    // Its status is cleared: it rises again.
    board.io_out(0x600, 1, 1, rises);
    assert!(board.deadline().is_some_and(|deadline| deadline > rises));
}
