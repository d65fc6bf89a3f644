//! Each row on the software silicon: VMfail with its number, or an exit with its qualification, and nothing is changed.

use super::*;
use crate::silicon::{Outcome, Silicon, SiliconExt};
use crate::soft::SoftSilicon;
use hv_defs::exit::{ExitReason, Reason};
use hv_defs::instruction_error::InstructionError;

/// What an entry that fails may change.
const CHANGED: [VmcsField; 3] = [VM_INSTRUCTION_ERROR.field(), EXIT_REASON.field(), EXIT_QUALIFICATION.field()];

/// Tries to enter, and checks that the VMCS is as it was but for [`CHANGED`].
fn tried(broken: &Broken) -> (SoftSilicon, Result<Outcome, crate::silicon::Refused>) {
    let mut silicon = SoftSilicon::new(1 << 20, 1, 16, 0).with_capabilities(broken.capabilities);
    for (at, word) in MEMORY {
        silicon.write(Hpa(at), &word.to_le_bytes());
    }
    silicon.vmclear(0, Hpa(SELF));
    silicon.vmptrld(0, Hpa(SELF));
    let mut vmcs = broken.vmcs.clone();
    vmcs.set(EXIT_INSTRUCTION_LENGTH, 7);
    for (index, row) in TABLE.iter().enumerate() {
        silicon.vmwrite(0, row.field, vmcs.row(index));
    }
    let registers = silicon.registers(0).clone();
    let told = silicon.enter(0, true, 1000);
    for (index, row) in TABLE.iter().enumerate().filter(|(_, row)| !CHANGED.contains(&row.field)) {
        assert_eq!(silicon.vmread(0, row.field), vmcs.row(index), "{}: {}", broken.name, row.name);
    }
    assert_eq!((silicon.retired(), silicon.registers(0).clone()), (0, registers), "{}", broken.name);
    (silicon, told)
}

#[test]
fn controls_and_host_state_that_are_wrong_are_vmfail() {
    let numbers = [InstructionError::ENTRY_INVALID_CONTROL_FIELD, InstructionError::ENTRY_INVALID_HOST_STATE];
    let [controls, host, _] = broken();
    for (cases, number) in [controls, host].iter().zip(numbers) {
        // The software silicon's host is in IA-32e mode.
        for broken in cases.iter().filter(|broken| broken.long_mode_host) {
            let (mut silicon, told) = tried(broken);
            let refused = told.unwrap_err();
            assert_eq!((refused.error, refused.check.map(Check::name)), (Some(number), Some(broken.name)));
            assert_eq!(silicon.get(0, VM_INSTRUCTION_ERROR), number.0, "{}", broken.name);
        }
    }
}

#[test]
fn guest_state_that_is_wrong_is_an_exit() {
    for broken in &broken()[2] {
        let (mut silicon, told) = tried(broken);
        assert_eq!(told, Ok(Outcome::EntryFailed(Check::new(broken.name))));
        let reason = ExitReason::of(Reason::INVALID_GUEST_STATE).with_entry_failure(true);
        assert_eq!(silicon.get(0, EXIT_REASON), reason, "{}", broken.name);
        assert_eq!(silicon.get(0, EXIT_QUALIFICATION), qualification(broken.name), "{}", broken.name);
        let again = silicon.enter(0, false, 1000).unwrap_err();
        assert_eq!(again.error, Some(InstructionError::VMRESUME_NONLAUNCHED_VMCS), "{}", broken.name);
    }
}
