//! What each flush leaves.

use super::super::tlb::{PageSize, Tag, flag};
use super::super::*;
use super::{CR0, CR4, EFER};
use hv_defs::ept::{InveptDescriptor, InveptType, InvvpidDescriptor, InvvpidType};
use hv_defs::x86::{Cr0, Cr4};

/// EP4TAs.
const A: u64 = 0xa000;
const B: u64 = 0xb000;
/// Linear addresses.
const HERE: u64 = 0x1000;
const THERE: u64 = 0x2000;

/// A name, an address, VPID, PCID and EP4TA.
type Row = (&'static str, u64, u16, Option<u16>, Option<u64>);

/// What is cached before each flush: a name, an address and a tag each. Names say the VPID, the PCID (or `g`), EP4TA in
/// upper case for combined mappings, and `'` for the other address. Guest-physical mappings are named by EP4TA alone.
const LINEAR: [Row; 16] = [
    ("0.0", HERE, 0, Some(0), None),
    ("0.0A", HERE, 0, Some(0), Some(A)),
    ("0.3", HERE, 0, Some(3), None),
    ("0.g", THERE, 0, None, None),
    ("1.0", HERE, 1, Some(0), None),
    ("1.0'", THERE, 1, Some(0), None),
    ("1.3", HERE, 1, Some(3), None),
    ("1.g", 0x3000, 1, None, None),
    ("1.0A", HERE, 1, Some(0), Some(A)),
    ("1.0A'", THERE, 1, Some(0), Some(A)),
    ("1.3A", HERE, 1, Some(3), Some(A)),
    ("1.gA", 0x3000, 1, None, Some(A)),
    ("1.0B", HERE, 1, Some(0), Some(B)),
    ("2.0A", HERE, 2, Some(0), Some(A)),
    ("2.gA", THERE, 2, None, Some(A)),
    ("2.0B", HERE, 2, Some(0), Some(B)),
];

/// An MMU that has all of that cached, in VPID 1, PCID 0, under EP4TA `A`.
fn filled() -> Mmu {
    let mut mmu = Mmu::new(256);
    let controls = Controls { vpid: 1, eptp: Some(Eptp::new().with_pfn(A >> 12)), ..Controls::default() };
    mmu.set_controls(&controls, 0);
    mmu.set_context(CR0, 0, CR4, EFER, &[0; 4]);
    for (name, address, vpid, pcid, ep4ta) in LINEAR {
        let (tag, _) = mmu.tlb.intern(Tag { vpid, pcid, ep4ta });
        let done = mmu.tlb.insert(tag, address, PageSize::Small, 0x7000, flag::EPT_ALL);
        assert!(done.evicted.is_none(), "{name} takes no other's place");
    }
    for ep4ta in [A, B] {
        let (tag, _) = mmu.guest_physical.intern(Tag { vpid: 0, pcid: None, ep4ta: Some(ep4ta) });
        mmu.guest_physical.insert(tag, HERE, PageSize::Small, 0x7000, flag::EPT_ALL);
    }
    mmu
}

/// The names of what is cached.
fn left(mmu: &Mmu) -> Vec<&'static str> {
    let cached: Vec<Cached> = mmu.cached().collect();
    let linear = LINEAR.iter().filter(|&&(_, address, vpid, pcid, ep4ta)| {
        let tag = Tag { vpid, pcid, ep4ta };
        cached.iter().any(|cached| cached.tag == tag && cached.address == address && !cached.guest_physical)
    });
    let physical = [("A", A), ("B", B)]
        .into_iter()
        .filter(|&(_, ep4ta)| cached.iter().any(|cached| cached.tag.ep4ta == Some(ep4ta) && cached.guest_physical));
    linear.map(|row| row.0).chain(physical.map(|row| row.0)).collect()
}

/// Whether a flush drops exactly what is named, and says so.
fn drops(flush: impl FnOnce(&mut Mmu) -> u32, names: &str) {
    let mut mmu = filled();
    let before = left(&mmu);
    let told = flush(&mut mmu);
    let after = left(&mmu);
    let dropped: Vec<_> = before.into_iter().filter(|name| !after.contains(name)).collect();
    assert_eq!(dropped, names.split_whitespace().collect::<Vec<_>>());
    assert_eq!(told as usize, dropped.len());
}

fn invvpid(kind: InvvpidType, vpid: u16, address: u64) -> impl FnOnce(&mut Mmu) -> u32 {
    move |mmu| mmu.invvpid(kind, InvvpidDescriptor { vpid, reserved: 0, address })
}

fn invept(kind: InveptType, ep4ta: u64) -> impl FnOnce(&mut Mmu) -> u32 {
    // The pointer's low bits are no part of the tag.
    let eptp = Eptp::new().with_pfn(ep4ta >> 12).with_accessed_dirty(true).with_memory_type(6);
    move |mmu| mmu.invept(kind, InveptDescriptor { eptp, reserved: 0 })
}

#[test]
fn flushes_drop_what_they_must_and_no_more() {
    use InveptType as Ept;
    use InvvpidType as Vpid;
    drops(invvpid(Vpid::Address, 1, HERE), "1.0 1.3 1.0A 1.3A 1.0B");
    drops(invvpid(Vpid::Address, 1, 0x3fff), "1.g 1.gA");
    drops(invvpid(Vpid::Address, 2, 0x5000), "");
    drops(invvpid(Vpid::Single, 1, 0), "1.0 1.0' 1.3 1.g 1.0A 1.0A' 1.3A 1.gA 1.0B");
    drops(invvpid(Vpid::Single, 7, 0), "");
    drops(invvpid(Vpid::All, 0, 0), "1.0 1.0' 1.3 1.g 1.0A 1.0A' 1.3A 1.gA 1.0B 2.0A 2.gA 2.0B");
    drops(invvpid(Vpid::RetainGlobals, 2, 0), "2.0A 2.0B");
    drops(invept(Ept::Single, A), "0.0A 1.0A 1.0A' 1.3A 1.gA 2.0A 2.gA A");
    drops(invept(Ept::Single, B), "1.0B 2.0B B");
    drops(invept(Ept::All, 0), "0.0A 1.0A 1.0A' 1.3A 1.gA 1.0B 2.0A 2.gA 2.0B A B");
    drops(Mmu::transition, "0.0 0.0A 0.3 0.g");
}

#[test]
fn what_a_guest_flushes_is_of_its_own_vpid() {
    use InvpcidType as Pcid;
    drops(|mmu| mmu.invlpg(HERE), "1.0 1.0A 1.0B");
    drops(|mmu| mmu.invlpg(0x3000), "1.g 1.gA");
    drops(|mmu| mmu.cr3_written(0), "1.0 1.0' 1.0A 1.0A' 1.0B");
    drops(|mmu| mmu.cr3_written(3), "1.3 1.3A");
    drops(|mmu| mmu.cr3_written(1 << 63 | 3), "");
    drops(|mmu| mmu.invpcid(Pcid::Address, 3, HERE), "1.3 1.3A");
    drops(|mmu| mmu.invpcid(Pcid::Address, 3, 0x3000), "");
    drops(|mmu| mmu.invpcid(Pcid::Single, 0, 0), "1.0 1.0' 1.0A 1.0A' 1.0B");
    drops(|mmu| mmu.invpcid(Pcid::All, 0, 0), "1.0 1.0' 1.3 1.g 1.0A 1.0A' 1.3A 1.gA 1.0B");
    drops(|mmu| mmu.invpcid(Pcid::RetainGlobals, 0, 0), "1.0 1.0' 1.3 1.0A 1.0A' 1.3A 1.0B");
    let all = "1.0 1.0' 1.3 1.g 1.0A 1.0A' 1.3A 1.gA 1.0B";
    drops(|mmu| mmu.cr4_written(CR4, CR4 ^ Cr4::PGE.bits()), all);
    drops(|mmu| mmu.cr4_written(CR4, CR4 ^ Cr4::PCIDE.bits()), all);
    drops(|mmu| mmu.cr4_written(CR4 ^ Cr4::PCIDE.bits(), CR4), "");
    drops(|mmu| mmu.cr4_written(CR4, CR4 | Cr4::SMEP.bits()), "1.0 1.0' 1.g 1.0A 1.0A' 1.gA 1.0B");
    drops(|mmu| mmu.cr4_written(CR4 | Cr4::SMEP.bits(), CR4), "");
    drops(|mmu| mmu.cr4_written(CR4, CR4 | Cr4::SMAP.bits()), "");
    drops(|mmu| mmu.cr0_written(CR0, CR0 & !Cr0::PG.bits()), all);
    drops(|mmu| mmu.cr0_written(CR0, CR0 & !Cr0::WP.bits()), "");
}

#[test]
fn replacement_goes_around_each_set_and_counts_stay_right() {
    let mut tlb = Tlb::new(16);
    let (tag, _) = tlb.intern(Tag { vpid: 1, pcid: Some(0), ep4ta: None });
    let mut evicted = 0;
    for page in 0..64u64 {
        evicted += u32::from(tlb.insert(tag, page << 12, PageSize::Small, 0x7000, 0).evicted.is_some());
    }
    assert_eq!(tlb.live(), 64 - evicted);
    assert_eq!(tlb.iter().count() as u32, tlb.live());
    assert!(tlb.live() <= 16);
    assert_eq!(tlb.flush(|_| true), 64 - evicted);
    assert_eq!(tlb.live(), 0);
}

#[test]
fn a_flushed_translation_that_comes_back_is_a_refill() {
    let mut tlb = Tlb::new(16);
    let (tag, _) = tlb.intern(Tag { vpid: 1, pcid: Some(0), ep4ta: None });
    assert!(!tlb.insert(tag, HERE, PageSize::Small, 0x7000, 0).refill);
    tlb.flush(|_| true);
    assert!(tlb.insert(tag, HERE, PageSize::Small, 0x7000, 0).refill);
    assert!(!tlb.insert(tag, THERE, PageSize::Small, 0x7000, 0).refill);
}
