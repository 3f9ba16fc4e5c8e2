//! What a query's result may not depend on: later positions, and how a sequence is cut.

use super::*;

/// Keys or values as a cache may have them.
enum Data {
    F32(Vec<f32>),
    F16(Vec<f16>),
    Q8_0(Vec<BlockQ8_0>),
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    F32,
    F16,
    Q8_0,
}

impl Data {
    fn new(kind: Kind, floats: &[f32]) -> Self {
        match kind {
            Kind::F32 => Data::F32(floats.to_vec()),
            Kind::F16 => Data::F16(floats.iter().map(|x| f16::from_f32(*x)).collect()),
            Kind::Q8_0 => {
                let mut bytes = vec![0; floats.len() / 32 * 34];
                quant::quantize(DType::Q8_0, floats, &mut bytes);
                Data::Q8_0(bytemuck::cast_slice(&bytes).to_vec())
            }
        }
    }

    fn stored(&self, head_dim: usize) -> Stored<'_> {
        match self {
            Data::F32(data) => Stored::F32(rows(data, head_dim)),
            Data::F16(data) => Stored::F16(rows(data, head_dim)),
            Data::Q8_0(data) => Stored::Q8_0(rows(data, head_dim / 32)),
        }
    }

    /// Replaces the value of `column` at position `position`; in a block of integers, all of its
    /// block's.
    fn set(&mut self, head_dim: usize, position: usize, column: usize, value: f32) {
        let at = position * head_dim + column;
        match self {
            Data::F32(data) => data[at] = value,
            Data::F16(data) => data[at] = f16::from_f32(value),
            Data::Q8_0(data) => data[at / 32].scale = f16::from_f32(value).to_le_bytes(),
        }
    }
}

/// A sequence's queries, keys and values.
struct Sequence {
    head_dim: usize,
    queries: Vec<f32>,
    keys: Data,
    values: Data,
}

impl Sequence {
    /// Results for positions `first..end`, as one pass computes them that no later one belongs to.
    fn pass(
        &self,
        isa: Isa,
        (role, in_integers): (RowRole, bool),
        positions: std::ops::Range<usize>,
        tile_rows: usize,
    ) -> Vec<f32> {
        let head_dim = self.head_dim;
        let head = Head {
            queries: rows(&self.queries, head_dim).from(positions.start),
            keys: self.keys.stored(head_dim),
            values: self.values.stored(head_dim),
            n_keys: positions.end,
            causal_start: Some(positions.start),
            role,
            scale: 0.15,
            in_integers,
        };
        let mut out = vec![f32::NAN; positions.len() * head_dim];
        let tiles = Tiles::of_rows(&mut out, head_dim, tile_rows);
        let mut scratch = AttentionScratch::default();
        while let Some(mut tile) = tiles.take() {
            attend(isa, head, &mut tile, &mut scratch);
        }
        out
    }
}

struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 20) as usize % end
    }

    /// Values of which a few are far larger, so that scales differ from block to block.
    fn values(&mut self, n: usize) -> Vec<f32> {
        let value = |random: &mut Self| {
            let value = random.below(4001) as f32 / 1000.0 - 2.0;
            match random.below(500) {
                0 => 30.0 * value,
                _ => value,
            }
        };
        (0..n).map(|_| value(self)).collect()
    }
}

const WAYS: [(RowRole, bool); 3] = [
    (RowRole::Prompt, true),
    (RowRole::Prompt, false),
    (RowRole::Answer, true),
];

fn same_bits(a: &[f32], b: &[f32]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits())
}

#[test]
fn any_cutting_gives_the_same_bits() {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let shapes = [32usize, 64, 96, 128, 40, 320];
    let kinds = [Kind::F32, Kind::F16, Kind::Q8_0];
    for n in 1..=300 {
        // More positions than three blocks of keys have are no other case for wide heads.
        let head_dim = match n > 3 * MAX_BLOCK_KEYS {
            false => shapes[n % shapes.len()],
            true => [32, 40, 64][n % 3],
        };
        let mut kind = kinds[n / shapes.len() % kinds.len()];
        if !head_dim.is_multiple_of(32) {
            kind = Kind::F16;
        }
        let n_values = n * head_dim;
        let queries = random.values(n_values);
        let (keys, values) = (random.values(n_values), random.values(n_values));
        let sequence = Sequence {
            head_dim,
            queries: queries.clone(),
            keys: Data::new(kind, &keys),
            values: Data::new(kind, &values),
        };
        // The same up to a position.
        let n_same = 1 + random.below(n);
        let other = |mine: &[f32], others: Vec<f32>| {
            [&mine[..n_same * head_dim], &others[n_same * head_dim..]].concat()
        };
        let continued = Sequence {
            head_dim,
            queries: other(&queries, random.values(n_values)),
            keys: Data::new(kind, &other(&keys, random.values(n_values))),
            values: Data::new(kind, &other(&values, random.values(n_values))),
        };
        let mut cuts = vec![0];
        let longest = [1, 5, 40, 300][random.below(4)];
        while cuts[cuts.len() - 1] < n {
            cuts.push((cuts[cuts.len() - 1] + 1 + random.below(longest)).min(n));
        }
        // All comparisons with up to two blocks of keys, then one of the three, since these are most of
        // the work.
        let chosen = (n > 2 * MAX_BLOCK_KEYS).then(|| random.below(3));
        let is_chosen = |comparison| chosen.is_none_or(|chosen| chosen == comparison);
        for isa in instruction_sets() {
            // Integers for each length, the others in turn, which takes a third of the time.
            for way in [WAYS[0], WAYS[1 + n / 2 % 2]].into_iter().take(1 + n % 2) {
                let name = format!("{isa} {way:?} {n} x {head_dim} {kind:?}");
                let whole = sequence.pass(isa, way, 0..n, TILE_QUERIES);
                assert!(whole.iter().all(|x| x.is_finite()), "{name}");
                if is_chosen(0) {
                    let pieces: Vec<f32> = cuts
                        .windows(2)
                        .flat_map(|cut| sequence.pass(isa, way, cut[0]..cut[1], TILE_QUERIES))
                        .collect();
                    assert!(same_bits(&whole, &pieces), "{name}: cut at {cuts:?}");
                }
                if is_chosen(1) {
                    let tiles = sequence.pass(isa, way, 0..n, 1 + n / 3);
                    assert!(same_bits(&whole, &tiles), "{name}: in tiles");
                }
                if is_chosen(2) {
                    let continued = continued.pass(isa, way, 0..n, TILE_QUERIES);
                    let n_same = n_same * head_dim;
                    assert!(
                        same_bits(&whole[..n_same], &continued[..n_same]),
                        "{name}: other positions after {n_same}"
                    );
                }
            }
        }
    }
}

#[test]
fn rows_of_answers_are_computed_for_themselves() {
    let mut random = Random(77);
    let (n, head_dim) = (150, 64);
    let mut values = || random.values(n * head_dim);
    let sequence = Sequence {
        head_dim,
        queries: values(),
        keys: Data::new(Kind::F16, &values()),
        values: Data::new(Kind::F16, &values()),
    };
    for isa in instruction_sets() {
        let way = (RowRole::Answer, true);
        let together = sequence.pass(isa, way, 100..150, TILE_QUERIES);
        for (i, row) in together.chunks(head_dim).enumerate() {
            let alone = sequence.pass(isa, way, 100 + i..101 + i, TILE_QUERIES);
            assert!(same_bits(row, &alone), "{isa} {i}");
        }
    }
}

/// Where a value is not finite.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Place {
    Query,
    Key,
    Value,
}

#[test]
fn what_is_not_finite_reaches_all_who_see_it_and_no_one_else() {
    let (n, column) = (100, 5);
    for (head_dim, kind) in [
        (64, Kind::F32),
        (40, Kind::F32),
        (64, Kind::F16),
        (96, Kind::F16),
        (64, Kind::Q8_0),
    ] {
        let clean = || {
            let mut random = Random(5);
            let mut values = || random.values(n * head_dim);
            // Positive in this column, so that an infinite key has a score of its own sign.
            let mut queries = values();
            for query in queries.chunks_mut(head_dim) {
                query[column] = query[column].abs() + 0.1;
            }
            Sequence {
                head_dim,
                queries,
                keys: Data::new(kind, &values()),
                values: Data::new(kind, &values()),
            }
        };
        for (isa, way) in instruction_sets()
            .into_iter()
            .flat_map(|isa| WAYS.map(|way| (isa, way)))
        {
            let wanted = clean().pass(isa, way, 0..n, TILE_QUERIES);
            assert!(wanted.iter().all(|x| x.is_finite()));
            for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                for place in [Place::Query, Place::Key, Place::Value] {
                    for position in [0, 31, 40, 63, 64, 99] {
                        let name =
                            format!("{isa} {way:?} {head_dim} {kind:?} {bad} {place:?} {position}");
                        let mut sequence = clean();
                        match place {
                            Place::Query => {
                                sequence.queries[position * head_dim + column] = bad;
                            }
                            Place::Key => sequence.keys.set(head_dim, position, column, bad),
                            Place::Value => sequence.values.set(head_dim, position, column, bad),
                        }
                        let got = sequence.pass(isa, way, 0..n, TILE_QUERIES);
                        let rows = got.chunks(head_dim).zip(wanted.chunks(head_dim));
                        for (query, (got, wanted)) in rows.enumerate() {
                            let sees = match place {
                                Place::Query => query == position,
                                _ => query >= position,
                            };
                            if !sees {
                                assert!(same_bits(got, wanted), "{name}: query {query}");
                                continue;
                            }
                            // By the definition a score of minus infinity is a weight of zero.
                            let is_hidden = place == Place::Key
                                && bad == f32::NEG_INFINITY
                                && !matches!(kind, Kind::Q8_0)
                                && query > 0
                                && got.iter().all(|x| x.is_finite());
                            let is_lost = match place {
                                Place::Value => got[column].is_finite(),
                                _ => got.iter().any(|x| x.is_finite()),
                            };
                            assert!(!is_lost || is_hidden, "{name}: query {query}: {got:?}");
                        }
                    }
                }
            }
        }
    }
}
