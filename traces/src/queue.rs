//! A queue of batches between a source of events and the thread that writes them.
//!
//! Blocks end by what the events say and by nothing else: however the threads take turns, a source that waits gives the
//! same bytes as a [`Writer`] that is pushed to.

use crate::batch::Batch;
use crate::error::Error;
use crate::writer::{Summary, Writer};
use core::ops::ControlFlow;
use hv_defs::event::{Event, Stamp, What};
use std::io::Write;
use std::sync::mpsc::{self, Receiver, SyncSender, TrySendError};
use std::thread;

/// Full batches that may wait for the thread that writes. With the one that is filled, the one that is handed over and
/// the one that is written, that bounds the memory of a recording: five batches, each a few megabytes at most.
const WAITING: usize = 2;

/// The source's end of the queue.
#[derive(Debug)]
pub struct Feed {
    filling: Batch,
    /// Whether what is filled is to be handed over before anything is added to it.
    full: bool,
    filled: SyncSender<Batch>,
    spent: Receiver<Batch>,
    /// Events lost since the last one that was taken, and the stamp of the last of them.
    lost: u64,
    lost_at: Stamp,
}

/// Runs `source`, encoding, compressing and writing what it feeds on a thread beside it, and finishes the trace when it
/// returns.
///
/// # Errors
/// As [`Writer::write`] and [`Writer::finish`]: the trace ends with the last whole block. Or there can be no thread beside,
/// and no event is written. The source learns of it from [`Feed::push`].
pub fn beside<W: Write + Send, T>(
    writer: &mut Writer<W>,
    source: impl FnOnce(&mut Feed) -> T,
) -> (T, Result<Summary, Error>) {
    thread::scope(|scope| {
        let (filled, batches) = mpsc::sync_channel::<Batch>(WAITING);
        let (written, spent) = mpsc::channel::<Batch>();
        let writing = move || {
            // The ends of the channels are owned here, so that an error that ends the loop hangs up.
            for mut batch in batches {
                writer.write(&batch)?;
                batch.clear();
                // The source may have ended and not want it back.
                let _ = written.send(batch);
            }
            writer.finish()
        };
        // Where there can be no thread, what it was to do is dropped with its ends of the channels, which hangs up.
        let writing = thread::Builder::new().name("writer".into()).spawn_scoped(scope, writing);
        let (filling, lost_at) = (Batch::default(), Stamp::default());
        let mut feed = Feed { filling, full: false, filled, spent, lost: 0, lost_at };
        let made = source(&mut feed);
        feed.end();
        let finished = match writing {
            Ok(writing) => writing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
            Err(error) => Err(Error::Thread(error)),
        };
        (made, finished)
    })
}

impl Feed {
    /// Adds an event, for sources that can wait: where the disk is slower than the source, this is where it waits, and
    /// nothing is lost. [`ControlFlow::Break`] when the writing has ended with an error, which [`beside`] returns.
    #[inline]
    pub fn push(&mut self, event: &Event) -> ControlFlow<()> {
        if self.full || self.lost > 0 {
            self.make_room()?;
        }
        if self.filling.push(event) { self.hand_over() } else { ControlFlow::Continue(()) }
    }

    /// Adds an event, for sources that cannot wait: where the queue is full the event is lost. When there is room again,
    /// a [`What::Lost`] event says before the next one how many were lost, with the stamp of the last of them.
    #[inline]
    pub fn offer(&mut self, event: &Event) -> ControlFlow<()> {
        if self.full {
            match self.try_hand_over() {
                ControlFlow::Continue(true) => {}
                ControlFlow::Continue(false) => {
                    self.lose(1, event.at);
                    return ControlFlow::Continue(());
                }
                ControlFlow::Break(()) => return ControlFlow::Break(()),
            }
        }
        self.tell_lost();
        self.full = self.filling.push(event);
        if self.full { self.try_hand_over().map_continue(|_| ()) } else { ControlFlow::Continue(()) }
    }

    /// Counts events that were lost before they came here, such as a kernel's ring buffer tells of. They count with those
    /// that [`Feed::offer`] loses.
    pub fn lose(&mut self, events: u64, at: Stamp) {
        self.lost = self.lost.saturating_add(events);
        self.lost_at = at;
    }

    /// Ends the block, so that what was fed reaches the disk soon. Waits as [`Feed::push`] does. The block's end is in the
    /// file's bytes: a source whose runs are to give equal bytes calls this by its own clock, never by the wall's.
    pub fn cut(&mut self) -> ControlFlow<()> {
        if self.filling.is_empty() { ControlFlow::Continue(()) } else { self.hand_over() }
    }

    /// As [`Feed::cut`], for sources that cannot wait. Where the queue is full, the block ends when there is room.
    pub fn cut_soon(&mut self) -> ControlFlow<()> {
        self.full |= !self.filling.is_empty();
        if self.full { self.try_hand_over().map_continue(|_| ()) } else { ControlFlow::Continue(()) }
    }

    /// Events that are not yet handed over.
    pub fn held(&self) -> usize {
        self.filling.len()
    }

    #[cold]
    fn make_room(&mut self) -> ControlFlow<()> {
        if self.full {
            self.hand_over()?;
        }
        self.tell_lost();
        ControlFlow::Continue(())
    }

    fn tell_lost(&mut self) {
        if self.lost > 0 {
            let what = What::Lost(std::mem::take(&mut self.lost));
            self.full |= self.filling.push(&Event { at: self.lost_at, what });
        }
    }

    /// The next batch to fill: one that was written, or a new one while there are not enough.
    fn next(&mut self) -> Batch {
        self.spent.try_recv().unwrap_or_default()
    }

    fn hand_over(&mut self) -> ControlFlow<()> {
        self.full = false;
        let next = self.next();
        match self.filled.send(std::mem::replace(&mut self.filling, next)) {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        }
    }

    /// Hands over if the queue has room, and says whether it had.
    fn try_hand_over(&mut self) -> ControlFlow<(), bool> {
        match self.filled.try_send(std::mem::take(&mut self.filling)) {
            Ok(()) => {
                self.full = false;
                self.filling = self.next();
                ControlFlow::Continue(true)
            }
            Err(TrySendError::Full(batch)) => {
                self.filling = batch;
                ControlFlow::Continue(false)
            }
            Err(TrySendError::Disconnected(_)) => ControlFlow::Break(()),
        }
    }

    /// Hands over the rest. If nobody listens, the other thread has an error to tell.
    fn end(mut self) {
        self.tell_lost();
        let _ = self.filled.send(self.filling);
    }
}
