//! An L1 that pages its L2 by itself, with and without an APIC-access page; and an L2 that is a hypervisor.

use super::script::{Bench, Flags, L2_PAGES, VMCS_A};
use crate::l0::L0_MEMORY;
use crate::silicon::Silicon;
use crate::vmcs::{REVISION, SHADOW, Vmcs};
use hv_defs::addr::Hpa;
use hv_defs::controls::SecondaryControls;
use hv_defs::event::{Actor, VmcsOp, What, Which};
use hv_defs::exit::{InstructionInfo, Reason};
use hv_defs::policy::{Policy, Shadowing};
use hv_defs::vmcs::{self, VmcsField};

fn without_ept(preset: &str, more: SecondaryControls) -> Bench {
    let mut bench = Bench::with_l2(Policy::preset(preset).unwrap());
    bench.vmwrite(vmcs::SECONDARY_CONTROLS, SecondaryControls::VPID | more);
    bench.vmwrite(vmcs::APIC_ACCESS_ADDRESS, L2_PAGES);
    bench.vmwrite(vmcs::GUEST_CR3, 0x5000);
    bench.launch();
    assert_eq!(bench.level(), 2, "{preset}");
    bench
}

#[test]
fn l2_runs_on_ept01_then() {
    let mut bench = without_ept("kvm-2015", SecondaryControls::empty());
    assert_eq!(bench.now(vmcs::EPT_POINTER), bench.l0.shared.ept01.pointer);
    let mut bench = without_ept("mapped", SecondaryControls::empty());
    let [pointer, with_page] = bench.l0.shared.ept01.for_l2.unwrap().map(|second| second.pointer);
    assert!(pointer != with_page && pointer != bench.l0.shared.ept01.pointer);
    let root = |bench: &mut Bench, pointer: hv_defs::ept::Eptp| {
        let mut entry = [0; 8];
        bench.l0.silicon.read(Hpa(pointer.ep4ta()), &mut entry);
        u64::from_le_bytes(entry)
    };
    let eptp01 = bench.l0.shared.ept01.pointer;
    assert_eq!(root(&mut bench, pointer), root(&mut bench, eptp01), "the same tables");
    assert_eq!((bench.now(vmcs::EPT_POINTER), bench.now(vmcs::GUEST_CR3)), (pointer, 0x5000));
    assert_eq!((bench.now(vmcs::VPID), bench.story().iter().any(|line| line.starts_with("ept"))), (2, false));
    // What L1 asks to see of L2's paging goes to L1.
    bench.exits(Reason::INVLPG, &[]);
    assert_eq!(bench.level(), 2, "it does not ask for INVLPG, which L0 does not either");
}

#[test]
fn the_apic_access_page_costs_what_its_year_says() {
    let check = |preset: &str, with_page: usize, without: usize| {
        for (control, expected) in
            [(SecondaryControls::VIRTUALIZE_APIC_ACCESSES, with_page), (SecondaryControls::empty(), without)]
        {
            let mut bench = without_ept(preset, control);
            bench.vmcall();
            bench.log.events.clear();
            bench.resume();
            bench.vmcall();
            let flushes = bench.flushes();
            let invept = flushes.iter().filter(|flush| flush.starts_with("flush invept-single")).count();
            assert_eq!(invept, expected, "{preset}: {flushes:?}");
        }
    };
    check("kvm-2011", 2, 2);
    check("kvm-2015", 4, 2);
    check("kvm-2018", 0, 0);
    check("kvm-2020", 0, 0);
    check("mapped", 0, 0);
}

#[test]
fn moving_the_apic_access_page_under_the_same_root_flushes_it() {
    let mut bench = without_ept("kvm-2018", SecondaryControls::VIRTUALIZE_APIC_ACCESSES);
    let pointer = bench.now(vmcs::EPT_POINTER);
    let mut again = |page: u64, expected: usize| {
        bench.vmcall();
        bench.vmwrite(vmcs::APIC_ACCESS_ADDRESS, page);
        bench.log.events.clear();
        bench.resume();
        assert_eq!(bench.now(vmcs::EPT_POINTER), pointer);
        let flushes = bench.flushes();
        assert_eq!(flushes.iter().filter(|flush| flush.contains("apic-access-page")).count(), expected, "{flushes:?}");
    };
    again(L2_PAGES, 0);
    again(L2_PAGES + 0x1000, 1);
    again(L2_PAGES + 0x1000, 0);
}

const SHADOW12: u64 = 0x1_5000;
const BITMAP: u64 = 0x1_6000;

/// An L2 that may reach what `open` names of its shadow VMCS.
fn with_shadow(open: &[VmcsField], shadowing: Shadowing) -> Bench {
    let mut bench = Bench::with_l2(Policy { shadowing, ..Policy::default() });
    bench.store(SHADOW12, u64::from(REVISION | SHADOW));
    for word in 0..512 {
        bench.store(BITMAP + word * 8, u64::MAX);
    }
    for field in open {
        let at = BITMAP + u64::from(field.0) / 64 * 8;
        let word = bench.load(at) & !(1 << (field.0 % 64));
        bench.store(at, word);
    }
    let secondary = SecondaryControls::EPT | SecondaryControls::VPID | SecondaryControls::UNRESTRICTED_GUEST;
    bench.vmwrite(vmcs::SECONDARY_CONTROLS, secondary | SecondaryControls::VMCS_SHADOWING);
    bench.vmwrite(vmcs::VMREAD_BITMAP, BITMAP);
    bench.vmwrite(vmcs::VMWRITE_BITMAP, BITMAP);
    bench.vmwrite(vmcs::VMCS_LINK_POINTER, SHADOW12);
    assert_eq!(bench.launch(), Flags::SUCCEED);
    assert_eq!(bench.level(), 2);
    bench
}

/// L2's VMREAD or VMWRITE, with RCX and RDX as operands. Returns its flags: CF and ZF.
fn access(bench: &mut Bench, reason: Reason, field: u32, value: u64) -> (bool, bool) {
    *bench.gpr(1) = value;
    *bench.gpr(2) = field.into();
    let info = InstructionInfo::new().with_is_register(true).with_reg1(1).with_reg2(2);
    bench.exits(reason, &[(vmcs::EXIT_INSTRUCTION_INFO.field(), info.into_bits().into())]);
    let flags = bench.now(vmcs::GUEST_RFLAGS);
    (flags & 1 != 0, flags & 0x40 != 0)
}

#[test]
fn l2_reaches_its_shadow_vmcs_where_the_bitmaps_say_so() {
    let (rip, rights) = (vmcs::GUEST_RIP.field(), vmcs::GUEST_CS_ACCESS_RIGHTS.field());
    let mut bench = with_shadow(&[rip, rights, VmcsField(0x4026)], Shadowing::Emulated);
    assert!(!bench.now(vmcs::SECONDARY_CONTROLS).contains(SecondaryControls::VMCS_SHADOWING));
    bench.log.events.clear();
    assert_eq!(access(&mut bench, Reason::VMWRITE, rip.0, 0x1234), (false, false));
    assert_eq!(bench.load(SHADOW12 + Vmcs::offset(vmcs::GUEST_RIP.index()) as u64), 0x1234);
    let told = bench.log.events.iter().find_map(|event| match event.what {
        What::Vmcs(access) if access.actor == Actor::L2 => Some((access.which, access.field, access.old, access.value)),
        _ => None,
    });
    assert_eq!(told, Some((Which::Shadow12, rip, 0, 0x1234)));
    assert_eq!(access(&mut bench, Reason::VMREAD, rip.0, 0), (false, false));
    assert_eq!(*bench.gpr(1), 0x1234);
    // Undefined bits of access rights are not kept.
    access(&mut bench, Reason::VMWRITE, rights.0, 0xffff_ffff);
    access(&mut bench, Reason::VMREAD, rights.0, 0);
    assert_eq!(*bench.gpr(1), 0x1_f0ff);
    // A field that there is not: VMfailValid, with the number in the shadow VMCS.
    assert_eq!(access(&mut bench, Reason::VMREAD, 0x4026, 0), (false, true));
    assert_eq!(bench.load(SHADOW12 + Vmcs::offset(vmcs::VM_INSTRUCTION_ERROR.index()) as u64), 12);
    assert_eq!(bench.level(), 2);
    // There is no copy: what another CPU of L1's stores there is what L2 reads.
    bench.store(in_shadow12(vmcs::GUEST_RIP), 0x5678);
    access(&mut bench, Reason::VMREAD, rip.0, 0);
    assert_eq!(*bench.gpr(1), 0x5678);
    // What the bitmaps keep goes to L1.
    access(&mut bench, Reason::VMREAD, vmcs::GUEST_RSP.field().0, 0);
    assert_eq!((bench.level(), bench.vmread(vmcs::EXIT_REASON).reason()), (1, Reason::VMREAD));
}

#[test]
fn a_shadow_vmcs_can_be_loaded_and_not_entered() {
    let mut bench = with_shadow(&[], Shadowing::Emulated);
    bench.vmcall();
    assert_eq!(bench.vmptrld(SHADOW12), Flags::SUCCEED);
    assert_eq!(bench.vmwrite_raw(vmcs::EXIT_REASON.field().0, 10), Flags::SUCCEED, "every field can be written");
    assert_eq!(bench.launch(), Flags::INVALID);
    assert_eq!(bench.vmptrld(VMCS_A), Flags::SUCCEED);
    assert_eq!(bench.resume(), Flags::SUCCEED);
    // Without the feature there are no shadow VMCSs.
    let mut bench = Bench::with_l2(Policy::default());
    bench.store(SHADOW12, u64::from(REVISION | SHADOW));
    assert_eq!(bench.vmptrld(SHADOW12), Flags(11));
}

#[test]
fn without_shadowing_every_access_of_l2_s_is_l1_s() {
    let mut bench = Bench::with_l2(Policy::default());
    bench.launch();
    access(&mut bench, Reason::VMWRITE, vmcs::GUEST_RIP.field().0, 0);
    assert_eq!((bench.level(), bench.vmread(vmcs::EXIT_REASON).reason()), (1, Reason::VMWRITE));
}

/// Where a field of L1's shadow VMCS lies.
fn in_shadow12<T>(field: vmcs::Field<T>) -> u64 {
    SHADOW12 + Vmcs::offset(field.index()) as u64
}

#[test]
fn silicon_serves_l2_from_a_shadow_vmcs_of_l0_s() {
    let (rip, revision) = (vmcs::GUEST_RIP.field(), VmcsField(0x4026));
    let mut bench = with_shadow(&[rip, revision], Shadowing::Virtualized);
    assert!(bench.now(vmcs::SECONDARY_CONTROLS).contains(SecondaryControls::VMCS_SHADOWING));
    let (link, bitmap) = (bench.now(vmcs::VMCS_LINK_POINTER), bench.now(vmcs::VMREAD_BITMAP));
    assert!(link != SHADOW12 && link < L0_MEMORY && bench.now(vmcs::VMWRITE_BITMAP) != bitmap);
    let bit = |bench: &mut Bench, field: VmcsField| {
        let mut byte = [0];
        bench.l0.silicon.read(Hpa(bitmap + u64::from(field.0) / 8), &mut byte);
        byte[0] >> (field.0 % 8) & 1 != 0
    };
    assert!(!bit(&mut bench, rip) && bit(&mut bench, vmcs::GUEST_RSP.field()));
    assert!(bit(&mut bench, revision), "what is no field of L1's VMCSs exits, for L0 to say so");
    // L2 writes by itself; L1 finds it in its own when L2 has left.
    bench.l0.silicon.vmcs(link).set(vmcs::GUEST_RIP, 0x4321);
    assert_eq!(bench.load(in_shadow12(vmcs::GUEST_RIP)), 0);
    assert_eq!(access(&mut bench, Reason::VMREAD, revision.0, 0), (false, true));
    assert_eq!(bench.load(in_shadow12(vmcs::VM_INSTRUCTION_ERROR)), 12);
    bench.vmcall();
    assert_eq!(bench.load(in_shadow12(vmcs::GUEST_RIP)), 0x4321);
    // What L1 changes there, and in the bitmaps, L2 finds when it comes back.
    bench.store(in_shadow12(vmcs::GUEST_RIP), 0x1111);
    bench.store(in_shadow12(vmcs::GUEST_RSP), 0x2222);
    let rsp = u64::from(vmcs::GUEST_RSP.field().0);
    let word = bench.load(BITMAP + rsp / 64 * 8) & !(1 << (rsp % 64));
    bench.store(BITMAP + rsp / 64 * 8, word);
    bench.log.events.clear();
    assert_eq!(bench.resume(), Flags::SUCCEED);
    assert!(!bit(&mut bench, vmcs::GUEST_RSP.field()));
    let shadow = bench.l0.silicon.vmcs(link);
    assert_eq!((shadow.get(vmcs::GUEST_RIP), shadow.get(vmcs::GUEST_RSP)), (0x1111, 0x2222));
    // What has not changed is not written again: no field of the shadow vmcs02, no word of the bitmaps.
    let bitmaps = [bitmap, bench.now(vmcs::VMWRITE_BITMAP)];
    let again = |bench: &mut Bench| {
        bench.vmcall();
        bench.log.events.clear();
        bench.l0.silicon.written.clear();
        bench.resume();
        let writes = bench.log.events.iter().filter(|event| match event.what {
            What::Vmcs(access) => access.which == Which::Shadow02 && access.op == VmcsOp::Write,
            _ => false,
        });
        let words = bench.l0.silicon.written.iter().filter(|at| bitmaps.contains(&(at.0 & !0xfff)));
        (writes.count(), words.count())
    };
    assert_eq!(again(&mut bench), (0, 0));
    // One bit of L1's, which is for both, is one word of each, and the field is L2's to find: one VMWRITE.
    let rbx = u64::from(vmcs::GUEST_RFLAGS.field().0);
    let word = bench.load(BITMAP + rbx / 64 * 8) & !(1 << (rbx % 64));
    bench.store(BITMAP + rbx / 64 * 8, word);
    assert_eq!(again(&mut bench), (1, 2));
    assert_eq!(again(&mut bench), (0, 0));
}

#[test]
fn what_can_be_served_is_found_out_once() {
    let mut bench = with_shadow(&[], Shadowing::Virtualized);
    let list = bench.l0.shared.servable.as_ref().unwrap().words();
    bench.vmcall();
    // Another vmcs12 has a vmcs02 and a shadow vmcs02 of its own.
    bench.make_vmcs12(VMCS_A + 0x1000, 6);
    let secondary = SecondaryControls::EPT | SecondaryControls::VPID | SecondaryControls::UNRESTRICTED_GUEST;
    bench.vmwrite(vmcs::SECONDARY_CONTROLS, secondary | SecondaryControls::VMCS_SHADOWING);
    bench.vmwrite(vmcs::VMREAD_BITMAP, BITMAP);
    bench.vmwrite(vmcs::VMWRITE_BITMAP, BITMAP);
    bench.vmwrite(vmcs::VMCS_LINK_POINTER, SHADOW12);
    bench.log.events.clear();
    assert_eq!(bench.launch(), Flags::SUCCEED);
    assert_eq!(bench.level(), 2);
    assert_eq!(bench.l0.shared.servable.as_ref().unwrap().words(), list, "the same list, in the same place");
}

#[test]
fn without_a_shadow_vmcs_there_is_nothing_to_serve_from() {
    let mut bench = with_shadow(&[], Shadowing::Virtualized);
    bench.vmcall();
    bench.vmwrite(vmcs::VMCS_LINK_POINTER, u64::MAX);
    assert_eq!(bench.resume(), Flags::SUCCEED);
    assert!(!bench.now(vmcs::SECONDARY_CONTROLS).contains(SecondaryControls::VMCS_SHADOWING));
    assert_eq!(bench.now(vmcs::VMCS_LINK_POINTER), u64::MAX);
}
