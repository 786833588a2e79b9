//! What a value counts. A source declares it; renderers never guess.

use serde::Serialize;

/// The unit of a metric's values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Unit {
    /// Plain counts (samples, objects).
    Count,
    /// Nanoseconds.
    Nanoseconds,
    /// Microseconds.
    Microseconds,
    /// Bytes.
    Bytes,
}

/// One value type of a profile.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Metric {
    /// What is counted, in the plural: `samples`.
    pub name: String,
    /// In which unit.
    pub unit: Unit,
}

impl Metric {
    /// CPU samples.
    #[must_use]
    pub fn samples() -> Self {
        Self { name: "samples".to_owned(), unit: Unit::Count }
    }
}
