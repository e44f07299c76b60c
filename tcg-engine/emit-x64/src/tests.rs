//! What is emitted decodes back to what was meant.
