//! Host-physical memory: one flat region from address 0, zeroed when it is first touched.
//!
//! Each page carries flags: whether decoded instructions of it exist, and whether it was written since the last digest.
//! [`Memory::write`] acts on them; [`Memory::store`] is for a caller who knows that they need no action.
//!
//! Beyond the last byte nothing answers: reads give all ones, writes vanish.

#![allow(unsafe_code)] // Loads and stores at checked offsets of one region, on the interpreter's hottest path.

use crate::vmcs::Vmcs;
use core::alloc::{GlobalAlloc, Layout};
use core::mem::{align_of, size_of};
use core::ptr::NonNull;
use hv_defs::addr::{Hpa, PAGE_SIZE};
use std::alloc::System;

/// An integer or an array of bytes as it lies in memory, little-endian.
///
/// # Safety
/// Every bit pattern must be a value of the type, and it must have no padding.
pub unsafe trait Word: Copy {
    /// What reads where nothing answers.
    const ONES: Self;
}

/// Bytes of the longest [`Word`].
const LONGEST: usize = 32;

macro_rules! word {
    ($($type:ty: $ones:expr;)*) => {
        $(
            // SAFETY: integers and arrays of bytes have no padding and no invalid values.
            unsafe impl Word for $type {
                const ONES: Self = $ones;
            }
        )*
    };
}

word! {
    u8: u8::MAX;
    u16: u16::MAX;
    u32: u32::MAX;
    u64: u64::MAX;
    u128: u128::MAX;
    [u8; 10]: [u8::MAX; 10];
    [u8; 16]: [u8::MAX; 16];
    [u8; 32]: [u8::MAX; 32];
}

/// What is known of a page.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PageFlags(u8);

impl PageFlags {
    const CODE: u8 = 1;
    const DIRTY: u8 = 2;

    /// Decoded instructions of the page exist; a write must drop them.
    #[inline]
    pub const fn code(self) -> bool {
        self.0 & Self::CODE != 0
    }

    /// The page was written since the last digest.
    #[inline]
    pub const fn dirty(self) -> bool {
        self.0 & Self::DIRTY != 0
    }

    /// Whether a store to the page needs nothing but the store.
    #[inline]
    pub const fn plain_store(self) -> bool {
        self.0 == Self::DIRTY
    }
}

/// Host-physical memory.
pub struct Memory {
    /// The first byte, at a page's beginning of the host's, so that the host's KVM can map it into guests.
    base: NonNull<u8>,
    /// What `base` points into: it is not touched but through that.
    _bytes: Vec<u128>,
    size: u64,
    /// What begins below lies in memory whole, as long as it may be.
    reach: u64,
    flags: Vec<PageFlags>,
    /// What each page adds to `sum`; 0 for a page of zeros.
    digests: Vec<u64>,
    dirty: Vec<u32>,
    sum: u64,
    code_written: Vec<u32>,
    write_epoch: u64,
}

// SAFETY: the pointer is into the vector beside it, which moves from thread to thread with it.
unsafe impl Send for Memory {}
// SAFETY: shared, it is only read.
unsafe impl Sync for Memory {}

impl core::fmt::Debug for Memory {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Memory").field("size", &self.size).finish_non_exhaustive()
    }
}

impl Memory {
    /// `size` bytes of zeros, rounded up to whole pages. The host gives the memory when it is touched.
    pub fn new(size: u64) -> Self {
        let pages = size.div_ceil(PAGE_SIZE) as usize;
        // With a page more there is a beginning of one within the first, and the host gives zeros without a look at them.
        let mut bytes = vec![0u128; (pages + 1) * (PAGE_SIZE as usize / size_of::<u128>())];
        let first = bytes.as_mut_ptr().cast::<u8>();
        let to_page = first.align_offset(PAGE_SIZE as usize);
        // SAFETY: a page's beginning is less than a page away, and there is one more than `pages`.
        let base = NonNull::new(unsafe { first.add(to_page) }).expect("what was allocated is somewhere");
        Self {
            base,
            _bytes: bytes,
            size: pages as u64 * PAGE_SIZE,
            reach: (pages as u64 * PAGE_SIZE + 1).saturating_sub(LONGEST as u64),
            flags: vec![PageFlags::default(); pages],
            digests: vec![0; pages],
            dirty: Vec::new(),
            sum: 0,
            code_written: Vec::new(),
            write_epoch: 0,
        }
    }

    /// Whether the host can give memory of that size. It may still have less when all of it is touched.
    pub fn is_available(size: u64) -> bool {
        let layout = usize::try_from(size).ok().and_then(|size| Layout::array::<u8>(size.max(1)).ok());
        layout.is_some_and(|layout| {
            // The system is asked itself: a program may have an allocator that does not return where there is no memory.
            // SAFETY: the layout has a size, and what was allocated by it is given back by it.
            unsafe {
                // A compiler may take it that what is not used can always be had.
                let bytes = core::hint::black_box(System.alloc(layout));
                if !bytes.is_null() {
                    System.dealloc(bytes, layout);
                }
                !bytes.is_null()
            }
        })
    }

    /// Bytes of memory.
    #[inline]
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// Whether `length` bytes from `at` on are all memory.
    #[inline(always)]
    pub const fn holds(&self, at: Hpa, length: u64) -> bool {
        length <= self.size && at.0 <= self.size - length
    }

    /// Reads a value, which may cross into the next page.
    #[inline(always)]
    pub fn read<T: Word>(&self, at: Hpa) -> T {
        const { assert!(size_of::<T>() <= LONGEST) };
        if at.0 >= self.reach && !self.holds(at, size_of::<T>() as u64) {
            return T::ONES;
        }
        // SAFETY: the bytes lie within the region, as just checked; any bytes are a `T`.
        unsafe { self.base.as_ptr().add(at.0 as usize).cast::<T>().read_unaligned() }
    }

    /// Writes a value, which may cross into the next page, without a look at any page's flags: for pages whose
    /// [`PageFlags::plain_store`] holds.
    #[inline(always)]
    pub fn store<T: Word>(&mut self, at: Hpa, value: T) {
        const { assert!(size_of::<T>() <= LONGEST) };
        if at.0 >= self.reach && !self.holds(at, size_of::<T>() as u64) {
            return;
        }
        // SAFETY: the bytes lie within the region, as just checked, and `self` is borrowed mutably.
        unsafe { self.base.as_ptr().add(at.0 as usize).cast::<T>().write_unaligned(value) }
    }

    /// Writes a value, which may cross into the next page, and acts on the flags of the pages.
    #[inline]
    pub fn write<T: Word>(&mut self, at: Hpa, value: T) {
        self.touch(at, size_of::<T>() as u64);
        self.store(at, value);
    }

    /// The bytes from `at` on; `None` where they are not all memory.
    pub fn bytes(&self, at: Hpa, length: usize) -> Option<&[u8]> {
        if !self.holds(at, length as u64) {
            return None;
        }
        // SAFETY: the bytes lie within the region, as just checked, and are initialised.
        Some(unsafe { core::slice::from_raw_parts(self.base.as_ptr().add(at.0 as usize), length) })
    }

    /// Where the page at `at` lies in this process, for a host's KVM to map into a guest; `None` where the bytes are not all
    /// memory. Whoever lets a guest write there says so by [`Memory::written_by_others`].
    pub fn host_address(&self, at: Hpa, length: u64) -> Option<NonNull<u8>> {
        // SAFETY: the bytes lie within the region, as just checked.
        self.holds(at, length).then(|| unsafe { self.base.add(at.0 as usize) })
    }

    /// Says that these bytes may have been written by who knows of no flags. What was decoded of their pages is for the
    /// caller to drop.
    pub fn written_by_others(&mut self, at: Hpa, length: u64) {
        if length == 0 || !self.holds(at, length) {
            return;
        }
        for page in at.0 / PAGE_SIZE..=(at.0 + length - 1) / PAGE_SIZE {
            let flags = &mut self.flags[page as usize];
            if !flags.dirty() {
                flags.0 |= PageFlags::DIRTY;
                self.dirty.push(page as u32);
            }
        }
    }

    /// Writes bytes and acts on the flags of their pages. `false`, and nothing is written, where they are not all memory.
    pub fn write_bytes(&mut self, at: Hpa, bytes: &[u8]) -> bool {
        if !self.holds(at, bytes.len() as u64) {
            return false;
        }
        self.touch(at, bytes.len() as u64);
        // SAFETY: the bytes lie within the region, as just checked; `self` is borrowed mutably, so they do not overlap.
        unsafe {
            let to = self.base.as_ptr().add(at.0 as usize);
            core::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len());
        }
        true
    }

    /// Copies bytes within memory, which may overlap, without a look at any page's flags: for pages whose
    /// [`PageFlags::plain_store`] holds. `false`, and nothing is written, where they are not all memory.
    pub fn copy(&mut self, from: Hpa, to: Hpa, length: u64) -> bool {
        if !self.holds(from, length) || !self.holds(to, length) {
            return false;
        }
        let bytes = self.base.as_ptr();
        // SAFETY: both lie within the region, as just checked; `self` is borrowed mutably.
        unsafe { core::ptr::copy(bytes.add(from.0 as usize), bytes.add(to.0 as usize), length as usize) };
        true
    }

    /// Writes bytes of one page beside its decoded instructions, which the caller has seen to: the page stays marked as
    /// having some. `false`, and nothing is written, where they are not all memory.
    pub fn write_beside_code(&mut self, at: Hpa, bytes: &[u8]) -> bool {
        if !self.holds(at, bytes.len() as u64) {
            return false;
        }
        let page = (at.0 / PAGE_SIZE) as usize;
        let flags = &mut self.flags[page];
        if !flags.dirty() {
            flags.0 |= PageFlags::DIRTY;
            self.dirty.push(page as u32);
        }
        for (offset, &byte) in (0..).zip(bytes) {
            self.store(at.offset(offset), byte);
        }
        true
    }

    /// The VMCS in the region at `at`.
    ///
    /// # Panics
    /// When `at` is not page-aligned or not memory: VMPTRLD and VMCLEAR have checked it.
    #[inline(always)]
    pub fn vmcs(&self, at: Hpa) -> &Vmcs {
        assert!(at.is_page_aligned() && self.holds(at, PAGE_SIZE), "a VMCS region is a page of memory");
        const { assert!(align_of::<Vmcs>() <= align_of::<u128>() && size_of::<Vmcs>() <= PAGE_SIZE as usize) };
        // SAFETY: the page is memory and aligned; `Vmcs` is plain integers that fit in it.
        unsafe { &*self.base.as_ptr().add(at.0 as usize).cast::<Vmcs>() }
    }

    /// The VMCS in the region at `at`, to change. The region counts as written.
    ///
    /// # Panics
    /// As [`Memory::vmcs`].
    #[inline(always)]
    pub fn vmcs_mut(&mut self, at: Hpa) -> &mut Vmcs {
        assert!(at.is_page_aligned() && self.holds(at, PAGE_SIZE), "a VMCS region is a page of memory");
        self.touch_page((at.0 / PAGE_SIZE) as usize);
        // SAFETY: as in `vmcs`, and `self` is borrowed mutably.
        unsafe { &mut *self.base.as_ptr().add(at.0 as usize).cast::<Vmcs>() }
    }

    /// What is known of the page that holds `at`; nothing, for what is not memory.
    #[inline]
    pub fn flags(&self, at: Hpa) -> PageFlags {
        self.flags.get((at.0 / PAGE_SIZE) as usize).copied().unwrap_or_default()
    }

    /// Marks the page that holds `at` as written, unless it holds decoded instructions. Whether stores to it need no
    /// further action.
    #[inline]
    pub fn prepare_stores(&mut self, at: Hpa) -> bool {
        let page = (at.0 / PAGE_SIZE) as usize;
        match self.flags.get(page) {
            Some(flags) if flags.plain_store() => true,
            Some(flags) if !flags.code() => {
                self.touch_page(page);
                true
            }
            _ => false,
        }
    }

    /// Says that decoded instructions of the page that holds `at` exist. The caller drops its own fast ways to write to
    /// the page; others learn it from [`Memory::write_epoch`].
    pub fn set_code(&mut self, at: Hpa) {
        if let Some(flags) = self.flags.get_mut((at.0 / PAGE_SIZE) as usize)
            && !flags.code()
        {
            flags.0 |= PageFlags::CODE;
            self.write_epoch += 1;
        }
    }

    /// Says that no decoded instructions of the page that holds `at` exist any more.
    pub fn clear_code(&mut self, at: Hpa) {
        if let Some(flags) = self.flags.get_mut((at.0 / PAGE_SIZE) as usize) {
            flags.0 &= !PageFlags::CODE;
        }
    }

    /// Pages (by number) with decoded instructions that [`Memory::write`] and its like have written to since the last
    /// call. They are no longer marked as having any.
    pub fn take_code_written(&mut self) -> Vec<u32> {
        core::mem::take(&mut self.code_written)
    }

    /// Whether [`Memory::take_code_written`] has anything to tell.
    #[inline]
    pub fn code_was_written(&self) -> bool {
        !self.code_written.is_empty()
    }

    /// Changes when a page that took plain stores no longer does.
    #[inline]
    pub const fn write_epoch(&self) -> u64 {
        self.write_epoch
    }

    /// By page, what it adds to the digest: 0 for a page of zeros. Only the pages written since the last call, or the last
    /// [`Memory::digest`], are read.
    pub fn page_digests(&mut self) -> &[u64] {
        self.digest();
        &self.digests
    }

    /// A digest of all of memory. Only the pages written since the last call are read.
    pub fn digest(&mut self) -> u64 {
        let dirty = core::mem::take(&mut self.dirty);
        for &page in &dirty {
            let page = page as usize;
            // SAFETY: the page is memory, and aligned for its words.
            let words = unsafe {
                let first = self.base.as_ptr().add(page * PAGE_SIZE as usize).cast::<u128>();
                core::slice::from_raw_parts(first, PAGE_SIZE as usize / size_of::<u128>())
            };
            let now = page_digest(page as u64, words);
            self.sum = self.sum.wrapping_sub(self.digests[page]).wrapping_add(now);
            self.digests[page] = now;
            self.flags[page].0 &= !PageFlags::DIRTY;
        }
        self.write_epoch += 1;
        self.dirty = dirty;
        self.dirty.clear();
        self.sum
    }

    #[inline]
    fn touch(&mut self, at: Hpa, length: u64) {
        if length == 0 || !self.holds(at, length) {
            return;
        }
        for page in at.0 / PAGE_SIZE..=(at.0 + length - 1) / PAGE_SIZE {
            self.touch_page(page as usize);
        }
    }

    #[inline]
    fn touch_page(&mut self, page: usize) {
        if !self.flags[page].plain_store() {
            self.touch_first(page);
        }
    }

    #[cold]
    fn touch_first(&mut self, page: usize) {
        let flags = &mut self.flags[page];
        if flags.code() {
            flags.0 &= !PageFlags::CODE;
            self.code_written.push(page as u32);
        }
        if !flags.dirty() {
            flags.0 |= PageFlags::DIRTY;
            self.dirty.push(page as u32);
        }
    }
}

/// Folds the product of two words into one: each bit of either counts in most bits of the result.
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    product as u64 ^ (product >> 64) as u64
}

const ODD: [u64; 5] =
    [0x9e37_79b9_7f4a_7c15, 0xbf58_476d_1ce4_e5b9, 0x94d0_49bb_1331_11eb, 0xd6e8_feb8_6659_fd93, 0xa076_1d64_78bd_642f];

/// A page's part of the digest: 0 for a page of zeros, whatever its number, so that untouched pages need no look.
fn page_digest(number: u64, words: &[u128]) -> u64 {
    let mut lanes = [ODD[0] ^ number, ODD[1], ODD[2], ODD[3]];
    let mut any = 0;
    for pair in words.chunks_exact(4) {
        for (lane, &word) in lanes.iter_mut().zip(pair) {
            any |= word;
            let (low, high) = (word.to_le() as u64, (word.to_le() >> 64) as u64);
            *lane = fold(*lane ^ low, ODD[4] ^ high).wrapping_add(*lane).rotate_left(23);
        }
    }
    if any == 0 {
        return 0;
    }
    let sum = lanes.iter().fold(number, |sum, &lane| fold(sum ^ lane, ODD[0]).wrapping_add(lane));
    fold(sum, ODD[2]) | 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_little_endian_and_may_cross_pages() {
        let mut memory = Memory::new(3 * PAGE_SIZE);
        memory.write(Hpa(0xffe), 0x1122_3344u32);
        assert_eq!(memory.read::<u8>(Hpa(0xffe)), 0x44);
        assert_eq!(memory.read::<u8>(Hpa(0x1001)), 0x11);
        assert_eq!(memory.bytes(Hpa(0xffe), 4), Some(&[0x44, 0x33, 0x22, 0x11][..]));
        assert!(
            memory.flags(Hpa(0)).dirty() && memory.flags(Hpa(0x1000)).dirty() && !memory.flags(Hpa(0x2000)).dirty()
        );
    }

    #[test]
    fn beyond_the_end_nothing_answers() {
        let mut memory = Memory::new(PAGE_SIZE);
        for at in [PAGE_SIZE - 7, PAGE_SIZE, 1 << 45, u64::MAX - 3, u64::MAX] {
            memory.write(Hpa(at), 0u64);
            assert_eq!(memory.read::<u64>(Hpa(at)), u64::MAX, "{at:#x}");
            assert!(!memory.write_bytes(Hpa(at), &[0; 8]));
            assert_eq!(memory.bytes(Hpa(at), 8), None);
        }
        assert_eq!(memory.digest(), 0);
    }

    #[test]
    fn a_write_to_a_page_with_code_is_told_once() {
        let mut memory = Memory::new(2 * PAGE_SIZE);
        memory.set_code(Hpa(0x1000));
        assert!(!memory.prepare_stores(Hpa(0x1ff8)));
        memory.write(Hpa(0xffc), 1u64);
        memory.write(Hpa(0x1010), 1u8);
        assert_eq!(memory.take_code_written(), [1]);
        assert!(memory.prepare_stores(Hpa(0x1ff8)) && !memory.code_was_written());
    }

    #[test]
    fn the_digest_is_of_content_not_of_history() {
        let mut one = Memory::new(16 * PAGE_SIZE);
        let mut other = Memory::new(16 * PAGE_SIZE);
        let check = |one: &mut Memory, other: &mut Memory, equal| assert_eq!(one.digest() == other.digest(), equal);
        check(&mut one, &mut other, true);
        one.write(Hpa(0x1000), 1u8);
        check(&mut one, &mut other, false);
        other.write(Hpa(0x2000), 1u8);
        check(&mut one, &mut other, false);
        other.write(Hpa(0x1000), 1u8);
        one.write(Hpa(0x2000), 1u8);
        check(&mut one, &mut other, true);
        one.write(Hpa(0x1000), 0u8);
        one.write(Hpa(0x1008), 1u8);
        check(&mut one, &mut other, false);
        one.write(Hpa(0x1008), 0x0u8);
        one.write(Hpa(0x1000), 1u8);
        check(&mut one, &mut other, true);
    }

    #[test]
    fn a_digest_makes_stores_need_action_again() {
        let mut memory = Memory::new(PAGE_SIZE);
        assert!(memory.prepare_stores(Hpa(0)));
        let epoch = memory.write_epoch();
        let before = memory.digest();
        assert!(memory.write_epoch() != epoch && !memory.flags(Hpa(0)).plain_store());
        memory.write(Hpa(8), 7u64);
        assert_ne!(memory.digest(), before);
    }
}
