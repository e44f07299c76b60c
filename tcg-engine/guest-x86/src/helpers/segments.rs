//! Descriptors, segment registers, LDTR, TR, and the bases of FS and GS (SDM vol. 3A, chapters 3 and 5).

use ir::{Regs, Stop};

use super::{Ret, done, which};
use crate::bus::Bus;
use crate::cpu::Cpu;
use crate::exception::{self, Exception};
use crate::flags;
use crate::state::{EFLAGS, Seg, Segment, Shadow, Table, attr};

/// A descriptor as it is in its table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Descriptor {
    /// Its eight bytes.
    pub raw: u64,
    /// Its linear address.
    pub at: u64,
}

impl Descriptor {
    /// As it is loaded into a segment register.
    pub(crate) fn segment(self, selector: u16) -> Segment {
        let raw = self.raw;
        let attr = (raw >> 40) as u16 & 0xf0ff;
        let limit = (raw & 0xffff | raw >> 32 & 0xf_0000) as u32;
        let limit = if attr & attr::G != 0 { limit << 12 | 0xfff } else { limit };
        Segment { selector, attr, limit, base: raw >> 16 & 0xff_ffff | (raw >> 56) << 24 }
    }
}

impl<B: Bus> Cpu<B> {
    /// The descriptor that `selector` names, `None` if it lies beyond its table's limit.
    pub(crate) fn descriptor(&mut self, selector: u16) -> Result<Option<Descriptor>, Stop> {
        let (base, limit) = if selector & 4 != 0 {
            if !self.sys.ldtr.present() {
                return Ok(None);
            }
            (self.sys.ldtr.base, self.sys.ldtr.limit)
        } else {
            (self.sys.gdtr.base, u32::from(self.sys.gdtr.limit))
        };
        if u32::from(selector | 7) > limit {
            return Ok(None);
        }
        let at = base.wrapping_add(u64::from(selector & !7));
        Ok(Some(Descriptor { raw: self.system_read(at, 8)?, at }))
    }

    /// The descriptor, or #GP(selector).
    pub(crate) fn need_descriptor(&mut self, selector: u16, ext: u32) -> Result<Descriptor, Stop> {
        match self.descriptor(selector)? {
            Some(d) => Ok(d),
            None => self.gp(u32::from(selector & !3) | ext),
        }
    }

    /// Set the accessed bit of a code or data descriptor.
    pub(crate) fn set_accessed(&mut self, d: Descriptor) -> Result<(), Stop> {
        if d.raw & 1 << 40 == 0 {
            let byte = d.raw >> 40 & 0xff | 1;
            let _ = self.system_write(d.at.wrapping_add(5), 1, byte)?;
        }
        Ok(())
    }

    /// #NP with a selector.
    pub(crate) fn np<T>(&mut self, selector: u16, ext: u32) -> Result<T, Stop> {
        self.fault(Exception::with_code(exception::NP, u32::from(selector & !3) | ext))
    }

    /// The segment that loading `selector` into data register `s` gives (SDM vol. 2B, MOV).
    fn data_segment(&mut self, s: Seg, selector: u16) -> Result<Segment, Stop> {
        let cpl = self.sys.cpl;
        let rpl = (selector & 3) as u8;
        if selector & !3 == 0 {
            if s == Seg::Ss {
                if !self.sys.code64() || cpl == 3 || rpl != cpl {
                    return self.gp(0);
                }
                return Ok(null_stack(selector));
            }
            return Ok(Segment::null(selector));
        }
        let d = self.need_descriptor(selector, 0)?;
        let mut seg = d.segment(selector);
        let code = u32::from(selector & !3);
        let is_segment = seg.attr & attr::S != 0;
        if s == Seg::Ss {
            if !is_segment || rpl != cpl || seg.dpl() != cpl || !seg.writable() {
                return self.gp(code);
            }
            if !seg.present() {
                return self.fault(Exception::with_code(exception::SS, code));
            }
        } else {
            let conforming = seg.is_code() && seg.attr & 4 != 0;
            if !is_segment || !seg.readable() || !conforming && (rpl > seg.dpl() || cpl > seg.dpl()) {
                return self.gp(code);
            }
            if !seg.present() {
                return self.np(selector, 0);
            }
        }
        self.set_accessed(d)?;
        seg.attr |= 1;
        Ok(seg)
    }
}

/// SS as a 64-bit interrupt or a null selector leaves it; its DPL is the privilege level.
pub(crate) fn null_stack(selector: u16) -> Segment {
    Segment { selector, attr: attr::P | attr::S | 3 | (selector & 3) << 5, limit: u32::MAX, base: 0 }
}

/// A segment register as virtual-8086 mode has it.
pub(crate) fn v86_segment(selector: u16) -> Segment {
    Segment { selector, attr: attr::REAL_DATA | 3 << 5, limit: 0xffff, base: u64::from(selector) << 4 }
}

pub(super) fn load_segment<B: Bus>(cpu: &mut Cpu<B>, regs: &mut Regs, a: u64, _: u64, imm: u32) -> Ret {
    let Some(s) = Seg::from_index(imm as usize) else { return cpu.ud() };
    let selector = a as u16;
    let value = if regs.get(EFLAGS) & flags::VM != 0 {
        v86_segment(selector)
    } else if cpu.sys.protected() {
        cpu.data_segment(s, selector)?
    } else {
        cpu.sys.seg(s).real(selector)
    };
    cpu.set_seg(regs, s, value);
    if s == Seg::Ss {
        cpu.sys.shadow = Shadow::MovSs;
    }
    if !cpu.sys.code64() {
        cpu.update_mode(regs);
    }
    done(0)
}

pub(super) fn read_system<B: Bus>(cpu: &mut Cpu<B>, _: &mut Regs, _: u64, _: u64, what: u32) -> Ret {
    let sys = &cpu.sys;
    done(match what {
        which::LDTR => u64::from(sys.ldtr.selector),
        which::TR => u64::from(sys.tr.selector),
        which::MSW => sys.cr0,
        which::GDT_LIMIT => u64::from(sys.gdtr.limit),
        which::GDT_BASE => sys.gdtr.base,
        which::IDT_LIMIT => u64::from(sys.idtr.limit),
        which::IDT_BASE => sys.idtr.base,
        _ => sys.tsc_aux,
    })
}

/// Visibility of a descriptor to LAR, LSL, VERR and VERW: `None` if it may not be looked at.
fn visible<B: Bus>(cpu: &mut Cpu<B>, selector: u16) -> Result<Option<(Segment, u64)>, Stop> {
    if selector & !3 == 0 {
        return Ok(None);
    }
    let Some(d) = cpu.descriptor(selector)? else { return Ok(None) };
    let seg = d.segment(selector);
    let conforming = seg.attr & attr::S != 0 && seg.attr & 0xc == 0xc;
    let hidden = !conforming && (cpu.sys.cpl > seg.dpl() || (selector & 3) as u8 > seg.dpl());
    Ok((!hidden).then_some((seg, d.raw)))
}

const VALID: u64 = 1 << 32;

pub(super) fn lar<B: Bus>(cpu: &mut Cpu<B>, _: &mut Regs, a: u64, _: u64, _: u32) -> Ret {
    let Some((seg, raw)) = visible(cpu, a as u16)? else { return done(0) };
    let system = seg.attr & attr::S == 0;
    let long = cpu.sys.long_mode();
    // Interrupt and trap gates are not shown; in long mode only 64-bit system types are.
    let shown = match seg.kind() {
        _ if !system => true,
        2 | 9 | 0xb | 0xc => true,
        1 | 3 | 4 | 5 => !long,
        _ => false,
    };
    // Bits 16 to 19 are undefined; processors give the limit's upper bits.
    done(if shown { raw >> 32 & 0x00ff_ff00 | VALID } else { 0 })
}

pub(super) fn lsl<B: Bus>(cpu: &mut Cpu<B>, _: &mut Regs, a: u64, _: u64, _: u32) -> Ret {
    let Some((seg, _)) = visible(cpu, a as u16)? else { return done(0) };
    let shown = match seg.kind() {
        _ if seg.attr & attr::S != 0 => true,
        2 | 9 | 0xb => true,
        1 | 3 => !cpu.sys.long_mode(),
        _ => false,
    };
    done(if shown { u64::from(seg.limit) | VALID } else { 0 })
}

pub(super) fn verify<B: Bus>(cpu: &mut Cpu<B>, _: &mut Regs, a: u64, _: u64, write: u32) -> Ret {
    let ok = visible(cpu, a as u16)?
        .is_some_and(|(s, _)| s.attr & attr::S != 0 && if write != 0 { s.writable() } else { s.readable() });
    done(u64::from(ok))
}

/// A system descriptor with its upper half in long mode.
fn system_segment<B: Bus>(cpu: &mut Cpu<B>, selector: u16) -> Result<(Descriptor, Segment), Stop> {
    let code = u32::from(selector & !3);
    if selector & 4 != 0 {
        return cpu.gp(code);
    }
    let d = cpu.need_descriptor(selector, 0)?;
    let mut seg = d.segment(selector);
    if cpu.sys.long_mode() {
        if u32::from(selector & !7) + 15 > u32::from(cpu.sys.gdtr.limit) {
            return cpu.gp(code);
        }
        seg.base |= cpu.system_read(d.at.wrapping_add(8), 8)? << 32;
        if !Cpu::<B>::canonical(seg.base) {
            return cpu.gp(code);
        }
    }
    Ok((d, seg))
}

pub(super) fn lldt<B: Bus>(cpu: &mut Cpu<B>, _: &mut Regs, a: u64, _: u64, _: u32) -> Ret {
    let selector = a as u16;
    if selector & !3 == 0 {
        cpu.sys.ldtr = Segment::null(selector);
        return done(0);
    }
    let (_, seg) = system_segment(cpu, selector)?;
    if seg.attr & 0x1f != 2 {
        return cpu.gp(u32::from(selector & !3));
    }
    if !seg.present() {
        return cpu.np(selector, 0);
    }
    cpu.sys.ldtr = seg;
    done(0)
}

pub(super) fn ltr<B: Bus>(cpu: &mut Cpu<B>, _: &mut Regs, a: u64, _: u64, _: u32) -> Ret {
    let selector = a as u16;
    if selector & !3 == 0 {
        return cpu.gp(0);
    }
    let (d, mut seg) = system_segment(cpu, selector)?;
    // An available TSS: 16-bit (not in long mode) or 32/64-bit.
    if !(seg.attr & 0x1f == 9 || seg.attr & 0x1f == 1 && !cpu.sys.long_mode()) {
        return cpu.gp(u32::from(selector & !3));
    }
    if !seg.present() {
        return cpu.np(selector, 0);
    }
    // It becomes busy.
    let _ = cpu.system_write(d.at.wrapping_add(5), 1, d.raw >> 40 & 0xff | 2)?;
    seg.attr |= 2;
    cpu.sys.tr = seg;
    done(0)
}

pub(super) fn load_table<B: Bus>(cpu: &mut Cpu<B>, _: &mut Regs, a: u64, b: u64, what: u32) -> Ret {
    if cpu.sys.long_mode() && !Cpu::<B>::canonical(a) {
        return cpu.gp(0);
    }
    let table = Table { base: a, limit: b as u16 };
    if what == which::GDT_BASE {
        cpu.sys.gdtr = table;
    } else {
        cpu.sys.idtr = table;
    }
    done(0)
}
