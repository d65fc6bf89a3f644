//! Numbers that a seed decides, or the bytes that a fuzzer gives.

/// A sequence.
pub(crate) struct Dice {
    seed: u64,
    /// What is drawn before the seed has its turn, and how much of it was.
    bytes: Vec<u8>,
    drawn: usize,
}

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self { seed, bytes: Vec::new(), drawn: 0 }
    }

    /// What the bytes decide, few of them at a time; then it goes on as if with a seed, the same for all.
    pub(crate) fn of(bytes: &[u8]) -> Self {
        Self { seed: 0x5eed, bytes: bytes.to_vec(), drawn: 0 }
    }

    /// Whether no byte is left.
    pub(crate) fn is_spent(&self) -> bool {
        self.drawn >= self.bytes.len()
    }

    /// The bytes that are left.
    pub(crate) fn rest(&self) -> &[u8] {
        self.bytes.get(self.drawn..).unwrap_or_default()
    }

    /// A number of so many bytes.
    fn take(&mut self, count: usize) -> u64 {
        let mut bytes = [0; 8];
        let from = &self.bytes[self.drawn..(self.drawn + count).min(self.bytes.len())];
        bytes[..from.len()].copy_from_slice(from);
        self.drawn += count;
        u64::from_le_bytes(bytes)
    }

    pub(crate) fn roll(&mut self) -> u64 {
        if !self.is_spent() {
            return self.take(8);
        }
        self.seed = self.seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (self.seed ^ self.seed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ x >> 31
    }

    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        if self.is_spent() {
            return self.roll() % limit;
        }
        let bits = u64::BITS - (limit - 1).leading_zeros();
        self.take(bits.div_ceil(8) as usize) % limit
    }

    /// True once in `odds` times.
    pub(crate) fn once_in(&mut self, odds: u64) -> bool {
        self.below(odds) == 0
    }

    pub(crate) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }

    pub(crate) fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.below(0x100) as u8).collect()
    }

    /// A number that means something to somebody.
    pub(crate) fn number(&mut self) -> u64 {
        match self.below(6) {
            0 => self.roll(),
            1 => self.below(16),
            2 => 1 << self.below(64),
            3 => u64::MAX << self.below(64),
            4 => self.below(1 << 32),
            _ => (1u64 << self.below(64)).wrapping_sub(1),
        }
    }
}
