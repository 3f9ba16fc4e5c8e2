//! What becomes of panics. They are looked at by the whole process, so this is a test of its own.

use owl2::panics::catch;
use owl2::{Error, Kind};

#[test]
fn a_panic_is_an_error_that_says_where() {
    let error = catch::<()>(|| panic!("no\nway")).unwrap_err();
    assert_eq!(error.kind(), Kind::Bug);
    let text = error.to_string();
    assert!(
        text.contains("panics.rs:") && text.ends_with("no way"),
        "{text}"
    );
    let elsewhere = || std::thread::spawn(|| panic!("there")).join();
    let error = catch::<()>(|| elsewhere().map_err(|_| Error::input("caught"))).unwrap_err();
    assert_eq!(error.to_string(), "caught");
    assert_eq!(catch(|| Ok(3)).unwrap(), 3);
}
