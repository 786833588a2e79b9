//! bpf programs
fn main() {}
