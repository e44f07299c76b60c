/* Writes for ever: increasing numbers to pages in pseudo-random order, in every way that memory is written, with 4 KiB paging
   whose tables it has walked again and again. Nothing is ever said; a test compares RAM with a copy of it.

   No multiboot kernel but plain bytes for address 0x1000, begun in real mode as if woken from sleep; it needs 1 MiB. */

    .intel_syntax noprefix

    .equ COUNTER, 0x500          /* the last number */
    .equ PORT, 0x504             /* not zero: a port to read from in each round of 256 */
    .equ DIRECTORY, 0x3000
    .equ TABLE, 0x4000
    .equ DATA, 0x20000           /* 128 pages, and one that their last may straddle into */
    .equ PAGES, 128

    .code16
    .globl start
start:
    cli
    cld
    lgdt [gdt_pointer]
    mov eax, cr0
    or al, 1
    mov cr0, eax
    .byte 0x66
    .byte 0xea
    .long protected
    .word 8

    .code32
protected:
    mov ax, 0x10
    mov ds, ax
    mov es, ax
    mov ss, ax
    mov esp, 0x3000
    /* The first MiB, one to one. */
    mov edi, TABLE
    mov eax, 3
    mov ecx, 256
1:  mov [edi], eax
    add edi, 4
    add eax, 0x1000
    loop 1b
    mov dword ptr [DIRECTORY], TABLE + 3
    mov eax, DIRECTORY
    mov cr3, eax
    mov eax, cr0
    or eax, 0x80000000
    mov cr0, eax

    mov esi, [COUNTER]
    lea ebx, [esi + 12345]
round:
    inc esi
    imul ebx, ebx, 1664525
    add ebx, 1013904223
    mov eax, ebx
    shr eax, 9
    and eax, PAGES - 1
    shl eax, 12                  /* EAX = a page's offset in DATA, EDX = a place in it */
    mov edx, ebx
    shr edx, 20
    and edx, 0xffc
    mov ecx, ebx
    shr ecx, 6
    and ecx, 7
    jz table
    cmp ecx, 2
    jb atomic
    je straddle
    cmp ecx, 4
    jb fill
    je copy
    mov [DATA + eax + edx], esi
next:
    mov [COUNTER], esi
    test esi, 0xff
    jnz round
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
/* The page's accessed and dirty bits go, and come back with the store. */
table:
    mov ecx, eax
    shr ecx, 10
    and dword ptr [TABLE + DATA / 0x400 + ecx], ~0x60
    invlpg [DATA + eax]
    mov [DATA + eax + edx], esi
    jmp next

    .balign 8
gdt:
    .quad 0, 0x00cf9a000000ffff, 0x00cf92000000ffff
gdt_pointer:
    .word gdt_pointer - gdt - 1
    .long gdt
