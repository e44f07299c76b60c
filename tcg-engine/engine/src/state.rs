//! A vCPU's architectural state to and from the schema: what the loader's entry state, a save and a load have in common.
//!
//! The front end knows what its state may be ([`guest_x86::X86Core`]); this file moves it through the message and adds what
//! the bus owns: the local APIC and the TSC's adjustment.

use anyhow::{Context, Result, bail, ensure};
use cpu_model::msr;
use fp::sse::mxcsr;
use guest_x86::fpu::image::fx;
use guest_x86::{Bus, Segment, Table, X86Core};
use vcpu_devices::Lapic;
use wire::state_capnp::{RunState, pending_event, vcpu_state, x86_core, x86_segment, x86_table};

use crate::vcpu::{Run, Vcpu};

/// Keyed registers are MSRs: their index, eight bytes each.
const MSR_BYTES: u8 = 8;
/// Bit of the physical x87 register that ST(0) is, in FSW.
const TOP: u16 = 11;
/// XSTATE_BV: x87 and SSE.
const X87_AND_SSE: u8 = 3;

/// Put `from` into a parked vCPU. If it is refused, the vCPU is as after a reset.
pub fn load(vcpu: &mut Vcpu, from: vcpu_state::Reader<'_>) -> Result<()> {
    let index = from.get_index();
    if let Some(name) = from.get_must_understand()?.iter().next() {
        bail!("the state of vCPU {index} needs '{}', which this engine does not know", name?.to_str()?);
    }
    let vcpu_state::cpu::X86(core) = from.get_cpu().which()? else {
        bail!("the state of vCPU {index} is for another architecture");
    };
    let core = core?;
    let run = match from.get_run_state()? {
        RunState::Runnable | RunState::Halted => Run::Runnable,
        RunState::WaitForInit | RunState::InitReceived => Run::WaitForSipi,
        RunState::Shutdown => Run::Shutdown,
    };
    let mut state = read_core(core)?;
    state.halted = from.get_run_state()? == RunState::Halted;
    let mut tsc_adjust = 0;
    for r in from.get_registers()? {
        let (id, value) = (r.get_id(), r.get_value()?);
        ensure!(
            r.get_size() == MSR_BYTES && value.len() == 8,
            "register {id:#x} has {} bytes, not {MSR_BYTES}",
            value.len()
        );
        let id = u32::try_from(id).ok().with_context(|| format!("register {id:#x} is no MSR"))?;
        let value = u64::from_le_bytes(value.try_into()?);
        if id == msr::TSC_ADJUST { tsc_adjust = value } else { state.msrs.push((id, value)) }
    }
    if core.get_efer() != 0 {
        state.msrs.retain(|(i, _)| *i != msr::EFER);
        state.msrs.push((msr::EFER, core.get_efer()));
    }
    let now = vcpu.bus().now();
    let lapic = Lapic::from_page(core.get_lapic()?, core.get_apic_base(), core.get_tsc_deadline(), now)
        .context("field lapic is shorter than the register page")?;
    let nmi = matches!(core.get_pending_event()?.which()?, pending_event::Nmi(()));

    vcpu.reset();
    let (cpu, regs) = (&mut vcpu.runner.cpu, &mut vcpu.runner.regs.0);
    cpu.load_state(regs, &state)?;
    cpu.bus.set_tsc_adjust(tsc_adjust);
    cpu.bus.set_lapic(lapic);
    (vcpu.run, vcpu.nmi) = (run, nmi);
    vcpu.look();
    Ok(())
}

fn read_core(core: x86_core::Reader<'_>) -> Result<X86Core> {
    let gprs = core.get_gprs()?;
    ensure!(gprs.len() == 16, "field gprs has {} registers, not 16", gprs.len());
    let segments = core.get_segments()?;
    ensure!(segments.len() == 8, "field segments has {} entries, not 8", segments.len());
    let debug = core.get_debug()?;
    ensure!(debug.len() == 6, "field debug has {} registers, not 6", debug.len());
    let area = core.get_xsave()?;
    ensure!(area.len() >= fx::XSAVE_SIZE, "field xsave has {} bytes, fewer than {}", area.len(), fx::XSAVE_SIZE);
    let seg: [Segment; 6] = std::array::from_fn(|n| segment(segments.get(n as u32)));
    let protected = core.get_cr0() & 1 != 0;
    let mut state = X86Core {
        gpr: std::array::from_fn(|n| gprs.get(n as u32)),
        rip: core.get_rip(),
        rflags: core.get_rflags(),
        seg,
        ldtr: segment(segments.get(6)),
        tr: segment(segments.get(7)),
        gdtr: table(core.get_gdtr()?),
        idtr: table(core.get_idtr()?),
        cr: [core.get_cr0(), core.get_cr2(), core.get_cr3(), core.get_cr4()],
        xcr0: core.get_xcr0(),
        dr: std::array::from_fn(|n| debug.get(n as u32)),
        // The privilege level is SS's (SDM 3A, 5.5).
        cpl: if protected { seg[guest_x86::Seg::Ss as usize].dpl() } else { 0 },
        sti_shadow: core.get_interrupt_shadow() & 1 != 0,
        mov_ss_shadow: core.get_interrupt_shadow() & 2 != 0,
        nmi_blocked: core.get_nmi_blocked(),
        ..X86Core::default()
    };
    read_xsave(&mut state, area);
    Ok(state)
}

fn segment(from: x86_segment::Reader<'_>) -> Segment {
    let attr = if from.get_unusable() { 0 } else { from.get_access() };
    Segment { selector: from.get_selector(), attr, limit: from.get_limit(), base: from.get_base() }
}

fn table(from: x86_table::Reader<'_>) -> Table {
    Table { base: from.get_base(), limit: from.get_limit() }
}

/// Write the state of a parked vCPU.
pub fn save(vcpu: &mut Vcpu, index: u16, mut to: vcpu_state::Builder<'_>) {
    let (cpu, regs) = (&mut vcpu.runner.cpu, &vcpu.runner.regs.0);
    let state = cpu.save_state(regs);
    to.set_index(index);
    to.set_run_state(match vcpu.run {
        Run::Runnable if state.halted => RunState::Halted,
        Run::Runnable => RunState::Runnable,
        Run::WaitForSipi => RunState::WaitForInit,
        Run::Shutdown => RunState::Shutdown,
    });
    let adjust = (msr::TSC_ADJUST, cpu.bus.tsc_adjust());
    let mut list = to.reborrow().init_registers(state.msrs.len() as u32 + 1);
    for (n, (index, value)) in state.msrs.iter().chain([&adjust]).enumerate() {
        let mut r = list.reborrow().get(n as u32);
        r.set_id(u64::from(*index));
        r.set_size(MSR_BYTES);
        r.set_value(&value.to_le_bytes());
    }
    let now = cpu.bus.now();
    let mut core = to.init_cpu().init_x86();
    core.set_lapic(&cpu.bus.lapic.to_page(now));
    core.set_apic_base(cpu.bus.lapic.base());
    core.set_tsc_deadline(cpu.bus.lapic.tsc_deadline());
    core.set_cr8(u64::from(cpu.bus.lapic.cr8()));
    if vcpu.nmi {
        core.reborrow().init_pending_event().set_nmi(());
    }
    if let Some((_, efer)) = state.msrs.iter().find(|(i, _)| *i == msr::EFER) {
        core.set_efer(*efer);
    }
    write_core(&state, core);
}

fn write_core(state: &X86Core, mut core: x86_core::Builder<'_>) {
    let mut gprs = core.reborrow().init_gprs(16);
    for (n, v) in state.gpr.iter().enumerate() {
        gprs.set(n as u32, *v);
    }
    core.set_rip(state.rip);
    core.set_rflags(state.rflags);
    let mut segments = core.reborrow().init_segments(8);
    for (n, s) in state.seg.iter().chain([&state.ldtr, &state.tr]).enumerate() {
        let mut out = segments.reborrow().get(n as u32);
        out.set_selector(s.selector);
        out.set_base(s.base);
        out.set_limit(s.limit);
        out.set_access(s.attr);
        out.set_unusable(!s.present());
    }
    let write = |t: Table, mut out: x86_table::Builder<'_>| {
        out.set_base(t.base);
        out.set_limit(t.limit);
    };
    write(state.gdtr, core.reborrow().init_gdtr());
    write(state.idtr, core.reborrow().init_idtr());
    let [cr0, cr2, cr3, cr4] = state.cr;
    core.set_cr0(cr0);
    core.set_cr2(cr2);
    core.set_cr3(cr3);
    core.set_cr4(cr4);
    core.set_xcr0(state.xcr0);
    let mut debug = core.reborrow().init_debug(6);
    for (n, v) in state.dr.iter().enumerate() {
        debug.set(n as u32, *v);
    }
    core.set_interrupt_shadow(u8::from(state.sti_shadow) | u8::from(state.mov_ss_shadow) << 1);
    core.set_nmi_blocked(state.nmi_blocked);
    core.set_xsave(&write_xsave(state));
}

/// x87 and SSE state in the standard XSAVE format (SDM 1, 13.4), both components present.
fn write_xsave(s: &X86Core) -> [u8; fx::XSAVE_SIZE] {
    let mut area = [0; fx::XSAVE_SIZE];
    let mut put = |at: usize, bytes: &[u8]| area[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &s.fcw.to_le_bytes());
    put(2, &s.fsw.to_le_bytes());
    put(4, &[s.ftw]);
    put(6, &s.fop.to_le_bytes());
    put(8, &s.fip.to_le_bytes());
    put(16, &s.fdp.to_le_bytes());
    put(fx::MXCSR, &s.mxcsr.to_le_bytes());
    put(fx::MXCSR + 4, &mxcsr::WRITABLE.to_le_bytes());
    let top = usize::from(s.fsw >> TOP & 7);
    for n in 0..8 {
        put(fx::ST + 16 * n, &s.fpr[(top + n) % 8].to_le_bytes());
    }
    for (n, v) in s.xmm.iter().enumerate() {
        put(fx::XMM + 16 * n, &v.to_le_bytes());
    }
    put(fx::HEADER, &[X87_AND_SSE]);
    area
}

/// Back from [`write_xsave`]; `area` is at least that long.
fn read_xsave(s: &mut X86Core, area: &[u8]) {
    let wide = |at: usize| {
        let mut b = [0; 16];
        b.copy_from_slice(&area[at..at + 16]);
        u128::from_le_bytes(b)
    };
    let control = wide(0);
    (s.fcw, s.fsw, s.ftw, s.fop) =
        (control as u16, (control >> 16) as u16, (control >> 32) as u8, (control >> 48) as u16);
    (s.fip, s.fdp) = ((control >> 64) as u64, wide(16) as u64);
    s.mxcsr = wide(fx::MXCSR) as u32 & mxcsr::WRITABLE;
    let top = usize::from(s.fsw >> TOP & 7);
    for n in 0..8 {
        s.fpr[(top + n) % 8] = wide(fx::ST + 16 * n) & ((1 << 80) - 1);
    }
    for (n, v) in s.xmm.iter_mut().enumerate() {
        *v = wide(fx::XMM + 16 * n);
    }
}
