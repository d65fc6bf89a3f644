//! The inspector in a terminal, as a user sees it.

mod common;
#[path = "common/guest.rs"]
mod guest;
#[path = "common/tmux.rs"]
mod tmux;

use common::{folder, nvmx, record, send, word};
use std::fs;
use tmux::Terminal;

#[test]
fn it_opens_and_quits_at_any_size() {
    if !tmux::is_there() {
        return;
    }
    let folder = folder("inspector");
    let trace = record(&folder, "demo.nvmx", "demo", "");
    let words = format!("tui {}", word(&trace));
    for (size, wanted) in
        [((80, 24), "1 Event"), ((200, 60), "2 VMCS"), ((60, 16), "Events"), ((40, 10), "make it larger")]
    {
        let terminal = Terminal::new(size, &folder);
        terminal.start("", &words);
        let screen = terminal.wait(wanted);
        assert!(screen.lines().all(|line| line.chars().count() <= usize::from(size.0)), "{screen}");
        terminal.key("q");
        let screen = terminal.wait("status 0");
        // The screen of before is back.
        assert!(screen.contains("shell>") && !screen.contains(wanted), "{screen}");
    }
    let terminal = Terminal::new((80, 24), &folder);
    terminal.start("", &words);
    terminal.wait("1 Event");
    terminal.resize(40, 10);
    terminal.wait("make it larger");
    terminal.resize(160, 40);
    terminal.wait("2 VMCS");
    terminal.key("?");
    terminal.wait("any other key leaves");
}

#[test]
fn colours_are_what_the_environment_asks_for() {
    if !tmux::is_there() {
        return;
    }
    let folder = folder("inspector-colours");
    let trace = record(&folder, "demo.nvmx", "demo", "");
    let words = format!("tui {}", word(&trace));
    let check = |before: &str, has: &[&str], lacks: &[&str]| {
        let terminal = Terminal::new((80, 24), &folder);
        terminal.start(before, &words);
        terminal.wait("L0 clears vmcs01");
        let screen = terminal.coloured();
        for sequence in has {
            assert!(screen.contains(sequence), "{before}: no {sequence:?} in {screen:?}");
        }
        for sequence in lacks {
            assert!(!screen.contains(sequence), "{before}: {sequence:?} in {screen:?}");
        }
    };
    check("TERM=xterm-256color COLORTERM=", &["38;5;"], &["38;2;"]);
    check("TERM=xterm COLORTERM=", &["\x1b[36m", "\x1b[90m"], &["38;5;", "38;2;"]);
    check("NO_COLOR=1", &["\x1b[1m"], &["38;", "\x1b[31m", "\x1b[36m"]);
}

#[test]
fn whatever_ends_it_the_terminal_is_sane() {
    if !tmux::is_there() {
        return;
    }
    let folder = folder("inspector-signals");
    let trace = record(&folder, "demo.nvmx", "demo", "");
    for signal in ["TERM", "INT", "HUP"] {
        let terminal = Terminal::new((80, 24), &folder);
        terminal.start("", &format!("tui {}", word(&trace)));
        terminal.wait("1 Event");
        send(signal, terminal.child());
        terminal.wait("status ");
        // What is typed is shown again, a line is a line, and the mouse is the terminal's own.
        terminal.text("stty -a; echo \"a\"b");
        terminal.key("Enter");
        let screen = terminal.wait("ab");
        for word in [" echo ", " icanon ", " isig "] {
            assert!(screen.replace('\n', " ").contains(word), "{signal}: no{word}in {screen}");
        }
        assert!(!screen.contains("1 Event"), "{signal}: {screen}");
    }
}

#[test]
fn awkward_files_are_said_in_a_line() {
    if !tmux::is_there() {
        return;
    }
    let folder = folder("inspector-files");
    let trace = record(&folder, "demo.nvmx", "demo", "");
    let bytes = fs::read(&trace).expect("it was recorded");
    let cut = folder.join("cut.nvmx");
    fs::write(&cut, &bytes[..bytes.len() * 2 / 3]).expect("the folder can be written to");
    let terminal = Terminal::new((80, 24), &folder);
    terminal.start("", &format!("tui {}", word(&cut)));
    terminal.wait("cut short");
    terminal.key("q");
    terminal.wait("status 0");
    for (name, bytes) in [("foreign.nvmx", &b"no trace at all"[..]), ("empty.nvmx", &[])] {
        let file = folder.join(name);
        fs::write(&file, bytes).expect("the folder can be written to");
        nvmx(&["tui", word(&file)]).expect(2).one_line(&[name]);
    }
    // Without a terminal there is nothing to show it on.
    nvmx(&["tui", word(&trace)]).expect(2).one_line(&["terminal"]);
}

#[test]
fn two_traces_are_shown_side_by_side() {
    if !tmux::is_there() {
        return;
    }
    let folder = folder("inspector-two");
    let one = record(&folder, "one.nvmx", "flush-storm", "");
    let two = record(&folder, "two.nvmx", "flush-storm", "--policy kvm-2011");
    let terminal = Terminal::new((80, 24), &folder);
    terminal.start("", &format!("tui {} {}", word(&one), word(&two)));
    terminal.wait("A one.nvmx  B two.nvmx");
    terminal.key("d");
    terminal.wait("difference 2, at event");
    // By shape, then from the guests' view.
    terminal.text("tt");
    terminal.wait("by shape");
    terminal.resize(160, 40);
    terminal.wait("fields");
    terminal.key("q");
    terminal.wait("status 0");
    nvmx(&["tui", word(&one), word(&folder.join("none.nvmx"))]).expect(2).one_line(&["none.nvmx"]);
}

#[test]
fn what_was_marked_is_there_the_next_time() {
    if !tmux::is_there() {
        return;
    }
    let folder = folder("inspector-kept");
    let trace = record(&folder, "demo.nvmx", "demo", "");
    let words = format!("tui {}", word(&trace));
    let open = |words: &str| {
        let terminal = Terminal::new((80, 24), &folder);
        terminal.start("", words);
        terminal.wait("1 Event");
        terminal
    };
    let terminal = open(&words);
    terminal.text(":12");
    terminal.key("Enter");
    terminal.wait("event 12 of");
    terminal.text("ma");
    terminal.wait("Bookmark a is on event 12");
    terminal.text("s");
    terminal.wait("save as: demo-events.csv");
    terminal.key("Enter");
    terminal.wait("Saved demo-events.csv");
    terminal.key("q");
    terminal.wait("status 0");
    let saved = fs::read_to_string(folder.join("demo-events.csv")).expect("it was saved");
    assert!(saved.starts_with("event,") && saved.lines().count() > 100, "{saved}");
    let terminal = open(&words);
    terminal.wait("event 12 of");
    terminal.text("M");
    terminal.wait("Bookmarks");
    terminal.key("Escape");
    terminal.key("q");
    terminal.wait("status 0");
    let terminal = open(&format!("{words} --fresh"));
    terminal.wait("event 0 of");
    terminal.key("q");
    terminal.wait("status 0");
    // A file that is damaged is told of and left aside.
    fs::write(folder.join("demo.nvmx.view"), "{").expect("the folder can be written to");
    open(&words).wait("demo.nvmx.view is damaged");
}

/// A key or a text of docs/inspector.md.
fn press(terminal: &Terminal, word: &str) {
    match word {
        "Enter" | "Tab" => terminal.key(word),
        "Esc" => terminal.key("Escape"),
        text => terminal.text(text),
    }
}

/// The tasks of docs/inspector.md: what is said of each, and its keys, whose number is as it says.
fn tasks() -> Vec<(String, Vec<String>)> {
    let text = include_str!("../docs/inspector.md");
    let (_, tasks) = text.split_once("## Five tasks and their keys").expect("a heading");
    let mut found = Vec::new();
    for task in tasks.split("\n").collect::<Vec<_>>().join(" ").split(". **").skip(1) {
        let (title, rest) = task.split_once("**").expect("a title");
        let (count, rest) = rest.trim().split_once(" keys").expect("how many keys");
        let count: usize = count.parse().expect("a number");
        let (_, rest) = rest.split_once(": ").expect("the keys");
        // The keys are the spans of code up to the first that is followed by other than a blank.
        let mut keys = Vec::new();
        let mut rest = rest.trim();
        while let Some((key, behind)) = rest.strip_prefix('`').and_then(|rest| rest.split_once('`')) {
            keys.push(key.to_owned());
            rest = behind.trim_start();
        }
        let length = |key: &String| if ["Enter", "Tab", "Esc"].contains(&key.as_str()) { 1 } else { key.len() };
        assert_eq!(keys.iter().map(length).sum::<usize>(), count, "{title}: {keys:?}");
        found.push((title.to_owned(), keys));
    }
    found
}

#[test]
fn the_tasks_of_the_manual_take_the_keys_that_it_says() {
    let tasks = tasks();
    assert_eq!(tasks.len(), 5);
    if !tmux::is_there() {
        return;
    }
    let made = guest::linux().and_then(|linux| Ok((linux.kernel(), guest::kvm(&linux)?)));
    let Some((kernel, initrd)) = guest::or_skip(&made) else { return };
    let folder = folder("inspector-tasks");
    let append = format!("{} nvmx.run=kvm nvmx.payload=cpuid=50,out=20,pages=40,mmio=10", guest::APPEND);
    for (name, policy) in [("a.nvmx", "mapped"), ("b.nvmx", "kvm-2011")] {
        let machine =
            ["record", "--kernel", word(kernel), "--initrd", word(initrd), "--mem", "384M", "--policy", policy];
        let trace = folder.join(name);
        nvmx(&[&machine[..], &["--append", &append, "-o", word(&trace)]].concat()).expect(0);
    }
    let shows: [&[&str]; 5] = [
        &[" of L2 at ", " cost ", " instructions of L1", "VMREAD"],
        &["L0 writes vmcs02.ept_pointer", "caused by  ", "L1 VMLAUNCH, which L0 handles"],
        &["redundant, rule "],
        &["L2-physical", "EPT12", "not present"],
        &["by guests' view", "The traces do not differ|No difference after this"],
    ];
    for (at, ((title, keys), shown)) in tasks.iter().zip(shows).enumerate() {
        let terminal = Terminal::new((80, 24), &folder);
        terminal.start("", if at == 4 { "tui --fresh a.nvmx b.nvmx" } else { "tui --fresh a.nvmx" });
        terminal.wait("? help");
        for key in keys {
            press(&terminal, key);
        }
        terminal.wait_until(&format!("{shown:?} for: {title}"), |screen| {
            shown.iter().all(|text| text.split('|').any(|text| screen.contains(text)))
        });
    }
}
