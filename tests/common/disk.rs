//! A small disk.

#![allow(dead_code, unreachable_pub)] // Every test program uses a part of this.

use crate::common::word;
use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::Command;

/// What is said of a disk that is full.
pub const FULL: &str = "No space left on device";

/// A disk of 16 MB, which needs a mount and so root.
#[derive(Debug)]
pub struct Disk(PathBuf);

impl Disk {
    /// A disk, or nothing, loudly.
    pub fn new(name: &str) -> Option<Self> {
        let folder = crate::common::folder(name);
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=16m", "none", word(&folder)]).output();
        if mounted.is_ok_and(|mounted| mounted.status.success()) {
            return Some(Self(folder));
        }
        // Not by a macro, whose output is kept from the terminal while the test passes.
        let _ = writeln!(std::io::stderr(), "SKIPPED: a small disk cannot be mounted here");
        None
    }

    /// The path of a file on it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Fills it up to so many bytes.
    pub fn leave(&self, bytes: u64) {
        let ballast = self.file("ballast");
        let _ = fs::remove_file(&ballast);
        let mut file = fs::File::create(&ballast).unwrap();
        let page = [0x55; 4096];
        while file.write_all(&page).is_ok() {}
        let full = file.metadata().unwrap().len() & !4095;
        file.set_len(full - bytes).unwrap();
    }

    /// Mounts it anew, `ro` or `rw`.
    pub fn remount(&self, how: &str) {
        let mounted = Command::new("mount").args(["-o", &format!("remount,{how}"), word(&self.0)]).output();
        assert!(mounted.is_ok_and(|mounted| mounted.status.success()), "the disk is mounted {how}");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).output();
    }
}
