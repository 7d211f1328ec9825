//! Program loading: ELF, interpreters, scripts, the initial stack.
