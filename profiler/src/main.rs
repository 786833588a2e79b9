//! The flame-graph command.

fn main() {}
