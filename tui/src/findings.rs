//! Findings as the inspector shows them.

/// A finding, with the event at which it can be seen.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Finding {
    /// What it is, in a line.
    pub(crate) title: String,
    /// What it costs or why it matters, in a few words.
    pub(crate) weight: String,
    /// Why it is so and what to do.
    pub(crate) text: String,
    /// The first instance.
    pub(crate) event: Option<u64>,
}

/// The findings of a trace, ranked.
pub(crate) fn find(_reader: &traces::Reader) -> Result<Vec<Finding>, String> {
    Ok(Vec::new())
}
