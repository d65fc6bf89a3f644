//! Silicon whose answers to L0 are noted: what a replay of L0 alone needs instead of a CPU.
//!
//! Noted is what L0 learns and what neither its own actions nor earlier answers tell: registers that it reads, and words of
//! physical memory that it reads, where they differ from what is known of them; entries that were refused; capabilities.
//! What VMREAD gives and how much a flush drops is in the events that L0 tells anyway.
//!
//! Silicon does nothing while L0 works, so all that is noted between two entries may be taken for known as soon as the
//! first of them is over.

use crate::silicon::{Outcome, Pcpu, Refused, Register, Registers, Silicon};
use hv_defs::addr::{Hpa, PAGE_SIZE};
use hv_defs::ept::{InveptDescriptor, InveptType, InvvpidDescriptor, InvvpidType};
use hv_defs::event::{Answer, AnswerOf, Event, Stamp, What};
use hv_defs::vmcs::VmcsField;
use hv_defs::x86::msr;

/// Registers that L0 may ask for: each at its [`place`].
pub const REGISTERS: [Register; 32] = {
    let mut all = [Register::Cr2; 32];
    let mut number = 0;
    while number < 16 {
        all[number as usize] = Register::Gpr(number);
        number += 1;
    }
    let mut number = 0;
    while number < 4 {
        all[16 + number as usize] = Register::Dr(number);
        number += 1;
    }
    let others = [
        Register::Cr2,
        Register::Cr8,
        Register::Dr6,
        Register::Xcr0,
        Register::Xss,
        Register::Star,
        Register::Lstar,
        Register::Cstar,
        Register::Fmask,
        Register::KernelGsBase,
        Register::TscAux,
        Register::Pkru,
    ];
    let mut at = 0;
    while at < others.len() {
        all[20 + at] = others[at];
        at += 1;
    }
    all
};

/// A register as an answer names it.
pub const fn answer_of(register: Register) -> (AnswerOf, u64) {
    match register {
        Register::Gpr(number) => (AnswerOf::Gpr, number as u64),
        Register::Dr(number) => (AnswerOf::Dr, number as u64),
        Register::Cr2 => (AnswerOf::Cr2, 0),
        Register::Cr8 => (AnswerOf::Cr8, 0),
        Register::Dr6 => (AnswerOf::Dr6, 0),
        Register::Xcr0 => (AnswerOf::Xcr0, 0),
        Register::Xss => (AnswerOf::Xss, 0),
        Register::Star => (AnswerOf::Star, 0),
        Register::Lstar => (AnswerOf::Lstar, 0),
        Register::Cstar => (AnswerOf::Cstar, 0),
        Register::Fmask => (AnswerOf::Fmask, 0),
        Register::KernelGsBase => (AnswerOf::KernelGsBase, 0),
        Register::TscAux => (AnswerOf::TscAux, 0),
        Register::Pkru => (AnswerOf::Pkru, 0),
    }
}

/// The register that an answer names; `None` where it is of something else, or there is no such register.
pub fn register_of(answer: &Answer) -> Option<Register> {
    let number = u8::try_from(answer.place).ok()?;
    Some(match answer.of {
        AnswerOf::Capability | AnswerOf::Memory | AnswerOf::Refused => return None,
        AnswerOf::Gpr => Register::Gpr((number < 16).then_some(number)?),
        AnswerOf::Dr => Register::Dr((number < 4).then_some(number)?),
        AnswerOf::Cr2 => Register::Cr2,
        AnswerOf::Cr8 => Register::Cr8,
        AnswerOf::Dr6 => Register::Dr6,
        AnswerOf::Xcr0 => Register::Xcr0,
        AnswerOf::Xss => Register::Xss,
        AnswerOf::Star => Register::Star,
        AnswerOf::Lstar => Register::Lstar,
        AnswerOf::Cstar => Register::Cstar,
        AnswerOf::Fmask => Register::Fmask,
        AnswerOf::KernelGsBase => Register::KernelGsBase,
        AnswerOf::TscAux => Register::TscAux,
        AnswerOf::Pkru => Register::Pkru,
    })
}

/// The VMX capability MSRs.
pub const CAPABILITIES: core::ops::RangeInclusive<u32> = msr::VMX_BASIC..=msr::VMX_VMFUNC;

const PAGE: usize = PAGE_SIZE as usize;
const PAGES: usize = 512;

type Page = [u8; PAGE];
type Region = [Option<Box<Page>>; PAGES];

/// As much of physical memory as is known: pages of which nothing is known are taken for zeros.
#[derive(Clone, Default)]
pub struct Known {
    regions: Vec<Option<Box<Region>>>,
}

impl core::fmt::Debug for Known {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Known").field("regions", &self.regions.iter().flatten().count()).finish()
    }
}

impl Known {
    #[inline]
    fn page(&self, number: usize) -> Option<&Page> {
        self.regions.get(number / PAGES)?.as_ref()?[number % PAGES].as_deref()
    }

    fn page_mut(&mut self, number: usize) -> &mut Page {
        let region = number / PAGES;
        if self.regions.len() <= region {
            self.regions.resize_with(region + 1, || None);
        }
        let region = self.regions[region].get_or_insert_with(|| Box::new([const { None }; PAGES]));
        region[number % PAGES].get_or_insert_with(|| Box::new([0; PAGE]))
    }

    /// Reads what is known.
    #[inline]
    pub fn read(&self, at: Hpa, into: &mut [u8]) {
        let (number, offset) = (at.0 as usize / PAGE, at.0 as usize % PAGE);
        if into.len() <= PAGE - offset {
            match self.page(number) {
                Some(page) => into.copy_from_slice(&page[offset..offset + into.len()]),
                None => into.fill(0),
            }
        } else {
            self.read_pages(at, into);
        }
    }

    fn read_pages(&self, at: Hpa, into: &mut [u8]) {
        for (number, offset, part) in parts(at, into.len()) {
            let count = part.len();
            let into = &mut into[part];
            match self.page(number) {
                Some(page) => into.copy_from_slice(&page[offset..offset + count]),
                None => into.fill(0),
            }
        }
    }

    /// Whether these bytes are what is known.
    #[inline]
    pub fn holds(&self, at: Hpa, bytes: &[u8]) -> bool {
        parts(at, bytes.len()).all(|(number, offset, part)| {
            let count = part.len();
            let bytes = &bytes[part];
            match self.page(number) {
                Some(page) => page[offset..offset + count] == *bytes,
                None => bytes.iter().all(|byte| *byte == 0),
            }
        })
    }

    /// These bytes are there from now on.
    #[inline]
    pub fn write(&mut self, at: Hpa, bytes: &[u8]) {
        let (number, offset) = (at.0 as usize / PAGE, at.0 as usize % PAGE);
        match self.page_of(number) {
            Some(page) if bytes.len() <= PAGE - offset => page[offset..offset + bytes.len()].copy_from_slice(bytes),
            _ => self.write_pages(at, bytes),
        }
    }

    /// A page of which something is known.
    #[inline]
    fn page_of(&mut self, number: usize) -> Option<&mut Page> {
        self.regions.get_mut(number / PAGES)?.as_mut()?[number % PAGES].as_deref_mut()
    }

    fn write_pages(&mut self, at: Hpa, bytes: &[u8]) {
        for (number, offset, part) in parts(at, bytes.len()) {
            let count = part.len();
            let bytes = &bytes[part];
            if self.page(number).is_some() || bytes.iter().any(|byte| *byte != 0) {
                self.page_mut(number)[offset..offset + count].copy_from_slice(bytes);
            }
        }
    }
}

/// The parts of `length` bytes from `at` on, page by page: the page's number, the offset there, the range of the bytes.
#[inline]
fn parts(at: Hpa, length: usize) -> impl Iterator<Item = (usize, usize, core::ops::Range<usize>)> {
    let mut done = 0;
    core::iter::from_fn(move || {
        if done >= length {
            return None;
        }
        let from = at.0 as usize + done;
        let count = (length - done).min(PAGE - from % PAGE);
        let part = (from / PAGE, from % PAGE, done..done + count);
        done += count;
        Some(part)
    })
}

/// What is known of a CPU's registers.
#[derive(Debug)]
struct Seen {
    registers: [u64; REGISTERS.len()],
    /// L0 has had all of them in its hands since, and may have written any.
    lent: bool,
}

/// What L0 has learned of silicon, and what of that was news since it was last told.
#[derive(Debug)]
pub struct Notes {
    seen: Vec<Seen>,
    answers: Vec<(Pcpu, Answer)>,
}

impl Notes {
    /// Of so many physical CPUs, of which no more is known than what they offer.
    pub fn new(pcpus: usize, capability: impl Fn(u32) -> u64) -> Self {
        let fresh = Registers::default();
        let seen =
            (0..pcpus.max(1)).map(|_| Seen { registers: REGISTERS.map(|register| fresh.get(register)), lent: false });
        let capability = |msr| Answer { of: AnswerOf::Capability, place: u64::from(msr), value: capability(msr) };
        Self { seen: seen.collect(), answers: CAPABILITIES.map(|msr| (0, capability(msr))).collect() }
    }

    /// Notes an answer.
    pub fn note(&mut self, cpu: Pcpu, of: AnswerOf, place: u64, value: u64) {
        self.answers.push((cpu, Answer { of, place, value }));
    }

    /// L0 was told what a register holds.
    #[inline]
    pub fn told(&mut self, cpu: Pcpu, register: Register, value: u64) {
        let seen = &mut self.seen[cpu].registers[place(register)];
        if *seen != value {
            *seen = value;
            let (of, place) = answer_of(register);
            self.note(cpu, of, place, value);
        }
    }

    /// L0 has set a register.
    #[inline]
    pub fn set(&mut self, cpu: Pcpu, register: Register, value: u64) {
        self.seen[cpu].registers[place(register)] = value;
    }

    /// L0 gets all registers of a CPU in its hands.
    pub fn lent(&mut self, cpu: Pcpu) {
        self.seen[cpu].lent = true;
    }

    /// What L0 wrote while it had a CPU's registers in its hands is known.
    #[inline]
    pub fn settle<'a>(&mut self, cpu: Pcpu, registers: impl FnOnce() -> &'a Registers) {
        if core::mem::take(&mut self.seen[cpu].lent) {
            let registers = registers();
            self.seen[cpu].registers = REGISTERS.map(|register| registers.get(register));
        }
    }

    /// What was noted, in order, which is forgotten.
    pub fn take(&mut self) -> impl Iterator<Item = (Pcpu, Answer)> {
        self.answers.drain(..)
    }
}

/// Silicon whose answers are noted.
#[derive(Debug)]
pub struct Taped<S> {
    inner: S,
    notes: Notes,
    cpus: usize,
    known: Known,
}

impl<S: Silicon> Taped<S> {
    /// Silicon of which L0 knows nothing yet, with `pcpus` physical CPUs.
    pub fn new(inner: S, pcpus: usize) -> Self {
        let notes = Notes::new(pcpus, |msr| inner.capability(msr));
        Self { notes, cpus: pcpus.max(1), known: Known::default(), inner }
    }

    /// The silicon itself.
    pub fn inner(&mut self) -> &mut S {
        &mut self.inner
    }

    #[inline]
    fn settle(&mut self, cpu: Pcpu) {
        self.notes.settle(cpu, || self.inner.registers(cpu));
    }
}

/// A register's place in [`REGISTERS`].
#[inline(always)]
pub const fn place(register: Register) -> usize {
    match register {
        Register::Gpr(number) => (number & 15) as usize,
        Register::Dr(number) => 16 + (number & 3) as usize,
        Register::Cr2 => 20,
        Register::Cr8 => 21,
        Register::Dr6 => 22,
        Register::Xcr0 => 23,
        Register::Xss => 24,
        Register::Star => 25,
        Register::Lstar => 26,
        Register::Cstar => 27,
        Register::Fmask => 28,
        Register::KernelGsBase => 29,
        Register::TscAux => 30,
        Register::Pkru => 31,
    }
}

impl<S: Silicon> Silicon for Taped<S> {
    fn capability(&self, msr: u32) -> u64 {
        self.inner.capability(msr)
    }

    fn memory_size(&self) -> u64 {
        self.inner.memory_size()
    }

    fn read(&mut self, at: Hpa, into: &mut [u8]) {
        self.inner.read(at, into);
        if self.known.holds(at, into) {
            return;
        }
        let (from, to) = (at.0 & !7, at.0 + into.len() as u64);
        for word in (from..to).step_by(8) {
            let mut bytes = [0; 8];
            self.inner.read(Hpa(word), &mut bytes);
            if !self.known.holds(Hpa(word), &bytes) {
                self.known.write(Hpa(word), &bytes);
                self.notes.note(0, AnswerOf::Memory, word, u64::from_le_bytes(bytes));
            }
        }
    }

    fn write(&mut self, at: Hpa, bytes: &[u8]) {
        self.inner.write(at, bytes);
        self.known.write(at, bytes);
    }

    fn vmclear(&mut self, cpu: Pcpu, vmcs: Hpa) {
        self.inner.vmclear(cpu, vmcs);
    }

    fn vmptrld(&mut self, cpu: Pcpu, vmcs: Hpa) {
        self.inner.vmptrld(cpu, vmcs);
    }

    fn vmread(&mut self, cpu: Pcpu, field: VmcsField) -> u64 {
        self.inner.vmread(cpu, field)
    }

    fn vmwrite(&mut self, cpu: Pcpu, field: VmcsField, value: u64) {
        self.inner.vmwrite(cpu, field, value);
    }

    fn vmread_row(&mut self, cpu: Pcpu, row: usize) -> u64 {
        self.inner.vmread_row(cpu, row)
    }

    fn vmwrite_row(&mut self, cpu: Pcpu, row: usize, value: u64) {
        self.inner.vmwrite_row(cpu, row, value);
    }

    fn vmwrite_rows(&mut self, cpu: Pcpu, writes: &[(usize, u64)]) {
        self.inner.vmwrite_rows(cpu, writes);
    }

    fn registers(&mut self, cpu: Pcpu) -> &mut Registers {
        for register in REGISTERS {
            self.register(cpu, register);
        }
        self.notes.lent(cpu);
        self.inner.registers(cpu)
    }

    #[inline]
    fn register(&mut self, cpu: Pcpu, register: Register) -> u64 {
        self.settle(cpu);
        let value = self.inner.register(cpu, register);
        self.notes.told(cpu, register, value);
        value
    }

    #[inline]
    fn set_register(&mut self, cpu: Pcpu, register: Register, value: u64) {
        self.settle(cpu);
        self.inner.set_register(cpu, register, value);
        self.notes.set(cpu, register, value);
    }

    fn tell_answers(&mut self, log: &mut Vec<Event>, at: Stamp) {
        let told =
            |(cpu, answer): (Pcpu, Answer)| Event { at: Stamp { pcpu: cpu as u16, ..at }, what: What::Answer(answer) };
        log.extend(self.notes.take().map(told));
    }

    fn enter(&mut self, cpu: Pcpu, launch: bool, until: u64) -> Result<Outcome, Refused> {
        (0..self.cpus).for_each(|cpu| self.settle(cpu));
        let outcome = self.inner.enter(cpu, launch, until);
        if let Err(Refused { error: Some(error), .. }) = &outcome {
            self.notes.note(cpu, AnswerOf::Refused, 0, u64::from(error.0));
        }
        outcome
    }

    fn invvpid(&mut self, cpu: Pcpu, kind: InvvpidType, descriptor: InvvpidDescriptor) -> u32 {
        self.inner.invvpid(cpu, kind, descriptor)
    }

    fn invept(&mut self, cpu: Pcpu, kind: InveptType, descriptor: InveptDescriptor) -> u32 {
        self.inner.invept(cpu, kind, descriptor)
    }

    fn retired(&self) -> u64 {
        self.inner.retired()
    }

    fn skip(&mut self, to: u64) {
        self.inner.skip(to);
    }

    fn digest(&mut self) -> u64 {
        self.inner.digest()
    }
}
