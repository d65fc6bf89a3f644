//! Who executes a guest's plain instructions in the software CPU's place.
//!
//! An engine is another CPU, such as the host's through its KVM. It executes what it can be trusted with, in the memory
//! that the software CPU has too, and leaves everything that a hypervisor may want to hear of to the software CPU: which
//! then decides, from the state that the engine has reached, whether the instruction exits, faults or completes.

use super::state::Cpu;
use crate::memory::Memory;
use hv_defs::addr::Hpa;

/// What a machine under our own L0 goes without where KVM executes its guests' plain instructions, a line each.
pub const NOT_OFFERED: [&str; 3] = [
    "accessed and dirty flags in EPT, which KVM sets for nobody: refused in IA32_VMX_EPT_VPID_CAP",
    "page-modification logging, for the same reason: refused among the secondary processor-based controls",
    "how many translations a flush drops: KVM does not tell, and traces have 0 there",
];

/// What never is left to KVM, since it would not be seen: the software CPU executes it, a line each.
pub const NOT_LEFT_TO_KVM: [&str; 5] = [
    "what may exit: CPUID, HLT, I/O, RDMSR, RDTSC, moves to and from control and debug registers, VMX, and all other system instructions",
    "what raises an exception, and its delivery",
    "code outside 64-bit mode, and under protection keys or 5-level paging",
    "x87, SSE and AVX, strings, and what accesses memory in two places",
    "what accesses guest-physical memory that EPT does not map for reading and writing both",
];

/// Another CPU for plain instructions.
///
/// What it does is what the software CPU would have done, instruction for instruction, so that both make the same events.
pub trait Engine: core::fmt::Debug + Send {
    /// Executes instructions of the guest, from an instruction boundary at which no event waits, and leaves the guest's
    /// state in `cpu` and `memory`. The first one's bytes are at `code`, as far as they are in its page. Returns how many
    /// were retired, at most `most`; 0 when the next is the software CPU's.
    ///
    /// # Errors
    /// In words, when it can no longer be asked: the run ends for it.
    fn run(&mut self, cpu: &mut Cpu, memory: &mut Memory, code: Hpa, most: u64) -> Result<u64, String>;

    /// Mappings of EPT may have changed: of the tables at that address, or of any. What goes wrong then, the next
    /// [`Engine::run`] tells.
    fn invalidate(&mut self, ep4ta: Option<u64>);

    /// Tells memory of the pages that its guests may have written to since the last call.
    fn tell_writes(&mut self, memory: &mut Memory);

    /// Instructions that it has retired.
    fn retired(&self) -> u64;
}
