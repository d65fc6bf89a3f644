//! Silicon that looks at what L0 asks of it: before every entry, whether the VMCS and the EPT that are about to be used
//! let a guest reach what is not L1's; and how much L0 does between two entries.
//!
//! For tests, and for whoever has L0 run on answers that no silicon gave: what L0 must not do is asserted.

use crate::l0::L0_MEMORY;
use crate::silicon::{Outcome, Pcpu, Refused, Register, Registers, Silicon, SiliconExt};
use crate::soft::SoftSilicon;
use hv_defs::addr::{Hpa, PAGE_SIZE};
use hv_defs::controls::{EntryControls, ExitControls, PinBased, PrimaryControls, SecondaryControls};
use hv_defs::ept::{EptEntry, Eptp, InveptDescriptor, InveptType, InvvpidDescriptor, InvvpidType};
use hv_defs::vmcs::{self, Class, Field, TABLE, VmcsField};
use std::collections::{BTreeMap, BTreeSet};

/// Calls across the border that L0 may make for one exit. The most that it has reason to make are the reads of the tables of
/// every EPT02 when its memory is used up, and 512 entries of each of three MSR areas.
const CALLS: u64 = 20_000;

/// Entries between two looks at every TLB.
const TLB_LOOKS: u64 = 512;

/// Silicon with an eye on L0.
#[derive(Debug)]
pub struct Watched<S> {
    /// The silicon.
    pub silicon: S,
    /// Whether it looks at all: silicon that is not watched is asked as it is.
    looks: bool,
    /// The host-physical addresses that a CPU has cached translations to, where they can be told.
    cached: Option<fn(&mut S, Pcpu) -> Vec<u64>>,
    /// Bytes of L1's RAM.
    ram: u64,
    /// Calls since the last entry, and the most that there were.
    calls: u64,
    /// The most calls that L0 made for one exit.
    pub most_calls: u64,
    /// How often L0 wrote its own memory.
    epoch: u64,
    /// By EPT pointer: the epoch at which it was walked, and the tables that it has.
    walked: BTreeMap<u64, (u64, BTreeSet<u64>)>,
    /// VMCS regions of L0's.
    regions: BTreeSet<u64>,
    /// Pages of L0's that silicon reads for it: bitmaps.
    bitmaps: BTreeSet<u64>,
    /// Host state, by row, as vmcs01 had it.
    host: Option<Vec<u64>>,
    host_rows: Vec<usize>,
    /// The MSR bitmap of vmcs01.
    own_bitmap: Option<u64>,
    /// Entries so far.
    pub entries: u64,
    /// Leaves of EPTs that were looked at.
    pub leaves: u64,
    /// Entries with a control of L0's choice, by name: what a run has come to.
    pub features: BTreeMap<&'static str, u64>,
}

impl Watched<SoftSilicon> {
    /// The software CPU with an eye on L0, and on what its TLBs hold. `ram` are the bytes of L1's RAM.
    pub fn soft(silicon: SoftSilicon, ram: u64) -> Self {
        let cached = |soft: &mut SoftSilicon, cpu: Pcpu| soft.mmu(cpu).cached().map(|entry| entry.target.0).collect();
        Self { cached: Some(cached), ..Self::new(silicon, ram) }
    }
}

impl<S: Silicon> Watched<S> {
    /// Any silicon with an eye on L0. `ram` are the bytes of L1's RAM.
    pub fn new(silicon: S, ram: u64) -> Self {
        Self {
            silicon,
            looks: true,
            cached: None,
            ram,
            calls: 0,
            most_calls: 0,
            epoch: 0,
            walked: BTreeMap::new(),
            regions: BTreeSet::new(),
            bitmaps: BTreeSet::new(),
            host: None,
            host_rows: (0..TABLE.len()).filter(|row| TABLE[*row].field.class() == Class::Host).collect(),
            own_bitmap: None,
            entries: 0,
            leaves: 0,
            features: BTreeMap::new(),
        }
    }

    /// The same, with its eye shut if `watched` is false.
    pub fn if_watched(self, watched: bool) -> Self {
        Self { looks: watched, ..self }
    }

    fn is_ram(&self, at: u64, bytes: u64) -> bool {
        at >= L0_MEMORY && at - L0_MEMORY <= self.ram && self.ram - (at - L0_MEMORY) >= bytes
    }

    fn is_own(at: u64) -> bool {
        (PAGE_SIZE..L0_MEMORY).contains(&at) && at.is_multiple_of(PAGE_SIZE)
    }

    /// A page of L0's own.
    fn page(&mut self, at: u64) -> [u8; 4096] {
        let mut bytes = [0; 4096];
        self.silicon.read(Hpa(at), &mut bytes);
        bytes
    }

    fn called(&mut self) {
        self.calls += 1;
        assert!(!self.looks || self.calls <= CALLS, "L0 works without end on one exit");
    }

    fn seen(&mut self, what: &'static str) {
        *self.features.entry(what).or_default() += 1;
    }

    /// A page that silicon reads for L0: one of L0's own that is nothing else.
    fn own_page(&mut self, cpu: Pcpu, field: Field<u64>) -> u64 {
        let at = self.silicon.get(cpu, field);
        assert!(Self::is_own(at), "{:?} is {at:#x}: no page of L0's", field.field());
        assert!(!self.regions.contains(&at), "{:?} is {at:#x}, which is a VMCS", field.field());
        self.bitmaps.insert(at);
        at
    }

    /// A page that silicon writes for the guest: RAM of L1's, or one of L0's own that is nothing else.
    fn guest_page(&mut self, cpu: Pcpu, field: Field<u64>) {
        let at = self.silicon.get(cpu, field);
        assert!(at.is_multiple_of(PAGE_SIZE), "{:?} is {at:#x}: not aligned", field.field());
        if self.is_ram(at, PAGE_SIZE) {
            return;
        }
        let tables = self.walked.values().any(|(_, tables)| tables.contains(&at));
        let used = tables || self.regions.contains(&at) || self.bitmaps.contains(&at);
        assert!(
            Self::is_own(at) && !used,
            "{:?} is {at:#x}: neither RAM of L1's nor a page that L0 set apart",
            field.field()
        );
    }

    /// The VMCS that is about to be entered.
    fn look(&mut self, cpu: Pcpu) {
        let pin = self.silicon.get(cpu, vmcs::PIN_BASED_CONTROLS);
        let primary = self.silicon.get(cpu, vmcs::PRIMARY_CONTROLS);
        let secondary = self.silicon.get(cpu, vmcs::SECONDARY_CONTROLS);
        let exit = self.silicon.get(cpu, vmcs::EXIT_CONTROLS);
        let entry = self.silicon.get(cpu, vmcs::ENTRY_CONTROLS);
        assert!(pin.contains(PinBased::EXTERNAL_INTERRUPT_EXITING | PinBased::NMI_EXITING), "{pin:?}");
        let always = PrimaryControls::HLT_EXITING | PrimaryControls::ACTIVATE_SECONDARY | PrimaryControls::MSR_BITMAPS;
        assert!(primary.contains(always), "{primary:?}");
        assert!(secondary.contains(SecondaryControls::EPT), "{secondary:?}");
        assert!(exit.contains(ExitControls::HOST_ADDRESS_SPACE_SIZE | ExitControls::LOAD_EFER), "{exit:?}");
        assert!(!entry.intersects(EntryControls::ENTRY_TO_SMM | EntryControls::DEACTIVATE_DUAL_MONITOR), "{entry:?}");
        let beyond = SecondaryControls::EPT_VIOLATION_VE
            | SecondaryControls::SUB_PAGE_WRITE
            | SecondaryControls::PASID_TRANSLATION
            | SecondaryControls::PT_GUEST_PHYSICAL;
        assert!(!secondary.intersects(beyond) && !primary.contains(PrimaryControls::ACTIVATE_TERTIARY));

        self.look_at_host(cpu);
        let bitmap = self.own_page(cpu, vmcs::MSR_BITMAP);
        let own = *self.own_bitmap.get_or_insert(bitmap);
        self.look_at_bitmap(own, bitmap, secondary);
        if primary.contains(PrimaryControls::IO_BITMAPS) {
            for field in [vmcs::IO_BITMAP_A, vmcs::IO_BITMAP_B] {
                let at = self.own_page(cpu, field);
                let all = self.page(at).iter().all(|byte| *byte == 0xff);
                assert!(all, "a port of the board passes through");
            }
        } else {
            assert!(primary.contains(PrimaryControls::UNCONDITIONAL_IO_EXITING), "{primary:?}");
        }
        if primary.contains(PrimaryControls::TPR_SHADOW) {
            self.guest_page(cpu, vmcs::VIRTUAL_APIC_ADDRESS);
            self.seen("virtual APIC");
        }
        if secondary.contains(SecondaryControls::VIRTUALIZE_APIC_ACCESSES) {
            self.guest_page(cpu, vmcs::APIC_ACCESS_ADDRESS);
            self.seen("APIC-access page");
        }
        if pin.contains(PinBased::POSTED_INTERRUPTS) {
            let at = self.silicon.get(cpu, vmcs::POSTED_INTERRUPT_DESCRIPTOR_ADDRESS);
            assert!(at.is_multiple_of(64) && (self.is_ram(at, 64) || Self::is_own(at & !0xfff)), "{at:#x}");
            self.seen("posted interrupts");
        }
        if secondary.contains(SecondaryControls::PML) {
            self.own_page(cpu, vmcs::PML_ADDRESS);
        }
        let link = self.silicon.get(cpu, vmcs::VMCS_LINK_POINTER);
        if secondary.contains(SecondaryControls::VMCS_SHADOWING) {
            self.own_page(cpu, vmcs::VMREAD_BITMAP);
            self.own_page(cpu, vmcs::VMWRITE_BITMAP);
            assert!(self.regions.contains(&link), "the link pointer is {link:#x}: no VMCS of L0's");
            self.seen("shadow VMCS");
        } else {
            assert_eq!(link, u64::MAX, "the link pointer");
        }
        if secondary.contains(SecondaryControls::VM_FUNCTIONS) && self.silicon.get(cpu, vmcs::VM_FUNCTION_CONTROLS) != 0
        {
            self.own_page(cpu, vmcs::EPTP_LIST_ADDRESS);
        }
        for (count, address) in [
            (vmcs::VM_EXIT_MSR_STORE_COUNT, vmcs::VM_EXIT_MSR_STORE_ADDRESS),
            (vmcs::VM_EXIT_MSR_LOAD_COUNT, vmcs::VM_EXIT_MSR_LOAD_ADDRESS),
            (vmcs::VM_ENTRY_MSR_LOAD_COUNT, vmcs::VM_ENTRY_MSR_LOAD_ADDRESS),
        ] {
            if self.silicon.get(cpu, count) != 0 {
                let at = self.silicon.get(cpu, address);
                assert!(Self::is_own(at & !0xfff), "an MSR area of L0's at {at:#x}");
            }
        }
        self.look_at_ept(cpu);
    }

    /// Host state is L0's, whatever L1 wants.
    fn look_at_host(&mut self, cpu: Pcpu) {
        let now: Vec<u64> = self.host_rows.iter().map(|row| self.silicon.vmread_row(cpu, *row)).collect();
        let host = self.host.get_or_insert_with(|| now.clone());
        assert_eq!(*host, now, "host state");
    }

    /// A vmcs02 passes no MSR that vmcs01 does not pass, but for those of x2APIC mode that silicon virtualizes.
    fn look_at_bitmap(&mut self, own: u64, other: u64, secondary: SecondaryControls) {
        if own == other {
            return;
        }
        let [own, other] = [own, other].map(|at| self.page(at));
        for (byte, (own, other)) in own.into_iter().zip(other).enumerate() {
            let passes = own & !other & !virtualized_msrs(byte, secondary);
            assert_eq!(passes, 0, "byte {byte:#x} of an MSR bitmap lets pass what L1 may not");
        }
    }

    fn look_at_ept(&mut self, cpu: Pcpu) {
        let eptp = self.silicon.get(cpu, vmcs::EPT_POINTER);
        let epoch = self.epoch;
        let known = self.walked.get(&eptp.into_bits());
        if known.is_some_and(|(at, _)| *at == epoch) {
            return;
        }
        let mut tables = BTreeSet::new();
        self.walk(Eptp::ep4ta(eptp), 4, &mut tables);
        self.walked.retain(|_, (at, _)| *at == epoch);
        self.walked.insert(eptp.into_bits(), (epoch, tables));
    }

    fn walk(&mut self, table: u64, level: u32, tables: &mut BTreeSet<u64>) {
        assert!(Self::is_own(table), "an EPT table at {table:#x}");
        assert!(
            !self.regions.contains(&table) && !self.bitmaps.contains(&table),
            "{table:#x} is an EPT table and more"
        );
        assert!(tables.insert(table), "the EPT table at {table:#x} has two places");
        let bytes = self.page(table);
        for word in bytes.chunks_exact(8) {
            let mut bits = [0; 8];
            bits.copy_from_slice(word);
            let entry = EptEntry::from_bits(u64::from_le_bytes(bits));
            // Under mode-based execute control one that permits fetches from user-mode addresses alone is present too.
            if !entry.present_in(true) {
                continue;
            }
            if level == 1 || entry.large() {
                let size = PAGE_SIZE << (9 * (level - 1));
                let at = entry.address();
                assert!(level < 4 && at.is_multiple_of(size), "a leaf of level {level} at {at:#x}");
                assert!(self.is_ram(at, size), "a leaf of level {level} maps {at:#x}, which is not L1's: {entry:x?}");
                self.leaves += 1;
            } else {
                self.walk(entry.address(), level - 1, tables);
            }
        }
    }

    /// Nothing of L0's is cached as a guest's.
    fn look_at_tlbs(&mut self, cpu: Pcpu) {
        let Some(cached) = self.cached else { return };
        for target in cached(&mut self.silicon, cpu) {
            // What is no RAM of L1's may be one of L0's pages that stand for a guest's, which are looked at elsewhere.
            assert!(
                self.is_ram(target, PAGE_SIZE) || !self.is_structure(target & !0xfff),
                "the TLB lets a guest reach {target:#x}"
            );
        }
    }

    fn is_structure(&self, at: u64) -> bool {
        self.regions.contains(&at)
            || self.bitmaps.contains(&at)
            || self.walked.values().any(|(_, tables)| tables.contains(&at))
    }
}

impl<S: Silicon> Silicon for Watched<S> {
    fn capability(&self, msr: u32) -> u64 {
        self.silicon.capability(msr)
    }

    fn memory_size(&self) -> u64 {
        self.silicon.memory_size()
    }

    fn read(&mut self, at: Hpa, into: &mut [u8]) {
        self.called();
        self.silicon.read(at, into);
    }

    fn write(&mut self, at: Hpa, bytes: &[u8]) {
        self.called();
        if at.0 < L0_MEMORY {
            self.epoch += 1;
        } else {
            assert!(self.is_ram(at.0, bytes.len() as u64), "L0 writes {:#x}, which is neither its own nor L1's", at.0);
        }
        self.silicon.write(at, bytes);
    }

    fn vmclear(&mut self, cpu: Pcpu, vmcs: Hpa) {
        self.called();
        assert!(Self::is_own(vmcs.0), "a VMCS of L0's at {:#x}", vmcs.0);
        self.regions.insert(vmcs.0);
        self.silicon.vmclear(cpu, vmcs);
    }

    fn vmptrld(&mut self, cpu: Pcpu, vmcs: Hpa) {
        self.called();
        assert!(self.regions.contains(&vmcs.0), "VMPTRLD of {:#x}, which was never cleared", vmcs.0);
        self.silicon.vmptrld(cpu, vmcs);
    }

    fn vmread(&mut self, cpu: Pcpu, field: VmcsField) -> u64 {
        self.called();
        self.silicon.vmread(cpu, field)
    }

    fn vmwrite(&mut self, cpu: Pcpu, field: VmcsField, value: u64) {
        self.called();
        self.silicon.vmwrite(cpu, field, value);
    }

    fn vmread_row(&mut self, cpu: Pcpu, row: usize) -> u64 {
        self.called();
        self.silicon.vmread_row(cpu, row)
    }

    fn vmwrite_row(&mut self, cpu: Pcpu, row: usize, value: u64) {
        self.called();
        self.silicon.vmwrite_row(cpu, row, value);
    }

    fn vmwrite_rows(&mut self, cpu: Pcpu, writes: &[(usize, u64)]) {
        self.called();
        self.silicon.vmwrite_rows(cpu, writes);
    }

    fn registers(&mut self, cpu: Pcpu) -> &mut Registers {
        self.silicon.registers(cpu)
    }

    fn register(&mut self, cpu: Pcpu, register: Register) -> u64 {
        self.silicon.register(cpu, register)
    }

    fn set_register(&mut self, cpu: Pcpu, register: Register, value: u64) {
        self.silicon.set_register(cpu, register, value);
    }

    fn enter(&mut self, cpu: Pcpu, launch: bool, until: u64) -> Result<Outcome, Refused> {
        self.most_calls = self.most_calls.max(self.calls);
        if self.looks {
            self.look(cpu);
        }
        self.entries += 1;
        let outcome = self.silicon.enter(cpu, launch, until);
        if self.looks && self.entries.is_multiple_of(TLB_LOOKS) {
            self.look_at_tlbs(cpu);
        }
        self.calls = 0;
        outcome
    }

    fn invvpid(&mut self, cpu: Pcpu, kind: InvvpidType, descriptor: InvvpidDescriptor) -> u32 {
        self.called();
        self.silicon.invvpid(cpu, kind, descriptor)
    }

    fn invept(&mut self, cpu: Pcpu, kind: InveptType, descriptor: InveptDescriptor) -> u32 {
        self.called();
        self.silicon.invept(cpu, kind, descriptor)
    }

    fn retired(&self) -> u64 {
        self.silicon.retired()
    }

    fn skip(&mut self, to: u64) {
        self.silicon.skip(to);
    }

    fn digest(&mut self) -> u64 {
        self.silicon.digest()
    }
}

/// The MSRs of a byte of an MSR bitmap that silicon virtualizes under these controls.
fn virtualized_msrs(byte: usize, secondary: SecondaryControls) -> u8 {
    let registers = secondary.contains(SecondaryControls::APIC_REGISTER_VIRTUALIZATION);
    let delivery = secondary.contains(SecondaryControls::VIRTUAL_INTERRUPT_DELIVERY);
    match byte {
        _ if !secondary.contains(SecondaryControls::VIRTUALIZE_X2APIC) => 0,
        0x100..=0x11f if registers => 0xff,
        // TPR; with virtual-interrupt delivery EOI and self-IPI.
        0x101 => 1,
        0x901 => 1 | u8::from(delivery) << 3,
        0x907 => u8::from(delivery) << 7,
        _ => 0,
    }
}
