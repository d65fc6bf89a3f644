//! Each VMX instruction's ways to fail.

use super::script::{Bench, EPT12, Flags, VMCS_A, VMXON};
use crate::silicon::Silicon;
use hv_defs::exit::Reason;
use hv_defs::policy::Policy;
use hv_defs::vmcs;

const UD: Flags = Flags::fault(6);
const GP: Flags = Flags::fault(13);

/// Runs an instruction with an operand in each of three states: outside VMX operation, in it without a current vmcs12,
/// and with vmcs12 A current.
fn check(name: &str, reason: Reason, words: [u64; 2], second: u64, expected: [Flags; 3]) {
    let mut outside = Bench::preset("mapped");
    let mut inside = Bench::preset("mapped");
    inside.vmxon(VMXON);
    inside.make_ept12();
    let mut current = Bench::with_l2(Policy::default());
    let got = [&mut outside, &mut inside, &mut current].map(|bench| bench.vmx(reason, words, second));
    assert_eq!(got, expected, "{name}");
}

#[test]
fn pointers() {
    let ok = Flags::SUCCEED;
    let invalid = Flags::INVALID;
    check("vmxon again", Reason::VMXON, [VMXON, 0], 0, [invalid, invalid, Flags(15)]);
    check("vmxoff", Reason::VMXOFF, [0, 0], 0, [UD, ok, ok]);
    check("vmclear", Reason::VMCLEAR, [0x5000, 0], 0, [UD, ok, ok]);
    check("vmclear misaligned", Reason::VMCLEAR, [0x5008, 0], 0, [UD, invalid, Flags(2)]);
    check("vmclear beyond the address width", Reason::VMCLEAR, [1 << 46, 0], 0, [UD, invalid, Flags(2)]);
    check("vmclear of the VMXON region", Reason::VMCLEAR, [VMXON, 0], 0, [UD, invalid, Flags(3)]);
    check("vmptrld misaligned", Reason::VMPTRLD, [0x5008, 0], 0, [UD, invalid, Flags(9)]);
    check("vmptrld of the VMXON region", Reason::VMPTRLD, [VMXON, 0], 0, [UD, invalid, Flags(10)]);
    check("vmptrld of another revision", Reason::VMPTRLD, [0x5000, 0], 0, [UD, invalid, Flags(11)]);
    check("vmptrld where no RAM is", Reason::VMPTRLD, [0x8000_0000, 0], 0, [UD, invalid, Flags(11)]);
    check("vmptrst", Reason::VMPTRST, [0, 0], 0, [UD, ok, ok]);
    check("vmcall", Reason::VMCALL, [0, 0], 0, [UD, invalid, Flags(1)]);
}

#[test]
fn invalidations() {
    let ok = Flags::SUCCEED;
    let bad = |flags| [UD, Flags::INVALID, flags];
    let eptp = EPT12 | 0x1e;
    check("invept single", Reason::INVEPT, [eptp, 0], 1, [UD, ok, ok]);
    check("invept all", Reason::INVEPT, [0, 0], 2, [UD, ok, ok]);
    check("invept of no type", Reason::INVEPT, [eptp, 0], 3, bad(Flags(28)));
    check("invept of type 0", Reason::INVEPT, [eptp, 0], 0, bad(Flags(28)));
    check("invept of no EPT pointer", Reason::INVEPT, [EPT12, 0], 1, bad(Flags(28)));
    check("invvpid address", Reason::INVVPID, [5, 0x1000], 0, [UD, ok, ok]);
    check("invvpid single", Reason::INVVPID, [5, 0], 1, [UD, ok, ok]);
    check("invvpid all", Reason::INVVPID, [0, 0], 2, [UD, ok, ok]);
    check("invvpid retaining globals", Reason::INVVPID, [5, 0], 3, [UD, ok, ok]);
    check("invvpid of no type", Reason::INVVPID, [5, 0], 4, bad(Flags(28)));
    check("invvpid of VPID 0", Reason::INVVPID, [0, 0], 1, bad(Flags(28)));
    check("invvpid with reserved bits", Reason::INVVPID, [5 | 1 << 16, 0], 1, bad(Flags(28)));
    check("invvpid not canonical", Reason::INVVPID, [5, 1 << 63], 0, bad(Flags(28)));
}

#[test]
fn entries_need_the_right_launch_state() {
    let mut bench = Bench::preset("mapped");
    bench.vmxon(VMXON);
    assert_eq!(bench.launch(), Flags::INVALID);
    let mut bench = Bench::with_l2(Policy::default());
    assert_eq!(bench.resume(), Flags(5));
    assert_eq!(bench.launch(), Flags::SUCCEED);
    bench.vmcall();
    assert_eq!(bench.launch(), Flags(4));
    assert_eq!(bench.resume(), Flags::SUCCEED);
    bench.vmcall();
    // MOV SS blocks: silicon says so in vmcs01.
    bench.exits(Reason::VMRESUME, &[(vmcs::GUEST_INTERRUPTIBILITY.field(), 2)]);
    assert_eq!((bench.level(), bench.vmread(vmcs::VM_INSTRUCTION_ERROR)), (1, 26));
    assert_eq!(bench.vmclear(VMCS_A), Flags::SUCCEED);
    assert_eq!(bench.resume(), Flags::INVALID);
    assert_eq!(bench.vmptrld(VMCS_A), Flags::SUCCEED);
    assert_eq!(bench.resume(), Flags(5));
}

#[test]
fn fields() {
    let mut bench = Bench::preset("mapped");
    bench.vmxon(VMXON);
    assert_eq!(bench.vmread_raw(0x681e).0, Flags::INVALID);
    assert_eq!(bench.vmwrite_raw(0x681e, 0), Flags::INVALID);
    let mut bench = Bench::with_l2(Policy::default());
    assert_eq!(bench.vmread_raw(0x4026).0, Flags(12));
    assert_eq!(bench.vmwrite_raw(0x4026, 0), Flags(12));
    assert_eq!(bench.vmwrite_raw(vmcs::EXIT_REASON.field().0, 0), Flags(13));
    // A field's high half, by itself.
    assert_eq!(bench.vmwrite_raw(0x201b, 0x1234), Flags::SUCCEED);
    assert_eq!(bench.vmread_raw(0x201a), (Flags::SUCCEED, 0x1234 << 32 | EPT12 | 0x1e));
    assert_eq!(bench.vmread_raw(0x201b), (Flags::SUCCEED, 0x1234));
    // A 16-bit field holds 16 bits.
    assert_eq!(bench.vmwrite_raw(0, 0x7_0005), Flags::SUCCEED);
    assert_eq!(bench.vmread_raw(0), (Flags::SUCCEED, 5));
}

#[test]
fn privilege_and_addresses_fault() {
    let mut bench = Bench::with_l2(Policy::default());
    let rights = bench.now(vmcs::GUEST_SS_ACCESS_RIGHTS);
    let ring = |dpl: u64| (vmcs::GUEST_SS_ACCESS_RIGHTS.field(), u64::from(rights) & !0x60 | dpl << 5);
    let rip = bench.now(vmcs::GUEST_RIP);
    bench.exits(Reason::VMXOFF, &[ring(3)]);
    assert_eq!((bench.now(vmcs::GUEST_RIP), bench.now(vmcs::ENTRY_INTERRUPTION_INFO).vector()), (rip, 13));
    bench.exits(Reason::CPUID, &[ring(0)]);
    // An operand that L1's page tables do not map: #PF, with the address in CR2.
    *bench.gpr(0) = 0x40_0000_0000;
    let info = (vmcs::EXIT_INSTRUCTION_INFO.field(), 0x0045_8100);
    bench.exits(Reason::VMPTRLD, &[info]);
    let injected = bench.now(vmcs::ENTRY_INTERRUPTION_INFO);
    assert!(injected.valid() && injected.has_error_code());
    assert_eq!((injected.vector(), bench.now(vmcs::ENTRY_EXCEPTION_ERROR_CODE)), (14, 0));
    assert_eq!(bench.cr2(), 0x40_0000_0000);
    // And one that is not canonical: #GP.
    *bench.gpr(0) = 1 << 62;
    bench.exits(Reason::VMPTRLD, &[info]);
    assert_eq!(Flags::fault(bench.now(vmcs::ENTRY_INTERRUPTION_INFO).vector()), GP);
}

/// All VMX instructions that L1 may execute.
const ALL: [Reason; 12] = [
    Reason::VMXON,
    Reason::VMXOFF,
    Reason::VMCLEAR,
    Reason::VMPTRLD,
    Reason::VMPTRST,
    Reason::VMREAD,
    Reason::VMWRITE,
    Reason::VMLAUNCH,
    Reason::VMRESUME,
    Reason::INVEPT,
    Reason::INVVPID,
    Reason::VMCALL,
];

/// A vector that the next entry injects, if it injects.
fn injected(bench: &mut Bench) -> Option<u8> {
    let info = bench.now(vmcs::ENTRY_INTERRUPTION_INFO);
    info.valid().then(|| info.vector())
}

#[test]
fn outside_vmx_operation_and_above_ring_0_nothing_is_done() {
    for reason in ALL {
        let mut bench = Bench::preset("mapped");
        if reason == Reason::VMXON {
            bench.set_l1(vmcs::CR4_READ_SHADOW, 0x20);
        }
        let rip = bench.now(vmcs::GUEST_RIP);
        bench.exits(reason, &[]);
        assert_eq!((injected(&mut bench), bench.now(vmcs::GUEST_RIP)), (Some(6), rip), "{reason}");
        let mut bench = Bench::with_l2(Policy::default());
        let rip = bench.now(vmcs::GUEST_RIP);
        bench.set_l1(vmcs::GUEST_SS_ACCESS_RIGHTS, 0xc0f3);
        bench.exits(reason, &[]);
        assert_eq!((injected(&mut bench), bench.now(vmcs::GUEST_RIP), bench.level()), (Some(13), rip, 1), "{reason}");
    }
    // VM functions are for VMX non-root operation.
    let mut bench = Bench::with_l2(Policy::default());
    bench.exits(Reason::VMFUNC, &[]);
    assert_eq!(injected(&mut bench), Some(6));
}

#[test]
fn vmxon_needs_a_cpu_and_a_region_that_are_fit() {
    let check = |name: &str, expected: Flags, prepare: fn(&mut Bench), region: u64, revision: u64| {
        let mut bench = Bench::preset("mapped");
        prepare(&mut bench);
        if region < 0x10_0000 {
            bench.store(region & !7, revision);
        }
        assert_eq!(bench.vmx(Reason::VMXON, [region, 0], 0), expected, "{name}");
    };
    let good = u64::from(crate::vmcs::REVISION);
    check("fit", Flags::SUCCEED, |_| (), VMXON, good);
    check("CR0.NE", GP, |bench| bench.set_l1(vmcs::CR0_READ_SHADOW, 0x8000_0011), VMXON, good);
    check("locked", GP, |bench| bench.l0.vcpus[0].msrs.feature_control = 4, VMXON, good);
    check("enabled", GP, |bench| bench.l0.vcpus[0].msrs.feature_control = 1, VMXON, good);
    check("alignment", Flags::INVALID, |_| (), VMXON + 8, good);
    check("address width", Flags::INVALID, |_| (), 1 << 46, good);
    check("revision", Flags::INVALID, |_| (), VMXON, good + 1);
    check("shadow", Flags::INVALID, |_| (), VMXON, good | 1 << 31);
    // In VMX operation already it fails before it looks at its operand.
    let mut bench = Bench::with_l2(Policy::default());
    *bench.gpr(0) = 1 << 62;
    bench.exits(Reason::VMXON, &[(vmcs::EXIT_INSTRUCTION_INFO.field(), 0x0045_8100)]);
    assert_eq!((injected(&mut bench), bench.vmread(vmcs::VM_INSTRUCTION_ERROR)), (None, 15));
}

#[test]
fn vmx_operation_keeps_its_bits_of_cr0_and_cr4() {
    // MOV from RAX, in VMX operation and outside.
    let check = |cr: u64, value: u64, inside: Option<u8>, outside: Option<u8>| {
        for (operating, expected) in [(true, inside), (false, outside)] {
            let mut bench = if operating { Bench::with_l2(Policy::default()) } else { Bench::preset("mapped") };
            *bench.gpr(0) = value;
            bench.exits(Reason::CR_ACCESS, &[(vmcs::EXIT_QUALIFICATION.field(), cr)]);
            assert_eq!(injected(&mut bench), expected, "CR{cr} {value:#x} {operating}");
        }
    };
    check(4, 0x2020, None, None);
    check(4, 0x20, Some(13), None);
    check(0, 0x8000_0031, None, None);
    check(0, 0x8000_0011, Some(13), None);
    // Paging cannot be left from 64-bit mode anyway.
    check(0, 0x31, Some(13), Some(13));
}

#[test]
fn what_was_launched_before_vmxoff_is_not_resumed() {
    let mut bench = Bench::with_l2(Policy::default());
    bench.launch();
    bench.vmcall();
    assert_eq!(bench.vmx(Reason::VMXOFF, [0, 0], 0), Flags::SUCCEED);
    assert_eq!(bench.vmxon(VMXON), Flags::SUCCEED);
    assert_eq!(bench.vmptrld(VMCS_A), Flags::SUCCEED);
    assert_eq!(bench.resume(), Flags(6));
    assert_eq!(bench.launch(), Flags(4));
    // Nor after it was put away and taken up again.
    assert_eq!(bench.vmx(Reason::VMXOFF, [0, 0], 0), Flags::SUCCEED);
    assert_eq!(bench.vmxon(VMXON), Flags::SUCCEED);
    assert_eq!(bench.vmptrld(VMCS_A), Flags::SUCCEED);
    assert_eq!(bench.resume(), Flags(6));
    assert_eq!(bench.vmclear(VMCS_A), Flags::SUCCEED);
    assert_eq!(bench.vmptrld(VMCS_A), Flags::SUCCEED);
    assert_eq!(bench.resume(), Flags(5));
    assert_eq!(bench.launch(), Flags::SUCCEED);
}

#[test]
fn memory_operands_fault_as_their_segments_say() {
    const LONG: u32 = 0xa09b;
    /// The instruction's memory operand: (RAX), of 64 or 32 bits.
    const fn operand(segment: u8, address_size: u8) -> u64 {
        let info = hv_defs::exit::InstructionInfo::new()
            .with_segment(segment)
            .with_address_size(address_size)
            .with_base(0)
            .with_no_index(true);
        info.into_bits() as u64
    }
    let check =
        |name: &str, reason: Reason, segment: u8, address: u64, code: u32, rights: u32, limit: u32, expected| {
            let mut bench = Bench::with_l2(Policy::default());
            let long = code == LONG;
            bench.set_l1(vmcs::GUEST_CS_ACCESS_RIGHTS, code);
            if !long {
                // Outside IA-32e mode, without paging.
                bench.set_l1(vmcs::GUEST_EFER, 0);
                bench.set_l1(vmcs::GUEST_CR0, 0x31);
            }
            for field in [vmcs::GUEST_SS_ACCESS_RIGHTS, vmcs::GUEST_DS_ACCESS_RIGHTS] {
                bench.set_l1(field, rights);
            }
            for field in [vmcs::GUEST_SS_LIMIT, vmcs::GUEST_DS_LIMIT] {
                bench.set_l1(field, limit);
            }
            *bench.gpr(0) = address;
            let info = operand(segment, if long { 2 } else { 1 });
            bench.exits(reason, &[(vmcs::EXIT_INSTRUCTION_INFO.field(), info)]);
            assert_eq!(injected(&mut bench), expected, "{name}");
        };
    const DATA: u32 = 0xc093;
    const READ_ONLY: u32 = 0xc091;
    const EXPAND_DOWN: u32 = 0xc097;
    const UNUSABLE: u32 = 0x1_0000;
    const DS: u8 = 3;
    const SS: u8 = 2;
    let (at, st) = (Reason::VMPTRLD, Reason::VMPTRST);
    check("canonical", at, DS, 0x2_0000, LONG, DATA, 0, None);
    check("not canonical", at, DS, 1 << 47, LONG, DATA, 0, Some(13));
    check("not canonical, stack", at, SS, 1 << 47, LONG, DATA, 0, Some(12));
    check("its end is not canonical", at, DS, (1 << 47) - 4, LONG, DATA, 0, Some(13));
    check("unusable does not count in 64-bit mode", at, DS, 0x2_0000, LONG, UNUSABLE, 0, None);
    check("inside", at, DS, 0x2_0000, 0xc09b, DATA, u32::MAX, None);
    check("at the limit", at, DS, 0x2_0000, 0xc09b, DATA, 0x2_0007, None);
    check("beyond the limit", at, DS, 0x2_0000, 0xc09b, DATA, 0x2_0006, Some(13));
    check("beyond the limit, stack", at, SS, 0x2_0000, 0xc09b, DATA, 0x2_0006, Some(12));
    check("around the end", at, DS, 0xffff_fffc, 0xc09b, DATA, u32::MAX, Some(13));
    check("unusable", at, DS, 0x2_0000, 0xc09b, UNUSABLE | DATA, u32::MAX, Some(13));
    check("above an expand-down limit", at, DS, 0x2_0000, 0xc09b, EXPAND_DOWN, 0x1_ffff, None);
    check("below an expand-down limit", at, DS, 0x2_0000, 0xc09b, EXPAND_DOWN, 0x2_0000, Some(13));
    check("reading what is read-only", at, DS, 0x2_0000, 0xc09b, READ_ONLY, u32::MAX, None);
    check("writing what is read-only", st, DS, 0x2_0000, 0xc09b, READ_ONLY, u32::MAX, Some(13));
    check("writing code", st, DS, 0x2_0000, 0xc09b, 0xc09b, u32::MAX, Some(13));
    check("reading code", at, DS, 0x2_0000, 0xc09b, 0xc09b, u32::MAX, None);
    check("reading code for execution only", at, DS, 0x2_0000, 0xc09b, 0xc099, u32::MAX, Some(13));
    check("writing", st, DS, 0x2_0000, 0xc09b, DATA, u32::MAX, None);
}

#[test]
fn fields_of_64_bits_by_halves_in_32_bit_mode() {
    let mut bench = Bench::with_l2(Policy::default());
    bench.vmwrite(vmcs::TSC_OFFSET, 0x1111_1111_2222_2222);
    bench.vmwrite(vmcs::GUEST_RSP, 0x3333_3333_4444_4444);
    bench.set_l1(vmcs::GUEST_EFER, 0);
    bench.set_l1(vmcs::GUEST_CS_ACCESS_RIGHTS, 0xc09b);
    let check = |bench: &mut Bench, field: u32, expected: u64| {
        assert_eq!(bench.vmread_raw(field), (Flags::SUCCEED, expected), "{field:#x}");
    };
    check(&mut bench, 0x2010, 0x2222_2222);
    check(&mut bench, 0x2011, 0x1111_1111);
    check(&mut bench, 0x681c, 0x4444_4444);
    // A half leaves the other alone; a natural-width field loses what 32 bits do not hold.
    assert_eq!(bench.vmwrite_raw(0x2010, 0xffff_ffff_5555_5555), Flags::SUCCEED);
    assert_eq!(bench.vmwrite_raw(0x681c, 0x6666_6666), Flags::SUCCEED);
    bench.set_l1(vmcs::GUEST_EFER, 0x500);
    bench.set_l1(vmcs::GUEST_CS_ACCESS_RIGHTS, 0xa09b);
    check(&mut bench, 0x2010, 0x1111_1111_5555_5555);
    check(&mut bench, 0x681c, 0x6666_6666);
    // In 64-bit mode all of the encoding counts.
    *bench.gpr(2) = 1 << 32 | 0x681c;
    bench.exits(Reason::VMREAD, &[(vmcs::EXIT_INSTRUCTION_INFO.field(), 0x2000_0408)]);
    assert_eq!(bench.vmread(vmcs::VM_INSTRUCTION_ERROR), 12);
}

#[test]
fn fields_of_what_is_not_offered_are_not_there() {
    let mut bench = Bench::with_l2(Policy::default());
    for field in [
        vmcs::TERTIARY_CONTROLS.field(),
        vmcs::GUEST_PERF_GLOBAL_CTRL.field(),
        vmcs::GUEST_BNDCFGS.field(),
        vmcs::GUEST_RTIT_CTL.field(),
        vmcs::GUEST_S_CET.field(),
        vmcs::GUEST_PKRS.field(),
        vmcs::HOST_PERF_GLOBAL_CTRL.field(),
        vmcs::ENCLV_EXITING_BITMAP.field(),
        vmcs::INSTRUCTION_TIMEOUT.field(),
    ] {
        assert_eq!(bench.vmread_raw(field.0).0, Flags(12), "{field}");
        assert_eq!(bench.vmwrite_raw(field.0, 0), Flags(12), "{field}");
    }
    // VMWRITE to read-only fields, where IA32_VMX_MISC says that it may.
    assert_eq!(bench.vmwrite_raw(vmcs::EXIT_QUALIFICATION.field().0, 7), Flags(13));
    let shadowing = hv_defs::policy::Shadowing::Emulated;
    let mut bench = Bench::with_l2(Policy { shadowing, ..Policy::default() });
    assert_eq!(bench.vmwrite_raw(vmcs::EXIT_QUALIFICATION.field().0, 7), Flags::SUCCEED);
    assert_eq!(bench.vmread(vmcs::EXIT_QUALIFICATION), 7);
}

#[test]
fn a_shadow_vmcs_is_not_entered() {
    let shadowing = hv_defs::policy::Shadowing::Emulated;
    let mut bench = Bench::with_l2(Policy { shadowing, ..Policy::default() });
    bench.store(0x1_4000, u64::from(crate::vmcs::REVISION | crate::vmcs::SHADOW));
    assert_eq!(bench.vmclear(0x1_4000), Flags::SUCCEED);
    assert_eq!(bench.vmptrld(0x1_4000), Flags::SUCCEED);
    assert_eq!(bench.launch(), Flags::INVALID);
    assert_eq!(bench.resume(), Flags::INVALID);
    // Without VMCS shadowing it is no VMCS at all.
    let mut bench = Bench::with_l2(Policy::default());
    bench.store(0x1_4000, u64::from(crate::vmcs::REVISION | crate::vmcs::SHADOW));
    assert_eq!(bench.vmptrld(0x1_4000), Flags(11));
}

#[test]
fn vm_functions_of_l2() {
    use hv_defs::controls::SecondaryControls;
    const LIST: u64 = 0x2_4000;
    let check = |name: &str, enabled: Option<u64>, function: u64, index: u64, expected: (u8, Option<u8>)| {
        let mut bench = Bench::with_l2(Policy::default());
        if let Some(functions) = enabled {
            let secondary = bench.vmread(vmcs::SECONDARY_CONTROLS);
            bench.vmwrite(vmcs::SECONDARY_CONTROLS, secondary | SecondaryControls::VM_FUNCTIONS);
            bench.vmwrite(vmcs::VM_FUNCTION_CONTROLS, functions);
            bench.vmwrite(vmcs::EPTP_LIST_ADDRESS, LIST);
        }
        bench.store(LIST, EPT12 | 0x1e);
        bench.store(LIST + 8, EPT12);
        bench.launch();
        (*bench.gpr(0), *bench.gpr(1)) = (function, index);
        let rip = bench.now(vmcs::GUEST_RIP);
        bench.exits(Reason::VMFUNC, &[]);
        assert_eq!((bench.level(), injected(&mut bench)), expected, "{name}");
        match expected {
            (1, _) => assert_eq!(bench.vmread(vmcs::EXIT_REASON).reason(), Reason::VMFUNC, "{name}"),
            (_, None) => assert_eq!(bench.now(vmcs::GUEST_RIP), rip + 3, "{name}"),
            _ => assert_eq!(bench.now(vmcs::GUEST_RIP), rip, "{name}"),
        }
    };
    check("not enabled", None, 0, 0, (2, Some(6)));
    check("EPTP switching", Some(1), 0, 0, (2, None));
    check("EPTP switching, high halves", Some(1), 1 << 32, 1 << 32, (2, None));
    check("a function that is off", Some(0), 0, 0, (1, None));
    check("a function that there is not", Some(1), 1, 0, (1, None));
    check("a number beyond the functions", Some(1), 64, 0, (2, Some(6)));
    check("beyond the list", Some(1), 0, 512, (1, None));
    check("no EPT pointer", Some(1), 0, 1, (1, None));
}

#[test]
fn bad_controls_fail_by_name() {
    let mut bench = Bench::with_l2(Policy::default());
    bench.vmwrite(vmcs::VPID, 0);
    bench.log.events.clear();
    assert_eq!(bench.launch(), Flags(7));
    assert!(bench.story().iter().any(|line| line.starts_with("entry 2 fails")), "the check is named");
    bench.vmwrite(vmcs::VPID, 5);
    assert_eq!(bench.launch(), Flags::SUCCEED);
}

/// L1's state after an entry that failed: at its host RIP, with what vmcs12 says of it.
fn failed_entry(bench: &mut Bench) -> (u32, u64) {
    bench.log.events.clear();
    bench.launch();
    assert_eq!((bench.level(), bench.now(vmcs::GUEST_RIP)), (1, 0xa000));
    (bench.vmread(vmcs::EXIT_REASON).into_bits(), bench.vmread(vmcs::EXIT_QUALIFICATION))
}

#[test]
fn bad_guest_state_is_an_exit_that_loads_nothing() {
    let check = |field: vmcs::Field<u64>, value: u64, name: &str, qualification: u64| {
        let mut bench = Bench::with_l2(Policy::default());
        let good = bench.vmread(field);
        bench.vmwrite(field, value);
        assert_eq!(failed_entry(&mut bench), (0x8000_0021, qualification), "{name}");
        let story = bench.story();
        assert!(story.iter().any(|line| line == &format!("entry 2 fails {name}")), "{name}: {story:?}");
        assert!(!story.iter().any(|line| line == "entry 2"), "silicon was not asked");
        // Nothing was saved over it, and the VMCS is still clear.
        assert_eq!(bench.vmread(field), value);
        assert_eq!(bench.resume(), Flags(5));
        bench.vmwrite(field, good);
        assert_eq!(bench.launch(), Flags::SUCCEED);
    };
    check(vmcs::GUEST_RFLAGS, 0, "guest-rflags-one", 0);
    check(vmcs::GUEST_CR4, 0x20, "guest-cr4", 0);
    check(vmcs::VMCS_LINK_POINTER, 0x123, "guest-link-pointer-address", 4);
}

#[test]
fn an_msr_that_cannot_be_loaded_fails_the_entry_by_its_number() {
    let mut bench = Bench::with_l2(Policy::default());
    let area = 0x2_1000;
    bench.vmwrite(vmcs::VM_ENTRY_MSR_LOAD_ADDRESS, area);
    bench.vmwrite(vmcs::VM_ENTRY_MSR_LOAD_COUNT, 2);
    bench.store(area, 0xc000_0081); // STAR
    bench.store(area + 8, 0x77);
    bench.store(area + 16, 0xc000_0100); // FS_BASE may not be in an area
    assert_eq!(failed_entry(&mut bench), (0x8000_0022, 2));
    bench.store(area + 16, 0xc000_0102);
    bench.store(area + 24, 0x88);
    assert_eq!(bench.launch(), Flags::SUCCEED);
    let registers = bench.l0.silicon.registers(0);
    assert_eq!((registers.star, registers.kernel_gs_base), (0x77, 0x88));
}

#[test]
fn what_silicon_finds_wrong_with_l2_is_told_to_l1() {
    let mut bench = Bench::with_l2(Policy::default());
    bench.launch();
    bench.l0.silicon.fails = true;
    bench.exits(Reason::INVALID_GUEST_STATE, &[]);
    assert_eq!((bench.level(), bench.now(vmcs::GUEST_RIP)), (1, 0xa000));
    assert_eq!(bench.vmread(vmcs::EXIT_REASON).into_bits(), 0x8000_0021);
    // It never ran: VMLAUNCH again, with all of vmcs12 written.
    assert_eq!(bench.launch(), Flags::SUCCEED);
}

#[test]
fn an_entry_that_silicon_refuses_is_a_vmfail_of_l1_s() {
    let mut bench = Bench::with_l2(Policy::default());
    let rip = bench.now(vmcs::GUEST_RIP);
    bench.launch();
    bench.l0.silicon.refuses = true;
    bench.exits(Reason::CPUID, &[]);
    assert_eq!((bench.level(), bench.now(vmcs::GUEST_RIP)), (1, rip + 3));
    assert_eq!(bench.vmread(vmcs::VM_INSTRUCTION_ERROR), 7);
    assert_eq!(bench.launch(), Flags::SUCCEED);
}
