//! What a case is made of: the addresses it uses, the state before it, its bytes, and how it ended.
//!
//! The idea: one plain layout that the runner's child reads and writes in shared memory, and that the guest side converts to
//! and from; so that comparing is comparing fields.

/// Two pages of code at this address, filled with INT3 around the instruction; the page behind them is not mapped.
pub const CODE: u64 = 0x1000_0000;
/// Bytes of code.
pub const CODE_LEN: u64 = 0x2000;
/// Two writable pages, then one that may only be read; around them nothing is mapped.
pub const DATA: u64 = 0x2000_0000;
/// The same pages again, above 4 GiB; the low half of this address leads nowhere.
pub const DATA_HIGH: u64 = 0x1234_6000_0000;
/// Bytes that may be written.
pub const RW_LEN: u64 = 0x2000;
/// Bytes that may be read.
pub const DATA_LEN: u64 = 0x3000;
/// What lies around the instruction.
pub const INT3: u8 = 0xcc;
/// Room for instructions.
pub const MAX_BYTES: usize = 80;

/// Selector of 32-bit user code, as Linux lays its GDT out.
pub const CS32: u16 = 0x23;
/// Selector of user data.
pub const DS: u16 = 0x2b;
/// Selector of 64-bit user code.
pub const CS64: u16 = 0x33;
/// The first segment of the local table: base [`FS32_BASE`], 4 GiB.
pub const FS32: u16 = 0x07;
/// The second segment of the local table: base [`GS32_BASE`], limit [`GS32_LIMIT`].
pub const GS32: u16 = 0x0f;
/// Base of [`FS32`]: 16-bit addresses reach the data.
pub const FS32_BASE: u32 = DATA as u32 - 0x4000;
/// Base of [`GS32`].
pub const GS32_BASE: u32 = DATA as u32 - 0x1000;
/// Limit of [`GS32`] in bytes: it ends within the second page.
pub const GS32_LIMIT: u32 = 0x1000 + 0x17ff;

/// The state of x87 and SSE as FXSAVE64 stores it (SDM vol. 2A, "FXSAVE", 64-bit with REX.W), without its reserved end.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Fx {
    /// Control word.
    pub cw: u16,
    /// Status word.
    pub sw: u16,
    /// Abridged tags.
    pub tags: u8,
    /// Reserved.
    pub zero: u8,
    /// Opcode.
    pub op: u16,
    /// Instruction pointer.
    pub ip: u64,
    /// Data pointer.
    pub dp: u64,
    /// SSE control and status.
    pub mxcsr: u32,
    /// Bits that exist in it.
    pub mxcsr_mask: u32,
    /// ST(0) to ST(7) in 80 bits each.
    pub st: [u128; 8],
    /// XMM0 to XMM15.
    pub xmm: [u128; 16],
}

/// The state of a user program.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct State {
    /// x87 and SSE.
    pub fx: Fx,
    /// RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8 to R15.
    pub gpr: [u64; 16],
    /// Program counter.
    pub rip: u64,
    /// Flags.
    pub eflags: u64,
    /// Bases of FS and GS.
    pub base: [u64; 2],
    /// Selectors of ES, CS, SS, DS, FS, GS.
    pub sel: [u16; 6],
    /// Fills the struct up.
    pub pad: [u16; 2],
    /// The upper halves of YMM0 to YMM15; zero where the host has no AVX.
    pub ymm_upper: [u128; 16],
}

/// How a case ended: the exception that came last. A case that runs through ends with #BP, RIP behind an INT3.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Stop {
    /// Vector.
    pub vector: u32,
    /// Error code, 0 if there is none.
    pub error: u32,
    /// Address of a page fault, else 0.
    pub cr2: u64,
}

/// The memory that may be written.
pub type Rw = [u8; RW_LEN as usize];

/// A case.
#[repr(C)]
#[derive(Clone, Debug)]
pub struct Case {
    /// The state before it.
    pub state: State,
    /// Where the bytes lie.
    pub at: u64,
    /// How many bytes.
    pub len: u64,
    /// The bytes.
    pub bytes: [u8; MAX_BYTES],
    /// Memory before it.
    pub rw: Rw,
}

impl Default for Case {
    fn default() -> Case {
        Case { state: State::default(), at: 0, len: 0, bytes: [0; MAX_BYTES], rw: [0; RW_LEN as usize] }
    }
}

impl Case {
    /// Whether it starts in 64-bit code.
    pub fn long(&self) -> bool {
        self.state.sel[1] == CS64
    }

    /// The instruction's bytes.
    pub fn code(&self) -> &[u8] {
        &self.bytes[..self.len as usize]
    }

    /// The bytes of the two code pages.
    pub fn code_pages(&self) -> Vec<u8> {
        let mut pages = vec![INT3; CODE_LEN as usize];
        for (i, b) in self.code().iter().enumerate() {
            if let Some(p) = pages.get_mut((self.at - CODE) as usize + i) {
                *p = *b;
            }
        }
        pages
    }
}

/// A case's end.
#[repr(C)]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// State after it.
    pub state: State,
    /// What ended it.
    pub stop: Stop,
    /// Memory after it.
    pub rw: Rw,
}

impl Default for Outcome {
    fn default() -> Outcome {
        Outcome { state: State::default(), stop: Stop::default(), rw: [0; RW_LEN as usize] }
    }
}

/// The content of the page that may only be read: the same in all cases.
pub fn read_only_page() -> Vec<u8> {
    let mut r = crate::rng::Rng::new(0x0123_4567_89ab_cdef);
    (0..(DATA_LEN - RW_LEN) / 8).flat_map(|_| r.next().to_le_bytes()).collect()
}
