//! GDB itself, by a script. Without a gdb on this machine the test does nothing, and says so.

use crate::{demo, in_l2, listening};
use replayer::Cursor;
use std::path::Path;
use std::process::{Command, Stdio};

/// What gdb prints for these commands.
pub(crate) fn gdb(at: &Path, commands: &[String]) -> Option<String> {
    let mut gdb = Command::new("gdb");
    gdb.args(["-nx", "-batch", "-ex", "set pagination off", "-ex", "set confirm off", "-ex"]);
    gdb.arg(format!("target remote {}", at.display()));
    for command in commands {
        gdb.args(["-ex", command]);
    }
    match gdb.stdin(Stdio::null()).output() {
        Ok(output) => {
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            Some(text(&output.stdout) + &text(&output.stderr))
        }
        Err(error) => {
            eprintln!("NOT TESTED: gdb cannot be run here: {error}");
            None
        }
    }
}

/// A line of registers behind a word.
pub(crate) fn registers(word: &str) -> String {
    format!("printf \"{word} %lx %lx %lx %lx %x\\n\", $rip, $rsp, $rax, $rbx, $eflags")
}

#[track_caller]
pub(crate) fn line<'a>(text: &'a str, word: &str) -> &'a str {
    let found = text.lines().find_map(|line| line.trim().strip_prefix(word));
    found.unwrap_or_else(|| panic!("no line '{word}' in\n{text}"))
}

#[test]
fn gdb_breaks_in_l2_steps_both_ways_and_runs_back_to_a_vmwrite() {
    let (instruction, rip) = in_l2();
    let reader = demo();
    let mut cursor = Cursor::open(&reader).expect("opened");
    cursor.to_instruction(instruction).expect("gone to");
    let commands = [
        "info threads".to_owned(),
        format!("break *{rip:#x}"),
        format!("monitor seek-instruction {}", instruction - 1),
        "maintenance flush register-cache".to_owned(),
        "continue".to_owned(),
        registers("here"),
        "stepi".to_owned(),
        "stepi".to_owned(),
        "stepi".to_owned(),
        registers("there"),
        "reverse-stepi".to_owned(),
        "reverse-stepi".to_owned(),
        "reverse-stepi".to_owned(),
        registers("again"),
        "info threads".to_owned(),
        "thread apply all printf \"bytes %lx %02x%02x%02x%02x\\n\", $rip, *(unsigned char*)$rip, *(unsigned char*)($rip+1), \
         *(unsigned char*)($rip+2), *(unsigned char*)($rip+3)"
            .to_owned(),
        "set var $rax = 1".to_owned(),
        "delete".to_owned(),
        "monitor watch-vmcs GUEST_RIP write".to_owned(),
        "reverse-continue".to_owned(),
        "monitor event".to_owned(),
        "monitor unwatch-vmcs".to_owned(),
        "reverse-continue".to_owned(),
        "monitor event".to_owned(),
    ];
    let Some(text) = gdb(&listening(0), &commands) else { return };
    assert!(text.contains("L1 of vCPU 0, runs") && text.contains("L2 of vCPU 0, runs"), "{text}");
    assert!(text.contains("Breakpoint 1, "), "{text}");
    assert!(line(&text, "here").starts_with(&format!(" {rip:x} ")), "{text}");
    assert_eq!(line(&text, "here"), line(&text, "again"), "{text}");
    assert_ne!(line(&text, "here"), line(&text, "there"), "{text}");
    // Both guests' memory at one place, through their own paging.
    for level in [1, 2] {
        let guest = cursor.machine().l0().guest(0, level).expect("a guest");
        let at = guest.vmcs.get(hv_defs::vmcs::GUEST_RIP);
        let mut bytes = [0; 4];
        assert_eq!(cursor.machine().l0().look_at(&guest, at, &mut bytes), 4);
        let [a, b, c, d] = bytes;
        assert!(text.contains(&format!("bytes {at:x} {a:02x}{b:02x}{c:02x}{d:02x}")), "L{level}:\n{text}");
    }
    assert!(line(&text, "stopped behind event").contains("op=write field=guest_rip"), "{text}");
    assert!(text.contains("No more reverse-execution history."), "{text}");
    assert!(text.contains("instruction 0,"), "{text}");
}
