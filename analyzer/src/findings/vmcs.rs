//! VMCS accesses by field: how many, how many in vain, and which would be worth shadowing.

use crate::chunk::{Chunk, Tile, decode};
use hv_defs::event::{Actor, VmcsOp, Which};
use hv_defs::vmcs::{self, COUNT, Shadowed, TABLE, VmcsField};
use std::collections::{BTreeMap, HashMap};

/// Accesses of one actor to one field of one kind of VMCS.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FieldRow {
    /// Who.
    pub actor: Actor,
    /// Which VMCS.
    pub which: Which,
    /// The field.
    pub field: VmcsField,
    /// VMREADs.
    pub reads: u64,
    /// VMREADs that gave the value that was last read or written.
    pub same_reads: u64,
    /// VMWRITEs.
    pub writes: u64,
    /// VMWRITEs of the value that was there.
    pub same_writes: u64,
}

impl FieldRow {
    /// Its place in KVM's fixed list of shadowed fields.
    pub fn shadowed(&self) -> Shadowed {
        self.field.index().map_or(Shadowed::No, |index| TABLE[index].shadowed)
    }

    /// Reads and writes.
    pub fn accesses(&self) -> u64 {
        self.reads + self.writes
    }
}

/// All VMCS accesses.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Vmcs {
    /// By actor, VMCS and field, most accesses first.
    pub rows: Vec<FieldRow>,
    /// VMPTRLDs, VMCLEARs and VMPTRSTs, by actor and VMCS.
    pub others: Vec<(Actor, Which, VmcsOp, u64)>,
}

impl Vmcs {
    /// Controls that were written, those rewritten without change most often first. Of vmcs01 and vmcs02 they are dear: a
    /// VMWRITE of a control has the next entry check the whole VMCS again, whatever it writes.
    pub fn controls(&self) -> Vec<FieldRow> {
        let mut rows: Vec<FieldRow> =
            self.rows.iter().filter(|row| row.writes > 0 && CONTROLS.contains(&row.field)).copied().collect();
        rows.sort_by_key(|row| core::cmp::Reverse((row.same_writes, row.writes)));
        rows
    }

    /// VMWRITEs in all.
    pub fn writes(&self) -> u64 {
        self.rows.iter().map(|row| row.writes).sum()
    }

    /// VMREADs in all.
    pub fn reads(&self) -> u64 {
        self.rows.iter().map(|row| row.reads).sum()
    }

    /// VMWRITEs of the value that was there.
    pub fn same_writes(&self) -> u64 {
        self.rows.iter().map(|row| row.same_writes).sum()
    }

    /// VMREADs that told nothing new.
    pub fn same_reads(&self) -> u64 {
        self.rows.iter().map(|row| row.same_reads).sum()
    }
}

/// The controls that decide what exits, and where the bitmaps are.
const CONTROLS: [VmcsField; 15] = [
    vmcs::PIN_BASED_CONTROLS.field(),
    vmcs::PRIMARY_CONTROLS.field(),
    vmcs::SECONDARY_CONTROLS.field(),
    vmcs::TERTIARY_CONTROLS.field(),
    vmcs::ENTRY_CONTROLS.field(),
    vmcs::EXIT_CONTROLS.field(),
    vmcs::SECONDARY_EXIT_CONTROLS.field(),
    vmcs::EXCEPTION_BITMAP.field(),
    vmcs::IO_BITMAP_A.field(),
    vmcs::IO_BITMAP_B.field(),
    vmcs::MSR_BITMAP.field(),
    vmcs::VMREAD_BITMAP.field(),
    vmcs::VMWRITE_BITMAP.field(),
    vmcs::XSS_EXITING_BITMAP.field(),
    vmcs::VM_FUNCTION_CONTROLS.field(),
];

/// VMREADs, those of them that told nothing new, VMWRITEs, and those of what was there.
type Counts = [u64; 4];

const WHICHES: usize = Which::ALL.len();
const ACTORS: usize = Actor::ALL.len();

/// The last values known of one VMCS.
type Values = [Option<u64>; COUNT];

/// What a byte of [`crate::chunk::code`] means here.
#[derive(Clone, Copy, Debug)]
struct Code {
    which: Which,
    /// The counts of that actor and kind of VMCS begin there; [`Code::OTHER`] where no field is read or written.
    row: u16,
    write: bool,
}

impl Code {
    const OTHER: u16 = u16::MAX;

    fn of(code: u8) -> Self {
        let (which, row, write) = match decode(code) {
            Some((actor, which, op @ (VmcsOp::Read | VmcsOp::Write))) => {
                let row = (actor as usize * WHICHES + which as usize) * COUNT;
                (which, row as u16, op == VmcsOp::Write)
            }
            _ => (Which::Vmcs01, Self::OTHER, false),
        };
        Self { which, row, write }
    }
}

const _: () = assert!(ACTORS * WHICHES * COUNT < Code::OTHER as usize);

#[derive(Debug)]
pub(super) struct Fold {
    codes: Vec<Code>,
    /// By actor, VMCS and field's row.
    counts: Vec<Counts>,
    strangers: BTreeMap<(Actor, Which, VmcsField), Counts>,
    others: BTreeMap<(Actor, Which, VmcsOp), u64>,
    places: HashMap<(Which, u64), usize>,
    values: Vec<Values>,
    /// By kind of VMCS, the address of the last one and its place among the values.
    last: [(u64, usize); WHICHES],
}

impl Default for Fold {
    fn default() -> Self {
        Self {
            codes: (0..=u8::MAX).map(Code::of).collect(),
            counts: vec![[0; 4]; ACTORS * WHICHES * COUNT],
            strangers: BTreeMap::new(),
            others: BTreeMap::new(),
            places: HashMap::new(),
            values: Vec::new(),
            last: [(0, usize::MAX); WHICHES],
        }
    }
}

impl Fold {
    /// Some accesses that follow one another. It is given all, and nothing else that happens between.
    pub(super) fn accesses(&mut self, chunk: &Chunk, tile: &Tile<'_>) {
        let values = tile.address.iter().zip(tile.old.iter().zip(tile.value));
        for (at, ((code, field), (address, (old, value)))) in tile.code.iter().zip(tile.field).zip(values).enumerate() {
            let Code { which, row, write } = self.codes[usize::from(*code)];
            if row == Code::OTHER || *field == Tile::STRANGER {
                self.rare(*code, || chunk.field(tile.first + at as u32), old == value);
                continue;
            }
            let index = usize::from(*field);
            let known = &mut self.values_of(which, *address)[index];
            let same = if write { old == value } else { *known == Some(*value) };
            *known = Some(*value);
            count(&mut self.counts[usize::from(row) + index], write, same);
        }
    }

    /// An access to no field, or to one that the SDM does not define.
    #[cold]
    fn rare(&mut self, code: u8, field: impl Fn() -> VmcsField, unchanged: bool) {
        let Some((actor, which, op)) = decode(code) else { return };
        if matches!(op, VmcsOp::Read | VmcsOp::Write) {
            let write = op == VmcsOp::Write;
            count(self.strangers.entry((actor, which, field())).or_default(), write, write && unchanged);
        } else {
            *self.others.entry((actor, which, op)).or_default() += 1;
        }
    }

    /// What is known of a VMCS.
    #[inline]
    fn values_of(&mut self, which: Which, address: u64) -> &mut Values {
        // One VMCS of each kind is current at a time.
        let (last, place) = self.last[which as usize];
        let place = if last == address && place < self.values.len() { place } else { self.find(which, address) };
        &mut self.values[place]
    }

    #[cold]
    fn find(&mut self, which: Which, address: u64) -> usize {
        let values = &mut self.values;
        let place = *self.places.entry((which, address)).or_insert_with(|| {
            values.push([None; COUNT]);
            values.len() - 1
        });
        self.last[which as usize] = (address, place);
        place
    }

    pub(super) fn finish(self) -> Vmcs {
        let known = self.counts.iter().enumerate().filter(|(_, [reads, _, writes, _])| reads + writes > 0);
        let known = known.map(|(at, counts)| {
            let (actor, which) = (Actor::ALL[at / COUNT / WHICHES], Which::ALL[at / COUNT % WHICHES]);
            ((actor, which, TABLE[at % COUNT].field), *counts)
        });
        let rows = known.chain(self.strangers).map(|((actor, which, field), counts)| {
            let [reads, same_reads, writes, same_writes] = counts;
            FieldRow { actor, which, field, reads, same_reads, writes, same_writes }
        });
        let mut rows: Vec<FieldRow> = rows.collect();
        rows.sort_by_key(|row| (core::cmp::Reverse(row.accesses()), row.actor, row.which, row.field));
        let others = self.others.into_iter().map(|((actor, which, op), count)| (actor, which, op, count)).collect();
        Vmcs { rows, others }
    }
}

#[inline]
fn count(counts: &mut Counts, write: bool, same: bool) {
    let at = 2 * usize::from(write);
    counts[at] += 1;
    counts[at + 1] += u64::from(same);
}
