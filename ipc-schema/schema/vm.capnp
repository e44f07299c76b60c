@0xd3c41ea10f5b2a05;
# What the launcher hands to the supervisor of a new virtual machine: the configuration, in the sealed memfd "config".

using Engine = import "engine.capnp";
using Islet = import "islet.capnp";

struct VmConfig {
  name @0 :Text;
  machine @1 :Text;                # "q35-0"
  engine @2 :Text;                 # "auto", "tcg"
  engineWhy @3 :Text;
  cpuModel @4 :Text;
  vcpus @5 :UInt16;
  memoryBytes @6 :UInt64;
  kernelName @7 :Text;
  initrdName @8 :Text;             # empty: none
  commandLine @9 :Text;
  console :union {
    none @10 :Void;
    stdio @11 :Void;               # descriptor "console": a connected socket whose other end the launcher relays
    socket @12 :Text;              # descriptor "console-listener"; the path, for messages
    file @13 :Text;                # descriptor "console": the file
  }
  paused @14 :Bool;
  noReboot @15 :Bool;
  detach @16 :Bool;
  logTranslation @17 :Bool;        # descriptor "translation-log": a file, or a pipe that does not block
  patienceSeconds @18 :UInt16 = 20;  # how long a process may take to answer before it is killed
  logFilter @19 :List(Engine.AddressRange);
  perfMap @20 :Bool;               # descriptor "perf-map": as "translation-log"
}

struct Restore {
  # In the sealed memfd "restore" beside the configuration, if the VM begins with a snapshot. Descriptors "snapshot:" + file name,
  # read-only, for each file of the snapshot.
  manifest @0 :Data;               # a message with snapshot.capnp Manifest, without `config` and `ram.digests`
  onDemand @1 :Bool;
}

struct AdoptionRecord {
  # What a supervisor leaves for its successor, in the memfd "adoption": two copies and a word that says which is valid.
  # An event of the log counts once a record with its number is valid, so events and state change together.
  generation @0 :UInt64;
  status @1 :UInt16;               # control.capnp Status
  runs @2 :Bool;                   # vCPUs run, or will when the sequence under way is done
  devicesRun @3 :Bool;             # devices were told to serve
  script @4 :Text;                 # sequence under way: "", "start", "reset", …
  step @5 :UInt16;                 # position in it
  resets @6 :UInt64;
  lastEvent @7 :UInt64;
  lastRequest @8 :UInt64;
  guestReset @9 :Bool;             # the guest asked for a reset that is not begun
  powerButton @10 :PowerButton;
  stopSeconds @11 :UInt32;         # deadline of a stop, 0: none
  started @12 :Bool;               # STARTED was said
  wallClockSeconds @13 :Int64;     # UTC at guest clock 0
  startedUnixSeconds @14 :Int64;
  entry @15 :Data;                 # what the loader said of vCPU 0: a message with state.capnp VcpuState
  kernelSummary @16 :Text;
  ending @17 :Ending;
  processes @18 :List(AdoptedProcess);
  resetCause @19 :Text;
  guestSuspend @20 :Bool;          # the guest went to sleep, and its vCPUs are not asleep yet
  asleep @21 :Bool;
  wake @22 :Text;                  # by what the guest is to be woken; empty: nothing
  restores @23 :Bool;              # the VM began with a snapshot
  onDemand @24 :Bool;              # memory of a snapshot is still on its way
  damaged @25 :Bool;               # a piece of memory is lost
  jobs @26 :List(Job);
  lastJob @27 :UInt64;
  faults @28 :Islet.FaultMapping;  # of the engine, while memory comes on demand

  struct Job {
    id @0 :UInt64;
    kind @1 :Text;
    state @2 :UInt16;              # control.capnp JobState
    problem @3 :Islet.Failure;
    cancelled @4 :Bool;
  }

  enum PowerButton { none @0; wanted @1; pressed @2; }

  struct Ending {
    under @0 :Bool;                # the VM is ending
    status @1 :UInt8;
    reason @2 :Text;
    problem @3 :Islet.Failure;     # an error, where it is one
  }

  struct AdoptedProcess {
    name @0 :Text;
    processId @1 :UInt64;          # the keeper's; 0: none
    incarnation @2 :UInt32;
    state @3 :Text;
    restarts @4 :UInt32;
    unproductiveDeaths @5 :UInt32;
    lastCause @6 :Text;
    runs @7 :Bool;                 # it was told to serve
    stepDone @8 :Bool;             # it has done its part of the step
    request @9 :UInt64;            # outstanding; 0: none
    verb @10 :Text;
    killedFor @11 :Text;           # why the supervisor has killed it; empty: it has not
    failure @12 :Islet.Failure;    # what it said that failed, before it ended
    saved @13 :Islet.Saved;        # the state that it has left, or is to take
  }
}

struct LaunchReport {
  # On the SEQPACKET socket "report", whose other end the launcher reads: what became of the VM. May come twice.
  union {
    running @0 :Void;
    paused @1 :Void;
    ended :group {
      reason @2 :Text;
      problem @3 :Islet.Failure;   # an error for the user, where it is one
    }
  }
}
