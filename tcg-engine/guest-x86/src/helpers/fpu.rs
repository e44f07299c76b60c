//! Helpers of the x87, MMX and SSE units: x87 arithmetic and stores, saving and restoring of their state.
//!
//! An area on one page that hits the TLB is copied at once; every other one goes word by word, with all the rules.
//!
//! The idea: what touches memory here reads everything and checks it before it changes a register, and probes the whole
//! destination before it writes a byte, so that a fault leaves the instruction undone. Numeric exceptions are only noted:
//! the lifter puts a check for a pending one before every instruction that waits.

use ir::{Env, MemRef, Regs, Stop, Then};

use super::{Ret, done};
use crate::bus::Bus;
use crate::cpu::Cpu;
use crate::fpu::image::{self, EnvLayout, component, fx};
use crate::fpu::{self, exec, store};
use crate::memory::{FLAT, Right};
use crate::mode::Mode;
use crate::state::{xmm, ymm_upper};

/// What a call with a memory operand does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum FpuOp {
    /// x87 store; operand `b` is the packed [`fpu::Insn`].
    Store,
    /// FXSAVE; `wide` is REX.W.
    FxSave,
    /// FXRSTOR; `wide` is REX.W.
    FxRestore,
    /// XSAVE; operand `b` is EDX:EAX, `wide` is REX.W.
    XSave,
    /// XRSTOR; operand `b` is EDX:EAX, `wide` is REX.W.
    XRestore,
    /// XSAVEOPT; operand `b` is EDX:EAX, `wide` is REX.W.
    XSaveOptimised,
    /// FNSTENV; `wide` is a 32-bit operand size.
    StoreEnv,
    /// FLDENV.
    LoadEnv,
    /// FNSAVE.
    Save,
    /// FRSTOR.
    Restore,
}

impl FpuOp {
    const ALL: [FpuOp; 10] = [
        FpuOp::Store,
        FpuOp::FxSave,
        FpuOp::FxRestore,
        FpuOp::XSave,
        FpuOp::XRestore,
        FpuOp::XSaveOptimised,
        FpuOp::StoreEnv,
        FpuOp::LoadEnv,
        FpuOp::Save,
        FpuOp::Restore,
    ];
}

/// How a helper reaches its memory operand: packed with the operation into a call's immediate.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct FpuAccess {
    /// What to do.
    pub op: FpuOp,
    /// [`MemRef::space`].
    pub space: u8,
    /// [`MemRef::stack`].
    pub stack: bool,
    /// Operand size, see [`FpuOp`].
    pub wide: bool,
}

impl FpuAccess {
    /// Pack.
    pub const fn pack(self) -> u32 {
        self.op as u32 | (self.space as u32) << 8 | (self.stack as u32) << 16 | (self.wide as u32) << 17
    }

    fn unpack(imm: u32) -> Option<FpuAccess> {
        let op = FpuOp::ALL.get(imm as u8 as usize).copied()?;
        Some(FpuAccess { op, space: (imm >> 8) as u8, stack: imm >> 16 & 1 != 0, wide: imm >> 17 & 1 != 0 })
    }
}

/// A range of guest memory that a helper reads or writes.
#[derive(Clone, Copy)]
struct Area {
    /// Offset in the space of `m`.
    at: u64,
    m: MemRef,
    /// Offsets wrap here: 32 bits outside 64-bit mode.
    wrap: u64,
}

impl Area {
    /// The same from `offset` on.
    fn at(self, offset: usize) -> Area {
        Area { at: self.address(offset), ..self }
    }

    fn address(&self, offset: usize) -> u64 {
        self.at.wrapping_add(offset as u64) & self.wrap
    }

    fn of(&self, log2: u8) -> MemRef {
        MemRef { log2, ..self.m }
    }
}

/// Writes that follow one another, with what they ask for afterwards.
struct Writer<'a, B: Bus> {
    cpu: &'a mut Cpu<B>,
    area: Area,
    /// Where all of the area lies in RAM, if it hits.
    ram: Option<u64>,
    then: Then,
}

impl<B: Bus> Writer<'_, B> {
    fn note(&mut self, result: Result<(), Stop>) -> Result<(), Stop> {
        match result {
            Err(Stop::FinishInstruction) => self.then = Then::FinishInstruction,
            other => other?,
        }
        Ok(())
    }

    /// `1 << log2` bytes, at most 8.
    fn word(&mut self, offset: usize, log2: u8, value: u64) -> Result<(), Stop> {
        if let Some(at) = self.ram {
            self.cpu.ram_write(at + offset as u64, 1 << log2, value);
            return Ok(());
        }
        let result = Env::store(self.cpu, self.area.address(offset), self.area.of(log2), value);
        self.note(result)
    }

    fn wide(&mut self, offset: usize, value: u128) -> Result<(), Stop> {
        if let Some(at) = self.ram
            && self.cpu.mem.ram.store_u128(at + offset as u64, value).is_some()
        {
            return Ok(());
        }
        let result = Env::store128(self.cpu, self.area.address(offset), self.area.of(4), value);
        self.note(result)
    }

    /// Bytes of any length, in the largest pieces.
    fn bytes(&mut self, offset: usize, bytes: &[u8]) -> Result<(), Stop> {
        self.pieces(offset, bytes, 3)
    }

    /// Bytes in pieces of at most `1 << most`: whatever alignment may be checked is that of a piece.
    fn pieces(&mut self, offset: usize, bytes: &[u8], most: u32) -> Result<(), Stop> {
        let mut at = 0;
        while at < bytes.len() {
            let log2 = (bytes.len() - at).ilog2().min(most) as u8;
            let size = 1 << log2;
            let mut value = [0; 8];
            value[..size].copy_from_slice(&bytes[at..at + size]);
            self.word(offset + at, log2, u64::from_le_bytes(value))?;
            at += size;
        }
        Ok(())
    }
}

/// An x87 instruction without memory store: `packed` is an [`fpu::Insn`].
pub(super) fn x87<B: Bus>(_: &mut Cpu<B>, regs: &mut Regs, a: u64, b: u64, packed: u32) -> Ret {
    exec::execute(regs, packed, a, b);
    done(0)
}

/// FLDCW of `a`.
pub(super) fn load_control<B: Bus>(_: &mut Cpu<B>, regs: &mut Regs, a: u64, _: u64, _: u32) -> Ret {
    fpu::Fpu::new(regs).set_cw(a as u16);
    done(0)
}

/// The packed [`FpuAccess`] `imm` at address `a`.
pub(super) fn memory<B: Bus>(cpu: &mut Cpu<B>, regs: &mut Regs, a: u64, b: u64, imm: u32) -> Ret {
    cpu.fpu_memory(regs, imm, a, b)
}

impl<B: Bus> Cpu<B> {
    /// An [`FpuAccess`] at `addr`.
    fn fpu_memory(&mut self, regs: &mut Regs, imm: u32, addr: u64, b: u64) -> Ret {
        let Some(access) = FpuAccess::unpack(imm) else { return self.ud() };
        let m = MemRef { space: access.space, stack: access.stack, ..MemRef::new(3) };
        let wrap = if self.mode().contains(Mode::CODE64) { u64::MAX } else { u64::from(u32::MAX) };
        let area = Area { at: addr, m, wrap };
        let then = match access.op {
            FpuOp::Store => self.x87_store(regs, area, b as u32)?,
            FpuOp::FxSave => self.fxsave(regs, area, access.wide)?,
            FpuOp::FxRestore => self.fxrstor(regs, area, access.wide)?,
            FpuOp::XSave => self.xsave(regs, area, b, access.wide, false)?,
            FpuOp::XSaveOptimised => self.xsave(regs, area, b, access.wide, true)?,
            FpuOp::XRestore => self.xrstor(regs, area, b, access.wide)?,
            FpuOp::StoreEnv | FpuOp::Save => self.store_env(regs, area, access)?,
            FpuOp::LoadEnv | FpuOp::Restore => self.load_env(regs, area, access)?,
        };
        Ok((0, then))
    }

    fn writer(&mut self, area: Area, ram: Option<u64>) -> Writer<'_, B> {
        Writer { cpu: self, area, ram, then: Then::Continue }
    }

    /// Where the first `len` bytes of an area lie in RAM, if they hit the TLB as a whole: then nothing else has to be asked, as for any
    /// access that hits.
    fn in_ram(&self, area: Area, len: usize, right: Right) -> Option<u64> {
        if area.m.space != FLAT || area.wrap != u64::MAX {
            return None;
        }
        match right {
            Right::Write => self.tlb.write(area.at, len as u64),
            _ => self.tlb.read(area.at, len as u64),
        }
    }

    /// Faults unless `len` bytes from `area` on can be written (areas span at most two pages).
    fn probe_area(&mut self, area: Area, len: usize) -> Result<(), Stop> {
        let m = MemRef { write_intent: true, ..area.of(0) };
        Env::load(self, area.address(0), m)?;
        Env::load(self, area.address(len - 1), m)?;
        Ok(())
    }

    /// Reads bytes from `area` on, in pieces of at most `1 << most`.
    fn read_area(&mut self, area: Area, out: &mut [u8], most: u32) -> Result<(), Stop> {
        if let Some(at) = self.in_ram(area, out.len(), Right::Read)
            && self.mem.ram.read(at, out).is_some()
        {
            return Ok(());
        }
        let mut at = 0;
        while at < out.len() {
            let log2 = (out.len() - at).ilog2().min(most) as u8;
            let value = Env::load(self, area.address(at), area.of(log2))?;
            let size = 1 << log2;
            out[at..at + size].copy_from_slice(&value.to_le_bytes()[..size]);
            at += size;
        }
        Ok(())
    }

    fn x87_store(&mut self, regs: &mut Regs, area: Area, packed: u32) -> Result<Then, Stop> {
        let Some(value) = store::value(regs, packed) else { return self.ud() };
        let mut then = Then::Continue;
        if !value.blocked {
            let size = usize::from(value.size);
            if size > 8 {
                // Significand, then sign and exponent.
                for (at, log2) in [(0, 3), (8, 1)] {
                    Env::load(self, area.address(at), MemRef { write_intent: true, ..area.of(log2) })?;
                }
            }
            let mut writer = self.writer(area, None);
            writer.bytes(0, &value.bits.to_le_bytes()[..size])?;
            then = writer.then;
        }
        store::commit(regs, packed, &value);
        Ok(then)
    }

    fn env_layout(&self, wide: bool) -> EnvLayout {
        EnvLayout { wide, protected: self.mode().contains(Mode::PROTECTED) }
    }

    /// FNSTENV and FNSAVE.
    fn store_env(&mut self, regs: &mut Regs, area: Area, access: FpuAccess) -> Result<Then, Stop> {
        let layout = self.env_layout(access.wide);
        let env = image::store_env(regs, layout);
        let registers = image::store_registers(regs);
        let save = access.op == FpuOp::Save;
        // Where alignment is checked it is that of the first field.
        let first = MemRef { write_intent: true, ..area.of(1 + u8::from(access.wide)) };
        Env::load(self, area.address(0), first)?;
        self.probe_area(area, layout.size() + if save { image::REGISTERS } else { 0 })?;
        let mut writer = self.writer(area, None);
        writer.pieces(0, &env[..layout.size()], 1)?;
        if save {
            writer.pieces(layout.size(), &registers, 1)?;
        }
        let then = writer.then;
        if save {
            fpu::init(regs);
        } else {
            let unit = &mut fpu::Fpu::new(regs);
            unit.set_cw(unit.cw() | fp::x87::sw::EXCEPTIONS);
        }
        Ok(then)
    }

    /// FLDENV and FRSTOR.
    fn load_env(&mut self, regs: &mut Regs, area: Area, access: FpuAccess) -> Result<Then, Stop> {
        let layout = self.env_layout(access.wide);
        let mut bytes = [0; 28 + image::REGISTERS];
        let restore = access.op == FpuOp::Restore;
        Env::load(self, area.address(0), area.of(1 + u8::from(access.wide)))?;
        let len = layout.size() + if restore { image::REGISTERS } else { 0 };
        self.read_area(area, &mut bytes[..len], 1)?;
        let mut env = [0; 28];
        env[..layout.size()].copy_from_slice(&bytes[..layout.size()]);
        image::load_env(regs, layout, &env);
        if restore {
            let mut registers = [0; image::REGISTERS];
            registers.copy_from_slice(&bytes[layout.size()..len]);
            image::load_registers(regs, &registers);
        }
        Ok(Then::Continue)
    }

    /// What comes before the first access to the `len` bytes of an area: they must be canonical in 64-bit mode, and the area a
    /// multiple of `align`, or it is #GP(0). In 64-bit mode offset and linear address agree in their low bits, and elsewhere
    /// segments that are not 64-byte aligned are checked by their base.
    fn check_place(&mut self, area: Area, align: u64, len: usize) -> Result<(), Stop> {
        let base = match crate::state::Seg::from_index(usize::from(area.m.space).wrapping_sub(1)) {
            Some(seg) => self.sys.seg(seg).base,
            None => 0,
        };
        // Where the address itself is not canonical that comes first, then the alignment, then where the area ends. The access
        // says which exception it is.
        self.check_canonical(area, 0)?;
        if area.at.wrapping_add(base) & (align - 1) != 0 {
            return self.gp(0);
        }
        self.check_canonical(area, len - 1)
    }

    fn check_canonical(&mut self, area: Area, offset: usize) -> Result<(), Stop> {
        let address = area.address(offset);
        if self.mode().contains(Mode::CODE64) && !Self::canonical(address) {
            Env::load(self, address, area.of(0))?;
        }
        Ok(())
    }

    /// XMM registers that exist in this mode.
    fn xmm_count(&self) -> usize {
        if self.mode().contains(Mode::CODE64) { 16 } else { 8 }
    }

    fn fxsave(&mut self, regs: &mut Regs, area: Area, rex_w: bool) -> Result<Then, Stop> {
        self.check_place(area, 16, fx::SIZE)?;
        let ram = self.in_ram(area, fx::SIZE, Right::Write);
        if ram.is_none() {
            self.probe_area(area, fx::SIZE)?;
        }
        let count = self.xmm_count();
        let mut writer = self.writer(area, ram);
        let both = component::X87 | component::SSE;
        write_legacy(&mut writer, regs, both, both, rex_w, count)?;
        Ok(writer.then)
    }

    fn fxrstor(&mut self, regs: &mut Regs, area: Area, rex_w: bool) -> Result<Then, Stop> {
        self.check_place(area, 16, fx::SIZE)?;
        let mut bytes = [0; fx::SIZE];
        self.read_area(area, &mut bytes, 3)?;
        let mxcsr = dword(&bytes, fx::MXCSR);
        if mxcsr & !fp::sse::mxcsr::WRITABLE != 0 {
            return self.gp(0);
        }
        load_x87(regs, &bytes, rex_w);
        load_sse(regs, &bytes, self.xmm_count());
        regs.set(ir::op::FPC, mxcsr.into());
        Ok(Then::Continue)
    }

    /// Bytes of the area for these components.
    fn xsave_size(components: u64) -> usize {
        if components & component::AVX != 0 { fx::XSAVE_AVX_SIZE } else { fx::XSAVE_SIZE }
    }

    /// XSAVE, or XSAVEOPT, which leaves the fields of components alone that are in their initial configuration. (It may do so for
    /// those that have not changed since they were loaded from there, too, and does not.)
    fn xsave(
        &mut self,
        regs: &mut Regs,
        area: Area,
        requested: u64,
        rex_w: bool,
        optimised: bool,
    ) -> Result<Then, Stop> {
        let components = requested & self.sys.xcr0;
        self.check_place(area, 64, Self::xsave_size(components))?;
        let count = self.xmm_count();
        let in_use = image::in_use(regs);
        let written = if optimised { components & in_use } else { components };
        let ram = self.in_ram(area, Self::xsave_size(components), Right::Write);
        if ram.is_none() {
            for (at, len) in parts(written, components, count) {
                self.probe_area(area.at(at), len)?;
            }
            self.probe_area(area.at(fx::HEADER), 8)?;
        }
        let old = Env::load(self, area.address(fx::HEADER), area.of(3))?;
        let header = old & !components | in_use & components;
        let mut writer = self.writer(area, ram);
        write_legacy(&mut writer, regs, written, components, rex_w, count)?;
        if written & component::AVX != 0 {
            for n in 0..count {
                writer.wide(fx::YMM_UPPER + 16 * n, regs.get128(ymm_upper(n)))?;
            }
        }
        writer.word(fx::HEADER, 3, header)?;
        Ok(writer.then)
    }

    /// SDM volume 1, 13.8: standard form only; the model has no compacted form.
    fn xrstor(&mut self, regs: &mut Regs, area: Area, requested: u64, rex_w: bool) -> Result<Then, Stop> {
        let components = requested & self.sys.xcr0;
        self.check_place(area, 64, fx::XSAVE_SIZE)?;
        let mut bytes = [0; fx::XSAVE_AVX_SIZE];
        // The manual gives no order of the reads. Processors look for the control words of what is asked for before they look
        // at the header, whether it says that they are there or not.
        if components & component::X87 != 0 {
            self.read_area(area, &mut bytes[..2], 1)?;
        }
        let with_mxcsr = components & (component::SSE | component::AVX) != 0;
        if with_mxcsr {
            self.read_area(area.at(fx::MXCSR), &mut bytes[fx::MXCSR..fx::MXCSR + 4], 2)?;
        }
        self.read_area(area.at(fx::HEADER), &mut bytes[fx::HEADER..fx::XSAVE_SIZE], 3)?;
        // Then for the beginning of what lies behind it, likewise, which must be within its segment as a whole.
        if components & component::AVX != 0 {
            self.check_addressable(area.address(fx::XSAVE_AVX_SIZE - 1), area.of(0), false)?;
            Env::load(self, area.address(fx::YMM_UPPER), area.of(0))?;
        }
        let present = u64::from(dword(&bytes, fx::HEADER)) | u64::from(dword(&bytes, fx::HEADER + 4)) << 32;
        // XCOMP_BV and the eight bytes after it must be zero; the rest of the header is not looked at.
        let reserved = bytes[fx::HEADER + 8..fx::HEADER + 24].iter().any(|&b| b != 0);
        if present & !self.sys.xcr0 != 0 || reserved {
            return self.gp(0);
        }
        let mxcsr = dword(&bytes, fx::MXCSR);
        if with_mxcsr && mxcsr & !fp::sse::mxcsr::WRITABLE != 0 {
            return self.gp(0);
        }
        // What is not asked for, or not there, is not read.
        for (at, len) in parts(components & present, 0, self.xmm_count()) {
            self.read_area(area.at(at), &mut bytes[at..at + len], 3)?;
        }
        match (components & component::X87 != 0, present & component::X87 != 0) {
            (true, true) => load_x87(regs, &bytes, rex_w),
            (true, false) => image::init_x87(regs),
            (false, _) => {}
        }
        match (components & component::SSE != 0, present & component::SSE != 0) {
            (true, true) => load_sse(regs, &bytes, self.xmm_count()),
            (true, false) => (0..self.xmm_count()).for_each(|n| regs.set128(xmm(n), 0)),
            (false, _) => {}
        }
        if components & component::AVX != 0 {
            let there = present & component::AVX != 0;
            for n in 0..self.xmm_count() {
                regs.set128(ymm_upper(n), if there { lane(&bytes, fx::YMM_UPPER + 16 * n) } else { 0 });
            }
        }
        if with_mxcsr {
            regs.set(ir::op::FPC, mxcsr.into());
        }
        Ok(Then::Continue)
    }
}

/// Ranges (offset, length) of the area that hold `components`; MXCSR goes with what was `requested`.
fn parts(components: u64, requested: u64, xmm_count: usize) -> impl Iterator<Item = (usize, usize)> {
    let x87 = components & component::X87 != 0;
    let mxcsr = requested & (component::SSE | component::AVX) != 0;
    let sse = components & component::SSE != 0;
    let avx = components & component::AVX != 0;
    // All of it, however many registers the mode has.
    let upper = (avx, fx::YMM_UPPER, fx::XSAVE_AVX_SIZE - fx::YMM_UPPER);
    [(x87, 0, 24), (mxcsr, fx::MXCSR, 8), (x87, fx::ST, 128), (sse, fx::XMM, 16 * xmm_count), upper]
        .into_iter()
        .filter_map(|(wanted, at, len)| wanted.then_some((at, len)))
}

fn dword(bytes: &[u8], at: usize) -> u32 {
    let mut value = [0; 4];
    value.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(value)
}

/// The legacy region's fields of `components`, and MXCSR for what was `requested`; bytes that no field covers are not written.
fn write_legacy<B: Bus>(
    writer: &mut Writer<'_, B>,
    regs: &mut Regs,
    components: u64,
    requested: u64,
    rex_w: bool,
    xmm_count: usize,
) -> Result<(), Stop> {
    if components & component::X87 != 0 {
        writer.bytes(0, &image::fx_control(regs, rex_w))?;
        for i in 0..8 {
            writer.wide(fx::ST + 16 * i, image::fx_st(regs, i))?;
        }
    }
    // MXCSR belongs to SSE and to AVX.
    if requested & (component::SSE | component::AVX) != 0 {
        writer.word(fx::MXCSR, 3, image::fx_mxcsr(regs))?;
    }
    if components & component::SSE != 0 {
        for n in 0..xmm_count {
            writer.wide(fx::XMM + 16 * n, regs.get128(xmm(n)))?;
        }
    }
    Ok(())
}

fn load_x87(regs: &mut Regs, bytes: &[u8], rex_w: bool) {
    let mut control = [0; 24];
    control.copy_from_slice(&bytes[..24]);
    image::fx_load_control(regs, &control, rex_w);
    for i in 0..8 {
        image::fx_load_st(regs, i, lane(bytes, fx::ST + 16 * i));
    }
}

fn load_sse(regs: &mut Regs, bytes: &[u8], count: usize) {
    for n in 0..count {
        regs.set128(xmm(n), lane(bytes, fx::XMM + 16 * n));
    }
}

fn lane(bytes: &[u8], at: usize) -> u128 {
    let mut value = [0; 16];
    value.copy_from_slice(&bytes[at..at + 16]);
    u128::from_le_bytes(value)
}
