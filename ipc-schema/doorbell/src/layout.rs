//! The layout of the `windows` memfd, as constants: every offset that two processes must agree on.
//!
//! ```text
//! 0x000000  header, 64 KiB; each page has one writer, so that a mapping grants no more than a process needs
//!   page 0     identity: magic, version, sizes           written once by the creator, read by all
//!   page 1     guest clock                               written by the engine, read by all
//!   page 2     exchange: end-of-interrupt vectors, forwarded lines (engine sets, board takes);
//!              raised lines (board sets, engine takes)   written by engine and board
//!   page 3..7  interrupt routes: 256 rows of 64 bytes    written by the board, read by the engine
//!   page 7     the PIC's INTR output                     written by the board, read by the engine
//! 0x010000  64 device areas of 256 KiB; each is written by its device and by the engine
//!   +0x00000   64 register slots of 64 bytes, one per vCPU
//!   +0x01000   control page: ring indices, wake-up words, line levels, index latch, function table
//!   +0x02000   posted-write ring: 256 entries of 32 bytes
//!   +0x04000   shadow page 0: 64 cells of 8 bytes; then shadow pages 1..=10, one per PCI function
//!   +0x0f000   formulas: 32 rows of 128 bytes
//!   +0x10000   committed state: commit word, two copies
//!   +0x20000   bulk, 128 KiB: console streams, or shadow pages 11..=42
//! ```

/// "AtollWin", little-endian, at the start of the memfd.
pub const MAGIC: u64 = u64::from_le_bytes(*b"AtollWin");
/// Changes with this file.
pub const VERSION: u64 = 1;

/// Devices that have an area.
pub const MAX_DEVICES: u16 = 64;
/// vCPUs that have a slot in each area.
pub const MAX_VCPUS: usize = 64;
/// Interrupt lines, that is, rows of the route table.
pub const MAX_LINES: usize = 256;

const PAGE: u64 = 4096;

/// Length of the header.
pub const HEADER_LEN: u64 = 16 * PAGE;
/// Identity and clock: mapped by all, writable by the engine only.
pub const CLOCK_PAGES: (u64, u64) = (0, 2 * PAGE);
/// Offset of the clock in [`CLOCK_PAGES`].
pub const CLOCK: u64 = PAGE;
/// The page that engine and board both write.
pub const EXCHANGE_PAGES: (u64, u64) = (2 * PAGE, PAGE);
/// Offset in [`EXCHANGE_PAGES`] of the vectors whose level-triggered interrupt has ended: 256 bits.
pub const EOI: u64 = 0;
/// Offset in [`EXCHANGE_PAGES`] of the lines that rose and need the board: 256 bits.
pub const FORWARDED: u64 = 64;
/// Offset in [`EXCHANGE_PAGES`] of the lines that the board raises itself: 256 bits.
pub const RAISED: u64 = 128;
/// What the board alone writes.
pub const BOARD_PAGES: (u64, u64) = (3 * PAGE, 5 * PAGE);
/// Offset of the route table in [`BOARD_PAGES`].
pub const ROUTES: u64 = 0;
/// Bytes of one route row.
pub const ROUTE_LEN: u64 = 64;
/// Offset of the INTR word in [`BOARD_PAGES`].
pub const EXTINT: u64 = 4 * PAGE;

/// Length of a device area.
pub const AREA_LEN: u64 = 256 << 10;
/// Length of the memfd.
pub const WINDOWS_LEN: u64 = HEADER_LEN + MAX_DEVICES as u64 * AREA_LEN;

/// Offset of the register slots in an area.
pub const SLOTS: u64 = 0;
/// Bytes of a slot: a cache line.
pub const SLOT_LEN: u64 = 64;
/// Offset of the control page in an area.
pub const CONTROL: u64 = PAGE;
/// Offset of the posted-write ring in an area.
pub const POSTED: u64 = 2 * PAGE;
/// Entries of the posted-write ring.
pub const POSTED_ENTRIES: u64 = 256;
/// Bytes of an entry.
pub const POSTED_LEN: u64 = 32;
/// Offset of shadow page 0 in an area.
pub const SHADOWS: u64 = 4 * PAGE;
/// Shadow cells of 8 bytes on shadow page 0.
pub const SHADOW_CELLS: u16 = 64;
/// Shadow pages before the formulas, page 0 included.
pub const NEAR_SHADOW_PAGES: u16 = 11;
/// Shadow pages in all.
pub const SHADOW_PAGES: u16 = NEAR_SHADOW_PAGES + 32;
/// Offset of the formula table in an area.
pub const FORMULAS: u64 = 15 * PAGE;
/// Rows of the formula table.
pub const FORMULA_ROWS: u16 = 32;
/// Bytes of a formula row.
pub const FORMULA_LEN: u64 = 128;
/// Offset of the committed state in an area.
pub const STATE: u64 = 64 << 10;
/// Offset of the first copy from [`STATE`]; the commit word lies before it.
pub const STATE_COPIES: u64 = PAGE;
/// Bytes of each copy, its head included.
pub const STATE_COPY_LEN: u64 = 30 << 10;
/// Offset of the bulk part in an area.
pub const BULK: u64 = 128 << 10;
/// Offset of the console streams' control block in an area.
pub const STREAM_CONTROL: u64 = BULK;
/// No stream gets this far; a position that says so was written by somebody else, and counts as this one.
pub const MAX_POSITION: u64 = 1 << 62;
/// Offset of the ring of console input in an area.
pub const IN_RING: u64 = BULK + (32 << 10);
/// Bytes of the ring of console input, a power of two.
pub const IN_RING_LEN: u64 = 32 << 10;
/// Offset of the ring of console output in an area.
pub const OUT_RING: u64 = BULK + (64 << 10);
/// Bytes of the ring of console output, a power of two.
pub const OUT_RING_LEN: u64 = 64 << 10;

/// PCI functions that a board can give a shadow page: function `i` of the table has page `i + 1`.
pub const MAX_FUNCTIONS: usize = SHADOW_PAGES as usize - 1;
/// Interrupt lines whose level word lies in a device's own area.
pub const LEVELS: usize = 4;

/// Offset of a device's area in the memfd.
pub const fn area_offset(device: u16) -> u64 {
    HEADER_LEN + device as u64 * AREA_LEN
}

/// Offset of shadow page `n` in an area, for `n` below [`SHADOW_PAGES`].
pub const fn shadow_page_offset(n: u16) -> u64 {
    if n < NEAR_SHADOW_PAGES { SHADOWS + n as u64 * PAGE } else { BULK + (n - NEAR_SHADOW_PAGES) as u64 * PAGE }
}

const _: () = {
    assert!(BOARD_PAGES.0 + BOARD_PAGES.1 <= HEADER_LEN);
    assert!(ROUTES + MAX_LINES as u64 * ROUTE_LEN <= EXTINT && EXTINT < BOARD_PAGES.1);
    assert!(SLOTS + MAX_VCPUS as u64 * SLOT_LEN <= CONTROL);
    assert!(POSTED + POSTED_ENTRIES * POSTED_LEN <= SHADOWS);
    assert!(shadow_page_offset(NEAR_SHADOW_PAGES - 1) + PAGE <= FORMULAS);
    assert!(shadow_page_offset(SHADOW_PAGES - 1) + PAGE <= AREA_LEN);
    assert!(FORMULAS + FORMULA_ROWS as u64 * FORMULA_LEN <= STATE);
    assert!(STATE + STATE_COPIES + 2 * STATE_COPY_LEN <= BULK);
    assert!(OUT_RING + OUT_RING_LEN <= AREA_LEN && IN_RING + IN_RING_LEN <= OUT_RING);
};
