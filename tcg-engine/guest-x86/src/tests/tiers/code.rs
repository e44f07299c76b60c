//! A buffer of guest code, instruction by instruction: encodings with random choices where the architecture leaves some.
//!
//! The idea: an instruction is an opcode, a register field and an operand, and the buffer notes where each one begins, so that a
//! handler can go on behind one that has faulted.

/// A register or memory operand.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Operand {
    /// Register.
    Reg(u8),
    /// Base (or the next instruction's address, or none), index with its shift, displacement.
    Mem { base: Base, index: Option<(u8, u8)>, disp: i32 },
}

/// What a memory operand is relative to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Base {
    /// A register.
    Reg(u8),
    /// Nothing.
    None,
    /// The instruction pointer; the displacement is the address itself.
    Pc,
}

/// A place to jump to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Label(usize);

/// One instruction: prefixes, opcode bytes and operands.
#[derive(Clone, Copy, Debug)]
pub struct Ins<'a> {
    /// Operand size in bytes: 1, 2, 4 or 8.
    pub size: u8,
    /// Prefixes before REX, without 66.
    pub prefixes: &'a [u8],
    /// Opcode with its map.
    pub op: &'a [u8],
    /// Register field.
    pub reg: u8,
    /// The other operand.
    pub rm: Operand,
    /// Immediate.
    pub imm: &'a [u8],
    /// A REX prefix although nothing needs it.
    pub rex: bool,
}

/// What a VEX prefix says besides the operands' bits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Vex {
    /// 1 for 0F, 2 for 0F 38, 3 for 0F 3A.
    pub map: u8,
    /// 0 none, 1 for 66, 2 for F3, 3 for F2.
    pub prefix: u8,
    /// Its W bit.
    pub w: bool,
    /// 256 bits.
    pub wide: bool,
    /// The second register.
    pub second: u8,
}

/// The buffer.
#[derive(Clone, Debug, Default)]
pub struct Code {
    /// Bytes so far.
    pub bytes: Vec<u8>,
    /// Where instructions begin.
    pub starts: Vec<usize>,
    /// Guest address of the first byte.
    pub base: u64,
    labels: Vec<Option<usize>>,
    holes: Vec<(usize, Label)>,
}

impl Code {
    /// Empty, for `base`.
    pub fn new(base: u64) -> Code {
        Code { base, ..Code::default() }
    }

    fn begin(&mut self) {
        self.starts.push(self.bytes.len());
    }

    /// An instruction as bytes.
    pub fn raw(&mut self, bytes: &[u8]) {
        self.begin();
        self.bytes.extend_from_slice(bytes);
    }

    /// A label that is not placed yet.
    pub fn label(&mut self) -> Label {
        self.labels.push(None);
        Label(self.labels.len() - 1)
    }

    /// Place it here.
    pub fn place(&mut self, l: Label) {
        self.labels[l.0] = Some(self.bytes.len());
    }

    /// An instruction that ends in a distance of 32 bits to a label.
    pub fn towards(&mut self, op: &[u8], l: Label) {
        self.begin();
        self.bytes.extend_from_slice(op);
        self.holes.push((self.bytes.len(), l));
        self.bytes.extend_from_slice(&[0; 4]);
    }

    /// An instruction with a ModRM byte.
    pub fn ins(&mut self, i: Ins) {
        self.begin();
        if i.size == 2 {
            self.bytes.push(0x66);
        }
        self.bytes.extend_from_slice(i.prefixes);
        let mut rex = u8::from(i.size == 8) << 3 | (i.reg >> 3) << 2;
        match i.rm {
            Operand::Reg(r) => rex |= r >> 3,
            Operand::Mem { base, index, .. } => {
                if let Base::Reg(b) = base {
                    rex |= b >> 3;
                }
                rex |= index.map_or(0, |(x, _)| x >> 3 << 1);
            }
        }
        if rex != 0 || i.rex {
            self.bytes.push(0x40 | rex);
        }
        self.bytes.extend_from_slice(i.op);
        self.operands(&i);
    }

    /// A VEX-coded instruction: the opcode is one byte, size and prefixes are not looked at.
    pub fn vex(&mut self, i: Ins, v: Vex) {
        self.begin();
        let (mut x, mut b) = (0, 0);
        match i.rm {
            Operand::Reg(r) => b = r >> 3,
            Operand::Mem { base, index, .. } => {
                if let Base::Reg(r) = base {
                    b = r >> 3;
                }
                x = index.map_or(0, |(n, _)| n >> 3);
            }
        }
        let high = (i.reg >> 3 & 1) << 7 | (x & 1) << 6 | (b & 1) << 5;
        let last = u8::from(v.w) << 7 | (!v.second & 15) << 3 | u8::from(v.wide) << 2 | v.prefix;
        self.bytes.extend_from_slice(&[0xc4, high ^ 0xe0 | v.map, last]);
        self.bytes.extend_from_slice(i.op);
        self.operands(&i);
    }

    /// ModRM and what follows it.
    fn operands(&mut self, i: &Ins) {
        let reg = (i.reg & 7) << 3;
        match i.rm {
            Operand::Reg(r) => self.bytes.push(0xc0 | reg | r & 7),
            Operand::Mem { base: Base::Pc, disp, .. } => {
                self.bytes.push(reg | 5);
                let next = self.base as i64 + (self.bytes.len() + 4 + i.imm.len()) as i64;
                self.bytes.extend_from_slice(&((i64::from(disp) - next) as i32).to_le_bytes());
            }
            Operand::Mem { base: Base::None, index, disp } => {
                let (x, s) = index.unwrap_or((4, 0));
                self.bytes.extend_from_slice(&[reg | 4, s << 6 | (x & 7) << 3 | 5]);
                self.bytes.extend_from_slice(&disp.to_le_bytes());
            }
            Operand::Mem { base: Base::Reg(b), index, disp } => {
                let mode = match i8::try_from(disp) {
                    Ok(0) if b & 7 != 5 => 0,
                    Ok(_) => 1,
                    Err(_) => 2,
                };
                if index.is_some() || b & 7 == 4 {
                    let (x, s) = index.unwrap_or((4, 0));
                    self.bytes.extend_from_slice(&[mode << 6 | reg | 4, s << 6 | (x & 7) << 3 | b & 7]);
                } else {
                    self.bytes.push(mode << 6 | reg | b & 7);
                }
                match mode {
                    1 => self.bytes.push(disp as u8),
                    2 => self.bytes.extend_from_slice(&disp.to_le_bytes()),
                    _ => {}
                }
            }
        }
        self.bytes.extend_from_slice(i.imm);
    }

    /// Fill all distances in. Every label is placed.
    pub fn finish(&mut self) {
        for (at, l) in std::mem::take(&mut self.holes) {
            let to = self.labels[l.0].unwrap() as i64;
            let distance = (to - at as i64 - 4) as i32;
            self.bytes[at..at + 4].copy_from_slice(&distance.to_le_bytes());
        }
    }
}
