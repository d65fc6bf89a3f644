//! A gate for continuous integration: limits that findings must keep.

use crate::Findings;
use crate::findings::PoolFinding;
use crate::judge::Verdict;
use hv_defs::event::Kind;

/// The limits; `None` for what is not checked.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Limits {
    /// Flushes of any actor that are redundant.
    pub redundant_flushes: Option<u64>,
    /// Flushes that are missing.
    pub missing_flushes: Option<u64>,
    /// Mistakes of L0's that are no matter of one flush.
    pub mistakes: Option<u64>,
    /// Requests of all vCPUs that their vmcs02 pool did not hold.
    pub pool_misses: Option<u64>,
    /// Exits of silicon for one L2 exit, itself included, over those after which L2 ran again.
    pub exits_per_l2_exit: Option<f64>,
}

/// One limit with what was found.
#[derive(Clone, PartialEq, Debug)]
pub struct Checked {
    /// What is limited, as `redundant-flushes`.
    pub name: &'static str,
    /// The most that is allowed.
    pub limit: f64,
    /// What was found; `None` when the trace has nothing that it could be said of, which holds any limit.
    pub found: Option<f64>,
    /// One line.
    pub text: String,
}

impl Checked {
    /// Whether the limit is kept.
    pub fn holds(&self) -> bool {
        self.found.is_none_or(|found| found <= self.limit)
    }
}

/// Holds findings against limits: a line for each limit that is set.
pub fn check(of: &Findings, limits: &Limits) -> Vec<Checked> {
    let told = |kind: Kind, found: f64| of.overview.tells_of(kind).then_some(found);
    let judged = |verdict| verdict != Verdict::Missing || !of.overview.lacks_tags;
    let count = |verdict| told(Kind::Flush, of.flushes.count(verdict) as f64).filter(|_| judged(verdict));
    let misses = told(Kind::Pool, of.pools.iter().map(PoolFinding::missed).sum::<u64>() as f64);
    let mistakes = of.mistakes.iter().map(|mistake| mistake.count).sum::<u64>() as f64;
    let whole = |limit: Option<u64>| limit.map(|limit| limit as f64);
    let rows = [
        ("missing-flushes", whole(limits.missing_flushes), count(Verdict::Missing)),
        ("redundant-flushes", whole(limits.redundant_flushes), count(Verdict::Redundant)),
        ("mistakes", whole(limits.mistakes), of.overview.origin.is_none().then_some(mistakes)),
        ("pool-misses", whole(limits.pool_misses), misses),
        ("exits-per-l2-exit", limits.exits_per_l2_exit, of.multiplication.factor()),
    ];
    let checked = rows.into_iter().filter_map(|(name, limit, found)| {
        let limit = limit?;
        let shown = |value: f64| if value.fract() == 0.0 { format!("{value:.0}") } else { format!("{value:.2}") };
        let text = match found {
            None => {
                let why = match &of.overview.origin {
                    Some(origin) => format!("the trace was {}, which does not tell", origin.whence()),
                    None => "nothing to count".into(),
                };
                format!("{name}: {why}, limit {}", shown(limit))
            }
            Some(found) if found <= limit => format!("{name}: {}, limit {}", shown(found), shown(limit)),
            Some(found) => format!("{name}: {} exceeds the limit of {}", shown(found), shown(limit)),
        };
        Some(Checked { name, limit, found, text })
    });
    checked.collect()
}
