/* Calls a function for ever whose number somebody else makes larger, and counts how often it returned an older one than had been
   said before.

   No multiboot kernel but plain bytes for address 0x1000, begun in real mode as if woken from sleep; it needs 5 MiB. */

    .intel_syntax noprefix

    .equ SAID, 0x500             /* the number that the function returns at least */
    .equ PORT, 0x504             /* not zero: a port to read from before each call */
    .equ CALLS, 0x508            /* calls */
    .equ WRONG, 0x50c            /* those that returned an older number */
    .equ FUNCTION, 0x200000      /* mov eax, number; ret */

#include "flat.inc"
    mov esp, 0x8000
again:
    mov dx, [PORT]
    test dx, dx
    jz 1f
    in al, dx
1:  mov ebx, [SAID]
    mov eax, FUNCTION
    call eax
    cmp eax, ebx
    jae 2f
    inc dword ptr [WRONG]
2:  inc dword ptr [CALLS]
    jmp again

    .balign 8
gdt:
    .quad 0, 0x00cf9a000000ffff, 0x00cf92000000ffff
gdt_pointer:
    .word gdt_pointer - gdt - 1
    .long gdt
