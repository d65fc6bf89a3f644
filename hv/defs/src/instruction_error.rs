//! VM-instruction error numbers. See: SDM "VM Instruction Error Numbers".

use core::fmt;

/// The number that a VMfailValid leaves in the VM-instruction error field.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(transparent)]
pub struct InstructionError(pub u32);

macro_rules! errors {
    ($($name:ident = $number:literal : $text:literal),* $(,)?) => {
        impl InstructionError {
            $(#[doc = $text] pub const $name: Self = Self($number);)*

            /// What the SDM says of the number.
            pub const fn text(self) -> Option<&'static str> {
                match self.0 {
                    $($number => Some($text),)*
                    _ => None,
                }
            }
        }
    };
}

errors! {
    VMCALL_IN_ROOT = 1: "VMCALL executed in VMX root operation",
    VMCLEAR_INVALID_ADDRESS = 2: "VMCLEAR with invalid physical address",
    VMCLEAR_VMXON_POINTER = 3: "VMCLEAR with VMXON pointer",
    VMLAUNCH_NONCLEAR_VMCS = 4: "VMLAUNCH with non-clear VMCS",
    VMRESUME_NONLAUNCHED_VMCS = 5: "VMRESUME with non-launched VMCS",
    VMRESUME_AFTER_VMXOFF = 6: "VMRESUME after VMXOFF",
    ENTRY_INVALID_CONTROL_FIELD = 7: "VM entry with invalid control field(s)",
    ENTRY_INVALID_HOST_STATE = 8: "VM entry with invalid host-state field(s)",
    VMPTRLD_INVALID_ADDRESS = 9: "VMPTRLD with invalid physical address",
    VMPTRLD_VMXON_POINTER = 10: "VMPTRLD with VMXON pointer",
    VMPTRLD_INCORRECT_REVISION = 11: "VMPTRLD with incorrect VMCS revision identifier",
    UNSUPPORTED_VMCS_COMPONENT = 12: "VMREAD/VMWRITE from/to unsupported VMCS component",
    VMWRITE_READ_ONLY_COMPONENT = 13: "VMWRITE to read-only VMCS component",
    VMXON_IN_ROOT = 15: "VMXON executed in VMX root operation",
    ENTRY_INVALID_EXECUTIVE_VMCS = 16: "VM entry with invalid executive-VMCS pointer",
    ENTRY_NONLAUNCHED_EXECUTIVE_VMCS = 17: "VM entry with non-launched executive VMCS",
    ENTRY_EXECUTIVE_VMCS_NOT_VMXON = 18: "VM entry with executive-VMCS pointer not VMXON pointer",
    VMCALL_NONCLEAR_VMCS = 19: "VMCALL with non-clear VMCS",
    VMCALL_INVALID_EXIT_CONTROLS = 20: "VMCALL with invalid VM-exit control fields",
    VMCALL_INCORRECT_MSEG = 22: "VMCALL with incorrect MSEG revision identifier",
    VMXOFF_UNDER_DUAL_MONITOR = 23: "VMXOFF under dual-monitor treatment of SMIs and SMM",
    VMCALL_INVALID_SMM_FEATURES = 24: "VMCALL with invalid SMM-monitor features",
    ENTRY_INVALID_EXECUTIVE_CONTROLS = 25: "VM entry with invalid VM-execution control fields in executive VMCS",
    ENTRY_MOV_SS_BLOCKING = 26: "VM entry with events blocked by MOV SS",
    INVALID_INVEPT_INVVPID_OPERAND = 28: "Invalid operand to INVEPT/INVVPID",
}

impl fmt::Display for InstructionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.text() {
            Some(text) => write!(f, "{text} ({})", self.0),
            None => write!(f, "VM-instruction error {}", self.0),
        }
    }
}
