//! The engine of perf events: the kernel samples user registers with a copy of the user stack, and
//! the stacks are walked here, by the same walker and the same rows as in the kernel. For hosts
//! that load no BPF programs, and for users that may not.
//!
//! [`source`] runs it, [`events`] opens the events and their buffers, [`sample`] decodes what they
//! hold, [`filter`] drops what is not wanted, [`names`] knows the threads' names, [`tables`] is the
//! memory of the walker's tables, [`waits`] times what threads wait.

pub mod events;
pub mod filter;
pub mod names;
pub mod sample;
pub mod source;
pub mod tables;
pub mod waits;
