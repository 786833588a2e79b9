//! Colours of frames: the hue says what kind of code it is, the shade tells neighbours apart. Both
//! depend on the frame alone, so a function looks the same in every picture. All are light enough
//! for black text.

use inferno::flamegraph::color::Color;

use crate::{fold::tree::Label, model::frame::FrameKind};

/// The frame that stands for everything.
pub(super) const ALL: Color = Color { r: 225, g: 225, b: 225 };

/// Darkest and lightest shade of a hue.
type Hue = ([u8; 3], [u8; 3]);

const PROCESS: Hue = ([176, 196, 226], [200, 216, 238]);
const THREAD: Hue = ([196, 206, 236], [214, 222, 244]);
const KERNEL: Hue = ([240, 150, 50], [255, 185, 100]);
const INLINED: Hue = ([105, 200, 205], [150, 230, 230]);
const JIT: Hue = ([115, 200, 110], [160, 232, 150]);
const INTERPRETED: Hue = ([165, 215, 100], [200, 238, 145]);
/// C and whatever has no sign of another language.
const PLAIN: Hue = ([236, 120, 105], [255, 165, 145]);
/// C++ and Rust.
const SCOPED: Hue = ([222, 200, 75], [246, 230, 120]);
const GO: Hue = ([205, 160, 225], [228, 192, 242]);
const NAMELESS: Hue = ([214, 186, 172], [234, 210, 198]);
const TRUNCATED: Hue = ([170, 170, 170], [170, 170, 170]);
const LOST: Hue = ([140, 140, 140], [140, 140, 140]);

/// The colour of a frame.
pub(super) fn of(label: &Label) -> Color {
    let (low, high) = hue(label);
    let shade = f64::from(hash(&label.text)) / f64::from(u32::MAX);
    let mix = |at: usize| {
        let (low, high) = (f64::from(low[at]), f64::from(high[at]));
        (low + (high - low) * shade).round() as u8
    };
    Color { r: mix(0), g: mix(1), b: mix(2) }
}

fn hue(label: &Label) -> Hue {
    match label.kind {
        FrameKind::Process => PROCESS,
        FrameKind::Thread => THREAD,
        FrameKind::Kernel => KERNEL,
        FrameKind::Jit => JIT,
        FrameKind::Marker if label.text.starts_with("[lost") => LOST,
        FrameKind::Marker => TRUNCATED,
        FrameKind::Interpreted => INTERPRETED,
        FrameKind::Native if label.inlined => INLINED,
        FrameKind::Native if !label.symbol => NAMELESS,
        FrameKind::Native => native(&label.text),
    }
}

fn native(name: &str) -> Hue {
    if name.contains("::") {
        SCOPED
    } else if is_go(name) {
        GO
    } else {
        PLAIN
    }
}

/// Go's names are `package.Function`; C's have a dot only before what a compiler appended.
fn is_go(name: &str) -> bool {
    const APPENDED: [&str; 9] =
        ["part", "cold", "constprop", "isra", "lto_priv", "llvm", "localalias", "clone", "str"];
    let Some((package, rest)) = name.split_once('.') else { return false };
    let next = rest.split(['.', '_']).next().unwrap_or(rest);
    let number = next.bytes().all(|byte| byte.is_ascii_digit());
    let appended =
        APPENDED.iter().any(|suffix| rest == *suffix || rest.starts_with(&format!("{suffix}.")));
    !package.is_empty() && !number && !appended && !name.contains(['(', ' '])
        || name.contains(".(*")
}

/// FNV-1a, which is the same everywhere, and a last mix so that similar names differ in shade.
fn hash(text: &str) -> u32 {
    let fold = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325, fold);
    let mixed = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    (mixed >> 32) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn languages_are_told_apart_by_their_names() {
        assert_eq!(native("qsort"), PLAIN);
        assert_eq!(native("work.part.0"), PLAIN);
        assert_eq!(native("work.constprop.0.isra.0"), PLAIN);
        assert_eq!(native("work.llvm.1234567"), PLAIN);
        assert_eq!(native("memcpy@plt"), PLAIN);
        assert_eq!(native("core::ptr::drop_in_place"), SCOPED);
        assert_eq!(native("std::vector<int>::push_back(int&&)"), SCOPED);
        assert_eq!(native("runtime.mallocgc"), GO);
        assert_eq!(native("net/http.(*conn).serve"), GO);
    }
}
