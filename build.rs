//! Builds the kernel image and hands it to the machine's code.
//!
//! The image is a binary of the `kernel` crate, linked at a fixed address by a script written from
//! `umbel_abi::machine::layout`. It is built by a nested cargo with its own flags and target directory, so that one plain
//! `cargo build` makes the whole product; the machine embeds it with `include_bytes!`.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, exit};
use umbel_abi::machine::layout;

/// Crates whose sources are in the image.
const CRATES: [&str; 6] = ["abi", "host", "smp", "mm", "gate", "kernel"];

/// What (nearly) every system call runs, as parts of the linker's names: side by side on a few pages. After each lock the first
/// instruction on a page costs the host CPU a walk of two page tables, also where the image lies on huge pages.
const EACH_CALL: [&str; 35] = [
    "3run9task_main17h",
    "3run11system_call17h",
    "3run11traced_call17h",
    "3run10count_call17h",
    "3run12exit_to_user17h",
    "7context10enter_user17h",
    "7context11UserContext",
    "4view8activate17h",
    "4view11enter_guest17h",
    "4view7watched17h",
    "3cpu16serve_interrupts17h",
    "5place13program_timer17h",
    "5place4tick17h",
    "5timer3run17h",
    "5timer11run_expired17h",
    "4rseq6update17h",
    "5sigio7deliver17h",
    "7syscall8dispatch17h",
    "5plain7publish17h",
    "6scarce7refuses17h",
    "4heap6scarce17h",
    "4heap9overdrawn17h",
    "5frame5usage17h",
    "7fdtable7FdTable3get17h",
    "7fdtable7FdTable5close17h",
    "4user15copy_in_partial17h",
    "4user16copy_out_partial17h",
    "5typed9read_cstr17h",
    "6GlobalAlloc$GT$5alloc17h",
    "6GlobalAlloc$GT$7dealloc17h",
    "6dentry6Dentry6cached17h",
    "4walk4Walk6parent17h",
    "4walk4Walk6finish17h",
    "5clock7refresh17h",
    "5Space8activate17h",
];

/// Settings of the outer cargo that must not reach the inner one.
const LEAKING: [&str; 9] = [
    "CARGO_ENCODED_RUSTFLAGS",
    "RUSTFLAGS",
    "RUSTC_WRAPPER",
    "RUSTC_WORKSPACE_WRAPPER",
    "CARGO_BUILD_RUSTFLAGS",
    "CARGO_BUILD_TARGET",
    "CARGO_TARGET_DIR",
    "CLIPPY_ARGS",
    "CARGO_PRIMARY_PACKAGE",
];

fn main() {
    let root = PathBuf::from(var("CARGO_MANIFEST_DIR"));
    let out = PathBuf::from(var("OUT_DIR"));
    for name in CRATES {
        println!("cargo::rerun-if-changed={name}/src");
        println!("cargo::rerun-if-changed={name}/Cargo.toml");
    }
    for name in ["build.rs", "Cargo.toml", "Cargo.lock"] {
        println!("cargo::rerun-if-changed={name}");
    }
    println!("cargo::rerun-if-env-changed=UMBEL_SKIP_IMAGE");
    let image = match env::var_os("UMBEL_SKIP_IMAGE") {
        Some(_) => empty_image(&out),
        None => build_image(&root, &out),
    };
    println!("cargo::rustc-env=UMBEL_IMAGE={}", image.display());
    println!("cargo::rustc-env=UMBEL_TARGET={}", var("TARGET"));
}

/// For checks of the machine alone: compiles, runs nothing.
fn empty_image(out: &Path) -> PathBuf {
    let path = out.join("empty-image");
    write(&path, "");
    path
}

fn build_image(root: &Path, out: &Path) -> PathBuf {
    let script = out.join("image.ld");
    write(&script, &linker_script());
    let profile = match var("PROFILE").as_str() {
        "debug" => "image-debug",
        _ => "image",
    };
    let target = var("TARGET");
    let target_dir = out.join("image");
    let mut cargo = Command::new(var("CARGO"));
    for name in LEAKING {
        cargo.env_remove(name);
    }
    let status = cargo
        .current_dir(root)
        .args(["build", "-q", "-p", "umbel-kernel", "--bin", "umbel-kernel"])
        .args(["--features", "image", "--profile", profile])
        .args(["--target", &target])
        .arg("--target-dir")
        .arg(&target_dir)
        .env("CARGO_ENCODED_RUSTFLAGS", flags(&script).join("\x1f"))
        .status();
    match status {
        Ok(status) if status.success() => {}
        Ok(status) => fail(&format!("building the kernel image: {status}")),
        Err(error) => fail(&format!("running cargo for the kernel image: {error}")),
    }
    target_dir.join(target).join(profile).join("umbel-kernel")
}

/// The image is position-independent code (it lies above 2 GiB) linked at a fixed address: no relocation at load.
fn flags(script: &Path) -> Vec<String> {
    let mut flags = Vec::new();
    for option in [
        "relocation-model=pic",
        "panic=abort",
        "no-redzone=yes",
        "force-frame-pointers=yes",
        "link-arg=-nostartfiles",
        "link-arg=-static",
        "link-arg=-no-pie",
        "link-arg=-Wl,--build-id=none",
        "link-arg=-Wl,-z,norelro",
    ] {
        flags.extend(["-C".to_owned(), option.to_owned()]);
    }
    flags.extend(["-C".to_owned(), format!("link-arg=-Wl,-T,{}", script.display())]);
    flags
}

/// Where everything lies, as symbols that assembly addresses relative to the instruction pointer.
fn linker_script() -> String {
    let symbols = [
        ("slot_page", layout::SLOT_PAGE),
        ("entry_page", layout::ENTRY_PAGE),
        ("signal_stack", layout::SIGNAL_STACK),
        ("signal_stack_end", layout::SIGNAL_STACK + layout::SIGNAL_STACK_LEN),
        ("guest_vdso", layout::GUEST_VDSO),
        ("window", layout::WINDOW),
        ("hot_base", layout::HOT_BASE),
        ("cold_base", layout::COLD_BASE),
        ("control", layout::HOT_BASE + layout::CONTROL_OFF),
    ];
    let mut script = String::from(
        "ENTRY(image_entry)\n\
         PHDRS { text PT_LOAD FLAGS(5); rodata PT_LOAD FLAGS(4); data PT_LOAD FLAGS(6); }\n",
    );
    for (name, value) in symbols {
        script += &format!("{name} = {value:#x};\n");
    }
    let each_call: String = EACH_CALL.iter().map(|name| format!("*(.text.*{name}*) ")).collect();
    script += &format!(
        "SECTIONS {{
  . = {image:#x};
  __image_start = .;
  .gate : {{ __gate_start = .; KEEP(*(.gate .gate.*)) . = ALIGN({page}); . = MAX(., __gate_start + {page}); __gate_end = .; }} :text =0xcccccccc
  .text : {{ __text_start = .; *(.text .text.mem*) {each_call}*(.text.*) __text_end = .; }} :text =0xcccccccc
  . = ALIGN({huge});
  .rodata : {{ *(.rodata .rodata.* .lrodata .lrodata.*) }} :rodata
  .data.rel.ro : {{ *(.data.rel.ro .data.rel.ro.*) }} :rodata
  .got : {{ *(.got .got.plt) }} :rodata
  .fixup_table : {{ . = ALIGN(8); __fixup_start = .; KEEP(*(.fixup_table .fixup_table.*)) __fixup_end = .; }} :rodata
  . = ALIGN({page});
  __image_end = .;
  ASSERT(__image_end - __image_start <= {max:#x}, \"the image is too large\")
  . = {hot:#x};
  .data : {{ __data_start = .; *(.data .data.*) }} :data
  .bss : {{ *(.bss .bss.* COMMON) . = ALIGN({page}); __data_end = .; }} :data
  ASSERT(__data_end - __data_start <= {statics:#x}, \"the statics are too large\")
  .tdata : {{ *(.tdata .tdata.*) }} :data
  .tbss : {{ *(.tbss .tbss.*) }} :data
  ASSERT(SIZEOF(.tdata) == 0 && SIZEOF(.tbss) == 0, \"the image has no thread-local storage\")
  /DISCARD/ : {{ *(.eh_frame .eh_frame_hdr .gcc_except_table .gcc_except_table.* .comment .note .note.*) }}
}}
",
        image = layout::IMAGE_BASE,
        page = layout::PAGE,
        huge = layout::HUGE,
        max = layout::IMAGE_MAX,
        hot = layout::HOT_BASE,
        statics = layout::STATICS_LEN,
    );
    script
}

fn var(name: &str) -> String {
    match env::var(name) {
        Ok(value) => value,
        Err(_) => fail(&format!("cargo did not set {name}")),
    }
}

fn write(path: &Path, text: &str) {
    if let Err(error) = std::fs::write(path, text) {
        fail(&format!("writing {}: {error}", path.display()));
    }
}

fn fail(message: &str) -> ! {
    println!("cargo::error={message}");
    exit(1)
}
