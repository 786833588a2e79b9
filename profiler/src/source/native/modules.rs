//! The modules of a recording: every distinct mapped file, opened while a process that maps it
//! lives, and the state of its unwind rows.
//!
//! Rows are compiled when a sample first needs them, on a thread of its own, so that a huge file
//! does not stop the draining of samples. When the tables are full, files that no process maps any
//! more give their rows back, then those that no sample has needed for a while. A module that no
//! process maps and no recorded stack points into is forgotten, and its number used again.

use std::{
    fs::File,
    sync::Arc,
    time::{Duration, Instant},
};

use rustc_hash::{FxHashMap, FxHashSet};

use super::{
    compile::{Compiled, Compiler},
    limits::{Bound, Limits},
    open::{self, Place},
    rows::Rows,
    sideband::Identity,
    tables::{Storage, Tables},
};
use crate::{
    model::{
        frame::ModuleId,
        loss::{Loss, Losses},
        profile::{Module, ModuleKind},
    },
    target::made_code::is_jitdump,
    unwind::UnwindRows,
};

struct Entry {
    module: Arc<Module>,
    rows: Rows,
    /// Regions of live processes that map it.
    users: u64,
    /// A recorded stack points into it.
    recorded: bool,
    /// When a sample needed it last.
    needed: Instant,
}

#[derive(PartialEq, Eq, Hash)]
enum Key {
    File(Identity, Vec<u8>),
    Opened(open::FileId),
    Anonymous(u32),
    Vdso,
    /// What is beyond the limit.
    Beyond,
}

/// The modules by number.
pub struct Modules {
    entries: Vec<Entry>,
    /// Numbers that are free again.
    free: Vec<ModuleId>,
    numbers: FxHashMap<Key, ModuleId>,
    compiler: Compiler,
    compiling: usize,
    /// Rows that did not fit yet.
    waiting: Vec<Waiting>,
    open_files: usize,
    /// The jitdump that a process has mapped, by its id.
    dumps: FxHashMap<u32, File>,
    /// Modules that lost their last user since unused ones were forgotten.
    released: usize,
    /// When the round began.
    now: Instant,
    max_modules: usize,
    max_files: usize,
    losses: Losses,
}

struct Waiting {
    number: ModuleId,
    rows: UnwindRows,
    tries: u32,
}

/// Rounds in which compiled rows are tried to be installed.
const MAX_TRIES: u32 = 8;
/// The try from which on files give their rows back though processes map them.
const URGENT_TRY: u32 = 4;
/// How long no sample has needed such a file.
const IDLE: Duration = Duration::from_secs(10);
/// How many released modules are worth looking for unused ones.
const MANY: usize = 256;
/// Why a file was not opened that was one too many.
const TOO_MANY: &str = "too many files are mapped";
/// Keys by which one module may be known, on average.
const KEYS: usize = 4;

impl Modules {
    /// None yet; `compiler` compiles the rows.
    #[must_use]
    pub fn new(compiler: Compiler, limits: &Limits) -> Self {
        Self {
            entries: Vec::new(),
            free: Vec::new(),
            numbers: FxHashMap::default(),
            compiler,
            compiling: 0,
            waiting: Vec::new(),
            open_files: 0,
            dumps: FxHashMap::default(),
            released: 0,
            now: Instant::now(),
            max_modules: limits.get(Bound::Modules),
            max_files: limits.get(Bound::Files),
            losses: Losses::default(),
        }
    }

    /// The module that a process has mapped at a place, opened now if it is new.
    pub fn find(&mut self, place: &Place<'_>) -> ModuleId {
        if place.path == b"[vdso]" {
            return self.known(Key::Vdso, Module::vdso);
        }
        if !place.is_file() {
            return self.anonymous(place.pid);
        }
        let key = Key::File(place.identity.clone(), place.path.to_vec());
        if let Some(number) = self.numbers.get(&key) {
            // A shared mapping of what is no ELF file is each process's own code.
            return if self.is_anonymous(*number) { self.anonymous(place.pid) } else { *number };
        }
        if self.is_full() {
            return self.beyond();
        }
        let number = self.open(place);
        self.numbers.insert(key, number);
        number
    }

    fn is_full(&self) -> bool {
        self.entries.len() - self.free.len() >= self.max_modules
            || self.numbers.len() >= KEYS * self.max_modules
    }

    /// What stands for all modules beyond the limit.
    fn beyond(&mut self) -> ModuleId {
        self.losses.lose(Loss::ModulesFull, 1);
        let module =
            || Module::file("(too many mapped files)".into(), None, Err(TOO_MANY.to_owned()));
        let number = self.known(Key::Beyond, module);
        self.entries[number.0 as usize].rows = Rows::Refused;
        number
    }

    fn open(&mut self, place: &Place<'_>) -> ModuleId {
        let opened = if self.open_files < self.max_files {
            open::open(place)
        } else {
            self.losses.lose(Loss::FilesFull, 1);
            Err(TOO_MANY.to_owned())
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
                let number = self.add(Module::file(path, build_id, Ok(file)));
                self.numbers.insert(Key::Opened(id), number);
                number
            }
            Err(why) => self.add(Module::file(path, identity, Err(why))),
        }
    }

    fn anonymous(&mut self, pid: u32) -> ModuleId {
        let key = Key::Anonymous(pid);
        if self.is_full() && !self.numbers.contains_key(&key) {
            return self.beyond();
        }
        self.known(key, || Module::anonymous(pid))
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
        let can_have_rows = module.file.is_some() || module.kind == ModuleKind::Vdso;
        let rows = if can_have_rows { Rows::Idle } else { Rows::None };
        let entry =
            Entry { module: Arc::new(module), rows, users: 0, recorded: false, needed: self.now };
        if let Some(number) = self.free.pop() {
            self.entries[number.0 as usize] = entry;
            return number;
        }
        self.entries.push(entry);
        ModuleId(self.entries.len() as u32 - 1)
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
        self.released += usize::from(*users == 0);
    }

    /// A stack that is recorded has a frame in it.
    pub fn record(&mut self, number: ModuleId) {
        let entry = &mut self.entries[number.0 as usize];
        (entry.recorded, entry.needed) = (true, self.now);
    }

    /// Has the rows compiled, if that was not done before.
    pub fn request(&mut self, number: ModuleId) {
        let entry = &mut self.entries[number.0 as usize];
        if matches!(entry.rows, Rows::Idle) {
            entry.rows = Rows::Compiling;
            entry.needed = self.now;
            self.compiling += 1;
            self.compiler.request(number, Arc::clone(&entry.module));
        }
    }

    /// Has walks follow code that was made at run time from now on; whether they did not before.
    pub fn follow(&mut self, number: ModuleId) -> bool {
        let rows = &mut self.entries[number.0 as usize].rows;
        let is_new = matches!(rows, Rows::None);
        if is_new {
            *rows = Rows::Followed;
        }
        is_new
    }

    /// Has walks follow the code of these no more.
    pub fn leave_alone(&mut self, modules: &[ModuleId]) {
        for number in modules {
            self.entries[number.0 as usize].rows = Rows::Astray;
        }
    }

    /// Whether rows are being compiled.
    #[must_use]
    pub fn is_compiling(&self) -> bool {
        self.compiling > 0
    }

    /// Installs what was compiled since the last call, at the cost of files that need their rows
    /// less. Gives the modules whose rows have become something else.
    pub fn install<S: Storage>(&mut self, tables: &mut Tables<S>) -> Vec<ModuleId> {
        self.now = Instant::now();
        let mut changed = Vec::new();
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
                    self.evict(tables, waiting.tries >= URGENT_TRY, &mut changed);
                    waiting.tries += 1;
                    self.waiting.push(waiting);
                    continue;
                }
                Err(full) => {
                    log::warn!("{}: {full}", self.module(waiting.number).path);
                    self.losses.lose(full.loss(), 1);
                    Rows::Refused
                }
            };
            self.compiling -= 1;
            self.entries[waiting.number.0 as usize].rows = rows;
            changed.push(waiting.number);
        }
        changed
    }

    /// Takes the rows of files that no process maps any more out of the tables; with `idle` also
    /// those of files that no sample has needed for a while. What was refused may try again then.
    fn evict<S: Storage>(
        &mut self,
        tables: &mut Tables<S>,
        idle: bool,
        changed: &mut Vec<ModuleId>,
    ) {
        let now = self.now;
        let mut refused = Vec::new();
        let before = changed.len();
        for (number, entry) in (0..).map(ModuleId).zip(&mut self.entries) {
            let since = now.saturating_duration_since(entry.needed);
            match &entry.rows {
                Rows::Installed(file) if entry.users == 0 || (idle && since >= IDLE) => {
                    tables.remove(file);
                    entry.rows = Rows::Idle;
                    changed.push(number);
                }
                Rows::Refused if entry.module.file.is_some() => refused.push(number),
                _ => {}
            }
        }
        if changed.len() > before {
            for number in refused {
                self.entries[number.0 as usize].rows = Rows::Idle;
                changed.push(number);
            }
        }
    }

    /// Forgets modules that no process maps, no recorded stack points into and no sample of
    /// `in_use` may need; when there may be many, or too many are open.
    pub fn forget_unused<S: Storage>(
        &mut self,
        tables: &mut Tables<S>,
        in_use: impl FnOnce() -> FxHashSet<ModuleId>,
    ) {
        let full = self.is_full() || self.open_files >= self.max_files;
        if self.released == 0 || (self.released < MANY && !full) {
            return;
        }
        self.released = 0;
        let in_use = in_use();
        let mut gone = FxHashSet::default();
        for number in self.numbers.values() {
            let entry = &self.entries[number.0 as usize];
            let unused = entry.users == 0
                && !entry.recorded
                && !matches!(entry.rows, Rows::Compiling)
                && !in_use.contains(number);
            if unused {
                gone.insert(*number);
            }
        }
        self.numbers.retain(|_, number| !gone.contains(number));
        for number in gone {
            let entry = &mut self.entries[number.0 as usize];
            if let Rows::Installed(file) = &entry.rows {
                tables.remove(file);
            }
            let dump = match entry.module.kind {
                ModuleKind::Anonymous { pid } => self.dumps.remove(&pid),
                ModuleKind::File | ModuleKind::Vdso => None,
            };
            self.open_files -= usize::from(entry.module.file.is_some() || dump.is_some());
            // The file is closed.
            entry.module = Arc::new(Module::anonymous(0));
            entry.rows = Rows::None;
            self.free.push(number);
        }
    }

    /// What was counted.
    #[must_use]
    pub fn losses(&self) -> Losses {
        let mut losses = self.losses.clone();
        // Those that were one too many are counted already.
        let refused = |entry: &&Entry| {
            let why = entry.module.refused.as_ref();
            entry.recorded && why.is_some_and(|why| why != TOO_MANY)
        };
        losses.lose(Loss::FileRefused, self.entries.iter().filter(refused).count() as u64);
        losses
    }

    /// Every module, by number, for the recording.
    #[must_use]
    pub fn into_modules(mut self) -> Vec<Arc<Module>> {
        let mut with_dump = |module: Arc<Module>| match module.kind {
            ModuleKind::Anonymous { pid } => {
                let file = self.dumps.remove(&pid);
                Arc::new(Module { file, ..Module::anonymous(pid) })
            }
            ModuleKind::File | ModuleKind::Vdso => module,
        };
        self.entries.into_iter().map(|entry| with_dump(entry.module)).collect()
    }
}
