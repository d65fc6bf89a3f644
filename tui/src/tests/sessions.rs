//! What keys do, and that none does harm.

use super::{Session, sample};
use crate::model::{Mode, Msg, Side};
use crossterm::event::{KeyCode, KeyEvent, KeyModifiers, MouseButton, MouseEvent, MouseEventKind};
use hv_defs::event::{Kind, What};
use hv_defs::exit::Reason;

/// After these keys, the cursor is on the event that `wanted` finds.
#[track_caller]
fn check(keys: &str, wanted: usize) {
    let mut session = Session::of_sample((80, 24));
    session.keys(keys);
    assert_eq!(session.model.cursor, wanted as u64, "{keys}: {}", session.note());
}

/// The place of the `nth` event that is such, from 0.
fn nth(nth: usize, such: impl Fn(&What) -> bool) -> usize {
    let events = sample::events();
    let mut places = (0..events.len()).filter(|&at| such(&events[at].what));
    places.nth(nth).expect("the sample has so many")
}

fn exit_for(reason: Reason) -> impl Fn(&What) -> bool {
    move |what| matches!(what, What::Exit(exit) if exit.basic() == reason)
}

#[test]
fn keys_go_where_they_say() {
    let last = sample::events().len() - 1;
    check("", 0);
    check("jjj", 3);
    check("jjjkk", 1);
    check("G", last);
    check("Gg", 0);
    check(":57\n", 57);
    check(":9999\n", last);
    check(":50%\n", sample::events().len() / 2);
    check(":@500\n", sample::events().iter().position(|event| event.at.instruction >= 500).expect("it runs as long"));
    check(":57\nma:3\n'a", 57);
    check(":57\nma:3\n:'a\n", 57);
    check(":57\n:90\no", 57);
    check(":57\n:90\noO", 90);
    check("/vmlaunch", nth(0, exit_for(Reason::VMLAUNCH)));
    check("/vmlaunch\u{1b}", 0);
    check("/cpuid\nn", nth(1, exit_for(Reason::CPUID)));
    check("/cpuid\nnN", nth(0, exit_for(Reason::CPUID)));
    check("freason==CPUID\n", nth(0, exit_for(Reason::CPUID)));
    check("freason==CPUID\njj", nth(2, exit_for(Reason::CPUID)));
    check("freason==CPUID\nGkF", nth(sample_count(exit_for(Reason::CPUID)) - 2, exit_for(Reason::CPUID)));
    // The word is completed from its beginning.
    check("freason==ept_v\t\n", nth(0, exit_for(Reason::EPT_VIOLATION)));
    check("jr", nth(1, exit_for(Reason::CPUID)));
    check("jrR", nth(0, exit_for(Reason::CPUID)));
    check("e", nth(1, |what| what.kind() == Kind::Entry));
    check("p", nth(0, |what| what.kind() == Kind::Mark));
    check("pp", nth(1, |what| what.kind() == Kind::Mark));
    check("ppP", nth(0, |what| what.kind() == Kind::Mark));
    check("j%", 2);
    check("j%%", 1);
    check("j=\n", nth(0, exit_for(Reason::CPUID)));
}

#[test]
fn causes_and_findings_are_gone_to() {
    let l2 = nth(0, |what| matches!(what, What::Exit(exit) if exit.level == 2));
    let vmread = nth(0, exit_for(Reason::VMREAD));
    // Up from what L0 did for L1's VMREAD, to the VMREAD, to L2's exit that it serves; down to where each ends.
    check("/vmread\njj", vmread + 2);
    check("/vmread\njju", vmread);
    check("/vmread\njjuu", l2);
    check("/vmread\njjuuu", l2);
    let entry = |level| move |what: &What| matches!(what, What::Entry(entry) if entry.level == level);
    let behind = |at: usize, level| (at..).find(|&at| entry(level)(&sample::events()[at].what)).expect("it is entered");
    check("/vmread\nU", behind(vmread, 1));
    check("/vmread\nuU", behind(l2, 2));
    check("}", l2);
    check("}}{", l2);
    // In a pane, groups are gone through.
    let mut session = Session::of_sample((80, 24));
    session.keys("4}");
    let found = session.model.findings.clone().expect("found").expect("the sample is whole");
    let group = |row: usize| found.findings[row].group;
    let second = session.model.finding_row;
    assert!(second > 0 && group(second) != group(second - 1), "{}", session.screen());
    session.keys("}{");
    assert_eq!(session.model.finding_row, second);
    session.keys("{");
    assert_eq!(session.model.finding_row, 0);
    // What is found is stopped at, both ways; the status line says what it is.
    let mut session = Session::of_sample((80, 24));
    session.keys("]");
    let first = session.model.cursor;
    assert!(first > 0 && !session.note().is_empty(), "{first}");
    session.keys("]");
    assert!(session.model.cursor > first);
    session.keys("[");
    assert_eq!(session.model.cursor, first);
    session.keys("[");
    assert_eq!((session.model.cursor, session.note()), (first, "Nothing is found before this."));
    session.keys("1");
    assert!(session.screen().contains("found           "), "{}", session.screen());
}

fn sample_count(such: impl Fn(&What) -> bool) -> usize {
    sample::events().iter().filter(|event| such(&event.what)).count()
}

#[test]
fn fields_and_vmcss_are_followed() {
    let of_field = |what: &What| matches!(what, What::Vmcs(access) if access.field.name() == Some("guest_cr0"));
    let mut session = Session::of_sample((80, 24));
    session.keys("/guest_cr0\n");
    assert_eq!(session.model.cursor, nth(0, of_field) as u64);
    session.keys("w");
    assert_eq!(session.note(), "No access to vmcs12.guest_cr0 after this.");
    // The VMCS pane knows the field at any later event, and Enter goes to what changed it.
    session.keys("G2/guest_cr0\n\n");
    assert_eq!(session.model.cursor, nth(0, of_field) as u64);
    assert!(!session.model.in_side);
    let of_vmcs12 = |what: &What| match what {
        What::Vmcs(access) => access.which.name() == "vmcs12",
        What::Exit(exit) => exit.level == 2,
        What::Entry(entry) => entry.level == 2,
        What::Pool(_) => true,
        _ => false,
    };
    let from = session.model.cursor as usize;
    let after = (0..).map(|n| nth(n, of_vmcs12)).find(|&at| at > from).expect("there are more");
    session.keys("v");
    assert_eq!(session.model.cursor, after as u64);
}

#[test]
fn costs_and_findings_lead_to_their_events() {
    let mut session = Session::of_sample((80, 24));
    session.keys("fexit and level == 2 and reason == EPT_VIOLATION\nF3jj\n");
    let l2 = nth(0, |what| matches!(what, What::Exit(exit) if exit.level == 2));
    let second = nth(1, |what| matches!(what, What::Exit(exit) if exit.basic() == Reason::VMREAD));
    assert!(l2 < second);
    assert_eq!(session.model.cursor, second as u64);
    let mut session = Session::of_sample((80, 24));
    session.keys("4");
    let found = session.model.findings.clone().expect("found").expect("the sample is whole");
    let failed =
        found.findings.iter().position(|finding| finding.text.contains("guest-rflags-reserved")).expect("is told");
    session.keys(&"j".repeat(failed)).keys("\n");
    let wanted = nth(0, |what| matches!(what, What::Entry(entry) if entry.failed.is_some()));
    assert_eq!(session.model.cursor, wanted as u64);
}

/// What is typed before anything was read does what it would do if it were typed slowly.
#[test]
fn keys_are_taken_ahead() {
    for text in ["jrrU", "/vmread\njuu", "}2/ept_p\n\n", "4}}\n3", "4}\n]u"] {
        let mut session = Session::of_sample((80, 24));
        session.model.events.clear();
        let key = |letter| match letter {
            '\n' => KeyCode::Enter,
            letter => KeyCode::Char(letter),
        };
        let keys = text.chars().map(|letter| Msg::Key(KeyEvent::new(key(letter), KeyModifiers::NONE)));
        session.send_all(keys.collect());
        let mut slowly = Session::of_sample((80, 24));
        slowly.keys(text);
        assert!(session.model.ahead.is_empty());
        assert_eq!(session.model.cursor, slowly.model.cursor, "{text}: {}", session.screen());
    }
}

#[test]
fn what_a_filter_hides_is_shown_without_it() {
    let mut session = Session::of_sample((80, 24));
    session.keys("freason==CPUID\n:0\n");
    assert!(session.model.filter.is_none(), "event 0 is no CPUID exit");
    assert_eq!(session.model.cursor, 0);
    session.keys("F");
    assert!(session.model.filter.is_some());
}

#[test]
fn the_mouse_selects_and_the_wheel_moves() {
    let mut session = Session::of_sample((80, 24));
    let mouse = |kind, column, row| Msg::Mouse(MouseEvent { kind, column, row, modifiers: KeyModifiers::NONE });
    let click = MouseEventKind::Down(MouseButton::Left);
    session.send(mouse(click, 20, 9));
    let list = crate::layout::areas(&session.model).expect("it fits").of(crate::layout::Pane::List).expect("is shown");
    assert_eq!(session.model.cursor, u64::from(9 - list.y - 1));
    session.send(mouse(MouseEventKind::ScrollDown, 20, 9));
    assert_eq!(session.model.cursor, u64::from(9 - list.y - 1 + 3));
    // On the timeline's middle.
    session.send(mouse(click, 8 + 35, 2));
    let len = sample::events().len() as u64;
    assert!((len / 2).abs_diff(session.model.cursor) < len / 20, "{}", session.model.cursor);
    session.send(mouse(MouseEventKind::ScrollUp, 40, 2));
    let (from, to) = session.model.strip.window;
    assert!(to - from < len && (from..to).contains(&session.model.cursor));
    // On the side pane.
    session.send(mouse(click, 20, 20));
    assert!(session.model.in_side && session.model.side == Side::Detail);
}

/// A file of a test's own, gone afterwards.
struct File(std::path::PathBuf);

impl File {
    fn new(name: &str) -> Self {
        let file = Self(std::env::temp_dir().join(format!("nvmx-{}-{name}", std::process::id())));
        let _ = std::fs::remove_file(&file.0);
        file
    }

    fn text(&self) -> String {
        std::fs::read_to_string(&self.0).expect("it is there")
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[test]
fn what_is_shown_is_saved() {
    let mut session = Session::of_sample((80, 24));
    session.writes = true;
    let save = |session: &mut Session, file: &File| {
        session.keys("s");
        if let Mode::Prompt(prompt) = &mut session.model.mode {
            prompt.line = crate::line::Line::new(&file.0.display().to_string());
        }
        session.keys("\n").note().to_owned()
    };
    let csv = File::new("events.csv");
    session.keys("freason == CPUID and level == 2\n");
    let said = save(&mut session, &csv);
    let hits = nth_count(|what| matches!(what, What::Exit(exit) if exit.level == 2 && exit.basic() == Reason::CPUID));
    assert!(said.ends_with(&format!("{hits} lines.")), "{said}");
    let text = csv.text();
    assert_eq!(text.lines().next(), Some("event,vcpu,level,letter,what"));
    assert_eq!(text.lines().count(), hits + 1);
    assert!(text.lines().skip(1).all(|line| line.contains(",2,<,CPUID to L1  rip")), "{text}");
    // What is there is not written over unless it is asked for.
    let said = save(&mut session, &csv);
    assert!(said.contains("is there already"), "{said}");
    assert_eq!(csv.text(), text);
    session.keys("!\n");
    assert!(session.note().starts_with("Saved"), "{}", session.note());
    session.keys("F");
    let all = File::new("all.txt");
    let said = save(&mut session, &all);
    assert_eq!(said.rsplit(", ").next(), Some(format!("{} lines.", sample::events().len()).as_str()));
    assert_eq!(all.text().lines().count(), sample::events().len() + 1);
    // A trace without events has a heading.
    let none = File::new("none.csv");
    let mut empty = Session::open(sample::empty(), (80, 24));
    empty.writes = true;
    assert!(save(&mut empty, &none).ends_with(", 0 lines."), "{}", empty.note());
    assert_eq!(none.text(), "event,level,letter,what\n");
    // A folder that is missing is told of, and nothing is left behind.
    session.keys("s");
    if let Mode::Prompt(prompt) = &mut session.model.mode {
        prompt.line = crate::line::Line::new("/nonexistent/x.csv");
    }
    session.keys("\n");
    assert_eq!(session.note(), "Cannot save /nonexistent/x.csv: no such file or directory");
}

fn nth_count(such: impl Fn(&What) -> bool) -> usize {
    sample::events().iter().filter(|event| such(&event.what)).count()
}

#[test]
fn a_pane_is_copied_as_a_whole() {
    let mut session = Session::of_sample((80, 24));
    session.keys(":60\n2Y");
    let text = session.copied.clone().expect("copied");
    assert!(text.contains("Guest state") && text.lines().count() > 3, "{text}");
    session.keys("\u{1b}gY");
    let rows = usize::from(crate::layout::list_rows(&session.model));
    assert_eq!(session.copied.as_ref().map(|text| text.lines().count()), Some(rows), "the list as it is on the screen");
    session.keys("y");
    assert!(session.copied.is_some_and(|text| text.starts_with("0 0 0/0 entry level=1")));
}

#[test]
fn columns_are_chosen_and_put_in_order() {
    use crate::columns::{Column, shown};
    let mut session = Session::of_sample((80, 24));
    let names = |session: &Session| shown(&session.model, 80).iter().map(|column| column.name()).collect::<Vec<_>>();
    assert_eq!(names(&session), ["event", "vcpu", "level", "letter", "what"]);
    session.keys("cj ");
    assert_eq!(names(&session), ["event", "time", "vcpu", "level", "letter", "what"]);
    session.keys("K");
    assert_eq!(names(&session), ["time", "event", "vcpu", "level", "letter", "what"]);
    session.keys("0");
    assert_eq!(names(&session), ["event", "vcpu", "level", "letter", "what"]);
    // The last one that is shown stays.
    session.keys("g").keys(&" j".repeat(Column::ALL.len()));
    assert_eq!(names(&session).len(), Column::ALL.len() - 5);
    session.keys("\u{1b}j");
    assert_eq!((session.model.cursor, &session.model.mode), (1, &Mode::Browse));
}

#[test]
fn bookmarks_are_listed_named_and_dropped() {
    let mut session = Session::of_sample((80, 24));
    session.keys("M");
    assert_eq!(session.note(), "There are no bookmarks; m and a letter sets one.");
    session.keys(":57\nma:120\nmb:200\nMk\n");
    assert_eq!(session.model.cursor, 57);
    session.keys("Mrnear the start\n");
    assert_eq!(session.model.mark_notes.get(&'a').map(String::as_str), Some("near the start"));
    session.keys("Mb");
    assert_eq!(session.model.cursor, 120);
    session.keys("Mkx\u{1b}'a");
    assert_eq!((session.model.marks.len(), session.model.cursor), (1, 120));
    assert!(session.model.mark_notes.is_empty());
}

#[test]
fn the_mouse_draws_a_stretch_of_the_timeline_and_finds_tabs() {
    let mut session = Session::of_sample((80, 24));
    let mouse = |kind, column, row| Msg::Mouse(MouseEvent { kind, column, row, modifiers: KeyModifiers::NONE });
    session.send(mouse(MouseEventKind::Down(MouseButton::Left), 20, 2));
    session.send(mouse(MouseEventKind::Drag(MouseButton::Left), 50, 2));
    assert!(session.note().starts_with("Let go to zoom to events "), "{}", session.note());
    session.send(mouse(MouseEventKind::Up(MouseButton::Left), 50, 2));
    let (from, to) = session.model.strip.window;
    assert!(from > 0 && to < session.model.about.len && to - from > 200, "{from} {to}");
    assert!((from..to).contains(&session.model.cursor));
    let areas = crate::layout::areas(&session.model).expect("it fits");
    let side = areas.of(crate::layout::Pane::Side(Side::Detail)).expect("is shown");
    let title = (0..80).map(|x| crate::view::tab_at(&session.model, Side::Detail, side, x)).collect::<Vec<_>>();
    let findings = title.iter().position(|tab| *tab == Some(Side::Findings)).expect("has a tab");
    session.send(mouse(MouseEventKind::Down(MouseButton::Left), findings as u16, side.y));
    assert!(session.model.in_side && session.model.side == Side::Findings);
    // The names of the columns.
    let list =
        crate::layout::areas(&session.model).and_then(|areas| areas.of(crate::layout::Pane::List)).expect("shown");
    session.send(mouse(MouseEventKind::Down(MouseButton::Left), 40, list.y));
    assert_eq!(session.model.mode, Mode::Columns(0));
}
