//! What looks at a trace as it is: its header and its blocks.

use super::fail::{Fails, Failure, Result, Status};
use super::print::{Print, bytes, count, of};
use super::seek::beside_it;
use super::store::place;
use super::words::{InfoArgs, StoreArgs, VerifyArgs};
use hv_defs::config::{Backend, Clock, Config, Guest};
use serde_json::{Map, json};
use std::io::Write;
use std::path::Path;
use traces::{Error, Hash, Header, Reader, WholeFile, plain};

/// Opens a trace. A cut one is opened up to its last whole block, with a note.
pub fn open(path: &Path, print: &Print) -> Result<Reader> {
    let reader = Reader::open(path).map_err(|error| unreadable(path, error))?;
    if reader.truncated() {
        print.note(format!(
            "{} is cut short: {} can be read; `nvmx verify --salvage OUT` makes a whole trace of them",
            path.display(),
            of(reader.len(), "event")
        ));
    }
    Ok(reader)
}

/// A trace that could not be read, and what to do about it.
pub fn unreadable(path: &Path, error: Error) -> Failure {
    let hint = match &error {
        Error::Open { .. } => "name a trace that `nvmx record` wrote",
        Error::NotATrace => "name a file that `nvmx record` wrote",
        Error::Newer { .. } => "read it with the nvmx that wrote it, or a newer one",
        Error::NewerKind { .. } => "read it with the nvmx that wrote it",
        Error::HeaderCut => "record it again: nothing of it can be saved",
        Error::Block { .. } => "`nvmx verify --salvage OUT` saves the rest",
        Error::NoEvent { .. } | Error::NoBlock { .. } => "`nvmx info` says how many there are",
        _ => "`nvmx verify` says what is whole",
    };
    let what = match &error {
        Error::Thread(_) => {
            let what = format!("cannot read {}", path.display());
            return Failure::new(Status::Failed, what, error, super::fail::THREADS);
        }
        // It names the file itself.
        Error::Open { source, .. } => {
            return Failure::new(Status::Usage, format!("cannot open {}", path.display()), source, hint);
        }
        _ => format!("cannot read {}", path.display()),
    };
    Failure::new(Status::Usage, what, error, hint)
}

/// `nvmx info`.
pub fn info(path: &Path, args: &InfoArgs, print: &Print) -> Result<Status> {
    let reader = Reader::open(path).map_err(|error| unreadable(path, error))?;
    let size = reader.bytes();
    let header = reader.header();
    let counts = reader.counts().map_err(|error| unreadable(path, error))?;
    let last = match reader.len().checked_sub(1) {
        Some(last) => reader.stored(last).map_err(|error| unreadable(path, error))?.at.instruction,
        None => 0,
    };
    let (major, minor) = header.version;
    let mut out = print.out();
    if args.json {
        let images: Vec<_> = header
            .images
            .iter()
            .map(|image| {
                let size = image.bytes.as_ref().map(|held| held.len());
                let (place, _) = place(&reader, image, &args.store);
                json!({
                    "kind": image.kind.name(),
                    "name": image.name,
                    "sha256": Hash(image.hash).to_string(),
                    "bytes": size,
                    "where": place,
                })
            })
            .collect();
        let kinds: Map<_, _> = counts.iter().map(|(kind, n)| (kind.clone(), (*n).into())).collect();
        let parts = header.parts.iter().map(|part| (part.name.clone(), part.digest.clone().into()));
        let parts: Map<_, _> = parts.collect();
        let object = json!({
            "file": path.display().to_string(),
            "bytes": size,
            "format": format!("{major}.{minor}"),
            "build": header.build,
            "parts": parts,
            "truncated": reader.truncated(),
            "events": reader.len(),
            "blocks": reader.blocks().len(),
            "instructions": (header.clock() == Clock::Instructions).then_some(last),
            "last": last,
            "counts": kinds,
            "clock": header.clock().name(),
            "origin": header.origin.as_ref().map(|origin| {
                json!({ "source": origin.source, "name": origin.name, "note": origin.note })
            }),
            "config": header.origin.is_none().then(|| config_json(&header.config)),
            "images": images,
            "checkpoints": beside_it(path, &reader, last).map(|(_, object)| object),
        });
        writeln!(out, "{object:#}")?;
        out.flush()?;
        return Ok(Status::Done);
    }
    writeln!(
        out,
        "trace         {}, {}, format {major}.{minor}, by nvmx {}",
        path.display(),
        bytes(size),
        plain(&header.build)
    )?;
    if reader.truncated() {
        writeln!(out, "              cut short: this is up to the last whole block")?;
    }
    match &header.origin {
        Some(origin) => {
            let note = if origin.note.is_empty() { String::new() } else { format!(": {}", plain(&origin.note)) };
            let (way, rest) = origin.ways();
            writeln!(out, "{way:<13} {}, {rest}{note}", plain(&origin.name))?;
            writeln!(out, "clock         {}", origin.clock)?;
        }
        None => machine(&mut out, &reader, &args.store)?,
    }
    writeln!(
        out,
        "length        {} in {}, {}",
        of(reader.len(), "event"),
        of(reader.blocks().len() as u64, "block"),
        duration(last, header.clock())
    )?;
    for (kind, n) in &counts {
        writeln!(out, "  {kind:<11} {:>12}", count(*n))?;
    }
    if let Some((text, _)) = beside_it(path, &reader, last) {
        writeln!(out, "checkpoints   {text}")?;
    }
    out.flush()?;
    Ok(Status::Done)
}

/// What the stamps of a trace come to.
fn duration(last: u64, clock: Clock) -> String {
    match clock {
        Clock::Instructions => of(last, "instruction"),
        Clock::Nanoseconds => format!("{}.{:06} s", last / 1_000_000_000, last % 1_000_000_000 / 1000),
        Clock::Ticks => of(last, "tick"),
        Clock::Exits => of(last, "exit"),
    }
}

/// The machine that made a trace.
fn machine(out: &mut impl Write, reader: &Reader, store: &StoreArgs) -> Result<()> {
    let header = reader.header();
    writeln!(out, "guest         {}", guest(&header.config))?;
    let config = &header.config;
    writeln!(
        out,
        "machine       {} of memory, {}, {}, {}-entry TLB{}, backend {}, seed {}",
        bytes(config.memory),
        of(config.vcpus.into(), "vCPU"),
        of(config.pcpus.into(), "physical CPU"),
        count(config.tlb_entries.into()),
        if config.la57 { ", 5-level paging" } else { "" },
        config.backend,
        config.seed
    )?;
    if config.backend == Backend::Kvm {
        super::print::list(out, "not offered   ", &hv::cpu::NOT_OFFERED)?;
    }
    writeln!(out, "policy        {}", policy_line(config))?;
    if !config.slips.is_empty() {
        let names: Vec<&str> = config.slips.iter().map(|slip| slip.name()).collect();
        writeln!(out, "faults        {}", names.join(", "))?;
    }
    for image in &header.images {
        let (_, place) = place(reader, image, store);
        writeln!(out, "{:<13} {}, {place}, sha256 {}", image.kind.name(), plain(&image.name), Hash(image.hash))?;
    }
    Ok(())
}

fn guest(config: &Config) -> String {
    match &config.guest {
        Guest::BuiltIn(name) => format!("{}, built in", plain(name)),
        Guest::Kernel { name, append } => format!("{}, with \"{}\"", plain(name), plain(append)),
    }
}

fn policy_line(config: &Config) -> String {
    let policy = &config.policy;
    format!(
        "{}: vpid {}, transition flush {}, root load {}, pool {} ({}), vmcs02 writes {}, shadowing {}{}",
        policy.name().unwrap_or("of your own"),
        policy.tags,
        policy.transition_flush,
        policy.root_load,
        policy.pool,
        policy.pool_recycle,
        policy.vmcs02_writes,
        policy.shadowing,
        if policy.apic_access_flush { ", APIC-access flush" } else { "" }
    )
}

pub fn config_json(config: &Config) -> serde_json::Value {
    let policy = &config.policy;
    let (guest, append) = match &config.guest {
        Guest::BuiltIn(name) => (name, None),
        Guest::Kernel { name, append } => (name, Some(append)),
    };
    json!({
        "guest": guest,
        "built_in": append.is_none(),
        "append": append,
        "memory": config.memory,
        "vcpus": config.vcpus,
        "pcpus": config.pcpus,
        "backend": config.backend.name(),
        "tlb_entries": config.tlb_entries,
        "la57": config.la57,
        "seed": config.seed,
        "log": config.log.name(),
        "max_instructions": config.max_instructions,
        "stop_on": config.stop_on,
        "slice": config.slice,
        "digest_interval": config.digest_interval,
        "faults": config.slips.iter().map(|slip| slip.name()).collect::<Vec<_>>(),
        "policy": {
            "preset": policy.name(),
            "vpid": policy.tags.name(),
            "transition_flush": policy.transition_flush.name(),
            "root_load": policy.root_load.name(),
            "apic_access_flush": policy.apic_access_flush,
            "pool": policy.pool,
            "pool_recycle": policy.pool_recycle.name(),
            "vmcs02_writes": policy.vmcs02_writes.name(),
            "shadowing": policy.shadowing.name(),
        },
    })
}

/// Where a trace comes from, and what its stamps count.
pub fn whence(header: &Header) -> String {
    match &header.origin {
        None => "recorded by nvmx".into(),
        Some(origin) => format!("{}, times are {}", plain(&origin.whence()), origin.clock),
    }
}

/// `nvmx verify`.
pub fn verify(args: &VerifyArgs, print: &Print) -> Result<Status> {
    let path = &args.trace.trace;
    let reader = Reader::open(path).map_err(|error| unreadable(path, error))?;
    let verified = traces::check(&reader).map_err(|error| unreadable(path, error))?;
    let (lacking, images) = super::store::check(&reader, &args.store);
    let whole = format!(
        "{} of {}, {}{images}",
        count((verified.blocks - damaged_blocks(&verified)) as u64),
        of(verified.blocks as u64, "block"),
        of(verified.events, "event")
    );
    for damage in &verified.damage {
        super::fail::say(&format!("{}: {damage}", path.display()));
    }
    for lacks in &lacking {
        super::fail::say(&format!("{}: {lacks}", path.display()));
    }
    let sound = verified.damage.is_empty() && !verified.truncated && lacking.is_empty();
    if sound {
        print.line(format!("whole: {whole}"))?;
    } else {
        let cut = match verified.truncated {
            true => "cut short",
            false if verified.damage.is_empty() => "without its images",
            false => "damaged",
        };
        print.line(format!("{cut}: whole are {whole}"))?;
    }
    if let Some(out) = &args.salvage {
        salvage(path, out, print)?;
    }
    Ok(if sound { Status::Done } else { Status::No })
}

fn damaged_blocks(verified: &traces::Verified) -> usize {
    verified.damage.iter().filter(|damage| matches!(damage.part, traces::Part::Block(_))).count()
}

fn salvage(from: &Path, to: &Path, print: &Print) -> Result<()> {
    let what = format!("cannot save {} to {}", from.display(), to.display());
    let same = |path: &Path| path.canonicalize().ok();
    if same(from).is_some() && same(from) == same(to) {
        return Err(Failure::new(Status::Usage, what, "it is the same file", "name another"));
    }
    let mut file = WholeFile::create(to).or_hint(Status::Usage, &what, "name a file that can be written")?;
    let hint = "make room and save it again";
    let saved = traces::salvage(from, &mut file).or_hint(Status::Failed, &what, hint)?;
    file.finish().or_hint(Status::Failed, &what, hint)?;
    let lost = if saved.lost > 0 { format!(", {} lost between them", of(saved.lost, "event")) } else { String::new() };
    print.line(format!(
        "saved to {}: {} in {}{lost}",
        to.display(),
        of(saved.summary.events, "event"),
        of(saved.blocks as u64, "whole block")
    ))
}
