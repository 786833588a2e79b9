//! The shapes that flow from sources to exporters: raw frames and recordings before
//! symbolization, frames and profiles after it. Nothing here does I/O.

pub mod address;
pub mod frame;
pub mod loss;
pub mod metric;
pub mod profile;
pub mod secret;
pub mod stacks;
