@0xd3c41ea10f5b2a08;
# Saved state of a serial port: the UART and all bytes that are on their way through it. From the save on the state owns
# them: the process sends none of them to its console any more unless it is told to run on.

struct SerialState {
  uart @0 :Uart;
  input @1 :Data;                  # came from the console and waits for room in the receiver's FIFO, oldest first; 32 KiB
                                   # at most. What the console's socket still holds is not part of the state.
  output @2 :Data;                 # the guest sent it and the console has not taken it, oldest first; below 64 KiB
}

struct Uart {
  # A 16550A. The transmitter is always empty: a byte that is written is in `output` at once.
  ier @0 :UInt8;                   # interrupt enables, bits 0 to 3
  fcr @1 :UInt8;                   # FIFO control: bit 0 enable, bits 6 and 7 trigger level
  lcr @2 :UInt8;                   # line control; bit 7 is DLAB
  mcr @3 :UInt8;                   # modem control, bits 0 to 4
  lineErrors @4 :UInt8;            # the bits of LSR that reading it clears: bit 1, overrun
  msr @5 :UInt8;                   # modem status: lines in the upper half, changes since the last read in the lower
  scratch @6 :UInt8;
  divisor @7 :UInt16;
  receiver @8 :Data;               # the FIFO, oldest byte first: 16 at most, one if FIFOs are off
  transmitterPending @9 :Bool;     # the "transmitter empty" interrupt is pending
  interruptLine @10 :Bool;         # level of the interrupt output; it is signalled anew at the first run after a load
}
