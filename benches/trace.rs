//! What the trace format costs, beside this machine's floor: the table of `nvmx bench trace`, on the traces that are named
//! (`cargo bench --bench trace -- FILE...`), else on recordings of built-in guests.

#[allow(dead_code, unreachable_pub)] // What only JSON needs.
#[path = "../cli/bench/measure.rs"]
mod measure;
#[allow(dead_code, unreachable_pub)] // What only --peers needs.
#[path = "../cli/bench/peers.rs"]
mod peers;
#[allow(dead_code, unreachable_pub)]
#[path = "../cli/bench/show.rs"]
mod show;
#[allow(unreachable_pub)]
#[path = "../cli/bench/source.rs"]
mod source;

use std::path::Path;

/// Events taken of a trace.
const MOST: usize = 1_000_000;

fn main() {
    // cargo adds words of its own.
    let traces: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with("--")).collect();
    let named = !traces.is_empty();
    let names = if named { traces } else { source::GUESTS.map(str::to_owned).to_vec() };
    for name in names {
        let events = if named { source::of_trace(Path::new(&name), MOST) } else { source::of_guest(&name, MOST) };
        let events = events.unwrap_or_else(|error| stop(&name, &error.to_string()));
        let rows = measure::measure(&events, &mut || {}).unwrap_or_else(|error| stop(&name, &error.to_string()));
        println!("{name}: {} events\n{}", events.len(), show::rows(&rows));
    }
}

fn stop(name: &str, why: &str) -> ! {
    eprintln!("cannot measure on {name}: {why}");
    std::process::exit(3)
}
