//! Recordings of the built-in guests, made anew.

use analyzer::{Findings, Source, findings};
use hv_defs::config::{Config, Guest};
use hv_defs::policy::Policy;
use recorder::{NoKeys, Outside};
use std::io;
use std::sync::atomic::AtomicBool;
use traces::Reader;

/// Records a built-in guest under a policy, changed by `change`.
pub(crate) fn record(guest: &str, policy: &str, change: impl FnOnce(&mut Config)) -> Reader {
    Reader::from_bytes(record_bytes(guest, policy, change)).expect("a trace")
}

/// As [`record`], the file's bytes.
pub(crate) fn record_bytes(guest: &str, policy: &str, change: impl FnOnce(&mut Config)) -> Vec<u8> {
    let mut config = Config::new(Guest::BuiltIn(guest.into()));
    config.policy = Policy::preset(policy).expect("a preset");
    change(&mut config);
    let stop = AtomicBool::new(false);
    let outside = Outside { console: &mut io::sink(), keys: &mut NoKeys, stop: &stop, watch: &mut |_| {} };
    let mut bytes = Vec::new();
    recorder::record_to(&config, &[], &mut bytes, outside).expect("recorded");
    bytes
}

/// The findings of a trace.
#[allow(dead_code)] // Not every test that shares this asks for them.
pub(crate) fn of(reader: &Reader) -> Findings {
    findings("trace", Source::Trace(reader)).expect("sound")
}
