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
