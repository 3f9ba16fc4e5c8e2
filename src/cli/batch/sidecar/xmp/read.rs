//! Where the words are in an XMP document.

use std::ops::Range;

use quick_xml::escape::unescape;
use quick_xml::events::{BytesStart, Event};
use quick_xml::name::{Namespace, QName, ResolveResult};
use quick_xml::{NsReader, XmlVersion};

use super::{DC, OWN, RDF};
use crate::error::{Error, Result};

/// How deep elements may be; darktable's go to some ten.
const MAX_DEPTH: usize = 64;

/// What a document has of the words.
#[derive(Debug, Default)]
pub struct Found {
    /// Where the list of descriptions of resources ends: a new one can stand there.
    pub end: usize,
    /// The resource that is described: usually empty, the picture.
    pub about: String,
    pub description: Option<Property>,
    pub subject: Option<Property>,
    /// The note of what was written here, and where its value is.
    pub note: Option<(Range<usize>, String)>,
}

/// A property with a list of values.
#[derive(Debug, Default)]
pub struct Property {
    /// The whole element.
    pub span: Range<usize>,
    pub items: Vec<String>,
    pub last_item: Option<Item>,
    /// Whether there is a text outside of items, or the property is an attribute.
    is_plain: bool,
}

/// A list's last item.
#[derive(Debug)]
pub struct Item {
    /// The element's name as it is written.
    name: String,
    /// The space before it.
    gap: String,
    /// Where it ends.
    pub end: usize,
}

impl Item {
    /// Another item of the same list, of this escaped text.
    pub fn another(&self, text: &str) -> String {
        let (name, gap) = (&self.name, &self.gap);
        format!("{gap}<{name}>{text}</{name}>")
    }
}

impl Property {
    pub fn is_empty(&self) -> bool {
        !self.is_plain && self.items.iter().all(String::is_empty)
    }

    /// The first value.
    pub fn text(&self) -> &str {
        self.items.first().map_or("", |item| item)
    }
}

/// What an element is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Root,
    Rdf,
    /// A description of a resource.
    Node,
    Property(Which),
    List(Which),
    Item(Which),
    Other,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Which {
    Description,
    Subject,
    Note,
}

/// Reads a whole document.
///
/// # Errors
/// [`Kind::Input`](crate::Kind::Input) where it is no XML without declarations of types, or no XMP.
pub fn read(document: &str) -> Result<Found> {
    let mut reading = Reading {
        document,
        found: Found::default(),
        open: Vec::new(),
        has_rdf: false,
        n_roots: 0,
        text: String::new(),
        space: String::new(),
    };
    let mut reader = NsReader::from_str(document);
    let wrong = |message: String| {
        Error::input(format!(
            "is not XMP that can be extended; left unchanged: {message}"
        ))
    };
    loop {
        let start = reader.buffer_position() as usize;
        let event = reader.read_event().map_err(|e| wrong(e.to_string()))?;
        let end = reader.buffer_position() as usize;
        let resolved = |name: QName| match reader.resolver().resolve_element(name) {
            (ResolveResult::Bound(Namespace(namespace)), local) => {
                Some((namespace.to_owned(), local.as_ref().to_owned()))
            }
            _ => None,
        };
        let taken = match event {
            Event::Start(element) => {
                let name = resolved(element.name());
                reading
                    .attributes(&reader, &element, name.as_ref(), start)
                    .and_then(|()| reading.begin(name.as_ref(), &element, start..end))
            }
            Event::Empty(element) => {
                let name = resolved(element.name());
                reading
                    .attributes(&reader, &element, name.as_ref(), start)
                    .and_then(|()| reading.begin(name.as_ref(), &element, start..end))
                    .and_then(|()| reading.end(end, end, true))
            }
            Event::End(_) => reading.end(start, end, false),
            Event::Text(text) => {
                reading.add(&text.xml_content(XmlVersion::Implicit1_0));
                Ok(())
            }
            Event::CData(text) => {
                reading.add(&text.xml_content(XmlVersion::Implicit1_0));
                Ok(())
            }
            Event::GeneralRef(reference) => unescape(&format!("&{};", &*reference))
                .map(|text| reading.add(&text))
                .map_err(|e| e.to_string()),
            Event::DocType(_) => Err("it declares a type of document".to_owned()),
            Event::Decl(_) | Event::PI(_) | Event::Comment(_) => Ok(()),
            Event::Eof => break,
        };
        taken.map_err(wrong)?;
    }
    if !reading.open.is_empty() {
        return Err(wrong("it ends in the middle".to_owned()));
    }
    if !reading.has_rdf || reading.n_roots != 1 {
        return Err(wrong("it has no rdf:RDF".to_owned()));
    }
    Ok(reading.found)
}

/// An element that has not ended.
struct Open {
    place: Place,
    name: String,
    /// Where its first tag is.
    tag: Range<usize>,
}

struct Reading<'a> {
    document: &'a str,
    found: Found,
    open: Vec<Open>,
    has_rdf: bool,
    n_roots: usize,
    /// The text of an item or property.
    text: String,
    /// The space since the last tag.
    space: String,
}

type Name = (String, String);

impl Reading<'_> {
    fn place(&self) -> Option<Place> {
        self.open.last().map(|open| open.place)
    }

    fn begin(
        &mut self,
        name: Option<&Name>,
        element: &BytesStart,
        tag: Range<usize>,
    ) -> Result<(), String> {
        if self.open.len() == MAX_DEPTH {
            return Err(format!("its elements are more than {MAX_DEPTH} deep"));
        }
        let is_rdf = name.is_some_and(|(namespace, _)| namespace == RDF);
        let local = name.map_or("", |(_, local)| local);
        let place = match (self.place(), local) {
            (None | Some(Place::Root), "RDF") if is_rdf => {
                if self.has_rdf {
                    return Err("it has several rdf:RDF".to_owned());
                }
                self.has_rdf = true;
                Place::Rdf
            }
            (None, _) => Place::Root,
            (Some(Place::Rdf), "Description") if is_rdf => Place::Node,
            (Some(Place::Node), _) => name.and_then(which).map_or(Place::Other, Place::Property),
            (Some(Place::Property(which)), "Alt" | "Bag" | "Seq") if is_rdf => Place::List(which),
            (Some(Place::List(which)), "li") if is_rdf => Place::Item(which),
            _ => Place::Other,
        };
        self.n_roots += usize::from(self.open.is_empty());
        match place {
            Place::Property(which) if self.property(which).is_some() => {
                return Err(format!("it has {local} twice"));
            }
            Place::Property(Which::Description) => {
                self.found.description = Some(Property::default())
            }
            Place::Property(Which::Subject) => self.found.subject = Some(Property::default()),
            Place::Item(which) => {
                let gap = std::mem::take(&mut self.space);
                let item = Item {
                    name: element.name().as_ref().to_owned(),
                    gap: if gap.trim().is_empty() {
                        gap
                    } else {
                        String::new()
                    },
                    end: 0,
                };
                if let Some(property) = self.property(which) {
                    property.last_item = Some(item);
                }
            }
            _ => {}
        }
        // Values that are not simple are none that this knows.
        if (place == Place::Other || !self.text.trim().is_empty())
            && let Some(Place::Item(which) | Place::List(which) | Place::Property(which)) =
                self.place()
            && let Some(property) = self.property(which)
        {
            property.is_plain = true;
        }
        self.text.clear();
        self.space.clear();
        let name = element.name().as_ref().to_owned();
        self.open.push(Open { place, name, tag });
        Ok(())
    }

    /// The end of an element whose end tag is from `start` to `end`.
    fn end(&mut self, start: usize, end: usize, is_empty: bool) -> Result<(), String> {
        let Some(Open { place, name, tag }) = self.open.pop() else {
            return Err("an element ends that did not begin".to_owned());
        };
        let text = std::mem::take(&mut self.text);
        self.space.clear();
        let text = text.trim();
        match place {
            Place::Rdf if is_empty => {
                return Err(format!("its {name} has no end tag"));
            }
            Place::Rdf => self.found.end = start,
            Place::Item(which) => {
                if let Some(property) = self.property(which) {
                    property.items.push(text.to_owned());
                    if let Some(item) = &mut property.last_item {
                        item.end = end;
                    }
                }
            }
            Place::List(which) => {
                if let Some(property) = self.property(which) {
                    property.is_plain |= !text.is_empty();
                }
            }
            Place::Property(Which::Note) => {
                let value = tag.end..start;
                if is_empty || self.document[value.clone()].contains('<') {
                    return Err(format!("its {name} is no hash"));
                }
                self.found.note = Some((value, text.to_owned()));
            }
            Place::Property(which) => {
                if let Some(property) = self.property(which) {
                    property.is_plain |= !text.is_empty();
                    property.span = tag.start..end;
                }
            }
            Place::Root | Place::Node | Place::Other => {}
        }
        Ok(())
    }

    fn add(&mut self, text: &str) {
        self.space += text;
        self.text += text;
    }

    fn property(&mut self, which: Which) -> Option<&mut Property> {
        match which {
            Which::Description => self.found.description.as_mut(),
            Which::Subject => self.found.subject.as_mut(),
            Which::Note => None,
        }
    }

    /// Takes what stands in the attributes of a description of a resource.
    fn attributes(
        &mut self,
        reader: &NsReader<&[u8]>,
        element: &BytesStart,
        name: Option<&Name>,
        start: usize,
    ) -> Result<(), String> {
        let is_node =
            name.is_some_and(|(namespace, local)| namespace == RDF && local == "Description");
        let mut names = Vec::new();
        for attribute in element.attributes().with_checks(false) {
            let attribute = attribute.map_err(|e| e.to_string())?;
            if !is_node || self.place() != Some(Place::Rdf) {
                continue;
            }
            let (namespace, local) = reader.resolver().resolve_attribute(attribute.key);
            let namespace = match namespace {
                ResolveResult::Bound(Namespace(namespace)) => namespace,
                _ => "",
            };
            let name = (namespace.to_owned(), local.as_ref().to_owned());
            let value = || unescape(&attribute.value).map_err(|e| e.to_string());
            match (which(&name), name.1.as_str()) {
                (None, "about") if namespace == RDF || namespace.is_empty() => {
                    self.found.about = value()?.into_owned();
                }
                (None, _) => {}
                (Some(found), local) => {
                    let of_attribute = Property {
                        is_plain: true,
                        ..Property::default()
                    };
                    let is_twice = match found {
                        Which::Description => {
                            self.found.description.replace(of_attribute).is_some()
                        }
                        Which::Subject => self.found.subject.replace(of_attribute).is_some(),
                        Which::Note => {
                            // The element's text begins behind its `<`.
                            let before =
                                attribute.value.as_ptr() as usize - element.as_ptr() as usize;
                            let at = start + 1 + before;
                            let span = at..at + attribute.value.len();
                            self.found
                                .note
                                .replace((span, value()?.into_owned()))
                                .is_some()
                        }
                    };
                    if is_twice || names.contains(&found) {
                        return Err(format!("it has {local} twice"));
                    }
                    names.push(found);
                }
            }
        }
        Ok(())
    }
}

fn which((namespace, local): &Name) -> Option<Which> {
    match (namespace.as_str(), local.as_str()) {
        (DC, "description") => Some(Which::Description),
        (DC, "subject") => Some(Which::Subject),
        (OWN, "description") => Some(Which::Note),
        _ => None,
    }
}
