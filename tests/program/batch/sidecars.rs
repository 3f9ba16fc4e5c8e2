//! Answers beside the pictures.

use super::*;

/// A folder of pictures.
fn photos() -> Place {
    let place = Place::new();
    fs::create_dir(place.path("photos")).unwrap();
    for picture in PICTURES {
        let to = place.path("photos").join(picture);
        fs::copy(format!("{ASSETS}/{picture}"), to).unwrap();
    }
    place
}

#[test]
fn each_picture_gets_a_sidecar_and_stays_as_it_is() {
    let place = photos();
    let read = |name: &str| fs::read(place.path("photos").join(name)).unwrap();
    let changed = |name: &str| {
        let metadata = fs::metadata(place.path("photos").join(name)).unwrap();
        metadata.modified().unwrap()
    };
    let before = PICTURES.map(|name| (read(name), changed(name)));
    let args = ["-i", "photos", "-o", "out.jsonl", "--sidecar"];
    let ask = |format: &'static str, prompt: &'static str, code| {
        place.run(&[&args[..], &[format, "--prompt", prompt]].concat(), code)
    };
    ask("xmp", "What is this?", 0);
    ask("txt", "Describe the image.", 0);
    for line in place.lines("out.jsonl") {
        assert!(line.get("warnings").is_none(), "{line}");
    }
    let lines = place.lines("out.jsonl");
    for name in PICTURES {
        let answer = |lines: &[Value]| {
            let line = lines.iter().find(|line| line["id"] == name);
            line.unwrap()["text"].as_str().unwrap().to_owned()
        };
        let xmp = String::from_utf8(read(&format!("{name}.xmp"))).unwrap();
        let wanted = format!(">{}</rdf:li>", answer(&lines[..3]));
        assert!(xmp.contains(&wanted), "{wanted}: {xmp}");
        let txt = read(&name.replace(".png", ".txt"));
        assert_eq!(txt, format!("{}\n", answer(&lines[3..])).as_bytes());
    }
    let n_files = || fs::read_dir(place.path("photos")).unwrap().count();
    assert_eq!(n_files(), 9);
    assert_eq!(PICTURES.map(|name| (read(name), changed(name))), before);

    // What others wrote stays; what cannot be read is an error of its row.
    fs::write(place.path("photos/cat.png.xmp"), "not XML <").unwrap();
    fs::write(place.path("photos/dog-and-car.txt"), "Bello").unwrap();
    let said = ask("xmp", "Is there a cat?", 1);
    assert!(said.contains("1 rows failed"), "{said}");
    ask("txt", "Is there a cat?", 1);
    let lines = place.lines("out.jsonl");
    let failed = lines
        .iter()
        .find(|line| line.get("error").is_some())
        .unwrap();
    assert_eq!(failed["id"], "cat.png");
    assert!(failed["text"].is_string(), "{failed}");
    let message = failed["error"]["message"].as_str().unwrap();
    assert!(message.contains("cat.png.xmp: is not XMP"), "{message}");
    assert_eq!(read("cat.png.xmp"), b"not XML <");
    assert_eq!(read("dog-and-car.txt"), b"Bello");
    assert_eq!(n_files(), 9);

    // Once it is mended, the row is done again.
    fs::remove_file(place.path("photos/cat.png.xmp")).unwrap();
    let again = [
        &args[..],
        &["xmp", "--prompt", "Is there a cat?", "--retry-errors"],
    ]
    .concat();
    place.run(&again, 0);
    assert!(
        String::from_utf8(read("cat.png.xmp"))
            .unwrap()
            .contains("x-default")
    );
    place.run(
        &[
            "-i",
            "photos",
            "-o",
            "o",
            "--score",
            "q-align",
            "--sidecar",
            "xmp",
        ],
        2,
    );
}

#[test]
fn a_run_that_is_killed_leaves_whole_sidecars() {
    let place = photos();
    for i in 0..30 {
        let to = place.path("photos").join(format!("{i}.png"));
        fs::copy(format!("{ASSETS}/{}", PICTURES[i % 3]), to).unwrap();
    }
    let args = [
        "-i",
        "photos",
        "-o",
        "out.jsonl",
        "--prompt",
        "What is this?",
        "--sidecar",
        "xmp",
    ];
    for round in 0..6u64 {
        let mut child = place.command(&args).stderr(Stdio::null()).spawn().unwrap();
        thread::sleep(Duration::from_millis(30 + 20 * round));
        kill(&mut child, nix::sys::signal::Signal::SIGKILL);
        child.wait().unwrap();
    }
    place.run(&args, 0);
    for line in place.lines("out.jsonl") {
        let path = format!("{}.xmp", line["image"].as_str().unwrap());
        let xmp = fs::read_to_string(place.path(&path)).unwrap();
        let wanted = format!(">{}</rdf:li>", line["text"].as_str().unwrap());
        assert!(
            xmp.contains(&wanted) && xmp.ends_with("</x:xmpmeta>\n"),
            "{xmp}"
        );
    }
}

/// A limit on the size of files fails a write in its middle, as a full disk does.
#[test]
fn a_full_disk_leaves_no_half_a_sidecar() {
    let place = photos();
    let args = "batch -i photos -o out.jsonl --prompt 'What is this?' --sidecar xmp";
    let limited = format!("trap '' XFSZ; ulimit -f 1; exec \"$0\" {args}");
    let output = Command::new("sh")
        .current_dir(place.0.path())
        .args(["-c", &limited, env!("CARGO_BIN_EXE_owl2")])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(matches!(output.status.code(), Some(1 | 5)), "{said}");
    let names = || {
        let entries = fs::read_dir(place.path("photos")).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.collect::<BTreeSet<String>>()
    };
    assert_eq!(names(), PICTURES.map(str::to_owned).into());
    let mut again: Vec<&str> = vec!["-i", "photos", "-o", "out.jsonl", "--sidecar", "xmp"];
    again.extend(["--prompt", "What is this?", "--retry-errors"]);
    place.run(&again, 0);
    assert_eq!(names().len(), 6);
}
