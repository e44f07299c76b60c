//! CPUID, clocks, random numbers, model-specific registers.

use cpu_model::{Access, msr};
use ir::{Regs, Then};

use super::{Ret, done};
use crate::bus::Bus;
use crate::cpu::Cpu;
use crate::flags;
use crate::state::{KERNEL_GS_BASE, RAX, RBX, RCX, RDX, Seg, cr0, cr4, efer, set_arithmetic};

pub(super) fn cpuid<B: Bus>(cpu: &mut Cpu<B>, regs: &mut Regs, _: u64, _: u64, _: u32) -> Ret {
    let r = cpu.cpuid(regs.get(RAX) as u32, regs.get(RCX) as u32);
    for (slot, v) in [RAX, RBX, RCX, RDX].into_iter().zip(r) {
        regs.set(slot, u64::from(v));
    }
    done(0)
}

pub(super) fn rdtsc<B: Bus>(cpu: &mut Cpu<B>, _: &mut Regs, _: u64, _: u64, _: u32) -> Ret {
    if cpu.sys.cr4 & cr4::TSD != 0 && cpu.sys.cpl > 0 {
        return cpu.gp(0);
    }
    done(cpu.bus.tsc())
}

pub(super) fn rdpmc<B: Bus>(cpu: &mut Cpu<B>, _: &mut Regs, _: u64, _: u64, _: u32) -> Ret {
    cpu.gp(0)
}

pub(super) fn rdrand<B: Bus>(cpu: &mut Cpu<B>, regs: &mut Regs, _: u64, _: u64, bits: u32) -> Ret {
    let v = cpu.bus.random();
    set_arithmetic(regs, if v.is_some() { flags::CF } else { 0 });
    done(v.unwrap_or(0) & (u64::MAX >> (64 - bits)))
}

pub(super) fn rdmsr<B: Bus>(cpu: &mut Cpu<B>, regs: &mut Regs, index: u64, _: u64, _: u32) -> Ret {
    if cpu.sys.cpl != 0 {
        return cpu.gp(0);
    }
    cpu.settle_bases(regs);
    match cpu.read_msr(index as u32) {
        Some(v) => done(v),
        None => cpu.gp(0),
    }
}

pub(super) fn wrmsr<B: Bus>(cpu: &mut Cpu<B>, regs: &mut Regs, index: u64, v: u64, _: u32) -> Ret {
    if cpu.sys.cpl != 0 {
        return cpu.gp(0);
    }
    match cpu.write_msr(regs, index as u32, v) {
        Some(then) => Ok((0, cpu.note_look(then))),
        None => cpu.gp(0),
    }
}

/// Whether every byte of a PAT value is a memory type that exists (SDM vol. 3A, table "Memory types that can be encoded
/// with PAT").
fn valid_pat(v: u64) -> bool {
    v.to_le_bytes().iter().all(|b| matches!(b, 0 | 1 | 4..=7))
}

impl<B: Bus> Cpu<B> {
    /// A model-specific register as RDMSR gives it; `None` is #GP. [`Cpu::settle_bases`] comes before.
    pub fn read_msr(&mut self, index: u32) -> Option<u64> {
        if (msr::X2APIC_FIRST..=msr::X2APIC_LAST).contains(&index) {
            return self.bus.x2apic_read(index).ok();
        }
        let row = self.model.msr(index)?;
        match row.access {
            Access::ReadOnly | Access::WriteIgnored => Some(row.reset),
            Access::Stored { .. } => self.stored_index(index).map(|i| self.sys.stored[i]),
            Access::Command { .. } => None,
            Access::Engine => self.read_engine_msr(index),
        }
    }

    /// Where a stored register's value is kept.
    pub(crate) fn stored_index(&self, index: u32) -> Option<usize> {
        let i = self.model.msrs.binary_search_by_key(&index, |m| m.index).ok()?;
        (i < self.sys.stored.len()).then_some(i)
    }

    fn read_engine_msr(&mut self, index: u32) -> Option<u64> {
        let sys = &self.sys;
        Some(match index {
            msr::TSC => self.bus.tsc(),
            msr::TSC_ADJUST => self.bus.tsc_adjust(),
            msr::TSC_DEADLINE => self.bus.tsc_deadline(),
            msr::APIC_BASE => self.bus.apic_base(),
            msr::SYSENTER_CS => sys.sysenter_cs,
            msr::SYSENTER_ESP => sys.sysenter_esp,
            msr::SYSENTER_EIP => sys.sysenter_eip,
            msr::PAT => sys.pat,
            msr::EFER => sys.efer,
            msr::STAR => sys.star,
            msr::LSTAR => sys.lstar,
            msr::CSTAR => sys.cstar,
            msr::FMASK => sys.fmask,
            msr::FS_BASE => sys.seg(Seg::Fs).base,
            msr::GS_BASE => sys.seg(Seg::Gs).base,
            msr::KERNEL_GS_BASE => sys.kernel_gs_base,
            msr::TSC_AUX => sys.tsc_aux,
            _ => return None,
        })
    }

    /// WRMSR; `None` is #GP, and nothing has changed.
    pub fn write_msr(&mut self, regs: &mut Regs, index: u32, v: u64) -> Option<Then> {
        if (msr::X2APIC_FIRST..=msr::X2APIC_LAST).contains(&index) {
            return self.bus.x2apic_write(index, v).ok();
        }
        match self.model.msr(index)?.access {
            Access::ReadOnly => return None,
            Access::WriteIgnored => {}
            Access::Command { mask } if v & !mask != 0 => return None,
            Access::Command { .. } => {}
            Access::Stored { mask } if v & !mask != 0 => return None,
            Access::Stored { .. } => {
                let i = self.stored_index(index)?;
                self.sys.stored[i] = v;
            }
            Access::Engine => return self.write_engine_msr(regs, index, v),
        }
        Some(Then::Continue)
    }

    fn write_engine_msr(&mut self, regs: &mut Regs, index: u32, v: u64) -> Option<Then> {
        let address = Self::canonical(v).then_some(v);
        let word = u32::try_from(v).ok().map(u64::from);
        match index {
            msr::TSC => self.bus.set_tsc(v),
            msr::TSC_ADJUST => self.bus.set_tsc_adjust(v),
            msr::TSC_DEADLINE => return Some(self.bus.set_tsc_deadline(v)),
            msr::APIC_BASE => {
                self.bus.set_apic_base(v).ok()?;
                return Some(Then::FinishInstruction);
            }
            msr::SYSENTER_CS => self.sys.sysenter_cs = word?,
            msr::SYSENTER_ESP => self.sys.sysenter_esp = address?,
            msr::SYSENTER_EIP => self.sys.sysenter_eip = address?,
            msr::PAT => self.sys.pat = valid_pat(v).then_some(v)?,
            msr::EFER => return self.write_efer(regs, v),
            msr::STAR => self.sys.star = v,
            msr::LSTAR => self.sys.lstar = address?,
            msr::CSTAR => self.sys.cstar = address?,
            msr::FMASK => self.sys.fmask = word?,
            msr::FS_BASE => self.set_base(regs, Seg::Fs, address?),
            msr::GS_BASE => self.set_base(regs, Seg::Gs, address?),
            msr::KERNEL_GS_BASE => {
                self.sys.kernel_gs_base = address?;
                regs.set(KERNEL_GS_BASE, v);
            }
            msr::TSC_AUX => self.sys.tsc_aux = word?,
            _ => return None,
        }
        Some(Then::Continue)
    }

    fn write_efer(&mut self, regs: &Regs, v: u64) -> Option<Then> {
        let old = self.sys.efer;
        if v & !(efer::ALL | efer::LMA) != 0 {
            return None;
        }
        if (v ^ old) & efer::LME != 0 && self.sys.cr0 & cr0::PG != 0 {
            return None;
        }
        self.sys.efer = v & efer::ALL | old & efer::LMA;
        if (v ^ old) & efer::NXE != 0 {
            self.tlb.flush_all();
        }
        self.update_mode(regs);
        Some(Then::Continue)
    }
}
