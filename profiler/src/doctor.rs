//! `flame-graph doctor`: what this host allows.
