//! The threads that run vCPUs, and the vCPUs' numbers in our trace.

use super::At;
use super::flush::Pending;
use std::collections::BTreeMap;

/// The most threads that are told apart.
pub(super) const THREADS: usize = 1 << 15;

/// Each virtual machine's vCPUs have so many numbers to themselves.
const APART: u16 = 64;

/// A thread that runs a vCPU.
#[derive(Debug, Default)]
pub(super) struct Vcpu {
    /// Its vCPU's number in our trace.
    pub(super) number: u16,
    /// Whether KVM told the number: old kernels do not with every tracepoint.
    sure: bool,
    /// The number of its first event.
    first: u64,
    /// The physical CPU that it was seen on last.
    pub(super) cpu: u16,
    /// Whether it was seen to run on hardware.
    pub(super) ran: bool,
    /// Whether L2 runs.
    pub(super) nested: bool,
    /// The vmcs12 under which it runs.
    pub(super) vmcs12: Option<u64>,
    /// The number of the exit that may still change.
    pub(super) open: Option<u64>,
    /// Why it is to flush before it runs again.
    pub(super) pending: Option<Pending>,
    /// Its process, where that is known.
    pub(super) process: Option<u32>,
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Vcpus {
    threads: BTreeMap<u32, Vcpu>,
    /// The thread that has a number.
    taken: BTreeMap<u16, u32>,
    /// The least number that may be free.
    free: u16,
    /// The processes of the virtual machines, where the tool tells them, by order of appearance.
    machines: BTreeMap<u32, u16>,
    /// Where it does not, how many threads there were with a number of KVM's.
    alike: BTreeMap<u16, u16>,
}

/// Numbers that changed, of events that were not told yet: from and to.
pub(super) type Moves = Vec<(u16, u16)>;

impl Vcpus {
    /// The vCPU of a thread that is known.
    pub(super) fn get(&mut self, thread: u32) -> Option<&mut Vcpu> {
        self.threads.get_mut(&thread)
    }

    /// The first number of a process's vCPUs, which is added when it is new; `None` where there are no more numbers.
    pub(super) fn machine(&mut self, process: u32) -> Option<u16> {
        let next = self.machines.len() as u16;
        self.machines.entry(process).or_insert(next).checked_mul(APART)
    }

    /// All of them.
    pub(super) fn all(&mut self) -> impl Iterator<Item = &mut Vcpu> {
        self.threads.values_mut()
    }

    /// The vCPU of a hit that says to be of KVM's vCPU `own`, if it does; it is added when it is new. `told` is the number of the first event that was not told yet, `next`
    /// that of the next one.
    pub(super) fn of(&mut self, at: &At, own: Option<u64>, told: u64, next: u64) -> Option<(&mut Vcpu, Moves)> {
        let mut moves = Moves::new();
        let own = own.and_then(|own| u16::try_from(own).ok());
        match (self.threads.get(&at.thread).map(|vcpu| (vcpu.sure, vcpu.number, vcpu.first)), own) {
            (None, _) if self.threads.len() == THREADS => return None,
            (None, own) => {
                let claimed = match (own, at.process) {
                    (Some(own), _) => self.claim(at, own, told),
                    // The next of its virtual machine's, until KVM says which it is.
                    (None, Some(process)) => self.next(process),
                    (None, None) => None,
                };
                let number = claimed.unwrap_or_else(|| self.unused());
                // Who had the number, and never said that it is its own, has another from now on.
                if let Some(other) = self.taken.insert(number, at.thread) {
                    let unused = self.unused();
                    moves.push((number, unused));
                    self.put(other, unused);
                }
                let vcpu = Vcpu { number, sure: own.is_some(), first: next, process: at.process, ..Vcpu::default() };
                self.threads.insert(at.thread, vcpu);
            }
            (Some((false, number, first)), Some(own)) => {
                let claimed = if first >= told { self.claim(at, own, told) } else { None };
                if let Some(wanted) = claimed.filter(|wanted| *wanted != number) {
                    self.taken.remove(&number);
                    self.free = self.free.min(number);
                    moves.push((number, wanted));
                    if let Some(other) = self.taken.get(&wanted).copied() {
                        moves.push((wanted, number));
                        self.put(other, number);
                    }
                    self.put(at.thread, wanted);
                }
                if let Some(vcpu) = self.threads.get_mut(&at.thread) {
                    vcpu.sure = true;
                }
            }
            _ => {}
        }
        let vcpu = self.threads.get_mut(&at.thread)?;
        vcpu.cpu = at.cpu;
        Some((vcpu, moves))
    }

    fn put(&mut self, thread: u32, number: u16) {
        self.taken.insert(number, thread);
        if let Some(vcpu) = self.threads.get_mut(&thread) {
            vcpu.number = number;
        }
    }

    /// The number for what KVM calls vCPU `own`, if it can be had: 64 are each virtual machine's, where the tool tells
    /// machines apart; else the second thread with a number has 64 more than the first, and so on.
    fn claim(&mut self, at: &At, own: u16, told: u64) -> Option<u16> {
        let machine = match at.process {
            Some(process) => self.machine(process),
            None => {
                let alike = self.alike.entry(own).or_default();
                *alike += 1;
                (*alike - 1).checked_mul(APART)
            }
        };
        let number = machine?.checked_add(own)?;
        let free = match self.taken.get(&number) {
            None => true,
            Some(thread) if *thread == at.thread => true,
            Some(thread) => self.threads.get(thread).is_some_and(|other| !other.sure && other.first >= told),
        };
        free.then_some(number)
    }

    /// The least number of that process's that no thread has.
    fn next(&mut self, process: u32) -> Option<u16> {
        let first = self.machine(process)?;
        (first..first.checked_add(APART)?).find(|number| !self.taken.contains_key(number))
    }

    /// The least number that no thread has. There are more of them than threads.
    fn unused(&mut self) -> u16 {
        while self.taken.contains_key(&self.free) {
            self.free += 1;
        }
        self.free
    }
}
