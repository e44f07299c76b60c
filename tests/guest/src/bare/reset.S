/* Resets the machine in the way that it is told, and checks at each start that the machine is as after power-on.

   It prints 'R' and waits for one byte: 'c' resets by port 0xCF9, 'k' as the keyboard controller would, 'f' by fast reset
   (port 0x92), 't' by a triple fault; 'p' powers off (S5); 'q' ends the VM with EXIT_PASS. Before it waits it leaves other
   values everywhere, which the next start must not find. */

#include "common.inc"

main:
    cmp dword ptr [fresh], 0x600d600d
    mov ecx, EXIT_MEMORY
    jne fail
    cmp dword ptr [zero], 0
    jne fail
    expect IER, 0, EXIT_IER
    expect IIR, 0x01, EXIT_FIFO
    expect LCR, 0, EXIT_LCR
    expect MCR, 0, EXIT_MCR
    expect LSR, 0x60, EXIT_DATA
    expect SCR, 0, EXIT_SCR
    mov dword ptr [IOAPIC], 0x10 + SERIAL_PIN * 2
    cmp dword ptr [IOAPIC + 0x10], 0x10000
    mov ecx, EXIT_IOAPIC
    jne fail
    cmp dword ptr [LAPIC_SVR], 0xff
    mov ecx, EXIT_LAPIC
    jne fail

    not dword ptr [fresh]
    not dword ptr [zero]
    call connect_serial
    write LCR, 0x1b
    write FCR, 0xc7
    write SCR, 0x77
    write MCR, 0x0b
    write IER, IER_RECEIVED      /* with interrupts off: one will be pending at the reset */
    mov al, 'R'
    call print
    call get
    cmp al, 'c'
    je by_port
    cmp al, 'k'
    je by_keyboard
    cmp al, 'f'
    je by_fast_reset
    cmp al, 't'
    je by_fault
    cmp al, 'p'
    je power_off
    cmp al, 'q'
    mov ecx, EXIT_COMMAND
    jne fail
    ret

by_port:
    write 0xcf9, 0x02
    write 0xcf9, 0x06
    jmp stopped
by_keyboard:
    write 0x64, 0xfe
    jmp stopped
by_fast_reset:
    write 0x92, 0
    write 0x92, 1
    jmp stopped
by_fault:
    lidt [no_idt]
    int3
power_off:
    mov dx, 0x604                /* PM1a control: SLP_TYP of S5, SLP_EN */
    mov ax, 7 * 0x400 + 0x2000
    out dx, ax
    jmp stopped

serial_interrupt:
    mov ecx, EXIT_EARLY
    jmp fail

    .data
    .balign 4
fresh:
    .long 0x600d600d
no_idt:
    .word 0
    .long 0
    .bss
    .balign 4
zero:
    .long 0
