//! How many of each thing one VM may have. Shared-memory arenas are sized from these before lock-down, so they are
//! constants and not configuration (design/shared-memory.md, "Maxima").

/// vCPUs of one VM.
pub const MAX_VCPUS: usize = 64;
/// Device processes of one VM, the board included.
pub const MAX_DEVICES: usize = 64;
/// Queues of one virtio device.
pub const MAX_QUEUES: usize = 16;
/// Interrupt lines (global system interrupts) of a board: inputs of its IOAPIC.
pub const MAX_LINES: usize = 24;
