//! The header: all that, with the inputs among the events, decides the run that a trace tells of.

use crate::image::ImageBytes;
use crate::store::{Hash, Store, StoreError};
use hv_defs::config::{Clock, Config, ImageKind, Origin};
use sha2::{Digest as _, Sha256};
use std::sync::Arc;

/// What stands before the events.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Header {
    /// The format's major and minor version.
    pub version: (u16, u16),
    /// The machine.
    pub config: Config,
    /// What it boots from.
    pub images: Vec<Image>,
    /// The version of the program that recorded.
    pub build: String,
    /// Of what that program's machine was made; empty where it did not say.
    pub parts: Vec<Made>,
    /// Where it comes from, if our machine did not make it. There is nothing to replay then.
    pub origin: Option<Origin>,
}

/// A part of the program that recorded, as it was made.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Made {
    /// Its name, as `cpu` or `l0`.
    pub name: String,
    /// A digest of its source: equal ones do the same.
    pub digest: String,
}

/// A file that the guest boots from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Image {
    /// What it is.
    pub kind: ImageKind,
    /// Its file name, for readers only.
    pub name: String,
    /// SHA-256 of its bytes.
    pub hash: [u8; 32],
    /// Its bytes; `None` when they are not at hand.
    pub bytes: Option<ImageBytes>,
    /// Whether its bytes are kept elsewhere, as in a [`Store`], and not in the trace.
    pub elsewhere: bool,
}

impl Image {
    /// The image of these bytes, to be kept in the trace.
    pub fn new(kind: ImageKind, name: impl Into<String>, bytes: impl Into<Arc<[u8]>>) -> Self {
        let bytes: Arc<[u8]> = bytes.into();
        Self { kind, name: name.into(), hash: sha256(&bytes), bytes: Some(bytes.into()), elsewhere: false }
    }
}

impl Header {
    /// The header of a trace that is recorded now.
    pub fn new(config: Config, images: Vec<Image>) -> Self {
        let build = env!("CARGO_PKG_VERSION").into();
        Self { version: crate::VERSION, config, images, build, parts: Vec::new(), origin: None }
    }

    /// The same, of a machine that is made of these parts: their names and digests.
    #[must_use]
    pub fn made_of(self, parts: &[(&str, &str)]) -> Self {
        let part = |&(name, digest): &(&str, &str)| Made { name: name.into(), digest: digest.into() };
        Self { parts: parts.iter().map(part).collect(), ..self }
    }

    /// Gets the bytes of all images: of those that the trace lacks, out of `store`.
    ///
    /// # Errors
    /// The store lacks one, or what it has is damaged; or one is needed and there is no store.
    pub fn find_images(&mut self, store: Option<&Store>) -> Result<(), StoreError> {
        for image in &mut self.images {
            if image.bytes.is_some() {
                continue;
            }
            let (kind, name, hash) = (image.kind, image.name.clone(), Hash(image.hash));
            let Some(store) = store else { return Err(StoreError::Elsewhere { kind, name, hash }) };
            store.get_image(image).map_err(|source| StoreError::Image { kind, name, source: source.into() })?;
        }
        Ok(())
    }

    /// What its stamps count.
    pub fn clock(&self) -> Clock {
        self.origin.as_ref().map_or(Clock::Instructions, |origin| origin.clock)
    }
}

/// SHA-256 of `bytes`.
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}
