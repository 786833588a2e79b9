//! From addresses to names: a [`Recording`] becomes a [`Profile`], in which no address is left.
//!
//! * User code: the symbol tables and the debug information of the mapped file itself, read through
//!   the handle that was opened while its process lived, or of its debug file. blazesym reads the
//!   files that only root can change ([`blaze`]); our own readers ([`elf`], [`dwarf`]) bound what a
//!   hostile file can make them do, and read those that anybody else can change ([`crate::target::image`]).
//! * The vDSO and the kernel ([`kernel`]): from the running kernel.
//! * Code made at run time ([`jit`]): from the files that its process wrote.
//!
//! A file that is missing or broken costs only its own names. Frames without one read
//! `[module+0xoffset]`, where the offset is that of the byte in the file at which the function
//! begins when unwind tables tell ([`unnamed`]), else of the address itself.

mod blaze;
mod debug_files;
pub mod dwarf;
pub mod elf;
mod go;
pub mod jit;
pub mod kernel;
mod module;
pub mod names;
mod plt;
mod unnamed;

use std::{
    fs::File,
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use rustc_hash::FxHashMap;

use crate::{
    model::{
        address::CodeAddress,
        frame::{Frame, FrameKind, ModuleId, RawFrame, file_name, unknown},
        profile::{Module, ModuleKind, Profile, Recording},
    },
    target::{image, vdso},
};
use module::{Chain, Named};

/// How to symbolize.
#[derive(Clone, Debug)]
pub struct Options {
    /// Inlined calls and source lines from debug information; without them symbol tables alone
    /// are read.
    pub inlines: bool,
    /// Names of kernel functions.
    pub kernel: bool,
    /// Where proc is mounted.
    pub proc_root: PathBuf,
    /// Where debug files are kept, searched in this order.
    pub debug_dirs: Vec<PathBuf>,
    /// Whether a file is trusted, so that blazesym may read it.
    pub trusts: fn(&File) -> bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            inlines: true,
            kernel: true,
            proc_root: PathBuf::from("/proc"),
            debug_dirs: vec![PathBuf::from("/usr/lib/debug")],
            trusts: image::only_root_changes,
        }
    }
}

/// Modules are read by this many threads.
const THREADS: usize = 2;

/// Names every frame of a recording.
#[must_use]
pub fn symbolize(recording: Recording, options: &Options) -> Profile {
    let wanted = Wanted::of(&recording);
    let names = Names::look_up(&wanted, &recording.modules, options);
    Profile {
        stacks: recording.stacks.map(|frame| names.frames(frame)),
        metadata: recording.metadata,
        metrics: recording.metrics,
        losses: recording.losses,
        samples: recording.samples,
        complete: recording.complete,
    }
}

/// The addresses to look up, ascending and distinct.
struct Wanted {
    /// By module.
    user: Vec<(ModuleId, Vec<u64>)>,
    kernel: Vec<u64>,
}

impl Wanted {
    fn of(recording: &Recording) -> Self {
        let mut user = vec![Vec::new(); recording.modules.len()];
        let mut kernel = Vec::new();
        for frame in recording.stacks.frames() {
            match frame {
                RawFrame::User { module, address } => {
                    if let Some(addresses) = user.get_mut(module.0 as usize) {
                        addresses.push(address.lookup());
                    }
                }
                RawFrame::Kernel(address) => kernel.push(address.lookup()),
                _ => {}
            }
        }
        sort(&mut kernel);
        let user = (0..).map(ModuleId).zip(user).filter(|(_, addresses)| !addresses.is_empty());
        let user = user.map(|(module, mut addresses)| {
            sort(&mut addresses);
            (module, addresses)
        });
        Self { user: user.collect(), kernel }
    }
}

fn sort(addresses: &mut Vec<u64>) {
    addresses.sort_unstable();
    addresses.dedup();
}

/// What was found.
struct Names {
    modules: Vec<Arc<Module>>,
    user: FxHashMap<(ModuleId, u64), Vec<Frame>>,
    kernel: FxHashMap<u64, Frame>,
}

impl Names {
    fn look_up(wanted: &Wanted, modules: &[Arc<Module>], options: &Options) -> Self {
        let next = AtomicUsize::new(0);
        let user = Mutex::new(FxHashMap::default());
        let work = || {
            while let Some((id, addresses)) = wanted.user.get(next.fetch_add(1, Ordering::Relaxed))
            {
                let Some(module) = modules.get(id.0 as usize) else { continue };
                let found = user_frames(module, addresses, modules, options);
                let mut user = user.lock().unwrap_or_else(PoisonError::into_inner);
                user.extend(found.into_iter().map(|(address, frames)| ((*id, address), frames)));
            }
        };
        let kernel = std::thread::scope(|scope| {
            // This thread begins with the kernel's list, which takes the kernel 0.1 s to print.
            for _ in 1..THREADS.min(wanted.user.len() + 1) {
                // Without it this thread does all.
                let _ = std::thread::Builder::new().spawn_scoped(scope, work);
            }
            let kernel = kernel_frames(&wanted.kernel, options);
            work();
            kernel
        });
        let user = user.into_inner().unwrap_or_else(PoisonError::into_inner);
        Self { modules: modules.to_vec(), user, kernel }
    }

    /// The named frames of a raw one, root side first.
    fn frames(&self, frame: &RawFrame) -> Vec<Frame> {
        let marker = |text: String| vec![Frame::placeholder(text, FrameKind::Marker)];
        match frame {
            RawFrame::Process(name) => vec![Frame::symbol(Arc::clone(name), FrameKind::Process)],
            RawFrame::Thread(name) => vec![Frame::symbol(Arc::clone(name), FrameKind::Thread)],
            RawFrame::User { module, address } => {
                match self.user.get(&(*module, address.lookup())) {
                    Some(frames) => frames.clone(),
                    None => vec![self.unknown(*module, *address)],
                }
            }
            RawFrame::Unmapped(_) => vec![Frame::placeholder("[unknown]", FrameKind::Native)],
            RawFrame::Kernel(address) => match self.kernel.get(&address.lookup()) {
                Some(frame) => vec![frame.clone()],
                None => vec![Frame::placeholder("[kernel]", FrameKind::Kernel)],
            },
            RawFrame::Named(frame) => vec![frame.clone()],
            RawFrame::Truncated(cause) => marker(format!("[truncated: {}]", cause.name())),
            RawFrame::Lost(cause) => marker(format!("[lost: {}]", cause.name())),
        }
    }

    fn unknown(&self, module: ModuleId, address: CodeAddress) -> Frame {
        let Some(module) = self.modules.get(module.0 as usize) else {
            return Frame::placeholder("[unknown]", FrameKind::Native);
        };
        // An address in anonymous memory means nothing to anybody, and differs in every run.
        if let ModuleKind::Anonymous { .. } = module.kind {
            return Frame::placeholder("[anonymous code]", FrameKind::Jit);
        }
        let name = file_name(&module.path);
        Frame {
            module: Some(name.into()),
            ..Frame::placeholder(unknown(name, address.raw()), FrameKind::Native)
        }
    }
}

/// The frames of each address of a module that has names.
fn user_frames(
    module: &Module,
    addresses: &[u64],
    modules: &[Arc<Module>],
    options: &Options,
) -> Vec<(u64, Vec<Frame>)> {
    // The file is somebody else's: should a parser panic over it, its names are lost, no more.
    let chains = catch_unwind(AssertUnwindSafe(|| match module.kind {
        ModuleKind::File => module::resolve(module, addresses, options),
        ModuleKind::Vdso => match vdso::image() {
            Ok(image) => module::resolve_image(&image, module, addresses, options),
            Err(_) => Vec::new(),
        },
        ModuleKind::Anonymous { pid } => {
            let names = jit::names(pid, addresses, &options.proc_root, modules);
            names.into_iter().map(|name| name.iter().map(|n| Named::made(n)).collect()).collect()
        }
    }));
    let name: Arc<str> = file_name(&module.path).into();
    let named = addresses.iter().zip(chains.unwrap_or_default());
    let named = named.filter(|(_, chain)| !chain.is_empty());
    let kind = match module.kind {
        ModuleKind::Anonymous { .. } => FrameKind::Jit,
        _ => FrameKind::Native,
    };
    named.map(|(address, chain)| (*address, frames(chain, kind, &name))).collect()
}

fn frames(chain: Chain, kind: FrameKind, module: &Arc<str>) -> Vec<Frame> {
    let frame = |(level, named): (usize, Named)| Frame {
        inlined: level > 0,
        symbol: named.known,
        module: (kind == FrameKind::Native).then(|| Arc::clone(module)),
        file: named.position.file.map(Into::into),
        line: named.position.line,
        ..Frame::symbol(named.name, kind)
    };
    chain.into_iter().enumerate().map(frame).collect()
}

fn kernel_frames(addresses: &[u64], options: &Options) -> FxHashMap<u64, Frame> {
    if !options.kernel {
        return FxHashMap::default();
    }
    let functions = kernel::names(&options.proc_root, addresses).unwrap_or_default();
    let named = addresses.iter().zip(functions).filter_map(|(address, function)| {
        let function = function?;
        let module = function.module.map(Into::into);
        Some((*address, Frame { module, ..Frame::symbol(function.name, FrameKind::Kernel) }))
    });
    named.collect()
}

#[cfg(test)]
mod tests;
