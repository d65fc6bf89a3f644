//! The debugger's protocol, spoken to a recorded run: each answer is held to what a cursor finds.

mod script;
mod third;
mod wild;

use hv_defs::config::{Config, Guest};
use hv_defs::event::{Event, What, Which};
use recorder::{Outside, Script};
use replayer::gdb::{Address, serve};
use replayer::{Cursor, Place};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::AtomicBool;
use std::time::Duration;
use traces::Reader;

/// The recording of a built-in guest.
fn recorded(name: &str, once: &OnceLock<Vec<u8>>) -> Reader {
    let bytes = once.get_or_init(|| {
        let config = Config::new(Guest::BuiltIn(name.into()));
        let mut bytes = Vec::new();
        let (stop, mut shown) = (AtomicBool::new(false), Vec::new());
        let outside = Outside {
            console: &mut shown,
            keys: &mut Script(Default::default()),
            stop: &stop,
            watch: &mut |_: &[Event]| {},
        };
        recorder::record_to(&config, &[], &mut bytes, outside).expect("recorded");
        bytes
    });
    Reader::from_bytes(bytes.clone()).expect("a sound trace")
}

fn demo() -> Reader {
    static BYTES: OnceLock<Vec<u8>> = OnceLock::new();
    recorded("demo", &BYTES)
}

/// A replayer that listens, for as long as the test's process lives.
fn listening(event: u64) -> PathBuf {
    listening_to(demo, event)
}

/// One of another recording.
fn listening_to(recording: fn() -> Reader, event: u64) -> PathBuf {
    let folder = tempfile::tempdir().expect("a folder").keep();
    let path = folder.join("gdb");
    let at = path.clone();
    std::thread::spawn(move || {
        let reader = recording();
        let mut cursor = Cursor::open(&reader).expect("opened");
        if event != 0 {
            cursor.to_event(event).expect("gone to");
        }
        serve(&mut cursor, &Address::Unix(at), &mut |_| {}).expect("served");
    });
    path
}

/// A debugger.
struct Client(UnixStream);

impl Client {
    fn new(path: &Path) -> Self {
        // It is turned away for as long as the one before is being seen off.
        for _ in 0..600 {
            if let Ok(stream) = UnixStream::connect(path) {
                stream.set_read_timeout(Some(Duration::from_secs(120))).expect("set");
                let mut client = Self(stream);
                if client.try_ask("QStartNoAckMode").as_deref() == Some("OK") {
                    client.0.write_all(b"+").expect("written");
                    return client;
                }
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("nobody answers at {}", path.display());
    }

    /// Sends a packet and awaits the answer.
    fn try_ask(&mut self, packet: &str) -> Option<String> {
        let sum = packet.bytes().fold(0_u8, u8::wrapping_add);
        self.0.write_all(format!("${packet}#{sum:02x}").as_bytes()).ok()?;
        self.answer()
    }

    fn answer(&mut self) -> Option<String> {
        let (mut text, mut inside, mut byte) = (Vec::new(), false, [0]);
        loop {
            if self.0.read(&mut byte).ok()? == 0 {
                return None;
            }
            match byte[0] {
                b'$' => inside = true,
                b'#' if inside => break,
                byte if inside => text.push(byte),
                _ => {}
            }
        }
        self.0.read_exact(&mut [0; 2]).ok()?;
        Some(spelled_out(&text))
    }

    #[track_caller]
    fn ask(&mut self, packet: &str) -> String {
        self.try_ask(packet).unwrap_or_else(|| panic!("no answer to {packet}"))
    }

    /// The text that a monitor command prints.
    #[track_caller]
    fn monitor(&mut self, command: &str) -> String {
        let digits: String = command.bytes().map(|byte| format!("{byte:02x}")).collect();
        let mut text = String::new();
        let mut answer = self.ask(&format!("qRcmd,{digits}"));
        while let Some(part) = answer.strip_prefix('O').filter(|part| *part != "K") {
            text += &String::from_utf8(bytes(part)).expect("text");
            answer = self.answer().expect("an end");
        }
        text
    }

    /// RIP of the thread that stopped last, or was chosen.
    #[track_caller]
    fn rip(&mut self) -> u64 {
        let registers = self.ask("g");
        u64::from_le_bytes(bytes(&registers[256..272]).try_into().expect("8 bytes"))
    }

    /// The number that follows a word in what `monitor event` says.
    #[track_caller]
    fn place(&mut self) -> Place {
        let text = self.monitor("event");
        let number = |word: &str| {
            let rest = text.split(word).nth(1).unwrap_or_else(|| panic!("{word} in {text}"));
            rest.split(|c: char| !c.is_ascii_digit()).next().and_then(|digits| digits.parse().ok()).expect("a number")
        };
        Place { instruction: number("instruction "), event: number("event ") }
    }
}

/// An answer without run lengths: `0* ` is four zeros.
fn spelled_out(text: &[u8]) -> String {
    let (mut out, mut at) = (String::new(), 0);
    while at < text.len() {
        if text[at] == b'*' {
            let last = out.chars().last().expect("something to repeat");
            out.extend(std::iter::repeat_n(last, usize::from(text[at + 1] - 29)));
            at += 2;
        } else {
            out.push(text[at].into());
            at += 1;
        }
    }
    out
}

fn bytes(digits: &str) -> Vec<u8> {
    let pair = |at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap_or(0);
    (0..digits.len() / 2).map(|at| pair(2 * at)).collect()
}

/// The number of the `count`th exit of L2's.
fn exit_of_l2(count: usize) -> u64 {
    let reader = demo();
    let events = reader.events(0).map(|event| event.expect("an event")).enumerate();
    let exits = events.filter(|(_, event)| matches!(&event.what, What::Exit(exit) if exit.level == 2));
    exits.map(|(number, _)| number as u64).nth(count).expect("so many")
}

/// A place in L2, paused: behind an event at which L2 ran on.
fn in_l2() -> (u64, u64) {
    let reader = demo();
    let mut cursor = Cursor::open(&reader).expect("opened");
    let last = reader.event(reader.len() - 1).expect("an event").at.instruction;
    for instruction in (0..last).step_by(97) {
        cursor.to_instruction(instruction).expect("gone to");
        if cursor.runner().level == 2 {
            let pcpu = cursor.machine().turn().1;
            return (instruction, cursor.machine().silicon().cpu(pcpu).rip);
        }
    }
    panic!("L2 runs for no 97 instructions");
}

#[test]
fn a_debugger_learns_what_there_is() {
    let mut gdb = Client::new(&listening(0));
    let supported = gdb.ask("qSupported:multiprocess+;swbreak+");
    for feature in ["ReverseStep+", "ReverseContinue+", "swbreak+", "hwbreak+", "qXfer:features:read+"] {
        assert!(supported.contains(feature), "{feature} in {supported}");
    }
    assert!(gdb.ask("qXfer:features:read:target.xml:0,fff").contains("i386:x86-64"));
    assert!(gdb.ask("?").starts_with("T05thread:"));
    // Registers take what the description says: 17 of 8 bytes, 7 of 4, and so on.
    let size = 17 * 8 + 7 * 4 + 8 * 10 + 8 * 4 + 16 * 16 + 4 + 13 * 8;
    assert_eq!(gdb.ask("g").len(), 2 * size);
    assert!(gdb.monitor("help").contains("watch-vmcs"));
    assert!(gdb.monitor("nonsense").starts_with("error:"));
}

#[test]
fn stepping_back_undoes_a_step() {
    let (instruction, rip) = in_l2();
    let mut gdb = Client::new(&listening(0));
    gdb.monitor(&format!("seek-instruction {instruction}"));
    assert!(gdb.ask("?").contains("thread:02"), "L2 is thread 2");
    gdb.ask("Hg2");
    let mut seen = Vec::new();
    for _ in 0..20 {
        seen.push(gdb.ask("g"));
        assert!(gdb.ask("vCont;s:2;c").starts_with("T05thread:02"));
    }
    assert!(gdb.place().instruction > instruction);
    for before in seen.iter().rev() {
        assert!(gdb.ask("Hc2") == "OK" && gdb.ask("bs").starts_with("T05thread:02"));
        assert_eq!(gdb.ask("g"), *before);
    }
    assert_eq!((gdb.rip(), gdb.place().instruction), (rip, instruction));
}

#[test]
fn breakpoints_stop_before_their_instruction_both_ways() {
    let (instruction, rip) = in_l2();
    let mut gdb = Client::new(&listening(0));
    assert_eq!(gdb.ask(&format!("Z0,{rip:x},1")), "OK");
    let mut places = Vec::new();
    loop {
        let stopped = gdb.ask("vCont;c");
        if stopped.contains("replaylog:end") {
            break;
        }
        assert!(stopped.contains("swbreak"), "{stopped}");
        assert_eq!(gdb.rip(), rip);
        places.push(gdb.place());
        if places.len() == 40 {
            break;
        }
    }
    assert!(places.iter().any(|place| place.instruction == instruction), "{instruction} among {places:?}");
    assert!(places.is_sorted());
    // From the last one on back, each once.
    for place in places.iter().rev().skip(usize::from(places.len() == 40)) {
        assert!(gdb.ask("bc").contains("swbreak"));
        assert_eq!((gdb.place(), gdb.rip()), (*place, rip));
    }
    assert!(gdb.ask("bc").contains("replaylog:begin"));
    assert_eq!(gdb.ask(&format!("z0,{rip:x},1")), "OK");
    assert!(gdb.ask("vCont;c").contains("replaylog:end"));
    // All that was run under breakpoints was compared as it happened.
    assert!(!gdb.monitor("event").contains("differs"));
    assert!(gdb.ask("bc").contains("replaylog:begin"));
}

#[test]
fn a_level_is_stopped_in_alone_if_asked_for() {
    let (_, rip) = in_l2();
    let mut gdb = Client::new(&listening(0));
    gdb.ask(&format!("Z1,{rip:x},1"));
    assert!(gdb.monitor("level 1").contains("L1"));
    let stopped = gdb.ask("vCont;c");
    assert!(stopped.contains("replaylog:end") || stopped.contains("thread:01"), "{stopped}");
}

/// Watches where a guest's stack is, and holds each stop to what memory holds.
#[test]
fn watchpoints_stop_behind_the_access_and_before_it_on_the_way_back() {
    let (instruction, _) = in_l2();
    let mut gdb = Client::new(&listening(0));
    gdb.monitor(&format!("seek-instruction {instruction}"));
    let registers = gdb.ask("g");
    let rsp = u64::from_le_bytes(bytes(&registers[112..128]).try_into().expect("8 bytes"));
    let at = rsp.wrapping_sub(8);
    gdb.monitor("level 2");
    assert_eq!(gdb.ask(&format!("Z2,{at:x},8")), "OK");
    let stopped = gdb.ask("vCont;c");
    assert!(stopped.contains("watch:") || stopped.contains("replaylog:end"), "{stopped}");
    if stopped.contains("watch:") {
        let (behind, after) = (gdb.place(), gdb.ask(&format!("m{at:x},8")));
        assert!(gdb.ask("bc").contains("watch:"));
        let before = gdb.place();
        assert!(before < behind && behind.instruction - before.instruction <= 1, "{before:?} {behind:?}");
        // And on again, to the same place with the same bytes.
        assert!(gdb.ask("vCont;c").contains("watch:"));
        assert_eq!((gdb.place(), gdb.ask(&format!("m{at:x},8"))), (behind, after));
    }
    for _ in 0..200 {
        if gdb.ask("vCont;c").contains("replaylog:end") {
            break;
        }
    }
    assert!(!gdb.monitor("event").contains("differs"));
}

#[test]
fn vmcs_fields_are_watched_through_the_trace() {
    let reader = demo();
    let writes: Vec<u64> = reader
        .events(0)
        .map(|event| event.expect("an event"))
        .enumerate()
        .filter(|(_, event)| {
            matches!(&event.what, What::Vmcs(access)
                if access.field.name() == Some("guest_rip") && access.op.name() == "write" && access.which == Which::Vmcs12)
        })
        .map(|(number, _)| number as u64)
        .collect();
    assert!(!writes.is_empty(), "L1 sets L2's RIP");
    let mut gdb = Client::new(&listening(reader.len() - 1));
    assert!(gdb.monitor("watch-vmcs GUEST_RIP write").contains("last: event"));
    let mut met = Vec::new();
    loop {
        let stopped = gdb.ask("bc");
        if stopped.contains("replaylog:begin") || met.len() == 25 {
            break;
        }
        let text = gdb.monitor("event");
        let line = text.lines().find(|line| line.starts_with("stopped behind")).expect("why it stopped");
        assert!(line.contains("op=write field=guest_rip"), "{line}");
        met.push(gdb.place());
    }
    assert!(met.is_sorted_by(|a, b| a > b), "{met:?}");
    let least = met.last().expect("some").event;
    for write in writes.iter().filter(|write| **write >= least) {
        assert!(met.iter().any(|place| place.event > *write && place.event <= write + 64), "{write} in {met:?}");
    }
    // And forwards, the same places.
    for place in met.iter().rev().take(5) {
        gdb.ask("vCont;c");
        assert_eq!(gdb.place(), *place);
    }
}

#[test]
fn each_guest_has_its_own_memory_and_nothing_is_written() {
    let reader = demo();
    let event = exit_of_l2(5);
    let mut gdb = Client::new(&listening(event));
    let mut cursor = Cursor::open(&reader).expect("opened");
    cursor.to_event(event).expect("gone to");
    for level in [1, 2] {
        let guest = cursor.machine().l0().guest(0, level).expect("a guest");
        let rip = guest.vmcs.get(hv_defs::vmcs::GUEST_RIP);
        let mut wanted = [0; 16];
        assert_eq!(cursor.machine().l0().look_at(&guest, rip, &mut wanted), 16);
        gdb.ask(&format!("Hg{level}"));
        assert_eq!(gdb.rip(), rip);
        assert_eq!(bytes(&gdb.ask(&format!("m{rip:x},10"))), wanted);
        assert!(gdb.ask(&format!("M{rip:x},1:cc")).starts_with('E'));
        assert_eq!(bytes(&gdb.ask(&format!("m{rip:x},10"))), wanted);
        assert!(gdb.ask("m7ffff0000000,8").starts_with('E'));
    }
    assert!(gdb.monitor("vmcs12 guest_rip").contains("guest_rip = 0x"));
    assert!(gdb.monitor("vmcs02").contains("ept_pointer"));
    assert!(gdb.monitor("vmcs01").contains("guest_rip"));
    assert!(gdb.monitor("tlb").contains("cached translations"));
    assert_eq!(gdb.monitor("exits 3").lines().count(), 3);
}

#[test]
fn an_address_is_what_it_looks_like() {
    let check = |text: &str, wanted: Option<Address>| assert_eq!(text.parse::<Address>().ok(), wanted, "{text}");
    check("-", Some(Address::Stdio));
    check(":1234", Some(Address::Tcp("127.0.0.1:1234".into())));
    check("localhost:1", Some(Address::Tcp("localhost:1".into())));
    check("unix:/tmp/x", Some(Address::Unix("/tmp/x".into())));
    check("1234", None);
    check("unix:", None);
    check("host:port", None);
    check("host:99999", None);
}
