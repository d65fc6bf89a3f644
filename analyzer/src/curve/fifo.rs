//! First in, first out: pools of many sizes run side by side. A larger one may miss where a smaller one does not, so that
//! no stack gives them all.

use super::Requests;
use std::collections::VecDeque;

/// A pool of one size.
struct Pool {
    size: usize,
    /// Numbers as they came, each with how often it had been given up by then. Among them are some that are gone.
    order: VecDeque<(u32, u32)>,
    held: usize,
    misses: u64,
}

/// What all pools hold of each number.
struct Held {
    /// Words of a number's set of pools.
    words: usize,
    bits: Vec<u64>,
    /// How often each number was given up.
    given_up: Vec<u32>,
}

impl Held {
    fn has(&self, (number, given_up): (u32, u32), pool: usize) -> bool {
        let number = number as usize;
        self.given_up[number] == given_up && self.bits[number * self.words + pool / 64] >> (pool % 64) & 1 != 0
    }

    fn drop(&mut self, number: u32, pool: usize) {
        self.bits[number as usize * self.words + pool / 64] &= !(1 << (pool % 64));
    }
}

impl Pool {
    /// Takes a slot for what it does not have. `own` is its number.
    fn take(&mut self, number: u32, own: usize, held: &mut Held) {
        self.misses += 1;
        if self.held < self.size {
            self.held += 1;
            if self.order.len() > 2 * self.size + 16 {
                self.order.retain(|entry| held.has(*entry, own));
            }
        } else {
            while let Some(first) = self.order.pop_front() {
                if held.has(first, own) {
                    held.drop(first.0, own);
                    break;
                }
            }
        }
        self.order.push_back((number, held.given_up[number as usize]));
    }
}

/// Misses at each of these sizes.
pub(super) fn misses(requests: &Requests, sizes: &[u64]) -> Vec<u64> {
    let pool = |size: &u64| Pool { size: *size as usize, order: VecDeque::new(), held: 0, misses: 0 };
    let mut pools: Vec<Pool> = sizes.iter().map(pool).collect();
    let words = pools.len().div_ceil(64);
    let mut held = Held { words, bits: vec![0; requests.distinct() * words], given_up: vec![0; requests.distinct()] };
    for step in requests.forward() {
        let number = step.number as usize;
        for word in 0..words {
            let last = pools.len() - word * 64;
            let all = if last < 64 { (1 << last) - 1 } else { u64::MAX };
            let bits = held.bits[number * words + word];
            let mut left = if step.free { bits } else { all & !bits };
            while left != 0 {
                let own = word * 64 + left.trailing_zeros() as usize;
                left &= left - 1;
                if step.free {
                    pools[own].held -= 1;
                } else {
                    pools[own].take(step.number, own, &mut held);
                }
            }
            held.bits[number * words + word] = if step.free { 0 } else { all };
        }
        held.given_up[number] = held.given_up[number].wrapping_add(u32::from(step.free));
    }
    pools.into_iter().map(|pool| pool.misses).collect()
}
