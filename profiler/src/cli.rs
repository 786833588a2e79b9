//! What was typed: the command line as clap parses it.
