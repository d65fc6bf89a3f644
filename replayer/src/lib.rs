//! Trace in, the same machine again.
