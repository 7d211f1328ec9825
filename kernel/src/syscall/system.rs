//! The machine as a whole: uname, sysinfo, random numbers, the scheduler's knobs.

rows! {}
