//! Which events a filter lets through, as one bit an event, block by block as they are scanned.
//!
//! A hundred million events take 12 MB, whatever matches. Blocks that are not scanned yet count as empty. A
//! look for a match, and for how many stand before an event, takes some hundreds of steps at most, whatever the size of
//! the trace: see `Set` and `sums`.

use std::sync::Arc;

/// The matching events of one block.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Bits {
    words: Vec<u64>,
    count: u32,
}

impl Bits {
    /// The bits of `events` events of which those at `places` are set.
    #[cfg(test)]
    pub(crate) fn new(events: usize, places: impl IntoIterator<Item = usize>) -> Self {
        let mut words = vec![0_u64; events.div_ceil(64)];
        places.into_iter().for_each(|place| words[place / 64] |= 1 << (place % 64));
        Self::of_words(words)
    }

    /// No bits.
    pub(crate) fn none() -> Self {
        Self { words: Vec::new(), count: 0 }
    }

    /// A bit an event, from the lowest of the first word on.
    pub(crate) fn of_words(words: Vec<u64>) -> Self {
        let count = words.iter().map(|word| word.count_ones()).sum();
        // Most filters let through few events: blocks without any take no memory.
        if count == 0 { Self::none() } else { Self { words, count } }
    }

    fn has(&self, place: usize) -> bool {
        self.words.get(place / 64).is_some_and(|word| word >> (place % 64) & 1 == 1)
    }

    /// The first set place at or after `place`.
    pub(crate) fn at_or_after(&self, place: usize) -> Option<usize> {
        let mut at = place / 64;
        let mut word = self.words.get(at)? & (u64::MAX << (place % 64));
        while word == 0 {
            at += 1;
            word = *self.words.get(at)?;
        }
        Some(at * 64 + word.trailing_zeros() as usize)
    }

    /// The last set place at or before `place`.
    pub(crate) fn at_or_before(&self, place: usize) -> Option<usize> {
        let mut at = (place / 64).min(self.words.len().checked_sub(1)?);
        let mask = if at == place / 64 { u64::MAX >> (63 - place % 64) } else { u64::MAX };
        let mut word = self.words[at] & mask;
        while word == 0 {
            at = at.checked_sub(1)?;
            word = self.words[at];
        }
        Some(at * 64 + 63 - word.leading_zeros() as usize)
    }

    fn before(&self, place: usize) -> u64 {
        let at = (place / 64).min(self.words.len());
        let whole: u32 = self.words[..at].iter().map(|word| word.count_ones()).sum();
        let part = self.words.get(at).map_or(0, |word| (word & !(u64::MAX << (place % 64))).count_ones());
        u64::from(whole + part)
    }
}

/// A set of blocks, of which the next member is found 64 blocks at a look.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Set(Vec<u64>);

impl Set {
    fn insert(&mut self, block: usize) {
        if self.0.len() <= block / 64 {
            self.0.resize(block / 64 + 1, 0);
        }
        self.0[block / 64] |= 1 << (block % 64);
    }

    fn has(&self, block: usize) -> bool {
        self.0.get(block / 64).is_some_and(|word| word >> (block % 64) & 1 == 1)
    }

    /// The first member at or after `block`; of those that are not members if `of` turns bits around.
    fn at_or_after(&self, block: usize, of: impl Fn(u64) -> u64) -> Option<usize> {
        let word = |at: usize| of(self.0.get(at).copied().unwrap_or(0));
        let (mut at, mut found) = (block / 64, word(block / 64) & (u64::MAX << (block % 64)));
        while found == 0 {
            at += 1;
            if at > self.0.len() {
                return None;
            }
            found = word(at);
        }
        Some(at * 64 + found.trailing_zeros() as usize)
    }

    fn at_or_before(&self, block: usize) -> Option<usize> {
        let mut at = (block / 64).min(self.0.len().checked_sub(1)?);
        let mut found = self.0[at] & if at == block / 64 { u64::MAX >> (63 - block % 64) } else { u64::MAX };
        while found == 0 {
            at = at.checked_sub(1)?;
            found = self.0[at];
        }
        Some(at * 64 + 63 - found.leading_zeros() as usize)
    }
}

/// The matching events of a trace.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Hits {
    /// The number of each block's first event.
    firsts: Arc<[u64]>,
    blocks: Vec<Option<Bits>>,
    /// Blocks that are scanned, and those of them that have a match.
    done: Set,
    filled: Set,
    /// Matches in blocks, as a Fenwick tree: entry `n` has those of the blocks from `n & (n + 1)` to `n`.
    sums: Vec<u64>,
    scanned: usize,
    count: u64,
}

impl Hits {
    /// None yet, for blocks whose first events are these.
    pub(crate) fn new(firsts: Arc<[u64]>) -> Self {
        let (blocks, sums) = (vec![None; firsts.len()], vec![0; firsts.len()]);
        Self { firsts, blocks, done: Set::default(), filled: Set::default(), sums, scanned: 0, count: 0 }
    }

    /// Takes in blocks that came since, unscanned.
    pub(crate) fn grow(&mut self, firsts: Arc<[u64]>) {
        self.blocks.resize(firsts.len().max(self.blocks.len()), None);
        self.firsts = firsts;
        // What was there stands in sums of more blocks now: few enough to be made anew.
        self.sums = vec![0; self.blocks.len()];
        for block in 0..self.blocks.len() {
            let count = self.blocks[block].as_ref().map_or(0, |bits| bits.count);
            self.add(block, count.into());
        }
    }

    /// Adds matches of a block to the sums.
    fn add(&mut self, block: usize, count: u64) {
        let mut at = block;
        while let Some(sum) = self.sums.get_mut(at) {
            *sum += count;
            at |= at + 1;
        }
    }

    /// Puts a scanned block in its place.
    pub(crate) fn put(&mut self, block: usize, bits: Bits) {
        if self.blocks.get(block).is_none_or(Option::is_some) {
            return;
        }
        self.scanned += 1;
        self.done.insert(block);
        let count = u64::from(bits.count);
        if count > 0 {
            self.count += count;
            self.filled.insert(block);
            self.add(block, count);
        }
        self.blocks[block] = Some(bits);
    }

    /// How many events match, of those scanned.
    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    /// How many blocks are scanned, of how many.
    pub(crate) fn progress(&self) -> (usize, usize) {
        (self.scanned, self.blocks.len())
    }

    /// The first block that is not scanned, from `block` on and then from the start.
    pub(crate) fn unscanned(&self, block: usize) -> Option<usize> {
        let from = |block| self.done.at_or_after(block, |word| !word).filter(|&at| at < self.blocks.len());
        from(block).or_else(|| from(0))
    }

    /// Whether a block is scanned.
    pub(crate) fn scanned(&self, block: usize) -> bool {
        self.done.has(block)
    }

    fn block_of(&self, event: u64) -> Option<usize> {
        self.firsts.partition_point(|&first| first <= event).checked_sub(1)
    }

    /// The bits of a block, if it is scanned, and the place of an event in it.
    fn place_of(&self, event: u64) -> Option<(usize, Option<&Bits>, usize)> {
        let block = self.block_of(event)?;
        Some((block, self.blocks[block].as_ref(), (event - self.firsts[block]) as usize))
    }

    /// The first match at or after an event.
    pub(crate) fn at_or_after(&self, event: u64) -> Option<u64> {
        let (block, bits, place) = self.place_of(event)?;
        if let Some(found) = bits.and_then(|bits| bits.at_or_after(place)) {
            return Some(self.firsts[block] + found as u64);
        }
        let next = self.filled.at_or_after(block + 1, |word| word)?;
        Some(self.firsts[next] + self.blocks[next].as_ref()?.at_or_after(0)? as u64)
    }

    /// The last match at or before an event.
    pub(crate) fn at_or_before(&self, event: u64) -> Option<u64> {
        let (block, bits, place) = self.place_of(event)?;
        if let Some(found) = bits.and_then(|bits| bits.at_or_before(place)) {
            return Some(self.firsts[block] + found as u64);
        }
        let last = self.filled.at_or_before(block.checked_sub(1)?)?;
        Some(self.firsts[last] + self.blocks[last].as_ref()?.at_or_before(usize::MAX)? as u64)
    }

    /// Whether an event is among them.
    pub(crate) fn has(&self, event: u64) -> bool {
        self.place_of(event).is_some_and(|(_, bits, place)| bits.is_some_and(|bits| bits.has(place)))
    }

    /// How many matches stand before an event, of those scanned.
    pub(crate) fn before(&self, event: u64) -> u64 {
        let Some((block, bits, place)) = self.place_of(event) else { return 0 };
        let (mut sum, mut left) = (0, block);
        while left > 0 {
            sum += self.sums[left - 1];
            left &= left - 1;
        }
        sum + bits.map_or(0, |bits| bits.before(place))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two blocks of 100 and 70 events with these matches.
    fn hits(matches: &[u64]) -> Hits {
        let mut hits = Hits::new(vec![0, 100].into());
        let of = |from: u64, to: u64| {
            let places: Vec<usize> =
                matches.iter().filter(|n| (from..to).contains(*n)).map(|n| (n - from) as usize).collect();
            Bits::new((to - from) as usize, places)
        };
        hits.put(1, of(100, 170));
        hits.put(0, of(0, 100));
        hits
    }

    #[track_caller]
    fn check(matches: &[u64]) {
        let hits = hits(matches);
        assert_eq!(hits.count(), matches.len() as u64);
        for event in 0..170 {
            assert_eq!(hits.at_or_after(event), matches.iter().copied().find(|&n| n >= event), "from {event}");
            assert_eq!(hits.at_or_before(event), matches.iter().copied().rfind(|&n| n <= event), "to {event}");
            assert_eq!(hits.before(event), matches.iter().filter(|&&n| n < event).count() as u64, "before {event}");
            assert_eq!(hits.has(event), matches.contains(&event));
        }
    }

    #[test]
    fn agree_with_a_plain_list() {
        check(&[]);
        check(&[0]);
        check(&[169]);
        check(&[63, 64, 65]);
        check(&[99, 100]);
        check(&[5, 98, 127, 128, 163, 164]);
        check(&(0..170).collect::<Vec<_>>());
    }

    #[test]
    fn a_trace_that_grows_keeps_what_was_found() {
        let mut hits = Hits::new(vec![0, 10].into());
        hits.put(0, Bits::new(10, [3]));
        hits.put(1, Bits::new(10, [1, 2]));
        assert_eq!(hits.unscanned(0), None);
        hits.grow(vec![0, 10, 20, 30, 40].into());
        assert_eq!((hits.unscanned(0), hits.progress()), (Some(2), (2, 5)));
        (2..5).for_each(|block| hits.put(block, Bits::new(10, [0])));
        assert_eq!(hits.count(), 6);
        assert_eq!([0, 4, 12, 20, 31, 41].map(|event| hits.before(event)), [0, 1, 2, 3, 5, 6]);
        assert_eq!((hits.at_or_before(39), hits.at_or_after(13)), (Some(30), Some(20)));
    }

    #[test]
    fn scanning_goes_on_from_where_one_stands_and_comes_round() {
        let mut hits = Hits::new(vec![0, 10, 20].into());
        assert_eq!(hits.unscanned(1), Some(1));
        hits.put(1, Bits::new(10, [3]));
        hits.put(1, Bits::new(10, [4]));
        assert_eq!((hits.count(), hits.progress()), (1, (1, 3)));
        assert_eq!(hits.unscanned(1), Some(2));
        hits.put(2, Bits::new(10, []));
        assert_eq!(hits.unscanned(1), Some(0));
        hits.put(0, Bits::new(10, []));
        assert_eq!(hits.unscanned(1), None);
    }
}
