//! The engine contract has room for three architectures: one round trip for every real case that is reserved.
//!
//! Each case is built, serialised, read back and compared, with the values that a guest of that kind would bring.

#![expect(clippy::unwrap_used, reason = "helpers of a test")]

use capnp::message::{Builder, HeapAllocator, ReaderOptions};
use capnp::serialize;
use wire::engine_capnp::{
    AddressSpace, Architecture, ResetKind, attributes, call_exit, call_reply, doorbell, engine_facts, engine_request,
    floating_interrupt, interrupt_route, memory_slot, register_window, start_vector, vfio_attach,
};
use wire::state_capnp::{RunState, pending_event, vcpu_state};

/// Build, serialise, read.
fn trip<F, G>(build: F, check: G)
where
    F: FnOnce(&mut Builder<HeapAllocator>),
    G: FnOnce(capnp::message::Reader<serialize::OwnedSegments>),
{
    let mut message = Builder::new_default();
    build(&mut message);
    let bytes = serialize::write_message_to_words(&message);
    check(serialize::read_message(bytes.as_slice(), ReaderOptions::new()).unwrap());
}

#[test]
fn memory_slots_of_every_kind() {
    trip(
        |m| {
            let mut list = m.initn_root::<capnp::struct_list::Builder<'_, memory_slot::Owned>>(4);
            list.reborrow().get(0).init_kind().set_ram(());
            list.reborrow().get(1).init_kind().set_rom(());
            // A VFIO BAR, and the storage keys of 1 GiB.
            let mut bar = list.reborrow().get(2);
            bar.set_guest_address(0x80_0000_0000);
            bar.set_length(16 << 20);
            bar.set_descriptor("vfio0-bar2");
            bar.init_kind().set_device_memory(());
            let mut keys = list.reborrow().get(3);
            keys.set_length(1 << 18);
            keys.init_kind().set_storage_keys(());
        },
        |r| {
            let list: capnp::struct_list::Reader<'_, memory_slot::Owned> = r.get_root().unwrap();
            let kind = |n: u32| list.get(n).get_kind().which().unwrap();
            assert!(matches!(kind(0), memory_slot::kind::Ram(())));
            assert!(matches!(kind(1), memory_slot::kind::Rom(())));
            assert!(matches!(kind(2), memory_slot::kind::DeviceMemory(())));
            assert!(matches!(kind(3), memory_slot::kind::StorageKeys(())));
            assert_eq!((list.get(2).get_guest_address(), list.get(2).get_length()), (0x80_0000_0000, 16 << 20));
            assert_eq!(list.get(2).get_descriptor().unwrap(), "vfio0-bar2");
        },
    );
}

#[test]
fn routes_by_pin_message_and_adapter() {
    trip(
        |m| {
            let mut list = m.initn_root::<capnp::struct_list::Builder<'_, interrupt_route::Owned>>(3);
            let mut pin = list.reborrow().get(0).init_target().init_pin();
            pin.set_pin(16);
            pin.set_level(true);
            pin.set_resample("resample16");
            // A GICv3 ITS translates (device id, event id).
            let mut msi = list.reborrow().get(1).init_target().init_msi();
            msi.set_address(0x0809_0040);
            msi.set_data(7);
            msi.set_device_id(0x0018);
            let mut adapter = list.reborrow().get(2).init_target().init_s390_adapter();
            adapter.set_indicator_address(0x1_2340);
            adapter.set_indicator_offset(5);
            adapter.set_summary_address(0x1_2380);
            adapter.set_summary_offset(1);
            adapter.set_adapter_id(3);
        },
        |r| {
            use interrupt_route::target::Which;
            let list: capnp::struct_list::Reader<'_, interrupt_route::Owned> = r.get_root().unwrap();
            let Which::Pin(pin) = list.get(0).get_target().which().unwrap() else { panic!() };
            assert_eq!(
                (pin.get_pin(), pin.get_level(), pin.get_resample().unwrap().to_str().unwrap()),
                (16, true, "resample16")
            );
            let Which::Msi(msi) = list.get(1).get_target().which().unwrap() else { panic!() };
            assert_eq!((msi.get_address(), msi.get_data(), msi.get_device_id()), (0x0809_0040, 7, 0x18));
            let Which::S390Adapter(a) = list.get(2).get_target().which().unwrap() else { panic!() };
            assert_eq!((a.get_indicator_address(), a.get_summary_offset(), a.get_adapter_id()), (0x1_2340, 1, 3));
        },
    );
}

#[test]
fn calls_of_three_architectures_and_their_replies() {
    trip(
        |m| {
            let mut list = m.initn_root::<capnp::struct_list::Builder<'_, call_exit::Owned>>(5);
            // PSCI SYSTEM_SUSPEND (64-bit), DIAG 308, READ SCP INFO, START SUBCHANNEL, a paravirtual call.
            list.reborrow().get(0).init_kind().set_psci(0xc400_000e);
            list.reborrow().get(1).init_kind().set_diagnose(0x308);
            let mut servc = list.reborrow().get(2).init_kind().init_servc();
            servc.set_command(0x0002_0001);
            servc.set_sccb(0x2000);
            let mut channel = list.reborrow().get(3).init_kind().init_channel();
            channel.set_instruction(0xb233);
            channel.set_schid(0x0001_0002);
            list.reborrow().get(4).init_kind().set_hypercall(11);
            let mut registers = list.reborrow().get(0).init_registers(3);
            registers.set(1, 0x4008_0000);
        },
        |r| {
            use call_exit::kind::Which;
            let list: capnp::struct_list::Reader<'_, call_exit::Owned> = r.get_root().unwrap();
            let kind = |n: u32| list.get(n).get_kind().which().unwrap();
            assert!(matches!(kind(0), Which::Psci(0xc400_000e)));
            assert!(matches!(kind(1), Which::Diagnose(0x308)));
            let Which::Servc(s) = kind(2) else { panic!() };
            assert_eq!((s.get_command(), s.get_sccb()), (0x0002_0001, 0x2000));
            let Which::Channel(c) = kind(3) else { panic!() };
            assert_eq!((c.get_instruction(), c.get_schid()), (0xb233, 0x0001_0002));
            assert!(matches!(kind(4), Which::Hypercall(11)));
            assert_eq!(list.get(0).get_registers().unwrap().get(1), 0x4008_0000);
        },
    );
    trip(
        |m| {
            let mut reply = m.init_root::<call_reply::Builder<'_>>();
            reply.set_id(9);
            reply.set_condition_code(3);
            reply.init_registers(1).set(0, u64::MAX);
        },
        |r| {
            let reply: call_reply::Reader<'_> = r.get_root().unwrap();
            assert_eq!(
                (reply.get_id(), reply.get_condition_code(), reply.get_registers().unwrap().get(0)),
                (9, 3, u64::MAX)
            );
        },
    );
}

#[test]
fn floating_interrupts() {
    trip(
        |m| {
            let mut list = m.initn_root::<capnp::struct_list::Builder<'_, floating_interrupt::Owned>>(3);
            let mut io = list.reborrow().get(0).init_io();
            io.set_subchannel_id(1);
            io.set_subchannel_number(0x12);
            io.set_parameter(0xdead);
            io.set_word(0x3800_0000);
            list.reborrow().get(1).set_service(0x2000);
            list.reborrow().get(2).init_machine_check().set_mcic(1 << 63);
        },
        |r| {
            use floating_interrupt::Which;
            let list: capnp::struct_list::Reader<'_, floating_interrupt::Owned> = r.get_root().unwrap();
            let Which::Io(io) = list.get(0).which().unwrap() else { panic!() };
            assert_eq!((io.get_subchannel_number(), io.get_parameter(), io.get_word()), (0x12, 0xdead, 0x3800_0000));
            assert!(matches!(list.get(1).which().unwrap(), Which::Service(0x2000)));
            let Which::MachineCheck(m) = list.get(2).which().unwrap() else { panic!() };
            assert_eq!(m.get_mcic(), 1 << 63);
        },
    );
}

#[test]
fn starts_and_resets_of_each_kind() {
    trip(
        |m| {
            let mut list = m.initn_root::<capnp::struct_list::Builder<'_, engine_request::Owned>>(5);
            list.reborrow().get(0).init_start_vcpu().set_sipi(0x9a);
            list.reborrow().get(1).init_start_vcpu().set_s3(0x9_a000);
            let mut psci = list.reborrow().get(2).init_start_vcpu().init_psci();
            psci.set_entry(0x4008_0000);
            psci.set_context(77);
            list.reborrow().get(3).init_start_vcpu().set_restart(0x1_0000);
            let mut reset = list.reborrow().get(4).init_reset_vcpu();
            reset.set_vcpu(3);
            reset.set_kind(ResetKind::Clear);
        },
        |r| {
            use start_vector::Which as Start;
            let list: capnp::struct_list::Reader<'_, engine_request::Owned> = r.get_root().unwrap();
            let start = |n: u32| match list.get(n).which().unwrap() {
                engine_request::StartVcpu(s) => s.unwrap(),
                _ => panic!("request {n}"),
            };
            assert!(matches!(start(0).which().unwrap(), Start::Sipi(0x9a)));
            assert!(matches!(start(1).which().unwrap(), Start::S3(0x9_a000)));
            let Start::Psci(p) = start(2).which().unwrap() else { panic!() };
            assert_eq!((p.get_entry(), p.get_context()), (0x4008_0000, 77));
            assert!(matches!(start(3).which().unwrap(), Start::Restart(0x1_0000)));
            let engine_request::ResetVcpu(reset) = list.get(4).which().unwrap() else { panic!() };
            assert_eq!((reset.get_vcpu(), reset.get_kind().unwrap()), (3, ResetKind::Clear));
        },
    );
}

#[test]
fn windows_doorbells_attributes_and_vfio() {
    trip(
        |m| {
            let mut w = m.init_root::<register_window::Builder<'_>>();
            w.set_space(AddressSpace::Port);
            w.set_base(0xcf8);
            w.set_length(8);
            let mut b = w.init_kind().init_registers(1).get(0);
            b.set_length(4);
            b.reborrow().init_read().set_formula(2);
            b.init_write().set_posted(0b101);
        },
        |r| {
            use wire::engine_capnp::register_behaviour::{read, write};
            let w: register_window::Reader<'_> = r.get_root().unwrap();
            let register_window::kind::Registers(list) = w.get_kind().which().unwrap() else { panic!() };
            let b = list.unwrap().get(0);
            assert!(matches!(b.get_read().which().unwrap(), read::Formula(2)));
            assert!(matches!(b.get_write().which().unwrap(), write::Posted(0b101)));
        },
    );
    trip(
        |m| {
            let mut d = m.init_root::<doorbell::Builder<'_>>();
            d.set_address(0xfe00_1000);
            d.set_width(2);
            d.init_match().set_value(3);
        },
        |r| {
            let d: doorbell::Reader<'_> = r.get_root().unwrap();
            assert!(matches!(d.get_match().which().unwrap(), doorbell::match_::Value(3)));
        },
    );
    trip(
        |m| {
            let mut a = m.init_root::<attributes::Builder<'_>>();
            a.set_secure(true);
            a.set_requester(0x0100);
        },
        |r| {
            let a: attributes::Reader<'_> = r.get_root().unwrap();
            assert_eq!((a.get_secure(), a.get_user(), a.get_requester()), (true, false, 0x0100));
        },
    );
    trip(
        |m| m.init_root::<vfio_attach::Builder<'_>>().init_kind().set_group(12),
        |r| {
            let v: vfio_attach::Reader<'_> = r.get_root().unwrap();
            assert!(matches!(v.get_kind().which().unwrap(), vfio_attach::kind::Group(12)));
        },
    );
}

#[test]
fn states_of_three_architectures_with_keyed_registers() {
    trip(
        |m| {
            let mut list = m.initn_root::<capnp::struct_list::Builder<'_, vcpu_state::Owned>>(3);
            let mut x86 = list.reborrow().get(0).init_cpu().init_x86();
            x86.set_interrupt_shadow(1);
            let mut e = x86.init_pending_event().init_exception();
            e.set_vector(14);
            e.set_has_error(true);
            e.set_payload(0xffff_8000_0000_0000);
            let mut a64 = list.reborrow().get(1);
            a64.set_run_state(RunState::WaitForInit);
            a64.reborrow().init_cpu().init_a64().set_pstate(0x3c5);
            // KVM_REG_ARM_VENDOR_HYP_BMAP_2.
            let mut reg = a64.init_registers(1).get(0);
            reg.set_id(0x6030_0000_0016_0003);
            reg.set_size(8);
            reg.set_value(&3u64.to_le_bytes());
            let mut s390 = list.reborrow().get(2);
            s390.reborrow().init_must_understand(1).set(0, "todProgrammable");
            let mut core = s390.init_cpu().init_s390x();
            core.set_prefix(0x2000);
            core.set_psw_mask(0x0705_c001_8000_0000);
        },
        |r| {
            use vcpu_state::cpu::Which;
            let list: capnp::struct_list::Reader<'_, vcpu_state::Owned> = r.get_root().unwrap();
            let Which::X86(Ok(x86)) = list.get(0).get_cpu().which().unwrap() else { panic!() };
            let pending_event::Exception(Ok(e)) = x86.get_pending_event().unwrap().which().unwrap() else { panic!() };
            assert_eq!((e.get_vector(), e.get_has_error(), e.get_payload()), (14, true, 0xffff_8000_0000_0000));
            let Which::A64(Ok(a64)) = list.get(1).get_cpu().which().unwrap() else { panic!() };
            assert_eq!((a64.get_pstate(), list.get(1).get_run_state().unwrap()), (0x3c5, RunState::WaitForInit));
            let reg = list.get(1).get_registers().unwrap().get(0);
            assert_eq!((reg.get_id(), reg.get_value().unwrap()), (0x6030_0000_0016_0003, &3u64.to_le_bytes()[..]));
            let Which::S390x(Ok(s390)) = list.get(2).get_cpu().which().unwrap() else { panic!() };
            assert_eq!((s390.get_prefix(), s390.get_psw_mask()), (0x2000, 0x0705_c001_8000_0000));
            assert_eq!(list.get(2).get_must_understand().unwrap().get(0).unwrap(), "todProgrammable");
        },
    );
}

#[test]
fn facts() {
    trip(
        |m| {
            let mut f = m.init_root::<engine_facts::Builder<'_>>();
            f.set_engine("kvm");
            let mut list = f.reborrow().init_architectures(2);
            list.set(0, Architecture::Aarch64);
            list.set(1, Architecture::S390x);
            f.init_register_list(1).set(0, 0x6020_0000_0011_0002);
        },
        |r| {
            let f: engine_facts::Reader<'_> = r.get_root().unwrap();
            assert_eq!(f.get_architectures().unwrap().get(1).unwrap(), Architecture::S390x);
            assert_eq!(f.get_register_list().unwrap().get(0), 0x6020_0000_0011_0002);
        },
    );
}
