//! /proc/config.gz: which of Linux's build options this kernel amounts to, for programs that look before they try.

use alloc::vec::Vec;

/// What is here; an option that is not named is off.
const OPTIONS: &[&str] = &[
    "64BIT",
    "X86_64",
    "SMP",
    "MMU",
    "PRINTK",
    "FUTEX",
    "EPOLL",
    "SIGNALFD",
    "TIMERFD",
    "EVENTFD",
    "AIO",
    "SHMEM",
    "ADVISE_SYSCALLS",
    "MEMBARRIER",
    "RSEQ",
    "POSIX_TIMERS",
    "HIGH_RES_TIMERS",
    "MEM_SOFT_DIRTY",
    "HAVE_ARCH_SOFT_DIRTY",
    "USERFAULTFD",
    "HAVE_ARCH_USERFAULTFD_WP",
    "HAVE_ARCH_USERFAULTFD_MINOR",
    "KEYS",
    "BIG_KEYS",
    "BSD_PROCESS_ACCT",
    "BSD_PROCESS_ACCT_V3",
    "NUMA",
    "SYSVIPC",
    "POSIX_MQUEUE",
    "CHECKPOINT_RESTORE",
    "NAMESPACES",
    "UTS_NS",
    "IPC_NS",
    "USER_NS",
    "NET_NS",
    "PID_NS",
    "TIME_NS",
    "CHECKPOINT_RESTORE",
    "PACKET",
    "SECCOMP",
    "SECCOMP_FILTER",
    "SECURITY_LANDLOCK",
    "UNIX98_PTYS",
    "MULTIUSER",
    "NET",
    "DUMMY",
    "VETH",
    "UNIX",
    "INET",
    "IPV6",
    "FILE_LOCKING",
    "FHANDLE",
    "DNOTIFY",
    "INOTIFY_USER",
    "FANOTIFY",
    "FANOTIFY_ACCESS_PERMISSIONS",
    "PROC_FS",
    "PROC_SYSCTL",
    "SYSFS",
    "TMPFS",
    "TMPFS_XATTR",
    "TMPFS_POSIX_ACL",
    "FS_POSIX_ACL",
    "BLK_DEV_LOOP",
    "OVERLAY_FS",
    "DEVTMPFS",
    "BINFMT_ELF",
    "BINFMT_SCRIPT",
    "CROSS_MEMORY_ATTACH",
    "IKCONFIG",
    "IKCONFIG_PROC",
];

/// The file: the text in one stored block of a gzip member (RFC 1952, RFC 1951).
pub fn gzip() -> Vec<u8> {
    let mut text = b"# What Umbel has of Linux.\n".to_vec();
    for option in OPTIONS {
        text.extend_from_slice(b"CONFIG_");
        text.extend_from_slice(option.as_bytes());
        text.extend_from_slice(b"=y\n");
    }
    let len = u16::try_from(text.len()).unwrap_or(u16::MAX);
    text.truncate(usize::from(len));
    let mut out = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255].to_vec();
    out.push(1); // the last block, stored
    out.extend_from_slice(&len.to_le_bytes());
    out.extend_from_slice(&(!len).to_le_bytes());
    out.extend_from_slice(&text);
    out.extend_from_slice(&crc32(&text).to_le_bytes());
    out.extend_from_slice(&u32::from(len).to_le_bytes());
    out
}

fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32, _| if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 };
    !bytes.iter().fold(!0, |crc, &byte| (0..8).fold(crc ^ u32::from(byte), step))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_the_usual_one() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    }
}
