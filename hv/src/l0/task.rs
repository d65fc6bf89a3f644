//! Task switches of L1's own, which silicon leaves to its hypervisor: the old task's state goes to its task-state segment,
//! the new task's comes from its own. See: SDM "Task Switching" and "Treatment of Task Switches".
//!
//! Silicon has checked the selector and the descriptor of the new task-state segment. Not here: switches of an L2, which
//! go to L1.

use super::cx::Cx;
use super::exit::{Exit, is_software};
use super::next::{Fault, Next, unsupported};
use super::paging::{Failure, Use};
use super::start::Segment;
use crate::silicon::{Register, Silicon};
use hv_defs::controls::Interruptibility;
use hv_defs::exit::TaskSwitch;
use hv_defs::vmcs::{self, Field};
use hv_defs::x86::{AccessRights, Cr0, Cr4, Rflags, Vector};

/// Where a switch comes from.
const IRET: u8 = 1;
const JMP: u8 = 2;
const GATE: u8 = 3;

/// The busy bit of a task-state segment's type.
const BUSY: u8 = 2;

/// A segment's selector, base, limit and access rights in the VMCS.
type Fields = (Field<u16>, Field<u64>, Field<u32>, Field<u32>);

macro_rules! fields {
    ($($selector:ident $base:ident $limit:ident $rights:ident;)*) => {
        [$((vmcs::$selector, vmcs::$base, vmcs::$limit, vmcs::$rights)),*]
    };
}

/// ES, CS, SS, DS, FS, GS.
const SEGMENTS: [Fields; 6] = fields! {
    GUEST_ES_SELECTOR GUEST_ES_BASE GUEST_ES_LIMIT GUEST_ES_ACCESS_RIGHTS;
    GUEST_CS_SELECTOR GUEST_CS_BASE GUEST_CS_LIMIT GUEST_CS_ACCESS_RIGHTS;
    GUEST_SS_SELECTOR GUEST_SS_BASE GUEST_SS_LIMIT GUEST_SS_ACCESS_RIGHTS;
    GUEST_DS_SELECTOR GUEST_DS_BASE GUEST_DS_LIMIT GUEST_DS_ACCESS_RIGHTS;
    GUEST_FS_SELECTOR GUEST_FS_BASE GUEST_FS_LIMIT GUEST_FS_ACCESS_RIGHTS;
    GUEST_GS_SELECTOR GUEST_GS_BASE GUEST_GS_LIMIT GUEST_GS_ACCESS_RIGHTS;
};
const CS: usize = 1;
const SS: usize = 2;

const LDTR: Fields =
    (vmcs::GUEST_LDTR_SELECTOR, vmcs::GUEST_LDTR_BASE, vmcs::GUEST_LDTR_LIMIT, vmcs::GUEST_LDTR_ACCESS_RIGHTS);
const TR: Fields = (vmcs::GUEST_TR_SELECTOR, vmcs::GUEST_TR_BASE, vmcs::GUEST_TR_LIMIT, vmcs::GUEST_TR_ACCESS_RIGHTS);

/// Where things lie in a task-state segment of 32 or of 16 bits. See: SDM "Task-State Segment (TSS)".
struct Layout {
    /// Bytes of a register.
    word: usize,
    /// Bytes in all.
    bytes: usize,
    rip: usize,
    flags: usize,
    gpr: usize,
    /// The first selector, and the bytes from one to the next; how many there are.
    selectors: (usize, usize, usize),
    ldt: usize,
}

const WIDE: Layout = Layout { word: 4, bytes: 104, rip: 32, flags: 36, gpr: 40, selectors: (72, 4, 6), ldt: 96 };
const NARROW: Layout = Layout { word: 2, bytes: 44, rip: 14, flags: 16, gpr: 18, selectors: (34, 2, 4), ldt: 42 };
/// CR3 and the debug-trap flag, in 32 bits alone.
const CR3: usize = 28;
const TRAP: usize = 100;

/// The layout of a type of task-state segment.
fn layout(kind: u8) -> &'static Layout {
    if kind & 8 != 0 { &WIDE } else { &NARROW }
}

fn word(image: &[u8], at: usize, bytes: usize) -> u64 {
    let mut value = [0; 8];
    value[..bytes].copy_from_slice(&image[at..at + bytes]);
    u64::from_le_bytes(value)
}

/// #TS for a selector of the new task.
fn ts(selector: u16) -> Fault {
    Fault { vector: Vector::TS, error_code: Some(u32::from(selector & !3)), address: None }
}

/// A descriptor of eight bytes as a segment register.
fn segment(descriptor: u64, selector: u16) -> Segment {
    let limit = (descriptor & 0xffff | descriptor >> 32 & 0xf_0000) as u32;
    Segment {
        selector,
        base: descriptor >> 16 & 0xff_ffff | descriptor >> 32 & 0xff00_0000,
        limit: if descriptor >> 55 & 1 != 0 { limit << 12 | 0xfff } else { limit },
        rights: AccessRights::from_bits((descriptor >> 40 & 0xf0ff) as u32),
    }
}

/// A register that may not be used.
fn unusable(selector: u16) -> Segment {
    Segment { selector, base: 0, limit: 0, rights: AccessRights::from_bits(0x1_0000) }
}

impl<S: Silicon> Cx<'_, S> {
    /// A task switch of L1's. What was being delivered is delivered by it.
    pub(super) fn handle_task_switch(&mut self, exit: &mut Exit) -> Next {
        let next = match self.switch_task(exit) {
            Ok(next) => next,
            Err(Failure::Fault(fault)) => return Next::Raise(fault),
            Err(Failure::Ept12(at)) => return unsupported(format!("a task switch at {:#x} beyond memory", at.0)),
        };
        exit.idt = exit.idt.with_valid(false);
        next
    }

    fn put_segment(&mut self, to: Fields, from: &Segment) {
        self.set(to.0, from.selector);
        self.set(to.1, from.base);
        self.set(to.2, from.limit);
        self.set(to.3, from.rights.into_bits());
    }

    fn switch_task(&mut self, exit: &Exit) -> Result<Next, Failure> {
        let access = TaskSwitch::from_bits(exit.qualification);
        let (selector, source) = (access.selector(), access.source());
        let at = self.get(vmcs::GUEST_GDTR_BASE).wrapping_add(u64::from(selector & !7)) & 0xffff_ffff;
        let mut bytes = [0; 8];
        self.read_linear(at, &mut bytes, Use::READ)?;
        let new = segment(u64::from_le_bytes(bytes), selector);
        let (old_selector, old_base) = (self.get(TR.0), self.get(TR.1));
        let old_kind = AccessRights::from_bits(self.get(TR.3)).kind();
        let (into, from) = (layout(new.rights.kind()), layout(old_kind));

        let hardware = source == GATE && exit.idt.valid() && !is_software(exit.idt.kind());
        let rip = if hardware { exit.rip } else { exit.rip.wrapping_add(u64::from(exit.length)) };
        let mut flags = self.get(vmcs::GUEST_RFLAGS);
        if source == IRET {
            flags &= !Rflags::NT.bits();
        }
        let mut image = [0; WIDE.bytes];
        let image = &mut image[..into.bytes];
        self.read_linear(new.base, image, Use::READ)?;
        self.save_task(old_base, from, rip, flags)?;
        if source == IRET || source == JMP {
            self.set_busy(old_selector, false)?;
        }
        let nested = source != IRET && source != JMP;
        if nested {
            self.write_linear(new.base, &old_selector.to_le_bytes(), Use::WRITE)?;
        }
        if source != IRET {
            self.set_busy(selector, true)?;
        }
        Ok(self.load_task(exit, new, image, nested, source == GATE))
    }

    /// Writes the running task's state to its task-state segment.
    fn save_task(&mut self, base: u64, layout: &Layout, rip: u64, flags: u64) -> Result<(), Failure> {
        let mut words = vec![rip, flags];
        words.extend((0..8).map(|number| self.gpr(number)));
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()[..layout.word].to_vec()).collect();
        self.write_linear(base.wrapping_add(layout.rip as u64), &bytes, Use::WRITE)?;
        let (first, step, count) = layout.selectors;
        for (number, fields) in SEGMENTS.into_iter().enumerate().take(count) {
            let selector = self.get(fields.0);
            let at = base.wrapping_add((first + number * step) as u64);
            self.write_linear(at, &selector.to_le_bytes(), Use::WRITE)?;
        }
        Ok(())
    }

    /// Sets or clears the busy bit of a task's descriptor.
    fn set_busy(&mut self, selector: u16, busy: bool) -> Result<(), Failure> {
        let at = self.get(vmcs::GUEST_GDTR_BASE).wrapping_add(u64::from(selector & !7) + 5) & 0xffff_ffff;
        let mut kind = [0];
        self.read_linear(at, &mut kind, Use::READ)?;
        let kind = if busy { kind[0] | BUSY } else { kind[0] & !BUSY };
        self.write_linear(at, &[kind], Use::WRITE)
    }

    /// Loads the new task. From here on faults are the new task's own.
    fn load_task(&mut self, exit: &Exit, new: Segment, image: &[u8], nested: bool, gate: bool) -> Next {
        let layout = layout(new.rights.kind());
        let wide = layout.word == 4;
        self.put_segment(TR, &Segment { rights: new.rights.with_kind(new.rights.kind() | BUSY), ..new });
        for field in [vmcs::GUEST_CR0, vmcs::CR0_READ_SHADOW] {
            let value = self.get(field) | Cr0::TS.bits();
            self.update(field, value);
        }
        let paging = self.l1_cr0() & Cr0::PG.bits() != 0;
        if wide && paging {
            let cr3 = word(image, CR3, 4);
            if self.get(vmcs::GUEST_CR4) & Cr4::PAE.bits() != 0 && !self.load_pdptes(cr3) {
                return Next::Raise(ts(new.selector));
            }
            self.update(vmcs::GUEST_CR3, cr3);
            self.flush_guest_linear();
        }
        let mut flags = word(image, layout.flags, layout.word) | Rflags::ONE.bits();
        if nested {
            flags |= Rflags::NT.bits();
        }
        flags &= Rflags::all().bits() & if wide { u64::MAX } else { 0xffff };
        self.set(vmcs::GUEST_RIP, word(image, layout.rip, layout.word));
        self.set(vmcs::GUEST_RFLAGS, flags);
        for number in 0..8u8 {
            self.set_gpr(number, word(image, layout.gpr + usize::from(number) * layout.word, layout.word));
        }
        let blocking = Interruptibility::from_bits_retain(self.get(vmcs::GUEST_INTERRUPTIBILITY));
        let blocking = blocking - (Interruptibility::STI | Interruptibility::MOV_SS);
        self.update(vmcs::GUEST_INTERRUPTIBILITY, blocking.bits());
        let (first, step, count) = layout.selectors;
        let mut selectors = [0; 6];
        for (number, selector) in selectors.iter_mut().enumerate().take(count) {
            *selector = word(image, first + number * step, 2) as u16;
        }
        let loaded = self.load_task_segments(word(image, layout.ldt, 2) as u16, selectors, flags);
        let pushed = loaded.and_then(|()| if gate { self.push_error(exit, layout.word) } else { Ok(()) });
        match pushed {
            Err(Failure::Fault(fault)) => return Next::Raise(fault),
            Err(Failure::Ept12(at)) => return unsupported(format!("a task at {:#x} beyond memory", at.0)),
            Ok(()) => {}
        }
        if wide && image[TRAP] & 1 != 0 {
            // DR6.BT tells why.
            let dr6 = self.silicon.register(self.cpu, Register::Dr6);
            self.silicon.set_register(self.cpu, Register::Dr6, dr6 | 1 << 15);
            return Next::Raise(Fault { vector: Vector::DB, error_code: None, address: None });
        }
        Next::Resume
    }

    fn load_task_segments(&mut self, ldt: u16, selectors: [u16; 6], flags: u64) -> Result<(), Failure> {
        let descriptor = match ldt & !3 {
            0 => unusable(ldt),
            _ => self.task_descriptor(ldt).map_err(Failure::Fault)?,
        };
        let rights = descriptor.rights;
        let good =
            rights.unusable() || ldt & 4 == 0 && !rights.code_or_data() && rights.kind() == 2 && rights.present();
        self.put_segment(LDTR, &if good { descriptor } else { unusable(ldt) });
        if !good {
            return Err(Failure::Fault(ts(ldt)));
        }
        if flags & Rflags::VM.bits() != 0 {
            for (fields, selector) in SEGMENTS.into_iter().zip(selectors) {
                let base = u64::from(selector) << 4;
                let rights = AccessRights::from_bits(0xf3);
                self.put_segment(fields, &Segment { selector, base, limit: 0xffff, rights });
            }
            return Ok(());
        }
        let cpl = (selectors[CS] & 3) as u8;
        // CS and SS first: they are what the others' privileges are compared with.
        for number in [CS, SS, 0, 3, 4, 5] {
            let loaded = self.task_segment(selectors[number], number, cpl).map_err(Failure::Fault)?;
            self.put_segment(SEGMENTS[number], &loaded);
        }
        Ok(())
    }

    /// The descriptor of a selector of the new task.
    fn task_descriptor(&mut self, selector: u16) -> Result<Segment, Fault> {
        let (base, limit) = if selector & 4 == 0 {
            (self.get(vmcs::GUEST_GDTR_BASE), self.get(vmcs::GUEST_GDTR_LIMIT))
        } else if AccessRights::from_bits(self.get(LDTR.3)).unusable() {
            return Err(ts(selector));
        } else {
            (self.get(LDTR.1), self.get(LDTR.2))
        };
        if u32::from(selector | 7) > limit {
            return Err(ts(selector));
        }
        let mut bytes = [0; 8];
        let at = base.wrapping_add(u64::from(selector & !7)) & 0xffff_ffff;
        match self.read_linear(at, &mut bytes, Use::READ) {
            Ok(()) => Ok(segment(u64::from_le_bytes(bytes), selector)),
            Err(Failure::Fault(fault)) => Err(fault),
            Err(Failure::Ept12(_)) => Err(ts(selector)),
        }
    }

    /// The segment register of that number for the new task, checked and with its accessed bit set.
    fn task_segment(&mut self, selector: u16, number: usize, cpl: u8) -> Result<Segment, Fault> {
        let wrong = ts(selector);
        if selector & !3 == 0 {
            return if number == CS || number == SS { Err(wrong) } else { Ok(unusable(selector)) };
        }
        let found = self.task_descriptor(selector)?;
        let (rights, rpl) = (found.rights, (selector & 3) as u8);
        let (kind, dpl) = (rights.kind(), rights.dpl());
        let (code, conforming, read_write) = (kind & 8 != 0, kind & 12 == 12, kind & 2 != 0);
        let fits = match number {
            CS => code && if conforming { dpl <= rpl } else { dpl == rpl },
            SS => !code && read_write && dpl == cpl && rpl == cpl,
            _ => (!code || read_write) && (conforming || dpl >= cpl.max(rpl)),
        };
        if !rights.code_or_data() || !fits {
            return Err(wrong);
        }
        if !rights.present() {
            let vector = if number == SS { Vector::SS } else { Vector::NP };
            return Err(Fault { vector, ..wrong });
        }
        let table = if selector & 4 == 0 { self.get(vmcs::GUEST_GDTR_BASE) } else { self.get(LDTR.1) };
        let at = table.wrapping_add(u64::from(selector & !7) + 5) & 0xffff_ffff;
        let accessed = rights.with_kind(kind | 1);
        match self.write_linear(at, &[accessed.into_bits() as u8], Use::WRITE) {
            Err(Failure::Fault(fault)) => Err(fault),
            _ => Ok(Segment { rights: accessed, ..found }),
        }
    }

    /// Pushes the error code of the exception whose gate led here.
    fn push_error(&mut self, exit: &Exit, bytes: usize) -> Result<(), Failure> {
        if !exit.idt.valid() || !exit.idt.has_error_code() {
            return Ok(());
        }
        let big = AccessRights::from_bits(self.get(SEGMENTS[SS].3)).big();
        let mask = if big { 0xffff_ffff } else { 0xffff };
        let rsp = self.gpr(4);
        let top = rsp.wrapping_sub(bytes as u64) & mask;
        let at = self.get(SEGMENTS[SS].1).wrapping_add(top) & 0xffff_ffff;
        let user = self.cpl() == 3;
        self.write_linear(at, &exit.idt_error.to_le_bytes()[..bytes], Use { user, ..Use::WRITE })?;
        self.set_gpr(4, rsp & !mask | top);
        Ok(())
    }
}
