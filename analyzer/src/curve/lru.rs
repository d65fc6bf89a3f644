//! Stack distances: the smallest pool that has what is wanted, where the least recently used is recycled.
//!
//! The stack is ordered by when each was used last, and its places are counted in a Fenwick tree over those times. A place
//! whose key was given up stays as a hole, which the next miss of a pool that has it fills.

use super::{Depths, Requests};
use std::collections::BinaryHeap;

const NONE: u32 = u32::MAX;

/// Who was used at which time, and how many of them are in the stack up to a time.
struct Stack {
    /// By time: the key in the stack, [`NONE`] for a hole or for nothing.
    keys: Vec<u32>,
    /// Whether a time is in the stack.
    placed: Vec<bool>,
    sums: Vec<u32>,
    /// Places in the stack.
    height: u32,
    /// The next time.
    now: usize,
    /// By key: when it was used last; [`NONE`] when it is not in the stack.
    used: Vec<u32>,
    /// Times of holes, latest first.
    holes: BinaryHeap<u32>,
}

impl Stack {
    fn new(distinct: usize) -> Self {
        let room = (distinct * 4).max(1024);
        Self {
            keys: vec![NONE; room],
            placed: vec![false; room],
            sums: vec![0; room + 1],
            height: 0,
            now: 0,
            used: vec![NONE; distinct],
            holes: BinaryHeap::new(),
        }
    }

    fn add(&mut self, time: usize, more: bool) {
        self.placed[time] = more;
        let change = if more { 1 } else { u32::MAX };
        self.height = self.height.wrapping_add(change);
        let mut at = time + 1;
        while at < self.sums.len() {
            self.sums[at] = self.sums[at].wrapping_add(change);
            at += at & at.wrapping_neg();
        }
    }

    /// How many places lie above the one of that time.
    fn above(&self, time: usize) -> usize {
        let (mut at, mut sum) = (time + 1, 0);
        while at > 0 {
            sum += self.sums[at];
            at &= at - 1;
        }
        (self.height - sum) as usize
    }

    /// Numbers the times anew, from 0, without those that are not in the stack.
    fn compact(&mut self) {
        let mut next = 0;
        let mut holes = Vec::new();
        for time in 0..self.now {
            if !self.placed[time] {
                continue;
            }
            let key = self.keys[time];
            self.keys[next] = key;
            match self.used.get_mut(key as usize) {
                Some(used) => *used = next as u32,
                None => holes.push(next as u32),
            }
            next += 1;
        }
        self.holes = holes.into();
        (self.height, self.now) = (0, next);
        self.sums.fill(0);
        self.placed.fill(false);
        (0..next).for_each(|time| self.add(time, true));
    }

    /// The place that a key is found at, from 0.
    fn wants(&mut self, key: u32) -> Option<usize> {
        if self.now == self.keys.len() {
            self.compact();
        }
        let at = Some(self.used[key as usize]).filter(|used| *used != NONE);
        let place = at.map(|at| self.above(at as usize));
        // Pools up to the first hole push something out; larger ones fill the hole instead. Those that are large enough to
        // have the key keep their hole, which moves to where the key was.
        let hole = self.holes.peek().copied();
        match (hole, at) {
            (Some(hole), Some(at)) if hole > at => {
                self.holes.pop();
                self.add(hole as usize, false);
                self.keys[at as usize] = NONE;
                self.holes.push(at);
            }
            (_, Some(at)) => self.add(at as usize, false),
            (Some(hole), None) => {
                self.holes.pop();
                self.add(hole as usize, false);
            }
            (None, None) => {}
        }
        let now = self.now;
        self.keys[now] = key;
        self.add(now, true);
        self.used[key as usize] = now as u32;
        self.now += 1;
        place
    }

    fn gives_up(&mut self, key: u32) {
        let at = core::mem::replace(&mut self.used[key as usize], NONE);
        if at != NONE {
            self.keys[at as usize] = NONE;
            self.holes.push(at);
        }
    }
}

/// Uses by the smallest pool that has what they want.
pub(super) fn depths(requests: &Requests) -> Depths {
    let (mut stack, mut depths) = (Stack::new(requests.distinct()), Depths::default());
    if requests.repeats() > 0 {
        depths.hits.push(requests.repeats());
    }
    for step in requests.forward() {
        if step.free {
            stack.gives_up(step.number);
        } else {
            depths.add(stack.wants(step.number));
        }
    }
    depths
}
