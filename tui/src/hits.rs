//! Which events a filter lets through, as one bit an event, block by block as they are scanned.
//!
//! A hundred million events take 12 MB, whatever matches. Blocks that are not scanned yet count as empty.

/// The matching events of one block.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Bits {
    words: Vec<u64>,
    count: u32,
}

impl Bits {
    /// The bits of `events` events of which those at `places` are set.
    pub(crate) fn new(events: usize, places: impl IntoIterator<Item = usize>) -> Self {
        let mut words = vec![0_u64; events.div_ceil(64)];
        for place in places {
            if let Some(word) = words.get_mut(place / 64) {
                *word |= 1 << (place % 64);
            }
        }
        let count = words.iter().map(|word| word.count_ones()).sum();
        Self { words, count }
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

/// The matching events of a trace.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Hits {
    /// The number of each block's first event.
    firsts: Vec<u64>,
    blocks: Vec<Option<Bits>>,
    scanned: usize,
    count: u64,
}

impl Hits {
    /// None yet, for blocks whose first events are these.
    pub(crate) fn new(firsts: Vec<u64>) -> Self {
        let blocks = vec![None; firsts.len()];
        Self { firsts, blocks, scanned: 0, count: 0 }
    }

    /// Puts a scanned block in its place.
    pub(crate) fn put(&mut self, block: usize, bits: Bits) {
        let Some(place) = self.blocks.get_mut(block) else { return };
        if place.is_none() {
            self.scanned += 1;
            self.count += u64::from(bits.count);
            *place = Some(bits);
        }
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
        if self.scanned == self.blocks.len() {
            return None;
        }
        let after = (block..self.blocks.len()).find(|&at| self.blocks[at].is_none());
        after.or_else(|| self.blocks.iter().position(Option::is_none))
    }

    /// Whether a block is scanned.
    pub(crate) fn scanned(&self, block: usize) -> bool {
        self.blocks.get(block).is_some_and(Option::is_some)
    }

    fn block_of(&self, event: u64) -> Option<usize> {
        self.firsts.partition_point(|&first| first <= event).checked_sub(1)
    }

    /// The first match at or after an event.
    pub(crate) fn at_or_after(&self, event: u64) -> Option<u64> {
        let start = self.block_of(event)?;
        (start..self.blocks.len()).find_map(|block| {
            let bits = self.blocks[block].as_ref().filter(|bits| bits.count > 0)?;
            let place = event.saturating_sub(self.firsts[block]) as usize;
            bits.at_or_after(place).map(|place| self.firsts[block] + place as u64)
        })
    }

    /// The last match at or before an event.
    pub(crate) fn at_or_before(&self, event: u64) -> Option<u64> {
        let start = self.block_of(event)?;
        (0..=start).rev().find_map(|block| {
            let bits = self.blocks[block].as_ref().filter(|bits| bits.count > 0)?;
            bits.at_or_before((event - self.firsts[block]) as usize).map(|place| self.firsts[block] + place as u64)
        })
    }

    /// Whether an event is among them.
    pub(crate) fn has(&self, event: u64) -> bool {
        self.at_or_after(event) == Some(event)
    }

    /// How many matches stand before an event, of those scanned.
    pub(crate) fn before(&self, event: u64) -> u64 {
        let Some(block) = self.block_of(event) else { return 0 };
        let whole: u64 = self.blocks[..block].iter().flatten().map(|bits| u64::from(bits.count)).sum();
        whole + self.blocks[block].as_ref().map_or(0, |bits| bits.before((event - self.firsts[block]) as usize))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two blocks of 100 and 70 events with these matches.
    fn hits(matches: &[u64]) -> Hits {
        let mut hits = Hits::new(vec![0, 100]);
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
    fn scanning_goes_on_from_where_one_stands_and_comes_round() {
        let mut hits = Hits::new(vec![0, 10, 20]);
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
