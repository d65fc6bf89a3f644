//! Ports and registers of all devices, in any order and width, as time passes.

use super::super::dice::Dice;
use super::super::ports;

pub(super) fn target(data: &[u8]) {
    super::same_again(data, || ports::run(Dice::of(data), 4000));
}
