//! `nvmx replay --to`: a place in a run, and what is there.

use super::fail::{Failure, Result, Status};
use super::print::{Print, bytes, count, of};
use super::replay::{divergence_object, failure, write_divergence};
use super::words::ReplayArgs;
use replayer::beside::beside;
use replayer::{Arrived, Cursor, Scene};
use serde_json::{Value, json};
use std::fmt;
use std::io::Write;
use std::path::Path;
use std::time::Instant;
use traces::Reader;

/// Where to go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Goal {
    Event(u64),
    Instruction(u64),
    Mark(u32, u64),
}

impl fmt::Display for Goal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Event(event) => write!(f, "event {event}"),
            Self::Instruction(instruction) => write!(f, "instruction {instruction}"),
            Self::Mark(mark, 1) => write!(f, "mark {mark:#x}"),
            Self::Mark(mark, count) => write!(f, "mark {mark:#x} for the {count}. time"),
        }
    }
}

impl Goal {
    /// What the command line asks for.
    pub fn of(args: &ReplayArgs) -> Option<Self> {
        let event = args.to.map(Self::Event);
        let instruction = args.to_instruction.map(Self::Instruction);
        event.or(instruction).or(args.to_mark.map(|(mark, count)| Self::Mark(mark, count)))
    }
}

/// What lies beside a trace whose last event is at instruction `last`, as `nvmx info` has it: a text and an object. `None`
/// where nothing does.
pub fn beside_it(path: &Path, reader: &Reader, last: u64) -> Option<(String, Value)> {
    let kept = beside(path);
    if reader.header().origin.is_some() || !kept.exists() {
        return None;
    }
    Some(match replayer::beside::open(&kept, reader) {
        Ok(file) => {
            let (mut from, mut apart) = (0, 0);
            for at in file.points().map(|point| point.instruction).chain([last]) {
                apart = apart.max(at.saturating_sub(from));
                from = at;
            }
            let (points, size) = (file.points().len(), file.bytes());
            let text =
                format!("{points} in {}, {}, at most {} apart", kept.display(), bytes(size), of(apart, "instruction"));
            (text, json!({ "count": points, "bytes": size, "apart": apart, "left_aside": Value::Null }))
        }
        Err(error) => {
            let text = format!("{} is left aside: {error}", kept.display());
            (text, json!({ "count": 0, "bytes": 0, "apart": Value::Null, "left_aside": error.to_string() }))
        }
    })
}

/// A cursor on a trace, which uses the checkpoints beside it.
pub fn cursor<'a>(path: &Path, reader: &'a Reader, print: &Print) -> Result<Cursor<'a>> {
    let mut cursor = Cursor::open(reader).map_err(|error| failure(path, error))?;
    let kept = beside(path);
    if kept.exists() {
        match cursor.use_beside(&kept) {
            Ok(points) => print.detail(format!("{} has {}", kept.display(), of(points as u64, "checkpoint"))),
            Err(error) => print.detail(format!("{} is left aside: {error}", kept.display())),
        }
    }
    Ok(cursor)
}

/// Goes there. A place that the run does not come to is a failure.
pub fn to(cursor: &mut Cursor<'_>, path: &Path, goal: Goal, reader: &Reader) -> Result<Arrived> {
    let arrived = match goal {
        Goal::Event(event) => cursor.to_event(event),
        Goal::Instruction(instruction) => cursor.to_instruction(instruction),
        Goal::Mark(mark, count) => cursor.to_mark(mark, count).map(|arrived| arrived.unwrap_or(Arrived::End(None))),
    };
    let arrived = arrived.map_err(|error| failure(path, error))?;
    let what = || format!("cannot replay {} to {goal}", path.display());
    if let Arrived::End(_) = &arrived {
        let why = match goal {
            Goal::Mark(..) => "the guest did not set that mark so often".to_owned(),
            Goal::Event(_) | Goal::Instruction(_) if reader.truncated() => {
                format!("it is cut short behind event {}", reader.len().saturating_sub(1))
            }
            Goal::Event(_) | Goal::Instruction(_) => format!("its run ends at instruction {}", cursor.instruction()),
        };
        return Err(Failure::new(Status::Usage, what(), why, "`nvmx info` and `nvmx dump` say what it has"));
    }
    Ok(arrived)
}

/// Goes there and shows what is there.
pub fn go(args: &ReplayArgs, goal: Goal, reader: &Reader, print: &Print) -> Result<Status> {
    let path = &args.trace.trace;
    let start = Instant::now();
    let mut cursor = cursor(path, reader, print)?;
    let arrived = to(&mut cursor, path, goal, reader)?;
    let took = start.elapsed();
    let scene = cursor.scene();
    // Events that L0 made together have happened together: those up to the one that was asked for are what was compared.
    let (events, digest) = match (goal, &arrived) {
        (Goal::Event(event), Arrived::There) => (event + 1, cursor.digest_of_event()),
        _ => (cursor.event(), cursor.digest()),
    };
    let divergence = match &arrived {
        Arrived::Diverged(divergence) => Some(divergence),
        Arrived::There | Arrived::End(_) => None,
    };
    let mut out = print.out();
    if args.json {
        let object = json!({
            "identical": divergence.is_none(),
            "runs": 1,
            "identical_runs": u64::from(divergence.is_none()),
            "events": events,
            "instructions": scene.instruction,
            "digest": digest.map(|digest| format!("{digest:016x}")),
            "truncated": reader.truncated(),
            "stop": Value::Null,
            "divergence": divergence.map(|divergence| divergence_object(divergence)),
            "parting": Value::Null,
            "place": place(&scene),
            "seconds": took.as_secs_f64(),
        });
        writeln!(out, "{object:#}")?;
    } else {
        if let Some(divergence) = divergence {
            write_divergence(&mut out, divergence)?;
        }
        told(&mut out, &scene)?;
    }
    out.flush()?;
    print.detail(format!("{:.3} s", took.as_secs_f64()));
    Ok(if divergence.is_none() { Status::Done } else { Status::No })
}

fn place(scene: &Scene) -> Value {
    let registers = scene.registers.iter().map(|(name, value)| ((*name).to_owned(), json!(format!("{value:#x}"))));
    json!({
        "event": scene.event,
        "instruction": scene.instruction,
        "vcpu": scene.vcpu,
        "pcpu": scene.pcpu,
        "level": scene.level,
        "rip": format!("{:#x}", scene.rip),
        "registers": registers.collect::<serde_json::Map<_, _>>(),
        "next": scene.next,
        "state": format!("{:016x}", scene.state),
    })
}

fn told(out: &mut impl Write, scene: &Scene) -> std::io::Result<()> {
    let event = scene.event.map_or("before event 0".to_owned(), |event| format!("behind event {event}"));
    let (instruction, vcpu, level) = (count(scene.instruction), scene.vcpu, scene.level);
    writeln!(out, "{event}, instruction {instruction}: vCPU {vcpu} runs L{level}, on CPU {}", scene.pcpu)?;
    for row in scene.registers.chunks(4) {
        let cells: Vec<String> = row.iter().map(|(name, value)| format!("{name:<6} {value:016x}")).collect();
        writeln!(out, "{}", cells.join("  "))?;
    }
    writeln!(out, "{:#x}:  {}", scene.rip, scene.next.as_deref().unwrap_or("(memory that cannot be read)"))?;
    writeln!(out, "state  {:016x}", scene.state)
}
