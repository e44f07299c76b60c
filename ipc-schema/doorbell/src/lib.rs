//! doorbell.
