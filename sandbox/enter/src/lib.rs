//! enter.
