//! Far transfers: JMP, CALL, RET, IRET, software interrupts, nested ENTER.
//!
//! Each reads and checks everything before it changes anything. Task switches do not exist here: jumping to or through a TSS,
//! and IRET with NT outside long mode, raise #GP.

use ir::{PC, Regs, Stop, Then};

use super::flagword::{changeable, iopl};
use super::segments::{null_stack, v86_segment};
use super::{Ret, done};
use crate::bus::Bus;
use crate::cpu::Cpu;
use crate::exception::{self, Exception, Source};
use crate::flags;
use crate::memory::{Right, within};
use crate::mode::Mode;
use crate::state::{EFLAGS, RBP, RSP, Seg, Segment, attr, eflags, set_eflags};

impl<B: Bus> Cpu<B> {
    /// The stack pointer's mask.
    pub(crate) fn stack_mask(&self) -> u64 {
        if self.sys.code64() {
            u64::MAX
        } else if self.sys.seg(Seg::Ss).big() {
            0xffff_ffff
        } else {
            0xffff
        }
    }

    /// Set the stack pointer, as wide as the current stack is.
    pub(crate) fn set_sp(&self, regs: &mut Regs, v: u64) {
        let mask = self.stack_mask();
        // A 32-bit stack pointer clears the upper half.
        let keep = if mask == 0xffff { regs.get(RSP) & !0xffff } else { 0 };
        regs.set(RSP, keep | v & mask);
    }

    /// Read `count` values of `bytes` from the top of the stack, lowest address first.
    fn peek_stack<const N: usize>(&mut self, regs: &Regs, bytes: u64, from: u64) -> Result<[u64; N], Stop> {
        let mut out = [0; N];
        for (i, v) in out.iter_mut().enumerate() {
            let offset = regs.get(RSP).wrapping_add(from + bytes * i as u64) & self.stack_mask();
            *v = self.read_stack(offset, bytes)?;
        }
        Ok(out)
    }

    /// The linear address of `bytes` at a stack offset, after every check but that of its pages.
    fn stack_address(&mut self, offset: u64, bytes: u64, right: Right) -> Result<u64, Stop> {
        let va = self.segmented(Seg::Ss, offset, bytes, right)?;
        self.check_canonical_stack(va, bytes)?;
        self.check_ac(va, bytes)?;
        Ok(va)
    }

    fn read_stack(&mut self, offset: u64, bytes: u64) -> Result<u64, Stop> {
        let va = self.stack_address(offset, bytes, Right::Read)?;
        self.read_linear(va, bytes, Right::Read)
    }

    /// Write a value below the stack offset `sp`, which moves there.
    fn push_below(&mut self, sp: &mut u64, bytes: u64, v: u64) -> Result<Then, Stop> {
        *sp = sp.wrapping_sub(bytes) & self.stack_mask();
        let va = self.stack_address(*sp, bytes, Right::Write)?;
        self.write_linear(va, bytes, v)
    }

    fn check_canonical_stack(&mut self, va: u64, bytes: u64) -> Result<(), Stop> {
        if self.sys.long_mode() && !(Self::canonical(va) && Self::canonical(va.wrapping_add(bytes - 1))) {
            return self.fault(Exception::with_code(exception::SS, 0));
        }
        Ok(())
    }

    /// Push values (the first one ends up highest) on the current stack and move its pointer.
    pub(crate) fn push_stack(&mut self, regs: &mut Regs, bytes: u64, values: &[u64]) -> Result<(), Stop> {
        let size = bytes * values.len() as u64;
        let mask = self.stack_mask();
        let low = regs.get(RSP).wrapping_sub(size) & mask;
        let va = self.segmented(Seg::Ss, low, size, Right::Write)?;
        self.check_canonical_stack(va, size)?;
        self.check_ac(va, bytes)?;
        let bank = self.tlb.bank();
        self.push_frame(bank, va.wrapping_add(size), bytes, values)?;
        self.set_sp(regs, low);
        Ok(())
    }

    /// The checks of a code segment that is jumped to or called (SDM vol. 2A, JMP): the segment, with RPL = CPL.
    fn direct_code(&mut self, selector: u16) -> Result<Segment, Stop> {
        let code = u32::from(selector & !3);
        if code == 0 {
            return self.gp(0);
        }
        let d = self.need_descriptor(selector, 0)?;
        let seg = d.segment(selector);
        let (cpl, rpl) = (self.sys.cpl, (selector & 3) as u8);
        if seg.attr & attr::S == 0 || !seg.is_code() {
            // Gates and task state segments: see the module's description; call gates are resolved by the caller.
            return self.gp(code);
        }
        let conforming = seg.attr & 4 != 0;
        if conforming && seg.dpl() > cpl || !conforming && (rpl > cpl || seg.dpl() != cpl) {
            return self.gp(code);
        }
        if !seg.present() {
            return self.np(selector, 0);
        }
        if self.sys.long_mode() && seg.long() && seg.big() {
            return self.gp(code);
        }
        self.set_accessed(d)?;
        Ok(Segment { selector: selector & !3 | u16::from(cpl), attr: seg.attr | 1, ..seg })
    }

    /// Whether execution may go on at `offset` in `seg`.
    pub(crate) fn check_target(&mut self, seg: &Segment, offset: u64) -> Result<(), Stop> {
        let ok = if self.sys.long_mode() && seg.long() {
            Self::canonical(offset)
        } else {
            within(seg, offset & 0xffff_ffff, 1)
        };
        if ok { Ok(()) } else { self.gp(0) }
    }

    /// Whether segments are loaded as in real mode.
    fn real_style(&self, regs: &Regs) -> bool {
        !self.sys.protected() || regs.get(EFLAGS) & flags::VM != 0
    }

    fn real_code(&self, regs: &Regs, selector: u16) -> Segment {
        if regs.get(EFLAGS) & flags::VM != 0 {
            return v86_segment(selector);
        }
        let cs = self.sys.seg(Seg::Cs);
        // In real mode a far jump makes a code segment like the one after a reset, whatever was loaded in protected mode.
        Segment { attr: attr::REAL_CODE | cs.attr & attr::DB, ..cs.real(selector) }
    }
}

pub(super) fn jump<B: Bus>(cpu: &mut Cpu<B>, regs: &mut Regs, offset: u64, selector: u64, _: u32) -> Ret {
    let selector = selector as u16;
    if cpu.real_style(regs) {
        let cs = cpu.real_code(regs, selector);
        if !within(&cs, offset, 1) {
            return cpu.gp(0);
        }
        cpu.set_seg(regs, Seg::Cs, cs);
        regs.set(PC, offset);
    } else {
        let (selector, offset) = cpu.through_gate(selector, offset)?;
        let cs = cpu.direct_code(selector)?;
        cpu.check_target(&cs, offset)?;
        cpu.set_seg(regs, Seg::Cs, cs);
        regs.set(PC, if cs.long() && cpu.sys.long_mode() { offset } else { offset & 0xffff_ffff });
    }
    cpu.update_mode(regs);
    done(0)
}

impl<B: Bus> Cpu<B> {
    /// If `selector` names a call gate, where it leads; else what was given.
    fn through_gate(&mut self, selector: u16, offset: u64) -> Result<(u16, u64), Stop> {
        let code = u32::from(selector & !3);
        if code == 0 {
            return Ok((selector, offset));
        }
        let d = self.need_descriptor(selector, 0)?;
        let gate = d.segment(selector);
        let long = self.sys.long_mode();
        let kind = match gate.kind() {
            _ if gate.attr & attr::S != 0 => return Ok((selector, offset)),
            4 if !long => 4,
            0xc => 0xc,
            _ => return self.gp(code),
        };
        if gate.dpl() < self.sys.cpl || gate.dpl() < (selector & 3) as u8 {
            return self.gp(code);
        }
        if !gate.present() {
            return self.np(selector, 0);
        }
        let mut target = d.raw & 0xffff;
        if kind == 0xc {
            target |= d.raw >> 32 & 0xffff_0000;
        }
        if long {
            target |= self.system_read(d.at.wrapping_add(8), 4)? << 32;
        }
        let to = (d.raw >> 16) as u16;
        if to & !3 == 0 {
            return self.gp(0);
        }
        // More privileged code through a gate would switch stacks, which is left out: the target's own check refuses it.
        Ok((to & !3 | u16::from(self.sys.cpl), target))
    }
}

pub(super) fn call<B: Bus>(cpu: &mut Cpu<B>, regs: &mut Regs, offset: u64, selector: u64, bytes: u32) -> Ret {
    let next = cpu.note;
    let selector = selector as u16;
    let frame = [u64::from(cpu.sys.seg(Seg::Cs).selector), next];
    if cpu.real_style(regs) {
        let cs = cpu.real_code(regs, selector);
        if !within(&cs, offset, 1) {
            return cpu.gp(0);
        }
        cpu.push_stack(regs, u64::from(bytes), &frame)?;
        cpu.set_seg(regs, Seg::Cs, cs);
        regs.set(PC, offset);
    } else {
        let (selector, offset) = cpu.through_gate(selector, offset)?;
        let cs = cpu.direct_code(selector)?;
        // The stack pointer has the width that the called code's stack has, and the target is looked at after the push.
        let old = std::mem::replace(&mut cpu.sys.seg[Seg::Cs as usize], cs);
        let sp = regs.get(RSP);
        let pushed = cpu.push_stack(regs, u64::from(bytes), &frame).and_then(|()| cpu.check_target(&cs, offset));
        if let Err(stop) = pushed {
            cpu.sys.seg[Seg::Cs as usize] = old;
            regs.set(RSP, sp);
            return Err(stop);
        }
        cpu.set_seg(regs, Seg::Cs, cs);
        regs.set(PC, if cs.long() && cpu.sys.long_mode() { offset } else { offset & 0xffff_ffff });
    }
    cpu.update_mode(regs);
    done(0)
}

impl<B: Bus> Cpu<B> {
    /// The checks of a code segment that is returned to (SDM vol. 2B, RET and IRET); its RPL is the new privilege level.
    fn return_code(&mut self, selector: u16) -> Result<Segment, Stop> {
        let code = u32::from(selector & !3);
        if code == 0 {
            return self.gp(0);
        }
        let d = self.need_descriptor(selector, 0)?;
        let seg = d.segment(selector);
        let rpl = (selector & 3) as u8;
        if seg.attr & attr::S == 0 || !seg.is_code() || rpl < self.sys.cpl {
            return self.gp(code);
        }
        let conforming = seg.attr & 4 != 0;
        if conforming && seg.dpl() > rpl || !conforming && seg.dpl() != rpl {
            return self.gp(code);
        }
        if !seg.present() {
            return self.np(selector, 0);
        }
        if self.sys.long_mode() && seg.long() && seg.big() {
            return self.gp(code);
        }
        self.set_accessed(d)?;
        Ok(Segment { attr: seg.attr | 1, ..seg })
    }

    /// The checks of a stack segment that is returned to with code segment `cs`.
    fn return_stack(&mut self, selector: u16, cs: &Segment) -> Result<Segment, Stop> {
        let rpl = (cs.selector & 3) as u8;
        let code = u32::from(selector & !3);
        if code == 0 {
            if self.sys.long_mode() && cs.long() && rpl != 3 && (selector & 3) as u8 == rpl {
                return Ok(null_stack(selector));
            }
            return self.gp(0);
        }
        let d = self.need_descriptor(selector, 0)?;
        let seg = d.segment(selector);
        if (selector & 3) as u8 != rpl || seg.attr & attr::S == 0 || !seg.writable() || seg.dpl() != rpl {
            return self.gp(code);
        }
        if !seg.present() {
            return self.fault(Exception::with_code(exception::SS, code));
        }
        self.set_accessed(d)?;
        Ok(Segment { attr: seg.attr | 1, ..seg })
    }

    /// Enter less privileged code: data segments that it may not have become null.
    fn drop_data_segments(&mut self, regs: &mut Regs, cpl: u8) {
        self.settle_bases(regs);
        for s in [Seg::Es, Seg::Ds, Seg::Fs, Seg::Gs] {
            let seg = *self.sys.seg(s);
            let conforming = seg.attr & 0xc == 0xc;
            if seg.present() && seg.dpl() < cpl && !conforming {
                // The base of a null segment stays where 64-bit code has put it.
                let base = if self.sys.long_mode() { seg.base } else { 0 };
                self.set_seg(regs, s, Segment { base, ..Segment::null(0) });
            }
        }
    }

    /// Set code, stack and privilege of a return; `sp` only when the stack is returned too.
    fn finish_return(&mut self, regs: &mut Regs, pc: u64, cs: Segment, stack: Option<(Segment, u64)>) {
        let cpl = (cs.selector & 3) as u8;
        let outer = cpl > self.sys.cpl;
        self.set_seg(regs, Seg::Cs, cs);
        self.sys.cpl = cpl;
        regs.set(PC, if self.sys.code64() { pc } else { pc & 0xffff_ffff });
        if let Some((ss, sp)) = stack {
            self.set_seg(regs, Seg::Ss, ss);
            self.set_sp(regs, sp);
        }
        if outer {
            self.drop_data_segments(regs, cpl);
        }
        self.update_mode(regs);
    }
}

pub(super) fn ret<B: Bus>(cpu: &mut Cpu<B>, regs: &mut Regs, _: u64, _: u64, imm: u32) -> Ret {
    let (bytes, pop) = (u64::from(imm & 0xff), u64::from(imm >> 8));
    // The selector, two bytes of it, is read before the offset.
    let at = regs.get(RSP).wrapping_add(bytes) & cpu.stack_mask();
    let selector = cpu.read_stack(at, 2)? as u16;
    let sp = regs.get(RSP).wrapping_add(2 * bytes + pop);
    if cpu.real_style(regs) {
        let [pc] = cpu.peek_stack::<1>(regs, bytes, 0)?;
        let pc = narrow(pc, bytes);
        let cs = cpu.real_code(regs, selector);
        if !within(&cs, pc, 1) {
            return cpu.gp(0);
        }
        cpu.set_sp(regs, sp);
        cpu.set_seg(regs, Seg::Cs, cs);
        regs.set(PC, pc);
        cpu.update_mode(regs);
        return done(0);
    }
    let [pc] = cpu.peek_stack::<1>(regs, bytes, 0)?;
    let pc = narrow(pc, bytes);
    let cs = cpu.return_code(selector)?;
    cpu.check_target(&cs, pc)?;
    if (selector & 3) as u8 == cpu.sys.cpl {
        cpu.set_sp(regs, sp);
        cpu.finish_return(regs, pc, cs, None);
        return done(0);
    }
    let [new_sp, ss] = cpu.peek_stack::<2>(regs, bytes, 2 * bytes + pop)?;
    let ss = cpu.return_stack(ss as u16, &cs)?;
    cpu.finish_return(regs, pc, cs, Some((ss, new_sp.wrapping_add(pop))));
    done(0)
}

fn narrow(v: u64, bytes: u64) -> u64 {
    if bytes == 8 { v } else { v & ((1 << (8 * bytes)) - 1) }
}

pub(super) fn iret<B: Bus>(cpu: &mut Cpu<B>, regs: &mut Regs, _: u64, _: u64, bytes: u32) -> Ret {
    let bytes = u64::from(bytes);
    let vm = regs.get(EFLAGS) & flags::VM != 0;
    if vm && iopl(regs) < 3 {
        return cpu.gp(0);
    }
    if !vm && cpu.sys.protected() && regs.get(EFLAGS) & flags::NT != 0 {
        // A task return: does not exist in long mode, left out elsewhere.
        return cpu.gp(0);
    }
    // The flags are read first.
    let [new] = cpu.peek_stack::<1>(regs, bytes, 2 * bytes)?;
    let [pc, cs] = cpu.peek_stack::<2>(regs, bytes, 0)?;
    let (pc, selector) = (narrow(pc, bytes), cs as u16);
    let old = eflags(regs);
    let mut mask = changeable(cpu.sys.cpl, iopl(regs));
    if bytes == 2 {
        mask &= 0xffff;
    }
    let merged = old & !mask & !flags::RF | new & mask;
    let sp = regs.get(RSP).wrapping_add(3 * bytes);
    if cpu.real_style(regs) {
        let cs = cpu.real_code(regs, selector);
        if !within(&cs, pc, 1) {
            return cpu.gp(0);
        }
        // In virtual-8086 mode IOPL stays (CPL is 3 there).
        cpu.set_sp(regs, sp);
        cpu.set_seg(regs, Seg::Cs, cs);
        regs.set(PC, pc);
        set_eflags(regs, merged);
    } else if new & flags::VM != 0 && bytes == 4 && cpu.sys.cpl == 0 && !cpu.sys.long_mode() {
        iret_to_v86(cpu, regs, pc, selector, new)?;
    } else {
        let cs = cpu.return_code(selector)?;
        let outer = (selector & 3) as u8 > cpu.sys.cpl;
        if cpu.sys.code64() || outer {
            let [new_sp, ss] = cpu.peek_stack::<2>(regs, bytes, 3 * bytes)?;
            let ss = cpu.return_stack(ss as u16, &cs)?;
            cpu.check_target(&cs, pc)?;
            set_eflags(regs, merged);
            cpu.finish_return(regs, pc, cs, Some((ss, narrow(new_sp, bytes))));
        } else {
            cpu.check_target(&cs, pc)?;
            cpu.set_sp(regs, sp);
            set_eflags(regs, merged);
            cpu.finish_return(regs, pc, cs, None);
        }
    }
    cpu.sys.nmi_blocked = false;
    cpu.update_mode(regs);
    done(0)
}

/// IRET from privilege level 0 to virtual-8086 mode.
fn iret_to_v86<B: Bus>(cpu: &mut Cpu<B>, regs: &mut Regs, pc: u64, selector: u16, new: u64) -> Result<(), Stop> {
    let [sp, ss, es, ds, fs, gs] = cpu.peek_stack::<6>(regs, 4, 12)?;
    for (s, v) in
        [(Seg::Cs, u64::from(selector)), (Seg::Ss, ss), (Seg::Es, es), (Seg::Ds, ds), (Seg::Fs, fs), (Seg::Gs, gs)]
    {
        cpu.set_seg(regs, s, v86_segment(v as u16));
    }
    regs.set(PC, pc & 0xffff);
    regs.set(RSP, sp);
    set_eflags(regs, new & !flags::RF);
    cpu.sys.cpl = 3;
    Ok(())
}

pub(super) fn interrupt<B: Bus>(cpu: &mut Cpu<B>, regs: &mut Regs, next: u64, _: u64, vector: u32) -> Ret {
    let vector = vector as u8;
    // INT n in virtual-8086 mode needs IOPL 3; INT3 and INTO do not, but deliver with the gate's checks.
    let int_n = vector != exception::BP && vector != exception::OF;
    if int_n && cpu.mode().contains(Mode::V86) && iopl(regs) < 3 {
        return cpu.gp(0);
    }
    software(cpu, regs, next, vector, Source::Software)
}

pub(super) fn int1<B: Bus>(cpu: &mut Cpu<B>, regs: &mut Regs, next: u64, _: u64, _: u32) -> Ret {
    software(cpu, regs, next, exception::DB, Source::PrivilegedSoftware)
}

fn software<B: Bus>(cpu: &mut Cpu<B>, regs: &mut Regs, next: u64, vector: u8, source: Source) -> Ret {
    let pc = regs.get(PC);
    regs.set(PC, next);
    let e = Exception { source, ..Exception::fault(vector) };
    if let Err(stop) = cpu.deliver(regs, &e) {
        regs.set(PC, pc);
        return Err(stop);
    }
    // The handler's first instruction is not stepped over.
    cpu.no_step = true;
    done(0)
}

/// ENTER with nesting (SDM vol. 2A): pushes rBP, copies `level - 1` frame pointers and pushes its own. The new top must be
/// writable, though nothing is written there. What a fault leaves below the stack pointer is of no account.
pub(super) fn enter<B: Bus>(cpu: &mut Cpu<B>, regs: &mut Regs, size: u64, _: u64, imm: u32) -> Ret {
    let (level, bytes) = (u64::from(imm & 0xff), u64::from(imm >> 8));
    let mask = cpu.stack_mask();
    let (mut sp, bp) = (regs.get(RSP) & mask, regs.get(RBP));
    let frame = sp.wrapping_sub(bytes) & mask;
    let mut then = cpu.push_below(&mut sp, bytes, bp)?;
    for i in 1..=level {
        let v = if i == level { frame } else { cpu.read_stack(bp.wrapping_sub(bytes * i) & mask, bytes)? };
        if cpu.push_below(&mut sp, bytes, v)? == Then::FinishInstruction {
            then = Then::FinishInstruction;
        }
    }
    let sp = sp.wrapping_sub(size) & mask;
    let va = cpu.stack_address(sp, bytes, Right::Write)?;
    cpu.probe(va, bytes, Right::Write)?;
    let keep = match bytes {
        2 => bp & !0xffff,
        _ => 0,
    };
    regs.set(RBP, keep | narrow(frame, bytes));
    cpu.set_sp(regs, sp);
    Ok((0, then))
}
