//! The one module that knows every stage, from source to exporter.
