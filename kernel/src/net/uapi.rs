//! Numbers of Linux's socket interface. Source: the headers named by each group.

/// Address families (`linux/socket.h`).
pub const AF_UNSPEC: u16 = 0;
pub const AF_UNIX: u16 = 1;
pub const AF_INET: u16 = 2;
pub const AF_INET6: u16 = 10;
pub const AF_NETLINK: u16 = 16;
pub const AF_PACKET: u16 = 17;
/// One more than the last family.
pub const AF_MAX: u32 = 46;

/// Kinds of sockets (`linux/net.h`).
pub const SOCK_STREAM: u32 = 1;
pub const SOCK_DGRAM: u32 = 2;
pub const SOCK_RAW: u32 = 3;
pub const SOCK_SEQPACKET: u32 = 5;
/// One more than the last kind.
pub const SOCK_MAX: u32 = 11;

/// Flags of messages.
pub const MSG_OOB: u32 = 1;
pub const MSG_PEEK: u32 = 2;
pub const MSG_CTRUNC: u32 = 8;
pub const MSG_TRUNC: u32 = 0x20;
pub const MSG_DONTWAIT: u32 = 0x40;
pub const MSG_EOR: u32 = 0x80;
pub const MSG_WAITALL: u32 = 0x100;
pub const MSG_ERRQUEUE: u32 = 0x2000;
pub const MSG_NOSIGNAL: u32 = 0x4000;
pub const MSG_MORE: u32 = 0x8000;
pub const MSG_WAITFORONE: u32 = 0x1_0000;
pub const MSG_FASTOPEN: u32 = 0x2000_0000;
pub const MSG_CMSG_CLOEXEC: u32 = 0x4000_0000;

/// Levels of options and control messages.
pub const SOL_IP: u32 = 0;
pub const SOL_SOCKET: u32 = 1;
pub const SOL_TCP: u32 = 6;
pub const SOL_UDP: u32 = 17;
pub const SOL_UDPLITE: u32 = 136;
pub const SOL_IPV6: u32 = 41;
pub const SOL_ICMPV6: u32 = 58;
pub const SOL_RAW: u32 = 255;
pub const SOL_NETLINK: u32 = 270;

/// Control messages of `SOL_SOCKET`.
pub const SCM_RIGHTS: u32 = 1;
pub const SCM_CREDENTIALS: u32 = 2;
pub const SCM_PIDFD: u32 = 4;

/// Protocols (`linux/in.h`).
pub const IPPROTO_ICMP: u32 = 1;
pub const IPPROTO_TCP: u32 = 6;
pub const IPPROTO_UDP: u32 = 17;
pub const IPPROTO_ICMPV6: u32 = 58;
pub const IPPROTO_UDPLITE: u32 = 136;
pub const IPPROTO_RAW: u32 = 255;
/// One more than the last protocol.
pub const IPPROTO_MAX: u32 = 263;

/// Requests of ioctl(2) (`linux/sockios.h`).
pub const FIONREAD: u32 = 0x541b;
pub const TIOCOUTQ: u32 = 0x5411;
pub const FIOSETOWN: u32 = 0x8901;
pub const SIOCSPGRP: u32 = 0x8902;
pub const FIOGETOWN: u32 = 0x8903;
pub const SIOCGPGRP: u32 = 0x8904;
pub const SIOCATMARK: u32 = 0x8905;
pub const SIOCGSTAMP: u32 = 0x8906;
pub const SIOCGSTAMPNS: u32 = 0x8907;
pub const SIOCGSTAMP_NEW: u32 = 0x8010_8906;
pub const SIOCGSTAMPNS_NEW: u32 = 0x8010_8907;

/// Options of `SOL_SOCKET` (`asm-generic/socket.h`).
pub mod so {
    pub const DEBUG: u32 = 1;
    pub const REUSEADDR: u32 = 2;
    pub const TYPE: u32 = 3;
    pub const ERROR: u32 = 4;
    pub const DONTROUTE: u32 = 5;
    pub const BROADCAST: u32 = 6;
    pub const SNDBUF: u32 = 7;
    pub const RCVBUF: u32 = 8;
    pub const KEEPALIVE: u32 = 9;
    pub const OOBINLINE: u32 = 10;
    pub const NO_CHECK: u32 = 11;
    pub const PRIORITY: u32 = 12;
    pub const LINGER: u32 = 13;
    pub const BSDCOMPAT: u32 = 14;
    pub const REUSEPORT: u32 = 15;
    pub const PASSCRED: u32 = 16;
    pub const PEERCRED: u32 = 17;
    pub const RCVLOWAT: u32 = 18;
    pub const SNDLOWAT: u32 = 19;
    pub const RCVTIMEO: u32 = 20;
    pub const SNDTIMEO: u32 = 21;
    pub const BINDTODEVICE: u32 = 25;
    pub const ATTACH_FILTER: u32 = 26;
    pub const DETACH_FILTER: u32 = 27;
    pub const PEERNAME: u32 = 28;
    pub const TIMESTAMP: u32 = 29;
    pub const ACCEPTCONN: u32 = 30;
    pub const PEERSEC: u32 = 31;
    pub const SNDBUFFORCE: u32 = 32;
    pub const RCVBUFFORCE: u32 = 33;
    pub const PASSSEC: u32 = 34;
    pub const TIMESTAMPNS: u32 = 35;
    pub const MARK: u32 = 36;
    pub const PROTOCOL: u32 = 38;
    pub const DOMAIN: u32 = 39;
    pub const RXQ_OVFL: u32 = 40;
    pub const WIFI_STATUS: u32 = 41;
    pub const PEEK_OFF: u32 = 42;
    pub const NOFCS: u32 = 43;
    pub const LOCK_FILTER: u32 = 44;
    pub const SELECT_ERR_QUEUE: u32 = 45;
    pub const BUSY_POLL: u32 = 46;
    pub const MAX_PACING_RATE: u32 = 47;
    pub const BPF_EXTENSIONS: u32 = 48;
    pub const INCOMING_CPU: u32 = 49;
    pub const CNX_ADVICE: u32 = 53;
    pub const MEMINFO: u32 = 55;
    pub const INCOMING_NAPI_ID: u32 = 56;
    pub const COOKIE: u32 = 57;
    pub const PEERGROUPS: u32 = 59;
    pub const ZEROCOPY: u32 = 60;
    pub const BINDTOIFINDEX: u32 = 62;
    pub const TIMESTAMP_NEW: u32 = 63;
    pub const TIMESTAMPNS_NEW: u32 = 64;
    pub const RCVTIMEO_NEW: u32 = 66;
    pub const SNDTIMEO_NEW: u32 = 67;
    pub const PREFER_BUSY_POLL: u32 = 69;
    pub const BUSY_POLL_BUDGET: u32 = 70;
    pub const NETNS_COOKIE: u32 = 71;
    pub const BUF_LOCK: u32 = 72;
    pub const TXREHASH: u32 = 74;
    pub const RCVMARK: u32 = 75;
    pub const PASSPIDFD: u32 = 76;
    pub const PEERPIDFD: u32 = 77;
}
