//! The trace that is shown, which may still be written.

use crate::about;
use crate::model::{Effect, Growth, Msg, Reply};
use crate::replay::work::Replay;
use crate::work;
use std::sync::{Arc, PoisonError, RwLock};
use traces::Reader;

/// The reader of what a trace is now, for all threads.
pub(crate) struct Trace {
    now: RwLock<Arc<Reader>>,
    name: String,
}

impl Trace {
    /// A trace that was opened, by the name that is shown.
    pub(crate) fn new(reader: Reader, name: String) -> Self {
        Self { now: RwLock::new(Arc::new(reader)), name }
    }

    /// What it was when it was last looked at.
    pub(crate) fn reader(&self) -> Arc<Reader> {
        self.now.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether an effect is about a part of the trace that a reader does not have and that there is by now.
    pub(crate) fn is_news(&self, reader: &Reader, effect: &Effect) -> bool {
        let beyond = matches!(effect, Effect::Replay { event, .. } if *event >= reader.len());
        beyond && self.reader().len() > reader.len()
    }

    /// Does an effect.
    pub(crate) fn perform(&self, replay: &mut Replay<'_>, effect: Effect, tell: &mut dyn FnMut(Msg)) -> Reply {
        match effect {
            Effect::Follow => Reply::Followed(self.follow()),
            effect => work::perform(&self.reader(), replay, effect, tell),
        }
    }

    /// Takes in what was written since.
    fn follow(&self) -> Growth {
        let grown = match self.reader().growth() {
            Ok(traces::Growth::Same) => return Growth::Same,
            Ok(traces::Growth::More(grown)) => *grown,
            Ok(traces::Growth::Shorter) => {
                return Growth::Lost("The file has become shorter: what is not on the screen may be gone.".into());
            }
            Ok(traces::Growth::Other) => {
                return Growth::Lost(
                    "The file was replaced or written anew: open it again to see what it is now.".into(),
                );
            }
            Err(error) => return Growth::Lost(error.to_string()),
        };
        let about = about(&grown, self.name.clone());
        *self.now.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(grown);
        Growth::More(Box::new(about))
    }
}
