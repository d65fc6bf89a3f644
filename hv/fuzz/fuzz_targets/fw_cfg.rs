#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| hv_fuzz::run("fw_cfg", data));
