//! Reading checkpoints: a walk from one to another, forwards or back.

use super::{APART, About, HEAD, Head, MAGIC, MAX_STATE, PAGE, Point, Tag};
use crate::source::Source;
use std::collections::BTreeMap;
use std::io::{self, Read};
use std::path::Path;

/// Why a file of checkpoints is left aside.
#[derive(Debug, thiserror::Error)]
pub enum SeekError {
    /// It cannot be read.
    #[error("it cannot be read: {0}")]
    Read(String),
    /// It is something else.
    #[error("it is no file of checkpoints")]
    NotOne,
    /// A build of another form wrote it.
    #[error("nvmx {build} wrote it, and this build keeps its states otherwise")]
    OtherBuild {
        /// That build's version.
        build: String,
    },
    /// It is of another trace.
    #[error("it is of another trace")]
    OtherTrace,
    /// A checkpoint in it is damaged.
    #[error("checkpoint {number} in it is damaged: {why}")]
    Damaged {
        /// Which, from 0.
        number: usize,
        /// What is wrong with it.
        why: String,
    },
}

/// An open file of checkpoints, and memory as it was at one of them.
#[derive(Debug)]
pub struct SeekFile {
    source: Source,
    frames: Vec<(Head, u64)>,
    bytes: u64,
    /// The checkpoint that `pages` is of.
    at: Option<usize>,
    pages: BTreeMap<u32, Box<[u8]>>,
}

impl SeekFile {
    /// Opens the file of checkpoints of `about`'s build and trace, up to its last whole checkpoint.
    ///
    /// `identity` is [`crate::Reader::identity`] of a trace that is whole; `None` of one that was cut short, for which the
    /// checkpoints do that were taken up to then.
    ///
    /// # Errors
    /// It cannot be read or is another's.
    pub fn open(path: &Path, about: &About, identity: Option<[u8; 32]>) -> Result<Self, SeekError> {
        let source = Source::open(path).map_err(|error| SeekError::Read(error.to_string()))?;
        Self::new(source, about, identity)
    }

    /// As [`SeekFile::open`], of bytes in memory.
    ///
    /// # Errors
    /// They are another's.
    pub fn from_bytes(bytes: Vec<u8>, about: &About, identity: Option<[u8; 32]>) -> Result<Self, SeekError> {
        Self::new(Source::from_bytes(bytes), about, identity)
    }

    fn new(source: Source, about: &About, identity: Option<[u8; 32]>) -> Result<Self, SeekError> {
        let start = MAGIC.len() as u64;
        if !source.has(0, start) || take(&source, 0, MAGIC.len())? != MAGIC {
            return Err(SeekError::NotOne);
        }
        let mut file = Self { source, frames: Vec::new(), bytes: 0, at: None, pages: BTreeMap::new() };
        let (mut offset, mut whose, mut end) = (start, None, None);
        while file.source.has(offset, HEAD as u64) {
            let mut bytes = [0; HEAD];
            bytes.copy_from_slice(&take(&file.source, offset, HEAD)?);
            let Some(head) = Head::from_bytes(&bytes) else { break };
            let payload = offset + HEAD as u64;
            if !file.source.has(payload, head.payload()) {
                break;
            }
            match head.tag {
                // Whoever wrote more than that into it was not us.
                Tag::About if whose.is_none() && head.payload() <= 1 << 10 => {
                    whose = About::from_bytes(&file.payload(&head, payload, 0)?);
                }
                Tag::End if head.payload() == 32 => end = Some(file.payload(&head, payload, file.frames.len())?),
                Tag::Point if whose.is_some() => {
                    let before =
                        file.frames.last().map_or((0, 0), |(head, _)| (head.point.events, head.point.instruction));
                    if head.point.events < before.0 || head.point.instruction < before.1 {
                        break;
                    }
                    file.frames.push((head, payload));
                }
                _ => break,
            }
            offset = payload + head.payload();
        }
        file.bytes = offset;
        let whose = whose.ok_or(SeekError::NotOne)?;
        if (&whose.build, whose.form) != (&about.build, about.form) {
            return Err(SeekError::OtherBuild { build: whose.build });
        }
        // A file without an end is of a recording that was ended like its trace.
        let same = match (&end, &identity) {
            (Some(ours), Some(theirs)) => ours == theirs,
            (Some(_), None) | (None, None) => true,
            (None, Some(_)) => false,
        };
        if whose.beginning != about.beginning || !same {
            return Err(SeekError::OtherTrace);
        }
        Ok(file)
    }

    /// The checkpoints.
    pub fn points(&self) -> impl ExactSizeIterator<Item = &Point> {
        self.frames.iter().map(|(head, _)| &head.point)
    }

    /// The checkpoint of that number.
    pub fn point(&self, number: usize) -> Option<&Point> {
        self.frames.get(number).map(|(head, _)| &head.point)
    }

    /// The last checkpoint of which `early` says that it is early enough; they are asked for in order.
    pub fn find(&self, early: impl Fn(&Point) -> bool) -> Option<usize> {
        self.frames.partition_point(|(head, _)| early(&head.point)).checked_sub(1)
    }

    /// Gives up all checkpoints from that number on.
    pub fn truncate(&mut self, number: usize) {
        self.frames.truncate(number);
        if self.at.is_some_and(|at| at >= number) {
            (self.at, self.pages) = (None, BTreeMap::new());
        }
    }

    /// Bytes of the file up to the end of its last whole checkpoint.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Goes to a checkpoint: [`SeekFile::pages`] are then as they were there. Returns the state. `limit` is how many pages
    /// the machine has, and `initial` what is in one before the run, where that is not zeros.
    ///
    /// # Errors
    /// The file is damaged there. It is good for checkpoints before the one that the error names.
    pub fn walk(
        &mut self,
        number: usize,
        limit: u32,
        initial: impl Fn(u32) -> Option<Box<[u8]>>,
    ) -> Result<Vec<u8>, SeekError> {
        if number >= self.frames.len() {
            return Err(SeekError::Damaged { number, why: "there is none of that number".into() });
        }
        let state = self.state(number)?;
        // A step forwards and a step back are the same exclusive-or.
        let steps: Vec<usize> = match self.at {
            None => (0..=number).collect(),
            Some(at) if at <= number => (at + 1..=number).collect(),
            Some(at) => (number + 1..=at).rev().collect(),
        };
        for step in steps {
            // Until all is well, what is there is of no checkpoint.
            self.at = None;
            if let Err(error) = self.step(step, limit, &initial) {
                self.pages.clear();
                return Err(error);
            }
        }
        self.at = Some(number);
        Ok(state)
    }

    /// The pages that any checkpoint up to here has, by number, as they were here.
    pub fn pages(&self) -> impl Iterator<Item = (u32, &[u8])> {
        self.pages.iter().map(|(page, bytes)| (*page, &**bytes))
    }

    fn payload(&self, head: &Head, offset: u64, number: usize) -> Result<Vec<u8>, SeekError> {
        let payload = take(&self.source, offset, head.payload() as usize)?;
        match crc32fast::hash(&payload) == head.crc {
            true => Ok(payload),
            false => Err(damaged(number, "its bytes do not match their checksum")),
        }
    }

    fn state(&self, number: usize) -> Result<Vec<u8>, SeekError> {
        let key = number - number % APART;
        let base = self.state_beside(key, &[])?;
        if key == number { Ok(base) } else { self.state_beside(number, &base) }
    }

    fn state_beside(&self, number: usize, base: &[u8]) -> Result<Vec<u8>, SeekError> {
        let (head, offset) = &self.frames[number];
        let payload = self.payload(head, *offset, number)?;
        let most = (head.state.min(MAX_STATE)) as u64;
        let mut state = Vec::new();
        let read = zstd::stream::read::Decoder::with_ref_prefix(&payload[..head.lengths[0] as usize], base)
            .and_then(|mut decoder| decoder.window_log_max(27).map(|()| decoder))
            .and_then(|decoder| decoder.take(most + 1).read_to_end(&mut state));
        match read {
            Ok(length) if length as u64 == most => Ok(state),
            Ok(_) => Err(damaged(number, "its state has another length")),
            Err(error) => Err(damaged(number, &error.to_string())),
        }
    }

    fn step(
        &mut self,
        number: usize,
        limit: u32,
        initial: &impl Fn(u32) -> Option<Box<[u8]>>,
    ) -> Result<(), SeekError> {
        let (head, offset) = self.frames[number];
        let payload = self.payload(&head, offset, number)?;
        let [state, fresh, _] = head.lengths.map(|length| length as usize);
        let (fresh, changed) = payload[state..].split_at(fresh);
        for (list, count) in [fresh, changed].into_iter().zip(head.pages) {
            self.apply(list, count, limit, initial).map_err(|error| damaged(number, &error.to_string()))?;
        }
        Ok(())
    }

    fn apply(
        &mut self,
        list: &[u8],
        count: u32,
        limit: u32,
        initial: &impl Fn(u32) -> Option<Box<[u8]>>,
    ) -> io::Result<()> {
        let wrong = |why: &str| io::Error::new(io::ErrorKind::InvalidData, why.to_owned());
        if count > limit {
            return Err(wrong("it has more pages than the machine"));
        }
        let mut from = io::BufReader::with_capacity(1 << 16, zstd::stream::read::Decoder::with_buffer(list)?);
        let short = |from: &mut dyn Read| -> io::Result<usize> {
            let mut bytes = [0; 2];
            from.read_exact(&mut bytes)?;
            Ok(u16::from_le_bytes(bytes).into())
        };
        let mut bits = [0; PAGE];
        for _ in 0..count {
            let mut number = [0; 4];
            from.read_exact(&mut number)?;
            let number = u32::from_le_bytes(number);
            if number >= limit {
                return Err(wrong("it has a page that the machine has not"));
            }
            let blank = || initial(number).filter(|page| page.len() == PAGE).unwrap_or_else(|| Box::from([0; PAGE]));
            let page = self.pages.entry(number).or_insert_with(blank);
            for _ in 0..short(&mut from)? {
                let (start, words) = (short(&mut from)? * 8, short(&mut from)? * 8);
                let Some(place) = page.get_mut(start..start + words) else {
                    return Err(wrong("a run leaves its page"));
                };
                let bits = &mut bits[..words];
                from.read_exact(bits)?;
                place.iter_mut().zip(bits).for_each(|(byte, bits)| *byte ^= *bits);
            }
        }
        Ok(())
    }
}

fn damaged(number: usize, why: &str) -> SeekError {
    SeekError::Damaged { number, why: why.to_owned() }
}

fn take(source: &Source, offset: u64, count: usize) -> Result<Vec<u8>, SeekError> {
    source.take(offset, count).map_err(|error| SeekError::Read(error.to_string()))
}
