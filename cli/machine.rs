//! From the machine's options to its configuration.

use super::words::{MachineArgs, PolicyArgs};
use hv_defs::config::{Config, Guest, Log};
use hv_defs::policy::Policy;

/// The configuration that the options describe, to be logged at `log`.
pub fn config(args: &MachineArgs, log: Log) -> Config {
    Config {
        memory: args.mem,
        vcpus: args.cpus,
        pcpus: args.pcpus,
        policy: policy(&args.policy),
        tlb_entries: args.tlb,
        seed: args.seed,
        slice: args.slice,
        log,
        max_instructions: args.max_instructions,
        stop_on: args.stop_on.clone(),
        ..Config::new(Guest::BuiltIn(args.guest.clone()))
    }
}

/// The preset's rules, then the single ones on top.
fn policy(args: &PolicyArgs) -> Policy {
    let preset = Policy::preset(&args.policy).expect("clap lets only presets through");
    Policy {
        tags: args.vpid.unwrap_or(preset.tags),
        transition_flush: args.transition_flush.unwrap_or(preset.transition_flush),
        root_load: args.root_load.unwrap_or(preset.root_load),
        pool: args.pool.unwrap_or(preset.pool),
        vmcs02_writes: args.vmcs02_writes.unwrap_or(preset.vmcs02_writes),
        shadowing: args.shadowing.unwrap_or(preset.shadowing),
        ..preset
    }
}

#[cfg(test)]
mod tests {
    use super::super::words::{Cli, Command};
    use super::*;
    use clap::Parser;
    use hv_defs::policy::{Tags, TransitionFlush};

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
    }
}
