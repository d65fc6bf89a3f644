//! Descriptors and segment registers.

use super::op::{Flow, Op};
use super::state::{Cpu, Halt, Segment};
use crate::memory::Memory;
use hv_defs::controls::Interruptibility;
use hv_defs::x86::{AccessRights, Rflags, Seg, Vector};

/// A descriptor of the GDT or LDT, as it lies in memory: eight bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Descriptor(pub(super) u64);

impl Descriptor {
    /// The base of a segment, of 32 bits.
    pub(super) fn base(self) -> u64 {
        self.0 >> 16 & 0xff_ffff | self.0 >> 32 & 0xff00_0000
    }

    /// The limit in bytes.
    pub(super) fn limit(self) -> u32 {
        let limit = (self.0 & 0xffff | self.0 >> 32 & 0xf_0000) as u32;
        if self.0 >> 55 & 1 != 0 { limit << 12 | 0xfff } else { limit }
    }

    /// The access rights.
    pub(super) fn rights(self) -> AccessRights {
        AccessRights::from((self.0 >> 40 & 0xf0ff) as u32)
    }

    /// The four bits of the type.
    pub(super) fn kind(self) -> u8 {
        (self.0 >> 40 & 15) as u8
    }

    pub(super) fn dpl(self) -> u8 {
        (self.0 >> 45 & 3) as u8
    }

    pub(super) fn present(self) -> bool {
        self.0 >> 47 & 1 != 0
    }

    /// Code or data rather than system.
    pub(super) fn is_segment(self) -> bool {
        self.0 >> 44 & 1 != 0
    }

    pub(super) fn is_code(self) -> bool {
        self.is_segment() && self.kind() & 8 != 0
    }

    pub(super) fn is_conforming(self) -> bool {
        self.kind() & 4 != 0
    }

    /// Readable code or writable data.
    pub(super) fn is_read_write(self) -> bool {
        self.kind() & 2 != 0
    }

    pub(super) fn long(self) -> bool {
        self.0 >> 53 & 1 != 0
    }

    pub(super) fn big(self) -> bool {
        self.0 >> 54 & 1 != 0
    }

    /// The segment register that it makes.
    pub(super) fn segment(self, selector: u16) -> Segment {
        Segment { selector, base: self.base(), limit: self.limit(), rights: self.rights() }
    }
}

/// The selector's index and table, as error codes have them.
pub(super) fn error_code(selector: u16) -> u32 {
    u32::from(selector & !3)
}

/// An unusable segment register, as a null selector makes it.
pub(super) fn null(selector: u16, old: &Segment) -> Segment {
    Segment { selector, rights: old.rights.with_unusable(true), ..*old }
}

impl Cpu {
    /// The linear address of a selector's descriptor, of `bytes`; `None` beyond its table's limit.
    pub(super) fn descriptor_at(&self, selector: u16, bytes: u64) -> Option<u64> {
        let offset = u64::from(selector & !7);
        let (base, limit) = if selector & 4 == 0 {
            (self.gdtr.base, u64::from(self.gdtr.limit))
        } else if self.ldtr.rights.unusable() {
            return None;
        } else {
            (self.ldtr.base, u64::from(self.ldtr.limit))
        };
        (offset + bytes - 1 <= limit).then(|| base.wrapping_add(offset))
    }

    /// Reads a selector's descriptor; beyond the table's limit, `vector` with the selector.
    pub(super) fn descriptor(
        &mut self,
        memory: &mut Memory,
        selector: u16,
        vector: Vector,
        ext: u32,
    ) -> Result<Descriptor, Halt> {
        match self.descriptor_at(selector, 8) {
            Some(at) => Ok(Descriptor(self.load_system(memory, at, 8)?)),
            None => self.fault(vector, Some(error_code(selector) | ext)),
        }
    }

    /// Sets the accessed bit of a code or data descriptor in its table.
    pub(super) fn set_accessed(
        &mut self,
        memory: &mut Memory,
        selector: u16,
        descriptor: Descriptor,
    ) -> Result<Descriptor, Halt> {
        if descriptor.kind() & 1 == 0
            && let Some(at) = self.descriptor_at(selector, 8)
        {
            self.store_system(memory, at + 5, 1, descriptor.0 >> 40 & 0xff | 1)?;
        }
        Ok(Descriptor(descriptor.0 | 1 << 40))
    }

    /// Loads ES, SS, DS, FS or GS, as MOV and POP do.
    pub(super) fn load_segment(&mut self, memory: &mut Memory, number: u8, selector: u16) -> Result<(), Halt> {
        let register = usize::from(number).min(5);
        if !self.protected() || self.v86() {
            let segment = &mut self.seg[register];
            segment.selector = selector;
            segment.base = u64::from(selector) << 4;
            return Ok(());
        }
        let segment = if register == Seg::Ss as usize {
            self.stack_segment(memory, selector, self.cpl(), Vector::GP, Vector::SS, 0)?
        } else {
            self.data_segment(memory, selector, register)?
        };
        self.seg[register] = segment;
        Ok(())
    }

    fn data_segment(&mut self, memory: &mut Memory, selector: u16, register: usize) -> Result<Segment, Halt> {
        if selector & !3 == 0 {
            let mut segment = null(selector, &self.seg[register]);
            // In 64-bit mode loading a null selector clears the base that FS and GS had.
            segment.base = 0;
            return Ok(segment);
        }
        let descriptor = self.descriptor(memory, selector, Vector::GP, 0)?;
        let rpl = (selector & 3) as u8;
        let readable = !descriptor.is_code() || descriptor.is_read_write();
        let checks_dpl = !(descriptor.is_code() && descriptor.is_conforming());
        if !descriptor.is_segment()
            || !readable
            || checks_dpl && (rpl > descriptor.dpl() || self.cpl() > descriptor.dpl())
        {
            return self.fault(Vector::GP, Some(error_code(selector)));
        }
        if !descriptor.present() {
            return self.fault(Vector::NP, Some(error_code(selector)));
        }
        Ok(self.set_accessed(memory, selector, descriptor)?.segment(selector))
    }

    /// The stack segment of a selector for code at `cpl`; `bad` and `absent` are the vectors of its faults.
    pub(super) fn stack_segment(
        &mut self,
        memory: &mut Memory,
        selector: u16,
        cpl: u8,
        bad: Vector,
        absent: Vector,
        ext: u32,
    ) -> Result<Segment, Halt> {
        let rpl = (selector & 3) as u8;
        if selector & !3 == 0 {
            if self.code64() && cpl != 3 && rpl == cpl && bad == Vector::GP {
                return Ok(null_stack(selector, cpl));
            }
            return self.fault(bad, Some(ext));
        }
        let descriptor = self.descriptor(memory, selector, bad, ext)?;
        if rpl != cpl
            || !descriptor.is_segment()
            || descriptor.is_code()
            || !descriptor.is_read_write()
            || descriptor.dpl() != cpl
        {
            return self.fault(bad, Some(error_code(selector) | ext));
        }
        if !descriptor.present() {
            return self.fault(absent, Some(error_code(selector) | ext));
        }
        Ok(self.set_accessed(memory, selector, descriptor)?.segment(selector))
    }

    /// Ends a MOV or POP to a segment register: after SS, events wait for one instruction.
    pub(super) fn after_segment_load(&mut self, op: &Op) -> Result<Flow, Halt> {
        if op.reg == Seg::Ss as u8 {
            self.shadow(Interruptibility::MOV_SS);
            return self.checked(op);
        }
        Ok(Flow::Next)
    }

    /// Makes events wait until the next instruction is complete. Two shadows in a row do not add up.
    pub(super) fn shadow(&mut self, what: Interruptibility) {
        if !self.interruptibility.intersects(Interruptibility::STI | Interruptibility::MOV_SS) {
            self.interruptibility.insert(what);
        }
    }

    /// Sets CS for code of `cpl`, and with it the privilege level.
    pub(super) fn set_cs(&mut self, descriptor: Descriptor, selector: u16, cpl: u8) {
        self.seg[Seg::Cs as usize] = descriptor.segment(selector & !3 | u16::from(cpl));
    }

    /// Sets CS, SS and the data segments as virtual-8086 mode has them.
    pub(super) fn set_v86_segment(&mut self, number: usize, selector: u16) {
        self.seg[number] =
            Segment { selector, base: u64::from(selector) << 4, limit: 0xffff, rights: AccessRights::from(0xf3) };
    }

    /// After a return to a less privileged level: data segments that it may not have become null. One whose selector is
    /// null already keeps its base, which 64-bit code uses: a VM entry may make such of FS and GS with a DPL of 0.
    pub(super) fn drop_privileged_segments(&mut self) {
        let cpl = self.cpl();
        for number in [Seg::Es, Seg::Ds, Seg::Fs, Seg::Gs] {
            let segment = &mut self.seg[number as usize];
            let kind = segment.rights.kind();
            let conforming_code = kind & 0b1100 == 0b1100;
            if !segment.rights.unusable() && !conforming_code && segment.rights.dpl() < cpl {
                let base = if segment.selector & !3 == 0 { segment.base } else { 0 };
                *segment = Segment { base, ..null(0, segment) };
            }
        }
    }

    /// Tells the MMU of the registers that translation depends on, after any of them changed.
    pub fn mode_changed(&mut self) {
        self.mmu.set_context(self.cr0, self.cr3, self.cr4, self.efer, &self.pdptes);
        self.mmu.set_pkru(self.regs.pkru);
        self.refresh();
    }

    /// Tells the MMU of the privilege level and RFLAGS.AC, after either changed.
    #[inline]
    pub fn refresh(&mut self) {
        let user = self.cpl() == 3;
        let ac = self.flags.has(Rflags::AC);
        self.mmu.set_privilege(user, ac);
    }
}

/// SS with a null selector, which 64-bit code above privilege level 3 may have.
pub(super) fn null_stack(selector: u16, cpl: u8) -> Segment {
    Segment {
        selector,
        base: 0,
        limit: u32::MAX,
        rights: AccessRights::from(0x1_0000 | 0x4093).with_dpl(cpl).with_granularity(true),
    }
}
