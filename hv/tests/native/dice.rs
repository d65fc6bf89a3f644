//! Random numbers, and values that arithmetic finds interesting.

/// A seeded generator (xorshift).
#[derive(Clone)]
pub struct Dice(u64);

impl Dice {
    /// The generator of one form's cases, whatever other forms there are.
    pub fn new(seed: u64, form: u64, mode: u64) -> Self {
        let mut x = seed ^ (form << 8 | mode).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        Self((x ^ x >> 31) | 1)
    }

    /// True once in `odds` times.
    pub fn once_in(&mut self, odds: u64) -> bool {
        self.below(odds) == 0
    }

    pub fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len() as u64) as usize]
    }

    pub fn roll(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.roll() % limit
    }

    /// A value that arithmetic finds interesting more often than chance does.
    pub fn value(&mut self) -> u64 {
        match self.below(10) {
            0 => self.below(4).wrapping_sub(2),
            1 => 1 << self.below(64),
            2 => (1u64 << self.below(64)).wrapping_sub(1),
            3 => self.below(256),
            4 => u64::from(self.roll() as u32),
            5 => self.roll() as i32 as u64,
            6 => self.roll() & 0x8000_8000_8000_8080,
            _ => self.roll(),
        }
    }

    fn float64(&mut self) -> u64 {
        match self.below(8) {
            0 => self.value(),
            1 => (self.roll() as i32 as f64).to_bits(),
            2 => self.below(2) << 63 | [0, 0x7ff, 0x7ff, 1, 0x7fe][self.below(5) as usize] << 52 | self.below(3) << 50,
            _ => (self.below(2) << 63) | (1023 - 40 + self.below(80)) << 52 | self.roll() >> 12,
        }
    }

    fn float32(&mut self) -> u64 {
        match self.below(8) {
            0 => self.value() & 0xffff_ffff,
            1 => u64::from((self.roll() as i16 as f32).to_bits()),
            2 => self.below(2) << 31 | [0, 0xff, 0xff, 1, 0xfe][self.below(5) as usize] << 23 | self.below(3) << 21,
            _ => (self.below(2) << 31) | (127 - 20 + self.below(40)) << 23 | self.roll() >> 41,
        }
    }

    /// Eight bytes of a vector register or of memory.
    pub fn lane(&mut self) -> u64 {
        match self.below(4) {
            0 => self.float64(),
            1 => self.float32() | self.float32() << 32,
            _ => self.value(),
        }
    }

    pub fn f80(&mut self) -> [u8; 10] {
        let sign = (self.below(2) << 15) as u16;
        let (exponent, significand) = match self.below(12) {
            0 => (0, 0),
            1 => (0x7fff, 1 << 63),
            2 => (0x7fff, self.roll() | 1 << 63),
            3 => (0, self.roll() >> 1),
            4 => (self.below(0x8000) as u16, self.roll()),
            _ => (0x3fff - 40 + self.below(80) as u16, self.roll() | 1 << 63),
        };
        let mut bytes = [0; 10];
        bytes[..8].copy_from_slice(&significand.to_le_bytes());
        bytes[8..].copy_from_slice(&(sign | exponent).to_le_bytes());
        bytes
    }
}
