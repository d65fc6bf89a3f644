//! VM seeds of the IRIS project: text, a record in three lines of hexadecimal, which are a VMCS encoding, a value and a kind.
//!
//! An exit opens with the record `ffffffff ffffffff 0`; 15 records of kind 2 have the general registers, whose encodings
//! are 1fffffff for the first, 2fffffff for the second, and so on to efffffff and 0fffffff; then come the hypervisor's
//! VMREADs (kind 1) and VMWRITEs (kind 0) in order. The hypervisor is Xen, and the guest an L1.

use super::{ImportError, Imported, Lines, Sink, header};
use hv_defs::config::{Clock, Source};
use hv_defs::event::{Actor, Event, Exit, NO_ADDRESS, Registers, Stamp, VmcsAccess, VmcsOp, What, Which};
use hv_defs::exit::{ExitReason, InterruptionInfo};
use hv_defs::vmcs::{self, VmcsField};
use std::collections::BTreeMap;
use std::io::{Read, Write};

/// The most accesses of one exit: some thousand times what a hypervisor makes.
const MOST: usize = 1 << 16;
/// The most fields whose last value is kept: more than there are.
const FIELDS: usize = 1 << 12;

/// The exit reason where the hypervisor did not read it: no reason at all.
const UNREAD: u32 = 0xffff;

/// The record that opens an exit.
const OPENING: [u64; 3] = [0xffff_ffff, 0xffff_ffff, 0];

/// An exit and what follows it.
#[derive(Default)]
struct Seed {
    registers: [u64; 15],
    /// Field, value, and whether it was written.
    accesses: Vec<(VmcsField, u64, bool)>,
}

impl Seed {
    /// What the hypervisor read from a field before it wrote to it: what the exit left there.
    fn left(&self, field: VmcsField) -> Option<u64> {
        let first = self.accesses.iter().find(|(of, ..)| *of == field)?;
        (!first.2).then_some(first.1)
    }

    fn exit(&self) -> Exit {
        let get = |field| self.left(field).unwrap_or(0);
        let [intr_info, vectoring] = [vmcs::EXIT_INTERRUPTION_INFO.into(), vmcs::IDT_VECTORING_INFO.into()]
            .map(|field| InterruptionInfo::from(get(field) as u32));
        Exit {
            level: 1,
            reason: ExitReason::from(self.left(vmcs::EXIT_REASON.into()).map_or(UNREAD, |reason| reason as u32)),
            qualification: get(vmcs::EXIT_QUALIFICATION.into()),
            rip: get(vmcs::GUEST_RIP.into()),
            length: get(vmcs::EXIT_INSTRUCTION_LENGTH.into()) as u8,
            gpa: get(vmcs::GUEST_PHYSICAL_ADDRESS.into()),
            gla: get(vmcs::GUEST_LINEAR_ADDRESS.into()),
            intr_info: if intr_info.valid() || !vectoring.valid() { intr_info } else { vectoring },
            vmcs12: NO_ADDRESS,
            handled_by: Actor::L0,
        }
    }

    /// In the order in which IRIS numbers them: those that the guest's system calls use come last.
    fn registers(&self) -> Registers {
        let [rax, rbx, rcx, rdx, r8, r9, r10, r11, r12, r13, r14, r15, rbp, rdi, rsi] = self.registers;
        Registers { rax, rbx, rcx, rdx, rsi, rdi, rbp, r8, r9, r10, r11, r12, r13, r14, r15 }
    }
}

/// The place of a register's encoding among the 15.
fn register(encoding: u64) -> Option<usize> {
    match (encoding >> 28, encoding & 0xfff_ffff) {
        (number @ 1..=13, 0xfff_ffff) => Some(number as usize - 1),
        (0, 0xfff_ffff) => Some(13),
        (14, 0xfff_ffff) => Some(14),
        _ => None,
    }
}

/// Imports seeds.
pub(super) fn import<R: Read>(mut lines: Lines<R>, name: &str, out: impl Write) -> Result<Imported, ImportError> {
    let note = "VM seeds of a guest of Xen";
    let mut sink = Sink::create(out, &header(Source::Iris.name(), name, Clock::Exits, note))?;
    let (mut exits, mut values) = (0, BTreeMap::new());
    let mut seed: Option<Seed> = None;
    while let Some(record) = record(&mut lines)? {
        if record == OPENING {
            if let Some(seed) = seed.replace(Seed::default()) {
                exits += 1;
                write(&seed, exits, &mut values, &mut sink)?;
            }
            continue;
        }
        let Some(seed) = &mut seed else {
            return Err(lines.wrong("the first record does not open an exit, as ffffffff, ffffffff, 0 does"));
        };
        let [encoding, value, kind] = record;
        match kind {
            2 => {
                let wrong = || lines.wrong(format!("there is no register {encoding:x}"));
                seed.registers[register(encoding).ok_or_else(wrong)?] = value;
            }
            0 | 1 => {
                let wrong = |_| lines.wrong(format!("there is no VMCS field {encoding:x}"));
                if seed.accesses.len() == MOST {
                    return Err(lines.wrong(format!("the exit has more than {MOST} accesses")));
                }
                seed.accesses.push((VmcsField(u32::try_from(encoding).map_err(wrong)?), value, kind == 0));
            }
            _ => return Err(lines.wrong(format!("there is no kind of record {kind:x}"))),
        }
    }
    let Some(seed) = seed else { return Err(ImportError::Nothing("there is no exit in it".into())) };
    write(&seed, exits + 1, &mut values, &mut sink)?;
    sink.finish()
}

/// The next three numbers; `None` at the end. Empty lines are passed over.
fn record<R: Read>(lines: &mut Lines<R>) -> Result<Option<[u64; 3]>, ImportError> {
    let mut record = [0; 3];
    let mut found = 0;
    while found < 3 {
        let Some(line) = lines.next()? else {
            if found == 0 {
                return Ok(None);
            }
            return Err(lines.wrong("the file ends within a record of three lines"));
        };
        let digits = line.trim_ascii();
        if digits.is_empty() {
            continue;
        }
        match u64::from_str_radix(digits, 16) {
            Ok(number) if !digits.starts_with('+') => record[found] = number,
            _ => {
                let shown: String = digits.chars().take(20).map(|of| if of.is_control() { '.' } else { of }).collect();
                return Err(lines.wrong(format!("'{shown}' is no number in hexadecimal")));
            }
        }
        found += 1;
    }
    Ok(Some(record))
}

/// Writes an exit, its registers and its accesses. `values` has the fields' last values: what is not in it was never seen.
fn write<W: Write>(
    seed: &Seed,
    exits: u64,
    values: &mut BTreeMap<VmcsField, u64>,
    sink: &mut Sink<W>,
) -> Result<(), ImportError> {
    let at = Stamp { instruction: exits, vcpu: 0, pcpu: 0 };
    sink.push(&Event { at, what: What::Exit(seed.exit()) })?;
    sink.push(&Event { at, what: What::Registers(seed.registers()) })?;
    // Every exit takes the valid bit away. See: SDM "VM-Entry Controls for Event Injection".
    if let Some(injected) = values.get_mut(&vmcs::ENTRY_INTERRUPTION_INFO.into()) {
        *injected &= !(1 << 31);
    }
    for &(field, value, written) in &seed.accesses {
        let last =
            if values.len() < FIELDS || values.contains_key(&field) { values.insert(field, value) } else { None };
        let (op, old) = if written { (VmcsOp::Write, last.unwrap_or(0)) } else { (VmcsOp::Read, value) };
        let which = Which::Vmcs01;
        let access = VmcsAccess { actor: Actor::L0, which, address: NO_ADDRESS, op, field, old, value };
        sink.push(&Event { at, what: What::Vmcs(access) })?;
    }
    Ok(())
}
