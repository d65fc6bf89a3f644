//! A folder of bytes by their content, which many traces share: each piece is there once, under its SHA-256.
//!
//! ```text
//! DIR/sha256/ab/cdef…       an object: the bytes whose SHA-256 is abcdef…
//! DIR/sha256/ab/cdef….zst   the same as one zstd frame; an object has either name
//! DIR/tmp/…                 what is being written
//! ```
//! The store knows nothing of what the bytes mean. An object is a file, which for a page of memory would be much: whoever
//! has thousands of small pieces puts them together into one object, with a table of them, and keeps that object's hash.
//!
//! An object is written under another name, synchronised with the disk, and renamed: it is whole or it is not there, however
//! many programs write at once. What is read is compared with its name, so damage is never taken for content.

use crate::frame::{MAX_HEADER_RATIO, MAX_MESSAGE};
use crate::header::{Image, sha256};
use hv_defs::config::ImageKind;
use std::collections::BTreeSet;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

const LEVEL: i32 = 3;

/// How long what was left unfinished in `DIR/tmp` is let be: nobody writes one object for a day.
const UNFINISHED: Duration = Duration::from_secs(24 * 60 * 60);

/// The SHA-256 of an object, by which it is found. It prints as 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hash(pub [u8; 32]);

impl Hash {
    /// The hash of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(sha256(bytes))
    }

    /// From 64 hexadecimal digits, in lower case.
    fn parse(digits: &str) -> Option<Self> {
        let digit = |digit: u8| match digit {
            b'0'..=b'9' => Some(digit - b'0'),
            b'a'..=b'f' => Some(digit - b'a' + 10),
            _ => None,
        };
        let mut hash = [0; 32];
        let (pairs, []) = digits.as_bytes().as_chunks::<2>() else { return None };
        if pairs.len() != hash.len() {
            return None;
        }
        for (byte, &[high, low]) in hash.iter_mut().zip(pairs) {
            *byte = digit(high)? << 4 | digit(low)?;
        }
        Some(Self(hash))
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Why something could not be put into a store or taken out of it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// There is no such store.
    #[error("cannot open the store {}: {source}", path.display())]
    Open {
        /// Its folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The store has no such object.
    #[error("the store {} has no object {hash}", path.display())]
    Missing {
        /// Its folder.
        path: PathBuf,
        /// What was looked for.
        hash: Hash,
    },
    /// An object's bytes are not those that its name promises.
    #[error("object {hash} of the store is damaged: {}: {why}", path.display())]
    Damaged {
        /// Its file.
        path: PathBuf,
        /// Its name.
        hash: Hash,
        /// What is wrong with it.
        why: String,
    },
    /// A file or folder of the store could not be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file or folder of the store could not be made, written or removed.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A trace's image is not in it, and the store has it not, or not whole.
    #[error("the bytes of {kind} '{name}' are not in the trace: {source}")]
    Image {
        /// What it is.
        kind: ImageKind,
        /// Its file name.
        name: String,
        /// What the store says.
        source: Box<StoreError>,
    },
    /// A trace's image is in it, and cannot be read.
    #[error("cannot read the bytes of {kind} '{name}': {source}")]
    Trace {
        /// What it is.
        kind: ImageKind,
        /// Its file name.
        name: String,
        /// Why.
        source: Box<crate::Error>,
    },
    /// A trace's image is not in it, and no store was named.
    #[error("the bytes of {kind} '{name}', sha256 {hash}, are not in the trace")]
    Elsewhere {
        /// What it is.
        kind: ImageKind,
        /// Its file name.
        name: String,
        /// Its hash.
        hash: Hash,
    },
}

/// An object of a store.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Object {
    /// The hash of its bytes.
    pub hash: Hash,
    /// Bytes that its file has.
    pub stored: u64,
    /// Whether they are compressed.
    pub compressed: bool,
}

/// What [`Store::collect`] did.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Collected {
    /// Objects that were removed, or would have been.
    pub removed: Vec<Object>,
    /// Objects that are still there and that nobody needs: they were put there or asked for too short a time ago.
    pub young: usize,
    /// Objects that are needed.
    pub needed: usize,
}

/// A store.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Store {
    folder: PathBuf,
}

impl Store {
    /// The store in a folder, to read from and to write to.
    ///
    /// # Errors
    /// There is no such folder.
    pub fn open(folder: impl Into<PathBuf>) -> Result<Self, StoreError> {
        let folder = folder.into();
        match fs::metadata(&folder) {
            Ok(about) if about.is_dir() => Ok(Self { folder }),
            Ok(_) => Err(StoreError::Open { path: folder, source: ErrorKind::NotADirectory.into() }),
            Err(source) => Err(StoreError::Open { path: folder, source }),
        }
    }

    /// As [`Store::open`]; the folder is made if need be.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn create(folder: impl Into<PathBuf>) -> Result<Self, StoreError> {
        let folder = folder.into();
        match fs::create_dir_all(&folder) {
            Ok(()) => Self::open(folder),
            Err(source) => Err(StoreError::Open { path: folder, source }),
        }
    }

    /// Its folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Puts bytes there, unless they are, and returns their hash. An object that is there and damaged is written anew.
    pub fn put(&self, bytes: &[u8]) -> Result<Hash, StoreError> {
        let hash = Hash::of(bytes);
        self.put_as(hash, bytes)?;
        Ok(hash)
    }

    /// Puts an image's bytes there, and has its trace look for them elsewhere from now on. An image without bytes is left
    /// as it is.
    pub fn put_image(&self, image: &mut Image) -> Result<(), StoreError> {
        if let Some(bytes) = &image.bytes {
            let failed =
                |source| StoreError::Trace { kind: image.kind, name: image.name.clone(), source: Box::new(source) };
            self.put_as(Hash(image.hash), &bytes.get().map_err(failed)?)?;
            image.elsewhere = true;
        }
        Ok(())
    }

    fn put_as(&self, hash: Hash, bytes: &[u8]) -> Result<(), StoreError> {
        let there = self.find(hash)?;
        if let Some((path, _)) = there.as_ref().filter(|(path, compressed)| same(path, *compressed, bytes)) {
            // So that it is not taken for one that nobody has needed for long. Only its owner may do that.
            let _ = File::open(path).and_then(|file| file.set_modified(SystemTime::now()));
            return Ok(());
        }
        let (mut file, unfinished) = self.begin()?;
        let failed = |source| StoreError::Write { path: unfinished.0.clone(), source };
        let stored = compress(&mut file, bytes).map_err(failed)?;
        let dense = bytes.len() as u64 > limit(stored);
        let compressed = stored < bytes.len() as u64 && !dense;
        if !compressed {
            io::Seek::rewind(&mut file).and_then(|()| file.set_len(0)).map_err(failed)?;
            file.write_all(bytes).map_err(failed)?;
        }
        file.sync_all().map_err(failed)?;
        let path = self.path(hash, compressed);
        let failed = |source| StoreError::Write { path: path.clone(), source };
        let folder = path.parent().unwrap_or(&self.folder);
        fs::create_dir_all(folder).map_err(failed)?;
        fs::rename(&unfinished.0, &path).map_err(failed)?;
        // A damaged one of the other name would be found before this one.
        if let Some((damaged, _)) = there.filter(|(there, _)| *there != path) {
            remove(damaged)?;
        }
        // The name is on the disk when its folder is. Where folders cannot be synchronised there is nothing to be done.
        let _ = File::open(folder).and_then(|folder| folder.sync_all());
        Ok(())
    }

    /// The bytes of an object.
    ///
    /// # Errors
    /// The store does not have it, or it is damaged or cannot be read.
    pub fn get(&self, hash: Hash) -> Result<Vec<u8>, StoreError> {
        let (path, compressed) =
            self.find(hash)?.ok_or_else(|| StoreError::Missing { path: self.folder.clone(), hash })?;
        let failed = |source| StoreError::Read { path: path.clone(), source };
        let file = File::open(&path).map_err(failed)?;
        let length = file.metadata().map_err(failed)?.len();
        let damaged = |why: String| StoreError::Damaged { path: path.clone(), hash, why };
        let mut bytes = Vec::new();
        if compressed {
            let content = zstd::stream::read::Decoder::new(file).map_err(failed)?;
            let most = limit(length);
            content.take(most + 1).read_to_end(&mut bytes).map_err(|error| damaged(error.to_string()))?;
            if bytes.len() as u64 > most {
                return Err(damaged(format!("{length} bytes that decompress to more than {most}")));
            }
        } else {
            bytes.reserve_exact(usize::try_from(length).unwrap_or(0));
            file.take(length).read_to_end(&mut bytes).map_err(failed)?;
        }
        match Hash::of(&bytes) {
            got if got == hash => Ok(bytes),
            got => Err(damaged(format!("its {} bytes have the hash {got}", bytes.len()))),
        }
    }

    /// Gets an image its bytes, unless it has them.
    ///
    /// # Errors
    /// As [`Store::get`].
    pub fn get_image(&self, image: &mut Image) -> Result<(), StoreError> {
        if image.bytes.is_none() {
            image.bytes = Some(self.get(Hash(image.hash))?.into());
        }
        Ok(())
    }

    /// Whether an object of that name is there, damaged or not.
    pub fn has(&self, hash: Hash) -> Result<bool, StoreError> {
        Ok(self.find(hash)?.is_some())
    }

    /// All objects, by their hashes. Files that are not named as objects are passed over.
    pub fn list(&self) -> Result<Vec<Object>, StoreError> {
        let mut found = Vec::new();
        for (folder, begins) in entries(&self.folder.join("sha256"))? {
            // What is no folder is no place for objects.
            if begins.len() != 2 || !folder.is_dir() {
                continue;
            }
            for (path, rest) in entries(&folder)? {
                let digits = format!("{begins}{}", rest.strip_suffix(".zst").unwrap_or(&rest));
                let Some(hash) = Hash::parse(&digits) else { continue };
                match fs::metadata(&path) {
                    Ok(about) => found.push(Object { hash, stored: about.len(), compressed: rest.ends_with(".zst") }),
                    // Somebody removed it meanwhile.
                    Err(error) if error.kind() == ErrorKind::NotFound => {}
                    Err(source) => return Err(StoreError::Read { path, source }),
                }
            }
        }
        found.sort_by_key(|object| (object.hash, object.compressed));
        Ok(found)
    }

    /// Removes the objects that are not `needed`, and what programs that were killed left unfinished. An object that was put
    /// there or asked for within `young` is let be, since a recording that has just begun may need it. `dry` removes nothing
    /// and only says what would be.
    pub fn collect(&self, needed: &BTreeSet<Hash>, young: Duration, dry: bool) -> Result<Collected, StoreError> {
        let mut collected = Collected::default();
        for object in self.list()? {
            let path = self.path(object.hash, object.compressed);
            if needed.contains(&object.hash) {
                collected.needed += 1;
            } else if !is_older(&path, young) {
                collected.young += 1;
            } else {
                if !dry {
                    remove(path)?;
                }
                collected.removed.push(object);
            }
        }
        for (path, _) in entries(&self.folder.join("tmp"))? {
            if !dry && is_older(&path, UNFINISHED) {
                remove(path)?;
            }
        }
        Ok(collected)
    }

    fn path(&self, hash: Hash, compressed: bool) -> PathBuf {
        let digits = hash.to_string();
        let ending = if compressed { ".zst" } else { "" };
        self.folder.join("sha256").join(&digits[..2]).join(format!("{}{ending}", &digits[2..]))
    }

    /// An object's file, and whether it is compressed.
    fn find(&self, hash: Hash) -> Result<Option<(PathBuf, bool)>, StoreError> {
        for compressed in [true, false] {
            let path = self.path(hash, compressed);
            match fs::metadata(&path) {
                Ok(_) => return Ok(Some((path, compressed))),
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(source) => return Err(StoreError::Read { path, source }),
            }
        }
        Ok(None)
    }

    /// A file to write an object to, which is gone again unless it is renamed.
    fn begin(&self) -> Result<(File, Unfinished), StoreError> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let folder = self.folder.join("tmp");
        if let Err(source) = fs::create_dir_all(&folder) {
            return Err(StoreError::Write { path: folder, source });
        }
        loop {
            // Another process's of that number may have been killed, here or on another host.
            let path = folder.join(format!("{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)));
            match File::create_new(&path) {
                Ok(file) => return Ok((file, Unfinished(path))),
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(source) => return Err(StoreError::Write { path, source }),
            }
        }
    }
}

/// Removes a file that was not finished. One that was has another name by then.
struct Unfinished(PathBuf);

impl Drop for Unfinished {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// The most bytes that a compressed object may have, by those of its file: as for a trace's header, a small file cannot ask
/// for much memory.
fn limit(stored: u64) -> u64 {
    stored.saturating_mul(MAX_HEADER_RATIO).max(MAX_MESSAGE.into())
}

/// Whether a file holds just these bytes. One that cannot be read does not.
fn same(path: &Path, compressed: bool, bytes: &[u8]) -> bool {
    let compare = |content: &mut dyn Read| -> io::Result<bool> {
        let (mut left, mut some) = (bytes, vec![0; 1 << 16]);
        loop {
            match content.read(&mut some)? {
                0 => return Ok(left.is_empty()),
                length if left.starts_with(&some[..length]) => left = &left[length..],
                _ => return Ok(false),
            }
        }
    };
    let same = File::open(path).and_then(|mut file| match compressed {
        true => compare(&mut zstd::stream::read::Decoder::new(file)?),
        false => compare(&mut file),
    });
    same.unwrap_or(false)
}

/// Compresses bytes into a file, and returns how many were written.
fn compress(file: &mut File, bytes: &[u8]) -> io::Result<u64> {
    let mut encoder = zstd::stream::write::Encoder::new(&mut *file, LEVEL)?;
    encoder.set_pledged_src_size(Some(bytes.len() as u64))?;
    encoder.include_contentsize(true)?;
    encoder.write_all(bytes)?;
    encoder.finish()?;
    io::Seek::stream_position(file)
}

/// What lies in a folder, by path and name, in the order of the names. Nothing, where there is no such folder.
fn entries(folder: &Path) -> Result<Vec<(PathBuf, String)>, StoreError> {
    let failed = |source| StoreError::Read { path: folder.to_owned(), source };
    let mut found = Vec::new();
    match fs::read_dir(folder) {
        Ok(entries) => {
            for entry in entries {
                let entry = entry.map_err(failed)?;
                found.push((entry.path(), entry.file_name().to_string_lossy().into_owned()));
            }
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(source) => return Err(failed(source)),
    }
    found.sort();
    Ok(found)
}

/// Whether a file was last written that long ago. One that is gone is not.
fn is_older(path: &Path, age: Duration) -> bool {
    let modified = fs::metadata(path).and_then(|about| about.modified());
    modified.is_ok_and(|at| SystemTime::now().duration_since(at).is_ok_and(|gone| gone >= age))
}

fn remove(path: PathBuf) -> Result<(), StoreError> {
    match fs::remove_file(&path) {
        Ok(()) => Ok(()),
        // Somebody else was faster.
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(source) => Err(StoreError::Write { path, source }),
    }
}
