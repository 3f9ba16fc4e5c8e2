#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| owl2_fuzz::tokenizer_json(data));
