//! What colours and glyphs this terminal can show, and what each thing looks like in them.
//!
//! A colour never says anything alone: whatever it marks has a letter, a word or a place of its own as well. The hues
//! are those of the Okabe-Ito palette, which readers with the common colour deficiencies tell apart.

use hv_defs::event::Kind;
use ratatui::style::{Color, Modifier, Style};

/// How many colours the terminal has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Depth {
    /// None: bold, dim and reverse only.
    None,
    /// The 16 of the terminal's own palette.
    Ansi,
    /// The 256 of xterm.
    Indexed,
    /// All.
    True,
}

/// A hue, in each depth.
struct Hue(Color, u8, (u8, u8, u8));

const SKY: Hue = Hue(Color::Cyan, 74, (0x56, 0xb4, 0xe9));
const ORANGE: Hue = Hue(Color::Yellow, 214, (0xe6, 0x9f, 0x00));
const GREEN: Hue = Hue(Color::Green, 36, (0x00, 0x9e, 0x73));
const VERMILION: Hue = Hue(Color::Red, 166, (0xd5, 0x5e, 0x00));
const PURPLE: Hue = Hue(Color::Magenta, 175, (0xcc, 0x79, 0xa7));
const BLUE: Hue = Hue(Color::LightBlue, 68, (0x4a, 0x90, 0xd9));
const GREY: Hue = Hue(Color::DarkGray, 245, (0x8a, 0x8a, 0x8a));

/// What a piece of the screen is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Role {
    /// Text.
    Plain,
    /// What may be overlooked: separators, labels, zeros.
    Dim,
    /// What is read first.
    Strong,
    /// A pane's title; `true` for the pane that the keys go to.
    Title(bool),
    /// A key in a hint.
    Key,
    /// The line that is selected.
    Selected,
    /// What is wrong.
    Bad,
    /// What should be noticed.
    Notice,
    /// What an input line completes to.
    Ghost,
    /// A value that the selected event changed.
    Changed,
    /// A value that changed since the last exit.
    Recent,
    /// An event of a kind.
    Kind(Kind),
    /// A level, 0 to 3.
    Level(u8),
}

/// The looks of one terminal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Theme {
    /// How many colours it has.
    pub(crate) depth: Depth,
    /// Whether it shows more than ASCII.
    pub(crate) unicode: bool,
}

impl Theme {
    /// From the environment: `NO_COLOR`, `COLORTERM`, `TERM`, and the locale for the glyphs. `get` reads a variable.
    pub(crate) fn from_environment(get: impl Fn(&str) -> Option<String>) -> Self {
        let set = |name: &str| get(name).filter(|value| !value.is_empty());
        let term = set("TERM").unwrap_or_default();
        let depth = if set("NO_COLOR").is_some() || term == "dumb" {
            Depth::None
        } else if matches!(set("COLORTERM").as_deref(), Some("truecolor" | "24bit")) || term.ends_with("-direct") {
            Depth::True
        } else if term.contains("256") {
            Depth::Indexed
        } else {
            Depth::Ansi
        };
        let locale = ["LC_ALL", "LC_CTYPE", "LANG"].iter().find_map(|name| set(name));
        // An unset locale is common in containers whose terminal shows UTF-8 all the same; a set one is believed.
        let unicode = locale.is_none_or(|locale| {
            let locale = locale.to_ascii_lowercase();
            locale.contains("utf-8") || locale.contains("utf8")
        });
        Self { depth, unicode }
    }

    /// The style of a role.
    pub(crate) fn style(self, role: Role) -> Style {
        let plain = Style::new();
        match role {
            Role::Plain => plain,
            Role::Dim | Role::Ghost => self.hue(&GREY).unwrap_or(plain.add_modifier(Modifier::DIM)),
            Role::Strong => plain.add_modifier(Modifier::BOLD),
            Role::Title(true) => self.hue(&SKY).unwrap_or(plain).add_modifier(Modifier::BOLD | Modifier::REVERSED),
            Role::Title(false) => plain.add_modifier(Modifier::BOLD),
            Role::Key => self.hue(&SKY).unwrap_or(plain).add_modifier(Modifier::BOLD),
            Role::Selected => plain.add_modifier(Modifier::REVERSED),
            Role::Bad => self.hue(&VERMILION).unwrap_or(plain).add_modifier(Modifier::BOLD),
            Role::Notice => self.hue(&ORANGE).unwrap_or(plain).add_modifier(Modifier::BOLD),
            Role::Changed => self.hue(&ORANGE).unwrap_or(plain).add_modifier(Modifier::BOLD | Modifier::REVERSED),
            Role::Recent => self.hue(&ORANGE).unwrap_or(plain).add_modifier(Modifier::BOLD),
            Role::Kind(kind) => self.kind(kind),
            Role::Level(0) => self.hue(&GREY).unwrap_or(plain),
            Role::Level(1) => self.hue(&SKY).unwrap_or(plain),
            Role::Level(2) => self.hue(&ORANGE).unwrap_or(plain),
            Role::Level(_) => self.hue(&PURPLE).unwrap_or(plain),
        }
    }

    fn kind(self, kind: Kind) -> Style {
        let hue = match kind {
            Kind::Exit => &VERMILION,
            Kind::Entry => &GREEN,
            Kind::Vmcs => &BLUE,
            Kind::Flush => &PURPLE,
            Kind::Pool | Kind::Vpid | Kind::Ept => &ORANGE,
            Kind::Injection => &SKY,
            Kind::Digest | Kind::Registers | Kind::Answer => &GREY,
            Kind::Input | Kind::Migration | Kind::Mark | Kind::Lost | Kind::Stop => {
                return Style::new().add_modifier(Modifier::BOLD);
            }
        };
        self.hue(hue).unwrap_or_default()
    }

    fn hue(self, hue: &Hue) -> Option<Style> {
        let colour = match self.depth {
            Depth::None => return None,
            Depth::Ansi => hue.0,
            Depth::Indexed => Color::Indexed(hue.1),
            Depth::True => Color::Rgb(hue.2.0, hue.2.1, hue.2.2),
        };
        Some(Style::new().fg(colour))
    }

    /// One of two glyphs: the first where the terminal shows more than ASCII.
    pub(crate) fn glyph(self, unicode: &'static str, ascii: &'static str) -> &'static str {
        if self.unicode { unicode } else { ascii }
    }

    /// A bar `eighths` high, 0 to 8.
    pub(crate) fn bar(self, eighths: u8) -> &'static str {
        const BARS: [&str; 9] = [" ", "▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"];
        const ASCII: [&str; 9] = [" ", ".", ".", ":", ":", "+", "+", "#", "#"];
        let at = usize::from(eighths.min(8));
        if self.unicode { BARS[at] } else { ASCII[at] }
    }
}

/// The letter that stands for a kind where there is no room for its name.
pub(crate) const fn letter(kind: Kind) -> &'static str {
    match kind {
        Kind::Exit => "<",
        Kind::Entry => ">",
        Kind::Vmcs => "v",
        Kind::Flush => "F",
        Kind::Pool => "P",
        Kind::Vpid => "V",
        Kind::Ept => "E",
        Kind::Injection => "I",
        Kind::Input => "i",
        Kind::Migration => "M",
        Kind::Mark => "#",
        Kind::Digest => "=",
        Kind::Lost => "?",
        Kind::Stop => "!",
        Kind::Registers => "r",
        Kind::Answer => "a",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(variables: &[(&str, &str)], depth: Depth, unicode: bool) {
        let get = |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
        assert_eq!(Theme::from_environment(get), Theme { depth, unicode }, "{variables:?}");
    }

    #[test]
    fn the_environment_decides() {
        check(&[], Depth::Ansi, true);
        check(&[("TERM", "xterm-256color")], Depth::Indexed, true);
        check(&[("TERM", "xterm-256color"), ("COLORTERM", "truecolor")], Depth::True, true);
        check(&[("TERM", "xterm-direct"), ("LANG", "C")], Depth::True, false);
        check(&[("TERM", "vt100"), ("LANG", "en_GB.UTF-8")], Depth::Ansi, true);
        check(&[("TERM", "vt100"), ("LANG", "en_GB.UTF-8"), ("LC_ALL", "POSIX")], Depth::Ansi, false);
        check(&[("COLORTERM", "truecolor"), ("NO_COLOR", "1")], Depth::None, true);
        check(&[("COLORTERM", "24bit"), ("NO_COLOR", "")], Depth::True, true);
        check(&[("TERM", "dumb"), ("COLORTERM", "24bit")], Depth::None, true);
    }

    #[test]
    fn without_colours_there_are_none() {
        let theme = Theme { depth: Depth::None, unicode: false };
        for &kind in Kind::ALL {
            assert_eq!(theme.style(Role::Kind(kind)).fg, None, "{kind}");
        }
        for role in [Role::Dim, Role::Bad, Role::Changed, Role::Selected, Role::Level(2), Role::Title(true)] {
            assert_eq!((theme.style(role).fg, theme.style(role).bg), (None, None), "{role:?}");
        }
    }

    #[test]
    fn letters_are_unique() {
        let letters: std::collections::BTreeSet<_> = Kind::ALL.iter().map(|&kind| letter(kind)).collect();
        assert_eq!(letters.len(), Kind::ALL.len());
    }
}
