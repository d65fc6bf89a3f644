//! What comparing does outside of its model: all reading of the two traces.

use super::align::{piece, rows};
use super::{Effect, Read, Reply, save};
use crate::work::PIECE;
use std::time::Instant;
use traces::Reader;

/// Does an effect.
pub(crate) fn perform(readers: [&Reader; 2], effect: Effect) -> Reply {
    match effect {
        Effect::Fetch([a, b]) => {
            let read = |reader: &Reader, numbers: Vec<u64>| -> Vec<Read> {
                let read = |number| (number, reader.event(number).map_err(|error| error.to_string()));
                numbers.into_iter().map(read).collect()
            };
            Reply::Events([read(readers[0], a), read(readers[1], b)])
        }
        Effect::Rows { id, number, from, strict } => {
            let rows = rows(readers, from, strict).map(|(rows, _)| rows).map_err(|error| error.to_string());
            Reply::Rows { id, number, rows }
        }
        Effect::Save(save) => Reply::Saved(Box::new(save::step(readers, *save))),
        Effect::Unsave(path) => {
            crate::export::cancel(&path);
            Reply::Unsaved
        }
        Effect::Copy(text) => Reply::Copied(crate::terminal::copy(&text).map_err(|error| error.to_string())),
        Effect::Align { id, from, strict } => {
            let began = Instant::now();
            let (mut pieces, mut from) = (Vec::new(), from);
            loop {
                match piece(readers, from, strict) {
                    Ok(Some((piece, end))) => {
                        from = end;
                        pieces.push((piece, end));
                    }
                    Ok(None) => return Reply::Aligned { id, pieces, whole: true, error: None },
                    Err(error) => {
                        return Reply::Aligned { id, pieces, whole: false, error: Some(error.to_string()) };
                    }
                }
                if began.elapsed() > PIECE {
                    return Reply::Aligned { id, pieces, whole: false, error: None };
                }
            }
        }
    }
}
