/* Leaves interrupts pending in the serial port, and values in all of its registers, while somebody replaces the port's
   process; then checks that all of it is still there.

   It prints 'P' and waits for a byte, which it leaves in the FIFO. OUT2 is off, so that the port's interrupt does not
   reach the processor, but both "data received" and "transmitter empty" are enabled and pending. It prints 'R' and then
   FILLER bytes, n & 0xff each: more than fits between the port and whoever reads, so that it cannot be past them while
   nobody reads. Then it checks the registers, lets the interrupts through, and expects first the received byte, 'x', and
   then the empty transmitter. EXIT_PASS if all was there. */

#include "common.inc"

    .equ FILLER, 0x100000

main:
    write IER, 0
    write LCR, 0x80
    write DATA, 0x21
    write IER, 0x43
    write LCR, 0x1b
    write FCR, 0xc7
    write SCR, 0xa5
    write MCR, 0x03              /* not OUT2 */
    call connect_serial
    sti
    write IER, IER_RECEIVED + IER_TRANSMITTER
    mov al, 'P'
    call print
wait:
    read LSR
    test al, LSR_READY
    pause
    jz wait
    mov al, 'R'
    call print
    xor ecx, ecx
filler:
    mov al, cl
    call print
    inc ecx
    cmp ecx, FILLER
    jne filler
    expect LCR, 0x1b, EXIT_LCR
    expect MCR, 0x03, EXIT_MCR
    expect SCR, 0xa5, EXIT_SCR
    expect IER, IER_RECEIVED + IER_TRANSMITTER, EXIT_IER
    write LCR, 0x9b
    expect DATA, 0x21, EXIT_DIVISOR
    expect IER, 0x43, EXIT_DIVISOR
    write LCR, 0x1b
    cmp byte ptr [interrupts], 0
    mov ecx, EXIT_EARLY
    jne fail
    mov byte ptr [may_come], 1
    write MCR, 0x0b
asleep:
    hlt
    jmp asleep

serial_interrupt:
    inc byte ptr [interrupts]
    cmp byte ptr [may_come], 1
    mov ecx, EXIT_EARLY
    jne fail
    expect IIR, 0xcc, EXIT_ORDER /* data below the trigger level, FIFOs on */
    expect LSR, 0x61, EXIT_DATA
    expect DATA, 'x', EXIT_DATA
    expect IIR, 0xc2, EXIT_ORDER /* the transmitter; reading this ends it */
    expect IIR, 0xc1, EXIT_ORDER
    mov ecx, EXIT_PASS
    jmp fail

    .bss
interrupts:
    .byte 0
may_come:
    .byte 0
