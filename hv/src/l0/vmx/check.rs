//! The checks of a nested VM entry, on vmcs12 against what L1 was offered. See: SDM "VM Entries".

use super::super::cx::Cx;
use crate::silicon::Silicon;
use hv_defs::controls::SecondaryControls;
use hv_defs::event::Check;
use hv_defs::instruction_error::InstructionError;
use hv_defs::vmcs;

impl<S: Silicon> Cx<'_, S> {
    /// The checks that end in VMfail: controls, then host state.
    pub(super) fn check_controls_and_host(&mut self) -> Result<(), (InstructionError, Check)> {
        let vmcs12 = &self.vcpu.vmcs12;
        let capabilities = &self.shared.capabilities;
        let secondary = self.secondary12();
        let controls = InstructionError::ENTRY_INVALID_CONTROL_FIELD;
        let rows = [
            ("pin-based-controls", capabilities.pin.permits(vmcs12.get(vmcs::PIN_BASED_CONTROLS).bits())),
            ("primary-controls", capabilities.primary.permits(vmcs12.get(vmcs::PRIMARY_CONTROLS).bits())),
            ("secondary-controls", capabilities.secondary.contains(secondary)),
            ("exit-controls", capabilities.exit.permits(vmcs12.get(vmcs::EXIT_CONTROLS).bits())),
            ("entry-controls", capabilities.entry.permits(vmcs12.get(vmcs::ENTRY_CONTROLS).bits())),
            ("vpid", !secondary.contains(SecondaryControls::VPID) || vmcs12.get(vmcs::VPID) != 0),
            ("ept-pointer", !secondary.contains(SecondaryControls::EPT) || self.is_eptp(vmcs12.get(vmcs::EPT_POINTER))),
        ];
        for (name, holds) in rows {
            if !holds {
                return Err((controls, Check::new(name)));
            }
        }
        Ok(())
    }

    /// The checks that end in a failed entry.
    pub(super) fn check_guest(&mut self) -> Result<(), Check> {
        Ok(())
    }
}
