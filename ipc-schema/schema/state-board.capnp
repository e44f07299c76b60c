@0xd3c41ea10f5b2a07;
# Saved state of the board `q35-0`: the chipset as it stands while the machine is paused, after everything that the guest
# posted was carried out.
#
# All times are guest time: nanoseconds of the guest clock, which has the same value after a load, or ticks of a chip's
# clock since guest time zero. An edge that was due two milliseconds after the save is due two milliseconds after the load.
#
# Every interrupt that is under way has one owner. What the engine has told the board (ended level interrupts, forwarded
# lines, posted writes) is carried out before the board saves and is in its registers here. What the board tells the engine
# is in `pendingMessages` unless the engine took it: a paused board takes back what is still on the exchange page, so the
# engine, which is asked to save after the board has acknowledged its pause, finds nothing there. The levels that the
# engine reads (routes, INTR, shadows) follow from the registers and are published anew by a load.

struct BoardState {
  pic @0 :Pic;
  ioapic @1 :IoApic;
  pit @2 :Pit;
  rtc @3 :Rtc;
  pm @4 :Pm;
  pci @5 :Pci;
  reset @6 :ResetPorts;
  pendingMessages @7 :UInt32;      # bit n: the message of IOAPIC pin n is still to be sent, at the next run
}

struct Pic {
  master @0 :PicChip;              # ports 0x20, 0x21, 0x4D0
  slave @1 :PicChip;               # ports 0xA0, 0xA1, 0x4D1; its output is the master's line 2
}

struct PicChip {
  # An 8259A. Sets of lines have a bit for each.
  request @0 :UInt8;               # IRR
  inService @1 :UInt8;             # ISR
  mask @2 :UInt8;                  # IMR
  lines @3 :UInt8;                 # levels of the inputs
  levelTriggered @4 :UInt8;        # the edge/level control register
  firstPriority @5 :UInt8;         # the line with the highest priority, 0 to 7
  vectorBase @6 :UInt8;            # of line 0; a multiple of 8
  expects @7 :Expects;             # what the next write to the data port means
  icw4 @8 :Bool;                   # ICW1 announced an ICW4
  single @9 :Bool;                 # ICW1 said that there is no cascade
  autoEoi @10 :Bool;
  rotateOnAutoEoi @11 :Bool;
  specialMask @12 :Bool;
  specialFullyNested @13 :Bool;
  poll @14 :Bool;                  # the next read is an acknowledge cycle
  readInService @15 :Bool;         # the command port reads ISR instead of IRR

  enum Expects {
    mask @0;                       # operation: the mask
    icw2 @1;
    icw3 @2;
    icw4 @3;
  }
}

struct IoApic {
  id @0 :UInt8;                    # 0 to 15
  index @1 :UInt8;                 # the register that the data window shows
  lines @2 :UInt32;                # levels of the inputs, a bit for each pin; one: asserted, whatever its polarity
  redirections @3 :List(Redirection);      # 24
}

struct Redirection {
  # An entry of the redirection table (82093AA, 3.2.4).
  vector @0 :UInt8;
  deliveryMode @1 :UInt8;          # 0 fixed, 1 lowest priority, 2 SMI, 4 NMI, 5 INIT, 7 ExtINT
  logical @2 :Bool;                # destination mode
  activeLow @3 :Bool;
  remoteIrr @4 :Bool;              # a level interrupt was sent and is not ended; only with `level`
  level @5 :Bool;                  # trigger mode
  masked @6 :Bool;
  destination @7 :UInt8;           # APIC id, or logical destination
}

struct Pit {
  # An 8254. Ticks of 1,193,182 Hz since guest time zero.
  channels @0 :List(PitChannel);   # 3
  port61 @1 :UInt8;                # bits 0 to 3 as written
  reportedTick @2 :UInt64;         # rises of channel 0 up to here have reached the interrupt controllers
}

struct PitChannel {
  mode @0 :UInt8;                  # 0 to 5
  bcd @1 :Bool;
  access @2 :Access;
  count @3 :UInt32;                # loaded count, 1 to 65536; 0: none since the control word
  nextCount @4 :UInt32;            # takes the place of `count` at the end of the period or at the next trigger; 0: none
  startTick @5 :UInt64;            # when `count` was loaded: the channel's phase
  gate @6 :Bool;
  paused :union {                  # by the gate
    no @7 :Void;
    atTick @8 :UInt64;
  }
  write :union {                   # of a count of two bytes
    whole @9 :Void;
    low @10 :UInt8;                # the low byte, written; the high one is to follow
  }
  readHigh @11 :Bool;              # the next read of two gives the high byte
  latchedBytes @12 :UInt8;         # what is to be read of `latchedCount`: bit 0 low byte, bit 1 high byte
  latchedCount @13 :UInt16;
  status :union {
    notLatched @14 :Void;
    latched @15 :UInt8;
  }
  triggered @16 :Bool;             # modes 1 and 5: the gate has started the count

  enum Access {
    low @0;
    high @1;
    both @2;
  }
}

struct Rtc {
  # An MC146818. The date is not counted but computed: UTC = guest time + offset.
  index @0 :UInt8;                 # the selected register, 0 to 127
  cmos @1 :Data;                   # 128 bytes: alarm, registers A to C, storage; the date only while the clock is held
  offsetSeconds @2 :Int64;         # UTC (since 1970) at guest time zero, rounded down
  offsetNanoseconds @3 :UInt32;    # the rest, below 10⁹
  seenNanoseconds @4 :UInt64;      # guest time up to which the flags of register C are right
}

struct Pm {
  # ACPI power management. The PM timer is a formula of guest time and has no state but its status bit.
  status @0 :UInt16;               # PM1 status
  enable @1 :UInt16;               # PM1 enable
  control @2 :UInt16;              # PM1 control
  gpeEnable @3 :Data;              # 8 bytes: the enable half of GPE0
  timerHalves @4 :UInt64;          # changes of the timer's top bit since guest time zero that are in `status`
  suspended @5 :Bool;              # the guest is in S3
}

struct Pci {
  address @0 :UInt32;              # port 0xCF8 as the board knows it; the engine's latch is in its own state
  functions @1 :List(PciFunction); # those of the machine, ascending
}

struct PciFunction {
  bdf @0 :UInt16;                  # bus << 8 | device << 3 | function
  config @1 :Data;                 # 256 bytes of configuration space; what the guest cannot write is the machine's
}

struct ResetPorts {
  control @0 :UInt8;               # port 0xCF9
  port92 @1 :UInt8;
}
