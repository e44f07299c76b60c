//! Which file lifts which instruction. What is in no row goes to the vector and x87 lifters, and then to #UD.

use iced_x86::EncodingKind;
use iced_x86::Mnemonic::*;

use super::{
    Flow, Lifted, Lifter, alu, atomic, bcd, bits, bmi, flow, io, mov, muldiv, segments, shift, simd, stack, string,
    system, vex,
};

/// Lift the current instruction; `None` is #UD.
pub(super) fn lift(l: &mut Lifter) -> Lifted {
    if l.i.is_string_instruction() {
        return string::lift(l);
    }
    match l.i.mnemonic() {
        Add | Sub | And | Or | Xor | Adc | Sbb | Cmp | Test | Inc | Dec | Neg | Not => alu::lift(l),
        Mov | Movzx | Movsx | Movsxd | Movnti | Lea | Cbw | Cwde | Cdqe | Cwd | Cdq | Cqo | Bswap | Xlatb | Lahf
        | Sahf | Clc | Stc | Cmc | Cmova | Cmovae | Cmovb | Cmovbe | Cmove | Cmovg | Cmovge | Cmovl | Cmovle
        | Cmovne | Cmovno | Cmovnp | Cmovns | Cmovo | Cmovp | Cmovs | Seta | Setae | Setb | Setbe | Sete | Setg
        | Setge | Setl | Setle | Setne | Setno | Setnp | Setns | Seto | Setp | Sets => mov::lift(l),
        Push | Pop | Pusha | Pushad | Popa | Popad | Pushf | Pushfd | Pushfq | Popf | Popfd | Popfq | Enter | Leave => {
            stack::lift(l)
        }
        Jmp | Call | Ret | Retf | Iret | Iretd | Iretq | Jcxz | Jecxz | Jrcxz | Loop | Loope | Loopne | Int | Int3
        | Int1 | Into | Syscall | Sysret | Sysretq | Sysenter | Sysexit | Sysexitq | Ja | Jae | Jb | Jbe | Je | Jg
        | Jge | Jl | Jle | Jne | Jno | Jnp | Jns | Jo | Jp | Js => flow::lift(l),
        Shl | Sal | Shr | Sar | Rol | Ror | Rcl | Rcr | Shld | Shrd => shift::lift(l),
        Mul | Imul | Div | Idiv => muldiv::lift(l),
        Bt | Bts | Btr | Btc | Bsf | Bsr | Popcnt | Crc32 => bits::lift(l),
        Andn | Bextr | Blsi | Blsmsk | Blsr | Bzhi | Lzcnt | Mulx | Pdep | Pext | Rorx | Sarx | Shlx | Shrx | Tzcnt
        | Movbe => bmi::lift(l),
        Xchg | Xadd | Cmpxchg | Cmpxchg8b | Cmpxchg16b => atomic::lift(l),
        In | Out => io::lift(l),
        Daa | Das | Aaa | Aas | Aam | Aad | Salc | Bound => bcd::lift(l),
        Lds | Les | Lss | Lfs | Lgs | Lar | Lsl | Verr | Verw | Arpl | Sldt | Str | Lldt | Ltr | Sgdt | Sidt | Lgdt
        | Lidt | Smsw | Lmsw | Swapgs | Rdfsbase | Rdgsbase | Wrfsbase | Wrgsbase => segments::lift(l),
        Clts | Invlpg | Invpcid | Wbinvd | Invd | Hlt | Cli | Sti | Cld | Std | Stac | Clac | Cpuid | Rdtsc
        | Rdtscp | Rdpmc | Rdrand | Rdmsr | Wrmsr | Xgetbv | Xsetbv | Clflush | Mfence | Lfence | Sfence | Pause => {
            system::lift(l)
        }
        // Nothing happens; a memory operand is not accessed. The shadow-stack and cache hints are NOPs where they do not exist.
        Nop | Endbr32 | Endbr64 | Reservednop | Rdsspd | Rdsspq | Cldemote | Prefetchnta | Prefetcht0 | Prefetcht1
        | Prefetcht2 | Prefetch | Prefetchw | Prefetchwt1 | Prefetchit0 | Prefetchit1 => Some(Flow::Next),
        _ if l.i.code().encoding() == EncodingKind::VEX => vex::lift(l),
        _ => simd::lift(l),
    }
}
