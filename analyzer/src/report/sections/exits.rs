//! Exits, and what each exit of L2 costs.

use super::super::document::{Cell, Flame, Part, Section, Table};
use super::super::flame::{Stack, Unit, stacks};
use super::{TOP, percentiles, section, time};
use crate::findings::advice::many;
use crate::findings::{CausedExits, ExitRow, Findings, Work};
use crate::number::grouped;
use hv_defs::cost::DEFAULT as COSTS;

pub(super) fn exits(of: &Findings) -> Option<Section> {
    if of.exits.is_empty() {
        return None;
    }
    let ours = of.overview.origin.is_none();
    // Nothing says what a foreign machine's cycles would be, nor, without entries, how long anything took.
    let timed = time::timed(of);
    let handling = |row: &ExitRow| if ours { row.handling.clone() } else { row.elapsed.clone() };
    let all: u64 = of.exits.iter().map(|row| row.count).sum();
    let whole: u64 = of.exits.iter().map(|row| handling(row).sum()).sum();
    let mut columns = vec!["level", "reason", "by", "exits", "share"];
    if timed {
        columns.extend(["run before p50", "p99"]);
        columns.extend([if ours { "cycles p50" } else { "handled p50" }, "p90", "p99", "max"]);
        columns.extend([if ours { "cycles" } else { "handled in" }, "of handling"]);
    }
    let shown = of.exits.iter().take(TOP).map(|row| {
        let handled = handling(row);
        let name = format!("L{}", row.level);
        let mut cells = vec![
            Cell::number(name, row.level.into()),
            Cell::text(row.reason.to_string()),
            Cell::text(row.handled_by.name()),
            Cell::count(row.count),
            Cell::share(row.count, all),
        ];
        if timed {
            let [run50, _, run99, _] = percentiles(&row.guest);
            cells.extend([run50, run99]);
            cells.extend(percentiles(&handled));
            cells.extend([Cell::count(handled.sum()), Cell::share(handled.sum(), whole)]);
        }
        cells
    });
    let rows: Vec<_> = shown.collect();
    let rest: u64 = of.exits.iter().skip(TOP).map(|row| row.count).sum();
    let clock = of.overview.clock();
    let mut note = match (ours, timed) {
        (true, _) => {
            "`run before` is what the guest ran from its entry to the exit, in instructions. Cycles are modelled: \
                      the exit, what L0 did, and the entry that followed."
                .to_owned()
        }
        (false, true) => format!(
            "`run before` is from the guest's entry to the exit, `handled` from the exit to the next entry of that vCPU, in \
             {clock}."
        ),
        (false, false) => String::new(),
    };
    if rest > 0 {
        let kinds = many((of.exits.len() - TOP) as u64, "other kind", "other kinds");
        note += &format!(" Not shown: {} of {kinds}.", many(rest, "exit", "exits"));
    }
    section("exits", "Exits", vec![Part::Table(Table { columns, rows, note })])
}

/// An exit that another caused, and where that one is of an L3, whether it did so by an exit of L2.
fn path(caused: &CausedExits) -> String {
    match (caused.level, caused.under) {
        (1, None) => caused.reason.to_string(),
        (level, None) => format!("L{level} {}", caused.reason),
        (_, Some(under)) => format!("{} for {under}", caused.reason),
    }
}

/// What most of some exits are.
fn mostly(caused: &[CausedExits]) -> Cell {
    let most: Vec<String> =
        caused.iter().take(3).map(|caused| format!("{} {}", path(caused), grouped(caused.count))).collect();
    Cell::text(if most.is_empty() { "-".into() } else { most.join(", ") })
}

pub(super) fn multiplication(of: &Findings) -> Option<Section> {
    let all = &of.multiplication;
    if all.reasons.is_empty() {
        return None;
    }
    let columns = vec![
        "exit",
        "exits",
        "reflected",
        "exits each",
        "caused",
        "L1 instr. p50",
        "cycles p50",
        "p90",
        "p99",
        "max",
        "L0 VMCS accesses",
    ];
    let shown = all.reasons.iter().take(TOP).map(|reason| {
        let [p50, p90, p99, max] = percentiles(&reason.cycles);
        vec![
            Cell::text(format!("L{} {}", reason.level, reason.reason)),
            Cell::count(reason.count),
            Cell::count(reason.reflected),
            Cell::number(format!("{:.2}", reason.factor()), reason.factor()),
            Cell::count(reason.caused_total()),
            percentiles(&reason.l1_instructions)[0].clone(),
            p50,
            p90,
            p99,
            max,
            Cell::count(reason.accesses),
        ]
    });
    let mut table = Table {
        columns,
        rows: shown.collect(),
        note:
            "`exits each` is what silicon takes for one such exit, itself included, where the guest ran again. Cycles \
               are modelled, from the exit to the guest's next entry."
                .into(),
    };
    if of.overview.origin.is_some() {
        // The columns from what L1 ran on count instructions and cycles.
        table.columns.truncate(5);
        table.rows.iter_mut().for_each(|row| row.truncate(5));
        table.note =
            "`exits each` is what silicon takes for one such exit, itself included, where the guest ran again.".into();
        if time::timed(of) {
            table.columns.extend(["took p50", "p90", "p99", "max"]);
            table
                .rows
                .iter_mut()
                .zip(&all.reasons)
                .for_each(|(row, reason)| row.extend(percentiles(&reason.l1_instructions)));
            table.note += &format!(" `took` is from the exit to the guest's next entry, in {}.", of.overview.clock());
        }
    }
    table.columns.push("mostly");
    table.rows.iter_mut().zip(&all.reasons).for_each(|(row, reason)| row.push(mostly(&reason.caused)));
    let mut shown = vec![Part::Table(table)];
    if of.overview.origin.is_none() {
        shown.push(Part::Heading("What they caused"));
        shown.push(Part::Table(tree(of)));
    }
    if time::timed(of) {
        shown.extend(
            dearest(of)
                .into_iter()
                .flat_map(|table| [Part::Heading("The single exits that took most"), Part::Table(table)]),
        );
    }
    let unit = Unit::of(of);
    if unit != Unit::Exits {
        // What guests run on their own would leave no room for what exits cost.
        let idle = if of.overview.origin.is_none() { "idle" } else { "" };
        let alone = |stack: &[String]| match stack {
            [one] => !one.starts_with("L0"),
            [.., last] => last == idle,
            [] => true,
        };
        let (alone, stacks): (Vec<Stack>, Vec<Stack>) =
            stacks(of, unit).into_iter().partition(|(stack, _)| alone(stack));
        let left: u64 = alone.iter().map(|(_, size)| size).sum();
        let title = format!(
            "What exits cost, in {}, without {} that guests ran on their own{}",
            unit.name(),
            grouped(left),
            if of.overview.origin.is_none() { " or that passed idle" } else { "" }
        );
        shown.push(Part::Flame(Flame { title, unit, stacks }));
    }
    let (title, unit) = ("Exits, by the exit that caused them".into(), Unit::Exits);
    shown.push(Part::Flame(Flame { title, unit, stacks: stacks(of, unit) }));
    section("multiplication", "What each L2 exit costs", shown)
}

/// The dearest places of the tree: what L0 did there, and what its guests ran.
fn tree(of: &Findings) -> Table {
    let tree = &of.multiplication.tree;
    let sums = tree.sums(|node| node.cycles(&COSTS));
    let whole = sums.first().copied().unwrap_or(0);
    let mut nodes: Vec<usize> = (1..tree.nodes.len()).collect();
    nodes.sort_by_key(|&at| (core::cmp::Reverse(sums[at]), at));
    let rows = nodes.iter().take(TOP).map(|&at| {
        let node = &tree.nodes[at];
        let path: Vec<String> = tree.path(at).iter().map(|(level, reason)| format!("L{level} {reason}")).collect();
        let of = |work: Work| node.work.of(work);
        let flushes = of(Work::Invvpid) + of(Work::Invept) + of(Work::TransitionFlush);
        let row = [
            Cell::text(path.join(" ▸ ")),
            Cell::count(node.exits),
            Cell::count(sums[at]),
            Cell::share(sums[at], whole),
            Cell::count(node.cycles(&COSTS)),
        ];
        let made = [
            of(Work::Vmread),
            of(Work::Vmwrite),
            of(Work::Vmptrld),
            flushes,
            of(Work::Ept02),
            of(Work::PoolMiss),
            node.ran(),
        ];
        row.into_iter().chain(made.map(Cell::count)).collect()
    });
    let columns = vec![
        "exit, by what caused it",
        "exits",
        "cycles",
        "of all",
        "own",
        "VMREADs",
        "VMWRITEs",
        "VMPTRLDs",
        "flushes",
        "EPT02 changes",
        "pool misses",
        "instructions",
    ];
    let mut note =
        "Below an exit stands what it caused. Its cycles are with all that; its own are L0's work for it, and the instructions of its \
                    hypervisors until it was served; the columns behind them say what of."
            .to_owned();
    if nodes.len() > TOP {
        note += &format!(" {} other places are not shown; `--format folded` has all.", nodes.len() - TOP);
    }
    Table { columns, rows: rows.collect(), note }
}

/// The single exits that cost most.
fn dearest(of: &Findings) -> Option<Table> {
    if of.multiplication.dearest.is_empty() {
        return None;
    }
    let ours = of.overview.origin.is_none();
    let rows = of.multiplication.dearest.iter().map(|one| {
        let mut cells = vec![
            Cell::count(one.event),
            Cell::count(one.vcpu.into()),
            Cell::text(format!("L{} {}", one.level, one.reason)),
            Cell::count(one.exits),
        ];
        if ours {
            cells.push(Cell::count(one.cycles));
        }
        cells.push(Cell::count(one.ran));
        if ours {
            cells.extend([Work::Vmread, Work::Vmwrite].map(|work| Cell::count(one.work.of(work))));
        }
        cells.push(mostly(&one.caused));
        cells
    });
    let columns = if ours {
        vec!["event", "vCPU", "exit", "exits in all", "cycles", "instructions", "VMREADs", "VMWRITEs", "mostly"]
    } else {
        vec!["event", "vCPU", "exit", "exits in all", of.overview.clock().name(), "mostly"]
    };
    let note =
        "The single exits that took most until their guest was entered again: `nvmx dump FILE --from EVENT`, or the \
                inspector, shows each."
            .into();
    Some(Table { columns, rows: rows.collect(), note })
}
