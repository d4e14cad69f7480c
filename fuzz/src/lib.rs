//! The fuzz targets' bodies.

pub mod targets;
