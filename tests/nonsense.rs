//! Traces that make no sense, through every command that reads one: an answer or an error in one line, never a panic.
//! `NVMX_NONSENSE=N` takes N traces of each kind.

mod common;
#[path = "../traces/tests/common/frames.rs"]
mod frames;
#[path = "../traces/tests/common/hostile.rs"]
mod hostile;
#[path = "../traces/tests/common/nonsense.rs"]
mod nonsense;

use common::{folder, nvmx, word};
use nonsense::Random;
use std::fs;
use std::path::Path;

/// What is asked of every trace; `FILE` is its path, `OUT` one to write to.
const COMMANDS: &[&str] = &[
    "info FILE",
    "info --json FILE",
    "dump FILE",
    "dump --json FILE",
    "report FILE",
    "report --format json FILE",
    "report --format html -o OUT FILE",
    "query FILE|SELECT * FROM exit",
    "query FILE|SELECT actor, field, count(*) AS n FROM vmcs GROUP BY actor, field",
    "check FILE --max-redundant-flushes 0",
    "diff FILE OTHER",
    "verify FILE",
    "verify FILE --salvage OUT",
    "replay FILE",
    "export FILE -o OUT --to csv",
    "export FILE -o OUT --to perfetto",
];

/// Runs all commands on a trace. Whatever a command makes of it, it ends as it should.
fn check(name: &str, file: &Path, other: &Path) {
    let out = file.with_extension("out");
    for command in COMMANDS {
        let (plain, sql) = command.split_once('|').map_or((*command, None), |(plain, sql)| (plain, Some(sql)));
        let words = plain.split_whitespace().map(|of| match of {
            "FILE" => word(file),
            "OTHER" => word(other),
            "OUT" => word(&out),
            of => of,
        });
        let ran = nvmx(&words.chain(sql).collect::<Vec<_>>());
        let ended = (0..=3).contains(&ran.status) && !ran.err.contains("panicked");
        assert!(ended, "{name}: nvmx {command}: status {}: {}", ran.status, ran.err);
        // A file, or a folder of files.
        let _ = (fs::remove_file(&out), fs::remove_dir_all(&out));
        assert!(ran.status != 2 || ran.err.lines().count() == 1, "{name}: nvmx {command}: {}", ran.err);
    }
}

/// Numbers of a trace's messages, changed under right checksums: most are the columns', and then out of any range.
fn wild(bytes: &[u8], random: &mut Random) -> Vec<u8> {
    let mut parts = frames::frames(bytes);
    let blocks = parts.len() - 2;
    for _ in 0..=random.below(4) {
        let message = &mut parts[1 + random.below(blocks)].message;
        let at = 64 + random.below(message.len().saturating_sub(72));
        let number = random.number().to_le_bytes();
        let width = 1 << random.below(4);
        if let Some(place) = message.get_mut(at / width * width..at / width * width + width) {
            place.copy_from_slice(&number[..width]);
        }
    }
    let mut plain = bytes[..16].to_vec();
    for frame in parts {
        let number = |at: usize| frames::u32_at(&frame.head, at) as u32;
        let tag = frame.head[..4].try_into().expect("4 bytes");
        let first = u64::from(number(16)) | u64::from(number(20)) << 32;
        plain.extend(hostile::frame(&tag, (first, number(12)), &frame.message));
    }
    plain.extend(&bytes[bytes.len() - 32..]);
    hostile::mend(&plain)
}

fn traces() -> u64 {
    std::env::var("NVMX_NONSENSE").map_or(6, |words| words.parse().expect("a number"))
}

#[test]
fn events_without_sense() {
    let folder = folder("nonsense");
    let (file, other) = (folder.join("nonsense.nvmx"), folder.join("other.nvmx"));
    fs::write(&other, nonsense::trace(0, 100)).unwrap();
    for seed in 1..=traces() {
        fs::write(&file, nonsense::trace(seed, [300, 20, 2000][seed as usize % 3])).unwrap();
        check(&format!("seed {seed}"), &file, &other);
    }
}

#[test]
fn numbers_out_of_range() {
    let folder = folder("wild");
    let (file, other) = (folder.join("wild.nvmx"), folder.join("other.nvmx"));
    fs::write(&other, nonsense::trace(0, 100)).unwrap();
    for seed in 1..=traces() {
        let bytes = wild(&nonsense::trace(seed, 300), &mut Random::new(seed));
        fs::write(&file, bytes).unwrap();
        check(&format!("seed {seed}"), &file, &other);
    }
}

/// A name that clears the screen and rings: a trace's of a guest, and an imported one's of a host.
#[test]
fn names_are_nothing_that_a_terminal_obeys() {
    use hv_defs::config::{Clock, Config, Guest, Origin};
    use traces::{Header, Image, Writer};
    const NAME: &str = "evil\x1b[2J\x07\u{9b}name";
    let folder = folder("names");
    let (file, other) = (folder.join("guest.nvmx"), folder.join("host.nvmx"));
    let guest = Guest::Kernel { name: NAME.into(), append: NAME.into() };
    let image = Image::new(hv_defs::config::ImageKind::Kernel, NAME, &b"no kernel"[..]);
    let recorded = Header::new(Config::new(guest), vec![image]);
    let origin = Origin { source: "perf".into(), name: NAME.into(), clock: Clock::Nanoseconds, note: NAME.into() };
    let imported = Header { origin: Some(origin), ..recorded.clone() };
    for (path, header) in [(&file, recorded), (&other, imported)] {
        let mut writer = Writer::create(fs::File::create(path).unwrap(), &header).unwrap();
        nonsense::events(1, 50).iter().for_each(|event| writer.push(event).unwrap());
        writer.finish().unwrap();
    }
    let mut seen = 0;
    for (path, beside) in [(&file, &other), (&other, &file)] {
        let (one, two) = (word(path), word(beside));
        for words in [
            &["info", one][..],
            &["report", one],
            &["report", one, two],
            &["report", "--format", "md", one],
            &["dump", one],
            &["diff", one, two],
            &["verify", one],
            &["replay", one],
            &["replay", "--l0", one],
            &["whatif", one, "--policy", "kvm-2015"],
            &["query", one],
            &["query", one, "SELECT pool.op FROM pool"],
            &["check", one, "--max-pool-misses", "0"],
        ] {
            let ran = nvmx(words);
            let obeyed = |char: char| char.is_control() && char != '\n';
            assert!(!ran.out.contains(obeyed) && !ran.err.contains(obeyed), "{words:?}: {:?} {:?}", ran.out, ran.err);
            seen += usize::from(ran.out.contains("evil") || ran.err.contains("evil"));
        }
    }
    assert!(seen > 3, "the name is shown at all: {seen}");
}
