//! Recorded silicon: it answers L0 what the recorded silicon answered, and runs nothing.
//!
//! Silicon does nothing while L0 works. So all that L0 was told between two entries is put in place when the first of them
//! returns: registers, words of memory, and of each field of a VMCS what it held when it was first read or written.

use hv::l0::L0_MEMORY;
use hv::silicon::{Exited, Outcome, Pcpu, Refused, Register, Registers, Silicon, Unsupported};
use hv::taped::{Known, register_of};
use hv_defs::addr::Hpa;
use hv_defs::config::Config;
use hv_defs::ept::{InveptDescriptor, InveptType, InvvpidDescriptor, InvvpidType};
use hv_defs::event::{Actor, Answer, AnswerOf, Cause, Check, Flush, Kind, Stamp, Stop, StopKind, VmcsOp, What};
use hv_defs::instruction_error::InstructionError;
use hv_defs::vmcs::{COUNT, Class, MASKS, TABLE, VmcsField};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use traces::{Block, Reader};

/// A VMCS: what its fields hold, and between which entries each was last asked for.
#[derive(Debug)]
struct Region {
    values: [u64; COUNT],
    asked: [u64; COUNT],
}

/// What a recording says of one entry: the event's columns that matter.
#[derive(Debug)]
struct Entered {
    vmcs: Hpa,
    failed: Option<Check>,
}

/// What happened between two entries, beside what was put in place.
#[derive(Debug, Default)]
struct Period {
    /// The clock at the exit; `None` where there was none.
    exited: Option<u64>,
    by_entry: u32,
    by_exit: u32,
    refused: Option<u64>,
    stop: Option<(u64, Stop)>,
}

/// One of silicon's answers, altered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Alteration {
    /// After which entry, from 1.
    pub(super) entry: u64,
    /// Which of the answers then, counted round and round.
    pub(super) pick: u64,
    pub(super) change: Change,
}

/// How an answer is altered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Change {
    /// One bit is the other one.
    Flip(u8),
    /// It is this.
    Set(u64),
}

/// Where an answer was put.
#[derive(Clone, Copy, Debug)]
enum Place {
    Field(u64, usize),
    Register(Pcpu, Register),
    Memory(Hpa),
}

/// Silicon out of a trace.
#[derive(Debug)]
pub(crate) struct Tape<'a> {
    reader: &'a Reader,
    memory_size: u64,
    block: Option<Arc<Block>>,
    /// The next event to look at.
    next: u64,
    /// The number of the first event that is not to be looked at.
    end: u64,
    /// Entries so far: what is between two of them has a number.
    period: u64,
    capabilities: BTreeMap<u32, u64>,
    regions: BTreeMap<u64, Box<Region>>,
    current: Vec<Option<Hpa>>,
    registers: Vec<Registers>,
    known: Known,
    clock: u64,
    /// What flushes dropped.
    dropped: VecDeque<u32>,
    digests: VecDeque<u64>,
    pub(crate) digests_taken: u64,
    /// Entries that were answered.
    pub(crate) entries: u64,
    /// Why it could not be read on.
    pub(crate) failed: Option<traces::Error>,
    /// By entry.
    alterations: BTreeMap<u64, Vec<Alteration>>,
    /// Where the answers of this period were put, if any of them is to be altered.
    places: Option<Vec<Place>>,
    /// What was altered, in words.
    pub(super) altered: Vec<String>,
    /// Entries after which nothing is answered.
    last_entry: u64,
}

impl<'a> Tape<'a> {
    /// The silicon of a recording, before its first entry. `end` is the number behind the last event whose answers are
    /// all there.
    pub(crate) fn new(reader: &'a Reader, config: &Config, end: u64) -> Self {
        let cpus = usize::from(config.pcpus.max(1));
        let mut tape = Self {
            reader,
            memory_size: hv::machine::memory_size(config),
            block: None,
            next: 0,
            end,
            period: 1,
            capabilities: BTreeMap::new(),
            regions: BTreeMap::new(),
            current: vec![None; cpus],
            registers: (0..cpus).map(|_| Registers::default()).collect(),
            known: Known::default(),
            clock: 0,
            dropped: VecDeque::new(),
            digests: VecDeque::new(),
            digests_taken: 0,
            entries: 0,
            failed: None,
            alterations: BTreeMap::new(),
            places: None,
            altered: Vec::new(),
            last_entry: u64::MAX,
        };
        // Nothing has been entered yet: there is nothing to become of it.
        tape.go_on(None);
        tape
    }

    /// The same with answers altered, for so many entries.
    pub(super) fn altered_by(mut self, alterations: &[Alteration], last_entry: u64) -> Self {
        for one in alterations {
            self.alterations.entry(one.entry).or_default().push(*one);
        }
        Self { last_entry, ..self }
    }

    /// Alters what was just put in place.
    fn alter(&mut self) {
        let (Some(places), Some(alterations)) = (self.places.take(), self.alterations.remove(&self.entries)) else {
            return;
        };
        for Alteration { entry, pick, change } in alterations {
            let Some(place) = places.get((pick % places.len().max(1) as u64) as usize) else { continue };
            let changed = |value: u64| match change {
                Change::Flip(bit) => value ^ 1 << (bit & 63),
                Change::Set(value) => value,
            };
            let (name, before, after) = match *place {
                Place::Field(address, row) => {
                    let value = &mut region(&mut self.regions, address).values[row];
                    // A bit that the field does not have is one that it has.
                    let width = 64 - MASKS[row].leading_zeros() as u8;
                    let before = *value;
                    *value = match change {
                        Change::Flip(bit) => before ^ 1 << (bit % width.max(1)),
                        Change::Set(value) => value,
                    } & MASKS[row];
                    (format!("{}", TABLE[row].field), before, *value)
                }
                Place::Register(cpu, register) => {
                    let before = self.registers[cpu].get(register);
                    self.registers[cpu].set(register, changed(before));
                    (format!("{register:?} of CPU {cpu}"), before, self.registers[cpu].get(register))
                }
                Place::Memory(at) => {
                    let mut bytes = [0; 8];
                    self.known.read(at, &mut bytes);
                    let before = u64::from_le_bytes(bytes);
                    self.known.write(at, &changed(before).to_le_bytes());
                    (format!("memory at {:#x}", at.0), before, changed(before))
                }
            };
            self.altered.push(format!("after entry {entry}: {name} {after:#x} instead of {before:#x}"));
        }
    }

    /// Puts in place what there is up to the next entry, beginning behind the one before. `entered` is the VMCS that the
    /// recording entered, and the one that L0 has entered now.
    fn go_on(&mut self, entered: Option<(Hpa, Hpa)>) -> Period {
        let mut period = Period::default();
        let first = self.next;
        self.period += 1;
        self.dropped.clear();
        self.places = self.alterations.contains_key(&self.entries).then(Vec::new);
        while self.next < self.end {
            let block = match &self.block {
                Some(block) if self.next - block.first() < block.len() as u64 => Arc::clone(block),
                _ => match self.reader.block_of(self.next).and_then(|number| self.reader.block(number)) {
                    Ok(block) => Arc::clone(self.block.insert(block)),
                    Err(error) => {
                        self.failed = Some(error);
                        self.end = self.next;
                        break;
                    }
                },
            };
            let start = (self.next - block.first()) as usize;
            for place in start..block.len() {
                if self.next >= self.end {
                    break;
                }
                if let Some((kind, row)) = block.row(place) {
                    match kind {
                        Kind::Entry => return period,
                        Kind::Vmcs => self.see_access(row, entered),
                        Kind::Answer => {
                            if let Some(What::Answer(answer)) = What::from_row(kind, row, &Default::default()) {
                                self.see_answer(&block, place, answer, &mut period);
                            }
                        }
                        Kind::Exit if period.exited.is_none() && self.next - first <= 1 => {
                            period.exited = block.stamp(place).map(|at: Stamp| at.instruction);
                        }
                        Kind::Flush => {
                            if let Some(What::Flush(flush)) = What::from_row(kind, row, &Default::default()) {
                                self.see_flush(flush, &mut period);
                            }
                        }
                        Kind::Digest => self.digests.extend(row.first()),
                        Kind::Stop => {
                            let kind = row.first().and_then(|number| StopKind::from_number(*number as u8));
                            let text = row.get(2).and_then(|number| block.text(*number)).unwrap_or_default();
                            let at = block.stamp(place).map_or(0, |at| at.instruction);
                            let kind = kind.unwrap_or(StopKind::World);
                            period.stop = Some((at, Stop { kind, code: 0, text: text.to_owned() }));
                        }
                        _ => {}
                    }
                }
                self.next += 1;
            }
        }
        period
    }

    fn see_access(&mut self, row: &[u64], entered: Option<(Hpa, Hpa)>) {
        let &[actor, _, address, op, field, old, value] = row else { return };
        let held = match op {
            op if op == VmcsOp::Read as u64 => value,
            op if op == VmcsOp::Write as u64 => old,
            _ => return,
        };
        if actor != Actor::L0 as u64 {
            return;
        }
        let Some(row) = u32::try_from(field).ok().and_then(|field| VmcsField(field).index()) else { return };
        // A hypervisor that does other things may have entered another VMCS: what the guest did is in that one then.
        let address = match entered {
            Some((recorded, now)) if recorded.0 == address && recorded != now => {
                if !matches!(TABLE[row].field.class(), Class::Guest | Class::ExitInformation) {
                    return;
                }
                now.0
            }
            _ => address,
        };
        let period = self.period;
        let region = region(&mut self.regions, address);
        if region.asked[row] != period {
            region.asked[row] = period;
            region.values[row] = held & MASKS[row];
            if let Some(places) = &mut self.places
                && op == VmcsOp::Read as u64
            {
                places.push(Place::Field(address, row));
            }
        }
    }

    fn see_answer(&mut self, block: &Block, place: usize, answer: Answer, period: &mut Period) {
        match answer.of {
            AnswerOf::Capability => {
                if let Ok(msr) = u32::try_from(answer.place) {
                    self.capabilities.insert(msr, answer.value);
                }
            }
            AnswerOf::Memory => {
                if answer.place < self.memory_size {
                    self.known.write(Hpa(answer.place & !7), &answer.value.to_le_bytes());
                    if let Some(places) = &mut self.places {
                        places.push(Place::Memory(Hpa(answer.place & !7)));
                    }
                }
            }
            AnswerOf::Refused => period.refused = Some(answer.value),
            _ => {
                let cpu = block.stamp(place).map_or(0, |at| usize::from(at.pcpu));
                if let (Some(register), Some(registers)) = (register_of(&answer), self.registers.get_mut(cpu)) {
                    registers.set(register, answer.value);
                    if let Some(places) = &mut self.places {
                        places.push(Place::Register(cpu, register));
                    }
                }
            }
        }
    }

    fn see_flush(&mut self, flush: Flush, period: &mut Period) {
        match flush.cause {
            Cause::Guest => {}
            Cause::HardwareEntry => period.by_entry = flush.dropped,
            Cause::HardwareExit => period.by_exit = flush.dropped,
            _ => self.dropped.push_back(flush.dropped),
        }
    }

    /// The next entry of the recording; `None` when there is none.
    fn entered(&mut self) -> Option<Entered> {
        if self.next >= self.end || self.entries >= self.last_entry {
            return None;
        }
        let block = self.block.as_ref()?;
        let (Kind::Entry, row) = block.row((self.next - block.first()) as usize)? else { return None };
        let failed = block.text(*row.get(7)?).and_then(Check::known);
        let entered = Entered { vmcs: Hpa(*row.get(3)?), failed };
        self.next += 1;
        Some(entered)
    }

    fn region(&mut self, cpu: Pcpu) -> &mut Region {
        // L0 has a VMCS current before it touches one; what is recorded of it does not matter here.
        let at = self.current[cpu].map_or(0, |at| at.0);
        region(&mut self.regions, at)
    }
}

fn region(regions: &mut BTreeMap<u64, Box<Region>>, at: u64) -> &mut Region {
    regions.entry(at).or_insert_with(|| Box::new(Region { values: [0; COUNT], asked: [0; COUNT] }))
}

/// What silicon said that it does not have: the text of the stop, without where the guest was.
pub(super) fn what_was_unsupported(stop: &Stop) -> String {
    stop.text.rsplit_once(": L").map_or(stop.text.as_str(), |(what, _)| what).to_owned()
}

impl Silicon for Tape<'_> {
    fn capability(&self, msr: u32) -> u64 {
        self.capabilities.get(&msr).copied().unwrap_or_default()
    }

    fn memory_size(&self) -> u64 {
        self.memory_size
    }

    fn read(&mut self, at: Hpa, into: &mut [u8]) {
        assert!(at.0 + into.len() as u64 <= self.memory_size, "L0 reads what is memory");
        self.known.read(at, into);
    }

    fn write(&mut self, at: Hpa, bytes: &[u8]) {
        assert!(at.0 + bytes.len() as u64 <= self.memory_size, "L0 writes what is memory");
        self.known.write(at, bytes);
    }

    fn vmclear(&mut self, cpu: Pcpu, vmcs: Hpa) {
        assert!(vmcs.0 < L0_MEMORY && vmcs.is_page_aligned(), "a VMCS region is a page of L0's");
        if self.current[cpu] == Some(vmcs) {
            self.current[cpu] = None;
        }
        region(&mut self.regions, vmcs.0);
    }

    fn vmptrld(&mut self, cpu: Pcpu, vmcs: Hpa) {
        assert!(self.regions.contains_key(&vmcs.0), "a VMCS is cleared before it is first loaded");
        self.current[cpu] = Some(vmcs);
    }

    fn vmread(&mut self, cpu: Pcpu, field: VmcsField) -> u64 {
        let value = field.full().index().map_or(0, |row| self.vmread_row(cpu, row));
        if field.is_high() { value >> 32 } else { value }
    }

    fn vmwrite(&mut self, cpu: Pcpu, field: VmcsField, value: u64) {
        let Some(row) = field.full().index() else { return };
        let value = match field.is_high() {
            true => value << 32 | self.vmread_row(cpu, row) & 0xffff_ffff,
            false => value,
        };
        self.vmwrite_row(cpu, row, value);
    }

    fn vmread_row(&mut self, cpu: Pcpu, row: usize) -> u64 {
        self.region(cpu).values[row]
    }

    fn vmwrite_row(&mut self, cpu: Pcpu, row: usize, value: u64) {
        #[cfg(test)]
        super::mutate::tests::written(row, value);
        self.region(cpu).values[row] = value & MASKS[row];
    }

    fn registers(&mut self, cpu: Pcpu) -> &mut Registers {
        &mut self.registers[cpu]
    }

    fn enter(&mut self, cpu: Pcpu, _launch: bool, _until: u64) -> Result<Outcome, Refused> {
        let Some(entered) = self.entered() else {
            let what = "the recording ends here".to_owned();
            return Ok(Outcome::Unsupported(Unsupported { rip: 0, bytes: Vec::new(), what }));
        };
        self.entries += 1;
        let current = self.current[cpu].unwrap_or(entered.vmcs);
        let period = self.go_on(Some((entered.vmcs, current)));
        self.alter();
        let Period { exited, by_entry, by_exit, refused, stop } = period;
        if let Some(error) = refused {
            let error = Some(InstructionError(error as u32));
            return Err(Refused { error, check: entered.failed.filter(|check| check.name() != "refused") });
        }
        if let Some(check) = entered.failed {
            return Ok(Outcome::EntryFailed(check));
        }
        if let Some(clock) = exited {
            self.clock = self.clock.max(clock);
            return Ok(Outcome::Exited(Exited { dropped_by_entry: by_entry, dropped_by_exit: by_exit }));
        }
        let (at, what) = match &stop {
            Some((at, stop)) => (*at, what_was_unsupported(stop)),
            None => (self.clock, "the recording ends here".to_owned()),
        };
        self.clock = self.clock.max(at);
        Ok(Outcome::Unsupported(Unsupported { rip: 0, bytes: Vec::new(), what }))
    }

    fn invvpid(&mut self, _: Pcpu, _: InvvpidType, _: InvvpidDescriptor) -> u32 {
        self.dropped.pop_front().unwrap_or_default()
    }

    fn invept(&mut self, _: Pcpu, _: InveptType, _: InveptDescriptor) -> u32 {
        self.dropped.pop_front().unwrap_or_default()
    }

    fn retired(&self) -> u64 {
        self.clock
    }

    fn skip(&mut self, to: u64) {
        self.clock = self.clock.max(to);
    }

    /// A digest is of all the machine: it is taken from the recording.
    fn digest(&mut self) -> u64 {
        self.digests_taken += 1;
        self.digests.pop_front().unwrap_or_default()
    }
}
