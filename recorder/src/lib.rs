//! Live world in, trace out.
