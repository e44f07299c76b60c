@0xd3c41ea10f5b2a06;
# Saved state: what one process of a virtual machine writes and another start of it, perhaps of another version, reads. One
# message is one file of a snapshot. Fields are only ever added; a field that a reader may not ignore is named by its path
# ("board.pm.suspended") in `mustUnderstand` by the writer, if its value is not the default.

using State = import "state.capnp";
using Board = import "state-board.capnp";
using Serial = import "state-serial.capnp";

struct EngineState {
  vcpus @0 :List(State.VcpuState);
  clock @1 :State.ClockState;
  pciAddress @2 :UInt32;           # latch of port 0xCF8
  cpuModel @3 :Text;
  heldLines @4 :List(UInt16);      # lines that rose while the machine was paused and whose routes say that the board decides:
                                   # the board is told at the next run
}

struct SavedState {
  process @0 :Text;                # "engine", "board", "serial0"
  machine @1 :Text;                # machine version as of which it is written, "q35-0"
  schemaDigest @2 :Data;           # SHA-256 of the writer's schema of this kind of process (crate `state`)
  mustUnderstand @3 :List(Text);
  state :union {
    engine @4 :EngineState;
    board @5 :Board.BoardState;
    serial @6 :Serial.SerialState;
  }
}
