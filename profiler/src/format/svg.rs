//! Flame graphs in SVG as inferno and `flamegraph.pl` draw them, read back: each frame is a
//! `<title>` with its name and count, and a `<rect>` that tells where it lies.

use std::borrow::Cow;

use super::{
    decoded::Decoded,
    folded::{MAX_FRAMES, read_frame},
};
use crate::model::{
    frame::{Frame, FrameKind, RawFrame},
    metric::{Metric, Unit},
    stacks::{StackId, Stacks},
};

/// Longer pictures are refused, in bytes.
pub const MAX_INPUT: usize = 128 << 20;
/// Pictures with more frames are refused.
const MAX_DRAWN: usize = 4 << 20;

/// Why a picture cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum SvgError {
    /// More than is read.
    #[error("it is larger than any flame graph")]
    TooLarge,
    /// A picture of something else.
    #[error("it is an SVG picture, but no flame graph: no frame has a name and a count")]
    NoFrames,
    /// Counts that cannot be.
    #[error("its counts add up to more than {max}", max = u64::MAX)]
    HugeTotal,
}

/// Whether text begins as an SVG picture does.
#[must_use]
pub fn is_svg(start: &[u8]) -> bool {
    let start = String::from_utf8_lossy(&start[..start.len().min(1024)]);
    let text = start.trim_start();
    text.starts_with("<svg")
        || (text.starts_with("<?xml") || text.starts_with("<!DOCTYPE svg")) && text.contains("svg")
}

/// A frame as it is drawn.
struct Drawn<'a> {
    name: Cow<'a, str>,
    count: u64,
    /// Left edge and width, in whatever measure the picture has.
    x: f64,
    width: f64,
    /// Distance from the top.
    y: f64,
}

/// Reads a picture. The first frame above its root is taken for the process, as in folded text.
///
/// # Errors
/// What is wrong with it.
pub fn decode(text: &str) -> Result<Decoded, SvgError> {
    if text.len() > MAX_INPUT {
        return Err(SvgError::TooLarge);
    }
    let (mut drawn, unit) = frames(text)?;
    let widest = drawn.iter().map(|frame| frame.width).fold(0.0, f64::max);
    let lowest = drawn.iter().map(|frame| frame.y).fold(f64::MIN, f64::max);
    // The frame that stands for all, at the bottom of a flame graph and on top of an icicle graph.
    let is_all = |frame: &&Drawn<'_>| frame.name == "all" && frame.width >= widest * 0.999_999;
    let upright = drawn.iter().find(is_all).is_none_or(|all| all.y >= lowest);
    if upright {
        drawn.iter_mut().for_each(|frame| frame.y = -frame.y);
    }
    drawn.sort_by(|a, b| a.y.total_cmp(&b.y).then(a.x.total_cmp(&b.x)));
    let stacks = stack_up(&drawn)?;
    let samples = stacks.total(0);
    if samples == 0 {
        return Err(SvgError::NoFrames);
    }
    Ok(Decoded::new(stacks, Metric { name: unit, unit: Unit::Count }, samples))
}

/// Every frame with a count, and what they count.
fn frames(text: &str) -> Result<(Vec<Drawn<'_>>, String), SvgError> {
    let mut drawn = Vec::new();
    let mut unit = None;
    for part in text.split("<title>").skip(1) {
        let Some((title, after)) = part.split_once("</title>") else { continue };
        let Some((name, count, counted)) = read_title(title) else { continue };
        let Some(rectangle) =
            after.split_once("<rect ").and_then(|(_, rest)| Some(rest.split_once('>')?.0))
        else {
            continue;
        };
        let number = |name: &str| attribute(rectangle, name)?.trim_end_matches('%').parse().ok();
        // In samples where the picture has them, else in pixels or percent.
        let place = number("fg:x").zip(number("fg:w")).or(number("x").zip(number("width")));
        let (Some((x, width)), Some(y)) = (place, number("y")) else { continue };
        if drawn.len() == MAX_DRAWN {
            return Err(SvgError::TooLarge);
        }
        unit.get_or_insert_with(|| counted.to_owned());
        drawn.push(Drawn { name: unescape(name), count, x, width, y });
    }
    Ok((drawn, unit.ok_or(SvgError::NoFrames)?))
}

/// `name (1,234 samples, 5.6%)`: the name, the number, and what is counted.
fn read_title(title: &str) -> Option<(&str, u64, &str)> {
    let (name, rest) = title.trim().strip_suffix(')')?.rsplit_once(" (")?;
    let (number, rest) = rest.split_once(' ')?;
    let (counted, _) = rest.rsplit_once(", ")?;
    Some((name, number.replace(',', "").parse().ok()?, counted))
}

fn attribute<'a>(tag: &'a str, name: &str) -> Option<&'a str> {
    let mut rest = tag;
    loop {
        let (before, after) = rest.split_once('=')?;
        let value = after.strip_prefix('"')?;
        let (value, next) = value.split_once('"')?;
        if before.trim() == name {
            return Some(value);
        }
        rest = next;
    }
}

fn unescape(text: &str) -> Cow<'_, str> {
    if !text.contains('&') {
        return Cow::Borrowed(text);
    }
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('&') {
        plain.push_str(before);
        let entity = after.split_once(';').and_then(|(name, next)| Some((entity(name)?, next)));
        let (letter, next) = entity.unwrap_or(('&', after));
        plain.push(letter);
        rest = next;
    }
    plain.push_str(rest);
    Cow::Owned(plain)
}

fn entity(name: &str) -> Option<char> {
    Some(match name {
        "amp" => '&',
        "lt" => '<',
        "gt" => '>',
        "quot" => '"',
        "apos" => '\'',
        number => {
            let number = number.strip_prefix('#')?;
            let code = match number.strip_prefix('x') {
                Some(hex) => u32::from_str_radix(hex, 16).ok()?,
                None => number.parse().ok()?,
            };
            char::from_u32(code)?
        }
    })
}

/// A frame of the level below, on which others stand.
struct Base {
    x: f64,
    end: f64,
    stack: StackId,
    /// Its count that no frame on it has, so far.
    own: u64,
}

/// Stacks from frames that are sorted by level, from the root on, and from left to right.
fn stack_up(drawn: &[Drawn<'_>]) -> Result<Stacks<RawFrame>, SvgError> {
    let mut stacks = Stacks::new(1);
    let mut below: Vec<Base> = Vec::new();
    let mut total: u64 = 0;
    let levels = drawn.chunk_by(|a, b| (a.y - b.y).abs() < 0.5);
    for (depth, level) in levels.take(MAX_FRAMES).enumerate() {
        let mut bases = Vec::with_capacity(level.len());
        let mut at = 0;
        for frame in level {
            // A little less than the smallest frame that is drawn.
            let middle = frame.x + frame.width.max(0.0) / 2.0;
            while below.get(at).is_some_and(|base| base.end <= middle) {
                at += 1;
            }
            let base = below.get_mut(at).filter(|base| base.x <= middle);
            let stack = match base {
                Some(base) => {
                    base.own = base.own.saturating_sub(frame.count);
                    base.stack
                }
                // On the ground; in the air it has lost what it stood on.
                None => StackId::ROOT,
            };
            let root = depth == 0 && level.len() == 1 && frame.name == "all";
            let stack = if root { stack } else { stacks.push(stack, &raw(frame, stack)) };
            let end = frame.x + frame.width;
            bases.push(Base { x: frame.x, end, stack, own: frame.count });
        }
        finish(&mut stacks, &below, &mut total)?;
        below = bases;
    }
    finish(&mut stacks, &below, &mut total)?;
    Ok(stacks)
}

/// Gives each frame of a level the count that is its own.
fn finish(stacks: &mut Stacks<RawFrame>, level: &[Base], total: &mut u64) -> Result<(), SvgError> {
    for base in level.iter().filter(|base| base.own > 0) {
        *total = total.checked_add(base.own).ok_or(SvgError::HugeTotal)?;
        let stack = match base.stack {
            // What is the root's own has no frame.
            StackId::ROOT => stacks.push(StackId::ROOT, &RawFrame::Process("[other]".into())),
            stack => stack,
        };
        stacks.add(stack, 0, base.own);
    }
    Ok(())
}

fn raw(frame: &Drawn<'_>, below: StackId) -> RawFrame {
    let first = below == StackId::ROOT;
    match read_frame(&frame.name, first) {
        Frame { name, kind: FrameKind::Process, .. } => RawFrame::Process(name),
        other => RawFrame::Named(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> Vec<String> {
        let decoded = decode(text).unwrap();
        let name = |frame: &&RawFrame| match frame {
            RawFrame::Process(name) => name.to_string(),
            RawFrame::Named(frame) => frame.name.to_string(),
            other => format!("{other:?}"),
        };
        let mut stacks: Vec<String> = decoded
            .stacks
            .iter()
            .map(|(id, values)| {
                let names: Vec<_> = decoded.stacks.root_first(id).iter().map(name).collect();
                format!("{} {}", names.join(";"), values[0])
            })
            .collect();
        stacks.sort();
        stacks
    }

    /// As inferno draws it: places in percent and in samples.
    const INFERNO: &str = r#"<?xml version="1.0"?><svg><g>
        <g><title>leaf &amp; co (30 samples, 30.00%)</title><rect x="20.0000%" y="37" width="30.0000%" fg:x="20" fg:w="30"/></g>
        <g><title>main (60 samples, 60.00%)</title><rect x="0.0000%" y="53" width="60.0000%" fg:x="0" fg:w="60"/></g>
        <g><title>b::&lt;impl&gt; (1) (40 samples, 40.00%)</title><rect x="60%" y="53" width="40%" fg:x="60" fg:w="40"/></g>
        <g><title>app (100 samples, 100.00%)</title><rect x="0%" y="69" width="100%" fg:x="0" fg:w="100"/></g>
        <g><title>all (100 samples, 100%)</title><rect x="0%" y="85" width="100%" fg:x="0" fg:w="100"/></g>
        </g></svg>"#;

    #[test]
    fn frames_stand_on_those_below() {
        let expected = ["app;b::<impl> (1) 40", "app;main 30", "app;main;leaf & co 30"];
        assert_eq!(shown(INFERNO), expected);
        // Upside down.
        let mut icicle = INFERNO.replace("y=\"85\"", "y=\"5\"").replace("y=\"69\"", "y=\"21\"");
        icicle = icicle.replace("y=\"37\"", "y=\"53.1\"").replace("y=\"53\"", "y=\"37\"");
        assert_eq!(shown(&icicle), expected);
    }

    #[test]
    fn pictures_in_pixels_are_read_too() {
        let perl = r#"<svg width="1200"><g ><title>all (1,000 samples, 100%)</title>
            <rect x="10.0" y="101.0" width="1180.0" height="15.0" fill="rgb(1,2,3)" rx="2" /></g>
            <g ><title>run (1,000 samples, 100.00%)</title><rect x="10.0" y="85.0" width="1180.0" rx="2"/></g>
            <g ><title>fast (250 samples, 25.00%)</title><rect x="10.0" y="69.0" width="295.0" rx="2"/></g>
            </svg>"#;
        assert_eq!(shown(perl), ["run 750", "run;fast 250"]);
    }

    #[test]
    fn other_pictures_are_refused() {
        for text in ["<svg/>", "<svg><title>Logo</title><rect x=\"0\"/></svg>", ""] {
            assert!(matches!(decode(text), Err(SvgError::NoFrames)), "{text}");
        }
        let huge = INFERNO.replace("60 samples", "18446744073709551615 samples");
        assert!(matches!(decode(&huge), Err(SvgError::HugeTotal)), "{:?}", decode(&huge));
        (0..INFERNO.len()).for_each(|length| drop(decode(&INFERNO[..length])));
        assert!(is_svg(INFERNO.as_bytes()) && is_svg(b" <svg ") && !is_svg(b"<html><svg"));
    }
}
