//! Answers held to choices or a JSON schema, as the program gives them.

use crate::{golden, room};
use std::fs;

use serde_json::{Value, json};

use golden::text;
use room::{Room, stderr};

/// The ways to choose tokens under which every answer must obey.
const SAMPLINGS: [&[&str]; 4] = [
    &[],
    &["--temp", "1", "--seed", "1"],
    &["--temp", "5", "--top-k", "0", "--seed", "2"],
    &["--temp", "0.7", "--top-p", "0.5", "--repeat-penalty", "1.3"],
];

fn ask(room: &Room, flags: &[&str], sampling: &[&str]) -> Value {
    let args = [
        "-m", "m.gguf", "--json", "-p", "Is it?", "--image", "gray.png",
    ];
    room.json(&[&args[..], flags, sampling].concat())
}

#[test]
fn the_answer_is_one_of_the_choices() {
    let room = Room::with_model();
    let lists = [
        "yes,no",
        "no,no way,no way out",
        "Ja,Nein \u{2013} nie",
        "0.5,\"a\\n\",<s>",
    ];
    for list in lists {
        for sampling in SAMPLINGS {
            let answer = ask(&room, &["--choices", list], sampling);
            let said = text(&answer["text"]);
            assert!(
                list.split(',').any(|choice| choice == said),
                "{list}: {answer}"
            );
            assert_eq!(answer["stop"], "end_of_text");
        }
    }
    // The same seed gives the same answer, and others another one.
    let seeded = |seed: &str| {
        let sampling = ["--temp", "9", "--top-k", "0", "--seed", seed];
        ask(&room, &["--choices", "a,b,c,d,e,f"], &sampling)["text"].clone()
    };
    let answers: Vec<_> = (0..8).map(|seed| seeded(&seed.to_string())).collect();
    assert_eq!(answers[3], seeded("3"));
    assert!(answers.iter().any(|answer| *answer != answers[0]));
}

#[test]
fn a_choice_is_printed_alone() {
    let room = Room::with_model();
    let args = ["-m", "m.gguf", "-p", "Is it?", "--choices", "yes,no"];
    let said = room.stdout(&args);
    assert!(["yes\n", "no\n"].contains(&said.as_str()), "{said:?}");
}

#[test]
fn the_answer_is_json_of_the_schema() {
    let room = Room::with_model();
    let schema = json!({
        "type": "object",
        "properties": {
            "animal": { "enum": ["cat", "dog", "none"] },
            "count": { "type": "integer", "minimum": 0, "maximum": 9 },
            "sure": { "type": "boolean" },
            "colours": { "type": "array", "items": { "type": "string", "maxLength": 3 }, "maxItems": 2 },
        },
        "required": ["animal", "count", "sure", "colours"],
        "additionalProperties": false,
    });
    fs::write(room.path("schema.json"), schema.to_string()).unwrap();
    for sampling in SAMPLINGS {
        let answer = ask(&room, &["--json-schema", "schema.json"], sampling);
        assert_eq!(answer["stop"], "end_of_text", "{answer}");
        let value: Value = serde_json::from_str(text(&answer["text"])).unwrap();
        assert!(
            ["cat", "dog", "none"].contains(&text(&value["animal"])),
            "{value}"
        );
        assert!(value["count"].as_u64().unwrap() <= 9, "{value}");
        assert!(value["sure"].is_boolean(), "{value}");
        let colours = value["colours"].as_array().unwrap();
        assert!(
            colours.len() <= 2 && colours.iter().all(Value::is_string),
            "{value}"
        );
        assert_eq!(value.as_object().unwrap().len(), 4, "{value}");
    }
}

#[test]
fn unusable_constraints_are_refused() {
    let room = Room::with_model();
    let args = ["-m", "m.gguf", "-p", "Is it?"];
    let with = |more: &[&'static str]| [&args[..], more].concat();
    room.fails(&with(&["--choices", "a,,b"]), 2, &["--choices"]);
    room.fails(
        &with(&["--choices", "a", "--json-schema", "s"]),
        2,
        &["--json-schema"],
    );
    room.fails(
        &with(&["--json-schema", "none"]),
        5,
        &["--json-schema", "none"],
    );
    for (schema, wanted) in [
        ("{", "not JSON"),
        ("[]", "not a JSON object"),
        (r#"{"type": "wrong"}"#, "cannot be followed"),
        (r##"{"$ref": "#/nowhere"}"##, "cannot be followed"),
        (
            r#"{"type": "string", "pattern": "("}"#,
            "cannot be followed",
        ),
    ] {
        fs::write(room.path("schema.json"), schema).unwrap();
        room.fails(
            &with(&["--json-schema", "schema.json"]),
            3,
            &["--json-schema", wanted],
        );
    }
    let deep = "[".repeat(60_000);
    fs::write(room.path("schema.json"), deep).unwrap();
    room.fails(&with(&["--json-schema", "schema.json"]), 3, &["not JSON"]);
}

/// Schemas that are small, and a lot of work.
fn busy_schemas() -> Vec<(&'static str, Value)> {
    // A definition for each number, of the next one's reference; the last is an integer.
    let chain = |n: usize, link: fn(Value) -> Value| {
        let mut definitions = serde_json::Map::new();
        for i in 0..n {
            let next = json!({ "$ref": format!("#/$defs/d{}", i + 1) });
            definitions.insert(format!("d{i}"), link(next));
        }
        definitions.insert(format!("d{n}"), json!({ "type": "integer" }));
        json!({ "$ref": "#/$defs/d0", "$defs": definitions })
    };
    let properties = |n: usize| -> serde_json::Map<String, Value> {
        let schema = json!({ "type": "integer" });
        (0..n).map(|i| (format!("p{i}"), schema.clone())).collect()
    };
    let each = |n: usize, schema: fn(usize) -> Value| (0..n).map(schema).collect::<Vec<_>>();
    vec![
        ("references", chain(480, |next| next)),
        (
            "nested by reference",
            chain(480, |next| json!({ "items": next })),
        ),
        (
            "deep by reference",
            chain(65, |next| (0..55).fold(next, |n, _| json!({ "items": n }))),
        ),
        ("too many references", chain(600, |next| next)),
        (
            "doubling",
            chain(24, |next| json!({ "allOf": [next, next] })),
        ),
        (
            "doubling alternatives",
            chain(24, |next| json!({ "anyOf": [next, next] })),
        ),
        (
            "properties",
            json!({ "type": "object", "properties": properties(1900) }),
        ),
        (
            "too many properties",
            json!({ "properties": properties(6800) }),
        ),
        (
            "multipleOf",
            json!({ "type": "integer", "multipleOf": 2_147_483_648_u64 }),
        ),
        (
            "multiples at once",
            json!({ "allOf": each(9, |i| json!({ "multipleOf": 90 + i })) }),
        ),
        (
            "alternatives at once",
            json!({ "allOf": each(24, |i| json!({ "anyOf": [
            { "type": "string", "minLength": i }, { "type": "array", "minItems": i },
        ] })) }),
        ),
        (
            "patterns at once",
            json!({ "allOf": each(9, |i| json!({
            "type": "string", "pattern": format!("^.*{i}.{{{}}}$", i + 9),
        })) }),
        ),
        (
            "patterns of keys",
            json!({ "type": "object", "patternProperties": {
            ".*a.{9}": { "multipleOf": 7 }, ".*b.{9}": {}, ".*c.{9}": {}, "^(a|b)*a(a|b){25}$": {},
        } }),
        ),
        (
            "a pattern",
            json!({ "type": "string", "pattern": "^(a|b)*a(a|b){30}$" }),
        ),
        (
            "repeats",
            json!({ "type": "string", "pattern": "((a{1,999}){1,999}){1,999}" }),
        ),
        (
            "long lists",
            json!({ "type": "array", "items": {}, "minItems": 99_999 }),
        ),
        (
            "long texts",
            json!({ "type": "string", "pattern": "^(ab|c)*$", "minLength": 99_999 }),
        ),
        (
            "an enumeration",
            json!({ "enum": each(1999, |i| json!(format!("text number {i}"))) }),
        ),
        (
            "itself",
            json!({ "allOf": [{ "$ref": "#" }, { "$ref": "#" }] }),
        ),
    ]
}

#[test]
fn busy_schemas_are_followed_or_refused_and_end_nothing() {
    let room = Room::with_model();
    for (name, schema) in busy_schemas() {
        fs::write(room.path("schema.json"), schema.to_string()).unwrap();
        let args = [
            "-m", "m.gguf", "-p", "x", "-n", "2", "--temp", "5", "-t", "1",
        ];
        let output = room.run(&[&args[..], &["--json-schema", "schema.json"]].concat());
        let said = stderr(&output);
        let code = output.status.code();
        // 7 where two tokens are not enough.
        assert!(matches!(code, Some(0 | 3 | 7)), "{name}: {code:?}: {said}");
        assert!(
            said.len() < 1000 && said.lines().count() <= 3,
            "{name}: {said}"
        );
    }
}

#[test]
fn an_answer_that_is_cut_before_it_is_what_was_asked_for_has_a_status_of_its_own() {
    let room = Room::with_model();
    fs::write(
        room.path("text.json"),
        r#"{"type": "string", "minLength": 500}"#,
    )
    .unwrap();
    let ask = ["-m", "m.gguf", "-p", "Is it?", "-n", "3"];
    let with = |more: &[&'static str]| room.run(&[&ask[..], more].concat());
    for more in [
        &["--json-schema", "text.json"][..],
        &["--json-schema", "text.json", "--stop", "\""],
        &["--choices", "a very long answer that takes many tokens"],
        &["--json-schema", "text.json", "--json"],
    ] {
        let output = with(more);
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(7), "{more:?}: {said}");
        assert!(said.contains("the answer was cut"), "{more:?}: {said}");
        assert!(!said.contains("more, and"), "{more:?}: {said}");
        // What there is of it is printed all the same.
        let is_stopped = more.contains(&"--stop");
        assert_eq!(output.stdout.len() > 1, !is_stopped, "{more:?}");
    }
    let json = with(&["--json-schema", "text.json", "--json"]).stdout;
    let json: Value = serde_json::from_slice(&json).unwrap();
    assert_eq!(json["fulfilled"], false);
    // One picture fails, and the next one is asked about.
    let pictures = [
        "--each",
        "gray.png",
        "wide_rgb.png",
        "--json-schema",
        "text.json",
    ];
    let output = room.run(&[&ask[..], &pictures].concat());
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    let said = stderr(&output);
    assert!(said.contains("gray.png: the answer was cut"), "{said}");
    assert!(said.contains("wide_rgb.png: the answer was cut"), "{said}");
    // An answer that is one already, although more could follow, is no failure.
    fs::write(
        room.path("digits.json"),
        r#"{"type": "integer", "minimum": 100000000}"#,
    )
    .unwrap();
    let long = [
        "-m",
        "m.gguf",
        "-p",
        "x",
        "-n",
        "40",
        "--json-schema",
        "digits.json",
        "--json",
    ];
    assert_eq!(room.json(&long)["fulfilled"], true);
}

#[test]
fn any_cut_answer_is_told() {
    let room = Room::with_model();
    let ask = ["-m", "m.gguf", "-p", "What color is the sky?"];
    for (more, wanted) in [
        (&["-n", "3"][..], "cut at 3 tokens; --max-tokens gives more"),
        (
            &["-n", "3", "--json"],
            "cut at 3 tokens; --max-tokens gives more",
        ),
        (
            &["-c", "20"],
            "cut where the context of 20 positions ends; --ctx-size",
        ),
        (
            &["-n", "3", "--each", "gray.png"],
            "gray.png: the answer was cut at 3",
        ),
    ] {
        let output = room.run(&[&ask[..], more].concat());
        assert!(output.status.success(), "{}", stderr(&output));
        assert!(stderr(&output).contains(wanted), "{}", stderr(&output));
    }
    let whole = room.run(&[&ask[..], &["--choices", "yes,no"]].concat());
    assert_eq!(stderr(&whole), "");
}
