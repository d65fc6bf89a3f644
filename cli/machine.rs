//! From the machine's options to its configuration.

use super::fail::{Fails, Result, Status};
use super::words::{MachineArgs, PolicyArgs};
use hv_defs::config::{Config, Guest, ImageKind, Log};
use hv_defs::policy::Policy;
use std::path::Path;
use traces::Image;

/// A machine that the options describe.
pub struct Described {
    /// Its configuration.
    pub config: Config,
    /// What it boots from.
    pub images: Vec<Image>,
    /// What to call its guest.
    pub name: String,
}

/// The machine that the options describe, to be logged at `log`. Reads the images.
///
/// # Errors
/// An image cannot be read.
pub fn describe(args: &MachineArgs, log: Log) -> Result<Described> {
    let mut images = Vec::new();
    let files = [(ImageKind::Kernel, &args.kernel), (ImageKind::Initrd, &args.initrd)];
    for (kind, path) in files.into_iter().filter_map(|(kind, path)| Some((kind, path.as_ref()?))) {
        let what = format!("cannot read the {kind} {}", path.display());
        let bytes = std::fs::read(path).or_hint(Status::Usage, what, "name a readable file")?;
        images.push(Image::new(kind, file_name(path), bytes));
    }
    let name = match (&args.guest, images.first()) {
        (Some(guest), _) => guest.clone(),
        (None, kernel) => kernel.map(|kernel| kernel.name.clone()).unwrap_or_default(),
    };
    Ok(Described { config: config(args, log), images, name })
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}

/// The configuration that the options describe, to be logged at `log`.
fn config(args: &MachineArgs, log: Log) -> Config {
    let guest = match (&args.guest, &args.kernel) {
        (_, Some(kernel)) => Guest::Kernel { name: file_name(kernel), append: args.append.clone().unwrap_or_default() },
        (guest, None) => Guest::BuiltIn(guest.clone().unwrap_or_default()),
    };
    Config {
        memory: args.mem,
        backend: args.backend,
        vcpus: args.cpus,
        pcpus: args.pcpus,
        policy: policy(&args.policy),
        slips: args.policy.fault.iter().copied().collect(),
        tlb_entries: args.tlb,
        la57: args.la57,
        seed: args.seed,
        slice: args.slice,
        log,
        max_instructions: args.max_instructions,
        stop_on: args.stop_on.clone(),
        ..Config::new(guest)
    }
}

/// The preset's rules, then the single ones on top.
fn policy(args: &PolicyArgs) -> Policy {
    let preset = Policy::preset(&args.policy).expect("clap lets only presets through");
    Policy {
        tags: args.vpid.unwrap_or(preset.tags),
        transition_flush: args.transition_flush.unwrap_or(preset.transition_flush),
        root_load: args.root_load.unwrap_or(preset.root_load),
        apic_access_flush: args.apic_access_flush.unwrap_or(preset.apic_access_flush),
        pool: args.pool.unwrap_or(preset.pool),
        pool_recycle: args.pool_recycle.unwrap_or(preset.pool_recycle),
        vmcs02_writes: args.vmcs02_writes.unwrap_or(preset.vmcs02_writes),
        shadowing: args.shadowing.unwrap_or(preset.shadowing),
    }
}

#[cfg(test)]
mod tests {
    use super::super::words::{Cli, Command};
    use super::*;
    use clap::Parser;
    use hv_defs::policy::{PoolRecycle, Tags, TransitionFlush};

    fn parsed(line: &str) -> Config {
        match Cli::try_parse_from(line.split(' ')).expect("a right command line").command {
            Command::Run(args) => config(&args.machine, Log::Exits),
            Command::Record(args) => config(&args.machine, args.log),
            _ => panic!("neither run nor record: {line}"),
        }
    }

    #[test]
    fn a_preset_first_then_single_rules() {
        let check = |line: &str, want: Policy| assert_eq!(parsed(line).policy, want, "{line}");
        let preset = |name| Policy::preset(name).expect("a preset");
        check("nvmx run demo", preset("mapped"));
        check("nvmx run demo --policy kvm-2011", preset("kvm-2011"));
        check("nvmx run demo --pool 3 --policy kvm-2015", Policy { pool: 3, ..preset("kvm-2015") });
        check("nvmx run demo --policy kvm-2015 --vpid off", Policy { tags: Tags::Off, ..preset("kvm-2015") });
        check(
            "nvmx run demo --policy kvm-2015 --apic-access-flush false",
            Policy { apic_access_flush: false, ..preset("kvm-2015") },
        );
        check("nvmx run demo --pool-recycle fifo", Policy { pool_recycle: PoolRecycle::Fifo, ..preset("mapped") });
        check(
            "nvmx run demo --transition-flush always",
            Policy { transition_flush: TransitionFlush::Always, ..preset("mapped") },
        );
    }

    #[test]
    fn the_machine_is_as_asked() {
        let config = parsed("nvmx record pool-thrash --mem 64M --tlb 32 --seed 7 --max-instructions 1000 --stop-on ok");
        assert_eq!(config.guest, Guest::BuiltIn("pool-thrash".into()));
        assert_eq!((config.memory, config.tlb_entries, config.seed), (64 << 20, 32, 7));
        assert_eq!((config.max_instructions, config.stop_on.as_deref()), (Some(1000), Some("ok")));
        assert_eq!(config.log, Log::Vmcs);
        assert_eq!(parsed("nvmx record demo --log exits").log, Log::Exits);
        let kernel = parsed("nvmx run --kernel /boot/vmlinuz --append quiet").guest;
        assert_eq!(kernel, Guest::Kernel { name: "vmlinuz".into(), append: "quiet".into() });
    }
}
