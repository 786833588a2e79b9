//! What is profiled and what the host allows: `/proc`, processes, capabilities.
