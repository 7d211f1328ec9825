# Text of the guest's vDSO. Copied into the image that vdso.rs builds; position-independent.
#
# Clocks come from the slot page: ns = mono_ns + ((tsc - base_tsc) * mult >> shift). A thread can be moved to another
# slot, whose page may be of another anchor, between any two reads: sequence count and base_tsc must both be the same
# before and after. Where the page does not serve (no mult, or fast_reads off) the call enters the kernel. Answers are
# counted on the entry page, for --stats.

.section .rodata.vdso, "a", @progbits
.p2align 4
.globl vdso_text, vdso_clock_gettime, vdso_gettimeofday, vdso_time, vdso_getcpu, vdso_text_end
vdso_text:

# rax = ns of the clock in edi (0 realtime, else monotonic), carry set if the kernel must answer.
# Changes rcx, rdx, r8-r11.
read_clock:
    movabs r8, {SLOT_PAGE}
1:  mov r11d, [r8 + {SEQ}]
    test r11d, 1
    jnz 3f
    cmp dword ptr [r8 + {FAST_READS}], 0
    je 4f
    mov r9d, [r8 + {MULT}]
    test r9d, r9d
    jz 4f
    mov r10, [r8 + {BASE_TSC}]
    lfence
    rdtsc
    shl rdx, 32
    or rax, rdx
    sub rax, r10
    jae 2f
    xor eax, eax
2:  mul r9
    mov ecx, [r8 + {SHIFT}]
    shrd rax, rdx, cl
    add rax, [r8 + {MONO_NS}]
    mov rdx, [r8 + {REAL_OFFSET}]
    mov ecx, 0
    test edi, edi
    cmovnz rdx, rcx
    add rax, rdx
    cmp r11d, [r8 + {SEQ}]
    jne 1b
    cmp r10, [r8 + {BASE_TSC}]
    jne 1b
    inc qword ptr [r8 + {CLOCK_READS}]
    clc
    ret
3:  pause
    jmp 1b
4:  stc
    ret

# rax, rdx = seconds and nanoseconds of the real time, carry set if the kernel must answer. Changes rcx, r8-r11.
read_realtime:
    push rdi
    xor edi, edi
    call read_clock
    pop rdi
    jc 1f
    xor edx, edx
    mov ecx, 1000000000
    div rcx
    clc
1:  ret

.p2align 4
vdso_clock_gettime:
    mov r11d, edi
    cmp edi, 6
    ja 1f
    mov ecx, 0x73                       # realtime, monotonic, raw and the coarse ones
    bt ecx, edi
    jnc 1f
    push rdi
    xor ecx, ecx
    cmp edi, 5                          # realtime, coarse
    cmove edi, ecx
    call read_clock
    pop rdi
    jc 1f
    xor edx, edx
    mov ecx, 1000000000
    div rcx
    mov [rsi], rax
    mov [rsi + 8], rdx
    xor eax, eax
    ret
1:  mov eax, 228
    syscall
    ret

.p2align 4
vdso_gettimeofday:
    test rsi, rsi
    jnz 1f
    test rdi, rdi
    jz 1f
    call read_realtime
    jc 1f
    mov [rdi], rax
    mov rax, rdx
    xor edx, edx
    mov ecx, 1000
    div rcx
    mov [rdi + 8], rax
    xor eax, eax
    ret
1:  mov eax, 96
    syscall
    ret

.p2align 4
vdso_time:
    call read_realtime
    jc 1f
    test rdi, rdi
    jz 2f
    mov [rdi], rax
2:  ret
1:  mov eax, 201
    syscall
    ret

.p2align 4
vdso_getcpu:
    movabs r8, {SLOT_PAGE}
    inc qword ptr [r8 + {CLOCK_READS}]
    mov eax, [r8 + {CPU}]
    test rdi, rdi
    jz 1f
    mov [rdi], eax
1:  test rsi, rsi
    jz 2f
    mov dword ptr [rsi], 0
2:  xor eax, eax
    ret
vdso_text_end:
.text
