//! The options of the machine that boots, and of L0's policy on it.

use super::values::{presets, size, word};
use clap::Args;
use hv_defs::config::Backend;
use hv_defs::policy::{PoolRecycle, RootLoad, Shadowing, Tags, TransitionFlush, Vmcs02Writes};
use hv_defs::slip::Slip;
use std::path::PathBuf;

/// What to boot, and on what.
#[derive(Args)]
pub struct MachineArgs {
    /// Built-in guest: see `nvmx guests`
    #[arg(value_name = "GUEST", required_unless_present = "kernel")]
    pub guest: Option<String>,
    /// Kernel to boot instead: bzImage, ELF or multiboot
    #[arg(long, value_name = "FILE", conflicts_with = "guest")]
    pub kernel: Option<PathBuf>,
    /// Its initrd
    #[arg(long, value_name = "FILE", requires = "kernel")]
    pub initrd: Option<PathBuf>,
    /// Its command line
    #[arg(long, value_name = "STRING", requires = "kernel", allow_hyphen_values = true)]
    pub append: Option<String>,
    /// What runs the instructions: the software CPU, or this host's KVM
    #[arg(long, value_name = "BACKEND", default_value = "soft", value_parser = word(Backend::ALL, Backend::name), help_heading = "Machine")]
    pub backend: Backend,
    /// L1's memory: a number with K, M or G; without one, mebibytes
    #[arg(long, value_name = "SIZE", default_value = "256M", value_parser = size, help_heading = "Machine")]
    pub mem: u64,
    /// L1's vCPUs
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..), help_heading = "Machine")]
    pub cpus: u16,
    /// Physical CPUs
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..), help_heading = "Machine")]
    pub pcpus: u16,
    /// Entries in each physical CPU's TLB
    #[arg(long, value_name = "ENTRIES", default_value_t = 1536, value_parser = clap::value_parser!(u32).range(16..), help_heading = "Machine")]
    pub tlb: u32,
    /// Give the CPUs 5-level paging
    #[arg(long, help_heading = "Machine")]
    pub la57: bool,
    /// Seeds all that the guest may take as random
    #[arg(long, value_name = "N", default_value_t = 0, help_heading = "Machine")]
    pub seed: u64,
    /// Instructions after which another vCPU has its turn and the guest is given input
    #[arg(long, value_name = "N", default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1..), help_heading = "Machine")]
    pub slice: u64,
    /// Stop after that many instructions
    #[arg(long, value_name = "N", help_heading = "Machine")]
    pub max_instructions: Option<u64>,
    /// Stop when the console shows this text
    #[arg(long, value_name = "TEXT", help_heading = "Machine")]
    pub stop_on: Option<String>,
    /// Feed the console from this file instead of stdin
    #[arg(long, value_name = "FILE", help_heading = "Machine")]
    pub input: Option<PathBuf>,
    #[command(flatten)]
    pub policy: PolicyArgs,
}

/// The rules that L0 runs under: a preset, then single rules on top of it.
#[derive(Args)]
#[command(next_help_heading = "L0's policy")]
pub struct PolicyArgs {
    /// A year of KVM's history, or a proposal
    #[arg(long, value_name = "PRESET", default_value = "mapped", value_parser = presets())]
    pub policy: String,
    /// Slots in the vmcs02 pool of each vCPU
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub pool: Option<u16>,
    /// Whose vmcs02 is taken when all slots are in use
    #[arg(long, value_name = "RULE", value_parser = word(PoolRecycle::ALL, PoolRecycle::name))]
    pub pool_recycle: Option<PoolRecycle>,
    /// Which VPIDs L1 and its L2s run under
    #[arg(long, value_name = "TAGS", value_parser = word(Tags::ALL, Tags::name))]
    pub vpid: Option<Tags>,
    /// How VMCS shadowing is offered to an L1 whose L2s are hypervisors
    #[arg(long, value_name = "HOW", value_parser = word(Shadowing::ALL, Shadowing::name))]
    pub shadowing: Option<Shadowing>,
    /// When a nested entry or exit flushes
    #[arg(long, value_name = "WHEN", value_parser = word(TransitionFlush::ALL, TransitionFlush::name))]
    pub transition_flush: Option<TransitionFlush>,
    /// What loading an EPT root costs
    #[arg(long, value_name = "HOW", value_parser = word(RootLoad::ALL, RootLoad::name))]
    pub root_load: Option<RootLoad>,
    /// Whether a nested entry or exit flushes when L1 uses an APIC-access page without EPT
    #[arg(long, value_name = "BOOL")]
    pub apic_access_flush: Option<bool>,
    /// Which fields of vmcs02 are written at a nested entry
    #[arg(long, value_name = "WHICH", value_parser = word(Vmcs02Writes::ALL, Vmcs02Writes::name))]
    pub vmcs02_writes: Option<Vmcs02Writes>,
    /// Have L0 make a mistake that hypervisors have made, to see it noticed; several are separated by commas
    #[arg(long, value_name = "SLIP", value_delimiter = ',', value_parser = word(Slip::ALL, Slip::name))]
    pub fault: Vec<Slip>,
}
