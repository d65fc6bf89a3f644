//! The words of the command line: each command's help, completions, manual pages, and manners.

mod common;

use common::{command, finish, folder, line, nvmx, word};
use std::io::Read;
use std::process::Stdio;

const COMMANDS: &[&str] = &[
    "demo",
    "guests",
    "run",
    "record",
    "replay",
    "whatif",
    "report",
    "query",
    "diff",
    "check",
    "tui",
    "dump",
    "info",
    "verify",
    "store",
    "attach",
    "import",
    "export",
    "bench",
    "completions",
    "man",
];

#[test]
fn help_has_examples() {
    for command in COMMANDS {
        let help = line(&format!("{command} --help")).expect(0).out;
        assert!(help.contains("Usage: nvmx "), "{command}: {help}");
        assert!(help.contains(&format!("Examples:\n  nvmx {command}")), "{command}: {help}");
        for option in ["--quiet", "--verbose", "--color"] {
            assert!(help.contains(option), "{command} takes {option}");
        }
    }
}

#[test]
fn help_lists_the_commands_that_there_are_and_no_others() {
    let help = line("--help").expect(0).out;
    let listed: Vec<_> = help
        .lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    assert_eq!(listed, COMMANDS);
}

#[test]
fn no_words_at_all_show_the_help() {
    let ran = line("").expect(2);
    assert!(ran.err.contains("Commands:"), "{}", ran.err);
}

#[test]
fn completions_for_every_shell() {
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let script = line(&format!("completions {shell}")).expect(0).out;
        for command in COMMANDS {
            assert!(script.contains(command), "{shell} completes {command}");
        }
    }
}

#[test]
fn manual_pages() {
    let page = line("man").expect(0).out;
    assert!(page.contains(".TH nvmx 1"), "{page}");
    let folder = folder("man");
    nvmx(&["man", "-o", word(&folder)]).expect(0);
    for command in COMMANDS {
        let page = std::fs::read_to_string(folder.join(format!("nvmx-{command}.1"))).expect("a page for each command");
        for section in ["EXAMPLES", "EXIT STATUS", "SEE ALSO"] {
            assert!(
                page.contains(&format!(".SH \"{section}\"")) || page.contains(&format!(".SH {section}")),
                "{command}: {page}"
            );
        }
    }
}

#[test]
fn a_reader_that_leaves_is_no_error() {
    let mut child = command()
        .args(["completions", "bash"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    drop(child.stdout.take());
    let mut said = String::new();
    child.stderr.take().expect("piped").read_to_string(&mut said).expect("text");
    assert_eq!((child.wait().expect("it ends").code(), said.as_str()), (Some(0), ""));
}

#[test]
fn a_stdout_that_is_full_is_an_error() {
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").expect("a Linux host");
    finish(command().arg("guests").stdout(full)).expect(3).one_line(&["No space left on device"]);
}

#[test]
fn color_only_where_it_is_wanted() {
    let has_color = |words: &str| line(words).expect(0).out.contains('\x1b');
    assert!(!has_color("--help"));
    assert!(has_color("--color always --help"));
    assert!(!has_color("--color=never --help"));
}
