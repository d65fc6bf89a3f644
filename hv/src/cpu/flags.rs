//! RFLAGS, its arithmetic flags computed when they are asked for.
//!
//! An arithmetic op leaves two words: its result, sign-extended from the operand's width, and a word of what the result
//! alone does not tell. Bit 63 of that word is CF and bit 62 is CF ^ OF, so a vector of carries shifted to the top serves
//! as it is; bit 3 is AF, the carry out of bit 3; bit 0 is SF ^ the result's sign, and bits 15:8 are what the result's
//! low byte is xored with before its parity is taken. The last two are zero except where flags were set one by one.

use hv_defs::x86::Rflags;
use serde::{Deserialize, Serialize};

/// The bits of RFLAGS that exist and are not arithmetic.
const SYSTEM: u64 = 0x003f_7700;

const CF: u64 = 1;
const PF: u64 = 1 << 2;
const AF: u64 = 1 << 4;
const ZF: u64 = 1 << 6;
const SF: u64 = 1 << 7;
const OF: u64 = 1 << 11;

/// RFLAGS.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Flags {
    /// The last result, sign-extended.
    pub(crate) result: u64,
    /// What the result does not tell.
    pub(crate) word: u64,
    /// All other bits, bit 1 included.
    pub(crate) system: u64,
}

impl Default for Flags {
    fn default() -> Self {
        Self { result: 1, word: 1 << 8, system: 2 }
    }
}

impl Flags {
    #[inline(always)]
    pub(crate) fn zf(&self) -> bool {
        self.result == 0
    }

    #[inline(always)]
    pub(crate) fn cf(&self) -> bool {
        (self.word as i64) < 0
    }

    #[inline(always)]
    pub(crate) fn sf(&self) -> bool {
        ((self.result >> 63) ^ self.word) & 1 != 0
    }

    #[inline(always)]
    pub(crate) fn of(&self) -> bool {
        ((self.word ^ (self.word << 1)) as i64) < 0
    }

    /// SF != OF.
    #[inline(always)]
    pub(crate) fn less(&self) -> bool {
        ((self.word ^ (self.word << 1) ^ self.result ^ (self.word << 63)) as i64) < 0
    }

    #[inline(always)]
    pub(crate) fn pf(&self) -> bool {
        ((self.result ^ (self.word >> 8)) as u8).count_ones() & 1 == 0
    }

    #[inline(always)]
    pub(crate) fn af(&self) -> bool {
        self.word & 8 != 0
    }

    /// The six arithmetic flags, where RFLAGS has them.
    pub(crate) fn arithmetic(&self) -> u64 {
        let bit = |set: bool, flag: u64| if set { flag } else { 0 };
        bit(self.cf(), CF)
            | bit(self.pf(), PF)
            | bit(self.af(), AF)
            | bit(self.zf(), ZF)
            | bit(self.sf(), SF)
            | bit(self.of(), OF)
    }

    /// Sets the six arithmetic flags from where RFLAGS has them.
    pub(crate) fn set_arithmetic(&mut self, flags: u64) {
        let cf = flags & CF;
        let of = flags >> 11 & 1;
        let zf = flags & ZF != 0;
        self.result = u64::from(!zf);
        // The result is 0 or 1: its sign is clear, its low byte's parity is even or odd.
        let odd = flags & PF == 0;
        let delta = u64::from(odd == zf);
        self.word = cf << 63 | (cf ^ of) << 62 | (flags >> 4 & 1) << 3 | (flags >> 7 & 1) | delta << 8;
    }

    /// Sets CF and leaves the others.
    #[inline]
    pub(crate) fn set_cf(&mut self, cf: bool) {
        let flip = (u64::from(cf) << 63) ^ (self.word & 1 << 63);
        self.word ^= flip | flip >> 1;
    }

    /// Sets CF and OF and leaves the others.
    #[inline(always)]
    pub(crate) fn set_cf_of(&mut self, cf: bool, of: bool) {
        self.word = self.word & !(3 << 62) | u64::from(cf) << 63 | u64::from(cf ^ of) << 62;
    }

    /// RFLAGS.
    pub(crate) fn get(&self) -> u64 {
        self.system | self.arithmetic()
    }

    /// Sets RFLAGS, reserved bits excepted.
    pub(crate) fn set(&mut self, value: u64) {
        self.set_arithmetic(value);
        self.system = value & SYSTEM | 2;
    }

    /// Whether all bits of `flag` are set, of the flags that are not arithmetic.
    #[inline(always)]
    pub(crate) fn has(&self, flag: Rflags) -> bool {
        self.system & flag.bits() == flag.bits()
    }

    /// Sets or clears a flag that is not arithmetic.
    #[inline]
    pub(crate) fn put(&mut self, flag: Rflags, on: bool) {
        if on {
            self.system |= flag.bits();
        } else {
            self.system &= !flag.bits();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_set_of_flags_is_kept() {
        for number in 0..64u64 {
            let flags = (0..6).map(|bit| (number >> bit & 1) << [0, 2, 4, 6, 7, 11][bit]).fold(0, |a, b| a | b);
            let mut lazy = Flags::default();
            lazy.set(flags);
            assert_eq!(lazy.get(), flags | 2, "{flags:#x}");
            assert_eq!(lazy.less(), (flags & SF != 0) != (flags & OF != 0));
            for cf in [false, true] {
                let mut other = lazy;
                other.set_cf(cf);
                assert_eq!(other.get(), flags & !CF | u64::from(cf) | 2);
                other.set_cf_of(cf, !cf);
                assert_eq!(other.get(), flags & !(CF | OF) | u64::from(cf) | u64::from(!cf) << 11 | 2);
            }
        }
    }
}
