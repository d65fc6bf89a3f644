//! A sequence of requests in little memory: keys by dense numbers, a byte or two each, and what is wanted several times in
//! a row once. Whoever wants again what it had last finds it in a pool of any size.

use std::collections::HashMap;

/// What is wanted and given up, in order.
#[derive(Clone, Debug, Default)]
pub struct Requests {
    numbers: HashMap<u64, u32>,
    /// By number: it was wanted since it was given up last.
    live: Vec<bool>,
    /// Twice the number, and one more where it is given up: seven bits a byte, the least first; the last has no high bit.
    bytes: Vec<u8>,
    steps: u64,
    /// Requests that wanted what the one before did.
    repeats: u64,
    uses: u64,
    /// The number in the last step, where that is a use.
    last: Option<u32>,
}

/// A step of the sequence.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Step {
    pub(super) number: u32,
    /// It is given up, and had been wanted.
    pub(super) free: bool,
}

const MORE: u8 = 0x80;

impl Requests {
    /// Something is wanted.
    pub fn wants(&mut self, key: u64) {
        self.uses += 1;
        let next = self.live.len() as u32;
        let number = *self.numbers.entry(key).or_insert(next);
        if number == next {
            self.live.push(false);
        }
        if self.last == Some(number) {
            self.repeats += 1;
            return;
        }
        self.live[number as usize] = true;
        self.last = Some(number);
        self.push(u64::from(number) << 1);
    }

    /// Something is given up.
    pub fn gives_up(&mut self, key: u64) {
        let Some(&number) = self.numbers.get(&key) else { return };
        if !core::mem::take(&mut self.live[number as usize]) {
            return;
        }
        self.last = None;
        self.push(u64::from(number) << 1 | 1);
    }

    fn push(&mut self, mut step: u64) {
        self.steps += 1;
        while step >= u64::from(MORE) {
            self.bytes.push(step as u8 | MORE);
            step >>= 7;
        }
        self.bytes.push(step as u8);
    }

    /// How often something was wanted.
    pub fn count(&self) -> u64 {
        self.uses
    }

    /// How many different things were.
    pub fn distinct(&self) -> usize {
        self.live.len()
    }

    /// Uses that a pool of one slot has.
    pub(super) fn repeats(&self) -> u64 {
        self.repeats
    }

    /// How many steps there are.
    pub(super) fn steps(&self) -> u64 {
        self.steps
    }

    /// Bytes that the steps take.
    pub(super) fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// The steps in order.
    pub(super) fn forward(&self) -> impl Iterator<Item = Step> + '_ {
        self.between(0, self.bytes.len())
    }

    /// Those from one byte to another, where steps begin.
    pub(super) fn between(&self, from: usize, to: usize) -> impl Iterator<Item = Step> + '_ {
        let mut bytes = self.bytes[from..to].iter();
        core::iter::from_fn(move || {
            let (mut step, mut shift) = (0, 0);
            loop {
                let byte = *bytes.next()?;
                step |= u64::from(byte & !MORE) << shift;
                shift += 7;
                if byte & MORE == 0 {
                    return Some(decoded(step));
                }
            }
        })
    }

    /// The steps from the last to the first, each with the byte that it begins at.
    pub(super) fn backward(&self) -> impl Iterator<Item = (usize, Step)> + '_ {
        let mut end = self.bytes.len();
        core::iter::from_fn(move || {
            let mut at = end.checked_sub(1)?;
            let mut step = u64::from(self.bytes[at]);
            while at > 0 && self.bytes[at - 1] & MORE != 0 {
                at -= 1;
                step = step << 7 | u64::from(self.bytes[at] & !MORE);
            }
            end = at;
            Some((at, decoded(step)))
        })
    }
}

const fn decoded(step: u64) -> Step {
    Step { number: (step >> 1) as u32, free: step & 1 != 0 }
}
