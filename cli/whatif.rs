//! `nvmx whatif`: a recorded guest under other policies, side by side.

use super::fail::{Failure, Result, Status};
use super::print::Print;
use super::replay::failure;
use super::study::give;
use super::trace::open;
use super::words::{WhatifArgs, WhatifFormat};
use analyzer::Study;
use analyzer::report::whatif::{self, Variant};
use hv_defs::config::Config;
use hv_defs::policy::Policy;
use replayer::whatif::{Apart, Ran};

/// The configurations to run: the recording's own first, then every policy with every size of pool and TLB.
fn variants(own: &Config, args: &WhatifArgs) -> Vec<(String, Config)> {
    let own_name = own.policy.name().unwrap_or("custom");
    let mut all = vec![(format!("recorded ({own_name})"), own.clone())];
    let policies: Vec<(String, Policy)> = match args.policy.as_slice() {
        [] => vec![(own_name.to_owned(), own.policy)],
        names => names.iter().filter_map(|name| Some((name.clone(), Policy::preset(name)?))).collect(),
    };
    let some = |list: &[u16]| if list.is_empty() { vec![None] } else { list.iter().copied().map(Some).collect() };
    let tlbs = if args.tlb.is_empty() { vec![None] } else { args.tlb.iter().copied().map(Some).collect() };
    for (name, policy) in &policies {
        for pool in some(&args.pool) {
            for tlb in &tlbs {
                let policy = Policy { pool: pool.unwrap_or(policy.pool), ..*policy };
                let config = Config { policy, tlb_entries: tlb.unwrap_or(own.tlb_entries), ..own.clone() };
                let mut name = name.clone();
                if pool.is_some() {
                    name.push_str(&format!(", pool {}", policy.pool));
                }
                if tlb.is_some() {
                    name.push_str(&format!(", TLB {}", config.tlb_entries));
                }
                match all.iter_mut().find(|(_, known)| *known == config) {
                    Some((known, _)) if known.starts_with("recorded") => *known = format!("{name} (recorded)"),
                    Some(_) => {}
                    None => all.push((name, config)),
                }
            }
        }
    }
    all
}

/// Why a guest may be another under other rules.
fn why(own: &Config, config: &Config, ran: &Ran) -> String {
    if let Some(divergence) = &ran.divergence {
        return format!("the run is not the recorded one from event {} on: see `nvmx replay`", divergence.event);
    }
    let Some(apart) = &ran.apart else { return String::new() };
    let mut reasons = Vec::new();
    if own.policy.shadowing != config.policy.shadowing {
        reasons.push("L1 sees whether VMCS shadowing is offered, and its VMREADs and VMWRITEs exit or do not");
    }
    if !own.slips.is_empty() {
        reasons.push("the recording has L0 make mistakes, which show otherwise");
    }
    if own.policy != config.policy || own.tlb_entries != config.tlb_entries {
        reasons.push(
            "a translation that nothing drops may serve longer or shorter, which shows in accessed and dirty flags \
             that the guest cleared, and where it changed its tables without a flush",
        );
    }
    let what = match apart {
        Apart::Step { .. } => "its instruction stream may be another",
        Apart::State { .. } => "its state is another",
    };
    format!("{what} from instruction {} on: {apart} ({})", apart.instruction(), reasons.join("; "))
}

/// `nvmx whatif`.
pub fn whatif(args: &WhatifArgs, print: &Print) -> Result<Status> {
    let path = &args.trace.trace;
    let mut reader = open(path, print)?;
    if let Some(origin) = &reader.header().origin {
        let what = format!("cannot run {} under other policies", path.display());
        let why = format!("it was {}, and nothing says what machine to run again", origin.whence());
        return Err(Failure::new(Status::Usage, what, why, "`nvmx dump`, `query`, `report` and `tui` read it"));
    }
    super::store::find(&mut reader, &format!("cannot run {} again", path.display()), &args.store)?;
    let own = &reader.header().config;
    let all = variants(own, args);
    let configs: Vec<Config> = all.iter().map(|(_, config)| config.clone()).collect();
    let bar = print.progress("running variants", configs.len() as u64);
    let ran = replayer::whatif::whatif(&reader, &configs, Study::default, Study::see, &|done| bar.set_position(done));
    bar.finish_and_clear();
    let ran = ran.map_err(|error| failure(path, error))?;
    let rows: Vec<Variant> = all
        .into_iter()
        .zip(ran)
        .map(|((name, config), (study, ran))| Variant {
            findings: study.finish(&name, &config.guest, config.policy.name().unwrap_or("custom")),
            policy: config.policy.name().unwrap_or("custom").to_owned(),
            pool: config.policy.pool,
            tlb: config.tlb_entries,
            same_as_recorded: ran.own.then_some(ran.divergence.is_none()),
            guest_same: ran.apart.is_none() && ran.divergence.is_none(),
            from_instruction: ran.apart.as_ref().map(Apart::instruction),
            why: why(own, &config, &ran),
        })
        .collect();
    let text = match args.format {
        WhatifFormat::Text => whatif::text(&rows, print.color && args.output.is_none()),
        WhatifFormat::Md => whatif::markdown(&rows),
        WhatifFormat::Json => whatif::json(&rows),
        WhatifFormat::Csv => whatif::csv(&rows),
    };
    give(args.output.as_deref(), text.as_bytes())?;
    Ok(if rows.iter().any(|row| row.same_as_recorded == Some(false)) { Status::No } else { Status::Done })
}
