//! Files made by hand: one segment of text and a few sections.
