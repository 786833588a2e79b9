//! Writing profiles.
