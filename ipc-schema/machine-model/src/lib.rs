//! machine-model.
