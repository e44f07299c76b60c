//! A vCPU's architectural state to and from the schema: what the loader's entry state, a save and a load have in common.
//!
//! The front end knows what its state may be ([`guest_x86::X86Core`]); this file moves it through the message and adds what
//! the bus owns: the local APIC and the TSC's adjustment. A load makes a new vCPU, which takes the place of the old one only when
//! all of the state has proved right; so nothing of an old life can stay behind, and a refused state changes nothing.

use ::state::StateError;
use ::state::tolerance::{self, Incoming, Register, Rules, rules};
use cpu_model::msr;
use fp::sse::mxcsr;
use guest_x86::core::LoadError;
use guest_x86::exception::{self, Source};
use guest_x86::fpu::image::{component, fx};
use guest_x86::{Bus, Exception, Segment, Table, X86Core};
use vcpu_devices::Lapic;
use wire::state_capnp::{RunState, pending_event, vcpu_state, x86_core, x86_segment, x86_table};

use crate::vcpu::{Run, Vcpu};

/// Keyed registers are MSRs: their index, eight bytes each.
const MSR_BYTES: u8 = 8;
/// Bit of the physical x87 register that ST(0) is, in FSW.
const TOP: u16 = 11;
/// Privilege level in a segment's access word.
const DPL: u16 = 5;
/// XSTATE_BV: x87 and SSE.
const X87_AND_SSE: u64 = component::X87 | component::SSE;

/// Where a state belongs.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// The machine version, whose rules say what may be missing.
    pub machine: &'a str,
    /// The path of the vCPU in messages, such as `engine.vcpus[0]`.
    pub path: &'a str,
    /// Guest time, which stands.
    pub now: u64,
}

impl Place<'_> {
    fn bad(&self, field: &str, why: impl Into<String>) -> StateError {
        StateError::field(format!("{}.{field}", self.path), why)
    }
}

/// Make of `from` a vCPU that can take the place of `present` ([`Vcpu::replace`]). Nothing of the machine is changed.
///
/// # Errors
/// The field that is wrong, and why.
pub fn load(present: &mut Vcpu, from: vcpu_state::Reader<'_>, place: Place<'_>) -> Result<Vcpu, StateError> {
    let (index, model) = (present.bus().index, present.runner.cpu.model());
    if from.get_index() != index {
        return Err(place.bad("index", format!("is {}, and this is vCPU {index}", from.get_index())));
    }
    if let Some(name) = from.get_must_understand()?.iter().next() {
        return Err(StateError::MustUnderstand(format!("{}.{}", place.path, name?.to_str()?)));
    }
    let vcpu_state::cpu::X86(core) = from.get_cpu().which()? else {
        return Err(place.bad("cpu", "is of another architecture, and this engine runs x86-64 guests"));
    };
    let core = core?;
    let run = from.get_run_state()?;
    let mut vcpu = present.apart();
    let mut state = read_core(core, model, place)?;
    state.halted = run == RunState::Halted;
    let mut tsc_adjust = 0;
    for (id, value) in registers(&mut vcpu, from, core, &state, place)? {
        if id == msr::TSC_ADJUST { tsc_adjust = value } else { state.msrs.push((id, value)) }
    }
    state.msrs.push((msr::EFER, core.get_efer()));
    let refused = |e: LoadError| match e {
        LoadError::Value { what, value } => place.bad(what, format!("{value:#x} is no value of it on {}", model.name)),
        LoadError::Msr { index, value } => {
            let name = model.msr(index).map_or("unknown", |m| m.name);
            place.bad("registers", format!("{index:#x} ({name}) cannot be {value:#x} on {}", model.name))
        }
    };
    state.check(model).map_err(refused)?;
    let saved = vcpu_devices::Saved {
        page: core.get_lapic()?.to_vec(),
        base: core.get_apic_base(),
        tsc_deadline: core.get_tsc_deadline(),
        errors: core.get_apic_errors(),
        started: core.get_apic_timer_start(),
    };
    let lapic = Lapic::load(u32::from(index), index == 0, &saved, place.now).map_err(|e| place.bad(e.field, e.why))?;
    if core.get_cr8() != u64::from(lapic.cr8()) {
        let why = format!("is {:#x}, and the local APIC's task priority says {:#x}", core.get_cr8(), lapic.cr8());
        return Err(place.bad("cr8", why));
    }
    let (injected, nmi) = pending(core.get_pending_event()?, place)?;
    let (cpu, regs) = (&mut vcpu.runner.cpu, &mut vcpu.runner.regs.0);
    cpu.load_state(regs, &state).map_err(refused)?;
    cpu.bus.load(lapic, tsc_adjust);
    vcpu.take_run(match run {
        RunState::Runnable | RunState::Halted => Run::Runnable,
        RunState::WaitForInit | RunState::InitReceived => Run::WaitForSipi,
        RunState::Shutdown => Run::Shutdown,
    });
    (vcpu.injected, vcpu.nmi) = (injected, nmi || core.get_nmi_pending());
    Ok(vcpu)
}

/// The event that was being injected, and whether an NMI waits.
fn pending(event: pending_event::Reader<'_>, place: Place<'_>) -> Result<(Option<Exception>, bool), StateError> {
    let e = match event.which()? {
        pending_event::None(()) => return Ok((None, false)),
        pending_event::Nmi(()) => return Ok((None, true)),
        pending_event::Interrupt(vector) => {
            return Ok((Some(Exception { source: Source::External, ..Exception::fault(vector) }), false));
        }
        pending_event::Exception(e) => e?,
    };
    let (vector, payload) = (e.get_vector(), e.get_payload());
    let bad = |why: &str| Err(place.bad("pendingEvent.exception", format!("vector {vector} {why}")));
    if vector > 31 || vector == exception::NMI {
        return bad("is no exception");
    }
    if e.get_has_error() != exception::has_error_code(vector) {
        return bad("has an error code where it should not, or none where it should");
    }
    if payload != 0 && !matches!(vector, exception::PF | exception::DB) {
        return bad("has a payload, as only #PF and #DB do");
    }
    let source = match vector {
        exception::DB | exception::BP | exception::OF => Source::Trap,
        _ => Source::Fault,
    };
    let exception = Exception {
        vector,
        error: e.get_has_error().then_some(e.get_error()),
        cr2: (vector == exception::PF).then_some(payload),
        dr6: if vector == exception::DB { payload & DR6_CAUSES } else { 0 },
        source,
    };
    Ok((Some(exception), false))
}

/// Bits of DR6 that say why #DB was raised.
const DR6_CAUSES: u64 = 0xe00f;

/// Registers that the typed part of the state has: a keyed one may only repeat it.
fn typed(core: x86_core::Reader<'_>, state: &X86Core) -> [(u32, u64); 3] {
    let base = |s: guest_x86::Seg| state.seg[s as usize].base;
    [(msr::EFER, core.get_efer()), (msr::FS_BASE, base(guest_x86::Seg::Fs)), (msr::GS_BASE, base(guest_x86::Seg::Gs))]
}

/// The keyed registers to load: what the state has and what the rules give. `vcpu` is one after a reset.
fn registers(
    vcpu: &mut Vcpu,
    from: vcpu_state::Reader<'_>,
    core: x86_core::Reader<'_>,
    state: &X86Core,
    place: Place<'_>,
) -> Result<Vec<(u32, u64)>, StateError> {
    let typed = typed(core, state);
    let path = format!("{}.registers", place.path);
    let mut incoming = Vec::new();
    for register in ::state::registers::read(from.get_registers()?, &path)? {
        match typed.iter().find(|(id, _)| u64::from(*id) == register.id) {
            Some((_, value)) if u128::from(*value) == register.value => {}
            Some((_, value)) => {
                let why = format!("{:#x} is {:#x}, and {value:#x} elsewhere in the state", register.id, register.value);
                return Err(StateError::field(path, why));
            }
            None => incoming.push(Incoming { register, reset: None }),
        }
    }
    let after_reset = keyed(vcpu);
    let known: Vec<Register> = after_reset.iter().map(|&(id, value)| register(id, value)).collect();
    let rules = Rules::of(rules::Q35, place.machine).unwrap_or_default();
    let plan = tolerance::reconcile(&incoming, &known, &rules)
        .map_err(|refusal| StateError::field(path.as_str(), refusal.to_string()))?;
    // `reconcile` answers with known registers of their size only.
    Ok(plan.load.iter().map(|r| (r.id as u32, r.value as u64)).collect())
}

fn register(id: u32, value: u64) -> Register {
    Register { id: id.into(), size: MSR_BYTES, value: value.into() }
}

/// The keyed registers of a vCPU by id, those left out that the typed part has.
fn keyed(vcpu: &mut Vcpu) -> Vec<(u32, u64)> {
    let (cpu, regs) = (&mut vcpu.runner.cpu, &vcpu.runner.regs.0);
    let mut all = cpu.save_state(regs).msrs;
    all.retain(|(id, _)| ![msr::EFER, msr::FS_BASE, msr::GS_BASE].contains(id));
    all.push((msr::TSC_ADJUST, cpu.bus.tsc_adjust()));
    all.sort_unstable();
    all
}

fn read_core(core: x86_core::Reader<'_>, model: &cpu_model::Model, place: Place<'_>) -> Result<X86Core, StateError> {
    let count = |field: &str, have: u32, want: u32| match have == want {
        true => Ok(()),
        false => Err(place.bad(field, format!("has {have} entries, not {want}"))),
    };
    let (gprs, segments, debug, pdpte) = (core.get_gprs()?, core.get_segments()?, core.get_debug()?, core.get_pdpte()?);
    count("gprs", gprs.len(), 16)?;
    count("segments", segments.len(), 8)?;
    count("debug", debug.len(), 6)?;
    if !pdpte.is_empty() {
        count("pdpte", pdpte.len(), 4)?;
    }
    if core.get_interrupt_shadow() > 2 {
        return Err(place.bad("interruptShadow", format!("is {}; 1 is STI's, 2 MOV SS's", core.get_interrupt_shadow())));
    }
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
        pdpte: std::array::from_fn(|n| if pdpte.is_empty() { 0 } else { pdpte.get(n as u32) }),
        // The privilege level is SS's, also where SS is unusable (SDM 3A, 5.5; 3C, 24.4.1).
        cpl: if protected { (segments.get(guest_x86::Seg::Ss as u32).get_access() >> DPL & 3) as u8 } else { 0 },
        sti_shadow: core.get_interrupt_shadow() & 1 != 0,
        mov_ss_shadow: core.get_interrupt_shadow() & 2 != 0,
        nmi_blocked: core.get_nmi_blocked(),
        ..X86Core::default()
    };
    read_xsave(&mut state, model, core.get_xsave()?).map_err(|why| place.bad("xsave", why))?;
    Ok(state)
}

fn segment(from: x86_segment::Reader<'_>) -> Segment {
    // What is not present has no attributes that matter, and gets none.
    let access = from.get_access();
    let attr = if from.get_unusable() || access & guest_x86::state::attr::P == 0 { 0 } else { access };
    Segment { selector: from.get_selector(), attr, limit: from.get_limit(), base: from.get_base() }
}

fn table(from: x86_table::Reader<'_>) -> Table {
    Table { base: from.get_base(), limit: from.get_limit() }
}

/// Write the state of a parked vCPU, which has taken in what waited for it. Guest time stands.
pub fn save(vcpu: &mut Vcpu, index: u16, mut to: vcpu_state::Builder<'_>) {
    let registers = keyed(vcpu);
    let (cpu, regs) = (&mut vcpu.runner.cpu, &vcpu.runner.regs.0);
    let (state, model) = (cpu.save_state(regs), cpu.model());
    to.set_index(index);
    to.set_run_state(match vcpu.run {
        Run::Runnable if state.halted => RunState::Halted,
        Run::Runnable => RunState::Runnable,
        Run::WaitForSipi => RunState::WaitForInit,
        Run::Shutdown => RunState::Shutdown,
    });
    let registers: Vec<Register> = registers.into_iter().map(|(id, value)| register(id, value)).collect();
    ::state::registers::write(to.reborrow().init_registers(registers.len() as u32), &registers);
    let lapic = cpu.bus.lapic.save(cpu.bus.now());
    let mut core = to.init_cpu().init_x86();
    core.set_lapic(&lapic.page);
    core.set_apic_base(lapic.base);
    core.set_apic_errors(lapic.errors);
    core.set_apic_timer_start(lapic.started);
    core.set_tsc_deadline(lapic.tsc_deadline);
    core.set_cr8(u64::from(cpu.bus.lapic.cr8()));
    write_pending(vcpu.injected, vcpu.nmi, core.reborrow());
    if let Some((_, efer)) = state.msrs.iter().find(|(i, _)| *i == msr::EFER) {
        core.set_efer(*efer);
    }
    write_core(&state, model, core);
}

fn write_pending(injected: Option<Exception>, nmi: bool, mut core: x86_core::Builder<'_>) {
    core.set_nmi_pending(nmi && injected.is_some());
    let mut event = core.init_pending_event();
    match injected {
        None if nmi => event.set_nmi(()),
        None => event.set_none(()),
        Some(Exception { source: Source::External, vector, .. }) => event.set_interrupt(vector),
        Some(e) => {
            let mut to = event.init_exception();
            to.set_vector(e.vector);
            to.set_has_error(e.error.is_some());
            to.set_error(e.error.unwrap_or(0));
            to.set_payload(e.cr2.unwrap_or(e.dr6));
        }
    }
}

fn write_core(state: &X86Core, model: &cpu_model::Model, mut core: x86_core::Builder<'_>) {
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
        out.set_access(if s.present() { s.attr } else { 0 });
        out.set_unusable(!s.present());
    }
    // The privilege level is SS's in the state, also where SS has nothing else.
    if state.cr[0] & 1 != 0 {
        let mut ss = segments.reborrow().get(guest_x86::Seg::Ss as u32);
        let access = ss.reborrow().get_access() & !(3 << DPL) | u16::from(state.cpl) << DPL;
        ss.set_access(access);
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
    if state.pdpte != [0; 4] {
        let mut pdpte = core.reborrow().init_pdpte(4);
        for (n, v) in state.pdpte.iter().enumerate() {
            pdpte.set(n as u32, *v);
        }
    }
    core.set_interrupt_shadow(u8::from(state.sti_shadow) | u8::from(state.mov_ss_shadow) << 1);
    core.set_nmi_blocked(state.nmi_blocked);
    core.set_xsave(&write_xsave(state, model));
}

/// x87 and vector state in the standard XSAVE format (SDM 1, 13.4), with every component that the CPU model has.
fn write_xsave(s: &X86Core, model: &cpu_model::Model) -> Vec<u8> {
    let avx = model.xcr0 & component::AVX != 0;
    let mut area = vec![0; if avx { fx::XSAVE_AVX_SIZE } else { fx::XSAVE_SIZE }];
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
    if avx {
        for (n, v) in s.ymm_upper.iter().enumerate() {
            put(fx::YMM_UPPER + 16 * n, &v.to_le_bytes());
        }
    }
    put(fx::HEADER, &(X87_AND_SSE | if avx { component::AVX } else { 0 }).to_le_bytes());
    area
}

/// Back from [`write_xsave`], or from whatever else keeps the standard format. A component that the header leaves out is as
/// after a reset (SDM 1, 13.6).
fn read_xsave(s: &mut X86Core, model: &cpu_model::Model, area: &[u8]) -> Result<(), String> {
    if area.len() < fx::XSAVE_SIZE {
        return Err(format!("has {} bytes, fewer than {}", area.len(), fx::XSAVE_SIZE));
    }
    let wide = |at: usize| {
        let mut b = [0; 16];
        b.copy_from_slice(&area[at..at + 16]);
        u128::from_le_bytes(b)
    };
    let header = wide(fx::HEADER);
    let (components, compact) = (header as u64, (header >> 64) as u64);
    if compact != 0 {
        return Err("is in the compacted format".to_owned());
    }
    if components & !model.xcr0 != 0 {
        let all = model.xcr0;
        return Err(format!("has components {components:#x}, and {all:#x} are all that {} has", model.name));
    }
    if components & component::AVX != 0 && area.len() < fx::XSAVE_AVX_SIZE {
        return Err(format!("has {} bytes, fewer than {} with AVX", area.len(), fx::XSAVE_AVX_SIZE));
    }
    let control = wide(0);
    s.mxcsr = wide(fx::MXCSR) as u32;
    (s.fcw, s.fsw, s.ftw, s.fop) = (0x37f, 0, 0, 0);
    if components & 1 != 0 {
        (s.fcw, s.fsw, s.ftw, s.fop) =
            (control as u16, (control >> 16) as u16, (control >> 32) as u8, (control >> 48) as u16);
        (s.fip, s.fdp) = ((control >> 64) as u64, wide(16) as u64);
        let top = usize::from(s.fsw >> TOP & 7);
        for n in 0..8 {
            s.fpr[(top + n) % 8] = wide(fx::ST + 16 * n) & ((1 << 80) - 1);
        }
    }
    if components & 2 != 0 {
        for (n, v) in s.xmm.iter_mut().enumerate() {
            *v = wide(fx::XMM + 16 * n);
        }
    }
    if components & component::AVX != 0 {
        for (n, v) in s.ymm_upper.iter_mut().enumerate() {
            *v = wide(fx::YMM_UPPER + 16 * n);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model(name: &str) -> &'static cpu_model::Model {
        cpu_model::by_name(name).unwrap()
    }

    /// A state with something in every register of the area.
    fn filled() -> X86Core {
        let value = |n: usize| u128::MAX / (n as u128 + 3);
        X86Core {
            xmm: std::array::from_fn(value),
            ymm_upper: std::array::from_fn(|n| value(n + 16)),
            fpr: std::array::from_fn(|n| value(n + 32) >> 48),
            fcw: 0x27f,
            fsw: 5 << TOP,
            ftw: 0x5a,
            mxcsr: 0x1fa0,
            ..X86Core::default()
        }
    }

    #[test]
    fn the_area_holds_what_the_model_has() {
        let (s, v2, v3) = (filled(), model("atoll-v2"), model("atoll-v3"));
        let area = write_xsave(&s, v3);
        assert_eq!((area.len(), area[fx::HEADER]), (832, 7));
        let mut read = X86Core::default();
        read_xsave(&mut read, v3, &area).unwrap();
        assert_eq!(read, s);
        // The smaller model has no place for them, and refuses them.
        let small = write_xsave(&s, v2);
        assert_eq!((small.len(), small[fx::HEADER]), (576, 3));
        let mut read = X86Core::default();
        read_xsave(&mut read, v3, &small).unwrap();
        assert_eq!((read.xmm, read.ymm_upper), (s.xmm, [0; 16]));
        assert!(read_xsave(&mut read, v2, &area).unwrap_err().contains("components 0x7"));
        assert!(read_xsave(&mut read, v3, &area[..831]).unwrap_err().contains("fewer than 832"));
    }
}
