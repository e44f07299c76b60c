@0xd3c41ea10f5b2a03;
# Messages between the supervisor and every islet, one per SEQPACKET datagram. An islet's first message is `setup`, sent by
# the keeper with the descriptors that it names; the islet answers `ready` after it is locked down.

using Engine = import "engine.capnp";
using State = import "state.capnp";

struct NamedDescriptor {
  name @0 :Text;
  index @1 :UInt16;         # position among the descriptors of the same datagram
}

struct Setup {
  vm @0 :Text;
  name @1 :Text;            # of this process: "engine", "board", "serial0", "loader"
  statusSlot @2 :UInt16;    # its page of the status memfd
  descriptors @3 :List(NamedDescriptor);
  machine @4 :Text;         # machine version, "q35-0"
  vcpus @5 :UInt16;
  memoryBytes @6 :UInt64;   # guest RAM, without the hole
  role :union {
    engine @7 :Engine.EngineSetup;
    board @8 :BoardSetup;
    serial @9 :SerialSetup;
    loader @10 :LoaderSetup;
  }
}

struct BoardSetup {
  area @0 :UInt16;          # area of the windows arena
  wallClockSeconds @1 :Int64;      # UTC at guest clock 0, for the RTC
}

struct SerialSetup {
  area @0 :UInt16;
  line @1 :UInt16;          # interrupt line
  console :union {
    none @2 :Void;
    stream @3 :Text;        # descriptor name of a connected socket, or "" to wait for attachConsole
    file @4 :Text;          # descriptor name of a regular file, written from its end at first start
  }
}

struct LoaderSetup {
  kernel @0 :Text;          # descriptor name
  kernelName @1 :Text;      # as the user wrote it, for messages
  initrd @2 :Text;          # descriptor name, or ""
  initrdName @3 :Text;
  commandLine @4 :Text;
}

struct ToIslet {
  id @0 :UInt64;            # of this request; replies repeat it
  incarnation @1 :UInt32;   # of the receiver; others are dropped
  union {
    setup @2 :Setup;
    run @3 :Void;           # devices: serve
    pause @4 :Void;         # finish what is under way, then stand still
    reset @5 :Void;         # to power-on, process stays
    statistics @6 :Void;
    quit @7 :Void;
    engine @8 :Engine.EngineRequest;
    attachConsole @9 :Text; # descriptor name in this datagram: index 0
    powerButton @10 :Void;
  }
}

struct Failure {
  what @0 :Text;            # what failed
  why @1 :Text;
  remedy @2 :Text;
  code @3 :Text;            # stable, "kernel.truncated"
}

struct Loaded {
  entry @0 :State.VcpuState;       # of vCPU 0
  format @1 :Text;                 # "bzImage", "pvh", "multiboot1"
  summary @2 :Text;
}

struct DeviceStatistics {
  counters @0 :List(Engine.Counter);
}

struct FromIslet {
  inReplyTo @0 :UInt64;     # 0: an event
  incarnation @1 :UInt32;   # of the sender
  union {
    ready @2 :Void;         # locked down
    done @3 :Void;
    failed @4 :Failure;
    engine @5 :Engine.EngineReply;
    loaded @6 :Loaded;
    statistics @7 :DeviceStatistics;

    # Events.
    guestPowerOff @8 :Void;
    guestReset @9 :Void;
    debugExit @10 :UInt32;  # the value that the guest wrote
    tripleFault @11 :UInt16;       # vCPU
    call @12 :Engine.CallExit;
    attack @13 :Text;       # a peer or the guest broke a rule of a shared layout
    consoleClosed @14 :Void;
  }
}
