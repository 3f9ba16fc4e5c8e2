//! Outcomes in the order of the rows.

use super::*;

fn ids(place: &Place, name: &str) -> Vec<Value> {
    let lines = place.lines(name).into_iter();
    lines.map(|line| line["id"].clone()).collect()
}

#[test]
fn ordered_outcomes_are_in_the_order_of_the_rows_however_often_it_is_killed() {
    let place = Place::new();
    place.write_rows(4);
    // Long and short answers by turns, and rows that fail at once.
    let rows = fs::read_to_string(place.path("rows.jsonl")).unwrap();
    let rows: Vec<String> = (rows.lines().enumerate())
        .map(|(i, line)| {
            let mut row: Value = serde_json::from_str(line).unwrap();
            row["max_tokens"] = [40, 1, 7][i % 3].into();
            if i % 5 == 3 {
                row["image"] = "none.png".into();
            }
            row.to_string()
        })
        .collect();
    fs::write(place.path("rows.jsonl"), rows.join("\n")).unwrap();
    let wanted: Vec<Value> = rows
        .iter()
        .map(|row| serde_json::from_str::<Value>(row).unwrap()["id"].clone())
        .collect();

    place.run(&["-i", "rows.jsonl", "-o", "any.jsonl"], 1);
    let args = ["-i", "rows.jsonl", "-o", "out.jsonl", "--ordered"];
    for round in 0..8u64 {
        let mut child = place.command(&args).stderr(Stdio::null()).spawn().unwrap();
        thread::sleep(Duration::from_millis(20 + 25 * round));
        kill(&mut child, nix::sys::signal::Signal::SIGKILL);
        child.wait().unwrap();
    }
    place.run(&args, 1);
    assert_eq!(ids(&place, "out.jsonl"), wanted);
    assert_eq!(place.outcomes("out.jsonl"), place.outcomes("any.jsonl"));
    assert_ne!(ids(&place, "any.jsonl"), wanted, "the order says nothing");
}
