# Accesses to guest memory. Each instruction that may fault is in the fixup table; see gate/src/fixup.rs.
    .text

# user_copy(rdi = to, rsi = from, rdx = bytes) -> rax = bytes not copied
    .balign 16
    .globl user_copy
user_copy:
    mov rcx, rdx
    cmp rdx, 96
    jae 4f
1:  cmp rcx, 8
    jb 3f
2:  mov rax, [rsi]
    mov [rdi], rax
20: add rsi, 8
    add rdi, 8
    sub rcx, 8
    jmp 1b
3:  test rcx, rcx
    jz 5f
4:  rep movsb
5:  mov rax, rcx
    ret

# user_clear(rdi = to, rsi = bytes) -> rax = bytes not cleared
    .balign 16
    .globl user_clear
user_clear:
    mov rcx, rsi
    xor eax, eax
6:  rep stosb
7:  mov rax, rcx
    ret

# user_load_u32(rdi = from, rsi = kernel *u32) -> eax = 0, or 1 after a fault
    .balign 16
    .globl user_load_u32
user_load_u32:
8:  mov eax, [rdi]
9:  mov [rsi], eax
    xor eax, eax
    ret

# user_store_u32(rdi = to, esi = value) -> eax = 0, or 1 after a fault
    .balign 16
    .globl user_store_u32
user_store_u32:
10: mov [rdi], esi
11: xor eax, eax
    ret

# user_cmpxchg_u32(rdi = to, esi = expected, edx = new, rcx = kernel *u32 for the old value) -> eax = 0, or 1 after a fault
    .balign 16
    .globl user_cmpxchg_u32
user_cmpxchg_u32:
    mov eax, esi
12: lock cmpxchg [rdi], edx
13: mov [rcx], eax
    xor eax, eax
    ret

14: mov eax, 1
    ret

    .section .fixup_table, "a", @progbits
    .balign 4
    # A word that crosses into a missing page: go on bytewise, which faults at the exact byte.
    .long 2b - ., 20b - ., 4b - .
    .long 4b - ., 5b - ., 5b - .
    .long 6b - ., 7b - ., 7b - .
    .long 8b - ., 9b - ., 14b - .
    .long 10b - ., 11b - ., 14b - .
    .long 12b - ., 13b - ., 14b - .
    .text
