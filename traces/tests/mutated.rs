//! Files that are wrong: golden traces with damage of every kind, and messages that are wrong within, under checksums that
//! are right, as a hostile writer would make them. A reader says what is wrong, or reads what is there, and what is salvaged
//! is a whole trace; nothing panics, hangs or takes much memory.
//!
//! `NVMX_MUTATIONS=N` has N mutations of each kind made of each trace, and `NVMX_MUTATIONS_SEED=N` others than usual. The
//! fuzz targets of `traces/fuzz` do the same for longer; `tests/fuzzed` keeps what they found.

#[path = "common/frames.rs"]
mod frames;
#[path = "common/hostile.rs"]
mod hostile;

use frames::{Frame, file, frames, u32_at};
use hostile::{Random, mend, read_all, salvage_all};
use std::path::Path;

fn number(name: &str, usual: u64) -> u64 {
    std::env::var(name).map_or(usual, |words| words.parse().expect("a number"))
}

/// The golden traces, by name.
fn golden() -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden");
    let paths = std::fs::read_dir(folder).expect("the golden traces").map(|entry| entry.expect("listed").path());
    let mut traces: Vec<_> = paths.filter(|path| path.extension().is_some_and(|of| of == "nvmx")).collect();
    traces.sort();
    assert!(!traces.is_empty());
    traces.iter().map(|path| (path.display().to_string(), std::fs::read(path).expect("a golden trace"))).collect()
}

/// A frame as it is, to put it where another one is.
fn copy(frame: &Frame) -> Frame {
    Frame { head: frame.head.clone(), message: frame.message.clone() }
}

/// A few bytes and words of a message, changed.
fn change(message: &mut [u8], random: &mut Random) {
    let words = message.len() / 8;
    if words == 0 {
        return;
    }
    for _ in 0..=random.below(3) {
        let at = random.below(words * 8);
        match random.below(4) {
            0 => message[at] ^= 1 << random.below(8),
            1 => message[at] = random.next() as u8,
            // A word of the message: a pointer, as like as not.
            2 => {
                let (from, to) = (random.below(words) * 8, at / 8 * 8);
                message.copy_within(from..from + 8, to);
            }
            _ => message[at / 8 * 8..at / 8 * 8 + 8].copy_from_slice(&random.next().to_le_bytes()),
        }
    }
}

/// Makes mutations of every golden trace, and reads and salvages them. Of a hundred, at least `fewest` must be refused.
fn check(fewest: u64, mut mutate: impl FnMut(&[u8], &mut Random) -> Vec<u8>) {
    let (rounds, seed) = (number("NVMX_MUTATIONS", 100), number("NVMX_MUTATIONS_SEED", 0x1234_5678_9abc_def1));
    for (name, bytes) in golden() {
        let mut random = Random(seed | 1);
        let mut refused = 0;
        for _ in 0..rounds {
            let mutated = mutate(&bytes, &mut random);
            refused += u64::from(read_all(mutated.clone()));
            salvage_all(mutated);
        }
        assert!(refused * 100 >= rounds * fewest, "only {refused} of {name} were refused: the mutations do nothing");
    }
}

#[test]
fn the_file_that_is_put_together_again_is_sound() {
    for (_, bytes) in golden() {
        assert!(!read_all(file(&frames(&bytes))));
        assert_eq!(mend(&bytes), bytes);
    }
}

#[test]
fn messages_that_are_changed() {
    check(25, |bytes, random| {
        let mut frames = frames(bytes);
        let frame = random.below(frames.len());
        change(&mut frames[frame].message, random);
        file(&frames)
    });
}

#[test]
fn messages_that_are_cut() {
    check(50, |bytes, random| {
        let mut frames = frames(bytes);
        let frame = random.below(frames.len());
        let keep = random.below(frames[frame].message.len() / 8) * 8;
        frames[frame].message.truncate(keep);
        file(&frames)
    });
}

#[test]
fn bits_that_are_flipped() {
    check(97, |bytes, random| {
        let mut bytes = bytes.to_vec();
        (0..=random.below(8)).for_each(|_| {
            let at = random.below(bytes.len());
            bytes[at] ^= 1 << random.below(8);
        });
        bytes
    });
}

/// As far as it is compressed, damage comes through the decompressor.
#[test]
fn bits_that_are_flipped_under_right_checksums() {
    check(25, |bytes, random| {
        let mut bytes = bytes.to_vec();
        change(&mut bytes, random);
        mend(&bytes)
    });
}

#[test]
fn files_that_are_cut_or_grow() {
    // What is cut is read up to its last whole block, and nothing is wrong with that.
    check(0, |bytes, random| {
        let (from, to) = (random.below(bytes.len()), random.below(bytes.len()));
        match random.below(3) {
            0 => bytes[..from].to_vec(),
            1 => [&bytes[..from], &bytes[to..]].concat(),
            _ => [&bytes[..from], &vec![random.next() as u8; random.below(100)], &bytes[from..]].concat(),
        }
    });
}

#[test]
fn blocks_that_are_repeated_left_out_or_moved() {
    check(0, |bytes, random| {
        let mut frames = frames(bytes);
        for _ in 0..=random.below(3) {
            let (from, to) = (random.below(frames.len()), random.below(frames.len()));
            match random.below(3) {
                0 if frames.len() > 2 => drop(frames.remove(from)),
                1 => frames.swap(from, to),
                _ => frames.insert(to, copy(&frames[from])),
            }
        }
        file(&frames)
    });
}

#[test]
fn two_traces_in_one() {
    let others = golden();
    check(0, |bytes, random| {
        let (mut frames, other) = (frames(bytes), frames(&others[random.below(others.len())].1));
        let (from, to) = (random.below(other.len()), random.below(frames.len()));
        // A frame that stands behind another one as its head says, or somewhere.
        if random.below(2) == 0 {
            frames.truncate(to);
            frames.extend(other[from..].iter().map(copy));
        } else {
            frames[to] = copy(&other[from]);
        }
        let mut bytes = file(&frames);
        if random.below(4) == 0 {
            let (from, to) = (random.below(bytes.len()), random.below(others[0].1.len()));
            bytes.truncate(from);
            bytes.extend(&others[0].1[to..]);
        }
        bytes
    });
}

#[test]
fn heads_that_ask_for_too_much_are_refused() {
    for (_, good) in golden() {
        // Offsets in the head: message length, events, first event.
        for (offset, value) in [(8, u32::MAX), (8, 1 << 31), (8, 12), (12, u32::MAX), (12, 1 << 19), (20, u32::MAX)] {
            let mut bytes = good.clone();
            let mut at = 16;
            while &bytes[at..at + 4] != b"EVTS" {
                at += 32 + u32_at(&bytes, at + 4);
            }
            bytes[at + offset..at + offset + 4].copy_from_slice(&value.to_le_bytes());
            let crc = crc32fast::hash(&bytes[at..at + 28]);
            bytes[at + 28..at + 32].copy_from_slice(&crc.to_le_bytes());
            assert!(read_all(bytes), "{value} at {offset}");
        }
    }
}

#[test]
fn what_fuzzing_found() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzzed");
    for (name, target) in hostile::TARGETS {
        target(&[]);
        let Ok(found) = std::fs::read_dir(folder.join(name)) else { continue };
        let mut paths: Vec<_> = found.map(|entry| entry.expect("listed").path()).collect();
        paths.sort();
        paths.iter().for_each(|path| target(&std::fs::read(path).expect("read")));
    }
}
