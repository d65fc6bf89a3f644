//! A host with nested VMX, inside the software machine: Debian's Linux with kvm_intel, where a static `nvmx` runs guests on
//! KVM and is attached to it.
//!
//! The levels shift by one on the way out: what the host's kernel calls L1 is an L2 to the recording around it, and its L2 an
//! L3. So the recording around is the judge of what the host's own tracepoints say.

#![cfg(feature = "live")]

mod common;
#[path = "common/guest.rs"]
mod guest;

use common::{folder, nvmx, word};
use hv_defs::exit::Reason;
use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Instant;

/// How a guest leaves whose test ended with 0, of which isa-debug-exit makes 1.
const WELL: &str = "nvmx: the guest left through isa-debug-exit with status 1";

/// The kernel and the initramfs of the host.
struct Host {
    kernel: PathBuf,
    initrd: PathBuf,
}

/// The host, or nothing, loudly.
fn host() -> Option<&'static Host> {
    static HOST: OnceLock<Result<Host, String>> = OnceLock::new();
    guest::or_skip(HOST.get_or_init(|| {
        let linux = guest::linux()?;
        let nvmx = guest::static_nvmx()?;
        Ok(Host { kernel: linux.kernel(), initrd: guest::host(&linux, &nvmx)? })
    }))
}

/// Has the host run these commands of nvmx, all of which have to end well, and gives its console, and the files of /out in
/// `into`. The host is recorded into `into/outside.nvmx`.
#[track_caller]
fn on_host(host: &Host, commands: &[&str], into: &Path) -> String {
    let commands: Vec<_> = commands.iter().map(|command| command.replace(' ', "+")).collect();
    let append = format!("{} nvmx.run=host nvmx.host={}", guest::APPEND, commands.join(","));
    let outside = into.join("outside.nvmx");
    let start = Instant::now();
    let mut words = vec!["record", "--kernel", word(&host.kernel), "--initrd", word(&host.initrd)];
    words.extend(["--append", &append, "--mem", "512M", "--log", "exits", "-o", word(&outside)]);
    let console = nvmx(&words).expect(0).out;
    assert_eq!(console.lines().last(), Some(WELL), "{console}");
    let _ = writeln!(std::io::stderr(), "{}: {:.1} s", commands.join(", "), start.elapsed().as_secs_f64());
    let mut file = None::<(&str, String)>;
    for line in console.lines().map(str::trim_end) {
        match (line.strip_prefix("nvmx-file "), &mut file) {
            (Some(name), _) => file = Some((name, String::new())),
            (None, Some((name, text))) if line == "nvmx-file-end" => {
                fs::write(into.join(name), base64(text)).expect("the file is written");
                file = None;
            }
            (None, Some((_, text))) => text.push_str(line),
            (None, None) => {}
        }
    }
    console
}

/// The bytes of a text in base64.
#[track_caller]
fn base64(text: &str) -> Vec<u8> {
    let digit = |byte: u8| match byte {
        b'A'..=b'Z' => byte - b'A',
        b'a'..=b'z' => byte - b'a' + 26,
        b'0'..=b'9' => byte - b'0' + 52,
        b'+' => 62,
        b'/' => 63,
        other => panic!("{:?} in base64", char::from(other)),
    };
    let digits: Vec<_> = text.trim_end_matches('=').bytes().map(digit).collect();
    let (mut bits, mut held, mut bytes) = (0u32, 0, Vec::new());
    for digit in digits {
        (bits, held) = (bits << 6 | u32::from(digit), held + 6);
        if held >= 8 {
            held -= 8;
            bytes.push((bits >> held) as u8);
        }
    }
    bytes
}

/// The rows of numbers that answer a question.
fn rows(trace: &Path, sql: &str) -> Vec<Vec<u64>> {
    let answer = nvmx(&["query", word(trace), sql, "--format", "csv"]).expect(0).out;
    let number = |cell: &str| cell.parse().unwrap_or_else(|_| panic!("{cell} in the answer to {sql}"));
    answer.lines().skip(1).map(|line| line.split(',').map(number).collect()).collect()
}

/// The exits of a level and those below it of which a condition holds, in order: reason, qualification, RIP.
fn nested(trace: &Path, level: u8, condition: &str) -> Vec<Vec<u64>> {
    let sql =
        format!("SELECT reason_code, qualification, rip FROM exits WHERE level >= {level} {condition} ORDER BY event");
    rows(trace, &sql)
}

/// Those of L2 and below that are L1's to handle.
fn reflected(trace: &Path) -> Vec<Vec<u64>> {
    nested(trace, 2, "AND handled_by = 'L1'")
}

/// How often each reason comes among L1's exits.
fn counts(trace: &Path) -> BTreeMap<u64, u64> {
    let sql = "SELECT reason_code, COUNT(*) AS n FROM exits WHERE level = 1 GROUP BY reason_code";
    rows(trace, sql).iter().map(|row| (row[0], row[1])).collect()
}

/// The built-in guests, and what they need; last the one with two vCPUs.
const GUESTS: [(&str, &str); 9] = [
    ("demo", ""),
    ("flush-storm", ""),
    ("multiplication", ""),
    ("nest", ""),
    ("pool-thrash", ""),
    ("resync", ""),
    ("stale", ""),
    ("witness", ""),
    ("handover", "--cpus 2 "),
];

/// The field of vmcs12 that hardware itself changes among those that L1 writes: the valid bit is cleared at an exit.
const CHANGED: &str = "entry_interruption_info";

/// What L1 has written last into each control and host-state field of each of its vmcs12s.
fn written(trace: &Path) -> BTreeMap<String, String> {
    let sql = format!(
        "SELECT address, field, value FROM vmcs WHERE which = 'vmcs12' AND op = 'write' AND actor = 'L1' \
         AND field <> '{CHANGED}' ORDER BY event"
    );
    let answer = nvmx(&["query", word(trace), &sql, "--format", "csv"]).expect(0).out;
    let last = |line: &str| line.rsplit_once(',').map(|(of, value)| (of.to_owned(), value.to_owned()));
    let is_control = |of: &str| !of.contains(",guest_") && !of.contains(",vmcs_link");
    answer.lines().skip(1).filter_map(last).filter(|(of, value)| is_control(of) && value != "0").collect()
}

/// Our own L0 on that host, whose VMX refuses L1's VMX instructions with #UD, as hardware does.
const OWN: &str = "record demo --backend kvm --log l0 -o /out/own.nvmx";

/// All that the tracepoints say is what the recording around the host saw; and what L1 is told of L2 is the same on
/// kvm_intel as on our own L0, exit by exit.
#[test]
fn kvm_intel_nested_is_recorded_as_it_is() {
    let Some(host) = host() else { return };
    let folder = folder("host-nested");
    let records = GUESTS.map(|(guest, options)| format!("record {guest} {options}--backend kvm -o /out/{guest}.nvmx"));
    let commands: Vec<_> =
        [OWN, "attach -o /out/attach.nvmx"].into_iter().chain(records.iter().map(String::as_str)).collect();
    let console = on_host(host, &commands, &folder);
    let (attach, outside) = (folder.join("attach.nvmx"), folder.join("outside.nvmx"));

    let mut table = String::new();
    let (mut in_turn, mut alone) = (Vec::new(), 0);
    for ((guest, options), command) in GUESTS.iter().zip(&records) {
        let (ours, theirs) = (folder.join(format!("{guest}-soft.nvmx")), folder.join(format!("{guest}.nvmx")));
        // KVM serves what VMREADs and VMWRITEs of L2 it can.
        let words = ["record", guest, "--shadowing", "emulated", "-o", word(&ours)];
        let words: Vec<_> = words.into_iter().chain(options.split_whitespace()).collect();
        let soft = nvmx(&words).expect(0).out;
        let start = console.find(&format!("nvmx-command {command}")).unwrap_or_else(|| panic!("{command}: {console}"));
        // What nvmx says itself begins so, or with a mark of the script's.
        let of_guest = |text: &str| {
            let lines = text.lines().map(str::trim_end).skip_while(|line| line.starts_with("nvmx-command"));
            let lines = lines.take_while(|line| !line.starts_with("nvmx-"));
            lines.filter(|line| !line.starts_with("nvmx: ")).map(str::to_owned).collect::<Vec<_>>()
        };
        let (want, got) = (of_guest(&soft), of_guest(&console[start..]));
        assert_eq!(got, want, "{guest}: {console}");

        let (want, got) = (reflected(&ours), reflected(&theirs));
        assert!(!want.is_empty());
        assert_eq!(got, want, "{guest}: the exits that L1 is told of, on kvm_intel and on our L0");
        let all = nested(&theirs, 2, "");
        let own = |trace: &Path| nested(trace, 2, "AND handled_by = 'L0'").len();
        table += &format!("{guest:<15} {:>6} {:>8} {:>8}\n", want.len(), own(&ours), own(&theirs));
        if options.is_empty() {
            alone += all.len();
        }
        in_turn.extend(all);

        // L1 asks for the same; what L0 makes exit for itself is its own, and how long a vCPU waits for another.
        let [mut want, mut got] = [&ours, &theirs].map(|trace| counts(trace));
        for reason in [Reason::EXTERNAL_INTERRUPT, Reason::EPT_VIOLATION, Reason::PAUSE] {
            want.remove(&reason.0.into());
            got.remove(&reason.0.into());
        }
        assert_eq!(got, want, "{guest}: L1's exits by reason");
    }
    let _ = writeln!(std::io::stderr(), "guest           to L1   L0 soft   L0 kvm\n{table}");

    // L2 of `demo` prints, so that nvmx looks at its vmcs12s all the time.
    let [ours, theirs] = ["demo-soft.nvmx", "demo.nvmx"].map(|name| written(&folder.join(name)));
    assert!(ours.len() > 40, "{ours:?}");
    assert_eq!(theirs, ours, "what L1 wrote into its vmcs12s");

    // The host's kernel, by way of the attached nvmx and of the one that ran the guests, and the machine that it ran on.
    let heard = nested(&attach, 2, "");
    assert_eq!(heard, in_turn, "what attach recorded, and what was recorded with the guests");
    // With two vCPUs, the host's scheduler may step between what one asks for and its guest's first entry: the recording around
    // infers whose guest it is, and takes it for the host's own then.
    let want = nested(&outside, 3, "AND handled_by = 'L1'");
    assert!(alone > 1000 && want.len() > alone, "{alone} of {}", want.len());
    assert_eq!(heard[..alone], want[..alone], "the tracepoints of KVM, and the recording around");

    // What KVM executed there for our own L0 is what the software CPU executes here.
    let own = folder.join("own.nvmx");
    for how in [&[][..], &["--l0"]] {
        let words: Vec<_> = ["replay", "--json", word(&own)].into_iter().chain(how.iter().copied()).collect();
        assert_eq!(nvmx(&words).expect(0).json()["identical"], true, "{how:?}");
    }

    for trace in [&attach, &folder.join("demo.nvmx")] {
        nvmx(&["verify", word(trace)]).expect(0);
        let report = nvmx(&["report", word(trace)]).expect(0).out;
        assert!(report.contains("L2 exits"), "{report}");
        nvmx(&["replay", word(trace)]).expect(2).one_line(&["cannot replay", "nothing says what machine"]);
    }
}
