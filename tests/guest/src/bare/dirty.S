/* Writes for ever: increasing numbers to pages in pseudo-random order, in every way that memory is written, with 4 KiB paging
   whose tables the processor writes too. Nothing is ever said; a test compares RAM with a copy of it.

   The first 4 MiB are mapped 16 times, each time by another page table. One mapping is used for a while; before that, its
   table is made anew, without accessed and dirty bits, and from then on only walks write to it.

   No multiboot kernel but plain bytes for address 0x1000, begun in real mode as if woken from sleep; it needs 5 MiB. */

    .intel_syntax noprefix

    .equ COUNTER, 0x500          /* the last number */
    .equ PORT, 0x504             /* not zero: a port to read from now and then */
    .equ DIRECTORY, 0x3000
    .equ TABLES, 0x4000
    .equ MAPPINGS, 16            /* one every 4 MiB */
    .equ DATA, 0x200000          /* 511 pages, and one that their last may straddle into */
    .equ PAGES, 511

#include "flat.inc"
    mov esp, 0x3000
    mov ebp, MAPPINGS - 1
1:  call make_table
    mov eax, ebp
    shl eax, 12
    add eax, TABLES + 3
    mov [DIRECTORY + ebp * 4], eax
    dec ebp
    jns 1b
    mov eax, DIRECTORY
    mov cr3, eax
    mov eax, cr0
    or eax, 0x80000000
    mov cr0, eax

    xor ebp, ebp                 /* the mapping */
    mov esi, [COUNTER]
    lea ebx, [esi + 12345]
round:
    inc esi
    imul ebx, ebx, 1664525
    add ebx, 1013904223
    mov eax, ebx
    shr eax, 9
    and eax, 0xffff
    imul eax, eax, PAGES
    shr eax, 16
    shl eax, 12                  /* EAX = a page's offset in DATA, in the current mapping; EDX = a place in it */
    add eax, ebp
    mov edx, ebx
    shr edx, 20
    and edx, 0xffc
    mov ecx, ebx
    shr ecx, 6
    and ecx, 7
    jz walk
    cmp ecx, 2
    jb atomic
    je straddle
    cmp ecx, 4
    jb fill
    je copy
    mov [DATA + eax + edx], esi
next:
    mov [COUNTER], esi
    test esi, 0xfff
    jnz round
    mov ebp, esi
    shr ebp, 12
    and ebp, MAPPINGS - 1
    call make_table
    shl ebp, 22
    mov eax, cr3
    mov cr3, eax
    mov dx, [PORT]
    test dx, dx
    jz round
    in al, dx
    jmp round

atomic:
    mov ecx, esi
    lock xadd [DATA + eax + edx], ecx
    lock inc dword ptr [DATA + eax]
    jmp next
straddle:
    mov [DATA + eax + 0xffe], esi
    jmp next
fill:
    lea edi, [DATA + eax]
    mov eax, esi
    mov ecx, 96
    rep stosd
    jmp next
copy:
    push esi
    mov esi, DATA + 0x3000
    lea edi, [DATA + eax]
    mov ecx, 33
    rep movsd
    pop esi
    mov [DATA + eax + 0x800], esi
    jmp next
walk:
    invlpg [DATA + eax]
    mov [DATA + eax + edx], esi
    jmp next

/* Makes the table of mapping EBP: the first 4 MiB. */
make_table:
    mov edi, ebp
    shl edi, 12
    add edi, TABLES
    mov eax, 3
    mov ecx, 1024
1:  mov [edi], eax
    add edi, 4
    add eax, 0x1000
    loop 1b
    ret

    .balign 8
gdt:
    .quad 0, 0x00cf9a000000ffff, 0x00cf92000000ffff
gdt_pointer:
    .word gdt_pointer - gdt - 1
    .long gdt
