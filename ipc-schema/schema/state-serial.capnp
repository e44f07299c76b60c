@0xd3c41ea10f5b2a08;
# Saved state of a 16550 UART.

struct SerialState {
}
