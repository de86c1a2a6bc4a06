//! What templates are made of: text, and places in it that are filled when it is known what stands there.

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Piece<P> {
    Text(String),
    Place(P),
}

impl<P: Copy> Piece<P> {
    /// The text before a place, and the place, which stands in braces by one of these names. `None` where none has it.
    pub fn pair(before: String, word: &str, names: &[(&str, P)]) -> Option<[Self; 2]> {
        let (_, place) = names.iter().find(|(name, _)| *name == word)?;
        Some([Self::Text(before), Self::Place(*place)])
    }

    pub fn place(&self) -> Option<P> {
        match self {
            Self::Place(place) => Some(*place),
            Self::Text(_) => None,
        }
    }

    /// The text as it is, or what stands in the place.
    pub fn filled<T: for<'t> From<&'t str>>(&self, fill: impl FnOnce(P) -> T) -> T {
        match self {
            Self::Text(text) => T::from(text),
            Self::Place(place) => fill(*place),
        }
    }
}
