//! Instruction formats ("Instruction Formats") as positions of fields.

/// Where an instruction has its fields. The names are the manual's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Format {
    /// No operand.
    E,
    /// R1, I2.
    Ri,
    /// M1, relative I2.
    RiM,
    /// R1, R2, I2 (bits 32 to 47), M3: compare and branch.
    RieB,
    /// R1, M3, I4, I2 (8 bits): compare immediate and branch.
    RieC,
    /// R1 = R3 op I2; `first` is R3.
    RieD,
    /// R1, R2, I3, I4, I5: rotate and insert.
    RieF,
    /// R1, I2 of 32 bits.
    Ril,
    /// R1, R2.
    Rr,
    /// R1, R2 behind a two-byte operation code.
    Rre,
    /// R1 = R2 op R3. Fields go by role: `first` is the manual's R2, `r2` (the second source) its R3.
    RrfA,
    /// R1, R2, M3, M4.
    RrfC,
    /// R1, R3, R2: multiply and add.
    Rrd,
    /// R1, R3 or M3, D2(B2).
    Rs,
    /// R1, R3 or M3, D2(B2), displacement of 20 bits.
    Rsy,
    /// R1, R3, relative I2.
    Rsi,
    /// R1, D2(X2, B2).
    Rx,
    /// R1, D2(X2, B2) with operation code in the sixth byte.
    Rxe,
    /// R1, R3, D2(X2, B2).
    Rxf,
    /// R1, D2(X2, B2), displacement of 20 bits.
    Rxy,
    /// D2(B2).
    S,
    /// D1(B1), I2 of 8 bits.
    Si,
    /// D1(B1), I2 of 8 bits, displacement of 20 bits.
    Siy,
    /// D1(B1), I2 of 16 bits.
    Sil,
    /// D1(L, B1), D2(B2).
    SsA,
    /// D1(R1, B1), D2(B2), R3.
    SsD,
}

/// An instruction's fields; those it lacks are 0.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Fields {
    pub r1: u32,
    /// The first source, where the result does not go to it: else R1.
    pub first: u32,
    pub r2: u32,
    pub r3: u32,
    pub m3: u32,
    pub m4: u32,
    pub b1: u32,
    pub d1: i32,
    pub x2: u32,
    pub b2: u32,
    pub d2: i32,
    /// Length code: bytes - 1.
    pub len: u32,
    /// Immediate, sign-extended; relative ones in halfwords.
    pub i2: i64,
    pub i3: u32,
    pub i4: u32,
    pub i5: u32,
    /// Relative branch target in halfwords, beside another immediate.
    pub branch: i64,
}

/// `len` bits from bit `at` on, counted from the left as in the manual.
fn bits(i: u64, at: u32, len: u32) -> u32 {
    (i << at >> (64 - len)) as u32
}

fn signed(i: u64, at: u32, len: u32) -> i64 {
    (i << at).cast_signed() >> (64 - len)
}

/// The fields of instruction `i` (left-aligned) by its format.
pub fn fields(format: Format, i: u64) -> Fields {
    let n = |at| bits(i, at, 4);
    let short = |at| bits(i, at, 12) as i32;
    let long = |at| (signed(i, at + 12, 8) << 12) as i32 | bits(i, at, 12) as i32;
    let mut f = Fields::default();
    match format {
        Format::E => {}
        Format::Ri | Format::RiM => f = Fields { r1: n(8), i2: signed(i, 16, 16), ..f },
        Format::RieB => f = Fields { r1: n(8), r2: n(12), branch: signed(i, 16, 16), m3: n(32), ..f },
        Format::RieC => f = Fields { r1: n(8), m3: n(12), branch: signed(i, 16, 16), i2: signed(i, 32, 8), ..f },
        Format::RieD => f = Fields { r1: n(8), r3: n(12), i2: signed(i, 16, 16), ..f },
        Format::RieF => {
            f = Fields { r1: n(8), r2: n(12), i3: bits(i, 16, 8), i4: bits(i, 24, 8), i5: bits(i, 32, 8), ..f }
        }
        Format::Ril => f = Fields { r1: n(8), i2: signed(i, 16, 32), ..f },
        Format::Rr => f = Fields { r1: n(8), r2: n(12), ..f },
        Format::Rre => f = Fields { r1: n(24), r2: n(28), ..f },
        Format::RrfA => f = Fields { r1: n(24), r2: n(16), r3: n(28), ..f },
        Format::RrfC => f = Fields { r1: n(24), r2: n(28), m3: n(16), m4: n(20), ..f },
        Format::Rrd => f = Fields { r1: n(16), r3: n(24), r2: n(28), ..f },
        Format::Rs => f = Fields { r1: n(8), r3: n(12), m3: n(12), b2: n(16), d2: short(20), ..f },
        Format::Rsy => f = Fields { r1: n(8), r3: n(12), m3: n(12), b2: n(16), d2: long(20), ..f },
        Format::Rsi => f = Fields { r1: n(8), r3: n(12), i2: signed(i, 16, 16), ..f },
        Format::Rx | Format::Rxe => f = Fields { r1: n(8), x2: n(12), b2: n(16), d2: short(20), ..f },
        Format::Rxf => f = Fields { r3: n(8), x2: n(12), b2: n(16), d2: short(20), r1: n(32), ..f },
        Format::Rxy => f = Fields { r1: n(8), x2: n(12), b2: n(16), d2: long(20), ..f },
        Format::S => f = Fields { b2: n(16), d2: short(20), ..f },
        Format::Si => f = Fields { i2: signed(i, 8, 8), b1: n(16), d1: short(20), ..f },
        Format::Siy => f = Fields { i2: signed(i, 8, 8), b1: n(16), d1: long(20), ..f },
        Format::Sil => f = Fields { b1: n(16), d1: short(20), i2: signed(i, 32, 16), ..f },
        Format::SsA => f = Fields { len: bits(i, 8, 8), b1: n(16), d1: short(20), b2: n(32), d2: short(36), ..f },
        Format::SsD => f = Fields { r1: n(8), r3: n(12), b1: n(16), d1: short(20), b2: n(32), d2: short(36), ..f },
    }
    f.first = match format {
        Format::RieD | Format::RrfA => f.r3,
        _ => f.r1,
    };
    f
}

/// The key of [`crate::table`]: the first byte, and the second half of the operation code where there is one.
pub fn opcode(i: u64) -> u16 {
    let (first, second) = (bits(i, 0, 8), bits(i, 8, 8));
    let rest = match first {
        0x01 | 0xb2 | 0xb3 | 0xb9 | 0xe5 => second,
        0xa5 | 0xa7 | 0xc0 | 0xc2 | 0xc4 | 0xc6 => second & 15,
        0xe3 | 0xeb | 0xec | 0xed => bits(i, 40, 8),
        _ => 0,
    };
    (first << 8 | rest) as u16
}
