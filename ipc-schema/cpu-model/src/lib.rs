//! cpu-model.
