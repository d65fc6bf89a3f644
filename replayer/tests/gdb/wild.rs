//! Clients that are no debuggers, at a raw socket: what they send, and how they go, takes the replayer not down.

use crate::{Client, listening};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// Who comes next is served, at a place of the run.
#[track_caller]
fn is_well(path: &Path) -> Client {
    let mut gdb = Client::new(path);
    assert!(gdb.ask("?").starts_with("T05"));
    assert!(gdb.monitor("event").starts_with("event "));
    gdb
}

/// A connection that is admitted.
fn connected(path: &Path) -> UnixStream {
    let mut gdb = Client::new(path);
    assert!(gdb.ask("?").starts_with("T05"));
    gdb.0.set_write_timeout(Some(Duration::from_millis(500))).expect("set");
    gdb.0
}

/// Numbers without order, the same each time.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }
}

/// A packet with its checksum.
fn packet(body: &[u8]) -> Vec<u8> {
    let sum = body.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
    [b"$", body, format!("#{sum:02x}").as_bytes()].concat()
}

#[test]
fn nonsense_and_debuggers_that_go_take_nobody_down() {
    let path = listening(0);
    let rubbish: [&[u8]; 6] = [
        b"\x00\xff\xfe\x03\x03\x7f",
        b"$g#00$$$###",
        b"$m0,ffffffffffffffffffff#11",
        b"$qRcmd,zz#00$vCont;x#00",
        b"$qSupported",
        &[b'$'; 40_000],
    ];
    for bytes in rubbish {
        let mut stream = UnixStream::connect(&path).or_else(|_| {
            drop(Client::new(&path));
            UnixStream::connect(&path)
        });
        if let Ok(stream) = &mut stream {
            // It may be sent away before it has sent all.
            let _ = stream.write_all(bytes);
        }
        drop(stream);
        let mut gdb = Client::new(&path);
        assert!(gdb.ask("?").starts_with("T05"));
        // Half a packet, and gone; and a run that nobody waits for.
        gdb.0.write_all(b"$vCont;c#a8$m").expect("written");
    }
    let mut gdb = Client::new(&path);
    let second = UnixStream::connect(&path).expect("heard");
    second.set_read_timeout(Some(Duration::from_secs(120))).expect("set");
    assert_eq!((&second).read(&mut [0; 16]).unwrap_or(0), 0, "a second one is turned away");
    assert!(gdb.ask("?").starts_with("T05"));
}

#[test]
fn random_bytes_and_random_packets_take_nobody_down() {
    const WORDS: &str =
        "g G m M p P0= Z0, Z2, z1, Hg Hc vCont; vCont;s: bs bc qRcmd, qXfer: qfThreadInfo T D ? X c qSupported:";
    let words: Vec<&str> = WORDS.split(' ').collect();
    let path = listening(0);
    let mut dice = Dice(0x5eed);
    for round in 0..24 {
        let mut stream = connected(&path);
        let mut bytes = Vec::new();
        for _ in 0..64 {
            let mut tail: Vec<u8> = (0..dice.below(24)).map(|_| dice.next() as u8).collect();
            if round % 2 == 0 {
                // Words that mean something, with what means nothing, or nearly something, behind them.
                tail.iter_mut().for_each(|byte| *byte = b"0123456789abcdef,;:-.#"[usize::from(*byte) % 22]);
                let word = words[dice.below(words.len())].as_bytes();
                tail.retain(|byte| *byte != b'#');
                bytes.extend(packet(&[word, &tail].concat()));
            } else {
                bytes.extend(tail);
            }
        }
        // It may be sent away at any of them; and now and then goes in the middle of one.
        let sent = if dice.below(3) == 0 { dice.below(bytes.len()) } else { bytes.len() };
        let _ = stream.write_all(&bytes[..sent]);
        if dice.below(2) == 0 {
            std::thread::sleep(Duration::from_millis(20));
        }
        drop(stream);
        is_well(&path);
    }
}

#[test]
fn a_flood_and_a_client_that_takes_no_answer_take_nobody_down() {
    let path = listening(0);
    let asks = packet(b"g").repeat(4096);
    let junk = vec![b'+'; 1 << 20];
    for flood in [&asks, &junk] {
        let mut stream = connected(&path);
        // Nobody reads the answers: at some point neither side can write.
        for _ in 0..64 {
            if stream.write_all(flood).is_err() {
                break;
            }
        }
        drop(stream);
        is_well(&path);
    }
    // The same while the run goes on.
    let mut stream = connected(&path);
    stream.write_all(&packet(b"vCont;c")).expect("written");
    let _ = stream.write_all(&junk);
    let _ = stream.write_all(b"$vCont;c#a8$m");
    drop(stream);
    is_well(&path);
}
