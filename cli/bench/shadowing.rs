//! What L1 sees of the VMREADs and VMWRITEs of an L2 that is a hypervisor: the guest `nest` under each way of VMCS shadowing.
//! Counts, which are the same on any machine.

use super::row::Row;
use hv_defs::config::{Config, Guest, Log};
use hv_defs::event::{Actor, Event, What};
use hv_defs::exit::Reason;
use hv_defs::policy::Shadowing;
use recorder::{NoKeys, Outside};
use std::io;
use std::sync::atomic::AtomicBool;

const WAYS: [(&str, Shadowing); 3] = [
    ("shadowing-off", Shadowing::Off),
    ("shadowing-emulated", Shadowing::Emulated),
    ("shadowing-virtualized", Shadowing::Virtualized),
];

/// Counts under each.
///
/// # Errors
/// The guest does not run.
pub fn measure() -> Result<Vec<Row>, recorder::Error> {
    WAYS.iter()
        .map(|&(name, shadowing)| {
            let mut config = Config { log: Log::Exits, ..Config::new(Guest::BuiltIn("nest".into())) };
            config.policy.shadowing = shadowing;
            let (mut by_l0, mut by_l1) = (0, 0);
            let mut count = |events: &[Event]| {
                for event in events {
                    if let What::Exit(exit) = event.what
                        && exit.level == 2
                        && [Reason::VMREAD, Reason::VMWRITE].contains(&exit.basic())
                    {
                        *(if exit.handled_by == Actor::L1 { &mut by_l1 } else { &mut by_l0 }) += 1;
                    }
                }
            };
            let stop = AtomicBool::new(false);
            let outside = Outside { console: &mut io::sink(), keys: &mut NoKeys, stop: &stop, watch: &mut count };
            recorder::run(&config, &[], outside)?;
            let what = format!("VMREADs and VMWRITEs of the guest nest that L1 sees, --shadowing {shadowing}");
            Ok(Row::new(name, what, "exits", f64::from(by_l1)).with("l0", f64::from(by_l0)))
        })
        .collect()
}
