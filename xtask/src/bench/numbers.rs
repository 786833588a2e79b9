//! Medians, spreads and the aligned table. Pure.

/// What a measured number is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Per cent.
    Percent,
    /// Percentage points.
    Points,
    /// Milliseconds.
    Milliseconds,
    /// Nanoseconds.
    Nanoseconds,
    /// Megabytes of 10^6 bytes.
    Megabytes,
    /// A plain number.
    Count,
}

impl Unit {
    /// As it is written after a number.
    pub fn name(self) -> &'static str {
        match self {
            Self::Percent => "%",
            Self::Points => "points",
            Self::Milliseconds => "ms",
            Self::Nanoseconds => "ns",
            Self::Megabytes => "MB",
            Self::Count => "",
        }
    }
}

/// Least, middle and greatest of some measurements.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    pub min: f64,
    pub median: f64,
    pub max: f64,
}

impl Spread {
    /// None of no numbers.
    pub fn of(values: &[f64]) -> Option<Self> {
        let mut sorted: Vec<f64> = values.iter().copied().filter(|v| v.is_finite()).collect();
        sorted.sort_by(f64::total_cmp);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        let half = sorted.len() / 2;
        let median = match sorted.len() % 2 {
            0 => f64::midpoint(sorted[half - 1], sorted[half]),
            _ => sorted[half],
        };
        Some(Self { min, median, max })
    }

    /// `median [min–max]`; one number when there was one measurement.
    fn show(self, unit: Unit) -> String {
        let Self { min, median, max } = self;
        let digits = match unit {
            // 99.96 is not 100.
            Unit::Percent => 2,
            _ => digits(max.abs().max(min.abs())),
        };
        if min == max {
            return format!("{median:.digits$}");
        }
        format!("{median:.digits$} [{min:.digits$}–{max:.digits$}]")
    }
}

/// Digits after the point that a number of this size is worth.
fn digits(size: f64) -> usize {
    match size {
        100.0.. => 0,
        10.0.. => 1,
        _ => 2,
    }
}

/// The line y = intercept + slope × x that is nearest to the points; None when they have one x.
pub fn line(points: &[(f64, f64)]) -> Option<(f64, f64)> {
    let n = points.len() as f64;
    let mean = |f: fn(&(f64, f64)) -> f64| points.iter().map(f).sum::<f64>() / n;
    let (x, y) = (mean(|p| p.0), mean(|p| p.1));
    let spread: f64 = points.iter().map(|p| (p.0 - x).powi(2)).sum();
    if spread <= 0.0 || !spread.is_finite() {
        return None;
    }
    let slope = points.iter().map(|p| (p.0 - x) * (p.1 - y)).sum::<f64>() / spread;
    Some((y - slope * x, slope))
}

/// Names of the tools, in the order of the columns.
pub const TOOLS: [&str; 4] = ["flame-graph", "perf dwarf", "perf -g", "samply"];

/// Measurements with each of [`TOOLS`].
pub type Values = [Vec<f64>; TOOLS.len()];

/// Measurements with ours only.
pub fn ours(values: Vec<f64>) -> Values {
    let mut all = Values::default();
    all[0] = values;
    all
}

/// What the others' medians over ours are called: of the tools behind ours, in that order.
const RATIOS: [&str; 2] = ["dwarf/ours", "-g/ours"];

/// One figure, as measured with each tool.
#[derive(Clone, Debug)]
pub struct Row {
    /// The part of the benchmark.
    pub part: &'static str,
    /// The program, and how it was recorded.
    pub subject: String,
    /// What was measured.
    pub figure: &'static str,
    pub unit: Unit,
    pub values: Values,
}

impl Row {
    /// A tool's median over ours; None where that says nothing.
    pub fn ratio(&self, tool: usize) -> Option<f64> {
        let ours = Spread::of(&self.values[0])?.median;
        let its = Spread::of(&self.values[tool])?.median;
        let ratio = its / ours;
        (ours > 0.0 && its > 0.0 && ratio.is_finite()).then_some(ratio)
    }

    fn has(&self, tool: usize) -> bool {
        !self.values[tool].is_empty()
    }

    fn cells(&self) -> Vec<String> {
        let mut cells = vec![
            self.part.to_owned(),
            self.subject.clone(),
            match self.unit.name() {
                "" => self.figure.to_owned(),
                unit => format!("{}, {unit}", self.figure),
            },
        ];
        let show = |spread: Spread| spread.show(self.unit);
        let values = self.values.iter().map(|values| Spread::of(values));
        cells.extend(values.map(|spread| spread.map_or_else(|| "–".to_owned(), show)));
        // Slowdowns and errors lie around nothing: a ratio of two of them is noise.
        let has_ratio = !matches!(self.unit, Unit::Percent | Unit::Points);
        for tool in 1..=RATIOS.len() {
            let ratio = self.ratio(tool).filter(|_| has_ratio);
            cells.push(ratio.map_or_else(|| "–".to_owned(), |ratio| format!("{ratio:.2}×")));
        }
        cells
    }

    /// As a JSON value.
    pub fn to_json(&self) -> serde_json::Value {
        let tools = TOOLS.iter().zip(&self.values).filter_map(|(tool, values)| {
            let Spread { min, median, max } = Spread::of(values)?;
            let figures = serde_json::json!({
                "min": min, "median": median, "max": max, "values": values,
            });
            Some(((*tool).to_owned(), figures))
        });
        serde_json::json!({
            "part": self.part,
            "subject": self.subject,
            "figure": self.figure,
            "unit": self.unit.name(),
            "tools": tools.collect::<serde_json::Map<_, _>>(),
        })
    }
}

/// All rows in aligned columns, with a head.
pub fn table(rows: &[Row]) -> String {
    let mut lines = vec![vec!["part".to_owned(), "program".to_owned(), "figure".to_owned()]];
    lines[0].extend(TOOLS.iter().map(|tool| (*tool).to_owned()));
    lines[0].extend(RATIOS.iter().map(|ratio| (*ratio).to_owned()));
    lines.extend(rows.iter().map(Row::cells));
    // Nothing of a tool that is not there.
    for tool in (0..TOOLS.len()).rev().filter(|tool| !rows.iter().any(|row| row.has(*tool))) {
        for line in &mut lines {
            line.remove(3 + tool);
        }
    }
    align(&lines)
}

/// Columns as wide as their widest cell, two spaces apart, nothing behind the last.
fn align(lines: &[Vec<String>]) -> String {
    let columns = lines.iter().map(Vec::len).max().unwrap_or_default();
    let width = |column: usize| {
        let cells = lines.iter().filter_map(|line| line.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or_default()
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for line in lines {
        let padded: Vec<String> =
            line.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        text.push_str(padded.join("  ").trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_or_between_the_two() {
        assert_eq!(Spread::of(&[]), None);
        assert_eq!(Spread::of(&[f64::NAN]), None);
        let odd = Spread::of(&[3.0, 1.0, 2.0]).unwrap();
        assert_eq!(odd, Spread { min: 1.0, median: 2.0, max: 3.0 });
        assert_eq!(Spread::of(&[4.0, 1.0, 2.0, 3.0]).unwrap().median, 2.5);
    }

    #[test]
    fn a_spread_shows_as_many_digits_as_it_is_worth() {
        let show = |values: &[f64], unit| Spread::of(values).unwrap().show(unit);
        assert_eq!(show(&[1.0], Unit::Count), "1.00");
        assert_eq!(show(&[1.0, 12.0], Unit::Count), "6.5 [1.0–12.0]");
        assert_eq!(show(&[-0.5, 0.25, 0.5], Unit::Points), "0.25 [-0.50–0.50]");
        assert_eq!(show(&[123.4], Unit::Milliseconds), "123");
        assert_eq!(show(&[99.961], Unit::Percent), "99.96");
    }

    #[test]
    fn a_line_through_points_has_their_slope() {
        let (intercept, slope) = line(&[(4.0, 1.4), (45.0, 5.5), (120.0, 13.0)]).unwrap();
        assert!((intercept - 1.0).abs() < 1e-9, "{intercept}");
        assert!((slope - 0.1).abs() < 1e-9, "{slope}");
        assert_eq!(line(&[(4.0, 1.0), (4.0, 2.0)]), None);
        assert_eq!(line(&[]), None);
    }

    #[test]
    fn the_table_is_aligned_and_has_ratios_where_they_mean_something() {
        let row =
            |unit, values| Row { part: "cost", subject: "p".to_owned(), figure: "f", unit, values };
        let rows = [
            row(Unit::Milliseconds, [vec![2.0], vec![8.0, 9.0, 10.0], vec![], vec![]]),
            row(Unit::Percent, [vec![0.1], vec![0.2], vec![0.3], vec![]]),
        ];
        let text = table(&rows);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines[0],
            "part  program  figure  flame-graph  perf dwarf      perf -g  dwarf/ours  -g/ours"
        );
        assert_eq!(
            lines[1],
            "cost  p        f, ms   2.00         9.0 [8.0–10.0]  –        4.50×       –"
        );
        assert_eq!(
            lines[2],
            "cost  p        f, %    0.10         0.20            0.30     –           –"
        );
    }

    #[test]
    fn json_has_every_measurement() {
        let row = Row {
            part: "cost",
            subject: "p".to_owned(),
            figure: "f",
            unit: Unit::Megabytes,
            values: [vec![1.0, 3.0], vec![], vec![2.0], vec![]],
        };
        let json = row.to_json();
        assert_eq!(json["tools"]["flame-graph"]["median"], 2.0);
        assert_eq!(json["tools"]["flame-graph"]["values"], serde_json::json!([1.0, 3.0]));
        assert!(json["tools"].get("perf dwarf").is_none());
        assert_eq!(json["unit"], "MB");
    }
}
