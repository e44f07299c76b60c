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
    streamer @11 :StreamerSetup;
  }
  stateRow @12 :UInt16;     # of the memfd "state": where this process leaves and finds its saved state
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

struct StreamerSetup {
  # A streamer does one thing and ends. Descriptors: "ram" (the guest's), "state", "status", and the files of the snapshot by
  # their names in the directory: "manifest", "memory", "engine.state", …
  union {
    save @0 :StreamSave;
    restore @1 :StreamRestore;
  }
}

struct SavedArea {
  process @0 :Text;
  stateRow @1 :UInt16;
  file @2 :Text;            # descriptor name, and name in the directory
  length @3 :UInt64;
  digest @4 :Data;          # SHA-256, as the process said
}

struct StreamSave {
  # "ram" is read-only. Writes RAM and states, syncs them, then writes and syncs "manifest".
  manifest @0 :Data;        # a message with snapshot.capnp Manifest, without `states` and `ram`, which the streamer adds
  states @1 :List(SavedArea);
}

struct StreamRestore {
  # Checks everything that is to be checked before anything runs: the manifest's digest and each state file's. Copies the states
  # into their areas. RAM comes before `done` (eager), or as the guest touches it and in the background (on demand), then with
  # `userfaultfds`.
  states @0 :List(SavedArea);
  onDemand @1 :Bool;
  mappings @2 :List(FaultMapping);
}

struct FaultMapping {
  # A mapping of RAM whose missing pages the streamer places.
  descriptor @0 :Text;      # userfaultfd
  base @1 :UInt64;          # address of the RAM memfd's offset 0 in the process that made it
  length @2 :UInt64;
}

struct Saved {
  length @0 :UInt64;        # bytes at the begin of the state area: a message with saved.capnp SavedState
  digest @1 :Data;          # SHA-256 of them
}

struct Load {
  length @0 :UInt64;
  digest @1 :Data;
}

struct Progress {
  phase @0 :Text;           # "states", "ram", "prefault"
  done @1 :UInt64;          # bytes
  total @2 :UInt64;
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
    save @11 :Text;         # leave the state in the state area as of this machine version; paused processes only
    load @12 :Load;         # take the state from the state area; before the first `run`, or paused
    wake @13 :Void;         # a board: the machine leaves S3, WAK_STS is set
    ping @14 :UInt32;       # to show within so many milliseconds that each of its threads goes on
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
    guestSuspend @16 :Void; # the guest entered S3
    guestWake @17 :Text;    # an enabled wake event of a sleeping machine: "rtc", "button"
    progress @18 :Progress;
    badChunk @19 :UInt64;   # a streamer on demand: offset of a chunk of RAM that is damaged

    # Answers.
    saved @15 :Saved;
    readyWithFaults @20 :FaultMapping;  # in place of `ready`: locked down, and descriptor 0 is a userfaultfd over this mapping of RAM
  }
}
