//! Recordings that are killed at random moments: each can be read, little is lost, and what is left replays.
//!
//! Linux as L1, with a payload of KVM's and with a Linux for its L2, is killed twice each, or as often as `NVMX_KILLS`
//! says. The moments are drawn from a fixed seed, as fractions of the time that a recording takes here.

mod common;
#[path = "common/guest.rs"]
mod guest;

use common::{command, folder, nvmx, word};
use hv_defs::event::What;
use hv_defs::exit::Reason;
use std::fs;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use traces::Reader;

/// Blocks that a kill may cost at most: the one that is being written, two that wait for it, and the one that is filled.
const BLOCKS_IN_FLIGHT: usize = 4;
/// The serial port's data register, which the console's bytes go to.
const SERIAL: u64 = 0x3f8;

/// Moments, as fractions of a whole, in an order that is always the same.
struct Moments(u64);

impl Moments {
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        (self.0 >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// A recording that runs.
struct Running {
    child: Child,
    /// Reads the console to its end, and has its length then.
    console: JoinHandle<usize>,
}

fn start(words: &[String], trace: &Path) -> Running {
    let _ = fs::remove_file(trace);
    let mut child = command()
        .arg("record")
        .args(words)
        .args(["-o", word(trace)])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("the binary starts");
    let mut out = child.stdout.take().expect("a pipe");
    let console = std::thread::spawn(move || {
        let mut shown = Vec::new();
        // A console that ends in the middle has shown what it has shown.
        let _ = out.read_to_end(&mut shown);
        shown.len()
    });
    Running { child, console }
}

impl Running {
    /// Waits until the file is longer than its header, then for a time, or until the recording ends by itself. Returns how
    /// long that was, and how much of it had gone when the file last grew.
    fn wait(&mut self, trace: &Path, header: u64, time: Duration) -> (Duration, Duration) {
        let length = || fs::metadata(trace).map_or(0, |about| about.len());
        while length() < header && self.child.try_wait().expect("it can be waited for").is_none() {
            std::thread::sleep(Duration::from_micros(100));
        }
        let begun = Instant::now();
        let (mut grew, mut last) = (Duration::ZERO, 0);
        while begun.elapsed() < time && self.child.try_wait().expect("it can be waited for").is_none() {
            let now = length();
            if now != last {
                (grew, last) = (begun.elapsed(), now);
            }
            std::thread::sleep(Duration::from_micros(200).min(time.saturating_sub(begun.elapsed())));
        }
        (begun.elapsed(), grew)
    }

    /// Kills it. Returns whether it had not ended by itself, and the bytes that its console had shown.
    fn kill(mut self) -> (bool, usize) {
        let killed = self.child.try_wait().expect("it can be waited for").is_none() && self.child.kill().is_ok();
        // It may have ended between the look and the kill.
        let ended = self.child.wait().expect("it can be waited for").code().is_some();
        (killed && !ended, self.console.join().expect("the console is read"))
    }
}

/// The events by which the bytes of the console went out, and some that set the line up: with so many bytes shown, the
/// machine had come to the event of that place at least.
fn console_events(reader: &Reader) -> Vec<u64> {
    let out = |what: &What| {
        matches!(what, What::Exit(exit) if exit.level == 1
            && exit.basic() == Reason::IO_INSTRUCTION
            && exit.qualification >> 16 == SERIAL
            && exit.qualification & 8 == 0)
    };
    let events = (0..).zip(reader.events(0));
    events
        .filter(|(_, event)| out(&event.as_ref().expect("the trace is whole").what))
        .map(|(number, _)| number)
        .collect()
}

/// Records `words` to the end, then again and again, killed `kills` times.
fn check(name: &str, words: &[String], kills: usize) {
    let folder = folder(&format!("killed-{name}"));
    let (whole, trace, saved) = (folder.join("whole.nvmx"), folder.join("killed.nvmx"), folder.join("saved.nvmx"));
    // Once to know how long the header is, and once more to see how long it takes from there.
    start(words, &whole).kill_never();
    let header = Reader::open(&whole).expect("a trace").blocks()[0].offset;
    let mut running = start(words, &whole);
    let (took, _) = running.wait(&whole, header, Duration::MAX);
    running.kill_never();
    let reader = Reader::open(&whole).expect("a trace");
    assert!(!reader.truncated(), "{name} comes to its end when it is let");
    let (bytes, console) = (fs::read(&whole).expect("read"), console_events(&reader));

    let mut moments = Moments(5);
    let (mut lost, mut late) = (Vec::new(), Vec::new());
    while lost.len() < kills {
        let mut running = start(words, &trace);
        let (waited, grew) = running.wait(&trace, header, took.mul_f64(moments.next()));
        let (killed, shown) = running.kill();
        let left = Reader::open(&trace).expect("what a kill leaves can be read");
        if !killed || !left.truncated() {
            // It was faster this time: the trace was whole before the kill.
            continue;
        }
        let (blocks, events) = (left.blocks().len(), left.len());
        // Equal runs give equal bytes, so what is left is the beginning of the whole.
        let end = left.blocks().last().map_or(header, |block| block.offset + block.bytes) as usize;
        assert!(fs::read(&trace).expect("read")[..end] == bytes[..end], "{name}: the first {end} bytes");

        let verify = nvmx(&["verify", word(&trace)]).expect(1);
        assert!(verify.out.starts_with("cut short"), "{}", verify.out);
        let info = nvmx(&["info", "--json", word(&trace)]).expect(0).json();
        assert_eq!((info["truncated"].as_bool(), info["events"].as_u64()), (Some(true), Some(events)));
        // It may have had all events written and no index.
        let (status, says) = match events == reader.len() {
            true => (0, format!("all {} event", grouped(events))),
            false => (1, format!("B ends after {} event", grouped(events))),
        };
        let diff = nvmx(&["diff", "-c", "0", word(&whole), word(&trace)]).expect(status);
        assert!(diff.out.starts_with(&says), "{}", diff.out);

        let replay = nvmx(&["replay", word(&trace)]).expect(0);
        replay.one_line(&["cut short"]);
        nvmx(&["verify", word(&trace), "--salvage", word(&saved)]).expect(1);
        nvmx(&["verify", word(&saved)]).expect(0);
        let again = nvmx(&["replay", word(&saved)]).expect(0);
        assert!(replay.out.starts_with("identical: ") && replay.out == again.out, "{}{}", replay.out, again.out);

        // The machine had come so far at least: the console had shown what it did there.
        let reached = match shown {
            0 => 0,
            shown => console[shown - 1],
        };
        let ahead = reader.block_of(reached).expect("an event of the whole") + 1;
        assert!(ahead <= blocks + BLOCKS_IN_FLIGHT, "{name}: {blocks} blocks are left, and it was in block {ahead}");
        lost.push((reached + 1).saturating_sub(events));
        late.push(waited.saturating_sub(grew));
    }
    lost.sort_unstable();
    late.sort_unstable();
    let largest = reader.blocks().windows(BLOCKS_IN_FLIGHT).map(|some| some.iter().map(|b| u64::from(b.events)).sum());
    // Not by a macro, whose output is kept from the terminal while the test passes.
    let _ = writeln!(
        std::io::stderr(),
        "{name}: {} events in {:.1} s; killed {kills} times, all readable, all replayed to their end, and all saved. Events \
         that the console tells of and the trace lacks: {} in the middle, {} at most, of {} that may be in flight. The file \
         had last grown {:.0} ms before the kill in the middle, {:.0} ms at most",
        reader.len(),
        took.as_secs_f64(),
        lost[kills / 2],
        lost[kills - 1],
        largest.max().unwrap_or(reader.len()),
        late[kills / 2].as_secs_f64() * 1e3,
        late[kills - 1].as_secs_f64() * 1e3,
    );
}

impl Running {
    /// Lets it come to its end.
    fn kill_never(mut self) {
        let ended = self.child.wait().expect("it can be waited for");
        self.console.join().expect("the console is read");
        assert_eq!(ended.code(), Some(0));
    }
}

/// A number as `nvmx` prints it.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let parts: Vec<&str> = digits.as_bytes().rchunks(3).rev().map(|part| std::str::from_utf8(part).unwrap()).collect();
    parts.join(",")
}

fn words(line: &str) -> Vec<String> {
    line.split_whitespace().map(str::to_owned).collect()
}

#[test]
fn small_guests_killed_at_random_moments() {
    check("demo", &words("demo --seed 1"), 4);
    check("witness", &words("witness --log exits"), 2);
}

/// Linux as L1, and what it is to run.
fn linux(name: &str, run: &str) {
    let made = guest::linux().and_then(|linux| Ok((linux.kernel(), guest::kvm(&linux)?)));
    let Some((kernel, initrd)) = guest::or_skip(&made) else { return };
    // With what the kernel says of itself, which shows how far it is.
    let append = format!("{} {run}", guest::APPEND).replace(" quiet ", " ");
    let mut all = words(&format!("--mem 384M --kernel {} --initrd {} --append", word(kernel), word(initrd)));
    all.push(append);
    let kills = std::env::var("NVMX_KILLS").map_or(2, |kills| kills.parse().expect("NVMX_KILLS is a number"));
    check(name, &all, kills);
}

#[test]
fn linux_with_a_payload_killed_at_random_moments() {
    linux("payload", "nvmx.run=kvm nvmx.payload=cpuid=2000,out=1000,pages=500,mmio=200");
}

#[test]
fn linux_under_linux_killed_at_random_moments() {
    linux("linux", "nvmx.run=kvm-linux nvmx.l2=hello");
}
