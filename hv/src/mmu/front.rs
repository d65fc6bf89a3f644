//! The front cache: where a page of linear addresses lies, for accesses that need no further check.
//!
//! It is no part of the architecture. A line is made from a TLB entry and must not outlive it: whoever drops the entry
//! clears the line, or gives its context another number.

use super::tlb::PageSize;
use serde::{Deserialize, Serialize};

/// Lines for each kind of access.
const LINES: usize = 1024;

/// Ways to spread a page over the lines: contexts that share addresses do not take each other's lines.
const BANKS: usize = 4;

/// Context numbers, of which 0 is never used.
pub(super) const NUMBERS: u64 = 1024;

/// No tag of a line that holds anything: the number is 0.
const NOTHING: u64 = 0;

#[derive(Clone, Copy, Debug)]
struct Line {
    /// Bits 63:12 of the linear address; below them the context's number and the class of privilege.
    tag: u64,
    /// What turns a linear address of the page into a host-physical one, by wrapping addition.
    addend: u64,
}

/// The lines of one kind of access.
#[derive(Debug)]
pub(super) struct Front(Box<[Line; LINES]>);

impl Default for Front {
    fn default() -> Self {
        Self(Box::new([Line { tag: NOTHING, addend: 0 }; LINES]))
    }
}

impl Front {
    /// Where `bytes` bytes from `address` on lie, all of them in its page.
    #[inline(always)]
    pub(super) fn get(&self, address: u64, bytes: u64, context: Tag) -> Option<u64> {
        let line = &self.0[index(address, context.bank)];
        // The last byte's page: no line at this index is of the page behind that of `address`.
        let last = address.wrapping_add(bytes - 1);
        (line.tag == last & !0xfff | context.low).then(|| address.wrapping_add(line.addend))
    }

    #[inline]
    pub(super) fn fill(&mut self, address: u64, context: Tag, target: u64) {
        let tag = address & !0xfff | context.low;
        self.0[index(address, context.bank)] = Line { tag, addend: target.wrapping_sub(address) };
    }

    /// Clears the lines of a page, in every context.
    #[inline]
    pub(super) fn drop_page(&mut self, address: u64, size: PageSize) {
        let base = size.base(address);
        if size == PageSize::Small {
            for number in 0..BANKS as u64 {
                let line = &mut self.0[index(address, bank(number))];
                if line.tag & !0xfff == base {
                    line.tag = NOTHING;
                }
            }
        } else {
            for line in self.0.iter_mut().filter(|line| size.base(line.tag) == base) {
                line.tag = NOTHING;
            }
        }
    }

    /// Clears all.
    pub(super) fn clear(&mut self) {
        for line in self.0.iter_mut() {
            line.tag = NOTHING;
        }
    }
}

/// What tells the lines of a context and a class of privilege from others'.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(super) struct Tag {
    low: u64,
    bank: usize,
}

impl Tag {
    /// One that no line has, not even one that holds nothing.
    pub(super) const NONE: Self = Self { low: 1, bank: 0 };

    /// Of a context's number and a class below 4.
    #[inline]
    pub(super) fn new(number: u64, class: u64) -> Self {
        Self { low: number << 2 | class, bank: bank(number) }
    }

    /// The class.
    #[inline]
    pub(super) fn class(self) -> u64 {
        self.low & 3
    }
}

#[inline]
fn bank(number: u64) -> usize {
    number as usize % BANKS * (LINES / BANKS)
}

#[inline(always)]
fn index(address: u64, bank: usize) -> usize {
    ((address >> 12) as usize ^ bank) % LINES
}
