//! What is wrong with the input is said in one line, with the right exit status; what is whole stays readable.

mod common;

use common::{folder, kernel, line, nvmx, record, word};
use hv_defs::event::{Actor, Event, VmcsOp, What};
use std::fs;
use std::path::Path;
use std::process::Stdio;

/// Runs `words` and wants that status and one line on stderr with all of `says` in it.
#[track_caller]
fn check(words: &[&str], status: i32, says: &[&str]) {
    nvmx(words).expect(status).one_line(says);
}

/// The events of a trace, as `dump` prints them.
fn events(trace: &Path) -> Vec<String> {
    nvmx(&["dump", word(trace)]).expect(0).out.lines().map(str::to_owned).collect()
}

#[test]
fn what_is_no_trace() {
    let folder = folder("no-trace");
    let file = folder.join("no.nvmx");
    let file = word(&file);
    for bytes in [&b""[..], b"x", b"This is a text and no trace at all, and goes on for a while.", &[0; 4096]] {
        fs::write(file, bytes).unwrap();
        for command in ["info", "dump", "verify", "replay", "report", "query", "tui"] {
            check(&[command, file], 2, &[file, "not an nvmx trace"]);
        }
        check(&["diff", file, file], 2, &["not an nvmx trace"]);
        check(&["check", file, "--max-pool-misses", "1"], 2, &["not an nvmx trace"]);
    }
    for command in ["info", "dump", "verify", "replay", "report", "query", "tui"] {
        check(&[command, "/nowhere/at/all.nvmx"], 2, &["/nowhere/at/all.nvmx", "No such file"]);
        // A folder may be queried: see tests/query.rs.
        if command != "query" {
            check(&[command, word(&folder)], 2, &[word(&folder)]);
        }
    }
}

#[test]
fn a_guest_that_is_not_there() {
    for command in ["run", "record"] {
        check(&[command, "nonesuch"], 2, &["nonesuch", "nvmx guests"]);
    }
}

#[test]
fn a_kernel_that_is_not_there_or_none() {
    let folder = folder("kernel");
    let none = folder.join("none");
    fs::write(&none, "a text and no kernel\n".repeat(1000)).unwrap();
    let trace = folder.join("none.nvmx");
    for command in [&["run"][..], &["record", "-o", word(&trace)]] {
        let check = |words: &[&str], says: &[&str]| check(&[command, words].concat(), 2, says);
        check(&["--kernel", "/nowhere/vmlinuz"], &["kernel", "/nowhere/vmlinuz", "No such file"]);
        check(&["--kernel", word(&none)], &["none"]);
        check(
            &["--kernel", word(&none), "--initrd", "/nowhere/initrd"],
            &["initrd", "/nowhere/initrd", "No such file"],
        );
        check(&["--initrd", word(&none)], &["--kernel"]);
        check(&["demo", "--kernel", word(&none)], &["--kernel"]);
    }
    assert!(!trace.exists(), "nothing was recorded");
}

#[test]
fn a_guest_that_fails_says_where_and_its_trace_is_whole() {
    let folder = folder("failing-guest");
    for (name, code, says) in [
        // LIDT of a limit of 0, then INT3.
        (
            "triple",
            &[0x0f, 0x01, 0x1d, 0x28, 0x00, 0x10, 0x00, 0xcc, 0, 0, 0, 0, 0, 0][..],
            &["triple fault", "0x100027 [cc"][..],
        ),
        // JMP EAX to where there is no memory.
        ("nowhere", &[0xb8, 0, 0, 0, 0xe0, 0xff, 0xe0], &["0xe0000000"]),
        // CLI; HLT.
        ("deaf", &[0xfa, 0xf4], &["interrupts off", "0x100022"]),
    ] {
        let (image, trace) = (folder.join(name), folder.join(format!("{name}.nvmx")));
        fs::write(&image, kernel(code)).unwrap();
        let all = [&["L1 at", "last exit"], says].concat();
        check(&["run", "--kernel", word(&image), "--mem", "16M"], 3, &all);
        check(&["record", "-q", "--kernel", word(&image), "--mem", "16M", "-o", word(&trace)], 3, &all);
        nvmx(&["verify", word(&trace)]).expect(0);
        assert!(nvmx(&["replay", word(&trace)]).expect(0).out.contains("identical"), "{name}");
    }
}

#[test]
fn images_that_do_not_fit_or_are_none() {
    let folder = folder("images");
    let check = |name: &str, image: &[u8], more: &[&str], says: &[&str]| {
        let file = folder.join(name);
        fs::write(&file, image).unwrap();
        check(&[&["run", "--kernel", word(&file)], more].concat(), 2, &[says, &[name]].concat());
    };
    let sound = kernel(&[0xf4]);
    check("empty", &[], &[], &["empty"]);
    check("zeros", &[0; 8192], &[], &["no kernel"]);
    // A bzImage's magic numbers, and nothing behind them.
    let mut cut = vec![0; 0x260];
    cut[0x1f1] = 4;
    cut[0x1fe..0x200].copy_from_slice(&[0x55, 0xaa]);
    cut[0x202..0x208].copy_from_slice(b"HdrS\x0f\x02");
    check("cut", &cut, &[], &["damaged"]);
    // A 32-bit ELF whose one segment lies far above the machine's memory.
    let mut elf = vec![0; 0x54];
    elf[..8].copy_from_slice(b"\x7fELF\x01\x01\x01\0");
    elf[16..20].copy_from_slice(&[2, 0, 3, 0]);
    elf[20] = 1;
    elf[28] = 0x34;
    elf[40] = 0x34;
    elf[42] = 0x20;
    elf[44] = 1;
    for (at, word) in [(0x34, 1_u32), (0x38, 0x54), (0x3c, 0xd000_0000), (0x40, 0xd000_0000), (0x44, 0), (0x48, 4096)] {
        elf[at..at + 4].copy_from_slice(&word.to_le_bytes());
    }
    check("high.elf", &elf, &["--mem", "64M"], &["memory"]);
    let initrd = folder.join("initrd");
    fs::write(&initrd, vec![0x55; 20 << 20]).unwrap();
    check("sound", &sound, &["--mem", "16M", "--initrd", word(&initrd)], &["memory"]);
    check("sound", &sound, &["--mem", "1M"], &["memory"]);
}

#[test]
fn wrong_words() {
    let check = |words: &str, says: &[&str]| line(words).expect(2).one_line(says);
    check("frobnicate", &["frobnicate", "nvmx --help"]);
    check("run", &["GUEST", "nvmx run --help"]);
    check("run demo --mem nothing", &["--mem", "256M"]);
    check("run demo --mem 0", &["--mem"]);
    check("run demo --cpus 0", &["--cpus"]);
    check("run demo --pool 0", &["--pool"]);
    check("run demo --tlb 1", &["--tlb"]);
    check("run demo --policy kvm-1999", &["kvm-1999", "kvm-2015"]);
    check("run demo --polcy mapped", &["--polcy", "--policy"]);
    check("record demo --log everything", &["everything", "exits"]);
    check("dump x.nvmx --kind bogus", &["bogus"]);
    check("check x.nvmx", &["--max-redundant-flushes"]);
    check("report x.nvmx --format poem", &["poem", "html"]);
}

#[test]
fn a_truncated_trace_is_read_up_to_its_last_whole_block() {
    let folder = folder("truncated");
    let whole = record(&folder, "whole.nvmx", "demo", "");
    let blocks = traces::Reader::open(&whole).unwrap().blocks().to_vec();
    let bytes = fs::read(&whole).unwrap();
    let all = events(&whole);
    let cut = folder.join("cut.nvmx");
    // Behind the last block, in the middle of it, and in the middle of the first.
    let last = blocks.last().unwrap();
    for (at, left) in [
        (last.offset + last.bytes, all.len()),
        (last.offset + last.bytes / 2, last.first as usize),
        (blocks[0].offset + blocks[0].bytes / 2, 0),
    ] {
        fs::write(&cut, &bytes[..at as usize]).unwrap();
        let dump = nvmx(&["dump", word(&cut)]).expect(0);
        dump.one_line(&["cut short"]);
        assert_eq!(dump.out.lines().collect::<Vec<_>>(), &all[..left]);
        let verify = nvmx(&["verify", word(&cut)]).expect(1);
        assert!(verify.out.starts_with("cut short"), "{}", verify.out);
        let info = nvmx(&["info", "--json", word(&cut)]).expect(0).json();
        assert_eq!((info["truncated"].as_bool(), info["events"].as_u64()), (Some(true), Some(left as u64)));
        let saved = folder.join("saved.nvmx");
        nvmx(&["verify", word(&cut), "--salvage", word(&saved)]).expect(1);
        nvmx(&["verify", word(&saved)]).expect(0);
        assert_eq!(events(&saved), &all[..left]);
        // What is left replays to its end, and this is said.
        let replay = nvmx(&["replay", word(&cut)]).expect(0);
        assert!(replay.err.contains("cut short"), "{}", replay.err);
    }
    // Within the header nothing can be read.
    fs::write(&cut, &bytes[..40]).unwrap();
    check(&["info", word(&cut)], 2, &["ends within its header"]);
    check(&["verify", word(&cut)], 2, &["ends within its header"]);
}

#[test]
fn a_recording_that_is_killed_is_read_up_to_its_last_whole_block() {
    let folder = folder("killed");
    let whole = record(&folder, "whole.nvmx", "pool-thrash", "--policy mapped --pool 4");
    let all = events(&whole);
    let ends: Vec<u64> = {
        let reader = traces::Reader::open(&whole).unwrap();
        reader.blocks().iter().map(|block| block.offset + block.bytes).collect()
    };
    let killed = folder.join("killed.nvmx");
    for target in [0, 1, ends[0], ends[ends.len() / 2], *ends.last().unwrap()] {
        let _ = fs::remove_file(&killed);
        let words = ["record", "pool-thrash", "--policy", "mapped", "--pool", "4", "-o", word(&killed)];
        let mut child = common::command().args(words).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let length = || fs::metadata(&killed).map_or(0, |about| about.len());
        while length() < target && child.try_wait().unwrap().is_none() {
            std::thread::yield_now();
        }
        let _ = child.kill();
        child.wait().unwrap();
        // It may have come further, or to its end, before it was hit.
        let whole_blocks = ends.iter().filter(|&&end| end <= length()).count();
        match traces::Reader::open(&killed) {
            Ok(reader) => {
                assert_eq!(reader.blocks().len(), whole_blocks);
                let left = events(&killed);
                assert_eq!((left.len() as u64, &left[..]), (reader.len(), &all[..left.len()]));
            }
            Err(error) => assert!(target <= 1 && length() < ends[0], "{error}"),
        }
    }
}

#[test]
fn a_newer_minor_version_is_read() {
    let folder = folder("minor");
    let file = record(&folder, "minor.nvmx", "demo", "");
    let said = events(&file);
    let mut bytes = fs::read(&file).unwrap();
    bytes[10..12].copy_from_slice(&99u16.to_le_bytes());
    let crc = crc32fast::hash(&bytes[..12]);
    bytes[12..16].copy_from_slice(&crc.to_le_bytes());
    fs::write(&file, bytes).unwrap();
    assert_eq!(events(&file), said);
    assert_eq!(nvmx(&["info", "--json", word(&file)]).expect(0).json()["format"], "1.99");
}

#[test]
fn a_flipped_byte_is_damage_of_one_block() {
    let folder = folder("flipped");
    let whole = record(&folder, "whole.nvmx", "pool-thrash", "--policy mapped --pool 4");
    let bytes = fs::read(&whole).unwrap();
    let all = events(&whole);
    let blocks = traces::Reader::open(&whole).unwrap().blocks().to_vec();
    let (number, block) = blocks.iter().enumerate().next_back().unwrap();
    let flipped = folder.join("flipped.nvmx");
    let mut damaged = bytes.clone();
    damaged[(block.offset + block.bytes / 2) as usize] ^= 1;
    fs::write(&flipped, damaged).unwrap();
    let name = format!("block {number} at byte {}", block.offset);

    let verify = nvmx(&["verify", word(&flipped)]).expect(1);
    verify.one_line(&[&name, "damaged"]);
    let dump = nvmx(&["dump", word(&flipped)]).expect(2);
    dump.one_line(&[&name, "--salvage"]);
    assert_eq!(dump.out.lines().collect::<Vec<_>>(), &all[..block.first as usize], "what stands before it is read");
    nvmx(&["replay", word(&flipped)]).expect(2).one_line(&[&name]);
    nvmx(&["report", word(&flipped)]).expect(2).one_line(&[&name]);

    let saved = folder.join("saved.nvmx");
    nvmx(&["verify", word(&flipped), "--salvage", word(&saved)]).expect(1);
    nvmx(&["verify", word(&saved)]).expect(0);
    assert_eq!(events(&saved), &all[..block.first as usize]);
    // Onto itself nothing is saved.
    let onto = nvmx(&["verify", word(&flipped), "--salvage", word(&flipped)]).expect(2);
    assert!(onto.err.contains("same file"), "{}", onto.err);

    // Any one byte of the file, flipped, is noticed.
    for at in (0..bytes.len()).step_by(bytes.len() / 60) {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x10;
        fs::write(&flipped, damaged).unwrap();
        let verify = nvmx(&["verify", word(&flipped)]);
        assert!([1, 2].contains(&verify.status) && verify.err.lines().count() <= 1, "byte {at}: {verify:?}");
    }
}

#[test]
fn a_newer_version_is_refused() {
    let folder = folder("newer");
    let file = record(&folder, "newer.nvmx", "demo", "");
    let mut bytes = fs::read(&file).unwrap();
    // The prologue: magic, major and minor version, and a checksum of these twelve bytes.
    bytes[8..10].copy_from_slice(&7u16.to_le_bytes());
    let crc = crc32fast::hash(&bytes[..12]);
    bytes[12..16].copy_from_slice(&crc.to_le_bytes());
    fs::write(&file, bytes).unwrap();
    let version = format!("version 7.{}", traces::VERSION.1);
    for command in ["info", "dump", "verify", "replay", "report", "query", "tui"] {
        check(&[command, word(&file)], 2, &[&version, "newer"]);
    }
}

#[test]
fn a_value_altered_is_found_at_its_event_and_field() {
    let folder = folder("altered");
    let file = record(&folder, "demo.nvmx", "demo", "");
    let reader = traces::Reader::open(&file).unwrap();
    // A VMWRITE of each level's, in the middle of the run.
    for actor in [Actor::L0, Actor::L1] {
        let writes = |event: &Event| matches!(&event.what, What::Vmcs(access) if access.actor == actor && access.op == VmcsOp::Write);
        let numbers: Vec<u64> = (0..)
            .zip(reader.events(0))
            .filter(|(_, event)| writes(event.as_ref().unwrap()))
            .map(|(number, _)| number)
            .collect();
        let number = numbers[numbers.len() / 2];
        let altered = folder.join("altered.nvmx");
        let mut writer = traces::Writer::create(fs::File::create(&altered).unwrap(), reader.header()).unwrap();
        let mut values = (0, 0);
        for (at, event) in (0..).zip(reader.events(0)) {
            let mut event = event.unwrap();
            if let (true, What::Vmcs(access)) = (at == number, &mut event.what) {
                values.0 = access.value ^ 0x40;
                values.1 = access.value;
                access.value ^= 0x40;
            }
            writer.push(&event).unwrap();
        }
        writer.finish().unwrap();
        nvmx(&["verify", word(&altered)]).expect(0);

        let replay = nvmx(&["replay", word(&altered)]).expect(1);
        let said = format!("{}{}", replay.out, replay.err);
        for word in [format!("event {number}"), "value".into(), format!("{:#x}", values.0), format!("{:#x}", values.1)]
        {
            assert!(said.contains(&word), "'{word}' is not in: {said}");
        }
        let json = nvmx(&["replay", "--json", word(&altered)]).expect(1).json();
        assert_eq!(json["identical"], false, "{json}");
        assert_eq!(json["divergence"]["event"], number, "{json}");
        assert_eq!(json["divergence"]["field"], "value", "{json}");
        // Up to the event before, all is as it was.
        nvmx(&["replay", word(&altered), "--to", &(number - 1).to_string()]).expect(0);

        let diff = nvmx(&["diff", word(&file), word(&altered)]).expect(1);
        assert!(diff.out.contains(&format!("event {number} differs in value")), "{}", diff.out);
    }
}
