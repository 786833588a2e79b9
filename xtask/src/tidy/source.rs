//! Rust source as the rules see it: code with comments and literals blanked out, comments by line,
//! and which lines are tests.
//!
//! A scanner of a page, not a parser: the rules ask about words, braces and paths, and rustc and
//! clippy check the rest.

/// A Rust file, split.
pub struct Source {
    /// Lines with comments and the inside of literals replaced by blanks.
    pub code: Vec<String>,
    /// The comments of each line.
    pub comments: Vec<String>,
    /// Whether each line belongs to a `#[cfg(test)]` item.
    pub tests: Vec<bool>,
}

/// A function with a body.
#[derive(Debug, PartialEq, Eq)]
pub struct Function {
    /// Its name.
    pub name: String,
    /// Index of its first line.
    pub line: usize,
    /// Lines from its signature to its closing brace.
    pub len: usize,
}

impl Source {
    /// Splits a file.
    pub fn new(text: &str) -> Self {
        let (code, comments) = Scanner::new(text).split();
        let code: Vec<String> = code.lines().map(str::to_owned).collect();
        let mut comments: Vec<String> =
            comments.lines().map(|line| line.trim().to_owned()).collect();
        comments.resize(code.len(), String::new());
        let tests = test_lines(&code);
        Self { code, comments, tests }
    }

    /// The code as one text.
    pub fn text(&self) -> String {
        self.code.join("\n")
    }

    /// Whether one of these words stands in a comment on this line, or above it within the same
    /// statement.
    pub fn is_explained(&self, line: usize, words: &[&str]) -> bool {
        let says = |at: usize| words.iter().any(|word| self.comments[at].contains(word));
        if says(line) {
            return true;
        }
        for above in (0..line).rev() {
            let code = self.code[above].trim();
            if says(above) && code.is_empty() {
                return true;
            }
            let ends = code.ends_with([';', '{', '}']);
            let is_blank = code.is_empty() && self.comments[above].is_empty();
            if ends || is_blank {
                return false;
            }
        }
        false
    }

    /// Every function that has a body.
    pub fn functions(&self) -> Vec<Function> {
        let text = self.text();
        let bytes = text.as_bytes();
        let mut found = Vec::new();
        for start in words(&text, "fn") {
            let name: String = text[start + 2..]
                .trim_start()
                .chars()
                .take_while(|letter| letter.is_alphanumeric() || *letter == '_')
                .collect();
            let Some(end) = item_end(bytes, start) else { continue };
            // Without a name it is a function pointer's type, without a brace a declaration.
            if name.is_empty() || bytes[end] != b'}' {
                continue;
            }
            let line = lines_before(&text, start);
            let len = lines_before(&text, end) - line + 1;
            found.push(Function { name, line, len });
        }
        found
    }
}

/// Where a word begins that is not part of a longer one.
pub fn words<'a>(text: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    let inside = |letter: Option<char>| letter.is_some_and(|l| l.is_alphanumeric() || l == '_');
    text.match_indices(word).map(|(at, _)| at).filter(move |at| {
        !inside(text[..*at].chars().next_back()) && !inside(text[at + word.len()..].chars().next())
    })
}

/// Number of line ends before a byte.
pub fn lines_before(text: &str, at: usize) -> usize {
    text.as_bytes()[..at].iter().filter(|byte| **byte == b'\n').count()
}

/// Index of the `}` or `;` that ends the item which begins here.
fn item_end(code: &[u8], start: usize) -> Option<usize> {
    let mut braces = 0_i32;
    // Parentheses and brackets: `[u8; 4]` in a signature ends nothing.
    let mut others = 0_i32;
    for (at, byte) in code.iter().enumerate().skip(start) {
        match byte {
            b'(' | b'[' => others += 1,
            b')' | b']' => others -= 1,
            b'{' => braces += 1,
            b'}' => {
                braces -= 1;
                if braces <= 0 && others <= 0 {
                    return Some(at);
                }
            }
            b';' if braces == 0 && others == 0 => return Some(at),
            _ => {}
        }
        if others < 0 {
            // The end of what the item lies in: a function pointer's type.
            return Some(at);
        }
    }
    None
}

/// Marks the lines of items under `#[cfg(test)]`.
fn test_lines(code: &[String]) -> Vec<bool> {
    let text = code.join("\n");
    let mut marks = vec![false; code.len()];
    for (start, _) in text.match_indices("#[cfg(test)]") {
        let end = item_end(text.as_bytes(), start + "#[cfg(test)]".len()).unwrap_or(text.len());
        let lines = lines_before(&text, start)..=lines_before(&text, end);
        for mark in marks.iter_mut().enumerate().filter(|(line, _)| lines.contains(line)) {
            *mark.1 = true;
        }
    }
    marks
}

/// Separates code from comments and literals.
struct Scanner<'a> {
    text: &'a str,
    at: usize,
    code: String,
    comments: String,
}

impl<'a> Scanner<'a> {
    fn new(text: &'a str) -> Self {
        Self { text, at: 0, code: String::new(), comments: String::new() }
    }

    fn split(mut self) -> (String, String) {
        while let Some(letter) = self.rest().chars().next() {
            let rest = self.rest();
            if rest.starts_with("//") {
                let end = rest.find('\n').unwrap_or(rest.len());
                self.comment(end);
            } else if rest.starts_with("/*") {
                self.comment(block_comment_len(rest));
            } else if let Some(len) = literal_len(rest, self.code.chars().next_back()) {
                self.literal(len);
            } else {
                self.code.push(letter);
                self.comments.push(if letter == '\n' { '\n' } else { ' ' });
                self.at += letter.len_utf8();
            }
        }
        (self.code, self.comments)
    }

    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn comment(&mut self, len: usize) {
        for letter in self.text[self.at..self.at + len].chars() {
            self.comments.push(letter);
            self.code.push(if letter == '\n' { '\n' } else { ' ' });
        }
        self.at += len;
    }

    /// Keeps a quotation mark at each end, so that a literal is still seen to be there.
    fn literal(&mut self, len: usize) {
        let last = self.text[self.at..self.at + len].chars().count().saturating_sub(1);
        for (index, letter) in self.text[self.at..self.at + len].chars().enumerate() {
            let blank = if index == 0 || index == last { '"' } else { ' ' };
            self.code.push(if letter == '\n' { '\n' } else { blank });
            self.comments.push(if letter == '\n' { '\n' } else { ' ' });
        }
        self.at += len;
    }
}

/// Block comments nest.
fn block_comment_len(text: &str) -> usize {
    let mut depth = 0_usize;
    let mut at = 0;
    while at < text.len() {
        let rest = &text.as_bytes()[at..];
        if rest.starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if rest.starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    text.len()
}

/// Length of the string or character literal that begins here, if one does.
fn literal_len(text: &str, before: Option<char>) -> Option<usize> {
    let in_word = before.is_some_and(|letter| letter.is_alphanumeric() || letter == '_');
    if !in_word {
        let after_prefix = text.trim_start_matches(['b', 'c']);
        let prefix = text.len() - after_prefix.len();
        if prefix <= 1 && after_prefix.starts_with('r') {
            let hashes = after_prefix[1..].bytes().take_while(|byte| *byte == b'#').count();
            let body = prefix + 1 + hashes;
            if text[body..].starts_with('"') {
                let end = format!("\"{}", "#".repeat(hashes));
                let len = text[body + 1..].find(&end).map(|at| body + 1 + at + end.len());
                return Some(len.unwrap_or(text.len()));
            }
        }
        if prefix == 1 && after_prefix.starts_with(['"', '\'']) {
            return literal_len(after_prefix, None).map(|len| len + 1);
        }
    }
    match text.chars().next()? {
        '"' => Some(quoted_len(text, b'"')),
        // A lifetime or label has no closing quotation mark after one letter.
        '\'' => {
            let mut letters = text.char_indices().skip(1);
            let (_, first) = letters.next()?;
            let (second_at, second) = letters.next()?;
            match (first, second) {
                ('\\', _) => Some(quoted_len(text, b'\'')),
                (_, '\'') => Some(second_at + 1),
                _ => None,
            }
        }
        _ => None,
    }
}

/// Length up to the closing mark, escapes skipped.
fn quoted_len(text: &str, mark: u8) -> usize {
    let bytes = text.as_bytes();
    let mut at = 1;
    while at < bytes.len() {
        match bytes[at] {
            b'\\' => at += 2,
            byte if byte == mark => return at + 1,
            _ => at += 1,
        }
    }
    bytes.len()
}
