//! A host with nested VMX, inside the software machine: Debian's Linux with kvm_intel, where a static `nvmx` runs guests on
//! KVM and is attached to it.
//!
//! The levels shift by one on the way out: what the host's kernel calls L1 is an L2 to the recording around it, and its L2 an
//! L3. So the recording around is the judge of what the host's own tracepoints say.

mod common;
#[path = "common/guest.rs"]
mod guest;

use common::{folder, nvmx, word};
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

/// What a trace says of the exits of one level that are L1's to handle, in order: reason, qualification, RIP.
fn reflected(trace: &Path, level: u8) -> Vec<Vec<u64>> {
    let sql = format!(
        "SELECT reason_code, qualification, rip FROM exits WHERE level = {level} AND handled_by = 'L1' ORDER BY event"
    );
    rows(trace, &sql)
}

/// How often each reason comes among the exits of a level.
fn counts(trace: &Path, level: u8) -> BTreeMap<u64, u64> {
    let sql = format!("SELECT reason_code, COUNT(*) AS n FROM exits WHERE level = {level} GROUP BY reason_code");
    rows(trace, &sql).iter().map(|row| (row[0], row[1])).collect()
}
