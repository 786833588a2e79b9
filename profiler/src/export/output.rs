//! Where profiles are written: files that appear whole or not at all, and standard output.

use std::{
    ffi::OsStr,
    fs::{self, Permissions},
    io::{self, BufWriter, Write as _},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use tempfile::NamedTempFile;

use super::{Export as _, ExportError, Format, folded::Folded};
use crate::model::profile::Profile;

/// Where to write, and in which format.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Folded text on standard output.
    Stdout,
    /// A file.
    File {
        /// Its path.
        path: PathBuf,
        /// The format that its ending chose.
        format: Format,
    },
}

/// Why an output cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OutputError {
    /// An ending that chooses no format.
    #[error(
        "cannot tell the format of output {path:?} by its ending; use one of {endings}, or `-` for \
         folded text on standard output",
        endings = Format::ENDINGS
    )]
    UnknownEnding {
        /// The path as given.
        path: PathBuf,
    },
    /// The folder does not exist.
    #[error("cannot write {path:?}: the folder {folder:?} does not exist; create it first")]
    NoFolder {
        /// The output.
        path: PathBuf,
        /// Its folder.
        folder: PathBuf,
    },
    /// Something that is not a file stands at the path.
    #[error("cannot write {path:?}: it exists and is not a regular file; choose another name")]
    NotAFile {
        /// The output.
        path: PathBuf,
    },
    /// The folder cannot be written to.
    #[error("cannot write {path:?}: {source}; choose another folder with --output")]
    NotWritable {
        /// The output.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Writing failed.
    #[error("cannot write {name}: {source}")]
    Failed {
        /// The output, as the user knows it.
        name: String,
        /// Why.
        source: ExportError,
    },
}

impl Output {
    /// What an output's name means: `-` is standard output, the ending of a path is its format.
    ///
    /// # Errors
    /// [`OutputError::UnknownEnding`].
    pub fn parse(name: &OsStr) -> Result<Self, OutputError> {
        if name == "-" {
            return Ok(Self::Stdout);
        }
        let path = PathBuf::from(name);
        match Format::of(&path) {
            Some(format) => Ok(Self::File { path, format }),
            None => Err(OutputError::UnknownEnding { path }),
        }
    }

    /// Whether the output can be written, before the work that fills it.
    ///
    /// # Errors
    /// Those of [`check_output`].
    pub fn check(&self) -> Result<(), OutputError> {
        match self {
            Self::Stdout => Ok(()),
            Self::File { path, .. } => check_output(path),
        }
    }
}

/// Checks that a file can be written at `path`: its folder exists and takes new files, and nothing
/// but a regular file (or a symbolic link, which is replaced and never followed) is in its place.
///
/// # Errors
/// Which of these does not hold.
pub fn check_output(path: &Path) -> Result<(), OutputError> {
    let owned = || path.to_owned();
    let folder = folder_of(path);
    match fs::metadata(folder) {
        Ok(metadata) if metadata.is_dir() => {}
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            return Err(OutputError::NotWritable { path: owned(), source });
        }
        _ => return Err(OutputError::NoFolder { path: owned(), folder: folder.to_owned() }),
    }
    if let Ok(metadata) = fs::symlink_metadata(path)
        && !metadata.is_file()
        && !metadata.is_symlink()
    {
        return Err(OutputError::NotAFile { path: owned() });
    }
    // Only making a file proves that one can be made: root passes every check of permission bits.
    // This one has no name, so nothing is left behind whatever happens.
    tempfile::tempfile_in(folder)
        .map_err(|source| OutputError::NotWritable { path: owned(), source })?;
    Ok(())
}

/// Writes every output: first each file under a temporary name beside its place, then, when all of
/// them are whole, moves them there, and last standard output. A reader that closes standard
/// output early is no failure.
///
/// # Errors
/// The first output that failed; no file is left half-written.
pub fn write_all(profile: &Profile, outputs: &[Output]) -> Result<(), OutputError> {
    let mut staged = Vec::new();
    for output in outputs {
        if let Output::File { path, format } = output {
            let file = stage(profile, path, *format).map_err(failed(path))?;
            staged.push((path, file));
        }
    }
    for (path, file) in staged {
        file.persist(path).map_err(|error| failed(path)(error.error.into()))?;
    }
    if outputs.contains(&Output::Stdout) {
        let mut out = BufWriter::new(io::stdout().lock());
        match Folded.export(profile, &mut out) {
            Err(ExportError::Io(error)) if error.kind() == io::ErrorKind::BrokenPipe => {
                // What is buffered would only fail again.
                let _ = out.into_parts();
            }
            result => result.map_err(|source| OutputError::Failed {
                name: "standard output".to_owned(),
                source,
            })?,
        }
    }
    Ok(())
}

fn failed(path: &Path) -> impl Fn(ExportError) -> OutputError {
    move |source| OutputError::Failed { name: format!("{path:?}"), source }
}

/// Writes a file whole or not at all.
///
/// # Errors
/// [`OutputError::Failed`].
pub fn write_bytes(path: &Path, bytes: &[u8]) -> Result<(), OutputError> {
    let mut file = temporary(path).map_err(|error| failed(path)(error.into()))?;
    file.write_all(bytes).map_err(|error| failed(path)(error.into()))?;
    file.persist(path).map_err(|error| failed(path)(error.error.into()))?;
    Ok(())
}

/// An empty file in the folder of `path`, under a temporary name that goes with it.
fn temporary(path: &Path) -> io::Result<NamedTempFile> {
    // The umask still applies to these permissions.
    tempfile::Builder::new()
        .prefix(".flame-graph-")
        .permissions(Permissions::from_mode(0o644))
        .tempfile_in(folder_of(path))
}

/// A whole file in the folder of `path`, under a temporary name that goes with it.
fn stage(profile: &Profile, path: &Path, format: Format) -> Result<NamedTempFile, ExportError> {
    let mut file = temporary(path)?;
    let mut out = BufWriter::with_capacity(1 << 16, file.as_file_mut());
    format.exporter().export(profile, &mut out)?;
    out.flush()?;
    drop(out);
    Ok(file)
}

/// The folder that a path lies in.
fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endings_choose_the_format() {
        let format = |name: &str| match Output::parse(OsStr::new(name)) {
            Ok(Output::File { format, .. }) => Some(format),
            _ => None,
        };
        assert_eq!(format("a.svg"), Some(Format::Svg));
        assert_eq!(format("a.b/c.SVG"), Some(Format::Svg));
        assert_eq!(format("a.folded"), Some(Format::Folded));
        assert_eq!(format("a.txt"), Some(Format::Folded));
        assert_eq!(format("svg"), None);
        assert_eq!(format("a.png"), None);
        assert_eq!(format(""), None);
        assert_eq!(Output::parse(OsStr::new("-")).unwrap(), Output::Stdout);
    }

    #[test]
    fn what_cannot_be_written_is_found_before() {
        let folder = tempfile::tempdir().unwrap();
        let inside = |name: &str| folder.path().join(name);
        assert!(check_output(&inside("a.svg")).is_ok());
        assert!(matches!(check_output(&inside("b/a.svg")), Err(OutputError::NoFolder { .. })));
        fs::write(inside("file"), "").unwrap();
        assert!(check_output(&inside("file/a.svg")).is_err());
        fs::create_dir(inside("d.svg")).unwrap();
        assert!(matches!(check_output(&inside("d.svg")), Err(OutputError::NotAFile { .. })));
        assert!(matches!(check_output(Path::new("/dev/null")), Err(OutputError::NotAFile { .. })));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    }
}
