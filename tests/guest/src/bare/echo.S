/* Prints '>' and then echoes what comes on the serial port, driven by interrupts alone: one that is lost stops it for good.
   With each interrupt it also checks that the port's registers still hold what was written.

   The last word of the command line is the number of bytes. After so many it prints the FNV-1a checksum of what it
   received as eight hexadecimal digits and ends the VM with EXIT_PASS. */

#include "common.inc"

    .equ RING, 0x10000           /* bytes received but not sent; a power of two */

main:
    call read_length
    mov [length], eax
    write IER, 0
    write LCR, 0x80
    write DATA, 1
    write IER, 0
    write LCR, 0x03
    write FCR, 0xc7              /* FIFOs on and empty, trigger level 14 */
    write SCR, 0x5a
    call connect_serial
    write MCR, 0x0b
    write IER, IER_RECEIVED
    mov byte ptr [enabled], IER_RECEIVED
    mov al, '>'
    call print
wait:
    sti
    hlt
    cli
    mov eax, [sent]
    cmp eax, [length]
    jne wait
    mov ecx, 8
    mov ebx, [checksum]
digit:
    rol ebx, 4
    mov eax, ebx
    and eax, 15
    mov al, [digits + eax]
    call print
    loop digit
    ret

serial_interrupt:
    expect LCR, 0x03, EXIT_LCR
    expect MCR, 0x0b, EXIT_MCR
    expect SCR, 0x5a, EXIT_SCR
    expect IER, [enabled], EXIT_IER
next_cause:
    read IIR
    mov ah, al
    and ah, 0xc0
    cmp ah, 0xc0
    mov ecx, EXIT_FIFO
    jne fail
    and al, 0x0f
    cmp al, 0x04
    je receive
    cmp al, 0x0c
    je receive
    cmp al, 0x02
    je transmit
    cmp al, 0x01
    mov ecx, EXIT_CAUSE
    jne fail
    ret

receive:
    read LSR
    test al, LSR_READY
    jz enable
    mov ebx, [received]
    mov eax, ebx
    sub eax, [sent]
    cmp eax, RING
    je enable
    read DATA
    and ebx, RING - 1
    mov [ring + ebx], al
    inc dword ptr [received]
    movzx eax, al
    xor eax, [checksum]
    imul eax, eax, 16777619      /* FNV-1a, 32 bits */
    mov [checksum], eax
    jmp receive

transmit:
    mov ecx, 16                  /* what a transmitter's FIFO holds */
2:  mov ebx, [sent]
    cmp ebx, [received]
    je enable
    and ebx, RING - 1
    mov al, [ring + ebx]
    call print
    inc dword ptr [sent]
    loop 2b

/* Enables what there is to wait for: room for input, bytes to send. */
enable:
    mov ecx, [received]
    sub ecx, [sent]
    xor eax, eax
    cmp ecx, RING
    setne al                     /* IER_RECEIVED */
    test ecx, ecx
    jz 3f
    or al, IER_TRANSMITTER
3:  cmp al, [enabled]
    je next_cause
    mov [enabled], al
    mov dx, IER
    out dx, al
    jmp next_cause

/* The last word of the command line as a decimal number, in EAX. */
read_length:
    mov esi, [ebx + 16]          /* multiboot information: cmdline */
    xor eax, eax
4:  movzx edx, byte ptr [esi]
    inc esi
    test edx, edx
    jz 6f
    sub edx, 48
    cmp edx, 9
    ja 5f
    imul eax, eax, 10
    add eax, edx
    jmp 4b
5:  xor eax, eax
    jmp 4b
6:  ret

digits:
    .ascii "0123456789abcdef"

    .data
    .balign 4
checksum:
    .long 2166136261
    .bss
    .balign 4
length:
    .long 0
received:
    .long 0
sent:
    .long 0
enabled:
    .byte 0
    .balign 4
ring:
    .skip RING
