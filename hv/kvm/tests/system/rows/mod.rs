//! The snippets, by family.

mod debug;
mod far;
mod fast;
mod faults;
mod paging;
mod registers;
mod segments;
mod switch;

use crate::kit::{Case, Mode};

/// Modes of protected code, which has descriptors.
const PROTECTED: [Mode; 4] = [Mode::Protected16, Mode::Protected32, Mode::Compatibility, Mode::Long];
/// Those of flat code that can go to privilege level 3.
const FLAT: [Mode; 3] = [Mode::Protected32, Mode::Compatibility, Mode::Long];
/// All of them.
const ALL: [Mode; 8] = [
    Mode::Real,
    Mode::Virtual,
    Mode::Protected16,
    Mode::Protected32,
    Mode::Paged,
    Mode::Pae,
    Mode::Compatibility,
    Mode::Long,
];

/// All snippets.
pub fn all() -> Vec<Case> {
    let mut rows = Vec::new();
    for family in
        [switch::rows, segments::rows, far::rows, faults::rows, fast::rows, registers::rows, paging::rows, debug::rows]
    {
        family(&mut rows);
    }
    rows
}
