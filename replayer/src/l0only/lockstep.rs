//! Recorded silicon for an L0 that does what is recorded: each of L0's questions is answered by the event that has to come
//! next, and each event is held against it where it happens, before anyone writes it down.
//!
//! Nothing is kept for an L0 that does anything else. At the first difference the run is given up, and [`super::tape`] is
//! asked, which answers any L0.

use super::stretch::{Ahead, Stretch, word};
use super::tape::what_was_unsupported;
use hv::silicon::{Exited, Outcome, Pcpu, Refused, Register, Registers, Silicon, Unsupported};
use hv::taped::{Known, Notes, REGISTERS, register_of};
use hv_defs::addr::Hpa;
use hv_defs::config::Config;
use hv_defs::ept::{InveptDescriptor, InveptType, InvvpidDescriptor, InvvpidType};
use hv_defs::event::{Answer, AnswerOf, Cause, Event, Kind, Stamp, VmcsAccess, What};
use hv_defs::fields::{MAX_COLUMNS, Texts};
use hv_defs::instruction_error::InstructionError;
use hv_defs::vmcs::VmcsField;
use std::collections::BTreeMap;

/// How the comparison stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stands {
    /// All was the same.
    Same,
    /// All was the same, and nothing more is to be compared.
    Over,
    /// Something was not the same, or could not be read.
    Differs,
}

/// Silicon out of a trace, in step with it.
pub(super) struct Lockstep<'a> {
    ahead: Ahead,
    now: Stretch,
    /// The number of the event that has to come next.
    next: u64,
    /// The number of the first event that is not compared.
    limit: u64,
    stands: Stands,
    /// The next event's run of stamps, the number behind its last event, and its stamp.
    run: usize,
    run_end: u64,
    at: Stamp,
    /// The next access, and of each other kind the next row.
    access: usize,
    rows: [usize; Kind::ALL.len()],
    /// The row of the exit that L0 is at work on, if its event is yet to be heard.
    exit: Option<usize>,
    /// The answers up to this row have been put in place.
    placed: usize,
    memory_size: u64,
    capabilities: BTreeMap<u32, u64>,
    registers: Vec<Registers>,
    notes: Notes,
    /// Memory for what is taken of the notes.
    answers: Vec<(Pcpu, Answer)>,
    memory: Known,
    /// Words of memory that L0 has not read since they were put in place, with what it takes them for.
    news: BTreeMap<u64, [u8; 8]>,
    clock: u64,
    /// Entries that were answered.
    pub(super) entries: u64,
    pub(super) digests_taken: u64,
    watcher: &'a mut dyn FnMut(u64),
}

impl core::fmt::Debug for Lockstep<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Lockstep").field("next", &self.next).field("stands", &self.stands).finish_non_exhaustive()
    }
}

impl<'a> Lockstep<'a> {
    /// The silicon of a recording, before its first entry. `limit` is the number of the first event that is not compared;
    /// all that silicon answers before it is there. `watcher` is told, now and then, how many events have been compared.
    pub(super) fn new(ahead: Ahead, config: &Config, limit: u64, watcher: &'a mut dyn FnMut(u64)) -> Self {
        let cpus = usize::from(config.pcpus.max(1));
        let mut now = Stretch::default();
        let stands = if ahead.next(&mut now).is_some() { Stands::Same } else { Stands::Differs };
        let mut lockstep = Self {
            ahead,
            now,
            next: 0,
            limit,
            stands,
            run: 0,
            run_end: 0,
            at: Stamp::default(),
            access: 0,
            rows: [0; Kind::ALL.len()],
            exit: None,
            placed: 0,
            memory_size: hv::machine::memory_size(config),
            capabilities: BTreeMap::new(),
            registers: (0..cpus).map(|_| Registers::default()).collect(),
            notes: Notes::new(cpus, |_| 0),
            answers: Vec::new(),
            memory: Known::default(),
            news: BTreeMap::new(),
            clock: 0,
            entries: 0,
            digests_taken: 0,
            watcher,
        };
        let first = lockstep.now.table(Kind::Entry).number(0).unwrap_or(lockstep.now.end());
        lockstep.place(first);
        let capabilities = &lockstep.capabilities;
        lockstep.notes = Notes::new(cpus, |msr| capabilities.get(&msr).copied().unwrap_or_default());
        lockstep
    }

    /// The number of the first event that was not found to be the same; `None` where one was not.
    pub(super) fn same(&self) -> Option<u64> {
        (self.stands != Stands::Differs).then_some(self.next)
    }

    #[cold]
    fn differ(&mut self) {
        self.stands = Stands::Differs;
    }

    /// Goes on to the next event. Of the exit that L0 is at work on all that comes of it is met, since its own event depends
    /// on it.
    #[inline(always)]
    fn step(&mut self) {
        self.next += 1;
        if self.next >= self.limit && self.exit.is_none() {
            self.stands = Stands::Over;
        }
    }

    /// Whether the next event is of a kind, and came then and there.
    #[inline(always)]
    fn is(&mut self, kind: Kind, at: Stamp) -> bool {
        if self.next >= self.run_end {
            self.next_run();
        }
        let place = (self.next - self.now.first) as usize;
        (self.now.kinds.get(place) == Some(&Some(kind))) & (self.at == at)
    }

    /// Goes on to the run of stamps that the next event is of.
    #[inline(never)]
    fn next_run(&mut self) {
        while let Some(&(end, at)) = self.now.stamps.get(self.run)
            && self.next >= self.run_end
        {
            (self.run_end, self.at) = (end, at);
            self.run += 1;
        }
    }

    /// Whether a row that is there has the columns of what happened.
    #[inline]
    fn has(&self, row: usize, number: u64, what: &What) -> bool {
        let (mut cells, mut texts) = ([0; MAX_COLUMNS], Texts::default());
        what.row(&mut cells, &mut texts);
        let recorded = self.now.table(what.kind()).cells(row);
        if texts.list.is_empty() {
            recorded.iter().zip(cells).fold(true, |same, (cell, number)| same & (*cell == number))
        } else {
            self.now.with_text(number) == Some(what)
        }
    }

    /// Puts in place what silicon answered before the event of a number. Returns why it refused an entry, if it says so.
    fn place(&mut self, before: u64) -> Option<u64> {
        let Self { now, run, placed, memory_size, capabilities, registers, memory, news, .. } = self;
        let (answers, mut refused) = (now.table(Kind::Answer), None);
        while let Some(number) = answers.number(*placed)
            && number < before
        {
            let cells = answers.cells(*placed);
            *placed += 1;
            let Some(What::Answer(answer)) = What::from_row(Kind::Answer, cells, &Texts::default()) else { continue };
            match answer.of {
                AnswerOf::Capability => {
                    capabilities.extend(u32::try_from(answer.place).ok().map(|msr| (msr, answer.value)));
                }
                AnswerOf::Memory => {
                    let word = Hpa(answer.place & !7);
                    if word.0 < *memory_size {
                        let mut known = [0; 8];
                        memory.read(word, &mut known);
                        memory.write(word, &answer.value.to_le_bytes());
                        news.entry(word.0).or_insert(known);
                    }
                }
                AnswerOf::Refused => refused = Some(answer.value),
                _ => {
                    let cpu = now.stamp(run.saturating_sub(1), number).map_or(0, |at| usize::from(at.pcpu));
                    let registers = registers.get_mut(cpu);
                    if let (Some(register), Some(registers)) = (register_of(&answer), registers) {
                        registers.set(register, answer.value);
                    }
                }
            }
        }
        refused
    }

    /// What flushes drop before the event of a number, that silicon does by itself at an entry and at an exit.
    fn dropped(&self, before: u64) -> Exited {
        let (flushes, mut exited) = (self.now.table(Kind::Flush), Exited::default());
        let rows = self.rows[Kind::Flush as usize]..;
        for row in rows.take_while(|row| flushes.number(*row).is_some_and(|number| number < before)) {
            let &[_, cause, .., dropped] = flushes.cells(row) else { continue };
            if cause == Cause::HardwareEntry as u64 {
                exited.dropped_by_entry = dropped as u32;
            } else if cause == Cause::HardwareExit as u64 {
                exited.dropped_by_exit = dropped as u32;
            }
        }
        exited
    }

    /// What the next flush of L0's drops.
    fn flush(&self) -> u32 {
        let (flushes, rows) = (self.now.table(Kind::Flush), self.rows[Kind::Flush as usize]..);
        let own = |cells: &[u64]| {
            let &[_, cause, .., dropped] = cells else { return None };
            let others = [Cause::Guest, Cause::HardwareEntry, Cause::HardwareExit];
            others.iter().all(|other| cause != *other as u64).then_some(dropped as u32)
        };
        let rows = rows.take_while(|row| flushes.number(*row).is_some());
        rows.map(|row| flushes.cells(row)).find_map(own).unwrap_or_default()
    }

    /// Notes what L0 learns by reading these bytes.
    #[cold]
    fn learn(&mut self, at: Hpa, count: u64) {
        let (from, end) = (at.0 & !7, at.0 + count);
        let words = self.news.range(from..end).map(|(word, known)| {
            let mut now = [0; 8];
            self.memory.read(Hpa(*word), &mut now);
            (*word, *known, now)
        });
        let words: Vec<_> = words.collect();
        // As [`hv::taped`] has it: where the bytes that are read are known, nothing is learned of those beside them.
        let news = |(word, known, now): &(u64, [u8; 8], [u8; 8])| {
            (0..8).any(|byte| (at.0..end).contains(&(word + byte)) && known[byte as usize] != now[byte as usize])
        };
        if !words.iter().any(news) {
            return;
        }
        for (word, known, now) in words {
            self.news.remove(&word);
            if known != now {
                self.notes.note(0, AnswerOf::Memory, word, u64::from_le_bytes(now));
            }
        }
    }

    /// What L0 writes is known to it.
    #[cold]
    fn knows(&mut self, at: Hpa, bytes: &[u8]) {
        let (from, end) = (at.0 & !7, at.0 + bytes.len() as u64);
        for (word, known) in self.news.range_mut(from..end) {
            for (byte, known) in (*word..).zip(known) {
                if let Some(written) = byte.checked_sub(at.0).and_then(|byte| bytes.get(byte as usize)) {
                    *known = *written;
                }
            }
        }
    }

    fn settle(&mut self, cpu: Pcpu) {
        self.notes.settle(cpu, || &self.registers[cpu]);
    }

    /// What an entry comes to for which nothing is recorded.
    fn end(&self) -> Result<Outcome, Refused> {
        let what = "the recording ends here".to_owned();
        Ok(Outcome::Unsupported(Unsupported { rip: 0, bytes: Vec::new(), what }))
    }
}

impl Silicon for Lockstep<'_> {
    fn capability(&self, msr: u32) -> u64 {
        self.capabilities.get(&msr).copied().unwrap_or_default()
    }

    fn memory_size(&self) -> u64 {
        self.memory_size
    }

    fn read(&mut self, at: Hpa, into: &mut [u8]) {
        assert!(at.0 + into.len() as u64 <= self.memory_size, "L0 reads what is memory");
        self.memory.read(at, into);
        if !self.news.is_empty() {
            self.learn(at, into.len() as u64);
        }
    }

    fn write(&mut self, at: Hpa, bytes: &[u8]) {
        assert!(at.0 + bytes.len() as u64 <= self.memory_size, "L0 writes what is memory");
        self.memory.write(at, bytes);
        if !self.news.is_empty() {
            self.knows(at, bytes);
        }
    }

    // What VMCSs hold need not be kept: each read is in the recording, and so is what each write finds. Which VMCS is
    // meant is in the event that L0 makes of it.
    fn vmclear(&mut self, _: Pcpu, _: Hpa) {}

    fn vmptrld(&mut self, _: Pcpu, _: Hpa) {}

    fn vmread(&mut self, cpu: Pcpu, field: VmcsField) -> u64 {
        let value = self.vmread_row(cpu, 0);
        if field.is_high() { value >> 32 } else { value }
    }

    fn vmwrite(&mut self, _: Pcpu, _: VmcsField, _: u64) {}

    #[inline]
    fn vmread_row(&mut self, _: Pcpu, _: usize) -> u64 {
        // L0 tells of the read, or of the write that it is for, before it does anything else: that it is this one is seen
        // then.
        self.now.accesses.get(self.access).map_or(0, |access| access.old)
    }

    #[inline]
    fn vmwrite_row(&mut self, _: Pcpu, _: usize, _: u64) {}

    fn registers(&mut self, cpu: Pcpu) -> &mut Registers {
        for register in REGISTERS {
            self.register(cpu, register);
        }
        self.notes.lent(cpu);
        &mut self.registers[cpu]
    }

    #[inline]
    fn register(&mut self, cpu: Pcpu, register: Register) -> u64 {
        self.settle(cpu);
        let value = self.registers[cpu].get(register);
        self.notes.told(cpu, register, value);
        value
    }

    #[inline]
    fn set_register(&mut self, cpu: Pcpu, register: Register, value: u64) {
        self.settle(cpu);
        self.registers[cpu].set(register, value);
        self.notes.set(cpu, register, value);
    }

    fn tell_answers(&mut self, _: &mut Vec<Event>, at: Stamp) {
        let mut answers = core::mem::take(&mut self.answers);
        answers.extend(self.notes.take());
        for (cpu, Answer { of, place, value }) in answers.drain(..) {
            if self.stands != Stands::Same {
                continue;
            }
            let row = self.rows[Kind::Answer as usize];
            let same = self.is(Kind::Answer, Stamp { pcpu: cpu as u16, ..at })
                && *self.now.table(Kind::Answer).cells(row) == [of as u64, place, value];
            if !same {
                self.differ();
                continue;
            }
            self.rows[Kind::Answer as usize] += 1;
            self.step();
        }
        self.answers = answers;
    }

    #[inline]
    fn hears(&mut self, at: Stamp, what: &What) -> bool {
        if self.stands != Stands::Same {
            return true;
        }
        if let What::Vmcs(access) = what {
            return self.hears_access(at, access);
        }
        let kind = what.kind();
        let row = self.rows[kind as usize];
        if !self.is(kind, at) || !self.has(row, self.next, what) {
            self.differ();
            return true;
        }
        self.rows[kind as usize] += 1;
        self.step();
        true
    }

    #[inline]
    fn hears_access(&mut self, at: Stamp, access: &VmcsAccess) -> bool {
        if self.stands != Stands::Same {
            return true;
        }
        let same = self.is(Kind::Vmcs, at);
        let same = same
            & self.now.accesses.get(self.access).is_some_and(|recorded| {
                (recorded.what == word(access))
                    & (recorded.address == access.address)
                    & (recorded.old == access.old)
                    & (recorded.value == access.value)
            });
        if !same {
            self.differ();
            return true;
        }
        self.access += 1;
        self.step();
        true
    }

    #[inline]
    fn hears_of_exit(&mut self, at: Stamp) -> bool {
        if self.stands == Stands::Same {
            let row = self.rows[Kind::Exit as usize];
            if self.is(Kind::Exit, at) {
                self.exit = Some(row);
                self.rows[Kind::Exit as usize] += 1;
                self.step();
            } else {
                self.differ();
            }
        }
        true
    }

    #[inline]
    fn hears_exit(&mut self, what: &What) {
        let Some(row) = self.exit.take() else { return };
        if !self.has(row, 0, what) {
            self.differ();
        } else if self.next >= self.limit && self.stands == Stands::Same {
            self.stands = Stands::Over;
        }
    }

    fn enter(&mut self, cpu: Pcpu, _launch: bool, _until: u64) -> Result<Outcome, Refused> {
        let _ = cpu;
        (0..self.registers.len()).for_each(|cpu| self.settle(cpu));
        if self.stands == Stands::Same && self.next == self.now.end() {
            (self.watcher)(self.next);
            match self.ahead.next(&mut self.now) {
                Some(()) => {
                    (self.access, self.rows, self.placed) = (0, [0; Kind::ALL.len()], 0);
                    self.run = 0;
                }
                None => self.differ(),
            }
        }
        if self.stands != Stands::Same {
            return self.end();
        }
        let (entries, row) = (self.now.table(Kind::Entry), self.rows[Kind::Entry as usize]);
        if entries.number(row) != Some(self.next) {
            self.differ();
            return self.end();
        }
        self.entries += 1;
        let before = entries.number(row + 1).unwrap_or(self.now.end());
        let failed = match self.now.with_text(self.next) {
            Some(What::Entry(entry)) => entry.failed,
            _ => None,
        };
        let refused = self.place(before);
        if let Some(error) = refused {
            let error = InstructionError(error as u32);
            self.notes.note(cpu, AnswerOf::Refused, 0, error.0.into());
            return Err(Refused { error: Some(error), check: failed.filter(|check| check.name() != "refused") });
        }
        if let Some(check) = failed {
            return Ok(Outcome::EntryFailed(check));
        }
        let (exits, row) = (self.now.table(Kind::Exit), self.rows[Kind::Exit as usize]);
        // Between the two there is at most what the entry dropped.
        if let Some(number) = exits.number(row).filter(|number| *number <= self.next + 2) {
            let at = self.now.stamp(self.run.saturating_sub(1), number);
            self.clock = self.clock.max(at.map_or(0, |at| at.instruction));
            return Ok(Outcome::Exited(self.dropped(before)));
        }
        let stops = self.now.table(Kind::Stop);
        let stop = stops.number(0).and_then(|number| Some((self.now.with_text(number)?, self.now.stamp(0, number)?)));
        let Some((What::Stop(stop), at)) = stop else {
            self.differ();
            return self.end();
        };
        self.clock = self.clock.max(at.instruction);
        Ok(Outcome::Unsupported(Unsupported { rip: 0, bytes: Vec::new(), what: what_was_unsupported(stop) }))
    }

    fn invvpid(&mut self, _: Pcpu, _: InvvpidType, _: InvvpidDescriptor) -> u32 {
        self.flush()
    }

    fn invept(&mut self, _: Pcpu, _: InveptType, _: InveptDescriptor) -> u32 {
        self.flush()
    }

    fn retired(&self) -> u64 {
        self.clock
    }

    fn skip(&mut self, to: u64) {
        self.clock = self.clock.max(to);
    }

    /// A digest is of all the machine: it is taken from the recording.
    fn digest(&mut self) -> u64 {
        let (digests, row) = (self.now.table(Kind::Digest), self.rows[Kind::Digest as usize]);
        self.digests_taken += 1;
        digests.number(row).map_or(0, |_| digests.cells(row)[0])
    }
}
