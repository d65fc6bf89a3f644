//! Advice: for each finding that matters, what to change and what it would save.

mod nested;

use super::exits::ratio;
use super::vmcs::FieldRow;
use super::{Direction, Findings, FlushRow, PoolFinding, ShadowRow, Shadowing};
use crate::judge::{JudgedBy, Rule, Verdict};
use crate::number::{grouped, percent};
use hv_defs::cost::DEFAULT as COSTS;
use hv_defs::event::{Actor, Cause, FlushKind, VmcsOp, Which};
use hv_defs::exit::Reason;
use hv_defs::vmcs::{Shadowed, VmcsField};

/// How urgent a piece of advice is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Severity {
    /// Something is wrong.
    Wrong,
    /// Something is wasted.
    Waste,
    /// Something to know.
    Note,
}

impl Severity {
    /// Its name in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Wrong => "wrong",
            Self::Waste => "waste",
            Self::Note => "note",
        }
    }
}

/// One piece of advice.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Advice {
    /// How urgent.
    pub severity: Severity,
    /// What it is about, as a key for programs: `missing-flush`, `redundant-flush`, ...
    pub topic: &'static str,
    /// What to change, and the numbers that say so.
    pub text: String,
    /// Modelled cycles that it would save; 0 where that is not the point.
    pub saves: u64,
    /// Where it can be seen; `None` for what is of no event in particular.
    pub seen: Option<Seen>,
}

/// Events that a piece of advice is about.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Seen {
    /// This one, and what follows it.
    Event(u64),
    /// Exits of a level for a reason.
    Exits(u8, Reason),
    /// Accesses of a field: by whom, to which VMCS, reads or writes.
    Accesses(Actor, Which, VmcsField, VmcsOp),
    /// Requests that the pool could not serve from what it had.
    PoolMisses,
    /// Entries that a check refused.
    FailedEntries,
    /// Places where events are missing.
    Lost,
    /// A VPID of silicon's taken from one vpid12 for another.
    VpidsRecycled,
}

impl Advice {
    fn new(severity: Severity, topic: &'static str, text: String, saves: u64) -> Self {
        Self { severity, topic, text, saves, seen: None }
    }

    fn at(self, seen: Seen) -> Self {
        Self { seen: Some(seen), ..self }
    }
}

/// Waste below this part of all modelled cycles is not worth a sentence: one in a thousand.
const WORTH: u64 = 1000;

/// Plural of a count: `1 flush`, `2 flushes`.
pub(crate) fn many(count: u64, one: &str, more: &str) -> String {
    format!("{} {}", grouped(count), if count == 1 { one } else { more })
}

/// The advice that findings give, most urgent first, then by what it saves.
pub(super) fn advise(of: &Findings) -> Vec<Advice> {
    let mut advice = Vec::new();
    missing(of, &mut advice);
    mistakes(of, &mut advice);
    trouble(of, &mut advice);
    flushes(of, &mut advice);
    pool(of, &mut advice);
    nested::advise(of, &mut advice);
    vmcs(of, &mut advice);
    memory(of, &mut advice);
    advice.sort_by_key(|advice| (advice.severity, core::cmp::Reverse(advice.saves)));
    advice
}

fn missing(of: &Findings, advice: &mut Vec<Advice>) {
    for row in of.flushes.rows.iter().filter(|row| row.verdict == Verdict::Missing) {
        if row.rule.ground() == JudgedBy::Replay {
            let (count, first) = (many(row.count, "flush is", "flushes are"), grouped(row.first));
            let (kind, actor, cause) = (row.kind.name().to_uppercase(), row.actor.name(), row.cause.name());
            let text = format!(
                "{count} missing ({kind} for {cause}, owed by {actor}): from event {first} on, guests ran that a \
                 translation could have served which the tables no longer gave. {actor} must execute it before such an entry."
            );
            advice.push(Advice::new(Severity::Wrong, "missing-flush", text, 0).at(Seen::Event(row.first)));
            continue;
        }
        let what = if row.cause == Cause::EptZap { "removed" } else { "changed" };
        let who = if row.actor == Actor::L0 {
            "L1 asked for the INVEPT and L0 did not carry it out: L0 must execute INVEPT on the CPU before it enters L2"
        } else {
            "L1 must execute INVEPT after it changes a present EPT entry and before it enters L2 on that CPU"
        };
        let text = format!(
            "{} missing: L2 was entered, first at event {}, while the CPU could still use {} EPT entries as they had \
             been. {who}.",
            if row.count == 1 { "1 INVEPT is".into() } else { format!("{} INVEPTs are", grouped(row.count)) },
            grouped(row.first),
            what,
        );
        advice.push(Advice::new(Severity::Wrong, "missing-flush", text, 0).at(Seen::Event(row.first)));
    }
}

fn mistakes(of: &Findings, advice: &mut Vec<Advice>) {
    for mistake in &of.mistakes {
        let wasted = mistake.kind.direction() == Direction::Wasted;
        let severity = if wasted { Severity::Waste } else { Severity::Wrong };
        let text = format!(
            "{} ({}), first at event {}: {}. {}",
            many(mistake.count, "mistake", "mistakes") + " of L0's",
            mistake.kind.name(),
            grouped(mistake.first),
            mistake.proof,
            mistake.kind.why(),
        );
        advice.push(Advice::new(severity, "l0-mistake", text, 0).at(Seen::Event(mistake.first)));
    }
}

fn trouble(of: &Findings, advice: &mut Vec<Advice>) {
    let mut add = |severity, topic, text, seen| advice.push(Advice { seen, ..Advice::new(severity, topic, text, 0) });
    for (check, count) in &of.overview.failed_entries {
        let text = format!(
            "{} refused by the check `{check}`: look at the fields it names in the VMCS that was entered.",
            if *count == 1 { "1 VM entry was".into() } else { format!("{} VM entries were", grouped(*count)) },
        );
        add(Severity::Wrong, "failed-entry", text, Some(Seen::FailedEntries));
    }
    if of.overview.lost > 0 {
        let lost = many(of.overview.lost, "event is", "events are");
        let text = format!(
            "{lost} missing from this trace: counts are too low, and verdicts may be wrong; record with larger buffers."
        );
        add(Severity::Note, "lost-events", text, Some(Seen::Lost));
    }
    if of.overview.truncated {
        let text = "The recording was cut short: what happened after its last whole block is not here.".into();
        add(Severity::Note, "truncated", text, None);
    }
}

/// What to do about flushes that were wasted, where L0 could know it when it flushed; `None` where it could not.
fn remedy(row: &FlushRow) -> Option<String> {
    let cause = row.cause;
    let rule = match (row.rule, row.known_by) {
        // L0 knows what it flushes for, and what silicon does by itself.
        (Rule::WrongTarget, _) => return Some(format!("name what the `{}` flush is for, not another", cause.name())),
        (rule, _) if rule.is_known_then() => rule,
        (_, Some(rule)) => rule,
        (rule, None) if matches!(cause, Cause::HardwareEntry | Cause::HardwareExit) => rule,
        _ => return None,
    };
    let text = match (rule, cause) {
        (_, Cause::HardwareEntry | Cause::HardwareExit) => {
            "give L1 and L2 VPIDs, so that entries and exits drop nothing by themselves".into()
        }
        (Rule::WiderThanAsked, _) => {
            format!("carry out what the guest asked for, {}", row.narrower.unwrap_or("a narrower type"))
        }
        (Rule::OneRoot, _) => "use single-context INVEPT of the root that changed".into(),
        (Rule::OwnRoot, _) => "drop the flush for the APIC-access page: L2 has a root or a VPID of its own".into(),
        (Rule::RootSwitch, _) => {
            "do not flush when a root is only loaded; flush when an entry of it loses something".into()
        }
        (Rule::SameOwner, Cause::NestedEntry | Cause::NestedExit | Cause::Vpid12Change) => {
            "give L2 a VPID of its own for each vpid12, and flush only when it is recycled".into()
        }
        (Rule::NothingCached, _) if row.actor == Actor::L0 => {
            "skip the flush when nothing ran under the tag since the last one".into()
        }
        (Rule::NothingCached, _) => "L1 need not flush again before its guest has run".into(),
        (Rule::NothingChanged | Rule::HarmlessChange, _) if row.actor == Actor::L0 => {
            "skip INVEPT when syncing found no present entry that lost anything".into()
        }
        (Rule::NothingChanged | Rule::HarmlessChange, _) => {
            "L1 need not INVEPT when no present entry lost a permission or its page".into()
        }
        _ => format!("drop the `{}` flush where this rule holds", cause.name()),
    };
    Some(text)
}

fn flushes(of: &Findings, advice: &mut Vec<Advice>) {
    let made = of.flushes.made();
    for row in &of.flushes.rows {
        if !matches!(row.verdict, Verdict::Redundant | Verdict::TooBroad) {
            continue;
        }
        let saves = row.cycles + row.refill_cycles;
        // L1's own flush is an exit to L0, with all that this costs.
        let saves = if row.actor == Actor::L1 { saves + row.count * COSTS.round_trip() } else { saves };
        if saves * WORTH < of.overview.cycles && row.count * 20 < made {
            continue;
        }
        let (topic, verdict) = match row.verdict {
            Verdict::TooBroad => ("broad-flush", "too broad"),
            _ => ("redundant-flush", "redundant"),
        };
        let kind = if row.kind == FlushKind::Transition { "transition".into() } else { row.kind.name().to_uppercase() };
        let rule = match row.known_by {
            Some(known) => format!("rule {}, known by {}", row.rule.name(), known.name()),
            None => format!("rule {}", row.rule.name()),
        };
        let mut text = format!(
            "{} of {} {} {verdict} ({kind} for {} by {}, {rule}): ",
            grouped(row.count),
            many(made, "flush", "flushes"),
            if row.count == 1 { "is" } else { "are" },
            row.cause.name(),
            row.actor.name(),
        );
        let Some(remedy) = remedy(row) else {
            // What L0 cannot know it cannot go by.
            text += &format!(
                "this run shows it only afterwards, and another run may need them. Nothing that L0 knew when it flushed said \
                 so: they are not to be dropped, but show what a finer account of what each tag holds could spare, at most \
                 {} modelled cycles.",
                grouped(saves)
            );
            advice.push(Advice::new(Severity::Note, "hindsight-flush", text, 0).at(Seen::Event(row.first)));
            continue;
        };
        text += &format!(
            "{remedy}. {} {}.",
            dropped(row) + if row.count == 1 { " it" } else { " them" },
            saved(saves, of.overview.cycles),
        );
        advice.push(Advice::new(Severity::Waste, topic, text, saves).at(Seen::Event(row.first)));
    }
}

fn dropped(row: &FlushRow) -> String {
    if row.dropped == 0 {
        "Nothing was dropped; without".into()
    } else {
        format!("{} dropped; without", many(row.dropped, "TLB entry was", "TLB entries were"))
    }
}

fn saved(cycles: u64, of: u64) -> String {
    format!("{} modelled cycles ({} of all) are saved", grouped(cycles), percent(cycles, of))
}

fn pool(of: &Findings, advice: &mut Vec<Advice>) {
    // Of many vCPUs each for itself would say the same.
    let few = if of.pools.len() <= 4 { &of.pools[..] } else { &[] };
    few.iter().for_each(|pool| advice.extend(pool_size(pool)));
    if of.pools.len() > 1 {
        advice.extend(pool_size(&PoolFinding::sum(&of.pools, &COSTS)));
    }
}

/// What another size of the pool, or another rule, would save.
fn pool_size(pool: &PoolFinding) -> Option<Advice> {
    let (knee, now) = (pool.curve.knee()?, pool.curve.at(pool.slots)?);
    let (topic, requests, missed) = ("pool-size", pool.curve.requests, pool.missed());
    let whose = pool.vcpu.map_or("All vCPUs with one size".into(), |vcpu| format!("vCPU {vcpu}"));
    let avoidable = missed.saturating_sub(knee.misses);
    let cycles = |misses: u64| {
        let writes = match pool.writes_of(misses) {
            Some(0) if misses > 0 => " but no VMWRITE, as every field is written at a hit too".into(),
            Some(writes) => format!(" and some {} VMWRITEs", grouped(writes)),
            None => String::new(),
        };
        format!("{} modelled cycles{writes}", grouped(pool.cycles_of(misses)))
    };
    if knee.size > pool.slots && avoidable * 100 > requests {
        let text = format!(
            "{whose}: a vmcs02 pool of {} slots instead of the {} used misses {} times instead of {} ({} requests for {} \
             vmcs12s), which saves {}. No rule misses less than {} times at {} slots.",
            knee.size,
            pool.slots,
            grouped(knee.misses),
            grouped(missed),
            grouped(requests),
            grouped(pool.curve.distinct),
            cycles(avoidable),
            grouped(now.optimum),
            pool.slots,
        );
        return Some(Advice::new(Severity::Waste, topic, text, pool.cycles_of(avoidable)).at(Seen::PoolMisses));
    }
    let by_fifo = now.lru.saturating_sub(now.fifo);
    if by_fifo * 100 > requests {
        let text = format!(
            "{whose}: of {} slots, recycling the vmcs02 that came first misses {} times, and the least recently used {} \
             times: the first saves {}.",
            pool.slots,
            grouped(now.fifo),
            grouped(now.lru),
            cycles(by_fifo),
        );
        return Some(Advice::new(Severity::Waste, "pool-rule", text, pool.cycles_of(by_fifo)).at(Seen::PoolMisses));
    }
    (requests > 0 && knee.size < pool.slots).then(|| {
        let text = format!(
            "{whose}: {} slots are used where {} would miss hardly more often ({} of {} requests instead of {}).",
            pool.slots,
            knee.size,
            grouped(knee.misses),
            grouped(requests),
            grouped(now.lru),
        );
        Advice::new(Severity::Note, topic, text, 0).at(Seen::PoolMisses)
    })
}

fn vmcs(of: &Findings, advice: &mut Vec<Advice>) {
    let (writes, same) = (of.vmcs.writes(), of.vmcs.same_writes());
    let saves = same * COSTS.vmwrite;
    if same * 10 > writes {
        let top = |rows: &mut dyn Iterator<Item = &FieldRow>| {
            rows.take(3).map(|row| format!("{} by {}", row.field, row.actor)).collect::<Vec<_>>().join(", ")
        };
        let mut rows: Vec<&FieldRow> = of.vmcs.rows.iter().filter(|row| row.same_writes > 0).collect();
        rows.sort_by_key(|row| core::cmp::Reverse(row.same_writes));
        let text = format!(
            "{} of {} ({}) write the value that is there: keep what was written last and skip equal values, which saves {} \
             modelled cycles; most often {}.",
            grouped(same),
            many(writes, "VMWRITE", "VMWRITEs"),
            percent(same, writes),
            grouped(saves),
            top(&mut rows.iter().copied()),
        );
        let seen = rows.first().map(|row| Seen::Accesses(row.actor, row.which, row.field, VmcsOp::Write));
        advice.push(Advice { seen, ..Advice::new(Severity::Waste, "same-value-vmwrite", text, saves) });
    }
    controls(of, advice);
    of.shadowing.iter().for_each(|shadowing| advice.extend(shadow(shadowing, of)));
    let l1: u64 = of.exits.iter().filter(|row| row.level == 1).map(|row| row.count).sum();
    let all: u64 = of.exits.iter().map(|row| row.count).sum();
    if all > 0 && of.multiplication.l2_exits() == 0 {
        let text = format!("L2 never ran: all {} exits are of L1 ({:.0} %).", grouped(l1), ratio(l1, all) * 100.0);
        advice.push(Advice::new(Severity::Note, "no-l2", text, 0));
    }
}

/// Controls of silicon's VMCSs that are rewritten as they were.
fn controls(of: &Findings, advice: &mut Vec<Advice>) {
    let silicon = |row: &FieldRow| matches!(row.which, Which::Vmcs01 | Which::Vmcs02) && row.same_writes > 0;
    let rows: Vec<FieldRow> = of.vmcs.controls().into_iter().filter(silicon).collect();
    let same: u64 = rows.iter().map(|row| row.same_writes).sum();
    // Of the fields that are written before one entry, one has its checks made.
    let checks = rows.iter().map(|row| row.same_writes).max().unwrap_or(0);
    let saves = same * COSTS.vmwrite + checks * COSTS.control_check;
    if saves * WORTH < of.overview.cycles || same == 0 {
        return;
    }
    let names: Vec<String> = rows
        .iter()
        .take(3)
        .map(|row| format!("{} of {} ({})", row.field, row.which, grouped(row.same_writes)))
        .collect();
    let text = format!(
        "{} of controls {} the value that is there, most often {}: keep what the VMCS holds and write a control only when it \
         changes. The next entry checks more after any of them; {} modelled cycles are saved at most.",
        many(same, "VMWRITE", "VMWRITEs"),
        if same == 1 { "writes" } else { "write" },
        names.join(", "),
        grouped(saves),
    );
    let seen = rows.first().map(|row| Seen::Accesses(row.actor, row.which, row.field, VmcsOp::Write));
    advice.push(Advice { seen, ..Advice::new(Severity::Waste, "control-rewrite", text, saves) });
}

/// The fields that a hypervisor would better have shadowed, and those of KVM's list that it copies in vain.
fn shadow(shadowing: &Shadowing, of: &Findings) -> Option<Advice> {
    let best = u64::try_from(shadowing.best.gain()).ok()?;
    let over = u64::try_from(shadowing.best.gain() - shadowing.kvm.gain()).ok()?;
    if best * 100 <= of.overview.cycles || best == 0 {
        return None;
    }
    let names = |pick: &dyn Fn(&&ShadowRow) -> bool| {
        let all: Vec<&ShadowRow> = shadowing.rows.iter().filter(pick).collect();
        let shown: Vec<String> =
            all.iter().take(5).map(|row| format!("{} ({})", row.field, grouped(row.reads + row.writes))).collect();
        let more = all.len() - shown.len();
        (all.len(), shown.join(", ") + &if more > 0 { format!(" and {more} more") } else { String::new() })
    };
    let (adds, added) = names(&|row| row.kvm == Shadowed::No && row.best != Shadowed::No);
    let (drops, dropped) = names(&|row| row.kvm != Shadowed::No && row.best == Shadowed::No);
    let mut text = format!(
        "{} reaches {} fields of its VMCSs, each time by an exit: a shadow VMCS with the {} that pay saves {} exits and {} \
         modelled cycles, copying paid ({} of all). KVM's list of {} would save {} exits and {} cycles",
        shadowing.actor,
        shadowing.rows.len(),
        shadowing.best.fields,
        grouped(shadowing.best.exits),
        grouped(best),
        percent(best, of.overview.cycles),
        shadowing.kvm.fields,
        grouped(shadowing.kvm.exits),
        signed(shadowing.kvm.gain()),
    );
    if adds > 0 {
        text += &format!("; add to it {added}");
    }
    if drops > 0 || shadowing.unused > 0 {
        let never = format!("{} that it never reached", shadowing.unused);
        text += &if drops > 0 { format!("; drop {dropped} and {never}") } else { format!("; drop {never}") };
    }
    text += &format!(": {} cycles more.", grouped(over));
    let gains = shadowing.rows.iter().find(|row| row.best != Shadowed::No);
    let seen = gains.map(|row| {
        let op = if row.reads >= row.writes { VmcsOp::Read } else { VmcsOp::Write };
        Seen::Accesses(shadowing.actor, Which::Vmcs12, row.field, op)
    });
    Some(Advice { seen, ..Advice::new(Severity::Waste, "shadow-field", text, best) })
}

fn signed(cycles: i64) -> String {
    format!("{}{}", if cycles < 0 { "-" } else { "" }, grouped(cycles.unsigned_abs()))
}

/// Storms, pages that fault again, and VPIDs that change hands.
fn memory(of: &Findings, advice: &mut Vec<Advice>) {
    let storms = &of.storms;
    if let Some(largest) = storms.largest.first().filter(|_| storms.storms > 0) {
        let saves = storms.changes * COSTS.ept_entry;
        let (what, remedy) = match largest.exit {
            Some((1, Reason::INVEPT)) => {
                ("L1's INVEPT", "have L1 invalidate once for several changes, and one root at a time")
            }
            Some((1, Reason::VMLAUNCH | Reason::VMRESUME)) => {
                ("L1's entry of L2", "bring in line what L2 touches when it touches it, not all before it runs")
            }
            Some((1, Reason::VMXOFF | Reason::VMCLEAR)) => {
                ("L1's leaving of a guest", "drop a root as a whole, not entry by entry")
            }
            _ => ("other exits", "look at what was handled there"),
        };
        let text = format!(
            "{} of {} or more changes to EPT02s with no nested guest run between, {} changes in all; the largest has {} from \
             event {} on, {} of them of EPTP12 {:#x} and {} while L0 handled {what}: {remedy}. They took {} modelled cycles ({} \
             of all), of which that saves a part.",
            many(storms.storms, "burst", "bursts"),
            super::STORM,
            grouped(storms.changes),
            grouped(largest.changes()),
            grouped(largest.event),
            grouped(largest.of_root),
            largest.root.0,
            grouped(largest.of_exit),
            grouped(saves),
            percent(saves, of.overview.cycles),
        );
        let (severity, topic) = (Severity::Note, "ept-storm");
        advice.push(Advice::new(severity, topic, text, 0).at(Seen::Event(largest.event)));
    }
    let (again, all): (u64, u64) =
        of.ept_levels.iter().fold((0, 0), |(again, all), row| (again + row.again, all + row.count));
    let saves = again * (COSTS.round_trip() + 2 * COSTS.ept_entry);
    let level = of.ept_levels.iter().max_by_key(|row| row.again).map_or(2, |row| row.level);
    if saves * WORTH > of.overview.cycles && again > 0 {
        let text = format!(
            "{} of {} ({}) at pages whose EPT02 entry had been removed: keep what L1 has not taken away, or fill it again when it \
             is synced, which saves {} modelled cycles: the exit, the entry and both changes of each.",
            grouped(again),
            many(all, "EPT violation is", "EPT violations are"),
            percent(again, all),
            grouped(saves),
        );
        advice.push(
            Advice::new(Severity::Waste, "ept-refault", text, saves).at(Seen::Exits(level, Reason::EPT_VIOLATION)),
        );
    }
    let uses = &of.vpid_uses;
    if uses.all.recycled * 20 > uses.all.given + uses.all.hits {
        let saves = uses.all.recycled * COSTS.invvpid;
        let text = format!(
            "Of {} for a nested guest's VPID {} took one of silicon's from another vpid12, which kept it for {} {} at the median: \
             give each vpid12 one of its own. Each taking is a flush, {} modelled cycles in all, besides its refills.",
            many(uses.all.given + uses.all.hits, "request", "requests"),
            grouped(uses.all.recycled),
            grouped(uses.lifetimes.percentile(50)),
            of.overview.clock().name(),
            grouped(saves),
        );
        advice.push(Advice::new(Severity::Waste, "vpid-reuse", text, saves).at(Seen::VpidsRecycled));
    }
    let returns = &of.returns;
    if returns.unflushed > 0 {
        let text = format!(
            "{} back to a CPU with nothing flushed that they had left there, after {} {} at the median: what the guests changed \
             meanwhile L0 must have flushed there, or must flush before they run. {}",
            many(returns.unflushed, "time a VPID or a root came", "times VPIDs and roots came"),
            grouped(returns.away.percentile(50)),
            of.overview.clock().name(),
            match of.flushes.count(Verdict::Missing) {
                0 => "No flush is found missing.",
                _ => "Flushes are missing: see above.",
            },
        );
        advice.push(Advice::new(Severity::Note, "stale-cpu", text, 0));
    }
}
