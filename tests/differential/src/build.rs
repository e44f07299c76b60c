//! From a form and a number to a case: draws operands, makes registers so that addresses lead where they should, and encodes.
//!
//! The idea: first decide which byte of memory an operand is to touch, then solve for the registers.

use iced_x86::{
    Code, Decoder, DecoderOptions, Encoder, Instruction, MemorySize, Mnemonic, OpCodeOperandKind as Kind, OpKind,
    Register,
};

use crate::case::{CODE, CODE_LEN, Case, DATA, DATA_HIGH, DATA_LEN, FS32_BASE, GS32_BASE, MAX_BYTES, RW_LEN};
use crate::forms::{Address, Form, Shape, is_either, is_implied, is_memory};
use crate::random::{self, Pool};
use crate::rng::Rng;
use crate::{exclusions, features, forms, sequence, tune};

/// A case with the instruction that it was made from.
#[derive(Clone, Debug)]
pub struct Made {
    /// The case.
    pub case: Case,
    /// Its first instruction, decoded from the case's bytes.
    pub instruction: Instruction,
}

/// A case in the making.
pub struct Draft<'a> {
    /// Randomness.
    pub r: &'a mut Rng,
    /// What it is to be.
    pub form: Form,
    /// What it is so far.
    pub case: Case,
    /// Its instruction so far.
    pub i: Instruction,
    /// Linear address of the memory operand that is written out, if there is one.
    pub target: Option<u64>,
    /// The CPU model that it is for.
    pub model: &'static cpu_model::Model,
    /// General registers that addresses depend on.
    busy: u16,
}

/// Attempts before a form counts as impossible.
const ATTEMPTS: u32 = 60;

/// The case number `state` of `form` in a run with `seed`; `None` if the form cannot be encoded.
pub fn make(form: Form, seed: u64, state: u64, pool: &Pool, model: &'static cpu_model::Model) -> Option<Made> {
    if form.shape == Shape::Sequence {
        return sequence::make(form, seed, state, pool, model);
    }
    let r = &mut Rng::of(seed, form.number(), state);
    (0..ATTEMPTS).find_map(|_| attempt(form, r, pool, model))
}

fn attempt(form: Form, r: &mut Rng, pool: &Pool, model: &'static cpu_model::Model) -> Option<Made> {
    let at = match r.below(20) {
        0 => CODE + 0x1000 - r.below(8),
        1 => CODE + CODE_LEN - 1 - r.below(8),
        _ => CODE + 0x800,
    };
    let case = random::case(r, pool, form.bits, at);
    let mut d = Draft { r, form, case, i: Instruction::default(), target: None, model, busy: 0 };
    d.operands()?;
    if !tune::tune(&mut d) {
        return None;
    }
    let bytes = d.encode()?;
    let bytes = d.dress(bytes, model)?;
    let case = &mut d.case;
    case.len = bytes.len() as u64;
    case.bytes[..bytes.len()].copy_from_slice(&bytes);
    let instruction = decode(&bytes, form.bits, at);
    Some(Made { case: d.case, instruction })
}

/// The bytes of an instruction of this form at `at`; of its state only what is in the bytes is used.
pub fn piece(form: Form, r: &mut Rng, pool: &Pool, model: &'static cpu_model::Model, at: u64) -> Option<Vec<u8>> {
    let case = random::case(r, pool, form.bits, at);
    let mut d = Draft { r, form, case, i: Instruction::default(), target: None, model, busy: 0 };
    d.operands()?;
    let bytes = d.encode()?;
    d.dress(bytes, model)
}

/// Decode as Intel's processors do.
pub fn decode(bytes: &[u8], bits: u32, at: u64) -> Instruction {
    Decoder::with_ip(bits, bytes, at, DecoderOptions::NONE).decode()
}

impl Draft<'_> {
    fn long(&self) -> bool {
        self.form.bits == 64
    }

    /// Set a general register, unless an address depends on it.
    pub fn set(&mut self, n: usize, v: u64) {
        if self.busy >> n & 1 == 0 {
            self.case.state.gpr[n] = if self.long() { v } else { v & 0xffff_ffff };
        }
    }

    /// A general register.
    pub fn get(&self, n: usize) -> u64 {
        self.case.state.gpr[n]
    }

    /// Write memory, as far as it is within the data pages.
    pub fn poke(&mut self, addr: u64, bytes: &[u8]) {
        for (i, b) in bytes.iter().enumerate() {
            if let Some(o) = offset(addr.wrapping_add(i as u64)) {
                self.case.rw[o] = *b;
            }
        }
    }

    /// `n` bytes of memory, zeros where there is none that can be written.
    pub fn peek(&self, addr: u64, n: usize) -> u64 {
        let byte = |i: usize| offset(addr.wrapping_add(i as u64)).map_or(0, |o| u64::from(self.case.rw[o]));
        (0..n.min(8)).fold(0, |v, i| v | byte(i) << (8 * i))
    }

    /// Linear address of the top of the stack.
    pub fn stack(&self) -> u64 {
        if self.long() { self.get(4) } else { self.get(4) & 0xffff_ffff }
    }

    /// An address to branch to: mostly an INT3 away from the instruction.
    pub fn branch_target(&mut self) -> u64 {
        let code = loop {
            let a = CODE + 0x20 + self.r.below(CODE_LEN - 0x40);
            if a.abs_diff(self.case.at) > 64 && a.abs_diff(sequence::AT) > MAX_BYTES as u64 {
                break a;
            }
        };
        match self.r.below(20) {
            0 => DATA + self.r.below(DATA_LEN),
            1 if self.long() => self.r.next() & 0x7fff_ffff_ffff,
            2 if self.long() => self.r.next() | 1 << 63,
            3 => self.r.next() & 0xffff_ffff,
            _ => code,
        }
    }

    /// Where a memory operand of `size` bytes is to lie.
    fn place(&mut self, size: u64, low: bool) -> u64 {
        let r = &mut *self.r;
        let base = if self.form.bits == 64 && !low && r.percent(50) { DATA_HIGH } else { DATA };
        let size = size.max(1);
        let room = RW_LEN.saturating_sub(size).max(1);
        let aligned = size.next_power_of_two().min(64);
        // A locked access across cache lines stops every processor: systems make programs that do it wait, some hypervisors
        // for ever. So these are aligned.
        let locked = matches!(self.form.shape, Shape::Lock(_)) || self.i.mnemonic() == Mnemonic::Xchg;
        if locked {
            let pages = if r.percent(90) { RW_LEN } else { DATA_LEN + 0x1000 };
            return base + (r.below(pages) & !(aligned - 1));
        }
        let part = r.below(size) + 1;
        let offset = match r.below(40) {
            0..=19 => r.below(room) & !(aligned - 1),
            20..=27 => r.below(room),
            28..=30 => 0x1000u64.wrapping_sub(part),
            31 => RW_LEN + r.below(0x1000 - size.min(0xfff)),
            32 => (RW_LEN + r.below(0x1000 - size.min(0xfff))) & !(aligned - 1),
            33 | 34 => RW_LEN.wrapping_sub(part),
            35 => DATA_LEN.wrapping_sub(part),
            36 => 0u64.wrapping_sub(part),
            37 => DATA_LEN + r.below(0x1000),
            38 if self.form.bits == 64 && !low => return r.next() | 1 << 63,
            _ => r.below(0x40) * 64 % room,
        };
        base.wrapping_add(offset)
    }

    /// Draw all operands.
    fn operands(&mut self) -> Option<()> {
        self.i.set_code(self.form.code);
        let kinds: Vec<Kind> = self.form.code.op_code().op_kinds().to_vec();
        let memory = self.wants_memory(&kinds);
        for (n, kind) in kinds.iter().enumerate() {
            let n = n as u32;
            if is_either(*kind) && memory || is_memory(*kind) && !is_implied(*kind) {
                self.i.set_op_kind(n, OpKind::Memory);
            } else if is_implied(*kind) {
                self.implied(n, *kind);
            } else {
                self.simple(n, *kind)?;
            }
        }
        if kinds.iter().any(|k| is_either(*k)) && memory || kinds.iter().any(|k| is_memory(*k) && !is_implied(*k)) {
            self.explicit(kinds.contains(&Kind::mem_offs))?;
            if let Some(first) = kinds.iter().find_map(|k| forms::vector_index(*k)) {
                self.vector_index(first, kinds.contains(&Kind::mem_vsib64x) || kinds.contains(&Kind::mem_vsib64y));
            }
        }
        if let Shape::Rep(_) | Shape::Repne(_) = self.form.shape {
            if matches!(self.form.shape, Shape::Rep(_)) {
                self.i.set_has_rep_prefix(true);
            } else {
                self.i.set_has_repne_prefix(true);
            }
        }
        if self.form.code.op_code().require_op_mask_register() {
            self.i.set_op_mask(Register::K1);
        }
        if let Shape::Lock(_) = self.form.shape {
            self.i.set_has_lock_prefix(true);
        }
        Some(())
    }

    /// A vector of indices for a memory operand that has been solved without one: mostly such that lanes lie near by.
    fn vector_index(&mut self, first: Register, long: bool) {
        let n = self.r.below(if self.long() { 16 } else { 8 }) as usize;
        self.i.set_memory_index(first + n as u32);
        let scale = self.r.below(4) as u32;
        self.i.set_memory_index_scale(1 << scale);
        let far = self.r.percent(15);
        let bits = if long { 64 } else { 32 };
        let mut half = || {
            (0..128 / bits).fold(0, |v, i| {
                let near = self.r.below(0x80).wrapping_sub(0x40);
                let index = if far && self.r.percent(30) { self.r.next() } else { near };
                v | u128::from(index & (u64::MAX >> (64 - bits))) << (i * bits)
            })
        };
        let (low, upper) = (half(), half());
        self.case.state.fx.xmm[n] = low;
        if is_x86_feature_detected!("avx") {
            self.case.state.ymm_upper[n] = upper;
        }
    }

    fn wants_memory(&mut self, kinds: &[Kind]) -> bool {
        if !kinds.iter().any(|k| is_either(*k)) {
            return false;
        }
        match self.form.shape {
            Shape::Plain | Shape::High => false,
            Shape::BadLock if self.form.code.op_code().can_use_lock_prefix() => false,
            Shape::BadLock | Shape::Junk => self.r.percent(50),
            _ => true,
        }
    }

    fn address(&mut self) -> Address {
        match self.form.shape {
            Shape::Mem(a) | Shape::Lock(a) | Shape::Rep(a) | Shape::Repne(a) => a,
            _ if self.gathers() => Address::Base,
            _ if self.long() => self.r.pick(&[Address::Base, Address::Sib, Address::Rip]),
            _ => self.r.pick(&[Address::Base, Address::Sib]),
        }
    }

    /// A register of class `first` (its register 0), by number below `n`.
    fn register(&mut self, n: u32, first: Register, count: u64) {
        let i = self.r.below(count) as u32;
        self.i.set_op_kind(n, OpKind::Register);
        self.i.set_op_register(n, first + i);
    }

    fn byte_register(&mut self, n: u32) {
        use Register::{AL, R8L, SPL};
        let high = self.form.shape == Shape::High && self.r.percent(60);
        let register = match self.r.below(4) as u32 {
            i if high => Register::AH + i,
            i if self.form.shape == Shape::High || !self.long() => AL + i,
            i => match self.r.below(4) {
                0 => AL + i,
                1 => SPL + i,
                2 => R8L + i,
                _ => R8L + 4 + i,
            },
        };
        self.i.set_op_kind(n, OpKind::Register);
        self.i.set_op_register(n, register);
    }

    fn fixed(&mut self, n: u32, register: Register) {
        self.i.set_op_kind(n, OpKind::Register);
        self.i.set_op_register(n, register);
    }

    /// An operand that is not memory.
    fn simple(&mut self, n: u32, kind: Kind) -> Option<()> {
        let general = if self.long() { 16 } else { 8 };
        match kind {
            Kind::r8_or_mem | Kind::r8_reg | Kind::r8_opcode => self.byte_register(n),
            Kind::r16_or_mem | Kind::r16_reg | Kind::r16_rm | Kind::r16_opcode => {
                self.register(n, Register::AX, general);
            }
            Kind::r32_or_mem | Kind::r32_reg | Kind::r32_rm | Kind::r32_opcode => {
                self.register(n, Register::EAX, general);
            }
            Kind::r64_or_mem | Kind::r64_reg | Kind::r64_rm | Kind::r64_opcode => {
                self.register(n, Register::RAX, general);
            }
            Kind::mm_or_mem | Kind::mm_reg | Kind::mm_rm => self.register(n, Register::MM0, 8),
            Kind::xmm_or_mem | Kind::xmm_reg | Kind::xmm_rm | Kind::xmm_vvvv | Kind::xmm_is4 => {
                self.register(n, Register::XMM0, general);
            }
            Kind::ymm_or_mem | Kind::ymm_reg | Kind::ymm_rm | Kind::ymm_vvvv | Kind::ymm_is4 => {
                self.register(n, Register::YMM0, general);
            }
            Kind::r32_vvvv => self.register(n, Register::EAX, general),
            Kind::r64_vvvv => self.register(n, Register::RAX, general),
            Kind::seg_reg => self.register(n, Register::ES, 6),
            Kind::cr_reg => {
                let i = self.r.pick(&[0, 2, 3, 4, 8]);
                self.fixed(n, Register::CR0 + i);
            }
            Kind::dr_reg => self.register(n, Register::DR0, 8),
            Kind::sti_opcode => self.register(n, Register::ST0, 8),
            Kind::st0 => self.fixed(n, Register::ST0),
            Kind::es => self.fixed(n, Register::ES),
            Kind::cs => self.fixed(n, Register::CS),
            Kind::ss => self.fixed(n, Register::SS),
            Kind::ds => self.fixed(n, Register::DS),
            Kind::fs => self.fixed(n, Register::FS),
            Kind::gs => self.fixed(n, Register::GS),
            Kind::al => self.fixed(n, Register::AL),
            Kind::cl => self.fixed(n, Register::CL),
            Kind::ax => self.fixed(n, Register::AX),
            Kind::dx => self.fixed(n, Register::DX),
            Kind::eax => self.fixed(n, Register::EAX),
            Kind::rax => self.fixed(n, Register::RAX),
            _ => return self.foreign(n, kind),
        }
        Some(())
    }

    /// Registers that the model does not have.
    fn foreign(&mut self, n: u32, kind: Kind) -> Option<()> {
        // The first register and how many there are to choose from.
        let (first, count) = match kind {
            Kind::xmm_is5 => (Register::XMM0, 8),
            Kind::ymm_is5 => (Register::YMM0, 8),
            Kind::zmm_or_mem | Kind::zmm_reg | Kind::zmm_rm | Kind::zmm_vvvv => (Register::ZMM0, 8),
            Kind::xmmp3_vvvv => (Register::XMM4, 1),
            Kind::zmmp3_vvvv => (Register::ZMM4, 1),
            Kind::kp1_reg => (Register::K2, 1),
            Kind::k_or_mem | Kind::k_reg | Kind::k_rm | Kind::k_vvvv => (Register::K0, 8),
            Kind::r32_or_mem_mpx | Kind::r32_reg_mem => (Register::EAX, 8),
            Kind::r64_or_mem_mpx | Kind::r64_reg_mem => (Register::RAX, 8),
            Kind::r16_reg_mem => (Register::AX, 8),
            Kind::bnd_or_mem_mpx | Kind::bnd_reg => (Register::BND0, 4),
            // No two of an instruction's may be the same.
            Kind::tmm_reg | Kind::tmm_rm | Kind::tmm_vvvv => (Register::TMM0 + n, 1),
            _ => return self.constant(n, kind),
        };
        self.register(n, first, count);
        Some(())
    }

    /// An immediate or a branch target.
    fn constant(&mut self, n: u32, kind: Kind) -> Option<()> {
        let v = random::value(self.r);
        let (set, v) = match kind {
            // ENTER and the like have a second one.
            Kind::imm8 if n > 0 && matches!(self.i.op_kind(n - 1), OpKind::Immediate16 | OpKind::Immediate8) => {
                (OpKind::Immediate8_2nd, v & 0xff)
            }
            Kind::imm8 => (OpKind::Immediate8, v & 0xff),
            Kind::imm8_const_1 => (OpKind::Immediate8, 1),
            Kind::imm8sex16 => (OpKind::Immediate8to16, v as i8 as u64),
            Kind::imm8sex32 => (OpKind::Immediate8to32, v as i8 as u64),
            Kind::imm8sex64 => (OpKind::Immediate8to64, v as i8 as u64),
            Kind::imm4_m2z => (OpKind::Immediate8, v & 3),
            Kind::imm16 => (OpKind::Immediate16, v & 0xffff),
            Kind::imm32 => (OpKind::Immediate32, v & 0xffff_ffff),
            Kind::imm32sex64 => (OpKind::Immediate32to64, v as i32 as u64),
            Kind::imm64 => (OpKind::Immediate64, v),
            _ => return self.branch(n, kind),
        };
        self.i.set_op_kind(n, set);
        match set {
            OpKind::Immediate8to16 | OpKind::Immediate8to32 | OpKind::Immediate8to64 | OpKind::Immediate32to64 => {
                self.i.set_immediate_i64(n, v as i64);
            }
            OpKind::Immediate64 => self.i.set_immediate64(v),
            _ => self.i.set_immediate_u32(n, v as u32),
        }
        Some(())
    }

    fn branch(&mut self, n: u32, kind: Kind) -> Option<()> {
        let next = self.case.at + 8;
        // Not into what may be instructions.
        let near = loop {
            let t = next.wrapping_add(self.r.below(220)).wrapping_sub(110);
            let sequence = (sequence::AT - 24..sequence::AT + MAX_BYTES as u64).contains(&t);
            if !sequence && (t.wrapping_add(24) < self.case.at || t > self.case.at + 16) {
                break t;
            }
        };
        let far = self.branch_target();
        match kind {
            Kind::br16_1 | Kind::br16_2 => {
                self.i.set_op_kind(n, OpKind::NearBranch16);
                self.i.set_near_branch16(if kind == Kind::br16_1 { near } else { far } as u16);
            }
            Kind::br32_1 | Kind::br32_4 => {
                self.i.set_op_kind(n, OpKind::NearBranch32);
                self.i.set_near_branch32(if kind == Kind::br32_1 { near } else { far } as u32);
            }
            Kind::br64_1 => {
                self.i.set_op_kind(n, OpKind::NearBranch64);
                self.i.set_near_branch64(near);
            }
            Kind::br64_4 => {
                let reach = self.case.at.wrapping_add(far as i32 as u64 & !0x3ff);
                let t = if far < 1 << 31 { far } else { reach };
                self.i.set_op_kind(n, OpKind::NearBranch64);
                self.i.set_near_branch64(t);
            }
            Kind::farbr2_2 => {
                self.i.set_op_kind(n, OpKind::FarBranch16);
                self.i.set_far_branch16(far as u16);
                self.i.set_far_branch_selector(tune::code_selector(self.r));
            }
            Kind::farbr4_2 => {
                self.i.set_op_kind(n, OpKind::FarBranch32);
                self.i.set_far_branch32(far as u32);
                self.i.set_far_branch_selector(tune::code_selector(self.r));
            }
            Kind::xbegin_2 | Kind::xbegin_4 => {
                self.i.set_op_kind(n, if self.long() { OpKind::NearBranch64 } else { OpKind::NearBranch32 });
                self.i.set_near_branch64(next);
            }
            _ => return None,
        }
        Some(())
    }

    /// Base of FS or GS.
    fn base_of(&mut self, s: Register) -> u64 {
        match (self.long(), s) {
            (true, Register::FS) => self.case.state.base[0],
            (true, _) => self.case.state.base[1],
            (false, Register::FS) => u64::from(FS32_BASE),
            (false, _) => u64::from(GS32_BASE),
        }
    }

    /// Memory at the address in rSI, rDI or rBX.
    fn implied(&mut self, n: u32, kind: Kind) {
        let address = self.address();
        let half = address == Address::Half;
        let op = match (kind, self.long(), half) {
            (Kind::seg_rSI, true, false) => OpKind::MemorySegRSI,
            (Kind::seg_rSI, true, true) | (Kind::seg_rSI, false, false) => OpKind::MemorySegESI,
            (Kind::seg_rSI, ..) => OpKind::MemorySegSI,
            (Kind::es_rDI, true, false) => OpKind::MemoryESRDI,
            (Kind::es_rDI, true, true) | (Kind::es_rDI, false, false) => OpKind::MemoryESEDI,
            (Kind::es_rDI, ..) => OpKind::MemoryESDI,
            (Kind::seg_rDI, true, false) => OpKind::MemorySegRDI,
            (Kind::seg_rDI, true, true) | (Kind::seg_rDI, false, false) => OpKind::MemorySegEDI,
            (Kind::seg_rDI, ..) => OpKind::MemorySegDI,
            _ => OpKind::Memory,
        };
        self.i.set_op_kind(n, op);
        let size = (self.i.memory_size().size() as u64).max(1);
        let register = match kind {
            Kind::seg_rSI => 6,
            Kind::es_rDI | Kind::seg_rDI => 7,
            _ => {
                let first = match (self.long(), half) {
                    (true, false) => Register::RBX,
                    (true, true) | (false, false) => Register::EBX,
                    _ => Register::BX,
                };
                self.i.set_memory_base(first);
                self.i.set_memory_index(Register::AL);
                3
            }
        };
        let mut t = self.place(size, half);
        if address == Address::Fs && kind != Kind::es_rDI {
            self.i.set_segment_prefix(Register::FS);
            t = t.wrapping_sub(self.base_of(Register::FS));
        }
        if register == 3 {
            t = t.wrapping_sub(self.get(0) & 0xff);
        }
        if half && self.long() {
            t = t & 0xffff_ffff | self.r.next() << 32;
        }
        self.set(register, t);
        self.busy |= 1 << register;
    }

    /// The memory operand that is written out: choose where it lies, then solve.
    fn explicit(&mut self, offset_only: bool) -> Option<()> {
        let address = self.address();
        let size = self.i.memory_size();
        let bytes = match size {
            MemorySize::Xsave | MemorySize::Xsave64 if self.model.xcr0 & 4 != 0 => 832,
            MemorySize::Xsave | MemorySize::Xsave64 => 576,
            s => s.size() as u64,
        };
        let half = address == Address::Half;
        let low = half || matches!(address, Address::Rip) || address == Address::Abs && !offset_only;
        let t = self.place(bytes, low);
        self.target = Some(t);
        let segment = match address {
            Address::Fs => Some(Register::FS),
            Address::Gs => Some(Register::GS),
            // 16-bit addresses reach the data only through FS.
            Address::Half if !self.long() && self.r.percent(90) => Some(Register::FS),
            _ => None,
        };
        let mut ea = t;
        if let Some(s) = segment {
            self.i.set_segment_prefix(s);
            ea = ea.wrapping_sub(self.base_of(s));
        }
        let width = match (self.long(), half) {
            (true, false) => 64,
            (true, true) | (false, false) => 32,
            _ => 16,
        };
        if offset_only {
            self.i.set_memory_displ_size(width / 8);
            self.i.set_memory_displacement64(if width == 64 { ea } else { ea & ((1 << width) - 1) });
            return Some(());
        }
        match address {
            Address::Rip => {
                self.i.set_memory_base(Register::RIP);
                self.i.set_memory_displ_size(8);
                self.i.set_memory_displacement64(t);
            }
            Address::Abs => {
                self.i.set_memory_displ_size(width / 8);
                self.i.set_memory_displacement64(ea);
            }
            Address::Half if width == 16 => self.sixteen(ea as u16),
            // Its index is a vector.
            _ if self.gathers() => self.base(ea, width),
            Address::Sib => self.sib(ea, width),
            Address::Base => self.base(ea, width),
            _ if self.r.percent(50) => self.sib(ea, width),
            _ => self.base(ea, width),
        }
        Some(())
    }

    fn gathers(&self) -> bool {
        self.form.code.op_code().op_kinds().iter().any(|k| forms::vector_index(*k).is_some())
    }

    fn displacement(&mut self, width: u32) -> u64 {
        let (size, v) = match self.r.below(4) {
            0 => (0, 0),
            1 | 2 => (1, self.r.next() as i8 as u64),
            _ => (width / 8, random::value(self.r) as i32 as u64),
        };
        self.i.set_memory_displ_size(size);
        // The encoder wants it as it is written: 32 bits for 32-bit addresses.
        self.i.set_memory_displacement64(match width {
            64 => v,
            32 => v & 0xffff_ffff,
            _ => v & 0xffff,
        });
        v
    }

    /// Give a register the low `width` bits of `v`; what is above them is arbitrary.
    fn solve(&mut self, n: usize, v: u64, width: u32) {
        let v = match width {
            64 => v,
            32 if self.long() => v & 0xffff_ffff | self.r.next() << 32,
            32 => v & 0xffff_ffff,
            _ => v & 0xffff | self.r.next() & 0xffff_0000,
        };
        self.set(n, v);
        self.busy |= 1 << n;
    }

    fn address_register(&mut self, width: u32, n: usize) -> Register {
        let first = match width {
            64 => Register::RAX,
            32 => Register::EAX,
            _ => Register::AX,
        };
        first + n as u32
    }

    fn base(&mut self, ea: u64, width: u32) {
        let n = self.r.below(if self.long() { 16 } else { 8 }) as usize;
        let disp = self.displacement(width);
        let register = self.address_register(width, n);
        self.i.set_memory_base(register);
        self.solve(n, ea.wrapping_sub(disp), width);
    }

    fn sib(&mut self, ea: u64, width: u32) {
        let count = if self.long() { 16 } else { 8 };
        let n = self.r.below(count) as usize;
        let index = loop {
            let i = self.r.below(count) as usize;
            if i != 4 && i != n {
                break i;
            }
        };
        let scale = self.r.below(4) as u32;
        let disp = self.displacement(width);
        let base = self.address_register(width, n);
        let register = self.address_register(width, index);
        self.i.set_memory_base(base);
        self.i.set_memory_index(register);
        self.i.set_memory_index_scale(1 << scale);
        let scaled = self.get(index) << scale;
        self.busy |= 1 << index;
        self.solve(n, ea.wrapping_sub(disp).wrapping_sub(scaled), width);
    }

    /// The eight ways of 16-bit addressing (SDM vol. 2A, table 2-1).
    fn sixteen(&mut self, ea: u16) {
        use Register::{BP, BX, DI, SI};
        let (base, n, index) = self.r.pick(&[
            (BX, 3, Some((SI, 6))),
            (BX, 3, Some((DI, 7))),
            (BP, 5, Some((SI, 6))),
            (BP, 5, Some((DI, 7))),
            (SI, 6, None),
            (DI, 7, None),
            (BP, 5, None),
            (BX, 3, None),
        ]);
        let disp = self.displacement(16) as u16;
        self.i.set_memory_base(base);
        let mut rest = ea.wrapping_sub(disp);
        if let Some((register, i)) = index {
            self.i.set_memory_index(register);
            rest = rest.wrapping_sub(self.get(i) as u16);
            self.busy |= 1 << i;
        }
        self.solve(n, u64::from(rest), 16);
    }

    fn encode(&mut self) -> Option<Vec<u8>> {
        let mut e = Encoder::new(self.form.bits);
        e.encode(&self.i, self.case.at).ok()?;
        let bytes = e.take_buffer();
        let back = decode(&bytes, self.form.bits, self.case.at);
        // What assemblers write as one instruction with a WAIT before it is two.
        let waits = bytes.first() == Some(&0x9b) && self.form.code != Code::Wait;
        // 0F 0D with memory goes by the name of a hint that came later, and does nothing either way.
        let hint = format!("{:?}", back.mnemonic()).starts_with("Prefetch")
            && self.form.code.mnemonic() == Mnemonic::Reservednop;
        (waits || hint || back.code() == self.form.code).then_some(bytes)
    }

    /// Add the prefixes that the form asks for beyond the instruction's own.
    fn dress(&mut self, bytes: Vec<u8>, model: &'static cpu_model::Model) -> Option<Vec<u8>> {
        let mut out = vec![];
        match self.form.shape {
            Shape::BadLock if self.form.code.op_code().can_use_lock_prefix() && self.target.is_some() => return None,
            Shape::BadLock => out.push(0xf0),
            Shape::Junk if self.r.percent(6) => {
                // One byte more than an instruction may have.
                let n = 16usize.saturating_sub(bytes.len());
                out.extend((0..n).map(|_| self.r.pick(&[0x2e, 0x36, 0x3e, 0x26])));
            }
            Shape::Junk => {
                // XCHG locks, and what it locks must stay aligned (see `place`): nothing that moves or widens its operand.
                let locks = self.form.code.mnemonic() == Mnemonic::Xchg && self.target.is_some();
                for _ in 0..self.r.below(3) + 1 {
                    let rex = if self.long() { 0x40 | self.r.below(16) as u8 } else { 0x2e };
                    let p = self.r.pick(&[0x2e, 0x36, 0x3e, 0x26, 0x64, 0x65, 0x66, 0x67, 0xf2, 0xf3, rex]);
                    let moves = self.i.is_ip_rel_memory_operand() || matches!(p, 0x64 | 0x65 | 0x67 | 0x40..=0x4f);
                    if locks && moves {
                        return None;
                    }
                    out.push(p);
                }
            }
            _ => {}
        }
        out.extend(bytes);
        if out.len() > MAX_BYTES {
            return None;
        }
        if self.form.shape == Shape::Junk && out.len() <= 15 {
            let i = decode(&out, self.form.bits, self.case.at);
            let known = !i.is_invalid()
                && i.len() == out.len()
                && features::has(model, i.code())
                && features::exists(i.code(), self.form.bits)
                && exclusions::reason(i.code()).is_none();
            return known.then_some(out);
        }
        Some(out)
    }
}

/// Where in the memory that may be written an address leads.
pub fn offset(addr: u64) -> Option<usize> {
    [DATA, DATA_HIGH].iter().find_map(|b| {
        let o = addr.wrapping_sub(*b);
        (o < RW_LEN).then_some(o as usize)
    })
}
