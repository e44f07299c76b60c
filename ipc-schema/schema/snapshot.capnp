@0xd3c41ea10f5b2a09;
# The manifest of a snapshot: what the other files of its directory are, and the digest of each. The file is a header
# (magic "ATOLLSNP", length of the message), the message, and the SHA-256 of both; crate `snapshot`.
#
# Two saves with nothing run in between are equal byte by byte, so nothing here tells when or where it was written.

using Vm = import "vm.capnp";

struct Manifest {
  format @0 :UInt32;               # 1
  mustUnderstand @1 :List(Text);   # as in saved.capnp
  config @2 :Vm.VmConfig;
  status @3 :Status;
  resumeTo @4 :Status;             # running or suspended: where a resume leads
  resets @5 :UInt64;
  wallClockSeconds @6 :Int64;      # UTC at guest clock 0
  version @7 :Text;                # of the Atoll that wrote it
  kernelSummary @8 :Text;
  states @9 :List(StateFile);
  ram @10 :RamFile;

  enum Status {
    running @0;                    # was live; runs after a restore
    paused @1;
    suspended @2;                  # asleep (ACPI S3)
  }
}

struct StateFile {
  process @0 :Text;
  file @1 :Text;                   # name in the directory
  length @2 :UInt64;
  digest @3 :Data;                 # SHA-256 of the file
}

struct RamFile {
  file @0 :Text;                   # "memory"
  length @1 :UInt64;               # of the file, equal to the RAM memfd's; offsets are those of the memfd
  chunkBytes @2 :UInt32;
  digests @3 :Data;                # 32 bytes (SHA-256) for each chunk that has data, in order
  dataBytes @4 :UInt64;            # bytes that are not in holes
  present @5 :Data;                # a bit for each chunk, the lowest of the first byte first: it has data
}
