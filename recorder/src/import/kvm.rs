//! KVM's tracepoints, out of the text of `trace-cmd report` or `perf script`.
//!
//! | tracepoint | becomes |
//! | --- | --- |
//! | `kvm_exit` | an exit, of L2 while L2 runs |
//! | `kvm_entry` | an entry |
//! | `kvm_nested_vmenter`, `kvm_nested_vmrun` | L2 runs from here on, under that vmcs12 |
//! | `kvm_nested_vmexit` | the exit was L2's |
//! | `kvm_nested_vmexit_inject`, `kvm_nested_intr_vmexit` | the exit is L1's to handle, and L1 runs from here on |
//! | `kvm_page_fault` | the exit's guest-physical address |
//! | `kvm_inj_virq`, `kvm_inj_exception` | an injection |
//!
//! An exit is told once it is known whose it was: when its vCPU's thread enters again or exits again.

use super::line::{Line, number};
use super::{ImportError, Imported, Lines, Sink, header, reasons};
use hv_defs::config::Source;
use hv_defs::event::{Actor, Entry, Event, Exit, Injection, NO_ADDRESS, Stamp, What};
use hv_defs::exit::{InterruptionInfo, Reason};
use std::collections::{BTreeMap, VecDeque};
use std::io::{Read, Write};

/// Events that may wait for an exit's thread. A thread that does not come back within so many is not waited for.
const WAITING: usize = 1 << 14;
/// The most threads that are told apart.
const THREADS: usize = 1 << 15;
/// The most names of tracepoints that are counted apart.
const NAMES: usize = 1 << 10;

/// A thread that runs a vCPU.
#[derive(Default)]
struct Vcpu {
    number: u16,
    /// Whether L2 runs.
    nested: bool,
    /// The vmcs12 under which it runs.
    vmcs12: Option<u64>,
    /// The number of the exit that may still change.
    open: Option<u64>,
}

/// What is known so far.
struct State<W: Write> {
    sink: Sink<W>,
    vcpus: BTreeMap<u32, Vcpu>,
    /// Events that were not told yet; the first is number `told`.
    waiting: VecDeque<Event>,
    told: u64,
    /// The time of the first event.
    start: u64,
}

/// Imports the text of either tool.
pub(super) fn import<R: Read>(
    mut lines: Lines<R>,
    source: Source,
    name: &str,
    out: impl Write,
) -> Result<Imported, ImportError> {
    let (mut out, mut state) = (Some(out), None::<State<_>>);
    while let Some(text) = lines.next()? {
        if let Some(lost) = lost(&text) {
            if let Some(state) = &mut state {
                state.lost(lost)?;
            }
            continue;
        }
        let Some(line) = Line::parse(&text) else { continue };
        if state.is_none()
            && let Some(out) = out.take()
        {
            let header = header(source, name, line.clock, "tracepoints of KVM on a host");
            let sink = Sink::create(out, &header)?;
            state = Some(State { sink, vcpus: BTreeMap::new(), waiting: VecDeque::new(), told: 0, start: line.time });
        }
        let Some(state) = &mut state else { continue };
        if let Err(error) = state.take(&line) {
            return Err(match error {
                Wrong::Line(why) => lines.wrong(why),
                Wrong::Other(error) => error,
            });
        }
    }
    let Some(mut state) = state else {
        return Err(ImportError::Nothing(format!("there is no line of a tracepoint in its {} lines", lines.number)));
    };
    state.tell(0)?;
    if state.sink.writer.is_empty() {
        return Err(ImportError::Nothing("none of its tracepoints is one of KVM's that has a counterpart here".into()));
    }
    state.sink.finish()
}

/// How many events a line says were lost: trace-cmd's `CPU:1 [12 EVENTS DROPPED]`, perf's `... LOST 12 events`.
fn lost(line: &str) -> Option<u64> {
    let mut words = line.split([' ', '[', ']', '!']).filter(|word| !word.is_empty());
    if line.trim_ascii_end().ends_with("EVENTS DROPPED]") && line.starts_with("CPU:") {
        return words.nth(1)?.parse().ok();
    }
    if !line.contains("PERF_RECORD_LOST") && !line.contains(" LOST ") {
        return None;
    }
    words.find(|word| *word == "lost" || *word == "LOST")?;
    words.next()?.parse().ok()
}

/// Why a line was not taken.
enum Wrong {
    Line(String),
    Other(ImportError),
}

impl From<ImportError> for Wrong {
    fn from(error: ImportError) -> Self {
        Self::Other(error)
    }
}

impl<W: Write> State<W> {
    fn take(&mut self, line: &Line<'_>) -> Result<(), Wrong> {
        let needed =
            |word: &str| line.number(word).ok_or_else(|| Wrong::Line(format!("{} without {word}", line.event)));
        match line.event {
            "kvm_exit" => {
                let rip = line.number("rip").or(line.number("guest_rip"));
                let rip = rip.ok_or_else(|| Wrong::Line("kvm_exit without rip".into()))?;
                let reason = reasons::of(line).ok_or_else(|| Wrong::Line("kvm_exit without a reason".into()))?;
                let [info1, info2] = infos(line);
                let intr_info = InterruptionInfo::from(line.number("intr_info").unwrap_or(0) as u32);
                let vcpu = self.vcpu(line)?;
                vcpu.open = None;
                let (number, nested, vmcs12) = (vcpu.number, vcpu.nested, vcpu.vmcs12);
                let exit = Exit {
                    level: 1 + u8::from(nested),
                    reason: reason.reason,
                    qualification: info1,
                    rip,
                    length: 0,
                    // AMD's EXITINFO2 of a nested page fault is the address; VMX's second word is something else.
                    gpa: if reason.amd && reason.reason.reason() == Reason::EPT_VIOLATION { info2 } else { 0 },
                    gla: 0,
                    intr_info,
                    vmcs12: vmcs12.filter(|_| nested).unwrap_or(NO_ADDRESS),
                    handled_by: Actor::L0,
                };
                let place = self.told + self.waiting.len() as u64;
                self.push(line, number, What::Exit(exit));
                self.vcpu(line)?.open = Some(place);
            }
            "kvm_entry" => {
                let vcpu = self.vcpu(line)?;
                vcpu.open = None;
                let entry = Entry {
                    level: 1 + u8::from(vcpu.nested),
                    launch: false,
                    vmcs12: vcpu.vmcs12.filter(|_| vcpu.nested).unwrap_or(NO_ADDRESS),
                    vmcs02: NO_ADDRESS,
                    vpid: 0,
                    eptp: 0,
                    injected: InterruptionInfo::from(line.number("intr_info").unwrap_or(0) as u32),
                    failed: None,
                    fields_written: 0,
                };
                let number = vcpu.number;
                self.push(line, number, What::Entry(entry));
            }
            "kvm_nested_vmenter" | "kvm_nested_vmrun" => {
                let vmcs12 = ["vmcs", "vmcb"].into_iter().find_map(|word| line.number(word));
                let vcpu = self.vcpu(line)?;
                (vcpu.nested, vcpu.vmcs12) = (true, vmcs12);
            }
            "kvm_nested_vmexit" => {
                self.vcpu(line)?.nested = true;
                self.amend(line, |exit, vmcs12| {
                    exit.level = 2;
                    exit.vmcs12 = vmcs12.unwrap_or(NO_ADDRESS);
                });
            }
            "kvm_nested_vmexit_inject" | "kvm_nested_intr_vmexit" => {
                self.amend(line, |exit, _| exit.handled_by = if exit.level == 2 { Actor::L1 } else { Actor::L0 });
                self.vcpu(line)?.nested = false;
            }
            "kvm_page_fault" => {
                let address = line.number("address").or(line.number("fault_address"));
                self.amend(line, |exit, _| {
                    if matches!(exit.basic(), Reason::EPT_VIOLATION | Reason::EPT_MISCONFIG) {
                        exit.gpa = address.unwrap_or(exit.gpa);
                    }
                });
            }
            "kvm_inj_virq" => {
                let vector = ["IRQ", "Soft/INTn", "vector", "irq"].into_iter().find_map(|word| line.number(word));
                let vector = vector
                    .filter(|vector| *vector < 256)
                    .ok_or_else(|| Wrong::Line("kvm_inj_virq without a vector".into()))?;
                let soft = line.words.contains("Soft") || line.number("soft") == Some(1);
                self.inject(line, vector as u32 | if soft { 4 << 8 } else { 0 }, 0)?;
            }
            "kvm_inj_exception" => {
                let raw = line.number("exception").or_else(|| reasons::exception(line.words));
                let vector = raw
                    .filter(|vector| *vector < 32)
                    .ok_or_else(|| Wrong::Line("kvm_inj_exception without an exception".into()))?;
                let code = match line.number("has_error") {
                    Some(0) => None,
                    Some(_) => Some(needed("error_code")?),
                    None => line.words.split_once('(').and_then(|(_, code)| number(code.split(')').next()?)),
                };
                let has_code = u32::from(code.is_some()) << 11;
                self.inject(line, vector as u32 | 3 << 8 | has_code, code.unwrap_or(0) as u32)?;
            }
            other => {
                let names = self.sink.unmapped.len();
                match self.sink.unmapped.get_mut(other) {
                    Some(count) => *count += 1,
                    None if names < NAMES => {
                        self.sink.unmapped.insert(other.to_owned(), 1);
                    }
                    None => *self.sink.unmapped.entry("others".into()).or_default() += 1,
                }
            }
        }
        Ok(self.tell(WAITING)?)
    }

    fn inject(&mut self, line: &Line<'_>, info: u32, error_code: u32) -> Result<(), Wrong> {
        let vcpu = self.vcpu(line)?;
        let (number, level) = (vcpu.number, 1 + u8::from(vcpu.nested));
        let info = InterruptionInfo::from(info | 1 << 31);
        self.push(line, number, What::Injection(Injection { level, info, error_code }));
        Ok(())
    }

    /// The line's vCPU. Its number is KVM's if no other thread has that, as a vCPU of another virtual machine may.
    fn vcpu(&mut self, line: &Line<'_>) -> Result<&mut Vcpu, Wrong> {
        if !self.vcpus.contains_key(&line.thread) {
            if self.vcpus.len() == THREADS {
                return Err(Wrong::Line(format!("more than {THREADS} threads run vCPUs")));
            }
            let own = line.number("vcpu").or(line.number("vcpu_id")).and_then(|own| u16::try_from(own).ok());
            let taken = |number: u16| self.vcpus.values().any(|vcpu| vcpu.number == number);
            let number = own.filter(|own| !taken(*own)).or_else(|| (0..=u16::MAX).find(|number| !taken(*number)));
            let vcpu = Vcpu { number: number.unwrap_or(u16::MAX), ..Vcpu::default() };
            self.vcpus.insert(line.thread, vcpu);
        }
        self.vcpus.get_mut(&line.thread).ok_or_else(|| Wrong::Line("no vCPU".into()))
    }

    /// Changes the exit of the line's thread that is still open.
    fn amend(&mut self, line: &Line<'_>, change: impl FnOnce(&mut Exit, Option<u64>)) {
        let Some(vcpu) = self.vcpus.get(&line.thread) else { return };
        let place = vcpu.open.and_then(|open| usize::try_from(open.checked_sub(self.told)?).ok());
        if let Some(Event { what: What::Exit(exit), .. }) = place.and_then(|place| self.waiting.get_mut(place)) {
            change(exit, vcpu.vmcs12);
        }
    }

    fn push(&mut self, line: &Line<'_>, vcpu: u16, what: What) {
        let at = Stamp { instruction: line.time.saturating_sub(self.start), vcpu, pcpu: line.cpu };
        self.waiting.push_back(Event { at, what });
    }

    fn lost(&mut self, count: u64) -> Result<(), ImportError> {
        let at = self.waiting.back().map_or_else(Stamp::default, |event| event.at);
        self.waiting.push_back(Event { at, what: What::Lost(count) });
        self.tell(WAITING)
    }

    /// Tells the events before the first exit that is still open, and more until at most `most` wait.
    fn tell(&mut self, most: usize) -> Result<(), ImportError> {
        let open = self.vcpus.values().filter_map(|vcpu| vcpu.open).filter(|open| *open >= self.told).min();
        let end = self.told + self.waiting.len() as u64;
        let until = if most == 0 { end } else { open.unwrap_or(end).max(end.saturating_sub(most as u64)) };
        while self.told < until
            && let Some(event) = self.waiting.pop_front()
        {
            self.told += 1;
            self.sink.push(&event)?;
        }
        Ok(())
    }
}

/// The two words of information of an exit: `info1 A info2 B`, or `info A B` in hexadecimal without a prefix.
fn infos(line: &Line<'_>) -> [u64; 2] {
    if let (Some(info1), Some(info2)) = (line.number("info1"), line.number("info2")) {
        return [info1, info2];
    }
    let mut words = line.words.split_ascii_whitespace().skip_while(|word| *word != "info").skip(1);
    let mut next = || words.next().and_then(|word| u64::from_str_radix(word.trim_start_matches("0x"), 16).ok());
    [next().unwrap_or(0), next().unwrap_or(0)]
}
