//! Compiling unwind rows on a thread of its own.

use std::{
    sync::{
        Arc,
        mpsc::{self, Receiver, Sender},
    },
    thread,
};

use super::hurry;
use crate::{
    model::{
        frame::ModuleId,
        profile::{Module, ModuleKind},
    },
    source::session::Wake,
    target::{image::Image, vdso},
    unwind::{self, UnwindRows},
};

/// The largest file that is read.
const MAX_FILE: u64 = 4 << 30;

/// Rows that were compiled, or why there are none.
pub struct Compiled {
    /// Of which module.
    pub number: ModuleId,
    /// The rows.
    pub rows: Result<UnwindRows, String>,
}

/// The compiling thread. It ends when this is dropped and its last file is done.
pub struct Compiler {
    requests: Sender<(ModuleId, Arc<Module>)>,
    results: Receiver<Compiled>,
}

impl Compiler {
    /// Starts the thread; `wake` is set whenever a result is ready.
    ///
    /// # Errors
    ///
    /// When no thread can be started.
    pub fn start(wake: Arc<Wake>) -> std::io::Result<Self> {
        let (requests, incoming) = mpsc::channel::<(ModuleId, Arc<Module>)>();
        let (outgoing, results) = mpsc::channel();
        thread::Builder::new().name("unwind-rows".to_owned()).spawn(move || {
            hurry();
            for (number, module) in incoming {
                let rows = compile(&module);
                if outgoing.send(Compiled { number, rows }).is_err() {
                    break;
                }
                wake.set();
            }
        })?;
        Ok(Self { requests, results })
    }

    /// Asks for the rows of a module.
    pub fn request(&self, number: ModuleId, module: Arc<Module>) {
        // The thread is there as long as its results can be received.
        let _ = self.requests.send((number, module));
    }

    /// The next result that is ready.
    #[must_use]
    pub fn next(&self) -> Option<Compiled> {
        self.results.try_recv().ok()
    }
}

fn compile(module: &Module) -> Result<UnwindRows, String> {
    let compiled = match (&module.kind, &module.file) {
        (ModuleKind::Vdso, _) => {
            let image = vdso::image().map_err(|error| error.to_string())?;
            unwind::compile(&image)
        }
        (_, Some(file)) => {
            let size = file.metadata().map_err(|error| error.to_string())?.len();
            if size > MAX_FILE {
                return Err(format!("the file is larger than {} GiB", MAX_FILE >> 30));
            }
            let image = Image::within(file, MAX_FILE).map_err(|error| error.to_string())?;
            unwind::compile(&image)
        }
        (_, None) => return Ok(UnwindRows::default()),
    };
    compiled.map_err(|error| error.to_string())
}
