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

    /// Time that threads waited, in microseconds.
    #[must_use]
    pub fn waited() -> Self {
        Self { name: WAITED.to_owned(), unit: Unit::Microseconds }
    }

    /// All the time of threads, in microseconds.
    #[must_use]
    pub fn wall_clock() -> Self {
        Self { name: WALL_CLOCK.to_owned(), unit: Unit::Microseconds }
    }

    /// What a profile of this metric has a number of, in the plural.
    #[must_use]
    pub fn counted(&self) -> &'static str {
        match (self.name.as_str(), self.unit) {
            (WAITED, Unit::Microseconds) => "waits",
            (WALL_CLOCK, Unit::Microseconds) => "waits and samples",
            _ => "samples",
        }
    }
}

const WAITED: &str = "waited";
const WALL_CLOCK: &str = "of wall clock";
