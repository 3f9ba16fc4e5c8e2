#![no_main]

mod caught;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    caught::count();
    owl2_fuzz::serving::server_body(data);
});
