//! `owl2 bench`: how fast a model runs, beside what the machine could do.

use serde_json::{Map, Value, json};

use crate::bench::{self, BenchPlan, BenchReport, Measurements, PrefillReport};
use crate::cli::args::BenchArgs;
use crate::cli::model_file::ModelFile;
use crate::cli::{human_bytes, print, print_json, setup};
use crate::error::Result;
use crate::kernels::Isa;
use crate::model::Model;
use crate::ops::Compute;

/// One line of the table, or three keys of the JSON object.
struct Figure<'a> {
    /// The median's key; minimum and maximum have a suffix.
    key: &'static str,
    label: String,
    unit: Unit,
    /// `None` where it was not measured.
    samples: Option<&'a Measurements>,
    /// What it cannot exceed.
    limit: Option<&'a Measurements>,
    /// What [`Machine`](crate::board::Machine) expects of the limits.
    modelled: Option<f64>,
}

#[derive(Clone, Copy)]
enum Unit {
    Seconds,
    TokensPerSecond,
    BytesPerSecond,
    MacsPerSecond,
}

impl Unit {
    /// Its name in the table, and how many of it the basic unit is.
    fn scale(self) -> (&'static str, f64) {
        match self {
            Unit::Seconds => ("ms", 1e3),
            Unit::TokensPerSecond => ("tokens/s", 1.0),
            Unit::BytesPerSecond => ("GB/s", 1e-9),
            Unit::MacsPerSecond => ("GMAC/s", 1e-9),
        }
    }
}

pub(super) fn run(args: &BenchArgs) -> Result<()> {
    let file = ModelFile::new(args.model.as_deref())?;
    let gguf = file.open()?;
    let compute = Compute::new(setup::n_threads(args.threads))?;
    let (isa, n_threads) = (compute.isa, compute.threads.count());
    let model = Model::new(&gguf, compute).map_err(|e| file.blame(e))?;
    let plan = BenchPlan {
        prefill: args.pp.clone(),
        generate: args.tg,
        depth: args.depth,
        parallel: args.parallel,
        image: args.image,
        repeats: args.repeats,
    };
    let report = bench::run(&gguf, &model, &plan)?;
    let figures = figures(&report, &plan);
    if args.json {
        return print_json(&as_json(args, file, isa, n_threads, &report, &figures)).map(drop);
    }
    let mut text = format!(
        "{n_threads} threads, instructions {isa}, median of {} after a warm-up\n\n",
        plan.repeats
    );
    text += &table(&figures);
    text += "\nThe model was open before anything was timed. What is modelled follows from the \
             machine's limits alone, as 'owl2 info --board' does for others.\n";
    if let Some(generate) = &report.generate {
        let bytes = human_bytes(generate.bytes_per_token as u64);
        text += &format!("A generated token reads {bytes} of weights, keys and values.\n");
    }
    if let Some(bytes) = report.peak_rss_bytes {
        text += &format!("Peak resident memory {}.\n", human_bytes(bytes));
    }
    print(&text).map(drop)
}

fn figures<'a>(report: &'a BenchReport, plan: &BenchPlan) -> Vec<Figure<'a>> {
    use Unit::{BytesPerSecond, MacsPerSecond, Seconds, TokensPerSecond};
    let picture = report.picture.as_ref();
    let generate = report.generate.as_ref();
    let n_question = picture.map_or(0, |p| p.question_positions);
    let question = format!("first token, question of {n_question}");
    let (n, depth, parallel) = (plan.generate, plan.depth, plan.parallel.get());
    let tokens = match parallel {
        1 => format!("generate {n} after {depth}"),
        _ => format!("generate {n} after {depth}, {parallel} at once"),
    };
    let figure = |key, label: &str, unit, samples| Figure {
        key,
        label: label.to_owned(),
        unit,
        samples,
        limit: None,
        modelled: None,
    };
    let machine = report.machine();
    let expected = |figure: Figure<'a>, value: Option<f64>| Figure {
        modelled: value,
        ..figure
    };
    let bounded = |key, label: &str, unit, samples, limit: &'a Measurements| Figure {
        limit: Some(limit),
        ..figure(key, label, unit, samples)
    };
    let (bandwidth, int8) = (&report.bandwidth, &report.int8);
    let mut figures = vec![
        figure(
            "preprocess_s",
            "preprocess",
            Seconds,
            picture.map(|p| &p.preprocess),
        ),
        figure("vit_s", "vit", Seconds, picture.map(|p| &p.vit)),
        figure(
            "abstractor_s",
            "abstractor",
            Seconds,
            picture.map(|p| &p.abstractor),
        ),
        expected(
            figure(
                "encode_s",
                "picture, all three",
                Seconds,
                picture.map(|p| &p.encode),
            ),
            machine.picture_s(&report.work),
        ),
        figure(
            "first_token_s",
            &question,
            Seconds,
            picture.map(|p| &p.first_token),
        ),
    ];
    figures.extend(report.prefill.iter().map(|p| prefill_tokens(report, p)));
    if report.prefill.is_empty() {
        let tokens = figure("prefill_tokens_per_s", "prefill", TokensPerSecond, None);
        let macs = figure("prefill_macs_per_s", "prefill", MacsPerSecond, None);
        figures.extend([expected(tokens, Some(0.0)), macs]);
    }
    figures.extend([
        expected(
            figure(
                "generate_tokens_per_s",
                &tokens,
                TokensPerSecond,
                generate.map(|g| &g.tokens),
            ),
            Some(1.0 / machine.parallel_token_s(&report.work, depth, n, parallel)),
        ),
        bounded(
            "vit_macs_per_s",
            "vit",
            MacsPerSecond,
            picture.map(|p| &p.vit_macs),
            int8,
        ),
        bounded(
            "abstractor_macs_per_s",
            "abstractor",
            MacsPerSecond,
            picture.map(|p| &p.abstractor_macs),
            int8,
        ),
    ]);
    figures.extend(report.prefill.iter().map(|p| prefill_macs(report, p)));
    figures.extend([
        figure(
            "int8_macs_per_s",
            "machine, 8-bit integers",
            MacsPerSecond,
            Some(int8),
        ),
        bounded(
            "generate_bytes_per_s",
            "generate",
            BytesPerSecond,
            generate.map(|g| &g.bytes),
            bandwidth,
        ),
        figure(
            "bandwidth_bytes_per_s",
            "machine, reading the file",
            BytesPerSecond,
            Some(bandwidth),
        ),
    ]);
    figures
}

fn prefill_tokens<'a>(report: &'a BenchReport, prefill: &'a PrefillReport) -> Figure<'a> {
    let n = prefill.n_tokens;
    Figure {
        key: "prefill_tokens_per_s",
        label: format!("prefill {n}"),
        unit: Unit::TokensPerSecond,
        samples: Some(&prefill.tokens),
        limit: None,
        modelled: Some(n as f64 / report.machine().prefill_s(&report.work, n)),
    }
}

fn prefill_macs<'a>(report: &'a BenchReport, prefill: &'a PrefillReport) -> Figure<'a> {
    Figure {
        key: "prefill_macs_per_s",
        label: format!("prefill {}", prefill.n_tokens),
        unit: Unit::MacsPerSecond,
        samples: Some(&prefill.macs),
        limit: Some(&report.int8),
        modelled: None,
    }
}

fn table(figures: &[Figure]) -> String {
    let mut text = format!("{:<30} {:>10} {:>10} {:>10}\n", "", "median", "min", "max");
    for figure in figures {
        let Some(samples) = figure.samples else {
            continue;
        };
        let (unit, scale) = figure.unit.scale();
        let [median, min, max] =
            [samples.median(), samples.min(), samples.max()].map(|value| value * scale);
        text += &format!(
            "{:<30} {median:>10.2} {min:>10.2} {max:>10.2} {unit}",
            figure.label
        );
        if let Some(limit) = figure.limit {
            let share = 100.0 * samples.median() / limit.median();
            text += &format!(", {share:.0} % of the limit");
        }
        if let Some(modelled) = figure.modelled {
            text += &format!(", modelled {:.2}", modelled * scale);
        }
        text.push('\n');
    }
    text
}

fn as_json(
    args: &BenchArgs,
    file: ModelFile,
    isa: Isa,
    n_threads: usize,
    report: &BenchReport,
    figures: &[Figure],
) -> Value {
    let mut object = Map::new();
    let mut set = |key: &str, value: Value| drop(object.insert(key.to_owned(), value));
    set("model", json!(file.name().display().to_string()));
    set("isa", json!(isa.name()));
    set("threads", json!(n_threads));
    set("repeats", json!(args.repeats));
    let lengths: Vec<usize> = report.prefill.iter().map(|p| p.n_tokens).collect();
    match lengths[..] {
        [] => set("pp", json!(0)),
        [n] => set("pp", json!(n)),
        _ => set("pp", json!(lengths)),
    };
    set("tg", json!(args.tg));
    set("depth", json!(args.depth));
    set("parallel", json!(args.parallel));
    let picture = report.picture.as_ref();
    let question = picture.map(|p| p.question_positions);
    set("first_token_positions", json!(question));
    let bytes = report.generate.as_ref().map(|g| g.bytes_per_token);
    set("generate_bytes_per_token", json!(bytes));
    set("peak_rss_bytes", json!(report.peak_rss_bytes));
    for figure in figures {
        // Of several prompts, the first one's.
        if !object.contains_key(figure.key) {
            set_figure(&mut object, figure);
        }
    }
    let prompts = report.prefill.iter().map(|prefill| {
        let mut object = Map::new();
        object.insert("pp".to_owned(), json!(prefill.n_tokens));
        set_figure(&mut object, &prefill_tokens(report, prefill));
        set_figure(&mut object, &prefill_macs(report, prefill));
        Value::Object(object)
    });
    object.insert("prompts".to_owned(), prompts.collect());
    Value::Object(object)
}

/// Adds the median, the minimum and the maximum of a figure, and what is modelled of it.
fn set_figure(object: &mut Map<String, Value>, figure: &Figure) {
    let mut set = |suffix: &str, value| object.insert(format!("{}{suffix}", figure.key), value);
    let value = |of: fn(&Measurements) -> f64| json!(figure.samples.map(of));
    set("", value(Measurements::median));
    set("_min", value(Measurements::min));
    set("_max", value(Measurements::max));
    if let Some(modelled) = figure.modelled {
        set("_modelled", json!(figure.samples.map(|_| modelled)));
    }
}
