//! Merging and arranging stacks.
