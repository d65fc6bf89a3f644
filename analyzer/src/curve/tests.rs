//! Curves against pools that run, and against every choice there is.

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
    assert_eq!((of.requests, of.distinct, of.compulsory, of.knee().map(|knee| knee.size)), (6, 3, 3, Some(3)));
    let rows: Vec<_> = of.sizes.iter().map(|row| (row.lru, row.fifo, row.optimum)).collect();
    assert_eq!(rows, [(6, 6, 6), (6, 6, 4), (3, 3, 3)]);
}

#[test]
fn an_empty_sequence_has_an_empty_curve() {
    assert_eq!(curve(&[]), Curve::default());
    assert_eq!(Curve::default().knee(), None);
    assert_eq!(curve(&[Request::Free(1)]).sizes, []);
}

/// A drawn sequence: mostly of the keys near the last one, at times of any, and now and then one is given up.
fn drawn(keys: u64, length: usize) -> Vec<Request> {
    let (mut state, mut near) = (0x2545_f491_4f6c_dd1d_u64, 0);
    let mut next = move |below: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % below
    };
    let mut one = || {
        if next(50) == 0 {
            near = next(keys);
        }
        let key = if next(8) == 0 { next(keys) } else { (near + next(keys.div_ceil(9))) % keys };
        if next(30) == 0 { Request::Free(key) } else { Request::Use(key) }
    };
    (0..length).map(|_| one()).collect()
}

/// The optimum at one size, by looking ahead for each thing that is held.
fn clairvoyant(requests: &[Request], size: usize) -> u64 {
    let mut needed = vec![usize::MAX; requests.len()];
    let mut later = std::collections::BTreeMap::new();
    for (at, request) in requests.iter().enumerate().rev() {
        match *request {
            Request::Free(key) => drop(later.remove(&key)),
            Request::Use(key) => needed[at] = later.insert(key, at).unwrap_or(usize::MAX),
        }
    }
    let (mut held, mut misses): (std::collections::BTreeMap<u64, usize>, u64) = Default::default();
    for (at, request) in requests.iter().enumerate() {
        match *request {
            Request::Free(key) => drop(held.remove(&key)),
            Request::Use(key) => {
                if held.insert(key, needed[at]).is_none() {
                    misses += 1;
                    if held.len() > size {
                        let others = held.iter().filter(|(other, _)| **other != key);
                        let last = others.max_by_key(|(_, need)| **need).map(|(other, _)| *other);
                        held.remove(&last.expect("another"));
                    }
                }
            }
        }
    }
    misses
}

/// Long ones and wide ones: times are numbered anew, next uses worked out part by part, and sizes thinned.
#[test]
fn long_and_wide_sequences_equal_pools_that_run() {
    for (keys, length, some) in [(7, 200_000, [1, 3, 6]), (90, 70_000, [2, 40, 80]), (700, 20_000, [100, 256, 336])] {
        let requests = drawn(keys, length);
        let of = curve(&requests);
        assert_eq!(of.distinct, keys);
        for size in some {
            let row = of.at(size).unwrap_or_else(|| panic!("{size} of {keys} has a row"));
            let run = |lru| brute(&requests, size as usize, lru);
            let expected =
                Misses { size, lru: run(true), fifo: run(false), optimum: clairvoyant(&requests, size as usize) };
            assert_eq!(row, expected, "{keys} keys");
            assert_eq!(of.lru_at(size), Some(row.lru));
        }
        assert!(of.sizes.iter().all(|row| row.optimum <= row.lru && row.optimum <= row.fifo));
        assert_eq!(of.sizes.last().map(|row| (row.size, row.lru)), Some((keys, of.compulsory)));
        assert_eq!(of.at(u64::MAX).map(|row| row.fifo), Some(of.compulsory));
    }
}

/// Ten thousand things wanted in turn: no pool but the largest has any of them when it is wanted again, unless it is
/// clairvoyant.
#[test]
fn ten_thousand_in_turn() {
    const KEYS: u64 = 10_000;
    let of = curve(&uses(&(0..3 * KEYS).map(|at| at % KEYS).collect::<Vec<_>>()));
    assert_eq!(of.at(256).map(|row| (row.lru, row.fifo)), Some((3 * KEYS, 3 * KEYS)));
    assert_eq!((of.lru_at(KEYS - 1), of.lru_at(KEYS)), (Some(3 * KEYS), Some(KEYS)));
    assert_eq!(
        of.knee().map(|knee| (knee.size, knee.misses, knee.last_saves, knee.beyond)),
        Some((KEYS, KEYS, 2 * KEYS, 0))
    );
    assert_eq!(
        of.at(256).map(|row| row.optimum),
        Some(clairvoyant(&uses(&(0..3 * KEYS).map(|at| at % KEYS).collect::<Vec<_>>()), 256))
    );
    assert!(of.sizes.len() < 400, "{}", of.sizes.len());
}

#[test]
fn requests_take_a_byte_or_two_and_repeats_none() {
    let mut all = Requests::default();
    (0..100_000).for_each(|at| all.wants((at / 4 % 60) << 12));
    assert_eq!((all.count(), all.distinct(), all.bytes()), (100_000, 60, 25_000));
    all.gives_up(99);
    all.gives_up(0);
    all.gives_up(0);
    assert_eq!(all.bytes(), 25_001, "what is not held is not given up");
    // Numbers from 60 to 63 take one byte, those to 8191 two, and the rest three.
    (0..10_000).for_each(|key| all.wants(1 << 40 | key));
    assert_eq!(all.bytes(), 25_001 + 4 + 2 * 8128 + 3 * 1868);
}

/// One size for all: a pool that holds all of its own misses no less for being larger.
#[test]
fn a_sum_has_every_size_of_the_largest() {
    let (a, b) = (curve(&drawn(5, 300)), curve(&drawn(9, 500)));
    let sum = Curve::sum([&a, &b].into_iter());
    assert_eq!(
        (sum.requests, sum.distinct, sum.compulsory),
        (a.requests + b.requests, 14, a.compulsory + b.compulsory)
    );
    assert_eq!(sum.sizes.len(), 9);
    for row in &sum.sizes {
        let (a, b) = (a.at(row.size).unwrap(), b.at(row.size).unwrap());
        assert_eq!(
            *row,
            Misses { size: row.size, lru: a.lru + b.lru, fifo: a.fifo + b.fifo, optimum: a.optimum + b.optimum }
        );
        assert_eq!(sum.lru_at(row.size), Some(row.lru));
    }
    assert_eq!(Curve::sum([].into_iter()), Curve::default());
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
