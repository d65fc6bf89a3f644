//! How two traces run beside one another: rows of events that match, events that only one of them has, and how both come
//! together again behind a difference.
//!
//! An alignment is made of pieces, each of which follows from the two events it begins at and nothing else, so that its
//! rows can be had again at any time and need not be kept. A stretch in which all is the same is a piece by its length
//! alone. Around a difference, Myers's algorithm looks for the nearest place from which both traces go on alike: first by
//! whole events, then by their keys (what happened, not with which values). It looks a bounded way; where both do not
//! come together within it, rows go on by order and say so.

use hv_defs::event::{Actor, Event, What, Which};
use hv_defs::fields::{FieldDiff, differences};
use hv_defs::vmcs::{self, VmcsField};
use std::collections::VecDeque;
use traces::{Error, Events, Reader};

/// What makes two events the same.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Strict {
    /// Every field, as for `nvmx diff`.
    Exact,
    /// Every field but those that say when, on which CPU, and where L0 keeps what is its own.
    Fields,
    /// Kind, vCPU, level, reason, VMCS field: not the values.
    Shape,
    /// As [`Strict::Shape`], of what a guest could tell: exits, entries, injections, input, marks and the end.
    Guest,
}

impl Strict {
    /// All, the strictest first.
    pub(crate) const ALL: [Self; 4] = [Self::Exact, Self::Fields, Self::Shape, Self::Guest];

    /// Its name.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Exact => "all fields",
            Self::Fields => "values",
            Self::Shape => "shape",
            Self::Guest => "guests' view",
        }
    }

    /// What it compares, for the reader.
    pub(crate) const fn meaning(self) -> &'static str {
        match self {
            Self::Exact => "every field counts",
            Self::Fields => "all but time, CPU and L0's own addresses counts",
            Self::Shape => "kind, level, reason and VMCS field count, not values",
            Self::Guest => "exits and entries by level and reason, nothing of L0's",
        }
    }

    /// Whether events that `what` happened in take part.
    fn sees(self, what: &What) -> bool {
        use What::{Entry, Exit, Injection, Input, Mark, Stop};
        self != Self::Guest || matches!(what, Exit(_) | Entry(_) | Injection(_) | Input(_) | Mark(_) | Stop(_))
    }

    /// Whether two events are the same.
    fn same(self, a: &Event, b: &Event) -> bool {
        match self {
            Self::Exact => a == b,
            Self::Fields => a.at.vcpu == b.at.vcpu && (a.what == b.what || placeless(a) == placeless(b)),
            Self::Shape | Self::Guest => key(a) == key(b),
        }
    }

    /// The fields in which two events differ, without those that do not count.
    pub(crate) fn differences(self, a: &Event, b: &Event) -> Vec<FieldDiff> {
        if self == Self::Exact {
            return differences(a, b).collect();
        }
        let stamp = |diff: &FieldDiff| matches!(diff.field, "instruction" | "pcpu");
        let [a, b] = [a, b].map(|event| Event { at: event.at, what: placeless(event) });
        differences(&a, &b).filter(|diff| !stamp(diff)).collect()
    }
}

/// What happened, without the addresses at which L0 keeps its own VMCSs and tables: they say nothing of what it does.
fn placeless(event: &Event) -> What {
    let mut what = event.what.clone();
    match &mut what {
        What::Vmcs(access) if access.which != Which::Vmcs12 => {
            access.address = 0;
            if access.actor == Actor::L0 && is_address(access.field) {
                (access.old, access.value) = (0, 0);
            }
        }
        What::Entry(entry) => (entry.vmcs02, entry.eptp) = (0, 0),
        What::Flush(flush) if flush.actor == Actor::L0 => flush.eptp = 0,
        What::Ept(change) => (change.eptp02, change.old, change.new) = (0, change.old & 0xfff, change.new & 0xfff),
        _ => {}
    }
    what
}

/// What happened, without the values.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Key(u8, u16, u64);

/// The key of an event of a kind that this program does not know.
const UNKNOWN: Key = Key(u8::MAX, 0, 0);

fn key(event: &Event) -> Key {
    let what = match &event.what {
        What::Exit(exit) => u64::from(exit.level) << 32 | u64::from(exit.basic().0),
        What::Entry(entry) => entry.level.into(),
        What::Vmcs(access) => {
            (access.actor as u64) << 56
                | (access.which as u64) << 48
                | (access.op as u64) << 40
                | u64::from(access.field.0)
        }
        What::Flush(flush) => (flush.kind as u64) << 16 | (flush.cause as u64) << 8 | flush.actor as u64,
        What::Ept(change) => change.op as u64,
        What::Injection(injection) => u64::from(injection.level) << 8 | u64::from(injection.info.vector()),
        What::Input(input) => input.kind as u64,
        What::Mark(value) => (*value).into(),
        What::Stop(stop) => stop.kind as u64,
        What::Answer(answer) => (answer.of as u64) << 56 ^ answer.place,
        What::Pool(_) | What::Vpid(_) | What::Migration(_) | What::Digest(_) | What::Lost(_) | What::Registers(_) => 0,
    };
    Key(event.what.kind() as u8, event.at.vcpu, what)
}

/// Whether a VMCS field holds the physical address of something that the hypervisor has set up.
fn is_address(field: VmcsField) -> bool {
    [
        vmcs::IO_BITMAP_A.field(),
        vmcs::IO_BITMAP_B.field(),
        vmcs::MSR_BITMAP.field(),
        vmcs::VM_EXIT_MSR_STORE_ADDRESS.field(),
        vmcs::VM_EXIT_MSR_LOAD_ADDRESS.field(),
        vmcs::VM_ENTRY_MSR_LOAD_ADDRESS.field(),
        vmcs::PML_ADDRESS.field(),
        vmcs::VIRTUAL_APIC_ADDRESS.field(),
        vmcs::APIC_ACCESS_ADDRESS.field(),
        vmcs::POSTED_INTERRUPT_DESCRIPTOR_ADDRESS.field(),
        vmcs::EPT_POINTER.field(),
        vmcs::EPTP_LIST_ADDRESS.field(),
        vmcs::VMREAD_BITMAP.field(),
        vmcs::VMWRITE_BITMAP.field(),
        vmcs::VMCS_LINK_POINTER.field(),
    ]
    .contains(&field)
}

/// How the two sides of a row stand to one another.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Sort {
    /// The same event.
    Same,
    /// Events of one sort that differ in a field.
    Differs,
    /// Only one trace has it.
    Alone,
    /// The traces did not come together: what stands side by side does so by order alone.
    Unlike,
}

/// A row: an event of the one trace, of the other, or of both.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Row {
    pub(crate) events: [Option<u64>; 2],
    pub(crate) sort: Sort,
    /// Of a row that is not the same, a number that rows of like events have too.
    pub(crate) sign: u32,
}

/// A stretch of the alignment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Piece {
    /// The events that it begins at.
    pub(crate) from: (u64, u64),
    /// Its rows.
    pub(crate) rows: u64,
    /// All its rows are the same and take one event after another, so that they need not be asked for.
    pub(crate) plain: bool,
    /// Rows that are not the same.
    pub(crate) differing: u64,
    /// Stretches of rows that are not the same.
    pub(crate) hunks: u64,
    /// Whether the first and the last row are not the same.
    pub(crate) open: (bool, bool),
    /// The signs of the rows that differences begin with.
    pub(crate) signs: Signs,
}

/// A set of signs that may have more members than were put in.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Signs(u64, u64);

impl Signs {
    /// Of one sign.
    pub(crate) const fn of(sign: u32) -> Self {
        Self(1 << (sign % 64), 1 << (sign / 64 % 64))
    }

    const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0, self.1 | other.1)
    }

    /// Whether all members are among another's.
    pub(crate) const fn within(self, other: Self) -> bool {
        self.0 & !other.0 == 0 && self.1 & !other.1 == 0
    }
}

/// Rows of a piece in which all is the same, at most.
const PLAIN_ROWS: u64 = 1 << 16;
/// And of another piece, about.
const ROWS: usize = 512;
/// So many rows that are the same, one after another, end a piece.
const CALM: usize = 16;
/// Within so many insertions and removals the traces have to come together by whole events,
const NEAR: usize = 48;
/// and by keys.
const FAR: usize = 512;
/// Where whole events did not come together, so many rows go by keys before that is tried again.
const TIRED: usize = 256;
/// Where nothing came together, so many rows go by order.
const LOST: usize = 256;

/// An event that was read ahead; `None` of a kind that is not known.
struct Item {
    number: u64,
    event: Option<Event>,
    key: Key,
}

/// A trace being read, and what was read ahead.
struct Side<'a> {
    events: Events<'a>,
    next: u64,
    ahead: VecDeque<Item>,
    ended: bool,
    /// Why nothing can be read any more.
    failed: Option<Error>,
    strict: Strict,
}

impl<'a> Side<'a> {
    fn new(reader: &'a Reader, from: u64, strict: Strict) -> Self {
        Self { events: reader.events(from), next: from, ahead: VecDeque::new(), ended: false, failed: None, strict }
    }

    /// Reads ahead until `count` events are there, or the trace ends. What cannot be read is an error only when nothing is
    /// there before it.
    fn fill(&mut self, count: usize) -> Result<(), Error> {
        while self.ahead.len() < count && !self.ended && self.failed.is_none() {
            let number = self.next;
            match self.events.next() {
                None => self.ended = true,
                Some(Ok(event)) if !self.strict.sees(&event.what) => self.next += 1,
                Some(Ok(event)) => {
                    let key = key(&event);
                    self.ahead.push_back(Item { number, event: Some(event), key });
                    self.next += 1;
                }
                Some(Err(Error::NewerKind { .. })) => {
                    self.ahead.push_back(Item { number, event: None, key: UNKNOWN });
                    self.next += 1;
                }
                Some(Err(error)) => self.failed = Some(error),
            }
        }
        match self.failed.take_if(|_| self.ahead.is_empty()) {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    /// The event that comes next.
    fn place(&self) -> u64 {
        self.ahead.front().map_or(self.next, |item| item.number)
    }
}

/// Events whose kind is not known count as the same: nothing can be told of them here.
fn same(strict: Strict, a: &Item, b: &Item) -> bool {
    match (&a.event, &b.event) {
        (Some(a), Some(b)) => strict.same(a, b),
        (None, None) => true,
        _ => false,
    }
}

/// A piece, and the events of both traces behind it.
pub(crate) type Next = (Piece, (u64, u64));

/// The piece that begins at two events, and the events behind it; `None` where both traces end.
///
/// # Errors
/// A block that it needs cannot be read.
pub(crate) fn piece(readers: [&Reader; 2], from: (u64, u64), strict: Strict) -> Result<Option<Next>, Error> {
    if from.0 >= readers[0].len() && from.1 >= readers[1].len() {
        return Ok(None);
    }
    let plain = if strict == Strict::Guest { 0 } else { alike(readers, from, strict)? };
    if plain > 0 {
        let piece = Piece {
            from,
            rows: plain,
            plain: true,
            differing: 0,
            hunks: 0,
            open: (false, false),
            signs: Signs::default(),
        };
        return Ok(Some((piece, (from.0 + plain, from.1 + plain))));
    }
    let (rows, end) = rows(readers, from, strict)?;
    let differs = |row: &Row| row.sort != Sort::Same;
    let begins = |at: &usize| differs(&rows[*at]) && (*at == 0 || !differs(&rows[*at - 1]));
    let piece = Piece {
        from,
        rows: rows.len() as u64,
        plain: false,
        differing: rows.iter().filter(|row| differs(row)).count() as u64,
        hunks: (0..rows.len()).filter(begins).count() as u64,
        open: (rows.first().is_some_and(differs), rows.last().is_some_and(differs)),
        signs: (0..rows.len()).filter(begins).fold(Signs::default(), |signs, at| signs.with(Signs::of(rows[at].sign))),
    };
    Ok(Some((piece, end)))
}

/// How many events from `from` on are the same in both.
fn alike(readers: [&Reader; 2], from: (u64, u64), strict: Strict) -> Result<u64, Error> {
    let stored = stored_alike(readers, from)?;
    if stored > 0 {
        return Ok(stored);
    }
    let (mut a, mut b) = (readers[0].events(from.0), readers[1].events(from.1));
    let mut count = 0;
    let next = readers[0].blocks().partition_point(|block| block.first <= from.0);
    // A piece ends where whole blocks may be alike, which need not be read.
    let most = match readers[0].blocks().get(next).map(|block| block.first - from.0) {
        Some(most) if begins_block(readers, (from.0 + most, from.1 + most)) => most.min(PLAIN_ROWS),
        _ => PLAIN_ROWS,
    };
    while count < most {
        let event = match a.next() {
            Some(Ok(event)) => event,
            // What cannot be read is told when rows are made of it.
            _ => break,
        };
        if strict == Strict::Exact && b.accept(&event) {
            count += 1;
            continue;
        }
        match b.next() {
            Some(Ok(other)) if strict.same(&event, &other) => count += 1,
            _ => break,
        }
    }
    Ok(count)
}

/// The block that begins at an event.
fn block_at(reader: &Reader, event: u64) -> Option<usize> {
    reader.blocks().binary_search_by_key(&event, |block| block.first).ok()
}

/// Whether a block begins at both events, which have the same number.
fn begins_block(readers: [&Reader; 2], from: (u64, u64)) -> bool {
    from.0 == from.1 && block_at(readers[0], from.0).is_some() && block_at(readers[1], from.1).is_some()
}

/// How many events from `from` on are in blocks that both traces store alike.
fn stored_alike(readers: [&Reader; 2], from: (u64, u64)) -> Result<u64, Error> {
    let blocks = (block_at(readers[0], from.0), block_at(readers[1], from.1));
    let (Some(mut one), Some(mut two)) = blocks else { return Ok(0) };
    let mut count = 0;
    while count < 16 * PLAIN_ROWS && readers[0].is_stored_as(one, readers[1], two)? {
        count += u64::from(readers[0].blocks()[one].events);
        (one, two) = (one + 1, two + 1);
    }
    Ok(count)
}

/// The rows of a piece that is not plain, and the events behind it. Equal arguments give equal rows.
///
/// # Errors
/// A block that it needs cannot be read.
pub(crate) fn rows(readers: [&Reader; 2], from: (u64, u64), strict: Strict) -> Result<(Vec<Row>, (u64, u64)), Error> {
    let mut a = Side::new(readers[0], from.0, strict);
    let mut b = Side::new(readers[1], from.1, strict);
    let mut rows = Vec::new();
    let (mut calm, mut tired) = (0, 0_usize);
    while rows.len() < ROWS && (calm < CALM || strict == Strict::Guest) {
        // Damage behind rows that are there is met by the piece that begins at it.
        if let Err(error) = a.fill(1).and_then(|()| b.fill(1)) {
            if rows.is_empty() {
                return Err(error);
            }
            break;
        }
        let before = rows.len();
        match (a.ahead.front(), b.ahead.front()) {
            (None, None) => break,
            (Some(x), Some(y)) if same(strict, x, y) => {
                pair(&mut a, &mut b, &mut rows, Sort::Same);
                calm += 1;
                tired = tired.saturating_sub(1);
                continue;
            }
            (Some(x), Some(y)) => {
                let of_a_key = x.key == y.key;
                let hunk = if tired == 0 { together(&mut a, &mut b, NEAR, |x, y| same(strict, x, y)) } else { None };
                let hunk = match hunk {
                    Some(hunk) => Some(hunk),
                    None if of_a_key => {
                        tired = if tired == 0 { TIRED } else { tired };
                        Some((1, 1))
                    }
                    None => together(&mut a, &mut b, FAR, |x, y| x.key == y.key),
                };
                match hunk {
                    Some(hunk) => take(&mut a, &mut b, &mut rows, hunk, strict),
                    None => by_order(&mut a, &mut b, &mut rows, strict),
                }
            }
            _ => alone(&mut a, &mut b, &mut rows),
        }
        calm = 0;
        tired = tired.saturating_sub(rows.len() - before);
    }
    Ok((rows, (a.place(), b.place())))
}

/// Of rows that differ, a number by what they are about.
fn sign(sort: Sort, Key(kind, _, what): Key) -> u32 {
    if sort == Sort::Same {
        return 0;
    }
    let mixed = (what ^ u64::from(kind) << 40 ^ (sort as u64) << 50).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> 32) as u32
}

fn pair(a: &mut Side, b: &mut Side, rows: &mut Vec<Row>, sort: Sort) {
    if let (Some(x), Some(y)) = (a.ahead.pop_front(), b.ahead.pop_front()) {
        rows.push(Row { events: [Some(x.number), Some(y.number)], sort, sign: sign(sort, x.key) });
    }
}

fn one(side: &mut Side, of_b: bool, rows: &mut Vec<Row>) {
    if let Some(item) = side.ahead.pop_front() {
        let events = if of_b { [None, Some(item.number)] } else { [Some(item.number), None] };
        let sign = sign(Sort::Alone, item.key) ^ u32::from(of_b);
        rows.push(Row { events, sort: Sort::Alone, sign });
    }
}

/// One of the traces has ended: what the other has, it has alone.
fn alone(a: &mut Side, b: &mut Side, rows: &mut Vec<Row>) {
    one(a, false, rows);
    one(b, true, rows);
}

/// What did not come together, by order.
fn by_order(a: &mut Side, b: &mut Side, rows: &mut Vec<Row>, strict: Strict) {
    for _ in 0..LOST {
        let (Some(x), Some(y)) = (a.ahead.front(), b.ahead.front()) else { return };
        let sort = match (same(strict, x, y), x.key == y.key) {
            (true, _) => Sort::Same,
            (_, true) => Sort::Differs,
            _ => Sort::Unlike,
        };
        pair(a, b, rows, sort);
    }
}

/// The rows of a hunk: its events of both sides, matched by their keys as far as that goes.
fn take(a: &mut Side, b: &mut Side, rows: &mut Vec<Row>, hunk: (usize, usize), strict: Strict) {
    let keys = |side: &Side, count: usize| -> Vec<Key> { side.ahead.iter().take(count).map(|item| item.key).collect() };
    for edit in script(&keys(a, hunk.0), &keys(b, hunk.1)) {
        match edit {
            Edit::Remove => one(a, false, rows),
            Edit::Insert => one(b, true, rows),
            Edit::Keep => {
                let both = a.ahead.front().zip(b.ahead.front());
                let sort = if both.is_some_and(|(x, y)| same(strict, x, y)) { Sort::Same } else { Sort::Differs };
                pair(a, b, rows, sort);
            }
        }
    }
}

/// How many events of each side lie before the nearest place from which both go on alike; the nearest is that with the
/// fewest insertions and removals before it, at most `most`. The more there are, the longer both have to go on alike,
/// lest what recurs everywhere be taken for it.
fn together(a: &mut Side, b: &mut Side, most: usize, equal: impl Fn(&Item, &Item) -> bool) -> Option<(usize, usize)> {
    let wanted = |edits: usize| 4 + edits / 8;
    let reach = most + wanted(most) + 1;
    a.fill(reach).and_then(|()| b.fill(reach)).ok()?;
    let (left, right) = (a.ahead.make_contiguous(), b.ahead.make_contiguous());
    let (n, m) = (left.len().min(reach) as isize, right.len().min(reach) as isize);
    let ended = (a.ended && n as usize == left.len(), b.ended && m as usize == right.len());
    let most = most as isize;
    let offset = most + 1;
    // For each diagonal, how far into the first side a path with so many edits comes.
    let mut furthest = vec![0_isize; 2 * offset as usize + 1];
    for edits in 0..=most {
        for diagonal in (-edits..=edits).step_by(2) {
            let at = (diagonal + offset) as usize;
            let down = diagonal == -edits || (diagonal != edits && furthest[at - 1] < furthest[at + 1]);
            let start = match (edits, down) {
                (0, _) => 0,
                (_, true) => furthest[at + 1],
                (_, false) => furthest[at - 1] + 1,
            };
            let (mut x, mut y) = (start, start - diagonal);
            while x < n && y >= 0 && y < m && equal(&left[x as usize], &right[y as usize]) {
                x += 1;
                y += 1;
            }
            furthest[at] = x;
            let alike = x - start;
            let at_end = (x == n && ended.0, y == m && ended.1);
            let inside = start <= n && (0..=m).contains(&(start - diagonal));
            let found = alike as usize >= wanted(edits as usize)
                || (alike > 0 && (at_end.0 || at_end.1))
                || (at_end.0 && at_end.1);
            if edits > 0 && inside && found {
                return Some((start as usize, (start - diagonal) as usize));
            }
        }
    }
    None
}

/// A step from one sequence to another.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Edit {
    Keep,
    Remove,
    Insert,
}

/// The fewest steps from `a` to `b`, by Myers's algorithm with the furthest paths kept to go back along.
fn script(a: &[Key], b: &[Key]) -> Vec<Edit> {
    let (n, m) = (a.len() as isize, b.len() as isize);
    let most = n + m;
    let offset = most + 1;
    let mut furthest = vec![0_isize; 2 * offset as usize + 1];
    let mut history: Vec<Vec<isize>> = Vec::new();
    'search: for edits in 0..=most {
        // Only what the next steps back need.
        history.push(furthest[(offset - edits - 1) as usize..=(offset + edits + 1) as usize].to_vec());
        for diagonal in (-edits..=edits).step_by(2) {
            let at = (diagonal + offset) as usize;
            let down = diagonal == -edits || (diagonal != edits && furthest[at - 1] < furthest[at + 1]);
            let mut x = match (edits, down) {
                (0, _) => 0,
                (_, true) => furthest[at + 1],
                (_, false) => furthest[at - 1] + 1,
            };
            while x < n && x - diagonal < m && x - diagonal >= 0 && a[x as usize] == b[(x - diagonal) as usize] {
                x += 1;
            }
            furthest[at] = x;
            if x >= n && x - diagonal >= m {
                break 'search;
            }
        }
    }
    let mut steps = Vec::new();
    let (mut x, mut y) = (n, m);
    for edits in (0..history.len() as isize).rev() {
        let kept = &history[edits as usize];
        let at = |diagonal: isize| kept[(diagonal + edits + 1) as usize];
        let diagonal = x - y;
        let down = diagonal == -edits || (diagonal != edits && at(diagonal - 1) < at(diagonal + 1));
        let (start, step) = match (edits, down) {
            (0, _) => (0, None),
            (_, true) => (at(diagonal + 1), Some(Edit::Insert)),
            (_, false) => (at(diagonal - 1) + 1, Some(Edit::Remove)),
        };
        while x > start {
            steps.push(Edit::Keep);
            x -= 1;
            y -= 1;
        }
        match step {
            Some(Edit::Insert) => y -= 1,
            Some(_) => x -= 1,
            None => {}
        }
        steps.extend(step);
    }
    steps.reverse();
    steps
}
