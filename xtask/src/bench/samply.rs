//! Reading what `samply record --save-only --unstable-presymbolicate` writes (samply 0.13): a profile
//! of the Firefox profiler's processed format (version 55), and a file of symbols beside it. Pure.

use std::collections::HashMap;

use anyhow::{Context as _, Result};
use serde::Deserialize;

use super::perf_script::{Frame, Sample};

/// The profile. Tables are columns; what refers to a row has its index.
#[derive(Deserialize)]
struct Profile {
    libs: Vec<Library>,
    threads: Vec<Thread>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Library {
    debug_name: String,
    path: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Thread {
    samples: Samples,
    stack_table: StackTable,
    frame_table: FrameTable,
    func_table: FuncTable,
    resource_table: ResourceTable,
    string_array: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Samples {
    stack: Vec<Option<usize>>,
    /// Milliseconds since the sample before; of the first, on `CLOCK_MONOTONIC`.
    time_deltas: Vec<f64>,
}

/// A stack is its leaf, below another stack.
#[derive(Deserialize)]
struct StackTable {
    prefix: Vec<Option<usize>>,
    frame: Vec<usize>,
}

#[derive(Deserialize)]
struct FrameTable {
    /// Where in its library, from where that begins in memory; -1: nowhere.
    address: Vec<i64>,
    func: Vec<usize>,
}

#[derive(Deserialize)]
struct FuncTable {
    name: Vec<usize>,
    resource: Vec<i64>,
}

#[derive(Deserialize)]
struct ResourceTable {
    lib: Vec<Option<usize>>,
}

/// The symbols of all addresses in the profile.
#[derive(Deserialize)]
struct Symbols {
    string_table: Vec<String>,
    data: Vec<LibrarySymbols>,
}

#[derive(Deserialize)]
struct LibrarySymbols {
    debug_name: String,
    symbol_table: Vec<Symbol>,
    /// Addresses and indices of their symbols.
    known_addresses: Vec<(u64, usize)>,
}

#[derive(Deserialize)]
struct Symbol {
    symbol: usize,
}

/// Calls `each` with every sample. A symbol lacks its first underscore, if it had one.
///
/// # Errors
/// When a text is not what samply writes.
pub fn read(profile: &str, symbols: &str, mut each: impl FnMut(&Sample)) -> Result<()> {
    let profile: Profile = serde_json::from_str(profile).context("samply's profile")?;
    let symbols: Symbols = serde_json::from_str(symbols).context("samply's symbols")?;
    let mut names: HashMap<(&str, u64), &str> = HashMap::new();
    for library in &symbols.data {
        for (address, index) in &library.known_addresses {
            let symbol = library.symbol_table.get(*index).context("a symbol is missing")?;
            let name = symbols.string_table.get(symbol.symbol).context("a name is missing")?;
            names.insert((&library.debug_name, *address), name);
        }
    }
    for thread in &profile.threads {
        let mut time = 0.0;
        for (stack, delta) in thread.samples.stack.iter().zip(&thread.samples.time_deltas) {
            time += delta;
            let frames = thread.frames(*stack, &profile.libs, &names);
            let frames = frames.context("a table lacks a row")?;
            each(&Sample { time: time / 1e3, frames });
        }
    }
    Ok(())
}

impl Thread {
    /// A stack, the leaf first. None: it refers to what is not there, or to itself.
    fn frames(
        &self,
        mut stack: Option<usize>,
        libraries: &[Library],
        names: &HashMap<(&str, u64), &str>,
    ) -> Option<Vec<Frame>> {
        let mut frames = Vec::new();
        while let Some(at) = stack {
            let frame = *self.stack_table.frame.get(at)?;
            let function = *self.frame_table.func.get(frame)?;
            let shown = self.string_array.get(*self.func_table.name.get(function)?)?;
            let resource = usize::try_from(*self.func_table.resource.get(function)?).ok();
            let library = resource.and_then(|at| *self.resource_table.lib.get(at)?);
            let library = library.and_then(|at| libraries.get(at));
            let address = u64::try_from(*self.frame_table.address.get(frame)?).unwrap_or_default();
            let name = library.and_then(|l| names.get(&(l.debug_name.as_str(), address)).copied());
            frames.push(Frame {
                address,
                symbol: name.unwrap_or(shown).to_owned(),
                file: library.map_or_else(String::new, |library| library.path.clone()),
            });
            let below = *self.stack_table.prefix.get(at)?;
            // A stack is listed behind what it is below.
            stack = if below.is_none_or(|below| below < at) { below } else { return None };
        }
        Some(frames)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn profile() -> Value {
        json!({
            "libs": [{"name": "p", "debugName": "p", "path": "/tmp/p"}],
            "threads": [{
                "samples": {"stack": [1, null, 0], "timeDeltas": [1000.5, 2.0, 2.0]},
                "stackTable": {"prefix": [null, 0], "frame": [0, 1]},
                "frameTable": {"address": [4256, -1], "func": [0, 1]},
                "funcTable": {"name": [0, 1], "resource": [0, -1]},
                "resourceTable": {"lib": [0]},
                "stringArray": ["0x10a0", "made"],
            }],
        })
    }

    fn samples(profile: &Value) -> Result<Vec<Sample>> {
        let symbols = json!({
            "string_table": ["UNKNOWN", "start"],
            "data": [{
                "debug_name": "p",
                "symbol_table": [{"rva": 4224, "size": 34, "symbol": 1}],
                "known_addresses": [[4256, 0]],
            }],
        });
        let mut samples = Vec::new();
        read(&profile.to_string(), &symbols.to_string(), |sample| samples.push(sample.clone()))?;
        Ok(samples)
    }

    #[test]
    fn samples_have_times_and_named_frames() {
        let frame = |address, symbol: &str, file: &str| Frame {
            address,
            symbol: symbol.to_owned(),
            file: file.to_owned(),
        };
        let start = frame(4256, "start", "/tmp/p");
        let expected = [
            Sample { time: 1.0005, frames: vec![frame(0, "made", ""), start.clone()] },
            Sample { time: 1.0025, frames: vec![] },
            Sample { time: 1.0045, frames: vec![start] },
        ];
        assert_eq!(samples(&profile()).unwrap(), expected);
    }

    #[test]
    fn tables_that_lack_rows_or_turn_in_circles_are_errors() {
        for (table, column, value) in [
            ("stackTable", "prefix", json!([null, 1])),
            ("stackTable", "frame", json!([0])),
            ("frameTable", "func", json!([0, 7])),
            ("funcTable", "name", json!([0, 9])),
        ] {
            let mut profile = profile();
            profile["threads"][0][table][column] = value;
            assert!(samples(&profile).is_err(), "{table} {column}");
        }
        assert!(samples(&json!({})).is_err());
    }
}
