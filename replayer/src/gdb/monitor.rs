//! The `monitor` commands: what GDB has no word for.

use super::fields::{self, FieldWatch, On};
use super::target::Debugged;
use crate::look::{self, Ended, Space};
use crate::{Arrived, Error, Runner};
use hv::l0::DEEPEST;
use hv_defs::event::{Event, Kind, Which};
use hv_defs::vmcs::{self, TABLE, VmcsField};

/// The commands, with what they take and what they do. `monitor help` is drawn from it.
const COMMANDS: &[(&str, &str, &str)] = &[
    ("help", "", "this list"),
    ("event", "", "where we are: event, instruction, guest; the event behind it"),
    ("guests", "", "the guests of each vCPU: where they are, and what they run under"),
    ("exits", "[N]", "the last N exits (10)"),
    ("vmcs01", "[FIELD]", "the VMCS that runs L1: all fields that are not 0, or one"),
    ("vmcs12", "[FIELD]", "the current VMCS that L1 made for L2"),
    ("vmcs02", "[FIELD]", "the VMCS that runs L2 in its stead"),
    ("tlb", "[VPID]", "cached translations of the running CPU"),
    ("translate", "ADDRESS", "a linear address of the running guest, level by level"),
    ("seek", "EVENT", "go to where an event has just happened"),
    ("seek-instruction", "N", "go to where N instructions are retired"),
    ("mark", "VALUE [COUNT]", "go to where the guest set a mark, for the first or that many times"),
    (
        "watch-vmcs",
        "FIELD [read|write|any] [WHICH] [ADDRESS]",
        "stop behind accesses of a VMCS field (writes), forwards and back: of all VMCSs, of vmcs01, vmcs12, vmcs02, shadow12 \
         or shadow02, of the one at an address",
    ),
    ("unwatch-vmcs", "[FIELD]", "no longer: of a field, or of all"),
    ("level", "[1|2|3|all] [ADDRESS]", "the guests that breakpoints and watchpoints stop in, or those at an address"),
];

/// Lines of an answer at most, so that none runs on for ever.
const LINES: usize = 4096;

/// What a user did wrong, in words.
type Answer = Result<Vec<String>, String>;

fn one(line: impl Into<String>) -> Answer {
    Ok(vec![line.into()])
}

impl Debugged<'_, '_, '_> {
    /// The answer to a command, by lines. `beat` is told now and then that it is being worked on.
    pub(super) fn monitor(&mut self, command: &str, beat: &mut dyn FnMut()) -> Vec<String> {
        let words: Vec<&str> = command.split_whitespace().collect();
        let answer = match words.as_slice() {
            [] | ["help"] => Ok(help()),
            ["event"] => self.whereabouts(),
            ["guests"] => Ok(self.list_guests()),
            ["exits"] => self.exits(10),
            ["exits", count] => number(count).and_then(|count| self.exits(count as usize)),
            [which @ ("vmcs01" | "vmcs12" | "vmcs02"), rest @ ..] if rest.len() <= 1 => {
                self.vmcs(which, rest.first().copied())
            }
            ["tlb"] => self.tlb(None),
            ["tlb", vpid] => number(vpid).and_then(|vpid| self.tlb(Some(vpid))),
            ["translate", at] => number(at).and_then(|at| self.translate(at)),
            ["seek", event] => number(event).and_then(|event| self.seek(event, beat)),
            ["seek-instruction", count] => number(count).and_then(|count| {
                let arrived = self.cursor.approach(count, beat).and_then(|()| self.cursor.to_instruction(count));
                self.moved(arrived)
            }),
            ["mark", value] => number(value).and_then(|value| self.mark(value, 1, beat)),
            ["mark", value, count] => {
                number(value).and_then(|value| number(count).and_then(|count| self.mark(value, count, beat)))
            }
            ["watch-vmcs", name, rest @ ..] if rest.len() <= 3 => self.watch_field(name, rest),
            ["unwatch-vmcs"] => {
                self.fields.clear();
                one("no VMCS field is watched")
            }
            ["unwatch-vmcs", name] => field(name).and_then(|field| {
                let before = self.fields.len();
                self.fields.retain(|watch| watch.field != field);
                if self.fields.len() < before { one("done") } else { Err(format!("{field} is not watched")) }
            }),
            ["level"] => Ok(self.shown_levels()),
            ["level", level] => self.set_level(level, None),
            ["level", level, at] => number(at).and_then(|at| self.set_level(level, Some(at))),
            _ => Err(format!("'{command}' is no command of the replayer's; 'monitor help' lists them")),
        };
        match answer {
            Ok(mut lines) => {
                if lines.len() > LINES {
                    let left = lines.len() - LINES;
                    lines.truncate(LINES);
                    lines.push(format!("and {left} more"));
                }
                lines
            }
            Err(wrong) => vec![format!("error: {wrong}")],
        }
    }

    fn whereabouts(&mut self) -> Answer {
        let runner = self.cursor.runner();
        let (event, instruction) = (self.cursor.event(), self.cursor.instruction());
        let pcpu = self.cursor.machine().turn().1;
        let mut lines = vec![format!(
            "event {event} of {}, instruction {instruction}, vCPU {} on CPU {pcpu}, in L{}",
            self.cursor.reader().len(),
            runner.vcpu,
            runner.level
        )];
        if let Some(access) = self.why {
            lines.push(format!("stopped behind {}", self.line(access)?));
        }
        if let Some(last) = event.checked_sub(1) {
            lines.push(format!("last: {}", self.line(last)?));
        }
        if event < self.cursor.reader().len() {
            lines.push(format!("next: {}", self.line(event)?));
        }
        if let Some(divergence) = self.cursor.divergence() {
            lines.push(format!("the replay differs from the recording at event {}", divergence.event));
        }
        Ok(lines)
    }

    /// An event of the trace in a line.
    fn line(&self, number: u64) -> Result<String, String> {
        let event = self.cursor.reader().event(number).map_err(|error| error.to_string())?;
        Ok(line(number, &event))
    }

    fn exits(&mut self, count: usize) -> Answer {
        let (reader, here) = (self.cursor.reader(), self.cursor.event());
        let mut found = Vec::new();
        let Some(last) = here.min(reader.len()).checked_sub(1) else { return one("none yet") };
        let first = reader.block_of(last).map_err(|error| error.to_string())?;
        for block in (0..=first).rev() {
            let rows = reader.block_columns(block, Kind::Exit).map_err(|error| error.to_string())?;
            let events = rows.event.to_vec();
            let before = events.into_iter().rev().filter(|event| *event < here);
            found.extend(before.take(count - found.len().min(count)));
            if found.len() >= count {
                break;
            }
        }
        found.into_iter().rev().map(|event| self.line(event)).collect()
    }

    fn vmcs(&mut self, which: &str, name: Option<&str>) -> Answer {
        let vcpu = self.cursor.runner().vcpu;
        let l0 = self.cursor.machine().l0();
        let found = match which {
            "vmcs01" => Some((String::new(), l0.vmcs01(vcpu))),
            "vmcs12" => l0.vmcs12(vcpu).map(|(at, vmcs)| (format!(" at L1-physical {:#x}", at.0), vmcs)),
            _ => l0.vmcs02(vcpu).map(|(at, vmcs)| (format!(" at host-physical {:#x}", at.0), vmcs)),
        };
        let Some((at, vmcs)) = found else { return Err(format!("vCPU {vcpu} has no {which} now")) };
        if let Some(name) = name {
            let field = field(name)?;
            let value = vmcs.read(field).unwrap_or_default();
            return one(format!("{field} = {value:#x}"));
        }
        let mut lines = vec![format!("{which} of vCPU {vcpu}{at}, fields that are not 0:")];
        for (index, row) in TABLE.iter().enumerate().filter(|(index, _)| vmcs.row(*index) != 0) {
            lines.push(format!("{:<36} {:#x}", row.name, vmcs.row(index)));
        }
        Ok(lines)
    }

    fn tlb(&mut self, vpid: Option<u64>) -> Answer {
        let pcpu = self.cursor.machine().turn().1;
        let mut rows = look::tlb(self.cursor.machine(), pcpu);
        rows.retain(|it| vpid.is_none_or(|vpid| !it.guest_physical && u64::from(it.tag.vpid) == vpid));
        let mut lines = vec![format!("{} cached translations on CPU {pcpu}", rows.len())];
        lines.extend(rows.into_iter().map(|it| {
            let tag = match (it.guest_physical, it.tag.pcid) {
                (true, _) => "guest-physical".to_owned(),
                (false, Some(pcid)) => format!("vpid {} pcid {pcid}", it.tag.vpid),
                (false, None) => format!("vpid {} global", it.tag.vpid),
            };
            let ep4ta = it.tag.ep4ta.map(|at| format!(" ep4ta {at:#x}")).unwrap_or_default();
            let rights: String = [(it.writable, 'w'), (it.executable, 'x'), (it.user, 'u')]
                .map(|(has, letter)| if has { letter } else { '-' })
                .into_iter()
                .collect();
            format!("{tag}{ep4ta} {:#x} -> {:#x} {rights} {:?}", it.address, it.target.0, it.size)
        }));
        Ok(lines)
    }

    fn translate(&mut self, at: u64) -> Answer {
        let Runner { vcpu, level } = self.cursor.runner();
        let walks = look::walk(self.cursor.machine().l0(), vcpu, Space::Linear(level), at);
        let mut lines = Vec::new();
        for stage in walks.ok_or("no guest runs")? {
            let look::Stage { structure, from, to, address, trail } = stage;
            lines.push(match trail.ended {
                Ended::At { address: found, .. } => format!("{from} {address:#x} is {to} {found:#x} by {structure}"),
                _ => format!("{from} {address:#x} is not mapped by {structure}"),
            });
            let entry =
                |step: &look::Step| format!("  level {} entry at {:#x}: {:#x}", step.level, step.at, step.entry);
            lines.extend(trail.steps.iter().map(entry));
        }
        Ok(lines)
    }

    fn seek(&mut self, event: u64, beat: &mut dyn FnMut()) -> Answer {
        let count = self.cursor.reader().len();
        if event >= count {
            return Err(format!("the trace has {count} events, numbered from 0"));
        }
        let at = self.cursor.reader().event(event).map_err(|error| error.to_string())?.at.instruction;
        let arrived = self.cursor.approach(at, beat).and_then(|()| self.cursor.to_event(event));
        self.moved(arrived)
    }

    fn mark(&mut self, value: u64, count: u64, beat: &mut dyn FnMut()) -> Answer {
        let (reader, mut left) = (self.cursor.reader(), count.max(1));
        for block in 0..reader.blocks().len() {
            let rows = reader.block_columns(block, Kind::Mark).map_err(|error| error.to_string())?;
            let Some(values) = rows.column("value") else { continue };
            for (event, _) in rows.event.iter().zip(values).filter(|(_, mark)| *mark == value) {
                left -= 1;
                if left == 0 {
                    return self.seek(event, beat);
                }
            }
        }
        Err(format!("the mark {value} was not set that often"))
    }

    /// What there is to say of a place that was gone to.
    fn moved(&mut self, arrived: Result<Arrived, Error>) -> Answer {
        self.why = None;
        let mut lines = match arrived.map_err(|error| error.to_string())? {
            Arrived::There => Vec::new(),
            Arrived::End(Some(stop)) => vec![format!("the run ended: {}", stop.text)],
            Arrived::End(None) => vec!["the trace ends here".to_owned()],
            Arrived::Diverged(_) => Vec::new(),
        };
        lines.extend(self.whereabouts()?);
        lines.push("registers that GDB has read are old: 'maintenance flush register-cache'".to_owned());
        Ok(lines)
    }

    fn watch_field(&mut self, name: &str, rest: &[&str]) -> Answer {
        let mut watch = FieldWatch { field: field(name)?, on: On::Writes, which: None, address: None };
        for word in rest {
            match *word {
                "write" => watch.on = On::Writes,
                "read" => watch.on = On::Reads,
                "any" => watch.on = On::Both,
                word => match Which::by_name(word) {
                    Some(which) => watch.which = Some(which),
                    None => {
                        let wrong = |_| format!("'{word}' is none of read, write and any, no VMCS and no address");
                        watch.address = Some(number(word).map_err(wrong)?);
                    }
                },
            }
        }
        if !self.fields.contains(&watch) {
            self.fields.push(watch);
        }
        let (reader, here) = (self.cursor.reader(), self.cursor.event());
        let told = |error: Error| error.to_string();
        let before = fields::last(reader, &[watch], here).map_err(told)?;
        let after = fields::next(reader, &[watch], here).map_err(told)?;
        let mut lines = Vec::new();
        for (which, access) in [("last", before), ("next", after)] {
            lines.push(match access {
                Some(access) => format!("{which}: {}", self.line(access.event)?),
                None => format!("{which}: none in the trace"),
            });
        }
        Ok(lines)
    }

    fn set_level(&mut self, level: &str, at: Option<u64>) -> Answer {
        let level = match level {
            "all" => None,
            text => match text.trim_start_matches(['l', 'L']).parse::<u8>() {
                Ok(level @ 1..=DEEPEST) => Some(level),
                _ => return Err(format!("'{level}' is none of 1, 2, 3 and all")),
            },
        };
        match at {
            None => self.level = level,
            Some(at) => {
                self.levels.retain(|(other, _)| *other != at);
                self.levels.extend(level.map(|level| (at, level)));
            }
        }
        Ok(self.shown_levels())
    }

    fn shown_levels(&self) -> Vec<String> {
        let of = self.level.map_or("every guest".to_owned(), |level| format!("L{level}"));
        let mut lines = vec![format!("breakpoints and watchpoints stop in {of}")];
        lines.extend(self.levels.iter().map(|(at, level)| format!("those at {at:#x} stop in L{level}")));
        lines
    }

    fn list_guests(&mut self) -> Vec<String> {
        look::guests(self.cursor.machine().l0())
            .map(|(runner, guest)| {
                let under = guest.vmcs12.map_or(String::new(), |at| format!(", vmcs12 at L1-physical {:#x}", at.0));
                let ept = guest.eptp12.map_or(String::new(), |eptp| format!(", EPT12 at {:#x}", eptp.ep4ta()));
                let [rip, cr3] = [vmcs::GUEST_RIP, vmcs::GUEST_CR3].map(|field| guest.vmcs.get(field));
                let runs = if guest.runs { ", runs" } else { "" };
                let Runner { vcpu, level } = runner;
                format!("L{level} of vCPU {vcpu}{runs}: rip {rip:#x}, cr3 {cr3:#x}{under}{ept}")
            })
            .collect()
    }
}

fn help() -> Vec<String> {
    COMMANDS.iter().map(|(name, takes, does)| format!("monitor {:<40} {does}", format!("{name} {takes}"))).collect()
}

/// A number as GDB takes it.
fn number(text: &str) -> Result<u64, String> {
    let found = match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => text.replace('_', "").parse(),
    };
    found.map_err(|_| format!("'{text}' is no number"))
}

/// A field by its name in either case, or by its encoding.
fn field(name: &str) -> Result<VmcsField, String> {
    let named = VmcsField::by_name(&name.to_lowercase());
    let encoded = || number(name).ok().and_then(|at| u32::try_from(at).ok()).map(VmcsField);
    let found = named.or_else(encoded).filter(|field| field.index().is_some());
    found.ok_or_else(|| format!("'{name}' is no VMCS field; they are named as in the SDM, as guest_rip"))
}

/// An event in a line.
fn line(number: u64, event: &Event) -> String {
    let mut text = format!("event {number} at {}: {}", event.at.instruction, event.what.kind());
    for (field, value) in event.values() {
        text.push_str(&format!(" {}={value}", field.name));
    }
    text
}
