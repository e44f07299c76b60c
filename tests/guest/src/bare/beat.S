/* Prints a byte each millisecond of guest time, for ever: n modulo 251, so that a missing or doubled one shows. It polls the
   power-management timer and never halts. */

#include "common.inc"

    .equ TICKS, 3580             /* of 3.579545 MHz */

main:
    write IER, 0
    write LCR, 0x03
    write FCR, 0x07
    write MCR, 0x03
    xor ebx, ebx
    call now
    mov esi, eax
beat:
    call now
    sub eax, esi
    and eax, 0xffffff
    cmp eax, TICKS
    jb beat
    add esi, TICKS
    mov al, bl
    call print
    inc ebx
    cmp ebx, 251
    jne beat
    xor ebx, ebx
    jmp beat

now:
    mov dx, PM_TIMER
    in eax, dx
    and eax, 0xffffff
    ret

serial_interrupt:
    ret
