//! A flame graph as an SVG picture that zooms and searches, drawn by the inferno crate.
//!
//! inferno reads folded lines of its own dialect: it splits at every `;`, takes a name that ends in
//! a number for a second count, and leaves out lines that begin with `# `. So names are put into
//! an alphabet that is safe there (private-use characters for the few that are not) and put back
//! into what it draws by [`Restore`].

mod color;

use std::{
    borrow::Cow,
    fmt::Write as _,
    io::{self, Write},
};

use inferno::flamegraph::{
    self, Options, TextTruncateDirection,
    color::{BackgroundColor, PaletteMap},
};

use super::{Export, ExportError, text};
use crate::{
    fold::tree::{Node, Tree},
    format::folded,
    model::{frame::Frame, profile::Profile},
};

/// Frames narrower than this share of the width, in percent, are not drawn: a tenth of a pixel.
const MIN_WIDTH: f64 = 0.01;
/// Width of a character by its height. Common monospace fonts have 0.60; with a little more, text
/// that is cut to fit does fit.
const FONT_WIDTH: f64 = 0.62;
/// Longer titles would run into the picture's own buttons.
const TITLE_LENGTH: usize = 80;
/// Stand for `;` and the space on the way through inferno.
const SEMICOLON: char = '\u{f003b}';
const SPACE: char = '\u{f0020}';

/// Draws SVG.
#[derive(Clone, Copy, Debug)]
pub struct Svg;

impl Export for Svg {
    fn export(&self, profile: &Profile, out: &mut dyn Write) -> Result<(), ExportError> {
        let tree = Tree::new(&profile.stacks, 0, drawn_name);
        if tree.root().total == 0 {
            return Err(ExportError::Empty);
        }
        let (lines, mut palette) = visible(&tree);
        let mut options = options(profile, &mut palette);
        // inferno reverses what it takes for a flame chart, the one mode in which it keeps to the
        // order of the lines, and so to the tree's.
        let lines = lines.iter().rev().map(String::as_str);
        flamegraph::from_lines(&mut options, lines, Restore(&mut *out))?;
        Ok(out.flush()?)
    }
}

fn options<'a>(profile: &Profile, palette: &'a mut PaletteMap) -> Options<'a> {
    let mut options = Options::default();
    options.title = text::shorten(&profile.metadata.title, TITLE_LENGTH);
    options.subtitle = Some(text::caption(profile));
    options.count_name = text::count_name(profile);
    options.min_width = MIN_WIDTH;
    options.font_width = FONT_WIDTH;
    options.bgcolors = Some(BackgroundColor::Grey);
    options.palette_map = Some(palette);
    options.text_truncate_direction = TextTruncateDirection::Right;
    options.flame_chart = true;
    options
}

/// The text of a frame as inferno can take it.
fn drawn_name(frame: &Frame) -> String {
    let mut text = folded::frame_text(frame);
    if text.contains('\\') {
        // These two escapes protect folded text; in a picture the characters are harmless.
        text = text.replace("\\x3b", SEMICOLON.encode_utf8(&mut [0; 4])).replace("\\x5c", "\\");
    }
    match text.rsplit_once(' ') {
        Some((stem, number)) if number.bytes().all(|b| b.is_ascii_digit() || b == b'.') => {
            format!("{stem}{SPACE}{number}")
        }
        _ => text,
    }
}

/// Lines of the frames that are wide enough to be drawn, from left to right, and their colours. The value of those
/// that are not goes to the frame below them, so every width is right and the work is bounded by
/// what can be seen.
fn visible(tree: &Tree) -> (Vec<String>, PaletteMap) {
    let total = tree.root().total as f64;
    let visible = |node: &Node| node.total as f64 * 100.0 / total >= MIN_WIDTH;
    let mut lines = Vec::new();
    let mut palette = PaletteMap::default();
    palette.insert("", color::ALL);
    let mut path = String::new();
    // Nodes to visit, each with the length of its parent's path.
    let mut stack = vec![(tree.root(), 0)];
    while let Some((node, length)) = stack.pop() {
        path.truncate(length);
        if let Some(label) = tree.label(node) {
            let text = if length == 0 {
                folded::root_text(&label.text)
            } else {
                path.push(';');
                Cow::Borrowed(&*label.text)
            };
            path.push_str(&text);
            if palette.get(&text).is_none() {
                palette.insert(text, color::of(label));
            }
        }
        let children = || node.children.iter().map(|child| tree.node(*child));
        let shown: u64 = children().filter(|child| visible(child)).map(|child| child.total).sum();
        let own = node.total.saturating_sub(shown);
        if own > 0 {
            let mut line = String::with_capacity(path.len() + 12);
            let _ = write!(line, "{} {own}", if path.is_empty() { "[other]" } else { &path });
            lines.push(line);
        }
        let length = path.len();
        stack.extend(children().rev().filter(|child| visible(child)).map(|child| (child, length)));
    }
    (lines, palette)
}

/// Puts the characters back that inferno could not take. It writes each text in one call, so none
/// is ever split between two.
struct Restore<W>(W);

impl<W: Write> Write for Restore<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match str::from_utf8(bytes) {
            Ok(text) if text.contains([SEMICOLON, SPACE]) => {
                let text = text.replace(SEMICOLON, ";").replace(SPACE, " ");
                self.0.write_all(text.as_bytes())?;
            }
            _ => self.0.write_all(bytes)?,
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

#[cfg(test)]
mod tests;
