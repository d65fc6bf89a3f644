//! `nvmx replay` under another policy, or with mistakes: where that L0 and the recorded one part.

use super::dump::line_of;
use super::fail::{Result, Status};
use super::print::{Print, count, of};
use super::replay::{divergence_object, failure, write_divergence};
use super::words::ReplayArgs;
use hv_defs::config::Config;
use hv_defs::policy::Policy;
use replayer::{Differs, Options, Parting, Verdict};
use serde_json::{Value, json};
use std::io::Write;
use std::time::Instant;
use traces::Reader;

/// The configuration that is asked for instead of the recorded one, if one is.
pub fn other(args: &ReplayArgs, recorded: &Config) -> Option<Config> {
    if args.policy.is_none() && args.fault.is_empty() {
        return None;
    }
    let policy = args.policy.as_deref().and_then(Policy::preset).unwrap_or(recorded.policy);
    let slips = args.fault.iter().fold(recorded.slips, |slips, slip| slips.with(*slip));
    Some(Config { policy, slips, ..recorded.clone() })
}

/// Replays under another configuration, and finds where the two part.
pub fn replay(args: &ReplayArgs, other: &Config, reader: &Reader, print: &Print) -> Result<Status> {
    let path = &args.trace.trace;
    let start = Instant::now();
    let bar = print.progress("replaying", reader.len());
    let verdict = replayer::replay_under(reader, other, &Options::default(), &mut |events| bar.set_position(events));
    bar.finish_and_clear();
    let verdict = verdict.map_err(|error| failure(path, error))?;
    let mut reproduced = None;
    let mut parting = None;
    if let Some(divergence) = &verdict.divergence {
        // Up to there the recorded machine must do as recorded, or the two say nothing of each other.
        let last = reader.len().saturating_sub(1);
        let to = Options { to: Some(divergence.event.min(last)) };
        let recorded = replayer::replay(reader, &to).map_err(|error| failure(path, error))?;
        if recorded.identical() {
            let end = verdict.instructions;
            let bar = print.progress("comparing", end);
            let found = replayer::part(reader, other, &mut |done| bar.set_position(done));
            bar.finish_and_clear();
            parting = found.map_err(|error| failure(path, error))?;
        }
        reproduced = Some(recorded);
    }
    let took = start.elapsed();
    let mut out = print.out();
    if args.json {
        let object = json!({
            "identical": verdict.identical(),
            "runs": 1,
            "identical_runs": u64::from(verdict.identical()),
            "events": verdict.events,
            "instructions": verdict.instructions,
            "digest": format!("{:016x}", verdict.digest),
            "truncated": verdict.truncated,
            "stop": Value::Null,
            "divergence": verdict.divergence.as_ref().map(divergence_object),
            "reproduced": reproduced.as_ref().map(Verdict::identical),
            "parting": parting.as_ref().map(object),
            "place": Value::Null,
            "seconds": took.as_secs_f64(),
        });
        writeln!(out, "{object:#}")?;
    } else {
        told(&mut out, other, reader, &verdict, reproduced.as_ref(), parting.as_ref())?;
    }
    out.flush()?;
    print.detail(format!("{:.3} s", took.as_secs_f64()));
    Ok(if verdict.identical() { Status::Done } else { Status::No })
}

/// What the other configuration has that the recorded one has not.
fn changes(recorded: &Config, other: &Config) -> String {
    let name = |policy: &Policy| policy.name().unwrap_or("rules of its own");
    let mut changes = Vec::new();
    if recorded.policy != other.policy {
        changes.push(format!("policy {} instead of {}", name(&other.policy), name(&recorded.policy)));
    }
    let slips: Vec<&str> =
        other.slips.iter().filter(|slip| !recorded.slips.has(*slip)).map(|slip| slip.name()).collect();
    if !slips.is_empty() {
        changes.push(format!("fault {}", slips.join(", ")));
    }
    if changes.is_empty() { "nothing changed".to_owned() } else { changes.join(", ") }
}

fn told(
    out: &mut impl Write,
    other: &Config,
    reader: &Reader,
    verdict: &Verdict,
    reproduced: Option<&Verdict>,
    parting: Option<&Parting>,
) -> std::io::Result<()> {
    writeln!(out, "altered: {}", changes(&reader.header().config, other))?;
    let Some(divergence) = &verdict.divergence else {
        let (events, instructions) = (of(verdict.events, "event"), of(verdict.instructions, "instruction"));
        return writeln!(out, "identical all the same: {events} over {instructions}");
    };
    write_divergence(out, divergence)?;
    if let Some(recorded) = reproduced.filter(|verdict| !verdict.identical()) {
        writeln!(out, "the recorded configuration does not lead there either:")?;
        return super::replay::told_why(out, reader, recorded);
    }
    let Some(parting) = parting else {
        return writeln!(
            out,
            "no guest can tell: every register and all of L1's memory are the same up to the recording's end"
        );
    };
    let next = parting.instruction_text.as_deref().unwrap_or("(memory that cannot be read)");
    let event = parting.event.map_or(String::new(), |event| format!(", by event {event}"));
    writeln!(
        out,
        "guests see a difference from instruction {} on{event}: L{} at {:#x} on vCPU {}: {next}",
        count(parting.behind),
        parting.level,
        parting.rip,
        parting.vcpu,
    )?;
    writeln!(out, "{:<32} {:>18} {:>18}", "", "recorded", "altered")?;
    for differs in parting.registers.iter().chain(&parting.memory).chain(&parting.fields) {
        let Differs { what, recorded, other } = differs;
        writeln!(out, "{what:<32} {recorded:#18x} {other:#18x}")?;
    }
    if parting.pages > 0 {
        writeln!(out, "{} of L1's memory differ", of(parting.pages, "page"))?;
    }
    if let Some((number, event)) = &parting.writer {
        writeln!(out, "last written, in the recording, by  {}", line_of(*number, event))?;
    }
    Ok(())
}

fn object(parting: &Parting) -> Value {
    let list = |list: &[Differs]| -> Vec<Value> {
        let one = |differs: &Differs| {
            json!({
                "what": differs.what,
                "recorded": format!("{:#x}", differs.recorded),
                "other": format!("{:#x}", differs.other),
            })
        };
        list.iter().map(one).collect()
    };
    json!({
        "same_up_to": parting.instruction,
        "instruction": parting.behind,
        "event": parting.event,
        "vcpu": parting.vcpu,
        "level": parting.level,
        "rip": format!("{:#x}", parting.rip),
        "text": parting.instruction_text,
        "registers": list(&parting.registers),
        "memory": list(&parting.memory),
        "pages": parting.pages,
        "fields": list(&parting.fields),
        "last_writer": parting.writer.as_ref().map(|(number, event)| line_of(*number, event)),
    })
}
