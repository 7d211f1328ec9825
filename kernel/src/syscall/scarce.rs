//! Which calls leave kernel memory behind: while it is low they are refused before they begin.
//!
//! Most kernel code cannot handle a failed small allocation. What is not listed frees memory, takes some only for as long as
//! it runs, or takes guest memory, and is served from the reserve (`mm::heap`).
//!
//! Those without privilege are refused first: a sixteenth of RAM's worth of kernel memory is left to the others; and each of their
//! users when it holds more than is left to all (`mm::heap::overdrawn`).

use crate::Errno;
use crate::fs::dcache;
use crate::task::{Task, cap};
use core::sync::atomic::Ordering::Relaxed;
use linux_raw_sys::general as nr;
use umbel_mm::heap;

/// The calls, by number.
const CALLS: &[u32] = &[
    nr::__NR_open,
    nr::__NR_openat,
    nr::__NR_openat2,
    nr::__NR_creat,
    nr::__NR_mmap,
    nr::__NR_mprotect,
    nr::__NR_mremap,
    nr::__NR_brk,
    nr::__NR_madvise,
    nr::__NR_mlock,
    nr::__NR_mlock2,
    nr::__NR_mlockall,
    nr::__NR_pipe,
    nr::__NR_pipe2,
    nr::__NR_dup,
    nr::__NR_dup2,
    nr::__NR_dup3,
    nr::__NR_fcntl,
    nr::__NR_socket,
    nr::__NR_socketpair,
    nr::__NR_connect,
    nr::__NR_accept,
    nr::__NR_accept4,
    nr::__NR_bind,
    nr::__NR_listen,
    nr::__NR_sendto,
    nr::__NR_sendmsg,
    nr::__NR_sendmmsg,
    nr::__NR_clone,
    nr::__NR_clone3,
    nr::__NR_fork,
    nr::__NR_vfork,
    nr::__NR_execve,
    nr::__NR_execveat,
    nr::__NR_write,
    nr::__NR_writev,
    nr::__NR_pwrite64,
    nr::__NR_pwritev,
    nr::__NR_pwritev2,
    nr::__NR_splice,
    nr::__NR_tee,
    nr::__NR_vmsplice,
    nr::__NR_sendfile,
    nr::__NR_copy_file_range,
    nr::__NR_fallocate,
    nr::__NR_mkdir,
    nr::__NR_mkdirat,
    nr::__NR_mknod,
    nr::__NR_mknodat,
    nr::__NR_link,
    nr::__NR_linkat,
    nr::__NR_symlink,
    nr::__NR_symlinkat,
    nr::__NR_rename,
    nr::__NR_renameat,
    nr::__NR_renameat2,
    nr::__NR_setxattr,
    nr::__NR_lsetxattr,
    nr::__NR_fsetxattr,
    nr::__NR_mount,
    nr::__NR_unshare,
    nr::__NR_flock,
    nr::__NR_epoll_create,
    nr::__NR_epoll_create1,
    nr::__NR_epoll_ctl,
    nr::__NR_eventfd,
    nr::__NR_eventfd2,
    nr::__NR_signalfd,
    nr::__NR_signalfd4,
    nr::__NR_timerfd_create,
    nr::__NR_userfaultfd,
    nr::__NR_timer_create,
    nr::__NR_io_setup,
    nr::__NR_io_submit,
    nr::__NR_fanotify_init,
    nr::__NR_fanotify_mark,
    nr::__NR_inotify_init,
    nr::__NR_inotify_init1,
    nr::__NR_inotify_add_watch,
    nr::__NR_memfd_create,
    nr::__NR_memfd_secret,
    nr::__NR_pidfd_open,
    nr::__NR_rt_sigqueueinfo,
    nr::__NR_rt_tgsigqueueinfo,
    nr::__NR_msgget,
    nr::__NR_msgsnd,
    nr::__NR_semget,
    nr::__NR_semop,
    nr::__NR_semtimedop,
    nr::__NR_shmget,
    nr::__NR_shmat,
    nr::__NR_mq_open,
    nr::__NR_mq_timedsend,
    nr::__NR_seccomp,
    nr::__NR_setgroups,
    nr::__NR_add_key,
    nr::__NR_request_key,
    nr::__NR_keyctl,
];

/// One bit a number.
static BITS: [u64; 8] = {
    let mut bits = [0; 8];
    let mut i = 0;
    while i < CALLS.len() {
        bits[CALLS[i] as usize / 64] |= 1 << (CALLS[i] % 64);
        i += 1;
    }
    bits
};

/// Whether call `nr` takes kernel memory that outlives it.
pub fn takes_memory(nr: u64) -> bool {
    BITS.get(nr as usize / 64).is_some_and(|word| word >> (nr % 64) & 1 != 0)
}

/// Whether `task` is refused: kernel memory is scarce, or its user has taken its share of it.
pub fn refuses(task: &Task) -> bool {
    if heap::scarce() {
        dcache::reclaim();
    }
    (heap::scarce() || heap::overdrawn(task.account())) && is_bound(task)
}

#[cold]
fn is_bound(task: &Task) -> bool {
    let refused = !task.capable(cap::SYS_RESOURCE) || heap::low();
    if refused {
        heap::REFUSED.fetch_add(1, Relaxed);
    }
    refused
}

/// What it is refused with.
pub fn refusal(nr: u64) -> Errno {
    match nr as u32 {
        nr::__NR_fork | nr::__NR_vfork | nr::__NR_clone | nr::__NR_clone3 => Errno::EAGAIN,
        _ => Errno::ENOMEM,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_frees_memory_is_always_served() {
        for nr in [nr::__NR_exit_group, nr::__NR_close, nr::__NR_munmap, nr::__NR_unlink, nr::__NR_wait4, nr::__NR_read]
        {
            assert!(!takes_memory(u64::from(nr)));
        }
        assert!(takes_memory(u64::from(nr::__NR_clone3)));
        assert!(!takes_memory(u64::MAX));
        assert_eq!(refusal(u64::from(nr::__NR_clone)), Errno::EAGAIN);
    }
}
