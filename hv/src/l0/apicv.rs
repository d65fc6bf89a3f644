//! The virtual APIC that L1 gives L2. While L2 runs, silicon serves it from L1's own pages, by vmcs12's controls; here is
//! what L0 adds: which of these controls vmcs02 has, the MSRs of x2APIC mode that L2 reaches by itself, a virtual interrupt
//! that ends L2's HLT, and posted interrupts.
//!
//! Posted interrupts L0 takes in by itself, whenever their notification comes: a vCPU's interrupts come between its turns
//! and never while silicon runs it.
//!
//! See: SDM "APIC Virtualization and Virtual Interrupts".

use super::cx::Cx;
use super::exit::Exit;
use super::vmcs02::Tally;
use crate::cpu::Vectors;
use crate::silicon::Silicon;
use hv_defs::addr::{Gpa, Hpa, PAGE_SIZE};
use hv_defs::controls::{PinBased, PrimaryControls, SecondaryControls};
use hv_defs::exit::{ApicAccess, EptViolation, ExitReason, Reason};
use hv_defs::vmcs;

/// Controls that silicon does not take without TPR shadow.
const NEEDS_TPR_SHADOW: SecondaryControls = SecondaryControls::VIRTUALIZE_X2APIC
    .union(SecondaryControls::APIC_REGISTER_VIRTUALIZATION)
    .union(SecondaryControls::VIRTUAL_INTERRUPT_DELIVERY);

/// Where registers are in the virtual-APIC page.
const VTPR: u64 = 0x80;
const VIRR: u64 = 0x200;

/// Where in an MSR bitmap the 256 MSRs of x2APIC mode are: 32 bytes for reads, as many for writes.
const READS: u64 = 0x800 / 8;
const WRITES: u64 = 0x800 + READS;
/// The MSRs that silicon virtualizes by themselves, by number in that range.
const TPR: usize = 0x08;
const EOI: usize = 0x0b;
const SELF_IPI: usize = 0x3f;

/// Bits of the MSR bitmap for the MSRs of x2APIC mode: reads, then writes. A one exits.
pub(super) type X2apicBits = [u8; 64];

/// What silicon virtualizes under vmcs02's controls, as zeros.
fn virtualized(secondary: SecondaryControls) -> X2apicBits {
    let mut bits = [0xff; 64];
    let mut pass = |place: usize| bits[place / 8] &= !(1 << (place % 8));
    if !secondary.contains(SecondaryControls::VIRTUALIZE_X2APIC) {
        return bits;
    }
    for place in [TPR, 256 + TPR] {
        pass(place);
    }
    if secondary.contains(SecondaryControls::VIRTUAL_INTERRUPT_DELIVERY) {
        for place in [256 + EOI, 256 + SELF_IPI] {
            pass(place);
        }
    }
    if secondary.contains(SecondaryControls::APIC_REGISTER_VIRTUALIZATION) {
        bits[..32].fill(0);
    }
    bits
}

impl<S: Silicon> Cx<'_, S> {
    /// Writes the addresses of L1's virtual-APIC and APIC-access pages into vmcs02, and takes away the controls whose page
    /// is none of L1's RAM: nothing can be kept there, and L0 has the accesses exit.
    pub(super) fn put_apic_pages(
        &mut self,
        tally: &mut Tally,
        primary: &mut PrimaryControls,
        secondary: &mut SecondaryControls,
    ) {
        if primary.contains(PrimaryControls::TPR_SHADOW) {
            match self.ram(self.virtual_apic(), PAGE_SIZE) {
                Some(hpa) => self.put(tally, vmcs::VIRTUAL_APIC_ADDRESS, hpa.0),
                None => {
                    primary.remove(PrimaryControls::TPR_SHADOW);
                    *primary |= PrimaryControls::CR8_LOAD_EXITING | PrimaryControls::CR8_STORE_EXITING;
                    secondary.remove(NEEDS_TPR_SHADOW);
                }
            }
        }
        if secondary.contains(SecondaryControls::VIRTUALIZE_APIC_ACCESSES) {
            match self.ram(Gpa(self.vcpu.vmcs12.get(vmcs::APIC_ACCESS_ADDRESS)), PAGE_SIZE) {
                Some(hpa) => self.put(tally, vmcs::APIC_ACCESS_ADDRESS, hpa.0),
                None => secondary.remove(SecondaryControls::VIRTUALIZE_APIC_ACCESSES),
            }
        }
    }

    fn virtual_apic(&self) -> Gpa {
        Gpa(self.vcpu.vmcs12.get(vmcs::VIRTUAL_APIC_ADDRESS))
    }

    /// Lets the MSRs of x2APIC mode pass that silicon virtualizes under vmcs02's controls, where L1's bitmap does, in the
    /// bitmap of a slot of the pool. `theirs` is L1's bitmap, if there is one.
    pub(super) fn merge_x2apic(&mut self, slot: usize, theirs: Option<Hpa>) {
        let secondary = self.get(vmcs::SECONDARY_CONTROLS);
        let used = secondary.contains(SecondaryControls::VIRTUALIZE_X2APIC);
        if !used && self.vcpu.pool.slots[slot].x2apic.is_none() {
            return;
        }
        let mut bits = virtualized(secondary);
        let mut wanted = [0xff; 64];
        if let Some(theirs) = theirs.filter(|_| used) {
            let (reads, writes) = wanted.split_at_mut(32);
            self.silicon.read(theirs.offset(READS), reads);
            self.silicon.read(theirs.offset(WRITES), writes);
        }
        for (bits, wanted) in bits.iter_mut().zip(wanted) {
            *bits |= wanted;
        }
        let slot = &mut self.vcpu.pool.slots[slot];
        if slot.x2apic.as_deref().unwrap_or(&[0xff; 64]) != &bits {
            self.silicon.write(slot.bitmap.offset(READS), &bits[..32]);
            self.silicon.write(slot.bitmap.offset(WRITES), &bits[32..]);
            slot.x2apic = Some(Box::new(bits));
        }
    }

    /// L2's guest interrupt status comes back into vmcs12, as its vmcs02 has it.
    pub(super) fn sync_interrupt_status(&mut self) {
        if self.delivers_virtually() {
            let status = self.get(vmcs::GUEST_INTERRUPT_STATUS);
            self.vcpu.vmcs12.report(vmcs::GUEST_INTERRUPT_STATUS, status);
        }
    }

    fn delivers_virtually(&self) -> bool {
        self.secondary12().contains(SecondaryControls::VIRTUAL_INTERRUPT_DELIVERY)
    }

    /// Whether an interrupt for L1, while L2 runs, tells of interrupts that are posted for L2.
    pub(super) fn is_notification(&self, vector: u8) -> bool {
        let vmcs12 = &self.vcpu.vmcs12;
        vmcs12.get(vmcs::PIN_BASED_CONTROLS).contains(PinBased::POSTED_INTERRUPTS)
            && vmcs12.get(vmcs::POSTED_INTERRUPT_VECTOR) == u16::from(vector)
    }

    /// Does what silicon does with such an interrupt. See: SDM "Posted-Interrupt Processing".
    pub(super) fn take_notification(&mut self) {
        self.bus.dismiss(self.vcpu.id, self.at.instruction);
        let descriptor = Gpa(self.vcpu.vmcs12.get(vmcs::POSTED_INTERRUPT_DESCRIPTOR_ADDRESS));
        let mut bytes = [0; 33];
        self.read_gpa(descriptor, &mut bytes);
        let requests = Vectors::from_bytes(core::array::from_fn(|byte| bytes[byte]));
        let mut emptied = [0; 33];
        emptied[32] = bytes[32] & !1;
        self.write_gpa(descriptor, &emptied);
        let virtual_apic = self.virtual_apic();
        for number in 0..8 {
            let posted = &bytes[number * 4..number * 4 + 4];
            let at = virtual_apic.offset(VIRR + 0x10 * number as u64);
            let mut register = [0; 4];
            self.read_gpa(at, &mut register);
            for (register, posted) in register.iter_mut().zip(posted) {
                *register |= posted;
            }
            self.write_gpa(at, &register);
        }
        if let Some(highest) = requests.highest() {
            let [rvi, svi] = self.get(vmcs::GUEST_INTERRUPT_STATUS).to_le_bytes();
            self.update(vmcs::GUEST_INTERRUPT_STATUS, u16::from_le_bytes([rvi.max(highest), svi]));
        }
    }

    /// Ends L2's HLT, or its like, if a virtual interrupt waits for it that it takes. Returns whether it did.
    pub(super) fn wake_by_virtual_interrupt(&mut self) -> bool {
        if self.vcpu.level != 2 || !self.delivers_virtually() || !self.takes_interrupts() {
            return false;
        }
        let primary = self.vcpu.vmcs12.get(vmcs::PRIMARY_CONTROLS);
        if primary.contains(PrimaryControls::INTERRUPT_WINDOW_EXITING) {
            return false;
        }
        let mut vtpr = [0];
        self.read_gpa(self.virtual_apic().offset(VTPR), &mut vtpr);
        let [rvi, svi] = self.get(vmcs::GUEST_INTERRUPT_STATUS).to_le_bytes();
        let wakes = rvi >> 4 > vtpr[0].max(svi) >> 4;
        if wakes {
            self.vcpu.waits = None;
        }
        wakes
    }

    /// L2 has reached an L1-physical address that is no RAM: if that is vmcs12's APIC-access page, which silicon knows
    /// nothing of then, the exit becomes what it would have been. Returns whether it is.
    pub(super) fn became_apic_access(&mut self, exit: &mut Exit, at: Gpa) -> bool {
        if !self.secondary12().contains(SecondaryControls::VIRTUALIZE_APIC_ACCESSES)
            || self.vcpu.vmcs12.get(vmcs::APIC_ACCESS_ADDRESS) != at.page().0
        {
            return false;
        }
        let violation = EptViolation::from_bits(exit.qualification);
        let linear = violation.gla_valid() && violation.gla_translated();
        let kind = match (linear, exit.idt.valid()) {
            (true, true) => 3,
            (true, false) if violation.fetch() => 2,
            (true, false) => u8::from(violation.write()),
            (false, true) => 10,
            (false, false) => 15,
        };
        let access = ApicAccess::new().with_offset(at.page_offset() as u16).with_kind(kind);
        let length = match kind {
            0 | 1 => self.decode().map_or(0, |instruction| instruction.len() as u32),
            _ => exit.length,
        };
        *exit = Exit {
            reason: ExitReason::of(Reason::APIC_ACCESS),
            qualification: access.into_bits(),
            length,
            gpa: 0,
            gla: 0,
            ..*exit
        };
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_msrs_that_silicon_virtualizes() {
        let (x2apic, all, delivery) = (
            SecondaryControls::VIRTUALIZE_X2APIC,
            SecondaryControls::APIC_REGISTER_VIRTUALIZATION,
            SecondaryControls::VIRTUAL_INTERRUPT_DELIVERY,
        );
        let passing = |controls| {
            let bits = virtualized(controls);
            let passes = |from: usize| (from..from + 256).filter(|place| bits[place / 8] >> (place % 8) & 1 == 0);
            (passes(0).collect::<Vec<_>>(), passes(256).map(|place| place - 256).collect::<Vec<_>>())
        };
        assert_eq!(passing(all | delivery), (vec![], vec![]));
        assert_eq!(passing(x2apic), (vec![8], vec![8]));
        assert_eq!(passing(x2apic | delivery), (vec![8], vec![8, 0xb, 0x3f]));
        assert_eq!(passing(x2apic | all), ((0..256).collect(), vec![8]));
    }
}
