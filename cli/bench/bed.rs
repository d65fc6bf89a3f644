//! What the parts measure on, made when it is first asked for: recordings of a Linux guest with KVM or of built-in guests,
//! and a long trace made of one.

use super::super::fail::{Failure, Result, Status};
use super::super::print::Print;
use super::super::trace;
use super::super::words::BenchArgs;
use super::analysis;
use super::guest::{Guest, VARIABLE};
use super::source::{GUESTS, NoEvents, Recording, Subject};
use std::path::{Path, PathBuf};
use traces::Reader;

/// Events of the long trace.
const LONG: u64 = 100_000_000;
/// The same when it has to be quick.
const SHORT: u64 = 1_000_000;

/// A folder that is removed with all that is in it.
#[derive(Debug)]
pub struct Scratch(pub PathBuf);

impl Scratch {
    fn new() -> Result<Self> {
        let folder = std::env::temp_dir().join(format!("nvmx-bench-{}", std::process::id()));
        let what = format!("cannot make the folder {}", folder.display());
        let hint = "name another place for temporary files by TMPDIR";
        std::fs::create_dir_all(&folder).map_err(|error| Failure::new(Status::Failed, what, error, hint))?;
        Ok(Self(folder))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What is left there is in the system's temporary folder.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// It.
#[derive(Debug)]
pub struct Bed {
    /// For files.
    pub scratch: Scratch,
    /// The Linux guest; why there is none.
    pub guest: std::result::Result<Guest, String>,
    /// Whether it has to be quick.
    pub quick: bool,
    /// Whether traces were named.
    pub named: bool,
    long: Option<u64>,
    recordings: Option<Vec<Recording>>,
    lengthened: Option<PathBuf>,
}

impl Bed {
    /// As the command line says.
    ///
    /// # Errors
    /// The guest's folder lacks a file, or a trace cannot be read.
    pub fn new(args: &BenchArgs, traces: &[PathBuf]) -> Result<Self> {
        let folder = args.guest.clone().or_else(|| std::env::var_os(VARIABLE).map(PathBuf::from));
        let guest = match folder {
            None => Err("it needs a Linux guest: --guest DIR, made by tests/guests/linux.sh DIR and kvm.sh DIR".into()),
            Some(folder) => Ok(Guest::in_folder(&folder).map_err(|why| {
                let what = format!("cannot use the guest in {}", folder.display());
                Failure::new(
                    Status::Usage,
                    what,
                    why,
                    "tests/guests/linux.sh DIR makes one, and kvm.sh DIR what runs KVM",
                )
            })?),
        };
        for path in traces {
            Reader::open(path).map_err(|error| trace::unreadable(path, error))?;
        }
        let recordings = traces.iter().map(|path| Recording::named(path)).collect::<Vec<_>>();
        Ok(Self {
            scratch: Scratch::new()?,
            guest,
            quick: args.quick,
            named: !traces.is_empty(),
            long: args.long,
            recordings: (!recordings.is_empty()).then_some(recordings),
            lengthened: None,
        })
    }

    /// Where files go.
    pub fn folder(&self) -> &Path {
        &self.scratch.0
    }

    /// The guests to record: Linux with KVM where there is one, else the built-in ones.
    pub fn subjects(&self, print: &Print) -> Result<Vec<Subject>> {
        let payload = self.guest.as_ref().map_err(String::clone).and_then(|guest| Ok((guest, guest.payload()?)));
        match payload {
            Ok((guest, payload)) => {
                let subject = Subject::linux_kvm(guest, &payload, self.quick).map_err(|error| {
                    Failure::new(
                        Status::Usage,
                        "cannot read the Linux guest",
                        error,
                        "name a folder whose files can be read",
                    )
                })?;
                Ok(vec![subject])
            }
            Err(why) => {
                if self.guest.is_ok() {
                    print.note(format!("the built-in guests are measured on: {why}"));
                }
                Ok(GUESTS.iter().map(|name| Subject::built_in(name)).collect())
            }
        }
    }

    /// What to measure on: the traces that were named, or recordings, made now if need be.
    pub fn recordings(&mut self, print: &Print) -> Result<Vec<Recording>> {
        if let Some(recordings) = &self.recordings {
            return Ok(recordings.clone());
        }
        let subjects = self.subjects(print)?;
        let names: Vec<_> = subjects.iter().map(|subject| subject.name.as_str()).collect();
        print.note(format!("no trace is named: recording {}", names.join(" and ")));
        let made = subjects.iter().map(|subject| {
            Recording::of(subject, self.folder()).map_err(|error| failure(Path::new(&subject.name), error))
        });
        let made = made.collect::<Result<Vec<_>>>()?;
        Ok(self.recordings.insert(made).clone())
    }

    /// Keeps recordings that a part has made, unless traces were named.
    pub fn keep(&mut self, recordings: Vec<Recording>) {
        self.recordings.get_or_insert(recordings);
    }

    /// A long trace, made of the first recording unless that is long enough. `unless_named`: a trace that was named is taken as
    /// it is where no length was asked for.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn long(&mut self, print: &Print, unless_named: bool) -> Result<(Recording, PathBuf)> {
        let Some(first) = self.recordings(print)?.into_iter().next() else {
            unreachable!("there is a recording where there is none")
        };
        if let Some(path) = &self.lengthened {
            return Ok((first, path.clone()));
        }
        let wanted = self.long.unwrap_or(if self.quick { SHORT } else { LONG });
        let reader = Reader::open(&first.path).map_err(|error| trace::unreadable(&first.path, error))?;
        let path = if reader.len() >= wanted || (unless_named && self.named && self.long.is_none()) {
            first.path.clone()
        } else {
            let path = self.folder().join("long.nvmx");
            analysis::lengthen(&first.path, &path, wanted).map_err(|error| {
                Failure::new(Status::Failed, "cannot make a long trace", error, "make room, or name less by --long")
            })?;
            path
        };
        self.lengthened = Some(path.clone());
        Ok((first, path))
    }

    /// The length that was asked for.
    pub fn asked_length(&self) -> Option<u64> {
        self.long
    }
}

/// Why there is nothing to measure on, for a trace or a guest of that name.
pub fn failure(path: &Path, error: NoEvents) -> Failure {
    let what = format!("cannot measure on {}", path.display());
    match error {
        NoEvents::Trace(error) => trace::unreadable(path, error),
        NoEvents::Guest(error) => super::super::record::failure(error, &path.to_string_lossy(), None),
        NoEvents::Ended(_) => Failure::new(Status::Failed, what, error, "`nvmx run` shows how it ends"),
        NoEvents::Empty => Failure::new(Status::Usage, what, error, "name another trace"),
    }
}
