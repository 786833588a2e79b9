//! Names of functions: symbols made readable.

use std::fmt::{self, Write};

/// Longer names are cut: some demangle to megabytes.
const MAX_NAME: usize = 4096;

/// A readable form of a symbol name: Rust (legacy and v0) without its hash, C++ without parameters
/// and return type; anything else as it is, without a symbol version.
#[must_use]
pub fn demangle(symbol: &[u8]) -> String {
    let symbol = String::from_utf8_lossy(&symbol[..symbol.len().min(MAX_NAME)]);
    let symbol = whole(unversioned(&symbol));
    let mut name = Bounded(String::new());
    if let Ok(rust) = rustc_demangle::try_demangle(symbol) {
        // A name that outgrows the bound fails to write and is kept up to there.
        let _ = write!(name, "{rust:#}");
        return name.0;
    }
    if symbol.starts_with("_Z")
        && let Ok(cpp) = cpp_demangle::Symbol::new(symbol)
    {
        let options = cpp_demangle::DemangleOptions::new().no_params().no_return_type();
        let whole = cpp.structured_demangle(&mut name, &options).is_ok();
        if whole || name.0.len() >= MAX_NAME / 2 {
            return name.0;
        }
    }
    symbol.to_owned()
}

/// A name that is not mangled, as it is.
#[must_use]
pub fn made(name: &[u8]) -> String {
    String::from_utf8_lossy(&name[..name.len().min(MAX_NAME)]).into_owned()
}

/// `read@@GLIBC_2.2.5` is `read`.
fn unversioned(symbol: &str) -> &str {
    match symbol.split_once('@') {
        Some((name, _)) if !name.is_empty() => name,
        _ => symbol,
    }
}

/// Compilers move the unlikely part of a function elsewhere, as `function.cold` or
/// `function.cold.1`; it is still that function.
fn whole(symbol: &str) -> &str {
    let numbered = symbol.rsplit_once('.').filter(|(_, number)| {
        !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
    });
    let name = numbered.map_or(symbol, |(name, _)| name);
    match name.strip_suffix(".cold") {
        Some(function) if !function.is_empty() => function,
        _ => symbol,
    }
}

/// Text that refuses to grow without end.
struct Bounded(String);

impl Write for Bounded {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if self.0.len() + text.len() > MAX_NAME {
            return Err(fmt::Error);
        }
        self.0.push_str(text);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_demangled() {
        for (symbol, name) in [
            ("main", "main"),
            ("read@@GLIBC_2.2.5", "read"),
            ("parse.cold", "parse"),
            ("parse.cold.12", "parse"),
            ("parse.part.0", "parse.part.0"),
            (".cold", ".cold"),
            ("_ZN3foo3barEi", "foo::bar"),
            ("_ZN3foo3barEi.cold", "foo::bar"),
            ("_ZN4core3ptr4read17h0123456789abcdefE", "core::ptr::read"),
            ("_RNvCskwGfYPst2Cb_3foo16example_function", "foo::example_function"),
            ("_Z3addIiET_S0_S0_", "add<int>"),
            ("_Znot_mangled", "_Znot_mangled"),
        ] {
            assert_eq!(demangle(symbol.as_bytes()), name);
        }
    }

    #[test]
    fn hostile_names_stay_bounded() {
        assert!(demangle(&[b'a'; 100_000]).len() <= MAX_NAME);
        assert!(demangle(&[0xff; 4096]).len() <= 3 * MAX_NAME);
        // Each S_ doubles what is printed.
        let bomb = format!("_Z1fI{}E", "1AIS_S_E".repeat(200));
        assert!(demangle(bomb.as_bytes()).len() <= MAX_NAME);
        let deep = format!("_Z1f{}", "P".repeat(4000));
        assert!(demangle(deep.as_bytes()).len() <= MAX_NAME);
    }
}
