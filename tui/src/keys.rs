//! The keys: one table, by which keys act and from which the help screen is drawn.

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

/// What a key does in the main screen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Action {
    Down,
    Up,
    PageDown,
    PageUp,
    HalfDown,
    HalfUp,
    Home,
    End,
    GoTo,
    Back,
    Forward,
    Partner,
    Cause,
    Effect,
    NextKind,
    PreviousKind,
    NextReason,
    PreviousReason,
    NextVmcs,
    PreviousVmcs,
    NextField,
    PreviousField,
    NextGroup,
    PreviousGroup,
    NextFinding,
    PreviousFinding,
    NextPhase,
    PreviousPhase,
    SetMark,
    GoMark,
    Filter,
    FilterByThis,
    ClearFilter,
    Search,
    NextHit,
    PreviousHit,
    Focus,
    FocusBack,
    Detail,
    State,
    Round,
    Findings,
    Regs,
    Tlb,
    Pool,
    Memory,
    Zoom,
    Enter,
    Escape,
    AllFields,
    NextAddress,
    Columns,
    ZoomIn,
    ZoomOut,
    ZoomWhole,
    PanLeft,
    PanRight,
    Copy,
    CopyPane,
    Save,
    Marks,
    NextDifference,
    PreviousDifference,
    Strictness,
    StrictnessBack,
    Redraw,
    Help,
    Suspend,
    Quit,
}

impl Action {
    /// Whether it goes by the rows of the pane that has the keys.
    pub(crate) const fn goes_by_row(self) -> bool {
        use Action::*;
        matches!(
            self,
            Down | Up | PageDown | PageUp | HalfDown | HalfUp | Home | End | NextGroup | PreviousGroup | Search | Enter
        )
    }

    /// Whether it goes by what the selected event is.
    pub(crate) const fn goes_by_event(self) -> bool {
        use Action::*;
        matches!(
            self,
            Partner
                | Cause
                | Effect
                | NextKind
                | PreviousKind
                | NextReason
                | PreviousReason
                | NextVmcs
                | PreviousVmcs
                | NextField
                | PreviousField
                | NextGroup
                | PreviousGroup
                | NextPhase
                | PreviousPhase
                | NextHit
                | PreviousHit
                | FilterByThis
                | Copy
        )
    }
}

/// A key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Key(KeyCode, KeyModifiers);

const fn ch(character: char) -> Key {
    Key(KeyCode::Char(character), KeyModifiers::NONE)
}

const fn ctrl(character: char) -> Key {
    Key(KeyCode::Char(character), KeyModifiers::CONTROL)
}

const fn code(code: KeyCode) -> Key {
    Key(code, KeyModifiers::NONE)
}

impl Key {
    /// The key that was pressed. Shift is part of a character already.
    pub(crate) fn of(event: &KeyEvent) -> Self {
        let shift_counts = !matches!(event.code, KeyCode::Char(_) | KeyCode::BackTab);
        let modifiers = if shift_counts { event.modifiers } else { event.modifiers - KeyModifiers::SHIFT };
        Self(event.code, modifiers)
    }

    /// Its name on the help screen.
    pub(crate) fn name(self) -> String {
        let name = match self.0 {
            KeyCode::Char(' ') => "Space".into(),
            KeyCode::Char(character) => character.to_string(),
            KeyCode::Down => "Down".into(),
            KeyCode::Up => "Up".into(),
            KeyCode::Left => "Left".into(),
            KeyCode::Right => "Right".into(),
            KeyCode::PageDown => "PgDn".into(),
            KeyCode::PageUp => "PgUp".into(),
            KeyCode::BackTab => "Shift-Tab".into(),
            other => format!("{other:?}"),
        };
        if self.1.contains(KeyModifiers::CONTROL) { format!("Ctrl-{}", name.to_uppercase()) } else { name }
    }
}

/// A row of the table.
pub(crate) struct Binding {
    /// The keys that do it.
    pub(crate) keys: &'static [Key],
    /// What they do.
    pub(crate) action: Action,
    /// What the help screen says; nothing of what goes the other way than the row before.
    pub(crate) help: &'static str,
}

/// Rows that belong together on the help screen.
pub(crate) struct Group {
    /// Its heading.
    pub(crate) name: &'static str,
    /// Its rows.
    pub(crate) bindings: &'static [Binding],
}

const fn row(keys: &'static [Key], action: Action, help: &'static str) -> Binding {
    Binding { keys, action, help }
}

/// Moving, the same everywhere.
const MOVE: Group = Group {
    name: "Move",
    bindings: &[
        row(&[ch('j'), code(KeyCode::Down)], Action::Down, "next line"),
        row(&[ch('k'), code(KeyCode::Up)], Action::Up, "previous line"),
        row(&[ch(' '), code(KeyCode::PageDown), ctrl('f')], Action::PageDown, "a page down"),
        row(&[code(KeyCode::PageUp), ctrl('b')], Action::PageUp, "a page up"),
        row(&[ctrl('d')], Action::HalfDown, "half a page down"),
        row(&[ctrl('u')], Action::HalfUp, "half a page up"),
        row(&[ch('g'), code(KeyCode::Home)], Action::Home, "first event"),
        row(&[ch('G'), code(KeyCode::End)], Action::End, "last event"),
    ],
};

/// All keys.
pub(crate) static GROUPS: &[Group] = &[
    MOVE,
    Group {
        name: "Go",
        bindings: &[
            row(&[ch(':')], Action::GoTo, "go to 1234, @instruction, 50% or 'a"),
            row(&[ch('o'), code(KeyCode::Backspace)], Action::Back, "back to before the jump"),
            row(&[ch('O')], Action::Forward, "forward again"),
        ],
    },
    Group {
        name: "Jump to the next; the second key goes back",
        bindings: &[
            row(&[ch('e')], Action::NextKind, "event of this kind"),
            row(&[ch('E')], Action::PreviousKind, ""),
            row(&[ch('r')], Action::NextReason, "exit for this reason"),
            row(&[ch('R')], Action::PreviousReason, ""),
            row(&[ch('v')], Action::NextVmcs, "event of this VMCS"),
            row(&[ch('V')], Action::PreviousVmcs, ""),
            row(&[ch('w')], Action::NextField, "access to this VMCS field"),
            row(&[ch('W')], Action::PreviousField, ""),
            row(&[ch('}')], Action::NextGroup, "exit of L2 or deeper; in a pane, group of rows"),
            row(&[ch('{')], Action::PreviousGroup, ""),
            row(&[ch(']')], Action::NextFinding, "event that something is found about"),
            row(&[ch('[')], Action::PreviousFinding, ""),
            row(&[ch('p')], Action::NextPhase, "phase marker of the guest"),
            row(&[ch('P')], Action::PreviousPhase, ""),
            row(&[ch('%')], Action::Partner, "an exit's entry, an entry's exit"),
            row(&[ch('u')], Action::Cause, "up to what caused this: L0's work, its exit, L2's exit"),
            row(&[ch('U')], Action::Effect, "to where what it caused ends: its guest's entry"),
        ],
    },
    Group {
        name: "Find",
        bindings: &[
            row(&[ch('/')], Action::Search, "search as you type (in a pane: a field, a line, an address)"),
            row(&[ch('n')], Action::NextHit, "next hit"),
            row(&[ch('N')], Action::PreviousHit, "previous hit"),
            row(&[ch('f')], Action::Filter, "filter: reason == CPUID and level == 2"),
            row(&[ch('=')], Action::FilterByThis, "filter for events like this one"),
            row(&[ch('F')], Action::ClearFilter, "drop the filter, or bring it back"),
            row(&[ch('m')], Action::SetMark, "bookmark: m and a letter"),
            row(&[ch('\'')], Action::GoMark, "to a bookmark: ' and its letter"),
            row(&[ch('M')], Action::Marks, "all bookmarks: go to, name, drop"),
        ],
    },
    Group {
        name: "Panes",
        bindings: &[
            row(&[code(KeyCode::Tab)], Action::Focus, "next pane"),
            row(&[code(KeyCode::BackTab)], Action::FocusBack, "previous pane"),
            row(&[ch('1')], Action::Detail, "the event in the SDM's words"),
            row(&[ch('2')], Action::State, "the VMCSs at the event"),
            row(&[ch('3')], Action::Round, "what the exit of L2 cost"),
            row(&[ch('4')], Action::Findings, "findings"),
            row(&[ch('5')], Action::Regs, "registers and code, from a replay"),
            row(&[ch('6')], Action::Tlb, "the TLB, from a replay"),
            row(&[ch('7')], Action::Pool, "the vmcs02 pool and the VPID map"),
            row(&[ch('8')], Action::Memory, "memory and walks, from a replay"),
            row(&[ch('z')], Action::Zoom, "this pane alone, and back"),
            row(&[code(KeyCode::Enter)], Action::Enter, "read the event; in a pane, go to the line's event"),
            row(&[code(KeyCode::Esc)], Action::Escape, "back to the events; stop what runs"),
            row(&[ch('a')], Action::AllFields, "State: unknown fields too"),
            row(&[ch('x')], Action::NextAddress, "another vmcs12, guest, CPU or view of memory"),
            row(&[ch('c')], Action::Columns, "choose the columns"),
        ],
    },
    Group {
        name: "Timeline",
        bindings: &[
            row(&[ch('+'), code(KeyCode::Right)], Action::ZoomIn, "zoom in on the event"),
            row(&[ch('-'), code(KeyCode::Left)], Action::ZoomOut, "zoom out"),
            row(&[ch('0')], Action::ZoomWhole, "the whole trace"),
            row(&[ch('h'), ch('<')], Action::PanLeft, "a page of timeline back"),
            row(&[ch('l'), ch('>')], Action::PanRight, "a page of timeline on"),
        ],
    },
    Group {
        name: "Program",
        bindings: &[
            row(&[ch('y')], Action::Copy, "copy the line (OSC 52)"),
            row(&[ch('Y')], Action::CopyPane, "copy the pane"),
            row(&[ch('s')], Action::Save, "save the list or the pane as .csv or .txt"),
            row(&[ctrl('l')], Action::Redraw, "draw anew"),
            row(&[ch('?'), code(KeyCode::F(1))], Action::Help, "this help"),
            row(&[ctrl('z')], Action::Suspend, "back to the shell; fg goes on"),
            row(&[ch('q'), ctrl('c')], Action::Quit, "quit"),
        ],
    },
];

/// All keys of two traces side by side. Those that are in both tables mean the same.
pub(crate) static COMPARE: &[Group] = &[
    Group {
        name: "To the next; the second key goes back",
        bindings: &[
            row(&[ch('d'), ch('n')], Action::NextDifference, "difference"),
            row(&[ch('D'), ch('N')], Action::PreviousDifference, ""),
            row(&[ch('e')], Action::NextKind, "difference of another sort than this one"),
            row(&[ch('E')], Action::PreviousKind, ""),
            row(&[ch('t')], Action::Strictness, "what counts as a difference, from strict to loose"),
            row(&[ch('T')], Action::StrictnessBack, ""),
        ],
    },
    MOVE,
    Group { name: "Go", bindings: &[row(&[ch(':')], Action::GoTo, "go to 1234 or 50% of the chosen trace")] },
    Group {
        name: "Panes",
        bindings: &[
            row(&[code(KeyCode::Tab)], Action::Focus, "the other trace: what : and y are about"),
            row(&[code(KeyCode::BackTab)], Action::FocusBack, "the other trace"),
            row(&[code(KeyCode::Enter)], Action::Enter, "scroll the fields, and back"),
            row(&[ch('z')], Action::Zoom, "the lists or the fields alone, and back"),
            row(&[code(KeyCode::Esc)], Action::Escape, "back to the lists; stop what runs"),
        ],
    },
    Group {
        name: "Program",
        bindings: &[
            row(&[ch('y')], Action::Copy, "copy the event (OSC 52)"),
            row(&[ch('s')], Action::Save, "save all differences, by what counts now, as text"),
            row(&[ctrl('l')], Action::Redraw, "draw anew"),
            row(&[ctrl('z')], Action::Suspend, "back to the shell; fg comes back"),
            row(&[ch('?'), code(KeyCode::F(1))], Action::Help, "this help"),
            row(&[ch('q'), ctrl('c')], Action::Quit, "quit"),
        ],
    },
];

/// What a key does in the main screen.
pub(crate) fn action(event: &KeyEvent) -> Option<Action> {
    action_in(GROUPS, event)
}

/// What a key does by a table.
pub(crate) fn action_in(groups: &[Group], event: &KeyEvent) -> Option<Action> {
    let key = Key::of(event);
    let rows = groups.iter().flat_map(|group| group.bindings);
    rows.into_iter().find(|row| row.keys.contains(&key)).map(|row| row.action)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_key_does_one_thing_and_each_thing_has_a_key() {
        let mut all = std::collections::BTreeSet::new();
        for table in [GROUPS, COMPARE] {
            let mut keys = Vec::new();
            let mut actions = Vec::new();
            assert!(table.iter().all(|group| group.bindings.first().is_some_and(|row| !row.help.is_empty())));
            for row in table.iter().flat_map(|group| group.bindings) {
                assert!(!row.keys.is_empty());
                assert!(!actions.contains(&row.action), "{:?} twice", row.action);
                actions.push(row.action);
                all.insert(row.action as usize);
                for key in row.keys {
                    assert!(!keys.contains(key), "{} twice", key.name());
                    keys.push(*key);
                }
            }
        }
        // The last of the enum is Quit, so that a new action without a key is noticed.
        assert_eq!(all.len(), Action::Quit as usize + 1);
    }

    #[test]
    fn shift_is_part_of_a_letter() {
        let check = |code, modifiers, wanted| assert_eq!(action(&KeyEvent::new(code, modifiers)), wanted);
        check(KeyCode::Char('G'), KeyModifiers::SHIFT, Some(Action::End));
        check(KeyCode::Char('G'), KeyModifiers::NONE, Some(Action::End));
        check(KeyCode::Char('g'), KeyModifiers::NONE, Some(Action::Home));
        check(KeyCode::BackTab, KeyModifiers::SHIFT, Some(Action::FocusBack));
        check(KeyCode::Char('d'), KeyModifiers::CONTROL, Some(Action::HalfDown));
        check(KeyCode::Char('d'), KeyModifiers::NONE, None);
        check(KeyCode::Char('g'), KeyModifiers::ALT, None);
    }
}
