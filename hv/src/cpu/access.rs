//! Memory as instructions see it: segments, then linear addresses, then translation, then bytes.

use super::op::{Ea, Op, W8, Width};
use super::state::{CodeWrites, Cpu, Halt, Stop};
use crate::memory::Memory;
use crate::mmu::{Access, Fault};
use crate::vmx::exit::ExitInfo;
use hv_defs::addr::{Hpa, PAGE_SIZE};
use hv_defs::exit::{ApicAccess, Reason};
use hv_defs::x86::{AccessRights, Rflags, Seg, Vector};

/// How an exit tells of an access to the APIC-access page that is no plain one of an instruction's.
const APIC_IN_DELIVERY: u8 = 3;
const APIC_PHYSICAL_IN_DELIVERY: u8 = 10;
const APIC_PHYSICAL: u8 = 15;

/// Where an operand that is to be read and then written lies.
#[derive(Clone, Copy)]
struct Place {
    /// The bytes in the first page, and how many they are.
    first: Hpa,
    bytes: u64,
    /// The rest's.
    second: Hpa,
    /// Memory is to tell of pages with decoded instructions.
    tell: bool,
}

impl Cpu {
    /// Whether accesses are made at user privilege.
    #[inline(always)]
    pub(super) fn user(&self) -> bool {
        self.cpl() == 3
    }

    /// Reads at a linear address.
    #[inline(always)]
    pub(super) fn load<W: Width>(&mut self, memory: &mut Memory, seg: Seg, at: u64) -> Result<u64, Halt> {
        if let Some(hpa) = self.mmu.fast(Access::Read, at, W::BYTES) {
            return Ok(W::read(memory, hpa));
        }
        if W::FAST {
            return Err(Halt);
        }
        self.load_slow(memory, seg, at, W::BYTES)
    }

    /// Writes at a linear address.
    #[inline(always)]
    pub(super) fn store<W: Width>(&mut self, memory: &mut Memory, seg: Seg, at: u64, value: u64) -> Result<(), Halt> {
        if let Some(hpa) = self.mmu.fast(Access::Write, at, W::BYTES) {
            W::store(memory, hpa, value);
            return Ok(());
        }
        if W::FAST {
            return Err(Halt);
        }
        self.store_slow(memory, seg, at, W::BYTES, value)
    }

    /// Reads a memory operand.
    #[inline(always)]
    pub(super) fn read<W: Width, E: Ea>(&mut self, memory: &mut Memory, op: &Op) -> Result<u64, Halt> {
        let at = E::address(self, op);
        let at = if E::FLAT { at } else { self.checked_linear::<W>(op.seg(), at, false)? };
        if let Some(hpa) = self.mmu.fast(Access::Read, at, W::BYTES) {
            return Ok(W::read(memory, hpa));
        }
        if W::FAST {
            return Err(Halt);
        }
        self.load_slow(memory, op.seg(), at, W::BYTES)
    }

    /// Writes a memory operand.
    #[inline(always)]
    pub(super) fn write<W: Width, E: Ea>(&mut self, memory: &mut Memory, op: &Op, value: u64) -> Result<(), Halt> {
        let at = E::address(self, op);
        let at = if E::FLAT { at } else { self.checked_linear::<W>(op.seg(), at, true)? };
        if let Some(hpa) = self.mmu.fast(Access::Write, at, W::BYTES) {
            W::store(memory, hpa, value);
            return Ok(());
        }
        if W::FAST {
            return Err(Halt);
        }
        self.store_slow(memory, op.seg(), at, W::BYTES, value)
    }

    /// Replaces a memory operand. `change` runs when nothing can fault any more.
    #[inline(always)]
    pub(super) fn modify<W: Width, E: Ea>(
        &mut self,
        memory: &mut Memory,
        op: &Op,
        change: impl FnOnce(&mut Self, u64) -> u64,
    ) -> Result<(), Halt> {
        let at = E::address(self, op);
        let at = if E::FLAT { at } else { self.checked_linear::<W>(op.seg(), at, true)? };
        if let Some(hpa) = self.mmu.fast(Access::Write, at, W::BYTES) {
            let old = W::read(memory, hpa);
            let new = change(self, old);
            W::store(memory, hpa, new);
            return Ok(());
        }
        if W::FAST {
            return Err(Halt);
        }
        let place = self.place(memory, op.seg(), at, W::BYTES, Access::Write)?;
        let old = get_place(memory, place, W::BYTES);
        let new = change(self, old);
        put_place(memory, place, W::BYTES, new);
        Ok(())
    }

    /// [`Cpu::linear`] of an operand; a first try has no call in it.
    #[inline(always)]
    fn checked_linear<W: Width>(&mut self, seg: Seg, offset: u64, write: bool) -> Result<u64, Halt> {
        if W::FAST { Err(Halt) } else { self.linear(seg, offset, W::BYTES, write) }
    }

    /// Reads at an offset in a segment.
    pub(super) fn read_seg<W: Width>(&mut self, memory: &mut Memory, seg: Seg, offset: u64) -> Result<u64, Halt> {
        let at = self.linear(seg, offset, W::BYTES, false)?;
        self.load::<W>(memory, seg, at)
    }

    /// Writes at an offset in a segment.
    pub(super) fn write_seg<W: Width>(
        &mut self,
        memory: &mut Memory,
        seg: Seg,
        offset: u64,
        value: u64,
    ) -> Result<(), Halt> {
        let at = self.linear(seg, offset, W::BYTES, true)?;
        self.store::<W>(memory, seg, at, value)
    }

    /// Faults where a write of `bytes` at a linear address would.
    pub(super) fn probe(&mut self, memory: &mut Memory, seg: Seg, at: u64, bytes: u64) -> Result<(), Halt> {
        self.place(memory, seg, at, bytes, Access::Write).map(|_| ())
    }

    /// The linear address of an offset in a segment, checked as an access of `bytes` there is.
    #[inline]
    pub(super) fn linear(&mut self, seg: Seg, offset: u64, bytes: u64, write: bool) -> Result<u64, Halt> {
        let segment = &self.seg[seg as usize];
        if self.code64() {
            let base = if matches!(seg, Seg::Fs | Seg::Gs) { segment.base } else { 0 };
            return Ok(base.wrapping_add(offset));
        }
        let last = offset.wrapping_add(bytes - 1);
        if permits(segment.rights, write, self.protected() && !self.v86())
            && offset <= u64::from(u32::MAX)
            && within(segment.rights, segment.limit, offset, last)
        {
            return Ok(u64::from((segment.base as u32).wrapping_add(offset as u32)));
        }
        self.segment_fault(seg)
    }

    /// #SS for the stack's segment, #GP for the others.
    #[cold]
    pub(super) fn segment_fault<T>(&mut self, seg: Seg) -> Result<T, Halt> {
        let vector = if seg == Seg::Ss { Vector::SS } else { Vector::GP };
        self.fault(vector, Some(0))
    }

    /// What a translation's fault means to an op.
    #[cold]
    pub(super) fn translation_fault<T>(&mut self, fault: Fault, access: Access) -> Result<T, Halt> {
        self.exec.stop = match fault {
            Fault::Page { code, address } => Stop::PageFault(code, address),
            Fault::EptViolation { qualification, gpa, gla } => {
                let info =
                    ExitInfo { qualification: qualification.into(), gpa, gla, ..ExitInfo::of(Reason::EPT_VIOLATION) };
                Stop::Exit(Box::new(info))
            }
            Fault::EptMisconfig { gpa } => {
                Stop::Exit(Box::new(ExitInfo { gpa, ..ExitInfo::of(Reason::EPT_MISCONFIG) }))
            }
            Fault::PmlFull => Stop::Exit(Box::new(ExitInfo::of(Reason::PML_FULL))),
            Fault::ApicAccess { offset, physical } => {
                let delivers = self.exec.code_writes == CodeWrites::Tell;
                let kind = match (physical, delivers) {
                    (false, false) => access as u8,
                    (false, true) => APIC_IN_DELIVERY,
                    (true, true) => APIC_PHYSICAL_IN_DELIVERY,
                    (true, false) => APIC_PHYSICAL,
                };
                let access = ApicAccess::new().with_offset(offset).with_kind(kind);
                Stop::Exit(Box::new(ExitInfo { qualification: access.into(), ..ExitInfo::of(Reason::APIC_ACCESS) }))
            }
        };
        Err(Halt)
    }

    /// Translates an address that `bytes` are accessed at, on this page or from it on.
    fn translate(
        &mut self,
        memory: &mut Memory,
        at: u64,
        access: Access,
        user: bool,
        bytes: u64,
    ) -> Result<(Hpa, bool), Halt> {
        let ac = self.flags.has(Rflags::AC);
        match self.mmu.translate(memory, at, access, user, ac) {
            Ok(hpa) => Ok((hpa, false)),
            Err(Fault::ApicAccess { offset, physical: false }) => {
                self.apic_access(offset, bytes, access).map(|hpa| (hpa, true))
            }
            Err(fault) => self.translation_fault(fault, access),
        }
    }

    /// Translates an access that may cross into another page, the fault of the lower page first.
    #[expect(clippy::too_many_arguments, reason = "an access has as many parts")]
    fn place_as(
        &mut self,
        memory: &mut Memory,
        seg: Seg,
        at: u64,
        bytes: u64,
        access: Access,
        user: bool,
        wide: bool,
    ) -> Result<Place, Halt> {
        // Linear addresses outside 64-bit mode have 32 bits.
        let wrap = |at: u64| if wide { at } else { at & 0xffff_ffff };
        let at = wrap(at);
        let last = wrap(at.wrapping_add(bytes - 1));
        if !(self.canonical(at) && self.canonical(last)) {
            return self.segment_fault(seg);
        }
        // What is wider than 8 bytes is checked by its parts, or not. See: SDM "Alignment Check Exception (#AC)".
        let boundary = match bytes {
            1..=8 => bytes,
            10 => 8,
            _ => 1,
        };
        if user && at & (boundary - 1) != 0 && self.alignment_checked() {
            return self.fault(Vector::AC, Some(0));
        }
        let (first, virtual_apic) = self.translate(memory, at, access, user, bytes)?;
        let here = (PAGE_SIZE - at % PAGE_SIZE).min(bytes);
        let second = if here == bytes {
            first
        } else {
            self.translate(memory, wrap(at.wrapping_add(here)), access, user, bytes)?.0
        };
        if self.exec.stopping.is_some() {
            self.guard_access(at, bytes, access, self.exec.code_writes == CodeWrites::Tell)?;
        }
        if access == Access::Write && self.exec.code_writes == CodeWrites::Refuse {
            for hpa in [first, second] {
                if memory.flags(hpa).code() {
                    self.exec.stop = Stop::CodeWrite(hpa.0);
                    return Err(Halt);
                }
            }
        }
        if self.exec.watched {
            self.note_access(at, bytes, access);
        }
        let tell = match self.exec.code_writes {
            CodeWrites::Refuse => virtual_apic,
            CodeWrites::Allow(at) => [first, second].iter().any(|hpa| hpa.page() != Hpa(at).page() || hpa.0 < at),
            CodeWrites::Tell => true,
        };
        Ok(Place { first, bytes: here, second, tell })
    }

    fn alignment_checked(&self) -> bool {
        self.flags.has(Rflags::AC) && self.cr0 & hv_defs::x86::Cr0::AM.bits() != 0
    }

    fn place(&mut self, memory: &mut Memory, seg: Seg, at: u64, bytes: u64, access: Access) -> Result<Place, Halt> {
        let user = self.user();
        let wide = self.code64();
        self.place_as(memory, seg, at, bytes, access, user, wide)
    }

    #[cold]
    fn load_slow(&mut self, memory: &mut Memory, seg: Seg, at: u64, bytes: u64) -> Result<u64, Halt> {
        let place = self.place(memory, seg, at, bytes, Access::Read)?;
        Ok(get_place(memory, place, bytes))
    }

    #[cold]
    fn store_slow(&mut self, memory: &mut Memory, seg: Seg, at: u64, bytes: u64, value: u64) -> Result<(), Halt> {
        let place = self.place(memory, seg, at, bytes, Access::Write)?;
        put_place(memory, place, bytes, value);
        Ok(())
    }

    /// Reads `bytes` of a system structure, at supervisor privilege whatever the current one.
    pub(super) fn load_system(&mut self, memory: &mut Memory, at: u64, bytes: u64) -> Result<u64, Halt> {
        // Tables lie anywhere in IA-32e mode, whatever the code's size.
        let place = self.place_as(memory, Seg::Ds, at, bytes, Access::Read, false, self.long_mode())?;
        Ok(get_place(memory, place, bytes))
    }

    /// Writes `bytes` of a system structure, at supervisor privilege whatever the current one.
    pub(super) fn store_system(&mut self, memory: &mut Memory, at: u64, bytes: u64, value: u64) -> Result<(), Halt> {
        let place = self.place_as(memory, Seg::Ds, at, bytes, Access::Write, false, self.long_mode())?;
        put_place(memory, place, bytes, value);
        Ok(())
    }

    /// Writes to a stack that is not the current one, at the privilege level that it belongs to.
    pub(super) fn store_stack(
        &mut self,
        memory: &mut Memory,
        at: u64,
        bytes: u64,
        value: u64,
        user: bool,
    ) -> Result<(), Halt> {
        let place = self.place_as(memory, Seg::Ss, at, bytes, Access::Write, user, self.long_mode())?;
        put_place(memory, place, bytes, value);
        Ok(())
    }

    /// Reads a 16-byte operand.
    pub(super) fn load128(&mut self, memory: &mut Memory, seg: Seg, at: u64) -> Result<u128, Halt> {
        if let Some(hpa) = self.mmu.fast(Access::Read, at, 16) {
            return Ok(memory.read::<u128>(hpa));
        }
        let place = self.place(memory, seg, at, 16, Access::Read)?;
        let mut bytes = [0; 16];
        let (low, high) = bytes.split_at_mut(place.bytes as usize);
        read_bytes(memory, place.first, low);
        read_bytes(memory, place.second, high);
        Ok(u128::from_le_bytes(bytes))
    }

    /// Writes a 16-byte operand.
    pub(super) fn store128(&mut self, memory: &mut Memory, seg: Seg, at: u64, value: u128) -> Result<(), Halt> {
        if let Some(hpa) = self.mmu.fast(Access::Write, at, 16) {
            memory.store(hpa, value);
            return Ok(());
        }
        let place = self.place(memory, seg, at, 16, Access::Write)?;
        let bytes = value.to_le_bytes();
        let (low, high) = bytes.split_at(place.bytes as usize);
        put_bytes(memory, place, low, high);
        Ok(())
    }

    /// The linear address of an op's memory operand of `bytes`, checked but not translated.
    pub(super) fn operand(&mut self, op: &Op, bytes: u64, write: bool) -> Result<u64, Halt> {
        let at = super::op::offset(self, op);
        self.linear(op.seg(), at, bytes, write)
    }

    /// Faults where a read of a byte at an op's memory operand would.
    pub(super) fn probe_read(&mut self, memory: &mut Memory, seg: Seg, at: u64) -> Result<(), Halt> {
        self.load::<W8>(memory, seg, at).map(|_| ())
    }
}

/// Reads bytes that lie in one page; what is not memory reads all ones.
pub(super) fn read_bytes(memory: &Memory, at: Hpa, into: &mut [u8]) {
    match memory.bytes(at, into.len()) {
        Some(bytes) => into.copy_from_slice(bytes),
        None => into.fill(0xff),
    }
}

fn get_place(memory: &Memory, place: Place, bytes: u64) -> u64 {
    let mut value = [0; 8];
    let (low, high) = value[..bytes as usize].split_at_mut(place.bytes as usize);
    read_bytes(memory, place.first, low);
    read_bytes(memory, place.second, high);
    u64::from_le_bytes(value)
}

fn put_bytes(memory: &mut Memory, place: Place, low: &[u8], high: &[u8]) {
    for (at, bytes) in [(place.first, low), (place.second, high)].into_iter().filter(|(_, bytes)| !bytes.is_empty()) {
        if place.tell {
            memory.write_bytes(at, bytes);
        } else {
            memory.write_beside_code(at, bytes);
        }
    }
}

fn put_place(memory: &mut Memory, place: Place, bytes: u64, value: u64) {
    let value = value.to_le_bytes();
    let (low, high) = value[..bytes as usize].split_at(place.bytes as usize);
    put_bytes(memory, place, low, high);
}

/// Whether a segment may be read or written. In real and virtual-8086 mode all may.
#[inline(always)]
fn permits(rights: AccessRights, write: bool, protected: bool) -> bool {
    if rights.unusable() {
        return false;
    }
    if !protected {
        return true;
    }
    let kind = rights.kind();
    if write { kind & 0b1010 == 0b0010 } else { kind & 0b1000 == 0 || kind & 0b0010 != 0 }
}

/// Whether offsets lie within a limit, which an expand-down segment has below and not above.
#[inline(always)]
fn within(rights: AccessRights, limit: u32, first: u64, last: u64) -> bool {
    // Behind the last byte of all comes the first.
    if limit == u32::MAX && rights.kind() & 0b1100 != 0b0100 {
        return true;
    }
    let limit = u64::from(limit);
    if rights.kind() & 0b1100 == 0b0100 {
        let top = if rights.big() { 0xffff_ffff } else { 0xffff };
        first > limit && last <= top
    } else {
        last <= limit
    }
}
