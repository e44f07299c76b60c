//! Portable floating point for f32 and f64 with the differences between architectures as data.
