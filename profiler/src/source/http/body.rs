//! What answers say, apart from profiles: pure functions of their bytes.

use serde::Deserialize;
use serde_json::Value;

/// Longer explanations are cut, in characters.
const MAX_SAID: usize = 300;

/// The body of a refusal, as ResQ's services write it. Others differ, so each part may be anything.
#[derive(Deserialize)]
struct Refusal {
    #[serde(default)]
    error: Value,
    #[serde(default)]
    message: Value,
    #[serde(default)]
    details: Value,
}

/// What the body of a refusal says, in one line; empty when it says nothing to people.
#[must_use]
pub fn reason(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(&body[..body.len().min(1 << 20)]);
    let text = text.trim();
    if let Ok(refusal) = serde_json::from_str::<Refusal>(text) {
        return one_line(&refusal.said());
    }
    if is_html(text.as_bytes()) {
        return title(text).map_or_else(|| "an HTML page".to_owned(), |title| one_line(&title));
    }
    one_line(text.lines().next().unwrap_or_default())
}

impl Refusal {
    fn said(&self) -> String {
        let mut parts = Vec::new();
        let nested = self.error.get("message");
        for part in [nested.unwrap_or(&self.error), &self.message] {
            match part {
                Value::String(text) if !parts.contains(text) => parts.push(text.clone()),
                _ => {}
            }
        }
        let details = self.details.as_array().map_or(&[][..], Vec::as_slice);
        let details: Vec<String> = details.iter().filter_map(detail).collect();
        let said = parts.join(": ");
        if details.is_empty() { said } else { format!("{said} ({})", details.join(", ")) }
    }
}

/// `{"path": …, "rule": …}`; a path may be a list of names and indexes.
fn detail(detail: &Value) -> Option<String> {
    let text = |value: &Value| match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    };
    let path = match &detail["path"] {
        Value::Array(parts) => parts.iter().filter_map(text).collect::<Vec<_>>().join("."),
        other => text(other).unwrap_or_default(),
    };
    let rule = text(&detail["rule"]).or_else(|| text(&detail["message"])).unwrap_or_default();
    match (path.is_empty(), rule.is_empty()) {
        (true, true) => text(detail),
        (false, true) => Some(path),
        (true, false) => Some(rule),
        (false, false) => Some(format!("{path}: {rule}")),
    }
}

/// What kind of text or data a body is, for messages.
#[must_use]
pub fn kind(body: &[u8]) -> &'static str {
    let start = body.trim_ascii_start();
    match start {
        [] => "an empty body",
        [b'{' | b'[', ..] => "JSON",
        _ if is_html(start) => "an HTML page",
        _ if start[..start.len().min(512)].iter().any(|byte| *byte < 9) => "data",
        _ => "text",
    }
}

fn is_html(body: &[u8]) -> bool {
    let start = &body.trim_ascii_start()[..body.trim_ascii_start().len().min(256)];
    let start = String::from_utf8_lossy(start).to_ascii_lowercase();
    start.starts_with("<!doctype html") || start.contains("<html") || start.starts_with("<head")
}

fn title(page: &str) -> Option<String> {
    let lower = page.to_ascii_lowercase();
    let start = lower.find("<title>")? + "<title>".len();
    let end = start + lower[start..].find("</title>")?;
    Some(format!("an HTML page, {:?}", page.get(start..end)?.trim()))
}

/// Text of others as a part of our own line: printable, and not long.
fn one_line(text: &str) -> String {
    let text: String = text
        .chars()
        .map(|letter| if letter.is_whitespace() { ' ' } else { letter })
        .filter(|letter| !letter.is_control())
        .collect();
    let text = text.trim().trim_end_matches('.');
    if text.chars().count() <= MAX_SAID {
        return text.to_owned();
    }
    text.chars().take(MAX_SAID - 1).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_refusal_is_one_line() {
        for (body, expected) in [
            (r#"{"error":"Unauthorized"}"#, "Unauthorized"),
            (
                r#"{"error":"Validation","message":"bad body","details":[{"path":"durationMs","rule":"max"},{"path":["a",0],"rule":"int"}]}"#,
                "Validation: bad body (durationMs: max, a.0: int)",
            ),
            (r#"{"error":{"code":4,"message":"deep"}}"#, "deep"),
            (r#"{"error":7,"message":null,"details":{}}"#, ""),
            ("<!DOCTYPE html><html><title>Bad\nGateway</title>", "an HTML page, \"Bad\\nGateway\""),
            ("profile duration exceeds\nsecond line", "profile duration exceeds"),
            ("\u{1b}[31mred", "[31mred"),
            ("", ""),
            ("[1,2]", ""),
        ] {
            assert_eq!(reason(body.as_bytes()), expected, "{body}");
        }
        assert_eq!(reason("x".repeat(5000).as_bytes()).chars().count(), MAX_SAID);
    }

    #[test]
    fn kinds_are_told_apart() {
        assert_eq!(kind(b" <!doctype HTML>"), "an HTML page");
        assert_eq!(kind(b"\n{}"), "JSON");
        assert_eq!(kind(b""), "an empty body");
        assert_eq!(kind(b"\x0a\x04\x08\x01"), "data");
        assert_eq!(kind(b"main;f 3"), "text");
    }
}
