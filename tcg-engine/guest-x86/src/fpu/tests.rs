//! Stack, tags and images by hand-checked cases; the values behind them were also observed on hardware.

use super::exec::execute;
use super::image::{self, EnvLayout};
use super::*;
use crate::state::{FPU_DP, FPU_IP, FPU_OP};
use fp::x87::{CW_RESET, load_i64};

fn insn(form: Form, op: u8, sti: u8, pops: u8) -> u32 {
    Insn { form, op, sti, pops, opcode: 0x123 }.pack()
}

fn fresh() -> Regs {
    let mut regs = Regs::default();
    init(&mut regs);
    regs
}

fn push(regs: &mut Regs, value: i64) {
    execute(regs, insn(Form::LoadInt, 0, 0, 0), value.cast_unsigned(), 0);
}

#[test]
fn packing_round_trips() {
    for form in 0..=255 {
        if let Some(i) = Insn::unpack(form) {
            assert_eq!(i.form as u32, form);
        }
    }
    let i = Insn { form: Form::StoreBcd, op: 11, sti: 7, pops: 2, opcode: 0x7ff };
    assert_eq!(Insn::unpack(i.pack()), Some(i));
    assert_eq!(Insn::unpack(36), None);
}

#[test]
fn push_add_pop() {
    let mut regs = fresh();
    push(&mut regs, 2);
    push(&mut regs, 40);
    execute(&mut regs, insn(Form::ArithI0, 0, 1, 1), 0, 0);
    let fpu = Fpu::new(&mut regs);
    assert_eq!((fpu.top(), fpu.st(0), fpu.is_empty(1)), (7, load_i64(42), true));
}

#[test]
fn the_ninth_push_overflows() {
    let mut regs = fresh();
    for n in 0..9 {
        push(&mut regs, n);
    }
    let fpu = Fpu::new(&mut regs);
    assert_eq!(fpu.st(0), F80::INDEFINITE);
    assert_eq!(fpu.sw() & (sw::IE | sw::SF | sw::C1 | sw::ES), sw::IE | sw::SF | sw::C1);
    // Unmasked, nothing moves and the exception is pending.
    let mut regs = fresh();
    Fpu::new(&mut regs).set_cw(CW_RESET & !1);
    for n in 0..9 {
        push(&mut regs, n);
    }
    let fpu = Fpu::new(&mut regs);
    assert_eq!((fpu.top(), fpu.st(0)), (0, load_i64(7)));
    assert_ne!(fpu.sw() & sw::ES, 0);
    assert_eq!(regs.get(FPU_OP), 0x123);
}

#[test]
fn an_empty_register_underflows() {
    let mut regs = fresh();
    execute(&mut regs, insn(Form::Com, 0, 1, 2), 0, 0);
    let fpu = Fpu::new(&mut regs);
    assert_eq!(fpu.sw() & sw::CONDITIONS, sw::C3 | sw::C2 | sw::C0);
    assert_eq!((fpu.top(), fpu.sw() & sw::SF), (2, sw::SF));
    let store = store::value(&mut regs, insn(Form::StoreInt, 1, 0, 1)).unwrap();
    assert_eq!((store.bits, store.size, store.blocked), (0x8000_0000, 4, false));
    store::commit(&mut regs, insn(Form::StoreInt, 1, 0, 1), &store);
    assert_eq!(Fpu::new(&mut regs).top(), 3);
}

#[test]
fn a_blocked_store_does_not_pop() {
    let mut regs = fresh();
    Fpu::new(&mut regs).set_cw(CW_RESET & !1);
    push(&mut regs, 1 << 40);
    let packed = insn(Form::StoreInt, 0, 0, 1);
    let store = store::value(&mut regs, packed).unwrap();
    assert!(store.blocked);
    store::commit(&mut regs, packed, &store);
    let fpu = Fpu::new(&mut regs);
    assert_eq!((fpu.top(), fpu.sw() & (sw::ES | sw::IE)), (7, sw::ES | sw::IE));
}

#[test]
fn environments_round_trip() {
    let mut regs = fresh();
    push(&mut regs, 0);
    push(&mut regs, 5);
    regs.set(FPU_IP, 0x0004_5678);
    regs.set(FPU_DP, 0x0001_2345);
    regs.set(FPU_OP, 0x7d9);
    for layout in [(false, false), (false, true), (true, false), (true, true)] {
        let layout = EnvLayout { wide: layout.0, protected: layout.1 };
        let stored = image::store_env(&regs, layout);
        let mut other = fresh();
        image::load_env(&mut other, layout, &stored);
        for word in [FPU_CW, FPU_SW, FPU_TAG] {
            assert_eq!(other.get(word), regs.get(word), "{layout:?}");
        }
        // 16-bit protected-mode fields hold 16 bits of offset and no opcode.
        if layout.wide || !layout.protected {
            assert_eq!(
                (other.get(FPU_IP), other.get(FPU_DP), other.get(FPU_OP)),
                (0x4_5678, 0x1_2345, 0x7d9),
                "{layout:?}"
            );
        }
    }
    // ST(0) = 5 in register 6 is valid, ST(1) = 0 in register 7 is zero, the rest empty.
    assert_eq!(image::full_tags(&regs), 0b01_00_11_11_11_11_11_11);
    let wide = image::store_env(&regs, EnvLayout { wide: true, protected: true });
    assert_eq!(wide[..12], [0x7f, 3, 0xff, 0xff, 0, 0x30, 0xff, 0xff, 0xff, 0x4f, 0xff, 0xff]);
    assert_eq!(wide[16..20], [0, 0, 0xd9, 7]);
}

#[test]
fn fxsave_control_depends_on_rex_w() {
    let mut regs = fresh();
    regs.set(FPU_IP, 0x1234_8678_9abc_def0);
    let narrow = image::fx_control(&regs, false);
    assert_eq!(narrow[8..16], [0xf0, 0xde, 0xbc, 0x9a, 0, 0, 0, 0]);
    let wide = image::fx_control(&regs, true);
    let mut other = fresh();
    image::fx_load_control(&mut other, &wide, true);
    assert_eq!(other.get(FPU_IP), 0xffff_8678_9abc_def0, "made canonical");
}

#[test]
fn loading_an_unmasked_flag_makes_it_pending() {
    let mut regs = fresh();
    let mut control = image::fx_control(&regs, false);
    control[0] = 0x7e;
    control[2] = 1;
    image::fx_load_control(&mut regs, &control, false);
    assert_ne!(Fpu::new(&mut regs).sw() & sw::ES, 0);
    Fpu::new(&mut regs).set_cw(CW_RESET);
    assert_eq!(Fpu::new(&mut regs).sw() & sw::ES, 0);
}

#[test]
fn initial_state_is_not_in_use() {
    let mut regs = fresh();
    assert_eq!(image::in_use(&regs), 0);
    regs.set128(crate::state::xmm(9), 1);
    assert_eq!(image::in_use(&regs), image::component::SSE);
    push(&mut regs, 1);
    assert_eq!(image::in_use(&regs), image::component::SSE | image::component::X87);
    image::init_x87(&mut regs);
    assert_eq!(image::in_use(&regs), image::component::SSE);
}
