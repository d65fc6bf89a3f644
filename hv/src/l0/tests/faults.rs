//! Exceptions that L0 raises in a guest, by what the guest and its L1 make of them.

use super::script::Bench;
use hv_defs::exit::{InterruptionInfo, Reason};
use hv_defs::policy::Policy;
use hv_defs::vmcs;
use hv_defs::x86::Vector;

/// An MSR that there is not: RDMSR of it is #GP(0).
const NONE: u64 = 0xdead;

#[test]
fn an_exception_pushes_no_error_code_in_real_mode() {
    for (cr0, pushes) in [(0x8000_0033, true), (0x30, false), (0x31, true)] {
        let mut bench = Bench::preset("mapped");
        *bench.gpr(1) = NONE;
        bench.exits(Reason::RDMSR, &[(vmcs::GUEST_CR0.field(), cr0)]);
        let info = bench.now(vmcs::ENTRY_INTERRUPTION_INFO);
        assert_eq!((info.valid(), info.vector(), info.has_error_code()), (true, Vector::GP.0, pushes), "{cr0:#x}");
    }
}

/// L2 reads an MSR that there is not and L1 leaves to L0, under an exception bitmap, while an event is being delivered.
fn check(bitmap: u32, vectoring: InterruptionInfo, expected: Option<Vector>) {
    let mut bench = Bench::with_l2(Policy::default());
    let primary = bench.vmread(vmcs::PRIMARY_CONTROLS);
    bench.vmwrite(vmcs::PRIMARY_CONTROLS, primary | hv_defs::controls::PrimaryControls::MSR_BITMAPS);
    bench.vmwrite(vmcs::MSR_BITMAP, 0x5_0000);
    bench.vmwrite(vmcs::EXCEPTION_BITMAP, bitmap);
    bench.launch();
    bench.exits(Reason::EXTERNAL_INTERRUPT, &[]);
    *bench.gpr(1) = 0x1ead;
    bench.exits(Reason::RDMSR, &[(vmcs::IDT_VECTORING_INFO.field(), vectoring.into_bits().into())]);
    let Some(vector) = expected else {
        assert_eq!(bench.level(), 2);
        assert!(bench.now(vmcs::ENTRY_INTERRUPTION_INFO).valid());
        return;
    };
    assert_eq!(bench.level(), 1, "L1 wants {vector:?}");
    assert_eq!(bench.vmread(vmcs::EXIT_REASON).reason(), Reason::EXCEPTION_NMI);
    let info = bench.vmread(vmcs::EXIT_INTERRUPTION_INFO);
    assert_eq!((info.valid(), info.vector(), info.has_error_code()), (true, vector.0, true));
    assert_eq!(bench.vmread(vmcs::IDT_VECTORING_INFO), vectoring);
    assert_eq!(bench.vmread(vmcs::GUEST_RIP), 0x100);
}

#[test]
fn l1_is_told_of_exceptions_of_l2_that_l0_raises_if_it_asks() {
    let none = InterruptionInfo::new();
    let fault = |vector: Vector| {
        none.with_vector(vector.0).with_kind(hv_defs::exit::EventType::HardwareException).with_valid(true)
    };
    check(1 << Vector::GP.0, none, Some(Vector::GP));
    check(0, none, None);
    check(!(1 << Vector::GP.0), none, None);
    check(1 << Vector::DF.0, fault(Vector::DE), Some(Vector::DF));
    check(1 << Vector::GP.0, fault(Vector::DE), None);
    check(1 << Vector::GP.0, fault(Vector::UD), Some(Vector::GP));
}
