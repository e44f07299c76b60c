//! Cases that are tried whatever the seed: corners that random states reach too seldom for a sample to tell.
//!
//! The idea: each corner is a few short lists, and every combination of them is a case. What a long run has found is added
//! here as the list that contains it, so that it stays found.

use anyhow::Result;
use cpu_model::Model;

use crate::build::{self, Made};
use crate::case::{CODE, Case, DATA, DATA_LEN, GS32_BASE, GS32_LIMIT, Outcome, RW_LEN};
use crate::host::{self, BATCH, Host};
use crate::random::{self, Pool};
use crate::rng::Rng;
use crate::run;
use crate::tiers::Tiers;

/// Where the instructions lie.
const AT: u64 = CODE + 0x800;

/// The end of the lower half of the canonical addresses.
const LAST: u64 = 1 << 47;

/// Where the images of FXSAVE and XSAVE lie: whole; the end of a page behind any of their parts (control words, ST, XMM, header),
/// with nothing, a page that may only be read, a page that may be written, or
/// what is not canonical behind or before it.
static PLACES: &[u64] = &[
    DATA + 0x400,
    DATA - 64,
    DATA - 192,
    DATA - 512,
    DATA + 0x1000 - 192,
    DATA + RW_LEN - 64,
    DATA + RW_LEN - 192,
    DATA + RW_LEN - 512,
    DATA + DATA_LEN - 64,
    DATA + DATA_LEN - 192,
    DATA + DATA_LEN - 512,
    DATA + 0x410,
    DATA + 0x408,
    LAST - 64,
    LAST - 192,
    LAST - 512,
    LAST - 576,
];

/// FXSAVE, FXRSTOR, XSAVE, XRSTOR of the bytes at RSI, and with REX.W.
static IMAGES: &[&[u8]] = &[
    &[0x0f, 0xae, 0x06],
    &[0x0f, 0xae, 0x0e],
    &[0x0f, 0xae, 0x26],
    &[0x0f, 0xae, 0x2e],
    &[0x48, 0x0f, 0xae, 0x06],
    &[0x48, 0x0f, 0xae, 0x0e],
    &[0x48, 0x0f, 0xae, 0x26],
    &[0x48, 0x0f, 0xae, 0x2e],
];

/// The ends of what AVX adds to an image, likewise.
static PLACES_V3: &[u64] = &[DATA + RW_LEN - 576, DATA + RW_LEN - 640, DATA + DATA_LEN - 576, LAST - 640, LAST - 832];

/// XSAVEOPT.
static IMAGES_V3: &[&[u8]] = &[&[0x0f, 0xae, 0x36], &[0x48, 0x0f, 0xae, 0x36]];

/// Headers of XSAVE: nothing wrong; a component that nobody has; something in XCOMP_BV, but not the compact form, which hosts
/// may have; reserved bytes. Offset and value.
static HEADERS: &[(usize, u8)] = &[(0, 0), (0, 8), (8, 1), (15, 0x40), (16, 1), (24, 1)];

/// Bytes of MXCSR: usual, and with reserved bits.
static MXCSRS: &[u32] = &[0x1f80, 0xffff_1f80];

/// Accesses of all kinds at RSI, RDI or the stack: words, x87 images, vectors, pairs, strings.
static ACCESSES: &[&[u8]] = &[
    &[0x48, 0x8b, 0x06],             // mov rax, [rsi]
    &[0x48, 0x89, 0x06],             // mov [rsi], rax
    &[0x48, 0x01, 0x06],             // add [rsi], rax
    &[0x48, 0x8b, 0x45, 0x00],       // mov rax, [rbp]
    &[0xd9, 0x26],                   // fldenv [rsi]
    &[0xd9, 0x36],                   // fnstenv [rsi]
    &[0xdd, 0x26],                   // frstor [rsi]
    &[0xdd, 0x36],                   // fnsave [rsi]
    &[0xdb, 0x2e],                   // fld tbyte [rsi]
    &[0xdb, 0x3e],                   // fstp tbyte [rsi]
    &[0xdf, 0x26],                   // fbld [rsi]
    &[0x0f, 0xae, 0x45, 0x00],       // fxsave [rbp]
    &[0x0f, 0xae, 0x4d, 0x00],       // fxrstor [rbp]
    &[0x0f, 0xae, 0x65, 0x00],       // xsave [rbp]
    &[0x0f, 0xae, 0x6d, 0x00],       // xrstor [rbp]
    &[0x0f, 0xae, 0x16],             // ldmxcsr [rsi]
    &[0x0f, 0x10, 0x06],             // movups xmm0, [rsi]
    &[0x0f, 0x11, 0x06],             // movups [rsi], xmm0
    &[0x0f, 0x28, 0x45, 0x00],       // movaps xmm0, [rbp]
    &[0x0f, 0x29, 0x06],             // movaps [rsi], xmm0
    &[0x66, 0x0f, 0xf7, 0xc1],       // maskmovdqu xmm0, xmm1
    &[0x0f, 0xf7, 0xc1],             // maskmovq mm0, mm1
    &[0x48, 0x0f, 0xc7, 0x0e],       // cmpxchg16b [rsi]
    &[0x48, 0x0f, 0xc7, 0x4d, 0x00], // cmpxchg16b [rbp]
    &[0x0f, 0xc7, 0x0e],             // cmpxchg8b [rsi]
    &[0x48, 0xa5],                   // movsq
    &[0x48, 0xab],                   // stosq
    &[0x48, 0xa7],                   // cmpsq
    &[0x48, 0xaf],                   // scasq
    &[0x50],                         // push rax
    &[0x58],                         // pop rax
    &[0x8f, 0x06],                   // pop [rsi]
    &[0xff, 0x36],                   // push [rsi]
    &[0xc3],                         // ret
    &[0xc9],                         // leave
    &[0xc8, 0x10, 0x00, 0x02],       // enter 16, 2
    &[0xff, 0x16],                   // call [rsi]
    &[0xff, 0x2e],                   // jmp far [rsi]
    &[0x9c],                         // pushfq
    &[0x48, 0xcf],                   // iretq
    &[0x48, 0x0f, 0xa3, 0x06],       // bt [rsi], rax
    &[0x0f, 0xae, 0x3e],             // clflush [rsi]
    &[0x0f, 0x18, 0x0e],             // prefetcht0 [rsi]
];

/// The same of the larger model.
static ACCESSES_V3: &[&[u8]] = &[
    &[0xc5, 0xfc, 0x10, 0x06],                   // vmovups ymm0, [rsi]
    &[0xc5, 0xfc, 0x11, 0x06],                   // vmovups [rsi], ymm0
    &[0xc5, 0xfc, 0x11, 0x45, 0x00],             // vmovups [rbp], ymm0
    &[0xc5, 0xfc, 0x28, 0x06],                   // vmovaps ymm0, [rsi]
    &[0xc5, 0xfc, 0x29, 0x45, 0x00],             // vmovaps [rbp], ymm0
    &[0xc5, 0xfd, 0xfe, 0x06],                   // vpaddd ymm0, ymm0, [rsi]
    &[0xc4, 0xe2, 0x75, 0x2c, 0x06],             // vmaskmovps ymm0, ymm1, [rsi]
    &[0xc4, 0xe2, 0x75, 0x2e, 0x06],             // vmaskmovps [rsi], ymm1, ymm0
    &[0xc4, 0xe2, 0x75, 0x2e, 0x45, 0x00],       // vmaskmovps [rbp], ymm1, ymm0
    &[0xc4, 0xe2, 0x7d, 0x1a, 0x06],             // vbroadcastf128 ymm0, [rsi]
    &[0xc4, 0xe3, 0x7d, 0x19, 0x06, 0x01],       // vextractf128 [rsi], ymm0, 1
    &[0xc4, 0xe3, 0x7d, 0x1d, 0x06, 0x04],       // vcvtps2ph [rsi], ymm0, 4
    &[0xc4, 0xe2, 0x6d, 0x92, 0x44, 0x0e, 0x01], // vgatherdps ymm0, [rsi+ymm1+1], ymm2
    &[0x0f, 0xae, 0x75, 0x00],                   // xsaveopt [rbp]
];

/// Whether the model has AVX.
fn larger(model: &Model) -> bool {
    model.xcr0 & 4 != 0
}

/// One list, and for the larger model another one behind it.
fn list<T: Copy>(model: &Model, base: &[T], more: &[T]) -> Vec<T> {
    [base, if larger(model) { more } else { &[] }].concat()
}

/// Ends of the canonical halves and of the address space, and of the data pages.
static EDGES: &[u64] = &[LAST, LAST.wrapping_neg(), 0, 1 << 63, DATA, DATA + RW_LEN, DATA + DATA_LEN];

/// How far before them, or (as the last) behind.
static BEFORE: &[i64] = &[1, 2, 4, 6, 8, 10, 12, 15, 16, 24, 28, 32, 64, 96, 108, 128, 0, -1, -8, -16, -64];

/// Prefixes that choose segments and sizes.
static PREFIXES: &[&[u8]] = &[
    &[],
    &[0x26],
    &[0x2e],
    &[0x36],
    &[0x3e],
    &[0x64],
    &[0x65],
    &[0x66],
    &[0x67],
    &[0x64, 0x67],
    &[0x65, 0x2e],
    &[0xf3],
];

/// An empty case of `bits` bits around these bytes, in a random state.
fn case(r: &mut Rng, pool: &Pool, bits: u32, bytes: &[u8]) -> Case {
    let mut c = random::case(r, pool, bits, AT);
    c.len = bytes.len() as u64;
    c.bytes[..bytes.len()].copy_from_slice(bytes);
    c
}

/// Write as far as the bytes lie where that is possible.
fn poke(c: &mut Case, at: u64, bytes: &[u8]) {
    for (i, b) in bytes.iter().enumerate() {
        if let Some(p) = c.rw.get_mut(at.wrapping_add(i as u64).wrapping_sub(DATA) as usize) {
            *p = *b;
        }
    }
}

/// Every part of an image of x87 and SSE missing, bad, or not asked for.
fn images(model: &Model, r: &mut Rng, pool: &Pool, out: &mut Trial) -> Result<()> {
    let (images, places) = (list(model, IMAGES, IMAGES_V3), list(model, PLACES, PLACES_V3));
    let all = model.xcr0 as usize + 1;
    for (bytes, at) in images.iter().flat_map(|b| places.iter().map(move |p| (*b, *p))) {
        for n in 0..all * 4 * HEADERS.len() * MXCSRS.len() {
            let (asked, there, rest) = (n % all, n / all % 4, n / all / 4);
            // AVX is there or not as something else is.
            let there = if larger(model) { [0, 3, 5, 6][there] } else { there };
            let ((offset, value), mxcsr) = (HEADERS[rest % HEADERS.len()], MXCSRS[rest / HEADERS.len()]);
            // 32-bit code has no REX, and its addresses end earlier.
            let bits = if bytes[0] == 0x48 || at >> 32 != 0 || n % 3 != 0 { 64 } else { 32 };
            let mut c = case(r, pool, bits, bytes);
            (c.state.gpr[0], c.state.gpr[2], c.state.gpr[6]) = (asked as u64, 0, at);
            let mut header = [0; 64];
            header[0] = there as u8;
            header[offset] |= value;
            poke(&mut c, at + 24, &mxcsr.to_le_bytes());
            poke(&mut c, at + 512, &header);
            out.push(c)?;
        }
    }
    Ok(())
}

/// Every kind of access about every edge, in 64-bit code.
fn edges(model: &Model, r: &mut Rng, pool: &Pool, out: &mut Trial) -> Result<()> {
    let accesses = list(model, ACCESSES, ACCESSES_V3);
    for (bytes, edge, before) in
        accesses.iter().flat_map(|b| EDGES.iter().flat_map(move |e| BEFORE.iter().map(move |n| (*b, *e, *n))))
    {
        let at = edge.wrapping_add_signed(-before);
        let mut c = case(r, pool, 64, bytes);
        // Alignment is another matter: which of two exceptions comes first is not said.
        c.state.eflags &= !(1 << 18);
        for n in [4, 5, 6, 7] {
            c.state.gpr[n] = at;
        }
        (c.state.gpr[0], c.state.gpr[2]) = (model.xcr0, 0);
        // No image is in the compact form, which hosts may have.
        poke(&mut c, at.wrapping_add(520), &[0; 16]);
        out.push(c)?;
    }
    Ok(())
}

/// The same in 32-bit code: about the end of the address space, the data pages, and the limit of a segment. What
/// lies across the end of a segment of 4 GiB elsewhere than at 0 is left out: whether that is beyond the limit varies from one
/// processor to another (SDM vol. 3A, "Limit Checking").
fn limits(model: &Model, r: &mut Rng, pool: &Pool, out: &mut Trial) -> Result<()> {
    let ends = [0, DATA as u32, (DATA + RW_LEN) as u32, (DATA + DATA_LEN) as u32].map(|e| (&[][..], e));
    let ends = [&ends[..], &[(&[0x65][..], GS32_LIMIT + 1), (&[0x65][..], 0)]].concat();
    let accesses = list(model, ACCESSES, ACCESSES_V3);
    for (bytes, (prefix, end), before) in
        accesses.iter().flat_map(|b| ends.iter().flat_map(move |e| BEFORE.iter().map(move |n| (*b, *e, *n))))
    {
        let plain = bytes.strip_prefix(&[0x48]).unwrap_or(bytes);
        let at = u64::from(end.wrapping_add_signed(-before as i32));
        let mut c = case(r, pool, 32, &[prefix, plain].concat());
        c.state.eflags &= !(1 << 18);
        for n in [4, 5, 6, 7] {
            c.state.gpr[n] = at;
        }
        (c.state.gpr[0], c.state.gpr[2]) = (model.xcr0, 0);
        let base = if prefix.is_empty() { 0 } else { GS32_BASE };
        poke(&mut c, u64::from((at as u32).wrapping_add(base)).wrapping_add(520), &[0; 16]);
        out.push(c)?;
    }
    Ok(())
}

/// XLAT, a string load and an implied offset through every segment and address size.
fn segments(_: &Model, r: &mut Rng, pool: &Pool, out: &mut Trial) -> Result<()> {
    for (bits, prefixes) in [64, 32].into_iter().flat_map(|b| PREFIXES.iter().map(move |p| (b, *p))) {
        for (opcode, register) in [(0xd7, 3), (0xac, 6)] {
            let mut c = case(r, pool, bits, &[prefixes, &[opcode]].concat());
            c.state.gpr[register] = DATA + 0x100;
            out.push(c)?;
        }
    }
    Ok(())
}

/// Both sides, the cases that wait for them, and what came of those that went before.
struct Trial {
    host: Host,
    tiers: Tiers,
    batch: Vec<Made>,
    ends: [Box<Outcome>; 2],
    cases: usize,
    wrong: Vec<String>,
}

impl Trial {
    fn push(&mut self, case: Case) -> Result<()> {
        let instruction = build::decode(case.code(), if case.long() { 64 } else { 32 }, case.at);
        self.batch.push(Made { case, instruction });
        if self.batch.len() == BATCH { self.run() } else { Ok(()) }
    }

    fn run(&mut self) -> Result<()> {
        if self.batch.is_empty() {
            return Ok(());
        }
        let [h, g] = &mut self.ends;
        self.cases += self.batch.len();
        self.host.start(self.batch.iter().map(|m| &m.case))?;
        let ran = self.host.finish(self.batch.len())?;
        for (i, (made, ran)) in self.batch.drain(..).zip(ran).enumerate() {
            self.host.outcome(i, h);
            let guest = self.tiers.run(&made, 1, g)?;
            let lines = run::verdict(&made, &ran.map(|()| &**h), &guest.as_ref().map(|()| &**g).map_err(Clone::clone));
            if !lines.is_empty() && (guest.is_err() || host::reviewed()) {
                let s = &made.case.state.gpr;
                self.wrong.push(format!("{:02x?} RAX {:#x} RSI {:#x}: {lines:?}", made.case.code(), s[0], s[6]));
            }
        }
        Ok(())
    }
}

/// Run all of them: how many there are, and what differs; between the tiers alone if this CPU's choices are not reviewed.
///
/// # Errors
/// The harness cannot work here.
pub fn check(model: &'static Model) -> Result<(usize, Vec<String>)> {
    let (pool, mut r) = (Pool::default(), Rng::new(1));
    let (host, tiers, ends) = (Host::new()?, Tiers::new(model)?, Default::default());
    let mut trial = Trial { host, tiers, batch: vec![], ends, cases: 0, wrong: vec![] };
    for family in [images, segments, edges, limits] {
        family(model, &mut r, &pool, &mut trial)?;
    }
    trial.run()?;
    Ok((trial.cases, trial.wrong))
}
