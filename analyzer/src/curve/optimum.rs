//! The clairvoyant optimum, as a stack: of what a pool holds it gives up what is needed last. The stack keeps at each place
//! what the pool of that size has and the smaller ones have not.
//!
//! A use takes its key to the top, and what was there goes down: at each place, what is needed later goes on, up to the
//! place that has come free. So only places change that are needed later than all above them, and the search for the next
//! of these passes over whole blocks.

use super::requests::Step;
use super::{Depths, Requests};
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// When a thing is needed that is never needed again, or given up before.
const NEVER: u64 = u64::MAX;
/// When nothing is needed: a hole.
const HOLE: u64 = 0;
const NONE: u32 = u32::MAX;
const BLOCK: usize = 64;
/// Steps whose next uses are worked out at a time, at least.
const PART: u64 = 1 << 16;

#[derive(Default)]
struct Stack {
    keys: Vec<u32>,
    /// By place: when its key is needed next, one more than the step's number.
    needed: Vec<u64>,
    /// The latest of each block of places.
    latest: Vec<u64>,
    /// By key: its place.
    places: Vec<u32>,
    /// Places whose key was given up, first ones first.
    holes: BinaryHeap<Reverse<u32>>,
}

impl Stack {
    fn set(&mut self, place: usize, key: u32, needed: u64) {
        if place == self.keys.len() {
            self.keys.push(NONE);
            self.needed.push(HOLE);
            if place.is_multiple_of(BLOCK) {
                self.latest.push(HOLE);
            }
        }
        let before = core::mem::replace(&mut self.needed[place], needed);
        self.keys[place] = key;
        if let Some(at) = self.places.get_mut(key as usize) {
            *at = place as u32;
        }
        let block = place / BLOCK;
        if needed >= self.latest[block] {
            self.latest[block] = needed;
        } else if before == self.latest[block] {
            let all = self.needed[block * BLOCK..].iter().take(BLOCK);
            self.latest[block] = all.copied().max().unwrap_or(HOLE);
        }
    }

    /// The first place from `from` up to `to`, itself not counted, that is needed later than `needed`.
    fn later(&self, mut from: usize, to: usize, needed: u64) -> Option<usize> {
        while from < to {
            let block = from / BLOCK;
            let end = ((block + 1) * BLOCK).min(to);
            if self.latest[block] > needed
                && let Some(at) = self.needed[from..end].iter().position(|other| *other > needed)
            {
                return Some(from + at);
            }
            from = end;
        }
        None
    }

    /// The place that a key is found at, from 0. `needed` says when it is needed next.
    fn wants(&mut self, key: u32, needed: u64) -> Option<usize> {
        let place = Some(self.places[key as usize]).filter(|place| *place != NONE);
        let hole = self.holes.peek().map(|hole| hole.0);
        let stop = match (hole, place) {
            // Pools that have the key keep their hole, which moves to where the key was.
            (Some(hole), Some(place)) if hole < place => {
                self.holes.pop();
                self.set(place as usize, NONE, HOLE);
                self.holes.push(Reverse(place));
                hole as usize
            }
            (_, Some(place)) => place as usize,
            (Some(hole), None) => {
                self.holes.pop();
                hole as usize
            }
            (None, None) => self.keys.len(),
        };
        if stop > 0 {
            let (mut carried, mut carried_needed) = (self.keys[0], self.needed[0]);
            let mut from = 1;
            while let Some(at) = self.later(from, stop, carried_needed) {
                let (next, next_needed) = (self.keys[at], self.needed[at]);
                self.set(at, carried, carried_needed);
                (carried, carried_needed, from) = (next, next_needed, at + 1);
            }
            self.set(stop, carried, carried_needed);
        }
        self.set(0, key, needed);
        place.map(|place| place as usize)
    }

    fn gives_up(&mut self, key: u32) {
        let place = core::mem::replace(&mut self.places[key as usize], NONE);
        if place != NONE {
            self.set(place as usize, NONE, HOLE);
            self.holes.push(Reverse(place));
        }
    }
}

/// A part of the steps: the byte that it begins at, and when each key is needed next behind it.
struct Part {
    from: usize,
    needed: Vec<u64>,
}

/// Notes that a key is needed at a step, or given up; returns when it is needed next behind that.
fn turn_back(needed: &mut [u64], at: u64, step: Step) -> u64 {
    core::mem::replace(&mut needed[step.number as usize], if step.free { NEVER } else { at + 1 })
}

/// Uses by the smallest pool that has what they want.
pub(super) fn depths(requests: &Requests) -> Depths {
    let (distinct, steps) = (requests.distinct(), requests.steps());
    // As much for what is known at the parts' ends as for one part.
    let length = PART.max((steps as f64 * distinct as f64).sqrt() as u64);
    let mut needed = vec![NEVER; distinct];
    let mut parts: Vec<Part> = Vec::new();
    for ((from, step), at) in requests.backward().zip((0..steps).rev()) {
        if at == steps - 1 || (at + 1).is_multiple_of(length) {
            parts.push(Part { from, needed: needed.clone() });
        }
        if let Some(part) = parts.last_mut() {
            part.from = from;
        }
        turn_back(&mut needed, at, step);
    }
    let mut stack = Stack { places: vec![NONE; distinct], ..Stack::default() };
    let mut depths = Depths::default();
    if requests.repeats() > 0 {
        depths.hits.push(requests.repeats());
    }
    let mut first = 0;
    while let Some(Part { from, mut needed }) = parts.pop() {
        let end = parts.last().map_or(requests.bytes(), |next| next.from);
        let mut part: Vec<(Step, u64)> = requests.between(from, end).map(|step| (step, NEVER)).collect();
        let ends = first + part.len() as u64;
        for (at, (step, next)) in (first..ends).rev().zip(part.iter_mut().rev()) {
            *next = turn_back(&mut needed, at, *step);
        }
        first += part.len() as u64;
        for (step, next) in part {
            if step.free {
                stack.gives_up(step.number);
            } else {
                depths.add(stack.wants(step.number, next));
            }
        }
    }
    depths
}
