# Kernel text beside the gate: the way out, and the way back into interrupted kernel code.

.text
# u32 gate_leave(context: rdi, block: rsi, slow: edx, xsave mask: rcx)
#
# Runs guest code and returns how it ended. Saves the kernel's context where the next entry finds it.
.globl gate_leave
.type gate_leave, @function
gate_leave:
    push rbp
    mov rbp, rsp
    push rbx
    push r12
    push r13
    push r14
    push r15
    mov [rsi + {KSP}], rsp
    mov [rsi + {CONTEXT}], rdi
    test edx, edx
    jnz leave_slow

# The FPU's upper parts are still the guest's: low halves, registers, go.
    mov rax, [rdi + {FPU}]
    movaps xmm0, [rax + 160]
    movaps xmm1, [rax + 176]
    movaps xmm2, [rax + 192]
    movaps xmm3, [rax + 208]
    movaps xmm4, [rax + 224]
    movaps xmm5, [rax + 240]
    movaps xmm6, [rax + 256]
    movaps xmm7, [rax + 272]
    movaps xmm8, [rax + 288]
    movaps xmm9, [rax + 304]
    movaps xmm10, [rax + 320]
    movaps xmm11, [rax + 336]
    movaps xmm12, [rax + 352]
    movaps xmm13, [rax + 368]
    movaps xmm14, [rax + 384]
    movaps xmm15, [rax + 400]
    ldmxcsr [rax + 24]
    movabs rcx, {ENTRY_PAGE}
    mov rax, [rdi + 112]
    mov [rcx + 128], rax                # rdi
    mov rax, [rdi + 104]
    mov [rcx + 136], rax                # rsi
    mov rax, [rdi + 96]
    mov [rcx + 144], rax                # rdx
    mov rax, [rdi + 144]
    mov [rcx + 152], rax                # rflags
    mov rax, [rdi + 88]
    mov [rcx + 160], rax                # rcx
    mov rax, [rdi + 48]
    mov [rcx + 168], rax                # r11
    mov rax, [rdi + 152]
    mov [rcx + 176], rax                # rsp
    mov rax, [rdi + 80]
    mov [rcx + 184], rax                # rax
    mov rax, [rdi + 128]
    mov [rcx + 192], rax                # rip
    mov r15, [rdi]
    mov r14, [rdi + 8]
    mov r13, [rdi + 16]
    mov r12, [rdi + 24]
    mov rbp, [rdi + 32]
    mov rbx, [rdi + 40]
    mov r10, [rdi + 56]
    mov r9, [rdi + 64]
    mov r8, [rdi + 72]
    mov dword ptr [rsi], 0
.globl gate_fast_window, gate_fast_window_end
gate_fast_window:
    mov rcx, [rsi + {SHARED}]
    mov eax, {STATE_GUEST}
    xchg eax, [rcx]                     # publish, full fence
    mov eax, [rsi + {PENDING}]
    or eax, [rsi + {COLD}]              # cold KDATA is open: lock it first
    or eax, [rcx + 8]                   # mailbox
    mov rdx, [rsi + {LOG_HEAD}]
    mov rdx, [rdx]
    sub rdx, [rsi + {LOG_APPLIED}]
    or rax, rdx
    jnz 1f
    movabs rdx, {SLOT_PAGE}
    mov rdx, [rdx + 8]
    mov byte ptr [rdx], 1               # block
    jmp gate_fast_lock
1:  mov dword ptr [rsi], 1
gate_fast_window_end:
    mov dword ptr [rcx], {STATE_KERNEL}
    mov eax, {KIND_STAY}
    jmp gate_return_mxcsr

leave_slow:
    mov rbx, rsi
    mov r12, rdi
    mov r8, [rdi + {FPU}]
    mov eax, ecx
    xor edx, edx
2:  xrstor64 [r8]
3:  movabs rdi, {ENTRY_PAGE}+256
    mov rsi, r12
    mov ecx, 21
    rep movsq
    test dword ptr [rbx + {SLOW}], {DISARMED}
    jz 6f
    mov eax, 131                        # sigaltstack
    lea rdi, [rbx + {STACK}]
    xor esi, esi
    syscall
    test eax, eax
    jnz 5f
6:  mov dword ptr [rbx], 0
.globl gate_slow_window, gate_slow_window_end
gate_slow_window:
    mov rcx, [rbx + {SHARED}]
    mov eax, {STATE_GUEST}
    xchg eax, [rcx]                     # publish, full fence
    mov eax, [rbx + {PENDING}]
    or eax, [rbx + {COLD}]
    or eax, [rcx + 8]                   # mailbox
    mov rdx, [rbx + {LOG_HEAD}]
    mov rdx, [rdx]
    sub rdx, [rbx + {LOG_APPLIED}]
    or rax, rdx
    jnz 4f
    cmp dword ptr [rbx + {SLOW}], 0
    je 7f
    mov eax, 14                         # rt_sigprocmask(SIG_SETMASK, empty)
    mov edi, 2
    lea rsi, [rbx + {EMPTY_SET}]
    xor edx, edx
    mov r10d, 8
    syscall
7:  movabs rdx, {SLOT_PAGE}
    mov rdx, [rdx + 8]
    mov byte ptr [rdx], 1               # block
    jmp gate_slow_lock
4:  mov dword ptr [rbx], 1
gate_slow_window_end:
    mov dword ptr [rcx], {STATE_KERNEL}
    mov eax, {KIND_STAY}
    jmp gate_return_mxcsr
5:  ud2
gate_xrstor_failed:
    mov eax, {KIND_BAD_FPU}
    jmp gate_return_mxcsr

# Back from guest mode (or from an exit called off): rsp = KSP, eax = kind.
.globl gate_return, gate_return_mxcsr
gate_return_mxcsr:
    ldmxcsr [rip + gate_mxcsr]
gate_return:
    pop r15
    pop r14
    pop r13
    pop r12
    pop rbx
    pop rbp
    ret
.size gate_leave, . - gate_leave

# Return from a nested signal: r14 = the frame's ucontext.
.globl gate_resume_kernel, gate_sigreturned
gate_resume_kernel:
    mov rsp, r14
    mov eax, 15
    syscall
gate_sigreturned:
    ud2
.globl gate_restorer
gate_restorer:
    ud2

# void gate_save_extended(area: rdi, mask: rsi): XSAVE of the components in rsi.
.globl gate_save_extended
gate_save_extended:
    mov eax, esi
    xor edx, edx
    xsave64 [rdi]
    ret

# A kernel context waiting in gate_leave goes on in this slot: rdi = its KSP, esi = kind.
.globl gate_go_on
gate_go_on:
    mov rsp, rdi
    mov eax, esi
    jmp gate_return_mxcsr

# i64 gate_cold_protect(protection: edi): the one instruction that opens and locks cold KDATA. In kernel text, where
# guest code can make no host call.
.globl gate_cold_protect, gate_cold_protected
gate_cold_protect:
    mov edx, edi
    mov eax, 10
    movabs rdi, {COLD_BASE}
    movabs rsi, {COLD_LEN}
    syscall
gate_cold_protected:
    ret

# i64 gate_thin(): madvise(HOT_BASE, the machine's length of the hot range, MADV_DONTNEED), the one instruction that may. In
# kernel text, too.
.globl gate_thin, gate_thinned
gate_thin:
    movabs rdi, {SLOT_PAGE}
    mov rsi, [rdi + {HOT_LEN}]
    movabs rdi, {HOT_BASE}
    mov edx, 4
    mov eax, 28
    syscall
gate_thinned:
    ret

.section .rodata.gate, "a", @progbits
.p2align 2
gate_mxcsr:
    .long 0x1f80

.section .fixup_table, "a", @progbits
.p2align 2
    .long 2b - .
    .long 3b - .
    .long gate_xrstor_failed - .
.text
