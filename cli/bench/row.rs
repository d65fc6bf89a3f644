//! A figure, and all that stands beside it: its floor, its budget, other programs.

use super::clock::Timed;
use serde_json::{Map, Value, json};

/// Millions a second.
pub const MILLIONS: &str = "M/s";

/// A figure with its floor, its budget and its peers.
#[derive(Clone, PartialEq, Debug)]
pub struct Row {
    /// Its key.
    pub name: &'static str,
    /// What it is.
    pub what: String,
    /// Its unit: more is better where it ends in `/s`, else less.
    pub unit: &'static str,
    /// The figure; or why there is none, and what to give for one.
    pub value: Result<f64, String>,
    /// The same of the floor.
    pub floor: Option<f64>,
    /// What the floor is.
    pub floor_is: &'static str,
    /// The budget, if it has one.
    pub budget: Option<Budget>,
    /// What would be better still.
    pub stretch: Option<Budget>,
    /// Other programs that do the same.
    pub peers: Vec<Peer>,
    /// Further numbers, by their keys.
    pub more: Vec<(&'static str, f64)>,
}

/// A limit.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Budget {
    /// Not more.
    AtMost(f64),
    /// Not less.
    AtLeast(f64),
    /// Not less than the floor.
    Floor,
    /// Not less than so many times what Bochs does.
    TimesBochs(f64),
}

/// Another program that does the same.
#[derive(Clone, PartialEq, Debug)]
pub struct Peer {
    /// Its key: `bochs`, `qemu`, `trace-cmd`, `perf`.
    pub name: &'static str,
    /// What it calls itself, and what is worth knowing of it.
    pub what: String,
    /// Its figure, in the row's unit; or why there is none.
    pub value: Result<f64, String>,
    /// Ours beside it, where that is not of the row's figure: of another measure, with both on the same files.
    pub beside: Option<f64>,
    /// Whether it was built in a way that costs most of its speed, so that to be faster says little.
    pub slowed: bool,
}

impl Row {
    /// A row without anything beside it.
    pub fn new(name: &'static str, what: impl Into<String>, unit: &'static str, value: f64) -> Self {
        Self {
            name,
            what: what.into(),
            unit,
            value: Ok(value),
            floor: None,
            floor_is: "",
            budget: None,
            stretch: None,
            peers: Vec::new(),
            more: Vec::new(),
        }
    }

    /// A row that could not be measured.
    pub fn missing(name: &'static str, what: impl Into<String>, unit: &'static str, why: impl Into<String>) -> Self {
        Self { value: Err(why.into()), ..Self::new(name, what, unit, 0.0) }
    }

    /// The same beside a floor.
    #[must_use]
    pub fn floor(self, floor: f64, floor_is: &'static str) -> Self {
        Self { floor: Some(floor), floor_is, ..self }
    }

    /// The same under a budget.
    #[must_use]
    pub fn budget(self, budget: Budget) -> Self {
        Self { budget: Some(budget), ..self }
    }

    /// The same with what would be better still.
    #[must_use]
    pub fn stretch(self, stretch: Budget) -> Self {
        Self { stretch: Some(stretch), ..self }
    }

    /// The same with another number of that key.
    #[must_use]
    pub fn with(mut self, key: &'static str, value: f64) -> Self {
        self.more.push((key, value));
        self
    }

    /// The same with how far the passes that it was measured in are apart, if there were several.
    #[must_use]
    pub fn spread(self, of: Timed) -> Self {
        match of.spread() {
            Some(spread) => self.with("spread", spread),
            None => self,
        }
    }

    /// Another number, if it has one of that key.
    pub fn more(&self, key: &str) -> Option<f64> {
        self.more.iter().find(|(name, _)| *name == key).map(|(_, value)| *value)
    }

    /// Whether the budget held; `None` where there is none, no figure, or nothing to judge it by.
    pub fn held(&self) -> Option<bool> {
        self.holds(self.budget?)
    }

    fn holds(&self, limit: Budget) -> Option<bool> {
        let value = *self.value.as_ref().ok()?;
        match limit {
            Budget::AtMost(limit) => Some(value <= limit),
            Budget::AtLeast(limit) => Some(value >= limit),
            Budget::Floor => Some(value >= self.floor?),
            Budget::TimesBochs(times) => {
                let bochs = |slowed| {
                    let of = self.peers.iter().filter(|peer| peer.name == "bochs" && peer.slowed == slowed);
                    of.filter_map(|peer| peer.value.as_ref().ok().copied()).reduce(f64::max)
                };
                // One that was slowed can only say that it is missed.
                match (bochs(false), bochs(true)) {
                    (Some(bochs), _) => Some(value >= times * bochs),
                    (None, Some(slowed)) => (value < times * slowed).then_some(false),
                    (None, None) => None,
                }
            }
        }
    }

    /// Whether more is better.
    pub fn is_rate(&self) -> bool {
        self.unit.ends_with("/s")
    }

    /// How often the floor would have fitted into it: above 1 where it is slower or larger than the floor.
    pub fn ratio(&self) -> Option<f64> {
        let (value, floor) = (*self.value.as_ref().ok()?, self.floor?);
        Some(match self.unit {
            // What comes on top.
            "%" => (100.0 + value) / (100.0 + floor),
            _ if self.is_rate() => floor / value,
            _ => value / floor,
        })
    }

    /// How many times better it is than a peer.
    pub fn times(&self, peer: &Peer) -> Option<f64> {
        let (theirs, ours) = (*peer.value.as_ref().ok()?, peer.beside.or(self.value.as_ref().ok().copied())?);
        Some(if self.is_rate() { ours / theirs } else { theirs / ours })
    }

    /// As JSON: docs/json.md.
    pub fn object(&self) -> Value {
        let peers = self.peers.iter().map(|peer| {
            json!({
                "name": peer.name,
                "what": peer.what,
                "value": peer.value.as_ref().ok(),
                "missing": peer.value.as_ref().err(),
                "beside": peer.beside,
                "times": self.times(peer),
                "slowed": peer.slowed,
            })
        });
        let (at_most, at_least, times_bochs) = limits(self.budget, self.floor);
        let stretch = self.stretch.map(|stretch| {
            let (at_most, at_least, times_bochs) = limits(Some(stretch), self.floor);
            json!({ "at_most": at_most, "at_least": at_least, "times_bochs": times_bochs, "held": self.holds(stretch) })
        });
        let more: Map<String, Value> = self.more.iter().map(|(key, value)| ((*key).into(), json!(value))).collect();
        json!({
            "name": self.name,
            "what": self.what,
            "unit": self.unit,
            "value": self.value.as_ref().ok(),
            "missing": self.value.as_ref().err(),
            "floor": self.floor,
            "floor_is": self.floor_is,
            "ratio": self.ratio(),
            "at_most": at_most,
            "at_least": at_least,
            "times_bochs": times_bochs,
            "held": self.held(),
            "stretch": stretch,
            "peers": peers.collect::<Vec<_>>(),
            "more": more,
        })
    }
}

/// At most, at least, and at least so many times Bochs.
fn limits(budget: Option<Budget>, floor: Option<f64>) -> (Option<f64>, Option<f64>, Option<f64>) {
    match budget {
        None => (None, None, None),
        Some(Budget::AtMost(limit)) => (Some(limit), None, None),
        Some(Budget::AtLeast(limit)) => (None, Some(limit), None),
        Some(Budget::Floor) => (None, floor, None),
        Some(Budget::TimesBochs(times)) => (None, None, Some(times)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bochs(value: f64, slowed: bool) -> Peer {
        Peer { name: "bochs", what: "Bochs".into(), value: Ok(value), beside: None, slowed }
    }

    #[test]
    fn a_budget_is_judged_by_what_there_is() {
        let row = |unit, value, budget| Row::new("row", "", unit, value).floor(10.0, "a floor").budget(budget);
        let check = |row: Row, held: Option<bool>| assert_eq!(row.held(), held, "{row:?}");
        check(row("ns", 5.0, Budget::AtMost(5.0)), Some(true));
        check(row("ns", 5.1, Budget::AtMost(5.0)), Some(false));
        check(row("M/s", 5.0, Budget::AtLeast(5.1)), Some(false));
        check(row("M/s", 10.0, Budget::Floor), Some(true));
        check(row("M/s", 9.9, Budget::Floor), Some(false));
        let beside = |value, peers: &[Peer]| Row { peers: peers.to_vec(), ..row("/s", value, Budget::TimesBochs(3.0)) };
        check(beside(9.0, &[]), None);
        check(beside(9.0, &[bochs(3.0, false)]), Some(true));
        check(beside(9.0, &[bochs(3.1, false), bochs(1.0, true)]), Some(false));
        // A Bochs with its debugger is beaten easily: that says nothing of one without.
        check(beside(9.0, &[bochs(1.0, true)]), None);
        check(beside(9.0, &[bochs(4.0, true)]), Some(false));
        check(Row::missing("row", "", "s", "why").budget(Budget::AtMost(1.0)), None);
    }

    #[test]
    fn ratios_are_above_one_where_the_floor_is_better() {
        let row = |unit, value: f64, floor| Row::new("row", "", unit, value).floor(floor, "a floor");
        let check = |row: Row, ratio: f64| assert_eq!(row.ratio(), Some(ratio), "{row:?}");
        check(row("ns", 20.0, 10.0), 2.0);
        check(row("M/s", 5.0, 10.0), 2.0);
        check(row("%", 50.0, 0.0), 1.5);
        assert_eq!(row("/s", 20.0, 1.0).times(&bochs(5.0, false)), Some(4.0));
        assert_eq!(row("bytes", 20.0, 1.0).times(&bochs(60.0, false)), Some(3.0));
    }
}
