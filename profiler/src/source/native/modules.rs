//! The modules of a recording: every distinct mapped file, opened while a process that maps it
//! lives, and the state of its unwind rows.
//!
//! Rows are compiled when a sample first needs them, on a thread of its own, so that a huge file
//! does not stop the draining of samples.

use std::{fs::File, sync::Arc};

use rustc_hash::FxHashMap;

use super::{
    compile::{Compiled, Compiler},
    open::{self, Place},
    sideband::Identity,
    tables::{FileTables, Storage, Tables},
};
use crate::model::{
    frame::ModuleId,
    profile::{Module, ModuleKind},
};
use crate::target::made_code::is_jitdump;
use crate::unwind::UnwindRows;

/// Where the unwind rows of a module are.
#[derive(Debug)]
pub enum Rows {
    /// No sample has needed them.
    Idle,
    /// Being compiled.
    Compiling,
    /// In the tables.
    Installed(FileTables),
    /// There are none: frame pointers are all there is.
    None,
}

impl Rows {
    /// Whether it is not decided yet what they are.
    #[must_use]
    pub fn are_pending(&self) -> bool {
        matches!(self, Self::Idle | Self::Compiling)
    }
}

/// Files that are kept open at the most; the names of others are lost.
const MAX_OPEN_FILES: usize = 16_384;

struct Entry {
    module: Arc<Module>,
    rows: Rows,
    /// Regions of live processes that map it.
    users: u64,
}

#[derive(PartialEq, Eq, Hash)]
enum Key {
    File(Identity, Vec<u8>),
    Opened(open::FileId),
    Anonymous(u32),
    Vdso,
}

/// The modules by number.
pub struct Modules {
    entries: Vec<Entry>,
    numbers: FxHashMap<Key, ModuleId>,
    compiler: Compiler,
    compiling: usize,
    /// Rows that did not fit yet.
    waiting: Vec<Waiting>,
    open_files: usize,
    /// The jitdump that a process has mapped, by its id.
    dumps: FxHashMap<u32, File>,
}

struct Waiting {
    number: ModuleId,
    rows: UnwindRows,
    tries: u32,
}

/// Rounds in which compiled rows are tried to be installed.
const MAX_TRIES: u32 = 4;

impl Modules {
    /// None yet; `compiler` compiles the rows.
    #[must_use]
    pub fn new(compiler: Compiler) -> Self {
        Self {
            entries: Vec::new(),
            numbers: FxHashMap::default(),
            compiler,
            compiling: 0,
            waiting: Vec::new(),
            open_files: 0,
            dumps: FxHashMap::default(),
        }
    }

    /// The module that a process has mapped at a place, opened now if it is new.
    pub fn find(&mut self, place: &Place<'_>) -> ModuleId {
        if place.path == b"[vdso]" {
            return self.known(Key::Vdso, vdso_module);
        }
        if !place.is_file() {
            return self.anonymous(place.pid);
        }
        let key = Key::File(place.identity.clone(), place.path.to_vec());
        if let Some(number) = self.numbers.get(&key) {
            // A shared mapping of what is no ELF file is each process's own code.
            return if self.is_anonymous(*number) { self.anonymous(place.pid) } else { *number };
        }
        let number = self.open(place);
        self.numbers.insert(key, number);
        number
    }

    fn open(&mut self, place: &Place<'_>) -> ModuleId {
        let opened = if self.open_files < MAX_OPEN_FILES {
            open::open(place)
        } else {
            Err("too many files are open".to_owned())
        };
        let path: Arc<str> = String::from_utf8_lossy(place.path).into();
        let identity = match place.identity {
            Identity::BuildId(id) => Some(id.clone()),
            Identity::Inode { .. } => None,
        };
        match opened {
            Ok(open::Opened { is_elf: false, file, .. }) => {
                // Mapped so that profilers find it, now or when the process is gone.
                if is_jitdump(&path) {
                    self.open_files += 1;
                    self.dumps.insert(place.pid, file);
                }
                self.anonymous(place.pid)
            }
            Ok(open::Opened { file, id, build_id, .. }) => {
                if let Some(number) = self.numbers.get(&Key::Opened(id.clone())) {
                    return *number;
                }
                self.open_files += 1;
                let build_id = build_id.or(identity);
                let number = self.add(file_module(path, build_id, Ok(file)));
                self.numbers.insert(Key::Opened(id), number);
                number
            }
            Err(why) => self.add(file_module(path, identity, Err(why))),
        }
    }

    fn anonymous(&mut self, pid: u32) -> ModuleId {
        self.known(Key::Anonymous(pid), || anonymous_module(pid))
    }

    fn known(&mut self, key: Key, module: impl FnOnce() -> Module) -> ModuleId {
        if let Some(number) = self.numbers.get(&key) {
            return *number;
        }
        let number = self.add(module());
        self.numbers.insert(key, number);
        number
    }

    fn add(&mut self, module: Module) -> ModuleId {
        let number = ModuleId(self.entries.len() as u32);
        let can_have_rows = module.file.is_some() || module.kind == ModuleKind::Vdso;
        let rows = if can_have_rows { Rows::Idle } else { Rows::None };
        self.entries.push(Entry { module: Arc::new(module), rows, users: 0 });
        number
    }

    fn is_anonymous(&self, number: ModuleId) -> bool {
        matches!(self.module(number).kind, ModuleKind::Anonymous { .. })
    }

    /// Whether a module is the memory of a process that tells when it made which code.
    #[must_use]
    pub fn tells_times(&self, number: ModuleId) -> bool {
        match self.module(number).kind {
            ModuleKind::Anonymous { pid } => self.dumps.contains_key(&pid),
            ModuleKind::File | ModuleKind::Vdso => false,
        }
    }

    /// A module.
    #[must_use]
    pub fn module(&self, number: ModuleId) -> &Module {
        &self.entries[number.0 as usize].module
    }

    /// The state of a module's rows.
    #[must_use]
    pub fn rows(&self, number: ModuleId) -> &Rows {
        &self.entries[number.0 as usize].rows
    }

    /// A region of a process maps the module now.
    pub fn hold(&mut self, number: ModuleId) {
        self.entries[number.0 as usize].users += 1;
    }

    /// A region that mapped it is gone.
    pub fn release(&mut self, number: ModuleId) {
        let users = &mut self.entries[number.0 as usize].users;
        *users = users.saturating_sub(1);
    }

    /// Has the rows compiled, if that was not done before.
    pub fn request(&mut self, number: ModuleId) {
        let entry = &mut self.entries[number.0 as usize];
        if matches!(entry.rows, Rows::Idle) {
            entry.rows = Rows::Compiling;
            self.compiling += 1;
            self.compiler.request(number, Arc::clone(&entry.module));
        }
    }

    /// Whether rows are being compiled.
    #[must_use]
    pub fn is_compiling(&self) -> bool {
        self.compiling > 0
    }

    /// Installs what was compiled since the last call, at the cost of files that no process maps
    /// any more.
    pub fn install<S: Storage>(&mut self, tables: &mut Tables<S>) -> Installed {
        let mut installed = Installed::default();
        let mut ready: Vec<Waiting> = std::mem::take(&mut self.waiting);
        while let Some(Compiled { number, rows }) = self.compiler.next() {
            let rows = rows.unwrap_or_else(|why| {
                log::info!("{}: {why}", self.module(number).path);
                UnwindRows::default()
            });
            ready.push(Waiting { number, rows, tries: 0 });
        }
        for mut waiting in ready {
            let rows = match tables.install(&waiting.rows) {
                _ if waiting.rows.rows.is_empty() => Rows::None,
                Ok(file) => Rows::Installed(file),
                Err(_) if waiting.tries < MAX_TRIES => {
                    // What is evicted is free two rounds later.
                    self.evict(tables);
                    waiting.tries += 1;
                    self.waiting.push(waiting);
                    continue;
                }
                Err(full) => {
                    log::warn!("{}: {full}", self.module(waiting.number).path);
                    installed.refused += 1;
                    Rows::None
                }
            };
            self.compiling -= 1;
            self.entries[waiting.number.0 as usize].rows = rows;
            installed.changed.push(waiting.number);
        }
        installed
    }

    /// Takes the rows of files that no process maps any more out of the tables.
    pub fn evict<S: Storage>(&mut self, tables: &mut Tables<S>) {
        for entry in &mut self.entries {
            if entry.users == 0
                && let Rows::Installed(file) = &entry.rows
            {
                tables.remove(file);
                entry.rows = Rows::Idle;
            }
        }
    }

    /// Every module, by number, for the recording.
    #[must_use]
    pub fn into_modules(mut self) -> Vec<Arc<Module>> {
        let mut with_dump = |module: Arc<Module>| match module.kind {
            ModuleKind::Anonymous { pid } => {
                let file = self.dumps.remove(&pid);
                Arc::new(Module { file, ..anonymous_module(pid) })
            }
            ModuleKind::File | ModuleKind::Vdso => module,
        };
        self.entries.into_iter().map(|entry| with_dump(entry.module)).collect()
    }
}

/// What [`Modules::install`] did.
#[derive(Debug, Default)]
pub struct Installed {
    /// Modules whose rows are decided now.
    pub changed: Vec<ModuleId>,
    /// How many files' rows did not fit.
    pub refused: u64,
}

fn file_module(path: Arc<str>, build_id: Option<Vec<u8>>, file: Result<File, String>) -> Module {
    let (file, refused) = match file {
        Ok(file) => (Some(file), None),
        Err(why) => (None, Some(why)),
    };
    Module { kind: ModuleKind::File, path, build_id, file, refused }
}

fn anonymous_module(pid: u32) -> Module {
    Module {
        kind: ModuleKind::Anonymous { pid },
        path: "//anon".into(),
        build_id: None,
        file: None,
        refused: None,
    }
}

fn vdso_module() -> Module {
    Module {
        kind: ModuleKind::Vdso,
        path: "[vdso]".into(),
        build_id: None,
        file: None,
        refused: None,
    }
}
