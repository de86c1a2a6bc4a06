//! A token in one of our own environment variables. It cannot change while we run: what is wrong with it stays wrong.

use std::sync::Arc;

use super::{Class, Failure, Issued, Obtaining, Reason, Source, found};
use crate::clock::Clock;
use crate::secret::Reference;

pub struct Environment {
    variable: Reference,
    clock: Arc<dyn Clock>,
}

impl Environment {
    pub fn new(name: String, clock: Arc<dyn Clock>) -> Self {
        Self { variable: Reference::Env(name), clock }
    }

    fn read(&self) -> Result<Issued, Failure> {
        let secret = self.variable.resolve().map_err(|error| Failure::refused(Reason::Secret, error.to_string()))?;
        found(secret, self.clock.now()).map_err(|failure| Failure { class: Class::Refused, ..failure })
    }
}

impl Source for Environment {
    fn obtain(&self) -> Obtaining<'_> {
        Box::pin(std::future::ready(self.read()))
    }

    fn mints(&self) -> bool {
        false
    }

    fn kind(&self) -> &'static str {
        "env"
    }
}
