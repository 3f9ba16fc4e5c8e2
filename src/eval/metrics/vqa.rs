//! Open answers: normalised texts, and how far they are right.

use std::sync::LazyLock;

use regex::Regex;

use super::{mean, stripped, words};

/// These are taken out, or become spaces.
const MARKS: [char; 21] = [
    ';', '/', '[', ']', '"', '{', '}', '(', ')', '=', '+', '\\', '_', '-', '>', '<', '@', '`', ',',
    '?', '!',
];
/// The scripts pass a flag of regular expressions where the number of replacements belongs.
const MAX_PERIODS: usize = 32;

const ARTICLES: [&str; 3] = ["a", "an", "the"];
const NUMBERS: [(&str, &str); 12] = [
    ("none", "0"),
    ("zero", "0"),
    ("one", "1"),
    ("two", "2"),
    ("three", "3"),
    ("four", "4"),
    ("five", "5"),
    ("six", "6"),
    ("seven", "7"),
    ("eight", "8"),
    ("nine", "9"),
    ("ten", "10"),
];

/// Spellings that the official VQA metric mends; its mistakes are part of it.
const CONTRACTIONS: &str = "\
    aint>ain't arent>aren't cant>can't couldve>could've couldnt>couldn't couldn'tve>couldn't've \
    couldnt've>couldn't've didnt>didn't doesnt>doesn't dont>don't hadnt>hadn't hadnt've>hadn't've \
    hadn'tve>hadn't've hasnt>hasn't havent>haven't hed>he'd hed've>he'd've he'dve>he'd've hes>he's \
    howd>how'd howll>how'll hows>how's isnt>isn't itd>it'd itd've>it'd've it'dve>it'd've itll>it'll \
    let's>let's maam>ma'am mightnt>mightn't mightnt've>mightn't've mightn'tve>mightn't've \
    mightve>might've mustnt>mustn't mustve>must've neednt>needn't notve>not've oclock>o'clock \
    oughtnt>oughtn't ow's'at>'ow's'at 'ows'at>'ow's'at 'ow'sat>'ow's'at shant>shan't \
    shed've>she'd've she'dve>she'd've she's>she's shouldve>should've shouldnt>shouldn't \
    shouldnt've>shouldn't've shouldn'tve>shouldn't've somebody'd>somebodyd \
    somebodyd've>somebody'd've somebody'dve>somebody'd've somebodyll>somebody'll \
    somebodys>somebody's someoned>someone'd someoned've>someone'd've someone'dve>someone'd've \
    someonell>someone'll someones>someone's somethingd>something'd somethingd've>something'd've \
    something'dve>something'd've somethingll>something'll thats>that's thered>there'd \
    thered've>there'd've there'dve>there'd've therere>there're theres>there's theyd>they'd \
    theyd've>they'd've they'dve>they'd've theyll>they'll theyre>they're theyve>they've twas>'twas \
    wasnt>wasn't wed've>we'd've we'dve>we'd've weve>we've werent>weren't whatll>what'll \
    whatre>what're whats>what's whatve>what've whens>when's whered>where'd wheres>where's \
    whereve>where've whod>who'd whod've>who'd've who'dve>who'd've wholl>who'll whos>who's \
    whove>who've whyll>why'll whyre>why're whys>why's wont>won't wouldve>would've \
    wouldnt>wouldn't wouldnt've>wouldn't've wouldn'tve>wouldn't've yall>y'all yall'll>y'all'll \
    y'allll>y'all'll yall'd've>y'all'd've y'alld've>y'all'd've y'all'dve>y'all'd've youd>you'd \
    youd've>you'd've you'dve>you'd've youll>you'll youre>you're youve>you've";

static COMMA_IN_NUMBER: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"\d,\d").expect("a valid expression"));
static DIGIT: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"^\d$").expect("a valid expression"));

/// Which periods stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Periods {
    /// Those before a digit, as in the official metric.
    BeforeDigits,
    /// Those before or after a digit, as in VLMEvalKit.
    BetweenDigits,
}

/// A text without punctuation: a mark that touches a space is taken out, others become spaces.
pub fn without_marks(text: &str, periods: Periods) -> String {
    let has_number = COMMA_IN_NUMBER.is_match(text);
    let mut parted = String::with_capacity(text.len());
    let touches_space =
        |mark: &char| text.contains(&format!("{mark} ")) || text.contains(&format!(" {mark}"));
    let touches: Vec<char> = MARKS.into_iter().filter(touches_space).collect();
    for character in text.chars() {
        match MARKS.contains(&character) {
            true if has_number || touches.contains(&character) => {}
            true => parted.push(' '),
            false => parted.push(character),
        }
    }
    without_periods(&parted, periods)
}

fn without_periods(text: &str, periods: Periods) -> String {
    let characters: Vec<char> = text.chars().collect();
    let is_digit = |index: Option<usize>| {
        let character = index.and_then(|index| characters.get(index));
        character.is_some_and(|character| DIGIT.is_match(&character.to_string()))
    };
    let mut n_taken = 0;
    let mut kept = String::with_capacity(text.len());
    for (i, &character) in characters.iter().enumerate() {
        let stays = is_digit(Some(i + 1))
            || (periods == Periods::BetweenDigits && is_digit(i.checked_sub(1)));
        if character == '.' && !stays && n_taken < MAX_PERIODS {
            n_taken += 1;
        } else {
            kept.push(character);
        }
    }
    kept
}

/// A text in lower case, with digits for number words, without articles, with apostrophes where
/// they are missing.
pub fn plain_words(text: &str) -> String {
    let text = text.to_lowercase();
    let words = words(&text).map(|word| {
        let number = NUMBERS.iter().find(|(name, _)| *name == word);
        number.map_or(word, |(_, digits)| digits)
    });
    let words = words.filter(|word| !ARTICLES.contains(word)).map(|word| {
        let contractions = CONTRACTIONS.split_whitespace();
        let mut pairs = contractions.filter_map(|pair| pair.split_once('>'));
        pairs
            .find(|(wrong, _)| *wrong == word)
            .map_or(word, |(_, right)| right)
    });
    words.collect::<Vec<_>>().join(" ")
}

/// VLMEvalKit's normalisation of answers and ground truth.
pub fn normalised(answer: &str, periods: Periods) -> String {
    let answer = answer.replace(['\n', '\t'], " ");
    plain_words(&without_marks(stripped(&answer), periods))
}

/// VLMEvalKit's VQA score of an answer, 0 to 1: the mean over the people's answers of a third of
/// how many of the others agree with it.
pub fn score(answer: &str, truths: &[String]) -> f64 {
    let answer = normalised(answer, Periods::BetweenDigits);
    let normalise = |truth: &String| normalised(truth, Periods::BetweenDigits);
    agreement(&answer, &truths.iter().map(normalise).collect::<Vec<_>>())
}

/// The official VQA accuracy of an answer, 0 to 1. People's answers lose their punctuation only
/// where they differ.
pub fn official_accuracy(answer: &str, truths: &[String]) -> f64 {
    let answer = normalised(answer, Periods::BeforeDigits);
    let truths: Vec<String> = match truths.iter().all(|truth| *truth == truths[0]) {
        true => truths.to_vec(),
        false => {
            let truths = truths.iter();
            truths
                .map(|truth| without_marks(truth, Periods::BeforeDigits))
                .collect()
        }
    };
    agreement(&answer, &truths)
}

fn agreement(answer: &str, truths: &[String]) -> f64 {
    let agrees: Vec<bool> = truths.iter().map(|truth| truth == answer).collect();
    let n_agreeing = agrees.iter().filter(|agrees| **agrees).count();
    mean(agrees.iter().map(|&agrees| {
        let n_others = n_agreeing - usize::from(agrees);
        (n_others as f64 / 3.0).min(1.0)
    }))
}

/// Whether the normalised answer is each of the people's.
pub fn exact_normalised(answer: &str, truths: &[String]) -> f64 {
    let answer = normalised(answer, Periods::BetweenDigits);
    let is_equal = |truth: &String| normalised(truth, Periods::BetweenDigits) == answer;
    mean(truths.iter().map(|truth| f64::from(is_equal(truth))))
}

/// Whether the answer is each of the people's, but for case and the space around it.
pub fn exact(answer: &str, truths: &[String]) -> Vec<bool> {
    let answer = stripped(answer).to_lowercase();
    let truths = truths.iter();
    truths
        .map(|truth| stripped(truth).to_lowercase() == answer)
        .collect()
}

/// Edit distances to each of the people's answers, as shares of the longer text.
pub fn distances(answer: &str, truths: &[String]) -> Vec<f64> {
    let plain = |text: &str| {
        let text = text.to_lowercase();
        let words: Vec<&str> = words(&text).collect();
        words.join(" ").chars().collect::<Vec<char>>()
    };
    let answer = plain(answer);
    let truths = truths.iter().map(|truth| plain(truth));
    truths
        .map(|truth| match truth.len().max(answer.len()) {
            0 => 0.0,
            longer => edit_distance(&truth, &answer) as f64 / longer as f64,
        })
        .collect()
}

/// ANLS of an answer, as for DocVQA: how like the nearest of the people's it is, if more than half.
pub fn anls(answer: &str, truths: &[String]) -> f64 {
    const THRESHOLD: f64 = 0.5;
    let distances = distances(answer, truths);
    let likeness = 1.0 - distances.into_iter().fold(f64::INFINITY, f64::min);
    match likeness >= THRESHOLD {
        true => likeness,
        false => 0.0,
    }
}

fn edit_distance(a: &[char], b: &[char]) -> usize {
    let mut row: Vec<usize> = (0..=a.len()).collect();
    for (i, b) in b.iter().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, a) in a.iter().enumerate() {
            let substituted = diagonal + usize::from(a != b);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[a.len()]
}

/// Whether an answer is right as in ChartQA: a number within 5 % of the truth, or the same text but
/// for case.
pub fn is_relaxed_match(truth: &str, answer: &str) -> bool {
    const TOLERANCE: f64 = 0.05;
    match (float(answer), float(truth)) {
        (Some(answer), Some(truth)) if truth != 0.0 => {
            (answer - truth).abs() / truth.abs() <= TOLERANCE
        }
        _ => answer.to_lowercase() == truth.to_lowercase(),
    }
}

/// A number, or a percentage as a share, as Python reads it.
fn float(text: &str) -> Option<f64> {
    let number = text.trim_end_matches('%');
    let value = python_float(number)?;
    Some(match text.ends_with('%') {
        true => value / 100.0,
        false => value,
    })
}

/// A text as Python's `float` reads it: underscores may stand between digits.
pub(crate) fn python_float(text: &str) -> Option<f64> {
    let text = stripped(text);
    let bytes = text.as_bytes();
    let is_digit = |index: Option<usize>| {
        index
            .and_then(|index| bytes.get(index))
            .is_some_and(u8::is_ascii_digit)
    };
    let mut underscores = text.match_indices('_').map(|(index, _)| index);
    if !underscores.all(|i| is_digit(i.checked_sub(1)) && is_digit(Some(i + 1))) {
        return None;
    }
    text.replace('_', "").parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_as_python_reads_them() {
        for (text, value) in [
            ("1_000", Some(1000.0)),
            (" 2.5e1\n", Some(25.0)),
            (".5", Some(0.5)),
            ("5.", Some(5.0)),
            ("+3", Some(3.0)),
            ("Infinity", Some(f64::INFINITY)),
            ("_1", None),
            ("1__0", None),
            ("", None),
            ("1,0", None),
        ] {
            assert_eq!(python_float(text), value, "{text}");
        }
        assert!(python_float("NaN").unwrap().is_nan());
    }

    #[test]
    fn the_official_rule_drops_a_period_that_the_other_keeps() {
        assert_eq!(normalised("3.", Periods::BeforeDigits), "3");
        assert_eq!(normalised("3.", Periods::BetweenDigits), "3.");
        assert_eq!(normalised("3.5", Periods::BeforeDigits), "3.5");
    }

    #[test]
    fn edits_are_counted() {
        let distance = |a: &str, b: &str| {
            edit_distance(
                &a.chars().collect::<Vec<_>>(),
                &b.chars().collect::<Vec<_>>(),
            )
        };
        assert_eq!(distance("", ""), 0);
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("ab", "ba"), 2);
    }
}
