//! The virtual APIC: what the CPU does by itself of a guest's accesses to its local APIC, and the virtual interrupts that
//! come of them.
//!
//! The registers lie in the virtual-APIC page; RVI and SVI are the CPU's own while a guest runs. Whether a virtual
//! interrupt is pending is looked at only where the SDM says so, and remembered until the next exit.
//!
//! See: SDM "APIC Virtualization and Virtual Interrupts".

use super::event::Event;
use super::state::{CodeWrites, Cpu, Halt, Stop, Trap};
use crate::memory::Memory;
use crate::mmu::{Access, Fault};
use crate::vmx::exit::ExitInfo;
use hv_defs::addr::Hpa;
use hv_defs::controls::{ExitControls, PinBased, PrimaryControls, SecondaryControls};
use hv_defs::exit::{EventType, InterruptionInfo, Reason};
use hv_defs::x86::Vector;
use serde::{Deserialize, Serialize};

/// Registers in the virtual-APIC page, by their offset.
const VTPR: u16 = 0x80;
const VPPR: u16 = 0xa0;
const VEOI: u16 = 0xb0;
const VISR: u16 = 0x100;
const VIRR: u16 = 0x200;
const VICR_LOW: u16 = 0x300;
const VICR_HIGH: u16 = 0x310;
const SELF_IPI: u16 = 0x3f0;

/// MSRs of x2APIC mode that the CPU virtualizes by themselves.
const X2APIC_TPR: u32 = 0x808;
const X2APIC_EOI: u32 = 0x80b;
const X2APIC_SELF_IPI: u32 = 0x83f;

/// What VICR_LOW must hold, but for the vector, for an IPI to the sender itself that needs no hypervisor: the shorthand
/// "self" and nothing else, neither in reserved bits nor in the trigger and delivery modes.
const ICR_CHECKED: u32 = 0xffff_b700;
const ICR_SELF: u32 = 0x4_0000;

/// The vector of the host's own timer interrupt.
const HOST_TIMER_VECTOR: u8 = 0xec;

/// The outstanding-notification bit of a posted-interrupt descriptor, in the byte behind the requests.
const DESCRIPTOR_FLAGS: u64 = 32;
const OUTSTANDING: u8 = 1;

/// Interrupts by vector.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Vectors([u64; 4]);

impl Vectors {
    /// Those of a 256-bit field in memory.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        let word = |number: usize| u64::from_le_bytes(core::array::from_fn(|byte| bytes[number * 8 + byte]));
        Self(core::array::from_fn(word))
    }

    /// Adds one.
    pub fn add(&mut self, vector: u8) {
        self.0[usize::from(vector / 64)] |= 1 << (vector % 64);
    }

    fn remove(&mut self, vector: u8) {
        self.0[usize::from(vector / 64)] &= !(1 << (vector % 64));
    }

    /// Whether there is none.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.0 == [0; 4]
    }

    /// The most urgent.
    pub fn highest(&self) -> Option<u8> {
        let word = self.0.iter().rposition(|word| *word != 0)?;
        Some((word * 64 + 63) as u8 - self.0[word].leading_zeros() as u8)
    }
}

/// Where a vector's bit is in one of the 256-bit registers: the offset of its 32 bits, and which of them.
const fn place(register: u16, vector: u8) -> (u16, u32) {
    (register | (vector as u16 & 0xe0) >> 1, 1 << (vector & 31))
}

/// Whether an access may be virtualized at all, by its place: all of it lies in the first four bytes of sixteen.
const fn in_register(offset: u16, bytes: u64) -> bool {
    bytes <= 4 && (offset & 0xf) as u64 + bytes <= 4
}

/// Whether "APIC-register virtualization" has reads of a register virtualized.
const fn is_readable(register: u16) -> bool {
    matches!(
        register,
        0x20 | 0x30 | VTPR | VEOI | 0xd0 | 0xe0 | 0xf0 | 0x100
            ..=0x270 | 0x280 | VICR_LOW | VICR_HIGH | 0x320 | 0x330 | 0x340 | 0x350 | 0x360 | 0x370 | 0x380 | 0x3e0
    )
}

/// Whether it has writes to a register virtualized.
const fn is_writable(register: u16) -> bool {
    is_readable(register) && !matches!(register, 0x30 | 0x100..=0x270)
}

impl Cpu {
    fn register(&self, offset: u16) -> Hpa {
        self.controls.virtual_apic.offset(offset.into())
    }

    fn delivers_virtually(&self) -> bool {
        self.controls.secondary(SecondaryControls::VIRTUAL_INTERRUPT_DELIVERY)
    }

    /// The highest vector in a 256-bit register; 0 for none.
    fn highest(&self, memory: &Memory, register: u16) -> u8 {
        let words =
            (0..8u8).rev().map(|word| (word, memory.read::<u32>(self.register(register + 0x10 * u16::from(word)))));
        let highest = words.into_iter().find(|(_, bits)| *bits != 0);
        highest.map_or(0, |(word, bits)| word * 32 + 31 - bits.leading_zeros() as u8)
    }

    fn put_vector(&self, memory: &mut Memory, register: u16, vector: u8, on: bool) {
        let (offset, bit) = place(register, vector);
        let old = memory.read::<u32>(self.register(offset));
        memory.write(self.register(offset), if on { old | bit } else { old & !bit });
    }

    /// What a VM entry under TPR shadow does for the virtual APIC, once what it injects is delivered.
    /// See: SDM "Updating Non-Register State" and "VM Exits Induced by the TPR Threshold".
    pub fn enter_virtual_apic(&mut self, memory: &mut Memory) {
        if self.delivers_virtually() {
            self.virtualize_ppr(memory);
            self.evaluate(memory);
        } else if self.controls.apic_access.is_some() {
            self.check_threshold(memory);
        }
    }

    /// The guest interrupt status.
    pub fn interrupt_status(&self) -> u16 {
        u16::from_le_bytes([self.rvi, self.svi])
    }

    /// Makes the CPU forget what it had begun for a guest that exits.
    pub(super) fn leave_virtual_apic(&mut self) {
        self.exec.virtual_interrupt = false;
        self.exec.apic_write = None;
    }

    fn check_threshold(&mut self, memory: &Memory) {
        if u32::from(memory.read::<u8>(self.register(VTPR)) >> 4) < self.controls.tpr_threshold & 15 {
            self.exec.after = Some((Reason::TPR_BELOW_THRESHOLD, 0));
        }
    }

    /// The task priority, as CR8 has it.
    pub(super) fn virtual_cr8(&self, memory: &Memory) -> u64 {
        u64::from(memory.read::<u8>(self.register(VTPR)) >> 4)
    }

    /// MOV to CR8 under TPR shadow.
    pub(super) fn set_virtual_cr8(&mut self, memory: &mut Memory, value: u64) {
        memory.write(self.register(VTPR), (value as u32) << 4);
        self.virtualize_tpr(memory);
    }

    fn virtualize_tpr(&mut self, memory: &mut Memory) {
        if self.delivers_virtually() {
            self.virtualize_ppr(memory);
            self.evaluate(memory);
        } else {
            self.check_threshold(memory);
        }
    }

    fn virtualize_ppr(&mut self, memory: &mut Memory) {
        let vtpr = memory.read::<u8>(self.register(VTPR));
        let vppr = if vtpr >> 4 >= self.svi >> 4 { vtpr } else { self.svi & 0xf0 };
        memory.write(self.register(VPPR), u32::from(vppr));
    }

    fn virtualize_eoi(&mut self, memory: &mut Memory) {
        let vector = self.svi;
        self.put_vector(memory, VISR, vector, false);
        self.svi = self.highest(memory, VISR);
        self.virtualize_ppr(memory);
        if self.controls.eoi_exit_bitmap[usize::from(vector / 64)] >> (vector % 64) & 1 != 0 {
            self.exec.after = Some((Reason::VIRTUALIZED_EOI, vector.into()));
        } else {
            self.evaluate(memory);
        }
    }

    fn virtualize_self_ipi(&mut self, memory: &mut Memory, vector: u8) {
        self.put_vector(memory, VIRR, vector, true);
        self.rvi = self.rvi.max(vector);
        self.evaluate(memory);
    }

    /// Evaluation of pending virtual interrupts.
    fn evaluate(&mut self, memory: &Memory) {
        let vppr = memory.read::<u8>(self.register(VPPR));
        self.exec.virtual_interrupt =
            !self.controls.primary(PrimaryControls::INTERRUPT_WINDOW_EXITING) && self.rvi >> 4 > vppr >> 4;
    }

    /// Virtual-interrupt delivery, at a boundary where the guest takes interrupts.
    #[cold]
    pub(super) fn deliver_virtual_interrupt(&mut self, memory: &mut Memory) -> Result<(), Trap> {
        let vector = self.rvi;
        self.exec.virtual_interrupt = false;
        self.put_vector(memory, VISR, vector, true);
        self.svi = vector;
        memory.write(self.register(VPPR), u32::from(vector & 0xf0));
        self.put_vector(memory, VIRR, vector, false);
        self.rvi = self.highest(memory, VIRR);
        let kind = EventType::ExternalInterrupt;
        self.deliver(memory, Event { vector: Vector(vector), kind, error: None, length: 0, detail: 0 })
    }

    /// An external interrupt has come from the host's own local APIC, or from its timer. It is a notification of posted
    /// interrupts, which are taken in, or an exit.
    #[cold]
    pub(super) fn external_interrupt(&mut self, memory: &mut Memory) -> Result<(), Trap> {
        let vector = self.interrupts.highest();
        if self.controls.pin.contains(PinBased::POSTED_INTERRUPTS)
            && vector == Some(self.controls.posted_interrupt_vector)
        {
            self.interrupts.remove(self.controls.posted_interrupt_vector);
            self.process_posted_interrupts(memory);
            return Ok(());
        }
        let mut info = ExitInfo::of(Reason::EXTERNAL_INTERRUPT);
        if self.controls.exit.contains(ExitControls::ACKNOWLEDGE_INTERRUPT) {
            let vector = vector.unwrap_or(HOST_TIMER_VECTOR);
            self.interrupts.remove(vector);
            info.intr_info =
                InterruptionInfo::new().with_vector(vector).with_kind(EventType::ExternalInterrupt).with_valid(true);
        }
        Err(Trap::Exit(Box::new(info)))
    }

    /// See: SDM "Posted-Interrupt Processing".
    fn process_posted_interrupts(&mut self, memory: &mut Memory) {
        let descriptor = self.controls.posted_interrupt_descriptor;
        let flags = memory.read::<u8>(descriptor.offset(DESCRIPTOR_FLAGS));
        memory.write(descriptor.offset(DESCRIPTOR_FLAGS), flags & !OUTSTANDING);
        let mut requests = Vectors::default();
        for (number, word) in (0u16..).zip(&mut requests.0) {
            let at = descriptor.offset(8 * u64::from(number));
            *word = memory.read::<u64>(at);
            memory.write(at, 0u64);
            for (half, bits) in [(0, *word as u32), (0x10, (*word >> 32) as u32)] {
                let register = self.register(VIRR + 0x20 * number + half);
                memory.write(register, memory.read::<u32>(register) | bits);
            }
        }
        self.rvi = self.rvi.max(requests.highest().unwrap_or(0));
        self.evaluate(memory);
    }

    /// Where an access to the APIC-access page goes instead: to the virtual-APIC page, if it is virtualized; else it
    /// exits. The instruction is carried out by itself, so that what comes of a write comes right behind it.
    #[cold]
    pub(super) fn apic_access(&mut self, offset: u16, bytes: u64, access: Access) -> Result<Hpa, Halt> {
        if !self.exec.apart && self.exec.code_writes != CodeWrites::Tell {
            self.exec.stop = Stop::Apart;
            return Err(Halt);
        }
        let again = match (access, self.exec.apic_write) {
            (_, None) => true,
            (Access::Write, Some(before)) => before == (offset, bytes as u8),
            _ => false,
        };
        if again && self.is_virtualized(offset, bytes, access) {
            if access == Access::Write {
                self.exec.apic_write = Some((offset, bytes as u8));
            }
            return Ok(self.register(offset));
        }
        self.translation_fault(Fault::ApicAccess { offset, physical: false }, access)
    }

    /// See: SDM "Virtualizing Reads from the APIC-Access Page" and "Determining Whether a Write Access is Virtualized".
    fn is_virtualized(&self, offset: u16, bytes: u64, access: Access) -> bool {
        if !self.controls.primary(PrimaryControls::TPR_SHADOW) || access == Access::Fetch || !in_register(offset, bytes)
        {
            return false;
        }
        if self.controls.secondary(SecondaryControls::APIC_REGISTER_VIRTUALIZATION) {
            let register = offset & !0xf;
            return if access == Access::Write { is_writable(register) } else { is_readable(register) };
        }
        offset == VTPR || self.delivers_virtually() && matches!(offset, VEOI | VICR_LOW)
    }

    /// What follows an operation that wrote to the virtual-APIC page. See: SDM "APIC-Write Emulation".
    #[cold]
    pub(super) fn emulate_apic_write(&mut self, memory: &mut Memory, offset: u16) {
        let low = memory.read::<u32>(self.register(VICR_LOW));
        match offset & !0xf {
            VTPR => {
                let vtpr = memory.read::<u8>(self.register(VTPR));
                memory.write(self.register(VTPR), u32::from(vtpr));
                self.virtualize_tpr(memory);
            }
            VEOI if self.delivers_virtually() => {
                memory.write(self.register(VEOI), 0u32);
                self.virtualize_eoi(memory);
            }
            VICR_LOW if self.delivers_virtually() && low & ICR_CHECKED == ICR_SELF && low & 0xf0 != 0 => {
                self.virtualize_self_ipi(memory, low as u8);
            }
            VICR_HIGH => {
                let high = memory.read::<u32>(self.register(VICR_HIGH));
                memory.write(self.register(VICR_HIGH), high & 0xff00_0000);
            }
            _ => self.exec.after = Some((Reason::APIC_WRITE, offset.into())),
        }
    }

    /// RDMSR of an MSR of x2APIC mode that "virtualize x2APIC mode" answers; `None` for one that it does not.
    /// See: SDM "Virtualizing MSR-Based APIC Accesses".
    pub(super) fn virtual_msr(&self, memory: &Memory, number: u32) -> Option<u64> {
        let all = self.controls.secondary(SecondaryControls::APIC_REGISTER_VIRTUALIZATION);
        (all || number == X2APIC_TPR).then(|| memory.read::<u64>(self.register((number as u16 & 0xff) << 4)))
    }

    /// WRMSR, likewise; `None` also for a value that the register does not take.
    pub(super) fn set_virtual_msr(&mut self, memory: &mut Memory, number: u32, value: u64) -> Option<()> {
        match number {
            X2APIC_TPR if value >> 8 == 0 => {
                memory.write(self.register(VTPR), value);
                self.virtualize_tpr(memory);
            }
            X2APIC_EOI if value == 0 && self.delivers_virtually() => {
                memory.write(self.register(VEOI), value);
                self.virtualize_eoi(memory);
            }
            X2APIC_SELF_IPI if value >> 8 == 0 && self.delivers_virtually() => {
                memory.write(self.register(SELF_IPI), value);
                if value >> 4 == 0 {
                    self.exec.after = Some((Reason::APIC_WRITE, SELF_IPI.into()));
                } else {
                    self.virtualize_self_ipi(memory, value as u8);
                }
            }
            _ => return None,
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_urgent_vector_is_the_highest() {
        let mut vectors = Vectors::default();
        assert!(vectors.is_empty() && vectors.highest().is_none());
        for (vector, expected) in [(0, 0), (63, 63), (32, 63), (64, 64), (255, 255)] {
            vectors.add(vector);
            assert_eq!(vectors.highest(), Some(expected));
        }
        vectors.remove(255);
        assert_eq!(vectors.highest(), Some(64));
    }

    #[test]
    fn a_vector_has_its_bit_in_every_second_16_bytes() {
        assert_eq!(place(VISR, 0), (0x100, 1));
        assert_eq!(place(VIRR, 0x41), (0x220, 2));
        assert_eq!(place(VIRR, 255), (0x270, 1 << 31));
    }

    #[test]
    fn registers_are_four_bytes_of_sixteen() {
        assert!(in_register(0x80, 4) && in_register(0x83, 1) && in_register(0x82, 2));
        assert!(!in_register(0x82, 4) && !in_register(0x84, 1) && !in_register(0x80, 8));
    }
}
