//! The interactive inspector.
