//! The native engine: aya programs that sample and walk stacks in the kernel.
