//! Shell patterns for the names of threads, matched in one pass over the name.
//!
//! User space compiles patterns into [`Globs`], an automaton whose states are the bits of one word:
//! bit `n` of a pattern is set while its first `n` elements have matched what was read. The kernel
//! side takes one step a byte, whatever the pattern is, so its cost has a bound and no state is
//! kept for names: a thread that renames itself is judged by the name that it has.

/// Bytes of a name as the kernel keeps it (`TASK_COMM_LEN`, linux/sched.h), the final NUL included.
pub const NAME_BYTES: usize = 16;

/// Any number of patterns: a name matches when one of them does.
///
/// `*` stands for any bytes, `?` for one, `[a-z]` for one of these, `[!a-z]` or `[^a-z]` for one
/// other, `\` takes the next byte as it is.
#[repr(C)]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Globs {
    /// By byte: the states that it leads on from.
    next: [u64; 256],
    /// States with a `*` behind them: any byte leaves them as they are.
    stay: u64,
    /// The first state of each pattern.
    start: u64,
    /// The last state of each pattern.
    accept: u64,
}

/// Why a pattern cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GlobError {
    /// It has nothing.
    Empty,
    /// A `[` without its `]`, or with nothing or a wrong range in between.
    Class,
    /// A `\` with nothing behind it.
    Escape,
    /// It asks for more bytes than a name has: no name matches.
    TooLong,
    /// All patterns together have more elements than there are states.
    TooMany,
}

impl Globs {
    /// Its size in words of 8 bytes.
    pub const WORDS: usize = size_of::<Self>() / 8;

    /// No pattern: matches nothing.
    #[must_use]
    pub const fn new() -> Self {
        Self { next: [0; 256], stay: 0, start: 0, accept: 0 }
    }

    /// The words that it is made of, in the order that the kernel side has them.
    #[must_use]
    pub fn words(&self) -> [u64; Self::WORDS] {
        let mut words = [0; Self::WORDS];
        let (next, rest) = words.split_at_mut(self.next.len());
        next.copy_from_slice(&self.next);
        rest.copy_from_slice(&[self.stay, self.start, self.accept]);
        words
    }

    /// Adds a pattern.
    ///
    /// # Errors
    ///
    /// [`GlobError`]; the patterns are of no use then.
    pub fn add(&mut self, pattern: &[u8]) -> Result<(), GlobError> {
        if pattern.is_empty() {
            return Err(GlobError::Empty);
        }
        let first = self.accept.checked_ilog2().map_or(0, |last| last + 1);
        let (mut state, mut rest) = (first, pattern);
        while let Some((byte, tail)) = rest.split_first() {
            let bit = 1u64.checked_shl(state).ok_or(GlobError::TooMany)?;
            let mut lead = |byte: u8| self.next[byte as usize] |= bit;
            rest = match byte {
                b'*' => {
                    self.stay |= bit;
                    rest = tail;
                    continue;
                }
                b'?' => {
                    (1..=u8::MAX).for_each(lead);
                    tail
                }
                b'[' => class(tail, lead)?,
                b'\\' => {
                    let (byte, tail) = tail.split_first().ok_or(GlobError::Escape)?;
                    lead(*byte);
                    tail
                }
                _ => {
                    lead(*byte);
                    tail
                }
            };
            state += 1;
        }
        if (state - first) as usize >= NAME_BYTES {
            return Err(GlobError::TooLong);
        }
        let last = 1u64.checked_shl(state).ok_or(GlobError::TooMany)?;
        self.start |= 1 << first;
        self.accept |= last;
        Ok(())
    }

    /// Whether a pattern matches a name, which ends before its first NUL.
    #[inline(always)]
    #[must_use]
    pub fn matches(&self, name: &[u8; NAME_BYTES]) -> bool {
        let mut states = self.start;
        for byte in name {
            if *byte == 0 {
                break;
            }
            states = (states & self.next[*byte as usize]) << 1 | states & self.stay;
        }
        states & self.accept != 0
    }
}

impl Default for Globs {
    fn default() -> Self {
        Self::new()
    }
}

/// Reads a class behind its `[` and hands its bytes over; gives what follows it. A `]` that comes
/// first is one of its bytes.
fn class(text: &[u8], mut each: impl FnMut(u8)) -> Result<&[u8], GlobError> {
    let negated = matches!(text.first(), Some(b'!' | b'^'));
    let mut rest = if negated { &text[1..] } else { text };
    let mut bytes = [false; 256];
    let mut empty = true;
    loop {
        let (first, tail) = match rest {
            [b']', tail @ ..] if !empty => {
                rest = tail;
                break;
            }
            [b'\\', byte, tail @ ..] | [byte, tail @ ..] => (*byte, tail),
            [] => return Err(GlobError::Class),
        };
        let (last, tail) = match tail {
            [b'-', b'\\', byte, tail @ ..] => (*byte, tail),
            [b'-', byte, tail @ ..] if *byte != b']' => (*byte, tail),
            _ => (first, tail),
        };
        if last < first {
            return Err(GlobError::Class);
        }
        (first..=last).for_each(|byte| bytes[byte as usize] = true);
        (rest, empty) = (tail, false);
    }
    (1..=u8::MAX).filter(|byte| bytes[*byte as usize] != negated).for_each(&mut each);
    Ok(rest)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn name(text: &[u8]) -> [u8; NAME_BYTES] {
        let mut name = [0; NAME_BYTES];
        name[..text.len()].copy_from_slice(text);
        name
    }

    fn matches(pattern: &str, text: &str) -> bool {
        let mut globs = Globs::new();
        globs.add(pattern.as_bytes()).unwrap();
        globs.matches(&name(text.as_bytes()))
    }

    #[test]
    fn patterns_match_whole_names() {
        for (pattern, yes, no) in [
            ("nginx", &["nginx"][..], &["", "nginx2", "xnginx", "NGINX"][..]),
            ("nginx*", &["nginx", "nginx: worker"], &["xnginx"]),
            ("*worker*", &["worker", "a worker/3"], &["work"]),
            ("t?", &["t1", "tt"], &["t", "t12"]),
            ("t[0-9]", &["t0", "t9"], &["ta", "t", "t10"]),
            ("t[!0-9]", &["ta", "t-"], &["t0", "t"]),
            ("t[^0-9]", &["ta"], &["t0"]),
            ("[]x]", &["]", "x"], &["y"]),
            ("[!]]", &["x"], &["]"]),
            ("[a-]", &["a", "-"], &["b"]),
            ("[\\]]", &["]"], &["\\"]),
            ("\\*", &["*"], &["x"]),
            ("*", &["", "x", "fifteen bytes!!"], &[]),
            ("**a**", &["a", "bab"], &["b"]),
            ("a*b*c", &["abc", "aXbYc", "abcabc"], &["acb", "ab"]),
        ] {
            for text in yes {
                assert!(matches(pattern, text), "{pattern:?} {text:?}");
            }
            for text in no {
                assert!(!matches(pattern, text), "{pattern:?} {text:?}");
            }
        }
    }

    #[test]
    fn each_pattern_stands_for_itself() {
        let mut globs = Globs::new();
        for pattern in ["ab", "x*", "*z"] {
            globs.add(pattern.as_bytes()).unwrap();
        }
        for (text, expected) in
            [("ab", true), ("x1", true), ("1z", true), ("abx", false), ("a", false), ("bx", false)]
        {
            assert_eq!(globs.matches(&name(text.as_bytes())), expected, "{text}");
        }
        assert!(!Globs::new().matches(&name(b"")));
    }

    #[test]
    fn what_cannot_be_used_is_said() {
        for (pattern, error) in [
            ("", GlobError::Empty),
            ("[a", GlobError::Class),
            ("[]", GlobError::Class),
            ("[z-a]", GlobError::Class),
            ("a\\", GlobError::Escape),
            ("sixteen bytes!!!", GlobError::TooLong),
        ] {
            assert_eq!(Globs::new().add(pattern.as_bytes()), Err(error), "{pattern:?}");
        }
        let mut globs = Globs::new();
        let added = (0..100).take_while(|_| globs.add(b"0123456789").is_ok()).count();
        assert_eq!(added, 5);
    }

    /// The same by trying every way, for patterns of letters, `?` and `*`.
    fn slow(pattern: &[u8], text: &[u8]) -> bool {
        match (pattern, text) {
            ([], text) => text.is_empty(),
            ([b'*', rest @ ..], _) => (0..=text.len()).any(|skip| slow(rest, &text[skip..])),
            ([byte, rest @ ..], [first, tail @ ..]) => {
                (*byte == b'?' || byte == first) && slow(rest, tail)
            }
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn the_automaton_is_right(
            patterns in proptest::collection::vec("[ab?*]{1,9}", 1..5),
            text in "[abc]{0,15}",
        ) {
            let mut globs = Globs::new();
            for pattern in &patterns {
                prop_assert_eq!(globs.add(pattern.as_bytes()), Ok(()));
            }
            let expected = patterns.iter().any(|p| slow(p.as_bytes(), text.as_bytes()));
            prop_assert_eq!(globs.matches(&name(text.as_bytes())), expected);
        }

        #[test]
        fn no_pattern_does_harm(
            patterns in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 0..9),
            name in any::<[u8; NAME_BYTES]>(),
        ) {
            let mut globs = Globs::new();
            for pattern in &patterns {
                let _ = globs.add(pattern);
            }
            let _ = globs.matches(&name);
        }
    }
}
