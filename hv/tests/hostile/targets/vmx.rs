//! A hostile L1 that the bytes decide: its policy and CPUs, its vmcs12s, EPT12s and code, which is also its L2s', and when which
//! vCPU runs. `Watched` looks at each VMCS and EPT that L0 has silicon enter.

use super::super::case::Case;

/// Steps of an input at most.
const STEPS: u64 = 250;

pub(super) fn target(data: &[u8]) {
    super::same_again(data, || {
        let mut case = Case::fuzzed(data, STEPS);
        case.run();
        case.told.digest ^ case.told.steps
    });
}
