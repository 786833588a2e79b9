//! From addresses to names: a [`Recording`] becomes a [`Profile`], in which no address is left.
//!
//! * User code: the symbol tables and the debug information of the mapped file itself, read through
//!   the handle that was opened while its process lived, or of its debug file. blazesym reads the
//!   files that only root can change ([`blaze`]); our own readers ([`elf`], [`dwarf`]) bound what a
//!   hostile file can make them do, and read those that anybody else can change ([`crate::target::image`]).
//! * Debug files that the host lacks: from servers, when asked for ([`debuginfod`]).
//! * The vDSO and the kernel ([`kernel`]): from the running kernel.
//! * Code made at run time ([`jit`]): from the files that its process wrote.
//!
//! A file that is missing or broken costs only its own names. Frames without one read
//! `[module+0xoffset]`, where the offset is that of the byte in the file at which the function
//! begins when unwind tables tell ([`unnamed`]), else of the address itself.

mod blaze;
mod debug_files;
pub mod debuginfod;
pub mod dwarf;
pub mod elf;
mod go;
pub mod jit;
pub mod kernel;
mod mini;
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
        stacks::StackId,
    },
    target::{image, vdso},
};
use jit::{LATEST, Moment};
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
    /// More of them, in debuginfod's layout.
    pub debug_caches: Vec<PathBuf>,
    /// Which servers are asked for debug files that are still missing; none: no server.
    pub debuginfod: Option<debuginfod::Settings>,
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
            debug_caches: Vec::new(),
            debuginfod: None,
            trusts: image::only_root_changes,
        }
    }
}

/// Modules are read by this many threads.
const THREADS: usize = 2;

/// Names every frame of a recording.
#[must_use]
pub fn symbolize(recording: Recording, options: &Options) -> Profile {
    symbolize_marked(recording, &mut [], options)
}

/// As [`symbolize`]; `marks` are stacks of the recording, and become those of the profile.
#[must_use]
pub fn symbolize_marked(recording: Recording, marks: &mut [StackId], options: &Options) -> Profile {
    let wanted = Wanted::of(&recording);
    let names = Names::look_up(&wanted, &recording.modules, options);
    Profile {
        stacks: recording.stacks.map_marked(marks, |frame| names.frames(frame)),
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
    user: Vec<(ModuleId, Addresses)>,
    kernel: Vec<u64>,
}

/// Addresses in a module.
enum Addresses {
    /// In a file or the vDSO.
    Fixed(Vec<u64>),
    /// In the anonymous memory of a process.
    Made(u32, Vec<Moment>),
}

impl Addresses {
    fn of(module: &Module) -> Self {
        match module.kind {
            ModuleKind::Anonymous { pid } => Self::Made(pid, Vec::new()),
            ModuleKind::File | ModuleKind::Vdso => Self::Fixed(Vec::new()),
        }
    }

    fn add(&mut self, address: CodeAddress, time: u64) {
        let address = address.lookup();
        match self {
            Self::Fixed(addresses) => addresses.push(address),
            Self::Made(_, moments) => moments.push(Moment { address, time }),
        }
    }

    fn sort(&mut self) {
        match self {
            Self::Fixed(addresses) => sort(addresses),
            Self::Made(_, moments) => sort(moments),
        }
    }

    fn is_empty(&self) -> bool {
        match self {
            Self::Fixed(addresses) => addresses.is_empty(),
            Self::Made(_, moments) => moments.is_empty(),
        }
    }
}

impl Wanted {
    fn of(recording: &Recording) -> Self {
        let of = |module: &Arc<Module>| Addresses::of(module);
        let mut user: Vec<Addresses> = recording.modules.iter().map(of).collect();
        let mut kernel = Vec::new();
        for frame in recording.stacks.frames() {
            let (module, address, time) = match frame {
                RawFrame::User { module, address } => (module, address, LATEST),
                RawFrame::Made { module, address, time } => (module, address, *time),
                RawFrame::Kernel(address) => {
                    kernel.push(address.lookup());
                    continue;
                }
                _ => continue,
            };
            if let Some(addresses) = user.get_mut(module.0 as usize) {
                addresses.add(*address, time);
            }
        }
        sort(&mut kernel);
        let user = (0..).map(ModuleId).zip(user).filter(|(_, addresses)| !addresses.is_empty());
        let user = user.map(|(module, mut addresses)| {
            addresses.sort();
            (module, addresses)
        });
        Self { user: user.collect(), kernel }
    }
}

fn sort<T: Ord>(addresses: &mut Vec<T>) {
    addresses.sort_unstable();
    addresses.dedup();
}

/// What was found.
struct Names {
    modules: Vec<Arc<Module>>,
    user: FxHashMap<(ModuleId, u64), Vec<Frame>>,
    made: FxHashMap<(ModuleId, Moment), Frame>,
    kernel: FxHashMap<u64, Frame>,
}

impl Names {
    fn look_up(wanted: &Wanted, modules: &[Arc<Module>], options: &Options) -> Self {
        let next = AtomicUsize::new(0);
        let found = Mutex::new((FxHashMap::default(), FxHashMap::default()));
        let work = || {
            while let Some((id, addresses)) = wanted.user.get(next.fetch_add(1, Ordering::Relaxed))
            {
                let Some(module) = modules.get(id.0 as usize) else { continue };
                let lock = || found.lock().unwrap_or_else(PoisonError::into_inner);
                match addresses {
                    Addresses::Fixed(addresses) => {
                        let frames = user_frames(module, addresses, options);
                        lock().0.extend(frames.into_iter().map(|(at, frames)| ((*id, at), frames)));
                    }
                    Addresses::Made(pid, moments) => {
                        let frames = made_frames(*pid, module, moments, options);
                        lock().1.extend(frames.into_iter().map(|(at, frame)| ((*id, at), frame)));
                    }
                }
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
        let (user, made) = found.into_inner().unwrap_or_else(PoisonError::into_inner);
        let mut names = Self { modules: modules.to_vec(), user, made, kernel };
        if let Some(settings) = &options.debuginfod {
            names.ask_servers(wanted, settings, options);
        }
        names
    }

    /// Gets debug files for what has no names on this host.
    fn ask_servers(&mut self, wanted: &Wanted, settings: &debuginfod::Settings, options: &Options) {
        let is_nameless = |id, address: &u64| {
            let frames = self.user.get(&(id, *address));
            frames.is_none_or(|frames| frames.iter().all(|frame| !frame.symbol))
        };
        let mut lacking = Vec::new();
        for (id, addresses) in &wanted.user {
            let Addresses::Fixed(addresses) = addresses else { continue };
            let Some(module) = self.modules.get(id.0 as usize) else { continue };
            if let Some(build_id) = &module.build_id
                && addresses.iter().any(|address| is_nameless(*id, address))
            {
                lacking.push((*id, Arc::clone(module), build_id.clone(), addresses));
            }
        }
        let mut ids: Vec<Vec<u8>> = lacking.iter().map(|(_, _, id, _)| id.clone()).collect();
        sort(&mut ids);
        if ids.is_empty() {
            return;
        }
        let Some(fetched) = debuginfod::fetch(settings, ids) else { return };
        let caches = vec![fetched.folder().to_owned()];
        let options = Options { debug_caches: caches, ..options.clone() };
        for (id, module, build_id, addresses) in lacking {
            if fetched.has(&build_id) {
                let frames = user_frames(&module, addresses, &options);
                self.user.extend(frames.into_iter().map(|(at, frames)| ((id, at), frames)));
            }
        }
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
                    None => vec![self.made(*module, *address, LATEST)],
                }
            }
            RawFrame::Made { module, address, time } => {
                vec![self.made(*module, *address, *time)]
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

    fn made(&self, module: ModuleId, address: CodeAddress, time: u64) -> Frame {
        let moment = Moment { address: address.lookup(), time };
        let frame = self.made.get(&(module, moment)).cloned();
        frame.unwrap_or_else(|| self.unknown(module, address))
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

/// The frames of each address of a file or the vDSO that has names.
fn user_frames(module: &Module, addresses: &[u64], options: &Options) -> Vec<(u64, Vec<Frame>)> {
    // The file is somebody else's: should a parser panic over it, its names are lost, no more.
    let chains = catch_unwind(AssertUnwindSafe(|| match module.kind {
        ModuleKind::Vdso => match vdso::image() {
            Ok(image) => module::resolve_image(&image, module, addresses, options),
            Err(_) => Vec::new(),
        },
        _ => module::resolve(module, addresses, options),
    }));
    let name: Arc<str> = file_name(&module.path).into();
    let named = addresses.iter().zip(chains.unwrap_or_default());
    let named = named.filter(|(_, chain)| !chain.is_empty());
    named.map(|(address, chain)| (*address, frames(chain, &name))).collect()
}

/// The frame of each moment in a process's anonymous memory that has a name.
fn made_frames(
    pid: u32,
    module: &Module,
    moments: &[Moment],
    options: &Options,
) -> Vec<(Moment, Frame)> {
    let dump = module.file.as_ref();
    // As above.
    let found =
        catch_unwind(AssertUnwindSafe(|| jit::names(pid, moments, &options.proc_root, dump)));
    let jit::Found { names, by_moment } = found.unwrap_or_default();
    // One text for each name, which many moments share.
    let mut frames: Vec<Option<Frame>> = vec![None; names.len()];
    let mut frame = |number: usize| {
        let made = || Frame::symbol(names::made(&names[number]), FrameKind::Jit);
        frames[number].get_or_insert_with(made).clone()
    };
    let named = moments.iter().zip(by_moment);
    named.filter_map(|(moment, number)| Some((*moment, frame(number?)))).collect()
}

fn frames(chain: Chain, module: &Arc<str>) -> Vec<Frame> {
    let frame = |(level, named): (usize, Named)| Frame {
        inlined: level > 0,
        symbol: named.known,
        module: Some(Arc::clone(module)),
        file: named.position.file.map(Into::into),
        line: named.position.line,
        ..Frame::symbol(named.name, FrameKind::Native)
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
