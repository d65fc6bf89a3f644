//! Files of checkpoints: what was kept comes back, whatever it was; of a file that is damaged, what comes back is right or
//! refused; and of one that is wrong under right checksums, nothing panics, hangs or takes much memory.
//!
//! `NVMX_MUTATIONS=N` makes N mutations of each kind, and `NVMX_MUTATIONS_SEED=N` others than usual.

#[path = "common/hostile.rs"]
mod hostile;

use hostile::{Random, mend_seek, sound_seek, walk_seek};
use traces::seek::Point;

fn number(name: &str, usual: u64) -> u64 {
    std::env::var(name).map_or(usual, |words| words.parse().expect("a number"))
}

/// What a file says of a checkpoint is what was kept there.
fn right(point: &Point, state: &[u8], pages: &[Box<[u8]>]) {
    let found = sound_seek().points.iter().find(|(at, _, _)| at == point);
    let (_, wanted, memory) = found.expect("a checkpoint that was kept");
    assert!(wanted == state, "the state at {point:?}");
    for (page, (wanted, is)) in memory.iter().zip(pages).enumerate() {
        assert!(wanted == is, "page {page} at {point:?}");
    }
}

#[test]
fn what_was_kept_comes_back() {
    let mut seen = 0;
    let wrong = walk_seek(sound_seek().bytes.clone(), |point, state, pages| {
        seen += 1;
        right(point, state, pages);
    });
    assert!(!wrong && seen == 24, "{seen}");
    assert_eq!(mend_seek(&sound_seek().bytes), sound_seek().bytes);
}

/// A page that holds what another held is no news, nor are zeros.
#[test]
fn what_is_held_twice_is_kept_once() {
    let sound = sound_seek();
    let distinct: std::collections::BTreeSet<&[u8]> =
        sound.points.iter().flat_map(|(_, _, memory)| memory.iter().map(|page| &**page)).collect();
    let first = sound.initial.len() + 1;
    let kept = traces::seek::SeekFile::from_bytes(sound.bytes.clone(), &sound.about, None).expect("sound").contents();
    // What was there for a moment between two checkpoints was never seen; what was before the run is in no file.
    assert!(kept as usize <= distinct.len() && kept as usize + first >= distinct.len(), "{kept} of {}", distinct.len());
}

/// Makes mutations of the file. Of a hundred, at least `fewest` must be refused; what is not must be right, unless the
/// checksums were mended.
fn check(fewest: u64, mended: bool, mut mutate: impl FnMut(&mut Vec<u8>, &mut Random)) {
    let (rounds, seed) = (number("NVMX_MUTATIONS", 100), number("NVMX_MUTATIONS_SEED", 0x1357_9bdf_0246_8ace));
    let mut random = Random(seed | 1);
    let mut refused = 0;
    for _ in 0..rounds {
        let mut bytes = sound_seek().bytes.clone();
        mutate(&mut bytes, &mut random);
        refused += u64::from(if mended { walk_seek(mend_seek(&bytes), |_, _, _| {}) } else { walk_seek(bytes, right) });
    }
    assert!(refused * 100 >= rounds * fewest, "only {refused} of {rounds} were refused: the mutations do nothing");
}

fn change(bytes: &mut [u8], random: &mut Random) {
    for _ in 0..=random.below(3) {
        let at = random.below(bytes.len());
        match random.below(3) {
            0 => bytes[at] ^= 1 << random.below(8),
            1 => bytes[at] = random.next() as u8,
            _ => {
                let end = bytes.len().min(at + 4);
                bytes[at..end].fill(random.next() as u8);
            }
        }
    }
}

#[test]
fn bits_that_are_flipped() {
    check(60, false, |bytes, random| change(bytes, random));
}

#[test]
fn bits_that_are_flipped_under_right_checksums() {
    check(30, true, |bytes, random| change(bytes, random));
}

/// Numbers of the frames' heads.
#[test]
fn heads_that_are_wrong_under_right_checksums() {
    check(30, true, |bytes, random| {
        let mut heads = Vec::new();
        let mut at = 16;
        while at + 80 <= bytes.len() {
            heads.push(at);
            let word = |place: usize| u32::from_le_bytes(bytes[at + place..at + place + 4].try_into().expect("four"));
            at += 80 + word(8) as usize + word(12) as usize;
        }
        let at = heads[random.below(heads.len())] + 8 + random.below(14) * 4;
        let number = match random.below(3) {
            0 => u32::MAX >> random.below(32),
            1 => random.next() as u32,
            _ => random.below(100) as u32,
        };
        bytes[at..at + 4].copy_from_slice(&number.to_le_bytes());
    });
}

#[test]
fn files_that_are_cut_or_grow() {
    check(40, false, |bytes, random| {
        let (from, to) = (random.below(bytes.len()), random.below(bytes.len()));
        match random.below(3) {
            0 => bytes.truncate(from),
            1 => drop(bytes.drain(from.min(to)..to.max(from))),
            _ => drop(bytes.splice(from..from, vec![random.next() as u8; random.below(100)])),
        }
    });
}
