//! `/proc/net/{snmp,snmp6,netstat}`: what a namespace counts, under the names that Linux gives it. Source: proc_pid_net(5), RFC 1213.
//!
//! What cannot happen on a loopback device is zero, and so are those names of `TcpExt` that nothing here counts.

use super::Namespace;
use super::counters::{self, Tcp, Udp};
use super::inet::tcp::state_number;
use super::sysctl;
use alloc::format;
use alloc::string::String;
use core::fmt::Write;
use core::sync::atomic::Ordering::Relaxed;

const IP: &str = "Forwarding DefaultTTL InReceives InHdrErrors InAddrErrors ForwDatagrams InUnknownProtos InDiscards InDelivers \
    OutRequests OutDiscards OutNoRoutes ReasmTimeout ReasmReqds ReasmOKs ReasmFails FragOKs FragFails FragCreates OutTransmits";
const ICMP: &str = "InMsgs InErrors InCsumErrors InDestUnreachs InTimeExcds InParmProbs InSrcQuenchs InRedirects InEchos InEchoReps \
    InTimestamps InTimestampReps InAddrMasks InAddrMaskReps OutMsgs OutErrors OutRateLimitGlobal OutRateLimitHost OutDestUnreachs \
    OutTimeExcds OutParmProbs OutSrcQuenchs OutRedirects OutEchos OutEchoReps OutTimestamps OutTimestampReps OutAddrMasks \
    OutAddrMaskReps";
const TCP: &str = "RtoAlgorithm RtoMin RtoMax MaxConn ActiveOpens PassiveOpens AttemptFails EstabResets CurrEstab InSegs OutSegs \
    RetransSegs InErrs OutRsts InCsumErrors";
const UDP: &str =
    "InDatagrams NoPorts InErrors OutDatagrams RcvbufErrors SndbufErrors InCsumErrors IgnoredMulti MemErrors";
const TCP_EXT: &str = "SyncookiesSent SyncookiesRecv SyncookiesFailed EmbryonicRsts PruneCalled RcvPruned OfoPruned OutOfWindowIcmps LockDroppedIcmps \
    ArpFilter TW TWRecycled TWKilled PAWSActive PAWSEstab BeyondWindow TSEcrRejected PAWSOldAck PAWSTimewait DelayedACKs \
    DelayedACKLocked DelayedACKLost ListenOverflows ListenDrops TCPHPHits TCPPureAcks TCPHPAcks TCPRenoRecovery TCPSackRecovery \
    TCPSACKReneging TCPSACKReorder TCPRenoReorder TCPTSReorder TCPFullUndo TCPPartialUndo TCPDSACKUndo TCPLossUndo TCPLostRetransmit \
    TCPRenoFailures TCPSackFailures TCPLossFailures TCPFastRetrans TCPSlowStartRetrans TCPTimeouts TCPLossProbes TCPLossProbeRecovery \
    TCPRenoRecoveryFail TCPSackRecoveryFail TCPRcvCollapsed TCPBacklogCoalesce TCPDSACKOldSent TCPDSACKOfoSent TCPDSACKRecv \
    TCPDSACKOfoRecv TCPAbortOnData TCPAbortOnClose TCPAbortOnMemory TCPAbortOnTimeout TCPAbortOnLinger TCPAbortFailed \
    TCPMemoryPressures TCPMemoryPressuresChrono TCPSACKDiscard TCPDSACKIgnoredOld TCPDSACKIgnoredNoUndo TCPSpuriousRTOs TCPMD5NotFound \
    TCPMD5Unexpected TCPMD5Failure TCPSackShifted TCPSackMerged TCPSackShiftFallback TCPBacklogDrop PFMemallocDrop TCPMinTTLDrop \
    TCPDeferAcceptDrop IPReversePathFilter TCPTimeWaitOverflow TCPReqQFullDoCookies TCPReqQFullDrop TCPRetransFail TCPRcvCoalesce \
    TCPOFOQueue TCPOFODrop TCPOFOMerge TCPChallengeACK TCPSYNChallenge TCPFastOpenActive TCPFastOpenActiveFail TCPFastOpenPassive \
    TCPFastOpenPassiveFail TCPFastOpenListenOverflow TCPFastOpenCookieReqd TCPFastOpenBlackhole TCPSpuriousRtxHostQueues \
    BusyPollRxPackets TCPAutoCorking TCPFromZeroWindowAdv TCPToZeroWindowAdv TCPWantZeroWindowAdv TCPSynRetrans TCPOrigDataSent \
    TCPHystartTrainDetect TCPHystartTrainCwnd TCPHystartDelayDetect TCPHystartDelayCwnd TCPACKSkippedSynRecv TCPACKSkippedPAWS \
    TCPACKSkippedSeq TCPACKSkippedFinWait2 TCPACKSkippedTimeWait TCPACKSkippedChallenge TCPWinProbe TCPKeepAlive TCPMTUPFail \
    TCPMTUPSuccess TCPDelivered TCPDeliveredCE TCPAckCompressed TCPZeroWindowDrop TCPRcvQDrop TCPWqueueTooBig TCPFastOpenPassiveAltKey \
    TcpTimeoutRehash TcpDuplicateDataRehash TCPDSACKRecvSegs TCPDSACKIgnoredDubious TCPMigrateReqSuccess TCPMigrateReqFailure \
    TCPPLBRehash TCPAORequired TCPAOBad TCPAOKeyNotFound TCPAOGood TCPAODroppedIcmps";
const IP_EXT: &str = "InNoRoutes InTruncatedPkts InMcastPkts OutMcastPkts InBcastPkts OutBcastPkts InOctets OutOctets InMcastOctets OutMcastOctets \
    InBcastOctets OutBcastOctets InCsumErrors InNoECTPkts InECT1Pkts InECT0Pkts InCEPkts ReasmOverlaps";
const IP6: &str = "InReceives InHdrErrors InTooBigErrors InNoRoutes InAddrErrors InUnknownProtos InTruncatedPkts InDiscards InDelivers \
    OutForwDatagrams OutRequests OutDiscards OutNoRoutes ReasmTimeout ReasmReqds ReasmOKs ReasmFails FragOKs FragFails FragCreates \
    InMcastPkts OutMcastPkts InOctets OutOctets InMcastOctets OutMcastOctets InBcastOctets OutBcastOctets InNoECTPkts InECT1Pkts \
    InECT0Pkts InCEPkts OutTransmits";
const ICMP6: &str = "InMsgs InErrors OutMsgs OutErrors InCsumErrors OutRateLimitHost InDestUnreachs InPktTooBigs InTimeExcds \
    InParmProblems InEchos InEchoReplies InGroupMembQueries InGroupMembResponses InGroupMembReductions InRouterSolicits \
    InRouterAdvertisements InNeighborSolicits InNeighborAdvertisements InRedirects InMLDv2Reports OutDestUnreachs OutPktTooBigs \
    OutTimeExcds OutParmProblems OutEchos OutEchoReplies OutGroupMembQueries OutGroupMembResponses OutGroupMembReductions \
    OutRouterSolicits OutRouterAdvertisements OutNeighborSolicits OutNeighborAdvertisements OutRedirects OutMLDv2Reports";

/// Types of ICMP by the names they have behind `In` and `Out`.
const ICMP_TYPES: &[(&str, u8)] = &[
    ("DestUnreachs", 3),
    ("TimeExcds", 11),
    ("ParmProbs", 12),
    ("SrcQuenchs", 4),
    ("Redirects", 5),
    ("Echos", 8),
    ("EchoReps", 0),
    ("Timestamps", 13),
    ("TimestampReps", 14),
    ("AddrMasks", 17),
    ("AddrMaskReps", 18),
];
const ICMP6_TYPES: &[(&str, u8)] = &[
    ("DestUnreachs", 1),
    ("PktTooBigs", 2),
    ("TimeExcds", 3),
    ("ParmProblems", 4),
    ("Echos", 128),
    ("EchoReplies", 129),
    ("GroupMembQueries", 130),
    ("GroupMembResponses", 131),
    ("GroupMembReductions", 132),
    ("RouterSolicits", 133),
    ("RouterAdvertisements", 134),
    ("NeighborSolicits", 135),
    ("NeighborAdvertisements", 136),
    ("Redirects", 137),
    ("MLDv2Reports", 143),
];

/// A line of names and one of their numbers.
fn group(out: &mut String, title: &str, names: &str, value: impl Fn(&str) -> i64) {
    let _ = writeln!(out, "{title}: {names}");
    let _ = write!(out, "{title}:");
    for name in names.split(' ') {
        let _ = write!(out, " {}", value(name));
    }
    out.push('\n');
}

/// A line for each name.
fn column(out: &mut String, title: &str, names: &str, value: impl Fn(&str) -> i64) {
    for name in names.split(' ') {
        let _ = writeln!(out, "{:<32}\t{}", format!("{title}{name}"), value(name));
    }
}

/// What is sent is received and delivered.
fn ip(namespace: &Namespace, v6: bool, name: &str) -> i64 {
    let traffic = || namespace.traffic()[usize::from(v6)];
    match name {
        "Forwarding" => 2 - i64::from(namespace.settings.get(sysctl::FORWARD) != 0),
        "DefaultTTL" => namespace.settings.get(sysctl::DEFAULT_TTL).into(),
        "InReceives" | "InDelivers" | "OutRequests" | "OutTransmits" | "InNoECTPkts" => traffic().packets as i64,
        "InOctets" | "OutOctets" => traffic().bytes as i64,
        "InUnknownProtos" if !v6 => namespace.counters.unknown_protocols.load(Relaxed) as i64,
        _ => 0,
    }
}

fn icmp(namespace: &Namespace, v6: bool, name: &str) -> i64 {
    let (types, counters) = (if v6 { ICMP6_TYPES } else { ICMP_TYPES }, &namespace.counters);
    let of = |what: &str| match what {
        "Msgs" => counters.all_icmp(v6),
        what => types.iter().find(|(name, _)| *name == what).map_or((0, 0), |(_, kind)| counters.of_icmp(v6, *kind)),
    };
    let count = match (name.strip_prefix("In"), name.strip_prefix("Out")) {
        (Some(what), _) => of(what).0,
        (_, Some(what)) => of(what).1,
        _ => 0,
    };
    count as i64
}

fn tcp(namespace: &Namespace, name: &str) -> i64 {
    let count = |what| namespace.counters.of_tcp(what) as i64;
    match name {
        "RtoAlgorithm" => 1,
        "RtoMin" => 200,
        "RtoMax" => 120_000,
        "MaxConn" => -1,
        "ActiveOpens" => count(Tcp::ActiveOpens),
        "PassiveOpens" => count(Tcp::PassiveOpens),
        "AttemptFails" => count(Tcp::AttemptFails),
        "EstabResets" => count(Tcp::EstabResets),
        "CurrEstab" => established(namespace),
        "InSegs" | "OutSegs" => namespace.segments() as i64,
        "OutRsts" => count(Tcp::OutRsts),
        _ => 0,
    }
}

/// Looked at a few at a time: there may be many, and little memory.
fn established(namespace: &Namespace) -> i64 {
    let is_open = |state| matches!(state, state_number::ESTABLISHED | state_number::CLOSE_WAIT);
    let (mut count, mut after) = (0, None);
    loop {
        let (sockets, last) = namespace.tcp.lock().some_after::<16>(after);
        if last.is_none() {
            return count;
        }
        count += sockets.iter().flatten().filter(|socket| is_open(socket.state_number())).count() as i64;
        after = last;
    }
}

fn udp(namespace: &Namespace, kind: (bool, bool), name: &str) -> i64 {
    let what = match name {
        "InDatagrams" => Udp::In,
        "NoPorts" => Udp::NoPorts,
        "OutDatagrams" => Udp::Out,
        "InErrors" | "RcvbufErrors" => Udp::Overflows,
        _ => return 0,
    };
    namespace.counters.of_udp(kind, what) as i64
}

fn tcp_ext(namespace: &Namespace, name: &str) -> i64 {
    let what = match name {
        "ListenOverflows" | "ListenDrops" => Tcp::ListenOverflows,
        "TCPAbortOnData" => Tcp::AbortOnData,
        "TCPAbortOnClose" => Tcp::AbortOnClose,
        "TCPAbortOnTimeout" => Tcp::AbortOnTimeout,
        "TCPKeepAlive" => Tcp::KeepAlives,
        _ => return 0,
    };
    namespace.counters.of_tcp(what) as i64
}

/// `/proc/net/snmp`.
pub fn snmp(namespace: &Namespace) -> String {
    let mut out = String::new();
    group(&mut out, "Ip", IP, |name| ip(namespace, false, name));
    group(&mut out, "Icmp", ICMP, |name| icmp(namespace, false, name));
    icmp_types(namespace, &mut out);
    group(&mut out, "Tcp", TCP, |name| tcp(namespace, name));
    group(&mut out, "Udp", UDP, |name| udp(namespace, (false, false), name));
    group(&mut out, "UdpLite", UDP, |name| udp(namespace, (true, false), name));
    out
}

/// The types of ICMP that there were.
fn icmp_types(namespace: &Namespace, out: &mut String) {
    let (mut names, mut values) = (String::new(), String::new());
    for (title, of) in [("In", (|both| both.0) as fn((u64, u64)) -> u64), ("Out", |both| both.1)] {
        for kind in 0..=u8::MAX {
            let count = of(namespace.counters.of_icmp(false, kind));
            if count > 0 {
                let _ = (write!(names, " {title}Type{kind}"), write!(values, " {count}"));
            }
        }
    }
    if !names.is_empty() {
        let _ = writeln!(out, "IcmpMsg:{names}\nIcmpMsg:{values}");
    }
}

/// `/proc/net/snmp6`.
pub fn snmp6(namespace: &Namespace) -> String {
    let mut out = String::new();
    column(&mut out, "Ip6", IP6, |name| ip(namespace, true, name));
    column(&mut out, "Icmp6", ICMP6, |name| icmp(namespace, true, name));
    for kind in 0..=u8::MAX {
        let (received, sent) = namespace.counters.of_icmp(true, kind);
        for (title, count) in [("In", received), ("Out", sent)].into_iter().filter(|(_, count)| *count > 0) {
            column(&mut out, "Icmp6", &format!("{title}Type{kind}"), |_| count as i64);
        }
    }
    column(&mut out, "Udp6", UDP, |name| udp(namespace, (false, true), name));
    column(&mut out, "UdpLite6", UDP, |name| udp(namespace, (true, true), name));
    out
}

/// `/proc/net/softnet_stat`: packets by virtual CPU, in all namespaces.
pub fn softnet_stat(_: &Namespace) -> String {
    let mut out = String::new();
    for cpu in 0..umbel_smp::cpu::count() {
        let processed = counters::processed(cpu) as u32;
        // Dropped, squeezed, five that are no more, collisions, steering, limits, backlog; its number; two lengths.
        let _ = writeln!(out, "{processed:08x}{} {cpu:08x} 00000000 00000000", " 00000000".repeat(11));
    }
    out
}

/// `/proc/net/netstat`.
pub fn netstat(namespace: &Namespace) -> String {
    let mut out = String::new();
    group(&mut out, "TcpExt", TCP_EXT, |name| tcp_ext(namespace, name));
    group(&mut out, "IpExt", IP_EXT, |name| ip(namespace, false, name));
    out
}
