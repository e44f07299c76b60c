//! Write tags and marks around device accesses, during which memory may be harvested: whatever is stored behind one must be
//! marked again.

use iced_x86::IcedError;
use iced_x86::code_asm::*;

use super::harness::{CR3, DATA, DEVICE, asm64, long};

/// Runs `code`, with RSI at [`DATA`] and RDI at the device, while each access to a device meets a harvest. Answers the marked
/// pages among [`DATA`]'s own and the next.
fn marked(code: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>) -> [bool; 2] {
    let mut m = long();
    // The page behind the device's is the second data page.
    m.poke64(CR3 + 0x9008, (DATA + 0x1000) | 3);
    m.cpu.bus.harvested = Some(m.cpu.mem.clone());
    let code = asm64(|a| {
        a.mov(rsi, DATA)?;
        a.mov(rdi, DEVICE)?;
        code(a)?;
        a.hlt()
    });
    m.run_code(&code);
    assert_eq!(m.caught(), None);
    [DATA, DATA + 0x1000].map(|at| m.cpu.mem.marks.is_marked(at))
}

#[test]
fn a_tag_does_not_outlive_a_device_access() {
    assert_eq!(marked(|a| a.mov(qword_ptr(rsi), rdx)), [true, false]);
    // Marked, harvested, and not stored to again.
    let once = marked(|a| {
        a.mov(qword_ptr(rsi), rdx)?;
        a.mov(eax, dword_ptr(rdi))
    });
    assert_eq!(once, [false, false]);
    type Access = fn(&mut CodeAssembler) -> Result<(), IcedError>;
    let accesses: [Access; 5] = [
        |a| a.mov(eax, dword_ptr(rdi)),
        |a| a.mov(dword_ptr(rdi), eax),
        |a| a.in_(eax, dx),
        |a| a.out(dx, eax),
        |a| a.add(dword_ptr(rdi), eax),
    ];
    for (n, access) in accesses.into_iter().enumerate() {
        let twice = marked(|a| {
            a.mov(qword_ptr(rsi), rdx)?;
            access(a)?;
            a.mov(qword_ptr(rsi), rcx)
        });
        assert_eq!(twice, [true, false], "access {n}");
    }
}

#[test]
fn stores_that_leave_a_device_for_ram_mark_behind_it() {
    assert_eq!(marked(|a| a.mov(qword_ptr(rdi + 0xffc), rdx)), [false, true]);
    assert_eq!(marked(|a| a.movups(xmmword_ptr(rdi + 0xff8), xmm0)), [false, true]);
    assert_eq!(marked(|a| a.lock().add(dword_ptr(rdi + 0xffe), ecx)), [false, true]);
    let strings = marked(|a| {
        a.mov(ecx, 2)?;
        a.lea(rdi, qword_ptr(rdi + 0xffe))?;
        a.rep().movsd()
    });
    assert_eq!(strings, [false, true]);
    let input = marked(|a| {
        a.mov(rdi, rsi)?;
        a.mov(ecx, 3)?;
        a.rep().insb()
    });
    assert_eq!(input, [true, false]);
}
