//! Reading checkpoints: the table of one, and what the pages hold that are asked for.

use super::group::{Group, decoder};
use super::{APART, About, Content, HEAD, Head, Holds, MAGIC, MAX_DEPTH, MAX_STATE, PAGE, Point, Tag, table};
use crate::source::Source;
use std::collections::BTreeMap;
use std::io::Read;
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

/// An open file of checkpoints.
#[derive(Debug)]
pub struct SeekFile {
    source: Source,
    frames: Vec<(Head, u64)>,
    groups: Vec<(Head, u64)>,
    bytes: u64,
    /// A checkpoint, and by number of the page what it holds there.
    at: Option<(usize, Vec<Content>)>,
    /// The same of every so many, to go back to.
    passed: BTreeMap<usize, Vec<Content>>,
}

/// Pages that hold the same, on the way to it.
#[derive(Default)]
struct Chain {
    pages: Vec<(u32, Content)>,
    /// What is known of it so far, and which words those are: what is found later is older.
    found: Option<Box<([u8; PAGE], [bool; PAGE / 8])>>,
    depth: u8,
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
        let (frames, groups, passed) = (Vec::new(), Vec::new(), BTreeMap::new());
        let mut file = Self { source, frames, groups, bytes: 0, at: None, passed };
        let (mut offset, mut whose, mut end, mut contents) = (start, None, None, 0_u32);
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
                Tag::Group if whose.is_some() && head.before == contents && head.count > 0 => {
                    let Some(more) = contents.checked_add(head.count).filter(|&more| Content::kept(more).is_some())
                    else {
                        break;
                    };
                    contents = more;
                    file.groups.push((head, payload));
                }
                Tag::Point if whose.is_some() && head.before == contents => {
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
        self.passed.retain(|at, _| *at < number);
        self.at.take_if(|(at, _)| *at >= number);
    }

    /// How many contents of pages the file has.
    pub fn contents(&self) -> u64 {
        self.groups.iter().map(|(head, _)| u64::from(head.count)).sum()
    }

    /// Bytes of the file up to the end of its last whole checkpoint.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// What the pages of memory hold at a checkpoint, of a machine that has `limit` of them. `same` is asked of each page
    /// whether it is known to hold that content; `set` is told, in any order, what the others hold. `initial` gives what is
    /// in a page before the run, where that is not zeros.
    ///
    /// # Errors
    /// The file is damaged there. It is good for checkpoints before the one that the error names. Some pages may have been
    /// told of.
    pub fn pages(
        &mut self,
        number: usize,
        limit: u32,
        initial: impl Fn(u32) -> Option<std::sync::Arc<[u8]>>,
        mut same: impl FnMut(u32, Content) -> bool,
        mut set: impl FnMut(u32, Content, &[u8]),
    ) -> Result<(), SeekError> {
        self.go_to(number, limit)?;
        let Some((_, table)) = &self.at else { return Err(damaged(number, "its table is lost")) };
        let first = |page: u32| initial(page).filter(|bytes| bytes.len() == PAGE);
        let mut needed: BTreeMap<u32, Vec<Chain>> = BTreeMap::new();
        for (page, &content) in (0..limit).zip(table) {
            if same(page, content) {
                continue;
            }
            match content.holds() {
                Holds::Zeros => set(page, content, &[0; PAGE]),
                Holds::Initial(of) => match first(of) {
                    Some(bytes) => set(page, content, &bytes),
                    None => set(page, content, &[0; PAGE]),
                },
                Holds::Kept(of) => {
                    let chains = needed.entry(of).or_insert_with(|| vec![Chain::default()]);
                    chains[0].pages.push((page, content));
                }
            }
        }
        // From the newest: what a content is made of is older than it, so that each group is read once.
        let mut group: Option<(usize, Group)> = None;
        while let Some((content, chains)) = needed.pop_last() {
            let at = self.groups.partition_point(|(head, _)| head.before <= content).checked_sub(1);
            let at = at.filter(|&at| content - self.groups[at].0.before < self.groups[at].0.count);
            let at = at.ok_or_else(|| damaged(number, "it has a page that is nowhere"))?;
            let before = self.groups[at].0.before;
            if group.as_ref().is_none_or(|(is, _)| *is != at) {
                let (head, offset) = &self.groups[at];
                let stored = self.payload(head, *offset, number)?;
                let read = Group::read(&stored, head.raw, before, head.count).map_err(|why| damaged(number, &why))?;
                group = Some((at, read));
            }
            let place = (content - before) as usize;
            for mut chain in chains {
                let found = group.as_ref().and_then(|(_, group)| group.content(place));
                let (base, runs) = found.ok_or_else(|| damaged(number, "a content is not in its group"))?;
                let (bytes, known) = &mut **chain.found.get_or_insert_with(|| Box::new(([0; PAGE], [false; PAGE / 8])));
                for (start, run) in runs {
                    fill(bytes, known, start, run);
                }
                match base.holds() {
                    Holds::Zeros => {}
                    Holds::Initial(of) => {
                        if let Some(first) = first(of) {
                            fill(bytes, known, 0, &first);
                        }
                    }
                    Holds::Kept(_) if chain.depth >= MAX_DEPTH => {
                        return Err(damaged(number, "a content is made of too many"));
                    }
                    Holds::Kept(of) => {
                        chain.depth += 1;
                        needed.entry(of).or_default().push(chain);
                        continue;
                    }
                }
                chain.pages.iter().for_each(|&(page, content)| set(page, content, bytes));
            }
        }
        Ok(())
    }

    /// Has [`SeekFile::at`] be of a checkpoint.
    fn go_to(&mut self, number: usize, limit: u32) -> Result<(), SeekError> {
        if number >= self.frames.len() {
            return Err(damaged(number, "there is none of that number"));
        }
        let fits = |(at, table): &(usize, Vec<Content>)| *at <= number && table.len() == limit as usize;
        // Until all is well, what is there is of no checkpoint.
        let here = self.at.take().filter(fits);
        let passed = self.passed.range(..=number).next_back().map(|(at, table)| (*at, table.clone())).filter(fits);
        let nearest = here.into_iter().chain(passed).max_by_key(|(at, _)| *at);
        let (from, mut table) = match nearest {
            Some((at, table)) => (at + 1, table),
            None => (0, (0..limit).map(Content::initial).collect()),
        };
        for step in from..=number {
            let (head, offset) = self.frames[step];
            let payload = self.payload(&head, offset, step)?;
            let stored = &payload[head.lengths[0] as usize..];
            let wrong = || damaged(step, "its table is no table of this machine's pages");
            if head.count > limit {
                return Err(wrong());
            }
            let mut bytes = Vec::new();
            let most = table::most(head.count);
            decoder(stored)
                .and_then(|decoder| decoder.take(most + 1).read_to_end(&mut bytes))
                .map_err(|error| damaged(step, &error.to_string()))?;
            for (page, content) in table::decode(&bytes, head.count).ok_or_else(wrong)? {
                if matches!(content.holds(), Holds::Kept(of) if of >= head.before) {
                    return Err(wrong());
                }
                *table.get_mut(page as usize).ok_or_else(wrong)? = content;
            }
            if step.is_multiple_of(APART) {
                self.passed.insert(step, table.clone());
            }
        }
        self.at = Some((number, table));
        Ok(())
    }

    fn payload(&self, head: &Head, offset: u64, number: usize) -> Result<Vec<u8>, SeekError> {
        let payload = take(&self.source, offset, head.payload() as usize)?;
        match crc32fast::hash(&payload) == head.crc {
            true => Ok(payload),
            false => Err(damaged(number, "its bytes do not match their checksum")),
        }
    }

    /// The state at a checkpoint.
    ///
    /// # Errors
    /// The file is damaged there. It is good for checkpoints before the one that the error names.
    pub fn state(&self, number: usize) -> Result<Vec<u8>, SeekError> {
        if number >= self.frames.len() {
            return Err(damaged(number, "there is none of that number"));
        }
        let key = number - number % APART;
        let base = self.state_beside(key, &[])?;
        if key == number { Ok(base) } else { self.state_beside(number, &base) }
    }

    fn state_beside(&self, number: usize, base: &[u8]) -> Result<Vec<u8>, SeekError> {
        let (head, offset) = &self.frames[number];
        let payload = self.payload(head, *offset, number)?;
        let most = u64::from(head.raw.min(MAX_STATE));
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
}

/// Sets the words of a page that are not known.
fn fill(bytes: &mut [u8; PAGE], known: &mut [bool; PAGE / 8], start: usize, run: &[u8]) {
    let known = &mut known[start / 8..];
    for ((place, known), word) in bytes[start..].chunks_exact_mut(8).zip(known).zip(run.chunks_exact(8)) {
        if !*known {
            place.copy_from_slice(word);
            *known = true;
        }
    }
}

fn damaged(number: usize, why: &str) -> SeekError {
    SeekError::Damaged { number, why: why.to_owned() }
}

fn take(source: &Source, offset: u64, count: usize) -> Result<Vec<u8>, SeekError> {
    source.take(offset, count).map_err(|error| SeekError::Read(error.to_string()))
}
