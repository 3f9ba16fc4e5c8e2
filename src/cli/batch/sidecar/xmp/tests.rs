use proptest::prelude::*;

use super::*;

/// As darktable and digiKam write it, by Exiv2.
const EXIV2: &str = r#"<?xml version="1.0" encoding="UTF-8"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/" x:xmptk="XMP Core 4.4.0-Exiv2">
 <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
  <rdf:Description rdf:about=""
    xmlns:xmp="http://ns.adobe.com/xap/1.0/"
    xmlns:dc="http://purl.org/dc/elements/1.1/"
    xmlns:darktable="http://darktable.sf.net/"
   xmp:Rating="4">
   <darktable:history>
    <rdf:Seq>
     <rdf:li darktable:num="0" darktable:operation="flip"/>
    </rdf:Seq>
   </darktable:history>
   <dc:subject>
    <rdf:Bag>
     <rdf:li>Tom &amp; Jerry</rdf:li>
     <rdf:li>cat</rdf:li>
    </rdf:Bag>
   </dc:subject>
  </rdf:Description>
 </rdf:RDF>
</x:xmpmeta>
"#;

/// As Adobe's programs write it: in attributes, with a note of whom it is about.
const ADOBE: &str = r#"<?xpacket begin="" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/"><r:RDF xmlns:r='http://www.w3.org/1999/02/22-rdf-syntax-ns#'>
<r:Description r:about="uuid:a&amp;b" xmlns:crs="http://ns.adobe.com/camera-raw-settings/1.0/" crs:Exposure="+0.5"/>
</r:RDF></x:xmpmeta>
<?xpacket end="w"?>"#;

fn words(description: &str, keywords: &[&str]) -> SidecarText {
    SidecarText {
        description: description.to_owned(),
        keywords: keywords.iter().map(|&keyword| keyword.to_owned()).collect(),
    }
}

#[track_caller]
fn merged(old: &str, words: &SidecarText) -> String {
    let merged = merge(old, words).unwrap();
    assert_eq!(merged.left, None);
    merged.text.unwrap()
}

fn texts(document: &str) -> (String, Vec<String>) {
    let found = read::read(document).unwrap();
    let description = found.description.map(|there| there.text().to_owned());
    let keywords = found.subject.map(|there| there.items);
    (
        description.unwrap_or_default(),
        keywords.unwrap_or_default(),
    )
}

/// Programs of Windows put a byte order mark before a text. It stays, and changes nothing else.
#[test]
fn a_byte_order_mark_shifts_nothing() {
    for document in [EXIV2, ADOBE, EMPTY] {
        for mark in ["\u{feff}", "\u{feff}\u{feff}"] {
            let marked = format!("{mark}{document}");
            let mut wanted = document.to_owned();
            let mut got = marked;
            // Once into a document of others, then in the place of what was written here.
            for words in [words("A cat.", &["animal"]), words("A dog.", &["dog"])] {
                wanted = merged(&wanted, &words);
                got = merged(&got, &words);
                assert_eq!(got, format!("{mark}{wanted}"));
                assert_eq!(merge(&got, &words).unwrap().text, None);
            }
        }
    }
}

/// Whether all of `old` is still there, in its order.
fn is_kept(old: &str, new: &str) -> bool {
    let mut new = new.chars();
    old.chars().all(|c| new.any(|other| other == c))
}

#[test]
fn words_are_added_to_what_others_wrote() {
    for (old, before) in [
        (EMPTY, &[][..]),
        (EXIV2, &["Tom & Jerry", "cat"]),
        (ADOBE, &[]),
    ] {
        let new = merged(old, &words("A <cat>.", &["cat", "sofa", "cat", ""]));
        assert!(is_kept(old, &new), "{new}");
        let mut wanted = before.to_vec();
        wanted.extend(["cat", "sofa"].iter().filter(|word| !before.contains(word)));
        let (description, keywords) = texts(&new);
        assert_eq!(description, "A <cat>.");
        assert_eq!(keywords, wanted);
        assert_eq!(
            merge(&new, &words("A <cat>.", &["sofa"])).unwrap().text,
            None
        );
    }
    let new = merged(ADOBE, &words("x", &[]));
    assert!(new.contains("rdf:about=\"uuid:a&amp;b\""), "{new}");
}

#[test]
fn a_later_answer_replaces_an_earlier_one_but_nobody_else_s() {
    let first = merged(EXIV2, &words("first", &[]));
    let second = merged(&first, &words("second", &[]));
    assert_eq!(texts(&second).0, "second");
    assert_eq!(merged(&second, &words("first", &[])), first);
    let corrected = second.replace("second", "corrected by hand");
    let left = merge(&corrected, &words("third", &["new"])).unwrap();
    assert_eq!(texts(left.text.as_deref().unwrap()).0, "corrected by hand");
    assert!(left.left.unwrap().contains("description"));
    let translated = second.replace("</rdf:Alt>", "<rdf:li xml:lang=\"de\">x</rdf:li></rdf:Alt>");
    assert!(
        merge(&translated, &words("third", &[]))
            .unwrap()
            .left
            .is_some()
    );
}

/// Exiv2 and Adobe's programs write the whole document anew, and put our part into theirs.
#[test]
fn the_note_is_found_as_attribute_and_as_element() {
    let note = note_of("old");
    let description = "<dc:description><rdf:Alt><rdf:li>old</rdf:li></rdf:Alt></dc:description>";
    let own = format!("xmlns:o='{OWN}' o:description='{note}'");
    let element = format!("<o:description xmlns:o=\"{OWN}\">{note}</o:description>");
    for (attribute, element) in [(own.as_str(), ""), ("", element.as_str())] {
        let document = EXIV2.replace("xmp:Rating=\"4\"", attribute).replace(
            "   <dc:subject>",
            &format!("{element}{description}<dc:subject>"),
        );
        let new = merged(&document, &words("new", &[]));
        assert_eq!(texts(&new).0, "new");
        assert!(new.contains(&note_of("new")) && !new.contains(&note));
    }
}

#[test]
fn empty_places_are_filled_and_odd_ones_left() {
    for (property, is_filled) in [
        ("<dc:description/>", true),
        ("<dc:description><rdf:Alt/></dc:description>", true),
        (
            "<dc:description>\n<rdf:Alt><rdf:li xml:lang='x-default'/></rdf:Alt></dc:description>",
            true,
        ),
        ("<dc:description>plain</dc:description>", false),
        ("<dc:description>plain<rdf:Alt/></dc:description>", false),
        (
            "<dc:description><rdf:Alt><rdf:li><b/></rdf:li></rdf:Alt></dc:description>",
            false,
        ),
    ] {
        let document = EXIV2.replace("   <dc:subject>", &format!("{property}<dc:subject>"));
        let merged = merge(&document, &words("new", &[])).unwrap();
        assert_eq!(merged.left.is_none(), is_filled, "{property}");
        let text = merged.text.unwrap_or(document);
        assert_eq!(texts(&text).0 == "new", is_filled, "{property}: {text}");
    }
    let attribute = EXIV2.replace("xmp:Rating=\"4\"", "dc:description=''");
    assert!(
        merge(&attribute, &words("new", &[]))
            .unwrap()
            .left
            .is_some()
    );
    let plain = EXIV2
        .replace("<rdf:Bag>", "")
        .replace("</rdf:Bag>", "")
        .replace("rdf:li", "b");
    assert!(
        merge(&plain, &words("", &["new"]))
            .unwrap()
            .left
            .unwrap()
            .contains("keywords")
    );
}

#[test]
fn what_is_no_xmp_is_refused() {
    let deep = |n: usize| {
        let (open, close) = ("<a>".repeat(n), "</a>".repeat(n));
        EXIV2.replace("   <dc:subject>", &format!("{open}{close}<dc:subject>"))
    };
    assert!(merge(&deep(50), &words("x", &[])).is_ok());
    let description = "<dc:description/><dc:description/><dc:subject>";
    for (document, reason) in [
        (String::new(), "no rdf:RDF"),
        ("no markup".to_owned(), "no rdf:RDF"),
        ("<html><body/></html>".to_owned(), "no rdf:RDF"),
        (format!("{EXIV2}{EXIV2}"), "several rdf:RDF"),
        (EXIV2.replace("</rdf:RDF>", ""), "expected"),
        (EXIV2.replace("</x:xmpmeta>", ""), "ends in the middle"),
        (deep(100), "deep"),
        (deep(200_000), "deep"),
        (EXIV2.replace("   <dc:subject>", description), "twice"),
        (EXIV2.replace("<dc:subject>", "<dc:subject>&bomb;"), "bomb"),
        (
            EXIV2.replace("<x:xmpmeta", "<!DOCTYPE x [<!ENTITY a \"b\">]><x:xmpmeta"),
            "declares",
        ),
    ] {
        let error = merge(&document, &words("x", &["y"]))
            .unwrap_err()
            .to_string();
        assert!(error.contains(reason), "{reason}: {error}");
        assert!(error.contains("left unchanged"), "{error}");
    }
}

#[test]
fn a_document_that_was_cut_is_refused() {
    let end = EXIV2.find("</x:xmpmeta>").unwrap() + "</x:xmpmeta>".len();
    for n in 0..end {
        assert!(merge(&EXIV2[..n], &words("x", &["y"])).is_err(), "{n}");
    }
    assert!(merge(&EXIV2[..end], &words("x", &["y"])).is_ok());
}

proptest! {
    #[test]
    fn any_words_are_read_back(description in any::<String>(), keyword in any::<String>()) {
        let words = SidecarText { description, keywords: vec![keyword] };
        for old in [EMPTY, EXIV2, ADOBE] {
            let merged = merge(old, &words).unwrap();
            let new = merged.text.unwrap_or_else(|| old.to_owned());
            prop_assert!(is_kept(old, &new));
            let (description, keywords) = texts(&new);
            prop_assert_eq!(description, cleaned(&words.description));
            let keyword = cleaned(&words.keywords[0]);
            prop_assert!(keyword.is_empty() || keywords.contains(&keyword));
            prop_assert_eq!(merge(&new, &words).unwrap().text, None);
        }
    }

    /// Bytes of others that were damaged are refused or added to, never a panic or a loss.
    #[test]
    fn damage_loses_nothing(at in 0..EXIV2.len(), with in any::<char>(), n in 0usize..40) {
        let mut old = EXIV2.to_owned();
        old.replace_range(at..(at + n).min(EXIV2.len()), &with.to_string());
        if let Ok(merged) = merge(&old, &words("x", &["y"])) {
            let new = merged.text.unwrap_or_else(|| old.clone());
            prop_assert!(is_kept(&old, &new) || read::read(&old).unwrap().description.is_some());
            prop_assert!(read::read(&new).is_ok(), "{}", new);
        }
    }
}
