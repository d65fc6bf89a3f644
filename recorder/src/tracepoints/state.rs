//! The events that come of tracepoints, told in order.
//!
//! An exit is told once it is known whose it was: when its vCPU's thread enters again or exits again.

use super::flush::{self, Pending};
use super::svm::{self, Said};
use super::vcpus::{THREADS, Vcpu, Vcpus};
use super::{At, Field, Hit, emulated};
use hv_defs::event::{Actor, Cause, Entry, Event, Exit, Flush, FlushKind, Injection, NO_ADDRESS, Stamp, What};
use hv_defs::exit::{ExitReason, InterruptionInfo, Reason};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Events that may wait for an exit's thread. A thread that does not come back within so many is not waited for.
const WAITING: usize = 1 << 14;
/// The most names of tracepoints that are counted apart.
const NAMES: usize = 1 << 10;

/// What is known so far.
pub(crate) struct State {
    vcpus: Vcpus,
    /// The numbers of the exits that may still change.
    open: BTreeSet<u64>,
    /// Events that were not told yet; the first is number `told`.
    waiting: VecDeque<Event>,
    told: u64,
    /// When and where the last event was that was told.
    last: Stamp,
    /// The time of the first event.
    start: u64,
    /// Whether the host is known to be AMD's.
    svm: bool,
    /// Whether a guest was entered.
    entered: bool,
    /// Events that were told and not taken away yet.
    ready: Vec<Event>,
    /// Hits that none of our events was made of, by name.
    unmapped: BTreeMap<String, u64>,
}

impl State {
    /// Nothing is known; times count from `start`.
    pub(crate) fn new(start: u64) -> Self {
        Self {
            vcpus: Vcpus::default(),
            open: BTreeSet::new(),
            waiting: VecDeque::new(),
            told: 0,
            last: Stamp::default(),
            start,
            svm: false,
            entered: false,
            ready: Vec::new(),
            unmapped: BTreeMap::new(),
        }
    }

    /// The events that were told since the last call, in order.
    pub(crate) fn ready(&mut self) -> std::vec::Drain<'_, Event> {
        self.ready.drain(..)
    }

    /// Hits that none of our events was made of, by name.
    pub(crate) fn unmapped(&self) -> &BTreeMap<String, u64> {
        &self.unmapped
    }

    /// The next numbers of vCPUs are that process's, unless it has some; the first of them.
    pub(crate) fn machine(&mut self, process: u32) -> Option<u16> {
        self.vcpus.machine(process)
    }

    /// Takes a hit. What is wrong with it is said in a line; it is not taken then.
    pub(crate) fn take(&mut self, hit: &impl Hit) -> Result<(), String> {
        match hit.event() {
            "kvm_exit" => {
                let rip = hit.get(Field::Rip).ok_or("kvm_exit without rip")?;
                let infos = hit.infos();
                let found = hit.reason(self.svm).ok_or("kvm_exit without a reason")?;
                self.svm |= found.svm.is_some();
                let intr_info = InterruptionInfo::from(hit.get(Field::IntrInfo).unwrap_or(0) as u32);
                let said =
                    found.svm.map_or_else(|| vmx(infos, intr_info), |code| svm::said(code, infos, rip, intr_info));
                self.close(hit)?;
                let vcpu = self.vcpu(hit)?;
                let (number, nested, vmcs12) = (vcpu.number, vcpu.nested, vcpu.vmcs12);
                let exit = Exit {
                    level: 1 + u8::from(nested),
                    reason: found.reason,
                    qualification: said.qualification,
                    rip,
                    length: said.length,
                    gpa: said.gpa,
                    gla: said.gla,
                    intr_info: said.intr_info,
                    vmcs12: vmcs12.filter(|_| nested).unwrap_or(NO_ADDRESS),
                    handled_by: Actor::L0,
                };
                let place = self.told + self.waiting.len() as u64;
                self.push(hit, number, What::Exit(exit));
                let vcpu = self.vcpu(hit)?;
                (vcpu.open, vcpu.ran) = (Some(place), true);
                self.open.insert(place);
            }
            "kvm_entry" => {
                self.close(hit)?;
                self.entered = true;
                let vcpu = self.vcpu(hit)?;
                vcpu.ran = true;
                // What a transition asks for is done before the entry, or was not needed.
                vcpu.pending.take_if(|pending| *pending == Pending::Transition);
                let entry = Entry {
                    level: 1 + u8::from(vcpu.nested),
                    launch: false,
                    vmcs12: vcpu.vmcs12.filter(|_| vcpu.nested).unwrap_or(NO_ADDRESS),
                    vmcs02: NO_ADDRESS,
                    vpid: 0,
                    eptp: 0,
                    injected: InterruptionInfo::from(hit.get(Field::IntrInfo).unwrap_or(0) as u32),
                    failed: None,
                    fields_written: 0,
                };
                let number = vcpu.number;
                self.push(hit, number, What::Entry(entry));
            }
            "kvm_nested_vmenter" | "kvm_nested_vmrun" => {
                let vmcs12 = hit.get(Field::Vmcs12);
                let vcpu = self.vcpu(hit)?;
                (vcpu.nested, vcpu.vmcs12) = (true, vmcs12);
            }
            "kvm_nested_vmexit" => {
                self.vcpu(hit)?.nested = true;
                self.amend(hit, |exit, vmcs12| {
                    exit.level = 2;
                    exit.vmcs12 = vmcs12.unwrap_or(NO_ADDRESS);
                    true
                });
            }
            name @ ("kvm_nested_vmexit_inject" | "kvm_nested_intr_vmexit") => {
                // Of another reason, it is not that exit that L1 is given: that was L0's, and then something came up.
                let reason = match name {
                    "kvm_nested_vmexit_inject" => hit.reason(self.svm).map(|found| found.reason.reason()),
                    _ => Some(Reason::EXTERNAL_INTERRUPT),
                };
                let reflected = self.amend(hit, |exit, _| {
                    let same = exit.level == 2 && Some(exit.basic()) == reason;
                    exit.handled_by = if same { Actor::L1 } else { exit.handled_by };
                    same
                });
                if !reflected {
                    self.unmap(name);
                }
                self.vcpu(hit)?.nested = false;
            }
            "kvm_page_fault" => {
                let address = hit.get(Field::Address);
                self.amend(hit, |exit, _| {
                    if matches!(exit.basic(), Reason::EPT_VIOLATION | Reason::EPT_MISCONFIG) {
                        exit.gpa = address.unwrap_or(exit.gpa);
                    }
                    true
                });
            }
            // L1's own address: L2's is not told.
            name @ ("kvm_mmio" | "kvm_fast_mmio") => {
                let address = hit.get(Field::Gpa);
                let amended = self.amend(hit, |exit, _| {
                    let ept = matches!(exit.basic(), Reason::EPT_VIOLATION | Reason::EPT_MISCONFIG);
                    let its = ept && exit.level == 1 && exit.gpa == 0;
                    exit.gpa = address.filter(|_| its).unwrap_or(exit.gpa);
                    its
                });
                if !amended {
                    self.emulated(name, hit)?;
                }
            }
            "kvm_inj_virq" => {
                let vector = hit.get(Field::Vector).filter(|vector| *vector < 256);
                let vector = vector.ok_or("kvm_inj_virq without a vector")?;
                let soft = hit.get(Field::Soft) == Some(1);
                self.inject(hit, vector as u32 | if soft { 4 << 8 } else { 0 }, 0)?;
            }
            "kvm_inj_exception" => {
                let said = hit.exception().filter(|(vector, _)| *vector < 32);
                let (vector, code) = said.ok_or("kvm_inj_exception without an exception")?;
                if hit.get(Field::HasError).is_some_and(|has| has != 0) && code.is_none() {
                    return Err("kvm_inj_exception without error_code".into());
                }
                // Old kernels print one, 0, where there is none.
                let code = code.filter(|_| svm::has_code(vector as u32));
                let has_code = u32::from(code.is_some()) << 11;
                self.inject(hit, vector as u32 | 3 << 8 | has_code, code.unwrap_or(0) as u32)?;
            }
            name => match flush::asked(name, hit) {
                flush::Asked::Guest(flush) => self.flush_of_guest(hit, flush)?,
                flush::Asked::L0(flush, answers) => self.flush_of_l0(hit, flush, answers)?,
                flush::Asked::Later(pending) => self.flush_later(hit, pending),
                flush::Asked::Nothing => self.emulated(name, hit)?,
            },
        }
        self.tell(WAITING);
        Ok(())
    }

    /// Has times count from `start`: before anything is taken.
    pub(crate) fn begin(&mut self, start: u64) {
        self.start = start;
    }

    /// When the first event was that is not told yet.
    pub(crate) fn first_waiting(&self) -> Option<u64> {
        self.waiting.front().map(|event| event.at.instruction)
    }

    /// Takes events that a vCPU's thread saw itself, behind all of its hits so far.
    pub(crate) fn own(&mut self, thread: u32, events: &[Event]) {
        let number = self.vcpus.get(thread).map_or(0, |vcpu| vcpu.number);
        let of = |event: &Event| Event { at: Stamp { vcpu: number, ..event.at }, ..event.clone() };
        self.waiting.extend(events.iter().map(of));
        self.tell(WAITING);
    }

    /// Events were lost before the next one, on that CPU if it is known.
    pub(crate) fn lost(&mut self, count: u64, cpu: Option<u16>) {
        let last = self.waiting.back().map_or(self.last, |event| event.at);
        let at = Stamp { pcpu: cpu.unwrap_or(last.pcpu), ..last };
        self.lost_at(count, cpu, at);
    }

    /// As [`State::lost`], where the time is known.
    pub(crate) fn lost_then(&mut self, count: u64, cpu: u16, time: u64) {
        let instruction = time.saturating_sub(self.start);
        self.lost_at(count, Some(cpu), Stamp { instruction, vcpu: self.last.vcpu, pcpu: cpu });
    }

    fn lost_at(&mut self, count: u64, cpu: Option<u16>, at: Stamp) {
        self.waiting.push_back(Event { at, what: What::Lost(count) });
        // What was lost may have been L2's entry or exit: the next event of that kind tells who runs.
        for vcpu in self.vcpus.all().filter(|vcpu| cpu.is_none_or(|cpu| vcpu.cpu == cpu)) {
            vcpu.nested = false;
            vcpu.pending = None;
        }
        self.tell(WAITING);
    }

    /// Tells all that waits: no hit follows.
    pub(crate) fn end(&mut self) {
        self.tell(0);
    }

    fn inject(&mut self, hit: &impl Hit, info: u32, error_code: u32) -> Result<(), String> {
        let vcpu = self.vcpu(hit)?;
        let (number, level) = (vcpu.number, 1 + u8::from(vcpu.nested));
        let info = InterruptionInfo::from(info | 1 << 31);
        self.push(hit, number, What::Injection(Injection { level, info, error_code }));
        Ok(())
    }

    /// Of a vCPU that no hardware runs, what an instruction asks of KVM is an exit. Others' exits were told before.
    fn emulated(&mut self, name: &str, hit: &impl Hit) -> Result<(), String> {
        let ran = |state: &mut Self| state.vcpus.get(hit.at().thread).is_some_and(|vcpu| vcpu.ran);
        let Some(said) = emulated::exit(name, hit).filter(|_| !ran(self)) else {
            self.unmap(name);
            return Ok(());
        };
        let number = self.vcpu(hit)?.number;
        let exit = Exit {
            level: 1,
            reason: ExitReason::of(said.reason),
            qualification: said.qualification,
            rip: 0,
            length: 0,
            gpa: said.gpa,
            gla: 0,
            intr_info: InterruptionInfo::default(),
            vmcs12: NO_ADDRESS,
            handled_by: Actor::L0,
        };
        self.push(hit, number, What::Exit(exit));
        Ok(())
    }

    fn flush_of_guest(&mut self, hit: &impl Hit, flush: Flush) -> Result<(), String> {
        let vcpu = self.vcpu(hit)?;
        let (number, nested) = (vcpu.number, vcpu.nested || hit.get(Field::GuestMode) == Some(1));
        let actor = if nested { Actor::L2 } else { Actor::L1 };
        self.push(hit, number, What::Flush(Flush { actor, ..flush }));
        Ok(())
    }

    fn flush_of_l0(&mut self, hit: &impl Hit, flush: Flush, answers: &[Pending]) -> Result<(), String> {
        // A thread that runs no vCPU flushes none's translations: it is a vCPU that is being made, or freed. And before any guest
        // was seen to be entered there is nothing that a flush could be judged by.
        let thread = hit.at().thread;
        let Some(vcpu) = self.vcpus.get(thread).filter(|_| self.entered) else {
            self.unmap(hit.event());
            return Ok(());
        };
        // A vCPU that comes to another CPU drops all that was left of it there.
        let moved = vcpu.cpu != hit.at().cpu && flush.kind == FlushKind::InveptAll;
        let own = if moved { Cause::Migration } else { flush.cause };
        let asked = vcpu.pending.take_if(|pending| answers.contains(pending));
        let cause = asked.map_or(own, |pending| pending.cause(vcpu.nested));
        let number = vcpu.number;
        self.push(hit, number, What::Flush(Flush { cause, ..flush }));
        Ok(())
    }

    fn flush_later(&mut self, hit: &impl Hit, pending: Pending) {
        let At { thread, process, .. } = hit.at();
        match pending {
            Pending::Transition => {
                if let Some(vcpu) = self.vcpus.get(thread) {
                    vcpu.pending = Some(pending);
                }
            }
            // All vCPUs of the virtual machine are to flush.
            Pending::Remote => {
                self.vcpus.all().filter(|vcpu| process.is_none() || vcpu.process == process).for_each(|vcpu| {
                    vcpu.pending.get_or_insert(pending);
                });
            }
        }
        self.unmap(hit.event());
    }

    /// Counts a hit that none of our events was made of.
    fn unmap(&mut self, name: &str) {
        let names = self.unmapped.len();
        match self.unmapped.get_mut(name) {
            Some(count) => *count += 1,
            None if names < NAMES => {
                self.unmapped.insert(name.to_owned(), 1);
            }
            None => *self.unmapped.entry("others".into()).or_default() += 1,
        }
    }

    /// The hit's vCPU.
    fn vcpu(&mut self, hit: &impl Hit) -> Result<&mut Vcpu, String> {
        let next = self.told + self.waiting.len() as u64;
        let many = || format!("more than {THREADS} threads run vCPUs");
        let own = hit.get(Field::Vcpu);
        let (vcpu, moves) = self.vcpus.of(&hit.at(), own, self.told, next).ok_or_else(many)?;
        if !moves.is_empty() {
            for event in &mut self.waiting {
                let moved = moves.iter().find(|(from, _)| *from == event.at.vcpu);
                event.at.vcpu = moved.map_or(event.at.vcpu, |(_, to)| *to);
            }
        }
        Ok(vcpu)
    }

    /// The exit of the hit's thread does not change any more.
    fn close(&mut self, hit: &impl Hit) -> Result<(), String> {
        if let Some(open) = self.vcpu(hit)?.open.take() {
            self.open.remove(&open);
        }
        Ok(())
    }

    /// Changes the exit of the hit's thread that is still open; whether there is one, and `change` says that it did.
    fn amend(&mut self, hit: &impl Hit, change: impl FnOnce(&mut Exit, Option<u64>) -> bool) -> bool {
        let Some(vcpu) = self.vcpus.get(hit.at().thread) else { return false };
        let place = vcpu.open.and_then(|open| usize::try_from(open.checked_sub(self.told)?).ok());
        match place.and_then(|place| self.waiting.get_mut(place)) {
            Some(Event { what: What::Exit(exit), .. }) => change(exit, vcpu.vmcs12),
            _ => false,
        }
    }

    fn push(&mut self, hit: &impl Hit, vcpu: u16, what: What) {
        let At { time, cpu, .. } = hit.at();
        let at = Stamp { instruction: time.saturating_sub(self.start), vcpu, pcpu: cpu };
        self.waiting.push_back(Event { at, what });
    }

    /// Tells the events before the first exit that is still open, and more until at most `most` wait.
    fn tell(&mut self, most: usize) {
        let open = self.open.range(self.told..).next().copied();
        let end = self.told + self.waiting.len() as u64;
        let until = if most == 0 { end } else { open.unwrap_or(end).max(end.saturating_sub(most as u64)) };
        while self.told < until
            && let Some(event) = self.waiting.pop_front()
        {
            self.told += 1;
            self.last = event.at;
            self.ready.push(event);
        }
    }
}

/// What an exit of VMX says beside its reason. The second word is IDT-vectoring information or, of kernels that have no
/// third, interruption information.
fn vmx([info1, info2]: [u64; 2], intr_info: InterruptionInfo) -> Said {
    let other = InterruptionInfo::from(info2 as u32);
    let intr_info = if !intr_info.valid() && other.valid() { other } else { intr_info };
    Said { qualification: info1, intr_info, ..Said::default() }
}
