//! What the engine has counted, as a message.
//!
//! The idea: a name is said once, with the sum over all vCPUs and each vCPU's share, so that 64 vCPUs fit into one message.

use std::sync::atomic::Ordering;

use wire::engine_capnp::engine_statistics;

use crate::machine::{Machine, VcpuCounters};

/// The counters of all vCPUs, and of the registers.
pub fn fill(m: &Machine, mut s: engine_statistics::Builder<'_>) {
    let sum = |f: fn(&VcpuCounters) -> u64| m.counters.iter().map(f).sum();
    s.set_instructions(sum(|c| c.instructions.load(Ordering::Relaxed)));
    s.set_run_nanoseconds(sum(|c| c.run_ns.load(Ordering::Relaxed)));
    let vcpus: Vec<Vec<_>> = m.counters.iter().map(|c| c.list().collect()).collect();
    let names = vcpus.first().map_or(&[][..], |first| first);
    let mut list = s.reborrow().init_counters(names.len() as u32 + 1);
    for (n, (name, _)) in names.iter().enumerate() {
        let mut counter = list.reborrow().get(n as u32);
        counter.set_name(*name);
        let mut each = counter.reborrow().init_per_vcpu(vcpus.len() as u32);
        let mut total = 0u64;
        for (index, vcpu) in (0..).zip(&vcpus) {
            let value = vcpu.get(n).map_or(0, |(_, value)| *value);
            each.set(index, value);
            total = total.wrapping_add(value);
        }
        counter.set_value(total);
    }
    // Of the machine as a whole.
    let mut counter = list.get(names.len() as u32);
    counter.set_name("huge-pages");
    counter.set_value(m.huge_pages.load(Ordering::Relaxed));
    let registers = m.windows.counts();
    let mut list = s.init_registers(registers.len() as u32);
    for (n, c) in registers.iter().enumerate() {
        let mut to = list.reborrow().get(n as u32);
        to.set_device(format!("area{}", c.device));
        to.set_window(&c.window);
        to.set_offset(c.offset);
        to.set_write(c.write);
        to.set_synchronous(c.synchronous);
        to.set_local(c.local);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::setup::MAXIMUM_VCPUS;
    use crate::tests::machine_of;

    #[test]
    fn the_counters_of_as_many_vcpus_as_there_can_be_fit_into_a_message() {
        let machine = machine_of(MAXIMUM_VCPUS.into()).0;
        for c in &machine.counters {
            c.halts.store(3, Ordering::Relaxed);
        }
        machine.counters[1].halts.store(7, Ordering::Relaxed);
        let mut message = capnp::message::Builder::new_default();
        fill(&machine, message.init_root());
        // Half of a message is for the registers, of which this machine has accessed none.
        assert!(capnp::serialize::compute_serialized_size_in_words(&message) * 8 < link::MAX_MESSAGE / 2);
        let s: engine_statistics::Reader<'_> = message.get_root_as_reader().unwrap();
        let halts = s.get_counters().unwrap().iter().find(|c| c.get_name().unwrap() == "halts").unwrap();
        assert_eq!(halts.get_value(), 3 * 63 + 7);
        assert_eq!(halts.get_per_vcpu().unwrap().iter().take(3).collect::<Vec<_>>(), [3, 7, 3]);
    }
}
