//! What walks answer, and what is cached of them.

use super::super::tlb::PageSize;
use super::super::*;
use super::{CR0, CR4, EFER};
use hv_defs::ept::{InveptDescriptor, InveptType, InvvpidDescriptor, InvvpidType};
use hv_defs::x86::{Cr4, Efer};

/// A machine whose page tables are written by hand, at fixed places.
struct Bench {
    memory: Memory,
    mmu: Mmu,
    efer: u64,
    cr4: u64,
}

/// Host-physical places: the guest's four levels, then EPT's, whose guest-physical 0 is host-physical `BASE`.
const BASE: u64 = 0x10_0000;
const GUEST: u64 = 0x1_0000;
const EPT: u64 = 0x2_0000;
/// A linear address with another index at each level: 1, 2, 3, 4 and offset 0x567.
const LINEAR_ADDRESS: u64 = 1 << 39 | 2 << 30 | 3 << 21 | 4 << 12 | 0x567;

impl Bench {
    /// 64-bit paging over EPT that maps the first 2 MiB, in 4 KiB pages. `LINEAR_ADDRESS` maps to guest-physical 0x5000.
    fn new() -> Self {
        let mut bench = Self { memory: Memory::new(4 << 20), mmu: Mmu::new(64), efer: EFER, cr4: CR4 };
        bench.ept(0, EPT, (EPT + 0x1000) | 7);
        bench.ept(0, EPT + 0x1000, (EPT + 0x2000) | 7);
        bench.ept(0, EPT + 0x2000, (EPT + 0x3000) | 7);
        for page in 0..512 {
            bench.ept(page, EPT + 0x3000, (BASE + page * 0x1000) | 0x37);
        }
        for (level, index) in [1, 2, 3].into_iter().enumerate() {
            let table = GUEST + level as u64 * 0x1000;
            bench.pte(level as u64, index, (table + 0x1000) | 7);
        }
        bench.pte(3, 4, 0x5007);
        bench.controls(Eptp::new().with_pfn(EPT >> 12).with_walk_length_less_one(3), SecondaryControls::empty());
        bench
    }

    fn controls(&mut self, eptp: Eptp, secondary: SecondaryControls) {
        let controls = Controls { vpid: 1, eptp: Some(eptp), secondary, ..Controls::default() };
        self.mmu.set_controls(&controls, 511);
        self.context();
    }

    fn context(&mut self) {
        self.mmu.set_context(CR0, GUEST, self.cr4, self.efer, &[0; 4]);
    }

    /// Sets an entry of a guest's table, by level from the top (0).
    fn pte(&mut self, level: u64, index: u64, entry: u64) {
        self.memory.write(Hpa(BASE + GUEST + level * 0x1000 + index * 8), entry);
    }

    fn read_pte(&self, level: u64, index: u64) -> u64 {
        self.memory.read(Hpa(BASE + GUEST + level * 0x1000 + index * 8))
    }

    fn ept(&mut self, index: u64, table: u64, entry: u64) {
        self.memory.write(Hpa(table + index * 8), entry);
    }

    fn access(&mut self, access: Access, user: bool) -> Result<u64, Fault> {
        self.mmu.translate(&mut self.memory, LINEAR_ADDRESS, access, user, false).map(|at| at.0)
    }
}

const READ: (Access, bool) = (Access::Read, false);
const WRITE: (Access, bool) = (Access::Write, false);
const FETCH: (Access, bool) = (Access::Fetch, false);
const USER_READ: (Access, bool) = (Access::Read, true);
const USER_WRITE: (Access, bool) = (Access::Write, true);
const USER_FETCH: (Access, bool) = (Access::Fetch, true);

#[test]
fn guest_page_table_entries_mean_what_they_say() {
    const NX: u64 = 1 << 63;
    // The entry at a level from the top, the access, and the page fault's error code or where it leads.
    let check = |level: u64, entry: u64, (access, user), expected: Result<u64, u32>| {
        let mut bench = Bench::new();
        bench.pte(level, level + 1, entry);
        let told = bench.access(access, user).map_err(|fault| match fault {
            Fault::Page { code, address } if address == LINEAR_ADDRESS => code,
            other => panic!("{other:?}"),
        });
        assert_eq!(told, expected, "level {level}, entry {entry:#x}, {access:?}, user {user}");
    };
    check(3, 0x5007, READ, Ok(BASE + 0x5567));
    check(3, 0x5006, READ, Err(0));
    check(3, 0x5006, USER_WRITE, Err(6));
    check(3, 0x5006, USER_FETCH, Err(0x14));
    check(0, 0, FETCH, Err(0x10));
    check(3, 0x5005, WRITE, Err(3));
    check(3, 0x5005, USER_READ, Ok(BASE + 0x5567));
    check(3, 0x5003, READ, Ok(BASE + 0x5567));
    check(3, 0x5003, USER_READ, Err(5));
    check(3, 0x5003, USER_WRITE, Err(7));
    check(2, (GUEST + 0x3000) | 5, USER_WRITE, Err(7));
    check(1, (GUEST + 0x2000) | 3, USER_READ, Err(5));
    check(3, 0x5007 | NX, FETCH, Err(0x11));
    check(3, 0x5007 | NX, USER_FETCH, Err(0x15));
    check(1, (GUEST + 0x2000) | 7 | NX, FETCH, Err(0x11));
    check(3, 0x5007 | NX, READ, Ok(BASE + 0x5567));
    check(3, 0x5007 | 1 << 51, READ, Err(9));
    check(3, 0x5007 | 1 << PHYSICAL_BITS, WRITE, Err(0xb));
    check(0, (GUEST + 0x1000) | 7 | 1 << 7, READ, Err(9));
    check(2, 0x87, READ, Ok(BASE + 0x4567));
    check(2, 0x2087, READ, Err(9));
}

/// The linear address whose fifth level's index is 0x1ff, above those of `LINEAR_ADDRESS`.
const HIGH: u64 = 0xffff << 48 | LINEAR_ADDRESS;
/// The table of the fifth level, which points to that of the fourth by its last entry.
const TOP: u64 = GUEST + 0x8000;

#[test]
fn five_levels_are_walked() {
    const MAPS: u64 = GUEST | 7;
    // The entry of the fifth level, that of a level below it, the address, the access, and what comes of it.
    let check = |top: u64, below: Option<(u64, u64)>, address, (access, user), expected: Result<u64, u32>| {
        let mut bench = Bench::new();
        bench.cr4 |= Cr4::LA57.bits();
        bench.pte(8, 511, top);
        if let Some((level, entry)) = below {
            bench.pte(level, level + 1, entry);
        }
        bench.mmu.set_context(CR0, TOP, bench.cr4, bench.efer, &[0; 4]);
        let told = bench.mmu.translate(&mut bench.memory, address, access, user, false);
        let told = told.map(|at| at.0).map_err(|fault| match fault {
            Fault::Page { code, address: at } if at == address => code,
            other => panic!("{other:?}"),
        });
        assert_eq!(told, expected, "{top:#x}, {below:x?}, {address:#x}, {access:?}, user {user}");
        if told.is_ok() {
            let accessed = bench.read_pte(8, 511);
            assert_eq!(accessed & 0x60, 0x20, "accessed, and never dirty");
            let leaf = below.map_or(3, |(level, _)| level);
            let dirty = if access == Access::Write { 0x60 } else { 0x20 };
            assert_eq!(bench.read_pte(leaf, leaf + 1) & 0x60, dirty, "the page's entry");
        } else {
            assert_eq!(bench.read_pte(8, 511), top, "a fault sets nothing");
        }
    };
    check(MAPS, None, HIGH, READ, Ok(BASE + 0x5567));
    check(MAPS, None, HIGH, USER_WRITE, Ok(BASE + 0x5567));
    // Pages of 2 MiB and of 1 GiB.
    check(MAPS, Some((2, 0x87)), HIGH, WRITE, Ok(BASE + 0x4567));
    check(MAPS, Some((1, 0x87)), HIGH & !(0x3e0 << 16), READ, Ok(BASE + 0x4567));
    // What 48 bits cannot tell apart is another page: the first entry of the fifth level is not present.
    check(MAPS, None, LINEAR_ADDRESS, READ, Err(0));
    check(MAPS, None, LINEAR_ADDRESS, USER_WRITE, Err(6));
    check(MAPS & !1, None, HIGH, WRITE, Err(2));
    check(MAPS & !1, None, HIGH, FETCH, Err(0x10));
    check(MAPS & !2, None, HIGH, WRITE, Err(3));
    check(MAPS & !4, None, HIGH, USER_READ, Err(5));
    check(MAPS | 1 << 63, None, HIGH, FETCH, Err(0x11));
    // No page is of 256 TiB, and no table lies beyond the physical addresses.
    check(MAPS | 1 << 7, None, HIGH, READ, Err(9));
    check(MAPS | 1 << PHYSICAL_BITS, None, HIGH, READ, Err(9));
}

#[test]
fn what_is_cached_of_one_paging_mode_is_found_by_57_bits() {
    let mut bench = Bench::new();
    bench.cr4 |= Cr4::LA57.bits();
    bench.pte(8, 511, GUEST | 7);
    bench.mmu.set_context(CR0, TOP, bench.cr4, bench.efer, &[0; 4]);
    let mut read = |address| bench.mmu.translate(&mut bench.memory, address, Access::Read, false, false);
    assert!(read(HIGH).is_ok());
    for bit in 48..57 {
        assert!(matches!(read(HIGH ^ 1 << bit), Err(Fault::Page { code: 0, .. })), "bit {bit}");
    }
    assert!(bench.mmu.fast(Access::Read, HIGH, 1).is_some());
    assert!(bench.mmu.fast(Access::Read, LINEAR_ADDRESS, 1).is_none());
}

#[test]
fn modes_of_protection() {
    // Bits that CR4 and EFER have besides, the page's entry, the access and RFLAGS.AC, and the error code.
    let check = |cr4: Cr4, entry: u64, (access, user), ac: bool, expected: Option<u32>| {
        let mut bench = Bench::new();
        bench.cr4 |= cr4.bits();
        bench.pte(3, 4, entry);
        bench.context();
        bench.mmu.set_pkru(0b1000 << 2 | 0b01 << 2);
        let told = bench.mmu.translate(&mut bench.memory, LINEAR_ADDRESS, access, user, ac);
        let code = told.err().map(|fault| match fault {
            Fault::Page { code, .. } => code,
            other => panic!("{other:?}"),
        });
        assert_eq!(code, expected, "{cr4:?} {entry:#x} {access:?} {user} {ac}");
    };
    check(Cr4::SMEP, 0x5007, FETCH, false, Some(0x11));
    check(Cr4::SMEP, 0x5007, USER_FETCH, false, None);
    check(Cr4::SMEP, 0x5003, FETCH, false, None);
    check(Cr4::SMAP, 0x5007, READ, false, Some(1));
    check(Cr4::SMAP, 0x5007, WRITE, false, Some(3));
    check(Cr4::SMAP, 0x5007, READ, true, None);
    check(Cr4::SMAP, 0x5003, READ, false, None);
    check(Cr4::SMAP, 0x5007, USER_READ, false, None);
    check(Cr4::SMAP, 0x5007, FETCH, false, None);
    check(Cr4::PKE, 0x5007 | 1 << 59, USER_READ, false, Some(0x25));
    check(Cr4::PKE, 0x5007 | 1 << 59, READ, false, Some(0x21));
    check(Cr4::PKE, 0x5003 | 1 << 59, READ, false, None);
    check(Cr4::PKE, 0x5007 | 2 << 59, READ, false, None);
    check(Cr4::PKE, 0x5007 | 2 << 59, USER_WRITE, false, Some(0x27));
    check(Cr4::PKE, 0x5007 | 2 << 59, WRITE, false, Some(0x23));
    check(Cr4::PKE, 0x5007 | 1 << 59, USER_FETCH, false, None);
    check(Cr4::empty(), 0x5007 | 1 << 59, USER_READ, false, None);
}

#[test]
fn accessed_and_dirty_flags_are_set_once_they_are_due() {
    let mut bench = Bench::new();
    bench.access(Access::Read, false).unwrap();
    for (level, index) in [(0, 1), (1, 2), (2, 3), (3, 4)] {
        assert_eq!(bench.read_pte(level, index) & 0x60, 0x20, "level {level}");
    }
    bench.access(Access::Write, false).unwrap();
    assert_eq!(bench.read_pte(3, 4) & 0x60, 0x60);
    assert_eq!(bench.read_pte(2, 3) & 0x60, 0x20);
    // A translation that is cached as dirty sets nothing again.
    bench.pte(3, 4, 0x5007);
    bench.access(Access::Write, false).unwrap();
    assert_eq!(bench.read_pte(3, 4), 0x5007);
}

#[test]
fn ept_violations_say_what_was_tried_and_what_was_permitted() {
    // The EPT entry of the page, the access, and the exit qualification.
    let check = |entry: u64, (access, user), expected: u64| {
        let mut bench = Bench::new();
        bench.ept(5, EPT + 0x3000, if entry == 0 { 0 } else { (BASE + 0x5000) | entry });
        match bench.access(access, user) {
            Err(Fault::EptViolation { qualification, gpa: 0x5567, gla: LINEAR_ADDRESS }) => {
                // The user-mode, writable bits tell of the guest's page.
                assert_eq!(qualification.into_bits(), expected | 0x600, "{entry:#x} {access:?}");
            }
            other => panic!("{other:x?}"),
        }
    };
    check(0, READ, 0x181);
    check(0, WRITE, 0x182);
    check(0, USER_FETCH, 0x184);
    check(0x31, WRITE, 0x18a);
    check(0x33, FETCH, 0x19c);
    check(0x34, READ, 0x1a1);
    check(0x34, WRITE, 0x1a2);
}

#[test]
fn walks_of_the_guests_tables_are_reads_and_writes_of_its_memory() {
    // The guest's page directory lies in guest-physical page GUEST + 0x2000.
    let page = (GUEST + 0x2000) >> 12;
    let check = |entry: u64, accessed_dirty: bool, accessed: bool, expected: Option<u64>| {
        let mut bench = Bench::new();
        let eptp = Eptp::new().with_pfn(EPT >> 12).with_walk_length_less_one(3);
        bench.controls(eptp.with_accessed_dirty(accessed_dirty), SecondaryControls::empty());
        bench.ept(page, EPT + 0x3000, if entry == 0 { 0 } else { (BASE + (page << 12)) | entry });
        let flags = if accessed { 0x27 } else { 7 };
        bench.pte(2, 3, (GUEST + 0x3000) | flags);
        let told = match bench.access(Access::Read, false) {
            Err(Fault::EptViolation { qualification, gpa, gla: LINEAR_ADDRESS }) => {
                assert_eq!(gpa, GUEST + 0x2000 + 3 * 8);
                Some(qualification.into_bits())
            }
            other => other.map(|_| None).unwrap(),
        };
        assert_eq!(told, expected, "{entry:#x} {accessed_dirty} {accessed}");
    };
    check(0, false, false, Some(0x81));
    check(0, true, false, Some(0x83));
    check(0x35, false, true, None);
    check(0x35, false, false, Some(0xaa));
    check(0x35, true, true, Some(0xab));
    check(0x37, true, false, None);
}

#[test]
fn misconfigured_entries() {
    let check = |entry: u64, level, mode_based, expected| {
        assert_eq!(is_misconfigured(entry, level, mode_based), expected, "{entry:#x} {level}");
    };
    check(0x5037, 0, false, false);
    check(0x5032, 0, false, true);
    check(0x5036, 0, false, true);
    check(0x5034, 0, false, false);
    check(0x5017, 0, false, true);
    check(0x501f, 0, false, true);
    check(0x503f, 0, false, true);
    check(0x5007, 0, false, false);
    check(0x5007, 1, false, false);
    check(0x500f, 1, false, true);
    check(0x5047, 2, false, true);
    check(0x5087, 3, false, true);
    check(0x2000b7, 1, false, false);
    check(0x2010b7, 1, false, true);
    check(0x4000_00b7, 2, false, false);
    check(0x4020_00b7, 2, false, true);
    check(1 << PHYSICAL_BITS | 0x37, 0, false, true);
    check(1 << 52 | 0x37, 0, false, false);
    check(0x5000 | 1 << 10, 0, true, false);
    check(0x5002 | 1 << 10, 0, true, true);
    let mut bench = Bench::new();
    bench.ept(5, EPT + 0x3000, (BASE + 0x5000) | 0x32);
    assert_eq!(bench.access(Access::Read, false), Err(Fault::EptMisconfig { gpa: 0x5567 }));
}

#[test]
fn a_violation_tells_of_the_guest_s_own_page() {
    const NX: u64 = 1 << 63;
    // The guest's entry, and bits 11:9 of the exit qualification: execute-disable, writable, of user mode.
    for (entry, expected) in [(1, 0), (3, 0b010), (5, 0b001), (7, 0b011), (1 | NX, 0b100), (7 | NX, 0b111)] {
        let mut bench = Bench::new();
        bench.ept(5, EPT + 0x3000, 0);
        bench.pte(3, 4, 0x5000 | entry);
        let Err(Fault::EptViolation { qualification, .. }) = bench.access(Access::Read, false) else { panic!() };
        assert_eq!(qualification.into_bits() >> 9 & 7, expected, "{entry:#x}");
    }
}

#[test]
fn mode_based_execute_tells_user_pages_from_supervisor_ones() {
    let check = |entry: u64, guest: u64, expected: bool| {
        let mut bench = Bench::new();
        let eptp = Eptp::new().with_pfn(EPT >> 12).with_walk_length_less_one(3);
        bench.controls(eptp, SecondaryControls::MODE_BASED_EXECUTE);
        for level in 0..3 {
            bench.ept(0, EPT + level * 0x1000, (EPT + (level + 1) * 0x1000) | 0x407);
        }
        bench.ept(5, EPT + 0x3000, (BASE + 0x5000) | 0x31 | entry);
        bench.pte(3, 4, 0x5000 | guest);
        assert_eq!(bench.access(Access::Fetch, false).is_ok(), expected, "{entry:#x} {guest:#x}");
    };
    check(4, 7, false);
    check(4, 3, true);
    check(1 << 10, 7, true);
    check(1 << 10, 3, false);
}

#[test]
fn ept_flags_and_the_log_of_dirty_pages() {
    let mut bench = Bench::new();
    let eptp = Eptp::new().with_pfn(EPT >> 12).with_walk_length_less_one(3).with_accessed_dirty(true);
    let log = 0x3_0000;
    let controls = Controls { vpid: 1, eptp: Some(eptp), pml: Some(Hpa(log)), ..Controls::default() };
    bench.mmu.set_controls(&controls, 511);
    bench.context();
    bench.access(Access::Read, false).unwrap();
    let leaf = |bench: &Bench| bench.memory.read::<u64>(Hpa(EPT + 0x3000 + 5 * 8)) & 0x300;
    assert_eq!(leaf(&bench), 0x100);
    // The guest's four tables were walked, which counts as writing to them.
    assert_eq!(bench.mmu.pml_index(), Some(507));
    let logged = |bench: &Bench, slot: u64| bench.memory.read::<u64>(Hpa(log + slot * 8));
    assert_eq!([511, 510, 509, 508].map(|slot| logged(&bench, slot)), [0, 1, 2, 3].map(|level| GUEST + level * 0x1000));
    bench.access(Access::Write, false).unwrap();
    assert_eq!((leaf(&bench), logged(&bench, 507)), (0x300, 0x5000));
    // With the log full, nothing is written.
    bench.mmu.set_controls(&controls, 0xffff);
    bench.ept(5, EPT + 0x3000, (BASE + 0x5000) | 0x37);
    bench.mmu.invept(InveptType::All, InveptDescriptor::default());
    bench.ept(GUEST >> 12, EPT + 0x3000, (BASE + GUEST) | 0x37 | 0x300);
    assert_eq!(bench.access(Access::Write, false), Err(Fault::PmlFull));
    assert_eq!(leaf(&bench), 0);
}

#[test]
fn a_forgotten_flush_shows_and_a_flush_ends_it() {
    let mut bench = Bench::new();
    assert_eq!(bench.access(Access::Read, false), Ok(BASE + 0x5567));
    bench.pte(3, 4, 0x6007);
    assert_eq!(bench.access(Access::Read, false), Ok(BASE + 0x5567), "nobody flushed");
    assert_eq!(bench.mmu.fast(Access::Read, LINEAR_ADDRESS, 1), Some(Hpa(BASE + 0x5567)));
    assert_eq!(bench.mmu.invlpg(LINEAR_ADDRESS & !0xfff), 1);
    assert_eq!(bench.mmu.fast(Access::Read, LINEAR_ADDRESS, 1), None);
    assert_eq!(bench.access(Access::Read, false), Ok(BASE + 0x6567));
    bench.ept(6, EPT + 0x3000, (BASE + 0x7000) | 0x37);
    assert_eq!(bench.access(Access::Read, false), Ok(BASE + 0x6567), "nobody flushed");
    assert!(
        bench.mmu.invept(InveptType::Single, InveptDescriptor { eptp: Eptp::new().with_pfn(EPT >> 12), reserved: 0 })
            > 0
    );
    assert_eq!(bench.mmu.fast(Access::Read, LINEAR_ADDRESS, 1), None);
    assert_eq!(bench.access(Access::Read, false), Ok(BASE + 0x7567));
    assert_eq!(bench.mmu.statistics.refills, 2);
}

#[test]
fn fast_lines_are_of_their_context_and_privilege() {
    let mut bench = Bench::new();
    bench.access(Access::Write, false).unwrap();
    let known =
        |bench: &Bench| [Access::Read, Access::Write].map(|access| bench.mmu.fast(access, LINEAR_ADDRESS, 1).is_some());
    assert_eq!(known(&bench), [true, true]);
    bench.mmu.set_privilege(true, false);
    assert_eq!(known(&bench), [false, false]);
    bench.mmu.set_privilege(false, false);
    let other = Controls { vpid: 2, eptp: Some(Eptp::new().with_pfn(EPT >> 12)), ..Controls::default() };
    bench.mmu.set_controls(&other, 0);
    bench.context();
    assert_eq!(known(&bench), [false, false]);
    bench.controls(Eptp::new().with_pfn(EPT >> 12), SecondaryControls::empty());
    assert_eq!(known(&bench), [true, true], "coming back costs nothing");
    bench.memory.digest();
    bench.mmu.follow(&bench.memory);
    assert_eq!(known(&bench), [true, false], "the next write has to be noted");
    bench.memory.set_code(Hpa(BASE + 0x5000));
    bench.access(Access::Write, false).unwrap();
    assert_eq!(known(&bench), [true, false], "a store would change code");
}

#[test]
fn a_large_page_cached_in_parts_goes_as_one() {
    let mut bench = Bench::new();
    bench.pte(2, 3, 0x87);
    let other = LINEAR_ADDRESS + 0x3000;
    bench.access(Access::Read, false).unwrap();
    bench.mmu.translate(&mut bench.memory, other, Access::Read, false, false).unwrap();
    assert_eq!(bench.mmu.cached().filter(|cached| !cached.guest_physical).count(), 2);
    assert_eq!(bench.mmu.invlpg(LINEAR_ADDRESS & !0xfff), 2);
    assert_eq!(bench.mmu.fast(Access::Read, other, 1), None);
}

#[test]
fn large_pages_are_cached_whole_where_both_sides_have_them() {
    let mut bench = Bench::new();
    bench.ept(0, EPT + 0x2000, 0x20_0000 | 0xb7);
    for level in 0..4 {
        // Guest-physical 0 is host-physical 2 MiB now.
        let index = level + 1;
        let entry = bench.read_pte(level, index);
        bench.memory.write(Hpa(0x20_0000 + GUEST + level * 0x1000 + index * 8), entry);
    }
    bench.memory.write(Hpa(0x20_0000 + GUEST + 0x2000 + 3 * 8), 0x87u64);
    assert_eq!(bench.access(Access::Read, false), Ok(0x20_4567));
    let cached = bench.mmu.cached().find(|cached| !cached.guest_physical).unwrap();
    assert_eq!(
        (cached.size, cached.address, cached.target),
        (PageSize::Large, LINEAR_ADDRESS & !0x1f_ffff, Hpa(0x20_0000))
    );
    assert_eq!(bench.mmu.invlpg(LINEAR_ADDRESS + 0x10_0000), 1);
    assert_eq!(bench.mmu.fast(Access::Read, LINEAR_ADDRESS, 1), None);
}

#[test]
fn paging_of_32_bits() {
    let check = |cr4: u64, efer: u64, entries: &[(u64, u64)], gva: u64, expected: Result<u64, u32>| {
        let mut memory = Memory::new(16 << 20);
        let mut mmu = Mmu::new(64);
        for &(at, entry) in entries {
            if cr4 & Cr4::PAE.bits() != 0 {
                memory.write(Hpa(at), entry);
            } else {
                memory.write(Hpa(at), entry as u32);
            }
        }
        let pdptes = [0x2001, 0, 0, 0x3001];
        mmu.set_context(CR0, 0x1000, cr4, efer, &pdptes);
        let told = mmu.translate(&mut memory, gva, Access::Read, false, false).map(|at| at.0);
        let told = told.map_err(|fault| match fault {
            Fault::Page { code, .. } => code,
            other => panic!("{other:?}"),
        });
        assert_eq!(told, expected, "{gva:#x}");
    };
    const PSE: u64 = Cr4::PSE.bits();
    const PAE: u64 = Cr4::PAE.bits();
    let tables = [(0x1000 + 4, 0x2003), (0x2000 + 8, 0x5003), (0x1000 + 8, 0x83), (0x1000 + 12, 0x2083 | 1 << 22)];
    check(0, 0, &tables, 0x40_2567, Ok(0x5567));
    check(0, 0, &tables, 0x40_3567, Err(0));
    check(PSE, 0, &tables, 0x80_2567, Ok(0x2567));
    check(0, 0, &[(0x1008, 0x2083), (0x2004, 0x6003)], 0x80_1567, Ok(0x6567));
    check(PSE, 0, &[(0x1008, 0x20_0083)], 0x80_1567, Err(9));
    let pae = [(0x2000 + 8, 0x4003), (0x4000 + 16, 0x7003), (0x3000, 0x20_0083), (0x4000 + 24, 1 << 63 | 0x8003)];
    check(PAE, 0, &pae, 0x20_2567, Ok(0x7567));
    check(PAE, 0, &pae, 0x20_3567, Err(9));
    check(PAE, Efer::NXE.bits(), &pae, 0x20_3567, Ok(0x8567));
    check(PAE, 0, &pae, 0xc001_2567, Ok(0x21_2567));
    check(PAE, 0, &pae, 0x4000_0000, Err(0));
}

#[test]
fn a_page_of_1_gib_without_ept() {
    let mut memory = Memory::new(1 << 20);
    let mut mmu = Mmu::new(64);
    memory.write(Hpa(0x1000), 0x2003u64);
    memory.write(Hpa(0x2000 + 8), 0x83u64);
    memory.write(Hpa(0x2000 + 16), 0x2083u64);
    mmu.set_context(CR0, 0x1000, CR4, EFER, &[0; 4]);
    let mut go = |gva| mmu.translate(&mut memory, gva, Access::Read, false, false);
    assert_eq!(go(0x4005_4321), Ok(Hpa(0x5_4321)));
    assert_eq!(go(0x8000_0000), Err(Fault::Page { code: 9, address: 0x8000_0000 }));
    assert_eq!(mmu.cached().map(|cached| cached.size).collect::<Vec<_>>(), [PageSize::Huge]);
}

#[test]
fn without_paging_linear_addresses_are_physical() {
    let mut bench = Bench::new();
    bench.mmu.set_context(0, 0, 0, 0, &[0; 4]);
    let go = |bench: &mut Bench| bench.mmu.translate(&mut bench.memory, 0x5567, Access::Read, false, false);
    assert_eq!(go(&mut bench), Ok(Hpa(BASE + 0x5567)));
    assert_eq!(bench.mmu.fast(Access::Read, 0x5567, 1), Some(Hpa(BASE + 0x5567)));
    bench.ept(5, EPT + 0x3000, (BASE + 0x6000) | 0x37);
    assert_eq!(go(&mut bench), Ok(Hpa(BASE + 0x5567)), "nobody flushed");
    bench.mmu.invvpid(InvvpidType::All, InvvpidDescriptor::default());
    assert_eq!(go(&mut bench), Ok(Hpa(BASE + 0x5567)), "INVVPID leaves guest-physical mappings");
    bench.mmu.invept(InveptType::All, InveptDescriptor::default());
    assert_eq!(bench.mmu.fast(Access::Read, 0x5567, 1), None);
    assert_eq!(go(&mut bench), Ok(Hpa(BASE + 0x6567)));
}

#[test]
fn the_apic_access_page_is_known_when_its_translation_is_made() {
    let mut bench = Bench::new();
    bench.access(Access::Read, false).unwrap();
    let eptp = Eptp::new().with_pfn(EPT >> 12).with_walk_length_less_one(3);
    let controls = Controls { vpid: 1, eptp: Some(eptp), apic_access: Some(Hpa(BASE + 0x5000)), ..Controls::default() };
    bench.mmu.set_controls(&controls, 0);
    bench.context();
    assert_eq!(bench.access(Access::Read, false), Ok(BASE + 0x5567), "nobody flushed");
    bench.mmu.invvpid(InvvpidType::Single, InvvpidDescriptor { vpid: 1, ..Default::default() });
    assert_eq!(bench.access(Access::Read, false), Ok(BASE + 0x5567), "INVVPID leaves guest-physical mappings");
    bench.mmu.invept(InveptType::Single, InveptDescriptor { eptp, reserved: 0 });
    assert_eq!(bench.access(Access::Read, false), Err(Fault::ApicAccess { offset: 0x567, physical: false }));
    assert_eq!(bench.mmu.fast(Access::Read, LINEAR_ADDRESS, 1), None);
    assert_eq!(
        bench.access(Access::Read, false),
        Err(Fault::ApicAccess { offset: 0x567, physical: false }),
        "from the TLB too"
    );
}
