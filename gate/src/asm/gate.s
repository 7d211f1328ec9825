# The gate page: the first page of the image, mapped r-x in guest mode too.
#
# It holds the only instructions that may change the protection of hot KDATA. Whoever jumps to an unlock falls
# through into kernel entry; whoever jumps to a lock has nothing to lock out but itself.
#
# Rules (a test scans the assembled page):
#  * the byte pairs 0f05, 0f34, cd80 stand nowhere but at the four calls below;
#  * between an unlock and `in_kernel = 1` no instruction changes flags (fast entry: they are the guest's);
#  * fixed pages are addressed absolutely; the two jumps through the exit page are rip-relative and count on the
#    page being at IMAGE_BASE.

.section .gate, "ax", @progbits
.p2align 12
.globl gate_start
gate_start:

# mprotect(HOT_BASE, the machine's length of the hot range, protection in edx). The length stands on the slot's page, which guests
# cannot write, and the filter knows it.
.macro TOGGLE
    movabs eax, [{SLOT_PAGE} + {HOT_LEN}]
    mov esi, eax
    mov eax, 10
    movabs rdi, {HOT_BASE}
.endm

# jmp [\target], rip-relative to an absolute address.
.macro JUMP_THROUGH target
    .byte 0xff, 0x25
    .long \target - {IMAGE_BASE} - (. + 4 - gate_start)
.endm

# ---- entry by signal: edi = number, rsi = siginfo, rdx = ucontext, all untrusted ----
.globl gate_signal_entry, gate_signal_restart, gate_signal_unlocked, gate_signal_end
gate_signal_entry:
    mov r12d, edi
    mov r13, rsi
    mov r14, rdx
gate_signal_restart:
    TOGGLE
    mov edx, 3
    syscall
gate_signal_unlocked:
    test eax, eax
    jnz gate_die
    movabs rdx, {SLOT_PAGE}
    mov rbx, [rdx + 16]                 # block
    mov rdi, [rdx + 8]                  # writable selector
    cmp dword ptr [rbx], 0
    jne 1f
    mov byte ptr [rdi], 0               # allow, before in_kernel = 1
    mov rsp, [rbx + {KSP}]
    mov dword ptr [rbx], 1
gate_signal_end:
    push 2
    popfq                               # AC, NT, DF, TF off
    mov [rbx + {ENTRY_ARGS}], r12
    mov [rbx + {ENTRY_ARGS} + 8], r13
    mov [rbx + {ENTRY_ARGS} + 16], r14
    mov dword ptr [rbx + {SLOW}], {SIGNALLED}
    mov rcx, [rbx + {SHARED}]
    mov dword ptr [rcx], {STATE_KERNEL}
    mov eax, {KIND_SIGNAL}
    jmp gate_return
1:                                      # kernel mode was interrupted
    mov rsp, [rbx + {IRQ_SP}]
    push 2
    popfq
    mov edi, r12d
    mov rsi, r13
    mov rdx, r14
    xor ebp, ebp
    call gate_nested
    jmp gate_resume_kernel
gate_die:
    ud2

# ---- entry from a patched call site: rax = number, rcx = return address ----
.p2align 6
.globl gate_fast_entry, gate_fast_restart, gate_fast_unlocked, gate_fast_end
gate_fast_entry:
    movabs [{ENTRY_PAGE}], rax
    movabs rax, {ENTRY_PAGE}
    mov [rax + 8], rcx
    mov [rax + 16], rdx
    mov [rax + 24], rsi
    mov [rax + 32], rdi
    mov [rax + 40], rsp
gate_fast_restart:
    TOGGLE
    mov edx, 3
    syscall                             # r11 = the guest's rflags
gate_fast_unlocked:
    movabs rdx, {SLOT_PAGE}
    mov rax, [rdx + 16]
    mov rdi, [rdx + 8]
    mov byte ptr [rdi], 0
    mov rsp, [rax + {KSP}]
    mov dword ptr [rax], 1
gate_fast_end:
    mov rdi, [rax + {CONTEXT}]
    mov [rdi], r15
    mov [rdi + 8], r14
    mov [rdi + 16], r13
    mov [rdi + 24], r12
    mov [rdi + 32], rbp
    mov [rdi + 40], rbx
    mov [rdi + 48], r11
    mov [rdi + 56], r10
    mov [rdi + 64], r9
    mov [rdi + 72], r8
    test r11d, {BAD_FLAGS}
    jnz 2f
1:  mov [rdi + 144], r11
    movabs rbx, {ENTRY_PAGE}
    mov rdx, [rbx]
    mov [rdi + 80], rdx
    mov [rdi + 120], rdx
    mov rdx, [rbx + 8]
    mov [rdi + 88], rdx
    mov [rdi + 128], rdx
    mov rdx, [rbx + 16]
    mov [rdi + 96], rdx
    mov rdx, [rbx + 24]
    mov [rdi + 104], rdx
    mov rdx, [rbx + 32]
    mov [rdi + 112], rdx
    mov rdx, [rbx + 40]
    mov [rdi + 152], rdx
    mov rdx, [rdi + {FPU}]
    movaps [rdx + 160], xmm0
    movaps [rdx + 176], xmm1
    movaps [rdx + 192], xmm2
    movaps [rdx + 208], xmm3
    movaps [rdx + 224], xmm4
    movaps [rdx + 240], xmm5
    movaps [rdx + 256], xmm6
    movaps [rdx + 272], xmm7
    movaps [rdx + 288], xmm8
    movaps [rdx + 304], xmm9
    movaps [rdx + 320], xmm10
    movaps [rdx + 336], xmm11
    movaps [rdx + 352], xmm12
    movaps [rdx + 368], xmm13
    movaps [rdx + 384], xmm14
    movaps [rdx + 400], xmm15
    stmxcsr [rdx + 24]
    mov [rax + {LIVE}], rdi
    mov dword ptr [rax + {SLOW}], 0
    mov rcx, [rax + {SHARED}]
    mov dword ptr [rcx], {STATE_KERNEL}
    mov eax, {KIND_FAST}
    jmp gate_return_mxcsr
2:  push 2
    popfq
    jmp 1b

# ---- exits: kernel text has put the registers on the exit page and the selector to "block" ----
.p2align 6
.globl gate_exit_start, gate_fast_locked, gate_slow_locked, gate_exit_end, gate_fast_lock, gate_slow_lock
gate_exit_start:
gate_fast_lock:
    TOGGLE
    xor edx, edx
    syscall
gate_fast_locked:
    test eax, eax
    jnz gate_die
    movabs rax, {ENTRY_PAGE}
    mov rdi, [rax + 128]
    mov rsi, [rax + 136]
    mov rdx, [rax + 144]
    lea rsp, [rax + 152]
    popfq
    mov rcx, [rax + 160]
    mov r11, [rax + 168]
    mov rsp, [rax + 176]
    mov rax, [rax + 184]
    JUMP_THROUGH {ENTRY_PAGE}+192
gate_slow_lock:
    TOGGLE
    xor edx, edx
    syscall
gate_slow_locked:
    test eax, eax
    jnz gate_die
    movabs rax, {ENTRY_PAGE}
    lea rsp, [rax + 256]
    test dword ptr [rsp + 144], 0x100
    jnz 1f
    pop r15
    pop r14
    pop r13
    pop r12
    pop rbp
    pop rbx
    pop r11
    pop r10
    pop r9
    pop r8
    pop rax
    pop rcx
    pop rdx
    pop rsi
    pop rdi
    lea rsp, [rsp + 24]
    popfq
    pop rsp
    JUMP_THROUGH {ENTRY_PAGE}+384
1:                                      # single step: TF must not hit the gate itself
    pop r15
    pop r14
    pop r13
    pop r12
    pop rbp
    pop rbx
    pop r11
    pop r10
    pop r9
    pop r8
    pop rax
    pop rcx
    pop rdx
    pop rsi
    pop rdi
    lea rsp, [rsp + 8]
    iretq
gate_exit_end:
    ud2

# ---- calls (kernel's fs::plain) answered from the slot's page: rax = number, rcx = return address ----
#
# They change no flag, and nothing but rax, rcx and r11, which a system call changes, too. An interrupt in a window starts
# it again, since what the page says may be another thing then; r11 keeps the return address for that.

# Goes on if the page answers for descriptor rdi and the gate has not closed it, with rax = the slot's page; else to \slow.
.macro PLAIN slow
    movzx ecx, dil
    not rcx
    lea rcx, [rcx + rdi + 1]            # 0 if rdi < 256
    jrcxz 1f
    jmp \slow
1:  movabs rax, {SLOT_PAGE}
    movzx ecx, byte ptr [rax + rdi + {PLAIN}]
    jrcxz 2f
    movzx ecx, byte ptr [rax + rdi + {CLOSED}]
    jrcxz 3f
2:  jmp \slow
3:
.endm

# Counts an answer: rax = the slot's page. One that an interrupt begins again is counted twice.
.macro COUNT
    mov rcx, [rax + {READS}]
    lea rcx, [rcx + 1]
    mov [rax + {READS}], rcx
.endm

# close: noted on the entry page, done at the next entry.
.p2align 6
.globl gate_close_entry, gate_close_end
gate_close_entry:
    mov r11, rcx
    PLAIN 4f
    mov byte ptr [rax + {NOTED}], 1
    mov byte ptr [rax + rdi + {CLOSED}], 1
gate_close_end:
    mov eax, 0
    mov rcx, r11
    jmp r11
4:  mov rcx, r11
    mov eax, 3
    jmp gate_fast_entry

# fcntl: F_GETFL (3), F_GETFD (1), F_SETFD (2) to what it is.
.p2align 6
.globl gate_fcntl_entry, gate_fcntl_end
gate_fcntl_entry:
    mov r11, rcx
    PLAIN 8f
    lea ecx, [rsi - 3]
    jrcxz 5f
    lea ecx, [rsi - 1]
    jrcxz 6f
    lea ecx, [rsi - 2]
    jrcxz 7f
    jmp 8f
5:  COUNT
    mov eax, [rax + rdi * 4 + {STATUS}]
    mov rcx, r11
    jmp r11
6:  COUNT
    movzx eax, byte ptr [rax + rdi + {CLOEXEC}]
    mov rcx, r11
    jmp r11
7:  movzx ecx, byte ptr [rax + rdi + {CLOEXEC}]
    jrcxz 8f
    lea ecx, [rdx - 1]
    jrcxz 9f
8:  mov rcx, r11
    mov eax, 72
    jmp gate_fast_entry
9:  COUNT
    mov eax, 0
    mov rcx, r11
    jmp r11
gate_fcntl_end:
    ud2

# epoll_ctl of what is registered: removed (2), added again (1) or changed (3), noted on the entry page, done at the next entry.
# The last store is the note; until then what is there is as before. A fault of the load of the event leads to the fast entry.
.p2align 6
.globl gate_epoll_entry, gate_epoll_end
gate_epoll_entry:
    mov r11, rcx
    movzx ecx, dl
    not rcx
    lea rcx, [rcx + rdx + 1]            # 0 if rdx < 256
    jrcxz 1f
    jmp 9f
1:  movabs rax, {SLOT_PAGE}
    mov ecx, [rax + {WATCHER}]
    lea ecx, [rcx + rdi]
    jrcxz 2f
    jmp 9f
2:  movzx ecx, byte ptr [rax + rdx + {WATCHED}]
    jrcxz 3f
    movzx ecx, byte ptr [rax + rdx + {WATCH_OP}]
    jrcxz 4f
    lea ecx, [rcx - 2]
    jrcxz 6f
    jmp 5f
3:  jmp 9f
4:  lea ecx, [rsi - 3]                  # as shown: may be changed or removed
    jrcxz 7f
5:  lea ecx, [rsi - 2]                  # noted with an event: may be removed
    jrcxz 8f
    jmp 9f
6:  lea ecx, [rsi - 1]                  # removed: may be added
    jrcxz 7f
    jmp 9f
7:  mov ecx, [r10]
    mov [rax + rdx * 4 + {WATCH_EVENTS}], ecx
    mov rcx, [r10 + 4]
    mov [rax + rdx * 8 + {WATCH_DATA}], rcx
    movzx ecx, word ptr [rax + rdx * 4 + {WATCH_EVENTS} + 2]
    jrcxz 12f                           # no option
    jmp 9f
12: mov ecx, [rax + {WATCH_COUNT}]
    lea ecx, [rcx + 1]
    mov [rax + {WATCH_COUNT}], ecx
    mov [rax + rdx * 4 + {WATCH_NUMBER}], ecx
8:  mov byte ptr [rax + {NOTED}], 1
    mov [rax + rdx + {WATCH_OP}], sil
gate_epoll_end:
    mov eax, 0
    mov rcx, r11
    jmp r11
9:  mov rcx, r11
    mov eax, 233
    jmp gate_fast_entry

# ---- newfstatat: answered from the slot's page if the next of the answers there (kernel's fs::ahead) is the one ----
#
# Works with r8, r9 and rdx, which it keeps on the entry page, as it keeps the flags; r11 keeps the return address. Whatever
# interrupts the window, a fault at a bad address of the guest's included, makes it a call of the kernel.
.p2align 6
.globl gate_stat_entry, gate_stat_saved, gate_stat_end
gate_stat_entry:
    mov r11, rcx
    movabs rax, {ENTRY_PAGE}
    mov [rax + {SAVED}], r8
    mov [rax + {SAVED} + 8], r9
    mov [rax + {SAVED} + 16], rdx
    mov rcx, rax
    lahf
    seto al
    mov [rcx + {SAVED} + 24], rax
gate_stat_saved:
    movabs r8, {SLOT_PAGE}
    mov r9, [r8 + {AHEAD_UNTIL}]
    test r9, r9
    jz 4f
    cmp edi, -100                       # AT_FDCWD
    jne 4f
    cmp r10d, [r8 + {AHEAD_FLAGS}]
    jne 4f
    rdtsc
    shl rdx, 32
    or rax, rdx
    cmp rax, r9
    jae 4f
    mov r9d, [rcx + {CURSOR}]
    cmp r9d, [r8 + {AHEAD_END}]
    jae 4f
    add r8, r9                          # the answer
    mov r9d, [r8 + {AHEAD_STAT}]
    xor edx, edx
1:  cmp rdx, r9
    jae 2f
    mov rax, [rsi + rdx]
    cmp rax, [r8 + rdx + {AHEAD_NAME}]
    jne 4f
    add rdx, 8
    jmp 1b
2:  mov rax, [rsi + r9]
    cmp rax, [r8 + r9 + {AHEAD_NAME}]
    jne 4f
    mov rdx, [rcx + {SAVED} + 16]
    xor r9d, r9d
3:  mov rax, [r8 + r9]
    mov [rdx + r9], rax
    add r9d, 8
    cmp r9d, {AHEAD_STAT}
    jne 3b
    mov r9d, [r8 + {AHEAD_STAT} + 4]
    mov [rcx + {CURSOR}], r9d
    inc dword ptr [rcx + {GIVEN}]
    mov r8, [rcx + {SAVED}]
    mov r9, [rcx + {SAVED} + 8]
    mov rax, [rcx + {SAVED} + 24]
    add al, 127
    sahf
    mov eax, 0
    mov rcx, r11
    jmp r11
4:  mov r8, [rcx + {SAVED}]
    mov r9, [rcx + {SAVED} + 8]
    mov rdx, [rcx + {SAVED} + 16]
    mov rax, [rcx + {SAVED} + 24]
    add al, 127
    sahf
    mov rcx, r11
    mov eax, 262
    jmp gate_fast_entry
gate_stat_end:
    ud2
.p2align 12, 0xcc
.globl gate_end
gate_end:
