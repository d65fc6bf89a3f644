//! The alignment against traces whose differences are known, and the screen of two traces.

use super::align::{Row, Sort, Strict, piece, rows};
use super::update::update;
use super::work::perform;
use super::{Effect, Mode, Model, Msg, Reply};
use crate::about;
use crate::export::Step;
use crate::line::Line;
use crate::tests::{nonsense, sample};
use crate::theme::{Depth, Theme};
use crate::view;
use crossterm::event::{KeyCode, KeyEvent, KeyModifiers, MouseButton, MouseEvent, MouseEventKind};
use hv_defs::event::{Event, Stamp, What};
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use traces::Reader;

/// A linear congruential generator: the same everywhere.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

fn reader(events: &[Event]) -> Reader {
    Reader::from_bytes(sample::of(events)).expect("a trace")
}

/// All rows, seen to be those that each piece gives again, and to have all events of both in order.
#[track_caller]
fn align(a: &Reader, b: &Reader, strict: Strict) -> Vec<Row> {
    let (mut all, mut from) = (Vec::new(), (0, 0));
    while let Some((piece, end)) = piece([a, b], from, strict).expect("both are whole") {
        assert!(end.0 >= from.0 && end.1 >= from.1 && end != from, "each piece goes on");
        let made = match piece.plain {
            true => (0..piece.rows)
                .map(|at| Row { events: [Some(from.0 + at), Some(from.1 + at)], sort: Sort::Same, sign: 0 })
                .collect(),
            false => rows([a, b], from, strict).expect("both are whole").0,
        };
        assert_eq!(piece.rows, made.len() as u64);
        assert_eq!(piece.differing, made.iter().filter(|row| row.sort != Sort::Same).count() as u64);
        all.extend(made);
        from = end;
    }
    for (side, reader) in [a, b].into_iter().enumerate() {
        let shown: Vec<u64> = all.iter().filter_map(|row| row.events[side]).collect();
        if strict == Strict::Guest {
            assert!(shown.is_sorted_by(|one, next| one < next), "in order");
        } else {
            assert_eq!(shown, (0..reader.len()).collect::<Vec<_>>(), "all of {side}, in order");
        }
    }
    all
}

/// Events that are all of different sorts.
fn distinct(count: u32) -> Vec<Event> {
    let at = |n: u32| Stamp { instruction: u64::from(n) * 10, vcpu: 0, pcpu: 0 };
    (0..count).map(|n| Event { at: at(n), what: What::Mark(n) }).collect()
}

#[test]
fn a_trace_does_not_differ_from_itself() {
    let traces = [sample::trace(), sample::imported(), sample::empty()];
    let nonsense = (0..6).map(|seed| nonsense::trace(seed, 700));
    for bytes in traces.into_iter().chain(nonsense) {
        let reader = || Reader::from_bytes(bytes.clone()).expect("a trace");
        for strict in Strict::ALL {
            let rows = align(&reader(), &reader(), strict);
            assert!(rows.iter().all(|row| row.sort == Sort::Same), "{strict:?}");
        }
    }
}

#[test]
fn what_was_taken_out_and_changed_is_what_differs() {
    let mut random = Random(7);
    for round in 0..40 {
        let events = distinct(900);
        // Each event is in both, in one, or in both with another stamp; some runs of them in one only.
        let (mut a, mut b) = (Vec::new(), Vec::new());
        let mut wanted = Vec::new();
        let (mut run, mut of) = (0, 0);
        for event in &events {
            if run == 0 && random.below(60) == 0 {
                (run, of) = (random.below(30), random.below(2));
            }
            let change = random.below(50);
            if run > 0 {
                run -= 1;
                if of == 0 {
                    a.push(event.clone())
                } else {
                    b.push(event.clone())
                }
                wanted.push(Sort::Alone);
            } else if change == 0 {
                a.push(event.clone());
                b.push(Event { at: Stamp { instruction: event.at.instruction + 1, ..event.at }, ..event.clone() });
                wanted.push(Sort::Differs);
            } else {
                a.push(event.clone());
                b.push(event.clone());
                wanted.push(Sort::Same);
            }
        }
        let (a, b) = (reader(&a), reader(&b));
        let rows = align(&a, &b, Strict::Exact);
        // Where runs of both follow one another, either may come first: that is no difference of sorts.
        let count = |list: &[Sort], sort| list.iter().filter(|&&known| known == sort).count();
        let found: Vec<Sort> = rows.iter().map(|row| row.sort).collect();
        for sort in [Sort::Same, Sort::Differs, Sort::Alone, Sort::Unlike] {
            assert_eq!(count(&found, sort), count(&wanted, sort), "round {round}, {sort:?}");
        }
        let mark = |reader: &Reader, event: u64| match reader.event(event).expect("it has it").what {
            What::Mark(value) => value,
            _ => u32::MAX,
        };
        for row in &rows {
            if let [Some(one), Some(other)] = row.events {
                assert_eq!(mark(&a, one), mark(&b, other));
            }
        }
        let loose = align(&a, &b, Strict::Fields);
        assert!(loose.iter().all(|row| row.sort != Sort::Differs), "the stamps do not count");
    }
}

#[test]
fn traces_without_likeness_go_by_order() {
    let a = reader(&distinct(3000));
    let other: Vec<Event> = (0..2500).map(|n| Event { at: Stamp::default(), what: What::Mark(100_000 + n) }).collect();
    let rows = align(&a, &reader(&other), Strict::Exact);
    assert!(rows.iter().any(|row| row.sort == Sort::Unlike));
    assert!(rows.iter().all(|row| row.sort != Sort::Same));
    // Sense and nonsense side by side: all that is wanted is that nothing is lost, as `align` sees to.
    for seed in 0..6 {
        let nonsense = Reader::from_bytes(nonsense::trace(seed, 900)).expect("a trace");
        let other = Reader::from_bytes(nonsense::trace(seed + 1, 700)).expect("a trace");
        Strict::ALL.into_iter().for_each(|strict| drop(align(&nonsense, &other, strict)));
    }
}

#[test]
fn the_guests_view_is_of_exits_and_entries() {
    let events = sample::events();
    // Without what L0 did between them, guests see the same.
    let fewer: Vec<Event> = events
        .iter()
        .filter(|event| !matches!(event.what, What::Vmcs(_) | What::Pool(_) | What::Flush(_)))
        .cloned()
        .collect();
    let (a, b) = (reader(&events), reader(&fewer));
    assert!(align(&a, &b, Strict::Guest).iter().all(|row| row.sort == Sort::Same));
    let gone = events.len() - fewer.len();
    let alone = align(&a, &b, Strict::Shape).iter().filter(|row| row.sort == Sort::Alone).count();
    assert_eq!(alone, gone, "by shape, just those are alone");
}

/// Two traces on a screen, with their effects done at once.
struct Session {
    model: Model,
    readers: [Reader; 2],
    /// Whether what is saved is.
    writes: bool,
}

impl Session {
    fn open(readers: [Reader; 2], size: (u16, u16)) -> Self {
        let abouts = [about(&readers[0], "old.nvmx".into()), about(&readers[1], "new.nvmx".into())];
        let mut session = Self {
            model: Model::new(abouts, Theme { depth: Depth::None, unicode: true }, size),
            readers,
            writes: false,
        };
        session.send(Msg::Idle);
        session
    }

    fn send(&mut self, msg: Msg) {
        let mut next = update(&mut self.model, msg);
        for _ in 0..10_000 {
            let Some(effect) = next else { return };
            let lane = effect.lane();
            let reply = match effect {
                // Tests write neither to the terminal that they run on nor, unless they mean to, to files.
                Effect::Copy(_) => Reply::Copied(Ok(())),
                Effect::Save(_) if !self.writes => Reply::Saved(Box::new(Err(Step::Done(0)))),
                effect => perform([&self.readers[0], &self.readers[1]], effect),
            };
            next = update(&mut self.model, Msg::Done(lane, reply));
        }
        panic!("effects without end: {next:?}");
    }

    fn keys(&mut self, text: &str) -> &mut Self {
        for character in text.chars() {
            let code = match character {
                '\n' => KeyCode::Enter,
                '\t' => KeyCode::Tab,
                '\u{1b}' => KeyCode::Esc,
                other => KeyCode::Char(other),
            };
            self.send(Msg::Key(KeyEvent::new(code, KeyModifiers::NONE)));
        }
        self
    }

    fn screen(&self) -> String {
        let (width, height) = self.model.size;
        let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("memory takes all");
        terminal.draw(|frame| view::compare(&self.model, frame)).expect("memory takes all");
        let rows = terminal.backend().buffer().content().chunks(usize::from(width.max(1)));
        let lines: Vec<String> = rows.map(|row| row.iter().map(|cell| cell.symbol()).collect()).collect();
        lines.iter().map(|line| line.trim_end()).collect::<Vec<_>>().join("\n")
    }
}

/// The run, and the same run with an event changed, one left out and one put in.
fn two() -> [Reader; 2] {
    let events = sample::events();
    let mut other = events.clone();
    if let What::Exit(exit) = &mut other[45].what {
        (exit.rip, exit.length) = (0x5001_7000, 3);
    }
    other.remove(120);
    other.insert(300, Event { at: other[300].at, what: What::Mark(77) });
    [reader(&events), reader(&other)]
}

#[track_caller]
fn check(name: &str, size: (u16, u16), keys: &str) {
    let mut session = Session::open(two(), size);
    session.keys(keys);
    insta::with_settings!({ omit_expression => true, prepend_module_to_snapshot => false, snapshot_path => "../tests/snapshots" }, {
        insta::assert_snapshot!(name, session.screen());
    });
}

#[test]
fn two_traces_look_as_they_should() {
    check("compare_first", (80, 24), "");
    check("compare_changed", (80, 24), "d");
    check("compare_left_out", (80, 24), "dd");
    check("compare_put_in", (80, 24), "ddd");
    check("compare_shape", (80, 24), "tt");
    check("compare_wide", (200, 60), "d");
    check("compare_fields", (80, 24), "d\nz");
    check("compare_go_to", (80, 24), "\t:12");
    check("compare_help", (80, 24), "?");
}

#[test]
fn keys_go_to_the_differences() {
    let mut session = Session::open(two(), (80, 24));
    let mut check = |keys: &str, events: [Option<u64>; 2]| {
        session.keys(keys);
        let row = session.model.row(session.model.cursor).expect("it is there");
        assert_eq!(row.events, events, "{keys}: {:?}", session.model.note);
    };
    check("d", [Some(45), Some(45)]);
    check("d", [Some(120), None]);
    check("d", [None, Some(300)]);
    check("d", [None, Some(300)]);
    check("DD", [Some(45), Some(45)]);
    check("g", [Some(0), Some(0)]);
    check(":400\n", [Some(400), Some(400)]);
    check(":200\n", [Some(200), Some(199)]);
    check("\t:199\n", [Some(200), Some(199)]);
    // Of another sort than that under the cursor: the event that is put in is no VMREAD.
    check(":45\ne", [Some(120), None]);
    check("e", [None, Some(300)]);
    check("e", [None, Some(300)]);
    check("EE", [Some(45), Some(45)]);
    // What counts is changed on the spot.
    check(":45\ntt", [Some(45), Some(45)]);
    check("gd", [Some(120), None]);
    check("G", [Some(589), Some(589)]);
    check("D", [None, Some(300)]);
    assert_eq!(session.model.hunks(), 2);
}

#[test]
fn blocks_that_are_stored_alike_are_not_read() {
    // The blocks of the same events are the same bytes; where one is damaged in both, nobody is stopped by it.
    let mut damaged = sample::trace();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 0xff;
    let reader = || Reader::from_bytes(damaged.clone()).expect("a trace");
    let rows = align(&reader(), &reader(), Strict::Exact);
    assert!(rows.iter().all(|row| row.sort == Sort::Same));
    assert!((0..reader().len()).any(|event| reader().event(event).is_err()), "it is damaged");
}

#[test]
fn differences_of_a_sort_can_be_passed_over() {
    // Marks of 2 in one trace only, again and again; once one of 3.
    let mut events = distinct(400);
    let plain = reader(&events);
    for (at, value) in [(10, 1002), (50, 1002), (90, 1002), (200, 1003), (300, 1002)] {
        events.insert(at, Event { at: events[at].at, what: What::Mark(value) });
    }
    let mut session = Session::open([plain, reader(&events)], (80, 24));
    let mut at = |keys: &str| {
        session.keys(keys);
        session.model.row(session.model.cursor).and_then(|row| row.events[1])
    };
    assert_eq!(at("d"), Some(10));
    assert_eq!(at("e"), Some(200));
    assert_eq!(at("e"), Some(300));
    assert_eq!(at("E"), Some(200));
    assert_eq!(at("E"), Some(90));
}

#[test]
fn all_differences_are_saved() {
    let path = std::env::temp_dir().join(format!("nvmx-{}-differences.txt", std::process::id()));
    let _ = std::fs::remove_file(&path);
    let mut session = Session::open(two(), (80, 24));
    session.writes = true;
    let mut save = |name: String| {
        session.keys("s");
        assert!(matches!(session.model.mode, Mode::Save(ref line) if line.text() == "old-new-differences.txt"));
        session.model.mode = Mode::Save(Line::new(&name));
        session.keys("\n");
        session.model.note.clone().map(|(_, text)| text).unwrap_or_default()
    };
    assert!(save(path.display().to_string()).ends_with(", 7 lines."));
    let text = std::fs::read_to_string(&path).expect("it was saved");
    let wanted = [
        "@@ 45 | 45 @@",
        "~ A 45 CPUID to L1  rip 0x50013  [rip]",
        "~ B 45 CPUID to L1  rip 0x50017000  [rip]",
        "@@ 120 | - @@",
        "- A 120 VMREAD  rip 0xffff800000001001",
        "@@ - | 300 @@",
        "+ B 300 mark 77",
    ];
    assert_eq!(text.lines().collect::<Vec<_>>(), wanted);
    assert!(save(path.display().to_string()).contains("is there already"));
    assert!(save(format!("{}!", path.display())).starts_with("Saved"));
    assert!(save("/nonexistent/x".into()).ends_with("no such file or directory"));
    std::fs::remove_file(&path).expect("it was there");
}

#[test]
fn random_keys_do_no_harm_to_two_traces() {
    let mut random = Random(0xd1ff);
    let nonsense = |seed| Reader::from_bytes(nonsense::trace(seed, 600)).expect("a trace");
    let one = || Reader::from_bytes(sample::trace()).expect("a trace");
    let empty = || Reader::from_bytes(sample::empty()).expect("a trace");
    let mut cut = sample::trace();
    let middle = cut.len() / 2;
    cut[middle] ^= 0xff;
    let damaged = Reader::from_bytes(cut).expect("a trace");
    for readers in [two(), [nonsense(1), nonsense(2)], [empty(), one()], [empty(), empty()], [damaged, one()]] {
        let mut session = Session::open(readers, (80, 24));
        for step in 0..1500 {
            let msg = match random.below(40) {
                0 => {
                    let (width, height) =
                        [(80, 24), (200, 60), (60, 16), (20, 5), (0, 0), (130, 17)][random.below(6) as usize];
                    Msg::Resize(width, height)
                }
                1..=4 => {
                    const KINDS: [MouseEventKind; 3] =
                        [MouseEventKind::Down(MouseButton::Left), MouseEventKind::ScrollUp, MouseEventKind::ScrollDown];
                    let kind = KINDS[random.below(3) as usize];
                    let (column, row) = (random.below(210) as u16, random.below(70) as u16);
                    Msg::Mouse(MouseEvent { kind, column, row, modifiers: KeyModifiers::NONE })
                }
                5..=9 => {
                    const CODES: [KeyCode; 6] =
                        [KeyCode::Enter, KeyCode::Esc, KeyCode::Tab, KeyCode::PageDown, KeyCode::PageUp, KeyCode::Home];
                    Msg::Key(KeyEvent::new(CODES[random.below(6) as usize], KeyModifiers::NONE))
                }
                _ => {
                    let letter = char::from(b' ' + random.below(95) as u8);
                    Msg::Key(KeyEvent::new(KeyCode::Char(letter), KeyModifiers::NONE))
                }
            };
            session.send(msg);
            session.model.quit = false;
            assert!(session.model.cursor < session.model.len().max(1), "step {step}");
            if step % 10 == 0 {
                session.screen();
            }
        }
    }
}
