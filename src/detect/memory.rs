//! What baselines are like at rest: one record for each token, of the same length for each of its clients, with what is told of it.
//!
//! ```text
//!  version ─ the token's own ─ how many clients ─ (name, profile) ... ─ what is open ─ what goes on
//! ```
//!
//! Numbers are little-endian, and stand in the order of the fields: a field that is added, removed or moved is another
//! version.
//!
//! Invariant: what was written by this version is read as it was; of all else it is said that it is not.

/// The first byte of a record.
pub const VERSION: u8 = 4;

/// What is written, and read again.
pub trait Kept: Sized {
    fn put(&self, out: &mut Vec<u8>);

    /// Takes it from the beginning of what is left.
    fn take(left: &mut &[u8]) -> Option<Self>;
}

macro_rules! numbers {
    ($($number:ty),*) => {$(
        impl Kept for $number {
            fn put(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.to_le_bytes());
            }

            fn take(left: &mut &[u8]) -> Option<Self> {
                let (bytes, rest) = left.split_first_chunk()?;
                *left = rest;
                Some(Self::from_le_bytes(*bytes))
            }
        }
    )*};
}

numbers!(u8, u16, u32, u64, f32, f64);

impl Kept for bool {
    fn put(&self, out: &mut Vec<u8>) {
        u8::from(*self).put(out);
    }

    fn take(left: &mut &[u8]) -> Option<Self> {
        u8::take(left).map(|byte| byte != 0)
    }
}

impl Kept for String {
    fn put(&self, out: &mut Vec<u8>) {
        let length = u16::try_from(self.len()).expect("names are short");
        length.put(out);
        out.extend_from_slice(self.as_bytes());
    }

    fn take(left: &mut &[u8]) -> Option<Self> {
        let length = u16::take(left)?;
        let (text, rest) = left.split_at_checked(length.into())?;
        *left = rest;
        Self::from_utf8(text.to_owned()).ok()
    }
}

impl<T: Kept> Kept for Option<T> {
    fn put(&self, out: &mut Vec<u8>) {
        self.is_some().put(out);
        self.iter().for_each(|value| value.put(out));
    }

    fn take(left: &mut &[u8]) -> Option<Self> {
        if bool::take(left)? { T::take(left).map(Some) } else { Some(None) }
    }
}

impl<T: Kept> Kept for Box<T> {
    fn put(&self, out: &mut Vec<u8>) {
        T::put(self, out);
    }

    fn take(left: &mut &[u8]) -> Option<Self> {
        T::take(left).map(Self::new)
    }
}

impl<T: Kept, U: Kept> Kept for (T, U) {
    fn put(&self, out: &mut Vec<u8>) {
        self.0.put(out);
        self.1.put(out);
    }

    fn take(left: &mut &[u8]) -> Option<Self> {
        Some((T::take(left)?, U::take(left)?))
    }
}

impl<T: Kept> Kept for Vec<T> {
    fn put(&self, out: &mut Vec<u8>) {
        u32::try_from(self.len()).expect("there are thousands at most").put(out);
        self.iter().for_each(|each| each.put(out));
    }

    fn take(left: &mut &[u8]) -> Option<Self> {
        (0..u32::take(left)?).map(|_| T::take(left)).collect()
    }
}

impl<T: Kept, const N: usize> Kept for [T; N] {
    fn put(&self, out: &mut Vec<u8>) {
        self.iter().for_each(|each| each.put(out));
    }

    fn take(left: &mut &[u8]) -> Option<Self> {
        let all: Option<Vec<T>> = (0..N).map(|_| T::take(left)).collect();
        all?.try_into().ok()
    }
}

/// Field by field, in this order.
macro_rules! kept {
    ($kept:ty { $($field:tt),* }) => {
        impl $crate::detect::memory::Kept for $kept {
            fn put(&self, out: &mut Vec<u8>) {
                $($crate::detect::memory::Kept::put(&self.$field, out);)*
            }

            fn take(left: &mut &[u8]) -> Option<Self> {
                Some(Self { $($field: $crate::detect::memory::Kept::take(left)?),* })
            }
        }
    };
}
pub(super) use kept;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_put_is_taken_and_what_is_too_short_is_nothing() {
        let mut out = Vec::new();
        "name".to_owned().put(&mut out);
        [1.5_f32, -2.0].put(&mut out);
        true.put(&mut out);
        u64::MAX.put(&mut out);
        vec![(Some(7_u8), Box::new("one".to_owned())), (None, Box::default())].put(&mut out);
        let mut left = &out[..];
        assert_eq!(String::take(&mut left).as_deref(), Some("name"));
        assert_eq!(<[f32; 2]>::take(&mut left), Some([1.5, -2.0]));
        assert_eq!((bool::take(&mut left), u64::take(&mut left)), (Some(true), Some(u64::MAX)));
        let pairs = Vec::<(Option<u8>, Box<String>)>::take(&mut left);
        assert_eq!(pairs, Some(vec![(Some(7), Box::new("one".to_owned())), (None, Box::default())]));
        assert!(left.is_empty());
        assert_eq!(u8::take(&mut left), None);
        assert_eq!(String::take(&mut &[9, 0, b'a'][..]), None);
    }
}
