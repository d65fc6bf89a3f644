//! The README's figures as Markdown, out of the JSON of `nvmx bench` and of hv's example `policies`. No number is in here.

#![allow(unreachable_pub)] // Used by the example and by a test.

use serde_json::Value;

/// The line in front of the figures.
pub const BEGIN: &str =
    "<!-- Made of benches/figures.json by `cargo run --release --example figures`: not by hand. -->";
/// The line behind them.
pub const END: &str = "<!-- End of the figures. -->";

/// All that stands between the two.
pub fn section(figures: &Value) -> String {
    let parts: [fn(&Value) -> String; 8] = [machine, budgets, phases, policies, shadowing, exits, format, others];
    let parts = parts.map(|part| part(figures)).into_iter().filter(|part| !part.is_empty());
    let live = "What recording a live host costs its guests, beside perf and trace-cmd, is measured by `benches/attach.sh`\n\
                ([docs/bench.md](docs/bench.md)).\n";
    parts.chain([live.to_owned()]).collect::<Vec<_>>().join("\n")
}

/// Where, how and when they are worth nothing.
fn machine(figures: &Value) -> String {
    let machine = &figures["machine"];
    let known = [text(&machine["model"]), text(&machine["kernel"])].join(", ");
    let rough = if figures["quick"] == true { " It was a quick run, and is rough." } else { "" };
    let load = match (figures["load_before"].as_f64(), figures["load"].as_f64()) {
        (Some(before), Some(after)) => {
            format!(", whose load was {} before and {} after", figure(before), figure(after))
        }
        _ => String::new(),
    };
    format!(
        "These are of one run of `nvmx bench --guest DIR` on {} CPUs ({known}){load}.{rough}\n\
         Times are on the CPU, the best of a few. A floor is what anyone would have to do on that machine for the same; the ratio to\n\
         it, above 1 where it is better, is what to compare between machines. [docs/bench.md](docs/bench.md) says what each row is, and\n\
         `just figures DIR` measures anew and makes this section.\n",
        figures["cpus"]
    )
}

/// The table of the budgets.
fn budgets(figures: &Value) -> String {
    let head = ["", "figure", "floor", "ratio", "beside", "budget", ""];
    let rows = list(&figures["budgets"]).map(|row| {
        let unit = text(&row["unit"]);
        let on = match text(&row["on"]) {
            "" => String::new(),
            on => format!(" ({on})"),
        };
        let floor = match row["floor"].as_f64() {
            Some(floor) if row["unit"] != "%" => format!("{} {unit}: {}", figure(floor), text(&row["floor_is"])),
            Some(_) => text(&row["floor_is"]).to_owned(),
            None => String::new(),
        };
        let peers = list(&row["peers"]).filter_map(|peer| {
            let (value, times) = (peer["value"].as_f64()?, peer["times"].as_f64()?);
            let ours = peer["beside"].as_f64().map(|ours| format!(" to {}", figure(ours))).unwrap_or_default();
            Some(format!("{}: {}{ours} ({}×)", text(&peer["what"]), figure(value), figure(times)))
        });
        let verdict = match (row["held"].as_bool(), row["value"].as_f64()) {
            (Some(true), _) => "held".to_owned(),
            (Some(false), _) => "**missed**".to_owned(),
            (None, Some(_)) => "open".to_owned(),
            (None, None) => format!("not measured: {}", text(&row["missing"])),
        };
        vec![
            format!("{}{on}", text(&row["what"])),
            row["value"].as_f64().map(|value| format!("{} {unit}", figure(value))).unwrap_or_default(),
            floor,
            number(&row["ratio"]),
            peers.collect::<Vec<_>>().join("; "),
            limit(row, unit),
            verdict,
        ]
    });
    let rows: Vec<_> = rows.collect();
    let open = rows.iter().any(|row| row.last().is_some_and(|verdict| verdict == "open"));
    let open = match open {
        true => {
            "\nOpen is a budget whose measure is a Bochs without its debugger, which was not there: Debian's has it built in, which\n\
                 costs most of its speed, and to be faster than that says little.\n"
        }
        false => "",
    };
    let rows = table(&head, "lrrrllll", rows);
    format!(
        "**The budgets**, each beside its floor and, where they were installed, other programs in the same run, in brackets how many times\n\
         better nvmx is:\n\n{rows}{open}"
    )
}

/// Linux by phases.
fn phases(figures: &Value) -> String {
    let Some(rows) = rows(figures, "cpu").filter(|rows| rows.iter().any(|row| row["name"] == "boot")) else {
        return String::new();
    };
    let peers: Vec<&str> = list(&rows[0]["peers"]).map(|peer| text(&peer["what"])).collect();
    let mut head = vec!["phase", "million instructions", "nvmx"];
    head.extend(&peers);
    head.push("the host's CPU");
    let cells = rows.iter().filter(|row| row["name"] != "plain").map(|row| {
        let mut cells = vec![text(&row["what"]).to_owned(), number(&row["more"]["millions"]), number(&row["value"])];
        cells.extend(list(&row["peers"]).map(|peer| match (peer["value"].as_f64(), peer["times"].as_f64()) {
            (Some(value), Some(times)) => format!("{} ({}×)", figure(value), figure(times)),
            _ => text(&peer["missing"]).to_owned(),
        }));
        cells.push(number(&row["floor"]));
        cells
    });
    let rows = table(&head, "lrrrrr", cells.collect());
    format!(
        "**Linux**: the same kernel and initramfs on each, in millions of instructions for a second on the CPU, by nvmx's count for\n\
         all; in brackets how many times that nvmx is. The CPU models of Bochs and QEMU are of a kind without AVX; the host runs the\n\
         same programs.\n\n{rows}"
    )
}

/// What each policy costs.
fn policies(figures: &Value) -> String {
    let policies = &figures["policies"];
    let presets: Vec<String> = list(&policies["presets"]).map(|name| format!("`{}`", text(name))).collect();
    if presets.is_empty() {
        return String::new();
    }
    let rows = list(&policies["rows"]).filter(|row| list(&row["values"]).any(|value| value != 0)).map(|row| {
        let values = list(&row["values"]).map(|value| value.as_u64().map(grouped).unwrap_or_default());
        [text(&row["name"]).to_owned()].into_iter().chain(values).collect()
    });
    let head: Vec<&str> = [""].into_iter().chain(presets.iter().map(String::as_str)).collect();
    let rows = table(&head, "lrrrrrrrrrrrr", rows.collect());
    let entries = policies["entries"].as_u64().map(grouped).unwrap_or_default();
    format!(
        "**Policies**, on the same work: Debian's kernel with its KVM, on two CPUs, runs two virtual machines at once, each on a CPU\n\
         of its own with two vCPUs in turn, for {entries} entries of L2: CPUIDs, port writes, first touches of pages, MMIO. Flushes by\n\
         cause, what they dropped and what was missed then, and what entering L2 cost; L1's user land counts the same under all\n\
         (`cargo run --release -p hv --example policies -- DIR/vmlinuz DIR/payload.img`).\n\n{rows}"
    )
}

/// What L1 sees of an L2 hypervisor.
fn shadowing(figures: &Value) -> String {
    let of = |name: &str| {
        let rows = rows(figures, "nested")?;
        let row = rows.iter().find(|row| row["name"] == name)?;
        Some((figure(row["value"].as_f64()?), figure(row["more"]["l0"].as_f64()?)))
    };
    let (Some((off, _)), Some((emulated, by_l0)), Some((virtualized, exits))) =
        (of("shadowing-off"), of("shadowing-emulated"), of("shadowing-virtualized"))
    else {
        return String::new();
    };
    format!(
        "**VMCS shadowing**: of the VMREADs and VMWRITEs that the L2 hypervisor of `nvmx run nest --shadowing MODE` makes, L1 sees\n\
         {off} when it is `off`; {emulated} when it is `emulated`, as L0 serves {by_l0}; and {virtualized} when it is `virtualized`, as silicon serves the\n\
         others with {exits} exits to L0.\n"
    )
}

/// Exits from L2 to L1 and back.
fn exits(figures: &Value) -> String {
    let Some(rows) = rows(figures, "nested") else { return String::new() };
    let kinds: Vec<&Value> = rows
        .iter()
        .copied()
        .filter(|row| row["more"]["instructions"].is_number() && row["value"].is_number())
        .collect();
    let Some(first) = kinds.first() else { return String::new() };
    let peers: Vec<&str> = list(&first["peers"]).map(|peer| text(&peer["what"])).collect();
    let mut head = vec!["", "instructions", "nvmx, `--log exits`", "nvmx, `--log vmcs`"];
    head.extend(peers);
    let cells = kinds.iter().map(|row| {
        let with_vmcs = format!("{}-vmcs", text(&row["name"]));
        let vmcs = rows.iter().find(|row| row["name"] == *with_vmcs).map(|row| number(&row["value"]));
        let mut cells = vec![
            text(&row["what"]).to_owned(),
            number(&row["more"]["instructions"]),
            number(&row["value"]),
            vmcs.unwrap_or_default(),
        ];
        cells.extend(list(&row["peers"]).map(|peer| match (peer["value"].as_f64(), peer["times"].as_f64()) {
            (Some(value), Some(times)) => format!("{} ({}×)", figure(value), figure(times)),
            _ => text(&peer["missing"]).to_owned(),
        }));
        cells
    });
    let rows = table(&head, "lrrrrr", cells.collect());
    format!(
        "**Nested exits**: how many L2 exits go to L1 and back in a second on the CPU, and how many instructions L1 and L2 take for\n\
         one. On Bochs, KVM is the hypervisor that the silicon itself runs; here L0 is between, and L1's VMREADs and VMWRITEs are\n\
         exits too.\n\n{rows}"
    )
}

/// The trace format, and the same events in other tools' files.
fn format(figures: &Value) -> String {
    let Some(of) = list(&figures["trace"]).next() else { return String::new() };
    let rows = table(&ROWS, ROWS_ALIGN, list(&of["rows"]).map(|row| row_cells(row, None)).collect());
    let mut text_of = format!(
        "**Traces**: what the format costs, on {}, {} events.\n\n{rows}",
        text(&of["name"]),
        of["events"].as_u64().map(grouped).unwrap_or_default()
    );
    let files: Vec<Vec<String>> = list(&of["peers"]["files"])
        .map(|file| {
            let what = text(&file["what"]).to_owned();
            match file["missing"].as_str() {
                Some(why) => vec![what, why.to_owned(), String::new(), String::new()],
                None => vec![what, number(&file["bytes"]), number(&file["text"]), number(&file["columns"])],
            }
        })
        .collect();
    if !files.is_empty() {
        let events = of["peers"]["events"].as_u64().map(grouped).unwrap_or_default();
        let rows = table(&["", "bytes an event", "to text, M/s", "to columns, M/s"], "lrrr", files);
        text_of += &format!("\nIts {events} exits and entries in the files of other tools:\n\n{rows}");
    }
    text_of
}

/// What has no table of its own.
fn others(figures: &Value) -> String {
    let mut cells = Vec::new();
    for part in ["record", "replay", "seek", "analysis", "inspector"] {
        for row in rows(figures, part).into_iter().flatten() {
            cells.push(row_cells(row, Some(part)));
        }
    }
    if cells.is_empty() {
        return String::new();
    }
    let rows = table(&ROWS, ROWS_ALIGN, cells);
    let mut text_of = format!(
        "**Recording, replay, seeking, analysis, the inspector**, on recordings that the same run made.\n\n{rows}"
    );
    let counters =
        list(&figures["analysis"]).next().map(|of| list(&of["counters"]).collect::<Vec<_>>()).unwrap_or_default();
    let counters: Vec<Vec<String>> = counters
        .into_iter()
        .map(|of| {
            let agrees = match of["agrees"].as_bool() {
                None => "",
                Some(true) => "the same",
                Some(false) => "others",
            };
            let rate = of["missing"].as_str().map_or_else(|| number(&of["rate"]), str::to_owned);
            vec![text(&of["what"]).to_owned(), rate, number(&of["ratio"]), agrees.to_owned()]
        })
        .collect();
    if !counters.is_empty() {
        let rows = table(&["", "events, M/s", "CPU time to ours", "counts"], "lrrl", counters);
        text_of += &format!("\nExits counted by reason, from files of the same exits and entries:\n\n{rows}");
    }
    text_of
}

const ROWS: [&str; 8] = ["", "", "figure", "floor", "ratio", "budget", "", "the floor"];
const ROWS_ALIGN: &str = "llrrrrll";

/// The cells of a row, with the part in front of what it is.
fn row_cells(row: &Value, part: Option<&str>) -> Vec<String> {
    let unit = text(&row["unit"]);
    let verdict = match row["held"].as_bool() {
        Some(true) => "held",
        Some(false) => "**missed**",
        None => "",
    };
    let what = part.map(|part| format!("`{part}`: ")).unwrap_or_default() + text(&row["what"]);
    let value = row["missing"].as_str().map_or_else(|| number(&row["value"]), |why| format!("none: {why}"));
    vec![
        what,
        unit.to_owned(),
        value,
        number(&row["floor"]),
        number(&row["ratio"]),
        limit(row, ""),
        verdict.to_owned(),
        text(&row["floor_is"]).to_owned(),
    ]
}

/// The rows of the first thing that a part was measured on.
fn rows<'a>(figures: &'a Value, part: &str) -> Option<Vec<&'a Value>> {
    Some(list(&list(&figures[part]).next()?["rows"]).collect())
}

/// A budget.
fn limit(row: &Value, unit: &str) -> String {
    let one = |of: &Value| {
        let of_key = |key: &str, sign: &str| of[key].as_f64().map(|limit| format!("{sign} {}", figure(limit)));
        let unit = if unit.is_empty() { String::new() } else { format!(" {unit}") };
        of_key("at_most", "≤")
            .or_else(|| of_key("at_least", "≥"))
            .map(|limit| limit + &unit)
            .or_else(|| of_key("times_bochs", "≥").map(|limit| format!("{limit} × Bochs")))
    };
    match (one(row), one(&row["stretch"])) {
        (Some(budget), Some(stretch)) if !unit.is_empty() => format!("{budget}; stretch {stretch}"),
        (budget, _) => budget.unwrap_or_default(),
    }
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn number(value: &Value) -> String {
    value.as_f64().map(figure).unwrap_or_default()
}

/// A figure with three digits that count.
fn figure(value: f64) -> String {
    match value.abs() {
        of if of >= 10_000.0 => grouped(value.round() as u64),
        of if of >= 100.0 || of.fract() == 0.0 => format!("{value:.0}"),
        of if of >= 10.0 => format!("{value:.1}"),
        of if of < 0.095 => format!("{value:.3}"),
        _ => format!("{value:.2}"),
    }
}

/// A number in groups of three digits.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let groups = digits.as_bytes().rchunks(3).rev().map(String::from_utf8_lossy);
    groups.collect::<Vec<_>>().join(",")
}

/// A table; `align` has `l` or `r` for each column.
fn table(head: &[&str], align: &str, rows: Vec<Vec<String>>) -> String {
    let line = |cells: &mut dyn Iterator<Item = String>| {
        let cells: String = cells.map(|cell| format!(" {} |", cell.replace('|', "\\|"))).collect();
        format!("|{}\n", cells.replace("  |", " |"))
    };
    let mut text = line(&mut head.iter().map(|cell| (*cell).to_owned()));
    let rule = align.chars().chain(std::iter::repeat('r')).take(head.len());
    text += &line(&mut rule.map(|align| if align == 'r' { "---:" } else { "---" }.to_owned()));
    for row in rows {
        text += &line(&mut row.into_iter());
    }
    text
}
