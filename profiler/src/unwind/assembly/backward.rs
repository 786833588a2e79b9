//! The frame of code that was made at run time and never returns, such as a loop that HotSpot's compilers
//! leave by deoptimization only: by how its function begins, which is looked for before a place in it.

use profiler_ebpf::wire::{Rule, cfa, saved};

use super::onward::{MAX_FRAME, PAGE, Page};

/// The most pages to look through: few compiled methods are larger.
const MAX_PAGES: u64 = 8;
/// The longest beginning that is known, in bytes.
const LONGEST: usize = 15;

/// The rule behind the nearest function's beginning before an address that makes a frame and saves rbp
/// in it. `read` gives the page at an address, a multiple of [`PAGE`]; none: it is no such code.
pub fn frame_at(address: u64, read: &mut dyn FnMut(u64) -> Option<Page>) -> Option<Rule> {
    let mut page = address - address % PAGE as u64;
    // What lies behind the page that is looked through, as far as a beginning may reach into it.
    let mut behind = [0; LONGEST];
    for _ in 0..MAX_PAGES {
        let bytes = [&read(page)?[..], &behind].concat();
        let end = bytes.len().min(usize::try_from(address - page).ok()?);
        for at in (0..end.min(PAGE)).rev() {
            let Some((length, rule)) = beginning(&bytes[at..]) else { continue };
            if at + length <= end {
                return Some(rule);
            }
        }
        behind.copy_from_slice(&bytes[..LONGEST]);
        page = page.checked_sub(PAGE as u64)?;
    }
    None
}

/// The size of a function's beginning, and the rule behind it.
fn beginning(code: &[u8]) -> Option<(usize, Rule)> {
    // push %rbp; sub $size, %rsp
    let framed = |length, size: i32| (length, frame(size.checked_add(16)));
    // sub $size, %rsp; mov %rbp, size-8(%rsp)
    let stored = |length, size: i32, at: i32| {
        (length, frame(size.checked_add(8).filter(|_| at == size.wrapping_sub(8))))
    };
    let (length, rule) = match *code {
        [0x55, 0x48, 0x83, 0xec, size, ..] => framed(5, i32::from(size as i8)),
        [0x55, 0x48, 0x81, 0xec, a, b, c, d, ..] => framed(8, i32::from_le_bytes([a, b, c, d])),
        [0x48, 0x83, 0xec, size, 0x48, 0x89, 0x6c, 0x24, at, ..] => {
            stored(9, i32::from(size as i8), i32::from(at as i8))
        }
        [0x48, 0x81, 0xec, a, b, c, d, 0x48, 0x89, 0xac, 0x24, e, f, g, h, ..] => {
            stored(15, i32::from_le_bytes([a, b, c, d]), i32::from_le_bytes([e, f, g, h]))
        }
        _ => return None,
    };
    Some((length, rule?))
}

/// The rule of a frame of this size, the return address and the caller's rbp before it included.
fn frame(size: Option<i32>) -> Option<Rule> {
    let is_likely = |size: &i32| *size >= 16 && size % 8 == 0 && i64::from(*size) <= MAX_FRAME;
    let cfa_offset = size.filter(is_likely)?;
    Some(Rule {
        cfa: cfa::SP,
        cfa_offset,
        fp: saved::AT_CFA,
        fp_offset: -16,
        ra: saved::AT_CFA,
        ra_offset: -8,
        ..Rule::NONE
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_beginning_counts() {
        let large = [0x48, 0x81, 0xec, 0x18, 1, 0, 0, 0x48, 0x89, 0xac, 0x24, 0x10, 1, 0, 0];
        let mut code = vec![0x90; 2 * PAGE];
        code[8..13].copy_from_slice(&[0x55, 0x48, 0x83, 0xec, 0x20]);
        code[100..115].copy_from_slice(&large);
        // Over the border of two pages.
        code[PAGE - 4..PAGE + 5]
            .copy_from_slice(&[0x48, 0x83, 0xec, 0x18, 0x48, 0x89, 0x6c, 0x24, 0x10]);
        let mut read = |at: u64| {
            let from = usize::try_from(at.checked_sub(0x10_0000)?).ok()?;
            let page = code.get(from..from + PAGE)?;
            Some(Box::new(*page.first_chunk()?))
        };
        let mut size = |at: u64| frame_at(0x10_0000 + at, &mut read).map(|rule| rule.cfa_offset);
        assert_eq!(
            [8, 12, 13, 100, 114].map(&mut size),
            [None, None, Some(48), Some(48), Some(48)]
        );
        assert_eq!([115, 4000, 4100].map(&mut size), [Some(0x120); 3]);
        assert_eq!([4101, 8000].map(&mut size), [Some(32); 2]);
    }

    #[test]
    fn what_makes_no_frame_is_no_beginning() {
        for code in [
            &[0x55, 0x48, 0x83, 0xec][..],
            &[0x55, 0x48, 0x83, 0xec, 0xf0],
            &[0x55, 0x48, 0x83, 0xec, 0x21],
            &[0x48, 0x83, 0xec, 0x18, 0x48, 0x89, 0x6c, 0x24, 0x08],
            &[0x55, 0x48, 0x81, 0xec, 0, 0, 0, 0x7f],
            &[0x48, 0x81, 0xec, 0, 0, 0, 0x80, 0x48, 0x89, 0xac, 0x24, 0xf8, 0xff, 0xff, 0x7f],
        ] {
            assert_eq!(beginning(code), None, "{code:x?}");
        }
    }
}
