//! The front cache: where a page of linear addresses lies, for accesses that need no further check.
//!
//! It is no part of the architecture. A line is made from a TLB entry and must not outlive it: whoever drops the entry
//! clears the line, or gives its context another number.

use super::tlb::PageSize;

/// Lines for each kind of access.
const LINES: usize = 256;

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
    /// Where `address` lies.
    #[inline(always)]
    pub(super) fn get(&self, address: u64, context: u64) -> Option<u64> {
        let line = &self.0[index(address)];
        (line.tag == address & !0xfff | context).then(|| address.wrapping_add(line.addend))
    }

    #[inline]
    pub(super) fn fill(&mut self, address: u64, context: u64, target: u64) {
        self.0[index(address)] = Line { tag: address & !0xfff | context, addend: target.wrapping_sub(address) };
    }

    /// Clears the lines of a page, in every context.
    #[inline]
    pub(super) fn drop_page(&mut self, address: u64, size: PageSize) {
        let base = size.base(address);
        if size == PageSize::Small {
            let line = &mut self.0[index(address)];
            if line.tag & !0xfff == base {
                line.tag = NOTHING;
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

#[inline(always)]
fn index(address: u64) -> usize {
    (address >> 12) as usize % LINES
}
