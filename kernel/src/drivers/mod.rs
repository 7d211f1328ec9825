//! Device drivers: the kernel side of the machine's devices.
