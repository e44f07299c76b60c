//! Every function of the encoder: what it emits is decoded again, and must be the instruction that was meant.

use iced_x86::{Decoder, DecoderOptions, Instruction, Mnemonic, OpKind, Register};

use crate::asm::*;

/// An operand that is expected.
#[derive(Clone, Copy, Debug)]
enum Want {
    Reg(Register),
    /// Memory of so many bytes; 0 for an address alone.
    Mem(Mem, usize),
    /// An immediate of so many bits.
    Imm(u64, u32),
}

fn gpr(sz: Sz, r: Reg) -> Register {
    let n = u32::from(r.0);
    match sz {
        Sz::B if n < 4 => Register::AL + n,
        Sz::B if n < 8 => Register::SPL + (n - 4),
        Sz::B => Register::R8L + (n - 8),
        Sz::W => Register::AX + n,
        Sz::D => Register::EAX + n,
        Sz::Q => Register::RAX + n,
    }
}

fn bytes(sz: Sz) -> usize {
    1 << sz as usize
}

fn want(sz: Sz, rm: Rm) -> Want {
    match rm {
        Rm::R(r) => Want::Reg(gpr(sz, r)),
        Rm::M(m) => Want::Mem(m, bytes(sz)),
    }
}

fn same(i: &Instruction, n: u32, w: Want) -> bool {
    match w {
        Want::Reg(r) => i.op_kind(n) == OpKind::Register && i.op_register(n) == r,
        Want::Imm(v, bits) => {
            let mask = u64::MAX >> (64 - bits);
            i.try_immediate(n).is_ok_and(|found| found & mask == v & mask)
        }
        Want::Mem(m, size) => {
            let name = |r: Option<Reg>| r.map_or(Register::None, |r| gpr(Sz::Q, r));
            i.op_kind(n) == OpKind::Memory
                && i.memory_base() == name(m.base)
                && i.memory_index() == name(m.index.map(|x| x.0))
                && (m.index.is_none() || i.memory_index_scale() == 1 << m.index.map_or(0, |x| x.1))
                && i.memory_displacement64() == i64::from(m.disp) as u64
                && (size == 0 || i.memory_size().size() == size)
        }
    }
}

/// What `f` emits is one instruction, this one.
fn check(mnemonic: Mnemonic, ops: &[Want], f: impl Fn(&mut Asm)) {
    let mut a = Asm::default();
    f(&mut a);
    let i = Decoder::with_ip(64, &a.buf, 0x1000, DecoderOptions::NONE).decode();
    let right = !i.is_invalid()
        && i.len() == a.buf.len()
        && i.mnemonic() == mnemonic
        && i.op_count() as usize == ops.len()
        && ops.iter().enumerate().all(|(n, w)| same(&i, n as u32, *w));
    assert!(right, "{mnemonic:?} {ops:x?}: {:02x?} is {:?} of {} bytes", a.buf, i.code(), i.len());
}

const SIZES: [Sz; 4] = [Sz::B, Sz::W, Sz::D, Sz::Q];
const WIDE: [Sz; 3] = [Sz::W, Sz::D, Sz::Q];
const DISPS: [i32; 10] = [0, 1, -1, 127, 128, -128, -129, 0x1234_5678, i32::MAX, i32::MIN];
const IMMS: [i32; 9] = [0, 1, -1, 127, 128, -128, -129, 0x1234_5678, i32::MIN];

fn regs() -> impl Iterator<Item = Reg> {
    (0..16).map(Reg)
}

/// Every form of address.
fn addresses() -> Vec<Mem> {
    let mut list = Vec::new();
    for base in regs().map(Some).chain([None]) {
        for disp in DISPS {
            list.push(Mem { base, index: None, disp });
            for index in regs().filter(|r| *r != RSP) {
                for scale in 0..4 {
                    list.push(Mem { base, index: Some((index, scale)), disp });
                }
            }
        }
    }
    list
}

/// Every register, and every form of address that is encoded in another way.
fn operands() -> Vec<Rm> {
    let odd = [RAX, RSP, RBP, R12, R13, R15];
    let few = |m: &Mem| {
        let base = m.base.is_none_or(|b| odd.contains(&b));
        let index = m.index.is_none_or(|(x, s)| odd.contains(&x) && (s == 0 || s == 3));
        base && index && [0, -1, 128, i32::MIN].contains(&m.disp)
    };
    let memory = addresses().into_iter().filter(few).map(Rm::M);
    regs().map(Rm::R).chain(memory).collect()
}

fn memory() -> Vec<Mem> {
    operands().into_iter().filter_map(|o| if let Rm::M(m) = o { Some(m) } else { None }).collect()
}

#[test]
fn every_form_of_address() {
    for m in addresses() {
        for r in [RAX, RSP, RDI, R8, R15] {
            check(Mnemonic::Mov, &[Want::Reg(gpr(Sz::Q, r)), Want::Mem(m, 8)], |a| a.mov(Sz::Q, r, m));
            check(Mnemonic::Lea, &[Want::Reg(gpr(Sz::D, r)), Want::Mem(m, 0)], |a| a.lea(Sz::D, r, m));
            check(Mnemonic::Mov, &[Want::Mem(m, 1), Want::Reg(gpr(Sz::B, r))], |a| a.store(Sz::B, m, r));
        }
    }
}

const ALUS: [(Alu, Mnemonic); 8] = [
    (Alu::Add, Mnemonic::Add),
    (Alu::Or, Mnemonic::Or),
    (Alu::Adc, Mnemonic::Adc),
    (Alu::Sbb, Mnemonic::Sbb),
    (Alu::And, Mnemonic::And),
    (Alu::Sub, Mnemonic::Sub),
    (Alu::Xor, Mnemonic::Xor),
    (Alu::Cmp, Mnemonic::Cmp),
];

#[test]
fn arithmetic() {
    for (op, name) in ALUS {
        for sz in SIZES {
            for rm in operands() {
                for r in regs() {
                    let reg = Want::Reg(gpr(sz, r));
                    check(name, &[reg, want(sz, rm)], |a| a.alu(op, sz, r, rm));
                    if let Rm::M(m) = rm {
                        check(name, &[want(sz, rm), reg], |a| a.alu_store(op, sz, m, r));
                    }
                }
                for v in IMMS {
                    let imm = Want::Imm(i64::from(v) as u64, 8 << sz as u32);
                    check(name, &[want(sz, rm), imm], |a| a.alu_imm(op, sz, rm, v));
                }
            }
        }
    }
}

#[test]
fn test_and_moves() {
    for sz in SIZES {
        for rm in operands() {
            for r in regs() {
                let reg = Want::Reg(gpr(sz, r));
                check(Mnemonic::Test, &[want(sz, rm), reg], |a| a.test(sz, rm, r));
                check(Mnemonic::Mov, &[reg, want(sz, rm)], |a| a.mov(sz, r, rm));
            }
            for v in IMMS {
                let imm = Want::Imm(i64::from(v) as u64, 8 << sz as u32);
                check(Mnemonic::Test, &[want(sz, rm), imm], |a| a.test_imm(sz, rm, v));
                if let Rm::M(m) = rm {
                    check(Mnemonic::Mov, &[want(sz, rm), imm], |a| a.store_imm(sz, m, v));
                }
            }
        }
        for m in memory() {
            for r in regs() {
                check(Mnemonic::Mov, &[Want::Mem(m, bytes(sz)), Want::Reg(gpr(sz, r))], |a| a.store(sz, m, r));
            }
        }
    }
}

#[test]
fn constants() {
    for r in regs() {
        for v in [0u64, 1, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff, 1 << 32, 1 << 63, 0x1234_5678_9abc_def0] {
            for v in [v, v.wrapping_neg(), !v] {
                // 32 bits zero-extended, 32 bits sign-extended, or 64.
                let sz = if u32::try_from(v).is_ok() { Sz::D } else { Sz::Q };
                let ops = [Want::Reg(gpr(sz, r)), Want::Imm(v, 8 << sz as u32)];
                check(Mnemonic::Mov, &ops, |a| a.mov_imm(r, v));
            }
        }
    }
}

#[test]
fn extensions() {
    for rm in operands() {
        for r in regs() {
            for from in [Sz::B, Sz::W] {
                check(Mnemonic::Movzx, &[Want::Reg(gpr(Sz::D, r)), want(from, rm)], |a| a.movzx(from, r, rm));
                check(Mnemonic::Movsx, &[Want::Reg(gpr(Sz::Q, r)), want(from, rm)], |a| a.movsx(from, r, rm));
            }
            check(Mnemonic::Movsxd, &[Want::Reg(gpr(Sz::Q, r)), want(Sz::D, rm)], |a| a.movsx(Sz::D, r, rm));
        }
    }
    for m in memory() {
        for (sz, r) in WIDE.into_iter().flat_map(|sz| regs().map(move |r| (sz, r))) {
            check(Mnemonic::Lea, &[Want::Reg(gpr(sz, r)), Want::Mem(m, 0)], |a| a.lea(sz, r, m));
        }
    }
}

#[test]
fn shifts_and_single_operands() {
    const SHIFTS: [(Shift, Mnemonic); 5] = [
        (Shift::Rol, Mnemonic::Rol),
        (Shift::Ror, Mnemonic::Ror),
        (Shift::Shl, Mnemonic::Shl),
        (Shift::Shr, Mnemonic::Shr),
        (Shift::Sar, Mnemonic::Sar),
    ];
    const GROUP: [(u8, Mnemonic); 6] = [
        (2, Mnemonic::Not),
        (3, Mnemonic::Neg),
        (4, Mnemonic::Mul),
        (5, Mnemonic::Imul),
        (6, Mnemonic::Div),
        (7, Mnemonic::Idiv),
    ];
    for sz in SIZES {
        for rm in operands() {
            for (op, name) in SHIFTS {
                for n in [0, 1, 2, 7, 31, 63] {
                    check(name, &[want(sz, rm), Want::Imm(n.into(), 8)], |a| a.shift_imm(op, sz, rm, n));
                }
                check(name, &[want(sz, rm), Want::Reg(Register::CL)], |a| a.shift_cl(op, sz, rm));
            }
            for (ext, name) in GROUP {
                check(name, &[want(sz, rm)], |a| a.group3(ext, sz, rm));
            }
            check(Mnemonic::Inc, &[want(sz, rm)], |a| a.inc_dec(0, sz, rm));
            check(Mnemonic::Dec, &[want(sz, rm)], |a| a.inc_dec(1, sz, rm));
        }
    }
}

#[test]
fn products_and_bits() {
    for sz in WIDE {
        for rm in operands() {
            for r in regs() {
                check(Mnemonic::Imul, &[Want::Reg(gpr(sz, r)), want(sz, rm)], |a| a.imul(sz, r, rm));
            }
            for n in [0, 8, 15, 31, 63] {
                check(Mnemonic::Bt, &[want(sz, rm), Want::Imm(n.into(), 8)], |a| a.bt_imm(sz, rm, n));
            }
        }
        for (d, s) in regs().flat_map(|d| regs().map(move |s| (d, s))) {
            check(Mnemonic::Bt, &[Want::Reg(gpr(sz, d)), Want::Reg(gpr(sz, s))], |a| a.bt(sz, d, s));
        }
    }
    for r in regs() {
        for rm in operands() {
            check(Mnemonic::Popcnt, &[Want::Reg(gpr(Sz::Q, r)), want(Sz::Q, rm)], |a| a.popcnt(r, rm));
        }
        for (d, n) in regs().flat_map(|d| [1, 31, 63].map(|n| (d, n))) {
            let ops = [Want::Reg(gpr(Sz::Q, d)), Want::Reg(gpr(Sz::Q, r)), Want::Imm(n.into(), 8)];
            check(Mnemonic::Shrd, &ops, |a| a.shrd_imm(d, r, n));
        }
    }
    for m in operands() {
        if let Rm::M(m) = m {
            check(Mnemonic::Ldmxcsr, &[Want::Mem(m, 4)], |a| a.ldmxcsr(m));
            check(Mnemonic::Stmxcsr, &[Want::Mem(m, 4)], |a| a.stmxcsr(m));
        }
    }
    for (sz, r) in [Sz::D, Sz::Q].into_iter().flat_map(|sz| regs().map(move |r| (sz, r))) {
        check(Mnemonic::Bswap, &[Want::Reg(gpr(sz, r))], |a| a.bswap(sz, r));
    }
}

#[test]
fn conditions() {
    use Mnemonic::*;
    const SET: [Mnemonic; 16] =
        [Seto, Setno, Setb, Setae, Sete, Setne, Setbe, Seta, Sets, Setns, Setp, Setnp, Setl, Setge, Setle, Setg];
    const MOVE: [Mnemonic; 16] = [
        Cmovo, Cmovno, Cmovb, Cmovae, Cmove, Cmovne, Cmovbe, Cmova, Cmovs, Cmovns, Cmovp, Cmovnp, Cmovl, Cmovge,
        Cmovle, Cmovg,
    ];
    const JUMP: [Mnemonic; 16] = [Jo, Jno, Jb, Jae, Je, Jne, Jbe, Ja, Js, Jns, Jp, Jnp, Jl, Jge, Jle, Jg];
    for c in 0..16u8 {
        let n = usize::from(c);
        for r in regs() {
            check(SET[n], &[Want::Reg(gpr(Sz::B, r))], |a| a.setcc(c, r));
            for (sz, rm) in WIDE.into_iter().flat_map(|sz| operands().into_iter().map(move |rm| (sz, rm))) {
                check(MOVE[n], &[Want::Reg(gpr(sz, r)), want(sz, rm)], |a| a.cmov(c, sz, r, rm));
            }
        }
        leads(JUMP[n], |a, to| {
            let h = a.jcc(c);
            a.fill(h, to);
        });
    }
    for (c, name) in [(cc::B, Jb), (cc::E, Je), (cc::NE, Jne), (cc::BE, Jbe), (cc::S, Js), (cc::L, Jl), (cc::LE, Jle)] {
        assert_eq!(JUMP[usize::from(c)], name);
    }
}

/// A branch leads to the offset that it was given, wherever it lies itself.
fn leads(name: Mnemonic, f: impl Fn(&mut Asm, usize)) {
    for (base, to) in [(0x1000, 0), (0x1000, 0x1002), (0x1000, 0x20_0000), (0x20_0000, 0x1000)] {
        let mut a = Asm::default();
        a.start(base);
        a.ret();
        f(&mut a, to);
        let i = Decoder::with_ip(64, &a.buf[1..], base as u64 + 1, DecoderOptions::NONE).decode();
        let what = (i.mnemonic(), i.near_branch_target(), i.len());
        assert_eq!(what, (name, to as u64, a.buf.len() - 1), "{:02x?}", a.buf);
    }
}

#[test]
fn branches() {
    leads(Mnemonic::Jmp, |a, to| a.jmp_to(to));
    leads(Mnemonic::Call, |a, to| a.call_to(to));
    let mut a = Asm::default();
    a.start(0x100);
    a.call_with(0x89ab_cdef, 0x4321);
    let i: Vec<Instruction> = Decoder::with_ip(64, &a.buf, 0x100, DecoderOptions::NONE).into_iter().collect();
    assert_eq!((i[0].mnemonic(), i[0].op0_register(), i[0].immediate32()), (Mnemonic::Mov, Register::EAX, 0x89ab_cdef));
    assert_eq!((i.len(), i[1].mnemonic(), i[1].near_branch_target()), (2, Mnemonic::Call, 0x4321));
    leads(Mnemonic::Jmp, |a, to| {
        let h = a.jmp();
        a.fill(h, to);
    });
    let mut a = Asm::default();
    a.start(0x100);
    let h = a.jmp();
    a.ret();
    a.fill_here(h);
    let i = Decoder::with_ip(64, &a.buf, 0x100, DecoderOptions::NONE).decode();
    assert_eq!(i.near_branch_target(), 0x106);
    for rm in operands() {
        check(Mnemonic::Jmp, &[want(Sz::Q, rm)], |a| a.jmp_indirect(rm));
        check(Mnemonic::Call, &[want(Sz::Q, rm)], |a| a.call_indirect(rm));
    }
    for r in regs() {
        check(Mnemonic::Push, &[Want::Reg(gpr(Sz::Q, r))], |a| a.push(r));
        check(Mnemonic::Pop, &[Want::Reg(gpr(Sz::Q, r))], |a| a.pop(r));
    }
    check(Mnemonic::Ret, &[], Asm::ret);
}

#[test]
fn flags_to_ax_and_back() {
    let mut a = Asm::default();
    a.save_flags();
    a.restore_flags();
    let list: Vec<_> = Decoder::new(64, &a.buf, DecoderOptions::NONE).iter().map(|i| i.mnemonic()).collect();
    assert_eq!(list, [Mnemonic::Lahf, Mnemonic::Seto, Mnemonic::Add, Mnemonic::Sahf]);
    let add = Decoder::new(64, &a.buf[4..], DecoderOptions::NONE).decode();
    assert_eq!((add.op0_register(), add.immediate8()), (Register::AL, 0x7f));
}

#[test]
fn vectors() {
    use Mnemonic::*;
    const LIST: [(Map, u8, Mnemonic, usize); 9] = [
        (Map::Of, 0x10, Movups, 16),
        (Map::Of, 0x28, Movaps, 16),
        (Map::Of66, 0xfc, Paddb, 16),
        (Map::Of66, 0x6f, Movdqa, 16),
        (Map::OfF3, 0x6f, Movdqu, 16),
        (Map::OfF3, 0x58, Addss, 4),
        (Map::OfF2, 0x58, Addsd, 8),
        (Map::Of38x66, 0x00, Pshufb, 16),
        (Map::Of66, 0xeb, Por, 16),
    ];
    for rm in operands() {
        for x in 0..16 {
            let xmm = Want::Reg(Register::XMM0 + u32::from(x));
            for (map, op, name, size) in LIST {
                let other = match rm {
                    Rm::R(r) => Want::Reg(Register::XMM0 + u32::from(r.0)),
                    Rm::M(m) => Want::Mem(m, size),
                };
                check(name, &[xmm, other], |a| a.sse(map, op, x, rm));
                if op == 0x6f && map == Map::Of66 {
                    check(Palignr, &[xmm, other, Want::Imm(5, 8)], |a| {
                        a.sse(Map::Of3Ax66, 0x0f, x, rm);
                        a.byte(5);
                    });
                }
            }
            check(Movd, &[xmm, want(Sz::D, rm)], |a| a.sse(Map::Of66, 0x6e, x, rm));
            let crc = [Want::Reg(gpr(Sz::D, Reg(x))), want(Sz::D, rm)];
            check(Crc32, &crc, |a| a.ins(Sz::D, Map::Of38xF2, 0xf1, x, rm, (false, false)));
        }
    }
}

/// Instructions of two and three vectors, and of general registers, in every map; on 128 and on 256 bits, with W set or not.
#[test]
fn vex() {
    use Mnemonic::*;
    // Map, opcode, W, whether there is a second operand, and on how many bytes of memory it works at 128 and 256 bits.
    const LIST: [(Map, u8, bool, Mnemonic, bool, [usize; 2]); 10] = [
        (Map::Of, 0x28, false, Vmovaps, false, [16, 32]),
        (Map::Of, 0x58, false, Vaddps, true, [16, 32]),
        (Map::Of66, 0x58, false, Vaddpd, true, [16, 32]),
        (Map::OfF3, 0x6f, false, Vmovdqu, false, [16, 32]),
        (Map::OfF2, 0xd0, false, Vaddsubps, true, [16, 32]),
        (Map::Of38x66, 0x98, false, Vfmadd132ps, true, [16, 32]),
        (Map::Of38x66, 0xb8, true, Vfmadd231pd, true, [16, 32]),
        (Map::Of38x66, 0x47, true, Vpsllvq, true, [16, 32]),
        (Map::Of38x66, 0x13, false, Vcvtph2ps, false, [8, 16]),
        (Map::Of38x66, 0x00, false, Vpshufb, true, [16, 32]),
    ];
    for rm in operands() {
        for d in 0..16u8 {
            let a = (7 * d + 5) & 15;
            for (map, op, w, name, second, sizes) in LIST {
                for wide in [false, true] {
                    let file = if wide { Register::YMM0 } else { Register::XMM0 };
                    let from = if op == 0x13 { Register::XMM0 } else { file };
                    let last = match rm {
                        Rm::R(r) => Want::Reg(from + u32::from(r.0)),
                        Rm::M(m) => Want::Mem(m, sizes[usize::from(wide)]),
                    };
                    let (d_want, a_want) = (Want::Reg(file + u32::from(d)), Want::Reg(file + u32::from(a)));
                    let code = Vex::new(map, op).w(w).wide(wide);
                    let (ops, vvvv) = if second { (vec![d_want, a_want, last], a) } else { (vec![d_want, last], 0) };
                    check(name, &ops, |x| x.vex(code, d, vvvv, rm));
                }
            }
            let half = match rm {
                Rm::R(r) => Want::Reg(Register::XMM0 + u32::from(r.0)),
                Rm::M(m) => Want::Mem(m, 16),
            };
            let [y, z] = [d, a].map(|n| Want::Reg(Register::YMM0 + u32::from(n)));
            check(Vinsertf128, &[y, z, half, Want::Imm(1, 8)], |x| {
                x.vex(Vex::new(Map::Of3Ax66, 0x18).wide(true), d, a, rm);
                x.byte(1);
            });
            check(Vextractf128, &[half, y, Want::Imm(1, 8)], |x| {
                x.vex(Vex::new(Map::Of3Ax66, 0x19).wide(true), d, 0, rm);
                x.byte(1);
            });
        }
    }
    check(Vzeroupper, &[], Asm::vzeroupper);
}

/// BMI and LZCNT, on 32 and on 64 bits.
#[test]
fn bits() {
    use Mnemonic::*;
    // Where the three operands are: as said, or the last two exchanged.
    const LIST: [(Map, u8, Mnemonic, bool); 9] = [
        (Map::Of38, 0xf2, Andn, false),
        (Map::Of38xF2, 0xf5, Pdep, false),
        (Map::Of38xF3, 0xf5, Pext, false),
        (Map::Of38xF2, 0xf6, Mulx, false),
        (Map::Of38, 0xf5, Bzhi, true),
        (Map::Of38, 0xf7, Bextr, true),
        (Map::Of38x66, 0xf7, Shlx, true),
        (Map::Of38xF2, 0xf7, Shrx, true),
        (Map::Of38xF3, 0xf7, Sarx, true),
    ];
    for rm in operands() {
        for d in 0..16u8 {
            let a = (7 * d + 5) & 15;
            for sz in [Sz::D, Sz::Q] {
                let w = sz == Sz::Q;
                let [d_want, a_want] = [d, a].map(|n| Want::Reg(gpr(sz, Reg(n))));
                for (map, op, name, exchanged) in LIST {
                    let ops = if exchanged { [d_want, want(sz, rm), a_want] } else { [d_want, a_want, want(sz, rm)] };
                    check(name, &ops, |x| x.vex(Vex::new(map, op).w(w), d, a, rm));
                }
                for (ext, name) in [(1, Blsr), (2, Blsmsk), (3, Blsi)] {
                    check(name, &[d_want, want(sz, rm)], |x| x.vex(Vex::new(Map::Of38, 0xf3).w(w), ext, d, rm));
                }
                check(Rorx, &[d_want, want(sz, rm), Want::Imm(7, 8)], |x| {
                    x.vex(Vex::new(Map::Of3AxF2, 0xf0).w(w), d, 0, rm);
                    x.byte(7);
                });
            }
            for sz in WIDE {
                for (op, name) in [(0xbc, Tzcnt), (0xbd, Lzcnt)] {
                    let ops = [Want::Reg(gpr(sz, Reg(d))), want(sz, rm)];
                    check(name, &ops, |x| x.ins(sz, Map::OfF3, op, d, rm, (false, false)));
                }
            }
        }
    }
}

#[test]
fn pieces_are_what_they_were_made_from() {
    let piece = Piece::new(|a| {
        a.push(RBX);
        let hole = a.jmp();
        a.ret();
        hole
    });
    let mut a = Asm::default();
    a.start(0x100);
    a.ret();
    let start = a.piece(&piece);
    a.fill(Hole(start + piece.hole.0), 0x4321);
    a.ret();
    let i: Vec<Instruction> = Decoder::with_ip(64, &a.buf, 0x100, DecoderOptions::NONE).into_iter().collect();
    let names: Vec<Mnemonic> = i.iter().map(Instruction::mnemonic).collect();
    assert_eq!(names, [Mnemonic::Ret, Mnemonic::Push, Mnemonic::Jmp, Mnemonic::Ret, Mnemonic::Ret]);
    assert_eq!(i[2].near_branch_target(), 0x4321);
}

#[test]
fn what_is_longer_than_the_buffer_is_counted() {
    let mut a = Asm::default();
    let mut hole = a.jmp();
    while a.here() < 1 << 20 {
        a.mov(Sz::Q, RAX, at(R12, 0x1234));
        a.mov_imm64(RCX, u64::MAX);
        a.byte(0x90);
        a.fill_here(hole);
        hole = a.jcc(cc::NE);
    }
    assert!(a.buf.len() >= 1 << 20);
    a.start(7);
    a.ret();
    assert_eq!((a.buf.len(), &a.buf[..], a.here()), (1, &[0xc3][..], 8));
}
