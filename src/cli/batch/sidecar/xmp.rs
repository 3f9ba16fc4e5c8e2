//! Descriptions and keywords in XMP files (ISO 16684-1), added to the entries of other programs.
//!
//! An existing file is not rewritten: new entries are inserted between its bytes. A hash of the
//! description marks what owl2 wrote. A later answer replaces only a description with that mark.

mod read;

use std::ops::Range;

use quick_xml::escape::escape;
use sha2::{Digest, Sha256};

use super::SidecarText;
use crate::error::Result;
use read::{Found, Property};

const RDF: &str = "http://www.w3.org/1999/02/22-rdf-syntax-ns#";
const DC: &str = "http://purl.org/dc/elements/1.1/";
/// Where the note is.
const OWN: &str = "urn:owl2:sidecar:1#";

/// A new sidecar.
pub const EMPTY: &str = r#"<?xml version="1.0" encoding="UTF-8"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/" x:xmptk="owl2">
 <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
 </rdf:RDF>
</x:xmpmeta>
"#;

/// A sidecar with words in it.
#[derive(Debug, Default)]
pub struct Merged {
    /// Its new text, if that is another one.
    pub text: Option<String>,
    /// What others wrote that stands in the place of some words.
    pub left: Option<&'static str>,
}

/// What some programs put before a text. The parser passes over it, and counts from behind it.
const BYTE_ORDER_MARK: char = '\u{feff}';

/// Adds words to an XMP document.
///
/// # Errors
/// [`Kind::Input`](crate::Kind::Input) for what is no XMP.
pub fn merge(old: &str, words: &SidecarText) -> Result<Merged> {
    let text = old.trim_start_matches(BYTE_ORDER_MARK);
    let mark = &old[..old.len() - text.len()];
    let merged = merge_text(text, words)?;
    if let Some(new) = &merged.text {
        // Whatever went wrong, a document of others is not to be lost by it.
        read::read(new)?;
    }
    Ok(Merged {
        text: merged.text.map(|new| format!("{mark}{new}")),
        ..merged
    })
}

/// The same for a document without a byte order mark.
fn merge_text(old: &str, words: &SidecarText) -> Result<Merged> {
    let found = read::read(old)?;
    let mut edits = Edits(Vec::new());
    let mut left = Vec::new();
    let description = cleaned(&words.description);
    let mut keywords: Vec<String> = Vec::new();
    for keyword in words.keywords.iter().map(|keyword| cleaned(keyword)) {
        if !keyword.is_empty() && !keywords.contains(&keyword) {
            keywords.push(keyword);
        }
    }
    let mut new_properties = String::new();
    let mut has_described = false;
    if !description.is_empty() {
        match &found.description {
            None => {
                new_properties += &format!("   {}\n", description_element(&description));
                has_described = true;
            }
            Some(there) if there.text() == description => {}
            Some(there) if is_replaceable(there, &found) => {
                edits.replace(there.span.clone(), description_element(&description));
                has_described = true;
            }
            Some(_) => left.push("another description"),
        }
    }
    if !keywords.is_empty() {
        match &found.subject {
            None => new_properties += &format!("   {}\n", subject_element(&keywords)),
            Some(there) if there.is_empty() => {
                edits.replace(there.span.clone(), subject_element(&keywords));
            }
            Some(there) => match &there.last_item {
                Some(last) => {
                    keywords.retain(|keyword| !there.items.contains(keyword));
                    let items = keywords
                        .iter()
                        .map(|keyword| last.another(&escape(keyword)));
                    edits.replace(last.end..last.end, items.collect());
                }
                None => left.push("a dc:subject that is no list"),
            },
        }
    }
    let mut new_note = String::new();
    if has_described {
        let note = note_of(&description);
        match &found.note {
            Some((span, _)) => edits.replace(span.clone(), note),
            None => new_note = format!(" xmlns:owl2=\"{OWN}\" owl2:description=\"{note}\""),
        }
    }
    if !new_properties.is_empty() || !new_note.is_empty() {
        let about = escape(&found.about);
        let block = format!(
            " <rdf:Description xmlns:rdf=\"{RDF}\" rdf:about=\"{about}\"{new_note}>\n\
             {new_properties}  </rdf:Description>\n "
        );
        edits.replace(found.end..found.end, block);
    }
    Ok(Merged {
        text: edits.apply(old),
        left: match left.as_slice() {
            [] => None,
            ["another description"] => {
                Some("has another description already, which was left as it is")
            }
            [_] => Some("has keywords that are no list, which were left as they are"),
            _ => Some(
                "has another description, and keywords that are no list, which were left as they are",
            ),
        },
    })
}

/// Whether a description is empty, or was written here.
fn is_replaceable(there: &Property, found: &Found) -> bool {
    let is_own = |text: &str| {
        let note = found.note.as_ref();
        note.is_some_and(|(_, note)| note.trim() == note_of(text))
    };
    there.is_empty() || (there.items.len() == 1 && is_own(there.text()))
}

fn note_of(description: &str) -> String {
    let digest: [u8; 32] = Sha256::digest(description.as_bytes()).into();
    digest[..8]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// A text without what XML cannot hold, and without space around it.
fn cleaned(text: &str) -> String {
    let is_kept = |&c: &char| !matches!(c, '\0'..='\x08' | '\x0b' | '\x0c' | '\x0e'..='\x1f' | '\u{fffe}' | '\u{ffff}');
    let text: String = text.chars().filter(is_kept).collect();
    // A parser makes a line feed of each.
    text.replace("\r\n", "\n")
        .replace('\r', "\n")
        .trim()
        .to_owned()
}

fn description_element(text: &str) -> String {
    format!(
        "<dc:description xmlns:dc=\"{DC}\" xmlns:rdf=\"{RDF}\"><rdf:Alt><rdf:li \
         xml:lang=\"x-default\">{}</rdf:li></rdf:Alt></dc:description>",
        escape(text)
    )
}

fn subject_element(keywords: &[String]) -> String {
    let items = keywords
        .iter()
        .map(|keyword| format!("<rdf:li>{}</rdf:li>", escape(keyword)));
    format!(
        "<dc:subject xmlns:dc=\"{DC}\" xmlns:rdf=\"{RDF}\"><rdf:Bag>{}</rdf:Bag></dc:subject>",
        items.collect::<String>()
    )
}

/// Pieces of a text that become others; they do not overlap.
struct Edits(Vec<(Range<usize>, String)>);

impl Edits {
    fn replace(&mut self, span: Range<usize>, by: String) {
        if !by.is_empty() || !span.is_empty() {
            self.0.push((span, by));
        }
    }

    /// The new text, if there is anything to be changed.
    fn apply(mut self, old: &str) -> Option<String> {
        if self.0.is_empty() {
            return None;
        }
        self.0.sort_by_key(|(span, _)| span.start);
        let (mut new, mut end) = (String::new(), 0);
        for (span, by) in self.0 {
            new += &old[end..span.start];
            new += &by;
            end = span.end;
        }
        Some(new + &old[end..])
    }
}

#[cfg(test)]
mod tests;
