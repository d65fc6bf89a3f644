//! Whether the build that replays is the one that recorded.

use hv::parts::PARTS;
use traces::Header;

/// The build that recorded a trace, beside this one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Build {
    /// Its machine's program was this one.
    Same,
    /// These parts of its machine's program are not this one's, by their names in [`hv::parts::PARTS`].
    Other(Vec<&'static str>),
    /// The trace does not say of what it was made.
    Unsaid,
}

impl Build {
    /// The build that recorded a trace.
    pub fn of(header: &Header) -> Self {
        if header.parts.is_empty() {
            return Self::Unsaid;
        }
        let same =
            |&(name, digest): &(&str, &str)| header.parts.iter().any(|part| part.name == name && part.digest == digest);
        let other: Vec<_> = PARTS.iter().filter(|part| !same(part)).map(|(name, _)| *name).collect();
        if other.is_empty() { Self::Same } else { Self::Other(other) }
    }

    /// The parts that are not this build's.
    pub fn others(&self) -> &[&'static str] {
        match self {
            Self::Other(parts) => parts,
            Self::Same | Self::Unsaid => &[],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hv_defs::config::{Config, Guest};

    #[track_caller]
    fn check(parts: &[(&str, &str)], expected: &Build) {
        let header = Header::new(Config::new(Guest::BuiltIn("demo".into())), Vec::new()).made_of(parts);
        assert_eq!(Build::of(&header), *expected);
    }

    #[test]
    fn parts_that_are_other_ones_are_named() {
        check(&PARTS, &Build::Same);
        check(&[], &Build::Unsaid);
        let mut other = PARTS;
        other[0].1 = "0123456789abcdef";
        other[3].1 = "";
        check(&other, &Build::Other(vec!["cpu", "guests"]));
        check(&PARTS[1..], &Build::Other(vec!["cpu"]));
        // A part that a newer build has and this one lacks is none of the machine that runs.
        check(&[&PARTS[..], &[("translator", "00")]].concat(), &Build::Same);
    }

    #[test]
    fn each_part_has_a_digest_of_its_own() {
        for (at, (name, digest)) in PARTS.iter().enumerate() {
            assert!(digest.len() == 16 && digest.bytes().all(|byte| byte.is_ascii_hexdigit()), "{name}: {digest}");
            assert!(PARTS[..at].iter().all(|other| other.1 != *digest), "{name}");
        }
    }
}
