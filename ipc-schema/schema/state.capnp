@0xd3c41ea10f5b2a01;
# Architectural state of a vCPU, the same whichever engine executes it: a typed core per architecture and a keyed list for
# what varies between hosts. Fields are only ever added.

struct KeyedRegister {
  # A register that not every host has: an MSR on x86 (id = index), a system register on aarch64 (id = KVM's register id).
  id @0 :UInt64;
  size @1 :UInt8;           # bytes, 1 to 16
  value @2 :Data;           # little-endian, `size` bytes
}

struct X86Segment {
  selector @0 :UInt16;
  base @1 :UInt64;
  limit @2 :UInt32;         # in bytes, granularity applied
  access @3 :UInt16;        # bits 8..23 of the descriptor's high word: type, S, DPL, P at 0..7; AVL, L, D/B, G at 12..15
  unusable @4 :Bool;
}

struct X86Table {
  base @0 :UInt64;
  limit @1 :UInt16;
}

struct X86Core {
  gprs @0 :List(UInt64);    # rax rcx rdx rbx rsp rbp rsi rdi r8..r15
  rip @1 :UInt64;
  rflags @2 :UInt64;
  segments @3 :List(X86Segment);   # es cs ss ds fs gs ldtr tr
  gdtr @4 :X86Table;
  idtr @5 :X86Table;
  cr0 @6 :UInt64;
  cr2 @7 :UInt64;
  cr3 @8 :UInt64;
  cr4 @9 :UInt64;
  cr8 @10 :UInt64;
  efer @11 :UInt64;
  xcr0 @12 :UInt64;
  debug @13 :List(UInt64);  # dr0..dr3, dr6, dr7
  xsave @14 :Data;          # standard XSAVE format, 576 bytes or more
  interruptShadow @15 :UInt8;      # bit 0 STI, bit 1 MOV SS
  nmiBlocked @16 :Bool;
  pendingEvent @17 :PendingEvent;
  lapic @18 :Data;          # the register page, 1024 bytes: register n at offset 16 n
  apicBase @19 :UInt64;
  tscDeadline @20 :UInt64;
  pdpte @21 :List(UInt64);  # the four page-directory-pointer registers of PAE paging, which CR3 was loaded with; empty: not in use
  apicErrors @22 :UInt32;   # errors since the last write of the local APIC's ESR; the page has what that write latched
  apicTimerStart @23 :UInt64;      # guest time at which the count of the timer was started; 0: as exact as the page says
  nmiPending @24 :Bool;     # an NMI waits while `pendingEvent` is another one
}

struct PendingEvent {
  union {
    none @0 :Void;
    exception @1 :ExceptionEvent;
    interrupt @2 :UInt8;
    nmi @3 :Void;
  }
  struct ExceptionEvent {
    vector @0 :UInt8;
    hasError @1 :Bool;
    error @2 :UInt32;
    payload @3 :UInt64;     # CR2 or DR6
  }
}

struct A64Core {
  x @0 :List(UInt64);       # x0..x30
  sp @1 :List(UInt64);      # sp_el0, sp_el1
  pc @2 :UInt64;
  pstate @3 :UInt64;
  vector @4 :Data;          # v0..v31, 512 bytes
  fpcr @5 :UInt32;
  fpsr @6 :UInt32;
  gicCpu @7 :Data;
  timers @8 :List(UInt64);  # guest-time deadlines
}

struct S390Core {
  gprs @0 :List(UInt64);
  access @1 :List(UInt32);
  control @2 :List(UInt64);
  pswMask @3 :UInt64;
  pswAddress @4 :UInt64;
  vector @5 :Data;          # v0..v31; the floating-point registers are their high halves
  fpc @6 :UInt32;
  prefix @7 :UInt64;
  todProgrammable @8 :UInt32;
  cpuTimer @9 :UInt64;
  clockComparator @10 :UInt64;
}

enum RunState {
  runnable @0;
  halted @1;
  waitForInit @2;           # x86 wait-for-SIPI, aarch64 powered off, s390x stopped
  initReceived @3;
  shutdown @4;
}

struct VcpuState {
  index @0 :UInt16;
  runState @1 :RunState;
  cpu :union {
    x86 @2 :X86Core;
    a64 @3 :A64Core;
    s390x @4 :S390Core;
  }
  registers @5 :List(KeyedRegister);
  mustUnderstand @6 :List(Text);   # names of fields that a reader may not ignore
}

struct ClockState {
  guestNanoseconds @0 :UInt64;
  tscHz @1 :UInt64;
}
