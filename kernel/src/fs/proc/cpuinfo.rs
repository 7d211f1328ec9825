//! `/proc/cpuinfo`: one block a virtual CPU, with what the processor says of itself. Source: Linux's
//! arch/x86/kernel/cpu/proc.c and the names of asm/cpufeatures.h.

use alloc::string::String;
use alloc::vec::Vec;
use core::arch::x86_64::{__cpuid, __cpuid_count, CpuidResult};
use core::fmt::Write;

/// Names of feature bits: register value by `pick`, then (bit, name). Bits that the machine does not lend to guests
/// (protection keys, AMX, virtualisation, tracing) are not listed.
struct Group {
    leaf: u32,
    sub: u32,
    pick: fn(&CpuidResult) -> u32,
    names: &'static [(u8, &'static str)],
}

const GROUPS: &[Group] = &[
    Group {
        leaf: 1,
        sub: 0,
        pick: |r| r.edx,
        names: &[
            (0, "fpu"),
            (1, "vme"),
            (2, "de"),
            (3, "pse"),
            (4, "tsc"),
            (5, "msr"),
            (6, "pae"),
            (7, "mce"),
            (8, "cx8"),
            (9, "apic"),
            (11, "sep"),
            (12, "mtrr"),
            (13, "pge"),
            (14, "mca"),
            (15, "cmov"),
            (16, "pat"),
            (17, "pse36"),
            (19, "clflush"),
            (23, "mmx"),
            (24, "fxsr"),
            (25, "sse"),
            (26, "sse2"),
            (27, "ss"),
            (28, "ht"),
        ],
    },
    Group {
        leaf: 0x8000_0001,
        sub: 0,
        pick: |r| r.edx,
        names: &[
            (11, "syscall"),
            (20, "nx"),
            (22, "mmxext"),
            (25, "fxsr_opt"),
            (26, "pdpe1gb"),
            (27, "rdtscp"),
            (29, "lm"),
        ],
    },
    Group { leaf: 0x8000_0007, sub: 0, pick: |r| r.edx, names: &[(8, "constant_tsc"), (8, "nonstop_tsc")] },
    Group {
        leaf: 1,
        sub: 0,
        pick: |r| r.ecx,
        names: &[
            (0, "pni"),
            (1, "pclmulqdq"),
            (9, "ssse3"),
            (12, "fma"),
            (13, "cx16"),
            (19, "sse4_1"),
            (20, "sse4_2"),
            (22, "movbe"),
            (23, "popcnt"),
            (25, "aes"),
            (26, "xsave"),
            (28, "avx"),
            (29, "f16c"),
            (30, "rdrand"),
            (31, "hypervisor"),
        ],
    },
    Group {
        leaf: 0x8000_0001,
        sub: 0,
        pick: |r| r.ecx,
        names: &[
            (0, "lahf_lm"),
            (5, "abm"),
            (6, "sse4a"),
            (7, "misalignsse"),
            (8, "3dnowprefetch"),
            (11, "xop"),
            (16, "fma4"),
            (21, "tbm"),
        ],
    },
    Group {
        leaf: 7,
        sub: 0,
        pick: |r| r.ebx,
        names: &[
            (0, "fsgsbase"),
            (3, "bmi1"),
            (5, "avx2"),
            (8, "bmi2"),
            (9, "erms"),
            (16, "avx512f"),
            (17, "avx512dq"),
            (18, "rdseed"),
            (19, "adx"),
            (21, "avx512ifma"),
            (23, "clflushopt"),
            (24, "clwb"),
            (28, "avx512cd"),
            (29, "sha_ni"),
            (30, "avx512bw"),
            (31, "avx512vl"),
        ],
    },
    Group {
        leaf: 0xd,
        sub: 1,
        pick: |r| r.eax,
        names: &[(0, "xsaveopt"), (1, "xsavec"), (2, "xgetbv1"), (3, "xsaves")],
    },
    Group { leaf: 0x8000_0008, sub: 0, pick: |r| r.ebx, names: &[(0, "clzero"), (2, "xsaveerptr"), (9, "wbnoinvd")] },
    Group {
        leaf: 7,
        sub: 0,
        pick: |r| r.ecx,
        names: &[
            (1, "avx512vbmi"),
            (2, "umip"),
            (6, "avx512_vbmi2"),
            (8, "gfni"),
            (9, "vaes"),
            (10, "vpclmulqdq"),
            (11, "avx512_vnni"),
            (12, "avx512_bitalg"),
            (14, "avx512_vpopcntdq"),
            (22, "rdpid"),
        ],
    },
    Group { leaf: 7, sub: 0, pick: |r| r.edx, names: &[(4, "fsrm"), (8, "avx512_vp2intersect"), (14, "serialize")] },
];

/// Who the processor is.
struct Identity {
    vendor: String,
    name: String,
    family: u32,
    model: u32,
    stepping: u32,
    level: u32,
    physical_bits: u32,
    virtual_bits: u32,
    /// The second level's, as Linux shows for AMD's processors.
    cache_kib: u32,
}

/// The whole file for `cpus` virtual CPUs of a processor that runs at `khz`.
pub fn text(cpus: &[u32], khz: u64) -> Vec<u8> {
    let identity = identity();
    let flags = flags();
    let mut out = String::new();
    for &cpu in cpus {
        // Writing to a string cannot fail.
        let _ = block(&mut out, cpu, cpus.len() as u32, khz, &identity, &flags);
    }
    out.into_bytes()
}

fn block(out: &mut String, cpu: u32, cpus: u32, khz: u64, id: &Identity, flags: &str) -> core::fmt::Result {
    writeln!(out, "processor\t: {cpu}")?;
    writeln!(out, "vendor_id\t: {}", id.vendor)?;
    writeln!(out, "cpu family\t: {}", id.family)?;
    writeln!(out, "model\t\t: {}", id.model)?;
    writeln!(out, "model name\t: {}", id.name)?;
    writeln!(out, "stepping\t: {}", id.stepping)?;
    writeln!(out, "cpu MHz\t\t: {}.{:03}", khz / 1000, khz % 1000)?;
    writeln!(out, "cache size\t: {} KB", id.cache_kib)?;
    writeln!(out, "physical id\t: 0")?;
    writeln!(out, "siblings\t: {cpus}")?;
    writeln!(out, "core id\t\t: {cpu}")?;
    writeln!(out, "cpu cores\t: {cpus}")?;
    writeln!(out, "apicid\t\t: {cpu}")?;
    writeln!(out, "initial apicid\t: {cpu}")?;
    writeln!(out, "fpu\t\t: yes")?;
    writeln!(out, "fpu_exception\t: yes")?;
    writeln!(out, "cpuid level\t: {}", id.level)?;
    writeln!(out, "wp\t\t: yes")?;
    writeln!(out, "flags\t\t: {flags}")?;
    writeln!(out, "bugs\t\t:")?;
    writeln!(out, "bogomips\t: {}.{:02}", khz / 500, khz / 5 % 100)?;
    writeln!(out, "clflush size\t: 64")?;
    writeln!(out, "cache_alignment\t: 64")?;
    writeln!(out, "address sizes\t: {} bits physical, {} bits virtual", id.physical_bits, id.virtual_bits)?;
    writeln!(out, "power management:\n")
}

fn text_of(words: &[u32]) -> String {
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).take_while(|byte| *byte != 0).collect();
    String::from_utf8_lossy(&bytes).trim().into()
}

fn identity() -> Identity {
    let first = __cpuid(0);
    let version = __cpuid(1).eax;
    let (base_family, base_model) = (version >> 8 & 0xf, version >> 4 & 0xf);
    let family = if base_family == 0xf { base_family + (version >> 20 & 0xff) } else { base_family };
    let extended = base_family == 0xf || base_family == 6;
    let model = if extended { base_model | (version >> 16 & 0xf) << 4 } else { base_model };
    let last = __cpuid(0x8000_0000).eax;
    let mut name = String::from("unknown");
    if last >= 0x8000_0004 {
        let words: Vec<u32> =
            (0x8000_0002..=0x8000_0004).map(__cpuid).flat_map(|r| [r.eax, r.ebx, r.ecx, r.edx]).collect();
        name = text_of(&words);
    }
    let sizes = if last >= 0x8000_0008 { __cpuid(0x8000_0008).eax } else { 36 | 48 << 8 };
    Identity {
        vendor: text_of(&[first.ebx, first.edx, first.ecx]),
        name,
        family,
        model,
        stepping: version & 0xf,
        level: first.eax,
        physical_bits: sizes & 0xff,
        virtual_bits: sizes >> 8 & 0xff,
        cache_kib: if last >= 0x8000_0006 { __cpuid(0x8000_0006).ecx >> 16 } else { 0 },
    }
}

fn flags() -> String {
    let (basic, extended) = (__cpuid(0).eax, __cpuid(0x8000_0000).eax);
    let mut out = String::new();
    for group in GROUPS {
        let last = if group.leaf >= 0x8000_0000 { extended } else { basic };
        if group.leaf > last {
            continue;
        }
        let value = (group.pick)(&__cpuid_count(group.leaf, group.sub));
        for (bit, name) in group.names {
            if value >> bit & 1 != 0 {
                if !out.is_empty() {
                    out.push(' ');
                }
                out.push_str(name);
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_a_block_for_each_cpu_as_on_the_host() {
        let ours = String::from_utf8(text(&[0, 1, 2], 2_249_998)).unwrap();
        assert_eq!(ours.matches("processor\t: ").count(), 3);
        assert!(ours.contains("cpu MHz\t\t: 2249.998\n"));
        assert!(ours.contains("bogomips\t: 4499.99\n"));
        let host = std::fs::read_to_string("/proc/cpuinfo").unwrap();
        for field in ["vendor_id\t: ", "cpu family\t: ", "model\t\t: ", "model name\t: ", "stepping\t: "] {
            let line =
                |text: &str| text.lines().find(|line| line.starts_with(field)).map(std::string::ToString::to_string);
            assert_eq!(line(&ours), line(&host), "{field}");
        }
    }

    #[test]
    fn every_flag_is_one_that_the_host_has() {
        let host = std::fs::read_to_string("/proc/cpuinfo").unwrap();
        let line = host.lines().find(|line| line.starts_with("flags\t\t: ")).unwrap();
        let known: Vec<&str> = line.split(' ').collect();
        for flag in flags().split(' ').filter(|flag| !["ss", "msr"].contains(flag)) {
            assert!(known.contains(&flag), "{flag}");
        }
    }
}
