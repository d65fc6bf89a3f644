//! What a round trip from L1 to L2 and back costs the host, in nanoseconds, at two log levels, under the policies named as
//! arguments.

#[path = "../tests/support/nested.rs"]
mod nested;

use hv::l0::Ran;
use hv_defs::config::{Config, Guest, Log};
use hv_defs::policy::Policy;
use nested::Nested;
use std::time::Instant;

const ROUNDS: u32 = 300_000;

fn main() {
    let named: Vec<String> = std::env::args().skip(1).collect();
    let named = if named.is_empty() { ["kvm-2011", "kvm-2018", "mapped"].map(str::to_owned).to_vec() } else { named };
    for preset in &named {
        for log in [Log::Exits, Log::Vmcs] {
            let mut config = Config::new(Guest::BuiltIn("round trips".to_owned()));
            config.memory = 16 << 20;
            config.log = log;
            config.policy = Policy::preset(preset).unwrap_or_default();
            let mut nested = Nested::with(&config, ROUNDS);
            let start = Instant::now();
            let mut events = 0;
            while matches!(nested.step(), Ran::Ready | Ran::Slice) {
                events += nested.log.events.len();
                nested.log.events.clear();
            }
            let each = start.elapsed().as_nanos() as f64 / f64::from(ROUNDS);
            println!("{preset}, log {log}: {each:.0} ns a round trip, {:.1} events", events as f64 / f64::from(ROUNDS));
        }
    }
}
