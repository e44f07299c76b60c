//! Control and debug registers, TLB invalidation, HLT, XCR0 (SDM vol. 3A, chapter 2; vol. 2, the instructions).

use ir::{Regs, Stop, Then};

use super::{Ret, done};
use crate::bus::Bus;
use crate::cpu::Cpu;
use crate::exception::{self, Exception};
use crate::state::{Seg, cr0, cr4, efer};

pub(super) fn note<B: Bus>(cpu: &mut Cpu<B>, _: &mut Regs, a: u64, _: u64, _: u32) -> Ret {
    cpu.note = a;
    done(0)
}

pub(super) fn check_supervisor<B: Bus>(cpu: &mut Cpu<B>, _: &mut Regs, _: u64, _: u64, _: u32) -> Ret {
    supervisor(cpu)?;
    done(0)
}

fn supervisor<B: Bus>(cpu: &mut Cpu<B>) -> Result<(), Stop> {
    if cpu.sys.cpl != 0 { cpu.gp(0) } else { Ok(()) }
}

pub(super) fn read_cr<B: Bus>(cpu: &mut Cpu<B>, _: &mut Regs, _: u64, _: u64, n: u32) -> Ret {
    supervisor(cpu)?;
    done(match n {
        0 => cpu.sys.cr0,
        2 => cpu.sys.cr2,
        3 => cpu.sys.cr3,
        4 => cpu.sys.cr4,
        _ => u64::from(cpu.bus.cr8()),
    })
}

pub(super) fn write_cr<B: Bus>(cpu: &mut Cpu<B>, regs: &mut Regs, v: u64, _: u64, n: u32) -> Ret {
    supervisor(cpu)?;
    let ok = match n {
        0 => cpu.set_cr0(v),
        2 => {
            cpu.sys.cr2 = v;
            Some(())
        }
        3 => cpu.set_cr3(v),
        4 => cpu.set_cr4(v),
        _ => {
            if v > 15 {
                return cpu.gp(0);
            }
            let then = cpu.bus.set_cr8(v as u8);
            return Ok((0, cpu.note_look(then)));
        }
    };
    match ok {
        Some(()) => {
            cpu.update_mode(regs);
            done(0)
        }
        None => cpu.gp(0),
    }
}

impl<B: Bus> Cpu<B> {
    /// Whether PAE paging outside long mode is in use with these registers.
    fn pae(cr0: u64, cr4: u64, efer: u64) -> bool {
        cr0 & cr0::PG != 0 && cr4 & cr4::PAE != 0 && efer & efer::LMA == 0
    }

    /// Write CR0; `None` is #GP.
    pub(crate) fn set_cr0(&mut self, v: u64) -> Option<()> {
        if v >> 32 != 0 {
            return None;
        }
        let v = v & cr0::ALL | cr0::ET;
        let old = self.sys.cr0;
        let changed = v ^ old;
        if v & cr0::PG != 0 && v & cr0::PE == 0 || v & cr0::NW != 0 && v & cr0::CD == 0 {
            return None;
        }
        let mut efer = self.sys.efer;
        if changed & cr0::PG != 0 {
            if v & cr0::PG != 0 {
                if efer & efer::LME != 0 {
                    if self.sys.cr4 & cr4::PAE == 0 || self.sys.seg(Seg::Cs).long() {
                        return None;
                    }
                    efer |= efer::LMA;
                }
            } else {
                if self.sys.code64() || self.sys.cr4 & cr4::PCIDE != 0 {
                    return None;
                }
                efer &= !efer::LMA;
            }
        }
        if changed & (cr0::PG | cr0::CD | cr0::NW) != 0 && Self::pae(v, self.sys.cr4, efer) {
            self.load_pdptes(self.sys.cr3).ok()?;
        }
        self.sys.cr0 = v;
        self.sys.efer = efer;
        if changed & (cr0::PG | cr0::WP | cr0::PE) != 0 {
            self.tlb.flush_all();
        }
        Some(())
    }

    /// Write CR3; `None` is #GP.
    pub(crate) fn set_cr3(&mut self, v: u64) -> Option<()> {
        let pcide = self.sys.cr4 & cr4::PCIDE != 0;
        let keep = pcide && v >> 63 != 0;
        let v = if pcide { v & !(1 << 63) } else { v };
        if self.sys.long_mode() && v & !self.phys_mask != 0 {
            return None;
        }
        if Self::pae(self.sys.cr0, self.sys.cr4, self.sys.efer) {
            self.load_pdptes(v).ok()?;
        }
        self.sys.cr3 = v;
        let pcid = if pcide { v as u16 & 0xfff } else { 0 };
        if !keep {
            self.tlb.flush_space(pcid);
        }
        self.tlb.select_space(pcid);
        Some(())
    }

    /// Write CR4; `None` is #GP.
    pub(crate) fn set_cr4(&mut self, v: u64) -> Option<()> {
        let old = self.sys.cr4;
        let changed = v ^ old;
        if v & !cr4::ALL != 0 {
            return None;
        }
        if self.sys.long_mode() && v & cr4::PAE == 0 {
            return None;
        }
        if changed & v & cr4::PCIDE != 0 && (!self.sys.long_mode() || self.sys.cr3 & 0xfff != 0) {
            return None;
        }
        if changed & (cr4::PAE | cr4::PGE | cr4::PSE | cr4::SMEP) != 0 && Self::pae(self.sys.cr0, v, self.sys.efer) {
            self.load_pdptes(self.sys.cr3).ok()?;
        }
        self.sys.cr4 = v;
        // CR4.FSGSBASE is a bit of the mode that emitted code does not look at: its links go with the TLB's generation.
        let spaces = cr4::PAE | cr4::PGE | cr4::PSE | cr4::PCIDE | cr4::SMEP | cr4::SMAP;
        if changed & (spaces | cr4::FSGSBASE) != 0 {
            self.tlb.flush_all();
            self.tlb.select_space(if v & cr4::PCIDE != 0 { self.sys.cr3 as u16 & 0xfff } else { 0 });
        }
        Some(())
    }
}

/// DR7.GD, general detect.
const GD: u64 = 1 << 13;

/// The number that DR4 and DR5 stand for, or #UD with CR4.DE; and the general checks of a debug register access.
fn debug_register<B: Bus>(cpu: &mut Cpu<B>, n: u32) -> Result<u32, Stop> {
    supervisor(cpu)?;
    let n = match n {
        4 | 5 if cpu.sys.cr4 & cr4::DE != 0 => return cpu.ud(),
        4 | 5 => n + 2,
        n => n,
    };
    if cpu.sys.dr7 & GD != 0 {
        // DR6.BD says why; GD is cleared so that the handler can look.
        cpu.sys.dr7 &= !GD;
        return cpu.fault(Exception { dr6: 1 << 13, ..Exception::fault(exception::DB) });
    }
    Ok(n)
}

pub(super) fn read_dr<B: Bus>(cpu: &mut Cpu<B>, _: &mut Regs, _: u64, _: u64, n: u32) -> Ret {
    done(match debug_register(cpu, n)? {
        6 => cpu.sys.dr6,
        7 => cpu.sys.dr7,
        n => cpu.sys.dr[n as usize & 3],
    })
}

pub(super) fn write_dr<B: Bus>(cpu: &mut Cpu<B>, _: &mut Regs, v: u64, _: u64, n: u32) -> Ret {
    match debug_register(cpu, n)? {
        n @ 6..=7 => {
            if v >> 32 != 0 {
                return cpu.gp(0);
            }
            if n == 6 {
                cpu.sys.dr6 = v & 0xe00f | 0xffff_0ff0;
            } else {
                cpu.sys.dr7 = v & 0xffff_2bff | 0x400;
            }
        }
        n => cpu.sys.dr[n as usize & 3] = v,
    }
    done(0)
}

pub(super) fn clts<B: Bus>(cpu: &mut Cpu<B>, regs: &mut Regs, _: u64, _: u64, _: u32) -> Ret {
    supervisor(cpu)?;
    cpu.sys.cr0 &= !cr0::TS;
    cpu.update_mode(regs);
    done(0)
}

pub(super) fn lmsw<B: Bus>(cpu: &mut Cpu<B>, regs: &mut Regs, a: u64, _: u64, _: u32) -> Ret {
    // It can set PE, but not clear it.
    let v = cpu.sys.cr0 & !0xe | a & 0xf;
    if cpu.set_cr0(v).is_none() {
        return cpu.gp(0);
    }
    cpu.update_mode(regs);
    done(0)
}

pub(super) fn invlpg<B: Bus>(cpu: &mut Cpu<B>, _: &mut Regs, a: u64, _: u64, _: u32) -> Ret {
    supervisor(cpu)?;
    // A non-canonical address is a no-op; no entry can have it.
    let va = cpu.fold(a);
    cpu.tlb.flush_page(va);
    done(0)
}

pub(super) fn invpcid<B: Bus>(cpu: &mut Cpu<B>, _: &mut Regs, kind: u64, address: u64, _: u32) -> Ret {
    let pcid = cpu.note;
    let enabled = cpu.sys.cr4 & cr4::PCIDE != 0;
    if kind > 3 || pcid >> 12 != 0 && kind < 2 || kind < 2 && !enabled && pcid != 0 {
        return cpu.gp(0);
    }
    match kind {
        0 => {
            if !Cpu::<B>::canonical(address) {
                return cpu.gp(0);
            }
            cpu.tlb.flush_page(address);
        }
        1 => cpu.tlb.flush_space(pcid as u16),
        2 => cpu.tlb.flush_all(),
        _ => cpu.tlb.flush_spaces(),
    }
    done(0)
}

pub(super) fn halt<B: Bus>(cpu: &mut Cpu<B>, _: &mut Regs, _: u64, _: u64, _: u32) -> Ret {
    supervisor(cpu)?;
    cpu.sys.halted = true;
    done(0)
}

pub(super) fn xgetbv<B: Bus>(cpu: &mut Cpu<B>, _: &mut Regs, index: u64, _: u64, _: u32) -> Ret {
    if index as u32 != 0 {
        return cpu.gp(0);
    }
    done(cpu.sys.xcr0)
}

pub(super) fn xsetbv<B: Bus>(cpu: &mut Cpu<B>, regs: &mut Regs, index: u64, v: u64, _: u32) -> Ret {
    supervisor(cpu)?;
    if index as u32 != 0 || !cpu.model.xcr0_may_be(v) {
        return cpu.gp(0);
    }
    cpu.sys.xcr0 = v;
    cpu.update_mode(regs);
    Ok((0, Then::Continue))
}
