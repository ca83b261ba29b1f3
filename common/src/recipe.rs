//! How a resource is put together from objects that were sent before it: a segment of a low-latency playlist, whose parts
//! have left one by one. An object of [`CONTENT_TYPE`] under the resource's URL stands for it; what is put together must have
//! the length and the digest that are told here, in an object that is itself signed for by its FDT Instance.

use crate::limits;
use crate::object::{Digest, Object, ObjectKind, ObjectMeta};
use serde::{Deserialize, Serialize};

/// Content-Type of a recipe.
pub const CONTENT_TYPE: &str = "application/vnd.mahp.recipe+json";
/// Longest recipe: refused above this.
const BYTES_MAX: usize = 256 << 10;
/// Pieces of a resource: refused above this.
const PIECES_MAX: usize = 512;

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recipe {
    /// Bytes of the resource.
    pub length: u64,
    /// Their BLAKE3-256, hexadecimal.
    pub digest: String,
    /// Content-Type of the resource.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_type: Option<String>,
    /// What it consists of, in order.
    pub pieces: Vec<Piece>,
}

/// One object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Piece {
    /// Absolute URL.
    pub url: String,
    /// First and last byte, when it is a part of the file there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub range: Option<(u64, u64)>,
}

impl Recipe {
    /// The object that stands for `whole`, which consists of `pieces`; `None`: it does not.
    pub fn of(whole: &Object, pieces: &[Object]) -> Option<Object> {
        let mut rest = &whole.data[..];
        for piece in pieces {
            rest = rest.strip_prefix(&piece.data[..])?;
        }
        if !rest.is_empty() || pieces.is_empty() || pieces.len() > PIECES_MAX {
            return None;
        }
        let recipe = Recipe {
            length: whole.data.len() as u64,
            digest: Digest::of(&whole.data).to_hex(),
            content_type: whole.meta.content_type.clone(),
            pieces: pieces
                .iter()
                .map(|p| Piece { url: p.meta.url.clone(), range: p.meta.range.map(|r| (r.first, r.last)) })
                .collect(),
        };
        let text = serde_json::to_vec(&recipe).ok().filter(|t| t.len() <= BYTES_MAX)?;
        let meta = ObjectMeta {
            kind: ObjectKind::Other,
            content_type: Some(CONTENT_TYPE.into()),
            ..whole.meta.clone()
        };
        Some(Object::new(meta, text.into()))
    }

    /// Whether an object is a recipe.
    pub fn is(meta: &ObjectMeta) -> bool {
        meta.content_type.as_deref() == Some(CONTENT_TYPE)
    }

    /// Reads a recipe. `None`: it is none, or cannot be.
    pub fn read(bytes: &[u8]) -> Option<Recipe> {
        if bytes.len() > BYTES_MAX {
            return None;
        }
        let recipe: Recipe = serde_json::from_slice(bytes).ok()?;
        let sane = (1..=PIECES_MAX).contains(&recipe.pieces.len())
            && recipe.length <= limits::OBJECT_BYTES
            && Digest::from_hex(&recipe.digest).is_some()
            && recipe.pieces.iter().all(|p| p.url.len() <= limits::URL_BYTES);
        sane.then_some(recipe)
    }

    /// Description of the resource. `meta`: that of the recipe.
    pub fn describe(&self, meta: &ObjectMeta) -> ObjectMeta {
        ObjectMeta {
            kind: ObjectKind::Media,
            content_type: self.content_type.clone(),
            length: self.length,
            digest: Digest::from_hex(&self.digest),
            ..meta.clone()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::ByteRange;

    fn object(url: &str, range: Option<(u64, u64)>, data: &'static [u8]) -> Object {
        let meta = ObjectMeta {
            url: url.into(),
            range: range.map(|(first, last)| ByteRange { first, last, complete: None }),
            content_type: Some("video/mp4".into()),
            ..ObjectMeta::default()
        };
        Object::new(meta, data.into())
    }

    #[test]
    fn a_segment_is_its_parts() {
        let whole = object("http://o/s1.m4s", None, b"abcdef");
        let parts =
            [object("http://o/s1.0.m4s", None, b"abc"), object("http://o/s1.m4s", Some((3, 5)), b"def")];
        let made = Recipe::of(&whole, &parts).expect("its parts");
        assert!(Recipe::is(&made.meta) && !Recipe::is(&whole.meta));
        let recipe = Recipe::read(&made.data).expect("readable");
        let meta = recipe.describe(&made.meta);
        assert_eq!((meta.length, meta.digest), (6, Some(Digest::of(b"abcdef"))));
        assert_eq!((meta.url.as_str(), meta.content_type.as_deref()), ("http://o/s1.m4s", Some("video/mp4")));
        assert_eq!(recipe.pieces[1].range, Some((3, 5)));
    }

    #[test]
    fn what_is_not_its_parts_has_no_recipe() {
        let whole = object("http://o/s1.m4s", None, b"abcdef");
        let one = object("http://o/1", None, b"abc");
        for parts in [vec![], vec![one.clone()], vec![one.clone(), one.clone()], vec![one; PIECES_MAX + 1]] {
            assert_eq!(Recipe::of(&whole, &parts), None);
        }
    }

    #[test]
    fn recipes_that_cannot_be_are_refused() {
        let digest = Digest::of(b"").to_hex();
        let with = |length: u64, digest: &str, pieces: usize, url: usize| {
            let piece = Piece { url: "x".repeat(url), range: None };
            let recipe =
                Recipe { length, digest: digest.into(), content_type: None, pieces: vec![piece; pieces] };
            Recipe::read(&serde_json::to_vec(&recipe).expect("JSON"))
        };
        assert!(with(1, &digest, 1, 9).is_some());
        assert!(with(limits::OBJECT_BYTES + 1, &digest, 1, 9).is_none());
        assert!(with(1, "00", 1, 9).is_none());
        assert!(with(1, &digest, 0, 9).is_none());
        assert!(with(1, &digest, PIECES_MAX + 1, 9).is_none());
        assert!(with(1, &digest, 1, limits::URL_BYTES + 1).is_none());
        assert!(with(1, &digest, 100, 8000).is_none(), "too long a text");
        assert!(Recipe::read(b"{}").is_none() && Recipe::read(b"\xff").is_none());
    }
}
