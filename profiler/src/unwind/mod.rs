//! Unwind rows from `.eh_frame` and `.debug_frame`.
