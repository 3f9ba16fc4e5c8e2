//! Encoded pictures by the hash of their pixels.

use std::collections::VecDeque;
use std::sync::Arc;

use sha2::{Digest, Sha256};

/// Pictures that are kept; one of the released model's takes 1 MiB.
const MAX_PICTURES: usize = 16;

/// SHA-256 of the pixels that the vision tower is given: two pictures with the same one are the
/// same to the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PictureKey(pub [u8; 32]);

impl PictureKey {
    /// The key of `pixels`.
    pub fn of(pixels: &[f32]) -> Self {
        PictureKey(Sha256::digest(bytemuck::cast_slice::<f32, u8>(pixels)).into())
    }

    /// The key of the same picture for one group of askers among several.
    #[cfg(feature = "serve")]
    pub(crate) fn of_group(self, group: usize) -> Self {
        let mut hash = Sha256::new();
        hash.update(self.0);
        hash.update((group as u64).to_le_bytes());
        PictureKey(hash.finalize().into())
    }
}

/// The last pictures that were encoded.
#[derive(Debug, Default)]
pub struct PictureCache {
    /// The one used last at the end.
    entries: VecDeque<(PictureKey, Arc<[f32]>)>,
}

impl PictureCache {
    /// The rows of a picture, if they are there.
    pub fn get(&mut self, key: PictureKey) -> Option<Arc<[f32]>> {
        let index = self.entries.iter().position(|(other, _)| *other == key)?;
        let entry = self.entries.remove(index)?;
        let rows = entry.1.clone();
        self.entries.push_back(entry);
        Some(rows)
    }

    /// Whether the rows of a picture are there.
    pub fn holds(&self, key: PictureKey) -> bool {
        self.entries.iter().any(|(other, _)| *other == key)
    }

    /// Keeps the rows of a picture, in place of the one that was not asked for the longest.
    pub fn put(&mut self, key: PictureKey, rows: Arc<[f32]>) {
        if self.get(key).is_some() {
            return;
        }
        if self.entries.len() == MAX_PICTURES {
            self.entries.pop_front();
        }
        self.entries.push_back((key, rows));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_pictures_used_last() {
        let key = |i: usize| PictureKey::of(&[i as f32]);
        let mut cache = PictureCache::default();
        for i in 0..MAX_PICTURES {
            cache.put(key(i), Arc::new([i as f32]));
        }
        assert_eq!(cache.get(key(0)).as_deref(), Some(&[0.0][..]));
        cache.put(key(MAX_PICTURES), Arc::new([]));
        cache.put(key(MAX_PICTURES), Arc::new([]));
        assert!(cache.get(key(0)).is_some());
        assert!(cache.get(key(1)).is_none());
        assert!(cache.get(key(2)).is_some());
    }

    #[test]
    fn a_picture_is_there_from_when_it_is_put_there() {
        let mut cache = PictureCache::default();
        let (one, other) = (PictureKey::of(&[1.0]), PictureKey::of(&[2.0]));
        assert!(!cache.holds(one));
        cache.put(one, Arc::new([1.0]));
        assert!(cache.holds(one) && !cache.holds(other));
        // The first rows stay.
        cache.put(one, Arc::new([3.0]));
        assert_eq!(cache.get(one).as_deref(), Some(&[1.0][..]));
        assert!(cache.get(other).is_none());
    }

    #[cfg(feature = "serve")]
    #[test]
    fn groups_do_not_share_pictures() {
        let key = PictureKey::of(&[1.0]);
        assert_eq!(key.of_group(1), key.of_group(1));
        assert_ne!(key.of_group(1), key.of_group(2));
        assert_ne!(key.of_group(0), key);
        assert_ne!(key.of_group(1), PictureKey::of(&[2.0]).of_group(1));
    }
}
