@0xd3c41ea10f5b2a05;
# What the launcher hands to the supervisor of a new virtual machine: the configuration, in the sealed memfd "config".

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
  logTranslation @17 :Bool;
}

struct AdoptionRecord {
  # What a supervisor leaves for its successor, in the memfd "adoption": two copies and a word that says which is valid.
  generation @0 :UInt64;
  config @1 :VmConfig;
  state @2 :UInt16;                # control.capnp Status
  resumeTo @3 :UInt16;
  resets @4 :UInt64;
  lastEvent @5 :UInt64;
  processes @6 :List(AdoptedProcess);
  engineStatistics @7 :Data;
  pendingExit @8 :Int32;           # exit status if the VM is ending, else -1
  phase @9 :Text;                  # of a sequence under way: "", "starting", "reset:stop", …
  wallClockSeconds @10 :Int64;

  struct AdoptedProcess {
    name @0 :Text;
    processId @1 :UInt64;
    incarnation @2 :UInt32;
    state @3 :Text;
    restarts @4 :UInt32;
    lastCause @5 :Text;
    unproductiveDeaths @6 :UInt32;
  }
}
