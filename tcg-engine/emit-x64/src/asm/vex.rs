//! VEX-coded instructions: three operands, and 256 bits (Intel SDM vol. 2A, 2.3).

use super::{Asm, Map, Rm};

/// Which instruction: everything about it but its operands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Vex {
    /// Map with its mandatory prefix.
    pub map: Map,
    /// Opcode.
    pub op: u8,
    /// VEX.W: 64-bit lanes or general registers, where the instruction looks at it.
    pub w: bool,
    /// VEX.L: 256 bits.
    pub wide: bool,
}

impl Vex {
    /// On 128 bits, with W clear.
    pub const fn new(map: Map, op: u8) -> Vex {
        Vex { map, op, w: false, wide: false }
    }

    /// With W set if `w`.
    pub const fn w(self, w: bool) -> Vex {
        Vex { w, ..self }
    }

    /// On 256 bits if `wide`.
    pub const fn wide(self, wide: bool) -> Vex {
        Vex { wide, ..self }
    }
}

impl Map {
    /// Fields mmmmm and pp.
    const fn vex(self) -> (u8, u8) {
        match self {
            Map::Plain | Map::Of => (1, 0),
            Map::Of66 => (1, 1),
            Map::OfF3 => (1, 2),
            Map::OfF2 => (1, 3),
            Map::Of38 => (2, 0),
            Map::Of38x66 => (2, 1),
            Map::Of38xF3 => (2, 2),
            Map::Of38xF2 => (2, 3),
            Map::Of3Ax66 => (3, 1),
            Map::Of3AxF2 => (3, 3),
        }
    }
}

impl Asm {
    /// `d = op(a, rm)`: `d` in ModRM's register field, `a` in VEX.vvvv, which is 0 where an instruction has no such operand.
    pub fn vex(&mut self, code: Vex, d: u8, a: u8, rm: impl Into<Rm>) {
        let rm = rm.into();
        let (map, prefix) = code.map.vex();
        let (x, b) = match rm {
            Rm::R(r) => (0, r.0 >> 3),
            Rm::M(m) => (m.index.map_or(0, |(i, _)| i.0 >> 3), m.base.map_or(0, |b| b.0 >> 3)),
        };
        let r = !(d >> 3) & 1;
        let rest = (!a & 15) << 3 | u8::from(code.wide) << 2 | prefix;
        if map == 1 && !code.w && x == 0 && b == 0 {
            self.buf.extend_from_slice(&[0xc5, r << 7 | rest]);
        } else {
            let first = r << 7 | (x ^ 1) << 6 | (b ^ 1) << 5 | map;
            self.buf.extend_from_slice(&[0xc4, first, u8::from(code.w) << 7 | rest]);
        }
        self.byte(code.op);
        let tail = super::parts::modrm(d & 7, rm);
        self.bytes(tail.word, tail.n);
    }

    /// `vzeroupper`.
    pub fn vzeroupper(&mut self) {
        self.buf.extend_from_slice(&[0xc5, 0xf8, 0x77]);
    }
}
