//! Every pane as it looks. `INSTA_UPDATE=always cargo test -p tui` rewrites the pictures after a change that was meant.

use super::Session;

const SMALL: (u16, u16) = (80, 24);
const LARGE: (u16, u16) = (200, 60);

/// The screen after some keys.
#[track_caller]
fn check(name: &str, size: (u16, u16), keys: &str) {
    let mut session = Session::of_sample(size);
    session.keys(keys);
    insta::with_settings!({ omit_expression => true, prepend_module_to_snapshot => false }, {
        insta::assert_snapshot!(name, session.screen());
    });
}

#[test]
fn panes_look_as_they_should() {
    check("first", SMALL, "");
    check("event_of_exit", SMALL, "f level==2 and reason==EPT_VIOLATION\nF1");
    check("event_scrolled", SMALL, "freason==EPT_VIOLATION\n1jjjj");
    check("event_of_write", SMALL, "ffield==primary_controls\nF");
    check("state", SMALL, ":60\n2");
    check("state_large", SMALL, ":60\n2z");
    check("state_all", SMALL, ":60\n2za");
    check("state_search", SMALL, ":60\n2/cr0");
    check("cost", SMALL, ":30\n3");
    check("cost_of_nothing", SMALL, "3");
    check("findings", SMALL, "4");
    check("findings_large", SMALL, "4z");
    check("filter_typed", SMALL, "freason == EPT_V");
    check("filter_wrong", SMALL, "freason == CPUID and levl == 2\n");
    check("filter_in_force", SMALL, "fexit and level == 2\njjj");
    check("filter_without_hits", SMALL, "finstruction > 99999999\n");
    check("search", SMALL, "/guest_cr0");
    check("go_to", SMALL, ":");
    check("help", SMALL, "?");
    check("timeline_zoomed", SMALL, "majjjjj:120\n++mb");
    check("wide", LARGE, ":60\n");
    check("wide_cost", LARGE, ":60\n3");
}

#[test]
fn awkward_traces_and_terminals() {
    let open = |bytes, size| Session::open(bytes, size);
    let settings = |name: &str, screen: String| {
        insta::with_settings!({ omit_expression => true, prepend_module_to_snapshot => false }, {
            insta::assert_snapshot!(name, screen);
        });
    };
    settings("too_small", open(super::sample::trace(), (40, 10)).screen());
    settings("many_vcpus", open(super::sample::of_vcpus(300), SMALL).keys(":600\n").screen());
    settings("empty", open(super::sample::empty(), SMALL).screen());
    let mut cut = super::sample::trace();
    cut.truncate(cut.len() - 100);
    settings("cut_short", open(cut, SMALL).screen());
    let mut damaged = super::sample::trace();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 0xff;
    settings("damaged", open(damaged, SMALL).keys(":250\n").screen());
}

#[test]
fn an_imported_trace_names_its_origin_and_its_clock() {
    let session = Session::open(super::sample::imported(), SMALL);
    let screen = session.screen();
    assert!(screen.contains("imported from perf, times are nanoseconds"), "{screen}");
    assert!(screen.contains("ns ") && !screen.contains("policy"), "{screen}");
    assert_eq!(session.model.about.vcpus, 2, "the header does not say it, the events do");
}

#[test]
fn what_lies_over_the_panes() {
    check("columns", SMALL, "c");
    check("columns_chosen", SMALL, "cj jj JJJ\u{1b}");
    check("columns_many", (120, 24), "cjj jjjjjjj j j j \u{1b}:40\n");
    check("bookmarks", SMALL, ":57\nma:120\nmbMjrthe slow one\nM");
    check("bookmark_named", SMALL, ":57\nma:120\nmbMjrthe slow one\n");
    check("save", SMALL, "s");
}
