//! KVM's tracepoints, out of the text of `trace-cmd report` or `perf script`.
//!
//! | tracepoint | becomes |
//! | --- | --- |
//! | `kvm_exit` | an exit, of L2 while L2 runs |
//! | `kvm_entry` | an entry |
//! | `kvm_nested_vmenter`, `kvm_nested_vmrun` | L2 runs from here on, under that vmcs12 |
//! | `kvm_nested_vmexit` | the exit was L2's |
//! | `kvm_nested_vmexit_inject`, `kvm_nested_intr_vmexit` | the exit is L1's to handle, and L1 runs from here on |
//! | `kvm_page_fault`, `kvm_mmio`, `kvm_fast_mmio` | the exit's guest-physical address |
//! | `kvm_inj_virq`, `kvm_inj_exception` | an injection |
//!
//! An exit is told once it is known whose it was: when its vCPU's thread enters again or exits again.

use super::line::{Line, number};
use super::svm::{self, Said};
use super::vcpus::{THREADS, Vcpu, Vcpus};
use super::{ImportError, Imported, Lines, Sink, header, reasons};
use hv_defs::config::Source;
use hv_defs::event::{Actor, Entry, Event, Exit, Injection, NO_ADDRESS, Stamp, What};
use hv_defs::exit::{InterruptionInfo, Reason};
use std::collections::{BTreeSet, VecDeque};
use std::io::{Read, Write};

/// Events that may wait for an exit's thread. A thread that does not come back within so many is not waited for.
const WAITING: usize = 1 << 14;
/// The most names of tracepoints that are counted apart.
const NAMES: usize = 1 << 10;

/// What is known so far.
struct State<W: Write> {
    sink: Sink<W>,
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
                state.lost(&lost)?;
            }
            continue;
        }
        let Some(line) = Line::parse(&text) else { continue };
        if state.is_none()
            && let Some(out) = out.take()
        {
            let header = header(source, name, line.clock, "tracepoints of KVM on a host");
            let sink = Sink::create(out, &header)?;
            state = Some(State {
                sink,
                vcpus: Vcpus::default(),
                open: BTreeSet::new(),
                waiting: VecDeque::new(),
                told: 0,
                last: Stamp::default(),
                start: line.time,
                svm: false,
            });
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

/// Events that were lost.
struct Lost {
    /// How many; at least one.
    count: u64,
    /// On which CPU, if that is known.
    cpu: Option<u16>,
}

/// What a line says was lost: trace-cmd's `CPU:1 [12 EVENTS DROPPED]`, or without a number where nobody counted them; perf's
/// `... PERF_RECORD_LOST lost 12`.
fn lost(line: &str) -> Option<Lost> {
    let mut words = line.split([' ', '[', ']', '!']).filter(|word| !word.is_empty());
    if line.trim_ascii_end().ends_with("EVENTS DROPPED]")
        && let Some(cpu) = line.strip_prefix("CPU:")
    {
        let cpu = cpu.split(' ').next()?.parse().ok();
        let count = words.nth(1)?;
        return Some(Lost { count: if count == "EVENTS" { 1 } else { count.parse().ok()? }, cpu });
    }
    if !line.contains("PERF_RECORD_LOST") && !line.contains(" LOST ") {
        return None;
    }
    let cpu = line.split('[').skip(1).find_map(|rest| rest.split_once(']')?.0.parse().ok());
    words.find(|word| *word == "lost" || *word == "LOST")?;
    Some(Lost { count: words.next()?.parse().ok()?, cpu })
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
                let rip = line.hex("rip").or(line.hex("guest_rip"));
                let rip = rip.ok_or_else(|| Wrong::Line("kvm_exit without rip".into()))?;
                let infos = infos(line);
                let found = reasons::of(line, self.svm, infos[0]);
                let found = found.ok_or_else(|| Wrong::Line("kvm_exit without a reason".into()))?;
                self.svm |= found.svm.is_some();
                let intr_info = InterruptionInfo::from(line.number("intr_info").unwrap_or(0) as u32);
                let said =
                    found.svm.map_or_else(|| vmx(infos, intr_info), |code| svm::said(code, infos, rip, intr_info));
                self.close(line)?;
                let vcpu = self.vcpu(line)?;
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
                self.push(line, number, What::Exit(exit));
                self.vcpu(line)?.open = Some(place);
                self.open.insert(place);
            }
            "kvm_entry" => {
                self.close(line)?;
                let vcpu = self.vcpu(line)?;
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
                let vmcs12 = ["vmcs", "vmcb"].into_iter().find_map(|word| line.hex(word));
                let vcpu = self.vcpu(line)?;
                (vcpu.nested, vcpu.vmcs12) = (true, vmcs12);
            }
            "kvm_nested_vmexit" => {
                self.vcpu(line)?.nested = true;
                self.amend(line, |exit, vmcs12| {
                    exit.level = 2;
                    exit.vmcs12 = vmcs12.unwrap_or(NO_ADDRESS);
                    true
                });
            }
            "kvm_nested_vmexit_inject" | "kvm_nested_intr_vmexit" => {
                // Of another reason, it is not that exit that L1 is given: that was L0's, and then something came up.
                let reason = match line.event {
                    "kvm_nested_vmexit_inject" => {
                        reasons::of(line, self.svm, infos(line)[0]).map(|found| found.reason.reason())
                    }
                    _ => Some(Reason::EXTERNAL_INTERRUPT),
                };
                let reflected = self.amend(line, |exit, _| {
                    let same = exit.level == 2 && Some(exit.basic()) == reason;
                    exit.handled_by = if same { Actor::L1 } else { exit.handled_by };
                    same
                });
                if !reflected {
                    self.unmapped(line.event);
                }
                self.vcpu(line)?.nested = false;
            }
            "kvm_page_fault" => {
                let address = line.hex("address").or(line.hex("fault_address"));
                self.amend(line, |exit, _| {
                    if matches!(exit.basic(), Reason::EPT_VIOLATION | Reason::EPT_MISCONFIG) {
                        exit.gpa = address.unwrap_or(exit.gpa);
                    }
                    true
                });
            }
            // L1's own address: L2's is not told.
            "kvm_mmio" | "kvm_fast_mmio" => {
                let address = line.hex("gpa");
                let amended = self.amend(line, |exit, _| {
                    let ept = matches!(exit.basic(), Reason::EPT_VIOLATION | Reason::EPT_MISCONFIG);
                    let its = ept && exit.level == 1 && exit.gpa == 0;
                    exit.gpa = address.filter(|_| its).unwrap_or(exit.gpa);
                    its
                });
                if !amended {
                    self.unmapped(line.event);
                }
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
                // Old kernels print one, 0, where there is none.
                let code = code.filter(|_| svm::has_code(vector as u32));
                let has_code = u32::from(code.is_some()) << 11;
                self.inject(line, vector as u32 | 3 << 8 | has_code, code.unwrap_or(0) as u32)?;
            }
            other => self.unmapped(other),
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

    /// Counts an event that none of ours was made of.
    fn unmapped(&mut self, name: &str) {
        let names = self.sink.unmapped.len();
        match self.sink.unmapped.get_mut(name) {
            Some(count) => *count += 1,
            None if names < NAMES => {
                self.sink.unmapped.insert(name.to_owned(), 1);
            }
            None => *self.sink.unmapped.entry("others".into()).or_default() += 1,
        }
    }

    /// The line's vCPU.
    fn vcpu(&mut self, line: &Line<'_>) -> Result<&mut Vcpu, Wrong> {
        let next = self.told + self.waiting.len() as u64;
        let many = || Wrong::Line(format!("more than {THREADS} threads run vCPUs"));
        let (vcpu, moves) = self.vcpus.of(line, self.told, next).ok_or_else(many)?;
        if !moves.is_empty() {
            for event in &mut self.waiting {
                let moved = moves.iter().find(|(from, _)| *from == event.at.vcpu);
                event.at.vcpu = moved.map_or(event.at.vcpu, |(_, to)| *to);
            }
        }
        Ok(vcpu)
    }

    /// The exit of the line's thread does not change any more.
    fn close(&mut self, line: &Line<'_>) -> Result<(), Wrong> {
        if let Some(open) = self.vcpu(line)?.open.take() {
            self.open.remove(&open);
        }
        Ok(())
    }

    /// Changes the exit of the line's thread that is still open; whether there is one, and `change` says that it did.
    fn amend(&mut self, line: &Line<'_>, change: impl FnOnce(&mut Exit, Option<u64>) -> bool) -> bool {
        let Some(vcpu) = self.vcpus.get(line.thread) else { return false };
        let place = vcpu.open.and_then(|open| usize::try_from(open.checked_sub(self.told)?).ok());
        match place.and_then(|place| self.waiting.get_mut(place)) {
            Some(Event { what: What::Exit(exit), .. }) => change(exit, vcpu.vmcs12),
            _ => false,
        }
    }

    fn push(&mut self, line: &Line<'_>, vcpu: u16, what: What) {
        let at = Stamp { instruction: line.time.saturating_sub(self.start), vcpu, pcpu: line.cpu };
        self.waiting.push_back(Event { at, what });
    }

    fn lost(&mut self, lost: &Lost) -> Result<(), ImportError> {
        let last = self.waiting.back().map_or(self.last, |event| event.at);
        let at = Stamp { pcpu: lost.cpu.unwrap_or(last.pcpu), ..last };
        self.waiting.push_back(Event { at, what: What::Lost(lost.count) });
        // What was lost may have been L2's entry or exit: the next event of that kind tells who runs.
        for vcpu in self.vcpus.all().filter(|vcpu| lost.cpu.is_none_or(|cpu| vcpu.cpu == cpu)) {
            vcpu.nested = false;
        }
        self.tell(WAITING)
    }

    /// Tells the events before the first exit that is still open, and more until at most `most` wait.
    fn tell(&mut self, most: usize) -> Result<(), ImportError> {
        let open = self.open.range(self.told..).next().copied();
        let end = self.told + self.waiting.len() as u64;
        let until = if most == 0 { end } else { open.unwrap_or(end).max(end.saturating_sub(most as u64)) };
        while self.told < until
            && let Some(event) = self.waiting.pop_front()
        {
            self.told += 1;
            self.last = event.at;
            self.sink.push(&event)?;
        }
        Ok(())
    }
}

/// What an exit of VMX says beside its reason. The second word is IDT-vectoring information or, of kernels that have no
/// third, interruption information.
fn vmx([info1, info2]: [u64; 2], intr_info: InterruptionInfo) -> Said {
    let other = InterruptionInfo::from(info2 as u32);
    let intr_info = if !intr_info.valid() && other.valid() { other } else { intr_info };
    Said { qualification: info1, intr_info, ..Said::default() }
}

/// The two words of information of an exit: `info1 A info2 B`, `info A B`, or as a nested exit has them.
fn infos(line: &Line<'_>) -> [u64; 2] {
    for [first, second] in [["info1", "info2"], ["ext_inf1", "ext_inf2"], ["exit_info1", "exit_info2"]] {
        if let (Some(info1), Some(info2)) = (line.hex(first), line.hex(second)) {
            return [info1, info2];
        }
    }
    let mut words = line.words.split_ascii_whitespace().skip_while(|word| *word != "info").skip(1);
    let mut next = || words.next().and_then(|word| u64::from_str_radix(word.trim_start_matches("0x"), 16).ok());
    [next().unwrap_or(0), next().unwrap_or(0)]
}
