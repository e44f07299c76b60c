@0xd3c41ea10f5b2a07;
# Saved state of the board `q35-0`.

struct BoardState {
}
