//! The software CPU: what runs a guest's instructions in VMX non-root operation.

mod flags;
mod state;

pub use state::{Cpu, Segment, Table, Trap};

/// Runs until a VM exit. Counts retired instructions exactly into `clock`. When `clock` reaches `until`, an external
/// interrupt arrives from the host and the guest exits for it, exactly there.
pub fn run(cpu: &mut Cpu, memory: &mut Memory, blocks: &mut Blocks, clock: &mut u64, until: u64) -> Trap;

/// Delivers an event that VM entry injects, through the guest's IDT. `info` is a VM-entry interruption-information
/// field that passed the entry checks.
///
/// # Errors
/// The exit that delivery led to, with IDT-vectoring information.
pub fn inject(cpu: &mut Cpu, memory: &mut Memory, info: InterruptionInfo, error_code: u32, instruction_length: u32)
    -> Result<(), Trap>;
