//! What the kernel side and the user side of flame-graph share: the wire types ([`wire`]), the stack
//! walker ([`walk`]), where a thread's time goes ([`threads`]) and the matcher of thread names
//! ([`glob`]).
//!
//! The crate is `no_std` and does no I/O, so the very source that the BPF verifier accepts also
//! runs in host tests and in the fallback engine.
#![no_std]

pub mod glob;
pub mod threads;
pub mod walk;
pub mod wire;
