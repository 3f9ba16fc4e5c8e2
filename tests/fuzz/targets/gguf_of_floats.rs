#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| owl2_fuzz::gguf_of_floats(data));
