//! The trace format: schema, writer, reader, index.
