//! Shared helpers of the golden, CLI and live tests.
