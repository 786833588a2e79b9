//! Numbers, times and captions for people, the same in the picture and in the summary.

use std::{
    fmt::Write as _,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use crate::{
    format::folded::printable,
    model::{
        metric::{Metric, Unit},
        profile::Profile,
    },
};

/// Longer targets (command lines) are shortened to this many characters.
const TARGET_LENGTH: usize = 60;

/// A number with a comma at every third digit.
#[must_use]
pub fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.char_indices() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A share in percent, rounded down so that only all of it is 100 %.
#[must_use]
pub fn share(part: u64, whole: u64) -> String {
    if whole == 0 || part >= whole {
        return "100 %".to_owned();
    }
    let hundredths = u128::from(part) * 10_000 / u128::from(whole);
    format!("{}.{:02} %", hundredths / 100, hundredths % 100)
}

/// A time span in seconds, with as many of three decimals as it needs.
#[must_use]
pub fn seconds(duration: Duration) -> String {
    let text = format!("{:.3}", duration.as_secs_f64());
    format!("{} s", text.trim_end_matches('0').trim_end_matches('.'))
}

/// A date and time of day in UTC; none before 1970.
#[must_use]
pub fn utc(time: SystemTime) -> Option<String> {
    let seconds = time.duration_since(UNIX_EPOCH).ok()?.as_secs();
    let (year, month, day) = civil(seconds / 86_400)?;
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    Some(format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} UTC"))
}

/// Year, month and day of a day counted from 1970-01-01 in the Gregorian calendar; none after the
/// year 9999.
fn civil(mut days: u64) -> Option<(u64, u64, u64)> {
    let leap = |year: u64| {
        year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
    };
    let year = (1970..10_000).find(|year| {
        let length = 365 + u64::from(leap(*year));
        let inside = days < length;
        days -= if inside { 0 } else { length };
        inside
    })?;
    let february = 28 + u64::from(leap(year));
    let months = [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    for (month, length) in (1..).zip(months) {
        if days < length {
            return Some((year, month, days + 1));
        }
        days -= length;
    }
    None
}

/// A name that fits a caption: printable and short.
#[must_use]
pub fn shorten(text: &str, length: usize) -> String {
    let text = printable(text);
    if text.chars().count() <= length {
        return text;
    }
    text.chars().take(length.saturating_sub(1)).chain(['…']).collect()
}

/// What a profile's values count: `samples`, `nanoseconds blocked`.
#[must_use]
pub fn count_name(profile: &Profile) -> String {
    let Some(metric) = profile.metrics.first() else { return "samples".to_owned() };
    let name = shorten(&metric.name, TARGET_LENGTH);
    match metric.unit {
        Unit::Count => name,
        Unit::Nanoseconds => format!("ns {name}"),
        Unit::Microseconds => format!("µs {name}"),
        Unit::Bytes => format!("bytes {name}"),
    }
}

/// One line about a profile: target, time, rate, samples, completeness and losses.
#[must_use]
pub fn caption(profile: &Profile) -> String {
    let metadata = &profile.metadata;
    let mut text = shorten(&metadata.target, TARGET_LENGTH);
    if !metadata.duration.is_zero() {
        // A profile that was read may not tell when it was taken.
        if let Some(start) = utc(metadata.start).filter(|_| metadata.start != UNIX_EPOCH) {
            let _ = write!(text, ", {start}");
        }
        let _ = write!(text, ", {}", seconds(metadata.duration));
        if let Some(frequency) = metadata.frequency {
            let _ = write!(text, " at {} Hz", thousands(frequency));
        }
    }
    let _ = write!(
        text,
        ", {} {}, {} complete, lost {}",
        thousands(profile.samples),
        profile.metrics.first().map_or("samples", Metric::counted),
        share(profile.complete, profile.samples),
        thousands(profile.losses.lost_samples())
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped() {
        assert_eq!(thousands(0), "0");
        assert_eq!(thousands(999), "999");
        assert_eq!(thousands(1000), "1,000");
        assert_eq!(thousands(1_234_567), "1,234,567");
    }

    #[test]
    fn only_all_is_a_hundred_percent() {
        assert_eq!(share(5612, 5612), "100 %");
        assert_eq!(share(999_999, 1_000_000), "99.99 %");
        assert_eq!(share(1, 3), "33.33 %");
        assert_eq!(share(0, 3), "0.00 %");
        assert_eq!(share(u64::MAX - 1, u64::MAX), "99.99 %");
    }

    #[test]
    fn times_read_well() {
        assert_eq!(seconds(Duration::from_secs(30)), "30 s");
        assert_eq!(seconds(Duration::from_millis(1250)), "1.25 s");
        let at = |seconds| utc(UNIX_EPOCH + Duration::from_secs(seconds)).unwrap();
        assert_eq!(at(0), "1970-01-01 00:00:00 UTC");
        assert_eq!(at(951_827_696), "2000-02-29 12:34:56 UTC");
        assert_eq!(at(1_795_521_603), "2026-11-24 12:00:03 UTC");
        assert_eq!(at(4_107_542_399), "2100-02-28 23:59:59 UTC");
        assert_eq!(at(4_107_542_400), "2100-03-01 00:00:00 UTC");
        assert_eq!(utc(UNIX_EPOCH + Duration::from_secs(u64::MAX >> 1)), None);
    }

    #[test]
    fn captions_are_short_and_printable() {
        assert_eq!(shorten("a\nb", 10), "a\\x0ab");
        assert_eq!(shorten("abcdef", 4), "abc…");
    }
}
