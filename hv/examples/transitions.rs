//! What a VM entry and the exit after it cost the host, in nanoseconds a pair: one guest again and again,
//! and two in turn. The argument is the number of pairs.

#[path = "../tests/support/mod.rs"]
mod support;

use hv::silicon::{Silicon, SiliconExt};
use hv_defs::addr::Hpa;
use hv_defs::vmcs::{GUEST_RIP, VPID};
use std::time::Instant;
use support::{CODE, enter, silicon, skip, vmcs};

fn main() {
    let rounds = std::env::args().nth(1).and_then(|word| word.parse().ok()).unwrap_or(1_000_000);
    // CPUID, again and again.
    let code = [0x0f, 0xa2].repeat(16);
    for vpids in [[1, 2], [0, 0]] {
        let mut silicon = silicon(&code);
        let pages = [Hpa(0x2000), Hpa(0x3000)];
        for (page, vpid) in pages.into_iter().zip(vpids) {
            vmcs(&mut silicon, page.0, vpid);
            enter(&mut silicon, true);
        }
        let tags = if vpids[0] == 0 { "without VPID" } else { "with VPID" };
        measure(rounds, &format!("one guest, {tags}"), || {
            enter(&mut silicon, false);
            again(&mut silicon);
        });
        let mut turn = 0;
        measure(rounds, &format!("two guests in turn, {tags}"), || {
            turn ^= 1;
            silicon.vmptrld(0, pages[turn]);
            enter(&mut silicon, false);
            again(&mut silicon);
        });
        assert_eq!(silicon.get(0, VPID), vpids[turn]);
    }
}

/// Skips the instruction, and begins anew after the last.
fn again(silicon: &mut hv::soft::SoftSilicon) {
    skip(silicon);
    if silicon.get(0, GUEST_RIP) == CODE + 32 {
        silicon.set(0, GUEST_RIP, CODE);
    }
}

fn measure(rounds: u32, what: &str, mut pair: impl FnMut()) {
    let (start, busy) = (Instant::now(), busy_ns());
    for _ in 0..rounds {
        pair();
    }
    let wall = start.elapsed().as_nanos() as f64;
    // On a host that does other work too, only the time on the CPU says what a pair costs.
    let spent = busy.zip(busy_ns()).map_or(wall, |(from, to)| (to - from) as f64);
    println!("{what}: {:.1} ns", spent / f64::from(rounds));
}

/// Nanoseconds that this process has been on a CPU, where the host tells.
fn busy_ns() -> Option<u64> {
    std::fs::read_to_string("/proc/self/schedstat").ok()?.split_whitespace().next()?.parse().ok()
}
