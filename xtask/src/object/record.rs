//! The record beside the object: `flame-graph.bpf.toml`.

use std::{collections::BTreeMap, fmt::Write as _, fs, path::Path};

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

use super::chain;
use crate::shell::root;

/// What an object was built with and from.
#[derive(Debug, PartialEq, Eq)]
pub struct Record {
    /// Version and commit of rustc.
    pub rustc: String,
    /// Version of bpf-linker.
    pub bpf_linker: String,
    /// SHA-256 of the sources.
    pub sources: String,
    /// SHA-256 of the object.
    pub object: String,
}

impl Record {
    /// The record that an object built now must have.
    pub fn of(object: &[u8]) -> Result<Self> {
        Ok(Self {
            rustc: chain::RUSTC.to_owned(),
            bpf_linker: chain::BPF_LINKER.to_owned(),
            sources: digest_of_sources(&root().join("profiler-ebpf"))?,
            object: hex(&Sha256::digest(object)),
        })
    }

    /// Reads a record file.
    pub fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).with_context(|| {
            format!("cannot read {}: run `cargo xtask build-ebpf`", path.display())
        })?;
        Self::parse(&text).with_context(|| format!("{} is not a record", path.display()))
    }

    fn parse(text: &str) -> Result<Self> {
        let mut values: BTreeMap<&str, &str> = text
            .lines()
            .filter(|line| !line.starts_with('#'))
            .filter_map(|line| line.split_once('='))
            .map(|(key, value)| (key.trim(), value.trim().trim_matches('"')))
            .collect();
        let mut take = |key: &str| {
            values.remove(key).map(str::to_owned).with_context(|| format!("{key} is missing"))
        };
        Ok(Self {
            rustc: take("rustc")?,
            bpf_linker: take("bpf-linker")?,
            sources: take("sources")?,
            object: take("object")?,
        })
    }

    /// Writes a record file.
    pub fn write(&self, path: &Path) -> Result<()> {
        fs::write(path, self.text()).with_context(|| format!("cannot write {}", path.display()))
    }

    fn text(&self) -> String {
        let Self { rustc, bpf_linker, sources, object } = self;
        format!(
            "# What flame-graph.bpf.o was built with and from, written by `cargo xtask build-ebpf`.\n\
             rustc = \"{rustc}\"\nbpf-linker = \"{bpf_linker}\"\n\
             # SHA-256 of the sources, and of the object.\n\
             sources = \"{sources}\"\nobject = \"{object}\"\n"
        )
    }

    /// The first thing in which this record is not the expected one, as a clause.
    pub fn difference(&self, expected: &Self) -> Option<String> {
        let clause = |what: &str, ours: &str, theirs: &str| {
            (ours != theirs).then(|| format!("{what} is recorded as {ours}, and is {theirs}"))
        };
        clause("rustc", &self.rustc, &expected.rustc)
            .or_else(|| clause("bpf-linker", &self.bpf_linker, &expected.bpf_linker))
            .or_else(|| clause("the object's digest", &self.object, &expected.object))
            .or_else(|| clause("the sources' digest", &self.sources, &expected.sources))
    }
}

/// SHA-256 over names and contents of what is compiled into the object, without unit tests.
fn digest_of_sources(package: &Path) -> Result<String> {
    let mut files = vec![package.join("Cargo.toml")];
    let mut folders = vec![package.join("src")];
    while let Some(folder) = folders.pop() {
        let entries =
            fs::read_dir(&folder).with_context(|| format!("cannot list {}", folder.display()))?;
        for entry in entries {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default();
            if path.is_dir() && name != "tests" {
                folders.push(path);
            } else if path.extension().is_some_and(|ending| ending == "rs") && name != "tests.rs" {
                files.push(path);
            }
        }
    }
    files.sort();
    let mut digest = Sha256::new();
    for file in files {
        let content = fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
        let name = file.strip_prefix(package).unwrap_or(&file);
        digest.update(name.to_string_lossy().as_bytes());
        digest.update([0]);
        digest.update((content.len() as u64).to_le_bytes());
        digest.update(content);
    }
    Ok(hex(&digest.finalize()))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Record {
        Record {
            rustc: "1.95.0 (59807616e)".to_owned(),
            bpf_linker: "0.13.0".to_owned(),
            sources: "aa".to_owned(),
            object: "bb".to_owned(),
        }
    }

    #[test]
    fn a_record_is_read_as_written() {
        assert_eq!(Record::parse(&record().text()).unwrap(), record());
    }

    #[test]
    fn a_record_without_a_key_is_refused() {
        let text = record().text().replace("sources", "source");
        assert!(Record::parse(&text).unwrap_err().to_string().contains("sources is missing"));
    }

    #[test]
    fn changed_sources_are_seen() {
        let folder = tempfile::tempdir().unwrap();
        let source = folder.path().join("src");
        fs::create_dir(&source).unwrap();
        fs::write(folder.path().join("Cargo.toml"), "").unwrap();
        fs::write(source.join("walk.rs"), "fn a() {}").unwrap();
        let before = digest_of_sources(folder.path()).unwrap();
        fs::write(source.join("tests.rs"), "fn t() {}").unwrap();
        assert_eq!(digest_of_sources(folder.path()).unwrap(), before);
        fs::write(source.join("walk.rs"), "fn b() {}").unwrap();
        assert_ne!(digest_of_sources(folder.path()).unwrap(), before);
    }

    #[test]
    fn a_difference_is_named() {
        let other = Record { object: "cc".to_owned(), ..record() };
        assert_eq!(record().difference(&record()), None);
        assert!(record().difference(&other).unwrap().starts_with("the object's digest"));
    }
}
