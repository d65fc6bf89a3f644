//! ACPI tables: what the machine has, as firmware tells it. The fixed hardware is the PIIX4's, which QEMU has; it is in
//! ACPI mode from the start. See: "Advanced Configuration and Power Interface Specification", "ACPI Software Programming
//! Model".

use crate::device::{self, pm};
use acpi_tables::aml::{Device, EISAName, IO, Interrupt, Name, Package, Path, ResourceTemplate, Scope};
use acpi_tables::facs::FACS;
use acpi_tables::fadt::{FADTBuilder, Flags};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
use acpi_tables::sdt::Sdt;
use acpi_tables::{Aml, aml};
use hv_defs::addr::Gpa;

const OEM: [u8; 6] = *b"NVMX  ";
const OEM_TABLE: [u8; 8] = *b"NVMXPC  ";
const OEM_REVISION: u32 = 1;
/// Bytes of a table's header.
const HEADER: u32 = 36;

const LOCAL_APIC: u32 = 0xfee0_0000;
const IO_APIC: u32 = 0xfec0_0000;
/// MADT flag: there is a pair of 8259s too.
const WITH_PICS: u32 = 1;
/// MADT flag of a processor: it can be used.
const ENABLED: u32 = 1;
/// Interrupt flags in the MADT: as the bus has it; level-triggered, active high.
const CONFORMS: u16 = 0;
const LEVEL_HIGH: u16 = 0xd;
/// All processors, by their numbers.
const ALL: u8 = 0xff;
const ALL_X2: u32 = u32::MAX;
/// The first number that only x2APICs have.
const FIRST_X2: u16 = 255;

/// FADT boot flag: there are devices on an ISA bus. That there is no keyboard is said by an absent flag.
const LEGACY_DEVICES: u16 = 1;
/// FADT boot flag: there is no VGA.
const NO_VGA: u16 = 4;
const CENTURY: u8 = 0x32;
/// A power-saving state with so long a way out is none.
const NO_STATE: u16 = 0xfff;

/// Pieces of memory: the root pointer at `rsdp`, the tables from `at` on.
pub(super) fn tables(rsdp: u64, at: Gpa, cpus: u16) -> Vec<(Gpa, Vec<u8>)> {
    let mut next = at.0;
    let mut memory = Vec::new();
    let mut place = |bytes: Vec<u8>| {
        let at = next;
        // The FACS wants 64.
        next = (at + bytes.len() as u64).next_multiple_of(64);
        memory.push((Gpa(at), bytes));
        at
    };
    let facs = place(bytes(&FACS::new()));
    let dsdt = place(dsdt());
    let fadt = place(fadt(facs, dsdt));
    let madt = place(madt(cpus));
    let mut rsdt = table(*b"RSDT", 1);
    let mut xsdt = table(*b"XSDT", 1);
    for at in [fadt, madt] {
        rsdt.append_slice(&(at as u32).to_le_bytes());
        xsdt.append_slice(&at.to_le_bytes());
    }
    let (rsdt, xsdt) = (place(bytes(&rsdt)), place(bytes(&xsdt)));
    memory.push((Gpa(rsdp), root(rsdt as u32, xsdt)));
    memory
}

fn bytes(table: &dyn Aml) -> Vec<u8> {
    let mut bytes = Vec::new();
    table.to_aml_bytes(&mut bytes);
    bytes
}

fn table(signature: [u8; 4], revision: u8) -> Sdt {
    Sdt::new(signature, HEADER, revision, OEM, OEM_TABLE, OEM_REVISION)
}

/// The root pointer, with both kinds of list behind it: old systems know the one of 32-bit addresses alone.
fn root(rsdt: u32, xsdt: u64) -> Vec<u8> {
    let sum = |bytes: &[u8]| bytes.iter().fold(0u8, |sum, byte| sum.wrapping_sub(*byte));
    let mut root = b"RSD PTR \0".to_vec();
    root.extend(OEM);
    root.push(2);
    root.extend(rsdt.to_le_bytes());
    root[8] = sum(&root);
    root.extend(36u32.to_le_bytes());
    root.extend(xsdt.to_le_bytes());
    root.extend([0; 4]);
    root[32] = sum(&root);
    root
}

fn fadt(facs: u64, dsdt: u64) -> Vec<u8> {
    let mut fadt = FADTBuilder::new(OEM, OEM_TABLE, OEM_REVISION).dsdt_64(dsdt);
    // Those who know 64-bit addresses want them; the others are for those who do not.
    fadt.dsdt = (dsdt as u32).into();
    fadt.firmware_ctrl = (facs as u32).into();
    fadt.sci_int = u16::from(pm::SCI_LINE).into();
    fadt.pm1a_evt_blk = u32::from(pm::EVENT_PORT).into();
    fadt.pm1_evt_len = 4;
    fadt.pm1a_cnt_blk = u32::from(pm::CONTROL_PORT).into();
    fadt.pm1_cnt_len = 2;
    fadt.pm_tmr_blk = u32::from(pm::TIMER_PORT).into();
    fadt.pm_tmr_len = 4;
    fadt.p_lvl2_lat = NO_STATE.into();
    fadt.p_lvl3_lat = NO_STATE.into();
    fadt.century = CENTURY;
    fadt.iapc_boot_arch = (LEGACY_DEVICES | NO_VGA).into();
    fadt.reset_reg = GAS::new(AddressSpace::SystemIo, 8, 0, AccessSize::ByteAccess, device::RESET_CONTROL.into());
    fadt.reset_value = device::RESET_NOW;
    // No buttons, and no waking by the clock.
    for flag in [Flags::Wbinvd, Flags::ProcC1, Flags::PwrButton, Flags::SlpButton, Flags::FixRtc, Flags::ResetRegSup] {
        fadt = fadt.flag(flag);
    }
    bytes(&fadt.finalize())
}

fn madt(cpus: u16) -> Vec<u8> {
    let mut madt = table(*b"APIC", 3);
    let mut put = |bytes: &[u8]| madt.append_slice(bytes);
    put(&LOCAL_APIC.to_le_bytes());
    put(&WITH_PICS.to_le_bytes());
    for cpu in 0..cpus {
        if cpu < FIRST_X2 {
            put(&[0, 8, cpu as u8, cpu as u8]);
            put(&ENABLED.to_le_bytes());
        } else {
            put(&[9, 16, 0, 0]);
            for word in [u32::from(cpu), ENABLED, u32::from(cpu)] {
                put(&word.to_le_bytes());
            }
        }
    }
    put(&[1, 12, device::ioapic_id(cpus), 0]);
    put(&IO_APIC.to_le_bytes());
    put(&0u32.to_le_bytes());
    // Overrides, of the ISA bus: the timer is on the I/O APIC's pin 2; the SCI is level-triggered, unlike an ISA line.
    for (line, pin, flags) in [(0, 2, CONFORMS), (pm::SCI_LINE, u32::from(pm::SCI_LINE), LEVEL_HIGH)] {
        put(&[2, 10, 0, line]);
        put(&pin.to_le_bytes());
        put(&flags.to_le_bytes());
    }
    // NMIs come to LINT1 of every processor.
    put(&[4, 6, ALL]);
    put(&CONFORMS.to_le_bytes());
    put(&[1]);
    if cpus > FIRST_X2 {
        put(&[10, 12]);
        put(&CONFORMS.to_le_bytes());
        put(&ALL_X2.to_le_bytes());
        put(&[1, 0, 0, 0]);
    }
    bytes(&madt)
}

/// An ISA device: its hardware ID, its ports, its line.
fn isa(name: &str, id: &dyn Aml, port: u16, ports: u8, line: Option<u8>) -> Vec<u8> {
    let io = IO::new(port, port, 1, ports);
    let interrupt = line.map(|line| Interrupt::new(true, true, false, false, line.into()));
    let mut resources: Vec<&dyn Aml> = vec![&io];
    resources.extend(interrupt.iter().map(|interrupt| interrupt as &dyn Aml));
    let id = Name::new(Path::new("_HID"), id);
    let resources = Name::new(Path::new("_CRS"), &ResourceTemplate::new(resources));
    bytes(&Device::new(Path::new(name), vec![&id, &resources]))
}

/// AML that is there already.
struct Raw(Vec<u8>);

impl Aml for Raw {
    fn to_aml_bytes(&self, sink: &mut dyn acpi_tables::AmlSink) {
        sink.vec(&self.0);
    }
}

fn dsdt() -> Vec<u8> {
    let sleep = aml::Usize::from(pm::SLEEP_TYPE_OFF);
    let off = Package::new(vec![&sleep, &sleep, &aml::ZERO, &aml::ZERO]);
    let devices = [
        isa("COM1", &EISAName::new("PNP0501"), device::SERIAL_PORT, 8, Some(device::SERIAL_LINE)),
        isa("RTC_", &EISAName::new("PNP0B00"), device::RTC_PORT, 2, Some(device::RTC_LINE)),
        isa("FWCF", &"QEMU0002", device::fw_cfg::PORT, device::fw_cfg::PORTS, None),
    ]
    .map(Raw);
    let devices = Scope::new(Path::new("_SB_"), devices.iter().map(|device| device as &dyn Aml).collect());
    let mut dsdt = table(*b"DSDT", 2);
    dsdt.append_slice(&bytes(&devices));
    dsdt.append_slice(&bytes(&Name::new(Path::new("_S5_"), &off)));
    bytes(&dsdt)
}
