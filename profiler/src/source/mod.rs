//! Where samples come from.

pub mod folded;
