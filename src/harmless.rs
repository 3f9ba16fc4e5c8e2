//! Makes foreign text safe to show.
//!
//! Names, values and answers may contain control sequences. On a terminal these can set the title,
//! clear the screen, or hide earlier output. Foreign text may also be very long.

use std::borrow::Cow;

/// What stands for a character that is not shown.
const REPLACEMENT: &str = "\u{fffd}";
/// What stands for the middle of a text that is too long.
const ELLIPSIS: &str = " ... ";

/// `text` with a replacement character for every control character but tab and line feed.
pub fn text(text: &str) -> Cow<'_, str> {
    replaced(text, |character| !matches!(character, '\n' | '\t'))
}

/// `text` on one line, such as a name: no control character is left.
pub fn line(text: &str) -> Cow<'_, str> {
    replaced(text, |_| true)
}

fn replaced(text: &str, is_replaced: fn(char) -> bool) -> Cow<'_, str> {
    let is_harmful = |character: char| character.is_control() && is_replaced(character);
    match text.contains(is_harmful) {
        true => Cow::Owned(text.replace(is_harmful, REPLACEMENT)),
        false => Cow::Borrowed(text),
    }
}

/// `text` in about `most` bytes, the middle left out where it is longer.
pub fn shortened(text: &str, most: usize) -> Cow<'_, str> {
    if text.len() <= most {
        return Cow::Borrowed(text);
    }
    // The end of a message says what to do.
    let n_tail = most / 3;
    let head = &text[..text.floor_char_boundary(most - n_tail)];
    let tail = &text[text.ceil_char_boundary(text.len() - n_tail)..];
    Cow::Owned([head, ELLIPSIS, tail].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_control_character_is_left_but_those_of_layout() {
        for code in 0..=0x100 {
            let character = char::from_u32(code).unwrap();
            let foreign = format!("a{character}b");
            let (shown, name) = (text(&foreign), line(&foreign));
            let layout = matches!(character, '\n' | '\t');
            assert_eq!(shown.contains(char::is_control), layout, "{code:#x}");
            assert!(!name.contains(char::is_control), "{code:#x}");
            assert_eq!(name == foreign, !character.is_control(), "{code:#x}");
        }
        assert!(matches!(text("plain\ntext"), Cow::Borrowed(_)));
    }

    #[test]
    fn long_texts_keep_both_ends() {
        let long = format!("begin{}end", "é".repeat(1000));
        for most in 20..60 {
            let short = shortened(&long, most);
            assert!(short.len() <= most + ELLIPSIS.len(), "{short}");
            assert!(
                short.starts_with("begin") && short.ends_with("end"),
                "{short}"
            );
        }
        assert_eq!(shortened("short", 5), "short");
        assert_eq!(shortened("ééé", 0), ELLIPSIS);
    }
}
