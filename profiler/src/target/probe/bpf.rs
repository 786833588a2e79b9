//! The `bpf(2)` system call, as far as probing needs it. With `perf.rs` the only unsafe code here.

use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

use super::programs::Insn;

const BPF_MAP_CREATE: libc::c_long = 0;
const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_BTF_LOAD: libc::c_long = 18;

/// Bytes for what the verifier says of a program of ten instructions.
const LOG_SIZE: usize = 64 << 10;

/// A program to load.
#[derive(Clone, Copy, Default)]
pub(super) struct Program<'a> {
    /// `enum bpf_prog_type`.
    pub kind: u32,
    pub instructions: &'a [Insn],
    /// `enum bpf_attach_type`, for tracing programs.
    pub attach_type: u32,
    /// The kernel's BTF type that a tracing program attaches to.
    pub attach_btf_id: u32,
    /// `BPF_F_SLEEPABLE` and its like.
    pub flags: u32,
    /// BTF, and which of its types are functions at which instruction.
    pub functions: Option<(&'a OwnedFd, &'a [[u32; 2]])>,
}

/// A map to create.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(super) struct Map {
    /// `enum bpf_map_type`.
    pub kind: u32,
    pub key_size: u32,
    pub value_size: u32,
    pub max_entries: u32,
    pub flags: u32,
    /// File descriptor of the map that shows what an outer map holds.
    pub inner: u32,
}

/// `union bpf_attr` of `BPF_PROG_LOAD`, up to what Linux 5.10 knows: older kernels take it as
/// long as what they do not know is 0.
#[repr(C)]
#[derive(Default)]
struct LoadAttr {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; 16],
    prog_ifindex: u32,
    expected_attach_type: u32,
    prog_btf_fd: u32,
    func_info_rec_size: u32,
    func_info: u64,
    func_info_cnt: u32,
    line_info_rec_size: u32,
    line_info: u64,
    line_info_cnt: u32,
    attach_btf_id: u32,
    attach_prog_fd: u32,
    padding: u32,
}

const _: () = assert!(size_of::<LoadAttr>() == 120);

/// `union bpf_attr` of `BPF_BTF_LOAD`.
#[repr(C)]
#[derive(Default)]
struct BtfAttr {
    btf: u64,
    log_buf: u64,
    size: u32,
    log_size: u32,
    log_level: u32,
    padding: u32,
}

impl Program<'_> {
    /// Loads it; it is not attached to anything and goes with its descriptor.
    pub(super) fn load(&self) -> io::Result<OwnedFd> {
        self.load_with_log(&mut [])
    }

    /// What the verifier says when it is loaded.
    pub(super) fn log(&self) -> String {
        let mut log = vec![0; LOG_SIZE];
        let _ = self.load_with_log(&mut log);
        let end = log.iter().position(|byte| *byte == 0).unwrap_or(log.len());
        String::from_utf8_lossy(&log[..end]).trim_end().to_owned()
    }

    fn load_with_log(&self, log: &mut [u8]) -> io::Result<OwnedFd> {
        const LICENSE: &[u8] = b"GPL\0";
        let mut attr = LoadAttr {
            prog_type: self.kind,
            insn_cnt: self.instructions.len() as u32,
            insns: self.instructions.as_ptr() as u64,
            license: LICENSE.as_ptr() as u64,
            expected_attach_type: self.attach_type,
            attach_btf_id: self.attach_btf_id,
            prog_flags: self.flags,
            ..LoadAttr::default()
        };
        if let Some((btf, functions)) = self.functions {
            attr.prog_btf_fd = btf.as_raw_fd() as u32;
            attr.func_info_rec_size = size_of::<[u32; 2]>() as u32;
            attr.func_info = functions.as_ptr() as u64;
            attr.func_info_cnt = functions.len() as u32;
        }
        if !log.is_empty() {
            attr.log_level = 1;
            attr.log_size = log.len() as u32;
            attr.log_buf = log.as_mut_ptr() as u64;
        }
        // SAFETY: a command's own attributes; instructions, licence and function table are read
        // only and outlive the call, and the kernel writes no more than `log_size` bytes of `log`.
        unsafe { bpf(BPF_PROG_LOAD, &mut attr) }
    }
}

impl Map {
    /// Creates it; it goes with its descriptor.
    pub(super) fn create(mut self) -> io::Result<OwnedFd> {
        // SAFETY: a command's own attributes, which hold no address.
        unsafe { bpf(BPF_MAP_CREATE, &mut self) }
    }
}

/// Loads BTF.
pub(super) fn load_btf(btf: &[u8]) -> io::Result<OwnedFd> {
    let size = btf.len() as u32;
    let mut attr = BtfAttr { btf: btf.as_ptr() as u64, size, ..BtfAttr::default() };
    // SAFETY: a command's own attributes; `btf` is read only and outlives the call.
    unsafe { bpf(BPF_BTF_LOAD, &mut attr) }
}

/// A command that returns a new file descriptor (the kernel makes it close-on-exec).
///
/// # Safety
///
/// `attr` must be laid out as the command's part of `union bpf_attr`, and the addresses in it be
/// valid for what the command does with them.
unsafe fn bpf<T>(command: libc::c_long, attr: &mut T) -> io::Result<OwnedFd> {
    let attr: *mut T = attr;
    // SAFETY: the kernel reads at most the given size from `attr`; the rest is the caller's promise.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attr, size_of::<T>()) };
    match i32::try_from(result) {
        // SAFETY: a new descriptor that nothing else owns.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}
