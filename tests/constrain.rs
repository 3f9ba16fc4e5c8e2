//! Answers held to choices or a JSON schema, as the program gives them.

#[path = "parity/checkpoints.rs"]
#[allow(dead_code, reason = "the other tests use the rest")]
mod checkpoints;
#[path = "parity/golden.rs"]
#[allow(dead_code, reason = "the other tests use the rest")]
mod golden;
#[path = "common/machine.rs"]
mod machine;
#[path = "common/room.rs"]
mod room;

use std::fs;

use serde_json::{Value, json};

use golden::text;
use room::Room;

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
        ("{", "no JSON"),
        ("[]", "no JSON object"),
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
    let deep = "[".repeat(100_000);
    fs::write(room.path("schema.json"), deep).unwrap();
    room.fails(&with(&["--json-schema", "schema.json"]), 3, &["no JSON"]);
}
