//! Messages on their way between two connections, whatever protocol each of these speaks.
//!
//! A head has a dozen fields, and each is asked for by name a few times on its way. In a list of that length this costs less
//! than in a table, and to build the list costs next to nothing.

use std::borrow::Borrow;

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, Version};

/// The fields of a head, in the order in which they came.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Fields(Vec<(HeaderName, HeaderValue)>);

impl Fields {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn with_capacity(fields: usize) -> Self {
        Self(Vec::with_capacity(fields))
    }

    /// Values, each with the name of its field.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What they take as lines of HTTP/1.1.
    pub fn bytes(&self) -> usize {
        self.0.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum()
    }

    pub fn contains(&self, name: impl Borrow<HeaderName>) -> bool {
        self.get(name).is_some()
    }

    /// The first value of a field.
    pub fn get(&self, name: impl Borrow<HeaderName>) -> Option<&HeaderValue> {
        let name = name.borrow();
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value)
    }

    pub fn get_mut(&mut self, name: impl Borrow<HeaderName>) -> Option<&mut HeaderValue> {
        self.get_all_mut(name).next()
    }

    /// The value of a field that has no other.
    pub fn only(&self, name: impl Borrow<HeaderName>) -> Option<&HeaderValue> {
        let mut values = self.get_all(name);
        values.next().filter(|_| values.next().is_none())
    }

    /// Every value of a field.
    pub fn get_all<N: Borrow<HeaderName>>(&self, name: N) -> impl Iterator<Item = &HeaderValue> + use<'_, N> {
        self.0.iter().filter(move |(known, _)| known == name.borrow()).map(|(_, value)| value)
    }

    pub fn get_all_mut<N: Borrow<HeaderName>>(
        &mut self,
        name: N,
    ) -> impl Iterator<Item = &mut HeaderValue> + use<'_, N> {
        self.0.iter_mut().filter(move |(known, _)| known == name.borrow()).map(|(_, value)| value)
    }

    /// Adds a value to those that are there.
    pub fn append(&mut self, name: HeaderName, value: HeaderValue) {
        self.0.push((name, value));
    }

    /// Puts a value in the place of those that are there.
    pub fn insert(&mut self, name: HeaderName, value: HeaderValue) {
        let Some(first) = self.0.iter().position(|(known, _)| *known == name) else {
            return self.append(name, value);
        };
        self.0[first].1 = value;
        if self.0[first + 1..].iter().any(|(known, _)| *known == name) {
            let mut left = first + 1;
            self.0.retain(|(known, _)| {
                let keep = left > 0 || *known != name;
                left = left.saturating_sub(1);
                keep
            });
        }
    }

    /// Takes a field out. Whether it was there.
    pub fn remove(&mut self, name: impl Borrow<HeaderName>) -> bool {
        let name = name.borrow();
        self.contains(name) && self.retain(|known, _| known != name)
    }

    /// Takes out what the predicate does not want. Whether there was anything.
    pub fn retain(&mut self, mut keep: impl FnMut(&HeaderName, &HeaderValue) -> bool) -> bool {
        let before = self.0.len();
        self.0.retain(|(name, value)| keep(name, value));
        self.0.len() < before
    }

    pub fn iter(&self) -> impl Iterator<Item = (&HeaderName, &HeaderValue)> {
        self.0.iter().map(|(name, value)| (name, value))
    }

    pub fn names(&self) -> impl Iterator<Item = &HeaderName> {
        self.0.iter().map(|(name, _)| name)
    }

    pub fn values(&self) -> impl Iterator<Item = &HeaderValue> {
        self.0.iter().map(|(_, value)| value)
    }

    pub fn values_mut(&mut self) -> impl Iterator<Item = &mut HeaderValue> {
        self.0.iter_mut().map(|(_, value)| value)
    }
}

#[cfg(test)]
impl Fields {
    /// These lines.
    pub fn of(lines: &[(&str, &str)]) -> Self {
        let line = |(name, value): &(&str, &str)| {
            (HeaderName::try_from(*name).expect("a name"), HeaderValue::from_bytes(value.as_bytes()).expect("a value"))
        };
        Self(lines.iter().map(line).collect())
    }

    /// The first value of a field, as text; nothing where there is none.
    pub fn said(&self, name: &str) -> &str {
        let value = self.iter().find(|(known, _)| *known == name).map(|(_, value)| value);
        value.map_or("", |value| value.to_str().expect("text"))
    }

    /// All lines, each as text.
    pub fn lines(&self) -> Vec<String> {
        self.iter().map(|(name, value)| format!("{name}: {}", value.to_str().expect("text"))).collect()
    }
}

impl From<HeaderMap> for Fields {
    fn from(map: HeaderMap) -> Self {
        let mut fields = Self::with_capacity(map.len());
        let mut name = None;
        for (next, value) in map {
            // The values of one field come one after the other, the first of them with its name.
            name = next.or(name);
            fields.0.extend(name.clone().map(|name| (name, value)));
        }
        fields
    }
}

impl From<Fields> for HeaderMap {
    fn from(fields: Fields) -> Self {
        let mut map = Self::with_capacity(fields.len());
        for (name, value) in fields.0 {
            map.append(name, value);
        }
        map
    }
}

impl From<&Fields> for HeaderMap {
    fn from(fields: &Fields) -> Self {
        let mut map = Self::with_capacity(fields.len());
        for (name, value) in fields.iter() {
            map.append(name, value.clone());
        }
        map
    }
}

/// The head of a request to an upstream.
#[derive(Debug)]
pub struct Request {
    pub method: Method,
    /// In origin form; HTTP/2 wants the rest of it too.
    pub uri: Uri,
    pub fields: Fields,
}

/// An answer.
#[derive(Debug)]
pub struct Response<B> {
    pub status: StatusCode,
    pub version: Version,
    pub fields: Fields,
    pub body: B,
}

impl<B> Response<B> {
    pub fn new(status: StatusCode, body: B) -> Self {
        Self { status, version: Version::HTTP_11, fields: Fields::new(), body }
    }

    pub fn map<C>(self, change: impl FnOnce(B) -> C) -> Response<C> {
        let Self { status, version, fields, body } = self;
        Response { status, version, fields, body: change(body) }
    }
}

/// Words of its own that a peer of HTTP/2 said beside the fields end here.
impl<B> From<http::Response<B>> for Response<B> {
    fn from(response: http::Response<B>) -> Self {
        let (parts, body) = response.into_parts();
        Self { status: parts.status, version: parts.version, fields: parts.headers.into(), body }
    }
}

impl<B> From<Response<B>> for http::Response<B> {
    fn from(response: Response<B>) -> Self {
        let mut converted = Self::new(response.body);
        *converted.status_mut() = response.status;
        *converted.headers_mut() = response.fields.into();
        converted
    }
}

#[cfg(test)]
mod tests {
    use http::header::{ACCEPT, HOST, TE};

    use super::*;

    #[test]
    fn an_inserted_value_is_the_only_one_and_stands_where_the_first_stood() {
        let several = [("accept", "a"), ("host", "b"), ("accept", "c"), ("cookie", "d"), ("accept", "e")];
        let mut some = Fields::of(&several);
        some.insert(ACCEPT, HeaderValue::from_static("x"));
        assert_eq!(some.lines(), ["accept: x", "host: b", "cookie: d"]);
        some.insert(TE, HeaderValue::from_static("y"));
        assert_eq!(some.lines(), ["accept: x", "host: b", "cookie: d", "te: y"]);
        assert!(some.remove(HOST) && !some.remove(HOST));
        assert_eq!((some.len(), some.get(HOST), some.contains(TE)), (3, None, true));
    }

    #[test]
    fn nothing_is_lost_on_the_way_to_a_table_and_back() {
        let several = [("accept", "a"), ("accept", "c"), ("host", "b"), ("cookie", "d"), ("cookie", "e")];
        let some = Fields::of(&several);
        let map = HeaderMap::from(some.clone());
        assert_eq!(map.get_all(ACCEPT).iter().count(), 2);
        assert_eq!(Fields::from(map), some);
    }
}
