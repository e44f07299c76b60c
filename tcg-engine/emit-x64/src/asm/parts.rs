//! The parts of an instruction, as bytes in a word (Intel SDM vol. 2A, chapter 2).

use super::{Map, Rm, Sz};

/// At most eight bytes of an instruction, before they go to the buffer.
#[derive(Clone, Copy, Default)]
pub(super) struct Bytes {
    pub(super) word: u64,
    pub(super) n: u32,
}

impl Bytes {
    #[inline(always)]
    pub(super) fn push(&mut self, b: u8) {
        self.word |= u64::from(b) << (8 * self.n);
        self.n += 1;
    }

    #[inline(always)]
    pub(super) fn push32(&mut self, v: u32) {
        self.word |= u64::from(v) << (8 * self.n);
        self.n += 4;
    }
}

/// The ModRM byte, and what belongs to it.
#[inline(always)]
pub(super) fn modrm(reg: u8, rm: Rm) -> Bytes {
    let mut tail = Bytes::default();
    let m = match rm {
        Rm::R(r) => {
            tail.push(0xc0 | reg << 3 | r.0 & 7);
            return tail;
        }
        Rm::M(m) => m,
    };
    let (i, s) = m.index.map_or((4, 0), |(i, s)| (i.0 & 7, s));
    let Some(base) = m.base else {
        // No base: a SIB byte with a 32-bit displacement.
        tail.push(reg << 3 | 4);
        tail.push(s << 6 | i << 3 | 5);
        tail.push32(m.disp as u32);
        return tail;
    };
    let small = i8::try_from(m.disp).is_ok();
    let mode = if m.disp == 0 && base.0 & 7 != 5 {
        0
    } else if small {
        1
    } else {
        2
    };
    if m.index.is_some() || base.0 & 7 == 4 {
        tail.push(mode << 6 | reg << 3 | 4);
        tail.push(s << 6 | i << 3 | base.0 & 7);
    } else {
        tail.push(mode << 6 | reg << 3 | base.0 & 7);
    }
    match mode {
        1 => tail.push(m.disp as u8),
        2 => tail.push32(m.disp as u32),
        _ => {}
    }
    tail
}

/// An opcode with its escapes: at most three bytes, and above them, in a bit of its own, REX.W, and how many they are. In one
/// word, since it is a constant mostly.
#[derive(Clone, Copy)]
pub(super) struct Opcode(u32);

impl Opcode {
    #[inline(always)]
    pub(super) const fn new(sz: Sz, map: Map, op: u8) -> Opcode {
        let op = op as u32;
        let (code, n) = match map {
            Map::Plain => (op, 1),
            Map::Of | Map::Of66 | Map::OfF3 | Map::OfF2 => (0x0f | op << 8, 2),
            Map::Of38 | Map::Of38x66 | Map::Of38xF2 | Map::Of38xF3 => (0x380f | op << 16, 3),
            Map::Of3Ax66 | Map::Of3AxF2 => (0x3a0f | op << 16, 3),
        };
        Opcode(code | (matches!(sz, Sz::Q) as u32) << 27 | n << 28)
    }

    /// Behind the REX prefix, if that says anything or must be there. `rex` lacks REX.W.
    #[inline(always)]
    pub(super) fn head(self, rex: u8, must: bool) -> Bytes {
        let rex = self.0 >> 24 & 8 | u32::from(rex);
        let head = Bytes { word: u64::from(self.0 & 0xff_ffff), n: self.0 >> 28 };
        if rex == 0 && !must {
            return head;
        }
        Bytes { word: head.word << 8 | u64::from(0x40 | rex), n: head.n + 1 }
    }
}
