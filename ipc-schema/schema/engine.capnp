@0xd3c41ea10f5b2a02;
# The contract of every CPU engine: KVM and the translator answer the same messages, so that the supervisor, the board and
# the devices cannot tell them apart. Shared-memory layouts (register slots, dirty bitmap, guest clock, routes) are those of
# the crates guest-memory and doorbell; this file carries their configuration.

using State = import "state.capnp";

enum Architecture {
  x8664 @0;
  aarch64 @1;
  s390x @2;
}

enum AddressSpace {
  memory @0;
  port @1;                  # x86 I/O ports
}

struct Attributes {
  # Memory attributes of an access, carried by every register slot.
  secure @0 :Bool;
  user @1 :Bool;
  requester @2 :UInt16;
}

struct MemorySlot {
  guestAddress @0 :UInt64;
  length @1 :UInt64;
  descriptor @2 :Text;      # name in Setup.descriptors
  offset @3 :UInt64;
  kind :union {
    ram @4 :Void;
    rom @5 :Void;
    deviceMemory @6 :Void;  # a VFIO BAR
    storageKeys @7 :Void;   # s390x: one byte per 4 KiB page
  }
}

struct Doorbell {
  # A write that becomes an eventfd signal and needs no answer.
  space @0 :AddressSpace;
  address @1 :UInt64;
  width @2 :UInt8;          # bytes; 0: any
  descriptor @3 :Text;
  match :union {
    any @4 :Void;
    value @5 :UInt64;
  }
}

struct RegisterBehaviour {
  offset @0 :UInt32;
  length @1 :UInt32;
  read :union {
    synchronous @2 :Void;
    shadow @3 :UInt16;      # index of the shadow register
    formula @4 :UInt16;     # index of the formula row
    constant @5 :UInt64;
  }
  write :union {
    synchronous @6 :Void;
    posted @7 :UInt64;      # mask of the shadow registers that it invalidates
    ignored @8 :Void;
  }
}

struct RegisterWindow {
  name @0 :Text;
  space @1 :AddressSpace;
  base @2 :UInt64;
  length @3 :UInt64;
  device @4 :UInt16;        # area of the windows arena
  kick @5 :Text;            # descriptor that wakes the device
  kind :union {
    registers @6 :List(RegisterBehaviour);  # what is not listed is synchronous
    pciIndexData @7 :Void;  # 0xCF8/0xCFC
    pciEcam @8 :Void;
  }
}

struct InterruptRoute {
  line @0 :UInt16;
  descriptor @1 :Text;      # eventfd that raises it
  target :union {
    pin :group {            # a pin of the board's controller, resolved by the route table in shared memory
      controller @2 :UInt8;
      pin @3 :UInt16;
      level @4 :Bool;
      resample @5 :Text;    # eventfd rung at end of interrupt; empty: none
    }
    msi :group {
      address @6 :UInt64;
      data @7 :UInt32;
      deviceId @8 :UInt32;  # aarch64 ITS; 0 elsewhere
    }
    s390Adapter :group {
      indicatorAddress @9 :UInt64;
      indicatorOffset @10 :UInt32;
      summaryAddress @11 :UInt64;
      summaryOffset @12 :UInt32;
      adapterId @13 :UInt32;
    }
  }
}

struct FloatingInterrupt {
  # s390x: an interrupt for whichever vCPU accepts it first.
  union {
    io :group { subchannelId @0 :UInt16; subchannelNumber @1 :UInt16; parameter @2 :UInt32; word @3 :UInt32; }
    service @4 :UInt32;
    machineCheck :group { cr14 @5 :UInt64; mcic @6 :UInt64; }
  }
}

struct CallExit {
  # A guest instruction that is neither a memory nor a port access and that somebody else must answer.
  vcpu @0 :UInt16;
  id @1 :UInt64;
  kind :union {
    psci @2 :UInt32;        # function id; HVC or SMC
    diagnose @3 :UInt16;    # s390x DIAG code
    servc :group { command @4 :UInt32; sccb @5 :UInt64; }
    channel :group { instruction @6 :UInt16; schid @7 :UInt32; }
    hypercall @8 :UInt64;
  }
  registers @9 :List(UInt64);
}

struct CallReply {
  id @0 :UInt64;
  conditionCode @1 :UInt8;
  registers @2 :List(UInt64);
}

enum ResetKind {
  powerOn @0;
  init @1;                  # x86 INIT, s390x initial CPU reset
  clear @2;
  normal @3;
}

struct StartVector {
  vcpu @0 :UInt16;
  union {
    sipi @1 :UInt8;         # x86 start-up page
    s3 @2 :UInt64;          # guest-physical address of the FACS, whose waking vector the engine reads
    psci :group { entry @3 :UInt64; context @4 :UInt64; }
    restart @5 :UInt64;     # s390x SIGP restart: PSW address
  }
}

struct VfioAttach {
  descriptor @0 :Text;
  kind :union { group @1 :UInt32; device @2 :Text; }
}

struct EngineSetup {
  architecture @0 :Architecture;
  cpuModel @1 :Text;
  vcpus @2 :UInt16;
  memory @3 :List(MemorySlot);
  windows @4 :List(RegisterWindow);
  doorbells @5 :List(Doorbell);
  routes @6 :List(InterruptRoute);
  extintDevice @7 :UInt16;         # area whose slots answer interrupt-acknowledge cycles
  notify @8 :Text;                 # eventfd rung by the board: routes, messages or extint changed
  ramBytes @9 :UInt64;             # length of the ram memfd
  logTranslation @10 :Bool;        # to descriptor "translation-log"
  ramOnDemand @11 :Bool;           # make a userfaultfd over RAM, and answer the setup with `readyWithFaults` in place of `ready`
  tier @12 :Tier;                  # how the translator runs blocks
  logFilter @13 :List(AddressRange);  # log blocks with an instruction in one of these; empty: all
  perfMap @14 :Bool;               # where emitted code lies, to descriptor "perf-map"
  stale @15 :Text;                 # eventfd rung by a process that has written to pages with translated code, and waits until the
                                   # engine has dropped it: which pages, and up to whom it is done, is in the `dirty` memfd
                                   # (crate guest-memory)
}

struct AddressRange {
  # Of program counters, both ends included.
  first @0 :UInt64;
  last @1 :UInt64;
}

enum Tier {
  emitted @0;                      # host code
  interpreted @1;                  # the interpreter alone
  compared @2;                     # both, block by block; differences are counted and logged
}

struct EngineRequest {
  union {
    loadVcpu @0 :State.VcpuState;
    saveVcpu @1 :UInt16;
    resetVcpu :group { vcpu @2 :UInt16; kind @3 :ResetKind; }
    startVcpu @4 :StartVector;
    run @5 :Void;                  # all vCPUs go, the guest clock runs
    pause @6 :Void;                # acknowledged when every vCPU is parked and the clock stands
    nmi @7 :UInt16;
    floating @8 :FloatingInterrupt;
    callReply @9 :CallReply;
    facts @10 :Void;
    statistics @11 :Void;
    addMemory @12 :MemorySlot;
    removeMemory @13 :UInt64;
    dirtyStart @14 :Void;          # a session of harvests begins, whatever there was before: marks every page; answered by `harvest`
    dirtyHarvest @15 :Void;        # one round: what was written goes from D to B; when `harvest` comes, every vCPU has
                                   # acknowledged, and the pages of B may be copied. Not while pages of RAM are still to come.
    dirtyStop @16 :Void;           # the session ends; nothing is undone
    vfio @17 :VfioAttach;
    setClock @18 :State.ClockState;
    resetAll @19 :Void;            # every vCPU and interrupt controller to power-on, parked; caches dropped
    suspend @20 :Void;             # S3: every vCPU to power-on and waiting for `startVcpu`; the guest clock goes on
  }
}

struct EngineReply {
  union {
    done @0 :Void;
    vcpu @1 :State.VcpuState;
    facts @2 :EngineFacts;
    statistics @3 :EngineStatistics;
    unsupported @4 :Text;          # the verb, and which engine or host would have it
    harvest @5 :UInt64;            # its number; the bits are in the `dirty` memfd (crate guest-memory)
  }
}

struct EngineFacts {
  engine @0 :Text;                 # "tcg", "kvm"
  tier @1 :Text;                   # "T0", "T1"
  architectures @2 :List(Architecture);
  cpuModels @3 :List(Text);
  tscHz @4 :UInt64;
  maximumVcpus @5 :UInt16;
  registerList @6 :List(UInt64);   # ids of keyed registers
  capabilities @7 :List(Text);
}

struct Counter {
  name @0 :Text;
  value @1 :UInt64;                # of an engine: the sum over its vCPUs
  perVcpu @2 :List(UInt64);        # of an engine: each vCPU's; empty elsewhere
}

struct RegisterCounter {
  device @0 :Text;
  window @1 :Text;
  offset @2 :UInt64;
  write @3 :Bool;
  synchronous @4 :UInt64;
  local @5 :UInt64;                # answered without the device: shadow, formula, posted
}

struct EngineStatistics {
  instructions @0 :UInt64;
  runNanoseconds @1 :UInt64;       # sum over vCPUs of time not halted and not parked
  counters @2 :List(Counter);
  registers @3 :List(RegisterCounter);
}
