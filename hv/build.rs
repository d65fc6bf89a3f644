//! Digests of the source of each part of the machine, so that a trace can say of what it was made and a replay by another
//! build which part is not the same. What they are: `hv::parts`.

use std::fs;
use std::path::{Path, PathBuf};

/// The parts, and the files and folders that are theirs.
const PARTS: [(&str, &[&str]); 5] = [
    (
        "CPU",
        &[
            "src/cpu",
            "src/mmu",
            "src/vmx",
            "src/disassemble.rs",
            "src/features.rs",
            "src/memory.rs",
            "src/soft.rs",
            "src/xsave.rs",
        ],
    ),
    ("L0", &["src/l0", "src/silicon.rs", "src/vmcs.rs"]),
    ("BOARD", &["src/boot", "src/device", "src/machine", "src/machine.rs", "src/world.rs"]),
    ("GUESTS", &["src/guests"]),
    ("DEFINITIONS", &["defs/src"]),
];

fn main() {
    for (part, places) in PARTS {
        let mut files = Vec::new();
        for place in places {
            println!("cargo:rerun-if-changed={place}");
            files_under(Path::new(place), &mut files);
        }
        files.sort();
        let digest = files.iter().fold(0xcbf2_9ce4_8422_2325, |digest, file| {
            let bytes = fs::read(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
            // A checkout may have other line ends.
            let bytes = bytes.into_iter().filter(|byte| *byte != b'\r');
            // The end of a file counts, so that what moves from one to the next shows.
            bytes.chain([0]).fold(digest, fnv)
        });
        println!("cargo:rustc-env=NVMX_{part}={digest:016x}");
    }
}

/// One step of FNV-1a, 64 bits.
fn fnv(digest: u64, byte: u8) -> u64 {
    (digest ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
}

/// The Rust files that are run: tests are none of a machine.
fn files_under(place: &Path, files: &mut Vec<PathBuf>) {
    let tests = place.file_stem().is_some_and(|name| name == "tests" || name == "testing");
    if tests {
        return;
    }
    let Ok(entries) = fs::read_dir(place) else {
        files.push(place.to_owned());
        return;
    };
    for entry in entries {
        let entry = entry.unwrap_or_else(|error| panic!("{}: {error}", place.display()));
        files_under(&entry.path(), files);
    }
}
