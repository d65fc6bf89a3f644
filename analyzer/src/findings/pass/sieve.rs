//! The few VMCS accesses that a fold must see one by one, found by a scan over columns; and L0's work, counted.

use crate::chunk::{Chunk, TILE, Tile, code, decode};
use crate::findings::mistakes;
use crate::judge::Bench;
use core::ops::Range;
use hv_defs::event::{Actor, VmcsAccess, VmcsOp, Which};
use hv_defs::vmcs::{COUNT, TABLE, VmcsField};

/// Whom an access concerns.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Concern(u8);

impl Concern {
    /// The judge.
    pub(super) const JUDGE: Self = Self(1);
    /// The findings on the pool.
    pub(super) const POOL: Self = Self(2);
    /// The findings on mistakes.
    pub(super) const MISTAKES: Self = Self(4 | 8 | 16);
    /// The same, by what they look for: values that L2 is given, and access rights.
    const HANDED_ON: Self = Self(8);
    const RIGHTS: Self = Self(16);

    pub(super) const fn contains(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    const fn with(self, other: Self, is: bool) -> Self {
        if is { Self(self.0 | other.0) } else { self }
    }
}

/// L0's VMCS accesses between two other events, by what they cost.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(in crate::findings) struct Work {
    /// VMREADs.
    pub(in crate::findings) reads: u64,
    /// VMWRITEs.
    pub(in crate::findings) writes: u64,
    /// VMPTRLDs and VMCLEARs.
    pub(in crate::findings) pointers: u64,
}

/// Bits of each number of a [`Work`] in one word.
const PART: u32 = 21;

/// An access that concerns somebody.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found {
    /// Its row.
    pub(super) row: u32,
    pub(super) concern: Concern,
    pub(super) access: VmcsAccess,
}

#[derive(Debug)]
pub(super) struct Sieve {
    /// Whom an access by this code concerns, whatever its field.
    always: [Concern; 256],
    /// Whom it concerns if its field is one of theirs.
    by_field: [Concern; 256],
    fields: [Concern; 256],
    /// L0's work by code.
    work: [u64; 256],
    /// The codes of all rows.
    codes: Vec<u8>,
    /// The accesses that concern somebody, and the next of them.
    found: Vec<Found>,
    next: usize,
}

impl Default for Sieve {
    fn default() -> Self {
        let mut sieve = Self {
            always: [Concern::default(); 256],
            by_field: [Concern::default(); 256],
            fields: [Concern::default(); 256],
            work: [0; 256],
            codes: Vec::new(),
            found: Vec::new(),
            next: 0,
        };
        let codes = (0..=u8::MAX).filter_map(|code| Some((usize::from(code), decode(code)?)));
        for (at, (actor, which, op)) in codes {
            debug_assert_eq!(usize::from(code(actor, which, op)), at);
            let touches = matches!(op, VmcsOp::Read | VmcsOp::Write);
            let clears = op == VmcsOp::Clear && matches!(which, Which::Vmcs12 | Which::Vmcs02);
            sieve.always[at] = Concern::default()
                .with(Concern::POOL, op == VmcsOp::Clear && (actor, which) == (Actor::L1, Which::Vmcs12))
                .with(Concern::MISTAKES, clears);
            let hands_on = which == Which::Vmcs02 && touches
                || which == Which::Vmcs12 && op == VmcsOp::Write && actor == Actor::L1;
            sieve.by_field[at] = Concern::default()
                .with(Concern::JUDGE, which == Which::Vmcs12 && touches)
                .with(Concern::HANDED_ON, hands_on)
                .with(Concern::RIGHTS, which == Which::Shadow12 && op == VmcsOp::Write && actor >= Actor::L2);
            if actor == Actor::L0 {
                sieve.work[at] = match op {
                    VmcsOp::Read => 1,
                    VmcsOp::Write => 1 << PART,
                    VmcsOp::Clear | VmcsOp::Load => 1 << (2 * PART),
                    VmcsOp::Store => 0,
                };
            }
        }
        // Fields that the SDM does not define are nobody's.
        for (concern, field) in sieve.fields[..COUNT].iter_mut().zip(TABLE.iter().map(|row| row.field)) {
            *concern = of_field(field);
        }
        sieve
    }
}

fn of_field(field: VmcsField) -> Concern {
    Concern::default()
        .with(Concern::JUDGE, Bench::asks_for(field))
        .with(Concern::HANDED_ON, mistakes::is_handed_on(field))
        .with(Concern::RIGHTS, mistakes::is_rights(field))
}

impl Sieve {
    /// Begins a chunk.
    pub(super) fn begin(&mut self) {
        self.next = 0;
        self.found.clear();
        self.codes.clear();
    }

    /// The chunk's next accesses.
    pub(super) fn sift(&mut self, chunk: &Chunk, tile: &Tile<'_>) {
        let &Tile { first, code, field, address, old, value } = tile;
        self.codes.extend_from_slice(code);
        // Each row is put down before it is known whether it is kept.
        let (mut rows, mut count) = ([0_u8; TILE], 0);
        for (row, (code, field)) in (0..=u8::MAX).zip(code.iter().zip(field)) {
            rows[count] = row;
            count += usize::from(self.concern(*code, *field).0 != 0);
        }
        for at in rows[..count].iter().map(|row| usize::from(*row)) {
            let Some((actor, which, op)) = decode(code[at]) else { continue };
            let row = first + at as u32;
            let field = match field[at] {
                Tile::STRANGER => chunk.field(row),
                index => TABLE[usize::from(index)].field,
            };
            let access = VmcsAccess { actor, which, address: address[at], op, field, old: old[at], value: value[at] };
            self.found.push(Found { row, concern: self.concern(code[at], tile.field[at]), access });
        }
    }

    #[inline(always)]
    fn concern(&self, code: u8, field: u8) -> Concern {
        let (code, field) = (usize::from(code), usize::from(field));
        Concern(self.by_field[code].0 & self.fields[field].0 | self.always[code].0)
    }

    /// The next access before row `end` that concerns somebody.
    #[inline]
    pub(super) fn next_before(&mut self, end: u32) -> Option<Found> {
        let found = self.found.get(self.next).filter(|found| found.row < end)?;
        self.next += 1;
        Some(*found)
    }

    /// L0's work in some rows.
    #[inline]
    pub(super) fn work(&self, rows: Range<u32>) -> Work {
        // No chunk has so many rows that one number runs into the next.
        let codes = &self.codes[rows.start as usize..rows.end as usize];
        let sum: u64 = codes.iter().map(|code| self.work[usize::from(*code)]).sum();
        let part = |at: u32| sum >> (at * PART) & ((1 << PART) - 1);
        Work { reads: part(0), writes: part(1), pointers: part(2) }
    }
}

const _: () = assert!(traces::MAX_BLOCK_EVENTS < 1 << PART);
const _: () = assert!(TILE <= 256);
