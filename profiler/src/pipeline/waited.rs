//! The table beside a picture of waits: what each process waited, and where it waited longest.

use std::fmt::Write as _;

use crate::{
    export::text::{shorten, thousands},
    fold::waits,
    model::{
        frame::Frame,
        stacks::{StackId, Stacks},
    },
    source::native::times::Waited,
};

/// Processes beyond these are counted only.
const ROWS: usize = 10;
/// Longer names of processes and functions are shortened to this many characters.
const NAME_LENGTH: usize = 32;

/// The stacks of the longest waits, in the order of the rows.
#[must_use]
pub fn places(waited: &[Waited]) -> Vec<StackId> {
    waited.iter().map(|of| of.place).collect()
}

/// The rows of those that waited most, with a heading; nothing where nobody waited. `places` are
/// those of the rows among the `stacks` that have names.
#[must_use]
pub fn table(waited: &[Waited], places: &[StackId], stacks: &Stacks<Frame>) -> String {
    let rows: Vec<_> = waited.iter().zip(places).filter(|(of, _)| of.longest > 0).collect();
    let mut cells =
        vec![["process", "blocked", "waiting for CPU", "longest", "where"].map(str::to_owned)];
    cells.extend(rows.iter().take(ROWS).map(|(of, place)| {
        let place = waits::leaf(stacks, **place).map_or("", |frame| &frame.name);
        [
            shorten(&of.process, NAME_LENGTH),
            time(of.blocked),
            time(of.runnable),
            time(of.longest),
            shorten(place, NAME_LENGTH),
        ]
    }));
    if rows.is_empty() {
        return String::new();
    }
    let width = |column: usize| {
        cells.iter().map(|row| row[column].chars().count()).max().unwrap_or_default()
    };
    let widths = [width(0), width(1), width(2), width(3)];
    let mut text = String::new();
    for [process, blocked, runnable, longest, place] in &cells {
        let [a, b, c, d] = widths;
        let _ =
            writeln!(text, "  {process:a$}  {blocked:>b$}  {runnable:>c$}  {longest:>d$}  {place}");
    }
    if let Some(more @ 1..) = rows.len().checked_sub(ROWS) {
        let _ = writeln!(text, "  … and {} more", thousands(more as u64));
    }
    text
}

/// A time of some microseconds to three digits: `950 µs`, `12.3 ms`, `1.23 s`, `4,711 s`.
fn time(microseconds: u64) -> String {
    let (number, unit) = match microseconds {
        0..1_000 => return format!("{microseconds} µs"),
        // What would be rounded to 1000 ms is a second.
        1_000..999_500 => (microseconds as f64 / 1e3, "ms"),
        _ => (microseconds as f64 / 1e6, "s"),
    };
    match number {
        ..9.995 => format!("{number:.2} {unit}"),
        ..99.95 => format!("{number:.1} {unit}"),
        _ => format!("{} {unit}", thousands(number.round() as u64)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::frame::FrameKind;

    #[test]
    fn times_have_three_digits() {
        for (microseconds, expected) in [
            (0, "0 µs"),
            (999, "999 µs"),
            (1_000, "1.00 ms"),
            (9_996, "10.0 ms"),
            (99_949, "99.9 ms"),
            (99_950, "100 ms"),
            (999_499, "999 ms"),
            (999_500, "1.00 s"),
            (12_345_678, "12.3 s"),
            (4_711_000_000, "4,711 s"),
        ] {
            assert_eq!(time(microseconds), expected);
        }
    }

    #[test]
    fn rows_name_where_the_longest_wait_was() {
        let mut stacks = Stacks::new(1);
        let place = stacks.intern(&[
            Frame::symbol("app", FrameKind::Process),
            Frame::symbol("main", FrameKind::Native),
            Frame::symbol("pipe_read", FrameKind::Kernel),
            Frame::symbol("schedule", FrameKind::Kernel),
        ]);
        let of = |process: &str, longest: u64| Waited {
            process: process.into(),
            blocked: 2_000_000,
            runnable: 1_500,
            longest,
            place,
        };
        let mut waited = vec![of("app", 30_000), of("never\n", 0)];
        let expected = "  process  blocked  waiting for CPU  longest  where\n  \
                        app       2.00 s          1.50 ms  30.0 ms  pipe_read\n";
        assert_eq!(table(&waited, &places(&waited), &stacks), expected);
        waited.extend((0..ROWS + 4).map(|_| of("more", 1)));
        let text = table(&waited, &places(&waited), &stacks);
        assert!(text.ends_with("  … and 5 more\n"), "{text}");
        assert_eq!(text.lines().count(), ROWS + 2);
        assert_eq!(table(&waited[1..2], &[place], &stacks), "");
    }
}
