/* Sleeps (ACPI S3) in the way that it is told, and goes on where its waking vector says.

   It prints 'S' and then obeys bytes: 's' sleeps with a waking vector; 'a' also sets the real-time clock's alarm, which wakes
   it within a second; 'n' sleeps without a waking vector; '.' prints '.'; 'b' prints 'B', waits for the power button and
   powers off; 'q' ends the VM with EXIT_PASS. Woken, in real mode, it comes back to protected mode, prints 'W' if a word that it keeps in memory is as it was, and obeys again. */

#include "common.inc"

    .equ WAKING_VECTOR, 0xe004c  /* in the FACS of machine q35-0 */
    .equ STUB, 0x8000
    .equ WORD, 0x51ee9e55
    .equ PM1_STATUS, 0x600
    .equ PM1_ENABLE, 0x602
    .equ PM1_CONTROL, 0x604
    .equ RTC_EVENT, 0x400
    .equ BUTTON_EVENT, 0x100
    .equ SLEEP, 5 * 0x400 + 0x2000  /* SLP_TYP of S3, SLP_EN */
    .equ OFF, 7 * 0x400 + 0x2000    /* of S5 */

    .macro cmos register, value
    write 0x70, \register
    write 0x71, \value
    .endm

main:
    write LCR, 0x03
    write FCR, 0x07
    write MCR, 0x03
    mov esi, OFFSET stub
    mov edi, STUB
    mov ecx, stub_end - stub
    rep movsb
    mov dword ptr [kept], WORD
    mov al, 'S'
    call print
obey:
    call get
    cmp al, 's'
    je with_vector
    cmp al, 'a'
    je with_alarm
    cmp al, 'n'
    je without_vector
    cmp al, '.'
    je dot
    cmp al, 'b'
    je button
    cmp al, 'q'
    mov ecx, EXIT_COMMAND
    jne fail
    mov ecx, EXIT_PASS
    jmp fail

dot:
    call print
    jmp obey
button:
    mov al, 'B'
    call print
wait_for_button:
    pause
    mov dx, PM1_STATUS
    in ax, dx
    test ax, BUTTON_EVENT
    jz wait_for_button
    mov dx, PM1_CONTROL
    mov ax, OFF
    out dx, ax
    jmp stopped
without_vector:
    mov dword ptr [WAKING_VECTOR], 0
    jmp sleep
with_alarm:
    /* Bits 6 and 7 match everything: each second. */
    cmos 0x05, 0xff
    cmos 0x03, 0xff
    cmos 0x01, 0xff
    write 0x70, 0x0b
    read 0x71
    or al, 0x20                  /* alarm interrupt */
    out dx, al
    write 0x70, 0x0c             /* reading clears what is pending */
    read 0x71
    mov dx, PM1_STATUS
    mov ax, RTC_EVENT
    out dx, ax
    mov dx, PM1_ENABLE
    out dx, ax
with_vector:
    mov dword ptr [WAKING_VECTOR], STUB
sleep:
    mov dx, PM1_CONTROL
    mov ax, SLEEP
    out dx, ax
    jmp stopped

serial_interrupt:
    mov ecx, EXIT_EARLY
    jmp fail

awake:
    mov ax, 0x10
    mov ds, ax
    mov es, ax
    mov ss, ax
    mov esp, OFFSET stack_top
    lidt [idt_pointer]
    cmp dword ptr [kept], WORD
    mov ecx, EXIT_MEMORY
    jne fail
    mov dx, PM1_STATUS
    in ax, dx
    test ax, 0x8000              /* WAK_STS */
    mov ecx, EXIT_CAUSE
    jz fail
    mov ax, 0x8000 + RTC_EVENT
    out dx, ax
    xor ax, ax
    mov dx, PM1_ENABLE
    out dx, ax
    write 0x70, 0x0b
    read 0x71
    and al, 0xdf
    out dx, al
    write 0x70, 0x0c
    read 0x71
    mov al, 'W'
    call print
    jmp obey

/* Copied to STUB and entered in real mode with CS = STUB >> 4 and IP = 0. */
    .code16
stub:
    cli
    .byte 0x66                   /* a base of 32 bits */
    lgdt cs:[stub_gdt - stub]
    mov eax, cr0
    or al, 1
    mov cr0, eax
    .byte 0x66, 0xea             /* jmp far 0x08:awake */
    .long awake
    .word 0x08
stub_gdt:
    .word gdt_pointer - gdt - 1
    .long gdt
stub_end:
    .code32

    .bss
    .balign 4
kept:
    .long 0
