//! Page-table walks: none, 32-bit, PAE and 4-level paging (SDM vol. 3A, chapter "Paging").
//!
//! Table entries are read as they are in RAM (all ones outside of it), permissions are checked for the whole path first, and
//! only then accessed and dirty bits are set, each by compare-and-swap on the entry that was read; if a swap fails the walk
//! starts over.

use mem::{Bank, PageSize};

use super::Right;
use crate::bus::Bus;
use crate::cpu::Cpu;
use crate::state::{cr0, cr4, efer};

/// A successful walk.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Walked {
    /// Guest-physical address of the byte asked for.
    pub gpa: u64,
    /// What a data read in this bank may do.
    pub read: bool,
    /// What a fetch in this bank may do.
    pub exec: bool,
    pub user: bool,
    pub global: bool,
    pub size: PageSize,
}

/// Error code bits of #PF.
pub(crate) mod code {
    pub const P: u32 = 1;
    pub const W: u32 = 1 << 1;
    pub const U: u32 = 1 << 2;
    pub const RSVD: u32 = 1 << 3;
    pub const I: u32 = 1 << 4;
}

// Entry bits, the same in every format.
const P: u64 = 1;
const W: u64 = 1 << 1;
const U: u64 = 1 << 2;
const A: u64 = 1 << 5;
const D: u64 = 1 << 6;
const PS: u64 = 1 << 7;
const G: u64 = 1 << 8;
const XD: u64 = 1 << 63;

/// Bits 12..=51 of an entry.
const FRAME: u64 = 0x000f_ffff_ffff_f000;

/// Why a walk ends without a translation.
enum Miss {
    NotPresent,
    Reserved,
}

/// One entry of a path.
#[derive(Clone, Copy, Default)]
struct Step {
    at: u64,
    entry: u64,
}

/// The entries that a walk went through, up to four.
#[derive(Default)]
struct Path {
    steps: [Step; 4],
    len: usize,
    /// Rights accumulated over the levels.
    write: bool,
    user: bool,
    no_exec: bool,
    base: u64,
    size_bits: u32,
}

impl Path {
    fn push(&mut self, at: u64, entry: u64) {
        if self.len == 0 {
            (self.write, self.user) = (true, true);
        }
        self.write &= entry & W != 0;
        self.user &= entry & U != 0;
        self.no_exec |= entry & XD != 0;
        self.steps[self.len] = Step { at, entry };
        self.len += 1;
    }
}

impl<B: Bus> Cpu<B> {
    /// Translate linear address `va` for an access in `bank`.
    ///
    /// # Errors
    /// The error code of the page fault.
    pub(crate) fn walk(&mut self, va: u64, right: Right, bank: Bank) -> Result<Walked, u32> {
        if self.sys.cr0 & cr0::PG == 0 {
            let gpa = va & 0xffff_ffff;
            return Ok(Walked { gpa, read: true, exec: true, user: false, global: false, size: PageSize::Small });
        }
        loop {
            let path = match self.path(va) {
                Ok(path) => path,
                Err(Miss::NotPresent) => return Err(self.error_code(0, right, bank)),
                Err(Miss::Reserved) => return Err(self.error_code(code::P | code::RSVD, right, bank)),
            };
            let (read, write, exec) = self.rights(&path, bank);
            let allowed = match right {
                Right::Read => read,
                Right::Write => write,
                Right::Exec => exec,
            };
            if !allowed {
                return Err(self.error_code(code::P, right, bank));
            }
            if !self.touch(&path, right == Right::Write) {
                continue;
            }
            let last = path.steps[path.len - 1].entry;
            return Ok(Walked {
                gpa: path.base | va & ((1 << path.size_bits) - 1),
                read,
                exec,
                user: path.user,
                global: last & G != 0 && self.sys.cr4 & cr4::PGE != 0,
                size: match path.size_bits {
                    12 => PageSize::Small,
                    30 => PageSize::Huge,
                    _ => PageSize::Large,
                },
            });
        }
    }

    fn error_code(&self, base: u32, right: Right, bank: Bank) -> u32 {
        let mut e = base;
        if matches!(bank, Bank::User | Bank::Checked) {
            e |= code::U;
        }
        if right == Right::Write {
            e |= code::W;
        }
        let no_exec = self.sys.cr4 & cr4::PAE != 0 && self.sys.efer & efer::NXE != 0;
        if right == Right::Exec && (no_exec || self.sys.cr4 & cr4::SMEP != 0) {
            e |= code::I;
        }
        e
    }

    /// (read, write, fetch) allowed in `bank`.
    fn rights(&self, path: &Path, bank: Bank) -> (bool, bool, bool) {
        match bank {
            Bank::User | Bank::Checked => (path.user, path.user && path.write, path.user && !path.no_exec),
            Bank::Supervisor | Bank::Strict => {
                let data = !(path.user && bank == Bank::Strict);
                let write = path.write || self.sys.cr0 & cr0::WP == 0;
                let smep = path.user && self.sys.cr4 & cr4::SMEP != 0;
                (data, data && write, !path.no_exec && !smep)
            }
        }
    }

    /// Set accessed bits, and the dirty bit of the last entry. Answers false if an entry has changed meanwhile.
    fn touch(&mut self, path: &Path, write: bool) -> bool {
        let narrow = self.sys.cr4 & cr4::PAE == 0;
        for (i, s) in path.steps[..path.len].iter().enumerate() {
            let mut want = s.entry | A;
            if write && i + 1 == path.len {
                want |= D;
            }
            if want != s.entry {
                let done = if narrow {
                    self.mem.replace(s.at, s.entry as u32, want as u32)
                } else {
                    self.mem.replace(s.at, s.entry, want)
                };
                if !done {
                    return false;
                }
                self.entry_written(s.at, if narrow { 4 } else { 8 });
            }
        }
        true
    }

    fn path(&self, va: u64) -> Result<Path, Miss> {
        if self.sys.cr4 & cr4::PAE == 0 {
            self.path32(va)
        } else if self.sys.long_mode() {
            self.path64(self.sys.cr3 & FRAME, va, 4)
        } else {
            // The four top entries were loaded with CR3 and grant everything.
            let entry = self.sys.pdpte[(va >> 30 & 3) as usize];
            if entry & P == 0 {
                return Err(Miss::NotPresent);
            }
            self.path64(entry & FRAME, va, 2)
        }
    }

    /// 32-bit paging, 4 MiB pages with 40-bit addresses.
    fn path32(&self, va: u64) -> Result<Path, Miss> {
        let mut path = Path::default();
        let at = (self.sys.cr3 & 0xffff_f000) | (va >> 22 & 0x3ff) << 2;
        let pde = u64::from(self.mem.read::<u32>(at));
        if pde & P == 0 {
            return Err(Miss::NotPresent);
        }
        path.push(at, pde);
        if pde & PS != 0 && self.sys.cr4 & cr4::PSE != 0 {
            if pde & 1 << 21 != 0 {
                return Err(Miss::Reserved);
            }
            path.base = pde & 0xffc0_0000 | (pde >> 13 & 0xff) << 32;
            path.size_bits = 22;
            return Ok(path);
        }
        let at = (pde & 0xffff_f000) | (va >> 12 & 0x3ff) << 2;
        let pte = u64::from(self.mem.read::<u32>(at));
        if pte & P == 0 {
            return Err(Miss::NotPresent);
        }
        path.push(at, pte);
        (path.base, path.size_bits) = (pte & 0xffff_f000, 12);
        Ok(path)
    }

    /// The last `levels` levels of PAE or 4-level paging.
    fn path64(&self, mut table: u64, va: u64, levels: u32) -> Result<Path, Miss> {
        let mut path = Path::default();
        let long = self.sys.long_mode();
        // Addresses wider than the CPU has, XD without EFER.NXE, and in PAE tables bits 52 to 62.
        let mut reserved = FRAME & !self.phys_mask;
        if self.sys.efer & efer::NXE == 0 {
            reserved |= XD;
        }
        if !long {
            reserved |= 0x7ff0_0000_0000_0000;
        }
        for level in (1..=levels).rev() {
            let shift = 12 + 9 * (level - 1);
            let at = table | (va >> shift & 0x1ff) << 3;
            let entry = self.mem.read::<u64>(at);
            if entry & P == 0 {
                return Err(Miss::NotPresent);
            }
            path.push(at, entry);
            let leaf = level == 1 || level < 4 && entry & PS != 0;
            let page = if leaf && level > 1 { (1u64 << shift) - 0x2000 } else { 0 };
            let bad = reserved | page | if level == 4 { PS } else { 0 };
            if entry & bad != 0 {
                return Err(Miss::Reserved);
            }
            if leaf {
                path.base = entry & FRAME & !((1 << shift) - 1);
                path.size_bits = shift;
                return Ok(path);
            }
            table = entry & FRAME;
        }
        // Level 1 is always a leaf.
        Err(Miss::NotPresent)
    }

    /// Load the top entries of PAE paging from CR3.
    ///
    /// # Errors
    /// Reserved bits are set in a present entry (#GP).
    pub(crate) fn load_pdptes(&mut self, cr3: u64) -> Result<(), ()> {
        let mut new = [0; 4];
        for (i, slot) in new.iter_mut().enumerate() {
            let entry = self.mem.read::<u64>((cr3 & 0xffff_ffe0) + 8 * i as u64);
            if entry & P != 0 && entry & (0x1e6 | !self.phys_mask) != 0 {
                return Err(());
            }
            *slot = entry;
        }
        self.sys.pdpte = new;
        Ok(())
    }
}
