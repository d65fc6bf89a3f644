//! `nvmx check`: limits that traces have to keep, for continuous integration.

use super::batch;
use super::fail::{Result, Status, say};
use super::folder::{self, Named};
use super::print::Print;
use super::study::{give, judged};
use super::words::CheckArgs;
use analyzer::{Checked, Limits};
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::io::Write;

/// What became of a trace: its gates and whether it was cut short, or why it could not be read.
type Outcome = std::result::Result<(Vec<Checked>, bool), String>;

/// `nvmx check`.
pub fn check(args: &CheckArgs, print: &Print) -> Result<Status> {
    let limits = Limits {
        redundant_flushes: args.max_redundant_flushes,
        missing_flushes: args.max_missing_flushes,
        mistakes: args.max_mistakes,
        pool_misses: args.max_pool_misses,
        exits_per_l2_exit: args.max_exits_per_l2_exit,
    };
    let traces = folder::traces(&args.traces)?;
    let gates = |trace: &Named, print: &Print| {
        let found = judged(&args.judge, &trace.path, print)?;
        Ok((analyzer::check(&found, &limits), found.overview.truncated))
    };
    let outcomes: Vec<(&Named, Outcome)> = match &traces[..] {
        [one] if args.junit.is_none() => vec![(one, Ok(gates(one, print)?))],
        several => {
            let bar = print.progress("checking", several.len() as u64);
            let silent = Print::silent();
            let done = batch::each(several, args.jobs, &bar, |trace| {
                Some(gates(trace, &silent).map_err(|failure: super::fail::Failure| failure.cause()))
            });
            bar.finish_and_clear();
            several.iter().zip(done.into_iter().flatten()).collect()
        }
    };
    if let Some(file) = &args.junit {
        give(Some(file), junit(&outcomes).as_bytes())?;
    }
    let held = |outcome: &Outcome| outcome.as_ref().is_ok_and(|(gates, _)| gates.iter().all(Checked::holds));
    let passed = outcomes.iter().all(|(_, outcome)| held(outcome));
    let single = traces.len() == 1;
    let mut out = print.out();
    if args.json {
        let objects: Vec<Value> =
            outcomes.iter().map(|(trace, outcome)| object(trace, outcome, held(outcome))).collect();
        match &objects[..] {
            [one] if single => writeln!(out, "{one:#}")?,
            several => writeln!(out, "{:#}", json!({ "passed": passed, "traces": several }))?,
        }
    } else {
        for (trace, outcome) in &outcomes {
            let whose = if single { String::new() } else { format!("{}: ", trace.name) };
            for gate in outcome.iter().flat_map(|(gates, _)| gates) {
                writeln!(out, "{}  {whose}{}", if gate.holds() { "pass" } else { "FAIL" }, gate.text)?;
            }
        }
    }
    out.flush()?;
    let broken = outcomes.iter().filter_map(|(trace, outcome)| Some((trace, outcome.as_ref().err()?)));
    let broken = broken.inspect(|(trace, why)| say(&format!("{}: not checked: {why}", trace.name))).count();
    Ok(match (broken, passed) {
        (0, true) => Status::Done,
        (0, false) => Status::No,
        _ => Status::Usage,
    })
}

fn object(trace: &Named, outcome: &Outcome, passed: bool) -> Value {
    let file = trace.path.display().to_string();
    let (gates, truncated) = match outcome {
        Ok(outcome) => outcome,
        Err(why) => return json!({ "file": file, "passed": false, "error": why }),
    };
    let gates = gates.iter().map(|gate| {
        let value = gate.found.map(number);
        json!({ "gate": gate.name, "value": value, "limit": number(gate.limit), "passed": gate.holds() })
    });
    json!({ "file": file, "truncated": truncated, "passed": passed, "gates": gates.collect::<Vec<_>>() })
}

/// A number that is whole without a point.
fn number(value: f64) -> Value {
    if value.fract() == 0.0 && value.abs() < 9e15 { (value as i64).into() } else { value.into() }
}

/// The outcome as the XML that test reports are exchanged in: what was not told of is skipped, what could not be read an
/// error.
fn junit(outcomes: &[(&Named, Outcome)]) -> String {
    let mut suites = String::new();
    let mut totals = [0; 4];
    for (trace, outcome) in outcomes {
        let name = escape(&trace.name);
        let (mut cases, mut counts) = (String::new(), [0; 4]);
        let [tests, failures, errors, skipped] = &mut counts;
        let mut case = |gate: &str, inner: &str| {
            *tests += 1;
            let _ = match inner {
                "" => writeln!(cases, "    <testcase classname=\"{name}\" name=\"{gate}\"/>"),
                inner => writeln!(cases, "    <testcase classname=\"{name}\" name=\"{gate}\">{inner}</testcase>"),
            };
        };
        match outcome {
            Ok((gates, _)) => {
                for gate in gates {
                    let text = escape(&gate.text);
                    if !gate.holds() {
                        *failures += 1;
                        case(gate.name, &format!("<failure type=\"limit\" message=\"{text}\"/>"));
                    } else if gate.found.is_none() {
                        *skipped += 1;
                        case(gate.name, &format!("<skipped message=\"{text}\"/>"));
                    } else {
                        case(gate.name, "");
                    }
                }
            }
            Err(why) => {
                *errors += 1;
                case("readable", &format!("<error type=\"trace\" message=\"{}\"/>", escape(why)));
            }
        }
        let _ = writeln!(suites, "  <testsuite name=\"{name}\" {}>\n{cases}  </testsuite>", attributes(counts));
        totals.iter_mut().zip(counts).for_each(|(total, count)| *total += count);
    }
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites name=\"nvmx check\" {}>\n{suites}</testsuites>\n",
        attributes(totals)
    )
}

fn attributes([tests, failures, errors, skipped]: [u64; 4]) -> String {
    format!("tests=\"{tests}\" failures=\"{failures}\" errors=\"{errors}\" skipped=\"{skipped}\"")
}

/// Text in an attribute. What XML has no place for is left out: control characters.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\t' | '\n' | '\r' => escaped.push(' '),
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => {}
            c => escaped.push(c),
        }
    }
    escaped
}
