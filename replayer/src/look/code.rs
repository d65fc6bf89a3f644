//! Instructions of a guest, disassembled where they lie in its memory.

use hv::disassemble::disassemble;
use hv::l0::{Guest, L0};
use hv::soft::SoftSilicon;
use hv_defs::vmcs;
use hv_defs::x86::AccessRights;

/// Bytes of an instruction at most.
const LONGEST: usize = 15;

/// An instruction in a guest's memory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Instruction {
    /// Its address, as an offset in the code segment.
    pub address: u64,
    /// Its bytes; one where they are no instruction.
    pub bytes: Vec<u8>,
    /// It in words; `None` where the bytes are no instruction.
    pub text: Option<String>,
}

/// The width of a guest's code, and what to add to an offset in its code segment for a linear address.
fn segment(guest: &Guest) -> (u32, u64) {
    let rights = AccessRights::from_bits(guest.vmcs.get(vmcs::GUEST_CS_ACCESS_RIGHTS));
    match (rights.long(), rights.big()) {
        (true, _) => (64, 0),
        (false, true) => (32, guest.vmcs.get(vmcs::GUEST_CS_BASE)),
        (false, false) => (16, guest.vmcs.get(vmcs::GUEST_CS_BASE)),
    }
}

/// The instruction at an offset in a guest's code segment; `None` where memory cannot be read or holds none.
pub fn text_at(l0: &L0<SoftSilicon>, guest: &Guest, at: u64) -> Option<String> {
    let (bits, base) = segment(guest);
    let mut bytes = [0; LONGEST];
    let count = l0.look_at(guest, base.wrapping_add(at), &mut bytes);
    Some(disassemble(bits, at, &bytes[..count])?.0)
}

/// Up to so many instructions before an offset in a guest's code segment, and from it on, as far as memory can be read.
/// Code has no beginning to be read from backwards: those before are what leads to the offset when it is read from as far
/// before it as makes sense, and may be other ones than were executed.
pub fn code(l0: &L0<SoftSilicon>, guest: &Guest, at: u64, (before, after): (usize, usize)) -> Vec<Instruction> {
    let (bits, base) = segment(guest);
    let reach = ((before * LONGEST) as u64).min(at);
    let read = |from: u64, count: usize| {
        let mut bytes = vec![0; count];
        let count = l0.look_at(guest, base.wrapping_add(from), &mut bytes);
        bytes.truncate(count);
        bytes
    };
    let mut code = Vec::new();
    let from = at - reach;
    let bytes = read(from, reach as usize);
    // What cannot be read all the way to the offset is not read.
    if bytes.len() as u64 == reach {
        let leads = |start: usize| decode(bits, from + start as u64, &bytes[start..], usize::MAX);
        let found = (0..bytes.len()).map(leads).find(|read| {
            let ends = read.last().map(|last| last.address + last.bytes.len() as u64);
            ends == Some(at) && read.iter().all(|instruction| instruction.text.is_some())
        });
        code = found.unwrap_or_default();
        code.drain(..code.len().saturating_sub(before));
    }
    code.extend(decode(bits, at, &read(at, after * LONGEST), after));
    code
}

/// Instructions one after another, from `at` on.
fn decode(bits: u32, at: u64, mut bytes: &[u8], most: usize) -> Vec<Instruction> {
    let mut code = Vec::new();
    let mut address = at;
    while !bytes.is_empty() && code.len() < most {
        let found = disassemble(bits, address, &bytes[..bytes.len().min(LONGEST)]);
        let (text, count) = found.map_or((None, 1), |(text, count)| (Some(text), count));
        code.push(Instruction { address, bytes: bytes[..count].to_vec(), text });
        bytes = &bytes[count..];
        address = address.wrapping_add(count as u64);
    }
    code
}
