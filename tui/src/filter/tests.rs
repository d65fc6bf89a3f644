use super::complete::complete;
use super::*;
use crate::tests::sample;
use hv_defs::event::Kind;
use traces::Reader;

fn reader() -> Reader {
    Reader::from_bytes(sample::trace()).expect("the sample is a trace")
}

/// The events that match, by a look at each.
fn one_by_one(plan: &Plan, reader: &Reader) -> Vec<u64> {
    let events = (0..).zip(reader.events(0)).map(|(number, event)| (number, event.expect("the sample is whole")));
    events.filter(|(number, event)| plan.holds(*number, event)).map(|(number, _)| number).collect()
}

/// The events that match, by columns.
fn by_columns(plan: &Plan, reader: &Reader) -> Vec<u64> {
    let mut found = Vec::new();
    for block in 0..reader.blocks().len() {
        for &kind in Kind::ALL.iter().filter(|&&kind| plan.wants(kind)) {
            let rows = reader.block_columns_of(block, kind, plan.columns(kind)).expect("the sample is whole");
            plan.matches(kind, &rows, rows.len()).each(rows.len(), |row| found.push(rows.event.at(row)));
        }
    }
    found.sort_unstable();
    found
}

/// A filter picks the events that a plain test of each picks, by columns as well, and not none nor all of them.
#[track_caller]
fn check(text: &str, wanted: impl Fn(&str) -> bool) {
    let reader = reader();
    let plan = Plan::of(text).unwrap_or_else(|error| panic!("{text}: {error}"));
    let lines =
        (0..).zip(reader.events(0)).map(|(number, event)| (number, sample::line(number, &event.expect("whole"))));
    let expected: Vec<u64> = lines.filter(|(_, line)| wanted(line)).map(|(number, _)| number).collect();
    assert!(!expected.is_empty() && (expected.len() as u64) < reader.len(), "{text} tells nothing apart");
    assert_eq!(one_by_one(&plan, &reader), expected, "{text}");
    assert_eq!(by_columns(&plan, &reader), expected, "{text} by columns");
}

#[test]
fn picks_events() {
    let has = |parts: &'static [&'static str]| {
        move |line: &str| parts.iter().all(|part| format!(" {line} ").contains(&format!(" {part} ")))
    };
    check("kind == exit", has(&["is=exit"]));
    check("exit", has(&["is=exit"]));
    check("kind ~ x", has(&["is=exit"]));
    check("kind != exit", |line| !line.contains("is=exit"));
    check("not exit", |line| !line.contains("is=exit"));
    check("reason == EPT_VIOLATION", has(&["reason=EPT_VIOLATION"]));
    check("reason = ept_violation", has(&["reason=EPT_VIOLATION"]));
    check("reason == 48", has(&["reason=EPT_VIOLATION"]));
    check("reason in {EPT_VIOLATION, CPUID}", |line| line.contains("EPT_VIOLATION") || line.contains("reason=CPUID"));
    check("reason ~ vm", |line| line.contains("reason=VM"));
    check("reason != CPUID", |line| line.contains("is=exit") && !line.contains("reason=CPUID"));
    check("exit and level == 2 and rip in 0x40000..0x41000", |line| {
        line.contains("is=exit level=2") && line.contains("rip=0x40")
    });
    check("level == L2 and handled_by == L1", has(&["level=2", "handled_by=L1"]));
    check("exit.level == 2 or flush", |line| line.contains("is=exit level=2") || line.contains("is=flush"));
    check("exit && (level = 1 || vmcs12 != none)", has(&["is=exit"]));
    check("vmcs12 == none", has(&["vmcs12=-"]));
    check("field == guest_rip and op == write", has(&["op=write", "field=guest_rip"]));
    check("field ~ rip", |line| {
        line.contains("op=read field=guest_rip")
            || line.contains("op=write field=guest_rip")
            || line.contains("op=write field=host_rip")
    });
    check("kind == invept-single", has(&["kind=invept-single"]));
    check("flush.kind ~ invvpid", |line| line.contains("kind=invvpid"));
    check("launch", has(&["launch=true"]));
    check("launch == false", has(&["launch=false"]));
    check("event < 10", |line| line.split(' ').next().and_then(|n| n.parse::<u64>().ok()).is_some_and(|n| n < 10));
    check("event in 10..=11", |line| line.starts_with("10 ") || line.starts_with("11 "));
    check("vcpu == 1", has(&["vcpu=1"]));
    check("qualification & 0x80", |line| {
        let bits = line.split("qualification=0x").nth(1).and_then(|rest| rest.split(' ').next());
        bits.is_some_and(|bits| u64::from_str_radix(bits, 16).is_ok_and(|bits| bits & 0x80 != 0))
    });
    check("text ~ 'says'", |line| line.contains("says"));
    check("type == hardware-exception and vector == 14", has(&["vector=14", "type=hardware-exception"]));
    check("injected", |line| line.contains("injected=0x"));
}

#[test]
fn search_finds_names_and_numbers() {
    let check = |text: &str, wanted: fn(&str) -> bool| {
        let reader = reader();
        let plan = Plan::of_search(text);
        let lines = (0..).zip(reader.events(0)).map(|(n, event)| (n, sample::line(n, &event.expect("whole"))));
        let expected: Vec<u64> = lines.filter(|(_, line)| wanted(line)).map(|(number, _)| number).collect();
        assert!(!expected.is_empty(), "{text}");
        assert_eq!(one_by_one(&plan, &reader), expected, "{text}");
        assert_eq!(by_columns(&plan, &reader), expected, "{text} by columns");
    };
    check("ept_viol", |line| line.contains("EPT_VIOLATION"));
    check("guest_rip", |line| line.contains("field=guest_rip"));
    check("0x4000", |line| line.split(['=', ' ']).any(|part| part.starts_with("0x4000")));
    check("invept", |line| line.to_lowercase().contains("invept"));
    assert!(one_by_one(&Plan::of_search("no such thing"), &reader()).is_empty());
    assert!(one_by_one(&Plan::of_search(""), &reader()).is_empty());
}

#[track_caller]
fn check_error(text: &str, at: std::ops::Range<usize>, what: &str) {
    let error = Plan::of(text).expect_err(text);
    assert_eq!((error.at.clone(), error.to_string().as_str()), (at, what), "{text}");
}

#[test]
fn errors_point_at_the_place() {
    check_error("", 0..0, "expected a field or a kind of event after this");
    check_error("level ==", 8..8, "expected a value for 'level' after this");
    check_error("level == 2 and", 14..14, "expected a field or a kind of event after this");
    check_error("level == 2 reason == CPUID", 11..17, "expected 'and', 'or' or the end");
    check_error("levl == 2", 0..4, "no event has a field 'levl'; is it 'level'?");
    check_error("reason == EPT_VIOLATON", 10..22, "'reason' is never 'EPT_VIOLATON'; is it 'EPT_VIOLATION'?");
    check_error("(level == 2", 11..11, "expected ')' after this");
    check_error("level == 2)", 10..11, "expected 'and', 'or' or the end");
    check_error("rip == 0xzz", 7..11, "'0xzz' is no number");
    check_error("rip == banana", 7..13, "'rip' is a number, which 'banana' is not");
    check_error("rip in 0x2000..0x1000", 7..21, "the range is empty: it ends before it begins");
    check_error("rip in 0x2000", 13..13, "expected '..' and the end of the range after this");
    check_error("reason < CPUID", 9..14, "'reason' has names: compare it with ==, != or ~");
    check_error("level == two", 9..12, "a level is L0 to L3, not 'two'");
    check_error("text ~ 'oops", 7..12, "the quote is not closed");
    check_error("level == 2 and é", 15..17, "'é' means nothing here");
    check_error("99999999999999999999 == 1", 0..20, "'99999999999999999999' is no number");
    check_error(&"(".repeat(1000), 64..65, "expected fewer nested terms");
    check_error(&"not ".repeat(1000), 256..259, "expected fewer nested terms");
}

#[track_caller]
fn check_complete(text: &str, start: usize, first: &[&str]) {
    let found = complete(text, text.len());
    assert_eq!(found.start, start, "{text}");
    assert_eq!(&found.words[..first.len().min(found.words.len())], first, "{text}: {:?}", found.words);
}

#[test]
fn completes_names_values_and_connectives() {
    check_complete("reas", 0, &["reason", "reason_code"]);
    check_complete("exit and hand", 9, &["handled_by"]);
    check_complete("reason == ept_v", 10, &["EPT_VIOLATION"]);
    check_complete("reason == VIOL", 10, &["EPT_VIOLATION"]);
    check_complete("field == guest_ri", 9, &["guest_rip"]);
    check_complete("level == L", 9, &["L1", "L2", "L3"]);
    check_complete("kind == fl", 8, &["flush"]);
    check_complete("reason in {CPUID, EPT_M", 18, &["EPT_MISCONFIG"]);
    check_complete("level == 2 a", 11, &["and"]);
    check_complete("level == 2 o", 11, &["or"]);
    check_complete("cause == invept", 9, &["invept-emulation"]);
    check_complete("level ", 6, &["!=", "<", "==", ">=", "and", "in", "or", "~"]);
    check_complete("zzz == q", 7, &[]);
    check_complete("\"é", 3, &[]);
}
