//! What colours and glyphs this terminal can show, and what each thing looks like in them.
//!
//! A colour never says anything alone: whatever it marks has a letter, a word or a place of its own as well. The hues
//! are those of the Okabe-Ito palette, which readers with the common colour deficiencies tell apart, in shades that can be
//! read on black as on white: what lies behind the text is the terminal's own.

use hv_defs::event::Kind;
use ratatui::style::{Color, Modifier, Style};

/// How many colours the terminal has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Depth {
    /// None: bold, dim and reverse only.
    None,
    /// The 16 of the terminal's own palette.
    Ansi,
    /// The same on a light background, on which yellow and cyan cannot be read.
    AnsiOnLight,
    /// The 256 of xterm.
    Indexed,
    /// All.
    True,
}

/// A hue, in each depth.
struct Hue(Color, u8, (u8, u8, u8));

const SKY: Hue = Hue(Color::Cyan, 31, (0x1c, 0x93, 0xb8));
const ORANGE: Hue = Hue(Color::Yellow, 136, (0xb9, 0x82, 0x00));
const GREEN: Hue = Hue(Color::Green, 29, (0x00, 0x9e, 0x73));
const VERMILION: Hue = Hue(Color::Red, 166, (0xd5, 0x5e, 0x00));
const PURPLE: Hue = Hue(Color::Magenta, 169, (0xc4, 0x6d, 0x9c));
const BLUE: Hue = Hue(Color::LightBlue, 68, (0x4a, 0x86, 0xd4));
const GREY: Hue = Hue(Color::DarkGray, 245, (0x85, 0x85, 0x85));

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
    /// `color` says that there are to be colours or none, whatever `NO_COLOR` and `TERM` say.
    pub(crate) fn from_environment(get: impl Fn(&str) -> Option<String>, color: Option<bool>) -> Self {
        let set = |name: &str| get(name).filter(|value| !value.is_empty());
        let term = set("TERM").unwrap_or_default();
        let depth = if !color.unwrap_or(set("NO_COLOR").is_none() && term != "dumb") {
            Depth::None
        } else if matches!(set("COLORTERM").as_deref(), Some("truecolor" | "24bit")) || term.ends_with("-direct") {
            Depth::True
        } else if term.contains("256") {
            Depth::Indexed
        } else if set("COLORFGBG").is_some_and(|colours| matches!(colours.rsplit(';').next(), Some("7" | "15"))) {
            Depth::AnsiOnLight
        } else {
            Depth::Ansi
        };
        let locale = ["LC_ALL", "LC_CTYPE", "LANG"].iter().find_map(|name| set(name));
        // An unset locale is common in containers whose terminal shows UTF-8 all the same; a set one is believed.
        let unicode = locale.is_none_or(|locale| {
            let locale = locale.to_ascii_lowercase();
            locale.contains("utf-8") || locale.contains("utf8")
        });
        // The console of Linux has no more glyphs than its font, which has no bars.
        let unicode = unicode && term != "linux";
        Self { depth, unicode }
    }

    /// What there is to say of a terminal that does not tell what it can do.
    pub(crate) fn notice(get: impl Fn(&str) -> Option<String>) -> Option<String> {
        match get("TERM").filter(|term| !term.is_empty()).as_deref() {
            None => {
                Some("TERM is not set: set it to the terminal's sort where the screen is not as it should be.".into())
            }
            Some("dumb") => Some("TERM is dumb: on such a terminal the screen is not as it should be.".into()),
            Some(_) => None,
        }
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
            Depth::AnsiOnLight => match hue.0 {
                Color::Yellow => Color::Magenta,
                Color::Cyan => Color::Blue,
                colour => colour,
            },
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
        assert_eq!(Theme::from_environment(get, None), Theme { depth, unicode }, "{variables:?}");
    }

    #[test]
    fn a_terminal_that_tells_nothing_is_told_of() {
        let notice = |term: Option<&str>| Theme::notice(|_| term.map(str::to_owned)).map_or(String::new(), |text| text);
        assert!(notice(None).starts_with("TERM is not set") && notice(Some("")).starts_with("TERM is not set"));
        assert!(notice(Some("dumb")).starts_with("TERM is dumb") && notice(Some("xterm")).is_empty());
    }

    #[test]
    fn the_command_line_is_stronger() {
        let depth = |color, variables: &[(&str, &str)]| {
            let get = |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).into());
            Theme::from_environment(get, color).depth
        };
        assert_eq!(depth(Some(false), &[("COLORTERM", "truecolor")]), Depth::None);
        assert_eq!(depth(Some(true), &[("NO_COLOR", "1"), ("TERM", "xterm-256color")]), Depth::Indexed);
        assert_eq!(depth(Some(true), &[("TERM", "dumb")]), Depth::Ansi);
    }

    /// The contrast of a colour to black and to white, as the Web Content Accessibility Guidelines count it.
    fn contrasts((red, green, blue): (u8, u8, u8)) -> (f64, f64) {
        let part = |value: u8| {
            let value = f64::from(value) / 255.0;
            if value <= 0.04045 { value / 12.92 } else { ((value + 0.055) / 1.055).powf(2.4) }
        };
        let light = 0.2126 * part(red) + 0.7152 * part(green) + 0.0722 * part(blue);
        ((light + 0.05) / 0.05, 1.05 / (light + 0.05))
    }

    #[test]
    fn all_hues_can_be_read_on_black_and_on_white() {
        let cube = |index: u8| match index {
            16..=231 => {
                let level = |step: u8| if step == 0 { 0 } else { 55 + 40 * step };
                let at = index - 16;
                (level(at / 36), level(at / 6 % 6), level(at % 6))
            }
            _ => {
                let grey = 8 + 10 * index.saturating_sub(232);
                (grey, grey, grey)
            }
        };
        for (name, hue) in [
            ("sky", &SKY),
            ("orange", &ORANGE),
            ("green", &GREEN),
            ("vermilion", &VERMILION),
            ("purple", &PURPLE),
            ("blue", &BLUE),
            ("grey", &GREY),
        ] {
            for colour in [cube(hue.1), hue.2] {
                let (on_black, on_white) = contrasts(colour);
                assert!(on_black >= 3.0 && on_white >= 3.0, "{name} {colour:?}: {on_black:.2} {on_white:.2}");
            }
        }
    }

    #[test]
    fn the_environment_decides() {
        check(&[], Depth::Ansi, true);
        check(&[("TERM", "xterm-256color")], Depth::Indexed, true);
        check(&[("TERM", "xterm-256color"), ("COLORTERM", "truecolor")], Depth::True, true);
        check(&[("TERM", "xterm-direct"), ("LANG", "C")], Depth::True, false);
        check(&[("TERM", "rxvt"), ("COLORFGBG", "0;15")], Depth::AnsiOnLight, true);
        check(&[("TERM", "rxvt"), ("COLORFGBG", "15;default;0")], Depth::Ansi, true);
        check(&[("TERM", "linux"), ("LANG", "en_GB.UTF-8")], Depth::Ansi, false);
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
