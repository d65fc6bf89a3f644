//! A hostile L1 on the software CPU: random VMX instructions, random vmcs12s, random EPT12s, random L2s, on several vCPUs
//! and physical CPUs, under every policy. L0 never panics, never maps what is not L1's, never works without end, and a run
//! ends in a defined state.
//!
//! With it: a hostile L2 below an honest L1, kernels and initrds of any content, and a board that is asked for anything; and
//! what the fuzz targets of `hv/fuzz` begin with and have found.
//!
//! | variable | is |
//! | --- | --- |
//! | `NVMX_HOSTILE_STEPS` | how many steps `l0_outlives_any_l1` makes, an entry and its exit each; 250,000 without it |
//! | `NVMX_HOSTILE_FIRST` | the seed of the first of its cases, 1000 without it: the cases after it have the numbers after |
//! | `NVMX_HOSTILE_SEED` | the seed of the one case that `one_seed` runs: a failed test names it |
//! | `NVMX_HOSTILE_HONEST` | the first of the 24 seeds of hostile L2s below an honest L1 |
//! | `NVMX_HOSTILE_TELL` | set to anything, with `--nocapture`, it has tests say what they met |

mod actions;
mod board;
mod case;
mod code;
mod contents;
mod dice;
mod honest;
mod images;
mod layout;
mod ports;
mod targets;

use case::{Case, Told};
use hv_defs::event::Event;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

const SEED: &str = "NVMX_HOSTILE_SEED";

/// Says which seed it was when a case ends in a panic.
struct Guard(&'static str, u64);

impl Drop for Guard {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let test = if self.0 == SEED { "one_seed" } else { "l2_reaches" };
            eprintln!("again: {}={} cargo test --release -p hv --test hostile {test}", self.0, self.1);
        }
    }
}

fn one(seed: u64, keep: bool) -> (Told, Option<Vec<Event>>) {
    let _guard = Guard(SEED, seed);
    let mut case = Case::new(seed);
    case.keep = keep.then(Vec::new);
    case.run();
    (case.told, case.keep)
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

/// Cases from a first seed on until there were so many steps; what they were, all together.
fn many(first: u64, steps: u64) -> Told {
    let mut all = Told::default();
    let (mut ends, mut seed) = (BTreeMap::<String, u64>::new(), first);
    while all.steps < steps {
        let (told, _) = one(seed, false);
        seed += 1;
        all.steps += told.steps;
        all.exits = core::array::from_fn(|level| all.exits[level] + told.exits[level]);
        all.most_calls = all.most_calls.max(told.most_calls);
        all.leaves += told.leaves;
        for (what, count) in told.reasons {
            *all.reasons.entry(what).or_default() += count;
        }
        for (what, count) in told.features {
            *all.features.entry(what).or_default() += count;
        }
        for (what, count) in told.refused {
            *all.refused.entry(what).or_default() += count;
        }
        let end: String = told.end.chars().filter(|c| !c.is_ascii_digit()).collect();
        *ends.entry(end).or_default() += 1;
    }
    if std::env::var_os("NVMX_HOSTILE_TELL").is_some() {
        eprintln!("{} steps in {} cases, exits {:?}", all.steps, seed - first, all.exits);
        eprintln!("most calls {}, {} leaves, {:?}", all.most_calls, all.leaves, all.features);
        eprintln!("ends: {ends:#?}\nexits: {:?}\nrefused: {:?}", all.reasons, all.refused);
    }
    all
}

#[test]
fn one_seed() {
    let (told, _) = one(number(SEED).unwrap_or(1), false);
    if std::env::var_os("NVMX_HOSTILE_TELL").is_some() {
        eprintln!("{} steps, exits {:?}, {}\n{:?}", told.steps, told.exits, told.end, told.reasons);
    }
    assert!(told.steps > 0 && !told.end.is_empty());
}

#[test]
fn l0_outlives_any_l1() {
    let steps = number("NVMX_HOSTILE_STEPS").unwrap_or(250_000);
    let told = many(number("NVMX_HOSTILE_FIRST").unwrap_or(1000), steps);
    assert!(told.exits[2] > steps / 20, "L2 exited {} times: not much of a test", told.exits[2]);
}

#[test]
fn the_same_seed_gives_the_same_events() {
    for seed in 1..6 {
        let runs = [one(seed, true), one(seed, true)];
        assert_eq!(runs[0].0.digest, runs[1].0.digest, "seed {seed}");
        assert!(runs[0].1 == runs[1].1, "seed {seed}");
    }
}

/// The inputs that fuzzing begins with, and those that it found something with.
fn inputs(name: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(name);
    let Ok(listed) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut paths: Vec<PathBuf> = listed.map(|entry| entry.expect("listed").path()).collect();
    paths.sort();
    paths.into_iter().map(|path| (path.clone(), std::fs::read(path).expect("read"))).collect()
}

fn replay(name: &str) {
    let (_, target) = targets::TARGETS.iter().find(|(known, _)| *known == name).expect("a target");
    target(&[]);
    let inputs = inputs(name);
    assert!(inputs.len() >= 4, "{name} has {} inputs", inputs.len());
    let tells = std::env::var_os("NVMX_HOSTILE_TELL").is_some();
    for (path, bytes) in inputs {
        if tells {
            eprintln!("{}", path.display());
        }
        target(&bytes);
    }
}

macro_rules! replays {
    ($($test:ident of $name:literal;)*) => {
        $(
            #[test]
            fn $test() {
                replay($name);
            }
        )*

        #[test]
        fn every_target_has_its_test() {
            assert!(targets::TARGETS.iter().map(|(name, _)| *name).eq([$($name),*]));
        }
    };
}

replays! {
    fuzzed_code of "exec";
    fuzzed_l1s of "vmx";
    fuzzed_ept12s of "ept";
    fuzzed_board of "board";
    fuzzed_kernels of "loaders";
    fuzzed_firmware_configuration of "fw_cfg";
    fuzzed_tables of "acpi";
}
