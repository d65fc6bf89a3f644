//! Miss curves: how often a pool of each size would have missed on the same sequence of requests.
//!
//! LRU and the clairvoyant optimum are stack algorithms: one pass gives every size. First-in-first-out is not, and is
//! run for each size. See: Mattson, Gecsei, Slutz, Traiger, "Evaluation techniques for storage hierarchies".

use std::collections::{BTreeMap, BTreeSet};

/// What a pool is asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Request {
    /// Something is wanted, by its key.
    Use(u64),
    /// Something is given up, in a pool of any size.
    Free(u64),
}

/// Misses at each size.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Curve {
    /// How many requests there were.
    pub requests: u64,
    /// How many different things were asked for.
    pub distinct: u64,
    /// Misses that no size avoids: the first request for each thing, and the first after it was given up.
    pub compulsory: u64,
    /// A row for each size, from 1; beyond the last every size misses as the last.
    pub sizes: Vec<Misses>,
}

/// Misses at one size.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Misses {
    /// Slots.
    pub size: u64,
    /// When the least recently used one is recycled.
    pub lru: u64,
    /// When the one that came first is recycled.
    pub fifo: u64,
    /// When the one that is needed last is recycled: no rule does better.
    pub optimum: u64,
}

/// The sizes beyond which first-in-first-out is not run: curves of many things end there.
pub const MAX_SIZE: usize = 64;

/// The miss curve of a sequence of requests, up to the size that holds everything, or [`MAX_SIZE`].
pub fn curve(requests: &[Request]) -> Curve {
    let distances = lru_distances(requests);
    let distinct: BTreeSet<u64> = requests.iter().filter_map(used).collect();
    let largest = distinct.len().min(MAX_SIZE);
    let needed = next_needed(requests);
    let sizes = (1..=largest).map(|size| Misses {
        size: size as u64,
        lru: distances.iter().filter(|distance| distance.is_none_or(|distance| distance > size)).count() as u64,
        fifo: fifo(requests, size),
        optimum: optimum(requests, &needed, size),
    });
    Curve {
        requests: distances.len() as u64,
        distinct: distinct.len() as u64,
        compulsory: distances.iter().filter(|distance| distance.is_none()).count() as u64,
        sizes: sizes.collect(),
    }
}

impl Curve {
    /// The smallest size from which on more slots save less than one request in a hundred under LRU.
    pub fn knee(&self) -> Option<u64> {
        let best = self.sizes.last()?.lru;
        let near = |row: &&Misses| (row.lru - best.min(row.lru)) * 100 <= self.requests;
        self.sizes.iter().find(near).map(|row| row.size)
    }

    /// The row of a size; sizes beyond the last have the last's.
    pub fn at(&self, size: u64) -> Option<Misses> {
        let at = usize::try_from(size.checked_sub(1)?).unwrap_or(usize::MAX);
        self.sizes.get(at).or(self.sizes.last()).copied()
    }
}

fn used(request: &Request) -> Option<u64> {
    match request {
        Request::Use(key) => Some(*key),
        Request::Free(_) => None,
    }
}

/// For each use, the smallest LRU pool that has it; `None` where none has.
fn lru_distances(requests: &[Request]) -> Vec<Option<usize>> {
    // Most recent first. A place whose key was given up stays as a hole, which the next miss of a pool that has it fills.
    let mut stack: Vec<Option<u64>> = Vec::new();
    let mut distances = Vec::new();
    for request in requests {
        match *request {
            Request::Free(key) => {
                if let Some(place) = stack.iter_mut().find(|place| **place == Some(key)) {
                    *place = None;
                }
            }
            Request::Use(key) => {
                let found = stack.iter().position(|place| *place == Some(key));
                distances.push(found.map(|at| at + 1));
                // Pools up to the first hole push something out; larger ones fill the hole instead. Those that are large
                // enough to have the key keep their hole, which moves to where the key was.
                match (stack.iter().position(Option::is_none), found) {
                    (Some(hole), Some(at)) if hole < at => {
                        stack[at] = None;
                        stack.remove(hole);
                    }
                    (_, Some(at)) => {
                        stack.remove(at);
                    }
                    (Some(hole), None) => {
                        stack.remove(hole);
                    }
                    (None, None) => {}
                }
                stack.insert(0, Some(key));
            }
        }
    }
    distances
}

fn fifo(requests: &[Request], size: usize) -> u64 {
    let (mut order, mut held, mut misses) = (std::collections::VecDeque::new(), BTreeSet::new(), 0);
    for request in requests {
        match *request {
            Request::Free(key) => {
                if held.remove(&key) {
                    order.retain(|other| *other != key);
                }
            }
            Request::Use(key) => {
                if held.contains(&key) {
                    continue;
                }
                misses += 1;
                if held.len() == size
                    && let Some(first) = order.pop_front()
                {
                    held.remove(&first);
                }
                order.push_back(key);
                held.insert(key);
            }
        }
    }
    misses
}

/// For each request, the next use of its key with no give-up between; `usize::MAX` where there is none.
fn next_needed(requests: &[Request]) -> Vec<usize> {
    let mut next = vec![usize::MAX; requests.len()];
    let mut later: BTreeMap<u64, usize> = BTreeMap::new();
    for (at, request) in requests.iter().enumerate().rev() {
        match *request {
            Request::Free(key) => {
                later.remove(&key);
            }
            Request::Use(key) => {
                next[at] = later.insert(key, at).unwrap_or(usize::MAX);
            }
        }
    }
    next
}

fn optimum(requests: &[Request], needed: &[usize], size: usize) -> u64 {
    // What is held, by when it is needed next; what is never needed again by its key behind all others.
    let (mut held, mut by_need, mut misses) = (BTreeMap::new(), BTreeSet::new(), 0);
    for (at, request) in requests.iter().enumerate() {
        match *request {
            Request::Free(key) => {
                if let Some(need) = held.remove(&key) {
                    by_need.remove(&(need, key));
                }
            }
            Request::Use(key) => {
                match held.remove(&key) {
                    Some(need) => {
                        by_need.remove(&(need, key));
                    }
                    None => {
                        misses += 1;
                        if held.len() == size
                            && let Some((_, last)) = by_need.pop_last()
                        {
                            held.remove(&last);
                        }
                    }
                }
                held.insert(key, needed[at]);
                by_need.insert((needed[at], key));
            }
        }
    }
    misses
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn uses(keys: &[u64]) -> Vec<Request> {
        keys.iter().map(|&key| Request::Use(key)).collect()
    }

    /// A pool run as it stands, with the slot to recycle chosen by `choose`.
    fn brute(requests: &[Request], size: usize, lru: bool) -> u64 {
        let (mut pool, mut misses): (Vec<u64>, u64) = (Vec::new(), 0);
        for request in requests {
            match *request {
                Request::Free(key) => pool.retain(|other| *other != key),
                Request::Use(key) => match pool.iter().position(|other| *other == key) {
                    Some(at) if lru => {
                        pool.remove(at);
                        pool.push(key);
                    }
                    Some(_) => {}
                    None => {
                        misses += 1;
                        if pool.len() == size {
                            pool.remove(0);
                        }
                        pool.push(key);
                    }
                },
            }
        }
        misses
    }

    /// The fewest misses over every choice of what to recycle.
    fn fewest(requests: &[Request], size: usize, pool: &mut Vec<u64>) -> u64 {
        let Some((request, rest)) = requests.split_first() else { return 0 };
        match *request {
            Request::Free(key) => {
                let mut pool: Vec<u64> = pool.iter().copied().filter(|other| *other != key).collect();
                fewest(rest, size, &mut pool)
            }
            Request::Use(key) if pool.contains(&key) => fewest(rest, size, pool),
            Request::Use(key) if pool.len() < size => {
                pool.push(key);
                let misses = 1 + fewest(rest, size, pool);
                pool.retain(|other| *other != key);
                misses
            }
            Request::Use(key) => {
                let mut best = u64::MAX;
                for at in 0..pool.len() {
                    let mut other = pool.clone();
                    other[at] = key;
                    best = best.min(1 + fewest(rest, size, &mut other));
                }
                best
            }
        }
    }

    /// A, B, C, A, B, C: one slot or two of LRU keep nothing that is asked for next; three keep all. The optimum with two
    /// slots gives B up for C, so that A hits, then gives A up for B, so that C hits: A, B, C and B miss.
    #[test]
    fn a_cycle_of_three() {
        let of = curve(&uses(&[1, 2, 3, 1, 2, 3]));
        assert_eq!((of.requests, of.distinct, of.compulsory, of.knee()), (6, 3, 3, Some(3)));
        let rows: Vec<_> = of.sizes.iter().map(|row| (row.lru, row.fifo, row.optimum)).collect();
        assert_eq!(rows, [(6, 6, 6), (6, 6, 4), (3, 3, 3)]);
    }

    #[test]
    fn an_empty_sequence_has_an_empty_curve() {
        assert_eq!(curve(&[]), Curve::default());
        assert_eq!(Curve::default().knee(), None);
        assert_eq!(curve(&[Request::Free(1)]).sizes, []);
    }

    fn request() -> impl Strategy<Value = Request> {
        prop_oneof![6 => (0..6_u64).prop_map(Request::Use), 1 => (0..6_u64).prop_map(Request::Free)]
    }

    proptest! {
        #[test]
        fn curves_equal_pools_that_run(requests in prop::collection::vec(request(), 0..120)) {
            for row in curve(&requests).sizes {
                prop_assert_eq!(row.lru, brute(&requests, row.size as usize, true));
                prop_assert_eq!(row.fifo, brute(&requests, row.size as usize, false));
                prop_assert!(row.optimum <= row.lru && row.optimum <= row.fifo);
            }
        }

        #[test]
        fn no_choice_beats_the_optimum(requests in prop::collection::vec(request(), 0..12)) {
            for row in curve(&requests).sizes {
                prop_assert_eq!(row.optimum, fewest(&requests, row.size as usize, &mut Vec::new()));
            }
        }

        #[test]
        fn more_slots_never_miss_more_under_lru(requests in prop::collection::vec(request(), 0..120)) {
            let of = curve(&requests);
            prop_assert!(of.sizes.is_sorted_by(|less, more| less.lru >= more.lru && less.optimum >= more.optimum));
            prop_assert!(of.sizes.last().is_none_or(|row| row.lru == of.compulsory && row.optimum == of.compulsory));
        }
    }
}
