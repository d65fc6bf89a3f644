//! What a round trip from L1 to L2 and back costs the host, and a VMREAD of L1's, in nanoseconds, at two log levels, under
//! the policies named as arguments.

#[path = "../tests/support/nested.rs"]
mod nested;

use hv::l0::Ran;
use hv_defs::config::{Config, Guest, Log};
use hv_defs::policy::Policy;
use nested::Nested;
use std::time::Instant;

const ROUNDS: u32 = 300_000;
/// VMREADs in a round, where they are measured.
const READS: u32 = 8;

fn main() {
    let named: Vec<String> = std::env::args().skip(1).collect();
    let named = if named.is_empty() { ["kvm-2011", "kvm-2018", "mapped"].map(str::to_owned).to_vec() } else { named };
    for preset in &named {
        for log in [Log::Exits, Log::Vmcs] {
            let mut config = Config::new(Guest::BuiltIn("round trips".to_owned()));
            config.memory = 16 << 20;
            config.log = log;
            config.policy = Policy::preset(preset).unwrap_or_default();
            let (bare, events) = measure(&config, 0);
            let (reads, _) = measure(&config, READS);
            let read = (reads - bare) / f64::from(READS);
            println!("{preset}, log {log}: {bare:.0} ns a round trip, {events:.1} events; {read:.0} ns a VMREAD");
        }
    }
}

/// Nanoseconds and events of a round trip with so many VMREADs.
fn measure(config: &Config, reads: u32) -> (f64, f64) {
    let mut nested = Nested::with_reads(config, ROUNDS, reads);
    let (start, busy) = (Instant::now(), busy_ns());
    let mut events = 0;
    while matches!(nested.turn(), Ran::Ready | Ran::Slice) {
        events += nested.log.events.len();
        nested.log.events.clear();
    }
    let wall = start.elapsed().as_nanos() as f64;
    let spent = busy.zip(busy_ns()).map_or(wall, |(from, to)| (to - from) as f64);
    (spent / f64::from(ROUNDS), events as f64 / f64::from(ROUNDS))
}

/// Nanoseconds that this process has been on a CPU, where the host tells.
fn busy_ns() -> Option<u64> {
    std::fs::read_to_string("/proc/self/schedstat").ok()?.split_whitespace().next()?.parse().ok()
}
