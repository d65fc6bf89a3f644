//! A report over many traces: a line of each is kept, whatever its length, and put together when all are read.

use super::compare::MEASURES;
use super::document::{Cell, Document, Part, Section, Table, Tone};
use super::{html, json, markdown as md, text as terminal};
use crate::Findings;
use crate::findings::advice::{Advice, Severity, many};
use crate::number::grouped;
use hv_defs::config::Source;
use serde_json::{Map, Value, json};
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// Pieces of advice that are kept of each trace.
const KEPT: usize = 5;
/// Rows of a table in text and Markdown; what they do not show is summed.
const ROWS: usize = 20;
/// Rows of the table of all traces on a page, which can be sorted.
const PAGE_ROWS: usize = 1000;
/// Measures that text and Markdown show of each trace; a page has room for all.
const MAIN: &[&str] = &[
    "missing_flushes",
    "mistakes",
    "events",
    "cycles",
    "l2_exits",
    "exits_per_l2_exit",
    "flushes",
    "redundant_flushes",
    "pool_misses",
];

/// What is kept of a trace.
#[derive(Clone, PartialEq, Debug)]
pub struct Line {
    /// What to call it: its path below the folder that was named.
    pub trace: String,
    guest: String,
    policy: String,
    origin: Option<String>,
    truncated: bool,
    /// In the order of [`MEASURES`].
    measures: Vec<Option<f64>>,
    advice: Vec<Hint>,
}

/// A piece of advice, for sums by topic.
#[derive(Clone, PartialEq, Debug)]
struct Hint {
    severity: String,
    topic: String,
    text: String,
    saves: u64,
}

impl Line {
    /// The line of what was found in a trace.
    pub fn of(trace: &str, found: &Findings) -> Self {
        let overview = &found.overview;
        let advice = found.advice.iter().take(KEPT).map(|advice| Hint {
            severity: advice.severity.name().into(),
            topic: advice.topic.into(),
            text: advice.text.clone(),
            saves: advice.saves,
        });
        Self {
            trace: trace.to_owned(),
            guest: overview.guest.clone(),
            policy: overview.policy.clone(),
            origin: overview.origin.as_ref().map(|origin| origin.source.to_string()),
            truncated: overview.truncated,
            measures: MEASURES.iter().map(|measure| (measure.of)(found)).collect(),
            advice: advice.collect(),
        }
    }

    /// It as JSON: what reports list of a trace, and what a batch that goes on later reads back.
    pub fn json(&self) -> Value {
        let mut row = Map::new();
        let text = |text: &str| if text.is_empty() { Value::Null } else { text.into() };
        row.insert("trace".into(), self.trace.as_str().into());
        row.insert("guest".into(), text(&self.guest));
        row.insert("policy".into(), text(&self.policy));
        row.insert("origin".into(), self.origin.as_deref().into());
        row.insert("truncated".into(), self.truncated.into());
        for (measure, value) in MEASURES.iter().zip(&self.measures) {
            row.insert(measure.key.into(), json::number(*value));
        }
        let advice = self.advice.iter().map(|hint| {
            let Hint { severity, topic, text, saves } = hint;
            json!({ "severity": severity, "topic": topic, "text": text, "saves_cycles": saves })
        });
        row.insert("advice".into(), advice.collect());
        row.into()
    }

    /// Reads back what [`Line::json`] gave; `None` if it is not that.
    pub fn read(value: &Value) -> Option<Self> {
        let text = |key: &str| value.get(key).map(|text| text.as_str().unwrap_or_default().to_owned());
        let measures = MEASURES.iter().map(|measure| match value.get(measure.key)? {
            Value::Null => Some(None),
            number => number.as_f64().map(Some),
        });
        let advice = value.get("advice")?.as_array()?.iter().map(|hint| {
            let text = |key: &str| hint.get(key)?.as_str().map(str::to_owned);
            let saves = hint.get("saves_cycles")?.as_u64()?;
            Some(Hint { severity: text("severity")?, topic: text("topic")?, text: text("text")?, saves })
        });
        Some(Self {
            trace: value.get("trace")?.as_str()?.to_owned(),
            guest: text("guest")?,
            policy: text("policy")?,
            origin: value.get("origin")?.as_str().map(str::to_owned),
            truncated: value.get("truncated")?.as_bool()?,
            measures: measures.collect::<Option<_>>()?,
            advice: advice.collect::<Option<_>>()?,
        })
    }

    fn measure(&self, key: &str) -> Option<f64> {
        let at = MEASURES.iter().position(|measure| measure.key == key)?;
        self.measures[at]
    }

    /// Flushes that are missing and mistakes of L0's.
    fn wrong(&self) -> u64 {
        ["missing_flushes", "mistakes"].iter().filter_map(|key| self.measure(key)).sum::<f64>() as u64
    }

    /// What a table calls its machine.
    fn group(&self) -> (&str, &str) {
        match &self.origin {
            Some(origin) if Source::by_name(origin).is_none() => ("recorded", origin),
            Some(origin) => ("imported", origin),
            None => (&self.guest, &self.policy),
        }
    }
}

/// Many traces.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Batch {
    /// Those that were read, in the order of their names.
    pub lines: Vec<Line>,
    /// Those that were not, with why.
    pub broken: Vec<(String, String)>,
    /// For the page: where each trace's own report is, by the trace's name, relative to the page.
    pub pages: BTreeMap<String, String>,
}

/// Where a batch is shown.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Room {
    /// As text.
    Lines,
    /// On a page that scrolls and sorts.
    Page,
}

impl Room {
    fn rows(self) -> usize {
        if self == Self::Page { PAGE_ROWS } else { ROWS }
    }

    /// The measures that have a column, by their places in [`MEASURES`].
    fn columns(self, sums: bool) -> Vec<usize> {
        let shown = |at: &usize| {
            let measure = &MEASURES[*at];
            (self == Self::Page || MAIN.contains(&measure.key)) && (measure.sums || !sums)
        };
        (0..MEASURES.len()).filter(shown).collect()
    }
}

/// Sums of each measure over traces, in their order; of a ratio the sums that it is of. `None` where no trace tells.
fn sums<'a>(lines: impl Iterator<Item = &'a Line> + Clone) -> Vec<Option<f64>> {
    let sum = |at: usize| {
        let told: Vec<f64> = lines.clone().filter_map(|line| line.measures[at]).collect();
        (!told.is_empty()).then(|| told.iter().sum::<f64>())
    };
    MEASURES.iter().enumerate().map(|(at, measure)| if measure.sums { sum(at) } else { None }).collect()
}

/// Advice of one topic in all traces.
struct Topic<'a> {
    traces: u64,
    saves: u64,
    /// Where it saves most.
    line: &'a Line,
    hint: &'a Hint,
}

/// A trace's advice among that of others.
fn advice(severity: Severity, line: &Line, hint: &Hint) -> Advice {
    // The topic of what is made for a list is not read.
    Advice { severity, topic: "", text: format!("{}: {}", line.trace, hint.text), saves: hint.saves, seen: None }
}

impl Batch {
    /// For a terminal; with `color`, in ANSI colours.
    pub fn text(&self, color: bool) -> String {
        terminal::draw(&self.document(Room::Lines), color)
    }

    /// In Markdown.
    pub fn markdown(&self) -> String {
        md::draw(&self.document(Room::Lines))
    }

    /// As one HTML page that needs nothing else.
    pub fn html(&self) -> String {
        html::draw(&[self.document(Room::Page)])
    }

    /// As one JSON object on one line: docs/report-json.md lists its keys.
    pub fn json(&self) -> String {
        let mut all = Map::new();
        for (measure, sum) in MEASURES.iter().zip(sums(self.lines.iter())).filter(|(measure, _)| measure.sums) {
            all.insert(measure.key.into(), json::number(sum));
        }
        let lines: Vec<Value> = self.lines.iter().map(Line::json).collect();
        let broken = self.broken.iter().map(|(trace, why)| json!({ "trace": trace, "why": why }));
        let object = json!({
            "batch": { "traces": self.lines.len(), "broken": self.broken.len(), "sums": all },
            "comparison": lines,
            "broken": broken.collect::<Vec<_>>(),
        });
        object.to_string() + "\n"
    }

    /// As CSV with the columns trace, section, item, measure and value, a measure a line.
    pub fn csv(&self) -> String {
        let mut text = String::from(super::csv::HEAD);
        for line in &self.lines {
            for (measure, value) in MEASURES.iter().zip(&line.measures) {
                if let Some(value) = value {
                    let _ = writeln!(text, "{},overview,,{},{value}", crate::query::quoted(&line.trace), measure.key);
                }
            }
        }
        for (trace, why) in &self.broken {
            let _ = writeln!(text, "{},broken,{},traces,1", crate::query::quoted(trace), crate::query::quoted(why));
        }
        text
    }

    fn document(&self, room: Room) -> Document {
        let sections = [
            self.overview(),
            self.broken(room.rows()),
            self.wrong(),
            self.savings(),
            self.groups(room),
            self.traces(room),
        ];
        let title = many((self.lines.len() + self.broken.len()) as u64, "trace", "traces");
        Document { title, sections: sections.into_iter().flatten().collect() }
    }

    fn overview(&self) -> Option<Section> {
        let mut facts = vec![("traces", Cell::count(self.lines.len() as u64))];
        if !self.broken.is_empty() {
            facts.push(("broken", Cell::count(self.broken.len() as u64).toned(Tone::Bad)));
        }
        let truncated = self.lines.iter().filter(|line| line.truncated).count() as u64;
        if truncated > 0 {
            facts.push(("cut short", Cell::count(truncated).toned(Tone::Warn)));
        }
        for (measure, sum) in MEASURES.iter().zip(sums(self.lines.iter())) {
            if let Some(sum) = sum {
                let wrong = matches!(measure.key, "missing_flushes" | "mistakes");
                let tone = if wrong && sum > 0.0 { Tone::Bad } else { Tone::Plain };
                facts.push((measure.name, Cell::count(sum as u64).toned(tone)));
            }
        }
        Some(Section { id: "overview", title: "Together".into(), tone: Tone::Plain, parts: vec![Part::Facts(facts)] })
    }

    fn broken(&self, rows: usize) -> Option<Section> {
        if self.broken.is_empty() {
            return None;
        }
        let shown = self.broken.iter().take(rows).map(|(trace, why)| vec![Cell::text(trace), Cell::text(why)]);
        let left = self.broken.len().saturating_sub(rows) as u64;
        let note = if left > 0 { format!("{} more are not shown.", grouped(left)) } else { String::new() };
        let table =
            Part::Table(Table { columns: vec!["trace", "why it was passed over"], rows: shown.collect(), note });
        let title = format!("Broken traces: {}", grouped(self.broken.len() as u64));
        Some(Section { id: "broken", title, tone: Tone::Bad, parts: vec![table] })
    }

    fn named(&self, line: &Line) -> Cell {
        Cell { link: self.pages.get(&line.trace).cloned(), ..Cell::text(&line.trace) }
    }

    fn wrong(&self) -> Option<Section> {
        let mut wrong: Vec<&Line> = self.lines.iter().filter(|line| line.wrong() > 0).collect();
        if wrong.is_empty() {
            return None;
        }
        wrong.sort_by_key(|line| Reverse(line.wrong()));
        let count = |line: &Line, key| {
            let found = line.measure(key).unwrap_or(0.0) as u64;
            Cell::count(found).toned(if found > 0 { Tone::Bad } else { Tone::Plain })
        };
        let shown = wrong
            .iter()
            .take(ROWS)
            .map(|line| vec![self.named(line), count(line, "missing_flushes"), count(line, "mistakes")]);
        let mut rows: Vec<Vec<Cell>> = shown.collect();
        if let Some(rest) = wrong.get(ROWS..).filter(|rest| !rest.is_empty()) {
            let sum = |key: &str| rest.iter().filter_map(|line| line.measure(key)).sum::<f64>() as u64;
            let name = Cell::text(format!("{} others", grouped(rest.len() as u64)));
            rows.push(vec![name, Cell::count(sum("missing_flushes")), Cell::count(sum("mistakes"))]);
        }
        let columns = vec!["trace", "missing flushes", "mistakes"];
        let table = Part::Table(Table { columns, rows, note: String::new() });
        let first = wrong.iter().take(KEPT).filter_map(|line| {
            let hint = line.advice.iter().find(|hint| hint.severity == Severity::Wrong.name())?;
            Some(advice(Severity::Wrong, line, hint))
        });
        let first = Part::Advice(first.collect());
        let title = format!("Traces with something wrong: {}", grouped(wrong.len() as u64));
        Some(Section { id: "wrong", title, tone: Tone::Bad, parts: vec![table, first] })
    }

    /// Advice that saves something, by topic.
    fn savings(&self) -> Option<Section> {
        let cycles = sums(self.lines.iter())[MEASURES.iter().position(|measure| measure.key == "cycles")?]?;
        let mut topics: BTreeMap<&str, Topic> = BTreeMap::new();
        for line in &self.lines {
            let mut of: BTreeMap<&str, u64> = BTreeMap::new();
            for hint in line.advice.iter().filter(|hint| hint.saves > 0) {
                *of.entry(&hint.topic).or_default() += hint.saves;
                let topic = topics.entry(&hint.topic).or_insert(Topic { traces: 0, saves: 0, line, hint });
                if hint.saves > topic.hint.saves {
                    (topic.line, topic.hint) = (line, hint);
                }
            }
            for (name, saves) in of {
                if let Some(topic) = topics.get_mut(name) {
                    (topic.traces, topic.saves) = (topic.traces + 1, topic.saves + saves);
                }
            }
        }
        let mut topics: Vec<_> = topics.into_iter().collect();
        topics.sort_by_key(|(_, topic)| Reverse(topic.saves));
        let rows = topics.iter().map(|(name, topic)| {
            vec![
                Cell::text(*name),
                Cell::count(topic.traces),
                Cell::count(topic.saves),
                Cell::share(topic.saves, cycles as u64),
                self.named(topic.line),
            ]
        });
        let rows: Vec<_> = rows.collect();
        if rows.is_empty() {
            return None;
        }
        let columns = vec!["topic", "traces", "cycles saved", "of all", "most in"];
        let table = Part::Table(Table { columns, rows, note: "Cycles are modelled.".into() });
        let hints = topics.iter().map(|(_, topic)| advice(Severity::Waste, topic.line, topic.hint));
        let parts = vec![table, Part::Advice(hints.collect())];
        Some(Section { id: "advice", title: "What to change".into(), tone: Tone::Plain, parts })
    }

    /// Sums by guest and policy.
    fn groups(&self, room: Room) -> Option<Section> {
        let mut groups: BTreeMap<(&str, &str), Vec<&Line>> = BTreeMap::new();
        for line in &self.lines {
            groups.entry(line.group()).or_default().push(line);
        }
        if groups.len() < 2 {
            return None;
        }
        let mut groups: Vec<_> = groups.into_iter().collect();
        groups.sort_by_key(|(_, lines)| Reverse(lines.len()));
        let shown = room.columns(true);
        let row = |first: [Cell; 2], lines: &[&Line]| -> Vec<Cell> {
            let sums = sums(lines.iter().copied());
            let cells = shown.iter().map(|&at| sums[at].map_or(Cell::text("-"), |sum| Cell::count(sum as u64)));
            first.into_iter().chain([Cell::count(lines.len() as u64)]).chain(cells).collect()
        };
        let first = groups.iter().take(ROWS);
        let mut rows: Vec<_> =
            first.map(|((guest, policy), lines)| row([Cell::text(*guest), Cell::text(*policy)], lines)).collect();
        if let Some(rest) = groups.get(ROWS..).filter(|rest| !rest.is_empty()) {
            let lines: Vec<&Line> = rest.iter().flat_map(|(_, lines)| lines.iter().copied()).collect();
            let name = format!("{} others", grouped(rest.len() as u64));
            rows.push(row([Cell::text(name), Cell::text("")], &lines));
        }
        let summed = shown.iter().map(|&at| MEASURES[at].name);
        let columns = ["guest", "policy", "traces"].into_iter().chain(summed).collect();
        let table = Part::Table(Table { columns, rows, note: String::new() });
        let title = "By guest and policy".into();
        Some(Section { id: "groups", title, tone: Tone::Plain, parts: vec![table] })
    }

    fn traces(&self, room: Room) -> Option<Section> {
        let (most, columns) = (room.rows(), room.columns(false));
        if self.lines.is_empty() {
            return None;
        }
        // Those that cost most come first where not all are shown.
        let mut lines: Vec<&Line> = self.lines.iter().collect();
        if lines.len() > most {
            lines.sort_by(|a, b| {
                let cost = |line: &Line| (line.wrong(), line.measure("cycles").or(line.measure("events")));
                let ((wrong_a, cost_a), (wrong_b, cost_b)) = (cost(a), cost(b));
                wrong_b.cmp(&wrong_a).then(cost_b.unwrap_or(0.0).total_cmp(&cost_a.unwrap_or(0.0)))
            });
        }
        let cells = |values: &[Option<f64>]| -> Vec<Cell> {
            let shown = columns.iter().map(|&at| match values[at] {
                Some(value) => Cell::number(MEASURES[at].shown(value), value),
                None => Cell::text("-"),
            });
            shown.collect()
        };
        let row = |line: &&Line| [self.named(line)].into_iter().chain(cells(&line.measures)).collect();
        let mut rows: Vec<Vec<Cell>> = lines.iter().take(most).map(row).collect();
        let rest = lines.get(most..).unwrap_or_default();
        if !rest.is_empty() {
            let name = Cell::text(format!("{} others", grouped(rest.len() as u64)));
            rows.push([name].into_iter().chain(cells(&sums(rest.iter().copied()))).collect());
        }
        let columns = ["trace"].into_iter().chain(columns.iter().map(|&at| MEASURES[at].name)).collect();
        let note = match rest.is_empty() {
            true => String::new(),
            false => {
                "Those with something wrong first, then by modelled cycles; `--format csv` and `json` have all.".into()
            }
        };
        let table = Part::Table(Table { columns, rows, note });
        Some(Section { id: "traces", title: "Traces".into(), tone: Tone::Plain, parts: vec![table] })
    }
}
