//! What the inspector's tests share, and the tests of the whole.

pub(crate) mod sample;
