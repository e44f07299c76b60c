@0xd3c41ea10f5b2a04;
# The control socket of one virtual machine: Cap'n Proto RPC on a Unix stream socket of mode 0600, bootstrap interface `Vm`.
# Errors of calls are returned as `Problem` in the results, with stable codes; RPC exceptions mean a broken connection.
# Events are numbered from 1 and kept, so that a client resumes after the last one that it saw.

using Engine = import "engine.capnp";

struct Problem {
  code @0 :Text;            # stable: "vm.not-running", "process.gone", …
  what @1 :Text;
  why @2 :Text;
  remedy @3 :Text;
}

enum Status {
  starting @0;
  running @1;
  paused @2;
  suspended @3;
  resetting @4;
  stopping @5;
  ended @6;
}

struct RunState {
  status @0 :Status;
  resumeTo @1 :Status;
}

struct Event {
  sequence @0 :UInt64;
  guestNanoseconds @1 :UInt64;     # 0 before the guest first ran
  unixNanoseconds @2 :Int64;
  kind @3 :Text;            # "STARTED", "STOP", "RESUME", "RESET", "POWEROFF", "PROCESS_EXITED", "PROCESS_STARTED", "ENDED", …
  process @4 :Text;         # empty if none
  incarnation @5 :UInt32;
  cause @6 :Text;           # decoded exit cause or reason
  detail @7 :Text;          # one sentence
}

struct Process {
  name @0 :Text;
  kind @1 :Text;
  pid @2 :Int32;            # in the VM's pid namespace
  hostPid @3 :Int32;        # 0 if unknown
  incarnation @4 :UInt32;
  state @5 :Text;           # "starting", "ready", "running", "down"
  restarts @6 :UInt32;
  lastCause @7 :Text;
  restartPolicy @8 :Text;
  grantBytes @9 :UInt64;    # guest RAM that it can reach
  counters @10 :List(Engine.Counter);
}

struct Sandbox {
  name @0 :Text;
  profile @1 :Text;         # printed rules
  systemCalls @2 :List(Text);
  budget @3 :UInt16;
  descriptors @4 :List(Text);
  namespaces @5 :List(Text);
  limits @6 :List(Text);
  landlock @7 :Text;
}

struct Inspection {
  name @0 :Text;
  version @1 :Text;
  machine @2 :Text;
  engine @3 :Text;
  engineWhy @4 :Text;
  vcpus @5 :UInt16;
  memoryBytes @6 :UInt64;
  state @7 :RunState;
  processes @8 :List(Process);
  statistics @9 :Engine.EngineStatistics;
  instructionsPerSecond @10 :UInt64;
  resets @11 :UInt64;
  guestNanoseconds @12 :UInt64;
  kernel @13 :Text;
  commandLine @14 :Text;
  console @15 :Text;
}

struct Job {
  # What a client has started and need not wait for; known by its number, also after the connection is lost.
  id @0 :UInt64;
  kind @1 :Text;            # "snapshot"
  state @2 :JobState;
  phase @3 :Text;
  done @4 :UInt64;          # bytes of the phase
  total @5 :UInt64;
  problem @6 :Problem;      # why it failed
}

enum JobState {
  waiting @0;
  running @1;
  done @2;
  failed @3;
  cancelled @4;
}

interface EventSink {
  event @0 (event :Event) -> ();
}

interface Subscription {}   # dropping it ends the stream

interface Vm {
  inspect @0 () -> (inspection :Inspection, problem :Problem);
  sandbox @1 () -> (processes :List(Sandbox), problem :Problem);
  pause @2 () -> (problem :Problem);
  resume @3 () -> (problem :Problem);
  stop @4 (timeoutSeconds :UInt32) -> (problem :Problem);    # power button, then kill after the time (0: never)
  kill @5 () -> (problem :Problem);
  reset @6 () -> (problem :Problem);
  events @7 (after :UInt64) -> (events :List(Event), last :UInt64, problem :Problem);
  subscribe @8 (after :UInt64, sink :EventSink) -> (subscription :Subscription, problem :Problem);
  waitState @9 (status :Status) -> (state :RunState, problem :Problem);
  wakeup @10 () -> (problem :Problem);
  # A snapshot: the client makes the files that `snapshotFiles` names, empty, sends their descriptors with a token of its choice
  # on the VM's socket "descriptors" (8 bytes, little-endian, and SCM_RIGHTS with them), and says here which file is which.
  # Once the job is done, all of them are written and synced.
  snapshotFiles @11 () -> (files :List(Text), problem :Problem);
  snapshot @12 (token :UInt64, files :List(Text)) -> (job :UInt64, problem :Problem);
  jobs @13 () -> (jobs :List(Job), problem :Problem);
  waitJob @14 (job :UInt64) -> (job :Job, problem :Problem);      # answers once it is over
  cancelJob @15 (job :UInt64) -> (problem :Problem);
}
