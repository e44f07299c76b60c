//! Printing of blocks for people: one line per operation, guest instructions as headings.

use std::fmt;

use crate::block::Block;
use crate::flags::Kind;
use crate::op::{Inst, MemRef, NONE, Op, Slot};

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            NONE => f.write_str("-"),
            crate::op::PC => f.write_str("pc"),
            crate::op::FPC => f.write_str("fpc"),
            s if s.is_temp() => write!(f, "t{}", s.0 - crate::op::FIRST_TEMP),
            s => write!(f, "g{}", s.0),
        }
    }
}

impl fmt::Display for Inst {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.op {
            Op::Load | Op::Store | Op::Load128 | Op::Store128 | Op::LoadExclusive | Op::StoreExclusive => {
                let m = MemRef::unpack(self.aux, self.imm);
                let sign = if m.signed { "s" } else { "" };
                let order = if m.big { "be" } else { "" };
                write!(
                    f,
                    "{:?}.{}{sign}{order} {}, [{} + {} << {} + {:#x}]",
                    self.op,
                    m.bytes() * 8,
                    self.d,
                    self.a,
                    self.b,
                    m.scale,
                    m.disp
                )
            }
            Op::Flags => {
                write!(f, "Flags.{:?}.{} {}, {} -> {}", Kind::from_u8(self.aux), self.imm, self.a, self.b, self.d)
            }
            Op::MovI => write!(f, "MovI {}, {:#x}", self.d, self.imm),
            Op::Call => {
                write!(f, "Call {} = h{}({}, {}, {:#x})", self.d, self.imm as u16, self.a, self.b, self.imm >> 32)
            }
            Op::Exit => write!(f, "Exit.{} {:#x}", self.aux, self.imm),
            _ => write!(f, "{:?}.{} {}, {}, {}, {:#x}", self.op, self.aux, self.d, self.a, self.b, self.imm),
        }
    }
}

impl fmt::Display for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut points = self.points.iter().peekable();
        for (i, x) in self.insts.iter().enumerate() {
            while let Some(p) = points.next_if(|p| p.op as usize <= i) {
                let relative = if self.base.is_some() { "+" } else { "" };
                let pc = self.pc.wrapping_add(p.at.into());
                writeln!(f, "{relative}{pc:#x} ({} bytes):", p.len)?;
            }
            writeln!(f, "    {i:4} {x}")?;
        }
        Ok(())
    }
}
