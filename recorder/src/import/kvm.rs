//! KVM's tracepoints, out of the text of `trace-cmd report` or `perf script`. What becomes of them: [`crate::tracepoints`].

use super::line::{Line, number};
use super::{ImportError, Imported, Lines, Sink, header};
use crate::tracepoints::{At, Field, Found, Hit, State, exception, named, numbered};
use hv_defs::config::Source;
use std::io::{Read, Write};

/// Imports the text of either tool.
pub(super) fn import<R: Read>(
    mut lines: Lines<R>,
    source: Source,
    name: &str,
    out: impl Write,
) -> Result<Imported, ImportError> {
    let (mut out, mut begun) = (Some(out), None::<(Sink<_>, State)>);
    while let Some(text) = lines.next()? {
        if let Some(lost) = lost(&text) {
            if let Some((sink, state)) = &mut begun {
                state.lost(lost.count, lost.cpu);
                sink.tell(state)?;
            }
            continue;
        }
        let Some(line) = Line::parse(&text) else { continue };
        if begun.is_none()
            && let Some(out) = out.take()
        {
            let header = header(source.name(), name, line.clock, "tracepoints of KVM on a host");
            begun = Some((Sink::create(out, &header)?, State::new(line.time)));
        }
        let Some((sink, state)) = &mut begun else { continue };
        if let Err(why) = state.take(&line) {
            return Err(lines.wrong(why));
        }
        sink.tell(state)?;
    }
    let Some((mut sink, mut state)) = begun else {
        return Err(ImportError::Nothing(format!("there is no line of a tracepoint in its {} lines", lines.number)));
    };
    state.end();
    sink.tell(&mut state)?;
    if sink.writer.is_empty() {
        return Err(ImportError::Nothing("none of its tracepoints is one of KVM's that has a counterpart here".into()));
    }
    sink.unmapped.clone_from(state.unmapped());
    sink.finish()
}

impl<W: Write> Sink<W> {
    fn tell(&mut self, state: &mut State) -> Result<(), ImportError> {
        state.ready().try_for_each(|event| self.push(&event))
    }
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

impl Hit for Line<'_> {
    fn at(&self) -> At {
        At { thread: self.thread, process: self.process, cpu: self.cpu, time: self.time }
    }

    fn event(&self) -> &str {
        self.event
    }

    fn get(&self, field: Field) -> Option<u64> {
        let (names, hex) = field.names();
        let found = names.iter().find_map(|name| if hex { self.hex(name) } else { self.number(name) });
        match field {
            Field::Soft if self.words.contains("Soft") => Some(1),
            Field::NeedFlush => found.or(Some(u64::from(self.word("need_flush_tlb") != Some("false")))),
            // `pio_write at 0x80`, `msr_write 10`, `cr_write 4`, `mmio write`.
            Field::Writes => found.or(Some(self.words.split(' ').next()?.ends_with("_write").into())),
            Field::Register => found.or(number(self.words.strip_prefix("cr_")?.split(' ').nth(1)?)),
            Field::Kind => found.or(match self.words.strip_prefix("mmio ")?.split(' ').next()? {
                "read" => Some(1),
                "write" => Some(2),
                _ => Some(0),
            }),
            Field::GuestMode => found.or(Some(self.words.contains("(L2)").into())),
            _ => found,
        }
    }

    /// `info1 A info2 B`, `info A B`, or as a nested exit has them.
    fn infos(&self) -> [u64; 2] {
        if let Some(info1) = self.get(Field::Info1) {
            return [info1, self.get(Field::Info2).unwrap_or(0)];
        }
        let mut words = self.words.split_ascii_whitespace().skip_while(|word| *word != "info").skip(1);
        let mut next = || words.next().and_then(|word| u64::from_str_radix(word.trim_start_matches("0x"), 16).ok());
        [next().unwrap_or(0), next().unwrap_or(0)]
    }

    /// By number where it is raw, else by name.
    fn reason(&self, svm: bool) -> Option<Found> {
        let info1 = self.infos()[0];
        if let Some(number) = self.get(Field::Reason) {
            return Some(numbered(number as u32, self.get(Field::Isa).map_or(svm, |isa| isa == 2), info1));
        }
        // The name may be of two words, as `PF excp` is. What follows it differs from kernel to kernel.
        let rest = self.words.split_once("reason").map(|(_, rest)| rest.trim_start_matches([':', ' ']))?;
        let end = [" rip", " ext_inf1", " info"].iter().filter_map(|word| rest.find(word)).min()?;
        let name = rest[..end].trim_ascii();
        let (name, failed) = match name.strip_suffix("FAILED_VMENTRY") {
            Some(name) => (name.trim_ascii_end(), true),
            None => (name, false),
        };
        named(name, svm, info1).map(|found| Found { reason: found.reason.with_entry_failure(failed), ..found })
    }

    /// `exception=14 has_error=1 error_code=2`, or `#PF (0x2)`.
    fn exception(&self) -> Option<(u64, Option<u64>)> {
        let vector = self.number("exception").or_else(|| exception(self.words))?;
        let code = match self.number("has_error") {
            Some(0) => None,
            Some(_) => self.number("error_code"),
            None => self.words.split_once('(').and_then(|(_, code)| number(code.split(')').next()?)),
        };
        Some((vector, code))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hv_defs::exit::Reason;

    #[track_caller]
    fn check(words: &str, reason: Option<(Reason, bool)>) {
        let text = format!(" a-1 [0] 5.5: kvm_exit: {words}");
        let line = Line::parse(&text).expect("a line");
        assert_eq!(line.reason(false).map(|found| (found.reason.reason(), found.svm.is_some())), reason, "{words}");
    }

    #[test]
    fn reasons_of_intel_and_amd() {
        check("vcpu 0 reason EPT_VIOLATION rip 0x10 info1 0x181", Some((Reason::EPT_VIOLATION, false)));
        check("reason MSR_WRITE rip 0x10", Some((Reason::WRMSR, false)));
        check("reason PENDING_INTERRUPT rip 0x10 info 0 0", Some((Reason::INTERRUPT_WINDOW, false)));
        check("reason INVALID_STATE FAILED_VMENTRY rip 0x10", Some((Reason::INVALID_GUEST_STATE, false)));
        check("reason UNKNOWN (83) rip 0x10", Some((Reason(83), false)));
        check("exit_reason=0x30 guest_rip=0x10 isa=1", Some((Reason::EPT_VIOLATION, false)));
        check("exit_reason=0x400 guest_rip=0x10 isa=2", Some((Reason::EPT_VIOLATION, true)));
        check("vcpu 0 reason npf rip 0x10 info1 0x4", Some((Reason::EPT_VIOLATION, true)));
        check("vcpu 0 reason msr rip 0x10 info1 0x1", Some((Reason::WRMSR, true)));
        check("vcpu 0 reason EXIT_MSR rip 0x10 info1 0x0", Some((Reason::RDMSR, true)));
        check("vcpu 0 reason PF excp rip 0x10", Some((Reason::EXCEPTION_NMI, true)));
        check("vcpu 0 reason write_cr4 rip 0x10", Some((Reason::CR_ACCESS, true)));
        check("vcpu 0 reason EXIT_READ_DR7 rip 0x10", Some((Reason::DR_ACCESS, true)));
        check("exit_reason=0x84 guest_rip=0x10 isa=2", Some((Reason(0xc084), true)));
        check("vcpu 0 reason stgi rip 0x10", Some((Reason(0xc084), true)));
        check("reason: npf ext_inf1: 0x4", Some((Reason::EPT_VIOLATION, true)));
        check("rip: 0x10 reason: CPUID ext_inf1: 0x0", Some((Reason::CPUID, false)));
        check("vcpu 0 reason what rip 0x10", None);
        check("vcpu 0 rip 0x10", None);
    }
}
