/* Writes for ever in user mode, on up to two vCPUs: each its own increasing numbers, to pages one after the other and in pseudo-random
   order, in every way that memory is written. Nothing is ever said; a test compares RAM with a copy of it.

   The first 4 MiB are mapped, the pages of DATA in an order of their own, by a table of each vCPU. Now and then its kernel makes that
   anew, without accessed and dirty bits. There is one mapping only, so that all of it is soon in a mirror.

   No multiboot kernel but plain bytes for address 0x1000, begun in real mode, the first vCPU as if woken from sleep; that one starts
   the others. It needs 4 MiB. */

    .intel_syntax noprefix

    .equ COUNTERS, 0x500         /* the last number of each vCPU */
    .equ BEGUN, 0x510            /* vCPUs that have begun */
    .equ STACKS, 0x3000          /* of the kernel, a page for each vCPU */
    .equ TSS, 0x5000             /* 256 bytes for each vCPU */
    .equ IDT, 0x6000
    .equ DIRECTORIES, 0x8000     /* a page for each vCPU */
    .equ TABLES, 0x10000         /* a page for each vCPU */
    .equ FIRST, 512              /* the page where DATA begins */
    .equ DATA, FIRST * 0x1000    /* 511 pages, and one that their last may straddle into */
    .equ PAGES, 511
    .equ CALL, 0x80

#include "flat.inc"
    mov ebx, 1
    lock xadd [BEGUN], ebx       /* EBX: the number of the vCPU */
    test ebx, ebx
    jnz 1f
    mov eax, 0xfee00000          /* INIT and start-up at 0x1000, for all others */
    mov dword ptr [eax + 0xf0], 0x1ff
    mov dword ptr [eax + 0x300], 0xc4500
    mov dword ptr [eax + 0x300], 0xc4601
1:  mov esp, ebx
    shl esp, 12
    add esp, STACKS + 0x1000
    mov ecx, ebx
    shl ecx, 8
    mov [TSS + ecx + 4], esp
    mov dword ptr [TSS + ecx + 8], 0x10
    lea eax, [0x28 + ebx * 8]
    ltr ax
    mov dword ptr [IDT + CALL * 8], OFFSET remap + 0x80000 /* below 64 KiB */
    mov dword ptr [IDT + CALL * 8 + 4], 0xee00
    lidt [idt_pointer]
    call make_table
    mov ecx, ebx
    shl ecx, 12
    lea eax, [TABLES + ecx + 7]
    mov [DIRECTORIES + ecx], eax
    lea eax, [DIRECTORIES + ecx]
    mov cr3, eax
    mov eax, cr0
    or eax, 0x80000000
    mov cr0, eax

    mov edi, ebx
    shl edi, 2
    mov ax, 0x23
    mov ds, ax
    mov es, ax
    push 0x23
    push 0
    push 2
    push 0x1b
    push OFFSET user
    iretd

/* The program. EDI: four times the number of the vCPU. */
user:
    mov esi, [COUNTERS + edi]
    lea ebx, [esi + edi * 8 + 12345]
round:
    inc esi
    imul ebx, ebx, 1664525
    add ebx, 1013904223
    mov eax, esi
    and eax, FIRST - 1
    cmp eax, PAGES
    je some
    test esi, 0x400              /* one page after the other twice, and then some pages */
    jz page
some:
    mov eax, ebx
    shr eax, 9
    and eax, 0xffff
    imul eax, eax, PAGES
    shr eax, 16
page:
    shl eax, 12                  /* EAX = a page's offset in DATA; EDX = a place in it */
    mov edx, ebx
    shr edx, 20
    and edx, 0xff8
    add edx, edi
    mov ecx, ebx
    shr ecx, 6
    and ecx, 31
    jz atomic
    cmp ecx, 2
    jb straddle
    je copy
    cmp ecx, 8
    jb group
    mov [DATA + eax + edx], esi
next:
    mov [COUNTERS + edi], esi
    test esi, 0x3ffff
    jnz round
    int CALL
    jmp round

atomic:
    mov ecx, esi
    lock xadd [DATA + eax + edx], ecx
    jmp next
straddle:
    mov [DATA + eax + 0xffe], esi
    jmp next
group:
    mov ecx, [DATA + eax + edi + 0x10]
    mov [DATA + eax + edi + 0x18], ecx
    mov [DATA + eax + edi + 0x10], esi
    mov [DATA + eax + edi + 0x20], esi
    jmp next
copy:                            /* there is no stack to keep ESI and EDI on */
    mov edx, esi
    mov ecx, edi
    lea esi, [DATA + 0x3000]
    lea edi, [DATA + eax]
    movsd
    movsd
    mov edi, ecx
    mov esi, edx
    jmp next

/* The kernel's call: the table is made anew. */
remap:
    push eax
    push ebx
    push ecx
    push edi
    mov ebx, edi
    shr ebx, 2
    call make_table
    mov eax, cr3
    mov cr3, eax
    pop edi
    pop ecx
    pop ebx
    pop eax
    iretd

/* Makes the table of vCPU EBX: the first 4 MiB, from DATA on in another order. Uses EAX, ECX and EDI. */
make_table:
    mov edi, ebx
    shl edi, 12
    add edi, TABLES
    xor ecx, ecx
1:  mov eax, ecx
    test ecx, FIRST
    jz 2f
    imul eax, eax, 77            /* odd, so each page has one place */
    and eax, FIRST - 1
    or eax, FIRST
2:  shl eax, 12
    or eax, 7
    mov [edi], eax
    add edi, 4
    inc ecx
    cmp ecx, 1024
    jb 1b
    ret

    .balign 8
gdt:
    .quad 0, 0x00cf9a000000ffff, 0x00cf92000000ffff, 0x00cffa000000ffff, 0x00cff2000000ffff
    .quad 0x0000890050000067, 0x0000890051000067
gdt_pointer:
    .word gdt_pointer - gdt - 1
    .long gdt
idt_pointer:
    .word CALL * 8 + 7
    .long IDT
